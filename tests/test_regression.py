"""The squared error as loss: golden model, engines, instruction, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from test_runtime import program, run, view
from whole_path import check, compile_onnx

from sasimc.cli import sasc, sasrun
from sasimc.cli.common import invoke
from sasimc.datasets.values import auc
from sasimc.isa.errors import SasError
from sasimc.isa.files import load_program
from sasimc.isa.spec import RowRange
from sasimc.runtime.device import Device

SQUARED = "squared-error"


def image_to_image(seed: int = 0) -> onnx.ModelProto:
    """Convolutions whose output is a plane."""
    b = models.Builder(seed, pow2=True)
    x = b.conv(b.input((2, 6, 5)), 4, 3, act="relu", trainable=True, name="a")
    return b.model(b.conv(x, 3, 3, trainable=True, name="b"))


@pytest.mark.parametrize("update", ["direct", "momentum"])
def test_device_equals_golden_model(update: str) -> None:
    check(models.mlp(), loss=SQUARED, engines=("fused", "bitserial", "step"), steps=3, update=update, rounding="carried")


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_outputs_with_height_and_width(rounding: str) -> None:
    check(image_to_image(), loss=SQUARED, engines=("fused", "bitserial"), steps=3, rounding=rounding)


@pytest.mark.parametrize("dtype", ["u8", "i8"])
def test_instruction(dtype: str) -> None:
    rng = np.random.default_rng(0)
    lo = 0 if dtype == "u8" else -128
    shape = (2, 3, 4)
    q, t = (view(n, "buf", dtype, shape, addr=32 * i) for i, n in enumerate("qt"))
    d = view("d", "buf", "i32", shape, addr=64)
    a, b = rng.integers(lo, lo + 256, (2, *shape))
    it = run(program(("sqerr", "d", "q", "t", 3), views=(q, t, d)), {"q": a, "t": b})
    assert np.array_equal(it.read_view("d"), a - b)
    assert it.regs[3] == ((a - b) ** 2).sum()
    other = view("o", "buf", "i8" if dtype == "u8" else "u8", shape, addr=32)
    with pytest.raises(SasError, match="both are steps of the same scale"):
        run(program(("sqerr", "d", "q", "o", 3), views=(q, other, d)))


def test_the_largest_sum_is_kept_within_32_bits() -> None:
    shape = (1, 1, 40_000)
    q, t, d = (
        view("q", "buf", "u8", shape),
        view("t", "buf", "u8", shape, addr=40_000),
        view("d", "buf", "i32", shape, addr=80_000),
    )
    code = (("fill", "q", 255, RowRange(0, 0, 1)), ("sqerr", "d", "q", "t", 3))
    assert run(program(*code, views=(q, t, d))).regs[3] == 2**31 - 1


def test_area_under_the_curve() -> None:
    """Against its definition: the share of pairs in the right order."""
    rng = np.random.default_rng(0)
    scores, odd = rng.integers(0, 12, 60), rng.random(60) < 0.3
    pairs = [(a > b) + (a == b) / 2 for a in scores[odd] for b in scores[~odd]]
    assert auc(scores, odd) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert np.isnan(auc(scores, np.zeros(60)))


def autoencoder() -> onnx.ModelProto:
    return models.mlp((20, 16, 4, 16, 20))


def waves(count: int, seed: int, odd: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.sin(np.arange(20) * (0.9 if odd else 0.3) + rng.uniform(0, 6, (count, 1)))
    return (0.5 + 0.4 * x).astype(np.float32)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("values")
    onnx.save(autoencoder(), folder / "ae.onnx")
    assert invoke(sasc.app, ["compile", str(folder / "ae.onnx"), "-o", str(folder / "ae.s"), "--loss", "squared-error"]) == 0
    return folder / "ae.s"


def test_step_against_onnxruntime(compiled: Path) -> None:
    """The loss of a step is the mean squared error of what onnxruntime computes, whose outputs may be a step off."""
    device = Device(load_program(compiled), "fused", 1)
    x, y = waves(8, 1), device.output.real(np.random.default_rng(2).integers(0, 128, (8, 20)))
    real = next(iter(models.ort_run(autoencoder(), x).values())).astype(np.float64)
    off = device.output.scale
    assert device.train_step(x, y).loss == pytest.approx(
        np.square(real - y).mean(), abs=off * (2 * np.abs(real - y).mean() + off)
    )
    with pytest.raises(SasError, match="targets"):
        device.train_step(x, y[:, :7])


def test_an_autoencoder_learns_and_scores(compiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, report = tmp_path / "waves.npz", tmp_path / "run.json"
    test, labels = np.concatenate([waves(30, 3), waves(30, 4, odd=True)]), np.repeat([0, 1], 30)
    np.savez(data, x_train=waves(240, 2), x_test=test, y_test=labels)
    trained, image = tmp_path / "trained.s", tmp_path / "d.sas"
    words = [str(compiled), "--train", str(data), "--engine", "fused", "--epochs", "6", "--json", str(report)]
    assert invoke(sasrun.app, [*words, "--save", str(trained)]) == 0
    found = json.loads(report.read_text())
    losses = [e["loss"] for e in found["epochs"]]
    assert losses[-1] < 0.5 * losses[0]
    assert found["epochs"][0]["train_top1"] is None
    assert found["top1"] is None
    assert found["evaluated"] == 60
    assert len(found["scores"]) == 60
    assert found["auc"] > 0.8
    assert found["error"] == pytest.approx(np.mean([s["error"] for s in found["scores"]]))
    assert "mean squared error" in capsys.readouterr().out
    # what was saved gives the same scores; the same training on a device image does, too
    assert invoke(sasrun.app, [str(trained), "--eval", str(data), "--engine", "fused", "--json", str(report)]) == 0
    assert json.loads(report.read_text())["scores"] == found["scores"]
    assert invoke(sasrun.app, [*words, "--image", str(image), "--task", "pump"]) == 0
    assert json.loads(report.read_text())["scores"] == found["scores"]
    assert json.loads(report.read_text())["task"]["accuracy"].keys() == {"val", "test"}
    assert invoke(sasc.app, ["image", "show", str(image)]) == 0
    assert "pump: values; val mean squared error" in capsys.readouterr().out
    # the network goes home: from the program as from the image, and back to the same bits
    a, b, again = tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "again.s"
    model = ["--model", str(compiled.with_name("ae.onnx"))]
    assert invoke(sasc.app, ["export", str(trained), "-o", str(a), *model]) == 0
    assert invoke(sasc.app, ["export", str(compiled), "--image", str(image), "--task", "pump", "-o", str(b), *model]) == 0
    assert a.read_bytes() == b.read_bytes()
    assert invoke(sasc.app, ["compile", str(a), "-o", str(again), "--loss", "squared-error"]) == 0
    before, after = load_program(trained), load_program(again)
    assert (before.views, before.tables) == (after.views, after.tables)
    assert all(np.array_equal(values, after.tensors[name]) for name, values in before.tensors.items())


def test_targets_of_their_own(compiled: Path, tmp_path: Path) -> None:
    x = waves(200, 5)
    data, report = tmp_path / "mirrored.npz", tmp_path / "run.json"
    np.savez(data, x=x, y=x[:, ::-1])
    assert (
        invoke(sasrun.app, [str(compiled), "--train", str(data), "--engine", "fused", "--epochs", "5", "--json", str(report)])
        == 0
    )
    found = json.loads(report.read_text())
    assert found["epochs"][-1]["loss"] < found["epochs"][0]["loss"]
    assert found["auc"] is None
    np.save(tmp_path / "one.npy", x[:1])
    assert (
        invoke(sasrun.app, [str(compiled), "--input", str(tmp_path / "one.npy"), "--engine", "fused", "--json", str(report)]) == 0
    )
    row = json.loads(report.read_text())["predictions"][0]
    assert len(row["values"]) == 20
    assert row["error"] == pytest.approx(np.square(np.array(row["values"]) - x[0]).mean(), abs=0.02)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": waves(20, 0), "y": waves(20, 0)[:, :7]}, "labels [20, 7]"),
        ({"x_train": waves(20, 0), "y_train": waves(20, 0), "x_test": waves(9, 0)}, "other examples have none"),
        ({"y": waves(20, 0)}, "no x"),
    ],
)
def test_data_that_do_not_fit(
    compiled: Path, tmp_path: Path, arrays: dict[str, np.ndarray], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    assert invoke(sasrun.app, [str(compiled), "--train", str(tmp_path / "d.npz")]) == 2
    assert message in capsys.readouterr().err


def test_without_data_the_program_asks(compiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(sasrun.app, [str(compiled)]) == 2
    assert "what is it to learn" in capsys.readouterr().err


def test_classes_need_a_vector() -> None:
    with pytest.raises(SasError, match="--loss squared-error"):
        compile_onnx(image_to_image())
