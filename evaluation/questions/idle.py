"""Normally off: from which idle time on a memory that keeps its contents without power costs less than one that leaks or has to be loaded again.

A burst of work is followed by an idle time t. All but the memory is off in it:

- *off*: a non-volatile memory. E(t) = burst + waking.
- *retained*: a volatile memory that stays powered. E(t) = burst + waking + leakage of its cells x t.
- *reloaded*: a volatile memory that is switched off and written anew from the host. E(t) = burst + waking + bits x (host interface + write).

The cells are those of the sub-arrays that the program uses; the others are never powered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sasimc.evaluation.cost import Cost
from sasimc.evaluation.quantity import format_si
from sasimc.evaluation.supply.supply import Supply
from sasimc.evaluation.table import Table

__all__ = ["Idling", "Way", "idle_table", "ways"]

TIMES: Final = {
    "1 ms": 1e-3, "10 ms": 1e-2, "100 ms": 0.1, "1 s": 1.0, "10 s": 10.0, "1 min": 60.0, "1 h": 3600.0, "1 day": 86400.0
}  # fmt: skip
"""Idle times of the table, in seconds."""


@dataclass(frozen=True)
class Way:
    """A technology and what becomes of its contents: joules of a burst with waking (and loading), watts while idle."""

    technology: str
    how: str
    burst: float
    idle: float

    @property
    def name(self) -> str:
        """For headings."""
        return f"{self.technology}, {self.how}"

    def joules(self, idle_s: float) -> float:
        """Of a burst and the idle time after it."""
        return self.burst + self.idle * idle_s

    def breaks_even(self, other: Way) -> float | None:
        """Idle seconds from which on this costs no more than ``other``; 0: always, None: never."""
        if self.burst <= other.burst:
            return 0.0 if self.idle <= other.idle else None
        return (self.burst - other.burst) / (other.idle - self.idle) if other.idle > self.idle else None


@dataclass(frozen=True)
class Idling:
    """Ways of one kind of burst (an image, a training step); the first is the one that is asked about."""

    what: str
    count: int
    ways: tuple[Way, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        first = self.ways[0]
        return {
            "burst": self.what, "bursts": self.count,
            "ways": [{**vars(w), "break_even_s": first.breaks_even(w) if w is not first else None} for w in self.ways],
        }  # fmt: skip


def _used_bits(cost: Cost) -> int:
    machine, layout = cost.model.machine, cost.run.report.get("layout", {}).get("subarrays", ())
    return len({s["index"] for s in layout}) * machine.array.rows * machine.array.bit_columns or machine.capacity_bits


def ways(cost: Cost, supply: Supply, count: int) -> list[Way]:
    """What can be done with this technology between ``count`` bursts of a run."""
    model, bits = cost.model, _used_bits(cost)
    memory, wake = model.technology, supply.wake_energy.si
    burst = cost.energy / count + wake
    if memory.non_volatile:
        return [Way(memory.name, "off", burst, 0.0)]
    rows: Mapping[str, int] = {
        "host_bits_in": bits, "bits_written_compute": bits, "rows_written_compute": bits // model.machine.array.bit_columns
    }  # fmt: skip
    return [
        Way(memory.name, "retained", burst, memory.leakage.si * bits),
        Way(memory.name, "reloaded", burst + model.energy(rows, 0.0), 0.0),
    ]


def idle_table(idling: Idling) -> Table:
    """Joules of a burst and the idle time after it; the last row says from which idle time on the first way is the cheapest."""
    first, others = idling.ways[0], idling.ways[1:]
    rows = [(name, *(format_si(w.joules(t), "J") for w in idling.ways)) for name, t in TIMES.items()]
    even = [first.breaks_even(w) for w in others]
    said = ["never" if t is None else "always" if t == 0 else f"from {format_si(t, 's')}" for t in even]
    rows.append((f"{first.technology} is cheaper", "", *said))
    return Table(f"a burst ({idling.what}) and the idle time after it", ("idle", *(w.name for w in idling.ways)), rows)
