"""New classes for a learned task (``sasrun --add``): what it costs that the logits of the old ones stay, and what training them too (``--retrain``).

    python benchmarks/add_classes.py [--epochs 4] [--seeds 0,1,2] [--images 32]

The embedded network learns five kinds of drawn flowers, then five more in the same task: from images of the new kinds alone, or of all ten, once with the logits
of the old kinds kept and once with everything trained. Beside it a task that
learns all ten at once. Top-1 of the test images among all ten classes, of old and of new kinds; the logits of the old classes are compared bit by bit.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import shutil
import statistics
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from common import add_common, environment, finish, table

from sasimc.api import CompileOptions, compile_model
from sasimc.datasets.dataset import Dataset, open_dataset
from sasimc.runtime.device import Device
from sasimc.training.image.image import DeviceImage
from sasimc.training.image.tasks import TaskStore
from sasimc.training.recipe import Recipe
from sasimc.training.trainer import TrainState, train
from sasimc.zoo.zoo import default_model_path

OLD, ALL = range(5), range(10)
NEW = range(5, 10)


def only(data: Dataset, classes: Iterable[int]) -> Dataset:
    """Images of some classes; all keep their numbers."""
    chosen = set(classes)
    splits = {split: tuple(i for i in items if i.class_id in chosen) for split, items in data.splits.items()}
    return dataclasses.replace(data, splits=splits, classes=data.classes[: max(chosen) + 1])


def logits(device: Device, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Of the test images: logits [images, outputs], classes."""
    items = data.items("test")
    found = [device.infer(np.asarray(data.load(i))[None]).logits for i in items]
    return np.concatenate(found), np.array([i.class_id for i in items])


def learn(bank: TaskStore, device: Device, data: Dataset, recipe: Recipe) -> None:
    bank.begin({})
    state = TrainState()
    train(device, data, recipe, state=state, keep=bank.keep)
    bank.learned(state, {})


def run(o: argparse.Namespace, seed: int) -> dict[str, list[float]]:
    """Top-1 of old, new and all test images, in percent, by way of learning."""
    data = only(open_dataset("drawn-flowers", size=96, per_class=(o.images, 2, o.images)), ALL)
    program = compile_model(default_model_path(), CompileOptions(batch=8)).program
    recipe, out = Recipe(epochs=o.epochs, seed=seed, keep="last"), dict[str, list[float]]()

    def note(name: str, device: Device, ways: int = 10) -> np.ndarray:
        found, classes = logits(device, data)
        right = found[:, :ways].argmax(axis=1) == classes
        old = classes < len(OLD)
        out[name] = [100 * float(r.mean()) for r in (right[old], right[~old], right)]
        return found

    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "five.sas"
        image = DeviceImage.open(first, program)
        bank = TaskStore(image, program, "fused", o.threads)
        bank.create("t", data.classes[: len(OLD)])
        learn(bank, bank.select("t"), only(data, OLD), recipe)
        before = note("five, before", bank.select("t"), len(OLD))
        image.close()
        for retrain, (name, more) in itertools.product((False, True), (("new images alone", NEW), ("images of all", ALL))):
            path = Path(folder) / f"{len(more)}-{retrain}.sas"
            shutil.copy(first, path)
            image = DeviceImage.open(path, program)
            bank = TaskStore(image, program, "fused", o.threads)
            learn(bank, bank.extend("t", data.classes, retrain), only(data, more), recipe)
            after = note(f"five added{', old ones trained too' if retrain else ''}, {name}", bank.select("t"))
            assert retrain or (after[:, : len(OLD)] == before[:, : len(OLD)]).all(), "logits of old classes changed"
            image.close()
        image = DeviceImage.open(Path(folder) / "joint.sas", program)
        bank = TaskStore(image, program, "fused", o.threads)
        bank.create("t", data.classes)
        learn(bank, bank.select("t"), data, recipe)
        note("ten at once", bank.select("t"))
        image.close()
    return out


def main() -> None:
    """Run every seed, print means and standard deviations."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--seeds", type=lambda t: [int(n) for n in t.split(",")], default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=32, help="of each class to learn, and to test")
    o = parser.parse_args()
    print(environment(o.threads))
    runs = []
    for seed in o.seeds:
        runs.append(run(o, seed))
        print(seed, runs[-1], flush=True)

    def shown(name: str, which: int) -> str:
        values = [r[name][which] for r in runs]
        return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")

    rows = [[name, *(shown(name, i) for i in range(3))] for name in runs[0]]
    print("\n" + table(["learned", "old kinds, %", "new kinds, %", "all, %"], rows))
    finish(o, {"runs": runs})


if __name__ == "__main__":
    main()
