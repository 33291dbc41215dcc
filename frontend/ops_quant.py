"""QuantizeLinear, DequantizeLinear, and nodes whose inputs are all constants (folded here)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx.reference
from onnx import NodeProto, helper

from sasimc.frontend.state import Act, Importer, QConst, Unsupported, handles, tensor_array
from sasimc.ir.graph import TensorType

__all__ = ["fold"]

Array = npt.NDArray[Any]

# Operators on shapes and weights that may be computed at compile time; any other on constants is an unsupported node.
_FOLDABLE = frozenset({  # none of them makes more elements than it reads, but for those whose result is measured before (`_evaluate`)
    "Abs", "Add", "And", "ArgMax", "ArgMin", "Cast", "Ceil", "Clip", "Concat", "ConstantOfShape", "Conv", "Cos", "CumSum", "Div", "Equal", "Erf", "Exp",
    "Expand", "Flatten", "Floor", "Gather", "GatherElements", "Gemm", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Log", "MatMul", "Max",
    "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Range", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "Relu", "Reshape", "Round", "ScatterElements", "ScatterND", "Shape", "Sigmoid", "Sign", "Sin", "Slice", "Softmax", "Sqrt",
    "Squeeze", "Sub", "Tanh", "Transpose", "Trilu", "Unsqueeze", "Where",
})  # fmt: skip
MAX_FOLDED = 2**28


@handles("QuantizeLinear")
def quantize_linear(imp: Importer, node: NodeProto) -> None:
    act = imp.act(node, 0)
    _no_blocks(imp, node)
    t = imp.type(act)
    if t.dtype != "f32":
        raise Unsupported("quantises a tensor that is quantised already", "remove the node")
    x, by = act.value, _by_channel(imp, node, act, _default_dtype(imp, node))
    if by is not None:
        x = imp.emit(node, "mul_f", [x], f"{node.output[0]}:even", t, {}, {"c": 1 / by}, ":even")
    scale, zero, dtype = imp.scale_zero(node, 1, 2, _default_dtype(imp, node), by_channel=True)
    out = imp.emit(node, "quantize", [x], node.output[0], TensorType(dtype, t.shape, scale, zero, t.layout))
    imp.bind(node, act, out)


@handles("DequantizeLinear")
def dequantize_linear(imp: Importer, node: NodeProto) -> None:
    act = imp.act(node, 0)
    _no_blocks(imp, node)
    t = imp.type(act)
    if t.dtype == "f32":
        raise Unsupported("dequantises a float tensor", "remove the node")
    default = "uint8" if t.dtype == "u8" else "int8"
    by = _by_channel(imp, node, act, default)
    scale, zero, dtype = imp.scale_zero(node, 1, 2, default, by_channel=True)
    act = imp.typed(act, scale, zero, dtype)
    real = TensorType("f32", t.shape, layout=t.layout)
    out = imp.emit(node, "dequantize", [act.value], f"{node.output[0]}:even" if by is not None else node.output[0], real)
    if by is not None:
        out = imp.emit(node, "mul_f", [out], node.output[0], real, {}, {"c": by}, ":by channel")
    imp.bind(node, act, out)


def _by_channel(imp: Importer, node: NodeProto, act: Act, default: str) -> Array | None:
    """What each stored channel's scale is to the largest, which stands for all (:meth:`Importer.scale_zero`); None for one scale."""
    scale, _ = imp.scales(node, 1, 2, np.dtype(default))
    if scale.size == 1:
        return None
    rank = len(imp.dims(act))
    axis = _axis(imp, node, rank, scale)
    return imp.channels(act, (scale / scale.max()).reshape([-1 if i == axis else 1 for i in range(rank)]))


def _no_blocks(imp: Importer, node: NodeProto) -> None:
    if imp.attrs(node).get("block_size", 0):
        raise Unsupported("blocked quantisation", "quantise per tensor or per channel")


def _default_dtype(imp: Importer, node: NodeProto) -> str:
    code = imp.attrs(node).get("output_dtype", 0)
    return str(helper.tensor_dtype_to_np_dtype(code)) if code else "uint8"


# -- constants ----------------------------------------------------------------------------------------------------------


def fold(imp: Importer, node: NodeProto) -> bool:
    """Compute a node whose inputs are constants (or a Shape of an activation). False when the node is not of that kind."""
    if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
        imp.consts[node.output[0]] = _constant(imp, node)
        return True
    if node.op_type == "Shape" and node.input[0] in imp.acts:
        attrs, dims = imp.attrs(node), imp.dims(imp.acts[node.input[0]])
        imp.consts[node.output[0]] = np.array(dims[attrs.get("start", 0) : attrs.get("end")], np.int64)
        return True
    inputs = [i for i in node.input if i]
    if not inputs or any(i not in imp.consts for i in inputs) or node.domain not in ("", "ai.onnx"):
        return False
    for out in node.output:  # a parameter keeps its initialiser's name through the nodes that only dress it
        imp.params.setdefault(out, imp.params.get(inputs[0], inputs[0]))
    if node.op_type == "DequantizeLinear":
        imp.consts[node.output[0]] = _dequantize(imp, node)
    elif node.op_type == "QuantizeLinear":
        imp.consts[node.output[0]] = _quantize(imp, node)
    elif isinstance(first := imp.consts[inputs[0]], QConst) and node.op_type in ("Transpose", "Identity", "Reshape", "Flatten"):
        imp.consts[node.output[0]] = _move(imp, node, first)
    elif node.op_type in _FOLDABLE:
        values = [c.real().astype(np.float32) if isinstance(c := imp.consts[i], QConst) else c for i in inputs]
        imp.consts[node.output[0]] = _evaluate(imp, node, dict(zip(inputs, values, strict=True)))
    else:
        imp.poisoned.update(filter(None, node.output))
        raise Unsupported("constant expression that is not computed at compile time", "fold constants before the import")
    return True


def _constant(imp: Importer, node: NodeProto) -> Array:
    for name, value in imp.attrs(node).items():
        if name == "value":
            return tensor_array(value)
        if name in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
    raise Unsupported("constant that is neither numbers nor a tensor")


def _evaluate(imp: Importer, node: NodeProto, feeds: dict[str, Array]) -> Array:
    size = float(sum(a.size for a in feeds.values()))
    if node.op_type in ("Expand", "ConstantOfShape"):
        size = max(size, math.prod(float(v) for v in feeds[node.input[-1]].ravel()))
    elif node.op_type == "Range":
        size = _range_size(feeds, node)
    elif node.op_type in ("Conv", "Gemm", "MatMul"):
        a, b = feeds[node.input[0]], feeds[node.input[1]]
        shared = a.shape[1:2] if node.op_type == "Conv" else a.shape
        size = a.size * float(b.size) / max(1, min(shared, default=1))  # of products, at most
    if not size <= MAX_FOLDED:
        raise Unsupported(f"constant expression of {size:.3g} elements or products", "check the shapes in the file")
    inputs = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()]
    outputs = [helper.make_empty_tensor_value_info(node.output[0])]
    graph = helper.make_graph([node], "fold", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", imp.opset)])
    try:
        with np.errstate(all="ignore"):
            results: list[Any] = onnx.reference.ReferenceEvaluator(model).run(None, feeds)  # type: ignore[assignment]
            return np.asarray(results[0])
    except Exception as e:
        raise Unsupported(f"constant expression cannot be computed ({' '.join(str(e).split())[:120]})") from e


def _range_size(feeds: dict[str, Array], node: NodeProto) -> float:
    start, limit, delta = (float(feeds[i].ravel()[0]) for i in node.input)
    return abs((limit - start) / delta) if delta else math.inf


def _axis(imp: Importer, node: NodeProto, rank: int, scale: Array) -> int:
    """Quantisation axis of a constant, checked against the scale's shape."""
    axis = imp.attrs(node).get("axis", 1)
    if scale.size == 1:
        return 0
    axis = axis + rank if axis < 0 else axis
    if scale.ndim != 1 or not 0 <= axis < rank:
        raise Unsupported(f"scale of shape {scale.shape} for a tensor of rank {rank}", "quantise per tensor or per channel")
    return axis


def _dequantize(imp: Importer, node: NodeProto) -> QConst:
    _no_blocks(imp, node)
    q = imp.const(node, 0, "tensor")
    if isinstance(q, QConst) or q.dtype not in (np.int8, np.uint8, np.int32):
        kind = "float" if isinstance(q, QConst) else q.dtype
        raise Unsupported(f"dequantises a constant of type {kind}", "store weights as int8 or uint8, biases as int32")
    scale, zero = imp.scales(node, 1, 2, q.dtype)
    axis = _axis(imp, node, q.ndim, scale)
    if scale.size == 1:
        return QConst(q, scale.reshape(()), zero.reshape(()) if zero.size == 1 else zero, 0)
    if scale.size != q.shape[axis] or zero.shape != scale.shape:
        raise Unsupported(
            f"{scale.size} scales and {zero.size} zero points for axis {axis} of {q.shape}", "one of each per channel"
        )
    return QConst(q, scale, zero, axis)


def _quantize(imp: Importer, node: NodeProto) -> Array:
    x = imp.real(node, 0, "tensor")
    scale, zero = imp.scales(node, 1, 2, np.dtype(_default_dtype(imp, node)))
    if zero.dtype not in (np.int8, np.uint8, np.int32):
        raise Unsupported(f"quantises a constant to {zero.dtype}", "quantise weights to int8")
    along = [1] * x.ndim
    if scale.size > 1:
        along[_axis(imp, node, x.ndim, scale)] = -1
    info = np.iinfo(zero.dtype)
    # float32 division, as the operator is defined
    ratio = x.astype(np.float32) / scale.reshape(along if scale.size > 1 else ()).astype(np.float32)
    q = np.rint(ratio).astype(np.float64) + zero.reshape(along if zero.size > 1 else ())
    return np.clip(q, info.min, info.max).astype(zero.dtype)


def _move(imp: Importer, node: NodeProto, c: QConst) -> QConst:
    if node.op_type == "Identity":
        return c
    if node.op_type == "Transpose":
        perm = imp.attrs(node).get("perm") or list(range(c.q.ndim))[::-1]
        return QConst(c.q.transpose(perm), c.scale, c.zero, list(perm).index(c.axis) if c.scale.ndim else 0)
    q = _evaluate(imp, node, {node.input[0]: c.q, **{i: np.asarray(imp.consts[i]) for i in node.input[1:]}})
    if c.scale.ndim == 0:
        return QConst(q, c.scale, c.zero)
    if q.ndim > 0 and q.shape[0] == c.q.shape[0] and c.axis == 0:
        return QConst(q, c.scale, c.zero, 0)
    raise Unsupported(
        "reshapes a per-channel quantised constant across its channel axis", "store the weights in their final shape"
    )
