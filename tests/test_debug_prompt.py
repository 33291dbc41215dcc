"""The prompt and the command line of the debugger: the recorded session of the documentation, scripts, device images, trainings, what is refused."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from debug_rings import RINGS
from models import plain_cnn
from tiny_task import dataset, learn, machine, program

from sasimc.api import CompileOptions, compile_model
from sasimc.cli import sasdbg
from sasimc.cli.common import invoke
from sasimc.cli.launch import Launch, open_session
from sasimc.debug.expressions import parse
from sasimc.debug.prompt import COMMANDS, Prompt, command_table
from sasimc.isa.errors import SasError
from sasimc.isa.files import save_program
from sasimc.training.recipe import Recipe

ROOT = Path(__file__).parents[1]


def _run(*words: str | Path) -> int:
    return invoke(sasdbg.app, [*map(str, words), "--engine", "fused", "--threads", "1"])


@pytest.fixture
def rings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    (tmp_path / "rings.s").write_text(RINGS, encoding="utf-8")
    np.save(tmp_path / "in.npy", (np.arange(64) * 37 % 41 - 20).reshape(8, 4, 2))
    return tmp_path / "rings.s"


def test_the_recorded_session(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The page shows what the commands say, word for word."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    page = (ROOT / "docs" / "how-to" / "debug.md").read_text(encoding="utf-8")
    line = next(n for n in page.splitlines() if n.startswith("sasdbg examples/planted.s"))
    recorded = re.findall(r"^```text\n(.*?)^```$", page, flags=re.S | re.M)[0]
    monkeypatch.chdir(ROOT)
    assert _run(*line.split()[1:]) == 0
    assert capsys.readouterr().out == recorded


def test_every_command_says_something_of_use(rings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = [
        "break conv if r2 == 1", "tbreak phase update", "c", "display r3", "display", "where", "list", "list", "print/x x[0, 0, 0]", "p max(a)",
        "tensor y", "tensor x 0", "stripes z", "array 3", "array/b 3 2:4", "bit", "activation", "row", "row", "row", "info breakpoints",
        "info registers", "info run", "info last", "info entries", "info nodes", "info views", "info matrices", "info history",
        "watch z[0, 0, 0]", "rwatch r3", "awatch buf[0:4]", "wwatch cell[3, 2]", "disable 3", "enable 3", "delete 3 4 5 6", "ignore 1 1",
        "condition 1", "condition 1 r3 == 2", "undisplay 1", "set x[0, 0, 0] = 7", "next", "finish", "rs 3", "rn", "rfin", "rc", "goto 12", "s", "n 2",
        "who x[0, 0, 0]", "echo done", "help", "help break", "run", "delete", "against bitserial", "quit",
    ]  # fmt: skip
    (rings.parent / "all.txt").write_text("# everything\n\n" + "\n".join(script), encoding="utf-8")
    assert _run("rings.s", "--set", "r1=3", "--set", "in=in.npy", "-x", "all.txt") == 0
    out = capsys.readouterr().out
    used = {Prompt.command(re.split(r"[ /]", line)[0]).names[0] for line in script}
    assert used == COMMANDS.keys() - {"source"}
    for text in (
        "breakpoint 1, conv", "pass 2 of 3", "w[0:2, 0:3] in word lines 2..3", "sensed ", "row 0", "known up to time",
        "no difference from bitserial", "1 hits", "done\n", "r3 = 0",
    ):  # fmt: skip
        assert text in out, text
    assert all(f"`{n}`" in command_table() for c in COMMANDS.values() for n in c.names)


@pytest.mark.parametrize(
    "command, message",
    [
        ("dance", "there is no command 'dance'"), ("re", "'re' may be"), ("p max(r1", "')' is missing"), ("p nothing", "no register, view"),
        ("p x[9]", "index 9 is outside 0..7"), ("p 1 / 0", "division by 0"), ("p 2 ** 100", "too large"), ("p x == 1 and r1", "has 64 values"),
        ("p r99", "there is no register r99"), ("watch 3 + 4", "is no place"), ("watch host", "which bytes"), ("watch host[0:0]", "which bytes"),
        ("delete 7", "no breakpoint or watchpoint 7"), ("goto", "needs an instant"), ("info", "info about what"), ("array", "which sub-array"),
        ("array 99999", "no sub-array 99999"), ("tensor nothing", "no view, tensor or node"), ("set r0 = 1", "r0 is always 0"), ("set x", "a place and a value"),
        ("bit", "drives no word lines"), ("row", "not done row by row"), ("info last", "nothing was executed"), ("source no.txt", "cannot read no.txt"),
        ("c 0", "no number of times"), ("p __import__('os')", "no part of an expression"), ("against nobody", "nothing to compare with"),
        ("against onnxruntime", "needs the network"), ("p energy(", "an operator is missing"), ("goto -1", "time begins at 0"),
        ("list x", "has 64 values"), ("goto 1.5", "no whole number"), ("p x@1e999", "no whole number"), ("p 0x_", "0x_ is no number"), ("p in@y", "has 96 values"),
        ("p ((9 ** 64) ** 64) ** 64", "too large"), ("p " + "1+" * 900 + "1", "so many parts"), ("p " + "2**-" * 400 + "1", "so many parts"),
    ],
)  # fmt: skip
def test_what_is_refused(rings: Path, capsys: pytest.CaptureFixture[str], command: str, message: str) -> None:
    assert _run("rings.s", "-e", command) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (("no.s",), "cannot read the program"), (("rings.s", "--entry", "mian"), "did you mean 'main'"), (("rings.s", "-x", "no.txt"), "cannot read no.txt"),
        (("rings.s", "--input", "a.png", "--entry", "main"), "exclude each other"), (("rings.s", "--image", "a.sas"), "--image needs"),
        (("rings.s", "--model", "no.onnx"), "there is no file no.onnx"), (("rings.s", "--at-step", "3"), "no training step"),
    ],
)  # fmt: skip
def test_command_lines_that_are_refused(
    rings: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert _run(*words) == 2
    assert message in capsys.readouterr().err


def test_a_pipe_of_commands(rings: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("b *6\nc\n\np pc\n"))
    assert _run("rings.s", "--set", "r1=1") == 0
    assert capsys.readouterr().out.endswith("(sasdbg) p pc\n6\n")


def test_expressions_are_pythons() -> None:
    """Precedence and values of Python, on numbers."""
    texts = [
        "1 + 2 * 3 - -4", "2 ** 3 ** 2", "-2 ** 2", "7 // 2 % 3 << 2 | 1", "1 < 2 < 3 and not 3 < 2", "(1 | 2) & ~1 ^ 5", "0x10 + 0b11 + 1e2", "10 / 4",
        "not 1 == 2 or 1 > 2", "5 % 3 == 2 != 1",
    ]  # fmt: skip
    for text in texts:
        assert parse(text).value(lambda node: 0) == eval(text), text
        assert str(parse(text)) == text
    for deep in ("(" * 100 + "1" + ")" * 100, "1" * 3000):
        with pytest.raises(SasError):
            parse(deep)


def test_a_device_image_and_a_trained_program(tmp_path: Path) -> None:
    """The weights are those that were learned; nothing is written to the image."""
    p = program()
    save_program(p, tmp_path / "p.s")
    learn(tmp_path / "d.sas", p, "roses", dataset(), Recipe.model_validate({"epochs": 1, "batch": 2}))
    before = (tmp_path / "d.sas").read_bytes()
    np.save(tmp_path / "x.npy", np.zeros((8, 8, 3), np.uint8))
    s = open_session(Launch(tmp_path / "p.s", (tmp_path / "x.npy",), image=tmp_path / "d.sas", engine="fused", threads=1))
    assert (tmp_path / "d.sas").read_bytes() == before
    trained = [n for n, m in s.program.matrices.items() if m.trainable and m.kind != "scratch"]
    assert any(not np.array_equal(s.it.read_matrix(n), s.program.matrix_values(s.program.matrices[n])) for n in trained)
    assert s.resume().reason == "end"


def test_a_training_from_a_step_on(tmp_path: Path) -> None:
    model = plain_cnn(size=8, channels=(3,), classes=10)
    save_program(compile_model(model, CompileOptions(batch=2, machine=machine(2))).program, tmp_path / "p.s")
    changes = {"epochs": 1, "limit": 10}
    s = open_session(
        Launch(tmp_path / "p.s", train="drawn-flowers", at_step=3, engine="fused", threads=1, recipe_changes=changes)
    )
    assert (s.position.step, s.history.run) == (3, 2)
    assert s.step(backwards=True).position.step == 2
    with pytest.raises(SasError, match="no training step 99"):
        open_session(
            Launch(tmp_path / "p.s", train="drawn-flowers", at_step=99, engine="fused", threads=1, recipe_changes=changes)
        )
