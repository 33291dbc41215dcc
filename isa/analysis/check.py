"""What must hold for a program to be executed at all: descriptors inside their memories, operands of the kinds their fields ask for,
legality of each instruction, balanced loops. The assembler and the decoder refuse a program that fails here; the linter reports more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from sasimc.isa.errors import Diagnostic
from sasimc.isa.machine import Machine
from sasimc.isa.objects import EXP_ONE, Geometry, Matrix, Table, Tile, View
from sasimc.isa.program import Instr, Program
from sasimc.isa.spec import Field, GeomField, MatField, Reg, RowsField, TableField, ViewField

__all__ = [
    "check_geometry",
    "check_instruction",
    "check_matrix",
    "check_operand",
    "check_program",
    "check_structure",
    "check_table",
    "check_tensor",
    "check_view",
    "memory_size",
]

_MOST_TAPS: Final = (1 << 31) // 255
"""Of a window: a sum of so many unsigned values fits 32 bits."""

ENTRIES_HINT = "every entry point ends with halt"
INT32 = 1 << 31


def memory_size(machine: Machine, space: str) -> int:
    """Size of a memory space in its address units (bytes; 32-bit words for ``acc``)."""
    return {"buf": machine.buffer.bytes, "host": machine.host.memory_bytes, "acc": machine.accumulator.entries}[space]


def check_view(machine: Machine, v: View) -> Iterator[str]:
    """Texts of what is wrong with a view on its own."""
    strides = {"addr": v.addr, "row": v.row, "pix": v.pix, "chan": v.chan, "ring": v.ring, "batch": v.batch}
    for name, value in strides.items():
        if value < 0:
            yield f"{name} is {value}; it cannot be negative"
            return
    if min(v.shape) < 1:
        yield f"the shape {v.shape} has an empty dimension"
        return
    if v.space == "acc" and v.dtype != "i32":
        yield f"accumulators hold i32, not {v.dtype}"
    if v.batch and v.space != "host":
        yield "only views on host memory have a batch stride"
    if v.unit > 1:
        odd = [name for name in ("addr", "row", "pix", "chan", "batch") if strides[name] % v.unit]
        if odd:
            yield f"{odd[0]} is {strides[odd[0]]}, not a multiple of {v.unit} as {v.dtype} needs"
    size = memory_size(machine, v.space)
    if v.end > size:
        unit = "words" if v.space == "acc" else "bytes"
        where = {"buf": "the buffer", "host": "host memory", "acc": "the accumulators"}[v.space]
        yield f"ends at {v.end}, beyond {where} ({size} {unit})"
    low, high = v.limits
    if not low <= v.pad <= high:
        yield f"pad {v.pad} is not a value of {v.dtype} ({low}..{high})"


def check_geometry(g: Geometry) -> Iterator[str]:
    """Texts of what is wrong with a geometry."""
    if min(*g.kernel, *g.stride, *g.dilation) < 1:
        yield "kernel, stride and dilation are at least 1"
    if g.taps > _MOST_TAPS:
        yield f"a window of {g.taps} elements: the sum of more than {_MOST_TAPS} does not fit 32 bits"
    if g.mode not in ("window", "linear2", "nearest"):
        yield f"unknown mode {g.mode!r}"


def _tile_problem(machine: Machine, m: Matrix, t: Tile) -> str:
    if not 0 <= t.subarray < machine.subarrays:
        return f"sub-array {t.subarray} is not one of the machine's {machine.subarrays}"
    if t.rows < 1 or t.cols < 1 or t.row < 0 or t.col < 0 or t.k < 0 or t.n < 0 or t.copy < 0:
        return f"a tile of {t.rows} x {t.cols} at row {t.row}, column {t.col} is not one"
    if t.row + t.rows > machine.array.rows:
        return f"a tile ends at row {t.row + t.rows} of {machine.array.rows} in sub-array {t.subarray}"
    if t.col + t.cols > machine.weights_per_row:
        return f"a tile ends at weight column {t.col + t.cols} of {machine.weights_per_row} in sub-array {t.subarray}"
    if m.kind != "scratch" and (t.k + t.rows > m.k or t.n + t.cols > m.n):
        return f"a tile at k={t.k} n={t.n} of {t.rows} x {t.cols} leaves the {m.k} x {m.n} matrix"
    return ""


def check_matrix(machine: Machine, m: Matrix) -> Iterator[str]:
    """Texts of what is wrong with a matrix on its own: kinds, tiles inside sub-arrays, every weight once in each copy."""
    if m.kind not in ("dense", "depthwise", "scratch"):
        yield f"unknown kind {m.kind!r}"
    if m.array not in ("compute", "transposable"):
        yield f"unknown kind of sub-array {m.array!r}"
    if m.k < 1 or m.n < 1:
        yield f"a {m.k} x {m.n} matrix is empty"
        return
    if not m.tiles:
        yield "no .tile says where it stands"
        return
    for t in m.tiles:
        if text := _tile_problem(machine, m, t):
            yield text
            return
    if m.kind == "scratch":
        if len({t.subarray for t in m.tiles}) != len(m.tiles) or len({(t.rows, t.cols) for t in m.tiles}) > 1:
            yield "scratch tiles are of one size and each in a sub-array of its own"
        return
    size, held = m.copies * m.k * m.n, sum(t.rows * t.cols for t in m.tiles)
    if size > 1 << 28:
        yield f"{m.copies} copies of {m.k} x {m.n} are more than any machine holds"
        return
    if size > max(held, 1 << 20):
        yield f"{size - held} or more of its weights stand in no tile"
        return
    cells = np.zeros((m.copies, m.k, m.n), np.uint8)
    for t in m.tiles:
        block = cells[t.copy, t.k : t.k + t.rows, t.n : t.n + t.cols]
        if block.any():
            yield f"the tile at k={t.k} n={t.n} holds weights of copy {t.copy} that another tile holds already"
            return
        block[:] = 1
    cut: dict[int, list[tuple[int, int, int, int]]] = {}
    for t in m.tiles:
        cut.setdefault(t.copy, []).append((t.k, t.n, t.rows, t.cols))
    first = sorted(cut.get(0, ()))
    for copy in range(1, m.copies):
        if sorted(cut.get(copy, ())) != first:
            yield f"copy {copy} is cut into other tiles than copy 0"
            return
    if not cells.all():
        copy, k, n = (int(i) for i in np.unravel_index(int(cells.argmin()), cells.shape))
        yield f"weight ({k}, {n}) of copy {copy} stands in no tile"


def check_tensor(m: Matrix) -> Iterator[str]:
    """A text when a matrix that is no scratch names no weights."""
    if m.kind != "scratch" and not m.tensor:
        yield "no tensor= with its weights"


def check_table(program: Program, t: Table) -> Iterator[str]:
    """Texts of what is wrong with a table on its own (ranges of its constants, equal lengths)."""
    if t.kind not in Table.KINDS:
        yield f"unknown kind {t.kind!r}"
        return
    ints, roles = Table.KINDS[t.kind]
    if tuple(sorted(t.ints)) != tuple(sorted(ints)) or tuple(sorted(t.arrays)) != tuple(sorted(roles)):
        yield f"a {t.kind} table has the integers {', '.join(ints) or '-'} and the arrays {', '.join(roles) or '-'}"
        return
    for name, value in t.ints.items():
        if not -INT32 <= value < INT32:
            yield f"{name} = {value} does not fit in 32 bits"
    if "lo" in t.ints and t.kind != "mask" and not -128 <= t.ints["lo"] <= t.ints["hi"] <= 255:
        yield f"the bounds {t.ints['lo']}..{t.ints['hi']} are not of an 8-bit type"
    if "shift" in t.ints and not 1 <= t.ints["shift"] <= 62:
        yield f"shift {t.ints['shift']} is outside 1..62"
    if t.kind == "norm" and not (t.ints["eps"] >= 0 and 0 <= t.ints["up"] <= 31):
        yield f"eps {t.ints['eps']} must not be negative, and up {t.ints['up']} within 0..31"
    if t.kind == "loss" and t.ints["mult"] < 1:
        yield f"mult {t.ints['mult']} is not positive"
    values = {}
    for role in roles:
        ref = t.arrays[role]
        if isinstance(ref, str) and ref not in program.tensors:
            continue  # its weights file is not loaded, or the missing tensor is reported where it is named
        values[role] = program.table_array(t, role)
    if len({v.size for v in values.values()}) > 1:
        yield "its arrays differ in length: " + ", ".join(f"{role} {v.size}" for role, v in values.items())
    if t.kind == "softmax" and "exp" in values and values["exp"].size and int(values["exp"][0]) != EXP_ONE:
        yield f"exp begins with {values['exp'][0]}, not with {EXP_ONE}, which is 1"
    limits = {
        "bias": (-INT32, INT32 - 1),
        "mult": (-INT32, INT32 - 1),
        "shift": (0, 62),
        "k": (-INT32, INT32 - 1),
        "values": (-128, 255),
        "exp": (0, EXP_ONE),
    }
    for role, v in values.items():
        low, high = limits[role]
        if not v.size:
            yield f"{role} is empty"
        elif int(v.min()) < low or int(v.max()) > high:
            wrong = int(v.min()) if int(v.min()) < low else int(v.max())
            yield f"{role} has {wrong}, outside {low}..{high}"


def check_operand(machine: Machine, f: Field, value: Any) -> str:
    """What is wrong with one resolved operand (empty: nothing)."""
    if isinstance(f, ViewField):
        if value.space != f.space:
            names = {"buf": "the buffer", "host": "host memory", "acc": "accumulators"}
            return f"{value.name} is a view on {names[value.space]}; {f.name} must be on {names[f.space]}"
        if value.dtype not in f.dtypes:
            return f"{value.name} is {value.dtype}; {f.name} must be {' or '.join(f.dtypes)}"
    elif isinstance(f, Reg):
        if not 0 <= value < machine.controller.registers:
            return f"the machine has no register r{value} (r0..r{machine.controller.registers - 1})"
    elif isinstance(f, RowsField):
        if value.reg >= machine.controller.registers:
            return f"the machine has no register r{value.reg} (r0..r{machine.controller.registers - 1})"
        return f.check(value)
    elif isinstance(f, MatField):
        if value.kind not in f.kinds:
            return f"{value.name} is a {value.kind} matrix; {f.name} must be {' or '.join(f.kinds)}"
    elif isinstance(f, GeomField):
        if value.mode not in f.modes:
            return f"{value.name} has mode {value.mode}; this instruction needs {' or '.join(f.modes)}"
    elif isinstance(f, TableField):
        if value.kind != f.table:
            return f"{value.name} is a {value.kind} table; this instruction needs {f.table}"
    else:
        return f.check(value)
    return ""


def check_instruction(program: Program, instr: Instr) -> Iterator[tuple[int, str]]:
    """Operand index (-1: the instruction as a whole) and text of everything wrong with an instruction whose names are all declared."""
    spec = instr.spec
    o = program.resolve(instr)
    good = True
    for i, f in enumerate(spec.fields):
        if text := check_operand(program.machine, f, getattr(o, f.name)):
            good = False
            yield i, text
    if not good:
        return
    for text in spec.legal(program.machine, o):
        good = False
        yield -1, text
    table = next((f for f in spec.fields if isinstance(f, TableField)), None)
    if good and table is not None:
        t: Table = getattr(o, table.name)
        view = getattr(o, next(f.name for f in spec.fields if isinstance(f, ViewField)))
        for role, ref in t.arrays.items():
            size = (program.tensors[ref].size if ref in program.tensors else None) if isinstance(ref, str) else len(ref)
            if size is not None and not Table.fits(t.kind, size, view.channels):
                yield spec.fields.index(table), f"{t.name} has {size} values of {role}; {view.name} has {view.channels} channels"
                return
        if t.kind == "lut" and (not isinstance(ref := t.arrays["values"], str) or ref in program.tensors):
            values, (low, high) = program.table_array(t, "values"), view.limits
            if not low <= int(values.min()) <= int(values.max()) <= high:
                yield spec.fields.index(table), f"{t.name} has values outside {view.dtype}, the type of {view.name}"


def check_structure(program: Program) -> Iterator[tuple[int, str, str]]:
    """Instruction index, text and hint of everything wrong with the shape of the code: loops, their depth, entries, parameters."""
    depth = program.machine.controller.loop_depth
    open_loops: list[int] = []
    starts = {}
    for name, at in program.entries.items():
        if not 0 <= at < len(program.code):
            yield max(0, len(program.code) - 1), f"entry {name} has no instruction", ENTRIES_HINT
        starts[at] = name
    for i, instr in enumerate(program.code):
        flow = instr.spec.flow
        if i in starts and open_loops:
            yield i, f"entry {starts[i]} begins inside a loop", "close the loop with endl first"
        if flow == "loop":
            open_loops.append(i)
            if len(open_loops) == depth + 1:
                yield i, f"loops are nested {depth + 1} deep; the machine has {depth}", ""
        elif flow == "end":
            if open_loops:
                open_loops.pop()
            else:
                yield i, "endl without a loop", ""
    for i in open_loops:
        yield i, "this loop has no endl", ""
    for name, register in program.params.items():
        if not 0 < register < program.machine.controller.registers:
            yield 0, f"parameter {name} is in r{register}, not one of r1..r{program.machine.controller.registers - 1}", ""


def check_program(program: Program, *, complete: bool = True) -> list[Diagnostic]:
    """Everything of ``check.py`` for a program that did not come from text; ``complete``: its tensors are loaded."""
    out: list[Diagnostic] = []

    def add(where: str, text: str, hint: str = "") -> None:
        out.append(Diagnostic(text, where=f"{program.source}: {where}", hint=hint))

    for v in program.views.values():
        for text in check_view(program.machine, v):
            add(f"view {v.name}", text)
    for g in program.geometries.values():
        for text in check_geometry(g):
            add(f"geometry {g.name}", text)
    for m in program.matrices.values():
        for text in (*check_tensor(m), *check_matrix(program.machine, m)):
            add(f"matrix {m.name}", text)
        if complete and m.tensor:
            tensor = program.tensors.get(m.tensor)
            if tensor is None:
                add(f"matrix {m.name}", f"there is no tensor {m.tensor!r}")
            elif tensor.dtype != np.int8 or tensor.size != m.k * m.n:
                add(
                    f"matrix {m.name}",
                    f"tensor {m.tensor!r} is {tensor.dtype} with {tensor.size} elements, not int8 with {m.k * m.n}",
                )
    for t in program.tables.values():
        for role, value in t.arrays.items():
            if complete and isinstance(value, str) and value not in program.tensors:
                add(f"table {t.name}", f"there is no tensor {value!r} ({role})")
        for text in check_table(program, t):
            add(f"table {t.name}", text)
    if not program.code:
        add("code", "there is no instruction")
    if out:
        return out
    for i, instr in enumerate(program.code):
        for _, text in check_instruction(program, instr):
            add(f"instruction {i} ({instr.spec.mnemonic})", text)
    for i, text, hint in check_structure(program):
        add(f"instruction {i}", text, hint)
    return out
