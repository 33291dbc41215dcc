"""What a program's cycles leave out of a region in which units overlap: filling and emptying, and whether what units hand on fits twice.

A region is as long as its busiest unit (:mod:`~sasimc.isa.analysis.timing`). That is exact for rows that are handed on as they are finished when the
region is long; at its ends the busiest unit waits for the first row of the units before it, and the units behind it finish its last row. Here this is
bounded from above: every instruction of another unit adds one row of its own, as if all stood in one chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sasimc.isa.analysis.estimate import cost_of_key, executed
from sasimc.isa.analysis.footprint import footprint
from sasimc.isa.analysis.timing import UNITS, busy, limited_cycles, limits_of
from sasimc.isa.program import Program
from sasimc.isa.spec import Cost
from sasimc.isa.walk import EMPTY, Key

__all__ = ["Handover", "handover", "handover_of"]


@dataclass
class Handover:
    """Of one entry: ``cycles`` as they are counted; ``filling``: at most so many more; ``regions`` executed with overlap; ``short``: how many of them have no
    room for what row-wise hand-over needs; ``stalls``: at most so many cycles more, if those do not overlap at all; ``stripe_short``: regions that could
    not hold every stripe twice, which would be needed if units handed on whole stripes."""

    cycles: int = 0
    filling: int = 0
    regions: int = 0
    short: int = 0
    stalls: int = 0
    stripe_short: int = 0


def handover(program: Program, entry: str, params: Mapping[str, int] | None = None, buffer_peak: int = 0) -> Handover:
    """Follow ``entry``; ``buffer_peak``: bytes of the buffer that are taken whatever the region (0: what the region itself touches).

    Raises:
        SasError: as :func:`~sasimc.isa.analysis.estimate.estimate`.
    """
    resolved, parts = executed(program, entry, params)
    return handover_of(program, resolved, parts, buffer_peak)


def handover_of(
    program: Program, resolved: Sequence[Any], parts: Iterable[tuple[str, bool, Mapping[Key, int]]], buffer_peak: int = 0
) -> Handover:
    """Of what was executed (:func:`~sasimc.isa.analysis.estimate.executed`)."""
    machine, out = program.machine, Handover()
    costs: dict[Key, Cost] = {}
    for _, overlapped, counts in parts:
        for k in counts.keys() - costs.keys():
            costs[k] = cost_of_key(program, resolved, k)
        work = [(program.code[k[0]].spec, costs[k], n) for k, n in counts.items()]
        if not overlapped or not machine.controller.overlap:
            out.cycles += sum(cost.cycles * n for _, cost, n in work)
            continue
        spent, serial = [0] * len(UNITS), 0
        for spec, cost, n in work:
            serial += cost.cycles * n
            spent = [a + b * n for a, b in zip(spent, busy(machine, spec, cost), strict=True)]
        cycles = limited_cycles(machine, limits_of(serial, spent))
        busiest = UNITS[spent.index(max(spent))]
        rows: dict[int, int] = {}
        for (spec, cost, _), (i, r0, r1) in zip(work, counts, strict=True):
            if spec.unit not in (busiest, "control"):
                rows[i] = max(rows.get(i, 0), -(-cost.cycles // max(1, r1 - r0)))
        out.cycles += cycles
        out.filling += min(sum(rows.values()), serial - cycles)
        out.regions += 1
        rows_fit, stripes_fit = _room(program, resolved, counts, buffer_peak)
        out.short += not rows_fit
        out.stalls += 0 if rows_fit else serial - cycles
        out.stripe_short += not stripes_fit
    return out


@dataclass
class _Shared:
    """A view that one instruction of a region writes and another reads; rows that one row of the writer, and of a reader, touches."""

    view: Any
    writes: int = 0
    reads: int = 0


def _room(program: Program, resolved: Sequence[Any], counts: Mapping[Key, int], buffer_peak: int) -> tuple[bool, bool]:
    """Whether there is room for the rows being written beside those being read, and for every stripe twice.

    While a unit reads the rows under one of its own, the unit before it writes the next: a stripe of as many rows as both touch is enough, as its rows are
    taken in turn. A shorter one needs the missing rows in what the buffer, or the accumulators, have free.
    """
    machine, shared = program.machine, dict[tuple[str, int], _Shared]()
    top = {"buf": buffer_peak, "acc": 0}
    for i, r0, r1 in counts:
        if (r0, r1) == EMPTY:
            continue
        spec, operands = program.code[i].spec, resolved[i]
        for touch in footprint(spec, operands, r0, min(r1, r0 + 1) if spec.rows_field() else r1):
            view = touch.view
            if getattr(view, "space", "") not in top:
                continue
            top[view.space] = max(top[view.space], view.end)
            found, rows = shared.setdefault((view.space, view.addr), _Shared(view)), max(0, touch.last - touch.first)
            if touch.access in ("w", "a", "rw"):
                found.writes = max(found.writes, rows)
            if touch.access in ("r", "d", "rw"):
                found.reads = max(found.reads, rows)
    missing, stripes = {"buf": 0, "acc": 0}, {"buf": 0, "acc": 0}
    for s in shared.values():
        if s.writes and s.reads:
            v = s.view
            missing[v.space] += v.row * max(0, min(v.height, s.writes + s.reads) - v.rows_held)
            stripes[v.space] += v.row * v.rows_held
    size = {"buf": machine.buffer.bytes, "acc": machine.accumulator.entries}
    return all(top[s] + missing[s] <= size[s] for s in size), all(top[s] + stripes[s] <= size[s] for s in size)
