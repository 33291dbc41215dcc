"""Demagnetising factors of an elliptic cylinder (a free layer), averaged over its volume."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import j1

__all__ = ["demagnetising_factors"]

Floats = npt.NDArray[np.float64]

_PANELS = 200
_ANGLES = 48


@lru_cache(maxsize=1)
def _radial_nodes() -> tuple[Floats, Floats]:
    """Nodes q and weights w of int_0^inf J1(q)^2 / q f(q) dq for smooth f.

    Up to q = 200 in panels of 1 (the oscillation has period pi); behind, the oscillation is averaged, J1^2 -> 1 / (pi q), on a
    logarithmic grid.
    """
    x, w = np.polynomial.legendre.leggauss(6)
    near = (np.arange(_PANELS)[:, None] + (x + 1) / 2).ravel()
    near_w = np.tile(w / 2, _PANELS) * j1(near) ** 2 / near
    steps = np.linspace(np.log(_PANELS), np.log(1e12), 121)
    half = (steps[1:] - steps[:-1])[:, None] / 2
    far = np.exp((steps[:-1, None] + half * (x + 1)).ravel())
    far_w = (half * w).ravel() / (np.pi * far)  # dq / q^2 = d(ln q) / q
    return np.concatenate([near, far]), np.concatenate([near_w, far_w])


@lru_cache(maxsize=256)
def demagnetising_factors(length: float, width: float, thickness: float) -> tuple[float, float, float]:
    """(N_x, N_y, N_z) of a uniformly magnetised elliptic cylinder, axes ``length`` (x) and ``width`` (y), height ``thickness`` (z), metres.

    The magnetostatic energy in Fourier space, with the form factor 2 J1(q) / q of an ellipse and the substitution q_x = a k_x,
    q_y = b k_y, leaves one angle and one radius::

        N_z = 1/pi int dphi int dq J1(q)^2 / q F(k t),   F(x) = (1 - exp(-x)) / x,   k = q sqrt(cos^2 phi / a^2 + sin^2 phi / b^2)

    and for N_x the share cos^2 phi / a^2 of k^2, with 1 - F for F. The factors add up to 1.
    """
    a, b = length / 2, width / 2
    phi = (np.arange(_ANGLES) + 0.5) * (np.pi / 2 / _ANGLES)  # a quarter, by symmetry
    cos2, sin2 = (np.cos(phi) / a) ** 2, (np.sin(phi) / b) ** 2
    q, weight = _radial_nodes()
    x = q[:, None] * (np.sqrt(cos2 + sin2) * thickness)[None, :]
    inside = 2 / _ANGLES * (weight[:, None] * (1 + np.expm1(-x) / x)).sum(axis=0)
    n_x = float((inside * cos2 / (cos2 + sin2)).sum())
    n_y = float((inside * sin2 / (cos2 + sin2)).sum())
    return n_x, n_y, 1 - n_x - n_y
