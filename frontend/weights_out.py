"""Trained weights back into the ONNX file they came from.

Where a stored weight stands in the file (transposed by the importer, permuted behind a Flatten, centred) is not written down a second time: the
importer is asked. Trainable weights may have any value, so the graph does not depend on them; imports of the model with numbered weights show where
each element went.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from sasimc.frontend.onnx_import import RANGES, import_model
from sasimc.frontend.state import tensor_array
from sasimc.ir.graph import Graph, Op
from sasimc.isa.errors import SasError

__all__ = ["as_compiled", "model_digest", "trainable_shapes", "with_biases", "with_metadata", "with_weights"]

Int8 = npt.NDArray[np.int8]

_BIAS_AT = {"Conv": 2, "Gemm": 2, "QLinearConv": 8}
"""Which input of a node is its bias."""
_DIGIT = 64
"""Positions are told in digits of this base, small enough to be weights of every 8-bit type and zero point."""


def model_digest(model: ModelProto) -> str:
    """SHA-256 of what a model computes: its nodes with their attributes, inputs, outputs and constants; not of metadata, or of how the file
    stores them."""
    graph, digest = model.graph, hashlib.sha256()

    def add(*parts: bytes) -> None:
        for part in parts:
            digest.update(len(part).to_bytes(8, "little") + part)

    for opset in sorted((o.domain, o.version) for o in model.opset_import):
        add(repr(opset).encode())
    for node in graph.node:
        add(node.domain.encode(), node.op_type.encode(), node.name.encode(), repr((list(node.input), list(node.output))).encode())
        for attribute in sorted(node.attribute, key=lambda a: a.name):
            add(attribute.SerializeToString(deterministic=True))
    for info in (*graph.input, *graph.output):
        add(info.SerializeToString(deterministic=True))
    for tensor in sorted(graph.initializer, key=lambda t: t.name):
        values = tensor_array(tensor)
        add(tensor.name.encode(), values.dtype.str.encode(), repr(values.shape).encode(), values.tobytes())
    return digest.hexdigest()


def trainable_shapes(model: ModelProto, trainable: str | None) -> dict[str, tuple[int, ...]]:
    """Shape [kh, kw, input channels of a group, output channels] of the weight of every layer that learns, by name."""
    graph = import_model(model, trainable)
    return {name: graph.constant(op, "weight").shape for name, op in _layers(graph).items()}


def _layers(graph: Graph) -> dict[str, Op]:
    return {op.name: op for op in graph.ops if op.kind == "conv" and op.flag("trainable")}


@dataclass(frozen=True)
class _Place:
    """Where a layer's weights stand: the initialiser, and for each element [kh, kw, cin, n] its index there and its zero point."""

    tensor: TensorProto
    index: npt.NDArray[np.int64]
    zero: npt.NDArray[np.int64]


def with_weights(model: ModelProto, trainable: str | None, weights: Mapping[str, Int8]) -> ModelProto:
    """A copy of the model with other weights in its trainable layers.

    Args:
        trainable: the pattern that says which these are (None: the model's own list).
        weights: int8 [kh, kw, input channels of a group, output channels] of every trainable layer, by its name in the graph.

    Raises:
        SasError: layers that are not those of the model, or whose weights do not stand in an 8-bit constant of their own.
    """
    layers = _layers(import_model(model, trainable))
    if layers.keys() != weights.keys():
        odd = sorted(layers.keys() ^ weights.keys())
        raise SasError(
            f"the trainable layers are not those of the model: {', '.join(odd[:6])}", hint="give the model that was compiled"
        )
    out = ModelProto()
    out.CopyFrom(model)
    for name, place in _places(out, trainable, layers).items():
        values = np.array(tensor_array(place.tensor))
        if weights[name].shape != place.index.shape:
            raise SasError(f"{name}: weights {weights[name].shape}, the model has {place.index.shape}")
        stored = weights[name].astype(np.int64) + place.zero
        limits = np.iinfo(values.dtype)
        if stored.min() < limits.min or stored.max() > limits.max:
            raise SasError(f"{name}: trained weights do not fit {values.dtype} with this zero point")
        values.reshape(-1)[place.index.reshape(-1)] = stored.reshape(-1)
        _set(place.tensor, values)
    again = import_model(out, trainable)
    for name, op in _layers(again).items():
        if not np.array_equal(again.constant(op, "weight"), weights[name]):
            raise SasError(f"{name}: its weights cannot be put back into the model", where=op.origin)
    return out


def with_biases(model: ModelProto, trainable: str | None, learned: Mapping[str, npt.NDArray[np.int64]]) -> ModelProto:
    """A copy of the model whose layers have learned biases [N] (in steps of their sums of products) added to their own: the model, if there are none.

    Raises:
        SasError: a layer that can take no int32 bias of its own.
    """
    if not learned:
        return model
    graph, out = import_model(model, trainable), ModelProto()
    out.CopyFrom(model)
    wanted: dict[str, npt.NDArray[Any]] = {}
    for layer, more in learned.items():
        op = graph.op(layer)
        wanted[layer] = graph.constant(op, "bias").astype(np.int64) + more
        scale = np.asarray(graph.type(op.inputs[0]).scale * graph.constant(op, "wscale"), np.float32)
        _set_bias(out.graph, op, wanted[layer].astype(np.int32), scale)
    again = import_model(out, trainable)
    for layer, bias in wanted.items():
        if not np.array_equal(again.constant(again.op(layer), "bias"), bias):
            hint = "export takes biases of layers whose input has zero point 0"
            raise SasError(f"{layer}: its learned bias cannot be put into the model", where=graph.op(layer).origin, hint=hint)
    return out


def _set_bias(graph: GraphProto, op: Op, bias: npt.NDArray[np.int32], scale: npt.NDArray[np.float32]) -> None:
    """Give the node of a layer this bias, with a DequantizeLinear in front of it where the weight has one."""
    name, weights = op.str_attr("param"), {op.str_attr("param")}
    weights |= {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] == name}
    node = next((n for n in graph.node if n.op_type in _BIAS_AT and weights & set(n.input)), None)
    if node is None:
        raise SasError(
            f"{op.name}: its node takes no bias", where=op.origin, hint="export takes biases of Conv, Gemm and QLinearConv"
        )
    at, made = _BIAS_AT[node.op_type], f"{name}.bias"
    before = node.input[at] if len(node.input) > at else ""
    graph.initializer.append(numpy_helper.from_array(bias, f"{made}_q"))
    given = f"{made}_q"
    if node.op_type != "QLinearConv":
        graph.initializer.append(numpy_helper.from_array(scale, f"{made}_scale"))
        graph.node.insert(
            list(graph.node).index(node),
            helper.make_node("DequantizeLinear", [given, f"{made}_scale"], [made], f"{made}_dq", axis=0),
        )
        given = made
    node = next(n for n in graph.node if n.output == node.output)
    del node.input[at:]
    node.input.append(given)
    _drop(graph, before)


def _drop(graph: GraphProto, value: str) -> None:
    """Remove what makes a value, and what only that read, unless somebody reads it."""
    if not value or any(value in n.input for n in graph.node):
        return
    for tensor in [t for t in graph.initializer if t.name == value]:
        graph.initializer.remove(tensor)
    for node in [n for n in graph.node if value in n.output]:
        graph.node.remove(node)
        for name in node.input:
            _drop(graph, name)


def with_metadata(model: ModelProto, entries: Mapping[str, str]) -> None:
    """Set metadata entries of a model."""
    kept = [(e.key, e.value) for e in model.metadata_props if e.key not in entries]
    del model.metadata_props[:]
    for key, value in (*kept, *entries.items()):
        model.metadata_props.add(key=key, value=value)


def as_compiled(model: ModelProto, meta: Mapping[str, str]) -> ModelProto:
    """The model with the ranges that a program (its ``meta``) was compiled with."""
    note = f"note.{RANGES}"
    if note not in meta:
        return model
    made = ModelProto()
    made.CopyFrom(model)
    with_metadata(made, {RANGES: meta[note]})
    return made


def _places(model: ModelProto, trainable: str | None, layers: Mapping[str, Op]) -> dict[str, _Place]:
    tensors = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            tensors.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    chosen: dict[str, TensorProto] = {}
    for name, op in layers.items():
        tensor = tensors.get(op.str_attr("param"))
        if tensor is None or tensor.data_type not in (TensorProto.INT8, TensorProto.UINT8):
            what = "is computed from other constants" if tensor is None else "is not stored in 8 bits"
            hint = "export needs int8 weights as initialisers, each with a DequantizeLinear or a QLinear operator behind it"
            raise SasError(f"weight {op.str_attr('param')!r} {what}", where=op.origin, hint=hint)
        chosen[name] = tensor
    kept = {name: np.array(tensor_array(t)) for name, t in chosen.items()}
    base = {name: 128 if values.dtype == np.uint8 else 0 for name, values in kept.items()}

    def imported(power: int | None) -> dict[str, npt.NDArray[Any]]:
        """Weights of the graph when each stored one is a digit of its index (None: all are the base)."""
        for name, values in kept.items():
            digits = np.arange(values.size) // _DIGIT**power % _DIGIT if power is not None else np.zeros(values.size, np.int64)
            _set(chosen[name], (digits + base[name]).reshape(values.shape).astype(values.dtype))
        graph = import_model(model, trainable)
        return {n: np.asarray(graph.constant(op, "weight")).astype(np.int64) for n, op in _layers(graph).items()}

    zero = imported(None)
    index = {name: np.zeros_like(values) for name, values in zero.items()}
    largest = max((values.size for values in kept.values()), default=1)
    for power in range(max(1, math.ceil(math.log(max(2, largest), _DIGIT)))):
        for name, values in imported(power).items():
            index[name] += (values - zero[name]) * _DIGIT**power
    for name, values in kept.items():
        _set(chosen[name], values)
        if not np.array_equal(np.sort(index[name], axis=None), np.arange(values.size)):
            raise SasError(f"weight {chosen[name].name!r} cannot be found again in the compiled layer", where=layers[name].origin)
    return {name: _Place(chosen[name], index[name], base[name] - zero[name]) for name in layers}


def _set(tensor: TensorProto, values: npt.NDArray[Any]) -> None:
    """Replace a tensor's values, its name and shape stay."""
    made = numpy_helper.from_array(np.ascontiguousarray(values), tensor.name)
    for field in ("raw_data", "int32_data", "external_data"):
        tensor.ClearField(field)
    tensor.raw_data = made.raw_data
