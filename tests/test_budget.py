"""``--train-budget``: the budget is held as the device counts, what is frozen stays bit for bit, the choice is the best one there is, and importance is what a step of SGD gains."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from models import mlp, mobilenet_like, plain_cnn
from onnx import ModelProto, save
from test_attach import images, int8, resnet
from tiny_task import machine
from whole_path import check

from sasimc.api import CompileOptions, compile_model, compile_report
from sasimc.attach.attach import AttachOptions, attach
from sasimc.backend.compile import Compiled
from sasimc.budget import FIGURES, Figures, choose, parse_budget
from sasimc.choosing import figures_of
from sasimc.cli.sasc import app
from sasimc.datasets.dataset import open_dataset
from sasimc.frontend.onnx_import import import_graph
from sasimc.importance import batches_of, by_gradients, with_learned_heads
from sasimc.ir.graph import TrainGraph
from sasimc.ir.interp import run
from sasimc.isa.errors import SasError
from sasimc.isa.machine import Machine, load_machine
from sasimc.passes.backward import Backward
from sasimc.passes.manager import run_passes
from sasimc.passes.pipeline import forward_passes
from sasimc.runtime.device import Device
from sasimc.training.recipe import load_recipe

MODULES = ["rep0_conv1", "rep0_conv2", "rep2_conv1", "rep2_conv2"]


@lru_cache
def small_groups() -> Machine:
    """Small sub-arrays in groups of two, so that how many are transposable makes a difference for a small network."""
    data = load_machine().model_dump()
    data["array"] |= {"banks": (16, 16), "mats": (1, 1), "rows": 16, "bit_columns": 128}
    data["activation"] |= {"banks": (1, 2), "mats": (1, 1)}
    data["gradient"]["scratch_subarrays"] = 2
    return Machine.model_validate(data)


def network(size: int = 16) -> ModelProto:
    return mobilenet_like(size=size, width=8, modules=2)


def compiled(model: ModelProto, **options: Any) -> Compiled:
    return compile_model(model, CompileOptions(**{"machine": machine(8), "batch": 2, **options}))


def chosen(made: Compiled) -> list[str]:
    return [row["layer"] for row in json.loads(made.program.meta["train_choice"])["layers"] if row["chosen"]]


def counted(made: Compiled, steps: int = 2) -> dict[str, int]:
    """Figures of the dearest of some steps, as a device counts them; steps so large that every row changes."""
    device, rng, most = Device(made.program, "fused", 1), np.random.default_rng(0), dict.fromkeys(FIGURES, 0)
    before = dict.fromkeys(FIGURES, 0)
    for _ in range(steps):
        x = rng.integers(0, 256, (device.batch_size, *device.input_shape)).astype(np.uint8)
        device.train_step(x, rng.integers(0, device.classes, len(x)), head_exponent=7, module_exponent=7)
        e = device.interpreter.events
        now = {
            "cycles": device.interpreter.cycles,
            "writes": e["bits_written_compute"] + e["bits_written_transposable"],
            "host-bits": e["host_bits_in"] + e["host_bits_out"],
        }
        most |= {name: max(most[name], value - before[name]) for name, value in now.items()}
        before |= now
    kinds = {t.subarray for m in made.program.matrices.values() if m.array == "transposable" for t in m.tiles}
    return {**most, "transposable": len(kinds)}


@pytest.mark.parametrize("figure", list(FIGURES))
def test_the_device_counts_no_more_than_the_budget(figure: str) -> None:
    options = {"machine": small_groups() if figure == "transposable" else machine(8)}
    limit, high = (figures_of(compiled(network(), trainable=t, **options))[figure] for t in ("head,rep2_*", None))
    assert limit < high
    made = compiled(network(), train_budget=(f"{figure}={limit}",), **options)
    found = counted(made)
    assert 0 < found[figure] <= limit
    assert figures_of(made)[figure] <= limit
    if figure != "writes":  # an upper bound where rows are written that change
        assert found[figure] == figures_of(made)[figure]
    assert {"rep2_conv1", "rep2_conv2", "head"} <= set(chosen(made))


def test_frozen_layers_stay_as_they_are_and_the_others_learn() -> None:
    made = compiled(network(), train_budget=("writes=9k",))
    device = Device(made.program, "fused", 1)
    matrices = {part.layer: m.name for parts in made.placement.layers.values() for part, m in parts}
    before = {layer: device.interpreter.read_matrix(name).copy() for layer, name in matrices.items()}
    rng = np.random.default_rng(1)
    for _ in range(3):
        x = rng.integers(0, 256, (2, *device.input_shape)).astype(np.uint8)
        device.train_step(x, rng.integers(0, 5, 2), head_exponent=6, module_exponent=6)
    changed = {layer for layer, name in matrices.items() if (device.interpreter.read_matrix(name) != before[layer]).any()}
    assert changed == set(chosen(made)) != {*MODULES, "head"}


def test_the_program_is_that_of_the_same_layers_by_name_and_equals_the_golden_model() -> None:
    made = compiled(network(), train_budget=("cycles=20k", "writes=9k"), batch=3)
    names = chosen(made)
    assert "head" in names
    assert set(names) < {*MODULES, "head"}
    by_hand = check(network(), machine=machine(8), trainable=names, update="momentum", rounding="carried").compiled
    assert made.program.code == by_hand.program.code
    assert made.program.matrices == by_hand.program.matrices


@pytest.mark.filterwarnings("ignore")
def test_attached_modules_and_images_that_choose(tmp_path: Path) -> None:
    host = int8(resnet(tmp_path / "float.onnx", 16), tmp_path / "int8.onnx", 16)
    model = attach(host, AttachOptions(classes=10), images(4, 16)).model
    whole, head = figures_of(compiled(model)), figures_of(compiled(model, trainable="classifier"))
    limit = (whole["cycles"] + head["cycles"]) // 2
    made = compiled(model, train_budget=(f"cycles={limit}",), importance_data="drawn-flowers")
    report = compile_report(made, 0.0)["train_choice"]
    assert counted(made, 1)["cycles"] == report["taken"]["cycles"] <= limit
    assert report["all"]["cycles"] == whole["cycles"]
    assert "drawn-flowers" in report["criterion"]
    worth = {row["layer"]: row["importance"] for row in report["layers"]}
    assert worth["classifier"] > 0
    assert 1 < len(chosen(made)) < len(worth)


def test_importance_is_what_a_normalised_step_gains_on_other_images(tmp_path: Path) -> None:
    """Softmax regression through a hidden layer in real arithmetic, of the same weights: the product of the steps of a batch with the mean gradient of all others."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 5
    np.savez(
        tmp_path / "d.npz", x_train=(rng.uniform(0, 1, (5, 20))[y] + rng.uniform(0, 0.3, (60, 20))).astype(np.float32), y_train=y
    )
    data = open_dataset(tmp_path / "d.npz")
    train = run_passes(import_graph(mlp()), (*forward_passes(None), Backward()))
    assert isinstance(train, TrainGraph)
    ours, _ = by_gradients(train, Backward(), data)
    batches = batches_of(train.forward, data)
    count = sum(len(labels) for _, labels in batches)
    graph = with_learned_heads(train.forward, Backward(), batches)
    layers = [op for op in graph.ops if op.kind == "conv"]
    gradients: dict[str, list[Any]] = {op.name: [] for op in layers}
    for x, labels in batches:
        env = {v: q.reshape(len(x), -1) for v, q in run(graph, {graph.inputs[0]: x}).items()}
        real = {v: (q - graph.type(v).zero) * graph.type(v).scale for v, q in env.items()}
        p = np.exp(real[layers[-1].output])
        target = np.full(p.shape, 0.1 / 5)
        target[np.arange(len(x)), labels] += 0.9
        error = p / p.sum(1, keepdims=True) - target
        for op in reversed(layers):
            x_name = op.inputs[0]
            error = error * graph.constant(op, "wscale")
            gradients[op.name].append(real[x_name].T @ error)
            weight = graph.constant(op, "weight").reshape(-1, error.shape[1]).astype(float)
            error = (error @ weight.T) * (real[x_name] > 0)
    assert ours.keys() == gradients.keys()
    for name, each in gradients.items():
        gains = [
            float((g * (sum(each) - g)).sum() / (count - len(labels)) / 2.0 ** (np.floor(np.log2(np.abs(g).max())) + 1))
            for g, (_, labels) in zip(each, batches, strict=True)
        ]
        # a largest element beside a power of two may fall on either side
        assert abs(ours[name] - np.mean(gains)) < 0.4 * np.mean(np.abs(gains))


def _costs(seed: int, n: int, rough: float) -> tuple[list[str], dict[str, float], dict[frozenset[str], Figures]]:
    """Made-up layers on a chain: own costs, a way as long as the farthest, and something that no plan knows of."""
    rng = np.random.default_rng(seed)
    names = [f"l{i}" for i in range(n)]
    own, way = rng.integers(1, 50, n), np.sort(rng.integers(10, 300, n))[::-1]
    worth = dict(zip([*names, "head"], [*rng.exponential(size=n), 1.0], strict=True))
    found = {}
    for k in range(n + 1):
        for some in itertools.combinations(range(n), k):
            cost = 20 + own[list(some)].sum() + (way[list(some)].max() if some else 0)
            cost = int(cost * (1 + (rng.uniform(0, rough) if some else 0)))
            found[frozenset([*(names[i] for i in some), "head"])] = Figures({"cycles": cost}, {"cycles": float(cost)})
    return [*names, "head"], worth, found


@pytest.mark.parametrize("rough", [0.0, 0.05])
def test_no_set_within_the_budget_is_worth_more(rough: float) -> None:
    """Where costs are what they seem; where they are not, the limit is held and little is lost."""
    reached = []
    for seed in range(40):
        names, worth, found = _costs(seed, 7, rough)
        most = max(f.taken["cycles"] for f in found.values())
        limits = {"cycles": int(np.random.default_rng(seed).uniform(25, most))}
        choice = choose(names, frozenset(["head"]), worth, "", limits, found.__getitem__)
        assert choice.taken["cycles"] <= limits["cycles"]
        best = max(sum(worth[name] for name in some) for some, f in found.items() if not f.over(limits))
        reached.append(sum(worth[name] for name in choice.chosen) / best)
        assert choice.compiled <= 3 * 7
    assert min(reached) > 1 - 1e-9 if rough == 0 else np.mean(reached) > 0.97


def test_many_layers_are_taken_in_groups() -> None:
    names = [f"l{i}" for i in range(40)]
    worth = {name: float(i + 1) for i, name in enumerate(names)}

    def measure(some: frozenset[str]) -> Figures:
        return Figures({"writes": len(some)}, {"writes": float(len(some))})

    choice = choose(names, frozenset(["l39"]), worth, "", {"writes": 12}, measure)
    assert choice.taken["writes"] <= 12
    assert choice.chosen >= {"l39", "l38", "l37", "l36", "l35"}
    assert choice.compiled < 60


@pytest.mark.parametrize(
    ("text", "value"),
    [("cycles=10M", 10_000_000), ("writes = 1.5k", 1500), ("transposable=300", 300), ("host-bits=2G", 2 * 10**9)],
)
def test_budgets_are_read(text: str, value: int) -> None:
    assert list(parse_budget([text]).values()) == [value]


@pytest.mark.parametrize(
    "text", ["cycles", "cycles=", "cycles=-3", "cycles=nan", "cycles=0.1", "cycles=10X", "cycle=3", "=3", "", "cycles=1e400"]
)
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(SasError, match="--train-budget"):
        parse_budget([text])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_budget": ("cycles=10",)}, r"smallest that can be reached is \d{4,}"),
        ({"train_budget": ("cycles=1M", "cycles=2M")}, "twice"),
        ({"train_budget": ("cycles=1M",), "inference_only": True}, "inference-only"),
        ({"train_budget": ("cycles=1M",), "trainable": ""}, "no layer is trainable"),
        ({"importance_data": "drawn-flowers"}, "goes with --train-budget"),
        ({"train_budget": ("cycles=1M",), "importance_data": "nowhere"}, "nowhere"),
        ({"train_budget": ("cycles=1M",), "importance_data": "drawn-flowers"}, "10 classes, the network 5 outputs"),
        ({"train_budget": ("cycles=1M",), "importance_data": "drawn-flowers", "loss": "squared-error"}, "goes with classes"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(options: Mapping[str, Any], words: str) -> None:
    with pytest.raises(SasError, match=words):
        compiled(network(), **options)


def test_the_command_line_shows_and_notes_the_choice(tmp_path: Path) -> None:
    save(plain_cnn(size=8), tmp_path / "m.onnx")
    (tmp_path / "r.toml").write_text('[compile]\ntrain_budget = ["writes=20k"]\n')
    assert load_recipe(tmp_path / "r.toml").compile_options()["train_budget"] == ("writes=20k",)
    args = ["compile", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "p.s"), "--json", str(tmp_path / "p.json")]
    run = CliRunner().invoke(app, [*args, "--recipe", str(tmp_path / "r.toml")], standalone_mode=False)
    assert run.exception is None, run.output
    made = json.loads((tmp_path / "p.json").read_text())
    choice = made["train_choice"]
    assert made["train_budget"] == "writes=20k"
    assert choice["taken"]["writes"] <= 20_000 < choice["all"]["writes"]
    rows = {line.split()[0]: line.split()[-1] for line in run.output.splitlines() if line.strip()}
    assert [rows[row["layer"]] == "yes" for row in choice["layers"]] == [row["chosen"] for row in choice["layers"]]
    assert len({row["chosen"] for row in choice["layers"]}) == 2
