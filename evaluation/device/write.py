"""Writing bits: pulses of the three methods, error rate, energy and latency, sweeps.

- ``sas``: one SOT current through the heavy-metal line suspends the free layers of all its junctions across the easy axis; as it is
  released, a small STT current in every bit line decides each bit (paper, section III-A).
- ``stt``: an STT current alone.
- ``sot``: an SOT current alone, of the sign that the bit asks for, in a constant field that breaks the symmetry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from sasimc.evaluation.device.llg import Result, simulate
from sasimc.evaluation.device.motion import Ensemble, Segment
from sasimc.evaluation.device.stack import Stack
from sasimc.evaluation.device.theory import equilibrium_spread
from sasimc.isa.errors import SasError

__all__ = ["METHODS", "Method", "Outcome", "Write", "error_bound", "error_rates", "run_write", "thermal_start", "write_of"]

Method = Literal["sas", "stt", "sot"]
METHODS: tuple[Method, ...] = get_args(Method)
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
    stt_current: float = 0.0
    stt_time: float = 0.0
    assist_field: float = 0.0

    @property
    def latency(self) -> float:
        """From the beginning of the first current to the end of the last, seconds."""
        return self.sot_time + max(self.release_time, self.stt_time)


@dataclass(frozen=True)
class Outcome:
    """What an ensemble of writes did. ``changed``: bits whose old value was the other one; ``settled``: seconds after which each bit stays
    more than half on its side (inf: never); energies in joule per bit, mean."""

    write: Write
    bits: int
    errors: int
    changed: npt.NDArray[np.bool_]
    settled: Floats
    sot_energy: float
    stt_energy: float
    result: Result

    @property
    def error_rate(self) -> float:
        """Share of the bits that ended on the wrong side."""
        return self.errors / self.bits

    @property
    def decided(self) -> Floats:
        """The times at which the bits that had to change, and did, were decided, seconds."""
        return self.settled[self.changed & np.isfinite(self.settled)]

    @property
    def energy(self) -> float:
        """Joule per bit."""
        return self.sot_energy + self.stt_energy


def write_of(stack: Stack, method: str) -> Write:
    """The stack's own pulse for a method.

    Raises:
        SasError: no such method.
    """
    if method not in METHODS:
        raise SasError(f"no way of writing is called {method!r}", hint=f"one of {', '.join(METHODS)}")
    pulse = getattr(stack, method)
    values = {name: quantity.si for name, quantity in pulse.quantities().items()}
    junctions = round(stack.heavy_metal.junctions.si) if method == "sas" else 1
    return Write(method=method, junctions=junctions, **values)


def error_bound(errors: int, writes: int, confidence: float = 0.95) -> float:
    """Upper limit of an error rate after so many errors in so many writes (Clopper and Pearson, one-sided)."""
    from scipy.special import betaincinv

    return 1.0 if errors >= writes else float(betaincinv(errors + 1, writes - errors, confidence))


def thermal_start(stack: Stack, state: Floats, rng: np.random.Generator) -> Floats:
    """Unit vectors [N, 3] on the sides ``state`` [N] (+1 or -1) of the easy axis, spread as thermal equilibrium has them."""
    low, high = equilibrium_spread(stack)
    c = stack.stiffness
    others = sorted((i for i in range(3) if i != stack.easy), key=lambda i: -c[i])
    m = np.empty((len(state), 3))
    m[:, others[0]] = rng.normal(0, math.sqrt(low), len(state))
    m[:, others[1]] = rng.normal(0, math.sqrt(high), len(state))
    aside = np.minimum(0.9, (m[:, others] ** 2).sum(axis=1))
    m[:, stack.easy] = state * np.sqrt(1 - aside)
    return m / np.linalg.norm(m, axis=1, keepdims=True)


def _segments(stack: Stack, write: Write) -> list[Segment]:
    sot, stt = stack.sot_torque(write.sot_current), stack.stt_torque(write.stt_current)
    ramp = min(write.release_time, write.stt_time) if write.stt_time else write.release_time
    level = sot * (1 - ramp / write.release_time) if write.release_time else 0.0
    return [
        Segment(write.sot_time, (sot, sot)),
        Segment(ramp, (sot, level), (stt, stt)),
        Segment(max(0.0, write.release_time - ramp), (level, 0.0)),
        Segment(max(0.0, write.stt_time - ramp), (0.0, 0.0), (stt, stt)),
        Segment(RELAX_S),
    ]


def run_write(
    stack: Stack, write: Write, resistances: tuple[float, float], writes: int, *, seed: int = 0, threads: int = 2, record: int = 0,
    dt: float = 1e-12,
) -> Outcome:  # fmt: skip
    """Write ``writes`` random bits over random old bits, ``write.junctions`` on a line, and count.

    ``resistances``: of the junction, parallel and antiparallel, ohm (parallel: m on the + side).
    """
    if writes < 1:
        raise SasError(f"{writes} writes", hint="at least 1")
    rng = np.random.default_rng([seed, METHODS.index(write.method)])
    target, old = rng.choice([-1.0, 1.0], writes), rng.choice([-1.0, 1.0], writes)
    external = [0.0, 0.0, 0.0]
    sign: Floats | float = 1.0
    if write.method == "sot":
        # pulled to +y, m is turned by a field along x towards +z, by one along z towards -x
        external[2 - stack.easy] = write.assist_field
        sign = target if stack.easy == 2 else -target
    model = stack.model(resistances, (external[0], external[1], external[2]))
    start = Ensemble(thermal_start(stack, old, rng), target, sign, int(rng.integers(1 << 62)))
    result = simulate(model, _segments(stack, write), start, dt=dt, threads=threads, record=record)
    wrong = int((np.sign(result.final[:, stack.easy]) != target).sum())
    pulse = write.sot_time + write.release_time / 3  # a linear release dissipates a third of what the full current would
    line = write.sot_current**2 * stack.heavy_metal.resistance(write.junctions) * pulse
    through = write.stt_current**2 * float(result.resistance_time.mean())
    return Outcome(write, writes, wrong, target != old, result.settled, line / write.junctions, through, result)


def error_rates(
    stack: Stack, write: Write, resistances: tuple[float, float], field: str, values: Sequence[float], writes: int, *, seed: int = 0,
    threads: int = 2,
) -> list[Outcome]:  # fmt: skip
    """Outcomes with one field of the write (a current or a time) set to each of ``values``."""
    return [run_write(stack, replace(write, **{field: v}), resistances, writes, seed=seed, threads=threads) for v in values]
