"""The linter: everything that can be said about a program without running it.

Errors are certain; what merely may go wrong is a warning. Each finding knows its instruction, and its source line when the program came from
text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from sasimc.isa.analysis.check import check_program
from sasimc.isa.analysis.flow import FOLLOWED, Flow
from sasimc.isa.errors import Diagnostic, Span
from sasimc.isa.machine import Machine, activation_schedule
from sasimc.isa.objects import Matrix
from sasimc.isa.program import Program
from sasimc.isa.spec import MatField
from sasimc.isa.text.printer import format_instruction
from sasimc.isa.walk import loop_ends

__all__ = ["lint"]


@dataclass
class _Findings:
    """Collects findings, each once, with their places."""

    program: Program
    lines: list[str]
    found: list[tuple[int, Diagnostic]]
    seen: set[tuple[int, str]]

    def span(self, line: int) -> Span | None:
        if not line:
            return None
        text = self.lines[line - 1].rstrip("\r") if line <= len(self.lines) else ""
        column = len(text) - len(text.lstrip()) + 1
        return Span(self.program.source, line, column, text, max(1, len(text.split(";")[0].rstrip()) - column + 1))

    def instruction(self, index: int, severity: str, message: str, hint: str = "") -> None:
        """A finding about an instruction."""
        kind = message.split(" row")[0][:40]
        if (index, kind) in self.seen:
            return
        self.seen.add((index, kind))
        instr = self.program.code[index]
        node = f" [{instr.origin.node}]" if instr.origin.node else ""
        if instr.line:
            d = Diagnostic(message + node, self.span(instr.line), hint=hint, severity=severity)
        else:
            d = Diagnostic(
                message, where=f"instruction {index} ({format_instruction(instr)}){node}", hint=hint, severity=severity
            )
        self.found.append((index, d))

    def descriptor(self, kind: str, name: str, severity: str, message: str, hint: str = "") -> None:
        """A finding about a declaration."""
        d = Diagnostic(
            message, self.span(self.program.lines.get((kind, name), 0)), where=f"{kind} {name}", hint=hint, severity=severity
        )
        self.found.append((-1, d))


def lint(program: Program, text: str = "", initialised: Collection[str] = ()) -> list[Diagnostic]:
    """All findings about a program, declarations first, then in the order of the instructions.

    Args:
        program: what to check.
        text: its source, for the lines in the messages.
        initialised: views that hold something before an entry starts (the ``.init`` lines of assembly tests).
    """
    complete = not program.weights_file or any(n not in program.inline for n in program.tensors)
    broken = check_program(program, complete=complete)
    if broken:
        return broken
    out = _Findings(program, text.split("\n"), [], set())
    _placement(program, out)
    _activation(program, out)
    _reach(program, out)
    _static(program, out)
    if far := [v for v in program.views.values() if v.end > FOLLOWED.get(v.space, v.end)]:
        for v in far:
            out.descriptor("view", v.name, "warning", f"ends at {v.end}, farther than memory is followed; no entry was run", "")
        return [d for _, d in out.found]
    visited: set[int] = set()
    for entry in program.entries:
        flow = Flow(program, out.instruction, initialised)
        flow.run(entry)
        visited |= flow.visited
    _unreachable(program, out, visited)
    return [d for _, d in sorted(out.found, key=lambda item: item[0])]


def _placement(program: Program, out: _Findings) -> None:
    """No two matrices in one cell; no sub-array both compute and transposable; the number of transposable ones."""
    machine = program.machine
    owner = np.full((machine.array.rows, machine.weights_per_row), -1, np.int32)
    by_subarray: dict[int, list[tuple[int, Matrix]]] = {}
    matrices = list(program.matrices.values())
    empty = np.array([m.kind == "scratch" for m in matrices])
    for i, m in enumerate(matrices):
        for t in m.tiles:
            by_subarray.setdefault(t.subarray, []).append((i, m))
    for subarray, here in sorted(by_subarray.items()):
        kinds = {m.array for _, m in here}
        if len(kinds) > 1:
            names = [next(m.name for _, m in here if m.array == k) for k in sorted(kinds)]
            message = f"sub-array {subarray} is compute for {names[0]} and transposable for {names[1]}"
            out.descriptor("mat", names[1], "error", message, "a sub-array is of one kind")
        owner[...] = -1
        clashes: set[tuple[int, int]] = set()
        for i, m in dict(here).items():
            for t in m.tiles:
                if t.subarray != subarray:
                    continue
                block = owner[t.row : t.row + t.rows, t.col : t.col + t.cols]
                taken = block[block >= 0]
                if m.kind == "scratch":  # holds nothing between two products, so several may use the same rows
                    taken = taken[~empty[taken]]
                if taken.size and (int(taken[0]), i) not in clashes:
                    clashes.add((int(taken[0]), i))
                    other = matrices[int(taken[0])].name
                    message = f"{m.name} and {other} share cells of sub-array {subarray} (row {t.row}, column {t.col})"
                    out.descriptor(
                        "mat",
                        m.name,
                        "error",
                        message if other != m.name else f"tiles of {m.name} overlap in sub-array {subarray}",
                    )
                block[...] = i
    limit = machine.transposed.subarrays
    used = {t.subarray for m in matrices if m.array == "transposable" for t in m.tiles}
    if isinstance(limit, int) and len(used) > limit:
        last = next(m for m in reversed(matrices) if m.array == "transposable")
        message = f"{len(used)} transposable sub-arrays are used; the machine has {limit}"
        out.descriptor("mat", last.name, "error", message, "transposed.subarrays in the machine description")


def _within_limit(machine: Machine, active: tuple[int, ...]) -> bool:
    """Whether these sub-arrays may work in one cycle."""
    if machine.activation.rule == "row":
        return len({machine.group_of(s) for s in active}) <= 1
    banks: dict[int, int] = {}
    for s in active:
        banks[machine.bank_of(s)] = banks.get(machine.bank_of(s), 0) + 1
    a = machine.activation
    return len(banks) <= a.banks[0] * a.banks[1] and max(banks.values(), default=0) <= a.mats[0] * a.mats[1]


def _activation(program: Program, out: _Findings) -> None:
    """Every product's schedule keeps the activation limit; copies that cannot work at the same time are pointless."""
    machine = program.machine
    used = {v for i in program.code for f, v in zip(i.spec.fields, i.operands, strict=True) if isinstance(f, MatField)}
    for m in program.matrices.values():
        if m.name not in used:
            continue
        steps, before = 0, ()
        for active in activation_schedule(machine, m.loads):
            steps += 1
            if active != before and not _within_limit(machine, active):
                out.descriptor(
                    "mat",
                    m.name,
                    "error",
                    f"sub-arrays {active} of {m.name} would be active in one cycle, beyond the activation limit",
                )
                break
            before = active
        if m.copies > 1:
            single: dict[int, int] = {}
            for t in m.tiles:
                if t.copy == 0:
                    single[t.subarray] = single.get(t.subarray, 0) + t.rows
            alone = sum(1 for _ in activation_schedule(machine, single))
            if steps >= alone * m.copies:
                message = f"the {m.copies} copies of {m.name} cannot work at the same time"
                out.descriptor("mat", m.name, "warning", message, "place them in other sub-arrays of one activation group")


def _reach(program: Program, out: _Findings) -> None:
    """Sums of a product are added only across sub-arrays that the adder tree reaches: along k forward, along n transposed."""
    machine = program.machine
    if machine.adder_tree.reach == "machine":
        return
    used: dict[str, dict[str, str]] = {}
    for i in program.code:
        for f, value in zip(i.spec.fields, i.operands, strict=True):
            if isinstance(f, MatField) and f.sums:
                used.setdefault(value, {})[f.sums] = i.spec.mnemonic
    for name, by in used.items():
        m = program.matrices[name]
        for along, mnemonic in sorted(by.items()):
            where = np.full((m.copies, {"k": m.n, "n": m.k, "kn": 1}[along]), -1, np.int64)
            for t in m.tiles:
                first, count = {"k": (t.n, t.cols), "n": (t.k, t.rows), "kn": (0, 1)}[along]
                held = where[t.copy, first : first + count]
                number = machine.reach_of(t.subarray)
                if ((held != -1) & (held != number)).any():
                    message = f"{mnemonic} adds partial sums of {name} in sub-array {t.subarray} to others beyond the adder tree's reach"
                    out.descriptor(
                        "mat",
                        name,
                        "error",
                        message,
                        f'adder_tree.reach = "{machine.adder_tree.reach}" in the machine description',
                    )
                    break
                held[:] = number


def _static(program: Program, out: _Findings) -> None:
    """Findings that need no execution: writes to frozen weights."""
    for i, instr in enumerate(program.code):
        for f, value in zip(instr.spec.fields, instr.operands, strict=True):
            if isinstance(f, MatField) and f.write:
                m = program.matrices[value]
                if not m.trainable and m.kind != "scratch":
                    out.instruction(i, "error", f"writes to the frozen matrix {m.name}", "declare it trainable")


def _runs(indices: list[int]) -> Iterator[tuple[int, int]]:
    """Consecutive runs of a sorted list."""
    start = previous = -2
    for i in indices:
        if i != previous + 1:
            if start >= 0:
                yield start, previous
            start = i
        previous = i
    if start >= 0:
        yield start, previous


def _unreachable(program: Program, out: _Findings, visited: set[int]) -> None:
    """Instructions no entry point reaches (bodies of loops that never run are reported at the loop)."""
    skipped: set[int] = set()
    for begin, end in loop_ends(program)[0].items():
        if begin in visited and begin + 1 not in visited:
            skipped |= set(range(begin + 1, end + 1))
    lost = [i for i in range(len(program.code)) if i not in visited and i not in skipped]
    for first, last in _runs(lost):
        count = last - first + 1
        what = "this instruction is" if count == 1 else f"this and the next {count - 1} instructions are"
        out.instruction(first, "warning", f"{what} never reached", "no .entry leads here")
