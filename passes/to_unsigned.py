"""Re-express int8 tensors with zero point -128 as uint8 with zero point 0 (q + 128), so that a real zero has only zero bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sasimc.ir.graph import Graph, Op
from sasimc.passes.integer_ops import narrow

__all__ = ["ToUnsigned"]


@dataclass(frozen=True)
class ToUnsigned:
    """Types change from i8 with zero -128 to u8 with zero 0; clamps of their producers and biases of their readers follow."""

    name: ClassVar[str] = "to_unsigned"

    def run(self, graph: Graph) -> Graph:
        moved = {v for v, t in graph.values.items() if t.dtype == "i8" and t.zero == -128}
        if not moved:
            return graph
        constants = dict(graph.constants)
        return graph.with_changes(
            values={v: replace(t, dtype="u8", zero=0) if v in moved else t for v, t in graph.values.items()},
            ops=tuple(_rewrite(op, graph, moved, constants) for op in graph.ops),
            constants=constants,
        )


def _rewrite(op: Op, graph: Graph, moved: set[str], constants: dict[str, npt.NDArray[Any]]) -> Op:
    if op.output in moved and "lo" in op.attrs:
        op = op.with_attrs(lo=op.int_attr("lo") + 128, hi=op.int_attr("hi") + 128)
    if op.output in moved and op.kind == "lut":  # places count from the lowest value: those of the input stay
        constants[f"{op.consts['table']}.u8"] = (graph.constant(op, "table") + 128).astype(np.int16)
        op = op.with_consts(table=f"{op.consts['table']}.u8")
    if op.output in moved and op.kind == "constant":
        constants[f"{op.consts['values']}.u8"] = (graph.constant(op, "values") + 128).astype(np.int16)
        op = op.with_consts(values=f"{op.consts['values']}.u8")
    if not (op.inputs and op.inputs[0] in moved):
        return op
    if op.kind in ("avgpool", "resize"):
        return op.with_attrs(bias=0)
    if op.kind in ("conv", "rescale"):
        name, bias = f"{op.consts['bias']}.u8", graph.constant(op, "bias").astype(np.int64)
        # acc grows by 128 sum w and b' = bias - z_x sum w shrinks by as much: z_x goes from -128 to 0
        per_unit = graph.constant(op, "weight").astype(np.int64).sum(axis=(0, 1, 2)) if op.kind == "conv" else 1
        constants[name] = narrow(bias - 128 * per_unit)
        return op.with_consts(bias=name)
    return op
