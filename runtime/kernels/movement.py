"""Copies between views whatever their strides, fills, words of host memory."""

from __future__ import annotations

import numpy as np

from sasimc.runtime.kernel import acc, buf, host, kernel, reg, set_reg
from sasimc.runtime.kernels.compiling import inner

__all__ = ["move_rows", "move_staged"]


@inner
def _lines(v):  # type: ignore[no-untyped-def]
    """(runs a row, bytes from one to the next, units a run, bytes from one to the next, bytes a unit): as long as neighbours allow."""
    if v.units > 1 and v.channel_step != v.item:
        return v.pixels, v.pixel_step, v.units, v.channel_step, v.item
    line = v.units * v.item
    if v.pixels == 1 or v.pixel_step == line:
        return np.int64(1), np.int64(0), np.int64(1), np.int64(0), v.pixels * line
    return v.pixels, v.pixel_step, np.int64(1), np.int64(0), line


@inner
def _row(flat, start, v, y, line, store):  # type: ignore[no-untyped-def]
    """One row between a view (``start``: its address in the flat bytes) and a dense line, bytes."""
    runs, step, units, hop, size = _lines(v)
    row, k = start + (y % v.ring) * v.row_step, 0
    for x in range(runs):
        for u in range(units):
            begin = row + x * step + u * hop
            place, part = flat[begin : begin + size], line[k : k + size]
            if store:
                for i in range(size):
                    place[i] = part[i]
            else:
                for i in range(size):
                    part[i] = place[i]
            k += size


@inner
def move_rows(to, into, start, of, from_, origin, shift, first, last):  # type: ignore[no-untyped-def]
    """Rows first..last of view ``of`` (bytes ``from_``, beginning at ``origin``) to the rows ``shift`` further on of view ``to`` (bytes ``into``)."""
    simple = _lines(to)[0] == 1 and _lines(of)[0] == 1 and _lines(of)[2] == 1 and _lines(to)[2] == 1
    size = of.pixels * of.units * of.item
    if simple:
        for y in range(first, last):
            a, b = start + ((y + shift) % to.ring) * to.row_step, origin + (y % of.ring) * of.row_step
            target, source = into[a : a + size], from_[b : b + size]
            for i in range(size):
                target[i] = source[i]
        return
    line = np.empty(size, np.uint8)
    for y in range(first, last):
        _row(from_, origin, of, y, line, False)
        _row(into, start, to, y + shift, line, True)


@kernel("load_host", ns=0.1)
def load_host(op, m, first, last):  # type: ignore[no-untyped-def]
    move_rows(op.dst, buf(m), op.dst.address, op.src, host(m), op.src.address + reg(m, op.index) * op.src.batch, 0, first, last)
    return 0


@kernel("store_host", ns=0.1)
def store_host(op, m, first, last):  # type: ignore[no-untyped-def]
    move_rows(op.dst, host(m), op.dst.address + reg(m, op.index) * op.dst.batch, op.src, buf(m), op.src.address, 0, first, last)
    return 0


@kernel("copy", ns=0.1)
def copy(op, m, first, last):  # type: ignore[no-untyped-def]
    """Where target and source lie in each other's bounds all rows are read before one is written."""
    data, dst, src = buf(m), op.dst, op.src
    if dst.low >= src.high or src.low >= dst.high:
        move_rows(dst, data, dst.address, src, data, src.address, op.shift, first, last)
        return 0
    size = src.pixels * src.units * src.item
    lines = np.empty(((last - first), size), np.uint8)
    for y in range(first, last):
        _row(data, src.address, src, y, lines[y - first], False)
    for y in range(first, last):
        _row(data, dst.address, dst, y + op.shift, lines[y - first], True)
    return 0


@kernel("fill", ns=0.2)
def fill(op, m, first, last):  # type: ignore[no-untyped-def]
    data, dst = buf(m), op.dst
    line = np.empty(dst.pixels * dst.units * dst.item, np.uint8)
    for i in range(line.shape[0]):
        line[i] = np.uint8((op.value >> (8 * (i % dst.item))) & 255)
    for y in range(first, last):
        _row(data, dst.address, dst, y, line, True)
    return 0


@kernel("load_word")
def load_word(op, m, first, last):  # type: ignore[no-untyped-def]
    data, start, value = host(m), op.src.address + reg(m, op.index) * op.src.batch, np.int64(0)
    for i in range(4):
        value |= np.int64(data[start + i]) << (8 * i)
    set_reg(m, op.rd, (value + (np.int64(1) << 31)) % (np.int64(1) << 32) - (np.int64(1) << 31))
    return 0


@kernel("store_word")
def store_word(op, m, first, last):  # type: ignore[no-untyped-def]
    data, start = host(m), op.dst.address + reg(m, op.index) * op.dst.batch
    for i in range(4):
        data[start + i] = np.uint8((reg(m, op.rs) >> (8 * i)) & 255)
    return 0


def move_staged(op, m, first, last):  # type: ignore[no-untyped-def]
    """An operand that kernels cannot address, to its dense copy or back: every row held."""
    data = acc(m).view(np.uint8) if op.words else buf(m)
    move_rows(op.into, data, op.into.address, op.of, data, op.of.address, 0, first, last)
    return 0
