"""One run of an entry point in simulated time, found from the code alone: which instruction executes when, which units and activation groups it
keeps busy. Times are those of the estimate: an overlapped region lasts as long as the estimate says, its instructions share it in proportion to their
cycles, and each unit works on them in turn without leaving the region.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sasimc.isa.analysis.timing import UNITS, busy, region_cycles
from sasimc.isa.program import Program
from sasimc.isa.spec import Cost
from sasimc.isa.walk import EMPTY, Key, Walker
from sasimc.profiling.lanes import Lanes

__all__ = ["Kind", "Timeline", "packed", "timeline"]


@dataclass(frozen=True)
class Kind:
    """Executions of one instruction on the same rows: cost, busy cycles of every unit, and the part of the arrays' time (begin, length) that each
    activation group works."""

    index: int
    cost: Cost
    busy: tuple[int, ...]
    groups: tuple[tuple[int, float, float], ...]


@dataclass
class Timeline:
    """``kinds``; of every execution in order its ``kind``, ``phase``, ``begin`` and ``end`` in cycles and the begin of each unit that has work."""

    entry: str
    kinds: list[Kind]
    kind: list[int]
    phase: list[str]
    begin: list[int]
    end: list[int]
    units: list[tuple[int, ...]]
    cycles: int

    def instructions(self) -> dict[int, tuple[int, float, dict[str, int]]]:
        """Executions, cycles (overlap included) and events by instruction."""
        out: dict[int, tuple[int, float, dict[str, int]]] = {}
        for number, begin, end in zip(self.kind, self.begin, self.end, strict=True):
            k = self.kinds[number]
            times, cycles, events = out.get(k.index, (0, 0.0, dict[str, int]()))
            for event, n in k.cost.events.items():
                events[event] = events.get(event, 0) + n
            out[k.index] = (times + 1, cycles + end - begin, events)
        return out


class _Recorder(Walker):
    """Follows an entry and keeps the executions of every stretch that overlaps or does not."""

    def __init__(self, program: Program) -> None:
        super().__init__(program, [program.resolve(i) for i in program.code])
        self.parts: list[tuple[str, bool, list[Key]]] = []
        self._keys: list[Key] = []
        self._overlapped = False

    def region(self, begin: bool) -> None:
        if self._keys:
            self.parts.append((self.phase, self._overlapped, self._keys))
        self._keys, self._overlapped = [], begin

    def follow(self, entry: str, params: Mapping[str, int]) -> None:
        program = self.program
        for name, value in params.items():
            if name in program.params:
                self.regs[program.params[name]] = value
        self.start(program.entries[entry])
        while self.running and self.pc < len(program.code):
            pc = self.pc
            self._keys.append((pc, *self.rows(pc)))
            if program.code[pc].spec.group == "control":
                self.execute(pc)
            else:
                self.pc += 1
        self.region(False)


def _placed(begins: list[int], lengths: list[int], end: int) -> list[int]:
    """When a unit begins each of its tasks, one at a time: not before ``begins`` or when it is free, but early enough for what is still to do."""
    free, left, out = 0, sum(lengths), list[int]()
    for begin, length in zip(begins, lengths, strict=True):
        out.append(max(free, min(begin, end - left)))
        free, left = out[-1] + length, left - length
    return out


def timeline(program: Program, entry: str, params: Mapping[str, int]) -> Timeline:
    """The executions of ``entry`` with parameter registers set (``batch`` = samples, ...). Values loaded from memory count as 0."""
    machine, walk, lanes = program.machine, _Recorder(program), Lanes(program, "group")
    walk.follow(entry, params)
    out = Timeline(entry, [], [], [], [], [], [], 0)
    numbers: dict[Key, int] = {}

    def number(key: Key) -> int:
        if key not in numbers:
            index, r0, r1 = key
            if (r0, r1) == EMPTY:
                cost = Cost(machine.controller.issue_cycles, instructions=1)
            else:
                cost = program.code[index].spec.cost(machine, walk.operands[index], r0, r1)
            groups = tuple((lane - 1, begin, length) for _, lane, begin, length in lanes.shares(key, cost.events))
            numbers[key] = len(out.kinds)
            out.kinds.append(Kind(index, cost, busy(machine, program.code[index].spec, cost), groups))
        return numbers[key]

    for phase, overlapped, keys in walk.parts:
        found = [number(key) for key in keys]
        kinds = [out.kinds[n] for n in found]
        cycles = [k.cost.cycles for k in kinds]
        serial = sum(cycles)
        work = ((program.code[k.index].spec, k.cost, 1) for k in kinds)
        length = region_cycles(machine, work) if overlapped else serial
        edges, done = [0], 0
        for n in cycles:
            done += n
            edges.append(done * length // serial if serial else 0)
        starts: list[dict[int, int]] = [{} for _ in kinds]
        for u in range(len(UNITS)):
            users = [i for i, k in enumerate(kinds) if k.busy[u]]
            begins = [edges[i] for i in users]
            if overlapped:
                begins = _placed(begins, [kinds[i].busy[u] for i in users], length)
            for i, begin in zip(users, begins, strict=True):
                starts[i][u] = begin
        for n, (a, b), start in zip(found, pairwise(edges), starts, strict=True):
            out.kind.append(n)
            out.phase.append(phase)
            out.begin.append(out.cycles + a)
            out.end.append(out.cycles + b)
            out.units.append(tuple(out.cycles + at for _, at in sorted(start.items())))
        out.cycles += length
    return out


def packed(t: Timeline, phases: tuple[str, ...]) -> dict[str, Any]:
    """For the page. ``kinds``: instruction, busy cycles of every unit, groups as (group, begin, length in thousandths); ``kind``, ``step``
    (cycles since the last begin), ``units`` (begins, relative to the execution's, of the units with work); ``turns``: where a phase begins, as
    (execution, phase)."""
    kinds = [[k.index, *k.busy, *(n for g, a, b in k.groups for n in (g, round(1000 * a), round(1000 * b)))] for k in t.kinds]
    turns: list[list[int]] = []
    for i, phase in enumerate(t.phase):
        if not turns or turns[-1][1] != phases.index(phase):
            turns.append([i, phases.index(phase)])
    return {
        "entry": t.entry, "cycles": t.cycles, "kinds": kinds, "kind": t.kind, "step": [b - a for a, b in pairwise([0, *t.begin])],
        "units": [at - begin for begin, starts in zip(t.begin, t.units, strict=True) for at in starts], "turns": turns,
    }  # fmt: skip
