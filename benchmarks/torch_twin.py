"""The floating-point twin of a quantised ONNX network in PyTorch, for comparing training steps.

Quantise and dequantise nodes pass their values on; everything else becomes the torch operation. Gradients are wanted for the
layers that the file's ``sasimc.trainable`` names and flow to them through the frozen ones, as on the device.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch.nn import functional as F

__all__ = ["Twin"]

Tensor = torch.Tensor


def _pad(x: Tensor, pads: list[int], value: float = 0.0) -> Tensor:
    """ONNX pads (top, left, bottom, right)."""
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom), value=value) if any(pads) else x


def _conv(x: Tensor, w: Tensor, b: Tensor | None, a: dict[str, Any]) -> Tensor:
    pads = a.get("pads", [0, 0, 0, 0])
    even = pads[:2] == pads[2:]
    x = x if even else _pad(x, pads)
    return F.conv2d(x, w, b, a.get("strides", 1), pads[:2] if even else 0, a.get("dilations", 1), a.get("group", 1))


def _resize(x: Tensor, scales: Tensor, a: dict[str, Any]) -> Tensor:
    factor = [float(s) for s in scales[2:]]
    if a.get("mode") == b"nearest":
        return F.interpolate(x, scale_factor=factor, mode="nearest")
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


class Twin:
    """Runs a network forward and, from the loss, backward.

    ``parameters`` are the trainable weights (float, leaf tensors). ``layout`` is the memory format of images and weights.
    """

    def __init__(self, path: Path, layout: torch.memory_format = torch.channels_last) -> None:
        model = onnx.load(str(path))
        meta = {p.key: p.value for p in model.metadata_props}
        wanted = set(json.loads(meta.get("sasimc.trainable", "[]")))
        self.layout = layout
        self.parameters: list[Tensor] = []
        self.constants: dict[str, Tensor] = {
            i.name: torch.from_numpy(np.array(numpy_helper.to_array(i))) for i in model.graph.initializer
        }
        self.steps: list[tuple[Callable[..., Tensor], list[str], str, dict[str, Any]]] = []
        self.input, self.output = model.graph.input[0].name, model.graph.output[0].name
        trainable = {n.input[1] for n in model.graph.node if n.name in wanted}
        for node in model.graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "DequantizeLinear" and node.input[0] in self.constants:
                self._weight(node, attributes.get("axis"), node.output[0] in trainable)
            else:
                self.steps.append((_OPERATIONS[node.op_type], list(node.input), node.output[0], attributes))

    def _weight(self, node: onnx.NodeProto, axis: int | None, trainable: bool) -> None:
        q, scale = self.constants[node.input[0]].float(), self.constants[node.input[1]]
        if scale.ndim and scale.numel() > 1:
            shape = [1] * q.ndim
            shape[axis or 0] = -1
            scale = scale.reshape(shape)
        value = q * scale
        value = value.to(memory_format=self.layout) if value.ndim == 4 else value
        if trainable:
            self.parameters.append(value.requires_grad_())
        self.constants[node.output[0]] = value

    def logits(self, images: Tensor) -> Tensor:
        """Forward pass of normalised float images [B, 3, H, W]."""
        values: dict[str, Tensor | None] = {"": None, **self.constants, self.input: images.to(memory_format=self.layout)}
        for run, inputs, output, attributes in self.steps:
            values[output] = run(*(values[i] for i in inputs), a=attributes)
        result = values[self.output]
        assert result is not None
        return result

    def step(self, images: Tensor, labels: Tensor) -> float:
        """Forward, cross-entropy and gradients of the trainable weights; returns the loss. No update."""
        loss = F.cross_entropy(self.logits(images), labels)
        torch.autograd.grad(loss, self.parameters)
        return float(loss.detach())


_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "QuantizeLinear": lambda x, *_, a: x,
    "DequantizeLinear": lambda x, *_, a: x,
    "Conv": lambda x, w, b=None, *, a: _conv(x, w, b, a),
    "Clip": lambda x, low=None, high=None, *, a: torch.clamp(x, float(low), float(high)),
    "Relu": lambda x, *, a: torch.relu(x),
    "Add": lambda x, y, *, a: x + y,
    "AveragePool": lambda x, *, a: F.avg_pool2d(_pad(x, a.get("pads", [0] * 4)), a["kernel_shape"], a.get("strides")),
    "GlobalAveragePool": lambda x, *, a: x.mean((2, 3), keepdim=True),
    "Resize": lambda x, roi, scales, *_, a: _resize(x, scales, a),
    "Flatten": lambda x, *, a: torch.flatten(x, a.get("axis", 1)),
    "Gemm": lambda x, w, b=None, *, a: F.linear(x, w if a.get("transB") else w.t(), b),
}
