"""What the importer knows while it walks an ONNX graph: constants, activations with their axes, operations made so far, findings.

An activation of any ONNX rank is one stored (H, W, C) value whose type says which axes of the ONNX tensor its elements are
(:mod:`sasimc.ir.layout`). Reshape, Transpose, Flatten, Squeeze and Unsqueeze change the layout alone; what reads an activation asks for
the form it needs (``plane``, ``vector``, ``pixels``) and brings constants into stored order with ``channels`` and ``order``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from sasimc.ir.graph import Attr, Op, Shape, TensorType
from sasimc.ir.layout import Layout

__all__ = [
    "CUT",
    "NO_BATCH",
    "Act",
    "Const",
    "Finding",
    "Importer",
    "QConst",
    "Unsupported",
    "Varies",
    "handler",
    "handles",
    "node_name",
    "supported_operators",
    "tensor_array",
    "type_name",
]

CUT = "end the network in front of it and compute the rest on the host"
"""What to do where nothing equal is known."""
Array = npt.NDArray[Any]
MAX_ELEMENTS = 2**25  # of one activation; a larger one is a mistake in the file, not a network for this machine


@dataclass(frozen=True)
class Finding:
    """One thing that is not supported: the ONNX node, its operator, why, and the rewrite that would help."""

    node: str
    op: str
    reason: str
    rewrite: str = ""

    def __str__(self) -> str:
        return f"{self.node} ({self.op}): {self.reason}" + (f"; {self.rewrite}" if self.rewrite else "")


class Unsupported(Exception):
    """Raised by a handler: reason and rewrite of one finding."""

    def __init__(self, reason: str, rewrite: str = "") -> None:
        super().__init__(reason)
        self.reason, self.rewrite = reason, rewrite


class Varies(Unsupported):
    """A constant has no one number for each channel."""


@dataclass(frozen=True, eq=False)
class QConst:
    """A quantised constant: real = scale * (q - zero), scale and zero of shape () or per element of ``axis``."""

    q: Array
    scale: npt.NDArray[np.float64]
    zero: Array
    axis: int = 0

    def _along(self, a: Array) -> Array:
        if a.ndim == 0:
            return a
        return a.reshape([-1 if i == self.axis else 1 for i in range(self.q.ndim)])

    def real(self) -> npt.NDArray[np.float64]:
        """The real values, float64."""
        return (self.q.astype(np.float64) - self._along(self.zero).astype(np.float64)) * self._along(self.scale)


Const = Array | QConst


NO_BATCH = -1
"""In place of the batch's axis, where a batch of one has none: a Reshape joined it with another axis."""


@dataclass(frozen=True)
class Act:
    """An activation: an IR value, and where the batch stands among the ONNX axes (or ``NO_BATCH``)."""

    value: str
    batch: int = 0


@dataclass(eq=False)
class Importer:
    """Mutable state of one import. Handlers read nodes through it and add operations to it."""

    opset: int
    batch: int = 1
    consts: dict[str, Const] = field(default_factory=dict)
    acts: dict[str, Act] = field(default_factory=dict)
    poisoned: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)  # IR values that stand for something unsupported
    replaced: dict[tuple[str, Shape], str] = field(default_factory=dict)  # (value, shape) -> the same elements in that shape
    values: dict[str, TensorType] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    origins: dict[str, NodeProto] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)

    # -- reading a node ---------------------------------------------------------------------------------------------

    def attrs(self, node: NodeProto) -> dict[str, Any]:
        """Attributes by name; strings decoded."""
        found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return {k: v.decode("utf-8", "replace") if isinstance(v, bytes) else v for k, v in found.items()}

    def has(self, node: NodeProto, index: int) -> bool:
        return index < len(node.input) and bool(node.input[index])

    def act(self, node: NodeProto, index: int) -> Act:
        """The activation that is input ``index``; a constant there is not supported."""
        name = node.input[index] if index < len(node.input) else ""
        if name not in self.acts:
            raise Unsupported(
                f"input {index} ({name!r}) is a constant, an activation is expected", "fold this node into a constant"
            )
        return self.acts[name]

    def floats(self, node: NodeProto, index: int) -> Act:
        """The activation that is input ``index``, of real values."""
        act = self.act(node, index)
        if self.type(act).dtype != "f32":
            raise Unsupported("computes on stored integers", "put DequantizeLinear in front and QuantizeLinear behind")
        return act

    def is_const(self, node: NodeProto, index: int) -> bool:
        return self.has(node, index) and node.input[index] in self.consts

    def const(self, node: NodeProto, index: int, what: str) -> Const:
        """The constant that is input ``index``."""
        name = node.input[index] if index < len(node.input) else ""
        if name not in self.consts:
            raise Unsupported(
                f"{what} ({name!r}) is not a constant" if name else f"{what} is missing", f"make the {what} an initialiser"
            )
        return self.consts[name]

    def real(self, node: NodeProto, index: int, what: str) -> npt.NDArray[np.float64]:
        """The constant input as finite float64."""
        c = self.const(node, index, what)
        values = c.real() if isinstance(c, QConst) else np.asarray(c, np.float64)
        if not np.isfinite(values).all():
            raise Unsupported(f"{what} has NaN or infinite elements", "repair the initialiser")
        return values

    def ints(self, node: NodeProto, index: int, what: str) -> list[int]:
        """The constant input as a flat list of integers."""
        c = self.const(node, index, what)
        if isinstance(c, QConst) or c.dtype.kind not in "iu":
            raise Unsupported(f"{what} is not an integer tensor")
        return [int(v) for v in c.ravel()]

    def scale_zero(
        self, node: NodeProto, scale: int, zero: int, default: str = "uint8", *, by_channel: bool = False
    ) -> tuple[float, int, str]:
        """Scale, zero point and IR dtype from two constant inputs, checked; of a quantisation per channel, where that may be, the largest scale."""
        s, z = self.scales(node, scale, zero, np.dtype(default))
        if not by_channel and (s.size != 1 or z.size != 1):
            raise Unsupported(
                "activation is quantised per channel", "quantise activations per tensor, or write Quantize- and DequantizeLinear"
            )
        if not s.size or not z.size or (z != z.ravel()[0]).any():
            raise Unsupported(
                "channels of an activation have different zero points", "quantise activations symmetrically, or per tensor"
            )
        if z.dtype not in (np.uint8, np.int8):
            raise Unsupported(
                f"zero point has type {z.dtype}, activations must be int8 or uint8", "quantise activations to 8 bits"
            )
        return float(s.max()), int(z.ravel()[0]), "u8" if z.dtype == np.uint8 else "i8"

    def scales(self, node: NodeProto, scale: int, zero: int, default: np.dtype[Any]) -> tuple[npt.NDArray[np.float64], Array]:
        """Scale (float64) and zero point constants; every scale must be positive and finite."""
        for index, what in ((scale, "scale"), (zero, "zero point")):
            if self.has(node, index) and node.input[index] not in self.consts:
                raise Unsupported(
                    f"{what} {node.input[index]!r} is not a constant",
                    "use static quantisation (scales as initialisers), not dynamic",
                )
        c = self.const(node, scale, "scale")
        s = np.asarray(c.real() if isinstance(c, QConst) else c, np.float64)
        if not np.isfinite(s).all():
            raise Unsupported(
                f"scale {node.input[scale]!r} is NaN or infinite", "calibrate again; a range was empty or overflowed"
            )
        if not (s > 0).all():
            raise Unsupported(f"scale {node.input[scale]!r} is zero or negative", "calibrate again; a scale must be positive")
        if not self.has(node, zero):
            return s, np.zeros(s.shape, default)
        z = self.const(node, zero, "zero point")
        return s, z.q if isinstance(z, QConst) else z

    # -- shapes -----------------------------------------------------------------------------------------------------

    def type(self, act: Act) -> TensorType:
        return self.values[act.value]

    def layout(self, act: Act) -> Layout:
        layout = self.type(act).layout
        assert layout is not None, act
        return layout

    def dims(self, act: Act) -> tuple[int, ...]:
        """ONNX shape of an activation, batch included."""
        dims = list(self.layout(act).dims)
        return tuple(dims) if act.batch == NO_BATCH else (*dims[: act.batch], self.batch, *dims[act.batch :])

    def axis(self, act: Act, axis: int) -> int:
        """The axis of the layout an ONNX axis number means."""
        rank = len(self.dims(act))
        if not -rank <= axis < rank:
            raise Unsupported(f"axis {axis} of a tensor of rank {rank}")
        axis %= rank
        if axis == act.batch:
            raise Unsupported(f"axis {axis} of {list(self.dims(act))} is the batch", "samples are independent of each other")
        return axis - (NO_BATCH < act.batch < axis)

    def _laid_out(self, act: Act, wanted: str, rewrite: str) -> Unsupported:
        t = self.type(act)
        return Unsupported(
            f"input {list(self.dims(act))} is laid out {self.layout(act).text(t.shape)!r}, expected {wanted}", rewrite
        )

    def as_shape(self, node: NodeProto, act: Act, shape: Shape) -> Act:
        """The same elements stored under another shape."""
        t = self.type(act)
        if t.shape == shape:
            return act
        key = (act.value, shape)
        if key not in self.replaced:
            out = self.fresh(f"{act.value}:{'x'.join(map(str, shape))}")
            self.replaced[key] = self.emit(node, "reshape", [act.value], out, t.with_shape(shape, t.layout), suffix=":in")
        return replace(act, value=self.replaced[key])

    def plane(self, node: NodeProto, act: Act) -> Act:
        """The activation as N x C x H x W or N x C x W (height 1), stored that way; its channels may be permuted."""
        layout = self.layout(act)
        if act.batch == 0 and 2 <= len(layout.axes) <= 3:
            c, *sizes = layout.dims
            shape = ((1, *sizes)[-2], sizes[-1], c)
            if layout.axes[1:] == Layout.planes(shape, len(layout.axes)).axes[1:]:
                return self.as_shape(node, act, shape)
        raise self._laid_out(act, "N x C x H x W or N x C x W", "only 2-D and 1-D windows over height and width are supported")

    def on_plane(self, act: Act, shape: Shape, dtype: str = "") -> TensorType:
        """The type of what an operator made of a ``plane``: the same channels, another height and width; real if ``dtype`` says so."""
        axes = Layout.planes(shape, len(self.layout(act).axes)).axes[1:]
        t = self.type(act).with_shape(shape, Layout((self.layout(act).axes[0], *axes)))
        return TensorType(dtype, shape, layout=t.layout) if dtype else t

    def vector(self, node: NodeProto, act: Act) -> Act:
        """The activation as a batch of vectors N x C, stored that way; its elements may be permuted."""
        if act.batch or len(self.layout(act).axes) != 1:
            raise self._laid_out(act, "N x C", "flatten or transpose before this node")
        return self.as_shape(node, act, (1, 1, self.type(act).size))

    def pixels(self, node: NodeProto, act: Act) -> Act:
        """The activation as channels along its last axis, for every position of the others."""
        layout = self.layout(act)
        if act.batch == len(layout.axes) or not layout.axes:
            raise self._laid_out(act, "N x ... x C", "flatten or transpose before this node")
        t, channels = self.type(act), layout.dims[-1]
        if any(stride % channels for axis in layout.axes[:-1] for _, stride in axis):
            raise self._laid_out(act, "channels along the last axis", "transpose to channels last, or use a 1 x 1 convolution")
        return self.as_shape(node, act, t.shape if t.shape[2] == channels else (1, t.size // channels, channels))

    def order(self, act: Act, axis: int) -> npt.NDArray[np.int64] | None:
        """The stored channel of each element of an axis that holds all channels; None where they are the same."""
        index = Layout((self.layout(act).axes[axis],)).index()
        return None if np.array_equal(index, np.arange(len(index))) else index

    def channels(self, act: Act, c: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """A constant that broadcasts to the activation, as one number for each stored channel."""
        dims, layout, count = self.dims(act), self.layout(act), self.type(act).shape[2]
        if c.ndim > len(dims) and any(d != 1 for d in c.shape[: c.ndim - len(dims)]):
            raise Unsupported(f"constant of shape {list(c.shape)} enlarges the activation {list(dims)}", "match the ranks")
        c = c.reshape(c.shape[c.ndim - len(dims) :] if c.ndim > len(dims) else (1,) * (len(dims) - c.ndim) + c.shape)
        if any(have not in (1, want) for have, want in zip(c.shape, dims, strict=True)):
            raise Unsupported(f"constant of shape {list(c.shape)} does not broadcast to {list(dims)}")
        if act.batch != NO_BATCH:
            if (c != np.take(c, [0], act.batch)).any():
                raise Unsupported("constant varies along the batch", "samples are independent of each other")
            c = np.take(c, 0, act.batch)
        whole = np.broadcast_to(c, layout.dims)
        # where an axis is broadcast one position of it is enough, unless it holds some of the channels
        short = Layout(
            tuple(a if d > 1 or any(s < count for _, s in a) else () for a, d in zip(layout.axes, c.shape, strict=True))
        )
        at = short.index()
        values = whole[tuple(slice(None) if a == b else slice(1) for a, b in zip(short.axes, layout.axes, strict=True))].ravel()
        found = np.empty(count)
        found[at % count] = values
        if (found[at % count] != values).any():
            raise Varies("constant varies along height or width", "only one number per channel is supported")
        return found

    # -- adding to the graph ------------------------------------------------------------------------------------------

    def unique(self, name: str) -> str:
        base, n = name, 1
        while name in self.names:
            n += 1
            name = f"{base}:{n}"
        self.names.add(name)
        return name

    def fresh(self, value: str) -> str:
        """A name no value has yet."""
        name, n = value, 1
        while name in self.values:
            n += 1
            name = f"{value}:{n}"
        return name

    def add_value(self, name: str, t: TensorType) -> str:
        if min(t.shape) < 1 or max(t.shape) > 2**20 or math.prod(t.shape) > MAX_ELEMENTS:
            raise Unsupported(f"tensor {name!r} would have shape {t.shape}", "check the shapes in the file")
        self.values[name] = t
        return name

    def emit(
        self,
        node: NodeProto,
        kind: str,
        inputs: Sequence[str],
        output: str,
        out: TensorType,
        attrs: Mapping[str, Attr] | None = None,
        consts: Mapping[str, Array] | None = None,
        suffix: str = "",
    ) -> str:
        """Add one operation that stems from ``node``; constants are stored under its name. Returns the output value."""
        self.add_value(output, out)
        label = node_name(node)
        name = self.unique(label + suffix)
        stored = {role: f"{name}.{role}" for role in consts or {}}
        self.constants.update({stored[role]: a for role, a in (consts or {}).items()})
        self.ops.append(Op(name, kind, tuple(inputs), output, dict(attrs or {}), stored, label, "import"))
        return output

    def bind(self, node: NodeProto, act: Act, value: str | None = None, index: int = 0) -> None:
        """Say which activation output ``index`` of the node is."""
        self.acts[node.output[index]] = replace(act, value=value or act.value)

    def dequantized(self, node: NodeProto, act: Act, tag: str) -> str:
        """The real value of a quantised activation (a new dequantize), for operators on stored values."""
        t = self.type(act)
        return self.emit(
            node,
            "dequantize",
            [act.value],
            f"{node.output[0]}:{tag}",
            TensorType("f32", t.shape, layout=t.layout),
            suffix=f":{tag}",
        )

    def typed(self, act: Act, scale: float, zero: int, dtype: str) -> Act:
        """The activation as an operator reads it; its stored type must be the one the operator's own scale inputs state."""
        t = self.type(act)
        if t.dtype == "f32":
            raise Unsupported("reads a float tensor as if it were quantised", "insert QuantizeLinear")
        if act.value in self.unknown:
            return act
        if (t.dtype, t.zero) != (dtype, zero) or not math.isclose(t.scale, scale, rel_tol=1e-6):
            raise Unsupported(
                f"reads {act.value!r} with scale {scale:g}, zero point {zero} ({dtype}), "
                f"which was written with {t.scale:g}, {t.zero} ({t.dtype})",
                "give both sides of a tensor the same quantisation",
            )
        return act


def node_name(node: NodeProto) -> str:
    """The node's name, or one made of its operator and output when it has none."""
    return node.name or f"{node.op_type}_{node.output[0] if node.output else ''}"


Handler = Callable[[Importer, NodeProto], None]
_HANDLERS: dict[str, Handler] = {}


def handles(*operators: str) -> Callable[[Handler], Handler]:
    """Register a handler for operators, written ``Conv`` or ``com.microsoft.QLinearAdd``."""

    def register(f: Handler) -> Handler:
        for operator in operators:
            assert operator not in _HANDLERS, operator
            _HANDLERS[operator] = f
        return f

    return register


def handler(node: NodeProto) -> Handler | None:
    """The handler of a node's operator, or None."""
    domain = "" if node.domain in ("", "ai.onnx") else node.domain + "."
    return _HANDLERS.get(domain + node.op_type)


def supported_operators() -> tuple[str, ...]:
    """Names of all operators with a handler, sorted."""
    return tuple(sorted(_HANDLERS))


def type_name(code: int) -> str:
    """Name of an ONNX element type; its number when the file makes one up."""
    names: dict[int, str] = {v: k for k, v in TensorProto.DataType.items()}
    return names.get(code, f"number {code}")


def tensor_array(tensor: TensorProto) -> Array:
    """A numpy copy of an initialiser or attribute; Unsupported for element types numpy cannot hold."""
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as e:
        raise Unsupported(f"initialiser {tensor.name!r} has an element type that cannot be read ({e})") from e
