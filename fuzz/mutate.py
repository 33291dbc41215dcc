"""Mutations of files: bytes, numbers, slices, repetitions, and pieces of another sample."""

from __future__ import annotations

import random
from collections.abc import Sequence

__all__ = ["mutated"]

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
_WORDS = (
    b"../",
    b"/etc/passwd",
    b"\\",
    b"\r\n",
    b'"',
    b",",
    b";",
    b"\0",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    "e\u0301".encode(),
    b"train/",
    b"._",
    b"{",
    b"[" * 200,
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
