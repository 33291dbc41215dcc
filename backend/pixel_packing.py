"""Several output pixels of one kernel side by side: shifted and duplicated kernels.

A word line carries one input element, so a layer of few output features leaves columns of it idle. P neighbouring output pixels of a row share most of
their window: kernels for all of them, each shifted by the stride, stand side by side over the union of the P windows. In memory the P x N
results of such a product are neighbours, so nothing else changes: the product sees an output of W / P pixels with P N channels, a kernel of the
union's width and P times the stride.

A row of output pixels is cut into *runs*: groups of P pixels next to each other that use one matrix. What is left of a row is a run of its own, and
so are groups at the border, whose matrix lacks the kernel columns that only meet zero padding. Which runs drive the fewest word lines is a
shortest path along the row, exactly solved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import gcd

import numpy as np
import numpy.typing as npt

__all__ = ["RowWindow", "Run", "choices", "lines", "shifted"]

MOST = 32
"""Most output pixels side by side."""
PRICES = (0.0, 0.5, 2.0, 8.0, 32.0)
"""What a further matrix is worth in word lines: one way to cut a row each."""


@dataclass(frozen=True)
class RowWindow:
    """What a dense convolution reads along a row: kernel height and width, horizontal stride, dilation and left padding, output width.

    ``inputs``: input width where the padding is zero and need not be read, else 0.
    """

    height: int
    kernel: int
    stride: int
    dilation: int
    pad: int
    width: int
    inputs: int = 0

    @property
    def reads(self) -> int:
        """Kernel columns of all output pixels of a row that need be read."""
        if not self.inputs:
            return self.width * self.kernel
        at = np.arange(self.width)[:, None] * self.stride - self.pad + np.arange(self.kernel) * self.dilation
        return int(((at >= 0) & (at < self.inputs)).sum())

    def union(self, side: int) -> tuple[int, int]:
        """Width and dilation of the union of ``side`` neighbouring windows."""
        if side == 1:
            return self.kernel, self.dilation
        step = gcd(self.stride, self.dilation)
        return ((self.kernel - 1) * self.dilation + (side - 1) * self.stride) // step + 1, step

    def group(self, first: int, side: int, groups: int = 1) -> Run:
        """``groups`` times ``side`` pixels from ``first`` on; a single group lacks what it would only read of the padding."""
        size, step = self.union(side)
        start = first * self.stride - self.pad
        left = right = 0
        if self.inputs and groups == 1:
            left = max(0, -(start // step)) if start < 0 else 0
            right = max(0, size - max(0, -(-(self.inputs - start) // step)))
        if left + right >= size:
            left = right = 0
        return Run(side, first, groups, left, right)


@dataclass(frozen=True)
class Run:
    """``groups`` groups of ``side`` output pixels side by side, from pixel ``first`` on; kernel columns of the union left out at both ends."""

    side: int
    first: int
    groups: int
    left: int = 0
    right: int = 0

    def kernel(self, window: RowWindow) -> int:
        """Kernel columns."""
        return window.union(self.side)[0] - self.left - self.right

    def start(self, window: RowWindow) -> int:
        """Input column of the first kernel column (negative: in the padding)."""
        return self.first * window.stride - window.pad + self.left * window.union(self.side)[1]


def lines(window: RowWindow, n: int, runs: Sequence[Run], columns: int) -> int:
    """Word lines of ``columns`` weights that one kernel row drives for a row of output pixels and one input channel."""
    return sum(run.groups * run.kernel(window) * -(-run.side * n // columns) for run in runs)


@lru_cache(maxsize=4096)
def choices(window: RowWindow, n: int, columns: int) -> tuple[tuple[Run, ...], ...]:
    """Ways to cut a row worth pricing, fewest word lines first; the last one is one pixel at a time.

    ``n``: output features of the matrix; ``columns``: weights of a word line.
    """
    plain = (Run(1, 0, window.width),)
    if window.kernel == 1:
        return (plain,)

    def dense(side: int) -> float:
        return window.union(side)[0] * -(-side * n // columns) / side

    sides = sorted(range(1, min(MOST, window.width) + 1), key=lambda side: (dense(side), side))[:4]
    sides = sorted({*sides, *range(1, min(3, window.width) + 1)})
    found = {_shortest(window, n, columns, tuple(sides), price) for price in PRICES}
    most = lines(window, n, plain, columns)
    useful = [(count, runs) for runs in found if (count := lines(window, n, runs, columns)) < most]
    return (*(runs for _, runs in sorted(useful, key=lambda item: (item[0], len(item[1])))), plain)


def _shortest(window: RowWindow, n: int, columns: int, sides: Sequence[int], price: float) -> tuple[Run, ...]:
    """The runs of a row with the least sum of word lines and ``price`` a run."""
    # best[x][side]: cost and runs of the first x pixels, of which the last group is of ``side`` pixels and may go on (0: none may)
    best: list[dict[int, tuple[float, tuple[Run, ...]]]] = [{} for _ in range(window.width + 1)]
    best[0][0] = 0.0, ()
    for x in range(window.width):
        for side in sides:
            if x + side > window.width:
                continue
            run = window.group(x, side)
            count = lines(window, n, (run,), columns)
            for last, (cost, runs) in best[x].items():
                if run.left or run.right or last != side:
                    made, total = (*runs, run), cost + count + price + 1e-6
                else:
                    made, total = (*runs[:-1], Run(side, runs[-1].first, runs[-1].groups + 1)), cost + count
                key = 0 if run.left or run.right else side
                if key not in best[x + side] or total < best[x + side][key][0]:
                    best[x + side][key] = total, made
    return min(best[-1].values(), key=lambda item: item[0])[1]


def shifted(values: npt.NDArray[np.int8], window: RowWindow, run: Run) -> npt.NDArray[np.int8]:
    """[K, N] -> [K', side * N]: a copy of the kernels for every pixel of a group, zero where its window does not reach."""
    n = values.shape[1]
    size, step = window.union(run.side)
    kernels = values.reshape(window.height, window.kernel, -1, n)
    out = np.zeros((window.height, size, kernels.shape[2], run.side, n), np.int8)
    for pixel in range(run.side):
        at = (pixel * window.stride + np.arange(window.kernel) * window.dilation) // step
        out[:, :, :, pixel][:, at] = kernels
    return np.ascontiguousarray(out[:, run.left : size - run.right]).reshape(-1, run.side * n)
