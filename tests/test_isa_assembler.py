"""The assembler: grammar and fast path agree; every kind of mistake has its message and its place; all mistakes of a text are reported."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isa_programs import SMALL

from sasimc.isa.errors import DiagnosticsError
from sasimc.isa.spec import RowRange
from sasimc.isa.text.assembler import assemble, assemble_source
from sasimc.isa.text.printer import format_program
from sasimc.isa.text.syntax import Source, SyntaxProblem, _fast, parse_slowly, scan

WORDS = st.sampled_from(
    [
        ".view",
        "vmm",
        "x",
        "r5+2:8",
        "r1:3",
        "-4:2",
        "7",
        "-12",
        "0x1f",
        "3x3",
        "1e-6",
        '"a b"',
        '@"t"',
        "=",
        ",",
        "[",
        "]",
        "*",
        " ",
        "; c",
        "k",
        "$",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=10))
def test_fast_path_agrees_with_the_grammar(words: list[str]) -> None:
    source = Source("t", [" ".join(words)])
    for tokens, first, last in scan(source):
        fast = _fast(tokens)
        try:
            slow = parse_slowly(source, first, last)
        except SyntaxProblem:
            assert fast is None
            continue
        assert fast in (None, slow)


def test_fast_path_takes_all_canonical_text() -> None:
    text = format_program(assemble(SMALL))
    source = Source("t", text.split("\n"))
    for tokens, first, last in scan(source):
        assert _fast(tokens) == parse_slowly(source, first, last)


def test_program_of_a_text() -> None:
    p = assemble(SMALL, "small.s")
    assert [i.spec.mnemonic for i in p.code] == ["hld", "loopi", "vmm", "req", "addi", "endl", "halt"]
    assert p.code[2].operands == ("a", "x", "w", "g", RowRange(5, 2, 8))
    assert p.code[2].line == 21
    assert (p.code[2].origin.node, p.code[2].origin.made_by) == ("conv0", "emit")
    assert p.entries == {"infer": 0}
    assert p.params == {"batch": 1}
    assert p.views["y"].row == 12
    assert p.matrix_values(p.matrices["w"]).tolist() == [[1, 2, 3], [-4, -5, -6]]
    assert p.lines["view", "x"] == 6
    assert p.source == "small.s"


def test_lists_numbers_and_continuation() -> None:
    text = '.tensor "t" i32 2x3 [1, -0x10,  ; a comment\n  7*3, 1_000]\nhalt\n'
    p = assemble(text)
    assert p.tensors["t"].tolist() == [[1, -16, 7], [7, 7, 1000]]
    assert p.tensors["t"].dtype == np.int32
    assert p.entries == {"main": 0}
    assert assemble("halt\r\n").code[0].line == 1


def test_other_machine_from_text_alone() -> None:
    p = assemble(
        SMALL.replace('.machine "sas28"', '.machine "tiny"\n.set array.banks=[4, 4] activation.banks=[1, 4]\n.set array.rows=32')
    )
    assert (p.machine.subarrays, p.machine.array.rows, p.machine.name) == (64, 32, "tiny")
    text = format_program(p)
    assert assemble(text).machine == p.machine
    assert assemble('halt\n.set bit_serial.zero_skip="energy" transposed.subarrays=4 clock_hz=1.5e6\n').machine.clock_hz == 1.5e6
    with pytest.raises(DiagnosticsError, match="a text stands in quotes"):
        assemble("halt\n.set activation.rule=free\n")
    with pytest.raises(DiagnosticsError, match="the machine described here has the digest"):
        assemble(text.replace(".set array.rows=32\n", ""))


def test_speed_of_a_large_program() -> None:
    views = "\n".join(f".view v{i} buf u8 8x8x4 addr={i * 4} ring=4" for i in range(2000))
    code = "\n".join(f'.loc "n{i}" "emit"\n    fill v{i % 2000}, {i % 200}, r5+{i % 7}:8' for i in range(4000))
    start = time.process_time()
    p = assemble(f"{views}\n{code}\nhalt\n")
    assert len(p.code) == 4001
    assert time.process_time() - start < 3  # measured 0.5 s; loading a training program must stay under 3 s


def _bad(old: str, new: str) -> str:
    assert old in SMALL
    return SMALL.replace(old, new, 1)


# every kind of mistake: text, message, line and column it must point at
BAD: list[tuple[str, str, str, str, tuple[int, int]]] = [
    ("unknown instruction", "vmm a, x", "vmn a, x", "unknown instruction 'vmn'", (21, 7)),
    ("too few operands", "vmm a, x, w, g, r5+2:8", "vmm a, x", "vmm takes 5 operands (acc, x, mat, geom, rows), not 2", (21, 7)),
    ("too many operands", "endl", "endl 3", "endl takes 0 operands (none), not 1", (24, 5)),
    ("unknown view", "vmm a, x", "vmm a, xx", "there is no view 'xx'", (21, 14)),
    ("unknown matrix", "x, w, g", "x, v, g", "there is no matrix 'v'", (21, 17)),
    ("unknown geometry", "w, g, r5", "w, h, r5", "there is no geometry 'h'", (21, 20)),
    ("unknown table", "a, t, r5", "a, tt, r5", "there is no table 'tt'", (22, 17)),
    ("view instead of register", "addi r5, r5, 2", "addi x, r5, 2", "expected a register r0..r63, found 'x'", (23, 12)),
    ("no such register", "addi r5, r5, 2", "addi r64, r5, 2", "expected a register r0..r63, found 'r64'", (23, 12)),
    ("register beyond the machine", '.machine "sas28"', ".set controller.registers=8\n.meta k \"\"\nli r9, 1", "no register r9 (r0..r7)", (4, 4)),
    ("immediate too large", "addi r5, r5, 2", "addi r5, r5, 0x80000000", "outside -2147483648..2147483647", (23, 20)),
    ("not a number", "addi r5, r5, 2", "addi r5, r5, 2z", "value must be an integer, not '2z'", (23, 20)),
    ("row range missing", "r5+2:8\n      req", "8\n      req", "expected a row range such as r5+2:8 or all, found '8'", (21, 23)),
    ("row count zero", "r5+2:8\n      req", "r5+2:0\n      req", "row count 0 is outside 1..65535", (21, 23)),
    ("row offset too large", "r5+2:8\n      req", "r5+40000:8\n      req", "row offset +40000 is outside", (21, 23)),
    ("wrong memory space", "vmm a, x", "vmm x, x", "x is a view on the buffer; acc must be on accumulators", (21, 11)),
    ("wrong type", "i8 4x4x2\n.view y", "i32 4x4x2\n.view y", "x is i32; x must be u8 or i8", (21, 14)),
    ("operands do not agree", ".geom g kernel=1x1", ".geom g kernel=3x3", "w has 2 rows; a window of 9 x 2 channels gives 18", (21, 7)),
    ("wrong table length", "bias=[0, 0, 0] mult=[0x40000000, 0x40000000, 0x40000000] shift=[31, 31, 31]",
     "bias=[0] mult=[1] shift=[31]", "t has 1 values of bias; y has 3 channels", (22, 17)),
    ("table arrays differ", "bias=[0, 0, 0]", "bias=[0, 0]", "its arrays differ in length: bias 2, mult 3, shift 3", (13, 1)),
    ("shift out of range", "shift=[31, 31, 31]", "shift=[31, 63, 31]", "shift has 63, outside 0..62", (13, 1)),
    ("missing comma", "vmm a, x", "vmm a x", "expected ',' or the end of the line, found 'x'", (21, 13)),
    ("bad character", "endl", "endl !", "unexpected character '!'", (24, 10)),
    ("string not closed", '.loc "conv0"', '.loc "conv0', "this string is not closed", (18, 18)),
    ("list not closed", "[1, 2, 3, -4, -5, -6]", "[1, 2, 3", "expected '*', ',' or ']', but the statement ends", (15, 28)),
    ("missing value", "addr=64", "addr=", "but the statement ends", (7, 27)),
    ("unknown directive", ".geom g", ".goem g", "unknown directive .goem", (10, 1)),
    ("unknown key", "addr=64", "adr=64", ".view has no 'adr'", (7, 22)),
    ("key twice", "addr=64", "addr=64 addr=2", "addr is given twice", (7, 30)),
    ("left-over argument", "addr=64", "addr=64 9", ".view takes no argument '9' here", (7, 30)),
    ("declared twice", ".view y", ".view x", "view x is already declared in line 6", (7, 7)),
    ("bad size", "4x4x3 addr", "4x4 addr", "the shape must be a size of 3 numbers, not '4x4'", (7, 16)),
    ("empty size", "4x4x3 addr", "4x0x3 addr", "the shape has 0, outside 1..", (7, 16)),
    ("beyond the buffer", "addr=64", "addr=401400", "ends at 401448, beyond the buffer (401408 bytes)", (7, 1)),
    ("beyond the accumulators", "acc i32 4x4x3", "acc i32 4x4x3 addr=65530", "beyond the accumulators (65536 words)", (8, 1)),
    ("misaligned", ".view in host i8 4x4x2 batch=32", ".view in host i32 4x4x2 addr=2", "addr is 2, not a multiple of 4 as i32 needs", (9, 1)),
    ("pad out of range", "addr=64", "addr=64 pad=200", "pad 200 is not a value of i8", (7, 1)),
    ("unknown type", "buf i8 4x4x3", "buf i9 4x4x3", "the type is 'i9', not one of u8, i8, i32, bit", (7, 13)),
    ("tile outside the sub-array", "size=2x3", "row=63 size=2x3", "a tile ends at row 65 of 64 in sub-array 0", (11, 1)),
    ("tile outside the matrix", "size=2x3", "size=3x3", "leaves the 2 x 3 matrix", (11, 1)),
    ("no such sub-array", "sub=0", "sub=1024", "sub-array 1024 is not one of the machine's 1024", (11, 1)),
    ("weights without a place", "size=2x3", "size=2x2", "weight (0, 2) of copy 0 stands in no tile", (11, 1)),
    ("weights twice", ".tile sub=0 size=2x3", ".tile sub=0 size=2x3\n.tile sub=1 size=1x1", "that another tile holds already", (11, 1)),
    ("tile without matrix", ".mat w dense compute 2x3 tensor=\"w\" frozen\n", "", "a .tile belongs to the .mat before it", (11, 1)),
    ("no tensor", 'tensor="w" frozen', 'tensor="v" frozen', "there is no tensor 'v'", (11, 33)),
    ("tensor of another size", "compute 2x3", "compute 3x3", "tensor 'w' has 6 elements; the matrix 9", (11, 33)),
    ("tensor of another type", '"w" i8', '"w" i32', "tensor 'w' is int32; weights are int8", (11, 33)),
    ("list of another size", "-5, -6]", "-5]", "tensor 'w' has 6 elements, the list 5", (15, 20)),
    ("value does not fit", "-5, -6]", "-5, -600]", "a value of tensor 'w' is outside -128..127", (15, 20)),
    ("unknown machine field", '.machine "sas28"', ".set array.bank=[4, 4]", "the machine has no field 'array.bank'", (2, 6)),
    ("bad machine value", '.machine "sas28"', ".set array.rows=-1", "array.rows: -1 is not a whole number from 4 to 4096", (2, 6)),
    ("inconsistent machine", '.machine "sas28"', ".set array.banks=[3, 5]", "does not divide", (2, 6)),
    ("version", ".sas 1", ".sas 7", "this is SAS assembly 7; this toolchain reads version 1", (1, 6)),
    ("loop without end", "    endl\n", "", "this loop has no endl", (20, 5)),
    ("end without loop", "    loopi 2\n", "", "endl without a loop", (23, 5)),
    ("loops too deep", "    loopi 2\n", "loopi 1\n" * 9, "loops are nested 9 deep; the machine has 8", (28, 1)),
    ("entry without code", "    halt\n", "    halt\n.entry late\n", "entry late has no instruction", (25, 5)),
    ("entry in a loop", "      req", ".entry inner\n      req", "entry inner begins inside a loop", (23, 7)),
    ("wrong section", ".data\n", "", ".tensor belongs into the section .data, this is .desc", (14, 1)),
    ("code in the wrong section", ".code\n", "", "instructions belong into the section .code, this is .data", (18, 5)),
    ("nothing", SMALL, "\n; empty\n", "there is no instruction", (1, 1)),
    ("init of another size", "    halt\n", "    halt\n.tests\n.init x [1]\n", "x has 32 elements (4x4x2), the list 1", (27, 9)),
    ("expectation out of range", "    halt\n", "    halt\n.tests\n.expect y 200\n", "200 is not a value of y (-128..127)", (27, 11)),
    ("unknown event", "    halt\n", "    halt\n.tests\n.expect_event sense_one 1\n", "there is no event 'sense_one'", (27, 15)),
    ("unknown engine", "    halt\n", "    halt\n.tests\n.run infer fast\n", "the engine is 'fast'", (27, 12)),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message", "place"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_mistakes(old: str, new: str, message: str, place: tuple[int, int]) -> None:
    with pytest.raises(DiagnosticsError) as caught:
        assemble(_bad(old, new), "bad.s")
    found = [(d.message, (d.span.line, d.span.column)) for d in caught.value.diagnostics if d.span]
    assert any(message in text and at == place for text, at in found), found
    first = caught.value.diagnostics[0]
    assert first.span
    assert str(caught.value).startswith(f"bad.s:{first.span.line}:{first.span.column}: error: ")
    assert "^" in str(caught.value) or not first.span.text


def test_near_names() -> None:
    for old, new, hint in (
        ("vmm a", "vmmm a", "did you mean 'vmm', 'vmmt', 'vmma'?"),
        ("req y,", "req yy,", "did you mean 'y'?"),
        (".geom g", ".goem g", "did you mean '.geom'"),
        ("addr=64", "adr=64", "did you mean 'addr'"),
    ):
        with pytest.raises(DiagnosticsError) as caught:
            assemble(_bad(old, new))
        assert any(d.hint.startswith(hint) for d in caught.value.diagnostics), [d.hint for d in caught.value.diagnostics]


def test_all_mistakes_of_a_text_in_order() -> None:
    text = (
        SMALL.replace("vmm a", "vmn a")
        .replace("addi r5, r5", "addi r5 r5")
        .replace("4x4x3 addr=64", "4x4 addr=64")
        .replace("loopi 2", "loopi two")
    )
    with pytest.raises(DiagnosticsError) as caught:
        assemble(text, "bad.s")
    lines = [d.span.line for d in caught.value.diagnostics if d.span]
    assert lines == [7, 20, 21, 23]  # the view that could not be declared is not reported again where it is used
    assert "bad.s:20:11: error: count must be an integer" in str(caught.value)


def test_an_unclosed_list_does_not_swallow_the_file() -> None:
    with pytest.raises(DiagnosticsError) as caught:
        assemble(SMALL.replace("-5, -6]", "-5, -6").replace("vmm a", "vmn a"))
    assert [d.span.line for d in caught.value.diagnostics if d.span] == [15, 21]


def test_test_directives() -> None:
    text = (
        SMALL
        + '.tests\n.test "one"\n.init x 1\n.init_reg r1 3\n.run infer step fused\n.expect y [0*48]\n.expect_cycles 10\n.test two\n'
    )
    text += '.init_mat w [1*6]\n.run infer\n.expect_trap "overflow"\n.expect in [2*32] sample=1\n'
    assembly = assemble_source(text)
    one, two = assembly.tests
    assert [t.name for t in assembly.tests] == ["one", "two"]
    assert one.initials[0].values.tolist() == [1] * 32
    assert (one.initials[1].kind, one.initials[1].name) == ("reg", "1")
    assert one.runs[0].engines == ("step", "fused")
    assert two.runs[0].engines == ("step", "bitserial", "fused")
    assert [e.kind for e in two.expectations] == ["trap", "view"]
    assert two.expectations[1].sample == 1


def _attempt(text: str) -> str | None:
    """Canonical form of a text, or None when it has mistakes; nothing else may happen."""
    try:
        return format_program(assemble(text))
    except DiagnosticsError:
        return None


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_gives_a_program_or_diagnostics(text: str) -> None:
    _attempt(text)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_change_of_a_text_gives_a_program_or_diagnostics(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(SMALL) - 1))
    end = data.draw(st.integers(at, min(len(SMALL), at + 9)))
    change = data.draw(st.text(alphabet='0123456789-xr:+=,[]*".@ abcvy\n;', max_size=6))
    again = _attempt(SMALL[:at] + change + SMALL[end:])
    assert again is None or _attempt(again) == again
