"""Cost against pixels, images and threads: both are expected to grow in proportion.

    python benchmarks/scaling.py [--sides 96,128,160,192,224,288,320,384,448] [--batches 1,4,16,64] [--json FILE]

MobileNet-V2 1.0 with Rep-Net, random weights (the work is the same as with real ones). For each side one image is classified and one
training step of one image is done; batches run at ``--side`` pixels. A program that the machine cannot hold is reported with the
compiler's words. Memory is the peak of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import engines
import numpy as np
from common import add_common, environment, finish, peak_rss_mb, table
from engines import CLOCKS, best


def main() -> None:
    """Every side, then every batch, each on 1 to ``--threads`` threads (powers of two)."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--sides", default="96,128,160,192,224,288,320,384,448", help="image sides, multiples of 32")
    parser.add_argument("--side", type=int, default=96, help="side of the images for the batches")
    parser.add_argument("--batches", default="1,4,16,64")
    parser.add_argument("--engine", default="fused")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: processor seconds, for one thread")
    parser.add_argument("--one", nargs=4, metavar=("MODEL", "SIDE", "BATCH", "THREADS"), help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.one:
        print(json.dumps(measure(Path(o.one[0]), *map(int, o.one[1:]), o)))
        return
    print(environment(o.threads))
    counts = [1 << i for i in range(o.threads.bit_length()) if 1 << i <= o.threads]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sides = [child(folder, side, 1, t, o) for side in numbers(o.sides) for t in counts]
        batches = [child(folder, o.side, b, t, o) for b in numbers(o.batches) for t in counts]
    print(f"\nSides, batch 1, {o.engine}:\n\n" + report(sides, "side"))
    print(f"\nBatches, {o.side} px, {o.engine}:\n\n" + report(batches, "batch"))
    finish(o, {"sides": sides, "batches": batches})


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def child(folder: Path, side: int, batch: int, threads: int, o: argparse.Namespace) -> dict[str, Any]:
    """Measure one configuration in a process of its own."""
    from sasimc.zoo.zoo import ZooOptions, build, write

    path = folder / f"{side}.onnx"
    if not path.exists():
        write(build("mobilenetv2-repnet", ZooOptions(resolution=side, classes=17, calibration_images=1)), path)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    words = [sys.executable, __file__, "--one", str(path), str(side), str(batch), str(threads)]
    done = subprocess.run(
        [*words, "--engine", o.engine, "--repeat", str(o.repeat), "--clock", o.clock], env=env, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        return {"side": side, "batch": batch, "threads": threads, "refused": f"ended with {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def measure(model: Path, side: int, batch: int, threads: int, o: argparse.Namespace) -> dict[str, Any]:
    """Seconds, cycles and memory of one side, batch and number of threads; or why it was refused."""
    from sasimc.api import CompileOptions, compile_model
    from sasimc.isa.errors import SasError
    from sasimc.runtime.device import Device
    from sasimc.runtime.warmup import warm_up

    out: dict[str, Any] = {"side": side, "batch": batch, "threads": threads}
    clock = engines.clock = CLOCKS[o.clock]
    try:
        start = clock()
        program = compile_model(model, CompileOptions(batch=batch)).program
        out["compile_s"] = clock() - start
        device = Device(program, o.engine, threads)
        warm_up(device.interpreter.datapath.codes())
        images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
        labels = np.arange(batch) % device.classes
        out["infer_s"] = best(lambda: device.infer(images), o.repeat)
        device.interpreter.reset_counters()
        device.infer(images)
        out["cycles"] = device.interpreter.cycles
        out["train_s"] = best(lambda: device.train_step(images, labels), o.repeat)
    except SasError as exc:
        out["refused"] = str(exc).replace("\n", " ")
    out["rss_mb"] = peak_rss_mb()
    return out


def report(rows: list[dict[str, Any]], key: str) -> str:
    """Seconds and seconds for a million pixels."""
    header = (key, "threads", "ms inference", "us a kilopixel", "ms training step", "us a kilopixel", "M cycles", "peak MB")
    body = []
    for r in rows:
        pixels = r["batch"] * r["side"] ** 2 / 1000
        if "train_s" not in r:
            body.append((r[key], r["threads"], r["refused"], "", "", "", "", r.get("rss_mb", "")))
            continue
        infer, train = r["infer_s"] * 1e3, r["train_s"] * 1e3
        cells = (infer, infer / pixels * 1e3, train, train / pixels * 1e3, r["cycles"] / 1e6, r["rss_mb"])
        body.append((r[key], r["threads"], *cells))
    return table(header, body)


if __name__ == "__main__":
    main()
