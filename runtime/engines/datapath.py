"""The datapath: memories, operand records, and the steps that carry an instruction out, one at a time or as part of a loop's plan."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

import sasimc.runtime.kernels.arrays
import sasimc.runtime.kernels.norms
import sasimc.runtime.kernels.periphery
import sasimc.runtime.kernels.rows
import sasimc.runtime.kernels.training  # noqa: F401  (they fill the table of kernels)
from sasimc.isa.analysis.footprint import footprint
from sasimc.isa.program import Program
from sasimc.isa.record import VIEW, record_type
from sasimc.isa.spec import Choice, GeomField, Imm, Instruction, MatField, Reg, TableField, ViewField
from sasimc.runtime.engines.bind import Bound
from sasimc.runtime.engines.counters import Counters, PhaseCounter
from sasimc.runtime.engines.crew import Crew
from sasimc.runtime.engines.operands import BoundMatrix, BoundView, geometry_record
from sasimc.runtime.kernel import (
    COUNTED,
    FLIPS,
    LINES,
    ONES,
    SATURATED,
    SKIPPED,
    SPENT,
    WRITTEN,
    Code,
    Stage,
    address,
    stages,
)
from sasimc.runtime.kernels.cells import unwritten
from sasimc.runtime.kernels.movement import move_staged
from sasimc.runtime.kernels.run import (
    ALONE,
    APART,
    FAILED,
    FOUND,
    HEAD,
    IN_ORDER,
    LEG,
    LEG_CONTROL,
    MODE,
    OWN,
    PART,
    REGISTER,
    STEP,
    together,
)
from sasimc.runtime.state import State

__all__ = ["Datapath", "Leg", "Operation", "Step", "in_order", "plan_array"]

_SHARE_NS: Final = 1500
"""Work below which a share is not worth handing over, in a plan."""

_STAGING: Final = np.dtype([("number", np.int64), ("into", VIEW), ("of", VIEW), ("words", np.int64)], align=True)

Leg = tuple[int, ...]
"""A row of the table of legs (`kernels.run`), without where its words begin."""

Step = tuple[int, int, int, int, int, int, int, int]
"""A row of a plan (`kernels.run`), with its number of shares in the last place."""


@dataclass
class Operation:
    """An instruction as the datapath runs it. ``record``: address of its operands; ``stages``: with the addresses of their code. ``before`` and
    ``after`` copy operands that kernels cannot address to the staging area and back. ``weights``: the matrix it needs prepared, as what, and the
    stage that does so. ``hosts``: host views and the registers that select their samples. ``writes``: matrices whose cells it changes."""

    spec: type[Instruction]
    operands: Any
    number: int
    record: int = 0
    stages: list[tuple[Stage, int]] = field(default_factory=list)
    before: list[Step] = field(default_factory=list)
    after: list[Step] = field(default_factory=list)
    weights: tuple[BoundMatrix, Any, Stage, int] | None = None
    hosts: list[tuple[BoundView, int]] = field(default_factory=list)
    writes: list[BoundMatrix] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    target: int = 0
    steps: dict[tuple[int, int], tuple[npt.NDArray[np.int64], int]] = field(default_factory=dict)
    keep: list[Any] = field(default_factory=list)


class Datapath:
    """Memories and kernels of one machine. ``index``: the instruction being carried out; ``fail`` raises a trap.

    ``engine``: ``bitserial`` or ``fused``, or a subclass's; ``threads``: how many work; ``timed``: whether to add up the time of every instruction.
    ``wake_ns``: work below which helpers are not worth waking; ``share_ns``: below which it is not worth sharing with those that are awake.
    """

    wake_ns, share_ns = 150_000, 40_000

    def __init__(
        self, program: Program, state: State, code: Sequence[Bound], engine: str, counters: Counters,
        fail: Callable[[int, str, str], NoReturn], threads: int = 1,
    ) -> None:  # fmt: skip
        self.program, self.machine, self.state, self.code, self.engine = program, program.machine, state, code, engine
        self.counters, self._fail, self.threads, self.timed = counters, fail, threads, False
        self.skips = self.machine.bit_serial.zero_skip == "cycles"
        self.index = 0
        self.counts = np.zeros((len(code), COUNTED), np.int64)
        # of the machine, the largest values of passes side by side, and of every thread that works on some
        self._registers = np.zeros((2 + threads, len(state.regs)), np.int64)
        self.registers = self._registers[0]
        self._operations: list[Operation | None] = [None] * len(code)
        self.crew = Crew(state, self._registers, self.counts)
        self._work = 0
        self.counting: dict[int, str] = {}  # phases of instructions that stretches count later

    def trap(self, kind: str, detail: str) -> NoReturn:
        """Stop the current instruction."""
        self._fail(self.index, kind, detail)

    def refuse(self, number: int, found: int) -> NoReturn:
        """Trap for what the kernel of an instruction found."""
        self.index = number
        self.trap(*self.code[number].spec.trap(self.machine, self.code[number].operands, self.state.regs, found))

    # ------------------------------------------------------------------------------------------------------ operations

    def overridden(self, spec: type[Instruction]) -> Callable[..., int] | None:
        """What carries the instruction out instead of kernels, on engines that have their own products."""
        return None

    def operation(self, number: int) -> Operation:
        """An instruction's operation, made when first asked for."""
        found = self._operations[number]
        if found is None:
            found = self._operations[number] = self._make(number)
        return found

    def _make(self, number: int) -> Operation:
        spec, o = self.code[number].spec, self.code[number].operands
        op = Operation(spec, o, number)
        for f in spec.fields:
            value = getattr(o, f.name)
            if isinstance(f, ViewField):
                if f.sample:
                    op.hosts.append((value, getattr(o, f.sample)))
                if value.staged is not None:
                    self._stage(op, value, f.write)
            elif isinstance(f, MatField) and f.write:
                op.writes.append(value)
            elif isinstance(f, Reg) and f.write:
                op.target = value
                op.reads.append(value)
            elif isinstance(f, Reg):
                op.reads.append(value)
        if self.overridden(spec) is not None:
            return op
        found = self._stages(spec, o)
        if not found and spec.group != "control":
            self.trap("no kernel", f"{spec.mnemonic} has no kernel {spec.kernel!r} on {self.engine}")
        needed = [s for s, _ in found]
        self._work = max(self._work, *(s.work(o) for s in needed if s.work), 0)
        rows = spec.rows_field()
        most = min(getattr(o, rows.name).count, getattr(o, rows.of).height) if rows else 0
        matrix = next((getattr(o, f.name) for f in spec.of_kind(MatField) if not f.scratch), None)
        prepare = next((s for s in needed if s.weights), None)
        key = None
        if prepare is not None and prepare.weights is not None and prepare.shape is not None:
            assert matrix is not None
            key = prepare.weights(o)
            if key not in matrix.weights:
                size, blocks, groups = prepare.shape(o)
                matrix.weights[key] = np.empty(size, np.uint8), blocks, groups
        record = np.zeros(1, record_type(spec))
        record["number"], record["most"] = number, most
        for f in spec.fields:
            value = getattr(o, f.name)
            if isinstance(f, MatField):
                record[f.name] = np.array(value.record(key, self.machine if self.skips else None), record[f.name].dtype)
            elif isinstance(f, GeomField):
                record[f.name] = np.array(geometry_record(value, getattr(o, f.inner), getattr(o, f.outer)), record[f.name].dtype)
            elif isinstance(f, (ViewField, TableField)):
                record[f.name] = np.array(value.record(), record[f.name].dtype)
            elif isinstance(f, (Reg, Imm)):
                record[f.name] = value
            elif isinstance(f, Choice):
                record[f.name] = f.words.index(value)
        op.keep.append(record)
        op.record = record.ctypes.data
        for stage, code in found:
            if stage is not prepare:
                op.stages.append((stage, code.address))
            elif matrix is not None:
                op.weights = matrix, key, stage, code.address
        return op

    def _stages(self, spec: type[Instruction], o: Any) -> list[tuple[Stage, Code]]:
        """The stages that an instruction needs with these operands."""
        return [
            (stage, Code(spec.mnemonic, self.engine, place))
            for place, stage in enumerate(stages(spec.kernel, self.engine))
            if stage.when is None or stage.when(o, self.skips)
        ]

    def codes(self, entry: str = "") -> list[Code]:
        """What the program needs compiled, or one entry point of it."""
        found: dict[Code, None] = {}
        for index, bound in enumerate(self.code):
            if entry and self.program.entry_of(index) != entry:
                continue
            spec = bound.spec
            if spec.group == "control" and not spec.flow:
                found[Code(spec.mnemonic, "", -1)] = None
            elif not spec.flow and self.overridden(spec) is None:
                found.update(dict.fromkeys(code for _, code in self._stages(spec, bound.operands)))
        return list(found)

    def _stage(self, op: Operation, view: BoundView, write: bool) -> None:
        """Steps that copy an operand to its dense copy before, and back afterwards if it is written."""
        assert view.staged is not None
        code = address(move_staged, _STAGING)
        for into, of, steps in ((view, view.staged, op.before), (view.staged, view, op.after)):
            if steps is op.before or write:
                record = np.zeros(1, _STAGING)
                record["number"], record["words"] = op.number, int(view.space == "acc")
                record["into"], record["of"] = np.array(into.record(), VIEW), np.array(of.record(), VIEW)
                op.keep.append(record)
                steps.append((record.ctypes.data, code, op.number, PART, 0, view.rows_held, 1, 1))

    # ------------------------------------------------------------------------------------------------------------ steps

    def steps(self, op: Operation, r0: int, r1: int) -> list[Step]:
        """The steps of one execution on rows r0..r1."""
        if op.spec.group == "control":
            return [(op.record, Code(op.spec.mnemonic, "", -1).address, op.number, REGISTER, op.target, 0, 0, 1)]
        out, most = list(op.before), self._most_shares(op, r0, r1)
        rows = op.spec.rows_field()
        width = max((getattr(op.operands, f.name).width for f in op.spec.of_kind(ViewField)), default=1)
        if rows is not None:
            width = getattr(op.operands, rows.of).width
        for stage, code in op.stages:
            split = stage.split or op.spec.split
            grain = stage.grain(op.operands) if callable(stage.grain) else stage.grain
            first, last = (r0 * width, r1 * width) if split == "pixels" else (r0, r1)
            shares = 1
            if split != "whole" and most > 1:
                whole = self._ns(stage, op) * (r1 - r0)
                shares = max(
                    1, min(most, int(whole / _SHARE_NS), self.threads if split == "own" else -(-(last - first) // grain))
                )
            out.append((op.record, code, op.number, OWN if split == "own" else PART, first, max(last, first + 1), grain, shares))
        return out + op.after

    def preparing(self, op: Operation) -> list[Step]:
        """The step that prepares an operation's weights."""
        if op.weights is None:
            return []
        return [(op.record, op.weights[3], op.number, PART, 0, 1, 1, 1)]

    @staticmethod
    def _ns(stage: Stage, op: Operation) -> float:
        """Rough time of a row."""
        if callable(stage.ns):
            return stage.ns(op.operands)
        views = [getattr(op.operands, f.name) for f in op.spec.of_kind(ViewField)]
        geom = next((getattr(op.operands, f.name) for f in op.spec.of_kind(GeomField)), None)
        elements = max(v.width * v.channels for v in views)
        return stage.ns * elements * (1 if geom is None else geom.taps)

    def duration(self, op: Operation, r0: int, r1: int) -> float:
        """Rough time of one execution on one thread, ns."""
        return sum(self._ns(stage, op) for stage, _ in op.stages) * (r1 - r0)

    def _most_shares(self, op: Operation, r0: int, r1: int) -> int:
        """How many shares an execution may be cut into: one unless the rows it writes lie apart from each other and from what it reads."""
        if self.threads == 1:
            return 1
        windows = any(op.spec.of_kind(GeomField))
        touches = list(footprint(op.spec, op.operands, r0, r1))
        for number, w in enumerate(touches):
            if w.access == "r":
                continue
            if not _apart(w.view, w.last - w.first):
                return 1
            for other, t in enumerate(touches):
                if other == number or t.view.space != w.view.space or w.view.space == "host":
                    continue
                same = not windows and w.first == t.first and _layout(t.view) == _layout(w.view)
                if not same and t.view.low < w.view.high and w.view.low < t.view.high:
                    return 1
        return self.threads

    # ---------------------------------------------------------------------------------------------------------- running

    def execute(self, number: int, r0: int, r1: int) -> None:
        """Carry out one instruction."""
        self.index = number
        op = self.operation(number)
        regs = self.state.regs
        for view, register in op.hosts:
            self.in_host(view, regs[register])
        if text := self.displaced(op, r0, r1):
            self.trap("out of range", text)
        own = self.overridden(op.spec)
        if own is not None:
            self._overridden(op, own, r0, r1)
        else:
            if op.weights is not None and op.weights[1] not in op.weights[0].ready:
                self.prepare(op)
            found = op.steps.get((r0, r1))
            if found is None:
                rows = self.steps(op, r0, r1)
                found = op.steps[r0, r1] = plan_array(rows), self.threads if self.duration(op, r0, r1) > self.wake_ns else 1
            for register in op.reads:
                self.registers[register] = regs[register]
            mode = ALONE if found[1] == 1 else IN_ORDER
            control = self.run([in_order(found[0], mode=mode)], found[1], found)
            if op.target:
                regs[op.target] = int(self.registers[op.target])
            failed = int(control[FOUND]) if control[FAILED] else 0
            for matrix in op.writes:
                matrix.changed()
            if failed:
                self.refuse(number, failed)
        if self.skips and (saved := int(self.counts[number, SKIPPED])):
            self.counts[number, SKIPPED] = 0
            self.counters.phase.skip(number, saved)

    def _overridden(self, op: Operation, own: Callable[..., int], r0: int, r1: int) -> None:
        for steps in (op.before, op.after):
            if steps is op.after:
                found = own(op.operands, r0, r1)
                for matrix in op.writes:
                    matrix.changed()
                if found:
                    self.refuse(op.number, found)
            if steps:
                array = plan_array(steps)
                self.run([in_order(array)], 1, array)

    def run(self, legs: Sequence[Leg], threads: int, keep: object, turns: int = 0, undo: int = 0) -> npt.NDArray[np.int64]:
        """Work off a plan on so many threads; the words they shared. ``keep``: what holds the memory that the plan names; ``turns``: most stretches
        of steps that passes of a leg run in turn; ``undo``: bytes that may have to be put back."""
        size = LEG_CONTROL + 8 * turns
        table = np.array([(*leg, HEAD + i * size) for i, leg in enumerate(legs)], np.int64)
        control = np.zeros(HEAD + len(legs) * size, np.int64)  # of this run alone: a helper that comes late still reads its own
        self.crew.fit(self._work, undo, apart=any(leg[MODE] == APART for leg in legs))
        together((table, control, self.crew.table, self.crew.undo, self.counts.reshape(-1), self.timed), threads, keep)
        return control

    def prepare(self, op: Operation) -> None:
        """Bring an operation's weights up to date.

        Raises:
            Trap: a cell was never written.
        """
        assert op.weights is not None
        matrix, key = op.weights[:2]
        self.require(matrix)
        array = plan_array(self.preparing(op))
        self.run([in_order(array)], 1, array)
        matrix.ready.add(key)

    def prepared(self, ops: Iterable[Operation], changing: Container[BoundMatrix] = ()) -> bool:
        """Bring the weights of operations up to date but those that are ``changing``; False if cells were never written."""
        steps: list[Step] = []
        for op in ops:
            if op.weights is not None:
                matrix, key = op.weights[:2]
                if not self.loaded(matrix):
                    return False
                if matrix not in changing and key not in matrix.ready:
                    steps += self.preparing(op)
                    matrix.ready.add(key)
        if steps:
            array = plan_array(steps)
            self.run([in_order(array, mode=ALONE)], 1, array)
        return True

    # ----------------------------------------------------------------------------------------------------------- checks

    def in_host(self, view: BoundView, sample: int) -> None:
        """Make host memory large enough for a sample of a view.

        Raises:
            Trap: the machine has not so much.
        """
        end = view.high + sample * view.batch
        if sample >= 0 and end <= len(self.state.host):
            return
        limit = self.machine.host.memory_bytes
        if sample < 0 or end > limit:
            self.trap("out of range", f"sample {sample} of {view.name} is outside the {limit} bytes of host memory")
        self.state.grow_host(end)

    def displaced(self, op: Operation, r0: int, r1: int) -> str:
        """What is wrong with the rows of displaced operands, an empty string if nothing."""
        for f in op.spec.of_kind(ViewField):
            if f.shift:
                view, first, last = (
                    getattr(op.operands, f.name),
                    r0 + getattr(op.operands, f.shift),
                    r1 + getattr(op.operands, f.shift),
                )
                if first < 0 or last > view.height:
                    return f"rows {first}..{last - 1} of {view.name}, which has {view.height}"
        return ""

    def loaded(self, matrix: BoundMatrix) -> bool:
        """Whether every cell of the matrix was written or loaded."""
        if not matrix.initialised:
            matrix.initialised = unwritten(self.state.written, matrix.index) is None
        return matrix.initialised

    def require(self, matrix: BoundMatrix) -> None:
        """Trap when a cell of the matrix was never written or loaded."""
        if not self.loaded(matrix) and (found := unwritten(self.state.written, matrix.index)) is not None:
            sub, row = found
            self.trap("uninitialised rows", f"word line {row} of sub-array {sub} ({matrix.name}) was never written")

    # --------------------------------------------------------------------------------------------------------- counting

    def settle(self) -> None:
        """Book what kernels counted under the phase that counts now."""
        _ = self.counters.phase  # what is to be counted under others comes first
        for number in self.counted(range(len(self.counts))):
            self.settle_one(number)

    def counted(self, numbers: Collection[int]) -> list[int]:
        """Those of some instructions that have counted something."""
        some = np.fromiter(numbers, np.int64, len(numbers))
        return some[self.counts[some, :SKIPPED].any(axis=1)].tolist()

    def settle_one(self, number: int, phase: PhaseCounter | None = None) -> None:
        """Book what one instruction counted, under a phase (None: the one that counts now)."""
        values = self.counts[number, :SKIPPED].tolist()
        self.counts[number, :SKIPPED] = 0
        if not any(values):
            return
        kind = next((m.kind_of_cells for m in self.operation(number).writes), "compute")
        names = {
            ONES: "sense_ones",
            FLIPS: f"bits_flipped_{kind}",
            LINES: f"rows_written_{kind}",
            WRITTEN: f"bits_written_{kind}",
            SATURATED: "saturated",
        }
        for what, name in names.items():
            if values[what]:
                counts = (phase or self.counters.phase).measured[name]
                counts[number] = counts.get(number, 0) + values[what]

    @property
    def spent(self) -> dict[int, int]:
        """Nanoseconds of every instruction that ran while ``timed`` was set, all threads together."""
        return {int(i): int(self.counts[i, SPENT]) for i in np.flatnonzero(self.counts[:, SPENT])}


def plan_array(steps: Sequence[Step]) -> npt.NDArray[np.int64]:
    """Steps as `kernels.run.run_plan` takes them: shares become the number of shares before."""
    out = np.zeros((len(steps) + 1, STEP), np.int64)
    if steps:
        out[:-1] = steps
    out[1:, -1] = np.cumsum(out[:-1, -1])
    out[0, -1] = 0
    return out


def in_order(steps: npt.NDArray[np.int64], times: int = 1, mode: int = IN_ORDER) -> Leg:
    """A leg that threads work off step by step, or one of them alone."""
    return steps.ctypes.data, len(steps) - 1, times, mode, *[0] * (LEG - MODE - 1)


def _layout(view: BoundView) -> tuple[Any, ...]:
    return view.offset, view.strides, view.np_dtype, view.ring, view.shape


def _apart(view: BoundView, rows: int) -> bool:
    """Whether so many rows of a view lie apart from each other."""
    _, pixels, units = view.phys_shape
    item, (row, pixel, channel) = view.np_dtype.itemsize, view.strides
    extent = (pixels - 1) * pixel + (units - 1) * channel + item
    held = view.rows_held
    return rows <= held and (held == 1 or row >= extent) and (pixels == 1 or pixel >= (units - 1) * channel + item)
