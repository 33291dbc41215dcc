"""Runs the tests that stand in an assembly file (``.test``, ``.init``, ``.run``, ``.expect``) on the engines and compares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sasimc.isa.choices import ENGINES
from sasimc.isa.errors import Trap
from sasimc.isa.plan import AsmTest, Expectation, Run
from sasimc.isa.program import Program
from sasimc.isa.text.assembler import Assembly
from sasimc.runtime.interpreter import Interpreter

__all__ = ["failures", "runs_of"]

MAX_INSTRUCTIONS = 10_000_000


@dataclass
class _Outcome:
    """What one engine did: the machine after the last run, and the trap that ended it."""

    machine: Interpreter
    trap: Trap | None = None
    problems: list[str] = field(default_factory=list)


def runs_of(program: Program, test: AsmTest) -> tuple[Run, ...]:
    """The runs of a test; without ``.run`` the first entry point on every engine."""
    return tuple(test.runs) or (Run(next(iter(program.entries)), ENGINES, test.line),)


def failures(assembly: Assembly, test: AsmTest) -> list[str]:
    """Texts of everything in which the machine differs from the test's expectations, or the engines from each other.

    Raises:
        SasError: the program cannot be set up (contents that do not fit, sample outside host memory).
    """
    program = assembly.program
    runs = runs_of(program, test)
    if not test.expectations:
        return [f"{program.source}:{test.line}: the test expects nothing"]
    engines = [e for e in ENGINES if all(e in r.engines for r in runs)]
    if not engines:
        return [f"{program.source}:{test.line}: its runs have no engine in common"]
    out: list[str] = []
    outcomes: list[tuple[str, _Outcome]] = []
    for engine in engines:
        outcome = _execute(program, test, runs, engine)
        outcomes.append((engine, outcome))
        for text in (*outcome.problems, *_check(program, test, outcome)):
            out.append(f"{program.source}:{text} [{engine}]")
    first, reference = outcomes[0]
    for engine, outcome in outcomes[1:]:
        for what in _differences(reference, outcome):
            out.append(f"{program.source}:{test.line}: {first} and {engine} differ in {what}")
    return out


def _execute(program: Program, test: AsmTest, runs: tuple[Run, ...], engine: str) -> _Outcome:
    machine = Interpreter(program, engine)
    for i in test.initials:
        if i.kind == "reg":
            machine.regs[int(i.name)] = int(i.values[0])
        elif i.kind == "mat":
            m = program.matrices[i.name]
            machine.write_matrix(i.name, i.values.reshape(m.k, m.n))
        else:
            machine.write_view(i.name, i.values.reshape(program.views[i.name].shape), i.sample)
    outcome = _Outcome(machine)
    expected = any(e.kind == "trap" for e in test.expectations)
    for n, run in enumerate(runs):
        try:
            machine.run(run.entry, MAX_INSTRUCTIONS)
        except Trap as exc:
            outcome.trap = exc
            if not expected or n < len(runs) - 1:
                outcome.problems.append(f"{run.line or test.line}: {exc}")
            break
    return outcome


def _check(program: Program, test: AsmTest, outcome: _Outcome) -> Iterator[str]:
    machine = outcome.machine
    for e in test.expectations:
        if e.kind == "trap":
            if outcome.trap is None:
                yield f"{e.line}: expected a trap with {e.text!r}, but the program ran to its end"
            elif e.text not in str(outcome.trap):
                yield f"{e.line}: expected a trap with {e.text!r}, got: {outcome.trap}"
        elif outcome.trap is not None and not any(x.kind == "trap" for x in test.expectations):
            return  # reported already
        elif e.kind == "cycles":
            if machine.cycles != int(e.values[0]):
                yield f"{e.line}: expected {int(e.values[0])} cycles, got {machine.cycles}"
        elif e.kind == "event":
            if machine.events[e.name] != int(e.values[0]):
                yield f"{e.line}: expected {int(e.values[0])} {e.name}, got {machine.events[e.name]}"
        elif e.kind == "reg":
            if machine.regs[int(e.name)] != int(e.values[0]):
                yield f"{e.line}: expected r{e.name} = {int(e.values[0])}, got {machine.regs[int(e.name)]}"
        else:
            yield from _compare(e, _contents(program, machine, e))


def _contents(program: Program, machine: Interpreter, e: Expectation) -> npt.NDArray[np.int64]:
    if e.kind == "mat":
        return np.asarray(machine.read_matrix(e.name), np.int64)
    return np.asarray(machine.read_view(e.name, e.sample, stale=True), np.int64).reshape(program.views[e.name].shape)


def _compare(e: Expectation, got: npt.NDArray[np.int64]) -> Iterator[str]:
    """The first difference, with its place, and how many there are."""
    want = e.values.reshape(got.shape)
    wrong = np.argwhere(want != got)
    if len(wrong):
        at = tuple(int(i) for i in wrong[0])
        more = f" ({len(wrong)} of {got.size} elements differ)" if len(wrong) > 1 else ""
        text = f"{e.line}: {e.name}{list(at)}: expected {int(want[at])}, got {int(got[at])}{more}"
        if got.size <= 64:
            text += f"; all: [{', '.join(map(str, got.reshape(-1).tolist()))}]"
        yield text


def _differences(a: _Outcome, b: _Outcome) -> Iterator[str]:
    x, y = a.machine, b.machine
    if (a.trap is None) != (b.trap is None) or (a.trap is not None and b.trap is not None and a.trap.kind != b.trap.kind):
        yield f"their traps: {a.trap} / {b.trap}"
        return
    if a.trap is not None:
        return  # what a trapped instruction has done before it stopped is not defined
    s, t = x.snapshot(), y.snapshot()
    for name in ("buffer", "acc", "cells"):
        if not np.array_equal(getattr(s, name), getattr(t, name)):
            yield {"buffer": "the buffer", "acc": "the accumulators", "cells": "the sub-arrays"}[name]
    size = min(s.host.size, t.host.size)
    if not np.array_equal(s.host[:size], t.host[:size]) or s.host[size:].any() or t.host[size:].any():
        yield "host memory"
    if s.regs != t.regs:
        yield "the registers"
    if x.cycles != y.cycles:
        yield f"cycles: {x.cycles} / {y.cycles}"
    for event, count in x.events.items():
        if count != y.events[event]:
            yield f"{event}: {count} / {y.events[event]}"
