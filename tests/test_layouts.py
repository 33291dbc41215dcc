"""Axes of tensors: reshapes and transposes anywhere, per-element constants behind them, against numpy and onnxruntime."""

from __future__ import annotations

import math
from typing import Any

import models
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdq_net import Net, run_ort

from sasimc.frontend import check_model, import_model
from sasimc.frontend.onnx_import import import_float
from sasimc.ir import interp
from sasimc.ir.graph import Graph, IrError, Op, TensorType
from sasimc.ir.layout import Layout
from sasimc.ir.verify import verify

PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@given(st.data())
@PROPERTY
def test_a_layout_is_what_numpy_does(data: st.DataObject) -> None:
    """Any chain of reshapes and transposes of an arange gives the same positions."""
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=3, max_size=3)))
    size = math.prod(shape)
    array, layout = np.arange(size).reshape(shape).transpose(2, 0, 1), Layout.planes(shape)
    for _ in range(data.draw(st.integers(0, 5))):
        if data.draw(st.booleans()):
            perm = data.draw(st.permutations(range(array.ndim)))
            array, layout = array.transpose(perm), layout.transposed(perm)
        else:
            dims = _split(data, size)
            new = layout.reshaped(dims)
            if new is None:
                continue
            array, layout = array.reshape(dims), new
    assert layout.dims == array.shape
    assert np.array_equal(layout.index(), array.ravel())
    assert layout.covers(size)
    assert Layout.parse(layout.text(shape), shape) == layout
    rows = np.random.default_rng(0).normal(size=(2, *array.shape))
    assert np.array_equal(layout.stored(rows, shape).reshape(2, -1)[:, layout.index()], rows.reshape(2, -1))


def _split(data: st.DataObject, size: int) -> list[int]:
    dims = []
    while size > 1 and len(dims) < 4:
        divisors = [d for d in range(2, size + 1) if size % d == 0]
        d = data.draw(st.sampled_from(divisors))
        dims.append(d)
        size //= d
    return [*dims, *([size] if size > 1 or not dims else [])]


def _net(data: st.DataObject) -> tuple[Any, np.ndarray]:
    """A graph with changes of layout anywhere. H = C and Flatten first are frequent."""
    h, w, c = data.draw(st.sampled_from([(4, 4, 4), (3, 3, 3), (2, 3, 4), (4, 2, 3), (1, 6, 3), (1, 1, 8)]))
    net = Net(("n", c, h, w), seed=data.draw(st.integers(0, 5)))
    x = net.q("x", 0.011, data.draw(st.sampled_from([0, -128, 5])))
    dims = [c, h, w]
    for _ in range(data.draw(st.integers(1, 5))):
        size = math.prod(dims)
        kind = data.draw(
            st.sampled_from(
                ["flatten", "reshape", "transpose", "constant", "batch norm", "relu", "conv", "linear", "squeeze", "join"]
            )
        )
        if kind == "flatten":
            x, dims = net.node("Flatten", x), [size]
        elif kind == "reshape":
            dims = _split(data, size)
            x = net.node("Reshape", x, net.const([0, *dims], np.int64))
        elif kind == "transpose":
            perm = data.draw(st.permutations(range(len(dims))))
            x, dims = net.node("Transpose", x, perm=[0, *(p + 1 for p in perm)]), [dims[p] for p in perm]
        elif kind == "constant":
            axis = data.draw(st.integers(0, len(dims) - 1))
            values = net.rng.uniform(0.5, 1.5, [d if i == axis else 1 for i, d in enumerate(dims)])
            x = net.q(net.node(data.draw(st.sampled_from(["Mul", "Add"])), x, net.const(values)), 0.02)
        elif kind == "batch norm":
            n = dims[0]
            numbers = (
                net.rng.uniform(0.5, 1.5, n),
                net.rng.normal(size=n) / 4,
                net.rng.normal(size=n) / 4,
                net.rng.uniform(0.5, 1, n),
            )
            x = net.q(net.node("BatchNormalization", x, *map(net.const, numbers)), 0.03)
        elif kind == "relu":
            x = net.q(net.node("Relu", x), 0.012, -100)
        elif kind == "conv" and len(dims) == 3:
            n = data.draw(st.sampled_from([2, 4]))
            k = data.draw(st.sampled_from([1, 3]))
            x = net.q(net.node("Conv", x, net.weight((n, dims[0], k, k)), pads=[k // 2] * 4), 0.05)
            dims = [n, *dims[1:]]
        elif kind == "linear":
            n = data.draw(st.sampled_from([3, 4]))
            x = net.q(net.node("MatMul", x, net.weight((dims[-1], n), 1)), 0.05)
            dims = [*dims[:-1], n]
        elif kind == "squeeze" and 1 in dims:
            at = dims.index(1)
            x = net.node("Squeeze", x, net.const([at + 1], np.int64))
            dims = dims[:at] + dims[at + 1 :]
        elif kind == "join":
            axis = data.draw(st.integers(0, len(dims) - 1))
            x = net.node("Concat", x, x, axis=axis + 1)
            dims = [2 * d if i == axis else d for i, d in enumerate(dims)]
    x = net.node("Flatten", x)
    size = math.prod(dims)
    out = net.q(net.node("Gemm", x, net.weight((size, 4), 1, scale=0.02)), 0.06)
    return net.model(out), np.random.default_rng(1).uniform(-1, 1, (3, c, h, w)).astype(np.float32)


TRIED = {"compared": 0, "refused": 0}


@given(st.data())
@settings(PROPERTY, max_examples=150)
def test_layout_changes_anywhere(data: st.DataObject) -> None:
    """The whole network against onnxruntime: a wrong order of elements is off by as much as an output varies, tens of steps; roundings, which no
    layer takes back, by at most 9 and in the mean 2.2 in 3,000 such networks."""
    model, x = _net(data)
    report = check_model(model)
    if not report.ok:
        TRIED["refused"] += 1
        assert all(f.reason for f in report.findings)
        return
    TRIED["compared"] += 1
    graph = import_model(model)
    read = import_float(model).graph
    assert read is not None
    stored = read.type("x")  # a first Transpose says that the input is channels last
    assert stored.layout is not None
    env = interp.run(graph, {"x": interp.quantize_input(graph, stored.layout.stored(x, stored.shape))})
    t = graph.type(graph.outputs[0])
    want = np.rint(run_ort(model, x)[0] / t.scale) + t.zero
    off = np.abs(env[graph.outputs[0]].reshape(3, -1) - want)
    assert off.max() <= 12
    assert off.mean() <= 3


@pytest.mark.parametrize("constants", ["Mul", "Add", "BatchNormalization"])
@pytest.mark.parametrize("joins", [1, 2])
def test_a_flattened_tensor_joined_with_itself_takes_constants_of_each_element(constants: str, joins: int) -> None:
    """The order of a Flatten is made of slices inside the join; a normalisation is two operations on each part."""
    net = Net(("n", 2, 2, 3))
    x = net.node("Flatten", net.q("x", 0.011))
    for _ in range(joins):
        x = net.node("Concat", x, x, axis=1)
    n = 12 * 2**joins
    numbers = (net.rng.uniform(0.5, 1.5, n), net.rng.normal(size=n), net.rng.normal(size=n), net.rng.uniform(0.5, 1, n))
    taken = numbers if constants == "BatchNormalization" else [numbers[0]]
    model = net.model(net.q(net.node(constants, x, *map(net.const, taken)), 0.03))
    image = np.random.default_rng(0).uniform(-1, 1, (2, 2, 2, 3)).astype(np.float32)
    graph = import_model(model)
    got = interp.run(graph, {"x": interp.quantize_input(graph, image.transpose(0, 2, 3, 1))})[graph.outputs[0]]
    want = np.rint(run_ort(model, image)[0] / np.float32(0.03))
    assert np.abs(got.reshape(2, -1) - want).max() <= 1


@pytest.mark.parametrize("function", ["", "Sigmoid", "HardSwish"])
def test_a_tensor_joined_with_itself_takes_constants_of_each_half(function: str) -> None:
    net = Net(("n", 4, 4, 4))
    x = net.q("x", 0.011)
    x = net.node(function, x) if function else x
    x = net.node("Concat", x, x, axis=1)
    numbers = (net.rng.uniform(0.5, 1.5, 8), net.rng.normal(size=8), net.rng.normal(size=8), net.rng.uniform(0.5, 1, 8))
    model = net.model(net.q(net.node("BatchNormalization", x, *map(net.const, numbers)), 0.03))
    image = np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 4)).astype(np.float32)
    graph = import_model(model)
    got = interp.run(graph, {"x": interp.quantize_input(graph, image.transpose(0, 2, 3, 1))})[graph.outputs[0]]
    want = np.rint(run_ort(model, image)[0] / np.float32(0.03)).transpose(0, 2, 3, 1)
    assert np.abs(got - want).max() <= 1
    assert np.ptp(want) > 20


def test_most_layout_changes_are_supported() -> None:
    assert 2 * TRIED["compared"] > TRIED["refused"]


def test_channel_shuffle_costs_nothing() -> None:
    """Reshape, Transpose, Reshape between convolutions only permutes weights: of a convolution, and of a depth-wise one on the way."""
    net = Net(("n", 4, 5, 6))
    x = net.q(net.conv(net.q("x", 0.011, 5), 4, 6, 1), 0.04)
    x = net.node("Reshape", x, net.const([0, 2, 3, 5, 6], np.int64))
    x = net.node("Reshape", net.node("Transpose", x, perm=[0, 2, 1, 3, 4]), net.const([0, 6, 5, 6], np.int64))
    x = net.q(net.conv(x, 6, 6, 3, group=6, pads=[1] * 4), 0.05)
    x = net.node("MaxPool", x, kernel_shape=[2, 2])
    model = net.model(net.q(net.conv(x, 6, 4, 1), 0.05))
    graph = import_model(model)
    assert [op.kind for op in graph.ops] == ["conv", "conv", "maxpool", "conv"]
    image = np.random.default_rng(0).uniform(-1, 1, (2, 4, 5, 6)).astype(np.float32)
    got = interp.run(graph, {"x": interp.quantize_input(graph, image.transpose(0, 2, 3, 1))})[graph.outputs[0]]
    want = np.rint(run_ort(model, image)[0] / np.float32(0.05)).transpose(0, 2, 3, 1)
    assert np.abs(got - want).max() <= 2
    assert np.ptp(want) > 20


def test_convolution_and_pool_of_sequences() -> None:
    """Conv1d, BatchNormalization, MaxPool and AveragePool over N x C x W."""
    net = Net(("n", 3, 12))
    x = net.q(net.node("Conv", net.q("x", 0.011, 5), net.weight((5, 3, 3)), strides=[2], pads=[1, 0]), 0.04)
    numbers = (net.rng.uniform(0.5, 1.5, 5), net.rng.normal(size=5), net.rng.normal(size=5), net.rng.uniform(0.5, 1, 5))
    x = net.q(net.node("BatchNormalization", x, *map(net.const, numbers)), 0.03)
    x = net.q(net.node("AveragePool", net.node("MaxPool", x, kernel_shape=[2]), kernel_shape=[2]), 0.03)
    model = net.model(net.q(net.node("Gemm", net.node("Flatten", x), net.weight((20, 4), 1)), 0.05))
    signal = np.random.default_rng(0).uniform(-1, 1, (4, 3, 12)).astype(np.float32)
    graph = import_model(model)
    got = interp.run(graph, {"x": interp.quantize_input(graph, signal.transpose(0, 2, 1)[:, None])})[graph.outputs[0]]
    want = np.rint(run_ort(model, signal)[0] / np.float32(0.05))
    assert np.abs(got.reshape(4, 4) - want).max() <= 2
    assert np.ptp(want) > 20


PLANES, ROWS = Layout.planes((2, 3, 4)), Layout.planes((2, 3, 4)).transposed((1, 2, 0))


@pytest.mark.parametrize(
    ("kind", "left", "right", "out", "message"),
    [
        ("add_f", PLANES, ROWS, PLANES, "second|axes"),
        ("add_f", PLANES, PLANES, ROWS, "output has the axes"),
        ("add_f", PLANES, Layout.of([[(4, 1)]]), PLANES, "do not hold each element once"),
        ("concat", Layout.of([[(2, 12), (3, 4), (4, 1)]]), Layout.of([[(2, 12), (3, 4), (4, 1)]]), None, "no whole axis"),
    ],
)
def test_the_ir_refuses_axes_that_do_not_fit(kind: str, left: Layout, right: Layout, out: Layout | None, message: str) -> None:
    t = TensorType("f32", (2, 3, 4))
    made = TensorType("f32", (2, 3, 8)) if kind == "concat" else t.with_shape(t.shape, out)
    values = {"a": t.with_shape(t.shape, left), "b": t.with_shape(t.shape, right), "y": made}
    graph = Graph("g", values, (Op("o", kind, ("a", "b"), "y"),), {}, ("a", "b"), ("y",))
    with pytest.raises(IrError, match=message):
        verify(graph)


def test_the_backend_sees_no_layouts() -> None:
    assert all(t.layout is None for t in import_model(models.mobilenet_like()).values.values())
