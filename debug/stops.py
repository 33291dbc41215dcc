"""What a session stops at, and what it says then."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.debug.expressions import Expression
from sasimc.debug.places import Place
from sasimc.isa.errors import Trap

__all__ = ["Breakpoint", "Hit", "Point", "Position", "Stop", "Watchpoint"]


@dataclass
class Point:
    """What stops execution at the instructions ``pcs`` where ``condition`` holds. ``ignore``: hits that are still to be passed."""

    number: int
    text: str
    pcs: frozenset[int]
    condition: Expression | None = None
    temporary: bool = False
    enabled: bool = field(default=True, kw_only=True)
    ignore: int = field(default=0, kw_only=True)
    hits: int = field(default=0, kw_only=True)


@dataclass
class Breakpoint(Point):
    """Stops before an instruction; ``step``: only where this training step begins (None: anywhere)."""

    step: int | None = field(default=None, kw_only=True)


@dataclass
class Watchpoint(Point):
    """A place, and when to stop: ``change``, ``write``, ``read`` or ``access``."""

    place: Place = field(kw_only=True)
    when: str = field(kw_only=True)


@dataclass(frozen=True)
class Hit:
    """One access to a watched place: by instruction ``pc`` (-1: by the host, before a run) at instant ``time``, with the values around it."""

    place: Place
    pc: int
    time: int
    read: bool
    write: bool
    before: npt.NDArray[Any]
    after: npt.NDArray[Any]
    watchpoint: Watchpoint | None = None

    @property
    def changed(self) -> npt.NDArray[np.int64]:
        """Which elements have another value now, as indices [n, dimensions] in the place."""
        return np.argwhere(self.before != self.after)


@dataclass(frozen=True)
class Position:
    """Where time stands: instructions executed, run, training step (0: none), next instruction (None: the end), cycles."""

    time: int
    run: int
    title: str
    step: int
    pc: int | None
    phase: str
    cycles: int


@dataclass(frozen=True)
class Stop:
    """Why execution stopped. ``reason``: ``breakpoint``, ``watchpoint``, ``step``, ``trap``, ``end``, ``beginning`` or ``interrupted``."""

    reason: str
    position: Position
    breakpoints: tuple[Breakpoint, ...] = ()
    hits: tuple[Hit, ...] = ()
    trap: Trap | None = None
    backwards: bool = False
