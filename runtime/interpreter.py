"""Runs programs: binds the code once, executes it with hardware loops, counts cycles and events by the instructions'
declarations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NoReturn

import numba
import numpy as np
import numpy.typing as npt

from sasimc.isa import instructions  # noqa: F401  (fills the table of instructions)
from sasimc.isa.analysis.timing import Limits, limited_cycles, region_limits
from sasimc.isa.errors import SasError, near
from sasimc.isa.program import Program
from sasimc.isa.spec import EVENTS, PHASES, Cost
from sasimc.runtime.engines.base import EngineBase, PhaseCounter, Region
from sasimc.runtime.engines.bind import Binder, instruction_text, match_loops, trap
from sasimc.runtime.engines.cells import gather_block, scatter_block
from sasimc.runtime.engines.operands import BindError, BoundMatrix, BoundView
from sasimc.runtime.engines.products import BitserialEngine, FusedEngine, ProductEngine
from sasimc.runtime.engines.step import StepEngine
from sasimc.runtime.engines.tapes import Tape, build_tape
from sasimc.runtime.state import RowWrites, Snapshot, State

__all__ = ["ENGINES", "Interpreter"]

ENGINES: Final[Mapping[str, type[EngineBase]]] = {
    "bitserial": BitserialEngine,
    "fused": FusedEngine,
    "step": StepEngine,
}

_EMPTY = -1
_ENDLESS: Final = 1 << 62
_MAX_THREADS: Final = int(getattr(numba, "config").NUMBA_NUM_THREADS)  # noqa: B009 (its type stub does not export it)


class Interpreter:
    """One simulated machine that runs one program.

    ``engine`` is ``bitserial``, ``fused`` or ``step``: same values, cycles and events. ``threads``: how many
    work on a program (None: as many as numba is set up for, all cores). State survives from run to run, as on the device.

    Raises:
        SasError: the program cannot run on its machine (operands out of range or illegal, no such engine, not enough
            memory).
    """

    def __init__(self, program: Program, engine: str = "bitserial", threads: int | None = None) -> None:
        if engine not in ENGINES:
            raise SasError(
                f"there is no engine {engine!r}", hint=near(engine, tuple(ENGINES)) or f"engines: {', '.join(ENGINES)}"
            )
        if threads is not None and threads < 1:
            raise SasError(f"{threads} threads", hint="at least one thread is needed")
        self.program, self.machine = program, program.machine
        self.threads = min(threads or _MAX_THREADS, _MAX_THREADS)
        self._binder = Binder(program)
        self.state: State = self._binder.state
        self.engine = ENGINES[engine](self.machine, self.state, match_loops(program), self._trap)
        self._code = [self._binder.instruction(i) for i in range(len(program.code))]
        self._load_matrices()
        self._costs: dict[tuple[int, int, int], Cost] = {}
        self.stepped: tuple[int, int, int] = (0, 0, 0)
        self.engine.price = self._price
        self._tapes: dict[int, Tape | None] = {}
        if isinstance(self.engine, ProductEngine):
            self.engine.threads, self.engine.tape_of = self.threads, self._tape
        if isinstance(self.engine, StepEngine):
            self.engine.declared = lambda r0, r1: self.cost((self.engine.index, r0, r1))

    def _load_matrices(self) -> None:
        """Put every matrix that has a tensor into its cells (not counted: the arrays are loaded before the program
        runs)."""
        for name, matrix in self.program.matrices.items():
            try:
                bound = self._binder.matrix(name)
                if matrix.tensor:
                    self._store(bound, self.program.matrix_values(matrix))
            except BindError as exc:
                raise SasError(exc.diagnostic.message, where=name) from None
            except KeyError:
                raise SasError(f"the weights file has no tensor {matrix.tensor!r}", where=name) from None
            except ValueError as exc:
                raise SasError(
                    f"tensor {matrix.tensor!r} does not fit a {matrix.k} x {matrix.n} matrix: {exc}", where=name
                ) from None
        self._binder.link()

    def _tape(self, start: int) -> Tape | None:
        """The tape of the loop at instruction ``start``, None if it is interpreted."""
        if start not in self._tapes:
            self._tapes[start] = build_tape(self.engine, self.program, self._code, start)
        return self._tapes[start]

    def _store(self, mat: BoundMatrix, values: npt.NDArray[np.int8]) -> None:
        scatter_block(self.state.cells, self.state.written, mat.index, 0, 0, np.ascontiguousarray(values).view(np.uint8))
        mat.changed()

    def _trap(self, index: int, kind: str, detail: str) -> NoReturn:
        trap(self.program, index, kind, detail)

    # -------------------------------------------------------------------------------------------------------- running

    @property
    def regs(self) -> list[int]:
        """Scalar registers; r0 is 0."""
        return self.state.regs

    def _entry(self, entry: str) -> int:
        if entry not in self.program.entries:
            known = tuple(self.program.entries)
            raise SasError(
                f"there is no entry point {entry!r}",
                hint=near(entry, known) or f"entry points: {', '.join(known) or 'none'}",
            )
        return self.program.entries[entry]

    def run(self, entry: str, max_instructions: int | None = None) -> None:
        """Execute from an entry point to ``halt``.

        Raises:
            Trap: the machine stopped an instruction (also when more than ``max_instructions`` were issued).
            SasError: no such entry.
        """
        engine, code, regs = self.engine, self._code, self.state.regs
        engine.start(self._entry(entry))
        engine.budget = _ENDLESS if max_instructions is None else max_instructions
        last = len(code)
        while engine.running:
            pc = engine.pc
            if pc >= last:
                trap(self.program, pc, "end of code", "execution ran past the last instruction; is a halt missing?")
            if engine.budget <= 0:
                trap(self.program, pc, "instruction limit", f"more than {max_instructions} instructions")
            engine.budget -= 1
            run, operands, reg, offset, span, height = code[pc]
            if reg < 0:
                r0 = r1 = 0
            else:
                r0 = regs[reg] + offset
                r1 = r0 + span
                if r0 < 0:
                    r0 = 0
                if r1 > height:
                    r1 = height
                if r1 <= r0:
                    r0 = r1 = _EMPTY
            executed = engine.phase.executed
            key = (pc, r0, r1)
            executed[key] = executed.get(key, 0) + 1
            engine.index = pc
            engine.pc = pc + 1
            if r0 >= 0:
                run(engine, operands, r0, r1)

    def steps(self, entry: str) -> Iterator[int]:
        """Execute one instruction at a time; yields the index of each after it has been executed (``stepped``: with its rows, for
        :meth:`cost`)."""
        engine = self.engine
        engine.start(self._entry(entry))
        engine.budget = 0  # no loop runs as a whole
        while engine.running:
            pc = engine.pc
            if pc >= len(self._code):
                trap(self.program, pc, "end of code", "execution ran past the last instruction; is a halt missing?")
            run, operands, reg, offset, span, height = self._code[pc]
            r0 = r1 = 0
            if reg >= 0:
                r0, r1 = max(0, self.state.regs[reg] + offset), min(height, self.state.regs[reg] + offset + span)
                if r1 <= r0:
                    r0 = r1 = _EMPTY
            key = self.stepped = (pc, r0, r1)
            engine.phase.executed[key] = engine.phase.executed.get(key, 0) + 1
            engine.index, engine.pc = pc, pc + 1
            if r0 >= 0:
                run(engine, operands, r0, r1)
            yield pc

    # ------------------------------------------------------------------------------------------------------- counters

    def cost(self, key: tuple[int, int, int]) -> Cost:
        """Cycles and data-independent events of one execution of (instruction, r0, r1)."""
        found = self._costs.get(key)
        if found is None:
            pc, r0, r1 = key
            if r0 == _EMPTY:
                found = Cost(self.machine.controller.issue_cycles, instructions=1)
            else:
                found = self.program.code[pc].spec.cost(self.machine, self._code[pc].operands, r0, r1)
            self._costs[key] = found
        return found

    def _phase_cycles(self, phase: PhaseCounter) -> int:
        serial = sum(self.cost(key).cycles * times for key, times in phase.executed.items())
        if phase.outer is not None:  # within a region
            serial += sum(self.cost(key).cycles * times for key, times in phase.outer.items())
        return serial + sum(self.length(r) * r.times for known in phase.regions.values() for r in known) - phase.skipped

    def length(self, region: Region) -> int:
        """Cycles an overlapped region takes once, nothing skipped."""
        if region.length is None:
            region.length = limited_cycles(self.machine, self._limits(region.executed))
        return region.length

    def _limits(self, region: dict[tuple[int, int, int], int]) -> Limits:
        return region_limits(
            self.machine, [(self.program.code[key[0]].spec, self.cost(key), times) for key, times in region.items()]
        )

    def overlap(self, region: dict[tuple[int, int, int], int]) -> int:
        """Cycles an overlapped region takes less than its instructions one after the other."""
        limits = self._limits(region)
        return limits[0] - limited_cycles(self.machine, limits)

    def _price(self, region: dict[tuple[int, int, int], int]) -> Callable[[int], int]:
        """By how many cycles a region is shorter when so many cycles of its arrays are skipped."""
        limits = self._limits(region)
        return lambda skipped: limited_cycles(self.machine, limits) - limited_cycles(self.machine, limits, skipped)

    def _phase_events(self, phase: PhaseCounter) -> dict[str, int]:
        total = dict.fromkeys(EVENTS, 0)
        for key, times in phase.total().items():
            for event, n in self.cost(key).events.items():
                total[event] += n * times
        for event, counts in phase.measured.items():
            total[event] += sum(counts.values())
        return total

    @property
    def cycles(self) -> int:
        """Cycles since the counters were reset."""
        return sum(self._phase_cycles(p) for p in self.engine.phases.values())

    @property
    def phase_cycles(self) -> dict[str, int]:
        """Cycles by phase (``mode``)."""
        return {name: self._phase_cycles(self.engine.phases[name]) for name in PHASES}

    @property
    def cycles_saved(self) -> int:
        """Cycles that zero input bits saved since the counters were reset (0 unless ``bit_serial.zero_skip`` is ``cycles``)."""
        return sum(p.skipped for p in self.engine.phases.values())

    @property
    def phase_events(self) -> dict[str, dict[str, int]]:
        """Events by phase."""
        return {name: self._phase_events(self.engine.phases[name]) for name in PHASES}

    @property
    def events(self) -> dict[str, int]:
        """Every event kind of `sasimc.isa.spec.EVENTS` and its count since the counters were reset."""
        total = dict.fromkeys(EVENTS, 0)
        for events in self.phase_events.values():
            for event, n in events.items():
                total[event] += n
        return total

    @property
    def instruction_cycles(self) -> dict[int, tuple[int, int]]:
        """Executions and cycles (nothing overlapped, nothing skipped) of every static instruction that ran
        (``program.code[i].origin`` names its ONNX node)."""
        out: dict[int, tuple[int, int]] = {}
        for phase in self.engine.phases.values():
            for key, times in phase.total().items():
                ran, cycles = out.get(key[0], (0, 0))
                out[key[0]] = (ran + times, cycles + self.cost(key).cycles * times)
        return out

    def reset_counters(self) -> None:
        """Set cycles and events to zero; the state stays."""
        self.engine.reset_counters()

    def instruction(self, index: int) -> str:
        """An instruction's text and origin, for messages."""
        instr = self.program.code[index]
        return f"instruction {index} `{instruction_text(instr)}`" + (f" of {instr.origin.node}" if instr.origin.node else "")

    # --------------------------------------------------------------------------------------- looking in, from outside

    def _view(self, name: str, index: int) -> tuple[BoundView, npt.NDArray[Any]]:
        """A bound view and its physical rows."""
        if name not in self.program.views:
            raise SasError(f"there is no view {name!r}", hint=near(name, tuple(self.program.views)))
        view = self._binder.view(name)
        if view.space != "host":
            return view, view.phys
        if index < 0:
            raise SasError(f"sample {index} of {name}: it must not be negative")
        self.state.grow_host(view.high + index * view.batch)
        return view, view.in_host(self.state.host, index)

    def read_view(self, name: str, index: int = 0) -> npt.NDArray[Any]:
        """A copy of a view's contents [H, W, C] in its type (``bit`` views as 0 and 1); ``index`` is the sample of a
        host view.

        Raises:
            SasError: no such view, or outside host memory.
        """
        view, phys = self._view(name, index)
        rows = view.get(0, view.height, phys)
        if view.dtype == "bit":
            bits = np.unpackbits(rows.reshape(view.height, -1), axis=1, bitorder="little")
            return bits[:, : view.width * view.channels].reshape(view.shape)
        return rows.copy()

    def write_view(self, name: str, array: npt.ArrayLike, index: int = 0) -> None:
        """Set a view's contents; the array must have the view's shape (or as many elements) and values of its type.

        Raises:
            SasError: no such view, wrong size, a value that the type does not have.
        """
        view, phys = self._view(name, index)
        values = np.asarray(array)
        if values.dtype.kind not in "iub":
            raise SasError(f"{name} holds integers; the array is {values.dtype}")
        if values.size != np.prod(view.shape):
            raise SasError(f"{name} is {view.shape}; the array is {values.shape}")
        low, high = view.limits
        if values.min() < low or values.max() > high:
            raise SasError(f"{name} is {view.dtype} ({low}..{high}); the array has values {values.min()}..{values.max()}")
        values = values.reshape(view.shape)
        if view.dtype == "bit":
            packed = np.packbits(values.reshape(view.height, -1).astype(np.uint8), axis=1, bitorder="little")
            view.put(0, packed[:, None, :], phys)
        else:
            view.put(0, values.astype(view.np_dtype), phys)

    def _matrix(self, name: str) -> BoundMatrix:
        if name not in self.program.matrices:
            raise SasError(f"there is no matrix {name!r}", hint=near(name, tuple(self.program.matrices)))
        return self._binder.matrix(name)

    def read_matrix(self, name: str) -> npt.NDArray[np.int8]:
        """Weights int8 [K, N] as they stand in the cells (0 where never written)."""
        mat = self._matrix(name)
        out = np.zeros((mat.k, mat.n), np.uint8)
        gather_block(self.state.cells, mat.index, 0, 0, mat.k, out)
        return out.view(np.int8)

    def write_matrix(self, name: str, values: npt.ArrayLike) -> None:
        """Load weights [K, N] into every copy of a matrix (not counted), and of other matrices that hold the same tensor.

        Raises:
            SasError: no such matrix, wrong shape, values outside int8.
        """
        mat, array = self._matrix(name), np.asarray(values)
        if array.size != mat.k * mat.n or array.dtype.kind not in "iu" or array.min() < -128 or array.max() > 127:
            raise SasError(f"{name} takes {mat.k} x {mat.n} int8 weights; the array is {array.shape} {array.dtype}")
        values8 = array.reshape(mat.k, mat.n).astype(np.int8)
        for other, described in self.program.matrices.items():
            if other == name or (mat.tensor and described.tensor == mat.tensor):
                self._store(self._binder.matrix(other), values8)

    def program_matrix(self, name: str, values: npt.NDArray[np.int8]) -> RowWrites:
        """Write weights [K, N] as the host does on a running device: into every copy, and into other matrices of the same tensor, each word line
        whose content changes. Counted by row (``state.wear``) and in the result, not among the events, which are the program's.

        Raises:
            SasError: no such matrix.
        """
        mat, state, total = self._matrix(name), self.state, RowWrites()
        bits = np.ascontiguousarray(values, np.int8).reshape(mat.k, mat.n).view(np.uint8)
        for other, described in self.program.matrices.items():
            if other != name and not (mat.tensor and described.tensor == mat.tensor):
                continue
            for t in described.tiles:
                lines, columns = slice(t.row, t.row + t.rows), slice(t.col, t.col + t.cols)
                change = state.cells[t.subarray, lines, columns] ^ bits[t.k : t.k + t.rows, t.n : t.n + t.cols]
                rows = change.any(axis=1)
                state.cells[t.subarray, lines, columns] ^= change
                state.written[t.subarray, lines, columns] = True
                state.wear[t.subarray, lines] += rows
                flipped = int(np.unpackbits(change).sum())
                total += RowWrites(int(rows.sum()), 8 * t.cols * int(rows.sum()), flipped)
            self._binder.matrix(other).changed()
        return total

    def snapshot(self) -> Snapshot:
        """A copy of the state."""
        return self.state.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Set the state to a snapshot of this or another interpreter of the same machine."""
        self.state.restore(snapshot)
        self.cells_changed()

    def cells_changed(self) -> None:
        """To be called when ``state.cells`` was changed from outside: what engines derived from the cells is void."""
        for name in self.program.matrices:
            self._binder.matrix(name).ready.clear()
