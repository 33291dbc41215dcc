"""Runs programs: binds the code once, follows its control flow, counts cycles and events by the instructions' declarations."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numba
import numpy as np
import numpy.typing as npt

from sasimc.isa import instructions  # noqa: F401  (fills the table of instructions)
from sasimc.isa.analysis.standing import Standing
from sasimc.isa.analysis.timing import Limits, limited_cycles, region_limits
from sasimc.isa.errors import SasError, near
from sasimc.isa.program import Program
from sasimc.isa.spec import EVENTS, PHASES, Cost
from sasimc.isa.walk import EMPTY, Key, Place, Walker
from sasimc.runtime.engines.bind import Binder, check_loops, instruction_text, trap
from sasimc.runtime.engines.counters import Counters, Counts, Executed, PhaseCounter, Region
from sasimc.runtime.engines.datapath import Datapath
from sasimc.runtime.engines.operands import BindError, BoundMatrix, BoundView
from sasimc.runtime.engines.plans import LoopPlan
from sasimc.runtime.engines.step import StepDatapath
from sasimc.runtime.engines.stretches import Stretch
from sasimc.runtime.engines.unroll import NotNative, unroll
from sasimc.runtime.kernels.cells import load, stored
from sasimc.runtime.state import RowWrites, Snapshot, State

__all__ = ["ENGINES", "Interpreter", "Mark"]

ENGINES: Final[Mapping[str, type[Datapath]]] = {"bitserial": Datapath, "fused": Datapath, "step": StepDatapath}

_ENDLESS: Final = 1 << 62
_WHOLE: Final = 200_000
"""Instructions to execute from which on a run is taken to go on undisturbed."""
_PLANS: Final = 64
"""Plans kept of one loop that needs one for each start."""
_STRETCHES: Final = 8
"""Stretches from one instruction on, for different registers; where there are more there are none."""
_MAX_THREADS: Final = int(getattr(numba, "config").NUMBA_NUM_THREADS)  # noqa: B009 (its type stub does not export it)


@dataclass(frozen=True)
class Mark:
    """Where a run stands and what was counted up to there."""

    place: Place
    counts: Counts


class _Run(Walker):
    """Control flow of a run: regions and phases are counted, loops run as plans where they can. ``opened``: loops, by their first instruction, that
    are interpreted all the same. ``budget``: instructions that may still be issued."""

    def __init__(self, it: Interpreter) -> None:
        super().__init__(it.program, [bound.operands for bound in it.code], it.state.regs)
        self._it, self.budget = it, _ENDLESS
        self.opened: Collection[int] = ()

    def start(self, pc: int) -> None:
        super().start(pc)
        self._it.counters.select(self.phase)

    def loop(self, count: int) -> None:
        it, start = self._it, self.pc - 1
        most = it.machine.controller.loop_depth
        if count > 0 and len(self.stack) >= most:
            it.datapath.trap("loop depth", f"more than {most} nested loops")
        if count > 0 and start not in self.opened:
            plan = it.plan(start, count)
            issued = 0 if plan is None else plan.run(count, self.budget, most - len(self.stack))
            if issued:
                self.budget -= issued
                self.pc = self.ends[start] + 1
                return
        super().loop(count)

    def end_loop(self) -> None:
        if not self.stack:
            self._it.datapath.trap("loop depth", "end of a loop that was not begun")
        super().end_loop()

    def region(self, begin: bool) -> None:
        phase = self._it.counters.phase
        if begin:
            phase.open_region(self.pc - 1)
        else:
            phase.close_region()

    def set_phase(self, phase: str) -> None:
        self._it.datapath.settle()
        super().set_phase(phase)
        self._it.counters.select(phase)


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
        self.program, self.machine, self.engine = program, program.machine, engine
        self.threads = min(threads or _MAX_THREADS, _MAX_THREADS)
        self._binder = Binder(program)
        self.state: State = self._binder.state
        check_loops(program)
        self.code = [self._binder.instruction(i) for i in range(len(program.code))]
        self._costs: dict[Key, Cost] = {}
        self.counters = Counters(self.machine, self._limits)
        self.datapath = ENGINES[engine](program, self.state, self.code, engine, self.counters, self._trap, self.threads)
        if isinstance(self.datapath, StepDatapath):
            self.datapath.declared = lambda number, r0, r1: self.cost((number, r0, r1))
        self._load_matrices()
        self._run = _Run(self)
        self._plans: dict[int, list[tuple[list[int], int, LoopPlan]]] = {}
        self._stretches: dict[int, list[Stretch]] = {}
        self._together = engine != "step" and self.machine.bit_serial.zero_skip != "cycles"
        self._interpreted: dict[int, NotNative] = {}
        self.stepped: Key = (0, 0, 0)
        self._ran: str | None = None  # the last entry that ran to its end, the registers it began with, views written since
        self._began: list[int] = []
        self._since: list[str] = []
        self._standing: Standing | None = None
        self._load_biases()

    def _load_matrices(self) -> None:
        """Put every matrix that has a tensor into its cells (not counted: the arrays are loaded before the program
        runs)."""
        for name, matrix in self.program.matrices.items():
            try:
                bound = self._binder.matrix(name)
                if matrix.tensor:
                    self._store(bound, self.program.matrix_values(matrix))
            except BindError as exc:
                raise SasError(exc.diagnostic.message.removeprefix(f"{name}: "), where=name) from None
            except KeyError:
                raise SasError(f"the weights file has no tensor {matrix.tensor!r}", where=name) from None
            except ValueError as exc:
                raise SasError(
                    f"tensor {matrix.tensor!r} does not fit a {matrix.k} x {matrix.n} matrix: {exc}", where=name
                ) from None
        self._binder.link()

    def _load_biases(self) -> None:
        """Likewise learned biases into host memory."""
        for bias in self.program.learned_biases.values():
            self.write_view(bias.view, self.program.tensors[bias.view])

    def plan(self, start: int, passes: int, regs: Sequence[int] | None = None) -> LoopPlan | None:
        """The plan of the loop at instruction ``start`` for these registers (None: as they are); None if it is interpreted."""
        if start in self._interpreted:
            return None
        known, regs = self._plans.setdefault(start, []), self.state.regs if regs is None else regs
        for first, times, plan in known:
            if (times == passes or not plan.whole) and plan.fits(regs, first):
                return plan
        try:
            body = unroll(self._run, start, regs, passes)
            plan = LoopPlan(self.datapath, body)
        except NotNative as exc:
            self._interpreted[start] = exc
            return None
        if len(known) >= _PLANS:
            known.pop(0)
        known.append((list(regs), passes, plan))
        return plan

    def stretch(self, stops: Collection[int] = (), make: bool = True) -> bool:
        """Run straight code and loops from the next instruction on as one plan; False if there is none, or it would run into ``stops``. ``make``: whether
        it is worth making one that is not known."""
        run, regs = self._run, self.state.regs
        known, opened = self._stretches.setdefault(run.pc, []), self.counters.in_region
        found = next((s for s in known if s.fits(regs, run.phase, opened=opened)), None)
        if found is None:
            if len(known) >= _STRETCHES or not make:
                return False
            found = Stretch(self.datapath, run, self.plan, opened=opened)
            known.append(found)
        if not found.length or found.length > run.budget or (stops and not found.instructions.isdisjoint(stops)):
            return False
        run.pc, run.phase, run.running = found.run(regs)
        run.budget -= found.issued
        return found.issued > 0

    @property
    def slow_loops(self) -> dict[int, str]:
        """Loops that were interpreted, by their first instruction: which instruction of theirs needs that, and why. Empty for the reference
        engine, which runs everything step by step."""
        if self.engine == "step":
            return {}
        return {start: f"{self.instruction(exc.index)}: {exc.why}" for start, exc in sorted(self._interpreted.items())}

    def _store(self, mat: BoundMatrix, values: npt.NDArray[np.int8]) -> None:
        load(self.state.cells, self.state.written, mat.index, np.ascontiguousarray(values).view(np.uint8))
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
        run, began = self._run, list(self.state.regs)
        run.start(self._entry(entry))
        self._ran = None
        run.budget, run.opened = _ENDLESS if max_instructions is None else max_instructions, ()
        settled = True  # as a stretch leaves everything
        try:
            while run.running:
                if run.budget <= 0 and run.pc < len(self.code):
                    trap(self.program, run.pc, "instruction limit", f"more than {max_instructions} instructions")
                if self._together and not run.stack and self.stretch():
                    continue
                run.budget -= 1
                settled = False
                self._next()
        finally:
            if not settled:
                self.datapath.settle()
        self._ran, self._began, self._since, self._standing = entry, began, [], None

    def begin(self, entry: str) -> None:
        """Stand before the first instruction of an entry point; :meth:`advance` runs it.

        Raises:
            SasError: no such entry.
        """
        self._run.start(self._entry(entry))
        self._ran = None

    def advance(self, most: int = _ENDLESS, stops: Collection[int] = (), opened: Collection[int] = ()) -> int:
        """Execute up to ``most`` instructions of the run that was begun; returns how many.

        It ends before an instruction of ``stops``, but the first is always executed. These must not lie in loops that run as plans: ``opened`` are the
        loops (by their first instruction) that do not.

        Raises:
            Trap: as :meth:`run`.
        """
        run = self._run
        run.budget, run.opened = most, opened
        whole = not stops and most >= _WHOLE
        settled = True  # as a stretch leaves everything
        try:
            while run.running and run.budget > 0:
                if not (self._together and not run.stack and self.stretch(stops, whole)):
                    run.budget -= 1
                    settled = False
                    self.stepped = self._next()
                if run.pc in stops:
                    break
        finally:
            if not settled:
                self.datapath.settle()
        return most - run.budget

    @property
    def at(self) -> Walker:
        """Where the run that was begun is: next instruction, open loops, phase."""
        return self._run

    def mark(self) -> Mark:
        """Where the run stands and what was counted; the state of the memories is not in it."""
        return Mark(self._run.place, self.counters.copy())

    def return_to(self, mark: Mark) -> None:
        """Stand there again; the memories (``state``) are the caller's matter."""
        self._run.place = mark.place
        self.counters.set(mark.counts)
        self._ran = None

    def steps(self, entry: str) -> Iterator[int]:
        """Execute one instruction at a time; yields the index of each after it has been executed (``stepped``: with its rows, for
        :meth:`cost`)."""
        run = self._run
        run.start(self._entry(entry))
        run.opened, self._ran = run.ends, None
        while run.running:
            self.stepped = self._next()
            self.datapath.settle_one(self.stepped[0])
            yield self.stepped[0]

    def _next(self) -> Key:
        """Execute one instruction, or a loop that begins with it."""
        run = self._run
        pc = run.pc
        if pc >= len(self.code):
            trap(self.program, pc, "end of code", "execution ran past the last instruction; is a halt missing?")
        r0, r1 = run.rows(pc)
        key = (pc, r0, r1)
        executed = self.counters.phase.executed
        executed[key] = executed.get(key, 0) + 1
        self.datapath.index = pc
        if self.code[pc].spec.group == "control":
            run.execute(pc)
        else:
            run.pc = pc + 1
            if (r0, r1) != EMPTY:
                self.datapath.execute(pc, r0, r1)
        return key

    # ------------------------------------------------------------------------------------------------------- counters

    def cost(self, key: Key) -> Cost:
        """Cycles and data-independent events of one execution of (instruction, r0, r1)."""
        found = self._costs.get(key)
        if found is None:
            pc, r0, r1 = key
            if (r0, r1) == EMPTY:
                found = Cost(self.machine.controller.issue_cycles, instructions=1)
            else:
                found = self.program.code[pc].spec.cost(self.machine, self.code[pc].operands, r0, r1)
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

    def _limits(self, region: Executed) -> Limits:
        return region_limits(
            self.machine, [(self.program.code[key[0]].spec, self.cost(key), times) for key, times in region.items()]
        )

    def overlap(self, region: Executed) -> int:
        """Cycles an overlapped region takes less than its instructions one after the other."""
        limits = self._limits(region)
        return limits[0] - limited_cycles(self.machine, limits)

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
        return sum(self._phase_cycles(p) for p in self.counters.phases.values())

    @property
    def phase_cycles(self) -> dict[str, int]:
        """Cycles by phase (``mode``)."""
        return {name: self._phase_cycles(self.counters.phases[name]) for name in PHASES}

    @property
    def cycles_saved(self) -> int:
        """Cycles that zero input bits saved since the counters were reset (0 unless ``bit_serial.zero_skip`` is ``cycles``)."""
        return sum(p.skipped for p in self.counters.phases.values())

    @property
    def phase_events(self) -> dict[str, dict[str, int]]:
        """Events by phase."""
        return {name: self._phase_events(self.counters.phases[name]) for name in PHASES}

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
        for phase in self.counters.phases.values():
            for key, times in phase.total().items():
                ran, cycles = out.get(key[0], (0, 0))
                out[key[0]] = (ran + times, cycles + self.cost(key).cycles * times)
        return out

    def reset_counters(self) -> None:
        """Set cycles and events to zero; the state stays."""
        self.counters.reset()

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

    def read_view(self, name: str, index: int = 0, *, stale: bool = False) -> npt.NDArray[Any]:
        """A copy of a view's contents [H, W, C] in its type (``bit`` views as 0 and 1); ``index`` is the sample of a
        host view. ``stale``: the bytes as they are, also where the last run wrote them through another view.

        Raises:
            SasError: no such view, outside host memory, or (unless ``stale``) overwritten.
        """
        view, phys = self._view(name, index)
        if not stale and view.space == "buf" and (problem := self._overwritten(name)):
            hint = "Device.activations copies tensors when they are computed; stale=True reads the bytes as they are"
            raise SasError(f"{problem} when entry {self._ran} had ended", hint=hint)
        rows = view.get(0, view.height, phys)
        if view.dtype == "bit":
            bits = np.unpackbits(rows.reshape(view.height, -1), axis=1, bitorder="little")
            return bits[:, : view.width * view.channels].reshape(view.shape)
        return rows.copy()

    def read_rows(self, name: str, first: int, last: int, index: int = 0) -> npt.NDArray[Any]:
        """A copy of rows first..last of a view, as the bytes are (of ``bit`` views packed)."""
        view, phys = self._view(name, index)
        return view.get(first, last, phys).copy()

    def _overwritten(self, name: str) -> str:
        """What the last whole run left of a buffer view (empty: it stands, or nobody knows)."""
        if self._ran is None:
            return ""
        if self._standing is None:
            self._standing = Standing(self.program, self._ran, self._began, self._since)
        return self._standing.problem(self.program.views[name])

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
        self._since.append(name)
        self._standing = None

    def _matrix(self, name: str) -> BoundMatrix:
        if name not in self.program.matrices:
            raise SasError(f"there is no matrix {name!r}", hint=near(name, tuple(self.program.matrices)))
        return self._binder.matrix(name)

    def read_matrix(self, name: str) -> npt.NDArray[np.int8]:
        """Weights int8 [K, N] as they stand in the cells (0 where never written)."""
        mat = self._matrix(name)
        return stored(self.state.cells, mat.index, mat.k, mat.n).view(np.int8)

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
        self._ran = None
        self.cells_changed()

    def cells_changed(self) -> None:
        """Invalidate what was derived from the cells, after ``state.cells`` was changed from outside."""
        for name in self.program.matrices:
            mat = self._binder.matrix(name)
            mat.ready.clear()
            mat.initialised = False
