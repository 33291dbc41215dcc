"""Stretches: straight code and the loops in it as one plan, so that threads stay at work from one loop to the next.

A stretch goes on as long as it is known what the code does: up to a loop whose control flow, rows or samples depend on data, up to the end of the
program, up to weights that the stretch itself has changed. It has the effects and counts of its instructions one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from sasimc.isa.errors import Trap
from sasimc.isa.spec import Reg
from sasimc.isa.walk import EMPTY, Key, Walker
from sasimc.runtime.engines.counters import Counters
from sasimc.runtime.engines.datapath import Datapath, Leg, Operation, Step, in_order, plan_array
from sasimc.runtime.engines.operands import BoundMatrix
from sasimc.runtime.engines.plans import LoopPlan, with_aliases
from sasimc.runtime.engines.unroll import NotNative, Traced
from sasimc.runtime.kernels.run import ALONE, APART, FAILED, FOUND, IN_ORDER, MODE, WHERE

__all__ = ["Stretch"]

_LONGEST: Final = 20_000  # instructions outside of loops


@dataclass
class _Part:
    """Straight code with its steps, or a loop: ``first`` is its first leg, ``phase`` the one it begins in."""

    keys: list[Key] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    plan: LoopPlan | None = None
    times: int = 1
    first: int = 0
    after: int = 0

    @property
    def issued(self) -> int:
        """Instructions."""
        return len(self.keys) if self.plan is None else len(self.plan.body.keys) * self.times


class Stretch(Traced):
    """What is done from the next instruction of a run on; holds for what is in the registers ``needed``. ``opened``: whether it begins inside of an
    overlapped region. ``length``: instructions, 0 where there is no stretch worth it; ``end``: the next one. ``issued``: instructions
    of the last run."""

    def __init__(
        self, datapath: Datapath, run: Walker, loop: Callable[[int, int, Sequence[int]], LoopPlan | None], *, opened: bool
    ) -> None:
        super().__init__(run, run.regs)
        self.whole = False  # what is done with registers that are only numbers depends on them, the rest does not
        self.datapath, self._loop_plan, self.opened = datapath, loop, opened
        self.entry, self.phase = list(run.regs), run.phase
        self.first_phase = run.phase
        self.parts: list[_Part] = []
        self.legs: list[Leg] = []
        self.turns = self.undo = self.length = self.straight = self.host_end = self.issued = 0
        self.ns = 0.0
        self.counting: dict[int, str] = {}  # instruction -> the phase in which it counts
        self.written: set[BoundMatrix] = set()
        self.used: dict[int, Operation] = {}
        self._keep: list[object] = []
        self._steps: list[Step] = []
        self._part = _Part()
        self._open = opened
        self.first = self.pc = self.at = run.pc
        self.running = True
        try:
            while self.pc < len(self.program.code) and self.straight < _LONGEST and self.running and self._next():
                self.at = self.pc
        except (NotNative, Trap):  # what is wrong shows when it is its turn
            pass
        self._close()
        self.end = self.at
        self._weighing = [op for op in self.used.values() if op.weights is not None]
        # counted later where that does not depend on what has been counted before, nor on which stretch an instruction ran in
        known = datapath.counting
        alike = all(known.setdefault(pc, phase) == phase for pc, phase in self.counting.items())
        self.total = self._total() if alike and not opened and not self._open else None
        if sum(leg[1] for leg in self.legs) < 2:
            self.length = 0

    def _total(self) -> Counters:
        """What a run counts, but for what depends on data."""
        out = Counters(self.program.machine, self.datapath.counters.limits)
        out.select(self.first_phase)
        book = _Book(self, out)
        for part in self.parts:
            book.part(part)
        return out

    # ------------------------------------------------------------------------------------------------------- following

    def need(self, register: int, what: str) -> int:
        origin = self.origin[register]
        if isinstance(origin, tuple):
            self.needed.add(origin[0])
            return self.regs[register]
        return super().need(register, what)

    def _next(self) -> bool:
        """Follow one instruction, or a loop; False if it does not belong to the stretch."""
        pc, spec = self.at, self.program.code[self.at].spec
        if spec.flow == "loop":
            return self._loop(pc)
        if spec.flow == "end":
            return False
        key = (pc, *self.rows(pc))
        if spec.flow:
            self.execute(pc)
        elif spec.group == "control":
            op = self.datapath.operation(pc)
            self.arithmetic(pc)
            self._add(pc, self.datapath.steps(op, *key[1:]))
        else:
            if key[1:] != EMPTY and not self._data(key):
                return False
            self.pc = pc + 1
        self._part.keys.append(key)
        self.length += 1
        self.straight += 1
        return True

    def region(self, begin: bool) -> None:
        self._open = begin

    def _data(self, key: Key) -> bool:
        pc, r0, r1 = key
        d = self.datapath
        if d.overridden(self.program.code[pc].spec) is not None:
            return False
        op = d.operation(pc)
        if d.displaced(op, r0, r1) or not self._uses(pc, op):
            return False
        self.samples.clear()
        self.data(pc)
        for view, register, sample in self.samples:
            if register:
                self.needed.add(register)
                sample += self.entry[register]
            end = view.high + sample * view.batch
            if sample < 0 or end > d.machine.host.memory_bytes:
                return False
            self.host_end = max(self.host_end, end)
        self.ns += d.duration(op, r0, r1)
        self._add(pc, d.steps(op, r0, r1))
        self.written |= with_aliases(op.writes)
        return True

    def _uses(self, pc: int, op: Operation) -> bool:
        """Note an instruction's operation; False if its weights have changed in the stretch, or it counted in another phase."""
        if op.weights is not None and op.weights[0] in self.written:
            return False
        if self.counting.setdefault(pc, self.phase) != self.phase:
            return False
        self.used[pc] = op
        return True

    def _add(self, pc: int, steps: Sequence[Step]) -> None:
        self._steps += steps
        self._part.places += [len(self._part.keys)] * len(steps)

    def _loop(self, pc: int) -> bool:
        spec, o = self.program.code[pc].spec, self.operands[pc]
        for f in spec.of_kind(Reg):
            self.need(getattr(o, f.name), "the number of passes")
        taken: list[int] = []
        self._taken = taken
        self.execute(pc)
        count, start = taken[0], (pc, *self.rows(pc))
        plan = self._loop_plan(pc, count, self.regs) if count > 0 else None
        if count > 0:
            if plan is None or (plan.controlled and self._open) or plan.body.depth > self.program.machine.controller.loop_depth:
                return False
            count = 1 if plan.whole else count
            for register in plan.body.needed | {register for _, register, _ in plan.body.samples}:
                self.need(register, "what it does")
            end = plan.host_end(count, self.regs)
            if end < 0 or not all(self._uses(number, op) for number, op in plan.used.items()):
                return False
            self.host_end = max(self.host_end, end)
        self._part.keys.append(start)
        self.length += 1
        if plan is not None:
            self._close()
            work = plan.legs(count, self.regs, self.datapath.share_ns)
            self._keep.append(work)
            self.parts.append(_Part(plan=plan, times=count, first=len(self.legs), after=self.ends[pc] + 1))
            self.legs += work.legs
            self.turns, self.undo = max(self.turns, work.turns), max(self.undo, work.undo)
            self.ns += plan.ns * count
            self.length += len(plan.body.keys) * count
            self.written |= plan.written
            self._left(pc, plan, count)
        self.pc = self.ends[pc] + 1
        return True

    def loop(self, count: int) -> None:
        self._taken.append(count)

    def _left(self, pc: int, plan: LoopPlan, times: int) -> None:
        """What registers hold after a loop."""
        body = plan.body
        for r in range(1, len(self.regs)):
            origin, had = body.origin[r], self.origin[r]
            if r in body.moves:
                move = body.moves[r] * times
                self.regs[r] = (self.regs[r] + move + 2**31) % 2**32 - 2**31
                if isinstance(had, tuple):
                    self.origin[r] = had[0], had[1] + move
            elif origin is None:
                self.regs[r], self.origin[r] = body.regs[r], None
            else:
                self.origin[r] = -1 - pc

    def _close(self) -> None:
        """End a piece of straight code."""
        part, steps = self._part, plan_array(self._steps)
        if part.keys:
            part.first = len(self.legs)
            self.parts.append(part)
            if self._steps:
                work = sum(
                    self.datapath.duration(self.used[k[0]], *k[1:]) for k in part.keys if k[0] in self.used and k[1:] != EMPTY
                )
                alone = self.datapath.threads == 1 or work <= self.datapath.share_ns
                self.legs.append(in_order(steps, mode=ALONE if alone else IN_ORDER))
                self._keep.append(steps)
        self._part, self._steps = _Part(), []

    # --------------------------------------------------------------------------------------------------------- running

    def fits(self, regs: Sequence[int], phase: str, *, opened: bool) -> bool:
        """Whether it holds for these registers, in this phase and region."""
        return opened == self.opened and phase == self.first_phase and all(regs[r] == self.entry[r] for r in self.needed)

    @cached_property
    def instructions(self) -> frozenset[int]:
        """All of its instructions, those in loops too."""
        keys = (key for part in self.parts for key in (part.keys if part.plan is None else part.plan.body.keys))
        return frozenset(pc for pc, _, _ in keys)

    def run(self, regs: list[int]) -> tuple[int, str, bool]:
        """Run it with the registers of the machine: the next instruction, the phase, whether the program goes on. Nothing is done where only the
        interpreter can tell what happens (cells that were never written).

        Raises:
            Trap: an instruction failed.
        """
        d, self.issued = self.datapath, 0
        if not d.prepared(self._weighing):
            return self.first, self.first_phase, True
        d.state.grow_host(self.host_end)
        later = self.total is not None and d.counters.closed
        if not later:
            d.settle()
        d.registers[:] = regs
        control = d.run(self.legs, d.threads if self.ns > d.wake_ns else 1, self, self.turns, self.undo)
        for matrix in self.written:
            matrix.ready.clear()
        if control[FAILED]:
            return self._failed(regs, control)
        regs[:] = d.registers.tolist()
        self.issued = self.length
        if not later:
            book = _Book(self, d.counters)
            for part in self.parts:
                book.part(part)
            self._settle()
        else:
            d.counters.defer(self._count)
            d.counters.select(self.phase)
        return self.end, self.phase, self.running

    def _count(self, times: int) -> None:
        """Count so many runs."""
        assert self.total is not None
        self.datapath.counters.add(self.total, times)
        self._settle()

    def _settle(self) -> None:
        """Book what kernels counted, each under its phase."""
        d = self.datapath
        for pc in d.counted(self.counting):
            d.settle_one(pc, d.counters.phases[self.counting[pc]])

    def _failed(self, regs: list[int], control: npt.NDArray[np.int64]) -> tuple[int, str, bool]:
        """Book what ran up to the step that failed and trap there; or go on, if it does not when passes run one after the other."""
        d, where, failed, found = self.datapath, int(control[WHERE]), int(control[FAILED]), int(control[FOUND])
        number = max(i for i, part in enumerate(self.parts) if part.first <= where)
        part = self.parts[number]
        if part.plan is not None and self.legs[where][MODE] == APART:
            failed, found = part.plan.again(part.times, self.legs[where])
        elif part.plan is not None:
            failed, found = part.plan.failure(self.legs, control, part.first)
        regs[:] = d.registers.tolist()
        book = _Book(self, d.counters)
        for done in self.parts[:number]:
            book.part(done)
        self._settle()
        if part.plan is None:
            place = part.places[failed - 1]
            book.keys(part.keys[: place + 1])
            d.refuse(part.keys[place][0], found)
        if failed:
            part.plan.fail(d.counters.phase, failed - 1, found)
        book.part(part)
        self.issued = sum(done.issued for done in self.parts[: number + 1])
        return part.after, d.counters.selected, True


class _Book(Walker):
    """Counts what was executed; takes part in what control instructions do to regions and phases (`sasimc.isa.spec.Control`)."""

    def __init__(self, like: Walker, counters: Counters) -> None:
        super().__init__(like.program, like.operands, None, like)
        self.counters, self.at = counters, 0

    def part(self, part: _Part) -> None:
        if part.plan is None:
            self.keys(part.keys)
        else:
            part.plan.book(self.counters.phase, part.times)

    def keys(self, keys: Sequence[Key]) -> None:
        for key in keys:
            executed = self.counters.phase.executed
            executed[key] = executed.get(key, 0) + 1
            self.at, spec = key[0], self.program.code[key[0]].spec
            if spec.flow and spec.flow != "loop":
                spec.run(self, self.operands[self.at])

    def region(self, begin: bool) -> None:
        if begin:
            self.counters.phase.open_region(self.at)
        else:
            self.counters.phase.close_region()

    def set_phase(self, phase: str) -> None:
        super().set_phase(phase)
        self.counters.select(phase)
