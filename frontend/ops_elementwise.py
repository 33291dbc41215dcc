"""Element by element: Add, Sub, Mul, Div, BatchNormalization, Relu, Clip, Min, Max, and operators that change nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto

from sasimc.frontend.ops_linear import requantize
from sasimc.frontend.state import Act, Importer, QConst, Unsupported, handles, type_name
from sasimc.ir.graph import TensorType

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
        a, b = imp.floats(node, 0), imp.floats(node, 1)
        if operator == "Add":
            _add_acts(imp, node, a, b, out)
        elif operator == "Mul":
            _multiply_acts(imp, node, a, b, out)
        else:
            raise Unsupported(
                f"{operator} of two activations", "only Add and Mul combine two activations; Sub and Div need a constant"
            )
        return
    if left and right:
        raise Unsupported("both operands are constants", "fold constants before the import")
    act = imp.floats(node, 1 if left else 0)
    c = imp.channels(act, imp.real(node, 0 if left else 1, "constant"))
    _with_constant(imp, node, operator, act, act.value, c, left, out)


def _add_acts(imp: Importer, node: NodeProto, a: Act, b: Act, out: str) -> None:
    if imp.layout(a) != imp.layout(b) or a.batch != b.batch:
        laid = [imp.layout(v).text(imp.type(v).shape) for v in (a, b)]
        raise Unsupported(
            f"adds {list(imp.dims(a))} and {list(imp.dims(b))}, laid out {laid[0]!r} and {laid[1]!r}",
            "both sides must have one shape, flattened and transposed alike",
        )
    b = imp.as_shape(node, b, imp.type(a).shape)
    sides = [v.value if imp.type(v).dtype == "f32" else imp.dequantized(node, v, tag) for v, tag in ((a, "a"), (b, "b"))]
    imp.emit(node, "add_f", sides, out, _real(imp, a))
    imp.bind(node, a, out)


def _multiply_acts(imp: Importer, node: NodeProto, a: Act, b: Act, out: str) -> None:
    """The second factor may have one element where the first has many; they change places if it is the first one."""
    (da, db) = imp.dims(a), imp.dims(b)
    if math.prod(da) < math.prod(db):
        a, b, da, db = b, a, db, da
    ours, theirs = (imp.layout(v).parts(imp.type(v).shape) for v in (a, b))
    fits = len(da) == len(db) and a.batch == b.batch and all(have in (1, want) for have, want in zip(db, da, strict=True))
    if not fits or ours is None or theirs is None or any(p not in ((), q) for p, q in zip(theirs, ours, strict=True)):
        laid = [imp.layout(v).text(imp.type(v).shape) for v in (a, b)]
        raise Unsupported(
            f"multiplies {list(da)} and {list(db)}, laid out {laid[0]!r} and {laid[1]!r}",
            "both sides must be laid out alike, and one of them must have every axis of the other, or 1 there",
        )
    if imp.type(b).size == imp.type(a).size:
        b = imp.as_shape(node, b, imp.type(a).shape)
    sides = [v.value if imp.type(v).dtype == "f32" else imp.dequantized(node, v, tag) for v, tag in ((a, "a"), (b, "b"))]
    imp.emit(node, "product_f", sides, out, _real(imp, a))
    imp.bind(node, a, out)


def _real(imp: Importer, act: Act) -> TensorType:
    """The type of real values where ``act`` has its elements."""
    t = imp.type(act)
    return TensorType("f32", t.shape, layout=t.layout)


def _with_constant(imp: Importer, node: NodeProto, operator: str, act: Act, x: str, c: Real, left: bool, out: str) -> None:
    """One of c + x, x - c, c - x, c x, x / c."""
    t = _real(imp, act)
    if operator == "Sub" and left:
        x = imp.emit(node, "mul_f", [x], f"{out}:neg", t, {}, {"c": np.full(c.shape, -1.0)}, ":neg")
    if operator == "Div":
        if left or (c == 0).any():
            raise Unsupported("divides by an activation or by zero", "only division by non-zero constants is supported")
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
        (_multiply_acts if operator == "Mul" else _add_acts)(imp, node, a, b, out)
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
