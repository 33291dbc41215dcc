"""Further classes for a learned task: the ones it has keep their logits, bit for bit."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_task import logits, program

from sasimc.cli import sasrun
from sasimc.cli.common import invoke
from sasimc.datasets.dataset import Dataset, open_dataset
from sasimc.datasets.procedural import draw
from sasimc.isa.files import save_program
from sasimc.training.image.image import DeviceImage
from sasimc.training.image.tasks import TaskStore

NAMES = ("aster", "begonia", "crocus", "daisy", "erica", "fuchsia")
OLD, NEW = ("erica", "begonia", "daisy"), ("aster", "daisy", "crocus")
"""``NEW`` has images of an old class, and new ones before and behind it."""
STEPS = ("--epochs", "2", "--head-exponent", "6", "--module-exponent", "6")


def _folder(path: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        (path / name).mkdir(parents=True)
        for i in range(10):
            picture = draw("flowers", NAMES.index(name), 100 * NAMES.index(name) + i, 8)
            Image.fromarray(picture).save(path / name / f"{i}.png")
    return path


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A device that has learned the old classes, and a folder with further ones."""
    save_program(program(), tmp_path / "prog.s")
    _folder(tmp_path / "old", OLD)
    _folder(tmp_path / "new", NEW)
    assert _run(tmp_path, "--train", str(tmp_path / "old"), "--task", "plants", *STEPS) == 0
    return tmp_path


def _run(folder: Path, *words: str) -> int:
    return invoke(
        sasrun.app, [str(folder / "prog.s"), "--image", str(folder / "d.sas"), "--engine", "fused", "--threads", "1", *words]
    )


def _weights(folder: Path) -> dict[str, np.ndarray]:
    image = DeviceImage.open(folder / "d.sas", program())
    try:
        return dict(TaskStore(image, program(), threads=1).weights("plants"))
    finally:
        image.close()


def _logits(folder: Path, data: Dataset) -> np.ndarray:
    return logits(folder / "d.sas", program(), "plants", data)


def test_old_classes_keep_their_logits(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = open_dataset(str(scene / "old"), size=8)
    before, weights = _logits(scene, pictures), _weights(scene)
    capsys.readouterr()
    assert _run(scene, "--task", "plants", "--add", str(scene / "new"), *STEPS, "--json", str(scene / "r.json")) == 0
    assert "plants learns aster, crocus; the logits of its 3 classes stay as they are" in " ".join(
        capsys.readouterr().out.split()
    )
    after, learned = _logits(scene, pictures), _weights(scene)
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert (after[:, 3:] != before[:, 3:]).any()
    changed = [name for name in weights if (weights[name] != learned[name]).any()]
    assert len(changed) == 1, "only the classifier's"
    (name,) = changed
    np.testing.assert_array_equal(learned[name][:, :3], weights[name][:, :3])
    task = DeviceImage.read(scene / "d.sas").tasks["plants"]
    assert task.classes == (*sorted(OLD), "aster", "crocus")
    assert _run(scene, "--task", "plants", "--eval", str(scene / "old")) == 0


def test_old_classes_are_trained_too_if_the_user_says_so(
    scene: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It begins with the task's weights, trains all of them, and goes on where it was broken off."""
    before, kept = _weights(scene), (scene / "d.sas").read_bytes()
    add = ("--task", "plants", "--add", str(scene / "new"), "--retrain", *STEPS)
    first: list[dict[str, np.ndarray]] = []
    begin = TaskStore.begin

    def begun(self: TaskStore, setup: dict[str, object]) -> None:
        first.append(self.device.state())
        begin(self, setup)

    monkeypatch.setattr(TaskStore, "begin", begun)
    assert _run(scene, *add) == 0
    assert "plants learns aster, crocus; its 3 classes are trained with them" in " ".join(capsys.readouterr().out.split())
    whole = _weights(scene)
    for name, values in before.items():
        np.testing.assert_array_equal(first[0][name], values)
        assert (whole[name] != values).any(), name
    assert DeviceImage.read(scene / "d.sas").tasks["plants"].classes == (*sorted(OLD), "aster", "crocus")
    (scene / "d.sas").write_bytes(kept)
    _broken_off(scene, monkeypatch, add)
    assert _run(scene, "--resume") == 0
    for name, values in _weights(scene).items():
        np.testing.assert_array_equal(values, whole[name], name)


def _broken_off(scene: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    """The run, interrupted in its fifth step."""
    keep, calls = TaskStore.keep, []

    def interrupted(self: TaskStore, run: object) -> None:
        keep(self, run)  # type: ignore[arg-type]
        calls.append(run)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TaskStore, "keep", interrupted)
        assert _run(scene, *words) != 0
    assert DeviceImage.read(scene / "d.sas").pending is not None


def test_it_goes_on_where_it_was_broken_off(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = (scene / "d.sas").read_bytes()
    add = ("--task", "plants", "--add", str(scene / "new"), *STEPS)
    assert _run(scene, *add) == 0
    whole = _weights(scene)
    (scene / "d.sas").write_bytes(kept)
    _broken_off(scene, monkeypatch, add)
    assert _run(scene, "--resume") == 0
    for name, values in _weights(scene).items():
        np.testing.assert_array_equal(values, whole[name], name)


@pytest.mark.parametrize(
    "words, message",
    [
        (("--add", "old"), "--add FOLDER goes with --image and --task NAME"),
        (("--task", "plants", "--add", "new", "--freeze", "head"), "--add FOLDER goes with"),
        (("--task", "plants", "--train", "new", "--retrain"), "--retrain goes with --add"),
        (("--task", "animals", "--add", "new"), "no task 'animals'"),
        (("--task", "plants", "--add", "old"), "no class of the data is new to task 'plants'"),
    ],
)
def test_bad_calls(scene: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(scene / w) if w in ("old", "new") else w for w in words]
    capsys.readouterr()
    assert _run(scene, *paths) == 2
    assert message in " ".join(capsys.readouterr().err.split())
