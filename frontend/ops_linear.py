"""Convolutions and matrix products: Conv, Gemm, MatMul and their QOperator forms. All become ``conv_f``."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from sasimc.frontend.ops_attention import matrix_product
from sasimc.frontend.ops_slice import mosaic
from sasimc.frontend.state import NO_BATCH, Act, Const, Importer, QConst, Unsupported, handles
from sasimc.ir.graph import Attr, TensorType
from sasimc.ir.kinds import window_output
from sasimc.ir.layout import Axis, Layout

__all__ = ["auto_pads", "pair", "requantize"]

Array = npt.NDArray[Any]


@handles("Conv")
def conv(imp: Importer, node: NodeProto) -> None:
    act = imp.plane(node, imp.floats(node, 0))
    _conv(imp, node, act, act.value, _weight(imp, node, 1), _bias(imp, node, 2), node.output[0])


@handles("ConvTranspose")
def conv_transpose(imp: Importer, node: NodeProto) -> None:
    """A convolution with turned weights over the input with zeros between its pixels."""
    act, attrs = imp.plane(node, imp.floats(node, 0)), imp.attrs(node)
    w, rank, groups, t = _weight(imp, node, 1), len(imp.layout(act).axes) - 1, int(attrs.get("group", 1)), imp.type(act)
    if w.q.ndim != rank + 2 or groups < 1 or w.q.shape[0] % groups or w.q.shape[0] != t.shape[2]:
        raise Unsupported(f"weight {list(w.q.shape)} with {groups} groups does not fit {t.shape[2]} input channels")
    if w.scale.ndim and (groups > 1 or w.axis != 1):
        raise Unsupported(
            f"weights are quantised along axis {w.axis}", "quantise along the output channels (axis 1), of groups per tensor"
        )
    turned = w.q.reshape(groups, w.q.shape[0] // groups, *w.q.shape[1:]).swapaxes(1, 2)[(..., *[slice(None, None, -1)] * rank)]
    weight = QConst(turned.reshape(groups * turned.shape[1], *turned.shape[2:]), w.scale, w.zero, 0)
    (kh, kw), stride = (1, *w.q.shape[2:])[-2:], pair(attrs.get("strides"), "strides", rank)
    dilation, more = (
        pair(attrs.get("dilations"), "dilations", rank),
        [0] * (2 - rank) + list(attrs.get("output_padding", [0] * rank)),
    )
    if attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or attrs.get("output_shape"):
        raise Unsupported("auto_pad or output_shape", "use explicit pads")
    outside = auto_pads(imp, node, t.shape[:2], (kh, kw), (1, 1), (1, 1), rank)
    reach = (dilation[0] * (kh - 1), dilation[1] * (kw - 1))
    pads = [reach[i % 2] - p + (more[i % 2] if i > 1 else 0) for i, p in enumerate(outside)]
    if min(pads) < 0:
        raise Unsupported(f"pads {list(outside)} beyond the kernel", "crop with a Slice behind the node")
    wide = ((t.shape[0] - 1) * stride[0] + 1, (t.shape[1] - 1) * stride[1] + 1, t.shape[2])
    if wide != t.shape:
        inserted = imp.on_plane(act, wide)
        act = Act(
            mosaic(imp, node, [act.value], [(0, 0, 0)], (*stride, 1), wide, inserted.layout, f"{node.output[0]}:wide"), act.batch
        )  # type: ignore[arg-type]
    window = _Window((1, 1), (pads[0], pads[1], pads[2], pads[3]), dilation, groups)
    _conv(imp, node, act, act.value, weight, _bias(imp, node, 2), node.output[0], window)


@handles("QLinearConv")
def qlinear_conv(imp: Importer, node: NodeProto) -> None:
    act = imp.plane(node, imp.typed(imp.act(node, 0), *imp.scale_zero(node, 1, 2)))
    w = _operator_weight(imp, node, 3)
    bias = imp.const(node, 8, "bias") if imp.has(node, 8) else None
    if bias is not None:
        bias = _int_bias(imp, act, w, bias)
    x = imp.dequantized(node, act, "x")
    _conv(imp, node, act, x, w, bias, f"{node.output[0]}:f")
    _requantize(imp, node, 6, 7)


@handles("Gemm")
def gemm(imp: Importer, node: NodeProto) -> None:
    attrs = imp.attrs(node)
    act = _transposed(imp, imp.floats(node, 0)) if attrs.get("transA") else imp.floats(node, 0)
    w = _weight(imp, node, 1)
    if attrs.get("transB"):
        w = _swap(w)
    alpha, beta = attrs.get("alpha", 1.0), attrs.get("beta", 1.0)
    if not (math.isfinite(alpha) and alpha > 0 and math.isfinite(beta)):
        raise Unsupported(f"alpha = {alpha:g}, beta = {beta:g}", "fold them into the weights before quantising")
    bias = _bias(imp, node, 2)
    if beta != 1 and bias is not None:
        bias = beta * (bias.real() if isinstance(bias, QConst) else np.asarray(bias, np.float64))
    act = imp.pixels(node, act) if len(imp.layout(act).axes) > 1 else imp.vector(node, act)
    _matmul(imp, node, act, act.value, replace(w, scale=w.scale * alpha), bias, node.output[0])


@handles("com.microsoft.QGemm")
def qgemm(imp: Importer, node: NodeProto) -> None:
    attrs = imp.attrs(node)
    if attrs.get("alpha", 1.0) != 1.0:
        raise Unsupported(f"alpha = {attrs['alpha']:g}", "fold alpha into the weights before quantising")
    act = imp.typed(imp.act(node, 0), *imp.scale_zero(node, 1, 2))
    act = imp.vector(node, _transposed(imp, act) if attrs.get("transA") else act)
    w = _operator_weight(imp, node, 3, axis=1)
    if attrs.get("transB"):
        w = _swap(QConst(w.q, w.scale, w.zero, 0 if w.scale.ndim else w.axis))
    if not imp.has(node, 7):
        raise Unsupported("output is not quantised", "give the node an output scale and zero point")
    bias = _int_bias(imp, act, w, imp.const(node, 6, "bias")) if imp.has(node, 6) else None
    x = imp.dequantized(node, act, "x")
    _matmul(imp, node, act, x, w, bias, f"{node.output[0]}:f")
    _requantize(imp, node, 7, 8)


@handles("MatMul")
def matmul(imp: Importer, node: NodeProto) -> None:
    if imp.is_const(node, 0):
        raise Unsupported("the constant is the left operand", "write x W instead of W x (transpose the weights)")
    if not imp.is_const(node, 1):
        a, b = imp.floats(node, 0), imp.floats(node, 1)
        matrix_product(imp, node, a, b, (a.value, b.value), node.output[0])
        return
    act = imp.pixels(node, imp.floats(node, 0))
    _matmul(imp, node, act, act.value, _weight(imp, node, 1), None, node.output[0])


@handles("QLinearMatMul")
def qlinear_matmul(imp: Importer, node: NodeProto) -> None:
    if not imp.is_const(node, 3):
        a, b = (imp.typed(imp.act(node, i), *imp.scale_zero(node, i + 1, i + 2)) for i in (0, 3))
        values = imp.dequantized(node, a, "a"), imp.dequantized(node, b, "b")
        matrix_product(imp, node, a, b, values, f"{node.output[0]}:f")
        _requantize(imp, node, 6, 7)
        return
    act = imp.pixels(node, imp.typed(imp.act(node, 0), *imp.scale_zero(node, 1, 2)))
    w = _operator_weight(imp, node, 3, axis=1)
    x = imp.dequantized(node, act, "x")
    _matmul(imp, node, act, x, w, None, f"{node.output[0]}:f")
    _requantize(imp, node, 6, 7)


# -- parts --------------------------------------------------------------------------------------------------------------


def _weight(imp: Importer, node: NodeProto, index: int) -> QConst:
    c = imp.const(node, index, "weight")
    if not isinstance(c, QConst):
        raise Unsupported(
            f"weight {node.input[index]!r} is not quantised ({c.dtype})", "quantise weights to int8 (a DequantizeLinear in front)"
        )
    return c


def _operator_weight(imp: Importer, node: NodeProto, index: int, axis: int = 0) -> QConst:
    """Weight, scale, zero point as three inputs of a QOperator node."""
    q = imp.const(node, index, "weight")
    if isinstance(q, QConst):
        raise Unsupported("weight is not an integer tensor")
    scale, zero = imp.scales(node, index + 1, index + 2, q.dtype)
    if scale.size == 1:
        return QConst(q, scale.reshape(()), zero.reshape(()) if zero.size == 1 else zero, 0)
    zero = np.broadcast_to(zero.ravel(), scale.size) if zero.size in (1, scale.size) else zero
    return QConst(q, scale.ravel(), zero, axis)


def _bias(imp: Importer, node: NodeProto, index: int) -> Const | None:
    if not imp.has(node, index):
        return None
    return imp.const(node, index, "bias")


def _int_bias(imp: Importer, act: Act, w: QConst, bias: Const) -> QConst:
    """An operator's int32 bias: its scale is x_scale * w_scale by definition."""
    if isinstance(bias, QConst) or bias.dtype != np.int32:
        raise Unsupported("bias is not int32", "quantise the bias with x_scale * w_scale")
    return QConst(bias, np.asarray(imp.type(act).scale * w.scale), np.zeros(w.scale.shape, np.int32), 0)


def _swap(w: QConst) -> QConst:
    if w.q.ndim != 2:
        raise Unsupported(f"weight has rank {w.q.ndim}, a matrix is expected")
    return QConst(w.q.T, w.scale, w.zero, 1 - w.axis)


def _transposed(imp: Importer, act: Act) -> Act:
    """The transpose of a matrix, one of whose axes is the batch."""
    return Act(act.value, 1 - act.batch) if len(imp.dims(act)) == 2 and act.batch != NO_BATCH else act


def _int8(w: QConst, channels_axis: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8] | None, npt.NDArray[np.float64]]:
    """Weights with zero point 0 and one scale per output channel. uint8 around 128 is the same thing re-expressed; where another zero point
    needs more than 8 bits, the weights are the sum of two arrays."""
    if w.q.dtype not in (np.int8, np.uint8):
        raise Unsupported(f"weights have type {w.q.dtype}, expected int8 or uint8", "quantise weights to 8 bits")
    if w.scale.ndim and w.axis != channels_axis:
        raise Unsupported(
            f"weights are quantised along axis {w.axis}", f"quantise along the output channels (axis {channels_axis})"
        )
    n = w.q.shape[channels_axis]
    if w.scale.ndim and w.scale.size != n:
        raise Unsupported(f"{w.scale.size} weight scales for {n} output channels")
    if w.zero.ndim and w.zero.size != w.q.shape[w.axis]:
        raise Unsupported(f"{w.zero.size} weight zero points for {w.q.shape[w.axis]} channels")
    centred = w.q.astype(np.int16) - w._along(w.zero).astype(np.int16)
    rest = None
    if centred.size and (centred.min() < -128 or centred.max() > 127):
        if centred.max() > 254:
            raise Unsupported("weights reach 255 steps above their zero point", "quantise weights symmetrically (zero point 0)")
        whole, centred = centred, np.clip(centred, -128, 127)
        rest = (whole - centred).astype(np.int8)
    return centred.astype(np.int8), rest, np.ascontiguousarray(np.broadcast_to(w.scale, (n,)).astype(np.float64))


def _bias_consts(bias: Const | None, n: int) -> dict[str, Array]:
    """The constants of ``conv_f`` that carry a bias: int32 with its scale, or real."""
    if bias is None:
        return {}
    values = bias.q if isinstance(bias, QConst) else np.asarray(bias)
    if values.size not in (1, n) or (values.ndim and values.shape[-1] not in (1, n)):
        raise Unsupported(f"bias of shape {values.shape} for {n} output channels")
    if isinstance(bias, QConst):
        if bias.q.dtype == np.int32 and not bias.zero.any():
            q = np.broadcast_to(bias.q.ravel(), (n,)).astype(np.int32)
            return {"bias_q": q, "bias_scale": np.broadcast_to(bias.scale, (n,)).astype(np.float64)}
        values = bias.real()
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        raise Unsupported("bias has NaN or infinite elements, or is not a number", "repair the initialiser")
    return {"bias": np.broadcast_to(values.ravel(), (n,)).astype(np.float64)}


def auto_pads(imp: Importer, node: NodeProto, plane: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int],
              dilation: tuple[int, int], rank: int) -> tuple[int, int, int, int]:  # fmt: skip
    """Pads (top, left, bottom, right) from ``pads`` or ``auto_pad`` of a window over ``rank`` axes."""
    attrs = imp.attrs(node)
    mode = attrs.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        pads = [int(p) for p in attrs.get("pads", [0, 0] * rank)] if mode == "NOTSET" else [0, 0] * rank
        if len(pads) != 2 * rank or min(pads) < 0:
            raise Unsupported(f"pads {pads}", f"pads must be {2 * rank} numbers, none negative")
        before, after = [0] * (2 - rank) + pads[:rank], [0] * (2 - rank) + pads[rank:]
        return (before[0], before[1], after[0], after[1])
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise Unsupported(f"auto_pad {mode!r}", "use explicit pads")
    before, after = [], []
    for size, k, s, d in zip(plane, kernel, stride, dilation, strict=True):
        total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return (before[0], before[1], after[0], after[1])


def pair(values: Any, what: str, rank: int) -> tuple[int, int]:
    """Numbers for height and width from an attribute of a window over ``rank`` axes that may be absent; 1 for a height there is not."""
    v = [int(x) for x in values] if values else [1] * rank
    if len(v) != rank or min(v) < 1:
        raise Unsupported(f"{what} {v}", f"{what} must be {rank} positive numbers")
    return (1, *v)[-2], v[-1]


@dataclass(frozen=True)
class _Window:
    stride: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int


def _conv(
    imp: Importer, node: NodeProto, act: Act, x: str, w: QConst, bias: Const | None, out: str, given: _Window | None = None
) -> None:
    """``given``: the window, where the node's attributes do not say it."""
    attrs, t, layout = imp.attrs(node), imp.type(act), imp.layout(act)
    rank = len(layout.axes) - 1
    if w.q.ndim != rank + 2:
        raise Unsupported(f"weight has rank {w.q.ndim}, the input {rank + 2}", "only 2-D and 1-D convolutions are supported")
    weight, rest, wscale = _int8(w, 0)
    if attrs.get("kernel_shape") and tuple(attrs["kernel_shape"]) != weight.shape[2:]:
        raise Unsupported(f"kernel_shape {list(attrs['kernel_shape'])} differs from the weight's {list(weight.shape[2:])}")
    weight = weight.reshape(*weight.shape[:2], *(1, *weight.shape[2:])[-2:])
    n, per_group, kh, kw = weight.shape
    groups = given.groups if given else int(attrs.get("group", 1))
    if groups < 1 or per_group * groups != t.shape[2] or n % groups:
        raise Unsupported(f"weight {list(w.q.shape)} with {groups} groups does not fit {t.shape[2]} input channels")
    if given:
        stride, pads, dilation = given.stride, given.pads, given.dilation
    else:
        stride, dilation = pair(attrs.get("strides"), "strides", rank), pair(attrs.get("dilations"), "dilations", rank)
        pads = auto_pads(imp, node, t.shape[:2], (kh, kw), stride, dilation, rank)
    h = window_output(t.shape[0], kh, stride[0], pads[0], pads[2], dilation[0])
    wide = window_output(t.shape[1], kw, stride[1], pads[1], pads[3], dilation[1])
    if min(h, wide) < 1:
        raise Unsupported(f"kernel {kh} x {kw} is larger than its padded input {t.shape[0]} x {t.shape[1]}")
    consts = {"weight": np.ascontiguousarray(weight.transpose(2, 3, 1, 0)), "wscale": wscale, **_bias_consts(bias, n)}
    if rest is not None:
        consts["rest"] = np.ascontiguousarray(rest.reshape(weight.shape).transpose(2, 3, 1, 0))
    made = Layout.planes((h, wide, n), rank + 1)
    if (order := imp.order(act, 0)) is not None:
        consts, channels = _reordered(consts, order, groups, layout.axes[0])
        made = Layout((channels, *made.axes[1:]))
    geometry = _geometry(imp, node, (kh, kw), stride, pads, dilation, groups)
    _emit(imp, node, act, x, out, TensorType("f32", (h, wide, n), layout=made), geometry, consts)


def _emit(
    imp: Importer,
    node: NodeProto,
    act: Act,
    x: str,
    out: str,
    made: TensorType,
    geometry: dict[str, Attr],
    consts: dict[str, Array],
) -> None:
    """The product. Where its weights are a sum of two (``rest``), every row of the input stands twice, once for each."""
    if (rest := consts.pop("rest", None)) is not None:
        t = imp.values[x]
        (kh, kw), (sh, sw), (top, left, bottom, right), (down, across) = (
            cast("tuple[int, ...]", geometry[k]) for k in ("kernel", "stride", "pads", "dilation")
        )
        if kh > 1 and down > 1:
            raise Unsupported("dilated weights with a zero point", "quantise weights symmetrically (zero point 0)")
        double = (2 * t.shape[0], *t.shape[1:])
        twice = TensorType("f32", double, layout=Layout.planes(double))
        x = imp.emit(node, "resize_f", [x], imp.fresh(f"{out}:twice"), twice, {"mode": "nearest"}, suffix=":twice")
        both = np.stack([consts["weight"], rest], axis=1)
        consts["weight"] = np.ascontiguousarray(both.reshape(2 * kh, *consts["weight"].shape[1:]))
        geometry = {**geometry, "kernel": (2 * kh, kw), "stride": (2 * sh, sw), "pads": (2 * top, left, 2 * bottom, right),
                    "dilation": (1, across), "asymmetric": True}  # fmt: skip
    imp.emit(node, "conv_f", [x], out, made, geometry, consts)
    imp.bind(node, act, out)


def _reordered(
    consts: dict[str, Array], order: npt.NDArray[np.int64], groups: int, channels: Axis
) -> tuple[dict[str, Array], Axis]:
    """Weights for input channels that are stored in another order, and the axis of the output channels. A depth-wise layer keeps the
    stored order, so its outputs are permuted as its inputs are."""
    count, n = len(order), consts["weight"].shape[3]
    if groups == 1:
        moved = {role: np.empty_like(consts[role]) for role in ("weight", "rest") if role in consts}
        for role, a in moved.items():
            a[:, :, order] = consts[role]
        return {**consts, **moved}, ((n, 1),) if n > 1 else ()
    if groups != count:
        raise Unsupported(
            f"{groups} groups of channels that are stored in another order", "put a convolution with one group behind the shuffle"
        )
    each = n // count
    at = (order[:, None] * each + np.arange(each)).ravel()  # stored place of every output channel
    outputs = {}
    for role, a in consts.items():
        outputs[role] = np.empty_like(a)
        outputs[role][..., at] = a
    return outputs, Layout.of([[*((size, step * each) for size, step in channels), (each, 1)]]).axes[0]


def _geometry(imp: Importer, node: NodeProto, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1),
              pads: tuple[int, int, int, int] = (0, 0, 0, 0), dilation: tuple[int, int] = (1, 1), groups: int = 1) -> dict[str, Attr]:  # fmt: skip
    return {"kernel": kernel, "stride": stride, "pads": pads, "dilation": dilation, "groups": groups, "param": _param(imp, node)}


def _matmul(imp: Importer, node: NodeProto, act: Act, x: str, w: QConst, bias: Const | None, out: str) -> None:
    t, axis = imp.type(act), len(imp.layout(act).axes) - 1
    if w.q.ndim != 2:
        raise Unsupported(
            f"weight has rank {w.q.ndim}, a matrix is expected", "only products with one weight matrix are supported"
        )
    weight, rest, wscale = _int8(w, 1)
    k, n = weight.shape
    if k != t.shape[2]:
        raise Unsupported(f"weight {list(weight.shape)} does not fit {t.shape[2]} inputs")
    consts = {"wscale": wscale, **_bias_consts(bias, n)}
    order = imp.order(act, axis)
    for role, values in (("weight", weight), ("rest", rest)):
        if values is not None:
            rows = np.empty_like(values)  # rows of W follow the ONNX order of the elements, the IR's follow the stored one
            rows[slice(None) if order is None else order] = values
            consts[role] = rows.reshape(1, 1, k, n)
    made = TensorType("f32", (*t.shape[:2], n), layout=imp.layout(act).with_channels(axis, k, n))
    _emit(imp, node, act, x, out, made, _geometry(imp, node, (1, 1)), consts)


def _param(imp: Importer, node: NodeProto) -> str:
    """Name of the initialiser the weight comes from, for ``--trainable`` patterns."""
    index = 3 if node.op_type.startswith("Q") else 1
    return imp.params.get(node.input[index], node.input[index])


def _requantize(imp: Importer, node: NodeProto, scale: int, zero: int) -> None:
    """The quantised output of a QOperator node, from the real value the node just made."""
    act = imp.acts[node.output[0]]
    requantize(imp, node, act, *imp.scale_zero(node, scale, zero))


def requantize(imp: Importer, node: NodeProto, act: Act, scale: float, zero: int, dtype: str) -> None:
    """Quantise ``act`` and make it the node's output."""
    t = replace(imp.type(act), dtype=dtype, scale=scale, zero=zero)
    imp.bind(node, act, imp.emit(node, "quantize", [act.value], node.output[0], t, suffix=":q"))
