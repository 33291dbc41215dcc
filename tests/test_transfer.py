"""Backward transfer, forgetting and forward transfer: matrices computed by hand, and what an image keeps to know them."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import mobilenet_like
from power_faults import FaultyMedium, Fuse, PowerCut
from tiny_task import Outcome, dataset, learn, machine, short_program

from sasimc.api import CompileOptions, compile_model
from sasimc.cli import sasc, sasrun
from sasimc.cli.common import invoke
from sasimc.isa.errors import SasError
from sasimc.isa.files import save_program
from sasimc.training.image.image import DeviceImage, Measured, Task
from sasimc.training.image.sequence import sequence
from sasimc.training.image.tasks import TaskStore
from sasimc.training.recipe import Recipe
from sasimc.training.transfer import transfer

R = [[80.0, 30.0, 20.0], [90.0, 70.0, 40.0], [60.0, 76.0, 50.0]]


def test_three_tasks_by_hand() -> None:
    t = transfer(R, [10.0, 20.0, 25.0])
    assert t.accuracy == pytest.approx((60 + 76 + 50) / 3)
    assert t.backward == pytest.approx(((60 - 80) + (76 - 70)) / 2)
    assert t.forgetting == pytest.approx(((90 - 60) + (70 - 76)) / 2), "from the best, 90, not from what was learned, 80"
    assert t.forward == pytest.approx(((30 - 20) + (40 - 25)) / 2)
    assert t.all_accuracy == pytest.approx((80 + 90 + 70 + 60 + 76 + 50) / 6)
    assert t.all_backward == pytest.approx(((90 - 80) + (60 - 80) + (76 - 70)) / 3)
    assert t.all_forward == pytest.approx((30 + 20 + 40) / 3)
    assert t.remembering == pytest.approx(100 - 4 / 3)


def test_what_was_not_measured_is_no_number() -> None:
    """Each figure needs its own entries, no others; remembering has no credit for what becomes better."""
    t = transfer([[80.0, None, None], [None, 70.0, None], [82.0, 73.0, 50.0]])
    assert (t.backward, t.accuracy) == (2.5, pytest.approx(205 / 3))
    assert (t.forgetting, t.forward, t.all_accuracy, t.all_backward, t.all_forward, t.remembering) == (None,) * 6
    t = transfer([[50.0, None], [55.0, 60.0]], [1.0, 2.0])
    assert (t.backward, t.forgetting, t.all_backward, t.remembering, t.forward) == (5.0, -5.0, 5.0, 100.0, None)
    one = transfer([[50.0]], [20.0])
    assert (one.accuracy, one.all_accuracy, one.backward, one.forgetting, one.forward) == (50.0, 50.0, None, None, None)
    assert transfer([]).accuracy is None


@pytest.mark.parametrize("matrix, initial", [([[1.0, 2.0]], []), ([[1.0]], [1.0, 2.0])])
def test_other_shapes_are_refused(matrix: list[list[float]], initial: list[float]) -> None:
    with pytest.raises(SasError, match="square"):
        transfer(matrix, initial)


def _task(name: str, *measured: tuple[str, float, int], learned: bool = True) -> Task:
    kept = tuple(Measured(after=after, split="test", digest="d", images=n, top1=top1) for after, top1, n in measured)
    return Task(name=name, classes=("x", "y"), learned=learned, measured=kept)


def test_a_column_has_accuracies_on_the_same_images_only() -> None:
    a = _task("a", ("a", 50.0, 8), ("a", 60.0, 16), ("b", 70.0, 8), ("c", 80.0, 16))
    tasks = [a, _task("b", ("b", 40.0, 4)), _task("c", ("c", 30.0, 4)), _task("d", learned=False)]
    kept = sequence(tasks)
    assert kept.names == ("a", "b", "c")
    assert kept.matrix == ((60.0, None, None), (None, 40.0, None), (80.0, None, 30.0))
    assert sequence(tasks, "val").matrix == ((None,) * 3,) * 3


def test_the_image_keeps_what_evaluations_find(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two tasks learned and evaluated; what is missing is named, and known after one more evaluation. Nothing is forgotten: transfer is 0."""
    model = mobilenet_like(size=8, width=4, modules=1, classes=10)
    save_program(compile_model(model, CompileOptions(batch=4, machine=machine())).program, tmp_path / "prog.s")
    image = str(tmp_path / "d.sas")

    def run(*words: str) -> None:
        common = ("--image", image, "--engine", "fused", "--threads", "1", "--limit", "8")
        assert invoke(sasrun.app, [str(tmp_path / "prog.s"), *common, *words]) == 0

    def show() -> tuple[str, dict[str, Any]]:
        capsys.readouterr()
        assert invoke(sasc.app, ["image", "show", image, "--json", str(tmp_path / "t.json")]) == 0
        return capsys.readouterr().out, json.loads((tmp_path / "t.json").read_text())["transfer"]

    for name in "ab":
        run("--train", "drawn-flowers", "--task", name, "--epochs", "1")
    said, found = show()
    (own, _), (now, _) = found["matrix"]
    assert own is not None
    assert now is None
    assert found["backward"] is None
    assert f"--image {image} --task a --eval DATASET" in said.replace("\n", "")
    run("--eval", "drawn-flowers", "--task", "a")
    said, found = show()
    assert found["matrix"][1][0] == found["matrix"][0][0] == own
    assert (found["backward"], found["forgetting"], found["remembering"], found["forward"]) == (0.0, 0.0, 100.0, None)
    assert "backward transfer +0.00 points, forgetting +0.00 points, remembering 100.00 %" in said
    assert "not evaluated" not in said
    assert DeviceImage.read(Path(image)).tasks["a"].accuracy["test"] == own
    assert invoke(sasc.app, ["image", "forget", image, "b"]) == 0
    assert [m.after for m in DeviceImage.read(Path(image)).tasks["a"].measured] == ["a"]


def test_an_evaluation_amid_a_training_changes_neither(tmp_path: Path) -> None:
    """Task a is evaluated while the training of b is broken off: b ends as without it, and a was evaluated when it was learned last."""
    recipe, ends = Recipe(epochs=2, seed=5), list[tuple[Outcome, DeviceImage]]()
    for disturbed in (False, True):
        path = tmp_path / f"{disturbed}.sas"
        learn(path, short_program(), "a", dataset(), recipe)
        with pytest.raises(PowerCut):
            learn(path, short_program(), "b", dataset(draw=1), recipe, medium=FaultyMedium(path, Fuse(40)))
        left = DeviceImage.read(path).pending
        assert left is not None
        assert left.state["step"] > 0
        if disturbed:
            with closing(DeviceImage.open(path, short_program())) as image:
                bank = TaskStore(image, short_program(), threads=1)
                for task in "ab":  # b is not learned: nothing is kept of it
                    bank.select(task)
                    bank.measured("test", 25.0, "d", 4, now=False)
        ends.append((learn(path, short_program(), "b", dataset(draw=1), recipe, resume=True), DeviceImage.read(path)))
    (one, plain), (two, other) = ends
    assert (one.epochs, one.counts) == (two.epochs, two.counts)
    assert np.array_equal(plain.cells, other.cells)
    assert np.array_equal(plain.wear, other.wear)
    assert [(m.after, m.top1) for m in other.tasks["a"].measured] == [("a", 25.0)]
    assert other.tasks["b"].measured == ()
