"""The instruction framework: operand fields, the base class of declarations, and the self-checking table.

A declaration is one class: its fields (in assembly and encoding order), the name of the kernel that carries it out, legality, cost and
documentation. Assembler, encoder, disassembler, linter, interpreter, cost model and ISA manual read nothing else. What an instruction does to
buffer, accumulators, cells and host memory follows from its fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Protocol, TypeVar

from sasimc.isa.machine import Machine

__all__ = [
    "EVENTS",
    "FLOWS",
    "NO_ROWS",
    "PHASES",
    "SPLITS",
    "TABLE",
    "WORD_BITS",
    "WORD_BYTES",
    "Choice",
    "Control",
    "Cost",
    "Field",
    "GeomField",
    "Imm",
    "Instruction",
    "MatField",
    "Reg",
    "RowRange",
    "RowsField",
    "TableField",
    "ViewField",
    "forget",
    "lookup",
]

WORD_BITS = 128
WORD_BYTES = WORD_BITS // 8
OPCODE_BITS = 8

PHASES = ("forward", "error", "gradient", "update")

EVENTS: Mapping[str, str] = {
    "instructions": "instructions issued",
    "row_activations": "word lines driven for a forward product (each for all input bits)",
    "row_activations_depthwise": "word lines driven for a depth-wise product",
    "row_activations_gradient": "word lines of scratch rows driven: for a x e^T, or for a product of two activation matrices",
    "column_activations": "bit columns driven for a transposed product (each for all error bits)",
    "sense_ones": "bit cells sensed while the input bit was 1",
    "shift_adds": "shift-and-add operations (one a weight column or row, input bit and activation)",
    "adder_tree_ops": "additions of partial sums in the adder tree",
    "accumulator_reads": "32-bit accumulator words read",
    "accumulator_writes": "32-bit accumulator words written",
    "buffer_bits_read": "bits read from the global buffer",
    "buffer_bits_written": "bits written to the global buffer",
    "host_bits_in": "bits from host memory to the buffer",
    "host_bits_out": "bits from the buffer to host memory",
    "array_bits_read": "bits read from sub-arrays as memory",
    "rows_written_compute": "row writes to compute sub-arrays",
    "rows_written_transposable": "row writes to transposable sub-arrays",
    "bits_written_compute": "bits written to compute sub-arrays",
    "bits_written_transposable": "bits written to transposable sub-arrays",
    "bits_flipped_compute": "bits written to compute sub-arrays that changed",
    "bits_flipped_transposable": "bits written to transposable sub-arrays that changed",
    "requantise_ops": "32-bit multiply, shift, round",
    "relu_ops": "clamps",
    "pool_ops": "additions or comparisons of pools and resamplers",
    "add_ops": "element-wise additions",
    "product_ops": "element-wise products of two activations, or of errors and what they pass",
    "lut_ops": "look-ups in tables of unary functions",
    "reciprocal_ops": "reciprocals of a softmax, reciprocal square roots of a layer norm",
    "shift_ops": "shifts with rounding to 8 or 16 bits",
    "scale_ops": "error scalings by a fixed-point constant",
    "range_ops": "elements whose bits were counted",
    "saturated": "errors beyond the 8 bits of an exponent from the step before",
    "mask_ops": "mask bits made or applied",
    "round_ops": "pseudo-stochastic roundings",
    "loss_ops": "logits through the cross-entropy",
    "update_ops": "weights subtracted",
}


@dataclass(frozen=True)
class RowRange:
    """``reg + offset : count`` rows, clipped to the operand's height when executed."""

    reg: int
    offset: int
    count: int


class Field:
    """One operand: its bits in the encoding. ``name`` is set by the declaring class."""

    name: str = ""
    bits: int = 0
    kind: str = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def check(self, value: Any) -> str:
        """An error text when ``value`` (already an integer or RowRange) does not fit the field, else an empty string."""
        raise NotImplementedError

    def pack(self, value: Any) -> int:
        """The field's bits for a value that passed :meth:`check`."""
        raise NotImplementedError

    def unpack(self, raw: int) -> Any:
        """Inverse of :meth:`pack`."""
        raise NotImplementedError


F = TypeVar("F", bound=Field)


class _Unsigned(Field):
    def __init__(self, doc: str = "") -> None:
        self.doc = doc

    def check(self, value: Any) -> str:
        return "" if 0 <= value < (1 << self.bits) else f"{value} does not fit in {self.bits} bits"

    def pack(self, value: Any) -> int:
        return int(value)

    def unpack(self, raw: int) -> Any:
        return raw


class Reg(_Unsigned):
    """A scalar register r0..r63; r0 reads 0. ``write`` marks a destination; ``largest``: it keeps the larger of what it holds and the result."""

    bits = 6
    kind = "register"

    def __init__(self, doc: str = "", *, write: bool = False, largest: bool = False) -> None:
        super().__init__(doc)
        self.write, self.largest = write, largest


class ViewField(_Unsigned):
    """A view; ``space`` and ``dtypes`` restrict it, ``access`` is ``r``, ``w`` or ``rw`` (``a`` = accumulate, ``d`` = drain). ``sample`` names the
    register operand that selects the sample of a host view, ``shift`` the immediate by which its rows are displaced; ``whole``: all of it is
    touched whatever the rows; ``broadcast``: one row, pixel or channel may stand for all."""

    bits = 14
    kind = "view"

    def __init__(
        self, doc: str, space: str, dtypes: str, access: str, *, sample: str = "", shift: str = "", whole: bool = False,
        broadcast: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(doc)
        self.space, self.dtypes, self.access = space, tuple(dtypes.split()), access
        self.sample, self.shift, self.whole, self.broadcast = sample, shift, whole, broadcast

    @property
    def read(self) -> bool:
        """Whether what stands there matters."""
        return self.access != "w"

    @property
    def write(self) -> bool:
        """Whether what stands there changes."""
        return self.access != "r"


class MatField(_Unsigned):
    """A matrix of one of ``kinds``. ``access`` is ``r``, ``w`` or ``rw``; ``sums`` says along which axis of the matrix partial sums of its
    tiles are added: ``k`` (forward), ``n`` (transposed), or an empty string (never)."""

    bits = 12
    kind = "matrix"

    def __init__(self, doc: str, kinds: str, access: str = "r", *, sums: str = "") -> None:
        super().__init__(doc)
        self.kinds, self.access, self.sums = tuple(kinds.split()), access, sums

    @property
    def write(self) -> bool:
        """Whether its cells change."""
        return "w" in self.access

    @property
    def scratch(self) -> bool:
        """Whether it holds an operand for the time of the instruction only."""
        return self.kinds == ("scratch",)


class GeomField(_Unsigned):
    """A geometry of one of ``modes`` between the plane of operand ``inner`` (larger, padded) and that of ``outer`` (a position a window)."""

    bits = 10
    kind = "geometry"

    def __init__(self, inner: str, outer: str, doc: str = "window geometry", modes: str = "window") -> None:
        super().__init__(doc)
        self.inner, self.outer, self.modes = inner, outer, tuple(modes.split())


class TableField(_Unsigned):
    """A table of kind ``table``."""

    bits = 12
    kind = "table"

    def __init__(self, doc: str, table: str) -> None:
        super().__init__(doc)
        self.table = table


class Imm(Field):
    """A signed immediate of ``bits`` bits."""

    kind = "immediate"

    def __init__(self, bits: int, doc: str = "") -> None:
        self.bits, self.doc = bits, doc

    def check(self, value: Any) -> str:
        low, high = -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return "" if low <= value <= high else f"{value} is outside {low}..{high}"

    def pack(self, value: Any) -> int:
        return int(value) & ((1 << self.bits) - 1)

    def unpack(self, raw: int) -> Any:
        return raw - (1 << self.bits) if raw >> (self.bits - 1) else raw


class Choice(Field):
    """One word of a fixed list."""

    bits = 4
    kind = "choice"

    def __init__(self, *words: str, doc: str = "") -> None:
        self.words, self.doc = words, doc

    def check(self, value: Any) -> str:
        return "" if value in self.words else f"{value!r} is not one of {', '.join(self.words)}"

    def pack(self, value: Any) -> int:
        return self.words.index(value)

    def unpack(self, raw: int) -> Any:
        if raw >= len(self.words):
            raise ValueError(f"choice {raw} is not assigned")
        return self.words[raw]


class RowsField(Field):
    """A row range ``rN+off:count``; ``of`` names the view whose height clips it."""

    bits = 6 + 16 + 16
    kind = "rows"

    def __init__(self, of: str, doc: str = "rows to work on") -> None:
        self.of, self.doc = of, doc

    def check(self, value: Any) -> str:
        if not 0 <= value.reg < 64:
            return f"register r{value.reg} does not exist"
        if not -(1 << 15) <= value.offset < (1 << 15):
            return f"row offset {value.offset} is outside -32768..32767"
        return "" if 1 <= value.count < (1 << 16) else f"row count {value.count} is outside 1..65535"

    def pack(self, value: Any) -> int:
        return value.reg | (value.offset & 0xFFFF) << 6 | value.count << 22

    def unpack(self, raw: int) -> Any:
        offset = raw >> 6 & 0xFFFF
        count = raw >> 22 & 0xFFFF
        if not count:
            raise ValueError("row count 0 is not assigned")
        return RowRange(raw & 63, offset - (1 << 16) if offset >> 15 else offset, count)


NO_ROWS = (0, 0)


class Cost:
    """Cycles of one execution and its data-independent events."""

    __slots__ = ("cycles", "events")

    def __init__(self, cycles: int, **events: int) -> None:
        self.cycles = cycles
        self.events = events


FLOWS = ("loop", "end", "halt", "sync", "overlap", "phase")
"""What a control instruction that is no register arithmetic does: begin or end a loop, stop, end or begin a region, set the phase."""

SPLITS = ("rows", "pixels", "whole", "own")
"""How work may be shared out: runs of rows, runs of pixels, not at all, or as the kernel cuts it."""


class Control(Protocol):
    """What control instructions may change (`sasimc.isa.walk`)."""

    @property
    def regs(self) -> list[int]:
        """The scalar registers."""
        ...

    def loop(self, count: int) -> None:
        """Begin a loop."""
        ...

    def end_loop(self) -> None:
        """End one pass of the innermost loop."""
        ...

    def halt(self) -> None:
        """Give control back to the host."""
        ...

    def region(self, begin: bool) -> None:
        """End the overlapped region, if there is one, and perhaps begin the next."""
        ...

    def set_phase(self, phase: str) -> None:
        """Set the phase of the counters."""
        ...


class Instruction:
    """Base of all declarations. ``ops`` in the methods maps field names to resolved operands (View, Matrix, int, ...).

    ``kernel``: name of what carries it out (`sasimc.runtime.kernel`); ``split``: how its rows may be shared among threads. Control instructions
    have neither: they have ``run`` and say what it does (``flow``), or ``result`` and a destination register; ``moves`` names the immediate that is added
    to a register.
    """

    opcode: ClassVar[int]
    mnemonic: ClassVar[str]
    group: ClassVar[str]
    unit: ClassVar[str] = ""
    kernel: ClassVar[str] = ""
    split: ClassVar[str] = "rows"
    flow: ClassVar[str] = ""
    moves: ClassVar[str] = ""
    fields: ClassVar[tuple[Field, ...]] = ()

    def __init_subclass__(cls) -> None:
        if "opcode" not in cls.__dict__:
            return
        cls.fields = tuple(v for v in cls.__dict__.values() if isinstance(v, Field))
        cls.unit = cls.unit or cls.group
        _register(cls)

    @classmethod
    @cache
    def rows_field(cls) -> RowsField | None:
        """The row-range operand, when the instruction has one."""
        return next(cls.of_kind(RowsField), None)

    @classmethod
    def of_kind(cls, kind: type[F]) -> Iterator[F]:
        """The fields of one kind."""
        return iter(cls._of_kind(kind))

    @classmethod
    @cache
    def _of_kind(cls, kind: type[F]) -> tuple[F, ...]:
        return tuple(f for f in cls.fields if isinstance(f, kind))

    @classmethod
    @cache
    def target(cls) -> Reg | None:
        """The register operand that is written, when there is one."""
        return next((f for f in cls.of_kind(Reg) if f.write), None)

    @classmethod
    def changes(cls, space: str) -> bool:
        """Whether it writes to ``buf``, ``acc``, ``host`` or ``cells``."""
        if space == "cells":
            return any(f.write for f in cls.of_kind(MatField))
        return any(f.write and f.space == space for f in cls.of_kind(ViewField))

    @staticmethod
    def result(regs: list[int], o: Any) -> int:
        """What register arithmetic writes to its destination: integer expressions that read ``regs`` and operands, nothing else (also compiled)."""
        raise NotImplementedError

    @staticmethod
    def run(c: Control, o: Any) -> None:
        """What any other control instruction does."""
        raise NotImplementedError

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        """Cycles and the events that do not depend on data."""
        raise NotImplementedError

    @staticmethod
    def operand(o: Any, r0: int, r1: int) -> tuple[int, int]:
        """Rows and columns of the operand that rows ``r0`` to ``r1`` write into scratch rows; (0, 0) where none is."""
        return 0, 0

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        """Texts of what is wrong with these operands; nothing when legal."""
        yield from ()

    @staticmethod
    def trap(machine: Machine, o: Any, regs: list[int], found: int) -> tuple[str, str]:
        """Kind and text of the trap when the kernel returned ``found``, which is not 0."""
        return "accumulator overflow", f"a sum in {o.acc.name} does not fit 32 bits"


TABLE: dict[str, type[Instruction]] = {}
_BY_OPCODE: dict[int, type[Instruction]] = {}


def _referred(f: Field) -> list[str]:
    """Names of the operands a field refers to."""
    if isinstance(f, RowsField):
        return [f.of]
    if isinstance(f, GeomField):
        return [f.inner, f.outer]
    return [name for name in (f.sample, f.shift) if name] if isinstance(f, ViewField) else []


def _register(cls: type[Instruction]) -> None:
    """Refuse what would make the encoding ambiguous or a declaration incomplete."""
    problems: list[str] = []
    if cls.mnemonic in TABLE:
        problems.append(f"mnemonic {cls.mnemonic!r} is declared twice")
    if not 0 < cls.opcode < (1 << OPCODE_BITS):
        problems.append(f"opcode {cls.opcode} is not in 1..255")
    elif cls.opcode in _BY_OPCODE:
        problems.append(f"opcode {cls.opcode:#04x} is already {_BY_OPCODE[cls.opcode].mnemonic!r}")
    used = OPCODE_BITS + sum(f.bits for f in cls.fields)
    if used > WORD_BITS:
        problems.append(f"fields take {used} of {WORD_BITS} bits")
    if any(f.bits <= 0 for f in cls.fields):
        problems.append("a field without bits")
    names = {f.name for f in cls.fields}
    rows = [f for f in cls.fields if isinstance(f, RowsField)]
    if len(rows) > 1:
        problems.append("more than one row range")
    if not (cls.__doc__ or "").strip():
        problems.append("no documentation")
    if cls.group not in ("control", "movement", "array", "periphery"):
        problems.append(f"unknown group {cls.group!r}")
    problems += [
        f"{f.name} refers to {name!r}, which is no operand" for f in cls.fields for name in _referred(f) if name not in names
    ]
    problems += [f"{name} is no name for a field" for name in names if hasattr(Instruction, name)]
    if cls.cost is Instruction.cost:
        problems.append("no cost")
    if cls.flow not in ("", *FLOWS) or cls.split not in SPLITS:
        problems.append(f"flow {cls.flow!r} or split {cls.split!r} is not a known word")
    if cls.group != "control" and not cls.kernel:
        problems.append("no kernel")
    if cls.group == "control" and (cls.run if cls.flow else cls.result) is getattr(Instruction, "run" if cls.flow else "result"):
        problems.append("no run" if cls.flow else "no result")
    if problems:
        raise TypeError(f"instruction {cls.__name__}: " + "; ".join(problems))
    TABLE[cls.mnemonic] = cls
    _BY_OPCODE[cls.opcode] = cls


def forget(mnemonics: Iterable[str]) -> None:
    """Take declarations out of the table again (of a file that turned out to be broken)."""
    for mnemonic in mnemonics:
        del _BY_OPCODE[TABLE.pop(mnemonic).opcode]


def lookup(opcode: int) -> type[Instruction] | None:
    """The declaration with this opcode, or None."""
    return _BY_OPCODE.get(opcode)
