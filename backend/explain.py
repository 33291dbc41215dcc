"""Where the cycles go: of an inference a row for every convolution, of a training step a row for every phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sasimc.backend.bound import layer_bounds
from sasimc.backend.compile import Compiled
from sasimc.isa.spec import PHASES

__all__ = ["LayerRow", "PhaseRow", "explain", "explain_training"]

_FIELDS: Mapping[str, tuple[str, ...]] = {
    "control": ("controller.issue_cycles",),
    "adder_tree": ("adder_tree.units",),
    "periphery": ("periphery.lanes",),
    "buffer": ("buffer.bytes_per_cycle",),
    "host": ("host.bytes_per_cycle",),
}
_ARRAY_FIELDS: Mapping[str, tuple[str, ...]] = {
    "forward": ("activation.banks", "activation.mats", "bit_serial.zero_skip", "adder_tree.reach"),
    "error": ("transposed.bit_columns_per_cycle", "activation.banks", "activation.mats", "adder_tree.reach"),
    "gradient": ("gradient.scratch_subarrays", "write.cycles_per_row"),
    "update": ("write.cycles_per_row", "write.read_cycles_per_row"),
}


@dataclass(frozen=True)
class LayerRow:
    """``tiles`` of one copy, ``copies``, output pixels ``side`` by side, ``subarrays`` used, ``cycles`` of an inference, their lower limit ``bound``, and the unit that
    ``binds`` (the busiest one of the layer). ``ratio`` = cycles / bound."""

    layer: str
    kind: str
    tiles: int
    copies: int
    side: int
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
        parts = compiled.placement.layers[op.name]
        matrices = [m for _, m in parts]
        units = estimate.node_units.get(node, {})
        rows.append(
            LayerRow(
                op.name,
                "depth-wise" if op.flag("depthwise") else "dense",
                sum(len(m.tiles) // m.copies for m in matrices),
                max(m.copies for m in matrices),
                max(part.side for part, _ in parts),
                len({t.subarray for m in matrices for t in m.tiles}),
                left.pop(node, 0.0),
                bounds[op.name],
                max(units, key=lambda u: units[u]) if units else "",
            )
        )
    rows.append(LayerRow("(other)", "", 0, 0, 0, 0, sum(left.values()), 0.0, ""))
    return rows


@dataclass(frozen=True)
class PhaseRow:
    """A phase of a training step: ``cycles``, how long each unit is busy (``units``), the unit that ``binds``, and the ``fields`` of the machine
    description that decide how long that unit takes."""

    phase: str
    cycles: int
    units: Mapping[str, int]
    binds: str
    fields: tuple[str, ...]


def explain_training(compiled: Compiled) -> list[PhaseRow]:
    """Rows in the order forward, error, gradient, update; nothing without a ``train_step``."""
    if compiled.train_step is None:
        return []
    rows = []
    for phase in PHASES:
        units = compiled.train_step.phase_units.get(phase, {})
        binds = max(units, key=lambda u: units[u]) if units else ""
        fields = _ARRAY_FIELDS[phase] if binds == "array" else _FIELDS.get(binds, ())
        rows.append(PhaseRow(phase, compiled.train_step.phases.get(phase, 0), units, binds, fields))
    return rows
