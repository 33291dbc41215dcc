"""Cycles of an entry point without running it: registers and loops are executed, every other instruction is only priced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sasimc.isa.analysis.timing import UNITS, busy, region_cycles
from sasimc.isa.errors import SasError
from sasimc.isa.program import Program
from sasimc.isa.spec import Cost
from sasimc.isa.walk import EMPTY, Key, Walker

__all__ = ["Estimate", "estimate"]


@dataclass
class Estimate:
    """``cycles`` of the entry; instructions issued; events that do not depend on data; cycles by phase; busy cycles of every unit by phase
    and by ONNX node (not shortened by overlap); cycles by node, overlap included (a region belongs to its nodes in proportion); executions and
    cycles (not shortened by overlap) by index of the instruction; products of an input bit and a stored bit (of those that are 1, cells are sensed)."""

    cycles: int = 0
    issued: int = 0
    events: dict[str, int] = field(default_factory=dict)
    phases: dict[str, int] = field(default_factory=dict)
    phase_units: dict[str, dict[str, int]] = field(default_factory=dict)
    node_units: dict[str, dict[str, int]] = field(default_factory=dict)
    node_cycles: dict[str, float] = field(default_factory=dict)
    instructions: dict[int, tuple[int, int]] = field(default_factory=dict)
    bit_products: int = 0


class _Pricing(Walker):
    """Follows an entry and counts what would be executed, in parts of one phase that overlap or not."""

    def __init__(self, program: Program, operands: Sequence[Any]) -> None:
        super().__init__(program, operands)
        self.counts: dict[Key, int] = {}
        self.parts: list[tuple[str, bool, dict[Key, int]]] = []
        self._overlapped = False

    def region(self, begin: bool) -> None:
        if self.counts:
            self.parts.append((self.phase, self._overlapped, self.counts))
        self.counts, self._overlapped = {}, begin


def estimate(program: Program, entry: str, params: Mapping[str, int] | None = None, limit: int = 0) -> Estimate:
    """Price ``entry`` with parameter registers set (``batch`` = samples, ...). Values loaded from memory count as 0.

    Raises:
        SasError: more than ``limit`` instructions are executed (0: no limit).
    """
    code, machine = program.code, program.machine
    resolved = [program.resolve(i) for i in code]
    walk = _Pricing(program, resolved)
    for name, value in (params or {}).items():
        if name in program.params:
            walk.regs[program.params[name]] = value
    walk.start(program.entries[entry])
    steps = 0
    while walk.running and walk.pc < len(code):
        steps += 1
        if limit and steps > limit:
            raise SasError(f"entry {entry} executes more than {limit} instructions")
        key = (walk.pc, *walk.rows(walk.pc))
        walk.counts[key] = walk.counts.get(key, 0) + 1
        if code[key[0]].spec.group == "control":
            walk.execute(key[0])
        else:
            walk.pc += 1
    walk.region(False)
    costs: dict[Key, Cost] = {}

    def cost(key: Key) -> Cost:
        if key not in costs:
            i, r0, r1 = key
            empty = (r0, r1) == EMPTY
            costs[key] = (
                Cost(machine.controller.issue_cycles, instructions=1)
                if empty
                else code[i].spec.cost(machine, resolved[i], r0, r1)
            )
        return costs[key]

    out, weight_bits = Estimate(), machine.array.weight_bits
    for phase, overlapped, counts in walk.parts:
        serial = sum(cost(k).cycles * n for k, n in counts.items())
        cycles = region_cycles(machine, ((code[k[0]].spec, cost(k), n) for k, n in counts.items())) if overlapped else serial
        out.cycles += cycles
        out.phases[phase] = out.phases.get(phase, 0) + cycles
        in_phase = out.phase_units.setdefault(phase, dict.fromkeys(UNITS, 0))
        for k, n in counts.items():
            c, node = cost(k), code[k[0]].origin.node
            out.issued += n
            times, spent = out.instructions.get(k[0], (0, 0))
            out.instructions[k[0]] = times + n, spent + n * c.cycles
            out.node_cycles[node] = out.node_cycles.get(node, 0.0) + n * c.cycles * (cycles / serial if serial else 1)
            out.bit_products += n * c.events.get("shift_adds", 0) * (1 if "column_activations" in c.events else weight_bits)
            units = out.node_units.setdefault(node, dict.fromkeys(UNITS, 0))
            for u, b in zip(UNITS, busy(machine, code[k[0]].spec, c), strict=True):
                units[u] += n * b
                in_phase[u] += n * b
            for name, value in c.events.items():
                out.events[name] = out.events.get(name, 0) + n * value
    return out
