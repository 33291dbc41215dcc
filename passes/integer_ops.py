"""Integer operations for real ones whose input and output quantisation is known (docs/reference/numerics.md, Forward).

Each function returns the operation and its constant arrays by role; :class:`FactorError` where no integers can carry it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.ir.attention import EXP_ONE, LOG2_NORM, LOG2_SHARE
from sasimc.ir.graph import Attr, Graph, Op, TensorType, type_range
from sasimc.passes.factors import FactorError, add_factors, factor, factors

__all__ = [
    "BIAS_TOLERANCE", "add", "avgpool", "conv", "halves", "layer_norm", "matmul", "mul", "narrow", "reciprocal", "rescale", "resize", "softmax", "whole_range",
]  # fmt: skip

Array = npt.NDArray[Any]
Lowered = tuple[Op, dict[str, Array]]
BIAS_TOLERANCE = 1e-5  # an int32 bias is used as it stands if its scale is s_x s_w up to float32 rounding
UNIT = 64  # weight of the identity in an affine 1 x 1 convolution


def add(base: Op, a: TensorType, b: TensorType, out: TensorType, minus: bool = False) -> Lowered:
    """Sum, or difference, of two tensors."""
    ma, mb, shift = add_factors(a.scale / out.scale, (-b.scale if minus else b.scale) / out.scale)
    return base.with_attrs(ma=ma, mb=mb, shift=shift), {}


def mul(base: Op, a: TensorType, b: TensorType, out: TensorType) -> Lowered:
    """Product of two tensors."""
    mult, shift = factor(a.scale * b.scale / out.scale)
    return base.with_attrs(mult=mult, shift=shift), {}


def reciprocal(
    y: TensorType, ends: tuple[int, int]
) -> tuple[tuple[TensorType, dict[str, Array]], tuple[TensorType, dict[str, Array]]]:
    """1 / y as two tables, the second of what the first leaves; both have the sign of y. Type and constants of each; ``ends``: y is between these. At
    zero, where no quotient is, stands the largest."""
    low, high = type_range(y.dtype)
    real = y.scale * (np.clip(np.arange(low, high + 1), *ends) - y.zero)
    inverse = 1 / np.where(real == 0, y.scale, real)
    (first, table), (second, rest) = halves(inverse)
    slopes = (np.where(real == 0, 0.0, -(inverse**2)), np.zeros(len(real)))
    (a, b) = ({"table": t.astype(np.int16), "slope": s} for t, s in zip((table, rest), slopes, strict=True))
    return (first, a), (second, b)


def halves(real: Array) -> tuple[tuple[TensorType, Array], tuple[TensorType, Array]]:
    """Real numbers in 16 bits: type and integers of the first half, and of what it leaves; both have the number's sign."""
    dtype, steps = ("u8", 255) if (real >= 0).all() else ("i8", 127)
    first = TensorType(dtype, (1, 1, 1), float(np.abs(real).max()) / steps)
    ints = np.trunc(real / first.scale + np.sign(real) * 1e-9)
    second = TensorType(dtype, (1, 1, 1), first.scale / steps)
    return (first, ints), (second, np.clip(np.rint((real - ints * first.scale) / second.scale), *type_range(dtype)))


def whole_range(x: TensorType, y: TensorType) -> TensorType:
    """A type that holds every product of what ``x`` and ``y`` hold."""
    top = [max(abs(t.scale * (q - t.zero)) for q in type_range(t.dtype)) for t in (x, y)]
    return TensorType("i8", (1, 1, 1), top[0] * top[1] / 127)


def softmax(base: Op, x: TensorType, out: TensorType) -> Lowered:
    """Softmax over the channels."""
    mult, shift = factor(math.ldexp(1 / out.scale, -LOG2_SHARE))
    exp = np.rint(EXP_ONE * np.exp(-x.scale * np.arange(256.0))).astype(np.int32)
    return base.with_attrs(mult=mult, shift=shift), {"exp": exp}


def layer_norm(graph: Graph, base: Op, real: Op, x: TensorType, out: TensorType) -> Lowered:
    """Layer norm over the channels; ``bias`` in 256ths of a step."""
    eps = x.shape[2] ** 2 * real.float_attr("eps") / x.scale**2
    up = next((up for up in range(32) if round(math.ldexp(eps, -up)) < 2**31), None)
    if up is None:
        raise FactorError(f"epsilon of {real.origin!r} is {eps:.3g} times the square of its input's step, too much")
    mult, shift = factors(graph.constant(real, "scale") * math.ldexp(1 / out.scale, 8 - LOG2_NORM))
    bias = _to_int(graph.constant(real, "bias") * 256 / out.scale, real.origin)
    return base.with_attrs(eps=round(math.ldexp(eps, -up)), up=up), {"mult": mult, "shift": shift, "bias": bias.astype(np.int32)}


def matmul(base: Op, real: Op, a: TensorType, b: TensorType, out: TensorType) -> Lowered:
    """Products of two matrices."""
    mult, shift = factor(a.scale * b.scale / out.scale)
    return base.with_attrs(**{k: real.attrs[k] for k in ("sizes", "a", "b", "y")}, mult=mult, shift=shift), {}


def avgpool(base: Op, real: Op, x: TensorType, out: TensorType) -> Lowered:
    """Average pool with the window of ``real``."""
    kh, kw = real.ints("kernel")
    mult, shift = factor(x.scale / (kh * kw * out.scale))
    window: dict[str, Attr] = {k: real.attrs[k] for k in ("kernel", "stride", "pads", "global")}
    return base.with_attrs(**window, mult=mult, shift=shift, bias=-kh * kw * x.zero), {}


def resize(base: Op, mode: str, x: TensorType, out: TensorType) -> Lowered:
    """Nearest or linear resize."""
    n = 16 if mode == "linear" else 1
    mult, shift = factor(x.scale / (n * out.scale))
    return base.with_attrs(mode=mode, mult=mult, shift=shift, bias=-n * x.zero), {}


def conv(
    graph: Graph, base: Op, real: Op, x: TensorType, out: TensorType, gain: Array | None = None, scale: Array | None = None
) -> Lowered:
    """Convolution, Gemm or MatMul; ``gain`` of each output channel's products, and ``scale`` of the whole result, bias included."""
    weight, wscale = graph.constant(real, "weight"), graph.constant(real, "wscale")
    wscale = wscale if gain is None else wscale * gain
    by = wscale if scale is None else wscale * scale
    mult, shift = factors(x.scale * by / out.scale)
    bias = _shifted(_bias(graph, real, x.scale * wscale), x.zero, weight)
    geometry: dict[str, Attr] = {k: real.attrs[k] for k in ("kernel", "stride", "pads", "dilation", "groups")}
    geometry["depthwise"] = real.int_attr("groups") == x.shape[2] > 1
    geometry |= {k: real.attrs[k] for k in ("param", "asymmetric") if k in real.attrs}
    consts = {"weight": weight, "bias": bias, "mult": mult, "shift": shift, "wscale": by}
    return base.with_attrs(**geometry, trainable=False, head=False), consts


def rescale(base: Op, x: TensorType, out: TensorType, scale: Array | None, offset: Array | None) -> Lowered:
    """scale * real + offset per channel: a rescale, or with an offset a 1 x 1 depth-wise convolution."""
    channels = x.shape[2]
    by = np.ones(channels) if scale is None else np.asarray(scale, np.float64)
    if offset is not None and offset.any():
        return _affine(base, x, out, by, offset)
    mult, shift = factors(by * x.scale / out.scale)
    return base, {"mult": mult, "shift": shift, "bias": np.full(channels, -x.zero, np.int32), "cscale": by}


def _affine(base: Op, x: TensorType, out: TensorType, scale: Array, offset: Array) -> Lowered:
    """c x + d as a 1 x 1 depth-wise convolution with weights +-UNIT, so that d keeps log2(UNIT) more bits than x has."""
    channels = x.shape[2]
    # a channel times zero is its constant, at the finest scale the output can show
    size = np.where(scale == 0, out.scale / x.scale, np.abs(scale)) / UNIT
    weight = (np.sign(scale) * UNIT).astype(np.int8).reshape(1, 1, 1, channels)
    mult, shift = factors(x.scale * size / out.scale)
    bias = _shifted(_to_int(offset / (x.scale * size), base.origin), x.zero, weight)
    geometry: dict[str, Attr] = {
        "kernel": (1, 1), "stride": (1, 1), "pads": (0, 0, 0, 0), "dilation": (1, 1),
        "groups": channels, "depthwise": channels > 1, "trainable": False, "head": False,
    }  # fmt: skip
    consts = {"weight": weight, "bias": bias, "mult": mult, "shift": shift, "wscale": size}
    return replace(base, kind="conv").with_attrs(**geometry), consts


def _bias(graph: Graph, real: Op, scale: Array) -> npt.NDArray[np.int64]:
    """The bias in units of s_x s_w."""
    if "bias_q" in real.consts:
        q, s = graph.constant(real, "bias_q"), graph.constant(real, "bias_scale")
        if np.abs(s / scale - 1).max(initial=0) < BIAS_TOLERANCE:
            return q.astype(np.int64)
        return _to_int(q * (s / scale), real.origin)
    if "bias" in real.consts:
        return _to_int(graph.constant(real, "bias") / scale, real.origin)
    return np.zeros(scale.shape, np.int64)


def _shifted(bias: npt.NDArray[np.int64], zero: int, weight: Array) -> npt.NDArray[np.signedinteger[Any]]:
    """b' = b - z_x sum w."""
    return narrow(bias - zero * weight.astype(np.int64).sum(axis=(0, 1, 2)))


def narrow(bias: npt.NDArray[np.int64]) -> npt.NDArray[np.signedinteger[Any]]:
    """A bias in 32 bits, if it fits."""
    return bias.astype(np.int32) if np.abs(bias).max(initial=0) < 2**31 else bias


def _to_int(values: Array, origin: str) -> npt.NDArray[np.int64]:
    beyond = ~(np.isfinite(values) & (np.abs(values) < 2**31))
    if beyond.any():
        raise _too_large(origin, int(np.argmax(beyond)))
    return np.rint(values).astype(np.int64)


def _too_large(origin: str, channel: int) -> FactorError:
    return FactorError(
        f"bias of {origin!r}, output channel {channel}, needs more than 32 bits at the scale of its input and weights: give this channel a "
        "larger weight scale"
    )
