"""Symbolic run of an entry point for the linter: control and registers are executed, data is not.

Registers the host or memory decides are unknown. Loops counted by an unknown register, or by a parameter, run twice; what their second
iteration added to the accumulators is extrapolated. Memory is followed byte by byte with marks: who wrote here last. Everything that is not
certain counts as fine, so that an error is a proof.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.isa.analysis.footprint import Touch, footprint
from sasimc.isa.objects import Matrix, View
from sasimc.isa.program import Program
from sasimc.isa.spec import Instruction, MatField, Reg, RowsField, ViewField
from sasimc.isa.walk import Walker

__all__ = ["Flow", "Report"]

Report = Callable[[int, str, str, str], None]
"""(instruction index, severity, message, hint)"""

INT32_MAX = (1 << 31) - 1
MAX_STEPS = 400_000
FOLLOWED = {"buf": 1 << 28, "acc": 1 << 25}
"""Buffer bytes and accumulators that are followed: the marks of both take 2 GiB at most."""
_ROWS = 1 << 16  # rows a mark can tell apart
_UNKNOWN = 1  # mark of memory written by nobody in particular
_WIDTHS = {"u8": 1, "i8": 1, "i32": 2, "bit": 3, "i16": 4}
_WIDTH_NAMES = ("", "8-bit numbers", "32-bit numbers", "packed bits", "16-bit numbers")
_KINDS = 8  # widths a mark can tell apart


Layout = tuple[int, int, int, int]
"""Row, pixel and channel stride of sums, and rows held."""


def _side_by_side(a: Layout, b: Layout) -> bool:
    """Whether a pixel of one layout is several neighbouring pixels of the other."""
    wide, narrow = max(a[1], b[1]), min(a[1], b[1])
    return (a[0], *a[2:]) == (b[0], *b[2:]) and narrow > 0 and wide % narrow == 0


@dataclass
class _Frame:
    """An open loop: iterations that are extrapolated, whether their number is certain, accumulator bounds before the last one."""

    skipped: int = 0
    certain: bool = True
    entered: npt.NDArray[np.float64] | None = None


class Flow(Walker):
    """State of the symbolic run of one entry. ``known``: which registers hold what a run would find there."""

    def __init__(self, program: Program, report: Report, initialised: Collection[str] = ()) -> None:
        super().__init__(program, [program.resolve(i) for i in program.code])
        p = program
        self.report, self.initialised = report, initialised
        self.known = [True] * len(self.regs)
        self.visited: set[int] = set()
        self._certain = True
        room = {space: max((v.end for v in p.views.values() if v.space == space), default=0) for space in FOLLOWED}
        self._marks = np.zeros(room["buf"], np.int32)
        self._bounds = np.zeros(room["acc"], np.float64)
        self._owners = np.zeros(room["acc"], np.int32)  # layout of the sums held, 0: none
        self._layouts: dict[Layout, int] = {}
        self._layout_names: list[str] = [""]
        self._mark_views: dict[str, npt.NDArray[np.int32]] = {}
        self._acc_views: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]] = {}
        self._families: dict[tuple[int, int, int], int] = {}
        self._sums: dict[tuple[str, str, str, Any], npt.NDArray[np.float64]] = {}
        self._written_regs: set[int] = {0}
        self._drained: dict[int, bool] = {}
        self._frames: list[_Frame] = []

    # --- control ----------------------------------------------------------------------------------------------------------

    def run(self, entry: str) -> None:
        """Follow ``entry`` to its halt."""
        p = self.program
        for name, register in p.params.items():
            text = p.meta.get(name, "")
            self.regs[register] = int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 1
            self._written_regs.add(register)
            self.known[register] = False
        for name in self.initialised:
            v = p.views[name]
            if v.space == "buf":
                self._write(v, 0, v.height)
            elif v.space == "acc":
                self._acc(v)[1][...] = self._layout(v)
        self.start(p.entries[entry])
        for _ in range(MAX_STEPS):
            pc = self.pc
            if pc >= len(p.code):
                self.report(len(p.code) - 1, "error", f"entry {entry} runs past the last instruction", "end it with halt")
                return
            if pc != p.entries[entry] and pc in p.entries.values() and pc not in self.visited:
                other = next(n for n, at in p.entries.items() if at == pc)
                self.report(pc, "warning", f"entry {entry} runs on into entry {other}", "end it with halt")
            self.visited.add(pc)
            spec = p.code[pc].spec
            if spec.flow == "halt":
                for at, useful in self._drained.items():
                    if not useful:
                        self.report(at, "warning", "drains sums to which nothing was added", "")
                if self._owners.any():
                    word = int(np.argmax(self._owners != 0))
                    self.report(
                        pc,
                        "warning",
                        f"accumulator {word} still holds a sum when entry {entry} ends",
                        "the next entry would add to it",
                    )
                return
            self._step(pc, spec)
        self.report(self.pc, "warning", f"entry {entry} is too long to be followed; its memory was checked up to here", "")

    def _step(self, pc: int, spec: type[Instruction]) -> None:
        o, target = self.operands[pc], spec.target()
        self._certain = self._reads(pc, o)
        register = -1 if target is None else getattr(o, target.name)
        if spec.group == "control":
            if register == 0:
                self.report(pc, "warning", "r0 always reads 0; this write is lost", "")
            self.execute(pc)
        else:
            self.pc = pc + 1
            self._memory(pc, spec, o)
        if register > 0:
            self.known[register] = self._certain and spec.group == "control"
            self._written_regs.add(register)

    def _reads(self, pc: int, o: SimpleNamespace) -> bool:
        """Whether all registers it reads are certain."""
        certain = True
        for name, is_range in _registers_read(self.program.code[pc].spec):
            register = getattr(o, name).reg if is_range else getattr(o, name)
            if register not in self._written_regs:
                hint = "set it with li, or name it in .param when the host sets it"
                self.report(pc, "warning", f"r{register} is read before this entry writes it", hint)
                self._written_regs.add(register)
                self.known[register] = False
            certain = certain and self.known[register]
        return certain

    def loop(self, count: int) -> None:
        pc = self.pc - 1
        if self._certain and count <= 0:
            if not any(self.program.code[pc].spec.of_kind(Reg)):
                self.report(pc, "warning", f"a loop of {count} iterations never runs", "")
            super().loop(count)
            return
        count = max(1, count)
        run = count if self._certain else min(count, 2)
        self._frames.append(_Frame(count - run, self._certain))
        super().loop(run)

    def end_loop(self) -> None:
        if not self.stack:
            return
        pc, start, top = self.pc - 1, self.stack[-1][0], self._frames[-1]
        super().end_loop()
        if self.pc == start:
            if not top.certain:
                top.entered = self._bounds.copy()
            return
        self._frames.pop()
        if not top.certain:  # nobody knows how often it ran: what it changed is unknown from here on
            for instr, o in zip(self.program.code[start:pc], self.operands[start:pc], strict=True):
                target = instr.spec.target()
                if target is not None:
                    self.known[getattr(o, target.name)] = getattr(o, target.name) == 0
        if top.skipped and top.entered is not None:
            growth = np.maximum(self._bounds - top.entered, 0)
            if growth.any():
                self._bounds += growth * top.skipped
                self._overflow(pc, self._bounds)

    # --- memory -------------------------------------------------------------------------------------------------------------

    def _memory(self, pc: int, spec: type[Instruction], o: SimpleNamespace) -> None:
        rows = spec.rows_field()
        r0 = r1 = 0
        if rows is not None:
            rr, height = getattr(o, rows.name), getattr(o, rows.of).height
            if self.known[rr.reg]:
                r0, r1 = self.rows(pc)
            else:  # anything may be touched: nothing is said about reads, everything counts as written
                for t in footprint(spec, o, 0, height):
                    if t.view.space == "buf" and "w" in t.access:
                        self._write(t.view, 0, t.view.height, certain=False)
                    elif t.view.space == "acc":
                        self._acc(t.view)[1][...] = 0
                        self._acc(t.view)[0][...] = 0
                return
        touches = list(footprint(spec, o, r0, r1))
        for t in touches:
            if t.first < 0 or t.last > t.view.height:
                self.report(pc, "error", f"rows {t.first}..{t.last - 1} of {t.view.name}, which has {t.view.height}", "")
                return
        for t in touches:
            if t.view.space == "buf" and "r" in t.access:
                self._read(pc, t)
        for t in touches:
            if t.view.space == "acc":
                self._accumulate(pc, spec, o, t, r1 - r0)
            elif t.view.space == "buf" and "w" in t.access:
                self._write(t.view, t.first, t.last)

    def _bytes(self, v: View) -> npt.NDArray[np.int32]:
        """Marks of a view's physical rows."""
        found = self._mark_views.get(v.name)
        if found is None:
            w, c, unit = v.width, v.channels, v.unit
            base = self._marks[v.addr :]
            if v.dtype == "bit":
                shape, strides = (v.rows_held, (w * c + 7) // 8), (v.row, 1)
            elif v.chan == unit and (v.pix == c * unit or w == 1):
                shape, strides = (v.rows_held, w * c * unit), (v.row, 1)
            else:
                shape, strides = (v.rows_held, w, c, unit), (v.row, v.pix, v.chan, 1)
            found = np.lib.stride_tricks.as_strided(base, shape, tuple(4 * s for s in strides))
            self._mark_views[v.name] = found
        return found

    def _family(self, v: View) -> int:
        """Number of the ring a view walks through; views on the same ring share it."""
        key = (v.addr, v.row, v.rows_held)
        return self._families.setdefault(key, len(self._families) + 1) if len(self._families) < (1 << 12) - 1 else 0

    def _write(self, v: View, first: int, last: int, certain: bool = True) -> None:
        marks, held = self._bytes(v), v.rows_held
        family = self._family(v) if certain and v.ring else 0
        mark = (family * _KINDS + _WIDTHS[v.dtype]) * _ROWS if certain else 0
        if not family:
            if last - first >= held:
                marks[...] = mark + _UNKNOWN
            else:
                for y in range(first, last):
                    marks[y % held] = mark + _UNKNOWN
            return
        for y in range(max(first, last - held), last):
            marks[y % held] = mark + y + 2

    def _read(self, pc: int, t: Touch) -> None:
        v, held = t.view, t.view.rows_held
        if t.first >= t.last:
            return
        marks = self._bytes(v)
        lower = max(t.first, t.last - held)
        if v.ring and t.last - t.first > held:
            hint = f"a larger ring, or fewer rows at a time: the window needs {t.last - t.first}"
            self.report(pc, "error", f"reads rows {t.first}..{t.last - 1} of {v.name}, whose ring holds {held}", hint)
        rows = marks[lower : t.last] if not v.ring else marks[[y % held for y in range(lower, t.last)]]
        seen = rows[(slice(None), *[slice(0, 1)] * (rows.ndim - 1))]  # one mark a row says it all, as a rule
        if not (rows == seen).all():
            seen = rows
        if not seen.all():
            y = lower + int(np.argmax([not r.all() for r in rows]))
            self.report(
                pc, "error", f"reads row {y} of {v.name} before anything was written there", "load, compute or fill it first"
            )
            rows[rows == 0] = _UNKNOWN
            return
        width = _WIDTHS[v.dtype]
        widths = seen // _ROWS % _KINDS
        foreign = (widths != 0) & (widths != width)
        if foreign.any():
            names = _WIDTH_NAMES[width], _WIDTH_NAMES[int(widths[foreign].flat[0])]
            self.report(
                pc, "warning", f"reads {v.name} as {names[0]} where {names[1]} were written", "is the load or result missing?"
            )
        if not v.ring:
            return
        family = self._family(v)
        for i, y in enumerate(range(lower, t.last)):
            mark = int(rows[i].flat[0])
            if family and mark // _ROWS // _KINDS == family and mark % _ROWS - 2 != y:
                hint = f"its ring of {held} rows was overwritten or not yet filled"
                self.report(pc, "error", f"reads row {y} of {v.name}, but row {mark % _ROWS - 2} stands in its place", hint)
                return

    # --- accumulators ---------------------------------------------------------------------------------------------------------

    def _acc(self, v: View) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
        found = self._acc_views.get(v.name)
        if found is None:
            shape = (v.rows_held, v.width, v.channels)
            strides = (v.row, v.pix, v.chan)
            bounds = np.lib.stride_tricks.as_strided(self._bounds[v.addr :], shape, tuple(8 * s for s in strides))
            found = bounds, np.lib.stride_tricks.as_strided(self._owners[v.addr :], shape, tuple(4 * s for s in strides))
            self._acc_views[v.name] = found
        return found

    def _accumulate(self, pc: int, spec: type[Instruction], o: SimpleNamespace, t: Touch, rows: int) -> None:
        bounds, owners = self._acc(t.view)
        layout = self._layout(t.view)
        held = t.view.rows_held
        if t.last - t.first >= held:
            parts = [slice(0, held)]
        elif t.first % held + t.last - t.first <= held:
            parts = [slice(t.first % held, t.first % held + t.last - t.first)] if t.last > t.first else []
        else:
            parts = [slice(t.first % held, held), slice(0, t.last % held)]
        if t.access == "d":
            for part in parts:
                self._drained[pc] = self._drained.get(pc, False) or bool(owners[part].any())
                self._strangers(
                    pc, owners[part], layout, "drains sums that were collected through {}, which is laid out otherwise"
                )
                owners[part] = 0
                bounds[part] = 0
            return
        increment = self._increment(spec, o, t.view, rows)
        for part in parts:
            self._strangers(pc, owners[part], layout, "adds to sums of {} that were not drained")
            owners[part] = layout
            block = bounds[part]
            block += increment
            self._overflow(pc, block, t.view.name)

    def _layout(self, v: View) -> int:
        """Number of the way a view lays its sums out; channel slices of one tensor share it."""
        key = (v.row, v.pix, v.chan, v.rows_held)
        if key not in self._layouts:
            self._layouts[key] = len(self._layout_names)
            self._layout_names.append(v.name)
        return self._layouts[key]

    def _strangers(self, pc: int, owners: npt.NDArray[np.int32], layout: int, text: str) -> None:
        foreign = (owners != 0) & (owners != layout)
        if foreign.any():
            keys = list(self._layouts)
            for other in np.unique(owners[foreign]):
                if not _side_by_side(keys[other - 1], keys[layout - 1]):
                    name = self._layout_names[int(other)]
                    self.report(pc, "warning", text.format(name), "every sum is drained by the instruction that uses it")
                    return

    def _overflow(self, pc: int, bounds: npt.NDArray[np.float64], name: str = "") -> None:
        worst = float(bounds.max(initial=0))
        if worst > INT32_MAX:
            text = f"sums{f' in {name}' if name else ''} may reach {worst:.3g}, beyond 32 bits"
            self.report(pc, "warning", text, "drain them earlier, or make sure that the values stay small")
            bounds[...] = 0

    def _increment(self, spec: type[Instruction], o: SimpleNamespace, acc: View, rows: int) -> Any:
        """Largest |sum| one execution adds to an accumulator: a number or one for each channel."""
        source: View | None = getattr(o, "x", None) or getattr(o, "e", None)
        reach = _reach(source) if source is not None else 0.0
        matrix: Matrix | None = getattr(o, "mat", None)
        geom = getattr(o, "geom", None)
        if matrix is not None and geom is not None and source is not None:
            return self._product(spec, matrix, geom.taps, source, acc.channels)
        if hasattr(o, "down"):
            return 2.0 ** (30 - o.down)  # ``bupd`` keeps learned biases within 2^30
        if any(f.broadcast for f in spec.of_kind(ViewField)):
            summed = [n if have == 1 else 1 for have, n in zip(acc.shape, (rows, *o.a.shape[1:]), strict=True)]
            return float(np.prod(summed)) * _spread(o.a) * _spread(o.b)
        if any(f.scratch for f in spec.of_kind(MatField)):
            if geom is None:  # two matrices: each sum along a row of the first
                return o.a.channels * _spread(o.a) * _spread(o.b)
            return rows * o.e.width * 128.0 * (_reach(o.a) + abs(o.a.pad))
        if hasattr(o, "table"):
            ref = o.table.arrays.get("bias")
            if ref is None or (isinstance(ref, str) and ref not in self.program.tensors):
                return 0.0
            return np.abs(self.program.table_array(o.table, "bias")).astype(np.float64)
        if geom is not None and source is not None:
            if geom.mode == "window":
                return geom.taps * reach
            if hasattr(o, "e"):
                return (
                    64.0 * reach
                    if geom.mode == "linear2"
                    else reach * max(1, -(-source.height // acc.height) * -(-source.width // acc.width))
                )
            return 16.0 * reach if geom.mode == "linear2" else reach
        return 0.0

    def _product(self, spec: type[Instruction], matrix: Matrix, taps: int, source: View, channels: int) -> Any:
        """Bound of a matrix product for each channel of the accumulators."""
        key = (spec.kernel, matrix.name, source.dtype, (taps, channels))
        found = self._sums.get(key)
        if found is not None:
            return found
        if matrix.trainable or matrix.tensor not in self.program.tensors:
            positive = negative = np.full((matrix.k, matrix.n), 128.0)
        else:
            w = self.program.matrix_values(matrix).astype(np.float64)
            positive, negative = np.maximum(w, 0), np.maximum(-w, 0)
        sums, along = [], next(spec.of_kind(MatField)).sums
        for part in (positive, negative):
            if along == "k":
                sums.append(part.sum(axis=0))
            elif along == "n":
                sums.append(part.reshape(taps, channels, matrix.n).sum(axis=(0, 2)))
            else:  # the weights of a channel, over its multiplier
                sums.append(part.reshape(channels, -1).sum(axis=1))
        low, high = _range(source)
        # positive inputs meet positive weights (or negative ones), negative inputs the others
        worst = np.maximum(sums[0] * high + sums[1] * -low, sums[1] * high + sums[0] * -low)
        self._sums[key] = worst
        return worst


@cache
def _registers_read(spec: type[Instruction]) -> tuple[tuple[str, bool], ...]:
    """Operands that name a register to be read, and whether it is one of a row range."""
    return tuple(
        (f.name, isinstance(f, RowsField))
        for f in spec.fields
        if isinstance(f, RowsField) or (isinstance(f, Reg) and not f.write)
    )


def _range(v: View) -> tuple[int, int]:
    low, high = v.limits
    return min(low, v.pad, 0), max(high, v.pad)


def _reach(v: View) -> float:
    low, high = _range(v)
    return float(max(-low, high))


def _spread(v: View) -> float:
    """How far a value may be from the view's zero point."""
    low, high = v.limits
    return float(max(v.pad - low, high - v.pad))
