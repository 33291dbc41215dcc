"""What the test directives of an assembly file say (``.test``, ``.init``, ``.run``, ``.expect``): the plan a test runner carries out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["AsmTest", "Expectation", "Initial", "Run"]


@dataclass(frozen=True)
class Initial:
    """Contents before the run: ``kind`` is ``view``, ``mat`` or ``reg``; values are flat, in (H, W, C) or (K, N) order."""

    kind: str
    name: str
    values: npt.NDArray[np.int64]
    sample: int
    line: int


@dataclass(frozen=True)
class Run:
    """Run an entry point on these engines, which must agree."""

    entry: str
    engines: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Expectation:
    """Contents after the run: ``kind`` is ``view``, ``mat``, ``reg``, ``cycles``, ``event`` or ``trap`` (``text`` is its fragment)."""

    kind: str
    name: str
    values: npt.NDArray[np.int64]
    sample: int
    line: int
    text: str = ""


@dataclass
class AsmTest:
    """One test: state before, runs, state after. ``name`` is empty for directives before the first ``.test``."""

    name: str
    line: int
    initials: list[Initial] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    expectations: list[Expectation] = field(default_factory=list)
