"""What stands in the buffer after an entry point has run: for every byte, the view and the row it was last written through.

Buffers are reused: a view's bytes may hold another tensor by the end. Control flow is followed with the registers the run began with; data is
not. What is not certain counts as standing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from sasimc.isa.analysis.footprint import footprint
from sasimc.isa.objects import View
from sasimc.isa.program import Program
from sasimc.isa.spec import Reg, RowsField
from sasimc.isa.walk import EMPTY, Walker

__all__ = ["Standing", "part_of"]

MAX_STEPS = 400_000
_ROWS = 1 << 20
_NODES = 1 << 20


def part_of(view: View, whole: View) -> tuple[int, int, int] | None:
    """Where the first element of a view stands in a view that it is a part of, as (y, x, c); None: it is no part of it."""
    if (view.space, view.dtype, view.ring) != (whole.space, whole.dtype, whole.ring):
        return None
    if view.dtype == "bit":
        return (0, 0, 0) if (view.addr, view.shape, view.row) == (whole.addr, whole.shape, whole.row) else None
    same = [a == b or n == 1 for a, b, n in ((view.row, whole.row, view.height), (view.pix, whole.pix, view.width))]
    rest = view.addr - whole.addr
    if not all(same) or rest < 0:
        return None
    at: list[int] = []
    for stride in (whole.row, whole.pix, whole.chan):
        at.append(rest // stride if stride else 0)
        rest -= at[-1] * stride
    inside = all(a + n <= m for a, n, m in zip(at, view.shape, whole.shape, strict=True))
    return (at[0], at[1], at[2]) if inside and not rest else None


class Standing(Walker):
    """Follows entry ``entry``. ``regs``: the registers at its begin; ``after``: views that the host wrote when it had ended."""

    def __init__(self, program: Program, entry: str, regs: Sequence[int], after: Iterable[str] = ()) -> None:
        super().__init__(program, [program.resolve(i) for i in program.code], list(regs))
        self._marks = np.zeros(program.machine.buffer.bytes, np.int64)
        self._views = tuple(program.views.values())
        self._number = {v.name: i for i, v in enumerate(self._views)}
        self._nodes: dict[str, int] = {}
        self._own: dict[str, set[int]] = {}  # nodes that write through a view
        self._unknown: set[int] = set()
        self.certain = True
        self.start(program.entries[entry])
        for _ in range(MAX_STEPS):
            if not self.running or not self.certain:
                break
            self._step()
        self.certain = self.certain and not self.running
        for name in after:
            view = program.views[name]
            self._write(view, 0, view.height, "")

    def _step(self) -> None:
        pc = self.pc
        if pc >= len(self.program.code):
            self.certain = False
            return
        spec, o = self.program.code[pc].spec, self.operands[pc]
        writes = {getattr(o, f.name) for f in spec.fields if isinstance(f, Reg) and f.write} - {0}
        if spec.group == "control":
            reads = {getattr(o, f.name) for f in spec.fields if isinstance(f, Reg) and not f.write}
            if reads & self._unknown and spec.flow == "loop":
                self.certain = False
                return
            self.execute(pc)
            self._unknown = self._unknown | writes if reads & self._unknown else self._unknown - writes
            return
        self.pc = pc + 1
        self._unknown |= writes  # registers that data decide
        if any(getattr(o, f.name).reg in self._unknown for f in spec.fields if isinstance(f, RowsField)):
            self.certain = False
        elif (rows := self.rows(pc)) != EMPTY:
            for touch in footprint(spec, o, *rows):
                if touch.view.space == "buf" and "w" in touch.access:
                    self._write(touch.view, touch.first, touch.last, self.program.code[pc].origin.node)

    def _bytes(self, v: View) -> npt.NDArray[np.int64]:
        """Marks of a view's physical rows."""
        base = self._marks[v.addr :]
        if v.dtype == "bit":
            shape, strides = (v.rows_held, (v.width * v.channels + 7) // 8), (v.row, 1)
        else:
            shape, strides = (v.rows_held, v.width, v.channels, v.unit), (v.row, v.pix, v.chan, 1)
        return np.lib.stride_tricks.as_strided(base, shape, tuple(8 * s for s in strides))

    def _write(self, v: View, first: int, last: int, node: str) -> None:
        if v.space != "buf":
            return
        origin = self._nodes.setdefault(node, len(self._nodes))
        self._own.setdefault(v.name, set()).add(origin)
        mark = ((self._number[v.name] + 1) * _NODES + origin) * _ROWS
        marks = self._bytes(v)
        for y in range(max(first, last - v.rows_held), last):
            marks[y % v.rows_held] = mark + y

    def problem(self, view: View) -> str:
        """Why a view does not hold what was written through it; empty: it does, or nobody knows."""
        if view.space != "buf" or not self.certain:
            return ""
        marks, own = self._bytes(view), set(self._own.get(view.name, ()))
        for y in range(view.height):
            for mark in map(int, np.unique(marks[y % view.rows_held])):
                if not mark:
                    continue
                rest, row = divmod(mark, _ROWS)
                number, node = divmod(rest, _NODES)
                writer = self._views[number - 1]
                shift = 0 if writer is view else self._shift(writer, view)
                own = own or {node}  # a view that is only written in parts: all of one node
                if shift is None or (writer is not view and node not in own):
                    return f"row {y} of {view.name} was overwritten through {writer.name}"
                if row + shift != y:
                    return (
                        f"row {y} of {view.name} is gone: its ring of {view.rows_held} rows holds row {row + shift} in its place"
                    )
        return ""

    @staticmethod
    def _shift(writer: View, view: View) -> int | None:
        """Rows of a view before the rows of another one, of which it is a part or the whole; None: they are two tensors."""
        if writer.shape == view.shape:
            return None
        if (at := part_of(writer, view)) is not None:
            return at[0]
        return None if (at := part_of(view, writer)) is None else -at[0]
