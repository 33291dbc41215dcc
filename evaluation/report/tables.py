"""Tables of a report: raw values with a unit for CSV, the same values with SI prefix and three digits for readers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sasimc.evaluation.quantity import format_si

__all__ = ["Cell", "Column", "Table", "count", "percent", "shown", "si", "tick", "typeset"]

Cell = str | int | float | None

_POWERS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Column:
    """``unit``: one that :mod:`~sasimc.evaluation.quantity` knows, ``count`` for whole numbers of things, ``share`` for parts of one (printed
    as per cent), empty for text."""

    name: str
    unit: str = ""

    @property
    def heading(self) -> str:
        """The name with its unit, for files."""
        return self.name if self.unit in ("", "count", "1") else f"{self.name} ({self.unit})"


@dataclass(frozen=True)
class Table:
    """``key`` names its file; ``note`` says how to read it."""

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def csv(self) -> str:
        """Comma-separated values at full precision (RFC 4180), an empty cell where there is no value."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\r\n")
        writer.writerow([c.heading for c in self.columns])
        writer.writerows([["" if v is None else repr(v) if isinstance(v, float) else v for v in row] for row in self.rows])
        return out.getvalue()

    def column(self, name: str) -> list[Cell]:
        """The values of a column."""
        index = next(i for i, c in enumerate(self.columns) if c.name == name)
        return [row[index] for row in self.rows]


def count(value: float) -> str:
    """A number of things: as it is up to four digits, else with three digits and a prefix."""
    if abs(value) < 10_000 and float(value).is_integer():
        return str(int(value))
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")):
        if abs(value) >= factor * 0.9995 or factor == 1.0:
            digits = f"{value / factor:#.3g}".rstrip(".")
            return f"{digits} {prefix}".strip() if "e" not in digits else f"{value / factor:.0f} {prefix}".strip()
    raise AssertionError


def typeset(text: str) -> str:
    """Units as they are printed: micro sign, superscript powers."""
    return re.sub(r"\^(-?\d)", lambda m: m[1].translate(_POWERS), re.sub(r"(?<=\d )u(?=[A-Za-z])", "µ", text))


def si(value: float, unit: str) -> str:
    """A number for readers: SI prefix, three significant digits."""
    return typeset(format_si(value, unit))


def tick(value: float, unit: str) -> str:
    """A round number on an axis, without zeros that say nothing."""
    return re.sub(r"\.?0+(?= |$)", "", si(value, unit)) if value and "." in si(value, unit) else si(value, unit) if value else "0"


def percent(part: float) -> str:
    """A part of one, in per cent."""
    if 0 < abs(part) < 1e-4:
        return "< 0.01 %"
    return f"{100 * part:#.3g}".rstrip(".") + " %" if part else "0 %"


def shown(value: Cell, unit: str) -> str:
    """A cell for readers; an en dash where there is no value."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return typeset(value)
    if unit == "count":
        return count(value)
    if unit == "share":
        return percent(value)
    return si(float(value), unit or "1")
