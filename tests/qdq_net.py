"""QDQ graphs written node by node, and what onnxruntime says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from sasimc.frontend.qdq_form import qdq_form


class Net:
    """A QDQ graph written node by node. ``q(x, scale, zero, dtype)`` appends a QuantizeLinear / DequantizeLinear pair."""

    def __init__(self, shape: Sequence[Any] = ("n", 3, 6, 6), opset: int = 17, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.inits: list[onnx.TensorProto] = []
        self.shape, self.opset, self.count = list(shape), opset, 0

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        self.count += 1
        name = f"k{self.count}"
        self.inits.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, op: str, *inputs: str, domain: str = "", name: str | None = None, **attrs: Any) -> str:
        self.count += 1
        out = f"t{self.count}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name or f"{op}{self.count}", domain=domain, **attrs))
        return out

    def quant(self, scale: Any, zero: Any, dtype: Any) -> tuple[str, str]:
        return self.const(scale), self.const(zero, dtype)

    def q(self, x: str, scale: float = 0.02, zero: int = 0, dtype: Any = np.int8) -> str:
        s, z = self.quant(scale, zero, dtype)
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, s, z), s, z)

    def weight(self, shape: Sequence[int], axis: int | None = 0, dtype: Any = np.int8, zero: int = 0, scale: float = 0.01) -> str:
        """A DequantizeLinear over an int8 (or uint8) initialiser, per channel along ``axis``."""
        low, high = (-127, 128) if dtype == np.int8 else (1, 255)
        w = self.const(self.rng.integers(low, high, shape), dtype)
        n = () if axis is None else (shape[axis],)
        s = self.const(self.rng.uniform(0.5, 1.5, n) * scale)
        attrs = {} if axis is None else {"axis": axis}
        return self.node("DequantizeLinear", w, s, self.const(np.full(n, zero), dtype), **attrs)

    def conv(self, x: str, cin: int, n: int, k: int = 3, **attrs: Any) -> str:
        return self.node("Conv", x, self.weight((n, cin // attrs.get("group", 1), k, k)), **attrs)

    def model(self, *outputs: str, dtype: int = TensorProto.FLOAT, input_type: int = TensorProto.FLOAT) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "net", [helper.make_tensor_value_info("x", input_type, self.shape)],
            [helper.make_tensor_value_info(o, dtype, None) for o in outputs], self.inits,
        )  # fmt: skip
        sets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=sets, ir_version=9)


def run_ort(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    """All outputs, in float (QDQ form, no optimisations): integer kernels saturate on processors without VNNI."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = qdq_form(model).SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})
