"""The reference of the commands as Markdown, from the applications: every command, argument and option is written down once, in its declaration."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from sasimc.cli import sasc, sasrun

__all__ = ["manual"]

_INTRODUCTION = """# Commands

This page is generated from the commands' declarations; `COMMAND --help` prints the same. Exit codes: 0 done, 1 a check or comparison
failed, 2 wrong usage or input (one message with its place and a hint), 130 interrupted.
"""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("[", "\\[")


def _table(title: str, parameters: list[Any], context: typer.Context) -> Iterator[str]:
    records = [r for p in parameters if not getattr(p, "hidden", False) if (r := p.get_help_record(context))]
    if not records:
        return
    yield from (f"| {title} | meaning |", "|---|---|")
    for names, meaning in records:
        yield f"| `{' '.join(names.split())}` | {_cell(meaning)} |"
    yield ""


def _command(name: str, command: Any, level: int) -> Iterator[str]:
    yield f"{'#' * level} {name}"
    yield ""
    if command.help:
        yield inspect.cleandoc(command.help.replace("\b", ""))
        yield ""
    subcommands = getattr(command, "commands", None)
    if subcommands is not None:
        for sub in subcommands.values():
            if not sub.hidden:
                yield from _command(f"{name} {sub.name}", sub, min(level + 1, 4))
        return
    context = typer.Context(command, info_name=name)
    yield from ("```text", " ".join([name, *command.collect_usage_pieces(context)]), "```", "")
    yield from _table("argument", [p for p in command.params if p.param_type_name == "argument"], context)
    yield from _table("option", [p for p in command.params if p.param_type_name != "argument"], context)


def manual() -> str:
    """The whole page."""
    lines = [_INTRODUCTION]
    for name, app in (("sasc", sasc.app), ("sasrun", sasrun.app)):
        lines += _command(name, typer.main.get_command(app), 2)
    return "\n".join(lines) + "\n"
