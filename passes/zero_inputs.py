"""Give the inputs of trainable layers zero point 0, so that their biases do not depend on the weights.

A layer's stored bias is b - z_x sum w; when the device changes w it would have to form the sum anew. Files written for training
have z = 0 there. For others this pass inserts a rescale to int8 with z = 0 (a coarser scale that covers the same range).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sasimc.ir.graph import Graph, Op, TensorType, type_range
from sasimc.passes.factors import factors
from sasimc.passes.integer_ops import narrow

__all__ = ["NOTE", "ZeroInputs"]

NOTE = "requantised_inputs"


@dataclass(frozen=True)
class ZeroInputs:
    """One rescale per tensor, shared by its trainable readers; the layers concerned are listed in the graph's note."""

    name: ClassVar[str] = "zero_inputs"

    def run(self, graph: Graph) -> Graph:
        values, constants = dict(graph.values), dict(graph.constants)
        ops: list[Op] = []
        moved: dict[str, str] = {}
        layers: list[str] = []
        for op in graph.ops:
            if op.flag("trainable") and graph.type(op.inputs[0]).zero != 0:
                x = op.inputs[0]
                if x not in moved:
                    moved[x] = f"{x}:z0"
                    values[moved[x]] = _symmetric(graph.type(x))
                    ops.append(_rescale(graph, x, moved[x], values[moved[x]], constants, op.origin))
                op = _on_new_input(graph, op, moved[x], values[moved[x]], constants)
                layers.append(op.name)
            ops.append(op)
        if not layers:
            return graph
        notes = {**graph.notes, NOTE: ",".join(layers)}
        return graph.with_changes(ops=tuple(ops), values=values, constants=constants, notes=notes)


def _symmetric(t: TensorType) -> TensorType:
    lo, hi = type_range(t.dtype)
    return replace(t, dtype="i8", scale=t.scale * max(t.zero - lo, hi - t.zero) / 127, zero=0)


def _rescale(graph: Graph, x: str, out: str, to: TensorType, constants: dict[str, npt.NDArray[Any]], origin: str) -> Op:
    t = graph.type(x)
    channels = t.shape[2]
    mult, shift = factors(np.full(channels, t.scale / to.scale))
    arrays = {"mult": mult, "shift": shift, "bias": np.full(channels, -t.zero, np.int32), "cscale": np.ones(channels)}
    consts = {role: f"{out}.{role}" for role in arrays}
    constants.update({consts[role]: a for role, a in arrays.items()})
    clamp = {"lo": -128, "hi": 127, "mask_lo": False, "mask_hi": False}
    return Op(out, "rescale", (x,), out, clamp, consts, origin, ZeroInputs.name)


def _on_new_input(graph: Graph, op: Op, x: str, t: TensorType, constants: dict[str, npt.NDArray[Any]]) -> Op:
    """The same real layer on the new input: bias without the zero point's share, factors for the new scale."""
    old = graph.type(op.inputs[0])
    weight, wscale = graph.constant(op, "weight").astype(np.int64), graph.constant(op, "wscale")
    bias = graph.constant(op, "bias").astype(np.int64) + old.zero * weight.sum(axis=(0, 1, 2))
    mult, shift = factors(t.scale * wscale / graph.type(op.output).scale)
    moved = narrow(np.rint(bias * (old.scale / t.scale)).astype(np.int64))
    arrays = {"bias": moved, "mult": mult, "shift": shift}
    names = {role: f"{op.name}.{role}.z0" for role in arrays}
    constants.update({names[role]: a for role, a in arrays.items()})
    return replace(op, inputs=(x,)).with_consts(**names)
