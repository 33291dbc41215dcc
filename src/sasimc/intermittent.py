"""A device that runs on harvested power: it works while its storage holds energy, is cut off in the middle of a step when that is empty, wakes when
there is enough again, undoes what the cut step had written, and repeats the step.

The machine is really cut off: its buffer is lost (it is filled with random bytes), its accumulators are cleared as by a reset, the word lines that the
step had written are written back, and wear and energy of the lost part are spent. Cells keep what they hold; the host keeps a journal of its memory,
which costs energy. What is learned is the same as without cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from sasimc.evaluation.quantity import format_si
from sasimc.evaluation.supply.supply import Supply
from sasimc.evaluation.supply.trace import trace_of
from sasimc.isa.errors import SasError
from sasimc.runtime.device import Device
from sasimc.runtime.interpreter import Interpreter, Mark
from sasimc.runtime.state import Snapshot

__all__ = ["Intermittent"]

_PARTS: Final = 64
"""A step that may be cut off is run in so many parts of equal instructions; the cut falls at the end of one."""
_MARGIN: Final = 1.05
"""What a step is expected to need, relative to the last one of its kind."""
_TRIES: Final = 100
"""Cuts of the same step, one after the other, after which no progress is expected."""

Joules = Callable[[Mapping[str, int], float], float]


@dataclass
class _Spent:
    """Seconds and joules so far; ``useful``: of steps that were finished, ``lost``: of those that were cut off."""

    on_s: float = 0.0
    off_s: float = 0.0
    harvested: float = 0.0
    overflow: float = 0.0
    useful: float = 0.0
    lost: float = 0.0
    waking: float = 0.0
    undoing: float = 0.0
    journal: float = 0.0
    leaked: float = 0.0


@dataclass
class Intermittent:
    """Runs the entry points of ``device`` on ``supply``; ``joules``: the price of events and cycles. ``device.run_with(it.run)`` installs it."""

    device: Device
    supply: Supply
    joules: Joules
    time: float = 0.0
    stored: float = 0.0
    awake: bool = False
    runs: int = 0
    wakes: int = 0
    cuts: int = 0
    rows_undone: int = 0
    spent: _Spent = field(default_factory=_Spent)

    def __post_init__(self) -> None:
        self._trace = trace_of(self.supply)
        self._capacity = self.supply.storage.si
        self._needs: dict[str, float] = {}
        self._undo = 0.0
        self._random = np.random.default_rng(self.supply.seed)

    @property
    def _it(self) -> Interpreter:
        return self.device.interpreter

    # ------------------------------------------------------------------------------------------------------------- supply

    def _use(self, seconds: float, joules: float) -> bool:
        """Let time pass while something is spent; False if the storage runs empty."""
        s, leak = self.supply, self.supply.storage_leakage.si * seconds
        harvested = s.efficiency.si * self._trace.between(self.time, self.time + seconds)
        self.time += seconds
        self.stored += harvested - joules - leak
        self.spent.on_s += seconds
        self.spent.harvested += harvested
        self.spent.leaked += leak
        if self.stored > self._capacity:
            self.spent.overflow += self.stored - self._capacity
            self.stored = self._capacity
        return self.stored >= 0

    def _wake(self, need: float) -> None:
        """Wait for the storage to fill, so that it holds ``need`` joules if it can, start, undo the step that was cut off.

        Raises:
            SasError: it never fills.
        """
        while not self.awake:
            s = self.supply
            wanted = min(self._capacity, max(s.wake_level.si * self._capacity, need + s.wake_energy.si + self._undo))
            leak = s.storage_leakage.si
            at = self._trace.filled(self.time, self.stored, wanted, s.efficiency.si, leak)
            if at is None:
                raise SasError(
                    f"the supply {s.name} never fills its storage: {format_si(s.efficiency.si * s.power.si, 'W')} in the mean, "
                    f"{s.storage_leakage} lost",
                    hint="more power, a better efficiency or a smaller storage_leakage",
                )
            harvested = s.efficiency.si * self._trace.between(self.time, at)
            self.spent.off_s += at - self.time
            self.spent.harvested += harvested
            self.spent.leaked += harvested - (wanted - self.stored)  # none of it where the storage was empty
            self.time, self.stored = at, wanted
            self.wakes += 1
            self.spent.waking += s.wake_energy.si
            self.spent.undoing += self._undo
            self.awake = self._use(s.wake_time.si, s.wake_energy.si + self._undo)
            if self.awake:
                self._undo = 0.0
            else:
                self._cut(0.0)

    def _cut(self, lost: float) -> None:
        self.awake, self.cuts = False, self.cuts + 1
        self.spent.lost += lost + min(0.0, self.stored)  # what was not there was not spent
        self.stored = 0.0

    # --------------------------------------------------------------------------------------------------------------- runs

    def run(self, entry: str) -> None:
        """Execute an entry point to its end, however often the power fails.

        Raises:
            SasError: the step needs more than the storage and the harvester ever give together; the supply never fills its storage.
            Trap: as :meth:`Interpreter.run`.
        """
        for _ in range(_TRIES):
            need = _MARGIN * self._needs.get(entry, 0.0) if self.supply.policy == "wait" else 0.0
            if self.stored < min(need, self._capacity - self.supply.wake_energy.si):
                self.awake = False  # sleeps
            self._wake(need)
            if self._finished(entry):
                self.runs += 1
                return
        need = self._needs[entry]
        raise SasError(
            f"{entry} needs {format_si(need, 'J')} and was cut off {_TRIES} times in a row: the storage of the supply {self.supply.name} holds "
            f"{self.supply.storage}",
            hint="a larger storage, or smaller steps: sasrun --batch, sasc compile --batch",
        )

    def _spend(self, before: tuple[int, Mapping[str, int]]) -> tuple[float, float, int]:
        """Seconds and joules since ``before``, and the bits that left for the host."""
        it = self._it
        events = {name: n - before[1].get(name, 0) for name, n in it.events.items()}
        cycles = it.cycles - before[0]
        return cycles / it.machine.clock_hz, self.joules(events, cycles), events.get("host_bits_out", 0)

    def _finished(self, entry: str) -> bool:
        """One try; False if it was cut off, and everything stands as before it."""
        it, sure = self._it, self.stored > 2 * self._needs.get(entry, float("inf"))
        kept = None if sure else (it.state.snapshot(), it.mark())
        counts = it.cycles, it.events
        it.run(entry)
        seconds, joules, events = self._since(counts)
        self._needs[entry] = joules
        if kept is not None and joules + self.supply.storage_leakage.si * seconds > self.stored:
            self._return_to(kept)
            if not self._in_parts(entry, kept, max(1, events["instructions"] // _PARTS)):
                return False
        else:
            self._use(seconds, joules)
        journal = self._journal(events)
        self.spent.journal += journal
        self.spent.useful += joules - journal
        return True

    def _journal(self, events: Mapping[str, int]) -> float:
        return events["host_bits_out"] * self.supply.journal.si

    def _since(self, counts: tuple[int, Mapping[str, int]]) -> tuple[float, float, Mapping[str, int]]:
        """Seconds, joules with the journal, and events since the counters were ``counts``."""
        it = self._it
        events, cycles = {name: n - counts[1][name] for name, n in it.events.items()}, it.cycles - counts[0]
        return cycles / it.machine.clock_hz, self.joules(events, cycles) + self._journal(events), events

    def _in_parts(self, entry: str, kept: tuple[Snapshot, Mark], part: int) -> bool:
        """Execute ``part`` instructions at a time; False if the storage ran empty after one of them."""
        it, lost = self._it, 0.0
        it.begin(entry)
        while it.at.running:
            counts = it.cycles, it.events
            it.advance(part)
            seconds, joules, _ = self._since(counts)
            lost += joules
            if not self._use(seconds, joules):
                self._lose(kept)
                self._cut(lost)
                return False
        return True

    def _lose(self, kept: tuple[Snapshot, Mark]) -> None:
        """What a power cut and the reset after it do: the buffer holds anything, accumulators 0; rows that were written are to be written back."""
        it, state, snapshot = self._it, self._it.state, kept[0]
        written = state.wear != snapshot.wear
        wear = state.wear + written
        self._return_to(kept)
        state.wear[...] = wear
        state.buffer[...] = self._random.integers(0, 256, state.buffer.size, np.uint8)
        state.accumulators[...] = 0
        rows = int(written.sum())
        self.rows_undone += rows
        self._undo = self.joules({"bits_written_compute": rows * it.machine.array.bit_columns, "rows_written_compute": rows}, 0.0)

    def _return_to(self, kept: tuple[Snapshot, Mark]) -> None:
        it = self._it
        it.state.restore(kept[0])
        it.return_to(kept[1])
        it.cells_changed()

    # ------------------------------------------------------------------------------------------------------------- report

    def summary(self) -> dict[str, Any]:
        """For the run's report: seconds, joules and counts."""
        return {
            "supply": self.supply.model_dump(mode="json"), "time_s": self.time, "runs": self.runs, "wakes": self.wakes, "cuts": self.cuts,
            "rows_undone": self.rows_undone, "stored_j": self.stored, **{f"{k}_j" if not k.endswith("_s") else k: v for k, v in vars(self.spent).items()},
        }  # fmt: skip

    def lines(self) -> list[str]:
        """In words."""
        s, total = self.spent, self.spent.useful + self.spent.lost + self.spent.waking + self.spent.undoing + self.spent.journal
        return [
            f"power {self.supply.name} (simulated, with assumed figures of harvester and storage): {self.runs} runs in {format_si(self.time, 's')}, "
            f"awake {format_si(s.on_s, 's')} ({100 * s.on_s / max(self.time, 1e-30):.3g} %), woken {self.wakes} times, cut off {self.cuts} times",
            f"of {format_si(total, 'J')}: useful {100 * s.useful / max(total, 1e-30):.1f} %, lost in cut steps {100 * s.lost / max(total, 1e-30):.1f} %, "
            f"waking {100 * s.waking / max(total, 1e-30):.1f} %, undoing {100 * s.undoing / max(total, 1e-30):.2f} % ({self.rows_undone} rows), "
            f"journal {100 * s.journal / max(total, 1e-30):.1f} %",
        ]
