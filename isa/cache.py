"""The assembled form of a long text program, kept beside it, so that the next load need not parse it again.

``prog.s`` has ``.prog.s.cache``: a key, source lines, and the binary form. The key is a digest of the text and of everything that decides what it
means: the toolchain's own files, the instructions known, and Python's version. With another key, or damaged, the file counts as not there. Weights are
read and checked as for any program: they are not in it.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import zlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from sasimc.isa.binary.container import decode_program, encode_program
from sasimc.isa.errors import SasError
from sasimc.isa.program import Program
from sasimc.isa.spec import TABLE
from sasimc.isa.text.assembler import WeightsLoader

__all__ = ["cache_of", "pack", "unpack"]

SHORTEST = 1 << 16
"""Texts of so many bytes are kept; shorter ones are assembled in a moment."""
_MAGIC = b"SASCACHE"
_HEAD = struct.Struct("<8s32sII")
"""Magic, key, CRC-32 of what follows (begun with the next number), bytes of the lines."""


def cache_of(path: Path) -> Path:
    """Where the assembled form of a text program lies."""
    return path.with_name(f".{path.name}.cache")


@lru_cache(maxsize=1)
def _toolchain() -> bytes:
    """Digest of the files of this folder: sizes and times, as for Python's own caches."""
    found = hashlib.sha256(sys.version.encode())
    folder = Path(__file__).parent
    for file in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".lark", ".toml")):
        status = file.stat()
        found.update(f"{file.relative_to(folder)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return found.digest()


def _key(text: bytes) -> bytes:
    found = hashlib.sha256(_toolchain())
    for spec in TABLE.values():  # also those from outside
        fields = [(type(f).__name__, sorted(vars(f).items())) for f in spec.fields]
        found.update(f"{spec.opcode} {spec.mnemonic} {spec.__module__} {fields!r}\n".encode())
    found.update(text)
    return found.digest()


def pack(text: bytes, program: Program) -> bytes | None:
    """What to keep of a text and its program; None where it is short, or takes whatever weights are there."""
    bound = not program.weights_file or program.digest.encode() in text
    if len(text) < SHORTEST or not bound:
        return None
    lines = {"code": [i.line for i in program.code], "declared": [[*where, line] for where, line in program.lines.items()]}
    body = json.dumps(lines, separators=(",", ":")).encode()
    try:
        kept = body + encode_program(program)
    except SasError:
        return None
    return _HEAD.pack(_MAGIC, _key(text), zlib.crc32(kept, len(body)), len(body)) + kept


def unpack(data: bytes, text: bytes, source: str, loader: WeightsLoader) -> Program | None:
    """The program of a text from what was kept of it; None if that is of something else. Raises SasError as ``loader`` does."""
    if len(data) < _HEAD.size:
        return None
    magic, key, check, size = _HEAD.unpack_from(data)
    kept = data[_HEAD.size :]
    if magic != _MAGIC or key != _key(text) or check != zlib.crc32(kept, size):
        return None
    program = decode_program(kept[size:], source, loader)
    try:
        lines = json.loads(kept[:size])
        code = tuple(replace(instr, line=int(line)) for instr, line in zip(program.code, lines["code"], strict=True))
        declared = {(str(kind), str(name)): int(line) for kind, name, line in lines["declared"]}
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):  # made by somebody else
        return None
    return replace(program, code=code, lines=declared)
