"""Reads a QDQ ONNX graph into whole-layer operations. Part of the golden model (see golden.py); onnx and numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from golden_functions import CURVES, Curve, bounds, chain, constant, prelu, product, stored, table
from onnx import numpy_helper

__all__ = ["Graph", "Op", "Quant", "Weights", "read"]

_SHAPE_OPS = {"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity"}


@dataclass(frozen=True)
class Quant:
    """Quantisation of a tensor after int8 with z = -128 became uint8 with z = 0: real = scale (q - zero), lo <= q <= hi."""

    scale: float
    zero: int
    lo: int
    hi: int


@dataclass(frozen=True)
class Weights:
    """int8 [kh, kw, Cin/g, N], weight scales [N], bias int [N] (in units of s_x s_w)."""

    q: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float64]
    bias: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Op:
    """A main node with the activation and the Q behind it. ``mask_lo``/``mask_hi``: bounds that an activation set, else None."""

    kind: str
    name: str
    position: int
    inputs: tuple[str, ...]
    output: str
    lo: int
    hi: int
    mask_lo: int | None = None
    mask_hi: int | None = None
    attrs: dict[str, Any] = field(default_factory=dict)
    weights: Weights | None = None

    @property
    def multiplies(self) -> bool:
        """Whether this is a layer with weights in an array (Conv, Gemm, MatMul)."""
        return self.weights is not None


@dataclass
class Graph:
    """The operations in an executable order, the tensors' quantisations, other names of the same tensors, and the ends."""

    ops: list[Op] = field(default_factory=list)
    quants: dict[str, Quant] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    input: str = ""
    input_quant: tuple[float, int, np.dtype] = (0.0, 0, np.dtype(np.int8))
    output: str = ""


@dataclass(frozen=True)
class _Const:
    """A constant: real values, and the integers and scales when it came through a DequantizeLinear."""

    real: npt.NDArray
    q: npt.NDArray | None = None
    scale: npt.NDArray | None = None
    axis: int = 0


@dataclass(frozen=True)
class _Tensor:
    """A dequantised tensor."""

    name: str


@dataclass(frozen=True)
class _Pending:
    """A main operation before its Q; bounds of the activations met so far, in real units."""

    kind: str
    node: onnx.NodeProto
    position: int
    inputs: tuple[str, ...]
    attrs: dict[str, Any]
    weight: _Const | None = None
    bias: _Const | None = None
    low: float | None = None
    high: float | None = None
    curve: Curve | None = None


class _Reader:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = Graph()
        self.model = model.graph
        self.values: dict[str, _Const | _Tensor | _Pending] = {
            i.name: _Const(numpy_helper.to_array(i)) for i in self.model.initializer
        }
        self.stored: dict[str, str] = {}  # Q output -> tensor
        (source,) = [i.name for i in self.model.input if i.name not in self.values]
        self.source = source

    def read(self) -> Graph:
        for position, node in enumerate(self.model.node):
            method = getattr(self, f"_{node.op_type.lower()}", None)
            if node.op_type in _SHAPE_OPS:
                method = self._shape
            if node.op_type in CURVES:
                method = self._curve
            if method is None:
                raise NotImplementedError(f"{node.name}: {node.op_type}")
            result = method(node, position)
            if result is not None:
                self.values[node.output[0]] = result
        last = self.model.output[0].name
        if last in self.stored:
            self.graph.output = self.stored[last]
        else:
            value = self.values[last]
            if not isinstance(value, _Tensor):
                raise NotImplementedError("the graph's output is not quantised")
            self.graph.output = value.name
        return self.graph

    # -- helpers ------------------------------------------------------------------------------------------------------------

    def _const(self, node: onnx.NodeProto, index: int) -> npt.NDArray | None:
        if index >= len(node.input) or not node.input[index]:
            return None
        value = self.values[node.input[index]]
        if not isinstance(value, _Const):
            raise NotImplementedError(f"{node.name}: input {index} is not constant")
        return value.real

    def _tensor(self, name: str, node: onnx.NodeProto) -> str:
        value = self.values[name]
        if not isinstance(value, _Tensor):
            raise NotImplementedError(f"{node.name}: input {name} is not a dequantised tensor")
        return value.name

    @staticmethod
    def _attrs(node: onnx.NodeProto) -> dict[str, Any]:
        found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        return {k: v.decode() if isinstance(v, bytes) else v for k, v in found.items()}

    def _emit(self, op: Op, quant: Quant) -> None:
        self.graph.ops.append(op)
        self.graph.quants[op.output] = quant

    def _keep(self, kind: str, node: onnx.NodeProto, position: int, output: int = 0, **attrs: object) -> _Tensor:
        """An operation that keeps scale and zero point; its tensor bears the float name until a Q names it."""
        x, out = self._tensor(node.input[0], node), node.output[output]
        quant = self.graph.quants[x]
        self._emit(Op(kind, node.name, position, (x,), out, quant.lo, quant.hi, attrs=attrs), quant)
        return _Tensor(out)

    # -- quantisation -------------------------------------------------------------------------------------------------------

    def _quantizelinear(self, node: onnx.NodeProto, position: int) -> _Const | None:
        scale = np.asarray(self._const(node, 1))
        zero = self._const(node, 2)
        zero = np.zeros((), np.uint8) if zero is None else zero
        info = np.iinfo(zero.dtype)
        value = self.values.get(node.input[0])
        if isinstance(value, _Const):
            axis = int(self._attrs(node).get("axis", 1))
            s, z = (_along(a, value.real.ndim, axis) for a in (scale, zero))
            q = np.clip(np.rint(value.real.astype(np.float32) / s) + z, info.min, info.max).astype(zero.dtype)
            return _Const(q)
        if scale.size != 1:
            raise NotImplementedError(f"{node.name}: activations are quantised per tensor")
        s, z = float(scale.reshape(())), int(zero.reshape(()))
        shift = 128 if (info.min, z) == (-128, -128) else 0
        quant = Quant(s, z + shift, info.min + shift, info.max + shift)
        out = node.output[0]
        if node.input[0] == self.source:
            self.graph.input, self.graph.input_quant = out, (s, z, zero.dtype)
            self.graph.quants[out] = quant
        elif isinstance(value, _Tensor):
            self._close(_Pending("rescale", node, position, (value.name,), {"factor": np.ones(1)}), out, quant)
        elif isinstance(value, _Pending):
            self._close(value, out, quant)
        else:
            raise NotImplementedError(f"{node.name}: quantises {node.input[0]}")
        self.stored.setdefault(out, out)
        return None

    def _close(self, p: _Pending, out: str, quant: Quant) -> None:
        """Turn the pending operation ``p`` with output type ``quant`` into an Op."""
        if p.curve is not None:
            p = replace(p, attrs={"table": table(p.curve, quant.scale, quant.zero, quant.lo, quant.hi), "slope": p.curve[1]})
        lo, hi = quant.lo, quant.hi
        mask_lo = mask_hi = None
        low, high = p.low, p.high
        if quant.zero == quant.lo and (low is None or low < 0) and self._signed(p):
            low = 0.0  # the ReLU that was left out because the Q does its work
            if high is None and _bound(6.0, quant) == quant.hi:
                high = 6.0  # or a ReLU6, where the Q ends
        if low is not None:
            bound = _bound(low, quant)
            if bound >= quant.lo:
                lo = mask_lo = min(bound, quant.hi)
        if high is not None:
            bound = _bound(high, quant)
            if bound <= quant.hi:
                hi = mask_hi = max(bound, quant.lo)
        same = p.kind == "rescale" and (p.attrs["factor"] == 1).all() and self.graph.quants[p.inputs[0]] == quant
        if same and mask_lo is mask_hi is None:
            self.graph.aliases[out] = self.stored[out] = p.inputs[0]
            return
        op = Op(p.kind, p.node.name, p.position, p.inputs, out, lo, hi, mask_lo, mask_hi, p.attrs)
        if p.weight is not None:
            op = replace(op, weights=self._weights(p))
        self._emit(op, quant)

    def _signed(self, p: _Pending) -> bool:
        """Whether the operation's result may lie below zero."""
        if p.kind in ("table", "concat", "constant"):
            return False
        inputs = [self.graph.quants[name] for name in p.inputs]
        return p.weight is not None or any(q.zero > q.lo for q in inputs) or bool((p.attrs.get("factor", np.ones(1)) < 0).any())

    def _weights(self, p: _Pending) -> Weights:
        w = p.weight
        if w is None or w.q is None or w.scale is None or w.q.dtype != np.int8:
            raise NotImplementedError(f"{p.node.name}: weights must be int8 behind a DequantizeLinear")
        if p.kind == "conv":
            q, axis = w.q.transpose(2, 3, 1, 0), 0
        else:
            transposed = bool(p.attrs.get("transB", 0))
            q, axis = (w.q.T if transposed else w.q)[None, None], 0 if transposed else 1
        if w.scale.size > 1 and w.axis % w.q.ndim != axis:
            raise NotImplementedError(f"{p.node.name}: weight scales must go along the output channels")
        n = q.shape[3]
        scales = np.broadcast_to(w.scale.astype(np.float64).reshape(-1), (n,)).copy()
        unit = self.graph.quants[p.inputs[0]].scale * scales
        bias = np.zeros(n, np.int64)
        if p.bias is not None:
            real = np.broadcast_to(p.bias.real.astype(np.float64).reshape(-1), (n,))
            bias = np.rint(real / unit).astype(np.int64)
            if p.bias.q is not None and p.bias.scale is not None:
                same = np.abs(p.bias.scale.astype(np.float64).reshape(-1) / unit - 1) < 2.0**-20
                bias = np.where(same, p.bias.q.reshape(-1), bias).astype(np.int64)
        return Weights(q.astype(np.int8), scales, bias)

    def _dequantizelinear(self, node: onnx.NodeProto, position: int) -> _Const | _Tensor:
        if node.input[0] in self.stored:
            return _Tensor(self.stored[node.input[0]])
        value = self.values.get(node.input[0])
        if not isinstance(value, _Const):
            if node.input[0] == self.graph.input:
                return _Tensor(self.graph.input)
            raise NotImplementedError(f"{node.name}: dequantises {node.input[0]}")
        scale, zero = np.asarray(self._const(node, 1)), self._const(node, 2)
        axis = int(self._attrs(node).get("axis", 1))
        if zero is not None and zero.any():
            raise NotImplementedError(f"{node.name}: a constant with a zero point")
        real = value.real.astype(np.float64) * _along(scale.astype(np.float64), value.real.ndim, axis)
        return _Const(real, value.real, scale, axis)

    # -- operators ----------------------------------------------------------------------------------------------------------

    def _constant(self, node: onnx.NodeProto, position: int) -> _Const:
        value = next(iter(self._attrs(node).values()))
        return _Const(numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value))

    def _multiply(self, kind: str, node: onnx.NodeProto, position: int, attrs: dict[str, Any]) -> _Pending:
        weight = self.values[node.input[1]]
        bias = self.values[node.input[2]] if len(node.input) > 2 and node.input[2] else None
        if not isinstance(weight, _Const) or not (bias is None or isinstance(bias, _Const)):
            raise NotImplementedError(f"{node.name}: weights and bias must be constant")
        return _Pending(kind, node, position, (self._tensor(node.input[0], node),), attrs, weight, bias)

    def _conv(self, node: onnx.NodeProto, position: int) -> _Pending:
        pending = self._multiply("conv", node, position, self._attrs(node))
        before = next((op for op in self.graph.ops if op.output == pending.inputs[0] and op.kind == "pad"), None)
        if before is None or before.attrs["fill"] != self.graph.quants[before.output].zero or "auto_pad" in pending.attrs:
            return pending
        pads = [a + b for a, b in zip(pending.attrs.get("pads", [0] * 4), before.attrs["pads"], strict=True)]
        return replace(pending, inputs=before.inputs, attrs={**pending.attrs, "pads": pads})

    def _gemm(self, node: onnx.NodeProto, position: int) -> _Pending:
        attrs = self._attrs(node)
        if attrs.get("transA", 0) or attrs.get("alpha", 1.0) != 1 or attrs.get("beta", 1.0) != 1:
            raise NotImplementedError(f"{node.name}: Gemm with transA, alpha or beta")
        return self._multiply("gemm", node, position, attrs)

    def _matmul(self, node: onnx.NodeProto, position: int) -> _Pending:
        if isinstance(self.values[node.input[1]], _Tensor):
            return _Pending("matmul", node, position, tuple(self._tensor(n, node) for n in node.input), {})
        return self._multiply("gemm", node, position, {})

    def _add(self, node: onnx.NodeProto, position: int) -> _Pending:
        a, b = (self.values[n] for n in node.input)
        if isinstance(a, _Const):
            a, b = b, a
        if (
            isinstance(a, _Pending)
            and isinstance(b, _Const)
            and a.weight is not None
            and a.bias is None
            and a.low is a.high is None
        ):
            return replace(a, bias=b)
        minus = node.op_type == "Sub"
        return _Pending(
            "add", node, position, tuple(self._tensor_or_constant(n, node, position) for n in node.input), {"minus": minus}
        )

    def _sub(self, node: onnx.NodeProto, position: int) -> _Pending:
        if any(isinstance(v := self.values[n], _Const) and v.q is None for n in node.input):
            raise NotImplementedError(f"{node.name}: Sub of constants")
        return self._add(node, position)

    def _tensor_or_constant(self, name: str, node: onnx.NodeProto, position: int) -> str:
        """A constant that came through a DequantizeLinear is a tensor, too."""
        value = self.values[name]
        if not isinstance(value, _Const):
            return self._tensor(name, node)
        if value.q is None or value.scale is None or value.scale.size != 1:
            raise NotImplementedError(f"{node.name}: a constant tensor of real values")
        info = np.iinfo(value.q.dtype)
        op = Op(
            "constant", f"{node.name}:{name}", position, (), name, info.min, info.max, attrs={"values": value.q.astype(np.int64)}
        )
        self._emit(op, Quant(float(value.scale.reshape(())), 0, info.min, info.max))
        return name

    def _mul(self, node: onnx.NodeProto, position: int) -> _Pending:
        x, c = (self.values[n] for n in node.input)
        if isinstance(x, _Const):
            x, c = c, x
        if not isinstance(c, _Const):
            return self._product(node, position)
        if isinstance(x, _Pending) and x.curve is not None and c.real.size == 1:
            return self._table(node, position, x.inputs[0], chain(x.curve, constant(float(c.real.reshape(())))))
        if not isinstance(x, _Tensor) or not isinstance(c, _Const):
            raise NotImplementedError(f"{node.name}: Mul of a tensor by constants only")
        factor = c.real.astype(np.float64)
        if factor.size > 1 and factor.size != factor.shape[max(factor.ndim - 3, 0) if factor.ndim >= 3 else -1]:
            raise NotImplementedError(f"{node.name}: Mul by one constant or one a channel")
        return _Pending("rescale", node, position, (x.name,), {"factor": factor.reshape(-1)})

    def _activation(self, node: onnx.NodeProto, position: int, low: float | None, high: float | None) -> _Pending:
        value = self.values[node.input[0]]
        if isinstance(value, _Pending) and value.curve is not None:
            limits = bounds(-np.inf if low is None else low, np.inf if high is None else high)
            return self._table(node, position, value.inputs[0], chain(value.curve, limits))
        if isinstance(value, _Tensor):
            value = _Pending("rescale", node, position, (value.name,), {"factor": np.ones(1)})
        if not isinstance(value, _Pending):
            raise NotImplementedError(f"{node.name}: activation of a constant")
        lows = [v for v in (value.low, low) if v is not None]
        highs = [v for v in (value.high, high) if v is not None]
        return replace(value, low=max(lows, default=None), high=min(highs, default=None))

    def _relu(self, node: onnx.NodeProto, position: int) -> _Pending:
        return self._activation(node, position, 0.0, None)

    def _clip(self, node: onnx.NodeProto, position: int) -> _Pending:
        attrs = self._attrs(node)
        low, high = self._const(node, 1), self._const(node, 2)
        low = attrs.get("min") if low is None else float(low.reshape(()))
        high = attrs.get("max") if high is None else float(high.reshape(()))
        return self._activation(node, position, low, high)

    def _table(self, node: onnx.NodeProto, position: int, x: str, curve: Curve) -> _Pending:
        return _Pending("table", node, position, (x,), {}, curve=curve)

    def _known(self, name: str) -> tuple[str, Curve] | None:
        """The tensor a real value is a function of, and the function."""
        value = self.values[name]
        if isinstance(value, _Tensor):
            q = self.graph.quants[value.name]
            return value.name, stored(q.scale, q.zero, q.lo, q.hi)
        return (value.inputs[0], value.curve) if isinstance(value, _Pending) and value.curve is not None else None

    def _curve(self, node: onnx.NodeProto, position: int) -> _Pending:
        known = self._known(node.input[0])
        if known is None:
            raise NotImplementedError(f"{node.name}: {node.op_type} of what is not stored")
        return self._table(node, position, known[0], chain(known[1], CURVES[node.op_type](**self._attrs(node))))

    def _prelu(self, node: onnx.NodeProto, position: int) -> _Pending:
        known, c = self._known(node.input[0]), self._const(node, 1)
        if known is None or c is None:
            raise NotImplementedError(f"{node.name}: PRelu")
        return self._table(node, position, known[0], chain(known[1], prelu(c.astype(np.float64).reshape(-1))))

    def _product(self, node: onnx.NodeProto, position: int) -> _Pending:
        a, b = (self._known(n) for n in node.input)
        if a is not None and b is not None and a[0] == b[0]:
            return self._table(node, position, a[0], product(a[1], b[1]))
        return _Pending("product", node, position, tuple(self._tensor(n, node) for n in node.input), {})

    def _averagepool(self, node: onnx.NodeProto, position: int) -> _Pending:
        attrs = self._attrs(node)
        padded = any(attrs.get("pads", [0])) or attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        if attrs.get("ceil_mode", 0) or (padded and not attrs.get("count_include_pad", 0)):
            raise NotImplementedError(f"{node.name}: average pool with ceil_mode, or padding that does not count")
        return _Pending("avgpool", node, position, (self._tensor(node.input[0], node),), attrs)

    def _globalaveragepool(self, node: onnx.NodeProto, position: int) -> _Pending:
        return _Pending("globalpool", node, position, (self._tensor(node.input[0], node),), {"keepdims": 1})

    def _reducemean(self, node: onnx.NodeProto, position: int) -> _Pending:
        attrs = self._attrs(node)
        axes = self._const(node, 1)
        axes = attrs.get("axes") if axes is None else axes.tolist()
        if axes is None or sorted(a % 4 for a in axes) != [2, 3]:
            raise NotImplementedError(f"{node.name}: ReduceMean over the two spatial axes only")
        x = self._tensor(node.input[0], node)
        return _Pending("globalpool", node, position, (x,), {"keepdims": attrs.get("keepdims", 1)})

    def _maxpool(self, node: onnx.NodeProto, position: int) -> _Tensor:
        attrs = self._attrs(node)
        if attrs.get("ceil_mode", 0):
            raise NotImplementedError(f"{node.name}: ceil_mode")
        return self._keep("maxpool", node, position, **attrs)

    def _resize(self, node: onnx.NodeProto, position: int) -> _Pending:
        attrs = self._attrs(node)
        mode, how = attrs.get("mode", "nearest"), attrs.get("coordinate_transformation_mode", "half_pixel")
        scales, sizes = self._const(node, 2), self._const(node, 3)
        if mode == "nearest" and (how, attrs.get("nearest_mode", "round_prefer_floor")) != ("asymmetric", "floor"):
            raise NotImplementedError(f"{node.name}: nearest needs asymmetric and floor")
        if mode != "nearest" and (mode, how) != ("linear", "half_pixel"):
            raise NotImplementedError(f"{node.name}: Resize {mode} {how}")
        how = {"scales": None if scales is None or not scales.size else scales, "sizes": sizes}
        return _Pending(mode, node, position, (self._tensor(node.input[0], node),), how)

    def _concat(self, node: onnx.NodeProto, position: int) -> _Pending:
        axis = self._attrs(node)["axis"]
        inputs = tuple(self._tensor_or_constant(n, node, position) for n in node.input)
        return _Pending("concat", node, position, inputs, {"axis": axis})

    def _layernormalization(self, node: onnx.NodeProto, position: int) -> _Pending:
        attrs, gamma, beta = self._attrs(node), self._const(node, 1), self._const(node, 2)
        if attrs.get("axis", -1) != -1 or gamma is None or beta is None:
            raise NotImplementedError(f"{node.name}: LayerNormalization over the last axis, with scale and bias")
        how = {"eps": float(attrs.get("epsilon", 1e-5)), "gamma": gamma.astype(np.float64), "beta": beta.astype(np.float64)}
        return _Pending("layernorm", node, position, (self._tensor(node.input[0], node),), how)

    def _slice(self, node: onnx.NodeProto, position: int) -> _Tensor:
        first, end, axes, steps = (self._const(node, i) for i in range(1, 5))
        if first is None or end is None or axes is None or (steps is not None and (steps < 1).any()) or (axes < 1).any():
            raise NotImplementedError(f"{node.name}: Slice with axes and positive steps only")
        at = {
            int(a): slice(int(f), int(e), int(s))
            for a, f, e, s in zip(axes, first, end, np.ones(len(axes), int) if steps is None else steps, strict=True)
        }
        return self._keep("slice", node, position, at=at)

    def _split(self, node: onnx.NodeProto, position: int) -> None:
        axis, sizes = int(self._attrs(node).get("axis", 0)), self._const(node, 1)
        if sizes is None or axis < 1:
            raise NotImplementedError(f"{node.name}: Split by sizes only")
        ends = np.cumsum(sizes).astype(int).tolist()
        for i, (first, end) in enumerate(zip([0, *ends], ends, strict=False)):
            self.values[node.output[i]] = self._keep("slice", node, position, i, at={axis: slice(first, end, 1)})

    def _pieces(
        self, node: onnx.NodeProto, position: int, places: Sequence[dict[int, Any]], kind: str, **attrs: object
    ) -> _Tensor:
        """Slices of one tensor, joined again. A place along an axis is a slice, or (number, of how many equal parts)."""
        x, out = self._tensor(node.input[0], node), node.output[0]
        quant, names = self.graph.quants[x], [f"{out}:{i}" for i in range(len(places))]
        for name, at in zip(names, places, strict=True):
            self._emit(Op("slice", name, position, (x,), name, quant.lo, quant.hi, attrs={"at": at}), quant)
        self._emit(Op(kind, node.name, position, tuple(names), out, quant.lo, quant.hi, attrs=attrs), quant)
        return _Tensor(out)

    def _gather(self, node: onnx.NodeProto, position: int) -> _Tensor:
        axis, c = int(self._attrs(node).get("axis", 0)), self._const(node, 1)
        if c is not None and not c.ndim and axis > 0:
            return self._keep("gather", node, position, axis=axis, index=int(c))
        if c is None or c.ndim != 1 or axis < 1 or (c < 0).any():
            raise NotImplementedError(f"{node.name}: Gather of a list of indices from 0")
        places = [{axis: slice(a, a + (n - 1) * step + 1, step)} for a, step, n in _runs(c.tolist())]
        return self._pieces(node, position, places, "concat", axis=axis)

    def _depthtospace(self, node: onnx.NodeProto, position: int) -> _Tensor:
        attrs = self._attrs(node)
        block, rows_first = int(attrs["blocksize"]), attrs.get("mode", "DCR") == "CRD"
        # block row i, column j take, of block^2 parts of the channels, that with the number i block + j: one after the other, or interleaved
        places = [{1: slice(k, None, block**2) if rows_first else (k, block**2)} for k in range(block**2)]
        return self._pieces(node, position, places, "blocks", block=block)

    def _spacetodepth(self, node: onnx.NodeProto, position: int) -> _Tensor:
        block = int(self._attrs(node)["blocksize"])
        places = [{2: slice(i, None, block), 3: slice(j, None, block)} for i in range(block) for j in range(block)]
        return self._pieces(node, position, places, "concat", axis=1)

    def _pad(self, node: onnx.NodeProto, position: int) -> _Tensor:
        attrs = self._attrs(node)
        pads, value = self._const(node, 1), self._const(node, 2)
        if attrs.get("mode", "constant") != "constant" or pads is None or len(pads) != 8 or pads[[0, 1, 4, 5]].any():
            raise NotImplementedError(f"{node.name}: Pad with a constant along the spatial axes only")
        quant = self.graph.quants[self._tensor(node.input[0], node)]
        fill = 0.0 if value is None else float(value.reshape(()))
        return self._keep("pad", node, position, pads=[int(v) for v in pads[[2, 3, 6, 7]]], fill=_bound(fill, quant))

    def _shape(self, node: onnx.NodeProto, position: int) -> _Const | _Tensor:
        value = self.values[node.input[0]]
        attrs = self._attrs(node)
        if isinstance(value, _Const) and node.op_type == "Identity":
            return value
        target = self._const(node, 1)
        return self._keep("shape", node, position, **attrs, op=node.op_type, target=None if target is None else target.tolist())

    def _softmax(self, node: onnx.NodeProto, position: int) -> _Tensor | _Pending:
        """At the end it is the host's."""
        x, at = self._tensor(node.input[0], node), {node.output[0]}
        for after in self.model.node:
            if at & set(after.input):
                if after.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                    return _Pending("softmax", node, position, (x,), {})
                at |= set(after.output)
        return _Tensor(x)

    def _argmax(self, node: onnx.NodeProto, position: int) -> _Tensor:
        return _Tensor(self._tensor(node.input[0], node))


def _runs(at: list[int]) -> list[tuple[int, int, int]]:
    """First, step and number of the runs of indices with one positive step; a run of two with a larger step than 1 is cut where another follows."""
    runs: list[tuple[int, int, int]] = []
    while at:
        n, step = 1, at[1] - at[0] if len(at) > 1 else 1
        while step > 0 and n < len(at) and at[n] - at[n - 1] == step:
            n += 1
        n = 1 if n == 2 < len(at) and step > 1 else n
        runs.append((at[0], step if n > 1 else 1, n))
        at = at[n:]
    return runs


def _along(a: npt.NDArray, rank: int, axis: int) -> npt.NDArray:
    """``a`` shaped so that it broadcasts along ``axis`` of a tensor of ``rank``."""
    return a.reshape(()) if a.size == 1 else a.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def _bound(real: float, quant: Quant) -> int:
    """A real bound in the tensor's integers: round_half_even(r / s) + z; far bounds (also infinite ones) stay far."""
    return int(np.rint(np.clip(np.float64(real) / quant.scale, -1e9, 1e9))) + quant.zero


def read(model: onnx.ModelProto) -> Graph:
    """The graph of ``model``; NotImplementedError names a node that the golden model does not know."""
    return _Reader(model).read()
