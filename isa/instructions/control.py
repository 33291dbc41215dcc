"""Control: halt, hardware loops, scalar registers, phase, synchronisation."""

from __future__ import annotations

from typing import Any

from sasimc.isa.machine import Machine
from sasimc.isa.spec import PHASES, Choice, Cost, Imm, Instruction, Machinery, Reg

__all__: list[str] = []


def _wrap(value: int) -> int:
    """Two's complement 32-bit result."""
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


class _Control(Instruction):
    group = "control"

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        return Cost(machine.controller.issue_cycles, instructions=1)


class Halt(_Control):
    """End of an entry point: control returns to the host."""

    opcode = 0x01
    mnemonic = "halt"

    @staticmethod
    def run(m: Machinery, o: Any, r0: int, r1: int) -> None:
        m.halt()


class Sync(_Control):
    """Wait until all units are idle; ends a region begun by ``ovl``. Has no effect on values."""

    opcode = 0x02
    mnemonic = "sync"

    @staticmethod
    def run(m: Machinery, o: Any, r0: int, r1: int) -> None:
        m.sync()


class Loop(_Control):
    """Begin a hardware loop that runs its body ``count`` times (a register: zero or less skips the body)."""

    opcode = 0x03
    mnemonic = "loop"
    count = Reg("number of iterations")

    @staticmethod
    def run(m: Machinery, o: Any, r0: int, r1: int) -> None:
        m.loop(m.regs[o.count])


class LoopImmediate(_Control):
    """Begin a hardware loop that runs its body an immediate number of times (zero or less skips the body)."""

    opcode = 0x04
    mnemonic = "loopi"
    count = Imm(32, "number of iterations")

    @staticmethod
    def run(m: Machinery, o: Any, r0: int, r1: int) -> None:
        m.loop(o.count)


class EndLoop(_Control):
    """End of the innermost loop's body."""

    opcode = 0x05
    mnemonic = "endl"

    @staticmethod
    def run(m: Machinery, o: Any, r0: int, r1: int) -> None:
        m.end_loop()


class LoadImmediate(_Control):
    """Set a register to an immediate."""

    opcode = 0x06
    mnemonic = "li"
    rd = Reg("destination", write=True)
    value = Imm(32, "value")

    @staticmethod
    def run(m: Machinery, o: Any, r0: int, r1: int) -> None:
        m.regs[o.rd] = o.value


class AddImmediate(_Control):
    """rd = rs + immediate (32-bit two's complement)."""

    opcode = 0x07
    mnemonic = "addi"
    rd = Reg("destination", write=True)
    rs = Reg("source")
    value = Imm(32, "addend")

    @staticmethod
    def run(m: Machinery, o: Any, r0: int, r1: int) -> None:
        m.regs[o.rd] = _wrap(m.regs[o.rs] + o.value)


class _ThreeRegisters(_Control):
    """Register arithmetic."""


class Add(_ThreeRegisters):
    """rd = ra + rb."""

    opcode = 0x08
    mnemonic = "add"
    rd = Reg("destination", write=True)
    ra = Reg("first operand")
    rb = Reg("second operand")

    @staticmethod
    def run(m: Machinery, o: Any, r0: int, r1: int) -> None:
        m.regs[o.rd] = _wrap(m.regs[o.ra] + m.regs[o.rb])


class Sub(_ThreeRegisters):
    """rd = ra - rb."""

    opcode = 0x09
    mnemonic = "sub"
    rd = Reg("destination", write=True)
    ra = Reg("first operand")
    rb = Reg("second operand")

    @staticmethod
    def run(m: Machinery, o: Any, r0: int, r1: int) -> None:
        m.regs[o.rd] = _wrap(m.regs[o.ra] - m.regs[o.rb])


class Max(_ThreeRegisters):
    """rd = max(ra, rb)."""

    opcode = 0x0A
    mnemonic = "max"
    rd = Reg("destination", write=True)
    ra = Reg("first operand")
    rb = Reg("second operand")

    @staticmethod
    def run(m: Machinery, o: Any, r0: int, r1: int) -> None:
        m.regs[o.rd] = max(m.regs[o.ra], m.regs[o.rb])


class Min(_ThreeRegisters):
    """rd = min(ra, rb)."""

    opcode = 0x0B
    mnemonic = "min"
    rd = Reg("destination", write=True)
    ra = Reg("first operand")
    rb = Reg("second operand")

    @staticmethod
    def run(m: Machinery, o: Any, r0: int, r1: int) -> None:
        m.regs[o.rd] = min(m.regs[o.ra], m.regs[o.rb])


class Overlap(_Control):
    """Begin a region in which the units (arrays, adder tree, periphery, buffer, host interface) work concurrently, up to the next ``sync``,
    ``phase`` or ``halt``: it takes as long as its busiest unit (field ``controller.overlap``). Values do not depend on it: the
    controller keeps the order of dependent instructions."""

    opcode = 0x0D
    mnemonic = "ovl"

    @staticmethod
    def run(m: Machinery, o: Any, r0: int, r1: int) -> None:
        m.overlap()


class Phase(_Control):
    """Set the phase that cycles and events are booked under."""

    opcode = 0x0C
    mnemonic = "phase"
    phase = Choice(*PHASES, doc="phase of the counters")

    @staticmethod
    def run(m: Machinery, o: Any, r0: int, r1: int) -> None:
        m.set_phase(o.phase)
