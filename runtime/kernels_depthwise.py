"""Depth-wise products: every input element meets every tap of its channel's kernel, the products are scattered (fig. 3b, c).

Weights W int8 [kh, kw, C * m]; output channel n = c * m + j belongs to input channel c. Three engines with one meaning:
`fused` multiplies integers; `bitserial` does for every input bit AND, shift and add over all channels at once; `step`
runs `dw_row_step`, the shift-and-add of one row activation, for every element. Integer addition has no order, so rows
may stream in any order and in any portions.

Geometry tuple `geom` = (kh, kw, sh, sw, dh, dw, pt, pl, h, w, ho, wo): input plane h x w, output plane ho x wo,
iy = oy * sh - pt + ky * dh. Views as in `kernels_dense`.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
from numba import njit, prange

from sasimc.runtime.kernels_dense import View

__all__ = ["ENGINES", "Geom", "dw_row_step", "dw_scatter", "dw_scatter_t", "make_geom"]

Geom = tuple[int, int, int, int, int, int, int, int, int, int, int, int]
"""(kh, kw, sh, sw, dh, dw, pt, pl, h, w, ho, wo)."""

ENGINES = {"fused": 0, "bitserial": 1, "step": 2}

_PARALLEL_PRODUCTS = 400_000  # below this many products one thread is faster (benchmarks/kernels.py)


def make_geom(
    kh: int, kw: int, sh: int, sw: int, dh: int, dw: int, pt: int, pl: int, h: int, w: int, ho: int, wo: int
) -> Geom:
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
def _products_fused(x, signed, taps, out):  # type: ignore[no-untyped-def]
    """out[c] = x[c] * taps[c]: |product| <= 255 * 128 = 32640 fits int16."""
    if signed:
        for c in range(out.shape[0]):
            out[c] = np.int16(np.int8(x[c])) * np.int16(taps[c])
    else:
        for c in range(out.shape[0]):
            out[c] = np.int16(x[c]) * np.int16(taps[c])


@njit(cache=True, nogil=True)
def _products_bitserial(x, signed, taps, out):  # type: ignore[no-untyped-def]
    """The same bit by bit: the stored weight where the input bit is 1, sign extended, shifted, added (fits int16)."""
    one = np.uint8(1)
    for c in range(out.shape[0]):
        weight = np.int16(taps[c])
        total = np.int16(0)
        for cycle in range(7):
            driven = -np.int16((x[c] >> np.uint8(cycle)) & one)  # all ones where the word line is driven
            total += np.int16((weight & driven) << np.int16(cycle))
        driven = -np.int16((x[c] >> np.uint8(7)) & one)
        last = np.int16((weight & driven) << np.int16(7))
        out[c] = total - last if signed else total + last


@njit(cache=True, nogil=True)
def _products(engine, x, signed, taps, out, tap_bytes, product):  # type: ignore[no-untyped-def]
    if engine == 0:
        _products_fused(x, signed, taps, out)
    elif engine == 1:
        _products_bitserial(x, signed, taps, out)
    else:
        for c in range(out.shape[0]):
            tap_bytes[0] = np.uint8(taps[c])
            dw_row_step(np.int64(x[c]), 8, signed, tap_bytes, product)
            out[c] = product[0]


@njit(cache=True, nogil=True)
def _add_products(acc, at, out):  # type: ignore[no-untyped-def]
    target = acc[at : at + out.shape[0]]
    wrapped = np.int32(0)
    for c in range(out.shape[0]):
        old, more = target[c], np.int32(out[c])
        total = np.int32(old + more)
        wrapped |= (old ^ total) & (more ^ total)
        target[c] = total
    return wrapped


@njit(cache=True, nogil=True)
def _dw_band(engine, buf, xv, signed, w, geom, pad, r0, r1, acc, av, o0, o1):  # type: ignore[no-untyped-def]
    """Input rows r0..r1 into those outputs whose row is in o0..o1 (so that threads own their outputs)."""
    kh, kw, sh, sw, dh, dw, pt, pl, h, width, _, wo = geom
    base, row_stride, pixel_stride, ring, _, chans = xv
    a_base, a_row, a_pixel, a_ring, _, outs = av
    times = outs // chans
    products = np.empty(outs, np.int16)
    border = np.full(outs, np.uint8(pad))
    spread = np.empty(outs, np.uint8)
    tap_bytes, product = np.empty(1, np.uint8), np.empty(1, np.int32)
    wrapped = np.int32(0)
    for oy in range(o0, o1):
        for ky in range(kh):
            y = oy * sh - pt + ky * dh
            if y < r0 or y >= r1:
                continue
            outside = y < 0 or y >= h
            if outside and pad == 0:
                continue
            line = base + (y % ring) * row_stride
            for ox in range(wo):
                at = a_base + (oy % a_ring) * a_row + ox * a_pixel
                for kx in range(kw):
                    ix = ox * sw - pl + kx * dw
                    if outside or ix < 0 or ix >= width:
                        if pad == 0:
                            continue
                        x = border
                    elif times == 1:
                        first = line + ix * pixel_stride
                        x = buf[first : first + chans]
                    else:
                        first = line + ix * pixel_stride
                        for c in range(chans):
                            for j in range(times):
                                spread[c * times + j] = buf[first + c]
                        x = spread
                    _products(engine, x, signed, w[ky, kx], products, tap_bytes, product)
                    wrapped |= _add_products(acc, at, products)
    return wrapped < 0


@njit(cache=True, nogil=True, parallel=True)
def _dw_parallel(engine, buf, xv, signed, w, geom, pad, r0, r1, acc, av, o0, o1, threads):  # type: ignore[no-untyped-def]
    share = -(-(o1 - o0) // threads)
    wrapped = 0
    for t in prange(threads):
        a, b = min(o1, o0 + t * share), min(o1, o0 + (t + 1) * share)
        wrapped += _dw_band(engine, buf, xv, signed, w, geom, pad, r0, r1, acc, av, a, b)
    return wrapped


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
    kh, kw, sh, _, dh, _, pt, _, _, _, ho, wo = geom
    # output rows that the band can reach: r0 <= oy * sh - pt + ky * dh < r1
    o0 = max(0, -(-(r0 + pt - (kh - 1) * dh) // sh))
    o1 = min(ho, (r1 - 1 + pt) // sh + 1)
    if o1 <= o0:
        return 0
    code, threads, signed = ENGINES[engine], numba.get_num_threads(), bool(signed)
    pad &= 255
    if threads == 1 or o1 - o0 < 2 or (o1 - o0) * kh * kw * wo * av[5] < _PARALLEL_PRODUCTS:
        return int(_dw_band(code, buf, xv, signed, w, geom, pad, r0, r1, acc, av, o0, o1))
    return int(_dw_parallel(code, buf, xv, signed, w, geom, pad, r0, r1, acc, av, o0, o1, min(threads, o1 - o0)))


@njit(cache=True, nogil=True)
def _dw_t(engine, ebuf, ev, w, geom, r0, r1, acc, av):  # type: ignore[no-untyped-def]
    kh, kw, sh, sw, dh, dw, pt, pl, h, width, _, wo = geom
    base, row_stride, pixel_stride, ring, _, outs = ev
    a_base, a_row, a_pixel, a_ring, _, chans = av
    times = outs // chans
    products = np.empty(outs, np.int16)
    joined = np.empty(chans, np.int32)
    tap_bytes, product = np.empty(1, np.uint8), np.empty(1, np.int32)
    wrapped = np.int32(0)
    for oy in range(r0, r1):
        line = base + (oy % ring) * row_stride
        for ky in range(kh):
            y = oy * sh - pt + ky * dh
            if y < 0 or y >= h:
                continue
            target = a_base + (y % a_ring) * a_row
            for ox in range(wo):
                error = ebuf[line + ox * pixel_stride : line + ox * pixel_stride + outs]
                for kx in range(kw):
                    ix = ox * sw - pl + kx * dw
                    if ix < 0 or ix >= width:
                        continue
                    _products(engine, error, True, w[ky, kx], products, tap_bytes, product)
                    if times == 1:
                        wrapped |= _add_products(acc, target + ix * a_pixel, products)
                    else:
                        joined[:] = 0
                        for c in range(chans):
                            for j in range(times):
                                joined[c] += products[c * times + j]
                        wrapped |= _add_products(acc, target + ix * a_pixel, joined)
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
    return int(_dw_t(ENGINES[engine], ebuf, ev, w, geom, r0, r1, acc, av))
