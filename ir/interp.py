"""A plain numpy interpreter of the integer forward graph, batch of samples [B, H, W, C] in int64. Tests check passes with it.

It follows docs/numerics.md (Forward) operation by operation and does nothing for speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.ir.graph import Graph, IrError, Op, type_range
from sasimc.ir.kinds import resize_index

__all__ = ["quantize_input", "rne", "run", "run_op"]

Ints = npt.NDArray[np.int64]


def rne(v: Ints, s: npt.NDArray[Any] | int) -> Ints:
    """v / 2^s to the nearest integer, ties to even; s <= 0 leaves v."""
    s = np.maximum(np.asarray(s, np.int64), 0)
    half = np.where(s > 0, np.int64(1) << np.maximum(s - 1, 0), 0)
    odd = np.where(s > 0, (v >> s) & 1, 0)
    return (v + half - np.where(s > 0, 1 - odd, 0)) >> s


def quantize_input(graph: Graph, image: npt.NDArray[Any], value: str | None = None) -> Ints:
    """Real samples [B, H, W, C] -> stored integers of a graph input (float32 division, as QuantizeLinear is defined)."""
    t = graph.type(value or graph.inputs[0])
    lo, hi = type_range(t.dtype)
    q = np.rint(image.astype(np.float32) / np.float32(t.scale)).astype(np.float64) + t.zero
    return np.clip(q, lo, hi).astype(np.int64)


def run(graph: Graph, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, Ints]:
    """All values of the graph for a batch of stored inputs [B, H, W, C]."""
    env: dict[str, Ints] = {name: np.asarray(feeds[name], np.int64) for name in graph.inputs}
    for op in graph.ops:
        env[op.output] = run_op(graph, op, [env[v] for v in op.inputs])
    return env


def run_op(graph: Graph, op: Op, inputs: list[Ints]) -> Ints:
    """One operation on stored integers."""
    x, tx = inputs[0], graph.type(op.inputs[0])
    out = graph.type(op.output)
    match op.kind:
        case "conv":
            acc = _conv(graph, op, x, tx.zero) + graph.constant(op, "bias").astype(np.int64)
            return _finish(op, out.zero, rne(acc * graph.constant(op, "mult").astype(np.int64), graph.constant(op, "shift")))
        case "add":
            za, zb = tx.zero, graph.type(op.inputs[1]).zero
            v = (x - za) * op.int_attr("ma") + (inputs[1] - zb) * op.int_attr("mb")
            return _finish(op, out.zero, rne(v, op.int_attr("shift")))
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
        case "reshape":
            return x.reshape(x.shape[0], *out.shape)
        case "argmax":
            return x.argmax(axis=3, keepdims=True).astype(np.int64)
        case _:
            raise IrError(f"{op.kind} {op.name!r} is not an integer operation", where=op.name)


def _finish(op: Op, zero: int, v: Ints) -> Ints:
    return np.clip(v + zero, op.int_attr("lo"), op.int_attr("hi"))


def _windows(op: Op, x: Ints, fill: int) -> Ints:
    """[B, H', W', C, kh, kw]: what each window sees."""
    (kh, kw), (sh, sw), (t, left, b, r) = op.ints("kernel"), op.ints("stride"), op.ints("pads")
    dh, dw = op.ints("dilation") if "dilation" in op.attrs else (1, 1)
    padded = np.pad(x, ((0, 0), (t, b), (left, r), (0, 0)), constant_values=fill)
    span = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    view = np.lib.stride_tricks.sliding_window_view(padded, span, axis=(1, 2))  # type: ignore[call-overload]
    return view[:, ::sh, ::sw, :, ::dh, ::dw]


def _conv(graph: Graph, op: Op, x: Ints, zero: int) -> Ints:
    weight, groups = graph.constant(op, "weight").astype(np.int64), op.int_attr("groups")
    seen = _windows(op, x, zero)
    b, h, w, c, kh, kw = seen.shape
    n = weight.shape[3]
    seen = seen.reshape(b, h, w, groups, c // groups, kh, kw)
    kernel = weight.reshape(kh, kw, c // groups, groups, n // groups)
    # products fit float64 exactly (|acc| < 2^53), and BLAS is much faster than integer einsum
    acc = np.einsum("bhwgckl,klcgn->bhwgn", seen.astype(np.float64), kernel.astype(np.float64), optimize=True)
    return np.rint(acc).astype(np.int64).reshape(b, h, w, n)


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
