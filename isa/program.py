"""The program: instructions, descriptor memory, entry points, tensors, and where every instruction came from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.isa.errors import SasError
from sasimc.isa.machine import Machine
from sasimc.isa.objects import Geometry, Matrix, Table, View
from sasimc.isa.spec import GeomField, Instruction, MatField, TableField, ViewField

__all__ = ["Instr", "LearnedBias", "Origin", "Program", "Tensor"]

Tensor = npt.NDArray[np.int8] | npt.NDArray[np.int32]


@dataclass(frozen=True)
class Origin:
    """The ONNX node an instruction works for and the pass that made it; either may be empty (hand-written code)."""

    node: str = ""
    made_by: str = ""


@dataclass(frozen=True)
class Instr:
    """One instruction: its declaration, operand values in field order (names for views, matrices, geometries, tables), its origin
    and its line in the source text (0 when it has none)."""

    spec: type[Instruction]
    operands: tuple[Any, ...]
    origin: Origin = Origin()
    line: int = 0


@cache
def _declared(spec: type[Instruction]) -> tuple[tuple[str, str], ...]:
    """Each operand's name, and the field of `Program` that declares what it names (empty: it is a value)."""
    pools = {ViewField: "views", MatField: "matrices", GeomField: "geometries", TableField: "tables"}
    return tuple((f.name, next((pool for kind, pool in pools.items() if isinstance(f, kind)), "")) for f in spec.fields)


@dataclass(frozen=True)
class LearnedBias:
    """A bias that is learned: the host view of its 32-bit words, in units of 2^-``bits`` sums of products."""

    view: str
    bits: int


@dataclass(frozen=True)
class Program:
    """A complete program.

    ``views``, ``geometries``, ``matrices``, ``tables``: descriptor memory by name, in declaration order (the order is their index in the
    encoding). ``entries`` maps a name to the index of its first instruction. ``params`` names registers the host sets before an entry runs
    (``batch``, ``head_exponent``, ``module_exponent``); ``meta`` holds strings (input scale, labels, preprocessing, ...). ``tensors`` are the arrays of the
    weights file; ``digest`` is its SHA-256. ``inline`` names the tensors that stand in the text instead. ``lines`` gives the source line of a
    declaration by (kind, name), kind being ``view``, ``geom``, ``mat``, ``table``, ``tensor`` or ``entry``.
    """

    machine: Machine
    code: tuple[Instr, ...]
    views: Mapping[str, View] = field(default_factory=dict)
    geometries: Mapping[str, Geometry] = field(default_factory=dict)
    matrices: Mapping[str, Matrix] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    entries: Mapping[str, int] = field(default_factory=dict)
    params: Mapping[str, int] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    weights_file: str = ""
    digest: str = ""
    source: str = "<program>"
    inline: frozenset[str] = frozenset()
    lines: Mapping[tuple[str, str], int] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        entries = ", ".join(self.entries) or "no entries"
        return f"<Program {self.meta.get('name') or self.source}: {entries}; {len(self.code)} instructions; machine {self.machine.name}>"

    def resolve(self, instr: Instr) -> SimpleNamespace:
        """Operands by field name, with names replaced by their descriptors.

        Raises:
            KeyError: an operand names something that is not declared (the assembler refuses that).
        """
        found = zip(_declared(instr.spec), instr.operands, strict=True)
        return SimpleNamespace(**{name: getattr(self, pool)[value] if pool else value for (name, pool), value in found})

    def entry_of(self, index: int) -> str:
        """The entry point whose code an instruction stands in: the last one that begins at it or before; empty when none does."""
        return max((e for e in self.entries if self.entries[e] <= index), key=lambda e: self.entries[e], default="")

    def table_array(self, table: Table, role: str) -> npt.NDArray[np.int64]:
        """A table's array as int64, from the weights file or inline."""
        value = table.arrays[role]
        return np.asarray(self.tensors[value] if isinstance(value, str) else value, dtype=np.int64).reshape(-1)

    def matrix_values(self, matrix: Matrix) -> npt.NDArray[np.int8]:
        """Initial int8 values [K, N] of a matrix; zeros for scratch."""
        if not matrix.tensor:
            return np.zeros((matrix.k, matrix.n), np.int8)
        return np.asarray(self.tensors[matrix.tensor], dtype=np.int8).reshape(matrix.k, matrix.n)

    @cached_property
    def learned_biases(self) -> Mapping[str, LearnedBias]:
        """What the host puts into its memory before the program runs, and what a training step changes there, by layer. Its first values are the tensor
        of the view's name.

        Raises:
            SasError: meta data that name no such view or tensor.
        """
        try:
            found = {
                layer: LearnedBias(str(view), int(bits))
                for layer, (view, bits) in json.loads(self.meta.get("learned_biases", "{}")).items()
            }
            views = [self.views[bias.view] for bias in found.values()]
            if all(
                v.space == "host" and v.dtype == "i32" and self.tensors[v.name].size == v.channels == np.prod(v.shape)
                for v in views
            ):
                return found
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise SasError("the program's meta data are damaged: learned_biases", where=self.source)

    def with_trained(self, state: Mapping[str, Tensor], labels: Sequence[str] | None = None) -> Program:
        """The program with other weights in trainable matrices (int8 [K, N] by name) and other learned biases (int32 by view), and with the names of
        the classes it has learned."""
        tensors, meta = dict(self.tensors), dict(self.meta)
        for name, values in state.items():
            tensor = self.matrices[name].tensor if name in self.matrices else name
            tensors[tensor] = values.reshape(tensors[tensor].shape)
        if labels is not None:
            if labels:
                meta["note.sasimc.labels"] = json.dumps(list(labels))
            if meta.pop("note.sasimc.untrained", "") == '"weights"':
                meta["note.sasimc.untrained"] = '"backbone"'
        return replace(self, tensors=tensors, meta=meta, digest="", weights_file="")
