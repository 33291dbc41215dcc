"""Meaning of softmax, layer norm and products of two activation matrices on stored integers (docs/reference/numerics.md)."""

from __future__ import annotations

from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["EXP_ONE", "LOG2_NORM", "LOG2_SHARE", "layer_norm", "positions", "softmax"]

Ints = npt.NDArray[np.int64]

EXP_ONE = 1 << 24
"""What 1 is in the exponentials of a softmax."""
LOG2_SHARE = 24
"""Fraction bits of a softmax before its own scale."""
LOG2_NORM = 12
"""Fraction bits of a normalised element."""
_ROOTS = np.array([isqrt((1 << 44) // (256 * i + 128)) for i in range(256)], np.int64)


def positions(sizes: tuple[int, int, int], strides: tuple[int, ...]) -> Ints:
    """Where the elements of matrices [G, M, N] stand in a stored sample."""
    g, m, n = (np.arange(size, dtype=np.int64) * step for size, step in zip(sizes, strides, strict=True))
    return g[:, None, None] + m[:, None] + n


def _digits(v: Ints) -> Ints:
    """Binary digits of numbers below 2^62 that are not negative."""
    high = v >> 31
    return np.where(high > 0, np.frexp(high.astype(np.float64))[1] + 31, np.frexp(v.astype(np.float64))[1]).astype(np.int64)


def softmax(x: Ints, exponentials: npt.NDArray[Any], rne: Any) -> Ints:
    """Shares of 1 over the last axis, in 2^-LOG2_SHARE; ``exponentials`` [256] of minus the distance to the largest."""
    t = exponentials.astype(np.int64)[x.max(axis=-1, keepdims=True) - x]
    total = t.sum(axis=-1, keepdims=True)
    e = _digits(total) - 16
    return rne(t * ((np.int64(1) << 31) // (total >> e)), 7 + e)


def layer_norm(x: Ints, eps: int, rne: Any) -> Ints:
    """Elements less their mean by their deviation over the last axis, in 2^-LOG2_NORM; ``eps`` is added to n^2 times the variance."""
    n = x.shape[-1]
    total = x.sum(axis=-1, keepdims=True)
    spread = n * (x * x).sum(axis=-1, keepdims=True) - total * total + eps
    s = (_digits(spread) + 1) // 2 - 8
    m = np.where(s >= 0, spread >> np.maximum(2 * s, 0), spread << np.maximum(-2 * s, 0))
    r = _ROOTS[m >> 8]
    r = np.where(spread > 0, (r * ((3 << 16) - ((m * r * r) >> 28))) >> 17, 0)
    return rne((n * x - total) * r, 10 + s)
