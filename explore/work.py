"""What one run of an entry point costs by instruction: executions, cycles, energy. Sums over it are the totals of the estimate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sasimc.evaluation.cost import CostModel, Term
from sasimc.evaluation.run import Row, Run
from sasimc.evaluation.run_figures import one_bit_operations
from sasimc.explore.timeline import Timeline, timeline
from sasimc.isa.analysis.timing import UNITS
from sasimc.isa.program import Program
from sasimc.isa.spec import PHASES, MatField
from sasimc.profiling.buffer_use import live_bytes

__all__ = ["HALF", "Work", "entry_end", "matrix_of", "ones_of", "phases_of"]

HALF = 0.5
"""Share of the sensed cells that are 1, and met by a 1 of the input, while no run has said it; the peak is computed with the same."""


def matrix_of(program: Program, index: int) -> str:
    """The matrix that an instruction works on, or an empty string."""
    instr = program.code[index]
    return next((v for f, v in zip(instr.spec.fields, instr.operands, strict=True) if isinstance(f, MatField)), "")


def entry_end(program: Program, entry: str) -> int:
    """The last instruction of an entry point: its ``halt``, or the program's last."""
    first = program.entries[entry]
    return next((i for i in range(first, len(program.code)) if program.code[i].spec.flow == "halt"), len(program.code) - 1)


def phases_of(program: Program) -> dict[int, str]:
    """The phase of every instruction; every entry begins in the first."""
    begins, out, phase = set(program.entries.values()), dict[int, str](), PHASES[0]
    for i, instr in enumerate(program.code):
        phase = PHASES[0] if i in begins else phase
        phase = str(instr.operands[0]) if instr.spec.flow == "phase" else phase
        out[i] = phase
    return out


def ones_of(run: Run, weight_bits: int) -> float:
    """Share of the bit products of a run whose cell was sensed."""
    products = sum(one_bit_operations(row, weight_bits) for row in run.rows)
    return sum(row.events.get("sense_ones", 0) for row in run.rows) / products if products else HALF


@dataclass(frozen=True)
class Work:
    """One run of an entry: its ``timeline``, the energy ``terms`` of every instruction (events that depend on data are not in them, but for the
    sensed cells), bytes of the buffer in use at each instruction from ``first`` on."""

    timeline: Timeline
    terms: Mapping[int, list[Term]]
    times: Mapping[int, tuple[int, float]]
    first: int
    live: list[int]

    @staticmethod
    def of(program: Program, entry: str, params: Mapping[str, int], model: CostModel, ones: float) -> Work:
        """Follow and price ``entry``; ``ones``: share of bit products that sense a cell."""
        line, phases, bits = timeline(program, entry, params), phases_of(program), program.machine.array.weight_bits
        terms: dict[int, list[Term]] = {}
        times: dict[int, tuple[int, float]] = {}
        for index, (count, cycles, events) in line.instructions().items():
            instr = program.code[index]
            origin, spec = instr.origin.node, instr.spec
            row = Row(
                phases[index],
                origin,
                spec.unit,
                spec.mnemonic,
                matrix_of(program, index),
                entry,
                count,
                cycles=cycles,
                events=events,
            )
            sensed = round(ones * one_bit_operations(row, bits))
            priced = replace(row, events={**events, **({"sense_ones": sensed} if sensed else {})})
            terms[index], times[index] = model.terms([priced]), (count, cycles)
        first, last = program.entries[entry], entry_end(program, entry)
        return Work(line, terms, times, first, np.asarray(live_bytes(program, first, last)).tolist())

    @cached_property
    def joules(self) -> dict[int, float]:
        """Energy by instruction."""
        return {i: math.fsum(t.joules for t in found) for i, found in self.terms.items()}

    def sums(self, key: str) -> dict[str, float]:
        """Energy by ``component`` or by ``category``."""
        out: dict[str, list[float]] = {}
        for found in self.terms.values():
            for term in found:
                out.setdefault(getattr(term, key), []).append(term.joules)
        return {name: math.fsum(v) for name, v in out.items()}

    @cached_property
    def units(self) -> dict[int, list[int]]:
        """Busy cycles of every unit, by instruction."""
        out: dict[int, list[int]] = {}
        for number in self.timeline.kind:
            kind = self.timeline.kinds[number]
            total = out.setdefault(kind.index, [0] * len(UNITS))
            for u, n in enumerate(kind.busy):
                total[u] += n
        return out
