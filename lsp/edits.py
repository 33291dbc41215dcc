"""Formatting to canonical text, and quick fixes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lsprotocol import types

from sasimc.isa.errors import Diagnostic, suggestions
from sasimc.isa.extend import find
from sasimc.isa.text.format import format_statements
from sasimc.lsp.document import Document

__all__ = ["fixes", "formatting"]


def formatting(document: Document) -> list[types.TextEdit]:
    """Edits that bring the text to its canonical form; comments stay. Only lines that change are named."""
    old = document.lines
    understood = ((i, i + p.lines - 1, p.statement) for i, p in document.pieces.items() if p.statement is not None)
    new = format_statements(old, understood)
    if len(new) != len(old):
        end = document.position(len(old), len(old[-1]) + 1)
        return [types.TextEdit(types.Range(types.Position(0, 0), end), "\n".join(new))]
    return [
        types.TextEdit(document.range(i, 1, len(before)), after)
        for i, (before, after) in enumerate(zip(old, new, strict=True), 1)
        if before != after
    ]


def fixes(document: Document, uri: str, found: list[tuple[types.Diagnostic, Diagnostic]]) -> Iterator[types.CodeAction]:
    """Quick fixes for diagnostics: each word that the message proposes, in the place of the wrong one."""
    for shown, d in found:
        for number, word in enumerate(suggestions(d.hint)):
            if d.span is None or d.span.line > len(document.lines):  # the text has got shorter since
                continue
            line, column, width = d.span.line, d.span.column, d.span.width
            text = document.lines[line - 1][column - 1 : column - 1 + width]
            if re.search(r"[\s,]", text) and not text.startswith('"'):
                continue  # the whole statement is marked, not a word
            new = word if find(word) or not text.startswith('"') else f'"{word}"'
            edit = types.TextEdit(document.range(line, column, width), new)
            yield types.CodeAction(
                f"Change to {word}", types.CodeActionKind.QuickFix, [shown], is_preferred=number == 0,
                edit=types.WorkspaceEdit(changes={uri: [edit]}),
            )  # fmt: skip
