"""Which layers train within a budget: the most important set whose compiled program keeps every limit (TinyTrain, TraDy choose by importance and cost, too).

What layers cost is no sum: errors on their way to one layer pass those behind it, so a set costs its layers' own work and the longest way. Both are read off
compiled programs, never guessed: of each layer alone and of all layers without it. They order the sets; a set is chosen only if its own program keeps the limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.isa.errors import SasError, near

__all__ = ["FIGURES", "Choice", "Figures", "choose", "parse_budget"]

FIGURES = {
    "transposable": "transposable sub-arrays",
    "cycles": "cycles of a training step",
    "writes": "bits that a training step writes at most",
    "host-bits": "bits between host and device in a training step",
}
"""What a budget may limit, as the reports name it."""
UNITS = 16
"""More layers than this are taken in so many groups of neighbours."""
_STEP = 0.98
"""A set that was dearer than it should be lowers what others may cost at least so much."""
_MULTIPLES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """Of a compiled program with some trainable layers: what a budget limits, by name. ``least``: what a program with more of them needs at any rate."""

    taken: Mapping[str, int]
    least: Mapping[str, float]

    def over(self, limits: Mapping[str, int]) -> list[str]:
        """The names whose limit is not kept."""
        return [name for name, limit in limits.items() if self.taken[name] > limit]


@dataclass(frozen=True)
class Choice:
    """``layers``: all that could be trained, in the order of the graph; ``chosen`` of them; ``always``: those nearest the output, without which nothing is learned. ``importance`` by
    layer, as ``criterion`` says; ``alone``: figures of a program in which besides ``always`` this layer alone learns; ``taken``: of the chosen ones; ``compiled``: programs looked at."""

    layers: tuple[str, ...]
    chosen: frozenset[str]
    always: frozenset[str]
    importance: Mapping[str, float]
    criterion: str
    limits: Mapping[str, int]
    taken: Mapping[str, int]
    whole: Mapping[str, int]
    alone: Mapping[str, Mapping[str, int]]
    compiled: int

    def as_dict(self) -> dict[str, Any]:
        """For the program and for ``--json``."""
        return {
            "budget": dict(self.limits), "taken": dict(self.taken), "all": dict(self.whole), "criterion": self.criterion, "compiled": self.compiled,
            "layers": [
                {"layer": name, "importance": self.importance[name], "chosen": name in self.chosen, "always": name in self.always, "alone": dict(self.alone[name])}
                for name in self.layers
            ],
        }  # fmt: skip


def parse_budget(texts: Iterable[str]) -> dict[str, int]:
    """Limits by name, of texts such as ``cycles=10M``.

    Raises:
        SasError: no such figure, no whole number above 0, or one that is limited twice.
    """
    limits: dict[str, int] = {}
    for text in texts:
        name, _, number = (part.strip() for part in text.partition("="))
        if name not in FIGURES:
            raise SasError(
                f"--train-budget {text!r}: no figure {name!r}", hint=near(name, list(FIGURES)) or f"one of {', '.join(FIGURES)}"
            )
        multiple = _MULTIPLES.get(number[-1:], 1) if not number[-1:].isdigit() else 1
        digits = number[:-1] if number[-1:] in _MULTIPLES else number
        try:
            value = float(digits) * multiple
        except ValueError:
            value = 0.0
        if not 1 <= value < 2**62:
            raise SasError(
                f"--train-budget {text!r}: {number!r} is no number from 1 on", hint=f"{name}=300, or with k, M or G: {name}=10M"
            )
        if name in limits:
            raise SasError(f"--train-budget limits {name} twice", hint="give each figure once")
        limits[name] = int(value)
    return limits


def choose(
    layers: Sequence[str],
    always: frozenset[str],
    importance: Mapping[str, float],
    criterion: str,
    limits: Mapping[str, int],
    measure: Callable[[frozenset[str]], Figures],
    progress: Callable[[float], None] = lambda _: None,
) -> Choice:
    """The most important of ``layers`` within the limits. ``measure``: compiles a program in which some of them learn; ``progress``: the share that is done.

    Layers of no importance are left out. More than :data:`UNITS` layers are taken in groups of neighbours.

    Raises:
        SasError: ``always`` alone is over a limit (with what it takes).
    """
    looked: dict[frozenset[str], Figures] = {}

    def figures(names: Iterable[str]) -> Figures:
        key = always.union(names)
        if key not in looked:
            looked[key] = measure(key)
            progress(min(1.0, len(looked) / (2 * len(units) + 3)))
        return looked[key]

    rest = [name for name in layers if name not in always]
    units = [frozenset(part.tolist()) for part in np.array_split(np.array(rest, object), min(UNITS, len(rest)))] if rest else []
    least = figures(())
    if over := least.over(limits):
        raise SasError(
            "; ".join(
                f"--train-budget {name}={limits[name]}: the smallest that can be reached is {least.taken[name]}" for name in over
            ),
            hint=f"{least.taken[over[0]]} {FIGURES[over[0]]} are what {', '.join(sorted(always))} alone takes; --inference-only trains nothing",
        )
    whole = figures(rest)
    worth = [sum(max(0.0, importance[name]) for name in unit) for unit in units]
    wanted = [i for i, value in enumerate(worth) if value > 0]
    alone = [figures(unit) for unit in units]
    chosen = list(wanted)
    if figures(_join(units, chosen)).over(limits):
        chosen = _search(units, worth, limits, figures, least, whole, alone)
    names = always.union(_join(units, chosen))
    of = {name: alone[i].taken for i, unit in enumerate(units) for name in unit}
    return Choice(
        tuple(layers), names, always, importance, criterion, limits, looked[names].taken, whole.taken,
        {name: of.get(name, least.taken) for name in layers}, len(looked),
    )  # fmt: skip


def _join(units: Sequence[frozenset[str]], chosen: Iterable[int]) -> frozenset[str]:
    return frozenset().union(*(units[i] for i in chosen))


def _search(
    units: Sequence[frozenset[str]],
    worth: Sequence[float],
    limits: Mapping[str, int],
    figures: Callable[[Iterable[str]], Figures],
    least: Figures,
    whole: Figures,
    alone: Sequence[Figures],
) -> list[int]:
    """The best set of units by what they should cost, tried until a program keeps the limits; what is left over is then filled."""

    def vector(found: Mapping[str, float]) -> Numbers:
        return np.array([found[name] for name in limits], np.float64)

    everything, base, limit = range(len(units)), vector(least.least), vector(limits)
    single = np.array([vector(found.least) for found in alone])
    without = np.array([vector(figures(_join(units, [k for k in everything if k != i])).least) for i in everything])
    own = np.clip(vector(whole.least) - without, 0, single - base)  # what a layer adds where errors come by anyhow
    ways = single - own

    def predicted(chosen: Sequence[int]) -> Numbers:
        return base if not chosen else own[list(chosen)].sum(axis=0) + ways[list(chosen)].max(axis=0)

    allowed = limit.copy()
    while True:
        chosen = _best(worth, own, ways, base, allowed)
        found = figures(_join(units, chosen))
        over = found.over(limits)
        if not over:
            break
        taken = vector(found.taken)
        allowed = np.where(taken > limit, np.minimum(allowed, predicted(chosen) * np.minimum(limit / taken, _STEP)), allowed)
    more = [i for i in everything if i not in chosen and worth[i] > 0]
    for i in sorted(more, key=lambda i: -worth[i]):
        if (predicted([*chosen, i]) <= limit).all() and not figures(_join(units, [*chosen, i])).over(limits):
            chosen = [*chosen, i]
    return chosen


def _best(worth: Sequence[float], own: Numbers, ways: Numbers, base: Numbers, allowed: Numbers) -> list[int]:
    """Units of the largest worth whose own costs and longest way are allowed: every set is looked at, but for those that can no longer be best. Nothing at all if nothing is allowed."""
    order = sorted((i for i, value in enumerate(worth) if value > 0), key=lambda i: -worth[i])
    left = np.cumsum([0.0, *(worth[i] for i in reversed(order))])[::-1]
    best, most = list[int](), 0.0
    stack = [(0, list[int](), 0.0, np.zeros_like(base), base)]
    while stack:
        at, chosen, value, spent, way = stack.pop()
        if value > most:
            best, most = chosen, value
        if at == len(order) or value + left[at] <= most:
            continue
        i = order[at]
        stack.append((at + 1, chosen, value, spent, way))
        more, longer = spent + own[i], np.maximum(way, ways[i])
        if (more + longer <= allowed).all():
            stack.append((at + 1, [*chosen, i], value + worth[i], more, longer))
    return best
