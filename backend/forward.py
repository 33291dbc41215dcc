"""Emit the forward pass of one sample, stripe by stripe, from a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sasimc.backend.builder import Builder, Stage, stripe_loop
from sasimc.backend.mapping import LayerMatrix, Placement, row_window, spread
from sasimc.backend.pixel_packing import Run
from sasimc.backend.stripes import (
    STREAMABLE,
    WHOLE,
    Chain,
    ForwardPlan,
    column_chunk,
    dilations,
    matmul_columns,
    pooled_rows,
    ring_rows,
    source,
    window,
)
from sasimc.ir.graph import Graph, Op
from sasimc.isa.objects import Matrix
from sasimc.isa.spec import RowRange

__all__ = ["ForwardEmitter", "geometry_of", "requant_table"]


class _Rows:
    """Stands for the row range in a list of operands."""


ROWS = _Rows()


def requant_table(b: Builder, graph: Graph, op: Op, first: int, count: int) -> str:
    """The constants of an operation's requantisation, channels first..first+count-1."""
    out = graph.type(op.output)
    ints = {"zero": out.zero, "lo": op.int_attr("lo"), "hi": op.int_attr("hi")}
    if op.kind in ("conv", "rescale"):
        arrays = {role: graph.constant(op, role)[first : first + count] for role in ("bias", "mult", "shift")}
    else:
        arrays = {role: [op.int_attr(role) if role in op.attrs else 0] * count for role in ("bias", "mult", "shift")}
    suffix = f".c{first}" if count != out.shape[2] else ""
    return b.table(op.name + suffix, "requant", ints, arrays)


def geometry_of(b: Builder, op: Op, x_shape: tuple[int, int, int]) -> str:
    """The window of a convolution or pool."""
    if op.kind == "resize":
        return b.geometry(mode="linear2" if op.str_attr("mode") == "linear" else "nearest")
    if op.kind not in ("conv", "avgpool", "maxpool"):
        return b.geometry()
    kernel = (x_shape[0], x_shape[1]) if op.flag("global") else op.ints("kernel")
    pads, stride = op.ints("pads"), op.ints("stride")
    dilation = dilations(op)
    return b.geometry(
        kernel=(kernel[0], kernel[1]), stride=(stride[0], stride[1]), pad=(pads[0], pads[1]), dilation=(dilation[0], dilation[1])
    )


@dataclass
class ForwardEmitter:
    """Emits all segments of a plan. ``sample`` is the register that numbers the sample; ``host`` gives the host view of values that live
    there; ``saves``: values to store (value -> host view); ``masks``: clip masks to store (value -> (table, host view)); ``learned``: host view of a layer's learned
    bias."""

    b: Builder
    graph: Graph
    plan: ForwardPlan
    placement: Placement
    sample: int
    host: Mapping[str, str]
    saves: Mapping[str, str] = field(default_factory=dict)
    masks: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    learned: Mapping[str, str] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    """Value -> the view that its operation writes it through (filled by :meth:`emit`)."""

    def emit(self) -> None:
        """All segments in order."""
        regions = self.plan.regions
        for region in sorted(set(regions)):
            with self.b.overlapped():
                for k, chain in enumerate(self.plan.chains):
                    if regions[k] == region:
                        self._segment(k, chain)

    def full_view(self, value: str) -> str:
        """The whole tensor in the buffer (its root's bytes)."""
        t = self.graph.type(value)
        root = self.plan.roots.get(value, value)
        return self.b.view(value, "buf", t.dtype, t.shape, self.plan.address[root], pad=t.zero)

    def _temp(self, k: int, key: str, value: str, rows: int) -> str:
        t = self.graph.type(value)
        return self.b.view(value, "buf", t.dtype, t.shape, self.plan.temps[k][key], ring=rows, pad=t.zero)

    def _segment(self, k: int, chain: Chain) -> None:
        b, graph, plan = self.b, self.graph, self.plan
        schedule = chain.schedule(graph, plan.rows[k])
        stages: list[Stage] = []
        acc_base = self._ring_addresses(chain, plan.rows[k])
        x_view = ""
        for j, op in enumerate(chain.ops):
            (r_in, d_in), (r_out, d_out) = schedule[j], schedule[j + 1]
            x, t_in, t_out = source(op), graph.type(source(op)), graph.type(op.output)
            stride, extent, _ = window(op, t_in.shape)
            depthwise = op.kind == "conv" and op.flag("depthwise")
            ring = r_in if depthwise else ring_rows(r_in, stride, extent)
            hosted = plan.home.get(plan.roots.get(x, x)) == "host"
            if j == 0 and op.inputs:
                if hosted and (pooled := pooled_rows(graph, b.machine, op)):
                    x_view = self._pooled(k, op, pooled)
                elif hosted and op.kind in STREAMABLE:
                    x_view = self._temp(k, f"in:{op.name}:0", x, ring)
                    stages.append(self._load(op, x, x_view, r_in, d_in, t_in.shape[0]))
                elif hosted:
                    x_view = self._temp(k, f"in:{op.name}:0", x, t_in.shape[0])
                    with b.origin(op.origin or op.name):
                        b.emit("hld", x_view, self._host_view(x), self.sample, RowRange(0, 0, t_in.shape[0]))
                else:
                    x_view = self.full_view(x)
            others: list[str] = []
            for i, other in enumerate(op.inputs[1:], 1):
                if plan.home.get(plan.roots.get(other, other)) == "host":
                    rows = graph.type(other).shape[0] if op.kind in WHOLE else 0
                    view = self._temp(k, f"in:{op.name}:{i}", other, rows or r_out)
                    stages.append(self._load(op, other, view, rows or r_out, 0 if rows else d_out, rows or t_out.shape[0]))
                else:
                    view = self.full_view(other)
                others.append(view)
            if op is not chain.last:
                following = chain.ops[j + 1]
                s2, e2, _ = window(following, t_out.shape)
                next_dw = following.kind == "conv" and following.flag("depthwise")
                out_view = self._temp(k, f"in:{following.name}:0", op.output, r_out if next_dw else ring_rows(r_out, s2, e2))
            elif plan.home.get(op.output) == "host":
                out_view = self._temp(k, "out", op.output, t_out.shape[0] if op.kind in WHOLE else r_out)
            else:
                out_view = self.full_view(op.output)
            self.results[op.output] = out_view
            bias = self._learned(k, op) if "learned" in op.attrs else ""
            stages += self._compute(op, x_view, others, out_view, (r_in, d_in), (r_out, d_out), acc_base, plan.sums[k], bias)
            stages += self._after(k, op, out_view, r_out, d_out, chain)
            x_view = out_view
        stripe_loop(b, stages)

    def _pooled(self, k: int, op: Op, rows: int) -> str:
        """Add up the planes of a global average pool's input, stripe by stripe: products with one, less the zero point. Returns no view."""
        b, x = self.b, op.inputs[0]
        t = self.graph.type(x)
        view, one = (
            self._temp(k, f"in:{op.name}:0", x, rows),
            b.view("one", "buf", "u8", (1, 1, 1), self.plan.temps[k][f"one:{op.name}"]),
        )
        acc = self._sums(op, self.plan.sums[k], 1)

        def run(rr: RowRange) -> None:
            with b.origin(op.origin or op.name):
                b.emit("hld", view, self._host_view(x), self.sample, rr)
                b.emit("prod", acc, view, one, rr)

        with b.origin(op.origin or op.name):
            b.emit("fill", one, 1, RowRange(0, 0, 1))
        stripe_loop(b, [Stage(rows, 0, t.shape[0], run)])
        return ""

    def _learned(self, k: int, op: Op) -> str:
        """Load the learned bias of a layer."""
        b, n = self.b, self.graph.type(op.output).shape[2]
        view = b.view(f"{op.name}.learned.buf", "buf", "i32", (1, 1, n), self.plan.temps[k][f"learned:{op.name}"])
        with b.origin(op.origin or op.name):
            b.emit("hld", view, self.learned[op.name], 0, RowRange(0, 0, 1))
        return view

    def _finish(self, op: Op, out: str, acc: str, n0: int, n: int, bias: str) -> list[tuple[object, ...]]:
        """From the sums of output channels n0..n0+n-1 to 8 bits, with the learned bias if there is one."""
        b = self.b
        more = [("badd", acc, b.channel_slice(bias, n0, n), op.int_attr("learned"), ROWS)] if bias else []
        return [*more, ("req", b.channel_slice(out, n0, n), acc, requant_table(b, self.graph, op, n0, n), ROWS)]

    def _sums(self, op: Op, first: int, rows: int) -> str:
        """Accumulators of an operation, of so many rows, from word ``first`` on."""
        return self.b.view(f"{op.name}.acc", "acc", "i32", self.graph.type(op.output).shape, first, ring=rows)

    def _host_view(self, value: str) -> str:
        """The host's copy of ``value``: the bytes of its root in its own shape."""
        t, stored = self.graph.type(value), self.b.views[self.host[self.plan.roots.get(value, value)]]
        if t.shape == stored.shape:
            return stored.name
        return self.b.view(f"{value}.host", "host", t.dtype, t.shape, stored.addr, batch=stored.batch)

    def _load(self, op: Op, value: str, view: str, rows: int, offset: int, height: int) -> Stage:
        def run(rr: RowRange) -> None:
            with self.b.origin(op.origin or op.name):
                self.b.emit("hld", view, self._host_view(value), self.sample, rr)

        return Stage(rows, offset, height, run)

    def _ring_addresses(self, chain: Chain, rows: int) -> dict[str, tuple[int, int]]:
        """(address, ring rows) of each depth-wise accumulator ring; they stand at the top, the shared area starts at 0."""
        out: dict[str, tuple[int, int]] = {}
        top = self.b.machine.accumulator.entries
        for op, (r, _) in zip(chain.ops, chain.schedule(self.graph, rows)[1:], strict=True):
            if op.kind == "conv" and op.flag("depthwise"):
                stride, extent, _ = window(op, self.graph.type(source(op)).shape)
                h, w, c = self.graph.type(op.output).shape
                ring = min(h, r + (extent - 1) // stride + 1)
                top -= ring * w * c
                out[op.name] = (top, ring)
        return out

    def _compute(
        self,
        op: Op,
        x: str,
        others: list[str],
        out: str,
        rows_in: tuple[int, int],
        rows_out: tuple[int, int],
        rings: Mapping[str, tuple[int, int]],
        sums: int,
        bias: str,
    ) -> list[Stage]:
        """Stages that compute one operation; ``sums``: first accumulator word that it may use; ``bias``: view of its learned bias, if any."""
        b, graph = self.b, self.graph
        shape = graph.type(op.output).shape
        h, _, c = shape
        geom = geometry_of(b, op, graph.type(source(op)).shape)
        r, d = rows_out
        node = op.origin or op.name

        def stage(*work: tuple[object, ...]) -> Stage:
            def run(rr: RowRange) -> None:
                with b.origin(node):
                    for mnemonic, *operands in work:
                        b.emit(str(mnemonic), *(rr if o is ROWS else o for o in operands))

            return Stage(r, d, h, run)

        if op.kind == "conv" and op.flag("depthwise"):
            addr, ring = rings[op.name]
            acc = b.view(f"{op.name}.acc", "acc", "i32", shape, addr, ring=ring)
            (_, matrix) = self.placement.layers[op.name][0]
            name = b.matrix(matrix)

            def stream(rr: RowRange) -> None:
                with b.origin(node):
                    b.emit("dwm", acc, x, name, geom, rr)

            h_in = graph.type(op.inputs[0]).shape[0]
            return [Stage(*rows_in, h_in, stream), stage(*self._finish(op, out, acc, 0, c, bias))]
        if op.kind == "conv":
            return [stage(*self._dense(op, x, out, geom, min(r, h), bias))]
        if op.kind in ("avgpool", "rescale", "resize"):
            acc = self._sums(op, sums, r)
            if not x:  # added up already, without zero points
                return [stage(("req", out, acc, requant_table(b, graph, op.with_attrs(bias=0), 0, c), ROWS))]
            product = "ups" if op.kind == "resize" else "pavg"
            return [stage((product, acc, x, geom, ROWS), ("req", out, acc, requant_table(b, graph, op, 0, c), ROWS))]
        if op.kind == "mul":
            acc = self._sums(op, sums, r)
            return [stage(("prod", acc, x, others[0], ROWS), ("req", out, acc, requant_table(b, graph, op, 0, c), ROWS))]
        if op.kind == "lut":
            table = b.table(op.name, "lut", {}, {"values": graph.constant(op, "table").reshape(-1)})
            return [stage(("lut", out, x, table, ROWS))]
        if op.kind == "softmax":
            ints = {"zero": graph.type(op.output).zero, **{key: op.int_attr(key) for key in ("mult", "shift", "lo", "hi")}}
            table = b.table(op.name, "softmax", ints, {"exp": graph.constant(op, "exp")})
            return [stage(("smax", out, x, table, ROWS))]
        if op.kind == "layernorm":
            ints = {"zero": graph.type(op.output).zero, **{key: op.int_attr(key) for key in ("eps", "up", "lo", "hi")}}
            table = b.table(op.name, "norm", ints, {role: graph.constant(op, role) for role in ("bias", "mult", "shift")})
            return [stage(("lnorm", out, x, table, ROWS))]
        if op.kind == "matmul":
            return [Stage(h, 0, h, lambda _: self._matmul(op, x, others[0], out, sums, node))]
        if op.kind == "constant":
            return [Stage(h, 0, h, lambda _: self._constant(op, out, node))]
        if op.kind == "maxpool":
            return [stage(("pmax", out, x, geom, ROWS))]
        if op.kind == "add":
            ta, tb, ty = graph.type(op.inputs[0]), graph.type(op.inputs[1]), graph.type(op.output)
            ints = {
                "za": ta.zero,
                "zb": tb.zero,
                "zy": ty.zero,
                **{key: op.int_attr(key) for key in ("ma", "mb", "shift", "lo", "hi")},
            }
            return [stage(("addq", out, x, others[0], b.table(op.name, "addq", ints), ROWS))]
        if op.kind == "concat":
            work, first = [], 0
            for view, value in zip([x, *others], op.inputs, strict=True):
                n = graph.type(value).shape[2]
                work.append(("cpy", b.channel_slice(out, first, n), view, 0, ROWS))
                first += n
            return [stage(*work)]
        if op.kind == "pad":
            top, left = op.ints("pads")[:2]
            v, t_in = b.views[out], graph.type(op.inputs[0])
            inner = b.view(
                f"{op.output}.inner", "buf", v.dtype, (h, t_in.shape[1], c), v.addr + left * v.pix, strides=(v.row, v.pix, v.chan)
            )

            def whole(rr: RowRange) -> None:
                with b.origin(node):
                    b.emit("fill", out, v.pad, RowRange(0, 0, h))
                    b.emit("cpy", inner, x, top, RowRange(0, 0, t_in.shape[0]))

            return [Stage(h, 0, h, whole)]
        if op.kind in ("slice", "mosaic"):
            return [self._part(op, [x, *others], out, node)]
        raise AssertionError(f"no emission for {op.kind}")

    def _matmul(self, op: Op, left: str, right: str, out: str, sums: int, node: str) -> None:
        """Group by group, as many columns at a time as the accumulators take: the second matrix into scratch rows, the first streamed."""
        b, scratch = self.b, self.placement.scratch
        assert scratch is not None
        groups, m, k, n = op.ints("sizes")
        width = matmul_columns(b.machine, m, n)
        kept = b.matrix(spread(scratch, k, width + 1, m, b.machine))
        with b.origin(node):
            for g in range(groups):
                a = b.matrix_view(left, op.ints("a"), g, 0, (m, k))
                for first in range(0, n, width):
                    count = min(width, n - first)
                    acc = b.view(f"{op.name}.acc", "acc", "i32", (1, m, count), sums)
                    b.emit("vmma", acc, a, b.matrix_view(right, op.ints("b"), g, first, (k, count)), kept, RowRange(0, 0, 1))
                    y = b.matrix_view(out, op.ints("y"), g, first, (m, count))
                    b.emit("req", y, acc, requant_table(b, self.graph, op, first, count), RowRange(0, 0, 1))

    def _constant(self, op: Op, out: str, node: str) -> None:
        """Read the rows of the arrays that hold a tensor."""
        b, ((_, matrix),) = self.b, self.placement.layers[op.name]
        v = b.views[out]
        rows = b.view(f"{op.output}.rows", "buf", "i8", (matrix.k, 1, matrix.n), v.addr)
        with b.origin(node):
            b.emit("rdr", rows, b.matrix(matrix), RowRange(0, 0, matrix.k))

    def _part(self, op: Op, sources: list[str], out: str, node: str) -> Stage:
        """Copies between strided views: of a slice, or of the inputs of a mosaic."""
        b, shapes = self.b, [self.graph.type(v).shape for v in op.inputs]
        shape = self.graph.type(op.output).shape

        def whole(rr: RowRange) -> None:
            with b.origin(node):
                if op.kind == "slice":
                    b.emit("cpy", out, b.slice(sources[0], op.ints("start"), op.ints("step"), shape), 0, RowRange(0, 0, shape[0]))
                    return
                if sum(h * w * c for h, w, c in shapes) < shape[0] * shape[1] * shape[2]:
                    b.emit("fill", out, b.views[out].pad, RowRange(0, 0, shape[0]))
                for i, (view, part) in enumerate(zip(sources, shapes, strict=True)):
                    at = b.slice(out, op.ints("starts")[3 * i : 3 * i + 3], op.ints("step"), part)
                    b.emit("cpy", at, view, 0, RowRange(0, 0, part[0]))

        return Stage(shape[0], 0, shape[0], whole)

    def _dense(self, op: Op, x: str, out: str, geom: str, rows: int, bias: str) -> list[tuple[object, ...]]:
        """Products of all parts, then requantisation: at once when the sums of a whole row fit and stand pixel by pixel, else block by block of
        output channels."""
        b, graph = self.b, self.graph
        h, w, c = graph.type(op.output).shape
        parts = self.placement.layers[op.name]
        blocks = {part.n0: part.n for part, _ in parts}
        work: list[tuple[object, ...]] = []
        if len(blocks) == 1 or (column_chunk(b.machine, w, c) == c and not any(part.run for part, _ in parts)):
            blocks = {0: c}
        for n0, n in blocks.items():
            acc = b.view(f"{op.name}.acc", "acc", "i32", (h, w, n), 0, ring=rows)
            for part, matrix in parts:
                if n0 <= part.n0 < n0 + n:
                    source = b.channel_slice(x, part.c0, part.cin)
                    if part.run:
                        work.append(("vmm", *self._side_by_side(op, part, part.run, acc, source, matrix), ROWS))
                    else:
                        work.append(("vmm", b.channel_slice(acc, part.n0 - n0, part.n), source, b.matrix(matrix), geom, ROWS))
            work += self._finish(op, out, acc, n0, n, bias)
        return work

    def _side_by_side(
        self, op: Op, part: LayerMatrix, run: Run, acc: str, x: str, matrix: Matrix
    ) -> tuple[str, str, str, str]:  # fmt: skip
        """Operands of a product with several output pixels side by side: wide pixels of the row, from pixel ``run.first`` on."""
        b, window = self.b, row_window(self.graph, op)
        v, start = b.views[acc], run.start(window)
        shape, strides = (v.height, run.groups, run.side * part.n), (v.row, run.side * v.pix, v.chan)
        sums = b.view(f"{op.name}.acc", "acc", "i32", shape, v.addr + run.first * v.pix, ring=v.ring, strides=strides)
        geom = b.geometry(
            kernel=(window.height, run.kernel(window)),
            stride=(op.ints("stride")[0], run.side * window.stride),
            pad=(op.ints("pads")[0], max(0, -start)),
            dilation=(dilations(op)[0], window.union(run.side)[1]),
        )
        x = b.columns_from(x, max(0, start))
        return sums, x, b.matrix(matrix), geom

    def _after(self, k: int, op: Op, out: str, rows: int, offset: int, chain: Chain) -> list[Stage]:
        """Store what lives in host memory, what the backward pass reads, and clip masks."""
        b = self.b
        height, width, channels = self.graph.type(op.output).shape
        work: list[tuple[str, ...]] = []
        targets = []
        if op is chain.last and self.plan.home.get(op.output) == "host":
            targets.append(self.host[op.output])
        if op.output in self.saves and self.saves[op.output] not in targets:
            targets.append(self.saves[op.output])
        if op.output in self.masks:
            table, host = self.masks[op.output]
            view = b.view(
                f"{op.output}.mask", "buf", "bit", (height, width, channels), self.plan.temps[k][f"mask:{op.output}"], ring=rows
            )
            work = [("mask", view, out, table), ("hst", host, view)]
        if not work and not targets:
            return []
        whole = op.kind in WHOLE

        def run(rr: RowRange) -> None:
            rr = RowRange(0, 0, height) if whole else rr
            with b.origin(op.origin or op.name):
                for target in targets:
                    b.emit("hst", target, out, self.sample, rr)
                for mnemonic, *operands in work:
                    b.emit(mnemonic, *operands, *([self.sample] if mnemonic == "hst" else []), rr)

        return [Stage(height if whole else rows, 0 if whole else offset, height, run)]
