"""Layers chosen within a budget: does the choice pay? Accuracy at the same limit beside the last layers, a random choice, TinyTrain's criterion, and all.

    python benchmarks/budget.py --data FOLDER [--datasets flowers17,pets] [--seeds 0,1,2] [--shares 0.33,0.5] [--figure cycles]

The limit is that share of what a step of all layers takes. Runs are those of benchmarks/ablation.py (images held back of train and validation, the test split is never
opened; values after the last epoch; the same cache) with the default recipe; importance is measured on training images of the same seed's network. ``last``: the
layers nearest the classifier, as many as fit; ``random``: importance drawn anew for each seed; ``fisher``: of each output channel, half of the squared sum over a sample's
pixels of value times error, summed over channels, mean over samples (Theis et al. 2018; the numerator of TinyTrain's score).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from ablation import Cache, Row, changed, numbers, run, run_key
from common import add_common, data_folder, environment, finish, table

from sasimc.budget import Choice, choose
from sasimc.choosing import Candidates
from sasimc.datasets.dataset import Dataset, hold_back, open_dataset
from sasimc.datasets.examples import training_examples
from sasimc.frontend.onnx_import import import_graph
from sasimc.importance import batches_of, by_gradients, by_place, exponent_of, with_learned_heads
from sasimc.ir.graph import TrainGraph
from sasimc.ir.interp import run as run_graph
from sasimc.ir.interp_train import train_step
from sasimc.isa.machine import load_machine
from sasimc.options import CompileOptions
from sasimc.passes.backward import Backward
from sasimc.passes.mark_trainable import pattern_of
from sasimc.training.recipe import load_recipe
from sasimc.zoo.zoo import ZooOptions, build

POLICIES = ("chosen", "last", "random", "fisher")


def fisher(train: TrainGraph, data: Dataset) -> dict[str, float]:
    """TinyTrain's potential of each trainable layer, at the time at which modules join."""
    batches = batches_of(train.forward, data)
    learned = with_learned_heads(train.forward, Backward(), batches)
    train = Backward().derive(learned)
    sums: dict[str, float] = {}
    for images, labels in batches:
        values = run_graph(learned, {learned.inputs[0]: images})
        made = train_step(train, values, labels, 0, 0)
        for op in train.ops:
            if op.kind == "update":
                layer = learned.op(op.str_attr("forward"))
                y = learned.type(layer.output)
                real = (values[layer.output] - y.zero) * y.scale
                # the error was multiplied by its channel's scale on its way to the weights
                error = made.errors[op.inputs[1]].v * 2.0 ** exponent_of(train, op, made) / learned.constant(layer, "wscale")
                sums[layer.name] = sums.get(layer.name, 0.0) + float(((real * error).sum(axis=(1, 2)) ** 2).sum()) / 2
    return {name: value / sum(len(labels) for _, labels in batches) for name, value in sums.items()}


def choices(name: str, seed: int, shares: list[float], o: argparse.Namespace) -> dict[tuple[str, float], Choice]:
    """What each policy trains at each share."""
    recipe = load_recipe("default")
    folder = data_folder(o)
    data = hold_back(open_dataset(name, folder), o.held_back)
    zoo = ZooOptions(
        weights=str(folder / "weights"), classes=len(data.classes), resolution=o.resolution, seed=seed, **recipe.zoo.model_dump()
    )
    graph = import_graph(build("mobilenetv2-repnet", zoo, training_examples(data, zoo.calibration_images)))
    candidates = Candidates.of(graph, load_machine(None), CompileOptions(), {o.figure: 0})
    measure, train = cache(candidates.measure), candidates.whole
    whole = measure(frozenset(candidates.layers)).taken[o.figure]
    last = by_place(train.forward)[0]
    drawn = np.random.default_rng(seed).permutation(candidates.layers)
    criteria: dict[str, Callable[[], Mapping[str, float]]] = {
        "chosen": lambda: by_gradients(train, Backward(), data)[0],
        "last": lambda: last,
        "random": lambda: {str(layer): 0.5**i for i, layer in enumerate(drawn)},
        "fisher": lambda: fisher(train, data),
    }
    found: dict[tuple[str, float], Choice] = {}
    for policy in o.policies:
        importance = criteria[policy]()
        for share in shares:
            limits = {o.figure: int(share * whole)}
            found[policy, share] = choose(candidates.layers, candidates.heads, importance, policy, limits, measure)
    return found


def main() -> None:
    """Choose, train what the cache lacks, print."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--datasets", type=lambda t: t.split(","), default=["flowers17", "pets"])
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("--epochs", type=numbers, default=[5, 6], help="of each data set")
    parser.add_argument("--shares", type=lambda t: [float(p) for p in t.split(",")], default=[1 / 3, 1 / 2])
    parser.add_argument("--figure", default="cycles")
    parser.add_argument("--policies", type=lambda t: t.split(","), default=list(POLICIES))
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--held-back", type=float, default=1 / 3)
    parser.add_argument("--base", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, default=Path("budget.json"))
    o = parser.parse_args()
    o.base = [*o.base, *DEFAULT]
    print(environment(1))
    runs, rows = Cache(o.cache), list[list[Any]]()
    values: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for seed in o.seeds:
        for name in o.datasets:
            plans = {("all", 1.0): None, ("classifier", 0.0): "classifier"}
            for key, choice in choices(name, seed, o.shares, o).items():
                layers = [layer for layer in choice.layers if layer in choice.chosen]
                print(name, seed, *key, choice.taken, " ".join(layers), flush=True)
                plans[key] = pattern_of(layers)
            for (policy, share), pattern in plans.items():
                row = Row(policy, () if pattern is None else (f"trainable={pattern}",))
                key = run_key(row, name, seed, o)
                if key not in runs.all():
                    runs.put(key, run(row, name, seed, o))
                found = runs.all()[key]
                values.setdefault((name, f"{policy} {share:.2f}"), []).append((found["top1"], found["loss"]))
    for (name, what), each in values.items():
        top1, loss = zip(*each, strict=True)
        spread = [f"{statistics.stdev(part):.3g}" if len(part) > 1 else "" for part in (top1, loss)]
        rows.append([name, what, f"{statistics.mean(top1):.1f}", spread[0], f"{statistics.mean(loss):.3f}", spread[1], len(each)])
    print(table(["data set", "trained", "top-1, %", "sd", "loss, nats", "sd", "seeds"], rows))
    finish(o, {"rows": rows, "runs": runs.all()})


DEFAULT = tuple(
    f"{key}={value}"
    for key, value in {
        "head_exponent": "4:0", "module_exponent": "3:0", "modules.wait": 0.8, "compile.update": "momentum", "compile.round_errors": "carried",
    }.items()
)  # fmt: skip
"""The shipped recipe again, over the plain scheme of the ablation."""


if __name__ == "__main__":
    assert changed(DEFAULT, load_recipe("default")).recipe == load_recipe("default")
    main()
