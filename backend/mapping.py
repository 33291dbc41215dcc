"""Weights to sub-arrays: cut every convolution into tiles, pack ragged tiles, place them so that what works together may work together.

Dense layers are unrolled by output feature, depth-wise layers stand one kernel a row (paper figure 3). Trainable layers, and frozen dense
layers that errors pass, stand in transposable sub-arrays, which serve both directions with the same cells. The two directions want different
cuts (wide rows forward, tall columns backward), so a frozen layer may stand twice where there is room: copies in compute sub-arrays for forward
products, a *twin* in transposable ones for the errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sasimc.backend.builder import CapacityError
from sasimc.backend.packing import Cut, Level, Shelves, best_cuts, tiles_of
from sasimc.backend.pixel_packing import RowWindow, Run, choices, shifted
from sasimc.backend.stripes import column_chunk, dilations
from sasimc.ir.graph import Graph, Op
from sasimc.isa.instructions.array import INPUT_BITS
from sasimc.isa.machine import Machine
from sasimc.isa.objects import Matrix, Tile

__all__ = ["LayerMatrix", "Placement", "arrays_of", "cut_layers", "place", "rejoin", "row_window", "split_depthwise", "spread"]

Int8 = npt.NDArray[np.int8]

THRIFT = (0.0, *(2.0 ** (k / 2) for k in range(-6, 25)), 1e5, 1e6, 1e12)
"""What a word line x column of a level is worth in cycles: a multiplier of the capacity each, from fast to small."""
TWIN = ".t"
TWINS = 8
"""How many shares of the parts that may have a twin are tried."""
SPREAD = 1.05
"""How much longer gradients may take for the sake of more scratch rows, which are then written less often."""
LEAST_GAIN = 0.5
"""Cycles a sample and weight that a trainable layer must gain by a twin, which is written again in every step."""


@dataclass(frozen=True)
class LayerMatrix:
    """Part of a layer that one product instruction handles: input channels [c0, c0+cin), output channels [n0, n0+n).

    ``values`` [K, N] int8 as stored; ``pixels``: products a sample (for the choice of copies). ``window``: of a dense convolution that may have
    its kernels shifted; ``run``: the output pixels of a row that a matrix with shifted kernels is for.
    """

    layer: str
    name: str
    kind: str
    array: str
    trainable: bool
    c0: int
    cin: int
    n0: int
    n: int
    values: Int8
    pixels: int
    window: RowWindow | None = None
    run: Run | None = None

    @property
    def side(self) -> int:
        """Output pixels side by side."""
        return self.run.side if self.run else 1

    def shapes(self, runs: Sequence[Run]) -> list[tuple[int, int, int]]:
        """(K, N, products a sample) of the matrices for these runs (none: of the part as it is)."""
        (k, n), w = self.values.shape, self.window
        if w is None or not runs:
            return [(k, n, self.pixels)]
        return [(k // w.kernel * run.kernel(w), run.side * n, self.pixels // w.width * run.groups) for run in runs]

    def beside(self, runs: Sequence[Run]) -> list[LayerMatrix]:
        """A matrix for each of these runs (none: the part as it is)."""
        w = self.window
        if w is None or not runs:
            return [self]
        return [
            replace(
                self,
                name=f"{self.name}.x{run.side}" + (f".{run.first}" if run.first else ""),
                values=shifted(self.values, w, run),
                pixels=self.pixels // w.width * run.groups,
                run=run,
            )
            for run in runs
        ]


@dataclass
class Placement:
    """Result: matrices by layer (in order of groups and column chunks), the scratch matrix if any, sub-arrays used by kind; ``cost`` of the mapping
    problem (docs/explanation/mapping.md) and the proven lower ``limit`` of any solution.

    ``twins``: by the name of a part, the matrix that its transposed products use, where that is another one.
    """

    layers: dict[str, list[tuple[LayerMatrix, Matrix]]]
    scratch: Matrix | None
    compute_subarrays: int
    transposable_subarrays: int
    weights: int
    cost: float
    limit: float
    twins: dict[str, Matrix] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Placement of {self.weights} weights in {self.used} sub-arrays, {len(self.layers)} layers>"

    @property
    def used(self) -> int:
        """Sub-arrays that hold weights or scratch rows."""
        return len({t.subarray for m in self.matrices for t in m.tiles})

    @property
    def matrices(self) -> list[Matrix]:
        """Everything that stands in the arrays."""
        weights = [m for parts in self.layers.values() for _, m in parts]
        return [*weights, *self.twins.values(), *([self.scratch] if self.scratch else [])]

    def backward(self, layer: str) -> list[tuple[LayerMatrix, Matrix]]:
        """The matrices for a layer's transposed products."""
        return [(part, self.twins.get(part.name, matrix)) for part, matrix in self.layers[layer]]


def arrays_of(machine: Machine) -> Machine:
    """What of a machine decides where weights stand."""
    return machine.only("array", "activation", "transposed", "gradient", "accumulator", "adder_tree")


def split_depthwise(graph: Graph, machine: Machine, transposed: Iterable[str]) -> Graph:
    """Treat as grouped (one dense matrix a channel) the depth-wise layers that cannot stand one kernel a row: those whose kernels are longer
    than a word line, and those with a channel multiplier that are trained or passed by errors (the transposed instructions need 1)."""
    backward = set(transposed)

    def dense(op: Op) -> bool:
        kh, kw, _, n = np.asarray(graph.constant(op, "weight")).shape
        multiplier = n // graph.type(op.inputs[0]).shape[2]
        needed = op.flag("trainable") or op.name in backward
        return multiplier * kh * kw > machine.weights_per_row or (multiplier > 1 and needed)

    ops = [op.with_attrs(depthwise=False) if op.kind == "conv" and op.flag("depthwise") and dense(op) else op for op in graph.ops]
    same = all(a is b for a, b in zip(ops, graph.ops, strict=True))
    return graph if same else graph.map_ops(ops)


def row_window(graph: Graph, op: Op) -> RowWindow:
    """The window of a dense convolution along a row."""
    kh, kw = op.ints("kernel")
    x = graph.type(op.inputs[0])
    inputs = 0 if x.zero else x.shape[1]
    return RowWindow(kh, kw, op.ints("stride")[1], dilations(op)[1], op.ints("pads")[1], graph.type(op.output).shape[1], inputs)


def cut_layers(graph: Graph, machine: Machine, transposed: Iterable[str]) -> dict[str, list[LayerMatrix]]:
    """The matrices of every convolution and constant (after :func:`split_depthwise`). ``transposed``: layers that errors pass."""
    backward = set(transposed)
    out: dict[str, list[LayerMatrix]] = {}
    for op in graph.ops:
        if op.kind == "constant":  # read as memory; no product
            values = (graph.constant(op, "values").astype(np.int64) & 255).astype(np.uint8).view(np.int8)
            values = values.reshape(-1, values.shape[2])
            out[op.name] = [LayerMatrix(op.name, op.name, "dense", "compute", False, 0, 0, 0, values.shape[1], values, 0)]
        if op.kind != "conv":
            continue
        weight = np.asarray(graph.constant(op, "weight"), dtype=np.int8)
        kh, kw, cg, n_out = weight.shape
        trainable = op.flag("trainable")
        array = "transposable" if trainable or op.name in backward else "compute"
        ho, wo, _ = graph.type(op.output).shape
        hi, wi, cin = graph.type(op.inputs[0]).shape
        parts: list[LayerMatrix] = []
        if op.flag("depthwise"):
            m = n_out // cin
            values = weight.reshape(kh * kw, cin, m).transpose(1, 2, 0).reshape(cin, m * kh * kw)
            kind_array = "transposable" if trainable else "compute"
            parts.append(
                LayerMatrix(
                    op.name, op.name, "depthwise", kind_array, trainable, 0, cin, 0, n_out, np.ascontiguousarray(values), hi * wi
                )
            )
        else:
            groups = op.int_attr("groups")
            ng = n_out // groups
            chunks = -(-ng // min(ng, column_chunk(machine, wo, n_out)))
            width = -(-ng // chunks)
            window = row_window(graph, op)
            for g in range(groups):
                for first in range(0, ng, width):
                    count = min(width, ng - first)
                    n0 = g * ng + first
                    values = weight[:, :, :, n0 : n0 + count].reshape(kh * kw * cg, count)
                    suffix = (f".g{g}" if groups > 1 else "") + (f".n{first}" if chunks > 1 else "")
                    parts.append(
                        LayerMatrix(
                            op.name,
                            op.name + suffix,
                            "dense",
                            array,
                            trainable,
                            g * cg,
                            cg,
                            n0,
                            count,
                            np.ascontiguousarray(values),
                            ho * wo,
                            window if array == "compute" else None,
                        )
                    )
        out[op.name] = parts
    return out


def rejoin(shape: tuple[int, ...], parts: Iterable[tuple[str, int, Int8]]) -> Int8:
    """The weight [kh, kw, input channels of a group, output channels] of that shape whose parts :func:`cut_layers` cut: (kind, n0, values [K, N])."""
    kh, kw, cg, n_out = shape
    weight = np.zeros((kh, kw, cg, n_out), np.int8)
    for kind, n0, values in parts:
        if kind == "depthwise":
            channels = len(values)
            taps = values.reshape(channels, n_out // channels, kh * kw).transpose(2, 0, 1)
            weight[...] = taps.reshape(kh, kw, 1, n_out)
        else:
            n = values.shape[1]
            weight[:, :, :, n0 : n0 + n] = values.reshape(kh, kw, cg, n)
    return weight


def place(
    layers: Mapping[str, Sequence[LayerMatrix]], machine: Machine, scratch: bool, transposed: Iterable[str] = ()
) -> Placement:
    """Cut, copy and pack all matrices: Lagrange multipliers of the capacity, then single improvements (docs/explanation/mapping.md).

    ``transposed``: layers whose transposed product is needed; ``scratch``: gradients or products of two activation matrices need scratch rows.

    Raises:
        CapacityError: not enough sub-arrays (with how many are needed, how many there are), or partial sums beyond the adder tree's reach.
    """
    parts = [p for members in layers.values() for p in members]
    backward = set(transposed)
    choices_of = [_choices(p, machine, p.layer in backward) for p in parts]
    cheapest = [[_cheapest(c, i) for c in choices_of] for i in range(len(THRIFT))]
    if missing := next((p for p, c in zip(parts, cheapest[0], strict=True) if np.isinf(c.cost)), None):
        raise _out_of_reach(missing, machine)
    room = machine.groups * machine.array.rows * machine.weights_per_row
    limit = max(sum(c.price(t) for c in chosen) - t * room for t, chosen in zip(THRIFT, cheapest, strict=True))
    plans = sorted([*cheapest, *_shares(choices_of)], key=lambda chosen: sum(c.cost for c in chosen))
    for chosen in plans:
        fits = np.isfinite(sum(c.cost for c in chosen)) and sum(c.cells for c in chosen) <= room
        found = _pack(chosen, machine, scratch) if fits else None
        if isinstance(found, _Packed):
            chosen, found = _refine(chosen, choices_of, found, machine, scratch)
            return _result(layers, chosen, found, limit, machine)
    missing = _pack(min(plans, key=lambda chosen: sum(c.cells for c in chosen)), machine, scratch)
    raise _no_room(parts, machine, missing if isinstance(missing, LayerMatrix) else None)


@dataclass(frozen=True)
class _Choice:
    """One way to place a part: its matrices with their cuts, the cycles a sample that they cost (``LEAST_GAIN`` included), and word lines x columns
    of their levels."""

    plan: tuple[tuple[LayerMatrix, Cut], ...]
    extra: float = 0.0

    @cached_property
    def cost(self) -> float:
        return self.extra + sum(cut.cycles for _, cut in self.plan)

    @cached_property
    def cells(self) -> int:
        return sum(cut.levels * cut.rows * cut.cols for _, cut in self.plan)

    def price(self, thrift: float) -> float:
        """Cost where a cell costs ``thrift``."""
        return self.cost + thrift * self.cells


def _cheapest(options: Sequence[list[_Choice]], i: int) -> _Choice:
    """The cheapest of a part's choices at a thrift."""
    return min((o[i] for o in options), key=lambda choice: choice.price(THRIFT[i]))


def _shares(choices_of: Sequence[Sequence[list[_Choice]]]) -> Iterator[list[_Choice]]:
    """Plans at every thrift with twins for a share of the parts that gain by one, in the order of the cycles gained a cell."""
    gains = {}
    for k, options in enumerate(choices_of):
        if len(options) > 1 and (gain := options[0][0].cost - options[1][0].cost) > 0:
            gains[k] = gain / options[1][-1].cells
    order = sorted(gains, key=lambda k: -gains[k])
    for i in range(len(THRIFT)):
        for share in range(TWINS + 1) if order else ():
            twins = set(order[: len(order) * share // TWINS])
            yield [options[k in twins][i] for k, options in enumerate(choices_of)]


def _choices(part: LayerMatrix, machine: Machine, backward: bool) -> list[list[_Choice]]:
    """For every thrift the cheapest way to place a part: with one matrix or several output pixels side by side, and (where there is one) with a
    twin."""

    def cuts(p: LayerMatrix, use: str, copies: bool, runs: Sequence[Run] = ()) -> list[tuple[tuple[LayerMatrix, Cut], ...]]:
        found = [
            best_cuts(k, n, pixels, machine, use=use, copies=copies, narrow=p.kind == "depthwise", thrift=THRIFT)
            for k, n, pixels in p.shapes(runs)
        ]
        matrices = p.beside(runs)
        return [tuple(zip(matrices, chosen, strict=True)) for chosen in zip(*found, strict=True)]

    both = backward and part.kind == "dense"
    options = [[_Choice(plan) for plan in cuts(part, "both" if both else "forward", part.array == "compute" and part.pixels > 0)]]
    if part.window:
        *ways, _ = choices(part.window, part.values.shape[1], machine.weights_per_row)
        options += [[_Choice(plan) for plan in cuts(part, "forward", True, runs)] for runs in ways]
    if both:
        ahead, back = replace(part, array=part.array if part.trainable else "compute"), replace(part, name=f"{part.name}{TWIN}")
        pairs = zip(cuts(ahead, "forward", not part.trainable), cuts(back, "backward", False), strict=True)
        written = LEAST_GAIN * part.values.size if part.trainable else 0.0
        twin = [[_Choice((*forward, *transposed), written) for forward, transposed in pairs]]
    else:
        twin = []
    return [[_cheapest(options, i) for i in range(len(THRIFT))], *twin]


@dataclass(frozen=True)
class _Packed:
    """Levels by the name of a matrix, and the scratch matrix."""

    levels: Mapping[str, list[Level]]
    scratch: Matrix | None


def _refine(
    chosen: list[_Choice], choices_of: Sequence[Sequence[list[_Choice]]], packed: _Packed, machine: Machine, scratch: bool
) -> tuple[list[_Choice], _Packed]:  # fmt: skip
    """Take a faster choice for single parts where it still fits, the largest gain a cell first; scratch rows never get fewer."""
    gains = []
    for k, (now, options) in enumerate(zip(chosen, choices_of, strict=True)):
        faster = [c for o in options for c in o if c.cost < now.cost]
        if faster:
            better = max(faster, key=lambda c: (now.cost - c.cost) / max(1, c.cells - now.cells))
            gains.append(((now.cost - better.cost) / max(1, better.cells - now.cells), k, better))
    no_room = set[tuple[object, ...]]()  # exchanges for which the floor as it is has no room
    for _, k, better in sorted(gains, key=lambda gain: (-gain[0], gain[1])):
        exchange = *_outline(chosen[k]), None, *_outline(better)
        if exchange in no_room:
            continue
        trial = [*chosen[:k], better, *chosen[k + 1 :]]
        found = _pack(trial, machine, scratch)
        if isinstance(found, _Packed) and (not scratch or _size(found.scratch) >= _size(packed.scratch)):
            chosen, packed = trial, found
            no_room.clear()
        else:
            no_room.add(exchange)
    return chosen, packed


def _outline(choice: _Choice) -> list[object]:
    """What of a choice counts for packing."""
    return [(p.array, p.trainable, cut.rows, cut.cols, cut.levels, cut.bundle) for p, cut in choice.plan]


def _size(scratch: Matrix | None) -> int:
    return scratch.k * scratch.n if scratch else 0


def _pack(chosen: Sequence[_Choice], machine: Machine, scratch: bool) -> _Packed | LayerMatrix | None:
    """Levels of all matrices, highest first, then the scratch rows; what finds no room (None: the scratch rows)."""
    floor = Shelves(machine)
    taken: dict[str, list[Level]] = {}
    plan = [pair for choice in chosen for pair in choice.plan]
    for p, cut in sorted(plan, key=lambda t: (-t[1].rows, -t[1].cols, t[0].name)):
        levels = floor.take_all(cut, p.array, "trainable" if p.trainable else "frozen")
        if levels is None:
            return p
        taken[p.name] = levels
    made = _scratch(floor) if scratch else None
    return None if scratch and made is None else _Packed(taken, made)


def _scratch(floor: Shelves) -> Matrix | None:
    """Scratch rows on the largest free rectangle."""
    found = floor.take_scratch()
    if found is None:
        return None
    level, rows, cols = found
    machine = floor.machine
    count = min(machine.gradient.scratch_subarrays, machine.reach_size or machine.group_size)
    first = level.group * machine.group_size
    made = tuple(Tile(first + i, level.row, level.col, i * rows, 0, rows, cols) for i in range(count))
    return Matrix("scratch", "scratch", "compute", rows * count, cols, "", False, made)


def spread(scratch: Matrix, height: int, width: int, vectors: int, machine: Machine) -> Matrix:
    """The scratch rows to use for a height x width operand that meets ``vectors`` streamed inputs.

    An operand fills sub-array after sub-array, so few rows of each let more of them work at once. Of numbers of rows that are nearly as fast
    the largest is taken: each row is written less often.
    """
    most, count = scratch.tiles[0].rows, len(scratch.tiles)
    rows = np.arange(1, most + 1)
    passes = -(-(-(-height // rows) * -(-width // scratch.n)) // count)
    cycles = passes * np.minimum(rows, height) * (machine.write.cycles_per_row + vectors * INPUT_BITS)
    best = int(rows[cycles <= SPREAD * cycles.min()][-1])
    tiles = tuple(replace(t, k=i * best, rows=best) for i, t in enumerate(scratch.tiles))
    name = f"{scratch.name}.{best}" if best < most else scratch.name
    return replace(scratch, name=name, k=best * count, tiles=tiles)


def _result(
    layers: Mapping[str, Sequence[LayerMatrix]], chosen: Sequence[_Choice], packed: _Packed, limit: float, machine: Machine
) -> Placement:
    parts = [p for choice in chosen for p, _ in choice.plan]
    tiles = {p.name: tiles_of(cut, packed.levels[p.name], machine) for choice in chosen for p, cut in choice.plan}
    stored = {p.name: p for p in parts}

    def matrix(p: LayerMatrix, tensor: str) -> Matrix:
        k, n = p.values.shape
        ordered = tuple(sorted(tiles[p.name], key=lambda t: (t.copy, t.k, t.n)))
        return Matrix(p.name, p.kind, p.array, k, n, tensor, p.trainable, ordered)

    names = [p.name for members in layers.values() for p in members]
    twins = {name: name + TWIN for name in names if name + TWIN in stored}
    tensors = {twin: name for name, twin in twins.items()}
    made = {p.name: matrix(p, f"{tensors.get(p.name, p.name)}.weight") for p in parts}
    result: dict[str, list[tuple[LayerMatrix, Matrix]]] = {name: [] for name in layers}
    for p in parts:
        if p.name not in tensors:
            result[p.layer].append((p, made[p.name]))
    used: dict[str, set[int]] = {"compute": set(), "transposable": set()}
    for p in parts:
        used[p.array].update(t.subarray for t in tiles[p.name])
    weights = sum(p.values.size for members in layers.values() for p in members)
    standing = {name: made[twin] for name, twin in twins.items()}
    cost = sum(choice.cost for choice in chosen)
    return Placement(result, packed.scratch, len(used["compute"]), len(used["transposable"]), weights, cost, limit, standing)


def _out_of_reach(part: LayerMatrix, machine: Machine) -> CapacityError:
    """No cut of the part keeps its partial sums within the adder tree's reach."""
    (k, n), reach = part.values.shape, machine.adder_tree.reach
    holds = machine.reach_size * machine.array.rows * machine.weights_per_row
    return CapacityError(
        f"layer {part.name} ({k} x {n} weights, {part.array}) cannot be placed: adder_tree.reach = {reach!r} adds the partial sums of "
        f"{machine.reach_size} sub-arrays, which hold {holds} weights; no cut of the layer keeps all sums of an output within them",
        where=part.layer, hint='a wider adder_tree.reach ("group", "machine"), or more rows in a sub-array',
    )  # fmt: skip


def _no_room(parts: Sequence[LayerMatrix], machine: Machine, part: LayerMatrix | None) -> CapacityError:
    weights = sum(p.values.size for p in parts)
    whole = machine.array.rows * machine.weights_per_row
    transposable = sum(p.values.size for p in parts if p.array == "transposable")
    what = (
        f"layer {part.name} ({part.values.shape[0]} x {part.values.shape[1]} weights, {part.array})"
        if part
        else "the scratch rows of gradients and of products of two activation matrices"
    )
    allowed = machine.transposed.subarrays
    return CapacityError(
        f"no room for {what}: {weights} weights ({transposable} in transposable sub-arrays) need at least {-(-weights // whole)} "
        f"sub-arrays of {machine.array.rows} x {machine.weights_per_row}; the machine has {machine.subarrays}"
        + (
            f", of which {allowed} may be transposable (in whole activation groups of {machine.group_size})"
            if allowed != "auto"
            else ""
        ),
        hint="--machine FILE with more array.banks; without transposable copies: --inference-only, or --backprop truncated",
    )
