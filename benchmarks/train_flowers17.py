"""Training on the device: classifier only against Rep-Net, both INT8, on flowers-17 (real weights) or on the embedded default.

    python benchmarks/train_flowers17.py --data FOLDER [--what rep,head] [--epochs 10] [--seeds 0] [--backprop exact]
    python benchmarks/train_flowers17.py --default [--epochs 10] [--seeds 0,1,2]

``head`` trains the classifier alone (the same model, ``--trainable classifier``), ``rep`` the modules and the classifier. The
epoch is chosen on the validation split; the test split is read once, at the end. Everything but decoding and augmentation
of images is the compiled program, run on the engine ``fused`` (equal to the others bit for bit).
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from common import add_common, data_folder, environment, finish, table

from sasimc.api import CompileOptions, compile_model
from sasimc.datasets.dataset import Dataset, open_dataset
from sasimc.datasets.images import Augment
from sasimc.runtime.device import Device
from sasimc.training.evaluation import evaluate
from sasimc.training.recipe import Recipe, Schedule
from sasimc.training.trainer import train
from sasimc.zoo.zoo import ZooOptions, build, default_model_path, write

WHAT = {"rep": None, "head": "classifier"}


def one(path: Path, dataset: Dataset, what: str, seed: int, o: argparse.Namespace) -> dict[str, Any]:
    """Train once; test accuracy of the epoch that was best on the validation split."""
    compiled = compile_model(path, CompileOptions(trainable=WHAT[what], backprop=o.backprop, batch=o.batch))
    device = Device(compiled.program, o.engine, o.threads)
    recipe = Recipe(
        epochs=o.epochs, seed=seed, limit=o.limit,
        head_exponent=Schedule.parse(o.head_exponent, "--head-exponent"), module_exponent=Schedule.parse(o.module_exponent, "--module-exponent"),
        augment=Augment(crop="middle", flip=False) if o.no_augment else Augment(),
    )  # fmt: skip
    start = time.perf_counter()
    result = train(device, dataset, recipe, None, lambda e: print(f"  {what} seed {seed}: {e}", flush=True))
    wall, simulated, events = time.perf_counter() - start, device.simulated_s, device.interpreter.events
    top1, _ = evaluate(device, dataset, "test", limit=o.limit)
    return {
        "what": what,
        "seed": seed,
        "test_top1": top1,
        "val_top1": result.kept.val,
        "best_epoch": result.best_epoch + 1,
        "epochs": result.rows(),
        "wall_s": wall,
        "simulated_s": simulated,
        "train_step_cycles": compiled.train_step.cycles if compiled.train_step else 0,
        "bits_written": events["bits_written_transposable"] + events["bits_written_compute"],
        "subarrays_transposable": compiled.placement.transposable_subarrays,
    }


def main() -> None:
    """Train each variant with each seed, print, write."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--default", action="store_true", help="the embedded default on drawn flowers")
    parser.add_argument("--model", type=Path, help="an ONNX file instead of building one")
    parser.add_argument("--dataset", default="flowers17")
    parser.add_argument("--what", default="head,rep")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--head-exponent", default="4:0")
    parser.add_argument("--module-exponent", default="2:-2")
    parser.add_argument("--backprop", default="exact")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--engine", default="fused")
    parser.add_argument("--no-augment", action="store_true")
    parser.add_argument("--limit", type=int, help="at most this many images of each split")
    o = parser.parse_args()
    print(environment(o.threads))
    with tempfile.TemporaryDirectory() as temporary:
        if o.default:
            path, dataset = default_model_path(), open_dataset("drawn-flowers")
        else:
            folder = data_folder(o)
            dataset = open_dataset(o.dataset, folder)
            path = o.model
            if path is None:
                options = ZooOptions(
                    weights=str(folder / "weights"), classes=len(dataset.classes), calibrate=folder / "flowers-17" / "images"
                )
                path = write(build("mobilenetv2-repnet", options), Path(temporary) / "model.onnx")
        print(dataset.note)
        rows = [one(path, dataset, what, int(seed), o) for what in o.what.split(",") for seed in o.seeds.split(",")]
    count = min(len(dataset.items("test")), o.limit or 1 << 60)
    error = math.sqrt(max(p * (100 - p) for p in (r["test_top1"] for r in rows)) / count)
    keys = ["what", "seed", "test_top1", "val_top1", "best_epoch", "bits_written", "simulated_s", "wall_s"]
    print("\n" + table(keys, [[r[k] for k in keys] for r in rows]))
    print(f"\n{count} test images: standard error at most {error:.2f} points")
    finish(o, {"dataset": dataset.name, "synthetic": dataset.synthetic, "runs": rows})


if __name__ == "__main__":
    main()
