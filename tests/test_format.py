"""The formatter: canonical text stays, any text keeps its meaning and its comments."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isa_programs import programs

from sasimc.cli.common import invoke
from sasimc.cli.sasc import app
from sasimc.isa.program import Program
from sasimc.isa.text.assembler import assemble
from sasimc.isa.text.format import format_text
from sasimc.isa.text.printer import format_program

EXAMPLES = Path(__file__).parents[1] / "examples"
QUIET = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@QUIET
@given(programs())
def test_the_text_of_the_printer_is_canonical(program: Program) -> None:
    text = format_program(program)
    assert format_text(text) == text


@QUIET
@given(programs(), st.integers(0, 1 << 30))
def test_any_spacing_comes_back_to_the_canonical_text(program: Program, seed: int) -> None:
    text, rng = format_program(program), random.Random(seed)

    def spoil(line: str) -> str:
        if '"' in line or "[" in line or line.lstrip().endswith(",") or line.endswith("]"):
            return line
        words = re.split(r"(, | )", line.strip())
        return (
            rng.choice(["", " ", "\t", "     "])
            + "".join({", ": rng.choice([",", " , ", ",   "]), " ": rng.choice([" ", "   ", "\t"])}.get(w, w) for w in words)
            + rng.choice(["", "  "])
        )

    assert format_text("\n".join(map(spoil, text.split("\n")))) == text


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.s")), ids=lambda p: p.name)
def test_hand_written_programs_keep_meaning_and_comments(path: Path) -> None:
    text = path.read_text()
    new = format_text(text)
    assert format_text(new) == new
    assert format_program(assemble(new)) == format_program(assemble(text))
    comments = re.compile(r"[;#].*")
    assert comments.findall(new) == comments.findall(text)


def test_what_is_wrong_stays_as_it_is() -> None:
    text = ".code\n  halt  ; end\nvmm a,, b   \n   loop   r1\nli r1,5 # five\n endl\n"
    assert format_text(text) == ".code\n    halt  ; end\nvmm a,, b\n    loop r1\n      li r1, 5  # five\n    endl\n"


def test_the_command_writes_checks_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.s"
    path.write_text(".code\nhalt\r\n", newline="")
    assert invoke(app, ["fmt", "--check", str(path)]) == 1
    assert path.read_bytes() == b".code\nhalt\r\n"
    assert invoke(app, ["fmt", str(path)]) == 0
    assert path.read_bytes() == b".code\r\n    halt\r\n"
    assert invoke(app, ["fmt", "--check", str(path)]) == 0
    path.write_bytes(b"\xff\xfe")
    assert invoke(app, ["fmt", str(path)]) == 2
    assert path.read_bytes() == b"\xff\xfe"
    assert "UTF-8" in capsys.readouterr().err
