"""Functions of one number for the golden model (see golden.py): float64 value and derivative, written from the operators' definitions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["CURVES", "Curve", "chain", "constant", "product", "slopes", "stored", "table"]

F64 = npt.NDArray[np.float64]
Curve = tuple[npt.NDArray[np.float32], F64]
"""Value (float32) and derivative at each value of the stored tensor, the lowest first: [256] or [C, 256]."""


def _where(x: F64, below: Callable[[float], float], slope: Callable[[float], float]) -> tuple[F64, F64]:
    """x above 0, something else at and below 0."""
    y, d = x.copy(), np.ones_like(x)
    for i in np.argwhere(x <= 0):
        y[tuple(i)], d[tuple(i)] = below(float(x[tuple(i)])), slope(float(x[tuple(i)]))
    return y, d


def _each(f: Callable[[float], float], d: Callable[[float], float]) -> Callable[[F64], tuple[F64, F64]]:
    return lambda x: (np.vectorize(f, otypes=[float])(x), np.vectorize(d, otypes=[float])(x))


def _sigma(v: float) -> float:
    return 1 / (1 + math.exp(-v))


def _hard(v: float, alpha: float, beta: float) -> float:
    return max(0.0, min(1.0, alpha * v + beta))


def _hard_slope(v: float, alpha: float, beta: float) -> float:
    return alpha if 0 < alpha * v + beta < 1 else 0.0


def _soft(v: float) -> float:
    return math.log1p(math.exp(-abs(v))) + max(v, 0.0)


def _phi(v: float) -> float:
    return 0.5 * (1 + math.erf(v / math.sqrt(2)))


CURVES: dict[str, Callable[..., Callable[[F64], tuple[F64, F64]]]] = {
    "Sigmoid": lambda: _each(_sigma, lambda v: _sigma(v) * (1 - _sigma(v))),
    "Tanh": lambda: _each(math.tanh, lambda v: 1 - math.tanh(v) ** 2),
    "HardSigmoid": lambda alpha=0.2, beta=0.5: _each(lambda v: _hard(v, alpha, beta), lambda v: _hard_slope(v, alpha, beta)),
    "HardSwish": lambda: _each(
        lambda v: v * _hard(v, 1 / 6, 0.5), lambda v: _hard(v, 1 / 6, 0.5) + v * _hard_slope(v, 1 / 6, 0.5)
    ),
    "LeakyRelu": lambda alpha=0.01: lambda x: _where(x, lambda v: alpha * v, lambda v: alpha),
    "Elu": lambda alpha=1.0: lambda x: _where(x, lambda v: alpha * math.expm1(v), lambda v: alpha * math.exp(v)),
    "Gelu": lambda: _each(lambda v: v * _phi(v), lambda v: _phi(v) + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi)),
    "Softplus": lambda: _each(_soft, _sigma),
    "Mish": lambda: _each(
        lambda v: v * math.tanh(_soft(v)), lambda v: math.tanh(_soft(v)) + v * (1 - math.tanh(_soft(v)) ** 2) * _sigma(v)
    ),
}
"""By ONNX operator: attributes -> argument -> (value, derivative)."""


def prelu(slope: F64) -> Callable[[F64], tuple[F64, F64]]:
    def run(x: F64) -> tuple[F64, F64]:
        rows = [_where(x[i if len(x) > 1 else 0], lambda v, a=a: a * v, lambda v, a=a: a) for i, a in enumerate(slope.tolist())]
        return np.stack([r[0] for r in rows]), np.stack([r[1] for r in rows])

    return lambda x: run(np.atleast_2d(x))


def constant(c: float) -> Callable[[F64], tuple[F64, F64]]:
    return lambda x: (x * c, np.full_like(x, c))


def bounds(low: float, high: float) -> Callable[[F64], tuple[F64, F64]]:
    return lambda x: (np.clip(x, low, high), ((x > low) & (x < high)).astype(np.float64))


def stored(scale: float, zero: int, lo: int, hi: int) -> Curve:
    """A stored tensor: float32 (q - z) s."""
    x = (np.arange(lo, hi + 1) - zero).astype(np.float32) * np.float32(scale)
    return x, np.ones(x.shape)


def chain(curve: Curve, f: Callable[[F64], tuple[F64, F64]]) -> Curve:
    """One operator more: rounded to float32, slopes multiplied."""
    value, slope = f(curve[0].astype(np.float64))
    return value.astype(np.float32), curve[1] * slope


def product(a: Curve, b: Curve) -> Curve:
    return a[0] * b[0], a[1] * b[0] + b[1] * a[0]


def table(curve: Curve, scale: float, zero: int, lo: int, hi: int) -> npt.NDArray[np.int64]:
    """What QuantizeLinear stores."""
    return np.clip(np.rint(curve[0] / np.float32(scale)).astype(np.float64) + zero, lo, hi).astype(np.int64)


def slopes(slope: F64) -> tuple[npt.NDArray[np.int64], int]:
    """int8 mantissas D and their exponent g: the least with all |slope| <= 127 2^g."""
    if not slope.any():
        return np.zeros(slope.shape, np.int64), 0
    g = -200
    while np.abs(slope).max() > 127 * 2.0**g:
        g += 1
    return np.rint(slope / 2.0**g).astype(np.int64), g
