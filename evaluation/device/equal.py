"""The three ways of writing at one error rate: energy and latency against the error rate, each along its own pulses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sasimc.evaluation.device.rare import write_tail
from sasimc.evaluation.device.stack import Stack
from sasimc.evaluation.device.switching import stt_error
from sasimc.evaluation.device.write import Method, Write, run_write, write_of

__all__ = ["TARGETS", "Curve", "Point", "equal_error_curve"]

TARGETS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
"""Error rates of one bit at which the ways of writing are compared."""

_STRETCH = (0.45, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Point:
    """A pulse with its ``probit`` (of the worst bit), energy, J/bit, and latency, s."""

    write: Write
    probit: float
    energy: float

    @property
    def error_rate(self) -> float:
        """Of the worst bit."""
        return 0.5 * math.erfc(self.probit / math.sqrt(2))


@dataclass(frozen=True)
class Curve:
    """Points of one method in the order of their error rates, the largest first; none dominated by another."""

    method: Method
    points: list[Point]

    def energy(self, error_rate: float) -> float:
        """J/bit at an error rate: a straight line of ln energy over the probit through the points, carried on beyond them by at most one unit (nan: farther
        away than that, or fewer than two points)."""
        from scipy.special import ndtri

        z = -float(ndtri(error_rate))
        x, y = np.array([p.probit for p in self.points]), np.log([p.energy for p in self.points])
        if len(x) < 2 or not x[0] - 1 <= z <= x[-1] + 1 or x[-1] - x[0] < 0.5:
            return math.nan
        return float(np.exp(np.polyval(np.polyfit(x, y, 1), z)))


def _front(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in both error rate and energy."""
    out: list[Point] = []
    for p in sorted(points, key=lambda p: (-p.probit, p.energy)):
        if not out or p.energy < out[-1].energy:
            out.append(p)
    return out[::-1]


def equal_error_curve(
    stack: Stack, method: Method, resistances: tuple[float, float], *, macros: int = 512, seed: int = 0, threads: int = 2,
    watch: Callable[[int, int], None] | None = None,
) -> Curve:  # fmt: skip
    """Energy against error rate. STT alone of an axially symmetric layer: voltages and times by the Fokker-Planck equation, which needs no trajectory. The
    others: the stack's pulse, its times stretched, each with its extrapolated tail."""
    if method == "stt" and stack.axial:
        return Curve(method, _front(_stt_points(stack, resistances, seed, threads)))
    base, points = write_of(stack, method), list[Point]()
    for i, f in enumerate(_STRETCH):
        if watch:
            watch(i, len(_STRETCH))
        write = base.scaled(stt_time=f, fall_time=f) if method != "sot" else base.scaled(sot_time=f, release_time=f)
        _, tail, _ = write_tail(stack, write, resistances, macros=macros, seed=seed, threads=threads)
        energy = run_write(stack, write, resistances, 16 * write.junctions * 8, seed=seed, threads=threads, dt=2e-12).energy
        points.append(Point(write, tail.probit, energy))
    return Curve(method, _front(points))


def _stt_points(stack: Stack, resistances: tuple[float, float], seed: int, threads: int) -> list[Point]:
    from scipy.special import ndtri

    critical = stack.stt_current(stack.damping.si * stack.easy_field) * resistances[0]  # volts across the junction
    share = stack.write.access_resistance.si / resistances[1]
    times = np.arange(2e-9, 41e-9, 2e-9)
    out: list[Point] = []
    for factor in (1.8, 2.3, 3.0, 4.0):
        volts = factor * critical * (1 + share)
        worst = stt_error(stack, resistances, volts, times.tolist()).max(axis=1)
        base = Write("stt", 1, stt_voltage=volts)
        short, long = (
            run_write(stack, replace(base, stt_time=float(t)), resistances, 256, seed=seed, threads=threads, dt=2e-12).energy
            for t in (times[4], times[-1])
        )
        power = (long - short) / (times[-1] - times[4])  # after the reversal the current is constant
        out += [
            Point(replace(base, stt_time=float(t)), -float(ndtri(min(0.5, max(e, 1e-300)))), long - power * float(times[-1] - t))
            for t, e in zip(times, worst, strict=True)
            if 1e-14 < e < 0.2
        ]
    return out
