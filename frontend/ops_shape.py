"""Operators that move elements: Reshape, Flatten, Squeeze, Unsqueeze, Transpose, Concat; Softmax and ArgMax at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from onnx import NodeProto

from sasimc.frontend.ops_attention import constant, tokens
from sasimc.frontend.ops_linear import requantize
from sasimc.frontend.ops_slice import in_order, mosaic, relaid
from sasimc.frontend.state import NO_BATCH, Act, Importer, QConst, Unsupported, handles
from sasimc.ir.graph import Attr, Shape, TensorType
from sasimc.ir.layout import Layout

__all__: list[str] = []


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
    axes = imp.ints(node, 1, "axes") if imp.has(node, 1) else [i for i, d in enumerate(dims) if d == 1 and i != act.batch]
    axes = [a + len(dims) if a < 0 else a for a in axes]
    if any(not 0 <= a < len(dims) or dims[a] != 1 or a == act.batch for a in axes):
        raise Unsupported(f"squeezes axes {axes} of {list(dims)}", "squeeze axes of size 1, not the batch")
    layout, gone = imp.layout(act), {imp.axis(act, a) for a in axes}
    left = Layout(tuple(a for i, a in enumerate(layout.axes) if i not in gone))
    _moved(imp, node, act, left, act.batch if act.batch == NO_BATCH else act.batch - sum(a < act.batch for a in axes))


@handles("Unsqueeze")
def unsqueeze(imp: Importer, node: NodeProto) -> None:
    act = imp.act(node, 0)
    dims, axes = imp.dims(act), imp.ints(node, 1, "axes")
    rank = len(dims) + len(axes)
    places = {a + rank if a < 0 else a for a in axes}
    if len(places) < len(axes) or not places <= set(range(rank)):
        raise Unsupported(f"inserts axes {axes} into {list(dims)}")
    kept = [i for i in range(rank) if i not in places]  # where the old axes are now
    batch = act.batch if act.batch == NO_BATCH else kept[act.batch]
    rest = iter(imp.layout(act).axes)
    _moved(imp, node, act, Layout(tuple(() if i in places else next(rest) for i in range(rank) if i != batch)), batch)


def _reshape(imp: Importer, node: NodeProto, act: Act, new: Sequence[int]) -> None:
    dims, layout = imp.dims(act), imp.layout(act)
    if math.prod(new) != math.prod(dims):
        raise Unsupported(f"cannot reshape {list(dims)} to {list(new)}")
    batch = _batch(imp, act, new)
    if batch is None:
        raise Unsupported(f"reshapes {list(dims)} to {list(new)}", "keep the batch as the first axis")
    made = layout.reshaped([d for i, d in enumerate(new) if i != batch])
    if made is None:
        raise Unsupported(
            f"reshapes {list(dims)} to {list(new)}, mixing channels and positions",
            "only splitting and joining whole axes is supported",
        )
    _moved(imp, node, act, made, batch)


def _batch(imp: Importer, act: Act, new: Sequence[int]) -> int | None:
    """Where the batch is after a Reshape: where as many elements stand in front of it as before. A batch of one may be any axis of size one, or
    none; None where a larger one is lost."""
    dims = imp.dims(act)
    if act.batch != NO_BATCH:
        before = math.prod(dims[: act.batch])
        found = [i for i, d in enumerate(new) if d == dims[act.batch] and math.prod(new[:i]) == before]
        if found:
            return found[0]
        if imp.batch > 1:
            return None
    return next((i for i, d in enumerate(new) if d == 1), NO_BATCH)


def _moved(imp: Importer, node: NodeProto, act: Act, layout: Layout, batch: int) -> None:
    """The node's output has the elements of the activation under other axes; a vector is stored as one."""
    t = imp.type(act)
    _relabel(imp, node, act, t.with_shape((1, 1, t.size) if len(layout.axes) == 1 else t.shape, layout), batch)


def _relabel(imp: Importer, node: NodeProto, act: Act, t: TensorType, batch: int) -> None:
    """The node's output has the same stored elements; only where it finds them differs."""
    value = act.value if t == imp.type(act) else imp.emit(node, "reshape", [act.value], node.output[0], t)
    imp.acts[node.output[0]] = Act(value, batch)


@handles("Transpose")
def transpose(imp: Importer, node: NodeProto) -> None:
    act = imp.act(node, 0)
    rank = len(imp.dims(act))
    perm = list(imp.attrs(node).get("perm") or range(rank - 1, -1, -1))
    if sorted(perm) != list(range(rank)):
        raise Unsupported(f"perm {perm} for {rank} axes")
    layout = imp.layout(act).transposed([p - (NO_BATCH < act.batch < p) for p in perm if p != act.batch])
    t = imp.type(act)
    _relabel(imp, node, act, t.with_shape(t.shape, layout), NO_BATCH if act.batch == NO_BATCH else perm.index(act.batch))


@handles("Concat")
def concat(imp: Importer, node: NodeProto) -> None:
    acts = [
        tokens(imp, node, _upright(imp, node, imp.act(node, i))) if not imp.is_const(node, i) else None
        for i in range(len(node.input))
    ]
    beside = next((a for a in acts if a is not None), None) or imp.act(node, 0)
    acts = [_constant(imp, node, i, beside) if a is None else a for i, a in enumerate(acts)]
    _concat(imp, node, acts, [a.value for a in acts], node.output[0])


def _constant(imp: Importer, node: NodeProto, index: int, beside: Act) -> Act:
    """A constant that is joined with an activation, stored like it; of stored integers it has their scale."""
    c, number = imp.const(node, index, "part"), int(imp.attrs(node).get("axis", 1))
    axis, t, layout = imp.axis(beside, number), imp.type(beside), imp.layout(beside)
    dims = (c.q if isinstance(c, QConst) else c).shape
    parts = layout.parts(t.shape)
    if len(dims) != len(imp.dims(beside)) or parts is None or len(parts[axis]) != 1 or t.dtype != "f32":
        raise Unsupported(
            f"joins a constant of shape {list(dims)} and {list(imp.dims(beside))}, laid out {layout.text(t.shape)!r}",
            "join real values (DequantizeLinear in front) along channels, height or width",
        )
    place = "HWC".index(parts[axis][0][0])
    shape: Shape = (*t.shape[:place], dims[number], *t.shape[place + 1 :])  # type: ignore[assignment]
    return replace(
        beside, value=constant(imp, node, c, shape, relaid(layout, t.shape, shape, axis, None), beside.batch, f"c{index}")
    )


@handles("com.microsoft.QLinearConcat")
def qlinear_concat(imp: Importer, node: NodeProto) -> None:
    scale, zero, dtype = imp.scale_zero(node, 0, 1)
    acts = [
        _upright(imp, node, imp.typed(imp.act(node, i), *imp.scale_zero(node, i + 1, i + 2)))
        for i in range(2, len(node.input), 3)
    ]
    _concat(imp, node, acts, [imp.dequantized(node, a, f"x{i}") for i, a in enumerate(acts)], f"{node.output[0]}:f")
    requantize(imp, node, imp.acts[node.output[0]], scale, zero, dtype)


def _upright(imp: Importer, node: NodeProto, act: Act) -> Act:
    """One row, or one column, as its ONNX axes have it: a Transpose turned it, and the elements are in the same order either way."""
    h, w, c = imp.type(act).shape
    axes, turned = imp.layout(act).axes, Layout.planes((w, h, c)).axes
    return imp.as_shape(node, act, (w, h, c)) if 1 in (h, w) and h != w and act.batch == 0 and axes[1:] == turned[1:] else act


def _concat(imp: Importer, node: NodeProto, acts: list[Act], values: list[str], out: str) -> str:
    """Join along the stored channels; ``values``: what the activations are read from."""
    if not acts:
        raise Unsupported("has no inputs")
    number = int(imp.attrs(node).get("axis", 1))
    axis = imp.axis(acts[0], number)
    if (place := _along(imp, acts, axis)) is not None:
        return _join(imp, node, acts, values, axis, place, out)
    plain = [in_order(imp, node, a, v, axis) for a, v in zip(acts, values, strict=True)]
    acts, values = [a for a, _ in plain], [v for _, v in plain]
    dims, count = imp.dims(acts[0]), imp.layout(acts[0]).dims[axis]
    first = imp.type(acts[0])
    for act in acts:
        t, layout = imp.type(act), imp.layout(act)
        if (
            axis >= len(layout.axes)
            or Layout((layout.axes[axis],)) != Layout.rows([t.shape[2]])
            or (act.batch, t.shape[:2]) != (acts[0].batch, first.shape[:2])
            or layout.with_channels(axis, t.shape[2], count) != imp.layout(acts[0])
        ):
            shown = layout.text(t.shape)
            raise Unsupported(
                f"joins along axis {number} of {list(dims)} ({[list(imp.dims(a)) for a in acts]}, one is laid out {shown!r})",
                "join along channels; all inputs need the same height, width and axes",
            )
    if any(imp.values[v].quant != imp.values[values[0]].quant for v in values):
        raise Unsupported("joins stored values of different scales", "put DequantizeLinear in front and QuantizeLinear behind")
    total = sum(imp.type(a).shape[2] for a in acts)
    layout = imp.layout(acts[0]).with_channels(axis, count, total)
    imp.emit(node, "concat", values, out, imp.values[values[0]].with_shape((*first.shape[:2], total), layout))
    imp.bind(node, acts[0], out)
    return out


def _along(imp: Importer, acts: list[Act], axis: int) -> int | None:
    """0 or 1 where the axis is the height or the width of all, stored alike; one element along it may stand anywhere."""
    kinds, along = set(), set()
    for act in acts:
        parts = imp.layout(act).parts(imp.type(act).shape)
        if parts is None or axis >= len(parts):
            return None
        names = [tuple((n, s) for n, _, s in p) for p in parts]
        kinds.add((act.batch, *names[:axis], *names[axis + 1 :], imp.type(act).shape[2]))
        along |= {names[axis]} if imp.layout(act).dims[axis] > 1 else set()
    place = along.pop() if len(along) == 1 and len(kinds) == 1 else ()
    return {"H": 0, "W": 1}.get(place[0][0]) if len(place) == 1 else None


def _join(imp: Importer, node: NodeProto, acts: list[Act], values: list[str], axis: int, place: int, out: str) -> str:
    """Side by side in height (``place`` 0) or width."""
    if any(imp.values[v].quant != imp.values[values[0]].quant for v in values):
        raise Unsupported("joins stored values of different scales", "put DequantizeLinear in front and QuantizeLinear behind")
    shapes = [imp.type(a).shape for a in acts]
    if len({(s[1 - place], s[2]) for s in shapes}) > 1:
        raise Unsupported(f"joins {[list(imp.dims(a)) for a in acts]}", "all but one axis must be alike")
    total = sum(s[place] for s in shapes)
    shape = (total, *shapes[0][1:]) if place == 0 else (shapes[0][0], total, shapes[0][2])
    firsts = [sum(s[place] for s in shapes[:i]) for i in range(len(shapes))]
    starts = [(f, 0, 0) if place == 0 else (0, f, 0) for f in firsts]
    widest = max(
        acts, key=lambda a: imp.layout(a).dims[axis]
    )  # of one element along the axis the layout does not say where that is
    layout = relaid(imp.layout(widest), imp.type(widest).shape, shape, axis, None)
    made = mosaic(imp, node, values, starts, (1, 1, 1), shape, layout, out)
    imp.bind(node, acts[0], made)
    return made


# -- the end of a network -------------------------------------------------------------------------------------------------


@handles("Softmax", "LogSoftmax")
def softmax(imp: Importer, node: NodeProto) -> None:
    act = imp.floats(node, 0)
    _softmax(imp, node, act, act.value, node.output[0])


@handles("com.microsoft.QLinearSoftmax")
def qlinear_softmax(imp: Importer, node: NodeProto) -> None:
    act = imp.typed(imp.act(node, 0), *imp.scale_zero(node, 1, 2))
    _softmax(imp, node, act, imp.dequantized(node, act, "x"), f"{node.output[0]}:f")
    requantize(imp, node, imp.acts[node.output[0]], *imp.scale_zero(node, 3, 4))


def _softmax(imp: Importer, node: NodeProto, act: Act, x: str, out: str) -> None:
    axis = imp.axis(act, int(imp.attrs(node).get("axis", -1)))
    attrs: dict[str, Attr] = {"axis": axis}
    if node.op_type == "LogSoftmax":
        attrs["log"] = True
    imp.bind(node, act, imp.emit(node, "softmax_f", [x], out, imp.values[x], attrs))


@handles("ArgMax")
def arg_max(imp: Importer, node: NodeProto) -> None:
    attrs = imp.attrs(node)
    number = int(attrs.get("axis", 0))
    act = _last(imp, node, imp.act(node, 0), number)
    axis = imp.axis(act, number)
    if imp.order(act, axis) is not None:
        raise Unsupported("numbers the elements of a flattened plane", "pool to 1 x 1 first, or let a Gemm follow the Flatten")
    if attrs.get("select_last_index", 0):
        raise Unsupported("select_last_index = 1", "the lowest index wins among equals")
    left = [() for i in range(len(imp.layout(act).axes)) if i != axis or attrs.get("keepdims", 1)]
    out = imp.emit(node, "argmax", [act.value], node.output[0], TensorType("i32", (1, 1, 1), layout=Layout(tuple(left))))
    imp.acts[node.output[0]] = Act(out, act.batch)


def _last(imp: Importer, node: NodeProto, act: Act, axis: int) -> Act:
    """The activation if the axis holds all its elements, stored as a vector."""
    dims = imp.layout(act).dims
    if dims[imp.axis(act, axis)] != imp.type(act).size:
        raise Unsupported(
            f"runs over axis {axis} of {list(imp.dims(act))}", "only over the channels of a vector, at the end of the network"
        )
    return imp.as_shape(node, act, (1, 1, imp.type(act).size))
