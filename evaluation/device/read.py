"""Reading bits: resistance against angle and field, margin under variation, read errors, read disturb."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sasimc.evaluation.device.llg import simulate
from sasimc.evaluation.device.motion import Ensemble, Segment
from sasimc.evaluation.device.stack import ReadCircuit, Stack
from sasimc.evaluation.device.theory import critical_stt_torque

__all__ = ["Loop", "ReadMargin", "read_disturb", "read_margin", "resistance", "resistance_loop"]

Floats = npt.NDArray[np.float64]


def resistance(along: Floats, resistances: tuple[float, float]) -> Floats:
    """Resistance, ohm, of a junction whose free layer has the component ``along`` on the fixed layer's axis: the conductance is linear in
    the cosine (Slonczewski, Phys. Rev. B 39, 6995, 1989)."""
    g_p, g_ap = 1 / resistances[0], 1 / resistances[1]
    return 1 / ((g_p + g_ap) / 2 + (g_p - g_ap) / 2 * along)


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
    calm = replace(stack.model(resistances), noise=0.0, damping=0.5)
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


def _erfc(x: Floats) -> Floats:
    from scipy.special import erfc

    return np.asarray(erfc(x))


def read_margin(circuit: ReadCircuit, resistances: tuple[float, float], *, samples: int = 100_000, seed: int = 0) -> ReadMargin:
    """Read ``samples`` bits, half of them in each state.

    The parallel resistance is log-normal, the TMR normal, independent of it; the current at the read voltage through junction and access
    transistor is compared with the mean of the two nominal currents, with a normal offset.
    """
    r_p, r_ap = resistances
    tmr = (r_ap - r_p) / r_p
    v, access = circuit.voltage.si, circuit.access_resistance.si
    s_r, s_tmr, s_off = circuit.resistance_spread.si, circuit.tmr_spread.si * tmr, circuit.sense_offset.si
    i_p, i_ap = v / (r_p + access), v / (r_ap + access)
    reference = (i_p + i_ap) / 2

    rng = np.random.default_rng([seed, 11])
    half = max(1, samples // 2)
    r_low = r_p * np.exp(rng.normal(0, s_r, 2 * half))
    tmrs = tmr + rng.normal(0, s_tmr, half) if s_tmr else np.full(half, tmr)
    low, high = v / (r_low[:half] + access), v / (r_low[half:] * (1 + tmrs) + access)
    offset = rng.normal(0, 1, 2 * half) * s_off
    errors = int((low < reference + offset[:half]).sum() + (high > reference + offset[half:]).sum())

    # the same by quadrature: for given offset and TMR an error is a tail of the normal distribution of ln R
    x, w = np.polynomial.hermite_e.hermegauss(80)
    w = w / w.sum()
    decision = np.maximum(v / np.maximum(reference + s_off * x, 1e-12) - access, 1e-9)  # the resistance taken for the border
    spread = math.sqrt(2) * max(s_r, 1e-9)
    wrong_p = 0.5 * _erfc(np.log(decision / r_p) / spread)
    ap = r_p * (1 + np.maximum(tmr + s_tmr * x, -0.999))
    wrong_ap = 0.5 * _erfc(np.log(ap[None, :] / decision[:, None]) / spread)
    rate = 0.5 * float(w @ wrong_p) + 0.5 * float(w @ wrong_ap @ w)
    return ReadMargin(i_p, i_ap, reference, (i_p - i_ap) / 2, 2 * half, errors, rate, low, high)


def read_disturb(stack: Stack, resistances: tuple[float, float]) -> float:
    """Probability that one read reverses a bit: the read current lowers the barrier in proportion to the critical current,
    1 - exp(-t / t0 exp(-Delta (1 - I / Ic)))."""
    current = stack.read.voltage.si / (resistances[0] + stack.read.access_resistance.si)
    left = max(0.0, 1 - current / stack.stt_current(critical_stt_torque(stack)))
    return -math.expm1(-stack.read.time.si / stack.attempt_time.si * math.exp(-stack.thermal_stability * left))
