"""Descriptors bound to a machine's memories: everything an instruction needs of its operands, computed once.

Bound operands answer the questions costs and legality ask of descriptors (shape, pad, loads, ...) and carry what the
kernels take:
flat arrays, element strides, prepared weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.isa.errors import SasError
from sasimc.isa.instructions.array import scratch_tiles
from sasimc.isa.objects import Geometry, Matrix, Table, View
from sasimc.isa.program import Program
from sasimc.runtime.engines.cells import covers, tile_array
from sasimc.runtime.kernels import make_geom
from sasimc.runtime.state import State

__all__ = ["BindError", "BoundMatrix", "BoundTable", "BoundView", "Window", "extent", "is_plain", "scratch_block"]

_DTYPES = {"u8": np.uint8, "i8": np.int8, "i32": np.int32, "bit": np.uint8}
_RUN = 256
MAX_SUM_LENGTH = 65_793  # products of 255 x 128 that fit 32 bits


class BindError(SasError):
    """A descriptor cannot be used on this machine; ``kind`` is the trap it leads to."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


def extent(view: View) -> tuple[int, int]:
    """Lowest and one past the highest address a view touches (bytes; words for ``acc``), whatever the signs of its
    strides."""
    h, w, c = view.rows_held, view.width, view.channels
    if view.dtype == "bit":
        steps, unit = [(h, view.row)], (w * c + 7) // 8
    else:
        steps, unit = [(h, view.row), (w, view.pix), (c, view.chan)], view.unit
    reach = [(n - 1) * s for n, s in steps]
    return view.addr + sum(min(0, r) for r in reach), view.addr + sum(max(0, r) for r in reach) + unit


def is_plain(view: View) -> bool:
    """Whether kernels can address the view: channels are neighbours, 32-bit words are aligned, strides are not
    negative."""
    _, w, c = view.shape
    unit = view.unit
    if view.dtype == "bit":
        return view.row >= 0
    if c > 1 and view.chan != unit:
        return False
    strides = [s for s, n in ((view.row, view.rows_held), (view.pix, w)) if n > 1]
    return all(s >= 0 and s % unit == 0 for s in strides) and view.addr % unit == 0


class BoundView:
    """A view on buffer, accumulators or host memory.

    ``kv`` is the kernels' tuple (base, row stride, pixel stride, ring, columns, channels) in elements of the flat
    array of its type;
    ``phys`` the rows that exist, as a strided array [rows held, W, C] (bytes [rows, 1, n] for ``bit``); host views
    have neither, as
    host memory may move. ``twin`` is the true operand when this is its dense copy in the staging area.
    """

    def __init__(self, view: View, state: State, twin: BoundView | None = None) -> None:
        if min(view.shape) < 1 or view.ring < 0:
            raise BindError("out of range", f"{view.name} has an empty shape {view.shape} or a negative ring")
        self.view = view
        self.name, self.space, self.dtype, self.shape = view.name, view.space, view.dtype, view.shape
        self.height, self.width, self.channels = view.shape
        self.pad, self.ring, self.batch, self.row_bits = view.pad, view.ring, view.batch, view.row_bits
        self.rows_held, self.limits = view.rows_held, view.limits
        self.pad_byte = view.pad & 255
        self.signed = view.dtype == "i8"
        self.plain = is_plain(view)
        self.twin = twin
        self.low, self.high = extent(view)
        self.np_dtype = np.dtype(_DTYPES[view.dtype])
        bits = view.dtype == "bit"
        self.phys_shape = (
            (self.rows_held, 1, (self.width * self.channels + 7) // 8) if bits else (self.rows_held, self.width, self.channels)
        )
        scale = 4 if view.space == "acc" else 1
        self.strides = (view.row, 0, 1) if bits else (view.row * scale, view.pix * scale, view.chan * scale)
        self.offset = view.addr * scale
        self.kv = self._kernel_view()
        if view.dtype in ("u8", "i8") and not self.limits[0] <= view.pad <= self.limits[1]:
            raise BindError("out of range", f"{view.name}: pad value {view.pad} is not a {view.dtype}")
        if view.space == "host":
            if self.low < 0 or view.batch < 0:
                raise BindError("out of range", f"{view.name} reaches below address 0 of host memory")
            return
        memory, size = (state.acc, state.acc_entries) if view.space == "acc" else (state.buf, state.buffer_bytes)
        if twin is None and (self.low < 0 or self.high > size):
            what = "accumulator words" if view.space == "acc" else "buffer bytes"
            raise BindError("out of range", f"{view.name} touches {what} {self.low}..{self.high - 1} of {size}")
        self.phys = np.ndarray(self.phys_shape, self.np_dtype, memory.data, self.offset, self.strides)

    def _kernel_view(self) -> tuple[int, int, int, int, int, int]:
        view, unit = self.view, max(1, self.view.unit)
        ring = view.ring or self.height
        if view.dtype == "bit":
            return view.addr, view.row, 0, ring, self.width, self.channels
        pix = view.pix // unit if self.width > 1 else self.channels
        row = view.row // unit if self.rows_held > 1 else self.width * pix
        return view.addr // unit, row, pix, ring, self.width, self.channels

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
        at, count = r0 % (self.ring or self.height), values.shape[0]
        if at + count <= (self.ring or self.height):
            target[at : at + count] = values
            return
        for y, at, count in self.segments(r0, r0 + values.shape[0]):
            target[at : at + count] = values[y - r0 : y - r0 + count]


class BoundMatrix:
    """A matrix in the sub-arrays with what engines derived from its cells (``ready``; emptied whenever a cell may
    have changed)."""

    def __init__(self, matrix: Matrix, state: State) -> None:
        self.matrix = matrix
        self.name, self.kind, self.array, self.trainable = matrix.name, matrix.kind, matrix.array, matrix.trainable
        self.kind_of_cells = "transposable" if matrix.array == "transposable" else "compute"
        self.k, self.n, self.tiles, self.tensor = matrix.k, matrix.n, matrix.tiles, matrix.tensor
        self.copies, self.loads, self.column_loads = matrix.copies, matrix.loads, matrix.column_loads
        self.activations, self.products, self.partial_sums = matrix.activations, matrix.products, matrix.partial_sums
        self.index = tile_array(matrix.tiles)
        self.ready: dict[Any, Any] = {}
        self.plans: dict[str, Any] = {}
        self.scratch: dict[tuple[int, int], npt.NDArray[np.int64]] = {}
        self.kin: list[BoundMatrix] = []
        self._check(state)

    def _check(self, state: State) -> None:
        t, machine = self.index, state.machine
        if not len(t):
            raise BindError("out of range", f"{self.name} has no tiles")
        last_row, last_col = t[:, 1] + t[:, 5], t[:, 2] + t[:, 6]
        wrong = (
            (t < 0).any(axis=1) | (t[:, 0] >= machine.subarrays) | (t[:, 5] < 1) | (t[:, 6] < 1)
            | (last_row > machine.array.rows) | (last_col > machine.weights_per_row)
        )  # fmt: skip
        if wrong.any():
            tile = self.tiles[int(np.argmax(wrong))]
            raise BindError(
                "out of range",
                f"{self.name}: tile {tile.rows} x {tile.cols} at sub-array {tile.subarray}, row {tile.row}, column {tile.col} "
                f"lies outside the {machine.subarrays} sub-arrays of {machine.array.rows} x {machine.weights_per_row} weights",
            )
        if self.kind == "scratch":
            if len(set(t[:, 0])) != len(t):
                raise BindError(
                    "activation limit",
                    f"{self.name}: two scratch tiles stand in one sub-array; they cannot be active together",
                )
            rows, cols = int(t[0, 5]), int(t[0, 6])
            if (t[:, 1] + rows > machine.array.rows).any() or (t[:, 2] + cols > machine.weights_per_row).any():
                raise BindError("out of range", f"{self.name}: every scratch tile must have room for {rows} x {cols} weights")
            return
        if self.k > MAX_SUM_LENGTH or self.n > MAX_SUM_LENGTH:
            raise BindError(
                "accumulator overflow",
                f"{self.name} is {self.k} x {self.n}: sums of more than {MAX_SUM_LENGTH} products may overflow",
            )
        cut = sorted(t[t[:, 7] == 0, 3:7].tolist())
        for copy in range(self.copies):
            if sorted(t[t[:, 7] == copy, 3:7].tolist()) != cut:
                raise BindError("illegal operands", f"{self.name}: copy {copy} is cut into other tiles than copy 0")
            if not covers(t, self.k, self.n, copy):
                raise BindError(
                    "out of range",
                    f"{self.name}: the tiles of copy {copy} do not hold each of its {self.k} x {self.n} weights once",
                )

    def changed(self) -> None:
        """Forget what was derived from the cells of this matrix and of those that share cells with it."""
        self.ready.clear()
        for other in self.kin:
            other.ready.clear()


def scratch_block(mat: BoundMatrix, k: int, n: int) -> npt.NDArray[np.int64]:
    """Tiles of a k x n operand in a scratch matrix, in the order written (kept with the matrix)."""
    found = mat.scratch.get((k, n))
    if found is None:
        found = mat.scratch[(k, n)] = tile_array(scratch_tiles(mat.matrix, k, n))
    return found


class BoundTable:
    """A table with its arrays read in; ``repeated``: those of a ``requant`` table as often as fills a run of the kernel."""

    def __init__(self, table: Table, program: Program) -> None:
        self.name, self.kind, self.ints = table.name, table.kind, dict(table.ints)
        int_names, roles = Table.KINDS[table.kind]
        for role in int_names:
            if role not in table.ints:
                raise BindError("bad table", f"{table.name} lacks {role}")
        self.arrays: dict[str, npt.NDArray[np.int64]] = {}
        for role in roles:
            try:
                self.arrays[role] = np.ascontiguousarray(program.table_array(table, role))
            except KeyError as exc:
                raise BindError("bad table", f"{table.name}: no array for {role} ({exc})") from None
        shift = self.arrays.get("shift")
        if (shift is not None and (shift < 1).any() | (shift > 62).any()) or (
            table.kind == "addq" and not 1 <= table.ints["shift"] <= 62
        ):
            raise BindError("bad table", f"{table.name}: a shift is outside 1..62")
        if shift is not None:
            self.arrays["half"] = (np.int64(1) << (shift - 1)) - 1  # rounding needs it at every row
            # several pixels of few channels are one run of the kernel
            self.repeated = {role: np.tile(a, max(1, _RUN // max(1, a.size))) for role, a in self.arrays.items()}

    def fit(self, channels: int) -> None:
        """Check that every array has one value a channel (``scale`` may have one for all)."""
        for role, values in self.arrays.items():
            if values.size != channels and not (self.kind == "scale" and values.size == 1):
                raise BindError("bad table", f"{self.name}: {values.size} values of {role} for {channels} channels")


class Window:
    """A geometry between an input plane and an output plane, and how often its windows use each row and column.

    ``geom`` is the kernels' tuple. `uses` gives, for output rows r0..r1, what counting the streamed one bits needs.
    """

    def __init__(self, geom: Geometry, h: int, w: int, ho: int, wo: int) -> None:
        kh, kw = geom.kernel
        sh, sw = geom.stride
        dh, dw = geom.dilation
        pt, pl = geom.pad
        self.geom = make_geom(kh, kw, sh, sw, dh, dw, pt, pl, h, w, ho, wo)
        self.identity = (kh, kw, sh, sw, pt, pl) == (1, 1, 1, 1, 0, 0) and (h, w) == (ho, wo)
        self.mx = self._count(kw, sw, dw, pl, w, 0, wo)
        self._uses: dict[tuple[int, int], tuple[npt.NDArray[np.int64], int, int, int]] = {}

    @staticmethod
    def _count(kernel: int, stride: int, dilation: int, pad: int, size: int, first: int, last: int) -> npt.NDArray[np.int64]:
        at = (np.arange(first, last)[:, None] * stride - pad + np.arange(kernel)[None, :] * dilation).reshape(-1)
        return np.bincount(at[(at >= 0) & (at < size)], minlength=size).astype(np.int64)

    def uses(self, r0: int, r1: int) -> tuple[npt.NDArray[np.int64], int, int, int]:
        """(uses of input rows y0..y1, y0, y1, number of window positions outside the plane) for output rows r0..r1."""
        found = self._uses.get((r0, r1))
        if found is None:
            kh, kw, sh, _, dh, _, pt, _, h, _, _, wo = self.geom
            my = self._count(kh, sh, dh, pt, h, r0, r1)
            y0 = min(h, max(0, r0 * sh - pt))
            y1 = max(y0, min(h, (r1 - 1) * sh - pt + (kh - 1) * dh + 1))
            outside = (r1 - r0) * kh * wo * kw - int(my.sum()) * int(self.mx.sum())
            found = self._uses[(r0, r1)] = (np.ascontiguousarray(my[y0:y1]), y0, y1, outside)
        return found
