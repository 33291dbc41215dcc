"""Checks that a graph obeys the table in :mod:`sasimc.ir.kinds`. The first breach raises :class:`IrError`, naming the op."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sasimc.ir.graph import DTYPES, Graph, IrError, Op, TensorType, TrainGraph
from sasimc.ir.kinds import KINDS
from sasimc.isa.errors import near

__all__ = ["is_integer", "verify", "verify_train"]

_PLAIN = {"i": int, "f": float, "s": str, "b": bool}


def verify(graph: Graph, *, integer: bool = False) -> None:
    """Raise IrError unless the graph is well formed; with ``integer`` no float-level operation or value may be left."""
    seen = set(graph.inputs)
    _check_types(graph.values)
    _check_names(graph.ops)
    for value in graph.inputs:
        if value not in graph.values:
            raise IrError(f"graph input {value!r} has no type")
    for op in graph.ops:
        _check_op(graph, op, seen, ("float", "int", "both") if not integer else ("int", "both"))
    for value in graph.outputs:
        if value not in seen:
            raise IrError(f"graph output {value!r} is not computed")
    if extra := sorted(set(graph.values) - seen):
        raise IrError(f"value {extra[0]!r} is typed but not computed")
    if integer:
        for value, t in graph.values.items():
            if t.dtype == "f32":
                raise IrError(f"value {value!r} is still f32 in an integer graph")


def verify_train(train: TrainGraph) -> None:
    """Raise IrError unless the backward half is well formed (and so is the forward graph it belongs to)."""
    verify(train.forward, integer=True)
    _check_types(train.values)
    _check_names(train.ops)
    for value in train.saved:
        if value not in train.forward.values:
            raise IrError(f"saved value {value!r} is not a value of the forward graph")
    seen = set(train.saved) | set(train.forward.outputs)
    for op in train.ops:
        _check_op(train, op, seen, ("train",))
        mask = op.str_attr("mask_of")
        if mask and mask not in train.saved:
            raise IrError(f"{op.kind} {op.name!r}: masked by {mask!r}, which is not saved", where=op.name)


def is_integer(graph: Graph) -> bool:
    """Whether every operation is one the backend consumes."""
    return all(KINDS[op.kind].level in ("int", "both") for op in graph.ops) and all(
        t.dtype != "f32" for t in graph.values.values()
    )


def _check_types(values: Mapping[str, TensorType]) -> None:
    for name, t in values.items():
        if t.dtype not in DTYPES:
            raise IrError(f"value {name!r} has unknown dtype {t.dtype!r}")
        if len(t.shape) != 3 or min(t.shape) < 1:
            raise IrError(f"value {name!r} has shape {t.shape}; expected three positive sizes (H, W, C)")
        if t.layout is not None and not t.layout.covers(t.size):
            raise IrError(f"value {name!r} of shape {t.shape} has axes {t.layout.dims} that do not hold each element once")
        if not (math.isfinite(t.scale) and t.scale > 0):
            raise IrError(f"value {name!r} has scale {t.scale}; expected a positive finite number")


def _check_names(ops: tuple[Op, ...]) -> None:
    names: set[str] = set()
    for op in ops:
        if not op.name or op.name in names:
            raise IrError(f"operation name {op.name!r} is empty or used twice", where=op.name)
        names.add(op.name)


def _check_op(graph: Graph | TrainGraph, op: Op, seen: set[str], levels: tuple[str, ...]) -> None:
    def fail(message: str, hint: str = "") -> IrError:
        return IrError(f"{op.kind} {op.name!r}: {message}", where=op.name, hint=hint)

    kind = KINDS.get(op.kind)
    if kind is None:
        raise fail("unknown kind", near(op.kind, list(KINDS)))
    if kind.level not in levels:
        raise fail(f"a {kind.level}-level operation is not allowed here")
    if not kind.arity[0] <= len(op.inputs) <= kind.arity[1]:
        raise fail(f"has {len(op.inputs)} inputs, expected {kind.arity[0]}")
    for value in op.inputs:
        if value not in seen:
            raise fail(f"reads {value!r} before it is computed")
    if bool(op.output) != kind.output:
        raise fail("needs an output" if kind.output else "has no output")
    if op.output:
        if op.output in seen and op.kind != "opaque":
            raise fail(f"computes {op.output!r} a second time")
        if op.output not in graph.values:
            raise fail(f"output {op.output!r} has no type")
        seen.add(op.output)
    _check_attrs(op)
    for role in kind.consts:
        if role not in op.consts:
            raise fail(f"constant {role!r} is missing")
    for role, name in op.consts.items():
        if role not in kind.consts and role not in kind.optional_consts:
            raise fail(f"unknown constant {role!r}")
        if name not in graph.constants:
            raise fail(f"constant {name!r} is not in the graph")
    if bad := kind.rule(graph, op):
        raise fail(bad)


def _check_attrs(op: Op) -> None:
    kind = KINDS[op.kind]
    known = {**kind.attrs, **kind.optional}
    for name in kind.attrs:
        if name not in op.attrs:
            raise IrError(f"{op.kind} {op.name!r}: attribute {name!r} is missing", where=op.name)
    for name, value in op.attrs.items():
        want = known.get(name)
        if want is None:
            raise IrError(f"{op.kind} {op.name!r}: unknown attribute {name!r}", where=op.name, hint=near(name, list(known)))
        if want in _PLAIN:
            good = type(value) is _PLAIN[want]
        else:
            length = want[1:] in ("*", str(len(value))) if isinstance(value, tuple) else False
            good = isinstance(value, tuple) and length and all(type(v) is int for v in value)
        if not good:
            raise IrError(f"{op.kind} {op.name!r}: attribute {name!r} is {value!r}, expected {_wanted(want)}", where=op.name)


def _wanted(code: str) -> str:
    return _PLAIN[code].__name__ if code in _PLAIN else f"{code[1:]} integers".replace("*", "any number of")
