"""Many instructions in one call: a tape of operations that threads work off together, without the interpreter.

An operation is a row of integers (layout below) that says which kernel runs on which views. The body of a hardware loop, unrolled,
is a list of operations in order; `run_tape` runs it as often as the loop does. Every thread calls `run_tape` with the same arguments.
An operation is cut into shares of whole rows or pixels; threads take the next share by a compare-and-swap, and a share is taken only
when all earlier operations are done. A thread that the system holds back therefore delays nobody unless it is inside a share, and
one thread alone does everything. Integer results do not depend on who does what.

Layout of an operation (int64): 0 kind; 1 bit-serial (products); A, B, C: views as in `kernels.dense`, in elements of their flat array
(bytes for copies); G: geometry as in `kernels.depthwise`; S: other operands, named where they are read; ONES, FLIPS, SPENT: what its
runs add up (word lines driven by a one, bits flipped, nanoseconds). Layout of a machine (int64): see `_buf` and its neighbours.

A kind of operation is a C function handler(operation, r0, r1, share, shares, machine), addresses and numbers, which returns non-zero if
it fails (a sum left 32 bits, no such class). Handlers are compiled apart from each other and called by address: one function with all
kernels in it would take minutes to compile.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import cfunc, njit, types
from numba.np.numpy_support import carray

from sasimc.runtime.engines.cells import count_writes, scatter_block
from sasimc.runtime.engines.helpers import pool_rows
from sasimc.runtime.kernels.dense import accumulate, bitserial_range, fill_fused, fill_planes, fused_range
from sasimc.runtime.kernels.depthwise import dw_band, dw_t_band
from sasimc.runtime.kernels.forms import FORM
from sasimc.runtime.kernels.patches import gather_pixels, ones, scatter_patches
from sasimc.runtime.kernels.periphery import (
    add_q,
    avgpool_t,
    maxpool,
    maxpool_t,
    requant_pixels,
    upsample_linear,
    upsample_linear_t,
    upsample_nearest,
    upsample_nearest_t,
)
from sasimc.runtime.kernels.simd import LANES, popcount
from sasimc.runtime.kernels.sync import (
    atomic_add,
    atomic_load,
    atomic_max,
    call,
    compare_swap,
    give_way,
    nanoseconds,
    pointer,
    relax,
)
from sasimc.runtime.kernels.train import aligned_rows, make_mask, mask_rows, max_abs, scale_rows, shift8, shift8_carried

__all__ = ["CONTROL", "handler", "handlers", "run_tape"]

A, B, C, G, S, ONES, FLIPS, SPENT = 2, 8, 14, 20, 32, 50, 51, 52
WIDTH = 56
"""Where views, geometry and other operands begin, and how long an operation is."""

NAMES = (
    "dense", "scatter", "depth-wise", "depth-wise transposed", "gradient operands", "gradient", "requantise", "drain", "quantised add",
    "aligned add", "pool sum", "pool sum transposed", "pool max", "pool max transposed", "upsample", "upsample transposed", "mask",
    "error mask", "error scale", "range", "shift to 8 bits", "copy", "word", "scalar", "arg max", "loss",
    "shift to 8 bits, carried",
)  # fmt: skip
(
    DENSE, SCATTER, DEPTHWISE, DEPTHWISE_T, GRADIENT_OPERANDS, GRADIENT, REQUANTISE, DRAIN, ADD_QUANTISED, ADD_ALIGNED, POOL_SUM,
    POOL_SUM_T, POOL_MAX, POOL_MAX_T, UPSAMPLE, UPSAMPLE_T, MASK, ERROR_MASK, ERROR_SCALE, RANGE, SHIFT8, COPY, WORD, SCALAR, ARGMAX,
    LOSS, SHIFT8_CARRIED,
) = range(len(NAMES))  # fmt: skip
"""Kinds of operations."""

SET, ADD, SUBTRACT, LARGER, SMALLER = range(5)
"""Operations on registers (`SCALAR`)."""

INSIDE, FROM_HOST, TO_HOST = range(3)
"""Directions of `COPY` and `WORD`."""

NEXT, DONE, FAILED, CONTROL = 0, 8, 16, 24
"""Places in the words that threads share, a cache line each: shares taken, shares done, 1 + number of the step that failed; their number."""

_PATIENCE = 2000  # rounds of waiting (some 20 us) before the processor is offered to others
_PIXELS = FORM.pixels  # rows of a tile of the integer kernel
_HANDLERS: dict[int, Callable[..., Any]] = {}


def _handles(*kinds: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _HANDLERS.update(dict.fromkeys(kinds, function))
        return function

    return register


@cache
def _compiled(function: Callable[..., Any]) -> Any:
    return cfunc(types.int64(*[types.int64] * 6), cache=True)(function)


def handler(kind: int) -> int:
    """Address of the handler of a kind, compiled or loaded from numba's cache when first asked for."""
    return _compiled(_HANDLERS[kind]).address


@cache
def handlers() -> npt.NDArray[np.int64]:
    """Addresses of all handlers by kind."""
    return np.array([handler(kind) for kind in range(len(_HANDLERS))], np.int64)


# ------------------------------------------------------------------------------------------------------------ decoding


@njit(cache=True, nogil=True)
def _words(address):  # type: ignore[no-untyped-def]
    """An operation, or a machine, at its address."""
    return carray(pointer(address), (WIDTH,), np.int64)


@njit(cache=True, nogil=True)
def _buf(machine):  # type: ignore[no-untyped-def]
    m = _words(machine)
    return carray(pointer(m[0]), (m[1],), np.uint8)


@njit(cache=True, nogil=True)
def _buf8(machine):  # type: ignore[no-untyped-def]
    m = _words(machine)
    return carray(pointer(m[0]), (m[1],), np.int8)


@njit(cache=True, nogil=True)
def _buf32(machine):  # type: ignore[no-untyped-def]
    m = _words(machine)
    return carray(pointer(m[0]), (m[1] >> 2,), np.int32)


@njit(cache=True, nogil=True)
def _acc(machine):  # type: ignore[no-untyped-def]
    m = _words(machine)
    return carray(pointer(m[2]), (m[3],), np.int32)


@njit(cache=True, nogil=True)
def _host(machine):  # type: ignore[no-untyped-def]
    m = _words(machine)
    return carray(pointer(m[4]), (m[5],), np.uint8)


@njit(cache=True, nogil=True)
def _regs(machine):  # type: ignore[no-untyped-def]
    m = _words(machine)
    return carray(pointer(m[6]), (m[7],), np.int64)


@njit(cache=True, nogil=True)
def _view(op, at):  # type: ignore[no-untyped-def]
    return (op[at], op[at + 1], op[at + 2], op[at + 3], op[at + 4], op[at + 5])


@njit(cache=True, nogil=True)
def _geom(op):  # type: ignore[no-untyped-def]
    return (
        op[G], op[G + 1], op[G + 2], op[G + 3], op[G + 4], op[G + 5],
        op[G + 6], op[G + 7], op[G + 8], op[G + 9], op[G + 10], op[G + 11],
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _vector(address, length):  # type: ignore[no-untyped-def]
    return carray(pointer(address), (length,), np.int64)


@njit(cache=True, nogil=True)
def _part(first, last, step, share, shares):  # type: ignore[no-untyped-def]
    """The share of first..last, cut at multiples of step from first."""
    steps = (last - first + step - 1) // step
    return first + steps * share // shares * step, min(last, first + steps * (share + 1) // shares * step)


# ------------------------------------------------------------------------------------------------------------ products


@njit(cache=True, nogil=True)
def _product(bitserial, x, address, blocks, groups, signed, acc, view, r0, n, p0):  # type: ignore[no-untyped-def]
    """Pixels x [P, K], the first of them number p0 after row r0, times prepared weights at an address, added to acc."""
    if bitserial:
        return bitserial_range(
            x, carray(pointer(address), (blocks, groups, 8, LANES), np.uint32), signed, acc, view, r0, 0, n, p0
        )
    return fused_range(x, carray(pointer(address), (blocks, groups, LANES, 4), np.int8), signed, acc, view, r0, 0, n, p0)


@_handles(DENSE)
def _dense(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """A: sums, B: input, G. S: signed, pad, weights, blocks, groups, columns, weight of a one bit, address of the sums or 0 (then A)."""
    op, buf = _words(operation), _buf(machine)
    xv, geom, n = _view(op, B), _geom(op), op[S + 5]
    k, wo = geom[0] * geom[1] * xv[5], geom[11]
    p0, p1 = _part(0, (r1 - r0) * wo, 1 if op[1] else _PIXELS, share, shares)
    if p0 >= p1:
        return 0
    first = r0 % xv[3]
    window = (geom[0], geom[1], geom[2], geom[3], geom[6], geom[7]) != (1, 1, 1, 1, 0, 0) or (geom[8], geom[9]) != (geom[10], wo)
    if window or xv[2] != xv[5] or xv[1] != wo * k or first + r1 - r0 > xv[3]:
        flat = np.empty((p1 - p0) * k + 15, np.uint8)
        gather_pixels(buf, xv, geom, op[S + 1], r0, p0, p1, flat)
        x = flat[: (p1 - p0) * k]
    else:  # pixels are read where they stand
        start = xv[0] + first * xv[1] + p0 * k
        x = buf[start : start + (p1 - p0) * k]
    atomic_add(op, ONES, ones(x, 0, x.shape[0]) * op[S + 6])
    pixels, signed = x.reshape(p1 - p0, k), op[S] != 0
    if op[S + 7] == 0:
        return _product(op[1], pixels, op[S + 2], op[S + 3], op[S + 4], signed, _acc(machine), _view(op, A), r0, n, p0)
    rows = (r1 - r0) * wo
    out = carray(pointer(op[S + 7]), (rows * n,), np.int32)
    out[p0 * n : p1 * n] = 0
    view = (np.int64(0), n, n, rows, np.int64(1), n)
    return _product(op[1], pixels, op[S + 2], op[S + 3], op[S + 4], signed, out, view, np.int64(0), n, p0)


@_handles(SCATTER)
def _scatter(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """A: sums, G: products of the step before [pixels, S5] at the address S7 go to the input positions of their windows."""
    op = _words(operation)
    geom = _geom(op)
    products = carray(pointer(op[S + 7]), ((r1 - r0) * geom[11], op[S + 5]), np.int32)
    return scatter_patches(_acc(machine), _view(op, A), products, geom, r0, r1)


@njit(cache=True, nogil=True)
def _row_ones(buf, view, r0, r1):  # type: ignore[no-untyped-def]
    """One bits of rows r0..r1 of a view."""
    base, row_stride, pixel_stride, ring, cols, chans = view
    total = np.int64(0)
    for y in range(r0, r1):
        row = base + (y % ring) * row_stride
        if pixel_stride == chans:
            total += ones(buf, row, cols * chans)
        else:
            for x in range(cols):
                total += ones(buf, row + x * pixel_stride, chans)
    return total


@_handles(DEPTHWISE)
def _depthwise(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """A: sums, B: input, G. S: signed, pad, taps, outputs, first row of all, last row, columns streamed, weight of a one bit."""
    op, buf = _words(operation), _buf(machine)
    xv, geom, pad = _view(op, B), _geom(op), op[S + 1]
    kh, kw, sh, dh, pt, h, ho = geom[0], geom[1], geom[2], geom[4], geom[6], geom[8], geom[10]
    y0 = op[S + 4] if r0 == 0 else r0
    y1 = op[S + 5] if r1 == h else r1
    a, b = _part(r0, r1, 1, share, shares)
    count = _row_ones(buf, xv, a, b)
    if share == 0 and pad:
        border = ((y1 - y0) * op[S + 6] - (r1 - r0) * xv[4]) * xv[5]
        for bit in range(8):
            count += border * ((pad >> bit) & 1)
    atomic_add(op, ONES, count * op[S + 7])
    o0 = max(0, (y0 + pt - (kh - 1) * dh + sh - 1) // sh)
    o1 = min(ho, (y1 - 1 + pt) // sh + 1)
    if o1 <= o0:
        return 0
    a, b = _part(o0, o1, 1, share, shares)
    taps = carray(pointer(op[S + 2]), (kh, kw, op[S + 3]), np.int8)
    return dw_band(op[1], buf, xv, op[S], taps, geom, pad, y0, y1, _acc(machine), _view(op, A), a, b)


@_handles(DEPTHWISE_T)
def _depthwise_t(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """A: sums, B: errors, G. S2: taps, S3: outputs, S7: weight of a one bit."""
    op, buf = _words(operation), _buf(machine)
    ev, geom = _view(op, B), _geom(op)
    kh, kw, sh, dh, pt, h = geom[0], geom[1], geom[2], geom[4], geom[6], geom[8]
    a, b = _part(r0, r1, 1, share, shares)
    atomic_add(op, ONES, _row_ones(buf, ev, a, b) * op[S + 7])
    i0 = max(0, r0 * sh - pt)
    i1 = min(h, (r1 - 1) * sh - pt + (kh - 1) * dh + 1)
    if i1 <= i0:
        return 0
    a, b = _part(i0, i1, 1, share, shares)
    taps = carray(pointer(op[S + 2]), (kh, kw, op[S + 3]), np.int8)
    return dw_t_band(op[1], buf, ev, taps, geom, r0, r1, _acc(machine), _view(op, A), a, b)


@njit(cache=True, nogil=True)
def _nine_bit_ones(values, signed, pad):  # type: ignore[no-untyped-def]
    """One bits of value - pad as 9-bit two's complement, over all bytes."""
    total = np.int64(0)
    for i in range(values.shape[0]):
        value = np.int64(values[i])
        value = (value - 256 if signed and value > 127 else value) - pad
        total += np.int64(popcount(np.uint32(value & 511)))
    return total


@_handles(GRADIENT_OPERANDS)
def _gradient_operands(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """B: activations, C: errors, G. Patches transposed to S0 (bytes [K, P]), errors prepared at S1 (S2 blocks, S3 groups), their sums at S13.

    S4: 1 if the patches stay in the arrays and the errors stream; S5: weight of a one bit; S6: signed activations; S9: tiles of the scratch
    rows, S10: their number; S11: pad value, S12: the same as a byte.
    """
    op, buf, m = _words(operation), _buf(machine), _words(machine)
    xv, ev, geom = _view(op, B), _view(op, C), _geom(op)
    pixels, k, n = (r1 - r0) * geom[11], geom[0] * geom[1] * xv[5], ev[5]
    flat, lines = np.empty(pixels * k + 15, np.uint8), np.empty(pixels * n + 15, np.uint8)
    gather_pixels(buf, xv, geom, op[S + 12], r0, np.int64(0), pixels, flat)
    one, zero = np.int64(1), np.int64(0)
    gather_pixels(buf, ev, (one, one, one, one, one, one, zero, zero, r1, ev[4], r1, ev[4]), zero, r0, zero, pixels, lines)
    patches, errors = flat[: pixels * k].reshape(pixels, k), lines[: pixels * n].reshape(pixels, n)
    cells = carray(pointer(m[8]), (m[10], m[11], m[12]), np.uint8)
    written = carray(pointer(m[9]), (m[10], m[11], m[12]), np.bool_)
    tiles = carray(pointer(op[S + 9]), (op[S + 10], 8), np.int64)
    held, streaming = (patches, lines[: pixels * n]) if op[S + 4] else (errors, flat[: pixels * k])
    atomic_add(op, FLIPS, scatter_block(cells, written, tiles, 0, 0, held))
    count_writes(carray(pointer(m[13]), (m[10], m[11]), np.int64), tiles, 0, held.shape[0], 0, held.shape[1])
    if op[S + 11]:
        driven = _nine_bit_ones(streaming, op[S + 6], op[S + 11])
        sums = carray(pointer(op[S + 13]), (n,), np.int32)
        sums[:] = 0
        for p in range(pixels):
            for c in range(n):
                sums[c] += np.int32(np.int8(errors[p, c]))
    else:
        driven = ones(streaming, 0, streaming.shape[0])
    atomic_add(op, ONES, driven * op[S + 5])
    streamed = carray(pointer(op[S]), (k, pixels), np.uint8)
    for first in range(0, k, 64):  # a block of columns at a time stays in the cache
        for p in range(pixels):
            for j in range(first, min(k, first + 64)):
                streamed[j, p] = patches[p, j]
    if op[1]:
        planes = carray(pointer(op[S + 1]), (op[S + 2], op[S + 3], 8, LANES), np.uint32)
        planes[:] = 0
        fill_planes(errors.view(np.int8), planes)
    else:
        pairs = carray(pointer(op[S + 1]), (op[S + 2], op[S + 3], LANES, 4), np.int8)
        pairs[:] = 0
        fill_fused(errors.view(np.int8), pairs, carray(pointer(op[S + 1]), (op[S + 2], op[S + 3], LANES), np.int32))
    return 0


@_handles(GRADIENT)
def _gradient(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """A: sums. The product of what `_gradient_operands` prepared; S6: signed activations, S7: rows, S8: columns, S11: pad value, S13: sums of
    the errors. With a pad value, sum (x - pad) e = sum x e - pad sum e."""
    op, acc, av = _words(operation), _acc(machine), _view(_words(operation), A)
    pixels, n, pad = (r1 - r0) * op[G + 11], op[S + 8], op[S + 11]
    k0, k1 = _part(0, op[S + 7], _PIXELS, share, shares)
    if k0 >= k1:
        return 0
    streamed = carray(pointer(op[S] + k0 * pixels), (k1 - k0, pixels), np.uint8)
    zero, signed = np.int64(0), op[S + 6] != 0
    if pad == 0:
        return _product(op[1], streamed, op[S + 1], op[S + 2], op[S + 3], signed, acc, av, zero, n, k0)
    out, sums = np.zeros((k1 - k0) * n, np.int32), carray(pointer(op[S + 13]), (n,), np.int32)
    _product(op[1], streamed, op[S + 1], op[S + 2], op[S + 3], signed, out, (zero, n, n, k1 - k0, np.int64(1), n), zero, n, zero)
    values = out.reshape(k1 - k0, n)
    for i in range(k1 - k0):
        for c in range(n):
            values[i, c] -= np.int32(pad * sums[c])
    return accumulate(acc, av, values, k0, 0)


# ----------------------------------------------------------------------------------------------------------- periphery


@_handles(REQUANTISE)
def _requantise(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """A: result, B: sums. S: bias, mult, shift, half, zero, lo, hi, length of the first four."""
    op = _words(operation)
    bv, n = _view(op, B), op[S + 7]
    p0, p1 = _part(0, (r1 - r0) * bv[4], 1, share, shares)
    requant_pixels(
        _acc(machine), bv, _buf(machine), _view(op, A), _vector(op[S], n), _vector(op[S + 1], n), _vector(op[S + 2], n),
        _vector(op[S + 3], n), op[S + 4], op[S + 5], op[S + 6], r0, p0, p1, True,
    )  # fmt: skip
    return 0


@_handles(DRAIN)
def _drain(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """A: result, B: sums, which are cleared."""
    op, acc, buf32 = _words(operation), _acc(machine), _buf32(machine)
    to, of = _view(op, A), _view(op, B)
    first, last = _part(r0, r1, 1, share, shares)
    for y in range(first, last):
        for x in range(of[4]):
            a, b = to[0] + (y % to[3]) * to[1] + x * to[2], of[0] + (y % of[3]) * of[1] + x * of[2]
            target, source = buf32[a : a + of[5]], acc[b : b + of[5]]
            for c in range(of[5]):
                target[c] = source[c]
            source[:] = 0
    return 0


@_handles(ADD_QUANTISED)
def _add_quantised(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """A: result, B, C: operands. S: signed B, signed C, za, ma, zb, mb, shift, zy, lo, hi."""
    op = _words(operation)
    a, b = _part(r0, r1, 1, share, shares)
    add_q(
        _buf(machine), _view(op, B), op[S] != 0, _view(op, C), op[S + 1] != 0, _view(op, A),
        op[S + 2], op[S + 3], op[S + 4], op[S + 5], op[S + 6], op[S + 7], op[S + 8], op[S + 9], a, b,
    )  # fmt: skip
    return 0


@_handles(ADD_ALIGNED)
def _add_aligned(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """A: result, B, C: operands. S: registers of their exponents."""
    op, regs, buf8 = _words(operation), _regs(machine), _buf8(machine)
    ea, eb = regs[op[S]], regs[op[S + 1]]
    a, b = _part(r0, r1, 1, share, shares)
    top = max(ea, eb)
    aligned_rows(buf8, _view(op, B), top - ea, buf8, _view(op, C), top - eb, _buf32(machine), _view(op, A), a, b)
    return 0


@_handles(POOL_SUM, POOL_SUM_T, POOL_MAX, POOL_MAX_T)
def _pool(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """A: sums or maxima, B: input or errors, C: activations (max, transposed), G. S: signed, pad."""
    op, buf, acc = _words(operation), _buf(machine), _acc(machine)
    kind, av, bv, geom, signed = op[0], _view(op, A), _view(op, B), _geom(op), op[S] != 0
    a, b = _part(r0, r1, 1, share, shares)
    if kind == POOL_SUM:
        return pool_rows(buf, bv, signed, acc, av, geom, op[S + 1], a, b)
    if kind == POOL_SUM_T:
        return avgpool_t(buf, bv, acc, av, geom, r0, r1)
    if kind == POOL_MAX_T:
        return maxpool_t(buf, _view(op, C), signed, bv, acc, av, geom, r0, r1)
    maxpool(buf, bv, signed, av, geom, a, b)
    return False


@_handles(UPSAMPLE, UPSAMPLE_T)
def _upsample(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """A: sums, B: input or errors. S: signed, linear, h, w, large h, large w."""
    op, buf, acc = _words(operation), _buf(machine), _acc(machine)
    av, bv, signed, h, w = _view(op, A), _view(op, B), op[S] != 0, op[S + 2], op[S + 3]
    a, b = _part(r0, r1, 1, share, shares)
    if op[0] == UPSAMPLE:
        if op[S + 1]:
            return upsample_linear(buf, bv, signed, acc, av, h, w, a, b)
        return upsample_nearest(buf, bv, signed, acc, av, h, w, op[S + 4], op[S + 5], a, b)
    if op[S + 1]:
        return upsample_linear_t(buf, bv, acc, av, h, w, r0, r1)
    return upsample_nearest_t(buf, bv, acc, av, h, w, op[S + 4], op[S + 5], r0, r1)


@_handles(MASK)
def _mask(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """A: bits, B: forward output. S: signed, lo, hi, use lo, use hi."""
    op = _words(operation)
    a, b = _part(r0, r1, 1, share, shares)
    make_mask(_buf(machine), _view(op, B), op[S] != 0, op[S + 1], op[S + 2], op[S + 3] != 0, op[S + 4] != 0, _view(op, A), a, b)
    return 0


@_handles(ERROR_MASK, ERROR_SCALE)
def _errors(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """A: result, B: errors, C: mask bits. S: 8-bit errors, factors, their number."""
    op, buf8, buf32 = _words(operation), _buf8(machine), _buf32(machine)
    dv, sv, mv = _view(op, A), _view(op, B), _view(op, C)
    a, b = _part(r0, r1, 1, share, shares)
    if op[0] == ERROR_MASK:
        if op[S]:
            return mask_rows(buf8, sv, buf32, dv, _buf(machine), mv, a, b)
        return mask_rows(buf32, sv, buf32, dv, _buf(machine), mv, a, b)
    factor = _vector(op[S + 1], op[S + 2])
    if op[S]:
        return np.int64(scale_rows(buf8, sv, buf32, dv, factor, a, b))
    return np.int64(scale_rows(buf32, sv, buf32, dv, factor, a, b))


@_handles(RANGE)
def _range(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """B: operand. S0: register."""
    op = _words(operation)
    a, b = _part(r0, r1, 1, share, shares)
    bits, top = np.int64(0), max_abs(_buf32(machine), _view(op, B), a, b)
    while top >> bits:
        bits += 1
    if op[S]:
        atomic_max(_regs(machine), op[S], bits)
    return 0


@_handles(SHIFT8)
def _shift8(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """A: result, B: operand. S0: register of the shift."""
    op = _words(operation)
    a, b = _part(r0, r1, 1, share, shares)
    shift8(_buf32(machine), _view(op, B), _buf(machine), _view(op, A), _regs(machine)[op[S]], a, b)
    return 0


@_handles(SHIFT8_CARRIED)
def _shift8_carried(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """As SHIFT8."""
    op = _words(operation)
    a, b = _part(r0, r1, 1, share, shares)
    shift8_carried(_buf32(machine), _view(op, B), _buf(machine), _view(op, A), _regs(machine)[op[S]], a, b)
    return 0


# --------------------------------------------------------------------------------------------- movement, registers, loss


@_handles(COPY)
def _copy(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """A: target, B: source, in bytes. S: register of the sample, bytes a sample, direction."""
    op, buf, host = _words(operation), _buf(machine), _host(machine)
    to, of, count = _view(op, A), _view(op, B), op[B + 5]
    sample = _regs(machine)[op[S]] * op[S + 1]
    source, target = (host if op[S + 2] == FROM_HOST else buf), (host if op[S + 2] == TO_HOST else buf)
    from_, into = of[0] + (sample if op[S + 2] == FROM_HOST else 0), to[0] + (sample if op[S + 2] == TO_HOST else 0)
    first, last = _part(r0, r1, 1, share, shares)
    for y in range(first, last):
        for x in range(of[4]):
            a, b = into + (y % to[3]) * to[1] + x * to[2], from_ + (y % of[3]) * of[1] + x * of[2]
            line, given = target[a : a + count], source[b : b + count]
            for i in range(count):
                line[i] = given[i]
    return 0


@_handles(WORD)
def _word(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """A word of host memory. S: register of the sample, bytes a sample, direction, byte address, register."""
    op, host, regs = _words(operation), _host(machine), _regs(machine)
    at = op[S + 3] + regs[op[S]] * op[S + 1]
    if op[S + 2] == TO_HOST:
        for i in range(4):
            host[at + i] = np.uint8((regs[op[S + 4]] >> (8 * i)) & 255)
        return 0
    value = np.int64(0)
    for i in range(4):
        value |= np.int64(host[at + i]) << (8 * i)
    if op[S + 4]:
        regs[op[S + 4]] = _wrap(value)
    return 0


@njit(cache=True, nogil=True)
def _wrap(value):  # type: ignore[no-untyped-def]
    """Two's complement 32-bit result."""
    return ((value + (np.int64(1) << 31)) & ((np.int64(1) << 32) - 1)) - (np.int64(1) << 31)


@_handles(SCALAR)
def _scalar(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """S: which, rd, ra, rb, immediate (added to rb)."""
    op, regs = _words(operation), _regs(machine)
    which, a, b = op[S], regs[op[S + 2]], regs[op[S + 3]] + op[S + 4]
    if which == SET:
        value = b
    elif which == ADD:
        value = _wrap(a + b)
    elif which == SUBTRACT:
        value = _wrap(a - b)
    elif which == LARGER:
        value = max(a, b)
    else:
        value = min(a, b)
    if op[S + 1]:
        regs[op[S + 1]] = value
    return 0


@njit(cache=True, nogil=True)
def _logit(buf, at, signed):  # type: ignore[no-untyped-def]
    value = np.int64(buf[at])
    return value - 256 if signed and value > 127 else value


@_handles(ARGMAX)
def _argmax(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """B: logits. S: signed, register."""
    op, buf = _words(operation), _buf(machine)
    best = 0
    for c in range(1, op[B + 5]):
        if _logit(buf, op[B] + c, op[S]) > _logit(buf, op[B] + best, op[S]):
            best = c
    if op[S + 1]:
        _regs(machine)[op[S + 1]] = best
    return 0


@_handles(LOSS)
def _loss(operation, r0, r1, share, shares, machine):  # type: ignore[no-untyped-def]
    """docs/numerics.md, "Loss". A: errors, B: logits. S: signed, registers of label and loss, mult, t_other, t_label."""
    op, buf, buf32, regs = _words(operation), _buf(machine), _buf32(machine), _regs(machine)
    count, label = op[B + 5], regs[op[S + 1]]
    if label < 0 or label >= count:
        return 1
    q, p = np.empty(count, np.int64), np.empty(count, np.int64)
    for c in range(count):
        q[c] = _logit(buf, op[B] + c, op[S])
    top, total, rest = q.max(), np.int64(0), np.int64(0)
    for c in range(count):
        t = (top - q[c]) * op[S + 3]
        n, f = t >> 12, t & 4095
        p[c] = (32768 - ((f * (2751 - ((703 * f) >> 12))) >> 9)) >> n if n <= 15 else 0
        total += p[c]
    for c in range(count):
        p[c] = (p[c] * 32768 + (total >> 1)) // total - (op[S + 5] if c == label else op[S + 4])
        rest += p[c]
    p[label] -= rest
    for c in range(count):
        buf32[op[A] + c] = p[c]
    digits = np.int64(0)
    while total >> (digits + 1):
        digits += 1
    log2 = (digits << 12) + (((total << 12) >> digits) - 4096)
    if op[S + 2]:
        regs[op[S + 2]] = min((top - q[label]) * op[S + 3], 65536) + log2 - 61440
    return 0


# ------------------------------------------------------------------------------------------------------------- the tape


@njit(cache=True, nogil=True)
def _wait(control, shares):  # type: ignore[no-untyped-def]
    """Until so many shares are done."""
    waited = 0
    while atomic_load(control, DONE) < shares:
        waited += 1
        relax()
        if waited > _PATIENCE:
            give_way()


@njit(cache=True, nogil=True)
def run_tape(ops, steps, times, control, functions, machine, timed):  # type: ignore[no-untyped-def]
    """Work off a tape `times` times, together with every other thread that calls this with the same arguments.

    ops: int64 [operations, WIDTH]; steps: int64 [n + 1, 4], of every step the operation, r0, r1 and the number of shares of all steps
    before it (the last row has only that); control: int64 [CONTROL], zeros at first; functions: `handlers`; machine: int64 array; timed:
    whether to add up nanoseconds. control[FAILED] tells whether a step failed: nothing after it has been done. Returns when all is done.
    """
    count = steps.shape[0] - 1
    total = steps[count, 3]
    data, at, row = machine.ctypes.data, ops.ctypes.data, 8 * ops.shape[1]
    flat = ops.reshape(-1)
    begin = np.int64(0)
    for turn in range(times):
        base = turn * total
        for i in range(count):
            first, last = base + steps[i, 3], base + steps[i + 1, 3]
            _wait(control, first)
            if atomic_load(control, FAILED):
                return
            while True:
                share = atomic_load(control, NEXT)
                if share >= last:
                    break
                if not compare_swap(control, NEXT, share, share + 1):
                    continue
                number = steps[i, 0]
                if timed:
                    begin = nanoseconds()
                failed = call(
                    functions[ops[number, 0]], at + number * row, steps[i, 1], steps[i, 2], share - first, last - first, data
                )
                if timed:
                    atomic_add(flat, number * ops.shape[1] + SPENT, nanoseconds() - begin)
                if failed:
                    compare_swap(control, FAILED, 0, turn * count + i + 1)
                atomic_add(control, DONE, 1)
    _wait(control, times * total)
