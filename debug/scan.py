"""What is met on the way through a run: breakpoints where they hold, and what instructions and the host did to watched places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.debug.expressions import Index, Name
from sasimc.debug.history import History
from sasimc.debug.places import Effects, Places
from sasimc.debug.stops import Breakpoint, Hit, Watchpoint
from sasimc.runtime.interpreter import Interpreter

__all__ = ["Event", "Extra", "Scan", "Wanted"]

Extra = Mapping[int, Callable[[], bool]]
"""Further instructions to stop before, and whether to, once there."""


@dataclass(frozen=True)
class Event:
    """What is met at an instant: breakpoints there, and what the instruction before it (or the host) did to watched places."""

    time: int
    points: tuple[Breakpoint, ...] = ()
    hits: tuple[Hit, ...] = ()
    extra: bool = False

    def backwards(self) -> Iterator[Event]:
        """The same where one stands for it going back: before the instruction that did it, and at the breakpoint."""
        if self.hits:
            yield Event(self.hits[0].time, hits=self.hits)
        if self.points or self.extra:
            yield Event(self.time, self.points, extra=self.extra)


@dataclass
class Wanted:
    """What is looked for on the way."""

    breakpoints: list[Breakpoint] = field(default_factory=list)
    watchpoints: list[Watchpoint] = field(default_factory=list)
    extra: Extra = field(default_factory=dict)


class Scan:
    """Runs a machine on, or replays it from a checkpoint, and says what is met.

    Args:
        it: the machine.
        history: its checkpoints; all running goes through it.
        places: the program's places.
        lookup: what a name in a condition holds now.
    """

    def __init__(self, it: Interpreter, history: History, places: Places, lookup: Callable[[Name | Index], Any]) -> None:
        self.it, self.history, self.places, self.lookup = it, history, places, lookup

    def events(self, wanted: Wanted, end: int) -> Iterator[Event]:
        """Run on, up to the instant ``end``, and say what is met on the way. The machine stands where the event is when it is said."""
        h, at = self.history, self.it.at
        halting = {pc for b in wanted.breakpoints for pc in b.pcs} | wanted.extra.keys()
        watched: dict[int, list[Watchpoint]] = {}
        for w in wanted.watchpoints:
            for pc in w.pcs:
                watched.setdefault(pc, []).append(w)
        stops = halting | watched.keys()
        opened = h.loops_around(stops)
        hosts = [w for w in wanted.watchpoints if w.place.memory in ("host", "reg", "cells")]
        h.look = lambda: [w.place.read(self.it) for w in hosts]
        try:
            while h.time < end and not h.ended and not h.interrupted:
                first, pc = h.time, at.pc
                looking = watched.get(pc, ())
                hits: list[Hit] = []
                if looking:
                    hits = self._watch(looking, pc)
                else:
                    h.advance(end - first, stops, opened)
                if h.trap is not None:
                    return
                if h.hosted is not None:
                    hits += self._by_host(hosts, *h.hosted)
                met, extra = ((), False) if h.ended else self.here(wanted)
                if hits or met or extra:
                    yield Event(h.time, met, tuple(hits), extra)
        finally:
            h.look = lambda: None

    def here(self, wanted: Wanted) -> tuple[tuple[Breakpoint, ...], bool]:
        """What holds before the next instruction."""
        pc = self.it.at.pc
        met = tuple(b for b in wanted.breakpoints if pc in b.pcs and self._met(b))
        return met, pc in wanted.extra and wanted.extra[pc]()

    def _met(self, b: Breakpoint) -> bool:
        h = self.history
        if b.step is not None and (h.current.step != b.step or h.time != h.starts[h.run]):
            return False
        return b.condition is None or b.condition.true(self.lookup)

    def _watch(self, looking: list[Watchpoint], pc: int) -> list[Hit]:
        """Execute one instruction and say what it did to what is watched."""
        h, it = self.history, self.it
        rows, regs, first = it.at.rows(pc), list(it.regs), h.time
        touched: list[tuple[Watchpoint, Effects, npt.NDArray[Any], Any]] = []
        for w in looking:
            found = self.places.effects(pc, *rows, regs, w.place)
            if found:
                touched.append((w, found, w.place.read(it), self.places.wear(it, w.place)))
        h.advance(1)
        if h.trap is not None or h.time == first:
            return []
        out: list[Hit] = []
        for w, found, before, wear in touched:
            # `hosted`: the host may have written behind the last instruction; then what it wrote is compared apart
            after = w.place.read(it) if h.hosted is None or not found.write else before
            changed = not np.array_equal(before, after)
            wrote = changed or (found.write and wear != self.places.wear(it, w.place))
            wanted = {"change": changed, "write": wrote, "read": found.read, "access": found.read or wrote}[w.when]
            if wanted and (w.condition is None or w.condition.true(self.lookup)):
                out.append(Hit(w.place, pc, first, found.read, wrote, before, after, w))
        return out

    def _by_host(self, hosts: list[Watchpoint], seen: Any, now: Any) -> list[Hit]:
        out: list[Hit] = []
        for w, before, after in zip(hosts, seen or (), now or (), strict=False):
            changed = not np.array_equal(before, after)
            if changed and w.when != "read" and (w.condition is None or w.condition.true(self.lookup)):
                out.append(Hit(w.place, -1, self.history.time, False, True, before, after, w))
        return out

    def last(self, wanted: Wanted, before: int, floor: int = 0) -> Event | None:
        """The last event before an instant and not before ``floor``, as seen going back; the machine then stands anywhere."""
        h, end = self.history, before
        while end > floor and not h.interrupted:
            start = h.checkpoints.before(end - 1).time
            h.seek(start)
            found = [Event(0, *self.here(wanted)[:1], extra=self.here(wanted)[1])] if start == 0 else []
            for event in self.events(wanted, end):
                found = [*found, *event.backwards()]
                latest = max((e.time for e in found if e.time < before), default=-1)
                found = [e for e in found if e.time == latest]
            found = [e for e in found if e.points or e.hits or e.extra]
            if found:
                points, hits = tuple(p for e in found for p in e.points), tuple(x for e in found for x in e.hits)
                return Event(found[0].time, points, hits, any(e.extra for e in found)) if found[0].time >= floor else None
            end = start
        return None
