"""The golden model: forward and whole training steps of a QDQ ONNX file in integers, written from docs/reference/numerics.md alone.

It imports onnx and numpy and nothing of the toolchain, so that an error there cannot hide here. Whole tensors, no tiling,
no machine. Where the page leaves room, this model reads it as follows (the numbers are cited in comments and tests):

 1. "An error tensor is an int8 mantissa": every layer, not only a multiply layer, takes the error of its output through the stage
    (mask, channel scale, quantise), so Add, pools, Resize, Concat, Pad and Reshape work on int8 mantissas. What a layer gives to
    its input stays int32 (also rne(v K, 15) of an average pool, the 16ths of a linear Resize, the result of the last merge)
    until the stage of the layer before it, or until a merge. A Pad of its own thus quantises before it crops; in front
    of a convolution it is part of that layer's padding, which is dropped first.
 2. A multiply layer is one with weights in an array: Conv, Gemm, MatMul. A Rescale (Mul) and a pool are not: they do not count
    on a cheapest path and let truncated errors through.
 3. The mask belongs to every layer with an activation, also to an Add, a pool or a Resize with one fused; the channel scale to
    multiply layers (weight scales) and Rescales (|c_n|; the sign is applied after the quantise, which is symmetric; a factor of 1
    in all channels changes nothing).
 4. A side is masked when the activation's bound, in the output's integers, lies within the type's range (equality included: a
    ReLU on uint8 with z = 0 masks q = 0). A bound beyond the type's range (ReLU6 where 6 / s_y + z_y > 255) did not set
    the clip, and masks nothing.
 5. Fan-out order is the node order of the consumers' main nodes (several slices that one node makes: as they are joined); the same
    tensor twice in one consumer: by input index. A Q
    behind a DQ is a layer of its own (a Rescale, at the Q's position), so its consumers merge before it joins the other
    consumers of its input. Flatten, Reshape, Pad, MaxPool are layers at their own positions; a Q behind them with the same
    scale and zero point is none.
 6. An all-zero contribution keeps its exponent and takes part in E = max(e_a, e_b).
 7. Merging: the shift of more than 30 that gives 0 is E - e_i.
 8. Concat with different scales: every part is requantised like a Rescale with f = s_i / s_y.
 9. A bias is the stored int32 when its scale is s_x s_w (to 2^-20), else round_half_even(real / (s_x s_w)) in float64.
10. f is (s_x s_w) / s_y in float64, scales being the file's float32 values.
11. b' follows the weights: after an update the z_x sum of a trainable layer is formed anew (it vanishes for z_x = 0).
12. Padding of an average pool counts (count_include_pad); average pools with padding that does not count are refused.
13. An error accumulator or gradient beyond int32 raises OverflowError here as it traps there.
14. "A head layer": no trainable layer is reachable behind it; several layers may be heads.
15. sh of the update above 62 becomes 62 (every delta is 0 either way).
16. Truncated: a path goes from a trainable layer's output tensor to the logits; every trainable layer has one cheapest path, the
    choice among equals being made at each tensor for the earlier consumer (main node order).
17. Multiplier of a residual add: M_i may not reach 2^31 for float32 scales, so no rule is needed. Its S is not capped at 62.
18. A Clip bound is taken from the real value of the constant, in float64: round_half_even(r / s_y) + z_y; lo = max(type, bound).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from golden_graph import Graph, Op, read
from golden_numbers import (
    I64,
    Draws,
    Error,
    LearnedBias,
    Memory,
    Ranges,
    accumulate,
    channel_scale,
    cross_entropy,
    gradient_scale,
    mask,
    merge,
    peak,
    quantise,
    quantise_carried,
    remembered_range,
    squared_error,
    update,
)
from golden_ops import backward, forward, gradient, join

__all__ = ["Golden", "StepResult"]

STAYS_NARROW = ("add", "blocks", "concat", "pad", "rescale", "shape", "slice")
"""Operations whose inputs' errors have the mantissas of their output's."""


@dataclass
class StepResult:
    """What one training step computed. Node names are those of the main nodes; tensors are named as in ``Golden.activations``.

    ``errors``: per tensor, the error (v, e) as merged from its consumers. ``stages``: per layer that an error passes or trains,
    the int8 error (m, e) of its output after mask, channel scale and quantise. ``gradients``, ``deltas``, ``weights`` (after
    the update): [kh, kw, Cin/g, N] per trainable layer.
    """

    loss_words: list[int]
    correct: int
    logits: I64
    errors: dict[str, Error] = field(default_factory=dict)
    stages: dict[str, Error] = field(default_factory=dict)
    gradients: dict[str, I64] = field(default_factory=dict)
    deltas: dict[str, I64] = field(default_factory=dict)
    weights: dict[str, npt.NDArray[np.int8]] = field(default_factory=dict)


class Golden:
    """The network of a QDQ ONNX file. Its state is ``weights`` (may be assigned): int8 [kh, kw, Cin/g, N] by node name."""

    def __init__(
        self,
        model: onnx.ModelProto | str | os.PathLike[str],
        *,
        trainable: Sequence[str] | None = None,
        backprop: str = "exact",
        eps: float = 0.1,
        through: Sequence[str] = (),
        update: str = "direct",
        rounding: str = "nearest",
        gradient_power: int = 0,
        gradient_range: str = "batch",
        error_range: str = "batch",
        train_biases: bool = False,
        unbiased_updates: bool = False,
        loss: str = "cross-entropy",
    ) -> None:
        """``trainable``: names of trainable Conv/Gemm/MatMul nodes, by default those of the metadata key ``sasimc.trainable``;
        ``through``: names of frozen ones that errors pass besides those that ``truncated`` lets them pass."""
        model = model if isinstance(model, onnx.ModelProto) else onnx.load(os.fspath(model))
        if backprop not in ("exact", "truncated"):
            raise ValueError(f"backprop is exact or truncated, not {backprop!r}")
        self.graph: Graph = join(read(model))
        self.eps, self.loss = eps, loss
        if trainable is None:
            trainable = next((json.loads(p.value) for p in model.metadata_props if p.key == "sasimc.trainable"), [])
        self.trainable = frozenset(trainable)
        self.weights = {op.name: op.weights.q.copy() for op in self.graph.ops if op.weights is not None}
        if unknown := self.trainable - self.weights.keys():
            raise ValueError(f"not multiply layers: {sorted(unknown)}")
        self.input_quant = self.graph.input_quant
        self._values: dict[str, I64] = {}
        self.consumers: dict[str, list[Op]] = {}
        for op in sorted(self.graph.ops, key=lambda o: o.position):
            for name in dict.fromkeys(op.inputs):
                self.consumers.setdefault(name, []).append(op)
        self.needs_error = self._needs_error()
        if backprop == "truncated" or through:
            self.passes_errors = frozenset(self._cheapest()) | frozenset(through) | self.trainable
        else:
            self.passes_errors = frozenset(self.weights)
        self.reaching, self.depthwise = self._reaching(), dict[str, bool]()
        for op in self.graph.ops:
            if op.name in self.trainable:
                groups = int(op.attrs.get("group", 1)) if op.kind == "conv" else 1
                self.depthwise[op.name] = groups == self.weights[op.name].shape[-1] > 1 and self.weights[op.name].shape[2] == 1
        self.update, self.stochastic, self.gradient_power = update, rounding == "stochastic", gradient_power
        self.carried = rounding == "carried" and loss == "cross-entropy"
        self.gradient_range = gradient_range
        self.ranges: dict[str, int] = {}
        self.error_ranges = Ranges() if error_range == "previous" else None
        self.draws, self.draws_errors, self.draws_updates = Draws(), rounding == "unbiased", unbiased_updates
        self.steps = 0
        self.memory = {n: Memory(np.zeros_like(w, np.int64), np.zeros_like(w, np.int64)) for n, w in self.weights.items()}
        self.biases: dict[str, LearnedBias] = {}
        for op in self.graph.ops if train_biases else ():
            if op.name in self.trainable:
                scale, outputs = self.graph.quants[op.inputs[0]].scale, self.weights[op.name].shape[-1]
                self.biases[op.name] = LearnedBias.zero(scale, outputs)
        self.heads = frozenset(
            op.name for op in self.graph.ops if op.name in self.trainable and not self._trained_behind(op.output)
        )

    # -- forward ------------------------------------------------------------------------------------------------------------

    def quantize(self, x: npt.NDArray) -> npt.NDArray:
        """Real images [B, H, W, C] (or [B, F]) as the graph's first QuantizeLinear stores them."""
        scale, zero, dtype = self.input_quant
        info = np.iinfo(dtype)
        return np.clip(np.rint(x.astype(np.float32) / np.float32(scale)) + zero, info.min, info.max).astype(dtype)

    def forward(self, x_q: npt.NDArray) -> I64:
        """Logits [B, C] as stored behind the last Q (re-expressed), for stored inputs [B, H, W, C] in the type of the first Q.

        An input of type uint8 where the file says int8 with z = -128 is taken as re-expressed already.
        """
        _, zero, dtype = self.input_quant
        reexpress = (dtype, zero) == (np.dtype(np.int8), -128) and x_q.dtype != np.uint8
        x = x_q.astype(np.int64) + (128 if reexpress else 0)
        quant = self.graph.quants[self.graph.input]
        if x.size and not quant.lo <= x.min() <= x.max() <= quant.hi:
            raise ValueError("input beyond its type")
        first = self.consumers[self.graph.input][0]
        if first.kind == "gemm" and x.ndim == 4:
            x = x.reshape(x.shape[0], -1)
        values = {self.graph.input: x}
        for op in self.graph.ops:
            values[op.output] = self.run(op, [values[n] for n in op.inputs])
        self._values = values
        logits = values[self.graph.output]
        return logits.reshape(logits.shape[0], -1)

    def run(self, op: Op, xs: Sequence[I64]) -> I64:
        """One operation on given stored inputs."""
        bias = self.biases[op.name].value if op.name in self.biases else 0
        return forward(op, xs, self.graph, self.weights.get(op.name), bias)

    def activations(self) -> dict[str, I64]:
        """Stored tensors of the last forward, by the names of the QuantizeLinear outputs (float names where there is no Q)."""
        return self._values | {alias: self._values[name] for alias, name in self.graph.aliases.items()}

    # -- training -----------------------------------------------------------------------------------------------------------

    def train_step(self, x_q: npt.NDArray, labels: npt.ArrayLike, head_exponent: int, module_exponent: int) -> StepResult:
        """Forward, loss, backward and one update of the trainable weights. ``labels``: class numbers [B]; for the squared error targets [B, C] in
        steps of the output."""
        logits = self.forward(x_q)
        if self.loss == "squared-error":
            loss, correct = squared_error(logits, labels), 0
        else:
            loss = cross_entropy(logits, labels, self.graph.quants[self.graph.output].scale, self.eps)
            correct = sum(p == label for p, label in zip(loss.predicted, np.asarray(labels).tolist(), strict=True))
        result = StepResult(loss.words, correct, logits)
        values, ranges = self._values, self.error_ranges
        # Contributions to each tensor, with the consumer's position, its place among those of one node, and the input index: the order of merging.
        waiting: dict[str, list[tuple[int, int, int, Error]]] = {
            self.graph.output: [(len(self.graph.ops), 0, 0, Error(loss.errors.reshape(values[self.graph.output].shape), 0))]
        }
        for place, op in reversed(list(enumerate(self.graph.ops))):
            if op.output not in waiting or not self.needs_error[op.output]:
                continue
            parts = sorted(waiting.pop(op.output), key=lambda part: part[:3])
            draws = self.draws if self.draws_errors and op.output in self.reaching else None
            self.draws.order = self._order(op)
            error = result.errors[op.output] = merge([part for _, _, _, part in parts], self.stochastic, ranges, op.output, draws)
            xs, y = [values[n] for n in op.inputs], values[op.output]
            trains = op.name in self.trainable
            goes_on = any(self.needs_error[n] for n in op.inputs) and (not op.multiplies or op.name in self.passes_errors)
            if not trains and not goes_on:
                continue
            error = mask(error, y, op.mask_lo, op.mask_hi)
            if op.weights is not None:
                error = channel_scale(error, op.weights.scales)
            elif op.kind == "rescale":
                error = channel_scale(error, np.abs(op.attrs["factor"]))
            if op.output == self.graph.output:  # the errors of the loss keep their own range
                error = quantise_carried(error) if self.carried else quantise(error, self.stochastic, draws=draws)
            else:
                error = quantise(error, self.stochastic, ranges, op.name, draws)
            result.stages[op.name] = error
            if trains:
                zero = self.graph.quants[op.inputs[0]].zero
                g = gradient(op, xs[0], error.v, zero, self.weights[op.name])
                assert op.weights is not None
                result.gradients[op.name] = gradient_scale(g, op.weights.scales, self.gradient_power)
            if not goes_on:
                continue
            for index, (name, part) in enumerate(
                zip(op.inputs, backward(op, error, xs, self.weights.get(op.name), self.graph.quants), strict=True)
            ):
                if self.needs_error[name]:
                    summed = op.kind == "add" and part.v.shape != error.v.shape
                    part = part._replace(level=error.level, wide=summed or op.kind not in STAYS_NARROW)
                    waiting.setdefault(name, []).append((op.position, place, index, part))
        for number, (name, g) in enumerate(result.gradients.items()):
            self.draws.order = self._order(next(op for op in self.graph.ops if op.name == name), 0)
            drawn = self.draws.weights(number, g, self.depthwise[name]) if self.draws_updates else None
            mu = head_exponent if name in self.heads else module_exponent
            width = peak(g)
            if self.gradient_range == "peak":
                e = result.stages[name].e
                self.ranges[name] = remembered_range(width + e, self.ranges.get(name, -1000), self.steps)
                width = self.ranges[name] - e
            if name in self.biases:
                scales = next(op.weights.scales for op in self.graph.ops if op.name == name and op.weights is not None)
                total = result.stages[name].v.reshape(-1, g.shape[-1]).sum(axis=0) << self.biases[name].power
                total = gradient_scale(total, scales, self.gradient_power)
                self.biases[name] = self.biases[name].updated(
                    total, max(width, peak(total)) - mu, self.update == "momentum",
                    self.draws.bias(number, len(total)) if self.draws_updates else None,
                )  # fmt: skip
            if self.update == "direct":
                delta = update(g, mu, width, drawn)
            else:
                delta, self.memory[name] = accumulate(g, width, mu, self.memory[name], self.update == "momentum", drawn)
            self.weights[name] = np.clip(self.weights[name] - delta, -127, 127).astype(np.int8)
            result.deltas[name], result.weights[name] = delta, self.weights[name].copy()
        self.steps += 1
        self.draws.step, self.draws.tensors = self.draws.step + 1, 0
        return result

    # -- where errors go ----------------------------------------------------------------------------------------------------

    def _needs_error(self) -> dict[str, bool]:
        """Whether a trainable layer lies upstream of a tensor."""
        needs = {self.graph.input: False}
        for op in self.graph.ops:
            needs[op.output] = op.name in self.trainable or any(needs[n] for n in op.inputs)
        return needs

    def _order(self, op: Op, at: int | None = None) -> I64 | None:
        """If the output of an operation (or its input ``at``) is a flattened plane: the place of each element in (H, W, C) order."""
        tensor = op.output if at is None else op.inputs[at]
        made = next((o for o in self.graph.ops if o.output == tensor), None)
        while made is not None and made.kind == "shape":
            shape = self._values[made.inputs[0]].shape
            if len(shape) == 4:
                c, h, w = shape[3], shape[1], shape[2]
                return np.arange(h * w * c).reshape(h, w, c).transpose(2, 0, 1).reshape(-1)
            made = next((o for o in self.graph.ops if o.output == made.inputs[0]), None)
        return None

    def _reaching(self) -> set[str]:
        """Tensors from which errors reach a trainable layer."""
        found: set[str] = set()
        for op in self.graph.ops:
            passes = not op.multiplies or op.name in self.passes_errors
            if op.name in self.trainable or (passes and any(n in found for n in op.inputs)):
                found.add(op.output)
        return found

    def _trained_behind(self, tensor: str) -> bool:
        return any(op.name in self.trainable or self._trained_behind(op.output) for op in self.consumers.get(tensor, []))

    def _cheapest(self) -> set[str]:
        """The frozen multiply layers on the cheapest path of some trainable layer (backprop = truncated)."""
        cost: dict[str, int] = {self.graph.output: 0}
        step: dict[str, Op] = {}
        for producer in reversed([None, *self.graph.ops]):
            tensor = self.graph.input if producer is None else producer.output
            for op in self.consumers.get(tensor, []):
                if tensor == self.graph.output or op.output not in cost:
                    continue
                through = cost[op.output] + (op.multiplies and op.name not in self.trainable)
                if tensor not in cost or through < cost[tensor]:
                    cost[tensor], step[tensor] = through, op
        chosen: set[str] = set()
        for op in self.graph.ops:
            if op.name in self.trainable:
                tensor = op.output
                while tensor in step:
                    tensor, passed = step[tensor].output, step[tensor]
                    if passed.multiplies:
                        chosen.add(passed.name)
        return chosen
