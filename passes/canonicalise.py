"""Float-level QDQ graph -> integer graph: every ``dequantize -> operator -> (clip) -> quantize`` becomes one integer operation.

A real value is either a *view* of a stored tensor (a dequantize, moved or not), or *pending*: an operator whose result is not
stored yet and waits for its quantize. Clips narrow a pending value; operators that only move elements (max pool, reshape, pad)
commute with the quantize behind them, so they are carried along. A float side of a sum is quantised to the range that the sum's own
quantisation and the other side leave it. Anything else that reads a pending value has no integer meaning
and is reported, with the rewrite that would give it one; all such places are reported together.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sasimc.ir.graph import Graph, Op, TensorType, type_range
from sasimc.isa.errors import Diagnostic, DiagnosticsError
from sasimc.passes import integer_ops
from sasimc.passes.factors import FactorError, clamp_bounds

__all__ = ["ISLANDS", "Canonicalise", "canonicalise"]

Array = npt.NDArray[Any]
_MOVES = ("maxpool", "reshape", "pad")
ISLANDS = "quantised_islands"
"""Note of a graph: JSON, sums whose float sides were quantised with what is known, and how many steps that may move them."""
_WHOLE = "quantise the float network as a whole: sasc quantize FLOAT.onnx --calibrate FOLDER -o INT8.onnx"


@dataclass(frozen=True)
class View:
    """A real value that is a stored tensor; ``softmax`` once a softmax has been passed (only the end of the graph may follow)."""

    stored: str
    softmax: bool = False


@dataclass(frozen=True)
class Pending:
    """A real value not stored yet: ``op`` over stored ``sources`` (or a concat), clipped to [lo, hi], then moved."""

    op: Op
    sources: tuple[str, ...]
    lo: float = -math.inf
    hi: float = math.inf
    scale: Array | None = None
    offset: Array | None = None
    moves: tuple[Op, ...] = ()
    parts: tuple[Any, ...] = ()
    origins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unknown:
    """Follows something already reported."""


Real = View | Pending | Unknown


@dataclass(frozen=True)
class Canonicalise:
    name: ClassVar[str] = "canonicalise"

    def run(self, graph: Graph) -> Graph:
        result, problems = canonicalise(graph)
        if problems:
            raise DiagnosticsError(problems)
        return result


def canonicalise(graph: Graph) -> tuple[Graph, list[Diagnostic]]:
    """The integer graph and all that stands in its way; the graph is complete only when the list is empty."""
    state = _State(graph)
    for op in graph.ops:
        state.step(op)
    return state.finish(), state.problems


@dataclass(eq=False)
class _State:
    graph: Graph
    real: dict[str, Real] = field(default_factory=dict)
    stored: dict[str, str] = field(default_factory=dict)  # quantised value of the old graph -> value of the new one
    values: dict[str, TensorType] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    problems: list[Diagnostic] = field(default_factory=list)
    made: dict[tuple[Any, ...], str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    notes: dict[str, str] = field(default_factory=dict)
    softmaxed: set[str] = field(default_factory=set)
    moved: dict[str, tuple[str, tuple[Op, ...]]] = field(
        default_factory=dict
    )  # real value -> the input it is, and the moves on it
    index: dict[str, int] = field(default_factory=dict)
    position: dict[str, int] = field(default_factory=dict)  # new value -> place of its main operation in the old graph

    def __post_init__(self) -> None:
        self.index = {op.name: i for i, op in enumerate(self.graph.ops)}
        for name in self.graph.inputs:
            t = self.graph.type(name)
            if t.dtype != "f32":
                self.values[name], self.stored[name], self.inputs[name] = t, name, name

    # -- one operation ----------------------------------------------------------------------------------------------

    def step(self, op: Op) -> None:
        match op.kind:
            case "opaque":
                self._set_unknown(op)
            case "dequantize":
                source = self.stored.get(op.inputs[0])
                softmax = op.inputs[0] in self.softmaxed
                self.real[op.output] = View(source, softmax) if source is not None else Unknown()
            case "quantize":
                self._quantize(op)
            case _ if self.graph.type(op.output).dtype != "f32" and op.kind != "argmax":
                self._integer(op)
            case "argmax":
                self._argmax(op)
            case _ if op.kind in _MOVES and (op.inputs[0] in self.moved or self._bare_input(op.inputs[0])):
                # a move of the real input: it commutes with the quantize behind it
                source, moves = self.moved.get(op.inputs[0], (op.inputs[0], ()))
                self.moved[op.output] = (source, (*moves, op))
            case _:
                self._real(op)

    def _bare_input(self, value: str) -> bool:
        return value in self.graph.inputs and self.graph.type(value).dtype == "f32"

    def _set_unknown(self, op: Op) -> None:
        if self.graph.type(op.output).dtype == "f32":
            self.real[op.output] = Unknown()

    def _integer(self, op: Op) -> None:
        """An operator on stored values that needs no arithmetic (or one that is integer already)."""
        sources = [self.stored.get(v) for v in op.inputs]
        if None in sources:
            return
        self.stored[op.output] = self._keep(
            replace(op, inputs=tuple(s for s in sources if s is not None)), self.graph.type(op.output)
        )

    def _keep(self, op: Op, t: TensorType) -> str:
        """Add an operation whose constants are those of the old graph."""
        for name in op.consts.values():
            self.constants[name] = self.graph.constants[name]
        return self._add(op, t)

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
        self.ops.append(replace(op, name=name, output=value, made_by="canonicalise" if op.kind not in _MOVES else op.made_by))
        return value

    def _argmax(self, op: Op) -> None:
        source = self.stored.get(op.inputs[0])
        if source is None and op.inputs[0] in self.real:
            found = self.real[op.inputs[0]]
            if isinstance(found, Pending):
                self._problem(
                    op, "reads a value that is not quantised", "put QuantizeLinear and DequantizeLinear behind the last layer"
                )
            source = found.stored if isinstance(found, View) else None
        if source is not None:
            self.stored[op.output] = self._keep(replace(op, inputs=(source,)), self.graph.type(op.output))

    # -- real operators ---------------------------------------------------------------------------------------------

    def _real(self, op: Op) -> None:
        args = [self._read(op, v) for v in op.inputs]
        if any(isinstance(a, Unknown) for a in args):
            self.real[op.output] = Unknown()
        elif any(isinstance(a, View) and a.softmax for a in args):
            self._problem(op, "follows a Softmax", "Softmax is only supported at the end of the network")
            self.real[op.output] = Unknown()
        else:
            self.real[op.output] = self._apply(op, args)

    def _read(self, op: Op, value: str) -> Real:
        if value in self.real:
            return self.real[value]
        if value in self.graph.inputs or value in self.moved:
            self._problem(
                op,
                f"reads the input {value!r} before it is quantised",
                "put QuantizeLinear and DequantizeLinear behind the input",
            )
            self.real[value] = Unknown()  # once is enough
        return Unknown()

    def _apply(self, op: Op, args: list[Real]) -> Real:
        first, trail = args[0], (op.origin,)
        if op.kind == "concat":
            return Pending(op, (), parts=tuple(args), origins=trail)
        if op.kind == "softmax_f":
            if isinstance(first, View):
                self.notes["softmax"] = op.origin
                return View(first.stored, softmax=True)
            return self._unquantised(op, args)
        if op.kind in _MOVES:
            if isinstance(first, Pending):
                return replace(first, moves=(*first.moves, op), origins=(*first.origins, *trail))
            assert isinstance(first, View)
            out = self.values[first.stored].shaped_like(self.graph.type(op.output))
            return View(self._keep(replace(op, inputs=(first.stored,)), out))
        if op.kind == "clip_f":
            return self._clip(op, first)
        if op.kind in ("mul_f", "addc_f"):
            return self._affine(op, first)
        if not all(isinstance(a, View) for a in args):
            args = [self._settle(a) for a in args]
        if all(isinstance(a, View) for a in args):
            return Pending(op, tuple(a.stored for a in args if isinstance(a, View)), origins=trail)
        if op.kind == "add_f" and any(isinstance(a, View) for a in args):
            return Pending(op, (), parts=tuple(args), origins=trail)  # the range of the other side follows from the sum's
        return self._unquantised(op, args)

    def _island(self, a: Pending, index: int, t: TensorType) -> TensorType:
        """The int8 type of a float side of a sum that is stored as ``t``: what lies outside saturates the sum whatever the other side is."""
        low, high = type_range(t.dtype)
        low, high = max(a.lo, t.scale * (low - t.zero)), min(a.hi, t.scale * (high - t.zero))
        part, other = a.parts[index], self.values[a.parts[1 - index].stored]
        made = next((o for o in reversed(self.ops) if o.output == a.parts[1 - index].stored), None)
        ends = (made.int_attr("lo"), made.int_attr("hi")) if made is not None and "lo" in made.attrs else type_range(other.dtype)
        least, most = (other.scale * (q - other.zero) for q in ends)
        low, high = min(max(low - most, part.lo), 0.0), max(min(high - least, part.hi), 0.0)
        scale = (high - low) / 255 or 1.0
        return replace(self._real_type(part), dtype="i8", scale=scale, zero=max(-128, min(127, round(-128 - low / scale))))

    def _settle(self, a: Real) -> Real:
        """A pending value whose own quantisation is exact as a view: ReLU or a nearest resize of a stored tensor."""
        if not isinstance(a, Pending) or not all(map(self._relabels, a.moves)) or a.parts:
            return a
        exact = a.op.kind == "rescale" and _is_one(a.scale) and a.offset is None and a.lo in (0.0, -math.inf) and a.hi == math.inf
        exact = exact or (a.op.kind == "resize_f" and a.op.attrs["mode"] == "nearest" and (a.lo, a.hi) == (-math.inf, math.inf))
        if not exact:
            return a
        t = self.values[a.sources[0]]
        return View(self._moved(self._emit(a, t.shaped_like(self._base_type(a)), a.op.output), t, a.moves))

    def _moved(self, value: str, t: TensorType, moves: Sequence[Op], last: int = 0, name: str = "") -> str:
        """``value`` of the quantisation of ``t`` after the moves, the ``last`` of which gets the ``name``."""
        for i, move in enumerate(moves, 1):
            at = t.shaped_like(self.graph.type(move.output))
            value = self._keep(replace(move, inputs=(value,), output=name if i == last else move.output), at)
        return value

    def _clip(self, op: Op, a: Real) -> Real:
        lo, hi = op.float_attr("lo"), op.float_attr("hi")
        if isinstance(a, View):
            a = Pending(replace(op, kind="rescale"), (a.stored,))
        assert isinstance(a, Pending)
        if a.op.kind == "concat" or any(m.kind == "pad" for m in a.moves):
            return self._unquantised(op, [a])
        new_lo, new_hi = min(max(a.lo, lo), hi), max(min(a.hi, hi), lo)
        return replace(a, lo=new_lo, hi=new_hi, origins=(*a.origins, op.origin))

    def _affine(self, op: Op, a: Real) -> Real:
        c = self.graph.constant(op, "c")
        if isinstance(a, View):
            a = Pending(replace(op, kind="rescale", consts={}), (a.stored,), scale=np.ones(c.shape))
        assert isinstance(a, Pending)
        origins, unclipped = (*a.origins, op.origin), (a.lo, a.hi) == (-math.inf, math.inf)
        # a positive factor commutes with ReLU, one factor for all channels with any clip
        commutes = op.kind == "mul_f" and (c > 0).all() and ((a.lo, a.hi) == (0.0, math.inf) or (c == c[0]).all())
        if a.op.kind != "rescale" or a.moves or not (unclipped or commutes):
            return self._unquantised(op, [a])
        if a.scale is None:
            a = replace(a, scale=np.ones(c.shape))
        assert a.scale is not None
        if op.kind == "mul_f":
            if not unclipped and (a.lo, a.hi) != (0.0, math.inf):
                a = replace(a, lo=a.lo * c[0], hi=a.hi * c[0])
            return replace(a, scale=a.scale * c, offset=None if a.offset is None else a.offset * c, origins=origins)
        return replace(a, offset=c if a.offset is None else a.offset + c, origins=origins)

    def _unquantised(self, op: Op, args: list[Real]) -> Real:
        sources = {a.op.origin: a for a in args if isinstance(a, Pending)}
        between = " and ".join(repr(s) for s in sources)
        what = op.kind.removesuffix("_f")
        self._problem(
            op,
            f"{what} reads the unquantised result of {between}",
            f"put QuantizeLinear and DequantizeLinear between {between} and {op.origin!r}, or {_WHOLE}",
        )
        return Unknown()

    def _problem(self, op: Op, message: str, hint: str) -> None:
        self.problems.append(Diagnostic(message, where=op.origin or op.name, hint=hint))

    # -- quantize: emit what is pending -------------------------------------------------------------------------------

    def _quantize(self, op: Op) -> None:
        source, t = op.inputs[0], self.graph.type(op.output)
        found = self.real.get(source)
        if found is None and (source in self.graph.inputs or source in self.moved):
            self._quantize_input(op, *self.moved.get(source, (source, ())), t)
            return
        if found is None or isinstance(found, Unknown):
            self.stored[op.output] = self._stand_in(op.output, t)
            return
        if isinstance(found, View) and found.softmax:
            self.softmaxed.add(op.output)
            self.stored[op.output] = found.stored
            return
        try:
            self.stored[op.output] = self._store(found, t, op)
        except FactorError as e:
            self._problem(op, str(e), "calibrate again; the scales of input, weight and output do not fit together")
            self.stored[op.output] = self._stand_in(op.output, t)

    def _stand_in(self, value: str, t: TensorType) -> str:
        """A value behind something reported: the rest of the graph can still be looked at."""
        name = self._add(Op(f"{value}:opaque", "opaque", (), value), t)
        return name

    def _quantize_input(self, op: Op, source: str, moves: Sequence[Op], t: TensorType) -> None:
        """The host quantises the image; the integer graph's input keeps the ONNX input's name."""
        if source not in self.inputs:
            self.values[source], self.inputs[source] = t.shaped_like(self.graph.type(source)), source
        elif self.values[source].quant != t.quant:
            self._problem(op, f"the input {source!r} is quantised in two ways", "quantise the input once")
        self.stored[op.output] = self._moved(source, t, moves, len(moves), op.output)

    def _store(self, a: Real, t: TensorType, op: Op) -> str:
        """The stored tensor of type ``t`` that holds the real value ``a``."""
        if isinstance(a, View):
            have = self.values[a.stored]
            if have.quant == t.quant:
                return a.stored
            a = Pending(replace(op, kind="rescale", consts={}), (a.stored,), origins=(op.origin,))
        assert isinstance(a, Pending)
        key = (a.op.output, *a.sources, tuple(m.output for m in a.moves), a.lo, a.hi, t.quant)
        if key not in self.made:
            base = a.op.output.removesuffix(":f")
            if any(k[:1] == (a.op.output,) and a.op.kind == "conv_f" for k in self.made):
                self._problem(op, f"the result of {a.op.origin!r} is quantised in two ways", "quantise it once, then rescale")
            # the last value that is stored anew takes the name; what only gives axes other names behind it will vanish
            last = max((i + 1 for i, m in enumerate(a.moves) if not self._relabels(m)), default=0)
            value = self._emit(a, t.shaped_like(self._base_type(a)), op.output if last == 0 else f"{base}:q")
            self.made[key] = self._moved(value, t, a.moves, last, op.output)
        return self.made[key]

    def _emit(self, a: Pending, t: TensorType, output: str) -> str:
        origins = ",".join(dict.fromkeys(o for part in (*a.origins, a.op.origin) for o in part.split(",") if o))
        if a.op.kind == "concat":
            parts = [self._store(p, t.shaped_like(self._real_type(p)), _part(a.op, i, output)) for i, p in enumerate(a.parts)]
            return self._add(Op(a.op.name, "concat", tuple(parts), output, {}, {}, origins), t)
        if a.parts:
            types = [self._island(a, i, t) if isinstance(p, Pending) else self.values[p.stored] for i, p in enumerate(a.parts)]
            off = sum(0.5 * u.scale / t.scale for p, u in zip(a.parts, types, strict=True) if isinstance(p, Pending))
            self.notes[ISLANDS] = json.dumps({**json.loads(self.notes.get(ISLANDS, "{}")), output: round(off, 3)})
            a = replace(
                a,
                sources=tuple(
                    self._store(p, u, _part(a.op, i, output)) for i, (p, u) in enumerate(zip(a.parts, types, strict=True))
                ),
            )
        bounds = clamp_bounds(t.dtype, t.scale, t.zero, a.lo, a.hi)
        x = self.values[a.sources[0]]
        base = Op(a.op.name, a.op.kind.removesuffix("_f"), a.sources, output, dict(bounds), {}, origins)
        match a.op.kind:
            case "conv_f":
                lowered = integer_ops.conv(self.graph, base, a.op, x, t)
            case "add_f":
                lowered = integer_ops.add(base, x, self.values[a.sources[1]], t)
            case "avgpool_f":
                lowered = integer_ops.avgpool(base, a.op, x, t)
            case "resize_f":
                lowered = integer_ops.resize(base, a.op.str_attr("mode"), x, t)
            case _:
                lowered = integer_ops.rescale(base, x, t, a.scale, a.offset)
        return self._with_consts(*lowered, t)

    def _relabels(self, op: Op) -> bool:
        """Whether an operation of the old graph only gives axes other names."""
        return op.kind == "reshape" and self.graph.type(op.inputs[0]).shape == self.graph.type(op.output).shape

    def _real_type(self, a: Real) -> TensorType:
        if isinstance(a, View):
            return self.values[a.stored]
        assert isinstance(a, Pending)
        return self.graph.type(a.moves[-1].output) if a.moves else self._base_type(a)

    def _base_type(self, a: Pending) -> TensorType:
        """Shape and layout before the moves. A rescale may stem from this pass alone and then has no output in the old graph."""
        return self.values[a.sources[0]] if a.op.kind == "rescale" else self.graph.type(a.op.output)

    def _with_consts(self, op: Op, consts: dict[str, Array], t: TensorType) -> str:
        tag = op.name if f"{op.name}.mult" not in self.constants else f"{op.name}@{op.output}"
        names = {role: f"{tag}.{role}" for role in consts}
        self.constants.update({names[role]: a for role, a in consts.items()})
        return self._add(replace(op, consts=names), t)

    # -- the end ------------------------------------------------------------------------------------------------------

    def finish(self) -> Graph:
        outputs = []
        for value in self.graph.outputs:
            found = self.real.get(value)
            if isinstance(found, Pending):
                settled = self._settle(found)
                if not isinstance(settled, View):
                    where = found.op.origin or value
                    hint = f"put QuantizeLinear (and DequantizeLinear) behind {where!r}, or {_WHOLE}"
                    self.problems.append(Diagnostic(f"output {value!r} is not quantised", where=where, hint=hint))
                    continue
                found = settled
            name = found.stored if isinstance(found, View) else self.stored.get(value)
            if name is not None:
                outputs.append(name)
        for name in self.graph.inputs:
            if name not in self.inputs and self.graph.consumers(name) and not self.problems:
                self.problems.append(
                    Diagnostic(f"the input {name!r} is never quantised", where=name, hint="put QuantizeLinear behind it")
                )
        inputs = tuple(n for n in self.graph.inputs if n in self.inputs)
        return Graph(
            self.graph.name, self.values, self._ordered(), self.constants, inputs, tuple(dict.fromkeys(outputs)),
            {**self.graph.notes, **self.notes},
        )  # fmt: skip

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


def _part(op: Op, index: int, output: str) -> Op:
    """Name and origin of the rescale in front of input ``index`` of a concat."""
    return replace(op, name=f"{op.name}:{index}", output=f"{output}:{index}")


def _is_one(scale: Array | None) -> bool:
    return scale is None or bool((scale == 1).all())
