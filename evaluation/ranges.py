"""What a total owes to each number that it rests on: one at a time from end to end (a tornado), or through a range of values (a curve)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sasimc.evaluation.cost import CostModel
from sasimc.evaluation.fields import Number, numbers, with_number
from sasimc.evaluation.figure import Figure
from sasimc.evaluation.quantity import Quantity, format_si, parse_unit
from sasimc.isa.errors import SasError, near

__all__ = ["Curve", "Swing", "assigned", "curve", "find", "parse_setting", "tornado"]

Total = Callable[[CostModel], float]
POINTS = 9
"""Values of a curve."""


@dataclass(frozen=True)
class Swing:
    """``name`` at its ends ``at`` makes the total go from ``low`` to ``high``; ``nominal`` with all numbers as they are."""

    name: str
    at: tuple[str, str]
    low: float
    nominal: float
    high: float
    source: str

    @property
    def width(self) -> float:
        """High - low."""
        return abs(self.high - self.low)


def tornado(model: CostModel, total: Total) -> list[Swing]:
    """Every number with a range, the one that moves the total most first; those that do not move it are left out."""
    nominal, out = total(model), list[Swing]()
    for part in ("technology", "circuit"):
        for path, q in numbers(getattr(model, part)):
            if isinstance(q, Quantity) and q.ranged:
                low, high = (total(_with(model, part, path, q.at(end))) for end in ("low", "high"))
                ends = (str(q.at("low")), str(q.at("high")))
                out.append(Swing(f"{part}.{_short(path)}", ends, low, nominal, high, q.source))
    return sorted((s for s in out if s.width > 1e-9 * abs(nominal)), key=lambda s: -s.width)


def _short(path: str) -> str:
    """A path without the section that only groups."""
    return re.sub(r"^(components|unprinted)\.", "", path)


def _with(model: CostModel, part: str, path: str, number: Number) -> CostModel:
    return replace(model, **{part: with_number(getattr(model, part), path, number)})


def find(model: CostModel, name: str) -> tuple[str, str, Number]:
    """(part, path, number) of a name such as ``circuit.adder_tree.energy``; sections that only group may be left out.

    Raises:
        SasError: no number is called so.
    """
    known: dict[str, tuple[str, str, Number]] = {}
    for part in ("technology", "circuit"):
        for path, number in numbers(getattr(model, part)):
            known[f"{part}.{_short(path)}"] = known[f"{part}.{path}"] = part, path, number
    if name not in known:
        raise SasError(
            f"no number is called {name!r}",
            hint=near(name, tuple(known)) or "for instance circuit.adder_tree.energy or technology.write_energy",
        )
    return known[name]


_VALUE = re.compile(r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*(\S*)\s*")


def parse_setting(text: str) -> tuple[str, tuple[str, ...]]:
    """``NAME=VALUE`` or ``NAME=VALUE..VALUE``.

    Raises:
        SasError: neither.
    """
    name, equals, value = text.partition("=")
    ends = tuple(v.strip() for v in value.split(".."))
    if not equals or len(ends) > 2 or not all(_VALUE.fullmatch(v) for v in ends):
        raise SasError(
            f"--set {text!r} is no setting",
            hint="NAME=VALUE or NAME=VALUE..VALUE, for instance circuit.adder_tree.energy=800pJ..1.2nJ",
        )
    return name.strip(), ends


def _value(text: str, like: Quantity, name: str) -> float:
    """A value in the unit of the file's number."""
    match = _VALUE.fullmatch(text)
    assert match is not None
    unit = match[2] or like.unit
    if parse_unit(unit)[1] != parse_unit(like.unit)[1]:
        raise SasError(f"{name} is given in {like.unit}, not in {unit}")
    return float(match[1]) * parse_unit(unit)[0] / parse_unit(like.unit)[0]


def assigned(model: CostModel, name: str, text: str) -> CostModel:
    """The model with one number set from text; a value without unit has that of the file.

    Raises:
        SasError: no such number; another dimension; a value that the file could not have either.
    """
    part, path, number = find(model, name)
    if isinstance(number, Quantity):
        value = _value(text, number, name)
        if value < 0:
            raise SasError(f"{name} is negative")
        return _with(model, part, path, Quantity(value, number.unit, f"--set; the file has {number}", "assumption"))
    plain = float(text) if re.fullmatch(r"[-+0-9.eE]+", text) else math.nan
    if not plain > 0 or (isinstance(number, int) and plain != int(plain)):
        raise SasError(f"{name} is a {'whole ' if isinstance(number, int) else ''}number above zero, not {text!r}")
    return _with(model, part, path, int(plain) if isinstance(number, int) else plain)


@dataclass(frozen=True)
class Curve:
    """``x``: values of the number ``name`` (in ``unit``); ``figures``: by name the figures of the run at each."""

    name: str
    unit: str
    x: tuple[float, ...]
    figures: dict[str, tuple[Figure, ...]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON, at full precision."""
        points = {name: [f.value for f in found] for name, found in self.figures.items()}
        return {"name": self.name, "unit": self.unit, "x": list(self.x), "figures": points}

    def shown(self, i: int) -> str:
        """A value of the number, for people."""
        return format_si(self.x[i], self.unit)


def curve(model: CostModel, name: str, ends: Sequence[str], figures: Callable[[CostModel], dict[str, Figure]]) -> Curve:
    """The figures over a range of one number, in equal ratios where the range spans more than three, else in equal steps.

    Raises:
        SasError: as :func:`assigned`; the range is empty or the number is no quantity.
    """
    number = find(model, name)[2]
    if not isinstance(number, Quantity):
        raise SasError(f"{name} has no range: it is a plain number")
    low, high = (_value(text, number, name) for text in ends)
    if not 0 <= low < high:
        raise SasError(f"the range of {name} goes from {ends[0]} to {ends[1]}", hint="the smaller value comes first")
    steps = [i / (POINTS - 1) for i in range(POINTS)]
    x = tuple(low * (high / low) ** s if low and high / low > 3 else low + (high - low) * s for s in steps)
    found = [figures(assigned(model, name, f"{v!r}{number.unit}")) for v in x]
    return Curve(name, number.unit, x, {f: tuple(point[f] for point in found) for f in found[0] if all(f in p for p in found)})
