"""Descriptors bound to a machine's memories: everything an instruction needs of its operands, computed once.

Bound operands answer the questions costs and legality ask of descriptors (shape, pad, loads, ...) and give their part of the operand record
(`sasimc.isa.record`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sasimc.isa.analysis.check import check_matrix, check_view
from sasimc.isa.errors import SasError
from sasimc.isa.instructions.array import INPUT_BITS, MAX_SUM_LENGTH
from sasimc.isa.machine import Machine, activation_steps
from sasimc.isa.objects import DTYPES, EXP_ONE, Geometry, Matrix, Table, View
from sasimc.isa.program import Program
from sasimc.isa.record import table_type
from sasimc.runtime.kernels.cells import tile_array
from sasimc.runtime.state import State

__all__ = ["BindError", "BoundMatrix", "BoundTable", "BoundView", "geometry_record", "is_plain"]

_MODES: Final = ("window", "linear2", "nearest")
_RUN = 256


class BindError(SasError):
    """A descriptor cannot be used on this machine; ``kind`` is the trap it leads to."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


def is_plain(view: View) -> bool:
    """Whether kernels can address the view by elements: channels are neighbours, 32-bit words are aligned."""
    _, w, c = view.shape
    unit = view.unit
    if view.dtype == "bit":
        return True
    if c > 1 and view.chan != unit:
        return False
    strides = [s for s, n in ((view.row, view.rows_held), (view.pix, w)) if n > 1]
    return all(s % unit == 0 for s in strides) and view.addr % unit == 0


class BoundView:
    """A view on buffer, accumulators or host memory.

    ``phys``: the rows that exist, as a strided array [rows held, W, C] (bytes [rows, 1, n] for ``bit``); host views have none, as host memory may
    move. ``staged``: the true operand when this is its dense copy in the staging area.
    """

    def __init__(self, view: View, state: State, staged: BoundView | None = None) -> None:
        if staged is None:
            for text in check_view(state.machine, view):
                raise BindError("out of range", f"{view.name}: {text}")
        self.view, self.staged = view, staged
        self.name, self.space, self.dtype, self.shape = view.name, view.space, view.dtype, view.shape
        self.height, self.width, self.channels = view.shape
        self.pad, self.ring, self.batch, self.row_bits = view.pad, view.ring, view.batch, view.row_bits
        self.rows_held, self.limits, self.unit = view.rows_held, view.limits, view.unit
        self.pad_byte, self.signed = view.pad & 255, view.dtype == "i8"
        self.plain = is_plain(view)
        self.np_dtype = np.dtype(DTYPES[view.dtype])
        bits = view.dtype == "bit"
        run = (1, (self.width * self.channels + 7) // 8) if bits else (self.width, self.channels)
        self.phys_shape = (self.rows_held, *run)
        scale = 4 if view.space == "acc" else 1
        self.strides = (view.row, 0, 1) if bits else (view.row * scale, view.pix * scale, view.chan * scale)
        self.offset, self.low, self.high = view.addr * scale, view.addr * scale, view.end * scale
        if view.space != "host":
            memory = state.acc if view.space == "acc" else state.buf
            self.phys = np.ndarray(self.phys_shape, self.np_dtype, memory.data, self.offset, self.strides)

    @property
    def elements(self) -> tuple[int, int, int, int, int, int]:
        """(base, row stride, pixel stride, ring, columns, channels) in elements of the flat array of its type."""
        view, unit = self.view, max(1, self.view.unit)
        ring = view.ring or self.height
        if view.dtype == "bit":
            return view.addr, view.row, 0, ring, self.width, self.channels
        pix = view.pix // unit if self.width > 1 else self.channels
        row = view.row // unit if self.rows_held > 1 else self.width * pix
        return view.addr // unit, row, pix, ring, self.width, self.channels

    def record(self) -> tuple[int, ...]:
        """The view in an operand record."""
        item, (_, pixels, units) = self.np_dtype.itemsize, self.phys_shape
        return (
            *self.elements, self.height, int(self.signed), self.pad, item, self.offset, *self.strides, pixels, units, self.batch, self.low, self.high,
        )  # fmt: skip

    def in_host(self, host: npt.NDArray[np.uint8], index: int) -> npt.NDArray[Any]:
        """The physical rows of sample ``index`` in host memory (which must be large enough)."""
        return np.ndarray(self.phys_shape, self.np_dtype, host.data, self.offset + index * self.batch, self.strides)

    def segments(self, r0: int, r1: int) -> Iterator[tuple[int, int, int]]:
        """Runs of neighbouring physical rows under logical rows r0..r1: (first logical, first physical, count)."""
        ring = self.ring or self.height
        y = r0
        while y < r1:
            at = y % ring
            count = min(r1 - y, ring - at)
            yield y, at, count
            y += count

    def get(self, r0: int, r1: int, phys: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Logical rows r0..r1 as [r1 - r0, W, C] (a view of the memory when they are neighbours)."""
        source = self.phys if phys is None else phys
        ring = self.ring or self.height
        at = r0 % ring
        if at + r1 - r0 <= ring:
            return source[at : at + r1 - r0]
        return source[np.arange(r0, r1) % ring]

    def put(self, r0: int, values: npt.NDArray[Any], phys: npt.NDArray[Any] | None = None) -> None:
        """Store values [n, W, C] from logical row r0 on; rows of a ring are written one after another."""
        target = self.phys if phys is None else phys
        for y, at, count in self.segments(r0, r0 + values.shape[0]):
            target[at : at + count] = values[y - r0 : y - r0 + count]


class BoundMatrix:
    """A matrix in the sub-arrays. ``ready``: what kernels derived from its cells and is up to date; ``weights``: memory for that, by what it is;
    ``aliases``: matrices that share cells with it; ``plans``: what engines derived from its tiles."""

    def __init__(self, matrix: Matrix, state: State) -> None:
        self.matrix = matrix
        self.name, self.kind, self.array, self.trainable = matrix.name, matrix.kind, matrix.array, matrix.trainable
        self.kind_of_cells = "transposable" if matrix.array == "transposable" else "compute"
        self.k, self.n, self.tiles, self.tensor = matrix.k, matrix.n, matrix.tiles, matrix.tensor
        self.copies, self.loads, self.column_loads = matrix.copies, matrix.loads, matrix.column_loads
        self.activations, self.products, self.partial_sums = matrix.activations, matrix.products, matrix.partial_sums
        self.index = tile_array(matrix.tiles)
        self.initialised = False
        self.ready: set[Any] = set()
        self.weights: dict[Any, tuple[npt.NDArray[np.uint8], int, int]] = {}
        self.plans: dict[str, Any] = {}
        self.aliases: list[BoundMatrix] = []
        for text in check_matrix(state.machine, matrix):
            raise BindError("out of range", f"{self.name}: {text}")
        if self.kind != "scratch" and max(self.k, self.n) > MAX_SUM_LENGTH:
            raise BindError(
                "accumulator overflow",
                f"{self.name} is {self.k} x {self.n}: sums of more than {MAX_SUM_LENGTH} products may overflow",
            )

    def changed(self) -> None:
        """Forget what was derived from the cells of this matrix and of those that share cells with it."""
        self.ready.clear()
        for other in self.aliases:
            other.ready.clear()

    def skip_plan(self, machine: Machine) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int, int, int, int]:
        """What counting the cycles of one bits needs: places of tiles, group or bank of places, number of these, MATs, banks, cycles of a wave."""
        found = self.plans.get("skip")
        if found is None:
            subs = sorted(self.loads)
            place = {s: i for i, s in enumerate(subs)}
            free = machine.activation.rule == "free"
            owner = [machine.bank_of(s) if free else machine.group_of(s) for s in subs]
            number = {u: i for i, u in enumerate(sorted(set(owner)))}
            (bh, bw), (mh, mw) = machine.activation.banks, machine.activation.mats
            where = np.array([place[s] for s in self.index[:, 0].tolist()], np.int64)
            unit = np.array([number[u] for u in owner], np.int64)
            wave = activation_steps(machine, self.loads) * INPUT_BITS
            found = self.plans["skip"] = (where, unit, len(number), mh * mw if free else 0, bh * bw, wave)
        return found

    def record(self, weights: Any, machine: Machine | None) -> tuple[int, ...]:
        """The matrix in an operand record, with the weights prepared under that key; with what counts skipped cycles on a machine that skips."""
        made, blocks, groups = self.weights.get(weights, (None, 0, 0))
        base = (
            self.k,
            self.n,
            self.index.ctypes.data,
            len(self.index),
            self.copies,
            0 if made is None else made.ctypes.data,
            blocks,
            groups,
        )
        if machine is None or self.kind == "scratch":
            return (*base, *[0] * 7)
        where, unit, *rest = self.skip_plan(machine)
        return (*base, where.ctypes.data, unit.ctypes.data, len(unit), *rest)


class BoundTable:
    """A table with its arrays read in (`requant` constants as often as fills a run of the kernel)."""

    def __init__(self, table: Table, program: Program) -> None:
        self.name, self.kind, self.ints = table.name, table.kind, dict(table.ints)
        int_names, roles = Table.KINDS[table.kind]
        for role in int_names:
            if role not in table.ints:
                raise BindError("bad table", f"{table.name} lacks {role}")
        self.arrays: Mapping[str, Any] = table.arrays
        values: dict[str, npt.NDArray[np.int64]] = {}
        for role in roles:
            try:
                values[role] = program.table_array(table, role)
            except KeyError as exc:
                raise BindError("bad table", f"{table.name}: no array for {role} ({exc})") from None
        shift = values.get("shift")
        if (shift is not None and (shift < 1).any() | (shift > 62).any()) or (
            "shift" in table.ints and not 1 <= table.ints["shift"] <= 62
        ):
            raise BindError("bad table", f"{table.name}: a shift is outside 1..62")
        if "exp" in values and (values["exp"].min() < 0 or values["exp"][0] != EXP_ONE):
            raise BindError("bad table", f"{table.name}: exponentials begin with {EXP_ONE} and are not negative")
        if shift is not None:
            values["half"] = (np.int64(1) << (shift - 1)) - 1  # rounding needs it at every row
            # several pixels of few channels are one run of the kernel
            values = {role: np.tile(a, max(1, _RUN // max(1, a.size))) for role, a in values.items()}
        self.values = {role: np.ascontiguousarray(a) for role, a in values.items()}
        self.size = next((program.table_array(table, role).size for role in roles), 0)

    def fit(self, view: BoundView) -> None:
        """Check that its arrays are as long as the channels of what it writes ask for, and that this can hold the values of a look-up."""
        if self.values and not Table.fits(self.kind, self.size, view.channels):
            raise BindError("bad table", f"{self.name}: {self.size} values for {view.channels} channels")
        if (
            self.kind == "lut"
            and not view.limits[0] <= self.values["values"].min() <= self.values["values"].max() <= view.limits[1]
        ):
            raise BindError("bad table", f"{self.name} has values outside {view.dtype}")

    def record(self) -> tuple[int, ...]:
        """The table in an operand record."""
        count = next((a.size for a in self.values.values()), 0)
        known = {**self.ints, **{role: a.ctypes.data for role, a in self.values.items()}, "count": count}
        return tuple(known[name] for name in table_type(self.kind).names or ())


def geometry_record(geom: Geometry, inner: BoundView, outer: BoundView) -> tuple[int, ...]:
    """A geometry in an operand record, between the plane of one view and that of another."""
    planes = (*inner.shape[:2], *outer.shape[:2])
    same = geom.taps == 1 and geom.stride == (1, 1) and geom.pad == (0, 0) and planes[:2] == planes[2:]
    return (*geom.kernel, *geom.stride, *geom.dilation, *geom.pad, *planes, _MODES.index(geom.mode), int(same))
