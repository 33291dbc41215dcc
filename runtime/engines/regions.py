"""Cycles that zero input bits save in the overlapped regions of a loop's plan: what a region gains is known only at its end, every time anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sasimc.isa.walk import Key
from sasimc.runtime.engines.datapath import Datapath, Step
from sasimc.runtime.kernel import COUNTED, SKIPPED, address, vector
from sasimc.runtime.kernels.run import PART

if TYPE_CHECKING:
    from sasimc.runtime.engines.counters import PhaseCounter

__all__ = ["RegionSkips"]

Ints = npt.NDArray[np.int64]

_REGION = np.dtype(
    [(n, np.int64) for n in ("number", "members", "count", "serial", "array", "rest", "overlap", "gains")], align=True
)
"""Address of [instruction, counted as it began, saved in all] for each of ``count`` instructions, the region's limits, address of what it gained in all."""


def begin_region(op, m, first, last):  # type: ignore[no-untyped-def]
    """Remember what was counted before."""
    members, counters = vector(op.members, 3 * op.count), m.counters
    for i in range(op.count):
        members[3 * i + 1] = vector(counters, (members[3 * i] + 1) * COUNTED)[members[3 * i] * COUNTED + SKIPPED]
    return 0


def end_region(op, m, first, last):  # type: ignore[no-untyped-def]
    """Add up what its instructions saved and by how much that shortens it (`sasimc.isa.analysis.timing.limited_cycles`)."""
    members, counters, saved = vector(op.members, 3 * op.count), m.counters, np.int64(0)
    for i in range(op.count):
        now = vector(counters, (members[3 * i] + 1) * COUNTED)[members[3 * i] * COUNTED + SKIPPED]
        members[3 * i + 2] += now - members[3 * i + 1]
        saved += now - members[3 * i + 1]
    out = vector(op.gains, 1)
    if op.overlap:
        out[0] += min(op.serial, max(op.array, op.rest)) - min(op.serial - saved, max(op.array - saved, op.rest))
    else:
        out[0] += saved
    return 0


class RegionSkips:
    """The regions of a body, in order, with the steps that begin and end them."""

    def __init__(self, datapath: Datapath, keys: Sequence[Key]) -> None:
        self.datapath = datapath
        self._steps: dict[int, list[Step]] = {}
        self._regions: list[tuple[int, dict[Key, int], Ints, Ints]] = []
        self._records: list[np.ndarray] = []
        code = datapath.program.code
        open_: tuple[int, dict[Key, int]] | None = None
        for place, key in enumerate(keys):
            flow = code[key[0]].spec.flow
            if open_ is not None:
                open_[1][key] = open_[1].get(key, 0) + 1  # what ends a region belongs to it
                if flow in ("overlap", "sync"):
                    self._close(keys[open_[0]][0], *open_, place)
                    open_ = None
            if flow == "overlap":
                open_ = place, {}

    def _close(self, start: int, begin: int, executed: dict[Key, int], end: int) -> None:
        numbers = sorted({pc for pc, r0, _ in executed if r0 >= 0})
        members = np.array([(n, 0, 0) for n in numbers], np.int64).reshape(-1, 3)
        gains, record, datapath = np.zeros(1, np.int64), np.zeros(1, _REGION), self.datapath
        limits = datapath.counters.limits(executed)
        overlap = int(datapath.machine.controller.overlap)
        record[0] = (numbers[0] if numbers else 0, members.ctypes.data, len(members), *limits, overlap, gains.ctypes.data)
        self._regions.append((start, executed, members, gains))
        self._records.append(record)
        for place, function in ((begin, begin_region), (end, end_region)):
            step = (record.ctypes.data, address(function, _REGION), int(record["number"][0]), PART, 0, 1, 1, 1)
            self._steps.setdefault(place, []).append(step)

    def steps(self, place: int) -> list[Step]:
        """What a place in the body needs."""
        return self._steps.get(place, [])

    def book(self, phase: PhaseCounter) -> None:
        """Book what was saved since the last time; outside of regions at once."""
        counts = self.datapath.counts
        for begin, executed, members, gains in self._regions:
            if not members[:, 2].any():
                continue
            region = phase.region(begin, executed)
            phase.skipped += int(gains[0])
            region.gained += int(gains[0])
            gains[0] = 0
            for number, _, saved in members.tolist():
                if saved:
                    region.skips[number] = region.skips.get(number, 0) + saved
                    counts[number, SKIPPED] -= saved
            members[:, 2] = 0
        for number in np.flatnonzero(counts[:, SKIPPED]).tolist():
            phase.skip(number, int(counts[number, SKIPPED]))
        counts[:, SKIPPED] = 0
