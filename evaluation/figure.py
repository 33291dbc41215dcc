"""A computed number and how it came about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sasimc.evaluation.quantity import Kind, Quantity, format_si

__all__ = ["Figure", "shown", "weakest"]

_ORDER: tuple[Kind, ...] = ("paper", "derived", "fit", "assumption")


def weakest(kinds: Iterable[Kind]) -> Kind:
    """The kind of a number made from numbers of these kinds: as good as the weakest of them, and at best derived."""
    return max((*kinds, "derived"), key=_ORDER.index)  # type: ignore[type-var]


def shown(quantity: Quantity) -> str:
    """A number as its file has it, for formulas."""
    return f"{quantity.value:.12g} {quantity.unit}".removesuffix(" 1")


@dataclass(frozen=True)
class Figure:
    """``value`` in ``unit``; ``how`` is the formula, with its numbers; ``source`` where they are from; ``kind`` as in Quantity; ``low``, ``high``: with
    every number that it rests on at the end of its range that makes it least, or most (None: nothing it rests on has a range)."""

    name: str
    value: float
    unit: str
    how: str
    source: str = ""
    kind: Kind = "derived"
    low: float | None = None
    high: float | None = None

    @property
    def range_text(self) -> str:
        """``1.20 mJ to 9.40 mJ``, empty without a range."""
        return (
            ""
            if self.low is None or self.high is None
            else f"{format_si(self.low, self.unit)} to {format_si(self.high, self.unit)}"
        )

    def __str__(self) -> str:
        return format_si(self.value, self.unit)

    def as_dict(self) -> dict[str, Any]:
        """For a report, at full precision."""
        return dict(self.__dict__)

    @staticmethod
    def of(name: str, quantity: Quantity) -> Figure:
        """A number taken as it stands."""
        return Figure(name, quantity.value, quantity.unit, "as given", quantity.source, quantity.kind)
