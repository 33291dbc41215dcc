"""Definition, references, rename, outline and folding."""

from __future__ import annotations

import json

from lsprotocol import types

from sasimc.isa.extend import find
from sasimc.isa.text.directives import DIRECTIVES
from sasimc.isa.text.printer import quoted_name
from sasimc.lsp.document import Document, Mention, is_register

__all__ = ["definition", "folding", "highlights", "references", "rename", "renameable", "symbols"]

SECTIONS = tuple(name for name, d in DIRECTIVES.items() if d.doc.startswith("begin the section"))

FIXED = ("instruction", "directive", "event")
"""Kinds that the language names, not the text."""

_SYMBOL = {
    "view": types.SymbolKind.Variable,
    "matrix": types.SymbolKind.Array,
    "geometry": types.SymbolKind.Struct,
    "table": types.SymbolKind.Constant,
    "tensor": types.SymbolKind.Object,
    "entry": types.SymbolKind.Function,
    "parameter": types.SymbolKind.Property,
    "test": types.SymbolKind.Method,
}


def definition(document: Document, uri: str, position: types.Position) -> types.Location | None:
    """Where the name under a place is declared."""
    at = document.mention_at(*document.place(position))
    if at is None:
        return None
    declared = document.declared(at[1].kind).get(at[1].name)
    if declared is None:
        return None
    line, m = declared
    return types.Location(uri, document.range(line, m.column, m.width))


def _mentions(document: Document, position: types.Position) -> list[tuple[int, Mention]]:
    at = document.mention_at(*document.place(position))
    return document.places.get((at[1].kind, at[1].name), []) if at else []


def references(document: Document, uri: str, position: types.Position, declaration: bool = True) -> list[types.Location]:
    """Every mention of the name under a place."""
    return [
        types.Location(uri, document.range(line, m.column, m.width))
        for line, m in _mentions(document, position)
        if declaration or m.role != "declare"
    ]


def highlights(document: Document, position: types.Position) -> list[types.DocumentHighlight]:
    """The same, within the shown text, told apart by reading and writing."""
    kinds = {"read": types.DocumentHighlightKind.Read}
    return [
        types.DocumentHighlight(document.range(line, m.column, m.width), kinds.get(m.role, types.DocumentHighlightKind.Write))
        for line, m in _mentions(document, position)
    ]


def renameable(document: Document, position: types.Position) -> types.Range | None:
    """The range of the name under a place, if the text may give it another."""
    line, column = document.place(position)
    at = document.mention_at(line, column)
    if at is None or at[1].kind in FIXED or (at[1].kind == "register" and at[1].name == "r0"):
        return None
    m = at[1]
    declared_here = m.kind == "register" or m.name in document.declared(m.kind)
    return document.range(line, m.column, m.width) if declared_here else None  # a tensor of the weights file keeps its name


def rename(document: Document, uri: str, position: types.Position, new: str) -> types.WorkspaceEdit:
    """Edits that give the name under a place another one everywhere.

    Raises:
        ValueError: what forbids it.
    """
    at = document.mention_at(*document.place(position))
    if at is None or renameable(document, position) is None:
        raise ValueError("nothing here can be renamed")
    m = at[1]
    new = new.strip()
    if new[:1] == '"':
        try:
            new = str(json.loads(new))
        except json.JSONDecodeError:
            raise ValueError(f"{new} is not a name in quotes") from None
    if not new or any(ord(c) < 32 for c in new):
        raise ValueError("a name has at least one character and no control characters")
    if m.kind == "register":
        if not is_register(new) or not 0 < int(new[1:]) < 64 or new != f"r{int(new[1:])}":
            raise ValueError(f"{new} is not a register r1..r63")
        if ("register", new) in document.places:
            raise ValueError(f"register {new} is already used")
    elif new in document.declared(m.kind) and new != m.name:
        line = document.declared(m.kind)[new][0]
        raise ValueError(f"{m.kind} {new} is already declared in line {line}")
    edits = []
    for line, found in document.places[m.kind, m.name]:
        old = document.lines[line - 1][found.column - 1 : found.column - 1 + found.width]
        if m.kind == "register":
            text = new
        elif old.startswith("@"):
            text = "@" + json.dumps(new, ensure_ascii=False)
        elif m.kind in ("tensor", "test") or old.startswith('"'):
            text = json.dumps(new, ensure_ascii=False)
        else:
            text = quoted_name(new)
        edits.append(types.TextEdit(document.range(line, found.column, found.width), text))
    return types.WorkspaceEdit(changes={uri: edits})


def _sections(document: Document) -> list[tuple[str, int, int]]:
    """Name, first and last line of every section."""
    marks = [(p.statement.name, line) for line, p in document.pieces.items() if p.statement and p.statement.name in SECTIONS]
    ends = [line - 1 for _, line in marks[1:]] + [len(document.lines)] * bool(marks)
    head = [("head", 1, (marks[0][1] - 1) if marks else len(document.lines))]
    return [(n, a, b) for n, a, b in [*head, *((n, a, e) for (n, a), e in zip(marks, ends, strict=True))] if b >= a]


def symbols(document: Document) -> list[types.DocumentSymbol]:
    """The outline: sections, and what each declares."""
    out = []
    sections = _sections(document)
    children: dict[int, list[types.DocumentSymbol]] = {}
    declared = sorted((line, m) for kind in _SYMBOL for line, m in document.declared(kind).values())
    code = next(((a, b) for n, a, b in sections if n == ".code"), (0, 0))
    entries = [line for line, m in declared if m.kind == "entry"] + [code[1] + 1]
    for line, m in declared:
        last = line
        if m.kind == "entry":
            last = max(line, next(e for e in entries if e > line) - 1) if line < entries[-1] else line
        whole = types.Range(document.position(line, 1), document.position(last, len(document.lines[last - 1]) + 1))
        detail = "" if m.kind in ("entry", "test") else " ".join(document.lines[line - 1].split()[2:6])
        item = types.DocumentSymbol(m.name or " ", _SYMBOL[m.kind], whole, document.range(line, m.column, m.width), detail)
        where = next((i for i, (_, a, b) in enumerate(sections) if a <= line <= b), 0)
        children.setdefault(where, []).append(item)
    for i, (name, first, last) in enumerate(sections):
        whole = types.Range(document.position(first, 1), document.position(last, len(document.lines[last - 1]) + 1))
        own = types.Range(document.position(first, 1), document.position(first, len(document.lines[first - 1]) + 1))
        out.append(types.DocumentSymbol(name, types.SymbolKind.Namespace, whole, own, children=children.get(i, [])))
    return out


def folding(document: Document) -> list[types.FoldingRange]:
    """Sections, entries, hardware loops, tiles of a matrix, lists over several lines."""
    out = [
        types.FoldingRange(a - 1, b - 1, kind=types.FoldingRangeKind.Region)
        for n, a, b in _sections(document)
        if b > a and n != "head"
    ]
    loops: list[int] = []
    entry = tiled = last = 0
    for line, piece in document.pieces.items():
        s = piece.statement
        if s is None:
            continue
        if tiled and s.name != ".tile":
            out.append(types.FoldingRange(tiled - 1, last - 1))
            tiled = 0
        elif s.name == ".tile":
            tiled = tiled or last
        if piece.lines > 1:
            out.append(types.FoldingRange(line - 1, line + piece.lines - 2))
        if s.name in (".entry", *SECTIONS):
            if entry:
                out.append(types.FoldingRange(entry - 1, last - 1))
            entry = line if s.name == ".entry" else 0
        spec = find(s.name) if s.name[0] != "." else None
        if spec is not None and spec.flow == "loop":
            loops.append(line)
        elif spec is not None and spec.flow == "end" and loops:
            out.append(types.FoldingRange(loops.pop() - 1, line - 1))
        last = line + piece.lines - 1
    for open_ in (entry, tiled):
        if open_ and last > open_:
            out.append(types.FoldingRange(open_ - 1, last - 1))
    return out
