"""Processor seconds of one program on one thread, for comparing versions: run it in each version's checkout in turn, more than once.

    python benchmarks/beside.py prog.s [--engine fused] [--repeat 5] [--json FILE]

The program is a compiled one with a training step; images are noise, which costs as much as any.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import add_common, finish, peak_rss_mb, table

from sasimc.runtime.device import Device


def seconds(work: Callable[[], Any], repeat: int) -> tuple[float, float]:
    """Processor seconds of the first call, and the best of the later ones."""
    taken = []
    for _ in range(repeat + 1):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return taken[0], min(taken[1:])


def main() -> None:
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("program", type=Path)
    parser.add_argument("--engine", default="fused")
    parser.add_argument("--repeat", type=int, default=5)
    parser.set_defaults(threads=1)
    o = parser.parse_args()
    device = Device(o.program, o.engine, o.threads)
    n = device.batch_size
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, *device.input_shape[:2], 3), dtype=np.uint8)
    labels = np.arange(n) % device.classes
    works: dict[str, Callable[[], Any]] = {
        f"inference of {n}": lambda: device.infer(images),
        f"training step of {n}": lambda: device.train_step(images, labels),
        "inference of 1": lambda: device.infer(images[:1]),
    }
    rows = [(name, *seconds(work, o.repeat)) for name, work in works.items()]
    print(table(("what", "first, s", "best, s"), rows))
    print(f"peak memory {peak_rss_mb():.0f} MB")
    finish(o, {"rows": rows, "engine": o.engine, "peak_mb": peak_rss_mb()})


if __name__ == "__main__":
    main()
