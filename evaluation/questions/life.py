"""How long a device lives: the time until the first stored word is lost that its code cannot correct.

Three mechanisms, each of independent cells:

- *retention*: a cell turns round at the rate r (1/s); after t seconds it is wrong with p = (1 - exp(-2 r t)) / 2.
- *disturb*: every read turns a cell round with the probability q; reads add to the rate: r + q x reads a second.
  Both differ from cell to cell; p is the mean over cells.
- *endurance*: a cell is worn out after n writes with F = 1 - exp(-(n / N)^b), a Weibull distribution with the technology's endurance as N.

A word of n bits whose code corrects c is lost when more than c are wrong: P = sum over k > c of C(n, k) p^k (1 - p)^(n - k). Scrubbing reads all words
every T seconds and writes the corrected ones back; without it errors add up from the beginning. The life is the time at which half of
all devices have lost a word: the product of all 1 - P is 1/2.

Multiplications read cells as they are: a code protects what is stored, at scrubbing and at updates, not the products in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sasimc.evaluation.quantity import YEAR, format_duration
from sasimc.evaluation.table import Table

__all__ = ["CODES", "Code", "Duty", "Flips", "Life", "Rows", "life", "life_table", "lost"]

Floats = npt.NDArray[np.float64]

WEIBULL: Final = 2.0
"""Slope of the distribution of endurance (assumption; published slopes of tunnel barriers lie between 1 and 3)."""
LONGEST: Final = 1e6 * YEAR


@dataclass(frozen=True)
class Code:
    """An error-correcting code: ``data`` bits of a word, ``check`` bits beside them, how many wrong ones it corrects."""

    data: int
    check: int
    corrects: int

    @property
    def bits(self) -> int:
        """Bits of a word."""
        return self.data + self.check

    @property
    def overhead(self) -> float:
        """Cells, and bits written and read, relative to those of the data."""
        return self.bits / self.data


CODES: Final = {"none": Code(64, 0, 0), "secded": Code(64, 8, 1), "dec": Code(64, 14, 2)}
"""Without a code; single error correction, double error detection (Hsiao, IBM J. Res. Dev. 14, 395, 1970); double error correction (a shortened BCH code of
127 bits: 7 check bits for each error)."""


def lost(code: Code, p: npt.ArrayLike) -> Floats:
    """Probability that a word has more wrong bits than its code corrects; ``p``: of each bit. Exact for the smallest ``p`` as well."""
    p = np.asarray(p, np.float64)
    n, c = code.bits, code.corrects
    tail = sum((math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(c + 1, n + 1)), np.zeros_like(p))
    return np.minimum(tail, 1.0)


@dataclass(frozen=True)
class Flips:
    """How cells of a technology turn round. Kinds of cells [N]: ``share`` of each (sum 1), ``rate`` 1/s at rest, ``disturb`` by a read. ``source``: what they
    rest on."""

    share: tuple[float, ...]
    rate: tuple[float, ...]
    disturb: tuple[float, ...]
    source: str

    @property
    def mean(self) -> tuple[float, float]:
        """Rate and disturb, mean over cells."""
        return float(np.dot(self.share, self.rate)), float(np.dot(self.share, self.disturb))


@dataclass(frozen=True)
class Rows:
    """Word lines with equal use: how many, bits of each, writes and reads of each in a run."""

    count: int
    bits: int
    writes: float
    reads: float


@dataclass(frozen=True)
class Duty:
    """What a device does: runs a second, the code of its words, seconds between scrubbings (0: none)."""

    runs: float
    code: Code
    scrub: float


@dataclass(frozen=True)
class Life:
    """Seconds until half of all devices have lost a word, by each mechanism alone and by all; ``LONGEST`` stands for as long or longer."""

    retention: float
    disturb: float
    endurance: float
    all: float

    @property
    def limit(self) -> str:
        """The mechanism that ends it first."""
        return min(("retention", "disturb", "endurance"), key=lambda name: getattr(self, name))


def life(rows: Sequence[Rows], flips: Flips, endurance: float, duty: Duty) -> Life:
    """Life of a device whose word lines are used as ``rows`` say."""

    def hazard(p: Floats) -> float:
        """-ln of the probability that no word is lost."""
        return -float(np.dot(words, np.log1p(-np.minimum(lost(duty.code, p), 1 - 1e-16))))

    share, rate, disturb = (np.array(x) for x in (flips.share, flips.rate, flips.disturb))
    reads = np.array([[r.reads * duty.runs] for r in rows])

    def soft(rates: Floats) -> Callable[[float], float]:
        """``rates`` [rows, kinds of cells]."""

        def grown(t: float) -> float:
            step, times = (duty.scrub, t / duty.scrub) if 0 < duty.scrub < t else (t, 1.0)
            return times * hazard(-np.expm1(-2 * rates * step) @ share / 2)

        return grown

    def hard(t: float) -> float:
        worn = np.array([-math.expm1(-((r.writes * duty.runs * t / endurance) ** WEIBULL)) for r in rows])
        return hazard(worn)

    words = np.array([r.count * r.bits / duty.code.data for r in rows])
    still, read = np.broadcast_to(rate, (len(rows), len(rate))), reads * disturb
    both = soft(still + read)
    return Life(_half(soft(still)), _half(soft(read)), _half(hard), _half(lambda t: both(t) + hard(t)))


def _half(hazard: Callable[[float], float]) -> float:
    """When a hazard that grows with time reaches ln 2."""
    low, high = math.log(1e-6), math.log(LONGEST)
    if hazard(LONGEST) < math.log(2):
        return LONGEST
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if hazard(math.exp(middle)) < math.log(2) else (low, middle)
    return math.exp(high)


def _time(seconds: float) -> str:
    return "> 1e6 years" if seconds >= LONGEST else format_duration(seconds)


def life_table(found: Sequence[tuple[str, str, Life]]) -> Table:
    """Lives by technology and code."""
    rows = [
        (technology, code, _time(x.endurance), _time(x.retention), _time(x.disturb), _time(x.all), x.limit)
        for technology, code, x in found
    ]
    columns = ("technology", "code", "endurance alone", "retention alone", "disturb alone", "all", "limit")
    return Table("time until half of all devices have lost a word", columns, rows, left=(0, 1, 6))


def as_dict(technology: str, code: str, x: Life) -> dict[str, Any]:
    """For JSON: years; null where it is longer than a million."""
    years = {f"{k}_years": None if v >= LONGEST else v / YEAR for k, v in vars(x).items()}
    return {"technology": technology, "code": code, **years, "limit": x.limit}
