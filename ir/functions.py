"""Real functions of one number, element by element: value and derivative, by the name of their ONNX operator.

Values are float32, as onnxruntime computes them: each function is taken in float64 of its float32 argument and rounded once. Derivatives are
float64. At a corner the derivative is that of the side on which nothing changes (0 where a bound begins), of `LeakyRelu` and the like that of
the negative side, as in PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FUNCTIONS", "evaluate"]

Real = npt.NDArray[np.float64]
Function = Callable[..., tuple[Real, Any]]

_erf = np.frompyfunc(math.erf, 1, 1)
_SQRT_2, _SQRT_2PI = math.sqrt(2.0), math.sqrt(2.0 / math.pi)


def _logistic(x: Real) -> Real:
    return 1 / (1 + np.exp(-x))


def _softplus(x: Real) -> Real:
    return np.logaddexp(0.0, x)


def _sigmoid(x: Real) -> tuple[Real, Real]:
    y = _logistic(x)
    return y, y * (1 - y)


def _clip(x: Real, low: float, high: float) -> tuple[Real, Real]:
    return np.clip(x, low, high), ((low < x) & (x < high)).astype(np.float64)


def _hard_sigmoid(x: Real, alpha: float, beta: float) -> tuple[Real, Real]:
    y, inside = _clip(alpha * x + beta, 0.0, 1.0)
    return y, alpha * inside


def _hard_swish(x: Real) -> tuple[Real, Real]:
    gate, slope = _hard_sigmoid(x, 1 / 6, 0.5)
    return x * gate, gate + x * slope


def _swish(x: Real, alpha: float) -> tuple[Real, Real]:
    gate, slope = _sigmoid(alpha * x)
    return x * gate, gate + alpha * x * slope


def _tanh(x: Real) -> tuple[Real, Real]:
    y = np.tanh(x)
    return y, 1 - y * y


def _mish(x: Real) -> tuple[Real, Real]:
    gate, slope = _tanh(_softplus(x))
    return x * gate, gate + x * slope * _logistic(x)


def _normal(x: Real) -> Real:
    return np.asarray(_erf(x), np.float64)


def _gelu(x: Real, approximate: str) -> tuple[Real, Real]:
    if approximate == "tanh":
        inner = _SQRT_2PI * (x + 0.044715 * x**3)
        y, slope = _tanh(inner)
        return 0.5 * x * (1 + y), 0.5 * (1 + y) + 0.5 * x * slope * _SQRT_2PI * (1 + 3 * 0.044715 * x * x)
    phi = 0.5 * (1 + _normal(x / _SQRT_2))
    return x * phi, phi + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _negative(x: Real, below: Real, slope: Real | float) -> tuple[Real, Real]:
    """x above 0, something else below."""
    return np.where(x > 0, x, below), np.where(x > 0, 1.0, slope)


def _elu(x: Real, alpha: float) -> tuple[Real, Real]:
    return _negative(x, alpha * np.expm1(np.minimum(x, 0)), alpha * np.exp(np.minimum(x, 0)))


def _selu(x: Real, alpha: float, gamma: float) -> tuple[Real, Real]:
    y, slope = _elu(x, alpha)
    return gamma * y, gamma * slope


def _celu(x: Real, alpha: float) -> tuple[Real, Real]:
    y, slope = _elu(x / alpha, 1.0)
    return alpha * y, slope


def _pow(x: Real, exponent: float) -> tuple[Real, Real]:
    return x**exponent, exponent * x ** (exponent - 1) if exponent else np.zeros_like(x)


def _sqrt(x: Real) -> tuple[Real, Real]:
    y = np.sqrt(x)
    return y, 0.5 / y


FUNCTIONS: Mapping[str, Function] = {
    "Abs": lambda x: (np.abs(x), np.sign(x)),
    "Add": lambda x, c: (x + c, np.ones_like(x)),
    "Atan": lambda x: (np.arctan(x), 1 / (1 + x * x)),
    "Ceil": lambda x: (np.ceil(x), np.zeros_like(x)),
    "Celu": _celu,
    "Clip": _clip,
    "Cos": lambda x: (np.cos(x), -np.sin(x)),
    "Elu": _elu,
    "Erf": lambda x: (_normal(x), 2 / math.sqrt(math.pi) * np.exp(-x * x)),
    "Exp": lambda x: (np.exp(x), np.exp(x)),
    "Floor": lambda x: (np.floor(x), np.zeros_like(x)),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": lambda x, alpha: _negative(x, alpha * x, alpha),
    "Log": lambda x: (np.log(x), 1 / x),
    "Mish": _mish,
    "Mul": lambda x, c: (x * c, c * np.ones_like(x)),
    "Neg": lambda x: (-x, -np.ones_like(x)),
    "PRelu": lambda x, c: _negative(x, c * x, c),
    "Pow": _pow,
    "Reciprocal": lambda x: (1 / x, -1 / (x * x)),
    "Round": lambda x: (np.rint(x), np.zeros_like(x)),
    "Selu": _selu,
    "Sigmoid": _sigmoid,
    "Sign": lambda x: (np.sign(x), np.zeros_like(x)),
    "Sin": lambda x: (np.sin(x), np.cos(x)),
    "Softplus": lambda x: (_softplus(x), _logistic(x)),
    "Softsign": lambda x: (x / (1 + np.abs(x)), (1 + np.abs(x)) ** -2.0),
    "Sqrt": _sqrt,
    "Swish": _swish,
    "Tanh": _tanh,
    "ThresholdedRelu": lambda x, alpha: (np.where(x > alpha, x, 0.0), (x > alpha).astype(np.float64)),
}
"""Function of (argument, parameters by name) that gives value and derivative. ``c``: a parameter that may be an array."""


def evaluate(name: str, x: npt.NDArray[np.float32], **parameters: Any) -> tuple[npt.NDArray[np.float32], Real]:
    """Values and derivatives at float32 arguments; infinite or NaN where the function is."""
    with np.errstate(all="ignore"):
        y, slope = FUNCTIONS[name](x.astype(np.float64), **parameters)
        return y.astype(np.float32), np.asarray(slope, np.float64)
