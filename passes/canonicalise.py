"""Float-level QDQ graph -> integer graph: every ``dequantize -> operator -> (clip) -> quantize`` becomes one integer operation.

A real value is either a *view* of a stored tensor (a dequantize, moved or not), or *pending*: an operator whose result is not
stored yet and waits for its quantize, or a *curve*: any function of one stored tensor (:mod:`sasimc.passes.curves`). Clips narrow a pending value; operators that only move elements (max pool, reshape, pad)
commute with the quantize behind them, so they are carried along. What else reads a pending value needs it stored where the file gives
it no scale: it is *placed*. Its scale is that of a quantize that reads it too, or follows from its range: the one noted for it
(``sasimc.ranges``), what its clips leave, and in a sum what the sum's own quantisation and the other side leave it. A placed value is what
all its readers read. One of which nothing is known is reported; all such places are reported together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from sasimc.ir.graph import INPUTS, OUTPUTS, Graph, Op, TensorType, type_range
from sasimc.ir.layout import Layout
from sasimc.isa.errors import Diagnostic, DiagnosticsError
from sasimc.passes.curves import Curve, roots_of
from sasimc.passes.factors import FactorError
from sasimc.passes.fold_constants import SUNK
from sasimc.passes.integer_graph import JOINS, MOVES, IntegerGraph
from sasimc.passes.reals import Array, Pending, Real, Unknown, View, weighted

__all__ = ["PLACED", "RANGES", "UNKNOWN_RANGE", "Canonicalise", "canonicalise", "unscaled"]

_PRODUCTS = ("product_f", "quotient_f")
_KEEPS = ("clip_f", *MOVES)  # what commutes with the quantize behind it
UNKNOWN_RANGE = "no range of it is known"
_SLACK = 1.1  # a quantisation holds a range that reaches this much further
PLACED = "placed"
"""Note of an integer graph: JSON, real values of the float-level graph that were given a scale, and the stored value that holds each."""
RANGES = "sasimc.ranges"
"""Note of a float-level graph: JSON, [low, high] of real values that have no scale."""


Operation = Callable[[Op, Real], Real]


@dataclass(frozen=True)
class _Nameless(Exception):
    """A real value that would have to be stored is none of the graph's."""


class Canonicalise:
    name: ClassVar[str] = "canonicalise"

    def run(self, graph: Graph) -> Graph:
        result, problems = canonicalise(graph)
        if problems:
            raise DiagnosticsError(problems)
        return result


def canonicalise(graph: Graph) -> tuple[Graph, list[Diagnostic]]:
    """The integer graph and all that stands in its way; the graph is complete only when the list is empty."""
    state = _State(graph, ranges=json.loads(graph.notes.get(RANGES, "{}")).get)
    for op in graph.ops:
        state.step(op)
    return state.finish(), state.problems


def unscaled(graph: Graph) -> dict[str, bool]:
    """Real values that the integer graph would store and that the file gives no scale; for each, whether one follows from its readers and
    clips all the same."""
    state = _State(graph, ranges=lambda _: (-1.0, 1.0))
    for op in graph.ops:
        state.step(op)
    state.finish()
    return state.unscaled


@dataclass(eq=False, kw_only=True)
class _State(IntegerGraph):
    """``ranges``: what is known of a real value; ``real``: of each what it is by now; ``stored``: quantised value of the old graph -> value of the new one;
    ``moved``: real value -> the input it is, and the moves on it; ``sunk``: value that the file does not have -> the one of the same range."""

    ranges: Callable[[str], Sequence[float] | None]
    real: dict[str, Real] = field(default_factory=dict)
    stored: dict[str, str] = field(default_factory=dict)
    problems: list[Diagnostic] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    softmaxed: dict[str, Op] = field(default_factory=dict)
    moved: dict[str, tuple[str, tuple[Op, ...]]] = field(default_factory=dict)
    placed: dict[str, str] = field(default_factory=dict)
    roots: dict[str, str] = field(default_factory=dict)
    unscaled: dict[str, bool] = field(default_factory=dict)
    sunk: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.roots = roots_of(self.graph)
        self.sunk = json.loads(self.graph.notes.get(SUNK, "{}"))
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
                softmax = self.softmaxed.get(op.inputs[0])
                self.real[op.output] = View(source, softmax) if source is not None else Unknown()
            case "quantize":
                self._quantize(op)
            case _ if self.graph.type(op.output).dtype != "f32" and op.kind != "argmax":
                self._integer(op)
            case "argmax":
                self._argmax(op)
            case _ if op.kind in MOVES and (op.inputs[0] in self.moved or self._bare_input(op.inputs[0])):
                # a move of the real input: it commutes with the quantize behind it
                source, moves = self.moved.get(op.inputs[0], (op.inputs[0], ()))
                self.moved[op.output] = (source, (*moves, op))
            case _:
                self._real(op)

    def _at_end(self, value: str) -> bool:
        """Whether nothing but quantisation and an arg max stands between a real value and the outputs."""
        return all(
            r.kind == "argmax" or (r.kind in ("quantize", "dequantize") and self._at_end(r.output))
            for r in self.graph.consumers(value)
        )

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

    def _argmax(self, op: Op) -> None:
        source = self.stored.get(op.inputs[0])
        if source is None and op.inputs[0] not in self.stored:
            found = self._view(op, op.inputs[0])
            source = found.stored if isinstance(found, View) else None
        if source is not None:
            self.stored[op.output] = self._keep(replace(op, inputs=(source,)), self.graph.type(op.output))

    # -- real operators ---------------------------------------------------------------------------------------------

    def _real(self, op: Op) -> None:
        args = [self._read(op, v) for v in op.inputs]
        if any(isinstance(a, Unknown) for a in args):
            self.real[op.output] = Unknown()
        else:
            self.real[op.output] = self._apply(op, args)
            if self._shared(op.output):
                self._view(op, op.output)

    def _read(self, op: Op, value: str) -> Real:
        if value in self.real:
            return self.real[value]
        if value in self.graph.inputs or value in self.moved:
            return self._read_input(op, value)
        return Unknown()

    def _read_input(self, op: Op, value: str) -> Real:
        """The input where it is read before a quantize: it is quantised by the host."""
        source, moves = self.moved.get(value, (value, ()))
        if source not in self.inputs:
            t = self._scale(source, -math.inf, math.inf, None)
            if t is None:
                self.real[value] = self._no_scale(op, source)
                return self.real[value]
            self.values[source] = t.shaped_like(self.graph.type(source))
            self.inputs[source] = self.placed[source] = source
        self.real[value] = View(self._moved(source, self.values[source], moves))
        return self.real[value]

    def _apply(self, op: Op, args: list[Real]) -> Real:
        first, trail = args[0] if args else Unknown(), (op.origin,)
        if op.kind == "constant":
            values = self.graph.constant(op, "values")
            return Pending(op, (), float(values.min()), float(values.max()), origins=trail)
        if op.kind in JOINS:
            return Pending(op, (), parts=tuple(args), origins=trail)
        if op.kind in MOVES and isinstance(first, (Pending, Curve)):
            return replace(first, moves=(*first.moves, op), origins=(*first.origins, *trail))
        if op.kind == "clip_f":
            return self._clip(op, first)
        if op.kind in ("mul_f", "addc_f"):
            return self._affine(op, first)
        if op.kind in ("unary_f", "add_f", "product_f", "quotient_f") and (curve := self._curve(op, args)) is not None:
            return curve
        if op.kind == "conv_f" and isinstance(first, Pending) and (gain := self._gain(op, first)) is not None:
            return Pending(op, first.sources, gain=gain, origins=trail)
        views = [self._view(op, v) for v in op.inputs]
        if any(isinstance(v, Unknown) for v in views):
            return Unknown()
        sources = tuple(v.stored for v in views if isinstance(v, View))
        if op.kind == "softmax_f" and self._at_end(op.output):
            return View(sources[0], softmax=op)
        if op.kind == "softmax_f":
            x = self.graph.type(op.inputs[0])
            over = x.layout.axes[op.int_attr("axis")] if x.layout is not None else ()
            if op.flag("log") or over != Layout.rows([x.shape[2]]).axes[0]:
                shown = f"over {Layout((over,)).dims[0]} elements" + (
                    f" of a tensor laid out {x.layout.text(x.shape)!r}" if x.layout else ""
                )
                self._problem(
                    op, f"{'a LogSoftmax' if op.flag('log') else 'a Softmax'} {shown} in the middle of the network",
                    "a Softmax runs over the channels here (a transpose in front and one behind keep the result); a LogSoftmax can only end a network",
                )  # fmt: skip
                return Unknown()
        if op.kind in MOVES:
            out = self.values[sources[0]].shaped_like(self.graph.type(op.output))
            return View(self._keep(replace(op, inputs=sources), out))
        if op.kind == "unary_f":
            return self._curve(op, views) or Unknown()
        return Pending(op, sources, origins=trail)

    # -- functions of one stored tensor ----------------------------------------------------------------------------------

    def _as_curve(self, a: Real) -> Curve | None:
        """A stored tensor, or one times constants, plus constants, clipped, as a curve; None for anything else, and behind a move."""
        if isinstance(a, Curve):
            return None if a.moves else a
        if isinstance(a, View):
            return Curve.of(a.stored, self.values[a.stored])
        if not isinstance(a, Pending) or a.op.kind != "rescale" or a.moves:
            return None
        curve = replace(Curve.of(a.sources[0], self.values[a.sources[0]]), origins=a.origins)
        for function, c in (("Mul", a.scale), ("Add", a.offset)):
            if c is not None:
                curve = curve.through(a.op, function, {"c": c})
        return curve.through(a.op, "Clip", {"low": a.lo, "high": a.hi})

    def _curve(self, op: Op, args: Sequence[Real]) -> Curve | None:
        """What a function, or a sum or product of functions, makes of one stored tensor; None where there is no such tensor, or no need."""
        known = [self._as_curve(a) for a in args]
        curves = [k for k in known if k is not None]
        if len(curves) != len(args) or len({k.source for k in curves}) != 1:
            return None
        if op.kind == "unary_f":
            parameters: dict[str, Any] = {k: v for k, v in op.attrs.items() if k != "function"}
            if "c" in op.consts:
                parameters["c"] = self.graph.constant(op, "c")
            return curves[0].through(op, op.str_attr("function"), parameters)
        if op.kind in _PRODUCTS or any(isinstance(a, Curve) for a in args):
            return curves[0].joined(op, curves[1])
        return None

    def _takes(self, reader: Op, value: str) -> bool:
        """Whether a reader of a function of one stored tensor needs no more than the function."""
        if reader.kind == "unary_f":
            return True
        if reader.kind in _PRODUCTS:
            return len({self.roots[v] for v in reader.inputs}) == 1
        if isinstance(self.real[value], Curve):
            return reader.kind in ("clip_f", "mul_f", "addc_f") or (
                reader.kind == "add_f" and len({self.roots[v] for v in reader.inputs}) == 1
            )
        return False

    # -- values without a scale -----------------------------------------------------------------------------------------

    def _shared(self, value: str) -> bool:
        """Whether a pending value has several readers of which one needs it stored: then it is stored for all. What commutes with a
        quantize may be computed twice, an operation with weights may not."""
        found = self.real[value]
        readers = self.graph.consumers(value)
        if not isinstance(found, (Pending, Curve)) or len(readers) + (value in self.graph.outputs) < 2:
            return False
        if weighted(found):
            types = {self.graph.type(r.output).quant if r.kind == "quantize" else r.name for r in readers}
            return len(types) + (value in self.graph.outputs) > 1
        if self._as_curve(found) is not None:
            readers = tuple(r for r in readers if not self._takes(r, value))
        return value in self.graph.outputs or not all(self._commutes(r) for r in readers)

    def _quantised(self, value: str) -> bool:
        """Whether a quantize is all that reads the value, at once or behind what commutes with it."""
        return value not in self.graph.outputs and all(self._commutes(r) for r in self.graph.consumers(value))

    def _commutes(self, reader: Op) -> bool:
        return reader.kind == "quantize" or (reader.kind in _KEEPS and self._quantised(reader.output))

    def _view(self, op: Op, value: str) -> Real:
        """The real value as a stored one, for ``op``."""
        found = self._read(op, value)
        if not isinstance(found, (Pending, Curve)):
            return found
        exact = self._settle(found)
        if isinstance(exact, View):
            self.real[value] = exact
            return exact
        ends = (found.lo, found.hi) if isinstance(found, Pending) else found.range
        t = self._scale(value, *ends, self._sum(op, value))
        if t is None:
            self.real[value] = self._no_scale(op, value)
            return self.real[value]
        origin = found.origins[-1] if found.origins else found.op.origin
        try:
            stored = self._store(
                found, t.shaped_like(self._real_type(found)), Op(value, "quantize", (value,), value, origin=origin)
            )
        except FactorError as e:
            self._problem(op, str(e), "calibrate again; the scales of input, weight and output do not fit together")
            self.real[value] = Unknown()
            return self.real[value]
        self.placed[value] = stored
        self.real[value] = View(stored)
        return self.real[value]

    def _held(self, op: Op, a: Real) -> Real:
        """The first operand of ``op``, which is ``a`` by now, as a stored one.

        Raises:
            _Nameless: ``a`` is a part of a join to which something was done already: no tensor of the graph is it.
        """
        if self._read(op, op.inputs[0]) is not a:
            raise _Nameless
        return self._view(op, op.inputs[0])

    def _scale(self, value: str, low: float, high: float, limits: tuple[float, float] | None) -> TensorType | None:
        """dtype, scale and zero point for a real value inside [low, high] whose readers tell apart what is inside ``limits``."""
        beside = [self.graph.type(r.output) for r in self.graph.consumers(value) if r.kind == "quantize"]
        widest = max(beside, key=lambda t: t.scale, default=None)
        if limits is not None:
            low, high = max(low, limits[0]), min(high, limits[1])
        known = self.sunk.get(value, value)
        self.unscaled[known] = widest is not None or (math.isfinite(low) and math.isfinite(high))
        if (measured := self.ranges(known)) is not None:
            low, high = max(low, measured[0]), min(high, measured[1])
        if widest is not None:
            ends = [widest.scale * (q - widest.zero) for q in type_range(widest.dtype)]
            if measured is None or (ends[0] * _SLACK <= low and high <= ends[1] * _SLACK):
                return widest
        if not (math.isfinite(low) and math.isfinite(high)):
            return None
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32(high - low) / np.float32(255)) or 1.0  # as a file can hold it
        return TensorType("i8", (1, 1, 1), scale, max(-128, min(127, round(-128 - low / scale))))

    def _sum(self, op: Op, value: str) -> tuple[float, float] | None:
        """What of one side of a sum the sum's own quantisation tells apart, whatever the other side is."""
        if op.kind != "add_f" or value not in op.inputs or op.inputs[0] == op.inputs[1]:
            return None
        other = self.real[op.inputs[1 - op.inputs.index(value)]]
        at, low, high = op.output, -math.inf, math.inf
        readers = self.graph.consumers(at)
        while len(readers) == 1 and readers[0].kind in _KEEPS:
            if readers[0].kind == "clip_f":
                low, high = max(low, readers[0].float_attr("lo")), min(high, readers[0].float_attr("hi"))
            at = readers[0].output
            readers = self.graph.consumers(at)
        if not isinstance(other, View) or [r.kind for r in readers] != ["quantize"] or at in self.graph.outputs:
            return None
        t, beside = self.graph.type(readers[0].output), self.values[other.stored]
        least, most = type_range(t.dtype)
        low, high = max(low, t.scale * (least - t.zero)), min(high, t.scale * (most - t.zero))
        ends = self._ends(other.stored)
        least, most = (beside.scale * (q - beside.zero) for q in ends)
        if op.flag("minus") and value == op.inputs[0]:
            least, most = -most, -least
        elif op.flag("minus"):  # what is subtracted: the other side less the sum
            return least - high, most - low
        return low - most, high - least

    def _no_scale(self, op: Op, value: str) -> Unknown:
        self._problem(
            op, f"{op.str_attr('function', op.kind.removesuffix('_f'))} reads {value!r}, which is not quantised, and {UNKNOWN_RANGE}",
            "--calibrate FOLDER measures such ranges on images; or quantise the float network as a whole: sasc quantize",
        )  # fmt: skip
        return Unknown()

    def _settle(self, a: Real) -> Real:
        """A pending value whose own quantisation is exact as a view: ReLU or a nearest resize of a stored tensor."""
        if isinstance(a, Pending) and a.op.kind in JOINS and all(isinstance(p, View) for p in a.parts):
            have = [self.values[p.stored] for p in a.parts if isinstance(p, View)]
            if len({t.quant for t in have}) > 1:
                return a
            return View(self._store(a, have[0].shaped_like(self._real_type(a)), replace(a.op, kind="quantize")))
        if not isinstance(a, Pending) or any(m.kind != "reshape" for m in a.moves) or a.parts:
            return a
        exact = a.op.kind == "rescale" and _is_one(a.scale) and a.offset is None and a.lo in (0.0, -math.inf) and a.hi == math.inf
        exact = exact or (a.op.kind == "resize_f" and a.op.attrs["mode"] == "nearest" and (a.lo, a.hi) == (-math.inf, math.inf))
        if not exact:
            return a
        t = self.values[a.sources[0]]
        return View(self._moved(self._emit(a, t.shaped_like(self._base_type(a)), a.op.output), t, a.moves))

    def _clip(self, op: Op, a: Real) -> Real:
        lo, hi = op.float_attr("lo"), op.float_attr("hi")
        if isinstance(a, Curve):
            return self._through(op, a, "Clip", {"low": lo, "high": hi})
        if isinstance(a, Pending) and any(m.kind == "pad" for m in a.moves):
            a = self._held(op, a)
        if isinstance(a, View):
            a = Pending(replace(op, kind="rescale"), (a.stored,))
        if not isinstance(a, Pending):
            return a
        if a.op.kind == "concat" or (a.op.kind == "mosaic" and lo <= 0 <= hi):
            return self._each(op, a, [self._clip] * len(a.parts), self._clip)
        if a.op.kind == "mosaic":
            return self._clip(op, self._held(op, a))
        new_lo, new_hi = min(max(a.lo, lo), hi), max(min(a.hi, hi), lo)
        return replace(a, lo=new_lo, hi=new_hi, origins=(*a.origins, op.origin))

    def _each(self, op: Op, a: Pending, parts: Sequence[Operation], again: Operation) -> Real:
        """An operation on a join: on each of its parts, or ``again`` on the whole, stored, where a part would have to be stored."""
        try:
            done = tuple(f(replace(op, inputs=(a.op.inputs[i],)), p) for i, (f, p) in enumerate(zip(parts, a.parts, strict=True)))
        except _Nameless:
            return again(op, self._held(op, a))
        if any(isinstance(p, Unknown) for p in done):
            return Unknown()
        return replace(a, parts=done, origins=(*a.origins, op.origin))

    def _through(self, op: Op, a: Curve, function: str, parameters: dict[str, Any]) -> Real:
        """A curve through a function; behind a move it is stored first."""
        known = self._as_curve(a) or self._as_curve(self._held(op, a))
        return known.through(op, function, parameters) if known is not None else Unknown()

    def _affine(self, op: Op, a: Real, c: Array | None = None) -> Real:
        c = self.graph.constant(op, "c") if c is None else c
        if isinstance(a, Curve):
            return self._through(op, a, "Mul" if op.kind == "mul_f" else "Add", {"c": c})
        if isinstance(a, Pending) and a.op.kind == "concat" and not a.moves:
            ends = np.cumsum([self.graph.type(v).shape[2] for v in a.op.inputs])[:-1]
            return self._each(op, a, [partial(self._affine, c=part) for part in np.split(c, ends)], partial(self._affine, c=c))
        if isinstance(a, Pending) and a.op.kind == "mosaic":
            a = self._settle(a)
        if isinstance(a, Pending) and a.op.kind == "mosaic" and not a.moves and op.kind == "mul_f":
            starts, step = a.op.ints("starts")[2::3], a.op.ints("step")[2]
            shares = (c[start::step][: self.graph.type(v).shape[2]] for start, v in zip(starts, a.op.inputs, strict=True))
            return self._each(op, a, [partial(self._affine, c=share) for share in shares], partial(self._affine, c=c))
        if op.kind == "mul_f" and (scaled := self._scaled(op, a, c)) is not None:
            return scaled
        unclipped = not isinstance(a, Pending) or (a.lo, a.hi) == (-math.inf, math.inf)
        # a positive factor commutes with ReLU, one factor for all channels with any clip
        commutes = op.kind == "mul_f" and (c > 0).all() and (
            (isinstance(a, Pending) and (a.lo, a.hi) == (0.0, math.inf)) or (c == c[0]).all()
        )  # fmt: skip
        if isinstance(a, Pending) and (a.op.kind != "rescale" or a.moves or not (unclipped or commutes)):
            a = self._held(op, a)
        if isinstance(a, View):
            a, unclipped = Pending(replace(op, kind="rescale", consts={}), (a.stored,), scale=np.ones(c.shape)), True
        if not isinstance(a, Pending):
            return a
        origins = (*a.origins, op.origin)
        if a.scale is None:
            a = replace(a, scale=np.ones(c.shape))
        assert a.scale is not None
        if op.kind == "mul_f":
            if not unclipped and (a.lo, a.hi) != (0.0, math.inf):
                a = replace(a, lo=a.lo * c[0], hi=a.hi * c[0])
            return replace(a, scale=a.scale * c, offset=None if a.offset is None else a.offset * c, origins=origins)
        return replace(a, offset=c if a.offset is None else a.offset + c, origins=origins)

    def _gain(self, op: Op, a: Pending) -> Array | None:
        """What the products of a depth-wise convolution's output channels are multiplied by where its input is a stored tensor, each channel times a
        constant; None for another layer or input."""
        channels, free = self.graph.type(op.inputs[0]).shape[2], (a.lo, a.hi) == (-math.inf, math.inf)
        if (
            a.op.kind != "rescale"
            or a.moves
            or a.offset is not None
            or a.scale is None
            or not free
            or op.int_attr("groups") != channels
        ):
            return None
        return np.repeat(a.scale, self.graph.type(op.output).shape[2] // channels)

    def _scaled(self, op: Op, a: Real, c: Array) -> Pending | None:
        """A layer's result times positive constants in front of a quantize: its requantisation does that. A bound must be zero, the same for all channels, or
        beyond what the quantize holds."""
        if not isinstance(a, Pending) or a.op.kind != "conv_f" or a.moves or not (c > 0).all() or not self._quantised(op.output):
            return None
        lo, hi, uniform = a.lo * c[0], a.hi * c[0], bool((c == c[0]).all())
        if not uniform:
            readers = self.graph.consumers(op.output)
            tops = [t.scale * (type_range(t.dtype)[1] - t.zero) for t in (self.graph.type(r.output) for r in readers)]
            beyond = all(r.kind == "quantize" for r in readers) and a.hi * float(c.min()) >= max(tops) * (1 - 1e-6)
            if a.lo not in (0.0, -math.inf) or not (a.hi == math.inf or beyond):
                return None
            lo, hi = a.lo, math.inf
        return replace(a, lo=lo, hi=hi, scale=c if a.scale is None else a.scale * c, origins=(*a.origins, op.origin))

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
            self.softmaxed[op.output] = found.softmax
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
        elif self.values[source].quant != t.quant:  # the host quantises once; the other scale is made of that
            self.placed[source] = source
            view = View(self._moved(source, self.values[source], moves))
            self.stored[op.output] = self._store(view, t, op)
            return
        self.stored[op.output] = self._moved(source, t, moves, len(moves), op.output)

    # -- the end ------------------------------------------------------------------------------------------------------

    def finish(self) -> Graph:
        outputs, ports = list[str](), list[dict[str, Any]]()
        names: list[str] = json.loads(self.graph.notes.get(OUTPUTS, json.dumps(self.graph.outputs)))
        for onnx, value in zip(names, self.graph.outputs, strict=True):
            softmax = self.softmaxed.get(value)
            if value in self.real:
                found = self._view(Op(value, "output", (value,), "", origin=value), value)
                name = found.stored if isinstance(found, View) else None
                softmax = found.softmax if isinstance(found, View) else None
            else:
                name = self.stored.get(value)
            if name is not None:
                outputs.append(name)
                ports.append({"name": onnx, "axes": _axes(self.graph.type(value)), **_end(softmax)})
        self.notes[OUTPUTS] = json.dumps(ports)
        self.notes[INPUTS] = json.dumps(
            [{"name": n, "axes": _axes(self.graph.type(n))} for n in self.graph.inputs if n in self.inputs]
        )
        if self.placed:
            self.notes[PLACED] = json.dumps(self.placed)
        for name in self.graph.inputs:
            if name not in self.inputs and self.graph.consumers(name) and not self.problems:
                self.problems.append(
                    Diagnostic(f"the input {name!r} is never quantised", where=name, hint="put QuantizeLinear behind it")
                )
        inputs = tuple(n for n in self.graph.inputs if n in self.inputs)
        return Graph(
            self.graph.name, self.values, self._ordered(), self.constants, inputs, tuple(outputs),
            {**{k: v for k, v in self.graph.notes.items() if k != SUNK}, **self.notes},
        )  # fmt: skip


def _axes(t: TensorType) -> Sequence[Sequence[tuple[int, int]]]:
    return (t.layout or Layout.planes(t.shape)).axes


def _end(softmax: Op | None) -> dict[str, Any]:
    """What the host makes of an output."""
    if softmax is None:
        return {}
    return {"end": "logsoftmax" if softmax.flag("log") else "softmax", "over": softmax.int_attr("axis")}


def _is_one(scale: Array | None) -> bool:
    return scale is None or bool((scale == 1).all())
