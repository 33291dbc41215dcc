"""Weights to sub-arrays: cut every convolution into tiles, pack ragged tiles, place them so that what works together may work together.

Dense layers are unrolled by output feature, depth-wise layers stand one kernel a row (paper figure 3). Trainable layers, and frozen dense
layers that errors pass, stand in transposable sub-arrays, which serve both directions with the same cells. The two directions want different
cuts (wide rows forward, tall columns backward), so a frozen layer may stand twice where there is room: copies in compute sub-arrays for forward
products, a *twin* in transposable ones for the errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from sasimc.backend.builder import CapacityError
from sasimc.backend.floor import Cut, Floor, Level, best_cuts
from sasimc.backend.shifted import RowWindow, choices, shifted, splits, wide
from sasimc.backend.stripes import column_chunk, dilations
from sasimc.ir.graph import Graph, Op
from sasimc.isa.machine import Machine
from sasimc.isa.objects import Matrix, Tile

__all__ = ["LayerMatrix", "Placement", "cut_layers", "place", "split_depthwise"]

Int8 = npt.NDArray[np.int8]

THRIFT = (0.25, 1.0, 4.0, 16.0, 64.0, 256.0, 4096.0, 1e12)
"""What a word line x column of a level is worth in cycles: one candidate each, from fast to small."""
TWIN = ".t"
TWINS = 8
"""How many shares of the layers that may have a twin are tried."""
LEAST_GAIN = 8.0
"""Cycles a sample and weight that a trainable layer must gain by a twin, which is written again in every step."""


@dataclass(frozen=True)
class LayerMatrix:
    """Part of a layer that one product instruction handles: input channels [c0, c0+cin), output channels [n0, n0+n).

    ``values`` [K, N] int8 as stored; ``pixels``: products a sample (for the choice of copies). ``window``: of a dense convolution that may have
    its kernels shifted; ``side`` output pixels stand side by side, ``first`` is the output pixel of a row that the matrix begins with and
    ``groups`` how often it is used in a row (0: as often as there are output pixels).
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
    side: int = 1
    first: int = 0
    groups: int = 0

    def shapes(self, side: int) -> list[tuple[int, int, int]]:
        """(K, N, products a sample) of the matrices with ``side`` output pixels side by side."""
        k, n = self.values.shape
        if side == 1 or self.window is None:
            return [(k, n, self.pixels)]
        w = self.window
        return [(k // w.kernel * wide(w, s)[0], s * n, self.pixels // w.width * groups) for s, _, groups in splits(w, side)]

    def beside(self, side: int) -> list[LayerMatrix]:
        """The same part with ``side`` output pixels side by side: one matrix, and another for what is left of a row."""
        if side == 1 or self.window is None:
            return [self]
        return [
            replace(
                self, name=f"{self.name}.x{s}" + (".rest" if first else ""), values=shifted(self.values, self.window, s),
                pixels=self.pixels // self.window.width * groups, side=s, first=first, groups=groups,
            )
            for s, first, groups in splits(self.window, side)
        ]  # fmt: skip


@dataclass
class Placement:
    """Result: matrices by layer (in order of groups and column chunks), the scratch matrix if any, sub-arrays used by kind.

    ``twins``: by the name of a part, the matrix that its transposed products use, where that is another one.
    """

    layers: dict[str, list[tuple[LayerMatrix, Matrix]]]
    scratch: Matrix | None
    compute_subarrays: int
    transposable_subarrays: int
    weights: int
    twins: dict[str, Matrix] = field(default_factory=dict)

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
    return graph.map_ops(ops)


def cut_layers(graph: Graph, machine: Machine, transposed: Iterable[str]) -> dict[str, list[LayerMatrix]]:
    """The matrices of every convolution (after :func:`split_depthwise`). ``transposed``: layers that errors pass."""
    backward = set(transposed)
    out: dict[str, list[LayerMatrix]] = {}
    for op in graph.ops:
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
            window = RowWindow(kh, kw, op.ints("stride")[1], dilations(op)[1], op.ints("pads")[1], wo)
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


def place(
    layers: Mapping[str, Sequence[LayerMatrix]], machine: Machine, scratch: bool, transposed: Iterable[str] = ()
) -> Placement:
    """Cut, copy and pack all matrices: the fastest of some hundred candidates that fits (docs/mapping.md).

    ``transposed``: layers whose transposed product is needed; ``scratch``: gradient products need scratch rows.

    Raises:
        CapacityError: not enough sub-arrays (with how many are needed, how many there are), or partial sums beyond the adder tree's reach.
    """
    parts = [p for members in layers.values() for p in members]
    room = machine.subarrays * machine.array.rows * machine.weights_per_row
    candidates = sorted(_candidates(parts, machine, set(transposed)), key=_cycles)
    if np.isinf(_cycles(candidates[0])):
        raise _out_of_reach(candidates, machine)
    candidates = [plan for plan in candidates if np.isfinite(_cycles(plan))]
    for plan in candidates:
        if _cells(plan) * machine.group_size > room:
            continue
        floor = Floor(machine)
        taken, lacking = _pack(floor, plan)
        scratch_matrix = _scratch(floor) if scratch and lacking is None else None
        if lacking is None and (scratch_matrix is not None or not scratch):
            tiles = {p.name: floor.tiles(cut, taken[p.name]) for p, cut in plan}
            return _result(layers, tiles, scratch_matrix, [p for p, _ in plan])
    _, missing = _pack(Floor(machine), min(candidates, key=_cells))
    raise _no_room(parts, machine, missing)


Plan = list[tuple[LayerMatrix, Cut]]


def _cycles(plan: Plan) -> float:
    """Cycles a sample of all products."""
    return sum(cut.cycles for _, cut in plan)


def _cells(plan: Plan) -> int:
    """Word lines x columns of all levels."""
    return sum(cut.levels * cut.rows * cut.cols for _, cut in plan)


def _candidates(parts: Sequence[LayerMatrix], machine: Machine, backward: set[str]) -> list[Plan]:
    """Plans from fast to small: for every thrift, with twins for none to all of the layers that gain by one.

    Layers get twins in the order of the cycles gained a weight.
    """

    def cuts(p: LayerMatrix, use: str, copies: bool, side: int = 1) -> list[Plan]:
        """For every thrift the matrices of a part and their cuts, with ``side`` output pixels side by side."""
        found = [
            best_cuts(k, n, pixels, machine, use=use, copies=copies, narrow=p.kind == "depthwise", thrift=THRIFT)
            for k, n, pixels in p.shapes(side)
        ]
        return [list(zip(p.beside(side), chosen, strict=True)) for chosen in zip(*found, strict=True)]

    def best(p: LayerMatrix, use: str, copies: bool) -> list[Plan]:
        """The cheapest number of pixels side by side for every thrift."""
        sides = choices(p.window, p.values.shape[1], machine.weights_per_row) if p.window else (1,)
        options = [cuts(p, use, copies, side) for side in sides]
        return [min((o[i] for o in options), key=lambda plan: _cycles(plan) + t * _cells(plan)) for i, t in enumerate(THRIFT)]

    single = {
        p.name: best(p, "both" if p.layer in backward and p.kind == "dense" else "forward", p.array == "compute") for p in parts
    }
    pairs: dict[str, tuple[list[Plan], list[Plan]]] = {}
    gain: dict[str, float] = {}
    for p in parts:
        if p.layer in backward and p.kind == "dense":
            ahead, back = replace(p, array=p.array if p.trainable else "compute"), replace(p, name=f"{p.name}{TWIN}")
            pairs[p.name] = cuts(ahead, "forward", not p.trainable), cuts(back, "backward", False)
            saved = _cycles(single[p.name][0]) - _cycles(pairs[p.name][0][0]) - _cycles(pairs[p.name][1][0])
            gain[p.name] = saved / p.values.size
    least = {p.name: LEAST_GAIN if p.trainable else 0.0 for p in parts}
    order = sorted((name for name, g in gain.items() if g > least[name]), key=lambda name: (-gain[name], name))
    out: list[Plan] = []
    for i in range(len(THRIFT)):
        for count in sorted({len(order) * share // TWINS for share in range(TWINS + 1)}):
            twins, plan = set(order[:count]), Plan()
            for p in parts:
                chosen = [pairs[p.name][0][i], pairs[p.name][1][i]] if p.name in twins else [single[p.name][i]]
                plan += [pair for part in chosen for pair in part]
            out.append(plan)
    return out


def _pack(floor: Floor, plan: Plan) -> tuple[dict[str, list[Level]], LayerMatrix | None]:
    """Levels by matrix, highest first; and the first matrix that found no room."""
    taken: dict[str, list[Level]] = {}
    for p, cut in sorted(plan, key=lambda t: (-t[1].rows, -t[1].cols, t[0].name)):
        levels = floor.take_all(cut, p.array, "trainable" if p.trainable else "frozen")
        if levels is None:
            return taken, p
        taken[p.name] = levels
    return taken, None


def _scratch(floor: Floor) -> Matrix | None:
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


def _result(
    layers: Mapping[str, Sequence[LayerMatrix]],
    tiles: Mapping[str, list[Tile]],
    scratch: Matrix | None,
    parts: Sequence[LayerMatrix],
) -> Placement:
    stored = {p.name: p for p in parts}

    def matrix(p: LayerMatrix, tensor: str) -> Matrix:
        k, n = p.values.shape
        ordered = tuple(sorted(tiles[p.name], key=lambda t: (t.copy, t.k, t.n)))
        return Matrix(p.name, p.kind, p.array, k, n, tensor, p.trainable, ordered)

    names = {p.name for members in layers.values() for p in members}
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
    return Placement(result, scratch, len(used["compute"]), len(used["transposable"]), weights, standing)


def _out_of_reach(candidates: Sequence[Plan], machine: Machine) -> CapacityError:
    """The first matrix of which no cut keeps the partial sums within the adder tree's reach."""
    plan = min(candidates, key=lambda c: sum(np.isinf(cut.cycles) for _, cut in c))
    part = next(p for p, cut in plan if np.isinf(cut.cycles))
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
        else "the scratch rows of gradient products"
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
        hint="a smaller width or head, --backprop truncated, or a machine with more banks",
    )
