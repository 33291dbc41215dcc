"""Sums of errors, stripe by stripe: what a product makes of the errors behind it, masked and scaled, on its way to host memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sasimc.backend.builder import CapacityError, Stage, stripe_loop
from sasimc.backend.forward import geometry_of
from sasimc.backend.stripes import ring_rows, window
from sasimc.backend.work import Arena, Shape, Work
from sasimc.ir.graph import Op
from sasimc.isa.objects import DTYPE_BYTES
from sasimc.isa.spec import RowRange

__all__ = ["ErrorSums", "Leave"]


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


class ErrorSums(Work):
    """Emits passes over the errors of a batch; they end where :class:`Leave` says."""

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
        drawn = (self.step, self.sample, leave.stream, first) if leave.narrow == "usr" else ()
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

    def _scale_table(self, op: Op, role: str, first: int, count: int) -> str:
        """The constants of a stage's factor (``kpool`` or ``kscale``), channels first..first+count-1; empty when it has none."""
        if role not in op.consts:
            return ""
        k = self.train.constants[op.consts[role]]
        suffix = f".c{first}" if count != k.size else ""
        return self.b.table(op.name + suffix, "scale", {}, {"k": k[first : first + count]})

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
