"""Program files: ``prog.s`` or ``prog.bin`` with ``prog.weights.safetensors`` beside it, bound by a SHA-256 digest."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from sasimc.isa.analysis.check import check_program
from sasimc.isa.binary.container import MAGIC, decode_program, encode_program
from sasimc.isa.cache import cache_of, pack, unpack
from sasimc.isa.errors import DiagnosticsError, SasError
from sasimc.isa.program import Program, Tensor
from sasimc.isa.readable import text_of
from sasimc.isa.text.assembler import Assembly, assemble_source
from sasimc.isa.text.printer import with_lines

__all__ = [
    "WEIGHTS_SUFFIX",
    "load_assembly",
    "load_program",
    "packed_program",
    "read_text",
    "save_program",
    "unpacked_program",
    "weights_loader",
    "write_atomically",
    "write_together",
]

WEIGHTS_SUFFIX = ".weights.safetensors"
MAX_PROGRAM_BYTES = 1 << 30


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that at any time either the old or the new content is there.

    Raises:
        SasError: the file cannot be written (no such folder, no permission, disk full); nothing half-written is left.
    """
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write several files: all are complete on the disk before the first takes its name, in the order given. A link stays one, and what is no
    file (a device, a pipe) is written into.

    Raises:
        SasError: one of them cannot be written; none is then (unless the system fails between two renamings).
    """
    ends = {path: Path(os.path.realpath(path)) for path in files}
    temporary = {
        path: end.with_name(f".{end.name}.{os.getpid()}.tmp") for path, end in ends.items() if end.is_file() or not end.exists()
    }
    path = next(iter(files))
    try:
        try:
            for path, data in files.items():
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                with open(temporary.get(path, path), "wb") as f:
                    f.write(data)
                    f.flush()
                    if path in temporary:
                        os.fsync(f.fileno())
            for path, made in temporary.items():
                os.replace(made, ends[path])
        except BaseException:
            for rest in temporary.values():
                with contextlib.suppress(OSError):
                    rest.unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise SasError(
            f"cannot write {path}: {exc.strerror or exc}", hint="is there room on the disk, and may you write there?"
        ) from None


def _read(path: Path, what: str) -> bytes:
    try:
        if path.stat().st_size > MAX_PROGRAM_BYTES:
            raise SasError(f"{path} is too large for a {what}")
        return path.read_bytes()
    except OSError as exc:
        raise SasError(f"cannot read the {what} {path}: {exc.strerror or exc}") from None


def weights_loader(folder: Path, source: str) -> Callable[[str, str], tuple[Mapping[str, Tensor], str]]:
    """A loader for the weights files beside a program.

    The loader raises :class:`SasError` for a name that is not a plain file name in ``folder``, a missing, damaged or other file (digest), and
    tensors that are not int8 or int32.
    """

    def load(name: str, digest: str) -> tuple[Mapping[str, Tensor], str]:
        if not name or name != os.path.basename(name) or name in (".", "..") or "\\" in name or "\0" in name:
            raise SasError(
                f"the weights file {name!r} is not a file beside the program",
                where=source,
                hint="paths are not allowed in .weights",
            )
        path = folder / name
        try:
            if path.resolve().parent != folder.resolve():
                raise SasError(f"the weights file {name!r} leads out of the program's folder", where=source)
        except (OSError, RuntimeError) as exc:
            raise SasError(f"cannot read the weights file {path}: {exc}", where=source) from None
        if not path.is_file():
            raise SasError(
                f"the weights file {path} is missing",
                where=source,
                hint="keep it beside the program; compile again to make it anew",
            )
        data = _read(path, "weights file")
        found = hashlib.sha256(data).hexdigest()
        if digest and found != digest.lower():
            raise SasError(
                f"{path} is not the weights file this program was made with (SHA-256 {found[:12]}..., expected {digest[:12]}...)", where=source,
                hint="the file was changed or cut off, or belongs to another program; compile again",
            )  # fmt: skip
        try:
            tensors: dict[str, Any] = safetensors.numpy.load(data)
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as exc:
            raise SasError(f"{path} is not a valid safetensors file: {exc}", where=source) from None
        for key, tensor in tensors.items():
            if tensor.dtype not in (np.int8, np.int32):
                raise SasError(f"{path}: tensor {key!r} is {tensor.dtype}; programs use int8 and int32", where=source)
        return tensors, found

    return load


def read_text(path: Path) -> str:
    """The text of a program, as it stands."""
    return text_of(_read(path, "program"), str(path))


def load_assembly(path: str | Path) -> Assembly:
    """Read a program in text form, with the tests in it."""
    path = Path(path)
    return _assemble(path, _read(path, "program"))


def _assemble(path: Path, data: bytes) -> Assembly:
    return assemble_source(text_of(data, str(path)), str(path), weights_loader(path.parent, str(path)))


def load_program(path: str | Path) -> Program:
    """Read a program, text or binary (told apart by content), with its weights. The assembled form of a long text is kept beside it
    (:mod:`sasimc.isa.cache`).

    Raises:
        SasError: whatever is wrong with the files; a :class:`DiagnosticsError` lists every mistake of a text.
    """
    path = Path(path)
    data = _read(path, "program")
    if data.startswith(MAGIC[:6]):
        return decode_program(data, str(path), weights_loader(path.parent, str(path)))
    with contextlib.suppress(OSError, SasError):  # what is wrong is said by the assembler
        if found := unpack(cache_of(path).read_bytes(), data, str(path), weights_loader(path.parent, str(path))):
            return found
    program = _assemble(path, data).program
    if kept := pack(data, program):
        with contextlib.suppress(SasError):  # a folder that cannot be written to
            write_atomically(cache_of(path), kept)
    return program


def packed_program(program: Program) -> dict[str, bytes]:
    """A program and its weights as two files of any name, for another process (:func:`unpacked_program`)."""
    stored = {n: np.ascontiguousarray(t) for n, t in program.tensors.items() if n not in program.inline}
    weights = safetensors.numpy.save(stored)
    named = replace(
        program, weights_file="weights" if stored else "", digest=hashlib.sha256(weights).hexdigest() if stored else ""
    )
    return {"program": encode_program(named), "weights": weights}


def unpacked_program(files: Mapping[str, bytes]) -> Program:
    """The program of :func:`packed_program`.

    Raises:
        SasError: damaged files.
    """
    return decode_program(files["program"], "<program>", lambda name, digest: (safetensors.numpy.load(files["weights"]), digest))


def save_program(program: Program, path: str | Path) -> Program:
    """Write a program and its weights file; a name ending in ``.bin`` gives the binary form.

    Returns the program as a load of the file would give it: file names, digest and source lines filled in. Both files are written, or
    neither is.

    Raises:
        SasError: a program that could not be executed, or files that cannot be written.
    """
    path = Path(path)
    problems = check_program(program)
    if problems:
        raise DiagnosticsError(problems[:100])
    stored = {n: np.ascontiguousarray(t) for n, t in program.tensors.items() if n not in program.inline}
    name = digest = ""
    data = b""
    if stored:
        data = safetensors.numpy.save(stored)
        name, digest = path.stem + WEIGHTS_SUFFIX, hashlib.sha256(data).hexdigest()
    program = replace(program, weights_file=name, digest=digest)
    if path.suffix == ".bin":
        content = encode_program(program)
        program = replace(program, source=str(path), code=tuple(replace(i, line=0) for i in program.code))
    else:
        program, text = with_lines(program, str(path))
        try:
            content = text.encode("utf-8")
        except UnicodeEncodeError:
            raise SasError("a name or text of the program is not valid Unicode") from None
    # the program refers to the weights by their digest: they take their name first
    write_together({path.with_name(name): data, path: content} if stored else {path: content})
    return program
