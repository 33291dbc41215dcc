"""Hardware loops as plans: the body unrolled once, a sequence of steps that all threads work off without the interpreter.

A loop becomes a plan when its control flow and row ranges follow from the code, or from what registers hold as it begins; any other loop is
interpreted, and :class:`NotNative` says why. A plan has the loop's effects and counts, bit for bit: what each instruction costs is known from the
unrolled list, and what depends on data is counted while running.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sasimc.isa.walk import Key
from sasimc.runtime.engines.datapath import Datapath, Leg, Operation, Step, in_order, plan_array
from sasimc.runtime.engines.operands import BoundMatrix
from sasimc.runtime.engines.passes import Passes, side_by_side
from sasimc.runtime.engines.regions import RegionSkips
from sasimc.runtime.engines.unroll import NotNative, Unrolled
from sasimc.runtime.kernels.run import ALONE, APART, FAILED, FOUND, MODE, TIMES, WHERE, put_back

if TYPE_CHECKING:
    from sasimc.runtime.engines.counters import PhaseCounter

__all__ = ["LoopPlan", "Work", "with_aliases"]


@dataclass
class Work:
    """The legs of a loop, the stretches of steps that run in turn, bytes that may have to be put back; ``side``: what the legs refer to."""

    legs: list[Leg]
    turns: int = 0
    undo: int = 0
    side: Passes | None = None


class LoopPlan:
    """One loop, ready to run. `run` returns False, with nothing done, where only the interpreter can tell what happens (a trap that is
    certain, host memory that must not grow, more instructions than may run)."""

    def __init__(self, datapath: Datapath, body: Unrolled) -> None:
        self.datapath, self.body, self.whole = datapath, body, body.whole
        code = datapath.program.code
        self.keys: list[int] = []  # of each step, its place in the unrolled list
        steps: list[Step] = []
        made: dict[Key, list[Step]] = {}
        self.used: dict[int, Operation] = {}
        for pc, r0, _ in body.keys:
            if not code[pc].spec.flow and r0 >= 0 and pc not in self.used:
                if datapath.overridden(code[pc].spec) is not None:
                    raise NotNative(pc, f"{datapath.engine} runs it step by step")
                self.used[pc] = datapath.operation(pc)
        self.written = with_aliases(m for op in self.used.values() for m in op.writes)
        self.skips = RegionSkips(datapath, body.keys) if datapath.skips else None
        for place, key in enumerate(body.keys):
            pc, r0, r1 = key
            new: list[Step] = []
            if pc in self.used and r0 >= 0:
                op = self.used[pc]
                if op.weights is not None and op.weights[0] in self.written:
                    new += datapath.preparing(op)
                if key not in made:
                    if text := datapath.displaced(op, r0, r1):
                        raise NotNative(pc, text)
                    made[key] = datapath.steps(op, r0, r1)
                new += made[key]
            elif self.skips is not None:
                new += self.skips.steps(place)
            steps += new
            self.keys += [place] * len(new)
        self.steps = plan_array(steps)
        self.ns = sum(datapath.duration(self.used[pc], r0, r1) for pc, r0, r1 in body.keys if pc in self.used and r0 >= 0)
        self._sides: dict[tuple[int, ...], Passes | None] = {}
        self._book_regions()

    def _book_regions(self) -> None:
        """Split the executions into those outside and inside of overlapped regions."""
        self.outside: dict[Key, int] = {}
        self.regions: list[tuple[int, dict[Key, int]]] = []
        self.controlled = False
        current = self.outside
        for key in self.body.keys:
            current[key] = current.get(key, 0) + 1
            flow = self.datapath.program.code[key[0]].spec.flow
            if flow in ("overlap", "sync"):
                self.controlled = True
                current = self.outside
            if flow == "overlap":
                current = {}
                self.regions.append((key[0], current))
        if current is not self.outside:
            raise NotNative(self.regions[-1][0], "its region does not end within the loop")

    # --------------------------------------------------------------------------------------------------------- running

    def fits(self, regs: Sequence[int], first: Sequence[int]) -> bool:
        """Whether it holds for these registers; ``first``: those it was made for."""
        return all(regs[r] == first[r] for r in self.body.needed)

    def run(self, passes: int, budget: int, depth: int) -> int:
        """Run the loop; the number of instructions issued, 0 if nothing was done. ``depth``: loops that may still be opened."""
        times = 1 if self.whole else passes
        d, phase = self.datapath, self.datapath.counters.phase
        length = len(self.body.keys) * times
        if length > budget or (self.controlled and phase.outer is not None) or self.body.depth > depth:
            return 0
        end = self.host_end(times, d.state.regs)
        if end < 0 or not d.prepared(self.used.values(), self.written):
            return 0
        d.state.grow_host(end)
        failed, found = self._work_off(times)
        d.state.regs[:] = d.registers.tolist()
        for matrix in self.written:
            matrix.ready.clear()
        if failed:
            self.fail(phase, failed - 1, found)
        self.book(phase, times)
        if self.skips is not None:
            self.skips.book(phase)
        return length

    def _work_off(self, times: int) -> tuple[int, int]:
        """1 + number of the step that failed (0: none), counted through all passes, and what it found."""
        d, work = self.datapath, self.legs(times, self.datapath.state.regs, self.datapath.wake_ns)
        threads = 1 if work.legs[0][MODE] == ALONE else d.threads
        d.registers[:] = d.state.regs
        control = d.run(work.legs, threads, (self, work), work.turns, work.undo)
        if control[FAILED] and work.legs[control[WHERE]][MODE] == APART:
            return self.again(times, work.legs[0])
        return self.failure(work.legs, control)

    def failure(self, legs: Sequence[Leg], control: npt.NDArray[np.int64], first: int = 0) -> tuple[int, int]:
        """1 + number of the step that failed, counted through all passes, and what it found; ``first``: the loop's first leg in the run."""
        passes = sum(leg[TIMES] for leg in legs[first : int(control[WHERE])])
        return int(control[FAILED]) + (passes * (len(self.steps) - 1) if control[FAILED] else 0), int(control[FOUND])

    def again(self, times: int, leg: Leg) -> tuple[int, int]:
        """What was done side by side does not count: pass by pass the first failure is found."""
        d = self.datapath
        put_back(np.array(leg, np.int64), d.crew.table, d.crew.undo)
        control = d.run([in_order(self.steps, times)], d.threads, self)
        return int(control[FAILED]), int(control[FOUND])

    def legs(self, times: int, regs: Sequence[int], least: float) -> Work:
        """How so many passes are worked off with these registers; ``least``: work that is worth sharing, ns."""
        threads = self.datapath.threads
        if threads == 1 or self.ns * times <= least:
            return Work([in_order(self.steps, times, ALONE)])
        apart = times - times % threads
        side = self._side(apart, regs) if apart else None
        if side is None:
            return Work([in_order(self.steps, times)])
        rest = [in_order(self.steps, times - apart)] if apart < times else []
        return Work([side.leg(self.steps, apart), *rest], side.turns, side.undo(self.datapath.state), side)

    def _side(self, passes: int, regs: Sequence[int]) -> Passes | None:
        """How passes run side by side with these registers; None if they may not."""
        if self.whole or self.skips is not None:
            return None
        key = (passes, *(regs[register] for register in {r for _, r, _ in self.body.samples}))
        if key not in self._sides:
            self._sides[key] = side_by_side(self, passes, regs)
        return self._sides[key]

    def host_end(self, times: int, regs: Sequence[int]) -> int:
        """How much host memory it needs with these registers; -1 if a sample is outside of what the machine has."""
        end = 0
        for view, register, offset in set(self.body.samples):
            first = (regs[register] if register else 0) + offset
            last = first + (self.body.moves[register] * (times - 1) if register else 0)
            if first < 0 or last < 0:
                return -1
            end = max(end, view.high + max(first, last) * view.batch)
        return -1 if end > self.datapath.machine.host.memory_bytes else end

    def book(self, phase: PhaseCounter, times: int) -> None:
        for key, n in self.outside.items():
            phase.executed[key] = phase.executed.get(key, 0) + n * times
        for start, executed in self.regions:
            phase.region(start, executed).times += times

    def fail(self, phase: PhaseCounter, at: int, found: int) -> None:
        """Book what ran up to the step that failed and trap there."""
        turns, step = divmod(at, len(self.steps) - 1)
        if turns:
            self.book(phase, turns)
        place, code = self.keys[step], self.datapath.program.code
        for key in self.body.keys[: place + 1]:
            phase.executed[key] = phase.executed.get(key, 0) + 1
            flow = code[key[0]].spec.flow
            if flow == "overlap":
                phase.open_region(key[0])
            elif flow == "sync":
                phase.close_region()
        if self.skips is not None:
            self.skips.book(phase)
        self.datapath.refuse(self.body.keys[place][0], found)


def with_aliases(matrices: Iterable[BoundMatrix]) -> set[BoundMatrix]:
    """These matrices and those that share cells with them."""
    found = set(matrices)
    return found | {other for m in found for other in m.aliases}
