"""Which operations run together in row stripes, how high the stripes are, and where every tensor lives.

A segment is a chain of operations executed by one loop over row stripes; tensors inside the chain exist only as rings of rows
(an inverted residual's expanded tensor never exists as a whole). Tensors between segments live whole in the buffer, or in host
memory when they do not fit. Segments that drive no arrays work beside the segment before them (one *region*), where buffer and accumulators
hold what both need at once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate

from sasimc.backend.addresses import Addresses, first_fit
from sasimc.backend.builder import CapacityError
from sasimc.ir.graph import Graph, Op
from sasimc.isa.machine import Machine

__all__ = [
    "Chain",
    "ForwardPlan",
    "column_chunk",
    "dilations",
    "matmul_columns",
    "plan_forward",
    "pooled_rows",
    "ring_rows",
    "root_values",
    "row_bytes",
    "source",
    "window",
]

WHOLE = {"pad", "slice", "mosaic", "matmul", "constant"}
"""Kinds that work on whole tensors at once."""
STREAMABLE = {"conv", "add", "mul", "lut", "rescale", "avgpool", "maxpool", "softmax", "layernorm"}
ARRAYS = {"conv", "matmul", "constant"}
"""Kinds that keep arrays busy."""


def source(op: Op) -> str:
    """What the rows of a chain are counted by: an operation's first input, or its output if it has none."""
    return op.inputs[0] if op.inputs else op.output


def matmul_columns(machine: Machine, rows: int, columns: int) -> int:
    """Columns of a product of matrices whose sums the accumulators take at once."""
    return max(1, min(columns, machine.accumulator.entries // rows))


def dilations(op: Op) -> tuple[int, ...]:
    """Vertical and horizontal dilation of a window."""
    return op.ints("dilation") if "dilation" in op.attrs else (1, 1)


def window(op: Op, x_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(stride, extent, top padding) of the rows an operation reads of its first input."""
    if op.kind in ("conv", "avgpool", "maxpool"):
        kernel = (x_shape[0], x_shape[1]) if op.flag("global") else op.ints("kernel")
        return op.ints("stride")[0], (kernel[0] - 1) * dilations(op)[0] + 1, op.ints("pads")[0]
    return 1, 1, 0


def ring_rows(rows_in: int, stride: int, extent: int) -> int:
    """Rows of an input that are alive at once when ``rows_in`` new ones arrive an iteration."""
    return max(rows_in, rows_in + extent - stride)


def row_bytes(graph: Graph, value: str) -> int:
    """Bytes of one row of an 8-bit tensor."""
    _, w, c = graph.type(value).shape
    return w * c


def pooled_rows(graph: Graph, machine: Machine, op: Op) -> int:
    """Rows of a stripe in which a global average pool adds up an input that lives in host memory; 0 for other operations."""
    if op.kind != "avgpool" or not op.flag("global"):
        return 0
    height = graph.type(op.inputs[0]).shape[0]
    most = max(1, min(height, machine.buffer.bytes // 8 // row_bytes(graph, op.inputs[0])))
    return -(-height // -(-height // most))


@dataclass(frozen=True)
class Chain:
    """Operations of one stripe loop, in order; each reads the previous one's output first."""

    ops: tuple[Op, ...]

    @property
    def last(self) -> Op:
        return self.ops[-1]

    def schedule(self, graph: Graph, rows: int) -> list[tuple[int, int]]:
        """(rows, offset) of the head's input and of each op's output when the last op makes ``rows`` rows an iteration."""
        out = [(rows, 0)]
        for op in reversed(self.ops):
            stride, extent, pad = window(op, graph.type(source(op)).shape)
            r, d = out[0]
            out.insert(0, (r * stride, d * stride + extent - stride - pad))
        return out


@dataclass
class ForwardPlan:
    """Segments in order, stripe heights, homes (``buf`` or ``host``; values inside a chain have none) and addresses in the buffer; the region
    of each segment, and the first accumulator word of its sums."""

    chains: list[Chain]
    rows: list[int]
    home: dict[str, str]
    address: dict[str, int]
    temps: list[dict[str, int]]
    peak: int
    roots: dict[str, str]
    regions: list[int]
    sums: list[int]

    def __repr__(self) -> str:
        return f"<ForwardPlan of {len(self.chains)} segments, {self.peak} bytes of buffer>"


def root_values(graph: Graph) -> dict[str, str]:
    """Reshapes are another view of the same bytes: every value's underlying value."""
    roots: dict[str, str] = {}
    for op in graph.ops:
        if op.kind == "reshape":
            roots[op.output] = roots.get(op.inputs[0], op.inputs[0])
    return roots


def _chains(graph: Graph, streamed: set[str], roots: Mapping[str, str]) -> list[Chain]:
    """Greedy chains over the streamed values, in an order in which every input is there before it is read."""
    ops = [op for op in graph.ops if op.kind not in ("reshape", "argmax")]
    ready = set(graph.inputs)
    left = {op.name: op for op in ops}
    out: list[Chain] = []

    def available(op: Op, but: str = "") -> bool:
        return all(roots.get(v, v) in ready or v == but for v in op.inputs)

    while left:
        op = next((o for o in left.values() if available(o)), None)
        if op is None:
            raise AssertionError(f"graph {graph.name!r} is not topological")
        chain = [op]
        del left[op.name]
        while chain[-1].output in streamed and chain[-1].kind not in WHOLE:
            value = chain[-1].output
            consumers = [c for c in graph.consumers(value) if c.kind != "argmax"]
            if len(consumers) != 1 or consumers[0].inputs[0] != value or consumers[0].inputs.count(value) > 1:
                break
            following = consumers[0]
            if following.kind not in STREAMABLE or following.name not in left or not available(following, value):
                break
            chain.append(following)
            del left[following.name]
        ready.add(chain[-1].output)
        out.append(Chain(tuple(chain)))
    return out


def column_chunk(machine: Machine, width: int, channels: int) -> int:
    """Output channels of one row that the shared half of the accumulators takes."""
    return min(channels, max(1, machine.accumulator.entries // 2 // width))


def _accumulators(graph: Graph, machine: Machine, chain: Chain, rows: int) -> tuple[int, dict[str, int]]:
    """Words of the shared area (sums drained at once) and of each depth-wise ring."""
    shared, rings = 0, {}
    for op, (r, _) in zip(chain.ops, chain.schedule(graph, rows)[1:], strict=True):
        h, w, c = graph.type(op.output).shape
        if op.kind == "conv" and op.flag("depthwise"):
            stride, extent, _ = window(op, graph.type(source(op)).shape)
            rings[op.name] = min(h, r + (extent - 1) // stride + 1) * w * c
        elif op.kind == "matmul":
            _, m, _, n = op.ints("sizes")
            shared = max(shared, m * matmul_columns(machine, m, n))
        elif op.kind in ("conv", "avgpool", "rescale", "resize", "mul"):
            if op.kind == "conv":
                c = column_chunk(machine, w, c)
            shared = max(shared, min(r, h) * w * c)
    return shared, rings


class _Planner:
    def __init__(self, graph: Graph, machine: Machine, masks: frozenset[str]) -> None:
        self.graph, self.machine, self.masks = graph, machine, masks
        self.roots = root_values(graph)
        self.outputs = {self.roots.get(v, v) for v in graph.outputs}
        for op in graph.ops:
            if op.kind == "argmax":
                self.outputs.add(self.roots.get(op.inputs[0], op.inputs[0]))
        self.aliased = set(self.roots.values()) | set(self.roots)
        self.cut: set[str] = set()  # values at which a chain was too long for accumulators or buffer
        self.measured: dict[tuple[int, int], dict[str, int]] = {}  # temporaries by chain and rows, while homes stay as they are
        self.summed: dict[tuple[int, int], tuple[int, int]] = {}

    def temporaries(self, chain: Chain, rows: int, home: Mapping[str, str]) -> dict[str, int]:
        """Bytes of every stripe buffer a chain needs, by key."""
        key = id(chain), rows
        if key not in self.measured:
            self.measured[key] = self._temporaries(chain, rows, home)
        return self.measured[key]

    def _temporaries(self, chain: Chain, rows: int, home: Mapping[str, str]) -> dict[str, int]:
        graph, out = self.graph, dict[str, int]()
        plan = chain.schedule(graph, rows)
        for j, op in enumerate(chain.ops):
            (r_in, _), (r_out, _) = plan[j], plan[j + 1]
            x = source(op)
            h_in, h_out = graph.type(x).shape[0], graph.type(op.output).shape[0]
            stride, extent, _ = window(op, graph.type(x).shape)
            dw = op.kind == "conv" and op.flag("depthwise")
            ring = r_in if dw else ring_rows(r_in, stride, extent)
            if op.inputs and (j or home.get(self.root(x)) == "host"):
                full = op.kind not in STREAMABLE
                pooled = 0 if j else pooled_rows(graph, self.machine, op)
                out[f"in:{op.name}:0"] = (pooled or (h_in if full else min(ring, h_in))) * row_bytes(graph, x)
                if pooled:
                    out[f"one:{op.name}"] = 1
            for i, other in enumerate(op.inputs[1:], 1):
                if home.get(self.root(other)) == "host":
                    rows_other = graph.type(other).shape[0] if op.kind in WHOLE else min(r_out, h_out)
                    out[f"in:{op.name}:{i}"] = rows_other * row_bytes(graph, other)
            if op is chain.last and home.get(self.root(op.output)) == "host":
                full = op.kind in WHOLE
                out["out"] = (h_out if full else min(r_out, h_out)) * row_bytes(graph, op.output)
            if "learned" in op.attrs:
                out[f"learned:{op.name}"] = 4 * graph.type(op.output).shape[2]
            if op.output in self.masks:
                out[f"mask:{op.output}"] = min(r_out, h_out) * ((row_bytes(graph, op.output) + 7) // 8)
        return out

    def root(self, value: str) -> str:
        return self.roots.get(value, value)

    def run(self) -> ForwardPlan:
        graph, limit = self.graph, self.machine.buffer.bytes
        hosted = set(graph.inputs)
        streamed = {
            v for v, t in graph.values.items() if t.size > limit // 2 and v not in self.aliased and v not in hosted | self.outputs
        }
        while True:
            chains = _chains(graph, streamed - self.cut, self.roots)
            self.measured, self.summed = {}, {}
            inside = {op.output for c in chains for op in c.ops[:-1]}
            for v in streamed - inside:
                if v in graph.values and graph.type(v).size > limit // 2:
                    hosted.add(v)
            home = {self.root(v): ("host" if self.root(v) in hosted else "buf") for v in graph.values if v not in inside}
            live = self.intervals(chains, home)
            placed = Addresses(live, {v: graph.type(v).size for v in live}, limit)
            bad = None
            if placed.fits:
                held = [placed.held(k) for k in range(len(chains))]
                bad = next((k for k, c in enumerate(chains) if self.stripe(c, 1, home, held[k]) is None), None)
                if bad is None:
                    return self.join(self.finish(chains, home, held, placed), placed)
            self.evict(chains, home, live, bad, streamed, hosted, inside)

    def intervals(self, chains: list[Chain], home: Mapping[str, str]) -> dict[str, tuple[int, int]]:
        """First and last segment in which each buffered value is needed."""
        out: dict[str, tuple[int, int]] = {}
        for k, c in enumerate(chains):
            for op in c.ops:
                for v in (*map(self.root, op.inputs), self.root(op.output)):
                    if home.get(v) == "buf":
                        out[v] = (min(out.get(v, (k, k))[0], k), k)
        for v in self.outputs:
            if v in out:
                out[v] = (out[v][0], len(chains))
        return out

    def stripe(
        self, chain: Chain, rows: int, home: Mapping[str, str], held: Sequence[tuple[int, int]], words: int = 0
    ) -> dict[str, int] | None:
        """Addresses of the temporaries of a chain at this stripe height, or None when buffer or accumulators are too small.

        ``held``: bytes, and ``words``: how many accumulators, that buffered values and other chains of the region hold.
        """
        if words + self.words(chain, rows) > self.machine.accumulator.entries:
            return None
        taken = list(held)
        out: dict[str, int] = {}
        for key, size in sorted(self.temporaries(chain, rows, home).items(), key=lambda kv: -kv[1]):
            spot = first_fit(taken, size, self.machine.buffer.bytes)
            if spot is None:
                return None
            out[key] = spot
            taken.append((spot, spot + size))
        return out

    def words(self, chain: Chain, rows: int) -> int:
        """Accumulator words a chain needs at this stripe height."""
        return sum(self.sums(chain, rows))

    def sums(self, chain: Chain, rows: int) -> tuple[int, int]:
        """Accumulator words of the shared area and of all depth-wise rings."""
        key = id(chain), rows
        if key not in self.summed:
            shared, rings = _accumulators(self.graph, self.machine, chain, rows)
            self.summed[key] = shared, sum(rings.values())
        return self.summed[key]

    def evict(
        self, chains: list[Chain], home: Mapping[str, str], live: Mapping[str, tuple[int, int]], bad: int | None,
        streamed: set[str], hosted: set[str], inside: set[str],
    ) -> None:  # fmt: skip
        """Stream the largest value that is in the way, move it to host memory, or cut a chain where its smallest tensor is."""

        def alive(k: int) -> list[str]:
            return [v for v, (a, b) in live.items() if a <= k <= b and v not in hosted]

        if bad is None:
            held = [0] * (len(chains) + 2)  # what comes to life less what dies, by segment
            for v, (a, b) in live.items():
                if v not in hosted:
                    held[a] += self.graph.type(v).size
                    held[b + 1] -= self.graph.type(v).size
            loads = list(accumulate(held[: len(chains)]))
            bad = loads.index(max(loads))
        candidates = [v for v in alive(bad) if v not in self.outputs]
        chain, words = chains[bad], self.words(chains[bad], 1)
        if not candidates or words > self.machine.accumulator.entries:
            if len(chain.ops) > 1:
                self.cut.add(min((op.output for op in chain.ops[:-1]), key=lambda v: (self.graph.type(v).size, v)))
                return
            if words > self.machine.accumulator.entries:
                raise CapacityError(
                    f"one row of stripes needs {words} accumulator words, {self.machine.accumulator.entries} are available",
                    where=chain.last.origin or chain.last.name, hint="--machine FILE with a larger accumulator.entries",
                )  # fmt: skip
            need = sum(self.temporaries(chain, 1, home).values()) + sum(self.graph.type(v).size for v in alive(bad))
            raise CapacityError(
                f"the smallest stripe needs {need} bytes of the {self.machine.buffer.bytes}-byte buffer",
                where=chain.last.origin or chain.last.name, hint="--machine FILE with a larger buffer.bytes",
            )  # fmt: skip
        victim = max(candidates, key=lambda v: (self.graph.type(v).size, v))
        if victim not in streamed and victim not in self.aliased:
            streamed.add(victim)
            if any(op.output == victim for c in _chains(self.graph, streamed - self.cut, self.roots) for op in c.ops[:-1]):
                return
        hosted.add(victim)

    def finish(
        self, chains: list[Chain], home: dict[str, str], held: Sequence[list[tuple[int, int]]], placed: Addresses
    ) -> ForwardPlan:
        """Raise every stripe as far as accumulators and buffer allow, then even the stripes out."""
        rows, temps = [], []
        for k, c in enumerate(chains):
            height = self.graph.type(c.last.output).shape[0]
            low, high = 1, height
            while low < high:
                mid = (low + high + 1) // 2
                if self.stripe(c, mid, home, held[k]) is not None:
                    low = mid
                else:
                    high = mid - 1
            even = -(-height // -(-height // low))
            got = self.stripe(c, even, home, held[k])
            if got is None:
                even, got = low, self.stripe(c, low, home, held[k])
            assert got is not None
            rows.append(even)
            temps.append(got)
        plan = ForwardPlan(
            chains, rows, home, placed.by_name(), temps, 0, self.roots, list(range(len(chains))), [0] * len(chains)
        )
        return replace(plan, peak=max([placed.peak, *(end for k in range(len(chains)) for _, end in self.spans(plan, k))]))

    def spans(self, plan: ForwardPlan, k: int) -> list[tuple[int, int]]:
        """Bytes that the temporaries of a segment hold."""
        sizes = self.temporaries(plan.chains[k], plan.rows[k], plan.home)
        return [(at, at + sizes[key]) for key, at in plan.temps[k].items()]

    def join(self, plan: ForwardPlan, placed: Addresses) -> ForwardPlan:
        """Put segments without array work into the region of the segment before, one by one, where everything still fits."""
        for k, chain in enumerate(plan.chains):
            if k and not any(op.kind in ARRAYS for op in chain.ops) and (found := placed.joined(plan.regions[k])) is not None:
                regions = [r - (i >= k) for i, r in enumerate(plan.regions)]
                touched = found[1] | {regions[k]}
                if (made := self.arrange(replace(plan, regions=regions), found[0], touched)) is not None:
                    plan, placed = made, found[0]
        ends = (end for k in range(len(plan.chains)) for _, end in self.spans(plan, k))
        return replace(plan, address=placed.by_name(), peak=max([placed.peak, *ends]))

    def arrange(self, plan: ForwardPlan, placed: Addresses, touched: set[int]) -> ForwardPlan | None:
        """The plan with the temporaries of some regions placed again; None where they do not fit. Stripes of a segment that joins another may get
        lower, others not."""
        plan = replace(plan, rows=plan.rows.copy(), temps=plan.temps.copy(), sums=plan.sums.copy())
        for region in sorted(touched & set(plan.regions)):
            spans, words = placed.held(region), 0
            start = bisect_left(plan.regions, region)
            for k in range(start, bisect_right(plan.regions, region)):
                chain, height = plan.chains[k], plan.rows[k]
                got = self.stripe(chain, height, plan.home, spans, words)
                while got is None and k > start and height > 1:
                    height = -(-height // 2)
                    got = self.stripe(chain, height, plan.home, spans, words)
                if got is None:
                    return None
                plan.rows[k], plan.temps[k] = height, got
                plan.sums[k] = self.sums(plan.chains[k - 1], plan.rows[k - 1])[0] + plan.sums[k - 1] if k > start else 0
                spans += self.spans(plan, k)
                words += self.words(chain, height)
        return plan


def plan_forward(graph: Graph, machine: Machine, masks: frozenset[str] = frozenset()) -> ForwardPlan:
    """Plan the forward pass of one sample.

    ``masks``: values of which clip masks are stored for the backward pass.

    Raises:
        CapacityError: a stripe of one row does not fit.
    """
    return _planned(graph, machine.only("buffer", "accumulator"), masks)


@lru_cache(maxsize=16)
def _planned(graph: Graph, memories: Machine, masks: frozenset[str]) -> ForwardPlan:
    return _Planner(graph, memories, masks).run()
