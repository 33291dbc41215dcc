"""Mutations of files: bytes, numbers, slices, repetitions, pieces of another sample; of texts by tokens and lines; of Python objects by their leaves."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["INTEGERS", "mutated", "mutated_object", "mutated_text", "odd"]

INTEGERS = (
    0,
    1,
    -1,
    2,
    7,
    31,
    32,
    63,
    64,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**31 - 1,
    -(2**31),
    2**31,
    2**32,
    2**40,
    2**62,
    2**63 - 1,
    -(2**63),
    2**64,
)
_NUMBERS = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"-1",
    b"0",
    b"99999999999999999999",
    b"nan",
    b"1e999",
)
_WORDS = (b"../", b"/etc/passwd", b"\\", b"\r\n", b'"', b",", b";", b"\0", b"\xef\xbb\xbf", b"\xff\xfe", "e\u0301".encode(), b"train/", b"._", b"{", b"[" * 200)  # fmt: skip
_TEXTS = (
    "",
    "../../secret",
    "/etc/passwd",
    "a" * 300,
    "nan",
    "inf",
    "1e999",
    "-0",
    "0x7fffffff",
    "[[[[",
    "{",
    '"',
    "\\",
    "\ud800",
    "é",
    "true",
    "null",
)


def mutated(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """One to six mutations of ``data``."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(out) + 1)
        length = min(len(out) - at, 1 << rng.randrange(10))
        kind = rng.randrange(8)
        if kind == 0 and out:
            out[min(at, len(out) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at : at + length] = b""
        elif kind == 2:
            out[at:at] = out[at : at + length] * rng.randint(1, 4)
        elif kind == 3:
            number = rng.choice(_NUMBERS)
            out[at : at + len(number)] = number
        elif kind == 4:
            out[at:at] = rng.choice(_WORDS)
        elif kind == 5:
            out[at : at + length] = rng.randbytes(length)
        elif kind == 6:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            out[at:at] = other[start : start + length]
        else:
            del out[at:]
    return bytes(out)


def odd(value: Any, rng: random.Random) -> Any:
    """Another value of the same type, mostly one at an edge."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice(
            (rng.choice(INTEGERS), value + rng.choice((-1, 1, 3)), value * 2, -value, value ^ (1 << rng.randrange(32)))
        )
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e300, 5e-324, value * rng.uniform(0, 3)))
    if isinstance(value, bytes):
        return mutated(value, [value], rng)
    return rng.choice((*_TEXTS, value + value, value[: len(value) // 2]))


def mutated_text(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """One to four mutations of a text: a number or word becomes another, of an edge or of another sample; lines go, come twice, change places."""
    text, other = (d.decode("utf-8", "replace") for d in (data, rng.choice(others)))
    for _ in range(rng.randint(1, 4)):
        kind = rng.randrange(6)
        if kind < 3:
            parts = re.split(r"(\w[\w.]*)", text)
            if len(parts) > 1:
                at = rng.randrange(1, len(parts), 2)
                words = re.findall(r"\w[\w.]*", rng.choice((text, other))) or ["0"]
                number = parts[at].lstrip("-").isdigit() and len(parts[at]) < 40
                parts[at] = (
                    str(odd(int(parts[at]), rng))
                    if number and kind
                    else rng.choice((*words, str(rng.choice(INTEGERS)), rng.choice(_TEXTS)))
                )
            text = "".join(parts)
        else:
            lines, theirs = text.split("\n"), other.split("\n")
            at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
            if kind == 3:
                del lines[at : at + rng.randint(1, 3)]
            elif kind == 4:
                lines.insert(to, rng.choice((lines[at], rng.choice(theirs))))
            else:
                lines[at], lines[to] = lines[to], lines[at]
            text = "\n".join(lines)
    return text.encode("utf-8", "replace")


def mutated_object(value: Any, rng: random.Random, leaf: Callable[[Any, random.Random], Any] = odd) -> Any:
    """A copy of a value of data classes, tuples, lists and mappings with one leaf changed, or one element gone or there twice."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value) if f.init]
        name = rng.choice(names)
        return dataclasses.replace(value, **{name: mutated_object(getattr(value, name), rng, leaf)})
    if isinstance(value, Mapping):
        if not value:
            return value
        key = rng.choice(list(value))
        how = rng.randrange(8)
        if how == 0:
            return {k: v for k, v in value.items() if k != key}
        if how == 1:
            return {**value, key: value[rng.choice(list(value))]}
        return {**value, key: mutated_object(value[key], rng, leaf)}
    if isinstance(value, tuple | list):
        out = list(value)
        if out:
            at, how = rng.randrange(len(out)), rng.randrange(12)
            if how == 0:
                del out[at]
            elif how == 1:
                out.insert(at, out[at])
            else:
                out[at] = mutated_object(out[at], rng, leaf)
        return type(value)(out) if type(value) in (tuple, list) else type(value)(*out)
    return leaf(value, rng) if isinstance(value, bool | int | float | str | bytes) else value
