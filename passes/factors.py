"""Fixed-point factors, exactly as docs/reference/numerics.md states them (section Forward)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sasimc.ir.graph import type_range

__all__ = ["FactorError", "add_factors", "clamp_bounds", "factor", "factors"]


class FactorError(ValueError):
    """A real factor that no multiplier and shift can carry (S < 1, or not a positive finite number)."""


def _floor_log2(f: float) -> int:
    return math.frexp(f)[1] - 1  # exact, unlike floor(log2(f)) next to a power of two


def factor(f: float) -> tuple[int, int]:
    """(M, S) with f ~ M / 2^S, M in [2^30, 2^31); (0, 62) when f is too small; the sign of f goes to M."""
    if not math.isfinite(f):
        raise FactorError(f"factor {f} is not finite")
    if f == 0.0:
        return 0, 62
    size = abs(f)
    s = 30 - _floor_log2(size)
    if s > 62:
        return 0, 62
    m = round(math.ldexp(size, s))
    if m == 2**31:
        m, s = 2**30, s - 1
    if s < 1:
        raise FactorError(f"factor {f:g} is too large (the shift would be {s})")
    return (m if f > 0 else -m), s


def factors(f: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """:func:`factor` of every element."""
    pairs = [factor(float(v)) for v in f]
    return np.array([p[0] for p in pairs], np.int32), np.array([p[1] for p in pairs], np.int32)


def add_factors(fa: float, fb: float) -> tuple[int, int, int]:
    """(M_a, M_b, S) of an addition: one shift for both, taken from the larger factor. A negative factor subtracts."""
    s = min(62, 30 - _floor_log2(max(abs(fa), abs(fb))))
    ma, mb = round(math.ldexp(fa, s)), round(math.ldexp(fb, s))
    if max(abs(ma), abs(mb)) == 2**31:
        s -= 1
        ma, mb = round(math.ldexp(fa, s)), round(math.ldexp(fb, s))
    if s < 1:
        raise FactorError(f"factors {fa:g} and {fb:g} are too large (the shift would be {s})")
    return ma, mb, s


def clamp_bounds(dtype: str, scale: float, zero: int, lo: float, hi: float) -> dict[str, int | bool]:
    """``lo hi mask_lo mask_hi`` of an output whose real value an activation limits to [lo, hi] (infinite: no activation).

    A side is masked in training only where the activation, not the type, sets the bound.
    """
    low, high = type_range(dtype)
    out: dict[str, int | bool] = {"lo": low, "hi": high, "mask_lo": False, "mask_hi": False}
    if math.isfinite(lo):
        q = round(lo / scale) + zero
        if q >= low:
            out["lo"], out["mask_lo"] = min(q, high), True
    if math.isfinite(hi):
        q = round(hi / scale) + zero
        if q <= high:
            out["hi"], out["mask_hi"] = max(q, low), True
    return out
