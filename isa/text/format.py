"""Formatter: a text with its comments in canonical form. What is not in the language stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from sasimc.isa.extend import find
from sasimc.isa.text.syntax import Source, Statement, SyntaxProblem, Value, parse_statement, scan, tokens_of

__all__ = ["format_statements", "format_text"]

_INDENT, _LEVEL, _DEEPEST = "    ", "  ", 16


def _value(v: Value) -> str:
    if v.kind == "LIST":
        return "[" + ", ".join(f"{number}*{repeat}" if repeat else number for number, repeat in v.items) + "]"
    if v.kind == "ROWS":
        start, count = v.text.split(":")
        if "+" in start[1:] or "-" in start[1:]:
            register, sign, offset = start.partition("+") if "+" in start else start.partition("-")
            start = register if not int(offset) else f"{register}{sign}{int(offset)}"
        return f"{start}:{int(count)}"
    return v.text


def _statement(s: Statement, depth: int) -> str:
    if s.name[0] != ".":
        words = ", ".join(map(_value, s.args))
        return _INDENT + _LEVEL * min(depth, _DEEPEST) + (f"{s.name} {words}" if words else s.name)
    words = [(v.line, v.column, _value(v)) for v in s.args]
    words += [(line, column, f"{key}={_value(v)}") for key, (v, line, column) in s.keys.items()]
    return " ".join([s.name, *(text for _, _, text in sorted(words))])


def _with_comment(code: str, line: str) -> str:
    """The code with the comment that stood in a line, in its column where there is room."""
    if ";" not in line and "#" not in line:
        return code
    at = next((t.column - 1 for t in tokens_of(line) if t.kind == "COMMENT"), len(line))
    comment = line[at:].rstrip()
    return f"{code + '  ':<{at}}{comment}" if comment else code


def format_statements(lines: list[str], statements: Iterable[tuple[int, int, Statement]]) -> list[str]:
    """Lines in canonical form. ``statements``: first line, last line (1-based) and contents of what was understood."""
    out = [line.rstrip() for line in lines]
    depth = 0
    indents: dict[int, str] = {}
    for first, last, s in statements:
        spec = find(s.name) if s.name[0] != "." else None
        if spec is not None and spec.flow == "end":
            depth = max(0, depth - 1)
        if first == last:
            new = _statement(s, depth)
            out[first - 1] = _with_comment(new, lines[first - 1])
            indents[first] = new[: len(new) - len(new.lstrip())]
        if spec is not None and spec.flow == "loop":
            depth += 1
    indent = ""
    for i in range(len(out), 0, -1):  # a comment of its own stands as deep as the statement after it
        line = out[i - 1].lstrip()
        if i in indents:
            indent = indents[i]
        elif line[:1] in (";", "#") and line:
            out[i - 1] = indent + line
        else:
            indent = ""
    while len(out) > 1 and not out[-1] and not out[-2]:
        out.pop()
    return out if not out[-1] else [*out, ""]


def format_text(text: str) -> str:
    """The text with one space between words, operands after ``, ``, instructions indented by their loops, and no blanks at the ends of lines.

    Statements that are wrong, and lists over several lines, keep their spaces. Formatting twice changes nothing more, and the program is the same.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    source = Source("", lines)

    def statements() -> Iterator[tuple[int, int, Statement]]:
        for tokens, first, last in scan(source):
            with suppress(SyntaxProblem):
                yield first, last, parse_statement(source, tokens, first, last)

    return ("\r\n" if "\r\n" in text else "\n").join(format_statements(lines, statements()))
