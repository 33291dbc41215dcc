"""What a study is: a TOML file that says what varies, what is measured, what must hold, and how it is searched.

A value of ``vary`` is a list, or a range ``{from, to, step | steps, log}``. ``only`` names parameters that vary only where others have certain values.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from sasimc.isa.described import Source, parse_toml, read_source, validate
from sasimc.isa.errors import SasError

__all__ = ["Description", "Point", "Range", "Value", "load_description"]

Value = bool | int | FiniteFloat | str
Point = Mapping[str, Value]
"""A value of every parameter that varies there."""

MOST_VALUES = 100_000

_COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Range(_Section):
    """Numbers from ``from`` to ``to``, both included: every ``step``, or ``steps`` of them, evenly or (``log``) by equal factors. Whole ends give whole numbers."""

    start: FiniteFloat = Field(alias="from")
    to: FiniteFloat
    step: Annotated[FiniteFloat, Field(gt=0)] | None = None
    steps: Annotated[int, Field(ge=2, le=10_000)] | None = None
    log: bool = False

    def values(self) -> list[Value]:
        """The numbers.

        Raises:
            SasError: a range that is none.
        """
        if self.to < self.start or (self.step is None) == (self.steps is None) or (self.log and (self.start <= 0 or self.step)):
            raise SasError("a range needs from <= to, and either step or steps (log: steps, and from > 0)")
        whole = float(self.start).is_integer() and float(self.to).is_integer() and float(self.step or 1).is_integer()
        if self.step is not None:
            if (self.to - self.start) / self.step >= MOST_VALUES:
                raise SasError(f"a range has at most {MOST_VALUES} values")
            count = math.floor((self.to - self.start) / self.step + 1e-9) + 1
            found = [self.start + i * self.step for i in range(count)]
        elif self.log:
            found = [self.start * (self.to / self.start) ** (i / (self.steps - 1)) for i in range(self.steps or 0)]  # type: ignore[operator]
        else:
            found = [self.start + (self.to - self.start) * i / (self.steps - 1) for i in range(self.steps or 0)]  # type: ignore[operator]
        return list(dict.fromkeys(round(v) if whole else v for v in found))


class Training(_Section):
    """What accuracy is measured on, where it is measured: a data set, so many epochs of a recipe, at most ``limit`` images of a split."""

    data: str
    epochs: Annotated[int, Field(ge=0, le=10_000)] = 1
    recipe: str = "default"
    limit: Annotated[int, Field(ge=1)] | None = None
    split: Literal["val", "test"] = "val"


class Search(_Section):
    """``grid``: every point. ``random``, ``tpe`` (one goal), ``nsga2`` (several): so many ``trials``, proposed ``batch`` at a time, so that the same
    are proposed on any number of workers."""

    method: Literal["grid", "random", "tpe", "nsga2"] = "grid"
    trials: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    batch: Annotated[int, Field(ge=1, le=10_000)] = 16
    seed: Annotated[int, Field(ge=0)] = 0


class Description(_Section):
    """A study. ``base``: values of parameters that do not vary."""

    name: str = "study"
    model: str = "embedded"
    base: dict[str, Value] = {}
    vary: Annotated[dict[str, list[Value] | Range], Field(min_length=1)]
    only: dict[str, dict[str, list[Value]]] = {}
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    metrics: Annotated[list[str], Field(min_length=1)]
    minimise: list[str] = []
    maximise: list[str] = []
    constraints: dict[str, str] = {}
    training: Training | None = None
    search: Search = Search()
    time_limit_s: Annotated[float, Field(gt=0)] = 3600.0

    def values(self, name: str) -> list[Value]:
        """What a parameter may be."""
        given = self.vary[name]
        return given.values() if isinstance(given, Range) else list(given)

    def active(self, point: Point) -> dict[str, Value]:
        """The point without parameters that do not vary there."""
        out = dict(point)
        for name, conditions in self.only.items():
            if any(out.get(other) not in allowed for other, allowed in conditions.items()):
                out.pop(name, None)
        return out

    def complete(self, point: Point) -> bool:
        """Whether a point gives exactly the parameters that vary there, each a value of its own."""
        there = {
            name for name in self.vary if all(point.get(other) in allowed for other, allowed in self.only.get(name, {}).items())
        }
        return set(point) == there and all(value in self.values(name) for name, value in point.items())

    def grid(self) -> Iterator[dict[str, Value]]:
        """Every point, each once, in the order of the file."""
        seen: set[tuple[tuple[str, Value], ...]] = set()
        names = list(self.vary)

        def points(at: int, chosen: dict[str, Value]) -> Iterator[dict[str, Value]]:
            if at == len(names):
                yield chosen
                return
            for value in self.values(names[at]):
                yield from points(at + 1, {**chosen, names[at]: value})

        for point in points(0, {}):
            found = self.active(point)
            key = tuple(found.items())
            if key not in seen:
                seen.add(key)
                yield found

    @property
    def goals(self) -> dict[str, str]:
        """Metric -> ``minimise`` or ``maximise``."""
        return {**dict.fromkeys(self.minimise, "minimise"), **dict.fromkeys(self.maximise, "maximise")}

    def broken(self, metrics: Mapping[str, float | None]) -> list[str]:
        """The constraints that measured values do not keep."""
        out = []
        for name, text in self.constraints.items():
            compare, limit = _constraint(name, text)
            value = metrics.get(name)
            if value is None or not compare(value, limit):
                out.append(f"{name} = {value} is not {text}")
        return out


def _constraint(name: str, text: str) -> tuple[Any, float]:
    found = re.fullmatch(r"\s*(<=|>=|==|<|>)\s*([-+0-9.eE]+)\s*", text)
    try:
        return _COMPARE[found[1]], float(found[2])  # type: ignore[index]
    except (TypeError, ValueError):
        raise SasError(f"constraints.{name}: {text!r} is no comparison with a number", hint='"<= 12e-6"') from None


def _once(what: str, values: Sequence[Value], path: str) -> None:
    twice = [v for i, v in enumerate(values) if v in values[:i]]
    if twice:
        raise SasError(f"{what}: {twice[0]!r} stands there twice", where=path)


def load_description(given: Path | Mapping[str, Any], known: Mapping[str, str] | None = None) -> Description:
    """Read and check a study, a file or what one holds; ``known``: metrics that exist.

    Raises:
        SasError: what is wrong with it, all of it that can be said.
    """
    if isinstance(given, Path):
        source: Source = read_source(given, "study")
        path, found = str(given), validate(Description, parse_toml(source), [source], "study", "docs: How-to, Study many designs")
    else:
        path, found = "", validate(Description, given, [], "study", "docs: How-to, Study many designs")
    if known is not None:
        for name in (*found.metrics, *found.goals, *found.constraints):
            if name not in known:
                from sasimc.isa.errors import near

                raise SasError(f"there is no metric {name!r}", where=path, hint=near(name, tuple(known)) or ", ".join(known))
    for name in found.vary:
        try:
            values = found.values(name)
        except SasError as exc:
            raise SasError(f"vary.{name}: {exc.diagnostic.message}", where=path) from None
        if not values:
            raise SasError(f"vary.{name}: there is no value", where=path)
        _once(f"vary.{name}", values, path)
    _once("seeds", found.seeds, path)
    for name, text in found.constraints.items():
        _constraint(name, text)
    for name, conditions in found.only.items():
        for other in (name, *conditions):
            if other not in found.vary:
                raise SasError(f"only.{name}: {other!r} does not vary", where=path, hint=", ".join(found.vary))
    missing = [name for name in (*found.goals, *found.constraints) if name not in found.metrics]
    if missing:
        raise SasError(f"{missing[0]!r} is a goal or constraint and is not measured", where=path, hint="add it to metrics")
    if found.search.method == "tpe" and len(found.goals) != 1:
        raise SasError("tpe takes one goal", where=path, hint="minimise = [...] or maximise = [...]; nsga2 takes several")
    if found.search.method == "nsga2" and not found.goals:
        raise SasError("nsga2 needs goals", where=path, hint='minimise = ["latency.infer", "energy.infer"]')
    return found
