"""Scales that a compile gave to float tensors, written into the file: a QuantizeLinear and a DequantizeLinear where each of them stands.

The integer graph is asked which tensors these are and what holds them, so that nothing is decided a second time.
"""

from __future__ import annotations

import json

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from sasimc.frontend.load import sorted_nodes
from sasimc.frontend.onnx_import import import_float
from sasimc.ir.graph import TensorType
from sasimc.passes.canonicalise import PLACED
from sasimc.passes.manager import run_passes
from sasimc.passes.pipeline import import_passes

__all__ = ["with_scales"]

_TYPES = {"u8": np.uint8, "i8": np.int8}


def with_scales(model: ModelProto) -> ModelProto:
    """A copy of a model that compiles, in which every float tensor that the device stores is quantised; the model itself where there is none.

    Names stay: what reads such a tensor reads its quantised value.
    """
    found = import_float(model)
    assert found.graph is not None
    graph = run_passes(found.graph, import_passes())
    held = {v: graph.type(s) for v, s in json.loads(graph.notes.get(PLACED, "{}")).items() if v in found.tensors}
    if not held:
        return model
    made = ModelProto()
    made.CopyFrom(model)
    inputs = {v.name for v in made.graph.input}
    for tensor, t in held.items():
        real, stored = (tensor if tensor in inputs else f"{tensor}/real"), (f"{tensor}/stored" if tensor in inputs else tensor)
        for node in made.graph.node:
            node.output[:] = [real if o == tensor else o for o in node.output]
            node.input[:] = [stored if i == tensor else i for i in node.input]
        _quantised(made, tensor, real, stored, t)
    ordered = sorted_nodes(made.graph)
    del made.graph.node[:], made.graph.value_info[:]
    made.graph.node.extend(ordered)
    return made


def _quantised(model: ModelProto, name: str, real: str, stored: str, t: TensorType) -> None:
    """Add the two nodes that make ``stored`` of ``real``."""
    values = np.array(t.scale, np.float32), np.array(t.zero, _TYPES[t.dtype])
    constants = [f"{name}/{what}" for what in ("scale", "zero")]
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for v, n in zip(values, constants, strict=True))
    nodes: list[NodeProto] = [
        helper.make_node("QuantizeLinear", [real, *constants], [f"{name}/integer"], f"{name}/QuantizeLinear"),
        helper.make_node("DequantizeLinear", [f"{name}/integer", *constants], [stored], f"{name}/DequantizeLinear"),
    ]
    model.graph.node.extend(nodes)
