"""Weights to sub-arrays: cut every convolution into tiles, pack ragged tiles, place them so that what works together may work together.

Dense layers are unrolled by output feature, depth-wise layers stand one kernel a row (paper figure 3). Trainable layers, and frozen dense
layers that errors pass, stand in transposable sub-arrays, which serve both directions with the same cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sasimc.backend.builder import CapacityError
from sasimc.backend.stripes import column_chunk
from sasimc.ir.graph import Graph, Op
from sasimc.isa.machine import Machine
from sasimc.isa.objects import Matrix, Tile

__all__ = ["LayerMatrix", "Placement", "cut_layers", "place", "split_depthwise"]

Int8 = npt.NDArray[np.int8]


@dataclass(frozen=True)
class LayerMatrix:
    """Part of a layer that one product instruction handles: input channels [c0, c0+cin), output channels [n0, n0+n).

    ``values`` [K, N] int8 as stored; ``pixels``: products a sample (for the choice of copies).
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


@dataclass
class Placement:
    """Result: matrices by layer (in order of groups and column chunks), the scratch matrix if any, sub-arrays used by kind."""

    layers: dict[str, list[tuple[LayerMatrix, Matrix]]]
    scratch: Matrix | None
    compute_subarrays: int
    transposable_subarrays: int
    weights: int

    @property
    def used(self) -> int:
        """Sub-arrays that hold weights or scratch rows."""
        return self.compute_subarrays + self.transposable_subarrays + (len(self.scratch.tiles) if self.scratch else 0)


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
                        )
                    )
        out[op.name] = parts
    return out


@dataclass
class _Bin:
    """Free rectangles (row, col, rows, cols) of one sub-array; guillotine cuts."""

    free: list[tuple[int, int, int, int]]
    kind: str = ""
    used: int = 0

    def best(self, rows: int, cols: int) -> tuple[int, int] | None:
        """(waste, index) of the tightest free rectangle, or None."""
        fits = [(min(fr - rows, fc - cols), i) for i, (_, _, fr, fc) in enumerate(self.free) if fr >= rows and fc >= cols]
        return min(fits) if fits else None

    def take(self, index: int, rows: int, cols: int) -> tuple[int, int]:
        """Cut a rectangle out; the rest is split along its longer leftover side."""
        r, c, fr, fc = self.free.pop(index)
        right, below = fc - cols, fr - rows
        if below * fc > right * fr:
            pieces = [(r + rows, c, below, fc), (r, c + cols, rows, right)]
        else:
            pieces = [(r, c + cols, fr, right), (r + rows, c, below, cols)]
        self.free += [p for p in pieces if p[2] > 0 and p[3] > 0]
        self.used += rows * cols
        return r, c


@dataclass
class _Floor:
    """All sub-arrays of the machine while placing."""

    machine: Machine
    bins: list[_Bin] = field(default_factory=list)

    def __post_init__(self) -> None:
        m = self.machine
        self.bins = [_Bin([(0, 0, m.array.rows, m.weights_per_row)]) for _ in range(m.subarrays)]

    def kinds_used(self, kind: str) -> int:
        return sum(1 for b in self.bins if b.kind == kind)


def _pieces(matrix: LayerMatrix, machine: Machine) -> list[tuple[int, int, int, int]]:
    """Rectangles (k, n, rows, cols) of one copy; depth-wise kernels are spread over as many sub-arrays as may work together."""
    k, n = matrix.values.shape
    height = machine.array.rows
    if matrix.kind == "depthwise":
        height = min(height, max(1, -(-k // machine.group_size)))
    width = machine.weights_per_row
    return [(k0, n0, min(height, k - k0), min(width, n - n0)) for k0 in range(0, k, height) for n0 in range(0, n, width)]


def _place_copy(
    floor: _Floor,
    pieces: Sequence[tuple[int, int, int, int]],
    members: Sequence[int],
    kind: str,
    copy: int,
    avoid: set[int],
    limit: Callable[[], bool],
) -> list[Tile] | None:
    """Place all pieces on different sub-arrays of ``members`` (not in ``avoid``), or change nothing and return None."""
    snapshot = {s: (list(floor.bins[s].free), floor.bins[s].kind, floor.bins[s].used) for s in members}
    tiles: list[Tile] = []
    taken = set(avoid)
    for k, n, rows, cols in sorted(pieces, key=lambda p: -p[2] * p[3]):
        options = []
        for s in members:
            b = floor.bins[s]
            if s in taken or (b.kind and b.kind != kind) or (not b.kind and not limit()):
                continue
            if (fit := b.best(rows, cols)) is not None:
                # an already started sub-array first, then the tightest rectangle
                options.append(((0 if b.kind else 1, fit[0], s), s, fit[1]))
        if not options:
            for s, (free, old_kind, used) in snapshot.items():
                floor.bins[s] = _Bin(free, old_kind, used)
            return None
        _, s, index = min(options)
        floor.bins[s].kind = kind
        r, c = floor.bins[s].take(index, rows, cols)
        taken.add(s)
        tiles.append(Tile(s, r, c, k, n, rows, cols, copy))
    return tiles


def place(layers: Mapping[str, Sequence[LayerMatrix]], machine: Machine, scratch: bool) -> Placement:
    """Place every matrix once, reserve scratch sub-arrays, then put copies of busy layers where columns are idle.

    A matrix goes to one activation group when it can (its tiles then work in the same cycle); a larger one is cut over several groups.

    Raises:
        CapacityError: not enough sub-arrays (with how many are needed, how many there are).
    """
    floor = _Floor(machine)
    size, total = machine.group_size, machine.subarrays
    allowed = machine.transposed.subarrays
    all_parts = [p for parts in layers.values() for p in parts]
    pieces = {p.name: _pieces(p, machine) for p in all_parts}
    tiles: dict[str, list[Tile]] = {}

    def limit_of(kind: str) -> Callable[[], bool]:
        if kind == "transposable" and allowed != "auto":
            return lambda: floor.kinds_used("transposable") < int(allowed)
        return lambda: True

    def groups_for(kind: str) -> list[range]:
        """Activation groups, compute from the front and transposable from the back."""
        groups = [range(g * size, (g + 1) * size) for g in range(machine.groups)]
        return groups if kind == "compute" else groups[::-1]

    order = sorted(all_parts, key=lambda p: (-sum(r * c for _, _, r, c in pieces[p.name]), p.name))
    for part in order:
        tiles[part.name] = (
            _place_matrix(floor, pieces[part.name], groups_for(part.array), part.array, limit_of(part.array), size) or []
        )
        if not tiles[part.name]:
            _no_room(all_parts, pieces, machine, floor, part)
    scratch_matrix = None
    if scratch:
        free = [s for s in range(total) if not floor.bins[s].kind]
        if not free:
            _no_room(all_parts, pieces, machine, floor, None)
        by_group: dict[int, list[int]] = {}
        for s in free:
            by_group.setdefault(machine.group_of(s), []).append(s)
        best = max(by_group.values(), key=len)[: machine.gradient.scratch_subarrays]
        for s in best:
            floor.bins[s].kind = "scratch"
        rows, width = machine.array.rows, machine.weights_per_row
        made = tuple(Tile(s, 0, 0, i * rows, 0, rows, width) for i, s in enumerate(best))
        scratch_matrix = Matrix("scratch", "scratch", "compute", rows * len(best), width, "", False, made)
    _replicate(floor, all_parts, pieces, tiles, machine, limit_of)
    result: dict[str, list[tuple[LayerMatrix, Matrix]]] = {}
    for name, parts in layers.items():
        result[name] = []
        for p in parts:
            k, n = p.values.shape
            ordered = tuple(sorted(tiles[p.name], key=lambda t: (t.copy, t.k, t.n)))
            result[name].append((p, Matrix(p.name, p.kind, p.array, k, n, f"{p.name}.weight", p.trainable, ordered)))
    return Placement(
        result,
        scratch_matrix,
        floor.kinds_used("compute"),
        floor.kinds_used("transposable"),
        sum(p.values.size for p in all_parts),
    )


def _place_matrix(
    floor: _Floor, pieces: list[tuple[int, int, int, int]], groups: list[range], kind: str, limit: Callable[[], bool], size: int
) -> list[Tile] | None:
    """One copy: whole in one group if possible (the fullest group that takes it), else group-sized parts, else anywhere."""
    out: list[Tile] = []
    for i in range(0, len(pieces), size):
        part = pieces[i : i + size]
        placed = None
        for group in groups:
            if (placed := _place_copy(floor, part, group, kind, 0, set(), limit)) is not None:
                break
        if placed is None:
            placed = []
            for piece in part:
                one = next((t for g in groups if (t := _place_copy(floor, [piece], g, kind, 0, set(), limit)) is not None), None)
                if one is None:
                    return None
                placed += one
        out += placed
    return out


def _replicate(
    floor: _Floor, parts: Sequence[LayerMatrix], pieces: Mapping[str, list[tuple[int, int, int, int]]], tiles: dict[str, list[Tile]],
    machine: Machine, limit_of: Callable[[str], Callable[[], bool]],
) -> None:  # fmt: skip
    """Greedy copies of frozen layers inside their own group, the layer that saves most cycles first.

    A copy helps only on sub-arrays of the same activation group that the layer does not use yet.
    """
    copies = {p.name: 1 for p in parts}
    candidates = {p.name: p for p in parts if p.array == "compute"}

    def gain(p: LayerMatrix) -> float:
        tallest = max(r for _, _, r, _ in pieces[p.name])
        c = copies[p.name]
        return p.pixels * tallest * (1 / c - 1 / (c + 1))

    while candidates:
        name = max(candidates, key=lambda n: (gain(candidates[n]), n))
        used = {t.subarray for t in tiles[name]}
        groups = {machine.group_of(s) for s in used}
        placed = None
        if len(groups) == 1 and len(pieces[name]) <= machine.group_size - len(used):
            g = next(iter(groups))
            members = range(g * machine.group_size, (g + 1) * machine.group_size)
            placed = _place_copy(floor, pieces[name], members, "compute", copies[name], used, limit_of("compute"))
        if placed is None:
            del candidates[name]
            continue
        tiles[name] += placed
        copies[name] += 1


def _no_room(
    parts: Sequence[LayerMatrix],
    pieces: Mapping[str, list[tuple[int, int, int, int]]],
    machine: Machine,
    floor: _Floor,
    part: LayerMatrix | None,
) -> None:
    weights = sum(p.values.size for p in parts)
    whole = machine.array.rows * machine.weights_per_row
    transposable = sum(p.values.size for p in parts if p.array == "transposable")
    what = (
        f"layer {part.name} ({part.values.shape[0]} x {part.values.shape[1]} weights, {part.array})"
        if part
        else "the scratch rows of gradient products"
    )
    raise CapacityError(
        f"no room for {what}: {weights} weights ({transposable} in transposable sub-arrays) need at least {-(-weights // whole)} sub-arrays of "
        f"{machine.array.rows} x {machine.weights_per_row}; the machine has {machine.subarrays}"
        + (f", of which {machine.transposed.subarrays} may be transposable" if machine.transposed.subarrays != "auto" else ""),
        hint="a smaller width or head, --backprop truncated, or a machine with more banks",
    )
