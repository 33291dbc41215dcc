"""What was executed, by phase: how often each instruction on which rows, overlapped regions, events that depend on data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sasimc.isa.analysis.timing import Limits, limited_cycles
from sasimc.isa.machine import Machine
from sasimc.isa.spec import PHASES

__all__ = ["MEASURED", "Counters", "Counts", "Executed", "PhaseCounter", "Region"]

MEASURED = (
    "sense_ones", "bits_flipped_compute", "bits_flipped_transposable",
    "rows_written_compute", "rows_written_transposable", "bits_written_compute", "bits_written_transposable", "saturated",
)  # fmt: skip
"""Events that depend on data (rows and bits written only where a declaration leaves them open); all others follow from the declarations."""

Executed = dict[tuple[int, int, int], int]


class Region:
    """An overlapped region: what it executed, how often it ran; ``shortened`` tells by how much skipped array cycles shorten it.

    ``skips``: array cycles that zero input bits saved, by instruction; ``gained``: by how many cycles they shortened the region. ``length``: cycles it
    takes once, kept when it is first asked for.
    """

    __slots__ = ("executed", "gained", "length", "shortened", "skips", "times")

    def __init__(self, executed: Executed) -> None:
        self.executed, self.times = executed, 0
        self.shortened: Callable[[int], int] | None = None
        self.skips: dict[int, int] = {}
        self.gained = 0
        self.length: int | None = None

    def copy(self) -> Region:
        """A copy; what it executed does not change any more and is shared."""
        out = Region(self.executed)
        out.times, out.shortened, out.skips, out.gained, out.length = (
            self.times, self.shortened, dict(self.skips), self.gained, self.length,
        )  # fmt: skip
        return out


class PhaseCounter:
    """What one phase executed: how often each (instruction, r0, r1), the events that depend on data by instruction (``measured``), the cycles
    zero input bits saved (``skipped``; ``skips`` by instruction outside of regions). ``price``, for an overlapped region, gives a function from
    skipped array cycles to the cycles the region gains."""

    __slots__ = ("_price", "_waiting", "executed", "measured", "outer", "regions", "skipped", "skips", "start")

    def __init__(self, price: Callable[[Executed], Callable[[int], int]]) -> None:
        self.executed: Executed = {}
        self.outer: Executed | None = None
        self.start = 0
        self.regions: dict[int, list[Region]] = {}
        self.skipped = 0
        self.skips: dict[int, int] = {}
        self._waiting: dict[int, int] = {}
        self._price = price
        self.measured: dict[str, dict[int, int]] = {event: {} for event in MEASURED}

    def copy(self) -> PhaseCounter:
        """A copy that counts on its own."""
        out = PhaseCounter(self._price)
        out.executed, out.outer = dict(self.executed), None if self.outer is None else dict(self.outer)
        out.start, out.skipped, out.skips, out._waiting = self.start, self.skipped, dict(self.skips), dict(self._waiting)
        out.regions = {start: [region.copy() for region in known] for start, known in self.regions.items()}
        out.measured = {event: dict(counts) for event, counts in self.measured.items()}
        return out

    def open_region(self, start: int) -> None:
        """What is executed from now on overlaps, until :meth:`close_region`."""
        self.close_region()
        self.outer, self.executed, self.start = self.executed, {}, start

    def close_region(self) -> None:
        """Book a region: equal ones (same start, same executions) are counted once with how often they ran."""
        if self.outer is None:
            return
        region, self.executed, self.outer = self.executed, self.outer, None
        found = self.region(self.start, region)
        found.times += 1
        if self._waiting:
            found.shortened = found.shortened or self._price(region)
            gained = found.shortened(sum(self._waiting.values()))
            found.gained += gained
            self.skipped += gained
            for index, cycles in self._waiting.items():
                found.skips[index] = found.skips.get(index, 0) + cycles
            self._waiting = {}

    def region(self, start: int, executed: Executed) -> Region:
        """The region that begins at ``start`` and executed this, new if there was none like it."""
        known = self.regions.setdefault(start, [])
        found = next((r for r in known if r.executed == executed), None)
        if found is None:
            found = Region(executed)
            known.append(found)
        return found

    def total(self) -> Executed:
        """Executions inside and outside of regions."""
        out = dict(self.executed)
        for region in (r for known in self.regions.values() for r in known):
            for key, times in region.executed.items():
                out[key] = out.get(key, 0) + times * region.times
        return out

    def plain(self) -> dict[str, Any]:
        """What was counted as lists, for :meth:`merge` in another process; no region may be open."""
        return {
            "executed": [[*key, n] for key, n in self.executed.items()],
            "regions": [
                [start, [[*key, n] for key, n in r.executed.items()], r.times, r.gained, list(r.skips.items())]
                for start, known in self.regions.items()
                for r in known
            ],
            "skipped": self.skipped,
            "skips": list(self.skips.items()),
            "measured": {event: list(counts.items()) for event, counts in self.measured.items()},
        }

    def merge(self, counted: Mapping[str, Any]) -> None:
        """Add what another phase counted (:meth:`plain`)."""
        for pc, r0, r1, n in counted["executed"]:
            self.executed[pc, r0, r1] = self.executed.get((pc, r0, r1), 0) + n
        for start, executed, times, gained, skips in counted["regions"]:
            region = self.region(start, {(pc, r0, r1): n for pc, r0, r1, n in executed})
            region.times += times
            region.gained += gained
            _add(region.skips, skips)
        self.skipped += counted["skipped"]
        _add(self.skips, counted["skips"])
        for event, counts in counted["measured"].items():
            _add(self.measured[event], counts)

    def skip(self, index: int, cycles: int) -> None:
        """Array cycles of instruction ``index`` that zero input bits saved (``bit_serial.zero_skip = "cycles"``); what a region gains of them is
        known at its end."""
        if self.outer is None:
            self.skipped += cycles
        skips = self.skips if self.outer is None else self._waiting
        skips[index] = skips.get(index, 0) + cycles


def _add(counts: dict[int, int], more: Iterable[tuple[int, int]]) -> None:
    for index, n in more:
        counts[index] = counts.get(index, 0) + n


Counts = tuple[Mapping[str, PhaseCounter], str]
"""The counters of all phases, and which one counts."""


class Counters:
    """The counters of all phases; ``phase`` is the one that counts now. ``limits``: what decides how long an overlapped region takes.

    What always counts the same may be counted later (:meth:`defer`): at the latest when somebody looks.
    """

    def __init__(self, machine: Machine, limits: Callable[[Executed], Limits]) -> None:
        self.machine, self.limits = machine, limits
        self._deferred: dict[Callable[[int], None], int] = {}
        self.reset()

    @property
    def phases(self) -> dict[str, PhaseCounter]:
        """The counters by phase."""
        self._count_deferred()
        return self._phases

    @property
    def phase(self) -> PhaseCounter:
        """The counter that counts now."""
        self._count_deferred()
        return self._phases[self._phase]

    def select(self, phase: str) -> None:
        """Count under this phase from now on."""
        self._phase = phase

    @property
    def selected(self) -> str:
        """The phase that counts now."""
        return self._phase

    @property
    def in_region(self) -> bool:
        """Whether an overlapped region is open."""
        return self._phases[self._phase].outer is not None

    @property
    def closed(self) -> bool:
        """Whether no phase has an open region; a run that trapped may have left one."""
        return all(phase.outer is None for phase in self._phases.values())

    def defer(self, book: Callable[[int], None]) -> None:
        """Call ``book`` with how often this was asked for, before anything else is counted or read. It must not depend on what has been counted."""
        self._deferred[book] = self._deferred.get(book, 0) + 1

    def _count_deferred(self) -> None:
        while self._deferred:
            book, times = self._deferred.popitem()
            book(times)

    def add(self, other: Counters, times: int) -> None:
        """Count what another one has, so often."""
        for name, phase in other.phases.items():
            own = self._phases[name]
            for key, n in phase.executed.items():
                own.executed[key] = own.executed.get(key, 0) + n * times
            for start, known in phase.regions.items():
                for region in known:
                    own.region(start, region.executed).times += region.times * times

    def plain(self) -> dict[str, Any]:
        """What was counted, by phase, as plain data."""
        return {name: phase.plain() for name, phase in self.phases.items()}

    def merge(self, counted: Mapping[str, Any]) -> None:
        """Add what the counters of another process counted (:meth:`plain`)."""
        for name, phase in counted.items():
            self.phases[name].merge(phase)

    def _price(self, region: Executed) -> Callable[[int], int]:
        """By how many cycles a region is shorter when so many cycles of its arrays are skipped."""
        machine, limits = self.machine, self.limits(region)
        return lambda skipped: limited_cycles(machine, limits) - limited_cycles(machine, limits, skipped)

    def reset(self) -> None:
        """Set all counters to zero and the phase to the first."""
        self._count_deferred()
        self._phases = {name: PhaseCounter(self._price) for name in PHASES}
        self._phase = PHASES[0]

    def copy(self) -> Counts:
        """What was counted so far, and the phase that counts."""
        return {name: phase.copy() for name, phase in self.phases.items()}, self._phase

    def set(self, counts: Counts) -> None:
        """Count on from a copy."""
        self._count_deferred()
        phases, self._phase = counts
        self._phases = {name: phase.copy() for name, phase in phases.items()}
