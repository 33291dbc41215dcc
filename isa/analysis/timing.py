"""Which unit an instruction keeps busy, and how long a region takes in which units work concurrently (``ovl`` ... ``sync``)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sasimc.isa.machine import Machine
from sasimc.isa.spec import Cost, Instruction

__all__ = ["UNITS", "Busy", "Limits", "busy", "limited_cycles", "region_busy", "region_cycles", "region_limits"]

UNITS: Final = ("control", "array", "adder_tree", "periphery", "buffer", "host")

Busy = tuple[int, ...]
Limits = tuple[int, int, int]
"""Cycles of a region: one instruction after the other; of the arrays; of the busiest other unit."""


def busy(machine: Machine, spec: type[Instruction], cost: Cost) -> Busy:
    """Cycles of each unit for one execution: issue, the instruction's own unit, partial sums, buffer traffic."""
    out: dict[str, int] = dict.fromkeys(UNITS, 0)
    issue = min(cost.cycles, machine.controller.issue_cycles)
    out["control"] = issue
    bits = cost.events.get("buffer_bits_read", 0) + cost.events.get("buffer_bits_written", 0)
    out["buffer"] = -(-bits // (8 * machine.buffer.bytes_per_cycle))
    out["adder_tree"] = -(-cost.events.get("adder_tree_ops", 0) // machine.adder_tree.units)
    out[spec.unit] = max(out[spec.unit], cost.cycles - issue)
    return tuple(out[u] for u in UNITS)


def region_busy(machine: Machine, work: Iterable[tuple[type[Instruction], Cost, int]]) -> Busy:
    """Cycles of each unit over (declaration, cost, executions)."""
    total = [0] * len(UNITS)
    for spec, cost, times in work:
        for u, cycles in enumerate(busy(machine, spec, cost)):
            total[u] += cycles * times
    return tuple(total)


def region_limits(machine: Machine, work: Iterable[tuple[type[Instruction], Cost, int]]) -> Limits:
    """What decides how long a region takes (:func:`limited_cycles`)."""
    items = list(work)
    total = dict(zip(UNITS, region_busy(machine, items), strict=True))
    array = total.pop("array")
    return sum(cost.cycles * times for _, cost, times in items), array, max(total.values())


def limited_cycles(machine: Machine, limits: Limits, skipped: int = 0) -> int:
    """Cycles of an overlapped region: the busiest unit, never more than one instruction after the other.

    ``skipped``: array cycles that zero input bits saved (``bit_serial.zero_skip = "cycles"``). The field ``controller.overlap`` = false makes a
    region as long as its instructions one after the other. Filling and emptying the pipeline at the region's ends is not counted.
    """
    serial, array, rest = limits
    if not machine.controller.overlap:
        return serial - skipped
    return min(serial - skipped, max(array - skipped, rest))


def region_cycles(machine: Machine, work: Iterable[tuple[type[Instruction], Cost, int]]) -> int:
    """:func:`limited_cycles` of (declaration, cost, executions), nothing skipped."""
    return limited_cycles(machine, region_limits(machine, work))
