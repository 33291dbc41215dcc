"""Control flow: registers, hardware loops and row ranges, for everything that follows a program (runs, steps, estimates, the linter, loop plans)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sasimc.isa.program import Program
from sasimc.isa.spec import NO_ROWS, PHASES

__all__ = ["EMPTY", "Key", "Place", "Walker", "loop_ends"]

Key = tuple[int, int, int]
"""One execution: instruction, first row, end."""

Place = tuple[int, bool, str, tuple[tuple[int, int, int], ...]]
"""Next instruction, whether it runs, phase, open loops (first instruction of the body, passes left, passes in all)."""

EMPTY: Final = (-1, -1)
"""Rows of an execution whose range misses its operand."""


def loop_ends(program: Program) -> tuple[dict[int, int], list[int]]:
    """Index of the end of every loop; instructions that begin or end a loop without a partner."""
    ends: dict[int, int] = {}
    open_: list[int] = []
    alone: list[int] = []
    for i, instr in enumerate(program.code):
        if instr.spec.flow == "loop":
            open_.append(i)
        elif instr.spec.flow == "end":
            if open_:
                ends[open_.pop()] = i
            else:
                alone.append(i)
    return ends, alone + open_


class Walker:
    """Where a program is: next instruction ``pc``, registers, open loops ([first instruction of the body, passes left, passes in all]), phase.

    ``operands``: of every instruction, by field name; ``like``: a walker of the same program, so that nothing is looked up again. Subclasses say what regions, phases and loops mean to them.
    """

    def __init__(
        self, program: Program, operands: Sequence[Any], regs: list[int] | None = None, like: Walker | None = None
    ) -> None:
        self.program, self.operands = program, operands
        self.regs = [0] * program.machine.controller.registers if regs is None else regs
        self.pc, self.running, self.phase = 0, False, PHASES[0]
        self.stack: list[list[int]] = []
        if like is not None:
            self.ends, self._ranges = like.ends, like._ranges
            return
        self.ends = loop_ends(program)[0]
        self._ranges: list[tuple[int, int, int, int] | None] = []
        for instr, o in zip(program.code, operands, strict=True):
            rows = instr.spec.rows_field()
            if rows is None:
                self._ranges.append(None)
                continue
            span = getattr(o, rows.name)
            self._ranges.append((span.reg, span.offset, span.count, getattr(o, rows.of).height))

    def start(self, pc: int) -> None:
        """Begin at an instruction, outside of loops, in the first phase."""
        self.pc, self.running, self.phase = pc, True, PHASES[0]
        self.stack.clear()

    @property
    def place(self) -> Place:
        """Where the program is."""
        return self.pc, self.running, self.phase, tuple((first, left, passes) for first, left, passes in self.stack)

    @place.setter
    def place(self, place: Place) -> None:
        self.pc, self.running, self.phase, stack = place
        self.stack[:] = [list(loop) for loop in stack]

    def first_row(self, register: int) -> int:
        """The value of a register that a row range begins at."""
        return self.regs[register]

    def rows(self, pc: int) -> tuple[int, int]:
        """Rows r0 <= y < r1 that instruction ``pc`` would work on now, clipped; `EMPTY` if there are none, `NO_ROWS` if it has no range."""
        span = self._ranges[pc]
        if span is None:
            return NO_ROWS
        register, offset, count, height = span
        first = self.first_row(register) + offset
        r0, r1 = max(0, first), min(height, first + count)
        return (r0, r1) if r0 < r1 else EMPTY

    def execute(self, pc: int) -> None:
        """Carry out a control instruction; afterwards ``pc`` is the next one."""
        self.pc = pc + 1
        spec, o = self.program.code[pc].spec, self.operands[pc]
        if spec.flow:
            spec.run(self, o)
            return
        target = spec.target()
        assert target is not None
        register = getattr(o, target.name)
        if register:
            self.regs[register] = spec.result(self.regs, o)

    # What control instructions do (`sasimc.isa.spec.Control`).

    def loop(self, count: int) -> None:
        if count <= 0:
            self.pc = self.ends[self.pc - 1] + 1
        else:
            self.stack.append([self.pc, count, count])

    def end_loop(self) -> None:
        top = self.stack[-1]
        top[1] -= 1
        if top[1]:
            self.pc = top[0]
        else:
            self.stack.pop()

    def halt(self) -> None:
        self.region(False)
        self.running = False

    def region(self, begin: bool) -> None:
        """Nothing: a subclass that counts overrides it."""

    def set_phase(self, phase: str) -> None:
        self.region(False)
        self.phase = phase
