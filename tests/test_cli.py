"""``sasc`` and ``sasrun`` as users type them: output, reports, exit codes, on the embedded network and small options."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import models
import onnx
import pytest
from PIL import Image

from sasimc.cli import sasc, sasrun
from sasimc.cli.common import invoke
from sasimc.datasets.procedural import draw
from sasimc.isa.files import load_program
from sasimc.isa.spec import EVENTS

FAST = ("--engine", "fused", "--threads", "1")


class Cli:
    """Runs commands in this process; ``out`` and ``err`` are those of the last one."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, name: str, *words: object) -> int:
        app = {"sasc": sasc.app, "sasrun": sasrun.app}[name]
        code = invoke(app, [str(w) for w in words], name)
        captured = self._capsys.readouterr()
        self.out, self.err = captured.out, captured.err
        assert "Traceback" not in self.out + self.err
        return code

    def ok(self, name: str, *words: object) -> str:
        """Run, expect success, give the output with line ends folded (the console wraps)."""
        code = self(name, *words)
        assert code == 0, self.err
        return " ".join(self.out.split())

    def fails(self, name: str, *words: object) -> str:
        """Run, expect exit code 2 and a message."""
        assert self(name, *words) == 2
        assert self.err.strip()
        return " ".join(self.err.split())


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.delenv("SASIMC_DATA", raising=False)
    return Cli(capsys)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded network as prog.s, with its report."""
    folder = tmp_path_factory.mktemp("program")
    assert invoke(sasc.app, ["compile", "-o", str(folder / "prog.s"), "--json", str(folder / "compile.json")]) == 0
    return folder / "prog.s"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_compile_report(compiled: Path) -> None:
    report = read(compiled.with_name("compile.json"))
    program = load_program(compiled)
    assert report["instructions"] == len(program.code)
    assert 0 < report["encoded_bytes"] < 264_000  # 12 kB of them name every layer's tensor
    assert report["cycles"]["train_step"] > 8 * report["cycles"]["infer"] > 0
    assert sum(report["phases"]["train_step"].values()) == report["cycles"]["train_step"]
    kinds = ("subarrays_compute", "subarrays_transposable", "subarrays_scratch")
    assert sum(report[k] for k in kinds) == report["subarrays_used"] <= report["subarrays_total"] == program.machine.subarrays
    assert 0 < report["buffer_peak_bytes"] <= report["buffer_bytes"] == program.machine.buffer.bytes


def test_compile_options(cli: Cli, tmp_path: Path) -> None:
    said = cli.ok("sasc", "compile", "-o", tmp_path / "p.bin", "--inference-only", "--json", tmp_path / "r.json")
    assert "train_step" not in said
    report = read(tmp_path / "r.json")
    assert "train_step" not in report["cycles"]
    assert report["subarrays_transposable"] == 0
    assert set(load_program(tmp_path / "p.bin").entries) == {"infer"}
    said = cli.ok(
        "sasc", "compile", "-o", tmp_path / "t.s", "--backprop", "truncated", "--batch", "2", "--json", tmp_path / "t.json"
    )
    truncated = read(tmp_path / "t.json")
    assert (truncated["batch"], truncated["backprop"]) == (2, "truncated")


def test_zoo_check_compile_run(cli: Cli, tmp_path: Path) -> None:
    model, program, image = tmp_path / "m.onnx", tmp_path / "m.s", tmp_path / "rose.png"
    options = ("--width", "0.35", "--size", "64", "--classes", "4", "--modules", "4,17", "--calibration-images", "4")
    said = cli.ok("sasc", "zoo", "mobilenetv2-repnet", *options, "-o", model)
    assert "classifier" in said
    before = model.read_bytes()
    said = cli.ok("sasc", "check", model)
    assert "nodes are supported" in said
    assert "sub-arrays" in said
    assert "rep.4.conv1" in said
    cli.ok("sasc", "compile", model, "-o", program)
    assert model.read_bytes() == before
    Image.fromarray(draw("flowers", 1, 1, 80)).save(image)
    said = cli.ok("sasrun", program, "--input", image, "--json", tmp_path / "r.json", *FAST)
    assert "untrained: all weights are random" in cli.out.splitlines()[0]
    assert "rose.png: no answer" in said
    assert "%" not in cli.out.splitlines()[1]
    row = read(tmp_path / "r.json")["predictions"][0]
    assert (row["class"], row["label"]) == (None, None)
    assert len(row["logits"]) == 4


def test_train_save_evaluate(cli: Cli, compiled: Path, tmp_path: Path) -> None:
    trained, report = tmp_path / "trained.s", tmp_path / "train.json"
    words = ("--train", "flowers", "--epochs", "2", "--limit", "24", "--cross-check", "4")
    said = cli.ok("sasrun", compiled, *words, "--save", trained, "--json", report, *FAST)
    assert "procedurally drawn flowers" in cli.out.splitlines()[0]
    assert "identical in values, cycles and events" in said
    made = read(report)
    assert made["synthetic"] is True
    assert any("procedurally drawn flowers" in note for note in made["notes"])
    assert [e["epoch"] for e in made["epochs"]] == [0, 1]
    assert made["images"] == 2 * (24 + 24) + 24
    assert made["cross_checked"] > 0
    assert made["cycles"] == sum(made["phase_cycles"].values())
    assert made["simulated_s"] == pytest.approx(made["cycles"] / 200e6)
    assert set(made["events"]) == set(EVENTS)
    assert made["events"]["bits_flipped_transposable"] > 0
    again = tmp_path / "eval.json"
    cli.ok("sasrun", trained, "--eval", "flowers", "--limit", "24", "--json", again, "--threads", "1")
    assert read(again)["engine"] == "bitserial"
    assert read(again)["top1"] == made["top1"]


def test_embedded_default_without_a_task(cli: Cli, tmp_path: Path) -> None:
    said = cli.ok("sasrun", "--epochs", "1", "--limit", "8", "--json", tmp_path / "r.json", *FAST)
    assert "embedded" in cli.out.splitlines()[0]
    assert "procedurally drawn flowers" in cli.out.splitlines()[0]
    assert "images/s" in said
    assert read(tmp_path / "r.json")["top1"] is not None


def test_real_flowers_that_do_not_fit_are_said(cli: Cli, compiled: Path, tmp_path: Path) -> None:
    """A data set with more classes than the network has outputs: refused when asked for, replaced and said when not."""
    for i in range(12):
        (tmp_path / "flowers-102" / f"class{i:02}").mkdir(parents=True)
        for k in range(6):
            Image.fromarray(draw("flowers", i % 10, k, 32)).save(tmp_path / "flowers-102" / f"class{i:02}" / f"{k}.png")
    said = cli.fails("sasrun", compiled, "--train", "flowers", "--data", tmp_path, *FAST)
    assert "flowers has 12 classes and the program 10" in said
    assert "--classes 12" in said
    cli.ok("sasrun", compiled, "--data", tmp_path, "--epochs", "1", "--limit", "8", *FAST)
    assert "10 outputs, flowers 12 classes" in cli.out.splitlines()[0]


def test_data(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "flowers-17").mkdir()
    said = cli.ok("sasc", "data", "list", "--data", tmp_path)
    assert f"found: {tmp_path / 'flowers-17'}" in said
    assert "pets" in said
    assert "https://" in said
    assert "drawn-flowers" in cli.ok("sasc", "data", "list")
    assert "nowhere to fetch to" in cli.fails("sasc", "data", "fetch", "pets")


@pytest.mark.parametrize(
    "words, message",
    [
        (("--engine", "fussed"), "did you mean 'fused'"),
        (("--limit", "0"), "at least 1 is needed"),
        (("--epochs", "0"), "at least 1 is needed"),
        (("--threads", "0"), "at least 1 is needed"),
        (("--top", "0"), "at least 1 is needed"),
        (("--cross-check", "-1"), "'--cross-check': -1"),
        (("--split", "tset"), "did you mean 'test'"),
        (("--head-exponent", "a:b"), "is not FIRST, FIRST:LAST"),
        (("--module-exponent", "1:2:3"), "is not FIRST, FIRST:LAST"),
        (("--train", "flovers"), "no data set 'flovers'"),
        (("--eval", "pets"), "was not found"),
        (("--input", "no-such.jpg"), "no-such.jpg"),
        (("--save", "trained.txt"), "end the name in .s or .bin"),
        (("--nonsense",), "nonsense"),
    ],
)
def test_bad_options_of_sasrun(
    cli: Cli, compiled: Path, words: Sequence[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(compiled.parent)
    before = sorted(compiled.parent.glob("[!.]*"))  # the assembled form of the program may be kept beside it
    assert message in cli.fails("sasrun", compiled, *words)
    assert sorted(compiled.parent.glob("[!.]*")) == before


@pytest.mark.parametrize(
    "words, message",
    [
        (("compile", "no.onnx"), "no.onnx"),
        (("compile", "-o", "prog.txt"), "end the name in .s or .bin"),
        (("compile", "-o", "no/such/folder/prog.s"), "cannot write"),
        (("compile", "--backprop", "exakt", "-o", "x.s"), "'exakt' is none of exact, truncated"),
        (("compile", "--eps", "1.5", "-o", "x.s"), "eps 1.5 is not in"),
        (("compile", "--batch", "0", "-o", "x.s"), "batch"),
        (("compile", "--machine", "no.toml", "-o", "x.s"), "cannot read the machine description"),
        (("compile", "--trainable", "clasifier", "-o", "x.s"), "did you mean 'classifier'"),
        (("compile", "--print-ir-after", "simplfy", "-o", "x.s"), "no pass is called 'simplfy'"),
        (("zoo", "mobilenet-repnet", "-o", "x.onnx"), "did you mean 'mobilenetv2-repnet'"),
        (("zoo", "mobilenetv2-repnet", "--modules", "x:y", "-o", "x.onnx"), "is not a Rep-Net module"),
        (("zoo", "mobilenetv2-repnet", "--weights", "no/such", "-o", "x.onnx"), "do not exist"),
        (("check", "no.onnx"), "no.onnx"),
        (("lint", "no.s"), "no.s"),
        (("nonsense",), "nonsense"),
    ],
)
def test_bad_options_of_sasc(
    cli: Cli, words: Sequence[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in cli.fails("sasc", *words)
    assert list(tmp_path.iterdir()) == []


def test_check_lists_everything_unsupported(cli: Cli, tmp_path: Path) -> None:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])
    nodes = [
        onnx.helper.make_node("Hardmax", ["x"], ["a"], "first"),
        onnx.helper.make_node("LpNormalization", ["a"], ["y"], "second"),
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [y]), opset_imports=[onnx.helper.make_opsetid("", 20)])
    onnx.save(model, tmp_path / "m.onnx")
    assert cli("sasc", "check", tmp_path / "m.onnx") == 2
    assert "first" in cli.out
    assert "second" in cli.out
    said = cli.fails("sasc", "compile", tmp_path / "m.onnx", "-o", tmp_path / "m.s")
    assert "first" in said
    assert "second" in said
    assert not (tmp_path / "m.s").exists()


@pytest.mark.parametrize(
    "name, words",
    [("sasc", (c, "--help")) for c in ("zoo", "check", "compile", "asm", "disasm", "lint")]
    + [("sasc", ("--help",)), ("sasrun", ("--help",)), ("sasc", ("data", "--help"))],
)
def test_help(cli: Cli, name: str, words: Sequence[str]) -> None:
    said = cli.ok(name, *words)
    assert "Usage" in said
    assert "``" not in said


def test_check_is_one_table_of_costs_or_of_obstacles(cli: Cli, tmp_path: Path) -> None:
    """Cycles of all operations are those of an inference; a network that does not fit is an obstacle with a remedy that changes no result."""
    model, report = tmp_path / "m.onnx", tmp_path / "r.json"
    onnx.save(models.residual_net(), model)
    said = cli.ok("sasc", "check", model, "--json", report)
    made = json.loads(report.read_text())
    assert made["ok"]
    spent = sum(op["cycles"] for op in made["operations"])
    assert 0.9 * made["cycles"] < spent <= made["cycles"]
    assert f"{made['cycles']} cycles an image" in " ".join(said.split())
    small = tmp_path / "small.toml"
    small.write_text('extends = "sas28"\n[array]\nbanks = [1, 16]\n[buffer]\nbytes = 64\n')
    assert cli("sasc", "check", model, "--machine", small, "--json", report) == 2
    made = json.loads(report.read_text())
    assert not made["ok"]
    assert any("buffer" in f and "--machine" in f for f in made["findings"])
