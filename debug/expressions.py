"""Small expressions over the machine's state: conditions of breakpoints, what is printed, places that are watched.

    r3 == 7 and max(acc) > 2**30
    features.0.0.q_0[0, 1, 2] & 0x80 or cycles > 10_000
    labels@2[0, 0, 0], cell[17, 3], buf[0:16]

Names are registers, named registers, views, matrices, memories and counters; any other name stands in double quotes. Nothing is ever passed to
Python's own interpreter.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np

from sasimc.isa.errors import SasError, Span

__all__ = ["FUNCTIONS", "Expression", "Index", "Name", "parse", "whole_number"]

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<number>0[xX][0-9a-fA-F_]+|0[bB][01_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<quoted>\"[^\"]*\")|(?P<name>[^\W\d][\w.$]*)"
    r"|(?P<mark>\*\*|//|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^~<>!()\[\],:@]))"
)
_LEVELS: Final[tuple[dict[str, Callable[[Any, Any], Any]], ...]] = (
    {"|": operator.or_}, {"^": operator.xor}, {"&": operator.and_}, {"<<": operator.lshift, ">>": operator.rshift},
    {"+": operator.add, "-": operator.sub}, {"*": operator.mul, "/": operator.truediv, "//": operator.floordiv, "%": operator.mod},
)  # fmt: skip
_COMPARE: Final = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
FUNCTIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "max": np.max, "min": np.min, "sum": np.sum, "abs": np.abs, "any": np.any, "all": np.all, "mean": np.mean, "len": np.size,
    "bits": lambda v: np.bitwise_count(v),
}  # fmt: skip
"""Functions of an expression; each takes a number or a tensor."""
_LONGEST: Final = 2000
_TOKENS: Final = 200
"""Operators may lean on each other, so as many levels."""
_DEEPEST: Final = 40
_BITS: Final = 1024
"""Of a number that is raised to a power."""


@dataclass(frozen=True)
class Name:
    """A name, with the sample of a host view (``name@sample``)."""

    text: str
    sample: Expression | None
    column: int


@dataclass(frozen=True)
class Index:
    """Elements of what a name stands for; a part is an expression or a slice of two of them."""

    of: Name
    parts: tuple[Expression | slice, ...]


@dataclass(frozen=True)
class _Number:
    value: int | float


@dataclass(frozen=True)
class _Call:
    function: str
    of: Expression


@dataclass(frozen=True)
class _Unary:
    sign: str
    of: Expression


@dataclass(frozen=True)
class _Binary:
    sign: str
    left: Expression
    right: Expression


@dataclass(frozen=True)
class _Chain:
    first: Expression
    rest: tuple[tuple[str, Expression], ...]


@dataclass(frozen=True)
class _Logic:
    word: str
    left: Expression
    right: Expression


Node = Name | Index | _Number | _Call | _Unary | _Binary | _Chain | _Logic


@dataclass(frozen=True)
class Expression:
    """A parsed expression."""

    text: str
    node: Node

    def __str__(self) -> str:
        return self.text

    def value(self, lookup: Callable[[Name | Index], Any]) -> Any:
        """What it is now: a number or an array. ``lookup`` gives what a name or elements of it hold.

        Raises:
            SasError: a name that means nothing, operands that do not fit together.
        """
        try:
            with np.errstate(all="ignore"):
                return _value(self.node, lookup)
        except (ArithmeticError, ValueError, TypeError, IndexError) as exc:
            raise SasError(f"`{self.text}`: {exc}") from None

    def true(self, lookup: Callable[[Name | Index], Any]) -> bool:
        """Whether it holds now."""
        return _truth(self.value(lookup), self.text)


def whole_number(value: Any, text: str) -> int:
    """What an expression is, where only a whole number will do.

    Raises:
        SasError: an array, a fraction, no number.
    """
    if np.size(value) != 1:
        raise SasError(f"`{text}` has {np.size(value)} values, here it must be one number")
    one = np.asarray(value).item()
    if isinstance(one, float) and not one.is_integer():
        raise SasError(f"`{text}` is {one}, no whole number")
    return int(one)


def _truth(value: Any, text: str) -> bool:
    if np.size(value) != 1:
        raise SasError(f"`{text}` has {np.size(value)} values, a condition has one", hint="any(...) or all(...)")
    return bool(np.all(value))


def _value(node: Node, lookup: Callable[[Name | Index], Any]) -> Any:
    def of(e: Expression) -> Any:
        return _value(e.node, lookup)

    match node:
        case _Number(value):
            return value
        case Name() | Index():
            found = lookup(node)
            return found.astype(np.int64) if isinstance(found, np.ndarray) and found.dtype.kind in "iub" else found
        case _Call(function, inner):
            return FUNCTIONS[function](of(inner))
        case _Unary(sign, inner):
            value = of(inner)
            return not _truth(value, inner.text) if sign == "not" else -value if sign == "-" else ~value if sign == "~" else value
        case _Binary("**", left, right):
            base, power = of(left), of(right)
            if np.max(np.abs(power)) > 64 or (isinstance(base, int) and base.bit_length() > _BITS):
                raise ValueError("this power is too large")
            return base**power
        case _Binary(sign, left, right):
            a, b = of(left), of(right)
            if sign in ("<<", ">>") and not np.all((np.asarray(b) >= 0) & (np.asarray(b) < 64)):
                raise ValueError(f"a shift by {b}")
            if sign in ("//", "%", "/") and not np.all(b):
                raise ValueError("division by 0")
            return next(level[sign] for level in _LEVELS if sign in level)(a, b)
        case _Chain(first, rest):
            left, out = of(first), True
            for sign, right in rest:
                value = of(right)
                out = _COMPARE[sign](left, value) & out
                left = value
            return out
        case _Logic(word, left, right):
            first = _truth(of(left), left.text)
            return first and _truth(of(right), right.text) if word == "and" else first or _truth(of(right), right.text)


def parse(text: str) -> Expression:
    """Read an expression.

    Raises:
        SasError: with a caret where it cannot go on.
    """
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        self.at = self.depth = 0
        if len(text) > _LONGEST:
            raise SasError(f"an expression of {len(text)} characters", hint=f"at most {_LONGEST}")
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if found is None:
                self._wrong("this is no part of an expression", at + len(text[at:]) - len(text[at:].lstrip()))
            kind = found.lastgroup or ""
            self.tokens.append((kind, found[kind], found.start(kind)))
            at = found.end()
            if len(self.tokens) > _TOKENS:
                raise SasError("an expression of so many parts", hint=f"at most {_TOKENS} names, numbers and operators")
        self.tokens.append(("end", "", len(text)))

    def _wrong(self, what: str, at: int | None = None) -> NoReturn:
        column = (self.tokens[self.at][2] if at is None else at) + 1
        span = Span("expression", 1, column, self.text)
        raise SasError(what, span=span, hint='for instance: r3 == 7 and max(acc) > 2**30, or "odd name"[0, 1, 2]')

    def _next(self, *marks: str) -> str:
        """The next token's text, taken, if it is one of these."""
        kind, text, _ = self.tokens[self.at]
        if kind in ("mark", "name") and text in marks:
            self.at += 1
            return text
        return ""

    def _need(self, mark: str) -> None:
        if not self._next(mark):
            self._wrong(f"{mark!r} is missing here")

    def _made(self, first: int, node: Node) -> Expression:
        begin, end = self.tokens[first][2], self.tokens[self.at - 1]
        return Expression(self.text[begin : end[2] + len(end[1])], node)

    def whole(self) -> Expression:
        found = self._or()
        if self.tokens[self.at][0] != "end":
            self._wrong("an operator is missing here")
        return found

    def _or(self) -> Expression:
        self.depth += 1
        if self.depth > _DEEPEST:
            self._wrong("this is nested too deeply")
        first, left = self.at, self._and()
        while self._next("or", "||"):
            right = self._and()
            left = self._made(first, _Logic("or", left, right))
        self.depth -= 1
        return left

    def _and(self) -> Expression:
        first, left = self.at, self._not()
        while self._next("and", "&&"):
            right = self._not()
            left = self._made(first, _Logic("and", left, right))
        return left

    def _not(self) -> Expression:
        first, count = self.at, 0
        while self._next("not", "!"):
            count += 1
        found = self._compare()
        for _ in range(count):
            found = self._made(first, _Unary("not", found))
        return found

    def _compare(self) -> Expression:
        first, left, rest = self.at, self._level(0), []
        while sign := self._next(*_COMPARE):
            rest.append((sign, self._level(0)))
        return self._made(first, _Chain(left, tuple(rest))) if rest else left

    def _level(self, number: int) -> Expression:
        if number == len(_LEVELS):
            return self._unary()
        first, left = self.at, self._level(number + 1)
        while sign := self._next(*_LEVELS[number]):
            right = self._level(number + 1)
            left = self._made(first, _Binary(sign, left, right))
        return left

    def _unary(self) -> Expression:
        first = self.at
        signs = list[str]()
        while sign := self._next("-", "+", "~"):
            signs.append(sign)
        found = self._power()
        for sign in reversed(signs):
            found = self._made(first, _Unary(sign, found))
        return found

    def _power(self) -> Expression:
        first, base = self.at, self._primary()
        if self._next("**"):
            return self._made(first, _Binary("**", base, self._unary()))
        return base

    def _primary(self) -> Expression:
        first = self.at
        kind, text, column = self.tokens[first]
        if self._next("("):
            found = self._or()
            self._need(")")
            return found
        self.at += 1
        if kind == "number":
            return self._made(first, _Number(self._numeral(text)))
        if kind == "name" and text in FUNCTIONS and self._next("("):
            inner = self._or()
            self._need(")")
            return self._made(first, _Call(text, inner))
        if kind not in ("name", "quoted") or text in ("and", "or", "not"):
            self.at = first
            self._wrong("a number, a name or a bracket is missing here")
        sample = None
        if self._next("@"):
            sample = self._primary_number()
        name = Name(text.strip('"'), sample, column + 1)
        if not self._next("["):
            return self._made(first, name)
        parts: list[Expression | slice] = []
        while True:
            parts.append(self._part())
            if self._next("]"):
                return self._made(first, Index(name, tuple(parts)))
            self._need(",")

    def _primary_number(self) -> Expression:
        first = self.at
        kind, text, _ = self.tokens[first]
        if kind == "number":
            self.at += 1
            return self._made(first, _Number(self._numeral(text)))
        return self._primary()

    def _numeral(self, text: str) -> int | float:
        plain = text.replace("_", "")
        try:
            return float(plain) if re.search(r"[.eE]", plain) and plain[:2] not in ("0x", "0X") else int(plain, 0)
        except ValueError:
            self._wrong(f"{text} is no number")

    def _part(self) -> Expression | slice:
        begin = None if self.tokens[self.at][1] in (":", "]", ",") else self._or()
        if not self._next(":"):
            if begin is None:
                self._wrong("an index is missing here")
            return begin
        end = None if self.tokens[self.at][1] in ("]", ",") else self._or()
        return slice(begin, end)
