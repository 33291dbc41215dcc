"""What the benchmarks share: where things are, what ran on what, tables and JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

__all__ = ["TESTS", "add_common", "data_folder", "environment", "finish", "peak_rss_mb", "table"]


TESTS = Path(__file__).resolve().parents[1] / "tests"
"""Helpers that the tests share with benchmarks."""


def add_common(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Options every benchmark has: ``--data``, ``--threads``, ``--json``."""
    parser.add_argument("--data", type=Path, default=os.environ.get("SASIMC_DATA"), help="folder of data sets and weights")
    parser.add_argument("--threads", type=int, default=2, help="threads of the simulator and of onnxruntime")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser


def data_folder(options: argparse.Namespace) -> Path:
    """``--data`` or SASIMC_DATA; ends the program when there is none."""
    if options.data is None or not Path(options.data).is_dir():
        sys.exit("this benchmark needs real data: --data FOLDER or SASIMC_DATA")
    return Path(options.data)


def environment(threads: int) -> dict[str, Any]:
    """Date, processor, versions, threads: what a figure depends on."""
    import numba
    import numpy
    import onnxruntime

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        cpu = next(
            (line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")), cpu
        )
    return {
        "date": date.today().isoformat(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "numba": numba.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def peak_rss_mb() -> float:
    """Peak resident memory of this process, MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss of a forked process begins with its parent's
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    text = [[_cell(c) for c in row] for row in rows]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in text)])


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def finish(options: argparse.Namespace, figures: Mapping[str, Any]) -> None:
    """Write ``--json``."""
    if options.json:
        made = {"environment": environment(options.threads), **figures}
        options.json.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {options.json}")
