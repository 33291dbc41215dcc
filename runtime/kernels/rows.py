"""Rows in and out of the arrays: reads, SAS writes, weight updates."""

from __future__ import annotations

import numpy as np

from sasimc.runtime.kernel import FLIPS, LINES, WRITTEN, buf, cells, count, kernel, tiles, wear, written
from sasimc.runtime.kernels.arithmetic import at
from sasimc.runtime.kernels.cells import count_writes, gather_block, scatter_block, uninitialised, update_block
from sasimc.runtime.kernels.compiling import inner

__all__ = ["write_block"]


@inner
def write_block(op, m, where, k0, n0, values):  # type: ignore[no-untyped-def]
    """Write bytes uint8 [R, M] at logical corner (k0, n0) into tiles int64 [T, 8]; counts flipped bits and row writes."""
    count(op, m, FLIPS, scatter_block(cells(m), written(m), where, k0, n0, values))
    count_writes(wear(m), where, k0, k0 + values.shape[0], n0, n0 + values.shape[1])


@inner
def _rows_of(data, v, first, last):  # type: ignore[no-untyped-def]
    """Rows of a (K, 1, N) view as bytes [rows, N]."""
    out = np.empty((last - first, v.channels), np.uint8)
    for y in range(first, last):
        of, line = at(v, y, 0), out[y - first]
        for c in range(v.channels):
            line[c] = data[of + c]
    return out


@inner
def _never_written(m, where, first, last):  # type: ignore[no-untyped-def]
    """1 + number of the first word line (through all sub-arrays) under logical rows with a cell nobody wrote, else 0."""
    sub, row = uninitialised(written(m), where, first, last)
    return 1 + sub * m.rows + row if sub >= 0 else np.int64(0)


@kernel("read_rows")
def read_rows(op, m, first, last):  # type: ignore[no-untyped-def]
    where, data, n = tiles(op.mat), buf(m), op.mat.n
    found = _never_written(m, where, first, last)
    if found:
        return found
    values = np.zeros((last - first, n), np.uint8)
    gather_block(cells(m), where, 0, first, last, values)
    for y in range(first, last):
        to, line = at(op.dst, y, 0), values[y - first]
        for c in range(n):
            data[to + c] = line[c]
    return 0


@kernel("write_rows")
def write_rows(op, m, first, last):  # type: ignore[no-untyped-def]
    write_block(op, m, tiles(op.mat), first, 0, _rows_of(buf(m), op.src, first, last))
    return 0


@kernel("update_rows")
def update_rows(op, m, first, last):  # type: ignore[no-untyped-def]
    where = tiles(op.mat)
    found = _never_written(m, where, first, last)
    if found:
        return found
    old = np.empty((last - first, op.mat.n), np.uint8)
    gather_block(cells(m), where, 0, first, last, old)
    new = _rows_of(buf(m), op.delta, first, last)
    for k in range(new.shape[0]):
        for c in range(new.shape[1]):
            value = np.int32(np.int8(old[k, op.first + c])) - np.int32(np.int8(new[k, c]))
            new[k, c] = np.uint8(min(max(value, np.int32(-127)), np.int32(127)) & 255)
    write_block(op, m, where, first, op.first, new)
    return 0


@kernel("update_changed_rows")
def update_changed_rows(op, m, first, last):  # type: ignore[no-untyped-def]
    where = tiles(op.mat)
    change = _rows_of(buf(m), op.delta, first, last)
    for k in range(change.shape[0]):
        differs = False
        for c in range(change.shape[1]):
            differs |= change[k, c] != 0
        if differs:
            found = _never_written(m, where, first + k, first + k + 1)
            if found:
                return found
    lines, bits, flips = update_block(cells(m), wear(m), where, first, op.first, change.view(np.int8))
    count(op, m, LINES, lines)
    count(op, m, WRITTEN, bits)
    count(op, m, FLIPS, flips)
    return 0
