"""Slices, splits, gathers, joins along any axis, depth to space, transposed convolutions, pools with uneven windows, weights with a zero point:
compiled with all checks, compared with onnxruntime, and learned through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdq_net import Net, run_ort

from sasimc.api import CompileOptions, compile_model
from sasimc.frontend.check import check_model
from sasimc.isa.errors import SasError
from sasimc.runtime.device import Device

Make = Callable[[Net, str], str]
IMAGES = np.random.default_rng(11).uniform(-1.5, 1.5, (4, 6, 8, 6)).astype(np.float32)


def ints(net: Net, *values: int) -> str:
    return net.const(list(values), np.int64)


def take(axis: int, start: int, end: int, step: int = 1) -> Make:
    return lambda net, x: net.node("Slice", x, ints(net, start), ints(net, end), ints(net, axis), ints(net, step))


def halves(net: Net, x: str, sizes: tuple[int, ...], axis: int = 1) -> list[str]:
    net.count += 1
    outs = [f"half{net.count}.{i}" for i in range(len(sizes))]
    net.nodes.append(onnx.helper.make_node("Split", [x, ints(net, *sizes)], outs, f"Split{net.count}", axis=axis))
    return outs


def shuffled(net: Net, x: str, groups: int, dims: tuple[int, int, int]) -> str:
    c, h, w = dims
    x = net.node("Reshape", x, ints(net, 0, groups, c // groups, h, w))
    return net.node("Reshape", net.node("Transpose", x, perm=[0, 2, 1, 3, 4]), ints(net, 0, c, h, w))


def second_of_shuffled(net: Net, x: str) -> str:
    """ShuffleNet: half of shuffled channels, which are no contiguous ones."""
    return net.conv(halves(net, shuffled(net, x, 3, (6, 8, 6)), (4, 2))[1], 2, 5, 1)


def average(**attrs: Any) -> Make:
    return lambda net, x: net.node("AveragePool", x, **attrs)


def transposed(shape: tuple[int, ...], **attrs: Any) -> Make:
    return lambda net, x: net.node(
        "ConvTranspose",
        x,
        net.weight(shape, 1 if attrs.get("group", 1) == 1 else None),
        net.const(net.rng.normal(size=shape[1] * attrs.get("group", 1)) * 0.2),
        **attrs,
    )


def skewed(zero: int, shape: tuple[int, ...] = (4, 6, 3, 3), **attrs: Any) -> Make:
    def make(net: Net, x: str) -> str:
        return net.node(
            "Conv", x, net.weight(shape, None, np.uint8, zero), net.const(net.rng.normal(size=shape[0]) * 0.2), **attrs
        )

    return make


CASES: dict[str, Make] = {
    "channels": take(1, 1, 4),
    "every other channel": take(1, 0, 6, 2),
    "rows and columns": lambda n, x: take(3, 1, -1)(n, take(2, 2, 8, 2)(n, x)),
    "channels backwards": take(1, -1, -7, -1),
    "split": lambda n, x: n.node("Concat", *halves(n, x, (1, 3, 2))[::-1], axis=1),
    "split rows": lambda n, x: n.node("Concat", *halves(n, x, (3, 5), 2)[::-1], axis=2),
    "split floats": lambda n, x: n.node("Add", *[n.node("Relu", h) for h in halves(n, n.q(n.conv(x, 6, 4, 1), 0.05), (2, 2))]),
    "half of shuffled channels": second_of_shuffled,
    "shuffled half beside a layer": lambda n, x: n.node(
        "Concat", *(h if i == 0 else n.conv(h, 3, 3, 1) for i, h in enumerate(halves(n, shuffled(n, x, 2, (6, 8, 6)), (3, 3)))), axis=1
    ),
    "shuffled channels beside others": lambda n, x: n.node("Concat", shuffled(n, x, 2, (6, 8, 6)), shuffled(n, x, 3, (6, 8, 6)), x, axis=1),
    "gather": lambda n, x: n.node("Gather", x, ints(n, 4, 0, 1, 1, -1), axis=1),
    "gather one": lambda n, x: n.node("Gather", x, n.const(2, np.int64), axis=1),
    "one of an axis of size one": lambda n, x: n.node("Gather", take(2, 0, -2, -1)(n, n.node("AveragePool", x, kernel_shape=[8, 1])), n.const(0, np.int64), axis=2),
    "gather columns": lambda n, x: n.node("Gather", x, ints(n, 5, 0, 2), axis=3),
    "join in width": lambda n, x: n.node("Concat", x, n.q(n.conv(x, 6, 6, 3, pads=[1, 0, 1, 0]), 0.05, 3), axis=3),
    "depth to space": lambda n, x: n.node("DepthToSpace", n.q(n.conv(x, 6, 12, 1), 0.05), blocksize=2),
    "depth to space, rows first": lambda n, x: n.node("DepthToSpace", n.q(n.conv(x, 6, 8, 1), 0.05), blocksize=2, mode="CRD"),
    "space to depth": lambda n, x: n.node("SpaceToDepth", x, blocksize=2),
    "average, padding not counted": average(kernel_shape=[3, 3], pads=[1] * 4),
    "average, uneven padding and stride": average(kernel_shape=[4, 3], strides=[3, 2], pads=[2, 0, 1, 1]),
    "average, ceil": average(kernel_shape=[3, 4], strides=[2, 3], ceil_mode=1),
    "average, ceil, counted": average(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0], ceil_mode=1, count_include_pad=1),
    "average, same": average(kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    "transposed 2 x 2": transposed((6, 4, 2, 2), strides=[2, 2]),
    "transposed 3 x 3": transposed((6, 4, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    "transposed, dilated": transposed((6, 3, 3, 2), dilations=[2, 1]),
    "transposed, groups": transposed((6, 2, 3, 3), group=3, strides=[1, 2]),
    "transposed, depth-wise": transposed((6, 1, 2, 2), group=6, strides=[2, 2]),
    "zero point": skewed(100, pads=[1] * 4, strides=[2, 1]),
    "zero point, depth-wise": skewed(90, (6, 1, 3, 3), group=6, pads=[1, 0, 1, 2]),
    "zero point, one row": skewed(160, (5, 6, 1, 3), dilations=[2, 2]),
    "zero point, product": lambda n, x: n.node("Gemm", n.node("Flatten", x), n.weight((288, 7), None, np.uint8, 120, 0.002)),
    "zero point of int8": lambda n, x: n.node("Conv", x, n.weight((4, 6, 1, 1), None, np.int8, -50)),
}  # fmt: skip


def built(make: Make) -> onnx.ModelProto:
    """The case between quantisations fitted to what it makes."""
    net = Net(("n", 6, 8, 6))
    y = make(net, net.q("x", 0.0125, 7))
    top = float(np.abs(run_ort(net.model(y), IMAGES)[0]).max())
    return net.model(net.q(y, top / 124.37))


@pytest.mark.parametrize("case", CASES)
def test_against_onnxruntime(case: str) -> None:
    model = built(CASES[case])
    compiled = compile_model(model, CompileOptions(verify=True, batch=4))
    (got,), (want,) = Device(compiled.program, "fused").run(IMAGES).values(), run_ort(model, IMAGES)
    assert got.shape == want.shape
    step = compiled.graph.type(compiled.graph.outputs[0]).scale
    assert np.abs(got - want).max() <= 1.01 * step
    assert (np.abs(got - want) > step / 2).mean() < 0.02
    assert np.ptp(want) > 60 * step


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 14), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2), st.integers(0, 2), st.booleans(), st.booleans()
)
def test_every_average_pool(size: int, kernel: int, stride: int, before: int, after: int, counted: bool, ceil: bool) -> None:
    """One row of any size, whatever divisors its windows have; the integer graph against onnxruntime, or a refusal."""
    from sasimc.frontend.onnx_import import import_model
    from sasimc.ir import interp

    net = Net(("n", 2, 1, size))
    y = net.node("AveragePool", net.q("x", 0.02), kernel_shape=[1, kernel], strides=[1, stride], pads=[0, before, 0, after],
                 ceil_mode=int(ceil), count_include_pad=int(counted))  # fmt: skip
    model, x = net.model(net.q(y, 0.02)), np.random.default_rng(0).uniform(-2, 2, (2, 2, 1, size)).astype(np.float32)
    if before >= kernel or after >= kernel or size + before + after < kernel:
        check_model(model)  # refused or not: no traceback
        return
    graph = import_model(model)
    stored = interp.quantize_input(graph, x.transpose(0, 2, 3, 1))
    got = interp.run(graph, {"x": stored})[graph.outputs[0]]
    want = np.rint(run_ort(model, x)[0] / np.float32(0.02)).transpose(0, 2, 3, 1)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 1


def learner(net: Net) -> str:
    """Errors go through a split, a slice of rows, a join in width and a pool of uneven windows to the first layer."""
    x = net.q(net.conv(net.q("x", 0.02), 6, 6, 1, name="first"), 0.04)
    a, b = halves(net, x, (2, 4))
    b = net.q(net.node("AveragePool", take(2, 1, 7)(net, b), kernel_shape=[3, 3], pads=[1] * 4), 0.04)
    b = net.q(net.conv(net.node("Concat", b, b, axis=3), 4, 2, 1, strides=[1, 2]), 0.05)
    a = net.q(net.conv(a, 2, 2, 3, pads=[0, 1, 0, 1]), 0.05)
    y = net.q(net.node("Flatten", net.node("GlobalAveragePool", net.q(net.node("Add", a, b), 0.06))), 0.03)
    return net.q(net.node("Gemm", y, net.weight((2, 5), 1), name="last"), 0.03)


def test_learning_through_moved_elements() -> None:
    """One step bit for bit against the reference semantics (the compile checks it); weights in front of all of it move."""
    net = Net(("n", 6, 8, 6))
    compiled = compile_model(net.model(learner(net)), CompileOptions(verify=True, batch=4, trainable="first,last"))
    assert "one training step" in compiled.program.meta["verified"]
    assert compiled.train is not None
    assert {"scatter_t", "slice_t"} <= {op.kind for op in compiled.train.ops}
    device = Device(compiled.program, "fused")
    before = device.state()
    for _ in range(3):
        device.train_step(IMAGES, [0, 1, 2, 3])
    assert all((device.state()[name] != w).any() for name, w in before.items())


def test_weights_with_a_zero_point_are_not_trained() -> None:
    net = Net(("n", 6, 8, 6))
    y = net.node("Flatten", net.node("GlobalAveragePool", net.q(net.conv(net.q("x", 0.02), 6, 4), 0.05)))
    model = net.model(net.q(net.node("Gemm", net.q(y, 0.05), net.weight((4, 5), None, np.uint8, 100), name="last"), 0.05))
    with pytest.raises(SasError, match="weights with a zero point"):
        compile_model(model, CompileOptions(trainable="last"))
