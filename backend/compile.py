"""From the integer graph (and its training graph) to a program."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sasimc.backend.backward import BackwardEmitter
from sasimc.backend.builder import Builder, CapacityError
from sasimc.backend.forward import ForwardEmitter
from sasimc.backend.mapping import Placement, arrays_of, cut_layers, place, split_depthwise
from sasimc.backend.stripes import ForwardPlan, plan_forward
from sasimc.ir.graph import INPUTS, OUTPUTS, Graph, Op, TrainGraph, type_range
from sasimc.ir.layout import Layout
from sasimc.isa.analysis.estimate import Estimate, estimate
from sasimc.isa.machine import Machine
from sasimc.isa.program import Program
from sasimc.isa.spec import RowRange

__all__ = ["Compiled", "Mapped", "compile_graph", "map_graph"]

TRAIN_STEP, TRAIN_FIRST = "train_step", "train_first"
BATCH, HEAD_EXPONENT, MODULE_EXPONENT, SAMPLE, LABEL, LOSS, PREDICTION = 1, 2, 3, 4, 5, 6, 7


@dataclass(frozen=True, repr=False)
class Compiled:
    """A program and what the compiler knows about it: ``infer`` prices one inference, ``train_step`` one step of ``batch`` samples."""

    program: Program
    placement: Placement
    plan: ForwardPlan
    buffer_peak_bytes: int
    infer: Estimate
    train_step: Estimate | None
    batch: int
    graph: Graph
    train: TrainGraph | None = None

    def __repr__(self) -> str:
        used, step = self.placement.used, f", {self.train_step.cycles} a training step of {self.batch}" if self.train_step else ""
        return f"<Compiled {self.program!r}; {used} sub-arrays; {self.infer.cycles} cycles an image{step}>"


@dataclass(frozen=True)
class Mapped:
    """A graph and its training graph with the weights placed; the machine has a part in it only as far as :func:`~sasimc.backend.mapping.arrays_of` says."""

    graph: Graph
    train: TrainGraph | None
    placement: Placement


def map_graph(graph: Graph, machine: Machine, train: TrainGraph | None = None) -> Mapped:
    """Place the weights of a graph.

    Raises:
        CapacityError: the arrays are too small (with the numbers), or a sum of products may leave 32 bits.
    """
    arrays = arrays_of(machine)
    transposed = {op.str_attr("forward") for op in train.ops if op.kind == "conv_t"} if train else set[str]()
    graph = split_depthwise(graph, arrays, transposed)
    scratch = train is not None or any(op.kind == "matmul" for op in graph.ops)
    placement = place(cut_layers(graph, arrays, transposed), arrays, scratch, transposed)
    _prove_accumulators(graph)
    return Mapped(graph, replace(train, forward=graph) if train else None, placement)


def compile_graph(
    graph: Graph,
    machine: Machine,
    train: TrainGraph | None = None,
    *,
    batch: int = 8,
    mapped: Mapped | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Compiled:
    """Map, place, plan and emit entries ``infer`` and, with a training graph, ``train_step``. ``mapped``: of the same graphs and arrays, where it is known.

    Raises:
        CapacityError: arrays, buffer, accumulators, registers or host memory are too small (with the numbers).
    """
    progress("map")
    mapped = mapped or map_graph(graph, machine, train)
    graph, train, placement = mapped.graph, mapped.train, mapped.placement
    b = Builder(machine)
    for parts in placement.layers.values():
        for part, matrix in parts:
            b.matrix(matrix)
            b.tensors[matrix.tensor] = part.values
    for matrix in placement.twins.values():
        b.matrix(matrix)
    logits = _logits(graph)
    t_out = graph.type(logits)
    fed = {
        v: b.host("input" if i == 0 else f"input.{v}", graph.type(v).dtype, graph.type(v).shape, batch)
        for i, v in enumerate(graph.inputs)
    }
    io = {
        "input": fed[graph.inputs[0]],
        "logits": b.host("logits", t_out.dtype, t_out.shape, batch),
        "prediction": b.host("prediction", "i32", (1, 1, 1), batch),
    }
    given = _given(b, graph, io, logits, batch)
    learned = {
        op.name: b.host(f"{op.name}.learned", "i32", (1, 1, graph.type(op.output).shape[2]), 1)
        for op in graph.ops
        if "learned" in op.attrs
    }
    b.tensors |= {view: np.zeros(b.views[view].shape, np.int32) for view in learned.values()}
    progress("plan")
    plan = plan_forward(graph, machine)
    peak = plan.peak
    progress("emit infer")
    b.entry("infer")
    b.emit("phase", "forward")
    spilled = {
        v: b.host(f"{v}.spill", graph.type(v).dtype, graph.type(v).shape, 1) for v in _hosted(plan) if v not in graph.inputs
    }
    host = {**fed, **{v: _unbatched(b, s) for v, s in spilled.items()}}
    with b.batch_loop(BATCH, SAMPLE):
        emitter = ForwardEmitter(b, graph, plan, placement, SAMPLE, host, learned=learned)
        emitter.emit()
        _results(b, emitter, io, logits)
        _more_results(b, emitter, graph, given, set(io.values()))
    b.emit("halt")
    tensors = _tensors(graph, emitter)
    back = None
    if train is not None:
        progress("emit train_step")
        if any(op.kind == "xent" for op in train.ops):
            io["labels"] = b.host("labels", "i32", (1, 1, 1), batch)
        else:
            io["targets"] = b.host("targets", t_out.dtype, t_out.shape, batch)
        io["loss"] = b.host("loss", "i32", (1, 1, 1), batch)
        back = _train_step(b, graph, train, machine, placement, fed, io, logits, batch, learned)
        peak = max(peak, back.peak)
    b.check_encoding()
    params = {"batch": BATCH, **({"head_exponent": HEAD_EXPONENT, "module_exponent": MODULE_EXPONENT} if train else {})}
    t_in = graph.type(graph.inputs[0])
    meta = {
        "batch": str(batch), "name": graph.name, "input_scale": repr(t_in.scale), "input_zero": str(t_in.zero), "classes": str(t_out.shape[2]),
        "logit_scale": repr(t_out.scale), "logit_zero": str(t_out.zero), "io": json.dumps(io, sort_keys=True),
        "tensors": json.dumps(tensors), "inputs": _ports(graph, INPUTS, [(v, fed[v]) for v in graph.inputs]), "outputs": _ports(graph, OUTPUTS, given),
        **{f"note.{k}": v for k, v in graph.notes.items() if k not in (INPUTS, OUTPUTS)},
    }  # fmt: skip
    if train is not None and back is not None:
        meta |= train.options
        meta["training_state"] = json.dumps(back.kept)
        if back.ranges:
            meta["error_ranges"] = back.ranges
        if back.count:
            meta["rounding_step"] = back.count
        if learned:
            meta["learned_biases"] = json.dumps(
                {layer: [view, graph.op(layer).int_attr("learned")] for layer, view in learned.items()}
            )
        learning = [pair for parts in placement.layers.values() for pair in parts if pair[0].trainable]
        meta["classifier"] = json.dumps([matrix.tensor for part, matrix in learning if _reaches(graph, part.layer, logits)])
        meta["layers"] = json.dumps({matrix.tensor: [part.layer, part.kind, part.n0] for part, matrix in learning})
    program = Program(
        machine, tuple(b.code), b.views, b.geometries, b.matrices, b.tables, b.entries, params, meta,
        {name: np.ascontiguousarray(a) for name, a in b.tensors.items()},
    )  # fmt: skip
    progress("price")
    infer = estimate(program, "infer", {"batch": 1})
    step = estimate(program, "train_step", {"batch": batch}) if train else None
    return Compiled(program, placement, plan, peak, infer, step, batch, graph, train)


def _reaches(graph: Graph, layer: str, value: str) -> bool:
    """Whether a layer makes a value, which may have another shape."""
    while (made := graph.producer(value)) is not None and made.kind == "reshape":
        value = made.inputs[0]
    return made is not None and made.name == layer


def _root(graph: Graph, value: str) -> tuple[str, bool]:
    """The value of which an output is the arg max (or itself), and whether it is."""
    at = value
    while (made := graph.producer(at)) is not None and made.kind == "reshape":
        at = made.inputs[0]
    return (made.inputs[0], True) if made is not None and made.kind == "argmax" else (value, False)


def _given(b: Builder, graph: Graph, io: dict[str, str], logits: str, batch: int) -> list[tuple[str, str]]:
    """Every output of the graph and the host view it is stored in."""
    found: dict[tuple[str, bool], str] = {(logits, False): io["logits"], (logits, True): io["prediction"]}
    for value in graph.outputs:
        root, index = _root(graph, value)
        if (root, index) not in found:
            t = graph.type(root)
            found[root, index] = b.host(f"output.{value}", "i32" if index else t.dtype, (1, 1, 1) if index else t.shape, batch)
    return [(value, found[_root(graph, value)]) for value in graph.outputs]


def _ports(graph: Graph, note: str, given: list[tuple[str, str]]) -> str:
    """What the host needs to know of inputs or outputs: JSON, a ``Port`` (``runtime/ports.py``) each."""
    default = json.dumps([{"name": v, "axes": Layout.rows(graph.type(v).shape).axes} for v, _ in given])
    rows = json.loads(graph.notes.get(note, default))
    for row, (value, view) in zip(rows, given, strict=True):
        t = graph.type(value)
        row |= {"view": view, "dtype": t.dtype, "scale": t.scale, "zero": t.zero} | ({"end": "index"} if t.dtype == "i32" else {})
    return json.dumps(rows)


def _more_results(b: Builder, emitter: ForwardEmitter, graph: Graph, given: list[tuple[str, str]], done: set[str]) -> None:
    """Store the outputs that are not the logits or their arg max."""
    for value, view in given:
        root, index = _root(graph, value)
        if view in done:
            continue
        done.add(view)
        with b.origin("output"):
            if index:
                b.emit("argmax", PREDICTION, emitter.full_view(root))
                b.emit("stw", view, PREDICTION, SAMPLE)
            else:
                b.emit("hst", view, emitter.full_view(root), SAMPLE, RowRange(0, 0, graph.type(root).shape[0]))


def _unbatched(b: Builder, name: str) -> str:
    """A host view that is the same for every sample (a spilled tensor is dead when the next sample starts)."""
    v = b.views[name]
    return b.view(name, v.space, v.dtype, v.shape, v.addr, strides=(v.row, v.pix, v.chan), batch=0)


def _tensors(graph: Graph, emitter: ForwardEmitter) -> list[list[object]]:
    """What ``Device.activations`` reads: every tensor's ONNX name, node, shape, scale and zero point, and the view it is written through by the
    instructions of its node; for a reshape, no view but the tensor whose values it has."""
    out: list[list[object]] = []
    for op in graph.ops:
        t, source = graph.type(op.output), emitter.plan.roots.get(op.output, "")
        if op.output in emitter.results or source:
            view = emitter.results.get(op.output, "")
            out.append([op.output, op.origin or op.name, list(t.shape), t.scale, t.zero, view, "" if view else source])
    return out


def _hosted(plan: ForwardPlan) -> list[str]:
    return sorted(v for v, home in plan.home.items() if home == "host")


def _logits(graph: Graph) -> str:
    """The value the loss and the arg max read."""
    return _root(graph, graph.outputs[0])[0]


def _results(b: Builder, emitter: ForwardEmitter, io: dict[str, str], logits: str) -> str:
    """Store logits and prediction of a sample; returns the logits' view in the buffer."""
    view = emitter.full_view(logits)
    h, w, _ = b.views[view].shape
    with b.origin("output"):
        b.emit("hst", io["logits"], view, SAMPLE, RowRange(0, 0, h))
        if (h, w) == (1, 1):
            b.emit("argmax", PREDICTION, view)
            b.emit("stw", io["prediction"], PREDICTION, SAMPLE)
    return view


def _train_step(
    b: Builder,
    graph: Graph,
    train: TrainGraph,
    machine: Machine,
    placement: Placement,
    fed: dict[str, str],
    io: dict[str, str],
    logits: str,
    batch: int,
    learned: dict[str, str],
) -> BackwardEmitter:
    """Emit the ``train_step`` entry, and where that needs ranges of the step before, ``train_first``, which measures them; returns the emitter, whose
    ``peak`` is what they need of the buffer."""
    stages = [
        op for op in train.ops if op.kind == "stage" and op.str_attr("mask_of") and (op.flag("mask_lo") or op.flag("mask_hi"))
    ]
    masked = {op.str_attr("mask_of"): op for op in stages}
    plan = plan_forward(graph, machine, frozenset(masked))
    wanted = {v for op in train.ops if op.kind == "update" for v in op.inputs[:1]}
    wanted |= {op.inputs[1] for op in train.ops if op.kind in ("maxpool_t", "mul_t", "lut_t")}
    hosted = [v for v in _hosted(plan) if v not in graph.inputs]
    saves: dict[str, str] = {}
    host = dict(fed)
    for v in sorted(wanted):
        root = plan.roots.get(v, v)
        t = graph.type(v)
        if root in graph.inputs:
            saves[v] = b.view(f"{v}.in", "host", t.dtype, t.shape, b.views[fed[root]].addr, batch=b.views[fed[root]].batch)
        else:
            stored = graph.type(root)
            name = b.host(f"{root}.save", stored.dtype, stored.shape, batch)
            saves[root] = name
            saves[v] = b.view(f"{v}.save", "host", t.dtype, t.shape, b.views[name].addr, batch=b.views[name].batch)
            if root in hosted:
                host[root] = name
    for v in hosted:
        if v not in host:
            name = b.host(f"{v}.spill.t", graph.type(v).dtype, graph.type(v).shape, 1)
            host[v] = _unbatched(b, name)
    masks = {v: b.host(f"{v}.mask.save", "bit", graph.type(v).shape, batch) for v in masked}
    mask_tables = {}
    for v, op in masked.items():
        ints = {
            "lo": op.int_attr("lo"),
            "hi": op.int_attr("hi"),
            "use_lo": int(op.flag("mask_lo")),
            "use_hi": int(op.flag("mask_hi")),
        }
        mask_tables[v] = (b.table(f"{v}.mask", "mask", ints), masks[v])
    loss = next(op for op in train.ops if op.kind in ("xent", "sqerr"))
    loss_error = b.host("loss.error", "i32", graph.type(logits).shape, batch)
    back = BackwardEmitter(
        b,
        train,
        placement,
        BATCH,
        SAMPLE,
        batch,
        saves,
        masks,
        {"head": HEAD_EXPONENT, "rep": MODULE_EXPONENT},
        loss_error,
        learned,
    )
    for entry in (TRAIN_STEP, TRAIN_FIRST) if back.ranges else (TRAIN_STEP,):
        b.entry(entry)
        b.emit("phase", "forward")
        with b.batch_loop(BATCH, SAMPLE):
            emitter = ForwardEmitter(b, graph, plan, placement, SAMPLE, host, saves, mask_tables, learned)
            emitter.emit()
            view = _results(b, emitter, io, logits)
            with b.origin(loss.origin or loss.name):
                _loss(b, loss, view, io, loss_error)
        back.emit(known=entry == TRAIN_STEP)
        b.emit("halt")
    back.peak = max(plan.peak, back.peak)
    return back


def _loss(b: Builder, loss: Op, output: str, io: dict[str, str], error: str) -> None:
    """Error and loss of a sample, from its output in the buffer, to the host."""
    t = b.views[output]
    height, size = t.shape[0], t.shape[0] * t.shape[1] * t.shape[2]
    squared = loss.kind == "sqerr"
    addr = _room_beside(b, output, 5 * size if squared else 4 * size)
    wide = b.view("loss.error.buf", "buf", "i32", t.shape, addr)
    if squared:
        target = b.view("loss.target.buf", "buf", t.dtype, t.shape, addr + 4 * size)
        b.emit("hld", target, io["targets"], SAMPLE, RowRange(0, 0, height))
        b.emit("sqerr", wide, output, target, LOSS)
    else:
        ints = {"mult": loss.int_attr("logit_mult"), "t_other": loss.int_attr("t_other"), "t_label": loss.int_attr("t_label")}
        b.emit("ldw", LABEL, io["labels"], SAMPLE)
        b.emit("xent", wide, output, b.table("loss", "loss", ints), LABEL, LOSS)
    b.emit("stw", io["loss"], LOSS, SAMPLE)
    b.emit("hst", error, wide, SAMPLE, RowRange(0, 0, height))


def _room_beside(b: Builder, output: str, size: int) -> int:
    """Address of ``size`` bytes of the buffer that the output does not use; nothing else is needed any more."""
    behind = -(-b.views[output].end // 4) * 4
    if behind + size <= b.machine.buffer.bytes:
        return behind
    if size <= b.views[output].addr:
        return 0
    raise CapacityError(
        f"the output, its errors and its targets need {behind - b.views[output].addr + size} bytes of the {b.machine.buffer.bytes}-byte buffer",
        where=output, hint="a smaller output, or a machine with a larger buffer.bytes",
    )  # fmt: skip


def _prove_accumulators(graph: Graph) -> None:
    """No sum of products of a convolution needs more than 32 bits, and none with its bias, times its factor, more than 64: the sum of |w| times the
    largest input, for trainable layers of the largest weights. Biases have 32 bits."""
    for op in graph.ops:
        if op.kind != "conv":
            continue
        weight = np.asarray(graph.constant(op, "weight"), dtype=np.int64)
        low, high = type_range(graph.type(op.inputs[0]).dtype)
        trains = op.flag("trainable")
        sizes = np.full(weight.shape[3], 127 * weight[..., 0].size) if trains else np.abs(weight).sum(axis=(0, 1, 2))
        columns = zip(
            *(np.asarray(graph.constant(op, role)).tolist() for role in ("bias", "mult", "shift")), sizes.tolist(), strict=True
        )
        # a learned bias is added in 32 bits, too
        learned = (1 << 30) >> op.int_attr("learned") if "learned" in op.attrs else 0
        for channel, (bias, mult, shift, size) in enumerate(columns):
            products = size * max(-low, high) + learned
            if products >= 1 << 31:
                raise CapacityError(
                    f"output channel {channel}: a 32-bit sum of products may reach {products}",
                    where=op.origin or op.name, hint="split the layer's input channels in two layers and add their outputs",
                )  # fmt: skip
            top = (products + abs(bias)) * abs(mult) + (1 << (shift - 1))
            if abs(bias) >= 1 << 31 or top >= 1 << 63 or (top >> shift) + 256 >= 1 << 31:
                raise CapacityError(
                    f"output channel {channel}: a bias of {bias} steps of its products, of up to {products}, needs more bits than there are",
                    where=op.origin or op.name, hint="give this channel a larger weight scale; that of a channel of tiny weights may be far larger than its weights ask for",
                )  # fmt: skip
