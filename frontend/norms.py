"""Layer norms that an exporter wrote out: mean, difference, square, mean, root and quotient become one LayerNormalization again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper

from sasimc.frontend.state import Unsupported, tensor_array

__all__ = ["as_layer_norms", "with_layer_norms"]

_FIRST_OPSET = 17
_OPERANDS = {"Add": (2,), "Div": (2,), "Mul": (2,), "Pow": (2,), "Sub": (2,), "Sqrt": (1,), "ReduceMean": (1, 2)}


def as_layer_norms(nodes: Sequence[NodeProto], model: ModelProto) -> list[NodeProto]:
    """The nodes with every ``(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * scale + bias`` over the last axis as one node; ``nodes`` are those of the
    model, in order. Nothing that anything else reads vanishes."""
    nodes = list(nodes)
    found = _Norms(nodes, model)
    made = [norm for node in nodes if node.op_type == "Div" and (norm := found.at(node)) is not None]
    gone = {name for _, names in made for name in names}
    last = {norm.output[0]: norm for norm, _ in made}
    kept = (last.get(node.output[0], node) if node.output else node for node in nodes)
    return [node for node in kept if not (node.output and node.output[0] in gone)]


def with_layer_norms(model: ModelProto) -> ModelProto:
    """The model with its layer norms as single nodes, of the first opset that has them where it was older."""
    nodes = as_layer_norms(model.graph.node, model)
    if len(nodes) == len(model.graph.node):
        return model
    changed = ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    for entry in changed.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = max(entry.version, _FIRST_OPSET)
    return changed


class _Norms:
    def __init__(self, nodes: Sequence[NodeProto], model: ModelProto) -> None:
        self.tensors: dict[str, TensorProto] = {i.name: i for i in model.graph.initializer if _small(i.dims)}
        self.constant = {i.name for i in model.graph.initializer}
        self.maker: dict[str, NodeProto] = {}
        self.readers: dict[str, list[NodeProto]] = {}
        self.outputs = {o.name for o in model.graph.output}
        for node in nodes:
            if node.op_type == "Constant":
                self.tensors |= {name: a.t for name in node.output for a in node.attribute if a.name == "value"}
            if all(name in self.constant for name in node.input if name):
                self.constant.update(node.output)
            for name in set(node.input):
                self.readers.setdefault(name, []).append(node)
            self.maker.update(dict.fromkeys(node.output, node))

    def at(self, div: NodeProto) -> tuple[NodeProto, list[str]] | None:
        """The layer norm whose quotient this is, and the outputs that vanish with it."""
        if not _well_formed(div):
            return None
        difference, root = div.input
        sub, sqrt = self._made(difference, "Sub"), self._made(root, "Sqrt")
        add = self._made(sqrt.input[0], "Add") if sqrt else None
        spread, eps = self._and_constant(add)
        mean = self._made(spread, "ReduceMean")
        square = self._made(mean.input[0], "Pow", "Mul") if mean and self._last_axis(mean) else None
        if (
            sub is None
            or sqrt is None
            or add is None
            or mean is None
            or square is None
            or eps is None
            or eps.size != 1
            or eps.dtype.kind not in "fiu"
        ):
            return None
        first = self._made(sub.input[1], "ReduceMean")
        exponent = self._value(square.input[1]) if square.op_type == "Pow" else None
        squared = square.input[0] == difference and (
            square.input[1] == difference or (exponent is not None and exponent.size > 0 and np.all(exponent == 2))
        )
        if first is None or first.input[0] != sub.input[0] or not self._last_axis(first) or not squared:
            return None
        inner = [first, sub, square, mean, add, sqrt]
        scale, gamma = self._following(div, "Mul")
        if scale is None:
            return None
        shift, beta = self._following(scale, "Add")
        end = shift or scale
        inner += [div] if shift is None else [div, scale]
        if not self._closed(inner, end):
            return None
        norm = helper.make_node(
            "LayerNormalization", [sub.input[0], gamma, *([beta] if beta else [])], [end.output[0]], end.name or f"LayerNorm_{end.output[0]}",
            axis=-1, epsilon=float(eps.ravel()[0]),
        )  # fmt: skip
        return norm, [node.output[0] for node in inner]

    def _made(self, value: str, *operators: str) -> NodeProto | None:
        node = self.maker.get(value)
        return node if node is not None and node.op_type in operators and _well_formed(node) else None

    def _value(self, name: str) -> npt.NDArray[np.generic] | None:
        """A small constant; None where there is none, or numpy cannot hold it."""
        try:
            return tensor_array(self.tensors[name]) if name in self.tensors else None
        except Unsupported:
            return None

    def _and_constant(self, add: NodeProto | None) -> tuple[str, npt.NDArray[np.generic] | None]:
        if add is None:
            return "", None
        for value, other in (add.input, add.input[::-1]):
            if (found := self._value(other)) is not None:
                return value, found
        return "", None

    def _last_axis(self, mean: NodeProto) -> bool:
        attrs = {a.name: a for a in mean.attribute}
        axes = self._value(mean.input[1]) if len(mean.input) > 1 else np.array(attrs["axes"].ints if "axes" in attrs else ())
        return axes is not None and axes.ravel().tolist() == [-1] and ("keepdims" not in attrs or attrs["keepdims"].i == 1)

    def _following(self, node: NodeProto, operator: str) -> tuple[NodeProto | None, str]:
        """The one reader of a node if it is such an operator with a constant, and the constant."""
        readers = self.readers.get(node.output[0], [])
        if len(readers) != 1 or readers[0].op_type != operator or not _well_formed(readers[0]) or node.output[0] in self.outputs:
            return None, ""
        others = [name for name in readers[0].input if name != node.output[0]]
        return (readers[0], others[0]) if len(others) == 1 and others[0] in self.constant else (None, "")

    def _closed(self, inner: Iterable[NodeProto], end: NodeProto) -> bool:
        """Whether nobody else reads what vanishes."""
        names = {node.output[0] for node in (*inner, end)}
        return all(
            node.output[0] not in self.outputs
            and all(names.issuperset(r.output or [""]) for r in self.readers.get(node.output[0], []))
            for node in inner
        )


def _well_formed(node: NodeProto) -> bool:
    """Whether one of the operators of a layer norm has the operands and the result that it must have; what has not is refused where it is read."""
    return node.domain in ("", "ai.onnx") and len(node.output) == 1 and len(node.input) in _OPERANDS[node.op_type]


def _small(dims: Iterable[int]) -> bool:
    return int(np.prod(list(dims), dtype=np.int64)) <= 1
