"""What assembler, linter and estimate say about a text, for the editor: computed behind its back, so it may be a moment late."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sasimc.isa.analysis.estimate import Estimate, estimate
from sasimc.isa.analysis.lint import lint
from sasimc.isa.errors import Diagnostic, SasError, Span
from sasimc.isa.files import weights_loader
from sasimc.isa.program import Program
from sasimc.isa.text.assembler import diagnose

__all__ = ["Facts", "Spent", "gather"]

MAX_STEPS = 2_000_000
"""Executed instructions after which an entry is not priced."""


@dataclass(frozen=True)
class Spent:
    """What a line costs: executions and cycles (not shortened by overlap) in one run of an entry."""

    entry: str
    times: int
    cycles: int


@dataclass(frozen=True)
class Facts:
    """``program`` is there when the text has no error; estimates by entry and spent cycles by source line belong to it."""

    diagnostics: tuple[Diagnostic, ...] = ()
    program: Program | None = None
    estimates: dict[str, Estimate] = field(default_factory=dict)
    lines: dict[int, list[Spent]] = field(default_factory=dict)


def _batch(program: Program) -> int:
    text = program.meta.get("batch", "1")
    return int(text) if text.isdigit() else 1


def gather(text: str, path: Path) -> Facts:
    """Assemble, lint and price a text that stands (or will stand) at ``path``; never raises for what is in the text."""
    loader = weights_loader(path.parent, str(path))
    missing: tuple[Diagnostic, ...] = ()
    try:
        assembly, errors = diagnose(text, str(path), loader)
    except SasError as exc:  # the weights file: the text itself may be right
        assembly, errors = diagnose(text, str(path))
        number = next((i for i, line in enumerate(text.split("\n"), 1) if line.lstrip().startswith(".weights")), 1)
        d = exc.diagnostic
        missing = (Diagnostic(d.message, Span(str(path), number, 1, width=len(text.split("\n")[number - 1]) or 1), hint=d.hint),)
    if errors or missing:
        return Facts((*missing, *errors))
    program = assembly.program
    findings = tuple(lint(program, text, assembly.initialised))
    if any(d.severity == "error" for d in findings):
        return Facts(findings)
    estimates: dict[str, Estimate] = {}
    lines: dict[int, list[Spent]] = {}
    for entry in program.entries:
        try:
            found = estimate(program, entry, {"batch": _batch(program)}, limit=MAX_STEPS)
        except SasError:  # too long to be followed while one types
            continue
        estimates[entry] = found
        for index, (times, cycles) in found.instructions.items():
            lines.setdefault(program.code[index].line, []).append(Spent(entry, times, cycles))
    return Facts(findings, program, estimates, lines)
