"""The reference of the commands as Markdown, from the applications: every command, argument and option is written down once, in its declaration."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from sasimc.cli import sasc, sasdbg, sasrun
from sasimc.cli.common import Group
from sasimc.cli.help import sections_of

__all__ = ["manual"]

_INTRODUCTION = """# Commands

This page is generated from the commands' declarations; `COMMAND --help` prints the same. Exit codes: 0 done, 1 a check or comparison
failed, 2 wrong usage or input (one message with its place and a hint), 130 interrupted.
"""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("[", "\\[")


def _command(name: str, command: click.Command, level: int) -> Iterator[str]:
    yield f"{'#' * level} {name}"
    yield ""
    context = click.Context(command, info_name=name, **command.context_settings)
    if command.help:
        yield inspect.cleandoc(command.help.replace("\b", ""))
        yield ""
    if not isinstance(command, Group) or command.invoke_without_command:
        yield from ("```text", " ".join([name, *command.collect_usage_pieces(context)]), "```", "")
        for title, records in sections_of(command.params, context):
            yield from (f"| {title} | |", "|---|---|")
            yield from (f"| `{' '.join(names.split())}` | {_cell(meaning)} |" for names, meaning in records)
            yield ""
    if isinstance(command, Group):
        for sub in command.list_commands(context):
            found = command.get_command(context, sub)
            assert found is not None
            yield from _command(f"{name} {sub}", found, min(level + 1, 4))


def manual() -> str:
    """The whole page."""
    lines = [_INTRODUCTION]
    for name, app in (("sasc", sasc.app), ("sasrun", sasrun.app), ("sasdbg", sasdbg.app)):
        lines += _command(name, app, 2)
    return "\n".join(lines) + "\n"
