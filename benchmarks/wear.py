"""Wear over life: tasks learned one after another on one device; which word line is written most, with scratch rows that take turns and without.

    python benchmarks/wear.py [--level scratch] [--steps 30]                                   (embedded default; flowers and shapes drawn by formula)
    python benchmarks/wear.py --data FOLDER [--tasks flowers17,pets,...] [--wiring pooled]      (MobileNet-V2 + Rep-Net)

After each task: the most written word line of scratch rows and of weights, the mean of all of them, and how many such tasks until the worst word line
has had as many writes as a cell endures (``--endurance``). At the end every task's test images are evaluated, with the task said and not said. ``SET:A-B`` takes
classes A to B of a set.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

from common import add_common, data_folder, environment, finish, table
from forgetting import DRAWN, REAL, part, program, recognised, wear_by_kind

from sasimc.evaluation.technologies.load import load_technology
from sasimc.isa.choices import LEVELS
from sasimc.training.image.image import DeviceImage
from sasimc.training.image.tasks import TaskStore
from sasimc.training.recipe import Recipe
from sasimc.training.recognition import class_means
from sasimc.training.trainer import TrainState, train


def main() -> None:
    """Learn, count, print."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--tasks", help=f"data sets in order; default {DRAWN}, with --data {REAL}")
    parser.add_argument("--steps", type=int, default=30, help="training steps a task")
    parser.add_argument("--limit", type=int, default=60, help="at most this many images of each split")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--wiring", choices=("add", "pooled"), default="add")
    parser.add_argument("--level", choices=LEVELS, default="none")
    o = parser.parse_args()
    o.data = data_folder(o) if o.data else None
    o.tasks = o.tasks or (REAL if o.data else DRAWN)
    print(environment(o.threads))
    sets = [part(name, o.data, o.resolution) for name in o.tasks.split(",")]
    p, endurance = program(o, max(len(s.classes) for s in sets)), load_technology("sas").endurance.value
    per_epoch = -(-min(o.limit, *(len(s.items("train")) for s in sets)) // o.batch)
    recipe = Recipe(epochs=-(-o.steps // per_epoch), limit=o.limit, keep="last")
    rows, wall = list[list[object]](), time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        image = DeviceImage.open(Path(temporary) / "device.sas", p)
        bank = TaskStore(image, p, "fused", o.threads, o.level)
        for number, dataset in enumerate(sets, 1):
            bank.create(dataset.name, dataset.classes, dataset.name)
            device, run = bank.select(dataset.name), TrainState()
            bank.begin({})
            seen = dataclasses.replace(dataset, splits={**dataset.splits, "val": ()})
            train(device, seen, recipe, state=run, keep=bank.keep)
            bank.learned(run, {})
            image.means[dataset.name] = class_means(p, dataset, "fused", o.threads, o.limit)[0]
            worn = wear_by_kind(image, p)
            worst = max(w["worst"] for w in worn.values())
            rows.append([dataset.name, run.step, *(x for w in worn.values() for x in w.values()), endurance * number / worst])
            print(rows[-1], f"{time.perf_counter() - wall:.0f} s", flush=True)
        unsaid = recognised(bank, sets, o.limit)
        summary = image.wear_summary()
        image.close()
    header = ["task", "steps", "scratch: worst", "mean", "weights: worst", "mean", f"tasks until {endurance:.0e} writes"]
    print(table(header, [[*r[:3], f"{r[3]:.1f}", r[4], f"{r[5]:.1f}", f"{r[6]:.2g}"] for r in rows]))
    print(f"the worst word line of all: {summary['worst_row']} with {summary['worst']} writes")
    print(
        table(
            ["task", "recognised / %", "top-1 / %", "with the task said / %"],
            [[r.task, r.recognised, r.top1, r.known] for r in unsaid],
        )
    )
    finish(o, {"rows": rows, "wear": summary, "unsaid": [dataclasses.asdict(r) for r in unsaid], "level": o.level})


if __name__ == "__main__":
    main()
