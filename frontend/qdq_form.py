"""The QDQ form of a QOperator graph: every ``QLinear...`` node becomes DequantizeLinear, the float operator, QuantizeLinear.

onnxruntime computes such a graph in float, which is exact up to rounding on every processor. Its integer kernels are not: without
VNNI instructions they add pairs of products u8 x s8 in 16 bits and saturate. Names of tensors stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import ModelProto, NodeProto, helper

__all__ = ["qdq_form"]

_DROPPED = ("channels_last", "opset")  # attributes only the quantised operators have


@dataclass
class _Form:
    """The nodes made so far; names of new tensors start with the name of the node's output."""

    nodes: list[NodeProto] = field(default_factory=list)

    def add(self, op: str, inputs: Sequence[str], output: str, **attrs: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], f"{output}/{op}", **attrs))
        return output

    def real(self, node: NodeProto, first: int, axis: int | None = None) -> str:
        """The real value of three inputs: integers, scale, zero point. ``axis``: where scales may be per channel."""
        x, scale, zero = node.input[first : first + 3]
        name = f"{node.output[0]}/x{first}"
        if axis is None:
            return self.add("DequantizeLinear", [x, scale, zero], name)
        shape = self.add("Shape", [scale], f"{name}/shape")
        zeros = self.add("Expand", [zero, shape], f"{name}/zero")
        return self.add("DequantizeLinear", [x, scale, zeros], name, axis=axis)

    def bias(self, node: NodeProto, index: int, x_scale: int, w_scale: int) -> list[str]:
        """The real value of an int32 bias, whose scale is the product of the two given; nothing if there is none."""
        if len(node.input) <= index or not node.input[index]:
            return []
        name = f"{node.output[0]}/bias"
        scale = self.add("Mul", [node.input[x_scale], node.input[w_scale]], f"{name}/scale")
        as_float = self.add("Cast", [node.input[index]], f"{name}/float", to=1)
        return [self.add("Mul", [as_float, scale], name)]

    def stored(self, node: NodeProto, value: str, scale: int, zero: int) -> None:
        self.add("QuantizeLinear", [value, *(node.input[i] for i in (scale, zero))], node.output[0])


def _attrs(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name not in _DROPPED}


def _conv(form: _Form, node: NodeProto, opset: int) -> None:
    inputs = [form.real(node, 0), form.real(node, 3, axis=0), *form.bias(node, 8, 1, 4)]
    form.stored(node, form.add("Conv", inputs, f"{node.output[0]}/f", **_attrs(node)), 6, 7)


def _matmul(form: _Form, node: NodeProto, opset: int) -> None:
    inputs = [form.real(node, 0), form.real(node, 3, axis=-1)]
    form.stored(node, form.add("MatMul", inputs, f"{node.output[0]}/f"), 6, 7)


def _gemm(form: _Form, node: NodeProto, opset: int) -> None:
    attrs, out = _attrs(node), node.output[0]
    attrs.pop("alpha", None)  # 1: others are refused
    weight = form.real(node, 3, axis=0 if attrs.get("transB") else -1)
    value = form.add("Gemm", [form.real(node, 0), weight, *form.bias(node, 6, 1, 4)], f"{out}/f", **attrs)
    if len(node.input) > 8 and node.input[7]:
        form.stored(node, value, 7, 8)
    else:
        form.add("Identity", [value], out)


def _binary(form: _Form, node: NodeProto, opset: int) -> None:
    op = node.op_type.removeprefix("QLinear")
    form.stored(node, form.add(op, [form.real(node, 0), form.real(node, 3)], f"{node.output[0]}/f"), 6, 7)


def _unary(form: _Form, node: NodeProto, opset: int) -> None:
    op, attrs, inputs = node.op_type.removeprefix("QLinear"), _attrs(node), [form.real(node, 0)]
    if op == "ReduceMean" and opset >= 18:
        axes = form.add("Constant", [], f"{node.output[0]}/axes", value_ints=attrs.pop("axes"))
        inputs.append(axes)
    form.stored(node, form.add(op, inputs, f"{node.output[0]}/f", **attrs), 3, 4)


def _concat(form: _Form, node: NodeProto, opset: int) -> None:
    inputs = [form.real(node, i) for i in range(2, len(node.input), 3)]
    named = dict.fromkeys(inputs)  # the name says the position, so all differ
    form.stored(node, form.add("Concat", list(named), f"{node.output[0]}/f", **_attrs(node)), 0, 1)


_FORMS: dict[str, Callable[[_Form, NodeProto, int], None]] = {
    "QLinearConv": _conv, "QLinearMatMul": _matmul, "QGemm": _gemm, "QLinearAdd": _binary, "QLinearMul": _binary, "QLinearConcat": _concat,
    **dict.fromkeys(("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearReduceMean", "QLinearSoftmax", "QLinearSigmoid",
                     "QLinearLeakyRelu"), _unary),
}  # fmt: skip


def qdq_form(model: ModelProto) -> ModelProto:
    """A copy of ``model`` without integer operators; the model itself when it has none."""
    if not any(node.op_type in _FORMS for node in model.graph.node):
        return model
    opset = next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 0)
    form = _Form()
    for node in model.graph.node:
        make = _FORMS.get(node.op_type)
        if make is None:
            form.nodes.append(node)
        else:
            make(form, node, opset)
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(form.nodes)
    return result
