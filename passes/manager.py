"""Running passes: the graph is verified before and after each, a failure names the pass, and any step can be printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, overload

from sasimc.ir.graph import Graph, IrError, TrainGraph
from sasimc.ir.text import print_graph, print_train
from sasimc.ir.verify import verify, verify_train
from sasimc.isa.errors import SasError, near

__all__ = ["Derivation", "Pass", "Sink", "Watch", "run_passes"]

Sink = Callable[[str], None]
Watch = Callable[[str, Graph | TrainGraph], None]
"""Receives the name of every step, ``import`` first, and the graph that it left."""


class Pass(Protocol):
    """A rewrite of a whole graph. The fields of the (frozen) dataclass are its options."""

    name: ClassVar[str]

    def run(self, graph: Graph) -> Graph: ...


class Derivation(Protocol):
    """The last pass of a pipeline that ends in a training graph."""

    name: ClassVar[str]

    def run(self, graph: Graph) -> Graph | TrainGraph: ...


@overload
def run_passes(
    graph: Graph, passes: Sequence[Pass], *, print_ir_after: str = "", sink: Sink | None = None, watch: Watch | None = None
) -> Graph: ...
@overload
def run_passes(
    graph: Graph,
    passes: Sequence[Pass | Derivation],
    *,
    print_ir_after: str = "",
    sink: Sink | None = None,
    watch: Watch | None = None,
) -> Graph | TrainGraph: ...
def run_passes(
    graph: Graph,
    passes: Sequence[Pass | Derivation],
    *,
    print_ir_after: str = "",
    sink: Sink | None = None,
    watch: Watch | None = None,
) -> Graph | TrainGraph:
    """Run ``passes`` in order.

    ``print_ir_after``: comma-separated pass names, ``import`` for the graph as it comes in, ``all`` for every step; the text goes
    to ``sink`` (default: standard output). ``watch`` sees every step. Raises SasError: a user's error as a pass raised it; an invalid result names the pass.
    """
    wanted = [w.strip() for w in print_ir_after.split(",") if w.strip()]
    names = ["import", *(p.name for p in passes)]
    for w in wanted:
        if w != "all" and w not in names:
            raise SasError(f"--print-ir-after: no pass is called {w!r}", hint=near(w, names) or f"passes: {', '.join(names)}")
    emit = sink if sink is not None else print

    def show(step: str, g: Graph | TrainGraph) -> None:
        if watch is not None:
            watch(step, g)
        if "all" in wanted or step in wanted:
            emit(f"// after {step}\n{print_train(g) if isinstance(g, TrainGraph) else print_graph(g)}")

    result: Graph | TrainGraph = graph
    _verify(result, "the imported graph")
    show("import", result)
    for p in passes:
        if isinstance(result, TrainGraph):
            raise AssertionError(f"pass {p.name!r} stands behind the one that made a training graph")
        result = p.run(result)
        _verify(result, f"pass {p.name!r} left a graph that")
        show(p.name, result)
    return result


def _verify(graph: Graph | TrainGraph, who: str) -> None:
    try:
        if isinstance(graph, TrainGraph):
            verify_train(graph)
        else:
            verify(graph)
    except IrError as e:
        raise IrError(f"{who} is not valid: {e.diagnostic.message}", where=e.diagnostic.where) from e
