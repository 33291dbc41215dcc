"""The same input gives the same bytes, whatever order Python's sets are walked in."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
*models, out = map(Path, sys.argv[1:])
for name, options in {
    "roomy": {"machine": None},
    "tight": {"machine": machine(8), "batch": 2, "backprop_through": ("*block*",), "update": "accumulate", "gradient_power": 1},
    "infer": {"machine": machine(8), "inference_only": True},
}.items():
    for model in models:
        program = compile_model(model, CompileOptions(**options)).program
        save_program(program, out / f"{model.stem}.{name}.s")
        save_program(program, out / f"{model.stem}.{name}.bin")
"""

ZOO = """
import sys
from pathlib import Path
from sasimc.zoo.zoo import ZooOptions, build, write
options = ZooOptions(width=0.25, resolution=32, classes=5, calibration_images=2, module_scales="channel")
write(build("mobilenetv2-repnet", options), Path(sys.argv[1]) / "zoo.onnx")
"""


def made(folder: Path, code: str, *args: Path, seeds: Sequence[str] = SEEDS) -> list[dict[str, str]]:
    """The digests of the files that ``code`` writes in processes of their own, one a seed, as many at a time as there are cores."""

    def one(seed: str) -> dict[str, str]:
        out = folder / seed
        out.mkdir()
        paths = os.pathsep.join([str(TESTS), *(p for p in sys.path if p)])
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
        subprocess.run([sys.executable, "-c", code, *map(str, args), str(out)], check=True, env=env, timeout=300)
        return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(out.iterdir())}

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, seeds))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    folder = tmp_path_factory.mktemp("compiled")
    onnx.save(models.mobilenet_like(size=16, width=8), folder / "mobilenet.onnx")
    onnx.save(models.residual_net(size=12, width=6, blocks=2, train="all"), folder / "residual.onnx")
    return made(folder, COMPILE, folder / "mobilenet.onnx", folder / "residual.onnx")


@pytest.mark.parametrize("name", ["mobilenet", "residual"])
def test_a_compiled_program(compiled: list[dict[str, str]], name: str) -> None:
    """Text, binary and weights file of programs with copies, with twins and with training."""
    first, *others = ({f: digest for f, digest in found.items() if f.startswith(name)} for found in compiled)
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
    first, *others = made(tmp_path, ZOO, seeds=SEEDS[:2])
    assert all(other == first for other in others)
