"""Fold per-channel constants into the convolution they follow, and chains of constants into one.

Works on the float-level graph: ``x W + b + c`` (MatMul and Add), ``(x W + b) c`` (a normalisation; the sign of c goes to W), ``x c1 c2``. Only
where the value between has no other reader, so nothing is computed twice. A reshape that keeps the stored shape (a Transpose, a
Squeeze) is moved behind the constants and clips that follow it, for these are per stored channel.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sasimc.ir.graph import Graph, Op

__all__ = ["SUNK", "FoldConstants"]

_FOLDS = ("addc_f", "mul_f")
SUNK = "sunk"
"""Note of a float-level graph: JSON, values that stand in front of a reshape they were behind, and the value of the file that has the same elements."""


@dataclass(frozen=True)
class FoldConstants:
    name: ClassVar[str] = "fold_constants"

    def run(self, graph: Graph) -> Graph:
        graph = _sunk(graph)
        constants = dict(graph.constants)
        values = dict(graph.values)
        done: dict[str, Op] = {}  # by output, in order
        for op in graph.ops:
            before = done.get(op.inputs[0]) if op.kind in _FOLDS else None
            if before is not None and len(graph.consumers(op.inputs[0])) == 1 and op.inputs[0] not in graph.outputs:
                folded = _fold(before, op, constants)
                if folded is not None:
                    del done[before.output], values[before.output]
                    done[op.output] = folded
                    continue
            done[op.output] = op
        return graph.with_changes(ops=tuple(done.values()), constants=constants, values=values)


def _sunk(graph: Graph) -> Graph:
    ops: list[Op] = []
    values, sunk = dict(graph.values), dict[str, str]()
    for op in graph.ops:
        before = ops[-1] if ops else None
        if (
            op.kind in (*_FOLDS, "clip_f")
            and before is not None
            and before.kind == "reshape"
            and before.output == op.inputs[0]
            and values[before.inputs[0]].shape == values[before.output].shape
            and graph.consumers(before.output) == (op,)
            and before.output not in graph.outputs
        ):
            front = next(name for i in itertools.count() if (name := f"{op.output}:sunk{i}") not in values)
            values[front], sunk[front] = values[before.inputs[0]], op.output
            del values[before.output]
            ops[-1:] = [replace(op, inputs=before.inputs, output=front), replace(before, inputs=(front,), output=op.output)]
        else:
            ops.append(op)
    notes = {**graph.notes, SUNK: json.dumps(sunk)} if sunk else graph.notes
    return graph.with_changes(ops=tuple(ops), values=values, notes=notes)


def _fold(before: Op, op: Op, constants: dict[str, npt.NDArray[Any]]) -> Op | None:
    c = constants[op.consts["c"]]
    origin = f"{before.origin},{op.origin}" if op.origin not in before.origin.split(",") else before.origin
    merged = replace(before, output=op.output, origin=origin, made_by="fold_constants")
    if before.kind == op.kind:
        name = f"{before.name}.folded.{op.name}"
        constants[name] = constants[before.consts["c"]] + c if op.kind == "addc_f" else constants[before.consts["c"]] * c
        return merged.with_consts(c=name)
    if before.kind != "conv_f":
        return None
    name = f"{before.name}.bias.{op.name}"
    if op.kind == "addc_f":
        constants[name] = _real_bias(before, constants) + c
        return _with_bias(merged, name)
    weight, wscale = constants[before.consts["weight"]], constants[before.consts["wscale"]]
    if (weight[..., c < 0] == -128).any():
        return None  # 128 is no int8
    constants[name] = _real_bias(before, constants) * c
    scale = f"{before.name}.wscale.{op.name}"
    constants[scale] = np.where(c == 0, wscale, wscale * np.abs(c))
    merged = _with_bias(merged, name).with_consts(wscale=scale)
    if (c > 0).all():
        return merged
    signed = f"{before.name}.weight.{op.name}"
    constants[signed] = weight * np.sign(c).astype(np.int8)
    return merged.with_consts(weight=signed)


def _real_bias(conv: Op, constants: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    if "bias" in conv.consts:
        return constants[conv.consts["bias"]]
    if "bias_q" in conv.consts:
        return constants[conv.consts["bias_q"]] * constants[conv.consts["bias_scale"]]
    return np.zeros(constants[conv.consts["wscale"]].shape)


def _with_bias(conv: Op, name: str) -> Op:
    rest = {role: c for role, c in conv.consts.items() if role not in ("bias_q", "bias_scale")}
    return replace(conv, consts={**rest, "bias": name})
