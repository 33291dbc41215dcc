"""Where the nodes of a directed acyclic graph stand when it is drawn in layers: from top to bottom, edges short, straight and with few crossings.

Layers are longest paths; a long edge passes a place of its own in every layer; layers are sorted by the mean of their neighbours; within the
order of a layer, places minimise the squared distance to their neighbours (isotonic regression, solved exactly by pooling adjacent violators).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Layout", "layered", "spread"]

SWEEPS = 8
BEND_WIDTH = 0.4
"""Room of a passing edge, in widths of a node."""
MOST_BENDS = 40_000
"""Places for passing edges in all; the shortest edges get theirs first, the others run straight to their end."""


@dataclass(frozen=True)
class Layout:
    """``x`` (in widths of a node) and ``layer`` of each node; ``bends``: (x, layer) of the places that edge i passes between its ends."""

    x: list[float]
    layer: list[int]
    bends: list[list[tuple[float, int]]]


def _layers(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Longest path from a source; a source stands right above the first node that reads it."""
    after: list[list[int]] = [[] for _ in range(count)]
    waiting = [0] * count
    for a, b in edges:
        after[a].append(b)
        waiting[b] += 1
    sources = [n for n in range(count) if not waiting[n]]
    layer, ready = [0] * count, list(sources)
    while ready:
        node = ready.pop()
        for other in after[node]:
            layer[other] = max(layer[other], layer[node] + 1)
            waiting[other] -= 1
            if not waiting[other]:
                ready.append(other)
    for node in sources:
        layer[node] = min((layer[other] - 1 for other in after[node]), default=0)
    return layer


def spread(wanted: Sequence[float], widths: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Places in the given order, at least half of both widths apart, with the least weighted sum of squared distances to ``wanted``."""
    offsets, at = list[float](), 0.0
    for i, wide in enumerate(widths):
        at += (widths[i - 1] + wide) / 2 if i else 0.0
        offsets.append(at)
    blocks: list[tuple[float, float, int]] = []  # mean, weight, members
    for want, offset, weight in zip(wanted, offsets, weights, strict=True):
        block = (want - offset, weight, 1)
        while blocks and blocks[-1][0] >= block[0]:
            mean, heavy, members = blocks.pop()
            total = heavy + block[1]
            block = ((mean * heavy + block[0] * block[1]) / total, total, members + block[2])
        blocks.append(block)
    means = [mean for mean, _, members in blocks for _ in range(members)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def layered(count: int, edges: Sequence[tuple[int, int]]) -> Layout:
    """A layout of nodes 0..count-1 and edges (from, to)."""
    layer = _layers(count, edges)
    above: list[list[int]] = [[] for _ in range(count)]
    below: list[list[int]] = [[] for _ in range(count)]
    chains: list[list[int]] = [[] for _ in edges]
    for i in sorted(range(len(edges)), key=lambda i: layer[edges[i][1]] - layer[edges[i][0]]):
        a, b = edges[i]
        chain = chains[i]
        if len(layer) - count + layer[b] - layer[a] - 1 <= MOST_BENDS:
            for depth in range(layer[a] + 1, layer[b]):
                chain.append(len(layer))
                layer.append(depth)
                above.append([])
                below.append([])
        for upper, lower in zip([a, *chain], [*chain, b], strict=True):
            below[upper].append(lower)
            above[lower].append(upper)
    rows: list[list[int]] = [[] for _ in range(max(layer, default=0) + 1)]
    for node, depth in enumerate(layer):
        rows[depth].append(node)
    x = [0.0] * len(layer)
    for row in rows:
        for i, node in enumerate(row):
            x[node] = i - (len(row) - 1) / 2
    wide = [1.0 if node < count else BEND_WIDTH for node in range(len(layer))]
    heavy = [1.0 if node < count else 4.0 for node in range(len(layer))]
    for sweep in range(2 * SWEEPS):
        down = sweep % 2 == 0
        near, order = (above, rows) if down else (below, rows[::-1])
        for row in order:
            wanted = {n: sum(x[m] for m in near[n]) / len(near[n]) if near[n] else x[n] for n in row}
            if sweep < SWEEPS:
                row.sort(key=lambda n: wanted[n])
            places = spread([wanted[n] for n in row], [wide[n] for n in row], [heavy[n] for n in row])
            for node, place in zip(row, places, strict=True):
                x[node] = place
    left = min(x[:count], default=0.0)
    return Layout([v - left for v in x[:count]], layer[:count], [[(x[n] - left, layer[n]) for n in chain] for chain in chains])
