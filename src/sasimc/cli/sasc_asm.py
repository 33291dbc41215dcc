"""``sasc asm``, ``sasc disasm``, ``sasc lint``: programs as text and as bytes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sasimc.cli.common import EXIT_ERROR
from sasimc.isa.analysis.lint import lint
from sasimc.isa.binary.container import MAGIC, encoded_bytes
from sasimc.isa.errors import SasError
from sasimc.isa.files import load_assembly, load_program, save_program
from sasimc.isa.text.printer import format_program

__all__ = ["register"]

ProgramFile = Annotated[Path, typer.Argument(help="A program, text (.s) or binary (.bin).", show_default=False)]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="File to write.", show_default=False)]


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve()


def asm(program: ProgramFile, output: Output = None) -> None:
    """Assemble a text program into a binary one (with its weights file beside it)."""
    target = output or program.with_suffix(".bin")
    if _same(target, program):
        raise SasError(f"{program} would be overwritten", hint="give another name with -o")
    if target.suffix != ".bin":
        raise SasError(f"{target}: binary programs end in .bin", hint="sasc disasm writes text")
    loaded = load_program(program)
    save_program(loaded, target)
    typer.echo(f"{target}: {len(loaded.code)} instructions, {encoded_bytes(loaded)} bytes")


def disasm(program: ProgramFile, output: Output = None) -> None:
    """Print a binary program (or any program) as canonical text, or write it with its weights file."""
    loaded = load_program(program)
    if output is None:
        sys.stdout.write(format_program(loaded))
        return
    if output.suffix == ".bin":
        raise SasError(f"{output}: text programs do not end in .bin", hint="sasc asm writes binary programs")
    if _same(output, program):
        raise SasError(f"{program} would be overwritten", hint="give another name with -o")
    save_program(loaded, output)
    typer.echo(f"{output}: {len(loaded.code)} instructions")


def lint_command(
    program: ProgramFile,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings are errors.")] = False,
) -> None:
    """Check a program without running it. Exit code 2 when there are errors."""
    binary = _is_binary(program)
    if binary:
        loaded, text, initialised = load_program(program), "", set[str]()
    else:
        assembly = load_assembly(program)
        loaded, text = assembly.program, program.read_text(encoding="utf-8")
        initialised = {i.name for t in assembly.tests for i in t.initials if i.kind == "view"}
    found = lint(loaded, text, initialised)
    for d in found:
        typer.echo(str(d))
    errors = sum(d.severity == "error" for d in found)
    warnings = len(found) - errors
    typer.echo(
        f"{program}: {len(loaded.code)} instructions, {errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    )
    if errors or (strict and warnings):
        raise typer.Exit(EXIT_ERROR)


def _is_binary(path: Path) -> bool:
    try:
        with open(path, "rb") as f:
            return f.read(6) == MAGIC[:6]
    except OSError as exc:
        raise SasError(f"cannot read the program {path}: {exc.strerror or exc}") from None


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("asm")(asm)
    app.command("disasm")(disasm)
    app.command("lint")(lint_command)
