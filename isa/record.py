"""The operand record of an instruction: what its kernel reads, laid out by the declaration as the encoding is.

Every number is an int64 word. A register operand is its number, an immediate its value, a choice the place of its word; a view, a matrix, a
geometry or a table is a record of its own. Rows are not in it: a kernel is told which ones to work on. `number` is the instruction's place in
the program, `most` the largest number of rows of one execution.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from sasimc.isa.objects import Table
from sasimc.isa.spec import Choice, Field, GeomField, Imm, Instruction, MatField, Reg, RowsField, TableField, ViewField

__all__ = ["GEOMETRY", "MATRIX", "VIEW", "record_type", "table_type"]


def _words(names: str) -> np.dtype[np.void]:
    return np.dtype([(name, np.int64) for name in names.split()], align=True)


VIEW = _words(
    "base row pixel ring width channels height signed pad item address row_step pixel_step channel_step pixels units batch low high"
)
"""base .. channels in elements of the flat array of its type (element (y, x, c) is base + (y mod ring) row + x pixel + c); the value ``pad``
that reading outside gives; ``item`` bytes of an element; and the same place in bytes whatever the strides: address, steps, pixels of a row and
units of a pixel (bytes of a row for packed bits), bytes from one sample to the next, bounds."""

MATRIX = _words("k n tiles count copies weights blocks groups place unit places units mats banks wave")
"""K and N; address and number of its tiles ([sub-array, row, column, k, n, rows, columns, copy] each) and copies; address and first two sizes of
the weights as its kernel prepared them; and what counting the cycles of one bits needs: address of each tile's place, of each place's group or
bank, how many places and groups or banks, MATs and banks that work at a time, cycles of a wave."""

GEOMETRY = _words("kh kw sh sw dh dw pt pl h w ho wo mode same")
"""Kernel, strides, dilations, padding above and left, input plane, output plane; number of the mode; 1 if every window is its own position."""


def table_type(kind: str) -> np.dtype[np.void]:
    """Integers of a table, addresses of its arrays (and of ``half`` = 2^(shift - 1) - 1 where there are shifts) and their length ``count``."""
    ints, roles = Table.KINDS[kind]
    return _words(" ".join((*ints, *roles, *(("half",) if "shift" in roles else ()), "count")))


def _type(f: Field) -> np.dtype[np.void] | type[np.int64] | None:
    if isinstance(f, TableField):
        return table_type(f.table)
    kinds = {
        ViewField: VIEW,
        MatField: MATRIX,
        GeomField: GEOMETRY,
        Reg: np.int64,
        Imm: np.int64,
        Choice: np.int64,
        RowsField: None,
    }
    return kinds[type(f)]


@cache
def record_type(spec: type[Instruction]) -> np.dtype[np.void]:
    """The record of an instruction's operands."""
    fields = [(f.name, kind) for f in spec.fields if (kind := _type(f)) is not None]
    return np.dtype([("number", np.int64), ("most", np.int64), *fields], align=True)
