"""One machine's runs as a line of time that can be walked in both directions.

Time counts the instructions executed since the beginning. Execution is deterministic: going back is to restore the checkpoint before and to execute up to the
wanted instant with the same kernels, loops as plans where nothing has to be seen within.
"""

from __future__ import annotations

import time
from bisect import bisect_right, insort
from collections.abc import Callable, Collection
from copy import copy
from dataclasses import dataclass
from typing import Any, Final

from sasimc.debug.checkpoints import Checkpoints
from sasimc.isa.errors import SasError, Trap
from sasimc.runtime.interpreter import Interpreter

__all__ = ["ENDLESS", "History", "Run"]

ENDLESS: Final = 1 << 60
_AHEAD, _AGAIN = 25.0, 4.0
"""A checkpoint is taken when running on, or going over known ground, has taken so many times as long as the last one did."""
_SLICE: Final = 250_000
"""Instructions after which there may be a checkpoint in the middle of a run: few, where an instruction may take seconds; else many, as a loop that is cut
does not run as a plan."""
_STEP_SLICE: Final = 64
_CLOSE: Final = 256
"""Going back, checkpoints are laid ever closer to the aim, down to this distance."""


@dataclass(frozen=True)
class Run:
    """One run of an entry point: ``prepare`` is what the host does before it; it must do the same each time. ``step``: number of the training step
    (from 1), 0: none."""

    entry: str
    title: str
    prepare: Callable[[Interpreter], None]
    step: int = 0


class History:
    """An interpreter and what it is to do, standing at an instant.

    Args:
        it: the interpreter. Its state and counters now are the beginning.
        runs: the run of a number, from 0; None behind the last one.
        limit: bytes that checkpoints may take.

    ``time``: instructions executed; ``run``: number of the run; ``trap``: why the next instruction cannot be executed, once that was tried.
    """

    def __init__(self, it: Interpreter, runs: Callable[[int], Run | None], limit: int) -> None:
        self.it, self._runs = it, runs
        self.time, self.run = 0, -1
        self.starts: list[int] = []
        self.end: int | None = None
        self.trap: Trap | None = None
        self.interrupted = False
        """Set from outside: what is going on ends as soon as it can."""
        self.known = 0
        """The latest instant that was ever reached."""
        self.look: Callable[[], Any] = lambda: None
        self.hosted: tuple[Any, Any] | None = None
        """What ``look`` saw before and after the host's work, when the last :meth:`advance` ended with the beginning of a run."""
        self._changes: list[tuple[int, int, Callable[[Interpreter], None]]] = []
        self.checkpoints = Checkpoints(it.state, limit)
        self._cost, self._worked = 0.0, 0.0
        self._slice = _STEP_SLICE if it.engine == "step" else _SLICE
        self._next_run()
        if self.run < 0:
            raise SasError("there is nothing to run")
        self._take()

    def twin(self, it: Interpreter) -> History:
        """The same on another interpreter of the program, standing at the same instant; its past is not known."""
        it.restore(self.it.snapshot())
        it.return_to(self.it.mark())
        other = copy(self)
        other.it, other.starts, other._changes = it, list(self.starts), list(self._changes)
        other.checkpoints = Checkpoints(it.state, self.checkpoints.limit)
        other._take()
        return other

    @property
    def current(self) -> Run:
        """The run that is in progress, or the last one."""
        run = self._runs(self.run)
        assert run is not None
        return run

    @property
    def ended(self) -> bool:
        """Whether the last run has ended."""
        return not self.it.at.running

    def run_at(self, instant: int) -> int:
        """Number of the run an instant lies in."""
        return bisect_right(self.starts, instant) - 1

    def _next_run(self) -> None:
        """Begin the next run, if there is one."""
        run = self._runs(self.run + 1)
        if run is None:
            self.end = self.time
            return
        self.run += 1
        if self.run == len(self.starts):
            self.starts.append(self.time)
        seen = self.look()
        run.prepare(self.it)
        self.it.begin(run.entry)
        self.hosted = seen, self.look()

    def _take(self) -> None:
        begun = time.perf_counter()
        self.checkpoints.take(self.time, self.run, self.it.mark())
        self._cost, self._worked = time.perf_counter() - begun, 0.0

    def _due_change(self) -> int:
        return next((t for t, _, _ in self._changes if t > self.time), ENDLESS)

    # -------------------------------------------------------------------------------------------------------- forwards

    def advance(self, most: int = ENDLESS, stops: Collection[int] = (), opened: Collection[int] = ()) -> int:
        """Execute up to ``most`` instructions; returns how many. It ends before an instruction of ``stops`` (`Interpreter.advance`), at the beginning of
        a run, at the end, and before an instruction that traps (``trap``)."""
        self.trap = self.hosted = None
        done = 0
        while done < most and not self.ended and self.trap is None:
            done += self._part(min(most - done, self._due_change() - self.time, self._slice), stops, opened)
            if self.hosted is not None or self.interrupted or self.it.at.pc in stops:
                break
        return done

    def _part(self, most: int, stops: Collection[int], opened: Collection[int]) -> int:
        begun, known = time.perf_counter(), self.known
        try:
            done = self.it.advance(most, stops, opened)
        except Trap as trap:
            return self._arrive(trap)
        self.time += done
        self._arrived()
        self._worked += time.perf_counter() - begun
        if self._worked > self._cost * (_AHEAD if self.time > known else _AGAIN):
            self._take()
        return done

    def _arrived(self) -> None:
        """What happens at this instant beside instructions: the next run begins, the user changed something."""
        if not self.it.at.running:
            self._next_run()
        for _, _, change in (c for c in self._changes if c[0] == self.time):
            change(self.it)
        self.known = max(self.known, self.time)

    def _arrive(self, trap: Trap) -> int:
        """Stand before the instruction that traps, which may be anywhere in what was executed as a whole."""
        first, found = self.time, False
        while not found:
            self._return(first)
            loops = self.loops_around({trap.index})
            try:
                while True:
                    found = self.it.at.pc == trap.index
                    self.time += self.it.advance(
                        min(1 if found else ENDLESS, self._due_change() - self.time), {trap.index}, loops
                    )
                    self._arrived()
            except Trap as other:  # one after the other, another instruction may trap first
                trap = other
        self._return(self.time)
        self.trap, self.hosted = trap, None
        return self.time - first

    def loops_around(self, stops: Collection[int]) -> frozenset[int]:
        """Loops (by their first instruction) with one of these instructions in them."""
        ends = self.it.at.ends
        return frozenset(start for start, end in ends.items() if any(start < pc <= end for pc in stops))

    # ------------------------------------------------------------------------------------------------------- backwards

    def seek(self, instant: int) -> None:
        """Stand at an instant, earlier or later; at the end or before a trap if that comes first."""
        if instant < 0:
            raise SasError(f"instant {instant}: time begins at 0")
        kept = self.checkpoints.before(instant)
        if instant < self.time or kept.time > self.time:
            self._restore(instant)
        self.trap = None
        while self.time < instant and not self.ended and self.trap is None:
            left = instant - self.time
            self.advance(left if left <= _CLOSE or instant > self.known else -(-left // 2))

    def _restore(self, instant: int) -> None:
        kept = self.checkpoints.before(instant)
        if self.checkpoints.restore(kept):
            self.it.cells_changed()
        self.it.return_to(kept.mark)
        self.time, self.run, self._worked = kept.time, kept.run, 0.0

    def _return(self, instant: int) -> None:
        """As :meth:`seek`, for a past known to be free of traps."""
        self._restore(instant)
        while self.time < instant:
            self.time += self.it.advance(min(instant, self._due_change()) - self.time)
            self._arrived()

    def change(self, what: Callable[[Interpreter], None]) -> None:
        """Change the machine's state here and now; whoever comes by this instant again finds it changed. What was known of later is forgotten."""
        insort(self._changes, (self.time, len(self._changes), what), key=lambda c: c[:2])
        self._changes = [c for c in self._changes if c[0] <= self.time]
        self.checkpoints.forget_from(self.time)
        what(self.it)
        if not len(self.checkpoints):
            self._take()
        self.known, self.end, self.trap = self.time, None if not self.ended else self.end, None
        del self.starts[self.run + 1 :]
