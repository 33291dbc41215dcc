"""Real values of a float-level graph, as what is stored makes them (:mod:`sasimc.passes.canonicalise` says how they meet)."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from sasimc.ir.graph import Op
from sasimc.passes.curves import Curve

__all__ = ["Array", "Pending", "Real", "Unknown", "View", "key_of", "weighted"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class View:
    """A real value that is a stored tensor; ``softmax``: the one that has been passed (only the end of the graph may follow)."""

    stored: str
    softmax: Op | None = None


@dataclass(frozen=True)
class Pending:
    """A real value not stored yet: ``op`` over stored ``sources`` (or a concat), clipped to [lo, hi], then moved. ``scale``, ``offset``: what a channel of
    the result is multiplied by, and what is added; ``gain``: what a channel's products alone are multiplied by."""

    op: Op
    sources: tuple[str, ...]
    lo: float = -math.inf
    hi: float = math.inf
    scale: Array | None = None
    offset: Array | None = None
    gain: Array | None = None
    moves: tuple[Op, ...] = ()
    parts: tuple[Any, ...] = ()
    origins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unknown:
    """Follows something already reported."""


Real = View | Pending | Curve | Unknown


def key_of(a: Real) -> Hashable:
    """What is computed."""
    if isinstance(a, Curve):
        return (a.op.output, a.source, tuple(m.output for m in a.moves), a.value.tobytes(), a.slope.tobytes())
    if not isinstance(a, Pending):
        return a
    moves, constants = (
        tuple(m.output for m in a.moves),
        tuple(None if c is None else c.tobytes() for c in (a.scale, a.offset, a.gain)),
    )
    return (a.op.output, a.sources, moves, a.lo, a.hi, a.origins, tuple(map(key_of, a.parts)), constants)


def weighted(a: Real) -> bool:
    return isinstance(a, Pending) and (a.op.kind == "conv_f" or any(map(weighted, a.parts)))
