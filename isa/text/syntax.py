"""Text -> statements: the concrete syntax of SAS assembly, defined by ``grammar.lark``.

Statements are found line by line and parsed one by one. Well-formed ones take a short hand-written path over the grammar's own
terminals (a training program has ten thousand of them); anything it does not accept goes to the Lark parser, whose verdict counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

from lark import Lark, Token, Tree, UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken

from sasimc.isa.errors import Diagnostic, Span

__all__ = ["Source", "Statement", "SyntaxProblem", "Value", "parse_statement", "scan", "tokens_of"]

_NAMES = {
    "NAME": "a name", "NUMBER": "a number", "ROWS": "a row range such as r5+2:8", "STRING": "a string", "TENSOR": 'a tensor reference @"name"',
    "DIRECTIVE": "a directive", "EQUAL": "'='", "COMMA": "','", "LSQB": "'['", "RSQB": "']'", "STAR": "'*'", "$END": "the end of the line",
}  # fmt: skip
_SYMBOLS = {"=": "EQUAL", ",": "COMMA", "[": "LSQB", "]": "RSQB", "*": "STAR"}
_TERMINALS = ("ROWS", "NUMBER", "TENSOR", "STRING", "DIRECTIVE", "NAME", "COMMENT")


class Value(NamedTuple):
    """One argument: ``kind`` is NAME, NUMBER, ROWS, STRING, TENSOR (texts as written) or LIST (a tuple of (number text, repeat text))."""

    kind: str
    text: str
    items: tuple[tuple[str, str], ...]
    line: int
    column: int


@dataclass(frozen=True)
class Statement:
    """One directive (``name`` starts with a dot) or instruction with its arguments in order; ``keys`` holds ``key=value`` arguments as
    (value, line and column of the key)."""

    name: str
    args: tuple[Value, ...]
    keys: dict[str, tuple[Value, int, int]]
    line: int
    column: int


@dataclass(frozen=True)
class Source:
    """A text and its lines, for spans."""

    filename: str
    lines: list[str] = field(repr=False)

    def span(self, line: int, column: int, width: int = 1) -> Span:
        """The span at a 1-based place."""
        text = self.lines[line - 1].rstrip("\r") if 0 < line <= len(self.lines) else ""
        return Span(self.filename, line, column, text, width)


class SyntaxProblem(Exception):
    """A statement that is not in the language: a diagnostic with its span."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


class _Token(NamedTuple):
    kind: str
    text: str
    line: int
    column: int


@lru_cache(maxsize=1)
def _parser() -> Lark:
    text = resources.files("sasimc.isa.text").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(text, parser="lalr", lexer="basic", propagate_positions=True)


@lru_cache(maxsize=1)
def _scanner() -> re.Pattern[str]:
    """One regular expression of all terminals, read from the grammar."""
    lark = _parser()
    parts = [f"(?P<{name}>{lark.get_terminal(name).pattern.to_regexp()})" for name in _TERMINALS]
    return re.compile("|".join([*parts, r"(?P<SYMBOL>[=,\[\]*])", r"(?P<SPACE>[ \t\r\n]+)", r"(?P<BAD>.)"]))


def tokens_of(text: str, number: int = 1) -> Iterator[_Token]:
    """Tokens of one line, comments included, blanks left out."""
    for m in _scanner().finditer(text):
        kind, word = m.lastgroup, m.group()
        if kind != "SPACE":
            yield _Token((_SYMBOLS[word] if kind == "SYMBOL" else kind) or "BAD", word, number, m.start() + 1)


def scan(source: Source) -> Iterator[tuple[list[_Token], int, int]]:
    """Tokens of each statement with its first and last line (1-based); empty lines are left out."""
    tokens: list[_Token] = []
    depth = first = 0
    for number, text in enumerate(source.lines, 1):
        if depth and text.lstrip().startswith("."):  # an unclosed list must not swallow the rest of the file
            yield tokens, first, number - 1
            tokens, depth = [], 0
        if not tokens:
            first = number
        for token in tokens_of(text, number):
            if token.kind == "COMMENT":
                continue
            depth += (token.kind == "LSQB") - (token.kind == "RSQB")
            tokens.append(token)
        if tokens and depth <= 0:
            yield tokens, first, number
            tokens, depth = [], 0
    if tokens:
        yield tokens, first, len(source.lines)


def parse_statement(source: Source, tokens: list[_Token], first: int, last: int) -> Statement:
    """The statement of these tokens.

    Raises:
        SyntaxProblem: it is not in the language; says what was expected and where.
    """
    fast = _fast(tokens)
    return fast if fast is not None else parse_slowly(source, first, last)


def _fast(tokens: list[_Token]) -> Statement | None:
    """Hand-written recogniser of the same grammar; ``None`` when unsure."""
    head = tokens[0]
    args: list[Value] = []
    keys: dict[str, tuple[Value, int, int]] = {}
    n = len(tokens)
    if head.kind == "NAME":
        for i in range(1, n, 2):
            kind, text, line, column = tokens[i]
            if kind not in ("NAME", "NUMBER", "ROWS", "STRING") or (i + 1 < n and tokens[i + 1].kind != "COMMA"):
                return None
            args.append(Value(kind, text, (), line, column))
        if n > 1 and n % 2:
            return None
        return Statement(head.text, tuple(args), keys, head.line, head.column)
    if head.kind != "DIRECTIVE":
        return None
    i = 1
    while i < n:
        key = None
        if i + 1 < n and tokens[i + 1].kind == "EQUAL":
            key = tokens[i]
            i += 2
            if key.kind != "NAME" or key.text in keys or i >= n:
                return None
        kind, text, line, column = tokens[i]
        if kind in ("NAME", "NUMBER", "STRING", "TENSOR", "ROWS"):
            value = Value(kind, text, (), line, column)
            i += 1
        elif kind == "LSQB":
            found = _fast_list(tokens, i)
            if found is None:
                return None
            value, i = found
        else:
            return None
        if key is None:
            args.append(value)
        else:
            keys[key.text] = (value, key.line, key.column)
    return Statement(head.text, tuple(args), keys, head.line, head.column)


def _fast_list(tokens: list[_Token], start: int) -> tuple[Value, int] | None:
    items: list[tuple[str, str]] = []
    i, n = start + 1, len(tokens)
    if i < n and tokens[i].kind == "RSQB":
        return Value("LIST", "[", (), tokens[start].line, tokens[start].column), i + 1
    while i + 1 < n:
        if tokens[i].kind != "NUMBER":
            return None
        number, repeat = tokens[i].text, ""
        i += 1
        if tokens[i].kind == "STAR":
            if i + 2 >= n or tokens[i + 1].kind != "NUMBER":
                return None
            repeat = tokens[i + 1].text
            i += 2
        items.append((number, repeat))
        if tokens[i].kind == "RSQB":
            return Value("LIST", "[", tuple(items), tokens[start].line, tokens[start].column), i + 1
        if tokens[i].kind != "COMMA":
            return None
        i += 1
    return None


def parse_slowly(source: Source, first: int, last: int) -> Statement:
    """The same by the Lark grammar; the reference for the fast path and the origin of all syntax errors."""
    text = "\n".join(source.lines[first - 1 : last])
    try:
        tree = _parser().parse(text)
    except UnexpectedInput as exc:
        raise SyntaxProblem(_explain(source, exc, text, first)) from None
    statement = tree.children[0]
    assert isinstance(statement, Tree)
    head, *rest = statement.children
    assert isinstance(head, Token)
    args: list[Value] = []
    keys: dict[str, tuple[Value, int, int]] = {}
    for item in rest:
        assert isinstance(item, Tree)
        if item.data == "keyword":
            name, value = item.children
            assert isinstance(name, Token)
            assert isinstance(value, Tree)
            line, column = _at(name, first)
            if str(name) in keys:
                raise SyntaxProblem(Diagnostic(f"{name} is given twice", source.span(line, column, len(name))))
            keys[str(name)] = (_value(value, first), line, column)
        else:
            inner = item.children[0] if item.data == "positional" else item
            assert isinstance(inner, Tree)
            args.append(_value(inner, first))
    line, column = _at(head, first)
    return Statement(str(head), tuple(args), keys, line, column)


def _at(token: Token, first: int) -> tuple[int, int]:
    return first - 1 + (token.line or 1), token.column or 1


def _value(tree: Tree[Token], first: int) -> Value:
    child = tree.children[0]
    if isinstance(child, Token):
        return Value(child.type, str(child), (), *_at(child, first))
    items = []
    for element in child.children:
        assert isinstance(element, Tree)
        parts = [str(c) for c in element.children]
        items.append((parts[0], parts[1] if len(parts) > 1 else ""))
    return Value("LIST", "[", tuple(items), first - 1 + tree.meta.line, tree.meta.column)


def _explain(source: Source, exc: UnexpectedInput, text: str, first: int) -> Diagnostic:
    """A syntax error in words: what stands there, what was expected."""
    if isinstance(exc, UnexpectedCharacters):
        bad = text[exc.pos_in_stream] if exc.pos_in_stream is not None else "?"
        span = source.span(first - 1 + exc.line, exc.column)
        if bad == '"':
            return Diagnostic("this string is not closed", span, hint='end it with " on the same line')
        if bad == ".":
            return Diagnostic("a directive is a dot and a name", span)
        return Diagnostic(f"unexpected character {bad!r}", span)
    accepted: set[str] = set(getattr(exc, "accepts", None) or getattr(exc, "expected", ()))
    expected = sorted(_NAMES.get(t, t) for t in accepted)
    said = (
        f"expected {', '.join(expected[:-1]) + ' or ' if len(expected) > 1 else ''}{expected[-1]}"
        if expected
        else "unexpected text"
    )
    if isinstance(exc, UnexpectedEOF) or (isinstance(exc, UnexpectedToken) and exc.token.type == "$END"):
        rows = text.split("\n")
        code = re.split(r"[;#]", rows[-1])[0].rstrip()
        return Diagnostic(f"{said}, but the statement ends", source.span(first + len(rows) - 1, len(code) + 1))
    assert isinstance(exc, UnexpectedToken)
    line, column = _at(exc.token, first)
    return Diagnostic(f"{said}, found {str(exc.token)!r}", source.span(line, column, max(1, len(exc.token))))
