"""Error rates that no ensemble reaches: extrapolated from hotter layers, and checked by importance sampling.

*Heat.* With little noise an error needs a least action S of the thermal field, whose chance is a Gaussian tail: ``p = Q(S / sqrt(T) + const)`` (Freidlin and Wentzell).
So the probit of p is a straight line in 1 / sqrt(heat), where heat multiplies the temperature of the thermal field alone. Errors are counted at
several heats and the line is carried on to heat 1.

*Splitting.* The ensemble is stopped a few times on its way; layers on their way to the wrong side are copied, others dropped, and the weights of the copies
keep the estimate free of bias (Del Moral and Garnier, Ann. Appl. Probab. 15, 2496, 2005). It samples at heat 1 and assumes no law.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sasimc.evaluation.device.macro import Macro, Write, thermal_start
from sasimc.evaluation.device.motion import Phase
from sasimc.evaluation.device.stack import Stack
from sasimc.evaluation.device.switching import stt_error
from sasimc.evaluation.device.write import patterns, run_write

__all__ = ["HEATS", "Tail", "extrapolate", "split", "stt_tail", "write_tail"]

Floats = npt.NDArray[np.float64]

HEATS = (2.5, 4.0, 6.0, 9.0)
"""At which errors are counted."""


@dataclass(frozen=True)
class Tail:
    """``probit`` at heat 1 and its standard error; ``slope`` in 1 / sqrt(heat); counted ``errors`` of ``bits`` at each of ``heats``."""

    heats: tuple[float, ...]
    errors: tuple[int, ...]
    bits: int
    probit: float
    sigma: float
    slope: float

    @property
    def rate(self) -> float:
        """Error rate at heat 1."""
        return _tail(self.probit)

    @property
    def bounds(self) -> tuple[float, float]:
        """Two standard errors of the fit down and up."""
        return _tail(self.probit + 2 * self.sigma), _tail(self.probit - 2 * self.sigma)


def _tail(probit: float) -> float:
    return 0.5 * math.erfc(probit / math.sqrt(2))


def extrapolate(heats: Sequence[float], errors: Sequence[int], bits: int) -> Tail:
    """The line through the probits of counted errors, by weighted least squares with a variance from the counts; a heat without errors counts as half of one
    with its large uncertainty. With errors in more than a third of the bits at every heat there is no tail, and the coldest count stands."""
    from scipy.special import ndtri

    n = np.maximum(np.asarray(errors, np.float64), 0.5)
    p = np.minimum(n / bits, 1 - 0.5 / bits)
    z = -ndtri(p)
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    sigma = np.sqrt(p * (1 - p) / bits) / density
    x = 1 / np.sqrt(np.asarray(heats))
    w = 1 / sigma**2
    mean = (w * x).sum() / w.sum()
    spread = (w * (x - mean) ** 2).sum()
    slope = float((w * (x - mean) * z).sum() / spread)
    middle = float((w * z).sum() / w.sum())
    at_one = middle + slope * (1 - mean)
    return Tail(
        tuple(heats), tuple(map(int, errors)), bits, float(at_one), math.sqrt(1 / w.sum() + (1 - mean) ** 2 / spread), slope
    )


def write_tail(
    stack: Stack, write: Write, resistances: tuple[float, float], *, macros: int = 1024, heats: Sequence[float] = HEATS, seed: int = 0,
    threads: int = 2, dt: float = 2e-12,
) -> tuple[Tail, Tail, tuple[int, int]]:  # fmt: skip
    """(tail of the mean bit, tail of the worst, which that is: pattern, position) of ``macros`` macro writes at each heat, all patterns in turn.

    The worst is the one with most errors; its own tail is counted in writes of its pattern alone, so that the choice does not colour it.
    """

    def wrong(side: Floats, part: int) -> list[npt.NDArray[np.bool_]]:
        return [
            run_write(stack, write, resistances, 1, side=side, heat=h, seed=seed + part, threads=threads, dt=dt).wrong
            for h in heats
        ]

    side = patterns(write.junctions, macros)
    found = wrong(side, 0)
    mean = extrapolate(heats, [int(w.sum()) for w in found], side.size)
    number = ((side > 0) << np.arange(write.junctions)).sum(axis=1)
    counts = np.array([sum(w[number == p].sum(axis=0) for w in found) for p in range(1 << write.junctions)])
    pattern, position = (int(i) for i in np.unravel_index(counts.argmax(), counts.shape))
    only = np.tile(patterns(write.junctions, pattern + 1)[pattern], (macros, 1))
    again = wrong(only, 1)
    return mean, extrapolate(heats, [int(w[:, position].sum()) for w in again], macros), (pattern, position)


def stt_tail(stack: Stack, write: Write, resistances: tuple[float, float]) -> tuple[Tail, Tail, tuple[int, int]]:
    """The same of STT alone on an axially symmetric layer, from the Fokker-Planck equation: nothing is counted (no heats)."""
    from scipy.special import ndtri

    volts = write.stt_voltage or write.stt_current * sum(resistances) / 2
    rates = stt_error(stack, resistances, volts, [write.stt_time])[0]
    mean, worst = (Tail((), (), 0, -float(ndtri(r)), 0.0, 0.0) for r in (rates.mean(), rates.max()))
    return mean, worst, (int(rates[0] > rates[1]), 0)


def split(
    stack: Stack, write: Write, resistances: tuple[float, float], side: Floats, position: int, *, macros: int = 4096, tilt: float = 1.0,
    stops: int = 10, seed: int = 0, threads: int = 2, dt: float = 2e-12, heat: float = 1.0,
) -> tuple[float, float]:  # fmt: skip
    """(error rate, its relative standard error) of the bit at ``position`` when the pattern ``side`` [J] is written, by splitting.

    At every stop a macro is kept in proportion to exp(-tilt x progress), where progress is how many standard deviations its layer is ahead of the others on
    its way to the side wanted; stops follow each other quickly at first, where most is decided.
    """
    rng = np.random.default_rng([seed, 17])
    macro = Macro(stack, write, resistances, heat, dt)
    sides = np.tile(side, (macros, 1))
    m = thermal_start(stack.scaled({"temperature": heat}), rng.choice([-1.0, 1.0], sides.shape), rng)
    scale, sum_, root = 0.0, np.zeros(macros), np.arange(macros)
    *parts, last = _cut(macro.phases(), stops)
    for part in parts:
        m = macro.run(m, sides, seed=int(rng.integers(1 << 62)), threads=threads, phases=part).final
        ahead = m[:, position, stack.easy] * side[position]
        score = -tilt * (ahead - ahead.mean()) / max(1e-9, float(ahead.std()))
        weight = np.exp(score)
        scale += math.log(float(weight.mean()))
        chosen = np.searchsorted(np.cumsum(weight) / weight.sum(), (rng.random() + np.arange(macros)) / macros)
        chosen = np.minimum(chosen, macros - 1)
        m, sum_, root = m[chosen], (sum_ + score)[chosen], root[chosen]
    m = macro.run(m, sides, seed=int(rng.integers(1 << 62)), threads=threads, phases=last).final
    hit = (m[:, position, stack.easy] * side[position] <= 0) * np.exp(scale - sum_)
    families = np.bincount(root, hit, macros)  # copies of one start are not independent
    mean = float(hit.mean())
    error = math.sqrt(float((families**2).sum())) / macros / mean if mean else math.inf
    return mean, error


def _cut(phases: Sequence[Phase], stops: int) -> list[list[Phase]]:
    """The phases in ``stops`` + 1 parts: drive and release, the bit lines' time in pieces of growing length, the rest."""
    first, last = [p for p in phases[:3] if p.time > 0], phases[-1]
    middle = [p for p in phases[3:-1] if p.time > 0]
    total = sum(p.time for p in middle)
    out, left = [first], list(middle)
    growth = 1.25 ** np.arange(stops)
    for share in growth / growth.sum():
        need, piece = total * float(share), list[Phase]()
        while left and need > 1e-18:
            p = left.pop(0)
            if p.time <= need * (1 + 1e-9):
                piece.append(p)
                need -= p.time
                continue
            f = need / p.time
            at = tuple(a + (b - a) * f for a, b in (p.source, p.level))
            piece.append(replace(p, time=need, source=(p.source[0], at[0]), level=(p.level[0], at[1])))
            left.insert(0, replace(p, time=p.time - need, source=(at[0], p.source[1]), level=(at[1], p.level[1])))
            need = 0.0
        if piece:
            out.append(piece)
    return [*out, [last]]
