"""The commands as a shell sees them: interrupts, closed pipes, versions, completion, imports, optional packages."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import pytest

import sasimc
from sasimc.cli import sasc, sasdbg, sasrun
from sasimc.cli.common import invoke
from sasimc.cli.options import Choice
from sasimc.runtime.kernels.forms import form

SASC = (sys.executable, "-m", "sasimc.cli.sasc")


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    words = [*SASC, "mtj", "--writes", "9000000", "--threads", "1", "--json", "r.json"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=_interruptible)
    assert process.stderr is not None
    assert process.stderr.readline().startswith(("loading", "simulating"))  # it has been at work for two seconds
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted"
    assert list(tmp_path.iterdir()) == []


def _interruptible() -> None:
    """A shell's background job ignores interrupts; so does what it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "long.s").write_text("    li r1, 5\n" * 20_000 + "    halt\n")
    process = subprocess.Popen(
        [*SASC, "disasm", "long.s"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == ".sas 1\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 0


def test_versions(capsys: pytest.CaptureFixture[str]) -> None:
    for app in (sasc.app, sasrun.app, sasdbg.app):
        assert invoke(app, ["--version"]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"{app.name} {sasimc.__version__}")
        assert f"Python {sys.version_info[0]}.{sys.version_info[1]}" in out
        assert f"kernels: {form()}" in out


@pytest.mark.parametrize(
    "words, found",
    [
        ("sasc comp", {"compile"}),
        ("sasc image ", {"show", "forget"}),
        ("sasc compile --upd", {"--update"}),
        ("sasc compile --update ", {"direct", "accumulate", "momentum"}),
        ("sasrun p.s --engine f", {"fused"}),
        ("sasrun p.s --technology s", {"sas", "sot", "stt", "sram"}),
        ("sasc paper table1 --split ", {"test", "val"}),
    ],
)
def test_completion(words: str, found: set[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the shell's script asks for when Tab is pressed."""
    name = words.split()[0]
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    monkeypatch.setenv(f"_{name.upper()}_COMPLETE", "bash_complete")
    with pytest.raises(SystemExit) as end:
        invoke({"sasc": sasc.app, "sasrun": sasrun.app}[name], [])
    assert end.value.code == 0
    assert {line.split(",", 1)[1] for line in capsys.readouterr().out.splitlines()} == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(sasrun.app, ["--completion", shell]) == 0
    assert "_SASRUN_COMPLETE" in capsys.readouterr().out


def commands(name: str, command: click.Command) -> list[tuple[str, click.Command]]:
    """Every command below one, by its whole name."""
    out = [(name, command)]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for sub in command.list_commands(context):
            found = command.get_command(context, sub)
            assert found is not None
            out += commands(f"{name} {sub}", found)
    return out


EVERY = [*commands("sasc", sasc.app), *commands("sasrun", sasrun.app), *commands("sasdbg", sasdbg.app)]


@pytest.mark.parametrize("name, command", EVERY, ids=[name for name, _ in EVERY])
def test_help_of_every_command(
    name: str, command: click.Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-h` and `--help` say the same; choices are shown; each parameter has a heading and a sentence."""
    monkeypatch.setenv("COLUMNS", "100")
    first, *words = name.split()
    app = {"sasc": sasc.app, "sasrun": sasrun.app, "sasdbg": sasdbg.app}[first]
    assert invoke(app, [*words, "-h"]) == 0
    short = capsys.readouterr().out
    assert invoke(app, [*words, "--help"]) == 0
    assert capsys.readouterr().out == short
    assert command.help
    assert command.help[0].isupper()
    for param in command.params:
        if isinstance(param.type, Choice):
            assert f"[{'|'.join(map(str, param.type.words))}" in short, param.name
        record = param.get_help_record(click.Context(command))
        assert record is not None
        assert record[1].split("  [")[0].rstrip().endswith("."), (param.name, record[1])
        assert hasattr(param, "section"), param.name


def test_one_word_means_one_thing() -> None:
    """An option of several commands takes the same kind of value everywhere."""
    kinds: dict[str, dict[str, str]] = {}
    for name, command in EVERY:
        for param in command.params:
            for word in param.opts if isinstance(param, click.Option) else ():
                kinds.setdefault(word, {})[name] = (
                    "flag" if getattr(param, "is_flag", False) else param.type.name.removesuffix(" range")
                )
    for word, used in kinds.items():
        allowed = {
            "--output",
            "-o",
            "--plot",
            "--machine",
            "--calibrate",
            "--csv",
            "--size",
        }  # a file or a folder; a name or a path; N or HxW
        assert len(set(used.values())) == 1 or word in allowed, (word, used)


@pytest.mark.parametrize(
    ("program", "words"),
    [("sasc", ("-h",)), ("sasc", ("data", "-h")), ("sasc", ("nonsense",)), ("sasc", ("asm", "-h")), ("sasrun", ("-h",))],
)
def test_help_is_fast(program: str, words: Sequence[str]) -> None:
    """Nothing heavy is imported before a command works."""
    heavy = (
        "numpy",
        "onnx",
        "onnxruntime",
        "numba",
        "pydantic",
        "lark",
        "rich",
        "PIL",
        "torch",
        "matplotlib",
        "safetensors",
        "scipy",
    )
    code = (
        f"import sys; from sasimc.cli import {program}; from sasimc.cli.common import invoke; "
        f"invoke({program}.app, {list(words)!r}); print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"}
    )
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "words, package",
    [
        (("mtj", "--plot", "a.png"), "matplotlib"),
        (("paper", "--plot", "."), "matplotlib"),
        (("paper", "table1", "--datasets", "drawn-shapes", "-o", "t"), "torch"),
    ],
)
def test_a_missing_package_is_noticed_before_work_begins(
    words: Sequence[str], package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else real(name, *a))
    monkeypatch.chdir(tmp_path)
    start = time.perf_counter()
    assert invoke(sasc.app, list(words)) == 2
    assert time.perf_counter() - start < 5
    said = capsys.readouterr().err
    assert package in said
    assert "pip install 'sas-imc[" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words, message",
    [
        (("zoo", "mobilenetv2", "-o", "m.txt"), "end the name in .onnx"),
        (("compile", "m.onnx", "-o", "p.onnx"), "end the name in .s or .bin"),
        (("asm", "p.s", "-o", "p.s"), "would be overwritten"),
        (("machine", "show", "nothing.toml"), "nothing.toml"),
        (("report", "r.json"), "r.json"),
        (("energy", "r.json", "--json", "no/x.json"), "cannot write"),
        (("diff", "r.json"), "missing argument 'B'"),
        (("data", "fetch", "peets"), "did you mean 'pets'"),
        (("paper", "--quick", "table1"), "--quick is no option of sasc paper table1"),
        (("paper", "--plot", "none"), "is no folder"),
        (("compil",), "did you mean 'compile'"),
        (("image", "shw", "x"), "did you mean 'show'"),
        (("mtj", "--writes", "many"), "'--writes'"),
        (("compile", "--json", "x.s", "-o", "x.s"), "written twice"),
    ],
)
def test_bad_calls(
    words: Sequence[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(sasc.app, list(words)) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("error: ") or ": error: " in said.err
    assert not said.out
    assert list(tmp_path.iterdir()) == []
