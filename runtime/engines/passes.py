"""Which loops may run their passes side by side, on threads with registers, buffer and accumulators of their own.

That means the same as one pass after another where no pass reads what an earlier one left: all it reads it has written itself, or nobody writes it.
Three things that compiled programs do are no obstacle. Sums that are zero as a pass begins and drained as it ends: every thread has zeros of its
own. A register that only keeps the largest of what it is given: the largest of all threads. Sums that a loop only adds to (gradients), and cells
that it writes (the scratch rows of gradients): the steps between the first and the last of these run in turn, pass by pass, on shared memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from sasimc.isa.analysis.footprint import footprint
from sasimc.isa.spec import MatField, Reg, ViewField
from sasimc.runtime.engines.datapath import Leg
from sasimc.runtime.kernel import COUNTED
from sasimc.runtime.kernels.run import APART, CLEAN, FIXED, LARGEST, LAST_PASS, MOVED, OWNED, SHARED
from sasimc.runtime.state import State

if TYPE_CHECKING:
    from sasimc.runtime.engines.plans import LoopPlan

__all__ = ["Passes", "side_by_side"]

Ints = npt.NDArray[np.int64]

_DEFINED, _READ, _ADDED, _WRITTEN, _DRAINED = 1, 2, 4, 8, 16
"""What a pass did to a byte: gave it a value of its own; read, or added to, what it held as the pass began; changed it; left it zero."""

_SPACES: Final = ("buf", "acc")
_GAP: Final = 512
"""Bytes between two spans that are rather copied with them."""


class _Obstacle(Exception):
    """Passes may not run side by side."""


@dataclass
class Passes:
    """What `kernels.run` needs to run passes side by side (see there): order int64 [steps, 3], moves [registers, 2], spans [n, 4], numbers of the
    sub-arrays that steps write, and of the instructions."""

    order: Ints
    moves: Ints
    spans: Ints
    arrays: Ints
    numbers: Ints

    def leg(self, steps: Ints, passes: int) -> Leg:
        """The leg of so many passes."""
        lists = (n for a in (self.spans, self.arrays, self.numbers) for n in (a.ctypes.data, len(a)))
        return steps.ctypes.data, len(steps) - 1, passes, APART, self.order.ctypes.data, self.moves.ctypes.data, *lists

    @property
    def turns(self) -> int:
        """Stretches of steps that run in turn."""
        return int(self.order[:, 0].max(initial=0))

    def undo(self, state: State) -> int:
        """Bytes that may have to be put back."""
        array = state.cells[0].nbytes + state.written[0].nbytes + state.wear[0].nbytes
        spans = int(self.spans[self.spans[:, 0] != CLEAN, 3].sum())
        return spans + len(self.arrays) * array + len(self.numbers) * 8 * COUNTED


def side_by_side(plan: LoopPlan, passes: int, regs: Sequence[int]) -> Passes | None:
    """How the passes of a plan run side by side that begins with these registers; None if they may not."""
    try:
        return _Analysis(plan, passes, regs).result()
    except _Obstacle:
        return None


class _Analysis:
    """One pass of a plan, followed once."""

    def __init__(self, plan: LoopPlan, passes: int, regs: Sequence[int]) -> None:
        self.plan, self.datapath, self.passes, self.regs = plan, plan.datapath, passes, regs
        state = self.datapath.state
        self.marks = {"buf": np.zeros(state.buf.nbytes, np.uint8), "acc": np.zeros(state.acc.nbytes, np.uint8)}
        self.places: dict[tuple[int, int, int], list[Any]] = {}
        # first byte in the first pass, end, bytes on in the next, whether it is written
        self.host: list[tuple[int, int, int, bool]] = []
        self.unsure: list[tuple[int, int]] = []  # host memory read that the pass had not written
        self.body = iter(plan.body.samples)
        words = len(state.regs)
        self.defined, self.needs, self.raised, self.set = ([False] * words for _ in range(4))
        self.adding: list[tuple[int, list[Any]]] = []
        self.writing: list[tuple[int, Any]] = []
        for place, (pc, r0, r1) in enumerate(plan.body.keys):
            spec, o = self.datapath.code[pc]
            if spec.flow or (r0 < 0 and spec.group != "control"):
                continue
            self._registers(spec, o)
            if spec.group != "control":
                self._matrices(place, spec, o)
                self._touches(place, spec, o, r0, r1)

    # ------------------------------------------------------------------------------------------------------ one pass

    def _registers(self, spec: Any, o: Any) -> None:
        fields = [(f, getattr(o, f.name)) for f in spec.of_kind(Reg)]
        for f, register in fields:
            if not f.write and not self.defined[register]:
                self.needs[register] = True
        for f, register in fields:
            if f.write and f.largest and not self.defined[register]:
                self.raised[register] = True
            elif f.write:
                self.set[register] = self.defined[register] = True

    def _matrices(self, place: int, spec: Any, o: Any) -> None:
        changes = False
        for f in spec.of_kind(MatField):
            if getattr(o, f.name) in self.plan.written:
                if not f.write:
                    raise _Obstacle
                changes = True
        if changes:
            self.writing.append((place, self.plan.used[self.plan.body.keys[place][0]].writes))

    def _touches(self, place: int, spec: Any, o: Any, r0: int, r1: int) -> None:
        samples = {getattr(o, f.name).name: next(self.body) for f in spec.of_kind(ViewField) if f.sample}
        touches = list(footprint(spec, o, r0, r1))
        here = []
        for t in touches:
            if t.view.staged is not None:
                raise _Obstacle
            if t.view.space == "host":
                self._in_host(t.view, "w" in t.access, *samples[t.view.name][1:])
            else:
                here.append((t.access, self._parts(t.view, t.first, t.last)))
        for access, parts in here:
            if access in ("r", "rw"):
                for part in parts:
                    part |= ((part & _DEFINED) ^ _DEFINED) << 1
        for access, parts in here:
            for part in parts:
                if access in ("w", "rw"):
                    part[...] = part & ~np.uint8(_DRAINED) | (_WRITTEN | _DEFINED)
                elif access == "a":
                    part[...] = part & ~np.uint8(_DRAINED) | ((part & _DEFINED) ^ _DEFINED) << 2 | _WRITTEN
                elif access == "d":
                    part |= ((part & _DEFINED) ^ _DEFINED) << 2 | (_WRITTEN | _DEFINED | _DRAINED)
            if access == "a":
                self.adding.append((place, parts))

    def _parts(self, view: Any, first: int, last: int) -> list[Any]:
        """The marks of rows of a view."""
        key = (id(view), first, last)
        if key not in self.places:
            marks, item = self.marks[view.space], view.np_dtype.itemsize
            rows = np.ndarray((*view.phys_shape, item), np.uint8, marks.data, view.offset, (*view.strides, 1))
            parts = [rows[at : at + count] for _, at, count in view.segments(first, last)]
            self.places[key] = [_flat(marks, p) for p in parts]
        return self.places[key]

    def _in_host(self, view: Any, write: bool, register: int, constant: int) -> None:
        value, move = self.regs[register] if register else 0, self.plan.body.moves[register] if register else 0
        first = view.low + (value + constant) * view.batch
        last = first + view.high - view.low
        if not write:
            if not any(w and a <= first and last <= b for a, b, _, w in self.host):
                self.unsure.append((first, last))
        elif any(a < last and first < b for a, b in self.unsure):
            raise _Obstacle  # a pass that has to be run again would read what it wrote
        self.host.append((first, last, move * view.batch, write))

    # -------------------------------------------------------------------------------------------------------- result

    def result(self) -> Passes:
        self._check_host()
        spans, summed = self._memory()
        order = self._order(summed)
        subs = sorted({int(t.subarray) for _, writes in self.writing for m in writes for t in m.tiles})
        return Passes(order, self._moves(), spans, np.array(subs, np.int64), np.array(list(self.plan.used), np.int64))

    def _moves(self) -> Ints:
        out = np.zeros((len(self.needs), 2), np.int64)
        for r in range(1, len(out)):
            move = self.plan.body.moves.get(r)
            if self.raised[r] and (self.set[r] or self.needs[r]):
                raise _Obstacle
            if self.raised[r]:
                out[r, 0] = LARGEST
            elif self.set[r] and move is not None:
                out[r] = MOVED, move
            elif self.set[r]:
                out[r, 0] = LAST_PASS
                if self.needs[r]:
                    raise _Obstacle
            else:
                out[r, 0] = FIXED
        return out

    def _check_host(self) -> None:
        """No pass writes host memory that another one touches."""
        first, last, step, write = np.array(sorted(set(self.host)), np.int64).reshape(-1, 4).T
        ends = first + step * (self.passes - 1)
        low, high = np.minimum(first, ends), np.maximum(last, last + step * (self.passes - 1))
        for i in np.flatnonzero(write):
            meet = (low < high[i]) & (low[i] < high)
            if not meet.any():
                continue
            if (step[meet] != step[i]).any() or step[i] == 0:
                raise _Obstacle
            # passes k apart meet where first_j + k step < last_i and first_i < last_j + k step
            size = abs(int(step[i]))
            least = (first[i] - last[meet]) // size + 1
            most = -((first[meet] - last[i]) // size) - 1
            later = (most >= 1) & (least < self.passes)
            earlier = (least <= -1) & (most > -self.passes)
            if ((least <= most) & (later | earlier)).any():
                raise _Obstacle

    def _memory(self) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """The spans of buffer and accumulators; which bytes of the accumulators passes add to in turn."""
        out: list[tuple[int, int, int, int]] = []
        summed = np.zeros(0, np.bool_)
        for number, space in enumerate(_SPACES):
            marks = self.marks[space]
            touched = np.flatnonzero(marks)
            if not touched.size:
                continue
            low, high = int(touched[0]) & ~7, int(touched[-1]) + 1
            m = marks[low:high]
            carried = (m & _WRITTEN != 0) & (m & (_READ | _ADDED) != 0)
            clean = carried & (m & _DRAINED != 0)
            sums = carried & (m & (_DEFINED | _READ) == 0)
            if (carried & (m & _READ != 0)).any() or (carried & ~clean & ~sums).any() or (space == "buf" and carried.any()):
                raise _Obstacle
            out += [(OWNED, number, low + a, b - a) for a, b in _runs((m != 0) & ~sums, sums)]
            out += [(SHARED, number, low + a, b - a) for a, b in _runs(sums, ~sums)]
            out += [(CLEAN, number, low + a, b - a) for a, b in _runs(clean, ~clean)]
            if space == "acc":
                summed = np.zeros(marks.size, np.bool_)
                summed[low:high] = sums
        return np.array(out, np.int64).reshape(-1, 4), summed

    def _order(self, summed: npt.NDArray[np.bool_]) -> Ints:
        """Of every step: number of the stretch that runs in turn and is entered with it or goes on (0: none), whether the stretch ends with it,
        whether it adds to the shared accumulators."""
        steps = {}  # place in the body -> its steps
        for i, place in enumerate(self.plan.keys):
            steps.setdefault(place, []).append(i)
        turns: list[list[int]] = []
        base = self.marks["acc"].ctypes.data
        owners: dict[Any, tuple[int, int]] = {}

        def claim(what: Any, place: int) -> None:
            first, last = owners.get(what, (place, place))
            owners[what] = min(first, place), max(last, place)

        summing: set[int] = set()
        for place, parts in self.adding if summed.any() else ():
            own = [np.ndarray(p.shape, np.bool_, summed.data, p.ctypes.data - base, p.strides) for p in parts]
            if all(p.all() for p in own):
                claim("sums", place)
                summing.add(place)
            elif any(p.any() for p in own):
                raise _Obstacle
        for place, writes in self.writing:
            for matrix in writes:
                claim("cells" if matrix.aliases else matrix, place)
        for first, last in sorted(owners.values()):
            if turns and first <= turns[-1][1]:
                turns[-1][1] = max(turns[-1][1], last)
            else:
                turns.append([first, last])
        order = np.zeros((len(self.plan.keys), 3), np.int64)
        for number, (first, last) in enumerate(turns, 1):
            inside = [i for place in range(first, last + 1) for i in steps.get(place, ())]
            order[inside, 0] = number
            order[inside[-1], 1] = 1
        for place in summing:
            order[steps[place], 2] = 1
        return order


def _flat(marks: npt.NDArray[np.uint8], part: Any) -> Any:
    """The same bytes as one run, where they are one."""
    if part.flags.c_contiguous:
        at = part.ctypes.data - marks.ctypes.data
        return marks[at : at + part.size]
    return part


def _runs(wanted: npt.NDArray[np.bool_], not_between: npt.NDArray[np.bool_]) -> Sequence[tuple[int, int]]:
    """Runs of wanted bytes; those with few bytes between them, none of which may not be taken along, are one."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], wanted, [False])).astype(np.int8)))
    out: list[tuple[int, int]] = []
    for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if out and a - out[-1][1] <= _GAP and not not_between[out[-1][1] : a].any():
            out[-1] = out[-1][0], b
        else:
            out.append((a, b))
    return out
