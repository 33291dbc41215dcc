"""From a program to bound instructions: descriptors resolved, ranges and legality checked, once, before anything
runs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

from sasimc.isa.analysis.check import check_geometry, check_operand
from sasimc.isa.errors import SasError, Trap
from sasimc.isa.objects import Geometry, Tile, View
from sasimc.isa.program import Instr, Program
from sasimc.isa.spec import Field, GeomField, Instruction, MatField, TableField, ViewField
from sasimc.isa.text.printer import format_instruction
from sasimc.isa.walk import loop_ends
from sasimc.runtime.engines.operands import BindError, BoundMatrix, BoundTable, BoundView, is_plain
from sasimc.runtime.state import State

__all__ = ["Binder", "Bound", "check_loops", "instruction_text", "trap"]

_STAGED_GROUPS = ("array", "periphery")  # movement takes any strides


class Bound(NamedTuple):
    """One instruction ready to run: declaration and bound operands."""

    spec: type[Instruction]
    operands: SimpleNamespace


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


def check_loops(program: Program) -> None:
    """Trap for a loop without end or an end without loop."""
    for i in loop_ends(program)[1]:
        begins = program.code[i].spec.flow == "loop"
        trap(program, i, "loop depth", "this loop has no end" if begins else "end of a loop that was not begun")


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
        self._dense: dict[str, BoundView] = {}
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

    def _staged_view(self, view: BoundView) -> BoundView:
        """A dense copy of an oddly strided view, in the staging area."""
        if view.name not in self._dense:
            space, v = view.space, view.view
            row, pix, chan = View.dense_strides(space, v.dtype, v.shape)
            dense = View(v.name, space, v.dtype, v.shape, self._free[space], row, pix, chan, v.ring, 0, v.pad)
            self._free[space] += self._dense_size(v)
            self._dense[view.name] = BoundView(dense, self.state, staged=view)
        return self._dense[view.name]

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
        for text in check_geometry(geom):
            raise BindError("illegal operands", f"{name}: {text}")
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
            self._matrices[a].aliases.append(self._matrices[b])

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
        spec = instr.spec
        if len(instr.operands) != len(spec.fields):
            raise BindError("illegal operands", f"{len(instr.operands)} operands instead of {len(spec.fields)}")
        o = SimpleNamespace()
        for f, value in zip(spec.fields, instr.operands, strict=True):
            setattr(o, f.name, self._operand(f, value))
        for f in spec.fields:
            bound = getattr(o, f.name)
            if text := check_operand(self.program.machine, f, bound):
                raise BindError("illegal operands", text)
            if isinstance(f, ViewField) and spec.group in _STAGED_GROUPS and not bound.plain:
                setattr(o, f.name, self._staged_view(bound))
            elif isinstance(f, MatField) and f.write and not bound.trainable and bound.kind != "scratch":
                raise BindError("illegal operands", f"{bound.name} is frozen; it must not be written")
        problems = list(spec.legal(self.program.machine, o))
        if problems:
            raise BindError("illegal operands", "; ".join(problems))
        for f in spec.of_kind(TableField):
            getattr(o, f.name).fit(getattr(o, next(spec.of_kind(ViewField)).name))
        return Bound(spec, o)

    def _operand(self, f: Field, value: Any) -> Any:
        kinds = {ViewField: self.view, MatField: self.matrix, GeomField: self.geometry, TableField: self.table}
        find = kinds.get(type(f))
        return value if find is None else find(value)
