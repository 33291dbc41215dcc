"""Softmax and layer norm of pixels, in integers (docs/reference/numerics.md, "Softmax and layer norm")."""

from __future__ import annotations

from math import isqrt

import numpy as np

from sasimc.runtime.kernel import buf, kernel, vector
from sasimc.runtime.kernels.arithmetic import at, binary_digits, rne, value8
from sasimc.runtime.kernels.compiling import inner

__all__: list[str] = []

_ROOTS = np.array([isqrt((1 << 44) // (256 * i + 128)) for i in range(256)], np.int64)
"""2^22 / sqrt of the middle of the numbers of 16 bits whose upper byte is i."""


@inner
def _reciprocal_root(value):  # type: ignore[no-untyped-def]
    """(r, s): 1 / sqrt(value) is about r / 2^(22 + s); value is positive."""
    s = (binary_digits(value) + 1) // 2 - 8
    m = value >> (2 * s) if s >= 0 else value << (-2 * s)
    r = _ROOTS[m >> 8]
    return (r * ((3 << 16) - ((m * r * r) >> 28))) >> 17, s


@kernel("softmax", ns=4.0)
def softmax(op, m, first, last):  # type: ignore[no-untyped-def]
    data, n, t, wide = buf(m), op.src.channels, op.table, op.src.width
    exp, signed, lowest = vector(t.exp, 256), op.src.signed, np.int64(-128 if op.src.signed else 0)
    for p in range(first, last):
        of, to = at(op.src, p // wide, p % wide), at(op.dst, p // wide, p % wide)
        source, target = data[of : of + n], data[to : to + n]
        top, total = lowest, np.int64(0)
        for c in range(n):
            top = max(top, value8(source[c], signed))
        for c in range(n):
            total += exp[top - value8(source[c], signed)]
        e = binary_digits(total) - 16
        reciprocal = (np.int64(1) << 31) // (total >> e)
        for c in range(n):
            share = rne(exp[top - value8(source[c], signed)] * reciprocal, 7 + e)
            target[c] = np.uint8(min(max(rne(share * t.mult, t.shift) + t.zero, t.lo), t.hi))
    return 0


@kernel("layer_norm", ns=4.0)
def layer_norm(op, m, first, last):  # type: ignore[no-untyped-def]
    data, n, t, wide, signed = buf(m), op.src.channels, op.table, op.src.width, op.src.signed
    bias, mult, shift = vector(t.bias, t.count), vector(t.mult, t.count), vector(t.shift, t.count)
    for p in range(first, last):
        of, to = at(op.src, p // wide, p % wide), at(op.dst, p // wide, p % wide)
        source, target = data[of : of + n], data[to : to + n]
        total, squares = np.int64(0), np.int64(0)
        for c in range(n):
            q = value8(source[c], signed)
            total += q
            squares += q * q
        spread = n * squares - total * total + (t.eps << t.up)
        r, s = _reciprocal_root(spread) if spread > 0 else (np.int64(0), np.int64(0))
        for c in range(n):
            norm = rne((n * value8(source[c], signed) - total) * r, 10 + s)
            value = rne(rne(norm * mult[c], shift[c]) + bias[c], 8) + t.zero
            target[c] = np.uint8(min(max(value, t.lo), t.hi))
    return 0
