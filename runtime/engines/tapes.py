"""Hardware loops as tapes: the body unrolled once, its instructions lowered to operations that run without the interpreter.

A loop becomes a tape when its control flow and row ranges follow from the code alone (which is so for the loop over samples of compiled
programs) and all its instructions have a lowering; any other loop is interpreted. The tape has the loop's effects and counts, bit for
bit: what each instruction costs is known from the unrolled list, and what depends on data is counted while running.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.isa.program import Program
from sasimc.isa.spec import Reg
from sasimc.runtime.engines import tape_kernels as T
from sasimc.runtime.engines.bind import Bound
from sasimc.runtime.engines.lower import Lowered, NotLowered, lower
from sasimc.runtime.engines.operands import BoundView

__all__ = ["Tape", "Unrolled", "build_tape", "unroll"]

_LONGEST = 100_000  # instructions of an unrolled body
_COUNTING = (T.DENSE, T.DEPTHWISE, T.DEPTHWISE_T, T.GRADIENT_OPERANDS)
Key = tuple[int, int, int]

_SCALARS = {"li": T.SET, "addi": T.ADD, "add": T.ADD, "sub": T.SUBTRACT, "max": T.LARGER, "min": T.SMALLER}
_MEANING: Mapping[int, Callable[[int, int], int]] = {
    T.SET: lambda a, b: b, T.ADD: lambda a, b: _wrap(a + b), T.SUBTRACT: lambda a, b: _wrap(a - b), T.LARGER: max, T.SMALLER: min,
}  # fmt: skip


def _wrap(value: int) -> int:
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


class Unrolled:
    """The instructions of one pass through a loop body, in order, as (instruction, r0, r1).

    ``samples``: by place in that list, the sample of host memory an instruction touches, as (register, constant): the register's value at
    the beginning of the pass plus the constant (register 0: the constant). ``moves``: by how much a pass moves each register, where
    that is a constant. ``depth``: loops inside one another.
    """

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.samples: dict[int, tuple[int, int]] = {}
        self.moves: dict[int, int] = {}
        self.depth = 1


def unroll(program: Program, code: list[Bound], match: Mapping[int, int], start: int) -> Unrolled:
    """Unroll the body of the loop at instruction ``start`` up to and including its end.

    Raises:
        NotLowered: control flow or rows depend on something other than the code.
    """
    out, end = Unrolled(), match[start]
    known: dict[int, int] = {0: 0}
    offsets: dict[int, int] = {}
    lost: set[int] = set()
    stack: list[list[int]] = []
    pc = start + 1
    while True:
        if len(out.keys) >= _LONGEST:
            raise NotLowered("the loop is long")
        spec, bound = program.code[pc].spec, code[pc]
        name, o = spec.mnemonic, bound.operands
        r0 = r1 = 0
        if bound.reg >= 0:
            if bound.reg not in known:
                raise NotLowered("rows are not known")
            r0 = max(0, known[bound.reg] + bound.offset)
            r1 = min(bound.height, known[bound.reg] + bound.offset + bound.span)
            if r1 <= r0:
                r0 = r1 = -1
        index = getattr(o, "index", None)
        if index is not None:
            out.samples[len(out.keys)] = (0, known[index]) if index in known else (index, offsets.get(index, 0))
        out.keys.append((pc, r0, r1))
        if pc == end and not stack:
            break
        pc += 1
        if name in ("loop", "loopi"):
            count = o.count if name == "loopi" else known.get(o.count)
            if count is None:
                raise NotLowered("the number of passes is not known")
            if count <= 0:
                pc = match[pc - 1] + 1
                continue
            stack.append([pc, count])
            out.depth = max(out.depth, 1 + len(stack))
        elif name == "endl":
            stack[-1][1] -= 1
            if stack[-1][1]:
                pc = stack[-1][0]
            else:
                stack.pop()
        elif name in ("phase", "halt"):
            raise NotLowered(name)
        elif name in _SCALARS:
            _, rd, ra, rb, immediate = scalar(name, o)
            a, b = known.get(ra), known.get(rb)
            if rd and a is not None and b is not None:
                known[rd] = _MEANING[_SCALARS[name]](a, b + immediate)
                lost.add(rd)
            elif rd:
                known.pop(rd, None)
                if name == "addi" and ra == rd and rd not in lost:
                    offsets[rd] = offsets.get(rd, 0) + immediate
                else:
                    lost.add(rd)
        elif r0 >= 0:
            for f in spec.fields:
                if isinstance(f, Reg) and f.write:
                    known.pop(getattr(o, f.name), None)
                    known[0] = 0
                    lost.add(getattr(o, f.name))
    out.moves = {r: offsets.get(r, 0) for r in range(program.machine.controller.registers) if r not in lost}
    return out


def scalar(name: str, o: Any) -> tuple[int, int, int, int, int]:
    """A register instruction as (which, rd, ra, rb, immediate)."""
    if name == "li":
        return T.SET, o.rd, 0, 0, o.value
    if name == "addi":
        return T.ADD, o.rd, o.rs, 0, o.value
    return _SCALARS[name], o.rd, o.ra, o.rb, 0


# ------------------------------------------------------------------------------------------------------------- the tape


class Tape:
    """One loop, ready to run. `run` returns False, with nothing done, where only the interpreter can tell what happens (a trap that is
    certain, host memory that must not grow, more instructions than may run)."""

    def __init__(self, engine: Any, program: Program, code: list[Bound], body: Unrolled, threads: int) -> None:
        self.program, self.code, self.body = program, code, body
        last: dict[int, int] = {}
        for pc, r0, r1 in body.keys:
            last[pc] = max(last.get(pc, 0), r1 - r0)
        ops: list[npt.NDArray[np.int64]] = []
        self.lowered: dict[int, Lowered] = {}
        first: dict[int, int] = {}
        self.pcs: list[int] = []
        steps: list[tuple[int, int, int, int]] = []
        self.keys: list[int] = []  # of each step, its place in the unrolled list
        self.accesses: set[tuple[BoundView, int, int]] = set()
        shares_before = 0
        for place, (pc, r0, r1) in enumerate(body.keys):
            name, o = program.code[pc].spec.mnemonic, code[pc].operands
            if r0 < 0 or name in ("loop", "loopi", "endl", "ovl", "sync"):
                continue
            if pc not in self.lowered:
                registers = scalar(name, o) if name in _SCALARS else None
                found = self.lowered[pc] = lower(engine, name, o, registers, last[pc])
                first[pc] = len(ops)
                ops += found.ops
                self.pcs += [pc] * len(found.ops)
            found = self.lowered[pc]
            for i in range(len(found.ops)):
                shares = found.shares(i, r0, r1, threads)
                steps.append((first[pc] + i, r0, r1, shares_before))
                self.keys.append(place)
                shares_before += shares
            if found.host is not None:
                register, offset = body.samples[place]
                if register not in body.moves:
                    raise NotLowered("the sample is not known")
                self.accesses.add((found.host, register, offset))
            if found.scratch is not None and r1 - r0 != last[pc]:
                raise NotLowered("a gradient over different numbers of rows")
        steps.append((0, 0, 0, shares_before))
        self.ops, self.steps = np.array(ops, np.int64).reshape(-1, T.WIDTH), np.array(steps, np.int64)
        self.weights = [(first[pc], f.weights) for pc, f in self.lowered.items() if f.weights is not None]
        self._at: list[Any] = [None] * len(self.weights)
        self.scratch = {pc: f.scratch for pc, f in self.lowered.items() if f.scratch is not None}
        used = {id(getattr(code[pc].operands, "mat", None)) for pc in self.lowered}
        if any(id(kin) in used for matrix in self.scratch.values() for kin in matrix.kin):
            raise NotLowered("weights that scratch rows share cells with")
        self.counting = np.flatnonzero(np.isin(self.ops[:, 0], _COUNTING))
        self._book_regions()

    def _book_regions(self) -> None:
        """Split the executions into those outside and inside of overlapped regions."""
        self.outside: dict[Key, int] = {}
        self.regions: list[tuple[int, dict[Key, int]]] = []
        self.controlled = False
        current = self.outside
        for key in self.body.keys:
            current[key] = current.get(key, 0) + 1
            name = self.program.code[key[0]].spec.mnemonic
            self.controlled |= name in ("ovl", "sync")
            if name in ("ovl", "sync"):
                current = self.outside
            if name == "ovl":
                current = {}
                self.regions.append((key[0], current))
        if current is not self.outside:
            raise NotLowered("a region that does not end")

    # --------------------------------------------------------------------------------------------------------- running

    def run(self, engine: Any, times: int) -> bool:
        """Run the body ``times`` times."""
        length = len(self.body.keys) * times
        if length > engine.budget or (self.controlled and engine.phase.outer is not None) or not self._host_fits(engine, times):
            return False
        if len(engine.stack) - 1 + self.body.depth > engine.max_depth or not self._prepare():
            return False
        engine.budget -= length
        regs, machine = engine.words()
        regs[:] = engine.regs
        self.ops[self.counting, T.ONES : T.SPENT] = 0
        control = np.zeros(T.CONTROL, np.int64)
        _together((self.ops, self.steps, times, control, T.handlers(), machine, engine.timed), engine.threads)
        engine.regs[:] = regs.tolist()
        for matrix in self.scratch.values():
            matrix.changed()
        self._measured(engine)
        failed = int(control[T.FAILED])
        if failed:
            self._fail(engine, *divmod(failed - 1, len(self.steps) - 1))
        self._book(engine.phase, times)
        return True

    def _host_fits(self, engine: Any, times: int) -> bool:
        """Make host memory large enough; False if a sample is outside of what it may have."""
        end = 0
        for view, register, offset in self.accesses:
            first = (engine.regs[register] if register else 0) + offset
            last = first + (self.body.moves[register] * (times - 1) if register else 0)
            if first < 0 or last < 0:
                return False
            end = max(end, view.high + max(first, last) * view.batch)
        if end > engine.machine.host.memory_bytes:
            return False
        engine.state.grow_host(end)
        return True

    def _prepare(self) -> bool:
        """Bring the addresses of prepared weights up to date; False if cells were never written."""
        for i, (number, weights) in enumerate(self.weights):
            prepared = weights()
            if prepared is None:
                return False
            if prepared is not self._at[i]:
                self._at[i] = prepared
                self.ops[number, T.S + 2] = prepared.ctypes.data
        return True

    def _measured(self, engine: Any) -> None:
        """Book the events that depend on data."""
        for i, (ones, flips) in zip(self.counting.tolist(), self.ops[self.counting, T.ONES : T.SPENT].tolist(), strict=True):
            engine.index = self.pcs[i]
            if ones:
                engine.measure("sense_ones", ones)
            if flips:
                engine.measure(f"bits_flipped_{self.scratch[engine.index].kind_of_cells}", flips)

    def _book(self, phase: Any, times: int) -> None:
        for key, n in self.outside.items():
            phase.executed[key] = phase.executed.get(key, 0) + n * times
        for start, executed in self.regions:
            phase.region(start, executed).times += times

    def _fail(self, engine: Any, turns: int, step: int) -> None:
        """Book what ran up to the step that failed and trap there."""
        if turns:
            self._book(engine.phase, turns)
        place = self.keys[step]
        for key in self.body.keys[: place + 1]:
            executed, name = engine.phase.executed, self.program.code[key[0]].spec.mnemonic
            executed[key] = executed.get(key, 0) + 1
            if name == "ovl":
                engine.phase.open_region(key[0])
            elif name == "sync":
                engine.phase.close_region()
        engine.index = self.body.keys[place][0]
        engine.pc = engine.index + 1
        engine.refuse(self.program.code[engine.index].spec.mnemonic, self.code[engine.index].operands)


def build_tape(engine: Any, program: Program, code: list[Bound], start: int) -> Tape | None:
    """The tape of the loop at instruction ``start``; None if it has to be interpreted."""
    try:
        return Tape(engine, program, code, unroll(program, code, engine.match, start), engine.threads)
    except NotLowered:
        return None


# -------------------------------------------------------------------------------------------------------------- threads

_jobs: dict[int, SimpleQueue[tuple[Any, ...]]] = {}  # by process: a forked child has none of its parent's threads
_helpers: dict[int, int] = {}


def _help(jobs: SimpleQueue[tuple[Any, ...]]) -> None:
    while True:
        T.run_tape(*jobs.get())


def _together(arguments: tuple[Any, ...], threads: int) -> None:
    """Run a tape on this thread and as many helpers as make up ``threads``; a helper that comes late finds nothing to do."""
    process = os.getpid()
    jobs = _jobs.setdefault(process, SimpleQueue())
    while _helpers.get(process, 0) < threads - 1:
        _helpers[process] = _helpers.get(process, 0) + 1
        threading.Thread(target=_help, args=(jobs,), name="engine", daemon=True).start()
    for _ in range(threads - 1):
        jobs.put(arguments)
    T.run_tape(*arguments)
