"""The binary program file: magic, version, and sections with their CRC.

::

    "SASBIN\\r\\n"  u16 version  u16 sections  { 4-byte tag, u32 length, u32 CRC-32 } * sections  contents in the same order

Sections: MACH (machine, JSON), STRS (string table), VIEW, GEOM, MATS, TABL (descriptors), DATA (inline tensors), CODE (16-byte words),
ORIG (runs of origins), INFO (entries, parameters, meta strings, weights file and digest). Integers are LEB128 varints, signed ones zigzag;
text is an index into the string table.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np

from sasimc.isa.analysis.check import check_program
from sasimc.isa.binary.encoding import Names, decode_word, encode_word
from sasimc.isa.described import Source, validate
from sasimc.isa.errors import DiagnosticsError, SasError
from sasimc.isa.machine import Machine
from sasimc.isa.objects import DTYPES, Geometry, Matrix, Table, Tile, View
from sasimc.isa.program import Instr, Origin, Program
from sasimc.isa.spec import WORD_BYTES
from sasimc.isa.text.assembler import WeightsLoader

__all__ = ["CONTAINER_VERSION", "MAGIC", "decode_program", "encode_program", "encoded_bytes"]

MAGIC = b"SASBIN\r\n"
CONTAINER_VERSION = 1
_TAGS = ("MACH", "STRS", "VIEW", "GEOM", "MATS", "TABL", "DATA", "CODE", "ORIG", "INFO")
_SPACES, _DTYPES = ("buf", "host", "acc"), tuple(DTYPES)
_MODES, _KINDS, _ARRAYS = ("window", "linear2", "nearest"), ("dense", "depthwise", "scratch"), ("compute", "transposable")
_TABLES = tuple(Table.KINDS)


class _Writer:
    """Bytes of one section; the string table is shared."""

    def __init__(self, strings: dict[str, int]) -> None:
        self.data = bytearray()
        self._strings = strings

    def unsigned(self, *values: int) -> None:
        for value in values:
            if value < 0:
                raise SasError(f"{value} cannot be encoded: it must not be negative")
            while value > 127:
                self.data.append(value & 127 | 128)
                value >>= 7
            self.data.append(value)

    def signed(self, *values: int) -> None:
        for value in values:
            self.unsigned(value << 1 if value >= 0 else (-value << 1) - 1)

    def text(self, *values: str) -> None:
        for value in values:
            self.unsigned(self._strings.setdefault(value, len(self._strings)))


class _Reader:
    """Reads one section; every inconsistency is a SasError that names section and offset."""

    def __init__(self, tag: str, data: bytes, strings: list[str], source: str) -> None:
        self.tag, self.data, self.strings, self.source, self.at = tag, data, strings, source, 0

    def fail(self, text: str) -> SasError:
        return SasError(
            f"section {self.tag}, byte {self.at}: {text}", where=self.source, hint="the file is damaged; assemble it again"
        )

    def unsigned(self, limit: int = 1 << 48) -> int:
        value = shift = 0
        while True:
            if self.at >= len(self.data):
                raise self.fail("the section ends early")
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                if byte == 0 and shift > 7:
                    raise self.fail("a number is not in its shortest form")
                break
            if shift > 63:
                raise self.fail("a number is too long")
        if value >= limit:
            raise self.fail(f"{value} is too large here")
        return value

    def signed(self) -> int:
        raw = self.unsigned(1 << 64)
        return -((raw + 1) >> 1) if raw & 1 else raw >> 1

    def count(self) -> int:
        """A number of records; each takes at least a byte, so a larger one is damage."""
        n = self.unsigned()
        if n > len(self.data) - self.at:
            raise self.fail(f"{n} records do not fit into the section")
        return n

    def text(self) -> str:
        i = self.unsigned()
        if i >= len(self.strings):
            raise self.fail(f"string {i} of {len(self.strings)}")
        return self.strings[i]

    def pick(self, words: tuple[str, ...]) -> str:
        i = self.unsigned()
        if i >= len(words):
            raise self.fail(f"choice {i} of {len(words)}")
        return words[i]

    def take(self, n: int) -> bytes:
        if n > len(self.data) - self.at:
            raise self.fail("the section ends early")
        self.at += n
        return self.data[self.at - n : self.at]

    def end(self) -> None:
        if self.at != len(self.data):
            raise self.fail("there is more data than expected")


def _unique(reader: _Reader, pool: dict[str, Any], name: str, value: Any) -> None:
    if name in pool:
        raise reader.fail(f"{name!r} is declared twice")
    pool[name] = value


def _write_views(w: _Writer, p: Program) -> None:
    w.unsigned(len(p.views))
    for v in p.views.values():
        dense = View.dense_strides(v.space, v.dtype, v.shape)
        strided = (v.row, v.pix, v.chan) != dense
        extra = bool(v.ring or v.batch or v.pad)
        w.text(v.name)
        dtype = _DTYPES.index(v.dtype)
        w.unsigned(_SPACES.index(v.space) | (dtype & 3) << 2 | strided << 4 | extra << 5 | (dtype >> 2) << 6, *v.shape, v.addr)
        if strided:
            w.unsigned(v.row, v.pix, v.chan)
        if extra:
            w.unsigned(v.ring, v.batch)
            w.signed(v.pad)


def _read_views(r: _Reader) -> dict[str, View]:
    out: dict[str, View] = {}
    for _ in range(r.count()):
        name, flags = r.text(), r.unsigned(128)
        if flags & 3 > 2:
            raise r.fail("unknown memory space")
        code = flags >> 2 & 3 | flags >> 6 << 2
        if code >= len(_DTYPES):
            raise r.fail("unknown type of elements")
        space, dtype = _SPACES[flags & 3], _DTYPES[code]
        shape = (r.unsigned(), r.unsigned(), r.unsigned())
        addr = r.unsigned()
        row, pix, chan = (r.unsigned(), r.unsigned(), r.unsigned()) if flags & 16 else View.dense_strides(space, dtype, shape)
        ring, batch, pad = (r.unsigned(), r.unsigned(), r.signed()) if flags & 32 else (0, 0, 0)
        _unique(r, out, name, View(name, space, dtype, shape, addr, row, pix, chan, ring, batch, pad))
    return out


def _write_geometries(w: _Writer, p: Program) -> None:
    w.unsigned(len(p.geometries))
    for g in p.geometries.values():
        w.text(g.name)
        w.unsigned(_MODES.index(g.mode), *g.kernel, *g.stride)
        w.signed(*g.pad)
        w.unsigned(*g.dilation)


def _read_geometries(r: _Reader) -> dict[str, Geometry]:
    out: dict[str, Geometry] = {}
    for _ in range(r.count()):
        name, mode = r.text(), r.pick(_MODES)
        kernel, stride = (r.unsigned(), r.unsigned()), (r.unsigned(), r.unsigned())
        pad, dilation = (r.signed(), r.signed()), (r.unsigned(), r.unsigned())
        _unique(r, out, name, Geometry(name, kernel, stride, pad, dilation, mode))
    return out


def _write_matrices(w: _Writer, p: Program) -> None:
    w.unsigned(len(p.matrices))
    for m in p.matrices.values():
        w.text(m.name)
        w.unsigned(_KINDS.index(m.kind) | _ARRAYS.index(m.array) << 2 | m.trainable << 3, m.k, m.n)
        w.text(m.tensor)
        w.unsigned(len(m.tiles))
        for t in m.tiles:
            w.unsigned(t.subarray, t.row, t.col, t.k, t.n, t.rows, t.cols, t.copy)


def _read_matrices(r: _Reader) -> dict[str, Matrix]:
    out: dict[str, Matrix] = {}
    for _ in range(r.count()):
        name, flags, k, n, tensor = r.text(), r.unsigned(16), r.unsigned(), r.unsigned(), r.text()
        if flags & 3 > 2:
            raise r.fail("unknown kind of matrix")
        tiles = tuple(Tile(*(r.unsigned() for _ in range(8))) for _ in range(r.count()))
        _unique(r, out, name, Matrix(name, _KINDS[flags & 3], _ARRAYS[flags >> 2 & 1], k, n, tensor, bool(flags & 8), tiles))
    return out


def _write_tables(w: _Writer, p: Program) -> None:
    w.unsigned(len(p.tables))
    for t in p.tables.values():
        ints, roles = Table.KINDS[t.kind]
        w.text(t.name)
        w.unsigned(_TABLES.index(t.kind))
        w.signed(*(t.ints[i] for i in ints))
        for role in roles:
            value = t.arrays[role]
            if isinstance(value, str):
                w.unsigned(0)
                w.text(value)
            else:
                w.unsigned(len(value) + 1)
                w.signed(*value)


def _read_tables(r: _Reader) -> dict[str, Table]:
    out: dict[str, Table] = {}
    for _ in range(r.count()):
        name, kind = r.text(), r.pick(_TABLES)
        ints, roles = Table.KINDS[kind]
        numbers = {i: r.signed() for i in ints}
        arrays: dict[str, str | tuple[int, ...]] = {}
        for role in roles:
            size = r.unsigned()
            if size > len(r.data):
                raise r.fail(f"{size} values do not fit into the section")
            arrays[role] = tuple(r.signed() for _ in range(size - 1)) if size else r.text()
        _unique(r, out, name, Table(name, kind, numbers, arrays))
    return out


def _write_tensors(w: _Writer, p: Program) -> None:
    w.unsigned(len(p.inline))
    for name, tensor in p.tensors.items():
        if name in p.inline:
            shape = tensor.shape or (1,)
            w.text(name)
            w.unsigned(tensor.dtype.itemsize, len(shape), *shape)
            w.data += np.ascontiguousarray(tensor).astype(tensor.dtype.newbyteorder("<")).tobytes()


def _read_tensors(r: _Reader) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for _ in range(r.count()):
        name, size, dims = r.text(), r.unsigned(), r.unsigned(33)
        if size not in (1, 4):
            raise r.fail("unknown type of tensor")
        shape = tuple(r.unsigned() for _ in range(dims))
        if 0 in shape:
            raise r.fail("a tensor without elements")
        data = r.take(math.prod(shape, start=size))
        _unique(
            r,
            out,
            name,
            np.frombuffer(data, np.dtype("<i1" if size == 1 else "<i4"))
            .astype(np.int8 if size == 1 else np.int32)
            .reshape(shape),
        )
    return out


def _write_origins(w: _Writer, p: Program) -> None:
    runs: list[tuple[Origin, int]] = []
    for instr in p.code:
        if runs and runs[-1][0] == instr.origin:
            runs[-1] = (instr.origin, runs[-1][1] + 1)
        else:
            runs.append((instr.origin, 1))
    w.unsigned(len(runs))
    for origin, length in runs:
        w.unsigned(length)
        w.text(origin.node, origin.made_by)


def _read_origins(r: _Reader, instructions: int) -> list[Origin]:
    out: list[Origin] = []
    for _ in range(r.count()):
        length = r.unsigned()
        if not 0 < length <= instructions - len(out):
            raise r.fail("more origins than instructions")
        out += [Origin(r.text(), r.text())] * length
    if len(out) != instructions:
        raise r.fail("fewer origins than instructions")
    return out


def _write_info(w: _Writer, p: Program) -> None:
    for pool in (p.entries, p.params):
        w.unsigned(len(pool))
        for name, value in pool.items():
            w.text(name)
            w.unsigned(value)
    w.unsigned(len(p.meta))
    for name, value in p.meta.items():
        w.text(name, value)
    w.text(p.weights_file, p.digest)


def _read_info(r: _Reader) -> tuple[dict[str, int], dict[str, int], dict[str, str], str, str]:
    pools: list[dict[str, int]] = [{}, {}]
    for pool in pools:
        for _ in range(r.count()):
            _unique(r, pool, r.text(), r.unsigned())
    meta: dict[str, str] = {}
    for _ in range(r.count()):
        _unique(r, meta, r.text(), r.text())
    return pools[0], pools[1], meta, r.text(), r.text()


def encode_program(program: Program) -> bytes:
    """The binary form of a program (without the tensors of its weights file).

    Raises:
        SasError: a value that its field cannot hold, an undeclared name, text that is not Unicode.
    """
    strings: dict[str, int] = {}
    names = Names.of(program)
    sections: dict[str, bytes] = {"MACH": program.machine.key.encode()}
    writers = {
        "VIEW": _write_views, "GEOM": _write_geometries, "MATS": _write_matrices, "TABL": _write_tables, "DATA": _write_tensors,
        "ORIG": _write_origins, "INFO": _write_info,
    }  # fmt: skip
    for tag, write in writers.items():
        w = _Writer(strings)
        write(w, program)
        sections[tag] = bytes(w.data)
    words = []
    for i, instr in enumerate(program.code):
        try:
            words.append(encode_word(instr, names))
        except SasError as exc:
            raise SasError(
                exc.diagnostic.message, where=f"instruction {i}" + (f", line {instr.line}" if instr.line else "")
            ) from None
    sections["CODE"] = b"".join(words)
    w = _Writer({})
    w.unsigned(len(strings))
    for text in strings:
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError:
            raise SasError(f"{text!r} is not valid Unicode text") from None
        w.unsigned(len(data))
        w.data += data
    sections["STRS"] = bytes(w.data)
    head = MAGIC + struct.pack("<HH", CONTAINER_VERSION, len(_TAGS))
    head += b"".join(struct.pack("<4sII", tag.encode(), len(sections[tag]), zlib.crc32(sections[tag])) for tag in _TAGS)
    return head + b"".join(sections[tag] for tag in _TAGS)


def encoded_bytes(program: Program) -> int:
    """Size of the binary form."""
    return len(encode_program(program))


def _sections(data: bytes, source: str) -> dict[str, bytes]:
    hint = "the file is damaged; assemble it again"
    if data[: len(MAGIC)] != MAGIC:
        raise SasError("not a SAS program file", where=source)
    at = len(MAGIC) + 4
    if len(data) < at:
        raise SasError("the file ends in its header", where=source, hint=hint)
    version, count = struct.unpack_from("<HH", data, len(MAGIC))
    if version != CONTAINER_VERSION:
        raise SasError(f"file version {version}; this toolchain reads version {CONTAINER_VERSION}", where=source)
    if count != len(_TAGS) or len(data) < at + 12 * count:
        raise SasError("the section table is damaged", where=source, hint=hint)
    out: dict[str, bytes] = {}
    start = at + 12 * count
    for i, expected in enumerate(_TAGS):
        tag, length, crc = struct.unpack_from("<4sII", data, at + 12 * i)
        if tag != expected.encode():
            raise SasError("the section table is damaged", where=source, hint=hint)
        content = data[start : start + length]
        if len(content) != length:
            raise SasError(f"the file ends in section {expected}", where=source, hint=hint)
        if zlib.crc32(content) != crc:
            raise SasError(f"section {expected} has a wrong checksum", where=source, hint=hint)
        out[expected] = content
        start += length
    if start != len(data):
        raise SasError("the file goes on after its last section", where=source, hint=hint)
    return out


def _strings(data: bytes, source: str) -> list[str]:
    r = _Reader("STRS", data, [], source)
    out = []
    for _ in range(r.count()):
        try:
            out.append(r.take(r.unsigned()).decode("utf-8"))
        except UnicodeDecodeError:
            raise r.fail("a string is not UTF-8") from None
    r.end()
    return out


def decode_program(data: bytes, source: str = "<bytes>", weights_loader: WeightsLoader | None = None) -> Program:
    """The program of a binary file; see :func:`sasimc.isa.text.assembler.assemble` for ``weights_loader``.

    Raises:
        SasError: a damaged file, or a program that could not be executed.
    """
    sections = _sections(data, source)
    strings = _strings(sections["STRS"], source)
    try:
        description = json.loads(sections["MACH"])
    except (ValueError, RecursionError):
        raise SasError("the machine description is not JSON", where=source) from None
    machine = validate(Machine, description, [Source(source, "")], "machine description")

    def read(tag: str, function: Any, *args: Any) -> Any:
        r = _Reader(tag, sections[tag], strings, source)
        result = function(r, *args)
        r.end()
        return result

    code = sections["CODE"]
    if len(code) % WORD_BYTES:
        raise SasError("section CODE is not made of whole words", where=source)
    origins = read("ORIG", _read_origins, len(code) // WORD_BYTES)
    entries, params, meta, weights_file, digest = read("INFO", _read_info)
    tensors = read("DATA", _read_tensors)
    program = Program(
        machine=machine, code=(), views=read("VIEW", _read_views), geometries=read("GEOM", _read_geometries),
        matrices=read("MATS", _read_matrices), tables=read("TABL", _read_tables), entries=entries, params=params, meta=meta,
        tensors=tensors, weights_file=weights_file, digest=digest, source=source, inline=frozenset(tensors),
    )  # fmt: skip
    names = Names.of(program)
    instructions: list[Instr] = []
    for i, origin in enumerate(origins):
        try:
            instructions.append(decode_word(code[i * WORD_BYTES : (i + 1) * WORD_BYTES], names, origin))
        except SasError as exc:
            raise SasError(f"instruction {i}: {exc.diagnostic.message}", where=source) from None
    program = replace(program, code=tuple(instructions))
    if weights_file and weights_loader is not None:
        loaded, digest = weights_loader(weights_file, digest)
        program = replace(program, tensors={**loaded, **tensors}, digest=digest)
    problems = list(check_program(program, complete=weights_loader is not None or not weights_file))
    if problems:
        raise DiagnosticsError(problems[:100])
    return program
