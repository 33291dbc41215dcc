"""Reading bits: resistance loop, margin under variation, read errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sasimc.evaluation.device.junction import junction_current, resistance, tmr_at
from sasimc.evaluation.device.llg import simulate
from sasimc.evaluation.device.motion import Ensemble, Segment
from sasimc.evaluation.device.stack import Stack

__all__ = ["Loop", "ReadMargin", "read_current", "read_margin", "reference_current", "resistance_loop"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Loop:
    """Resistance, ohm, against the field along the easy axis, tesla, swept up and then down; ``coercivity``: half the width, tesla."""

    field: Floats
    up: Floats
    down: Floats

    @property
    def coercivity(self) -> float:
        """Half the distance between the two reversals, tesla."""
        middle = (self.up.max() + self.up.min()) / 2
        rising = self.field[int(np.argmax(self.up < middle))]
        falling = self.field[len(self.field) - 1 - int(np.argmax(self.down[::-1] > middle))]
        return float(rising - falling) / 2


def resistance_loop(stack: Stack, resistances: tuple[float, float], *, points: int = 81, misalignment: float = 1.0) -> Loop:
    """The loop of figure 8b, quasi-static and without temperature: at every field the layer comes to rest before it is read.

    ``misalignment``, degrees: angle of the field to the easy axis (no field is exactly aligned; with none the layer could not leave its
    unstable state). Parallel (low resistance) is the side of positive fields.
    """
    field = np.linspace(-1.6, 1.6, points) * stack.easy_field
    angle = math.radians(misalignment)
    # rest does not depend on damping; strong damping reaches it soon
    calm = replace(stack.model(), noise=0.0, damping=0.5)
    m = np.zeros((1, 3))
    m[0, stack.easy] = -1.0
    values: list[float] = []
    for b in np.concatenate([field, field[::-1]]):
        external = [0.0, 0.0, 0.0]
        external[stack.easy], external[1] = b * math.cos(angle), b * math.sin(angle)
        model = replace(calm, external=(external[0], external[1], external[2]))
        m = simulate(model, [Segment(3e-9)], Ensemble(m, 1.0), dt=2e-12, threads=1).final
        values.append(float(resistance(m[:, stack.easy], resistances)[0]))
    return Loop(field, np.array(values[:points]), np.array(values[points:])[::-1])


@dataclass(frozen=True)
class ReadMargin:
    """Sensing of varying junctions against one reference current. Currents in ampere.

    ``margin``: the mean distance of the two currents from the reference; ``errors`` of ``samples`` bits were read wrong (Monte Carlo);
    ``error_rate``: the same by integration over the distributions, down to rates that no sampling reaches.
    """

    current_low: float
    current_high: float
    reference: float
    margin: float
    samples: int
    errors: int
    error_rate: float
    low: Floats
    high: Floats


def read_current(stack: Stack, low: npt.ArrayLike, tmr: npt.ArrayLike, access: npt.ArrayLike, along: float) -> Floats:
    """Current, A, of cells in the state ``along`` (1 parallel, -1 antiparallel) at the read voltage; ``tmr``: at no voltage."""
    low = np.asarray(low)
    current, _ = junction_current(stack, (low, low * (1 + np.asarray(tmr))), access, stack.read.voltage.si, along)  # type: ignore[arg-type]
    return current


def reference_current(stack: Stack, resistances: tuple[float, float]) -> float:
    """The mean of the two nominal currents, A."""
    low, tmr, access = resistances[0], resistances[1] / resistances[0] - 1, stack.read.access_resistance.si
    return float(read_current(stack, low, tmr, access, 1.0) + read_current(stack, low, tmr, access, -1.0)) / 2


def read_margin(stack: Stack, resistances: tuple[float, float], *, samples: int = 100_000, seed: int = 0) -> ReadMargin:
    """Read ``samples`` bits of different cells, half of them in each state.

    Resistance of the barrier (with area) and TMR vary by the stack's ``variation``, log-normal and normal; the current at the read voltage through
    junction and access transistor is compared with the mean of the two nominal currents, with an offset: amplifier, reference and noise together.
    """
    r_p, r_ap = resistances
    tmr, v, access, d = (r_ap - r_p) / r_p, stack.read.voltage.si, stack.read.access_resistance.si, stack.variation
    s_r, s_tmr = math.hypot(d.resistance_area.si, 2 * d.diameter.si), d.tmr.si * tmr
    i_p, i_ap = (float(read_current(stack, r_p, tmr, access, a)) for a in (1.0, -1.0))
    reference = (i_p + i_ap) / 2
    s_off = math.sqrt(d.sense_offset.si**2 + (d.reference.si * reference) ** 2 + stack.read.sense_noise.si**2)

    rng = np.random.default_rng([seed, 11])
    half = max(1, samples // 2)
    r_low = r_p * np.exp(rng.normal(0, s_r, 2 * half))
    low = read_current(stack, r_low[:half], tmr, access, 1.0)
    high = read_current(stack, r_low[half:], tmr + s_tmr * rng.normal(0, 1, half), access, -1.0)
    offset = rng.normal(0, 1, 2 * half) * s_off
    errors = int((low < reference + offset[:half]).sum() + (high > reference + offset[half:]).sum())

    # the same by quadrature: for given offset and TMR an error is a tail of the normal distribution of ln R
    x, w = np.polynomial.hermite_e.hermegauss(80)
    w = w / w.sum()
    decision = np.maximum(v / np.maximum(reference + s_off * x, 1e-12) - access, 1e-9)  # the resistance taken for the border
    spread = math.sqrt(2) * max(s_r, 1e-9)
    wrong_p = 0.5 * _erfc(np.log(decision / r_p) / spread)
    at_border = tmr_at(stack, resistances, v * decision / (decision + access)) / tmr  # what the voltage leaves of the TMR there
    ap = r_p * (1 + at_border[:, None] * np.maximum(tmr + s_tmr * x, -0.999)[None, :])
    wrong_ap = 0.5 * _erfc(np.log(ap / decision[:, None]) / spread)
    rate = 0.5 * float(w @ wrong_p) + 0.5 * float(w @ wrong_ap @ w)
    return ReadMargin(i_p, i_ap, reference, (i_p - i_ap) / 2, 2 * half, errors, rate, low, high)


def _erfc(x: Floats) -> Floats:
    from scipy.special import erfc

    return np.asarray(erfc(x))
