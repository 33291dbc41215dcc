"""Speed of the engines on MobileNet-V2 1.0/224 + Rep-Net, beside onnxruntime on the same graph, in the same run.

    python benchmarks/engines.py --data FOLDER [--threads 2] [--images 8] [--json FILE]

Without real weights (``--random``) the network has random ones: the work is the same. Each figure is the best of
``--repeat`` runs; ratios are what carries over to another machine. Memory is that of a process of its own per engine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import add_common, data_folder, environment, finish, peak_rss_mb, table


def main() -> None:
    """Compile once, then measure each engine in its own process."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--random", action="store_true", help="random weights: needs no data")
    parser.add_argument("--images", type=int, default=8, help="images a repetition (at most the batch of 8)")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--classes", type=int, default=17)
    parser.add_argument("--engines", default="bitserial,fused,onnxruntime")
    parser.add_argument("--no-train", action="store_true", help="leave the training step out")
    parser.add_argument("--one", nargs=2, metavar=("ENGINE", "FOLDER"), help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.one:
        print(json.dumps(measure(o.one[0], Path(o.one[1]), o)))
        return
    print(environment(o.threads))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build(folder, o)
        rows = {name: child(name, folder, o) for name in o.engines.split(",")}
    print("\n" + report(rows))
    finish(o, {"engines": rows})


def build(folder: Path, o: argparse.Namespace) -> None:
    """model.onnx and prog.s."""
    from sasimc.api import CompileOptions, compile_model
    from sasimc.frontend.zoo import ZooOptions, build, write
    from sasimc.isa.files import save_program

    weights = None if o.random else str(data_folder(o) / "weights")
    path = write(build("mobilenetv2-repnet", ZooOptions(weights=weights, classes=o.classes)), folder / "model.onnx")
    save_program(compile_model(path, CompileOptions()).program, folder / "prog.s")


def child(name: str, folder: Path, o: argparse.Namespace) -> dict[str, Any]:
    """Run one engine in a process of its own, with its threads limited."""
    env = {**os.environ, "OMP_NUM_THREADS": str(o.threads), "OPENBLAS_NUM_THREADS": str(o.threads)}
    words = [sys.executable, __file__, "--one", name, str(folder), "--threads", str(o.threads), "--images", str(o.images)]
    words += ["--repeat", str(o.repeat), *(["--no-train"] if o.no_train else [])]
    done = subprocess.run(words, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def best(work: Any, repeat: int) -> float:
    """Shortest of ``repeat`` runs after one that is not counted, seconds."""
    work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(name: str, folder: Path, o: argparse.Namespace) -> dict[str, Any]:
    """Seconds an image, seconds a training step, instructions a second, peak memory of one engine."""
    images = np.random.default_rng(0).integers(0, 256, (o.images, 224, 224, 3), dtype=np.uint8)
    if name == "onnxruntime":
        return measure_onnxruntime(folder, images, o)
    from sasimc.runtime.device import Device
    from sasimc.runtime.warmup import warm_up

    warm_up()
    start = time.perf_counter()
    device = Device(folder / "prog.s", name, o.threads)
    loaded = time.perf_counter() - start
    it = device.interpreter
    out: dict[str, Any] = {"load_s": loaded, "infer_s": best(lambda: device.infer(images), o.repeat) / o.images}
    out["rss_infer_mb"] = peak_rss_mb()
    it.reset_counters()
    device.infer(images)
    out["infer_cycles"], issued = it.cycles // o.images, it.events["instructions"] / o.images
    out["instructions_per_s"] = issued / out["infer_s"]
    if not o.no_train:
        labels = np.arange(o.images) % device.classes
        out["train_step_s"] = best(lambda: device.train_step(images, labels), max(1, o.repeat - 1))
        it.reset_counters()
        device.train_step(images, labels)
        out["train_cycles"] = it.cycles
        out["train_instructions_per_s"] = it.events["instructions"] / out["train_step_s"]
        out["rss_mb"] = peak_rss_mb()
    return out


def measure_onnxruntime(folder: Path, images: Any, o: argparse.Namespace) -> dict[str, Any]:
    """The same graph in onnxruntime, default optimisations, image by image as the device computes, and as a batch."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = o.threads
    s = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    x = np.ascontiguousarray((images.astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2))
    name = s.get_inputs()[0].name

    def one_by_one() -> None:
        for i in range(len(x)):
            s.run(None, {name: x[i : i + 1]})

    out = {
        "infer_s": best(one_by_one, o.repeat) / len(x),
        "infer_batch_s": best(lambda: s.run(None, {name: x}), o.repeat) / len(x),
    }
    out["rss_infer_mb"] = peak_rss_mb()
    return out


def report(rows: dict[str, dict[str, Any]]) -> str:
    """The table: absolute figures and ratios to onnxruntime."""
    base = rows.get("onnxruntime", {}).get("infer_s")
    header = [
        "engine",
        "s/image",
        "images/s",
        "x onnxruntime",
        "peak MB, inference",
        "s/training step (8)",
        "peak MB",
        "k instructions/s",
    ]
    out = []
    for name, r in rows.items():
        ratio = r["infer_s"] / base if base else ""
        step, rate = r.get("train_step_s", ""), r.get("instructions_per_s")
        memory = r.get("rss_mb", "")
        out.append([name, r["infer_s"], 1 / r["infer_s"], ratio, r["rss_infer_mb"], step, memory, rate / 1e3 if rate else ""])
    return table(header, out)


if __name__ == "__main__":
    main()
