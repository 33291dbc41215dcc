"""Unary functions as tables, and products of two activations: against onnxruntime at all 256 values, and torch's derivatives."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from qdq_net import Net, run_ort

from sasimc.frontend.onnx_import import import_float as read
from sasimc.frontend.onnx_import import import_graph, import_model, obstacles
from sasimc.frontend.ops_unary import DEFAULTS
from sasimc.ir import interp
from sasimc.ir.graph import Graph, Op
from sasimc.isa.errors import DiagnosticsError
from sasimc.passes.backward import slope_table
from sasimc.passes.canonicalise import PLACED
from sasimc.passes.manager import run_passes
from sasimc.passes.pipeline import import_passes
from sasimc.verify.check import samples
from sasimc.verify.graphs import against_import
from sasimc.verify.onnx_side import against_onnx

Chain = Callable[[Net, str], str]


def node(operator: str, **attrs: Any) -> Chain:
    return lambda net, x: net.node(operator, x, **attrs)


def _hard_swish(net: Net, x: str) -> str:
    clipped = net.node("Clip", net.node("Add", x, net.const(3.0)), net.const(0.0), net.const(6.0))
    return net.node("Div", net.node("Mul", x, clipped), net.const(6.0))


def _mish(net: Net, x: str) -> str:
    return net.node("Mul", net.node("Tanh", net.node("Softplus", x)), x)


def _gelu(net: Net, x: str) -> str:
    erf = net.node("Erf", net.node("Div", x, net.const(2**0.5)))
    return net.node("Mul", net.node("Mul", x, net.node("Add", erf, net.const(1.0))), net.const(0.5))


def _nested(net: Net, x: str) -> str:
    """Sums, constants and clips of curves of one tensor."""
    a = net.node("Relu", net.node("Elu", net.node("Mul", x, net.const(-1.5))))
    return net.node("Min", net.node("Add", net.node("Exp", net.node("Mul", x, net.const(0.3))), a), net.const(2.5))


CHAINS: dict[str, Chain] = {
    **{op: node(op) for op in ("Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "Elu", "Tanh", "Softplus", "Mish", "Exp", "Erf", "Selu", "Celu",
                               "Softsign", "Neg", "Round", "Floor", "Sin", "Atan", "ThresholdedRelu", "Abs")},
    "hard sigmoid of PyTorch": node("HardSigmoid", alpha=1 / 6),
    "leaky": node("LeakyRelu", alpha=0.2),
    "elu": node("Elu", alpha=0.5),
    "gelu": node("Gelu"),
    "gelu, tanh": node("Gelu", approximate="tanh"),
    "gelu of onnxruntime": node("Gelu", domain="com.microsoft"),
    "quick gelu": node("QuickGelu", domain="com.microsoft", alpha=1.702),
    "silu": lambda net, x: net.node("Mul", x, net.node("Sigmoid", x)),
    "square": lambda net, x: net.node("Mul", x, x),
    "power": lambda net, x: net.node("Pow", x, net.const(3.0)),
    "root": lambda net, x: net.node("Sqrt", net.node("Relu", x)),
    "hard swish in parts": _hard_swish,
    "mish in parts": _mish,
    "gelu in parts": _gelu,
    "chain": _nested,
}  # fmt: skip


def every_value(
    chain: Chain, dtype: Any = np.int8, zero: int = 5, scale: float = 0.04
) -> tuple[Graph, Op, np.ndarray, np.ndarray]:
    """The graph of one chain on a tensor of 256 elements, its last operation, every stored input, and onnxruntime's stored output."""
    net = Net(("n", 1, 16, 16), opset=20)
    low = np.iinfo(dtype).min
    s, z = net.quant(scale, zero, dtype)
    x = net.node("DequantizeLinear", "x", s, z)
    y = net.node("QuantizeLinear", chain(net, x), net.const(0.017), net.const(-9, np.int8))
    kind = TensorProto.INT8 if dtype == np.int8 else TensorProto.UINT8
    model = net.model(y, dtype=TensorProto.INT8, input_type=kind)
    stored = np.arange(low, low + 256).astype(dtype).reshape(1, 1, 16, 16)
    graph = run_passes(import_graph(model), import_passes())
    return graph, graph.ops[-1], stored, run_ort(model, stored)[0]


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize(("dtype", "zero"), [(np.int8, 5), (np.uint8, 131)])
def test_every_value_is_onnxruntimes(name: str, dtype: Any, zero: int) -> None:
    """One table; onnxruntime's approximations may round a value next to a tie to the other side."""
    graph, op, stored, theirs = every_value(CHAINS[name], dtype, zero)
    assert [o.kind for o in graph.ops] == ["lut"]
    ours = graph.constant(op, "table")
    off = np.abs(ours - theirs.reshape(-1).astype(int))
    assert off.max() <= 1
    assert (off > 0).sum() <= 1
    got = interp.run(graph, {graph.inputs[0]: stored.transpose(0, 2, 3, 1)})[graph.outputs[0]]
    assert np.array_equal(got.reshape(-1), ours)


TORCH = {
    "Sigmoid": "sigmoid", "HardSwish": "hardswish", "LeakyRelu": "leaky_relu", "Elu": "elu", "Tanh": "tanh", "Softplus": "softplus", "Mish": "mish",
    "gelu": "gelu", "silu": "silu", "mish in parts": "mish", "gelu in parts": "gelu", "hard swish in parts": "hardswish",
    "hard sigmoid of PyTorch": "hardsigmoid", "Selu": "selu", "Celu": "celu",
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_slopes_are_those_of_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    graph, op, _, _ = every_value(CHAINS[name], np.int8, 5, 0.0391)
    x = torch.tensor((np.arange(-128, 128) - 5) * np.float64(np.float32(0.0391)), requires_grad=True)
    getattr(torch.nn.functional, TORCH[name])(x).sum().backward()
    np.testing.assert_allclose(graph.constant(op, "slope"), x.grad.numpy(), atol=2e-6)


def test_slopes_become_mantissas_and_an_exponent() -> None:
    slope, g = slope_table(np.array([1.0, -0.5, 0.25, 1.1, 0.0]))
    assert g == -6  # 1.1 x 2^6 = 70.4; 2^7 would make 141
    assert slope.tolist() == [64, -32, 16, 70, 0]
    slope, g = slope_table(np.array([127 / 1024, -0.001]))
    assert (slope.tolist(), g) == ([127, -1], -10)
    assert slope_table(np.zeros(3))[0].tolist() == [0, 0, 0]


def test_prelu_has_a_table_for_each_channel() -> None:
    net = Net(("n", 5, 3, 3))
    slope = net.const(np.linspace(-0.4, 0.6, 5).reshape(5, 1, 1))
    model = net.model(net.q(net.node("PRelu", net.q("x", 0.03, 4), slope), 0.02))
    graph = import_model(model)
    op = graph.ops[-1]
    assert graph.constant(op, "table").shape == (5, 256)
    x = np.random.default_rng(0).uniform(-4, 4, (3, 5, 3, 3)).astype(np.float32)
    ours = interp.run(graph, {"x": interp.quantize_input(graph, x.transpose(0, 2, 3, 1))})[graph.outputs[0]]
    t = graph.type(graph.outputs[0])
    real = ((ours - t.zero) * np.float32(t.scale)).transpose(0, 3, 1, 2)
    assert np.abs(real - run_ort(model, x)[0]).max() < 1e-6


@pytest.mark.parametrize("operator", ["QLinearSigmoid", "QLinearLeakyRelu"])
def test_operators_on_integers(operator: str) -> None:
    net = Net(("n", 4, 5, 5))
    q = net.node("QuantizeLinear", "x", *net.quant(0.05, 3, np.uint8))
    y = net.node(operator, q, *net.quant(0.05, 3, np.uint8), *net.quant(0.008, 20, np.uint8), domain="com.microsoft")
    model = net.model(net.node("DequantizeLinear", y, *net.quant(0.008, 20, np.uint8)))
    graph = import_model(model)
    assert [o.kind for o in graph.ops] == ["lut"]
    x = np.linspace(-1, 13, 300).astype(np.float32).reshape(3, 4, 5, 5)
    ours = interp.run(graph, {"x": interp.quantize_input(graph, x.transpose(0, 2, 3, 1))})[graph.outputs[0]]
    real = ((ours - 20) * np.float32(0.008)).transpose(0, 3, 1, 2)
    assert np.abs(real - run_ort(model, x)[0]).max() < 1e-6


def compared(model: onnx.ModelProto, graph: Graph) -> None:
    """Every tensor within one step of onnxruntime's, each made of the same stored inputs."""
    found, before = read(model), run_passes(import_graph(model), import_passes())
    runs = against_import(before, graph, {v: samples(before, 4) for v in before.inputs})
    assert against_onnx(model, found, before, runs.fed, runs.imported) >= len(before.ops)


SHAPES = [((6, 5, 7), (6, 5, 7)), ((6, 5, 7), (6, 1, 1)), ((6, 5, 7), (1, 5, 7)), ((1, 5, 7), (6, 5, 7)), ((6, 1, 1), (6, 5, 7)), ((6, 5, 7), (1, 1, 1)),
          ((6, 5, 7), (6, 5, 1)), ((6, 5, 7), (1, 1, 7))]  # fmt: skip


@pytest.mark.parametrize("qoperator", [False, True])
@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_products_of_two_activations(a: tuple[int, ...], b: tuple[int, ...], qoperator: bool) -> None:
    """Every broadcasting of one factor, in either place, within one step of onnxruntime."""
    net = Net(("n", 6, 5, 7))
    sides = []
    for shape in (a, b):
        x = "x"
        for axis in (i for i, n in enumerate(shape) if n == 1):  # an axis of size 1: the mean along it, by a convolution
            if axis == 0:
                x = net.q(net.node("Conv", net.q(x, 0.03, -5), net.weight((1, 6, 1, 1))), 0.03, 11)
            else:
                kernel = [5, 1] if axis == 1 else [1, 7]
                x = net.q(net.node("AveragePool", net.q(x, 0.03, -5), kernel_shape=kernel), 0.02, -9)
        sides.append(x if x != "x" else net.q("x", 0.03, -5))
    if qoperator:
        q = [next(n.input[0] for n in net.nodes if n.output[0] == side) for side in sides]
        scales = [next(list(n.input[1:]) for n in net.nodes if n.output[0] == side) for side in sides]
        out = net.quant(0.015, 7, np.int8)
        y = net.node("QLinearMul", q[0], *scales[0], q[1], *scales[1], *out, domain="com.microsoft")
        model = net.model(net.node("DequantizeLinear", y, *out))
    else:
        model = net.model(net.q(net.node("Mul", *sides), 0.015, 7))
    graph = import_model(model)
    assert graph.ops[-1].kind == ("lut" if a == b else "mul")  # x times x is a function of x
    compared(model, graph)


def test_a_gate_without_its_own_quantisation_gets_one() -> None:
    """A curve's range is known: its scale needs no images."""
    net = Net(("n", 4, 6, 6))
    x = net.q(net.conv(net.q("x", 0.03), 3 + 1, 4, name="conv"), 0.05)
    gate = net.node("HardSigmoid", net.q(net.conv(net.q(net.node("GlobalAveragePool", x), 0.03), 4, 4, 1), 0.05), alpha=1 / 6)
    model = net.model(net.q(net.node("Mul", x, gate, name="gated"), 0.05))
    graph = import_model(model)
    assert [o.kind for o in graph.ops][-2:] == ["lut", "mul"]
    (placed,) = json.loads(graph.notes[PLACED]).values()
    assert graph.type(placed).scale == pytest.approx(1 / 255)
    compared(model, graph)


def test_a_curve_with_several_readers_is_stored_for_all_if_one_needs_it() -> None:
    net = Net(("n", 4, 6, 6))
    x = net.q("x", 0.03, 5)
    shared = net.node("Tanh", x)
    both = net.node("Mul", net.node("Exp", shared), net.node("Sigmoid", shared))  # functions of x alone
    model = net.model(net.q(net.node("Add", net.q(both, 0.02), net.q(net.node("Neg", shared), 0.01)), 0.03))
    graph = run_passes(import_graph(model), import_passes())
    assert PLACED not in graph.notes
    assert [o.kind for o in graph.ops] == ["lut", "lut", "add"]
    compared(model, import_model(model))
    net = Net(("n", 4, 6, 6))
    shared = net.node("Tanh", net.q("x", 0.03, 5))
    pooled = net.q(net.node("GlobalAveragePool", shared), 0.01)
    model = net.model(net.q(net.node("Mul", net.q(net.node("Exp", shared), 0.02), pooled), 0.03))
    graph = import_model(model)
    assert list(json.loads(graph.notes[PLACED])) == [shared]
    assert sorted(o.kind for o in graph.ops) == ["avgpool", "lut", "lut", "mul"]
    compared(model, graph)


def test_tables_are_joined_where_nobody_reads_what_is_between() -> None:
    """SiLU with a quantisation between is one table, equal to the two operations at every value; so are requantisations beside a table."""
    net = Net(("n", 4, 6, 6))
    x = net.q(net.conv(net.q("x", 0.03), 4, 4, 1), 0.05, 3)
    silu = net.q(net.node("Mul", x, net.q(net.node("Sigmoid", x), 1 / 256, -128)), 0.04, -90)
    model = net.model(net.q(net.node("Elu", net.q(silu, 0.05, -95)), 0.05))
    before, after = run_passes(import_graph(model), import_passes()), import_model(model)
    assert [o.kind for o in before.ops] == ["conv", "lut", "mul", "rescale", "lut"]
    assert [o.kind for o in after.ops] == ["conv", "lut"]
    runs = against_import(before, after, {"x": samples(before, 4)})  # bit for bit
    assert len(np.unique(runs.final[after.outputs[0]])) > 40
    slope = after.constant(after.ops[-1], "slope")
    t = after.type(after.ops[-1].inputs[0])
    real = (np.arange(256) - t.zero) * t.scale if t.dtype == "u8" else (np.arange(-128, 128) - t.zero) * t.scale
    gate = 1 / (1 + np.exp(-real))
    inner = real * gate
    exact = (gate + real * gate * (1 - gate)) * np.where(inner > 0, 1, np.exp(inner))
    assert np.abs(slope - exact).max() < 0.06  # the values between are rounded to 8 bits
    net = Net(("n", 4, 6, 6))
    gate = net.q(net.node("Sigmoid", net.q("x", 0.03)), 1 / 256, -128)
    kept = net.q(net.node("Mul", gate, net.q(net.node("Tanh", gate), 1 / 128)), 0.01)
    model = net.model(
        net.q(net.node("Add", kept, net.q(net.conv(gate, 4, 4, 1), 0.02)), 0.02)
    )  # gate is read by the convolution, too
    assert sorted(o.kind for o in import_model(model).ops) == ["add", "conv", "lut", "lut"]
    model = net.model(net.q(net.node("Add", kept, gate), 0.02))
    assert [o.kind for o in import_model(model).ops] == ["lut"]


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda net, x: net.node("Log", net.node("Clip", x, net.const(-1.0))), "is not a number"),
        (lambda net, x: net.node("Div", net.node("Tanh", x), x), "is not a number"),
        (lambda net, x: net.node("Mul", x, net.node("Transpose", x, perm=[0, 1, 3, 2])), "laid out"),
        (lambda net, x: net.node("Tanh", net.conv(x, 1, 1, 1)), "Tanh reads"),
        (lambda net, x: net.node("Gelu", x, approximate="none "), "approximate"),
        (lambda net, x: net.node("Pow", x, net.const([2.0, 3.0])), "exponent"),
        (lambda net, x: net.node("Elu", x, alpha=float("inf")), "not a finite number"),
    ],
)
def test_what_no_table_can_do_is_refused(make: Chain, what: str) -> None:
    net = Net(("n", 1, 16, 16), opset=20)
    model = net.model(net.q(make(net, net.q("x", 0.04, 5)), 0.02))
    assert what in "; ".join(f.reason for f in obstacles(read(model)))
    with pytest.raises(DiagnosticsError):
        import_model(model)


def test_the_node_tests_of_the_standard_name_these_operators() -> None:
    """Defaults of attributes are the standard's."""
    for operator, attribute in (
        ("LeakyRelu", "alpha"),
        ("Elu", "alpha"),
        ("Selu", "gamma"),
        ("HardSigmoid", "beta"),
        ("Celu", "alpha"),
    ):
        default = helper.get_attribute_value(onnx.defs.get_schema(operator).attributes[attribute].default_value)
        assert np.float32(DEFAULTS[operator][attribute]) == np.float32(default)
