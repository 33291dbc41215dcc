"""Which epoch's weights a training ends with.

A validation split is small, and the best of ten epochs is best by luck as well: its weights are often those of an early epoch with large steps. By the one-standard-error
rule (Breiman et al. 1984, Classification and Regression Trees, section 3.4.3) the simplest model within one standard error of the best one is taken; here that is the last epoch, which had the smallest steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["Best", "KeepRule", "keeps", "standard_error"]

KeepRule = Literal["late", "best", "last"]
"""``late``: the last epoch within one standard error of the best on the validation split; ``best``: the best one (of equal ones the later); ``last``: the last one."""


def keeps(rule: KeepRule, now: float, best: float, error: float) -> bool:
    """Whether the weights of an epoch take the place of those that are kept.

    Args:
        now: its validation result, larger is better; NaN: there are no validation images.
        best: the best result so far, this one included.
        error: standard error of ``best``, in its units.
    """
    if rule == "last" or math.isnan(now):
        return True
    return now >= best - (error if rule == "late" else 0.0)


@dataclass
class Best:
    """The best validation result so far, larger is better (NaN: none), and its standard error."""

    result: float = float("nan")
    error: float = 0.0

    def takes(self, rule: KeepRule, now: float, error: float) -> bool:
        """Note the result of an epoch and its standard error; whether its weights take the place of those that are kept."""
        if not self.result > now:
            self.result, self.error = now, error
        return keeps(rule, now, self.result, self.error)


def standard_error(top1: float, images: int) -> float:
    """Of an accuracy in percent measured on that many images (binomial), points."""
    return math.sqrt(max(top1 * (100 - top1), 0.0) / max(1, images))
