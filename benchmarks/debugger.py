"""What the debugger costs: running without breakpoints beside the plain run, and going back.

    python benchmarks/debugger.py prog.s [--engine fused] [--repeat 5] [--json FILE]

The program is a compiled one with a training step; images are noise. Runs of both kinds alternate in one process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import add_common, environment, finish, peak_rss_mb, table

from sasimc.debug.history import Run
from sasimc.debug.session import Session
from sasimc.isa.files import load_program
from sasimc.runtime.device import Device


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall and processor seconds, and the result."""
    wall, processor = time.perf_counter(), time.process_time()
    made = work()
    return time.perf_counter() - wall, time.process_time() - processor, made


def main() -> None:
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("program", type=Path)
    parser.add_argument("--engine", default="fused")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="training steps of a run")
    parser.set_defaults(threads=1)
    o = parser.parse_args()
    program = load_program(o.program)
    plain, watched = Device(program, o.engine, o.threads), Device(program, o.engine, o.threads)
    n, rng = plain.batch_size, np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (n, *plain.input_shape[:2], 3), dtype=np.uint8), np.arange(n) % plain.classes

    def run(number: int) -> Run | None:
        return Run("train_step", f"step {number + 1}", lambda it: feed(watched), number + 1) if number < o.steps else None

    def feed(device: Device) -> None:
        device.feed_step(images, labels, head_exponent=3, module_exponent=2)

    def steps() -> int:
        plain.interpreter.reset_counters()
        for _ in range(o.steps):
            feed(plain)
            plain.interpreter.run("train_step")
        return plain.interpreter.cycles  # every stop and every report of a run says it

    session = Session(watched, run)
    start = session.it.snapshot()
    steps()
    session.resume()
    ratios: list[tuple[float, float]] = []
    plain_s: list[float] = []
    for _ in range(o.repeat):
        plain.interpreter.restore(start)
        watched.interpreter.restore(start)
        session = Session(watched, run)
        both = [timed(steps), timed(session.resume)]
        ratios.append((both[1][0] / both[0][0], both[1][1] / both[0][1]))
        plain_s.append(both[0][1] / o.steps)
    rows: list[tuple[str, Any, Any]] = [
        ("plain run, a training step, processor s", min(plain_s), ""),
        ("without breakpoints / plain run, median (wall, processor)", median(r[0] for r in ratios), median(r[1] for r in ratios)),
    ]
    session = Session(watched, run)
    session.add_breakpoint("step 2")
    session.resume()
    session.delete(1)
    works: dict[str, Callable[[], Any]] = {
        "one step back after a whole training step": lambda: session.step(backwards=True),
        "one more step back": lambda: session.step(backwards=True),
        "one over, back": lambda: session.over(backwards=True),
    }
    for name, work in works.items():
        rows.append((f"{name} (wall, processor s)", *timed(work)[:2]))
    session.goto(session.history.starts[1])
    update = next(name for name, m in program.matrices.items() if m.trainable and m.kind != "scratch")
    wall, processor, hit = timed(lambda: session.last_write(f'"{update}"'))
    rows.append((f"who wrote {update} last{'' if hit else ' (nobody)'} (wall, processor s)", wall, processor))
    wall, processor, _ = timed(lambda: session.goto(0))
    rows.append(("to the beginning (wall, processor s)", wall, processor))
    session.goto(session.history.starts[1])
    print(
        f"{o.program}: {session.history.time} instructions a training step of {n}, engine {o.engine}, {o.threads} threads, {environment(1)['cpu']}"
    )
    print(table(("what", "", ""), rows))
    kept = session.history.checkpoints
    print(f"{len(kept)} checkpoints, {kept.bytes / 1e6:.0f} MB; peak memory {peak_rss_mb():.0f} MB")
    finish(o, {"rows": rows, "engine": o.engine, "checkpoint_mb": kept.bytes / 1e6, "peak_mb": peak_rss_mb()})


if __name__ == "__main__":
    main()
