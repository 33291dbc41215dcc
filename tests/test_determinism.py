"""The same input gives the same bytes, whatever order Python's sets are walked in."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import models
import onnx
import pytest
from tiny_task import machine

TESTS = Path(__file__).parent
SEEDS = ("0", "1", "2", "7")

COMPILE = """
import sys
from pathlib import Path
from sasimc.api import CompileOptions, compile_model
from sasimc.isa.files import save_program
from tiny_task import machine
model, out = Path(sys.argv[1]), Path(sys.argv[2])
for name, options in {
    "roomy": {"machine": None},
    "tight": {"machine": machine(8), "batch": 2, "backprop_through": ("*block*",), "update": "accumulate", "gradient_power": 1},
    "infer": {"machine": machine(8), "inference_only": True},
}.items():
    program = compile_model(model, CompileOptions(**options)).program
    save_program(program, out / f"{name}.s")
    save_program(program, out / f"{name}.bin")
"""

ZOO = """
import sys
from pathlib import Path
from sasimc.zoo.zoo import ZooOptions, build, write
options = ZooOptions(width=0.25, resolution=32, classes=5, calibration_images=2, module_scales="channel")
write(build("mobilenetv2-repnet", options), Path(sys.argv[1]) / "zoo.onnx")
"""


def made(seed: str, out: Path, code: str, *args: Path) -> dict[str, str]:
    """The digests of the files that ``code`` writes into ``out`` in a process of its own."""
    out.mkdir()
    paths = os.pathsep.join([str(TESTS), *(p for p in sys.path if p)])
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", code, *map(str, args), str(out)], check=True, env=env, timeout=300)
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(out.iterdir())}


@pytest.mark.parametrize(
    "model",
    [models.mobilenet_like(size=16, width=8), models.residual_net(size=12, width=6, blocks=2, train="all")],
    ids=["mobilenet", "residual"],
)
def test_a_compiled_program(model: onnx.ModelProto, tmp_path: Path) -> None:
    """Text, binary and weights file of programs with copies, with twins and with training."""
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    first, *others = (made(seed, tmp_path / seed, COMPILE, path) for seed in SEEDS)
    assert len(first) == 9
    assert all(other == first for other in others)


def test_what_the_test_compiles_has_copies_and_twins() -> None:
    from sasimc.api import CompileOptions, compile_model

    model = models.mobilenet_like(size=16, width=8)
    placement = compile_model(model, CompileOptions()).placement
    assert len(placement.twins) > 1
    assert any(m.copies > 1 for m in placement.matrices)
    assert compile_model(model, CompileOptions(machine=machine(8), inference_only=True)).train_step is None


def test_a_model_of_the_zoo(tmp_path: Path) -> None:
    first, *others = (made(seed, tmp_path / seed, ZOO) for seed in SEEDS[:2])
    assert all(other == first for other in others)
