"""What of an ONNX file is supported, listed completely before anything is compiled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from onnx import ModelProto

from sasimc.frontend.onnx_import import import_float, obstacles
from sasimc.frontend.state import Finding
from sasimc.ir.graph import Graph
from sasimc.isa.errors import DiagnosticsError, SasError
from sasimc.passes.manager import run_passes
from sasimc.passes.pipeline import forward_passes

__all__ = ["CheckReport", "Finding", "Mapped", "check_model"]


@dataclass(frozen=True)
class Mapped:
    """One operation of the integer graph and the ONNX nodes it stands for."""

    nodes: tuple[str, ...]
    operation: str
    kind: str
    shape: tuple[int, int, int]
    trainable: bool


@dataclass(frozen=True, eq=False)
class CheckReport:
    """All findings (empty: the model compiles as far as the graph goes), and what each node became."""

    findings: tuple[Finding, ...]
    mapped: tuple[Mapped, ...]
    graph: Graph | None
    nodes: int
    operators: Mapping[str, int] = field(default_factory=dict)  # nodes of each operator

    @property
    def ok(self) -> bool:
        return not self.findings

    def __str__(self) -> str:
        if self.findings:
            lines = [f"{len(self.findings)} of {self.nodes} nodes are in the way:"]
            for f in self.findings:
                lines.append(f"  {f.node} ({f.op}): {f.reason}")
                if f.rewrite:
                    lines.append(f"      rewrite: {f.rewrite}")
            return "\n".join(lines)
        kinds: dict[str, int] = {}
        for m in self.mapped:
            kinds[m.kind] = kinds.get(m.kind, 0) + 1
        counts = ", ".join(f"{n} {k}" for k, n in sorted(kinds.items()))
        trains = sum(m.trainable for m in self.mapped)
        return f"all {self.nodes} nodes are supported: {counts}; {trains} trainable layers"


def check_model(model: ModelProto, trainable: str | None = None) -> CheckReport:
    """Examine a (validated) model. Never raises for what the report can say; the model is not changed."""
    return replace(_checked(model, trainable), operators=Counter(n.op_type for n in model.graph.node))


def _checked(model: ModelProto, trainable: str | None) -> CheckReport:
    nodes = len(model.graph.node)
    try:
        found = import_float(model)
    except SasError as e:
        return CheckReport((Finding("graph", "", e.diagnostic.message, e.diagnostic.hint),), (), None, nodes)
    findings = obstacles(found)
    if findings or found.graph is None:
        return CheckReport(findings, (), None, nodes)
    try:
        graph = run_passes(found.graph, forward_passes(trainable))
    except DiagnosticsError as e:
        return CheckReport(tuple(Finding(d.where, "", d.message, d.hint) for d in e.diagnostics), (), None, nodes)
    except SasError as e:
        where = e.diagnostic.where or "graph"
        return CheckReport(
            (Finding(where, found.operators.get(where, ""), e.diagnostic.message, e.diagnostic.hint),), (), None, nodes
        )
    mapped = tuple(
        Mapped(tuple(op.origin.split(",")), op.name, op.kind, graph.type(op.output).shape, op.flag("trainable"))
        for op in graph.ops
    )
    return CheckReport((), mapped, graph, nodes)
