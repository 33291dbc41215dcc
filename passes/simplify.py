"""Remove what does nothing: identity reshapes and rescales, reshapes of reshapes, borders in front of a convolution.

A reshape that keeps the stored shape only gave the axes other names; with it goes the layout of all values, for from here on only
stored elements count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sasimc.ir.graph import Graph, Op, type_range

__all__ = ["Simplify"]


@dataclass(frozen=True)
class Simplify:
    """``pads``: also merge a pad into the convolution behind it (both fill with the zero point)."""

    pads: bool = True
    name: ClassVar[str] = "simplify"

    def run(self, graph: Graph) -> Graph:
        alias: dict[str, str] = {}
        made: dict[str, Op] = {}
        ops = []
        for op in graph.ops:
            op = replace(op, inputs=tuple(alias.get(v, v) for v in op.inputs))
            if _identity(graph, op):
                alias[op.output] = op.inputs[0]
                continue
            before = made.get(op.inputs[0]) if op.inputs else None
            if before is not None and op.kind == before.kind == "reshape":
                op = replace(op, inputs=before.inputs)
            if self.pads and before is not None and before.kind == "pad" and op.kind == "conv":
                pads = tuple(a + b for a, b in zip(op.ints("pads"), before.ints("pads"), strict=True))
                op = replace(op.with_attrs(pads=pads), inputs=before.inputs, origin=f"{op.origin},{before.origin}")
            ops.append(op)
            made[op.output] = op
        kept = {v for op in ops for v in (*op.inputs, op.output)} | set(graph.inputs)
        outputs = tuple(alias.get(v, v) for v in graph.outputs)
        return graph.with_changes(
            ops=tuple(ops), outputs=outputs, values={v: replace(t, layout=None) for v, t in graph.values.items() if v in kept}
        )


def _identity(graph: Graph, op: Op) -> bool:
    if not op.inputs:
        return False
    x, out = graph.type(op.inputs[0]), graph.type(op.output)
    if op.kind == "reshape":
        return x.shape == out.shape
    if op.kind == "rescale":
        whole = (op.int_attr("lo"), op.int_attr("hi")) == type_range(out.dtype)
        masks = op.flag("mask_lo") or op.flag("mask_hi")  # a redundant Relu still stops errors
        return whole and not masks and x.quant == out.quant and bool((graph.constant(op, "cscale") == 1).all())
    return False
