"""What both commands share: the console, JSON reports, and running an application so that every foreseeable failure is a clean message and an
exit code."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import typer
from rich.console import Console

from sasimc.isa.errors import DiagnosticsError, SasError
from sasimc.isa.files import write_atomically

__all__ = ["EXIT_ERROR", "EXIT_INTERRUPTED", "console", "invoke", "require_writable", "run_app", "write_json"]

EXIT_ERROR: Final = 2
EXIT_INTERRUPTED: Final = 130

console = Console(width=None if sys.stdout.isatty() else 160)

# the base of usage errors; typer exports it under no name of its own, and where it comes from depends on typer's version
_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a report, atomically.

    Raises:
        SasError: the file cannot be written.
    """
    write_atomically(path, (json.dumps(data, indent=2) + "\n").encode())


def require_writable(*paths: Path | None) -> None:
    """Refuse before a long run what could not be written after it (None: not asked for).

    Raises:
        SasError: a path that is a folder, or whose folder does not exist or may not be written to.
    """
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


def _os_error(exc: OSError) -> str:
    place = f"{exc.filename}: " if exc.filename else ""
    if exc.errno == errno.ENOSPC:
        return f"error: {place}no space left on the disk\n    hint: free some space and run again"
    return f"error: {place}{exc.strerror or exc}"


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def invoke(app: typer.Typer, args: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run an application and return its exit code: 0, what a command chose, 2 for errors of user or system, 130 when interrupted.

    ``args``: the command line without the program's name (default: the process's own); ``prog``: the name in usage messages.
    """
    try:
        command = typer.main.get_command(app)
        result = command.main(args=None if args is None else list(args), prog_name=prog, standalone_mode=False)
        sys.stdout.flush()
        if result == EXIT_INTERRUPTED:  # some versions of typer answer an interrupt with this code
            _say("interrupted")
        return result if isinstance(result, int) else 0
    except DiagnosticsError as exc:
        for d in exc.diagnostics:
            _say(str(d))
        return EXIT_ERROR
    except SasError as exc:
        _say(str(exc))
        return EXIT_ERROR
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        return EXIT_INTERRUPTED
    except typer.Exit as exc:
        return int(exc.exit_code)
    except _UsageError as exc:
        exc.show()
        return EXIT_ERROR
    except BrokenPipeError:
        # whoever read our output has gone; python must not complain about it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        _say("error: not enough memory")
        return EXIT_ERROR
    except OSError as exc:
        _say(_os_error(exc))
        return EXIT_ERROR


def run_app(app: typer.Typer, args: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Run an application and end the process with its exit code (see :func:`invoke`)."""
    sys.exit(invoke(app, args, prog))
