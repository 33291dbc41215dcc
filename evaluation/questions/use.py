"""What a run says about the use of word lines, and what a technology says about its cells: the inputs of :mod:`~sasimc.evaluation.questions.life`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final

import numpy as np

from sasimc.evaluation.cost import Cost
from sasimc.evaluation.device.macro import deviating
from sasimc.evaluation.device.stack import Stack
from sasimc.evaluation.device.switching import disturb, escape_rate
from sasimc.evaluation.questions.life import Flips, Rows
from sasimc.evaluation.technologies.technology import Technology

__all__ = ["flips", "rows_of"]

LOSS_AT_RETENTION: Final = 1e-6
"""Where a technology states its retention as a time only: the share of cells that have lost their value by then (assumption)."""
_DEVIATIONS: Final = ("anisotropy", "thickness", "diameter")
"""What decides the barrier of a cell."""
_NODES: Final = np.linspace(-6, 6, 49)
"""Cells, in standard deviations along the direction in which the barrier falls fastest."""
_READ_AT: Final = slice(0, None, 8)
"""Nodes at which the disturb is computed; between them its logarithm is a straight line."""
_AT_ONCE: Final = 1e9
"""1/s: a cell whose layer is not stable turns round in a nanosecond."""


def flips(technology: Technology, *, variation: bool = True) -> Flips:
    """Rates at which cells turn round: by the device model where there is a stack, else from the stated retention. ``variation``: cells differ as the stack
    says (page 'The junction'); without it all are the nominal one."""
    if not technology.non_volatile:
        return Flips((1.0,), (0.0,), (0.0,), "powered: neither lost nor disturbed")
    if technology.stacks or technology.stacks_of:
        name, stack = technology.stack()
        cells = _cells(stack, technology.resistances, variation)  # pyright: ignore[reportArgumentType]  (frozen: hashable)
        return Flips(
            *cells, f"stack {name}, Fokker-Planck equation, the worse of both states{'' if variation else ', nominal cells'}"
        )
    assert technology.retention is not None
    source = f"a share of {LOSS_AT_RETENTION:g} is lost after the stated retention of {technology.retention} (assumption); disturb not known"
    return Flips((1.0,), (LOSS_AT_RETENTION / technology.retention.si,), (0.0,), source)


@lru_cache
def _cells(
    stack: Stack, resistances: tuple[float, float], variation: bool
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Shares, rates and disturbs of cells. ln rate is nearly linear in small independent deviations, so that only the deviation along its gradient matters."""

    def rate(deviation: Mapping[str, float]) -> float:
        cell, both, _ = deviating(stack, resistances, deviation)
        return min(_AT_ONCE, max(escape_rate(cell, both, side) for side in (1, -1))) if cell.easy_field > 0 else _AT_ONCE

    def read(deviation: Mapping[str, float]) -> float:
        cell, both, _ = deviating(stack, resistances, deviation)
        return max(disturb(cell, both)) if cell.easy_field > 0 else 0.5

    if not variation:
        return (1.0,), (rate({}),), (read({}),)
    spread = {name: getattr(stack.variation, name).si for name in _DEVIATIONS}
    slope = {n: math.log(rate({n: -s / 2}) / rate({n: s / 2})) for n, s in spread.items()}
    steepest = math.hypot(*slope.values()) or 1.0
    cells = [{n: -x * spread[n] * slope[n] / steepest for n in spread} for x in _NODES]
    share = np.exp(-(_NODES**2) / 2)
    rates = [rate(cell) for cell in cells]
    known = [math.log(max(read(cell), 1e-300)) for cell in cells[_READ_AT]]
    reads = np.minimum(np.exp(np.interp(_NODES, _NODES[_READ_AT], known)), 0.5)
    return tuple((share / share.sum()).tolist()), tuple(rates), tuple(reads.tolist())


def rows_of(cost: Cost, level: bool = False) -> list[Rows]:
    """The use of the word lines in a run. ``level``: the writes of all scratch rows are shared out among them.

    A word line that is driven reads its cells once for every input bit that is 1. Driven bit columns (transposed products) are counted as word lines, which is
    more than they disturb.
    """
    machine, report = cost.model.machine, cost.run.report
    height, bits = machine.array.rows, machine.array.bit_columns
    worn = {index: (worst, total) for index, worst, total in report.get("wear", {}).get("by_subarray", ())}
    layout = report.get("layout", {})
    scratch = {t[0] for m in layout.get("matrices", ()) if m["kind"] == "scratch" for t in m["tiles"]}
    driven = {s["index"]: float(s["activations"]) for s in layout.get("subarrays", ())}
    sensed = sum(row.events.get("sense_ones", 0) for row in cost.run.rows)
    ones = sensed / max(1.0, sum(driven.values()) * bits)

    def rows() -> Iterator[Rows]:
        pool = scratch & worn.keys() if level else set[int]()
        even = sum(worn[i][1] for i in pool) / max(1, len(pool) * height)
        for index, activations in driven.items():
            reads = activations / height * ones
            worst, total = worn.get(index, (0, 0))
            if index in pool:
                yield Rows(height, bits, even, reads)
            else:
                yield Rows(1, bits, worst, reads)
                yield Rows(height - 1, bits, (total - worst) / max(1, height - 1), reads)

    return list(rows())
