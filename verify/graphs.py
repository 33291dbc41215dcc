"""The graph after the passes against the graph as it was imported: bit for bit.

Both run on the same samples. Operations that no pass touched share their results; so do convolutions and rescalings of which a pass moved
zero points only, and which are the same function by arithmetic. Where a pass gave a trainable layer a coarser input
(``ZeroInputs``), that layer may differ by what half a step of the new input makes of its output, and one step for the rounding; behind it
the old graph goes on with the new results, so everything else stays exact.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.ir import interp
from sasimc.ir.graph import Graph, Op
from sasimc.verify.difference import Difference, first_difference

__all__ = ["Runs", "against_import"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Runs:
    """All values of both graphs. ``fed``: what the operations of the imported graph read; ``imported``: what they made of it, which differs
    from ``fed`` only at layers whose input was requantised; ``final``: the graph after the passes."""

    fed: dict[str, Ints]
    imported: dict[str, Ints]
    final: dict[str, Ints]


def against_import(before: Graph, after: Graph, feeds: Mapping[str, Ints]) -> Runs:
    """Run both graphs on stored inputs of ``before``.

    Raises:
        Difference: the first operation whose result differs.
    """
    new: dict[str, Ints] = {v: feeds[v] + d if (d := _moved(before, after, v)) else feeds[v] for v in after.inputs}
    samples = max(map(len, new.values()))
    for op in after.ops:
        new[op.output] = interp.run_op(after, op, [new[v] for v in op.inputs], samples=samples)
    old: dict[str, Ints] = dict(feeds)
    level = set(after.inputs)  # values that differ by their zero points at most
    made: dict[str, Ints] = dict(feeds)
    for op in before.ops:
        shared = op.output in after.values
        if shared and (_same(before, after, op, old, new) or _same_but_zeros(before, after, op, level)):
            moved = _moved(before, after, op.output)
            old[op.output] = made[op.output] = new[op.output] - moved if moved else new[op.output]
            level.add(op.output)
            continue
        old[op.output] = made[op.output] = interp.run_op(before, op, [old[v] for v in op.inputs], samples=samples)
        if not shared:
            continue
        moved = _moved(before, after, op.output)
        got = new[op.output] - moved if moved else new[op.output]
        if (hit := first_difference(got, old[op.output], _coarser(before, after, op))) is not None:
            raise Difference("the graph after the passes", "the imported graph", op.origin or op.name, op.kind, *hit)
        old[op.output] = got
        level.add(op.output)
    for a, b in zip(before.outputs, after.outputs, strict=True):
        if (
            hit := first_difference(
                new[b].reshape(len(new[b]), -1), (old[a] + _shift(before, a, after, b)).reshape(len(old[a]), -1)
            )
        ) is not None:
            raise Difference("the graph after the passes", "the imported graph", a, "output", *hit)
    return Runs(old, made, new)


def _moved(before: Graph, after: Graph, value: str) -> int:
    return _shift(before, value, after, value)


def _shift(before: Graph, a: str, after: Graph, b: str) -> int:
    """What is added to a stored value when int8 around -128 became uint8 around 0."""
    return after.type(b).zero - before.type(a).zero


def _same(before: Graph, after: Graph, op: Op, old: Mapping[str, Ints], new: Mapping[str, Ints]) -> bool:
    """Whether the operation and its inputs are what they were, so that its result needs no second computation."""
    made = after.producer(op.output)
    if made is None or made.kind != op.kind or made.inputs != op.inputs:
        return False
    return (
        _attrs(made) == _attrs(op)
        and made.consts == op.consts
        and all(_equal(after.constants[c], before.constants[c]) for c in op.consts.values())
        and all(old.get(v) is new.get(v) and before.type(v).quant == after.type(v).quant for v in op.inputs)
    )


def _same_but_zeros(before: Graph, after: Graph, op: Op, level: Collection[str]) -> bool:
    """Whether a layer differs in the zero points of its input and output at most: with ``x' = x + d`` the bias is ``b' = b - d sum w``, and
    everything behind the sum is the same."""
    made = after.producer(op.output)
    if op.kind not in ("conv", "rescale") or made is None or made.kind != op.kind or made.inputs != op.inputs:
        return False
    (x,) = op.inputs
    away, ours, theirs = _moved(before, after, op.output), _attrs(made), _attrs(op)
    if x not in level or before.type(x).scale != after.type(x).scale or made.consts.keys() != op.consts.keys():
        return False
    per_unit = before.constant(op, "weight").astype(np.int64).sum(axis=(0, 1, 2)) if op.kind == "conv" else 1
    bias, new_bias = (g.constant(o, "bias").astype(np.int64) for g, o in ((before, op), (after, made)))
    return (
        ours == theirs | {"lo": op.int_attr("lo") + away, "hi": op.int_attr("hi") + away}
        and all(_equal(after.constant(made, role), before.constant(op, role)) for role in op.consts if role != "bias")
        and np.array_equal(bias, new_bias + _moved(before, after, x) * per_unit)
    )


def _equal(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    return a is b or np.array_equal(a, b)


def _attrs(op: Op) -> dict[str, Any]:
    """What an operation computes with: all but marks."""
    return {k: v for k, v in op.attrs.items() if k not in ("trainable", "head")}


def _coarser(before: Graph, after: Graph, op: Op) -> npt.NDArray[np.float64] | float:
    """How far a layer may be off whose input was requantised, in steps of its output, per channel."""
    made = after.producer(op.output)
    if made is None or op.kind != "conv" or not op.inputs:
        return 0.0
    new, old = after.type(made.inputs[0]), before.type(op.inputs[0])
    if new.scale == old.scale:
        return 0.0
    weight = np.abs(before.constant(op, "weight").astype(np.int64)).sum(axis=(0, 1, 2))
    return 1 + 0.5 * new.scale * weight * before.constant(op, "wscale") / before.type(op.output).scale
