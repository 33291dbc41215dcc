"""Derive the backward half of a training step from an integer forward graph (docs/reference/numerics.md: Backward, Where errors go).

Works on any graph and any set of trainable layers. The rules that fix every bit:

- A product (``xent``, ``sqerr``, ``conv_t``, ``avgpool_t``, ``maxpool_t``, ``resize_t``, ``mul_t``, ``lut_t``, ``merge``) is int32 and is quantised once, by the
  stage right behind it. If its tensor has this one contribution, that stage also carries the mask of its producer and, if
  the producer is a convolution (or a Mul by constants), its channel scale.
- The constant K of an average pool, or of a product's other factor, rides on the same stage, in front of the producer's mask and channel scale.
- Adds, slices, crops, reshapes and pure requantisations hand int8 mantissas on, exponent and all, under the same name where
  nothing changes.
- Contributions to a tensor with several readers are int8 each, merged in the order of the readers in the forward graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sasimc.ir.graph import Attr, Graph, Op, TensorType, TrainGraph
from sasimc.ir.kinds import ERROR_RANGES, RANGES, UPDATES, UPDATES_FROM
from sasimc.isa.errors import SasError
from sasimc.isa.options import check_options, options_of, texts_of
from sasimc.passes.mark_trainable import matching_layers
from sasimc.passes.options import BackwardOptions

__all__ = ["Backward", "channel_factors", "error_path", "gradient_factors", "logits_of", "pool_factor", "slope_table"]

ONE = 32768
Factors = npt.NDArray[np.int32]


def channel_factors(scales: npt.NDArray[np.float64]) -> tuple[Factors | None, int]:
    """(K_n in Q15, g) of a channel scale; K is None where all are 2^g, and v stays. The sign of a scale goes to its K."""
    size = np.abs(scales)
    top = float(size.max())
    if not top > 0:
        return np.zeros(scales.shape, np.int32), 0
    g = _ceil_log2(top)
    k = np.array([round(math.ldexp(float(s), 15 - g)) for s in scales], np.int32)
    return (None if (size == math.ldexp(1.0, g)).all() and (scales > 0).all() else k), g


def pool_factor(n: int) -> tuple[int, int]:
    """(K in Q15, g') of the constant 1/n."""
    g = _ceil_log2(1.0 / n)
    return round(math.ldexp(1.0, -g) / n * ONE), g


def slope_table(slope: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int8], int]:
    """Derivatives as int8 mantissas D and one exponent g: D = round_half_even(slope / 2^g), g the least with all |D| <= 127."""
    top = float(np.abs(slope).max())
    if not top > 0:
        return np.zeros(slope.shape, np.int8), 0
    g = _ceil_log2(top / 127)
    return np.rint(np.ldexp(slope, -g)).astype(np.int8), g


def _ceil_log2(f: float) -> int:
    mantissa, exponent = math.frexp(f)
    return exponent - 1 if mantissa == 0.5 else exponent


def logits_of(graph: Graph) -> str:
    """The value the loss reads: the graph's output, or what its arg max reads. SasError unless it is one, of stored integers."""
    found: list[str] = []
    for value in graph.outputs:
        producer = graph.producer(value)
        found.append(producer.inputs[0] if producer is not None and producer.kind == "argmax" else value)
    found = list(dict.fromkeys(found))
    if len(found) != 1:
        raise SasError(f"training needs one output, the graph has {len(found)}", hint="remove the other outputs")
    if (t := graph.type(found[0])).dtype not in ("u8", "i8"):
        raise SasError(f"training needs an output of 8 bits, it is {t}", hint="quantise the output")
    return found[0]


def _passes_freely(op: Op) -> bool:
    """Whether errors always pass: everything but frozen multiply layers."""
    return op.kind not in ("conv", "argmax") or op.flag("trainable")


def error_path(graph: Graph, policy: str, through: Sequence[str] = ()) -> frozenset[str]:
    """Names of the operations errors may pass. ``truncated``: frozen convolutions only where a trainable layer needs them;
    ``through``: patterns over names of layers that errors pass besides (then ``policy`` is not looked at).

    Raises:
        SasError: a pattern that matches no layer with weights.
    """
    if policy == "exact" and not through:
        return frozenset(op.name for op in graph.ops if op.kind != "argmax")
    named = matching_layers([op for op in graph.ops if op.kind == "conv"], through, "--backprop-through")
    cost: dict[str, int] = {logits_of(graph): 0}
    step: dict[str, Op] = {}
    for op in reversed(graph.ops):
        _cheapest(graph, op.output, cost, step)
    chosen = {op.name for op in graph.ops if _passes_freely(op)} | named
    for op in graph.ops:
        value = op.output
        while op.flag("trainable") and value in step:
            chosen.add(step[value].name)
            value = step[value].output
    return frozenset(chosen)


def _cheapest(graph: Graph, value: str, cost: dict[str, int], step: dict[str, Op]) -> None:
    """Fewest frozen multiply layers from ``value`` to the loss, and the reader to take (the earlier among equals)."""
    if value in cost:
        return
    for reader in graph.consumers(value):
        if reader.output in cost and reader.kind != "argmax":
            through = cost[reader.output] + (not _passes_freely(reader))
            if value not in cost or through < cost[value]:
                cost[value], step[value] = through, reader


@dataclass(frozen=True, kw_only=True)
class Backward(BackwardOptions):
    """Loss, errors, gradients and updates for the trainable layers of a graph; one without any stays as it is."""

    name: ClassVar[str] = "backward"

    @classmethod
    def of(cls, options: BackwardOptions) -> Backward:
        """The pass with these options, which may be among others."""
        return cls(**{o.name: getattr(options, o.name) for o in options_of(BackwardOptions)})

    def run(self, graph: Graph) -> Graph | TrainGraph:
        return self.derive(graph) if any(op.flag("trainable") for op in graph.ops) else graph

    def derive(self, graph: Graph) -> TrainGraph:
        """The training graph.

        Raises:
            SasError: an option that is not allowed, nothing trainable, a trainable layer that does not reach the loss, or an output that is no
                vector of logits.
        """
        check_options(self)
        trainable = [op.name for op in graph.ops if op.flag("trainable")]
        if not trainable:
            raise SasError(
                "no layer is trainable", hint="mark layers with --trainable PATTERN, or in the file's metadata (sasimc.trainable)"
            )
        if self.train_biases:
            graph = graph.map_ops([_with_bias(graph, op) if op.flag("trainable") else op for op in graph.ops])
        state = _Derivation(graph, self, error_path(graph, self.backprop, self.backprop_through))
        state.loss(logits_of(graph))
        for op in reversed(graph.ops):
            state.step(op)
        if missing := [name for name in trainable if name not in state.updated]:
            raise SasError(
                f"trainable layers do not reach the loss: {', '.join(missing[:5])}",
                hint="unmark them, or connect them to the output",
            )
        options = texts_of(self, BackwardOptions)
        return TrainGraph(graph, tuple(state.ops), state.values, state.constants, frozenset(state.saved), options)


def _with_bias(graph: Graph, op: Op) -> Op:
    """The layer with a learned bias, whose input is 2^p, the power nearest to a real one as the layer's input stores it (p from 0 to 7): the number of
    its fraction bits is 8 - p."""
    return op.with_attrs(learned=8 - min(7, max(0, round(-math.log2(graph.type(op.inputs[0]).scale)))))


def gradient_factors(scales: npt.NDArray[np.float64], power: int) -> Factors | None:
    """K_n in Q15 that divides the gradients of output channel n by its scale to this power (the finest channel keeps its own);
    None where that changes nothing."""
    if power == 0 or scales.min() == scales.max() or not scales.min() > 0:
        return None
    return np.array([round(ONE * (float(scales.min()) / float(s)) ** power) for s in scales], np.int32)


@dataclass(frozen=True)
class Part:
    """One contribution to a tensor's error. ``product``: int32, not staged yet; ``factor``, ``exp_add``: a pool's constant."""

    value: str
    product: bool
    factor: int = ONE
    exp_add: int = 0


@dataclass(frozen=True, eq=False)
class Work:
    """What a stage in front of a forward operation has to do besides quantising."""

    mask: Op | None = None
    scale: Factors | None = None
    exp_add: int = 0

    @property
    def nothing(self) -> bool:
        return self.mask is None and self.scale is None and self.exp_add == 0


@dataclass(eq=False)
class _Derivation:
    """The training graph while it is built; ``passes``: names of the operations that errors may pass."""

    graph: Graph
    options: BackwardOptions
    passes: frozenset[str]
    of_loss: str = ""
    ops: list[Op] = field(default_factory=list)
    values: dict[str, TensorType] = field(default_factory=dict)
    constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    saved: set[str] = field(default_factory=set)
    updated: set[str] = field(default_factory=set)
    parts: dict[str, dict[tuple[int, int], Part]] = field(default_factory=dict)
    wanted: dict[str, bool] = field(default_factory=dict)
    position: dict[str, int] = field(default_factory=dict)
    logits: str = ""

    def __post_init__(self) -> None:
        """A tensor wants an error when a trainable layer upstream of it can be reached by errors."""
        self.position = {op.name: i for i, op in enumerate(self.graph.ops)}
        for value in self.graph.inputs:
            self.wanted[value] = False
        for op in self.graph.ops:
            reachable = op.name in self.passes and any(self.wanted[v] for v in op.inputs)
            self.wanted[op.output] = op.flag("trainable") or reachable

    # -- building blocks ----------------------------------------------------------------------------------------------

    def emit(self, kind: str, name: str, inputs: tuple[str, ...], output: str, dtype: str, like: str, forward: Op | None = None,
             attrs: dict[str, Attr] | None = None, consts: dict[str, str] | None = None) -> str:  # fmt: skip
        """Add one operation whose output has the shape of forward value ``like``; its name is made unique. Returns the output."""
        if output:
            base, n = output, 1
            while output in self.values:
                n += 1
                output = f"{base}#{n}"
            self.values[output] = TensorType(dtype, self.graph.type(like).shape)
        known: dict[str, Attr] = (
            {"forward": forward.name} if forward is not None and kind not in ("stage", "merge", "xent", "sqerr") else {}
        )
        origin = forward.origin if forward is not None else ""
        full = f"{name}:{output}" if kind in ("stage", "merge") else name
        self.ops.append(Op(full, kind, inputs, output, {**known, **(attrs or {})}, consts or {}, origin, Backward.name))
        return output

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        """Store a constant; its name is made unique."""
        while name in self.constants:
            name += "'"
        self.constants[name] = values
        return name

    def contribute(self, op: Op, index: int, part: Part) -> None:
        """Error of input ``index`` of ``op``."""
        self.parts.setdefault(op.inputs[index], {})[(self.position[op.name], index)] = part

    def stage(self, tensor: str, part: Part, work: Work, producer: Op | None) -> str:
        """int8 error of ``tensor`` from one contribution, with the work of its producer; the same name if there is none."""
        if not part.product and work.nothing:
            return part.value
        channels, mask = self.graph.type(tensor).shape[2], work.mask
        pool = np.full(channels, part.factor, np.int32) if part.factor != ONE else None
        attrs: dict[str, Attr] = {
            "mask_of": "", "lo": 0, "hi": 0, "mask_lo": False, "mask_hi": False, "exp_add": work.exp_add + part.exp_add,
        }  # fmt: skip
        if mask is not None:
            attrs |= {"mask_of": mask.output, **{k: mask.attrs[k] for k in ("lo", "hi", "mask_lo", "mask_hi")}}
            self.saved.add(mask.output)
        # only the errors of the cross-entropy have a sum to keep: all its classes are pushed the same way otherwise
        rounding, keeps_sum = self.options.round_errors, part.value == self.of_loss and self.options.loss == "cross-entropy"
        if rounding == "stochastic" or (rounding == "carried" and keeps_sum):
            attrs["rounding"] = rounding
        if rounding == "unbiased" and part.product:
            attrs |= {"rounding": rounding, "stream": sum("stream" in op.attrs for op in self.ops if op.kind == "stage")}
        if part.product and part.value != self.of_loss and self.options.error_range != ERROR_RANGES[0]:
            attrs["range"] = self.options.error_range
        consts = {
            role: self.constant(f"k:{tensor}", values)
            for role, values in (("kpool", pool), ("kscale", work.scale))
            if values is not None
        }
        return self.emit("stage", "stage", (part.value,), f"e8:{tensor}", "i8", tensor, producer, attrs, consts)

    def gather(self, tensor: str, work: Work, producer: Op) -> str:
        """All contributions to ``tensor`` merged, then staged for its producer."""
        parts = [part for _, part in sorted(self.parts.pop(tensor).items())]
        total = parts[0]
        for i, part in enumerate(parts[1:]):
            if i == 0 or total.product:
                total = Part(self.stage(tensor, total, Work(), producer), product=False)
            right = self.stage(tensor, part, Work(), producer)
            total = Part(self.emit("merge", "merge", (total.value, right), f"e:{tensor}", "i32", tensor, producer), product=True)
        return self.stage(tensor, total, work, producer)

    # -- the operations -----------------------------------------------------------------------------------------------

    def loss(self, output: str) -> None:
        """The error of the output."""
        if self.options.loss == "cross-entropy":
            value = self._cross_entropy(output)
        else:
            value = self.emit("sqerr", "sqerr", (output,), f"e:{output}", "i32", output, self.graph.producer(output))
        self.of_loss = value
        self.parts[output] = {(len(self.graph.ops), 0): Part(value, product=True)}
        self.logits = output

    def _cross_entropy(self, logits: str) -> str:
        t = self.graph.type(logits)
        if t.shape[:2] != (1, 1) or t.shape[2] < 2:
            raise SasError(
                f"the loss needs a vector of at least two logits, the output is {t}",
                hint="end the network in a classifier, or take --loss squared-error for values",
            )
        classes = t.shape[2]
        eps_q15 = round(self.options.eps * ONE)
        other = eps_q15 // classes
        mult = max(1, round(t.scale * math.log2(math.e) * 4096))
        if mult >= 1 << 31:
            raise SasError(
                f"the logits have scale {t.scale:g}, too large for the integer loss", where=logits, hint="scale the logits down"
            )
        attrs: dict[str, Attr] = {
            "logit_mult": mult, "eps_q15": eps_q15,
            "t_other": other, "t_label": ONE - (classes - 1) * other,
        }  # fmt: skip
        return self.emit("xent", "xent", (logits,), f"e:{logits}", "i32", logits, self.graph.producer(logits), attrs)

    def step(self, op: Op) -> None:
        if op.output not in self.parts or not self.wanted[op.output]:
            return
        if op.kind == "conv":
            self._conv(op)
            return
        inputs = [i for i, v in enumerate(op.inputs) if self.wanted[v]]
        work = Work(mask=op if op.flag("mask_lo") or op.flag("mask_hi") else None)
        if op.kind == "rescale":
            scale, g = channel_factors(self.graph.constant(op, "cscale"))
            work = Work(work.mask, scale, g)
        error = self.gather(op.output, work, op)
        start = 0
        for i, v in enumerate(op.inputs):
            if i in inputs:
                self.contribute(op, i, self._through(op, i, error, start))
            start += self.graph.type(v).shape[2]

    def _conv(self, op: Op) -> None:
        goes_on = op.name in self.passes and self.wanted[op.inputs[0]]
        scale, g = channel_factors(self.graph.constant(op, "wscale"))
        mask = op if op.flag("mask_lo") or op.flag("mask_hi") else None
        # the exponent of an error that ends here is read by nobody: the update looks at the gradient's bits only
        error = self.gather(op.output, Work(mask, scale, g if goes_on else 0), op)
        if goes_on:
            value = self.emit("conv_t", f"conv_t:{op.name}", (error,), f"e:{op.inputs[0]}", "i32", op.inputs[0], op)
            self.contribute(op, 0, Part(value, product=True))
        if op.flag("trainable"):
            self.saved.add(op.inputs[0])
            attrs: dict[str, Attr] = {"mu": "head" if op.flag("head") else "rep"}
            if self.options.update != UPDATES[0]:
                attrs["scheme"] = self.options.update
            if self.options.gradient_range != RANGES[0]:
                attrs["range"] = self.options.gradient_range
            if self.options.unbiased_updates:
                attrs["stream"] = UPDATES_FROM + 2 * len(self.updated)
            factors = gradient_factors(self.graph.constant(op, "wscale"), self.options.gradient_power)
            consts = {} if factors is None else {"gscale": self.constant(f"kg:{op.name}", factors)}
            self.emit("update", f"update:{op.name}", (op.inputs[0], error), "", "", "", op, attrs, consts)
            self.updated.add(op.name)

    def _through(self, op: Op, index: int, error: str, start: int) -> Part:
        """The contribution of ``op`` to its input ``index``, given the int8 error of its output."""
        x = op.inputs[index]
        name, out = f"{op.kind}_t:{op.name}", f"e:{x}"
        match op.kind:
            case "add" if (op.int_attr("ma"), op.int_attr("mb"))[index] < 0:
                return Part(
                    self.stage(
                        x, Part(error, product=False), Work(scale=np.full(self.graph.type(x).shape[2], -ONE, np.int32)), op
                    ),
                    product=False,
                )
            case "add" | "rescale":
                return Part(error, product=False)
            case "avgpool":
                kh, kw = op.ints("kernel")
                factor, g = pool_factor(kh * kw)
                return Part(self.emit("avgpool_t", name, (error,), out, "i32", x, op), True, factor, g)
            case "mul":
                other = op.inputs[1 - index]
                self.saved.add(other)
                scale, g = channel_factors(np.array([self.graph.type(other).scale]))
                value = self.emit("mul_t", f"{name}:{index}", (error, other), out, "i32", x, op, {"index": index})
                return Part(value, True, ONE if scale is None else int(scale[0]), g)
            case "lut":
                self.saved.add(x)
                slopes, g = slope_table(self.graph.constant(op, "slope"))
                consts = {"slope": self.constant(f"kd:{op.name}", slopes)}
                return Part(self.emit("lut_t", name, (error, x), out, "i32", x, op, {"exp_add": g}, consts), product=True)
            case "maxpool":
                self.saved.add(x)
                return Part(self.emit("maxpool_t", name, (error, x), out, "i32", x, op), product=True)
            case "resize":
                shift = -4 if op.attrs["mode"] == "linear" else 0
                return Part(self.emit("resize_t", name, (error,), out, "i32", x, op, {"exp_add": shift}), product=True)
            case "concat" | "mosaic":
                at = op.ints("starts")[3 * index : 3 * index + 3] if op.kind == "mosaic" else (0, 0, start)
                attrs: dict[str, Attr] = {"start": at, "step": op.ints("step") if op.kind == "mosaic" else (1, 1, 1)}
                return Part(self.emit("slice_t", f"slice_t:{op.name}:{index}", (error,), out, "i8", x, op, attrs), product=False)
            case "slice":
                return Part(self.emit("scatter_t", name, (error,), out, "i8", x, op), product=False)
            case "pad":
                return Part(self.emit("crop_t", name, (error,), out, "i8", x, op), product=False)
            case "reshape":
                return Part(self.emit("reshape_t", name, (error,), out, "i8", x, op), product=False)
            case _:
                raise SasError(
                    f"errors cannot pass {op.kind} {op.name!r}", where=op.origin or op.name,
                    hint="train only what stands behind the last such operation, as the classifier: --trainable PATTERN",
                )  # fmt: skip
