"""The help pages: arguments and options by section, and text that never breaks a name at a hyphen."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import click

__all__ = ["Formatter", "sections_of"]


class Formatter(click.HelpFormatter):
    """Click's help, wrapped between words only: an option or a file name stays whole."""

    def write_text(self, text: str) -> None:
        for number, paragraph in enumerate(text.split("\n\n")):
            if number:
                self.write_paragraph()
            indent = " " * self.current_indent
            lines = paragraph.splitlines()
            if lines and lines[0].strip() == "\b":
                self.write("".join(f"{indent}{line}\n" for line in lines[1:]))
            else:
                self.write(_wrapped(" ".join(paragraph.split()), self.width, indent) + "\n")

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 28, col_spacing: int = 2) -> None:
        rows = list(rows)
        indent = " " * self.current_indent
        first = min(max((len(name) for name, _ in rows), default=0), col_max) + col_spacing
        hang = indent + " " * first
        for name, text in rows:
            if len(name) + col_spacing > first:
                self.write(f"{indent}{name}\n")
                head = hang
            else:
                head = indent + name.ljust(first)
            self.write((_wrapped(text, self.width, head, hang=hang) if text else head.rstrip()) + "\n")


def _wrapped(text: str, width: int, head: str, hang: str | None = None) -> str:
    return textwrap.fill(
        text, max(width, len(head) + 24), initial_indent=head, subsequent_indent=head if hang is None else hang,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def sections_of(params: Sequence[click.Parameter], ctx: click.Context) -> list[tuple[str, list[tuple[str, str]]]]:
    """(title, (name, help) of each parameter) in the order in which the sections first appear; what helps everywhere comes last."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for param in params:
        if (record := param.get_help_record(ctx)) is not None:
            sections.setdefault(getattr(param, "section", "Other"), []).append(record)
    rest = sections.pop("Other", [])
    return [*sections.items(), *([("Other", rest)] if rest else [])]
