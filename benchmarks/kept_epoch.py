"""Which epoch's weights should a training end with? The rules of a recipe's ``keep``, on images that chose nothing.

    python benchmarks/kept_epoch.py --data FOLDER [--datasets pets,flowers17,cars,flowers] [--configs 4,1] [--folds 6,3,2,1] [--size 96]

Training and validation images of a data set are divided anew, class by class, into parts: one is measured, another chooses the epoch (of three parts each half of one), the rest train. ``--folds`` of
them are measured in turn, each with a seed of its own, so no image twice. After each epoch both are looked at; what the rules would have kept is worked out afterwards, from the same training.
The test images are never opened. Configurations as in table I. A finished training is kept (``--cache``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ablation import numbers
from common import add_common, data_folder, environment, finish, table

from sasimc.datasets.dataset import Dataset, Item, open_dataset
from sasimc.isa.files import write_atomically
from sasimc.reference.cells import Cell, Runner, Settings, use_threads
from sasimc.reference.float_reference import FloatReference
from sasimc.reference.table1 import error_of_mean
from sasimc.reference.training import accuracy, train_float
from sasimc.table1_cells import compiler
from sasimc.training.evaluation import evaluate
from sasimc.training.keeping import Best, KeepRule, standard_error
from sasimc.training.recipe import load_recipe, recipe_text
from sasimc.training.trainer import Epoch, train

PARTS: Mapping[str, int] = {"pets": 6, "flowers17": 3, "cars": 3, "flowers": 4}
"""Parts that a data set is divided into."""
RULES: tuple[KeepRule, ...] = ("best", "late", "last")

Marks = dict[int, bool]


def divided(data: Dataset, fold: int, parts: int) -> Dataset:
    """Part ``fold`` as test, the next one as val, the rest as train; of three parts, each half of ``fold`` is val and test."""
    by_class: dict[int, list[Item]] = {}
    for split in ("train", "val"):
        for item in data.items(split):
            by_class.setdefault(item.class_id, []).append(item)
    rng, groups, dealt = np.random.default_rng(5), [list[Item]() for _ in range(parts)], 0
    for label in sorted(by_class):
        for place in rng.permutation(len(by_class[label])):
            groups[dealt % parts].append(by_class[label][place])
            dealt += 1
    test, val = groups[fold], groups[(fold + 1) % parts]
    if parts == 3:
        order = rng.permutation(len(test))
        val, test = ([test[i] for i in half] for half in np.split(order, [len(test) // 2]))
    taken = {item.key for item in (*val, *test)}
    rest = [item for group in groups for item in group if item.key not in taken]
    return replace(data, splits={"train": tuple(rest), "val": tuple(val), "test": tuple(test)})


def run(name: str, config: int, fold: int, o: argparse.Namespace) -> list[dict[str, Any]]:
    """Train; for each epoch and split whether each image is right."""
    folder, rows = data_folder(o), list[dict[str, Any]]()
    data = divided(open_dataset(name, folder), fold, PARTS.get(name, 3))
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(Path(scratch), o.size, weights=str(folder / "weights"), data=folder, recipe=o.recipe)
        runner, cell = Runner(settings, compiler("fused", o.threads), {name: data}), Cell(name, config, fold)
        recipe, model = runner.recipe(name).model_copy(update={"seed": fold}), runner.model(cell)
        if config == 4:
            device = runner.compile(model, recipe)

            def measure(split: str, marks: Marks) -> None:
                evaluate(device, data, split, marks=marks)

            def learn() -> None:
                train(device, data, recipe, on_epoch=note)
        else:
            rates = recipe.reference
            network = FloatReference(model, int8=config == 3, batch_norm=rates.batch_norm and config > 1, gain=rates.gain)

            def measure(split: str, marks: Marks) -> None:
                accuracy(network, data, split, marks=marks)

            def learn() -> None:
                train_float(network, data, recipe, on_epoch=note)

        def note(_: Epoch) -> None:
            row: dict[str, Any] = {}
            for split in ("val", "test"):
                marks: Marks = {}
                measure(split, marks)
                row[split] = "".join(str(int(marks[i])) for i in sorted(marks))
            rows.append(row)

        learn()
    return rows


def kept(rows: list[dict[str, Any]], rule: KeepRule) -> int:
    """The epoch that a rule keeps."""
    best, epoch = Best(), -1
    for number, row in enumerate(rows):
        now = 100 * row["val"].count("1") / len(row["val"])
        if best.takes(rule, now, standard_error(now, len(row["val"]))):
            epoch = number
    return epoch


def main() -> None:
    """Train what the cache lacks, print."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--datasets", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--configs", type=numbers, default=[4, 1])
    parser.add_argument("--folds", type=numbers, default=[6, 3, 2, 1], help="of each data set, or of all that follow")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--recipe", type=load_recipe, default="default")
    parser.add_argument("--cache", type=Path, default=Path("kept_epoch"), help="folder of finished trainings")
    o = parser.parse_args()
    use_threads(o.threads)
    print(environment(o.threads))
    cache = o.cache / hashlib.sha256(f"{o.size} {recipe_text(o.recipe)}".encode()).hexdigest()[:12]
    cache.mkdir(parents=True, exist_ok=True)
    lines, figures = list[list[Any]](), list[dict[str, Any]]()
    for config in o.configs:
        for at, name in enumerate(o.datasets):
            trainings = []
            for fold in range(min(o.folds[min(at, len(o.folds) - 1)], PARTS.get(name, 3))):
                path = cache / f"{name}-{config}-{fold}.json"
                if not path.is_file():
                    write_atomically(path, json.dumps(run(name, config, fold, o)).encode())
                    print(f"{name}, configuration {config}, fold {fold}", flush=True)
                trainings.append(json.loads(path.read_text(encoding="utf-8")))
            right = {rule: "".join(rows[kept(rows, rule)]["test"] for rows in trainings) for rule in RULES}
            ahead = [100 * (int(a) - int(b)) for a, b in zip(right["late"], right["best"], strict=True)]
            top1 = {rule: 100 * marks.count("1") / len(marks) for rule, marks in right.items()}
            gain, error = top1["late"] - top1["best"], error_of_mean(ahead) or 0.0
            lines.append([name, config, len(ahead), *(f"{top1[r]:.1f}" for r in RULES), f"{gain:+.1f} ({error:.1f})"])
            figures.append(
                {"dataset": name, "config": config, "images": len(ahead), **top1, "late_less_best": gain, "error": error}
            )
    print(table(["data set", "configuration", "images", *(f"{r}, %" for r in RULES), "late less best (error)"], lines))
    finish(o, {"rows": figures})


if __name__ == "__main__":
    main()
