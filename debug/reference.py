"""What an instruction should do, computed from its definition with numpy, in whole numbers that can be shown.

This shares nothing with the kernels. It covers the instructions of the forward pass by what their declarations name as kernel; for others there is no
reference here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sasimc.debug.session import Session
from sasimc.ir.interp import rne
from sasimc.isa.instructions.array import streamed_positions
from sasimc.isa.objects import View

__all__ = ["Expected", "expected"]

Ints = npt.NDArray[np.int64]
At = tuple[int, int, int]
_SHOWN: Final = 6


@dataclass(frozen=True)
class Expected:
    """What an execution should leave in rows ``first`` .. of a view: values [rows, W, C]; ``why``: how an element (y, x, c) of the view comes about."""

    view: str
    first: int
    values: Ints
    why: Callable[[At], Iterator[str]]


class _Operands:
    """Operands of the next instruction as numbers, read before it is executed."""

    def __init__(self, session: Session, pc: int) -> None:
        self.session, self.o = session, session.program.resolve(session.program.code[pc])
        self.r0, self.r1 = session.it.at.rows(pc)

    def view(self, v: View) -> Ints:
        return self.session.it.read_view(v.name, stale=True).astype(np.int64)

    def table(self, role: str) -> Ints:
        return self.session.program.table_array(self.o.table, role)


def _window_values(x: Ints, pad: int, g: Any, y: int, column: int) -> Ints:
    """[kh, kw, C] under an output pixel, the pad value outside."""
    out = np.full((*g.kernel, x.shape[2]), pad, np.int64)
    for i in range(g.kernel[0]):
        for j in range(g.kernel[1]):
            iy, ix = y * g.stride[0] - g.pad[0] + i * g.dilation[0], column * g.stride[1] - g.pad[1] + j * g.dilation[1]
            if 0 <= iy < x.shape[0] and 0 <= ix < x.shape[1]:
                out[i, j] = x[iy, ix]
    return out


def _terms(values: Ints, weights: Ints, before: int, names: list[str]) -> Iterator[str]:
    """A sum of products: its largest terms."""
    products = values * weights
    yield f"sum before: {before}"
    order = np.argsort(-np.abs(products), kind="stable")
    for k in order[:_SHOWN].tolist():
        yield f"  {names[k]}: {values[k]} x {weights[k]} = {products[k]}"
    if len(order) > _SHOWN:
        yield f"  and {len(order) - _SHOWN} smaller terms, {int(products[order[_SHOWN:]].sum())} together"
    yield f"sum expected: {before + int(products.sum())}"


def _dense(s: Session, pc: int) -> Expected:
    p = _Operands(s, pc)
    o, x, acc, w = p.o, p.view(p.o.x), p.view(p.o.acc), s.it.read_matrix(p.o.mat.name).astype(np.int64)
    out = acc[p.r0 : p.r1].copy()
    for y in range(p.r0, p.r1):
        for column in range(o.acc.width):
            out[y - p.r0, column] += _window_values(x, o.x.pad, o.geom, y, column).reshape(-1) @ w

    def why(at: At) -> Iterator[str]:
        y, column, n = at
        values = _window_values(x, o.x.pad, o.geom, y, column)
        names = [f"window ({i}, {j}, {c}), weight {o.mat.name}[{k}, {n}]" for k, (i, j, c) in enumerate(np.ndindex(values.shape))]
        return _terms(values.reshape(-1), w[:, n], int(acc[at]), names)

    return Expected(o.acc.name, p.r0, out, why)


def _depthwise(s: Session, pc: int) -> Expected:
    p = _Operands(s, pc)
    o, x, acc, w = p.o, p.view(p.o.x), p.view(p.o.acc), s.it.read_matrix(p.o.mat.name).astype(np.int64)
    y0, y1, x0, x1 = streamed_positions(o.x, o.geom, o.acc, p.r0, p.r1)
    g, (kh, kw), each = o.geom, o.geom.kernel, o.acc.channels // o.x.channels
    streamed = np.full((y1 - y0, x1 - x0, o.x.channels), o.x.pad, np.int64)
    streamed[p.r0 - y0 : p.r1 - y0, -x0 : o.x.width - x0] = x[p.r0 : p.r1]

    def seen(y: int, column: int) -> Iterator[tuple[int, int, Ints]]:
        for i in range(kh):
            for j in range(kw):
                iy, ix = (
                    y * g.stride[0] - g.pad[0] + i * g.dilation[0] - y0,
                    column * g.stride[1] - g.pad[1] + j * g.dilation[1] - x0,
                )
                if 0 <= iy < y1 - y0 and 0 <= ix < x1 - x0:
                    yield i, j, streamed[iy, ix]

    kernels = w.reshape(o.x.channels, each, kh, kw)
    out = acc.copy()
    for y in range(o.acc.height):
        for column in range(o.acc.width):
            for i, j, values in seen(y, column):
                out[y, column] += (values[:, None] * kernels[:, :, i, j]).reshape(-1)

    def why(at: At) -> Iterator[str]:
        y, column, n = at
        parts = list(seen(y, column))
        values = np.array([v[n // each] for _, _, v in parts], np.int64)
        weights = np.array([kernels[n // each, n % each, i, j] for i, j, _ in parts], np.int64)
        return _terms(values, weights, int(acc[at]), [f"tap ({i}, {j}) of channel {n // each}" for i, j, _ in parts])

    return Expected(o.acc.name, 0, out, why)


def _pool(s: Session, pc: int) -> Expected:
    p = _Operands(s, pc)
    o, x, acc = p.o, p.view(p.o.x), p.view(p.o.acc)
    out = acc[p.r0 : p.r1].copy()
    for y in range(p.r0, p.r1):
        for column in range(o.acc.width):
            out[y - p.r0, column] += _window_values(x, o.x.pad, o.geom, y, column).sum(axis=(0, 1))

    def why(at: At) -> Iterator[str]:
        y, column, c = at
        values = _window_values(x, o.x.pad, o.geom, y, column)[:, :, c].reshape(-1)
        return _terms(
            values, np.ones(len(values), np.int64), int(acc[at]), [f"element {i} of the window" for i in range(len(values))]
        )

    return Expected(o.acc.name, p.r0, out, why)


def _requantise(s: Session, pc: int) -> Expected:
    p = _Operands(s, pc)
    acc, t = p.view(p.o.acc)[p.r0 : p.r1], p.o.table.ints
    bias, mult, shift = p.table("bias"), p.table("mult"), p.table("shift")
    out = np.clip(rne((acc + bias) * mult, shift) + t["zero"], t["lo"], t["hi"])

    def why(at: At) -> Iterator[str]:
        y, column, c = at
        total = int(acc[y - p.r0, column, c])
        yield f"sum {total} + bias {bias[c % len(bias)]}, times {mult[c % len(mult)]}, / 2^{shift[c % len(shift)]} to the nearest, + zero point {t['zero']}, "
        yield f"  kept within {t['lo']}..{t['hi']}: expected {int(out[y - p.r0, column, c])}"

    return Expected(p.o.dst.name, p.r0, out, why)


def _add(s: Session, pc: int) -> Expected:
    p = _Operands(s, pc)
    a, b, t = p.view(p.o.a)[p.r0 : p.r1], p.view(p.o.b)[p.r0 : p.r1], p.o.table.ints
    out = np.clip(rne((a - t["za"]) * t["ma"] + (b - t["zb"]) * t["mb"], t["shift"]) + t["zy"], t["lo"], t["hi"])

    def why(at: At) -> Iterator[str]:
        y, column, c = at
        first, second = int(a[y - p.r0, column, c]), int(b[y - p.r0, column, c])
        yield f"({first} - {t['za']}) x {t['ma']} + ({second} - {t['zb']}) x {t['mb']}, / 2^{t['shift']} to the nearest, + {t['zy']}, "
        yield f"  kept within {t['lo']}..{t['hi']}: expected {int(out[y - p.r0, column, c])}"

    return Expected(p.o.dst.name, p.r0, out, why)


_BY_KERNEL: Final[dict[str, Callable[[Session, int], Expected]]] = {
    "forward_product": _dense, "depthwise_product": _depthwise, "pool_sum": _pool, "requantise": _requantise, "add_quantised": _add,
}  # fmt: skip


def expected(session: Session, pc: int) -> Expected | None:
    """What the next instruction should do; None: there is no reference for it, or it works on no rows."""
    made = _BY_KERNEL.get(session.program.code[pc].spec.kernel)
    if made is None or session.it.at.rows(pc)[0] < 0:
        return None
    return made(session, pc)
