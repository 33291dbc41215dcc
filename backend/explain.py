"""Where the cycles of an inference go: a row for every convolution."""

from __future__ import annotations

from dataclasses import dataclass

from sasimc.backend.bound import layer_bounds
from sasimc.backend.compile import Compiled

__all__ = ["LayerRow", "explain"]


@dataclass(frozen=True)
class LayerRow:
    """``tiles`` of one copy, ``copies``, ``subarrays`` used, ``cycles`` of an inference, their lower limit ``bound``, and the unit that
    ``binds`` (the busiest one of the layer). ``ratio`` = cycles / bound."""

    layer: str
    kind: str
    tiles: int
    copies: int
    subarrays: int
    cycles: float
    bound: float
    binds: str

    @property
    def ratio(self) -> float:
        return self.cycles / self.bound if self.bound else float("nan")


def explain(compiled: Compiled) -> list[LayerRow]:
    """Rows in forward order; the last one, ``(other)``, is everything that is no convolution."""
    bounds = layer_bounds(compiled.graph, compiled.program.machine)
    estimate, rows = compiled.infer, list[LayerRow]()
    left = dict(estimate.node_cycles)
    for op in compiled.graph.ops:
        if op.kind != "conv":
            continue
        node = op.origin or op.name
        matrices = [m for _, m in compiled.placement.layers[op.name]]
        units = estimate.node_units.get(node, {})
        rows.append(
            LayerRow(
                op.name,
                "depth-wise" if op.flag("depthwise") else "dense",
                sum(len(m.tiles) // m.copies for m in matrices),
                max(m.copies for m in matrices),
                len({t.subarray for m in matrices for t in m.tiles}),
                left.pop(node, 0.0),
                bounds[op.name],
                max(units, key=lambda u: units[u]) if units else "",
            )
        )
    rows.append(LayerRow("(other)", "", 0, 0, 0, sum(left.values()), 0.0, ""))
    return rows
