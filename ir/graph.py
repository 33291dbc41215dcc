"""The graph every layer above `isa` shares: typed values, operations in topological order, and constant arrays.

Values and operations are frozen; a graph changes only by building another one (:meth:`Graph.with_changes`). One sample is
described, channels last, ``(H, W, C)``; a vector is ``(1, 1, C)``. What each kind of operation may carry stands in
:mod:`sasimc.ir.kinds`; formulas stand in ``docs/reference/numerics.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from sasimc.ir.layout import Layout
from sasimc.isa.errors import SasError

__all__ = ["DTYPES", "INPUTS", "OUTPUTS", "Attr", "Graph", "IrError", "Op", "Shape", "TensorType", "TrainGraph", "type_range"]

Shape = tuple[int, int, int]
Attr = int | float | str | bool | tuple[int, ...] | tuple[float, ...]
Array = npt.NDArray[Any]

DTYPES = ("u8", "i8", "i32", "f32")
INPUTS, OUTPUTS = "inputs", "outputs"
"""Notes of an integer graph: JSON, what the file says of each (``name``, ``axes`` of factors (size, stride); of outputs ``end`` and ``over``: a
softmax that the host computes). A float-level graph notes the names of its outputs."""
_RANGES = {"u8": (0, 255), "i8": (-128, 127), "i32": (-(2**31), 2**31 - 1)}


class IrError(SasError):
    """A graph that breaks the rules of the intermediate representation."""


def type_range(dtype: str) -> tuple[int, int]:
    """Smallest and largest stored value of an integer dtype."""
    return _RANGES[dtype]


@dataclass(frozen=True)
class TensorType:
    """Type of one sample: dtype (``u8``, ``i8``, ``i32``; ``f32`` before canonicalisation), shape (H, W, C);
    real = scale * (q - zero).

    ``layout``: which axes of the ONNX tensor the stored elements are; None once only stored elements count (``Simplify`` forgets it)."""

    dtype: str
    shape: Shape
    scale: float = 1.0
    zero: int = 0
    layout: Layout | None = None

    @property
    def size(self) -> int:
        """Elements of one sample."""
        h, w, c = self.shape
        return h * w * c

    @property
    def quant(self) -> tuple[str, float, int]:
        """What two tensors must share so that their stored values mean the same."""
        return (self.dtype, self.scale, self.zero)

    def with_shape(self, shape: Shape, layout: Layout | None = None) -> TensorType:
        """Another shape; the layout has to be said anew."""
        return replace(self, shape=shape, layout=layout)

    def shaped_like(self, other: TensorType) -> TensorType:
        """Shape and layout of ``other``, dtype and scale of this."""
        return replace(self, shape=other.shape, layout=other.layout)

    def __str__(self) -> str:
        dims = "x".join(str(d) for d in self.shape)
        return f"{self.dtype}[{dims}]" + (
            "" if (self.scale, self.zero) == (1.0, 0) else f" scale={self.scale!r} zero={self.zero}"
        )


@dataclass(frozen=True)
class Op:
    """One operation. ``output`` is '' where there is none; ``consts`` maps a role to a name in ``Graph.constants``."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    consts: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""
    made_by: str = ""

    def int_attr(self, name: str) -> int:
        return int(cast(int, self.attrs[name]))

    def float_attr(self, name: str) -> float:
        return float(cast(float, self.attrs[name]))

    def str_attr(self, name: str, default: str = "") -> str:
        return str(self.attrs.get(name, default))

    def flag(self, name: str) -> bool:
        """A boolean attribute; absent means False."""
        return bool(self.attrs.get(name, False))

    def ints(self, name: str) -> tuple[int, ...]:
        return tuple(int(v) for v in cast("tuple[int, ...]", self.attrs[name]))

    def with_attrs(self, **changes: Attr) -> Op:
        return replace(self, attrs={**self.attrs, **changes})

    def with_consts(self, **changes: str) -> Op:
        return replace(self, consts={**self.consts, **changes})


@dataclass(frozen=True, eq=False)
class Graph:
    """A forward graph. ``ops`` is topological; ``notes`` carries what the file says besides (labels, ...)."""

    name: str
    values: Mapping[str, TensorType]
    ops: tuple[Op, ...]
    constants: Mapping[str, Array]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    notes: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Short; ``ir.text`` prints everything."""
        return f"<Graph {self.name}: {len(self.ops)} operations, {', '.join(self.inputs)} -> {', '.join(self.outputs)}>"

    @cached_property
    def _producers(self) -> dict[str, Op]:
        return {op.output: op for op in self.ops if op.output}

    @cached_property
    def _consumers(self) -> dict[str, tuple[Op, ...]]:
        found: dict[str, list[Op]] = {}
        for op in self.ops:
            for value in dict.fromkeys(op.inputs):
                found.setdefault(value, []).append(op)
        return {value: tuple(ops) for value, ops in found.items()}

    @cached_property
    def _by_name(self) -> dict[str, Op]:
        return {op.name: op for op in self.ops}

    def producer(self, value: str) -> Op | None:
        """The op that computes ``value``; None for a graph input."""
        return self._producers.get(value)

    def consumers(self, value: str) -> tuple[Op, ...]:
        """The ops that read ``value``, in forward order, each once."""
        return self._consumers.get(value, ())

    def op(self, name: str) -> Op:
        """The op of that name; IrError when there is none."""
        try:
            return self._by_name[name]
        except KeyError:
            raise IrError(f"graph {self.name!r} has no operation {name!r}") from None

    def has_op(self, name: str) -> bool:
        return name in self._by_name

    def type(self, value: str) -> TensorType:
        """The type of ``value``; IrError when the graph has no such value."""
        try:
            return self.values[value]
        except KeyError:
            raise IrError(f"graph {self.name!r} has no value {value!r}") from None

    def constant(self, op: Op, role: str) -> Array:
        """The array an op carries in ``role`` (``weight``, ``bias``, ...); IrError when it has none."""
        try:
            return self.constants[op.consts[role]]
        except KeyError:
            raise IrError(f"operation {op.name!r} ({op.kind}) has no constant {role!r}", where=op.name) from None

    def with_changes(self, **changes: Any) -> Graph:
        """A copy with some fields replaced (``dataclasses.replace``)."""
        return replace(self, **changes)

    replace = with_changes

    def map_ops(self, ops: Iterable[Op]) -> Graph:
        return replace(self, ops=tuple(ops))

    def same(self, other: Graph) -> bool:
        """Equality of everything, arrays included (dtype, shape and elements)."""
        return (
            (self.name, self.ops, self.inputs, self.outputs) == (other.name, other.ops, other.inputs, other.outputs)
            and dict(self.values) == dict(other.values)
            and dict(self.notes) == dict(other.notes)
            and same_arrays(self.constants, other.constants)
        )


@dataclass(frozen=True, eq=False)
class TrainGraph:
    """Loss, errors and updates of one forward graph (``passes/backward.py``).

    ``values`` and ``constants`` are those of the error side; ``saved`` are the forward values it reads (inputs of trainable
    layers, clipped outputs, max-pool inputs), in no order. Names of error values start with ``e:``. ``options``: what it was derived with.
    """

    forward: Graph
    ops: tuple[Op, ...]
    values: Mapping[str, TensorType]
    constants: Mapping[str, Array]
    saved: frozenset[str]
    options: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<TrainGraph of {self.forward.name}: {len(self.ops)} operations, {self.options.get('backprop', 'no options')}>"

    @cached_property
    def _producers(self) -> dict[str, Op]:
        return {op.output: op for op in self.ops if op.output}

    def producer(self, value: str) -> Op | None:
        return self._producers.get(value)

    def consumers(self, value: str) -> tuple[Op, ...]:
        """The ops that read ``value``, in order."""
        return tuple(op for op in self.ops if value in op.inputs)

    def type(self, value: str) -> TensorType:
        """Type of an error value or of a forward value."""
        return self.values[value] if value in self.values else self.forward.type(value)

    def constant(self, op: Op, role: str) -> Array:
        try:
            return self.constants[op.consts[role]]
        except KeyError:
            raise IrError(f"operation {op.name!r} ({op.kind}) has no constant {role!r}", where=op.name) from None

    def transposed(self) -> tuple[str, ...]:
        """Names of the forward convolutions that errors pass (their weights are read transposed), in backward order."""
        return tuple(op.str_attr("forward") for op in self.ops if op.kind == "conv_t")


def same_arrays(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    """Whether two sets of arrays have the same names, dtypes, shapes and elements."""
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and np.array_equal(a[k], b[k]) for k in a
    )
