"""Collects what becomes a program: descriptors (equal ones are shared), constants, registers, code and its origin."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

import sasimc.isa.instructions  # noqa: F401  (fills the instruction table)
from sasimc.isa.analysis.estimate import estimate
from sasimc.isa.errors import SasError
from sasimc.isa.machine import Machine
from sasimc.isa.objects import Geometry, Matrix, Table, View
from sasimc.isa.program import Instr, Origin, Program
from sasimc.isa.spec import TABLE, GeomField, MatField, RowRange, TableField, ViewField

__all__ = ["Builder", "CapacityError", "Stage", "stripe_loop"]

Array = npt.NDArray[Any]

ROW_REGISTERS = range(8, 20)  # row counters of stripe loops
FREE_REGISTERS = range(20, 64)  # shifts and exponents


class CapacityError(SasError):
    """The graph does not fit the machine; the message has the numbers."""


@dataclass
class Builder:
    """Mutable state of one emission. Names are unique; an equal descriptor is declared once."""

    machine: Machine
    made_by: str = "emit"
    views: dict[str, View] = field(default_factory=dict)
    geometries: dict[str, Geometry] = field(default_factory=dict)
    matrices: dict[str, Matrix] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    tensors: dict[str, Array] = field(default_factory=dict)
    code: list[Instr] = field(default_factory=list)
    entries: dict[str, int] = field(default_factory=dict)
    host_top: int = 0
    _names: dict[Any, str] = field(default_factory=dict)
    _taken: dict[str, None] = field(default_factory=dict)
    _origin: Origin = field(default_factory=Origin)
    _free: list[int] = field(default_factory=list)
    _region: bool = False

    def __post_init__(self) -> None:
        self._free = [r for r in FREE_REGISTERS if r < self.machine.controller.registers]

    # --- names and descriptors -------------------------------------------------------------------------------------

    def unique(self, base: str) -> str:
        """``base`` made a legal, unused name."""
        clean = "".join(c if c.isalnum() or c in "._" else "_" for c in base) or "v"
        if not (clean[0].isalpha() or clean[0] == "_"):
            clean = "_" + clean
        name, i = clean, 1
        while name in self._taken:
            i += 1
            name = f"{clean}.{i}"
        self._taken[name] = None
        return name

    def _declare(self, pool: dict[str, Any], base: str, made: Any) -> str:
        key = (type(made), repr(replace(made, name="")))
        if key not in self._names:
            name = self.unique(base)
            self._names[key] = name
            pool[name] = replace(made, name=name)
        return self._names[key]

    def view(
        self, base: str, space: str, dtype: str, shape: tuple[int, int, int], addr: int, *, ring: int = 0, pad: int = 0,
        strides: tuple[int, int, int] | None = None, batch: int = 0,
    ) -> str:  # fmt: skip
        """Name of a view with these properties."""
        row, pix, chan = strides or View.dense_strides(space, dtype, shape)
        ring = 0 if ring >= shape[0] else ring
        return self._declare(self.views, base, View("", space, dtype, shape, addr, row, pix, chan, ring, batch, pad))

    def channel_slice(self, name: str, first: int, count: int) -> str:
        """A view on channels first..first+count-1 of another view."""
        v = self.views[name]
        if first == 0 and count == v.channels:
            return name
        if v.dtype == "bit":
            raise CapacityError("a mask cannot be cut by channels", where=name)
        made = replace(v, name="", addr=v.addr + first * v.chan, shape=(v.height, v.width, count))
        return self._declare(self.views, f"{name}.c{first}", made)

    def slice(self, name: str, start: tuple[int, ...], step: tuple[int, ...], shape: tuple[int, int, int]) -> str:
        """A view on every ``step``-th row, pixel and channel of another view from ``start`` on, ``shape`` of them."""
        v = self.views[name]
        if (tuple(start), tuple(step), shape) == ((0, 0, 0), (1, 1, 1), v.shape):
            return name
        strides = (v.row, v.pix, v.chan)
        addr = v.addr + sum(a * s for a, s in zip(start, strides, strict=True))
        row, pix, chan = (n * s for n, s in zip(step, strides, strict=True))
        made = replace(v, name="", addr=addr, shape=shape, row=row, pix=pix, chan=chan)
        return self._declare(self.views, f"{name}.part", made)

    def matrix_view(self, name: str, strides: tuple[int, ...], group: int, first: int, shape: tuple[int, int]) -> str:
        """A view (1, rows, columns) on the matrix of a group, from column ``first`` on; ``strides``: of groups, rows and columns in a dense tensor of
        bytes."""
        v, (of_group, of_row, of_column) = self.views[name], strides
        made = replace(
            v, name="", addr=v.addr + group * of_group + first * of_column, shape=(1, *shape), ring=0,
            row=shape[0] * of_row, pix=of_row, chan=of_column,
        )  # fmt: skip
        return self._declare(self.views, f"{name}.m{group}", made)

    def columns_from(self, name: str, first: int) -> str:
        """A view without the pixels 0..first-1 of each row."""
        v = self.views[name]
        made = replace(v, name="", addr=v.addr + first * v.pix, shape=(v.height, v.width - first, v.channels))
        return self._declare(self.views, f"{name}.x{first}", made) if first else name

    def geometry(self, **fields: Any) -> str:
        """Name of a geometry."""
        made = Geometry("", **fields)
        k, s = made.kernel, made.stride
        base = made.mode if made.mode != "window" else f"k{k[0]}x{k[1]}s{s[0]}"
        return self._declare(self.geometries, base, made)

    def table(self, base: str, kind: str, ints: dict[str, int], arrays: Mapping[str, npt.ArrayLike] | None = None) -> str:
        """Name of a table; its arrays go to the weights file."""
        made_arrays: dict[str, str | tuple[int, ...]] = {}
        for role, values in (arrays or {}).items():
            made_arrays[role] = self.tensor(f"{base}.{role}", np.asarray(values, dtype=np.int32))
        return self._declare(self.tables, f"t.{base}", Table("", kind, ints, made_arrays))

    def tensor(self, base: str, values: Array) -> str:
        """Name of an array in the weights file; equal arrays of one base name are stored once."""
        name, i = base, 1
        while name in self.tensors:
            if self.tensors[name].dtype == values.dtype and np.array_equal(self.tensors[name], values):
                return name
            i += 1
            name = f"{base}.{i}"
        self.tensors[name] = np.ascontiguousarray(values)
        return name

    def matrix(self, matrix: Matrix) -> str:
        """Declare a matrix under its own name."""
        if matrix.name not in self.matrices:
            self._taken[matrix.name] = None
            self.matrices[matrix.name] = matrix
        return matrix.name

    def host(self, base: str, dtype: str, shape: tuple[int, int, int], batch: int) -> str:
        """A fresh tensor in host memory, ``batch`` samples, 64-byte aligned."""
        row = View.dense_strides("host", dtype, shape)[0]
        stride = -(-row * shape[0] // 4) * 4
        return self.view(base, "host", dtype, shape, self.reserve_host(base, stride * batch), batch=stride)

    def reserve_host(self, what: str, size: int) -> int:
        """Address of ``size`` fresh bytes of host memory."""
        addr = self.host_top
        self.host_top += -(-size // 64) * 64
        if self.host_top > self.machine.host.memory_bytes:
            raise CapacityError(
                f"host memory: {self.host_top} bytes needed for inputs, saved and spilled tensors, {self.machine.host.memory_bytes} available",
                where=what, hint="a smaller --batch, or a larger host.memory_bytes in the machine file",
            )  # fmt: skip
        return addr

    def cheapest(self, batch: int, size: int, *ways: Callable[[], None]) -> None:
        """Emit the way that takes the fewest cycles (the first among equals) with ``size`` in register ``batch``; all leave registers as they were. What the
        others emitted and declared is gone.

        Raises:
            CapacityError: the machine has no room for any of them.
        """
        first, free, known = len(self.code), list(self._free), [len(pool) for pool in self._declared()]
        tried: list[tuple[int, list[Instr], list[dict[Any, Any]]]] = []
        no_room: CapacityError | None = None
        for way in ways:
            try:
                way()
                cycles = self._cycles(self.code[first:], batch, size) if len(ways) > 1 else 0
                tried.append(
                    (cycles, self.code[first:], [_since(pool, n) for pool, n in zip(self._declared(), known, strict=True)])
                )
            except CapacityError as exc:
                no_room = exc
            self.code[first:], self._free = [], list(free)
            for pool, n in zip(self._declared(), known, strict=True):
                for key in _since(pool, n):
                    del pool[key]
        if not tried and no_room:
            raise no_room
        _, code, declared = min(tried, key=lambda t: t[0])
        self.code += code
        for pool, made in zip(self._declared(), declared, strict=True):
            pool.update(made)

    def _declared(self) -> tuple[dict[Any, Any], ...]:
        return self.views, self.geometries, self.matrices, self.tables, self.tensors, self._names, self._taken

    def _cycles(self, code: Sequence[Instr], batch: int, size: int) -> int:
        program = Program(
            self.machine, tuple(code), self.views, self.geometries, self.matrices, self.tables, {"part": 0}, {"batch": batch}
        )
        return estimate(program, "part", {"batch": size}).cycles

    # --- registers ---------------------------------------------------------------------------------------------------

    def register(self) -> int:
        """A free scalar register."""
        if not self._free:
            registers = self.machine.controller.registers
            raise CapacityError(
                f"{len([r for r in FREE_REGISTERS if r < registers])} of the machine's {registers} registers are free for error exponents, more "
                "are alive at once",
                where=self._origin.node, hint="a machine with more controller.registers, or fewer branches between trainable layers",
            )  # fmt: skip
        return self._free.pop(0)

    def release(self, reg: int) -> None:
        """Give a register back."""
        self._free.insert(0, reg)

    # --- code ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def origin(self, node: str, made_by: str = "") -> Iterator[None]:
        """Instructions emitted inside belong to this ONNX node."""
        before = self._origin
        self._origin = Origin(node, made_by or self.made_by)
        try:
            yield
        finally:
            self._origin = before

    def emit(self, mnemonic: str, *operands: Any) -> None:
        """Append an instruction."""
        spec = TABLE[mnemonic]
        if len(operands) != len(spec.fields):
            raise AssertionError(f"{mnemonic} takes {len(spec.fields)} operands, got {len(operands)}")
        for f, value in zip(spec.fields, operands, strict=True):
            if not isinstance(value, str) and (problem := f.check(value)):
                raise CapacityError(f"{mnemonic}: operand {f.name}: {problem}", where=self._origin.node)
        self.code.append(Instr(spec, tuple(operands), self._origin))

    def check_encoding(self) -> None:
        """Refuse more descriptors than the operand fields of an instruction can name."""
        pools = {"view": self.views, "matrix": self.matrices, "geometry": self.geometries, "table": self.tables}
        for kind, field_type in {"view": ViewField, "matrix": MatField, "geometry": GeomField, "table": TableField}.items():
            if len(pools[kind]) > 1 << field_type.bits:
                raise CapacityError(
                    f"the program needs {len(pools[kind])} descriptors of kind {kind}, an instruction can name {1 << field_type.bits}",
                    hint="cut the network in two programs",
                )

    def entry(self, name: str) -> None:
        """The next instruction starts entry point ``name``."""
        self.entries[name] = len(self.code)

    @contextmanager
    def overlapped(self) -> Iterator[None]:
        """Units work concurrently on what is emitted inside (one region, also when nested)."""
        if self._region:
            yield
            return
        self.emit("ovl")
        self._region = True
        yield
        self._region = False
        self.emit("sync")

    @contextmanager
    def batch_loop(self, count: int, index: int) -> Iterator[None]:
        """Loop over the samples: register ``count`` times, ``index`` counts up from 0."""
        self.emit("li", index, 0)
        self.emit("loop", count)
        yield
        self.emit("addi", index, index, 1)
        self.emit("endl")


def _since(pool: Mapping[Any, Any], known: int) -> dict[Any, Any]:
    """What came into a pool after the first ``known``."""
    return dict(itertools.islice(pool.items(), known, None))


@dataclass(frozen=True)
class Stage:
    """One step of a stripe loop: in iteration i it works on rows i * rows + offset .. + rows (clipped by the instruction)."""

    rows: int
    offset: int
    height: int
    run: Callable[[RowRange], None]


def stripe_loop(b: Builder, stages: Sequence[Stage]) -> None:
    """Emit a hardware loop over row stripes.

    Units overlap within the loop. The first iteration is early enough that every stage starts at or before row 0; the last one covers
    the last stage's height. A single iteration needs no loop.
    """
    with b.overlapped():
        _stripe_loop(b, stages)


def _stripe_loop(b: Builder, stages: Sequence[Stage]) -> None:
    first = -max(-(-max(s.offset, 0) // s.rows) for s in stages)
    last = -(-(stages[-1].height - stages[-1].offset) // stages[-1].rows)
    count = last - first
    if count == 1:
        for s in stages:
            s.run(RowRange(0, first * s.rows + s.offset, s.rows))
        return
    regs: dict[int, int] = {}
    usable = [r for r in ROW_REGISTERS if r < b.machine.controller.registers]
    for s in stages:
        if s.rows not in regs:
            if len(regs) >= len(usable):
                raise CapacityError(
                    f"a loop over stripes needs {len({s.rows for s in stages})} row counters, {len(usable)} registers are free for them",
                    where=b._origin.node, hint="a machine with more controller.registers",
                )  # fmt: skip
            regs[s.rows] = usable[len(regs)]
            b.emit("li", regs[s.rows], first * s.rows)
    b.emit("loopi", count)
    for s in stages:
        s.run(RowRange(regs[s.rows], s.offset, s.rows))
    for rows, reg in regs.items():
        b.emit("addi", reg, reg, rows)
    b.emit("endl")
