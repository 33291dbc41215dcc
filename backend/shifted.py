"""Several output pixels of one kernel side by side: shifted and duplicated kernels.

A word line carries one input element, so a layer of few output features leaves columns of it idle. P neighbouring output pixels of a row share most of
their window: kernels for all of them, each shifted by the stride, stand side by side over the union of the P windows. In memory the P x N
results of such a product are neighbours, so nothing else changes: the product sees an output of W / P pixels with P N channels, a kernel of the
union's width and P times the stride. What is left of a row (W mod P pixels) has a narrower matrix of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import gcd

import numpy as np
import numpy.typing as npt

__all__ = ["RowWindow", "choices", "lines", "shifted", "splits", "wide"]

MOST = 32
"""Most output pixels side by side."""


@dataclass(frozen=True)
class RowWindow:
    """What a dense convolution reads along a row: kernel height and width, horizontal stride, dilation and left padding, output width."""

    height: int
    kernel: int
    stride: int
    dilation: int
    pad: int
    width: int


def wide(window: RowWindow, side: int) -> tuple[int, int]:
    """Width and dilation of the union of ``side`` neighbouring windows."""
    if side == 1:
        return window.kernel, window.dilation
    step = gcd(window.stride, window.dilation)
    return ((window.kernel - 1) * window.dilation + (side - 1) * window.stride) // step + 1, step


def splits(window: RowWindow, side: int) -> list[tuple[int, int, int]]:
    """(pixels side by side, first output pixel, groups of pixels a row) of each matrix that covers a row."""
    groups, rest = divmod(window.width, side)
    return [(side, 0, groups), *([(rest, window.width - rest, 1)] if rest else [])]


def lines(window: RowWindow, n: int, side: int, columns: int) -> int:
    """Word lines of ``columns`` weights that one kernel row drives for a row of output pixels and one input channel."""
    return sum(groups * wide(window, s)[0] * -(-s * n // columns) for s, _, groups in splits(window, side))


@lru_cache(maxsize=4096)
def choices(window: RowWindow, n: int, columns: int) -> tuple[int, ...]:
    """Numbers of pixels side by side worth pricing, fewest word lines first; 1 (kernels as they are) is always among them.

    ``n``: output features of the matrix; ``columns``: weights of a word line.
    """

    def possible(side: int) -> bool:
        # what is left of a row is read from a column on that must not lie in the padding
        return all(first == 0 or first * window.stride >= window.pad for _, first, _ in splits(window, side))

    plain = lines(window, n, 1, columns)
    found = [(lines(window, n, side, columns), side) for side in range(2, min(MOST, window.width) + 1) if possible(side)]
    return (*(side for count, side in sorted(found)[:4] if count < plain), 1)


def _places(window: RowWindow, side: int) -> Iterator[npt.NDArray[np.intp]]:
    """Columns of the union at which each pixel's kernel columns stand."""
    _, step = wide(window, side)
    for pixel in range(side):
        yield (pixel * window.stride + np.arange(window.kernel) * window.dilation) // step


def shifted(values: npt.NDArray[np.int8], window: RowWindow, side: int) -> npt.NDArray[np.int8]:
    """[K, N] -> [K', side * N]: a copy of the kernels for every pixel, zero where its window does not reach."""
    if side == 1:
        return values
    n = values.shape[1]
    kernels = values.reshape(window.height, window.kernel, -1, n)
    out = np.zeros((window.height, wide(window, side)[0], kernels.shape[2], side, n), np.int8)
    for pixel, at in enumerate(_places(window, side)):
        out[:, :, :, pixel][:, at] = kernels
    return out.reshape(-1, side * n)
