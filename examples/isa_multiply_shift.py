"""An instruction of one's own: a fused multiply-shift of the periphery.

Use it without touching the package:

    sasc lint prog.s --isa examples/isa_multiply_shift.py
    sasrun prog.s --isa examples/isa_multiply_shift.py ...
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from sasimc.isa.machine import Machine
from sasimc.isa.spec import Cost, Imm, Instruction, RowsField, ViewField
from sasimc.runtime.kernel import buf, buf32, kernel
from sasimc.runtime.kernels.arithmetic import at, rne


class MultiplyShift(Instruction):
    """dst = rne(src factor, down), limited to the type of dst: a multiplication and a shift of 32-bit words to 8 bits in one."""

    opcode = 0x80
    mnemonic = "muls"
    group = "periphery"
    kernel = "multiply_shift"
    dst = ViewField("8-bit result", "buf", "u8 i8", "w")
    src = ViewField("operand", "buf", "i32", "r")
    factor = Imm(32, "what to multiply by")
    down = Imm(8, "bits to shift by")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = (r1 - r0) * o.src.width * o.src.channels
        return Cost(
            machine.controller.issue_cycles + -(-n // machine.periphery.lanes),
            instructions=1, requantise_ops=n, buffer_bits_read=32 * n, buffer_bits_written=8 * n,
        )  # fmt: skip

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        if o.dst.shape != o.src.shape:
            yield f"{o.dst.name} is {o.dst.shape} and {o.src.name} is {o.src.shape}: the shapes must agree"
        if not 0 <= o.down <= 30:
            yield f"a shift of {o.down} is not between 0 and 30"


@kernel("multiply_shift", ns=0.6)
def multiply_shift(op, m, first, last):  # type: ignore[no-untyped-def]
    words, out, n, factor, down = buf32(m), buf(m), op.src.channels, op.factor, op.down
    low, high = (-128, 127) if op.dst.signed else (0, 255)
    for y in range(first, last):
        for x in range(op.src.width):
            of, to = at(op.src, y, x), at(op.dst, y, x)
            source, target = words[of : of + n], out[to : to + n]
            for c in range(n):
                target[c] = np.uint8(min(max(rne(np.int64(source[c]) * factor, down), low), high))
    return 0
