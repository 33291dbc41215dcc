"""Operating points of a write: how much error a pulse is allowed, and what is done about it.

A pulse has the error rate e of a bit, an energy E of a bit and a latency t. On it:

- *plain*: e, E, t.
- *verified, at most k times again*: after each write the row is read and the bits that are wrong are written again. e^(k+1) is left, or the read error rate where that is
  larger. Bits: E (1 + e + e^2 + ...) + a read each time; time: a write and a read for every round that a row of B bits still needs, 1 - (1 - e^j)^B for round j.
- *code*: words carry check bits. E and the area grow by their share; what is left of e is seen by reads through the code only (scrubbing, updates), not by products.
- *low-order bits approximate*: the lowest m bits of each weight are written with another, cheaper pulse. The error of a weight is sqrt(sum of e_b 4^b) steps, root mean
  square (a wrong bit b changes the weight by 2^b).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sasimc.evaluation.quantity import format_si
from sasimc.evaluation.questions.life import CODES, Code
from sasimc.evaluation.table import Table

__all__ = ["Access", "Operating", "approximate", "coded", "front", "left_by", "operating_points", "operating_table", "verified"]

WEIGHT_BITS: Final = 8


@dataclass(frozen=True)
class Access:
    """A pulse that writes, or a read: error rate of a bit, joules of a bit, seconds of a row."""

    error: float
    energy: float
    latency: float


@dataclass(frozen=True)
class Operating:
    """A way to write: error rate of a stored bit as products see it, joules of a data bit, mean seconds of a row, cells of a data bit; ``weight_error``: steps,
    root mean square; ``read_through``: error rate of a bit that is read through the code."""

    how: str
    pulse: Access
    error: float
    energy: float
    latency: float
    cells: float
    weight_error: float
    read_through: float

    def dominated_by(self, other: Operating) -> bool:
        """Whether another is no worse in both errors, energy and latency, and better in one."""
        mine, its = ((p.weight_error, p.read_through, p.energy, p.latency) for p in (self, other))
        return its != mine and all(b <= a for a, b in zip(mine, its, strict=True))


def weight_error(errors: Sequence[float]) -> float:
    """Root mean square of what wrong bits change in a weight, in steps; ``errors``: of bit 0, 1, ..."""
    return math.sqrt(math.fsum(e * 4.0**b for b, e in enumerate(errors)))


def left_by(code: Code, error: float) -> float:
    """Error rate of a bit that is read through a code: a word with more wrong bits than it corrects keeps them."""
    n = code.bits
    return math.fsum(k / n * math.comb(n, k) * error**k * (1 - error) ** (n - k) for k in range(code.corrects + 1, n + 1))


def _plain(how: str, pulse: Access, **changes: float) -> Operating:
    error = changes.get("error", pulse.error)
    all_bits = weight_error([error] * WEIGHT_BITS)
    values = {
        "error": error,
        "energy": pulse.energy,
        "latency": pulse.latency,
        "cells": 1.0,
        "weight_error": all_bits,
        "read_through": error,
    }
    return Operating(how, pulse, **{**values, **changes})


def verified(pulse: Access, read: Access, times: int, row_bits: int) -> Operating:
    """Written, read, and written again at most ``times`` times where it is wrong."""
    rounds = [-math.expm1(row_bits * math.log1p(-min(pulse.error**j, 1 - 1e-16))) if j else 1.0 for j in range(times + 1)]
    energy = pulse.energy * math.fsum(pulse.error**j for j in range(times + 1)) + read.energy * math.fsum(rounds)
    error = max(pulse.error ** (times + 1), read.error if pulse.error > read.error else 0.0)
    latency = (pulse.latency + read.latency) * math.fsum(rounds)
    return _plain(f"verified, again {times} x", pulse, error=error, read_through=error, energy=energy, latency=latency)


def coded(pulse: Access, name: str) -> Operating:
    """Words with check bits."""
    code = CODES[name]
    return _plain(
        f"code {name}", pulse, energy=pulse.energy * code.overhead, cells=code.overhead, read_through=left_by(code, pulse.error)
    )


def approximate(good: Access, cheap: Access, low_bits: int) -> Operating:
    """The lowest bits of each weight written with a cheaper pulse; a row waits for the slower one."""
    share = low_bits / WEIGHT_BITS
    errors = [cheap.error] * low_bits + [good.error] * (WEIGHT_BITS - low_bits)
    mean = math.fsum(errors) / WEIGHT_BITS
    return _plain(
        f"low {low_bits} bits at {cheap.error:.1g}", good, error=mean, read_through=mean, weight_error=weight_error(errors),
        energy=share * cheap.energy + (1 - share) * good.energy, latency=max(good.latency, cheap.latency),
    )  # fmt: skip


def operating_points(pulses: Sequence[Access], read: Access, row_bits: int) -> Iterator[Operating]:
    """Everything that can be made of some pulses."""
    for pulse in pulses:
        yield _plain("plain", pulse)
        yield from (verified(pulse, read, times, row_bits) for times in (1, 2, 3))
        yield from (coded(pulse, name) for name in CODES if name != "none")
    for good in pulses:
        cheaper = [p for p in pulses if p.error > good.error and p.energy < good.energy]
        yield from (approximate(good, cheap, bits) for cheap in cheaper for bits in (2, 4))


def front(points: Iterable[Operating]) -> list[Operating]:
    """The points that no other dominates, by energy."""
    every = list(points)
    return sorted((p for p in every if not any(p.dominated_by(q) for q in every)), key=lambda p: (p.energy, p.weight_error))


def operating_table(method: str, points: Sequence[Operating]) -> Table:
    """Points as rows."""
    rows = [
        (
            p.how, f"{p.pulse.error:.2g}", f"{p.error:.2g}", f"{p.read_through:.2g}", f"{p.weight_error:.2g}", format_si(p.energy, "J/bit"),
            format_si(p.latency, "s"), f"{p.cells:.3g}",
        )
        for p in points
    ]  # fmt: skip
    columns = (
        "way",
        "error of the pulse",
        "error of a bit",
        "read through a code",
        "weight off by",
        "energy",
        "row",
        "cells a bit",
    )
    return Table(f"{method}: operating points that no other beats in errors, energy and time", columns, rows)


def as_dict(p: Operating) -> dict[str, Any]:
    """For JSON."""
    return {
        **{k: v for k, v in vars(p).items() if k != "pulse"},
        "pulse_error": p.pulse.error,
        "bit_error_rate": f"write={p.error:.3g}",
    }
