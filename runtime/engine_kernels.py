"""Small compiled helpers of the engines: pooling by output rows, gradients of depth-wise layers."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["gradient_depthwise_bits", "gradient_depthwise_sums", "pool_rows"]


@njit(cache=True, nogil=True)
def pool_rows(buf, xv, signed, acc, av, geom, pad, r0, r1):  # type: ignore[no-untyped-def]
    """Add the window sums of output rows r0..r1 to the accumulators; positions outside the plane read ``pad``.
    Non-zero if a sum wrapped."""
    kh, kw, sh, sw, dh, dw, pt, pl, h, width, _, wo = geom
    chans = xv[5]
    flip = np.int32(128) if signed else np.int32(0)
    wrapped = np.int64(0)
    sums = np.empty(chans, np.int32)
    for oy in range(r0, r1):
        for ox in range(wo):
            sums[:] = 0
            outside = 0
            for ky in range(kh):
                y = oy * sh - pt + ky * dh
                if y < 0 or y >= h:
                    outside += kw
                    continue
                row = xv[0] + (y % xv[3]) * xv[1]
                for kx in range(kw):
                    ix = ox * sw - pl + kx * dw
                    if ix < 0 or ix >= width:
                        outside += 1
                        continue
                    first = row + ix * xv[2]
                    source = buf[first : first + chans]
                    for c in range(chans):
                        sums[c] += (np.int32(source[c]) ^ flip) - flip
            at = av[0] + (oy % av[3]) * av[1] + ox * av[2]
            target = acc[at : at + chans]
            border = np.int64(outside * pad)
            for c in range(chans):
                total = np.int64(target[c]) + sums[c] + border
                narrow = np.int32(total)
                wrapped |= total ^ np.int64(narrow)
                target[c] = narrow
    return wrapped != 0


@njit(cache=True, nogil=True)
def gradient_depthwise_sums(v, e, out):  # type: ignore[no-untyped-def]
    """out int32 [C, taps] = sum over pixels p of v[p, t, c] e[p, c]; v int16 [P, taps, C], e int8 [P, C]."""
    pixels, taps, chans = v.shape
    for p in range(pixels):
        for t in range(taps):
            for c in range(chans):
                out[c, t] += np.int32(v[p, t, c]) * np.int32(e[p, c])


@njit(cache=True, nogil=True)
def gradient_depthwise_bits(v, e, out):  # type: ignore[no-untyped-def]
    """The same, one error bit a cycle: the stationary value where the bit is 1, shifted, the sign cycle subtracted."""
    pixels, taps, chans = v.shape
    for cycle in range(8):
        for p in range(pixels):
            for t in range(taps):
                for c in range(chans):
                    driven = -np.int32((np.uint8(e[p, c]) >> np.uint8(cycle)) & np.uint8(1))
                    value = (np.int32(v[p, t, c]) & driven) << np.int32(cycle)
                    if cycle == 7:
                        out[c, t] -= value
                    else:
                        out[c, t] += value
