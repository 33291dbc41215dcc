"""Tasks learned one after another on one device: is any earlier one forgotten, and what does each write?

    python benchmarks/forgetting.py [--epochs 4] [--limit 200]                 (embedded default; flowers and shapes drawn by formula)
    python benchmarks/forgetting.py --data FOLDER [--tasks flowers17,pets,...]  (MobileNet-V2 + Rep-Net, one output for every class of the largest)

After each task the test images of every task learned so far are run again. The matrix shows their accuracies; the logits are
compared bit by bit with those right after the task was learned, and any difference ends the benchmark with an error. Each task is also
tested right before it is learned, and all before any is: backward transfer, forgetting and forward transfer are printed. ``SET:A-B``
takes classes A to B of a set. ``--slots N`` allows only N places in the arrays, so that tasks are swapped in and out. After each task the most written
word lines are shown, of scratch and of weights; ``--level scratch`` turns scratch rows. At the end all tasks are evaluated without being said.
Results: the matrix on the screen, ``--csv`` and ``--plot`` (PNG, with matplotlib), ``--json``.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import add_common, data_folder, environment, finish, table

from sasimc.api import CompileOptions, compile_model
from sasimc.datasets.dataset import Dataset, open_dataset
from sasimc.datasets.loader import Loader
from sasimc.isa.choices import LEVELS
from sasimc.isa.program import Program
from sasimc.runtime.interface import Interface
from sasimc.training.image.image import DeviceImage
from sasimc.training.image.recogniser import recogniser, settle
from sasimc.training.image.tasks import TaskStore
from sasimc.training.recipe import Recipe
from sasimc.training.recognition import Recognised, class_means, evaluate_unsaid, of_tasks
from sasimc.training.trainer import TrainState, train
from sasimc.training.transfer import Transfer, transfer
from sasimc.zoo.zoo import ZooOptions, build, default_model_path, write

DRAWN = "drawn-flowers:0-4,drawn-shapes:0-5,drawn-flowers:5-9,drawn-shapes:6-11"
REAL = "flowers17,pets,flowers:0-24,cars:0-36"


def part(name: str, folder: Path | None, size: int) -> Dataset:
    """A data set, or of ``SET:A-B`` the classes A to B."""
    base, _, classes = name.partition(":")
    whole = open_dataset(base, folder, size=size)
    if not classes:
        return whole
    first, last = (int(n) for n in classes.split("-"))
    splits = {
        s: tuple(dataclasses.replace(i, class_id=i.class_id - first) for i in items if first <= i.class_id <= last)
        for s, items in whole.splits.items()
    }
    load = dataclasses.replace(whole, name=name.replace(":", "."), classes=whole.classes[first : last + 1], splits=splits)
    return Shifted(**{f.name: getattr(load, f.name) for f in dataclasses.fields(load)}, first=first) if whole.synthetic else load


@dataclasses.dataclass(frozen=True)
class Shifted(Dataset):
    """Drawn images, whose class decides what is drawn: ``first`` is the class that counts as 0."""

    first: int = 0

    def load(self, item: Any) -> Any:
        return super().load(dataclasses.replace(item, class_id=item.class_id + self.first))


def program(o: argparse.Namespace, classes: int) -> Program:
    """The program all tasks run on."""
    if o.data is None:
        return compile_model(default_model_path(), CompileOptions(batch=o.batch)).program
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(part(o.tasks.split(",")[0], o.data, o.resolution).source)
        images = source / "images" if (source / "images").is_dir() else source
        options = ZooOptions(
            weights=str(o.data / "weights"), resolution=o.resolution, classes=classes, calibrate=images, wiring=o.wiring
        )
        path = write(build("mobilenetv2-repnet", options), Path(temporary) / "model.onnx")
        return compile_model(path, CompileOptions(batch=o.batch)).program


def test(bank: TaskStore, name: str, dataset: Dataset, limit: int | None) -> tuple[float, str]:
    """Accuracy on the test images (percent) and the SHA-256 of all logits."""
    device, digest, right, seen = bank.select(name), hashlib.sha256(), 0, 0
    for images, labels, _ in Loader(dataset, "test", device.preprocess, device.batch_size, limit=limit).epoch(0):
        got = device.infer(images)
        digest.update(got.logits.tobytes())
        right, seen = right + int((got.classes == labels).sum()), seen + len(labels)
    return 100 * right / seen, digest.hexdigest()


def untrained(p: Program, dataset: Dataset, o: argparse.Namespace) -> float:
    """Accuracy on the test images (percent) on a device of its own, on which nothing was learned."""
    with tempfile.TemporaryDirectory() as temporary:
        image = DeviceImage.open(Path(temporary) / "device.sas", p)
        bank = TaskStore(image, p, "fused", o.threads)
        bank.create(dataset.name, dataset.classes)
        top1, _ = test(bank, dataset.name, dataset, o.limit)
        image.close()
    return top1


def wear_by_kind(image: DeviceImage, p: Program) -> dict[str, dict[str, float]]:
    """The most written word line and the mean, of scratch rows and of all others that are written."""
    scratch = np.zeros((image.shape.subarrays, image.shape.rows), bool)
    for tile in (t for m in p.matrices.values() if m.kind == "scratch" for t in m.tiles):
        scratch[tile.subarray, tile.row : tile.row + tile.rows] = True
    kinds = {"scratch": image.kept & scratch.reshape(-1), "weights": image.kept & ~scratch.reshape(-1)}
    return {kind: {"worst": int(image.wear[rows].max()), "mean": float(image.wear[rows].mean())} for kind, rows in kinds.items()}


def recognised(bank: TaskStore, sets: list[Dataset], limit: int | None) -> list[Recognised]:
    """Every task's test images, without saying whose they are."""
    device, found = recogniser(bank), list[Recognised]()
    for dataset in sets:
        numbers, _ = of_tasks(dataset, [bank.task(name) for name in device.tasks])
        found += evaluate_unsaid(device, dataset, numbers, "test", limit=limit)[0]
    settle(bank, device)
    return found


def transfer_lines(t: Transfer) -> str:
    """The figures at the end of the sequence, and those over all of it."""
    rows = [
        ["GEM: mean accuracy / %", t.accuracy],
        ["GEM: backward transfer / points", t.backward],
        ["forgetting / points", t.forgetting],
        ["GEM: forward transfer / points", t.forward],
        ["whole sequence: accuracy / %", t.all_accuracy],
        ["whole sequence: backward transfer / points", t.all_backward],
        ["whole sequence: remembering / %", t.remembering],
    ]
    return table(["figure", "value"], [[name, "needs two tasks" if v is None else f"{v:.2f}"] for name, v in rows])


def plot(path: Path, names: list[str], matrix: list[list[float]]) -> None:
    """Accuracy of each task after every further one."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for i, name in enumerate(names):
        axes.plot(range(i + 1, len(names) + 1), [row[i] for row in matrix[i:]], marker="o", label=name)
    axes.set(xlabel="tasks learned", ylabel="top-1 on the test images / %", xticks=range(1, len(names) + 1), ylim=(0, 100))
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Learn, test, compare, print, write."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--tasks", help=f"data sets in order; default {DRAWN}, with --data {REAL}")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--limit", type=int, default=200, help="at most this many images of each split")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=96, help="input size of the network that is built for real data")
    parser.add_argument("--wiring", choices=("add", "pooled"), default="add", help="where modules join in that network")
    parser.add_argument("--level", choices=LEVELS, default="none", help="level the wear of these rows")
    parser.add_argument("--slots", type=int, help="use only so many places in the arrays")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--plot", type=Path)
    o = parser.parse_args()
    o.data = data_folder(o) if o.data else None
    o.tasks = o.tasks or (REAL if o.data else DRAWN)
    print(environment(o.threads))
    sets = [part(name, o.data, o.resolution) for name in o.tasks.split(",")]
    p = program(o, max(len(s.classes) for s in sets))
    print(f"{p.machine.name}, {Interface.of(p).classes} outputs, {len(sets)} tasks")
    names, digests, matrix = [s.name for s in sets], dict[str, str](), list[list[float]]()
    initial, before = [untrained(p, s, o) for s in sets], list[float]()
    worn = list[dict[str, dict[str, float]]]()
    recipe, wall = Recipe(epochs=o.epochs, limit=o.limit), time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        image = DeviceImage.open(Path(temporary) / "device.sas", p)
        bank = TaskStore(image, p, "fused", o.threads, o.level)
        if o.slots:
            del bank.slots[o.slots :]
        print(f"places in the arrays: {len(bank.slots)}")
        for dataset in sets:
            bank.create(dataset.name, dataset.classes, dataset.name)
            before.append(test(bank, dataset.name, dataset, o.limit)[0])
            device, run = bank.select(dataset.name), TrainState()
            bank.begin({})
            train(
                device,
                dataset,
                recipe,
                None,
                lambda e: print(f"  epoch {e.epoch + 1}: {e.val_top1:.1f} % val", flush=True),
                state=run,
                keep=bank.keep,
            )
            bank.learned(run, {"val": run.training.kept.val})
            image.means[dataset.name] = class_means(p, dataset, "fused", o.threads, o.limit)[0]
            worn.append(wear_by_kind(image, p))
            print(
                "  "
                + "; ".join(f"{kind}: most written row {w['worst']} times, mean {w['mean']:.1f}" for kind, w in worn[-1].items()),
                flush=True,
            )
            row = []
            for known in sets[: len(matrix) + 1]:
                top1, digest = test(bank, known.name, known, o.limit)
                if digests.setdefault(known.name, digest) != digest:
                    sys.exit(f"FORGOTTEN: the logits of {known.name} changed after {dataset.name} was learned")
                row.append(top1)
            matrix.append(row)
            print(f"{dataset.name}: {', '.join(f'{n} {a:.1f} %' for n, a in zip(names, row, strict=False))}", flush=True)
        tasks, unsaid = list(image.tasks.values()), recognised(bank, sets, o.limit)
        wear = image.wear_summary()
        image.close()
    print(table(["after", *names], [[n, *row, *[""] * (len(names) - len(row))] for n, row in zip(names, matrix, strict=True)]))
    square = [[*row, *before[len(row) : len(row) + 1], *[None] * (len(sets) - len(row) - 1)] for row in matrix]
    moved = transfer(square, initial)
    print(transfer_lines(moved))
    print(
        table(
            ["task", "recognised / %", "top-1 / %", "with the task said / %"],
            [[r.task, r.recognised, r.top1, r.known] for r in unsaid],
        )
    )
    means = [sum(getattr(r, name) for r in unsaid) / len(unsaid) for name in ("recognised", "top1", "known")]
    print("means over tasks: " + "; ".join(f"{m:.1f} %" for m in means))
    print(
        f"before learning: {', '.join(f'{n} {a:.1f} % ({b:.1f} % on a new device)' for n, a, b in zip(names, before, initial, strict=True))}"
    )
    print(f"logits of all {len(sets)} tasks bit-identical after every further task ({sum(range(len(sets)))} comparisons)\n")
    rows = [
        [t.name, len(t.classes), "arrays" if t.slot is not None else "host", t.swaps, t.steps, t.learning.bits_flipped, t.scratch.bits_flipped,
         t.placing.rows, t.placing.bits_flipped] for t in tasks
    ]  # fmt: skip
    print(
        table(
            [
                "task",
                "classes",
                "kept in",
                "swapped out",
                "steps",
                "bits flipped: weights",
                "scratch",
                "host rows",
                "host bits flipped",
            ],
            rows,
        )
    )
    print(
        f"most written row: {wear['worst']} times, mean {wear['mean']:.1f} over {wear['rows']} rows; {time.perf_counter() - wall:.0f} s"
    )
    if o.csv:
        with o.csv.open("w", newline="", encoding="utf-8") as f:
            csv.writer(f).writerows([["after", *names], *([n, *row] for n, row in zip(names, matrix, strict=True))])
        print(f"wrote {o.csv}")
    if o.plot:
        plot(o.plot, names, matrix)
        print(f"wrote {o.plot}")
    figures = {
        "tasks": [t.model_dump(mode="json") for t in tasks],
        "matrix": square,
        "initial": initial,
        "transfer": dataclasses.asdict(moved),
        "logits_sha256": digests,
        "wear": wear,
        "wear_by_kind": worn,
        "unsaid": [dataclasses.asdict(r) for r in unsaid],
        "level": o.level,
    }
    finish(o, {**figures, "slots": len(bank.slots), "epochs": o.epochs, "limit": o.limit})


if __name__ == "__main__":
    main()
