"""The instruction framework: operand fields, the base class of declarations, and the self-checking table.

A declaration is one class: its fields (in assembly and encoding order), its meaning (``run``), legality, cost and documentation.
Assembler, encoder, disassembler, linter, interpreter, cost model and ISA manual read nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from sasimc.isa.machine import Machine

__all__ = [
    "EVENTS",
    "NO_ROWS",
    "PHASES",
    "TABLE",
    "WORD_BITS",
    "WORD_BYTES",
    "Choice",
    "Cost",
    "Field",
    "GeomField",
    "Imm",
    "Instruction",
    "Machinery",
    "MatField",
    "Reg",
    "RowRange",
    "RowsField",
    "TableField",
    "ViewField",
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
    "row_activations_gradient": "word lines of scratch rows driven for a x e^T",
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
    "shift_ops": "shifts with rounding to 8 bits",
    "scale_ops": "error scalings by a fixed-point constant",
    "range_ops": "elements whose bits were counted",
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
    """A scalar register r0..r63; r0 reads 0. ``write`` marks a destination."""

    bits = 6
    kind = "register"

    def __init__(self, doc: str = "", *, write: bool = False) -> None:
        super().__init__(doc)
        self.write = write


class ViewField(_Unsigned):
    """A view; ``space`` and ``dtypes`` restrict it, ``access`` is ``r``, ``w`` or ``rw`` (``a`` = accumulate, ``d`` = drain)."""

    bits = 14
    kind = "view"

    def __init__(self, doc: str, space: str, dtypes: str, access: str) -> None:
        super().__init__(doc)
        self.space, self.dtypes, self.access = space, tuple(dtypes.split()), access


class MatField(_Unsigned):
    """A matrix of one of ``kinds``."""

    bits = 12
    kind = "matrix"

    def __init__(self, doc: str, kinds: str, *, write: bool = False) -> None:
        super().__init__(doc)
        self.kinds, self.write = tuple(kinds.split()), write


class GeomField(_Unsigned):
    """A geometry of one of ``modes``."""

    bits = 10
    kind = "geometry"

    def __init__(self, doc: str = "window geometry", modes: str = "window") -> None:
        super().__init__(doc)
        self.modes = tuple(modes.split())


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


class Machinery(Protocol):
    """What a meaning may use: registers and the micro-operations of the datapath (implemented by the runtime's engines)."""

    machine: Machine
    regs: list[int]

    def __getattr__(self, name: str) -> Any: ...


class Instruction:
    """Base of all declarations. ``ops`` in the methods maps field names to resolved operands (View, Matrix, int, ...)."""

    opcode: ClassVar[int]
    mnemonic: ClassVar[str]
    group: ClassVar[str]
    unit: ClassVar[str] = ""
    fields: ClassVar[tuple[Field, ...]] = ()

    def __init_subclass__(cls) -> None:
        if "opcode" not in cls.__dict__:
            return
        cls.fields = tuple(v for v in cls.__dict__.values() if isinstance(v, Field))
        cls.unit = cls.unit or cls.group
        _register(cls)

    @classmethod
    def rows_field(cls) -> RowsField | None:
        """The row-range operand, when the instruction has one."""
        return next((f for f in cls.fields if isinstance(f, RowsField)), None)

    @staticmethod
    def run(m: Machinery, o: Any, r0: int, r1: int) -> None:
        """Meaning: change the state of ``m``; rows r0 <= y < r1 are already clipped."""
        raise NotImplementedError

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        """Cycles and the events that do not depend on data."""
        raise NotImplementedError

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        """Texts of what is wrong with these operands; nothing when legal."""
        yield from ()


TABLE: dict[str, type[Instruction]] = {}
_BY_OPCODE: dict[int, type[Instruction]] = {}


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
    if len(rows) > 1 or any(f.of not in names for f in rows):
        problems.append("row range refers to an operand that does not exist")
    if not (cls.__doc__ or "").strip():
        problems.append("no documentation")
    if cls.group not in ("control", "movement", "array", "periphery"):
        problems.append(f"unknown group {cls.group!r}")
    for method in ("run", "cost"):
        if getattr(cls, method) is getattr(Instruction, method):
            problems.append(f"no {method}")
    if problems:
        raise TypeError(f"instruction {cls.__name__}: " + "; ".join(problems))
    TABLE[cls.mnemonic] = cls
    _BY_OPCODE[cls.opcode] = cls


def lookup(opcode: int) -> type[Instruction] | None:
    """The declaration with this opcode, or None."""
    return _BY_OPCODE.get(opcode)
