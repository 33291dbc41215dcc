"""The layers point one way: isa is the ground floor. Compiler: ir, passes, frontend, zoo; backend on ir. Execution: datasets, runtime,
profiling, training. verify sees both halves. evaluation stands on isa; reference (PyTorch) on the zoo and training."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT = {
    "isa": {"isa"},
    "ir": {"ir", "isa"},
    "passes": {"passes", "ir", "isa"},
    "frontend": {"frontend", "passes", "ir", "isa"},
    "backend": {"backend", "ir", "isa"},
    "zoo": {"zoo", "frontend", "datasets", "isa"},
    "attach": {"attach", "zoo", "frontend", "isa"},
    "datasets": {"datasets", "isa"},
    "quantise": {"quantise", "frontend", "datasets", "isa"},
    "runtime": {"runtime", "datasets", "isa"},
    "profiling": {"profiling", "runtime", "isa"},
    "training": {"training", "profiling", "runtime", "datasets", "passes", "isa"},
    "evaluation": {"evaluation", "isa"},
    "explore": {"explore", "frontend", "backend", "profiling", "evaluation", "ir", "isa"},
    "lsp": {"lsp", "isa"},
    "cluster": {"cluster", "isa"},
    "study": {"study", "cluster", "isa"},
    "verify": {"verify", "frontend", "backend", "passes", "runtime", "ir", "isa"},
    "debug": {"debug", "verify", "training", "runtime", "datasets", "frontend", "passes", "ir", "isa"},
    "reference": {"reference", "training", "runtime", "datasets", "zoo", "frontend", "isa"},
}
"""Folder -> folders of ours it may import."""

ISA_FOR_IR = {"sasimc.isa.errors", "sasimc.isa.options", "sasimc.isa.readable"}
"""What ir, passes and frontend know of the instruction set: the errors users see, how options are declared, and what files seem to be."""

HEAVY = {
    "onnx": {"frontend", "zoo", "attach", "quantise", "reference", "verify"},
    "onnxruntime": {"frontend", "zoo", "quantise", "verify"},
    "torchvision": {"zoo"},
    "torch": {"reference", "quantise"},
    "matplotlib": {"evaluation", "reference"},
    "numba": {"runtime", "evaluation"},
    "llvmlite": {"runtime"},
    "pygls": {"lsp"},
    "distributed": {"cluster"},
    "dask": {"cluster"},
    "optuna": {"study"},
    "textual": {"debug"},
    "lsprotocol": {"lsp"},
    "pygments": {"lsp"},
}
"""Third-party package -> folders that may import it."""


def _files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        files = sorted((ROOT / folder).rglob("*.py"))
        assert files, f"no Python files in {folder}"
        yield from files


@cache
def imports_of(source: str) -> list[tuple[int, str, int]]:
    """(line, dotted name, relative level) of every import, also inside functions; ``from a.b import c`` gives a.b and a.b.c."""
    out: list[tuple[int, str, int]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            out += [(node.lineno, alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            out.append((node.lineno, module, node.level))
            out += [(node.lineno, f"{module}.{alias.name}", node.level) for alias in node.names]
    return out


def _ours(name: str) -> str:
    parts = name.split(".")
    return parts[1] if parts[0] == "sasimc" and len(parts) > 1 else ""


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_layers_point_one_way(layer: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in _files(layer)
        for line, name, _ in imports_of(path.read_text(encoding="utf-8"))
        if name == "sasimc" or (_ours(name) and _ours(name) not in MAY_IMPORT[layer])
    ]
    assert not wrong, "\n".join(wrong)


def test_the_arrows_have_no_cycle() -> None:
    """The table itself: an order of the layers exists in which each imports only earlier ones."""
    done: set[str] = set()
    while left := MAY_IMPORT.keys() - done:
        ready = {layer for layer in left if MAY_IMPORT[layer] - {layer} <= done}
        assert ready, f"a cycle among {sorted(left)}"
        done |= ready


@pytest.mark.parametrize("layer", ["ir", "passes", "frontend"])
def test_the_upper_half_knows_only_the_errors_of_the_instruction_set(layer: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in _files(layer)
        for line, name, _ in imports_of(path.read_text(encoding="utf-8"))
        if _ours(name) == "isa" and name != "sasimc.isa" and not any(name == ok or name.startswith(ok + ".") for ok in ISA_FOR_IR)
    ]
    assert not wrong, "\n".join(wrong)


def test_training_knows_only_the_options_of_the_compiler() -> None:
    """A recipe holds compile options; how they are carried out is none of training's business."""
    names = {
        name
        for path in _files("training")
        for _, name, _ in imports_of(path.read_text(encoding="utf-8"))
        if _ours(name) == "passes"
    }
    assert {n for n in names if not n.startswith("sasimc.passes.options")} == set()


def test_imports_are_absolute_and_qualified() -> None:
    """Never ``import isa`` (a top-level folder that happens to be importable) and never a relative import."""
    bare = {*MAY_IMPORT, "cli", "src", "tests"}
    folders = [*MAY_IMPORT, "src/sasimc/cli", "tests", "benchmarks", "examples"]
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name or '.'}"
        for path in [*_files(*folders), *sorted((ROOT / "src/sasimc").glob("*.py"))]
        for line, name, level in imports_of(path.read_text(encoding="utf-8"))
        if level or name.split(".")[0] in bare
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", HEAVY)
def test_heavy_packages_stay_in_their_folder(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for layer in [*MAY_IMPORT, "src/sasimc/cli"]
        if layer not in HEAVY[package]
        for path in _files(layer)
        for line, name, _ in imports_of(path.read_text(encoding="utf-8"))
        if name.split(".")[0] == package
    ]
    assert not wrong, "\n".join(wrong)


def test_torch_is_no_part_of_the_toolchain() -> None:
    """Only the reference and the export of a PyTorch module know it, and import it when they run."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in [
            *_files(*(MAY_IMPORT.keys() - {"reference", "quantise"}), "src/sasimc/cli"),
            *sorted((ROOT / "src/sasimc").glob("*.py")),
        ]
        for line, name, _ in imports_of(path.read_text(encoding="utf-8"))
        if name.split(".")[0] == "torch"
    ]
    assert not wrong, "\n".join(wrong)


def test_the_package_is_the_folders() -> None:
    """``sasimc.isa`` is the folder ``isa``: relative links, so that a checkout anywhere works."""
    for layer in MAY_IMPORT:
        link = ROOT / "src" / "sasimc" / layer
        assert link.is_symlink()
        assert not link.readlink().is_absolute()
        assert link.resolve() == (ROOT / layer).resolve()


def test_running_a_program_loads_neither_the_compiler_nor_onnx() -> None:
    code = (
        "import sys, sasimc.runtime.device, sasimc.training.session\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('onnx', 'onnxruntime', 'torch', 'torchvision')\n"
        "       or m.startswith(('sasimc.ir.', 'sasimc.passes.', 'sasimc.frontend', 'sasimc.zoo', 'sasimc.backend', 'sasimc.api'))\n"
        "       and m not in ('sasimc.ir.words', 'sasimc.passes.options')]\n"
        "print(','.join(bad))"
    )
    env = {"PYTHONPATH": str(ROOT / "src"), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120, check=True)
    assert done.stdout.strip() == ""


def test_the_checker_sees_what_it_looks_for() -> None:
    source = "import isa\ndef f():\n    from sasimc.backend import compile\n    from . import x\n"
    assert ("isa", 0) in {(n, level) for _, n, level in imports_of(source)}
    assert "sasimc.backend.compile" in {n for _, n, _ in imports_of(source)}
    assert any(level for _, _, level in imports_of(source))


def test_architecture_page_shows_these_layers() -> None:
    """The table of docs/explanation/architecture.md is MAY_IMPORT, and in its picture every folder stands above what it imports."""
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w+)` \|.*\|([^|]*)\|$", page.split("## Layers")[1].split("## ")[0], flags=re.M)
    assert {folder: {folder, *re.findall(r"`(\w+)`", allowed)} for folder, allowed in table} == MAY_IMPORT
    rows = re.findall(r"^  (\d) +(.*)$", page, flags=re.M)
    height = {name: int(row) for row, names in rows for name in re.findall(r"\w+", names)}
    for folder, allowed in MAY_IMPORT.items():
        assert all(height[other] < height[folder] for other in allowed - {folder}), folder
