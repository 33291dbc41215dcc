"""Where a foreign backbone has room for a Rep-Net: the tensors that all data pass through, and the places among them where a module fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import onnx
from onnx import GraphProto, ModelProto

from sasimc.frontend.load import sorted_nodes
from sasimc.isa.errors import SasError, near
from sasimc.zoo.arch import RepModule

__all__ = ["Host", "Neck", "Place", "examine", "find_places", "modules_of"]

_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
_FOUR = 4
_SHARE = 0.25
"""Weights of all modules, at most, beside those of the backbone; the released Rep-Net has 0.17."""
_FEWEST = 8
"""Hidden channels of a module that reads the image, and at least of any other."""


@dataclass(frozen=True)
class Neck:
    """A quantised activation that everything on the way from the image to the classifier passes: its float tensor, the nearest named operation
    before it, [C, H, W]."""

    tensor: str
    node: str
    channels: int
    size: int


@dataclass(frozen=True)
class Host:
    """A backbone as attaching sees it. ``nodes``: those that the classifier's input needs, in order; ``image``: the quantised input's float tensor; ``features``: what the old classifier reads, with its shape without
    the batch; ``classifier``: the old classifier's node."""

    model: ModelProto
    nodes: tuple[onnx.NodeProto, ...]
    input: str
    image: str
    channels: int
    resolution: int
    necks: tuple[Neck, ...]
    features: str
    features_shape: tuple[int, ...]
    classifier: str

    @property
    def weights(self) -> int:
        """Weights of the layers in front of the classifier."""
        read = {i for n in self.nodes for i in n.input}
        return sum(math.prod(t.dims) for t in self.model.graph.initializer if t.name in read and len(t.dims) > 1)


@dataclass(frozen=True)
class Place:
    """A module reads ``entry`` (None: the image) and corrects ``exit``."""

    entry: Neck | None
    exit: Neck


def examine(model: ModelProto) -> Host:
    """Find input, necks and classifier of an int8 (QDQ) classification network.

    Raises:
        SasError: not one image input and one chain to a classifier; a plane that is not square; no quantised activation on the way.
    """
    graph = model.graph
    constants = {t.name for t in graph.initializer}
    inputs = [v for v in graph.input if v.name not in constants]
    if len(inputs) != 1:
        raise SasError(f"the network has {len(inputs)} inputs", hint="a Rep-Net is attached to networks with one image as input")
    shapes = _shapes(model, inputs[0].name)
    shape = shapes.get(inputs[0].name, ())
    if len(shape) != _FOUR or shape[2] != shape[3]:
        raise SasError(
            f"input {inputs[0].name!r} is {list(shape)}", hint="a Rep-Net is attached to networks of square images [N, C, S, S]"
        )
    nodes = sorted_nodes(graph)
    flow = _flow(nodes, inputs[0].name)
    classifier = next((n for n in reversed(nodes) if n.op_type in _PRODUCTS and n.input[0] in flow), None)
    if classifier is None:
        raise SasError("no Conv, Gemm or MatMul depends on the image", hint="is this a classification network in QDQ form?")
    features = classifier.input[0]
    if features not in shapes or any(d < 1 for d in shapes[features][1:]):
        raise SasError(
            f"{classifier.name or classifier.op_type}: the shape of its input is not known", hint="export with fixed sizes"
        )
    necks = _necks(nodes, flow, inputs[0].name, features, shapes)
    if not necks:
        raise SasError(
            "no quantised activation lies on every way from the image to the classifier", hint="give the network in QDQ form"
        )
    quantised = [n for n in necks if n.node == ""]
    image = quantised[0].tensor if quantised else inputs[0].name
    return Host(
        model, _needed(nodes, features), inputs[0].name, image, shape[1], shape[2], tuple(n for n in necks if n.node), features, shapes[features][1:],
        classifier.name or classifier.output[0],
    )  # fmt: skip


def _shapes(model: ModelProto, source: str) -> Mapping[str, tuple[int, ...]]:
    """Shapes of float tensors for a batch of one; 0 where a size is not known."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        if value.name == source and value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    except onnx.shape_inference.InferenceError as exc:
        raise SasError(f"shapes cannot be inferred: {' '.join(str(exc).split())[:200]}") from None
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    return {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}


def _flow(nodes: Sequence[onnx.NodeProto], source: str) -> set[str]:
    """Tensors that depend on the input."""
    reached = {source}
    for node in nodes:
        if any(i in reached for i in node.input):
            reached.update(node.output)
    return reached


def _needed(nodes: Sequence[onnx.NodeProto], target: str) -> tuple[onnx.NodeProto, ...]:
    """Nodes that a tensor needs."""
    wanted, found = {target}, []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            found.append(node)
    return tuple(reversed(found))


def _necks(
    nodes: Sequence[onnx.NodeProto], flow: set[str], source: str, target: str, shapes: Mapping[str, tuple[int, ...]]
) -> list[Neck]:
    """Quantised square planes on every path from source to target, in order: as many paths lead through them as there are."""
    before: dict[str, int] = {source: 1}
    made_by: dict[str, onnx.NodeProto] = {}
    for node in nodes:
        paths = sum(before.get(i, 0) for i in node.input)
        if paths:
            before.update(dict.fromkeys(node.output, paths))
            made_by.update(dict.fromkeys(node.output, node))
    after: dict[str, int] = {target: 1}
    for node in reversed(nodes):
        paths = sum(after.get(o, 0) for o in node.output)
        for i in node.input if paths else ():
            if i in flow:
                after[i] = after.get(i, 0) + paths
    total = before.get(target, 0)
    found = []
    for tensor, node in made_by.items():
        plane = shapes.get(tensor, ())
        square = len(plane) == _FOUR and plane[2] == plane[3] and plane[2] > 1 and plane[1] > 0
        if node.op_type == "DequantizeLinear" and square and before[tensor] * after.get(tensor, 0) == total:
            maker = _maker(tensor, made_by)
            if maker is None or maker.op_type != "Pad":  # what is padded is what was there before
                found.append(Neck(tensor, (maker.name or maker.output[0]) if maker else "", plane[1], plane[2]))
    return found


def _maker(tensor: str, made_by: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The operation whose result a quantised tensor is; None for the input itself."""
    node = made_by.get(tensor)
    while node is not None and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        node = made_by.get(node.input[0])
    return node


def find_places(host: Host, at: Sequence[str] = ()) -> list[Place]:
    """Where modules go.

    ``at``: names of operations whose results are corrected; without it the first narrow tensor (no more channels than its neighbours of the same size) of
    every shape from a quarter of the image's side on. A module reads the narrow tensor before, the first one the image. For MobileNet-V2 these are the six
    places of the released Rep-Net.

    Raises:
        SasError: an operation that does not exist or that not all data pass; no place at all.
    """
    if at:
        return _chain(host, [_named(host, name) for name in at])
    narrow = _narrow(host.necks)
    for largest in (host.resolution // 4, host.resolution // 2, host.resolution):
        shapes = dict.fromkeys((n.channels, n.size) for n in narrow if n.size <= largest)
        if len(shapes) > 1:
            break
    exits = [next(n for n in narrow if (n.channels, n.size) == shape) for shape in shapes]
    if not exits:
        raise SasError(
            "the backbone has no place for a module", hint=f"--at NODE; all data pass {', '.join(n.node for n in host.necks[:6])}"
        )
    return _chain(host, exits)


def _chain(host: Host, exits: Sequence[Neck]) -> list[Place]:
    """Entries for exits in network order."""
    order = {n.tensor: i for i, n in enumerate(host.necks)}
    exits = sorted(dict.fromkeys(exits), key=lambda n: order[n.tensor])
    narrow = _narrow(host.necks)
    places: list[Place] = []
    for corrected in exits:
        before = [n for n in narrow if order[n.tensor] < order[corrected.tensor] and n.size <= 2 * corrected.size + 1]
        places.append(Place(before[-1] if places and before else None, corrected))
    return places


def _narrow(necks: Sequence[Neck]) -> list[Neck]:
    """Necks with no more channels than the ones before and behind that are as large."""
    pairs = list(pairwise(necks))
    wide = {b.tensor for a, b in pairs if a.size == b.size and b.channels > a.channels}
    wide |= {a.tensor for a, b in pairs if a.size == b.size and a.channels > b.channels}
    return [n for n in necks if n.tensor not in wide]


def _named(host: Host, name: str) -> Neck:
    found = next((n for n in host.necks if n.node == name), None)
    if found is not None:
        return found
    known = [n.node for n in host.necks]
    every = _names(host.model.graph)
    if name in every:
        raise SasError(f"--at {name}: not all data pass its result", hint=f"for instance {', '.join(known[:6])}")
    raise SasError(
        f"--at {name}: there is no such operation",
        hint=near(name, known) or f"for instance {', '.join((known or sorted(every))[:6])}",
    )


def _names(graph: GraphProto) -> set[str]:
    return {n.name for n in graph.node}


def modules_of(host: Host, places: Sequence[Place]) -> tuple[RepModule, ...]:
    """The modules of the places by the rule of the released Rep-Net: as many hidden channels as enter (8 for the image), 5 x 5 (3 x 3 on small planes) in two
    groups where they divide, then 1 x 1. That rule is made for narrow bottlenecks: where the modules together outgrow a share of the backbone, their hidden
    channels are halved until they do not."""
    part = 1
    while True:
        modules = tuple(_module(host, number, place, part) for number, place in enumerate(places, 1))
        if sum(m.parameters for m in modules) <= _SHARE * host.weights or all(m.hidden <= _FEWEST for m in modules):
            return modules
        part *= 2


def _module(host: Host, number: int, place: Place, part: int) -> RepModule:
    image, out = place.entry is None, place.exit
    pool = max(1, host.resolution // out.size) if image else 1
    size_in = host.resolution // pool if place.entry is None else place.entry.size
    cin = host.channels if place.entry is None else place.entry.channels
    hidden = _FEWEST if image or cin // part < _FEWEST else cin // part
    pooled = size_in // 2 if size_in > 1 else size_in
    groups = 1 if image or cin % 2 or hidden % 2 else 2
    return RepModule(number, image, pool, cin, hidden, out.channels, 5 if pooled > 4 else 3, groups, size_in, pooled, out.size)
