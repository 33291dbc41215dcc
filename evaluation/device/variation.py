"""How cells of one device differ: maps of the probabilities that a cell is written, read or kept wrong, fixed by a seed.

Every cell draws its deviations once (:class:`~sasimc.evaluation.device.stack.Variation`); columns have the offset of their amplifier, sub-arrays that of
their reference. The probit of a write error and the logarithm of a read's disturb follow the deviations linearly: the gradients are those of the
macro's simulation (a probit regression over an ensemble of differing cells, hot enough to err, carried to heat 1 with the action, see
:mod:`sasimc.evaluation.device.rare`) and of the Fokker-Planck equation. Reading is taken exactly, cell by cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sasimc.evaluation.device.macro import deviating, layer_row
from sasimc.evaluation.device.rare import write_tail
from sasimc.evaluation.device.read import read_current, reference_current
from sasimc.evaluation.device.stack import Stack
from sasimc.evaluation.device.switching import disturb
from sasimc.evaluation.device.write import patterns, run_write, write_of

__all__ = ["CELL", "CellMap", "DeviceMap", "write_gradient"]

Floats = npt.NDArray[np.float64]

CELL = ("anisotropy", "thickness", "resistance_area", "diameter", "tmr", "threshold")
"""What a cell draws, in this order."""

_HOT = 9.0
"""Heat of the regression."""


def write_gradient(
    stack: Stack, resistances: tuple[float, float], *, macros: int = 4096, seed: int = 0, threads: int = 2
) -> tuple[float, Floats]:
    """(probit of the mean bit, its change per standard deviation of each of :data:`CELL`) of the stack's SAS write."""
    write = write_of(stack, "sas")
    mean, _, _ = write_tail(stack, write, resistances, macros=max(64, macros // 4), seed=seed, threads=threads)
    dt, step = 2e-12, 0.5
    spread = np.array([getattr(stack.variation, name).si for name in CELL])

    def row(k: int, by: float) -> Floats:
        cell, (low, high), access = deviating(stack, resistances, {CELL[k]: by * spread[k]})
        return layer_row(cell, low, high / low - 1, access, dt)

    slopes = np.stack([(row(k, step) - row(k, -step)) / (2 * step) for k in range(len(CELL))])
    rng = np.random.default_rng([seed, 23])
    x = rng.normal(size=(macros, write.junctions, len(CELL)))
    layers = row(0, 0.0) + x @ slopes
    got = run_write(
        stack,
        write,
        resistances,
        1,
        side=patterns(write.junctions, macros),
        layers=layers,
        heat=_HOT,
        seed=seed,
        threads=threads,
        dt=dt,
    )
    return mean.probit, math.sqrt(_HOT) * _probit_slopes(x.reshape(-1, len(CELL)), got.wrong.ravel())


def _probit_slopes(x: Floats, wrong: npt.NDArray[np.bool_]) -> Floats:
    """Gradient g of the model P(wrong) = Q(z0 + g x), by Fisher scoring."""
    from scipy.special import ndtr

    a = np.concatenate([np.ones((len(x), 1)), x], axis=1)
    beta = np.zeros(a.shape[1])
    beta[0] = 2.0
    for _ in range(25):
        eta = a @ beta
        p = np.clip(ndtr(-eta), 1e-9, 1 - 1e-9)
        density = np.exp(-eta * eta / 2) / math.sqrt(2 * math.pi)
        weight = density**2 / (p * (1 - p))
        score = -(a * (density * (wrong - p) / (p * (1 - p)))[:, None]).sum(axis=0)
        step = np.linalg.solve(a.T @ (a * weight[:, None]) + 1e-9 * np.eye(len(beta)), score)
        beta += step
        if np.abs(step).max() < 1e-8:
            break
    return beta[1:]


@dataclass(frozen=True)
class CellMap:
    """Probabilities of the cells of one sub-array, float32 [rows, bits]: of a failed write; of a wrong read and of a reversal by one read, by the bit
    stored [2, rows, bits] (0 antiparallel, 1 parallel)."""

    write: npt.NDArray[np.float32]
    read: npt.NDArray[np.float32]
    disturb: npt.NDArray[np.float32]


class DeviceMap:
    """One device: the maps of its sub-arrays, drawn when they are asked for, each from the device's seed and its own number."""

    def __init__(
        self,
        stack: Stack,
        resistances: tuple[float, float],
        rows: int,
        bits: int,
        *,
        seed: int = 0,
        macros: int = 4096,
        threads: int = 2,
    ) -> None:
        self.stack, self.resistances, self.rows, self.bits, self.seed = stack, resistances, rows, bits, seed
        self.write_probit, self.write_slopes = write_gradient(stack, resistances, macros=macros, threads=threads)

    @cached_property
    def _disturb(self) -> tuple[Floats, Floats]:
        """(ln of the probability of a reversal by one read [2], by the bit stored; its change per standard deviation [2, CELL])."""
        spread = [getattr(self.stack.variation, name).si for name in CELL]

        def logs(deviation: dict[str, float]) -> Floats:
            cell, both, access = deviating(self.stack, self.resistances, deviation)
            cell = cell.scaled({"read.access_resistance": access / self.stack.write.access_resistance.si})
            parallel, antiparallel = disturb(cell, both)
            return np.log(np.maximum([antiparallel, parallel], 1e-300))

        steps = [(logs({n: s}) - logs({n: -s})) / 2 for n, s in zip(CELL, spread, strict=True)]
        return logs({}), np.stack(steps, axis=1)

    def subarray(self, number: int) -> CellMap:
        """The cells of one sub-array."""
        from scipy.special import ndtr

        rng, s = np.random.default_rng([self.seed, 29, number]), self.stack
        v, shape = s.variation, (self.rows, self.bits)
        x = {name: rng.normal(size=shape) for name in CELL}
        offset = rng.normal(0, v.sense_offset.si, self.bits)
        reference = reference_current(s, self.resistances) * (1 + v.reference.si * rng.normal())
        write = ndtr(-(self.write_probit + sum(g * x[n] for g, n in zip(self.write_slopes, CELL, strict=True))))
        base, slopes = self._disturb
        turned = [np.exp(np.minimum(0, base[b] + sum(g * x[n] for g, n in zip(slopes[b], CELL, strict=True)))) for b in (0, 1)]
        low = self.resistances[0] * (1 + v.resistance_area.si * x["resistance_area"]) / (1 + v.diameter.si * x["diameter"]) ** 2
        tmr = (self.resistances[1] / self.resistances[0] - 1) * (1 + v.tmr.si * x["tmr"])
        access = s.read.access_resistance.si / np.maximum(0.05, 1 - v.threshold.si * x["threshold"] / v.overdrive.si)
        noise = max(s.read.sense_noise.si, 1e-12)
        parallel = read_current(s, low, tmr, access, 1.0)
        antiparallel = read_current(s, low, tmr, access, -1.0)
        read = [ndtr((antiparallel - reference - offset) / noise), ndtr((reference + offset - parallel) / noise)]
        return CellMap(*(np.asarray(p, np.float32) for p in (write, read, turned)))
