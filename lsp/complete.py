"""What may stand at the cursor: an instruction, a directive, or an operand of the right kind."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

from lsprotocol import types

from sasimc.isa.extend import find
from sasimc.isa.manual import describe_operand
from sasimc.isa.spec import (
    EVENTS,
    TABLE,
    Choice,
    Field,
    GeomField,
    MatField,
    Reg,
    RowsField,
    TableField,
    ViewField,
)
from sasimc.isa.text.directives import DIRECTIVES
from sasimc.isa.text.printer import quoted_name
from sasimc.isa.text.syntax import Statement
from sasimc.lsp.document import Document

__all__ = ["complete", "signature"]

_WORD = re.compile(r'[^\s,"]*\Z')
_K = types.CompletionItemKind


def _before(document: Document, position: types.Position) -> tuple[int, str]:
    line, column = document.place(position)
    text = document.lines[line - 1] if line <= len(document.lines) else ""
    return line, text[: column - 1]


def _split(text: str) -> tuple[str, list[str]] | None:
    """First word, and the operands so far (the last one is being written), or None within a comment."""
    parts: list[str] = [""]
    quoted = False
    for i, c in enumerate(text):
        if quoted:
            parts[-1] += c
            quoted = c != '"' or text[i - 1] == "\\"
            continue
        if c in ";#":
            return None
        if c == ",":
            parts.append("")
            continue
        quoted = c == '"'
        parts[-1] += c
    head, _, first = parts[0].lstrip().partition(" ")
    return head, [first, *parts[1:]]


def _item(
    label: str, kind: types.CompletionItemKind, detail: str, at: types.Range, doc: str = "", rank: int = 0
) -> types.CompletionItem:
    return types.CompletionItem(
        label=label,
        kind=kind,
        detail=detail,
        documentation=types.MarkupContent(types.MarkupKind.Markdown, doc) if doc else None,
        text_edit=types.TextEdit(at, label),
        filter_text=label,
        sort_text=f"{rank}{label}",
    )


def _declaration(document: Document, line: int) -> Statement | None:
    piece = document.pieces.get(line)
    return piece.statement if piece else None


def _named(
    document: Document, kind: str, fits: Any, at: types.Range, symbol: types.CompletionItemKind
) -> Iterator[types.CompletionItem]:
    """Declared names of a kind; those that the operand takes come first, others are left out."""
    for name, (line, _) in document.declared(kind).items():
        s = _declaration(document, line)
        if s is not None and fits([a.text for a in s.args[1:]], {k: v[0].text for k, v in s.keys.items()}):
            yield _item(quoted_name(name), symbol, " ".join(a.text for a in s.args[1:4]), at)


def _registers(document: Document, at: types.Range, suffix: str = "") -> Iterator[types.CompletionItem]:
    used = sorted({name for kind, name in document.places if kind == "register"}, key=lambda n: int(n[1:]))
    params = {}
    for line, _ in document.declared("parameter").values():
        s = _declaration(document, line)
        if s is not None and len(s.args) > 1:
            params[s.args[1].text] = s.args[0].text
    for name in dict.fromkeys(["r0", *used]):
        detail = "always 0" if name == "r0" else f"parameter {params[name]}" if name in params else "register"
        yield _item(name + suffix, _K.Variable, detail, at)


def _operand(document: Document, f: Field, at: types.Range) -> Iterable[types.CompletionItem]:
    if isinstance(f, ViewField):
        return _named(document, "view", lambda a, k: a[:1] == [f.space] and len(a) > 1 and a[1] in f.dtypes, at, _K.Variable)
    if isinstance(f, MatField):
        return _named(document, "matrix", lambda a, k: bool(a) and a[0] in f.kinds, at, _K.Class)
    if isinstance(f, GeomField):
        return _named(document, "geometry", lambda a, k: k.get("mode", "window") in f.modes, at, _K.Struct)
    if isinstance(f, TableField):
        return _named(document, "table", lambda a, k: a[:1] == [f.table], at, _K.Constant)
    if isinstance(f, Reg):
        return _registers(document, at)
    if isinstance(f, RowsField):
        return [_item("all", _K.Keyword, "every row", at), *_registers(document, at, ":")]
    if isinstance(f, Choice):
        return [_item(w, _K.EnumMember, f.doc, at) for w in f.words]
    return []


def complete(document: Document, position: types.Position) -> list[types.CompletionItem]:
    """Everything that fits at a place."""
    line, before = _before(document, position)
    parts = _split(before)
    if parts is None:
        return []
    head, operands = parts
    word = _WORD.search(before)
    start = len(before) - (len(word[0]) if word else 0)
    if operands[-1].strip().startswith('"'):
        start = before.rindex('"', 0, len(before)) if before.count('"') % 2 else start
    end = before[start:]
    following = document.lines[line - 1][len(before) :] if line <= len(document.lines) else ""
    tail = re.match(r"[\w.$]*", following)
    at = document.range(line, start + 1, len(end) + (len(tail[0]) if tail else 0))
    if before.strip() == head and not before.endswith(" "):
        if head.startswith("."):
            return [_item(d, _K.Keyword, v.doc, at, f"```sas-imc\n{v.usage}\n```") for d, v in DIRECTIVES.items()]
        items = []
        for m, spec in TABLE.items():
            doc = inspect.cleandoc(spec.__doc__ or "")
            items.append(_item(m, _K.Function, ", ".join(f.name.rstrip("_") for f in spec.fields), at, doc))
        return items + [_item(d, _K.Keyword, v.doc, at, rank=1) for d, v in DIRECTIVES.items()]
    if head.startswith("."):
        return _for_directive(document, head, before, at)
    spec = find(head)
    if spec is None or len(operands) > len(spec.fields):
        return []
    return list(_operand(document, spec.fields[len(operands) - 1], at))


def _for_directive(document: Document, head: str, before: str, at: types.Range) -> list[types.CompletionItem]:
    directive = DIRECTIVES.get(head)
    if directive is None:
        return []
    words = before.split()
    number = len(words) - (0 if before.endswith(" ") else 1)  # of the argument being written, from 1
    if directive.refers and number == 1:
        if directive.refers == "register":
            return list(_registers(document, at))
        if directive.refers == "event":
            return [_item(e, _K.EnumMember, doc, at) for e, doc in EVENTS.items()]
        return list(_named(document, directive.refers, lambda a, k: True, at, _K.Variable))
    offered: list[str] = []
    for part in re.findall(r"\[[^\]]*\]|\S+", directive.usage)[1:]:
        inner = part.strip("[]")
        if "|" in inner and inner.replace("|", "").replace(" ", "").replace("x", "").isalnum() and inner.islower():
            offered += inner.split("|")
        offered += re.findall(r"[a-z0-9]+=", inner)
        if re.fullmatch(r"[a-z]+", inner):
            offered.append(inner)
    return [_item(o, _K.Keyword, directive.usage, at) for o in dict.fromkeys(offered) if o not in words]


def signature(document: Document, position: types.Position) -> types.SignatureHelp | None:
    """The operands of the instruction being written, with the present one marked."""
    _, before = _before(document, position)
    parts = _split(before)
    spec = find(parts[0]) if parts else None
    if parts is None or spec is None or (before.strip() == parts[0] and not before.endswith(" ")):
        return None
    names = [f.name.rstrip("_") for f in spec.fields]
    params = []
    for name, f in zip(names, spec.fields, strict=True):
        kind, doc = describe_operand(f)
        params.append(types.ParameterInformation(name, f"{kind}{f': {doc}' if doc else ''}"))
    info = types.SignatureInformation(f"{spec.mnemonic} {', '.join(names)}", (spec.__doc__ or "").strip().split("\n")[0], params)
    return types.SignatureHelp([info], 0, min(len(parts[1]) - 1, max(0, len(names) - 1)))
