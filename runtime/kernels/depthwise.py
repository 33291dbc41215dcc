"""Depth-wise products: every input element meets every tap of its channel's kernel, the products are scattered (fig. 3b, c).

Weights W int8 [kh, kw, C * m]; output channel n = c * m + j belongs to input channel c. Three engines with one meaning:
`fused` multiplies integers; `bitserial` does for every input bit AND, shift and add over all channels at once; `step`
runs `dw_row_step`, the shift-and-add of one row activation, for every element. Integer addition has no order, so rows
may stream in any order and in any portions.

Geometry tuple `geom` = (kh, kw, sh, sw, dh, dw, pt, pl, h, w, ho, wo): input plane h x w, output plane ho x wo,
iy = oy * sh - pt + ky * dh. Views as in `kernels.dense`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from sasimc.runtime.kernels.dense import View, add_row
from sasimc.runtime.kernels.simd import LANES, taps_bitserial, taps_fused

__all__ = ["ENGINES", "Geom", "dw_row_step", "dw_scatter", "dw_scatter_t", "make_geom"]

Geom = tuple[int, int, int, int, int, int, int, int, int, int, int, int]
"""(kh, kw, sh, sw, dh, dw, pt, pl, h, w, ho, wo)."""

ENGINES = {"fused": 0, "bitserial": 1, "step": 2}

_BITSERIAL_TAPS = 255  # taps whose weights add up in 16 bits


def make_geom(kh: int, kw: int, sh: int, sw: int, dh: int, dw: int, pt: int, pl: int, h: int, w: int, ho: int, wo: int) -> Geom:
    """The geometry tuple of a sliding window: kernel, strides, dilations, top and left padding, input and output plane."""
    return (kh, kw, sh, sw, dh, dw, pt, pl, h, w, ho, wo)


@njit(cache=True, nogil=True)
def dw_row_step(x_value, bits, signed, taps, out):  # type: ignore[no-untyped-def]
    """One row activation of a depth-wise kernel: out[t] = x w_t, one input bit a cycle, sensed bits joined and shifted.

    taps: uint8 [t] stored weights, out: int32 [t], overwritten. Returns the number of cycles with input bit 1.
    """
    out[:] = 0
    ones = 0
    for cycle in range(bits):
        if (x_value >> cycle) & 1 == 0:
            continue
        ones += 1
        for t in range(taps.shape[0]):
            total = np.int32(0)
            for bit in range(8):
                sensed = np.int32((taps[t] >> bit) & 1)
                if bit == 7:
                    total -= sensed << bit
                else:
                    total += sensed << bit
            if signed and cycle == bits - 1:
                out[t] -= total << cycle
            else:
                out[t] += total << cycle
    return ones


@njit(cache=True, nogil=True)
def _widen(w):  # type: ignore[no-untyped-def]
    """W [kh, kw, N] as int16 [kh * kw, N rounded up to 16], zeros behind."""
    kh, kw, n = w.shape
    wide = np.zeros((kh * kw, -(-n // LANES) * LANES), np.int16)
    for ky in range(kh):
        for kx in range(kw):
            for c in range(n):
                wide[ky * kw + kx, c] = w[ky, kx, c]
    return wide


@njit(cache=True, nogil=True)
def _copy_tap(flat, first, chans, times, scratch, slot):  # type: ignore[no-untyped-def]
    """The bytes of one tap into line `slot` of scratch, each repeated `times`; returns their address."""
    line, source = scratch[slot], flat[first : first + chans]
    if times == 1:
        for c in range(chans):
            line[c] = source[c]
    else:
        for c in range(chans):
            for j in range(times):
                line[c * times + j] = source[c]
    return line.ctypes.data


@njit(cache=True, nogil=True)
def _taps_step(where, starts, count, signed, scratch, wide, outs, sums):  # type: ignore[no-untyped-def]
    """The sums of one pixel by single row activations; the bytes of every tap stand in scratch."""
    stored, product = np.empty(1, np.uint8), np.empty(1, np.int32)
    flat = wide.reshape(-1)
    sums[:] = 0
    for t in range(count):
        for c in range(outs):
            stored[0] = np.uint8(flat[starts[t] + c] & 255)
            dw_row_step(np.int64(scratch[t, c]), 8, signed, stored, product)
            sums[c] += product[0]


@njit(cache=True, nogil=True)
def _pixel(engine, signed, where, starts, count, shift, scratch, wide, outs, sums):  # type: ignore[no-untyped-def]
    """sums[n] = sum over taps of x w; the byte addresses of the taps are where[] + shift."""
    flat = wide.reshape(-1)
    if engine == 0:
        for at in range(0, wide.shape[1], LANES):
            taps_fused(where, starts, count, at + shift, flat, at, signed, sums)
    elif engine == 1:
        for at in range(0, wide.shape[1], LANES):
            taps_bitserial(where, starts, min(count, _BITSERIAL_TAPS), at + shift, flat, at, signed, sums)
        for first in range(_BITSERIAL_TAPS, count, _BITSERIAL_TAPS):
            more, some = np.empty_like(sums), min(count - first, _BITSERIAL_TAPS)
            for at in range(0, wide.shape[1], LANES):
                taps_bitserial(where[first:], starts[first:], some, at + shift, flat, at, signed, more)
            for c in range(outs):
                sums[c] += more[c]
    else:
        _taps_step(where, starts, count, signed, scratch, wide, outs, sums)


@njit(cache=True, nogil=True)
def dw_band(engine, buf, xv, signed, w, geom, pad, r0, r1, acc, av, o0, o1):  # type: ignore[no-untyped-def]
    """Input rows r0..r1 into those outputs whose row is in o0..o1 (so that threads own their outputs)."""
    kh, kw, sh, sw, dh, dw, pt, pl, h, width, _, wo = geom
    base, row_stride, pixel_stride, ring, _, chans = xv
    a_base, a_row, a_pixel, a_ring, _, outs = av
    times = outs // chans
    wide = _widen(w)
    taps, line = wide.shape
    # whole blocks are read where they stand; others (and those of the reference engine) are copied first
    in_place = times == 1 and outs == line and engine != 2
    origin = buf.ctypes.data
    scratch = np.zeros((taps, line), np.uint8)
    border = np.full(line, np.uint8(pad))
    sums = np.empty(line, np.int32)
    # element of the first column of the input row under each ky; -1: the border; -2: not streamed now
    rows = np.empty(kh, np.int64)
    where, starts = np.empty(taps, np.int64), np.empty(taps, np.int64)
    inside_where, inside_starts = np.empty(taps, np.int64), np.empty(taps, np.int64)
    inner0 = (pl + sw - 1) // sw  # columns whose whole window lies inside the plane
    inner1 = (width - 1 + pl - (kw - 1) * dw) // sw + 1
    zero = np.int64(0)  # a typed zero: a literal would make numba compile the helpers once more
    wrapped = np.int32(0)
    for oy in range(o0, o1):
        fixed = 0  # taps of an inner column
        whole = in_place
        for ky in range(kh):
            y = oy * sh - pt + ky * dh
            if y < r0 or y >= r1 or ((y < 0 or y >= h) and pad == 0):
                rows[ky] = -2
            elif y < 0 or y >= h:
                rows[ky] = -1
                whole = False
            else:
                rows[ky] = base + (y % ring) * row_stride
                for kx in range(kw):
                    inside_where[fixed] = origin + rows[ky] + (kx * dw - pl) * pixel_stride
                    inside_starts[fixed] = (ky * kw + kx) * line
                    fixed += 1
        target = a_base + (oy % a_ring) * a_row
        for ox in range(wo):
            inner = whole and inner0 <= ox and ox < inner1
            count = fixed if inner else zero
            for ky in range(kh):
                row = rows[ky]
                if inner or row == -2:
                    continue
                for kx in range(kw):
                    ix = ox * sw - pl + kx * dw
                    if row == -1 or ix < 0 or ix >= width:
                        if pad == 0:
                            continue
                        where[count] = _copy_tap(border, zero, chans, times, scratch, count)
                    elif in_place:
                        where[count] = origin + row + ix * pixel_stride
                    else:
                        where[count] = _copy_tap(buf, row + ix * pixel_stride, chans, times, scratch, count)
                    starts[count] = (ky * kw + kx) * line
                    count += 1
            if count:
                shift = ox * sw * pixel_stride if inner else zero
                lists = (inside_where, inside_starts) if inner else (where, starts)
                _pixel(engine, signed, lists[0], lists[1], count, shift, scratch, wide, outs, sums)
                wrapped |= add_row(acc, target + ox * a_pixel, sums, outs)
    return wrapped < 0


def dw_scatter(
    engine: str,
    buf: npt.NDArray[np.uint8],
    xv: View,
    signed: bool,
    w: npt.NDArray[np.int8],
    geom: Geom,
    pad: int,
    r0: int,
    r1: int,
    acc: npt.NDArray[np.int32],
    av: View,
) -> int:
    """Stream input rows r0..r1 through the depth-wise kernels and add the products into the outputs they belong to.

    Rows outside 0..h (from -pt on) stream the byte `pad`; columns outside the plane stream it too. With pad = 0 neither is
    streamed, as a zero drives no word line. acc rows are output rows. Returns non-zero if an accumulator wrapped.
    """
    kh, _, sh, _, dh, _, pt, _, _, _, ho, _ = geom
    # output rows that the band can reach: r0 <= oy * sh - pt + ky * dh < r1
    o0 = max(0, -(-(r0 + pt - (kh - 1) * dh) // sh))
    o1 = min(ho, (r1 - 1 + pt) // sh + 1)
    if o1 <= o0:
        return 0
    code, flag = ENGINES[engine], int(bool(signed))
    pad &= 255
    return int(dw_band(code, buf, xv, flag, w, geom, pad, r0, r1, acc, av, o0, o1))


@njit(cache=True, nogil=True)
def dw_t_band(engine, ebuf, ev, w, geom, r0, r1, acc, av, i0, i1):  # type: ignore[no-untyped-def]
    """Error rows r0..r1 into those input positions whose row is in i0..i1."""
    kh, kw, sh, sw, dh, dw, pt, pl, _, width, _, wo = geom
    base, row_stride, pixel_stride, ring, _, outs = ev
    a_base, a_row, a_pixel, a_ring, _, chans = av
    times = outs // chans
    wide = _widen(w)
    taps, line = wide.shape
    in_place = outs == line and engine != 2
    origin = ebuf.ctypes.data
    scratch = np.zeros((taps, line), np.uint8)
    sums = np.empty(line, np.int32)
    rows = np.empty(kh, np.int64)  # element of the first column of the error row under each ky, -1: none
    columns = np.empty((width, kw), np.int64)  # element offset of the error column under each kx, -1: none
    for ix in range(width):
        for kx in range(kw):
            right = ix + pl - kx * dw
            met = right >= 0 and right % sw == 0 and right // sw < wo
            columns[ix, kx] = (right // sw) * pixel_stride if met else -1
    where, starts = np.empty(taps, np.int64), np.empty(taps, np.int64)
    zero, one = np.int64(0), np.int64(1)
    wrapped = np.int32(0)
    for iy in range(i0, i1):
        for ky in range(kh):
            down = iy + pt - ky * dh
            met = down >= 0 and down % sh == 0 and r0 <= down // sh and down // sh < r1
            rows[ky] = base + ((down // sh) % ring) * row_stride if met else -1
        for ix in range(width):
            count = 0
            for ky in range(kh):
                if rows[ky] < 0:
                    continue
                for kx in range(kw):
                    column = columns[ix, kx]
                    if column < 0:
                        continue
                    if in_place:
                        where[count] = origin + rows[ky] + column
                    else:
                        where[count] = _copy_tap(ebuf, rows[ky] + column, outs, one, scratch, count)
                    starts[count] = (ky * kw + kx) * line
                    count += 1
            if count:
                _pixel(engine, one, where, starts, count, zero, scratch, wide, outs, sums)
                if times > 1:  # the products of one input channel's kernels are joined
                    for c in range(chans):
                        total = np.int32(0)
                        for j in range(times):
                            total += sums[c * times + j]
                        sums[c] = total
                wrapped |= add_row(acc, a_base + (iy % a_ring) * a_row + ix * a_pixel, sums, chans)
    return wrapped < 0


def dw_scatter_t(
    engine: str,
    ebuf: npt.NDArray[np.uint8],
    ev: View,
    w: npt.NDArray[np.int8],
    geom: Geom,
    r0: int,
    r1: int,
    acc: npt.NDArray[np.int32],
    av: View,
) -> int:
    """The transposed depth-wise product: error rows r0..r1 (int8) stream, e * w is added at the input position of its tap.

    acc rows are input rows; positions in the padding are dropped. Returns non-zero if an accumulator wrapped.
    """
    kh, _, sh, _, dh, _, pt, _, h, _, _, _ = geom
    # input rows that the error rows reach
    i0 = max(0, r0 * sh - pt)
    i1 = min(h, (r1 - 1) * sh - pt + (kh - 1) * dh + 1)
    if i1 <= i0:
        return 0
    code = ENGINES[engine]
    return int(dw_t_band(code, ebuf, ev, w, geom, r0, r1, acc, av, i0, i1))
