"""The counters of an engine as arrays, and back: a run that was killed goes on counting where its last step ended.

Counters only gain entries, and every entry has its place: :class:`CounterTable` gives each a row, so that a step adds the rows that are
new and the differences of all values.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from sasimc.isa.spec import PHASES
from sasimc.runtime.engines.counters import MEASURED, Counters, PhaseCounter, Region

__all__ = ["CounterTable"]

Ints = npt.NDArray[np.int64]
Row = tuple[int, int, int, int, int, int]

_EXECUTED, _REGION, _BODY, _MEASURED, _SKIPS, _REGION_SKIPS, _SKIPPED = range(7)
"""Kinds of rows. A row is (kind, phase, place, a, b, c); the value is a count.

executed: (instruction, r0, r1) outside of regions; region: start, times it ran; body: ``place`` = its region, (instruction, r0, r1);
measured: ``place`` = event, instruction; skips: instruction; region skips: ``place`` = region, instruction, and -1 for what they gained;
skipped: cycles of the phase.
"""

_GAINED: Final = -1


def _regions(phase: PhaseCounter) -> list[tuple[int, Region]]:
    """Regions of a phase with their starts, in an order that new ones keep: by start, each start's in order of appearance."""
    return [(start, region) for start, known in phase.regions.items() for region in known]


class CounterTable:
    """Rows and values of an engine's counters."""

    def __init__(self) -> None:
        self._place: dict[Row, int] = {}
        self._regions: dict[int, tuple[int, Region]] = {}
        self.values: Ints = np.zeros(0, np.int64)

    def _put(self, out: list[int], row: Row, value: int) -> None:
        at = self._place.setdefault(row, len(self._place))
        if at >= len(out):
            out.extend([0] * (at + 1 - len(out)))
        out[at] = value

    def _read_phase(self, out: list[int], p: int, phase: PhaseCounter) -> None:
        for key, times in phase.executed.items():
            self._put(out, (_EXECUTED, p, 0, *key), times)
        for start, region in _regions(phase):
            number, _ = self._regions.setdefault(id(region), (len(self._regions), region))
            self._put(out, (_REGION, p, number, start, 0, 0), region.times)
            if (_BODY, p, number, 0, 0, 0) not in self._place:
                self._put(out, (_BODY, p, number, 0, 0, 0), 0)
                for key, times in region.executed.items():
                    self._put(out, (_BODY, p, number, *key), times)
            if region.skips:
                self._put(out, (_REGION_SKIPS, p, number, _GAINED, 0, 0), region.gained)
                for index, cycles in region.skips.items():
                    self._put(out, (_REGION_SKIPS, p, number, index, 0, 0), cycles)
        for e, event in enumerate(MEASURED):
            for index, count in phase.measured[event].items():
                self._put(out, (_MEASURED, p, e, index, 0, 0), count)
        for index, cycles in phase.skips.items():
            self._put(out, (_SKIPS, p, 0, index, 0, 0), cycles)
        if phase.skipped:
            self._put(out, (_SKIPPED, p, 0, 0, 0, 0), phase.skipped)

    def update(self, counters: Counters) -> tuple[Ints, Ints]:
        """Read the counters: the rows [R, 6] that are new and by how much every value [rows] has grown since the last time."""
        before, known = self.values, len(self._place)
        out = before.tolist()
        for p, name in enumerate(PHASES):
            self._read_phase(out, p, counters.phases[name])
        self.values = np.asarray(out, np.int64)
        grown = self.values.copy()
        grown[: len(before)] -= before
        rows = np.asarray([row for row, at in self._place.items() if at >= known], np.int64).reshape(-1, 6)
        return rows, grown

    @property
    def rows(self) -> Ints:
        """All rows [R, 6]."""
        return np.asarray(list(self._place), np.int64).reshape(-1, 6)

    @staticmethod
    def restore(counters: Counters, rows: Ints, values: Ints) -> CounterTable:
        """Set counters to what a table held, and go on with that table.

        Raises:
            ValueError, IndexError, KeyError: rows that are none.
        """
        table = CounterTable()
        table._place = {(k, p, place, a, b, c): i for i, (k, p, place, a, b, c) in enumerate(rows.tolist())}
        table.values = np.array(values, np.int64)
        counters.reset()
        phases = [counters.phases[name] for name in PHASES]
        for (kind, p, place, start, *_), value in zip(rows.tolist(), values.tolist(), strict=True):
            if kind == _REGION:
                region = Region({})
                region.times = value
                phases[p].regions.setdefault(start, []).append(region)
                table._regions[id(region)] = (place, region)
        regions = dict(table._regions.values())
        for (kind, p, place, a, b, c), value in zip(rows.tolist(), values.tolist(), strict=True):
            phase = phases[p]
            if kind == _EXECUTED:
                phase.executed[a, b, c] = value
            elif kind == _BODY and value:
                regions[place].executed[a, b, c] = value
            elif kind == _MEASURED:
                phase.measured[MEASURED[place]][a] = value
            elif kind == _SKIPS:
                phase.skips[a] = value
            elif kind == _REGION_SKIPS and a == _GAINED:
                regions[place].gained = value
            elif kind == _REGION_SKIPS:
                regions[place].skips[a] = value
            elif kind == _SKIPPED:
                phase.skipped = value
        return table
