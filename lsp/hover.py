"""What stands under the cursor, in a few lines of Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator

from lsprotocol import types

from sasimc.isa.extend import find
from sasimc.isa.manual import SPACES, instruction_page
from sasimc.isa.objects import Geometry, Matrix, Table, View
from sasimc.isa.program import Program
from sasimc.isa.spec import EVENTS
from sasimc.isa.text.directives import DIRECTIVES
from sasimc.lsp.document import Document, Mention
from sasimc.lsp.facts import Facts, Spent

__all__ = ["hover", "said_of"]


def cycles_of(spent: Spent) -> str:
    """Cycles of one line in one run of an entry."""
    if spent.times == 1:
        return f"{spent.cycles:,} cycles"
    each = spent.cycles / spent.times
    return (
        f"{spent.times:,} x {each:,.0f} = {spent.cycles:,} cycles"
        if each == int(each)
        else (f"{spent.times:,} times, {spent.cycles:,} cycles")
    )


def _users(document: Document, kind: str, name: str) -> Iterator[str]:
    """Who reads and who writes, and from where to where."""
    found = [(line, m) for line, m in document.places.get((kind, name), []) if m.role != "declare"]
    for role, word in (("write", "written"), ("change", "changed"), ("read", "read")):
        lines = [line for line, m in found if m.role == role]
        if lines:
            many = f"{len(lines)} times, lines {lines[0]} to {lines[-1]}" if len(lines) > 1 else f"once, line {lines[0]}"
            yield f"- {word} {many}"
    if not found:
        yield "- never used"


def _scales(program: Program) -> dict[str, tuple[float, int, str]]:
    """Scale, zero point and ONNX node of tensors, by the name their views begin with (programs that were compiled say so)."""
    try:
        rows = json.loads(program.meta.get("tensors", "[]"))
        return {str(r[0]).replace(":", "_"): (float(r[3]), int(r[4]), str(r[1])) for r in rows}
    except (ValueError, TypeError, IndexError):
        return {}


def _view(v: View, program: Program) -> Iterator[str]:
    h, w, c = v.shape
    yield f"**view {v.name}**: {h} x {w} x {c} {v.dtype} in the {SPACES[v.space]}"
    unit = "words" if v.space == "acc" else "bytes"
    yield f"- {unit} {v.addr:,} to {v.end - 1:,} ({v.end - v.addr:,} {unit})" + (f", a ring of {v.ring} rows" if v.ring else "")
    yield f"- strides: row {v.row}, pixel {v.pix}, channel {v.chan}" + (f", sample {v.batch}" if v.batch else "")
    if v.pad:
        yield f"- outside it reads {v.pad}"
    scales = _scales(program)
    name = max((n for n in scales if v.name == n or v.name.startswith(n + ".")), key=len, default="")
    if name:
        scale, zero, node = scales[name]
        yield f"- real value = {scale:g} x (stored - {zero}), tensor of `{node}`"


def _matrix(m: Matrix) -> Iterator[str]:
    yield f"**matrix {m.name}**: {m.kind}, {m.k} x {m.n}, {m.array} sub-arrays, {'trainable' if m.trainable else 'frozen'}"
    subs = sorted({t.subarray for t in m.tiles})
    named = ", ".join(map(str, subs[:12])) + (", ..." if len(subs) > 12 else "")
    copies = f", {m.copies} copies" if m.copies > 1 else ""
    yield f"- {len(m.tiles)} tile{'s' if len(m.tiles) != 1 else ''} in {len(subs)} sub-array{'s' if len(subs) != 1 else ''} ({named}){copies}"
    for t in m.tiles[:6]:
        yield (
            f"- sub-array {t.subarray}, word lines {t.row} to {t.row + t.rows - 1}, weight columns {t.col} to {t.col + t.cols - 1}: "
            f"weights [{t.k}:{t.k + t.rows}, {t.n}:{t.n + t.cols}]" + (f", copy {t.copy}" if t.copy else "")
        )
    if len(m.tiles) > 6:
        yield f"- {len(m.tiles) - 6} more tiles"
    if m.tensor:
        yield f"- weights: tensor `{m.tensor}`"


def _geometry(g: Geometry) -> Iterator[str]:
    yield (
        f"**geometry {g.name}**: kernel {g.kernel[0]} x {g.kernel[1]}, stride {g.stride[0]} x {g.stride[1]}, padding {g.pad[0]}, {g.pad[1]}, "
        f"dilation {g.dilation[0]} x {g.dilation[1]}, {g.mode}"
    )


def _table(t: Table) -> Iterator[str]:
    yield f"**table {t.name}**: {t.kind}"
    for key, value in t.ints.items():
        yield f"- {key} = {value}"
    for role, array in t.arrays.items():
        yield f"- {role}: " + (f"tensor `{array}`" if isinstance(array, str) else f"{len(array)} values")


def said_of(document: Document, facts: Facts, kind: str, name: str) -> list[str]:
    """Lines of Markdown about a declared name."""
    program = facts.program
    out: list[str] = []
    if program is not None:
        if kind == "view" and name in program.views:
            out += _view(program.views[name], program)
        elif kind == "matrix" and name in program.matrices:
            out += _matrix(program.matrices[name])
        elif kind == "geometry" and name in program.geometries:
            out += _geometry(program.geometries[name])
        elif kind == "table" and name in program.tables:
            out += _table(program.tables[name])
        elif kind == "tensor" and name in program.tensors:
            t = program.tensors[name]
            out.append(
                f"**tensor {name}**: {' x '.join(map(str, t.shape))} {t.dtype}, {int(t.min())} to {int(t.max())}"
                if t.size
                else name
            )
        elif kind == "entry" and name in facts.estimates:
            e = facts.estimates[name]
            ms = 1e3 * e.cycles / program.machine.clock_hz
            out.append(f"**entry {name}**: {e.cycles:,} cycles, {ms:.3g} ms, {e.issued:,} instructions executed")
            out += [f"- {phase}: {cycles:,} cycles" for phase, cycles in e.phases.items() if cycles]
    if not out:
        declared = document.declared(kind).get(name)
        out.append(f"**{kind} {name}**" + ("" if declared else ": not declared"))
        if declared:
            out += ["```sas-imc", document.lines[declared[0] - 1].strip(), "```"]
    if kind in ("view", "matrix", "geometry", "table", "tensor"):
        out += _users(document, kind, name)
    return out


def _register(document: Document, m: Mention) -> list[str]:
    out = [f"**register {m.name}**" + (": always 0" if m.name == "r0" else "")]
    for line, found in document.places.get(("register", m.name), []):
        text = document.lines[line - 1].strip()
        if text.startswith(".param") and found.role == "write":
            out.append(f"- set by the host: `{text}`")
    return out + list(_users(document, "register", m.name))


def hover(document: Document, facts: Facts, position: types.Position) -> types.Hover | None:
    """The hover of a place, or None where there is nothing to say."""
    line, column = document.place(position)
    at = document.mention_at(line, column)
    if at is None:
        return None
    _, m = at
    if m.kind == "instruction":
        spec = find(m.name)
        if spec is None:
            return None
        out = []
        for spent in facts.lines.get(line, []):
            out.append(f"**here, in {spent.entry}:** {cycles_of(spent)}  ")
        if facts.program is not None:
            node = next((i.origin.node for i in facts.program.code if i.line == line), "")
            out += [f"**ONNX node:** `{node}`  "] if node else []
        out += ["", *instruction_page(spec)] if out else list(instruction_page(spec))
    elif m.kind == "directive":
        directive = DIRECTIVES.get(m.name)
        if directive is None:
            return None
        out = ["```sas-imc", directive.usage, "```", directive.doc]
    elif m.kind == "register":
        out = _register(document, m)
    elif m.kind == "event":
        out = [f"**event {m.name}**: {EVENTS.get(m.name, 'not known')}"]
    else:
        out = said_of(document, facts, m.kind, m.name)
    text = types.MarkupContent(types.MarkupKind.Markdown, "\n".join(out))
    return types.Hover(text, document.range(line, m.column, m.width))
