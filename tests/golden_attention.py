"""Softmax, layer norm and products of two activation matrices for the golden model (see golden.py), from docs/reference/numerics.md alone: Python's own integers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

__all__ = ["exponentials", "layer_norm", "multiply", "norm_constants", "ratio", "softmax"]

I64 = npt.NDArray[np.int64]


def _rne(v: int, s: int) -> int:
    return v if s <= 0 else round(Fraction(v, 1 << s))


def ratio(f: float) -> tuple[int, int]:
    """(M, S) of a real factor."""
    if f == 0:
        return 0, 62
    s = 30 - (math.frexp(abs(f))[1] - 1)
    m = round(Fraction(f) * Fraction(2) ** s)
    if abs(m) == 2**31:
        m, s = m // 2, s - 1
    return (0, 62) if s > 62 else (m, s)


def exponentials(scale: float) -> list[int]:
    """2^24 exp(-s d) for d = 0..255."""
    return [round(2**24 * math.exp(-scale * d)) for d in range(256)]


def softmax(q: list[int], table: list[int], mult: int, shift: int, zero: int, lo: int, hi: int) -> list[int]:
    """One pixel."""
    t = [table[max(q) - v] for v in q]
    total = sum(t)
    e = total.bit_length() - 16
    reciprocal = 2**31 // (total >> e)
    shares = [_rne(v * reciprocal, 7 + e) for v in t]
    return [min(max(_rne(p * mult, shift) + zero, lo), hi) for p in shares]


def norm_constants(
    eps: float, scale: float, step: float, gamma: npt.NDArray[np.float64], beta: npt.NDArray[np.float64]
) -> tuple[int, list[tuple[int, int]], list[int]]:
    """(E, factors, offsets in 256ths of a step): ``scale`` of the input, ``step`` of the output."""
    exact = len(gamma) ** 2 * eps / scale**2
    up = 0
    while round(exact / 2**up) >= 2**31:
        up += 1
    return (
        round(exact / 2**up) << up,
        [ratio(float(g) / (16 * step)) for g in gamma],
        [round(float(b) * 256 / step) for b in beta],
    )


def layer_norm(
    q: list[int], e: int, factors: list[tuple[int, int]], offsets: list[int], zero: int, lo: int, hi: int
) -> list[int]:
    """One pixel."""
    n, total = len(q), sum(q)
    spread = n * sum(v * v for v in q) - total * total + e
    r = s = 0
    if spread:
        s = (spread.bit_length() + 1) // 2 - 8
        m = spread >> 2 * s if s >= 0 else spread << -2 * s
        r = math.isqrt(2**44 // (256 * (m // 256) + 128))
        r = r * (3 * 2**16 - (m * r * r >> 28)) >> 17
    out = []
    for v, (mult, shift), offset in zip(q, factors, offsets, strict=True):
        u = _rne(_rne((n * v - total) * r, 10 + s) * mult, shift) + offset
        out.append(min(max(_rne(u, 8) + zero, lo), hi))
    return out


def multiply(a: I64, b: I64, za: int, zb: int, mult: int, shift: int, zero: int, lo: int, hi: int) -> I64:
    """Products [..., M, N] of stored matrices [..., M, K] and [..., K, N]."""
    sums = (a - za) @ (b - zb)
    flat = [min(max(_rne(int(v) * mult, shift) + zero, lo), hi) for v in sums.ravel()]
    return np.array(flat, np.int64).reshape(sums.shape)
