"""Join tables with the element-wise operations around them that depend on the same tensor: SiLU as Sigmoid and Mul with a quantisation between
is one table, as is a table behind a requantisation.

Exact: the new table is what the operations make of each of the 256 values. Its slope follows by the chain and product rules from the stored
values between. Only where a value between has no other reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sasimc.ir import interp
from sasimc.ir.graph import Graph, Op, TensorType, type_range

__all__ = ["JoinTables"]

Array = npt.NDArray[Any]
_BETWEEN = ("lut", "rescale")
_JOINS = (*_BETWEEN, "mul", "add")


@dataclass(frozen=True)
class JoinTables:
    name: ClassVar[str] = "join_tables"

    def run(self, graph: Graph) -> Graph:
        while len((joined := self._once(graph)).ops) < len(graph.ops):
            graph = joined  # fewer readers are left: more may be joined
        return graph

    def _once(self, graph: Graph) -> Graph:
        made: dict[str, Op] = {}
        constants = dict(graph.constants)
        for op in graph.ops:
            between = [made[v] for v in op.inputs if _is_between(graph, made, v)]
            roots = {made[v].inputs[0] if _is_between(graph, made, v) else v for v in op.inputs}
            shapes = {graph.type(v).shape for v in (*op.inputs, op.output)} if op.kind in _JOINS else set()
            if between and len(roots) == len(shapes) == 1 and "lut" in (op.kind, *(b.kind for b in between)):
                now = graph.with_changes(constants=constants)
                table, slope = _joined(now, op, made, roots.pop())
                consts = {"table": f"{op.name}.joined.table", "slope": f"{op.name}.joined.slope"}
                constants |= {consts["table"]: table, consts["slope"]: slope}
                origins = ",".join(
                    dict.fromkeys(o for part in (*(b.origin for b in between), op.origin) for o in part.split(","))
                )
                op = Op(op.name, "lut", between[0].inputs, op.output, {}, consts, origins, self.name)
                for b in between:
                    made.pop(b.output, None)
            made[op.output] = op
        values = {v: t for v, t in graph.values.items() if v in made or v in graph.inputs}
        used = {c for op in made.values() for c in op.consts.values()}
        return graph.with_changes(
            ops=tuple(made.values()), values=values, constants={k: a for k, a in constants.items() if k in used}
        )


def _is_between(graph: Graph, made: dict[str, Op], value: str) -> bool:
    op = made.get(value)
    return op is not None and op.kind in _BETWEEN and value not in graph.outputs and len(graph.consumers(value)) == 1


def _joined(graph: Graph, op: Op, made: dict[str, Op], root: str) -> tuple[Array, Array]:
    """Table and slope of an operation whose inputs are the tensor ``root`` or made of it alone."""
    t = graph.type(root)
    low, high = type_range(t.dtype)
    q = np.broadcast_to(np.arange(low, high + 1).reshape(256, 1, 1, 1), (256, 1, 1, t.shape[2]))
    stored, slopes = [], []
    for v in op.inputs:
        own = v == root
        stored.append(q if own else interp.run_op(graph, made[v], [q]))
        slopes.append(np.ones(q.shape) if own else _slope(graph, made[v], [q], [np.ones(q.shape)], stored[-1]))
    out = interp.run_op(graph, op, stored)
    slope = _slope(graph, op, stored, slopes, out)
    table = np.ascontiguousarray(out[:, 0, 0].T.astype(np.int16))
    by_channel = np.ascontiguousarray(slope[:, 0, 0].T)
    if (table == table[0]).all() and (by_channel == by_channel[0]).all():
        return table[0], by_channel[0]
    return table, by_channel


def _slope(graph: Graph, op: Op, stored: list[Array], slopes: list[Array], out: Array) -> Array:
    """Real derivative of an operation's output, given those of its inputs; 0 where a bound of an activation holds."""
    if op.kind == "lut":
        own = graph.constant(op, "slope")
        at = stored[0] - type_range(graph.type(op.inputs[0]).dtype)[0]
        made = slopes[0] * own[at if own.ndim == 1 else (np.arange(at.shape[-1]), at)]
    elif op.kind == "rescale":
        made = slopes[0] * graph.constant(op, "cscale")
    elif op.kind == "add":
        made = slopes[0] + slopes[1]
    else:
        a, b = (_real(q, graph.type(v)) for q, v in zip(stored, op.inputs, strict=True))
        made = slopes[0] * b + slopes[1] * a
    keep = np.ones(out.shape, bool)
    if op.flag("mask_lo"):
        keep &= out > op.int_attr("lo")
    if op.flag("mask_hi"):
        keep &= out < op.int_attr("hi")
    return np.where(keep, made, 0.0)


def _real(q: Array, t: TensorType) -> Array:
    return t.scale * (q - t.zero).astype(np.float64)
