"""Functions of one number, element by element. What stands between a DequantizeLinear and a QuantizeLinear becomes one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import NodeProto

from sasimc.frontend.ops_linear import requantize
from sasimc.frontend.state import Act, Importer, Unsupported, handles
from sasimc.ir.graph import Attr, TensorType

__all__ = ["DEFAULTS"]

DEFAULTS: Mapping[str, Mapping[str, float | str]] = {
    "Celu": {"alpha": 1.0},
    "Elu": {"alpha": 1.0},
    "Gelu": {"approximate": "none"},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "LeakyRelu": {"alpha": 0.01},
    "Selu": {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
    "Swish": {"alpha": 1.0},
    "ThresholdedRelu": {"alpha": 1.0},
}
"""Attributes and their defaults, as the operators' specifications say."""


def _unary(imp: Importer, node: NodeProto, function: str, x: str, act: Act, out: str, parameters: Mapping[str, Any]) -> str:
    t = imp.type(act)
    attrs: dict[str, Attr] = {"function": function, **{k: v for k, v in parameters.items() if k != "c"}}
    consts = {"c": parameters["c"]} if "c" in parameters else {}
    return imp.emit(node, "unary_f", [x], out, TensorType("f32", t.shape, layout=t.layout), attrs, consts)


def _parameters(imp: Importer, node: NodeProto, function: str) -> dict[str, Any]:
    """Attributes of the function, each of the type of its default."""
    given = imp.attrs(node)
    found = {name: type(default)(given.get(name, default)) for name, default in DEFAULTS.get(function, {}).items()}
    if found.get("approximate", "none") not in ("none", "tanh"):
        raise Unsupported(f"approximate = {found['approximate']!r}", "use none or tanh")
    if any(isinstance(v, float) and not np.isfinite(v) for v in found.values()):
        raise Unsupported("an attribute is not a finite number", "check the node in the file")
    return found


@handles("Abs", "Atan", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish", "Neg",
         "Reciprocal", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
         "com.microsoft.Gelu")  # fmt: skip
def unary(imp: Importer, node: NodeProto) -> None:
    act = imp.floats(node, 0)
    parameters = _parameters(imp, node, node.op_type)
    imp.bind(node, act, _unary(imp, node, node.op_type, act.value, act, node.output[0], parameters))


@handles("com.microsoft.QuickGelu")
def quick_gelu(imp: Importer, node: NodeProto) -> None:
    act = imp.floats(node, 0)
    alpha = float(imp.attrs(node).get("alpha", 1.702))
    imp.bind(node, act, _unary(imp, node, "Swish", act.value, act, node.output[0], {"alpha": alpha}))


@handles("PRelu")
def prelu(imp: Importer, node: NodeProto) -> None:
    act = imp.floats(node, 0)
    c = imp.channels(act, imp.real(node, 1, "slope"))
    imp.bind(node, act, _unary(imp, node, "PRelu", act.value, act, node.output[0], {"c": c}))


@handles("Pow")
def power(imp: Importer, node: NodeProto) -> None:
    act, exponent = imp.floats(node, 0), np.ravel(imp.real(node, 1, "exponent"))
    if exponent.size != 1:
        raise Unsupported("exponent is not one number", "use one exponent for all elements")
    imp.bind(node, act, _unary(imp, node, "Pow", act.value, act, node.output[0], {"exponent": float(exponent[0])}))


@handles("com.microsoft.QLinearSigmoid", "com.microsoft.QLinearLeakyRelu")
def qlinear_unary(imp: Importer, node: NodeProto) -> None:
    function, out = node.op_type.removeprefix("QLinear"), f"{node.output[0]}:f"
    act = imp.typed(imp.act(node, 0), *imp.scale_zero(node, 1, 2))
    x = imp.dequantized(node, act, "x")
    imp.bind(node, act, _unary(imp, node, function, x, act, out, _parameters(imp, node, function)))
    requantize(imp, node, imp.acts[node.output[0]], *imp.scale_zero(node, 3, 4))
