"""Several inputs and outputs, by name and in the file's axes: Device.run against onnxruntime's run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from qdq_net import Net

from sasimc.api import CompileOptions, compile_model
from sasimc.cli import sasrun
from sasimc.cli.common import invoke
from sasimc.frontend.qdq_form import qdq_form
from sasimc.isa.errors import SasError
from sasimc.isa.files import save_program
from sasimc.isa.program import Program
from sasimc.runtime.device import Device

Arrays = dict[str, np.ndarray]


def program(model: onnx.ModelProto, **options: object) -> Program:
    return compile_model(model, CompileOptions(verify=True, batch=4, **options)).program  # type: ignore[arg-type]


def ort(model: onnx.ModelProto, feeds: Arrays) -> Arrays:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(qdq_form(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))  # type: ignore[arg-type]


def with_inputs(model: onnx.ModelProto, **shapes: tuple[int | str, ...]) -> onnx.ModelProto:
    model.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    return model


def segmenter(net: Net) -> tuple[str, ...]:
    """A softmax over the channels of a plane, a classifier's logits, their arg max, and a plane with its channels last."""
    x = net.q(net.node("Relu", net.conv(net.q("x", 0.02, 5), 3, 6, pads=[1] * 4)), 0.03, -128)
    plane = net.node("Softmax", net.q(net.conv(x, 6, 4, 1), 0.05), axis=1)
    logits = net.q(net.node("Gemm", net.node("Flatten", net.node("GlobalAveragePool", x)), net.weight((6, 5), 1)), 0.02)
    last = net.node("Transpose", net.q(net.conv(x, 6, 2, 1), 0.04, 3), perm=[0, 2, 3, 1])
    return plane, logits, net.node("ArgMax", logits, axis=1), last


def test_all_outputs_are_those_of_onnxruntime() -> None:
    net = Net()
    names = segmenter(net)
    model = net.model(*names)
    model.graph.output[2].type.tensor_type.elem_type = TensorProto.INT64
    device = Device(program(model), "fused")
    x = np.random.default_rng(1).uniform(-2, 2, (4, 3, 6, 6)).astype(np.float32)
    got, want = device.run(x), ort(model, {"x": x})
    assert tuple(got) == names
    for name, tolerance in zip(names, (0.04, 0.021, 0, 0.041), strict=True):
        assert got[name].shape == want[name].shape
        if name == names[2]:
            assert (got[name] == want[name]).mean() >= 0.75
            assert np.array_equal(got[name][:, 0], got[names[1]].argmax(1))
        else:
            assert np.abs(got[name] - want[name]).max() <= tolerance
            assert np.ptp(want[name]) > 5 * tolerance


@pytest.mark.parametrize("again", [False, True])
def test_a_flattened_plane_is_an_output(again: bool) -> None:
    """In the file's order, also where the elements are quantised once more behind the Flatten; the device numbers none of them."""
    net = Net()
    y = net.node("Flatten", net.q(net.conv(net.q("x", 0.02, 5), 3, 6, pads=[1] * 4), 0.05, 4))
    model = net.model(net.q(y, 0.06) if again else y)
    device = Device(program(model), "fused")
    x = np.random.default_rng(1).uniform(-2, 2, (2, 3, 6, 6)).astype(np.float32)
    (name, want), *_ = ort(model, {"x": x}).items()
    assert want.shape == (2, 6 * 6 * 6)
    assert np.abs(device.run(x)[name] - want).max() < (0.0601 if again else 0.0501)
    assert device.infer(x).classes.tolist() == [0, 0]


def test_inputs_by_name_also_from_a_file(tmp_path: Path) -> None:
    """Two pictures of different sizes and a vector; sasrun takes the arrays of an .npz by name and reports all outputs."""
    net = Net(("n", 3, 6, 6))
    a = net.node("Flatten", net.node("GlobalAveragePool", net.q(net.conv(net.q("x", 0.02, 5), 3, 6), 0.05)))
    b = net.node("Flatten", net.node("GlobalAveragePool", net.q(net.conv(net.q("small", 0.01, -3), 1, 4), 0.03, 2)))
    joined = net.q(net.node("Concat", net.q(a, 0.02), net.q(b, 0.02), net.q("extra", 0.02), axis=1), 0.02)
    first, second = (net.q(net.node("Gemm", joined, net.weight((15, n), 1)), 0.02) for n in (3, 4))
    model = with_inputs(net.model(first, second), small=("n", 1, 4, 5), extra=("n", 5))
    rng = np.random.default_rng(2)
    feeds = {
        name: rng.uniform(-1, 1, shape).astype(np.float32)
        for name, shape in (("x", (3, 3, 6, 6)), ("small", (3, 1, 4, 5)), ("extra", (3, 5)))
    }
    made = program(model)
    device = Device(made, "fused")
    got, want = device.run(feeds), ort(model, feeds)
    for name in (first, second):
        assert np.abs(got[name] - want[name]).max() <= 0.041
        assert np.ptp(want[name]) > 0.3
    with pytest.raises(SasError, match="no array for input 'extra'"):
        device.run({k: v for k, v in feeds.items() if k != "extra"})
    with pytest.raises(SasError, match="no input 'smal'"):
        device.run({**feeds, "smal": feeds["small"]})
    with pytest.raises(SasError, match="3 inputs"):
        device.infer(feeds["x"])
    save_program(made, tmp_path / "p.s")
    np.savez(tmp_path / "in.npz", **feeds)
    report = tmp_path / "r.json"
    assert (
        invoke(
            sasrun.app, [str(tmp_path / "p.s"), "--engine", "fused", "--input", str(tmp_path / "in.npz"), "--json", str(report)]
        )
        == 0
    )
    rows = json.loads(report.read_text())["predictions"]
    assert len(rows) == 3
    for i, row in enumerate(rows):
        assert np.allclose(row["outputs"][second], got[second][i])


def test_training_wants_one_output() -> None:
    net = Net()
    model = net.model(*segmenter(net)[1:])
    with pytest.raises(SasError, match="training needs one output"):
        program(model, trainable="Gemm*")


@pytest.mark.parametrize(
    ("shape", "front", "window"),
    [
        (("n", 12, 10), lambda n, x: n.node("Unsqueeze", x, n.const([1], np.int64)), (1, 12, 10)),
        (("n", 12, 10), lambda n, x: n.node("Reshape", x, n.const([0, 1, 12, 10], np.int64)), (1, 12, 10)),
        (("n", 72), lambda n, x: n.node("Reshape", x, n.const([-1, 2, 6, 6], np.int64)), (2, 6, 6)),
        (("n", 12, 10, 1), lambda n, x: n.node("Transpose", x, perm=[0, 3, 1, 2]), (1, 12, 10)),
        (
            ("n", 12, 10),
            lambda n, x: n.node("Transpose", n.node("Unsqueeze", x, n.const([3], np.int64)), perm=[0, 3, 1, 2]),
            (1, 12, 10),
        ),
    ],
)
def test_a_spectrogram_becomes_a_plane(shape: tuple[int | str, ...], front: object, window: tuple[int, int, int]) -> None:
    net = Net(shape)
    x = front(net, net.q("x", 0.02, 5))  # type: ignore[operator]
    model = net.model(net.q(net.conv(x, window[0], 4, pads=[1] * 4), 0.05))
    x = np.random.default_rng(3).uniform(-1, 1, (4, *shape[1:])).astype(np.float32)  # type: ignore[arg-type]
    (got,), (want,) = Device(program(model), "fused").run(x).values(), ort(model, {"x": x}).values()
    assert np.abs(got - want).max() <= 0.051
    assert np.ptp(want) > 1
