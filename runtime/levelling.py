"""Wear levelling of scratch rows: what a gradient product writes goes to other word lines in every training step.

A scratch matrix holds nothing between two products, so where its rows stand is free. Between steps an offset in the row decoder turns the rows of every
scratch block by one; after a full turn of the rows the blocks turn by one sub-array. The program, its values and its cycles do not change. A step is
simulated with the arrays as the program addresses them (:meth:`ScratchLevelling.turned`); at all other times they are as they stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from sasimc.isa.program import Program
from sasimc.runtime.state import State

__all__ = ["ScratchLevelling", "scratch_blocks"]


@dataclass(frozen=True)
class Block:
    """Scratch cells of one sub-array: word lines and weight columns from (``row``, ``col``)."""

    subarray: int
    row: int
    col: int
    rows: int
    cols: int


def scratch_blocks(program: Program) -> list[list[Block]]:
    """The scratch cells that can change places, those of one size together. Word lines that also hold trained weights stay where they are."""
    found: dict[int, Block] = {}
    for m in program.matrices.values():
        for t in m.tiles if m.kind == "scratch" else ():
            b = found.get(t.subarray, Block(t.subarray, t.row, t.col, t.rows, t.cols))
            row, col = min(b.row, t.row), min(b.col, t.col)
            rows, cols = max(b.row + b.rows, t.row + t.rows) - row, max(b.col + b.cols, t.col + t.cols) - col
            found[t.subarray] = Block(t.subarray, row, col, rows, cols)
    held = [t for m in program.matrices.values() if m.trainable and m.kind != "scratch" for t in m.tiles if t.subarray in found]
    shared = {t.subarray for t in held if t.row < (b := found[t.subarray]).row + b.rows and b.row < t.row + t.rows}
    sizes: dict[tuple[int, int], list[Block]] = {}
    for b in found.values():
        if b.subarray not in shared:
            sizes.setdefault((b.rows, b.cols), []).append(b)
    return list(sizes.values())


class ScratchLevelling:
    """``turns``: how often the rows were turned in the life of the arrays."""

    def __init__(self, program: Program, state: State, turns: int = 0) -> None:
        self._state, self._groups, self.turns = state, scratch_blocks(program), turns

    @contextmanager
    def turned(self) -> Iterator[None]:
        """A step, in which the program's scratch rows are others than in the step before."""
        self._turn(-1)
        try:
            yield
        finally:
            self._turn(1)
            self.turns += 1

    def _turn(self, direction: int) -> None:
        cells, written, wear = self._state.cells, self._state.written, self._state.wear
        for blocks in self._groups:
            rows = blocks[0].rows
            shift = (direction * (self.turns // rows % len(blocks)), direction * (self.turns % rows))
            if shift == (0, 0):
                continue
            lines = [(b.subarray, slice(b.row, b.row + rows)) for b in blocks]
            whole = [(*line, slice(b.col, b.col + b.cols)) for line, b in zip(lines, blocks, strict=True)]
            for array, places in ((cells, whole), (written, whole), (wear, lines)):
                moved = np.roll(np.stack([array[place] for place in places]), shift, (0, 1))
                for place, content in zip(places, moved, strict=True):
                    array[place] = content
