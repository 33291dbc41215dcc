"""Depth-wise products: every input element meets every tap of its channel's kernel, the products are scattered (fig. 3b, c).

Weights W int8 [kh, kw, C * m]; output channel n = c * m + j belongs to input channel c. Two engines with one meaning:
`fused` multiplies integers; `bitserial` does for every input bit AND, shift and add over all channels at once. Integer addition has no
order, so rows may stream in any order and in any portions.

Geometry tuple `geom` = (kh, kw, sh, sw, dh, dw, pt, pl, h, w, ho, wo): input plane h x w, output plane ho x wo,
iy = oy * sh - pt + ky * dh. Views as in `kernels.dense`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sasimc.runtime.kernels.compiling import inner
from sasimc.runtime.kernels.dense import View, add_row
from sasimc.runtime.kernels.packing import mix_lines
from sasimc.runtime.kernels.simd import LANES, hold
from sasimc.runtime.kernels.taps import (
    taps_bitserial_signed,
    taps_bitserial_unsigned,
    taps_fused_signed,
    taps_fused_unsigned,
)

__all__ = ["ENGINES", "Geom", "dw_scatter", "make_geom"]

Geom = tuple[int, int, int, int, int, int, int, int, int, int, int, int]
"""(kh, kw, sh, sw, dh, dw, pt, pl, h, w, ho, wo)."""

ENGINES = {"fused": 0, "bitserial": 1}


def make_geom(kh: int, kw: int, sh: int, sw: int, dh: int, dw: int, pt: int, pl: int, h: int, w: int, ho: int, wo: int) -> Geom:
    """The geometry tuple of a sliding window: kernel, strides, dilations, top and left padding, input and output plane."""
    return (kh, kw, sh, sw, dh, dw, pt, pl, h, w, ho, wo)


@inner
def _lines(w):  # type: ignore[no-untyped-def]
    """W [kh, kw, N] as int8 [kh * kw rounded up to 4, N rounded up to 16], zeros behind."""
    kh, kw, n = w.shape
    lines = np.zeros(((kh * kw + 3) // 4 * 4, -(-n // LANES) * LANES), np.int8)
    for ky in range(kh):
        for kx in range(kw):
            for column in range(n):
                lines[ky * kw + kx, column] = w[ky, kx, column]
    return lines


@inner
def _prepared(lines):  # type: ignore[no-untyped-def]
    """The weights of every 16 channels for the kernels of `taps`."""
    groups, blocks = lines.shape[0] // 4, lines.shape[1] // LANES
    out = np.empty((blocks, (groups + 1) * 4 * LANES), np.int8)
    for block in range(blocks):
        mix_lines(lines.ctypes.data + block * LANES, lines.shape[1], groups, out.ctypes.data + block * out.shape[1])
    return out


@inner
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


@inner
def _run(engine, signed, where, moves, prepared, target, pitch, pixels):  # type: ignore[no-untyped-def]
    """Add the sums over taps of a run of pixels to 32-bit sums at an address; negative if one wrapped.

    where, moves: int64 [taps rounded up to 4], address of each tap's bytes, and how far it moves from pixel to pixel.
    """
    groups, wrapped = np.int64(where.shape[0] // 4), np.int32(0)
    at, by, w = where.ctypes.data, moves.ctypes.data, prepared.ctypes.data
    for block in range(prepared.shape[0]):
        channel, weights = np.int64(block * LANES), w + block * prepared.shape[1]
        sums = target + 4 * channel
        if engine == 0:
            if signed:
                wrapped |= taps_fused_signed(at, by, groups, channel, weights, sums, pitch, pixels)
            else:
                wrapped |= taps_fused_unsigned(at, by, groups, channel, weights, sums, pitch, pixels)
        elif signed:
            wrapped |= taps_bitserial_signed(at, by, groups, channel, weights, sums, pitch, pixels)
        else:
            wrapped |= taps_bitserial_unsigned(at, by, groups, channel, weights, sums, pitch, pixels)
    return wrapped


@inner
def dw_band(engine, buf, xv, signed, w, geom, pad, r0, r1, acc, av, o0, o1):  # type: ignore[no-untyped-def]
    """Input rows r0..r1 into those outputs whose row is in o0..o1 (so that threads own their outputs)."""
    kh, kw, sh, sw, dh, dw, pt, pl, h, width, _, wo = geom
    base, row_stride, pixel_stride, ring, _, chans = xv
    a_base, a_row, a_pixel, a_ring, _, outs = av
    times = outs // chans
    lines = _lines(w)
    prepared = _prepared(lines)
    taps, line = lines.shape
    # whole blocks are read where they stand; others are copied first
    in_place = times == 1 and outs == line
    origin, sums_at = buf.ctypes.data, acc.ctypes.data
    scratch = np.zeros((taps, line), np.uint8)
    nothing, border = np.zeros(line, np.uint8), np.full(line, np.uint8(pad))
    sums = np.zeros(line, np.int32)
    # element of the first column of the input row under each ky; -1: the border; -2: not streamed now
    rows = np.empty(kh, np.int64)
    where, moves, still = np.full(taps, nothing.ctypes.data), np.zeros(taps, np.int64), np.zeros(taps, np.int64)
    one = np.int64(1)
    # columns whose whole window lies inside the plane
    inner0 = min(wo, (pl + sw - 1) // sw)
    inner1 = max(inner0, min(wo, (width - 1 + pl - (kw - 1) * dw) // sw + 1)) if in_place else inner0
    wrapped = np.int32(0)
    for oy in range(o0, o1):
        streamed = False
        for ky in range(kh):
            y = oy * sh - pt + ky * dh
            outside = y < 0 or y >= h
            if y < r0 or y >= r1 or (outside and pad == 0):
                rows[ky] = -2
            else:
                rows[ky] = -1 if outside else base + (y % ring) * row_stride
                streamed = True
        if not streamed:
            continue
        target = a_base + (oy % a_ring) * a_row
        ox = np.int64(0)
        while ox < wo:
            count = inner1 - inner0 if ox == inner0 and inner1 > inner0 else one
            inner = inner0 <= ox and ox < inner1
            for ky in range(kh):
                row = rows[ky]
                for kx in range(kw):
                    t, ix = ky * kw + kx, ox * sw - pl + kx * dw
                    moves[t] = 0
                    if row == -2 or (not inner and pad == 0 and (ix < 0 or ix >= width)):
                        where[t] = nothing.ctypes.data
                    elif row == -1 or ix < 0 or ix >= width:
                        where[t] = border.ctypes.data if in_place else _copy_tap(border, 0, chans, times, scratch, t)
                    elif in_place:
                        where[t] = origin + row + ix * pixel_stride
                        moves[t] = sw * pixel_stride
                    else:
                        where[t] = _copy_tap(buf, row + ix * pixel_stride, chans, times, scratch, t)
            at = target + ox * a_pixel
            if in_place:
                wrapped |= _run(engine, signed, where, moves, prepared, sums_at + 4 * at, 4 * a_pixel, count)
            else:
                _run(engine, signed, where, still, prepared, sums.ctypes.data, one, one)
                wrapped |= add_row(acc, at, sums, outs)
                sums[:] = 0
            ox += count
    hold(nothing)
    hold(border)
    hold(scratch)
    hold(sums)
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


@inner
def dw_t_band(engine, ebuf, ev, w, geom, r0, r1, acc, av, i0, i1):  # type: ignore[no-untyped-def]
    """Error rows r0..r1 into those input positions whose row is in i0..i1."""
    kh, kw, sh, sw, dh, dw, pt, pl, _, width, _, wo = geom
    base, row_stride, pixel_stride, ring, _, outs = ev
    a_base, a_row, a_pixel, a_ring, _, chans = av
    times = outs // chans
    lines = _lines(w)
    prepared = _prepared(lines)
    taps, line = lines.shape
    in_place = times == 1 and outs == line
    origin, sums_at = ebuf.ctypes.data, acc.ctypes.data
    scratch, nothing = np.zeros((taps, line), np.uint8), np.zeros(line, np.uint8)
    sums = np.zeros(line, np.int32)
    rows = np.empty(kh, np.int64)  # element of the first column of the error row under each ky, -1: none
    where, moves, still = np.full(taps, nothing.ctypes.data), np.zeros(taps, np.int64), np.zeros(taps, np.int64)
    one = np.int64(1)
    wrapped = np.int32(0)
    for iy in range(i0, i1):
        streamed = False
        for ky in range(kh):
            down = iy + pt - ky * dh
            met = down >= 0 and down % sh == 0 and r0 <= down // sh and down // sh < r1
            rows[ky] = base + ((down // sh) % ring) * row_stride if met else -1
            streamed = streamed or met
        if not streamed:
            continue
        target = a_base + (iy % a_ring) * a_row
        for phase in range(min(sw, width)):  # every sw-th column meets the same taps
            # columns at which each of them meets an error: 0 <= ix + pl - kx * dw < wo * sw
            inner0, inner1 = np.int64(phase), np.int64(phase)
            if in_place:
                inner0 += max(0, ((kw - 1) * dw - pl - phase + sw - 1) // sw) * sw
                inner1 += max(0, (min(width, wo * sw - pl) - phase + sw - 1) // sw) * sw
            ix = np.int64(phase)
            while ix < width:
                inner = inner0 <= ix and ix < inner1
                count = (inner1 - ix) // sw if inner else one
                met_one = False
                for ky in range(kh):
                    for kx in range(kw):
                        t, right = ky * kw + kx, ix + pl - kx * dw
                        moves[t] = 0
                        if rows[ky] < 0 or right < 0 or right % sw != 0 or right // sw >= wo:
                            where[t] = nothing.ctypes.data
                            continue
                        met_one = True
                        element = rows[ky] + (right // sw) * pixel_stride
                        if in_place:
                            where[t] = origin + element
                            moves[t] = pixel_stride
                        else:
                            where[t] = _copy_tap(ebuf, element, outs, one, scratch, t)
                at = target + ix * a_pixel
                if not met_one:
                    ix += sw
                    continue
                if in_place:
                    wrapped |= _run(engine, one, where, moves, prepared, sums_at + 4 * at, 4 * sw * a_pixel, count)
                else:
                    _run(engine, one, where, still, prepared, sums.ctypes.data, one, one)
                    if times > 1:  # the products of one input channel's kernels are joined
                        for c in range(chans):
                            total = np.int32(0)
                            for j in range(times):
                                total += sums[c * times + j]
                            sums[c] = total
                    wrapped |= add_row(acc, at, sums, chans)
                    sums[:] = 0
                ix += count * sw
    hold(nothing)
    hold(scratch)
    hold(sums)
    return wrapped < 0
