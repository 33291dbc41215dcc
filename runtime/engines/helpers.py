"""Small compiled helpers of the engines: pooling by output rows, gradients of depth-wise layers."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["driven_cycles", "gradient_depthwise_bits", "gradient_depthwise_sums", "pool_rows"]

_ONES = np.array([b.bit_count() for b in range(256)], np.int64)


@njit(cache=True, nogil=True)
def driven_cycles(streamed, tiles, place, unit, units, copies, mats, banks):  # type: ignore[no-untyped-def]
    """Cycles of streaming bytes uint8 [P, K] through word lines that are active once per one bit (docs/numerics.md, "Zero bits").

    ``tiles`` int64 [T, 8]; tile i stands in sub-array ``place[i]``, sub-array s in group or bank ``unit[s]`` of ``units``. ``mats`` = 0: groups one
    after another, each as long as its busiest sub-array; else ``mats`` sub-arrays of each bank and ``banks`` banks work at a time.
    """
    pixels, rows = streamed.shape
    before = np.zeros((copies, rows + 1), np.int64)
    loads, sums, tallest = np.zeros(unit.shape[0], np.int64), np.zeros(units, np.int64), np.zeros(units, np.int64)
    cycles = np.int64(0)
    for first in range(0, pixels, copies):
        active = min(copies, pixels - first)
        for c in range(active):
            total = np.int64(0)
            line = streamed[first + c]
            for k in range(rows):
                total += _ONES[line[k]]
                before[c, k + 1] = total
        loads[:] = 0
        for i in range(tiles.shape[0]):
            if tiles[i, 7] < active:
                loads[place[i]] += before[tiles[i, 7], tiles[i, 3] + tiles[i, 5]] - before[tiles[i, 7], tiles[i, 3]]
        sums[:] = 0
        tallest[:] = 0
        for s in range(unit.shape[0]):
            sums[unit[s]] += loads[s]
            tallest[unit[s]] = max(tallest[unit[s]], loads[s])
        if mats == 0:
            cycles += tallest.sum()
            continue
        longest, total = np.int64(0), np.int64(0)
        for u in range(units):
            time = max(tallest[u], (sums[u] + mats - 1) // mats)
            longest = max(longest, time)
            total += time
        cycles += max(longest, (total + banks - 1) // banks)
    return cycles


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
