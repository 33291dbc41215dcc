"""The nodes of an ONNX file as they stand in it, for those who show them: names, operators, what feeds what."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import AttributeProto, ModelProto, TensorProto, helper

from sasimc.frontend.load import sorted_nodes
from sasimc.frontend.state import node_name

__all__ = ["Node", "outline"]


@dataclass(frozen=True)
class Node:
    """A node in topological order; ``inputs`` are the indices of the nodes it reads, ``text`` says operands, attributes and results."""

    name: str
    operator: str
    inputs: tuple[int, ...]
    text: str


def _attribute(a: AttributeProto) -> str:
    value = helper.get_attribute_value(a)
    if isinstance(value, bytes):
        return f"{a.name}={value.decode(errors='replace')!r}"
    if isinstance(value, TensorProto):
        return f"{a.name}=tensor{list(value.dims)}"
    if isinstance(value, int | float | list):
        return f"{a.name}={value}"
    return f"{a.name}=..."


def outline(model: ModelProto) -> list[Node]:
    """The nodes of a model that :func:`~sasimc.frontend.load.load_model` has read, each with its own name (a later one of two equal names gets
    none of the earlier one's operations)."""
    shapes = {t.name: f"{list(t.dims)}" for t in model.graph.initializer}
    made: dict[str, int] = {}
    out: list[Node] = []
    for index, node in enumerate(sorted_nodes(model.graph)):
        feeds = tuple(dict.fromkeys(made[i] for i in node.input if i in made))
        made |= {o: index for o in node.output if o}
        operands = ", ".join(i + shapes.get(i, "") for i in node.input)
        attributes = "".join(" " + _attribute(a) for a in node.attribute)
        out.append(
            Node(node_name(node), node.op_type, feeds, f"{', '.join(node.output)} = {node.op_type}({operands}){attributes}")
        )
    return out
