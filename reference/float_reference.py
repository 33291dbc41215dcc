"""The floating-point counterpart of a quantised (QDQ) ONNX network in PyTorch.

Weights are the dequantised ones; trainable are those that the file's ``sasimc.trainable`` names (and a trainable layer's bias).
Activations of the frozen part stay float (``int8=False``) or are quantised and dequantised exactly where the file says so
(``int8=True``: with its scales, zero points and ranges; errors pass straight through). What
belongs to the trainable part alone (in front of its layers and behind them up to where the frozen part takes over) is always float.
Errors flow to the trainable layers through the frozen ones, as with ``exact`` on the device.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch  # pyright: ignore[reportMissingImports]
from onnx import helper, numpy_helper
from torch import Tensor  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

from sasimc.datasets.preprocess import Preprocess
from sasimc.isa.errors import SasError

__all__ = ["FloatReference"]

Values = dict[str, Tensor]
Operation = Callable[..., Tensor]

_MOVES = frozenset({"QuantizeLinear", "DequantizeLinear", "Relu", "Clip", "AveragePool", "GlobalAveragePool", "MaxPool", "Resize",
                    "Flatten", "Reshape"})  # fmt: skip
"""Operators with one data input and no weights: a tensor in front of or behind a trainable layer stays its own through them."""


@dataclass(frozen=True)
class Step:
    """One operation: ``inputs`` are names, '' where an optional one is left out."""

    name: str
    run: Operation
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any]


class FloatReference(torch.nn.Module):
    """The network as a module.

    Args:
        path: the ONNX file.
        int8: quantise the activations of the frozen part.
        batch_norm: normalise behind every trainable convolution; ``gain`` is the initial factor of the last one of each chain of
            trainable layers, which takes the place of the calibrated size of the correction.
        layout: memory format of images and weights.
    """

    def __init__(self, path: Path, *, int8: bool = False, batch_norm: bool = False, gain: float = 1.0,
                 layout: torch.memory_format = torch.channels_last) -> None:  # fmt: skip
        super().__init__()
        self._layout = layout
        model = onnx.load(str(path))
        meta = {p.key: p.value for p in model.metadata_props}
        wanted = set(json.loads(meta.get("sasimc.trainable", "[]")))
        self.preprocess = Preprocess.from_json(meta.get("sasimc.preprocess", "{}"))
        self.input, self.output = model.graph.input[0].name, model.graph.output[0].name
        nodes = list(model.graph.node)
        self._constants: Values = {i.name: torch.from_numpy(np.array(numpy_helper.to_array(i))) for i in model.graph.initializer}
        layers = {n.output[0]: n for n in nodes if n.name in wanted}
        self._own = _own_tensors(nodes, layers)
        weights = {i: n.name for n in layers.values() for i in n.input[1:] if i}
        self._parameter: dict[str, str] = {}
        self.weights, self.norms = torch.nn.ParameterDict(), torch.nn.ModuleDict()
        self._steps: list[Step] = []
        for node in nodes:
            self._add(node, weights, int8)
            if batch_norm and node.output[0] in layers and node.op_type == "Conv":
                self._normalise(node, gain if not _reaches_conv(nodes, node, layers) else 1.0)
        self._rest = self._split()
        behind = {n.name for n in layers.values() if not _reaches(nodes, n, set(layers) - {n.output[0]})}
        self._is_head = {_key(name): name.split("/")[0] in behind for name in self._parameter.values()}

    def _add(self, node: onnx.NodeProto, trainable: Mapping[str, str], int8: bool) -> None:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "DequantizeLinear" and node.input[0] in self._constants:
            value = _dequantised(*(self._constants[i] for i in node.input), axis=attributes.get("axis"))
            value = value.contiguous(memory_format=self._layout) if value.ndim == 4 else value.contiguous()
            if node.output[0] in trainable:
                name = f"{trainable[node.output[0]]}/{'weight' if value.ndim > 1 else 'bias'}"
                self.weights[_key(name)] = torch.nn.Parameter(value)
                self._parameter[node.output[0]] = name
            else:
                self._constants[node.output[0]] = value
            return
        run = _OPERATIONS.get(node.op_type)
        if run is None:
            raise SasError(f"the floating-point reference knows no operator {node.op_type} (node {node.name})")
        if node.op_type == "QuantizeLinear" and int8 and node.output[0] not in self._own:
            run = _fake_quantise
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            run = _pass
        self._steps.append(Step(node.name, run, tuple(node.input), node.output[0], attributes))

    def _normalise(self, node: onnx.NodeProto, gain: float) -> None:
        norm = torch.nn.BatchNorm2d(self.weights[_key(f"{node.name}/weight")].shape[0])
        torch.nn.init.constant_(norm.weight, gain)
        self.norms[_key(node.name)] = norm
        raw = self._steps.pop()
        inner = f"{raw.output}/raw"
        self._steps += [
            Step(raw.name, raw.run, raw.inputs, inner, raw.attributes),
            Step(f"{raw.name}.norm", lambda x, a: _normalised(norm, x), (inner,), raw.output, {}),
        ]

    def _split(self) -> frozenset[str]:
        """Outputs of the steps that depend on a parameter."""
        moving: set[str] = set(self._parameter)
        for step in self._steps:
            if step.output.endswith("/raw") or any(i in moving for i in step.inputs):
                moving.add(step.output)
        return frozenset(moving - set(self._parameter))

    @property
    def frontier(self) -> tuple[str, ...]:
        """Tensors in front of the first trainable layers: all that the rest of the network needs of an image (without trainable layers
        the output)."""
        if self.output not in self._rest:
            return (self.output,)
        first = [i for s in self._steps if s.output in self._rest for i in s.inputs]
        made = {s.output for s in self._steps if s.output not in self._rest} | {self.input}
        return tuple(dict.fromkeys(i for i in first if i in made))

    def groups(self) -> tuple[list[Tensor], list[Tensor]]:
        """(classifier, modules): parameters of layers with no trainable layer behind them, and all others."""
        head = [p for name, p in self.weights.items() if self._is_head[name]]
        rep = [p for name, p in self.weights.items() if not self._is_head[name]]
        return head, rep + list(self.norms.parameters())

    def prefix(self, images: Tensor) -> tuple[Tensor, ...]:
        """The frontier of normalised images [B, 3, H, W]; it depends on no parameter and can be kept."""
        values = {self.input: images.contiguous(memory_format=self._layout)}
        with torch.no_grad():
            self._run(values, (s for s in self._steps if s.output not in self._rest))
        return tuple(values[name] for name in self.frontier)

    def rest(self, frontier: Iterable[Tensor]) -> Tensor:
        """Logits [B, classes] from the frontier."""
        values = dict(zip(self.frontier, frontier, strict=True))
        self._run(values, (s for s in self._steps if s.output in self._rest))
        return values[self.output]

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of normalised images [B, 3, H, W]."""
        return self.rest(self.prefix(images))

    def normalised(self, images: npt.NDArray[np.uint8]) -> Tensor:
        """Bytes [B, H, W, 3] as the network takes them, [B, 3, H, W]."""
        mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (self.preprocess.mean, self.preprocess.std))
        return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std

    def tensors(self, images: Tensor) -> Values:
        """All tensors of normalised images [B, 3, H, W], by name."""
        values = {self.input: images.contiguous(memory_format=self._layout)}
        self._run(values, self._steps)
        return values

    def _run(self, values: Values, steps: Iterable[Step]) -> None:
        for step in steps:
            values[step.output] = step.run(*(self._value(values, i) for i in step.inputs), a=step.attributes)

    def _value(self, values: Values, name: str) -> Tensor | None:
        if name in values:
            return values[name]
        if name in self._parameter:
            return self.weights[_key(self._parameter[name])]
        return self._constants[name] if name else None


def _key(name: str) -> str:
    return name.replace(".", "_")  # torch allows no dots in the names of parameters


def _own_tensors(nodes: list[onnx.NodeProto], layers: Mapping[str, onnx.NodeProto]) -> frozenset[str]:
    """Tensors that only trainable layers read (through ``_MOVES``), or that come from one (likewise)."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for i in node.input[:1] if node.op_type in _MOVES or node.output[0] in layers else node.input:
            readers.setdefault(i, []).append(node)
    own = set(layers)
    for node in nodes:
        if node.op_type in _MOVES and node.input[0] in own:
            own.add(node.output[0])
    for node in reversed(nodes):
        behind = readers.get(node.output[0], [])
        if behind and all(r.output[0] in layers or (r.op_type in _MOVES and r.output[0] in own) for r in behind):
            own.add(node.output[0])
    frozen = {n.output[0] for n in nodes if n.op_type not in _MOVES} - set(layers)
    for node in nodes:  # what a frozen layer puts out is rounded by the frozen part, whoever reads it
        if node.input[0] in frozen and node.op_type in ("Relu", "Clip", "QuantizeLinear"):
            own.discard(node.output[0])
            if node.op_type != "QuantizeLinear":
                frozen.add(node.output[0])
    return frozenset(own)


def _reaches(nodes: list[onnx.NodeProto], start: onnx.NodeProto, goals: set[str]) -> bool:
    """Whether the output of one of ``goals`` depends on that of ``start``."""
    reached = {start.output[0]}
    for node in nodes:
        if any(i in reached for i in node.input):
            reached.add(node.output[0])
    return bool((reached - {start.output[0]}) & goals)


def _reaches_conv(nodes: list[onnx.NodeProto], start: onnx.NodeProto, layers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether the next layer behind ``start``, through ``_MOVES`` alone, is a trainable one."""
    reached = {start.output[0]}
    for node in nodes:
        if node.input and node.input[0] in reached:
            if node.output[0] in layers and node is not start:
                return True
            if node.op_type in _MOVES:
                reached.add(node.output[0])
    return False


def _dequantised(q: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int | None = None) -> Tensor:
    value, scale = q.float() if zero is None or not zero.any() else q.float() - zero.float(), scale.float()
    if scale.numel() > 1:
        shape = [1] * q.ndim
        shape[axis or 0] = -1
        scale = scale.reshape(shape)
    return value * scale


def _normalised(norm: torch.nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch norm; with the running statistics where a channel has a single value (the last image of an epoch, alone, on a 1 x 1 map)."""
    if norm.training and x[:, 0].numel() == 1:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
    return norm(x)


def _pass(x: Tensor, *_: Tensor | None, a: Mapping[str, Any]) -> Tensor:
    return x


class _Straight(torch.autograd.Function):
    """Quantise and dequantise; the gradient passes straight through, as errors do on the device (docs/reference/numerics.md, Backward)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, low: int, high: int) -> Tensor:
        """``low`` and ``high``: the integer range less the zero point."""
        return torch.div(x, scale).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient with respect to x; the other arguments have none."""
        return grad[0], None, None, None


def _fake_quantise(x: Tensor, scale: Tensor, zero: Tensor | None = None, *, a: Mapping[str, Any]) -> Tensor:
    low, high = (0, 255) if zero is None or zero.dtype == torch.uint8 else (-128, 127)
    z = int(zero) if zero is not None else 0
    return _Straight.apply(x, float(scale), low - z, high - z)


def _pad(x: Tensor, pads: list[int]) -> Tensor:
    """ONNX pads (top, left, bottom, right)."""
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom)) if any(pads) else x


def _conv(x: Tensor, w: Tensor, b: Tensor | None = None, *, a: Mapping[str, Any]) -> Tensor:
    pads = a.get("pads", [0, 0, 0, 0])
    even = pads[:2] == pads[2:]
    x = x if even else _pad(x, pads)
    return F.conv2d(x, w, b, a.get("strides", 1), pads[:2] if even else 0, a.get("dilations", 1), a.get("group", 1))


def _resize(x: Tensor, roi: Tensor | None, scales: Tensor, *_: Tensor | None, a: Mapping[str, Any]) -> Tensor:
    size = [int(n * float(s)) for n, s in zip(x.shape[2:], scales[2:], strict=True)]
    if a.get("mode") == b"nearest":
        return F.interpolate(x, size=size, mode="nearest")
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _average(x: Tensor, *, a: Mapping[str, Any]) -> Tensor:
    return F.avg_pool2d(_pad(x, a.get("pads", [0] * 4)), a["kernel_shape"], a.get("strides"))


_OPERATIONS: Mapping[str, Operation] = {
    "QuantizeLinear": _pass,
    "DequantizeLinear": _pass,
    "Conv": _conv,
    "Clip": lambda x, low=None, high=None, *, a: F.hardtanh(
        x, -math.inf if low is None else float(low), math.inf if high is None else float(high)
    ),
    "Relu": lambda x, *, a: torch.relu(x),
    "Add": lambda x, y, *, a: x + y,
    "AveragePool": _average,
    "GlobalAveragePool": lambda x, *, a: x.mean((2, 3), keepdim=True),
    "Resize": _resize,
    "Concat": lambda *x, a: torch.cat(x, a["axis"]),
    "Flatten": lambda x, *, a: torch.flatten(x, a.get("axis", 1)),
    "Gemm": lambda x, w, b=None, *, a: F.linear(x, w if a.get("transB") else w.t(), b),
}
