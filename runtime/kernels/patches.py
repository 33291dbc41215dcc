"""Patches of sliding windows (im2col), their transpose (col2im), and the count of one bits that a window stream drives.

Geometry and view tuples as in `kernels.depthwise` and `kernels.dense`. The K order of a patch is (ky, kx, c), c fastest,
the order of word lines of a dense convolution.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sasimc.runtime.kernels.compiling import inner
from sasimc.runtime.kernels.dense import View, add_row
from sasimc.runtime.kernels.depthwise import Geom
from sasimc.runtime.kernels.simd import copy16, load_u64, popcount

__all__ = ["gather_patches", "gather_pixels", "ones", "scatter_patches"]


@inner
def _copy(flat, to, buf, first, count):  # type: ignore[no-untyped-def]
    """flat[to .. to + count] = buf[first ..]; may write up to 15 bytes more, which the next copy, or nobody, uses."""
    if first + count + 15 > buf.shape[0]:
        for j in range(count):
            flat[to + j] = buf[first + j]
        return
    for j in range(0, count, 16):
        copy16(flat, to + j, buf, first + j)


@inner
def gather_pixels(buf, xv, geom, pad, r0, p0, p1, flat):  # type: ignore[no-untyped-def]
    """The patches of pixels p0..p1, counted from output row r0 on, one after another into flat, which has 15 bytes more than they."""
    kh, kw, sh, sw, dh, dw, pt, pl, h, width, _, wo = geom
    base, row_stride, pixel_stride, ring, _, chans = xv
    together = dw == 1 and pixel_stride == chans  # the pixels of one kernel row are neighbours in memory
    span = kw * chans
    byte = np.uint8(pad & 255)
    to = 0
    for p in range(p0, p1):
        oy, ox = r0 + p // wo, p % wo
        left = ox * sw - pl
        for ky in range(kh):
            y = oy * sh - pt + ky * dh
            if y < 0 or y >= h:
                flat[to : to + span] = byte
                to += span
                continue
            row = base + (y % ring) * row_stride
            if together and left >= 0 and left + kw <= width:
                _copy(flat, to, buf, row + left * pixel_stride, span)
                to += span
                continue
            for kx in range(kw):
                ix = left + kx * dw
                if ix < 0 or ix >= width:
                    flat[to : to + chans] = byte
                else:
                    _copy(flat, to, buf, row + ix * pixel_stride, chans)
                to += chans


def gather_patches(buf: npt.NDArray[np.uint8], xv: View, geom: Geom, pad: int, r0: int, r1: int) -> npt.NDArray[np.uint8]:
    """Patches of output rows r0..r1: uint8 [(r1 - r0) * wo, kh * kw * chans]; outside the plane the byte `pad`.

    A 1x1 stride-1 window over densely packed rows gives a view of the buffer instead of a copy: read it before the rows change.
    """
    kh, kw, sh, sw, _, _, pt, pl, h, width, ho, wo = geom
    base, row_stride, pixel_stride, ring, _, chans = xv
    count = r1 - r0
    if (kh, kw, sh, sw, pt, pl) == (1, 1, 1, 1, 0, 0) and (h, width) == (ho, wo) and pixel_stride == chans:
        first = r0 % ring
        if (row_stride == width * chans and first + count <= ring) or count == 1:
            start = base + first * row_stride
            return buf[start : start + count * width * chans].reshape(count * width, chans)
    size = count * wo * kh * kw * chans
    flat = np.empty(size + 15, np.uint8)
    gather_pixels(buf, xv, geom, pad, r0, 0, count * wo, flat)
    return flat[:size].reshape(count * wo, kh * kw * chans)


@inner
def scatter_patches(acc, av, products, geom, r0, r1):  # type: ignore[no-untyped-def]
    """Transpose of `gather_patches`: products int32 [(r1 - r0) * wo, kh * kw * chans of av] of output rows r0..r1 are added at
    their input positions (acc rows = input rows); those in the padding are dropped. Non-zero if one wrapped."""
    kh, kw, sh, sw, dh, dw, pt, pl, h, width, _, wo = geom
    base, row_stride, pixel_stride, ring, _, chans = av
    wrapped = np.int32(0)
    for oy in range(r0, r1):
        for ox in range(wo):
            values = products[(oy - r0) * wo + ox]
            for ky in range(kh):
                y = oy * sh - pt + ky * dh
                if y < 0 or y >= h:
                    continue
                row = base + (y % ring) * row_stride
                for kx in range(kw):
                    ix = ox * sw - pl + kx * dw
                    if ix >= 0 and ix < width:
                        first = (ky * kw + kx) * chans
                        wrapped |= add_row(acc, row + ix * pixel_stride, values[first : first + chans], chans)
    return wrapped < 0


@inner
def ones(buf, at, count):  # type: ignore[no-untyped-def]
    """Number of one bits of buf[at..at+count]."""
    words = count >> 3
    total = np.int64(0)
    for i in range(words):
        total += np.int64(popcount(load_u64(buf, at + 8 * i)))
    for i in range(8 * words, count):
        total += np.int64(popcount(buf[at + i]))
    return total
