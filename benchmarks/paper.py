"""Every checkable number of the paper beside ours (`sasc paper`), and what the cost model adds to the run time of `fused`.

    python benchmarks/paper.py [--steps 3] [--writes 10000] [--no-table] [--json FILE]

The overhead is measured on training steps of MobileNet-V2 1.0/224 + Rep-Net with random weights: time inside the counting of events by instruction
(its timer included, so an upper bound), and time of everything that is done with the counts: laps of an epoch, profile, energies, report. Processor
time, because other work on the computer stretches the clock's; use --threads 1.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import add_common, environment, finish, table

from sasimc.api import CompileOptions, compile_model
from sasimc.cli.paper import compiled_network
from sasimc.costs import cost_of, price_list
from sasimc.evaluation.paper.table import device_lines, paper_lines, paper_tables, peer_table
from sasimc.evaluation.text import cost_lines
from sasimc.isa.machine import load_machine
from sasimc.profiling.profile import Meter, profile, profile_rows
from sasimc.runtime.device import Device
from sasimc.runtime.warmup import warm_up
from sasimc.zoo.zoo import ZooOptions, build, write


class Timed:
    """A function that adds up the time spent in it."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.seconds, self.calls = inner, 0.0, 0

    def __call__(self, *args: Any) -> Any:
        start = time.process_time()
        try:
            return self.inner(*args)
        finally:
            self.seconds += time.process_time() - start
            self.calls += 1


def overhead(steps: int, threads: int) -> dict[str, Any]:
    """Seconds of some training steps on `fused`, and of all that the cost model adds to them."""
    with tempfile.TemporaryDirectory() as folder:
        model = write(build("mobilenetv2-repnet", ZooOptions(classes=102)), Path(folder) / "model.onnx")
        program = compile_model(model, CompileOptions()).program
    device = Device(program, "fused", threads)
    it = device.interpreter
    warm_up(it.datapath.codes())
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, *device.input_shape)).astype(np.uint8)
    labels = rng.integers(0, 102, 8)
    device.train_step(images, labels)  # binds, prepares weights
    it.reset_counters()
    counting = Timed(it.datapath.settle)
    it.datapath.settle = counting  # type: ignore[method-assign]
    meter = Meter(it)
    start = time.process_time()
    for _ in range(steps):
        device.train_step(images, labels)
    run_s = time.process_time() - start
    start = time.process_time()
    lap = meter.lap()
    prices = price_list("sas")
    rows = profile_rows(it)
    cost = cost_of(it, {"images": 8 * steps}, prices, rows)
    lines = cost_lines(cost)
    summary_s = time.process_time() - start
    start = time.process_time()
    report = json.dumps({"epochs": [lap], "cost": cost.summary(), **profile(it, rows)})
    report_s = time.process_time() - start
    per_image = run_s / (8 * steps)
    epoch_s = 1000 * per_image
    return {
        "images": 8 * steps,
        "run_s": run_s,
        "counting_s": counting.seconds,
        "counting_calls": counting.calls,
        "summary_s": summary_s,
        "report_s": report_s,
        "report_bytes": len(report),
        "energy_j": cost.energy,
        "said": lines,
        "percent_of_these_steps": 100 * (counting.seconds + summary_s + report_s) / run_s,
        "percent_of_1000_images": 100 * (counting.seconds / run_s + (summary_s + report_s) / epoch_s),
    }


def main() -> None:
    """Measure, print, write."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--steps", type=int, default=3, help="training steps of 8 images")
    parser.add_argument("--writes", type=int, default=10_000, help="writes of each method in the device model")
    parser.add_argument("--no-table", action="store_true", help="only the overhead")
    o = parser.parse_args()
    figures: dict[str, Any] = {}
    if not o.no_table:
        model = price_list("sas").model(load_machine())
        network = compiled_network(model.machine, print)
        lines = paper_lines(model, network, device_lines(model, o.writes, threads=o.threads))
        tables, assumptions = paper_tables(lines)
        for t in (*tables, peer_table(model)):
            print("\n".join(["", *t.lines()]))
        print("\n".join(["", "assumptions", *(f"  {text}" for text in assumptions)]))
        figures["lines"] = [line.as_dict() for line in lines]
    found = figures["overhead"] = overhead(o.steps, o.threads)
    print("\noverhead of the cost model on `fused`, MobileNet-V2 1.0/224 + Rep-Net, training\n")
    rows = [(name.replace("_", " "), value) for name, value in found.items() if name != "said"]
    print(table(("what", "value"), rows))
    print("\n" + "\n".join(found["said"]))
    print("\n" + ", ".join(f"{k} {v}" for k, v in environment(o.threads).items()))
    finish(o, figures)


if __name__ == "__main__":
    main()
