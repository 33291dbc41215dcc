"""Options as data: a frozen dataclass says of each option its words or limits, its default and what it means.

The command line, recipes and the Python interface derive theirs from these fields, so that nothing is listed twice. Modules that declare options
import nothing heavy (``sasc --help`` reads them) and do not defer their annotations.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Interval

from sasimc.isa.errors import SasError, near

__all__ = ["Option", "check_options", "option", "options_of", "texts_of"]


def option(default: Any, doc: str) -> Any:
    """A field of a dataclass of options. Its annotation is a type, a ``Literal``, or ``Annotated`` with an ``annotated_types.Interval``."""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class Option:
    """``kind``: str, int, float, bool or Path; ``words``: the values allowed (none: any within ``limits``); ``many``: a tuple of them."""

    name: str
    kind: type
    words: tuple[Any, ...]
    limits: Interval
    many: bool
    default: Any
    doc: str

    @property
    def flag(self) -> str:
        """As it is written on a command line."""
        return "--" + self.name.replace("_", "-")

    def check(self, value: Any) -> None:
        """Raise SasError for a value that is not allowed."""
        if value is None and self.default is None:
            return
        if self.many:
            if not isinstance(value, tuple):
                raise SasError(f"{self.flag} {value!r} is not a tuple")
            for part in value:
                self._check(part)
        else:
            self._check(value)

    def _check(self, value: Any) -> None:
        if self.words:
            if value not in self.words or type(value) is not type(self.words[0]):
                raise SasError(
                    f"{self.flag} {value!r} is unknown", hint=near(str(value), list(map(str, self.words))) or self._known()
                )
            return
        if not isinstance(value, (int, float) if self.kind is float else self.kind) or (
            self.kind is int and isinstance(value, bool)
        ):
            raise SasError(f"{self.flag} {value!r} is no {_NOUNS.get(self.kind, self.kind.__name__)}")
        if isinstance(value, int | float) and not self._within(value):
            raise SasError(f"{self.flag} {value} is not in {self.range}")

    def _known(self) -> str:
        return f"one of {', '.join(map(str, self.words))}"

    def _within(self, value: float) -> bool:
        i: Any = self.limits
        above = (i.ge is None or value >= i.ge) and (i.gt is None or value > i.gt)
        below = (i.le is None or value <= i.le) and (i.lt is None or value < i.lt)
        return above and below and not math.isnan(value)

    @property
    def range(self) -> str:
        """The limits as an interval, as in ``[0, 1)``; empty where there are none."""
        i = self.limits
        low, high = i.ge if i.ge is not None else i.gt, i.le if i.le is not None else i.lt
        if low is None and high is None:
            return ""
        left = "(-inf" if low is None else f"{'[' if i.ge is not None else '('}{low}"
        right = "inf)" if high is None else f"{high}{']' if i.le is not None else ')'}"
        return f"{left}, {right}"


_NOUNS: Mapping[type, str] = {int: "whole number", float: "number", str: "text", bool: "truth value"}


def options_of(cls: type) -> tuple[Option, ...]:
    """The options that a dataclass declares (fields made by :func:`option`), in order."""
    return tuple(_option(f.name, f.type, f.default, f.metadata["doc"]) for f in fields(cls) if "doc" in f.metadata)


def _option(name: str, annotation: Any, default: Any, doc: str) -> Option:
    limits, many = Interval(), False
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(a for a in get_args(annotation) if a is not type(None))
    if get_origin(annotation) is tuple:
        annotation, many = get_args(annotation)[0], True
    if get_origin(annotation) is Annotated:
        annotation, limits = get_args(annotation)
    words = get_args(annotation) if get_origin(annotation) is Literal else ()
    return Option(name, type(words[0]) if words else annotation, words, limits, many, default, doc)


def check_options(options: Any) -> None:
    """Raise SasError for the first option of a dataclass that is not allowed."""
    for o in options_of(type(options)):
        o.check(getattr(options, o.name))


def texts_of(options: Any, cls: type) -> dict[str, str]:
    """The options that ``cls`` declares, by name, as text; what may be given more than once with commas between, flags only where they are set."""
    values = {o.name: value for o in options_of(cls) if (value := getattr(options, o.name)) is not False}
    return {name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value) for name, value in values.items()}
