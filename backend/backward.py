"""Emit the backward pass of a batch: errors layer by layer, gradients, updates.

Error tensors live in host memory (int8 mantissas, one exponent register each). Where the range of this batch decides the exponent, a layer is propagated
for all samples before it is known (docs/reference/numerics.md), so its sums pass through one host scratch tensor (explicit, counted movement), as 32 bits or, where
rounding to nearest makes no difference of it, as 16; or they are computed once for their range and once more for the result. Where the steps before decide it, sums are cut to 8 bits before they leave the buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from sasimc.backend.builder import Builder, CapacityError, Stage, stripe_loop
from sasimc.backend.forward import geometry_of
from sasimc.backend.mapping import LayerMatrix, Placement, spread
from sasimc.backend.stripes import ring_rows, window
from sasimc.ir.graph import Op, TrainGraph
from sasimc.isa.objects import DTYPE_BYTES, Matrix
from sasimc.isa.spec import RowRange

__all__ = ["BackwardEmitter"]

Shape = tuple[int, int, int]
MOMENTUM = 3
"""A velocity keeps 1 - 2^-3 of itself a step (docs/reference/numerics.md)."""
RANGE_OFFSET, RANGE_PERIOD = 256, 16
"""A remembered range is stored plus the offset, so that 0 is less than any; it loses one bit every period (a power of two) of steps."""
PRODUCTS = ("xent", "sqerr", "merge", "conv_t", "avgpool_t", "maxpool_t", "resize_t", "mul_t", "lut_t")


class Arena:
    """Stack of addresses in the buffer for one loop nest."""

    def __init__(self, limit: int, what: str) -> None:
        self.limit, self.what, self.top = limit, what, 0

    def take(self, size: int) -> int:
        """Address of ``size`` fresh bytes."""
        addr = self.top
        self.top += -(-size // 4) * 4
        if self.top > self.limit:
            raise CapacityError(
                f"the smallest stripe of the backward pass needs {self.top} bytes of the {self.limit}-byte buffer", where=self.what,
                hint="--machine FILE with a larger buffer.bytes",
            )  # fmt: skip
        return addr


@dataclass(frozen=True)
class Leave:
    """How finished 32-bit sums leave the buffer, to ``host``: as they are, or as 16 or 8 bits that an instruction ``narrow`` makes of them, to 8 by register
    ``shift``; their range is kept in register ``bits``, where there is one. Without ``host`` that is all. ``stream``: of the random numbers that ``usr`` takes."""

    host: str
    bits: int = 0
    narrow: str = ""
    shift: int = 0
    stream: int = 0

    @property
    def dtype(self) -> str:
        """Type of what leaves."""
        return {"": "i32", "cut16": "i16"}.get(self.narrow, "i8")

    @property
    def word(self) -> int:
        """Bytes of the buffer that an element takes."""
        return 4 + (DTYPE_BYTES[self.dtype] if self.narrow else 0)


@dataclass(frozen=True)
class Stripe:
    """Views on the buffer that finished sums, and what they are cut to, pass through; ``first``: their first channel."""

    sums: str
    small: str
    leave: Leave
    first: int = 0


_SHIFTS = {"nearest": "shr8", "stochastic": "psr", "carried": "shr8c", "unbiased": "usr"}
"""How a stage rounds, and the instruction that does it."""


@dataclass
class BackwardEmitter:
    """``batch``: register with the number of samples, ``sample``: register that numbers them; ``saves``, ``masks``: host views made by the
    forward pass; ``batch_size``: largest batch; ``mu``: registers of the update magnitude by kind. ``learned``: host views of learned biases by layer. ``kept``: host views that hold something
    from one step to the next (low bytes, velocities, ranges of errors); ``ranges``: the one with a word for each product, if exponents
    come from the steps before: its gain plus an offset, 0 where nothing was measured yet; ``count``: the one with the number of steps, if random numbers round; ``levels``: of every error the word with its level, and what is to be
    added to it (docs/reference/numerics.md)."""

    b: Builder
    train: TrainGraph
    placement: Placement
    batch: int
    sample: int
    batch_size: int
    saves: Mapping[str, str]
    masks: Mapping[str, str]
    mu: Mapping[str, int]
    loss_error: str
    learned: Mapping[str, str] = field(default_factory=dict)
    ranges: str = ""
    count: str = ""
    errors: dict[str, str] = field(default_factory=dict)
    exponents: dict[str, int] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    peak: int = 0
    scratch_addr: int = 0
    levels: dict[str, tuple[str, int]] = field(default_factory=dict)
    _known: bool = False
    _step: int = 0
    _tensors: dict[str, str] = field(default_factory=dict)
    _words: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ops = self.train.ops
        largest = max((self.train.values[op.output].size for op in ops if op.output), default=0)
        self.scratch_addr = self.b.reserve_host("errors as 32-bit words", largest * 4 * self.batch_size)
        ranged = [op.output for op in ops if op.kind == "stage" and "range" in op.attrs]
        if ranged:
            self.ranges = self._keep("error.ranges", "i32", (len(ranged), 1, 1))
            self._words = {value: i for i, value in enumerate(ranged)}

    def emit(self, known: bool) -> None:
        """All operations of the training graph. ``known``: ranges of the step before are there; else this step measures them."""
        b, ops, self._known, self.levels = self.b, self.train.ops, known, {}
        draws = any("stream" in op.attrs for op in ops)
        if draws:
            self._step = b.register()
            self.count = self._keep("rounding.step", "i32")
            b.emit("ldw", self._step, self.count, 0)
        last_use = {v: i for i, op in enumerate(ops) for v in op.inputs}
        staged = {op.inputs[0]: op for op in ops if op.kind == "stage"}
        phase = ""
        for i, op in enumerate(ops):
            wanted = "update" if op.kind == "update" else "error"
            if wanted != phase:
                b.emit("phase", wanted)
                phase = wanted
            with b.origin(op.origin or op.name):
                if op.kind in PRODUCTS:
                    # sums are quantised at once: 32-bit errors never wait
                    self._product(staged[op.output], op)
                elif op.kind == "stage":
                    if op.inputs[0] in self.errors:
                        self._bytes(op)
                else:
                    getattr(self, f"_{op.kind}")(op)
            for v in dict.fromkeys(op.inputs):
                if last_use[v] == i and v in self.exponents:
                    self._drop(v)
        if draws:
            b.emit("addi", self._step, self._step, 1)
            b.emit("stw", self.count, self._step, 0)
            b.release(self._step)
        b.emit("phase", "forward")

    # --- names -----------------------------------------------------------------------------------------------------------

    def _type(self, value: str) -> Shape:
        return self.train.values[value].shape

    def _tensor(self, base: str, dtype: str, shape: Shape, batch: int) -> str:
        """A tensor in host memory, the same one in every entry."""
        if base not in self._tensors:
            self._tensors[base] = self.b.host(base, dtype, shape, batch)
        return self._tensors[base]

    def _keep(self, base: str, dtype: str, shape: Shape = (1, 1, 1)) -> str:
        """Likewise, with something in it from one step to the next."""
        if base not in self._tensors:
            self.kept.append(self._tensor(base, dtype, shape, 1))
        return self._tensors[base]

    def _drop(self, value: str) -> None:
        reg = self.exponents.pop(value)
        if reg not in self.exponents.values():
            self.b.release(reg)

    def _forward(self, op: Op) -> Op:
        return self.train.forward.op(op.str_attr("forward"))

    def _waiting(self, shape: Shape, dtype: str) -> str:
        """The scratch tensor of sums that wait, in this shape."""
        h, w, c = shape
        size = DTYPE_BYTES[dtype]
        return self.b.view(f"e{8 * size}", "host", dtype, shape, self.scratch_addr, batch=h * w * c * size)

    def _level_as(self, value: str, other: str, more: int = 0) -> None:
        if other in self.levels:
            word, before = self.levels[other]
            self.levels[value] = word, before + more

    def _contiguous(self, view: str) -> bool:
        v = self.b.views[view]
        return v.chan == 1 and v.pix == v.channels and v.row == v.width * v.channels

    def _alias(self, op: Op, host: str) -> None:
        """The output is another view of the input's mantissas; the exponent is shared."""
        self.errors[op.output] = host
        self.exponents[op.output] = self.exponents[op.inputs[0]]
        self._level_as(op.output, op.inputs[0])

    # --- loss and views --------------------------------------------------------------------------------------------------

    def _slice_t(self, op: Op) -> None:
        source = self.errors[op.inputs[0]]
        self._alias(op, self.b.slice(source, op.ints("start"), op.ints("step"), self._type(op.output)))

    def _scatter_t(self, op: Op) -> None:
        """Zeros to host, then the error over them."""
        b, fwd, source = self.b, self._forward(op), self.errors[op.inputs[0]]
        host = self._tensor(op.output, "i8", self._type(op.output), self.batch_size)
        for value, load, store in (
            (op.output, "", host),
            (op.inputs[0], source, b.slice(host, fwd.ints("start"), fwd.ints("step"), self._type(op.inputs[0]))),
        ):
            h, w, c = shape = self._type(value)
            rows = self._fit_rows(h, w * c)
            view = b.view("e.part", "buf", "i8", shape, 0, ring=rows)
            self.peak = max(self.peak, rows * w * c)

            def run(rr: RowRange, view: str = view, load: str = load, store: str = store) -> None:
                if load:
                    b.emit("hld", view, load, self.sample, rr)
                else:
                    b.emit("fill", view, 0, rr)
                b.emit("hst", store, view, self.sample, rr)

            with b.overlapped(), b.batch_loop(self.batch, self.sample):
                stripe_loop(b, [Stage(rows, 0, h, run)])
        self._alias(op, host)

    def _reshape_t(self, op: Op) -> None:
        v, shape = self.b.views[self.errors[op.inputs[0]]], self._type(op.output)
        if not self._contiguous(self.errors[op.inputs[0]]):
            raise CapacityError("the error of a reshape must be contiguous", where=op.name)
        self._alias(op, self.b.view(op.output, "host", "i8", shape, v.addr, batch=v.batch))

    def _crop_t(self, op: Op) -> None:
        v = self.b.views[self.errors[op.inputs[0]]]
        top, left = self._forward(op).ints("pads")[:2]
        shape = self._type(op.output)
        addr = v.addr + top * v.row + left * v.pix
        self._alias(op, self.b.view(op.output, "host", "i8", shape, addr, strides=(v.row, v.pix, v.chan), batch=v.batch))

    # --- quantisation ----------------------------------------------------------------------------------------------------

    def _bytes(self, op: Op) -> None:
        """A stage on an error of 8 bits: neither mask nor channel scale makes a mantissa larger, so that its exponent is known."""
        value, exponent = op.inputs[0], self.b.register()
        source, shape = self.errors[value], self._type(op.output)
        self._level_as(op.output, value, op.int_attr("exp_add"))
        self.b.emit("addi", exponent, self.exponents[value], op.int_attr("exp_add"))
        self.exponents[op.output] = exponent
        if not self._masked(op) and "kscale" not in op.consts and self._contiguous(source):
            self.errors[op.output] = source
            return
        host = self.errors[op.output] = self._tensor(op.output, "i8", shape, self.batch_size)
        self._pass1_pointwise(op, shape, [(source, "i8")], None, Leave(host, narrow="shr8"))

    def _product(self, op: Op, product: Op) -> None:
        """Sums of a product, masked and scaled, to 8 bits: by the gain that the steps before had here, or by their own range, which takes a second pass."""
        b, shape = self.b, self._type(op.output)
        bits, shift, exponent, near = (b.register() for _ in range(4))
        narrow, stream = _SHIFTS[str(op.attrs.get("rounding", "nearest"))], op.int_attr("stream") if "stream" in op.attrs else 0
        host = self._tensor(op.output, "i8", shape, self.batch_size)
        gain = self._word(self.ranges, self._words[op.output]) if op.output in self._words else ""
        predicted = bool(gain) and self._known
        before = b.register() if predicted else 0

        def sums(leave: Leave) -> None:
            self._sums(op, product, shape, leave)

        def spill(cut: str = "") -> None:
            leave = Leave("", bits, cut)
            waiting = self._waiting(shape, leave.dtype)
            sums(replace(leave, host=waiting))
            self._shift_of(shift, bits)
            self._pass2(op, waiting, Leave(host, 0, narrow, shift, stream))

        def half() -> None:
            spill("cut16")

        def again() -> None:
            sums(Leave("", bits))
            self._shift_of(shift, bits)
            sums(Leave(host, 0, narrow, shift, stream))

        self._exponent(op, product, exponent)
        if gain:
            self._near(product, near)
        b.emit("li", bits, 0)
        if predicted:
            b.emit("ldw", before, gain, 0)
            b.emit("add", shift, near, before)
            b.emit("sub", shift, shift, exponent)
            b.emit("addi", shift, shift, -RANGE_OFFSET)
            self._shift_of(shift, shift)
            sums(Leave(host, bits, narrow, shift, stream))
        else:
            nearest = narrow == "shr8"  # what 16 bits give, too
            ways = {
                "always": [spill], "half": [half if nearest else spill], "never": [again], "cheaper": [again, *([half] if nearest else []), spill]
            }  # fmt: skip
            b.cheapest(self.batch, self.batch_size, *ways[self.train.options.get("spill", "cheaper")])
        if self.ranges:
            b.emit("add", bits, bits, exponent)
            self.levels[op.output] = (
                self._word(self._tensor("error.levels", "i32", (len(self.train.ops), 1, 1), 1), len(self.levels)),
                0,
            )
            b.emit("stw", self.levels[op.output][0], bits, 0)
        if gain:
            b.emit("sub", bits, bits, near)
            b.emit("addi", bits, bits, RANGE_OFFSET)
            if predicted:
                b.emit("addi", before, before, -1)
                b.emit("max", bits, bits, before)
                b.release(before)
            b.emit("stw", gain, bits, 0)
        b.emit("add", exponent, exponent, shift)
        self.errors[op.output], self.exponents[op.output] = host, exponent
        for register in (bits, shift, near):
            b.release(register)

    def _word(self, view: str, index: int) -> str:
        """A word of a view."""
        return self.b.view(f"{view}.{index}", "host", "i32", (1, 1, 1), self.b.views[view].addr + 4 * index, batch=4)

    def _near(self, product: Op, near: int) -> None:
        """Register ``near`` takes the level of what a product is made from: of a merge, the higher one."""
        b, other = self.b, self.b.register()
        for i, value in enumerate(v for v in product.inputs if v in self.levels):
            word, more = self.levels[value]
            b.emit("ldw", other, word, 0)
            b.emit("addi", other, other, more)
            b.emit("max", near, near if i else other, other)
        b.release(other)

    def _shift_of(self, shift: int, bits: int) -> None:
        self.b.emit("addi", shift, bits, -7)
        self.b.emit("max", shift, shift, 0)

    def _sums(self, op: Op, product: Op, shape: Shape, leave: Leave) -> None:
        """Sums of a product, mask, channel scale, range."""
        if product.kind in ("xent", "sqerr"):
            self._pass1_pointwise(op, shape, [(self.loss_error, "i32")], None, leave)
        elif product.kind == "merge":
            left, right = product.inputs
            exponents = self.exponents[left], self.exponents[right]
            self._pass1_pointwise(op, shape, [(self.errors[left], "i8"), (self.errors[right], "i8")], exponents, leave)
        else:
            passes = self._pass1_factor if product.kind in ("mul_t", "lut_t") else self._pass1_scatter
            passes(op, product, self.errors[product.inputs[0]], shape, leave)

    def _exponent(self, op: Op, product: Op, exponent: int) -> None:
        """Register ``exponent`` takes that of the sums."""
        b, extra = self.b, op.int_attr("exp_add")
        if product.kind in ("xent", "sqerr"):
            b.emit("li", exponent, extra)
        elif product.kind == "merge":
            left, right = product.inputs
            b.emit("max", exponent, self.exponents[left], self.exponents[right])
            b.emit("addi", exponent, exponent, extra - 8)
        else:
            extra += product.int_attr("exp_add") if "exp_add" in product.attrs else 0
            b.emit("addi", exponent, self.exponents[product.inputs[0]], extra)

    def _scale_table(self, op: Op, role: str, first: int, count: int) -> str:
        """The constants of a stage's factor (``kpool`` or ``kscale``), channels first..first+count-1; empty when it has none."""
        if role not in op.consts:
            return ""
        k = self.train.constants[op.consts[role]]
        suffix = f".c{first}" if count != k.size else ""
        return self.b.table(op.name + suffix, "scale", {}, {"k": k[first : first + count]})

    def _drain32(self, op: Op, acc: str, stripe: Stripe, mask: str, mask_host: str, rr: RowRange, first: int = 0) -> None:
        """Rows of error sums, finished: from the accumulators to 32 bits, masked and scaled, then to host memory."""
        b = self.b
        b.emit("drain", stripe.sums, acc, rr)
        if mask:
            b.emit("hld", mask, mask_host, self.sample, rr)
        self._post(op, stripe.sums, mask, rr, first)
        self._out(stripe, stripe.sums, rr)

    def _stripe(self, arena: Arena, leave: Leave, shape: Shape, rows: int, host: str = "", first: int = 0) -> Stripe:
        """Room for finished sums, ``rows`` at a time; ``host``: a part of where they go, from channel ``first`` on."""
        b, (_, w, c), held = self.b, shape, min(rows, shape[0])
        sums = b.view("e.sum", "buf", "i32", shape, arena.take(held * w * c * 4), ring=rows)
        small = ""
        if leave.narrow:
            size = held * w * c * DTYPE_BYTES[leave.dtype]
            small = b.view("e.small", "buf", leave.dtype, shape, arena.take(size), ring=rows)
        return Stripe(sums, small, replace(leave, host=host or leave.host), first)

    def _out(self, stripe: Stripe, sums: str, rr: RowRange) -> None:
        """Finished sums to host memory."""
        b, leave = self.b, stripe.leave
        if leave.bits and leave.dtype == "i8":
            b.emit("rangec", leave.bits, sums, leave.shift, rr)
        elif leave.bits:
            b.emit("range", leave.bits, sums, rr)
        if leave.narrow:
            self._cut(leave, stripe.small, sums, stripe.first, rr)
            sums = stripe.small
        if leave.host:
            b.emit("hst", leave.host, sums, self.sample, rr)

    def _cut(self, leave: Leave, small: str, sums: str, first: int, rr: RowRange) -> None:
        """Sums of channels from ``first`` on to 16 or 8 bits."""
        shift = (leave.shift,) if leave.dtype == "i8" else ()
        drawn = (self._step, self.sample, leave.stream, first) if leave.narrow == "usr" else ()
        self.b.emit(leave.narrow, small, sums, *shift, *drawn, rr)

    def _post(self, op: Op, view: str, mask: str, rr: RowRange, first: int = 0) -> None:
        """Pool factor, mask and channel scale in place on a 32-bit stripe of channels from ``first`` on."""
        b, count = self.b, self.b.views[view].channels
        if table := self._scale_table(op, "kpool", first, count):
            b.emit("escale", view, view, table, rr)
        if mask:
            b.emit("emask", view, view, mask, rr)
        if table := self._scale_table(op, "kscale", first, count):
            b.emit("escale", view, view, table, rr)

    @staticmethod
    def _masked(op: Op) -> bool:
        return bool(op.str_attr("mask_of")) and (op.flag("mask_lo") or op.flag("mask_hi"))

    def _mask_view(self, op: Op, arena: Arena, shape: Shape, rows: int) -> tuple[str, str]:
        """(buffer view, host view) of the clip mask a stage applies; empty names when there is none."""
        if not self._masked(op):
            return "", ""
        name = op.str_attr("mask_of")
        addr = arena.take(min(rows, shape[0]) * -(-shape[1] * shape[2] // 8))
        return self.b.view(f"{name}.bits", "buf", "bit", shape, addr, ring=rows), self.masks[name]

    def _fit_rows(self, height: int, bytes_per_row: int) -> int:
        """Rows of a stripe so that everything fits the buffer (at least 1)."""
        rows = max(1, min(height, (self.b.machine.buffer.bytes - 64) // max(1, bytes_per_row)))
        return -(-height // -(-height // rows))

    def _pass1_pointwise(
        self, op: Op, shape: Shape, sources: list[tuple[str, str]], merge: tuple[int, int] | None, leave: Leave
    ) -> None:
        """Element-wise: load, (aligned add,) mask, scale, store."""
        b, (h, w, c) = self.b, shape
        per_row = w * c * (leave.word + sum(4 if t == "i32" else 1 for _, t in sources)) + -(-w * c // 8) + 8
        rows = self._fit_rows(h, per_row)
        arena = Arena(b.machine.buffer.bytes, op.origin or op.name)
        loaded = []
        for i, (host, dtype) in enumerate(sources):
            size = rows * w * c * (4 if dtype == "i32" else 1)
            loaded.append((host, b.view(f"e.in{i}", "buf", dtype, shape, arena.take(size), ring=rows), dtype))
        stripe = self._stripe(arena, leave, shape, rows)
        out = stripe.sums
        mask, mask_host = self._mask_view(op, arena, shape, rows)
        scale = self._scale_table(op, "kscale", 0, c)

        def run(rr: RowRange) -> None:
            for host, view, _ in loaded:
                b.emit("hld", view, host, self.sample, rr)
            if mask:
                b.emit("hld", mask, mask_host, self.sample, rr)
            result = out
            if merge is not None:
                b.emit("adda", out, loaded[0][1], loaded[1][1], *merge, rr)
                self._post(op, out, mask, rr)
            else:
                view, dtype = loaded[0][1:]
                if mask:
                    b.emit("emask", out, view, mask, rr)
                    view = out
                if scale:
                    b.emit("escale", out, view, scale, rr)
                elif not mask:
                    if dtype == "i32":
                        result = view
                    else:
                        table = b.table("identity", "scale", {}, {"k": [1 << 15] * c})
                        b.emit("escale", out, view, table, rr)
            self._out(stripe, result, rr)

        self.peak = max(self.peak, arena.top)
        with b.overlapped(), b.batch_loop(self.batch, self.sample):
            stripe_loop(b, [Stage(rows, 0, h, run)])

    def _pass2(self, op: Op, waiting: str, leave: Leave) -> None:
        """Sums that wait in host memory to 8 bits."""
        b, v = self.b, self.b.views[waiting]
        h, w, c = shape = v.shape
        rows = self._fit_rows(h, (v.unit + 1) * w * c)
        arena = Arena(b.machine.buffer.bytes, op.origin or op.name)
        wide = b.view("e.wide", "buf", v.dtype, shape, arena.take(rows * w * c * v.unit), ring=rows)
        small = b.view("e.small", "buf", "i8", shape, arena.take(rows * w * c), ring=rows)

        def run(rr: RowRange) -> None:
            b.emit("hld", wide, waiting, self.sample, rr)
            self._cut(leave, small, wide, 0, rr)
            b.emit("hst", leave.host, small, self.sample, rr)

        self.peak = max(self.peak, arena.top)
        with b.overlapped(), b.batch_loop(self.batch, self.sample):
            stripe_loop(b, [Stage(rows, 0, h, run)])

    def _pass1_scatter(self, op: Op, product: Op, source: str, shape: Shape, leave: Leave) -> None:
        """Errors stream through a product into accumulators of the input's positions; finished rows are drained."""
        b = self.b
        fwd = self._forward(product)
        e_shape = self._type(product.inputs[0])
        if product.kind == "avgpool_t" and fwd.flag("global"):
            self._pass1_broadcast(op, source, shape, e_shape, leave)
            return
        channelwise = product.kind != "conv_t" or fwd.flag("depthwise")
        entries = b.machine.accumulator.entries
        if product.kind == "resize_t":
            stride, extent, pad = 1, shape[0], 0
        else:
            stride, extent, pad = window(fwd, shape)

        def ring(rows: int) -> int:
            return shape[0] if product.kind == "resize_t" else min(shape[0], ring_rows(rows * stride, stride, extent))

        chunk = shape[2]
        if ring(1) * shape[1] * chunk > entries:
            if not channelwise:
                raise CapacityError(
                    f"errors of one stripe need {ring(1) * shape[1] * chunk} accumulator words, {entries} are available",
                    where=fwd.origin or fwd.name, hint="--machine FILE with a larger accumulator.entries",
                )  # fmt: skip
            chunk = entries // (ring(1) * shape[1])
            if not chunk or op.str_attr("mask_of"):
                raise CapacityError(
                    f"one channel of {ring(1)} x {shape[1]} errors does not fit {entries} accumulator words",
                    where=fwd.origin or fwd.name,
                )
        for first in range(0, shape[2], chunk):
            count = min(chunk, shape[2] - first)
            self._scatter_chunk(op, product, fwd, source, shape, e_shape, leave, (stride, extent, pad), ring, first, count)

    def _pass1_broadcast(self, op: Op, source: str, shape: Shape, e_shape: Shape, leave: Leave) -> None:
        """Backward of a global pool: every position reads the one error of its channel."""
        b, (h, w, c) = self.b, shape
        rows = min(
            self._fit_rows(h, w * c * leave.word + -(-w * c // 8) + 8 + -(-c // h)),
            max(1, b.machine.accumulator.entries // (w * c)),
        )
        rows = -(-h // -(-h // rows))
        arena = Arena(b.machine.buffer.bytes, op.origin or op.name)
        e_view = b.view("e.in0", "buf", "i8", e_shape, arena.take(c))
        acc = b.view("e.acc", "acc", "i32", shape, 0, ring=rows)
        stripe = self._stripe(arena, leave, shape, rows)
        mask, mask_host = self._mask_view(op, arena, shape, rows)
        geom = b.geometry(mode="nearest")

        def run(rr: RowRange) -> None:
            b.emit("ups", acc, e_view, geom, rr)
            self._drain32(op, acc, stripe, mask, mask_host, rr)

        self.peak = max(self.peak, arena.top)
        with b.overlapped(), b.batch_loop(self.batch, self.sample):
            b.emit("hld", e_view, source, self.sample, RowRange(0, 0, 1))
            stripe_loop(b, [Stage(rows, 0, h, run)])

    def _pass1_factor(self, op: Op, product: Op, source: str, shape: Shape, leave: Leave) -> None:
        """Errors times what the forward pass saved: the other factor of a product, or a table's slope at its input. Where that factor was
        broadcast, the sums over all rows are finished behind the loop."""
        b, e_shape, x_name = self.b, self._type(product.inputs[0]), product.inputs[1]
        (h, w, c), (he, we, ce) = shape, e_shape
        x_type = self.train.forward.type(x_name)
        (hx, wx, cx), look_up = x_type.shape, product.kind == "lut_t"
        whole_x, whole_out = hx < he, h < he

        def need(rows: int) -> int:
            x_bytes = (hx if whole_x else rows) * wx * cx * (2 if look_up else 1)
            return rows * we * ce + x_bytes + (h if whole_out else rows) * (w * c * leave.word + -(-w * c // 8) + 8) + 64

        rows = he
        while rows > 1 and (
            need(rows) > b.machine.buffer.bytes or (h if whole_out else rows) * w * c > b.machine.accumulator.entries
        ):
            rows -= 1
        rows = -(-he // -(-he // rows))
        if (words := (h if whole_out else rows) * w * c) > b.machine.accumulator.entries:
            raise CapacityError(
                f"errors of one stripe need {words} accumulator words, {b.machine.accumulator.entries} are available",
                where=op.origin or op.name, hint="--machine FILE with a larger accumulator.entries",
            )  # fmt: skip
        if 128 * 255 * (e_size := he * we * ce // (h * w * c)) >= 1 << 31:
            raise CapacityError(
                f"a sum of {e_size} errors may need more than 32 bits",
                where=op.origin or op.name,
                hint="train fewer layers, or --backprop truncated",
            )
        arena = Arena(b.machine.buffer.bytes, op.origin or op.name)
        x_rows, out_rows = hx if whole_x else rows, h if whole_out else rows
        e_view = b.view("e.in0", "buf", "i8", e_shape, arena.take(rows * we * ce), ring=rows)
        x_bytes = x_rows * wx * cx
        x_view = b.view(
            f"{x_name}.saved", "buf", x_type.dtype, x_type.shape, arena.take(x_bytes), ring=x_rows, pad=x_type.zero
        )  # fmt: skip
        factor, table = x_view, ""
        if look_up:
            factor = b.view("e.slope", "buf", "i8", x_type.shape, arena.take(x_bytes), ring=x_rows)
            table = b.table(product.name, "lut", {}, {"values": self.train.constant(product, "slope").reshape(-1)})
        acc = b.view(f"{product.name}.acc", "acc", "i32", shape, 0, ring=out_rows)
        stripe = self._stripe(arena, leave, shape, out_rows)
        mask, mask_host = self._mask_view(op, arena, shape, out_rows)

        def load(rr: RowRange) -> None:
            b.emit("hld", x_view, self.saves[x_name], self.sample, rr)
            if table:
                b.emit("lut", factor, x_view, table, rr)

        def stream(rr: RowRange) -> None:
            b.emit("hld", e_view, source, self.sample, rr)
            if not whole_x:
                load(rr)
            b.emit("prod", acc, e_view, factor, rr)
            if not whole_out:
                finish(rr)

        def finish(rr: RowRange) -> None:
            self._drain32(op, acc, stripe, mask, mask_host, rr)

        self.peak = max(self.peak, arena.top)
        with b.overlapped(), b.batch_loop(self.batch, self.sample):
            if whole_x:
                load(RowRange(0, 0, hx))
            stripe_loop(b, [Stage(rows, 0, he, stream)])
            if whole_out:
                finish(RowRange(0, 0, h))

    def _scatter_chunk(
        self, op: Op, product: Op, fwd: Op, source: str, shape: Shape, e_shape: Shape, leave: Leave,
        win: tuple[int, int, int], ring: Callable[[int], int], first: int, count: int,
    ) -> None:  # fmt: skip
        b = self.b
        stride, extent, pad = win
        partial = count != shape[2]
        e_channels = count if partial else e_shape[2]
        (h, w, _), (he, we, _) = shape, e_shape
        resize = product.kind == "resize_t"

        def out_rows(rows: int) -> int:
            return h if resize else rows * stride

        def need(rows: int) -> int:
            total = rows * we * e_channels + min(h, out_rows(rows)) * (w * count * leave.word + -(-w * count // 8) + 8) + 64
            if product.kind == "maxpool_t":
                total += min(h, ring_rows(rows * stride, stride, extent)) * w * count
            return total

        rows = he
        while rows > 1 and (need(rows) > b.machine.buffer.bytes or ring(rows) * w * count > b.machine.accumulator.entries):
            rows -= 1
        if resize and need(rows) > b.machine.buffer.bytes:
            raise CapacityError("the errors of a resize do not fit the buffer", where=fwd.origin or fwd.name)
        rows = -(-he // -(-he // rows))
        chunk_shape, e_chunk = (h, w, count), (he, we, e_channels)
        arena = Arena(b.machine.buffer.bytes, op.origin or op.name)
        acc = b.view(f"{product.name}.acc", "acc", "i32", chunk_shape, 0, ring=ring(rows))
        e_view = b.view("e.in0", "buf", "i8", e_chunk, arena.take(rows * we * e_channels), ring=rows)
        r_out = out_rows(rows)
        stripe = self._stripe(
            arena, leave, chunk_shape, r_out, b.channel_slice(leave.host, first, count) if leave.host else "", first
        )
        mask, mask_host = self._mask_view(op, arena, chunk_shape, r_out)
        e_host = b.channel_slice(source, first, e_channels) if partial else source
        geom = geometry_of(b, fwd, shape)
        stages: list[Stage] = []
        x_view = ""
        if product.kind == "maxpool_t":
            x_name = product.inputs[1]
            x_type = self.train.forward.type(x_name)
            x_rows = ring_rows(rows * stride, stride, extent)
            size = min(h, x_rows) * w * count
            x_view = b.view(f"{x_name}.saved", "buf", x_type.dtype, chunk_shape, arena.take(size), ring=x_rows, pad=x_type.zero)
            x_host = b.channel_slice(self.saves[x_name], first, count)

            def load_x(rr: RowRange) -> None:
                b.emit("hld", x_view, x_host, self.sample, rr)

            stages.append(Stage(rows * stride, extent - stride - pad, h, load_x))

        def stream(rr: RowRange) -> None:
            b.emit("hld", e_view, e_host, self.sample, rr)
            if product.kind == "avgpool_t":
                b.emit("pavgt", acc, e_view, geom, rr)
            elif product.kind == "maxpool_t":
                b.emit("pmaxt", acc, e_view, x_view, geom, rr)
            elif resize:
                b.emit("upst", acc, e_view, geom, rr)
            elif fwd.flag("depthwise"):
                b.emit("dwmt", acc, e_view, self._whole_matrix(fwd, first, count), geom, rr)
            else:
                for part, matrix in self.placement.backward(fwd.name):
                    target = b.channel_slice(acc, part.c0, part.cin)
                    b.emit("vmmt", target, b.channel_slice(e_view, part.n0, part.n), b.matrix(matrix), geom, rr)

        def finish(rr: RowRange) -> None:
            self._drain32(op, acc, stripe, mask, mask_host, rr, first)

        self.peak = max(self.peak, arena.top)
        stages.append(Stage(rows, 0, he, stream))
        with b.overlapped(), b.batch_loop(self.batch, self.sample):
            if resize:
                stripe_loop(b, stages)
                stripe_loop(b, [Stage(h, 0, h, finish)])
            else:
                stages.append(Stage(r_out, -pad, h, finish))
                stripe_loop(b, stages)

    def _whole_matrix(self, fwd: Op, first: int, count: int) -> str:
        (_, matrix) = self.placement.layers[fwd.name][0]
        if count != matrix.k:
            raise CapacityError("the errors of a depth-wise layer do not fit the accumulators", where=fwd.origin or fwd.name)
        return self.b.matrix(matrix)

    # --- gradients and updates -------------------------------------------------------------------------------------------

    def _update(self, op: Op) -> None:
        """Gradient of each block of columns over the whole batch, its range, then rounding and row updates."""
        b = self.b
        scheme = str(op.attrs.get("scheme", "direct"))
        fwd = self._forward(op)
        x_name, e_name = op.inputs
        parts = self.placement.layers[fwd.name]
        scratch = self.placement.scratch
        assert scratch is not None
        bits, shift = b.register(), b.register()
        learned = fwd.name in self.learned
        top = b.register() if learned else 0  # likewise of the bias
        b.emit("phase", "gradient")
        b.emit("li", bits, 0)
        if learned:
            b.emit("li", top, 0)
        blocks: list[tuple[list[Matrix], str, int, int, int]] = []
        for part, matrix in parts:
            width = max(1, min(matrix.n, b.machine.accumulator.entries // (matrix.k + learned)))
            if matrix.k + learned > b.machine.accumulator.entries:
                raise CapacityError(f"a gradient of {matrix.k} rows does not fit the accumulators", where=fwd.origin or fwd.name)
            if part.kind == "depthwise":
                if matrix.k * (matrix.n + learned) > b.machine.accumulator.entries:
                    raise CapacityError(
                        "the gradient of a depth-wise layer does not fit the accumulators", where=fwd.origin or fwd.name
                    )
                width = matrix.n
            width = -(-matrix.n // -(-matrix.n // width))
            for first in range(0, matrix.n, width):
                count = min(width, matrix.n - first)
                host = self._tensor(f"{matrix.name}.g{first}", "i32", (matrix.k, 1, count), 1)
                self._gradient_block(op, fwd, part, matrix, x_name, e_name, scratch, first, count, host, bits, top)
                twin = self.placement.twins.get(part.name)
                blocks.append(([matrix, twin] if twin else [matrix], host, first, count, part.n0))
        b.emit("phase", "update")
        if op.attrs.get("range") == "peak":
            self._remembered_range(fwd.name, bits, self.exponents[e_name])
        b.emit("sub", shift, bits, self.mu[op.str_attr("mu")])
        if scheme != "direct":  # steps are in 256ths; a velocity adds up to 2^MOMENTUM of them
            b.emit("addi", shift, shift, (MOMENTUM if scheme == "momentum" else 0) - 8)
        for matrices, host, first, count, n0 in blocks:
            self._update_block(op, scheme, matrices, host, first, count, shift, n0)
        if learned:
            b.emit("max", top, top, bits)
            b.emit("sub", shift, top, self.mu[op.str_attr("mu")])
            b.emit("addi", shift, shift, (MOMENTUM if scheme == "momentum" else 0) - 8)
            self._update_bias(op, fwd, scheme, shift)
            b.release(top)
        b.release(bits)
        b.release(shift)

    def _round(self, op: Op, dst: str, src: str, shift: int, first: int, rr: RowRange, more: int = 0) -> None:
        """A gradient of columns from ``first`` on to a step; ``more``: 1 for a learned bias."""
        if "stream" in op.attrs:
            self.b.emit("usr", dst, src, shift, self._step, 0, op.int_attr("stream") + more, first, rr)
        else:
            self.b.emit("psr", dst, src, shift, rr)

    def _update_bias(self, op: Op, fwd: Op, scheme: str, shift: int) -> None:
        """The learned bias takes the step that a weight with input 2^p would take; in 256ths of a weight's step whatever the scheme, since it has 32 bits."""
        b, learned = self.b, self.learned[fwd.name]
        shape, rows = b.views[learned].shape, RowRange(0, 0, 1)
        arena = Arena(b.machine.buffer.bytes, fwd.origin or fwd.name)
        step, bias = (b.view(base, "buf", "i32", shape, arena.take(4 * shape[2])) for base in ("b.step", "b.learned"))
        b.emit("hld", step, self._tensor(f"{learned}.gradient", "i32", shape, 1), 0, rows)
        self._round(op, step, step, shift, 0, rows, 1)
        if scheme == "momentum":
            velocity, host = (
                b.view("b.velocity", "buf", "i32", shape, arena.take(4 * shape[2])),
                self._keep(f"{learned}.velocity", "i32", shape),
            )
            b.emit("hld", velocity, host, 0, rows)
            b.emit("mom", velocity, step, MOMENTUM, rows)
            b.emit("hst", host, velocity, 0, rows)
            step = velocity
        b.emit("hld", bias, learned, 0, rows)
        b.emit("bupd", bias, step, rows)
        b.emit("hst", learned, bias, 0, rows)
        self.peak = max(self.peak, arena.top)

    def _remembered_range(self, layer: str, bits: int, exponent: int) -> None:
        """bits = largest range of the batches so far, in units of this one: two words in host memory, the range (plus an offset) and a count
        of steps down to 0, at which the range loses one bit."""
        b = self.b
        top_host, count_host = (self._keep(f"{layer}.{what}", "i32") for what in ("range", "count"))
        top, count, less = b.register(), b.register(), b.register()
        b.emit("ldw", top, top_host, 0)
        b.emit("ldw", count, count_host, 0)
        b.emit("li", less, 1)  # less = 1 when count = 0, else 0
        b.emit("sub", less, less, count)
        b.emit("max", less, less, 0)
        b.emit("sub", top, top, less)
        b.emit("add", bits, bits, exponent)
        b.emit("addi", bits, bits, RANGE_OFFSET)
        b.emit("max", top, top, bits)
        b.emit("stw", top_host, top, 0)
        b.emit("sub", bits, top, exponent)
        b.emit("addi", bits, bits, -RANGE_OFFSET)
        b.emit("addi", count, count, -1)
        for _ in range(RANGE_PERIOD.bit_length() - 1):
            b.emit("add", less, less, less)
        b.emit("add", count, count, less)
        b.emit("stw", count_host, count, 0)
        for register in (top, count, less):
            b.release(register)

    def _update_block(
        self, op: Op, scheme: str, matrices: list[Matrix], gradient: str, first: int, count: int, shift: int, n0: int
    ) -> None:
        """Rounding and row updates of columns first..first+count-1 of a matrix whose first is output ``n0``; what the scheme keeps stays in host memory (``kept``)."""
        b, k = self.b, matrices[0].k
        rows = self._fit_rows(k, {"direct": 5, "accumulate": 6, "momentum": 10}[scheme] * count)
        arena = Arena(b.machine.buffer.bytes, op.origin or op.name)

        def stripe(base: str, dtype: str) -> str:
            return b.view(base, "buf", dtype, (k, 1, count), arena.take(rows * count * (4 if dtype == "i32" else 1)), ring=rows)

        def keep(what: str, dtype: str) -> str:
            return self._keep(f"{matrices[0].name}.{what}{first}", dtype, (k, 1, count))

        g, delta = stripe("g.in", "i32"), stripe("g.delta", "i8")
        low = velocity = low_host = velocity_host = ""
        if scheme != "direct":
            low, low_host = stripe("w.low", "i8"), keep("low", "i8")
        if scheme == "momentum":
            velocity, velocity_host = stripe("w.velocity", "i32"), keep("velocity", "i32")

        def run(rr: RowRange) -> None:
            b.emit("hld", g, gradient, 0, rr)
            self._round(op, g if low else delta, g, shift, n0 + first, rr)
            if velocity:
                b.emit("hld", velocity, velocity_host, 0, rr)
                b.emit("mom", velocity, g, MOMENTUM, rr)
                b.emit("hst", velocity_host, velocity, 0, rr)
            if low:
                b.emit("hld", low, low_host, 0, rr)
                b.emit("carry", delta, low, velocity or g, rr)
                b.emit("hst", low_host, low, 0, rr)
            for matrix in matrices:
                b.emit("wupc" if low else "wupd", b.matrix(matrix), delta, first, rr)

        self.peak = max(self.peak, arena.top)
        stripe_loop(b, [Stage(rows, 0, k, run)])

    def _scale_gradient(self, op: Op, part: LayerMatrix, view: str, first: int, rr: RowRange) -> None:
        """Divide the gradients of each output channel by its scale (``gscale``): columns of a dense matrix, rows of a depth-wise one."""
        b, v = self.b, self.b.views[view]
        if "gscale" not in op.consts:
            return
        k = self.train.constants[op.consts["gscale"]]
        if part.kind != "depthwise":
            k = k[part.n0 + first : part.n0 + first + v.channels]
        elif v.rows_held < v.height:
            raise CapacityError(
                "the gradients of a depth-wise layer must fit the buffer to be scaled", where=op.origin or op.name
            )
        else:
            view = b.view(f"{view}.t", "buf", "i32", (v.channels, 1, v.height), v.addr, strides=(v.chan, v.row, v.row))
            rr = RowRange(0, 0, v.channels)
        b.emit("escale", view, view, b.table(f"{op.name}.k{first}", "scale", {}, {"k": k}), rr)

    def _gradient_block(
        self,
        op: Op,
        fwd: Op,
        part: LayerMatrix,
        matrix: Matrix,
        x_name: str,
        e_name: str,
        scratch: Matrix,
        first: int,
        count: int,
        host: str,
        bits: int,
        top: int,
    ) -> None:
        b = self.b
        x_type = self.train.forward.type(x_name)
        (hx, wx, _), (he, we, _) = x_type.shape, self._type(e_name)
        stride, extent, pad = window(fwd, x_type.shape)
        depthwise = part.kind == "depthwise"
        ce = part.n if depthwise else count

        def need(rows: int) -> int:
            return rows * we * ce + min(hx, ring_rows(rows * stride, stride, extent)) * wx * part.cin + 64

        rows = he
        while rows > 1 and need(rows) > b.machine.buffer.bytes:
            rows -= 1
        rows = -(-he // -(-he // rows))
        arena = Arena(b.machine.buffer.bytes, fwd.origin or fwd.name)
        x_rows = ring_rows(rows * stride, stride, extent)
        e_view = b.view("e.in0", "buf", "i8", (he, we, ce), arena.take(rows * we * ce), ring=rows)
        x_shape = (hx, wx, part.cin)
        x_view = b.view(
            f"{x_name}.saved",
            "buf",
            x_type.dtype,
            x_shape,
            arena.take(min(hx, x_rows) * wx * part.cin),
            ring=x_rows,
            pad=x_type.zero,
        )
        x_host = b.channel_slice(self.saves[x_name], part.c0, part.cin)
        e_host = b.channel_slice(self.errors[e_name], part.n0 + (0 if depthwise else first), ce)
        geom = geometry_of(b, fwd, x_type.shape)
        acc = b.view("g.acc", "acc", "i32", (matrix.k, 1, count), 0)
        sums = one = ""
        if fwd.name in self.learned:  # a weight whose input is 2^p wherever the others' is x
            sums = b.view("b.acc", "acc", "i32", (1, 1, ce), matrix.k * count)
            one = b.view("b.input", "buf", "u8", (1, 1, 1), arena.take(1))
            b.emit("fill", one, 1 << (8 - fwd.int_attr("learned")), RowRange(0, 0, 1))
        # the operand that needs fewer writes is kept in the scratch rows
        pixels, plain = rows * we, x_type.dtype == "i8" and x_type.zero == 0
        stationary = "a" if matrix.k < count and plain else "e"
        if depthwise:
            held = spread(scratch, pixels * part.cin, matrix.n * (1 if plain else 2), 1, b.machine)
        else:
            kept, streamed = (matrix.k, count) if stationary == "a" else (count, matrix.k)
            held = spread(scratch, pixels, kept, streamed, b.machine)
        b.matrix(held)

        def load_x(rr: RowRange) -> None:
            b.emit("hld", x_view, x_host, self.sample, rr)

        def product(rr: RowRange) -> None:
            b.emit("hld", e_view, e_host, self.sample, rr)
            if depthwise:
                b.emit("gradd", acc, x_view, e_view, held.name, geom, rr)
            else:
                b.emit("gradp", acc, x_view, e_view, held.name, geom, stationary, rr)
            if sums:
                b.emit("prod", sums, e_view, one, rr)

        self.peak = max(self.peak, arena.top)
        with b.overlapped(), b.batch_loop(self.batch, self.sample):
            stripe_loop(b, [Stage(rows * stride, extent - stride - pad, hx, load_x), Stage(rows, 0, he, product)])
        drain_rows = self._fit_rows(matrix.k, 4 * count)
        out_arena = Arena(b.machine.buffer.bytes, fwd.origin or fwd.name)
        out = b.view("g.sum", "buf", "i32", (matrix.k, 1, count), out_arena.take(drain_rows * count * 4), ring=drain_rows)

        def finish(rr: RowRange) -> None:
            b.emit("drain", out, acc, rr)
            self._scale_gradient(op, part, out, first, rr)
            b.emit("range", bits, out, rr)
            b.emit("hst", host, out, 0, rr)

        if sums:
            total = b.view("b.sum", "buf", "i32", (1, 1, ce), Arena(b.machine.buffer.bytes, fwd.origin or fwd.name).take(4 * ce))
            start, rows_of_one = part.n0 + (0 if depthwise else first), RowRange(0, 0, 1)
            whole = self._tensor(f"{self.learned[fwd.name]}.gradient", "i32", b.views[self.learned[fwd.name]].shape, 1)
            b.emit("drain", total, sums, rows_of_one)
            if "gscale" in op.consts:
                k = self.train.constants[op.consts["gscale"]][start : start + ce]
                b.emit("escale", total, total, b.table(f"{op.name}.k{start}", "scale", {}, {"k": k}), rows_of_one)
            b.emit("range", top, total, rows_of_one)
            b.emit("hst", b.channel_slice(whole, start, ce), total, 0, rows_of_one)
        self.peak = max(self.peak, out_arena.top)
        stripe_loop(b, [Stage(drain_rows, 0, matrix.k, finish)])
