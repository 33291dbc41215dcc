"""Semantic colours, and what is written between the lines: cycles of a line, a loop, an entry."""

from __future__ import annotations

from lsprotocol import types

from sasimc.isa.extend import find
from sasimc.lsp.document import Document
from sasimc.lsp.facts import Facts

__all__ = ["MODIFIERS", "TOKENS", "hints", "tokens"]

TOKENS = [
    "keyword",
    "function",
    "variable",
    "class",
    "struct",
    "enumMember",
    "parameter",
    "string",
    "number",
    "method",
    "type",
    "event",
]
"""Token types, by position in the legend."""

MODIFIERS = ["declaration", "modification"]

_TYPE = {
    "instruction": "function", "directive": "keyword", "view": "variable", "matrix": "class", "geometry": "struct", "table": "enumMember",
    "tensor": "type", "register": "parameter", "parameter": "parameter", "entry": "method", "test": "method", "event": "event",
}  # fmt: skip

_INDEX = {kind: TOKENS.index(token) for kind, token in _TYPE.items()}

_CHANGES = {"declare": 1, "write": 2, "change": 2}
"""Modifiers, as bits of the legend."""


def tokens(document: Document, first: int, last: int) -> list[int]:
    """Tokens of lines first..last (1-based, included) in the protocol's relative form."""
    data: list[int] = []
    line0 = column0 = 0
    begin = document.piece_at(first)
    numbers = range(begin[0] if begin else first, min(last, len(document.lines)) + 1)
    for start in numbers:
        piece = document.pieces.get(start)
        if piece is None:
            continue
        for m in piece.mentions:  # in the order of the text
            line = start + m.line - 1
            if not first <= line <= last:
                continue
            column, width = m.column - 1, m.width
            if not document.lines[line - 1].isascii():
                column = document.position(line, m.column).character
                width = document.position(line, m.column + m.width).character - column
            delta = line - 1 - line0
            data += (delta, column if delta else column - column0, width, _INDEX[m.kind], _CHANGES.get(m.role, 0))
            line0, column0 = line - 1, column
    return data


def _short(cycles: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if cycles >= size:
            return f"{cycles / size:.3g} {unit}"
    return f"{cycles:.0f}"


def hints(document: Document, facts: Facts, first: int, last: int) -> list[types.InlayHint]:
    """Cycles of lines first..last (1-based): of an instruction in all its executions, of a loop with its body, of an entry."""
    program = facts.program
    if program is None:
        return []
    out: list[types.InlayHint] = []
    totals = {line: sum(s.cycles for s in spent) for line, spent in facts.lines.items()}
    loops: list[tuple[int, int]] = []
    entry_lines = {line: name for name, (line, _) in document.declared("entry").items()}
    running = 0
    loop_sums: dict[int, int] = {}
    for line, piece in document.pieces.items():
        s = piece.statement
        spec = find(s.name) if s is not None and s.name[0] != "." else None
        running += totals.get(line, 0)
        if spec is not None and spec.flow == "loop":
            loops.append((line, running))
        elif spec is not None and spec.flow == "end" and loops:
            begin, before = loops.pop()
            loop_sums[begin] = running - before
    for line in range(first, min(last, len(document.lines)) + 1):
        text = tip = ""
        if line in entry_lines and entry_lines[line] in facts.estimates:
            e = facts.estimates[entry_lines[line]]
            text = f"{_short(e.cycles)} cycles, {1e3 * e.cycles / program.machine.clock_hz:.3g} ms"
            tip = f"{e.cycles:,} cycles with the compiled batch"
        elif line in loop_sums:
            text, tip = f"loop: {_short(loop_sums[line])} cycles", "all passes, not shortened by overlap"
        elif totals.get(line):
            times = sum(s.times for s in facts.lines[line])
            text = f"{_short(totals[line])} cycles"
            tip = f"{times:,} executions, {totals[line]:,} cycles, not shortened by overlap"
        if text:
            at = document.position(line, len(document.lines[line - 1]) + 1)
            out.append(types.InlayHint(at, text, padding_left=True, tooltip=tip))
    return out
