"""Which lanes of the timeline an instruction on a matrix occupies, and for which part of its time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from sasimc.isa.choices import LANE_KINDS
from sasimc.isa.errors import SasError, near
from sasimc.isa.instructions.array import scratch_tiles
from sasimc.isa.machine import activation_cycles
from sasimc.isa.objects import Matrix
from sasimc.isa.program import Program
from sasimc.isa.spec import MatField
from sasimc.profiling.profile import place

__all__ = ["LANE_PID", "MAX_SUBARRAY_LANES", "Lanes"]

LANE_PID: Final = 100
"""Process number of the first bank (sub-array lanes) or of all lanes (groups or banks)."""


MAX_SUBARRAY_LANES: Final = 128
"""A program that uses more sub-arrays gets a lane for every activation group (rule ``row``) or bank (rule ``free``)."""

_ROW_ACCESS: Final = {"array_bits_read", "rows_written_compute", "rows_written_transposable"}
"""Declared events of instructions that read or write some rows of a matrix."""

Share = tuple[int, int, float, float]
"""Process and thread of a lane, begin and length as parts of the instruction's time in the arrays."""


class Lanes:
    """Lanes of a program's machine. ``names``: (process, thread) -> (process's name, lane's).

    ``kind``: ``subarray``, ``group`` or ``bank``; ``auto`` takes sub-arrays unless there are too many for a viewer.

    Raises:
        SasError: no such kind of lane.
    """

    def __init__(self, program: Program, kind: str = "auto") -> None:
        if kind not in LANE_KINDS:
            raise SasError(f"no lanes of kind {kind!r}", hint=near(kind, LANE_KINDS) or f"one of {', '.join(LANE_KINDS)}")
        self.program, self.machine = program, program.machine
        used = sorted({t.subarray for m in program.matrices.values() for t in m.tiles})
        coarse = "group" if self.machine.activation.rule == "row" else "bank"
        self.kind = kind if kind != "auto" else "subarray" if len(used) <= MAX_SUBARRAY_LANES else coarse
        self.names: dict[tuple[int, int], tuple[str, str]] = {}
        self._lane_of: dict[int, tuple[int, int]] = {}
        for s in used:
            self._lane_of[s] = self._lane(s)
        self._shares: dict[tuple[int, int, int], tuple[Share, ...]] = {}

    def _lane(self, subarray: int) -> tuple[int, int]:
        bank, mat = place(self.machine, subarray)
        number = bank[0] * self.machine.array.banks[1] + bank[1]
        if self.kind == "subarray":
            lane, names = (
                (LANE_PID + number, subarray),
                (f"bank ({bank[0]}, {bank[1]})", f"sub-array {subarray}, MAT ({mat[0]}, {mat[1]})"),
            )
        elif self.kind == "group":
            group = self.machine.group_of(subarray)
            lane, names = (LANE_PID, group), ("arrays by activation group", f"group {group}: {self._block(group)}")
        else:
            lane, names = (LANE_PID, number), ("arrays by bank", f"bank ({bank[0]}, {bank[1]})")
        lane = (lane[0], lane[1] + 1)  # thread 0 is the process itself to some viewers
        self.names[lane] = names
        return lane

    def _block(self, group: int) -> str:
        """Banks and MATs of an activation group in words."""
        size = self.machine.group_size
        (b0, m0), (b1, m1) = place(self.machine, group * size), place(self.machine, (group + 1) * size - 1)
        return f"banks {_span(b0[0], b1[0])}, {_span(b0[1], b1[1])}, MATs {_span(m0[0], m1[0])}, {_span(m0[1], m1[1])}"

    def shares(self, key: tuple[int, int, int], events: Mapping[str, int]) -> tuple[Share, ...]:
        """Lanes of an execution (instruction, first row, end) with its declared events; empty for one that works on no matrix."""
        found = self._shares.get(key)
        if found is None:
            found = self._shares[key] = self._find(*key, events)
        return found

    def _find(self, index: int, r0: int, r1: int, events: Mapping[str, int]) -> tuple[Share, ...]:
        instr = self.program.code[index]
        field = next((f for f in instr.spec.fields if isinstance(f, MatField)), None)
        if field is None or r1 < r0 or r0 < 0:
            return ()
        mat = self.program.matrices[str(instr.operands[instr.spec.fields.index(field)])]
        loads = self._loads(index, mat, r0, r1, events)
        whole = activation_cycles(self.machine, loads)
        if not whole:
            return ()
        if self.machine.activation.rule == "row":
            return self._in_turn(loads, whole)
        return self._free(loads, whole)

    def _loads(self, index: int, mat: Matrix, r0: int, r1: int, events: Mapping[str, int]) -> dict[int, int]:
        """Lines driven in each sub-array, in proportion: the columns for a transposed product, the part of the scratch rows that an operand
        fills, the rows worked on for reads and writes, else all word lines of the matrix."""
        if "column_activations" in events:
            return mat.column_loads
        if "row_activations_gradient" in events:
            return _summed((t.subarray, t.rows) for t in mat.tiles[: self._scratch_tiles(index, mat, r0, r1)])
        if events.keys() & _ROW_ACCESS:
            return _summed((t.subarray, min(r1, t.k + t.rows) - max(r0, t.k)) for t in mat.tiles)
        return mat.loads

    def _scratch_tiles(self, index: int, mat: Matrix, r0: int, r1: int) -> int:
        """Scratch tiles that an operand takes which the instruction writes there."""
        instr = self.program.code[index]
        return len(scratch_tiles(mat, *instr.spec.operand(self.program.resolve(instr), r0, r1))[: len(mat.tiles)])

    def _in_turn(self, loads: dict[int, int], whole: int) -> tuple[Share, ...]:
        """Rule ``row``: group after group, each as long as its busiest sub-array."""
        groups: dict[int, dict[int, int]] = {}
        for s, n in sorted(loads.items()):
            groups.setdefault(self.machine.group_of(s), {})[s] = n
        out: list[Share] = []
        at = 0
        for members in groups.values():
            lanes: dict[tuple[int, int], int] = {}
            for s, n in members.items():
                lanes[self._lane_of[s]] = max(lanes.get(self._lane_of[s], 0), n)
            out += [(*lane, at / whole, n / whole) for lane, n in lanes.items()]
            at += max(members.values())
        return tuple(out)

    def _free(self, loads: dict[int, int], whole: int) -> tuple[Share, ...]:
        """Rule ``free``: every lane from the beginning, as long as it has work."""
        mats = self.machine.activation.mats[0] * self.machine.activation.mats[1]
        lanes: dict[tuple[int, int], list[int]] = {}
        for s, n in loads.items():
            lanes.setdefault(self._lane_of[s], []).append(n)
        return tuple((*lane, 0.0, min(1.0, max(max(v), -(-sum(v) // mats)) / whole)) for lane, v in lanes.items())


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _summed(lines: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Lines by sub-array; what is not positive is left out."""
    out: dict[int, int] = {}
    for subarray, n in lines:
        if n > 0:
            out[subarray] = out.get(subarray, 0) + n
    return out
