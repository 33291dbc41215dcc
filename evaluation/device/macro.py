"""A macro: the junctions of one heavy-metal line with their circuit, as the kernel takes it.

The line is a ladder: from the driven end half a pitch to the first junction, a pitch between junctions, half a pitch from the last one to the far end,
which is ground. The driven end has the write transistor. While the line is driven and not released yet, access transistors are off; from the release on
every bit line drives its junction through its access transistor. A layer feels the mean of the line's currents before and behind its
junction. A bit line at -V writes the + side (parallel): the reference layer is on top, so that electrons go from it to the free layer.

The parallel state has the resistance of the technology; the TMR falls with voltage as 1 / (1 + (V / V_half)^2). The torque of a junction is
P / (1 + P^2 cos) x its current, so that at small voltages it depends on the voltage alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from sasimc.evaluation.device.constants import GAMMA
from sasimc.evaluation.device.kernel import FIELDS
from sasimc.evaluation.device.llg import Motion, integrate
from sasimc.evaluation.device.motion import Phase
from sasimc.evaluation.device.stack import Stack
from sasimc.evaluation.device.theory import equilibrium_spread

__all__ = ["RELAX_S", "Macro", "Method", "Write", "deviating", "layer_row", "thermal_start"]

Method = Literal["sas", "stt", "sot"]
Floats = npt.NDArray[np.float64]

RELAX_S = 2e-9
"""How long the layers are left to themselves after the pulse, before they are read: seconds."""


@dataclass(frozen=True)
class Write:
    """A write in SI units. ``junctions`` share one heavy-metal line. Fields as in `sasimc.evaluation.device.stack.Pulse`."""

    method: Method
    junctions: int
    sot_current: float = 0.0
    sot_time: float = 0.0
    release_time: float = 0.0
    stt_voltage: float = 0.0
    stt_current: float = 0.0
    stt_time: float = 0.0
    fall_time: float = 0.0
    assist_field: float = 0.0

    @property
    def latency(self) -> float:
        """From the beginning of the first current to the end of the last, seconds."""
        return self.sot_time + max(self.release_time, self.stt_time + self.fall_time)

    def scaled(self, **factors: float) -> Write:
        """A copy with fields multiplied."""
        return replace(self, **{name: getattr(self, name) * f for name, f in factors.items()})


def thermal_start(stack: Stack, state: Floats, rng: np.random.Generator) -> Floats:
    """Unit vectors [..., 3] on the sides ``state`` [...] (+1 or -1) of the easy axis, spread as thermal equilibrium has them."""
    low, high = equilibrium_spread(stack)
    c = stack.stiffness
    others = sorted((i for i in range(3) if i != stack.easy), key=lambda i: -c[i])
    m = np.empty((*np.shape(state), 3))
    m[..., others[0]] = rng.normal(0, math.sqrt(low), np.shape(state))
    m[..., others[1]] = rng.normal(0, math.sqrt(high), np.shape(state))
    aside = np.minimum(0.9, (m[..., others] ** 2).sum(axis=-1))
    m[..., stack.easy] = state * np.sqrt(1 - aside)
    return m / np.linalg.norm(m, axis=-1, keepdims=True)


def layer_row(stack: Stack, low_resistance: float, tmr: float, access: float, dt: float) -> Floats:
    """The kernel's parameters [FIELDS] of one layer. ``low_resistance``: parallel; ``access``: of its transistor, ohm."""
    p = stack.polarisation.si
    one = dict(zip(("kx", "ky", "kz"), stack.stiffness, strict=True)) | {
        "spread": math.sqrt(stack.noise / dt),
        "sot": stack.sot_torque(1.0),
        "stt": stack.stt_torque(1.0, 0.0),
        "p2": p * p,
        "g_p": 1 / low_resistance,
        "tmr": tmr,
        "v2": 1 / stack.tmr_half_voltage.si**2,
        "access": access,
    }
    return np.array([one[name] for name in FIELDS])


def deviating(
    stack: Stack, resistances: tuple[float, float], deviation: Mapping[str, float]
) -> tuple[Stack, tuple[float, float], float]:
    """(stack, its two resistances, access resistance) of a cell that deviates: by name of :class:`~sasimc.evaluation.device.stack.Variation`, the
    relative deviation, for ``threshold`` volts."""
    d = dict.fromkeys(("anisotropy", "thickness", "resistance_area", "diameter", "tmr", "threshold"), 0.0) | dict(deviation)
    wide, k = 1 + d["diameter"], 1 + d["anisotropy"]
    cell = stack.scaled(
        {"interfacial_anisotropy": k, "anisotropy_constant": k, "thickness": 1 + d["thickness"], "length": wide, "width": wide}
    )
    low, high = resistances
    tmr = (high / low - 1) * (1 + d["tmr"])
    low *= (1 + d["resistance_area"]) / wide**2
    access = stack.write.access_resistance.si / max(0.05, 1 - d["threshold"] / stack.variation.overdrive.si)
    return cell, (low, low * (1 + tmr)), access


@dataclass(frozen=True)
class Macro:
    """A write of one stack, ready to run. ``heat``: the temperature of the thermal field over the stack's own (1; more makes rare errors frequent)."""

    stack: Stack
    write: Write
    resistances: tuple[float, float]
    heat: float = 1.0
    dt: float = 1e-12

    def phases(self) -> list[Phase]:
        """Drive, release (with the bit lines, without them), STT alone, its fall, rest."""
        w, circuit = self.write, self.stack.write
        both = circuit.line_ground == "both" and w.method == "sas"
        level = w.stt_voltage or w.stt_current
        ramp = min(w.release_time, w.stt_time) if level else w.release_time
        left = 1 - ramp / w.release_time if w.release_time else 0.0
        ground = 1 / max(circuit.driver_resistance.si, 1e-3) if both else 0.0
        # a driven end that is never cut off is a voltage behind its transistor, else a current
        full = w.sot_current * (1 + ground * sum(self.ladder())) if both else w.sot_current
        out = [
            Phase(w.sot_time, (full, full), ground=ground, on=False),
            Phase(ramp, (full, full * left), (level, level), ground, level > 0),
            Phase(max(0.0, w.release_time - ramp), (full * left, 0.0), ground=ground, on=False),
            Phase(max(0.0, w.stt_time - ramp), (0.0, 0.0), (level, level), ground, level > 0),
            Phase(w.fall_time if level else 0.0, (0.0, 0.0), (level, 0.0), ground, level > 0),
            Phase(RELAX_S, ground=ground, on=False),
        ]
        return out

    def ladder(self) -> list[float]:
        """Resistances along the line, ohm; next to none where the cell has no heavy-metal line (STT alone)."""
        if self.write.method == "stt":
            return [1e-3] * (self.write.junctions + 1)
        return self.stack.heavy_metal.ladder(self.write.junctions)

    def layers(self, n: int) -> Floats:
        """[n, J, FIELDS] of macros without variation."""
        low, high = self.resistances
        row = layer_row(self.stack, low, high / low - 1, self.stack.write.access_resistance.si, self.dt)
        return np.tile(row, (n, self.write.junctions, 1))

    def common(self) -> tuple[float, ...]:
        """What all layers share, as the kernel takes it."""
        s, w = self.stack, self.write
        external = [0.0, 0.0, 0.0]
        external[2 - s.easy] = w.assist_field
        alpha = s.damping.si
        return (
            *external, alpha, GAMMA / (1 + alpha**2), s.field_like_ratio.si, float(s.easy), float(not w.stt_current),
            s.write.driver_resistance.si if w.method != "stt" else 0.0, float(w.method != "stt"),
        )  # fmt: skip

    def sign(self, side: Floats) -> Floats:
        """[N]: sign of the line's current. SOT alone writes by it: pulled to +y, m is turned by a field along x towards +z, by one along z towards -x."""
        return (side[:, 0] if self.stack.easy == 2 else -side[:, 0]) if self.write.method == "sot" else np.ones(len(side))

    def run(
        self, start: Floats, side: Floats, *, seed: int, threads: int = 2, record: int = 0, layers: Floats | None = None,
        phases: list[Phase] | None = None,
    ) -> Motion:  # fmt: skip
        """Write ``side`` [N, J] over ``start`` [N, J, 3]. ``layers``: of macros that differ; ``phases``: a part of the write instead of the whole."""
        rows = self.layers(len(side)) if layers is None else layers.copy()
        rows[..., FIELDS.index("spread")] *= math.sqrt(self.heat)
        line = 1 / np.array(self.ladder())
        return integrate(
            phases or self.phases(), start, side, self.sign(side), rows, line, self.common(), dt=self.dt, seed=seed, threads=threads, record=record,
        )  # fmt: skip
