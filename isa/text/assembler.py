"""Assembler: text -> :class:`Program`. Reports every mistake of the text it can find, each with its place, in one error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.isa.analysis.check import check_instruction, check_matrix, check_structure, check_table, check_tensor
from sasimc.isa.choices import ENGINES
from sasimc.isa.errors import Diagnostic, DiagnosticsError, near
from sasimc.isa.extend import find
from sasimc.isa.machine import load_machine
from sasimc.isa.plan import AsmTest, Expectation, Initial, Run
from sasimc.isa.program import Instr, Origin, Program, Tensor
from sasimc.isa.spec import (
    EVENTS,
    TABLE,
    Choice,
    Field,
    GeomField,
    Imm,
    MatField,
    Reg,
    RowRange,
    RowsField,
    TableField,
    ViewField,
)
from sasimc.isa.text.arguments import Arguments, Problem, integer, integers, name_of, string
from sasimc.isa.text.directives import State, build_machine, run_directive
from sasimc.isa.text.syntax import Source, Statement, SyntaxProblem, Value, parse_statement, scan

__all__ = ["Assembly", "WeightsLoader", "assemble", "assemble_source", "diagnose"]

WeightsLoader = Callable[[str, str], tuple[Mapping[str, Tensor], str]]
"""(file name, SHA-256 or "") -> (tensors, SHA-256 of the file)."""

MAX_ERRORS = 50
ALL_ROWS = RowRange(0, 0, 65535)


@dataclass(frozen=True)
class Assembly:
    """A program and the tests that stand in the same text."""

    program: Program
    tests: tuple[AsmTest, ...]

    @property
    def initialised(self) -> set[str]:
        """Views that the tests fill before they run anything."""
        return {i.name for t in self.tests for i in t.initials if i.kind == "view"}


def assemble(text: str, filename: str = "<text>", weights_loader: WeightsLoader | None = None) -> Program:
    """Assemble a text. Test directives are checked and left out.

    Args:
        text: the program.
        filename: for messages, and the program's ``source``.
        weights_loader: gives the tensors of the file that ``.weights`` names; without it they stay unknown (enough to print and to
            encode, not to run).

    Raises:
        DiagnosticsError: everything that is wrong with the text.
        SasError: what ``weights_loader`` raises.
    """
    return assemble_source(text, filename, weights_loader).program


def assemble_source(text: str, filename: str = "<text>", weights_loader: WeightsLoader | None = None) -> Assembly:
    """Like :func:`assemble`, with the tests."""
    assembly, errors = diagnose(text, filename, weights_loader)
    if errors:
        raise DiagnosticsError(errors)
    return assembly


def diagnose(
    text: str, filename: str = "<text>", weights_loader: WeightsLoader | None = None
) -> tuple[Assembly, tuple[Diagnostic, ...]]:
    """What can be understood of a text, and everything that is wrong with it, in the order of the lines.

    Statements with mistakes are left out of the assembly; it is whole only when there is no diagnostic.

    Raises:
        SasError: what ``weights_loader`` raises.
    """
    return _Assembler(Source(filename, text.split("\n")), weights_loader).run()


class _Assembler:
    def __init__(self, source: Source, weights_loader: WeightsLoader | None) -> None:
        self.source = source
        self.loader = weights_loader
        self.errors: list[Diagnostic] = []
        self.state = State(load_machine())
        self.failed: set[str] = set()

    def run(self) -> tuple[Assembly, tuple[Diagnostic, ...]]:
        statements = self._parse()
        self._declarations(statements)
        program = self._program()
        program = replace(program, code=tuple(self._code(program)))
        if not self.errors:
            for index, text, hint in check_structure(program):
                self._report(Problem(text, hint=hint), program.code[index].line if program.code else 1)
        tests = self._tests(program)
        self.errors.sort(key=lambda d: (d.span.line, d.span.column) if d.span else (0, 0))
        shown = self.errors[:MAX_ERRORS]
        if len(self.errors) > MAX_ERRORS:
            shown.append(Diagnostic(f"{len(self.errors) - MAX_ERRORS} more errors are not shown", where=self.source.filename))
        return Assembly(program, tests), tuple(shown)

    def _report(self, problem: Problem, line: int, column: int = 0, width: int = 0) -> None:
        if not problem.line and not column:
            text = self.source.lines[line - 1].rstrip() if 0 < line <= len(self.source.lines) else ""
            column = len(text) - len(text.lstrip()) + 1
            width = max(1, len(text.split(";")[0].rstrip()) - column + 1)
        span = self.source.span(problem.line or line, problem.column or column, problem.width if problem.line else width)
        self.errors.append(Diagnostic(problem.message, span, hint=problem.hint))

    def _parse(self) -> list[Statement]:
        statements: list[Statement] = []
        for tokens, first, last in scan(self.source):
            try:
                statements.append(parse_statement(self.source, tokens, first, last))
            except SyntaxProblem as exc:
                self.errors.append(exc.diagnostic)
                if len(tokens) > 1 and tokens[0].kind == "DIRECTIVE":
                    self.failed.add(tokens[1].text.strip('"'))
        return statements

    def _declarations(self, statements: list[Statement]) -> None:
        """All directives; instructions are kept for later, when every name is known."""
        head = (".sas", ".machine", ".set")
        for s in statements:
            if s.name in head:
                self._guard(lambda s=s: run_directive(self.state, s), s)
        try:
            self.state.machine = build_machine(self.state)
        except Problem as exc:
            self._report(exc, 1)
        for s in statements:
            if s.name[0] != ".":
                self.state.instructions.append((s, self.state.origin))
                if self.state.section not in ("", ".code"):
                    self._report(Problem(f"instructions belong into the section .code, this is {self.state.section}"), s.line)
            elif s.name not in head:
                self._guard(lambda s=s: run_directive(self.state, s), s)

    def _guard(self, action: Callable[[], Any], s: Statement) -> Any:
        try:
            return action()
        except Problem as exc:
            self._report(exc, s.line)
            if s.args and s.name[0] == ".":  # what it meant to declare is known not to exist: no second message where it is used
                self.failed.add(s.args[0].text.strip('"'))
            return None

    def _program(self) -> Program:
        s = self.state
        tensors = dict(s.tensors)
        digest = s.digest
        complete = not s.weights_file
        if s.weights_file and self.loader is not None and not self.errors:
            loaded, digest = self.loader(s.weights_file, s.digest)
            for name in loaded:
                if name in tensors:
                    self._report(
                        Problem(f"tensor {name!r} stands both in the text and in {s.weights_file}"), s.lines["tensor", name]
                    )
            tensors = {**loaded, **tensors}
            complete = True
        matrices = {name: replace(m, tiles=tuple(s.tiles[name])) for name, m in s.matrices.items()}
        entries = dict(s.entries) or ({"main": 0} if s.instructions else {})
        program = Program(
            machine=s.machine, code=(), views=s.views, geometries=s.geometries, matrices=matrices, tables=s.tables, entries=entries,
            params=s.params, meta=s.meta, tensors=tensors, weights_file=s.weights_file, digest=digest, source=self.source.filename,
            inline=frozenset(s.inline), lines=s.lines,
        )  # fmt: skip
        if complete:
            for use in s.tensor_uses:
                try:
                    _tensor_use(program, *use)
                except Problem as exc:
                    if use[0] not in self.failed:
                        self._report(exc, use[1].line)
        for kind, pool, check in (
            ("mat", matrices, lambda d: (*check_tensor(d), *check_matrix(s.machine, d))),
            ("table", s.tables, lambda d: check_table(program, d)),
        ):
            for name, descriptor in pool.items():
                for text in check(descriptor):
                    self._report(Problem(f"{ {'mat': 'matrix'}.get(kind, kind) } {name}: {text}"), s.lines[kind, name])
        if not s.instructions and not self.errors:
            self._report(Problem("there is no instruction"), 1)
        return program

    def _code(self, program: Program) -> list[Instr]:
        out: list[Instr] = []
        for s, origin in self.state.instructions:
            try:
                instr = _instruction(program, s, origin)
            except Problem as exc:
                if exc.subject not in self.failed:
                    self._report(exc, s.line)
                continue
            out.append(instr)
            for index, text in check_instruction(program, instr):
                at = s.args[index] if index >= 0 else None
                self._report(Problem(text, at), s.line)
        return out

    def _tests(self, program: Program) -> tuple[AsmTest, ...]:
        for s, test in self.state.test_statements:
            self._guard(lambda s=s, test=test: _test_directive(program, test, s), s)
        return tuple(self.state.tests)


def _tensor_use(program: Program, name: str, at: Value, dtype: str, size: int) -> None:
    tensor = program.tensors.get(name)
    if tensor is None:
        known = tuple(program.tensors)
        raise Problem(
            f"there is no tensor {name!r}", at, hint=near(name, known) or ".tensor declares one in the text" if known else ""
        )
    if dtype == "i8" and tensor.dtype != np.int8:
        raise Problem(f"tensor {name!r} is {tensor.dtype}; weights are int8", at)
    if size and tensor.size != size:
        raise Problem(f"tensor {name!r} has {tensor.size} elements; the matrix {size}", at)


def _instruction(program: Program, s: Statement, origin: Origin) -> Instr:
    spec = find(s.name)
    if spec is None:
        raise Problem(
            f"unknown instruction {s.name!r}", line=s.line, column=s.column, width=len(s.name), hint=near(s.name, tuple(TABLE))
        )
    if len(s.args) != len(spec.fields):
        names = ", ".join(f.name.rstrip("_") for f in spec.fields)
        raise Problem(
            f"{s.name} takes {len(spec.fields)} operand{'s' if len(spec.fields) != 1 else ''} ({names or 'none'}), not {len(s.args)}"
        )
    operands = tuple(_operand(program, f, v) for f, v in zip(spec.fields, s.args, strict=True))
    return Instr(spec, operands, origin, s.line)


def _operand(program: Program, f: Field, v: Value) -> Any:
    """The operand a value stands for; its kind is the field's."""
    if isinstance(f, ViewField):
        return _named(v, program.views, "view")
    if isinstance(f, Reg):
        return _register(v)
    if isinstance(f, RowsField):
        return _rows(v)
    if isinstance(f, Imm):
        return integer(v, f.name, -(1 << (f.bits - 1)), (1 << (f.bits - 1)) - 1)
    if isinstance(f, MatField):
        return _named(v, program.matrices, "matrix")
    if isinstance(f, GeomField):
        return _named(v, program.geometries, "geometry")
    if isinstance(f, TableField):
        return _named(v, program.tables, "table")
    if isinstance(f, Choice):
        if v.text not in f.words:
            raise Problem(f"{f.name} is one of {', '.join(f.words)}, not {v.text!r}", v, hint=near(v.text, f.words))
        return v.text
    raise AssertionError(f"field kind {f.kind} has no assembly form")


def _named(v: Value, pool: Mapping[str, Any], kind: str) -> str:
    if v.kind not in ("NAME", "STRING"):
        raise Problem(f"expected the name of a {kind}, found {v.text!r}", v)
    name = name_of(v, f"the {kind}")
    if name not in pool:
        raise Problem(f"there is no {kind} {name!r}", v, hint=near(name, tuple(pool)), subject=name)
    return name


def _register(v: Value) -> int:
    digits = v.text[1:]
    if v.kind != "NAME" or v.text[0] != "r" or not (digits.isascii() and digits.isdigit()) or len(digits) > 2 or int(digits) > 63:
        raise Problem(f"expected a register r0..r63, found {v.text!r}", v)
    return int(digits)


def _rows(v: Value) -> RowRange:
    if v.text == "all":
        return ALL_ROWS
    if v.kind != "ROWS":
        raise Problem(f"expected a row range such as r5+2:8 or all, found {v.text!r}", v)
    start, count = v.text.split(":")
    register = 0
    if start[0] == "r":
        digits = start[1:].replace("-", "+").split("+")[0]
        if len(digits) > 2 or int(digits) > 63:
            raise Problem(f"expected a register r0..r63 in {v.text!r}", v)
        register, start = int(digits), start[1 + len(digits) :]
    if len(start) > 8 or len(count) > 8 or not -(1 << 15) <= int(start or 0) < 1 << 15:
        raise Problem(
            f"row offset {start} is outside -32768..32767" if len(count) <= 8 else f"row count {count} is outside 1..65535", v
        )
    if not 1 <= int(count) < 1 << 16:
        raise Problem(f"row count {count} is outside 1..65535", v)
    return RowRange(register, int(start or 0), int(count))


def _test_directive(program: Program, test: AsmTest, s: Statement) -> None:
    """Evaluate ``.init``, ``.run`` and ``.expect`` directives into the test."""
    a = Arguments(s)
    none = np.zeros(0, np.int64)
    kind = s.name.split("_")[-1] if "_" in s.name else "view"
    sink: Callable[[Any], None]
    make: type[Initial] | type[Expectation]
    if s.name.startswith(".init"):
        sink, make = test.initials.append, Initial
    else:
        sink, make = test.expectations.append, Expectation
    if s.name == ".run":
        entry = a.value("an entry point")
        name = _named(entry, program.entries, "entry point")
        engines = []
        while a.more():
            engines.append(a.word("the engine", ENGINES))
        a.done()
        test.runs.append(Run(name, tuple(engines) or ENGINES, s.line))
    elif kind == "reg":
        register, value = _register(a.value("a register")), integer(a.value("a value"), "the value", -(1 << 31), (1 << 31) - 1)
        a.done()
        if s.name == ".init_reg" and register == 0:
            raise Problem("r0 always reads 0", s.args[0])
        if register >= program.machine.controller.registers:
            raise Problem(f"the machine has no register r{register}", s.args[0])
        sink(make("reg", str(register), np.asarray([value]), 0, s.line))
    elif kind == "cycles":
        number = integer(a.value("a number"), "cycles", 0)
        a.done()
        test.expectations.append(Expectation("cycles", "", np.asarray([number]), 0, s.line))
    elif kind == "event":
        event = a.value("an event")
        if event.text not in EVENTS:
            raise Problem(f"there is no event {event.text!r}", event, hint=near(event.text, tuple(EVENTS)))
        number = integer(a.value("a number"), "the count", 0)
        a.done()
        test.expectations.append(Expectation("event", event.text, np.asarray([number]), 0, s.line))
    elif kind == "trap":
        text = string(a.value("a text"), "the trap")
        a.done()
        test.expectations.append(Expectation("trap", "", none, 0, s.line, text))
    else:
        pool: Mapping[str, Any] = program.matrices if kind == "mat" else program.views
        target = pool[_named(a.value("a name"), pool, "matrix" if kind == "mat" else "view")]
        shape = (target.k, target.n) if kind == "mat" else target.shape
        values = _contents(a.value("values"), shape, (-128, 127) if kind == "mat" else target.limits, target.name)
        sample = a.integer("sample", 0, 0, 1 << 20) if kind == "view" else 0
        a.done()
        sink(make(kind, target.name, values, sample, s.line))


def _contents(v: Value, shape: tuple[int, ...], limits: tuple[int, int], name: str) -> npt.NDArray[np.int64]:
    size = int(np.prod(shape))
    if v.kind == "NUMBER":
        number = integer(v, "the value")
        if not limits[0] <= number <= limits[1]:
            raise Problem(f"{number} is not a value of {name} ({limits[0]}..{limits[1]})", v)
        values = np.full(size, number, np.int64)
    else:
        values = integers(v, "the values")
    if values.size != size:
        raise Problem(f"{name} has {size} elements ({'x'.join(map(str, shape))}), the list {values.size}", v)
    if int(values.min()) < limits[0] or int(values.max()) > limits[1]:
        wrong = int(values.min()) if int(values.min()) < limits[0] else int(values.max())
        raise Problem(f"{wrong} is not a value of {name} ({limits[0]}..{limits[1]})", v)
    return values
