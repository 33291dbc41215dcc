"""Printer: :class:`Program` -> canonical text. Assembling the canonical text gives the program back, and prints as the same text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from sasimc.isa.machine import Machine, load_machine
from sasimc.isa.objects import Geometry, Matrix, Table, Tile, View
from sasimc.isa.program import Instr, Origin, Program
from sasimc.isa.spec import Reg, RowRange, RowsField
from sasimc.isa.text.assembler import ALL_ROWS
from sasimc.isa.text.directives import FORMAT_VERSION, machine_digest

__all__ = ["code_lines", "flat_fields", "format_instruction", "format_program", "machine_changes", "quoted_name", "with_lines"]

_NAME = re.compile(r"[^\W\d][\w.$]*\Z")
_WIDTH = 140


def quoted_name(name: str) -> str:
    """A name as it stands, or in quotes where it has other characters than letters, digits, ``_``, ``.`` and ``$``."""
    return name if _NAME.match(name) else _quote(name)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def flat_fields(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every field of nested tables."""
    for key, item in value.items():
        if isinstance(item, dict):
            yield from flat_fields(item, f"{prefix}{key}.")
        else:
            yield prefix + key, item


def machine_changes(machine: Machine) -> dict[str, Any]:
    """Fields (dotted) that differ from the default machine, except its name."""
    default = dict(flat_fields(load_machine().model_dump(mode="json")))
    return {k: v for k, v in flat_fields(machine.model_dump(mode="json")) if k != "name" and v != default[k]}


def _list(values: Any) -> str:
    """A list; runs of eight or more equal values are written as 7*12, long lists go over several lines."""
    flat = np.asarray(values, dtype=np.int64).reshape(-1)
    parts: list[str] = []
    if flat.size:
        starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), flat.size], strict=True):
            text = str(int(flat[start]))
            parts.extend([f"{text}*{end - start}"] if end - start >= 8 else [text] * (end - start))
    lines, line = [], ""
    for part in parts:
        if line and len(line) + len(part) > _WIDTH:
            lines.append(line)
            line = ""
        line += (" " if line else "") + part + ","
    lines.append(line[:-1])
    return "[" + "\n    ".join(lines) + "]"


def _size(*numbers: int) -> str:
    return "x".join(map(str, numbers))


def _view(v: View) -> str:
    dense = View.dense_strides(v.space, v.dtype, v.shape)
    out = f".view {quoted_name(v.name)} {v.space} {v.dtype} {_size(*v.shape)} addr={v.addr}"
    for key, value, default in zip(("row", "pix", "chan"), (v.row, v.pix, v.chan), dense, strict=True):
        if value != default:
            out += f" {key}={value}"
    for key, value in (("ring", v.ring), ("batch", v.batch), ("pad", v.pad)):
        if value:
            out += f" {key}={value}"
    return out


def _geometry(g: Geometry) -> str:
    out = f".geom {quoted_name(g.name)} kernel={_size(*g.kernel)}"
    for key, value, default in (("stride", g.stride, (1, 1)), ("pad", g.pad, (0, 0)), ("dilation", g.dilation, (1, 1))):
        if value != default:
            out += f" {key}={_size(*value)}"
    return out + (f" mode={g.mode}" if g.mode != "window" else "")


def _tile(t: Tile) -> str:
    out = f".tile sub={t.subarray}"
    for key, value in (("row", t.row), ("col", t.col), ("k", t.k), ("n", t.n)):
        if value:
            out += f" {key}={value}"
    return out + f" size={_size(t.rows, t.cols)}" + (f" copy={t.copy}" if t.copy else "")


def _matrix(m: Matrix) -> Iterator[str]:
    out = f".mat {quoted_name(m.name)} {m.kind} {m.array} {_size(m.k, m.n)}"
    if m.kind != "scratch":
        out += f" tensor={_quote(m.tensor)}"
    if m.kind != "scratch" or m.trainable:
        out += " trainable" if m.trainable else " frozen"
    yield out
    for t in m.tiles:
        yield _tile(t)


def _table(t: Table) -> str:
    out = f".table {quoted_name(t.name)} {t.kind}"
    ints, roles = Table.KINDS[t.kind]
    for key in ints:
        out += f" {key}={t.ints[key]}"
    for role in roles:
        value = t.arrays[role]
        out += f" {role}=" + ("@" + _quote(value) if isinstance(value, str) else _list(value))
    return out


def _operand(f: Any, value: Any) -> str:
    if isinstance(f, Reg):
        return f"r{value}"
    if isinstance(f, RowsField):
        assert isinstance(value, RowRange)
        if value == ALL_ROWS:
            return "all"
        return f"r{value.reg}{f'{value.offset:+d}' if value.offset else ''}:{value.count}"
    return quoted_name(value) if isinstance(value, str) else str(value)


def format_instruction(instr: Instr) -> str:
    """One instruction as assembly."""
    words = ", ".join(_operand(f, v) for f, v in zip(instr.spec.fields, instr.operands, strict=True))
    return f"{instr.spec.mnemonic} {words}" if words else instr.spec.mnemonic


def _head(p: Program) -> Iterator[str]:
    yield f".sas {FORMAT_VERSION}"
    yield f".machine {_quote(p.machine.name)} sha256={_quote(machine_digest(p.machine))}"
    for path, value in machine_changes(p.machine).items():
        yield f".set {path}=" + (_list(value) if isinstance(value, list) else json.dumps(value))
    if p.weights_file:
        yield f".weights {_quote(p.weights_file)}" + (f" sha256={_quote(p.digest)}" if p.digest else "")
    for key, text in p.meta.items():
        yield f".meta {quoted_name(key)} {_quote(text)}"
    for key, register in p.params.items():
        yield f".param {quoted_name(key)} r{register}"


def _descriptors(p: Program) -> Iterator[str]:
    if p.views or p.geometries or p.matrices or p.tables:
        yield ""
        yield ".desc"
    for v in p.views.values():
        yield _view(v)
    for g in p.geometries.values():
        yield _geometry(g)
    for m in p.matrices.values():
        yield from _matrix(m)
    for t in p.tables.values():
        yield _table(t)
    if p.inline:
        yield ""
        yield ".data"
    for name, tensor in p.tensors.items():
        if name in p.inline:
            yield f".tensor {_quote(name)} {'i8' if tensor.dtype == np.int8 else 'i32'} {_size(*(tensor.shape or (1,)))} {_list(tensor)}"


def code_lines(p: Program) -> Iterator[tuple[str, int]]:
    """Lines of the code section, and the index of the instruction on them (-1: none)."""
    yield "", -1
    yield ".code", -1
    entries: dict[int, list[str]] = {}
    for name, at in p.entries.items():
        entries.setdefault(at, []).append(quoted_name(name))
    origin, depth = Origin(), 0
    for i, instr in enumerate(p.code):
        for name in entries.get(i, ()):
            yield f".entry {name}", -1
        if instr.origin != origin:
            origin = instr.origin
            yield f".loc {_quote(origin.node)}" + (f" {_quote(origin.made_by)}" if origin.made_by else ""), -1
        if instr.spec.mnemonic == "endl":
            depth = max(0, depth - 1)
        yield "    " + "  " * min(depth, 16) + format_instruction(instr), i
        if instr.spec.mnemonic in ("loop", "loopi"):
            depth += 1


def _lines(p: Program) -> Iterator[tuple[str, int]]:
    for line in _head(p):
        yield line, -1
    for line in _descriptors(p):
        yield line, -1
    yield from code_lines(p)


def format_program(program: Program) -> str:
    """The canonical text of a program."""
    return "\n".join(line for line, _ in _lines(program)) + "\n"


def with_lines(program: Program, source: str) -> tuple[Program, str]:
    """The program as if assembled from its canonical text in the file ``source`` (instructions know their lines), and that text."""
    lines: dict[int, int] = {}
    parts: list[str] = []
    number = 1
    for text, index in _lines(program):
        if index >= 0:
            lines[index] = number
        parts.append(text)
        number += 1 + text.count("\n")
    code = tuple(replace(instr, line=lines[i]) for i, instr in enumerate(program.code))
    return replace(program, code=code, source=source, lines={}), "\n".join(parts) + "\n"
