"""Classifiers of mean colours, right by construction: small enough to compile in a second, and trainable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sasimc.api import CompileOptions, compile_model
from sasimc.isa.files import save_program

__all__ = ["colour_program"]


def colour_program(
    folder: Path,
    weights: Sequence[Sequence[int]],
    *,
    labels: Sequence[str] = (),
    size: tuple[int, int] = (16, 16),
    quantisation: tuple[float, int] = (1 / 128, 0),
    meta: dict[str, str] | None = None,
) -> Path:
    """A program whose logits are ``weights`` [classes][channels] / 64 times the means of the input's channels; without ``meta`` it carries the
    preprocessing x / 127.5 - 1."""
    table = np.asarray(weights, np.int8)
    channels = table.shape[1]
    scale, zero = quantisation
    constants = {
        "s": np.float32(scale), "z": np.int8(zero), "ws": np.float32(1 / 64), "w0": np.int8(0), "w": table, "os": np.float32(1 / 32), "o0": np.int8(0),
        "ms": np.float32(scale), "mz": np.int8(zero),
    }  # fmt: skip

    def quantised(x: str, y: str, s: str, z: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("QuantizeLinear", [x, s, z], [f"{y}.q"]),
            helper.make_node("DequantizeLinear", [f"{y}.q", s, z], [y]),
        ]

    nodes = [
        *quantised("x", "xq", "s", "z"),
        helper.make_node("GlobalAveragePool", ["xq"], ["mean"], "pool"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flat"),
        *quantised("flat", "flatq", "ms", "mz"),
        helper.make_node("DequantizeLinear", ["w", "ws", "w0"], ["wd"]),
        helper.make_node("Gemm", ["flatq", "wd"], ["out"], "fc", transB=1),
        *quantised("out", "y", "os", "o0"),
    ]
    graph = helper.make_graph(
        nodes, "colours",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", len(table)])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    notes: dict[str, Any] = {"sasimc.trainable": json.dumps(["fc"])}
    if meta is None:
        notes["sasimc.preprocess"] = json.dumps({"mean": 0.5, "std": 0.5, "size": list(size), "resize": min(size)})
    if labels:
        notes["sasimc.labels"] = json.dumps(list(labels))
    helper.set_model_props(model, {**notes, **(meta or {})})
    source, target = folder / "colours.onnx", folder / "colours.s"
    onnx.save(model, source)
    save_program(compile_model(source, CompileOptions(batch=4)).program, target)
    return target
