"""Emit the backward pass of a batch: errors layer by layer, gradients, updates.

Error tensors live in host memory (int8 mantissas, one exponent register each). Where the range of this batch decides the exponent, a layer is propagated
for all samples before it is known (docs/reference/numerics.md), so its sums pass through one host scratch tensor (explicit, counted movement), as 32 bits or, where
rounding to nearest makes no difference of it, as 16; or they are computed once for their range and once more for the result. Where the steps before decide it, sums are cut to 8 bits before they leave the buffer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sasimc.backend.builder import CapacityError, Stage, stripe_loop
from sasimc.backend.sums import ErrorSums, Leave
from sasimc.backend.updates import RANGE_OFFSET, Updates
from sasimc.backend.work import Shape
from sasimc.ir.graph import Op
from sasimc.isa.objects import DTYPE_BYTES
from sasimc.isa.spec import RowRange

__all__ = ["BackwardEmitter"]

PRODUCTS = ("xent", "sqerr", "merge", "conv_t", "avgpool_t", "maxpool_t", "resize_t", "mul_t", "lut_t")


_SHIFTS = {"nearest": "shr8", "stochastic": "psr", "carried": "shr8c", "unbiased": "usr"}
"""How a stage rounds, and the instruction that does it."""


@dataclass
class BackwardEmitter(ErrorSums, Updates):
    """``ranges``: host view with a word for each product, if exponents come from the steps before: its gain plus an offset, 0 where nothing was measured yet;
    ``count``: the one with the number of steps, if random numbers round; ``levels``: of every error the word with its level, and what is to be added to it
    (docs/reference/numerics.md)."""

    ranges: str = ""
    count: str = ""
    levels: dict[str, tuple[str, int]] = field(default_factory=dict)
    _waiting_addr: int = 0
    _known: bool = False
    _words: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ops = self.train.ops
        largest = max((self.train.values[op.output].size for op in ops if op.output), default=0)
        self._waiting_addr = self.b.reserve_host("errors as 32-bit words", largest * 4 * self.batch_size)
        ranged = [op.output for op in ops if op.kind == "stage" and "range" in op.attrs]
        if ranged:
            self.ranges = self._keep("error.ranges", "i32", (len(ranged), 1, 1))
            self._words = {value: i for i, value in enumerate(ranged)}

    def emit(self, known: bool) -> None:
        """All operations of the training graph. ``known``: ranges of the step before are there; else this step measures them."""
        b, ops, self._known, self.levels = self.b, self.train.ops, known, {}
        draws = any("stream" in op.attrs for op in ops)
        if draws:
            self.step = b.register()
            self.count = self._keep("rounding.step", "i32")
            b.emit("ldw", self.step, self.count, 0)
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
            b.emit("addi", self.step, self.step, 1)
            b.emit("stw", self.count, self.step, 0)
            b.release(self.step)
        b.emit("phase", "forward")

    # --- names -----------------------------------------------------------------------------------------------------------

    def _drop(self, value: str) -> None:
        reg = self.exponents.pop(value)
        if reg not in self.exponents.values():
            self.b.release(reg)

    def _waiting(self, shape: Shape, dtype: str) -> str:
        """The scratch tensor of sums that wait, in this shape."""
        h, w, c = shape
        size = DTYPE_BYTES[dtype]
        return self.b.view(f"e{8 * size}", "host", dtype, shape, self._waiting_addr, batch=h * w * c * size)

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
