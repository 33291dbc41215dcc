"""Running passes: the graph is verified before and after each, a failure names the pass, and any step can be printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

from sasimc.ir.graph import Graph, IrError
from sasimc.ir.text import print_graph
from sasimc.ir.verify import verify
from sasimc.isa.errors import SasError, near

__all__ = ["Pass", "Sink", "run_passes"]

Sink = Callable[[str], None]


class Pass(Protocol):
    """A rewrite of a whole graph. The fields of the (frozen) dataclass are its options."""

    name: ClassVar[str]

    def run(self, graph: Graph) -> Graph: ...


def run_passes(graph: Graph, passes: Sequence[Pass], *, print_ir_after: str = "", sink: Sink | None = None) -> Graph:
    """Run ``passes`` in order.

    ``print_ir_after``: comma-separated pass names, ``import`` for the graph as it comes in, ``all`` for every step; the text goes
    to ``sink`` (default: standard output). Raises SasError: a user's error as a pass raised it; an invalid result names the pass.
    """
    wanted = [w.strip() for w in print_ir_after.split(",") if w.strip()]
    names = ["import", *(p.name for p in passes)]
    for w in wanted:
        if w != "all" and w not in names:
            raise SasError(f"--print-ir-after: no pass is called {w!r}", hint=near(w, names) or f"passes: {', '.join(names)}")
    emit = sink if sink is not None else print

    def show(step: str, g: Graph) -> None:
        if "all" in wanted or step in wanted:
            emit(f"// after {step}\n{print_graph(g)}")

    _verify(graph, "the imported graph")
    show("import", graph)
    for p in passes:
        graph = p.run(graph)
        _verify(graph, f"pass {p.name!r} left a graph that")
        show(p.name, graph)
    return graph


def _verify(graph: Graph, who: str) -> None:
    try:
        verify(graph)
    except IrError as e:
        raise IrError(f"{who} is not valid: {e.diagnostic.message}", where=e.diagnostic.where) from e
