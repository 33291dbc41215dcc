"""Schemes of the weight update and of the errors: device = golden model bit for bit over three steps, on all engines alike."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import golden_numbers
import models
import numpy as np
import pytest
from golden_numbers import Draws, Memory
from test_periphery import Bench
from test_runtime import ALL
from whole_path import check, compile_onnx, machine_with

from sasimc.api import CompileOptions, compile_model
from sasimc.datasets.dataset import open_dataset
from sasimc.frontend.onnx_import import import_model
from sasimc.ir.interp_train import STEP_LIMIT
from sasimc.isa.analysis.estimate import estimate
from sasimc.isa.errors import SasError
from sasimc.passes.backward import Backward
from sasimc.runtime.device import Device
from sasimc.training.level import ModulesSection
from sasimc.training.recipe import Recipe
from sasimc.training.trainer import train
from sasimc.zoo.zoo import DEFAULT_MODULES, ZooOptions, build, write

ENGINES = ("fused", "bitserial", "step")

SCHEMES: dict[str, dict[str, Any]] = {
    "accumulate": {"update": "accumulate"},
    "momentum": {"update": "momentum"},
    "errors rounded by their low bits": {"rounding": "stochastic"},
    "errors of the loss keep their sum": {"rounding": "carried"},
    "gradients over scales": {"gradient_power": 1},
    "gradients over squared scales": {"gradient_power": 2},
    "range of all batches": {"gradient_range": "peak"},
    "biases": {"train_biases": True},
    "everything": {"update": "momentum", "rounding": "stochastic", "gradient_power": 2, "gradient_range": "peak", "train_biases": True},
    "errors rounded without bias": {"rounding": "unbiased"},
    "everything rounded without bias": {
        "rounding": "unbiased", "unbiased_updates": True, "update": "momentum", "gradient_power": 2, "error_range": "previous", "train_biases": True,
    },
    "updates rounded without bias": {"unbiased_updates": True},
    "exponents from the step before": {"error_range": "previous", "rounding": "carried"},
    "these with everything": {
        "error_range": "previous", "update": "momentum", "rounding": "stochastic", "gradient_power": 2, "gradient_range": "peak",
    },
}  # fmt: skip

NETS: Mapping[str, Any] = {
    "mlp": lambda: models.mlp(),
    "cnn": lambda: models.plain_cnn(train="all"),
    "mobilenet": lambda: models.mobilenet_like(),
}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_device_equals_golden_model_over_three_steps(net: str, scheme: str) -> None:
    engines = ENGINES if net == "mlp" else ENGINES[:2]
    check(NETS[net](), engines=engines, steps=3, **SCHEMES[scheme])


@pytest.mark.parametrize("power", [1, 2])
def test_scales_per_channel_dense_and_depthwise(power: int) -> None:
    """Layers whose output channels have scales of their own, trained: gradients are divided by a power of them."""
    layers = ("block0_dw", "block1_project", "block2_project", "head")
    events = {
        p: check(models.mobilenet_like(), trainable=layers, engines=ENGINES[:2], steps=3, gradient_power=p).events
        for p in (0, power)
    }
    assert events[0]["scale_ops"] < events[power]["scale_ops"]
    assert events[0]["bits_flipped_transposable"] != events[power]["bits_flipped_transposable"]


def test_unbiased_rounding_of_depthwise_layers() -> None:
    layers = ("block0_dw", "block1_project", "block2_project", "head")
    options: dict[str, Any] = {"rounding": "unbiased", "unbiased_updates": True, "train_biases": True, "update": "accumulate"}
    check(models.mobilenet_like(), trainable=layers, engines=ENGINES[:2], steps=3, **options)


def test_unbiased_rounding_has_the_mean_of_what_it_rounds() -> None:
    """The function that mixes counts is the end of MurmurHash3: its value at 1 is a published one."""
    assert int(Draws.mixed(np.array([1], np.uint32))[0]) == 0x514E28B7
    b = Bench()
    values = np.array([5, -5, 1, 8, 1000, -(2**31)], np.int32)
    for name, dtype in (("v", "i32"), ("m", "i8")):
        b.view(name, "buf", dtype, (100, 100, 6))
    code = ("li", 1, 3), ("li", 2, 70000), ("li", 3, 4), ("usr", "m", "v", 1, 2, 3, 9, 0, ALL)
    found = b.run({"v": np.broadcast_to(values, (100, 100, 6))}, *code).read_view("m").reshape(-1, 6).astype(np.int64)
    assert set(found[:, 0]) == {0, 1}
    assert (found[:, 3:] == [1, 125, -127]).all()
    error = 1 / np.sqrt(len(found))  # more than a standard error each
    assert np.abs(found[:, :3].mean(axis=0) - values[:3] / 8).max() < 2 * error
    assert np.abs(np.corrcoef(found[:, :3].T) - np.eye(3)).max() < 4 * error
    assert abs(np.corrcoef(found[1:, 0], found[:-1, 0])[0, 1]) < 4 * error


def test_a_small_buffer_gives_the_same() -> None:
    for scheme in ("everything", "accumulate", "everything rounded without bias"):
        check(
            models.plain_cnn(train="all"),
            engines=ENGINES[:2],
            steps=3,
            machine=machine_with(buffer__bytes=2048),
            **SCHEMES[scheme],
        )


def test_schemes_differ_from_the_default() -> None:
    """Otherwise the comparisons above would prove nothing."""
    flips = {
        name: check(models.mlp(), steps=3, **options).events["bits_flipped_transposable"]
        for name, options in {"default": {}, **SCHEMES}.items()
    }
    for name in ("accumulate", "momentum", "errors rounded by their low bits", "range of all batches", "everything"):
        assert flips[name] != flips["default"], name


def test_errors_that_are_computed_twice_are_those_that_waited() -> None:
    """Values are the golden model's whatever waits, and in how many bits; the cheapest, layer by layer, is cheaper than any for all."""
    cases = {
        spill: check(models.mobilenet_like(), engines=ENGINES[:2], spill=spill, rounding="carried")
        for spill in ("always", "half", "never", "cheaper")
    }
    cycles = {spill: case.compiled.train_step.cycles for spill, case in cases.items() if case.compiled.train_step}
    bits = {spill: case.events["host_bits_out"] for spill, case in cases.items()}
    assert cycles["cheaper"] < min(cycles["half"], cycles["never"]) < cycles["always"]
    assert bits["never"] < bits["cheaper"] < bits["half"] < bits["always"]


def test_exponents_from_the_step_before_keep_wide_errors_in_the_buffer() -> None:
    """Errors saturate and are counted; behind the first step, which is exact, far fewer bits cross the host interface."""
    cases = {
        name: check(models.mobilenet_like(), steps=4, error_range=name, rounding="carried", update="momentum", spill="always")
        for name in ("batch", "previous")
    }
    events = cases["previous"].events
    assert 0 < events["saturated"] < events["range_ops"] / 100
    first, then = (estimate(cases["previous"].compiled.program, name, {"batch": 3}) for name in ("train_first", "train_step"))
    wide = cases["batch"].compiled.train_step
    assert wide is not None
    assert first.cycles - wide.cycles < 0.05 * wide.cycles
    bits = [e.events["host_bits_in"] + e.events["host_bits_out"] for e in (wide, then)]
    assert bits[1] < 0.6 * bits[0]
    assert then.cycles < wide.cycles


def test_accumulator_sums_up_what_single_steps_would_lose() -> None:
    """A gradient of 1/16 of a step in every batch moves the weight once in 16 batches, by one; never without the accumulator."""
    g = np.array([256, 16, -16, 0])  # the largest moves by 2^mu = 1 (here: bits 9, mu 0, so 256 / 2^9 = 1/2)
    memory = Memory(np.zeros(4, np.int64), np.zeros(4, np.int64))
    moved = np.zeros(4, np.int64)
    for _ in range(32):
        delta, memory = golden_numbers.accumulate(g, 9, 0, memory, momentum=False)
        moved += delta
    assert moved.tolist() == [16, 1, -1, 0]
    assert np.abs(memory.low).max() <= 128


def test_momentum_reaches_the_speed_of_the_gradient() -> None:
    """Steps of size d add up to velocity d once it has settled (the velocity holds 8 d, each step being d / 8)."""
    g = np.full(3, 1 << 10)
    memory = Memory(np.zeros(3, np.int64), np.zeros(3, np.int64))
    for _ in range(80):
        _, memory = golden_numbers.accumulate(g, 11, 1, memory, momentum=True)
    assert np.abs(memory.velocity - 256).max() <= 8  # bits 11, mu 1: one step of the weight


def test_kernels_equal_the_golden_numbers_at_their_limits() -> None:
    rng = np.random.default_rng(1)
    step = np.concatenate([rng.integers(-STEP_LIMIT, STEP_LIMIT + 1, 500), [STEP_LIMIT, -STEP_LIMIT, 0]]).astype(np.int32)
    low = np.concatenate([rng.integers(-128, 128, 500), [-128, 127, 127]]).astype(np.int8)
    b = Bench()
    for name, dtype in (("v", "i32"), ("s", "i32"), ("low", "i8"), ("d", "i8"), ("g", "i32"), ("r", "i32")):
        b.view(name, "buf", dtype, (step.size, 1, 1))
    v = rng.integers(-STEP_LIMIT, STEP_LIMIT + 1, step.size).astype(np.int32)
    g = rng.integers(-(2**30), 2**30, step.size).astype(np.int32)
    for part, shift in itertools.product((low, low[::-1]), (-3, 0, 7, 14, 15, 40, 70)):
        code = (("mom", "v", "s", 3, ALL), ("carry", "d", "low", "s", ALL), ("li", 1, shift), ("psr", "r", "g", 1, ALL))
        it = b.run({"v": v, "s": step, "low": part, "g": g}, *code)
        delta, rest, rounded, speed = (it.read_view(name).reshape(-1).astype(np.int64) for name in ("d", "low", "r", "v"))
        assert np.array_equal(rest - 256 * delta, part.astype(np.int64) - step)
        assert rest.min() >= -128
        assert np.abs(delta).max() <= 127
        assert np.array_equal(speed, np.clip(v - golden_numbers.rne(v.astype(np.int64), 3) + step, -STEP_LIMIT, STEP_LIMIT))
        assert np.array_equal(rounded, golden_numbers.pseudo_stochastic(g.astype(np.int64), shift, STEP_LIMIT))


def test_only_changed_word_lines_are_written() -> None:
    """Rows and bits written are counted as they happen: less than with the direct scheme, and never fewer bits than flip."""
    counts = {}
    for update in ("direct", "accumulate"):
        case = check(models.plain_cnn(train="all"), engines=ENGINES[:2], steps=3, update=update)
        counts[update] = case.events
    direct, accumulated = counts["direct"], counts["accumulate"]
    assert 0 < accumulated["rows_written_transposable"] < direct["rows_written_transposable"]
    assert (
        accumulated["bits_flipped_transposable"] < accumulated["bits_written_transposable"] < direct["bits_written_transposable"]
    )


def test_what_is_kept_between_steps_is_named_in_the_program() -> None:
    import json

    compiled = compile_onnx(models.mlp(), update="momentum")
    views = [compiled.program.views[n] for n in json.loads(compiled.program.meta["training_state"])]
    trainable = sum(m.k * m.n for m in compiled.program.matrices.values() if m.trainable and m.kind != "scratch")
    assert sum(np.prod(v.shape) for v in views if v.dtype == "i8") == trainable
    assert sum(np.prod(v.shape) for v in views if v.dtype == "i32") == trainable
    assert json.loads(compile_onnx(models.mlp(), update="direct").program.meta["training_state"]) == []


@pytest.mark.parametrize("engine", ENGINES[:2])
def test_errors_pass_what_is_named(engine: str) -> None:
    model = models.mobilenet_like()
    graph = import_model(model)
    frozen = [op.name for op in graph.ops if op.kind == "conv" and not op.flag("trainable")]
    truncated = set(Backward(backprop="truncated").derive(graph).transposed())
    exact = set(Backward(backprop="exact").derive(graph).transposed())
    wanted = sorted((exact - truncated) & set(frozen))
    for names in (wanted[:1], wanted[:3]):
        train = Backward(backprop="exact", backprop_through=tuple(names)).derive(graph)
        assert truncated <= set(train.transposed()) <= truncated | set(names)
        check(model, engines=(engine,), through=names)
    assert set(Backward(backprop_through=("*",)).derive(graph).transposed()) == exact


def test_patterns_and_schemes_that_do_not_exist() -> None:
    graph = import_model(models.mobilenet_like())
    with pytest.raises(SasError, match=r"--backprop-through: no layer with weights matches 'tial'[\s\S]*tail"):
        Backward(backprop_through=("tial",)).derive(graph)
    with pytest.raises(SasError, match=r"--update 'acumulate' is unknown[\s\S]*accumulate"):
        Backward(update="acumulate").derive(graph)
    with pytest.raises(SasError, match="--round-errors 'random' is unknown"):
        Backward(round_errors="random").derive(graph)
    with pytest.raises(SasError, match="--gradient-power 3 is unknown"):
        Backward(gradient_power=3).derive(graph)


def test_a_whole_epoch_ends_with_the_same_weights_on_both_engines(tmp_path: Path) -> None:
    """Loader, schedule of mu, partial last batch, validation: the trainer's own loop, on drawn flowers."""
    dataset = open_dataset("drawn-flowers", size=32, per_class=(2, 1, 1))
    options = ZooOptions(
        width=0.35, resolution=32, classes=len(dataset.classes), calibration_images=2, modules=DEFAULT_MODULES[3:]
    )
    model = write(build("mobilenetv2-repnet", options), tmp_path / "model.onnx")
    program = compile_model(model, CompileOptions(batch=6)).program
    ends = {}
    for engine in ("fused", "bitserial"):
        device = Device(program, engine, 1)
        before = device.state()
        result = train(device, dataset, Recipe(epochs=1, seed=3, keep="last", modules=ModulesSection(wait=1)))
        ends[engine] = device.state(), device.interpreter.cycles, device.interpreter.events, result.epochs[0].loss
        assert all((w != before[name]).any() for name, w in device.state().items()), "every layer has learned"
    (a, *counts), (b, *others) = ends.values()
    assert counts == others
    assert a.keys() == b.keys()
    for name, weights in a.items():
        np.testing.assert_array_equal(weights, b[name], name)


def test_carried_errors_of_many_classes_keep_their_sum() -> None:
    """196 classes that the network cannot tell apart yet: rounded each for itself, the wrong ones outweigh the right one; carried, they do not."""
    classes, shift = 196, 8
    errors = np.full((1, 1, 1, classes), 32768 // classes - 3276 // classes, np.int64)
    errors[..., 77] -= errors.sum()
    each, kept = (
        golden_numbers.quantise(golden_numbers.Error(errors, 0)),
        golden_numbers.quantise_carried(golden_numbers.Error(errors, 0)),
    )
    assert each.e == kept.e == shift
    assert each.v.sum() > 60
    assert abs(kept.v.sum()) <= 1
    b = Bench()
    b.view("e", "buf", "i32", (1, 1, classes))
    b.view("m", "buf", "i8", (1, 1, classes))
    made = b.run({"e": errors}, ("li", 1, shift), ("shr8c", "m", "e", 1, ALL)).read_view("m").reshape(-1)
    np.testing.assert_array_equal(made, kept.v.reshape(-1))
