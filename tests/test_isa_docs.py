"""The manual is current; every example of the tutorials and examples/ runs; the two-layer example equals a reference in plain integers."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from two_layer_reference import TwoLayer

from sasimc.cli import sasc, sasrun
from sasimc.cli.common import invoke
from sasimc.isa import manual
from sasimc.isa.analysis.lint import lint
from sasimc.isa.errors import SasError
from sasimc.isa.files import load_assembly
from sasimc.isa.spec import EVENTS, TABLE
from sasimc.isa.text.assembler import assemble, assemble_source
from sasimc.isa.text.directives import DIRECTIVES
from sasimc.runtime.asmtest import failures
from sasimc.runtime.interpreter import Interpreter

ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = ROOT / "docs" / "tutorials"


def blocks(name: str) -> list[str]:
    """The whole files that a page shows."""
    return [b for b in re.findall(r"^```\n(.*?)^```", (TUTORIALS / name).read_text(), re.M | re.S) if b.startswith("; runs")]


BLOCKS = [*blocks("assembly.md"), *blocks("first-program.md")]


def test_manual_is_current(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert manual.main(["--check"]) == 0, capsys.readouterr().out
    stale = tmp_path / "isa.md"
    assert manual.main(["--check", str(stale)]) == 1
    assert manual.main([str(stale)]) == 0
    assert manual.main(["--check", str(stale)]) == 0
    stale.write_text(stale.read_text() + "x")
    assert manual.main(["--check", str(stale)]) == 1


def test_manual_has_everything() -> None:
    text = manual.manual()
    for mnemonic in TABLE:
        assert f"### `{mnemonic}`" in text
    for name in (*EVENTS, *DIRECTIVES):
        assert f"`{name}" in text


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_examples_of_the_tutorial(block: str) -> None:
    assembly = assemble_source(block, "tutorial.s")
    for test in assembly.tests:
        assert failures(assembly, test) == []
    initialised = {i.name for t in assembly.tests for i in t.initials}
    found = lint(assembly.program, block, initialised & set(assembly.program.views))
    assert [d for d in found if d.severity == "error"] == []


def test_tutorial_has_its_examples() -> None:
    assert len(BLOCKS) == 8


def test_faults_of_the_first_program() -> None:
    """Broken as the tutorial breaks it, the program fails with the messages that the tutorial shows."""
    page = (TUTORIALS / "first-program.md").read_text()
    source = blocks("first-program.md")[0]
    broken = source.replace("[-2]", "[-3]", 1)
    assembly = assemble_source(broken, "test_dot.s")
    assert failures(assembly, assembly.tests[0])[0].split("test_dot.s:")[-1] in page
    with pytest.raises(SasError) as caught:
        assemble_source(source.replace("vmm sums, a,", "vmm sums, b,"), "test_dot.s")
    assert str(caught.value).strip() in page
    broken = re.sub(r"^ +drain.*\n", "", source, flags=re.M)
    program = assemble_source(broken, "test_dot.s").program
    found = [d for d in lint(program, broken, {"a.host"}) if d.severity in ("error", "warning")]
    assert len(found) == 2
    assert all(d.message in page for d in found)
    assembly = assemble_source(source.replace("li r2, 0 ", "li r2, -1"), "test_dot.s")
    assert failures(assembly, assembly.tests[0])[0].removesuffix(" [step]").split(": ", 1)[1] in page


def test_two_layer_example_and_its_tests() -> None:
    path = ROOT / "examples" / "two_layer.s"
    assembly = load_assembly(path)
    assert len(assembly.tests) == 2
    for test in assembly.tests:
        assert failures(assembly, test) == []
    assert lint(assembly.program, path.read_text()) == []


@pytest.mark.parametrize("engine", ["step", "fused"])
def test_two_layer_example_equals_the_reference(engine: str) -> None:
    program = assemble((ROOT / "examples" / "two_layer.s").read_text())
    reference = TwoLayer(program.tensors["w1"].astype(np.int64), program.tensors["w2"].astype(np.int64))
    machine = Interpreter(program, engine)
    rng = np.random.default_rng(5)
    for step in range(12):
        count = int(rng.integers(1, 5))
        x, labels = rng.integers(0, 256, (count, 4)), rng.integers(0, 3, count)
        for i in range(count):
            machine.write_view("x.host", x[i].reshape(1, 1, 4), i)
            machine.write_view("label", labels[i].reshape(1, 1, 1), i)
        machine.regs[1], machine.regs[2] = count, 3 - step // 3
        machine.run("train_step")
        losses = reference.train_step(x, labels, 3 - step // 3)
        assert [int(machine.read_view("loss", i)[0, 0, 0]) for i in range(count)] == losses.tolist(), step
        assert machine.read_matrix("w1").tolist() == reference.w1.tolist(), step
        assert machine.read_matrix("w2").tolist() == reference.w2.tolist(), step
    machine.run("infer")
    logits = reference.forward(x)[1]
    assert [int(machine.read_view("prediction", i)[0, 0, 0]) for i in range(count)] == logits.argmax(axis=1).tolist()


def test_first_program_on_other_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tutorial's commands give what it says."""
    page = (TUTORIALS / "first-program.md").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_dot.s").write_text(blocks("first-program.md")[0])
    command = re.findall(r"^```sh\nsasrun (.*?)\n```$", page, re.M)
    assert len(command) == 1
    assert invoke(sasc.app, ["test", "test_dot.s"]) == 0
    assert invoke(sasrun.app, shlex.split(command[0])) == 0
    assert np.load(tmp_path / "out.npy").ravel().tolist() == [-2, -765]


def test_own_instruction_is_tested_by_the_command(tmp_path: Path) -> None:
    """``sasc test --isa``: 10 x 3 / 2 and -3 x 3 / 2, the half to the even neighbour."""
    source = ".view s buf i32 1x1x2\n.view d buf i8 1x1x2 addr=16\n    muls d, s, 3, 1, all\n    halt\n"
    (tmp_path / "muls.s").write_text(source + ".tests\n.init s [10, -3]\n.run main\n.expect d [15, -4]\n")
    command = (
        "import sys; from sasimc.cli.sasc import app; from sasimc.cli.common import invoke; sys.exit(invoke(app, sys.argv[1:]))"
    )
    words = ["test", str(tmp_path / "muls.s"), "--isa", str(ROOT / "examples" / "isa_multiply_shift.py")]
    done = subprocess.run([sys.executable, "-c", command, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 test, 0 failed" in done.stdout
