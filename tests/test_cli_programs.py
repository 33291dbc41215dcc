"""Hand-written programs on the command line: ``sasrun FILE --entry`` against plain integer arithmetic, ``sasc test``, and bad input."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from two_layer_reference import TwoLayer

from sasimc.cli import sasc, sasrun
from sasimc.cli.common import invoke
from sasimc.isa.files import load_program

EXAMPLE = Path(__file__).parents[1] / "examples" / "two_layer.s"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``sasc`` or ``sasrun`` in a folder that holds two_layer.s; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two_layer.s").write_text(EXAMPLE.read_text())

    def call(name: str, *words: object) -> tuple[int, str, str]:
        code = invoke({"sasc": sasc.app, "sasrun": sasrun.app}[name], [str(w) for w in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return code, said.out, said.err

    return call


@pytest.mark.parametrize("engine", ["step", "fused"])
def test_a_training_step_from_files(run: Run, tmp_path: Path, engine: str) -> None:
    """Weights, losses and predictions are those of the reference in plain integers."""
    rng = np.random.default_rng(3)
    x, labels = rng.integers(0, 256, (4, 4)), rng.integers(0, 3, 4)
    program = load_program(EXAMPLE)
    reference = TwoLayer(program.tensors["w1"].astype(np.int64), program.tensors["w2"].astype(np.int64))
    losses = reference.train_step(x, labels, 3)
    np.save("x.npy", x.reshape(4, 1, 1, 4))
    np.save("labels.npy", labels)
    dumps = (
        "--dump",
        "loss=loss.npy",
        "--dump",
        "w1=w1.npy",
        "--dump",
        "w2=w2.npy",
        "--dump",
        "prediction=p.npy",
        "--dump",
        "batch=b.npy",
    )
    words = (
        "--entry",
        "train_step",
        "--entry",
        "infer",
        "--set",
        "batch=4",
        "--set",
        "r2=3",
        "--set",
        "x.host=x.npy",
        "--set",
        "label=labels.npy",
    )
    code, out, err = run("sasrun", "two_layer.s", *words, *dumps, "--engine", engine)
    assert code == 0, err
    assert np.load("loss.npy").reshape(-1).tolist() == losses.tolist()
    assert np.load("w1.npy").tolist() == reference.w1.tolist()
    assert np.load("w2.npy").tolist() == reference.w2.tolist()
    assert np.load("p.npy").shape == (4, 1, 1, 1)
    assert np.load("p.npy").reshape(-1).tolist() == reference.forward(x)[1].argmax(axis=1).tolist()
    assert np.load("b.npy") == 4
    assert "r1 (batch) = 4" in out


def test_report_price_and_trace(run: Run) -> None:
    """The report of such a run is one that the other commands read."""
    words = ("--entry", "train_step", "--set", "batch=1", "--set", "x.host=1,2,3,4", "--json", "r.json", "--trace", "t.json.gz")
    code, out, _ = run("sasrun", "two_layer.s", *words)
    assert code == 0
    report = json.loads(Path("r.json").read_text())
    assert f"{report['cycles']} cycles" in out
    assert report["entries"] == ["train_step"]
    assert report["registers"][1] == 1
    assert sum(report["phase_cycles"].values()) == report["cycles"] > 0
    events = json.loads(gzip.decompress(Path("t.json.gz").read_bytes()))["traceEvents"]
    assert any(e.get("name") == "vmmt" or "vmmt" in str(e.get("args", "")) for e in events)
    for command in (
        ("energy", "r.json"),
        ("diff", "r.json", "r.json", "--technology-b", "stt"),
        ("report", "r.json", "-o", "r.html"),
    ):
        assert run("sasc", *command)[0] == 0
    code, out, _ = run("sasrun", "two_layer.s", *words[:-4], "--cross-check", "1")
    assert code == 0
    assert "identical in values, cycles and events" in out


def test_samples(run: Run) -> None:
    """``view[i]`` and ``view[a:b]`` are samples; the others keep what they hold."""
    words = ("--entry", "infer", "--set", "batch=3", "--set", "x.host[1]=200,30,10,60", "--set", "x.host[2:4]=9,9,9,9,8,8,8,8")
    dumps = ("--dump", "x.host=all.npy", "--dump", "x.host[1]=one.npy", "--dump", "x.host[2:4]=two.npy")
    assert run("sasrun", "two_layer.s", *words, *dumps)[0] == 0
    assert np.load("all.npy").reshape(3, 4).tolist() == [[0] * 4, [200, 30, 10, 60], [9] * 4]
    assert np.load("one.npy").reshape(-1).tolist() == [200, 30, 10, 60]
    assert np.load("two.npy").reshape(2, 4).tolist() == [[9] * 4, [8] * 4]


def test_bit_errors(run: Run) -> None:
    words = (
        "--entry",
        "infer",
        "--set",
        "batch=1",
        "--set",
        "x.host=200,30,10,60",
        "--bit-error-rate",
        "write=0.5",
        "--dump",
        "w1=w.npy",
    )
    assert run("sasrun", "two_layer.s", *words)[0] == 0
    assert np.load("w.npy").tolist() != load_program(EXAMPLE).tensors["w1"].tolist()


@pytest.mark.parametrize(
    "words, message",
    [
        ((), "sasrun two_layer.s --entry infer"),
        (("--set", "batch=1"), "--entry infer or --entry train_step"),
        (("--entry", "infr"), "did you mean 'infer'"),
        (("--entry", "infer", "--set", "batch"), "is not NAME=VALUE"),
        (("--entry", "infer", "--set", "r64=1"), "r1 to r63"),
        (("--entry", "infer", "--set", "r0=1"), "r0 is 0"),
        (("--entry", "infer", "--set", "r1=4294967296"), "32 bits"),
        (("--entry", "infer", "--set", "r1=x.npy"), "whole number"),
        (("--entry", "infer", "--set", "x.hots=1,2"), "did you mean 'x.host'"),
        (("--entry", "infer", "--set", "x.host=1,2,3"), "1, 1, 4"),
        (("--entry", "infer", "--set", "x.host=1,2,3,300"), "0..255"),
        (("--entry", "infer", "--set", "w1=1,2,3"), "w1"),
        (("--entry", "infer", "--set", "x.host=no.npy"), "cannot read no.npy"),
        (("--entry", "infer", "--set", "x.host=two_layer.s"), "no .npy file"),
        (("--entry", "infer", "--set", "x.host=float.npy"), "whole numbers"),
        (("--entry", "infer", "--set", "h[0]=1"), "one sample"),
        (("--entry", "infer", "--dump", "x.host[2:2]=a.npy"), "no sample"),
        (("--entry", "infer", "--dump", "h=a.txt"), "end the name in .npy"),
        (("--entry", "infer", "--dump", "h=no/a.npy"), "cannot write"),
        (("--entry", "infer", "--dump", "h=a.npy", "--json", "a.npy"), "written twice"),
        (("--entry", "infer", "--train", "flowers"), "--train has no meaning"),
        (("--entry", "infer", "--epochs", "3"), "--epochs has no meaning"),
        (("--entry", "infer", "--cross-check", "1", "--trace", "t.json"), "--cross-check"),
        (("--entry", "infer", "--set", "batch=1", "--set", "x.host[99999999999]=1,2,3,4"), "host"),
    ],
)
def test_bad_calls(run: Run, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    np.save("float.npy", np.zeros(4))
    before = sorted(tmp_path.iterdir())
    code, out, err = run("sasrun", "two_layer.s", *words)
    assert code == 2, out
    assert message in err
    assert sorted(tmp_path.iterdir()) == before


def test_a_trap_leaves_no_dumps(run: Run, tmp_path: Path) -> None:
    (tmp_path / "trap.s").write_text(".view h host i8 1x1x1\n.view x buf i8 1x1x1\n    hld x, h, r1, all\n    halt\n")
    code, _, err = run("sasrun", "trap.s", "--set", "r1=-1", "--dump", "x=x.npy", "--json", "r.json")
    assert code == 2
    assert "out of range" in err
    assert not (tmp_path / "x.npy").exists()
    assert not (tmp_path / "r.json").exists()


def test_tests_without_pytest(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("sasc", "test", "two_layer.s", "--json", "t.json")
    assert code == 0
    assert out.splitlines()[-1] == "2 tests, 0 failed"
    (tmp_path / "wrong.s").write_text(EXAMPLE.read_text().replace(".expect_cycles 1776", ".expect_cycles 1775"))
    code, out, _ = run("sasc", "test", "two_layer.s", "wrong.s", "--json", "t.json")
    assert code == 1
    assert "expected 1775 cycles, got 1776 [step]" in out
    made = json.loads(Path("t.json").read_text())
    assert made["failed"] == 1
    assert [bool(row["failures"]) for row in made["tests"]] == [False, False, True, False]


def test_files_without_tests(run: Run, tmp_path: Path) -> None:
    (tmp_path / "plain.s").write_text("    halt\n")
    for words, message in ((("plain.s",), "no tests"), (("two_layer.s", "none.s"), "none.s"), ((), "missing argument")):
        code, out, err = run("sasc", "test", *words)
        assert code == 2
        assert message in err
        assert "ok" not in out


def test_a_program_may_be_called_data(run: Run, tmp_path: Path) -> None:
    for name in ("data", "tasks", "table1"):
        (tmp_path / name).write_text("    li r1, 5\n    halt\n")
        code, out, err = run("sasrun", name, "--entry", "main")
        assert code == 0, err
        assert "r1 = 5" in out


@pytest.mark.parametrize("words", [("--input", "missing.png"), ("--top", "0"), ("--save", "out.txt"), ("--resume",)])
def test_what_cannot_be_is_said_before_anything_is_compiled(
    run: Run, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(recipe: str | None) -> None:
        raise AssertionError("the embedded network is compiled")

    monkeypatch.setattr(sasrun, "embedded", compiled)
    code, _, error = run("sasrun", *words)
    assert code == 2
    assert words[-1].removeprefix("--") in error


def test_an_interrupt_during_the_imports_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt\n", encoding="utf-8")
    path = os.pathsep.join((str(tmp_path), *sys.path))
    done = subprocess.run(
        [sys.executable, "-m", "sasimc.cli.sasc", "check", "m.onnx"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False,
    )  # fmt: skip
    assert done.stderr == "interrupted\n"
    assert done.returncode in (130, -2)
