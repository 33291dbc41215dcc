"""The reference engine's inner loops: word lines and bit columns driven step by step, bit by bit, counting as they go.

``entries`` int64 [A, 8]: for a word line (sub-array, word line, first weight column, columns, k, n, copy, tile); for
a weight column (sub-array, first
word line, weight column, rows, k, n, copy, tile). Entries active together stand side by side; step s holds bounds[s]
.. bounds[s + 1].
``counts`` int64 [5]: cycles, activations, shift-adds, sense operations with input bit 1, adder-tree operations.
"""

from __future__ import annotations

import numpy as np

from sasimc.runtime.kernels.compiling import for_python

__all__ = ["drive_columns", "drive_rows", "scatter_taps", "scatter_taps_transposed"]


@for_python
def drive_rows(cells, entries, bounds, tiles, inputs, copies, bits, signed, pairs, by_row, width, out, seen, counts):  # type: ignore[no-untyped-def]
    """Stream inputs int64 [P, K] through word lines; pixel p works in copy p mod ``copies``.

    by_row = 0: out int32 [P, width] gets the sums over k (shift-adds within a tile, the adder tree between tiles;
    ``seen`` uint8 [P, width]
    marks columns that have a partial sum). by_row = 1: out [P, K * width] gets the product of every word line for
    itself.
    pairs = 1: even weight columns hold low bytes (all bits weigh positive).
    """
    pixels = inputs.shape[0]
    partial = np.zeros((tiles, cells.shape[2]), np.int32)
    for first in range(0, pixels, copies):
        partial[:] = 0
        for step in range(bounds.shape[0] - 1):
            for cycle in range(bits):
                counts[0] += 1
                for slot in range(bounds[step], bounds[step + 1]):
                    sub, row, col, cols, k, n, copy, tile = entries[slot]
                    p = first + copy
                    if p >= pixels:
                        continue  # this copy has no pixel left
                    if cycle == 0:
                        counts[1] += 1
                    counts[2] += cols
                    if (inputs[p, k] >> cycle) & 1 == 0:
                        continue
                    counts[3] += 8 * cols
                    line = cells[sub, row]
                    for x in range(cols):
                        total = np.int32(0)
                        for bit in range(8):
                            sensed = np.int32((line[col + x] >> np.uint8(bit)) & np.uint8(1)) << np.int32(bit)
                            if bit == 7 and not (pairs and (n + x) % 2 == 0):
                                total -= sensed
                            else:
                                total += sensed
                        value = total << np.int32(cycle)
                        if signed and cycle == bits - 1:
                            value = -value
                        if by_row:
                            out[p, k * width + n + x] += value
                        else:
                            partial[tile, x] += value
        if by_row:
            continue
        done = np.zeros(tiles, np.bool_)
        for slot in range(entries.shape[0]):
            _, _, _, cols, _, n, copy, tile = entries[slot]
            p = first + copy
            if done[tile] or p >= pixels:
                continue
            done[tile] = True
            for x in range(cols):
                counts[4] += seen[p, n + x]
                seen[p, n + x] = 1
                out[p, n + x] += partial[tile, x]


@for_python
def drive_columns(cells, entries, bounds, tiles, errors, bit_columns, out, seen, counts):  # type: ignore[no-untyped-def]
    """Drive weight columns of transposable sub-arrays (paper figure 5): errors int64 [P, N], out int32 [P, K].

    ``bit_columns`` bit columns of a weight are driven a cycle, each with error bit ``cycle``; all rows of the tile
    are sensed.
    """
    pixels = errors.shape[0]
    partial = np.zeros((tiles, cells.shape[1]), np.int32)
    for p in range(pixels):
        partial[:] = 0
        for step in range(bounds.shape[0] - 1):
            for group in range(0, 8, bit_columns):
                for cycle in range(8):
                    counts[0] += 1
                    for slot in range(bounds[step], bounds[step + 1]):
                        sub, row, col, rows, _, n, _, tile = entries[slot]
                        for bit in range(group, min(8, group + bit_columns)):
                            if cycle == 0:
                                counts[1] += 1
                            counts[2] += rows
                            if (errors[p, n] >> cycle) & 1 == 0:
                                continue
                            counts[3] += rows
                            negative = (bit == 7) != (cycle == 7)
                            for r in range(rows):
                                sensed = np.int32((cells[sub, row + r, col] >> np.uint8(bit)) & np.uint8(1))
                                value = sensed << np.int32(bit + cycle)
                                partial[tile, r] += -value if negative else value
        done = np.zeros(tiles, np.bool_)
        for slot in range(entries.shape[0]):
            _, _, _, rows, k, _, _, tile = entries[slot]
            if done[tile]:
                continue
            done[tile] = True
            for r in range(rows):
                counts[4] += seen[p, k + r]
                seen[p, k + r] = 1
                out[p, k + r] += partial[tile, r]


@for_python
def scatter_taps(products, geom, y0, x0, columns, times, sums):  # type: ignore[no-untyped-def]
    """Products int32 [positions, C, times * taps] of streamed elements (rows from y0, columns x0 .. x0 + columns)
    into sums [ho, wo, C * times]."""
    kh, kw, sh, sw, dh, dw, pt, pl, _, _, ho, wo = geom
    positions, chans, _ = products.shape
    for p in range(positions):
        y, x = y0 + p // columns, x0 + p % columns
        for ky in range(kh):
            down = y + pt - ky * dh
            if down < 0 or down % sh != 0 or down // sh >= ho:
                continue
            for kx in range(kw):
                right = x + pl - kx * dw
                if right < 0 or right % sw != 0 or right // sw >= wo:
                    continue
                for c in range(chans):
                    for j in range(times):
                        sums[down // sh, right // sw, c * times + j] += products[p, c, (j * kh + ky) * kw + kx]


@for_python
def scatter_taps_transposed(products, geom, r0, sums):  # type: ignore[no-untyped-def]
    """Products int32 [error pixels from row r0, C, taps] into sums [h, w, C] at the input position of each tap."""
    kh, kw, sh, sw, dh, dw, pt, pl, h, width, _, wo = geom
    positions, chans, _ = products.shape
    for p in range(positions):
        oy, ox = r0 + p // wo, p % wo
        for ky in range(kh):
            y = oy * sh - pt + ky * dh
            if y < 0 or y >= h:
                continue
            for kx in range(kw):
                x = ox * sw - pl + kx * dw
                if x < 0 or x >= width:
                    continue
                for c in range(chans):
                    sums[y, x, c] += products[p, c, ky * kw + kx]
