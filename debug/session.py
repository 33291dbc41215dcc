"""A debugging session: runs on a machine that is executed in both directions, with breakpoints and watchpoints. The library under every face.

session = Session(program, entries("infer"))
session.add_breakpoint("features.1.conv.1", condition="max(acc) > 2**20")
stop = session.resume()
session.value("features.1.conv.1.q_0[0, 0, 0]")
session.resume(backwards=True)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sasimc.debug.breakpoints import locate
from sasimc.debug.expressions import Index, Name, parse, whole_number
from sasimc.debug.history import ENDLESS, History, Run
from sasimc.debug.places import Place, Places
from sasimc.debug.scan import Extra, Scan, Wanted
from sasimc.debug.stops import Breakpoint, Hit, Position, Stop, Watchpoint
from sasimc.isa.errors import SasError, near
from sasimc.isa.program import Program
from sasimc.isa.spec import EVENTS
from sasimc.runtime.device import Device
from sasimc.runtime.interpreter import Interpreter

__all__ = ["HISTORY_BYTES", "Session"]

HISTORY_BYTES: Final = 256 << 20
"""What checkpoints may take."""
_WHENS: Final = ("change", "write", "read", "access")

Price = Callable[[Mapping[str, int], float], float]


class Session:
    """A machine, what it is to do, and where it stands.

    Args:
        machine: a :class:`Device`, an :class:`Interpreter`, or a program; its state now is the beginning.
        runs: the run of a number, from 0; None behind the last (:mod:`sasimc.debug.runs`).
        engine, threads: of a machine that is made here.
        history: bytes that checkpoints may take.
        price: joules of events and cycles (:func:`sasimc.costs.joules_of`), for energies.

    The machine always stands between two instructions, or at the end. ``history.time`` is the number of instructions executed.
    """

    def __init__(
        self, machine: Device | Interpreter | Program, runs: Callable[[int], Run | None], *, engine: str = "bitserial",
        threads: int | None = None, history: int = HISTORY_BYTES, price: Price | None = None,
    ) -> None:  # fmt: skip
        if isinstance(machine, Program):
            machine = Interpreter(machine, engine, threads)
        self.it = machine.interpreter if isinstance(machine, Device) else machine
        self.program, self.price = self.it.program, price
        self.places = Places(self.program)
        self.points: dict[int, Breakpoint | Watchpoint] = {}
        self._number = 0
        self._fresh = True
        self.it.reset_counters()
        self.history = History(self.it, runs, history)
        self.scan = Scan(self.it, self.history, self.places, self.lookup)

    # ------------------------------------------------------------------------------------------------------------- where

    @property
    def pc(self) -> int | None:
        """The next instruction; None at the end."""
        return None if self.history.ended else self.it.at.pc

    @property
    def position(self) -> Position:
        """Where time stands."""
        h, run = self.history, self.history.current
        return Position(h.time, h.run, run.title, run.step, self.pc, self.it.at.phase, self.it.cycles)

    # ------------------------------------------------------------------------------------------------------- expressions

    def lookup(self, node: Name | Index) -> Any:
        """What a name in an expression holds now."""
        name = node.of.text if isinstance(node, Index) else node.text
        p = self.program
        if name not in p.views and name not in p.matrices and self.places.register(name) is None and isinstance(node, Name):
            counted = self._counter(name)
            if counted is not None:
                return counted
        place = self.places.of(node, self.lookup)
        found = place.read(self.it)
        return int(found) if found.ndim == 0 else found

    def _counter(self, name: str) -> int | float | None:
        h = self.history
        if name in EVENTS:
            return self.it.events[name]
        if name == "cycles":
            return self.it.cycles
        if name == "energy":
            return self.energy
        simple = {
            "time": h.time,
            "run": h.run,
            "step": h.current.step,
            "pc": -1 if self.pc is None else self.pc,
            "depth": len(self.it.at.stack),
        }
        found = simple.get(name)
        if found is None and not self.places.known(name):
            raise SasError(
                f"there is no register, view, matrix, memory or counter {name!r}",
                hint=near(name, (*self.places.names, *simple, "cycles", "energy", *EVENTS))
                or "cycles, time, run, step, pc, depth, energy, events",
            )
        return found

    @property
    def energy(self) -> float:
        """Joules so far.

        Raises:
            SasError: the session has no prices.
        """
        if self.price is None:
            raise SasError("this session has no prices", hint="Session(..., price=sasimc.costs.joules_of(program, prices))")
        return self.price(self.it.events, self.it.cycles)

    def value(self, text: str) -> Any:
        """What an expression is now: a number or an array."""
        return parse(text).value(self.lookup)

    def number(self, text: str) -> int:
        """What an expression is now, a whole number. Raises SasError where it is none."""
        return whole_number(self.value(text), text)

    def place(self, text: str) -> Place:
        """The place that a text stands for."""
        return self.places.place(text, self.lookup)

    def set(self, text: str, value: npt.ArrayLike) -> None:
        """Change a place here and now. It belongs to the history: who comes by again finds it changed; what came after is forgotten.

        Raises:
            SasError: no such place, or it cannot hold this.
        """
        place, values = self.place(text), np.array(value)
        place.check(values)
        self.history.change(lambda it: place.write(it, values))

    # -------------------------------------------------------------------------------------------------------------- points

    def add_breakpoint(self, text: str, condition: str = "", *, temporary: bool = False) -> Breakpoint:
        """Stop before instructions: ``LINE``, ``FILE:LINE``, ``*INDEX``, an entry, an ONNX node, ``phase NAME``, ``step N``.

        Raises:
            SasError: nothing there; a condition that is none.
        """
        pcs, step = locate(self.program, text)
        parsed = parse(condition) if condition else None
        if parsed is not None:
            parsed.value(self.lookup)
        self._number += 1
        made = Breakpoint(self._number, text, pcs, parsed, temporary, step=step)
        self.points[made.number] = made
        return made

    def add_watchpoint(self, text: str, when: str = "change", condition: str = "", *, temporary: bool = False) -> Watchpoint:
        """Stop when a place is changed, written (also with what it holds), read or accessed.

        Raises:
            SasError: no such place.
        """
        if when not in _WHENS:
            raise SasError(f"there is no watching for {when!r}", hint=near(when, _WHENS) or ", ".join(_WHENS))
        place = self.place(text)
        parsed = parse(condition) if condition else None
        if parsed is not None:
            parsed.value(self.lookup)
        self._number += 1
        made = Watchpoint(self._number, text, self.places.candidates(place), parsed, temporary, place=place, when=when)
        self.points[made.number] = made
        return made

    def point(self, number: int) -> Breakpoint | Watchpoint:
        """A breakpoint or watchpoint by its number. Raises SasError when there is none."""
        if number not in self.points:
            known = ", ".join(map(str, self.points)) or "none"
            raise SasError(f"there is no breakpoint or watchpoint {number}", hint=f"there is: {known}")
        return self.points[number]

    def delete(self, number: int) -> None:
        """Forget a breakpoint or watchpoint."""
        self.point(number)
        del self.points[number]

    # ------------------------------------------------------------------------------------------------------------ scanning

    def _wanted(self, extra: Extra | None = None, backwards: bool = False) -> Wanted:
        """What stops; going back, nothing does that is still to be passed."""
        points = [p for p in self.points.values() if p.enabled and not (backwards and p.ignore)]
        return Wanted(
            [p for p in points if isinstance(p, Breakpoint)], [p for p in points if isinstance(p, Watchpoint)], extra or {}
        )

    def _forward(self, end: int, extra: Extra | None = None, then: str = "step") -> Stop:
        """Run up to an instant; ``then``: the reason when nothing stopped it there."""
        wanted, h = self._wanted(extra), self.history
        h.interrupted = False
        if self._fresh and not h.time and then == "end" and (told := self._count(*self.scan.here(wanted)[:1], ())):
            self._fresh = False
            return self._stopped(*told)
        self._fresh = False
        for event in self.scan.events(wanted, end):
            told = self._count(event.points, event.hits)
            if told or event.extra:
                return self._stopped(*(told or ((), ())))
        if h.trap is not None:
            return Stop("trap", self.position, trap=h.trap)
        if h.interrupted:
            return Stop("interrupted", self.position)
        return Stop("end" if h.ended else then, self.position)

    def _count(
        self, points: tuple[Breakpoint, ...], hits: tuple[Hit, ...]
    ) -> tuple[tuple[Breakpoint, ...], tuple[Hit, ...]] | None:
        """Count hits; what is left of them when those to be ignored are ignored."""

        def counts(p: Breakpoint | Watchpoint) -> bool:
            p.hits += 1
            if p.ignore:
                p.ignore -= 1
                return False
            return True

        left = tuple(p for p in points if counts(p)), tuple(h for h in hits if h.watchpoint is None or counts(h.watchpoint))
        return left if left[0] or left[1] else None

    def _stopped(self, points: tuple[Breakpoint, ...], hits: tuple[Hit, ...], backwards: bool = False) -> Stop:
        for p in (*points, *(h.watchpoint for h in hits)):
            if p is not None and p.temporary:
                self.points.pop(p.number, None)
        reason = "watchpoint" if hits else "breakpoint" if points else "step"
        return Stop(reason, self.position, points, hits, backwards=backwards)

    def _backward(self, extra: Extra | None = None, floor: int = 0) -> Stop:
        """Run back to the last event, or to an instant if there is none after it."""
        h, wanted, self._fresh = self.history, self._wanted(extra, backwards=True), False
        h.interrupted = False
        now = h.time
        event = self.scan.last(wanted, now, floor)
        if h.interrupted:
            h.seek(now)
            return Stop("interrupted", self.position, backwards=True)
        h.seek(floor if event is None else event.time)
        if event is None:
            return Stop("step" if floor else "beginning", self.position, backwards=True)
        for p in (*event.points, *(x.watchpoint for x in event.hits)):
            if p is not None:
                p.hits += 1
        return self._stopped(event.points, event.hits, backwards=True)

    # ------------------------------------------------------------------------------------------------------------- commands

    def interrupt(self) -> None:
        """Stop what is going on as soon as possible (from another thread or a signal handler)."""
        self.history.interrupted = True

    def restart(self) -> Stop:
        """Back to the beginning; :meth:`resume` then also stops at a breakpoint there."""
        self.history.seek(0)
        self._fresh = True
        return Stop("beginning", self.position, backwards=True)

    def resume(self, backwards: bool = False) -> Stop:
        """Run on to the next stop, or back to the last one. The breakpoint on which the machine stands is left, except at the very beginning
        when nothing was executed yet. Backwards one stands *before* what was found: a watched write is the next instruction."""
        return self._backward() if backwards else self._forward(ENDLESS, then="end")

    def step(self, count: int = 1, backwards: bool = False) -> Stop:
        """Execute so many instructions, or take them back."""
        if not backwards:
            return self._forward(self.history.time + count)
        if not self.history.time:
            return Stop("beginning", self.position, backwards=True)
        return self._backward(floor=max(0, self.history.time - count))

    def goto(self, instant: int, backwards: bool | None = None) -> Stop:
        """Stand at an instant; breakpoints do not stop on the way."""
        back = instant < self.history.time if backwards is None else backwards
        self._fresh = False
        self.history.seek(instant)
        if self.history.trap is not None:
            return Stop("trap", self.position, trap=self.history.trap)
        reason = "end" if self.history.ended else "beginning" if back and not self.history.time else "step"
        return Stop(reason, self.position, backwards=back)

    def over(self, backwards: bool = False) -> Stop:
        """As :meth:`step`, but a hardware loop is executed, or taken back, whole."""
        at, h = self.it.at, self.history
        if not backwards:
            if self.pc is None or self.program.code[self.pc].spec.flow != "loop":
                return self.step()
            depth, after = len(at.stack), at.ends[self.pc] + 1
            return self._forward(ENDLESS, {after: lambda: len(at.stack) == depth})
        if h.time == 0:
            return Stop("beginning", self.position, backwards=True)
        depth, now = len(at.stack), h.time
        h.seek(now - 1)
        pc = at.pc
        if self.program.code[pc].spec.flow != "end" or len(at.stack) != depth + 1:
            return Stop("step", self.position, backwards=True)
        start = at.stack[-1][0] - 1
        h.seek(now)
        return self._backward({start: lambda: len(at.stack) == depth})

    def out(self, backwards: bool = False) -> Stop:
        """Run until the innermost hardware loop is left, or back to where it began; outside of loops: to the end, or the beginning, of the run."""
        at, h = self.it.at, self.history
        depth = len(at.stack)
        if not depth:
            if backwards:
                first = h.starts[h.run]
                return self._backward(floor=first if first < h.time else h.starts[max(0, h.run - 1)])
            run = h.run
            first = {self.program.entries[h.current.entry], *self.program.entries.values()}
            return self._forward(ENDLESS, dict.fromkeys(first, lambda: h.run > run))
        start = at.stack[-1][0] - 1
        if backwards:
            return self._backward({start: lambda: len(at.stack) == depth - 1})
        return self._forward(ENDLESS, {at.ends[start] + 1: lambda: len(at.stack) < depth})

    def last_write(self, text: str) -> Hit | None:
        """Who wrote a place last: the write with the values around it; None: nobody since the beginning. The machine stands where it stood."""
        place, now = self.place(text), self.history.time
        watch = Watchpoint(0, text, self.places.candidates(place), place=place, when="write")
        event = self.scan.last(Wanted(watchpoints=[watch]), now)
        self.history.seek(now)
        return event.hits[0] if event is not None else None

    def writes(self, text: str, since: int = 0) -> list[Hit]:
        """All writes to a place from an instant up to now, oldest first. The machine stands where it stood."""
        place, now = self.place(text), self.history.time
        watch = Watchpoint(0, text, self.places.candidates(place), place=place, when="write")
        self.history.seek(since)
        found = [hit for event in self.scan.events(Wanted(watchpoints=[watch]), now) for hit in event.hits]
        self.history.seek(now)
        return found

    def executions(self, pcs: frozenset[int], since: int) -> Iterator[tuple[int, int, int, int]]:
        """(instant before it, instruction, first row, end) of each execution of these instructions from an instant up to now, with the machine standing
        behind it; in the end it stands where it stood."""
        h, now = self.history, self.history.time
        opened = h.loops_around(pcs)
        h.seek(since)
        try:
            while h.time < now:
                first, pc = h.time, self.it.at.pc
                if pc in pcs:
                    rows = self.it.at.rows(pc)
                    h.advance(1)
                    yield first, pc, *rows
                else:
                    h.advance(now - first, pcs, opened)
        finally:
            h.seek(now)
