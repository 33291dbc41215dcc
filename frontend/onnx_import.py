"""ONNX graph -> float-level IR graph, and on to integers through the passes. Everything unsupported is collected."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto

# the handlers register themselves
import sasimc.frontend.ops_attention
import sasimc.frontend.ops_elementwise
import sasimc.frontend.ops_linear
import sasimc.frontend.ops_quant
import sasimc.frontend.ops_shape
import sasimc.frontend.ops_slice
import sasimc.frontend.ops_unary
import sasimc.frontend.ops_window  # noqa: F401
from sasimc.frontend.inputs import FLOATS, INTS, graph_inputs
from sasimc.frontend.load import load_model, model_opset, sorted_nodes
from sasimc.frontend.norms import as_layer_norms
from sasimc.frontend.ops_quant import fold
from sasimc.frontend.qdq_form import qdq_form
from sasimc.frontend.state import (
    CUT,
    NO_BATCH,
    Act,
    Finding,
    Importer,
    Unsupported,
    handler,
    node_name,
    supported_operators,
    tensor_array,
)
from sasimc.ir.graph import OUTPUTS, Graph, Op, TensorType
from sasimc.ir.layout import Layout
from sasimc.isa.errors import Diagnostic, DiagnosticsError, SasError, near
from sasimc.passes.canonicalise import RANGES, UNKNOWN_RANGE, canonicalise
from sasimc.passes.canonicalise import unscaled as _unscaled
from sasimc.passes.eliminate_dead import EliminateDead
from sasimc.passes.fold_constants import FoldConstants
from sasimc.passes.manager import Pass, run_passes
from sasimc.passes.pipeline import forward_passes

__all__ = ["RANGES", "FloatImport", "import_float", "import_graph", "import_model", "obstacles", "unscaled"]

_REWRITES = {
    "ConvInteger": "use static quantisation (QLinearConv or QuantizeLinear/DequantizeLinear), not dynamic",
    "MatMulInteger": "use static quantisation (QLinearMatMul or QuantizeLinear/DequantizeLinear), not dynamic",
    "DynamicQuantizeLinear": "use static quantisation: scales must be constants",
    "ReduceSum": "write it as ReduceMean times the number of elements",
    "If": "export with constant control flow",
    "Loop": "unroll the loop",
}
_EARLY: tuple[Pass, ...] = (EliminateDead(), FoldConstants())


@dataclass(frozen=True, eq=False)
class FloatImport:
    """What reading the nodes gave: the float-level graph (None if not even its outputs are known) and everything unsupported."""

    graph: Graph | None
    findings: tuple[Finding, ...]
    operators: Mapping[str, str] = field(default_factory=dict)  # ONNX node name -> operator
    tensors: Mapping[str, Act] = field(default_factory=dict)  # ONNX tensor -> the activation that holds it
    batch: int = 1  # samples the file wants at a time


def import_model(path: str | Path | ModelProto, trainable: str | None = None) -> Graph:
    """The integer forward graph of an ONNX file.

    ``trainable``: patterns (glob or regular expression, comma separated) over node and initialiser names; None takes the file's
    own ``sasimc.trainable`` list; '' none. Raises SasError (a :class:`DiagnosticsError` listing everything unsupported).
    """
    return run_passes(import_graph(path), forward_passes(trainable))


def import_graph(path: str | Path | ModelProto) -> Graph:
    """The float-level graph of an ONNX file. Raises as :func:`import_model`."""
    model = path if isinstance(path, ModelProto) else load_model(path)
    found = import_float(model)
    if found.findings or found.graph is None:
        raise DiagnosticsError([Diagnostic(f"{f.op}: {f.reason}", where=f.node, hint=f.rewrite) for f in obstacles(found)])
    return found.graph


def unscaled(model: ModelProto) -> dict[str, bool]:
    """Float tensors that the integer graph stores and that the file gives no scale; for each, whether one follows from the quantisation
    around it. Empty for a file that cannot be read."""
    found = import_float(model)
    if found.findings or found.graph is None:
        return {}
    try:
        return {v: f for v, f in _unscaled(run_passes(found.graph, _EARLY)).items() if v in found.tensors}
    except SasError:
        return {}


def obstacles(found: FloatImport) -> tuple[Finding, ...]:
    """Everything unsupported: what reading the nodes found, and what has no integer meaning in the graph that remains."""
    findings = list(found.findings)
    if found.graph is not None:
        # with something unsupported the outputs may be unknown, and what leads to them must not count as dead
        early = _EARLY[1:] if findings else _EARLY
        try:
            for d in canonicalise(run_passes(found.graph, early))[1]:
                if findings and d.message.endswith(UNKNOWN_RANGE):
                    continue  # measured once the rest is out of the way
                where = d.where.split(",")[0]
                findings.append(Finding(where, found.operators.get(where, "tensor"), d.message, d.hint))
        except SasError as e:
            findings.append(Finding(e.diagnostic.where or "graph", "graph", e.diagnostic.message, e.diagnostic.hint))
    return tuple(dict.fromkeys(findings))


def import_float(model: ModelProto) -> FloatImport:
    """Walk all nodes. An unsupported node becomes an ``opaque`` operation so that the rest is still looked at."""
    graph, nodes = model.graph, as_layer_norms(sorted_nodes(model.graph), model)
    imp = Importer(model_opset(model))
    operators: dict[str, str] = {}
    shapes = _InferredShapes(model)
    _initialisers(imp, model)
    inputs = graph_inputs(imp, model, nodes)
    for node in nodes:
        operators[node_name(node)] = node.op_type
        _one(imp, node, shapes)
    outputs, names = list[str](), list[str]()
    for out in graph.output:
        if out.name in imp.acts:
            act = imp.acts[out.name]
            if act.batch == NO_BATCH:
                imp.findings.append(
                    Finding(
                        out.name, "output", f"{list(imp.dims(act))} has no axis of its batch", "keep the batch as the first axis"
                    )
                )
            elif act.value not in imp.unknown and act.batch:
                imp.findings.append(
                    Finding(out.name, "output", f"has its batch along axis {act.batch}", "keep the batch as the first axis")
                )
            elif act.value not in imp.unknown and not _in_order(imp, act):
                act = _as_row(imp, out.name, act)
            outputs.append(act.value)
            names.append(out.name)
        elif out.name in imp.consts:
            imp.findings.append(Finding(out.name, "output", "is a constant", "remove this output"))
    ops = tuple(imp.ops)
    if not imp.findings and not (outputs and inputs):
        imp.findings.append(Finding(graph.name or "graph", "graph", "no output depends on an input", "check the export"))
    if not inputs:
        return FloatImport(None, tuple(imp.findings), operators)
    notes = {e.key: e.value for e in model.metadata_props if e.key.startswith("sasimc.")}
    notes[OUTPUTS] = json.dumps(names)
    ir = Graph(graph.name or "main", dict(imp.values), ops, dict(imp.constants), tuple(inputs), tuple(outputs), notes)
    return FloatImport(ir, tuple(imp.findings), operators, dict(imp.acts), imp.batch)


def _initialisers(imp: Importer, model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        try:
            imp.consts[tensor.name] = tensor_array(tensor)
        except Unsupported as e:
            imp.findings.append(Finding(tensor.name, "initialiser", e.reason, e.rewrite))
            imp.poisoned.add(tensor.name)
    for sparse in model.graph.sparse_initializer:
        imp.findings.append(Finding(sparse.values.name, "initialiser", "is sparse", "store it densely"))
        imp.poisoned.add(sparse.values.name)


def _in_order(imp: Importer, act: Act) -> bool:
    """Whether the device may number the elements of an output: those of a vector stand in the order of the ONNX tensor, as those of a flattened plane do
    not. Of other tensors it numbers none."""
    layout = imp.layout(act)
    return len(layout.axes) != 1 or layout == Layout.rows(layout.dims)


def _as_row(imp: Importer, name: str, act: Act) -> Act:
    """An output vector as a row of pixels, in which the device numbers nothing and the host finds every element."""
    value, t = imp.fresh(name), imp.type(act)
    imp.values[value] = replace(t, shape=(1, t.size, 1))
    imp.ops.append(Op(imp.unique(name), "reshape", (act.value,), value, {}, {}, "", "import"))
    return replace(act, value=value)


def _one(imp: Importer, node: NodeProto, shapes: _InferredShapes) -> None:
    if any(i in imp.poisoned for i in node.input):
        known = handler(node) is not None or not any(i in imp.acts for i in node.input)
        if not known:
            _unknown(imp, node)
        imp.poisoned.update(filter(None, node.output))
        return
    if any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
        _refuse(imp, node, "has a sub-graph", _REWRITES.get(node.op_type, "export without control flow"), shapes)
        return
    try:
        if fold(imp, node):
            return
        run = handler(node)
        if run is None:
            _unknown(imp, node)
            _opaque(imp, node, shapes)
            return
        run(imp, node)
    except Unsupported as e:
        _refuse(imp, node, e.reason, e.rewrite, shapes)
    except SasError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, ZeroDivisionError) as e:
        # attributes and constants of the file with the wrong rank, type or count: the file's fault, not a crash
        _refuse(imp, node, f"malformed attributes or constants ({type(e).__name__}: {e})", "check the node in the file", shapes)


def _unknown(imp: Importer, node: NodeProto) -> None:
    operator = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    known = "" if onnx.defs.has(node.op_type, node.domain) else near(operator, supported_operators())
    rewrite = _REWRITES.get(node.op_type) or (f"unknown operator; {known}" if known else f"no equal form is known here; {CUT}")
    imp.findings.append(Finding(node_name(node), operator, "operator is not supported", rewrite))


def _refuse(imp: Importer, node: NodeProto, reason: str, rewrite: str, shapes: _InferredShapes) -> None:
    imp.findings.append(Finding(node_name(node), node.op_type, reason, rewrite))
    _opaque(imp, node, shapes)


def _opaque(imp: Importer, node: NodeProto, shapes: _InferredShapes) -> None:
    """Stand-in outputs, so that what follows is checked too; without a known shape the outputs poison their readers."""
    for out in filter(None, node.output):
        found = shapes.get(out) if out not in imp.poisoned else None
        if found is None and out == node.output[0] and not handler(node):
            # most operators that nobody knows work element by element
            found = next((replace(imp.type(imp.acts[i]), scale=1.0, zero=0) for i in node.input if i in imp.acts), None)
        imp.acts.pop(out, None)
        if found is None:
            imp.poisoned.add(out)
            continue
        value = imp.fresh(out)
        imp.values[value] = found
        imp.unknown.add(value)
        inputs = tuple(dict.fromkeys(imp.acts[i].value for i in node.input if i in imp.acts))
        imp.ops.append(Op(imp.unique(node_name(node)), "opaque", inputs, value, {}, {}, node_name(node), "import"))
        imp.acts[out] = Act(value)


def _one_sample(model: ModelProto) -> ModelProto:
    """The model with a batch of 1 where it is symbolic and with all its domains declared, so that more shapes can be inferred."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for domain in sorted({n.domain for n in copy.graph.node} - {e.domain for e in copy.opset_import} - {"", "ai.onnx"}):
        copy.opset_import.add(domain=domain, version=1)
    for info in copy.graph.input:
        dims = info.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
    return copy


class _InferredShapes:
    """Shapes by onnx's own inference of the QDQ form, computed only when something unsupported needs them."""

    def __init__(self, model: ModelProto) -> None:
        self._model, self._shapes = model, None

    def get(self, name: str) -> TensorType | None:
        if self._shapes is None:
            self._shapes = self._infer()
        return self._shapes.get(name)

    def _infer(self) -> dict[str, TensorType]:
        try:
            inferred = onnx.shape_inference.infer_shapes(_one_sample(qdq_form(self._model)), data_prop=True)
        except Exception:
            return {}
        found: dict[str, TensorType] = {}
        known: dict[int, str] = {**dict.fromkeys(FLOATS, "f32"), **INTS}
        for info in [*inferred.graph.value_info, *inferred.graph.output]:
            tensor = info.type.tensor_type
            dims = [d.dim_value for d in tensor.shape.dim]
            if len(dims) < 2 or any(d <= 0 or d > 2**20 for d in dims[1:]) or tensor.elem_type not in known:
                continue
            if len(dims) <= 4:
                c, *plane = dims[1:]
                shape = ((1, 1, *plane)[-2], (1, 1, *plane)[-1], c)
                layout = Layout.planes(shape, len(dims) - 1)
            else:
                shape, layout = (1, 1, math.prod(dims[1:])), Layout.rows(dims[1:])
            found[info.name] = TensorType(known[tensor.elem_type], shape, layout=layout)
        return found
