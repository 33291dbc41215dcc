"""Writing bits: pulses of the three methods, error rate by position, pattern and phase, energy and latency.

- ``sas``: one SOT current through the heavy-metal line suspends the free layers of all its junctions across the easy axis; as it is
  released, a small STT voltage on every bit line decides each bit (paper, section III-A). All junctions of the line are written at once.
- ``stt``: STT alone, a junction with its transistor and no heavy-metal line.
- ``sot``: an SOT current alone, of the sign that the bit asks for, in a constant field that breaks the symmetry; one junction on a line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from sasimc.evaluation.device.llg import Motion
from sasimc.evaluation.device.macro import Macro, Method, Write, thermal_start
from sasimc.evaluation.device.stack import Stack
from sasimc.isa.errors import SasError

__all__ = ["METHODS", "Method", "Outcome", "Write", "error_bound", "patterns", "run_write", "write_of"]

METHODS: tuple[Method, ...] = get_args(Method)
Floats = npt.NDArray[np.float64]
PHASES = ("drive", "release", "release alone", "STT", "fall", "rest")
"""Of a write, in the order of :meth:`~sasimc.evaluation.device.macro.Macro.phases`."""


@dataclass(frozen=True)
class Outcome:
    """What an ensemble of macro writes did. ``side``, ``old`` [N, J]: wanted and former states; ``motion``: what the layers did; ``parts``: joule a bit, mean,
    by part of the circuit."""

    stack: Stack
    write: Write
    side: Floats
    old: Floats
    motion: Motion
    parts: dict[str, float]
    line_charge: float
    junction_charge: float

    @property
    def wrong(self) -> npt.NDArray[np.bool_]:
        """[N, J]: bits on the wrong side after the rest."""
        return self.motion.marks[:, -1] * self.side <= 0

    @property
    def bits(self) -> int:
        """Bits written."""
        return self.side.size

    @property
    def errors(self) -> int:
        """Bits that ended on the wrong side."""
        return int(self.wrong.sum())

    @property
    def error_rate(self) -> float:
        """Share of the bits that ended on the wrong side."""
        return self.errors / self.bits

    @property
    def by_position(self) -> Floats:
        """[J]: error rates, from the driven end on."""
        return self.wrong.mean(axis=0)

    @property
    def by_pattern(self) -> Floats:
        """[2^J, J]: error rates; row p writes bit j of p, 1 the parallel state, at position j (nan: not among the writes)."""
        number = ((self.side > 0) << np.arange(self.side.shape[1])).sum(axis=1)
        rows = [self.wrong[number == p] for p in range(1 << self.side.shape[1])]
        return np.array([r.mean(axis=0) if len(r) else np.full(self.side.shape[1], np.nan) for r in rows])

    @property
    def by_phase(self) -> dict[str, float]:
        """Share of the bits on the wrong side at the end of every phase."""
        return {name: float((self.motion.marks[:, k] * self.side <= 0).mean()) for k, name in enumerate(PHASES)}

    @property
    def decided(self) -> Floats:
        """The times at which the bits that had to change, and did, were decided, seconds."""
        settled = self.motion.settled[self.old != self.side]
        return settled[np.isfinite(settled)]

    @property
    def energy(self) -> float:
        """Joule per bit, by the stack's ``energy_account``: heat, or charge x supply."""
        if self.stack.write.energy_account == "joule":
            return sum(self.parts.values())
        return (self.line_charge + self.junction_charge) * self.stack.write.supply.si


def write_of(stack: Stack, method: Method) -> Write:
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


def patterns(junctions: int, macros: int) -> Floats:
    """[macros, J]: all patterns in turn, +1 for a set bit."""
    number = np.arange(macros) % (1 << junctions)
    return np.where((number[:, None] >> np.arange(junctions)) & 1, 1.0, -1.0)


def run_write(
    stack: Stack, write: Write, resistances: tuple[float, float], writes: int, *, seed: int = 0, threads: int = 2, record: int = 0,
    dt: float = 1e-12, heat: float = 1.0, side: Floats | None = None, layers: Floats | None = None,
) -> Outcome:  # fmt: skip
    """Write about ``writes`` bits over random old bits, all patterns in turn, and count.

    ``resistances``: of the junction, parallel and antiparallel, ohm (parallel: m on the + side). ``side`` [N, J]: what is written instead;
    ``heat`` and ``layers``: see :class:`~sasimc.evaluation.device.macro.Macro`.
    """
    if writes < 1:
        raise SasError(f"{writes} writes", hint="at least 1")
    rng = np.random.default_rng([seed, METHODS.index(write.method)])
    if side is None:
        side = patterns(write.junctions, -(-writes // write.junctions))
    macro = Macro(stack, write, resistances, heat, dt)
    old = rng.choice([-1.0, 1.0], side.shape)
    start = thermal_start(stack.scaled({"temperature": heat}) if heat != 1 else stack, old, rng)
    got = macro.run(start, side, seed=int(rng.integers(1 << 62)), threads=threads, record=record, layers=layers)
    spent = {name: float(v.mean()) / write.junctions for name, v in got.spent.items()}
    line_charge, junction_charge = spent.pop("line_charge"), spent.pop("junction_charge")
    return Outcome(stack, write, side, old, got, spent, line_charge, junction_charge)
