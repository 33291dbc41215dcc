"""Every kind of operation, declared once: level, arity, attributes, constants, rule, meaning. Formulas: docs/reference/numerics.md.

Levels: ``float`` kinds stand between a dequantize and a quantize and are gone after canonicalisation; ``int`` kinds are what the
backend consumes; ``both`` moves stored values without arithmetic; ``train`` kinds form the backward half of a training graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import get_args

import numpy as np

from sasimc.ir.attention import EXP_ONE
from sasimc.ir.functions import FUNCTIONS
from sasimc.ir.graph import Graph, Op, Shape, TensorType, TrainGraph, type_range
from sasimc.ir.layout import Layout
from sasimc.ir.words import ErrorRange, Range, Rounding, Update

__all__ = [
    "ERROR_RANGES",
    "KINDS",
    "RANGES",
    "ROUNDINGS",
    "UPDATES",
    "UPDATES_FROM",
    "Kind",
    "conv_output",
    "places",
    "resize_index",
    "window_output",
]

UPDATES, RANGES, ROUNDINGS, ERROR_RANGES = (get_args(words) for words in (Update, Range, Rounding, ErrorRange))

UPDATES_FROM = 1 << 14
"""Streams of random numbers below are of error tensors; from here on two a trainable layer, of its weights and its learned bias."""

Rule = Callable[["Graph | TrainGraph", Op], str | None]

# attribute type names: i integer, f float, s string, b boolean, i2/i4 tuple of integers of that length
_CLAMP = {"lo": "i", "hi": "i", "mask_lo": "b", "mask_hi": "b"}
_WINDOW = {"kernel": "i2", "stride": "i2", "pads": "i4"}


@dataclass(frozen=True)
class Kind:
    """What an op of this kind carries; ``arity`` is (least, most) inputs, ``rule`` returns what is wrong or None."""

    name: str
    level: str
    doc: str
    arity: tuple[int, int]
    rule: Rule
    attrs: Mapping[str, str] = field(default_factory=dict)
    optional: Mapping[str, str] = field(default_factory=dict)
    consts: Mapping[str, str] = field(default_factory=dict)
    optional_consts: Mapping[str, str] = field(default_factory=dict)
    output: bool = True


def window_output(size: int, kernel: int, stride: int, before: int, after: int, dilation: int = 1) -> int:
    """Output positions of a sliding window along one axis."""
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def conv_output(x: Shape, op: Op, channels: int) -> Shape:
    """Output shape of a convolution or pool with the op's window attributes."""
    (kh, kw), (sh, sw), (t, left, b, r) = op.ints("kernel"), op.ints("stride"), op.ints("pads")
    dh, dw = op.ints("dilation") if "dilation" in op.attrs else (1, 1)
    return (window_output(x[0], kh, sh, t, b, dh), window_output(x[1], kw, sw, left, r, dw), channels)


def resize_index(out: int, size_in: int, size_out: int) -> int:
    """Source row (or column) of a nearest, asymmetric, floor resize."""
    return out * size_in // size_out


def _types(g: Graph | TrainGraph, op: Op) -> tuple[list[TensorType], TensorType]:
    return [g.type(v) for v in op.inputs], g.type(op.output)


def _clamp(op: Op, out: TensorType) -> str | None:
    lo, hi = type_range(out.dtype)
    if out.dtype not in ("u8", "i8"):
        return f"output is {out.dtype}, expected u8 or i8"
    if not lo <= op.int_attr("lo") <= op.int_attr("hi") <= hi:
        return f"clamp [{op.attrs['lo']}, {op.attrs['hi']}] is not a range inside {out.dtype}"
    return None


def _factor(mult: int, shift: int) -> str | None:
    if not (abs(mult) < 2**31 and 1 <= shift <= 62):
        return f"multiplier {mult} or shift {shift} is outside |M| < 2^31, 1 <= S <= 62"
    return None


def _same_shape(a: TensorType, b: TensorType, what: str = "output") -> str | None:
    return None if a.shape == b.shape else f"{what} shape {b.shape} differs from {a.shape}"


def _same_layout(a: TensorType, b: TensorType, what: str = "output") -> str | None:
    """Element by element: the axes must be the same where both sides say them."""
    if a.layout is None or b.layout is None or a.layout == b.layout:
        return None
    return f"{what} has the axes {b.layout.text(b.shape)!r}, the input {a.layout.text(a.shape)!r}"


def _whole_planes(t: TensorType) -> str | None:
    """Height and width must each be a whole axis of the ONNX tensor where a window moves over them."""
    parts = t.layout.parts(t.shape) if t.layout is not None else ()
    if parts is None or any(len(a) > 1 and any(name != "C" for name, _, _ in a) for a in parts):
        return f"a window moves over height and width, which are no whole axes ({t.layout.text(t.shape) if t.layout else ''})"
    return None


def _window(op: Op, x: TensorType, out: TensorType, channels: int) -> str | None:
    if min(*op.ints("kernel"), *op.ints("stride")) < 1 or min(op.ints("pads")) < 0:
        return "kernel and stride must be positive, pads not negative"
    if op.ints("kernel") != (1, 1) and op.ints("kernel") != x.shape[:2] and (bad := _whole_planes(x)):
        return bad
    want = conv_output(x.shape, op, channels)
    return None if want == out.shape and min(want) > 0 else f"output shape is {out.shape}, the window gives {want}"


def _conv_geometry(g: Graph, op: Op) -> str | None:
    (x,), out = _types(g, op)
    weight, groups = g.constant(op, "weight"), op.int_attr("groups")
    if weight.dtype != "int8" or weight.ndim != 4:
        return f"weight must be int8 [kh, kw, Cin / groups, N], not {weight.dtype} {weight.shape}"
    n = weight.shape[3]
    if groups < 1 or x.shape[2] % groups or n % groups or weight.shape[:3] != (*op.ints("kernel"), x.shape[2] // groups):
        return f"weight {weight.shape} does not fit input {x.shape}, kernel {op.attrs['kernel']}, groups {groups}"
    if min(op.ints("dilation")) < 1:
        return "dilation must be positive"
    if g.constant(op, "wscale").shape != (n,):
        return f"wscale must have {n} elements"
    return _window(op, x, out, n)


def _conv(g: Graph | TrainGraph, op: Op) -> str | None:
    assert isinstance(g, Graph)
    if bad := _conv_geometry(g, op):
        return bad
    out, n = g.type(op.output), g.constant(op, "weight").shape[3]
    # between passes a bias may need more than 32 bits, until the zero point of the input is another
    for role, dtypes in (("bias", ("int32", "int64")), ("mult", ("int32",)), ("shift", ("int32",))):
        if (a := g.constant(op, role)).dtype.name not in dtypes or a.shape != (n,):
            return f"{role} must be {dtypes[0]} [{n}], not {a.dtype} {a.shape}"
    if "learned" in op.attrs and not (op.flag("trainable") and 1 <= op.int_attr("learned") <= 8):
        return "a learned bias belongs to a trainable layer and has 1 to 8 fraction bits"
    channels = g.type(op.inputs[0]).shape[2]
    if op.flag("depthwise") != (op.int_attr("groups") == channels > 1):
        return "depthwise must say whether groups == Cin > 1"
    return _arrays_factor(g, op) or _clamp(op, out)


def _arrays_factor(g: Graph, op: Op) -> str | None:
    mult, shift = g.constant(op, "mult"), g.constant(op, "shift")
    for m, s in zip(mult.tolist(), shift.tolist(), strict=True):
        if bad := _factor(m, s):
            return bad
    return None


def _conv_f(g: Graph | TrainGraph, op: Op) -> str | None:
    assert isinstance(g, Graph)
    return _conv_geometry(g, op)


def _add(g: Graph | TrainGraph, op: Op) -> str | None:
    (a, b), out = _types(g, op)
    bad = _same_shape(a, b, "second input") or _same_shape(a, out) or _same_layout(a, b, "second input") or _same_layout(a, out)
    return (
        bad
        or _clamp(op, out)
        or _factor(op.int_attr("ma"), op.int_attr("shift"))
        or _factor(op.int_attr("mb"), op.int_attr("shift"))
    )


def _avgpool(g: Graph | TrainGraph, op: Op) -> str | None:
    (x,), out = _types(g, op)
    if op.flag("global") and op.ints("kernel") != x.shape[:2]:
        return f"a global pool's kernel must be the plane {x.shape[:2]}"
    return _window(op, x, out, x.shape[2]) or _factor(op.int_attr("mult"), op.int_attr("shift")) or _clamp(op, out)


def _pool_f(g: Graph | TrainGraph, op: Op) -> str | None:
    (x,), out = _types(g, op)
    return _window(op, x, out, x.shape[2])


def _moves(g: Graph | TrainGraph, op: Op) -> str | None:
    ins, out = _types(g, op)
    for v, t in zip(op.inputs, ins, strict=True):
        if t.quant != out.quant:
            return f"input {v!r} ({t}) and output ({out}) must share dtype, scale and zero point"
    return None


def _maxpool(g: Graph | TrainGraph, op: Op) -> str | None:
    (x,), out = _types(g, op)
    (kh, kw), pads = op.ints("kernel"), op.ints("pads")
    if max(pads[0], pads[2]) >= kh or max(pads[1], pads[3]) >= kw:
        return "a max pool's padding must be smaller than its kernel"
    return _moves(g, op) or _window(op, x, out, x.shape[2])


def _resize_shape(g: Graph | TrainGraph, op: Op) -> str | None:
    (x,), out = _types(g, op)
    mode = op.str_attr("mode")
    if mode not in ("nearest", "linear"):
        return f"unknown resize mode {mode!r}"
    if x.shape[2] != out.shape[2]:
        return "a resize keeps the channels"
    if mode == "linear" and out.shape[:2] != (2 * x.shape[0], 2 * x.shape[1]):
        return "a linear resize doubles height and width"
    return _whole_planes(x)


def _resize(g: Graph | TrainGraph, op: Op) -> str | None:
    return _resize_shape(g, op) or _factor(op.int_attr("mult"), op.int_attr("shift")) or _clamp(op, g.type(op.output))


def _rescale(g: Graph | TrainGraph, op: Op) -> str | None:
    assert isinstance(g, Graph)
    (x,), out = _types(g, op)
    for role, dtype in (("mult", "int32"), ("shift", "int32"), ("bias", "int32"), ("cscale", "float64")):
        if (a := g.constant(op, role)).dtype != dtype or a.shape != (x.shape[2],):
            return f"{role} must be {dtype} [{x.shape[2]}], not {a.dtype} {a.shape}"
    return _same_shape(x, out) or _same_layout(x, out) or _arrays_factor(g, op) or _clamp(op, out)


def _lut(g: Graph | TrainGraph, op: Op) -> str | None:
    assert isinstance(g, Graph)
    (x,), out = _types(g, op)
    table, slope = g.constant(op, "table"), g.constant(op, "slope")
    if out.dtype not in ("u8", "i8"):
        return f"output is {out.dtype}, expected u8 or i8"
    if (
        table.dtype != "int16"
        or slope.dtype != "float64"
        or table.shape not in ((256,), (x.shape[2], 256))
        or slope.shape != table.shape
    ):
        return f"table {table.dtype} {table.shape} and slope {slope.dtype} {slope.shape} must have 256 elements, or as many for each channel"
    lo, hi = type_range(out.dtype)
    if table.min() < lo or table.max() > hi:
        return f"the table has values outside {out.dtype}"
    return _same_shape(x, out) or _same_layout(x, out)


def _softmax(g: Graph | TrainGraph, op: Op) -> str | None:
    assert isinstance(g, Graph)
    (x,), out = _types(g, op)
    exp = g.constant(op, "exp")
    if exp.dtype != "int32" or exp.shape != (256,) or exp[0] != EXP_ONE or exp.min() < 0 or exp.max() > EXP_ONE:
        return f"exp must be int32 [256], {EXP_ONE} first and the most"
    return _same_shape(x, out) or _same_layout(x, out) or _factor(op.int_attr("mult"), op.int_attr("shift")) or _clamp(op, out)


def _softmax_f(g: Graph | TrainGraph, op: Op) -> str | None:
    (x,), _ = _types(g, op)
    rank = 0 if x.layout is None else len(x.layout.axes)
    return _elementwise(g, op) or (None if 0 <= op.int_attr("axis") < max(rank, 1) else f"axis {op.attrs['axis']} of {rank}")


def _layer_norm(g: Graph | TrainGraph, op: Op) -> str | None:
    assert isinstance(g, Graph)
    (x,), out = _types(g, op)
    for role in ("mult", "shift", "bias"):
        if (a := g.constant(op, role)).dtype != "int32" or a.shape != (x.shape[2],):
            return f"{role} must be int32 [{x.shape[2]}], not {a.dtype} {a.shape}"
    if not (0 <= op.int_attr("eps") < 2**31 and 0 <= op.int_attr("up") <= 31):
        return f"eps {op.attrs['eps']} or up {op.attrs['up']} is outside 0 <= eps < 2^31, 0 <= up <= 31"
    return _same_shape(x, out) or _same_layout(x, out) or _arrays_factor(g, op) or _clamp(op, out)


def _layer_norm_f(g: Graph | TrainGraph, op: Op) -> str | None:
    channels = g.type(op.inputs[0]).shape[2]
    for role in ("scale", "bias"):
        if (c := g.constant(op, role)).shape != (channels,):
            return f"{role} has shape {c.shape}, expected ({channels},)"
    return _elementwise(g, op) or (None if op.float_attr("eps") >= 0 else f"eps is {op.attrs['eps']}")


def _matmul_f(g: Graph | TrainGraph, op: Op) -> str | None:
    """Strides: of groups, rows and columns of each matrix."""
    (a, b), out = _types(g, op)
    groups, m, k, n = op.ints("sizes")
    if min(groups, m, k, n) < 1:
        return f"sizes {op.attrs['sizes']} must be positive"
    for role, t, sizes in (("a", a, (groups, m, k)), ("b", b, (groups, k, n)), ("y", out, (groups, m, n))):
        strides = op.ints(role)
        last = sum((size - 1) * step for size, step in zip(sizes, strides, strict=True))
        if min(strides) < 0 or last >= t.size:
            return f"{role}: {sizes} with strides {strides} are not inside {t.shape}"
    axes = Layout.of([[(size, step)] for size, step in zip((groups, m, n), op.ints("y"), strict=True)])
    return None if axes.covers(out.size) else f"y: strides {op.attrs['y']} do not write every element of {out.shape} once"


def _matmul(g: Graph | TrainGraph, op: Op) -> str | None:
    return _matmul_f(g, op) or _factor(op.int_attr("mult"), op.int_attr("shift")) or _clamp(op, g.type(op.output))


def _constant(g: Graph | TrainGraph, op: Op) -> str | None:
    assert isinstance(g, Graph)
    values, out = g.constant(op, "values"), g.type(op.output)
    if values.shape != out.shape:
        return f"values have the shape {values.shape}, the output {out.shape}"
    if out.dtype == "f32":
        return None if values.dtype == "float64" else f"values are {values.dtype}, not float64"
    lo, hi = type_range(out.dtype)
    if values.dtype != "int16" or out.dtype == "i32" or values.min() < lo or values.max() > hi:
        return f"values {values.dtype} must be int16 inside {out.dtype}"
    return None


def _broadcasts(a: TensorType, b: TensorType) -> str | None:
    """Whether ``b`` has, along each axis, the elements of ``a`` or one for all of them; what is wrong, else."""
    if any(have not in (1, want) for have, want in zip(b.shape, a.shape, strict=True)):
        return f"second input {b.shape} does not broadcast to {a.shape}"
    if a.layout is None or b.layout is None:
        return None
    ours, theirs = a.layout.parts(a.shape), b.layout.parts(b.shape)
    if (
        ours is None
        or theirs is None
        or len(ours) != len(theirs)
        or any(part not in ((), whole) for part, whole in zip(theirs, ours, strict=True))
    ):
        return f"second input has the axes {b.layout.text(b.shape)!r}, the first {a.layout.text(a.shape)!r}"
    return None


def _mul(g: Graph | TrainGraph, op: Op) -> str | None:
    (a, b), out = _types(g, op)
    bad = _broadcasts(a, b) or _same_shape(a, out) or _same_layout(a, out)
    return bad or _clamp(op, out) or _factor(op.int_attr("mult"), op.int_attr("shift"))


def _product_f(g: Graph | TrainGraph, op: Op) -> str | None:
    (a, b), out = _types(g, op)
    return _broadcasts(a, b) or _same_shape(a, out) or _same_layout(a, out)


def _unary_f(g: Graph | TrainGraph, op: Op) -> str | None:
    if op.str_attr("function") not in FUNCTIONS:
        return f"unknown function {op.attrs['function']!r}"
    return _elementwise(g, op) if "c" not in op.consts else _per_channel(g, op)


def _concat(g: Graph | TrainGraph, op: Op) -> str | None:
    ins, out = _types(g, op)
    want = (*ins[0].shape[:2], sum(t.shape[2] for t in ins))
    if any(t.shape[:2] != want[:2] for t in ins) or out.shape != want:
        return f"inputs {[t.shape for t in ins]} do not join along channels to {out.shape}"
    for t in ins:
        parts = t.layout.parts(t.shape) if t.layout is not None else ()
        if parts is None or any(
            name == "C" and (len(axis) > 1 or size != t.shape[2]) for axis in parts for name, size, _ in axis
        ):
            return f"channels are no whole axis of the input {t.layout.text(t.shape) if t.layout else ''}"
    return _moves(g, op)


def _pad(g: Graph | TrainGraph, op: Op) -> str | None:
    (x,), out = _types(g, op)
    t, left, b, r = op.ints("pads")
    if min(t, left, b, r) < 0 or out.shape != (x.shape[0] + t + b, x.shape[1] + left + r, x.shape[2]):
        return f"pads {op.attrs['pads']} do not lead from {x.shape} to {out.shape}"
    return _moves(g, op)


def _slice(g: Graph | TrainGraph, op: Op) -> str | None:
    (x,), out = _types(g, op)
    start, step = op.ints("start"), op.ints("step")
    ends = [a + (n - 1) * s for a, n, s in zip(start, out.shape, step, strict=True)]
    if min(start) < 0 or min(step) < 1 or any(e >= size for e, size in zip(ends, x.shape, strict=True)):
        return f"{out.shape} from {start} on, every {step}, is not inside {x.shape}"
    return _moves(g, op)


def _mosaic(g: Graph | TrainGraph, op: Op) -> str | None:
    ins, out = _types(g, op)
    starts, step = op.ints("starts"), op.ints("step")
    if len(starts) != 3 * len(ins) or min(starts) < 0 or min(step) < 1:
        return "needs a start for each input, and steps from 1"
    free = np.ones(out.shape, bool)
    for i, t in enumerate(ins):
        at = places(starts[3 * i : 3 * i + 3], step, t.shape)
        if free[at].shape != t.shape:
            return f"input {t.shape} from {starts[3 * i : 3 * i + 3]} on, every {step}, is not inside {out.shape}"
        if not free[at].all():
            return "inputs overlap"
        free[at] = False
    return _moves(g, op)


def places(start: tuple[int, ...], step: tuple[int, ...], shape: Shape) -> tuple[slice, ...]:
    """Where a slice of ``shape`` stands in a tensor."""
    return tuple(slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(start, shape, step, strict=True))


def _reshape(g: Graph | TrainGraph, op: Op) -> str | None:
    (x,), out = _types(g, op)
    return _moves(g, op) if x.size == out.size else f"cannot reshape {x.shape} to {out.shape}"


def _argmax(g: Graph | TrainGraph, op: Op) -> str | None:
    (x,), out = _types(g, op)
    if x.shape[:2] != (1, 1) or (out.dtype, out.shape) != ("i32", (1, 1, 1)):
        return f"arg max reads a vector and gives i32 (1, 1, 1), not {x.shape} -> {out}"
    if x.layout is not None and [a for a in x.layout.axes if a] not in ([], [((x.shape[2], 1),)]):
        return f"arg max numbers channels as they are stored, the axes are {x.layout.text(x.shape)!r}"
    return None


def _elementwise(g: Graph | TrainGraph, op: Op) -> str | None:
    ins, out = _types(g, op)
    for t in ins:
        if bad := _same_shape(t, out) or _same_layout(t, out):
            return bad
    return None


def _per_channel(g: Graph | TrainGraph, op: Op) -> str | None:
    c, channels = g.constant(op, "c"), g.type(op.inputs[0]).shape[2]
    return _elementwise(g, op) or (None if c.shape == (channels,) else f"constant has shape {c.shape}, expected ({channels},)")


def _casts(g: Graph | TrainGraph, op: Op) -> str | None:
    (x,), out = _types(g, op)
    want = ("f32" not in (out.dtype,), x.dtype == "f32") if op.kind == "quantize" else (out.dtype == "f32", x.dtype != "f32")
    return _elementwise(g, op) or (None if all(want) else f"{op.kind} from {x.dtype} to {out.dtype}")


def _nothing(g: Graph | TrainGraph, op: Op) -> str | None:
    return None


def _error(dtype: str, forward_input: bool = True) -> Rule:
    """Rule of a transposed op: the output has ``dtype`` and the shape of the forward op's input (``at`` for a concat slice)."""

    def rule(g: Graph | TrainGraph, op: Op) -> str | None:
        assert isinstance(g, TrainGraph)
        forward, out = g.forward.op(op.str_attr("forward")), g.type(op.output)
        err, target = g.type(op.inputs[0]), g.forward.type(forward.output)
        if err.dtype != "i8" or err.shape != target.shape:
            return f"error {err} does not fit the output {target} of {forward.name!r}"
        if out.dtype != dtype or (forward_input and out.shape not in [g.forward.type(v).shape for v in forward.inputs]):
            return f"output {out} does not fit the input of {forward.name!r}"
        return None

    return rule


def _lut_t(g: Graph | TrainGraph, op: Op) -> str | None:
    assert isinstance(g, TrainGraph)
    slope, channels = g.constant(op, "slope"), g.type(op.output).shape[2]
    if slope.dtype != "int8" or slope.shape not in ((256,), (channels, 256)):
        return f"slope must be int8 [256] or [{channels}, 256], not {slope.dtype} {slope.shape}"
    forward = g.forward.op(op.str_attr("forward"))
    return _error("i32")(g, op) or (None if op.inputs[1] == forward.inputs[0] else f"reads {op.inputs[1]!r}, not its input")


def _mul_t(g: Graph | TrainGraph, op: Op) -> str | None:
    assert isinstance(g, TrainGraph)
    forward, index = g.forward.op(op.str_attr("forward")), op.int_attr("index")
    if index not in (0, 1) or op.inputs[1] != forward.inputs[1 - index]:
        return f"the error of input {index} needs the other factor, not {op.inputs[1]!r}"
    if g.type(op.output).shape != g.forward.type(forward.inputs[index]).shape:
        return f"output {g.type(op.output)} does not fit input {index} of {forward.name!r}"
    return _error("i32")(g, op)


def _stage(g: Graph | TrainGraph, op: Op) -> str | None:
    x, out = g.type(op.inputs[0]), g.type(op.output)
    if out.dtype != "i8":
        return f"a stage gives i8, not {out.dtype}"
    for role in ("kpool", "kscale"):
        if role in op.consts and g.constant(op, role).shape != (x.shape[2],):
            return f"{role} must have {x.shape[2]} elements"
    if (rounding := op.attrs.get("rounding", ROUNDINGS[0])) not in ROUNDINGS:
        return f"rounding must be one of {', '.join(ROUNDINGS)}, not {rounding!r}"
    if (rounding == "unbiased") != ("stream" in op.attrs):
        return "random numbers have the number of a stream"
    if (span := op.attrs.get("range", ERROR_RANGES[0])) not in ERROR_RANGES:
        return f"range must be one of {', '.join(ERROR_RANGES)}, not {span!r}"
    return _same_shape(x, out)


def _merge(g: Graph | TrainGraph, op: Op) -> str | None:
    (a, b), out = _types(g, op)
    if (a.dtype, b.dtype, out.dtype) != ("i8", "i8", "i32"):
        return "merge adds two i8 errors to i32"
    return _same_shape(a, b, "second input") or _same_shape(a, out)


def _xent(g: Graph | TrainGraph, op: Op) -> str | None:
    (x,), out = _types(g, op)
    if x.shape[:2] != (1, 1) or out.dtype != "i32":
        return f"cross-entropy reads a vector of logits and gives i32, not {x} -> {out}"
    return _same_shape(x, out)


def _sqerr(g: Graph | TrainGraph, op: Op) -> str | None:
    (x,), out = _types(g, op)
    return _same_shape(x, out) if out.dtype == "i32" else f"the squared error gives i32, not {out}"


def _update(g: Graph | TrainGraph, op: Op) -> str | None:
    assert isinstance(g, TrainGraph)
    conv, err = g.forward.op(op.str_attr("forward")), g.type(op.inputs[1])
    if conv.kind != "conv" or not conv.flag("trainable"):
        return f"{conv.name!r} is not a trainable convolution"
    if op.inputs[0] != conv.inputs[0] or err.dtype != "i8" or err.shape != g.forward.type(conv.output).shape:
        return f"update of {conv.name!r} needs its input and the int8 error of its output"
    channels = g.forward.constant(conv, "weight").shape[3]
    if "gscale" in op.consts and g.constant(op, "gscale").shape != (channels,):
        return f"gscale must have {channels} elements"
    if (scheme := op.attrs.get("scheme", UPDATES[0])) not in UPDATES:
        return f"scheme must be one of {', '.join(UPDATES)}, not {scheme!r}"
    if (span := op.attrs.get("range", RANGES[0])) not in RANGES:
        return f"range must be one of {', '.join(RANGES)}, not {span!r}"
    return None if op.attrs["mu"] in ("head", "rep") else f"mu must be 'head' or 'rep', not {op.attrs['mu']!r}"


_GEOMETRY = {**_WINDOW, "dilation": "i2", "groups": "i"}
_FACTOR = {"mult": "i", "shift": "i", "bias": "i"}
_CHANNEL = {"mult": "i32[N]", "shift": "i32[N]", "bias": "i32[N]"}
_MATRICES = {"sizes": "i4", "a": "i3", "b": "i3", "y": "i3"}
_FORWARD = {"forward": "s"}

_TABLE = (
    # integer forward
    Kind("conv", "int", "Convolution, Gemm, MatMul: clamp(rne((acc + bias) * mult, shift) + zero, lo, hi).", (1, 1), _conv,
         {**_GEOMETRY, "depthwise": "b", **_CLAMP}, {"trainable": "b", "head": "b", "param": "s", "asymmetric": "b", "learned": "i"},
         {"weight": "i8[kh,kw,Cin/groups,N]", **_CHANNEL, "wscale": "f64[N]"}),
    Kind("add", "int", "Addition of two tensors with their own scales; a negative factor subtracts.", (2, 2), _add,
         {"ma": "i", "mb": "i", "shift": "i", **_CLAMP}),
    Kind("mul", "int", "Product of two tensors; the second may have one row, pixel or channel for all.", (2, 2), _mul,
         {"mult": "i", "shift": "i", **_CLAMP}),
    Kind("lut", "int", "Any function of one stored value: a table, from the lowest value of the input's type on; its real slope, for training.",
         (1, 1), _lut, {}, {}, {"table": "i16[256] or [C,256]", "slope": "f64[256] or [C,256]"}),
    Kind("softmax", "int", "Shares of 1 over the channels of a pixel, by a table of exponentials and a reciprocal.", (1, 1), _softmax,
         {"mult": "i", "shift": "i", **_CLAMP}, {}, {"exp": "i32[256]"}),
    Kind("layernorm", "int", "Layer norm over the channels of a pixel; eps 2^up is added to n^2 times the variance.", (1, 1), _layer_norm,
         {"eps": "i", "up": "i", **_CLAMP}, {}, _CHANNEL),
    Kind("matmul", "int", "Products of matrices [G, M, K] and [G, K, N] that stand in two tensors with these strides.", (2, 2), _matmul,
         {**_MATRICES, "mult": "i", "shift": "i", **_CLAMP}),
    Kind("constant", "both", "A tensor that is the same for all samples: stored integers, or (float) real values.", (0, 0), _constant, {}, {},
         {"values": "i16[H,W,C] or f64[H,W,C]"}),
    Kind("avgpool", "int", "Average pool; padding reads the zero point.", (1, 1), _avgpool,
         {**_WINDOW, **_FACTOR, "global": "b", **_CLAMP}),
    Kind("maxpool", "both", "Max pool; padding never wins.", (1, 1), _maxpool, _WINDOW),
    Kind("resize", "int", "Nearest (any size) or linear (factor 2) resize.", (1, 1), _resize, {"mode": "s", **_FACTOR, **_CLAMP}),
    Kind("rescale", "int", "Requantise each channel by its own factor.", (1, 1), _rescale, _CLAMP, {},
         {**_CHANNEL, "cscale": "f64[C]"}),
    Kind("concat", "both", "Join along channels.", (1, 10**6), _concat),
    Kind("slice", "both", "Every step-th row, column and channel from start on.", (1, 1), _slice, {"start": "i3", "step": "i3"}),
    Kind("mosaic", "both", "Inputs side by side: each from its start on, every step; zero points between.", (1, 10**6), _mosaic,
         {"starts": "i*", "step": "i3"}),
    Kind("pad", "both", "Border of zero points.", (1, 1), _pad, {"pads": "i4"}),
    Kind("reshape", "both", "The same stored elements under another shape or other axes.", (1, 1), _reshape),
    Kind("argmax", "both", "Index of the largest element, the lowest among equals.", (1, 1), _argmax),
    # float, before canonicalisation
    Kind("quantize", "float", "clamp(round_half_even(x / scale) + zero).", (1, 1), _casts),
    Kind("dequantize", "float", "scale * (q - zero).", (1, 1), _casts),
    Kind("conv_f", "float", "Real convolution, symmetric int8 weights; bias real, or bias_q at bias_scale.", (1, 1), _conv_f,
         _GEOMETRY, {"param": "s", "trainable": "b", "asymmetric": "b"}, {"weight": "i8[kh,kw,Cin/groups,N]", "wscale": "f64[N]"},
         {"bias": "f64[N]", "bias_q": "i32[N]", "bias_scale": "f64[N]"}),
    Kind("add_f", "float", "Real addition, or subtraction.", (2, 2), _elementwise, {}, {"minus": "b"}),
    Kind("product_f", "float", "Real product of two tensors; the second may have one row, pixel or channel for all.", (2, 2), _product_f),
    Kind("quotient_f", "float", "Real quotient of two tensors; the second may have one row, pixel or channel for all.", (2, 2), _product_f),
    Kind("unary_f", "float", "A function of each element (`sasimc.ir.functions`).", (1, 1), _unary_f, {"function": "s"},
         {"alpha": "f", "beta": "f", "gamma": "f", "exponent": "f", "approximate": "s"}, {}, {"c": "f64[C]"}),
    Kind("addc_f", "float", "Add a constant to each channel.", (1, 1), _per_channel, {}, {}, {"c": "f64[C]"}),
    Kind("mul_f", "float", "Multiply each channel by a constant.", (1, 1), _per_channel, {}, {}, {"c": "f64[C]"}),
    Kind("clip_f", "float", "Clip to [lo, hi], either of them infinite.", (1, 1), _elementwise, {"lo": "f", "hi": "f"}),
    Kind("avgpool_f", "float", "Real average pool, padding counted.", (1, 1), _pool_f, {**_WINDOW, "global": "b"}),
    Kind("resize_f", "float", "Real resize.", (1, 1), _resize_shape, {"mode": "s"}),
    Kind("softmax_f", "float", "Softmax over an axis of the layout; the host's at the end of the graph.", (1, 1), _softmax_f,
         {"axis": "i"}, {"log": "b"}),
    Kind("layernorm_f", "float", "Real layer norm over the channels of a pixel.", (1, 1), _layer_norm_f, {"eps": "f"}, {},
         {"scale": "f64[C]", "bias": "f64[C]"}),
    Kind("matmul_f", "float", "Real products of matrices that stand in two tensors.", (2, 2), _matmul_f, _MATRICES),
    Kind("opaque", "float", "Stands for an operator that is not supported; only while a report is made.", (0, 10**6), _nothing),
    # training
    Kind("xent", "train", "Integer cross-entropy: error of the logits, exponent 0.", (1, 1), _xent,
         {"logit_mult": "i", "eps_q15": "i", "t_other": "i", "t_label": "i"}),
    Kind("sqerr", "train", "Squared error: output minus target, exponent 0.", (1, 1), _sqerr),
    Kind("stage", "train", "Pool factor, mask, channel scale, quantisation to int8; exponent + exp_add + shift.", (1, 1), _stage,
         {"mask_of": "s", "lo": "i", "hi": "i", "mask_lo": "b", "mask_hi": "b", "exp_add": "i"}, {"rounding": "s", "range": "s", "stream": "i"}, {},
         {"kpool": "i32[C]", "kscale": "i32[C]"}),
    Kind("conv_t", "train", "Error of a convolution's input (eq. 1).", (1, 1), _error("i32"), _FORWARD),
    Kind("avgpool_t", "train", "Sum of the errors of the windows an input is in.", (1, 1), _error("i32"), _FORWARD),
    Kind("maxpool_t", "train", "The first maximum of each window receives its error.", (2, 2), _error("i32"), _FORWARD),
    Kind("lut_t", "train", "The error times the derivative at the saved input; exponent + exp_add.", (2, 2), _lut_t,
         {**_FORWARD, "exp_add": "i"}, {}, {"slope": "i8[256] or [C,256]"}),
    Kind("mul_t", "train", "The error times the saved other factor, summed where input `index` was broadcast.", (2, 2), _mul_t,
         {**_FORWARD, "index": "i"}),
    Kind("resize_t", "train", "Transpose of a resize; exponent + exp_add.", (1, 1), _error("i32"), {**_FORWARD, "exp_add": "i"}),
    Kind("slice_t", "train", "The error where one input of a concat or mosaic stands.", (1, 1), _error("i8"),
         {**_FORWARD, "start": "i3", "step": "i3"}),
    Kind("scatter_t", "train", "The error of a slice's input: zero where nothing is read.", (1, 1), _error("i8"), _FORWARD),
    Kind("crop_t", "train", "The error without the border.", (1, 1), _error("i8"), _FORWARD),
    Kind("reshape_t", "train", "The error in the shape of the input.", (1, 1), _error("i8"), _FORWARD),
    Kind("merge", "train", "Aligned sum of two int8 errors, exponent E - 8.", (2, 2), _merge),
    Kind("update", "train", "Gradient, pseudo-stochastic rounding and weight update (eq. 2, 3).", (2, 2), _update,
         {**_FORWARD, "mu": "s"}, {"scheme": "s", "range": "s", "stream": "i"}, {}, {"gscale": "i32[N]"}, output=False),
)  # fmt: skip

KINDS: dict[str, Kind] = {k.name: k for k in _TABLE}
