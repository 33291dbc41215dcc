"""Dense products on the arrays: bit-serial on packed bit planes, fused on integers.

Weights W are int8 [K, N] (K word lines, N weight columns), inputs x are uint8 or int8 [P, K] (P pixels), results int32
[P, N] = x W, exact. The transposed product e W^T uses the same functions with the planes of W.T, the gradient a^T e with
those of e. K is at most 65000, so that no sum of one call leaves 32 bits; adding into an accumulator reports wrapping.

The view of a flat array that the kernels share is a plain tuple
(base, row_stride, pixel_stride, ring, cols, chans): element (y, x, c) is
flat[base + (y % ring) * row_stride + x * pixel_stride + c]. See `make_view`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sasimc.runtime.kernels.compiling import inner
from sasimc.runtime.kernels.forms import FORM
from sasimc.runtime.kernels.packing import mix_lines, slice_lines
from sasimc.runtime.kernels.products import (
    bit_block_signed,
    bit_block_unsigned,
    dot_row,
    dot_tile,
    dot_tile_narrow,
    narrow_block_signed,
    narrow_block_unsigned,
    narrow_tables_signed,
    narrow_tables_unsigned,
    tables_signed,
    tables_unsigned,
)
from sasimc.runtime.kernels.simd import LANES, hold

__all__ = [
    "View",
    "accumulate",
    "add_row",
    "bitserial_range",
    "dense_bitserial",
    "dense_bitserial_acc",
    "dense_fused",
    "dense_fused_acc",
    "fill_fused",
    "fill_planes",
    "fused_range",
    "fused_shape",
    "make_view",
    "pack_weights",
    "planes_shape",
    "prepare_fused",
]

View = tuple[int, int, int, int, int, int]
"""(base, row_stride, pixel_stride, ring, cols, chans), in elements of the flat array."""

_PIXELS = FORM.pixels  # rows of a tile
_BLOCKS = FORM.blocks
_PAIRS = not FORM.dot  # the integer kernel takes pairs of 16-bit values, not fours of bytes
_LINES, _NARROW_LINES = 2 * FORM.lanes, 2 * FORM.narrow().lanes  # word lines of a vector of the bit-serial kernels
_NARROW = 64 if FORM.narrow() != FORM else 0  # up to so many word lines the narrow one is faster
_SIGNED = FORM.dot == "sdot"  # and its bytes have a sign


def make_view(base: int, cols: int, chans: int, ring: int, row_stride: int = 0, pixel_stride: int = 0) -> View:
    """A view tuple; strides of 0 mean densely packed. `ring` is the number of rows held (>= 1)."""
    pixel_stride = pixel_stride or chans
    return (base, row_stride or cols * pixel_stride, pixel_stride, ring, cols, chans)


# ---------------------------------------------------------------------------------------------------------------- packing


@inner
def _lines(w, step):  # type: ignore[no-untyped-def]
    """W [K, N] with zeros behind, up to multiples of the step and of 16; W itself if it has them."""
    k, n = w.shape
    if k % step == 0 and n % LANES == 0:
        return w
    lines = np.zeros(((k + step - 1) // step * step, (n + LANES - 1) // LANES * LANES), np.int8)
    for row in range(k):
        for column in range(n):  # an array's assignment to a slice would compile the words of its error
            lines[row, column] = w[row, column]
    return lines


@inner
def fill_planes(w: npt.NDArray[np.int8], planes: npt.NDArray[np.uint32]) -> None:
    """The work of `pack_weights`, into planes of zeros."""
    lines = _lines(w, 8)
    row, at, to = lines.shape[1], lines.ctypes.data, planes.ctypes.data
    for block in range(planes.shape[0]):
        for eight in range(lines.shape[0] // 8):
            place = to + ((block * planes.shape[1] + (eight >> 2)) * 8 * 4 + (eight & 3)) * LANES
            slice_lines(at + eight * 8 * row + block * LANES, row, place)
    hold(lines)


def planes_shape(k: int, n: int) -> tuple[int, ...]:
    """Shape of the planes of W [K, N], 32-bit words."""
    return -(-n // LANES), -(-k // 32), 8, LANES


def fused_shape(k: int, n: int) -> tuple[int, ...]:
    """Shape of W [K, N] prepared for the integer kernel, bytes."""
    return 2 * (-(-n // (2 * LANES))), -(-k // 4) + 1, LANES, 4


def pack_weights(w: npt.NDArray[np.int8]) -> npt.NDArray[np.uint32]:
    """Bit planes of int8 W [K, N]: uint32 [ceil(N/16), ceil(K/32), 8, 16], two's complement.

    As bytes the last two axes are [4, 2, 4, 4, 4]: 4 columns, 4 planes, 8 word lines, a column, a plane; word line k is bit k % 8 of a byte.
    """
    planes = np.zeros(planes_shape(*w.shape), np.uint32)
    fill_planes(np.ascontiguousarray(w).view(np.int8), planes)
    return planes


@inner
def fill_fused(w: npt.NDArray[np.int8], out: npt.NDArray[np.int8]) -> None:
    """The work of `prepare_fused`, into zeros."""
    lines = _lines(w, 4)
    row, at, to = lines.shape[1], lines.ctypes.data, out.ctypes.data
    for block in range(row // LANES):
        mix_lines(at + block * LANES, row, lines.shape[0] // 4, to + block * out.shape[1] * 4 * LANES)
    hold(lines)


def prepare_fused(w: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """W [K, N] for `dense_fused`: int8 [even number of blocks of 16 columns, ceil(K/4) + 1, 16, 4], fours of k together.

    The 64 bytes of a four are one group of 16 columns by 4, or, in forms that multiply pairs, two of 16 columns by 2. The last group of a
    block is -128 times the sum of each column (int32): signed inputs are multiplied as x + 128, a byte without a sign. (A form whose bytes
    are signed has 128 times the sum: it multiplies unsigned inputs as x - 128.)
    """
    out = np.zeros(fused_shape(*w.shape), np.int8)
    fill_fused(np.ascontiguousarray(w).view(np.int8), out)
    return out


# ----------------------------------------------------------------------------------------------------------------- kernels


@inner
def add_row(acc, at, values, n):  # type: ignore[no-untyped-def]
    """acc[at..at+n] += values; negative if a sum left 32 bits."""
    wrapped = np.int32(0)
    target = acc[at : at + n]
    for j in range(n):
        old, more = target[j], values[j]
        total = np.int32(old + more)
        wrapped |= (old ^ total) & (more ^ total)
        target[j] = total
    return wrapped


@inner
def _tabulate(narrow, signed_x, source, vectors, tables):  # type: ignore[no-untyped-def]
    if narrow and signed_x:
        narrow_tables_signed(source, vectors, tables)
    elif narrow:
        narrow_tables_unsigned(source, vectors, tables)
    elif signed_x:
        tables_signed(source, vectors, tables)
    else:
        tables_unsigned(source, vectors, tables)


@inner
def _sense(narrow, signed_x, tables, planes, vectors, target):  # type: ignore[no-untyped-def]
    if narrow and signed_x:
        return narrow_block_signed(tables, planes, vectors, target)
    if narrow:
        return narrow_block_unsigned(tables, planes, vectors, target)
    if signed_x:
        return bit_block_signed(tables, planes, vectors, target)
    return bit_block_unsigned(tables, planes, vectors, target)


@inner
def bitserial_range(x, planes, signed_x, acc, view, r0, c0, n, p0):  # type: ignore[no-untyped-def]
    """x [P, K] are pixels p0 .. p0 + P of the rows from r0 on; else as `dense_bitserial_acc`."""
    base, row_stride, pixel_stride, ring, cols, _ = view
    pixels, k = x.shape
    narrow = k <= _NARROW
    lines = _NARROW_LINES if narrow else _LINES
    vectors, whole = np.int64((k + lines - 1) // lines), n // LANES
    flat_x = x.reshape(-1)
    tables, tail = np.empty(vectors * lines * 8, np.uint8), np.zeros(vectors * lines, np.uint8)
    rest = np.zeros(LANES, np.int32)
    x_at, w_at, acc_at, rest_at = flat_x.ctypes.data, planes.ctypes.data, acc.ctypes.data, rest.ctypes.data
    tables_at, block_bytes = tables.ctypes.data, planes.shape[1] * 32 * LANES
    wrapped = np.int32(0)
    y, column = r0 + p0 // cols, p0 % cols
    at = base + (y % ring) * row_stride + column * pixel_stride + c0
    for i in range(pixels):
        source = x_at + i * k
        if i * k + vectors * lines > flat_x.shape[0]:  # else word lines beyond K, which meet weights of 0, may be read
            for j in range(k):
                tail[j] = flat_x[i * k + j]
            source = tail.ctypes.data
        _tabulate(narrow, signed_x, source, vectors, tables_at)
        for block in range((n + LANES - 1) // LANES):
            target = acc_at + 4 * (at + block * LANES) if block < whole else rest_at
            wrapped |= _sense(narrow, signed_x, tables_at, w_at + block * block_bytes, vectors, target)
        if whole * LANES < n:
            wrapped |= add_row(acc, at + whole * LANES, rest, n - whole * LANES)
            rest[:] = 0
        column, at = column + 1, at + pixel_stride
        if column == cols:
            y, column = y + 1, np.int64(0)
            at = base + (y % ring) * row_stride + c0
    hold(tables)
    hold(tail)
    hold(rest)
    return wrapped < 0


@inner
def _prepare_row(given, k, signed_x, bytes_, halves, at):  # type: ignore[no-untyped-def]
    """A row of x as the integer kernel takes it, from element `at` on: bytes of the sign it wants, or 16-bit values."""
    if _PAIRS:
        line, flip = halves[at : at + k], np.int16(128 if signed_x else 0)
        for j in range(k):
            line[j] = (np.int16(given[j]) ^ flip) - flip
    else:
        some, turn = bytes_[at : at + k], np.uint8(128 if signed_x != _SIGNED else 0)
        for j in range(k):
            some[j] = given[j] ^ turn


@inner
def fused_range(x, w, signed_x, acc, view, r0, c0, n, p0):  # type: ignore[no-untyped-def]
    """As `bitserial_range`, for weights of `prepare_fused`."""
    base, row_stride, pixel_stride, ring, cols, _ = view
    pixels, k = x.shape
    quads, blocks, whole = np.int64(w.shape[1] - 1), (n + LANES - 1) // LANES, n // LANES
    flat_x = x.reshape(-1)
    width = 4 * quads
    row_bytes = 2 * width if _PAIRS else width
    bytes_ = np.zeros(_PIXELS * (0 if _PAIRS else width), np.uint8)
    halves = np.zeros(_PIXELS * (width if _PAIRS else 0), np.int16)
    prepared = halves.ctypes.data if _PAIRS else bytes_.ctypes.data
    as_it_is = not _PAIRS and signed_x == _SIGNED and k == width  # rows are read where they stand
    start = np.int64(signed_x != _SIGNED)
    targets, rests, rest = np.empty(_PIXELS, np.int64), np.empty(_PIXELS, np.int64), np.zeros((_PIXELS, LANES), np.int32)
    for i in range(_PIXELS):
        rests[i] = rest.ctypes.data + 4 * LANES * i
    x_at, w_at, acc_at = flat_x.ctypes.data, w.ctypes.data, acc.ctypes.data
    targets_at, rests_at = targets.ctypes.data, rests.ctypes.data
    block_bytes = (quads + 1) * 4 * LANES
    wrapped, zero = np.int32(0), np.int64(0)
    first, y, column = np.int64(0), r0 + p0 // cols, p0 % cols
    while first < pixels:
        count = np.int64(min(_PIXELS, pixels - first))
        few = count <= _PIXELS // 4  # row by row, instead of a tile of which most is empty
        count = np.int64(1) if few else count
        source = x_at + first * k
        # nothing may be read behind the rows
        if not as_it_is or (count < _PIXELS and not (few and n % (2 * LANES) == 0)):
            source = prepared
            for i in range(count):
                _prepare_row(flat_x[(first + i) * k : (first + i + 1) * k], k, signed_x, bytes_, halves, i * width)
        for i in range(count):
            targets[i] = acc_at + 4 * (base + (y % ring) * row_stride + column * pixel_stride + c0)
            column += 1
            if column == cols:
                y, column = y + 1, zero
        block = 0
        while block < whole:
            at, offset = w_at + block * block_bytes, np.int64(4 * LANES * block)
            if few and block + 2 <= whole:
                wrapped |= dot_row(source, row_bytes, quads, at, start, targets_at, offset, count)
                block += 2
            elif block + _BLOCKS <= whole:
                wrapped |= dot_tile(source, row_bytes, quads, at, start, targets_at, offset, count)
                block += _BLOCKS
            else:
                wrapped |= dot_tile_narrow(source, row_bytes, quads, at, start, targets_at, offset, count)
                block += 1
        if whole < blocks:
            dot_tile_narrow(source, row_bytes, quads, w_at + whole * block_bytes, start, rests_at, zero, count)
            for i in range(count):
                at = (targets[i] - acc_at) // 4 + whole * LANES
                wrapped |= add_row(acc, at, rest[i], n - whole * LANES)
                rest[i] = 0
        first += count
    hold(rests)
    hold(targets)
    hold(bytes_)
    hold(halves)
    hold(rest)
    return wrapped < 0


def dense_bitserial_acc(
    x: npt.NDArray[np.uint8 | np.int8],
    planes: npt.NDArray[np.uint32],
    signed_x: bool,
    acc: npt.NDArray[np.int32],
    view: View,
    r0: int,
    c0: int,
    n: int,
) -> int:
    """Add x W into accumulators, bit-serially: pixel p is row r0 + p // cols, column p % cols; channels c0 .. c0 + n.

    Returns non-zero if an accumulator wrapped. x: C-contiguous [P, K]; planes from `pack_weights`.
    """
    return int(bitserial_range(x.view(np.uint8), planes, bool(signed_x), acc, view, r0, c0, n, 0))


def dense_fused_acc(
    x: npt.NDArray[np.uint8 | np.int8],
    w: npt.NDArray[np.int8],
    signed_x: bool,
    acc: npt.NDArray[np.int32],
    view: View,
    r0: int,
    c0: int,
    n: int,
) -> int:
    """As `dense_bitserial_acc` with integer products (8 x 8 bits into 32, exact); w from `prepare_fused`."""
    return int(fused_range(x.view(np.uint8), w, bool(signed_x), acc, view, r0, c0, n, 0))


def dense_bitserial(
    x: npt.NDArray[np.uint8 | np.int8], planes: npt.NDArray[np.uint32], n: int, signed_x: bool
) -> npt.NDArray[np.int32]:
    """x [P, K] times the packed weights: int32 [P, n]."""
    out = np.zeros(x.shape[0] * n, np.int32)
    dense_bitserial_acc(np.ascontiguousarray(x), planes, signed_x, out, make_view(0, max(1, x.shape[0]), n, 1), 0, 0, n)
    return out.reshape(x.shape[0], n)


def dense_fused(x: npt.NDArray[np.uint8 | np.int8], w: npt.NDArray[np.int8], n: int, signed_x: bool) -> npt.NDArray[np.int32]:
    """x [P, K] times the prepared weights: int32 [P, n]."""
    out = np.zeros(x.shape[0] * n, np.int32)
    dense_fused_acc(np.ascontiguousarray(x), w, signed_x, out, make_view(0, max(1, x.shape[0]), n, 1), 0, 0, n)
    return out.reshape(x.shape[0], n)


@inner
def accumulate(acc, view, values, r0, c0):  # type: ignore[no-untyped-def]
    """acc pixel p (row r0 + p // cols, column p % cols), channels c0.. += values int32 [P, N]; non-zero if one wrapped."""
    base, row_stride, pixel_stride, ring, cols, _ = view
    wrapped = np.int32(0)
    for p in range(values.shape[0]):
        at = base + ((r0 + p // cols) % ring) * row_stride + (p % cols) * pixel_stride + c0
        wrapped |= add_row(acc, at, values[p], values.shape[1])
    return wrapped < 0
