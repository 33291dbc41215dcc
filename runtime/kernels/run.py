"""Working off a plan: legs of steps that threads share, without the interpreter.

Every thread calls `run_plan` with the same arguments. A leg is worked off in one of three ways. In order: threads take shares of a step, which is
taken only when all earlier steps are done. Side by side: threads take whole passes of a loop, each with registers, buffer and accumulators of its
own (`engines.passes` says when that means the same). Alone: one thread does it all, as it is too short to be shared. Any way the next share is taken by a compare-and-swap, so a thread that the system holds
back delays nobody unless it is inside a share, and one thread alone does everything. Integer results do not depend on who does what.
"""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue
from typing import Any

import numpy as np
from numba.np.numpy_support import carray

from sasimc.runtime.kernel import COUNTED, SPENT, bytes_at, part, vector, words_at
from sasimc.runtime.kernels.compiling import for_python, inner
from sasimc.runtime.kernels.sync import (
    atomic_add,
    atomic_load,
    atomic_max,
    call2,
    call4,
    call6,
    compare_swap,
    give_way,
    nanoseconds,
    pointer,
    relax,
)

__all__ = [
    "ALONE",
    "APART",
    "BEFORE",
    "CLEAN",
    "CREW",
    "FAILED",
    "FIXED",
    "FOUND",
    "HEAD",
    "IN_ORDER",
    "LARGEST",
    "LAST_PASS",
    "LEG",
    "LEG_CONTROL",
    "MODE",
    "MOVED",
    "OWN",
    "OWNED",
    "PART",
    "REGISTER",
    "SHARED",
    "STEP",
    "TIMES",
    "WHERE",
    "put_back",
    "run_plan",
    "together",
    "warm",
]

STEP = 8
RECORD, FUNCTION, NUMBER, KIND, FIRST, LAST, GRAIN, BEFORE = range(STEP)
"""A step: address of its operand record and of its kernel, its instruction's number, who cuts it (below), what it works on, what stays together,
shares of all steps before it. A register instruction has its destination in FIRST."""

PART, OWN, REGISTER = range(3)
"""Cut into parts at multiples of GRAIN from FIRST; cut by the kernel itself; a register instruction."""

LEG = 12
STEPS, COUNT, TIMES, MODE, ORDER, MOVES, SPANS, SPAN_COUNT, ARRAYS, ARRAY_COUNT, NUMBERS, NUMBER_COUNT = range(LEG)
"""A leg: address and number of its steps (one row more, with only BEFORE), passes, how it is worked off (below); and, where passes run side by
side, addresses of what `engines.passes.Passes` holds: int64 [steps, 3] order, [registers, 2] what becomes of registers, [spans, 4] memory, numbers
of sub-arrays and of instructions that count."""

IN_ORDER, APART, ALONE = range(3)

FIXED, MOVED, LARGEST, LAST_PASS = range(4)
"""A register in passes side by side: none writes it; each pass moves it by a constant; the largest value counts; the last pass's value does."""

OWNED, SHARED, CLEAN = range(3)
"""A span of memory (kind, 0 buffer or 1 accumulators, first byte, bytes): every thread has its own; sums that passes add to in turn; sums that
must be zero as the leg begins."""

CREW = 5
MACHINE, SUMMING, REGISTERS, BUFFER, SUMS = range(CREW)
"""Of a thread that works side by side: addresses of its machine's record, of the one with the shared accumulators, of registers and memories."""

FAILED, FOUND, WHERE, INSIDE, PLACES, HEAD = 0, 1, 2, 8, 16, 24
"""First words that threads share: 1 + number of the step that failed, what it found, in which leg; threads that are inside; crew that came."""

NEXT, DONE, FINAL, TURNS, LEG_CONTROL = 0, 8, 9, 16, 16
"""Then, for each leg: shares taken; shares done, who did the last pass; and 8 words for each stretch of steps that passes run in turn."""

_PATIENCE = 2000  # rounds of waiting (some 20 us) before the processor is offered to others


@inner
def _wait(control, word, value):  # type: ignore[no-untyped-def]
    """Until a word has reached a value; False if a step failed."""
    waited = 0
    while atomic_load(control, word) < value:
        if atomic_load(control, FAILED):
            return False
        waited += 1
        relax()
        if waited > _PATIENCE:
            give_way()
    return True


@inner
def _fail(control, leg, at, found):  # type: ignore[no-untyped-def]
    if compare_swap(control, FAILED, 0, at + 1):
        control[FOUND], control[WHERE] = found, leg


@inner
def _do(steps, i, machine, regs, share, shares):  # type: ignore[no-untyped-def]
    """One share of a step."""
    function, record, kind = steps[i, FUNCTION], steps[i, RECORD], steps[i, KIND]
    if kind == PART:
        a, b = part(steps[i, FIRST], steps[i, LAST], steps[i, GRAIN], share, shares)
        return call4(function, record, machine, a, b) if a < b else np.int64(0)
    if kind == OWN:
        return call6(function, record, machine, steps[i, FIRST], steps[i, LAST], share, shares)
    value = call2(function, regs, record)
    if steps[i, FIRST]:
        vector(regs, steps[i, FIRST] + 1)[steps[i, FIRST]] = value
    return np.int64(0)


@inner
def _timed(steps, i, machine, regs, share, shares, counters, timed):  # type: ignore[no-untyped-def]
    if not timed:
        return _do(steps, i, machine, regs, share, shares)
    begin = nanoseconds()
    found = _do(steps, i, machine, regs, share, shares)
    atomic_add(counters, steps[i, NUMBER] * COUNTED + SPENT, nanoseconds() - begin)
    return found


@inner
def _in_order(leg, number, control, at, main, counters, timed):  # type: ignore[no-untyped-def]
    """Work off a leg step by step; False if one failed."""
    count, times = leg[COUNT], leg[TIMES]
    steps = carray(pointer(leg[STEPS]), (count + 1, STEP), np.int64)
    total = steps[count, BEFORE]
    if atomic_load(control, at + DONE) == times * total:
        return True
    for turn in range(times):
        base = turn * total
        for i in range(count):
            first, last = base + steps[i, BEFORE], base + steps[i + 1, BEFORE]
            if not _wait(control, at + DONE, first) or atomic_load(control, FAILED):
                return False
            while True:
                share = atomic_load(control, at + NEXT)
                if share >= last:
                    break
                if not compare_swap(control, at + NEXT, share, share + 1):
                    continue
                found = _timed(steps, i, main[MACHINE], main[REGISTERS], share - first, last - first, counters, timed)
                if found:
                    _fail(control, number, turn * count + i, found)
                atomic_add(control, at + DONE, 1)
    return _wait(control, at + DONE, times * total) and not atomic_load(control, FAILED)


@inner
def _alone(leg, number, control, at, main, counters, timed):  # type: ignore[no-untyped-def]
    """Do all of a leg, or wait until another thread has; False if a step failed."""
    if compare_swap(control, at + NEXT, 0, 1):
        count, one = leg[COUNT], np.int64(1)
        steps = carray(pointer(leg[STEPS]), (count + 1, STEP), np.int64)
        for turn in range(leg[TIMES]):
            for i in range(count):
                found = _timed(steps, i, main[MACHINE], main[REGISTERS], np.int64(0), one, counters, timed)
                if found:
                    _fail(control, number, turn * count + i, found)
                    return False
        atomic_add(control, at + DONE, 1)
    return _wait(control, at + DONE, 1)


# -------------------------------------------------------------------------------------------------------- side by side


@inner
def _copy(to, of, size):  # type: ignore[no-untyped-def]
    target, source = bytes_at(to, size), bytes_at(of, size)
    for i in range(size):
        target[i] = source[i]


@inner
def _word(value):  # type: ignore[no-untyped-def]
    """What a register of 32 bits holds of it."""
    return np.int64(np.int32(value & 0xFFFFFFFF))


@inner
def _spans(leg):  # type: ignore[no-untyped-def]
    return carray(pointer(leg[SPANS]), (leg[SPAN_COUNT], 4), np.int64)


@inner
def _owned(leg, to, of):  # type: ignore[no-untyped-def]
    """What threads have of their own, from one to the other."""
    spans = _spans(leg)
    for i in range(spans.shape[0]):
        if spans[i, 0] == OWNED:
            word = BUFFER + spans[i, 1]
            _copy(to[word] + spans[i, 2], of[word] + spans[i, 2], spans[i, 3])


@inner
def _arrive(leg, me, who, main, words):  # type: ignore[no-untyped-def]
    """What a thread needs before its first pass: registers, memories and zero sums."""
    regs, given = vector(me[REGISTERS], words), vector(main[REGISTERS], words)
    for r in range(words):
        regs[r] = given[r]
    if who:
        _owned(leg, me, main)
        spans = _spans(leg)
        for i in range(spans.shape[0]):
            if spans[i, 0] == CLEAN:  # another thread may be adding to the machine's own
                words_at(me[SUMS] + spans[i, 2], spans[i, 3] >> 2)[:] = 0


@inner
def _undo(leg, crew, undo, back):  # type: ignore[no-untyped-def]
    """All that the leg may change but host memory, to the memory for that, or back."""
    spans, at, main = _spans(leg), undo[0], crew[0]
    for i in range(spans.shape[0]):
        if spans[i, 0] != CLEAN:
            place, size = main[BUFFER + spans[i, 1]] + spans[i, 2], spans[i, 3]
            if back:
                _copy(place, at, size)
            else:
                _copy(at, place, size)
            at += size
    numbers = vector(leg[ARRAYS], leg[ARRAY_COUNT])
    for i in range(leg[ARRAY_COUNT]):
        for what in range(2, 8, 2):  # cells, which were written, wear
            place, size = undo[what] + numbers[i] * undo[what + 1], undo[what + 1]
            if back:
                _copy(place, at, size)
            else:
                _copy(at, place, size)
            at += size
    instructions, size = vector(leg[NUMBERS], leg[NUMBER_COUNT]), np.int64(8 * COUNTED)
    for i in range(leg[NUMBER_COUNT]):
        place = undo[8] + instructions[i] * size
        if back:
            _copy(place, at, size)
        else:
            _copy(at, place, size)
        at += size


@for_python
def put_back(leg, crew, undo):  # type: ignore[no-untyped-def]
    """Memories, arrays and counters as they were before a leg whose passes ran side by side."""
    _undo(leg, crew, undo, True)


@inner
def _begin(leg, crew, undo):  # type: ignore[no-untyped-def]
    """Keep what may have to be put back; False where sums are not zero that must be."""
    _undo(leg, crew, undo, False)
    words = undo[1]
    main, largest = vector(crew[0, REGISTERS], words), vector(crew[0, SUMMING], words)
    for r in range(words):
        largest[r] = main[r]
    spans = _spans(leg)
    for i in range(spans.shape[0]):
        if spans[i, 0] == CLEAN:
            sums = words_at(crew[0, SUMS] + spans[i, 2], spans[i, 3] >> 2)
            for j in range(sums.shape[0]):
                if sums[j] != 0:
                    return False
    return True


@inner
def _finish(leg, crew, undo, final):  # type: ignore[no-untyped-def]
    """What the passes leave: memory and registers of the last one."""
    if final:
        _owned(leg, crew[0], crew[1 + final])
    words = undo[1]
    moves = carray(pointer(leg[MOVES]), (words, 2), np.int64)
    main, largest = vector(crew[0, REGISTERS], words), vector(crew[0, SUMMING], words)
    last = vector(crew[1 + final, REGISTERS], words)
    for r in range(words):
        if moves[r, 0] == MOVED:
            main[r] = _word(main[r] + moves[r, 1] * leg[TIMES])
        elif moves[r, 0] == LARGEST:
            main[r] = largest[r]
        elif moves[r, 0] == LAST_PASS:
            main[r] = last[r]


@inner
def _pass(leg, number, control, at, turn, crew, me, words, counters, timed):  # type: ignore[no-untyped-def]
    """One pass; False if a step failed."""
    count = leg[COUNT]
    steps = carray(pointer(leg[STEPS]), (count + 1, STEP), np.int64)
    order, moves = carray(pointer(leg[ORDER]), (count, 3), np.int64), carray(pointer(leg[MOVES]), (words, 2), np.int64)
    main, regs, largest = vector(crew[0, REGISTERS], words), vector(me[REGISTERS], words), vector(crew[0, SUMMING], words)
    for r in range(words):
        if moves[r, 0] == MOVED:
            regs[r] = _word(main[r] + moves[r, 1] * turn)
    one = np.int64(1)
    for i in range(count):
        if atomic_load(control, FAILED):
            return False
        word = at + TURNS + 8 * (order[i, 0] - 1)
        if order[i, 0] and not _wait(control, word, turn):
            return False
        found = _timed(steps, i, me[SUMMING if order[i, 2] else MACHINE], me[REGISTERS], np.int64(0), one, counters, timed)
        if found:
            _fail(control, number, i, found)
            return False
        if order[i, 1]:
            atomic_add(control, word, 1)
    for r in range(words):
        if moves[r, 0] == LARGEST:
            atomic_max(largest, r, regs[r])
    return True


@inner
def _side_by_side(leg, number, control, at, crew, who, undo, counters, timed):  # type: ignore[no-untyped-def]
    """Work off a leg pass by pass; False if one failed. Before the first pass and after the last one there is a share of preparation and end."""
    times, words, came, me = leg[TIMES], undo[1], False, crew[1 + who]
    while True:
        share = atomic_load(control, at + NEXT)
        if share >= times + 2:
            break
        if not _wait(control, at + DONE, min(share, 1) if share <= times else share):
            return False
        if not compare_swap(control, at + NEXT, share, share + 1):
            continue
        if share == 0:
            if not _begin(leg, crew, undo):
                _fail(control, number, np.int64(0), np.int64(0))
                return False
        elif share <= times:
            if not came:
                came = True
                _arrive(leg, me, who, crew[0], words)
            if share == times:
                control[at + FINAL] = who
            if not _pass(leg, number, control, at, share - 1, crew, me, words, counters, timed):
                return False
        else:
            _finish(leg, crew, undo, control[at + FINAL])
        atomic_add(control, at + DONE, 1)
    return _wait(control, at + DONE, times + 2)


# ----------------------------------------------------------------------------------------------------------------- plans


@for_python
def run_plan(legs, control, crew, undo, counters, timed):  # type: ignore[no-untyped-def]
    """Work off a plan together with every other thread that calls this with the same arguments.

    legs: int64 [n, LEG + 1], the last column is where the leg's words begin in control; control: int64, zeros at first; crew: int64
    [1 + threads, CREW], the first row is the machine itself, with address of the largest values of registers in place of SUMMING; undo: int64,
    address of memory to keep what may have to be put back, number of registers, address and bytes of a sub-array for cells, written, wear, address of
    the counters; counters: int64; timed: whether to add up nanoseconds. Returns when all is done; after a step that failed nothing is.
    """
    atomic_add(control, INSIDE, 1)
    who = min(atomic_add(control, PLACES, 1), crew.shape[0] - 2)
    for i in range(legs.shape[0]):
        leg, at = legs[i], legs[i, LEG]
        if atomic_load(control, FAILED):
            break
        if leg[MODE] == APART:
            done = _side_by_side(leg, i, control, at, crew, who, undo, counters, timed)
        elif leg[MODE] == ALONE:
            done = _alone(leg, i, control, at, crew[0], counters, timed)
        else:
            done = _in_order(leg, i, control, at, crew[0], counters, timed)
        if not done:
            break
    atomic_add(control, INSIDE, -1)
    waited = 0
    while atomic_load(control, FAILED) and atomic_load(control, INSIDE):
        waited += 1
        relax()
        if waited > _PATIENCE:
            give_way()


_jobs: dict[int, SimpleQueue[tuple[Any, ...]]] = {}  # by process: a forked child has none of its parent's threads
_helpers: dict[int, int] = {}


def _help(jobs: SimpleQueue[tuple[Any, ...]]) -> None:
    while True:
        job = jobs.get()
        run_plan(*job[0])
        del job


def together(arguments: tuple[Any, ...], threads: int, keep: object) -> None:
    """Run a plan on this thread and as many helpers as make up ``threads``; a helper that comes late finds nothing to do, but reads the plan, which
    ``keep`` holds."""
    if threads > 1:
        process = os.getpid()
        jobs = _jobs.setdefault(process, SimpleQueue())
        while _helpers.get(process, 0) < threads - 1:
            _helpers[process] = _helpers.get(process, 0) + 1
            threading.Thread(target=_help, args=(jobs,), name="engine", daemon=True).start()
        for _ in range(threads - 1):
            jobs.put((arguments, keep))
    run_plan(*arguments)


def warm() -> None:
    """Compile or load what Python itself calls for every plan."""
    legs, crew, none = np.zeros((0, LEG + 1), np.int64), np.zeros((2, CREW), np.int64), np.zeros(1, np.int64)
    run_plan(legs, np.zeros(HEAD, np.int64), crew, none, none, False)
