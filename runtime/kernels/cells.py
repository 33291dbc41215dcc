"""Cells of the sub-arrays: weight blocks in and out of word lines, tile by tile.

``cells`` is uint8 [sub-arrays, rows, weights a row]: one byte is one int8 weight, eight neighbouring bit columns (two
cell macros, design
note "Hierarchy"). ``tiles`` is int64 [T, 8]: sub-array, word line, weight column, k, n, rows, cols, copy (see
`sasimc.isa.objects.Tile`).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from sasimc.isa.objects import Tile
from sasimc.runtime.kernels.compiling import inner
from sasimc.runtime.kernels.simd import popcount

__all__ = [
    "count_writes",
    "driven_cycles",
    "gather_block",
    "load",
    "scatter_block",
    "stored",
    "tile_array",
    "uninitialised",
    "unwritten",
    "update_block",
]

Bytes = npt.NDArray[np.uint8]


def tile_array(tiles: Iterable[Tile]) -> npt.NDArray[np.int64]:
    """Tiles as the kernels take them: int64 [T, 8]."""
    rows = [(t.subarray, t.row, t.col, t.k, t.n, t.rows, t.cols, t.copy) for t in tiles]
    return np.array(rows, np.int64).reshape(-1, 8)


def load(cells: Bytes, written: npt.NDArray[np.bool_], tiles: npt.NDArray[np.int64], values: Bytes) -> None:
    """Put a matrix uint8 [K, N] into every tile."""
    for sub, row, col, k, n, rows, cols, _ in tiles.tolist():
        cells[sub, row : row + rows, col : col + cols] = values[k : k + rows, n : n + cols]
        written[sub, row : row + rows, col : col + cols] = True


def stored(cells: Bytes, tiles: npt.NDArray[np.int64], k: int, n: int) -> Bytes:
    """The matrix uint8 [K, N] as it stands in copy 0 (0 where no tile is)."""
    out = np.zeros((k, n), np.uint8)
    for sub, row, col, first, left, rows, cols, copy in tiles.tolist():
        if copy == 0:
            out[first : first + rows, left : left + cols] = cells[sub, row : row + rows, col : col + cols]
    return out


def unwritten(written: npt.NDArray[np.bool_], tiles: npt.NDArray[np.int64]) -> tuple[int, int] | None:
    """First (sub-array, word line) that holds a cell never written; None if there is none."""
    for sub, row, col, _, _, rows, cols, _ in tiles.tolist():
        whole = written[sub, row : row + rows, col : col + cols].all(axis=1)
        if not whole.all():
            return sub, row + int(whole.argmin())
    return None


@inner
def gather_block(cells, tiles, copy, k0, k1, out):  # type: ignore[no-untyped-def]
    """out uint8 [k1 - k0, N] = the bytes stored for logical rows k0..k1 in one copy."""
    for i in range(tiles.shape[0]):
        sub, row, col, k, n, rows, cols, which = tiles[i]
        if which != copy:
            continue
        for y in range(max(k, k0), min(k + rows, k1)):
            line = cells[sub, row + y - k]
            for x in range(cols):
                out[y - k0, n + x] = line[col + x]


@inner
def scatter_block(cells, written, tiles, k0, n0, values):  # type: ignore[no-untyped-def]
    """Write values uint8 [R, M], logical corner (k0, n0), into every tile (every copy), in the order of the tiles.

    Returns the number of bits that changed.
    """
    flips = np.int64(0)
    k1, n1 = k0 + values.shape[0], n0 + values.shape[1]
    for i in range(tiles.shape[0]):
        sub, row, col, k, n, rows, cols, _ = tiles[i]
        for y in range(max(k, k0), min(k + rows, k1)):
            line = cells[sub, row + y - k]
            flags = written[sub, row + y - k]
            source = values[y - k0]
            for x in range(max(n, n0), min(n + cols, n1)):
                old, new = line[col + x - n], source[x - n0]
                flips += np.int64(popcount(np.uint32(old ^ new)))  # pyright: ignore[reportCallIssue] (an intrinsic)
                line[col + x - n] = new
                flags[col + x - n] = True
    return flips


@inner
def count_writes(wear, tiles, k0, k1, n0, n1):  # type: ignore[no-untyped-def]
    """Add one to ``wear`` int64 [sub-arrays, rows] for every word line that a write of logical rows k0..k1, columns n0..n1 pulses."""
    for i in range(tiles.shape[0]):
        sub, row, _, k, n, rows, cols, _ = tiles[i]
        if n < n1 and n + cols > n0:
            for y in range(max(k, k0), min(k + rows, k1)):
                wear[sub, row + y - k] += 1


@inner
def update_block(cells, wear, tiles, k0, n0, delta):  # type: ignore[no-untyped-def]
    """W = clamp(W - delta, -127, 127), delta int8 [R, M] at logical corner (k0, n0), in every tile; a word line is written only where a
    weight changes. Returns (word lines written, bits written, bits that changed)."""
    rows_written, bits, flips = np.int64(0), np.int64(0), np.int64(0)
    k1, n1 = k0 + delta.shape[0], n0 + delta.shape[1]
    for i in range(tiles.shape[0]):
        sub, row, col, k, n, rows, cols, _ = tiles[i]
        first, last = max(n, n0), min(n + cols, n1)
        if first >= last:
            continue
        for y in range(max(k, k0), min(k + rows, k1)):
            line = cells[sub, row + y - k]
            source = delta[y - k0]
            changed = np.int64(0)
            for x in range(first, last):
                if source[x - n0] == 0:
                    continue
                old = line[col + x - n]
                new = np.uint8(min(max(np.int32(np.int8(old)) - np.int32(source[x - n0]), np.int32(-127)), np.int32(127)) & 255)
                changed += np.int64(popcount(np.uint32(old ^ new)))  # pyright: ignore[reportCallIssue] (an intrinsic)
                line[col + x - n] = new
            if changed:
                rows_written += 1
                wear[sub, row + y - k] += 1
                bits += 8 * (last - first)
                flips += changed
    return rows_written, bits, flips


@inner
def uninitialised(written, tiles, k0, k1):  # type: ignore[no-untyped-def]
    """First (sub-array, word line) among logical rows k0..k1 that holds a cell never written, or (-1, -1)."""
    for i in range(tiles.shape[0]):
        sub, row, col, k, _, rows, cols, _ = tiles[i]
        for y in range(max(k, k0), min(k + rows, k1)):
            flags = written[sub, row + y - k]
            for x in range(cols):
                if not flags[col + x]:
                    return sub, row + y - k
    return np.int64(-1), np.int64(-1)


_ONES = np.array([b.bit_count() for b in range(256)], np.int64)


@inner
def driven_cycles(streamed, tiles, place, unit, units, copies, mats, banks):  # type: ignore[no-untyped-def]
    """Cycles of streaming bytes uint8 [P, K] through word lines that are active once per one bit (docs/reference/numerics.md, "Zero bits").

    ``tiles`` int64 [T, 8]; tile i stands in sub-array ``place[i]``, sub-array s in group or bank ``unit[s]`` of ``units``. ``mats`` = 0: groups one
    after another, each as long as its busiest sub-array; else ``mats`` sub-arrays of each bank and ``banks`` banks work at a time.
    """
    pixels, rows = streamed.shape
    before = np.zeros((copies, rows + 1), np.int64)
    loads, sums, tallest = np.zeros(unit.shape[0], np.int64), np.zeros(units, np.int64), np.zeros(units, np.int64)
    cycles = np.int64(0)
    for first in range(0, pixels, copies):
        active = min(copies, pixels - first)
        for c in range(active):
            total = np.int64(0)
            line = streamed[first + c]
            for k in range(rows):
                total += _ONES[line[k]]
                before[c, k + 1] = total
        loads[:] = 0
        for i in range(tiles.shape[0]):
            if tiles[i, 7] < active:
                loads[place[i]] += before[tiles[i, 7], tiles[i, 3] + tiles[i, 5]] - before[tiles[i, 7], tiles[i, 3]]
        sums[:] = 0
        tallest[:] = 0
        for s in range(unit.shape[0]):
            sums[unit[s]] += loads[s]
            tallest[unit[s]] = max(tallest[unit[s]], loads[s])
        if mats == 0:
            cycles += tallest.sum()
            continue
        longest, total = np.int64(0), np.int64(0)
        for u in range(units):
            time = max(tallest[u], (sums[u] + mats - 1) // mats)
            longest = max(longest, time)
            total += time
        cycles += max(longest, (total + banks - 1) // banks)
    return cycles
