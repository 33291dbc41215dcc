"""Control: halt, hardware loops, scalar registers, phase, synchronisation."""

from __future__ import annotations

from typing import Any

from sasimc.isa.machine import Machine
from sasimc.isa.spec import PHASES, Choice, Control, Cost, Imm, Instruction, Reg

__all__: list[str] = []


class _Control(Instruction):
    group = "control"

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        return Cost(machine.controller.issue_cycles, instructions=1)


class Halt(_Control):
    """End of an entry point: control returns to the host."""

    opcode = 0x01
    mnemonic = "halt"
    flow = "halt"

    @staticmethod
    def run(c: Control, o: Any) -> None:
        c.halt()


class Sync(_Control):
    """Wait until all units are idle; ends a region begun by ``ovl``. Has no effect on values."""

    opcode = 0x02
    mnemonic = "sync"
    flow = "sync"

    @staticmethod
    def run(c: Control, o: Any) -> None:
        c.region(False)


class Loop(_Control):
    """Begin a hardware loop that runs its body ``count`` times (a register: zero or less skips the body)."""

    opcode = 0x03
    mnemonic = "loop"
    flow = "loop"
    count = Reg("number of iterations")

    @staticmethod
    def run(c: Control, o: Any) -> None:
        c.loop(c.regs[o.count])


class LoopImmediate(_Control):
    """Begin a hardware loop that runs its body an immediate number of times (zero or less skips the body)."""

    opcode = 0x04
    mnemonic = "loopi"
    flow = "loop"
    count = Imm(32, "number of iterations")

    @staticmethod
    def run(c: Control, o: Any) -> None:
        c.loop(o.count)


class EndLoop(_Control):
    """End of the innermost loop's body."""

    opcode = 0x05
    mnemonic = "endl"
    flow = "end"

    @staticmethod
    def run(c: Control, o: Any) -> None:
        c.end_loop()


class LoadImmediate(_Control):
    """Set a register to an immediate."""

    opcode = 0x06
    mnemonic = "li"
    rd = Reg("destination", write=True)
    value = Imm(32, "value")

    @staticmethod
    def result(regs: list[int], o: Any) -> int:
        return o.value


class AddImmediate(_Control):
    """rd = rs + immediate (32-bit two's complement)."""

    opcode = 0x07
    mnemonic = "addi"
    moves = "value"
    rd = Reg("destination", write=True)
    rs = Reg("source")
    value = Imm(32, "addend")

    @staticmethod
    def result(regs: list[int], o: Any) -> int:
        return (regs[o.rs] + o.value + (1 << 31)) % (1 << 32) - (1 << 31)


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
    def result(regs: list[int], o: Any) -> int:
        return (regs[o.ra] + regs[o.rb] + (1 << 31)) % (1 << 32) - (1 << 31)


class Sub(_ThreeRegisters):
    """rd = ra - rb."""

    opcode = 0x09
    mnemonic = "sub"
    rd = Reg("destination", write=True)
    ra = Reg("first operand")
    rb = Reg("second operand")

    @staticmethod
    def result(regs: list[int], o: Any) -> int:
        return (regs[o.ra] - regs[o.rb] + (1 << 31)) % (1 << 32) - (1 << 31)


class Max(_ThreeRegisters):
    """rd = max(ra, rb)."""

    opcode = 0x0A
    mnemonic = "max"
    rd = Reg("destination", write=True)
    ra = Reg("first operand")
    rb = Reg("second operand")

    @staticmethod
    def result(regs: list[int], o: Any) -> int:
        return max(regs[o.ra], regs[o.rb])


class Min(_ThreeRegisters):
    """rd = min(ra, rb)."""

    opcode = 0x0B
    mnemonic = "min"
    rd = Reg("destination", write=True)
    ra = Reg("first operand")
    rb = Reg("second operand")

    @staticmethod
    def result(regs: list[int], o: Any) -> int:
        return min(regs[o.ra], regs[o.rb])


class Overlap(_Control):
    """Begin a region in which the units (arrays, adder tree, periphery, buffer, host interface) work concurrently, up to the next ``sync``,
    ``phase`` or ``halt``: it takes as long as its busiest unit (field ``controller.overlap``). Values do not depend on it: the
    controller keeps the order of dependent instructions."""

    opcode = 0x0D
    mnemonic = "ovl"
    flow = "overlap"

    @staticmethod
    def run(c: Control, o: Any) -> None:
        c.region(True)


class Phase(_Control):
    """Set the phase that cycles and events are booked under."""

    opcode = 0x0C
    mnemonic = "phase"
    flow = "phase"
    phase = Choice(*PHASES, doc="phase of the counters")

    @staticmethod
    def run(c: Control, o: Any) -> None:
        c.set_phase(o.phase)
