"""The imported graph against the ONNX file in onnxruntime: every stored tensor, operation by operation.

onnxruntime gets the QDQ form of the file, cut at every stored tensor: behind each QuantizeLinear its readers are fed our own integers.
So each of its results is one operation on the same inputs as ours, and rounding does not add up from layer to layer. All of it runs in
float without graph optimisations and does not depend on the processor's integer kernels.

Tolerance: one step. Ours is exact arithmetic with one rounding to the nearest integer; onnxruntime's is float32, whose error moves a
result that stands next to a tie to the other side. In long sums the error of float32 itself may be a step and more; its bound,
2^-24 (K + 8) (sum |w| max |x - z| + |b|) in steps of the output, is added. A softmax and a layer norm are within 0.55 steps of the real function of
the stored integers (docs/reference/numerics.md), so within one step of its rounding. The file is also cut at float tensors that the compiler gave a
scale: what onnxruntime makes there is quantised with it and compared, and its readers are fed what our integers stand for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper

from sasimc.frontend.onnx_import import FloatImport
from sasimc.frontend.qdq_form import qdq_form
from sasimc.frontend.state import NO_BATCH
from sasimc.ir.graph import OUTPUTS, Graph, Op, TensorType, type_range
from sasimc.isa.errors import SasError
from sasimc.passes.canonicalise import PLACED
from sasimc.verify.difference import Difference, first_difference

__all__ = ["Moved", "against_onnx", "onnx_tensors", "whole_network"]

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
    compared = 0
    for op, value, theirs, allowed in onnx_tensors(model, found, graph, env):
        compared += 1
        made = env[value] if op is None else ours[value]
        if (hit := first_difference(made[: len(theirs)], theirs, allowed)) is not None:
            name, kind = (value, "output") if op is None else (op.origin or op.name, op.kind)
            what = "the output of the imported graph" if op is None else "the imported graph"
            raise Difference(what, "onnxruntime", name, kind, *hit, "within one step")
    return compared


def onnx_tensors(
    model: ModelProto, found: FloatImport, graph: Graph, env: Mapping[str, Ints]
) -> Iterator[tuple[Op | None, str, Ints, npt.NDArray[np.float64] | float]]:
    """What onnxruntime makes of every stored tensor when each operation is fed ``env``: operation (None: an output of the file), value, its result in stored
    integers [B, H, W, C], and by how many steps the exact one may differ from it, in the order of the graph.

    Raises:
        SasError: onnxruntime refuses the file.
    """
    assert found.graph is not None
    held = _held(found, graph)
    out = {n: v for n, v in _real_outputs(model, found, graph).items() if n not in held}
    floats = {v for v in held if not _stored(found.graph, v)}
    session, real_input = _session(qdq_form(model), list(held), list(out), floats)
    samples = len(next(iter(env.values())))
    batch = found.batch
    results: dict[str, list[Array]] = {v: [] for v in (*held, *out)}
    if not results:
        return
    for first in range(0, samples - samples % batch, batch):
        part = {v: env[v][first : first + batch] for v in (*held.values(), *graph.inputs)}
        feeds = {f"{v}{_FED}": _as_onnx(found, v, part[s]) for v, s in held.items() if f"{v}{_FED}" in real_input}
        feeds |= {name: _as_onnx(found, name, part[name]) for name in graph.inputs}
        stored = {f"{v}{_FED}": graph.type(s) for v, s in held.items()} | {name: graph.type(name) for name in graph.inputs}
        for name, x in feeds.items():
            feeds[name] = _fed(x, stored[name], real_input[name])
        try:
            made = dict(zip(results, session.run(None, feeds), strict=True))
        except Exception as e:
            raise _refused(e) from e
        for v, a in made.items():
            t, real = graph.type(held.get(v) or out[v]), np.asarray(a)
            if real.dtype.kind == "f":
                real = np.rint(real.astype(np.float64) / t.scale) + t.zero
                real = np.clip(real, *type_range(t.dtype)) if v in held else real
            results[v].append(_as_stored(found, v, real, t.shape))
    tensors: dict[str, list[str]] = {}
    for v, s in held.items():
        tensors.setdefault(s, []).append(v)
    for op in graph.ops:
        for v in tensors.get(op.output, []):
            if results[v]:
                yield op, op.output, np.concatenate(results[v]), 1 + _float_error(graph, op, env)
    for v, s in out.items():
        if results[v]:
            yield None, s, np.concatenate(results[v]), 0.0 if graph.type(s).dtype == "i32" else 1.0


def _held(found: FloatImport, graph: Graph) -> dict[str, str]:
    """Tensors of the file that the graph stores, quantised ones and float ones that were given a scale, and the value that holds each."""
    assert found.graph is not None
    stored = {v: v for v in graph.values if v in found.tensors and v not in graph.inputs and _stored(found.graph, v)}
    placed: dict[str, str] = json.loads(graph.notes.get(PLACED, "{}"))
    return stored | {v: s for v, s in placed.items() if v in found.tensors and s not in graph.inputs}


@dataclass(frozen=True)
class Moved:
    """How far the outputs of the integer graph are from those of the file run as it is: the most and the mean, in steps, and the samples whose
    largest output is another."""

    placed: int
    most: float
    mean: float
    samples: int
    same: int

    def __str__(self) -> str:
        return (
            f"scales for {self.placed} float tensors move the output by {self.mean:.2g} steps, at most {self.most:.2g}; "
            f"the largest output is the same in {self.same} of {self.samples} samples"
        )


def whole_network(model: ModelProto, found: FloatImport, graph: Graph, env: Mapping[str, Ints]) -> Moved | None:
    """The whole file in onnxruntime against the integer graph; None where its output is not real values."""
    name, value = model.graph.output[0].name, graph.outputs[0]
    session, real_input = _session(qdq_form(model), [], [name], set())
    off, same, count = [np.zeros(1)], 0, found.batch
    samples = len(env[value]) // count * count
    for first in range(0, samples, count):
        feeds = {}
        for v in graph.inputs:
            t, x = graph.type(v), _as_onnx(found, v, env[v][first : first + count])
            feeds[v] = _fed(x, t, real_input[v])
        real = np.asarray(session.run([name], feeds)[0])
        t, ours = graph.type(value), _as_onnx(found, name, env[value][first : first + count])
        if real.dtype.kind != "f" or t.dtype == "i32" or "end" in json.loads(graph.notes[OUTPUTS])[0]:
            return None
        off.append(np.abs(real / t.scale + t.zero - ours).ravel())
        flat = real.reshape(count, -1)
        same += int((flat.argmax(1) == ours.reshape(count, -1).argmax(1)).sum())
    steps = np.concatenate(off[1:])
    return Moved(len(json.loads(graph.notes[PLACED])), float(steps.max()), float(steps.mean()), samples, same)


def _real_outputs(model: ModelProto, found: FloatImport, graph: Graph) -> dict[str, str]:
    """Outputs of the file that the graph gives, and the value that holds each: a softmax is the host's, and of integers their own operator is
    compared."""
    ports: list[dict[str, Any]] = json.loads(graph.notes[OUTPUTS])
    pairs = zip(ports, graph.outputs, strict=True)
    return {
        p["name"]: v
        for p, v in pairs
        if "end" not in p and (p["name"] not in graph.values or graph.type(p["name"]).dtype == "i32")
    }


def _stored(real: Graph, value: str) -> bool:
    return value in real.values and real.type(value).dtype in ("u8", "i8")


def _fed(x: Ints, t: TensorType, dtype: Any) -> Array:
    """Stored values as onnxruntime reads them: the integers, or what they stand for."""
    return x.astype(dtype) if dtype in (np.int8, np.uint8) else ((x - t.zero) * np.float32(t.scale)).astype(dtype)


def _as_onnx(found: FloatImport, value: str, stored: Ints) -> Ints:
    """Stored samples as the ONNX tensor of that name."""
    assert found.graph is not None
    act = found.tensors[value]
    layout = found.graph.type(act.value).layout
    assert layout is not None
    a = stored.reshape(len(stored), -1)[:, layout.index()].reshape(len(stored), *layout.dims)
    return a[0] if act.batch == NO_BATCH else np.moveaxis(a, 0, act.batch)


def _as_stored(found: FloatImport, value: str, tensor: Array, shape: tuple[int, int, int]) -> Ints:
    assert found.graph is not None
    act = found.tensors[value]
    layout = found.graph.type(act.value).layout
    assert layout is not None
    samples = tensor[None] if act.batch == NO_BATCH else np.moveaxis(tensor, act.batch, 0) if act.batch < tensor.ndim else tensor
    if samples.size != len(samples) * math.prod(shape):
        raise SasError(
            f"in onnxruntime this tensor has the shape {list(tensor.shape)}, not {math.prod(shape)} elements a sample", where=value,
            hint="does an operator drop a batch of one, as Squeeze without axes does? name its axes",
        )  # fmt: skip
    return layout.stored(samples.astype(np.int64), shape)


def _session(
    model: ModelProto, values: list[str], more: list[str], floats: set[str]
) -> tuple[ort.InferenceSession, dict[str, Any]]:
    """The model cut at ``values``, some of which are ``floats``, and the numpy types of its inputs."""
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
    cut.graph.input.extend(
        helper.make_tensor_value_info(v + _FED, kinds.get(v, TensorProto.FLOAT if v in floats else TensorProto.UINT8), None)
        for v in values if v in read
    )  # fmt: skip
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
    """Element types of all tensors that onnx can infer."""
    inferred = onnx.shape_inference.infer_shapes(model)
    return {
        i.name: i.type.tensor_type.elem_type for i in [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]
    }


def _refused(e: Exception) -> SasError:
    return SasError(
        f"onnxruntime does not run the model, so its translation cannot be checked ({' '.join(str(e).split())[:200]})",
        hint="--no-verify compiles it unchecked",
    )


def _float_error(graph: Graph, op: Op, env: Mapping[str, Ints]) -> npt.NDArray[np.float64] | float:
    """Bound of float32's error in steps of the output, per channel."""
    if op.kind not in ("conv", "matmul"):
        return 0.0
    x, out = graph.type(op.inputs[0]), graph.type(op.output)
    if op.kind == "matmul":
        k, other = op.ints("sizes")[2], graph.type(op.inputs[1])
        most = [float(np.abs(env[v] - graph.type(v).zero).max(initial=0)) for v in op.inputs]
        return 2.0**-24 * (k + 8) * k * most[0] * most[1] * x.scale * other.scale / out.scale
    weight = np.abs(graph.constant(op, "weight").astype(np.int64))
    most = float(np.abs(env[op.inputs[0]] - x.zero).max(initial=0))
    terms = weight[..., 0].size + 8
    bias = np.abs(graph.constant(op, "bias").astype(np.float64))
    return (
        2.0**-24 * terms * (weight.sum(axis=(0, 1, 2)) * most + bias) * x.scale * np.abs(graph.constant(op, "wscale")) / out.scale
    )
