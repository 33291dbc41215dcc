"""A row for every layer (ONNX nodes that run as one): what it costs in an inference and in a training step, its bound, what binds it, its copies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sasimc.backend.compile import Compiled
from sasimc.backend.explain import LayerRow, explain
from sasimc.explore.work import Work, matrix_of
from sasimc.isa.analysis.timing import UNITS
from sasimc.isa.program import Program

__all__ = ["Layer", "Share", "layers"]


@dataclass(frozen=True)
class Share:
    """A layer's part of one run of an entry: cycles (overlap included), joules, most bytes of the buffer in use, the busiest unit, cycles by phase."""

    cycles: float
    joules: float
    buffer: int
    binds: str
    phases: Mapping[str, float]


@dataclass(frozen=True)
class Layer:
    """``origin``: the nodes' names joined by commas, empty for instructions of no node. ``bound``: least cycles of an inference (None: not known)."""

    origin: str
    shares: Mapping[str, Share]
    copies: int
    subarrays: int
    bound: float | None
    tiles: int
    side: int


def _share(program: Program, work: Work, members: Sequence[int], phases: Mapping[int, str]) -> Share:
    units = [0] * len(UNITS)
    by_phase: dict[str, list[float]] = {}
    for i in members:
        by_phase.setdefault(phases[i], []).append(work.times[i][1])
        units = [a + b for a, b in zip(units, work.units[i], strict=True)]
    sums = {phase: math.fsum(v) for phase, v in by_phase.items()}
    return Share(
        math.fsum(sums.values()),
        math.fsum(work.joules[i] for i in members),
        max(work.live[i - work.first] for i in members),
        UNITS[max(range(len(UNITS)), key=lambda u: units[u])],
        sums,
    )


def layers(program: Program, works: Mapping[str, Work], phases: Mapping[int, str], compiled: Compiled | None) -> list[Layer]:
    """In the order of the code; what belongs to no node last."""
    origins = dict.fromkeys(instr.origin.node for instr in program.code if instr.origin.node)
    members: dict[str, list[int]] = {o: [] for o in (*origins, "")}
    for i, instr in enumerate(program.code):
        members[instr.origin.node].append(i)
    explained: dict[str, list[LayerRow]] = {}
    if compiled is not None:
        of = {op.name: op.origin or op.name for op in compiled.graph.ops}
        for row in explain(compiled):
            if row.layer in of:
                explained.setdefault(of[row.layer], []).append(row)
    out: list[Layer] = []
    for origin, indices in members.items():
        names = {matrix_of(program, i) for i in indices} - {""}
        matrices = [m for m in program.matrices.values() if m.name in names and m.kind != "scratch"]
        rows = explained.get(origin, ())
        shares = {
            entry: _share(program, work, found, phases)
            for entry, work in works.items()
            if (found := [i for i in indices if i in work.times])
        }
        out.append(
            Layer(
                origin, shares, max((m.copies for m in matrices), default=0), len({t.subarray for m in matrices for t in m.tiles}),
                sum(r.bound for r in rows) if rows else None, sum(r.tiles for r in rows), max((r.side for r in rows), default=1),
            )
        )  # fmt: skip
    return out
