"""Where weights stand: how a matrix is cut, and how the cuts of all matrices are packed into the activation groups.

The time of a product is set by the busiest sub-array, so a matrix is cut into equal pieces that spread over a whole activation group. One piece on each
sub-array of a group, all at the same word lines and columns, is a *level*; levels work one after another, wherever they stand, so packing
is free to put them anywhere. Packing sees a group as one bin of word lines x weight columns: levels are set on shelves, highest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from sasimc.isa.machine import Machine
from sasimc.isa.objects import Tile

__all__ = ["Cut", "Level", "Shelves", "best_cuts", "tiles_of"]

MAX_COPIES = 32


@dataclass(frozen=True)
class Cut:
    """Pieces of ``rows`` x ``cols`` of a k x n matrix, ``copies`` times; ``cycles`` of its products a sample, ``levels`` they stand on.

    Where the adder tree reaches only ``unit`` sub-arrays of a group (0: all of the machine), a *chain* of ``chain`` pieces whose partial sums are added
    stands in one such unit: side by side on one level, or on ``bundle`` levels of the same group.
    """

    k: int
    n: int
    rows: int
    cols: int
    copies: int
    cycles: float = 0.0
    levels: int = 1
    unit: int = 0
    chain: int = 1
    bundle: int = 1
    by_column: bool = True

    @property
    def pieces(self) -> list[tuple[int, int, int, int, int]]:
        """(copy, k, n, rows, cols) of every piece; those of a chain follow each other where the reach matters."""
        corners = [(k, n) for k in range(0, self.k, self.rows) for n in range(0, self.n, self.cols)]
        if self.unit and self.by_column:
            corners.sort(key=lambda corner: corner[1])
        return [(c, k, n, min(self.rows, self.k - k), min(self.cols, self.n - n)) for c in range(self.copies) for k, n in corners]

    def place(self, piece: int, size: int) -> tuple[int, int]:
        """(level, place in a group of ``size``) of a piece by its number."""
        if not self.unit:
            return divmod(piece, size)
        units = size // self.unit
        chain, link = divmod(piece, self.chain)
        if self.bundle > 1:
            (bundle, unit), (level, place) = divmod(chain, units), divmod(link, self.unit)
            return bundle * self.bundle + level, unit * self.unit + place
        unit, slot = divmod(chain, self.unit // self.chain)
        level, unit = divmod(unit, units)
        return level, unit * self.unit + slot * self.chain + link


@lru_cache(maxsize=65536)
def best_cuts(
    k: int, n: int, pixels: int, machine: Machine, *, use: str, copies: bool, narrow: bool, thrift: tuple[float, ...]
) -> list[Cut]:
    """For each ``thrift`` the cut with the lowest cost: cycles of all products of a sample plus ``thrift`` for every word line x column
    of a level. ``use``: ``forward``, ``backward`` (transposed products only) or ``both``.

    A forward product takes 8 cycles a word line and level, a transposed one 64 / ``bit_columns_per_cycle`` cycles a weight column and level.
    ``copies``: several pixels may be worked on at once; ``narrow``: a kernel must not be cut (depth-wise, whose sums need no adder tree). Among
    equals, the fewest pieces. Cycles are infinite where no cut keeps partial sums within the adder tree's reach.
    """
    height, width, size = machine.array.rows, machine.weights_per_row, machine.group_size
    heights = np.array(sorted({-(-k // a) for a in range(-(-k // height), k + 1)}))
    if narrow:
        widths = np.array([n])
    elif use == "forward":
        widths = np.array([min(n, width)])
    else:
        widths = np.array(sorted({-(-n // b) for b in range(-(-n // width), n + 1)}))
    unit = 0 if narrow else machine.reach_size
    if unit and use == "forward":
        widths = np.array(sorted({min(n, width), *(-(-n // b) for b in range(-(-n // width), n + 1))}))
    grid = np.meshgrid(heights, widths, np.arange(1, (MAX_COPIES if copies else 1) + 1), indexing="ij")
    h, w, c = (axis.ravel() for axis in grid)
    across, along = -(-n // w), -(-k // h)
    pieces = along * across * c
    levels, chain, bundle = -(-pieces // size), np.ones_like(pieces), np.ones_like(pieces)
    if unit:
        chain = {"forward": along, "backward": across, "both": along * across}[use]
        bundle = -(-chain // unit)
        packed = -(-(pieces // chain) // (size // unit * np.maximum(unit // chain, 1)))
        levels = packed * bundle
    cycles = np.where(bundle <= height // h * (width // w), 0.0, np.inf)
    if use != "backward":
        # the adder tree works beside the arrays: the slower of the two counts
        sums = 0 if narrow else pixels * (-(-k // h) - 1) * n // machine.adder_tree.units
        cycles = cycles + np.maximum(-(-pixels // c) * levels * h * 8, sums)
    if use != "forward":
        per_column = -(-machine.array.weight_bits // machine.transposed.bit_columns_per_cycle) * 8
        cycles = cycles + pixels * levels * w * per_column
    cells = levels * h * w
    order = np.lexsort((pieces, cells, cycles))
    # only cuts with fewer cells than every faster one can be the cheapest at any price
    least = np.minimum.accumulate(np.concatenate(([np.iinfo(np.int64).max], cells[order][:-1])))
    front = order[cells[order] < least]
    out = []
    for price in thrift:
        i = int(front[np.argmin(cycles[front] + price * cells[front])])
        linked, stacked = (int(chain[i]), int(bundle[i])) if unit else (1, 1)
        rows, cols, times = int(h[i]), int(w[i]), int(c[i])
        made = Cut(k, n, rows, cols, times, float(cycles[i]), int(levels[i]), unit, linked, stacked, use != "backward")
        out.append(made)
    return out


@dataclass(frozen=True)
class Level:
    """A rectangle of one group: the same word lines and weight columns of all its sub-arrays."""

    group: int
    row: int
    col: int


@dataclass
class _Group:
    """Free rectangles (row, col, rows, cols, owner); the owner of a shelf is who may stand beside what is there."""

    free: list[tuple[int, int, int, int, str]]
    kind: str = ""


@dataclass
class Shelves:
    """All activation groups while packing. A group holds one kind of sub-array; trainable and frozen weights never share a word line."""

    machine: Machine
    groups: list[_Group] = field(default_factory=list)

    def __post_init__(self) -> None:
        m = self.machine
        self.groups = [_Group([(0, 0, m.array.rows, m.weights_per_row, "")]) for _ in range(m.groups)]

    def _may_start(self, kind: str) -> bool:
        """False when a machine file with a fixed number of transposable sub-arrays has no whole group of them left."""
        allowed = self.machine.transposed.subarrays
        if kind != "transposable" or allowed == "auto":
            return True
        return (1 + sum(g.kind == kind for g in self.groups)) * self.machine.group_size <= int(allowed)

    def take(self, rows: int, cols: int, kind: str, owner: str) -> Level | None:
        """The tightest place for a level in a group of this kind (compute groups fill from the front, transposable from the back)."""
        best: tuple[tuple[int, int, int, int], int, int] | None = None
        may_start = self._may_start(kind)
        for g, group in enumerate(self.groups):
            if group.kind != kind and (group.kind or not may_start):
                continue
            order = g if kind == "compute" else -g
            for i, (_, _, fr, fc, who) in enumerate(group.free):
                if fr >= rows and fc >= cols and who in ("", owner):
                    key = (0 if group.kind else 1, fr - rows, fc - cols, order)
                    if best is None or key < best[0]:
                        best = (key, g, i)
        if best is None:
            return None
        _, g, i = best
        group = self.groups[g]
        group.kind = kind
        r, c, fr, fc, who = group.free.pop(i)
        # beside it the shelf belongs to the owner; below it whoever could stand here before may stand
        rest = [(r, c + cols, rows, fc - cols, owner), (r + rows, c, fr - rows, fc, who)]
        group.free += [p for p in rest if p[2] > 0 and p[3] > 0]
        return Level(g, r, c)

    def take_scratch(self) -> tuple[Level, int, int] | None:
        """The largest free rectangle of a compute group (an empty group if there is one), with its rows and columns."""
        options = [
            (fr * fc, -g, i)
            for g, group in enumerate(self.groups)
            if group.kind in ("", "compute")
            for i, (_, _, fr, fc, who) in enumerate(group.free)
            if who == ""
        ]
        if not options:
            return None
        _, g, i = max(options)
        group = self.groups[-g]
        group.kind = "compute"
        r, c, fr, fc, _ = group.free.pop(i)
        return Level(-g, r, c), fr, fc

    def take_all(self, cut: Cut, kind: str, owner: str) -> list[Level] | None:
        """Places for all levels of a cut; those of a bundle stand beside and below each other in one group. None: no room."""
        beside = min(cut.bundle, self.machine.weights_per_row // cut.cols)
        below = -(-cut.bundle // beside)
        out: list[Level] = []
        for _ in range(cut.levels // cut.bundle):
            corner = self.take(below * cut.rows, beside * cut.cols, kind, owner)
            if corner is None:
                return None
            steps = (divmod(i, beside) for i in range(cut.bundle))
            out += [Level(corner.group, corner.row + y * cut.rows, corner.col + x * cut.cols) for y, x in steps]
        return out


def tiles_of(cut: Cut, levels: Sequence[Level], machine: Machine) -> list[Tile]:
    """Tiles of a cut whose levels have been taken, in order."""
    size, out = machine.group_size, []
    for i, (copy, k, n, rows, cols) in enumerate(cut.pieces):
        level, place = cut.place(i, size)
        at = levels[level]
        out.append(Tile(at.group * size + place, at.row, at.col, k, n, rows, cols, copy))
    return out
