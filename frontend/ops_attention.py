"""What attention is made of: products of two activation matrices, LayerNormalization, and constant tensors beside activations."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from sasimc.frontend.state import NO_BATCH, Act, Const, Importer, QConst, Unsupported, handles
from sasimc.ir.graph import Attr, Shape, TensorType
from sasimc.ir.layout import Layout

__all__ = ["constant", "matrix_product", "tokens"]


@handles("LayerNormalization")
def layer_normalization(imp: Importer, node: NodeProto) -> None:
    attrs, act = imp.attrs(node), imp.pixels(node, imp.floats(node, 0))
    dims, number = imp.dims(act), int(attrs.get("axis", -1))
    if number % len(dims) != len(dims) - 1:
        raise Unsupported(f"normalises over the axes from {number} on of {list(dims)}", "only over the last axis")
    if any(node.output[1:]):
        raise Unsupported("its mean or deviation is used", "only the normalised output is supported")
    order, channels = imp.order(act, imp.axis(act, -1)), imp.type(act).shape[2]
    consts = {}
    for index, role, default in ((1, "scale", 1.0), (2, "bias", 0.0)):
        given = imp.real(node, index, role) if imp.has(node, index) else np.full(1, default)
        if given.size not in (1, channels):
            raise Unsupported(f"{role} of shape {list(given.shape)} for {channels} channels")
        consts[role] = np.empty(channels)
        consts[role][slice(None) if order is None else order] = given.ravel()
    eps = float(attrs.get("epsilon", 1e-5))
    if not (np.isfinite(eps) and eps >= 0):
        raise Unsupported(f"epsilon is {eps:g}")
    t = imp.type(act)
    real = TensorType("f32", t.shape, layout=t.layout)
    imp.bind(node, act, imp.emit(node, "layernorm_f", [act.value], node.output[0], real, {"eps": eps}, consts))


def matrix_product(imp: Importer, node: NodeProto, a: Act, b: Act, values: tuple[str, str], out: str) -> None:
    """The node's product of two activations, read as ``values``: matrices in their last two axes, one for each element of the others."""
    da, db = (list(imp.layout(v).dims) for v in (a, b))
    if (
        min(len(da), len(db)) < 2
        or da[:-2] != db[:-2]
        or da[-1] != db[-2]
        or max(a.batch, b.batch) > len(da) - 2
        or a.batch != b.batch
    ):
        raise Unsupported(
            f"multiplies {list(imp.dims(a))} and {list(imp.dims(b))}",
            "the last two axes are the matrices, all others must be equal, and one of these the batch",
        )
    (sa, sb), (m, k, n) = (_strides(imp, v) for v in (a, b)), (*da[-2:], db[-1])
    groups = int(np.prod(da[:-2], dtype=np.int64))
    if sb[2] == 1 and sb[0] == n:  # groups of channels, as heads: the products go there as well
        shape, sy = (m, 1, groups * n), (n, groups * n, 1)
    else:
        shape, sy = (groups, m, n), (m * n, n, 1)
    outer = [[(size, sy[0] * int(np.prod(da[i + 1 : -2], dtype=np.int64)))] for i, size in enumerate(da[:-2])]
    made = TensorType("f32", shape, layout=Layout.of([*outer, [(m, sy[1])], [(n, sy[2])]]))
    attrs: dict[str, Attr] = {"sizes": (groups, m, k, n), "a": sa, "b": sb, "y": sy}
    imp.bind(node, a, imp.emit(node, "matmul_f", values, out, made, attrs))


def _strides(imp: Importer, act: Act) -> tuple[int, int, int]:
    """Strides of groups, rows and columns of the matrices of an activation."""
    *outer, rows, columns = imp.layout(act).axes
    found = []
    for factors in ([f for axis in outer for f in axis], rows, columns):
        (merged,) = Layout.of([factors]).axes
        if len(merged) > 1:
            raise Unsupported(
                f"multiplies {list(imp.dims(act))}, laid out {imp.layout(act).text(imp.type(act).shape)!r}",
                "each axis of the matrices must have one stride, and so must all others together",
            )
        found.append(merged[0][1] if merged else 0)
    return found[0], found[1], found[2]


def constant(imp: Importer, node: NodeProto, c: Const, shape: Shape, layout: Layout, batch: int, tag: str) -> str:
    """A constant as a real value stored like an activation of that shape and layout, to which it broadcasts; ``batch``: place of the batch."""
    if isinstance(c, QConst) and (c.scale.ndim or c.q.dtype not in (np.int8, np.uint8)):
        c = c.real()
    values = c.q if isinstance(c, QConst) else np.asarray(c)
    rank = len(layout.dims) + (batch != NO_BATCH)
    if values.ndim < rank:
        values = values.reshape((1,) * (rank - values.ndim) + values.shape)
    if values.ndim > rank or (batch != NO_BATCH and (values != np.take(values, [0], batch)).any()):
        raise Unsupported(
            f"constant of shape {list(values.shape)} enlarges the activation or varies along the batch", "match the ranks"
        )
    values = values if batch == NO_BATCH else np.take(values, 0, batch)
    if any(have not in (1, want) for have, want in zip(values.shape, layout.dims, strict=True)):
        raise Unsupported(f"constant of shape {list(values.shape)} does not broadcast to {list(layout.dims)}")
    stored = layout.stored(np.broadcast_to(values, layout.dims)[None], shape)[0]
    name, real = imp.fresh(f"{node.output[0]}:{tag}"), TensorType("f32", shape, layout=layout)
    if isinstance(c, QConst):
        kind = TensorType("u8" if c.q.dtype == np.uint8 else "i8", shape, float(c.scale), int(np.ravel(c.zero)[0]), layout)
        held = imp.emit(node, "constant", [], f"{name}:q", kind, {}, {"values": stored.astype(np.int16)}, f":{tag}")
        return imp.emit(node, "dequantize", [held], name, real, suffix=f":{tag}:x")
    if stored.dtype.kind != "f" or not np.isfinite(stored).all():
        raise Unsupported("constant has NaN or infinite elements, or is not a number", "repair the initialiser")
    return imp.emit(node, "constant", [], name, real, {}, {"values": stored.astype(np.float64)}, f":{tag}")


def tokens(imp: Importer, node: NodeProto, act: Act) -> Act:
    """The activation with a pixel in each row, where one axis holds them all: then rows can be cut into stripes."""
    h, w, c = imp.type(act).shape
    return imp.as_shape(node, act, (h * w, 1, c)) if w > 1 and ((h * w, c),) in imp.layout(act).axes else act
