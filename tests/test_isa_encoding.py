"""Words, container, text: every round trip is the identity, nothing is cut silently, damage is noticed."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isa_programs import SMALL, programs

from sasimc.isa.analysis.check import check_program
from sasimc.isa.binary.container import MAGIC, decode_program, encode_program, encoded_bytes
from sasimc.isa.binary.encoding import Names, decode_word, encode_word, pack_fields, unpack_fields
from sasimc.isa.errors import SasError
from sasimc.isa.program import Instr, Program
from sasimc.isa.spec import TABLE, Choice, Field, Imm, RowRange, RowsField
from sasimc.isa.text.assembler import assemble
from sasimc.isa.text.printer import format_instruction, format_program

QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def _value(f: Field) -> st.SearchStrategy:
    if isinstance(f, RowsField):
        return st.builds(RowRange, st.integers(0, 63), st.integers(-(1 << 15), (1 << 15) - 1), st.integers(1, 65535))
    if isinstance(f, Imm):
        return st.integers(-(1 << (f.bits - 1)), (1 << (f.bits - 1)) - 1)
    if isinstance(f, Choice):
        return st.sampled_from(f.words)
    return st.integers(0, (1 << f.bits) - 1)


def _oracle(opcode: int, fields: tuple[Field, ...], values: tuple) -> str:
    """The word as a string of bits, written down independently of the encoder."""
    bits = ""
    for f, v in zip(fields, values, strict=True):
        if isinstance(f, RowsField):
            part = f"{v.count:016b}{v.offset % 65536:016b}{v.reg:06b}"
        elif isinstance(f, Choice):
            part = f"{f.words.index(v):04b}"
        elif isinstance(f, Imm):
            part = format(v + (1 << f.bits) if v < 0 else v, f"0{f.bits}b")
        else:
            part = format(v, f"0{f.bits}b")
        bits = part + bits
    return (bits + f"{opcode:08b}").zfill(128)


@pytest.mark.parametrize("mnemonic", sorted(TABLE))
def test_words_of_every_instruction(mnemonic: str) -> None:
    spec = TABLE[mnemonic]

    @settings(max_examples=25, deadline=None)
    @given(st.tuples(*map(_value, spec.fields)))
    def check(values: tuple) -> None:
        word = pack_fields(spec, values)
        assert format(word, "0128b") == _oracle(spec.opcode, spec.fields, values)
        assert unpack_fields(word) == (spec, values)

    check()


@pytest.mark.parametrize("mnemonic", sorted(TABLE))
def test_bits_outside_the_fields_are_refused(mnemonic: str) -> None:
    spec = TABLE[mnemonic]
    used = 8 + sum(f.bits for f in spec.fields)
    values = tuple(
        RowRange(0, 0, 1) if isinstance(f, RowsField) else f.words[0] if isinstance(f, Choice) else 0 for f in spec.fields
    )
    word = pack_fields(spec, values)
    for bit in range(used, 128):
        with pytest.raises(SasError, match="bits outside its fields"):
            unpack_fields(word | 1 << bit)


def test_values_are_never_cut() -> None:
    for mnemonic, values in (
        ("li", (64, 0)), ("li", (-1, 0)), ("li", (1, 1 << 31)), ("li", (1, -(1 << 31) - 1)), ("phase", ("sideways",)),
        ("fill", (1 << 14, 0, RowRange(0, 0, 1))), ("fill", (0, 0, RowRange(0, 1 << 15, 1))), ("fill", (0, 0, RowRange(0, 0, 0))),
        ("fill", (0, 0, RowRange(0, 0, 65536))), ("fill", (0, 0, RowRange(64, 0, 1))),
    ):  # fmt: skip
        with pytest.raises(SasError):
            pack_fields(TABLE[mnemonic], values)


def test_unassigned_opcode_and_choice() -> None:
    with pytest.raises(SasError, match="opcode 0x00"):
        unpack_fields(0)
    with pytest.raises(SasError, match="choice 9 is not assigned"):
        unpack_fields(TABLE["phase"].opcode | 9 << 8)


def test_index_beyond_the_descriptors() -> None:
    word = pack_fields(TABLE["fill"], (5, 0, RowRange(0, 0, 1))).to_bytes(16, "little")
    with pytest.raises(SasError, match="index 5 of 4 descriptors"):
        decode_word(word, Names.of(assemble(SMALL)))
    with pytest.raises(SasError, match="'nowhere' is not declared"):
        encode_word(Instr(TABLE["fill"], ("nowhere", 0, RowRange(0, 0, 1))), Names.of(assemble(SMALL)))


@QUIET
@given(programs())
def test_text_bytes_text(program: Program) -> None:
    assert check_program(program) == []
    text = format_program(program)
    again = assemble(text)
    assert format_program(again) == text
    assert replace(again, code=(), source="", tensors={}) == replace(program, code=(), source="", tensors={})
    assert [(i.spec, i.operands, i.origin) for i in again.code] == [(i.spec, i.operands, i.origin) for i in program.code]
    assert all(text.split("\n")[i.line - 1].strip() == format_instruction(i) for i in again.code)
    data = encode_program(again)
    decoded = decode_program(data)
    assert format_program(decoded) == text
    assert encode_program(decoded) == data
    for name, tensor in program.tensors.items():
        for other in (again.tensors[name], decoded.tensors[name]):
            assert other.dtype == tensor.dtype
            assert other.tolist() == tensor.tolist()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_noticed(data: st.DataObject) -> None:
    good = encode_program(assemble(SMALL))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SasError):
        decode_program(bytes(bad))
    with pytest.raises(SasError):
        decode_program(good[:at])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_behind_a_right_checksum_never_crashes(data: st.DataObject) -> None:
    """Whatever the sections contain, the decoder answers with a program or a SasError."""
    good = encode_program(assemble(SMALL))
    at = data.draw(st.integers(12 + 120, len(good) - 1))
    bad = bytearray(good)
    bad[at] = data.draw(st.integers(0, 255))
    head, start = len(MAGIC) + 4, 12 + 12 * 10
    for i in range(10):
        tag, length, _ = struct.unpack_from("<4sII", bad, head + 12 * i)
        struct.pack_into("<4sII", bad, head + 12 * i, tag, length, zlib.crc32(bytes(bad[start : start + length])))
        start += length
    try:
        program = decode_program(bytes(bad))
    except SasError:
        return
    assert check_program(program) == []


def test_header_errors() -> None:
    good = encode_program(assemble(SMALL))
    for bad, text in (
        (b"", "not a SAS program"), (b"\x7fELF" + good, "not a SAS program"), (good[:9], "ends in its header"),
        (good[:8] + b"\x02\x00" + good[10:], "file version 2"), (good + b"\0", "goes on after"), (good[:40], "section table"),
        (good[:-3], "ends in section INFO"),
    ):  # fmt: skip
        with pytest.raises(SasError, match=text):
            decode_program(bad)


def test_size_is_compact() -> None:
    program = assemble(SMALL)
    more = replace(program, code=program.code[:-1] * 500 + program.code[-1:])
    assert encoded_bytes(more) < encoded_bytes(program) + 16 * len(more.code) + 9 * 500 * 3
