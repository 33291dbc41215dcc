"""Scratch rows of gradients take turns (``--level scratch``): the same values and cycles, the same writes, on other word lines."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_task import dataset, program

from sasimc.cli import sasrun
from sasimc.cli.common import invoke
from sasimc.datasets.procedural import draw
from sasimc.isa.files import save_program
from sasimc.isa.objects import Matrix, Tile
from sasimc.runtime.device import Device
from sasimc.runtime.levelling import ScratchLevelling, scratch_blocks
from sasimc.runtime.state import State
from sasimc.training.image.image import DeviceImage
from sasimc.training.image.tasks import TaskStore
from sasimc.training.writes import program_writes, writes

STEPS = 70
"""More than a sub-array has rows: the blocks turn, too."""


def _trained(engine: str, level: str, steps: int, turns: int = 0) -> Device:
    data = dataset()
    images = np.stack([data.load(i) for i in data.items("train")])
    labels = np.array([i.class_id for i in data.items("train")])
    device = Device(program(), engine, 1)
    device.level(level, turns)
    for step in range(steps):
        two = [2 * step % len(labels), (2 * step + 1) % len(labels)]
        device.train_step(images[two], labels[two])
    return device


def _scratch_wear(device: Device) -> np.ndarray:
    """[blocks, rows]"""
    (blocks,) = scratch_blocks(device.program)
    return np.stack([device.interpreter.state.wear[b.subarray, b.row : b.row + b.rows] for b in blocks])


def test_values_and_cycles_stay_and_wear_spreads() -> None:
    plain, level = (_trained("fused", name, STEPS) for name in ("none", "scratch"))
    for name, values in plain.state().items():
        np.testing.assert_array_equal(values, level.state()[name])
    a, b = plain.interpreter, level.interpreter
    flips = {e for e in a.events if e.startswith("bits_flipped_compute")}
    assert a.cycles == b.cycles
    assert {k: v for k, v in a.events.items() if k not in flips} == {k: v for k, v in b.events.items() if k not in flips}
    assert _scratch_wear(plain).sum() == _scratch_wear(level).sum() == program_writes(level)["scratch"].rows
    (blocks,) = scratch_blocks(plain.program)
    elsewhere = np.ones(a.state.wear.shape, bool)
    for block in blocks:
        elsewhere[block.subarray, block.row : block.row + block.rows] = False
    np.testing.assert_array_equal(a.state.wear[elsewhere], b.state.wear[elsewhere])
    before, after = (_scratch_wear(d).max() / _scratch_wear(d).mean() for d in (plain, level))
    assert after < 2 < 10 < before
    assert writes(level)["scratch"]["worst"] == _scratch_wear(level).max()


def test_wear_is_that_of_turned_rows() -> None:
    """Step by step: what a step without levelling writes, turned by the step's number."""
    plain, level = Device(program(), "fused", 1), Device(program(), "fused", 1)
    level.level("scratch", 5)
    data, known = dataset(), np.zeros_like(_scratch_wear(plain))
    images = np.stack([data.load(i) for i in data.items("train")])[:2]
    for turns in range(5, 9):
        before = _scratch_wear(plain)
        for device in (plain, level):
            device.train_step(images, np.array([0, 1]))
        known += np.roll(_scratch_wear(plain) - before, turns, axis=1)
        np.testing.assert_array_equal(_scratch_wear(level), known)


def test_engines_agree() -> None:
    found = [_trained(engine, "scratch", 3, turns=62).interpreter for engine in ("step", "bitserial", "fused")]
    for other in found[1:]:
        assert (other.cycles, other.events) == (found[0].cycles, found[0].events)
        np.testing.assert_array_equal(other.state.wear, found[0].state.wear)
        np.testing.assert_array_equal(other.state.cells, found[0].state.cells)


def test_rows_that_hold_trained_weights_stay() -> None:
    p = program()
    (blocks,) = scratch_blocks(p)
    b = blocks[0]
    shared = Matrix("more", "dense", "compute", 1, 1, "more", True, (Tile(b.subarray, b.row + 3, 63, 0, 0, 1, 1),))
    left = scratch_blocks(replace(p, matrices={**p.matrices, "more": shared}))
    assert [x for group in left for x in group] == blocks[1:]


def test_every_row_takes_every_place() -> None:
    state = State(program().machine)
    (blocks,) = scratch_blocks(program())
    level, rows = ScratchLevelling(program(), state), blocks[0].rows
    for _ in range(rows * len(blocks)):
        with level.turned():
            state.wear[blocks[0].subarray, blocks[0].row] += 1
    assert all((state.wear[b.subarray, b.row : b.row + rows] == 1).all() for b in blocks)


# ------------------------------------------------------------------------------------------------------------ commands


def _run(folder: Path, *words: str) -> int:
    return invoke(
        sasrun.app, [str(folder / "prog.s"), "--image", str(folder / "d.sas"), "--engine", "fused", "--threads", "1", *words]
    )


def test_the_image_keeps_where_the_turns_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One task after another, broken off and gone on with: wear and turns as if it had not been."""
    save_program(program(), tmp_path / "prog.s")
    for name, kind in (("one", "flowers"), ("two", "pretrain")):
        for c in range(2):
            (tmp_path / name / str(c)).mkdir(parents=True)
            for i in range(10):
                Image.fromarray(draw(kind, c, 100 * c + i, 8)).save(tmp_path / name / str(c) / f"{i}.png")
    train = [("--train", str(tmp_path / name), "--epochs", "1", "--level", "scratch") for name in ("one", "two")]
    assert _run(tmp_path, *train[0]) == 0
    first = DeviceImage.read(tmp_path / "d.sas")
    assert first.turns == first.tasks["one"].steps > 0
    kept = (tmp_path / "d.sas").read_bytes()
    assert _run(tmp_path, *train[1]) == 0
    whole = DeviceImage.read(tmp_path / "d.sas")
    assert whole.turns == 2 * first.turns
    (tmp_path / "d.sas").write_bytes(kept)
    keep, calls = TaskStore.keep, list[object]()

    def interrupted(self: TaskStore, run: object) -> None:
        keep(self, run)  # type: ignore[arg-type]
        calls.append(run)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TaskStore, "keep", interrupted)
        assert _run(tmp_path, *train[1]) != 0
    assert DeviceImage.read(tmp_path / "d.sas").turns == first.turns + 4
    assert _run(tmp_path, "--resume") == 0
    again = DeviceImage.read(tmp_path / "d.sas")
    assert again.turns == whole.turns
    np.testing.assert_array_equal(again.wear, whole.wear)
    np.testing.assert_array_equal(again.cells, whole.cells)
    capsys.readouterr()
    assert _run(tmp_path, "--eval", str(tmp_path / "one"), "--level", "scratch") == 2
    assert "--level holds for a training" in capsys.readouterr().err
