"""A line of the table "the paper beside ours", and the numbers the paper prints."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from sasimc.evaluation.quantity import Quantity, format_si

__all__ = ["HOLDS", "Line", "claim", "peers", "printed", "read_toml"]

HOLDS = {True: "holds", False: "does not hold"}

Value = float | str | None


@dataclass(frozen=True)
class Line:
    """One checkable statement of the paper.

    ``paper`` and ``ours`` are numbers in ``unit`` or, for statements without a number, words; ``paper`` is None where the paper prints nothing
    that could be compared and ``ours`` None where we have nothing; then ``reason`` says why. ``assumptions``: what ours rests on;
    ``range``: of ours, with all of them at an end of theirs.
    """

    group: str
    item: str
    paper: Value
    ours: Value
    unit: str
    how: str
    where: str
    assumptions: tuple[str, ...] = ()
    reason: str = ""
    range: tuple[float, float] | None = None

    @property
    def ratio(self) -> float | None:
        """Ours / the paper's."""
        if not isinstance(self.paper, int | float) or not isinstance(self.ours, int | float) or not self.paper:
            return None
        return self.ours / self.paper

    def text(self, value: Value) -> str:
        """A value for people."""
        if value is None or isinstance(value, str):
            return value or ""
        return format_si(value, self.unit)

    @property
    def range_text(self) -> str:
        """The range for people, empty without one."""
        return "" if self.range is None else " to ".join(format_si(end, self.unit) for end in self.range)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, at full precision."""
        return {**self.__dict__, "assumptions": list(self.assumptions), "ratio": self.ratio}


def claim(group: str, item: str, holds: bool, how: str, where: str, assumptions: tuple[str, ...] = ()) -> Line:
    """A statement without a number that the paper makes, and whether ours agrees."""
    return Line(group, item, HOLDS[True], HOLDS[holds], "1", how, where, assumptions)


def read_toml(name: str) -> dict[str, Any]:
    """A shipped file of this folder."""
    return tomllib.loads(resources.files("sasimc.evaluation.paper").joinpath(name).read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def printed() -> dict[str, Quantity]:
    """The numbers of ``printed.toml`` by dotted name."""
    return {
        f"{section}.{name}": Quantity(**entry)
        for section, entries in read_toml("printed.toml").items()
        for name, entry in entries.items()
    }


@lru_cache(maxsize=1)
def peers() -> tuple[dict[str, str], ...]:
    """Table III without our own column, as printed."""
    return tuple(read_toml("peers.toml")["rows"])
