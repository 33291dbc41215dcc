"""The bytes of a device image: a file header, one snapshot frame, then step frames; every frame is arrays by name and a JSON head.

All integers are little-endian.

    file header, 16 bytes    magic 89 53 41 53 44 0d 0a 1a ("\\x89SASD", a line end and a ^Z that text transfers spoil) | version u16 | 0 u16 |
                             CRC-32 of the 12 bytes before u32
    frame, 40 bytes + n      "SASF" | kind u8 (1 snapshot, 2 step) | 0 u8 | 0 u16 | number u64 (the snapshot is 0, steps count on) |
                             n u64 | BLAKE2b-64 of the payload | 0 u32 | CRC-32 of the 36 bytes before u32
    payload, n bytes         parts u16, then per part: name length u8 | name | type u8 | dimensions u8 | each u64 | stored length u64;
                             then the stored bytes of every part, each one zlib stream of the array in C order

A frame is appended and made durable before the next is begun, so only the last one can be incomplete: a damaged frame with a sound frame
behind it is corruption, one at the end of the file is a step that was cut off and counts as never done.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sasimc.isa.errors import SasError

__all__ = ["MAGIC", "MAX_BYTES", "SNAPSHOT", "STEP", "VERSION", "Frame", "frame", "header", "read_frames"]

MAGIC: Final = b"\x89SASD\r\n\x1a"
VERSION: Final = 1
MAX_BYTES: Final = 1 << 31
"""Largest image, and most bytes of one frame when unpacked."""

SNAPSHOT: Final = 1
STEP: Final = 2

_TYPES: Final = tuple(np.dtype(t).newbyteorder("<") for t in ("u1", "i1", "i4", "i8", "f8"))
_FILE = struct.Struct("<8sHH")
_FRAME = struct.Struct("<4sBBHQQ8sI")
_CRC = struct.Struct("<I")
_HEAD = "head"
_HEAD_BYTES = 1 << 26

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Frame:
    """One frame: ``kind``, its ``number``, the JSON ``head``, ``arrays`` by name, and where in the file it ``end``s."""

    kind: int
    number: int
    head: dict[str, Any]
    arrays: Mapping[str, Array]
    end: int = 0


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()


def header() -> bytes:
    """The file header."""
    first = _FILE.pack(MAGIC, VERSION, 0)
    return first + _CRC.pack(zlib.crc32(first))


def frame(kind: int, number: int, head: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """A frame as bytes."""
    text = np.frombuffer(json.dumps(head, separators=(",", ":")).encode(), np.uint8)
    table, stored = [struct.pack("<H", len(arrays) + 1)], []
    for name, array in {_HEAD: text, **arrays}.items():
        plain = np.ascontiguousarray(array)
        data = zlib.compress(plain.tobytes(), 1)
        code = _TYPES.index(plain.dtype.newbyteorder("<"))
        label = name.encode()
        table.append(struct.pack("<B", len(label)) + label + struct.pack("<BB", code, plain.ndim))
        table.append(struct.pack(f"<{plain.ndim + 1}Q", *plain.shape, len(data)))
        stored.append(data)
    payload = b"".join([*table, *stored])
    first = _FRAME.pack(b"SASF", kind, 0, 0, number, len(payload), _digest(payload), 0)
    return first + _CRC.pack(zlib.crc32(first)) + payload


def _parts(payload: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """Head and arrays of a payload. Raises ValueError, struct.error, zlib.error, IndexError when it is none."""
    (count,) = struct.unpack_from("<H", payload)
    at, parts, arrays = 2, [], {}
    for _ in range(count):
        size = payload[at]
        name = payload[at + 1 : at + 1 + size].decode()
        code, dims = struct.unpack_from("<BB", payload, at + 1 + size)
        at += size + 3
        *shape, stored = struct.unpack_from(f"<{dims + 1}Q", payload, at)
        at += 8 * (dims + 1)
        parts.append((name, _TYPES[code], shape, stored))
    room = MAX_BYTES
    for name, dtype, shape, stored in parts:
        size = math.prod(shape) * dtype.itemsize
        room -= size
        if room < 0 or (name == _HEAD and size > _HEAD_BYTES) or at + stored > len(payload):
            raise ValueError(f"part {name} is too large")
        unpack = zlib.decompressobj()
        data = unpack.decompress(payload[at : at + stored], max(1, size))
        if len(data) != size or (not unpack.eof and unpack.decompress(unpack.unconsumed_tail, 1)):
            raise ValueError(f"part {name} has another size than it says")
        arrays[name] = np.frombuffer(data, dtype).reshape(shape)
        at += stored
    if at != len(payload):
        raise ValueError("bytes behind the last part")
    head = json.loads(arrays.pop(_HEAD).tobytes())
    if not isinstance(head, dict):
        raise ValueError("the head is no object")
    return head, arrays


def _frame_at(data: bytes, at: int, number: int) -> Frame | None:
    """The sound frame with that number at a position, or None."""
    size = _FRAME.size + _CRC.size
    first = data[at : at + size]
    if len(first) < size or zlib.crc32(first[:-4]) != _CRC.unpack(first[-4:])[0]:
        return None
    magic, kind, _, _, found, length, digest, _ = _FRAME.unpack(first[:-4])
    payload = data[at + size : at + size + length]
    if magic != b"SASF" or found != number or len(payload) != length or _digest(payload) != digest:
        return None
    try:
        return Frame(kind, number, *_parts(payload), at + size + length)
    except (ValueError, struct.error, zlib.error, IndexError, RecursionError):
        return None


def _another_follows(data: bytes, at: int, number: int) -> bool:
    """Whether a frame with a higher number begins somewhere behind ``at``."""
    size = _FRAME.size + _CRC.size
    found = data.find(b"SASF", at + 1)
    while found >= 0:
        first = data[found : found + size]
        if len(first) == size and zlib.crc32(first[:-4]) == _CRC.unpack(first[-4:])[0] and _FRAME.unpack(first[:-4])[4] > number:
            return True
        found = data.find(b"SASF", found + 1)
    return False


def read_frames(data: bytes, where: str) -> list[Frame]:
    """The snapshot and the complete steps behind it.

    Raises:
        SasError: no device image, another version, cut off within the snapshot, damaged.
    """
    if not data.startswith(MAGIC):
        if MAGIC.startswith(data[: len(MAGIC)]):
            raise SasError("the device image is cut off", where=where, hint="copy it again, or begin a new one")
        raise SasError("this is no device image", where=where, hint="--image names a file that sasrun makes")
    size = _FILE.size + _CRC.size
    if len(data) < size:
        raise SasError("the device image is cut off", where=where, hint="copy it again, or begin a new one")
    version = _FILE.unpack_from(data)[1]
    if zlib.crc32(data[: _FILE.size]) != _CRC.unpack_from(data, _FILE.size)[0]:
        raise SasError("the device image is damaged: its header has another checksum", where=where, hint="take a copy of it")
    if version != VERSION:
        raise SasError(
            f"a device image of version {version}; this program reads {VERSION}", where=where, hint="use the sasrun that made it"
        )
    frames: list[Frame] = []
    at = size
    while at < len(data):
        found = _frame_at(data, at, len(frames))
        if found is None or found.kind != (STEP if frames else SNAPSHOT):
            break
        frames.append(found)
        at = found.end
    if at < len(data) and _another_follows(data, at, len(frames)):
        raise SasError(f"the device image is damaged at byte {at}: a checksum is wrong", where=where, hint="take a copy of it")
    if not frames:
        raise SasError("the device image is cut off or damaged in its snapshot", where=where, hint="take a copy of it")
    return frames
