"""Hardware loops as plans: the body unrolled once, a sequence of steps that all threads work off without the interpreter.

A loop becomes a plan when its control flow and row ranges follow from the code, or from what registers hold as it begins; any other loop is
interpreted, and :class:`NotNative` says why. A plan has the loop's effects and counts, bit for bit: what each instruction costs is known from the
unrolled list, and what depends on data is counted while running.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from sasimc.isa.spec import Reg, ViewField
from sasimc.isa.walk import EMPTY, Key, Walker
from sasimc.runtime.engines.datapath import Datapath, Leg, Operation, Step, in_order, plan_array
from sasimc.runtime.engines.operands import BoundMatrix, BoundView
from sasimc.runtime.engines.passes import Passes, side_by_side
from sasimc.runtime.engines.regions import RegionSkips
from sasimc.runtime.kernels.run import CLEAN, FAILED, FOUND, WHERE, put_back

if TYPE_CHECKING:
    from sasimc.runtime.engines.counters import PhaseCounter

__all__ = ["LoopPlan", "NotNative", "Unrolled", "unroll"]

_LONGEST: Final = 100_000  # instructions of an unrolled body

_ALONE_NS: Final = 200_000
"""Work of a loop below which helpers are not worth waking."""


class NotNative(Exception):
    """A loop has to be interpreted because of instruction ``index``."""

    def __init__(self, index: int, why: str) -> None:
        self.index, self.why = index, why
        super().__init__(why)


class Unrolled(Walker):
    """A loop's body as executions in order (``keys``).

    With ``entry``, the registers as the loop begins, all ``passes`` of it are one body, which holds for these values of the registers ``needed``;
    without, one pass that holds whatever they are. ``samples``: by place in the list, host views and their samples as (register, constant): what the
    register holds as the body begins plus the constant (register 0: the constant). ``moves``: by how much the body moves each register, where
    that is a constant. ``depth``: loops inside one another. ``whole``: whether it is all passes.
    """

    def __init__(self, run: Walker, start: int, entry: Sequence[int] | None, passes: int) -> None:
        super().__init__(run.program, run.operands, list(entry) if entry is not None else None, run)
        self.keys: list[Key] = []
        self.samples: list[tuple[BoundView, int, int]] = []
        self.needed: set[int] = set()
        self.depth, self.at = 1, start
        self.whole = entry is not None
        # what a register holds: a number (None), the value as the body begins plus a constant, or what instruction -1 - n left there
        self._origin: list[tuple[int, int] | int | None] = [(r, 0) for r in range(len(self.regs))]
        self._origin[0] = None
        self.start(start + 1)
        self.running = True
        if self.whole:
            self.stack.append([start + 1, passes, passes])
        self._follow(self.ends[start])
        final = enumerate(self._origin)
        self.moves = {r: o[1] for r, o in final if isinstance(o, tuple) and o[0] == r}
        self.moves[0] = 0

    def _follow(self, end: int) -> None:
        while True:
            pc = self.at = self.pc
            if len(self.keys) >= _LONGEST:
                raise NotNative(pc, f"its loop is longer than {_LONGEST} instructions")
            key = (pc, *self.rows(pc))
            self.keys.append(key)
            if pc == end and not self.whole and not self.stack:
                return
            spec, o = self.program.code[pc].spec, self.operands[pc]
            if spec.flow in ("phase", "halt"):
                raise NotNative(pc, f"a loop cannot contain {spec.mnemonic}")
            if spec.flow:
                for f in spec.of_kind(Reg):
                    self._need(getattr(o, f.name), "the number of passes")
                self.execute(pc)
                self.depth = max(self.depth, len(self.stack) + (0 if self.whole else 1))
                if pc == end and not self.stack:
                    return
            elif spec.group == "control":
                self._arithmetic(pc)
            else:
                self.pc = pc + 1
                if key[1:] != EMPTY:
                    self._data(pc)

    def first_row(self, register: int) -> int:
        return self._need(register, "which rows it works on")

    def _need(self, register: int, what: str) -> int:
        """The number a register holds.

        Raises:
            NotNative: it depends on data, or on what the register held before the loop.
        """
        origin = self._origin[register]
        if isinstance(origin, int):
            writer = self.program.code[-1 - origin].spec.mnemonic
            raise NotNative(self.at, f"{what} depends on r{register}, which instruction {-1 - origin} ({writer}) sets from data")
        if origin is not None:
            if not self.whole:
                raise NotNative(self.at, f"{what} depends on what r{register} holds before the loop")
            self.needed.add(origin[0])
        return self.regs[register]

    def _arithmetic(self, pc: int) -> None:
        spec, o = self.program.code[pc].spec, self.operands[pc]
        self.execute(pc)
        target = spec.target()
        assert target is not None
        register = getattr(o, target.name)
        if not register:
            return
        sources = [self._origin[getattr(o, f.name)] for f in spec.of_kind(Reg) if not f.write]
        entered = [s for s in sources if isinstance(s, tuple)]
        data = next((s for s in sources if isinstance(s, int)), None)
        if data is not None:
            self._origin[register] = data
        elif spec.moves and entered:
            self._origin[register] = entered[0][0], entered[0][1] + getattr(o, spec.moves)
        elif entered and self.whole:
            self.needed |= {r for r, _ in entered}
            self._origin[register] = None
        else:
            self._origin[register] = -1 - pc if entered else None

    def _data(self, pc: int) -> None:
        """An instruction that is no control: which sample it touches, which registers it sets."""
        spec, o = self.program.code[pc].spec, self.operands[pc]
        for f in spec.of_kind(ViewField):
            if f.sample:
                register = getattr(o, f.sample)
                origin = self._origin[register]
                if isinstance(origin, tuple) and not self.whole:
                    self.samples.append((getattr(o, f.name), *origin))
                else:
                    self.samples.append((getattr(o, f.name), 0, self._need(register, "which sample it touches")))
        for f in spec.of_kind(Reg):
            if f.write and getattr(o, f.name):
                self._origin[getattr(o, f.name)] = -1 - pc


def unroll(run: Walker, start: int, regs: Sequence[int], passes: int) -> Unrolled:
    """The loop of a run at instruction ``start``: one pass if that holds for all, else all passes from these registers on.

    Raises:
        NotNative: control flow, rows or samples depend on data.
    """
    try:
        body = Unrolled(run, start, None, passes)
        if all(register in body.moves for _, register, _ in body.samples):
            return body
    except NotNative:
        pass
    return Unrolled(run, start, regs, passes)


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
        self.written = _with_aliases(m for op in self.used.values() for m in op.writes)
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
        if not self._host_fits(times) or not self._prepare():
            return 0
        failed, found = self._work_off(times)
        d.state.regs[:] = d.registers.tolist()
        for matrix in self.written:
            matrix.ready.clear()
        if failed:
            self._fail(phase, failed - 1, found)
        self._book(phase, times)
        if self.skips is not None:
            self.skips.book(phase)
        return length

    def _work_off(self, times: int) -> tuple[int, int]:
        """1 + number of the step that failed (0: none), counted through all passes, and what it found."""
        d = self.datapath
        d.registers[:] = d.state.regs
        threads = d.threads if self.ns * times > _ALONE_NS else 1
        apart = times - times % threads if threads > 1 else 0
        side = self._side(apart) if apart else None
        if side is not None:
            legs, numbers = [self._side_leg(side, apart)], list(self.used)
            if apart < times:
                legs.append(in_order(self.steps, times - apart))
            kept, turns = d.counts[numbers], int(side.order[:, 0].max(initial=0))
            control = d.run(legs, threads, (self, side), turns, self._undo(side))
            failed, found = int(control[FAILED]), int(control[FOUND])
            if not failed:
                return 0, 0
            if control[WHERE]:
                return failed + apart * (len(self.steps) - 1), found
            # what was done side by side does not count: pass by pass the first failure is found
            put_back(np.array(legs[0], np.int64), d.crew.table, d.crew.undo)
            d.counts[numbers] = kept
        control = d.run([in_order(self.steps, times)], threads, self)
        return int(control[FAILED]), int(control[FOUND])

    def _side(self, passes: int) -> Passes | None:
        """How passes run side by side with the registers as they are; None if they may not or that is not worth it."""
        regs = self.datapath.state.regs
        key = (passes, *(regs[register] for register in {r for _, r, _ in self.body.samples}))
        if self.whole or self.skips is not None:
            return None
        if key not in self._sides:
            self._sides[key] = side_by_side(self, passes)
        return self._sides[key]

    def _side_leg(self, side: Passes, passes: int) -> Leg:
        order, moves = side.order.ctypes.data, side.moves.ctypes.data
        tables = order, moves, side.spans.ctypes.data, len(side.spans), side.arrays.ctypes.data, len(side.arrays)
        return self.steps.ctypes.data, len(self.steps) - 1, passes, 1, *tables

    def _undo(self, side: Passes) -> int:
        """Bytes that may have to be put back."""
        s = self.datapath.state
        arrays = s.cells[0].nbytes + s.written[0].nbytes + s.wear[0].nbytes
        return int(side.spans[side.spans[:, 0] != CLEAN, 3].sum()) + len(side.arrays) * arrays

    def _host_fits(self, times: int) -> bool:
        """Make host memory large enough; False if a sample is outside of what it may have."""
        end, regs = 0, self.datapath.state.regs
        for view, register, offset in set(self.body.samples):
            first = (regs[register] if register else 0) + offset
            last = first + (self.body.moves[register] * (times - 1) if register else 0)
            if first < 0 or last < 0:
                return False
            end = max(end, view.high + max(first, last) * view.batch)
        if end > self.datapath.machine.host.memory_bytes:
            return False
        self.datapath.state.grow_host(end)
        return True

    def _prepare(self) -> bool:
        """Prepare the weights that the loop does not change; False if cells were never written."""
        for op in self.used.values():
            if op.weights is None:
                continue
            matrix, key = op.weights[:2]
            if not self.datapath.loaded(matrix):
                return False
            if matrix not in self.written and key not in matrix.ready:
                self.datapath.prepare(op)
        return True

    def _book(self, phase: PhaseCounter, times: int) -> None:
        for key, n in self.outside.items():
            phase.executed[key] = phase.executed.get(key, 0) + n * times
        for start, executed in self.regions:
            phase.region(start, executed).times += times

    def _fail(self, phase: PhaseCounter, at: int, found: int) -> None:
        """Book what ran up to the step that failed and trap there."""
        turns, step = divmod(at, len(self.steps) - 1)
        if turns:
            self._book(phase, turns)
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


def _with_aliases(matrices: Iterable[BoundMatrix]) -> set[BoundMatrix]:
    """These matrices and those that share cells with them."""
    found = set(matrices)
    return found | {other for m in found for other in m.aliases}
