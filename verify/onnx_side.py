"""The imported graph against the ONNX file in onnxruntime: every stored tensor, operation by operation.

onnxruntime gets the QDQ form of the file, cut at every stored tensor: behind each QuantizeLinear its readers are fed our own integers.
So each of its results is one operation on the same inputs as ours, and rounding does not add up from layer to layer. All of it runs in
float without graph optimisations and does not depend on the processor's integer kernels.

Tolerance: one step. Ours is exact arithmetic with one rounding to the nearest integer; onnxruntime's is float32, whose error moves a
result that stands next to a tie to the other side. In long sums the error of float32 itself may be a step and more; its bound,
2^-24 (K + 8) (sum |w| max |x - z| + |b|) in steps of the output, is added. Where the compiler quantised a float side of a sum, the graph's note
says how many steps that may move the sum; they are added too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper

from sasimc.frontend.onnx_import import FloatImport
from sasimc.frontend.qdq_form import qdq_form
from sasimc.ir.graph import Graph, Op
from sasimc.isa.errors import SasError
from sasimc.passes.canonicalise import ISLANDS
from sasimc.verify.difference import Difference, first_difference

__all__ = ["against_onnx"]

Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]
_FED = ":fed"


def against_onnx(model: ModelProto, found: FloatImport, graph: Graph, env: Mapping[str, Ints], ours: Mapping[str, Ints]) -> int:
    """Compare; ``graph``: the integer graph as it was imported, ``env``: all values [B, H, W, C] its operations read, ``ours``: those they
    made. Returns how many tensors.

    Raises:
        SasError: onnxruntime refuses the file.
        Difference: the first operation whose result differs.
    """
    assert found.graph is not None
    values = [v for v in graph.values if v in found.tensors and v not in graph.inputs and _stored(found.graph, v)]
    out = _real_output(model, found, graph)
    session, real_input = _session(qdq_form(model), values, out)
    samples = len(next(iter(env.values())))
    batch = found.batch
    results: dict[str, list[Array]] = {v: [] for v in values}
    if not values and not out:
        return 0
    for first in range(0, samples - samples % batch, batch):
        part = {v: env[v][first : first + batch] for v in (*values, *graph.inputs)}
        feeds = {f"{v}{_FED}": _as_onnx(found, v, part[v]).astype(_np_type(graph, v)) for v in values}
        feeds = {k: a for k, a in feeds.items() if k in real_input}
        for name in graph.inputs:
            t = graph.type(name)
            x = _as_onnx(found, name, part[name])
            whole = real_input[name] in (np.int8, np.uint8)
            feeds[name] = x.astype(real_input[name]) if whole else ((x - t.zero) * np.float32(t.scale)).astype(real_input[name])
        try:
            made = session.run([*values, *out], feeds)
        except Exception as e:
            raise _refused(e) from e
        for v in out:
            t = graph.type(graph.outputs[0])
            real = np.asarray(made[-1])
            q = np.rint(real.astype(np.float64) / t.scale) + t.zero if real.dtype.kind == "f" else real
            results.setdefault(v, []).append(_as_stored(found, v, q, graph.type(graph.outputs[0]).shape))
        for v, a in zip(values, made, strict=False):
            results[v].append(_as_stored(found, v, np.asarray(a), graph.type(v).shape))
    islands: dict[str, float] = json.loads(graph.notes.get(ISLANDS, "{}"))
    for op in graph.ops:
        if results.get(op.output):
            theirs = np.concatenate(results[op.output])
            allowed = 1 + _float_error(graph, op, env) + islands.get(op.output, 0.0)
            if (hit := first_difference(ours[op.output][: len(theirs)], theirs, allowed)) is not None:
                raise Difference("the imported graph", "onnxruntime", op.origin or op.name, op.kind, *hit, "within one step")
    for v in out:
        theirs = np.concatenate(results[v])
        if (
            hit := first_difference(
                env[graph.outputs[0]][: len(theirs)], theirs, 1.0 if graph.type(graph.outputs[0]).dtype != "i32" else 0
            )
        ) is not None:
            raise Difference("the output of the imported graph", "onnxruntime", v, "output", *hit, "within one step")
    return len(values) + len(out)


def _real_output(model: ModelProto, found: FloatImport, graph: Graph) -> list[str]:
    """The file's output, if it is the graph's: a softmax is left out of the graph, and of integers its own operator is compared."""
    names = [o.name for o in model.graph.output if o.name in found.tensors]
    if len(names) != 1 or "softmax" in graph.notes or (names[0] in graph.values and graph.type(names[0]).dtype != "i32"):
        return []
    return names


def _stored(real: Graph, value: str) -> bool:
    return value in real.values and real.type(value).dtype in ("u8", "i8")


def _np_type(graph: Graph, value: str) -> Any:
    return np.uint8 if graph.type(value).dtype == "u8" else np.int8


def _as_onnx(found: FloatImport, value: str, stored: Ints) -> Ints:
    """Stored samples as the ONNX tensor of that name."""
    assert found.graph is not None
    act = found.tensors[value]
    layout = found.graph.type(act.value).layout
    assert layout is not None
    a = stored.reshape(len(stored), -1)[:, layout.index()].reshape(len(stored), *layout.dims)
    return np.moveaxis(a, 0, act.batch)


def _as_stored(found: FloatImport, value: str, tensor: Array, shape: tuple[int, int, int]) -> Ints:
    assert found.graph is not None
    act = found.tensors[value]
    layout = found.graph.type(act.value).layout
    assert layout is not None
    return layout.stored(np.moveaxis(tensor, act.batch, 0).astype(np.int64), shape)


def _session(model: ModelProto, values: list[str], more: list[str]) -> tuple[ort.InferenceSession, dict[str, Any]]:
    """The model cut at ``values``, and the numpy types of its inputs."""
    cut = ModelProto()
    cut.CopyFrom(model)
    read = set[str]()
    wanted = set(values)
    for node in cut.graph.node:
        node.name = ""  # onnxruntime refuses equal ones
        for i, name in enumerate(node.input):
            if name in wanted:
                node.input[i] = name + _FED
                read.add(name)
    del cut.graph.output[:]
    cut.graph.output.extend(helper.make_empty_tensor_value_info(v) for v in (*values, *more))
    kinds = _types(model)
    cut.graph.input.extend(helper.make_tensor_value_info(v + _FED, kinds[v], None) for v in values if v in read)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(cut.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as e:
        raise _refused(e) from e
    dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(uint8)": np.uint8,
              "tensor(int8)": np.int8}  # fmt: skip
    return session, {i.name: dtypes[i.type] for i in session.get_inputs()}


def _types(model: ModelProto) -> dict[str, int]:
    """Element types of all tensors that onnx can infer; uint8 else."""
    inferred = onnx.shape_inference.infer_shapes(model)
    found = {
        i.name: i.type.tensor_type.elem_type for i in [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]
    }
    return _Default(found)


class _Default(dict[str, int]):
    def __missing__(self, key: str) -> int:
        return TensorProto.UINT8


def _refused(e: Exception) -> SasError:
    return SasError(
        f"onnxruntime does not run the model, so its translation cannot be checked ({' '.join(str(e).split())[:200]})",
        hint="--no-verify compiles it unchecked",
    )


def _float_error(graph: Graph, op: Op, env: Mapping[str, Ints]) -> npt.NDArray[np.float64] | float:
    """Bound of float32's error in steps of the output, per channel."""
    if op.kind != "conv":
        return 0.0
    x, out = graph.type(op.inputs[0]), graph.type(op.output)
    weight = np.abs(graph.constant(op, "weight").astype(np.int64))
    most = float(np.abs(env[op.inputs[0]] - x.zero).max(initial=0))
    terms = weight[..., 0].size + 8
    bias = np.abs(graph.constant(op, "bias").astype(np.float64))
    return (
        2.0**-24 * terms * (weight.sum(axis=(0, 1, 2)) * most + bias) * x.scale * np.abs(graph.constant(op, "wscale")) / out.scale
    )
