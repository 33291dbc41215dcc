"""What a run says about the use of word lines, and what a technology says about its cells: the inputs of :mod:`~sasimc.evaluation.life`."""

from __future__ import annotations

from collections.abc import Iterator

from sasimc.evaluation.device.switching import disturb, escape_rate

from sasimc.evaluation.cost import Cost
from sasimc.evaluation.life import Flips, Rows
from sasimc.evaluation.technologies.technology import Technology

__all__ = ["flips", "rows_of"]

LOSS_AT_RETENTION = 1e-6
"""Where a technology states its retention as a time only: the share of cells that have lost their value by then (assumption)."""


def flips(technology: Technology) -> Flips:
    """Rates at which cells turn round: by the device model where there is a stack, else from the stated retention."""
    if not technology.non_volatile:
        return Flips(0.0, 0.0, "powered: neither lost nor disturbed")
    if technology.stacks or technology.stacks_of:
        name, stack = technology.stack()
        low, high = technology.resistance_low, technology.resistance_high
        assert low is not None
        assert high is not None
        resistances = low.si, high.si
        rate = max(escape_rate(stack, resistances, side) for side in (1, -1))
        return Flips(rate, max(disturb(stack, resistances)), f"stack {name}: Fokker-Planck equation, the worse of both states")
    assert technology.retention is not None
    return Flips(
        LOSS_AT_RETENTION / technology.retention.si,
        0.0,
        f"a share of {LOSS_AT_RETENTION:g} lost after the stated retention of {technology.retention} (assumption); disturb not known",
    )


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
