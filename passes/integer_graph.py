"""The integer graph in the making: real values become stored ones, operator by operator."""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sasimc.ir.graph import Graph, Op, TensorType, type_range
from sasimc.passes import integer_ops
from sasimc.passes.curves import Curve, table_of
from sasimc.passes.factors import FactorError, clamp_bounds
from sasimc.passes.reals import Array, Pending, Real, View, key_of

__all__ = ["JOINS", "MOVES", "RELU6", "IntegerGraph"]

MOVES = ("maxpool", "reshape", "pad", "slice")
JOINS = ("concat", "mosaic")
RELU6 = 6.0


@dataclass(eq=False)
class IntegerGraph:
    """``graph``: the float-level one; ``values``, ``ops``, ``constants``, ``inputs`` (its own name for an input of the old graph): what there is of the new one. ``made``: what was stored
    before; ``reals``: stored constant -> its real values and its integers; ``position``: new value -> place of its main operation in the old graph (``index``)."""

    graph: Graph
    values: dict[str, TensorType] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    made: dict[Hashable, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    reals: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    index: dict[str, int] = field(default_factory=dict)
    position: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.index = {op.name: i for i, op in enumerate(self.graph.ops)}

    def _keep(self, op: Op, t: TensorType) -> str:
        """Add an operation whose constants are those of the old graph."""
        for name in op.consts.values():
            self.constants[name] = self.graph.constants[name]
        value = self._add(op, t)
        if op.kind == "reshape" and op.inputs[0] in self.reals:
            self.reals[value] = self.reals[op.inputs[0]]
        return value

    def _add(self, op: Op, t: TensorType) -> str:
        name, n = op.name, 1
        while name in self.names:
            n += 1
            name = f"{op.name}:{n}"
        self.names.add(name)
        value, n = op.output, 1
        while value in self.values:
            n += 1
            value = f"{op.output}:{n}"
        self.values[value] = t
        self.position[value] = self.index.get(op.name, self.index.get(op.name.rpartition(":")[0], len(self.index)))
        self.ops.append(replace(op, name=name, output=value, made_by="canonicalise" if op.kind not in MOVES else op.made_by))
        return value

    def _with_consts(self, op: Op, consts: dict[str, Array], t: TensorType) -> str:
        taken = any(f"{op.name}.{role}" in self.constants for role in consts)
        tag = f"{op.name}@{op.output}" if taken else op.name
        names = {role: f"{tag}.{role}" for role in consts}
        self.constants.update({names[role]: a for role, a in consts.items()})
        return self._add(replace(op, consts=names), t)

    def _moved(self, value: str, t: TensorType, moves: Sequence[Op], last: int = 0, name: str = "") -> str:
        """``value`` of the quantisation of ``t`` after the moves, the ``last`` of which gets the ``name``."""
        for i, move in enumerate(moves, 1):
            at = t.shaped_like(self.graph.type(move.output))
            value = self._keep(replace(move, inputs=(value,), output=name if i == last else move.output), at)
        return value

    def _store(self, a: Real, t: TensorType, op: Op) -> str:
        """The stored tensor of type ``t`` that holds the real value ``a``."""
        if isinstance(a, View):
            have = self.values[a.stored]
            if have.quant == t.quant:
                return a.stored
            a = Pending(replace(op, kind="rescale", consts={}), (a.stored,), origins=(op.origin,))
        assert isinstance(a, (Pending, Curve))
        key = (key_of(a), t.quant)
        if key not in self.made:
            base = a.op.output.removesuffix(":f")
            # the last value that is stored anew takes the name; what only gives axes other names behind it will vanish
            last = max((i + 1 for i, m in enumerate(a.moves) if not self._relabels(m)), default=0)
            value = self._emit(a, t.shaped_like(self._base_type(a)), op.output if last == 0 else f"{base}:q")
            self.made[key] = self._moved(value, t, a.moves, last, op.output)
        return self.made[key]

    def _emit(self, a: Pending | Curve, t: TensorType, output: str) -> str:
        origins = ",".join(dict.fromkeys(o for part in (*a.origins, a.op.origin) for o in part.split(",") if o))
        if isinstance(a, Curve):
            return self._with_consts(Op(a.op.name, "lut", (a.source,), output, {}, {}, origins), table_of(a, t), t)
        if a.op.kind in JOINS:
            parts = [self._store(p, t.shaped_like(self._real_type(p)), _part(a.op, i, output)) for i, p in enumerate(a.parts)]
            return self._add(replace(a.op, inputs=tuple(parts), output=output, origin=origins), t)
        if a.op.kind == "constant":
            lo, hi = type_range(t.dtype)
            real = self.graph.constant(a.op, "values")
            values = np.clip(np.rint(real / t.scale) + t.zero, lo, hi).astype(np.int16)
            made = self._with_consts(Op(a.op.name, "constant", (), output, {}, {}, origins), {"values": values}, t)
            self.reals[made] = real, values
            return made
        low, high = a.lo, a.hi
        if low < 0 and t.zero == type_range(t.dtype)[0] and self._may_be_negative(a):
            low, high = 0.0, min(high, self._left_out(t))
        bounds = clamp_bounds(t.dtype, t.scale, t.zero, low, high)
        x = self.values[a.sources[0]]
        base = Op(a.op.name, a.op.kind.removesuffix("_f"), a.sources, output, dict(bounds), {}, origins)
        match a.op.kind:
            case "conv_f":
                lowered = integer_ops.conv(self.graph, base, a.op, x, t, a.gain, a.scale)
            case "add_f":
                self._near(base, t, (1.0, 1.0))
                lowered = integer_ops.add(base, x, self.values[a.sources[1]], t, a.op.flag("minus"))
            case "product_f":
                if (product := self._with_constant(base, t)) is not None:
                    return product
                lowered = integer_ops.mul(replace(base, kind="mul"), x, self.values[a.sources[1]], t)
            case "quotient_f":
                return self._quotient(base, t)
            case "softmax_f":
                lowered = integer_ops.softmax(base, x, t)
            case "layernorm_f":
                lowered = integer_ops.layer_norm(self.graph, base, a.op, x, t)
            case "matmul_f":
                lowered = integer_ops.matmul(base, a.op, x, self.values[a.sources[1]], t)
            case "avgpool_f":
                lowered = integer_ops.avgpool(base, a.op, x, t)
            case "resize_f":
                lowered = integer_ops.resize(base, a.op.str_attr("mode"), x, t)
            case _:
                lowered = integer_ops.rescale(base, x, t, a.scale, a.offset)
        return self._with_consts(*lowered, t)

    def _quotient(self, op: Op, t: TensorType) -> str:
        """A tensor times the reciprocal of another in 16 bits."""
        (over, under), halves = op.inputs, list[str]()
        y = self.values[under]
        tables = integer_ops.reciprocal(y, self._ends(under))
        first = tables[0][0]
        self._near(op, t, (first.scale * type_range(first.dtype)[1], 0.0))
        for i, (form, consts) in enumerate(tables):
            table = replace(
                op, name=f"{op.name}:inverse{i}", kind="lut", inputs=(under,), output=f"{op.output}:inverse{i}", attrs={}
            )
            halves.append(self._with_consts(table, consts, form.shaped_like(y)))
        return self._by_halves(op, over, halves, t)

    def _by_halves(self, op: Op, x: str, halves: Sequence[str], t: TensorType) -> str:
        """A tensor times another in 16 bits: the products with either half, added."""
        products = list[str]()
        for i, half in enumerate(halves):
            form = self.values[half]
            to = integer_ops.whole_range(self.values[x], form) if i else t
            attrs = clamp_bounds(to.dtype, to.scale, to.zero, -math.inf, math.inf)
            times = Op(f"{op.name}:times{i}", "mul", (x, half), f"{op.output}:times{i}", dict(attrs), {}, op.origin)
            products.append(self._with_consts(*integer_ops.mul(times, self.values[x], form, to), to.shaped_like(t)))
        left, right = products
        made = replace(op, kind="add", inputs=(left, right))
        return self._with_consts(*integer_ops.add(made, self.values[left], self.values[right], t), t)

    def _with_constant(self, op: Op, t: TensorType) -> str | None:
        """A product with a constant of its own at every position in 16 bits, if 8 bits of it may move the result by a step; None if they do not."""
        held = [self.values[v] for v in op.inputs]
        most = [max(abs(h.scale * (q - h.zero)) for q in self._ends(v)) for v, h in zip(op.inputs, held, strict=True)]
        for i, (v, h) in enumerate(zip(op.inputs, held, strict=True)):
            found = self._constant(v)
            if found is None or found[1] * most[1 - i] < t.scale:
                continue
            forms = [(form.shaped_like(h), ints.astype(np.int16)) for form, ints in integer_ops.halves(found[0])]
            rest = forms[1][0].scale / 2 * most[1 - i] + integer_ops.whole_range(held[1 - i], forms[1][0]).scale / 2
            if rest >= t.scale / 2:
                raise _coarse(op, 1 + rest / t.scale)
            parts = (Op(f"{op.name}:half{n}", "constant", (), f"{v}:half{n}", {}, {}, op.origin) for n in range(2))
            made = [self._with_consts(o, {"values": ints}, form) for o, (form, ints) in zip(parts, forms, strict=True)]
            return self._by_halves(op, op.inputs[1 - i], made, t)
        return None

    def _constant(self, stored: str) -> tuple[Array, float] | None:
        """Real values [H, W, C] of a stored constant that has one at every position, and how far the stored ones are off at most."""
        if stored not in self.reals:
            return None
        (real, ints), t = self.reals[stored], self.values[stored]
        low, high = (t.scale * (q - t.zero) for q in type_range(t.dtype))
        off = np.abs(np.clip(real, low, high) - t.scale * (ints - t.zero))
        return real.reshape(t.shape), float(off.max())

    def _near(self, op: Op, t: TensorType, slopes: Sequence[float]) -> None:
        """Raises FactorError where a constant in 8 bits moves the result by a step; ``slopes``: of the result to each operand."""
        for v, slope in zip(op.inputs, slopes, strict=True):
            if (found := self._constant(v)) is not None and found[1] * slope >= t.scale:
                raise _coarse(op, found[1] * slope / t.scale)

    def _ends(self, stored: str) -> tuple[int, int]:
        """The least and the largest integer that a stored value may be, as far as the operation that makes it says."""
        made = next((o for o in reversed(self.ops) if o.output == stored), None)
        if made is not None and made.kind == "lut":
            table = self.constants[made.consts["table"]]
            return int(table.min()), int(table.max())
        if made is not None and "lo" in made.attrs:
            return made.int_attr("lo"), made.int_attr("hi")
        return type_range(self.values[stored].dtype)

    @staticmethod
    def _left_out(t: TensorType) -> float:
        """The upper bound of the activation left out in front of a type that begins at zero: none, or that of the ReLU6 where the type ends."""
        return RELU6 if round(RELU6 / t.scale) + t.zero == type_range(t.dtype)[1] else math.inf

    def _may_be_negative(self, a: Pending) -> bool:
        """Whether a type that begins at zero cuts the result off, as the ReLU does that exporters leave out in front of such a quantize."""
        signed = any(t.zero > type_range(t.dtype)[0] for t in map(self.values.__getitem__, a.sources))
        return a.op.kind == "conv_f" or signed or any(c is not None and bool((c < 0).any()) for c in (a.scale, a.offset))

    def _relabels(self, op: Op) -> bool:
        """Whether an operation of the old graph only gives axes other names."""
        return op.kind == "reshape" and self.graph.type(op.inputs[0]).shape == self.graph.type(op.output).shape

    def _real_type(self, a: Real) -> TensorType:
        if isinstance(a, View):
            return self.values[a.stored]
        assert isinstance(a, (Pending, Curve))
        return self.graph.type(a.moves[-1].output) if a.moves else self._base_type(a)

    def _base_type(self, a: Pending | Curve) -> TensorType:
        """Shape and layout before the moves. A rescale may stem from this pass alone and then has no output in the old graph."""
        if isinstance(a, Curve):
            return self.values[a.source]
        return self.values[a.sources[0]] if a.op.kind == "rescale" else self.graph.type(a.op.output)

    def _ordered(self) -> tuple[Op, ...]:
        """Topological order, among the ready ones by place of the main node: readers' order matters in the backward pass."""
        waiting = {op.output: {v for v in op.inputs if v not in self.inputs} for op in self.ops}
        readers: dict[str, list[Op]] = {}
        for op in self.ops:
            for v in waiting[op.output]:
                readers.setdefault(v, []).append(op)
        by_output = {op.output: op for op in self.ops}
        heap = [(self.position[v], i, v) for i, v in enumerate(waiting) if not waiting[v]]
        heapq.heapify(heap)
        order: list[Op] = []
        while heap:
            value = heapq.heappop(heap)[2]
            order.append(by_output[value])
            for reader in readers.get(value, []):
                waiting[reader.output].discard(value)
                if not waiting[reader.output]:
                    heapq.heappush(heap, (self.position[reader.output], len(order) + len(heap), reader.output))
        return tuple(order)


def _coarse(op: Op, steps: float) -> FactorError:
    return FactorError(
        f"the constant of {op.origin!r} has a number at every position; as stored they move its result by {steps:.1f} steps"
    )


def _part(op: Op, index: int, output: str) -> Op:
    """Name and origin of the rescale in front of input ``index`` of a concat."""
    return replace(op, name=f"{op.name}:{index}", output=f"{output}:{index}")
