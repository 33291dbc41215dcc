"""Trained int8 ONNX out: the same integers, the same classes in onnxruntime, and the same bits when it is compiled again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import tiny_task
from models import Builder, gated, mlp, mobilenet_like, plain_cnn, random_graph, residual_net
from onnx import numpy_helper
from PIL import Image
from round_trip import in_onnxruntime, infer, same_after_compiling, stored
from whole_path import embedded

import sasimc
from sasimc.api import CompileOptions, compile_model
from sasimc.backend.mapping import cut_layers, rejoin
from sasimc.cli import sasc, sasrun
from sasimc.cli.common import invoke
from sasimc.datasets.procedural import draw
from sasimc.export import export_onnx
from sasimc.frontend.weights_out import model_digest
from sasimc.isa.errors import SasError
from sasimc.isa.machine import load_machine
from sasimc.runtime.device import Device
from sasimc.training.recipe import Recipe
from sasimc.zoo.zoo import ZooOptions, build, default_model_path

Pixels = npt.NDArray[np.uint8]


def scrambled(device: Device, seed: int) -> None:
    """Other weights in everything trainable: small random changes, as after a training."""
    rng = np.random.default_rng(seed)
    state = {n: np.clip(w + rng.integers(-9, 10, w.shape), -127, 127).astype(np.int8) for n, w in device.state().items()}
    device.load_state(state)


# ---------------------------------------------------------------------------------------------------------- the embedded network


def test_the_embedded_network_after_training(tmp_path: Path) -> None:
    compiled = embedded()
    device = Device(compiled.program, "fused", 2)
    pictures = np.stack([draw("flowers", i, i, 96) for i in range(8)])
    for _ in range(4):
        device.train_step(pictures, np.arange(8))
    made = export_onnx(device, default_model_path(), tmp_path / "trained.onnx")
    x = device.input.integers(pictures)
    found = device.infer(pictures)
    logits = in_onnxruntime(made, device, x)
    meta = compiled.program.meta
    steps = np.rint(logits / float(meta["logit_scale"])) + int(meta["logit_zero"])
    assert np.abs(steps - found.logits).max() <= 1
    clear = np.sort(found.logits, axis=1)[:, -1] - np.sort(found.logits, axis=1)[:, -2] > 2
    assert (logits.argmax(axis=1) == found.classes)[clear].all()
    same_after_compiling(device, made, CompileOptions(), x)
    # nothing but trainable weights has changed
    before, after = onnx.load(default_model_path()), onnx.load(tmp_path / "trained.onnx")
    changed = {a.name for a, b in zip(before.graph.initializer, after.graph.initializer, strict=True) if a != b}
    assert changed == {f"{name}.weight_q" for name in json.loads(meta["note.sasimc.trainable"])}
    assert before.graph.node == after.graph.node
    assert {e.key: e.value for e in before.metadata_props} == {e.key: e.value for e in after.metadata_props}
    onnx.checker.check_model(after, full_check=True)


# --------------------------------------------------------------------------------------------------------------- other networks


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the names that PyTorch's exporter writes: scopes with slashes, weights with double colons."""
    names: dict[str, str] = {}
    for i, tensor in enumerate(model.graph.initializer):
        names[tensor.name] = tensor.name = f"onnx::Conv_{i + 137}"
    for node in model.graph.node:
        node.name = f"/net/block.{len(node.name) % 7}/{node.name}/{node.op_type}"
        for i, name in enumerate(node.output):
            if name not in {o.name for o in model.graph.output}:
                names[name] = f"/net/{name}_output_{i}"
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
        for i, name in enumerate(node.output):
            node.output[i] = names.get(name, name)
    for entry in model.metadata_props:
        if entry.key == "sasimc.trainable":
            wanted = json.loads(entry.value)
            entry.value = json.dumps([n.name for n in model.graph.node if n.name.split("/")[-2] in wanted])
    return model


def unsigned(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with uint8 weights around 128."""
    tensors = {t.name: t for t in model.graph.initializer}
    constants = {n.name for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in tensors}
    for node in model.graph.node:
        if node.name in constants and tensors[node.input[0]].data_type == onnx.TensorProto.INT8:
            weight, zero = tensors[node.input[0]], tensors[node.input[2]]
            values = numpy_helper.to_array(weight).astype(np.int16) + 128
            weight.CopyFrom(numpy_helper.from_array(values.astype(np.uint8), weight.name))
            shape = numpy_helper.to_array(zero).shape
            zero.CopyFrom(numpy_helper.from_array(np.full(shape, 128, np.uint8), zero.name))
    return model


def per_channel() -> onnx.ModelProto:
    """Rep-Net modules whose output channels each have their own power-of-two scale."""
    return build(
        "mobilenetv2-repnet", ZooOptions(resolution=32, width=0.25, classes=5, module_scales="channel", calibration_images=2)
    )


NETS = {
    "flattened plane": lambda: plain_cnn(size=8),
    "grouped modules": lambda: mobilenet_like(size=16),
    "all of a residual network": lambda: residual_net(train="all"),
    "matrix products": lambda: mlp(matmul=True),
    "gates and tables": gated,
    "names of PyTorch": lambda: renamed(mobilenet_like(size=16, seed=1)),
    "names of PyTorch, flattened": lambda: renamed(plain_cnn(size=8, seed=1)),
    "uint8 weights": lambda: unsigned(plain_cnn(size=8, seed=2)),
    "scales per channel": per_channel,
    **{f"random {seed}": (lambda seed=seed: random_graph(seed)) for seed in (1, 3, 5, 8)},
}


@pytest.mark.parametrize("name", NETS)
def test_round_trip(name: str) -> None:
    """Other weights, exported, in onnxruntime and compiled again."""
    model, options = NETS[name](), CompileOptions(batch=4)
    before = model.SerializeToString()
    compiled = compile_model(model, options)
    device, x = Device(compiled.program, "fused", 1), stored(compiled, 4)
    first = infer(device, x)[0]
    scrambled(device, 5)
    made = export_onnx(device, model)
    assert model.SerializeToString() == before
    same_after_compiling(device, made, options, x)
    logits, meta = in_onnxruntime(made, device, x), compiled.program.meta
    ours = infer(device, x)[0]
    assert not np.array_equal(ours, first)
    scale, zero = float(meta["logit_scale"]), int(meta["logit_zero"])
    off = np.abs(np.rint(logits / scale) + zero - ours)
    assert off.max() <= 1
    assert (off > 0).mean() <= 0.2
    assert export_onnx(device, model).SerializeToString() == made.SerializeToString()
    assert model_digest(model) != model_digest(made)


def test_trainable_layers_by_pattern_and_export_of_an_export(tmp_path: Path) -> None:
    """A pattern of the command line is remembered; what was exported trains and exports again."""
    model, options = plain_cnn(size=8, train="head"), CompileOptions(batch=2, trainable="head")
    for _ in range(2):
        device = Device(compile_model(model, options).program, "fused", 1)
        scrambled(device, 1)
        again = export_onnx(device, model, tmp_path / "m.onnx")
        assert {k for k, v in device.state().items()} == {"head"}
        same_after_compiling(device, again, options, stored(compile_model(model, options), 2))
        model = again


def test_normalisation_stays_frozen_when_everything_trains() -> None:
    """A BatchNormalization of its own has no 8-bit weights that an export could hold: `*` passes it by, its name alone is refused."""
    net = Builder(2, pow2=True)
    x = net.norm(net.conv(net.input((3, 8, 8), low=0.0), 6, name="conv", act="relu"), name="bn")
    model = net.model(net.gemm(net.global_pool(x), 4, name="head"))
    options = CompileOptions(batch=2, trainable="*")
    compiled = compile_model(model, options)
    device = Device(compiled.program, "fused", 1)
    assert device.state().keys() == {"conv", "head"}
    scrambled(device, 4)
    same_after_compiling(device, export_onnx(device, model), options, stored(compiled, 2))
    with pytest.raises(SasError, match=r"(?s)no layer with weights matches 'bn'.*conv, head"):
        compile_model(model, CompileOptions(trainable="bn"))


def test_rejoin_is_the_inverse_of_cutting() -> None:
    """Of every convolution: grouped, depth-wise, cut into chunks of columns."""
    kinds = set()
    for model in (mobilenet_like(size=16), plain_cnn(), random_graph(7), random_graph(11)):
        graph = compile_model(model, CompileOptions(batch=1)).graph
        for name, parts in cut_layers(graph, load_machine(), ()).items():
            weight = graph.constant(graph.op(name), "weight")
            assert np.array_equal(rejoin(weight.shape, [(p.kind, p.n0, p.values) for p in parts]), weight)
            kinds |= {(p.kind, len(parts) > 1) for p in parts}
    assert kinds >= {("dense", False), ("dense", True), ("depthwise", False)}


# ----------------------------------------------------------------------------------------------------------------------- refused


def test_another_model_is_refused(tmp_path: Path) -> None:
    model = plain_cnn(size=8)
    program = compile_model(model, CompileOptions(batch=2)).program
    other = onnx.ModelProto()
    other.CopyFrom(model)
    frozen = next(t for t in other.graph.initializer if t.name.endswith("bias_q") or t.data_type == onnx.TensorProto.INT32)
    values = numpy_helper.to_array(frozen) + 1
    frozen.CopyFrom(numpy_helper.from_array(values, frozen.name))
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(SasError, match=r"(?s)was not compiled from .*other\.onnx.*that `sasc compile` read"):
        export_onnx(program, tmp_path / "other.onnx")
    other.CopyFrom(model)
    other.metadata_props.add(key="author", value="someone")
    assert model_digest(other) == model_digest(model)
    assert model_digest(plain_cnn(size=8, seed=4)) != model_digest(model)


def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SasError, match="nothing that learns"):
        export_onnx(compile_model(plain_cnn(size=8, train="none"), CompileOptions(batch=1)).program, tmp_path / "m.onnx")
    program = compile_model(plain_cnn(size=8), CompileOptions(batch=1)).program
    with pytest.raises(SasError, match=r"(?s)is not beside it.*--model FILE\.onnx"):
        export_onnx(program)
    with pytest.raises(SasError, match="does not say which model"):
        export_onnx(sasimc.Program(program.machine, program.code, meta={"layers": "{}"}), plain_cnn(size=8))


# ---------------------------------------------------------------------------------------------------------------------- commands


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile, train, save, export, all by command; then a task of a device image."""
    monkeypatch.chdir(tmp_path)
    model = mobilenet_like(size=8, width=4, modules=1, classes=5)
    onnx.save(model, tmp_path / "model.onnx")
    assert invoke(sasc.app, ["compile", "model.onnx", "-o", "prog.s", "--batch", "2"]) == 0
    data = tmp_path / "data"
    for split in ("train", "val", "test"):
        for c in range(3):
            (data / split / f"class{c}").mkdir(parents=True)
            for i in range(2):
                Image.fromarray(draw("flowers", c, i, 8)).save(data / split / f"class{c}" / f"{i}.png")
    train = ["--train", str(data), "--epochs", "1", "--engine", "fused"]
    assert invoke(sasrun.app, ["prog.s", *train, "--save", "trained.s"]) == 0
    capsys.readouterr()
    assert invoke(sasc.app, ["export", "trained.s", "-o", "trained.onnx"]) == 0
    assert "wrote trained.onnx" in capsys.readouterr().out
    made = onnx.load("trained.onnx")
    assert json.loads({e.key: e.value for e in made.metadata_props}["sasimc.labels"]) == ["class0", "class1", "class2"]
    assert invoke(sasc.app, ["compile", "trained.onnx", "-o", "again.s", "--batch", "2"]) == 0
    first, again = sasimc.load_program("trained.s"), sasimc.load_program("again.s")
    assert first.tensors.keys() == again.tensors.keys()
    for name, values in first.tensors.items():
        assert np.array_equal(values, again.tensors[name]), name
    assert any(not np.array_equal(v, sasimc.load_program("prog.s").tensors[n]) for n, v in first.tensors.items())
    assert invoke(sasc.app, ["export", "trained.s", "--model", "trained.onnx", "-o", "x.onnx"]) == 2
    assert "was not compiled from trained.onnx" in capsys.readouterr().err
    assert invoke(sasc.app, ["export", "trained.s", "--model", "model.onnx", "-o", "model.onnx"]) == 2
    assert "would overwrite the model" in capsys.readouterr().err
    assert not (tmp_path / "x.onnx").exists()


def test_a_task_of_a_device_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(mobilenet_like(size=8, width=4, modules=1), tmp_path / "model.onnx")
    program = tiny_task.program()
    sasimc.save_program(program, tmp_path / "prog.s")
    program = sasimc.load_program(tmp_path / "prog.s")
    data = tiny_task.dataset(4)
    tiny_task.learn(tmp_path / "device.sas", program, "mine", data, Recipe(epochs=1, batch=2))
    capsys.readouterr()
    words = ["export", str(tmp_path / "prog.s"), "--image", str(tmp_path / "device.sas"), "-o", str(tmp_path / "task.onnx")]
    assert invoke(sasc.app, [*words, "--task", "mine"]) == 0
    assert "its classes are the first 4 of 5 outputs" in capsys.readouterr().out
    made = onnx.load(tmp_path / "task.onnx")
    assert json.loads({e.key: e.value for e in made.metadata_props}["sasimc.labels"]) == list(data.classes)
    pictures = np.concatenate([data.load(i)[None] for i in data.items("test")])
    device = Device(program, "fused", 1)
    logits = in_onnxruntime(made, device, device.input.integers(pictures))
    steps = np.rint(logits / float(program.meta["logit_scale"])) + int(program.meta["logit_zero"])
    assert np.abs(steps - tiny_task.logits(tmp_path / "device.sas", program, "mine", data)).max() <= 1
    for more, message in (([], "belong together"), (["--task", "other"], "no task 'other'")):
        assert invoke(sasc.app, [*words, *more]) == 2
        assert message in capsys.readouterr().err
    words[3] = str(tmp_path / "none.sas")
    assert invoke(sasc.app, [*words, "--task", "mine"]) == 2
    assert "there is no device image" in capsys.readouterr().err
    assert not (tmp_path / "none.sas").exists()
