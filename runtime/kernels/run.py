"""Working off a plan: steps that threads take shares of, without the interpreter.

Every thread calls `run_plan` with the same arguments. Threads take the next share by a compare-and-swap, and a share is taken only when all
earlier steps are done. A thread that the system holds back therefore delays nobody unless it is inside a share, and one thread alone does
everything. Integer results do not depend on who does what.
"""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue
from typing import Any

import numpy as np
from numba import njit

from sasimc.runtime.kernel import COUNTED, SPENT, part
from sasimc.runtime.kernels.sync import (
    atomic_add,
    atomic_load,
    call2,
    call4,
    call6,
    compare_swap,
    give_way,
    nanoseconds,
    relax,
)

__all__ = ["CONTROL", "FAILED", "FOUND", "OWN", "PART", "REGISTER", "STEP", "run_plan", "together"]

STEP = 8
RECORD, FUNCTION, NUMBER, KIND, FIRST, LAST, GRAIN, BEFORE = range(STEP)
"""A step: address of its operand record and of its kernel, its instruction's number, who cuts it (below), what it works on, what stays together,
shares of all steps before it. A register instruction has its destination in FIRST."""

PART, OWN, REGISTER = range(3)
"""Cut into parts at multiples of GRAIN from FIRST; cut by the kernel itself; a register instruction."""

NEXT, DONE, FAILED, FOUND, CONTROL = 0, 8, 16, 17, 24
"""Places in the words that threads share, a cache line each: shares taken, shares done, 1 + number of the step that failed and what it found."""

_PATIENCE = 2000  # rounds of waiting (some 20 us) before the processor is offered to others


@njit(cache=True, nogil=True)
def _wait(control, shares):  # type: ignore[no-untyped-def]
    """Until so many shares are done."""
    waited = 0
    while atomic_load(control, DONE) < shares:
        waited += 1
        relax()
        if waited > _PATIENCE:
            give_way()


@njit(cache=True, nogil=True)
def run_plan(steps, times, control, machine, regs, counters, timed):  # type: ignore[no-untyped-def]
    """Work off a plan ``times`` times, together with every other thread that calls this with the same arguments.

    steps: int64 [n + 1, STEP] (the last row has only BEFORE); control: int64 [CONTROL], zeros at first; machine: address of the machine's record;
    regs, counters: int64; timed: whether to add up nanoseconds. Returns when all is done; after a step that failed nothing is.
    """
    count = steps.shape[0] - 1
    total = steps[count, BEFORE]
    begin = np.int64(0)
    for turn in range(times):
        base = turn * total
        for i in range(count):
            first, last = base + steps[i, BEFORE], base + steps[i + 1, BEFORE]
            _wait(control, first)
            if atomic_load(control, FAILED):
                return
            while True:
                share = atomic_load(control, NEXT)
                if share >= last:
                    break
                if not compare_swap(control, NEXT, share, share + 1):
                    continue
                if timed:
                    begin = nanoseconds()
                function, record, kind = steps[i, FUNCTION], steps[i, RECORD], steps[i, KIND]
                found = np.int64(0)
                if kind == PART:
                    a, b = part(steps[i, FIRST], steps[i, LAST], steps[i, GRAIN], share - first, last - first)
                    if a < b:
                        found = call4(function, record, machine, a, b)
                elif kind == OWN:
                    found = call6(function, record, machine, steps[i, FIRST], steps[i, LAST], share - first, last - first)
                else:
                    value = call2(function, regs.ctypes.data, record)
                    if steps[i, FIRST]:
                        regs[steps[i, FIRST]] = value
                if timed:
                    atomic_add(counters, steps[i, NUMBER] * COUNTED + SPENT, nanoseconds() - begin)
                if found and compare_swap(control, FAILED, 0, turn * count + i + 1):
                    control[FOUND] = found
                atomic_add(control, DONE, 1)
    _wait(control, times * total)


_jobs: dict[int, SimpleQueue[tuple[Any, ...]]] = {}  # by process: a forked child has none of its parent's threads
_helpers: dict[int, int] = {}


def _help(jobs: SimpleQueue[tuple[Any, ...]]) -> None:
    while True:
        run_plan(*jobs.get())


def together(arguments: tuple[Any, ...], threads: int) -> None:
    """Run a plan on this thread and as many helpers as make up ``threads``; a helper that comes late finds nothing to do."""
    if threads > 1:
        process = os.getpid()
        jobs = _jobs.setdefault(process, SimpleQueue())
        while _helpers.get(process, 0) < threads - 1:
            _helpers[process] = _helpers.get(process, 0) + 1
            threading.Thread(target=_help, args=(jobs,), name="engine", daemon=True).start()
        for _ in range(threads - 1):
            jobs.put(arguments)
    run_plan(*arguments)
