"""The pytest plugin for ``test_*.s``: every instruction has such tests, they pass, and failures are reported with their place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from isa_programs import SMALL

from sasimc.isa.spec import TABLE
from sasimc.isa.text.assembler import assemble_source
from sasimc.runtime.asmtest import failures

ASM = Path(__file__).parent / "asm"


def test_every_instruction_has_assembly_tests() -> None:
    """A mnemonic counts when an entry point that a test runs contains it."""
    used: set[str] = set()
    for path in sorted(ASM.glob("test_*.s")):
        assembly = assemble_source(path.read_text(), str(path))
        code = assembly.program.code
        for run in (r for t in assembly.tests for r in t.runs):
            for instr in code[assembly.program.entries[run.entry] :]:
                used.add(instr.spec.mnemonic)
                if instr.spec.mnemonic == "halt":
                    break
    assert set(TABLE) - used == set()


def _pytest(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """pytest with only our plugin, in a process of its own."""
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "sasimc.runtime.pytest_plugin",
        "-p",
        "no:cacheprovider",
        "-q",
        "-rA",
        "-o",
        "addopts=",
        *args,
        str(folder),
    ]
    return subprocess.run(command, env=env, capture_output=True, text=True, cwd=folder, timeout=300, check=False)


def test_the_assembly_tests_pass(request: pytest.FixtureRequest) -> None:
    if request.config.pluginmanager.hasplugin("sasimc"):
        pytest.skip("the plugin is installed: pytest collects them itself")
    result = _pytest(ASM)
    assert result.returncode == 0, result.stdout[-4000:]
    assert " passed" in result.stdout


def test_failures_name_file_line_element_and_engine(tmp_path: Path) -> None:
    text = SMALL.replace("[1, 2, 3, -4, -5, -6]", "[1, 2, 3, 4, 5, 6]").replace("r5+2:8", "r5:2")
    tests = '.tests\n.test "good"\n.init in 1\n.run infer\n.expect a 0\n.test "bad"\n.init in [1, 2*31]\n.run infer fused\n.expect x 1\n.expect_reg r5 5\n'
    tests += '.expect_cycles 1\n.expect_event host_bits_in 7\n.test "trap"\n.run infer fused\n.expect_trap "boom"\n.test "nothing"\n.run infer\n'
    path = tmp_path / "test_it.s"
    path.write_text(text + tests)
    (tmp_path / "test_broken.s").write_text("lii r1, 5\n")
    (tmp_path / "test_empty.s").write_text("halt\n")
    (tmp_path / "other.s").write_text("not assembly at all")
    result = _pytest(tmp_path)
    assert result.returncode == 2, result.stdout
    lines = text.count("\n")
    out = result.stdout
    assert "test_broken.s:1:1: error: unknown instruction 'lii'" in out
    assert "no tests (.run and .expect directives) in this file" in out
    (tmp_path / "test_broken.s").unlink()
    (tmp_path / "test_empty.s").unlink()
    result = _pytest(tmp_path)
    out = result.stdout
    assert result.returncode == 1, out
    assert f"{path}:{lines + 9}: x[0, 0, 1]: expected 1, got 2 (31 of 32 elements differ)" in out
    assert f"{path}:{lines + 10}: expected r5 = 5, got 4 [fused]" in out
    assert f"{path}:{lines + 11}: expected 1 cycles, got" in out
    assert f"{path}:{lines + 12}: expected 7 host_bits_in, got 256" in out
    assert f"{path}:{lines + 15}: expected a trap with 'boom', but the program ran to its end" in out
    assert "the test expects nothing" in out
    assert "3 failed, 1 passed" in out
    assert "Traceback" not in out
    assert _pytest(tmp_path, "--no-asm").returncode == 5


def test_an_unexpected_trap_is_a_failure_with_its_line() -> None:
    text = ".view h host i8 1x1x1\n.view x buf i8 1x1x1\nhld x, h, r1, all\nhalt\n.init_reg r1 -1\n.run main step\n.expect x 0\n"
    assembly = assemble_source(text, "t.s")
    (found,) = failures(assembly, assembly.tests[0])
    assert found.startswith("t.s:6: ")
    assert "out of range" in found
    assert "t.s:3" in found
