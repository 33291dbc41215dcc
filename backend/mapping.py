"""Weights to sub-arrays: cut every convolution into tiles, pack ragged tiles, place them so that what works together may work together.

Dense layers are unrolled by output feature, depth-wise layers stand one kernel a row (paper figure 3). Trainable layers, and frozen dense
layers that errors pass, stand in transposable sub-arrays, which serve both directions with the same cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sasimc.backend.builder import CapacityError
from sasimc.backend.floor import Cut, Floor, Level, best_cut
from sasimc.backend.stripes import column_chunk
from sasimc.ir.graph import Graph, Op
from sasimc.isa.machine import Machine
from sasimc.isa.objects import Matrix, Tile

__all__ = ["LayerMatrix", "Placement", "cut_layers", "place", "split_depthwise"]

Int8 = npt.NDArray[np.int8]

THRIFT = (0.25, 2.0, 16.0, 128.0, 1e12)  # cycles a word line x column of a level is worth; tried in turn until all fits


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
        matrices = [m for parts in self.layers.values() for _, m in parts] + ([self.scratch] if self.scratch else [])
        return len({t.subarray for m in matrices for t in m.tiles})


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


def place(
    layers: Mapping[str, Sequence[LayerMatrix]], machine: Machine, scratch: bool, transposed: Iterable[str] = ()
) -> Placement:
    """Cut, copy and pack all matrices, fastest first; a machine too full for the fastest cuts gets thriftier ones.

    ``transposed``: layers whose transposed product is needed; ``scratch``: gradient products need scratch rows.

    Raises:
        CapacityError: not enough sub-arrays (with how many are needed, how many there are).
    """
    parts = [p for members in layers.values() for p in members]
    backward = set(transposed)
    missing: LayerMatrix | None = None
    for thrift in THRIFT:
        floor = Floor(machine)
        cuts = {
            p.name: best_cut(
                p.values.shape[0],
                p.values.shape[1],
                p.pixels,
                machine,
                transposed=p.layer in backward and p.kind == "dense",
                copies=p.array == "compute",
                narrow=p.kind == "depthwise",
                thrift=thrift,
            )
            for p in parts
        }
        taken, missing = _pack(floor, parts, cuts)
        scratch_matrix = _scratch(floor) if scratch and missing is None else None
        if missing is None and (scratch_matrix is not None or not scratch):
            tiles = {name: floor.tiles(cuts[name], levels) for name, levels in taken.items()}
            return _result(layers, tiles, scratch_matrix, parts)
    raise _no_room(parts, machine, missing)


def _pack(
    floor: Floor, parts: Sequence[LayerMatrix], cuts: Mapping[str, Cut]
) -> tuple[dict[str, list[Level]], LayerMatrix | None]:
    """Levels by matrix, highest first; and the first matrix that found no room."""
    size = floor.machine.group_size
    todo = [(cuts[p.name], p) for p in parts]
    taken: dict[str, list[Level]] = {p.name: [] for p in parts}
    for cut, p in sorted(todo, key=lambda t: (-t[0].rows, -t[0].cols, t[1].name)):
        for _ in range(-(-len(cut.pieces) // size)):
            level = floor.take(cut.rows, cut.cols, p.array, "trainable" if p.trainable else "frozen")
            if level is None:
                return taken, p
            taken[p.name].append(level)
    return taken, None


def _scratch(floor: Floor) -> Matrix | None:
    """Scratch rows on the largest free rectangle."""
    found = floor.take_scratch()
    if found is None:
        return None
    level, rows, cols = found
    machine = floor.machine
    count = min(machine.gradient.scratch_subarrays, machine.group_size)
    first = level.group * machine.group_size
    made = tuple(Tile(first + i, level.row, level.col, i * rows, 0, rows, cols) for i in range(count))
    return Matrix("scratch", "scratch", "compute", rows * count, cols, "", False, made)


def _result(
    layers: Mapping[str, Sequence[LayerMatrix]],
    tiles: Mapping[str, list[Tile]],
    scratch: Matrix | None,
    parts: Sequence[LayerMatrix],
) -> Placement:
    result: dict[str, list[tuple[LayerMatrix, Matrix]]] = {}
    for name, members in layers.items():
        result[name] = []
        for p in members:
            k, n = p.values.shape
            ordered = tuple(sorted(tiles[p.name], key=lambda t: (t.copy, t.k, t.n)))
            result[name].append((p, Matrix(p.name, p.kind, p.array, k, n, f"{p.name}.weight", p.trainable, ordered)))
    used: dict[str, set[int]] = {"compute": set(), "transposable": set()}
    for p in parts:
        used[p.array].update(t.subarray for t in tiles[p.name])
    weights = sum(p.values.size for p in parts)
    return Placement(result, scratch, len(used["compute"]), len(used["transposable"]), weights)


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
