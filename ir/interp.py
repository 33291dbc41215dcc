"""A plain numpy interpreter of the integer forward graph, batch of samples [B, H, W, C] in int64: what a graph means.

It follows docs/reference/numerics.md (Forward) operation by operation. Products run in BLAS, which is exact while every partial sum fits the
mantissa: float32 below 2^24, float64 below 2^53.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.ir.attention import layer_norm, positions, softmax
from sasimc.ir.graph import Graph, IrError, Op, type_range
from sasimc.ir.kinds import places, resize_index

__all__ = ["look_up", "products", "quantize_input", "rne", "run", "run_op"]

Ints = npt.NDArray[np.int64]


def rne(v: Ints, s: npt.NDArray[Any] | int) -> Ints:
    """v / 2^s to the nearest integer, ties to even; s <= 0 leaves v."""
    s = np.maximum(np.asarray(s, np.int64), 0)
    moved = v >> s
    moved &= s > 0  # 1 where the integer below is odd: a tie then goes up
    moved += v
    moved += np.where(s > 0, (np.int64(1) << np.maximum(s - 1, 0)) - 1, 0)
    moved >>= s
    return moved


def quantize_input(graph: Graph, image: npt.NDArray[Any], value: str | None = None) -> Ints:
    """Real samples [B, H, W, C] -> stored integers of a graph input (float32 division, as QuantizeLinear is defined)."""
    t = graph.type(value or graph.inputs[0])
    lo, hi = type_range(t.dtype)
    q = np.rint(image.astype(np.float32) / np.float32(t.scale)).astype(np.float64) + t.zero
    return np.clip(q, lo, hi).astype(np.int64)


def run(graph: Graph, feeds: Mapping[str, npt.NDArray[Any]], memory: Mapping[str, Ints] | None = None) -> dict[str, Ints]:
    """All values of the graph for a batch of stored inputs [B, H, W, C]; ``memory``: what training steps left (learned biases)."""
    env: dict[str, Ints] = {name: np.asarray(feeds[name], np.int64) for name in graph.inputs}
    samples = max(map(len, env.values()), default=1)
    for op in graph.ops:
        env[op.output] = run_op(graph, op, [env[v] for v in op.inputs], (memory or {}).get(f"{op.name}.learned"), samples)
    return env


def run_op(graph: Graph, op: Op, inputs: list[Ints], learned: Ints | None = None, samples: int = 1) -> Ints:
    """One operation on stored integers; ``learned``: its learned bias, if it has one; ``samples``: how many a constant is wanted for."""
    out = graph.type(op.output)
    if op.kind == "constant":
        return np.repeat(graph.constant(op, "values").astype(np.int64)[None], samples, axis=0)
    x, tx = inputs[0], graph.type(op.inputs[0])
    match op.kind:
        case "conv":
            acc = _conv(graph, op, x, tx.zero) + graph.constant(op, "bias").astype(np.int64)
            if learned is not None:
                acc += rne(learned, op.int_attr("learned"))
            return _finish(op, out.zero, rne(acc * graph.constant(op, "mult").astype(np.int64), graph.constant(op, "shift")))
        case "add":
            za, zb = tx.zero, graph.type(op.inputs[1]).zero
            v = (x - za) * op.int_attr("ma") + (inputs[1] - zb) * op.int_attr("mb")
            return _finish(op, out.zero, rne(v, op.int_attr("shift")))
        case "mul":
            v = (x - tx.zero) * (inputs[1] - graph.type(op.inputs[1]).zero)
            return _finish(op, out.zero, rne(v * op.int_attr("mult"), op.int_attr("shift")))
        case "lut":
            return look_up(graph.constant(op, "table"), x - type_range(tx.dtype)[0])
        case "softmax":
            shares = softmax(x, graph.constant(op, "exp"), rne)
            return _finish(op, out.zero, rne(shares * op.int_attr("mult"), op.int_attr("shift")))
        case "layernorm":
            norm = layer_norm(x, op.int_attr("eps") << op.int_attr("up"), rne)
            steps = rne(norm * graph.constant(op, "mult").astype(np.int64), graph.constant(op, "shift"))
            return _finish(op, out.zero, rne(steps + graph.constant(op, "bias").astype(np.int64), 8))
        case "matmul":
            return _matmul(graph, op, inputs)
        case "avgpool":
            acc = _windows(op, x, tx.zero).sum(axis=(-2, -1)) + op.int_attr("bias")
            return _finish(op, out.zero, rne(acc * op.int_attr("mult"), op.int_attr("shift")))
        case "maxpool":
            return _windows(op, x, -(2**31)).max(axis=(-2, -1))
        case "resize":
            acc = _resize(op, x, out.shape) + op.int_attr("bias")
            return _finish(op, out.zero, rne(acc * op.int_attr("mult"), op.int_attr("shift")))
        case "rescale":
            acc = x + graph.constant(op, "bias").astype(np.int64)
            return _finish(op, out.zero, rne(acc * graph.constant(op, "mult").astype(np.int64), graph.constant(op, "shift")))
        case "concat":
            return np.concatenate(inputs, axis=3)
        case "pad":
            t, left, b, r = op.ints("pads")
            return np.pad(x, ((0, 0), (t, b), (left, r), (0, 0)), constant_values=tx.zero)
        case "slice":
            return x[:, *places(op.ints("start"), op.ints("step"), out.shape)]
        case "mosaic":
            made, starts = np.full((len(x), *out.shape), out.zero, np.int64), op.ints("starts")
            for i, part in enumerate(inputs):
                made[:, *places(starts[3 * i : 3 * i + 3], op.ints("step"), graph.type(op.inputs[i]).shape)] = part
            return made
        case "reshape":
            return x.reshape(x.shape[0], *out.shape)
        case "argmax":
            return x.argmax(axis=3, keepdims=True).astype(np.int64)
        case _:
            raise IrError(f"{op.kind} {op.name!r} is not an integer operation", where=op.name)


def _matmul(graph: Graph, op: Op, inputs: list[Ints]) -> Ints:
    (groups, m, k, n), out = op.ints("sizes"), graph.type(op.output)
    a, b = (
        (x - graph.type(v).zero).reshape(len(x), -1)[:, positions(sizes, op.ints(role))]
        for x, v, role, sizes in zip(inputs, op.inputs, "ab", ((groups, m, k), (groups, k, n)), strict=True)
    )
    made = np.empty((len(a), out.size), np.int64)
    made[:, positions((groups, m, n), op.ints("y"))] = products(a, b)
    return _finish(op, out.zero, rne(made * op.int_attr("mult"), op.int_attr("shift"))).reshape(len(a), *out.shape)


def look_up(table: npt.NDArray[Any], at: Ints) -> Ints:
    """Entries of a table [256], or of one for each channel [C, 256], at places 0..255 [..., C]."""
    return table.astype(np.int64)[at if table.ndim == 1 else (np.arange(at.shape[-1]), at)]


def _finish(op: Op, zero: int, v: Ints) -> Ints:
    return np.clip(v + zero, op.int_attr("lo"), op.int_attr("hi"))


def _windows(op: Op, x: npt.NDArray[Any], fill: int) -> npt.NDArray[Any]:
    """[B, H', W', C, kh, kw]: what each window sees."""
    (kh, kw), (sh, sw), (t, left, b, r) = op.ints("kernel"), op.ints("stride"), op.ints("pads")
    dh, dw = op.ints("dilation") if "dilation" in op.attrs else (1, 1)
    padded = np.pad(x, ((0, 0), (t, b), (left, r), (0, 0)), constant_values=fill)
    span = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    view = np.lib.stride_tricks.sliding_window_view(padded, span, axis=(1, 2))  # type: ignore[call-overload]
    return view[:, ::sh, ::sw, :, ::dh, ::dw]


def products(x: Ints, w: npt.NDArray[Any]) -> Ints:
    """x @ w of integers, exactly."""
    return _real_products(x.astype(_exact(float(np.abs(x).max(initial=0)), w)), w)


def _exact(largest: float, w: npt.NDArray[Any]) -> type[np.floating[Any]]:
    """The real numbers in which products of ``w`` with values up to ``largest`` are exact."""
    return np.float32 if largest * float(np.abs(w).astype(np.int64).sum(axis=-2).max(initial=0)) < 2**24 else np.float64


def _real_products(x: npt.NDArray[Any], w: npt.NDArray[Any]) -> Ints:
    rows = x.reshape(-1, x.shape[-1]) if w.ndim == 2 else x  # one product of matrices, not one for each row of a plane
    return np.asarray(rows @ w.astype(x.dtype)).astype(np.int64).reshape(*x.shape[:-1], w.shape[-1])


def _conv(graph: Graph, op: Op, x: Ints, zero: int) -> Ints:
    weight, groups = graph.constant(op, "weight"), op.int_attr("groups")
    kh, kw, per_group, n = weight.shape
    if per_group == 1 and groups > 1:
        return _depthwise(op, x, zero, weight.astype(np.int64))
    kernel = weight.reshape(kh * kw * per_group, n)
    real = x.astype(_exact(float(max(abs(zero), x.max(initial=0), -x.min(initial=0))), kernel))
    if op.ints("kernel") == op.ints("stride") == (1, 1) and not any(op.ints("pads")):
        seen = real
    else:
        seen = np.moveaxis(_windows(op, real, zero), 3, 5)  # taps, then channels
    parts = [
        _real_products(seen[..., g * per_group : (g + 1) * per_group].reshape(*seen.shape[:3], -1), kernel[:, g * n // groups : (g + 1) * n // groups])
        for g in range(groups)
    ]  # fmt: skip
    return np.concatenate(parts, axis=3) if groups > 1 else parts[0]


def _plane(op: Op, x: Ints) -> tuple[int, int, int]:
    """Batch, height and width of what a convolution makes."""
    (kh, kw), (sh, sw), (t, left, b, r), (dh, dw) = (op.ints(k) for k in ("kernel", "stride", "pads", "dilation"))
    return x.shape[0], (x.shape[1] + t + b - dh * (kh - 1) - 1) // sh + 1, (x.shape[2] + left + r - dw * (kw - 1) - 1) // sw + 1


def _depthwise(op: Op, x: Ints, zero: int, weight: Ints) -> Ints:
    """Tap by tap: sum over the window of the input there times its weight of each channel."""
    (kh, kw), (sh, sw), (t, left, b, r), (dh, dw) = (op.ints(k) for k in ("kernel", "stride", "pads", "dilation"))
    padded = np.pad(x, ((0, 0), (t, b), (left, r), (0, 0)), constant_values=zero).astype(np.int32)
    batch, h, w = _plane(op, x)
    each = weight.shape[3] // x.shape[3]
    total = np.zeros((batch, h, w, weight.shape[3]), np.int32)
    for i in range(kh):
        for j in range(kw):
            tap = padded[:, i * dh : i * dh + (h - 1) * sh + 1 : sh, j * dw : j * dw + (w - 1) * sw + 1 : sw]
            total += (tap if each == 1 else np.repeat(tap, each, axis=3)) * weight[i, j, 0].astype(np.int32)
    return total.astype(np.int64)


def _resize(op: Op, x: Ints, shape: tuple[int, int, int]) -> Ints:
    if op.attrs["mode"] == "nearest":
        rows = [resize_index(i, x.shape[1], shape[0]) for i in range(shape[0])]
        cols = [resize_index(i, x.shape[2], shape[1]) for i in range(shape[1])]
        return x[:, rows][:, :, cols]
    for axis in (1, 2):
        size = x.shape[axis]
        i = np.arange(size)
        before, after = x.take(np.maximum(i - 1, 0), axis), x.take(np.minimum(i + 1, size - 1), axis)
        x = np.stack([before + 3 * x, 3 * x + after], axis=axis + 1).reshape(
            [d * 2 if a == axis else d for a, d in enumerate(x.shape)]
        )
    return x
