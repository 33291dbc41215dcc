"""What a program gives is computed: where an output, or what an arg max reads, is the graph's input itself, a copy is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from sasimc.ir.graph import Graph, Op, type_range
from sasimc.passes.factors import factors

__all__ = ["StoreOutputs"]


@dataclass(frozen=True)
class StoreOutputs:
    """The copy is a rescale by one, which is exact."""

    name: ClassVar[str] = "store_outputs"

    def run(self, graph: Graph) -> Graph:
        roots: dict[str, str] = {v: v for v in graph.inputs}
        for op in graph.ops:
            if op.kind == "reshape" and op.inputs[0] in roots:
                roots[op.output] = roots[op.inputs[0]]
        read = {op.inputs[0] for op in graph.ops if op.kind == "argmax"}
        wanted = [v for v in dict.fromkeys([*graph.outputs, *sorted(read)]) if v in roots]
        if not wanted:
            return graph
        values, constants, ops = dict(graph.values), dict(graph.constants), list(graph.ops)
        copies: dict[str, str] = {}
        for value in wanted:
            t, copies[value] = graph.type(value), f"{value}:copy"
            channels = t.shape[2]
            mult, shift = factors(np.ones(channels))
            arrays = {"mult": mult, "shift": shift, "bias": np.full(channels, -t.zero, np.int32), "cscale": np.ones(channels)}
            consts = {role: f"{copies[value]}.{role}" for role in arrays}
            constants.update({consts[role]: a for role, a in arrays.items()})
            values[copies[value]] = t
            lo, hi = type_range(t.dtype)
            attrs = {"lo": lo, "hi": hi, "mask_lo": False, "mask_hi": False}
            made = graph.producer(value)
            at = 0 if made is None else ops.index(made) + 1
            origin = made.origin if made is not None else ""
            ops.insert(at, Op(copies[value], "rescale", (value,), copies[value], attrs, consts, origin, self.name))
        ops = [
            replace(op, inputs=(copies[op.inputs[0]],)) if op.kind == "argmax" and op.inputs[0] in copies else op for op in ops
        ]
        outputs = tuple(copies.get(v, v) for v in graph.outputs)
        return graph.with_changes(ops=tuple(ops), values=values, constants=constants, outputs=outputs)
