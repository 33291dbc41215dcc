"""How much each trainable layer is worth, on a few labelled images: by how much a step of this device lowers the loss of other images.

An update ignores the size of a gradient: its largest element moves a weight by one step (docs/reference/numerics.md). So a layer's step for a batch is
s_b = g_b / 2^bits(max |g_b|), and to first order it lowers the loss of an image by the product of s_b with that image's gradient. Taken with images of other
batches only, the mean over batches counts what they agree on, not what is particular to one. All gradients are the integers that the program would make
(:mod:`sasimc.ir.interp_train`), at the time at which modules join: when the classifier has learned something (docs/explanation/training.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sasimc.datasets.dataset import Dataset
from sasimc.datasets.loader import Loader
from sasimc.datasets.network_input import NetworkInput
from sasimc.ir.graph import Graph, Op, TrainGraph
from sasimc.ir.interp import Ints, run, run_op
from sasimc.ir.interp_train import TrainResult, train_step
from sasimc.isa.errors import SasError
from sasimc.isa.objects import DTYPES
from sasimc.passes.backward import Backward, channel_factors, logits_of
from sasimc.passes.options import BackwardOptions
from sasimc.training.level import Level
from sasimc.training.recipe import Recipe

__all__ = ["IMAGES", "batches_of", "by_gradients", "by_place", "exponent_of", "with_learned_heads"]

IMAGES = 256
"""At most so many training images are looked at."""
BATCH = 8
PASSES = 10
"""The classifier learns in at most so many passes over them, until modules would join."""
ONE = 32768
"""The loss error of a logit is 1 in these units."""

Images = npt.NDArray[np.int8 | np.uint8]
Labels = npt.NDArray[np.int64]
Show = Callable[[str, float], None]


def by_place(graph: Graph) -> tuple[dict[str, float], str]:
    """Without images: a layer is worth more than all before it together, so that the last ones are chosen; and what that is called."""
    layers = [op.name for op in graph.ops if op.flag("trainable")]
    worth = {name: 0.5 ** (len(layers) - 1 - i) for i, name in enumerate(layers)}
    return worth, "place in the network, the last layers first (--importance-data FOLDER measures on labelled images)"


def by_gradients(
    train: TrainGraph, given: BackwardOptions, data: Dataset, progress: Show = lambda *_: None
) -> tuple[dict[str, float], str]:
    """What a step of exponent 0 of each trainable layer lowers the loss of an image by, in nats; and what that is called.

    Raises:
        SasError: images without classes, of more classes than the network has, or fewer than two; a network that learns values or has several inputs.
    """
    if given.loss != "cross-entropy":
        raise SasError("--importance-data goes with classes", hint=f"leave it out with --loss {given.loss}")
    graph = train.forward
    batches = batches_of(graph, data)
    # where errors go is the program's; roundings and remembered ranges, which change gradients little, are plain
    options = BackwardOptions(backprop=given.backprop, backprop_through=given.backprop_through, eps=given.eps)
    learned = with_learned_heads(graph, options, batches, progress)
    worth = _agreement(Backward.of(options).derive(learned), batches, progress)
    count = sum(len(labels) for _, labels in batches)
    return worth, f"what a step lowers the loss of other images by, {count} training images of {data.name}"


def batches_of(graph: Graph, data: Dataset) -> list[tuple[Images, Labels]]:
    """Batches of training images as the network takes them, and their classes."""
    outputs = graph.type(logits_of(graph)).size
    if len(graph.inputs) != 1:
        raise SasError(f"--importance-data: the network has {len(graph.inputs)} inputs", hint="leave it out")
    if not 2 <= len(data.classes) <= outputs:
        raise SasError(
            f"--importance-data: {data.name} has {len(data.classes)} classes, the network {outputs} outputs",
            hint="images of the classes that the network is going to learn, a folder for each class",
        )
    t = graph.type(graph.inputs[0])
    notes = {f"note.{key}": value for key, value in graph.notes.items()}
    plane = NetworkInput.of(t.shape, np.dtype(DTYPES[t.dtype]).name, t.scale, t.zero, notes)
    loader = Loader(data, "train", plane.preprocess, BATCH, limit=IMAGES)
    batches = [(plane.integers(images), labels.astype(np.int64)) for images, labels, _ in loader.epoch(0)]
    if len(batches) < 2:
        raise SasError(
            f"--importance-data: {data.name} has {sum(len(labels) for _, labels in batches)} training images that can be read",
            hint=f"more than {BATCH} are needed, {IMAGES} are taken",
        )
    return batches


def with_learned_heads(
    graph: Graph, options: BackwardOptions, batches: list[tuple[Images, Labels]], progress: Show = lambda *_: None
) -> Graph:
    """The graph after its last trainable layers alone have learned until modules would join, as the default recipe does it."""
    heads = graph.map_ops([op.with_attrs(trainable=op.flag("head")) if op.kind == "conv" else op for op in graph.ops])
    train = Backward.of(options).derive(heads)
    later, behind = set[str](), []  # what depends on the weights that learn
    for op in graph.ops:
        if op.flag("head") or later.intersection(op.inputs):
            later.add(op.output)
            behind.append(op)
    kept = {v for op in behind for v in op.inputs if v not in later}
    features: list[dict[str, Ints]] = []
    for i, (images, _) in enumerate(batches):
        values = run(graph, {graph.inputs[0]: images})
        features.append({v: values[v] for v in kept})
        progress("looking at images", (i + 1) / len(batches) / 3)
    recipe, memory = Recipe(), dict[str, Ints]()
    level, steps = Level.of(graph.type(logits_of(graph)).size, recipe.modules), PASSES * len(batches)
    for step in range(steps):
        if level.learns(step, steps, recipe.modules):
            break
        values, labels = dict(features[step % len(batches)]), batches[step % len(batches)][1]
        for op in behind:
            values[op.output] = run_op(train.forward, op, [values[v] for v in op.inputs], samples=len(labels))
        made = train_step(train, values, labels, recipe.exponents(step, steps, level)[0], 0, memory)
        level = level.after(round(float(made.losses.mean())), recipe.modules)
        train = replace(train, forward=_with_weights(train.forward, made))
    return graph.with_changes(constants=train.forward.constants)


def _with_weights(graph: Graph, made: TrainResult) -> Graph:
    new = {graph.op(layer).consts["weight"]: weight.astype(np.int8) for layer, weight in made.weights.items()}
    return graph.with_changes(constants={**graph.constants, **new})


def exponent_of(train: TrainGraph, update: Op, made: TrainResult) -> int:
    """Exponent of the error that an update reads, its channel scale included; nothing of a program reads the exponent of an error that ends there."""
    layer = train.forward.op(update.str_attr("forward"))
    ends = layer.name not in train.transposed()
    return made.errors[update.inputs[1]].e + (channel_factors(train.forward.constant(layer, "wscale"))[1] if ends else 0)


@dataclass
class _Sums:
    """Over batches b of images with gradients g_b and steps s_b: sum of g_b, of s_b and of their products."""

    gradient: npt.NDArray[np.float64] | float = 0.0
    step: npt.NDArray[np.float64] | float = 0.0
    both: float = 0.0


def _agreement(train: TrainGraph, batches: list[tuple[Images, Labels]], progress: Show) -> dict[str, float]:
    """The mean over batches of s_b times the mean gradient of the images of all others."""
    graph, sums = train.forward, dict[str, _Sums]()
    for i, (images, labels) in enumerate(batches):
        made = train_step(train, run(graph, {graph.inputs[0]: images}), labels, 0, 0)
        for op in train.ops:
            if op.kind != "update":
                continue
            layer, exponent = graph.op(op.str_attr("forward")), exponent_of(train, op, made)
            g = made.gradients[layer.name].astype(np.float64)
            step = g / 2.0 ** int(np.abs(g).max()).bit_length()
            g *= 2.0**exponent * graph.type(op.inputs[0]).scale / ONE
            s = sums.setdefault(layer.name, _Sums())
            s.gradient, s.step, s.both = s.gradient + g, s.step + step, s.both + float((g * step).sum())
        progress("looking at gradients", (1 + 2 * (i + 1) / len(batches)) / 3)
    others = sum(len(labels) for _, labels in batches) * (1 - 1 / len(batches))
    return {name: float((np.sum(s.gradient * s.step) - s.both) / len(batches) / others) for name, s in sums.items()}
