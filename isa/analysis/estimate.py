"""Cycles of an entry point without running it: registers and loops are executed, every other instruction is only priced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sasimc.isa.analysis.timing import UNITS, busy, region_cycles
from sasimc.isa.machine import Machine
from sasimc.isa.program import Program
from sasimc.isa.spec import NO_ROWS, PHASES, Cost, RowsField

__all__ = ["Estimate", "estimate"]

Key = tuple[int, int, int]


@dataclass
class Estimate:
    """``cycles`` of the entry; instructions issued; events that do not depend on data; cycles by phase; busy cycles of every unit by phase
    and by ONNX node (not shortened by overlap); cycles by node, overlap included (a region belongs to its nodes in proportion)."""

    cycles: int = 0
    issued: int = 0
    events: dict[str, int] = field(default_factory=dict)
    phases: dict[str, int] = field(default_factory=dict)
    phase_units: dict[str, dict[str, int]] = field(default_factory=dict)
    node_units: dict[str, dict[str, int]] = field(default_factory=dict)
    node_cycles: dict[str, float] = field(default_factory=dict)


class _Control:
    """The part of the machinery that control instructions use, and the counts of what was executed."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.regs = [0] * machine.controller.registers
        self.stack: list[tuple[int, int]] = []
        self.phase = PHASES[0]
        self.pc = 0
        self.ends: dict[int, int] = {}
        self.halted = False
        self.counts: dict[Key, int] = {}
        self.parts: list[tuple[str, bool, dict[Key, int]]] = []
        self._overlapped = False

    def _close(self, overlapped: bool) -> None:
        if self.counts:
            self.parts.append((self.phase, self._overlapped, self.counts))
        self.counts, self._overlapped = {}, overlapped

    def halt(self) -> None:
        self.halted = True
        self._close(False)

    def sync(self) -> None:
        self._close(False)

    def overlap(self) -> None:
        self._close(True)

    def set_phase(self, phase: str) -> None:
        self._close(False)
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
    m = _Control(machine)
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
    m.pc = program.entries[entry]
    while not m.halted and m.pc < len(code):
        i = m.pc
        o, spec, rows = resolved[i], code[i].spec, rows_of[i]
        r0, r1 = NO_ROWS
        if isinstance(rows, RowsField):
            rr = getattr(o, rows.name)
            first = m.regs[rr.reg] + rr.offset
            r0, r1 = max(0, first), min(getattr(o, rows.of).height, first + rr.count)
        key = (i, r0, r1)
        m.counts[key] = m.counts.get(key, 0) + 1
        if spec.group == "control":
            spec.run(m, o, 0, 0)  # type: ignore[arg-type]
            m.regs[0] = 0
        m.pc += 1
    m.sync()
    costs: dict[Key, Cost] = {}

    def cost(key: Key) -> Cost:
        if key not in costs:
            i, r0, r1 = key
            empty = rows_of[i] is not None and r1 <= r0
            costs[key] = (
                Cost(machine.controller.issue_cycles, instructions=1)
                if empty
                else code[i].spec.cost(machine, resolved[i], r0, r1)
            )
        return costs[key]

    out = Estimate()
    for phase, overlapped, counts in m.parts:
        serial = sum(cost(k).cycles * n for k, n in counts.items())
        cycles = region_cycles(machine, ((code[k[0]].spec, cost(k), n) for k, n in counts.items())) if overlapped else serial
        out.cycles += cycles
        out.phases[phase] = out.phases.get(phase, 0) + cycles
        in_phase = out.phase_units.setdefault(phase, dict.fromkeys(UNITS, 0))
        for k, n in counts.items():
            c, node = cost(k), code[k[0]].origin.node
            out.issued += n
            out.node_cycles[node] = out.node_cycles.get(node, 0.0) + n * c.cycles * (cycles / serial if serial else 1)
            units = out.node_units.setdefault(node, dict.fromkeys(UNITS, 0))
            for u, b in zip(UNITS, busy(machine, code[k[0]].spec, c), strict=True):
                units[u] += n * b
                in_phase[u] += n * b
            for name, value in c.events.items():
                out.events[name] = out.events.get(name, 0) + n * value
    return out
