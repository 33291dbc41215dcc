"""Power over time, and a storage that it fills.

A trace is a row of equal intervals, each of constant power, that repeats for ever. The shipped forms, with mean P and period T:

- ``constant``: P.
- ``duty``: P / share for the first share of every period, then nothing.
- ``solar``: the positive half of a sine wave of period T (the day), dimmed by clouds: every 1/48 of a day a factor drawn evenly from 0.3 to 1.
- ``rf``: P / share in bursts; bursts and pauses have exponentially distributed lengths with the means share x T and (1 - share) x T.
- ``vibration``: 2 sin^2(pi t / T), the amplitude of every period drawn from a Rayleigh distribution.

The drawn ones have 64 periods and are scaled to the mean P exactly.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from sasimc.evaluation.supply.supply import Supply
from sasimc.isa.errors import SasError

__all__ = ["Trace", "trace_of"]

Floats = npt.NDArray[np.float64]

_PERIODS: Final = 64
_A_PERIOD: Final = 96
_CLOUD: Final = _A_PERIOD // 48
_LARGEST: Final = 1 << 20


@dataclass(frozen=True)
class Trace:
    """``watts`` [N] for intervals of ``dt`` seconds, repeated."""

    dt: float
    watts: Floats

    @cached_property
    def _energy(self) -> Floats:
        """Joules up to the beginning of each interval, and to the end of the last [N + 1]."""
        return np.concatenate([[0.0], np.cumsum(self.watts) * self.dt])

    @property
    def length(self) -> float:
        """Seconds until it repeats."""
        return self.dt * len(self.watts)

    def until(self, t: float) -> float:
        """Joules from 0 to ``t`` seconds."""
        times, rest = divmod(t, self.length)
        at = min(int(rest / self.dt), len(self.watts) - 1)
        return float(times * self._energy[-1] + self._energy[at] + (rest - at * self.dt) * self.watts[at])

    def between(self, start: float, end: float) -> float:
        """Joules from ``start`` to ``end``."""
        return self.until(end) - self.until(start)

    def filled(self, start: float, stored: float, wanted: float, efficiency: float, leak: float) -> float | None:
        """When a storage that holds ``stored`` joules at ``start``, gets ``efficiency`` of the power and loses ``leak`` watts holds ``wanted``; None:
        never."""
        if stored >= wanted:
            return start
        net = efficiency * self.watts - leak
        at = int((start % self.length) / self.dt) % len(self.watts)
        left, t = max(0.0, (at + 1) * self.dt - start % self.length), start
        while True:
            order = net[at:]
            lengths = np.full(len(order), self.dt)
            lengths[0] = left
            free = stored + np.cumsum(order * lengths)  # were it allowed to be below zero
            level = free - np.minimum(np.minimum.accumulate(free), 0.0)
            hits = np.flatnonzero(level >= wanted)
            if hits.size:
                i = int(hits[0])
                had = float(level[i - 1]) if i else stored
                return t + float(lengths[:i].sum()) + (wanted - had) / float(order[i])
            gained = float(level[-1]) - stored
            t, stored, whole = t + float(lengths.sum()), float(level[-1]), at == 0 and left == self.dt
            at, left = 0, self.dt
            if whole and gained <= 1e-12 * wanted:
                return None
            if whole and free.min() >= 0:  # every further round gains as much
                rounds = max(0, math.floor((wanted - float(level.max())) / gained) - 1)
                t, stored = t + rounds * self.length, stored + rounds * gained


def trace_of(supply: Supply) -> Trace:
    """The trace of a supply.

    Raises:
        SasError: a CSV file that cannot be read or holds no trace.
    """
    power, period, share = supply.power.si, supply.period.si, supply.share.si
    if supply.trace.endswith(".csv"):
        return _measured(Path(supply.trace))
    rng, n = np.random.default_rng(supply.seed), _PERIODS * _A_PERIOD
    phase = (np.arange(n) % _A_PERIOD + 0.5) / _A_PERIOD
    if supply.trace == "constant":
        return Trace(period, np.array([power]))
    if supply.trace == "duty":
        on = max(1, round(share * 1000))
        shape = np.concatenate([np.ones(on), np.zeros(1000 - on)])
        return Trace(period / 1000, power * shape / shape.mean())
    if supply.trace == "solar":
        shape = np.maximum(0.0, np.sin(2 * math.pi * phase)) * np.repeat(rng.uniform(0.3, 1.0, n // _CLOUD), _CLOUD)
    elif supply.trace == "rf":
        shape = np.zeros(n)
        lengths = rng.exponential(1.0, 4 * _PERIODS) * np.tile([share, 1 - share], 2 * _PERIODS) * _A_PERIOD
        edges = np.round(np.cumsum(lengths)).astype(int)
        for first, last in zip(np.concatenate([[0], edges[1::2]]), edges[::2], strict=False):
            shape[first:last] = 1.0
    else:
        shape = 2 * np.sin(math.pi * phase) ** 2 * np.repeat(rng.rayleigh(1.0, _PERIODS), _A_PERIOD) ** 2
    return Trace(period / _A_PERIOD, power * shape / shape.mean())


def _measured(path: Path) -> Trace:
    """Seconds and watts from a CSV file: brought to equal intervals by the mean in each."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            rows = [row for row in csv.reader(f) if row and not row[0].lstrip().startswith("#")]
        if rows and not _numbers(rows[0]):
            rows = rows[1:]  # a heading
        points = np.array([[float(x) for x in row[:2]] for row in rows], np.float64).reshape(-1, 2)
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise SasError(f"cannot read the power trace: {getattr(exc, 'strerror', None) or exc}", where=str(path)) from None
    except ValueError as exc:
        raise SasError(f"a power trace has rows of seconds and watts: {exc}", where=str(path)) from None
    t, watts = points.T
    if (
        not 2 <= len(t) <= _LARGEST
        or not np.isfinite(points).all()
        or (np.diff(t) <= 0).any()
        or (watts < 0).any()
        or not watts.any()
    ):
        raise SasError(
            "not a power trace: 2 to 1048576 rows of ascending seconds and watts, none negative, some above zero", where=str(path)
        )
    gained = np.concatenate([[0.0], np.cumsum(watts[:-1] * np.diff(t))])
    n = min(len(t) - 1, _LARGEST)
    grid = np.linspace(t[0], t[-1], n + 1)
    return Trace(float(grid[1] - grid[0]), np.diff(np.interp(grid, t, gained)) / (grid[1] - grid[0]))


def _numbers(row: list[str]) -> bool:
    try:
        return bool([float(x) for x in row[:2]])
    except ValueError:
        return False
