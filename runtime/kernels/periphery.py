"""The digital periphery in inference: requantise, residual add, pools, resize. Shared by all engines.

Every function works on rows r0..r1 of views (see `kernels.dense`), integers only, formulas of docs/numerics.md. `buf` is
the flat byte buffer, `acc` the flat int32 accumulators; `signed` says how the bytes of a view are read.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from sasimc.runtime.kernels.dense import View

__all__ = [
    "add_q",
    "avgpool_sum",
    "avgpool_t",
    "maxpool",
    "maxpool_t",
    "requant",
    "rne",
    "upsample_linear",
    "upsample_linear_t",
    "upsample_nearest",
    "upsample_nearest_t",
]


@njit(cache=True, nogil=True, inline="always")
def rne(value, shift):  # type: ignore[no-untyped-def]
    """value / 2^shift to the nearest integer, ties to even; shift <= 0 changes nothing. int64, |value| + 2^(shift-1) < 2^63."""
    if shift <= 0:
        return value
    if shift > 62:
        return np.int64(0)  # |value| < 2^62 in every use
    odd = (value >> shift) & np.int64(1)
    return (value + ((np.int64(1) << (shift - 1)) - 1) + odd) >> shift


@njit(cache=True, nogil=True)
def requant_pixels(acc, av, buf, dv, bias, mult, shift, half, zero, lo, hi, r0, p0, p1, clear):  # type: ignore[no-untyped-def]
    """`requant` of the pixels p0..p1, counted from row r0 on. The constants may be repeated: then as many neighbouring pixels are one run."""
    a_base, a_row, a_pixel, a_ring, cols, chans = av
    base, row_stride, pixel_stride, ring, _, _ = dv
    together = bias.shape[0] // chans if a_pixel == chans and pixel_stride == chans else 1
    p, y, x = p0, r0 + p0 // cols, p0 % cols
    while p < p1:
        run = min(together, cols - x, p1 - p)
        count = run * chans
        at = a_base + (y % a_ring) * a_row + x * a_pixel
        to = base + (y % ring) * row_stride + x * pixel_stride
        source, target = acc[at : at + count], buf[to : to + count]
        for c in range(count):
            product = (np.int64(source[c]) + bias[c]) * mult[c]
            value = ((product + half[c] + ((product >> shift[c]) & np.int64(1))) >> shift[c]) + zero
            target[c] = np.uint8(min(max(value, lo), hi))
        if clear:
            source[:] = 0
        p += run
        x += run
        if x == cols:
            x, y = 0, y + 1


def requant(
    acc: npt.NDArray[np.int32],
    av: View,
    buf: npt.NDArray[np.uint8],
    dv: View,
    bias: npt.NDArray[np.int64],
    mult: npt.NDArray[np.int64],
    shift: npt.NDArray[np.int64],
    zero: int,
    lo: int,
    hi: int,
    r0: int,
    r1: int,
    clear: bool = True,
    half: npt.NDArray[np.int64] | None = None,
) -> None:
    """y = clamp(rne((acc + bias) * mult, shift) + zero, lo, hi), one byte each; the accumulators read are cleared.

    bias, mult, shift: int64 [chans of av], or several times that; shift 1..62; |acc + bias| < 2^31. half: 2^(shift - 1) - 1, if the caller has it.
    """
    if half is None:
        half = (np.int64(1) << (shift - 1)) - 1
    requant_pixels(acc, av, buf, dv, bias, mult, shift, half, zero, lo, hi, r0, 0, (r1 - r0) * av[4], bool(clear))


@njit(cache=True, nogil=True)
def add_q(buf, av, asigned, bv, bsigned, dv, za, ma, zb, mb, shift, zero, lo, hi, r0, r1):  # type: ignore[no-untyped-def]
    """Residual add: y = clamp(rne((a - za) ma + (b - zb) mb, shift) + zero, lo, hi) of two byte tensors of one shape."""
    cols, chans = dv[4], dv[5]
    half = (np.int64(1) << (shift - 1)) - 1
    # a signed byte u reads as (u ^ 128) - 128, an unsigned one as (u ^ 0) - 0
    flip_a, flip_b = (np.int64(128) if asigned else np.int64(0)), (np.int64(128) if bsigned else np.int64(0))
    for y in range(r0, r1):
        for x in range(cols):
            at_a = av[0] + (y % av[3]) * av[1] + x * av[2]
            at_b = bv[0] + (y % bv[3]) * bv[1] + x * bv[2]
            at_d = dv[0] + (y % dv[3]) * dv[1] + x * dv[2]
            left, right, target = buf[at_a : at_a + chans], buf[at_b : at_b + chans], buf[at_d : at_d + chans]
            for c in range(chans):
                a = (np.int64(left[c]) ^ flip_a) - flip_a - za
                b = (np.int64(right[c]) ^ flip_b) - flip_b - zb
                total = a * ma + b * mb
                value = ((total + half + ((total >> shift) & np.int64(1))) >> shift) + zero
                target[c] = np.uint8(min(max(value, lo), hi))


@njit(cache=True, nogil=True)
def _add_scaled(acc, at, buf, first, chans, flip, factor):  # type: ignore[no-untyped-def]
    """acc[at..] += factor * bytes (flip = 128: signed bytes, 0: unsigned); negative if one wrapped."""
    target, source = acc[at : at + chans], buf[first : first + chans]
    wrapped = np.int32(0)
    flip32, factor32 = np.int32(flip), np.int32(factor)
    for c in range(chans):
        more = np.int32(((np.int32(source[c]) ^ flip32) - flip32) * factor32)
        old = target[c]
        total = np.int32(old + more)
        wrapped |= (old ^ total) & (more ^ total)
        target[c] = total
    return wrapped


@njit(cache=True, nogil=True)
def avgpool_sum(buf, xv, signed, acc, av, geom, pad, r0, r1):  # type: ignore[no-untyped-def]
    """Add input rows r0..r1 into the sums of their windows (acc rows = output rows); non-zero if one wrapped.

    Rows outside the plane (from -pt on) and border columns read `pad` (its value as read, that is signed if the tensor is).
    """
    kh, kw, sh, sw, dh, dw, pt, pl, h, width, ho, wo = geom
    chans = xv[5]
    flip = 128 if signed else 0
    border = np.full(chans, np.uint8(pad & 255))
    wrapped = np.int32(0)
    for y in range(r0, r1):
        outside = y < 0 or y >= h
        for ky in range(kh):
            top = y + pt - ky * dh
            if top < 0 or top % sh != 0 or top // sh >= ho:
                continue
            oy = top // sh
            for ox in range(wo):
                at = av[0] + (oy % av[3]) * av[1] + ox * av[2]
                for kx in range(kw):
                    ix = ox * sw - pl + kx * dw
                    if outside or ix < 0 or ix >= width:
                        if pad != 0:
                            wrapped |= _add_scaled(acc, at, border, 0, chans, flip, 1)
                    else:
                        first = xv[0] + (y % xv[3]) * xv[1] + ix * xv[2]
                        wrapped |= _add_scaled(acc, at, buf, first, chans, flip, 1)
    return wrapped < 0


@njit(cache=True, nogil=True)
def avgpool_t(buf, ev, acc, av, geom, r0, r1):  # type: ignore[no-untyped-def]
    """Transpose of `avgpool_sum`: error rows r0..r1 (int8) added at every input position of their windows."""
    kh, kw, sh, sw, dh, dw, pt, pl, h, width, _, wo = geom
    wrapped = np.int32(0)
    for oy in range(r0, r1):
        for ky in range(kh):
            y = oy * sh - pt + ky * dh
            if y < 0 or y >= h:
                continue
            for ox in range(wo):
                first = ev[0] + (oy % ev[3]) * ev[1] + ox * ev[2]
                for kx in range(kw):
                    ix = ox * sw - pl + kx * dw
                    if ix >= 0 and ix < width:
                        at = av[0] + (y % av[3]) * av[1] + ix * av[2]
                        wrapped |= _add_scaled(acc, at, buf, first, ev[5], 128, 1)
    return wrapped < 0


@njit(cache=True, nogil=True)
def maxpool(buf, xv, signed, dv, geom, r0, r1):  # type: ignore[no-untyped-def]
    """Output rows r0..r1 of a max pool; padding never wins (every window holds at least one real position)."""
    kh, kw, sh, sw, dh, dw, pt, pl, h, width, _, wo = geom
    flip = np.uint8(128 if signed else 0)
    best = np.empty(xv[5], np.uint8)
    for oy in range(r0, r1):
        for ox in range(wo):
            best[:] = 0  # the least value: bytes are compared with their sign bit flipped
            for ky in range(kh):
                y = oy * sh - pt + ky * dh
                if y < 0 or y >= h:
                    continue
                for kx in range(kw):
                    ix = ox * sw - pl + kx * dw
                    if ix >= 0 and ix < width:
                        first = xv[0] + (y % xv[3]) * xv[1] + ix * xv[2]
                        source = buf[first : first + best.shape[0]]
                        for c in range(best.shape[0]):
                            best[c] = max(best[c], source[c] ^ flip)
            to = dv[0] + (oy % dv[3]) * dv[1] + ox * dv[2]
            target = buf[to : to + best.shape[0]]
            for c in range(best.shape[0]):
                target[c] = best[c] ^ flip


@njit(cache=True, nogil=True)
def maxpool_t(buf, xv, signed, ev, acc, av, geom, r0, r1):  # type: ignore[no-untyped-def]
    """Error rows r0..r1 (int8) go to the first maximum of their window, row by row (acc rows = input rows)."""
    kh, kw, sh, sw, dh, dw, pt, pl, h, width, _, wo = geom
    flip = 128 if signed else 0
    wrapped = np.int32(0)
    for oy in range(r0, r1):
        for ox in range(wo):
            error = ev[0] + (oy % ev[3]) * ev[1] + ox * ev[2]
            for c in range(xv[5]):
                best, where = -1, 0
                for ky in range(kh):
                    y = oy * sh - pt + ky * dh
                    if y < 0 or y >= h:
                        continue
                    for kx in range(kw):
                        ix = ox * sw - pl + kx * dw
                        if ix < 0 or ix >= width:
                            continue
                        value = np.int64(buf[xv[0] + (y % xv[3]) * xv[1] + ix * xv[2] + c]) ^ flip
                        if value > best:
                            best, where = value, av[0] + (y % av[3]) * av[1] + ix * av[2] + c
                if best >= 0:
                    wrapped |= _add_scaled(acc, where, buf, error + c, 1, 128, 1)
    return wrapped < 0


@njit(cache=True, nogil=True)
def _linear_pair(out, size):  # type: ignore[no-untyped-def]
    """The two inputs of one output position of a factor-2 half-pixel resize: (near, far), weights 3 and 1, edges clamped."""
    near = out >> 1
    far = near - 1 if out & 1 == 0 else near + 1
    return near, min(max(far, 0), size - 1)


@njit(cache=True, nogil=True)
def upsample_linear(buf, xv, signed, acc, av, h, w, r0, r1):  # type: ignore[no-untyped-def]
    """acc += 16 times the factor-2 linear resize; r0..r1 are output rows (of 2 h). Non-zero if one wrapped."""
    flip = 128 if signed else 0
    wrapped = np.int32(0)
    for oy in range(r0, r1):
        ys = _linear_pair(oy, h)
        for ox in range(2 * w):
            xs = _linear_pair(ox, w)
            at = av[0] + (oy % av[3]) * av[1] + ox * av[2]
            for i in range(2):
                for j in range(2):
                    first = xv[0] + (ys[i] % xv[3]) * xv[1] + xs[j] * xv[2]
                    wrapped |= _add_scaled(acc, at, buf, first, xv[5], flip, (3 - 2 * i) * (3 - 2 * j))
    return wrapped < 0


@njit(cache=True, nogil=True)
def upsample_linear_t(buf, ev, acc, av, h, w, r0, r1):  # type: ignore[no-untyped-def]
    """Transpose of `upsample_linear`: error rows r0..r1 (of 2 h, int8) added with weights 9, 3, 3, 1 at input positions."""
    wrapped = np.int32(0)
    for oy in range(r0, r1):
        ys = _linear_pair(oy, h)
        for ox in range(2 * w):
            xs = _linear_pair(ox, w)
            first = ev[0] + (oy % ev[3]) * ev[1] + ox * ev[2]
            for i in range(2):
                for j in range(2):
                    at = av[0] + (ys[i] % av[3]) * av[1] + xs[j] * av[2]
                    wrapped |= _add_scaled(acc, at, buf, first, ev[5], 128, (3 - 2 * i) * (3 - 2 * j))
    return wrapped < 0


@njit(cache=True, nogil=True)
def upsample_nearest(buf, xv, signed, acc, av, h, w, ho, wo, r0, r1):  # type: ignore[no-untyped-def]
    """acc += x[floor(oy h / ho), floor(ox w / wo)] for output rows r0..r1. Non-zero if one wrapped."""
    flip = 128 if signed else 0
    wrapped = np.int32(0)
    for oy in range(r0, r1):
        y = oy * h // ho
        for ox in range(wo):
            first = xv[0] + (y % xv[3]) * xv[1] + (ox * w // wo) * xv[2]
            at = av[0] + (oy % av[3]) * av[1] + ox * av[2]
            wrapped |= _add_scaled(acc, at, buf, first, xv[5], flip, 1)
    return wrapped < 0


@njit(cache=True, nogil=True)
def upsample_nearest_t(buf, ev, acc, av, h, w, ho, wo, r0, r1):  # type: ignore[no-untyped-def]
    """Transpose of `upsample_nearest`: error rows r0..r1 (of ho, int8) scatter-added at their input positions."""
    wrapped = np.int32(0)
    for oy in range(r0, r1):
        y = oy * h // ho
        for ox in range(wo):
            first = ev[0] + (oy % ev[3]) * ev[1] + ox * ev[2]
            at = av[0] + (y % av[3]) * av[1] + (ox * w // wo) * av[2]
            wrapped |= _add_scaled(acc, at, buf, first, ev[5], 128, 1)
    return wrapped < 0
