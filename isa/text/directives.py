"""Directives: one function each, from arguments to what they declare. ``DIRECTIVES`` is the list of all, with their section and usage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from sasimc.isa.analysis.check import check_geometry, check_view
from sasimc.isa.described import findings
from sasimc.isa.errors import SasError, near
from sasimc.isa.machine import Machine, load_machine
from sasimc.isa.objects import DTYPES, Geometry, Matrix, Table, Tile, View
from sasimc.isa.plan import AsmTest
from sasimc.isa.program import Origin
from sasimc.isa.text.arguments import Arguments, Problem, integer, integers, string
from sasimc.isa.text.syntax import Statement, Value

__all__ = ["DIRECTIVES", "FORMAT_VERSION", "Directive", "State"]

FORMAT_VERSION = 1
ADDRESS = (0, 1 << 40)


@dataclass
class State:
    """The program being assembled."""

    machine: Machine
    machine_digest: Value | None = None
    changes: dict[str, tuple[Any, int, int]] = field(default_factory=dict)
    section: str = ""
    views: dict[str, View] = field(default_factory=dict)
    geometries: dict[str, Geometry] = field(default_factory=dict)
    matrices: dict[str, Matrix] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    entries: dict[str, int] = field(default_factory=dict)
    params: dict[str, int] = field(default_factory=dict)
    meta: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, Any] = field(default_factory=dict)
    inline: list[str] = field(default_factory=list)
    weights_file: str = ""
    digest: str = ""
    origin: Origin = field(default_factory=Origin)
    instructions: list[tuple[Statement, Origin]] = field(default_factory=list)
    tests: list[AsmTest] = field(default_factory=list)
    test_statements: list[tuple[Statement, AsmTest]] = field(default_factory=list)
    lines: dict[tuple[str, str], int] = field(default_factory=dict)
    tensor_uses: list[tuple[str, Value, str, int]] = field(default_factory=list)
    tiles: dict[str, list[Tile]] = field(default_factory=dict)
    last_matrix: str = ""


def _declare(state: State, pool: dict[str, Any], kind: str, name: str, value: Any, a: Arguments) -> None:
    if name in pool:
        raise Problem(f"{kind} {name} is already declared in line {state.lines.get((kind, name), 0)}", a.statement.args[0])
    pool[name] = value
    state.lines[kind, name] = a.statement.line


def _check(texts: Any) -> None:
    for text in texts:
        raise Problem(text)


def _sas(state: State, a: Arguments) -> None:
    version = integer(a.value("a version"), "version")
    a.done()
    if version != FORMAT_VERSION:
        raise Problem(f"this is SAS assembly {version}; this toolchain reads version {FORMAT_VERSION}", a.statement.args[0])


def _machine(state: State, a: Arguments) -> None:
    name = a.string("the machine's name")
    digest = a.key("sha256")
    a.done()
    state.changes["name"] = (name, a.statement.line, a.statement.column)
    state.machine_digest = digest


def _set(state: State, a: Arguments) -> None:
    for path, (value, line, column) in a.take_keys().items():
        state.changes[path] = (_plain(value), line, column)
    a.done()


def _plain(value: Value) -> Any:
    """A machine field's value: string, number, truth value or list of integers."""
    if value.kind == "NAME" and value.text in ("true", "false"):
        return value.text == "true"
    if value.kind == "STRING":
        return string(value, "value")
    if value.kind == "LIST":
        return [int(n) for n in integers(value, "value")]
    try:
        return integer(value, "value")
    except Problem:
        try:
            return float(value.text)
        except ValueError:
            raise Problem(f"{value.text!r} is not a number", value, hint=f'a text stands in quotes: "{value.text}"') from None


def build_machine(state: State) -> Machine:
    """The machine after all ``.machine`` and ``.set`` directives.

    Raises:
        Problem: unknown field, value out of range, or a digest that does not fit.
    """
    data: dict[str, Any] = load_machine().model_dump(mode="json")
    for path, (value, line, column) in state.changes.items():
        *sections, last = path.split(".")
        place: Any = data
        for part in sections:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place or isinstance(place[last], dict):
            known = [f"{k}.{f}" for k, v in data.items() if isinstance(v, dict) for f in v] + ["clock_hz"]
            raise Problem(f"the machine has no field {path!r}", line=line, column=column, width=len(path), hint=near(path, known))
        place[last] = value
    try:
        machine = Machine.model_validate(data)
    except ValidationError as exc:
        found = findings(exc, Machine, data)[0]
        path = ".".join(found.path)
        _, line, column = state.changes.get(path, (None, *next(iter(state.changes.values()))[1:]))
        raise Problem(str(found), line=line, column=column, width=len(path), hint=found.hint) from None
    expected = machine_digest(machine)
    if state.machine_digest is not None and state.machine_digest.text.strip('"') != expected:
        raise Problem(
            f"the machine described here has the digest {expected}, not this one", state.machine_digest,
            hint="a .set line is missing or changed, or the default machine is another one: compile again, or leave sha256= out",
        )  # fmt: skip
    return machine


def machine_digest(machine: Machine) -> str:
    """Short digest that ties a program to its machine."""
    import hashlib

    return hashlib.sha256(machine.key.encode()).hexdigest()[:16]


def _section(state: State, a: Arguments) -> None:
    a.done()
    state.section = a.statement.name


def _weights(state: State, a: Arguments) -> None:
    value = a.value("a file name")
    name = string(value, "the weights file")
    digest = a.key("sha256")
    a.done()
    if state.weights_file:
        raise Problem("a program has one weights file", value)
    text = digest.text.strip('"').lower() if digest else ""
    if digest and (len(text) != 64 or set(text) - set("0123456789abcdef")):
        raise Problem("sha256 is 64 hexadecimal digits", digest)
    state.weights_file, state.digest = name, text


def _meta(state: State, a: Arguments) -> None:
    value = a.value("a key")
    key = string(value, "the key") if value.kind == "STRING" else value.text
    text = a.string("a string")
    a.done()
    if key in state.meta:
        raise Problem(f"meta {key} is given twice", a.statement.args[0])
    state.meta[key] = text


def _register(value: Value, what: str) -> int:
    digits = value.text[1:]
    if (
        value.kind != "NAME"
        or value.text[0] != "r"
        or not (digits.isascii() and digits.isdigit())
        or len(digits) > 2
        or int(digits) > 63
    ):
        raise Problem(f"{what} must be a register r0..r63, not {value.text!r}", value)
    return int(digits)


def _param(state: State, a: Arguments) -> None:
    name, register = a.name("a name"), _register(a.value("a register"), "the parameter")
    a.done()
    if name in state.params:
        raise Problem(f"parameter {name} is given twice", a.statement.args[0])
    state.params[name] = register


def _view(state: State, a: Arguments) -> None:
    name = a.name("a name")
    space = a.word("the memory", ("buf", "host", "acc"))
    dtype = a.word("the type", tuple(DTYPES))
    h, w, c = a.size(a.value("a shape"), "the shape", 3, high=1 << 24)
    row, pix, chan = View.dense_strides(space, dtype, (h, w, c))
    view = View(
        name, space, dtype, (h, w, c), a.integer("addr", 0, *ADDRESS), a.integer("row", row, *ADDRESS), a.integer("pix", pix, *ADDRESS),
        a.integer("chan", chan, *ADDRESS), a.integer("ring", 0, 0, 1 << 24), a.integer("batch", 0, *ADDRESS), a.integer("pad", 0, -128, 255),
    )  # fmt: skip
    a.done()
    _check(check_view(state.machine, view))
    _declare(state, state.views, "view", name, view, a)


def _geom(state: State, a: Arguments) -> None:
    name = a.name("a name")
    kernel, stride = a.pair("kernel", (1, 1), 1), a.pair("stride", (1, 1), 1)
    pad, dilation = a.pair("pad", (0, 0), -(1 << 15)), a.pair("dilation", (1, 1), 1)
    mode = a.key("mode")
    a.done()
    modes = ("window", "linear2", "nearest")
    if mode is not None and mode.text not in modes:
        raise Problem(f"mode is {mode.text!r}, not one of {', '.join(modes)}", mode, hint=near(mode.text, modes))
    geometry = Geometry(name, kernel, stride, pad, dilation, mode.text if mode else "window")
    _check(check_geometry(geometry))
    _declare(state, state.geometries, "geom", name, geometry, a)


def _mat(state: State, a: Arguments) -> None:
    name = a.name("a name")
    kind = a.word("the kind", ("dense", "depthwise", "scratch"))
    array = a.word("the kind of sub-array", ("compute", "transposable"))
    k, n = a.size(a.value("a size KxN"), "the size", 2, high=1 << 24)
    tensor = a.key("tensor")
    trainable = a.more() and a.word("the state", ("frozen", "trainable")) == "trainable"
    a.done()
    if kind == "scratch" and tensor is not None:
        raise Problem("a scratch matrix has no tensor", tensor)
    if kind != "scratch" and tensor is None:
        raise Problem(f'matrix {name} needs tensor="..." with its weights')
    text = string(tensor, "tensor") if tensor else ""
    _declare(state, state.matrices, "mat", name, Matrix(name, kind, array, k, n, text, trainable, ()), a)
    if tensor:
        state.tensor_uses.append((text, tensor, "i8", k * n))
    state.last_matrix = name
    state.tiles[name] = []


def _tile(state: State, a: Arguments) -> None:
    if not state.last_matrix:
        raise Problem("a .tile belongs to the .mat before it, and there is none")
    big = (0, 1 << 24)
    size = a.key("size")
    tile = Tile(
        a.integer("sub", None, *big), a.integer("row", 0, *big), a.integer("col", 0, *big), a.integer("k", 0, *big), a.integer("n", 0, *big), 0, 0,
        a.integer("copy", 0, 0, 4096),
    )  # fmt: skip
    a.done()
    if size is None:
        raise Problem(".tile needs size=ROWSxCOLUMNS")
    rows, cols = a.size(size, "size", 2, high=1 << 16)
    state.tiles[state.last_matrix].append(replace(tile, rows=rows, cols=cols))


def _table(state: State, a: Arguments) -> None:
    name, kind = a.name("a name"), a.word("the kind", tuple(Table.KINDS))
    ints, roles = Table.KINDS[kind]
    numbers = {i: a.integer(i, None, -(1 << 31), (1 << 31) - 1) for i in ints}
    arrays: dict[str, str | tuple[int, ...]] = {}
    uses = []
    for role in roles:
        value = a.key(role)
        if value is None:
            raise Problem(f'a {kind} table needs {role}=[...] or {role}=@"tensor"')
        if value.kind == "TENSOR":
            arrays[role] = string(value, role)
            uses.append((string(value, role), value, "any", 0))
        else:
            arrays[role] = tuple(int(v) for v in integers(value, role))
    a.done()
    _declare(state, state.tables, "table", name, Table(name, kind, numbers, arrays), a)
    state.tensor_uses.extend(uses)


def _tensor(state: State, a: Arguments) -> None:
    value = a.value("a name")
    name = string(value, "the tensor's name")
    dtype = np.dtype({"i8": np.int8, "i32": np.int32}[a.word("the type", ("i8", "i32"))])
    shape = a.size(a.value("a shape"), "the shape", None, high=1 << 24)
    listed = a.value("its values")
    numbers = integers(listed, "its values")
    a.done()
    total = int(np.prod(shape, dtype=object))
    if numbers.size != total:
        raise Problem(f"tensor {name!r} has {total} elements, the list {numbers.size}", listed)
    info = np.iinfo(dtype)
    if numbers.size and (numbers.min() < info.min or numbers.max() > info.max):
        raise Problem(f"a value of tensor {name!r} is outside {info.min}..{info.max}", listed)
    _declare(state, state.tensors, "tensor", name, numbers.astype(dtype).reshape(shape), a)
    state.inline.append(name)


def _entry(state: State, a: Arguments) -> None:
    name = a.name("a name")
    a.done()
    _declare(state, state.entries, "entry", name, len(state.instructions), a)


def _loc(state: State, a: Arguments) -> None:
    node = a.string("the node's name")
    made_by = a.string("the pass") if a.more() else ""
    a.done()
    state.origin = Origin(node, made_by)


def _test(state: State, a: Arguments) -> None:
    value = a.value("a name")
    name = string(value, "the test's name") if value.kind == "STRING" else value.text
    a.done()
    if any(t.name == name for t in state.tests):
        raise Problem(f"test {name!r} is given twice", value)
    state.tests.append(AsmTest(name, a.statement.line))


def _later(state: State, a: Arguments) -> None:
    """Directives that speak of declarations: evaluated after all of them are known."""
    if not state.tests:
        state.tests.append(AsmTest("", a.statement.line))
    state.test_statements.append((a.statement, state.tests[-1]))


class Directive(NamedTuple):
    """A directive: what it does, the section it belongs to (empty: anywhere), its usage and meaning for messages and the manual, and of
    what kind the name is that its first argument declares or refers to (empty: none)."""

    run: Callable[[State, Arguments], None]
    section: str
    usage: str
    doc: str
    declares: str = ""
    refers: str = ""


DIRECTIVES: dict[str, Directive] = {
    ".sas": Directive(_sas, "", ".sas 1", "version of the language"),
    ".machine": Directive(
        _machine, "", '.machine "NAME" [sha256=DIGEST]', "the machine the program is for; the digest guards the .set lines"
    ),
    ".set": Directive(_set, "", ".set SECTION.FIELD=VALUE ...", "a field that differs from the paper's machine"),
    ".weights": Directive(_weights, "", '.weights "FILE" [sha256=DIGEST]', "the file with the tensors, beside the program"),
    ".meta": Directive(_meta, "", '.meta KEY "TEXT"', "a fact about the program"),
    ".param": Directive(
        _param, "", ".param NAME rN", "a register the host sets before an entry point runs", declares="parameter"
    ),
    ".desc": Directive(_section, "", ".desc", "begin the section of descriptors"),
    ".data": Directive(_section, "", ".data", "begin the section of inline tensors"),
    ".code": Directive(_section, "", ".code", "begin the section of instructions"),
    ".tests": Directive(_section, "", ".tests", "begin the section of tests"),
    ".view": Directive(
        _view,
        ".desc",
        ".view NAME buf|host|acc u8|i8|i16|i32|bit HxWxC [addr= row= pix= chan= ring= batch= pad=]",
        "a strided window on a memory; strides default to dense",
        declares="view",
    ),
    ".geom": Directive(
        _geom,
        ".desc",
        ".geom NAME [kernel= stride= pad= dilation= mode=]",
        "a sliding window or a resampling",
        declares="geometry",
    ),
    ".mat": Directive(
        _mat,
        ".desc",
        '.mat NAME dense|depthwise|scratch compute|transposable KxN [tensor="T"] [frozen|trainable]',
        "a weight matrix",
        declares="matrix",
    ),
    ".tile": Directive(
        _tile, ".desc", ".tile sub= [row= col= k= n=] size=RxC [copy=]", "where a block of the matrix before it stands"
    ),
    ".table": Directive(
        _table,
        ".desc",
        '.table NAME KIND NAME=INTEGER ... NAME=[...]|@"T" ...',
        "constants of a periphery instruction",
        declares="table",
    ),
    ".tensor": Directive(
        _tensor, ".data", '.tensor "NAME" i8|i32 AxBx... [VALUES]', "a tensor that stands in the text", declares="tensor"
    ),
    ".entry": Directive(_entry, ".code", ".entry NAME", "an entry point: the next instruction", declares="entry"),
    ".loc": Directive(_loc, ".code", '.loc "NODE" ["PASS"]', "origin of the instructions that follow"),
    ".test": Directive(_test, ".tests", '.test "NAME"', "begin a test", declares="test"),
    ".init": Directive(
        _later, ".tests", ".init VIEW [VALUES]|NUMBER [sample=N]", "contents of a view before the run", refers="view"
    ),
    ".init_mat": Directive(
        _later, ".tests", ".init_mat MATRIX [VALUES]|NUMBER", "contents of a matrix before the run", refers="matrix"
    ),
    ".init_reg": Directive(_later, ".tests", ".init_reg rN NUMBER", "a register before the run", refers="register"),
    ".run": Directive(
        _later,
        ".tests",
        ".run ENTRY [step] [bitserial] [fused]",
        "what to run, and on which engines (default: all, which must agree)",
        refers="entry",
    ),
    ".expect": Directive(
        _later, ".tests", ".expect VIEW [VALUES]|NUMBER [sample=N]", "contents of a view after the run", refers="view"
    ),
    ".expect_mat": Directive(
        _later, ".tests", ".expect_mat MATRIX [VALUES]|NUMBER", "contents of a matrix after the run", refers="matrix"
    ),
    ".expect_reg": Directive(_later, ".tests", ".expect_reg rN NUMBER", "a register after the run", refers="register"),
    ".expect_cycles": Directive(_later, ".tests", ".expect_cycles NUMBER", "cycles of all runs of the test"),
    ".expect_event": Directive(
        _later, ".tests", ".expect_event EVENT NUMBER", "an event count of all runs of the test", refers="event"
    ),
    ".expect_trap": Directive(
        _later, ".tests", '.expect_trap "TEXT"', "the last run must trap, and the trap's text contain this"
    ),
}


def run_directive(state: State, statement: Statement) -> None:
    """Evaluate one directive.

    Raises:
        Problem: what is wrong, where.
    """
    directive = DIRECTIVES.get(statement.name)
    if directive is None:
        raise Problem(
            f"unknown directive {statement.name}", line=statement.line, column=statement.column, width=len(statement.name),
            hint=near(statement.name, tuple(DIRECTIVES)),
        )  # fmt: skip
    if directive.section and state.section and directive.section != state.section:
        raise Problem(
            f"{statement.name} belongs into the section {directive.section}, this is {state.section}",
            hint=f"write {directive.section} before it",
        )
    try:
        directive.run(state, Arguments(statement))
    except Problem as exc:
        raise exc if exc.hint else _with_usage(exc, directive) from None
    except SasError as exc:
        raise Problem(exc.diagnostic.message) from None


def _with_usage(exc: Problem, directive: Directive) -> Problem:
    exc.hint = f"usage: {directive.usage}"
    return exc
