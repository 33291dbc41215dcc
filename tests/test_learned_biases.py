"""Biases that are learned: in the program's text, on device images with several tasks, frozen, exported. The arithmetic: test_update_schemes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_task
from golden import Golden
from models import mlp, plain_cnn
from round_trip import in_onnxruntime, infer, stored
from tiny_task import dataset, learn, logits

from sasimc.api import CompileOptions, compile_model
from sasimc.export import export_onnx
from sasimc.isa.analysis.lint import lint
from sasimc.isa.errors import SasError
from sasimc.isa.files import load_program, save_program
from sasimc.isa.program import Program
from sasimc.runtime.device import Device
from sasimc.training.image.image import DeviceImage
from sasimc.training.image.rebind import without_classes
from sasimc.training.image.tasks import TaskStore
from sasimc.training.recipe import Recipe, Schedule
from sasimc.training.trainer import TrainState, train

FAST = Recipe(epochs=2, head_exponent=Schedule(first=5, last=5), module_exponent=Schedule(first=5, last=5))


def program() -> Program:
    return tiny_task.program(train_biases=True)


def trained(p: Program, steps: int = 3) -> Device:
    device = Device(p, "fused", 1)
    rng = np.random.default_rng(4)
    for _ in range(steps):
        x = rng.integers(0, 256, (device.batch_size, 8, 8, 3)).astype(np.uint8)
        device.train_step(x, rng.integers(0, device.classes, len(x)), head_exponent=6, module_exponent=6)
    return device


def test_programs_without_them_say_nothing_of_them() -> None:
    plain = tiny_task.program()
    assert not {"train_biases", "learned_biases"} & plain.meta.keys()
    assert not {"badd", "bupd"} & {i.spec.mnemonic for i in plain.code}
    assert {"badd", "bupd"} <= {i.spec.mnemonic for i in program().code}
    assert lint(program()) == []


@pytest.mark.parametrize("form", ["prog.s", "prog.bin"])
def test_a_saved_program_goes_on_with_them(form: str, tmp_path: Path) -> None:
    device = trained(program())
    assert all(values.any() for values in device.biases().values())
    save_program(device.program.with_trained(device.state()), tmp_path / form)
    again = Device(load_program(tmp_path / form), "bitserial", 1)
    x = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(again.infer(x).logits, device.infer(x).logits)
    for name, values in device.state().items():
        np.testing.assert_array_equal(again.state()[name], values)
    assert (again.infer(x).logits != Device(program(), "fused", 1).infer(x).logits).any()


def test_damaged_meta_data_are_refused() -> None:
    p = program()
    for text in ("[]", "{", json.dumps({"head": ["nowhere", 4]}), json.dumps({"head": [next(iter(p.views)), 4]})):
        spoilt = Program(
            **{**{k: v for k, v in p.__dict__.items() if k != "learned_biases"}, "meta": {**p.meta, "learned_biases": text}}
        )
        with pytest.raises(SasError, match="learned_biases"):
            Device(spoilt, "fused", 1)


def test_tasks_of_an_image_have_their_own(tmp_path: Path) -> None:
    """Also one whose weights had to make room, and one that went through a file."""
    p, path = program(), tmp_path / "d.sas"
    learn(path, p, "a", dataset(4), FAST)
    before = logits(path, p, "a", dataset(4))
    learn(path, p, "b", dataset(4, 1), FAST)
    np.testing.assert_array_equal(logits(path, p, "a", dataset(4)), before)
    image = DeviceImage.open(path, p)
    try:
        store = TaskStore(image, p, threads=1)
        of = {name: {v: store.weights(name)[v] for v in trained(p, 0).biases()} for name in "ab"}
        for number in range(len(store.slots)):
            store.create(f"more{number}", dataset(4).classes)
        assert store.task("a").slot is None
        for view, values in of["a"].items():
            assert values.any()
            assert (values != of["b"][view]).any()
            np.testing.assert_array_equal(store.weights("a")[view], values)
        image.save()
    finally:
        image.close()
    np.testing.assert_array_equal(logits(path, p, "a", dataset(4)), before)


@pytest.mark.parametrize(
    "options", [{"train_biases": True}, {"round_errors": "unbiased", "unbiased_updates": True}], ids=lambda o: min(o)
)
def test_a_training_that_was_broken_off_goes_on_with_them(tmp_path: Path, options: dict[str, Any]) -> None:
    """And with the random numbers that come next."""
    p = tiny_task.program(**options)
    whole = learn(tmp_path / "whole.sas", p, "a", dataset(4), FAST)
    path = tmp_path / "d.sas"
    image = DeviceImage.open(path, p)
    store = TaskStore(image, p, threads=1)
    store.create("a", dataset(4).classes)
    store.select("a")
    store.begin({})

    class Stop(Exception):
        pass

    def keep(run: TrainState) -> None:
        store.keep(run)
        if run.step == 3:
            raise Stop

    with pytest.raises(Stop):
        train(store.device, dataset(4), FAST, keep=keep)
    halfway = store.device.biases()
    image.close()
    image = DeviceImage.open(path, p)  # amid the training, the task runs with what it has learned so far
    for view, values in TaskStore(image, p, threads=1).select("a").biases().items():
        np.testing.assert_array_equal(values, halfway[view])
    image.close()
    assert learn(path, p, "a", dataset(4), FAST, resume=True).epochs == whole.epochs
    np.testing.assert_array_equal(logits(path, p, "a", dataset(4)), logits(tmp_path / "whole.sas", p, "a", dataset(4)))


def test_frozen_layers_and_classes_keep_theirs() -> None:
    p = program()
    layers = p.learned_biases
    classifier = next(layer for layer, bias in layers.items() if p.views[bias.view].channels == 5)
    device = trained(without_classes(p, 3))
    for layer, bias in layers.items():
        values = device.biases()[bias.view].reshape(-1)
        if layer == classifier:
            assert not values[:3].any()
            assert values[3:].any()
        else:
            assert not values.any()


def test_another_seed_rounds_otherwise() -> None:
    p = tiny_task.program(unbiased_updates=True)
    states = []
    for seed in (0, 0, 1):
        device = Device(p, "fused", 1)
        device.seed(seed)
        device.train_step(
            np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8), [0, 1], head_exponent=0, module_exponent=0
        )
        states.append(
            np.concatenate([device.interpreter.read_view(v).ravel() for v in json.loads(p.meta["training_state"]) if "low" in v])
        )
    assert (states[0] == states[1]).all()
    assert (states[0] != states[2]).any()


# ------------------------------------------------------------------------------------------------------------------------- export


@pytest.mark.parametrize("name", ["mlp", "cnn", "module"])
def test_export_puts_them_into_the_model(name: str) -> None:
    model = {
        "mlp": mlp,
        "cnn": lambda: plain_cnn(train="all"),
        "module": lambda: tiny_task.mobilenet_like(size=8, width=4, modules=1),
    }[name]()
    options = CompileOptions(batch=4, train_biases=True, unbiased_updates=True, verify=True)
    compiled = compile_model(model, options)
    device = Device(compiled.program, "fused", 1)
    x = stored(compiled, 4)
    rng = np.random.default_rng(3)
    device.load_state({n: v + rng.integers(-90000, 90000, v.shape).astype(np.int32) for n, v in device.biases().items()})
    made = export_onnx(device, model)
    wanted, classes = infer(device, x)
    meta = compiled.program.meta
    found = np.rint(in_onnxruntime(made, device, x) / float(meta["logit_scale"])) + int(meta["logit_zero"])
    assert np.abs(found - wanted).max() <= 1
    assert (found == wanted).mean() > 0.9
    plain = Device(compile_model(made, CompileOptions(batch=4)).program, "fused", 1)
    assert not plain.biases()
    for ours, theirs in zip((wanted, classes), infer(plain, x), strict=True):
        np.testing.assert_array_equal(theirs, ours)
    assert (infer(Device(compiled.program, "fused", 1), x)[0] != wanted).any()
    assert (Golden(made).forward(x.astype(np.int64)) == wanted).all()
