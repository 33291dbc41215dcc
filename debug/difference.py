"""The first difference: node, then instruction, then element, explained in numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.debug import look, tell
from sasimc.debug.reference import Expected, expected
from sasimc.debug.runs import entries
from sasimc.debug.session import Session
from sasimc.debug.stream import Part, Written, read_record, written
from sasimc.isa.analysis.standing import part_of
from sasimc.isa.errors import SasError
from sasimc.isa.objects import View
from sasimc.isa.program import Program
from sasimc.isa.spec import MatField
from sasimc.runtime.activations import StoredTensor, stored_tensors
from sasimc.runtime.interpreter import Interpreter

__all__ = ["FirstDifference", "against_engine", "against_model", "against_program", "against_record", "difference_lines"]


@dataclass(frozen=True)
class FirstDifference:
    """Where two runs part: ``node``, instruction ``pc`` at instant ``time`` (before it), ``element``, what the session has there and the other, and how the
    number comes about."""

    other: str
    node: str
    pc: int
    time: int
    element: str
    ours: int
    theirs: int
    lines: tuple[str, ...] = ()


# -------------------------------------------------------------------------------------------- instruction against instruction


def against_engine(session: Session, engine: str) -> FirstDifference | None:
    """Run to the end beside another engine, from where the session stands; None: equal in everything that is written. The session then stands before the
    instruction that differs, or at the end."""
    other = session.history.twin(Interpreter(session.program, engine, session.it.threads))
    return _compare(session, written(other), engine)


def against_record(session: Session, path: Path) -> FirstDifference | None:
    """Run beside a record that :func:`sasimc.debug.stream.write_record` wrote, both from the beginning; as :func:`against_engine`.

    Raises:
        SasError: no record, or of another program.
    """
    session.goto(0)
    return _compare(session, read_record(path, session.program), path.name)


def _compare(session: Session, theirs: Iterator[Written], name: str) -> FirstDifference | None:
    other: Written | None = None
    for ours in written(session.history):
        other = next(theirs, None)
        if other is None:
            raise SasError(f"{name} ends at time {ours.time}, this run goes on", hint="was it recorded with the same input?")
        if ours.pc != other.pc:
            session.goto(ours.time)
            return FirstDifference(
                name,
                _node(session, ours.pc),
                ours.pc,
                ours.time,
                "the next instruction",
                ours.pc,
                other.pc,
                ("the runs take different ways",),
            )
        if ours.checksum != other.checksum:
            return _differs(session, ours, other, name)
    if next(theirs, None) is not None:
        raise SasError(f"this run ends at time {session.history.time}, {name} goes on")
    return None


def _differs(session: Session, ours: Written, other: Written, name: str) -> FirstDifference:
    session.goto(ours.time)
    assert ours.parts is not None
    if other.parts is None:
        lines = (f"{name} keeps no values of so late an instruction, only that they differ",)
        return FirstDifference(name, _node(session, ours.pc), ours.pc, ours.time, "unknown", 0, 0, lines)
    for a, b in zip(ours.parts, other.parts, strict=True):
        if not np.array_equal(a.values, b.values):
            return _at(session, name, ours, a, b.values)
    raise AssertionError("equal values have equal checksums")


def _at(session: Session, name: str, ours: Written, part: Part, theirs: npt.NDArray[Any]) -> FirstDifference:
    """The first element of a part that differs."""
    at = tuple(np.argwhere(part.values != theirs)[0].tolist())
    count = int((part.values != theirs).sum())
    place = (at[0] + part.first, *at[1:])
    element = part.name if part.name[0] == "r" and part.values.shape == (1,) else f"{part.name}{list(place)}"
    a, b = int(part.values[at]), int(theirs[at])
    lines = [f"{count} of {part.values.size} elements that it writes differ"]
    want = expected(session, ours.pc)
    if want is not None and want.view == part.name and len(place) == 3:
        lines += _explained(want, place, {"this run": a, name: b})
    else:
        lines.append(f"definition: {look.operation(session, ours.pc)}")
    lines += _weights(session, ours.pc)
    return FirstDifference(name, _node(session, ours.pc), ours.pc, ours.time, element, a, b, tuple(lines))


def _explained(want: Expected, place: tuple[int, ...], got: Mapping[str, int]) -> Iterator[str]:
    y, x, c = place
    value = int(want.values[y - want.first, x, c])
    yield from want.why((y, x, c))
    yield "; ".join(f"{who}: {n}, {'right' if n == value else 'wrong'}" for who, n in got.items())


def _weights(session: Session, pc: int) -> Iterator[str]:
    """Whether the cells the instruction reads hold what the program loaded."""
    program = session.program
    o = program.resolve(program.code[pc])
    for f in program.code[pc].spec.of_kind(MatField):
        m = getattr(o, f.name)
        if f.write or not m.tensor:
            continue
        now, loaded = session.it.read_matrix(m.name), program.matrix_values(m)
        wrong = np.argwhere(now != loaded)
        if len(wrong):
            k, n = wrong[0].tolist()
            yield f"{len(wrong)} weights of {m.name} are not those of the program: [{k}, {n}] is {now[k, n]}, loaded was {loaded[k, n]}"


def _node(session: Session, pc: int) -> str:
    return session.program.code[pc].origin.node


# ------------------------------------------------------------------------------------------------------------ node against node


def _device_tensors(session: Session) -> dict[str, tuple[StoredTensor, look.Stripes]]:
    """Every ONNX tensor that the current run of ``infer`` computes, whole; the session stands at its end."""
    h = session.history
    if h.current.entry != "infer":
        raise SasError("nodes are compared in entry infer", hint="--input IMAGE")
    number = h.run
    while not h.ended and h.run == number:
        h.advance()
        if h.trap is not None:
            raise SasError(f"the run traps before it ends: {h.trap.detail}")
    if not h.ended:
        session.goto(h.starts[number + 1] - 1)
    tensors = [t for t in stored_tensors(session.program).values() if t.view]
    found = look.gather(session, [(session.program.views[t.view], t.node) for t in tensors])
    return {t.name: (t, s) for t, s in zip(tensors, found, strict=True) if s.tensor.present.all()}


Other = Callable[[StoredTensor, npt.NDArray[np.int64]], tuple[npt.NDArray[np.int64], npt.NDArray[np.float64] | float, str] | None]
"""Of a tensor and its values here: its values there, by how many steps they may differ, and what is to be said of a difference; None: unknown there."""


def _first_node(session: Session, name: str, other: Other) -> FirstDifference | None:
    for tensor, found in _device_tensors(session).values():
        ours = found.tensor.values.astype(np.int64)
        told = other(tensor, ours)
        if told is None:
            continue
        theirs, allowed, note = told
        off = np.abs(ours - theirs) - allowed
        if (off > 0).any():
            at = tuple(int(i) for i in np.unravel_index(int(np.argmax(off)), off.shape))
            return _in_node(session, name, tensor, found, at, int(theirs[at]), int((off > 0).sum()), note)
    return None


def _in_node(
    session: Session, name: str, tensor: StoredTensor, found: look.Stripes, at: tuple[int, ...], theirs: int, count: int, note: str
) -> FirstDifference:  # fmt: skip
    """The first instruction of a node that does not do what its definition says, else the one that wrote the element."""
    view = session.program.views[tensor.view]
    _, instant, pc = next(r for r in reversed(found.rows) if r[0] == at[0])
    ours = int(found.tensor.values[at])
    lines = [f"{count} of {found.tensor.values.size} elements of {tensor.name} differ, the most at {list(at)}"]
    scale = f"{tensor.scale:.6g}"
    lines.append(
        f"in real values: {tensor.scale * (ours - tensor.zero):.6g} here, {tensor.scale * (theirs - tensor.zero):.6g} there (steps of {scale})"
    )
    if note:
        lines.append(note)
    wrong = _first_wrong(session, _node(session, pc), instant)
    if wrong is not None:
        pc, instant, want, place, got = wrong
        lines += [f"instruction {pc} is the first that does not do what its definition says, at {want.view}{list(place)}"]
        lines += _explained(want, place, {"this run": got})
        lines += _weights_of(session, _node(session, pc))
        session.goto(instant)
        return FirstDifference(name, tensor.node, pc, instant, f"{tensor.view}{list(at)}", ours, theirs, tuple(lines))
    session.goto(instant)
    want = expected(session, pc)
    part = None if want is None else _inside(session, view, want.view, at)
    if want is not None and part is not None:
        lines += want.why(part)
        lines.append("every instruction of the node does what its definition says")
    weights = _weights_of(session, _node(session, pc))
    lines += weights or (
        ["and its weights are the program's: what it reads may be wrong; `who PLACE` tells who wrote it"] if note else []
    )
    session.goto(instant)
    return FirstDifference(name, tensor.node, pc, instant, f"{tensor.view}{list(at)}", ours, theirs, tuple(lines))


def _inside(session: Session, whole: View, part: str, at: tuple[int, ...]) -> tuple[int, int, int] | None:
    corner = part_of(session.program.views[part], whole)
    if corner is None:
        return None
    y, x, c = (a - b for a, b in zip(at, corner, strict=True))
    return (y, x, c) if all(0 <= v < n for v, n in zip((y, x, c), session.program.views[part].shape, strict=True)) else None


def _weights_of(session: Session, node: str) -> list[str]:
    """Weights of the node's products that are not the program's."""
    code = session.program.code
    return list(dict.fromkeys(line for pc, i in enumerate(code) if i.origin.node == node for line in _weights(session, pc)))


def _first_wrong(session: Session, node: str, until: int) -> tuple[int, int, Expected, tuple[int, int, int], int] | None:
    """(instruction, instant, what it should do, the element, what it did) of the first execution of a node's instructions in this run, up to an instant,
    that does not do what its definition says."""
    h, it = session.history, session.it
    pcs = frozenset(pc for pc, instr in enumerate(session.program.code) if instr.origin.node == node)
    opened = h.loops_around(pcs)
    session.goto(h.starts[h.run_at(until)])
    while h.time <= until and not h.ended:
        pc, instant = it.at.pc, h.time
        if pc not in pcs:
            h.advance(until + 1 - instant, pcs, opened)
            continue
        want = expected(session, pc)
        h.advance(1)
        if want is not None:
            got = it.read_view(want.view, stale=True)[want.first : want.first + len(want.values)].astype(np.int64)
            bad = np.argwhere(got != want.values)
            if len(bad):
                y, x, c = bad[0].tolist()
                return pc, instant, want, (y + want.first, x, c), int(got[y, x, c])
    return None


def against_program(session: Session, program: Program, name: str) -> FirstDifference | None:
    """Compare the nodes of this run with those of another program for the same network, perhaps on another machine, on the same input.

    Raises:
        SasError: the other program computes other tensors.
    """
    io = json.loads(session.program.meta["io"])
    session.goto(session.history.starts[session.history.run])
    image = session.it.read_view(io["input"])

    def prepare(it: Interpreter) -> None:
        it.write_view(json.loads(program.meta["io"])["input"], image)
        it.regs[program.params["batch"]] = 1

    twin = Session(program, entries("infer", prepare=prepare), engine=session.it.engine, threads=session.it.threads)
    theirs = _device_tensors(twin)

    def other(t: StoredTensor, ours: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], float, str] | None:
        found = theirs.get(t.name)
        if found is None:
            return None
        values = found[1].tensor.values.astype(np.int64)
        if values.shape != ours.shape or found[0].scale != t.scale:
            raise SasError(
                f"{t.name} is {values.shape} with scale {found[0].scale:g} in {name}, here {ours.shape} with {t.scale:g}"
            )
        return values - found[0].zero + t.zero, 0.0, ""

    if not theirs.keys() & {t.name for t in stored_tensors(session.program).values()}:
        raise SasError(
            f"{name} computes no tensor that this program computes", hint="both must be compiled from the same network"
        )
    return _first_node(session, name, other)


def against_model(session: Session, path: Path) -> FirstDifference | None:
    """Compare the nodes of this run of ``infer`` with onnxruntime on the network's file, within one step of rounding (`sasimc.verify.onnx_side`), and
    exactly with what the compiler's graph makes of the same input.

    Raises:
        SasError: no such model, another one, or one that onnxruntime refuses.
    """
    from sasimc.frontend.load import load_model
    from sasimc.frontend.onnx_import import import_float, import_graph
    from sasimc.frontend.weights_out import as_compiled, model_digest
    from sasimc.passes.manager import run_passes
    from sasimc.passes.pipeline import forward_passes, import_passes
    from sasimc.runtime.ports import inputs_of
    from sasimc.verify.graphs import against_import
    from sasimc.verify.onnx_side import onnx_tensors

    program, model = session.program, load_model(path)
    about = json.loads(program.meta.get("model", "{}"))
    if about.get("sha256") != model_digest(model):
        raise SasError(
            f"{path} is not the network this program was compiled from", hint="compile it again, or name the right file"
        )
    model = as_compiled(model, program.meta)
    session.goto(session.history.starts[session.history.run])
    found = import_float(model)
    assert found.graph is not None
    imported = run_passes(found.graph, import_passes())
    final = run_passes(import_graph(model), forward_passes(about.get("trainable")))
    fed: dict[str, npt.NDArray[np.int64]] = {}
    for port, name in zip(inputs_of(program), imported.inputs, strict=True):
        sample = session.it.read_view(port.view).astype(np.int64) + imported.type(name).zero - final.type(name).zero
        fed[name] = np.repeat(sample[None], found.batch, axis=0)
    runs = against_import(imported, final, fed)
    theirs = {
        value: (values[0], allowed)
        for op, value, values, allowed in onnx_tensors(model, found, imported, runs.fed)
        if op is not None
    }

    def other(t: StoredTensor, ours: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Any, str] | None:
        if t.name not in runs.final:
            return None
        exact = runs.final[t.name][0]
        if t.name not in theirs:
            return exact, 0.0, "onnxruntime has no such tensor; compared with the compiler's graph"
        values, allowed = theirs[t.name]
        moved = values + final.type(t.name).zero - imported.type(t.name).zero
        if not np.array_equal(ours, exact):
            # what onnxruntime says is the reference, but a fault of less than its rounding is one, too
            return np.where(ours == exact, ours, np.where(np.abs(ours - moved) > allowed, moved, exact)), 0.0, _told(ours, exact)
        return moved, allowed, "the program computes what the compiler's graph says, so the translation of the file is in doubt"

    return _first_node(session, "onnxruntime", other)


def _told(ours: npt.NDArray[np.int64], exact: npt.NDArray[np.int64]) -> str:
    at = tuple(np.argwhere(ours != exact)[0].tolist())
    return f"the compiler's graph has {int(exact[at])} at {list(at)}, here it is {int(ours[at])}: not a matter of the file's translation"


def difference_lines(session: Session, other: str, d: FirstDifference | None) -> Iterator[str]:
    """What a comparison found, in words."""
    if d is None:
        yield f"no difference from {other}"
        return
    yield f"first difference from {d.other}: node {d.node or '(none)'}, instruction {d.pc}, {d.element}: {d.ours} here, {d.theirs} there"
    yield from (f"    {line}" for line in d.lines)
    yield tell.position_line(session.position)
    yield tell.code_line(session.program, d.pc, "=>")
