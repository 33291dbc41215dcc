"""Cycles of an entry point without running it: registers and loops are executed, every other instruction is only priced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sasimc.isa.machine import Machine
from sasimc.isa.program import Program
from sasimc.isa.spec import NO_ROWS, PHASES, RowsField

__all__ = ["Estimate", "estimate"]


@dataclass
class Estimate:
    """``cycles``; instructions issued; events that do not depend on data; cycles by phase and by static instruction."""

    cycles: int = 0
    issued: int = 0
    events: dict[str, int] = field(default_factory=dict)
    phases: dict[str, int] = field(default_factory=dict)
    by_instruction: dict[int, int] = field(default_factory=dict)


class _Control:
    """The part of the machinery that control instructions use."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.regs = [0] * machine.controller.registers
        self.stack: list[tuple[int, int]] = []
        self.phase = PHASES[0]
        self.pc = 0
        self.ends: dict[int, int] = {}
        self.halted = False

    def halt(self) -> None:
        self.halted = True

    def sync(self) -> None:
        pass

    def set_phase(self, phase: str) -> None:
        self.phase = phase

    def loop(self, count: int) -> None:
        if count <= 0:
            self.pc = self.ends[self.pc]
        else:
            self.stack.append((self.pc, count))

    def end_loop(self) -> None:
        start, left = self.stack.pop()
        if left > 1:
            self.stack.append((start, left - 1))
            self.pc = start


def estimate(program: Program, entry: str, params: Mapping[str, int] | None = None) -> Estimate:
    """Price ``entry`` with parameter registers set (``batch`` = samples, ...). Values loaded from memory count as 0."""
    code, machine = program.code, program.machine
    m, out = _Control(machine), Estimate()
    for name, value in (params or {}).items():
        if name in program.params:
            m.regs[program.params[name]] = value
    opened: list[int] = []
    for i, instr in enumerate(code):
        if instr.spec.mnemonic in ("loop", "loopi"):
            opened.append(i)
        elif instr.spec.mnemonic == "endl":
            m.ends[opened.pop()] = i
    resolved = [program.resolve(i) for i in code]
    rows_of = [i.spec.rows_field() for i in code]
    cache: dict[tuple[int, int, int], int] = {}
    counts: dict[tuple[int, int, int], int] = {}
    m.pc = program.entries[entry]
    while not m.halted and m.pc < len(code):
        i = m.pc
        o, spec, rows = resolved[i], code[i].spec, rows_of[i]
        phase = m.phase
        r0, r1 = NO_ROWS
        if isinstance(rows, RowsField):
            rr = getattr(o, rows.name)
            first = m.regs[rr.reg] + rr.offset
            r0, r1 = max(0, first), min(getattr(o, rows.of).height, first + rr.count)
        if spec.group == "control":
            spec.run(m, o, 0, 0)  # type: ignore[arg-type]
            m.regs[0] = 0
        key = (i, r0, r1)
        if key not in cache:
            cache[key] = machine.controller.issue_cycles if rows and r1 <= r0 else spec.cost(machine, o, r0, r1).cycles
        counts[key] = counts.get(key, 0) + 1
        out.phases[phase] = out.phases.get(phase, 0) + cache[key]
        out.issued += 1
        m.pc += 1
    for (i, r0, r1), n in counts.items():
        empty = rows_of[i] is not None and r1 <= r0
        out.cycles += n * cache[(i, r0, r1)]
        out.by_instruction[i] = out.by_instruction.get(i, 0) + n * cache[(i, r0, r1)]
        events = {"instructions": 1} if empty else code[i].spec.cost(machine, resolved[i], r0, r1).events
        for name, value in events.items():
            out.events[name] = out.events.get(name, 0) + n * value
    return out
