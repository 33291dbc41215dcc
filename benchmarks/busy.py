"""Speed on a machine whose cores are busy with other work: throughput beside a spinning process on each core, over that of the quiet machine.

    python benchmarks/busy.py prog.s [--engine fused] [--threads 2] [--repeat 5] [--json FILE]

A batch of random images is classified, and learned from if the program learns, for a second quiet and for a second busy, in turn; a figure is the
median of so many turns. A core that is shared with one other process has half of its time left, so 0.5 is all that a program can reach that uses
every core; one that uses a single thread can do no better. The quiet machine must be quiet: figures mean nothing beside other work.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import add_common, environment, finish, table

from sasimc.runtime.device import Device
from sasimc.runtime.warmup import warm_up


def spin() -> None:
    """Other work."""
    while True:
        pass


def rate(work: Callable[[], object], seconds: float) -> float:
    """Calls a second."""
    start, calls = time.perf_counter(), 0
    while (now := time.perf_counter()) - start < seconds or not calls:
        work()
        calls += 1
    return calls / (now - start)


def beside_others(work: Callable[[], object], cores: int, seconds: float) -> float:
    """Calls a second beside so many spinning processes."""
    others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(cores)]
    for other in others:
        other.start()
    try:
        return rate(work, seconds)
    finally:
        for other in others:
            other.kill()
            other.join()


def main() -> None:
    """Quiet and busy in turn."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("program", type=Path, help="a compiled program")
    parser.add_argument("--engine", default="fused")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement")
    o = parser.parse_args()
    cores = os.cpu_count() or 1
    print(environment(o.threads))
    device = Device(o.program, o.engine, o.threads)
    warm_up(device.interpreter.datapath.codes())
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (device.batch_size, *device.input_shape[:2], 3), dtype=np.uint8)
    labels = np.arange(len(images)) % device.classes
    works: dict[str, Callable[[], object]] = {f"inference of {len(images)}": lambda: device.infer(images)}
    if device.trainable:
        works[f"training step of {len(images)}"] = lambda: device.train_step(images, labels)
    rows = []
    for name, work in works.items():
        work()
        quiet, busy = [], []
        for _ in range(o.repeat):
            quiet.append(rate(work, o.seconds))
            busy.append(beside_others(work, cores, o.seconds))
        share = statistics.median(b / q for b, q in zip(busy, quiet, strict=True))
        rows.append((name, 1e3 / statistics.median(quiet), 1e3 / statistics.median(busy), share))
    print("\n" + table(("", "ms quiet", "ms busy", "throughput left"), rows))
    finish(
        o, {"engine": o.engine, "busy": [dict(zip(("work", "quiet_ms", "busy_ms", "left"), row, strict=True)) for row in rows]}
    )


if __name__ == "__main__":
    main()
