"""Cycles of an entry point without running it: registers and loops are executed, every other instruction is only priced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sasimc.isa.analysis.timing import UNITS, busy, limited_cycles, limits_of
from sasimc.isa.errors import SasError
from sasimc.isa.program import Program
from sasimc.isa.spec import Cost
from sasimc.isa.walk import EMPTY, Key, Walker

__all__ = ["Estimate", "cost_of_key", "estimate", "executed"]


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
    return _priced(program, *executed(program, entry, params, limit))


def executed(
    program: Program, entry: str, params: Mapping[str, int] | None = None, limit: int = 0
) -> tuple[list[Any], list[tuple[str, bool, dict[Key, int]]]]:
    """The operands of every instruction, and what ``entry`` executes: parts of one phase that overlap or not, each with its executions.

    Raises:
        SasError: as :func:`estimate`.
    """
    code = program.code
    resolved = [program.resolve(i) for i in code]
    walk = _Pricing(program, resolved)
    for name, value in (params or {}).items():
        if name in program.params:
            walk.regs[program.params[name]] = value
    walk.start(program.entries[entry])
    control = [i.spec.group == "control" for i in code]
    steps = 0
    while walk.running and walk.pc < len(code):
        steps += 1
        if limit and steps > limit:
            raise SasError(f"entry {entry} executes more than {limit} instructions")
        key = (walk.pc, *walk.rows(walk.pc))
        walk.counts[key] = walk.counts.get(key, 0) + 1
        if control[key[0]]:
            walk.execute(key[0])
        else:
            walk.pc += 1
    walk.region(False)
    return resolved, walk.parts


def _priced(program: Program, resolved: Sequence[Any], parts: Sequence[tuple[str, bool, dict[Key, int]]]) -> Estimate:
    """The estimate of parts, in the order of their execution."""
    code, machine, out = program.code, program.machine, Estimate()
    number: dict[Key, int] = {}
    counted = [(number.setdefault(key, len(number)), n) for _, _, counts in parts for key, n in counts.items()]
    if not counted:
        return out
    costs = [cost_of_key(program, resolved, key) for key in number]
    at, times = np.array(counted, np.int64).T
    starts = np.cumsum([0, *(len(counts) for _, _, counts in parts[:-1])])
    units = np.array([busy(machine, code[i].spec, cost) for (i, _, _), cost in zip(number, costs, strict=True)], np.int64)
    alone = np.array([cost.cycles for cost in costs], np.int64)[at] * times
    serial, spent = np.add.reduceat(alone, starts), np.add.reduceat(units[at] * times[:, None], starts)
    ratios = []
    for (phase, overlapped, counts), one, each in zip(parts, serial.tolist(), spent.tolist(), strict=True):
        cycles = limited_cycles(machine, limits_of(one, each)) if overlapped else one
        ratios += [cycles / one if one else 1.0] * len(counts)
        out.cycles += cycles
        out.phases[phase] = out.phases.get(phase, 0) + cycles
        in_phase = out.phase_units.setdefault(phase, dict.fromkeys(UNITS, 0))
        for u, more in zip(UNITS, each, strict=True):
            in_phase[u] += more
    nodes: dict[str, int] = {}
    owner = np.array([nodes.setdefault(code[i].origin.node, len(nodes)) for i, _, _ in number])
    total = np.bincount(at, times).astype(np.int64)
    by_node = np.zeros((len(nodes), len(UNITS)), np.int64)
    np.add.at(by_node, owner, units * total[:, None])
    out.node_units = {node: dict(zip(UNITS, row, strict=True)) for node, row in zip(nodes, by_node.tolist(), strict=True)}
    out.node_cycles = dict(zip(nodes, np.bincount(owner[at], alone * np.array(ratios)).tolist(), strict=True))
    for (i, _, _), cost, n in zip(number, costs, total.tolist(), strict=True):
        out.issued += n
        done, cycles = out.instructions.get(i, (0, 0))
        out.instructions[i] = done + n, cycles + n * cost.cycles
        bits = 1 if "column_activations" in cost.events else machine.array.weight_bits
        out.bit_products += n * cost.events.get("shift_adds", 0) * bits
        for name, value in cost.events.items():
            out.events[name] = out.events.get(name, 0) + n * value
    return out


def cost_of_key(program: Program, resolved: Sequence[Any], key: Key) -> Cost:
    """Cost of an execution."""
    i, r0, r1 = key
    if (r0, r1) == EMPTY:
        return Cost(program.machine.controller.issue_cycles, instructions=1)
    return program.code[i].spec.cost(program.machine, resolved[i], r0, r1)
