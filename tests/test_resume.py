"""Trainings that are killed: at any operation on the file, between the writes of rows, by SIGKILL. They go on and end as if never killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

import pytest
from models import mobilenet_like
from power_faults import FaultyMedium, Fuse, PowerCut, cut_between_rows
from tiny_task import Outcome, dataset, learn, short_program

from sasimc.api import CompileOptions, compile_model
from sasimc.cli import sasrun
from sasimc.cli.common import invoke
from sasimc.isa.files import save_program
from sasimc.training.image import image as image_module
from sasimc.training.image.image import DeviceImage
from sasimc.training.recipe import Recipe, Schedule

RECIPE = Recipe(epochs=3, seed=5, head_exponent=Schedule(first=3, last=0), module_exponent=Schedule(first=2, last=-1))
KILLS = 200


def _life(path: Path, fuse: Fuse, update: str = "direct", error_range: str = "batch") -> Outcome | None:
    """One life of the process: from the image as it stands to the end, or to the fuse's (then None)."""
    try:
        return learn(
            path, short_program(update=update, error_range=error_range), "a", dataset(), RECIPE, medium=FaultyMedium(path, fuse), resume=True,
            started=lambda device: cut_between_rows(device, fuse),
        )  # fmt: skip
    except PowerCut:
        return None


def _is_learned(path: Path) -> bool:
    return path.exists() and DeviceImage.read(path).pending is None


@lru_cache
def _undisturbed(update: str) -> tuple[Outcome, int]:
    """The run that is never killed, and its operations."""
    path = Path(os.environ["PYTEST_TMP"]) / f"{update}.sas"
    fuse = Fuse()
    whole = _life(path, fuse, update)
    assert whole is not None
    return whole, fuse.burnt


@pytest.fixture(autouse=True)
def _digests_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same few programs are opened hundreds of times."""
    identity = image_module.identity
    known = {
        id(p): image_module.identity(p)
        for p in (short_program(), short_program(update="direct"), short_program(update="accumulate"))
    }
    monkeypatch.setattr(image_module, "identity", lambda p: known[id(p)] if id(p) in known else identity(p))


@pytest.fixture(autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_TMP", str(tmp_path_factory.mktemp("undisturbed")))


def _killed_again_and_again(path: Path, seed: int, kills: int, update: str) -> tuple[Outcome | None, int]:
    """Lives until the task is learned; every one but the last few is cut off at a random operation. The outcome of the last life (None
    where it was cut off behind the last write), and the cuts."""
    rng = random.Random(seed)
    _, operations = _undisturbed(update)
    cuts = 0
    while True:
        fuse = Fuse(rng.randrange(1, max(2, 5 * operations // kills)), rng.randrange(1 << 30)) if cuts < 4 * kills else Fuse()
        outcome = _life(path, fuse, update)
        cuts += outcome is None
        if outcome is not None or _is_learned(path):
            return outcome, cuts


def test_two_hundred_kills_change_nothing(tmp_path: Path) -> None:
    """Cuts in the middle of writing the image, before and after it is safe, and between the writes of rows: the image ends the same to the
    last byte (weights, wear, registry), and so do epochs, best epoch, cycles and events."""
    cuts = runs = 0
    while cuts < KILLS:
        update = "accumulate" if runs % 3 == 2 else "direct"
        path = tmp_path / f"{runs}.sas"
        whole, _ = _undisturbed(update)
        outcome, n = _killed_again_and_again(path, runs, 40, update)
        assert path.read_bytes() == whole.image, f"run {runs}"
        if outcome is not None:
            assert outcome == whole, f"run {runs}"
        cuts, runs = cuts + n, runs + 1
    assert not list(tmp_path.glob(".*")), "a temporary file was left"


def test_ranges_of_errors_outlive_kills(tmp_path: Path) -> None:
    """With exponents from the step before, only the first step of a training measures, however often it is cut off."""
    path, whole = tmp_path / "d.sas", _life(tmp_path / "whole.sas", Fuse(), error_range="previous")
    assert whole is not None
    ends = [_life(path, Fuse(life, life), error_range="previous") for life in (60, 90, 120)] + [None]
    while ends[-1] is None:
        ends.append(_life(path, Fuse(), error_range="previous"))
    assert ends[:3] == [None] * 3
    assert ends[-1] == whole
    assert path.read_bytes() == whole.image


def test_a_kill_loses_at_most_the_step_in_progress(tmp_path: Path) -> None:
    """Whatever the operation, what is on the disk afterwards is the step boundary before it or behind it."""
    path = tmp_path / "d.sas"
    _, operations = _undisturbed("direct")
    done = 0
    for life in random.Random(1).sample(range(operations // 3, operations), 12):
        path.unlink(missing_ok=True)
        kept: list[int] = []
        fuse = Fuse(life, life)
        medium = FaultyMedium(path, fuse)
        append = medium.append

        def noted(data: bytes, at: int, append=append, kept=kept) -> None:  # type: ignore[no-untyped-def]
            append(data, at)
            kept.append(1)

        medium.append = noted  # type: ignore[method-assign]
        with pytest.raises(PowerCut):
            learn(
                path,
                short_program(update="direct"),
                "a",
                dataset(),
                RECIPE,
                medium=medium,
                started=lambda device, fuse=fuse: cut_between_rows(device, fuse),
            )
        image = DeviceImage.read(path)
        if image.pending is not None:
            frames = image._frames - 1
            assert frames in (len(kept), len(kept) + 1)
            done += frames
    assert done


def test_snapshots_in_the_middle_of_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that have become too long together make way for a snapshot; kills around that change nothing either."""
    whole, _ = _undisturbed("direct")
    monkeypatch.setattr(image_module, "JOURNAL_BYTES", 2000)
    path = tmp_path / "d.sas"
    outcome, cuts = _killed_again_and_again(path, 3, 15, "direct")
    assert cuts > 5
    assert path.read_bytes() == whole.image
    assert outcome is None or outcome == whole


def test_another_engine_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "d.sas"
    whole, operations = _undisturbed("direct")
    assert _life(path, Fuse(operations // 2)) is None
    outcome = learn(path, short_program(update="direct"), "a", dataset(), RECIPE, resume=True, engine="bitserial")
    assert outcome == whole


def test_an_image_is_whole_at_every_length(tmp_path: Path) -> None:
    """Cut off anywhere behind the snapshot, an image is one of some step boundary; within it, it is refused."""
    path = tmp_path / "d.sas"
    _, operations = _undisturbed("direct")
    assert _life(path, Fuse(operations - 200)) is None
    data = path.read_bytes()
    image = DeviceImage.read(path)
    lengths = random.Random(2).sample(range(image._snapshot, len(data)), 40)
    steps = []
    for length in sorted(lengths):
        path.write_bytes(data[:length])
        pending = DeviceImage.read(path).pending
        assert pending is not None
        steps.append(pending.state.get("step", 0))
    assert steps == sorted(steps)
    assert len(set(steps)) > 5


def _start(path: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sasimc.cli.sasrun", *words, "--engine", "fused", "--threads", "1"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    return subprocess.Popen(command, cwd=path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _wait_for(path: Path, size: int) -> None:
    limit = time.monotonic() + 240  # the kernels may have to be compiled
    while not (path.exists() and path.stat().st_size > size):
        assert time.monotonic() < limit, "the training does not begin"
        time.sleep(0.005)


def _train_words() -> tuple[str, ...]:
    return ("prog.s", "--image", "d.sas", "--train", "drawn-flowers", "--epochs", "2", "--limit", "60")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    save_program(
        compile_model(mobilenet_like(size=8, width=4, modules=1, classes=10), CompileOptions(batch=2)).program, folder / "prog.s"
    )
    return folder


def test_sigkill_and_ctrl_c(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command itself: killed by the system, then broken off with Ctrl-C (exit code 130, says how to go on), then finished."""
    process = _start(scene, *_train_words())
    _wait_for(scene / "d.sas", 20_000)
    process.kill()
    process.communicate()
    size = (scene / "d.sas").stat().st_size
    process = _start(scene, "prog.s", "--image", "d.sas", "--resume")
    _wait_for(scene / "d.sas", size + 2000)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "saved in d.sas" in said
    assert "sasrun prog.s --image d.sas --resume" in said
    monkeypatch.chdir(scene)
    common = ["--engine", "fused", "--threads", "1"]
    assert invoke(sasrun.app, ["prog.s", "--image", "d.sas", "--resume", *common]) == 0
    killed = (scene / "d.sas").read_bytes()
    (scene / "d.sas").unlink()
    assert invoke(sasrun.app, [*_train_words(), *common]) == 0
    assert (scene / "d.sas").read_bytes() == killed
