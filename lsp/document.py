"""A text under the editor's hands: its statements, what they mention and where. Only lines that changed are parsed again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from lsprotocol import types

from sasimc.isa.errors import Diagnostic
from sasimc.isa.extend import find
from sasimc.isa.spec import GeomField, MatField, Reg, RowsField, TableField, ViewField
from sasimc.isa.text.directives import DIRECTIVES
from sasimc.isa.text.syntax import Source, Statement, SyntaxProblem, Value, parse_statement, scan

__all__ = ["Document", "Mention", "Piece", "is_register"]

_REGISTER = re.compile(r"r[0-9]{1,2}\Z")
_WINDOW = 256  # lines that are looked at for the end of a list before all are

_KINDS = ((ViewField, "view"), (MatField, "matrix"), (GeomField, "geometry"), (TableField, "table"))


@dataclass(frozen=True)
class Mention:
    """A name in a statement: its kind (``view``, ``register``, ``instruction``, ...), the name itself, its place (1-based; the line counts
    from the statement's first), and what is done: ``declare``, ``write``, ``read`` or ``change`` (read and written)."""

    kind: str
    name: str
    line: int
    column: int
    width: int
    role: str = "read"


@dataclass(frozen=True)
class Piece:
    """One statement as parsed; lines count from 1 within it. ``lines``: how many it takes."""

    statement: Statement | None
    problem: Diagnostic | None
    mentions: tuple[Mention, ...]
    lines: int


def is_register(text: str) -> bool:
    """Whether a text has the form of a register's name."""
    return bool(_REGISTER.match(text))


def _text_of(value: Value) -> str:
    """The name that a value stands for."""
    text = value.text[1:] if value.kind == "TENSOR" else value.text
    if value.kind in ("STRING", "TENSOR"):
        try:
            return str(json.loads(text))
        except json.JSONDecodeError:
            return text
    return text


def _operands(s: Statement) -> Iterator[Mention]:
    spec = find(s.name)
    yield Mention("instruction", s.name, s.line, s.column, len(s.name))
    if spec is None:
        return
    for f, v in zip(spec.fields, s.args, strict=False):
        kind = next((kind for cls, kind in _KINDS if isinstance(f, cls)), "")
        if kind and v.kind in ("NAME", "STRING"):
            access = f.access if isinstance(f, ViewField | MatField) else "r"
            role = {"r": "read", "w": "write"}.get(access, "change")
            yield Mention(kind, _text_of(v), v.line, v.column, len(v.text), role)
        elif isinstance(f, Reg) and is_register(v.text):
            yield Mention("register", v.text, v.line, v.column, len(v.text), "write" if f.write else "read")
        elif isinstance(f, RowsField) and (found := re.match(r"r[0-9]{1,2}(?![0-9])", v.text)):
            yield Mention("register", found[0], v.line, v.column, len(found[0]))


def _arguments(s: Statement) -> Iterator[Mention]:
    yield Mention("directive", s.name, s.line, s.column, len(s.name))
    directive = DIRECTIVES.get(s.name)
    if directive is None:
        return
    kind = directive.declares or directive.refers
    for i, v in enumerate(s.args):
        if i == 0 and kind and v.kind in ("NAME", "STRING") and (kind != "register" or is_register(v.text)):
            yield Mention(kind, _text_of(v), v.line, v.column, len(v.text), "declare" if directive.declares else "read")
        elif v.kind == "NAME" and is_register(v.text) and " rN" in directive.usage:
            yield Mention("register", v.text, v.line, v.column, len(v.text), "write")
    for key, (v, _, _) in s.keys.items():
        if v.kind == "TENSOR" or (key == "tensor" and v.kind == "STRING"):
            yield Mention("tensor", _text_of(v), v.line, v.column, len(v.text))


def _parse(lines: list[str]) -> Piece:
    source = Source("", lines)
    for tokens, first, last in scan(source):
        try:
            s = parse_statement(source, tokens, first, last)
        except SyntaxProblem as exc:
            return Piece(None, exc.diagnostic, (), last)
        found = _arguments(s) if s.name[0] == "." else _operands(s)
        return Piece(s, None, tuple(sorted(found, key=lambda m: (m.line, m.column))), last)
    return Piece(None, None, (), len(lines))


class Document:
    """A text, its pieces by first line, and positions as the client counts them.

    ``encoding`` is the unit of columns that client and server agreed on: ``utf-8``, ``utf-16`` or ``utf-32``.
    """

    def __init__(self, encoding: str = "utf-16") -> None:
        self.encoding = encoding
        self.lines: list[str] = []
        self.pieces: dict[int, Piece] = {}
        self._known: dict[str, Piece] = {}
        self._places: dict[tuple[str, str], list[tuple[int, Mention]]] | None = None

    def update(self, text: str) -> None:
        """Take over a new text; statements that stood in the old one are not parsed again."""
        lines = text.split("\n")
        known: dict[str, Piece] = {}
        pieces: dict[int, Piece] = {}
        i = 0
        while i < len(lines):
            line = lines[i]
            if "[" not in line:  # the rule: a statement is a line
                key = line
                piece = known.get(key) or self._known.get(key) or _parse([line])
            else:
                count = self._list_lines(lines, i)
                key = "\n".join(lines[i : i + count])
                piece = known.get(key) or self._known.get(key) or _parse(lines[i : i + count])
            known[key] = piece
            if piece.statement is not None or piece.problem is not None:
                pieces[i + 1] = piece
            i += max(1, piece.lines)
        self.lines, self.pieces, self._known, self._places = lines, pieces, known, None

    @staticmethod
    def _list_lines(lines: list[str], start: int) -> int:
        """Lines of the statement that begins at an index, a list in it perhaps open."""
        for window in (_WINDOW, len(lines)):
            part = lines[start : start + window]
            for _, first, last in scan(Source("", part)):
                if first > 1:
                    return 1
                if last < len(part) or start + len(part) == len(lines):
                    return last
                break
        return 1

    @property
    def text(self) -> str:
        """The whole text."""
        return "\n".join(self.lines)

    @property
    def places(self) -> dict[tuple[str, str], list[tuple[int, Mention]]]:
        """Every mention with its line, by kind and name, in the order of the text."""
        if self._places is None:
            self._places = {}
            for first, piece in self.pieces.items():
                for m in piece.mentions:
                    self._places.setdefault((m.kind, m.name), []).append((first + m.line - 1, m))
        return self._places

    def declared(self, kind: str) -> dict[str, tuple[int, Mention]]:
        """Names of a kind that are declared, with the line and mention."""
        out: dict[str, tuple[int, Mention]] = {}
        for (k, name), found in self.places.items():
            if k == kind:
                for place in found:
                    if place[1].role == "declare":
                        out.setdefault(name, place)
        return out

    def piece_at(self, line: int) -> tuple[int, Piece] | None:
        """The statement that a line (1-based) belongs to, with its first line."""
        for first in range(line, max(0, line - _WINDOW), -1):
            piece = self.pieces.get(first)
            if piece is not None:
                return (first, piece) if line < first + max(1, piece.lines) else None
        return None

    def mention_at(self, line: int, column: int) -> tuple[int, Mention] | None:
        """The mention under a place (1-based), with its line."""
        found = self.piece_at(line)
        if found is None:
            return None
        first, piece = found
        for m in piece.mentions:
            if first + m.line - 1 == line and m.column <= column <= m.column + m.width:
                return line, m
        return None

    # Positions: lines and columns from 1, in code points, on our side; from 0, in the client's units, on the other.

    def position(self, line: int, column: int) -> types.Position:
        """A place as the client counts."""
        text = self.lines[line - 1] if 0 < line <= len(self.lines) else ""
        before = text[: column - 1]
        units = len(before)
        if not before.isascii() and self.encoding != "utf-32":
            units = len(before.encode("utf-16-le")) // 2 if self.encoding == "utf-16" else len(before.encode())
        return types.Position(line - 1, units)

    def range(self, line: int, column: int, width: int) -> types.Range:
        """``width`` characters of a line."""
        return types.Range(self.position(line, column), self.position(line, column + width))

    def place(self, position: types.Position) -> tuple[int, int]:
        """Line and column (1-based, code points) of the client's position."""
        text = self.lines[position.line] if position.line < len(self.lines) else ""
        if text.isascii() or self.encoding == "utf-32":
            return position.line + 1, min(position.character, len(text)) + 1
        code, unit = ("utf-16-le", 2) if self.encoding == "utf-16" else ("utf-8", 1)
        before = text.encode(code)[: position.character * unit].decode(code, "ignore")
        return position.line + 1, len(before) + 1
