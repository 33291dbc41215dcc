"""The threads that work on a plan: the machine's memories, and what each thread has of its own where passes run side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.runtime.kernel import MACHINE
from sasimc.runtime.kernels.run import CREW
from sasimc.runtime.state import State

__all__ = ["Crew"]


class Crew:
    """Addresses for `kernels.run.run_plan`: ``table`` and ``undo``. ``registers``: int64 [2 + threads, registers], those of the machine, the largest
    values of passes side by side, those of each thread. The first thread works on the machine's own buffer and accumulators."""

    def __init__(self, state: State, registers: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> None:
        self.state, self.registers, self.counts = state, registers, counts
        self.threads = len(registers) - 2
        self.table, self.undo = np.zeros((1 + self.threads, CREW), np.int64), np.zeros(9, np.int64)
        self._held: tuple[Any, ...] = ()
        self._own: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]] = []
        self._work = [np.zeros(0, np.uint8)]
        self._undo = np.zeros(0, np.uint8)
        self._machines = np.zeros(1 + 2 * self.threads, MACHINE)

    def fit(self, work: int, undo: int = 0, *, apart: bool = False) -> None:
        """Make the memory that stages share, and that for what may have to be put back, large enough; with ``apart``, give every thread its own."""
        s, others = self.state, self.threads - 1 if apart else 0
        memories = (s.buf, s.acc, s.host, s.cells, s.written, s.wear)
        known = len(self._held) == len(memories) and all(a is b for a, b in zip(memories, self._held, strict=True))
        if known and work <= self._work[0].size and undo <= self._undo.size and others <= len(self._own):
            return
        self._held = memories
        size = max(work, self._work[0].size)
        self._own += [(np.zeros_like(s.buf), np.zeros_like(s.acc)) for _ in range(len(self._own), others)]
        self._work = [w if w.size >= size else np.empty(size, np.uint8) for w in self._work]
        self._work += [np.empty(size, np.uint8) for _ in range(len(self._work), 1 + len(self._own))]
        if undo > self._undo.size:
            self._undo = np.empty(undo, np.uint8)
        self._fill()

    def _fill(self) -> None:
        """The addresses, in new arrays: a thread that comes late may still look at the old ones."""
        s, threads = self.state, 1 + len(self._own)
        self._machines = np.zeros(1 + 2 * threads, MACHINE)
        self.table = np.zeros((1 + threads, CREW), np.int64)
        address = self._machines.ctypes.data

        def machine(place: int, buf: Any, acc: Any, registers: Any, work: Any) -> int:
            words = [n for a in (buf, acc, s.host) for n in (a.ctypes.data, a.size)]
            words += [a.ctypes.data for a in (registers, self.counts, s.cells, s.written, s.wear, work)]
            self._machines[place] = (*words, *s.cells.shape)
            return address + place * MACHINE.itemsize

        main, largest, *own = self.registers
        at = machine(0, s.buf, s.acc, main, self._work[0])
        self.table[0] = at, largest.ctypes.data, main.ctypes.data, s.buf.ctypes.data, s.acc.ctypes.data
        for t, (buf, acc) in enumerate([(s.buf, s.acc), *self._own]):
            alone = machine(1 + 2 * t, buf, acc, own[t], self._work[t])
            summing = machine(2 + 2 * t, buf, s.acc, own[t], self._work[t])
            self.table[1 + t] = alone, summing, own[t].ctypes.data, buf.ctypes.data, acc.ctypes.data
        arrays = [n for a in (s.cells, s.written, s.wear) for n in (a.ctypes.data, a[0].nbytes)]
        self.undo = np.array([self._undo.ctypes.data, len(main), *arrays, self.counts.ctypes.data], np.int64)
