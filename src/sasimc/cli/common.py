"""What every command shares: command classes, running an application so that every foreseeable failure is a message and an exit code,
and writing answers."""

from __future__ import annotations

import errno
import importlib.util
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from sasimc.cli.help import Formatter, sections_of
from sasimc.isa.errors import DiagnosticsError, SasError, near

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "EXIT_ERROR", "EXIT_FAILED", "EXIT_INTERRUPTED", "Group", "command", "console", "invoke", "require_package", "require_suffix", "require_writable", "run_app", "write_json",
]  # fmt: skip

EXIT_FAILED: Final = 1
EXIT_ERROR: Final = 2
EXIT_INTERRUPTED: Final = 130

SETTINGS: Final = {"help_option_names": ["-h", "--help"], "show_default": True}


class _Context(click.Context):
    formatter_class = Formatter


class _ReaderGone(Exception):
    """Whoever read our output has gone. Click would answer a BrokenPipeError with exit code 1."""


class _Command(click.Command):
    context_class = _Context

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Arguments and options by section."""
        for title, rows in sections_of(self.get_params(ctx), ctx):
            with formatter.section(title):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderGone from None


def command(name: str, **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a command. Its docstring is the help text."""
    return click.command(name, cls=_Command, context_settings=dict(SETTINGS), **settings)


class Group(_Command, click.Group):
    """Commands by section, imported when they are used.

    ``where``: section -> command -> ``module:attribute``; other settings as for ``click.Group``.
    """

    def __init__(self, name: str, where: Mapping[str, Mapping[str, str]], **settings: Any) -> None:
        super().__init__(name, context_settings=dict(SETTINGS), **settings)
        self.where = where
        self._module_of = {name: place for part in where.values() for name, place in part.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._module_of)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._module_of:
            return None
        module, attribute = self._module_of[cmd_name].split(":")
        return getattr(importlib.import_module(module), attribute)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self._module_of and not args[0].startswith("-"):
            hint = near(args[0], tuple(self._module_of)) or f"commands: {', '.join(self._module_of)}"
            raise SasError(f"no command {ctx.command_path} {args[0]}", hint=hint)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in self.where.items():
            with formatter.section(title):
                found = ((name, self.get_command(ctx, name)) for name in names)
                formatter.write_dl([(name, c.get_short_help_str(200)) for name, c in found if c is not None])
        super().format_options(ctx, formatter)


def console() -> Console:
    """The console for progress and the lines of a session, which it breaks between words only. rich is imported here because `--help` does
    without it."""
    from rich.console import Console

    from sasimc.cli.tables import say

    class Lines(Console):
        def print(self, *objects: Any, soft_wrap: bool | None = None, **style: Any) -> None:
            if soft_wrap and len(objects) == 1 and isinstance(objects[0], str):
                with io.StringIO() as text:
                    say(objects[0], file=text)
                    objects = (text.getvalue().removesuffix("\n"),)
            super().print(*objects, soft_wrap=soft_wrap, **style)

    return Lines(width=None if sys.stdout.isatty() else 160)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write an answer as JSON, whole or not at all.

    Raises:
        SasError: the file cannot be written.
    """
    from sasimc.isa.files import write_atomically

    write_atomically(path, (json.dumps(data, indent=2) + "\n").encode())


def require_package(name: str, what: str, extra: str) -> None:
    """Refuse before the work begins what an optional package is missing for.

    Raises:
        SasError: the package is not installed.
    """
    if importlib.util.find_spec(name) is None:
        raise SasError(f"{what} needs {name}, which is not installed", hint=f"pip install 'sas-imc[{extra}]'")


def require_suffix(path: Path | None, *suffixes: str) -> None:
    """Refuse a file name that does not say what to write (None: not asked for).

    Raises:
        SasError: another suffix.
    """
    if path is not None and path.suffix.lower() not in suffixes:
        raise SasError(f"cannot tell the format of {path.name!r}", hint=f"end the name in {' or '.join(suffixes)}")


def require_writable(*paths: Path | None) -> None:
    """Refuse before a long run what could not be written after it (None: not asked for).

    Raises:
        SasError: a path that is a folder, or whose folder does not exist or may not be written to; a path that is given twice.
    """
    seen: set[Path] = set()
    for path in paths:
        if path is None:
            continue
        problem = ""
        if path.is_dir():
            problem = os.strerror(errno.EISDIR)
        elif not path.parent.is_dir():
            problem = os.strerror(errno.ENOTDIR if path.parent.exists() else errno.ENOENT)
        elif not os.access(path.parent, os.W_OK | os.X_OK):
            problem = os.strerror(errno.EACCES)
        if problem:
            raise SasError(
                f"cannot write {path}: {problem}", hint="give a file name in a folder that exists and may be written to"
            )
        if path.resolve() in seen:
            raise SasError(f"{path} would be written twice", hint="give every output its own name")
        seen.add(path.resolve())


def _os_error(exc: OSError) -> str:
    place = f"{exc.filename}: " if exc.filename else ""
    if exc.errno == errno.ENOSPC:
        return f"error: {place}no space left on the disk\n    hint: free some space and run again"
    return f"error: {place}{exc.strerror or exc}"


def _usage_error(exc: click.ClickException) -> str:
    message = exc.format_message()
    ctx = getattr(exc, "ctx", None)
    hint = f"\n    hint: {ctx.command_path} -h shows the options" if ctx is not None else ""
    return f"error: {message[:1].lower()}{message[1:].removesuffix('.')}{hint}"


def _complain(text: str) -> None:
    print(text, file=sys.stderr)


def invoke(app: click.Command, args: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run an application and return its exit code: 0, what a command chose, 2 for errors of user or system, 130 when interrupted.

    ``args``: the command line without the program's name (default: the process's own); ``prog``: the name in usage messages.
    """
    words = sys.argv[1:] if args is None else list(args)
    try:
        result = app.main(
            args=words, prog_name=prog or app.name, standalone_mode=False, obj=shlex.join([prog or app.name or "", *words])
        )
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except DiagnosticsError as exc:
        for d in exc.diagnostics:
            _complain(str(d))
        return EXIT_ERROR
    except SasError as exc:
        _complain(str(exc))
        return EXIT_ERROR
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted")
        return EXIT_INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as exc:
        _complain(exc.format_message())
        return EXIT_ERROR
    except click.ClickException as exc:
        _complain(_usage_error(exc))
        return EXIT_ERROR
    except (_ReaderGone, BrokenPipeError):
        # python must not complain about the closed output at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        _complain("error: not enough memory")
        return EXIT_ERROR
    except OSError as exc:
        _complain(_os_error(exc))
        return EXIT_ERROR


def run_app(app: click.Command) -> NoReturn:
    """Run an application on the process's command line and end the process with its exit code (see :func:`invoke`)."""
    sys.exit(invoke(app))
