"""Pygments lexer for SAS assembly: colours in documentation, notebooks and pagers. Its terminals are those of the grammar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from pygments.lexer import Lexer
from pygments.token import Comment, Error, Keyword, Literal, Name, Number, Punctuation, String, Whitespace, _TokenType

from sasimc.isa.text.syntax import tokens_of
from sasimc.lsp.document import is_register

__all__ = ["SasLexer"]

_OF: dict[str, _TokenType] = {
    "DIRECTIVE": Keyword, "ROWS": Literal, "NUMBER": Number, "TENSOR": String.Symbol, "STRING": String, "COMMENT": Comment.Single, "BAD": Error,
}  # fmt: skip


class SasLexer(Lexer):
    """SAS assembly (``sas-imc``): statements by line; lists may go over several lines."""

    name = "SAS assembly"
    aliases: ClassVar[Sequence[str]] = ("sas-imc",)
    filenames: ClassVar[Sequence[str]] = ("*.s",)
    url = ""

    def get_tokens_unprocessed(self, text: str) -> Iterator[tuple[int, _TokenType, str]]:
        """(offset, token type, text) of everything, blanks included."""
        at = depth = 0
        for line in text.splitlines(keepends=True):
            end = 0
            first = depth == 0
            for t in tokens_of(line.rstrip("\r\n")):
                start = t.column - 1
                if start > end:
                    yield at + end, Whitespace, line[end:start]
                kind = _OF.get(t.kind, Punctuation)
                if t.kind == "NAME":
                    kind = Name.Function if first else Name.Variable.Magic if is_register(t.text) else Name
                depth = max(0, depth + (t.kind == "LSQB") - (t.kind == "RSQB"))
                yield at + start, kind, t.text
                first = False
                end = start + len(t.text)
            if end < len(line):
                yield at + end, Whitespace, line[end:]
            at += len(line)
