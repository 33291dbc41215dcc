"""The device model: time of an LLG ensemble, and the figures of every stack beside the paper's.

    python benchmarks/device.py [--writes 10000] [--threads 2] [--json FILE]

A write is one bit: thermal start, pulse, release and 2 ns of rest, 1 ps a step. Times are wall and processor seconds of the writes alone
(the kernel compiled before).
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from common import add_common, environment, finish, table


def main() -> None:
    """Time the ensembles, then print each stack's figures."""
    from sasimc.evaluation.device.figures import device_report
    from sasimc.evaluation.device.macro import RELAX_S
    from sasimc.evaluation.device.write import METHODS, run_write, write_of
    from sasimc.evaluation.quantity import format_si
    from sasimc.evaluation.technologies.load import load_technology

    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--writes", type=int, default=10_000)
    parser.add_argument("--technology", default="sas")
    o = parser.parse_args()
    print(environment(o.threads))
    technology = load_technology(o.technology)
    low, high = technology.resistance_low, technology.resistance_high
    assert low is not None
    assert high is not None
    resistances = (low.si, high.si)
    _, default = technology.stack()
    run_write(default, write_of(default, "sas"), resistances, 2)  # compiles the kernel, or loads it

    times: list[dict[str, Any]] = []
    for name in technology.stacks:
        _, stack = technology.stack(name)
        for method in METHODS if stack is default else METHODS[:1]:
            write = write_of(stack, method)
            for threads in sorted({1, o.threads}):
                wall, cpu = time.perf_counter(), time.process_time()
                got = run_write(stack, write, resistances, o.writes, threads=threads)
                row = {
                    "stack": name,
                    "method": method,
                    "threads": threads,
                    "writes": o.writes,
                    "simulated_ns": (write.latency + RELAX_S) * 1e9,
                }
                row |= {"wall_s": time.perf_counter() - wall, "processor_s": time.process_time() - cpu, "errors": got.errors}
                times.append(row)
    print("\n" + table(list(times[0]), [row.values() for row in times]))

    figures: dict[str, Any] = {}
    for name in technology.stacks:
        report = device_report(technology, name, writes=o.writes, threads=o.threads, record=0)
        figures[name] = report.rows()
        rows = [(f.name, f, f.paper or "", "" if f.ratio is None else format_si(f.ratio, "1"), f.how) for f in report.figures]
        print(f"\nStack {name}: {report.stack.description}\n\n" + table(["figure", "ours", "paper", "ratio", "how"], rows))
    finish(o, {"times": times, "figures": figures})


if __name__ == "__main__":
    main()
