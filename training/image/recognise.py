"""Which task an image belongs to: programs that give the frozen features, and the mean that is nearest to them.

The features are what the classifier reads when no trained weight has a part in it: products with other trained matrices are left out, so that
their sums are 0 (a module then adds nothing). Means are of the classes of all tasks, one to one; |x - m|^2 is smallest where x m - |m|^2 / 2 is
largest, which the periphery computes from means that stream in from the host. Formulas: docs/reference/numerics.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sasimc.isa.errors import SasError
from sasimc.isa.instructions import array, control, movement, periphery  # noqa: F401  (the instructions that are emitted)
from sasimc.isa.objects import Table, View
from sasimc.isa.program import Instr, Program, Tensor
from sasimc.isa.spec import TABLE, MatField, Reg, RowRange, RowsField
from sasimc.training.image.rebind import trainable_matrices

__all__ = [
    "FEATURES",
    "Mean",
    "Sums",
    "classify_code",
    "entry_code",
    "feature_program",
    "features_of",
    "half_norms",
    "recognise_code",
]

FEATURES: Final = "frozen.features.out"
"""View in which the program of :func:`feature_program` leaves the features of sample b."""
MOST_FEATURES: Final = ((1 << 31) - 1) // (255 * 255)
"""So many products of bytes fit 32 bits."""

_SCORES: Final = "frozen.scores"
_ALL: Final = RowRange(0, 0, 1)

Mean = npt.NDArray[np.uint8 | np.int8]


class Sums:
    """Means of the features of classes, from images as they come: S / n, rounded to nearest, a half upwards."""

    def __init__(self, classes: int, view: View) -> None:
        self._sums, self._counts = np.zeros((classes, view.channels), np.int64), np.zeros(classes, np.int64)
        self._dtype = np.uint8 if view.dtype == "u8" else np.int8

    def add(self, features: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
        """Features [B, K] of images of these classes [B]."""
        np.add.at(self._sums, labels, features.astype(np.int64))
        np.add.at(self._counts, labels, 1)

    @property
    def means(self) -> Mean:
        """[classes, K]; a class without an image has the mean of all images."""
        sums, n = self._sums.copy(), self._counts.copy()
        sums[n == 0], n[n == 0] = self._sums.sum(axis=0), self._counts.sum()
        return ((2 * sums + n[:, None]) // (2 * n[:, None])).astype(self._dtype)


def half_norms(means: Mean) -> npt.NDArray[np.int64]:
    """|m|^2 / 2 of each mean, rounded down."""
    return np.square(means.astype(np.int64)).sum(axis=1) // 2


def entry_code(program: Program, entry: str) -> tuple[Instr, ...]:
    """The instructions of an entry point."""
    start = program.entries[entry]
    return program.code[start : min((s for s in program.entries.values() if s > start), default=len(program.code))]


def _matrices(instr: Instr) -> Iterator[str]:
    return (v for f, v in zip(instr.spec.fields, instr.operands, strict=True) if isinstance(f, MatField))


def _products(program: Program) -> tuple[list[int], list[int]]:
    """Of entry ``infer``: instructions that read the classifier's weights, and those that read other trained weights or biases."""
    classifier, trained = set(json.loads(program.meta.get("classifier", "[]"))), trainable_matrices(program)
    code = entry_code(program, "infer")
    used = [(i, m) for i, instr in enumerate(code) for m in _matrices(instr) if m in trained]
    biases = [i for i, instr in enumerate(code) if instr.spec.mnemonic == "badd"]
    last = [i for i, m in used if trained[m].tensor in classifier]
    return last, [*biases, *(i for i, m in used if trained[m].tensor not in classifier)]


def features_of(program: Program) -> View | None:
    """The classifier's input as a vector [1, 1, K] in the buffer; None where the program has no classifier that is trained and reads one dense tensor."""
    code = entry_code(program, "infer")
    last, _ = _products(program)
    if not last or any(code[i].spec.mnemonic != "vmm" for i in last) or len({code[i].operands[1] for i in last}) > 1:
        return None
    x = program.views[code[last[0]].operands[1]]
    k = program.matrices[code[last[0]].operands[2]].k
    size = x.height * x.width * x.channels
    if k != size or x.ring or (x.row, x.pix, x.chan) != View.dense_strides(x.space, x.dtype, x.shape) or k > MOST_FEATURES:
        return None
    return View("frozen.features", "buf", x.dtype, (1, 1, k), x.addr, k, k, 1)


def _emit(mnemonic: str, *operands: Any) -> Instr:
    return Instr(TABLE[mnemonic], operands)


def _with_tail(program: Program, tail: Sequence[Instr]) -> tuple[Instr, ...]:
    """Entry ``infer`` without trained weights: up to the classifier, then the tail in its place, then what ends the loop over samples."""
    code = entry_code(program, "infer")
    last, others = _products(program)
    before = [instr for i, instr in enumerate(code[: last[0]]) if i not in set(others)]
    after = [instr for instr in code[last[0] :] if instr.spec.group == "control"]
    return (*before, *tail, *after)


def _sample(program: Program) -> tuple[Instr, Instr]:
    """The instructions that find the largest logit, and that store its index: they know the registers."""
    code = entry_code(program, "infer")
    store = next(i for i in code if i.spec.mnemonic == "stw")
    return next(i for i in code if i.spec.mnemonic == "argmax"), store


def _host_end(program: Program) -> int:
    """The first address of host memory behind everything the program has there."""
    batch = int(program.meta["batch"])
    ends = [v.end + v.batch * (batch - 1) for v in program.views.values() if v.space == "host"]
    return -(-max(ends, default=0) // 64) * 64


def feature_program(program: Program) -> Program:
    """A program whose entry ``infer`` leaves the features in :data:`FEATURES`.

    Raises:
        SasError: it has none.
    """
    x = _required(program)
    out = replace(x, name=FEATURES, space="host", addr=_host_end(program), batch=-(-x.channels // 4) * 4)
    _, store = _sample(program)
    code = _with_tail(program, [_emit("hst", FEATURES, x.name, store.operands[2], _ALL)])
    return replace(program, code=code, entries={"infer": 0}, views={**program.views, x.name: x, FEATURES: out})


def _required(program: Program) -> View:
    x = features_of(program)
    if x is None:
        raise SasError(
            "the program has no frozen features: no trained classifier that reads one tensor", where=program.source,
            hint="name the task with --task",
        )  # fmt: skip
    return x


@dataclass(frozen=True)
class _Room:
    """Where means stand in the buffer: so many at a time, from an address; the scores' address."""

    rows: int
    means: int
    scores: int


def _room(program: Program, x: View, means: int) -> _Room:
    low = (0, x.addr)
    high = (-(-x.end // 64) * 64, program.machine.buffer.bytes)
    start, end = max(low, high, key=lambda span: span[1] - span[0])
    first = start + 4 * (-(-means // 16) * 16)
    rows = min(means, (end - first) // x.channels)
    if rows < 1 or means > program.machine.accumulator.entries:
        raise SasError(f"the buffer has no room for {means} means of {x.channels} features beside the features themselves")
    return _Room(rows, first, start)


def _free_register(program: Program) -> int:
    used = {0, *program.params.values()}
    for instr in entry_code(program, "infer"):
        for f, value in zip(instr.spec.fields, instr.operands, strict=True):
            used |= {value} if isinstance(f, Reg) else {value.reg} if isinstance(f, RowsField) else set()
    return next(r for r in range(program.machine.controller.registers) if r not in used)


def recognise_code(program: Program, means: Mean) -> Program:
    """A program whose entry ``infer`` predicts the nearest of ``means`` [N, K], the first among equals, in place of a class."""
    x = _required(program)
    n, k = means.shape
    room, (largest, store) = _room(program, x, n), _sample(program)
    free = _free_register(program)
    stripe = RowRange(free, 0, room.rows)
    views = (
        x,
        View("frozen.means", "host", x.dtype, (n, 1, k), _host_end(program), k, k, 1),
        View("frozen.means.buf", "buf", x.dtype, (n, 1, k), room.means, k, k, 1, ring=room.rows),
        View("frozen.sums", "acc", "i32", (n, 1, 1), 0, 1, 1, 1),
        View("frozen.vector", "acc", "i32", (1, 1, n), 0, n, n, 1),
        View(_SCORES, "buf", "i32", (1, 1, n), room.scores, 4 * n, 4 * n, 4),
    )
    norms = Table("t.frozen", "requant", {"zero": 0, "lo": -128, "hi": 127},
                  {"bias": tuple((-half_norms(means)).tolist()), "mult": (1,) * n, "shift": (1,) * n})  # fmt: skip
    tail = [
        _emit("li", free, 0),
        _emit("loopi", -(-n // room.rows)),
        _emit("hld", "frozen.means.buf", "frozen.means", 0, stripe),
        _emit("prod", "frozen.sums", "frozen.means.buf", x.name, stripe),
        _emit("addi", free, free, room.rows),
        _emit("endl"),
        _emit("sync"),
        _emit("bias", "frozen.vector", norms.name, _ALL),
        _emit("drain", _SCORES, "frozen.vector", _ALL),
        replace(largest, operands=(largest.operands[0], _SCORES)),
        store,
    ]
    return replace(
        program, code=_with_tail(program, tail), entries={"infer": 0}, views={**program.views, **{v.name: v for v in views}},
        tables={**program.tables, norms.name: norms},
    )  # fmt: skip


def classify_code(program: Program, suffix: str, weights: Mapping[str, Tensor]) -> Program:
    """Entry ``infer`` alone, with its trained matrices and their tensors renamed by a suffix, and with these weights (by first matrix)."""
    trained = trainable_matrices(program)
    values = {trained[name].tensor: w for name, w in weights.items()}
    matrices = {f"{n}{suffix}": replace(m, name=f"{n}{suffix}", tensor=f"{m.tensor}{suffix}") for n, m in trained.items()}
    tensors = {f"{t}{suffix}": w.reshape(program.tensors[t].shape) for t, w in values.items()}
    code = tuple(
        replace(
            instr,
            operands=tuple(
                f"{v}{suffix}" if isinstance(f, MatField) and v in trained else v
                for f, v in zip(instr.spec.fields, instr.operands, strict=True)
            ),
        )
        for instr in entry_code(program, "infer")
    )
    frozen = {n: m for n, m in program.matrices.items() if n not in trained}
    return replace(
        program, code=code, entries={"infer": 0}, matrices={**frozen, **matrices}, tensors={**program.tensors, **tensors}
    )
