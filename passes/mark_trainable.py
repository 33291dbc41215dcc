"""Split layers into frozen and trainable: by the file's own list, or by the user's patterns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import ClassVar

from sasimc.ir.graph import Graph, Op
from sasimc.isa.errors import SasError, near

__all__ = ["NOTE", "MarkTrainable", "matching_layers", "pattern_of"]

NOTE = "sasimc.trainable"


@dataclass(frozen=True)
class MarkTrainable:
    """Set ``trainable`` and ``head`` on convolutions.

    ``pattern``: comma-separated globs or regular expressions (full match) over names of ONNX nodes and weight initialisers; None
    takes the JSON list in the graph's note ``sasimc.trainable``; '' marks nothing. A pattern that matches no layer is an error.
    """

    pattern: str | None = None
    name: ClassVar[str] = "mark_trainable"

    def run(self, graph: Graph) -> Graph:
        convs = [op for op in graph.ops if op.kind == "conv" and op.str_attr("param")]
        if self.pattern is not None:
            chosen = matching_layers(convs, self.pattern.split(","), "--trainable")
        else:
            chosen = _by_list(convs, _listed(graph.notes.get(NOTE, "[]")))
        before = _ancestors(graph, chosen)
        shared = _shared_weights(graph, chosen)
        if shared:
            raise SasError(f"trainable layers {shared} share one weight tensor", hint="give each trainable layer its own weights")
        if split := sorted(op.name for op in convs if op.name in chosen and op.flag("asymmetric")):
            raise SasError(
                f"layer {split[0]!r} has weights with a zero point",
                hint="quantise trainable weights symmetrically (zero point 0)",
            )
        ops = []
        for op in graph.ops:
            if op.kind == "conv":
                trains = op.name in chosen
                op = replace(op.with_attrs(trainable=trains, head=trains and op.name not in before))
            ops.append(op)
        return graph.map_ops(ops)


def _names(op: Op) -> tuple[str, ...]:
    return (op.name, *op.origin.split(","), op.str_attr("param"))


def _matches(pattern: str, name: str) -> bool:
    if name == pattern or fnmatchcase(name, pattern):  # a name may hold what is special in a pattern
        return True
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error:
        return False


def pattern_of(layers: Iterable[str]) -> str:
    """The pattern of :class:`MarkTrainable` for layers of these names (a comma, which separates patterns, becomes any character)."""
    return ",".join(name.replace(",", "?") for name in layers)


def matching_layers(convs: list[Op], patterns: Sequence[str], option: str) -> set[str]:
    """Names of the layers one of the globs or regular expressions (full match) hits, in ONNX nodes or weight initialisers. SasError,
    naming ``option``, for a pattern that hits none."""
    chosen: set[str] = set()
    for pattern in filter(str.strip, patterns):
        found = {op.name for op in convs if any(_matches(pattern, n) or _matches(pattern.strip(), n) for n in _names(op) if n)}
        if not found:
            raise SasError(f"{option}: no layer with weights matches {pattern.strip()!r}", hint=_some(pattern.strip(), convs))
        chosen |= found
    return chosen


def _listed(text: str) -> list[str]:
    try:
        names = json.loads(text)
    except ValueError as e:
        raise SasError(f"metadata {NOTE!r} is not JSON: {e}", hint="write a JSON list of node names") from e
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise SasError(f"metadata {NOTE!r} is not a list of names", hint="write a JSON list of node names")
    return names


def _by_list(convs: list[Op], names: list[str]) -> set[str]:
    chosen: set[str] = set()
    for name in names:
        found = {op.name for op in convs if name in _names(op)}
        if not found:
            raise SasError(f"metadata {NOTE!r} names {name!r}, which is no layer with weights", hint=_some(name, convs))
        chosen |= found
    return chosen


def _some(name: str, convs: list[Op]) -> str:
    names = [op.name for op in convs]
    return near(name, names) or f"layers with weights: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"


def _ancestors(graph: Graph, chosen: set[str]) -> set[str]:
    """Names of operations from which a chosen one can be reached."""
    reach: set[str] = set()  # values upstream of a chosen operation
    names = set()
    for op in reversed(graph.ops):
        if op.output in reach:
            names.add(op.name)
        if op.name in chosen or op.output in reach:
            reach.update(op.inputs)
    return names


def _shared_weights(graph: Graph, chosen: set[str]) -> list[str]:
    """Chosen layers whose initialiser another layer uses too."""
    users: dict[str, list[str]] = {}
    for op in graph.ops:
        if op.kind == "conv" and op.str_attr("param"):
            users.setdefault(op.str_attr("param"), []).append(op.name)
    return sorted(n for names in users.values() if len(names) > 1 for n in names if n in chosen)
