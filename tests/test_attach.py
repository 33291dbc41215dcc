"""`sasc attach`: where modules go in networks that are not ours, what stays as it was, and that the result trains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from round_trip import in_onnxruntime, infer, same_after_compiling

from sasimc.api import CompileOptions, compile_model
from sasimc.attach.attach import AttachOptions, attach
from sasimc.attach.places import examine, find_places, modules_of
from sasimc.export import export_onnx
from sasimc.frontend.check import check_model
from sasimc.frontend.load import load_model
from sasimc.isa.errors import SasError
from sasimc.quantise.quantise import quantise
from sasimc.quantise.samples import Samples, input_plane
from sasimc.runtime.device import Device
from sasimc.training.recipe import load_recipe
from sasimc.training.session_options import check_network
from sasimc.zoo.zoo import ZooOptions, build


class Float:
    """A float network, node by node, with names as PyTorch's exporter gives them."""

    def __init__(self, size: int, channels: int = 3) -> None:
        self.rng, self.size, self.channels = np.random.default_rng(3), size, channels
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"/net/{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def constant(self, value: np.ndarray) -> str:
        name = f"net.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def conv(self, x: str, cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> str:
        fan = cin // groups * kernel * kernel
        w = self.constant(self.rng.normal(size=(cout, cin // groups, kernel, kernel)) * np.sqrt(2 / fan))
        return self.node(
            "Conv",
            x,
            w,
            self.constant(self.rng.normal(size=cout) / 10),
            strides=[stride] * 2,
            pads=[kernel // 2] * 4,
            group=groups,
        )

    def save(self, path: Path, y: str, outputs: int) -> Path:
        shape = ["n", self.channels, self.size, self.size]
        graph = helper.make_graph(
            self.nodes, "net", [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["n", outputs])], self.constants,
        )  # fmt: skip
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="pytorch"), path
        )
        return path


def resnet(path: Path, size: int = 32, channels: int = 3) -> Path:
    """Three stages with residual blocks, the shape of MLPerf Tiny's ResNet-8."""
    net = Float(size, channels)
    x, width = net.node("Relu", net.conv("images", channels, 8)), 8
    for out, stride in ((8, 1), (16, 2), (32, 2)):
        skip = x if stride == 1 else net.conv(x, width, out, 1, stride)
        y = net.conv(net.node("Relu", net.conv(x, width, out, 3, stride)), out, out)
        x, width = net.node("Relu", net.node("Add", y, skip)), out
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    return net.save(
        path, net.node("Gemm", x, net.constant(net.rng.normal(size=(10, width))), net.constant(np.zeros(10)), transB=1), 10
    )


def mobile(path: Path, size: int = 32) -> Path:
    """Depth-wise and point-wise convolutions in turn, as MobileNetV1; the classifier is a convolution, as in many exports."""
    net = Float(size)
    x, width = net.node("Relu", net.conv("images", 3, 8, 3, 2)), 8
    for out, stride in ((16, 1), (32, 2), (32, 1), (64, 2)):
        x = net.node("Relu", net.conv(x, width, width, 3, stride, width))
        x, width = net.node("Relu", net.conv(x, width, out, 1)), out
    x = net.conv(net.node("GlobalAveragePool", x), width, 10, 1)
    return net.save(path, net.node("Flatten", x), 10)


def images(n: int, size: int = 32, channels: int = 3, seed: int = 0) -> list[np.ndarray]:
    """Smooth images, [1, C, S, S] each."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-1, 1, (n, channels, 4, 4))
    return [
        np.kron(c, np.ones((size // 4, size // 4)))[None].astype(np.float32)
        + rng.normal(0, 0.1, (1, channels, size, size)).astype(np.float32)
        for c in coarse
    ]


def int8(source: Path, out: Path, size: int = 32, channels: int = 3) -> ModelProto:
    model = load_model(source)
    quantise(
        source,
        input_plane(model),
        Samples(tuple(images(8, size, channels)), (), (), ""),
        out,
        {"sasimc.preprocess": json.dumps({"size": size})},
    )
    return load_model(out)


def run(model: ModelProto, x: np.ndarray, *names: str) -> list[np.ndarray]:
    probe = ModelProto()
    probe.CopyFrom(model)
    have = {o.name for o in probe.graph.output}
    probe.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names if n not in have)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(list(names), {session.get_inputs()[0].name: x})


def test_the_places_in_mobilenet_v2_are_those_of_the_released_rep_net() -> None:
    model = build("mobilenetv2", ZooOptions(width=0.35, resolution=96, classes=3, calibration_images=2))
    host = examine(model)
    places = find_places(host)
    assert [p.exit.node.split(".")[1] for p in places] == ["2", "4", "7", "11", "14", "17"]
    assert places[0].entry is None
    assert [p.entry.node.split(".")[1] for p in places[1:] if p.entry] == ["3", "6", "10", "13", "16"]
    ours = modules_of(host, places)
    zoo = build("mobilenetv2-repnet", ZooOptions(width=0.35, resolution=96, classes=3, calibration_images=2))
    shapes = {t.name: tuple(t.dims) for t in zoo.graph.initializer}
    for module, block in zip(
        ours[:-1], (2, 4, 7, 11, 14), strict=True
    ):  # the zoo's last module has a kernel of 3, ours of small planes too
        expected = shapes[f"rep.{block}.conv1.weight_q"], shapes[f"rep.{block}.conv2.weight_q"]
        kernels = (module.conv1.weight_shape[:2], expected[0][:2]), (module.conv2.weight_shape, expected[1])
        assert all(a == b for a, b in kernels)


@pytest.mark.filterwarnings("ignore")
def test_pooled_modules_leave_a_foreign_backbone_alone(tmp_path: Path) -> None:
    model = int8(resnet(tmp_path / "float.onnx"), tmp_path / "int8.onnx")
    host, x = examine(model), images(1, seed=9)[0]
    made = attach(model, AttachOptions(classes=4, wiring="pooled"), images(8))
    assert np.array_equal(run(model, x, host.features)[0], run(made.model, x, host.features)[0])
    widths = [m.cout for m, _ in made.modules]
    assert run(made.model, x, "joined.dq:0")[0].shape == (1, host.features_shape[0] + sum(widths))
    assert check_model(made.model).ok


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [resnet, mobile])
def test_foreign_backbones_keep_their_values_and_learn(make: object, tmp_path: Path) -> None:
    source = make(tmp_path / "float.onnx")  # type: ignore[operator]
    model = int8(source, tmp_path / "int8.onnx")
    host = examine(model)
    made = attach(model, AttachOptions(classes=4, labels=("a", "b", "c", "d")), images(8))
    assert len(made.modules) >= 2
    out = tmp_path / "attached.onnx"
    onnx.save(made.model, out)
    report = check_model(load_model(out))
    assert report.ok, str(report)
    x = images(1, seed=9)[0]
    first = made.modules[0][1].exit.tensor
    assert np.array_equal(run(model, x, first)[0], run(made.model, x, first)[0])
    quiet = attach(model, AttachOptions(classes=4, rep_gain=0), images(8))
    before, after = run(model, x, host.features)[0], run(quiet.model, x, host.features)[0]
    assert np.abs(before - after).max() <= 0.15 * np.abs(before).max()  # every sum is rounded once more, to a coarser step
    device = Device(compile_model(out, CompileOptions(batch=4)).program, engine="fused")
    assert device.trainable
    assert device.labels == ("a", "b", "c", "d")
    rng = np.random.default_rng(0)
    batch = np.concatenate([rng.integers(60 * c, 60 * c + 40, (1, 32, 32, 3), dtype=np.uint8) for c in range(4)])
    losses = [device.train_step(batch, np.arange(4), head_exponent=5, module_exponent=1).loss for _ in range(20)]
    assert min(losses[-3:]) < 0.7 * losses[0]
    trained = export_onnx(device, made.model)
    x = device.input.integers(batch)
    same_after_compiling(device, trained, CompileOptions(batch=4), x)
    logits, meta = in_onnxruntime(trained, device, x), device.program.meta
    steps = np.rint(logits / float(meta["logit_scale"])) + int(meta["logit_zero"])
    assert np.abs(steps - infer(device, x)[0]).max() <= 1


@pytest.mark.filterwarnings("ignore")
def test_padded_planes_are_no_places_and_wide_layers_get_narrow_modules(tmp_path: Path) -> None:
    """Padding as TensorFlow does it, in a node of its own, in a network of 16 to 96 channels without bottlenecks."""
    net = Float(32)
    pads = numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64), "pads")
    net.constants.append(pads)
    x, width = "images", 3
    for out in (16, 48, 96):
        y = net.node("Pad", x, "pads")
        w, b = net.constant(net.rng.normal(size=(out, width, 3, 3)) / width), net.constant(np.zeros(out))
        x, width = net.node("Relu", net.node("Conv", y, w, b, strides=[2, 2], pads=[0] * 4)), out
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    source = net.save(tmp_path / "f.onnx", net.node("Gemm", x, net.constant(net.rng.normal(size=(10, 96))), transB=1), 10)
    host = examine(int8(source, tmp_path / "q.onnx"))
    assert host.weights == 3 * 9 * 16 + 16 * 9 * 48 + 48 * 9 * 96
    assert [(n.channels, n.size) for n in host.necks] == [(16, 16), (48, 8), (96, 4)]
    places = find_places(host)
    modules = modules_of(host, places)
    assert [p.exit.channels for p in places] == [48, 96]
    assert [m.hidden for m in modules] == [
        8,
        24,
    ]  # 48 enter the second: with so many, the modules would have 0.33 of the backbone
    assert sum(m.parameters for m in modules) <= host.weights / 4


@pytest.mark.filterwarnings("ignore")
def test_grey_images_and_only_a_classifier(tmp_path: Path) -> None:
    model = int8(resnet(tmp_path / "f.onnx", channels=1), tmp_path / "q.onnx", channels=1)
    made = attach(model, AttachOptions(classes=3, modules=False), images(4, channels=1))
    assert made.modules == ()
    assert json.loads({p.key: p.value for p in made.model.metadata_props}["sasimc.trainable"]) == ["classifier"]
    assert check_model(made.model).ok
    with_modules = attach(model, AttachOptions(classes=3), images(4, channels=1))
    assert with_modules.modules[0][0].cin == 1
    assert check_model(with_modules.model).ok
    # recipes say which networks they are for: the default none, `pooled` those with pooled modules; one without modules may be either
    notes = [{f"note.{p.key}": p.value for p in m.metadata_props} for m in (made.model, with_modules.model, model)]
    for meta in notes:
        check_network(load_recipe("default"), "default", meta)
    check_network(load_recipe("pooled"), "pooled", notes[0])
    with pytest.raises(SasError, match=r"zoo\.wiring = pooled; this one was made with add[\s\S]*sasc attach --wiring pooled"):
        check_network(load_recipe("pooled"), "pooled", notes[1])
    with pytest.raises(SasError, match=r"zoo\.wiring = pooled; this one was made neither by sasc zoo nor by sasc attach"):
        check_network(load_recipe("pooled"), "pooled", notes[2])
    pooled = attach(model, AttachOptions(classes=3, wiring="pooled", headroom=2.0), images(4, channels=1))
    check_network(load_recipe("pooled"), "pooled", {f"note.{p.key}": p.value for p in pooled.model.metadata_props})


@pytest.mark.filterwarnings("ignore")
def test_places_by_name_and_what_is_refused(tmp_path: Path) -> None:
    model = int8(resnet(tmp_path / "f.onnx"), tmp_path / "q.onnx")
    host = examine(model)
    last = host.necks[-1].node
    made = attach(model, AttachOptions(classes=3, at=(last,)), images(2))
    assert [p.exit.node for _, p in made.modules] == [last]
    with pytest.raises(SasError, match="there is no such operation"):
        attach(model, AttachOptions(classes=3, at=("/net/Nothing",)), images(2))
    inside = next(n.name for n in model.graph.node if n.op_type == "Conv" and n.name not in {k.node for k in host.necks})
    with pytest.raises(SasError, match="not all data pass"):
        attach(model, AttachOptions(classes=3, at=(inside,)), images(2))
    with pytest.raises(SasError, match="has its own 'rep"):
        attach(made.model, AttachOptions(classes=3), images(2))
    with pytest.raises(SasError, match="needs 2 to 65536"):
        attach(model, AttachOptions(classes=1), images(2))
    with pytest.raises(SasError, match="2 labels for 3 classes"):
        attach(model, AttachOptions(classes=3, labels=("a", "b")), images(2))
    with pytest.raises(SasError, match="no quantised activation"):
        attach(load_model(tmp_path / "f.onnx"), AttachOptions(classes=3), images(2))
