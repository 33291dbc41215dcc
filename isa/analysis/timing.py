"""Which unit an instruction keeps busy, and how long a region takes in which units work concurrently (``ovl`` ... ``sync``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from sasimc.isa.machine import Machine
from sasimc.isa.spec import Cost, Instruction

__all__ = ["UNITS", "Busy", "Limits", "busy", "limited_cycles", "limits_of", "region_cycles", "region_limits"]

UNITS: Final = ("control", "array", "adder_tree", "periphery", "buffer", "host")

_NUMBER: Final = {unit: i for i, unit in enumerate(UNITS)}

Busy = tuple[int, ...]
Limits = tuple[int, int, int]
"""Cycles of a region: one instruction after the other; of the arrays; of the busiest other unit."""


def busy(machine: Machine, spec: type[Instruction], cost: Cost) -> Busy:
    """Cycles of each unit for one execution: issue, the instruction's own unit, partial sums, buffer traffic."""
    issue = min(cost.cycles, machine.controller.issue_cycles)
    bits = cost.events.get("buffer_bits_read", 0) + cost.events.get("buffer_bits_written", 0)
    buffer = -(-bits // (8 * machine.buffer.bytes_per_cycle))
    adder_tree = -(-cost.events.get("adder_tree_ops", 0) // machine.adder_tree.units)
    out = [issue, 0, adder_tree, 0, buffer, 0]
    own = _NUMBER[spec.unit]
    out[own] = max(out[own], cost.cycles - issue)
    return tuple(out)


def limits_of(serial: int, spent: Sequence[int]) -> Limits:
    """What decides how long a region takes (:func:`limited_cycles`), from its cycles one after the other and those of each unit."""
    array = _NUMBER["array"]
    return serial, spent[array], max(*spent[:array], *spent[array + 1 :])


def region_limits(machine: Machine, work: Iterable[tuple[type[Instruction], Cost, int]]) -> Limits:
    """:func:`limits_of` over (declaration, cost, executions)."""
    serial, total = 0, [0] * len(UNITS)
    for spec, cost, times in work:
        serial += cost.cycles * times
        for u, cycles in enumerate(busy(machine, spec, cost)):
            total[u] += cycles * times
    return limits_of(serial, total)


def limited_cycles(machine: Machine, limits: Limits, skipped: int = 0) -> int:
    """Cycles of an overlapped region: the busiest unit, never more than one instruction after the other.

    ``skipped``: array cycles that zero input bits saved (``bit_serial.zero_skip = "cycles"``). The field ``controller.overlap`` = false makes a
    region as long as its instructions one after the other. Filling and emptying the pipeline at the region's ends is not counted;
    :mod:`~sasimc.isa.analysis.pipeline` bounds it.
    """
    serial, array, rest = limits
    if not machine.controller.overlap:
        return serial - skipped
    return min(serial - skipped, max(array - skipped, rest))


def region_cycles(machine: Machine, work: Iterable[tuple[type[Instruction], Cost, int]]) -> int:
    """:func:`limited_cycles` of (declaration, cost, executions), nothing skipped."""
    return limited_cycles(machine, region_limits(machine, work))
