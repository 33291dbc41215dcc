"""Writes the network as an ONNX graph, quantised where a scale is known and float where it is still to be calibrated.

One emitter serves both: a place where an activation may be quantised is a *site*. With a scale it becomes QuantizeLinear and
DequantizeLinear; without one it stays float and is listed as a candidate, so that running the graph on images gives its range.
When every site has a scale, the result is a standard QDQ model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from sasimc.zoo.arch import Architecture, ConvSpec, RepModule, same_pads
from sasimc.zoo.weights import Backbone, QuantWeights, Scale

__all__ = ["IR_VERSION", "JOINED", "OPSET", "Emitter", "Network", "emit", "emit_correction", "emit_pooled", "join"]

OPSET = 17
IR_VERSION = 8
JOINED = "joined"
"""Site of the classifier's input where pooled modules stand beside the backbone's features."""
_INT_TYPES = {"int8": np.int8, "uint8": np.uint8}


@dataclass(frozen=True)
class Network:
    """Everything that is emitted except the activation scales."""

    arch: Architecture
    backbone: Backbone
    modules: tuple[RepModule, ...]
    rep_weights: Mapping[str, QuantWeights]
    head: QuantWeights
    resolution: int
    wiring: str = "add"


@dataclass
class Emitter:
    """Nodes and initialisers under construction. ``candidates``: site -> float tensor that still needs a scale."""

    scales: Mapping[str, Scale]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    candidates: dict[str, str] = field(default_factory=dict)
    _scale_of: dict[str, Scale] = field(default_factory=dict)

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def node(self, op: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append a node with one output, named like the node."""
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}:0"], name=name, **attributes))
        return f"{name}:0"

    def site(self, name: str, tensor: str) -> str:
        """Quantise ``tensor`` here when the scale of site ``name`` is known; otherwise leave it float and remember it."""
        scale = self.scales.get(name)
        if scale is None:
            self.candidates[name] = tensor
            return tensor
        s = self.constant(f"{name}.scale", np.array(scale.scale, np.float32))
        z = self.constant(f"{name}.zero", np.array(scale.zero, _INT_TYPES[scale.dtype]))
        q = self.node("QuantizeLinear", f"{name}.q", [tensor, s, z])
        out = self.node("DequantizeLinear", f"{name}.dq", [q, s, z])
        self._scale_of[out] = scale
        return out

    def keep_scale(self, source: str, tensor: str) -> str:
        """``tensor`` only rearranges ``source``: it has the same scale."""
        if source in self._scale_of:
            self._scale_of[tensor] = self._scale_of[source]
        return tensor

    def weights(self, name: str, x: str, w: QuantWeights) -> list[str]:
        """Dequantised weights and bias of multiply layer ``name`` with input ``x``; the bias has scale s_x s_w, zero 0."""
        per_channel = w.scale.size > 1
        axis: dict[str, Any] = {"axis": 0} if per_channel else {}
        scale = w.scale.astype(np.float32) if per_channel else w.scale.astype(np.float32).reshape(())
        zero = np.zeros(scale.shape, np.int8)
        inputs = [
            self.constant(f"{name}.weight_q", w.weight),
            self.constant(f"{name}.weight_scale", scale),
            self.constant(f"{name}.weight_zero", zero),
        ]
        result = [self.node("DequantizeLinear", f"{name}.weight", inputs, **axis)]
        if w.bias is None:
            return result
        in_scale = self._scale_of.get(x)
        if in_scale is None:
            return [*result, self.constant(f"{name}.bias_float", w.bias.astype(np.float32))]
        step = (np.float32(in_scale.scale) * scale).astype(np.float32)
        limit = 2**31 - 1
        bias = np.clip(np.rint(w.bias / (np.float64(in_scale.scale) * scale.astype(np.float64))), -limit, limit).astype(np.int32)
        inputs = [
            self.constant(f"{name}.bias_q", bias),
            self.constant(f"{name}.bias_scale", step),
            self.constant(f"{name}.bias_zero", np.zeros(step.shape, np.int32)),
        ]
        return [*result, self.node("DequantizeLinear", f"{name}.bias", inputs, **axis)]

    def conv(self, spec: ConvSpec, x: str, w: QuantWeights, pads: tuple[int, int]) -> str:
        """A convolution with square kernel; ``pads`` = (before, after) of both axes. A visible Clip(0, 6) follows for ReLU6."""
        before, after = pads
        y = self.node(
            "Conv",
            spec.name,
            [x, *self.weights(spec.name, x, w)],
            kernel_shape=[spec.kernel] * 2,
            strides=[spec.stride] * 2,
            group=spec.groups,
            pads=[before, before, after, after],
        )
        if not spec.relu6:
            return y
        bounds = [self.constant("relu6.min", np.array(0, np.float32)), self.constant("relu6.max", np.array(6, np.float32))]
        return self.node("Clip", f"{spec.name}.relu6", [y, *bounds])


def emit(net: Network, scales: Mapping[str, Scale], name: str) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The model, and the candidates (site -> tensor) that have no scale yet; these are graph outputs beside ``logits``."""
    e = Emitter(scales)
    image = x = e.site("input", "input")
    modules = {m.attach: m for m in net.modules}
    size = net.resolution
    pooled: list[str] = []
    for block in net.arch.blocks:
        entry = x
        for spec in block.convs:
            pads = same_pads(net.backbone.padding, size, spec.kernel, spec.stride)
            x = e.site(spec.name, e.conv(spec, x, net.backbone.convs[spec.name], pads))
            size = -(-size // spec.stride)
        if block.residual:
            x = e.site(f"{block.name}.add", e.node("Add", f"{block.name}.add", [entry, x]))
        module = modules.get(block.index)
        if module is None:
            continue
        source = image if module.image else entry
        if net.wiring == "pooled":
            pooled.append(emit_pooled(e, module, net.rep_weights, source))
        else:
            correction = emit_correction(e, module, net.rep_weights, source)
            x = e.site(f"{module.name}.sum", e.node("Add", f"{module.name}.sum", [x, correction]))
    x = e.site("avgpool", e.node("GlobalAveragePool", "avgpool", [x]))
    x = join(e, e.keep_scale(x, e.node("Flatten", "flatten", [x], axis=1)), pooled)
    logits = e.node("Gemm", "classifier", [x, *e.weights("classifier", x, net.head)], transB=1)
    logits = e.site("classifier", logits)
    # the last tensor carries the graph output's name
    for node in e.nodes:
        node.output[:] = ["logits" if o == logits else o for o in node.output]
    e.candidates.update({s: "logits" for s, t in e.candidates.items() if t == logits})
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", net.head.weight.shape[0]])]
    for tensor in dict.fromkeys(e.candidates.values()):
        if tensor not in ("logits", "input"):
            outputs.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    shape = ["batch", 3, net.resolution, net.resolution]
    graph = helper.make_graph(
        e.nodes,
        name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        outputs,
        list(e.initializers.values()),
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="sas-imc")
    return model, e.candidates


def join(e: Emitter, features: str, pooled: Sequence[str]) -> str:
    """The backbone's features [N, F] and those of pooled modules, side by side; without modules the former alone."""
    return e.site(JOINED, e.node("Concat", JOINED, [features, *pooled], axis=1)) if pooled else features


def emit_pooled(e: Emitter, m: RepModule, weights: Mapping[str, QuantWeights], x: str) -> str:
    """A module as features of the classifier [N, channels]: its branch - ReLU - global average pool."""
    x = _branch(e, m, weights, x, relu=True)
    x = e.site(f"{m.name}.avgpool", e.node("GlobalAveragePool", f"{m.name}.avgpool", [x]))
    return e.keep_scale(x, e.node("Flatten", f"{m.name}.flatten", [x], axis=1))


def emit_correction(e: Emitter, m: RepModule, weights: Mapping[str, QuantWeights], x: str) -> str:
    """A module as a correction of a block's output: its branch, resized to that."""
    x = _branch(e, m, weights, x, relu=False)
    if m.size_out == m.pooled:
        return x
    if m.size_out == 2 * m.pooled:
        scales = e.constant("resize.x2", np.array([1, 1, 2, 2], np.float32))
        x = e.node("Resize", f"{m.name}.up", [x, "", scales], mode="linear", coordinate_transformation_mode="half_pixel")
    else:
        x = _nearest(e, m, x)
    return e.site(f"{m.name}.up", x)


def _branch(e: Emitter, m: RepModule, weights: Mapping[str, QuantWeights], x: str, *, relu: bool) -> str:
    """(Image pool) - average pool - conv1 - ReLU - conv2 (- ReLU); every stage a site."""
    if m.image_pool > 1:
        k = m.image_pool
        x = e.node("AveragePool", f"{m.name}.image_pool", [x], kernel_shape=[k, k], strides=[k, k])
        x = e.site(f"{m.name}.image_pool", x)
    if m.pooled != m.size_in:
        x = e.node("AveragePool", f"{m.name}.pool", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = e.site(f"{m.name}.pool", x)
    pad = m.kernel // 2
    x = e.conv(replace(m.conv1, relu6=False), x, weights[m.conv1.name], (pad, pad))
    x = e.site(m.conv1.name, e.node("Relu", f"{m.conv1.name}.relu", [x]))
    x = e.conv(m.conv2, x, weights[m.conv2.name], (0, 0))
    return e.site(m.conv2.name, e.node("Relu", f"{m.conv2.name}.relu", [x]) if relu else x)


def _nearest(e: Emitter, m: RepModule, x: str) -> str:
    """Nearest-neighbour resize to a given side, out -> floor(out * in / size).

    ``sizes`` would have to name the batch, so scales are given: the ratio, rounded up until in * ratio is not below the wanted
    side in double precision either. in and size are coprime here (size = 2 in + 1 or in + 1), so that this moves no index.
    """
    ratio = np.float32(m.size_out / m.pooled)
    while m.pooled * float(ratio) < m.size_out:
        ratio = np.nextafter(ratio, np.float32(np.inf))
    scales = e.constant(f"{m.name}.up.scales", np.array([1, 1, ratio, ratio], np.float32))
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return e.node("Resize", f"{m.name}.up", [x, "", scales], **attributes)
