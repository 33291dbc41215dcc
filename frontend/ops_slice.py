"""Operators that take elements, or put them elsewhere: Slice, Split, Gather; DepthToSpace, SpaceToDepth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from sasimc.frontend.state import Act, Importer, Unsupported, handles
from sasimc.ir.graph import Shape
from sasimc.ir.layout import Axis, Layout

__all__ = ["in_order", "mosaic", "relaid", "sliced"]

Index = npt.NDArray[np.int64]
MAX_RUNS = 64
_TWO = 2
_PLACES = {"H": 0, "W": 1, "C": 2}


@handles("Slice")
def slice_(imp: Importer, node: NodeProto) -> None:
    act = imp.act(node, 0)
    starts, ends = imp.ints(node, 1, "starts"), imp.ints(node, 2, "ends")
    dims = imp.dims(act)
    axes = imp.ints(node, 3, "axes") if imp.has(node, 3) else list(range(len(starts)))
    steps = imp.ints(node, 4, "steps") if imp.has(node, 4) else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise Unsupported(f"starts {starts}, ends {ends}, axes {axes}, steps {steps}", "one of each for every axis")
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index = np.arange(dims[axis])[slice(start, end if step > 0 or end >= -dims[axis] else None, step)]
        if len(index) < dims[axis] or step != 1:
            act = _taken(imp, node, act, axis, index)
    imp.acts[node.output[0]] = act


@handles("Split")
def split(imp: Importer, node: NodeProto) -> None:
    act, attrs = imp.act(node, 0), imp.attrs(node)
    axis, parts = int(attrs.get("axis", 0)), len(node.output)
    size = imp.dims(act)[axis]
    if imp.has(node, 1):
        sizes = imp.ints(node, 1, "split")
    else:
        each = -(-size // int(attrs.get("num_outputs", parts)))
        sizes = [min(each, size - i * each) for i in range(parts)]
    if len(sizes) != parts or sum(sizes) != size or min(sizes) < 1:
        raise Unsupported(f"splits {size} into {sizes}")
    for out, index in zip(node.output, np.split(np.arange(size), np.cumsum(sizes)[:-1]), strict=True):
        if out:
            imp.acts[out] = _taken(imp, node, act, axis, index, out)


@handles("Gather")
def gather(imp: Importer, node: NodeProto) -> None:
    act, axis = imp.act(node, 0), int(imp.attrs(node).get("axis", 0))
    c = np.asarray(imp.const(node, 1, "indices"))
    size = imp.dims(act)[axis]
    if c.dtype.kind != "i" or c.ndim > 1 or ((c < -size) | (c >= size)).any():
        raise Unsupported(
            f"indices {c.dtype} {list(c.shape)} along {size} elements", "constant indices inside the axis, a list or one"
        )
    act = _taken(imp, node, act, axis, np.atleast_1d(c % size))
    if c.ndim == 0:
        gone = imp.axis(act, axis)
        t, layout = imp.type(act), imp.layout(act)
        left = Layout(tuple(a for i, a in enumerate(layout.axes) if i != gone))
        out = imp.emit(node, "reshape", [act.value], imp.fresh(node.output[0]), t.with_shape(t.shape, left), suffix=":axis")
        act = Act(out, act.batch - (axis % len(imp.dims(act)) < act.batch))
    imp.acts[node.output[0]] = act


def _taken(imp: Importer, node: NodeProto, act: Act, number: int, index: Index, name: str = "") -> Act:
    """The elements ``index`` of an ONNX axis."""
    axis, (t, layout) = imp.axis(act, number), (imp.type(act), imp.layout(act))
    parts = layout.parts(t.shape)
    names = {part for part, _, _ in parts[axis]} if parts is not None else set[str]()
    size, shown = layout.dims[axis], layout.text(t.shape)
    if not len(index):
        raise Unsupported("takes no elements", "remove the node")
    if size == len(index) == 1:
        return act
    if (part := _block(imp, node, act, axis, index, name)) is not None:
        return part
    if len(names) != 1 or layout.dims[axis] != t.shape[place := _PLACES[next(iter(names))]]:
        raise Unsupported(
            f"takes {len(index)} of {size} elements of a tensor laid out {shown!r}", "take channels, rows or columns"
        )
    base = (t.shape[1] * t.shape[2], t.shape[2], 1)[place]
    at = Layout((layout.axes[axis],)).index()[index] // base
    shape: Shape = (*t.shape[:place], len(at), *t.shape[place + 1 :])  # type: ignore[assignment]
    order = _factors(np.argsort(np.argsort(at))) if len(set(at.tolist())) == len(at) else None
    stored = np.sort(at) if order is not None else at
    out = sliced(imp, node, act.value, place, stored, relaid(layout, t.shape, shape, axis, order), name or node.output[0])
    return Act(out, act.batch)


def _block(imp: Importer, node: NodeProto, act: Act, axis: int, index: Index, name: str) -> Act | None:
    """Neighbours along an axis that is the slowest part of the channels, but not all of them: one run of channels. None where they are no such."""
    t, layout = imp.type(act), imp.layout(act)
    (h, w, c), factors = t.shape, layout.axes[axis]
    if len(factors) != 1 or factors[0][0] * factors[0][1] != c or factors[0][1] == 1 or (np.diff(index) != 1).any():
        return None
    if any(s < c < size * s for a in layout.axes for size, s in a):
        return None
    step = factors[0][1]
    shape: Shape = (h, w, len(index) * step)
    axes = [[(size, s if s < c else s // c * shape[2]) for size, s in a] for a in layout.axes]
    axes[axis] = [(len(index), step)]
    at = np.arange(index[0] * step, (index[-1] + 1) * step)
    return Act(sliced(imp, node, act.value, 2, at, Layout.of(axes), name or node.output[0]), act.batch)


def relaid(layout: Layout, old: Shape, new: Shape, axis: int, order: Axis | None) -> Layout:
    """The layout when one of height, width and channels has another size and stands in ``order`` (None: as it is stored)."""
    parts = layout.parts(old)
    assert parts is not None
    base = {"H": new[1] * new[2], "W": new[2], "C": 1}
    axes = [[(size, step * base[name]) for name, size, step in p] for p in parts]
    name = parts[axis][0][0]
    size = new[_PLACES[name]]
    axes[axis] = [(n, s * base[name]) for n, s in (order if order is not None else ((size, 1),))]
    return Layout.of(axes)


def _factors(ranks: Index) -> Axis | None:
    """Sizes and strides of a permutation that is a strided view; None for another."""
    if len(ranks) == 1:
        return ()
    step = int(ranks[1] - ranks[0])
    if ranks[0] != 0 or step < 1:
        return None
    run = 1
    while run < len(ranks) and ranks[run] == run * step:
        run += 1
    if len(ranks) % run:
        return None
    outer = _factors(ranks[::run])
    if outer is None:
        return None
    found = (*outer, (run, step))
    return found if np.array_equal(Layout((found,)).index(), ranks) else None


def sliced(imp: Importer, node: NodeProto, value: str, place: int, at: Index, layout: Layout, out: str) -> str:
    """Rows, columns or channels (``place`` 0, 1, 2) ``at``, one after the other."""
    t, runs = imp.values[value], _runs(at)
    if len(runs) > MAX_RUNS:
        raise Unsupported(
            f"takes {len(at)} elements from {len(runs)} places",
            f"at most {MAX_RUNS} runs; put the order into the weights of the layer behind",
        )
    pieces = []
    for i, (start, step, count) in enumerate(runs):
        shape: Shape = (*t.shape[:place], count, *t.shape[place + 1 :])  # type: ignore[assignment]
        axes = layout if len(runs) == 1 else Layout.planes(shape)
        starts, steps = [0, 0, 0], [1, 1, 1]
        starts[place], steps[place] = start, step
        name = imp.fresh(out if len(runs) == 1 else f"{out}:{i}")
        pieces.append(
            imp.emit(
                node,
                "slice",
                [value],
                name,
                t.with_shape(shape, axes),
                {"start": tuple(starts), "step": tuple(steps)},
                suffix=":take",
            )
        )
    if len(runs) == 1:
        return pieces[0]
    total: Shape = (*t.shape[:place], len(at), *t.shape[place + 1 :])  # type: ignore[assignment]
    firsts = np.cumsum([0, *(count for _, _, count in runs)])
    return mosaic(
        imp,
        node,
        pieces,
        [tuple(int(f) if p == place else 0 for p in range(3)) for f in firsts[:-1]],
        (1, 1, 1),
        total,
        layout,
        out,
    )


def in_order(imp: Importer, node: NodeProto, act: Act, value: str, axis: int) -> tuple[Act, str]:
    """An activation, read as ``value``, whose channels stand in the order of their axis: moved where they are interleaved (half of shuffled
    channels), as they are else."""
    t, factors = imp.values[value], imp.layout(act).axes[axis] if axis < len(imp.layout(act).axes) else ()
    if len(factors) != _TWO or not Layout((factors,)).covers(t.shape[2]):
        return act, value
    (outer, far), (inner, near) = factors
    h, w, _ = t.shape
    made = relaid(imp.layout(act), t.shape, t.shape, axis, None)
    # element o * inner + i stands at o * far + i * near: take pieces along the longer of both
    along = outer >= inner
    count, step, apart = (outer, far, near) if along else (inner, near, far)
    pieces = [
        imp.emit(
            node, "slice", [value], imp.fresh(f"{node.output[0]}:{value}:{k}"), t.with_shape((h, w, count), Layout.planes((h, w, count))),
            {"start": (0, 0, k * apart), "step": (1, 1, step)}, suffix=":take",
        )
        for k in range(inner if along else outer)
    ]  # fmt: skip
    starts = [(0, 0, k if along else k * inner) for k in range(len(pieces))]
    moved = mosaic(imp, node, pieces, starts, (1, 1, inner if along else 1), t.shape, made, f"{node.output[0]}:{value}")
    return Act(moved, act.batch), moved


def _runs(at: Index) -> list[tuple[int, int, int]]:
    """(start, step, count) of pieces with one positive step."""
    runs: list[tuple[int, int, int]] = []
    i = 0
    while i < len(at):
        step = int(at[i + 1] - at[i]) if i + 1 < len(at) else 1
        end = i + 1
        while step > 0 and end < len(at) and at[end] - at[end - 1] == step:
            end += 1
        if end - i == 2 and step > 1 and end < len(at):  # two by chance: the second may begin a longer piece
            end = i + 1
        runs.append((int(at[i]), step if end > i + 1 else 1, end - i))
        i = end
    return runs


def mosaic(imp: Importer, node: NodeProto, values: Sequence[str], starts: Sequence[Sequence[int]], step: Shape, shape: Shape, layout: Layout | None, out: str) -> str:  # fmt: skip
    """Values side by side in a tensor of ``shape``, zero points between."""
    t = imp.values[values[0]].with_shape(shape, layout)
    attrs = {"starts": tuple(int(n) for s in starts for n in s), "step": step}
    return imp.emit(node, "mosaic", list(values), imp.fresh(out), t, attrs, suffix=":join")


@handles("DepthToSpace")
def depth_to_space(imp: Importer, node: NodeProto) -> None:
    act, attrs = imp.plane(node, imp.act(node, 0)), imp.attrs(node)
    block, (h, w, c) = int(attrs["blocksize"]), imp.type(act).shape
    n = c // (block * block)
    if block < 1 or n * block * block != c or len(imp.dims(act)) != 4:
        raise Unsupported(f"blocks of {block} of {list(imp.dims(act))}")
    shape = (h * block, w * block, n)
    stored = Layout((imp.layout(act).axes[0],)).index()
    if attrs.get("mode", "DCR") == "DCR":
        number = np.arange(c).reshape(block, block, n)
    else:
        number = np.moveaxis(np.arange(c).reshape(n, block, block), 0, 2)
    pieces, starts = [], []
    for i in range(block):
        for j in range(block):
            at = stored[number[i, j]]
            pieces.append(sliced(imp, node, act.value, 2, at, Layout.planes((h, w, n)), f"{node.output[0]}:{i}{j}"))
            starts.append((i, j, 0))
    out = mosaic(imp, node, pieces, starts, (block, block, 1), shape, Layout.planes(shape), node.output[0])
    imp.bind(node, act, out)


@handles("SpaceToDepth")
def space_to_depth(imp: Importer, node: NodeProto) -> None:
    act = imp.plane(node, imp.act(node, 0))
    block, (h, w, c) = int(imp.attrs(node)["blocksize"]), imp.type(act).shape
    if block < 1 or h % block or w % block or len(imp.dims(act)) != 4 or imp.order(act, 0) is not None:
        raise Unsupported(f"blocks of {block} of {list(imp.dims(act))}")
    small, t = (h // block, w // block, c), imp.type(act)
    pieces = [
        imp.emit(
            node, "slice", [act.value], imp.fresh(f"{node.output[0]}:{i}{j}"), t.with_shape(small, Layout.planes(small)),
            {"start": (i, j, 0), "step": (block, block, 1)}, suffix=":take",
        )
        for i in range(block) for j in range(block)
    ]  # fmt: skip
    shape = (*small[:2], c * block * block)
    starts = [(0, 0, i * c) for i in range(block * block)]
    imp.bind(node, act, mosaic(imp, node, pieces, starts, (1, 1, 1), shape, Layout.planes(shape), node.output[0]))
