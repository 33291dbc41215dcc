"""How much of the global buffer is in use while a program runs, found from the code alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.isa.program import Program
from sasimc.isa.spec import PHASES, ViewField
from sasimc.isa.walk import loop_ends
from sasimc.runtime.interpreter import Interpreter

__all__ = ["buffer_use", "live_bytes"]

_POINTS = 600
"""At most so many points a curve; a longer one keeps the largest value of every stretch."""

Ints = npt.NDArray[np.int64]


def _accesses(program: Program, index: int) -> Iterator[tuple[str, int, int, bool, bool]]:
    """(view, first byte, end, read, ring) of every buffer operand."""
    instr = program.code[index]
    for f, value in zip(instr.spec.fields, instr.operands, strict=True):
        if isinstance(f, ViewField) and program.views[value].space == "buf":
            view = program.views[value]
            yield value, view.addr, view.end, not f.write, bool(view.ring)


class _Lives:
    """Stretches of code over which parts of the buffer hold something, built up access by access."""

    def __init__(self, bounds: Ints, length: int) -> None:
        self.sizes = np.diff(bounds)
        self.delta = np.zeros(length + 1, np.int64)
        self.first = np.full(len(self.sizes), -1, np.int64)
        self.last = np.full(len(self.sizes), -1, np.int64)
        self.view = np.full(len(self.sizes), -1, np.int64)
        self.consumed = np.zeros(len(self.sizes), np.bool_)

    def close(self, which: npt.NDArray[np.bool_] | slice) -> None:
        """End what lives in these parts with its last access."""
        held = self.first[which] >= 0
        first, last, sizes = self.first[which][held], self.last[which][held], self.sizes[which][held]
        np.add.at(self.delta, first, sizes)
        np.subtract.at(self.delta, last + 1, sizes)
        self.first[which] = -1

    def touch(self, part: npt.NDArray[np.bool_], at: int, view: int, read: bool) -> None:
        """An access: overwriting, from another view, what has been read ends its life and begins a new one."""
        if not read:
            self.close(part & self.consumed & (self.view != view))
        begin = part & (self.first < 0)
        self.first[begin] = at
        self.last[part], self.consumed[part], self.view[part] = at, read, view


def live_bytes(program: Program, first: int, last: int) -> Ints:
    """Bytes of the buffer in use at each instruction first..last.

    A part of the buffer is in use from the first write of a tensor to its last read; a write through another view after a read begins the
    next tensor. What a loop reads before it writes, and every ring, is in use over the whole loop. The extent of a strided view counts
    with its gaps.
    """
    touched = {i: list(_accesses(program, i)) for i in range(first, last + 1)}
    edges = sorted({edge for found in touched.values() for _, a, b, *_ in found for edge in (a, b)})
    if not edges:
        return np.zeros(last + 1 - first, np.int64)
    bounds = np.array(edges, np.int64)
    number = {name: i for i, name in enumerate(program.views)}
    parts: dict[tuple[int, int], npt.NDArray[np.bool_]] = {}

    def part(a: int, b: int) -> npt.NDArray[np.bool_]:
        if (a, b) not in parts:
            parts[a, b] = (bounds[:-1] >= a) & (bounds[1:] <= b)
        return parts[a, b]

    carried: dict[int, list[npt.NDArray[np.bool_]]] = {}
    for begin, end in loop_ends(program)[0].items():
        if not first <= begin <= last:
            continue
        seen, keep = np.zeros(len(bounds) - 1, np.bool_), np.zeros(len(bounds) - 1, np.bool_)
        for i in range(begin, end + 1):
            for _, a, b, read, ring in sorted(touched[i], key=lambda t: not t[3]):
                where = part(a, b)
                if read or ring:
                    keep |= where & ~seen
                seen |= where
        carried.setdefault(begin, []).append(keep)
        carried.setdefault(end, []).append(keep)
    lives = _Lives(bounds, last + 1 - first)
    for i in range(first, last + 1):
        for keep in carried.get(i, ()):
            lives.touch(keep, i - first, -1, True)
        for name, a, b, read, _ in sorted(touched[i], key=lambda t: not t[3]):
            lives.touch(part(a, b), i - first, number[name], read)
    lives.close(slice(None))
    return np.cumsum(lives.delta)[:-1]


def _thin(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most ``_POINTS`` points: of every stretch the one with the most bytes, beginning where the stretch does."""
    if len(points) <= _POINTS:
        return points
    cuts = np.linspace(0, len(points), _POINTS + 1).astype(int)
    chosen = [(points[a], max(points[a:b], key=lambda p: p["bytes"])) for a, b in pairwise(cuts.tolist())]
    return [{**most, "cycle": start["cycle"]} for start, most in chosen]


def buffer_use(it: Interpreter) -> dict[str, Any]:
    """For every entry point that ran: ``runs``, ``capacity``, ``peak`` (bytes) and ``points``, a list of {``cycle``, ``bytes``, ``node``,
    ``phase``}.

    Time runs through the code once, every instruction as long as its executions take in a mean run (``cycles``, one after the other); a
    point holds until the next one.
    """
    program, out = it.program, dict[str, Any]()
    spent = it.instruction_cycles
    halts = [i for i, instr in enumerate(program.code) if instr.spec.flow == "halt"]
    for entry, first in program.entries.items():
        last = next((i for i in halts if i >= first), len(program.code) - 1)
        runs = spent.get(last, (0, 0))[0]
        if not runs:
            continue
        used, phase, at = live_bytes(program, first, last), PHASES[0], 0.0
        points: list[dict[str, Any]] = []
        for i in range(first, last + 1):
            instr = program.code[i]
            if instr.spec.flow == "phase":
                phase = str(instr.operands[0])
            point = {"cycle": round(at), "bytes": int(used[i - first]), "node": instr.origin.node, "phase": phase}
            at += spent.get(i, (0, 0))[1] / runs
            same = points and all(points[-1][k] == point[k] for k in ("bytes", "node", "phase"))
            if not same:
                points.append(point)
        out[entry] = {"runs": runs, "cycles": round(at), "capacity": it.machine.buffer.bytes, "peak": int(used.max(initial=0)),
                      "points": _thin(points)}  # fmt: skip
    return out
