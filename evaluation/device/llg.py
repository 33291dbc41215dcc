"""The macrospin equation of motion (Landau-Lifshitz-Gilbert with spin torques and a thermal field), integrated for an ensemble.

With m the unit magnetisation, B in tesla, gamma the gyromagnetic ratio and alpha the Gilbert damping::

    dm/dt = -gamma/(1+alpha^2) [ m x B' + alpha m x (m x B') ],    B' = B + b m x p

    B = C m + B_ext + f b_sot y + B_th,   C diagonal (anisotropy and demagnetisation, `sasimc.evaluation.device.stack`)

b m x p is a damping-like torque that pulls m towards p: p = y for the spin-orbit torque (current along x), the easy axis for the
spin-transfer torque; f is the ratio of field-like to damping-like spin-orbit torque. The thermal field is white, each component with
variance 2 alpha k T / (gamma Ms V dt) (Brown, Phys. Rev. 130, 1677, 1963), and the scheme stochastic Heun, which converges to the
Stratonovich solution that the equation needs (Garcia-Palacios and Lazaro, Phys. Rev. B 58, 14937, 1998). m is scaled back to length 1
after every step.

Every trajectory has its own random numbers (xoshiro256++, seeded by seed and trajectory number): results depend neither on the number of
threads nor on the size of the ensemble.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from sasimc.evaluation.device.constants import GAMMA
from sasimc.evaluation.device.kernel import ENERGIES, FIELDS, LANES, advance
from sasimc.evaluation.device.motion import Ensemble, Model, Phase, Segment
from sasimc.isa.errors import SasError

__all__ = ["Motion", "Result", "integrate", "simulate"]

Floats = npt.NDArray[np.float64]

MOST_STEPS = 10_000_000
"""Of one trajectory; 10 us at the usual step."""


@dataclass(frozen=True)
class Motion:
    """What an ensemble of N macros of J layers did. ``final`` [N, J, 3]; ``settled`` [N, J]: the time after which a layer stays more than half on the
    side wanted, seconds (inf: never); ``marks`` [N, phases, J]: component along the easy axis at the end of every phase; ``spent`` [N]
    by name (:data:`~sasimc.evaluation.device.kernel.ENERGIES`), J and C; ``path`` [recorded, samples, J, 3] with its ``times``, seconds."""

    final: Floats
    settled: Floats
    marks: Floats = field(repr=False)
    spent: dict[str, Floats] = field(repr=False)
    path: Floats = field(repr=False)
    times: Floats = field(repr=False)


def integrate(
    phases: Sequence[Phase], start: Floats, side: Floats, sign: Floats, layers: Floats, line: Floats, common: tuple[float, ...], *,
    dt: float, seed: int, threads: int, record: int = 0, samples: int = 500,
) -> Motion:  # fmt: skip
    """Integrate macros through their phases with steps of about ``dt`` seconds.

    ``start`` [N, J, 3], ``side`` [N, J], ``sign`` [N], ``layers`` [N, J, FIELDS], ``line`` [J + 1] and ``common`` as in
    :func:`~sasimc.evaluation.device.kernel.advance` (``p``). ``record`` macros are kept with about ``samples`` points each.
    """
    steps = np.array([max(1, round(s.time / dt)) if s.time > 0 else 0 for s in phases], np.int64)
    total = int(steps.sum())
    if total > MOST_STEPS:
        raise SasError(
            f"{total} steps of {dt * 1e12:.3g} ps are too many", hint=f"a pulse has at most {MOST_STEPS} steps; shorten its times"
        )
    m = np.array(start, np.float64, copy=True)
    n, j, _ = m.shape
    drive = np.array([(*s.source, *s.level, s.ground, float(s.on)) for s in phases], np.float64).reshape(-1, 6)
    every = max(1, total // samples)
    kept = min(record, n)
    path = np.zeros((kept, total // every if kept else 0, j, 3))
    settled, spent, marks = np.zeros((n, j)), np.zeros((n, len(ENERGIES))), np.zeros((n, len(steps), j))

    def part(bounds: tuple[int, int]) -> None:
        advance(*bounds, m, side, sign, layers, steps, drive, line, common, dt, seed, every, path, marks, settled, spent)

    blocks = -(-n // LANES)
    if threads > 1 and blocks > 1:
        edges = np.minimum(n, LANES * np.linspace(0, blocks, min(blocks, 4 * threads) + 1).astype(int)).tolist()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(part, pairwise(edges)))
    else:
        part((0, n))
    times = every * dt * np.arange(1, path.shape[1] + 1, dtype=np.float64)
    return Motion(m, settled, marks, dict(zip(ENERGIES, spent.T, strict=True)), path, times)


@dataclass(frozen=True)
class Result:
    """``final`` [N, 3]; ``settled`` [N]: the time after which m stays more than half on the target's side, seconds (inf: it never does);
    ``path`` [recorded, samples, 3] with its ``times``, seconds.
    """

    final: Floats
    settled: Floats
    path: Floats = field(repr=False)
    times: Floats = field(repr=False)


def simulate(
    model: Model,
    drive: Sequence[Segment],
    ensemble: Ensemble,
    *,
    dt: float = 1e-12,
    threads: int = 2,
    record: int = 0,
    samples: int = 500,
) -> Result:
    """Integrate single layers under torques that are given in tesla, with steps of at most about ``dt`` seconds.

    ``record`` trajectories are kept with about ``samples`` points each.
    """
    start = np.array(ensemble.start, np.float64, ndmin=2)[:, None, :]
    n = len(start)
    target = np.broadcast_to(np.asarray(ensemble.target, np.float64), n)[:, None].copy()
    sign = np.broadcast_to(np.asarray(ensemble.sot_sign, np.float64), n).copy()
    one = dict.fromkeys(FIELDS, 0.0) | {"sot": 1.0, "stt": 1.0, "g_p": 1.0, "spread": math.sqrt(model.noise / dt)}
    one |= dict(zip(("kx", "ky", "kz"), model.stiffness, strict=True))
    layers = np.tile(np.array([one[f] for f in FIELDS]), (n, 1, 1))
    phases = [Phase(s.time, s.sot, s.stt, ground=0.0) for s in drive]
    line = np.array([1.0, 1.0])
    common = (*model.external, model.damping, GAMMA / (1 + model.damping**2), model.field_like, float(model.easy), 0.0, 0.0, 0.0)
    got = integrate(
        phases,
        start,
        target,
        sign,
        layers,
        line,
        common,
        dt=dt,
        seed=ensemble.seed,
        threads=threads,
        record=record,
        samples=samples,
    )
    return Result(got.final[:, 0], got.settled[:, 0], got.path[:, :, 0], got.times)
