"""Element by element: Add, Sub, Mul, Div, BatchNormalization, Relu, Clip, Min, Max, and operators that change nothing."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto

from sasimc.frontend.ops_attention import constant
from sasimc.frontend.ops_linear import requantize
from sasimc.frontend.state import Act, Const, Importer, QConst, Unsupported, Varies, handles, type_name
from sasimc.ir.graph import Shape, TensorType
from sasimc.ir.layout import Layout

__all__: list[str] = []

Real = npt.NDArray[np.float64]


@handles("Add", "Sub")
def add(imp: Importer, node: NodeProto) -> None:
    _binary(imp, node, node.op_type, node.output[0])


@handles("Mul", "Div")
def mul(imp: Importer, node: NodeProto) -> None:
    _binary(imp, node, node.op_type, node.output[0])


def _binary(imp: Importer, node: NodeProto, operator: str, out: str) -> None:
    left, right = imp.is_const(node, 0), imp.is_const(node, 1)
    if not left and not right:
        _of_two(imp, node, operator, imp.floats(node, 0), imp.floats(node, 1), out)
        return
    if left and right:
        raise Unsupported("both operands are constants", "fold constants before the import")
    act = imp.floats(node, 1 if left else 0)
    given = imp.const(node, 0 if left else 1, "constant")
    try:
        c = imp.channels(act, imp.real(node, 0 if left else 1, "constant"))
    except Varies:
        _with_tensor(imp, node, operator, act, given, left, out)
        return
    _with_constant(imp, node, operator, act, act.value, c, left, out)


def _with_tensor(imp: Importer, node: NodeProto, operator: str, act: Act, c: Const, left: bool, out: str) -> None:
    """As :func:`_with_constant` where the constant has a number of its own at every position."""
    if operator == "Div" and not left:
        c = c.real() if isinstance(c, QConst) else np.asarray(c, np.float64)
        if (c == 0).any():
            raise Unsupported("divides by zero", "only division by non-zero constants is supported")
        operator, c = "Mul", 1.0 / c
    tensor = replace(act, value=constant(imp, node, c, imp.type(act).shape, imp.layout(act), act.batch, "c"))
    _of_two(imp, node, operator, *((tensor, act) if left else (act, tensor)), out)


_KINDS = {"Add": "add_f", "Sub": "add_f", "Mul": "product_f", "Div": "quotient_f"}


def _of_two(imp: Importer, node: NodeProto, operator: str, a: Act, b: Act, out: str) -> None:
    """An operator on two activations, either of which may have one element along an axis where the other has many."""
    if operator == "Mul" and math.prod(imp.dims(a)) < math.prod(imp.dims(b)):
        a, b = b, a
    a, b = (v if imp.type(v).dtype == "f32" else Act(imp.dequantized(node, v, tag), v.batch) for v, tag in ((a, "a"), (b, "b")))
    a, b, t = _side_by_side(imp, node, operator, a, b)
    a = _spread(imp, node, a, t)
    if operator in ("Add", "Sub"):  # the second factor of a product, and a divisor, may stay short
        b = _spread(imp, node, b, t)
    imp.emit(node, _KINDS[operator], [a.value, b.value], out, t, {"minus": True} if operator == "Sub" else {})
    imp.bind(node, a, out)


def _side_by_side(imp: Importer, node: NodeProto, operator: str, a: Act, b: Act) -> tuple[Act, Act, TensorType]:
    """Two activations stored so that their axes fit, and the type of real values that has every axis of both."""
    if imp.layout(a) == imp.layout(b):
        b = imp.as_shape(node, b, imp.type(a).shape)
    if a.batch == b.batch:
        for sa, sb in itertools.product(_shapes(imp.type(a).shape), _shapes(imp.type(b).shape)):
            if (t := _union(imp.layout(a), sa, imp.layout(b), sb)) is not None:
                return imp.as_shape(node, a, sa), imp.as_shape(node, b, sb), t
    words = {"Add": "adds", "Sub": "subtracts", "Mul": "multiplies", "Div": "divides"}
    laid = [imp.layout(v).text(imp.type(v).shape) for v in (a, b)]
    raise Unsupported(
        f"{words[operator]} {list(imp.dims(a))} and {list(imp.dims(b))}, laid out {laid[0]!r} and {laid[1]!r}",
        "along each axis both sides must have the same elements in the same order, or one of them a single one",
    )


def _shapes(shape: Shape) -> list[Shape]:
    """The ways to store rows of pixels: one row, or one column, has the same elements in the same order."""
    h, w, c = shape
    return [shape, (w, h, c)] if 1 in (h, w) and h != w else [shape]


def _union(left: Layout, a: Shape, right: Layout, b: Shape) -> TensorType | None:
    """Real values with every axis of both sides, stored as ``a`` and ``b``; None where they do not fit."""
    ours, theirs = left.parts(a), right.parts(b)
    if (
        ours is None
        or theirs is None
        or len(ours) != len(theirs)
        or any(m != n and 1 not in (m, n) for m, n in zip(a, b, strict=True))
    ):
        return None
    if any(p and q and p != q for p, q in zip(ours, theirs, strict=True)):
        return None
    h, w, c = (max(pair) for pair in zip(a, b, strict=True))
    base = {"H": w * c, "W": c, "C": 1}
    layout = Layout.of([[(n, step * base[name]) for name, n, step in p or q] for p, q in zip(ours, theirs, strict=True)])
    return TensorType("f32", (h, w, c), layout=layout) if layout.covers(h * w * c) else None


def _spread(imp: Importer, node: NodeProto, act: Act, t: TensorType) -> Act:
    """The activation as ``t``: what is single along an axis stands for all, which a nearest resize writes. Channels are columns meanwhile."""
    (h, w, c), (rows, cols, channels) = imp.type(act).shape, t.shape
    if (h, w, c) == t.shape:
        return act
    wide = (rows, cols * channels // c, c)
    x, base = act.value, f"{node.output[0]}:{act.value}"
    for kind, form, attrs in (
        ("reshape", TensorType("f32", (h, w, c), layout=Layout.planes((h, w, c))), {}),
        ("resize_f", TensorType("f32", wide, layout=Layout.planes(wide)), {"mode": "nearest"}),
        ("reshape", t, {}),
    ):
        x = imp.emit(node, kind, [x], imp.fresh(base), form, attrs, suffix=":spread")
    return Act(x, act.batch)


def _real(imp: Importer, act: Act) -> TensorType:
    """The type of real values where ``act`` has its elements."""
    t = imp.type(act)
    return TensorType("f32", t.shape, layout=t.layout)


def _with_constant(imp: Importer, node: NodeProto, operator: str, act: Act, x: str, c: Real, left: bool, out: str) -> None:
    """One of c + x, x - c, c - x, c x, x / c, c / x."""
    t = _real(imp, act)
    if operator == "Sub" and left:
        x = imp.emit(node, "mul_f", [x], f"{out}:neg", t, {}, {"c": np.full(c.shape, -1.0)}, ":neg")
    if operator == "Div" and left:
        x = imp.emit(node, "unary_f", [x], f"{out}:inverse", t, {"function": "Reciprocal"}, suffix=":inverse")
    elif operator == "Div":
        if (c == 0).any():
            raise Unsupported("divides by zero", "repair the initialiser")
        with np.errstate(over="ignore"):
            c = 1.0 / c
    if operator == "Sub" and not left:
        c = -c
    if not np.isfinite(c).all():
        raise Unsupported("constant overflows", "repair the initialiser")
    imp.emit(node, "addc_f" if operator in ("Add", "Sub") else "mul_f", [x], out, t, {}, {"c": c})
    imp.bind(node, act, out)


@handles("com.microsoft.QLinearAdd", "com.microsoft.QLinearMul")
def qlinear_binary(imp: Importer, node: NodeProto) -> None:
    operator = node.op_type.removeprefix("QLinear")
    out = f"{node.output[0]}:f"
    sides: list[Act | Real] = []
    for index in (0, 3):
        if imp.is_const(node, index):
            q = imp.const(node, index, "constant")
            if isinstance(q, QConst) or q.dtype not in (np.int8, np.uint8):
                raise Unsupported("constant operand is not int8 or uint8")
            scale, zero = imp.scales(node, index + 1, index + 2, q.dtype)
            if scale.size != 1:
                raise Unsupported("constant operand is quantised per channel", "quantise it per tensor")
            sides.append(QConst(q, scale.reshape(()), zero.reshape(())).real())
        else:
            sides.append(imp.typed(imp.act(node, index), *imp.scale_zero(node, index + 1, index + 2)))
    a, b = sides
    if isinstance(a, Act) and isinstance(b, Act):
        _of_two(imp, node, operator, a, b, out)
    else:
        act, c = (a, b) if isinstance(a, Act) else (b, a)
        assert isinstance(act, Act)
        assert not isinstance(c, Act)
        _with_constant(imp, node, operator, act, imp.dequantized(node, act, "x"), imp.channels(act, c), False, out)
    requantize(imp, node, imp.acts[node.output[0]], *imp.scale_zero(node, 6, 7))


@handles("BatchNormalization")
def batch_normalization(imp: Importer, node: NodeProto) -> None:
    attrs, act = imp.attrs(node), imp.floats(node, 0)
    if attrs.get("training_mode", 0):
        raise Unsupported("training_mode = 1", "export the network in evaluation mode")
    gamma, beta, mean, var = (imp.real(node, i, w).ravel() for i, w in enumerate(("scale", "bias", "mean", "variance"), 1))
    dims = imp.dims(act)
    if len(dims) < 2 or act.batch or not gamma.size == beta.size == mean.size == var.size == dims[1]:
        raise Unsupported(f"parameters of {gamma.size} channels do not fit axis 1 of {list(dims)}")
    eps = attrs.get("epsilon", 1e-5)
    if (var + eps <= 0).any():
        raise Unsupported("variance is not positive", "repair the initialiser")
    scale = gamma / np.sqrt(var + eps)
    scale, shift = (imp.channels(act, v.reshape(-1, *[1] * (len(dims) - 2))) for v in (scale, beta - scale * mean))
    x = imp.emit(node, "mul_f", [act.value], f"{node.output[0]}:scaled", _real(imp, act), {}, {"c": scale}, ":scale")
    imp.bind(node, act, imp.emit(node, "addc_f", [x], node.output[0], _real(imp, act), {}, {"c": shift}, ":shift"))


# -- activations --------------------------------------------------------------------------------------------------------


def _clip(imp: Importer, node: NodeProto, act: Act, lo: float, hi: float) -> None:
    """Clip real or stored values; bounds are in the units of the input."""
    t, out = imp.type(act), node.output[0]
    if math.isnan(lo) or math.isnan(hi) or lo > hi:
        raise Unsupported(f"clips to [{lo:g}, {hi:g}]", "the lower bound must not exceed the upper one")
    if t.dtype == "f32":
        imp.bind(node, act, imp.emit(node, "clip_f", [act.value], out, t, {"lo": float(lo), "hi": float(hi)}))
        return
    real = {"lo": t.scale * (lo - t.zero), "hi": t.scale * (hi - t.zero)}
    x = imp.dequantized(node, act, "x")
    imp.emit(node, "clip_f", [x], f"{out}:f", _real(imp, act), real)
    imp.bind(node, act, f"{out}:f")
    requantize(imp, node, imp.acts[out], t.scale, t.zero, t.dtype)


@handles("Relu")
def relu(imp: Importer, node: NodeProto) -> None:
    _clip(imp, node, imp.act(node, 0), 0.0, math.inf)


@handles("Clip")
def clip(imp: Importer, node: NodeProto) -> None:
    _clip(imp, node, imp.act(node, 0), _bound(imp, node, 1, -math.inf), _bound(imp, node, 2, math.inf))


def _bound(imp: Importer, node: NodeProto, index: int, default: float) -> float:
    if not imp.has(node, index):
        return default
    c = imp.const(node, index, "bound")
    value = np.ravel(c.real() if isinstance(c, QConst) else c)
    if value.size != 1:
        raise Unsupported("bound is not one number", "clip with scalars")
    return float(value[0])


@handles("Min", "Max")
def min_max(imp: Importer, node: NodeProto) -> None:
    if len(node.input) != 2 or imp.is_const(node, 0) == imp.is_const(node, 1):
        raise Unsupported(f"{node.op_type} of several activations", "only the bound of a clip (one constant) is supported")
    c = 0 if imp.is_const(node, 0) else 1
    bound = _bound(imp, node, c, 0.0)
    lo, hi = (bound, math.inf) if node.op_type == "Max" else (-math.inf, bound)
    _clip(imp, node, imp.act(node, 1 - c), lo, hi)


# -- operators that change nothing ----------------------------------------------------------------------------------------


@handles("Identity")
def identity(imp: Importer, node: NodeProto) -> None:
    imp.bind(node, imp.act(node, 0))


@handles("Dropout")
def dropout(imp: Importer, node: NodeProto) -> None:
    if imp.has(node, 2) and bool(np.any(imp.real(node, 2, "training_mode"))):
        raise Unsupported("training_mode is on", "export the network in evaluation mode")
    if len([o for o in node.output if o]) > 1:
        raise Unsupported("the mask output is used", "export the network in evaluation mode")
    imp.bind(node, imp.act(node, 0))


@handles("Cast")
def cast(imp: Importer, node: NodeProto) -> None:
    act, to = imp.act(node, 0), int(_attribute(imp.attrs(node), "to"))
    t = imp.type(act)
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
    same = {"f32": floats, "u8": (TensorProto.UINT8,), "i8": (TensorProto.INT8,), "i32": (TensorProto.INT32, TensorProto.INT64)}
    if to not in same[t.dtype]:
        raise Unsupported(f"casts {t.dtype} to {type_name(to)}", "use QuantizeLinear / DequantizeLinear")
    imp.bind(node, act)


def _attribute(attrs: dict[str, Any], name: str) -> Any:
    if name not in attrs:
        raise Unsupported(f"attribute {name!r} is missing")
    return attrs[name]
