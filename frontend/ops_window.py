"""Pools, means over the plane, Resize and Pad, with their QOperator forms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from sasimc.frontend.ops_linear import auto_pads, pair, requantize
from sasimc.frontend.ops_slice import mosaic
from sasimc.frontend.state import CUT, Act, Importer, Unsupported, handles
from sasimc.ir.graph import Attr, Shape, TensorType
from sasimc.ir.kinds import resize_index, window_output
from sasimc.ir.layout import Layout

__all__: list[str] = []

MAX_POOLS = 25


@handles("AveragePool")
def average_pool(imp: Importer, node: NodeProto) -> None:
    act = imp.plane(node, imp.floats(node, 0))
    _average(imp, node, act, act.value, node.output[0])


@handles("com.microsoft.QLinearAveragePool")
def qlinear_average_pool(imp: Importer, node: NodeProto) -> None:
    _channels_first(imp, node)
    act = imp.plane(node, imp.typed(imp.act(node, 0), *imp.scale_zero(node, 1, 2)))
    _average(imp, node, act, imp.dequantized(node, act, "x"), f"{node.output[0]}:f")
    requantize(imp, node, imp.acts[node.output[0]], *imp.scale_zero(node, 3, 4))


def _channels_first(imp: Importer, node: NodeProto) -> None:
    if imp.attrs(node).get("channels_last", 0):
        raise Unsupported("channels_last = 1", "use the channels-first form")


def _average(imp: Importer, node: NodeProto, act: Act, x: str, out: str) -> None:
    """An average pool. Where its windows have different divisors, the output is made of pools of one divisor each."""
    attrs, (h, w, c), rank = imp.attrs(node), imp.type(act).shape, len(imp.layout(act).axes) - 1
    kernel, stride = pair(attrs.get("kernel_shape"), "kernel_shape", rank), pair(attrs.get("strides"), "strides", rank)
    if pair(attrs.get("dilations"), "dilations", rank) != (1, 1):
        raise Unsupported(f"dilations {list(attrs['dilations'])} in a pool", CUT)
    pads = auto_pads(imp, node, (h, w), kernel, stride, (1, 1), rank)
    counted, ceil = bool(attrs.get("count_include_pad", 0)), bool(attrs.get("ceil_mode", 0))
    rows, columns = (
        _divisors(size, kernel[i], stride[i], (pads[i], pads[i + 2]), counted, ceil) for i, size in enumerate((h, w))
    )
    if len(rows) * len(columns) > MAX_POOLS:
        raise Unsupported(f"windows of {len(rows) * len(columns)} shapes", CUT)
    pieces, starts = [], []
    for r in rows:
        for q in columns:
            shape = (r.count, q.count, c)
            tag = "" if len(rows) * len(columns) == 1 else f":{r.at}.{q.at}"
            source = x
            if tag:
                part = imp.on_plane(act, (r.end - r.begin, q.end - q.begin, c), "f32")
                start: dict[str, Attr] = {"start": (r.begin, q.begin, 0), "step": (1, 1, 1)}
                source = imp.emit(node, "slice", [x], imp.fresh(f"{out}:in{tag}"), part, start, suffix=":take")
            window: dict[str, Attr] = {
                "kernel": (r.size, q.size), "stride": stride, "pads": (r.before, q.before, r.after, q.after), "global": False,
            }  # fmt: skip
            pieces.append(imp.emit(node, "avgpool_f", [source], f"{out}{tag}", imp.on_plane(act, shape, "f32"), window))
            starts.append((r.at, q.at, 0))
    whole = (sum(r.count for r in rows), sum(q.count for q in columns), c)
    if len(pieces) > 1:
        mosaic(imp, node, pieces, starts, (1, 1, 1), whole, imp.on_plane(act, whole).layout, out)
    imp.bind(node, act, out)


@dataclass(frozen=True)
class _Windows:
    """Windows of one length along an axis: the first and how many, the input that they see, their length, and padding inside them."""

    at: int
    count: int
    begin: int
    end: int
    size: int
    before: int
    after: int


def _divisors(size: int, kernel: int, stride: int, pads: tuple[int, int], counted: bool, ceil: bool) -> list[_Windows]:
    padded = size + sum(pads)
    count = (-(-(padded - kernel) // stride) if ceil else (padded - kernel) // stride) + 1
    if ceil and (count - 1) * stride >= size + pads[0]:
        count -= 1  # the last window would start in the padding
    low, high = (-pads[0], size + pads[1]) if counted else (0, size)
    spans = [(max(low, i * stride - pads[0]), min(high, i * stride - pads[0] + kernel)) for i in range(count)]
    if count < 1 or any(max(a, 0) >= min(b, size) for a, b in spans):
        raise Unsupported(f"a window of {kernel} sees nothing of {size}", "smaller pads")
    groups: list[list[int]] = []
    for i, (a, b) in enumerate(spans):
        last = spans[i - 1]
        if groups and b - a == last[1] - last[0] and a - last[0] == stride:
            groups[-1].append(i)
        else:
            groups.append([i])
    found = []
    for g in groups:
        a, b = spans[g[0]][0], spans[g[-1]][1]
        found.append(
            _Windows(g[0], len(g), max(a, 0), min(b, size), spans[g[0]][1] - spans[g[0]][0], max(-a, 0), max(b - size, 0))
        )
    return found


def _window(imp: Importer, node: NodeProto, act: Act) -> tuple[dict[str, Attr], tuple[int, int, int]]:
    """Window attributes and output shape of a max pool; ``ceil_mode`` becomes padding at the end."""
    attrs, (h, w, c), rank = imp.attrs(node), imp.type(act).shape, len(imp.layout(act).axes) - 1
    kernel, stride = pair(attrs.get("kernel_shape"), "kernel_shape", rank), pair(attrs.get("strides"), "strides", rank)
    dilation = pair(attrs.get("dilations"), "dilations", rank)
    if dilation != (1, 1):
        raise Unsupported(f"dilations {list(dilation)} in a pool", CUT)
    pads = list(auto_pads(imp, node, (h, w), kernel, stride, dilation, rank))
    if attrs.get("ceil_mode", 0):
        for axis, size in enumerate((h, w)):
            padded = size + pads[axis] + pads[axis + 2]
            out = -(-(padded - kernel[axis]) // stride[axis]) + 1
            if (out - 1) * stride[axis] >= size + pads[axis]:
                out -= 1  # the last window would start in the padding
            extra = (out - 1) * stride[axis] + kernel[axis] - padded
            if extra > 0:
                pads[axis + 2] += extra
    shape = (
        window_output(h, kernel[0], stride[0], pads[0], pads[2]),
        window_output(w, kernel[1], stride[1], pads[1], pads[3]),
        c,
    )
    if min(shape) < 1:
        raise Unsupported(f"window {list(kernel)} is larger than its padded input {h} x {w}")
    return {"kernel": kernel, "stride": stride, "pads": (pads[0], pads[1], pads[2], pads[3])}, shape


@handles("MaxPool")
def max_pool(imp: Importer, node: NodeProto) -> None:
    act = imp.plane(node, imp.act(node, 0))
    if len([o for o in node.output if o]) > 1:
        raise Unsupported("the Indices output is used", "only the maximum is computed")
    window, shape = _window(imp, node, act)
    imp.bind(node, act, imp.emit(node, "maxpool", [act.value], node.output[0], imp.on_plane(act, shape), window))


@handles("GlobalMaxPool")
def global_max_pool(imp: Importer, node: NodeProto) -> None:
    act = imp.plane(node, imp.act(node, 0))
    t = imp.type(act)
    window: dict[str, Attr] = {"kernel": t.shape[:2], "stride": (1, 1), "pads": (0, 0, 0, 0)}
    out = imp.emit(node, "maxpool", [act.value], node.output[0], imp.on_plane(act, (1, 1, t.shape[2])), window)
    imp.bind(node, act, out)


def _mean(imp: Importer, node: NodeProto, act: Act, x: str, out: str, axes: Sequence[int], keep: bool) -> None:
    """Mean over axes of the layout that are height, width or both."""
    t, layout = imp.type(act), imp.layout(act)
    h, w, c = t.shape
    parts = layout.parts(t.shape) or ()
    over = {name for i in axes for name, _, _ in parts[i]} if parts else {"C"}
    if over - {"H", "W"} or any(over & {name for name, _, _ in p} for i, p in enumerate(parts) if i not in axes):
        raise Unsupported(
            f"mean over {[layout.dims[i] for i in axes]} of {list(imp.dims(act))}",
            "reduce over the whole height, width or both; a layer norm must not be quantised inside: sasc quantize keeps it whole",
        )
    kernel = (h if "H" in over else 1, w if "W" in over else 1)
    shape = (h // kernel[0], w // kernel[1], c)
    base = {"H": shape[1] * c, "W": c, "C": 1}
    left = [[(size, step * base[name]) for name, size, step in p if name not in over] for p in parts]
    made = Layout.of(p for i, p in enumerate(left) if keep or i not in axes)
    attrs: dict[str, Attr] = {"kernel": kernel, "stride": kernel, "pads": (0, 0, 0, 0), "global": kernel == (h, w)}
    imp.emit(node, "avgpool_f", [x], out, TensorType("f32", shape, layout=made), attrs)
    imp.bind(node, act, out)


@handles("GlobalAveragePool")
def global_average_pool(imp: Importer, node: NodeProto) -> None:
    act = imp.plane(node, imp.floats(node, 0))
    _mean(imp, node, act, act.value, node.output[0], range(1, len(imp.layout(act).axes)), True)


@handles("com.microsoft.QLinearGlobalAveragePool")
def qlinear_global_average_pool(imp: Importer, node: NodeProto) -> None:
    _channels_first(imp, node)
    act = imp.plane(node, imp.typed(imp.act(node, 0), *imp.scale_zero(node, 1, 2)))
    _mean(imp, node, act, imp.dequantized(node, act, "x"), f"{node.output[0]}:f", range(1, len(imp.layout(act).axes)), True)
    requantize(imp, node, imp.acts[node.output[0]], *imp.scale_zero(node, 3, 4))


@handles("ReduceMean")
def reduce_mean(imp: Importer, node: NodeProto) -> None:
    act, attrs = imp.floats(node, 0), imp.attrs(node)
    _mean(imp, node, act, act.value, node.output[0], _reduced(imp, node, act, 1), bool(attrs.get("keepdims", 1)))


@handles("com.microsoft.QLinearReduceMean")
def qlinear_reduce_mean(imp: Importer, node: NodeProto) -> None:
    act, attrs = imp.typed(imp.act(node, 0), *imp.scale_zero(node, 1, 2)), imp.attrs(node)
    over, keep = _reduced(imp, node, act, 9), bool(attrs.get("keepdims", 1))
    _mean(imp, node, act, imp.dequantized(node, act, "x"), f"{node.output[0]}:f", over, keep)
    requantize(imp, node, imp.acts[node.output[0]], *imp.scale_zero(node, 3, 4))


def _reduced(imp: Importer, node: NodeProto, act: Act, index: int) -> list[int]:
    axes = imp.ints(node, index, "axes") if imp.has(node, index) else list(imp.attrs(node).get("axes", []))
    if not axes:
        raise Unsupported("mean over all axes, the batch among them", "reduce over height and width only")
    return [imp.axis(act, a) for a in axes]


# -- Resize -------------------------------------------------------------------------------------------------------------


@handles("Resize")
def resize(imp: Importer, node: NodeProto) -> None:
    act, attrs = imp.plane(node, imp.act(node, 0)), imp.attrs(node)
    if len(imp.dims(act)) != 4:
        raise Unsupported(f"resizes {list(imp.dims(act))}", "resize height and width of N x C x H x W")
    mode, coordinates = attrs.get("mode", "nearest"), attrs.get("coordinate_transformation_mode", "half_pixel")
    if attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unsupported(f"keep_aspect_ratio_policy {attrs['keep_aspect_ratio_policy']!r}", "give the sizes themselves")
    shape, scales = _resized(imp, node, act)
    x = imp.type(act).shape
    _bounded(shape)
    if mode == "nearest":
        for size_in, size_out, scale in zip(x[:2], shape[:2], scales, strict=True):
            rows = _nearest_rows(size_in, size_out, scale, coordinates, attrs.get("nearest_mode", "round_prefer_floor"))
            if rows != [resize_index(i, size_in, size_out) for i in range(size_out)]:
                raise Unsupported(
                    f"nearest resize {size_in} -> {size_out} with {coordinates!r} and "
                    f"{attrs.get('nearest_mode', 'round_prefer_floor')!r}",
                    CUT,
                )
    elif mode == "linear":
        if shape[:2] != (2 * x[0], 2 * x[1]) or coordinates not in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"):
            raise Unsupported(
                f"linear resize {x[0]} x {x[1]} -> {shape[0]} x {shape[1]} with {coordinates!r}",
                CUT,
            )
    else:
        raise Unsupported(f"mode {mode!r}", CUT)
    _resize_to(imp, node, act, shape, mode)


def _bounded(shape: Sequence[int]) -> None:
    if max(shape) > 2**16:
        raise Unsupported(f"the output would have shape {list(shape)}", "check the shapes in the file")


def _resize_to(imp: Importer, node: NodeProto, act: Act, shape: Shape, mode: str) -> None:
    source, quant = act.value, imp.type(act)
    out = node.output[0]
    if (
        quant.dtype != "f32"
    ):  # an integer Resize is the same arithmetic in the same scale; onnxruntime truncates there (one step off), we round
        source, out = imp.dequantized(node, act, "x"), f"{out}:f"
    imp.emit(node, "resize_f", [source], out, imp.on_plane(act, shape, "f32"), {"mode": str(mode)})
    imp.bind(node, act, out)
    if quant.dtype != "f32":
        requantize(imp, node, imp.acts[node.output[0]], quant.scale, quant.zero, quant.dtype)


@handles("Expand")
def expand(imp: Importer, node: NodeProto) -> None:
    """One row, column or pixel for all of a plane, as a gate of squeeze-and-excite: the nearest one."""
    act, wanted = imp.act(node, 0), imp.ints(node, 1, "shape")
    dims = imp.dims(act)
    try:
        made = np.broadcast_shapes(dims, wanted)
    except ValueError:
        raise Unsupported(f"expands {list(dims)} to {wanted}", "check the shapes in the file") from None
    if made == dims:
        imp.bind(node, act)
        return
    if len(dims) != 4 or made[:2] != dims[:2]:
        raise Unsupported(
            f"expands {list(dims)} to {list(made)}",
            "expand height and width of N x C x H x W; Add and Mul broadcast by themselves",
        )
    _bounded(made)
    _resize_to(imp, node, imp.plane(node, act), (made[2], made[3], dims[1]), "nearest")


def _resized(imp: Importer, node: NodeProto, act: Act) -> tuple[tuple[int, int, int], tuple[float, float]]:
    """Output shape and the scales of height and width."""
    dims, (h, w, c) = imp.dims(act), imp.type(act).shape
    axes = [a % len(dims) for a in imp.attrs(node).get("axes", range(len(dims)))]
    if imp.has(node, 3):
        given = dict(zip(axes, imp.ints(node, 3, "sizes"), strict=True))
        sizes = [given.get(i, d) for i, d in enumerate(dims)]
        if len(sizes) != 4 or sizes[1] != c or sizes[0] not in (dims[0], 1):
            raise Unsupported(f"sizes {sizes} for {list(dims)}", "resize height and width only")
        return (sizes[2], sizes[3], c), (sizes[2] / h, sizes[3] / w)
    factors = dict(zip(axes, imp.real(node, 2, "scales").ravel().tolist(), strict=True)) if imp.has(node, 2) else {}
    scales = [float(factors.get(i, 1.0)) for i in range(len(dims))] if factors else []
    if len(scales) != 4 or scales[0] != 1 or scales[1] != 1 or min(scales) <= 0 or max(scales) > 2**16:
        raise Unsupported(f"scales {scales} for {list(dims)}", "resize height and width only")
    return (math.floor(h * scales[2]), math.floor(w * scales[3]), c), (scales[2], scales[3])


def _nearest_rows(size_in: int, size_out: int, scale: float, coordinates: str, rounding: str) -> list[int]:
    """Source index of every output index, from the operator's definition."""
    rows = []
    for i in range(size_out):
        match coordinates:
            case "asymmetric":
                x = i / scale
            case "half_pixel":
                x = (i + 0.5) / scale - 0.5
            case "pytorch_half_pixel":
                x = (i + 0.5) / scale - 0.5 if size_out > 1 else 0.0
            case "align_corners":
                x = i * (size_in - 1) / (size_out - 1) if size_out > 1 else 0.0
            case _:
                raise Unsupported(f"coordinate_transformation_mode {coordinates!r}", CUT)
        nearest = round(x, 6)  # 1/3-like positions must not fall below an integer they mathematically reach
        match rounding:
            case "floor":
                index = math.floor(nearest)
            case "ceil":
                index = math.ceil(nearest)
            case "round_prefer_ceil":
                index = math.floor(nearest + 0.5)
            case _:
                index = math.ceil(nearest - 0.5)
        rows.append(min(max(index, 0), size_in - 1))
    return rows


@handles("Pad")
def pad(imp: Importer, node: NodeProto) -> None:
    act, attrs = imp.act(node, 0), imp.attrs(node)
    if attrs.get("mode", "constant") != "constant":
        raise Unsupported(f"mode {attrs['mode']!r}", "pad with a constant")
    pads, rank = imp.ints(node, 1, "pads"), len(imp.dims(act))
    axes = imp.ints(node, 3, "axes") if imp.has(node, 3) else list(range(rank))
    if len(pads) != 2 * len(axes) or min(pads, default=0) < 0:
        raise Unsupported(f"pads {pads}", "negative pads (cropping) are not supported")
    t, layout = imp.type(act), imp.layout(act)
    value = float(np.ravel(imp.real(node, 2, "pad value"))[0]) if imp.has(node, 2) else 0.0
    if value != (0.0 if t.dtype == "f32" else t.zero):
        raise Unsupported(f"pads with {value:g}", "only padding with a real zero is supported")
    if not any(pads):
        imp.bind(node, act)
        return
    last = act.batch == 0 and rank == 4 and layout == Layout.planes(t.shape).transposed((1, 2, 0))  # channels last
    places = {0: "H", 1: "W"} if last else {rank - 3: "H", rank - 2: "W"}
    act = act if last else imp.plane(node, act)
    amount = {"H": (0, 0), "W": (0, 0)}
    for axis, before, after in zip(axes, pads, pads[len(axes) :], strict=False):
        if before or after:
            place = places.get(imp.axis(act, axis), "")
            if place not in amount:
                raise Unsupported(f"pads axis {axis} of {list(imp.dims(act))}", "pad height and width only")
            amount[place] = (before, after)
    (top, bottom), (left, right) = amount["H"], amount["W"]
    h, w, c = imp.type(act).shape
    made = imp.on_plane(act, (h + top + bottom, w + left + right, c))
    if last:
        made = made.with_shape(made.shape, Layout.planes(made.shape).transposed((1, 2, 0)))
    imp.bind(node, act, imp.emit(node, "pad", [act.value], node.output[0], made, {"pads": (top, left, bottom, right)}))
