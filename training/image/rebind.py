"""What a program is bound to, and its variants for one task: elsewhere in the arrays, with fewer classes, with layers that stay as they are.

A variant differs in descriptors and single instructions only; numbers are those of the program it is made from.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np

from sasimc.isa.binary.container import encode_program
from sasimc.isa.errors import SasError
from sasimc.isa.instructions import control  # noqa: F401  (the instruction that takes the place of a write)
from sasimc.isa.objects import Matrix, View
from sasimc.isa.program import Instr, LearnedBias, Program
from sasimc.isa.spec import TABLE, MatField
from sasimc.training.program_notes import HOST_NOTES, more_classes

__all__ = [
    "Identity", "Slot", "at_slot", "frozen_layers", "identity", "place_slots", "remembered_views", "trainable_matrices", "with_classes", "without_classes",
    "without_writes", "written_rows",
]  # fmt: skip

Slot = Mapping[int, int]
"""Sub-array of the program -> sub-array that takes its place; empty: where the compiler put it."""


@dataclass(frozen=True)
class Identity:
    """SHA-256 of what an image is bound to. ``backbone``: the constants that are not trained; ``program``: all of the program but trained
    weights, file names, line numbers and what only the host reads; ``machine``: the description."""

    program: str
    backbone: str
    machine: str


def trainable_matrices(program: Program) -> dict[str, Matrix]:
    """Every trainable matrix in the arrays by name (a tensor may stand in several)."""
    return {n: m for n, m in program.matrices.items() if m.trainable and m.kind != "scratch"}


def identity(program: Program) -> Identity:
    """What makes two programs the same to a device image."""
    trained = {m.tensor for m in trainable_matrices(program).values()} | {bias.view for bias in program.learned_biases.values()}
    backbone = hashlib.sha256()
    for name in sorted(program.tensors.keys() - trained):
        tensor = np.ascontiguousarray(program.tensors[name])
        backbone.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        backbone.update(tensor.tobytes())
    code = tuple(replace(i, line=0) for i in program.code)
    meta = {k: v for k, v in program.meta.items() if k not in HOST_NOTES}
    bare = replace(program, meta=meta, code=code, tensors={}, inline=frozenset(), weights_file="", digest="", source="", lines={})
    whole = hashlib.sha256(encode_program(bare) + backbone.digest())
    machine = hashlib.sha256(program.machine.key.encode())
    return Identity(whole.hexdigest(), backbone.hexdigest(), machine.hexdigest())


# ------------------------------------------------------------------------------------------------------------------ places of tasks


def _groups(program: Program) -> dict[int, list[int]]:
    """Sub-arrays that hold trainable weights, by activation group."""
    out: dict[int, list[int]] = {}
    for sub in sorted({t.subarray for m in trainable_matrices(program).values() for t in m.tiles}):
        out.setdefault(program.machine.group_of(sub), []).append(sub)
    return out


def place_slots(program: Program, most: int = 4096) -> list[Slot]:
    """Places for the trainable part of the program: the compiler's own first, then as many as free sub-arrays give.

    A place takes whole sub-arrays. Those of one activation group go to one group, so that they are active together as before; where no
    group has that many free ones, to any.
    """
    machine = program.machine
    used = {t.subarray for m in program.matrices.values() for t in m.tiles}
    free = {
        g: [s for s in range(g * machine.group_size, (g + 1) * machine.group_size) if s not in used]
        for g in range(machine.groups)
    }
    wanted, slots = _groups(program), list[Slot]([{}])
    need = sum(map(len, wanted.values()))
    while need and len(slots) < most and sum(map(len, free.values())) >= need:
        slot: dict[int, int] = {}
        for subs in wanted.values():
            places = [s % machine.group_size for s in subs]
            alike = [g for g, rest in free.items() if {s % machine.group_size for s in rest} >= set(places)]
            roomy = [g for g, rest in free.items() if len(rest) >= len(subs)]
            if alike:
                chosen = [alike[0] * machine.group_size + place for place in places]
            elif roomy:
                chosen = free[min(roomy, key=lambda g: len(free[g]))][: len(subs)]
            else:
                chosen = [s for rest in free.values() for s in rest][: len(subs)]
            slot |= zip(subs, chosen, strict=True)
            for s in chosen:
                free[machine.group_of(s)].remove(s)
        slots.append(slot)
    return slots


def at_slot(program: Program, slot: Slot) -> Program:
    """The program with its trainable matrices in the sub-arrays of a slot."""
    moved = {
        name: replace(m, tiles=tuple(replace(t, subarray=slot.get(t.subarray, t.subarray)) for t in m.tiles))
        for name, m in trainable_matrices(program).items()
    }
    return replace(program, matrices={**program.matrices, **moved}) if slot else program


def written_rows(program: Program, slot: Slot | None = None) -> np.ndarray:
    """Word lines that the program may write, ascending, as ``sub-array * rows + word line`` int64: those of its trainable weights (in a slot)
    and of scratch."""
    chosen = at_slot(program, slot or {}).matrices.values()
    rows = {
        t.subarray * program.machine.array.rows + t.row + i
        for m in chosen
        if m.trainable or m.kind == "scratch"
        for t in m.tiles
        for i in range(t.rows)
    }
    return np.asarray(sorted(rows), np.int64)


# ---------------------------------------------------------------------------------------------------------------- changed instructions


def with_classes(program: Program, classes: int) -> Program:
    """The program with predictions among the first ``classes`` outputs only (0: it predicts values). Logits, loss and training keep all outputs.

    Raises:
        SasError: more classes than outputs.
    """
    if not classes:
        return program
    outputs = int(program.meta["classes"])
    if not 1 <= classes <= outputs:
        raise SasError(f"{classes} classes, the classifier has {outputs} outputs", hint=more_classes(classes))
    if classes == outputs:
        return program
    views: dict[str, View] = dict(program.views)
    code: list[Instr] = []
    for instr in program.code:
        if instr.spec.mnemonic == "argmax" and program.views[instr.operands[1]].channels == outputs:
            whole = program.views[instr.operands[1]]
            part = replace(whole, name=f"{whole.name}.first{classes}", shape=(1, 1, classes))
            views[part.name] = part
            instr = replace(instr, operands=(instr.operands[0], part.name))
        code.append(instr)
    return replace(program, views=views, code=tuple(code))


def _names(program: Program, matrix: Matrix) -> set[str]:
    """Names a layer is known by: its matrices, its tensor, its ONNX nodes."""
    nodes = {
        instr.origin.node
        for instr in program.code
        for f, value in zip(instr.spec.fields, instr.operands, strict=True)
        if isinstance(f, MatField) and value == matrix.name
    }
    return {matrix.name, matrix.tensor, *nodes} - {""}


def _matches(pattern: str, name: str) -> bool:
    try:
        return fnmatchcase(name, pattern) or re.fullmatch(pattern, name) is not None
    except re.error:
        return False


def frozen_layers(program: Program, patterns: str) -> frozenset[str]:
    """Trainable matrices that a comma-separated list of globs or regular expressions names.

    Raises:
        SasError: a pattern that matches none; nothing trainable would be left.
    """
    asked = [p.strip() for p in patterns.split(",") if p.strip()]
    if not asked:
        return frozenset()
    known = {name: _names(program, m) for name, m in trainable_matrices(program).items()}
    chosen: set[str] = set()
    for pattern in asked:
        found = {name for name, names in known.items() if any(_matches(pattern, n) for n in names)}
        if not found:
            raise SasError(f"--freeze: no trainable layer matches {pattern!r}", hint=f"trainable: {', '.join(sorted(known))}")
        tensors = {program.matrices[name].tensor for name in found}
        chosen |= {name for name in known if program.matrices[name].tensor in tensors}
    if chosen and len(chosen) == len(known):
        raise SasError("--freeze leaves no layer to train", hint="to evaluate only, use --eval")
    return frozenset(chosen)


def _writes(instr: Instr, matrices: frozenset[str]) -> bool:
    pairs = zip(instr.spec.fields, instr.operands, strict=True)
    return any(isinstance(f, MatField) and f.write and value in matrices for f, value in pairs)


def _nothing(instr: Instr) -> Instr:
    return replace(instr, spec=TABLE["addi"], operands=(0, 0, 0))


def _stores(instr: Instr, views: Collection[str]) -> bool:
    return instr.spec.mnemonic == "hst" and instr.operands[0] in views


def _biases(program: Program, matrices: Collection[str]) -> dict[str, LearnedBias]:
    """Learned biases of the layers that have these matrices, by view."""
    layers = json.loads(program.meta.get("layers", "{}"))
    of = {layers[program.matrices[name].tensor][0] for name in matrices} if program.learned_biases else set[str]()
    return {bias.view: bias for layer, bias in program.learned_biases.items() if layer in of}


def without_writes(program: Program, matrices: frozenset[str]) -> Program:
    """The program without the instructions that write these matrices or the learned biases beside them (each becomes an addition to r0, which stays 0).
    Their gradients are still computed."""
    biases = _biases(program, matrices)
    code = tuple(_nothing(i) if _writes(i, matrices) or _stores(i, biases) else i for i in program.code)
    return replace(program, code=code) if matrices else program


def without_classes(program: Program, classes: int) -> Program:
    """The program whose training changes nothing but the classifier's weights of outputs from ``classes`` on: the logits before stay as they are.

    Raises:
        SasError: no classifier that is trained.
    """
    classifier, layers = (json.loads(program.meta.get(key, "{}")) for key in ("classifier", "layers"))
    if not classifier:
        raise SasError(
            "the program trains no classifier", where=program.source, hint="compile a model whose classifier is trainable"
        )
    first = {name: layers[m.tensor][2] for name, m in trainable_matrices(program).items() if m.tensor in classifier}
    others = without_writes(program, frozenset(trainable_matrices(program)) - set(first))
    views, code, biases = dict(program.views), list(others.code), _biases(program, first)
    for i, instr in enumerate(code):
        if _stores(instr, biases):
            parts = [views[name] for name in instr.operands[:2]]
            parts = [
                replace(v, name=f"{v.name}.from{classes}", addr=v.addr + classes * v.chan, shape=(1, 1, v.channels - classes))
                for v in parts
            ]
            views |= {v.name: v for v in parts}
            code[i] = (
                replace(instr, operands=(*(v.name for v in parts), *instr.operands[2:]))
                if parts[0].channels > 0
                else _nothing(instr)
            )
        if not _writes(instr, frozenset(first)):
            continue
        matrix, delta, column, rows = instr.operands
        view, skipped = views[delta], classes - first[matrix] - column
        if skipped >= view.channels:
            code[i] = _nothing(instr)
        elif skipped > 0:
            part = replace(
                view,
                name=f"{delta}.from{skipped}",
                addr=view.addr + skipped * view.chan,
                shape=(*view.shape[:2], view.channels - skipped),
            )
            views[part.name] = part
            code[i] = replace(instr, operands=(matrix, part.name, column + skipped, rows))
    return replace(others, views=views, code=tuple(code))


# ------------------------------------------------------------------------------------------------------------------------ host memory


def remembered_views(program: Program) -> tuple[str, ...]:
    """Views on host memory that hold something from one training step to the next: low bytes of weights, velocities.

    Raises:
        SasError: the program's meta data name a view that is none.
    """
    try:
        names = json.loads(program.meta.get("training_state", "[]"))
        if all(program.views[name].space == "host" for name in names):
            return tuple(names)
    except (ValueError, KeyError, TypeError):
        pass
    raise SasError("the program's meta data are damaged: training_state", where=program.source)
