"""Sessions and their data: classes by name, damaged files, what is saved and when, preprocessing and where it is from."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from colour_nets import colour_program
from PIL import Image
from rich.console import Console

from sasimc.cli import sasrun
from sasimc.cli.common import invoke
from sasimc.datasets.preprocess import Preprocess, guess
from sasimc.isa.choices import PRESETS
from sasimc.isa.errors import SasError
from sasimc.isa.files import load_program, save_program
from sasimc.runtime.device import Device
from sasimc.runtime.interface import Interface
from sasimc.training import session as session_module
from sasimc.training.program_notes import with_notes
from sasimc.training.session import Session
from sasimc.training.session_data import SessionData
from sasimc.training.session_options import SessionOptions

RGB = ((64, 0, 0), (0, 64, 0), (0, 0, 64))
COLOURS = {"red": 0, "green": 1, "blue": 2}


def picture(channel: int, seed: int = 0, size: int = 20) -> Image.Image:
    a = np.random.default_rng(seed).integers(0, 60, (size, size, 3), dtype=np.uint8)
    a[..., channel] += 150
    return Image.fromarray(a)


def folders(root: Path, counts: dict[str, int], classes: dict[str, int]) -> Path:
    for split, n in counts.items():
        for name, channel in classes.items():
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                picture(channel, i).save(root / split / name / f"{i}.png")
    return root


def cut(path: Path) -> None:
    """A JPEG that ends early: its header is whole."""
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(out, "JPEG")
    path.write_bytes(out.getvalue()[:-3000])


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_program(tmp_path_factory.mktemp("p"), RGB, labels=list(COLOURS))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders(tmp_path_factory.mktemp("d"), {"train": 8, "val": 2, "test": 4}, COLOURS)


class Run:
    """``sasrun`` in this process, and what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        self._capsys, self.report = capsys, tmp_path / "r.json"
        self.out = self.err = ""

    def __call__(self, *words: object) -> int:
        self.report.unlink(missing_ok=True)
        code = invoke(sasrun.app, [*map(str, words), "--engine", "fused", "--threads", "1", "--json", str(self.report)], "sasrun")
        self.out, self.err = self._capsys.readouterr()
        assert "Traceback" not in self.out + self.err
        return code

    @property
    def made(self) -> dict[str, Any]:
        return json.loads(self.report.read_text())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    return Run(capsys, tmp_path)


# --- classes --------------------------------------------------------------------------------------------------------


def test_names_decide_not_the_order(run: Run, program: Path, data: Path) -> None:
    assert run(program, "--eval", data) == 0
    assert run.made["top1"] == 100.0
    assert "classes matched by name, in the program's order" in run.out.splitlines()[0]
    assert run(program, "--eval", data, "--match", "position") == 0
    assert run.made["top1"] < 50


def test_what_was_learned_bears_the_names(run: Run, tmp_path: Path) -> None:
    nothing = colour_program(tmp_path, ((0, 0, 0),) * 4, labels=["a", "b", "c", "d"])
    named = {"kiwi": 1, "berry": 2, "apple": 0}
    fruit = folders(tmp_path / "fruit", {"train": 8, "val": 2, "test": 3}, named)
    trained, image = tmp_path / "trained.s", tmp_path / "d.sas"
    assert run(nothing, "--train", fruit, "--epochs", 3, "--save", trained, "--image", image) == 0
    assert "new classes: the program's names (a, b, c, ...) are replaced" in run.out
    for name, channel in named.items():
        picture(channel, 99).save(tmp_path / "x.png")
        for words in ((trained,), (nothing, "--image", image)):
            assert run(*words, "--input", tmp_path / "x.png") == 0
            assert run.made["predictions"][0]["label"] == name
    mixed = folders(tmp_path / "again", {"test": 3}, dict(reversed(named.items())))
    assert run(trained, "--eval", mixed) == 0
    assert run.made["top1"] == 100.0
    assert Interface.of(load_program(trained)).labels == ("apple", "berry", "kiwi")


def test_classes_that_do_not_match_are_an_error(run: Run, program: Path, tmp_path: Path) -> None:
    assert run(program, "--eval", folders(tmp_path, {"test": 2}, {"red": 0, "green": 1, "violet": 2})) == 2
    assert "violet" in run.err
    assert "--match position" in run.err


def test_no_training_images_are_asked_back(run: Run, program: Path, tmp_path: Path) -> None:
    root = folders(tmp_path, {"val": 2, "test": 2}, COLOURS)
    assert run(program, "--train", root) == 2
    assert "no training images, only val (6 images) and test (6 images)" in run.err
    assert run(program, "--eval", root, "--split", "val") == 0


# --- damaged files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["train/red/9.jpg", "val/red/9.jpg", "test/red/9.jpg"])
def test_a_damaged_file_is_skipped_and_counted(run: Run, program: Path, tmp_path: Path, where: str) -> None:
    root = folders(tmp_path / "d", {"train": 3, "val": 1, "test": 2}, COLOURS)
    cut(root / where)
    assert run(program, "--train", root, "--epochs", 1, "--save", tmp_path / "t.s") == 0
    assert f"{where}: damaged or truncated image" in run.out
    assert list(run.made["data"]["damaged"]) == [where]
    assert run.made["evaluated"] == 6
    assert (tmp_path / "t.s").exists()


def test_strict_stops_before_anything_is_learned(run: Run, program: Path, tmp_path: Path) -> None:
    root = folders(tmp_path / "d", {"train": 3, "test": 2}, COLOURS)
    cut(root / "test/red/9.jpg")
    assert (
        run(program, "--train", root, "--epochs", 1, "--strict", "--save", tmp_path / "t.s", "--image", tmp_path / "d.sas") == 2
    )
    assert "test/red/9.jpg: damaged" in run.err
    assert not (tmp_path / "t.s").exists()
    assert not (tmp_path / "d.sas").exists()


def test_a_class_without_a_readable_image_ends_the_run(run: Run, program: Path, tmp_path: Path) -> None:
    root = folders(tmp_path / "d", {"train": 3, "test": 2}, COLOURS)
    for i in range(3):
        (root / f"train/red/{i}.png").unlink()
        cut(root / f"train/red/{i}.jpg")
    assert run(program, "--train", root, "--epochs", 9) == 2
    assert "no training image of class 'red' can be read" in run.err


# --- what is saved --------------------------------------------------------------------------------------------------


def test_learned_weights_are_saved_before_the_evaluation(
    run: Run, program: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise SasError("the evaluation failed")

    monkeypatch.setattr(session_module, "measure", fails)
    assert run(program, "--train", data, "--epochs", 1, "--save", tmp_path / "t.s", "--image", tmp_path / "d.sas") == 2
    assert run.made["ended"] == "the evaluation failed"
    assert len(run.made["epochs"]) == 1
    before, after = Device(program), Device(tmp_path / "t.s")
    assert any((before.state()[name] != w).any() for name, w in after.state().items())
    monkeypatch.undo()
    assert run(program, "--image", tmp_path / "d.sas", "--eval", data) == 0


def test_ctrl_c_writes_all_outputs_and_resume_writes_them_again(
    run: Run, program: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.s", {name: tmp_path / name for name in ("t.s", "trace.json")}
    words = ("--train", data, "--epochs", 5, "--seed", 3)
    assert run(program, *words, "--save", whole) == 0
    complete, shown = run.made, itertools.count()
    watch = SessionData.watch
    monkeypatch.setattr(
        SessionData, "watch", lambda self: (watch(self), os.kill(os.getpid(), signal.SIGINT) if next(shown) == 15 else None)
    )
    assert run(program, *words, "--save", out["t.s"], "--trace", out["trace.json"], "--image", tmp_path / "d.sas") == 130
    monkeypatch.undo()
    assert run.made["ended"] == "interrupted"
    assert 0 < run.made["steps"] < complete["steps"]
    assert "To go on: sasrun" in run.out
    assert all(path.stat().st_size for path in out.values())
    first = out["trace.json"].read_bytes()
    for path in (out["t.s"], run.report):
        path.unlink()
    assert invoke(sasrun.app, [str(program), "--image", str(tmp_path / "d.sas"), "--resume", "--engine", "fused"], "sasrun") == 0
    made = run.made
    assert "ended" not in made
    assert [e["loss"] for e in made["epochs"]] == [e["loss"] for e in complete["epochs"]]
    assert {n: w.tolist() for n, w in Device(out["t.s"]).state().items()} == {
        n: w.tolist() for n, w in Device(whole).state().items()
    }
    assert out["trace.json"].read_bytes() == first
    assert (tmp_path / "trace-2.json").stat().st_size


def test_an_untrained_program_gives_no_answers(run: Run, program: Path, data: Path, tmp_path: Path) -> None:
    raw, trained = tmp_path / "raw.s", tmp_path / "t.s"
    save_program(with_notes(load_program(program), {"note.sasimc.untrained": '"classifier"'}), raw)
    picture(0).save(tmp_path / "x.png")
    assert run(raw, "--input", tmp_path / "x.png") == 0
    assert "untrained: the classifier's weights are random" in run.out.splitlines()[0]
    assert "%" not in "".join(line for line in run.out.splitlines() if "x.png" in line)
    row = run.made["predictions"][0]
    assert (row["class"], row["label"], len(row["logits"])) == (None, None, 3)
    assert run(raw, "--train", data, "--epochs", 1, "--save", trained) == 0
    assert run(trained, "--input", tmp_path / "x.png") == 0
    assert "untrained:" not in run.out
    assert run.made["predictions"][0]["label"] == "red"


# --- preprocessing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_a_range_tells_its_preprocessing(name: str, dtype: str) -> None:
    """Scale and zero point as onnxruntime's affine quantisation takes them from the smallest and largest real value."""
    p = Preprocess(**PRESETS[name])
    low = min((0 - m) / s for m, s in zip(p.mean, p.std, strict=True))
    high = max((1 - m) / s for m, s in zip(p.mean, p.std, strict=True))
    scale, info = (high - low) / 255, np.iinfo(dtype)
    got, why = guess(
        224, 224, 1 if name == "mnist" else 3, scale, int(np.clip(round(info.min - low / scale), info.min, info.max)), dtype
    )
    assert (got.mean, got.std) == (p.mean, p.std)
    assert "reaches from" in why


def test_a_symmetric_range_is_said_to_fit_two(tmp_path: Path) -> None:
    got, why = guess(32, 32, 3, 1 / 127, 0, "int8")
    assert (got.mean, got.std, got.resize) == ((0.5,) * 3, (0.5,) * 3, 32)
    assert "unit fits as well" in why
    assert "fits no usual preprocessing" in guess(224, 224, 3, 1.7, 3, "int8")[1]


def test_where_the_preprocessing_is_from(run: Run, program: Path, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "x.png")
    assert run(program, "--input", tmp_path / "x.png") == 0
    assert "preprocessing from metadata: x/127.5 - 1, short side 16, middle 16 x 16, bilinear" in run.out.splitlines()[0]
    assert (run.made["input"]["source"], run.made["input"]["preprocess"]["size"]) == ("metadata", [16, 16])
    assert run(program, "--input", tmp_path / "x.png", "--mean", "0.5,0.4,0.3", "--resize", 18, "--crop", "none") == 0
    assert (
        "preprocessing from --resize, --crop, --mean: (x/255 - 0.5/0.4/0.3) / 0.5/0.5/0.5, scaled to 16 x 16"
        in run.out.splitlines()[0]
    )
    assert run(program, "--input", tmp_path / "x.png", "--preprocess", '{"mean": 0, "std": 1}') == 0
    assert "preprocessing from --preprocess: x/255, short side 16" in run.out.splitlines()[0]
    for words, problem in (
        (("--preprocess", "imagnet"), "imagenet"), (("--mean", "x"), "numbers are needed"), (("--std", "0"), "above 0"),
        (("--size", "32"), "network takes 16 x 16"), (("--resize", "8"), "smaller than the crop"),
    ):  # fmt: skip
        assert run(program, "--input", tmp_path / "x.png", *words) == 2
        assert problem in run.err


def test_an_option_stays_with_what_was_learned(run: Run, program: Path, data: Path, tmp_path: Path) -> None:
    trained, image = tmp_path / "t.s", tmp_path / "d.sas"
    assert run(program, "--train", data, "--epochs", 1, "--preprocess", "unit", "--save", trained, "--image", image) == 0
    picture(1).save(tmp_path / "x.png")
    for words in ((trained,), (program, "--image", image)):
        assert run(*words, "--input", tmp_path / "x.png") == 0
        assert "preprocessing from --preprocess: x/255" in run.out.splitlines()[0]


def test_the_guess_decides_as_the_formula_does(run: Run, tmp_path: Path) -> None:
    """Bright or dark, trained on x / 255, without metadata: 150 / 255 is bright; x / 127.5 - 1 would be fed another range."""
    judge = colour_program(tmp_path, ((-40, -40, -40), (40, 40, 40)), labels=["dark", "bright"], quantisation=(1 / 255, -128), meta={
        "sasimc.labels": '["dark", "bright"]'})  # fmt: skip
    Image.new("RGB", (16, 16), (150,) * 3).save(tmp_path / "x.png")
    assert run(judge, "--input", tmp_path / "x.png") == 0
    assert "preprocessing guessed: x/255" in run.out.splitlines()[0]
    assert run.made["predictions"][0]["label"] == "bright"
    assert run.made["predictions"][0]["logits"] == _by_onnxruntime(
        tmp_path / "colours.onnx", np.full((1, 3, 16, 16), 150 / 255, np.float32)
    )


def _by_onnxruntime(model: Path, x: np.ndarray) -> list[int]:
    """Stored logits (zero point 0) of a network whose last scale is 1/32."""
    from models import ort_run

    (y,) = ort_run(onnx.load(model), x).values()
    return np.rint(y[0] * 32).astype(int).tolist()


# --- other inputs ---------------------------------------------------------------------------------------------------


def test_grey_networks_take_any_picture(run: Run, tmp_path: Path) -> None:
    grey = colour_program(
        tmp_path,
        ((-64,), (64,)),
        labels=["dark", "bright"],
        quantisation=(1 / 255, -128),
        meta={"sasimc.labels": '["dark", "bright"]'},
    )
    rng = np.random.default_rng(0)
    for mode in ("L", "RGB", "RGBA", "P"):
        image = Image.fromarray(rng.integers(100, 200, (16, 16, 3), dtype=np.uint8)).convert(mode)
        image.save(tmp_path / "x.png")
        assert run(grey, "--input", tmp_path / "x.png") == 0
        values = np.asarray(Image.open(tmp_path / "x.png").convert("RGB").convert("L"), np.float32) / 255
        assert run.made["predictions"][0]["logits"] == _by_onnxruntime(tmp_path / "colours.onnx", values[None, None])


@pytest.mark.parametrize("channels,size", [(1, (49, 10)), (5, (6, 4)), (3, (8, 8))])
def test_arrays_of_any_shape(run: Run, tmp_path: Path, channels: int, size: tuple[int, int]) -> None:
    weights = np.random.default_rng(1).integers(-64, 65, (3, channels))
    net = colour_program(tmp_path, weights.tolist(), size=size, meta={})
    x = np.random.default_rng(2).normal(0, 0.4, (4, channels, *size)).astype(np.float32)
    expected = [_by_onnxruntime(tmp_path / "colours.onnx", one[None]) for one in x]
    forms = {
        "nchw": x, "nhwc": x.transpose(0, 2, 3, 1), "flat": x.reshape(4, -1), "double": x.astype(np.float64),
        "integers": np.clip(np.rint(x * 128), -128, 127).astype(np.int8),
    }  # fmt: skip
    for name, array in forms.items():
        if name == "integers" and load_program(net).views[Interface.of(load_program(net)).io["input"]].dtype != "i8":
            continue
        np.save(tmp_path / "x.npy", array)
        assert run(net, "--input", tmp_path / "x.npy") == 0, run.err
        assert [row["logits"] for row in run.made["predictions"]] == expected, name
    np.savez(tmp_path / "x.npz", one=x[0], rest=x[1:])
    assert run(net, "--input", tmp_path / "x.npz") == 0
    assert [row["logits"] for row in run.made["predictions"]] == expected
    np.save(tmp_path / "x.npy", x[:, :, 1:])
    assert run(net, "--input", tmp_path / "x.npy") == 2
    assert f"the network takes [{channels}, {size[0]}, {size[1]}]" in run.err


def test_learning_from_arrays(run: Run, tmp_path: Path) -> None:
    net = colour_program(tmp_path, ((0,) * 5,) * 2, size=(6, 4), meta={})
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = rng.normal(0, 0.1, (40, 5, 6, 4)).astype(np.float32)
    x[y == 1, 2] += 0.6
    x[y == 0, 4] += 0.6
    np.savez(
        tmp_path / "a.npz", x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:], class_names=np.array(["low", "high"])
    )
    assert run(net, "--train", tmp_path / "a.npz", "--epochs", 4, "--save", tmp_path / "t.s") == 0
    assert run.made["top1"] == 100.0
    assert "arrays of 6 x 4 x 5" in run.out.splitlines()[0]
    np.save(tmp_path / "x.npy", x[1])
    assert run(tmp_path / "t.s", "--input", tmp_path / "x.npy") == 0
    assert run.made["predictions"][0]["label"] == "high"
    for i in range(12):
        (tmp_path / "f" / ("low", "high")[y[i]]).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "f" / ("low", "high")[y[i]] / f"{i}.npy", x[i])
    assert run(tmp_path / "t.s", "--eval", tmp_path / "f") == 0
    assert run.made["top1"] == 100.0


def test_a_picture_for_a_network_that_takes_none(run: Run, tmp_path: Path) -> None:
    net = colour_program(tmp_path, ((0,) * 5,) * 2, size=(6, 4), meta={})
    picture(0).save(tmp_path / "x.png")
    assert run(net, "--input", tmp_path / "x.png") == 2
    assert "takes no pictures" in run.err
    assert run(net, "--input", tmp_path / "x.png", "--mean", "0.5") == 2


def test_networks_that_are_not_square(tmp_path: Path) -> None:
    net = colour_program(tmp_path, RGB, labels=list(COLOURS), size=(8, 24))
    device = Device(net)
    assert device.infer(np.asarray(picture(1, size=40))).classes.tolist() == [1]


def test_a_session_of_several_threads_says_the_same(program: Path, data: Path) -> None:
    made = []
    for threads in (1, 2):
        console = Console(file=io.StringIO(), width=200)
        session = Session(SessionOptions(program, evaluate=str(data), engine="fused", threads=threads), console)
        made.append(session.run()["top1"])
        session.close()
    assert made == [100.0, 100.0]
