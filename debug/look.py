"""What there is to see where a session stands: the way that led here, instructions with their cost, tensors, sub-arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.debug.session import Session
from sasimc.debug.stops import Hit
from sasimc.isa.analysis.footprint import footprint
from sasimc.isa.analysis.standing import part_of
from sasimc.isa.errors import SasError, near
from sasimc.isa.objects import DTYPES, Tile, View
from sasimc.isa.program import Program
from sasimc.isa.spec import ViewField
from sasimc.runtime.activations import StoredTensor, stored_tensors
from sasimc.runtime.engines.bind import instruction_text

__all__ = [
    "Frame", "Instruction", "Owner", "Scale", "Stripes", "SubArray", "Tensor", "cost_of_last", "flipped", "frames", "gather", "instruction", "operation", "scale_of", "stripes", "subarray",
    "tensor",
]  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """One line of ``where``: ``kind`` is ``instruction``, ``node``, ``loop``, ``phase``, ``entry`` or ``run``; ``pc`` where it is or began."""

    kind: str
    text: str
    pc: int


def frames(session: Session) -> list[Frame]:
    """Where the machine is, as a stack, innermost first; empty at the end."""
    pc, at, program = session.pc, session.it.at, session.program
    if pc is None:
        return []
    run = session.history.current
    entry = program.entries[run.entry]
    found = [Frame("instruction", instruction(session, pc).text, pc)] if pc < len(program.code) else []
    origin = program.code[pc].origin if pc < len(program.code) else None
    if origin and origin.node:
        found.append(Frame("node", origin.node + (f" (made by {origin.made_by})" if origin.made_by else ""), pc))
    for first, left, passes in reversed(at.stack):
        found.append(
            Frame("loop", f"{instruction_text(program.code[first - 1])}, pass {passes - left + 1} of {passes}", first - 1)
        )
    found.append(Frame("phase", at.phase, pc))
    found.append(Frame("entry", run.entry, entry))
    found.append(Frame("run", run.title, entry))
    return found


@dataclass(frozen=True)
class Instruction:
    """An instruction, and what it costs where the session stands: cycles and events that do not depend on data, joules (None: no prices)."""

    pc: int
    text: str
    line: int
    nodes: tuple[str, ...]
    made_by: str
    rows: tuple[int, int]
    cycles: int
    events: Mapping[str, int]
    energy: float | None


def instruction(session: Session, pc: int) -> Instruction:
    """An instruction as it would be executed with the registers as they are."""
    instr = session.program.code[pc]
    rows = session.it.at.rows(pc)
    cost = session.it.cost((pc, *rows))
    energy = session.price(cost.events, cost.cycles) if session.price else None
    nodes = tuple(filter(None, instr.origin.node.split(",")))
    return Instruction(
        pc, instruction_text(instr), instr.line, nodes, instr.origin.made_by, rows, cost.cycles, dict(cost.events), energy
    )


def cost_of_last(session: Session) -> tuple[int, int, dict[str, int], float | None]:
    """(instruction, cycles, events, joules) of the execution that led here, what depends on data included.

    Raises:
        SasError: nothing was executed yet.
    """
    h, it = session.history, session.it
    if not h.time:
        raise SasError("nothing was executed yet")
    now, cycles, events = h.time, it.cycles, it.events
    h.seek(now - 1)
    pc = it.at.pc
    before, then = it.cycles, it.events
    h.seek(now)
    spent = {e: n - then[e] for e, n in events.items() if n != then[e]}
    return pc, cycles - before, spent, session.price(spent, cycles - before) if session.price else None


# -------------------------------------------------------------------------------------------------------------------- tensors


@dataclass(frozen=True)
class Scale:
    """What stored integers mean: real = scale * (stored - zero); of the ONNX tensor ``tensor`` of node ``node``."""

    tensor: str
    node: str
    scale: float
    zero: int


@dataclass(frozen=True)
class Tensor:
    """Stored integers [H, W, C]; ``present``: which rows are there (others are 0); ``scale``: None where the program does not say it."""

    name: str
    values: npt.NDArray[Any]
    present: npt.NDArray[np.bool_]
    scale: Scale | None

    @property
    def real(self) -> npt.NDArray[np.float64] | None:
        """The real values."""
        return None if self.scale is None else self.scale.scale * (self.values.astype(np.float64) - self.scale.zero)


def _io(program: Program) -> dict[str, Scale]:
    """Scales of the views that stand at the network's ends, and of buffer views that input is loaded into."""
    try:
        io: Mapping[str, str] = json.loads(program.meta.get("io", "{}"))
        found = (
            {io["input"]: Scale("input", "", float(program.meta["input_scale"]), int(program.meta["input_zero"]))} if io else {}
        )
        if "logits" in io:
            found[io["logits"]] = Scale("logits", "", float(program.meta["logit_scale"]), int(program.meta["logit_zero"]))
    except (ValueError, KeyError):
        return {}
    for instr in program.code:
        views = [(f, v) for f, v in zip(instr.spec.fields, instr.operands, strict=True) if isinstance(f, ViewField)]
        for f, name in views:
            if f.space == "host" and f.access == "r" and name in found:
                found |= {other: found[name] for g, other in views if g.write}
    return found


def _stored(program: Program) -> dict[str, StoredTensor]:
    return stored_tensors(program) if "tensors" in program.meta else {}


def scale_of(program: Program, view: str, node: str = "") -> Scale | None:
    """What a view's integers mean, as a node writes it where several use the view; None: the program does not say it, or it depends on when."""
    known = _io(program)
    if view in known:
        return known[view]
    v = program.views[view]
    found = {
        Scale(t.name, t.node, t.scale, t.zero)
        for t in _stored(program).values()
        if t.view and (not node or t.node == node) and part_of(v, program.views[t.view]) is not None
    }
    return found.pop() if len(found) == 1 else None


def _view(session: Session, name: str) -> tuple[View, str]:
    """A view by its name, or by that of an ONNX tensor or node; then also the node (several may use one view, one after the other)."""
    program = session.program
    if name in program.views:
        return program.views[name], ""
    tensors = _stored(program)
    for t in tensors.values():
        if name == t.name or name in t.node.split(","):
            root = t if t.view else tensors[t.source]
            return program.views[root.view], root.node
    nodes = [node for t in tensors.values() for node in t.node.split(",")]
    raise SasError(f"there is no view, tensor or node {name!r}", hint=near(name, (*program.views, *tensors, *nodes)))


def tensor(session: Session, name: str, sample: int = 0) -> Tensor:
    """A view as it stands in memory now, all of its logical rows (of a ring, rows that were overwritten hold later ones; see :func:`stripes`)."""
    view, _ = _view(session, name)
    values = session.it.read_view(view.name, sample, stale=True)
    return Tensor(view.name, values, np.ones(view.height, np.bool_), scale_of(session.program, view.name))


@dataclass(frozen=True)
class Stripes:
    """The rows of a view since the run began: ``tensor`` holds each as it was written last, wherever its bytes are now; ``rows``: (row, instant, instruction)
    in the order of writing; ``held``: rows that still stand in the buffer, as far as this view goes."""

    tensor: Tensor
    rows: tuple[tuple[int, int, int], ...]
    held: frozenset[int]


def stripes(session: Session, name: str) -> Stripes:
    """Follow a view through the run up to now. The session stands where it stood."""
    return gather(session, [_view(session, name)])[0]


def gather(session: Session, wanted: Sequence[tuple[View, str]]) -> list[Stripes]:
    """As :func:`stripes`, for several views at once, each as one node writes it (an empty string: whoever writes through it)."""
    program, it, h = session.program, session.it, session.history
    views = [v for v, _ in wanted]
    owners = [{node} if node else _writing_nodes(program, v.name) for v, node in wanted]
    writers: dict[int, list[tuple[int, View, tuple[int, int, int]]]] = {}
    for pc, instr in enumerate(program.code):
        o = program.resolve(instr)
        for f in instr.spec.of_kind(ViewField):
            if f.write and f.access != "d":
                part = getattr(o, f.name)
                for number, view in enumerate(views):
                    if instr.origin.node in owners[number] and (at := part_of(part, view)) is not None:
                        writers.setdefault(pc, []).append((number, part, at))
    values = [np.zeros(v.shape, _dtype(v)) for v in views]
    present = [np.zeros(v.height, np.bool_) for v in views]
    rows: list[list[tuple[int, int, int]]] = [[] for _ in views]
    for instant, pc, r0, r1 in session.executions(frozenset(writers), h.starts[h.run]):
        spec, o = program.code[pc].spec, program.resolve(program.code[pc])
        touches = list(footprint(spec, o, max(r0, 0), max(r1, 0)))
        for number, part, (y, x, c) in writers[pc]:
            for t in touches:
                if t.view.name == part.name and t.access != "r" and t.first < t.last:
                    where = slice(y + t.first, y + t.last), slice(x, x + part.width), slice(c, c + part.channels)
                    values[number][where] = it.read_view(part.name, stale=True)[t.first : t.last]
                    present[number][where[0]] = True
                    rows[number] += [(y + row, instant, pc) for row in range(t.first, t.last)]
    out: list[Stripes] = []
    for (view, node), value, there, written in zip(wanted, values, present, rows, strict=True):
        last = {row % (view.ring or view.height): row for row, _, _ in written}
        tensor = Tensor(view.name, value, there, scale_of(program, view.name, node))
        out.append(Stripes(tensor, tuple(written), frozenset(last.values())))
    return out


def _writing_nodes(program: Program, view: str) -> set[str]:
    """Nodes of the instructions that write through a view."""
    return {
        i.origin.node
        for i in program.code
        if any(f.write and v == view for f, v in zip(i.spec.fields, i.operands, strict=True) if isinstance(f, ViewField))
    }


def _dtype(view: View) -> Any:
    return DTYPES[view.dtype]


# ----------------------------------------------------------------------------------------------------------------- sub-arrays


@dataclass(frozen=True)
class Owner:
    """A tile of a matrix in a sub-array."""

    matrix: str
    tile: Tile
    trainable: bool


@dataclass(frozen=True)
class SubArray:
    """A sub-array: ``weights`` int8 [word lines, weight columns], ``bits`` [word lines, bit columns] (bit 0 of a weight first), ``written``: weights
    that were ever written; ``wear``: writes of each word line."""

    index: int
    bank: int
    kind: str
    owners: tuple[Owner, ...]
    weights: npt.NDArray[np.int8]
    bits: npt.NDArray[np.uint8]
    written: npt.NDArray[np.bool_]
    wear: npt.NDArray[np.int64]

    def owner(self, row: int, column: int) -> tuple[str, int, int] | None:
        """(matrix, k, n) of the weight that stands in a cell; None: nobody's."""
        for o in self.owners:
            t = o.tile
            if t.row <= row < t.row + t.rows and t.col <= column < t.col + t.cols:
                return o.matrix, t.k + row - t.row, t.n + column - t.col
        return None


def subarray(session: Session, index: int) -> SubArray:
    """A sub-array as it stands now. Raises SasError when there is none of that number."""
    state, program = session.it.state, session.program
    if not 0 <= index < program.machine.subarrays:
        raise SasError(f"there is no sub-array {index}", hint=f"0 to {program.machine.subarrays - 1}")
    owners = [(m, t) for m in program.matrices.values() for t in m.tiles if t.subarray == index]
    kind = next((m.array for m, _ in owners), "compute")
    weights = state.cells[index]
    bits = np.unpackbits(weights, axis=1, bitorder="little")
    made = tuple(Owner(m.name, t, m.trainable) for m, t in owners)
    return SubArray(
        index,
        program.machine.bank_of(index),
        kind,
        made,
        weights.view(np.int8).copy(),
        bits,
        state.written[index].copy(),
        state.wear[index].copy(),
    )


def flipped(hit: Hit) -> npt.NDArray[np.uint8]:
    """Bits that an access to cells flipped, a mask for each of its weights."""
    return hit.before.view(np.uint8) ^ hit.after.view(np.uint8)


def operation(session: Session, pc: int) -> str:
    """The declared meaning of an instruction, one line."""
    return (session.program.code[pc].spec.__doc__ or "").split("\n")[0].strip()
