"""Accuracy over devices: mean and confidence interval of `sasrun --variation N --eval ... --json FILE` over the files of several devices.

    python benchmarks/variation.py device0.json device1.json ...

The interval is Student's, 95 %; it holds for the mean of such devices on these images.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
from scipy.stats import t


def interval(values: list[float], confidence: float = 0.95) -> tuple[float, float]:
    """(mean, half width) of Student's interval."""
    n = len(values)
    if n < 2:
        return float(np.mean(values)), math.nan
    return float(np.mean(values)), float(t.ppf((1 + confidence) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def main() -> None:
    """Read the reports, print the interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path)
    found = [json.loads(path.read_text())["top1"] for path in parser.parse_args().reports]
    mean, half = interval(found)
    print(
        f"{len(found)} devices: top-1 {100 * mean:.2f} +- {100 * half:.2f} %, from {100 * min(found):.2f} to {100 * max(found):.2f} %"
    )


if __name__ == "__main__":
    main()
