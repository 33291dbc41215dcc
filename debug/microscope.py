"""Inside one instruction: word-line activations and input bits of an array product (the paper's figures 2c and 4), and rows of output.

The instruction is executed on a twin of the machine; the session does not move.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sasimc.debug.session import Session
from sasimc.isa.analysis.footprint import footprint
from sasimc.isa.errors import SasError
from sasimc.runtime.engines.step import StepDatapath, Stream
from sasimc.runtime.interpreter import Interpreter

__all__ = ["Bit", "Line", "Row", "Tree", "bits", "rows"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Line:
    """A word line in one cycle: its input byte (an element ``k`` of pixel ``pixel``) and the bit of it that drives the line; ``sensed`` [weights, 8]: what the
    sense amplifiers see, bit 0 first; ``added``: what shift-and-add adds, ``partial``: the tile's partial sums behind it."""

    subarray: int
    row: int
    first_column: int
    pixel: int
    k: int
    n: int
    value: int
    bit: int
    sensed: npt.NDArray[np.uint8]
    added: Ints
    partial: Ints


@dataclass(frozen=True)
class Bit:
    """One cycle: input bit ``bit`` of ``bits`` in activation ``activation`` of ``activations``, of the wave that begins with pixel ``pixel`` of ``pixels``."""

    pixel: int
    pixels: int
    activation: int
    activations: int
    bit: int
    bits: int
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Tree:
    """The end of a wave: the adder tree joins partial sums. For each pixel and tile (pixel, first output, partial sums), then ``sums`` [pixels, outputs] so far."""

    pixel: int
    parts: tuple[tuple[int, int, Ints], ...]
    sums: Ints


def _twin(session: Session, engine: str) -> Interpreter:
    return session.history.twin(Interpreter(session.program, engine, 1)).it


def bits(session: Session) -> Iterator[Bit | Tree]:
    """Cycle by cycle through the next instruction, which must be a product that drives word lines.

    Raises:
        SasError: it is none.
    """
    pc = session.pc
    if pc is None:
        raise SasError("the program has ended")
    it, found = _twin(session, "step"), list[Stream]()
    assert isinstance(it.datapath, StepDatapath)
    it.datapath.on_stream = found.append
    it.advance(1)
    if not found:
        raise SasError(
            f"{it.instruction(pc)} drives no word lines", hint="activations are those of vmm, dwm, dwmt, grad and gradd"
        )
    for stream in found:
        yield from _cycles(stream)


def _cycles(s: Stream) -> Iterator[Bit | Tree]:
    pixels, steps = len(s.inputs), len(s.bounds) - 1
    sums = np.zeros((pixels, s.width if not s.by_row else s.inputs.shape[1] * s.width), np.int64)
    for first in range(0, pixels, s.copies):
        partial = {tile: np.zeros(0, np.int64) for tile in range(s.tiles)}
        for step in range(steps):
            for cycle in range(s.bits):
                lines: list[Line] = []
                for slot in range(s.bounds[step], s.bounds[step + 1]):
                    sub, row, column, columns, k, n, copy, tile = s.entries[slot].tolist()
                    pixel = first + copy
                    if pixel >= pixels:
                        continue
                    value = int(s.inputs[pixel, k])
                    bit = value >> cycle & 1
                    sensed = np.unpackbits(s.weights[slot][:, None], axis=1, bitorder="little") * np.uint8(bit)
                    positive = s.pairs & ((n + np.arange(columns)) % 2 == 0)
                    top = np.where(positive, 128, -128)
                    added = (sensed[:, :7] @ (1 << np.arange(7)) + sensed[:, 7] * top) << cycle
                    if s.signed and cycle == s.bits - 1:
                        added = -added
                    if s.by_row:
                        held = sums[pixel, k * s.width + n : k * s.width + n + columns]
                    else:
                        if len(partial[tile]) < columns:
                            partial[tile] = np.zeros(columns, np.int64)
                        held = partial[tile]
                    held += added
                    lines.append(Line(sub, row, column, pixel, k, n, value, bit, sensed, added, held.copy()))
                yield Bit(first, pixels, step, steps, cycle, s.bits, tuple(lines))
        parts: list[tuple[int, int, Ints]] = []
        done = set[int]()
        for _, _, _, _, _, n, copy, tile in s.entries.tolist():
            if tile not in done and first + copy < pixels and not s.by_row:
                done.add(tile)
                sums[first + copy, n : n + len(partial[tile])] += partial[tile]
                parts.append((first + copy, n, partial[tile]))
        yield Tree(first, tuple(parts), sums.copy())


@dataclass(frozen=True)
class Row:
    """What one row of an instruction's range did: number of the row, and the rows it wrote: view, first row, values."""

    row: int
    parts: tuple[tuple[str, int, npt.NDArray[np.integer]], ...]


def rows(session: Session) -> Iterator[Row]:
    """Row by row through the next instruction, with its own kernel.

    Raises:
        SasError: it has no range of rows, or works on it as a whole.
    """
    pc = session.pc
    if pc is None:
        raise SasError("the program has ended")
    it = _twin(session, session.it.engine)
    spec, o = session.program.code[pc].spec, session.program.resolve(session.program.code[pc])
    first, last = it.at.rows(pc)
    if spec.rows_field() is None or spec.split == "whole" or first < 0:
        raise SasError(f"{it.instruction(pc)} is not done row by row", hint="step executes it")
    for row in range(first, last):
        it.datapath.execute(pc, row, row + 1)
        parts = [
            (t.view.name, t.first, it.read_rows(t.view.name, t.first, t.last))
            for t in footprint(spec, o, row, row + 1)
            if t.access not in ("r", "d") and t.view.space != "host" and t.first < t.last
        ]
        yield Row(row, tuple(parts))
