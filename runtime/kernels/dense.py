"""Dense products on the arrays: bit-serial on packed bit planes, fused on integers, and one row activation at a time.

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
from numba import njit

from sasimc.runtime.kernels.simd import (
    LANES,
    bit_block_signed,
    bit_block_unsigned,
    dot_block_1x2,
    dot_block_8x2,
    plane_words,
)

__all__ = [
    "View",
    "accumulate",
    "add_row",
    "bitserial_range",
    "column_step",
    "dense_bitserial",
    "dense_bitserial_acc",
    "dense_fused",
    "dense_fused_acc",
    "fill_fused",
    "fill_planes",
    "fused_range",
    "make_view",
    "pack_weights",
    "prepare_fused",
    "tile_step",
]

View = tuple[int, int, int, int, int, int]
"""(base, row_stride, pixel_stride, ring, cols, chans), in elements of the flat array."""

_PIXELS = 8  # pixels of one fused micro-kernel


def make_view(base: int, cols: int, chans: int, ring: int, row_stride: int = 0, pixel_stride: int = 0) -> View:
    """A view tuple; strides of 0 mean densely packed. `ring` is the number of rows held (>= 1)."""
    pixel_stride = pixel_stride or chans
    return (base, row_stride or cols * pixel_stride, pixel_stride, ring, cols, chans)


# ---------------------------------------------------------------------------------------------------------------- packing


@njit(cache=True, nogil=True)
def fill_planes(w: npt.NDArray[np.int8], planes: npt.NDArray[np.uint32]) -> None:
    """The work of `pack_weights`, into planes of zeros."""
    k_count, n_count = w.shape
    for k in range(k_count):
        word, shift = k >> 5, np.uint32(k & 31)
        for block in range(planes.shape[0]):
            first = block * LANES
            row = w[k, first : min(first + LANES, n_count)]
            for bit in range(8):
                plane, at = planes[block, word, bit], np.uint32(bit)
                for lane in range(row.shape[0]):
                    plane[lane] |= ((np.uint32(np.uint8(row[lane])) >> at) & np.uint32(1)) << shift


def pack_weights(w: npt.NDArray[np.int8]) -> npt.NDArray[np.uint32]:
    """Bit planes of int8 W [K, N]: uint32 [ceil(N/16), ceil(K/32), 8, 16]; bit k of a word is word line k, two's complement."""
    k, n = w.shape
    planes = np.zeros((-(-n // LANES), -(-k // 32), 8, LANES), np.uint32)
    fill_planes(np.ascontiguousarray(w).view(np.int8), planes)
    return planes


@njit(cache=True, nogil=True)
def fill_fused(w: npt.NDArray[np.int8], out: npt.NDArray[np.int8], begin: npt.NDArray[np.int32]) -> None:
    """The work of `prepare_fused`, into zeros; begin: out as int32, first of every four."""
    k_count, n_count = w.shape
    last = out.shape[1] - 1
    for block in range(out.shape[0]):
        first = block * LANES
        for k in range(k_count):
            row, four = w[k, first : min(first + LANES, n_count)], out[block, k >> 2]
            for lane in range(row.shape[0]):
                four[lane, k & 3] = row[lane]
                begin[block, last, lane] -= 128 * np.int32(row[lane])


def prepare_fused(w: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """W [K, N] for `dense_fused`: int8 [even number of blocks of 16 columns, ceil(K/4) + 1, 16, 4], fours of k together.

    The last group of a block is -128 times the sum of each column (int32): signed inputs are multiplied as x + 128, a byte without
    a sign.
    """
    k, n = w.shape
    out = np.zeros((2 * (-(-n // (2 * LANES))), -(-k // 4) + 1, LANES, 4), np.int8)
    fill_fused(np.ascontiguousarray(w).view(np.int8), out, out.view(np.int32)[..., 0])
    return out


# ----------------------------------------------------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def bitserial_range(x, planes, signed_x, acc, view, r0, c0, n, p0):  # type: ignore[no-untyped-def]
    """x [P, K] are pixels p0 .. p0 + P of the rows from r0 on; else as `dense_bitserial_acc`."""
    base, row_stride, pixel_stride, ring, cols, _ = view
    k = x.shape[1]
    blocks, words = planes.shape[0], planes.shape[1]
    flat_x, flat_planes = x.reshape(-1), planes.reshape(-1)
    xbits = np.empty(words * 8, np.uint32)
    tail = np.zeros(32, np.uint8)
    row = np.empty(blocks * LANES, np.int32)
    whole = k >> 5
    wrapped = np.int32(0)
    for i in range(x.shape[0]):
        p = p0 + i
        for word in range(whole):
            plane_words(flat_x, i * k + word * 32, xbits, word * 8)
        if whole < words and i * k + words * 32 <= flat_x.shape[0]:
            plane_words(flat_x, i * k + whole * 32, xbits, whole * 8)  # bits beyond K meet weights of 0
        elif whole < words:
            for j in range(k & 31):
                tail[j] = flat_x[i * k + whole * 32 + j]
            plane_words(tail, 0, xbits, whole * 8)
        for block in range(blocks):
            if signed_x:
                bit_block_signed(xbits, 0, flat_planes, block * words * 8 * LANES, words, row, block * LANES)
            else:
                bit_block_unsigned(xbits, 0, flat_planes, block * words * 8 * LANES, words, row, block * LANES)
        at = base + ((r0 + p // cols) % ring) * row_stride + (p % cols) * pixel_stride + c0
        wrapped |= add_row(acc, at, row, n)
    return wrapped < 0


@njit(cache=True, nogil=True)
def fused_range(x, w, signed_x, acc, view, r0, c0, n, p0):  # type: ignore[no-untyped-def]
    """As `bitserial_range`, for weights of `prepare_fused`."""
    base, row_stride, pixel_stride, ring, cols, _ = view
    k = x.shape[1]
    blocks, quads = w.shape[0], w.shape[1] - 1
    flat_x, flat_w = x.reshape(-1), w.reshape(-1)
    pixels = x.shape[0]
    few = pixels <= 2  # one or two pixels: single rows, instead of eight of which most are empty
    step = 1 if few else _PIXELS
    width = 4 * quads
    xs = np.zeros(step * width, np.uint8)
    flip, start = (np.uint8(128), 1) if signed_x else (np.uint8(0), 0)
    rows = np.empty((step, blocks * LANES), np.int32)
    flat_rows = rows.reshape(-1)
    wrapped = np.int32(0)
    for first in range(0, pixels, step):
        count = min(step, pixels - first)
        source, at = flat_x, first * k
        if signed_x or k != width or count < step:  # not to be read where they stand
            source, at = xs, 0
            for i in range(count):
                line, given = xs[i * width : i * width + k], flat_x[(first + i) * k : (first + i + 1) * k]
                for j in range(k):
                    line[j] = given[j] ^ flip
        for block in range(0, blocks, 2):
            w_at = block * (quads + 1) * 4 * LANES
            if few:
                dot_block_1x2(source, at, width, quads, flat_w, w_at, start, flat_rows, block * LANES, blocks * LANES)
            else:
                dot_block_8x2(source, at, width, quads, flat_w, w_at, start, flat_rows, block * LANES, blocks * LANES)
        for i in range(count):
            p = p0 + first + i
            to = base + ((r0 + p // cols) % ring) * row_stride + (p % cols) * pixel_stride + c0
            wrapped |= add_row(acc, to, rows[i], n)
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


@njit(cache=True, nogil=True)
def accumulate(acc, view, values, r0, c0):  # type: ignore[no-untyped-def]
    """acc pixel p (row r0 + p // cols, column p % cols), channels c0.. += values int32 [P, N]; non-zero if one wrapped."""
    base, row_stride, pixel_stride, ring, cols, _ = view
    wrapped = np.int32(0)
    for p in range(values.shape[0]):
        at = base + ((r0 + p // cols) % ring) * row_stride + (p % cols) * pixel_stride + c0
        wrapped |= add_row(acc, at, values[p], values.shape[1])
    return wrapped < 0


# -------------------------------------------------------------------------------------------------------- the reference engine


@njit(cache=True, nogil=True)
def tile_step(x_value, bits, signed, row_bytes, acc):  # type: ignore[no-untyped-def]
    """One row activation: the input drives one word line, one bit per cycle (paper fig. 4).

    In cycle i the word line carries input bit i; every bit column senses (input AND stored bit); the shift-and-add of a
    weight column joins its 8 sensed bits (bit 7 weighs -128), shifts by i, and adds, or subtracts in the sign cycle of a
    signed input. row_bytes: uint8 [n], the stored weights of the row; acc: int32 [n].
    Returns the number of cycles in which the word line was driven (sense operations with input bit 1).
    """
    ones = 0
    for cycle in range(bits):
        if (x_value >> cycle) & 1 == 0:
            continue
        ones += 1
        for column in range(row_bytes.shape[0]):
            total = np.int32(0)
            for bit in range(8):
                sensed = np.int32((row_bytes[column] >> bit) & 1)
                if bit == 7:
                    total -= sensed << bit
                else:
                    total += sensed << bit
            if signed and cycle == bits - 1:
                acc[column] -= total << cycle
            else:
                acc[column] += total << cycle
    return ones


@njit(cache=True, nogil=True)
def column_step(e_value, bits, signed, column_bits, acc):  # type: ignore[no-untyped-def]
    """One weight column read through the transposed lines (paper fig. 5): the bit columns one after another.

    The transpose word line of bit column j carries error bit i; the transpose bit lines sense all rows.
    column_bits: uint8 [8, rows] of 0 and 1, bit j of the column's weight in every row; acc: int32 [rows] += e times the column.
    Returns the number of (error bit, bit column) cycles driven with a one.
    """
    ones = 0
    for bit in range(8):
        for cycle in range(bits):
            if (e_value >> cycle) & 1 == 0:
                continue
            ones += 1
            negative = (bit == 7) != (bool(signed) and cycle == bits - 1)
            for row in range(column_bits.shape[1]):
                sensed = np.int32(column_bits[bit, row] & 1)
                if negative:
                    acc[row] -= sensed << (bit + cycle)
                else:
                    acc[row] += sensed << (bit + cycle)
    return ones
