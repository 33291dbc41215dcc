"""Functions of one stored tensor, known at each of its 256 values: chains of unary operators between a dequantize and a quantize.

A curve is made of a stored tensor, goes through operators as a whole, and ends as one table. Values are float32, step by step as
onnxruntime computes them; slopes are real derivatives with respect to the stored tensor's real value, by the chain rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.ir.functions import evaluate
from sasimc.ir.graph import Graph, Op, TensorType, type_range
from sasimc.passes.factors import FactorError

__all__ = ["Curve", "roots_of", "table_of"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Curve:
    """``value`` (float32) and ``slope`` (float64) [256], or [C, 256], over the values of the stored tensor ``source``, the lowest first; then
    ``moves``. ``op``: the operator it ended in."""

    op: Op
    source: str
    value: npt.NDArray[np.float32]
    slope: npt.NDArray[np.float64]
    moves: tuple[Op, ...] = ()
    origins: tuple[str, ...] = ()

    @staticmethod
    def of(source: str, t: TensorType) -> Curve:
        """The stored tensor itself."""
        low, high = type_range(t.dtype)
        value = np.arange(low - t.zero, high - t.zero + 1).astype(np.float32) * np.float32(t.scale)
        return Curve(Op("", "", (), ""), source, value, np.ones(value.shape))

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest value, but for infinite ones."""
        finite = self.value[np.isfinite(self.value)].astype(np.float64)
        return float(finite.min(initial=0.0)), float(finite.max(initial=0.0))

    def through(self, op: Op, function: str, parameters: Mapping[str, Any]) -> Curve:
        """Behind a unary function; a parameter may be an array, one number for each channel."""
        given = {k: _along(np.asarray(v, np.float64)) if np.ndim(v) else v for k, v in parameters.items()}
        value, slope = evaluate(function, self.value, **given)
        with np.errstate(invalid="ignore"):
            slope = self.slope * slope
        return replace(self, op=op, value=value, slope=slope, origins=(*self.origins, op.origin))

    def joined(self, op: Op, other: Curve) -> Curve:
        """Sum, difference, product or quotient of two functions of one tensor."""
        a, b = self, other
        with np.errstate(all="ignore"):
            if op.flag("minus"):
                value, slope = a.value - b.value, a.slope - b.slope
            elif op.kind == "add_f":
                value, slope = a.value + b.value, a.slope + b.slope
            elif op.kind == "quotient_f":
                value = a.value / b.value
                slope = (a.slope - value * b.slope) / b.value
            else:
                value, slope = a.value * b.value, a.slope * b.value + b.slope * a.value
        return replace(a, op=op, value=value, slope=slope, origins=(*a.origins, *b.origins, op.origin))


def _along(c: Array) -> Array:
    """One number for each channel, beside the 256 values; one number where all are equal."""
    return c[:, None] if (c != c[0]).any() else c[:1]


def roots_of(graph: Graph) -> dict[str, str]:
    """For every real value the one it is a function of, element by element: what a dequantize reads, or a value that is none."""
    roots: dict[str, str] = {}
    for op in graph.ops:
        own = {roots.get(v, v) for v in op.inputs}
        follows = (
            op.kind in ("dequantize", "unary_f", "clip_f", "mul_f", "addc_f", "add_f", "product_f", "quotient_f")
            and len(own) == 1
        )
        roots[op.output] = own.pop() if follows else op.output
    return roots


def table_of(curve: Curve, t: TensorType) -> dict[str, Array]:
    """The constants of the table that stores the curve as ``t``, as QuantizeLinear does.

    Raises:
        FactorError: the curve is not a number somewhere.
    """
    if np.isnan(curve.value).any():
        where = int(np.argmax(np.isnan(curve.value).reshape(-1, 256).any(axis=0)))
        raise FactorError(f"{curve.op.origin!r} is not a number at value {where} of the 256 its input may have")
    low, high = type_range(t.dtype)
    with np.errstate(over="ignore"):
        steps = np.rint(curve.value / np.float32(t.scale)).astype(np.float64)
    table = np.clip(steps + t.zero, low, high).astype(np.int16)
    slope = np.nan_to_num(np.broadcast_to(curve.slope, table.shape), nan=0.0, posinf=0.0, neginf=0.0)  # no slope at a pole
    return {"table": table, "slope": np.ascontiguousarray(slope)}
