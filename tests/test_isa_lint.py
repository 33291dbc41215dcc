"""The linter: one bad example for each finding, with its place; nothing to say about good programs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from isa_programs import SMALL

from sasimc.isa.analysis.lint import lint
from sasimc.isa.errors import Diagnostic
from sasimc.isa.text.assembler import assemble

GOOD = SMALL.replace("    hld x", "    li r5, 0\n    hld x").replace("r5+2:8", "r5:2")

DESCRIPTORS = """.machine "sas28"
.view x buf u8 8x4x2
.view r buf u8 8x4x2 addr=1024 ring=3
.view r4 buf u8 8x4x2 addr=1024 ring=4
.view y buf u8 8x4x2 addr=2048
.view s buf i8 2x1x2 addr=3000
.view wide buf i32 8x4x2 addr=4096
.view h host u8 8x4x2
.view a acc i32 8x4x2
.view big buf u8 300x300x2 addr=8192
.view sum acc i32 1x1x2 addr=1000
.geom g1 kernel=1x1
.geom g3 kernel=3x3 pad=1x1
.geom all kernel=300x300
.tensor "w" i8 2x2 [1, 2, 3, 4]
.mat w dense compute 2x2 tensor="w" frozen
.tile sub=0 size=2x2
.mat v dense compute 2x2 tensor="w" trainable
.tile sub=1 size=2x2
.table q requant zero=0 lo=0 hi=255 bias=[0, 0] mult=[1, 1] shift=[1, 1]
.param batch r1
"""


def findings(code: str, head: str = DESCRIPTORS) -> list[Diagnostic]:
    """Findings for a piece of code behind the descriptors."""
    text = head + code
    return lint(assemble(text, "t.s"), text)


def test_a_good_program() -> None:
    assert lint(assemble(GOOD), GOOD) == []


BAD = [
    ("read before write", "vmm a, x, w, g1, all\nreq y, a, q, all\nhalt\n", "error", "reads row 0 of x before anything was written there", 1),
    ("partly written", "fill x, 1, r0:5\nvmm a, x, w, g1, r0:6\nreq y, a, q, r0:6\nhalt\n", "error", "reads row 5 of x before", 2),
    ("window beyond", "fill x, 1, r0:5\npavg a, x, g3, r0:5\nreq y, a, q, r0:5\nhalt\n", "error", "reads row 5 of x before", 2),
    ("in a loop", "fill x, 1, r0:4\nli r8, 0\nloopi 3\nclip y, x, 0, 9, r8:2\naddi r8, r8, 2\nendl\nhalt\n", "error", "reads row 4 of x", 4),
    ("scalar operand", "li r2, 0\nargmax r3, s1\nhalt\n", "error", "reads row 0 of s1", 2),
    ("ring too small", "fill r, 1, all\nclip y, r, 0, 9, r0:4\nhalt\n", "error", "whose ring holds 3", 2),
    ("ring overwritten", "fill r, 1, r0:3\nfill r, 1, 3:1\nclip y, r, 0, 9, r0:1\nhalt\n", "error", "reads row 0 of r, but row 3 stands in its place", 3),
    ("ring not yet filled", "fill r, 1, 0:2\nfill r, 1, 2:1\npavg a, r, g3, 2:1\nreq y, a, q, 2:1\nhalt\n", "error", "but row 0 stands", 3),
    ("rows of a copy", "fill x, 1, all\ncpy y, x, 3, all\nhalt\n", "error", "rows 3..10 of y, which has 8", 2),
    ("frozen", "fill s, 1, all\nwrr w, s, all\nhalt\n", "error", "writes to the frozen matrix w", 2),
    ("no halt", "nop\n", "error", "runs past the last instruction", 1),
    ("runs on", ".entry a\nsync\n.entry b\nhalt\n", "warning", "entry a runs on into entry b", 4),
    ("unreachable", ".entry a\nhalt\nsync\nsync\n", "warning", "this and the next 1 instructions are never reached", 3),
    ("empty loop", "loopi 0\nsync\nendl\nhalt\n", "warning", "a loop of 0 iterations never runs", 1),
    ("write to r0", "li r0, 4\nhalt\n", "warning", "r0 always reads 0; this write is lost", 1),
    ("register", "addi r4, r9, 1\nhalt\n", "warning", "r9 is read before this entry writes it", 1),
    ("left-over sums", "fill x, 1, all\npavg a, x, g1, all\nhalt\n", "warning", "accumulator 0 still holds a sum when entry main ends", 3),
    ("drains nothing", "drain wide, a, all\nhalt\n", "warning", "drains sums to which nothing was added", 1),
    ("sums of two layers mixed", "fill x, 1, all\npavg a, x, g1, all\npavg n, x, g1, 0:1\nreq s8, n, q, 0:1\nreq y, a, q, all\nhalt\n", "warning",
     "adds to sums of a that were not drained", 3),
    ("drained otherwise", "fill x, 1, all\npavg a, x, g1, all\ndrain w4, a4, all\nhalt\n", "warning",
     "drains sums that were collected through a, which is laid out otherwise", 3),
    ("missing load", "fill wide, 1, all\nclip y, x9, 0, 9, all\nhalt\n", "warning",
     "reads x9 as 8-bit numbers where 32-bit numbers were written", 2),
    ("overflow in one instruction", "fill big, 255, all\nloopi 100\npavg sum, big, all, all\nendl\nreq s8, sum, q, all\nhalt\n", "warning",
     "sums in sum may reach 2.16e+09, beyond 32 bits", 3),
    ("overflow over a batch", "fill big, 255, all\nloop r1\npavg sum, big, all, all\nendl\nreq s8, sum, q, all\nhalt\n", "warning", "beyond 32 bits", 4),
]  # fmt: skip


@pytest.mark.parametrize(("code", "severity", "message", "line"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_findings(code: str, severity: str, message: str, line: int) -> None:
    head = (
        DESCRIPTORS
        + '.view s1 buf u8 1x1x2 addr=3000\n.view s8 buf u8 1x1x2 addr=3004\n.view n acc i32 1x1x2\n.view a4 acc i32 4x8x2\n.view w4 buf i32 4x8x2 addr=4096\n.view x9 buf u8 8x4x2 addr=4100\n.meta batch "99"\n'
    )
    found = findings(code.replace("nop", "sync"), head)
    assert [(d.severity, message in d.message, d.span.line if d.span else 0) for d in found if message in d.message] == [
        (severity, True, head.count("\n") + line)
    ], [str(d) for d in found]
    assert len(found) == 1, [str(d) for d in found]


def test_what_is_not_certain_is_no_error() -> None:
    assert (
        findings(
            "ldw r3, label, r0\nfill x, 1, r3:2\nclip y, x, 0, 9, all\nhalt\n",
            DESCRIPTORS + ".view label host i32 1x1x1 addr=512\n",
        )
        == []
    )
    code = "li r8, 0\nloop r1\nfill x, 1, r8:1\naddi r8, r8, 1\nendl\nclip y, x, 0, 9, r8-1:1\nhalt\n"
    assert findings(code) == []
    assert findings("fill r, 1, r0:3\nfill r, 1, 3:1\nclip y, r, 0, 9, 1:3\nhalt\n") == []


def test_ring_through_a_batch_loop_and_stripes() -> None:
    code = """li r2, 0
loop r1
  hld x, h, r2, all
  li r8, 0
  loopi 4
    cpy r4, x, 0, r8:2
    clip y, r4, 0, 9, r8:2
    addi r8, r8, 2
  endl
  hst h, y, r2, all
  addi r2, r2, 1
endl
halt
"""
    assert findings(code) == []


def test_overlapping_matrices_and_mixed_subarrays() -> None:
    ok = "sync\nhalt\n"
    head = DESCRIPTORS + '.mat u dense compute 2x2 tensor="w" frozen\n.tile sub=1 row=1 col=1 size=2x2\n'
    (d,) = findings(ok, head)
    assert d.message == "u and v share cells of sub-array 1 (row 1, column 1)"
    assert d.span
    assert d.span.line == head[: head.index(".mat u")].count("\n") + 1
    (d,) = findings(ok, DESCRIPTORS + '.mat u dense transposable 2x2 tensor="w" frozen\n.tile sub=1 row=4 size=2x2\n')
    assert "sub-array 1 is compute for v and transposable for u" in d.message
    head = (
        DESCRIPTORS
        + '.set transposed.subarrays=1\n.mat u dense transposable 2x2 tensor="w" frozen\n.tile sub=5 size=1x2\n.tile sub=6 k=1 size=1x2\n'
    )
    (d,) = findings(ok, head)
    assert "2 transposable sub-arrays are used; the machine has 1" in d.message


def test_copies_that_cannot_work_together() -> None:
    code = "fill x, 1, all\nvmm a, x, c, g1, all\nreq y, a, q, all\nhalt\n"
    head = (
        DESCRIPTORS + '.mat c dense compute 2x2 tensor="w" frozen\n.tile sub=5 size=2x2\n.tile sub=OTHER row=8 size=2x2 copy=1\n'
    )
    assert findings(code, head.replace("OTHER", "6")) == []
    (d,) = findings(code, head.replace("OTHER", "64"))
    assert d.severity == "warning"
    assert "the 2 copies of c cannot work at the same time" in d.message


def test_programs_without_text_name_the_instruction() -> None:
    p = assemble(GOOD)
    p = replace(p, code=tuple(replace(i, line=0) for i in p.code if i.spec.mnemonic != "hld"))
    (d,) = lint(p)
    assert d.where == "instruction 2 (vmm a, x, w, g, r5:2) [conv0]"
    assert d.severity == "error"


def test_every_load_of_a_good_program_matters() -> None:
    """Leaving any instruction that brings data out of a good program is noticed."""
    text = GOOD
    for line in [line for line in text.split("\n") if line.strip().startswith(("hld", "vmm"))]:
        broken = text.replace(line + "\n", "")
        assert lint(assemble(broken), broken), line


def test_initial_contents_of_tests() -> None:
    text = DESCRIPTORS + "clip y, x, 0, 9, all\nhalt\n"
    assert [d.severity for d in lint(assemble(text), text)] == ["error"]
    assert lint(assemble(text), text, initialised=["x"]) == []
