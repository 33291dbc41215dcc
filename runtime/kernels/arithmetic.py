"""Rounding and places in views, shared by kernels."""

from __future__ import annotations

import numpy as np

from sasimc.runtime.kernels.compiling import inner

__all__ = ["at", "binary_digits", "digits32", "rne", "runs", "value8"]


@inner
def rne(value, shift):  # type: ignore[no-untyped-def]
    """value / 2^shift to the nearest integer, ties to even; shift <= 0 changes nothing. int64, |value| + 2^(shift-1) < 2^63."""
    if shift <= 0:
        return value
    if shift > 62:
        return np.int64(0)  # |value| < 2^62 in every use
    odd = (value >> shift) & np.int64(1)
    return (value + ((np.int64(1) << (shift - 1)) - 1) + odd) >> shift


@inner
def at(view, y, x):  # type: ignore[no-untyped-def]
    """Where pixel (y, x) of a view begins in its flat array."""
    return view.base + (y % view.ring) * view.row + x * view.pixel


@inner
def runs(a, b):  # type: ignore[no-untyped-def]
    """(runs a row, elements a run) of two views of one shape: a row is one run where pixels are neighbours in both."""
    if a.pixel == a.channels and b.pixel == b.channels:
        return np.int64(1), a.width * a.channels
    return a.width, a.channels


@inner
def value8(byte, signed):  # type: ignore[no-untyped-def]
    """A byte as the number it stands for."""
    flip = np.int64(128) if signed else np.int64(0)
    return (np.int64(byte) ^ flip) - flip


@inner
def binary_digits(value):  # type: ignore[no-untyped-def]
    """Binary digits of a number that is not negative."""
    digits = np.int64(0)
    while value >> digits:
        digits += 1
    return digits


@inner
def digits32(value):  # type: ignore[no-untyped-def]
    """Binary digits of the magnitude of a 32-bit number. No loop, so that a loop over many becomes vectors: the exponent of a float64, which holds it exactly."""
    return max(((np.float64(value).view(np.int64) >> 52) & 2047) - 1022, np.int64(0))
