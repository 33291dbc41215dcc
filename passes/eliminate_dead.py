"""Drop operations, values and constants that no output depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sasimc.ir.graph import Graph

__all__ = ["EliminateDead"]


@dataclass(frozen=True)
class EliminateDead:
    """Keeps what the outputs need; graph inputs stay, used or not."""

    name: ClassVar[str] = "eliminate_dead"

    def run(self, graph: Graph) -> Graph:
        live = set(graph.outputs)
        kept = []
        for op in reversed(graph.ops):
            if op.output in live:
                live.update(op.inputs)
                kept.append(op)
        live.update(graph.inputs)
        consts = {name for op in kept for name in op.consts.values()}
        return graph.with_changes(
            ops=tuple(reversed(kept)),
            values={k: t for k, t in graph.values.items() if k in live},
            constants={k: a for k, a in graph.constants.items() if k in consts},
        )
