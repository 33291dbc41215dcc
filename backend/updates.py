"""Gradients of trainable layers over a batch, their ranges, and what they change in the cells."""

from __future__ import annotations

from sasimc.backend.builder import CapacityError, Stage, stripe_loop
from sasimc.backend.forward import geometry_of
from sasimc.backend.mapping import LayerMatrix, spread
from sasimc.backend.stripes import ring_rows, window
from sasimc.backend.work import Arena, Work
from sasimc.ir.graph import Op
from sasimc.isa.objects import Matrix
from sasimc.isa.spec import RowRange

__all__ = ["RANGE_OFFSET", "Updates"]

MOMENTUM = 3
"""A velocity keeps 1 - 2^-3 of itself a step (docs/reference/numerics.md)."""
RANGE_OFFSET, RANGE_PERIOD = 256, 16
"""A remembered range is stored plus the offset, so that 0 is less than any; it loses one bit every period (a power of two) of steps."""


class Updates(Work):
    """Emits what follows the errors of a layer: gradient, rounding, update."""

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

    def _round(self, op: Op, dst: str, src: str, shift: int, first: int, rr: RowRange, more: int = 0) -> None:
        """A gradient of columns from ``first`` on to a step; ``more``: 1 for a learned bias."""
        if "stream" in op.attrs:
            self.b.emit("usr", dst, src, shift, self.step, 0, op.int_attr("stream") + more, first, rr)
        else:
            self.b.emit("psr", dst, src, shift, rr)

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
