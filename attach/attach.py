"""A Rep-Net and a new classifier for any int8 backbone that compiles: modules at the steps of resolution, calibrated, still a plain ONNX file.

The backbone's nodes stay as they are. A module's correction is added to the activation it corrects; everything behind reads the sum. The old
classifier and what stands behind it go.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sasimc.attach.places import Host, Place, examine, find_places, modules_of
from sasimc.frontend.load import sorted_nodes
from sasimc.isa.errors import SasError
from sasimc.zoo.arch import RepModule
from sasimc.zoo.calibrate import Stats, affine_scale, observe
from sasimc.zoo.graph import JOINED, Emitter, emit_correction, emit_pooled, join
from sasimc.zoo.modules import calibrate_modules, calibrate_pooled, learner_scale, new_classifier, rep_weights
from sasimc.zoo.options import LearnerOptions
from sasimc.zoo.weights import QuantWeights, Scale

__all__ = ["AttachOptions", "Attached", "attach"]


@dataclass(frozen=True)
class AttachOptions(LearnerOptions):
    """``classes``: outputs of the new classifier; ``at``: names of operations whose results modules correct (empty: found); ``modules`` False: only the
    classifier; ``labels``: names of the classes."""

    classes: int = 2
    at: tuple[str, ...] = ()
    modules: bool = True
    labels: tuple[str, ...] = ()

    def check(self) -> None:
        super().check()
        if not 2 <= self.classes <= 65536:
            raise SasError(f"classes is {self.classes}, a classifier needs 2 to 65536")
        if self.labels and len(self.labels) != self.classes:
            raise SasError(f"{len(self.labels)} labels for {self.classes} classes")


@dataclass(frozen=True, eq=False)
class Attached:
    """The network, its modules with the places they stand at, and the number of features of the classifier."""

    model: ModelProto
    modules: tuple[tuple[RepModule, Place], ...]
    features: int

    @property
    def parameters(self) -> int:
        """Trainable weights of the modules."""
        return sum(m.parameters for m, _ in self.modules)


@dataclass(frozen=True)
class _Learner:
    weights: Mapping[str, QuantWeights]
    head: QuantWeights


def attach(model: ModelProto, options: AttachOptions, images: Sequence[npt.NDArray[np.float32]]) -> Attached:
    """Attach modules and a classifier to a QDQ model; ``images`` [1, C, S, S], as the network takes them, calibrate what is new.

    Raises:
        SasError: options that make no sense; a network that :func:`examine` or :func:`find_places` refuse.
    """
    options.check()
    host = examine(model)
    places = find_places(host, options.at) if options.modules else []
    modules = tuple(zip(modules_of(host, places), places, strict=True))
    weights = rep_weights(np.random.default_rng([options.seed, 1]), [m for m, _ in modules], options)
    pooled = options.wiring == "pooled"
    features = host.features_shape[0] + sum(m.cout for m, _ in modules if pooled)
    head = new_classifier(features, options.classes, options)
    known = _quantisation(model)
    scales: dict[str, Scale] = {"classifier": Scale(options.logit_step(options.classes))}
    scales.update({_block(m): known[place.exit.tensor] for m, place in modules})

    def emitted(current: Mapping[str, QuantWeights]) -> tuple[ModelProto, dict[str, str]]:
        return _emit(host, modules, _Learner(current, head), scales, pooled)

    def look(current: Mapping[str, QuantWeights]) -> dict[str, Stats]:
        made, candidates = emitted(current)
        return observe(made, candidates, images, host.input) if candidates else {}

    if modules and pooled:
        weights = calibrate_pooled([m for m, _ in modules], weights, scales, "features", JOINED, look, options)
    elif modules:
        weights = calibrate_modules([m for m, _ in modules], weights, scales, _block, look, options)
    stats = look(weights)
    for factor in (options.headroom, -options.headroom) if modules and not pooled else ():
        stats["features"].merge(look(_scaled(weights, [m for m, _ in modules], factor))["features"])
    for site, stat in stats.items():
        learns = site.startswith("rep.") or site == "features"
        scales[site] = learner_scale(stat, options, grows=site.endswith("conv1")) if learns else affine_scale(stat.lo, stat.hi)
    made, missing = emitted(weights)
    assert not missing, missing
    _metadata(made, [conv.name for m, _ in modules for conv in (m.conv1, m.conv2)] + ["classifier"], options, len(images))
    onnx.checker.check_model(made)
    return Attached(made, modules, features)


def _scaled(weights: Mapping[str, QuantWeights], modules: Sequence[RepModule], factor: float) -> dict[str, QuantWeights]:
    """Weights with which every module's output is so many times as large."""
    grown = {m.conv2.name: weights[m.conv2.name] for m in modules}
    return {
        **weights,
        **{
            n: replace(w, weight=w.weight * int(np.sign(factor)), scale=w.scale * np.float32(abs(factor)))
            for n, w in grown.items()
        },
    }


def _block(module: RepModule) -> str:
    return f"{module.name}.block"


def _quantisation(model: ModelProto) -> dict[str, Scale]:
    """Scales of the float tensors that come out of a DequantizeLinear with one scale."""
    constants = {t.name: t for t in model.graph.initializer}
    constants.update(
        {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant" and n.attribute[0].HasField("t")}
    )
    found = {}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[1] not in constants:
            continue
        scale = numpy_helper.to_array(constants[node.input[1]])
        zero = (
            numpy_helper.to_array(constants[node.input[2]])
            if len(node.input) > 2 and node.input[2] in constants
            else np.zeros((), np.uint8)
        )
        if scale.size == 1 and zero.size == 1 and zero.dtype in (np.int8, np.uint8):
            found[node.output[0]] = Scale(float(scale.reshape(())), int(zero.reshape(())), zero.dtype.name)
    return found


def _emit(
    host: Host, modules: Sequence[tuple[RepModule, Place]], learner: _Learner, scales: Mapping[str, Scale], pooled: bool
) -> tuple[ModelProto, dict[str, str]]:
    """The model with what has a scale quantised; the rest (site -> tensor) are outputs beside the logits, to be calibrated."""
    e = Emitter(scales)
    latest: dict[str, str] = {}  # corrected tensors, by the one they correct
    beside: list[str] = []  # modules that are features of their own
    for module, place in modules:
        source = host.image if place.entry is None else latest.get(place.entry.tensor, place.entry.tensor)
        if pooled:
            beside.append(emit_pooled(e, module, learner.weights, source))
            continue
        correction = emit_correction(e, module, learner.weights, source)
        corrected = place.exit.tensor
        latest[corrected] = e.site(f"{module.name}.sum", e.node("Add", f"{module.name}.sum", [corrected, correction]))
    kept = [NodeProto.FromString(n.SerializeToString()) for n in host.nodes]
    for node in kept:
        node.input[:] = [latest.get(i, i) for i in node.input]
    x = latest.get(host.features, host.features)
    if len(host.features_shape) > 1:
        if any(d > 1 for d in host.features_shape[1:]):
            x = e.node("GlobalAveragePool", "features.pool", [x])
        x = e.node("Flatten", "features.flatten", [x], axis=1)
    x = join(e, e.site("features", x), beside)
    logits = e.node("Gemm", "classifier", [x, *e.weights("classifier", x, learner.head)], transB=1)
    logits = e.site("classifier", logits)
    for node in e.nodes:
        node.output[:] = ["logits" if o == logits else o for o in node.output]
    return _model(host, [*kept, *e.nodes], e, learner.head.weight.shape[0]), e.candidates


def _model(host: Host, nodes: list[NodeProto], e: Emitter, classes: int) -> ModelProto:
    """The nodes in order, with the constants they read."""
    model = ModelProto()
    model.CopyFrom(host.model)
    graph = model.graph
    read = {i for n in host.nodes for i in n.input}
    constants = {t.name: t for t in graph.initializer if t.name in read}
    _refuse_twice(host, e, constants)
    constants.update(e.initializers)
    for repeated in (graph.node, graph.initializer, graph.output, graph.value_info):
        del repeated[:]
    graph.initializer.extend(constants.values())
    graph.node.extend(nodes)
    ordered = sorted_nodes(graph)
    del graph.node[:]
    graph.node.extend(ordered)
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes]))
    for tensor in dict.fromkeys(e.candidates.values()):
        if tensor != "logits":
            graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    return model


def _refuse_twice(host: Host, e: Emitter, constants: Mapping[str, TensorProto]) -> None:
    """Names of the new part must be free in the backbone; shared constants must be equal."""
    own = {name for n in host.nodes for name in (n.name, *n.output)} - {""}
    taken = own.intersection(name for n in e.nodes for name in (n.name, *n.output))
    taken |= {n for n, t in constants.items() if n in e.initializers and t.raw_data != e.initializers[n].raw_data}
    if taken:
        raise SasError(
            f"the network has its own {', '.join(repr(n) for n in sorted(taken)[:3])}",
            hint="attach to the backbone alone, before a Rep-Net was attached (of the zoo: `sasc zoo mobilenetv2`)",
        )


_OF_MODULES = ("wiring", "rep_gain", "rep_weight_max", "module_weights", "module_scales")


def _metadata(model: ModelProto, trainable: Sequence[str], options: AttachOptions, images: int) -> None:
    """Also what the new part was made with, as the zoo notes it, so that a recipe can say what it is for; what modules alone have, only where there are any."""
    labels = options.labels
    kept = {p.key: p.value for p in model.metadata_props if p.key != "sasimc.labels"}
    kept["sasimc.trainable"] = json.dumps(list(trainable))
    kept["sasimc.untrained"] = json.dumps("classifier")
    tuned = [f.name for f in fields(LearnerOptions) if options.modules or f.name not in _OF_MODULES]
    kept["sasimc.zoo"] = json.dumps({**{name: getattr(options, name) for name in tuned}, "calibration_images": images})
    if labels:
        kept["sasimc.labels"] = json.dumps(list(labels))
    helper.set_model_props(model, kept)
