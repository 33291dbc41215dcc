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

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from numba import njit

from sasimc.evaluation.device.constants import GAMMA
from sasimc.evaluation.device.motion import Ensemble, Model, Segment
from sasimc.isa.errors import SasError

__all__ = ["Result", "simulate"]

Floats = npt.NDArray[np.float64]

MOST_STEPS = 10_000_000
"""Of one trajectory; 10 us at the usual step."""


@dataclass(frozen=True)
class Result:
    """``final`` [N, 3]; ``settled`` [N]: the time after which m stays more than half on the target's side, seconds (inf: it never does);
    ``resistance_time`` [N]: integral of (stt drive / its largest value)^2 x resistance, ohm s; ``path`` [recorded, samples, 3] with its
    ``times``, seconds.
    """

    final: Floats
    settled: Floats
    resistance_time: Floats
    path: Floats = field(repr=False)
    times: Floats = field(repr=False)


@njit(cache=True, inline="always")
def _rotl(x, k):  # type: ignore[no-untyped-def]
    return (x << np.uint64(k)) | (x >> np.uint64(64 - k))


@njit(cache=True)
def _seed_state(seed, stream, s):  # type: ignore[no-untyped-def]
    """Fill ``s`` uint64[4] from seed and stream by splitmix64."""
    z = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.uint64(stream) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)
    for i in range(4):
        z += np.uint64(0x9E3779B97F4A7C15)
        y = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        y = (y ^ (y >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        s[i] = y ^ (y >> np.uint64(31))


@njit(cache=True, inline="always")
def _uniform(s):  # type: ignore[no-untyped-def]
    """The next number in [-1, 1) of xoshiro256++."""
    out = _rotl(s[0] + s[3], 23) + s[0]
    t = s[1] << np.uint64(17)
    s[2] ^= s[0]
    s[3] ^= s[1]
    s[1] ^= s[2]
    s[0] ^= s[3]
    s[2] ^= t
    s[3] = _rotl(s[3], 45)
    return np.float64(out >> np.uint64(11)) * (2.0 / 9007199254740992.0) - 1.0


@njit(cache=True, inline="always")
def _normals(s, n):  # type: ignore[no-untyped-def]
    """Fill n[0:4] with standard normal numbers (Marsaglia's polar method)."""
    for i in range(2):
        r = 2.0
        u = v = 0.0
        while r >= 1.0 or r == 0.0:
            u, v = _uniform(s), _uniform(s)
            r = u * u + v * v
        scale = np.sqrt(-2.0 * np.log(r) / r)
        n[2 * i], n[2 * i + 1] = u * scale, v * scale


@njit(cache=True, inline="always")
def _slope(mx, my, mz, bx, by, bz, sot, px, pz, alpha, rate):  # type: ignore[no-untyped-def]
    """dm/dt for the field B and the torques; (px, 0, pz) is the spin-transfer torque's b p, ``rate`` gamma / (1 + alpha^2)."""
    bx += my * pz - mz * sot  # m x p, with p = (px, sot, pz)
    by += mz * px - mx * pz
    bz += mx * sot - my * px
    cx, cy, cz = my * bz - mz * by, mz * bx - mx * bz, mx * by - my * bx
    return (
        -rate * (cx + alpha * (my * cz - mz * cy)),
        -rate * (cy + alpha * (mz * cx - mx * cz)),
        -rate * (cz + alpha * (mx * cy - my * cx)),
    )


@njit(cache=True, nogil=True)
def _advance(first, last, m, target, sot_sign, steps, drive, dt, p, seed, every, path, settled, ohm_s):  # type: ignore[no-untyped-def]
    """Integrate trajectories first..last in place. ``drive`` [segments, 4]: sot begin, end, stt begin, end; ``p``: see :func:`simulate`."""
    kx, ky, kz, ex, ey, ez, alpha, rate, spread, field_like, easy, g_mean, g_half, largest = p
    state, normal = np.empty(4, np.uint64), np.zeros(4)
    for i in range(first, last):
        _seed_state(seed, i, state)
        mx, my, mz = m[i, 0], m[i, 1], m[i, 2]
        side, sign = target[i], sot_sign[i]
        settled[i], ohm_s[i] = 0.0, 0.0
        step = 0
        for segment in range(steps.shape[0]):
            count = steps[segment]
            s0, s1, t0, t1 = drive[segment]
            for k in range(count):
                sot = (s0 + (s1 - s0) * ((k + 0.5) / count)) * sign
                stt = t0 + (t1 - t0) * ((k + 0.5) / count)
                along = mx if easy == 0 else mz
                if largest > 0:
                    ohm_s[i] += (stt / largest) ** 2 / (g_mean + g_half * along) * dt
                stt *= side
                px, pz = (stt, 0.0) if easy == 0 else (0.0, stt)
                if spread > 0:
                    _normals(state, normal)
                hx, hy, hz = ex + spread * normal[0], ey + spread * normal[1] + field_like * sot, ez + spread * normal[2]
                ax, ay, az = _slope(mx, my, mz, kx * mx + hx, ky * my + hy, kz * mz + hz, sot, px, pz, alpha, rate)
                ux, uy, uz = mx + dt * ax, my + dt * ay, mz + dt * az
                bx, by, bz = _slope(ux, uy, uz, kx * ux + hx, ky * uy + hy, kz * uz + hz, sot, px, pz, alpha, rate)
                mx += 0.5 * dt * (ax + bx)
                my += 0.5 * dt * (ay + by)
                mz += 0.5 * dt * (az + bz)
                norm = 1.0 / np.sqrt(mx * mx + my * my + mz * mz)
                mx, my, mz = mx * norm, my * norm, mz * norm
                step += 1
                if side * (mx if easy == 0 else mz) < 0.5:
                    settled[i] = step * dt
                if i < path.shape[0] and step % every == 0:
                    row = step // every - 1
                    if row < path.shape[1]:
                        path[i, row, 0], path[i, row, 1], path[i, row, 2] = mx, my, mz
        m[i, 0], m[i, 1], m[i, 2] = mx, my, mz
        if settled[i] == step * dt:
            settled[i] = np.inf


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
    """Integrate an ensemble through a drive with steps of at most about ``dt`` seconds.

    ``record`` trajectories are kept with about ``samples`` points each.
    """
    steps = np.array([max(1, round(s.time / dt)) if s.time > 0 else 0 for s in drive], np.int64)
    total = int(steps.sum())
    if total > MOST_STEPS:
        raise SasError(
            f"{total} steps of {dt * 1e12:.3g} ps are too many", hint=f"a pulse has at most {MOST_STEPS} steps; shorten its times"
        )
    m = np.array(ensemble.start, np.float64, ndmin=2, copy=True)
    n = len(m)
    target = np.broadcast_to(np.asarray(ensemble.target, np.float64), n).copy()
    sign = np.broadcast_to(np.asarray(ensemble.sot_sign, np.float64), n).copy()
    table = np.array([(*s.sot, *s.stt) for s in drive], np.float64).reshape(-1, 4)
    largest = float(np.abs(table[:, 2:]).max(initial=0.0))
    every = max(1, total // samples)
    kept = min(record, n)
    path = np.zeros((kept, total // every if kept else 0, 3))
    g_p, g_ap = model.conductances
    p = (
        *model.stiffness, *model.external, model.damping, GAMMA / (1 + model.damping**2), float(np.sqrt(model.noise / dt)), model.field_like,
        model.easy, (g_p + g_ap) / 2, (g_p - g_ap) / 2, largest,
    )  # fmt: skip
    settled, ohm_s = np.zeros(n), np.zeros(n)

    def part(bounds: tuple[int, int]) -> None:
        _advance(*bounds, m, target, sign, steps, table, dt, p, ensemble.seed, every, path, settled, ohm_s)

    if threads > 1 and n > 1:
        edges = np.linspace(0, n, min(n, 4 * threads) + 1).astype(int).tolist()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(part, pairwise(edges)))
    else:
        part((0, n))
    times = every * dt * np.arange(1, path.shape[1] + 1, dtype=np.float64)
    return Result(m, settled, ohm_s, path, times)
