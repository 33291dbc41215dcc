"""Reading an ONNX file without trusting it: sizes, external data, node order and names are checked before anything is built.

The file is only read. Every defect is a :class:`SasError`; nothing of protobuf or onnx reaches the user as a traceback.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError, Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from sasimc.isa.errors import SasError
from sasimc.isa.readable import ONNX, seems

__all__ = ["MAX_BYTES", "MIN_OPSET", "load_model", "model_opset", "sorted_nodes", "validate"]

MIN_OPSET = 13
MAX_BYTES = 2**31 - 1  # protobuf's own limit for one message
MAX_EXTERNAL = 2**32
MAX_NODES = 200_000

_ITEM: dict[int, int] = {
    TensorProto.FLOAT: 4, TensorProto.UINT8: 1, TensorProto.INT8: 1, TensorProto.UINT16: 2, TensorProto.INT16: 2,
    TensorProto.INT32: 4, TensorProto.INT64: 8, TensorProto.BOOL: 1, TensorProto.FLOAT16: 2, TensorProto.DOUBLE: 8,
    TensorProto.UINT32: 4, TensorProto.UINT64: 8, TensorProto.BFLOAT16: 2,
}  # fmt: skip


def load_model(path: str | Path) -> ModelProto:
    """Parse, complete (external data inside the model's folder, local functions inlined) and validate an ONNX file."""
    path = Path(path)
    data = _read(path)
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError, RuntimeError) as e:
        raise _no_model(
            path, data, f", or cut off while it was written ({len(data)} bytes)", "export or copy the file again"
        ) from e
    if not model.HasField("graph") or model.ir_version <= 0:
        raise _no_model(path, data, " (no graph in it)", "pass a .onnx file")
    try:
        _check_text(model)
        _load_external(model, path)
        model = _inlined(model)
        validate(model)
    except SasError as e:
        raise SasError(f"{path}: {e.diagnostic.message}", where="", hint=e.diagnostic.hint) from e
    return model


def _no_model(path: Path, data: bytes, why: str, hint: str) -> SasError:
    kind, remedy = seems(data)
    if kind in ("", ONNX):
        return SasError(f"{path}: not an ONNX model{why}", hint=hint)
    return SasError(f"{path}: not an ONNX model but {kind}", hint=remedy or hint)


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise SasError(f"{path} is a folder, not an ONNX file", hint="pass the .onnx file inside it")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise SasError(f"{path}: {size} bytes; an ONNX file has at most {MAX_BYTES}", hint="store weights as external data")
        if size == 0:
            raise SasError(f"{path}: the file is empty", hint="export or copy the file again")
        return path.read_bytes()
    except FileNotFoundError as e:
        raise SasError(f"{path}: no such file") from e
    except (OSError, ValueError) as e:
        raise SasError(f"{path!s}: cannot be read ({e})") from e


def model_opset(model: ModelProto) -> int:
    """Version of the default operator set; SasError when it is missing or outside what is supported."""
    newest = onnx.defs.onnx_opset_version()
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            if not MIN_OPSET <= entry.version <= newest:
                raise SasError(
                    f"operator set {entry.version} is not supported; {MIN_OPSET} to {newest} are",
                    hint="convert with onnx.version_converter, or export again with a supported opset",
                )
            return entry.version
    raise SasError("the model imports no default operator set", hint="export again with opset 13 or later")


def validate(model: ModelProto) -> None:
    """Raise SasError unless the model is well formed: opset, tensors with their data, names, order without cycles, attributes."""
    _check_text(model)
    model_opset(model)
    graph = model.graph
    if not graph.node:
        raise SasError("the graph has no nodes")
    if len(graph.node) > MAX_NODES:
        raise SasError(f"the graph has {len(graph.node)} nodes; at most {MAX_NODES} are read")
    if not graph.output:
        raise SasError("the graph has no output")
    for tensor in _tensors(graph):
        _check_tensor(tensor)
    sorted_nodes(graph)
    try:
        onnx.checker.check_model(_with_output_shapes(model))
    except onnx.checker.ValidationError as e:
        text = str(e).strip()
        # an unsorted but acyclic graph is harmless: sorted_nodes puts it in order
        if "topologically sorted" not in text:
            raise SasError("the model breaks the ONNX standard: " + " ".join(text.split())[:400]) from e
    except Exception as e:
        raise SasError("the model breaks the ONNX standard: " + " ".join(str(e).split())[:400]) from e


def _with_output_shapes(model: ModelProto) -> ModelProto:
    """The model for the checker, which asks for shapes of outputs although IR.md lets them be absent: an empty one is as good."""
    bare = [
        i for i, o in enumerate(model.graph.output) if o.type.HasField("tensor_type") and not o.type.tensor_type.HasField("shape")
    ]
    untyped = [i for i, o in enumerate(model.graph.output) if not o.HasField("type")]
    if not bare and not untyped:
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    for i in untyped:
        copy.graph.output[i].type.tensor_type.elem_type = TensorProto.FLOAT
    for i in [*bare, *untyped]:
        copy.graph.output[i].type.tensor_type.shape.SetInParent()
    return copy


def _check_text(message: Message) -> None:
    """Raise SasError if any text in the file is not UTF-8 (protobuf hands it over as bytes)."""
    for descriptor, value in message.ListFields():
        if descriptor.type not in (descriptor.TYPE_STRING, descriptor.TYPE_MESSAGE):
            continue
        for item in [value] if isinstance(value, (str, bytes, Message)) else value:
            if isinstance(item, Message):
                _check_text(item)
            elif isinstance(item, bytes):
                raise SasError(
                    f"text in field {descriptor.name!r} is not UTF-8: {item[:40]!r}", hint="export or copy the file again"
                )


def sorted_nodes(graph: GraphProto) -> list[NodeProto]:
    """Nodes in topological order (the file's order where it is one). SasError on cycles, undefined or doubly defined names."""
    made: dict[str, int] = {}
    outside = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    outside |= {t.values.name for t in graph.sparse_initializer} | {""}
    for index, node in enumerate(graph.node):
        for out in filter(None, node.output):
            if out in made or (out in outside):
                raise SasError(f"tensor {out!r} is defined twice (node {_label(node)})")
            made[out] = index
    for node in graph.node:
        for name in node.input:
            if name not in made and name not in outside:
                raise SasError(f"node {_label(node)} reads {name!r}, which nothing defines")
    for out in graph.output:
        if out.name not in made and out.name not in outside:
            raise SasError(f"graph output {out.name!r} is not defined")
    needs = [{made[i] for i in node.input if i in made} for node in graph.node]
    users: list[list[int]] = [[] for _ in needs]
    for index, deps in enumerate(needs):
        for d in deps:
            users[d].append(index)
    waiting = [len(deps) for deps in needs]
    if all(d < index for index, deps in enumerate(needs) for d in deps):
        return list(graph.node)
    ready = [i for i, n in enumerate(waiting) if n == 0]
    order: list[int] = []
    while ready:
        index = ready.pop(0)
        order.append(index)
        for user in users[index]:
            waiting[user] -= 1
            if waiting[user] == 0:
                ready.append(user)
    if len(order) < len(needs):
        stuck = [_label(graph.node[i]) for i, n in enumerate(waiting) if n]
        raise SasError(f"the graph has a cycle through {', '.join(stuck[:5])}", hint="a neural network file must be acyclic")
    return [graph.node[i] for i in order]


def _label(node: NodeProto) -> str:
    return f"{node.name or (node.output[0] if node.output else '?')!r} ({node.op_type})"


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """All tensors of a graph: initialisers and attribute values, sub-graphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attr in node.attribute:
            if attr.type == AttributeProto.TENSOR:
                yield attr.t
            elif attr.type == AttributeProto.TENSORS:
                yield from attr.tensors
            elif attr.type == AttributeProto.GRAPH:
                yield from _tensors(attr.g)


def _check_tensor(tensor: TensorProto) -> None:
    count = math.prod(tensor.dims)
    if any(d < 0 for d in tensor.dims) or count > MAX_EXTERNAL:
        raise SasError(f"tensor {tensor.name!r} has shape {list(tensor.dims)}, which is not a sensible size")
    item = _ITEM.get(tensor.data_type)
    if item is None or tensor.data_type == TensorProto.STRING:
        return  # exotic types are refused, if used, by the operator that reads them
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != count * item:
            raise SasError(
                f"tensor {tensor.name!r} of shape {list(tensor.dims)} needs {count * item} bytes, "
                f"the file has {len(tensor.raw_data)}"
            )
        return
    stored = max(len(getattr(tensor, f)) for f in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"))
    if stored != count:
        raise SasError(f"tensor {tensor.name!r} of shape {list(tensor.dims)} needs {count} elements, the file has {stored}")


def _inlined(model: ModelProto) -> ModelProto:
    """The model with its local functions in place of their calls. Raises SasError if they call themselves, or make more nodes than are read."""
    if not model.functions:
        return model
    bodies = {(f.domain, f.name): list(_nodes(f.node)) for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Iterable[NodeProto], depth: int) -> int:
        if depth > len(bodies):
            raise SasError("local functions of the model call themselves", hint="export again without local functions")
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in bodies and key not in sizes:
                sizes[key] = size(bodies[key], depth + 1)
            total += sizes.get(key, 1)
        return total

    if (count := size(_nodes(model.graph.node), 0)) > MAX_NODES:
        raise SasError(f"the graph has {count} nodes with its local functions; at most {MAX_NODES} are read")
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as e:
        raise SasError("the model's local functions cannot be used: " + " ".join(str(e).split())[:400]) from e


def _nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes and those of their sub-graphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(graph.node)


def _load_external(model: ModelProto, path: Path) -> None:
    """Fill in tensors stored beside the file. A location must be a relative path that stays inside the model's folder."""
    folder = path.parent.resolve()
    for tensor in _tensors(model.graph):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        info = {e.key: e.value for e in tensor.external_data}
        location = info.get("location", "")
        refuse = f"tensor {tensor.name!r}: external data {location!r}"
        if not location or "\0" in location or Path(location).is_absolute():
            raise SasError(f"{refuse} is not a path relative to the model", hint="save the data beside the model")
        target = (folder / location).resolve()
        if not target.is_relative_to(folder):
            raise SasError(f"{refuse} lies outside the model's folder", hint="save the data beside the model")
        try:
            offset, length = int(info.get("offset", 0)), int(info.get("length", -1))
            size = target.stat().st_size
            length = size - offset if length < 0 else length
            if offset < 0 or offset + length > size or length > MAX_EXTERNAL:
                raise SasError(f"{refuse} has {size} bytes, {length} at offset {offset} are asked for")
            with target.open("rb") as f:
                f.seek(offset)
                tensor.raw_data = f.read(length)
        except ValueError as e:
            raise SasError(f"{refuse} has a bad offset or length") from e
        except OSError as e:
            raise SasError(
                f"{refuse} cannot be read ({e.strerror or e})",
                hint="copy it from where the model was exported, into the model's folder",
            ) from e
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
