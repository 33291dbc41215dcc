"""The graphs of a compilation, one after the other: the ONNX file, the graph after each pass, the training graph apart and together with the
forward graph. A stage says what its pass added, changed and removed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sasimc.explore.layering import Layout, layered
from sasimc.frontend.outline import Node
from sasimc.ir.graph import Graph, Op, TrainGraph
from sasimc.ir.text import print_op

__all__ = ["Item", "Items", "Stage", "names_of", "packed", "stages"]

FORWARD = 1
"""Bit of phase 0; a set of phases is a sum of bits in the order of ``sasimc.isa.spec.PHASES``."""
LEARNING, BACKWARD, EVERY = 4 + 8, 2, 15
SAME, NEW, CHANGED = 0, 1, 2


def names_of(origin: str) -> tuple[str, ...]:
    """The ONNX nodes that an origin names."""
    return tuple(name for name in origin.split(",") if name)


@dataclass(frozen=True)
class Item:
    """What a node of a drawing stands for: a label, its kind, its statement, the ONNX nodes it comes from, the phases it computes in."""

    label: str
    kind: str
    text: str
    nodes: tuple[str, ...]
    phases: int


class Items:
    """Items, each once; a drawing refers to them by number."""

    def __init__(self) -> None:
        self.all: list[Item] = []
        self._number: dict[Item, int] = {}

    def __call__(self, item: Item) -> int:
        if item not in self._number:
            self._number[item] = len(self.all)
            self.all.append(item)
        return self._number[item]


@dataclass(frozen=True)
class Stage:
    """A drawing. ``items``: of every node; ``edges``: (from, to); ``marks``: what the pass did to each node (0 nothing, 1 new, 2 changed), ``was``: items of the changed ones before;
    ``gone``: items that it removed. ``saved``: edges from forward values to the errors that need them. ``backward``: how many of the last nodes
    compute errors and updates. ``entry``: the entry point that it draws the code of, if it is no graph of the compiler."""

    name: str
    items: list[int]
    edges: list[tuple[int, int]]
    layout: Layout
    marks: list[int] = field(default_factory=list)
    was: dict[int, int] = field(default_factory=dict)
    gone: list[int] = field(default_factory=list)
    saved: list[tuple[int, int]] = field(default_factory=list)
    backward: int = 0
    entry: str = ""


def _edges(ops: Sequence[Op]) -> list[tuple[int, int]]:
    made = {op.output: i for i, op in enumerate(ops) if op.output}
    return [(made[v], i) for i, op in enumerate(ops) for v in dict.fromkeys(op.inputs) if made.get(v, i) != i]


def _phases(graph: Graph | TrainGraph, op: Op) -> int:
    """Phases that an operation computes in. The loss, the first of the errors, is computed with the forward pass."""
    if isinstance(graph, Graph):
        return FORWARD
    first = not any(value in graph.values for value in op.inputs)
    return LEARNING if op.kind == "update" else FORWARD | BACKWARD if first else BACKWARD


Stands = Mapping[str, tuple[str, ...]]


def _stands(nodes: Sequence[Node], kept: frozenset[str]) -> Stands:
    """For every node of the file, itself where the compiled graph names it; else (it was folded, or is a part of a quantised operator) the nodes that
    read it, else those that it reads."""
    readers: list[list[int]] = [[] for _ in nodes]
    for i, node in enumerate(nodes):
        for source in node.inputs:
            readers[source].append(i)
    found: list[tuple[str, ...]] = [(n.name,) if n.name in kept else () for n in nodes]
    for order, near in ((range(len(nodes) - 1, -1, -1), readers), (range(len(nodes)), [n.inputs for n in nodes])):
        for i in order:
            found[i] = found[i] or tuple(dict.fromkeys(name for other in near[i] for name in found[other]))
    return {node.name: names for node, names in zip(nodes, found, strict=True)}


def _item(graph: Graph | TrainGraph, op: Op, stands: Stands) -> Item:
    names = names_of(op.origin)
    text = print_op(op) + (f"  // {graph.type(op.output)}" if op.output else "")
    nodes = tuple(dict.fromkeys(stand for name in names for stand in stands.get(name, (name,))))
    return Item(names[0] if names else op.name, op.kind, text, nodes, _phases(graph, op))


def _onnx(nodes: Sequence[Node], stands: Stands, items: Items) -> Stage:
    numbers = [items(Item(n.name, n.operator, n.text, stands[n.name], EVERY)) for n in nodes]
    edges = [(source, i) for i, node in enumerate(nodes) for source in node.inputs]
    return Stage("ONNX file", numbers, edges, layered(len(nodes), edges))


def _compared(
    name: str, graph: Graph | TrainGraph, before: Mapping[str, int], stands: Stands, items: Items
) -> tuple[Stage, dict[str, int]]:
    """A stage beside the operations ``before`` its pass, by name; without any, nothing is marked. Also the operations after it."""
    now = {op.name: items(_item(graph, op, stands)) for op in graph.ops}
    marks = [SAME if not before or before.get(op) == n else CHANGED if op in before else NEW for op, n in now.items()]
    edges = _edges(graph.ops)
    layout = layered(len(graph.ops), edges)
    gone = [number for op, number in before.items() if op not in now]
    was = {i: before[op] for i, op in enumerate(now) if marks[i] == CHANGED}
    return Stage(name, list(now.values()), edges, layout, marks, was, gone), now


def _together(forward: Stage, train: TrainGraph, numbers: Sequence[int]) -> Stage:
    """The backward graph beside the forward one: every operation at the height of the operation whose error or update it computes."""
    graph, count = train.forward, len(forward.items)
    made = {op.output: i for i, op in enumerate(graph.ops) if op.output}
    by_name = {op.name: i for i, op in enumerate(graph.ops)}
    by_origin: dict[str, int] = {}
    for i, op in enumerate(graph.ops):
        by_origin.setdefault(op.origin, i)
    edges, saved = list(forward.edges), list[tuple[int, int]]()
    errors = {op.output: count + i for i, op in enumerate(train.ops) if op.output}
    layer, row = list[int](), dict[int, list[int]]()
    for i, op in enumerate(train.ops):
        for value in dict.fromkeys(op.inputs):
            if value in errors:
                edges.append((errors[value], count + i))
            elif value in made:
                saved.append((made[value], count + i))
        twin = by_name.get(op.str_attr("forward"), by_origin.get(op.origin, len(graph.ops) - 1))
        layer.append(forward.layout.layer[twin])
        row.setdefault(layer[-1], []).append(i)
    right = max(forward.layout.x, default=0.0) + 1.5
    x = [0.0] * len(train.ops)
    for members in row.values():
        for place, i in enumerate(members):
            x[i] = right + place
    bends = [*forward.layout.bends, *([] for _ in edges[len(forward.edges) :])]
    layout = Layout([*forward.layout.x, *x], [*forward.layout.layer, *layer], bends)
    return Stage(
        "forward and backward",
        [*forward.items, *numbers],
        edges,
        layout,
        [SAME] * (count + len(numbers)),
        saved=saved,
        backward=len(numbers),
    )


def stages(nodes: Sequence[Node], steps: Iterable[tuple[str, Graph | TrainGraph]], items: Items) -> list[Stage]:
    """All drawings in order. ``steps``: name and graph, ``import`` first (what :func:`~sasimc.passes.manager.run_passes` shows its ``watch``)."""
    seen = list(steps)
    final = seen[-1][1]
    kept = frozenset(
        name
        for graph in ((final, final.forward) if isinstance(final, TrainGraph) else (final,))
        for op in graph.ops
        for name in names_of(op.origin)
    )
    stands = _stands(nodes, kept)
    out, before = [_onnx(nodes, stands, items)], dict[str, int]()
    for name, graph in seen:
        if isinstance(graph, TrainGraph):
            forward = out[-1]
            stage, now = _compared(name, graph, {}, stands, items)
            out += [stage, _together(forward, graph, list(now.values()))]
        else:
            stage, before = _compared(name, graph, before, stands, items)
            out.append(stage)
    return out


def packed(stage: Stage) -> dict[str, Any]:
    """For the page: flat lists, places in hundredths of a node's width."""
    place = [round(100 * v) for v in stage.layout.x]
    bends = {i: [n for x, layer in bend for n in (round(100 * x), layer)] for i, bend in enumerate(stage.layout.bends) if bend}
    return {
        "name": stage.name, "items": stage.items, "x": place, "y": stage.layout.layer, "edges": [n for edge in stage.edges for n in edge],
        "bends": bends, "marks": stage.marks, "was": stage.was, "gone": stage.gone, "saved": [n for edge in stage.saved for n in edge], "backward": stage.backward, "entry": stage.entry,
    }  # fmt: skip
