"""Arguments of a statement, taken one by one with their types; every mistake becomes a :class:`Problem` at its place."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sasimc.isa.errors import near
from sasimc.isa.text.syntax import Statement, Value

__all__ = ["Arguments", "Problem", "integer", "integers", "name_of", "string"]

_DECIMAL = re.compile(r"[+-]?[0-9][0-9_]*\Z")
_HEX = re.compile(r"[+-]?0[xX][0-9a-fA-F_]+\Z")
_SIZE = re.compile(r"-?[0-9]+(?:x-?[0-9]+)*\Z")
MAX_LIST = 1 << 24  # elements of one inline list


class Problem(Exception):
    """Something wrong at a place of the current statement; ``line`` 0 means the statement itself, ``subject`` a name that is missing."""

    def __init__(
        self,
        message: str,
        at: Value | None = None,
        *,
        hint: str = "",
        line: int = 0,
        column: int = 0,
        width: int = 1,
        subject: str = "",
    ) -> None:
        super().__init__(message)
        self.message, self.hint, self.subject = message, hint, subject
        self.line = at.line if at else line
        self.column = at.column if at else column
        self.width = len(at.text) if at else width


def _number(text: str) -> int | None:
    if _DECIMAL.match(text):
        return int(text.replace("_", "")) if len(text) < 40 else None
    if _HEX.match(text):
        return int(text.replace("_", ""), 16) if len(text) < 40 else None
    return None


def integer(value: Value, what: str, low: int | None = None, high: int | None = None) -> int:
    """The integer a value stands for, within low..high."""
    number = _number(value.text) if value.kind == "NUMBER" else None
    if number is None:
        raise Problem(f"{what} must be an integer, not {value.text!r}", value)
    if (low is not None and number < low) or (high is not None and number > high):
        raise Problem(f"{what} is {number}, outside {low if low is not None else '-'}..{high if high is not None else ''}", value)
    return number


def string(value: Value, what: str) -> str:
    """The text of a string in quotes (JSON escapes)."""
    text = value.text[1:] if value.kind == "TENSOR" else value.text
    if value.kind not in ("STRING", "TENSOR"):
        raise Problem(f"{what} must be a string in quotes, not {value.text!r}", value, hint=f'write "{value.text}"')
    try:
        return str(json.loads(text))
    except json.JSONDecodeError as exc:
        raise Problem(f"{what}: bad escape in the string ({exc.msg})", value) from None


def name_of(value: Value, what: str) -> str:
    """The name a NAME or a STRING stands for, never empty."""
    name = string(value, what) if value.kind == "STRING" else value.text
    if not name:
        raise Problem(f"{what} is empty", value)
    return name


def integers(value: Value, what: str) -> npt.NDArray[np.int64]:
    """The numbers of a list; ``7*3`` stands for 7, 7, 7."""
    if value.kind != "LIST":
        raise Problem(f"{what} must be a list such as [1, 2, 3*8], not {value.text!r}", value)
    out: list[int] = []
    for text, repeat in value.items:
        number = _number(text)
        times = _number(repeat) if repeat else 1
        if number is None or not -(1 << 63) <= number < 1 << 63:
            raise Problem(f"{what}: {text!r} is not an integer", value)
        if times is None or times < 0 or len(out) + times > MAX_LIST:
            raise Problem(f"{what}: {repeat!r} is not a sensible repeat count", value)
        if times == 1:
            out.append(number)
        else:
            out.extend([number] * times)
    return np.asarray(out, dtype=np.int64)


class Arguments:
    """A statement's arguments, consumed in order; :meth:`done` refuses what is left over."""

    def __init__(self, statement: Statement) -> None:
        self.statement = statement
        self._next = 0
        self._keys = dict(statement.keys)
        self._known: list[str] = []

    def more(self) -> bool:
        """Whether positional arguments are left."""
        return self._next < len(self.statement.args)

    def peek(self) -> Value | None:
        """The next positional argument, not consumed."""
        return self.statement.args[self._next] if self.more() else None

    def value(self, what: str) -> Value:
        """The next positional argument."""
        if not self.more():
            raise Problem(f"{self.statement.name} needs {what}")
        self._next += 1
        return self.statement.args[self._next - 1]

    def name(self, what: str) -> str:
        """The next positional argument, a name, in quotes where it is not made of the letters of names."""
        value = self.value(what)
        if value.kind not in ("NAME", "STRING"):
            raise Problem(f"{what} must be a name, not {value.text!r}", value, hint=f'write "{value.text}"')
        return name_of(value, what)

    def word(self, what: str, words: Sequence[str]) -> str:
        """The next positional argument, one of ``words``."""
        value = self.value(what)
        if value.text not in words:
            raise Problem(f"{what} is {value.text!r}, not one of {', '.join(words)}", value, hint=near(value.text, words))
        return value.text

    def string(self, what: str) -> str:
        """The next positional argument, a string."""
        return string(self.value(what), what)

    def key(self, name: str) -> Value | None:
        """A keyword argument, or None."""
        self._known.append(name)
        found = self._keys.pop(name, None)
        return found[0] if found else None

    def take_keys(self) -> dict[str, tuple[Value, int, int]]:
        """All keyword arguments left."""
        found, self._keys = self._keys, {}
        return found

    def integer(self, name: str, default: int | None, low: int | None = None, high: int | None = None) -> int:
        """A keyword argument with an integer; no default: it must be there."""
        value = self.key(name)
        if value is not None:
            return integer(value, name, low, high)
        if default is None:
            raise Problem(f"{self.statement.name} needs {name}=")
        return default

    def size(self, value: Value, what: str, count: int | None, low: int = 1, high: int = 1 << 31) -> tuple[int, ...]:
        """``3x3``: ``count`` integers in low..high."""
        shape = "x".join("HWC"[:count]) if count else "AxBx..."
        if value.kind != "NUMBER" or not _SIZE.match(value.text) or len(value.text) > 100:
            raise Problem(f"{what} must be a size {shape}, not {value.text!r}", value)
        numbers = tuple(int(t) for t in value.text.split("x"))
        if count is not None and len(numbers) != count:
            raise Problem(f"{what} must be a size of {count} numbers, not {value.text!r}", value)
        if bad := [n for n in numbers if not low <= n <= high]:
            raise Problem(f"{what} has {bad[0]}, outside {low}..{high}", value)
        return numbers

    def pair(self, name: str, default: tuple[int, int], low: int, high: int = 1 << 15) -> tuple[int, int]:
        """A keyword argument with a size of two numbers."""
        value = self.key(name)
        if value is None:
            return default
        a, b = self.size(value, name, 2, low, high)
        return a, b

    def done(self) -> None:
        """Nothing may be left."""
        if self.more():
            extra = self.value("")
            raise Problem(f"{self.statement.name} takes no argument {extra.text!r} here", extra)
        for name, (_, line, column) in self._keys.items():
            raise Problem(
                f"{self.statement.name} has no {name!r}", line=line, column=column, width=len(name),
                hint=near(name, self._known) or (f"it takes {', '.join(self._known)}" if self._known else ""),
            )  # fmt: skip
