"""The kernel table: every instruction's meaning, once. A kernel is compiled code that works on a part of an instruction's rows.

    @kernel("shift8")
    def shift8(op, m, first, last):
        ...
        return 0

``op`` is the instruction's operand record (`sasimc.isa.record`): ``op.dst.width``, ``op.rs``, ``op.table.lo``. ``m`` is the machine; the functions
below reach its memories, registers and counters. ``first`` and ``last`` are rows, or pixels counted from row 0, as the declaration's ``split``
says; with split ``own`` a kernel is called as (op, m, r0, r1, share, shares) and cuts its work itself. What is returned is 0, or else a number
from which the declaration's ``trap`` makes a message.

Kernels are compiled apart from each other and called by address: one function with all kernels in it would take minutes to compile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numba
import numpy as np
from numba import types
from numba.np.numpy_support import carray

from sasimc.isa.record import record_type
from sasimc.isa.spec import TABLE, Instruction
from sasimc.runtime.kernels.compiling import callback, entry, inner
from sasimc.runtime.kernels.sync import atomic_add, atomic_max, pointer

__all__ = [
    "COUNTED",
    "FLIPS",
    "KERNELS",
    "LINES",
    "MACHINE",
    "NATIVE",
    "ONES",
    "SATURATED",
    "SKIPPED",
    "SPENT",
    "WRITTEN",
    "Code",
    "Stage",
    "acc",
    "address",
    "buf",
    "buf8",
    "buf16",
    "buf32",
    "bytes_at",
    "cells",
    "count",
    "every",
    "geometry",
    "host",
    "kernel",
    "part",
    "raise_reg",
    "reg",
    "set_reg",
    "stages",
    "tiles",
    "vector",
    "view",
    "wear",
    "words_at",
    "written",
]  # fmt: skip

NATIVE: Final = ("bitserial", "fused")
"""Engines whose array products are kernels; `step` has its own (`engines.step`)."""

ONES, FLIPS, LINES, WRITTEN, SATURATED, SKIPPED, SPENT, COUNTED = range(8)
"""What an instruction counts as it runs: sense operations, bits flipped, word lines and bits written, errors saturated, array cycles saved, nanoseconds; how
many."""

MACHINE: Final = np.dtype(
    [(name, np.int64) for name in ("buf", "buf_size", "acc", "acc_size", "host", "host_size", "regs", "counters", "cells", "written", "wear", "work",
                                   "subarrays", "rows", "columns")], align=True
)  # fmt: skip
"""Addresses and sizes of the memories; ``work``: what the stages of a kernel share, one for each thread that works on a pass of its own."""


# ------------------------------------------------------------------------------------------------------------- memories


@inner
def buf(m):  # type: ignore[no-untyped-def]
    """The buffer, bytes."""
    return carray(pointer(m.buf), (m.buf_size,), np.uint8)


@inner
def buf8(m):  # type: ignore[no-untyped-def]
    """The buffer, signed bytes."""
    return carray(pointer(m.buf), (m.buf_size,), np.int8)


@inner
def buf16(m):  # type: ignore[no-untyped-def]
    """The buffer, 16-bit words."""
    return carray(pointer(m.buf), (m.buf_size >> 1,), np.int16)


@inner
def buf32(m):  # type: ignore[no-untyped-def]
    """The buffer, 32-bit words."""
    return carray(pointer(m.buf), (m.buf_size >> 2,), np.int32)


@inner
def acc(m):  # type: ignore[no-untyped-def]
    """The accumulators."""
    return carray(pointer(m.acc), (m.acc_size,), np.int32)


@inner
def host(m):  # type: ignore[no-untyped-def]
    """Host memory, bytes."""
    return carray(pointer(m.host), (m.host_size,), np.uint8)


@inner
def cells(m):  # type: ignore[no-untyped-def]
    """Weights in the sub-arrays, uint8 [sub-arrays, rows, weights a row]."""
    return carray(pointer(m.cells), (m.subarrays, m.rows, m.columns), np.uint8)


@inner
def written(m):  # type: ignore[no-untyped-def]
    """Which of them were ever written or loaded."""
    return carray(pointer(m.written), (m.subarrays, m.rows, m.columns), np.bool_)


@inner
def wear(m):  # type: ignore[no-untyped-def]
    """Row writes, int64 [sub-arrays, rows]."""
    return carray(pointer(m.wear), (m.subarrays, m.rows), np.int64)


@inner
def reg(m, number):  # type: ignore[no-untyped-def]
    """A register."""
    return carray(pointer(m.regs), (number + 1,), np.int64)[number]


@inner
def set_reg(m, number, value):  # type: ignore[no-untyped-def]
    """Set a register; r0 stays 0."""
    if number:
        carray(pointer(m.regs), (number + 1,), np.int64)[number] = value


@inner
def raise_reg(m, number, value):  # type: ignore[no-untyped-def]
    """Set a register to the larger of its value and this one, whoever else does so."""
    if number:
        atomic_max(carray(pointer(m.regs), (number + 1,), np.int64), number, value)


@inner
def count(op, m, what, times):  # type: ignore[no-untyped-def]
    """Count an event that depends on data."""
    atomic_add(carray(pointer(m.counters), ((op.number + 1) * COUNTED,), np.int64), op.number * COUNTED + what, times)


# ------------------------------------------------------------------------------------------------------------- operands


@inner
def view(v):  # type: ignore[no-untyped-def]
    """A view as the tuple of `kernels.dense`."""
    return (v.base, v.row, v.pixel, v.ring, v.width, v.channels)


@inner
def geometry(g):  # type: ignore[no-untyped-def]
    """A geometry as the tuple of `kernels.depthwise`."""
    return (g.kh, g.kw, g.sh, g.sw, g.dh, g.dw, g.pt, g.pl, g.h, g.w, g.ho, g.wo)


@inner
def vector(address, length):  # type: ignore[no-untyped-def]
    """An int64 array of a table."""
    return carray(pointer(address), (length,), np.int64)


@inner
def words_at(address, length):  # type: ignore[no-untyped-def]
    """An int32 array at an address."""
    return carray(pointer(address), (length,), np.int32)


@inner
def bytes_at(address, length):  # type: ignore[no-untyped-def]
    """A uint8 array at an address."""
    return carray(pointer(address), (length,), np.uint8)


@inner
def tiles(mat):  # type: ignore[no-untyped-def]
    """Tiles of a matrix, int64 [tiles, 8]."""
    return carray(pointer(mat.tiles), (mat.count, 8), np.int64)


@inner
def part(first, last, grain, share, shares):  # type: ignore[no-untyped-def]
    """The share of first..last, cut at multiples of ``grain`` from first."""
    steps = (last - first + grain - 1) // grain
    return first + steps * share // shares * grain, min(last, first + steps * (share + 1) // shares * grain)


# ---------------------------------------------------------------------------------------------------------------- table


@dataclass(frozen=True)
class Stage:
    """One step of a kernel; all shares of a step are done before the next begins.

    ``split``: as the declaration's; ``ns``: rough time of an element (number of the widest operand's elements in a row, times taps), which
    decides how many shares are worth it, or a function of the operands that gives the time of a row; ``grain``: pixels that stay together;
    ``when``: whether it is needed, given (operands, whether zero bits are skipped); ``work``: bytes at ``m.work`` that the stages share, given the operands;
    ``weights``: names what it derives from the cells of ``op.mat`` (then it runs only after these have changed), given the operands, and
    ``shape``: bytes and first two sizes of that.
    """

    function: Callable[..., Any]
    split: str
    ns: float | Callable[[Any], float] = 1.0
    grain: int | Callable[[Any], int] = 1
    when: Callable[[Any, bool], bool] | None = None
    work: Callable[[Any], int] | None = None
    weights: Callable[[Any], Any] | None = None
    shape: Callable[[Any], tuple[int, int, int]] | None = None


KERNELS: dict[tuple[str, str], list[Stage]] = {}
"""Stages by (kernel, engine); engine is an empty string for what all engines share."""


def kernel(name: str, engine: str = "", split: str = "", **how: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as the next stage of a kernel, of all engines or of one; ``how``: see `Stage`."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        KERNELS.setdefault((name, engine), []).append(Stage(function, split, **how))
        stages.cache_clear()
        return function

    return register


@cache
def stages(name: str, engine: str) -> tuple[Stage, ...]:
    """The stages of a kernel on an engine; empty if it has none."""
    return tuple(KERNELS.get((name, engine)) or KERNELS.get((name, ""), ()))


@dataclass(frozen=True)
class Code:
    """Machine code that a step calls: of a stage, or (``place`` -1) of the ``result`` of a register instruction. ``place``: number of the stage among
    those of the instruction on the engine."""

    mnemonic: str
    engine: str
    place: int

    def __str__(self) -> str:
        return self.mnemonic if self.place < 0 else f"{self.mnemonic}: {self.function.__name__}"

    @property
    def _stage(self) -> tuple[type[Instruction], Stage | None]:
        spec = TABLE[self.mnemonic]
        return spec, stages(spec.kernel, self.engine)[self.place] if self.place >= 0 else None

    @property
    def function(self) -> Callable[..., Any]:
        """What is compiled."""
        spec, stage = self._stage
        return stage.function if stage else spec.result

    @property
    def callback(self) -> Any:
        """The numba function, not compiled yet."""
        spec, stage = self._stage
        if stage is None:
            return _result(spec)
        return _callback(stage.function, record_type(spec), (stage.split or spec.split) == "own")

    @property
    def address(self) -> int:
        """Where it stands; compiled now or loaded from numba's cache when first asked for."""
        return entry(self.callback)


def every(engine: str) -> list[Code]:
    """All code of an engine, in every form an instruction has it."""
    found = [Code(spec.mnemonic, engine, place) for spec in TABLE.values() for place in range(len(stages(spec.kernel, engine)))]
    return found + [Code(spec.mnemonic, "", -1) for spec in TABLE.values() if spec.group == "control" and not spec.flow]


@cache
def _callback(function: Callable[..., Any], record: np.dtype[np.void], own: bool) -> Any:
    numbers = [types.int64] * (4 if own else 2)
    return callback(function, types.int64(numba.from_dtype(record), numba.from_dtype(MACHINE), *numbers))


@cache
def _result(spec: type[Instruction]) -> Any:
    return callback(spec.result, types.int64(types.CPointer(types.int64), numba.from_dtype(record_type(spec))))


def address(function: Callable[..., Any], record: np.dtype[np.void]) -> int:
    """Address of a function (op, m, first, last) that is no instruction's kernel, compiled for a kind of record."""
    return entry(_callback(function, record, False))
