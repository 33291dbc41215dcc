"""Operators that move elements: Reshape, Flatten, Squeeze, Unsqueeze, Transpose, Concat; Softmax and ArgMax at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from sasimc.frontend.state import Act, Importer, Unsupported, handles
from sasimc.ir.graph import Shape, TensorType

__all__: list[str] = []

_AXES = {2: ("N", "C"), 3: ("N", "C", "W"), 4: ("N", "C", "H", "W")}


@handles("Reshape")
def reshape(imp: Importer, node: NodeProto) -> None:
    act = imp.act(node, 0)
    dims, target = imp.dims(act), imp.ints(node, 1, "shape")
    keep_zero = imp.attrs(node).get("allowzero", 0)
    new = [dims[i] if d == 0 and not keep_zero and i < len(dims) else d for i, d in enumerate(target)]
    if new.count(-1) > 1 or min(new, default=0) < -1:
        raise Unsupported(f"shape {target}")
    known = math.prod(d for d in new if d != -1)
    if -1 in new:
        if known == 0 or math.prod(dims) % known:
            raise Unsupported(f"cannot reshape {list(dims)} to {target}")
        new[new.index(-1)] = math.prod(dims) // known
    _reshape(imp, node, act, new)


@handles("Flatten")
def flatten(imp: Importer, node: NodeProto) -> None:
    act, axis = imp.act(node, 0), imp.attrs(node).get("axis", 1)
    dims = imp.dims(act)
    axis = axis + len(dims) if axis < 0 else axis
    _reshape(imp, node, act, [math.prod(dims[:axis]), math.prod(dims[axis:])])


@handles("Squeeze")
def squeeze(imp: Importer, node: NodeProto) -> None:
    act = imp.act(node, 0)
    dims = imp.dims(act)
    axes = imp.ints(node, 1, "axes") if imp.has(node, 1) else [i for i, d in enumerate(dims) if d == 1 and i]
    axes = [a + len(dims) if a < 0 else a for a in axes]
    if any(not 0 < a < len(dims) or dims[a] != 1 for a in axes):
        raise Unsupported(f"squeezes axes {axes} of {list(dims)}", "squeeze axes of size 1, not the batch")
    _reshape(imp, node, act, [d for i, d in enumerate(dims) if i not in axes])


@handles("Unsqueeze")
def unsqueeze(imp: Importer, node: NodeProto) -> None:
    act = imp.act(node, 0)
    dims, axes = imp.dims(act), imp.ints(node, 1, "axes")
    rank = len(dims) + len(axes)
    places = {a + rank if a < 0 else a for a in axes}
    rest = iter(dims)
    _reshape(imp, node, act, [1 if i in places else next(rest) for i in range(rank)])


def _positions(axes: Sequence[str], shape: Shape) -> npt.NDArray[np.int64]:
    """For each element of one sample in ONNX order, its channels-last position."""
    h, w, c = shape
    index = np.arange(h * w * c).reshape(h, w, c)
    size = {"H": 0, "W": 1, "C": 2}
    inner = [a for a in axes if a != "N"]
    missing = [a for a in "HWC" if a not in inner]  # axes a squeeze removed have size 1
    return index.transpose([size[a] for a in (*missing, *inner)]).ravel()


def _reshape(imp: Importer, node: NodeProto, act: Act, new: Sequence[int]) -> None:
    dims, t = imp.dims(act), imp.type(act)
    if math.prod(new) != math.prod(dims):
        raise Unsupported(f"cannot reshape {list(dims)} to {list(new)}")
    if list(new) == list(dims):
        imp.bind(node, act)
        return
    if act.axes[0] != "N" or not new or new[0] != dims[0]:
        raise Unsupported(f"reshapes {list(dims)} to {list(new)}", "keep the batch as the first axis")
    if len(new) not in _AXES:
        raise Unsupported(f"reshapes to rank {len(new)}", "only ranks 2 to 4 (N x C, N x C x H x W) are supported")
    axes = _AXES[len(new)]
    size = dict(zip(axes, new, strict=True))
    shape = (size.get("H", 1), size.get("W", 1), size["C"])
    before = act.order if act.order is not None else _positions(act.axes, t.shape)
    after = _positions(axes, shape)
    order: npt.NDArray[np.int64] | None = None
    if not np.array_equal(before, after):
        if len(new) != 2:
            raise Unsupported(
                f"reshapes {list(dims)} to {list(new)}, mixing channels and positions", "only flattening is supported"
            )
        order = before
    if shape == t.shape:
        imp.acts[node.output[0]] = Act(act.value, axes, order)
        return
    out = imp.emit(node, "reshape", [act.value], node.output[0], t.with_shape(shape))
    imp.acts[node.output[0]] = Act(out, axes, order)


@handles("Transpose")
def transpose(imp: Importer, node: NodeProto) -> None:
    act = imp.act(node, 0)
    perm = list(imp.attrs(node).get("perm") or range(len(act.axes) - 1, -1, -1))
    if sorted(perm) != list(range(len(act.axes))):
        raise Unsupported(f"perm {perm} for {len(act.axes)} axes")
    imp.acts[node.output[0]] = Act(act.value, tuple(act.axes[p] for p in perm), act.order)


@handles("Concat")
def concat(imp: Importer, node: NodeProto) -> None:
    acts = [imp.act(node, i) for i in range(len(node.input))]
    _concat(imp, node, acts, [a.value for a in acts], node.output[0])


@handles("com.microsoft.QLinearConcat")
def qlinear_concat(imp: Importer, node: NodeProto) -> None:
    scale, zero, dtype = imp.scale_zero(node, 0, 1)
    acts = [imp.typed(imp.act(node, i), *imp.scale_zero(node, i + 1, i + 2)) for i in range(2, len(node.input), 3)]
    values = [imp.dequantized(node, a, f"x{i}") for i, a in enumerate(acts)]
    out = _concat(imp, node, acts, values, f"{node.output[0]}:f")
    t = TensorType(dtype, imp.values[out].shape, scale, zero)
    imp.bind(node, imp.acts[node.output[0]], imp.emit(node, "quantize", [out], node.output[0], t, suffix=":q"))


def _concat(imp: Importer, node: NodeProto, acts: list[Act], values: list[str], out: str) -> str:
    if not acts:
        raise Unsupported("has no inputs")
    axes, axis = acts[0].axes, int(imp.attrs(node).get("axis", 1))
    if not -len(axes) <= axis < len(axes) or axes[axis] != "C":
        raise Unsupported(f"joins along axis {axis} of {'x'.join(axes)}", "join along channels")
    types = [imp.type(imp.in_order(a)) for a in acts]
    if any(a.axes != axes for a in acts) or any(t.shape[:2] != types[0].shape[:2] for t in types):
        raise Unsupported(f"joins {[list(imp.dims(a)) for a in acts]}", "all inputs need the same height, width and layout")
    first = imp.values[values[0]]
    if any(imp.values[v].quant != first.quant for v in values):
        raise Unsupported("joins stored values of different scales", "put DequantizeLinear in front and QuantizeLinear behind")
    shape = (*types[0].shape[:2], sum(t.shape[2] for t in types))
    imp.emit(node, "concat", values, out, first.with_shape(shape))
    imp.bind(node, acts[0], out)
    return out


# -- the end of a network -------------------------------------------------------------------------------------------------


@handles("Softmax", "LogSoftmax")
def softmax(imp: Importer, node: NodeProto) -> None:
    act = imp.act(node, 0)
    _last_axis(imp, act, int(imp.attrs(node).get("axis", -1)))
    out = imp.emit(node, "softmax_f", [act.value], node.output[0], TensorType("f32", imp.type(act).shape))
    imp.bind(node, act, out)


@handles("com.microsoft.QLinearSoftmax")
def qlinear_softmax(imp: Importer, node: NodeProto) -> None:
    act = imp.typed(imp.act(node, 0), *imp.scale_zero(node, 1, 2))
    _last_axis(imp, act, int(imp.attrs(node).get("axis", -1)))
    x, shape = imp.dequantized(node, act, "x"), imp.type(act).shape
    f = imp.emit(node, "softmax_f", [x], f"{node.output[0]}:f", TensorType("f32", shape))
    scale, zero, dtype = imp.scale_zero(node, 3, 4)
    out = imp.emit(node, "quantize", [f], node.output[0], TensorType(dtype, shape, scale, zero), suffix=":q")
    imp.bind(node, act, out)


@handles("ArgMax")
def arg_max(imp: Importer, node: NodeProto) -> None:
    act, attrs = imp.act(node, 0), imp.attrs(node)
    _last_axis(imp, imp.in_order(act), int(attrs.get("axis", 0)))
    if attrs.get("select_last_index", 0):
        raise Unsupported("select_last_index = 1", "the lowest index wins among equals")
    out = imp.emit(node, "argmax", [act.value], node.output[0], TensorType("i32", (1, 1, 1)))
    imp.acts[node.output[0]] = Act(out, act.axes if attrs.get("keepdims", 1) else ("N",))


def _last_axis(imp: Importer, act: Act, axis: int) -> None:
    if imp.type(act).shape[:2] != (1, 1) or not -len(act.axes) <= axis < len(act.axes) or act.axes[axis] != "C":
        raise Unsupported(
            f"runs over axis {axis} of {list(imp.dims(act))}", "only over the channels of a vector, at the end of the network"
        )
