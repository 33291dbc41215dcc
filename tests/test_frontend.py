"""ONNX import: against onnxruntime on what its quantiser and PyTorch write, operator by operator, and on bad files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from qdq_net import Net, run_ort

from sasimc.frontend import check_model, import_model, load_model
from sasimc.ir import interp
from sasimc.ir.graph import Graph
from sasimc.isa.errors import DiagnosticsError, SasError

QUANTIZE = ("QuantizeLinear", "DequantizeLinear")


def compare(model: onnx.ModelProto, x: np.ndarray, *, last: bool = True, rate: float = 0.02) -> Graph:
    """The imported graph against onnxruntime: equal up to one step, in at most a share ``rate`` of the elements (ties)."""
    graph = import_model(model)
    want = run_ort(model, x)[0]
    ours = x.transpose(0, 2, 3, 1) if x.ndim == 4 and last else x.reshape(x.shape[0], *graph.type(graph.inputs[0]).shape)
    env = interp.run(graph, {graph.inputs[0]: interp.quantize_input(graph, ours)})
    t = graph.type(graph.outputs[0])
    got = env[graph.outputs[0]].astype(np.float64)
    stored = (
        np.rint(want / t.scale) + t.zero
        if want.dtype.kind == "f"
        else want + (128 if t.dtype == "u8" and want.dtype == np.int8 else 0)
    )
    stored = stored.transpose(0, 2, 3, 1) if stored.ndim == 4 and last else stored.reshape(got.shape)
    off = np.abs(got - stored)
    assert off.max() <= 1
    assert (off > 0).mean() <= rate
    assert np.ptp(stored) > 5  # a constant output would prove nothing
    return graph


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).uniform(-1, 1, shape or (4, 3, 6, 6)).astype(np.float32)


# -- onnxruntime's quantiser, PyTorch's exporter ---------------------------------------------------------------------------


def float_cnn() -> onnx.ModelProto:
    """MobileNet-like: stem, inverted residual, pool, grouped convolution, resize, add, global pool, Gemm."""
    net = Net(("n", 3, 16, 16))

    def conv(x: str, cin: int, n: int, k: int = 1, act: str = "", **attrs: Any) -> str:
        w = net.const(net.rng.normal(size=(n, cin // attrs.get("group", 1), k, k)) / np.sqrt(cin / attrs.get("group", 1) * k * k))
        x = net.node("Conv", x, w, net.const(net.rng.normal(size=n) * 0.1), pads=[k // 2] * 4, **attrs)
        if act == "relu6":
            return net.node("Clip", x, net.const(0.0), net.const(6.0))
        return net.node("Relu", x) if act else x

    x = conv("x", 3, 8, 3, "relu6", strides=[2, 2])
    y = conv(conv(conv(x, 8, 16, 1, "relu6"), 16, 16, 3, "relu6", group=16), 16, 8)
    x = net.node("Add", x, y)
    y = conv(net.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), 8, 8, 3, "relu", group=2)
    y = net.node(
        "Resize",
        y,
        "",
        net.const([1, 1, 2, 2]),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    x = conv(net.node("Concat", net.node("Add", y, x), x, axis=1), 16, 24, 1, "relu6")
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    x = net.node("Gemm", x, net.const(net.rng.normal(size=(10, 24)) * 0.3), net.const(net.rng.normal(size=10)), transB=1)
    return net.model(x)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("activations", ["QInt8", "QUInt8"])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.filterwarnings("ignore")
def test_what_quantize_static_writes(form: str, activations: str, per_channel: bool, tmp_path: Path) -> None:
    """Layer by layer, fed onnxruntime's own inputs: equal, or one off in rare ties."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"x": image(4, 3, 16, 16)}]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    onnx.save(float_cnn(), tmp_path / "float.onnx")
    quantize_static(
        tmp_path / "float.onnx", tmp_path / "q.onnx", Reader(), quant_format=QuantFormat[form],
        activation_type=QuantType[activations], weight_type=QuantType.QInt8, per_channel=per_channel,
    )  # fmt: skip
    model = load_model(tmp_path / "q.onnx")
    report = check_model(model)
    assert report.ok, str(report)
    assert report.graph is not None
    graph = report.graph
    kinds = {op.kind for op in graph.ops}
    assert kinds >= {"conv", "add", "avgpool", "maxpool", "resize", "concat"}
    made = {o for n in model.graph.node for o in n.output}
    quantised = next(n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "x")
    floats = {i for n in model.graph.node if n.op_type == "QuantizeLinear" for i in n.input[:1]}
    names = [v for v in graph.values if v in made and v not in floats]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in [quantised, *names])
    found = run_ort(probe, image(4, 3, 16, 16))
    stored: dict[str, np.ndarray] = {}
    for name, a in zip([graph.inputs[0], *names], found, strict=True):
        a = a.astype(np.int64) + (128 if a.dtype == np.int8 and graph.type(name).dtype == "u8" else 0)
        stored[name] = a.transpose(0, 2, 3, 1) if a.ndim == 4 else a[:, None, None]
    checked = 0
    for op in graph.ops:
        if op.output in stored and all(v in stored for v in op.inputs):
            off = np.abs(interp.run_op(graph, op, [stored[v] for v in op.inputs]) - stored[op.output])
            assert off.max() <= 1, op.name
            # an average of 4 has true ties, which float32 scales break either way
            assert (off > 0).mean() <= (0.2 if op.kind == "avgpool" else 1e-3), op.name
            checked += 1
    assert checked >= len(graph.ops) - 3


@pytest.mark.filterwarnings("ignore")
def test_what_pytorch_writes(tmp_path: Path) -> None:
    """Fake-quantised PyTorch modules: QuantizeLinear on float weights, float biases, Constant and Identity noise."""
    torch = pytest.importorskip("torch")

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.deep = torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.Conv2d(8, 8, 3, 1, 1, groups=8)
            self.fc = torch.nn.Linear(8, 5)

        def forward(self, x: Any) -> Any:
            act = torch.fake_quantize_per_tensor_affine

            def weight(m: Any) -> Any:
                n = m.weight.shape[0]
                scale = m.weight.detach().abs().reshape(n, -1).amax(1) / 127
                return torch.fake_quantize_per_channel_affine(m.weight, scale, torch.zeros(n, dtype=torch.int32), 0, -128, 127)

            f = torch.nn.functional
            x = act(x, 0.01, 128, 0, 255)
            x = act(f.relu6(f.conv2d(x, weight(self.conv), self.conv.bias, 2, 1)), 6 / 255, 0, 0, 255)
            y = act(f.relu(f.conv2d(x, weight(self.deep), self.deep.bias, 1, 1, 1, 8)), 0.01, 0, 0, 255)
            x = act(x + y, 0.02, 0, 0, 255)
            x = torch.flatten(act(f.adaptive_avg_pool2d(x, 1), 0.01, 0, 0, 255), 1)
            return act(f.linear(f.dropout(x, 0.2, self.training), weight(self.fc), self.fc.bias), 0.01, 128, 0, 255)

    torch.manual_seed(0)
    path = tmp_path / "torch.onnx"
    torch.onnx.export(
        Small().eval(), (torch.zeros(1, 3, 16, 16),), str(path), opset_version=17, dynamo=False,
        input_names=["x"], dynamic_axes={"x": {0: "n"}},
    )  # fmt: skip
    graph = compare(load_model(path), image(4, 3, 16, 16), rate=0.4)  # ties of the average travel
    assert [op.kind for op in graph.ops] == ["conv", "conv", "add", "avgpool", "conv"]
    assert graph.ops[0].flag("mask_hi")
    params = [op.str_attr("param") for op in graph.ops if op.kind == "conv"]
    assert params == ["conv.weight", "deep.weight", "fc.weight"]
    assert {op.name for op in import_model(path, "fc.*").ops if op.flag("trainable")} == {graph.ops[-1].name}


@pytest.mark.parametrize("opset", [13, 15, 18, 21, 23])
def test_opsets(opset: int) -> None:
    assert import_model(models.residual_net(opset=opset)).ops
    assert import_model(models.mobilenet_like(opset=opset)).ops


# -- operator by operator ---------------------------------------------------------------------------------------------------


def unary(op: str, **attrs: Any) -> Callable[[Net, str], str]:
    return lambda net, x: net.node(op, x, **attrs)


def by_const(op: str, value: Any, left: bool = False) -> Callable[[Net, str], str]:
    def build(net: Net, x: str) -> str:
        c = net.const(value)
        return net.node(op, c, x) if left else net.node(op, x, c)

    return build


CHANNEL = np.array([0.5, -1.5, 1.0]).reshape(3, 1, 1)
OPERATORS: dict[str, Callable[[Net, str], str]] = {
    "conv": lambda net, x: net.conv(x, 3, 5, pads=[1, 0, 2, 1], strides=[2, 1]),
    "conv dilated": lambda net, x: net.conv(x, 3, 4, dilations=[2, 2], pads=[2] * 4),
    "conv same upper": lambda net, x: net.conv(x, 3, 4, 2, auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv same lower": lambda net, x: net.conv(x, 3, 4, 2, auto_pad="SAME_LOWER"),
    "conv valid": lambda net, x: net.conv(x, 3, 4, auto_pad="VALID"),
    "conv depthwise x2": lambda net, x: net.conv(x, 3, 6, group=3, pads=[1] * 4),
    "conv grouped": lambda net, x: net.conv(net.q(net.conv(x, 3, 4, 1)), 4, 6, group=2),
    "conv float bias": lambda net, x: net.node("Conv", x, net.weight((4, 3, 1, 1)), net.const([0.5, -0.25, 0.1, 0])),
    "conv uint8 weights around 128": lambda net, x: net.node("Conv", x, net.weight((4, 3, 3, 3), dtype=np.uint8, zero=128)),
    "conv per-tensor weights": lambda net, x: net.node("Conv", x, net.weight((4, 3, 3, 3), axis=None)),
    "conv relu": lambda net, x: net.node("Relu", net.conv(x, 3, 4)),
    "conv clip": lambda net, x: net.node("Clip", net.conv(x, 3, 4), net.const(-0.5), net.const(0.75)),
    "conv clip by min and max": lambda net, x: net.node(
        "Min", net.const(0.75), net.node("Max", net.conv(x, 3, 4), net.const(-0.5))
    ),
    "conv add constant": lambda net, x: net.node("Add", net.conv(x, 3, 4), net.const(np.arange(4).reshape(1, 4, 1, 1) / 4)),
    "conv batch norm": lambda net, x: net.node(
        "BatchNormalization", net.conv(x, 3, 4), *(net.const(v) for v in ([1, 2, 0.5, 1], [0.1] * 4, [0.2] * 4, [0.9, 1, 1.1, 2]))
    ),
    "relu": unary("Relu"),
    "clip low": lambda net, x: net.node("Clip", x, net.const(-0.3)),
    "clip high": lambda net, x: net.node("Clip", x, "", net.const(0.3)),
    "add": lambda net, x: net.node("Add", x, net.q(net.conv(x, 3, 3, 1), 0.03, 7)),
    "add itself": lambda net, x: net.node("Add", x, x),
    "add relu": lambda net, x: net.node("Relu", net.node("Add", x, net.q(net.conv(x, 3, 3, 1), 0.03, 7))),
    "add constant": by_const("Add", CHANNEL),
    "sub constant": by_const("Sub", 0.25),
    "constant minus": by_const("Sub", CHANNEL, left=True),
    "mul scalar": by_const("Mul", 0.7),
    "mul channels": by_const("Mul", CHANNEL),
    "div": by_const("Div", CHANNEL * 2),
    "scale and shift": lambda net, x: net.node("Add", net.node("Mul", x, net.const(CHANNEL)), net.const(0.1)),
    "batch norm alone": lambda net, x: net.node(
        "BatchNormalization", x, *(net.const(v) for v in ([1, -2, 0.5], [0.1] * 3, [0.2] * 3, [0.9, 1, 1.1]))
    ),
    "max pool": unary("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0]),
    "max pool ceil": unary("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "max pool behind conv": lambda net, x: net.node("MaxPool", net.conv(x, 3, 4), kernel_shape=[2, 2]),
    "global max pool": unary("GlobalMaxPool"),
    "average pool": unary("AveragePool", kernel_shape=[3, 3], strides=[1, 2]),
    "average pool counting pads": unary("AveragePool", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
    "global average pool": unary("GlobalAveragePool"),
    "reduce mean": unary("ReduceMean", axes=[2, 3], keepdims=1),
    "reduce mean of rows": unary("ReduceMean", axes=[3], keepdims=1),
    "resize nearest": lambda net, x: net.node(
        "Resize", x, "", "", net.const([1, 3, 9, 21], np.int64), coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    ),
    "resize nearest x2 half pixel": lambda net, x: net.node("Resize", x, "", net.const([1, 1, 2, 2])),
    "resize linear": lambda net, x: net.node("Resize", x, "", net.const([1, 1, 2, 2]), mode="linear"),
    "expand": lambda net, x: net.node(
        "Mul", x, net.node("Expand", net.q(net.node("GlobalAveragePool", x), 0.005, 3), net.const([1, 1, 6, 6], np.int64))
    ),
    "expand of rows": lambda net, x: net.node(
        "Expand", net.q(net.node("ReduceMean", x, axes=[2], keepdims=1), 0.01), net.const([6, 1], np.int64)
    ),
    "concat": lambda net, x: net.node("Concat", x, net.q(net.conv(x, 3, 2, 1), 0.03, 7), x, axis=1),
    "concat of unquantised": lambda net, x: net.node("Concat", net.conv(x, 3, 2, 1), x, axis=1),
    "pad": lambda net, x: net.node("Pad", x, net.const([0, 0, 1, 0, 0, 0, 2, 1], np.int64)),
    "transposes that cancel": lambda net, x: net.node(
        "Transpose", net.node("Relu", net.node("Transpose", x, perm=[0, 2, 3, 1])), perm=[0, 3, 1, 2]
    ),
    "matmul on channels last": lambda net, x: net.node(
        "Transpose", net.node("MatMul", net.node("Transpose", x, perm=[0, 2, 3, 1]), net.weight((3, 4), 1)), perm=[0, 3, 1, 2]
    ),
    "noise": lambda net, x: net.node(
        "Relu", net.node("Identity", net.node("Cast", net.node("Dropout", x), to=TensorProto.FLOAT))
    ),
}


@pytest.mark.parametrize("zero", [0, -128, 5])
@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name: str, zero: int) -> None:
    net = Net(opset=17)
    x = net.q("x", 0.011, zero)
    out = OPERATORS[name](net, x)
    image_ = image() if zero != -128 else np.abs(image()) * 2
    if name == "resize nearest":
        image_ = image_[:1]  # its sizes state a batch of 1
    # true ties: halves of averages and of interpolation, where float32 scales fall to either side
    rate = 0.1 if any(w in name for w in ("average", "mean", "linear")) else 0.02
    compare(net.model(net.q(out, 0.017, -3)), image_, rate=rate)


VECTORS: dict[str, Callable[[Net, str], str]] = {
    "flatten gemm": lambda net, x: net.node("Gemm", net.node("Flatten", x), net.weight((108, 7), 1), net.const(np.arange(7) / 7)),
    "gemm alpha beta": lambda net, x: net.node(
        "Gemm", net.node("Flatten", x), net.weight((108, 7), 1), net.const(np.arange(7) / 7), alpha=0.6, beta=-1.5
    ),
    "reshape gemm transB": lambda net, x: net.node(
        "Gemm", net.node("Reshape", x, net.const([0, -1], np.int64)), net.weight((7, 108), 0), transB=1
    ),
    "shape arithmetic": lambda net, x: net.node(
        "MatMul",
        net.node(
            "Reshape", x,
            net.node(
                "Concat",
                net.node("Unsqueeze", net.node("Gather", net.node("Shape", x), net.const(0, np.int64)), net.const([0], np.int64)),
                net.const([-1], np.int64), axis=0,
            ),
        ),
        net.weight((108, 7), 1),
    ),
    "matmul add": lambda net, x: net.node("Add", net.node("MatMul", net.node("Flatten", x), net.weight((108, 7), 1)), net.const(np.arange(7))),
    "channels last flatten": lambda net, x: net.node(
        "Gemm", net.node("Flatten", net.node("Transpose", x, perm=[0, 2, 3, 1])), net.weight((108, 7), 1)
    ),
    "flatten relu scale": lambda net, x: net.node(
        "MatMul", net.q(net.node("Mul", net.node("Relu", net.node("Flatten", x)), net.const(np.linspace(0.5, 1, 108))), 0.01), net.weight((108, 7), 1)
    ),
    "weight transposed in the graph": lambda net, x: net.node(
        "MatMul", net.node("Flatten", x), net.node("Transpose", net.weight((7, 108), 0), perm=[1, 0])
    ),
    "weight quantised in the graph": lambda net, x: net.node("MatMul", net.node("Flatten", x), _quantised(net)),
    "gemm transA": lambda net, x: net.node(
        "Gemm", net.node("Transpose", net.node("Flatten", x), perm=[1, 0]), net.weight((108, 7), 1), transA=1
    ),
    "squeeze": lambda net, x: net.node(
        "Gemm", net.node("Squeeze", net.q(net.node("GlobalAveragePool", x), 0.01), net.const([2, 3], np.int64)), net.weight((3, 7), 1, scale=0.05)
    ),
    "mean without dims": lambda net, x: net.node(
        "Gemm", net.q(net.node("ReduceMean", x, axes=[2, 3], keepdims=0), 0.01), net.weight((3, 7), 1, scale=0.05)
    ),
    "pool, flatten, then quantise": lambda net, x: net.node(
        "Gemm", net.q(net.node("Flatten", net.node("GlobalAveragePool", x)), 0.01), net.weight((3, 7), 1, scale=0.05)
    ),
}  # fmt: skip


def _quantised(net: Net) -> str:
    w, s, z = net.const(net.rng.normal(size=(108, 7))), *net.quant(0.02, 0, np.int8)
    return net.node("DequantizeLinear", net.node("QuantizeLinear", w, s, z), s, z)


@pytest.mark.parametrize("move", ["flatten", "pool", "pad"])
def test_moves_of_the_real_input(move: str) -> None:
    """What moves elements in front of the first QuantizeLinear, as quantize_static writes an MLP."""
    net = Net()
    x = {
        "flatten": lambda: net.node("Flatten", "x"),
        "pool": lambda: net.node("Flatten", net.node("MaxPool", "x", kernel_shape=[2, 2])),
        "pad": lambda: net.node("Flatten", net.node("Pad", "x", net.const([0, 0, 1, 0, 0, 0, 0, 1], np.int64))),
    }[move]()
    size = {"flatten": 108, "pool": 75, "pad": 147}[move]
    compare(net.model(net.q(net.node("Gemm", net.q(x, 0.011, 5), net.weight((size, 7), 1)), 0.05, 3)), image())


@pytest.mark.parametrize("name", VECTORS)
def test_operator_on_vectors(name: str) -> None:
    net = Net()
    out = VECTORS[name](net, net.q("x", 0.011, 5))
    pooled = any(w in name for w in ("squeeze", "mean", "pool"))  # ties of the average travel through the Gemm
    graph = compare(net.model(net.q(out, 0.05, 3)), image(), rate=0.3 if pooled else 0.02)
    assert graph.type(graph.outputs[0]).shape == (1, 1, 7)


def test_one_result_quantised_twice_alike_is_computed_once() -> None:
    net = Net()
    y = net.conv(x_of(net), 3, 4)
    graph = compare(net.model(net.q(net.node("Add", net.q(y, 0.03), net.q(y, 0.03)), 0.06)), image())
    assert [op.kind for op in graph.ops] == ["conv", "add"]


@pytest.mark.parametrize("batch", [1, 4])
def test_fixed_batch(batch: int) -> None:
    net = Net((batch, 3, 6, 6))
    flat = net.node("Reshape", net.q("x", 0.011, 5), net.const([batch, 108], np.int64))
    graph = compare(net.model(net.q(net.node("MatMul", flat, net.weight((108, 7), 1)), 0.05, 3)), image()[:batch])
    assert graph.type(graph.outputs[0]).shape == (1, 1, 7)


def test_channels_last_input() -> None:
    net = Net(("n", 6, 5, 3))
    x = net.node("Transpose", net.q("x", 0.011, 5), perm=[0, 3, 1, 2])
    y = net.node("Transpose", net.q(net.conv(x, 3, 4), 0.03), perm=[0, 2, 3, 1])
    graph = compare(net.model(y), image(4, 6, 5, 3), last=False)
    assert graph.type("x").shape == (6, 5, 3)


@pytest.mark.parametrize("end", ["softmax", "quantised softmax", "argmax", "softmax argmax"])
def test_the_end_of_a_network(end: str) -> None:
    net = Net()
    logits = net.q(net.node("Gemm", net.node("Flatten", net.q("x", 0.011, 5)), net.weight((108, 7), 1)), 0.05)
    out = logits if end == "argmax" else net.node("Softmax", logits, axis=1)
    if end == "quantised softmax":
        out = net.q(out, 1 / 256, -128)
    if "argmax" in end:
        out = net.node("ArgMax", out, axis=1, keepdims=0)
    model = net.model(out, dtype=TensorProto.INT64 if "argmax" in end else TensorProto.FLOAT)
    graph = import_model(model)
    env = interp.run(graph, {"x": interp.quantize_input(graph, image().transpose(0, 2, 3, 1))})
    want = run_ort(model, image())[0]
    got = env[graph.outputs[0]].reshape(4, -1)
    if "argmax" in end:
        assert np.array_equal(got.ravel(), want.ravel())
        assert graph.ops[-1].kind == "argmax"
    else:
        assert np.array_equal(got.argmax(1), want.argmax(1))
        assert [op.kind for op in graph.ops] == ["reshape", "conv"]
    ends = [port.get("end", "") for port in json.loads(graph.notes["outputs"])]
    assert ends == ["softmax" if end in ("softmax", "quantised softmax") else ""]


def qoperator(net: Net, op: str, *inputs: str, out: tuple[float, int] = (0.02, 3), **attrs: Any) -> str:
    return net.node(op, *inputs, *net.quant(out[0], out[1], np.uint8), domain="com.microsoft", **attrs)


def test_qoperator_forms() -> None:
    """One chain of operators that onnxruntime's QOperator format writes, beside those of quantize_static's test."""
    net = Net()
    first = net.quant(0.011, 100, np.uint8)
    x = net.node("QuantizeLinear", "x", *first)
    w = [
        net.const(net.rng.integers(-127, 128, (4, 3, 3, 3)), np.int8),
        net.const(np.full(4, 0.01)),
        net.const(np.zeros(4), np.int8),
    ]
    bias = net.const([1000, -2000, 300, 0], np.int32)
    a = net.quant(0.03, 90, np.uint8)
    y = net.node("QLinearConv", x, *first, *w, *a, bias, pads=[1] * 4)
    b = net.quant(0.02, 100, np.uint8)
    z = net.node("com.microsoft.QLinearAveragePool"[14:], y, *a, *b, domain="com.microsoft", kernel_shape=[2, 2], strides=[2, 2])
    z = qoperator(net, "QLinearAdd", z, *b, z, *b, out=(0.04, 100))
    c = net.quant(0.04, 100, np.uint8)
    z = qoperator(net, "QLinearMul", z, *c, net.const(50, np.uint8), *net.quant(0.02, 0, np.uint8), out=(0.04, 100))
    z = net.node("MaxPool", z, kernel_shape=[2, 2])
    d = net.quant(0.05, 110, np.uint8)
    z = net.node("QLinearConcat", *d, z, *c, z, *c, domain="com.microsoft", axis=1)
    z = net.node("Flatten", net.node("QLinearGlobalAveragePool", z, *d, *b, domain="com.microsoft", channels_last=0))
    m = [net.const(net.rng.integers(-127, 128, (8, 6)), np.int8), *net.quant(0.02, 0, np.int8)]
    e = net.quant(0.02, 128, np.uint8)
    z = net.node("QLinearMatMul", z, *b, *m, *e)
    g = [net.const(net.rng.integers(-127, 128, (5, 6)), np.int8), net.const(np.full(5, 0.01)), net.const(np.zeros(5), np.int8)]
    z = net.node("QGemm", z, *e, *g, net.const(np.arange(5) * 100, np.int32), *e, domain="com.microsoft", transB=1)
    model = net.model(net.node("DequantizeLinear", z, *e))
    graph = compare(model, image(), rate=0.3)  # ten layers in a row; ties of the pools travel
    kinds = [op.kind for op in graph.ops]
    assert kinds.count("conv") == 3
    assert {"avgpool", "add", "rescale", "maxpool", "concat"} <= set(kinds)


def test_integer_input() -> None:
    net = Net(("n", 3, 6, 6))
    s, z = net.quant(0.02, 7, np.uint8)
    x = net.node("DequantizeLinear", "x", s, z)
    model = net.model(net.q(net.conv(x, 3, 4), 0.05), input_type=TensorProto.UINT8)
    graph = import_model(model)
    q = np.random.default_rng(0).integers(0, 256, (2, 3, 6, 6)).astype(np.uint8)
    got = interp.run(graph, {"x": q.transpose(0, 2, 3, 1)})[graph.outputs[0]]
    assert graph.type("x").quant == ("u8", float(np.float32(0.02)), 7)
    assert np.array_equal(got.transpose(0, 3, 1, 2), np.rint(run_ort(model, q)[0] / np.float32(0.05)))


def test_the_model_is_not_changed() -> None:
    model = models.mobilenet_like()
    before = model.SerializeToString(deterministic=True)
    check_model(model)
    import_model(model)
    assert model.SerializeToString(deterministic=True) == before


def test_report_of_a_good_model_says_what_maps_where() -> None:
    report = check_model(models.mobilenet_like())
    assert report.ok
    assert {n for m in report.mapped for n in m.nodes} >= {"stem", "block0_dw", "gap", "head"}
    assert sum(m.trainable for m in report.mapped) == 5
    assert f"all {report.nodes} nodes are supported" in str(report)


# -- what is not supported --------------------------------------------------------------------------------------------------


def build(f: Callable[[Net], str], **options: Any) -> onnx.ModelProto:
    net = Net(**options)
    return net.model(f(net))


def x_of(net: Net) -> str:
    return net.q("x", 0.02, 5)


def bad_scale(value: float) -> Callable[[Net], str]:
    return lambda net: net.q(net.conv(x_of(net), 3, 4), value)


def broken_weight(**changes: Any) -> Callable[[Net], str]:
    return lambda net: net.q(net.node("Conv", x_of(net), net.weight((4, 3, 3, 3), **changes)))


UNSUPPORTED: dict[str, tuple[Callable[[Net], str], str, str]] = {
    "normalisation": (
        lambda n: n.q(n.node("InstanceNormalization", x_of(n), n.const(np.ones(3)), n.const(np.zeros(3)))), "operator is not supported",
        "no equal form is known",
    ),
    "typo": (lambda n: n.q(n.node("MaxPol", x_of(n))), "operator is not supported", "did you mean"),
    "other domain": (lambda n: n.q(n.node("Foo", x_of(n), domain="com.example")), "operator is not supported", "on the host"),
    "no quantize between": (
        lambda n: n.q(n.node("Add", n.conv(x_of(n), 3, 3, 1), n.conv(x_of(n), 3, 3, 1))), "no range of it is known", "--calibrate"
    ),
    "conv on conv": (lambda n: n.q(n.conv(n.conv(x_of(n), 3, 4), 4, 4)), "conv reads 't", "--calibrate"),
    "input not quantised": (lambda n: n.q(n.conv("x", 3, 4)), "reads 'x', which is not quantised", "--calibrate"),
    "output not quantised": (lambda n: n.conv(x_of(n), 3, 4), "which is not quantised", "sasc quantize"),
    "float weights": (lambda n: n.q(n.node("Conv", x_of(n), n.const(np.ones((4, 3, 3, 3))))), "is not quantised", "quantise weights"),
    "weights as input": (lambda n: n.q(n.node("Conv", x_of(n), x_of(n))), "is not a constant", "initialiser"),
    "nan scale": (bad_scale(np.nan), "is NaN or infinite", "calibrate again"),
    "infinite scale": (bad_scale(np.inf), "is NaN or infinite", "calibrate again"),
    "zero scale": (bad_scale(0.0), "is zero or negative", "calibrate again"),
    "negative scale": (bad_scale(-0.5), "is zero or negative", "calibrate again"),
    "tiny output scale": (bad_scale(1e-30), "too large", "calibrate again"),
    "computed scale": (
        lambda n: n.node("QuantizeLinear", "x", n.node("GlobalAveragePool", "x"), n.const(0, np.int8)), "is not a constant", "static"
    ),
    "int16 activations": (
        lambda n: n.node("QuantizeLinear", "x", *n.quant(0.1, 0, np.int16)), "zero point has type int16", "8 bits"
    ),
    "per-channel activations": (
        lambda n: n.node("QuantizeLinear", "x", n.const([0.1] * 3), n.const([0, 1, 0], np.int8)), "different zero points", "per tensor"
    ),
    "two scales for one tensor": (
        lambda n: n.q(n.node("DequantizeLinear", n.node("QuantizeLinear", "x", *n.quant(0.1, 0, np.int8)), *n.quant(0.2, 0, np.int8))),
        "which was written with 0.1", "same quantisation",
    ),
    "weights along inputs": (broken_weight(axis=1), "weights are quantised along axis 1", "axis 0"),
    "wrong channels": (lambda n: n.q(n.conv(x_of(n), 6, 4)), "does not fit 3 input channels", ""),
    "wrong group": (lambda n: n.q(n.node("Conv", x_of(n), n.weight((4, 3, 3, 3)), group=3)), "does not fit 3 input channels", ""),
    "kernel too large": (lambda n: n.q(n.conv(x_of(n), 3, 4, 9)), "larger than its padded input", ""),
    "bias nan": (
        lambda n: n.q(n.node("Conv", x_of(n), n.weight((2, 3, 1, 1)), n.const([np.nan, 0]))), "NaN or infinite", "repair"
    ),
    "bias too large": (
        lambda n: n.q(n.node("Conv", x_of(n), n.weight((2, 3, 1, 1)), n.const([1e30, 0]))), "more than 32 bits", "calibrate"
    ),
    "bias length": (lambda n: n.q(n.node("Conv", x_of(n), n.weight((4, 3, 1, 1)), n.const([1.0, 2.0]))), "bias of shape (2,)", ""),
    "alpha": (
        lambda n: n.q(n.node("Gemm", n.node("Flatten", x_of(n)), n.weight((108, 7), 1), alpha=-0.5)), "alpha = -0.5", "fold them"
    ),
    "matrices": (lambda n: n.q(n.node("MatMul", x_of(n), n.node("GlobalAveragePool", x_of(n)))), "multiplies [1, 3, 6, 6]", "last two axes"),
    "left operand": (lambda n: n.q(n.node("MatMul", n.weight((6, 6), 1), x_of(n))), "the constant is the left operand", "transpose"),
    "quotient of activations": (lambda n: n.q(n.node("Div", x_of(n), n.node("Transpose", x_of(n), perm=[0, 1, 3, 2]))), "divides", "same order"),
    "plane of no numbers": (lambda n: n.q(n.node("Mul", x_of(n), n.const(np.full((6, 6), np.nan) * np.arange(6)))), "NaN", "repair"),
    "division by zero": (lambda n: n.q(n.node("Div", x_of(n), n.const(0.0))), "by zero", ""),
    "dilated pool": (lambda n: n.q(n.node("MaxPool", x_of(n), kernel_shape=[2, 2], dilations=[2, 2])), "dilations", "on the host"),
    "cubic": (lambda n: n.q(n.node("Resize", x_of(n), "", n.const([1, 1, 2, 2]), mode="cubic")), "mode 'cubic'", "on the host"),
    "linear x3": (lambda n: n.q(n.node("Resize", x_of(n), "", n.const([1, 1, 3, 3]), mode="linear")), "linear resize 6 x 6 -> 18", "on the host"),
    "nearest rounding": (
        lambda n: n.q(n.node("Resize", x_of(n), "", n.const([1, 1, 1.5, 1.5]), nearest_mode="ceil")), "nearest resize 6 -> 9 with 'half_pixel'", "on the host"
    ),
    "expand of channels": (
        lambda n: n.q(n.node("Expand", n.q(n.conv(x_of(n), 3, 1)), n.const([1, 3, 4, 4], np.int64))), "expands [1, 1, 4, 4] to [1, 3, 4, 4]", "Mul broadcast"
    ),
    "an operator whose name is like another's": (lambda n: n.q(n.node("Sinh", x_of(n))), "not supported", "no equal form"),
    "huge resize": (lambda n: n.q(n.node("Resize", x_of(n), "", n.const([1, 1, 60000, 60000]))), "would have shape", "check the shapes"),
    "random constant": (
        lambda n: n.q(n.node("Mul", x_of(n), n.node("Bernoulli", n.const([0.5])))), "constant expression", "fold constants"
    ),
    "reflect": (lambda n: n.q(n.node("Pad", x_of(n), n.const([0, 0, 1, 1, 0, 0, 1, 1], np.int64), mode="reflect")), "mode 'reflect'", ""),
    "pad value": (
        lambda n: n.q(n.node("Pad", x_of(n), n.const([0, 0, 1, 1, 0, 0, 1, 1], np.int64), n.const(1.0))), "pads with 1", "real zero"
    ),
    "concat of different heights": (
        lambda n: n.q(n.node("Concat", x_of(n), n.q(n.conv(x_of(n), 3, 3)), axis=1)), "joins along axis 1", "same height"
    ),
    "mixing reshape": (
        lambda n: n.q(n.node("Reshape", x_of(n), n.const([0, 12, 3, 3], np.int64))), "mixing channels and positions", "whole axes"
    ),
    "batch reshape": (lambda n: n.q(n.node("Reshape", x_of(n), n.const([-1, 3], np.int64))), "no axis of its batch", "batch as the first axis"),
    "softmax in the middle": (
        lambda n: n.q(n.conv(n.q(n.node("Softmax", n.node("GlobalAveragePool", n.q(x_of(n))), axis=1)), 3, 4, 1)), "", "softmax"
    ),
    "3-D convolution": (
        lambda n: n.q(n.node("Conv", n.node("Reshape", x_of(n), n.const([0, 3, 6, 3, 2], np.int64)), n.weight((4, 3, 3, 3, 1)))), "laid out", "2-D"
    ),
    "adds integers": (
        lambda n: n.node("Add", n.node("QuantizeLinear", "x", *n.quant(0.1, 0, np.int8)), n.const(1, np.int8)), "stored integers", "DequantizeLinear"
    ),
    "dropout in training": (
        lambda n: n.q(n.node("Dropout", x_of(n), n.const(0.5), n.const(True, np.bool_))), "training_mode", "evaluation"
    ),
    "malformed attribute": (lambda n: n.q(n.node("Transpose", x_of(n), perm=[0, 1, 2, 9])), "perm [0, 1, 2, 9]", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_is_not_supported_is_reported_with_a_rewrite(case: str) -> None:
    make, reason, rewrite = UNSUPPORTED[case]
    model = build(make)
    report = check_model(model)
    assert not report.ok
    text = str(report).lower()
    assert reason.lower() in text
    assert rewrite.lower() in text
    assert "traceback" not in text
    named = {n.name for n in model.graph.node} | {o.name for o in model.graph.output} | {"x"}
    assert all(f.node in named for f in report.findings), report.findings
    with pytest.raises(SasError) as e:
        import_model(model)
    assert reason.lower() in str(e.value).lower()


def test_the_report_is_complete() -> None:
    """Five independent obstacles, one behind the other, are all listed at once."""
    net = Net()
    x = net.q(net.node("Hardmax", x_of(net), name="first"))
    x = net.q(net.node("MaxPool", x, kernel_shape=[2, 2], dilations=[2, 2], name="second"))
    x = net.q(net.node("Conv", x, net.weight((4, 3, 3, 3), axis=1), name="third"), np.nan)
    x = net.q(net.node("Relu", net.conv(net.q(x), 5, 4, 1, name="fourth")))
    report = check_model(net.model(net.q(net.node("LpNormalization", x, name="fifth"))))
    nodes = [f.node for f in report.findings]
    assert {"first", "second", "third", "fourth", "fifth"} <= set(nodes)
    with pytest.raises(DiagnosticsError) as e:
        import_model(net.model(x))
    assert len(e.value.diagnostics) >= 3


def test_the_float_side_of_a_sum_has_the_range_that_the_sum_tells_apart() -> None:
    """Q/DQ in front of weighted layers only: what lies outside saturates the sum's own quantisation whatever the other side is."""
    net = Net(("n", 3, 6, 6))
    x = net.q(net.node("Relu", net.conv(net.q("x", 0.011, 5), 3, 4, pads=[1] * 4)), 0.02, -128)
    side = net.conv(x, 4, 4, pads=[1] * 4)
    model = net.model(net.q(net.node("Relu", net.node("Add", side, x)), 0.04, -128))
    graph = import_model(model)
    assert [op.kind for op in graph.ops] == ["conv", "conv", "add"]
    assert json.loads(graph.notes["placed"]) == {side: side}
    t = graph.type(side)  # x reaches 0.02 * 255, the sum 0.04 * 255
    assert t.scale * np.subtract([-128, 127], t.zero) == pytest.approx([-0.02 * 255, 0.04 * 255], abs=t.scale)
    stored = interp.quantize_input(graph, image().transpose(0, 2, 3, 1))
    want = np.rint(run_ort(model, image())[0] / np.float32(0.04)).transpose(0, 2, 3, 1)
    off = interp.run(graph, {"x": stored})[graph.outputs[0]] - want
    assert np.abs(off).max() <= 2
    assert np.abs(off).mean() < 0.3


def test_the_report_looks_behind_everything() -> None:
    """An unknown quantised operator, a reshape that cuts axes, a constant in a Concat: what stands behind them is listed too."""
    net = Net(("n", 3, 6, 6))
    a, b = net.quant(0.02, 100, np.uint8), net.quant(1 / 256, 0, np.uint8)
    x = net.node("QuantizeLinear", "x", *a)
    x = net.node("DequantizeLinear", net.node("QLinearHardmax", x, *a, *b, domain="com.microsoft", name="first"), *b)
    x = net.node("Reshape", net.q(net.node("Hardmax", x, name="second")), net.const([0, 4, 27], np.int64), name="third")
    x = net.node("Concat", x, net.const(np.full((1, 1, 27), np.inf)), axis=1, name="fourth")
    x = net.q(net.node("LpNormalization", net.q(x), name="fifth"))
    x = net.q(net.node("Foo", x, domain="com.example", name="sixth"))
    report = check_model(net.model(net.q(net.node("Hardmax", x, name="seventh"))))
    assert {"first", "second", "third", "fourth", "fifth", "sixth", "seventh"} <= {f.node for f in report.findings}


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (("n", 3, "h", "w"), "only the batch may be symbolic"),
        (("n", 3, 6, 2, 2), "has rank 5"),
        (("n", 3, 2**21, 2**21), "would have shape"),
        (("n", 0, 6, 6), "has shape"),
    ],
)
def test_input_shapes(shape: tuple[Any, ...], reason: str) -> None:
    net = Net(shape)
    model = net.model(net.q(net.node("Relu", net.q("x"))))
    with pytest.raises(SasError, match=reason):
        import_model(model)


# -- bad files ----------------------------------------------------------------------------------------------------------------


def good() -> onnx.ModelProto:
    return models.mlp()


def external(model: onnx.ModelProto, location: str, **info: Any) -> onnx.ModelProto:
    tensor = next(t for t in model.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 2)
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": 0, "length": size, **info}.items():
        tensor.external_data.add(key=key, value=str(value))
    return model


def edited(f: Callable[[onnx.ModelProto], None]) -> bytes:
    model = good()
    f(model)
    return model.SerializeToString()


def cyclic(model: onnx.ModelProto) -> None:
    first = next(n for n in model.graph.node if n.op_type == "Gemm")
    last = next(n for n in reversed(model.graph.node) if n.op_type == "Gemm")
    first.input[0] = last.output[0]


def shaped(dims: Sequence[int]) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if len(t.dims) == 2)
        del tensor.dims[:]
        tensor.dims.extend(dims)

    return change


def twice(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = model.graph.node[0].output[0]


def dangling(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "ghost"


def old(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 11


def future(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 999


def bad_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("nonsense", 3))


BAD_FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "the file is empty"),
    "truncated": (lambda: good().SerializeToString()[:-200], "not an ONNX model, or cut off"),
    "text": (lambda: b"this is not a model\n" * 50, "not an ONNX model"),
    "picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(100), "not an ONNX model"),
    "no graph": (lambda: onnx.ModelProto(ir_version=8).SerializeToString(), "no graph in it"),
    "no nodes": (lambda: edited(lambda m: m.graph.ClearField("node")), "the graph has no nodes"),
    "no output": (lambda: edited(lambda m: m.graph.ClearField("output")), "the graph has no output"),
    "no opset": (lambda: edited(lambda m: m.ClearField("opset_import")), "imports no default operator set"),
    "old opset": (lambda: edited(old), "operator set 11 is not supported"),
    "future opset": (lambda: edited(future), "operator set 999 is not supported"),
    "cycle": (lambda: edited(cyclic), "the graph has a cycle through"),
    "undefined": (lambda: edited(dangling), "reads 'ghost', which nothing defines"),
    "defined twice": (lambda: edited(twice), "is defined twice"),
    "short tensor": (lambda: edited(shaped([999, 999])), "needs 998001 bytes, the file has"),
    "huge tensor": (lambda: edited(shaped([2**40, 2**20])), "not a sensible size"),
    "negative tensor": (lambda: edited(shaped([-4, 5])), "not a sensible size"),
    "bad attribute": (lambda: edited(bad_attribute), "breaks the ONNX standard"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(case: str, tmp_path: Path) -> None:
    make, message = BAD_FILES[case]
    path = tmp_path / "bad.onnx"
    path.write_bytes(make())
    with pytest.raises(SasError) as e:
        load_model(path)
    assert message in str(e.value)
    assert str(path) in str(e.value)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(SasError, match="no such file"):
        load_model(tmp_path / "missing.onnx")
    with pytest.raises(SasError, match="is a folder"):
        load_model(tmp_path)
    with pytest.raises(SasError, match="cannot be read"):
        load_model("a\0b.onnx")


@pytest.mark.parametrize(
    ("location", "info", "message"),
    [
        ("../secret.bin", {}, "lies outside the model's folder"),
        ("sub/../../secret.bin", {}, "lies outside the model's folder"),
        ("/etc/hostname", {}, "is not a path relative to the model"),
        ("", {}, "is not a path relative to the model"),
        ("link.bin", {}, "lies outside the model's folder"),
        ("missing.bin", {}, "cannot be read"),
        ("data.bin", {"length": 10**9}, "are asked for"),
        ("data.bin", {"offset": -5}, "are asked for"),
        ("data.bin", {"offset": "x"}, "bad offset or length"),
    ],
)
def test_external_data_stays_in_the_folder(location: str, info: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    (folder / "data.bin").write_bytes(bytes(100))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "m.onnx").write_bytes(external(good(), location, **info).SerializeToString())
    with pytest.raises(SasError, match=message):
        load_model(folder / "m.onnx")


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    model = good()
    tensor = next(t for t in model.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 2)
    (tmp_path / "w.bin").write_bytes(b"xxxx" + tensor.raw_data)
    (tmp_path / "m.onnx").write_bytes(external(good(), "w.bin", offset=4).SerializeToString())
    assert import_model(load_model(tmp_path / "m.onnx")).same(import_model(model))


def test_unsorted_nodes_are_put_in_order(tmp_path: Path) -> None:
    model = good()
    nodes = list(model.graph.node)[::-1]
    want = import_model(model)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    got = import_model(tmp_path / "m.onnx")
    assert [op.name for op in got.ops] == [op.name for op in want.ops]


def test_every_byte_flip_gives_a_model_or_an_error(tmp_path: Path) -> None:
    """Damaged files never crash the importer."""
    data = models.mlp(sizes=(60, 50, 2)).SerializeToString()
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            damaged[at] = int(rng.integers(0, 256))
        (tmp_path / "m.onnx").write_bytes(bytes(damaged))
        try:
            import_model(tmp_path / "m.onnx")
            outcomes.add("model")
        except SasError:
            outcomes.add("error")
    assert outcomes == {"model", "error"}


def test_metadata_travels() -> None:
    model = models.mobilenet_like()
    model.metadata_props.add(key="sasimc.preprocess", value=json.dumps({"mean": [0.5], "std": [0.5], "size": 16}))
    assert json.loads(import_model(model).notes["sasimc.preprocess"])["size"] == 16


def test_constant_expressions_are_computed_whatever_they_are() -> None:
    """Positions of EdgeNeXt: sums along an axis, sines, a convolution of constants; onnxruntime computes them as it does everything."""

    def make(n: Net) -> str:
        ramp = n.node("CumSum", n.const(np.ones((1, 2, 4, 5), np.float32)), n.const(3, np.int64))
        waves = n.node("Concat", n.node("Sin", ramp), n.node("Cos", ramp), axis=1)
        places = n.node("Conv", waves, n.const(np.random.default_rng(0).normal(size=(3, 4, 1, 1)).astype(np.float32)))
        return n.q(n.node("Add", n.q("x", 0.02), places), 0.05)

    net = Net(("n", 3, 4, 5))
    model = net.model(make(net))
    image = np.random.default_rng(1).uniform(-2, 2, (2, 3, 4, 5)).astype(np.float32)
    graph = import_model(model)
    got = interp.run(graph, {"x": interp.quantize_input(graph, image.transpose(0, 2, 3, 1))})[graph.outputs[0]]
    want = np.rint(run_ort(model, image)[0] / np.float32(0.05)).transpose(0, 2, 3, 1)
    assert np.abs(got - want).max() <= 1
    assert np.ptp(want) > 40
