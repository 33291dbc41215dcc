"""Which ONNX node feeds which, found in the code: what a program without its model can be drawn from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sasimc.explore.layering import layered
from sasimc.explore.stages import Item, Items, Stage, names_of
from sasimc.isa.objects import View
from sasimc.isa.program import Program
from sasimc.isa.spec import PHASES, ViewField

__all__ = ["dataflow"]

Ints = npt.NDArray[np.int64]


def _elements(view: View) -> tuple[Ints, ...]:
    """Addresses of the first bytes (words) of every element of a view that exist physically, as broadcastable parts."""
    h, w, c = view.rows_held, view.width, view.channels
    if view.dtype == "bit":
        w, c = (w * c + 7) // 8, 1
    pix, chan = (1, 0) if view.dtype == "bit" else (view.pix, view.chan)
    return tuple(np.arange(n) * stride for n, stride in ((h, view.row), (w, pix), (c, chan)))


def _places(view: View) -> Ints:
    y, x, c = _elements(view)
    return (view.addr + y[:, None, None] + x[None, :, None] + c[None, None, :]).reshape(-1)


def dataflow(program: Program, entry: str, last: int, phases: Mapping[int, str], items: Items) -> Stage:
    """The nodes of the instructions from ``entry`` to ``last`` in the order of the code, with an edge wherever one reads what another wrote. Nodes of several
    phases are drawn once for each phase."""
    top = {space: max((v.end for v in program.views.values() if v.space == space), default=0) for space in ("buf", "acc", "host")}
    marks = {space: np.full(n, -1, np.int32) for space, n in top.items()}
    places: dict[str, Ints] = {}
    numbers: dict[tuple[str, str], int] = {}
    kinds: list[list[str]] = []
    edges: dict[tuple[int, int], None] = {}
    for i in range(program.entries[entry], last + 1):
        instr = program.code[i]
        if not instr.origin.node:
            continue
        key = (instr.origin.node, phases[i])
        if key not in numbers:
            numbers[key] = len(numbers)
            kinds.append([])
        here = numbers[key]
        if instr.spec.mnemonic not in kinds[here]:
            kinds[here].append(instr.spec.mnemonic)
        views = [
            (f, program.views[v]) for f, v in zip(instr.spec.fields, instr.operands, strict=True) if isinstance(f, ViewField)
        ]
        for field, view in views:
            at = places.setdefault(view.name, _places(view))
            if not field.write:
                for source in np.unique(marks[view.space][at]).tolist():
                    if 0 <= source < here:
                        edges[source, here] = None
        for field, view in views:
            if field.write:
                marks[view.space][places[view.name]] = here
    drawn = [
        items(Item(names_of(node)[0], phase, f"{node}: {' '.join(kinds[n])}", names_of(node), 1 << PHASES.index(phase)))
        for (node, phase), n in numbers.items()
    ]
    return Stage(f"dataflow of {entry}", drawn, list(edges), layered(len(drawn), list(edges)), entry=entry)
