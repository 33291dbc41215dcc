"""A lower limit of the cycles of one inference, whatever the mapping (nothing for the periphery, which a pipeline can hide)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sasimc.backend.mapping import row_window
from sasimc.backend.pixel_packing import choices, lines
from sasimc.ir.graph import Graph
from sasimc.isa.instructions.array import INPUT_BITS
from sasimc.isa.machine import Machine

__all__ = ["bound_cycles", "layer_bounds", "word_line_bounds"]


def layer_bounds(graph: Graph, machine: Machine) -> Mapping[str, float]:
    """Cycles of each convolution with every active sub-array busy in every cycle.

    Dense: MAC x input bits / (active sub-arrays x weights a row), without the MAC of kernel columns that stand on zero padding, which a mapping
    may leave out. Depth-wise: input elements x input bits / active sub-arrays (one kernel a row, paper figure 3b).
    """
    out: dict[str, float] = {}
    for op in graph.ops:
        if op.kind != "conv":
            continue
        h, w, c = graph.type(op.inputs[0]).shape
        if op.flag("depthwise"):
            out[op.name] = h * w * c * INPUT_BITS / machine.group_size
        else:
            kh, _, cg, n = np.asarray(graph.constant(op, "weight")).shape
            macs = graph.type(op.output).shape[0] * row_window(graph, op).reads * kh * cg * n
            out[op.name] = macs * INPUT_BITS / (machine.group_size * machine.weights_per_row)
    return out


def bound_cycles(graph: Graph, machine: Machine) -> int:
    """Sum of :func:`layer_bounds`, rounded up."""
    return int(np.ceil(sum(layer_bounds(graph, machine).values())))


def word_line_bounds(graph: Graph, machine: Machine) -> Mapping[str, float]:
    """The same with one more fact of the machine: a word line serves one input element, so a dense layer drives ceil(N / weights a row) word
    lines for each, and the last of them has idle columns. N are the output features of one group, of as many neighbouring pixels as are best."""
    out, columns = dict(layer_bounds(graph, machine)), machine.weights_per_row
    for op in graph.ops:
        if op.kind == "conv" and not op.flag("depthwise"):
            kh, _, cg, n = np.asarray(graph.constant(op, "weight")).shape
            window, groups = row_window(graph, op), op.int_attr("groups")
            row = min(lines(window, n // groups, runs, columns) for runs in choices(window, n // groups, columns))
            out[op.name] = graph.type(op.output).shape[0] * kh * cg * groups * row * INPUT_BITS / machine.group_size
    return out
