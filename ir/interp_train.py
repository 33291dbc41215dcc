"""A plain numpy interpreter of training graphs: errors, gradients, updates of one batch, in int64. Tests check passes with it.

It follows docs/reference/numerics.md (Loss, Backward, Gradient and update) operation by operation; products run in BLAS as in
:mod:`sasimc.ir.interp`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.ir.graph import IrError, Op, TrainGraph, type_range
from sasimc.ir.interp import Ints, look_up, products, rne
from sasimc.ir.kinds import places, resize_index

__all__ = ["MOMENTUM", "RANGE_OFFSET", "RANGE_PERIOD", "STEP_LIMIT", "Error", "TrainResult", "train_step"]

MOMENTUM = 3
"""The velocity keeps 1 - 2^-3 of itself a step."""
RANGE_OFFSET, RANGE_PERIOD = 256, 16
"""A remembered range is stored plus the offset, so that 0 is less than any; it loses one bit every period of steps."""
BIAS_LIMIT = 1 << 30
"""Largest magnitude of a learned bias (in 256ths of a step of a weight)."""
STEP_LIMIT = 127 << 8
"""Largest 16-bit step of an accumulated weight (in 256ths)."""


@dataclass(frozen=True, eq=False)
class Error:
    """Mantissas (int32 or int8 range) of a whole batch and their common exponent: value = v 2^e. ``level``: exponent of the largest magnitude before it
    was quantised; of a product, that of what it was made from."""

    v: Ints
    e: int
    level: int = 0


@dataclass(frozen=True, eq=False)
class TrainResult:
    """Every error by name; gradients, and weights after the update, by forward operation; the loss of each sample as the device puts it out."""

    errors: Mapping[str, Error]
    gradients: Mapping[str, Ints]
    weights: Mapping[str, Ints]
    losses: Ints


def train_step(
    train: TrainGraph,
    env: Mapping[str, Ints],
    targets: Sequence[int] | Ints,
    head_exponent: int,
    module_exponent: int,
    memory: dict[str, Ints] | None = None,
) -> TrainResult:
    """One backward pass; ``env``: all forward values [B, H, W, C] (:func:`sasimc.ir.interp.run`);
    ``targets``: class numbers [B], or for the squared error stored values of the output [B, H, W, C].

    ``memory``: what is kept between steps (``<layer>.low``, ``<layer>.velocity``, ``<layer>.learned``, ``<error>.gain``,
    ``rounding.step``); changed in place.
    """
    memory = {} if memory is None else memory
    errors: dict[str, Error] = {}
    gradients: dict[str, Ints] = {}
    weights: dict[str, Ints] = {}
    losses = np.zeros(0, np.int64)
    for op in train.ops:
        if op.kind == "update":
            conv = train.forward.op(op.str_attr("forward"))
            x = env[op.inputs[0]] - train.forward.type(op.inputs[0]).zero
            g = _gradient(train, conv, x, errors[op.inputs[1]].v)
            if "gscale" in op.consts:
                g = rne(g * train.constant(op, "gscale").astype(np.int64), 15)
            w = train.forward.constant(conv, "weight").astype(np.int64)
            gradients[conv.name] = g
            mu = head_exponent if op.attrs["mu"] == "head" else module_exponent
            bits = _bits(op, conv.name, g, errors[op.inputs[1]].e, memory)
            weights[conv.name] = np.clip(w - _change(op, conv, g, bits - mu, memory), -127, 127)
            if "learned" in conv.attrs:
                _learn_bias(train, op, conv, errors[op.inputs[1]].v, bits, mu, memory)
        elif op.kind == "xent":
            found, losses = _xent(op, env[op.inputs[0]], targets)
            errors[op.output] = Error(found, 0)
        elif op.kind == "sqerr":
            found = env[op.inputs[0]] - np.asarray(targets, np.int64)
            errors[op.output], losses = Error(found, 0), np.minimum((found**2).reshape(len(found), -1).sum(axis=1), 2**31 - 1)
        else:
            errors[op.output] = _error(train, op, errors, env, memory)
    memory["rounding.step"] = memory.get("rounding.step", np.zeros((), np.int64)) + 1
    return TrainResult(errors, gradients, weights, losses)


def _error(train: TrainGraph, op: Op, errors: Mapping[str, Error], env: Mapping[str, Ints], memory: dict[str, Ints]) -> Error:
    first = errors[op.inputs[0]]
    v, e, level = first.v, first.e, first.level
    if op.kind == "stage":
        return _stage(train, op, first, env, memory)
    if op.kind == "merge":
        other = errors[op.inputs[1]]
        top = max(e, other.e)
        left, right = (rne(p.v << 8, top - p.e) if top - p.e <= 30 else np.zeros_like(p.v) for p in (first, other))
        return Error(left + right, top - 8, max(level, other.level))
    forward = train.forward.op(op.str_attr("forward"))
    h, w, c = train.type(op.output).shape
    shape = (v.shape[0], h, w, c)
    match op.kind:
        case "conv_t":
            return Error(_conv_t(train, forward, v, shape), e, level)
        case "avgpool_t":
            total, at = _scatter(forward, shape)
            for rows, cols in at:
                total[:, rows, cols] += v
            return Error(_crop(forward, total, shape), e, level)
        case "maxpool_t":
            return Error(_maxpool_t(forward, env[op.inputs[1]], v, shape), e, level)
        case "lut_t":
            x = op.inputs[1]
            at = env[x] - type_range(train.forward.type(x).dtype)[0]
            return Error(v * look_up(train.constant(op, "slope"), at), e + op.int_attr("exp_add"), level)
        case "mul_t":
            other = op.inputs[1]
            product = v * (env[other] - train.forward.type(other).zero)
            summed = tuple(i for i in (1, 2, 3) if shape[i] == 1)
            return Error(product.sum(axis=summed, keepdims=True), e, level)
        case "resize_t":
            return Error(_resize_t(forward, v, shape), e + op.int_attr("exp_add"), level)
        case "slice_t":
            return Error(v[:, *places(op.ints("start"), op.ints("step"), shape[1:])], e, level)
        case "scatter_t":
            full = np.zeros(shape, np.int64)
            full[:, *places(forward.ints("start"), forward.ints("step"), v.shape[1:])] = v
            return Error(full, e, level)
        case "crop_t":
            return Error(_crop(forward, v, shape), e, level)
        case "reshape_t":
            return Error(v.reshape(shape), e, level)
        case _:
            raise IrError(f"{op.kind} {op.name!r} is not an operation on errors", where=op.name)


def _stage(train: TrainGraph, op: Op, error: Error, env: Mapping[str, Ints], memory: dict[str, Ints]) -> Error:
    v = error.v
    if "kpool" in op.consts:
        v = rne(v * train.constant(op, "kpool").astype(np.int64), 15)
    if name := op.str_attr("mask_of"):
        q = env[name]
        keep = np.ones(q.shape, bool)
        if op.flag("mask_lo"):
            keep &= q > op.int_attr("lo")
        if op.flag("mask_hi"):
            keep &= q < op.int_attr("hi")
        v = np.where(keep, v, 0)
    if "kscale" in op.consts:
        v = rne(v * train.constant(op, "kscale").astype(np.int64), 15)
    bits, e = int(np.abs(v).max(initial=0)).bit_length(), error.e + op.int_attr("exp_add")
    level = bits + e if train.type(op.inputs[0]).dtype == "i32" else error.level + op.int_attr("exp_add")
    if op.attrs.get("range") == "previous":
        name, gain = f"{op.output}.gain", level - error.level
        before = int(memory.get(name, gain))
        memory[name], bits = np.array(max(gain, before - 1)), error.level + before - e
    shift = max(0, bits - 7)
    match op.attrs.get("rounding"):
        case "stochastic":
            m = _pseudo_stochastic(v, shift, 127)
        case "unbiased":
            m = _unbiased(v, shift, 127, _drawn(op.int_attr("stream"), v.shape, memory))
        case "carried":
            m = _carried(v, shift)
        case _:
            m = np.clip(rne(v, shift), -127, 127)
    return Error(m, e + shift, level)


def _carried(v: Ints, sh: int) -> Ints:
    """v / 2^sh to -127..127, to nearest, each channel with the remainder of the one before."""
    out, rest = np.empty_like(v), np.zeros(v.shape[:-1], np.int64)
    for c in range(v.shape[-1]):
        whole = v[..., c] + rest
        out[..., c] = np.clip(rne(whole, sh), -127, 127)
        rest = whole - (out[..., c] << sh)
    return out


def _xent(op: Op, logits: Ints, labels: Sequence[int] | Ints) -> tuple[Ints, Ints]:
    """Errors of the logits, and losses in 4096ths of a bit."""
    q = logits.reshape(logits.shape[0], -1)
    out, losses = np.zeros_like(q), np.zeros(len(q), np.int64)
    for row, label in enumerate(labels):
        t = (q[row].max() - q[row]) * op.int_attr("logit_mult")
        n, f = t >> 12, t & 4095
        p2 = 32768 - ((f * (2751 - ((703 * f) >> 12))) >> 9)
        p = np.where(n > 15, 0, p2 >> np.minimum(n, 15))
        s = int(p.sum())
        error = (p * 32768 + (s >> 1)) // s - op.int_attr("t_other")
        error[label] += op.int_attr("t_other") - op.int_attr("t_label")
        error[label] -= error.sum()
        out[row] = error
        m = s.bit_length() - 1
        losses[row] = min(int(t[label]), 65536) + (m << 12) + ((s << 12 >> m) - 4096) - (15 << 12)
    return out.reshape(logits.shape), losses


# -- windows ------------------------------------------------------------------------------------------------------------


def _scatter(op: Op, shape: tuple[int, int, int, int]) -> tuple[Ints, list[tuple[slice, slice]]]:
    """Zeros for the padded input, and for each kernel position the input rows and columns the outputs see there."""
    (kh, kw), (sh, sw), (t, left, b, r) = op.ints("kernel"), op.ints("stride"), op.ints("pads")
    dh, dw = op.ints("dilation") if "dilation" in op.attrs else (1, 1)
    height, width = shape[1] + t + b, shape[2] + left + r
    rows = (height - dh * (kh - 1) - 1) // sh + 1
    cols = (width - dw * (kw - 1) - 1) // sw + 1
    at = [
        (slice(i * dh, i * dh + (rows - 1) * sh + 1, sh), slice(j * dw, j * dw + (cols - 1) * sw + 1, sw))
        for i in range(kh)
        for j in range(kw)
    ]
    return np.zeros((shape[0], height, width, shape[3]), np.int64), at


def _crop(op: Op, v: Ints, shape: tuple[int, int, int, int]) -> Ints:
    top, left = op.ints("pads")[:2]
    return v[:, top : top + shape[1], left : left + shape[2]]


def _grouped(v: Ints, groups: int) -> Ints:
    return v.reshape(*v.shape[:3], groups, v.shape[3] // groups)


def _conv_t(train: TrainGraph, op: Op, m: Ints, shape: tuple[int, int, int, int]) -> Ints:
    weight, groups = train.forward.constant(op, "weight").astype(np.int64), op.int_attr("groups")
    kh, kw, per_group, n = weight.shape
    kernel = weight.reshape(kh * kw, per_group, groups, n // groups)
    total, at = _scatter(op, shape)
    for k, (rows, cols) in enumerate(at):
        if groups == 1:
            total[:, rows, cols] += products(m, kernel[k, :, 0].T)
        else:
            part = np.einsum("bhwgn,cgn->bhwgc", _grouped(m, groups), kernel[k])
            total[:, rows, cols] += part.reshape(*part.shape[:3], shape[3])
    return _crop(op, total, shape)


def _gradient(train: TrainGraph, op: Op, x: Ints, m: Ints) -> Ints:
    weight, groups = train.forward.constant(op, "weight"), op.int_attr("groups")
    kh, kw, per_group, n = weight.shape
    padded, at = _scatter(op, (x.shape[0], x.shape[1], x.shape[2], x.shape[3]))
    t, left = op.ints("pads")[:2]
    padded[:, t : t + x.shape[1], left : left + x.shape[2]] = x
    if groups == 1:
        errors = m.reshape(-1, n)
        g = [products(padded[:, r, c].reshape(len(errors), -1).T, errors) for r, c in at]
    else:
        g = [np.einsum("bhwgc,bhwgn->cgn", _grouped(padded[:, r, c], groups), _grouped(m, groups)) for r, c in at]
    return np.stack(g).reshape(kh, kw, per_group, n)


def _bits(op: Op, layer: str, g: Ints, e: int, memory: dict[str, Ints]) -> int:
    """What the gradient of ``layer`` is compared with; ``e``: exponent of its error."""
    bits = int(np.abs(g).max(initial=0)).bit_length()
    if op.attrs.get("range") == "peak":
        top, step = memory.get(f"{layer}.range", np.zeros(2, np.int64))
        top = max(bits + e + RANGE_OFFSET, top - (step % RANGE_PERIOD == 0))
        memory[f"{layer}.range"] = np.array([top, step + 1])
        bits = int(top) - RANGE_OFFSET - e
    return bits


def _learn_bias(train: TrainGraph, op: Op, conv: Op, m: Ints, bits: int, mu: int, memory: dict[str, Ints]) -> None:
    """The update of a learned bias: that of a weight whose input is 2^p, in 32 bits."""
    g = m.sum(axis=(0, 1, 2)) << (8 - conv.int_attr("learned"))
    if "gscale" in op.consts:
        g = rne(g * train.constant(op, "gscale").astype(np.int64), 15)
    bits = max(bits, int(np.abs(g).max()).bit_length())
    step = _step(op, conv, f"{conv.name}.learned", g, bits - mu, memory)
    before = memory.get(f"{conv.name}.learned", np.zeros_like(g))
    memory[f"{conv.name}.learned"] = np.clip(before - step, -BIAS_LIMIT, BIAS_LIMIT)


def _step(op: Op, conv: Op, name: str, g: Ints, shift: int, memory: dict[str, Ints]) -> Ints:
    """The step of a gradient in 256ths of a weight, with momentum where the scheme has it."""
    momentum = op.attrs.get("scheme") == "momentum"
    step = _rounded(op, conv, g, shift - 8 + (MOMENTUM if momentum else 0), STEP_LIMIT, memory)
    if momentum:
        v = memory.get(f"{name}.velocity", np.zeros_like(g))
        step = memory[f"{name}.velocity"] = np.clip(v - rne(v, MOMENTUM) + step, -STEP_LIMIT, STEP_LIMIT)
    return step


def _change(op: Op, conv: Op, g: Ints, shift: int, memory: dict[str, Ints]) -> Ints:
    """What is subtracted from the weights of a layer."""
    scheme, layer = op.attrs.get("scheme", "direct"), conv.name
    if scheme == "direct":
        return _rounded(op, conv, g, shift, 127, memory)
    total = memory.get(f"{layer}.low", np.zeros_like(g)) - _step(op, conv, layer, g, shift, memory)
    carry = (total + 128) >> 8
    memory[f"{layer}.low"] = total - (carry << 8)
    return -carry


def _mixed(h: Ints) -> Ints:
    h = (h ^ h >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return h ^ h >> 16


def _drawn(stream: int, shape: tuple[int, ...], memory: Mapping[str, Ints]) -> Ints:
    """The numbers from 0 to 2^32 - 1 that decide for the elements [B, H, W, C] of a tensor in this step."""
    samples, rows, pixels, channels = np.ogrid[tuple(slice(n) for n in shape)]
    tensor = _mixed(_mixed(np.full(1, memory.get("rounding.step", 0), np.int64)) ^ stream)
    pixel = _mixed(_mixed(tensor ^ samples) ^ (rows << 16) + pixels)
    return _mixed(pixel + channels * 0x9E3779B9 & 0xFFFFFFFF)


def _unbiased(g: Ints, sh: int, limit: int, drawn: Ints) -> Ints:
    """g / 2^sh, up where what is cut off, as a 32-bit fraction, is more than ``drawn``; at most ``limit`` in magnitude."""
    sh, size = min(62, max(0, sh)), np.abs(g)
    rest = size & (1 << sh) - 1
    return np.sign(g) * np.minimum((size >> sh) + (rest << 32 >> sh > drawn), limit)


def _rounded(op: Op, conv: Op, g: Ints, sh: int, limit: int, memory: Mapping[str, Ints]) -> Ints:
    """A gradient [kh, kw, Cin / groups, N], or of a learned bias [N], as its update rounds it."""
    if "stream" not in op.attrs:
        return _pseudo_stochastic(g, sh, limit)
    stream = op.int_attr("stream")
    if g.ndim == 1:
        return _unbiased(g, sh, limit, _drawn(stream + 1, (1, 1, 1, g.size), memory).reshape(-1))
    k, n = g[..., 0].size, g.shape[-1]
    if conv.flag("depthwise"):  # a row is a channel, its columns are the places of the kernel
        return _unbiased(g, sh, limit, _drawn(stream, (1, n, 1, k), memory).reshape(n, k).T.reshape(g.shape))
    return _unbiased(g, sh, limit, _drawn(stream, (1, k, 1, n), memory).reshape(g.shape))


def _pseudo_stochastic(g: Ints, sh: int, limit: int) -> Ints:
    """g / 2^sh with pseudo-stochastic rounding, at most ``limit`` in magnitude."""
    sh = min(62, sh)
    if sh <= 0 or not g.any():
        return np.clip(g, -limit, limit)
    size = np.abs(g)
    q = size >> sh
    r = size - (q << sh)
    h = sh >> 1
    p, low = r >> h, r & ((1 << h) - 1)
    q += p > low << (sh & 1)
    return np.sign(g) * np.minimum(q, limit)


def _maxpool_t(op: Op, x: Ints, v: Ints, shape: tuple[int, int, int, int]) -> Ints:
    total, at = _scatter(op, shape)
    padded = np.full(total.shape, -(2**31))
    t, left = op.ints("pads")[:2]
    padded[:, t : t + shape[1], left : left + shape[2]] = x
    first = np.stack([padded[:, r, c] for r, c in at]).argmax(axis=0)
    for k, (rows, cols) in enumerate(at):
        total[:, rows, cols] += np.where(first == k, v, 0)
    return _crop(op, total, shape)


def _resize_t(op: Op, v: Ints, shape: tuple[int, int, int, int]) -> Ints:
    """Transpose of the forward weights, axis by axis, as a dense matrix."""
    for axis in (1, 2):
        v = np.moveaxis(np.tensordot(_resize_matrix(op, shape[axis], v.shape[axis]), v, (0, axis)), 0, axis)
    return v


def _resize_matrix(op: Op, size_in: int, size_out: int) -> npt.NDArray[Any]:
    """[out, in] integer weights of one axis: 1 (nearest), or 4ths (linear)."""
    m = np.zeros((size_out, size_in), np.int64)
    for out in range(size_out):
        if op.attrs["mode"] == "nearest":
            m[out, resize_index(out, size_in, size_out)] += 1
        else:
            i = out // 2
            m[out, i] += 3
            m[out, max(i - 1, 0) if out % 2 == 0 else min(i + 1, size_in - 1)] += 1
    return m
