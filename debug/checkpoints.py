"""Checkpoints of a machine: pages of its memories that equal ones share, thinned out towards the past so that their memory stays bounded."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sasimc.runtime.interpreter import Mark
from sasimc.runtime.state import State

__all__ = ["Checkpoint", "Checkpoints"]

_PAGE: Final = 1 << 15
_ZEROS: Final = bytes(_PAGE)


@dataclass(frozen=True)
class Checkpoint:
    """All that decides what a machine does from an instant on: ``time`` (instructions executed before), ``run`` (its number), where it stands in
    it, registers, pages of every memory."""

    time: int
    run: int
    mark: Mark
    regs: tuple[int, ...]
    pages: dict[str, list[bytes]]


def _memories(state: State) -> dict[str, npt.NDArray[np.uint8]]:
    """Every memory as flat bytes."""
    parts: dict[str, npt.NDArray[Any]] = {
        "cells": state.cells, "written": state.written, "wear": state.wear, "buffer": state.buffer, "acc": state.accumulators,
        "host": state.host,
    }  # fmt: skip
    return {name: array.reshape(-1).view(np.uint8) for name, array in parts.items()}


class Checkpoints:
    """The checkpoints of one machine, by time. ``limit``: bytes that their pages may take; the first one always stays."""

    def __init__(self, state: State, limit: int) -> None:
        self._state, self.limit = state, limit
        self._all: list[Checkpoint] = []
        self._uses: Counter[int] = Counter()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._all)

    @property
    def times(self) -> list[int]:
        """Times of all checkpoints, ascending."""
        return [c.time for c in self._all]

    def take(self, time: int, run: int, mark: Mark) -> None:
        """Keep the machine as it is now."""
        place = bisect_right(self._all, time, key=lambda c: c.time)
        if place and self._all[place - 1].time == time:
            return
        near = self._all[place - 1].pages if place else {}
        pages: dict[str, list[bytes]] = {}
        for name, memory in _memories(self._state).items():
            old, new = near.get(name, []), []
            for number, first in enumerate(range(0, len(memory), _PAGE)):
                page = memory[first : first + _PAGE].tobytes()
                known = old[number] if number < len(old) else _ZEROS
                new.append(known if page == known else page)
            pages[name] = new
        made = Checkpoint(time, run, mark, tuple(self._state.regs), pages)
        self._all.insert(place, made)
        for page in self._of(made):
            self._uses[id(page)] += 1
            self.bytes += len(page) if self._uses[id(page)] == 1 else 0
        self._thin_out(time)

    @staticmethod
    def _of(checkpoint: Checkpoint) -> list[bytes]:
        return [page for pages in checkpoint.pages.values() for page in pages if page is not _ZEROS]

    def _drop(self, place: int) -> None:
        for page in self._of(self._all.pop(place)):
            self._uses[id(page)] -= 1
            if not self._uses[id(page)]:
                del self._uses[id(page)]
                self.bytes -= len(page)

    def _thin_out(self, now: int) -> None:
        """While there is too much, drop the one whose loss widens a gap least, measured by how far away it is."""
        while self.bytes > self.limit and len(self._all) > 2:
            times = self.times

            def loss(place: int, times: list[int] = times) -> float:
                after = times[place + 1] if place + 1 < len(times) else max(now, times[place])
                return (after - times[place - 1]) / (abs(now - times[place]) + 1)

            self._drop(min(range(1, len(self._all)), key=loss))

    def before(self, time: int) -> Checkpoint:
        """The last checkpoint that is not later than ``time``."""
        return self._all[bisect_right(self._all, time, key=lambda c: c.time) - 1]

    def forget_from(self, time: int) -> None:
        """Drop the checkpoints from ``time`` on: what they hold is no longer what will happen."""
        while self._all and self._all[-1].time >= time:
            self._drop(len(self._all) - 1)

    def restore(self, checkpoint: Checkpoint) -> bool:
        """Set all memories and registers; returns whether cells changed."""
        state, changed = self._state, set[str]()
        state.grow_host(sum(map(len, checkpoint.pages["host"])))
        for name, memory in _memories(state).items():
            kept = checkpoint.pages[name]
            for number, first in enumerate(range(0, len(memory), _PAGE)):
                now = memory[first : first + _PAGE]
                page = kept[number] if number < len(kept) else _ZEROS
                if now.tobytes() != page[: len(now)]:
                    now[:] = np.frombuffer(page, np.uint8)[: len(now)]
                    changed.add(name)
        state.regs[:] = checkpoint.regs
        return bool(changed & {"cells", "written"})
