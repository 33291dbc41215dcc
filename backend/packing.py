"""Where weights stand: how a matrix is cut, and how the cuts of all matrices are packed into the activation groups.

The time of a product is set by the busiest sub-array, so a matrix is cut into equal pieces that spread over a whole activation group. One piece on each
sub-array of a group, all at the same word lines and columns, is a *level*; levels work one after another, wherever they stand, so packing
is free to put them anywhere. Packing sees a group as one bin of word lines x weight columns: levels are set on shelves, highest first.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
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


_Free = tuple[int, int, int, int, int, int]
"""A free rectangle: its rows and columns, the group (negative among transposable ones, which fill from the back), a running number, and where it begins."""


@dataclass
class Shelves:
    """All activation groups while packing. A group holds one kind of sub-array; trainable and frozen weights never share a word line.

    ``_free``: free rectangles of the groups begun, by kind and owner, tightest first; the owner of a shelf is who may stand beside what is there.
    ``_unused``: groups not begun, from the first to before the second.
    """

    machine: Machine
    _free: dict[tuple[str, str], list[_Free]] = field(default_factory=lambda: defaultdict(list))
    _unused: tuple[int, int] = (0, 0)
    _number: int = 0

    def __post_init__(self) -> None:
        self._unused = (0, self.machine.groups)

    def _begin(self, kind: str) -> int | None:
        """The next group for this kind: compute groups fill from the front, transposable from the back. None: no group is left, or no more
        transposable sub-arrays are allowed."""
        first, end = self._unused
        allowed, size = self.machine.transposed.subarrays, self.machine.group_size
        if first == end:
            return None
        if kind == "compute":
            self._unused = (first + 1, end)
            return first
        if allowed != "auto" and (1 + self.machine.groups - end) * size > int(allowed):
            return None
        self._unused = (first, end - 1)
        return 1 - end

    def _put(self, kind: str, owner: str, rows: int, cols: int, group: int, row: int, col: int) -> None:
        if rows > 0 and cols > 0:
            self._number += 1
            insort(self._free[kind, owner], (rows, cols, group, self._number, row, col))

    def take(self, rows: int, cols: int, kind: str, owner: str) -> Level | None:
        """The tightest place for a level in a group of this kind: fewest rows too many, then columns."""
        fits = [(found, who) for who in ("", owner) if (found := _tightest(self._free[kind, who], rows, cols))]
        if fits:
            found, who = min(fits)
            spaces = self._free[kind, who]
            del spaces[bisect_left(spaces, found)]
            fr, fc, group, _, r, c = found
        else:
            begun = self._begin(kind)
            if begun is None:
                return None
            who, fr, fc, group, r, c = "", self.machine.array.rows, self.machine.weights_per_row, begun, 0, 0
        # beside it the shelf belongs to the owner; below it whoever could stand here before may stand
        self._put(kind, owner, rows, fc - cols, group, r, c + cols)
        self._put(kind, who, fr - rows, fc, group, r + rows, c)
        return Level(abs(group), r, c)

    def take_scratch(self) -> tuple[Level, int, int] | None:
        """The largest free rectangle of a compute group (an empty group if there is one), with its rows and columns."""
        if (begun := self._begin("compute")) is not None:
            return Level(begun, 0, 0), self.machine.array.rows, self.machine.weights_per_row
        spaces = self._free["compute", ""]
        if not spaces:
            return None
        rows, cols, group, _, r, c = found = max(spaces, key=lambda s: (s[0] * s[1], -s[2], s[3]))
        spaces.remove(found)
        return Level(group, r, c), rows, cols

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


def _tightest(spaces: Sequence[_Free], rows: int, cols: int) -> _Free | None:
    """The first of the sorted rectangles that has so many rows and columns."""
    i = bisect_left(spaces, (rows, cols))
    while i < len(spaces):
        if spaces[i][1] >= cols:
            return spaces[i]
        i = bisect_left(spaces, (spaces[i][0], cols), i)
    return None


def tiles_of(cut: Cut, levels: Sequence[Level], machine: Machine) -> list[Tile]:
    """Tiles of a cut whose levels have been taken, in order."""
    size, out = machine.group_size, []
    for i, (copy, k, n, rows, cols) in enumerate(cut.pieces):
        level, place = cut.place(i, size)
        at = levels[level]
        out.append(Tile(at.group * size + place, at.row, at.col, k, n, rows, cols, copy))
    return out
