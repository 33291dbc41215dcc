"""``sasc asm``, ``disasm``, ``lint`` and the wrapper that turns failures into messages and exit codes."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from isa_programs import SMALL

from sasimc.cli import sasc as commands
from sasimc.cli.common import invoke, write_json
from sasimc.isa.errors import SasError
from sasimc.isa.text.assembler import assemble
from sasimc.isa.text.printer import format_program

GOOD = SMALL.replace("    hld x", "    li r5, 0\n    hld x").replace("r5+2:8", "r5:2")
Sasc = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sasc(capsys: pytest.CaptureFixture[str]) -> Sasc:
    """Runs the command line; gives exit code, standard output and standard error."""

    def call(*args: object) -> tuple[int, str, str]:
        code = invoke(commands.app, [str(a) for a in args])
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def test_round_trip(tmp_path: Path, sasc: Sasc) -> None:
    source = tmp_path / "p.s"
    source.write_text(format_program(assemble(GOOD)))
    code, out, _ = sasc("asm", source)
    assert code == 0
    assert "8 instructions" in out
    assert sasc("disasm", tmp_path / "p.bin")[:2] == (0, source.read_text())
    assert sasc("disasm", tmp_path / "p.bin", "-o", tmp_path / "q.s")[0] == 0
    assert (tmp_path / "q.s").read_text() == source.read_text()
    for name in ("p.s", "p.bin", "q.s"):
        code, out, err = sasc("lint", tmp_path / name)
        assert (code, err) == (0, "")
        assert out.endswith("8 instructions, 0 errors, 0 warnings\n")


def test_lint_exit_codes(tmp_path: Path, sasc: Sasc) -> None:
    source = tmp_path / "p.s"
    source.write_text("li r0, 3\nhalt\n")
    code, out, _ = sasc("lint", source)
    assert code == 0
    assert f"{source}:1:1: warning: r0 always reads 0; this write is lost\n    li r0, 3\n    ^^^^^^^^" in out
    assert sasc("lint", source, "--strict")[0] == 2
    source.write_text("sync\n")
    code, out, _ = sasc("lint", source)
    assert code == 2
    assert "1 error, 0 warnings" in out
    source.write_text(SMALL + ".tests\n.init y 1\n.run infer\n.expect y 1\n")
    assert sasc("lint", source)[0] == 0


def test_errors_are_messages_and_write_nothing(tmp_path: Path, sasc: Sasc) -> None:
    source = tmp_path / "p.s"
    source.write_text("li r1 5\nvmn\nhalt\n")
    code, _, err = sasc("asm", source)
    assert code == 2
    assert f"{source}:1:7: error: expected ',' or the end of the line" in err
    assert f"{source}:2:1: error: unknown instruction 'vmn'" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == [source]
    for args in (
        ("asm", tmp_path / "none.s"),
        ("lint", tmp_path / "none.s"),
        ("disasm", tmp_path),
        ("asm",),
        ("nonsense",),
        ("asm", source, "-o"),
    ):
        code, _, err = sasc(*args)
        assert code == 2, args
        assert err
        assert "Traceback" not in err
    source.write_text("halt\n")
    for args in (("asm", source, "-o", source), ("asm", source, "-o", tmp_path / "x.s"), ("disasm", source, "-o", source),
                 ("disasm", source, "-o", tmp_path / "x.bin"), ("asm", source, "-o", tmp_path / "no" / "x.bin")):  # fmt: skip
        assert sasc(*args)[0] == 2, args
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("exc", "code", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out.s"), 2, "out.s: no space left on the disk"),
        (PermissionError(errno.EACCES, "Permission denied", "out.s"), 2, "out.s: Permission denied"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 2, "not enough memory"),
        (click.exceptions.Exit(3), 3, ""),
        (click.Abort(), 130, "interrupted"),
    ],
)
def test_failures_of_the_system(exc: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def go() -> None:
        raise exc

    assert invoke(go, []) == code
    assert text in capsys.readouterr().err


def test_reports_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", {"cycles": {"infer": 3}})
    assert (tmp_path / "r.json").read_text() == '{\n  "cycles": {\n    "infer": 3\n  }\n}\n'
    with pytest.raises(SasError, match="cannot write"):
        write_json(tmp_path / "no" / "r.json", {})
