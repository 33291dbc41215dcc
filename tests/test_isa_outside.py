"""Instructions from outside the package: a file somewhere declares them with their kernels, and they are full members."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sasimc.isa.errors import SasError
from sasimc.isa.extend import find, load_instructions
from sasimc.isa.spec import TABLE

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

PROGRAM = """
.desc
.view s.host host i32 4x3x5
.view x.host host i8 2x3x6 addr=256 pad=3
.view out buf i32 2x3x5 addr=512
.view s buf i32 4x3x5
.view d buf i8 4x3x5 addr=256
.view x buf i8 2x3x6 addr=320 pad=3
.view a acc i32 2x3x5
.geom g kernel=2x1 pad=1x0
.mat w dense compute 12x5 tensor="w"
.tile sub=0 size=12x5
.data
.tensor "w" i8 12x5 [{weights}]
.code
.entry main
    hld s, s.host, r0, all
    hld x, x.host, r0, all
    loopi 3
    muls d, s, 3, 9, all
    vmmsgn a, x, w, g, all
    endl
    drain out, a, all
    halt
"""

RUN = """
import sys
import numpy as np
from sasimc.isa.analysis.estimate import estimate
from sasimc.isa.analysis.lint import lint
from sasimc.isa.extend import load_instructions
from sasimc.isa.files import load_program
from sasimc.profiling.profile import profile_rows
from sasimc.profiling.trace import Tracer
from sasimc.runtime.crosscheck import cross_check
from sasimc.runtime.interpreter import Interpreter

folder, files = sys.argv[1], sys.argv[2:]
for file in files:
    assert load_instructions(file) == load_instructions(file)
text, binary = load_program(folder + "/prog.s"), load_program(folder + "/prog.bin")
assert [(i.spec, i.operands) for i in text.code] == [(i.spec, i.operands) for i in binary.code]
rng = np.random.default_rng(0)
s, x = rng.integers(-50000, 50000, (4, 3, 5)), rng.integers(-128, 128, (2, 3, 6))
w = text.matrix_values(text.matrices["w"]).astype(int)
padded = np.pad(x, ((1, 1), (0, 0), (0, 0)), constant_values=3)
sums = 3 * np.concatenate([padded[:2], padded[1:3]], axis=2) @ np.sign(w)
scaled = s * 3
low = scaled >> 9
rest = 2 * (scaled - (low << 9))
rounded = np.clip(low + ((rest > 512) | ((rest == 512) & (low % 2 == 1))), -128, 127)
def made(engine, threads):
    it = Interpreter(text, engine, threads)
    it.write_view("s.host", s)
    it.write_view("x.host", x)
    return it
for engine, threads in (("step", 1), ("bitserial", 1), ("bitserial", 3), ("fused", 1), ("fused", 3)):
    it = made(engine, threads)
    it.run("main")
    assert np.array_equal(it.read_view("d"), rounded), engine
    assert np.array_equal(it.read_view("out"), sums), engine
    assert it.cycles == estimate(text, "main").cycles
    assert not it.slow_loops
    assert {"muls", "vmmsgn"} <= {row.mnemonic for row in profile_rows(it)}
cross_check(made("fused", 2), made("step", 1), "main")
it = made("fused", 2)
tracer = Tracer(it)
tracer.run("main")
tracer.write(__import__("pathlib").Path(folder) / "trace.json", {})
assert "muls" in open(folder + "/trace.json").read()
print("all of it")
"""


def run(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, cwd=cwd, env=dict(os.environ))


def test_instructions_from_files_are_full_members(tmp_path: Path) -> None:
    """Assembled, encoded, disassembled, linted, priced, run on every engine and several threads, profiled, traced, in the manual."""
    files = []
    for name in ("isa_multiply_shift.py", "isa_ternary_product.py"):
        files.append(tmp_path / f"my_{name}")
        files[-1].write_text((EXAMPLES / name).read_text())
    weights = ", ".join(str((7 * i + 3) % 5 - 2) for i in range(60))
    source = tmp_path / "prog.s"
    source.write_text(PROGRAM.replace("{weights}", weights))
    isa = [word for file in files for word in ("--isa", file)]
    sasc = ("-m", "sasimc.cli.sasc")
    made = run(*sasc, "asm", source, "-o", tmp_path / "prog.bin", *isa, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    back = run(*sasc, "disasm", tmp_path / "prog.bin", *isa, cwd=tmp_path)
    assert "muls d, s, 3, 9, all" in back.stdout
    assert "vmmsgn a, x, w, g, all" in back.stdout
    found = run(*sasc, "lint", source, *isa, cwd=tmp_path)
    assert (found.returncode, "0 errors, 0 warnings" in found.stdout) == (0, True), found.stdout + found.stderr
    ran = run("-c", RUN, tmp_path, *files, cwd=tmp_path)
    assert ran.stdout == "all of it\n", ran.stderr
    manual = run("-m", "sasimc.isa.manual", *isa, tmp_path / "isa.md", cwd=tmp_path)
    assert manual.returncode == 0, manual.stderr
    text = (tmp_path / "isa.md").read_text()
    assert "### `muls` dst, src, factor, down, rows" in text
    assert "`vmmsgn`" in text
    unknown = run(*sasc, "asm", source, cwd=tmp_path)  # without the files nobody knows them
    assert unknown.returncode == 2
    assert "unknown instruction 'muls'" in unknown.stderr


def test_an_installed_package_is_found_when_its_instruction_is_named(tmp_path: Path) -> None:
    (tmp_path / "my_isa.py").write_text((EXAMPLES / "isa_multiply_shift.py").read_text())
    info = tmp_path / "my_isa-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-isa\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sasimc.isa]\nmine = my_isa\n")
    code = "from sasimc.isa.extend import find, lookup; print(find('muls').kernel, lookup(0x80).mnemonic, find('nothing'))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(tmp_path)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout == "multiply_shift muls None\n", done.stderr


BAD = {
    "class A(:\n    pass\n": r"bad\.py:1: .*invalid syntax",
    "x = 1\n": "declares no instruction",
    "import nothing_of_the_kind\n": r"bad\.py:1: No module named",
    "from sasimc.isa.spec import Instruction\nclass A(Instruction):\n    '''Doc.'''\n    opcode = 0x80\n    mnemonic = 'a'\n    group = 'periphery'\n":
        r"bad\.py:2: instruction A: no cost; no kernel",
    "from sasimc.isa.instructions.control import Halt\nclass A(Halt):\n    '''Doc.'''\n    opcode = 0x01\n    mnemonic = 'halt'\n":
        r"bad\.py:2: instruction A: mnemonic 'halt' is declared twice; opcode 0x01 is already 'halt'",
}  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_broken_files_are_refused_and_leave_nothing_behind(text: str, tmp_path: Path) -> None:
    before, path = dict(TABLE), tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(SasError, match=BAD[text]):
        load_instructions(path)
    assert before == TABLE


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(SasError, match="there is no file"):
        load_instructions("nowhere.py")
    assert find("nothing") is None
