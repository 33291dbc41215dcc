"""What a network that predicts values gives back, and how real targets become its integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.datasets.arrays import as_input
from sasimc.isa.errors import SasError

__all__ = ["NetworkOutput", "auc"]

Ints = npt.NDArray[np.int8 | np.uint8]


@dataclass(frozen=True)
class NetworkOutput:
    """``shape`` [H, W, C], integers of ``dtype`` with ``scale`` and ``zero``."""

    shape: tuple[int, int, int]
    dtype: str
    scale: float
    zero: int

    @property
    def size(self) -> int:
        """Values of an example."""
        return math.prod(self.shape)

    def integers(self, targets: npt.ArrayLike, where: str = "targets") -> Ints:
        """Real targets [n, ...] as the output would store them, [n, H, W, C].

        Raises:
            SasError: another number of values.
        """
        y = np.asarray(targets)
        if y.dtype.kind not in "biuf":
            raise SasError(f"{where}: {y.dtype}", hint="numbers are needed")
        if y.ndim == 1 and self.size == 1:
            y = y[:, None]
        return as_input(y.astype(np.float32), self.shape, self.dtype, self.scale, self.zero, where, "output has")

    def real(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Stored integers as real values."""
        return (stored.astype(np.float64) - self.zero) * self.scale


def auc(scores: npt.ArrayLike, anomalous: npt.ArrayLike) -> float:
    """Area under the ROC curve: how often an anomalous example has the larger score (a tie counts half). NaN unless there are both kinds."""
    s, odd = np.asarray(scores, np.float64), np.asarray(anomalous, bool)
    count = int(odd.sum())
    if not 0 < count < s.size:
        return float("nan")
    _, place, ties = np.unique(s, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[place]
    return float((ranks[odd].sum() - count * (count + 1) / 2) / (count * (s.size - count)))
