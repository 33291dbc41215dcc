"""What a run writes, instruction by instruction: the thread along which two machines, or a machine and a record, are compared."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sasimc.debug.history import History
from sasimc.debug.session import Session
from sasimc.isa.analysis.footprint import footprint
from sasimc.isa.errors import SasError
from sasimc.isa.files import write_atomically
from sasimc.isa.program import Program
from sasimc.isa.spec import MatField, Reg, ViewField
from sasimc.isa.text.printer import format_program
from sasimc.isa.walk import EMPTY

__all__ = ["Part", "Written", "read_record", "write_record", "written"]

Array = npt.NDArray[Any]
_KEPT_BYTES: Final = 64 << 20
"""A record keeps what was written up to so much; of the rest, checksums only."""
_VERSION: Final = 1


@dataclass(frozen=True)
class Part:
    """What was written to one operand: rows from ``first`` on of a view, a matrix, or a register."""

    name: str
    first: int
    values: Array


@dataclass(frozen=True)
class Written:
    """An execution: instant before it, instruction, what it wrote (None: only the checksum is known), and its checksum."""

    time: int
    pc: int
    parts: tuple[Part, ...] | None
    checksum: int


def written(h: History) -> Iterator[Written]:
    """Run on instruction by instruction from where the machine stands, to the end or a trap."""
    it, program = h.it, h.it.program
    while not h.ended:
        pc, instant = it.at.pc, h.time
        rows, regs = it.at.rows(pc), list(it.regs)
        h.advance(1)
        if h.trap is not None:
            return
        spec, o = program.code[pc].spec, program.resolve(program.code[pc])
        parts: list[Part] = []
        if rows != EMPTY:
            touches = footprint(spec, o, *rows)
            for f, t in zip(spec.of_kind(ViewField), touches, strict=False):
                if f.write and f.access != "d" and t.first < t.last:
                    sample = regs[getattr(o, f.sample)] if f.sample else 0
                    parts.append(Part(t.view.name, t.first, it.read_rows(t.view.name, t.first, t.last, sample)))
            parts += [
                Part(getattr(o, f.name).name, 0, it.read_matrix(getattr(o, f.name).name))
                for f in spec.of_kind(MatField) if f.write and not f.scratch
            ]  # fmt: skip
        for f in spec.of_kind(Reg):
            if f.write:
                parts.append(Part(f"r{getattr(o, f.name)}", 0, np.array([it.regs[getattr(o, f.name)]], np.int64)))
        yield Written(instant, pc, tuple(parts), checksum(parts))


def checksum(parts: list[Part]) -> int:
    """CRC-32 over names and bytes."""
    value = 0
    for part in parts:
        value = zlib.crc32(np.ascontiguousarray(part.values).tobytes(), zlib.crc32(f"{part.name} {part.first}".encode(), value))
    return value


def _digest(program: Program) -> str:
    return hashlib.sha256(format_program(program).encode()).hexdigest()


def write_record(session: Session, path: Path) -> int:
    """Run to the end and record what is written; returns the number of instructions.

    Raises:
        SasError: the file cannot be written.
    """
    pcs: list[int] = []
    sums: list[int] = []
    kept: list[Written] = []
    size = 0
    for w in written(session.history):
        pcs.append(w.pc)
        sums.append(w.checksum)
        if size < _KEPT_BYTES and w.parts is not None:
            kept.append(w)
            size += sum(p.values.nbytes for p in w.parts)
    names = [[(p.name, p.first, str(p.values.dtype), list(p.values.shape)) for p in w.parts or ()] for w in kept]
    data = b"".join(np.ascontiguousarray(p.values).tobytes() for w in kept for p in w.parts or ())
    about = {"version": _VERSION, "program": _digest(session.program), "engine": session.it.engine, "parts": names}
    out = io.BytesIO()
    np.savez_compressed(
        out, about=np.frombuffer(json.dumps(about).encode(), np.uint8), pcs=np.array(pcs, np.int32), sums=np.array(sums, np.uint32),
        data=np.frombuffer(data, np.uint8),
    )  # fmt: skip
    write_atomically(path, out.getvalue())
    return len(pcs)


def read_record(path: Path, program: Program) -> Iterator[Written]:
    """The executions of a record.

    Raises:
        SasError: a file that is no record, or of another program.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(bytes(file["about"]).decode())
            pcs, sums, data = file["pcs"].tolist(), file["sums"].tolist(), bytes(file["data"])
            parts = about["parts"]
            if about["version"] != _VERSION:
                raise ValueError
    except OSError as exc:
        raise SasError(f"cannot read {path}: {exc.strerror or exc}") from None
    except (ValueError, KeyError, TypeError) as exc:
        raise SasError(f"{path} is no record of a run", hint="sasdbg PROG --record FILE writes one") from exc
    if about["program"] != _digest(program):
        raise SasError(f"{path} was recorded with another program", hint="record it again, or compare with --against PROG.s")
    at = 0
    for number, (pc, total) in enumerate(zip(pcs, sums, strict=True)):
        made: tuple[Part, ...] | None = None
        if number < len(parts):
            got: list[Part] = []
            for name, first, dtype, shape in parts[number]:
                count = int(np.prod(shape))
                got.append(Part(name, first, np.frombuffer(data, dtype, count, at).reshape(shape)))
                at += count * np.dtype(dtype).itemsize
            made = tuple(got)
        yield Written(number, pc, made, total)
