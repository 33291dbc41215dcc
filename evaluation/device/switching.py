"""Thermal switching without trajectories: the one-dimensional Fokker-Planck equation of a layer, for rates and pulses far below what can be sampled.

A lightly damped layer circles on orbits of constant energy and drifts between them slowly, so that its distribution has one coordinate. With
``eps = B_k m_1^2 + (B_k + B_h) m_2^2`` (m_1, m_2 across the easy axis) take ``u = -+ sqrt(1 - eps / B_k)``, -1 and 1 in the two wells and 0 on the saddle; for an axially
symmetric layer u is the component on the easy axis itself. With averages < > over an orbit of period T (Apalkov and Visscher, Phys. Rev. B 72, 180405, 2005)::

    d eps / dt = -2 gamma' [ alpha <|m x B|^2> + b <eps |m_e|> ]          damping, spin torque b against it
    D_eps      = 4 gamma' alpha <|m x B|^2> B_k / (2 Delta)               thermal field: exp(-eps Delta / B_k) is stationary

and for B_h = 0 exactly Brown's equation, du/dt = gamma' (1 - u^2) (alpha B_k u + b), D = gamma' alpha B_k (1 - u^2) / (2 Delta). The exponent of the escape is then
Delta (1 - b / (alpha B_k))^2.

Finite volumes with Scharfetter and Gummel's fluxes turn the equation into a Markov chain. A pulse is its exponential by uniformisation, a sum of positive
terms: probabilities of 1e-30 are as accurate as those of 1e-3. Not in it: where a layer loses more than k T in one orbit on the saddle (in-plane layers of large
Delta), the true rate lies a little above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from numba import njit

from sasimc.evaluation.device.constants import GAMMA
from sasimc.evaluation.device.junction import junction_current
from sasimc.evaluation.device.stack import Stack

__all__ = ["Landscape", "disturb", "escape_rate", "junction_torque", "stt_error"]

Floats = npt.NDArray[np.float64]
Torque = Callable[[Floats], Floats]
"""Component on the easy axis -> damping-like torque towards +, tesla."""

_ANGLES = 256


@njit(error_model="numpy", cache=True)
def _chain(p, up, down, weights, back, out):  # type: ignore[no-untyped-def]
    """out = sum_k weights[k] M^k p, M tridiagonal with moves ``up`` (i to i + 1) and ``down`` (i + 1 to i), or its transpose (``back``); ``p`` is used up."""
    n = len(p)
    q = np.empty(n)
    out[:] = 0.0
    stay = np.ones(n)
    for i in range(n - 1):
        stay[i] -= up[i]
        stay[i + 1] -= down[i]
    for k in range(len(weights)):
        w = weights[k]
        for i in range(n):
            out[i] += w * p[i]
        for i in range(n):
            q[i] = stay[i] * p[i]
        for i in range(n - 1):
            if back:
                q[i] += up[i] * p[i + 1]
                q[i + 1] += down[i] * p[i]
            else:
                q[i + 1] += up[i] * p[i]
                q[i] += down[i] * p[i + 1]
        p, q = q, p


@dataclass(frozen=True)
class Landscape:
    """The chain of one stack with ``cells`` cells between the wells."""

    stack: Stack
    cells: int = 400

    @cached_property
    def edges(self) -> Floats:
        """[cells - 1]: u between the cells."""
        return np.asarray(np.arange(1, self.cells) * (2 / self.cells) - 1, np.float64)

    @property
    def centres(self) -> Floats:
        """[cells]."""
        return np.asarray((np.arange(self.cells) + 0.5) * (2 / self.cells) - 1, np.float64)

    def _orbits(self, u: Floats) -> tuple[Floats, Floats, Floats]:
        """(period, <|m x B|^2>, |m_e| [.., angles] with the weights of time) of the orbits at |u|; u = 0 is taken at a little above the saddle."""
        k, h = self.stack.easy_field, self.stack.hard_field
        size = np.maximum(np.abs(u), 2 / self.cells)[:, None]
        phi = (np.arange(_ANGLES) + 0.5) * (np.pi / 2 / _ANGLES)
        eps = k * (1 - size**2)
        m1, m2 = eps / k * np.cos(phi) ** 2, eps / (k + h) * np.sin(phi) ** 2  # squares
        along = np.sqrt(1 - m1 - m2)
        speed = GAMMA / (1 + self.stack.damping.si**2) * along * math.sqrt(k * (k + h))
        time = 1 / speed
        work = k * k * m1 + (k + h) ** 2 * m2 - eps**2
        period = 2 * np.pi * time.mean(axis=1)
        weight = time / time.sum(axis=1, keepdims=True)
        return period, (work * weight).sum(axis=1), np.stack([along, weight])

    @cached_property
    def _statics(self) -> tuple[Floats, Floats, Floats, Floats]:
        """(weight of the cells, D x weight at the edges, Phi of damping at the centres, D at the edges)."""
        k, delta, alpha = self.stack.easy_field, self.stack.thermal_stability, self.stack.damping.si
        rate = GAMMA / (1 + alpha**2)

        def density(u: Floats) -> tuple[Floats, Floats]:
            period, work, _ = self._orbits(u)
            slope = 2 * k * np.maximum(np.abs(u), 2 / self.cells)  # |d eps / du|
            return period * slope, 4 * rate * alpha * work * k / (2 * delta) / slope**2

        weight, _ = density(self.centres)
        at_edge, diffusion = density(self.edges)
        return weight, diffusion * at_edge, delta * (1 - self.centres**2), diffusion

    def moves(self, torque: Torque | None = None) -> tuple[Floats, Floats]:
        """Rates, 1/s, from each cell to the next and back, with a spin torque or without."""
        weight, conductance, potential, diffusion = self._statics
        step = 2 / self.cells
        barrier = np.diff(potential)
        if torque is not None:
            k = self.stack.easy_field
            _, _, (along, share) = self._orbits(self.edges)
            size = np.maximum(np.abs(self.edges), 2 / self.cells)
            b = torque(np.sign(self.edges)[:, None] * along)
            pull = (k * (1 - size**2))[:, None] * along * b
            drift = GAMMA / (1 + self.stack.damping.si**2) * (pull * share).sum(axis=1) / (k * size)
            barrier = barrier - step * drift / diffusion
        small = np.where(np.abs(barrier) < 1e-9, 1e-9, barrier)
        scale = conductance / step**2
        return scale / weight[:-1] * small / np.expm1(small), scale / weight[1:] * -small / np.expm1(-small)

    def well(self, side: int) -> Floats:
        """[cells]: thermal equilibrium of one well."""
        weight, _, potential, _ = self._statics
        p = weight * np.exp(-potential)
        p[(self.centres > 0) != (side > 0)] = 0
        return p / p.sum()

    def evolve(self, p: Floats, seconds: float, torque: Torque | None = None) -> Floats:
        """The distribution [cells] after a time."""
        return self._propagate(p, seconds, torque, False)

    def comes_to(self, side: int, seconds: float) -> Floats:
        """[cells]: the probability of the well ``side`` after a rest of ``seconds``, by where the layer is before it."""
        return self._propagate(((self.centres > 0) == (side > 0)).astype(np.float64), seconds, None, True)

    def _propagate(self, p: Floats, seconds: float, torque: Torque | None, back: bool) -> Floats:
        if seconds <= 0:
            return p
        up, down = self.moves(torque)
        out_rate = np.concatenate([up, [0.0]]) + np.concatenate([[0.0], down])
        fastest = float(out_rate.max()) * 1.02
        mean = fastest * seconds
        most = int(mean + 12 * math.sqrt(mean) + 60)
        k = np.arange(most + 1)
        from scipy.special import gammaln

        weights = np.exp(k * math.log(mean) - mean - gammaln(k + 1))
        out = np.empty_like(p)
        _chain(p.copy(), up / fastest, down / fastest, weights, back, out)
        return out

    def rate(self, side: int, torque: Torque | None = None) -> float:
        """1 / mean time, seconds, from the well ``side`` to the other: the mean first passage of the chain."""
        up, down = self.moves(torque)
        if side > 0:
            up, down = down[::-1], up[::-1]
        # T(i -> i+1) = 1 / up_i + down_{i-1} / up_i T(i-1 -> i)
        total = t = 1 / up[0]
        for i in range(1, len(up)):
            t = (1 + down[i - 1] * t) / up[i]
            total += t
        return float(1 / total)


def junction_torque(stack: Stack, resistances: tuple[float, float], access: float, volts: float) -> Torque:
    """The torque of ``volts`` (positive: towards the parallel state) over junction and access transistor."""

    def torque(along: Floats) -> Floats:
        current, _ = junction_current(stack, resistances, access, abs(volts), along)
        return math.copysign(1.0, volts) * stack.stt_torque(1.0, 0.0) * current / (1 + stack.polarisation.si**2 * along)

    return torque


def escape_rate(stack: Stack, resistances: tuple[float, float], side: int, volts: float = 0.0, access: float = 0.0) -> float:
    """Rate, 1/s, at which a layer leaves the state ``side`` (1 parallel, -1 antiparallel) under a steady voltage."""
    return Landscape(stack).rate(side, junction_torque(stack, resistances, access, volts) if volts else None)


def disturb(stack: Stack, resistances: tuple[float, float], *, reads: int = 1, gap: float | None = None) -> tuple[float, float]:
    """Probabilities that reads turn a parallel and an antiparallel bit round, per read. ``reads`` follow each other with ``gap`` seconds of rest between
    (a layer that is not at rest again is disturbed more easily); one read is followed by rest until the distribution stands."""
    read, land = stack.read, Landscape(stack)
    volts = read.voltage.si * (1 if read.towards == "parallel" else -1)
    torque = junction_torque(stack, resistances, read.access_resistance.si, volts)
    out: list[float] = []
    for side in (1, -1):
        p = land.well(side)
        for n in range(reads):
            p = land.evolve(p, read.time.si, torque)
            if n < reads - 1:
                p = land.evolve(p, read.time.si if gap is None else gap)
        out.append(float(p @ land.comes_to(-side, _rest(stack))) / reads)
    return out[0], out[1]


def _rest(stack: Stack) -> float:
    """Three relaxation times: nearly nobody is left on the saddle, and of spontaneous reversals there are still none."""
    return 3 * (1 + stack.damping.si**2) / (GAMMA * stack.damping.si * (stack.easy_field + stack.hard_field / 2))


def stt_error(stack: Stack, resistances: tuple[float, float], volts: float, times: Sequence[float]) -> Floats:
    """Write error rates [times, 2] of STT alone (to parallel, to antiparallel) with ``volts`` over junction and access transistor, for pulses of ``times``
    seconds, ascending."""
    land = Landscape(stack)
    access = stack.write.access_resistance.si
    out = np.empty((len(times), 2))
    for column, side in enumerate((1, -1)):
        p, now, fails = land.well(-side), 0.0, land.comes_to(-side, _rest(stack))
        torque = junction_torque(stack, resistances, access, side * volts)
        for row, t in enumerate(times):
            p, now = land.evolve(p, t - now, torque), t
            out[row, column] = p @ fails
    return out
