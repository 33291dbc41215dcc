"""Symbolic run of an entry point for the linter: control and registers are executed, data is not.

Registers the host or memory decides are unknown. Loops counted by an unknown register, or by a parameter, run twice; what their second
iteration added to the accumulators is extrapolated. Memory is followed byte by byte with marks: who wrote here last. Everything that is not
certain counts as fine, so that an error is a proof.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.isa.analysis.footprint import Touch, footprint
from sasimc.isa.objects import Matrix, View
from sasimc.isa.program import Program
from sasimc.isa.spec import Instruction, Reg, RowsField

__all__ = ["Flow", "Report"]

Report = Callable[[int, str, str, str], None]
"""(instruction index, severity, message, hint)"""

INT32_MAX = (1 << 31) - 1
MAX_STEPS = 400_000
_ROWS = 1 << 16  # rows a mark can tell apart
_UNKNOWN = 1  # mark of memory written by nobody in particular
_WIDTHS = {"u8": 1, "i8": 1, "i32": 2, "bit": 3}
_WIDTH_NAMES = ("", "8-bit numbers", "32-bit numbers", "packed bits")


Layout = tuple[int, int, int, int]
"""Row, pixel and channel stride of sums, and rows held."""


def _side_by_side(a: Layout, b: Layout) -> bool:
    """Whether a pixel of one layout is several neighbouring pixels of the other."""
    wide, narrow = max(a[1], b[1]), min(a[1], b[1])
    return (a[0], *a[2:]) == (b[0], *b[2:]) and narrow > 0 and wide % narrow == 0


@dataclass
class _Frame:
    """An open loop: first instruction of its body, iterations left, iterations that are extrapolated, accumulator
    bounds before its last one."""

    start: int
    left: int
    skipped: int = 0
    certain: bool = True
    entered: npt.NDArray[np.float64] | None = None


@dataclass
class Flow:
    """State of the symbolic run of one entry."""

    program: Program
    report: Report
    initialised: Collection[str] = ()
    regs: list[int] = field(init=False)
    known: list[bool] = field(init=False)
    visited: set[int] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        p = self.program
        count = p.machine.controller.registers
        self.regs, self.known = [0] * count, [True] * count
        self._marks = np.zeros(p.machine.buffer.bytes, np.int32)
        self._bounds = np.zeros(p.machine.accumulator.entries, np.float64)
        self._owners = np.zeros(p.machine.accumulator.entries, np.int32)  # layout of the sums held, 0: none
        self._layouts: dict[Layout, int] = {}
        self._layout_names: list[str] = [""]
        self._mark_views: dict[str, npt.NDArray[np.int32]] = {}
        self._acc_views: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]] = {}
        self._families: dict[tuple[int, int, int], int] = {}
        self._resolved: dict[int, SimpleNamespace] = {}
        self._sums: dict[tuple[str, str, str, Any], npt.NDArray[np.float64]] = {}
        self._written_regs: set[int] = {0}
        self._ends: dict[int, int] = {}
        self._drained: dict[int, bool] = {}
        self._stack: list[_Frame] = []
        opened: list[int] = []
        for i, instr in enumerate(p.code):
            if instr.spec.mnemonic in ("loop", "loopi"):
                opened.append(i)
            elif instr.spec.mnemonic == "endl" and opened:
                self._ends[opened.pop()] = i

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
        pc = p.entries[entry]
        for _ in range(MAX_STEPS):
            if pc >= len(p.code):
                self.report(len(p.code) - 1, "error", f"entry {entry} runs past the last instruction", "end it with halt")
                return
            if pc != p.entries[entry] and pc in p.entries.values() and pc not in self.visited:
                other = next(n for n, at in p.entries.items() if at == pc)
                self.report(pc, "warning", f"entry {entry} runs on into entry {other}", "end it with halt")
            self.visited.add(pc)
            spec = p.code[pc].spec
            if spec.mnemonic == "halt":
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
            pc = self._step(pc, spec)
        self.report(pc, "warning", f"entry {entry} is too long to be followed; its memory was checked up to here", "")

    def _step(self, pc: int, spec: type[Instruction]) -> int:
        o = self._resolved.get(pc)
        if o is None:
            o = self._resolved[pc] = self.program.resolve(self.program.code[pc])
        certain = self._reads(pc, spec, o)
        if spec.mnemonic in ("loop", "loopi"):
            return self._loop(
                pc, o.count if spec.mnemonic == "loopi" else self.regs[o.count], spec.mnemonic == "loopi" or certain
            )
        if spec.mnemonic == "endl":
            return self._end_loop(pc)
        if spec.group == "control":
            self._registers(pc, spec, o, certain)
        else:
            self._memory(pc, spec, o, certain)
            for f in spec.fields:
                if isinstance(f, Reg) and f.write:
                    self.known[getattr(o, f.name)] = False
        for f in spec.fields:
            if isinstance(f, Reg) and f.write:
                self._written_regs.add(getattr(o, f.name))
        return pc + 1

    def _reads(self, pc: int, spec: type[Instruction], o: SimpleNamespace) -> bool:
        """Whether all registers it reads are certain."""
        certain = True
        for f in spec.fields:
            register = -1
            if isinstance(f, Reg) and not f.write:
                register = getattr(o, f.name)
            elif isinstance(f, RowsField):
                register = getattr(o, f.name).reg
            if register < 0:
                continue
            if register not in self._written_regs:
                hint = "set it with li, or name it in .param when the host sets it"
                self.report(pc, "warning", f"r{register} is read before this entry writes it", hint)
                self._written_regs.add(register)
                self.known[register] = False
            certain = certain and self.known[register]
        return certain

    def _registers(self, pc: int, spec: type[Instruction], o: SimpleNamespace, certain: bool) -> None:
        target = next((getattr(o, f.name) for f in spec.fields if isinstance(f, Reg) and f.write), -1)
        if target < 0:
            return
        if target == 0:
            self.report(pc, "warning", "r0 always reads 0; this write is lost", "")
            return
        machinery: Any = SimpleNamespace(regs=self.regs)
        spec.run(machinery, o, 0, 0)
        self.known[target] = certain

    def _loop(self, pc: int, count: int, certain: bool) -> int:
        end = self._ends.get(pc)
        if end is None:
            return pc + 1
        if certain and count <= 0:
            if self.program.code[pc].spec.mnemonic == "loopi":
                self.report(pc, "warning", f"a loop of {count} iterations never runs", "")
            return end + 1
        count = max(1, count)
        run = count if certain else min(count, 2)
        self._stack.append(_Frame(pc + 1, run, count - run, certain))
        return pc + 1

    def _end_loop(self, pc: int) -> int:
        if not self._stack:
            return pc + 1
        top = self._stack[-1]
        top.left -= 1
        if top.left:
            if not top.certain:
                top.entered = self._bounds.copy()
            return top.start
        self._stack.pop()
        if not top.certain:  # nobody knows how often it ran: what it changed is unknown from here on
            for instr in self.program.code[top.start : pc]:
                for f, value in zip(instr.spec.fields, instr.operands, strict=True):
                    if isinstance(f, Reg) and f.write:
                        self.known[value] = value == 0
        if top.skipped and top.entered is not None:
            growth = np.maximum(self._bounds - top.entered, 0)
            if growth.any():
                self._bounds += growth * top.skipped
                self._overflow(pc, self._bounds)
        return pc + 1

    # --- memory -------------------------------------------------------------------------------------------------------------

    def _memory(self, pc: int, spec: type[Instruction], o: SimpleNamespace, certain: bool) -> None:
        rows = spec.rows_field()
        r0 = r1 = 0
        if rows is not None:
            rr, height = getattr(o, rows.name), getattr(o, rows.of).height
            if self.known[rr.reg]:
                start = self.regs[rr.reg] + rr.offset
                r0, r1 = max(0, min(height, start)), max(0, min(height, start + rr.count))
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
        return self._families.setdefault(key, len(self._families) + 1) if len(self._families) < (1 << 13) - 1 else 0

    def _write(self, v: View, first: int, last: int, certain: bool = True) -> None:
        marks, held = self._bytes(v), v.rows_held
        family = self._family(v) if certain and v.ring else 0
        mark = (family * 4 + _WIDTHS[v.dtype]) * _ROWS if certain else 0
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
        if not rows.all():
            y = lower + int(np.argmax([not r.all() for r in rows]))
            self.report(
                pc, "error", f"reads row {y} of {v.name} before anything was written there", "load, compute or fill it first"
            )
            rows[rows == 0] = _UNKNOWN
            return
        width = _WIDTHS[v.dtype]
        widths = rows // _ROWS & 3
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
            if family and mark // _ROWS // 4 == family and mark % _ROWS - 2 != y:
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
            return self._product(spec.mnemonic, matrix, geom.taps, source, acc.channels)
        if hasattr(o, "scratch"):
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

    def _product(self, mnemonic: str, matrix: Matrix, taps: int, source: View, channels: int) -> Any:
        """Bound of a matrix product for each channel of the accumulators."""
        key = (mnemonic, matrix.name, source.dtype, (taps, channels))
        found = self._sums.get(key)
        if found is not None:
            return found
        if matrix.trainable or matrix.tensor not in self.program.tensors:
            positive = negative = np.full((matrix.k, matrix.n), 128.0)
        else:
            w = self.program.matrix_values(matrix).astype(np.float64)
            positive, negative = np.maximum(w, 0), np.maximum(-w, 0)
        sums = []
        for part in (positive, negative):
            if mnemonic == "vmm":
                sums.append(part.sum(axis=0))
            elif mnemonic == "vmmt":
                sums.append(part.reshape(taps, channels, matrix.n).sum(axis=(0, 2)))
            elif mnemonic == "dwm":
                sums.append(part.reshape(channels, -1).sum(axis=1))
            else:
                sums.append(part.sum(axis=1))
        low, high = _range(source)
        # positive inputs meet positive weights (or negative ones), negative inputs the others
        worst = np.maximum(sums[0] * high + sums[1] * -low, sums[1] * high + sums[0] * -low)
        self._sums[key] = worst
        return worst


def _range(v: View) -> tuple[int, int]:
    low, high = v.limits
    return min(low, v.pad, 0), max(high, v.pad)


def _reach(v: View) -> float:
    low, high = _range(v)
    return float(max(-low, high))
