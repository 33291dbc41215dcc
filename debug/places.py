"""Places in the machine: what a name and its indices stand for, which units of which memory these are, and which instructions touch them.

A unit is a byte of buffer or host memory, a word of the accumulators, a register, or a stored weight. What an instruction reads and writes follows from
its declared fields (`sasimc.isa.analysis.footprint`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sasimc.debug.expressions import Expression, Index, Name, parse, whole_number
from sasimc.isa.analysis.footprint import footprint
from sasimc.isa.errors import SasError, near
from sasimc.isa.objects import DTYPES, Matrix, View, limits_of
from sasimc.isa.program import Program
from sasimc.isa.spec import NO_ROWS, MatField, Reg, RowsField, ViewField
from sasimc.isa.walk import EMPTY
from sasimc.runtime.interpreter import Interpreter

__all__ = ["Effects", "Place", "Places"]

Ints = npt.NDArray[np.int64]
MEMORIES: Final = {"buf": "buf", "accumulators": "acc", "acc": "acc", "host": "host", "cell": "cells"}
"""Names of the memories; ``cell[sub-array, word line, weight column]``."""
_MOST: Final = 1 << 22


@dataclass(frozen=True)
class Place:
    """Elements of a memory: ``units`` in the order of ``shape``, ``each`` to an element of ``dtype``."""

    text: str
    memory: str
    units: Ints
    shape: tuple[int, ...]
    dtype: str
    bits: Ints | None = None
    """Of a ``bit`` view: which bit of its byte each element is."""

    def read(self, it: Interpreter) -> npt.NDArray[Any]:
        """The values now."""
        state = it.state
        if self.memory == "reg":
            return np.array([state.regs[int(r)] for r in self.units], np.int64).reshape(self.shape)
        if self.memory == "acc":
            return state.accumulators[self.units].reshape(self.shape)
        if self.memory == "cells":
            return state.cells.reshape(-1)[self.units].view(np.int8).reshape(self.shape)
        memory = state.buffer
        if self.memory == "host":
            state.grow_host(int(self.units.max(initial=-1)) + 1)
            memory = state.host
        found = memory[self.units]
        if self.bits is not None:
            return (found >> self.bits.astype(np.uint8) & 1).reshape(self.shape)
        return found.view(DTYPES[self.dtype]).reshape(self.shape)

    def check(self, values: npt.ArrayLike) -> None:
        """Raise SasError for values that the place cannot hold: one for all elements, or as many as there are."""
        array = np.asarray(values)
        size = int(np.prod(self.shape))
        low, high = limits_of(self.dtype)
        if array.dtype.kind not in "iub" or array.size not in (1, size):
            raise SasError(f"{self.text} takes {size} whole numbers or one for all")
        if array.min() < low or array.max() > high:
            raise SasError(f"{self.text} holds {low}..{high}")
        if self.memory == "reg" and not self.units.all():
            raise SasError("r0 is always 0")

    def write(self, it: Interpreter, values: npt.ArrayLike) -> None:
        """Set values that :meth:`check` allows."""
        new = np.broadcast_to(np.asarray(values).reshape(-1), (int(np.prod(self.shape)),))
        state = it.state
        if self.memory == "reg":
            for register, value in zip(self.units.tolist(), new.tolist(), strict=True):
                state.regs[register] = value
        elif self.memory == "acc":
            state.accumulators[self.units] = new
        elif self.memory == "cells":
            state.cells.reshape(-1)[self.units] = new.astype(np.int8).view(np.uint8)
            state.written.reshape(-1)[self.units] = True
            it.cells_changed()
        else:
            self.read(it)
            memory = state.buffer if self.memory == "buf" else state.host
            if self.bits is not None:
                for unit, bit, value in zip(self.units.tolist(), self.bits.tolist(), new.tolist(), strict=True):
                    memory[unit] = memory[unit] & ~(1 << bit) & 255 | value << bit
            else:
                memory[self.units] = np.ascontiguousarray(new.astype(DTYPES[self.dtype])).view(np.uint8)


@dataclass(frozen=True)
class Effects:
    """Whether an execution reads and writes a place."""

    read: bool = False
    write: bool = False

    def __bool__(self) -> bool:
        return self.read or self.write


class Places:
    """The places of a program."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._resolve = cache(lambda pc: program.resolve(program.code[pc]))
        machine = program.machine
        self._cells = machine.subarrays, machine.array.rows, machine.weights_per_row

    # ------------------------------------------------------------------------------------------------------------ names

    def place(self, text: str, lookup: Callable[[Name | Index], Any] | None = None) -> Place:
        """The place that a text stands for: a register, a view, a matrix, a memory, or elements of one. ``lookup``: for indices that are not numbers.

        Raises:
            SasError: no such place.
        """
        found = parse(text)
        if not isinstance(found.node, Name | Index):
            raise SasError(
                f"`{text}` is no place in the machine", hint="r3, VIEW[0, 1, 2], MATRIX[4, 7], buf[100:104], cell[3, 17]"
            )
        return self.of(found.node, lookup or self._plain, found.text)

    def _plain(self, node: Name | Index) -> Any:
        raise SasError("an index of a place is a number")

    def of(self, node: Name | Index, lookup: Callable[[Name | Index], Any], text: str = "") -> Place:
        """The place that a name or elements of it stand for."""
        name = node.of if isinstance(node, Index) else node
        parts = node.parts if isinstance(node, Index) else ()
        sample = whole_number(name.sample.value(lookup), name.sample.text) if name.sample is not None else 0
        key = tuple(self._part(p, lookup) for p in parts)
        text = text or name.text
        register = self.register(name.text)
        if register is not None:
            return Place(text, "reg", np.array([register], np.int64), (), "i32")
        p = self.program
        if name.text in p.views:
            return self._view(text, p.views[name.text], sample, key)
        if name.text in p.matrices:
            return self._matrix(text, p.matrices[name.text], key)
        if name.text in MEMORIES:
            return self._memory(text, MEMORIES[name.text], key)
        raise SasError(f"there is no register, view, matrix or memory {name.text!r}", hint=near(name.text, self.names))

    @property
    def names(self) -> tuple[str, ...]:
        """All names that stand for a place, but numbered registers."""
        return (*self.program.params, *self.program.views, *self.program.matrices, *MEMORIES)

    def known(self, name: str) -> bool:
        """Whether a name stands for a place."""
        return name in self.names or self.register(name) is not None

    def wear(self, it: Interpreter, place: Place) -> object:
        """Row writes of the word lines a place lies in, which tell whether cells were written; elsewhere something new each time."""
        if place.memory != "cells":
            return object()
        return it.state.wear.reshape(-1)[np.unique(place.units // self._cells[2])].tolist()

    def register(self, name: str) -> int | None:
        """Number of a register by its name or number; None: the name means something else."""
        if name[:1] == "r" and name[1:].isdecimal() and name not in self.program.views:
            number = int(name[1:])
            if number >= self.program.machine.controller.registers:
                raise SasError(f"there is no register {name}", hint=f"r0 to r{self.program.machine.controller.registers - 1}")
            return number
        return self.program.params.get(name)

    @staticmethod
    def _part(part: Expression | slice, lookup: Callable[[Name | Index], Any]) -> int | slice:
        def number(e: Expression) -> int:
            return whole_number(e.value(lookup), e.text)

        if isinstance(part, slice):
            return slice(None if part.start is None else number(part.start), None if part.stop is None else number(part.stop))
        return number(part)

    @staticmethod
    def _pick(text: str, grid: Ints, key: tuple[int | slice, ...]) -> Ints:
        if len(key) > grid.ndim:
            raise SasError(f"{text}: {len(key)} indices for {grid.ndim} dimensions")
        for part, size in zip(key, grid.shape, strict=False):
            if isinstance(part, int) and not -size <= part < size:
                raise SasError(f"{text}: index {part} is outside 0..{size - 1}", hint=f"its shape is {list(grid.shape)}")
        found = grid[key]
        if not np.size(found):
            raise SasError(f"{text} holds no element", hint=f"its shape is {list(grid.shape)}")
        return np.asarray(found)

    def _view(self, text: str, v: View, sample: int, key: tuple[int | slice, ...]) -> Place:
        if sample and not (v.space == "host" and v.batch):
            raise SasError(f"{v.name} has no samples")
        rows = (np.arange(v.height) % (v.ring or v.height))[:, None, None] * v.row
        base = v.addr + sample * v.batch
        if v.dtype == "bit":
            number = np.arange(v.width * v.channels).reshape(1, v.width, v.channels)
            address, bit = np.broadcast_arrays(base + rows + number // 8, number % 8)
            picked = self._pick(text, address, key)
            return Place(text, v.space, picked.reshape(-1), picked.shape, "bit", self._pick(text, bit, key).reshape(-1))
        grid = base + rows + np.arange(v.width)[None, :, None] * v.pix + np.arange(v.channels)[None, None, :] * v.chan
        picked = self._pick(text, grid, key)
        units = picked.reshape(-1, 1) + np.arange(v.unit)
        return Place(text, v.space, units.reshape(-1), picked.shape, v.dtype)

    def _matrix(self, text: str, m: Matrix, key: tuple[int | slice, ...]) -> Place:
        grid = np.zeros((m.k, m.n), np.int64)
        for t in (t for t in m.tiles if t.copy == 0):
            lines, columns = np.arange(t.rows)[:, None] + t.row, np.arange(t.cols)[None, :] + t.col
            grid[t.k : t.k + t.rows, t.n : t.n + t.cols] = self._cell(t.subarray, lines, columns)[: m.k - t.k, : m.n - t.n]
        picked = self._pick(text, grid, key)
        return Place(text, "cells", picked.reshape(-1), picked.shape, "i8")

    def _cell(self, sub: Any, row: Any, column: Any) -> Ints:
        _, rows, columns = self._cells
        return np.asarray((sub * rows + row) * columns + column)

    def _memory(self, text: str, memory: str, key: tuple[int | slice, ...]) -> Place:
        machine = self.program.machine
        shape = {
            "buf": (machine.buffer.bytes,), "acc": (machine.accumulator.entries,), "host": (machine.host.memory_bytes,), "cells": self._cells,
        }[memory]  # fmt: skip
        if memory == "host":  # too large for a list of all its bytes
            first = key[0] if key else slice(0, None)
            begin, end = (first, first + 1) if isinstance(first, int) else (first.start or 0, first.stop or 0)
            if len(key) != 1 or not 0 <= begin < end <= shape[0]:
                raise SasError(f"{text}: which bytes of host memory?", hint=f"host[0:16]; it has {shape[0]} bytes")
            if end - begin > _MOST:
                raise SasError(f"{text}: {end - begin} bytes are too many", hint=f"at most {_MOST}")
            picked = np.arange(begin, end)[0 if isinstance(first, int) else slice(None)]
        else:
            picked = self._pick(text, np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape), key)
        picked = np.asarray(picked)
        return Place(text, memory, picked.reshape(-1), picked.shape, {"acc": "i32", "cells": "i8"}.get(memory, "u8"))

    # ---------------------------------------------------------------------------------------------------------- effects

    def effects(self, pc: int, r0: int, r1: int, regs: list[int], place: Place) -> Effects:
        """What an execution of instruction ``pc`` on rows r0..r1 does to a place (`EMPTY`: nothing), with the registers as it begins. Of cells it is
        known as far as the rows of matrices go."""
        spec, o = self.program.code[pc].spec, self._resolve(pc)
        read = write = False
        if place.memory == "reg":
            units = set(place.units.tolist())
            for f in spec.fields:
                if isinstance(f, Reg) and getattr(o, f.name) in units:
                    read, write = read or not f.write, write or f.write
                elif isinstance(f, RowsField):
                    read = read or getattr(o, f.name).reg in units
            return Effects(read, write)
        if (r0, r1) == EMPTY:
            return Effects()
        if place.memory == "cells":
            for f in spec.of_kind(MatField):
                if self._meets_matrix(getattr(o, f.name), place, r0, r1 if f.write and not f.scratch else 0):
                    read, write = read or "r" in f.access, write or f.write
            return Effects(read, write)
        samples = {f.name: regs[getattr(o, f.sample)] for f in spec.of_kind(ViewField) if f.sample}
        for f, t in zip(spec.of_kind(ViewField), footprint(spec, o, r0, r1), strict=False):
            if t.view.space == place.memory:
                base = samples.get(f.name, 0) * t.view.batch
                if _meets(t.view, t.first, t.last, base, place.units):
                    read, write = read or t.access != "w", write or t.access != "r"
        return Effects(read, write)

    def _meets_matrix(self, m: Matrix, place: Place, r0: int, r1: int) -> bool:
        sub, rest = np.divmod(place.units, self._cells[1] * self._cells[2])
        row, column = np.divmod(rest, self._cells[2])
        for t in m.tiles:
            first, last = (max(0, r0 - t.k), min(t.rows, r1 - t.k)) if r1 > r0 else (0, t.rows)
            inside = (
                (sub == t.subarray)
                & (t.row + first <= row)
                & (row < t.row + last)
                & (t.col <= column)
                & (column < t.col + t.cols)
            )
            if inside.any():
                return True
        return False

    def candidates(self, place: Place) -> frozenset[int]:
        """Instructions that may touch a place, on some of their rows."""
        found = set[int]()
        for pc, instr in enumerate(self.program.code):
            spec = instr.spec
            if place.memory == "host" and any(f.space == "host" for f in spec.of_kind(ViewField)):
                found.add(pc)  # which sample is known as it runs
                continue
            rows = spec.rows_field()
            whole = NO_ROWS if rows is None else (0, getattr(self._resolve(pc), rows.of).height)
            if self.effects(pc, *whole, [0] * 64, place):
                found.add(pc)
        return frozenset(found)


def _meets(v: View, first: int, last: int, base: int, units: Ints) -> bool:
    """Whether rows first..last of a view (``base``: of a sample) contain one of these units."""
    if first >= last or not ((v.addr + base <= units) & (units < v.end + base)).any():
        return False
    held = v.rows_held
    rows = range(held) if last - first >= held else {y % held for y in range(first, last)}
    for y in rows:
        at = units - (v.addr + base + y * v.row)
        if v.dtype == "bit":
            hit = (at >= 0) & (at < (v.width * v.channels + 7) // 8)
        elif v.chan == v.unit and (v.width == 1 or v.pix == v.channels * v.unit):
            hit = (at >= 0) & (at < v.width * v.channels * v.unit)
        else:
            x = at[:, None] - np.arange(v.width) * v.pix
            c = x[:, :, None] - np.arange(v.channels) * v.chan if v.chan != v.unit else x
            reach = v.unit if v.chan != v.unit else v.channels * v.unit
            hit = (c >= 0) & (c < reach)
        if hit.any():
            return True
    return False
