"""The digital periphery in training: ranges, shifts, masks, error scaling, rounding, update, loss. Shared by all engines.

Formulas of docs/numerics.md, sections "Loss", "Backward", "Gradient and update"; everything is integer. Flat int32 arrays are
the accumulators or the byte buffer read as int32 (`buf.view(np.int32)`, views then count in int32 elements).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from sasimc.runtime.kernels.dense import View
from sasimc.runtime.kernels.periphery import rne
from sasimc.runtime.kernels.simd import plane_words, popcount

__all__ = [
    "NO_MASK",
    "NO_SCALE",
    "STEP_LIMIT",
    "aligned_add",
    "argmax",
    "carry",
    "delta_of",
    "escale",
    "flipped_bits",
    "g_bits",
    "log2q12",
    "make_mask",
    "max_abs",
    "psr",
    "range_bits",
    "shift8",
    "shift8_carried",
    "update",
    "velocity",
    "xent",
]

NO_MASK: View = (0, 0, 0, 0, 0, 0)
"""Mask view for `escale` without a mask (ring 0)."""

STEP_LIMIT = 127 << 8
"""Largest 16-bit step of an accumulated weight, in 256ths (docs/numerics.md, "Gradient and update")."""

NO_SCALE = np.zeros(0, np.int64)
"""Channel factors for `escale` without scaling."""


@njit(cache=True, nogil=True)
def max_abs(flat, view, r0, r1):  # type: ignore[no-untyped-def]
    """max |v| over rows r0..r1 of an int32 view (2^31 for the least int32); 0 for no rows."""
    base, row_stride, pixel_stride, ring, cols, chans = view
    low, high = np.int32(0), np.int32(0)
    for y in range(r0, r1):
        for x in range(cols):
            at = base + (y % ring) * row_stride + x * pixel_stride
            values = flat[at : at + chans]
            for c in range(chans):
                low = min(low, values[c])
                high = max(high, values[c])
    return max(-np.int64(low), np.int64(high))


def range_bits(flat: npt.NDArray[np.int32], view: View, r0: int, r1: int) -> int:
    """Binary digits of max |v| over rows r0..r1."""
    return int(max_abs(flat, view, r0, r1)).bit_length()


@njit(cache=True, nogil=True)
def shift8(src, sv, buf, dv, sh, r0, r1):  # type: ignore[no-untyped-def]
    """Bytes m = clamp(rne(v, sh), -127, 127) of int32 rows r0..r1; sh <= 0 leaves v."""
    cols, chans = sv[4], sv[5]
    for y in range(r0, r1):
        for x in range(cols):
            at = sv[0] + (y % sv[3]) * sv[1] + x * sv[2]
            to = dv[0] + (y % dv[3]) * dv[1] + x * dv[2]
            source, target = src[at : at + chans], buf[to : to + chans]
            for c in range(chans):
                target[c] = np.uint8(min(max(rne(np.int64(source[c]), sh), -127), 127))


@njit(cache=True, nogil=True)
def shift8_carried(src, sv, buf, dv, sh, r0, r1):  # type: ignore[no-untyped-def]
    """As :func:`shift8`, but every channel of a pixel takes over what rounding left of the one before."""
    up = max(np.int64(sh), np.int64(0))
    for y in range(r0, r1):
        for x in range(sv[4]):
            at = sv[0] + (y % sv[3]) * sv[1] + x * sv[2]
            to = dv[0] + (y % dv[3]) * dv[1] + x * dv[2]
            rest = np.int64(0)
            for c in range(sv[5]):
                whole = np.int64(src[at + c]) + rest
                m = min(max(rne(whole, up), -127), 127)
                rest = whole - (m << up)
                buf[to + c] = np.uint8(m)


@njit(cache=True, nogil=True)
def make_mask(buf, qv, signed, lo, hi, mask_lo, mask_hi, mv, r0, r1):  # type: ignore[no-untyped-def]
    """Packed mask of rows r0..r1 of the forward output q: bit 1 = keep = not clipped by an activation.

    keep = (not mask_lo or q > lo) and (not mask_hi or q < hi). The mask lies in buf: row y at base + (y % ring) * row_stride of
    mv, ceil(cols * chans / 8) bytes, bit x * chans + c of a row, least significant first.
    """
    cols, chans = qv[4], qv[5]
    flip = np.int16(128 if signed else 0)
    # bounds that an activation did not set lie outside every byte
    above = np.int16(lo if mask_lo else -1000)
    below = np.int16(hi if mask_hi else 1000)
    bits = cols * chans
    keep = np.zeros(-(-bits // 32) * 32, np.uint8)
    words = np.zeros(8, np.uint32)
    for y in range(r0, r1):
        row = mv[0] + (y % mv[3]) * mv[1]
        for x in range(cols):
            at = qv[0] + (y % qv[3]) * qv[1] + x * qv[2]
            source, kept = buf[at : at + chans], keep[x * chans : (x + 1) * chans]
            for c in range(chans):
                q = np.int16(np.int16(source[c]) ^ flip) - flip
                kept[c] = np.uint8((q > above) & (q < below))
        for first in range(0, bits, 32):
            plane_words(keep, first, words, 0)  # bit plane 0 of 0/1 bytes: the packed bits
            for byte in range(min(4, -(-(bits - first) // 8))):
                buf[row + (first >> 3) + byte] = np.uint8((words[0] >> np.uint32(8 * byte)) & np.uint32(255))


@njit(cache=True, nogil=True)
def mask_rows(src, sv, dst, dv, mbuf, mv, r0, r1):  # type: ignore[no-untyped-def]
    """int32 dst = src where the mask has a one, else 0."""
    cols, chans = sv[4], sv[5]
    spread = np.empty(-(-cols * chans // 8), np.uint64)
    keep = spread.view(np.int8)
    line = np.empty(chans, np.int32)  # src and dst may be one memory: a loop over both would stay scalar code
    for y in range(r0, r1):
        row = mv[0] + (y % mv[3]) * mv[1]
        packed = mbuf[row : row + spread.shape[0]]
        for i in range(spread.shape[0]):  # bit j of a byte to byte j: -1 or 0
            lanes = (np.uint64(packed[i]) * np.uint64(0x0101010101010101)) & np.uint64(0x8040201008040201)
            ones = ((lanes + np.uint64(0x7F7F7F7F7F7F7F7F)) >> np.uint64(7)) & np.uint64(0x0101010101010101)
            spread[i] = ones * np.uint64(255)
        for x in range(cols):
            at = sv[0] + (y % sv[3]) * sv[1] + x * sv[2]
            to = dv[0] + (y % dv[3]) * dv[1] + x * dv[2]
            source, target, kept = src[at : at + chans], dst[to : to + chans], keep[x * chans : (x + 1) * chans]
            for c in range(chans):
                line[c] = source[c]
            for c in range(chans):
                target[c] = line[c] & np.int32(kept[c])
    return 0


@njit(cache=True, nogil=True)
def scale_rows(src, sv, dst, dv, factor, r0, r1):  # type: ignore[no-untyped-def]
    """int32 dst = rne(src * factor[c], 15); non-zero if a result does not fit."""
    cols, chans = sv[4], sv[5]
    outside = np.int64(0)
    line = np.empty(chans, np.int32)  # as above
    for y in range(r0, r1):
        for x in range(cols):
            at = sv[0] + (y % sv[3]) * sv[1] + x * sv[2]
            to = dv[0] + (y % dv[3]) * dv[1] + x * dv[2]
            source, target = src[at : at + chans], dst[to : to + chans]
            for c in range(chans):
                line[c] = source[c]
            for c in range(chans):
                scaled = np.int64(line[c]) * factor[c]
                v = (scaled + 16383 + ((scaled >> 15) & 1)) >> 15  # rne(scaled, 15)
                narrow = np.int32(v)
                outside |= v ^ np.int64(narrow)
                target[c] = narrow
    return outside != 0


def escale(
    src: npt.NDArray[np.int32 | np.int8],
    sv: View,
    dst: npt.NDArray[np.int32],
    dv: View,
    mbuf: npt.NDArray[np.uint8],
    mv: View,
    k: npt.NDArray[np.int64],
    r0: int,
    r1: int,
) -> int:
    """int32 dst = rne(v * k_n, 15), v = src where the mask keeps it, else 0 (docs/numerics.md, "Backward", steps 1 and 2).

    src int32 or int8 flat; mv: view of a mask of `make_mask` in mbuf, or NO_MASK; k: int64 [chans], [1] (the same for all), or
    NO_SCALE (one of the two, or both). Returns non-zero if a result does not fit int32.
    """
    if mv[3] > 0:
        mask_rows(src, sv, dst, dv, mbuf, mv, r0, r1)
        if not k.shape[0]:
            return 0
        src, sv = dst, dv
    factor = k if k.shape[0] == sv[5] else np.full(sv[5], k[0] if k.shape[0] else 32768)  # 2^15: unchanged
    return int(scale_rows(src, sv, dst, dv, factor, r0, r1))


@njit(cache=True, nogil=True)
def aligned_rows(a, av, sa, b, bv, sb, dst, dv, r0, r1):  # type: ignore[no-untyped-def]
    cols, chans = dv[4], dv[5]
    for y in range(r0, r1):
        for x in range(cols):
            at_a = av[0] + (y % av[3]) * av[1] + x * av[2]
            at_b = bv[0] + (y % bv[3]) * bv[1] + x * bv[2]
            to = dv[0] + (y % dv[3]) * dv[1] + x * dv[2]
            first, second, target = a[at_a : at_a + chans], b[at_b : at_b + chans], dst[to : to + chans]
            for c in range(chans):
                # a shift of more than 30 gives 0
                left = rne(np.int64(first[c]) * 256, sa) if sa <= 30 else np.int64(0)
                right = rne(np.int64(second[c]) * 256, sb) if sb <= 30 else np.int64(0)
                target[c] = np.int32(left + right)


def aligned_add(
    a: npt.NDArray[np.int8],
    av: View,
    ea: int,
    b: npt.NDArray[np.int8],
    bv: View,
    eb: int,
    dst: npt.NDArray[np.int32],
    dv: View,
    r0: int,
    r1: int,
) -> int:
    """dst = rne(a << 8, E - ea) + rne(b << 8, E - eb), E = max(ea, eb), for two error tensors; returns the exponent E - 8."""
    top = max(ea, eb)
    aligned_rows(a, av, top - ea, b, bv, top - eb, dst, dv, r0, r1)
    return top - 8


@njit(cache=True, nogil=True)
def _psr(g, sh, limit, out):  # type: ignore[no-untyped-def]
    low = (np.int64(1) << sh) - 1
    half = sh >> 1
    low_r = (np.int64(1) << half) - 1
    odd = sh & 1
    for i in range(g.shape[0]):
        value = np.int64(g[i])
        size = abs(value)
        q, r = size >> sh, size & low
        q += np.int64((r >> half) > ((r & low_r) << odd))
        q = min(q, limit)
        out[i] = -q if value < 0 else q


def psr(g: npt.NDArray[np.int32], sh: int, limit: int = 127) -> npt.NDArray[np.int8 | np.int32]:
    """Pseudo-stochastic rounding of g / 2^sh, |.| <= limit (NITI): int8 for a limit of 127, else int32; sh <= 0 only clamps. Shape kept."""
    dtype = np.int8 if limit <= 127 else np.int32
    if sh <= 0:
        return np.clip(g, -limit, limit).astype(dtype)
    if sh > 62:
        return np.zeros(g.shape, dtype)
    out = np.empty(g.size, dtype)
    _psr(np.ascontiguousarray(g, np.int32).reshape(-1), sh, np.int64(limit), out)
    return out.reshape(g.shape)


@njit(cache=True, nogil=True)
def _velocity(v, step, decay, out):  # type: ignore[no-untyped-def]
    for i in range(v.shape[0]):
        value = np.int64(v[i])
        value += np.int64(step[i]) - rne(value, decay)
        out[i] = min(max(value, -STEP_LIMIT), STEP_LIMIT)


def velocity(v: npt.NDArray[np.int32], step: npt.NDArray[np.int32], decay: int) -> npt.NDArray[np.int32]:
    """clamp(v - rne(v, decay) + step) to the range of a 16-bit step. Shape kept."""
    out = np.empty(v.size, np.int32)
    _velocity(np.ascontiguousarray(v).reshape(-1), np.ascontiguousarray(step).reshape(-1), decay, out)
    return out.reshape(v.shape)


@njit(cache=True, nogil=True)
def _carry(low, step, delta, rest):  # type: ignore[no-untyped-def]
    for i in range(low.shape[0]):
        total = np.int64(low[i]) - np.int64(step[i])
        c = (total + 128) >> 8
        delta[i] = np.int8(-c)
        rest[i] = np.int8(total - (c << 8))


def carry(low: npt.NDArray[np.int8], step: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    """(what to subtract from the weights, new low bytes) of accumulated weights after subtracting ``step`` (256ths). Shape kept."""
    delta, rest = np.empty(low.size, np.int8), np.empty(low.size, np.int8)
    _carry(np.ascontiguousarray(low).reshape(-1), np.ascontiguousarray(step).reshape(-1), delta, rest)
    return delta.reshape(low.shape), rest.reshape(low.shape)


def g_bits(g: npt.NDArray[np.int32]) -> int:
    """Binary digits of max |g| over a contiguous gradient."""
    flat = np.ascontiguousarray(g, np.int32).reshape(-1)
    return int(max_abs(flat, (0, flat.size, flat.size, 1, 1, flat.size), 0, 1)).bit_length()


def delta_of(g: npt.NDArray[np.int32], mu: int) -> npt.NDArray[np.int8] | None:
    """The weight change for gradient g and step width mu (bits); None if g is 0 everywhere."""
    bits = g_bits(g)
    return None if bits == 0 else psr(g, bits - mu).astype(np.int8)


@njit(cache=True, nogil=True)
def _update(w, delta, out):  # type: ignore[no-untyped-def]
    flips = np.int64(0)
    for i in range(w.shape[0]):
        value = min(max(np.int32(w[i]) - np.int32(delta[i]), np.int32(-127)), np.int32(127))
        out[i] = np.int8(value)
        flips += np.int64(popcount(np.uint32((np.int32(w[i]) ^ value) & 255)))
    return flips


def update(w: npt.NDArray[np.int8], delta: npt.NDArray[np.int8]) -> tuple[npt.NDArray[np.int8], int]:
    """(W' = clamp(W - delta, -127, 127), number of bits that differ between W and W'). Shape kept."""
    out = np.empty(w.size, np.int8)
    flips = _update(np.ascontiguousarray(w).reshape(-1), np.ascontiguousarray(delta).reshape(-1), out)
    return out.reshape(w.shape), int(flips)


def flipped_bits(old: npt.NDArray[np.generic], new: npt.NDArray[np.generic]) -> int:
    """Number of bits in which two byte arrays of one shape differ."""
    changed = np.bitwise_xor(np.ascontiguousarray(old).view(np.uint8), np.ascontiguousarray(new).view(np.uint8))
    return int(np.bitwise_count(changed).sum(dtype=np.int64))


def log2q12(value: int) -> int:
    """log2 of a positive integer in Q12: digits and a linear piece between powers of two."""
    m = value.bit_length() - 1
    return (m << 12) + (((value << 12) >> m) - 4096)


def xent(
    q: npt.NDArray[np.int8] | npt.NDArray[np.uint8], label: int, m_e: int, eps_q15: int
) -> tuple[int, npt.NDArray[np.int32]]:
    """Integer cross-entropy, base 2, of one sample: (loss in Q12 bits, errors int32 [C] that sum to zero).

    m_e = round(s log2 e 2^12) of the logits' scale s; eps_q15 label smoothing in Q15. docs/numerics.md, "Loss".
    """
    logits = q.astype(np.int64)
    count = logits.size
    t = (int(logits.max()) - logits) * m_e
    n, f = t >> 12, t & 4095
    p2 = 32768 - ((f * (2751 - ((703 * f) >> 12))) >> 9)
    p = np.where(n > 15, 0, p2 >> np.minimum(n, 15))
    total = int(p.sum())
    other = eps_q15 // count
    target = np.full(count, other, np.int64)
    target[label] = 32768 - (count - 1) * other
    errors = (p * 32768 + (total >> 1)) // total - target
    errors[label] -= errors.sum()
    loss = min(int(t[label]), 65536) + log2q12(total) - 61440
    return loss, errors.astype(np.int32)


def argmax(q: npt.NDArray[np.generic]) -> int:
    """Index of the largest element, the lowest among equals (give int8 logits as int8)."""
    return int(np.argmax(q))
