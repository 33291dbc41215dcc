"""The graph as text. ``parse_graph(print_graph(g), arrays=g.constants)`` is ``g``; small constants stand inline, others by name.

::

    graph main
    note "sasimc.labels" "[\"a\", \"b\"]"
    input x
    output y
    const "c.mult" int32[2] = [1073741824, 1073741824]
    const "c.weight" int8[3,3,8,16] external
    value x : u8[8x8x3] scale=0.5 zero=128
    value y : i8[1x1x2] scale=0.25 zero=0 axes="C"
    op y = conv(x) {kernel = (1, 1), lo = -128} consts {mult = "c.mult"} name "c" origin "n" by "canonicalise"

Names are written bare where they are identifiers, otherwise as JSON strings. One line is one statement; order matters for ops.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.ir.graph import DTYPES, Attr, Graph, Op, TensorType, TrainGraph
from sasimc.ir.layout import Layout
from sasimc.isa.errors import SasError, Span, near

__all__ = ["INLINE", "parse_graph", "print_graph", "print_op", "print_train"]

INLINE = 64  # constants up to this many elements are written out
Array = npt.NDArray[Any]

_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_./]*\Z")
_WORDS = frozenset({"true", "false", "inf", "nan"})
_TOKEN = re.compile(
    r"\s*(?:(?P<string>\"(?:[^\"\\]|\\.)*\")|(?P<number>[+-]?(?:inf|nan|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![A-Za-z0-9_]))"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_./]*)|(?P<mark>[\[\](){}=,:]))"
)


# -- printing -----------------------------------------------------------------------------------------------------------


def _name(name: str) -> str:
    return name if _BARE.match(name) and name not in _WORDS else json.dumps(name)


def _attr(value: Attr) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        return "(" + ", ".join(_attr(v) for v in value) + ")"
    return repr(value)


def _map(pairs: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{_name(k)} = {v}" for k, v in pairs.items()) + "}"


def print_op(op: Op) -> str:
    """The statement of one operation."""
    head = f"op {_name(op.output)} = " if op.output else "op "
    line = f"{head}{op.kind}({', '.join(_name(v) for v in op.inputs)})"
    if op.attrs:
        line += " " + _map({k: _attr(v) for k, v in op.attrs.items()})
    if op.consts:
        line += " consts " + _map({k: _name(v) for k, v in op.consts.items()})
    line += f" name {json.dumps(op.name)}"
    if op.origin:
        line += f" origin {json.dumps(op.origin)}"
    if op.made_by:
        line += f" by {json.dumps(op.made_by)}"
    return line


def _value_line(name: str, t: TensorType) -> str:
    h, w, c = t.shape
    axes = f" axes={json.dumps(t.layout.text(t.shape))}" if t.layout is not None else ""
    return f"value {_name(name)} : {t.dtype}[{h},{w},{c}] scale={float(t.scale)!r} zero={t.zero}{axes}"


def _const_line(name: str, a: Array) -> str:
    head = f"const {_name(name)} {a.dtype.name}[{','.join(str(d) for d in a.shape)}]"
    if a.size > INLINE:
        return f"{head} external"
    return f"{head} = [{', '.join(repr(v) for v in a.ravel().tolist())}]"


def print_graph(graph: Graph) -> str:
    """Canonical text of a graph, ending in a newline."""
    lines = [f"graph {_name(graph.name)}"]
    lines += [f"note {json.dumps(k)} {json.dumps(v)}" for k, v in graph.notes.items()]
    lines += [f"input {_name(v)}" for v in graph.inputs] + [f"output {_name(v)}" for v in graph.outputs]
    lines += [_const_line(k, a) for k, a in graph.constants.items()]
    lines += [_value_line(k, t) for k, t in graph.values.items()]
    lines += [print_op(op) for op in graph.ops]
    return "\n".join(lines) + "\n"


def print_train(train: TrainGraph) -> str:
    """The backward half in the same syntax (for reading; it is derived, never parsed)."""
    lines = [f"train {_name(train.forward.name)}"]
    lines += [f"option {_name(k)} {json.dumps(v)}" for k, v in train.options.items()]
    lines += [f"saved {_name(v)}" for v in sorted(train.saved)]
    lines += [_const_line(k, a) for k, a in train.constants.items()]
    lines += [_value_line(k, t) for k, t in train.values.items()]
    lines += [print_op(op) for op in train.ops]
    return "\n".join(lines) + "\n"


# -- parsing ------------------------------------------------------------------------------------------------------------


class _Line:
    """Tokens of one line, with positions for error messages."""

    def __init__(self, text: str, number: int, file: str) -> None:
        self.text, self.number, self.file = text, number, file
        self.tokens: list[tuple[str, str, int]] = []
        at = 0
        while text[at:].strip():
            m = _TOKEN.match(text, at)
            if m is None:
                start = at + len(text[at:]) - len(text[at:].lstrip())
                raise self.error(f"unexpected {text[start]!r}", start)
            kind = m.lastgroup or ""
            self.tokens.append((kind, m.group(kind), m.start(kind)))
            at = m.end()
        self.next = 0

    def error(self, message: str, column: int | None = None, hint: str = "") -> SasError:
        if column is None:
            column = self.tokens[self.next][2] if self.next < len(self.tokens) else len(self.text)
        return SasError(message, span=Span(self.file, self.number, column + 1, self.text), hint=hint)

    def peek(self) -> str:
        return self.tokens[self.next][1] if self.next < len(self.tokens) else ""

    def take(self, what: str, *kinds: str) -> str:
        if self.next >= len(self.tokens) or self.tokens[self.next][0] not in kinds:
            raise self.error(
                f"expected {what}, found {self.peek()!r}" if self.peek() else f"expected {what}, found the end of the line"
            )
        self.next += 1
        return self.tokens[self.next - 1][1]

    def mark(self, text: str) -> None:
        if self.peek() != text:
            raise self.error(f"expected {text!r}, found {self.peek() or 'the end of the line'!r}")
        self.next += 1

    def accept(self, text: str) -> bool:
        if self.peek() == text:
            self.next += 1
            return True
        return False

    def name(self, what: str) -> str:
        column = self.next
        text = self.take(what, "word", "string")
        if not text.startswith('"'):
            return text
        try:
            return str(json.loads(text))
        except ValueError:
            self.next = column
            raise self.error(f"bad escape in {text}") from None

    def integer(self, what: str) -> int:
        value = self.value(what)
        if type(value) is not int:
            self.next -= 1
            raise self.error(f"expected {what}, an integer")
        return value

    def value(self, what: str) -> Attr:
        """Number, string, boolean, or a tuple of them."""
        if self.accept("("):
            items: list[Any] = []
            while not self.accept(")"):
                items.append(self.value(what))
                if not self.accept(","):
                    self.mark(")")
                    break
            return tuple(items)
        text = self.peek()
        if text in ("true", "false"):
            self.next += 1
            return text == "true"
        if text.startswith('"'):
            return self.name(what)
        text = self.take(what, "number")
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)

    def end(self) -> None:
        if self.next < len(self.tokens):
            raise self.error(f"unexpected {self.peek()!r} at the end of the statement")


class _Parser:
    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = arrays
        self.graph_name = ""
        self.notes: dict[str, str] = {}
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.values: dict[str, TensorType] = {}
        self.constants: dict[str, Array] = {}
        self.ops: list[Op] = []

    def statement(self, line: _Line) -> None:
        word = line.take("a statement", "word")
        run = {
            "graph": self.head, "note": self.note, "input": self.input, "output": self.output,
            "const": self.const, "value": self.value, "op": self.op,
        }  # fmt: skip
        if word not in run:
            raise line.error(
                f"unknown statement {word!r}", line.tokens[0][2], near(word, list(run)) or f"one of {', '.join(run)}"
            )
        run[word](line)
        line.end()

    def head(self, line: _Line) -> None:
        self.graph_name = line.name("the graph's name")

    def note(self, line: _Line) -> None:
        key = line.name("a key")
        self.notes[key] = line.name("a string")

    def input(self, line: _Line) -> None:
        self.inputs.append(line.name("a value"))

    def output(self, line: _Line) -> None:
        self.outputs.append(line.name("a value"))

    def shape(self, line: _Line) -> tuple[int, ...]:
        dims: list[int] = []
        line.mark("[")
        while not line.accept("]"):
            dims.append(line.integer("a size"))
            if not line.accept(","):
                line.mark("]")
                break
        return tuple(dims)

    def const(self, line: _Line) -> None:
        name, dtype = line.name("a constant's name"), line.take("an element type", "word")
        shape = self.shape(line)
        if line.accept("external"):
            if name not in self.arrays:
                raise line.error(f"constant {name!r} is external and was not given", line.tokens[1][2])
            found = self.arrays[name]
            if found.dtype.name != dtype or found.shape != shape:
                raise line.error(f"constant {name!r} was given as {found.dtype.name}{list(found.shape)}", line.tokens[1][2])
            self.constants[name] = found
            return
        line.mark("=")
        line.mark("[")
        items: list[Any] = []
        while not line.accept("]"):
            items.append(line.value("an element"))
            if not line.accept(","):
                line.mark("]")
                break
        try:
            self.constants[name] = np.array(items, dtype=dtype).reshape(shape)
        except (TypeError, ValueError, OverflowError) as e:
            raise line.error(f"constant {name!r} is not {dtype}{list(shape)}: {e}", line.tokens[1][2]) from e

    def value(self, line: _Line) -> None:
        name = line.name("a value")
        line.mark(":")
        dtype = line.take("an element type", "word")
        if dtype not in DTYPES:
            line.next -= 1
            raise line.error(f"unknown element type {dtype!r}", hint=f"one of {', '.join(DTYPES)}")
        shape = self.shape(line)
        if len(shape) != 3:
            raise line.error(f"shape {shape} of {name!r} is not height, width, channels", line.tokens[1][2])
        scale, zero = 1.0, 0
        if line.accept("scale"):
            line.mark("=")
            scale = float(line.take("a number", "number"))
        if line.accept("zero"):
            line.mark("=")
            zero = line.integer("a zero point")
        layout, sizes = None, (shape[0], shape[1], shape[2])
        if line.accept("axes"):
            line.mark("=")
            text = line.name("the axes, a string")
            try:
                layout = Layout.parse(text, sizes)
            except ValueError as e:
                line.next -= 1
                raise line.error(f"axes {text!r}: {e}", hint='like "C H W", or "C*H*W" after a Flatten') from None
        if name in self.values:
            raise line.error(f"value {name!r} is declared twice", line.tokens[1][2])
        self.values[name] = TensorType(dtype, sizes, scale, zero, layout)

    def op(self, line: _Line) -> None:
        output, kind = "", line.name("a kind or an output")
        if line.accept("="):
            output, kind = kind, line.take("a kind", "word")
        inputs: list[str] = []
        line.mark("(")
        while not line.accept(")"):
            inputs.append(line.name("a value"))
            if not line.accept(","):
                line.mark(")")
                break
        attrs: dict[str, Attr] = {}
        consts: dict[str, str] = {}
        if line.peek() == "{":
            self.pairs(line, lambda key: attrs.__setitem__(key, line.value("a value")))
        if line.accept("consts"):
            self.pairs(line, lambda key: consts.__setitem__(key, line.name("a constant's name")))
        texts = {"name": "", "origin": "", "by": ""}
        for key in texts:
            if line.accept(key):
                texts[key] = line.name("a string")
        self.ops.append(Op(texts["name"], kind, tuple(inputs), output, attrs, consts, texts["origin"], texts["by"]))

    def pairs(self, line: _Line, read: Any) -> None:
        line.mark("{")
        while not line.accept("}"):
            key = line.name("a key")
            line.mark("=")
            read(key)
            if not line.accept(","):
                line.mark("}")
                break


def parse_graph(text: str, *, arrays: Mapping[str, Array] | None = None, file: str = "<ir>") -> Graph:
    """The graph a text describes; ``arrays`` holds its external constants. SasError with line and column on bad text.

    The result is not verified (:func:`sasimc.ir.verify.verify` does that).
    """
    parser = _Parser(arrays or {})
    for number, raw in enumerate(text.split("\n"), 1):
        if raw.strip() and not raw.lstrip().startswith("//"):
            parser.statement(_Line(raw, number, file))
    if not parser.graph_name:
        raise SasError("the text names no graph", span=Span(file, 1, 1), hint="the first statement is: graph NAME")
    return Graph(
        parser.graph_name,
        parser.values,
        tuple(parser.ops),
        parser.constants,
        tuple(parser.inputs),
        tuple(parser.outputs),
        parser.notes,
    )
