"""Binary instruction words: 128 bits, the opcode in the lowest 8, then the fields of the declaration in order, upwards.

Names become indices into the descriptor memory (declaration order). A value that does not fit is refused, never cut; unused bits
are zero and decoding insists on it. The file format around the words is in ``container.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sasimc.isa.errors import SasError
from sasimc.isa.extend import lookup
from sasimc.isa.program import Instr, Origin, Program
from sasimc.isa.spec import OPCODE_BITS, WORD_BYTES, Field, GeomField, Instruction, MatField, TableField, ViewField

__all__ = ["Names", "decode_word", "encode_word", "pack_fields", "unpack_fields"]


@dataclass(frozen=True)
class Names:
    """Descriptor names in index order, and back."""

    by_kind: Mapping[type[Field], Sequence[str]]
    index: Mapping[type[Field], Mapping[str, int]]

    @staticmethod
    def of(program: Program) -> Names:
        """The names of a program's descriptor memory."""
        pools = {ViewField: program.views, MatField: program.matrices, GeomField: program.geometries, TableField: program.tables}
        names: dict[type[Field], Sequence[str]] = {kind: tuple(pool) for kind, pool in pools.items()}
        return Names(names, {kind: {n: i for i, n in enumerate(pool)} for kind, pool in names.items()})


def pack_fields(spec: type[Instruction], values: Sequence[Any]) -> int:
    """The word of an instruction whose operands are already indices, integers, words and row ranges.

    Raises:
        SasError: a value outside its field's range.
    """
    word, shift = spec.opcode, OPCODE_BITS
    for f, value in zip(spec.fields, values, strict=True):
        if text := f.check(value):
            raise SasError(f"{spec.mnemonic}: {f.name}: {text}")
        raw = f.pack(value)
        if raw >> f.bits:
            raise SasError(f"{spec.mnemonic}: {f.name}: {value} takes more than {f.bits} bits")
        word |= raw << shift
        shift += f.bits
    return word


def unpack_fields(word: int) -> tuple[type[Instruction], tuple[Any, ...]]:
    """Inverse of :func:`pack_fields`.

    Raises:
        SasError: unknown opcode, unassigned value, or a bit set that no field owns.
    """
    spec = lookup(word & ((1 << OPCODE_BITS) - 1))
    if spec is None:
        raise SasError(f"no instruction has the opcode {word & ((1 << OPCODE_BITS) - 1):#04x}")
    rest = word >> OPCODE_BITS
    values: list[Any] = []
    for f in spec.fields:
        try:
            value = f.unpack(rest & ((1 << f.bits) - 1))
        except ValueError as exc:
            raise SasError(f"{spec.mnemonic}: {f.name}: {exc}") from None
        if text := f.check(value):
            raise SasError(f"{spec.mnemonic}: {f.name}: {text}")
        values.append(value)
        rest >>= f.bits
    if rest:
        raise SasError(f"{spec.mnemonic}: bits outside its fields are set")
    return spec, tuple(values)


def encode_word(instr: Instr, names: Names) -> bytes:
    """The 16 bytes of one instruction (little-endian)."""
    values = []
    for f, value in zip(instr.spec.fields, instr.operands, strict=True):
        table = names.index.get(type(f))
        if table is not None:
            if value not in table:
                raise SasError(f"{instr.spec.mnemonic}: {f.name}: {value!r} is not declared")
            value = table[value]
        values.append(value)
    return pack_fields(instr.spec, values).to_bytes(WORD_BYTES, "little")


def decode_word(data: bytes, names: Names, origin: Origin = Origin()) -> Instr:  # noqa: B008  (frozen)
    """The instruction of 16 bytes."""
    spec, values = unpack_fields(int.from_bytes(data, "little"))
    operands = []
    for f, value in zip(spec.fields, values, strict=True):
        pool = names.by_kind.get(type(f))
        if pool is not None:
            if value >= len(pool):
                raise SasError(f"{spec.mnemonic}: {f.name}: index {value} of {len(pool)} descriptors")
            value = pool[value]
        operands.append(value)
    return Instr(spec, tuple(operands), origin)
