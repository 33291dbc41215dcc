"""User-facing errors and source spans.

Every diagnostic of the toolchain is a :class:`SasError` (or a list of :class:`Diagnostic` inside one): it says what is wrong, where,
and what to do. The command line prints it without a traceback and exits with status 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Diagnostic", "DiagnosticsError", "SasError", "Span", "Trap", "near", "suggestions"]


@dataclass(frozen=True)
class Span:
    """A place in a text file: 1-based line and column, and the line itself."""

    file: str
    line: int
    column: int
    text: str = ""
    width: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def caret(self) -> str:
        """The source line with a caret under the span, or an empty string when the line is unknown."""
        if not self.text:
            return ""
        pad = "".join("\t" if c == "\t" else " " for c in self.text[: self.column - 1])
        return f"    {self.text}\n    {pad}{'^' * max(1, min(self.width, len(self.text) - self.column + 1))}"


@dataclass(frozen=True)
class Diagnostic:
    """One finding: severity (``error`` or ``warning``), message, where (a span or an ONNX node / instruction name), and what to do."""

    message: str
    span: Span | None = None
    where: str = ""
    hint: str = ""
    severity: str = "error"

    def __str__(self) -> str:
        place = f"{self.span}: " if self.span else (f"{self.where}: " if self.where else "")
        lines = [f"{place}{self.severity}: {self.message}"]
        if self.span and (caret := self.span.caret()):
            lines.append(caret)
        if self.hint:
            lines.append(f"    hint: {self.hint}")
        return "\n".join(lines)


class SasError(Exception):
    """An error the user can act on. ``str()`` is the whole text to print."""

    def __init__(self, message: str, *, span: Span | None = None, where: str = "", hint: str = "") -> None:
        self.diagnostic = Diagnostic(message, span, where, hint)
        super().__init__(str(self.diagnostic))


class DiagnosticsError(SasError):
    """Several findings of one run (an assembler reports all it can find)."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        if not diagnostics:
            raise ValueError("DiagnosticsError needs at least one diagnostic")
        super().__init__(diagnostics[0].message)
        self.diagnostics = tuple(diagnostics)
        self.diagnostic = diagnostics[0]
        self.args = ("\n".join(str(d) for d in diagnostics),)


class Trap(SasError):
    """The machine stopped an instruction: out-of-range access, uninitialised rows, accumulator overflow, loop depth, ...

    ``kind`` is the class of the trap (a fixed phrase), ``index`` the instruction's index in the code, ``text`` the instruction, ``line`` its line
    in the source (0: none), ``node`` the ONNX node it works for (empty: none).
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        index: int,
        text: str = "",
        line: int = 0,
        node: str = "",
        source: str = "",
        hint: str = "",
    ) -> None:
        self.kind, self.detail, self.index, self.text, self.line, self.node = kind, detail, index, text, line, node
        places = [f"instruction {index}" + (f" `{text}`" if text else "")]
        if node:
            places.append(f"node {node}")
        place = f"{source or '<program>'}:{line}" if line else (source or "<program>")
        super().__init__(f"trap, {kind}: {detail} ({', '.join(places)})", where=place, hint=hint)


_SUGGEST = "did you mean "


def near(word: str, known: Sequence[str]) -> str:
    """A "did you mean" hint for ``word``, or an empty string when nothing known is close."""
    import difflib

    found = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    return f"{_SUGGEST}{', '.join(repr(f) for f in found)}?" if found else ""


def suggestions(hint: str) -> list[str]:
    """The words that a hint of :func:`near` proposes, best first; none for another hint."""
    import ast

    if not (hint.startswith(_SUGGEST) and hint.endswith("?")):
        return []
    return list(ast.literal_eval(f"[{hint[len(_SUGGEST) : -1]}]"))
