"""What reads ONNX files: `sasc check`, `sasc compile`, and its validation."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
from harness import Kind
from mutate import INTEGERS, odd
from onnx import TensorProto

from sasimc.api import CompileOptions, compile_model
from sasimc.frontend.check import check_model
from sasimc.frontend.load import load_model

__all__ = ["KINDS"]

_LOCATIONS = (
    "data.bin",
    "../secret",
    "/etc/passwd",
    "./data.bin",
    "a/../../secret",
    "link",
    "",
    "\0",
    "C:\\secret",
    "data.bin/x",
)
_OPERATORS = ("Conv", "Add", "Mul", "MatMul", "Relu", "Reshape", "Flatten", "Concat", "MaxPool", "AveragePool", "Transpose", "Softmax", "Clip", "Pad",
              "QuantizeLinear", "DequantizeLinear", "Gemm", "Resize", "BatchNormalization", "Identity", "Squeeze", "ReduceMean", "Slice", "Split",
              "If", "Loop", "Nothing", "QLinearConv", "ArgMax", "Cast")  # fmt: skip
MACHINE = Path(__file__).resolve().parents[1] / "examples" / "tiny_machine.toml"


def _samples() -> list[bytes]:
    import models

    made = [models.mlp(), models.plain_cnn(size=6, channels=(3, 4)), models.residual_net(size=8, width=4, blocks=2), models.random_graph(28),
            models.random_graph(5), models.mobilenet_like(width=4, modules=1)]  # fmt: skip
    outside = models.mlp()
    for tensor in outside.graph.initializer:
        if tensor.raw_data:
            tensor.data_location = TensorProto.EXTERNAL
            length = len(tensor.raw_data)
            tensor.ClearField("raw_data")
            for key, value in (("location", "data.bin"), ("offset", "0"), ("length", str(length))):
                tensor.external_data.add(key=key, value=value)
    functions = models.mlp()
    for name, inner in (("F", "Identity"), ("G", "F")):
        nodes = [onnx.helper.make_node(inner, [a], [b], domain="my" if inner == "F" else "") for a, b in (("a", "t"), ("t", "b"))]
        imports = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("my", 1)]
        functions.functions.append(onnx.helper.make_function("my", name, ["a"], ["b"], nodes, imports))
    functions.opset_import.append(onnx.helper.make_opsetid("my", 1))
    first = functions.graph.node[0]
    functions.graph.node.insert(0, onnx.helper.make_node("G", [first.input[0]], ["through"], domain="my"))
    functions.graph.node[1].input[0] = "through"
    return [m.SerializeToString() for m in (*made, outside, functions)]


def _beside(folder: Path) -> None:
    (folder / "data.bin").write_bytes(bytes(4096))
    (folder / "link").symlink_to("/etc/hostname")


def _compiled(data: bytes, folder: Path) -> None:
    (folder / "case.onnx").write_bytes(data)
    model = load_model(folder / "case.onnx")
    report = check_model(model)
    str(report)
    options = CompileOptions(machine=None if zlib.crc32(data) % 2 else MACHINE, batch=2, verify=zlib.crc32(data) % 8 < 2)
    compile_model(model, options)
    if not report.ok:
        raise AssertionError("check refuses what compiles")


def _places(message: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """All (message, set field) of a protobuf message."""
    for field, value in message.ListFields():
        yield message, field
        if field.message_type is not None and depth < 8:
            for inner in value if field.is_repeated else [value]:
                yield from _places(inner, depth + 1)


def _change_field(message: Any, field: Any, everything: Sequence[tuple[Any, Any]], rng: random.Random) -> None:
    """Another value of a field; elements of a repeated one go, come twice or change places."""
    value = getattr(message, field.name)
    if field.message_type is not None:
        alike = [getattr(m, f.name) for m, f in everything if f.message_type is field.message_type]
        other = rng.choice(alike)
        if not field.is_repeated:
            if rng.randrange(3) and hasattr(other, "DESCRIPTOR"):
                value.CopyFrom(other)
            else:
                message.ClearField(field.name)
        elif rng.randrange(2):
            del value[rng.randrange(len(value))]
        else:
            value.add().CopyFrom(value[rng.randrange(len(value))])
    elif field.is_repeated:
        items = list(value)
        at, how = rng.randrange(len(items)), rng.randrange(4)
        if how == 0:
            del items[at]
        elif how == 1:
            items.insert(at, rng.choice(items))
        else:
            items[at] = _scalar(message, field, items[at], everything, rng)
        message.ClearField(field.name)
        getattr(message, field.name).extend(items)
    elif rng.randrange(6) == 0:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _scalar(message, field, value, everything, rng))


def _scalar(message: Any, field: Any, value: Any, everything: Sequence[tuple[Any, Any]], rng: random.Random) -> Any:
    if isinstance(value, str):
        names = [
            getattr(m, f.name)
            for m, f in rng.sample(everything, min(40, len(everything)))
            if f.name in ("name", "input", "output")
        ]
        texts = [t for n in names for t in ([n] if isinstance(n, str) else n)]
        return rng.choice((*texts, *_OPERATORS, *_LOCATIONS, value + "x"))
    if isinstance(value, int):
        return rng.choice((rng.randrange(20), value + rng.choice((-1, 1)), rng.choice(INTEGERS), 10 ** rng.randrange(10)))
    return odd(value, rng)


def _change_model(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """One to three changed fields of the protobuf message."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:
        model.ParseFromString(rng.choice(others))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        everything = list(_places(model))
        if everything:
            try:
                _change_field(*rng.choice(everything), everything, rng)
            except (ValueError, TypeError, OverflowError):  # a value that the field cannot hold
                continue
    return model.SerializeToString()


KINDS = {"ONNX": Kind(_samples, _compiled, _change_model, beside=_beside)}
