"""What instructions refer to by name: views, geometries, matrices and tables.

They form the controller's descriptor memory. A view is base, strides and counts over one memory space; a matrix says which rows and
columns of which sub-arrays hold a weight matrix; a geometry is a convolution window; a table holds per-channel constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Final

import numpy as np

__all__ = ["DTYPES", "DTYPE_BYTES", "EXP_ONE", "LUT_ENTRIES", "Geometry", "Matrix", "Space", "Table", "Tile", "View", "limits_of"]

DTYPES: Final[Mapping[str, Any]] = {"u8": np.uint8, "i8": np.int8, "i32": np.int32, "bit": np.uint8, "i16": np.int16}
"""Types of elements, in the order of their codes in binary programs, and those of numpy that hold them."""

DTYPE_BYTES: Final[Mapping[str, int]] = {name: np.dtype(held).itemsize if name != "bit" else 0 for name, held in DTYPES.items()}

LUT_ENTRIES: Final = 256
"""Entries of a table of a unary function: one for each value of an 8-bit type, the lowest first."""

EXP_ONE: Final = 1 << 24
"""What 1 is in the exponentials of a softmax table."""

Space = str  # "buf" | "host" | "acc"


def limits_of(dtype: str) -> tuple[int, int]:
    """Smallest and largest value of a type."""
    info = np.iinfo(DTYPES[dtype])
    return (0, 1) if dtype == "bit" else (int(info.min), int(info.max))


@dataclass(frozen=True)
class View:
    """A strided window on the buffer (``buf``), host memory (``host``) or the accumulators (``acc``).

    Element (y, x, c) lies at ``addr + (y mod ring) * row + x * pix + c * chan`` (bytes; accumulator words for ``acc``); ``ring`` = 0
    means no wrapping. In host memory sample ``b`` of a batch is ``batch`` bytes further. ``pad`` is what reading outside
    gives: the zero point. ``bit`` views pack the ``W * C`` bits of a row, least significant bit first, from a byte boundary.
    """

    name: str
    space: Space
    dtype: str
    shape: tuple[int, int, int]
    addr: int
    row: int
    pix: int
    chan: int
    ring: int = 0
    batch: int = 0
    pad: int = 0

    @property
    def height(self) -> int:
        """Logical rows H."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """Pixels a row W."""
        return self.shape[1]

    @property
    def channels(self) -> int:
        """Channels C."""
        return self.shape[2]

    @property
    def rows_held(self) -> int:
        """Rows that exist physically."""
        return min(self.ring, self.height) if self.ring else self.height

    @property
    def row_bits(self) -> int:
        """Payload bits of one row (for the traffic counters)."""
        return self.width * self.channels * (8 * DTYPE_BYTES[self.dtype] or 1)

    @property
    def unit(self) -> int:
        """Address units one element takes (bytes; 1 word in the accumulators)."""
        return 1 if self.space == "acc" else DTYPE_BYTES[self.dtype]

    @property
    def end(self) -> int:
        """One past the highest address touched (of sample 0)."""
        _, w, c = self.shape
        if self.dtype == "bit":
            return self.addr + (self.rows_held - 1) * self.row + (w * c + 7) // 8
        return self.addr + (self.rows_held - 1) * self.row + (w - 1) * self.pix + (c - 1) * self.chan + self.unit

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest value of the type."""
        return limits_of(self.dtype)

    @staticmethod
    def dense_strides(space: Space, dtype: str, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Contiguous (row, pix, chan) strides for ``shape``."""
        if dtype == "bit":
            return (shape[1] * shape[2] + 7) // 8, 0, 0
        unit = 1 if space == "acc" else DTYPE_BYTES[dtype]
        return shape[1] * shape[2] * unit, shape[2] * unit, unit


@dataclass(frozen=True)
class Geometry:
    """A sliding window: kernel, stride, padding before the first row/column, dilation (bottom/right padding follows from sizes).

    ``mode`` selects the resampling of ``ups``/``upst``: ``window`` (convolutions and pools), ``linear2`` or ``nearest``.
    """

    name: str
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    mode: str = "window"

    @property
    def taps(self) -> int:
        """Kernel elements."""
        return self.kernel[0] * self.kernel[1]

    def input_rows(self, oy: int) -> tuple[int, int]:
        """First and one-past-last input row (unclipped) under output row ``oy``."""
        first = oy * self.stride[0] - self.pad[0]
        return first, first + (self.kernel[0] - 1) * self.dilation[0] + 1


@dataclass(frozen=True)
class Tile:
    """``rows`` x ``cols`` weights, logical corner (k, n), stored from word line ``row`` and weight column ``col`` of a sub-array."""

    subarray: int
    row: int
    col: int
    k: int
    n: int
    rows: int
    cols: int
    copy: int = 0


@dataclass(frozen=True)
class Matrix:
    """An int8 weight matrix [K, N] in the arrays.

    ``dense``: K = (ky, kx, c) word lines, N output features. ``depthwise``: K = channels, one kernel a row, N = taps x multiplier
    (multiplier slowest). ``scratch``: empty cells that hold an operand of a gradient product, or of a product of two activation matrices.
    ``array`` is the kind of sub-array: ``compute`` or ``transposable``. ``tensor`` names its int8 array in the weights file.
    """

    name: str
    kind: str
    array: str
    k: int
    n: int
    tensor: str
    trainable: bool
    tiles: tuple[Tile, ...]

    @cached_property
    def copies(self) -> int:
        """Number of complete copies."""
        return 1 + max((t.copy for t in self.tiles), default=0)

    @cached_property
    def loads(self) -> dict[int, int]:
        """Word lines to activate in each sub-array for one pixel of every copy."""
        out: dict[int, int] = {}
        for t in self.tiles:
            out[t.subarray] = out.get(t.subarray, 0) + t.rows
        return out

    @cached_property
    def column_loads(self) -> dict[int, int]:
        """Weight columns to drive in each sub-array for one transposed product (copy 0)."""
        out: dict[int, int] = {}
        for t in self.tiles:
            if t.copy == 0:
                out[t.subarray] = out.get(t.subarray, 0) + t.cols
        return out

    @cached_property
    def activations(self) -> int:
        """Row activations of one pixel in one copy."""
        return sum(t.rows for t in self.tiles if t.copy == 0)

    @cached_property
    def products(self) -> int:
        """Weights that meet the inputs of one pixel (rows x columns over the tiles of one copy)."""
        return sum(t.rows * t.cols for t in self.tiles if t.copy == 0)

    @cached_property
    def partial_sums(self) -> int:
        """Adder-tree additions that join the K tiles of one pixel."""
        return sum(t.cols for t in self.tiles if t.copy == 0) - self.n


@dataclass(frozen=True)
class Table:
    """Constants of a periphery instruction: integers in ``ints`` and arrays in ``arrays`` (role -> tensor name or inline values).

    Kinds and their entries: ``requant`` (ints zero, lo, hi; arrays bias, mult, shift), ``addq`` (ints ma, mb, shift, za, zb, zy, lo,
    hi), ``scale`` (array k), ``mask`` (ints lo, hi, use_lo, use_hi), ``loss`` (ints mult, t_other, t_label), ``lut`` (array values: 256 entries, or 256 for
    each channel), ``softmax`` (ints mult, shift, zero, lo, hi; array exp: 256 entries), ``norm`` (ints eps, up, zero, lo, hi; arrays mult, shift, bias).
    """

    name: str
    kind: str
    ints: Mapping[str, int] = field(default_factory=dict)
    arrays: Mapping[str, str | tuple[int, ...]] = field(default_factory=dict)

    KINDS: ClassVar[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
        "requant": (("zero", "lo", "hi"), ("bias", "mult", "shift")),
        "addq": (("ma", "mb", "shift", "za", "zb", "zy", "lo", "hi"), ()),
        "scale": ((), ("k",)),
        "mask": (("lo", "hi", "use_lo", "use_hi"), ()),
        "loss": (("mult", "t_other", "t_label"), ()),
        "lut": ((), ("values",)),
        "softmax": (("mult", "shift", "zero", "lo", "hi"), ("exp",)),
        "norm": (("eps", "up", "zero", "lo", "hi"), ("bias", "mult", "shift")),
    }

    @staticmethod
    def fits(kind: str, size: int, channels: int) -> bool:
        """Whether arrays of this length serve so many channels."""
        if kind == "softmax":
            return size == LUT_ENTRIES
        if kind == "lut":
            return size in (LUT_ENTRIES, LUT_ENTRIES * channels)
        return size == channels or (kind == "scale" and size == 1)
