"""What reads descriptions: machines, technologies, circuits, recipes, preprocessing, NVSim and PIMA-SIM files, reports of runs, names of labels."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import onnx
import test_nvsim
from harness import Kind, written
from mutate import mutated_object, mutated_text

from sasimc.cli.network import names_of
from sasimc.costs import cost_of_report
from sasimc.datasets.preprocess import parse_preprocess
from sasimc.evaluation.circuit.circuit import load_circuit
from sasimc.evaluation.machine_notes import machine_file
from sasimc.evaluation.nvsim.importer import import_files, machine_toml, technology_toml
from sasimc.evaluation.technologies import load as technologies
from sasimc.evaluation.technologies.load import load_technology
from sasimc.evaluation.text import cost_lines
from sasimc.isa import machine as machines
from sasimc.isa.machine import load_machine
from sasimc.measures import METRICS
from sasimc.quantise.preprocessing import find_preprocess
from sasimc.runtime.state import State
from sasimc.study.description import load_description
from sasimc.training import recipe as recipes
from sasimc.training.recipe import load_recipe

__all__ = ["KINDS"]

_EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def _beside(module: object, pattern: str) -> list[bytes]:
    folder = Path(module.__file__ or "").parent  # type: ignore[attr-defined]
    return [path.read_bytes() for path in sorted(folder.glob(pattern))]


def _machine(path: Path) -> object:
    """What `sasc machine show` and a run do with it."""
    found = load_machine(path)
    machine_file(found, found.name)
    return State(found)


def _machines() -> list[bytes]:
    whole = machine_file(load_machine(), "whole").encode()
    return [
        *_beside(machines, "*.toml"),
        (_EXAMPLES / "tiny_machine.toml").read_bytes(),
        b'extends = "tiny"\n[array]\nrows = 64\n',
        whole,
    ]


def _nvsim(data: bytes, folder: Path) -> object:
    (folder / "cell_a.cell").write_text(test_nvsim.CELL, encoding="utf-8")
    name = "case.cell" if b"CellArea" in data else "case.pim" if b"addon" in data else "case.cfg"
    (folder / name).write_bytes(data)
    made = import_files([folder / name])
    return (machine_toml(made) if made.machine else "", technology_toml(made) if made.technology else "")


def _neighbour(data: bytes, folder: Path) -> object:
    for name in ("preprocessor_config.json", "config.json"):
        (folder / name).write_bytes(data)
        find_preprocess(onnx.ModelProto(), folder / "m.onnx", 32, {})
        (folder / name).unlink()
    return None


def _neighbours() -> list[bytes]:
    hugging_face = {
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.2, 0.2, 0.2],
        "size": {"shortest_edge": 40},
        "resample": 3,
    }
    timm = {
        "pretrained_cfg": {
            "mean": [0.5, 0.4, 0.3],
            "std": [0.2, 0.2, 0.2],
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "input_size": [3, 32, 32],
        }
    }
    return [json.dumps(one).encode() for one in (hugging_face, timm)]


def _report() -> list[bytes]:
    import models

    from sasimc.api import CompileOptions, compile_model
    from sasimc.profiling.profile import profile
    from sasimc.runtime.device import Device

    it = Device(compile_model(models.mlp(), CompileOptions()).program, "fused", 1).interpreter
    it.regs[it.program.params["batch"]] = 1
    it.run("infer")
    return [json.dumps({**profile(it), "cycles": it.cycles, "images": 1, "phase_cycles": dict(it.phase_cycles)}).encode()]


def _change_json(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    try:
        return json.dumps(mutated_object(json.loads(data), rng)).encode("utf-8", "replace")
    except (ValueError, RecursionError):
        return mutated_text(data, others, rng)


def _studies() -> list[bytes]:
    every = """name = "x"
model = "embedded"
metrics = ["area", "accuracy"]
minimise = ["area"]
seeds = [0, 1]
[vary]
"machine.array.rows" = [32, 64]
"compile.batch" = {from = 1, to = 8, step = 1}
"zoo.width" = {from = 0.1, to = 1, steps = 3, log = true}
[base]
technology = "sot"
[only]
"compile.batch" = {"machine.array.rows" = [32]}
[constraints]
area = "<= 1e-5"
[training]
data = "flowers"
epochs = 1
[search]
method = "grid"
"""
    return [every.encode(), every.replace("grid", "tpe").encode()]


KINDS = {
    "machine": Kind(_machines, written("m.toml", _machine), mutated_text),
    "technology": Kind(lambda: _beside(technologies, "*.toml"), written("t.toml", load_technology), mutated_text),
    "circuit": Kind(
        lambda: [(Path(technologies.__file__).parents[1] / "circuit" / "table4.toml").read_bytes()],
        written("c.toml", load_circuit),
        mutated_text,
    ),
    "study": Kind(_studies, written("s.toml", lambda p: list(islice(load_description(p, METRICS).grid(), 1000))), mutated_text),
    "recipe": Kind(lambda: _beside(recipes, "recipes/*.toml"), written("r.toml", lambda p: load_recipe(str(p))), mutated_text),
    "NVSim": Kind(lambda: [t.encode() for t in (test_nvsim.CFG, test_nvsim.CELL, test_nvsim.PIM)], _nvsim, mutated_text),
    "preprocess": Kind(
        lambda: [
            json.dumps({"mean": [0.5, 0.4, 0.3], "std": 0.2, "size": [32, 24], "resize": 40, "crop": "none"}).encode(),
            b"imagenet",
        ],
        lambda d, _: parse_preprocess(d.decode("utf-8", "replace")),
        _change_json,
    ),
    "neighbours": Kind(_neighbours, _neighbour, _change_json),
    "run report": Kind(_report, written("run.json", lambda p: cost_lines(cost_of_report(p))), _change_json),
    "labels": Kind(lambda: [b"cat\ndog\n", b'["cat", "dog"]'], written("l.txt", lambda p: names_of(str(p))), mutated_text),
}
