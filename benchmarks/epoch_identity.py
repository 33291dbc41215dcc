"""One epoch on a data set by two engines: every weight, cycle and event must be equal at the end.

    python benchmarks/epoch_identity.py --data FOLDER [--dataset flowers17] [--resolution 96] [--update accumulate] [--limit N]

Ends with status 1 at the first difference. The trainer, its recipe and the validation after the epoch are those of ``sasrun --train``.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import add_common, data_folder, environment, finish, table

from sasimc.api import CompileOptions, compile_model
from sasimc.datasets.dataset import open_dataset
from sasimc.runtime.device import Device
from sasimc.training.recipe import load_recipe
from sasimc.training.trainer import train
from sasimc.zoo.zoo import ZooOptions, build, write

ENGINES = ("fused", "bitserial")


def main() -> None:
    """Train, compare, print."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--dataset", default="flowers17")
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--update", default=CompileOptions.update)
    parser.add_argument("--limit", type=int, help="at most this many images of a split")
    o = parser.parse_args()
    folder = data_folder(o)
    dataset = open_dataset(o.dataset, folder)
    recipe = load_recipe().model_copy(update={"epochs": 1, "limit": o.limit, "keep": "last"})
    print(environment(o.threads))
    with tempfile.TemporaryDirectory() as temporary:
        options = ZooOptions(weights=str(folder / "weights"), classes=len(dataset.classes), resolution=o.resolution)
        pictures = [dataset.load(item) for item in dataset.items("train")[:: max(1, len(dataset.items("train")) // 32)]]
        model = write(build("mobilenetv2-repnet", options, pictures), Path(temporary) / "model.onnx")
        program = compile_model(model, CompileOptions(batch=recipe.batch, update=o.update)).program
    rows: list[dict[str, Any]] = []
    ends: list[tuple[dict[str, Any], int, dict[str, int]]] = []
    for engine in ENGINES:
        device, start = Device(program, engine, o.threads), time.perf_counter()
        epoch = train(device, dataset, recipe).epochs[0]
        state = device.state()
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(state[name]).tobytes() for name in sorted(state))).hexdigest()
        it = device.interpreter
        ends.append((state, it.cycles, dict(it.events)))
        rows.append(
            {
                "engine": engine,
                "loss": epoch.loss,
                "val_top1": epoch.val_top1,
                "weights": sum(w.size for w in state.values()),
                "sha256": digest[:16],
                "cycles": it.cycles,
                "bits_flipped": it.events["bits_flipped_transposable"],
                "wall_s": time.perf_counter() - start,
            }
        )
        print(rows[-1], flush=True)
    (a, *counts), (b, *others) = ends
    same = counts == others and a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
    keys = list(rows[0])
    print("\n" + table(keys, [[r[k] for k in keys] for r in rows]))
    print("identical" if same else "DIFFERENT")
    finish(o, {"dataset": dataset.name, "rows": rows, "identical": same})
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
