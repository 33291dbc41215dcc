"""Sums, differences, products and quotients of two activations that broadcast against each other, and moved elements that errors pass: against
onnxruntime, numpy's derivatives and the golden model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from qdq_net import Net, run_ort
from test_moved_elements import ints
from whole_path import check

from sasimc.api import CompileOptions, compile_model
from sasimc.frontend.onnx_import import import_model
from sasimc.ir import interp
from sasimc.ir.interp_train import train_step
from sasimc.isa.errors import SasError
from sasimc.passes.backward import Backward
from sasimc.quantise.ranges import with_ranges
from sasimc.runtime.device import Device

H, W, C = 5, 7, 6
SHAPES = {
    "alike": ((C, H, W), (C, H, W)),
    "one a channel": ((C, H, W), (C, 1, 1)),
    "map": ((1, H, W), (C, H, W)),
    "rows and columns": ((C, H, 1), (C, 1, W)),
    "channels and map": ((C, 1, 1), (1, H, W)),
    "row and map": ((C, 1, W), (1, H, W)),
    "three single axes": ((1, 1, W), (C, H, 1)),
}


def side(net: Net, shape: tuple[int, ...], x: str = "x", name: str | None = None) -> str:
    """An activation of that shape."""
    x = net.q(net.conv(net.q(x, 0.0125, -5), C, shape[0], 1, name=name), 0.05, 4)
    kernel = [H if shape[1] == 1 else 1, W if shape[2] == 1 else 1]
    return x if kernel == [1, 1] else net.q(net.node("AveragePool", x, kernel_shape=kernel), 0.02, -9)


def fitted(make: Callable[[Net], str], **sizes: object) -> tuple[onnx.ModelProto, np.ndarray]:
    """The network between quantisations fitted to what it makes, and images."""
    x = np.random.default_rng(3).uniform(-1.5, 1.5, (4, C, H, W)).astype(np.float32)
    net = Net(("n", C, H, W))
    y = make(net)
    top = float(np.abs(run_ort(net.model(y), x)[0]).max())
    return net.model(net.q(y, top / 124.37)), x


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shapes", SHAPES)
def test_against_onnxruntime(shapes: str, operator: str) -> None:
    def make(net: Net) -> str:
        a, b = (side(net, s) for s in SHAPES[shapes])
        if operator == "Div":
            b = net.q(net.node("Add", net.node("Sigmoid", b), net.const(0.5)), 1.5 / 255, -128)
        return net.node(operator, a, b)

    model, x = fitted(make)
    compiled = compile_model(model, CompileOptions(verify=True, batch=4))
    (got,), (want,) = Device(compiled.program, "fused").run(x).values(), run_ort(model, x)
    step = compiled.graph.type(compiled.graph.outputs[0]).scale
    assert got.shape == want.shape
    # the compile checked each operation within a step; from end to end, a tie in front may move a few results by more
    assert np.abs(got - want).max() <= 10 * step
    assert np.abs(got - want).mean() < 0.5 * step
    assert np.ptp(want) > 60 * step


def test_a_constant_divided_by_an_activation_is_a_table() -> None:
    net = Net(("n", C, H, W))
    y = net.node("Div", net.const(3.0), net.node("Add", net.node("Abs", net.q("x", 0.02)), net.const(0.7)))
    model = net.model(net.q(y, 0.02))
    graph = import_model(model)
    assert [op.kind for op in graph.ops] == ["lut"]
    x = np.random.default_rng(3).uniform(-2, 2, (4, C, H, W)).astype(np.float32)
    (got,) = Device(compile_model(model, CompileOptions(batch=4)).program, "fused").run(x).values()
    off = np.abs(got - run_ort(model, x)[0])
    assert off.max() < 0.0201
    assert (off > 1e-6).mean() < 0.02


def test_a_product_with_a_constant_at_every_position_is_right_where_eight_bits_of_it_are_not() -> None:
    net = Net(("n", C, H, W))
    constant = net.rng.uniform(0.2, 5, (C, H, W))
    model = net.model(net.q(net.node("Mul", net.q("x", 0.02), net.const(constant)), 0.01, -128))
    compiled = compile_model(model, CompileOptions(verify=True, batch=4))
    x = np.random.default_rng(3).uniform(0, 2.5, (4, C, H, W)).astype(np.float32)
    (got,) = Device(compiled.program, "fused").run(x).values()
    off = np.abs(got - run_ort(model, x)[0])
    assert off.max() < 0.0101
    assert (off > 1e-6).mean() < 0.2
    assert [op.kind for op in compiled.graph.ops].count("mul") == 2


def test_a_constant_that_no_integers_carry_is_refused() -> None:
    net = Net(("n", C, H, W))
    constant = net.rng.uniform(-900, 900, (C, H, W))
    model = net.model(net.q(net.node("Mul", net.q("x", 0.02), net.const(constant)), 0.01))
    with pytest.raises(SasError, match="number at every position; as stored they move its result by") as refused:
        import_model(model)
    assert "Mul" in str(refused.value)


def test_what_is_stored_in_front_of_a_shuffle_is_no_tensor_of_the_file() -> None:
    """A bound and factors of channels move in front of the shuffle, and what the bound makes has to be stored there."""
    net = Net(("n", 4, 3, 5))
    x = net.node("Reshape", net.q("x", 0.02), net.const([0, 2, 2, 3, 5], np.int64))
    x = net.node("Reshape", net.node("Transpose", x, perm=[0, 2, 1, 3, 4]), net.const([0, 4, 3, 5], np.int64))
    x = net.node("Max", x, net.const(0.3))
    x = net.node("Div", x, net.const(net.rng.uniform(0.7, 2, (4, 1, 1))))
    model = with_ranges(net.model(net.q(x, 0.03))).model
    compiled = compile_model(model, CompileOptions(verify=True, batch=2))
    images = np.random.default_rng(3).uniform(-2.5, 2.5, (2, 4, 3, 5)).astype(np.float32)
    (got,) = Device(compiled.program, "fused").run(images).values()
    assert np.abs(got - run_ort(model, images)[0]).max() < 0.0301


def test_coordinate_attention() -> None:
    """Means of rows and of columns, one layer over both, split, and two gates."""

    def make(net: Net) -> str:
        x = net.q(net.conv(net.q("x", 0.0125), C, C, 1), 0.05, 4)
        rows = net.q(net.node("ReduceMean", x, axes=[3], keepdims=1), 0.02, 3)
        columns = net.q(net.node("ReduceMean", x, axes=[2], keepdims=1), 0.02, 3)
        both = net.node("Concat", rows, net.node("Transpose", columns, perm=[0, 1, 3, 2]), axis=2)
        y = net.q(net.node("HardSwish", net.q(net.conv(both, C, 4, 1), 0.02)), 0.02)
        parts = [f"part{i}" for i in (0, 1)]
        net.nodes.append(onnx.helper.make_node("Split", [y, ints(net, H, W)], parts, "Split", axis=2))
        gates = [
            net.q(net.node("Sigmoid", net.q(net.conv(p, 4, C, 1), 0.03)), 1 / 255, -128)
            for p in (parts[0], net.node("Transpose", parts[1], perm=[0, 1, 3, 2]))
        ]
        return net.node("Mul", net.q(net.node("Mul", x, gates[1]), 0.05), gates[0])

    model, x = fitted(make)
    compiled = compile_model(model, CompileOptions(verify=True, batch=4))
    (got,), (want,) = Device(compiled.program, "fused").run(x).values(), run_ort(model, x)
    assert np.abs(got - want).max() <= 4 * compiled.graph.type(compiled.graph.outputs[0]).scale


def ended(net: Net, x: str, channels: int) -> onnx.ModelProto:
    """A classifier behind ``x``; the first layer and the last learn."""
    y = net.q(net.node("Flatten", net.q(net.node("GlobalAveragePool", net.q(x, 0.06)), 0.03)), 0.03)
    return net.model(net.q(net.node("Gemm", y, net.weight((channels, 5), 1), name="last"), 0.03))


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul"])
@pytest.mark.parametrize("shapes", SHAPES)
def test_learning_through_both_sides_is_the_golden_models(shapes: str, operator: str) -> None:
    net = Net(("n", C, H, W))
    x = net.q(net.conv(net.q("x", 0.0125), C, C, 1, name="first"), 0.04)
    a, b = (side(net, s, x) for s in SHAPES[shapes])
    model = ended(net, net.node(operator, a, b), C)
    check(model, trainable=["first", "last"], update="momentum", error_range="previous" if operator == "Sub" else "batch")


MOVES: dict[str, Callable[[Net, str], tuple[str, int]]] = {
    "depth to space": lambda n, x: (n.node("DepthToSpace", x, blocksize=2), 2),
    "depth to space, rows first": lambda n, x: (n.node("DepthToSpace", x, blocksize=2, mode="CRD"), 2),
    "space to depth": lambda n, x: (n.node("SpaceToDepth", x, blocksize=2), 32),
    "gather": lambda n, x: (n.node("Gather", x, ints(n, 5, 0, 1, 1, 3, 7), axis=1), 6),
    "gather with a step": lambda n, x: (n.node("Gather", x, ints(n, 0, 2, 5, 3, 6), axis=1), 5),
    "gather columns": lambda n, x: (n.node("Gather", x, ints(n, 5, 0, 2, 2, 3), axis=3), 8),
}


@pytest.mark.parametrize("move", MOVES)
def test_learning_through_moved_elements_is_the_golden_models(move: str) -> None:
    net = Net(("n", 3, 4, 6))
    x = net.q(net.conv(net.q("x", 0.0125), 3, 8, 1, name="first"), 0.04)
    y, channels = MOVES[move](net, x)
    check(ended(net, net.conv(y, channels, 4, 3, pads=[1] * 4), 4), trainable=["first", "last"], error_range="previous")


def test_errors_through_a_quotient_are_numpys_derivatives() -> None:
    """Of the sum of e a / b, b one number for a row."""
    net = Net(("n", C, H, W))
    x = net.q("x", 0.0125, -5)
    a = net.q(net.conv(x, C, C, 1, name="first"), 0.05)
    b = net.q(net.node("AveragePool", net.q(net.conv(x, C, C, 1, name="second"), 0.05), kernel_shape=[1, W]), 0.02)
    b = net.q(net.node("Add", net.node("Sigmoid", b), net.const(0.5), name="divisor"), 1.5 / 255, -128)
    graph = import_model(net.model(net.q(net.node("Div", a, b, name="quotient"), 0.05)), "first,second")
    over, under, out = (graph.op(name).output for name in ("first", "divisor", "quotient"))
    env = interp.run(graph, {"x": np.random.default_rng(5).integers(-128, 128, (4, H, W, C))})
    real = {v: t.scale * (env[v] - t.zero) for v, t in graph.values.items()}
    assert np.abs(np.clip(real[over] / real[under], -6.4, 6.35) - real[out]).max() < 0.05
    train = Backward(loss="squared-error", update="direct", round_errors="nearest").derive(graph)
    errors = train_step(train, env, np.random.default_rng(6).integers(-100, 100, env[out].shape), 3, 3).errors
    values = {
        name: error.v * 2.0**error.e for name, error in errors.items()
    }  # the last of a name is what has been merged and staged
    e = values[f"e8:{out}"]
    scales = graph.constant(graph.op("first"), "wscale")
    for value, want in (
        (over, e / real[under] * scales),
        (under, (-e * real[over] / real[under] ** 2).sum(axis=2, keepdims=True)),
    ):
        got = [v for name, v in values.items() if name.startswith(f"e8:{value}")][-1]
        got = got * np.abs(want).max() / np.abs(got).max()  # nobody reads the exponent of an error that ends in an update
        assert np.abs(got - want).max() < 0.02 * np.abs(want).max()
