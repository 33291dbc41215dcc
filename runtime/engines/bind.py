"""From a program to bound instructions: descriptors resolved, ranges and legality checked, once, before anything
runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

from sasimc.isa.errors import SasError, Trap
from sasimc.isa.machine import Machine
from sasimc.isa.objects import Geometry, Tile, View
from sasimc.isa.program import Instr, Program
from sasimc.isa.spec import Field, GeomField, MatField, Reg, RowRange, RowsField, TableField, ViewField
from sasimc.isa.text.printer import format_instruction
from sasimc.runtime.engines.operands import MAX_SUM_LENGTH, BindError, BoundMatrix, BoundTable, BoundView, is_plain
from sasimc.runtime.state import State

__all__ = ["Binder", "Bound", "instruction_text", "match_loops", "trap"]

_STAGED_GROUPS = ("array", "periphery")


class Bound(NamedTuple):
    """One instruction ready to run: meaning, operands, and its row range (``reg`` is -1 when it has none)."""

    run: Callable[[Any, Any, int, int], None]
    operands: SimpleNamespace
    reg: int
    offset: int
    span: int
    height: int


def instruction_text(instr: Instr) -> str:
    """The instruction as a line of assembly, for messages."""
    try:
        return format_instruction(instr)
    except (TypeError, ValueError, AssertionError):  # operands that are no operands
        return f"{instr.spec.mnemonic} {instr.operands}"


def trap(program: Program, index: int, kind: str, detail: str) -> NoReturn:
    """Raise a trap of instruction ``index`` (which may lie behind the code)."""
    if not 0 <= index < len(program.code):
        raise Trap(kind, detail, index=index, source=program.source)
    instr = program.code[index]
    raise Trap(
        kind,
        detail,
        index=index,
        text=instruction_text(instr),
        line=instr.line,
        node=instr.origin.node,
        source=program.source,
    )


def match_loops(program: Program) -> dict[int, int]:
    """Index of the end of every loop.

    Raises:
        Trap: a loop without end, an end without loop.
    """
    out: dict[int, int] = {}
    open_: list[int] = []
    for i, instr in enumerate(program.code):
        if instr.spec.mnemonic in ("loop", "loopi"):
            open_.append(i)
        elif instr.spec.mnemonic == "endl":
            if not open_:
                trap(program, i, "loop depth", "end of a loop that was not begun")
            out[open_.pop()] = i
    if open_:
        trap(program, open_[-1], "loop depth", "this loop has no end")
    return out


class Binder:
    """Binds descriptors of one program to the memories of one machine."""

    def __init__(self, program: Program) -> None:
        self.program = program
        staged = list(self._staged_views().values())
        self.state = State(
            program.machine,
            staging=sum(self._dense_size(v) for v in staged if v.space == "buf"),
            acc_staging=sum(self._dense_size(v) for v in staged if v.space == "acc"),
        )
        self._views: dict[str, BoundView] = {}
        self._twins: dict[str, BoundView] = {}
        self._matrices: dict[str, BoundMatrix] = {}
        self._tables: dict[str, BoundTable] = {}
        self._free = {"buf": self.state.staging, "acc": self.state.acc_entries}

    def _staged_views(self) -> Mapping[str, View]:
        """Views used by array or periphery instructions that kernels cannot address as they are."""
        found: dict[str, View] = {}
        for instr in self.program.code:
            if instr.spec.group in _STAGED_GROUPS:
                for f, value in zip(instr.spec.fields, instr.operands, strict=False):
                    view = self.program.views.get(value) if isinstance(f, ViewField) else None
                    if view is not None and not is_plain(view):
                        found[view.name] = view
        return found

    @staticmethod
    def _dense_size(view: View) -> int:
        row = View.dense_strides(view.space, view.dtype, view.shape)[0]
        return -(-row * max(1, view.rows_held) // 64) * 64

    # ---------------------------------------------------------------------------------------------------- descriptors

    def view(self, name: str) -> BoundView:
        """The view of this name, bound."""
        if name not in self._views:
            if name not in self.program.views:
                raise BindError("unknown name", f"there is no view {name!r}")
            self._views[name] = BoundView(self.program.views[name], self.state)
        return self._views[name]

    def _twin(self, view: BoundView) -> BoundView:
        """A dense copy of an oddly strided view, in the staging area."""
        if view.name not in self._twins:
            space, v = view.space, view.view
            row, pix, chan = View.dense_strides(space, v.dtype, v.shape)
            dense = View(v.name, space, v.dtype, v.shape, self._free[space], row, pix, chan, v.ring, 0, v.pad)
            self._free[space] += self._dense_size(v)
            self._twins[view.name] = BoundView(dense, self.state, twin=view)
        return self._twins[view.name]

    def matrix(self, name: str) -> BoundMatrix:
        """The matrix of this name, bound; knows which others share its cells."""
        if name not in self._matrices:
            if name not in self.program.matrices:
                raise BindError("unknown name", f"there is no matrix {name!r}")
            self._matrices[name] = BoundMatrix(self.program.matrices[name], self.state)
        return self._matrices[name]

    def table(self, name: str) -> BoundTable:
        """The table of this name, bound."""
        if name not in self._tables:
            if name not in self.program.tables:
                raise BindError("unknown name", f"there is no table {name!r}")
            self._tables[name] = BoundTable(self.program.tables[name], self.program)
        return self._tables[name]

    def geometry(self, name: str) -> Geometry:
        """The geometry of this name, checked."""
        geom = self.program.geometries.get(name)
        if geom is None:
            raise BindError("unknown name", f"there is no geometry {name!r}")
        if min(*geom.kernel, *geom.stride, *geom.dilation) < 1 or min(geom.pad) < 0:
            raise BindError("illegal operands", f"{name}: kernel, stride and dilation are at least 1, pad at least 0")
        return geom

    def link(self) -> None:
        """Find the matrices that share cells, so that a write to one makes what was derived from the other stale, too."""
        held: dict[int, list[tuple[str, Tile]]] = {}
        for name, mat in self._matrices.items():
            for t in mat.tiles:
                held.setdefault(t.subarray, []).append((name, t))
        pairs: set[tuple[str, str]] = set()
        for tiles in held.values():
            for (a, s), (b, t) in combinations(tiles, 2):
                rows = s.row < t.row + t.rows and t.row < s.row + s.rows
                if a != b and rows and s.col < t.col + t.cols and t.col < s.col + s.cols:
                    pairs |= {(a, b), (b, a)}
        for a, b in sorted(pairs):
            self._matrices[a].kin.append(self._matrices[b])

    # --------------------------------------------------------------------------------------------------- instructions

    def instruction(self, index: int) -> Bound:
        """Bind one instruction.

        Raises:
            Trap: a name that is not declared, an operand out of range or of the wrong kind, illegal operands.
        """
        instr = self.program.code[index]
        try:
            return self._bind(instr)
        except BindError as exc:
            trap(self.program, index, exc.kind, exc.diagnostic.message)
        except SasError as exc:
            trap(self.program, index, "illegal operands", exc.diagnostic.message)

    def _bind(self, instr: Instr) -> Bound:
        machine, spec = self.program.machine, instr.spec
        if len(instr.operands) != len(spec.fields):
            raise BindError("illegal operands", f"{len(instr.operands)} operands instead of {len(spec.fields)}")
        o, staged, zero = SimpleNamespace(), [], False
        for f, value in zip(spec.fields, instr.operands, strict=True):
            bound = self._operand(f, value, machine)
            if isinstance(f, ViewField) and spec.group in _STAGED_GROUPS and not bound.plain:
                bound = self._twin(bound)
                staged.append((bound, f.access != "r"))
            zero |= isinstance(f, Reg) and f.write and value == 0
            setattr(o, f.name, bound)
        problems = list(spec.legal(machine, o))
        if problems:
            raise BindError("illegal operands", "; ".join(problems))
        self._fit(instr, o)
        run = spec.run
        if staged:
            run = _with_staging(run, staged)
        if zero:
            run = _with_zero(run)
        rows = spec.rows_field()
        if rows is None:
            return Bound(run, o, -1, 0, 0, 0)
        span: RowRange = getattr(o, rows.name)
        if span.reg >= machine.controller.registers:
            raise BindError("illegal operands", f"register r{span.reg} does not exist")
        return Bound(run, o, span.reg, span.offset, span.count, getattr(o, rows.of).height)

    def _operand(self, f: Field, value: Any, machine: Machine) -> Any:
        if isinstance(f, ViewField):
            view = self.view(value)
            if view.space != f.space or view.dtype not in f.dtypes:
                raise BindError(
                    "illegal operands",
                    f"{f.name} is a {view.space} view of {view.dtype}; it must be {f.space}, one of {', '.join(f.dtypes)}",
                )
            return view
        if isinstance(f, MatField):
            mat = self.matrix(value)
            if mat.kind not in f.kinds:
                raise BindError("illegal operands", f"{mat.name} is a {mat.kind} matrix; {f.name} must be {' or '.join(f.kinds)}")
            if f.write and not mat.trainable and mat.kind != "scratch":
                raise BindError("illegal operands", f"{mat.name} is frozen; it must not be written")
            return mat
        if isinstance(f, GeomField):
            geom = self.geometry(value)
            if geom.mode not in f.modes:
                raise BindError(
                    "illegal operands", f"geometry {geom.name} has mode {geom.mode}; it must be {' or '.join(f.modes)}"
                )
            return geom
        if isinstance(f, TableField):
            table = self.table(value)
            if table.kind != f.table:
                raise BindError("illegal operands", f"{table.name} is a {table.kind} table; {f.name} must be {f.table}")
            return table
        if isinstance(f, Reg) and value >= machine.controller.registers:
            raise BindError("illegal operands", f"register r{value} does not exist")
        if not isinstance(f, RowsField) and (problem := f.check(value)):
            raise BindError("illegal operands", problem)
        return value

    @staticmethod
    def _fit(instr: Instr, o: SimpleNamespace) -> None:
        """What the declarations leave to the machine: lengths of tables, lengths of gradient sums."""
        table = getattr(o, "table", None)
        if table is not None:
            view = getattr(o, "acc", None) or getattr(o, "src", None) or getattr(o, "dst", None)
            assert view is not None
            table.fit(view.channels)
        if instr.spec.mnemonic in ("gradp", "gradd"):
            pixels = min(o.rows.count, o.e.height) * o.e.width
            if pixels > MAX_SUM_LENGTH:
                raise BindError(
                    "accumulator overflow",
                    f"{pixels} pixels in one gradient product; at most {MAX_SUM_LENGTH} fit 32-bit sums",
                )


def _with_staging(run: Callable[..., None], staged: list[tuple[BoundView, bool]]) -> Callable[..., None]:
    """Copy odd operands to their dense twins before and, when written, back after."""

    def staged_run(m: Any, o: Any, r0: int, r1: int) -> None:
        for twin, _ in staged:
            assert twin.twin is not None
            twin.phys[...] = twin.twin.phys
        run(m, o, r0, r1)
        for twin, out in staged:
            if out:
                assert twin.twin is not None
                twin.twin.phys[...] = twin.phys

    return staged_run


def _with_zero(run: Callable[..., None]) -> Callable[..., None]:
    """r0 reads 0 whatever was written to it."""

    def zero_run(m: Any, o: Any, r0: int, r1: int) -> None:
        run(m, o, r0, r1)
        m.regs[0] = 0

    return zero_run
