"""What a run did and where: executions, cycles and events by (phase, ONNX node, unit, mnemonic, matrix, entry), and how the matrices stand in the
sub-arrays. This is what the cost model and the reports read (docs/reference/run-json.md)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from sasimc.isa.binary.container import encode_program
from sasimc.isa.machine import Machine
from sasimc.isa.program import Program
from sasimc.isa.spec import EVENTS, PHASES, MatField
from sasimc.profiling.buffer_use import buffer_use
from sasimc.runtime.engines.counters import Executed, PhaseCounter
from sasimc.runtime.interpreter import Interpreter

__all__ = ["SCHEMA", "Meter", "ProfileRow", "layout", "place", "profile", "profile_rows", "program_digest", "wear"]

SCHEMA: Final = 1
"""Version of the format. Keys may be added within a version; one that changes its meaning makes a new version."""

_ACTIVATIONS = ("row_activations", "row_activations_depthwise", "row_activations_gradient", "column_activations")
_WRITES = ("rows_written_compute", "rows_written_transposable")


@dataclass
class ProfileRow:
    """What one kind of instruction did for one ONNX node in one phase of one entry point.

    ``executions``: instructions issued. ``busy_cycles``: their cycles one after the other, nothing skipped. ``cycles``: their share of the
    phase's cycles; what overlaps is shared in proportion to busy cycles, so the rows add up to the run's cycles. ``events``: counts of the kinds in
    `sasimc.isa.spec.EVENTS`, zeros left out. ``matrix``: the weight matrix worked on, or an empty string.
    """

    phase: str
    node: str
    unit: str
    mnemonic: str
    matrix: str
    entry: str
    executions: int = 0
    busy_cycles: int = 0
    cycles: float = 0.0
    events: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The row as it stands in a report."""
        return dict(self.__dict__)


@dataclass
class _Work:
    executions: int = 0
    busy: int = 0
    cycles: float = 0.0
    events: dict[str, int] = field(default_factory=dict)


def _share(it: Interpreter, executed: Executed, times: int, skips: Mapping[int, int], length: int | None) -> dict[int, _Work]:
    """Work by instruction of ``times`` equal stretches that last ``length`` cycles together (None: their instructions one after the other)."""
    out: dict[int, _Work] = {}
    for key, n in executed.items():
        cost, work, n = it.cost(key), out.setdefault(key[0], _Work()), n * times
        work.executions += n
        work.busy += n * cost.cycles
        for event, count in cost.events.items():
            work.events[event] = work.events.get(event, 0) + n * count
    driven = {index: work.busy - skips.get(index, 0) for index, work in out.items()}
    whole = sum(driven.values())
    for index, work in out.items():
        work.cycles = float(driven[index]) if length is None else driven[index] * (length / whole if whole else 0.0)
    return out


def _stretches(it: Interpreter, phase: PhaseCounter) -> Iterator[dict[int, _Work]]:
    yield _share(it, phase.executed, 1, phase.skips, None)
    for region in (r for known in phase.regions.values() for r in known):
        length = it.length(region) * region.times - region.gained
        yield _share(it, region.executed, region.times, region.skips, length)


def _by_instruction(it: Interpreter, phase: PhaseCounter) -> dict[int, _Work]:
    out: dict[int, _Work] = {}
    cycles: dict[int, list[float]] = {}
    for part in _stretches(it, phase):
        for index, work in part.items():
            total = out.setdefault(index, _Work())
            total.executions += work.executions
            total.busy += work.busy
            cycles.setdefault(index, []).append(work.cycles)
            for event, count in work.events.items():
                total.events[event] = total.events.get(event, 0) + count
    for index, parts in cycles.items():
        out[index].cycles = math.fsum(parts)  # the same in whatever order the stretches were run
    for event, counts in phase.measured.items():
        for index, count in counts.items():
            events = out.setdefault(index, _Work()).events
            events[event] = events.get(event, 0) + count
    return out


def _matrix(program: Program, index: int) -> str:
    instr = program.code[index]
    return next((v for f, v in zip(instr.spec.fields, instr.operands, strict=True) if isinstance(f, MatField)), "")


def profile_rows(it: Interpreter) -> list[ProfileRow]:
    """What was executed since the counters were reset, in order of phase and code. Equal on all engines."""
    rows: dict[tuple[str, ...], ProfileRow] = {}
    for phase in PHASES:
        for index, work in sorted(_by_instruction(it, it.counters.phases[phase]).items()):
            instr = it.program.code[index]
            key = (
                phase,
                instr.origin.node,
                instr.spec.unit,
                instr.spec.mnemonic,
                _matrix(it.program, index),
                it.program.entry_of(index),
            )
            row = rows.setdefault(key, ProfileRow(*key))
            row.executions += work.executions
            row.busy_cycles += work.busy
            row.cycles += work.cycles
            for event in EVENTS:
                if count := work.events.get(event):
                    row.events[event] = row.events.get(event, 0) + count
    return list(rows.values())


def program_digest(program: Program) -> str:
    """SHA-256 of the program's binary form (it contains the digest of the weights file)."""
    return hashlib.sha256(encode_program(program)).hexdigest()


def place(machine: Machine, subarray: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where a sub-array stands on the chip: (bank row, bank column), (MAT row, MAT column)."""
    group, within = divmod(subarray, machine.group_size)
    (bh, bw), (mh, mw) = machine.activation.banks, machine.activation.mats
    bank, mat = divmod(within, mh * mw)
    blocks = (machine.array.mats[0] // mh) * (machine.array.mats[1] // mw)
    bank_block, mat_block = divmod(group, blocks)
    bank_row, bank_col = divmod(bank_block, machine.array.banks[1] // bw)
    mat_row, mat_col = divmod(mat_block, machine.array.mats[1] // mw)
    return (bank_row * bh + bank // bw, bank_col * bw + bank % bw), (mat_row * mh + mat // mw, mat_col * mw + mat % mw)


def layout(program: Program, rows: list[ProfileRow]) -> dict[str, Any]:
    """Matrices and the sub-arrays that hold them.

    ``matrices``: a dictionary each, ``tiles`` as [sub-array, word line, weight column, k, n, rows, columns, copy]. ``subarrays``: those that
    hold something, with how much of them and, from the profile's rows, how often their word lines or bit columns were driven and rows written
    (a matrix's counts are shared among its tiles in proportion to their rows).
    """
    machine = program.machine
    activity: dict[str, list[int]] = {}
    nodes: dict[str, list[str]] = {}
    for row in rows:
        if row.matrix:
            counts = activity.setdefault(row.matrix, [0, 0])
            counts[0] += sum(row.events.get(e, 0) for e in _ACTIVATIONS)
            counts[1] += sum(row.events.get(e, 0) for e in _WRITES)
    for index in range(len(program.code)):
        name, node = _matrix(program, index), program.code[index].origin.node
        if name and node and node not in nodes.setdefault(name, []):
            nodes[name].append(node)
    matrices: list[dict[str, Any]] = []
    held: dict[int, dict[str, Any]] = {}
    for m in program.matrices.values():
        tiles = [[t.subarray, t.row, t.col, t.k, t.n, t.rows, t.cols, t.copy] for t in m.tiles]
        matrices.append({"name": m.name, "kind": m.kind, "array": m.array, "k": m.k, "n": m.n, "copies": m.copies,
                         "trainable": m.trainable, "nodes": nodes.get(m.name, []), "tiles": tiles})  # fmt: skip
        all_rows = sum(t.rows for t in m.tiles)
        driven, written = activity.get(m.name, [0, 0])
        for t in m.tiles:
            sub = held.get(t.subarray)
            if sub is None:
                bank, mat = place(machine, t.subarray)
                sub = held[t.subarray] = {
                    "index": t.subarray, "array": m.array, "bank": list(bank), "mat": list(mat), "weights": 0, "rows": 0, "columns": 0,
                    "matrices": [], "activations": 0.0, "row_writes": 0.0,
                }  # fmt: skip
            sub["weights"] += t.rows * t.cols
            sub["rows"] |= (1 << t.rows) - 1 << t.row  # as bit sets
            sub["columns"] |= (1 << t.cols) - 1 << t.col
            sub["activations"] += driven * t.rows / all_rows
            sub["row_writes"] += written * t.rows / all_rows
            if m.name not in sub["matrices"]:
                sub["matrices"].append(m.name)
    for sub in held.values():
        sub["rows"], sub["columns"] = sub["rows"].bit_count(), sub["columns"].bit_count()
    return {"matrices": matrices, "subarrays": [held[s] for s in sorted(held)]}


def wear(it: Interpreter) -> dict[str, Any]:
    """Row writes since the arrays were made: the worst row and where it is ([sub-array, word line]), the mean over the ``rows`` written at least
    once, their ``total``, and [index, worst, total] of every sub-array written to."""
    counts = it.state.wear
    worst = int(counts.argmax())
    rows, total = int((counts > 0).sum()), int(counts.sum())
    used = np.flatnonzero(counts.any(axis=1))
    return {
        "worst": int(counts.flat[worst]),
        "worst_row": [worst // counts.shape[1], worst % counts.shape[1]],
        "rows": rows,
        "mean": total / rows if rows else 0.0,
        "total": total,
        "by_subarray": [[int(s), int(counts[s].max()), int(counts[s].sum())] for s in used],
    }


class Meter:
    """Counts between two moments of a run, by phase (an epoch, for instance). ``last``: cycles and events by phase at the last lap; a run that
    goes on after a break is given what it was (None: now)."""

    def __init__(self, it: Interpreter, last: dict[str, dict[str, int]] | None = None) -> None:
        self._it = it
        self.last = last or self._now()

    def _now(self) -> dict[str, dict[str, int]]:
        cycles, events = self._it.phase_cycles, self._it.phase_events
        return {phase: {"cycles": cycles[phase], **events[phase]} for phase in PHASES}

    def lap(self) -> dict[str, Any]:
        """``phase_cycles`` and ``phase_events`` since the last lap (or since the meter was made), zeros left out."""
        before, self.last = self.last, self._now()
        # a run that an older version began knows nothing of newer counters
        spent = {p: {k: n - before[p].get(k, 0) for k, n in now.items()} for p, now in self.last.items()}
        return {
            "phase_cycles": {p: counts["cycles"] for p, counts in spent.items()},
            "phase_events": {p: {e: counts[e] for e in EVENTS if counts[e]} for p, counts in spent.items()},
        }


def profile(it: Interpreter, rows: list[ProfileRow] | None = None) -> dict[str, Any]:
    """The part of a run report that the cost model and the pages are made from (docs/reference/run-json.md). ``rows``: when they are known already."""
    rows = profile_rows(it) if rows is None else rows
    return {
        "schema": SCHEMA,
        "program_digest": program_digest(it.program),
        "machine_description": it.machine.model_dump(mode="json"),
        "profile": [row.as_dict() for row in rows],
        "layout": layout(it.program, rows),
        "buffer_use": buffer_use(it),
        "wear": wear(it),
    }
