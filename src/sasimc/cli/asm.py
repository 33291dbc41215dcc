"""``sasc asm``, ``sasc disasm``, ``sasc lint``, ``sasc fmt``: programs as text and as bytes."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sasimc.cli import options
from sasimc.cli.common import EXIT_ERROR, command, require_writable, write_json
from sasimc.cli.options import File, argument, json_file, option
from sasimc.cli.tables import say
from sasimc.isa.errors import SasError

if TYPE_CHECKING:
    from sasimc.isa.errors import Diagnostic

__all__ = ["asm", "disasm", "fmt", "lint"]

_program = argument("program", "Program, text (.s) or binary (.bin).", type=File())


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve()


@command("asm")
@_program
@option("-o", "--output", section="Output", type=File(), show_default="the program's name, ending in .bin", help="File to write.")
@options.isa
def asm(program: Path, output: Path | None) -> None:
    """Assemble a text program into a binary one."""
    from sasimc.isa.binary.container import encoded_bytes
    from sasimc.isa.files import load_program, save_program

    target = output or program.with_suffix(".bin")
    if _same(target, program):
        raise SasError(f"{program} would be overwritten", hint="give another name with -o")
    if target.suffix != ".bin":
        raise SasError(f"{target}: binary programs end in .bin", hint="sasc disasm writes text")
    require_writable(target)
    loaded = load_program(program)
    save_program(loaded, target)
    say(f"{target}: {len(loaded.code)} instructions, {encoded_bytes(loaded)} bytes")


@command("disasm")
@_program
@option("-o", "--output", section="Output", type=File(), show_default="standard output", help="File to write.")
@options.isa
def disasm(program: Path, output: Path | None) -> None:
    """Print a program as canonical text, or write it with its weights file."""
    from sasimc.isa.files import load_program, save_program
    from sasimc.isa.text.printer import format_program

    if output is not None and output.suffix == ".bin":
        raise SasError(f"{output}: text programs do not end in .bin", hint="sasc asm writes binary programs")
    if output is not None and _same(output, program):
        raise SasError(f"{program} would be overwritten", hint="give another name with -o")
    require_writable(output)
    loaded = load_program(program)
    if output is None:
        sys.stdout.write(format_program(loaded))
        return
    save_program(loaded, output)
    say(f"{output}: {len(loaded.code)} instructions")


@command("lint")
@_program
@option("--strict", is_flag=True, help="Treat warnings as errors.")
@json_file("the findings")
@options.isa
def lint(program: Path, strict: bool, json_file: Path | None) -> int:
    """Check a program without running it. The exit code is 2 when there are errors."""
    from sasimc.isa.analysis.lint import lint as findings_of
    from sasimc.isa.files import load_assembly, load_program

    require_writable(json_file)
    if _is_binary(program):
        loaded, text, initialised = load_program(program), "", set[str]()
    else:
        assembly = load_assembly(program)
        loaded, text = assembly.program, program.read_text(encoding="utf-8")
        initialised = assembly.initialised
    found = findings_of(loaded, text, initialised)
    for d in found:
        print(d)
    errors = sum(d.severity == "error" for d in found)
    warnings = len(found) - errors
    say(
        f"{program}: {len(loaded.code)} instructions, {errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    )
    if json_file:
        write_json(json_file, {"program": str(program), "instructions": len(loaded.code), "findings": [_row(d) for d in found]})
    return EXIT_ERROR if errors or (strict and warnings) else 0


def _row(d: Diagnostic) -> dict[str, Any]:
    span = asdict(d.span) if d.span else {}
    return {
        "severity": d.severity, "message": d.message, "hint": d.hint, "where": d.where, "line": span.get("line"), "column": span.get("column"),
    }  # fmt: skip


def _is_binary(path: Path) -> bool:
    from sasimc.isa.binary.container import MAGIC

    try:
        with open(path, "rb") as f:
            return f.read(6) == MAGIC[:6]
    except OSError as exc:
        raise SasError(f"cannot read the program {path}: {exc.strerror or exc}") from None


@command("fmt")
@argument("programs", "Programs in text form (.s).", type=File(), nargs=-1, required=True)
@option("--check", is_flag=True, help="Write nothing; the exit code is 1 when a file is not in canonical form.")
def fmt(programs: tuple[Path, ...], check: bool) -> int:
    """Bring programs to canonical form: spaces, commas, indentation of loops. Comments stay."""
    from sasimc.isa.files import read_text, write_atomically
    from sasimc.isa.text.format import format_text

    changed = 0
    for path in programs:
        text = read_text(path)
        new = format_text(text)
        if new == text:
            continue
        changed += 1
        if not check:
            write_atomically(path, new.encode())
        say(f"{path}: {'not in canonical form' if check else 'formatted'}")
    return int(check and changed > 0)
