"""The sections of a machine description: every field with its limits, unit, meaning, and where the value of the paper's machine is from.

The values themselves stand in ``sas28.toml``. `sasc machine init`, `sasc machine show`, reports and the manual print what is said here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "About",
    "AccumulatorSection",
    "ActivationSection",
    "AdderTreeSection",
    "ArraySection",
    "BitSerialSection",
    "BufferSection",
    "ControllerSection",
    "GradientSection",
    "HostSection",
    "PeripherySection",
    "Section",
    "TransposedSection",
    "WriteSection",
]


@dataclass(frozen=True)
class About:
    """What a field means, its ``unit`` (empty: none), and where the value in ``sas28.toml`` is from: printed in the ``paper`` (table or section),
    ``derived`` by arithmetic, else an assumption (``why`` it was made so)."""

    meaning: str
    unit: str = ""
    paper: str = ""
    derived: str = ""
    why: str = ""

    @property
    def kind(self) -> str:
        """``paper``, ``derived`` or ``assumption``."""
        return "paper" if self.paper else "derived" if self.derived else "assumption"

    @property
    def source(self) -> str:
        """Table, section, arithmetic or reason."""
        return self.paper or self.derived or self.why


Positive = Annotated[int, Field(gt=0, le=1 << 40)]
Pair = tuple[Annotated[int, Field(gt=0, le=4096)], Annotated[int, Field(gt=0, le=4096)]]


class Section(BaseModel):
    """Frozen; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class ArraySection(Section):
    """Hierarchy and sub-array geometry."""

    banks: Annotated[Pair, About("banks of the chip, rows x columns", "banks", paper="section VI-B")]
    mats: Annotated[Pair, About("MATs of a bank, rows x columns; one sub-array each", "MATs", paper="section VI-B")]
    rows: Annotated[int, Field(ge=4, le=4096), About("word lines of a sub-array", "word lines", paper="table IV")]
    bit_columns: Annotated[
        int, Field(ge=8, le=8192), About("bit columns of a sub-array; a multiple of weight_bits", "bit columns", paper="table IV")
    ]
    weight_bits: Annotated[
        Literal[8], About("bits of a weight, neighbours in one word line", "bits", paper="section IV-B: two 4-MTJ cell macros")
    ]


class ActivationSection(Section):
    """Which sub-arrays may be active in one cycle. Banks and MATs must divide those of the array."""

    rule: Annotated[
        Literal["row", "free"],
        About('"row": one block of banks, and one block of MATs in each; "free": any banks, any MATs in them'),
    ]
    banks: Annotated[
        Pair, About("banks active in one cycle", "banks", paper='"16 x 2 sub-arrays", read as ForceBank Active 1x16 (assumption)')
    ]
    mats: Annotated[
        Pair,
        About("MATs active in each active bank", "MATs", paper='"16 x 2 sub-arrays", read as ForceMat Active 1x2 (assumption)'),
    ]


class BitSerialSection(Section):
    """Treatment of zero input bits."""

    zero_skip: Annotated[
        Literal["energy", "cycles"],
        About('"energy": a zero input bit saves the sensing energy, its cycle is kept; "cycles": its cycle is skipped as well'),
    ]


class TransposedSection(Section):
    """Transposable sub-arrays (paper section IV-D, figure 5)."""

    bit_columns_per_cycle: Annotated[
        int,
        Field(gt=0, le=8192),
        About("bit columns driven at once in a transposed product", "bit columns a cycle", why="literal reading of figure 5"),
    ]
    subarrays: Annotated[
        Positive | Literal["auto"],
        About(
            '"auto": as many sub-arrays are transposable as the program needs; a number counts in whole activation groups',
            "sub-arrays",
            why="the paper says about 5 % of the weights",
        ),
    ]


class GradientSection(Section):
    """Gradient product a e^T."""

    scratch_subarrays: Annotated[
        Positive,
        About("compute sub-arrays kept free for the stationary operand of a e^T, at most; free ones are used", "sub-arrays"),
    ]


class BufferSection(Section):
    """Global activation buffer."""

    bytes: Annotated[Positive, About("size of the buffer", "bytes", paper="table IV: 64 x 112 x 112 x 4 bit")]
    bytes_per_cycle: Annotated[Positive, About("throughput of a copy inside the buffer", "bytes a cycle")]


class AccumulatorSection(Section):
    """Local buffers that collect 32-bit partial sums."""

    entries: Annotated[Positive, About("words of the local buffers", "32-bit words")]
    bits: Annotated[Literal[32], About("width of a partial sum", "bits", derived="int8 x int8 over K <= 2^16")]


class AdderTreeSection(Section):
    """Adder tree, and which sub-arrays' partial sums it can add to each other."""

    units: Annotated[Positive, About("additions of partial sums", "additions a cycle", paper="table IV")]
    reach: Annotated[
        Literal["bank", "group", "machine"],
        About('whose partial sums it adds: of a "bank", of an activation "group", of the whole "machine" (they wait in the local buffers)'),
    ]  # fmt: skip


class PeripherySection(Section):
    """Element-wise units."""

    lanes: Annotated[Positive, About("requantisation, pooling, addition, rounding", "elements a cycle")]


class WriteSection(Section):
    """SAS write and row read."""

    cycles_per_row: Annotated[
        Positive,
        About("time to write a row", "cycles", why="one cycle for the SOT pulse, one for the STT currents that decide each bit"),
    ]
    read_cycles_per_row: Annotated[Positive, About("time to read a row, before an update", "cycles")]


class HostSection(Section):
    """I/O interface and host memory."""

    bytes_per_cycle: Annotated[Positive, About("throughput of the interface", "bytes a cycle")]
    memory_bytes: Annotated[Positive, About("host memory that a program may use for inputs and spilled tensors", "bytes")]


class ControllerSection(Section):
    """Registers, loops, issue and overlap of units."""

    registers: Annotated[int, Field(ge=8, le=64), About("scalar registers; r0 reads 0", "registers")]
    loop_depth: Annotated[int, Field(ge=4, le=16), About("nested hardware loops", "loops")]
    issue_cycles: Annotated[int, Field(ge=0, le=64), About("decode and issue of an instruction", "cycles")]
    overlap: Annotated[
        bool,
        About("between `ovl` and `sync` the units work concurrently (stripes and accumulators are double-buffered)"),
    ]
