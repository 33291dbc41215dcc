"""The inputs of a graph: their types, and in which order their elements are stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sasimc.frontend.state import Act, Finding, Importer, Unsupported, type_name
from sasimc.ir.graph import Shape, TensorType
from sasimc.ir.layout import Factor, Layout

__all__ = ["FLOATS", "INTS", "graph_inputs"]

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
INTS = {TensorProto.UINT8: "u8", TensorProto.INT8: "i8"}
_IN_PLACE = ("QuantizeLinear", "DequantizeLinear", "Identity", "Cast", "Mul", "Add", "Sub", "Div")


def graph_inputs(imp: Importer, model: ModelProto, nodes: Sequence[NodeProto]) -> list[str]:
    """Values of the graph inputs, added to the import. The batch may be symbolic; height, width and channels may not."""
    found: list[str] = []
    read = {name for node in nodes for name in node.input} | {o.name for o in model.graph.output}
    for info in model.graph.input:
        if info.name in imp.consts or info.name in imp.poisoned or (info.name not in read and len(model.graph.input) > 1):
            continue  # old files list initialisers among the inputs
        try:
            batch = imp.batch
            t = _type(imp, info, nodes)
            if found and imp.batch != batch:
                raise Unsupported(f"has a batch of {imp.batch}, {found[0]!r} of {batch}", "give all inputs one batch")
            found.append(imp.add_value(info.name, t))
            imp.acts[info.name] = Act(info.name)
        except Unsupported as e:
            imp.findings.append(Finding(info.name, "input", e.reason, e.rewrite))
            imp.poisoned.add(info.name)
    return found


def _type(imp: Importer, info: Any, nodes: Sequence[NodeProto]) -> TensorType:
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not tensor.HasField("shape"):
        raise Unsupported("has no shape", "export with a fixed input shape (only the batch may be symbolic)")
    dims = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.shape.dim]
    if not 2 <= len(dims) <= 4:
        raise Unsupported(
            f"has rank {len(dims)}", "the input must be N x C x H x W, N x H x W x C, N x C x W, N x T x C, or N x C"
        )
    if any(d <= 0 for d in dims[1:]):
        names = [d.dim_param or d.dim_value for d in tensor.shape.dim]
        raise Unsupported(f"has shape {names}", "fix height, width and channels (only the batch may be symbolic)")
    imp.batch = max(1, dims[0])
    shape, layout = _order(info.name, dims[1:], nodes, imp)
    real = TensorType("f32", shape, layout=layout)
    if tensor.elem_type in FLOATS:
        return real
    if tensor.elem_type in INTS:
        return _quantised(imp, info.name, nodes, INTS[tensor.elem_type], real)
    raise Unsupported(f"has type {type_name(tensor.elem_type)}", "use float, or int8/uint8 with a DequantizeLinear")


def _order(name: str, dims: Sequence[int], nodes: Sequence[NodeProto], imp: Importer) -> tuple[Shape, Layout]:
    """Stored shape and layout: what reads the input behind reshapes and transposes finds channels, height and width in place."""
    rows = Layout.rows(dims)
    at = _seen(name, rows, nodes, imp)
    if len(dims) == 3 and at != rows.transposed((2, 0, 1)):  # N x C x H x W, unless it becomes that at once
        at = rows
    if len(dims) == 2 and at == rows and _by_last_axis(name, nodes):
        return (dims[0], 1, dims[1]), rows
    if len(at.axes) != 3:
        height, width = (1, 1, *dims[1:])[-2:]
        return (height, width, dims[0]), Layout.planes((height, width, dims[0]), len(dims))
    c, h, w = at.dims
    factors: list[tuple[int, Factor]] = []  # place in the input's own order; size and stride in the stored sample
    for axis, base in zip(at.axes, (1, w * c, c), strict=True):
        inner = base
        for size, place in reversed(axis):
            factors.append((place, (size, inner)))
            inner *= size
    layout = Layout.of([[f for _, f in sorted(factors, key=lambda f: -f[0])]]).reshaped(dims)
    return (h, w, c), layout or Layout.planes((h, w, c))


def _by_last_axis(name: str, nodes: Sequence[NodeProto]) -> bool:
    """Whether what reads the input works on its last axis: it holds tokens, N x T x C."""
    names = {name}
    for node in nodes:
        if node.input and node.input[0] in names:
            if node.op_type in ("LayerNormalization", "MatMul", "QLinearMatMul"):
                return True
            names |= set(node.output) if node.op_type in _IN_PLACE else set()
    return False


def _seen(name: str, layout: Layout, nodes: Sequence[NodeProto], imp: Importer) -> Layout:
    """The layout behind the reshapes and transposes that follow first."""
    names = {name}
    for node in nodes:
        if not node.input or not names & set(node.input):
            continue
        if node.op_type in _IN_PLACE:
            names |= set(node.output)
            continue
        made = _moved(node, layout, nodes, imp)
        if made is None:
            return layout
        layout, names = made, set(node.output)
    return layout


def _moved(node: NodeProto, layout: Layout, nodes: Sequence[NodeProto], imp: Importer) -> Layout | None:
    """The layout behind one reshape or transpose that leaves the batch where it is; None for any other operator."""
    dims = layout.dims
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Transpose":
        perm = list(attrs.get("perm", ()))
        return (
            layout.transposed([p - 1 for p in perm[1:]]) if sorted(perm) == list(range(len(dims) + 1)) and perm[0] == 0 else None
        )
    given = _ints(node.input[1], nodes, imp) if len(node.input) > 1 else attrs.get("axes")
    if given is None:
        return None
    if node.op_type == "Reshape" and given[0] in (-1, 0, imp.batch):
        rest = [dims[i] if d == 0 and i < len(dims) else d for i, d in enumerate(given[1:])]
        known = math.prod(d for d in rest if d > 0)
        return layout.reshaped([layout.size // known if d == -1 and known else d for d in rest])
    if node.op_type == "Unsqueeze":
        rank = len(dims) + 1 + len(given)
        places = {a % rank for a in given}
        left = iter(dims)
        return layout.reshaped([1 if i in places else next(left) for i in range(1, rank)]) if 0 not in places else None
    if node.op_type == "Squeeze":
        places = {a % (len(dims) + 1) for a in given}
        return layout.reshaped([d for i, d in enumerate(dims, 1) if i not in places]) if 0 not in places else None
    return None


def _ints(name: str, nodes: Sequence[NodeProto], imp: Importer) -> list[int] | None:
    """A constant of integers, an initialiser or the output of a Constant."""
    found: Any = imp.consts.get(name)
    if found is None:
        made = next((n for n in nodes if name in n.output and n.op_type == "Constant"), None)
        values = {a.name: helper.get_attribute_value(a) for a in made.attribute} if made is not None else {}
        found = numpy_helper.to_array(values["value"]) if "value" in values else values.get("value_ints")
    return [int(v) for v in np.ravel(found)] if found is not None and np.asarray(found).dtype.kind == "i" else None


def _quantised(imp: Importer, name: str, nodes: Sequence[NodeProto], dtype: str, real: TensorType) -> TensorType:
    """Type of an int8/uint8 graph input: scale and zero point are those of its first reader that states them."""
    names = {name}
    for node in nodes:
        if node.input and node.input[0] in names:
            if node.op_type == "DequantizeLinear" or node.op_type.startswith(("QLinear", "QGemm")):
                scale, zero, found = imp.scale_zero(node, 1, 2, "uint8" if dtype == "u8" else "int8")
                if found != dtype:
                    raise Unsupported(f"is {dtype}, but its reader's zero point is {found}", "make the types agree")
                return replace(real, dtype=dtype, scale=scale, zero=zero)
            if node.op_type in ("Transpose", "Identity", "MaxPool", "Pad", "Reshape", "Flatten", "Unsqueeze", "Squeeze"):
                names |= set(node.output)
    raise Unsupported("is an integer tensor without scale", "put a DequantizeLinear behind the input")
