"""Everything the page shows, as one dictionary of lists and numbers. Names, instructions, items of the drawings, matrices and layers refer to one
another by number; what belongs together is found in the page from these numbers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sasimc.backend.compile import Compiled
from sasimc.evaluation.cost import Cost, CostModel
from sasimc.evaluation.report.house import COMPONENTS
from sasimc.explore.dataflow import dataflow
from sasimc.explore.layers import Layer, layers
from sasimc.explore.stages import Items, Stage, names_of, stages
from sasimc.explore.stages import packed as packed_stage
from sasimc.explore.timeline import packed as packed_timeline
from sasimc.explore.timeline import timeline
from sasimc.explore.work import HALF, Work, entry_end, matrix_of, ones_of, phases_of
from sasimc.frontend.outline import Node
from sasimc.ir.graph import Graph, TrainGraph
from sasimc.isa.analysis.timing import UNITS
from sasimc.isa.errors import SasError
from sasimc.isa.program import Program
from sasimc.isa.spec import PHASES
from sasimc.isa.text.printer import code_lines
from sasimc.isa.walk import loop_ends
from sasimc.profiling.profile import place

__all__ = ["Subject", "blocks", "content"]


@dataclass(frozen=True)
class Subject:
    """What is looked at: a program, priced by ``model``; of one compiled now also what the compiler knows, the nodes of its ONNX file and the graphs
    after each pass; of one that ran, the priced run (``measured``). ``facts``: what the head of the page says, in order."""

    program: Program
    title: str
    model: CostModel
    batch: int
    compiled: Compiled | None = None
    nodes: Sequence[Node] = ()
    steps: Sequence[tuple[str, Graph | TrainGraph]] = ()
    measured: Cost | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


def blocks(program: Program) -> dict[int, tuple[int, int]]:
    """For every instruction that works for no node (loop control, registers), the smallest loop, region or entry around it in which one does."""
    spans = list(loop_ends(program)[0].items())
    opened: list[int] = []
    for i, instr in enumerate(program.code):
        if instr.spec.flow == "ovl":
            opened.append(i)
        elif instr.spec.flow == "sync" and opened:
            spans.append((opened.pop(), i))
    spans += [(first, entry_end(program, name)) for name, first in program.entries.items()]
    works = [bool(instr.origin.node) for instr in program.code]
    spans = sorted((s for s in spans if any(works[s[0] : s[1] + 1])), key=lambda s: s[1] - s[0])
    return {
        i: found
        for i in range(len(program.code))
        if not works[i] and (found := next((s for s in spans if s[0] <= i <= s[1]), None))
    }


def _drawings(subject: Subject, phases: Mapping[int, str], items: Items) -> list[Stage]:
    if subject.steps:
        return stages(subject.nodes, subject.steps, items)
    program = subject.program
    return [dataflow(program, entry, entry_end(program, entry), phases, items) for entry in program.entries]


LONGEST = 120_000
"""Executions of a timeline at most; a larger batch is shown with fewer images."""


def _works(subject: Subject) -> dict[str, tuple[int, Work]]:
    """One run of every entry, and its images: one where the entry does not train, else the batch, or as many as the timeline has room for."""
    program = subject.program
    run = subject.measured.run if subject.measured else None
    ones = ones_of(run, program.machine.array.weight_bits) if run else HALF
    phases = phases_of(program)
    works: dict[str, tuple[int, Work]] = {}
    for entry, first in program.entries.items():
        trains = any(phases[i] != PHASES[0] for i in range(first, entry_end(program, entry) + 1))
        images = 1
        if trains:
            each = len(timeline(program, entry, {"batch": 1}).kind)
            images = max(1, min(subject.batch, LONGEST // max(1, each)))
        works[entry] = images, Work.of(program, entry, {"batch": images}, subject.model, ones)
    return works


def _measured(subject: Subject, origins: Sequence[str]) -> dict[str, Any] | None:
    cost = subject.measured
    if cost is None:
        return None
    joules, cycles = cost.by_node(), cost.node_cycles()
    if not {o for o in origins if o} & joules.keys():
        raise SasError(
            "the run is of another program: no node of it is in this one", hint="give the program that the run was made with"
        )
    return {
        "images": cost.run.images, "joules": [joules.get(o, 0.0) for o in origins], "cycles": [cycles.get(o, 0.0) for o in origins],
        "total": cost.energy, "total_cycles": cost.run.cycles, "phases": cost.by_phase(),
    }  # fmt: skip


def _rounded(value: float) -> float:
    """Six significant digits are enough for a page."""
    return float(f"{value:.6g}")


def _layer(layer: Layer, entries: Sequence[str], number: Mapping[str, int]) -> dict[str, Any]:
    shares = [layer.shares.get(entry) for entry in entries]
    return {
        "names": [number[n] for n in names_of(layer.origin)], "copies": layer.copies, "subarrays": layer.subarrays, "tiles": layer.tiles,
        "side": layer.side, "bound": None if layer.bound is None else round(layer.bound),
        "shares": [
            s and [_rounded(s.cycles), _rounded(s.joules), s.buffer, UNITS.index(s.binds), [_rounded(s.phases.get(p, 0.0)) for p in PHASES]]
            for s in shares
        ],
    }  # fmt: skip


def _entry(name: str, work: Work, images: int, clock: float) -> dict[str, Any]:
    trains = len(set(work.timeline.phase)) > 1
    cycles = work.timeline.cycles
    return {
        "name": name, "images": images, "trains": trains, "cycles": cycles, "seconds": cycles / clock,
        "joules": math.fsum(work.joules.values()), "components": work.sums("component"), "categories": work.sums("category"),
        "times": [n for i, (count, spent) in sorted(work.times.items()) for n in (i, count, _rounded(spent), _rounded(work.joules[i]))],
        "first": work.first, "live": work.live, "timeline": packed_timeline(work.timeline, PHASES),
    }  # fmt: skip


def content(subject: Subject) -> dict[str, Any]:
    """The page's data.

    Raises:
        SasError: the run that is given belongs to another program.
    """
    program, machine = subject.program, subject.program.machine
    phases, items = phases_of(program), Items()
    drawings, works = _drawings(subject, phases, items), _works(subject)
    rows = layers(program, {name: work for name, (_, work) in works.items()}, phases, subject.compiled)
    origins = [layer.origin for layer in rows]
    names = list(dict.fromkeys([n for o in origins for n in names_of(o)] + [n for item in items.all for n in item.nodes]))
    number = {name: i for i, name in enumerate(names)}
    layer_of = {origin: i for i, origin in enumerate(origins)}
    matrices = {name: i for i, name in enumerate(program.matrices)}
    lines = list(code_lines(program))
    around = blocks(program)
    used = sorted({t.subarray for m in program.matrices.values() for t in m.tiles})
    places = [(s, *bank, *mat) for s in used for bank, mat in (place(machine, s),)]
    return {
        "title": subject.title,
        "facts": list(subject.facts.items()),
        "phases": PHASES,
        "units": UNITS,
        "components": list(COMPONENTS.items()),
        "machine": {
            "name": machine.name, "clock": machine.clock_hz, "banks": machine.array.banks, "mats": machine.array.mats, "rows": machine.array.rows,
            "columns": machine.weights_per_row, "group": machine.group_size, "subarrays": machine.subarrays, "buffer": machine.buffer.bytes,
        },
        "names": names,
        "items": [[i.label, i.kind, i.text, [number[n] for n in i.nodes], i.phases] for i in items.all],
        "stages": [packed_stage(s) for s in drawings],
        "lines": [text for text, _ in lines],
        "at": [i for _, i in lines],
        "code": {
            "layer": [layer_of[i.origin.node] for i in program.code],
            "phase": [PHASES.index(phases[i]) for i in range(len(program.code))],
            "matrix": [matrices.get(matrix_of(program, i), -1) for i in range(len(program.code))],
            "around": dict(around),
        },
        "layers": [_layer(layer, list(works), number) for layer in rows],
        "matrices": [
            [m.name, m.kind, m.array, m.k, m.n, m.copies, m.trainable,
             [v for t in m.tiles for v in (t.subarray, t.row, t.col, t.k, t.n, t.rows, t.cols, t.copy)]]
            for m in program.matrices.values()
        ],
        "places": [v for place in places for v in place],
        "entries": [_entry(name, work, images, machine.clock_hz) for name, (images, work) in works.items()],
        "run": _measured(subject, origins),
    }  # fmt: skip
