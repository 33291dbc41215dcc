"""Movement: host <-> buffer, strided copies (transposed reading is a choice of strides), fills, scalar loads and stores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sasimc.isa.machine import Machine
from sasimc.isa.spec import Cost, Imm, Instruction, Reg, RowsField, ViewField

__all__: list[str] = []

ANY = "u8 i8 i16 i32 bit"


def _same(a: Any, b: Any) -> Iterator[str]:
    if a.shape != b.shape:
        yield f"{a.name} is {a.shape} and {b.name} is {b.shape}: the shapes must agree"
    if a.dtype != b.dtype:
        yield f"{a.name} is {a.dtype} and {b.name} is {b.dtype}: the types must agree"


class HostLoad(Instruction):
    """Copy rows of a host tensor into the buffer; ``index`` selects the sample (times the host view's batch stride)."""

    opcode = 0x10
    mnemonic = "hld"
    group = "movement"
    unit = "host"
    kernel = "load_host"
    dst = ViewField("destination", "buf", ANY, "w")
    src = ViewField("source", "host", ANY, "r", sample="index")
    index = Reg("sample number")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        bits = (r1 - r0) * o.src.row_bits
        return Cost(
            machine.controller.issue_cycles + -(-bits // (8 * machine.host.bytes_per_cycle)),
            instructions=1, host_bits_in=bits, buffer_bits_written=bits,
        )  # fmt: skip

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _same(o.dst, o.src)


class HostStore(Instruction):
    """Copy rows of a buffer tensor to host memory; ``index`` selects the sample."""

    opcode = 0x11
    mnemonic = "hst"
    group = "movement"
    unit = "host"
    kernel = "store_host"
    dst = ViewField("destination", "host", ANY, "w", sample="index")
    src = ViewField("source", "buf", ANY, "r")
    index = Reg("sample number")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        bits = (r1 - r0) * o.src.row_bits
        return Cost(
            machine.controller.issue_cycles + -(-bits // (8 * machine.host.bytes_per_cycle)),
            instructions=1, host_bits_out=bits, buffer_bits_read=bits,
        )  # fmt: skip

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _same(o.dst, o.src)


class Copy(Instruction):
    """Copy rows inside the buffer. Views with exchanged strides read in transposed order (paper section IV-D: e is transposed by
    reading the buffer in transposed order). Row y of the source goes to row y + ``shift`` of the destination."""

    opcode = 0x12
    mnemonic = "cpy"
    group = "movement"
    unit = "buffer"
    kernel = "copy"
    dst = ViewField("destination", "buf", "u8 i8 i32", "w", shift="shift")
    src = ViewField("source", "buf", "u8 i8 i32", "r")
    shift = Imm(16, "destination row minus source row")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        bits = (r1 - r0) * o.src.row_bits
        return Cost(
            machine.controller.issue_cycles + -(-bits // (8 * machine.buffer.bytes_per_cycle)),
            instructions=1, buffer_bits_read=bits, buffer_bits_written=bits,
        )  # fmt: skip

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        if o.dst.shape[1:] != o.src.shape[1:]:
            yield f"{o.dst.name} is {o.dst.shape} and {o.src.name} is {o.src.shape}: width and channels must agree"
        if o.dst.dtype != o.src.dtype:
            yield f"{o.dst.name} is {o.dst.dtype} and {o.src.name} is {o.src.dtype}: the types must agree"


class Fill(Instruction):
    """Set every element of the rows to an immediate."""

    opcode = 0x13
    mnemonic = "fill"
    group = "movement"
    unit = "buffer"
    kernel = "fill"
    dst = ViewField("destination", "buf", "u8 i8 i32", "w")
    value = Imm(32, "value")
    rows = RowsField("dst")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        bits = (r1 - r0) * o.dst.row_bits
        return Cost(
            machine.controller.issue_cycles + -(-bits // (8 * machine.buffer.bytes_per_cycle)),
            instructions=1, buffer_bits_written=bits,
        )  # fmt: skip

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        low, high = o.dst.limits
        if not low <= o.value <= high:
            yield f"{o.value} is not a value of {o.dst.dtype} ({low}..{high})"


class LoadWord(Instruction):
    """rd = the 32-bit word of sample ``index`` in host memory."""

    opcode = 0x14
    mnemonic = "ldw"
    group = "movement"
    unit = "host"
    kernel = "load_word"
    split = "whole"
    rd = Reg("destination", write=True)
    src = ViewField("a (1, 1, 1) view", "host", "i32", "r", sample="index")
    index = Reg("sample number")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        return Cost(machine.controller.issue_cycles + -(-4 // machine.host.bytes_per_cycle), instructions=1, host_bits_in=32)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        if o.src.shape != (1, 1, 1):
            yield f"{o.src.name} is {o.src.shape}; a word is (1, 1, 1)"


class StoreWord(Instruction):
    """Write a register to the 32-bit word of sample ``index`` in host memory."""

    opcode = 0x15
    mnemonic = "stw"
    group = "movement"
    unit = "host"
    kernel = "store_word"
    split = "whole"
    dst = ViewField("a (1, 1, 1) view", "host", "i32", "w", sample="index")
    rs = Reg("source")
    index = Reg("sample number")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        return Cost(machine.controller.issue_cycles + -(-4 // machine.host.bytes_per_cycle), instructions=1, host_bits_out=32)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        if o.dst.shape != (1, 1, 1):
            yield f"{o.dst.name} is {o.dst.shape}; a word is (1, 1, 1)"
