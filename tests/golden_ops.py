"""Forward and backward of each kind of operation on whole tensors. Part of the golden model (see golden.py).

Tensors are int64 ``[B, H, W, C]`` or ``[B, F]``. Products are summed in float64, exactly: every sum stays far below 2^53.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from golden_attention import exponentials, layer_norm, multiply, norm_constants, ratio, softmax
from golden_functions import slopes
from golden_graph import Graph, Op, Quant
from golden_numbers import I64, Error, accumulator, channel_factors, pool_factor, requantise, residual_factors, rne

__all__ = ["backward", "forward", "gradient", "join"]

Slices = tuple[slice, slice]
F64 = npt.NDArray[np.float64]


class Window:
    """The geometry of a sliding window over ``[B, H, W, C]``, from the ONNX attributes of a convolution or pool."""

    def __init__(self, attrs: dict[str, Any], size: tuple[int, int], kernel: Sequence[int]) -> None:
        self.kernel = tuple(kernel)
        self.stride = tuple(attrs.get("strides", (1, 1)))
        self.dilation = tuple(attrs.get("dilations", (1, 1)))
        self.size = size
        auto = attrs.get("auto_pad", "NOTSET")
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            out = [-(-n // s) for n, s in zip(size, self.stride, strict=True)]
            total = [max(0, (o - 1) * s + r - n) for o, s, r, n in zip(out, self.stride, reach, size, strict=True)]
            first = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
            self.pads = (first[0], first[1], total[0] - first[0], total[1] - first[1])
        else:
            self.pads = tuple(attrs.get("pads", (0, 0, 0, 0)))
        top, left, bottom, right = self.pads
        padded = (size[0] + top + bottom, size[1] + left + right)
        self.out = tuple((p - r) // s + 1 for p, r, s in zip(padded, reach, self.stride, strict=True))

    def pad(self, x: npt.NDArray, fill: float) -> npt.NDArray:
        """``x`` with its padding."""
        top, left, bottom, right = self.pads
        return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)

    def crop(self, x: npt.NDArray) -> npt.NDArray:
        """The inverse of ``pad``: what lies in the padding is dropped."""
        top, left, _, _ = self.pads
        return x[:, top : top + self.size[0], left : left + self.size[1]]

    def taps(self) -> Iterator[tuple[int, int, Slices]]:
        """Kernel positions row by row, each with the slices of the padded input that it reads for all output pixels."""
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                rows, cols = (
                    slice(k * d, k * d + (n - 1) * s + 1, s)
                    for k, d, n, s in zip((i, j), self.dilation, self.out, self.stride, strict=True)
                )
                yield i, j, (rows, cols)


def _planes(x: npt.NDArray) -> npt.NDArray:
    """``[B, F]`` as ``[B, 1, 1, F]``, ``[B, T, F]`` as ``[B, 1, T, F]``."""
    return x[:, None, None, :] if x.ndim == 2 else x[:, None] if x.ndim == 3 else x


def _window(op: Op, x: npt.NDArray, w: npt.NDArray) -> tuple[Window, int]:
    """The geometry of a multiply layer and its number of groups."""
    attrs = op.attrs if op.kind == "conv" else {}
    return Window(attrs, (x.shape[1], x.shape[2]), w.shape[:2]), int(attrs.get("group", 1))


def _grouped(x: npt.NDArray, groups: int) -> F64:
    """``[..., C]`` as ``[groups, pixels, C / groups]`` in float64."""
    return np.ascontiguousarray(x.reshape(-1, groups, x.shape[-1] // groups).transpose(1, 0, 2), dtype=np.float64)


def _kernel(w: npt.NDArray, groups: int) -> F64:
    """``[Cin/g, N]`` as ``[groups, Cin/g, N/g]`` in float64."""
    return w.astype(np.float64).reshape(w.shape[0], groups, -1).transpose(1, 0, 2)


def _multiply(op: Op, x: I64, w: npt.NDArray[np.int8], zero: int) -> F64:
    """acc = sum x w, the padding reading ``zero``: ``[B, Ho, Wo, N]``."""
    window, groups = _window(op, x, w)
    padded = window.pad(x, zero).astype(np.float64)
    n = w.shape[3]
    acc = np.zeros((x.shape[0], *window.out, n))
    for i, j, (rows, cols) in window.taps():
        tap = padded[:, rows, cols]
        if w.shape[2] == 1:  # depth-wise: nothing to sum over channels
            acc += np.repeat(tap, n // groups, axis=3) * w[i, j, 0]
        else:
            part = _grouped(tap, groups) @ _kernel(w[i, j], groups)
            acc += part.transpose(1, 0, 2).reshape(acc.shape)
    return acc


def forward(op: Op, xs: Sequence[I64], graph: Graph, w: npt.NDArray[np.int8] | None = None, bias: npt.ArrayLike = 0) -> I64:
    """The stored output of ``op`` for its stored inputs ``xs``; ``w``: the current weights of a multiply layer, ``bias``: what was learned besides."""
    if op.kind == "constant":
        return _ours(op.attrs["values"])
    x, qx, qy = xs[0], graph.quants[op.inputs[0]], graph.quants[op.output]
    if op.kind in ("conv", "gemm"):
        assert w is not None
        assert op.weights is not None
        acc = _multiply(op, _planes(x), w, qx.zero)
        sums = w.astype(np.int64).reshape(-1, w.shape[3]).sum(axis=0)
        y = requantise(
            accumulator(acc),
            op.weights.bias - qx.zero * sums + bias,
            qx.scale * op.weights.scales / qy.scale,
            qy.zero,
            op.lo,
            op.hi,
        )
        return y if x.ndim == 4 else y.reshape(*x.shape[:-1], -1)
    if op.kind == "add":
        qb = graph.quants[op.inputs[1]]
        m_a, m_b, s = residual_factors(qx.scale / qy.scale, qb.scale / qy.scale)
        second = (xs[1] - qb.zero) * (-m_b if op.attrs["minus"] else m_b)
        return np.clip(rne((x - qx.zero) * m_a + second, s) + qy.zero, op.lo, op.hi)
    if op.kind == "product":
        qb = graph.quants[op.inputs[1]]
        return requantise((x - qx.zero) * (xs[1] - qb.zero), 0, qx.scale * qb.scale / qy.scale, qy.zero, op.lo, op.hi)
    if op.kind == "table":
        return _looked_up(op.attrs["table"], x - qx.lo)
    if op.kind in ("avgpool", "globalpool"):
        window = _pool_window(op, x)
        n = window.kernel[0] * window.kernel[1]
        padded = window.pad(x, qx.zero)
        acc = sum(padded[:, rows, cols] for _, _, (rows, cols) in window.taps())
        y = requantise(acc, -n * qx.zero, qx.scale / (n * qy.scale), qy.zero, op.lo, op.hi)
        return y if op.attrs.get("keepdims", 1) else y.reshape(x.shape[0], -1)
    if op.kind == "maxpool":
        return _maximum(op, x)[0]
    if op.kind == "rescale":
        factor = op.attrs["factor"]
        if factor.size not in (1, x.shape[-1]):
            raise NotImplementedError(f"{op.name}: constants along an axis other than the channels")
        return requantise(x, -qx.zero, factor * qx.scale / qy.scale, qy.zero, op.lo, op.hi)
    if op.kind == "linear":
        if _sizes(op, x) != (2 * x.shape[1], 2 * x.shape[2]):
            raise NotImplementedError(f"{op.name}: linear Resize by 2 only")
        acc = _up(_up(x, 1), 2)
        return requantise(acc, -16 * qx.zero, qx.scale / (16 * qy.scale), qy.zero, op.lo, op.hi)
    if op.kind == "nearest":
        rows, cols = _nearest(op, x)
        return requantise(x[:, rows][:, :, cols], -qx.zero, qx.scale / qy.scale, qy.zero, op.lo, op.hi)
    if op.kind == "concat":
        quants = [graph.quants[n] for n in op.inputs]
        parts = [requantise(v, -q.zero, q.scale / qy.scale, qy.zero, op.lo, op.hi) for v, q in zip(xs, quants, strict=True)]
        onnx = [_onnx(part) for part in parts]
        return _ours(
            np.concatenate([np.broadcast_to(o, (max(map(len, onnx)), *o.shape[1:])) for o in onnx], axis=op.attrs["axis"])
        )
    if op.kind == "pad":
        top, left, bottom, right = op.attrs["pads"]
        return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=op.attrs["fill"])
    if op.kind == "gather":
        return _ours(_onnx(x).take(op.attrs["index"], axis=op.attrs["axis"]))
    if op.kind == "matmul":
        qb = graph.quants[op.inputs[1]]
        how = (*ratio(qx.scale * qb.scale / qy.scale), qy.zero, op.lo, op.hi)
        return _ours(multiply(_onnx(x), _onnx(xs[1]), qx.zero, qb.zero, *how))
    if op.kind == "softmax":
        table, how = exponentials(qx.scale), (*ratio(1 / (2**24 * qy.scale)), qy.zero, op.lo, op.hi)
        return _rows(x, lambda q: softmax(q, table, *how))
    if op.kind == "layernorm":
        known = norm_constants(op.attrs["eps"], qx.scale, qy.scale, op.attrs["gamma"], op.attrs["beta"])
        return _rows(x, lambda q: layer_norm(q, *known, qy.zero, op.lo, op.hi))
    if op.kind == "slice":
        return _ours(_onnx(x)[_index(op, x)])
    if op.kind == "blocks":
        b = op.attrs["block"]
        y = np.empty((x.shape[0], x.shape[1] * b, x.shape[2] * b, x.shape[3]), x.dtype)
        for k, part in enumerate(xs):
            y[:, k // b :: b, k % b :: b] = part
        return y
    if op.kind == "shape":
        return _reshape(op, x)
    raise NotImplementedError(op.kind)


def _rows(x: I64, f: Callable[[list[int]], list[int]]) -> I64:
    """A function of the last ONNX axis."""
    x = _onnx(x)
    return _ours(np.array([f(row) for row in x.reshape(-1, x.shape[-1]).tolist()], np.int64).reshape(x.shape))


def join(graph: Graph) -> Graph:
    """Tables joined with the element-wise operations around them that depend on the same tensor, where nobody else reads what is between."""
    made: dict[str, Op] = {}
    read = [n for op in graph.ops for n in op.inputs] + [graph.output]
    for op in graph.ops:
        between = {n: made[n] for n in op.inputs if n in made and made[n].kind in ("table", "rescale") and read.count(n) == 1}
        roots = {between[n].inputs[0] if n in between else n for n in op.inputs}
        kinds = {op.kind, *(b.kind for b in between.values())}
        if between and len(roots) == 1 and kinds <= {"table", "rescale", "product", "add"} and "table" in kinds:
            (root,) = roots
            q = graph.quants[root]
            sizes = [np.size(p.attrs["factor"]) if p.kind == "rescale" else np.size(p.attrs["table"]) // 256 if p.kind == "table" else 1
                     for p in (op, *between.values())]  # fmt: skip
            codes = np.broadcast_to(np.arange(q.lo, q.hi + 1)[:, None], (256, max(sizes)))
            one = np.ones(codes.shape)
            sides = [_curve(between[n], [codes], [one], graph) if n in between else (codes, one) for n in op.inputs]
            out, slope = _curve(op, [s[0] for s in sides], [s[1] for s in sides], graph)
            op = Op("table", op.name, op.position, (root,), op.output, op.lo, op.hi, attrs={"table": out.T, "slope": slope.T})
            for n in between:
                del made[n]
        made[op.output] = op
    if len(made) < len(graph.ops):
        return join(replace(graph, ops=list(made.values())))
    aliases = {alias: n for alias, n in graph.aliases.items() if n in made or n == graph.input}
    return replace(graph, ops=list(made.values()), aliases=aliases)


def _curve(op: Op, xs: list[I64], slopes: list[F64], graph: Graph) -> tuple[I64, F64]:
    """Values of an element-wise operation, and the real derivative of what it makes given those of its inputs."""
    y = forward(op, xs, graph)
    reals = [graph.quants[n].scale * (x - graph.quants[n].zero) for x, n in zip(xs, op.inputs, strict=True)]
    if op.kind == "table":
        own = np.atleast_2d(op.attrs["slope"])
        at = xs[0] - graph.quants[op.inputs[0]].lo
        slope = slopes[0] * np.stack([own[c if len(own) > 1 else 0][at[:, c]] for c in range(at.shape[1])], axis=1)
    elif op.kind == "rescale":
        slope = slopes[0] * op.attrs["factor"]
    elif op.kind == "add":
        slope = slopes[0] - slopes[1] if op.attrs["minus"] else slopes[0] + slopes[1]
    else:
        slope = slopes[0] * reals[1] + slopes[1] * reals[0]
    open_ = np.ones(y.shape, bool)
    if op.mask_lo is not None:
        open_ &= y > op.mask_lo
    if op.mask_hi is not None:
        open_ &= y < op.mask_hi
    return y, np.where(open_, slope, 0.0)


def backward(
    op: Op, error: Error, xs: Sequence[I64], w: npt.NDArray[np.int8] | None = None, quants: Mapping[str, Quant] | None = None
) -> list[Error]:
    """The error of each input from the output's int8 error after mask, channel scale and quantise; ``quants``: those of the graph, for kinds whose
    errors depend on values."""
    x = xs[0]
    v, e = error.v, error.e
    if op.kind == "product":
        assert quants is not None
        return [_of_factor(v, e, xs[i], xs[1 - i], quants[op.inputs[1 - i]]) for i in (0, 1)]
    if op.kind == "table":
        assert quants is not None
        slope, g = slopes(op.attrs["slope"])
        return [Error(v * _looked_up(slope, x - quants[op.inputs[0]].lo), e + g)]
    if op.kind in ("conv", "gemm"):
        assert w is not None
        return [Error(_transposed(op, x, v, w), e)]
    if op.kind == "add":
        return [Error(_summed(v, x), e), Error(_summed(-v if op.attrs["minus"] else v, xs[1]), e)]
    if op.kind in ("avgpool", "globalpool"):
        window = _pool_window(op, x)
        total = np.zeros(window.pad(x, 0).shape, v.dtype)
        for _, _, (rows, cols) in window.taps():
            total[:, rows, cols] += v.reshape(x.shape[0], *window.out, x.shape[3])
        factor, g = pool_factor(window.kernel[0] * window.kernel[1])
        total = accumulator(window.crop(total))
        return [Error(total if factor == 32768 else rne(total * factor, 15), e + g)]
    if op.kind == "maxpool":
        _, first, window = _maximum(op, x)
        total = np.zeros(window.pad(x, 0).shape, v.dtype)
        for i, j, (rows, cols) in window.taps():
            total[:, rows, cols] += np.where(first == i * window.kernel[1] + j, v, 0)
        return [Error(accumulator(window.crop(total)), e)]
    if op.kind == "rescale":
        return [Error(v * np.where(op.attrs["factor"] < 0, -1, 1), e)]
    if op.kind == "linear":
        return [Error(accumulator(_down(_down(v, 1), 2)), e - 4)]
    if op.kind == "nearest":
        rows, cols = _nearest(op, x)
        total = np.zeros(x.shape, v.dtype)
        np.add.at(total, (slice(None), rows[:, None], cols[None, :]), v)
        return [Error(accumulator(total), e)]
    if op.kind == "concat":
        axis = op.attrs["axis"]
        ends = np.cumsum([_onnx(a).shape[axis] for a in xs])[:-1]
        return [Error(_ours(part), e) for part in np.split(_onnx(v), ends, axis=axis)]
    if op.kind == "slice":
        total = np.zeros(_onnx(x).shape, v.dtype)
        total[_index(op, x)] = _onnx(v)
        return [Error(_ours(total), e)]
    if op.kind == "pad":
        top, left, _, _ = op.attrs["pads"]
        return [Error(v[:, top : top + x.shape[1], left : left + x.shape[2]], e)]
    if op.kind == "blocks":
        b = op.attrs["block"]
        return [Error(v[:, k // b :: b, k % b :: b], e) for k in range(b * b)]
    if op.kind == "shape":
        return [Error(_unshape(op, v, x.shape), e)]
    raise NotImplementedError(op.kind)


def _looked_up(values: I64, at: I64) -> I64:
    """Entry ``at`` of a table, or of that of each channel."""
    if values.ndim == 1 or len(values) == 1:
        return values.reshape(-1)[at]
    return np.stack([values[c][at[..., c]] for c in range(len(values))], axis=-1)


def _of_factor(v: I64, e: int, own: I64, other: I64, quant: Quant) -> Error:
    """The error of one factor of a product: times the other one, summed over the axes along which it was broadcast."""
    total = _summed(np.broadcast_to(v * (other - quant.zero), v.shape), own)
    (factor,), g = channel_factors([quant.scale])
    return Error(rne(accumulator(total) * factor, 15) if factor != 32768 else accumulator(total), e + g)


def _summed(v: I64, own: I64) -> I64:
    """An error summed over the axes along which ``own`` has one element for all."""
    axes = tuple(axis for axis, size in enumerate(own.shape) if size == 1 and axis and v.shape[axis] > 1)
    return v.sum(axis=axes, keepdims=True) if axes else v


def gradient(op: Op, x: I64, m: I64, zero: int, w: npt.NDArray[np.int8]) -> I64:
    """g = sum over batch and pixels (x - z_x) m: int64 (checked to fit int32), shaped like the weights."""
    x, m = _planes(x), _planes(m)
    window, groups = _window(op, x, w)
    padded = window.pad(x - zero, 0)
    errors = _grouped(m, groups)
    g = np.zeros(w.shape)
    for i, j, (rows, cols) in window.taps():
        part = _grouped(padded[:, rows, cols], groups).transpose(0, 2, 1) @ errors  # [groups, Cin/g, N/g]
        g[i, j] = part.transpose(1, 0, 2).reshape(w.shape[2:])
    return accumulator(g)


def _transposed(op: Op, x: I64, m: I64, w: npt.NDArray[np.int8]) -> I64:
    """v_x = W^T m, scattered into the input positions (eq. 1)."""
    shape, x, m = x.shape, _planes(x), _planes(m)
    window, groups = _window(op, x, w)
    total = np.zeros(window.pad(x, 0).shape)
    errors = _grouped(m, groups)
    for i, j, (rows, cols) in window.taps():
        part = errors @ _kernel(w[i, j], groups).transpose(0, 2, 1)  # [groups, pixels, Cin/g]
        total[:, rows, cols] += part.transpose(1, 0, 2).reshape(x.shape[0], *window.out, -1)
    return accumulator(window.crop(total)).reshape(shape)


# -- windows, resize, shapes --------------------------------------------------------------------------------------------------


def _pool_window(op: Op, x: I64) -> Window:
    size = (x.shape[1], x.shape[2])
    return Window({}, size, size) if op.kind == "globalpool" else Window(op.attrs, size, op.attrs["kernel_shape"])


def _maximum(op: Op, x: I64) -> tuple[I64, I64, Window]:
    """The maxima, the index of the first maximum of each window (row by row), and the geometry."""
    window = _pool_window(op, x)
    padded = window.pad(x, -(1 << 40))
    stack = np.stack([padded[:, rows, cols] for _, _, (rows, cols) in window.taps()])
    return stack.max(axis=0), stack.argmax(axis=0), window


def _sizes(op: Op, x: I64) -> tuple[int, int]:
    """Output height and width of a Resize."""
    if op.attrs["scales"] is not None:
        h, w = (int(np.floor(np.float32(s) * np.float32(n))) for s, n in zip(op.attrs["scales"][2:], x.shape[1:3], strict=True))
    else:
        h, w = (int(n) for n in op.attrs["sizes"][2:])
    return h, w


def _nearest(op: Op, x: I64) -> tuple[I64, I64]:
    """Input row of each output row and input column of each output column."""
    rows, cols = (np.arange(n) * old // n for n, old in zip(_sizes(op, x), x.shape[1:3], strict=True))
    return rows, cols


def _up(x: I64, axis: int) -> I64:
    """Four times the linear x2 interpolation along one axis."""
    x = np.moveaxis(x, axis, 0)
    before, after = np.concatenate([x[:1], x[:-1]]), np.concatenate([x[1:], x[-1:]])
    out = np.stack([before + 3 * x, 3 * x + after], axis=1).reshape(2 * x.shape[0], *x.shape[1:])
    return np.moveaxis(out, 0, axis)


def _down(v: I64, axis: int) -> I64:
    """The transpose of ``_up``."""
    v = np.moveaxis(v, axis, 0)
    even, odd = v[0::2], v[1::2]
    out = 3 * (even + odd)
    out[:-1] += even[1:]
    out[0] += even[0]
    out[1:] += odd[:-1]
    out[-1] += odd[-1]
    return np.moveaxis(out, 0, axis)


def _onnx(x: npt.NDArray) -> npt.NDArray:
    return x.transpose(0, 3, 1, 2) if x.ndim == 4 else x


def _ours(x: npt.NDArray) -> npt.NDArray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x


def _index(op: Op, x: I64) -> tuple[slice, ...]:
    """What a Slice reads, in ONNX's axis order."""
    found = [op.attrs["at"].get(axis, slice(None)) for axis in range(x.ndim)]
    for axis, place in enumerate(found):
        if isinstance(place, tuple):
            number, size = place[0], _onnx(x).shape[axis] // place[1]
            found[axis] = slice(number * size, (number + 1) * size)
    return tuple(found)


def _reshape(op: Op, x: I64) -> I64:
    """Flatten, Reshape, Squeeze, Unsqueeze, Transpose, Identity in ONNX's axis order; the batch stays in front."""
    x, attrs, kind = _onnx(x), op.attrs, op.attrs["op"]
    if kind == "Transpose":
        return _ours(x.transpose(attrs["perm"]))
    axes = attrs["target"] if attrs["target"] is not None else attrs.get("axes")
    if kind == "Flatten":
        x = x.reshape(x.shape[0], -1)
    elif kind == "Reshape":
        x = x.reshape(x.shape[0], *(x.shape[i] if n == 0 else n for i, n in enumerate(axes) if i))
    elif kind == "Squeeze":
        x = x.squeeze(tuple(axes))
    elif kind == "Unsqueeze":
        x = np.expand_dims(x, tuple(axes))
    return _ours(x)


def _unshape(op: Op, v: I64, shape: tuple[int, ...]) -> I64:
    """The error of a shape operation's input."""
    back = np.empty(shape, v.dtype)
    index = _reshape(op, np.arange(back.size, dtype=np.int64).reshape(shape))
    back.reshape(-1)[index.reshape(-1)] = v.reshape(-1)
    return back
