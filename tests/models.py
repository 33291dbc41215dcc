"""Small statically quantised (QDQ) ONNX networks for the tests, made by formula from a seed.

Every builder returns an ``onnx.ModelProto`` with a symbolic batch, runnable under onnxruntime, whose metadata key
``sasimc.trainable`` holds the JSON list of the names of the trainable nodes. Scales are calibrated on random inputs, so that
no layer is dead or saturated. Activations next to trainable layers have power-of-two scales and z = 0 (docs/reference/numerics.md,
"Forward"); frozen ones get arbitrary scales and zero points, uint8 and int8.

    mlp, plain_cnn, residual_net, mobilenet_like, random_graph, and Builder for tests that need their own graph.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

__all__ = [
    "Builder",
    "Value",
    "gated",
    "input_name",
    "mlp",
    "mobilenet_like",
    "ort_run",
    "ort_session",
    "plain_cnn",
    "random_graph",
    "residual_net",
    "trainable_names",
    "with_all_outputs",
]

F32 = npt.NDArray[np.float32]
Act = str | tuple[float, float] | None
"""None, ``relu``, ``relu6``, or a pair of Clip bounds."""


@dataclass(frozen=True)
class Value:
    """A dequantised tensor of the graph under construction: its float name, calibration values (ONNX layout) and quantisation."""

    name: str
    data: F32
    scale: float
    zero: int
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.data.shape[1:]


def ort_session(model: onnx.ModelProto) -> ort.InferenceSession:
    """A session without graph optimisations, on one thread."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def ort_run(model: onnx.ModelProto, x: F32) -> dict[str, npt.NDArray]:
    """All graph outputs of ``model`` for the float input ``x``, by onnxruntime without graph optimisations."""
    session = ort_session(model)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {input_name(model): x}), strict=True))


def with_all_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` whose graph outputs are the outputs of all its QuantizeLinear nodes, in node order."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    consts = {i.name: i for i in copy.graph.initializer}
    for node in copy.graph.node:
        if node.op_type == "QuantizeLinear":
            dtype = consts[node.input[2]].data_type
            copy.graph.output.append(helper.make_tensor_value_info(node.output[0], dtype, None))
    return copy


def input_name(model: onnx.ModelProto) -> str:
    """The name of the graph input that is not an initialiser."""
    consts = {i.name for i in model.graph.initializer}
    return next(i.name for i in model.graph.input if i.name not in consts)


def trainable_names(model: onnx.ModelProto) -> list[str]:
    """The node names under the metadata key ``sasimc.trainable``."""
    return next((json.loads(p.value) for p in model.metadata_props if p.key == "sasimc.trainable"), [])


def _resize_scale(old: int, new: int) -> np.float32:
    """A float scale with which onnxruntime's float32 arithmetic reads row floor(i old / new) for output row i.

    The batch is symbolic, so sizes have to be given as scales, and not every pair of sizes has such a scale: ValueError.
    """
    scale, rows = np.float32(new / old), np.arange(new)
    for s in (scale, np.nextafter(scale, np.float32(0)), np.nextafter(scale, np.float32(np.inf))):
        sizes = {int(s * np.float32(old)), int(float(s) * old)}  # onnxruntime, and onnx's shape inference
        if sizes == {new} and (np.floor(rows.astype(np.float32) / s) == rows * old // new).all():
            return s
    raise ValueError(f"no float32 scale from {old} to {new}")


class Builder:
    """Writes a QDQ graph node by node; each method appends one operator and its Q/DQ pair and returns the dequantised result."""

    def __init__(self, seed: int = 0, *, opset: int = 17, calibration: int = 4, pow2: bool = False) -> None:
        """``pow2``: the default for ``pow2=None`` of every operator: power-of-two scale and z = 0 for the output."""
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.samples = calibration
        self.pow2 = pow2
        self.nodes: list[onnx.NodeProto] = []
        self.inits: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.trainable: list[str] = []
        self._count = 0

    # -- pieces ---------------------------------------------------------------------------------------------------------

    def _fresh(self, stem: str) -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    def const(self, value: npt.ArrayLike, stem: str = "c", dtype: npt.DTypeLike | None = None) -> str:
        """Append an initialiser and return its name."""
        name = self._fresh(stem)
        self.inits.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def _node(self, op: str, inputs: Sequence[str], name: str | None = None, **attrs: object) -> str:
        name = name or self._fresh(op.lower())
        out = f"{name}_out"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=name, **attrs))
        return out

    def _float(self, values: dict[str, F32], result: str, count: int) -> F32:
        """Evaluate the last ``count`` nodes in float on the calibration values: the range of ``result``."""
        graph = helper.make_graph(
            self.nodes[-count:],
            "calibrate",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in values.items()],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
            self.inits,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        return ort_session(model).run([result], values)[0]

    def _range(self, data: F32, dtype: str | None, pow2: bool) -> tuple[float, int, str]:
        """Scale, zero point and type that cover ``data``; one type in two by chance when ``dtype`` is None."""
        low, high = min(float(data.min()), 0.0), max(float(data.max()), 1e-3)
        signed = low < 0
        if pow2:
            dtype = "int8" if signed else (dtype or "uint8")
            if dtype == "int8" and signed:
                return 2.0 ** math.ceil(math.log2(max(high, -low) / 127)), 0, dtype
            return 2.0 ** math.ceil(math.log2(high / 255)), (0 if dtype == "uint8" else -128), dtype
        dtype = dtype or str(self.rng.choice(["uint8", "int8"]))
        scale = float(np.float32((high - low) / 255))
        zero = int(np.clip(round(-low / scale), 0, 255))
        return scale, zero - (128 if dtype == "int8" else 0), dtype

    def quantize(
        self,
        name: str,
        data: F32,
        *,
        dtype: str | None = None,
        pow2: bool | None = None,
        like: Value | None = None,
        stem: str | None = None,
    ) -> Value:
        """Append QuantizeLinear and DequantizeLinear after the float tensor ``name``; ``like``: whose scale and z to copy."""
        pow2 = self.pow2 if pow2 is None else pow2
        scale, zero, dtype = (like.scale, like.zero, like.dtype) if like else self._range(data, dtype, pow2)
        stem = stem or name
        s, z = self.const(scale, f"{stem}_scale", np.float32), self.const(zero, f"{stem}_zero", dtype)
        q = self._node("QuantizeLinear", [name, s, z], f"{stem}_q")
        out = self._node("DequantizeLinear", [q, s, z], f"{stem}_dq")
        info = np.iinfo(dtype)
        quantised = np.clip(np.rint(data / np.float32(scale)) + zero, info.min, info.max)
        return Value(out, ((quantised - zero) * np.float32(scale)).astype(np.float32), scale, zero, dtype)

    def _finish(
        self,
        values: Sequence[Value],
        result: str,
        name: str,
        act: Act,
        *,
        dtype: str | None,
        pow2: bool | None,
        start: int,
        like: Value | None = None,
    ) -> Value:
        if act == "relu":
            result = self._node("Relu", [result], f"{name}_relu")
        elif act is not None:
            low, high = (0.0, 6.0) if act == "relu6" else act
            bounds = [self.const(b, f"{name}_bound", np.float32) for b in (low, high)]
            result = self._node("Clip", [result, *bounds], f"{name}_clip")
        data = self._float({v.name: v.data for v in values}, result, len(self.nodes) - start)
        return self.quantize(result, data, dtype=dtype, pow2=pow2, like=like, stem=name)

    def _weight(
        self, shape: tuple[int, ...], fan_in: int, axis: int, per_channel: bool, pow2: bool, gain: float
    ) -> tuple[str, npt.NDArray]:
        """A quantised constant weight; returns the DequantizeLinear output name and its scales ([] or [N])."""
        w = self.rng.normal(0, gain * math.sqrt(2 / fan_in), shape)
        n = shape[axis]
        bound = np.abs(w).max(axis=tuple(i for i in range(w.ndim) if i != axis)) if per_channel else np.abs(w).max()
        scale = np.maximum(bound, 1e-6) / 127
        scale = np.exp2(np.ceil(np.log2(scale))) if pow2 else scale
        scale = np.asarray(scale, np.float32)
        shaped = scale.reshape([n if i == axis else 1 for i in range(w.ndim)]) if per_channel else scale
        q = np.clip(np.rint(w / shaped), -127, 127).astype(np.int8)
        zero = np.zeros_like(scale, dtype=np.int8)
        stem = "weight"
        attrs = {"axis": axis} if per_channel else {}
        return (
            self._node(
                "DequantizeLinear",
                [self.const(q, stem), self.const(scale, "w_scale"), self.const(zero, "w_zero")],
                self._fresh("w_dq"),
                **attrs,
            ),
            scale,
        )

    def _bias(self, n: int, x: Value, scale: npt.NDArray) -> str:
        s = np.broadcast_to(np.float32(x.scale) * scale, (n,)).astype(np.float32)
        q = np.rint(self.rng.normal(0, 0.1, n) / s).clip(-(2**24), 2**24).astype(np.int32)
        if scale.ndim == 0:
            return self._node("DequantizeLinear", [self.const(q, "bias"), self.const(s[0], "b_scale")], self._fresh("b_dq"))
        return self._node("DequantizeLinear", [self.const(q, "bias"), self.const(s, "b_scale")], self._fresh("b_dq"), axis=0)

    # -- operators ------------------------------------------------------------------------------------------------------

    def input(
        self, shape: Sequence[int], *, dtype: str | None = None, pow2: bool | None = None, low: float = -1.0, high: float = 1.0
    ) -> Value:
        """The graph input ``[N, *shape]`` (ONNX layout) with values from ``low`` to ``high``, quantised."""
        self.inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *shape])]
        data = self.rng.uniform(low, high, (self.samples, *shape)).astype(np.float32)
        data.flat[0], data.flat[1] = low, high
        return self.quantize("input", data, dtype=dtype, pow2=pow2)

    def conv(
        self,
        x: Value,
        out: int,
        kernel: int | tuple[int, int] = 3,
        *,
        stride: int = 1,
        pads: Sequence[int] | None = None,
        groups: int = 1,
        act: Act = None,
        bias: bool = True,
        per_channel: bool = True,
        trainable: bool = False,
        name: str | None = None,
        dtype: str | None = None,
        pow2: bool | None = None,
        gain: float = 1.0,
    ) -> Value:
        """Convolution, padded to the same size when ``pads`` is None; trainable: no bias, one power-of-two weight scale."""
        name = name or self._fresh("conv")
        cin, (kh, kw) = x.shape[0], (kernel, kernel) if isinstance(kernel, int) else kernel
        fan_in = cin // groups * kh * kw
        if trainable:
            self.trainable.append(name)
            bias, per_channel, pow2 = False, False, True
        w, scale = self._weight((out, cin // groups, kh, kw), fan_in, 0, per_channel, trainable, gain)
        inputs = [x.name, w, *([self._bias(out, x, scale)] if bias else [])]
        start = len(self.nodes) - (2 if bias else 1)
        half = [kh // 2, kw // 2, (kh - 1) // 2, (kw - 1) // 2]
        r = self._node(
            "Conv",
            inputs,
            name,
            strides=[stride] * 2,
            pads=list(half if pads is None else pads),
            group=groups,
            kernel_shape=[kh, kw],
        )
        return self._finish([x], r, name, act, dtype=dtype, pow2=pow2, start=start)

    def gemm(
        self,
        x: Value,
        out: int,
        *,
        act: Act = None,
        bias: bool = True,
        matmul: bool = False,
        per_channel: bool = False,
        trainable: bool = False,
        name: str | None = None,
        dtype: str | None = None,
        pow2: bool | None = None,
        gain: float = 1.0,
    ) -> Value:
        """Gemm with a transposed weight, or MatMul followed by Add when ``matmul``."""
        name = name or self._fresh("gemm")
        (cin,) = x.shape
        if trainable:
            self.trainable.append(name)
            per_channel, pow2 = False, True
        axis = 1 if matmul else 0
        w, scale = self._weight((cin, out) if matmul else (out, cin), cin, axis, per_channel, trainable, gain)
        b = [self._bias(out, x, scale)] if bias else []
        start = len(self.nodes) - 1 - len(b)
        if matmul:
            r = self._node("MatMul", [x.name, w], name)
            r = self._node("Add", [r, *b], f"{name}_bias") if b else r
        else:
            r = self._node("Gemm", [x.name, w, *b], name, transB=1)
        return self._finish([x], r, name, act, dtype=dtype, pow2=pow2, start=start)

    def add(
        self, a: Value, b: Value, *, act: Act = None, name: str | None = None, dtype: str | None = None, pow2: bool | None = None
    ) -> Value:
        """Residual add."""
        name, start = name or self._fresh("add"), len(self.nodes)
        r = self._node("Add", [a.name, b.name], name)
        return self._finish([a, b], r, name, act, dtype=dtype, pow2=pow2, start=start)

    def mul(
        self,
        x: Value,
        constants: npt.ArrayLike,
        *,
        act: Act = None,
        name: str | None = None,
        dtype: str | None = None,
        pow2: bool | None = None,
    ) -> Value:
        """Multiply by a scalar or by one constant a channel."""
        name, start = name or self._fresh("mul"), len(self.nodes)
        c = np.asarray(constants, np.float32)
        c = c.reshape(-1, *[1] * (len(x.shape) - 1)) if c.ndim else c
        r = self._node("Mul", [x.name, self.const(c, "factor")], name)
        return self._finish([x], r, name, act, dtype=dtype, pow2=pow2, start=start)

    def norm(self, x: Value, *, name: str | None = None) -> Value:
        """A BatchNormalization standing alone between a DQ and a Q."""
        name, start, channels = name or self._fresh("bn"), len(self.nodes), x.shape[0]
        numbers = [self.const(self.rng.uniform(lo, 1, channels), "bn", np.float32) for lo in (0.5, -1, -1, 0.5)]
        r = self._node("BatchNormalization", [x.name, *numbers], name)
        return self._finish([x], r, name, None, dtype=None, pow2=None, start=start)

    def activation(
        self, x: Value, act: Act, *, name: str | None = None, dtype: str | None = None, pow2: bool | None = None
    ) -> Value:
        """A Relu or Clip standing alone between a DQ and a Q."""
        name, start = name or self._fresh("act"), len(self.nodes)
        return self._finish([x], x.name, name, act, dtype=dtype, pow2=pow2, start=start)

    def unary(self, x: Value, operator: str, *, name: str | None = None, dtype: str | None = None, pow2: bool | None = None,
              **attrs: object) -> Value:  # fmt: skip
        """A function of each element between a DQ and a Q; a PRelu has a slope for each channel."""
        name, start = name or self._fresh(operator.lower()), len(self.nodes)
        slope = [self.const(np.float32(self.rng.uniform(-0.3, 0.6, (x.shape[0], 1, 1))), "slope")] if operator == "PRelu" else []
        r = self._node(operator, [x.name, *slope], name, **attrs)
        return self._finish([x], r, name, None, dtype=dtype, pow2=pow2, start=start)

    def product(
        self, a: Value, b: Value, *, act: Act = None, name: str | None = None, dtype: str | None = None, pow2: bool | None = None
    ) -> Value:
        """Product of two tensors; one of them may have one row, pixel or channel for all."""
        name, start = name or self._fresh("product"), len(self.nodes)
        r = self._node("Mul", [a.name, b.name], name)
        return self._finish([a, b], r, name, act, dtype=dtype, pow2=pow2, start=start)

    def squeeze(self, x: Value, *, name: str | None = None) -> Value:
        """GlobalAveragePool that stays C x 1 x 1."""
        name, start = name or self._fresh("squeeze"), len(self.nodes)
        return self._finish([x], self._node("GlobalAveragePool", [x.name], name), name, None, dtype=None, pow2=None, start=start)

    def excite(self, x: Value, *, gate: str = "Sigmoid", trainable: bool = False) -> Value:
        """Squeeze-and-excite: x times a gate for each channel."""
        s = self.conv(self.squeeze(x), max(1, x.shape[0] // 2), 1, act="relu", trainable=trainable)
        return self.product(x, self.unary(self.conv(s, x.shape[0], 1, trainable=trainable), gate))

    def requantize(self, x: Value, *, name: str | None = None, dtype: str | None = None, pow2: bool | None = None) -> Value:
        """A Q right after a DQ."""
        return self.quantize(x.name, x.data, dtype=dtype, pow2=pow2, stem=name or self._fresh("requant"))

    def avgpool(
        self,
        x: Value,
        kernel: int = 2,
        stride: int | None = None,
        *,
        pads: Sequence[int] = (0, 0, 0, 0),
        name: str | None = None,
        dtype: str | None = None,
        pow2: bool | None = None,
    ) -> Value:
        """Average pool that counts its padding."""
        name, start = name or self._fresh("avgpool"), len(self.nodes)
        r = self._node("AveragePool", [x.name], name, kernel_shape=[kernel] * 2, strides=[stride or kernel] * 2, pads=list(pads),
                       count_include_pad=1)  # fmt: skip
        return self._finish([x], r, name, None, dtype=dtype, pow2=pow2, start=start)

    def maxpool(
        self, x: Value, kernel: int = 2, stride: int | None = None, *, pads: Sequence[int] = (0, 0, 0, 0), name: str | None = None
    ) -> Value:
        """Max pool; the output keeps the input's quantisation."""
        name, start = name or self._fresh("maxpool"), len(self.nodes)
        r = self._node("MaxPool", [x.name], name, kernel_shape=[kernel] * 2, strides=[stride or kernel] * 2, pads=list(pads))
        return self._finish([x], r, name, None, dtype=None, pow2=None, start=start, like=x)

    def global_pool(
        self, x: Value, *, reduce_mean: bool = False, name: str | None = None, dtype: str | None = None, pow2: bool | None = None
    ) -> Value:
        """GlobalAveragePool and Flatten, or ReduceMean over both axes; the result is ``[N, C]``."""
        name, start = name or self._fresh("gap"), len(self.nodes)
        if reduce_mean and self.opset >= 18:
            r = self._node("ReduceMean", [x.name, self.const([2, 3], "axes", np.int64)], name, keepdims=0)
        elif reduce_mean:
            r = self._node("ReduceMean", [x.name], name, axes=[2, 3], keepdims=0)
        else:
            r = self._node("GlobalAveragePool", [x.name], name)
        y = self._finish([x], r, name, None, dtype=dtype, pow2=pow2, start=start)
        return y if reduce_mean else self.flatten(y)

    def flatten(self, x: Value, *, name: str | None = None, reshape: bool = False) -> Value:
        """Flatten (or Reshape) to ``[N, -1]``, with the input's quantisation."""
        name, start = name or self._fresh("flatten"), len(self.nodes)
        if reshape:
            r = self._node("Reshape", [x.name, self.const([0, -1], "shape", np.int64)], name)
        else:
            r = self._node("Flatten", [x.name], name, axis=1)
        return self._finish([x], r, name, None, dtype=None, pow2=None, start=start, like=x)

    def resize(
        self,
        x: Value,
        size: tuple[int, int],
        *,
        mode: str = "nearest",
        name: str | None = None,
        dtype: str | None = None,
        pow2: bool | None = None,
    ) -> Value:
        """Resize: nearest (asymmetric, floor) to any size, or linear (half-pixel) to twice the size."""
        name, start = name or self._fresh("resize"), len(self.nodes)
        scales = np.float32([1.0, 1.0, *(_resize_scale(old, new) for old, new in zip(x.shape[1:], size, strict=True))])
        inputs = [x.name, "", self.const(scales, "scales")]
        if mode == "linear":
            r = self._node("Resize", inputs, name, mode=mode, coordinate_transformation_mode="half_pixel")
        else:
            r = self._node("Resize", inputs, name, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor")
        return self._finish([x], r, name, None, dtype=dtype, pow2=pow2, start=start)

    def concat(
        self, xs: Sequence[Value], axis: int = 1, *, name: str | None = None, dtype: str | None = None, pow2: bool | None = None
    ) -> Value:
        """Concatenation along the channels, rows (2) or columns (3), requantised to one scale."""
        name, start = name or self._fresh("concat"), len(self.nodes)
        r = self._node("Concat", [x.name for x in xs], name, axis=axis)
        return self._finish(xs, r, name, None, dtype=dtype, pow2=pow2, start=start)

    def take(self, x: Value, axis: int, first: int, end: int, step: int = 1, *, name: str | None = None) -> Value:
        """A Slice along one axis, with the input's quantisation."""
        name, start = name or self._fresh("take"), len(self.nodes)
        r = self._node("Slice", [x.name, *(self.const([v], "at", np.int64) for v in (first, end, axis, step))], name)
        return self._finish([x], r, name, None, dtype=None, pow2=None, start=start, like=x)

    def split(self, x: Value, axis: int, first: int, *, name: str | None = None) -> tuple[Value, Value]:
        """A Split in two, with the input's quantisation."""
        name = name or self._fresh("split")
        sizes = [first, x.data.shape[axis] - first]
        outs = [f"{name}_{i}" for i in range(2)]
        self.nodes.append(helper.make_node("Split", [x.name, self.const(sizes, "sizes", np.int64)], outs, name=name, axis=axis))
        left, right = np.split(x.data, [first], axis=axis)
        return self.quantize(outs[0], left, like=x), self.quantize(outs[1], right, like=x)

    def pad(self, x: Value, pads: Sequence[int], *, name: str | None = None) -> Value:
        """Zero padding ``(top, left, bottom, right)``, with the input's quantisation."""
        name, start = name or self._fresh("pad"), len(self.nodes)
        full = [0, 0, *pads[:2], 0, 0, *pads[2:]]
        r = self._node("Pad", [x.name, self.const(full, "pads", np.int64)], name)
        return self._finish([x], r, name, None, dtype=None, pow2=None, start=start, like=x)

    def _prune(self, output: str) -> None:
        """Drop what does not lead to ``output``."""
        needed, nodes = {output}, []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                nodes.append(node)
        self.nodes = nodes[::-1]
        self.inits = [i for i in self.inits if i.name in needed]

    def model(self, output: Value, *, trainable: Sequence[str] | None = None) -> onnx.ModelProto:
        """The finished, checked model with ``output`` (dequantised logits) as its graph output."""
        dims = ["N", *output.shape]
        self._prune(output.name)
        graph = helper.make_graph(
            self.nodes, "test", self.inputs, [helper.make_tensor_value_info(output.name, TensorProto.FLOAT, dims)], self.inits
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8, producer_name="tests")
        kept = {n.name for n in self.nodes}
        names = [n for n in (self.trainable if trainable is None else trainable) if n in kept]
        helper.set_model_props(model, {"sasimc.trainable": json.dumps(names)})
        onnx.checker.check_model(model, full_check=True)
        return model


# -- networks ---------------------------------------------------------------------------------------------------------------


def mlp(
    sizes: Sequence[int] = (20, 16, 12, 5), *, seed: int = 0, train: str = "all", matmul: bool = False, opset: int = 17
) -> onnx.ModelProto:
    """A multi-layer perceptron on ``[N, sizes[0]]``; ``train``: all, head or none."""
    b = Builder(seed, opset=opset, pow2=train != "none")
    x = b.input(sizes[:1], low=0.0 if train == "all" else -1.0)
    for i, n in enumerate(sizes[1:], 1):
        last = i == len(sizes) - 1
        chosen = train == "all" or (train == "head" and last)
        x = b.gemm(
            x, n, act=None if last else "relu", trainable=chosen, matmul=matmul, name=f"fc{i}", dtype="int8" if last else None
        )
    return b.model(x)


def plain_cnn(
    *, size: int = 12, channels: Sequence[int] = (6, 8, 10), classes: int = 4, seed: int = 0, train: str = "all", opset: int = 17
) -> onnx.ModelProto:
    """Convolutions with ReLU and max pools, flattened into a Gemm; ``train``: all, head or none."""
    b = Builder(seed, opset=opset, pow2=train != "none")
    x = b.input((3, size, size), low=0.0 if train == "all" else -1.0)
    for i, n in enumerate(channels):
        x = b.conv(x, n, act="relu", trainable=train == "all", name=f"conv{i}")
        if min(x.shape[1:]) >= 4:
            x = b.maxpool(x, name=f"pool{i}")
    x = b.flatten(x)
    return b.model(b.gemm(x, classes, trainable=train != "none", name="head", dtype="int8"))


def residual_net(
    *, size: int = 16, width: int = 8, blocks: int = 3, classes: int = 5, seed: int = 0, train: str = "head", opset: int = 17
) -> onnx.ModelProto:
    """A ResNet-like network without depth-wise layers (stem, max pool, basic blocks with projection); ``train``: all, head, none.

    Only 3x3 block convolutions and the head train with ``all``; their activations then have power-of-two scales and z = 0.
    """
    everything = train == "all"
    b = Builder(seed, opset=opset, pow2=everything)
    x = b.input((3, size, size), low=0.0 if everything else -1.0)
    x = b.conv(x, width, 3, stride=2, act="relu", name="stem")
    x = b.maxpool(x, 3, 1, pads=(1, 1, 1, 1), name="stem_pool")
    for i in range(blocks):
        stride, out = (2 if i % 2 else 1), width * (1 + i // 2 + i % 2)
        y = b.conv(x, out, 3, stride=stride, act="relu", name=f"block{i}_conv1", trainable=everything)
        y = b.conv(y, out, 3, name=f"block{i}_conv2", trainable=everything)
        if stride != 1 or out != x.shape[0]:
            x = b.conv(x, out, 1, stride=stride, name=f"block{i}_project")
        x = b.add(y, x, act="relu", name=f"block{i}_add")
    x = b.global_pool(x, reduce_mean=opset % 2 == 0, pow2=True, name="gap")
    return b.model(b.gemm(x, classes, trainable=train != "none", name="head", dtype="int8"))


def mobilenet_like(
    *,
    size: int = 16,
    width: int = 8,
    classes: int = 5,
    seed: int = 0,
    modules: int = 2,
    train: str = "rep",
    linear: bool = False,
    opset: int = 17,
) -> onnx.ModelProto:
    """Inverted residuals (ReLU6, depth-wise, linear bottleneck) with Rep-Net modules; ``train``: rep, head or none.

    A module is average pool 2 -> 3x3 grouped convolution, ReLU -> 1x1 convolution -> resize, added to a block's output.
    The first reads the input image, later ones the activation that enters their block (docs: design, table of modules).
    """
    b = Builder(seed, opset=opset)
    image = b.input((3, size, size))
    x = b.conv(image, width, 3, stride=2, act="relu6", name="stem")
    plan = [(1, width, 2), (3, width, 1), (3, 2 * width, 2), (3, 2 * width, 1)]
    attach = {0: image, 2: None} if modules >= 2 else ({0: image} if modules else {})
    for i, (expand, out, stride) in enumerate(plan):
        entry, cin = x, x.shape[0]
        y = b.conv(x, cin * expand, 1, act="relu6", name=f"block{i}_expand") if expand > 1 else x
        y = b.conv(y, cin * expand, 3, stride=stride, groups=cin * expand, act="relu6", name=f"block{i}_dw")
        y = b.conv(y, out, 1, name=f"block{i}_project")
        x = b.add(y, x, name=f"block{i}_add") if stride == 1 and out == cin else y
        if i in attach:
            source = attach[i] or entry
            m = b.avgpool(source, 2 if attach[i] is None else 4, name=f"rep{i}_pool", pow2=True)
            train_rep = train == "rep"
            m = b.conv(
                m,
                m.shape[0],
                3,
                groups=1 if i == 0 else 2,
                act="relu",
                bias=False,
                trainable=train_rep,
                name=f"rep{i}_conv1",
                pow2=True,
            )
            m = b.conv(m, out, 1, bias=False, trainable=train_rep, name=f"rep{i}_conv2", pow2=True, gain=0.5)
            target = (x.shape[1], x.shape[2])
            double = target == (2 * m.shape[1], 2 * m.shape[2])
            if target != m.shape[1:]:
                m = b.resize(m, target, mode="linear" if linear and double else "nearest", name=f"rep{i}_up", pow2=True)
            x = b.add(x, m, name=f"rep{i}_add")
    x = b.conv(x, 4 * width, 1, act="relu6", name="tail")
    x = b.global_pool(x, pow2=True, name="gap")
    return b.model(b.gemm(x, classes, trainable=train != "none", name="head", dtype="int8"))


def gated() -> onnx.ModelProto:
    """Squeeze-and-excite, SiLU, a map and a product of two branches; everything that learns is in front of them."""
    b = Builder(seed=2, pow2=True)
    x = b.conv(b.input((3, 20, 20), low=0.0), 6, 3, trainable=True, name="stem")
    x = b.excite(b.product(x, b.unary(x, "Sigmoid")), trainable=True)
    x = b.product(b.unary(b.conv(x, 1, 1), "Tanh"), x)
    x = b.product(b.conv(x, 6, 3, stride=2, act="relu"), b.unary(b.conv(x, 6, 3, stride=2), "PRelu"))
    return b.model(b.gemm(b.global_pool(x, pow2=True), 5, name="head", dtype="int8", trainable=True))


UNARY = ("Sigmoid", "HardSigmoid", "Tanh", "LeakyRelu", "Elu", "Softplus", "PRelu")
"""Functions of opset 13 on."""


def random_graph(
    seed: int, *, train: bool = True, ops: int = 6, size: int | None = None, classes: int | None = None, also: Sequence[str] = ()
) -> onnx.ModelProto:
    """A random small graph with fan-out. With ``train`` the head trains, and in every second graph some convolutions do too. ``also``: further
    kinds of operations: ``unary``, ``silu``, ``product``, ``excite``, ``map``, ``take``, ``split``, ``join``."""
    rng = np.random.default_rng(seed + 10_000)
    deep = train and bool(rng.integers(2))
    b = Builder(seed, opset=int(rng.integers(13, 20)), pow2=deep)
    size = size or int(rng.integers(6, 12))
    x = b.input((int(rng.integers(1, 5)), size, size), low=0.0 if deep else -1.0)
    live = [x]
    acts: list[Act] = [None, "relu", "relu6", (-0.5, 0.75)]

    def conv(x: Value) -> Value:
        kernel, cin = int(rng.choice([1, 2, 3, 5])), x.shape[0]
        stride = int(rng.choice([1, 2])) if min(x.shape[1:]) >= 6 else 1
        kind = rng.choice(["dense", "depthwise", "grouped"])
        groups = cin if kind == "depthwise" else (2 if kind == "grouped" and cin % 2 == 0 else 1)
        out = cin * int(rng.choice([1, 2]) if cin <= 6 else 1) if kind == "depthwise" else groups * int(rng.integers(1, 6))
        pads = [int(rng.integers(0, (kernel + 1) // 2 + 1)) if kernel > 1 else 0 for _ in range(4)]
        if any(d + p < kernel for d, p in zip(x.shape[1:], (pads[0] + pads[2], pads[1] + pads[3]), strict=True)):
            pads = None
        act = acts[int(rng.integers(len(acts)))]
        chosen = deep and kind != "depthwise" and bool(rng.integers(2))
        return b.conv(
            x, out, kernel, stride=stride, pads=pads, groups=groups, act=act, trainable=chosen, per_channel=bool(rng.integers(2)),
            bias=bool(rng.integers(2)),
        )  # fmt: skip

    for _ in range(ops):
        x = live[-1] if rng.random() < 0.7 else live[int(rng.integers(len(live)))]
        h = min(x.shape[1:])
        kind = rng.choice(
            [
                "conv",
                "conv",
                "conv",
                "add",
                "add",
                "add",
                "concat",
                "mul",
                "avg",
                "max",
                "nearest",
                "linear",
                "concat",
                "act",
                "pad",
                "requant",
                *also,
            ]
        )
        same = [v for v in live if v.shape == x.shape and v.name != x.name]
        near = [v for v in live if v.shape[1:] == x.shape[1:] and v.name != x.name]
        if kind == "add" and same:
            y = b.add(x, same[int(rng.integers(len(same)))], act=acts[int(rng.integers(2))])
        elif kind == "concat" and near and x.shape[0] < 10:
            y = b.concat([x, near[int(rng.integers(len(near)))]])
        elif kind == "mul":
            y = b.mul(x, rng.uniform(0.4, 1.6, x.shape[0]) * rng.choice([-1, 1], x.shape[0]) if rng.integers(2) else 0.7)
        elif kind == "avg" and h >= 4:
            y = b.avgpool(x, int(rng.integers(2, 4)), int(rng.integers(1, 3)))
        elif kind == "max" and h >= 4:
            y = b.maxpool(x, int(rng.integers(2, 4)), int(rng.integers(1, 3)), pads=(1, 0, 1, 1))
        elif kind == "nearest" and h <= 8:
            try:
                y = b.resize(x, (x.shape[1] + int(rng.integers(1, 8)), x.shape[2] + int(rng.integers(1, 8))))
            except ValueError:
                y = b.resize(x, (2 * x.shape[1], x.shape[2]))
        elif kind == "linear" and h <= 6:
            y = b.resize(x, (2 * x.shape[1], 2 * x.shape[2]), mode="linear")
        elif kind == "act":
            y = b.activation(x, acts[int(rng.integers(1, 4))])
        elif kind == "pad" and h <= 10:
            y = b.pad(x, [int(v) for v in rng.integers(0, 3, 4)])
        elif kind == "requant":
            y = b.requantize(x)
        elif kind == "unary":
            y = b.unary(x, str(rng.choice(UNARY)))
        elif kind == "silu":
            y = b.product(x, b.unary(x, "Sigmoid")) if rng.integers(2) else b.product(b.unary(x, "Tanh"), b.unary(x, "HardSwish"))
        elif kind == "product" and same:
            y = b.product(x, same[int(rng.integers(len(same)))], act=acts[int(rng.integers(2))])
        elif kind == "excite":
            y = b.excite(x, gate=str(rng.choice(["Sigmoid", "HardSigmoid"])), trainable=deep)
        elif kind == "take":
            axis = int(rng.integers(1, 4))
            n = x.data.shape[axis]
            first = int(rng.integers(0, n // 2 + 1)) if n > 1 else 0
            y = b.take(x, axis, first, int(rng.choice([n, 2**31 - 1, max(first + 1, n - 1)])), int(rng.integers(1, 3)))
        elif kind == "split" and x.data.shape[(axis := int(rng.integers(1, 4)))] > 1:
            left, y = b.split(x, axis, int(rng.integers(1, x.data.shape[axis])))
            live.append(left)
        elif kind == "join" and h <= 8:
            y = b.concat(
                [x, same[int(rng.integers(len(same)))] if same else x, x][: int(rng.integers(2, 4))], int(rng.integers(2, 4))
            )
        elif kind == "map":
            y = b.product(b.unary(b.conv(x, 1, 1), "Sigmoid"), x)
        else:
            y = conv(x)
        live.append(y)
    # What no operator has read yet joins the last value where the planes agree; the rest is pruned.
    x, read = live[-1], {name for node in b.nodes for name in node.input}
    leaves = [v for v in live[:-1] if v.name not in read and v.shape[1:] == x.shape[1:]]
    x = b.concat([x, *leaves]) if leaves else x
    ending = rng.choice(["gap", "mean", "flatten"])
    if ending == "flatten" and x.data[0].size <= 600 and (not train or deep):
        x = b.flatten(x, reshape=bool(rng.integers(2)))
    else:
        x = b.global_pool(x, reduce_mean=ending == "mean", pow2=train)
    classes = classes or int(rng.integers(2, 8))
    return b.model(b.gemm(x, classes, matmul=bool(rng.integers(2)), trainable=train, name="head", dtype="int8"))
