"""``--task auto``: the device finds the task of an image by the nearest mean of frozen features."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from models import mobilenet_like
from PIL import Image
from scipy.spatial.distance import cdist
from tiny_task import dataset, program

from sasimc.cli import sasc, sasrun
from sasimc.cli.common import invoke
from sasimc.datasets.dataset import Dataset, open_dataset
from sasimc.datasets.procedural import draw
from sasimc.isa.files import save_program
from sasimc.isa.program import Program, Tensor
from sasimc.runtime.device import Device
from sasimc.training.image.image import DeviceImage
from sasimc.training.image.recognise import FEATURES, Sums, feature_program, features_of, half_norms, recognise_code
from sasimc.training.image.recogniser import recogniser, settle
from sasimc.training.image.tasks import TaskStore
from sasimc.training.recognition import class_means, evaluate_unsaid, of_tasks

FOLDERS = {"garden": ("flowers", 0, 3), "forms": ("pretrain", 0, 4), "meadow": ("flowers", 5, 8)}


def _pictures(data: Dataset, split: str = "train") -> np.ndarray:
    return np.stack([data.load(i) for i in data.items(split)])


def _features(p: Program, images: np.ndarray, engine: str = "fused") -> tuple[np.ndarray, Device]:
    device = Device(feature_program(p), engine, 1)
    found = []
    for first in range(0, len(images), 2):
        device.infer(images[first : first + 2])
        found += [device.interpreter.read_view(FEATURES, b).reshape(-1) for b in range(len(images[first : first + 2]))]
    return np.stack(found), device


def test_features_are_those_of_the_network_without_its_modules() -> None:
    """onnxruntime on the same network with zeros for the module's weights; other weights of the task change nothing."""
    p = program()
    images = _pictures(dataset())
    ours, device = _features(p, images)
    model = mobilenet_like(size=8, width=4, modules=1)
    weights = {n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear" and _of_module(model, n.output[0])}
    for i in model.graph.initializer:
        if i.name in weights:
            i.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(onnx.numpy_helper.to_array(i)), i.name))
    assert weights
    model.graph.output.append(onnx.ValueInfoProto(name="gap_q_out"))
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # without it, sums saturate where there is no VNNI
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    stored = device.input.integers(images).astype(np.float32)
    feeds = [
        ((x - device.input.zero) * np.float32(device.input.scale)).transpose(2, 0, 1)[None].astype(np.float32) for x in stored
    ]
    theirs = np.concatenate(
        [np.asarray(session.run(["gap_q_out"], {session.get_inputs()[0].name: x})[0]).reshape(1, -1) for x in feeds]
    )
    view = features_of(p)
    assert view
    shift = 128 if view.dtype == "u8" and theirs.dtype == np.int8 else 0
    assert np.abs(ours.astype(int) - (theirs.astype(int) + shift)).max() <= 1, (
        "a rounding of onnxruntime in floating point at most"
    )
    assert (ours == theirs.astype(int) + shift).mean() > 0.9
    learned = program(train_biases=True)
    state: dict[str, Tensor] = {}
    for name, values in Device(learned, "fused", 1).state().items():
        drawn = np.random.default_rng(0).integers(-50, 50, values.shape)
        state[name] = drawn.astype(np.int8) if values.dtype == np.int8 else drawn.astype(np.int32)
    np.testing.assert_array_equal(_features(learned.with_trained(state), images)[0], ours)


def _of_module(model: onnx.ModelProto, value: str) -> bool:
    return any(value in n.input[1:2] and n.op_type == "Conv" and n.name.startswith("rep0_conv") for n in model.graph.node)


def test_means_are_rounded_halves_upwards() -> None:
    view = features_of(program())
    assert view
    sums = Sums(3, dataclasses.replace(view, shape=(1, 1, 3)))
    sums.add(np.array([[1, 2, 255], [2, 2, 254]], np.uint8), np.array([0, 0]))
    sums.add(np.array([[7, 0, 1]], np.uint8), np.array([1]))
    assert sums.means.tolist() == [[2, 2, 255], [7, 0, 1], [3, 1, 170]]


@pytest.mark.parametrize("count", [1, 3, 40])
def test_the_nearest_mean_on_every_engine(count: int) -> None:
    """Against distances in floating point (scipy); the first of equal means; values, cycles and events alike."""
    p, images = program(), _pictures(dataset())[:2]
    features, _ = _features(p, images)
    rng = np.random.default_rng(count)
    means = (features[rng.integers(0, 2, count)].astype(int) + 2 * rng.integers(-9, 10, (count, features.shape[1]))).clip(0, 254)
    means = np.concatenate([means, means[:1]]).astype(np.uint8) & np.uint8(254)  # even: their half norms are whole
    wanted = cdist(features.astype(float), means.astype(float), "sqeuclidean").argmin(axis=1)
    found = []
    for engine in ("step", "bitserial", "fused"):
        device = Device(recognise_code(p, means), engine, 1)
        device.interpreter.write_view("frozen.means", means[:, None, :])
        assert device.infer(images).classes.tolist() == wanted.tolist(), engine
        found.append((device.interpreter.cycles, dict(device.interpreter.events)))
    assert found[0] == found[1] == found[2]
    assert half_norms(np.array([[3, 0, 4], [1, 0, 0]], np.uint8)).tolist() == [12, 0]


# ------------------------------------------------------------------------------------------------------------ commands


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A device that has learned three tasks, of which the arrays hold as many as there is room for: one."""
    folder = tmp_path_factory.mktemp("tasks")
    save_program(program(2), folder / "prog.s")
    for name, (kind, first, last) in FOLDERS.items():
        for c in range(first, last):
            (folder / name / f"{kind}{c}").mkdir(parents=True)
            for i in range(12):
                Image.fromarray(draw(kind, c, 100 * c + i, 8)).save(folder / name / f"{kind}{c}" / f"{i}.png")
        assert _run(folder, "--train", str(folder / name), "--epochs", "2", "--json", str(folder / f"{name}.json")) == 0
    return folder


def _run(folder: Path, *words: str) -> int:
    return invoke(
        sasrun.app, [str(folder / "prog.s"), "--image", str(folder / "d.sas"), "--engine", "fused", "--threads", "1", *words]
    )


def _copy(learned: Path, to: Path) -> Path:
    for name in ("prog.s", "prog.weights.safetensors", "d.sas"):
        (to / name).write_bytes((learned / name).read_bytes())
    return to


def test_a_training_keeps_the_means_of_its_classes(learned: Path) -> None:
    image = DeviceImage.read(learned / "d.sas")
    assert {n: m.shape[0] for n, m in image.means.items()} == {"garden": 3, "forms": 4, "meadow": 3}
    data = open_dataset(str(learned / "garden"), size=8)
    features, _ = _features(program(2), _pictures(data))
    labels = np.array([i.class_id for i in data.items("train")])
    exact = np.stack([features[labels == c].astype(float).mean(axis=0) for c in range(3)])
    assert np.abs(image.means["garden"] - exact).max() <= 0.5
    took = json.loads((learned / "garden.json").read_text())["recognition"]
    assert took["means"] == 3
    assert took["images"] == len(labels)
    assert took["cycles"] > 0


def test_evaluation_with_the_task_unsaid(learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _copy(learned, tmp_path)
    for name in FOLDERS:
        words = ("--task", "auto", "--eval", str(learned / name), "--split", "train", "--json", str(folder / "a.json"))
        assert _run(folder, *words) == 0
        report = json.loads((folder / "a.json").read_text())
        (row,) = report["unsaid"]["tasks"]
        assert row["task"] == name
        assert (
            _run(folder, "--task", name, "--eval", str(learned / name), "--split", "train", "--json", str(folder / "k.json")) == 0
        )
        known = json.loads((folder / "k.json").read_text())
        assert row["known"] == pytest.approx(known["top1"])
        assert row["recognised"] == pytest.approx(_nearest(learned, name))
        right = sum(n for c, found, n in report["confusion"] if c == found)
        assert report["top1"] == pytest.approx(100 * right / report["evaluated"])
        assert 0 < report["unsaid"]["cycles_an_image"] < report["cycles"]
        assert min(row["recognised"], row["known"]) >= row["top1"] > 0
    for name in FOLDERS:
        assert _run(folder, "--task", "auto", "--eval", str(learned / name)) == 0
    capsys.readouterr()
    assert invoke(sasc.app, ["image", "show", str(folder / "d.sas"), "--json", str(folder / "s.json")]) == 0
    assert "3 of 3 tasks measured without their name" in " ".join(capsys.readouterr().out.split())
    shown = json.loads((folder / "s.json").read_text())
    assert shown["unsaid"]["top1"] == pytest.approx(np.mean([t["unsaid"]["top1"] for t in shown["tasks"]]))


def _nearest(learned: Path, name: str) -> float:
    """Percent of a task's training images whose nearest mean is of that task, from the means in the image."""
    means = DeviceImage.read(learned / "d.sas").means
    features, _ = _features(program(2), _pictures(open_dataset(str(learned / name), size=8)))
    x, m = features.astype(np.int64), np.concatenate(list(means.values())).astype(np.int64)
    scores = x @ m.T - (m * m).sum(axis=1) // 2
    owner = np.repeat(list(means), [len(v) for v in means.values()])
    return 100 * float((owner[scores.argmax(axis=1)] == name).mean())


def test_single_images(learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _copy(learned, tmp_path)
    files = [learned / "garden" / "flowers1" / "3.png", learned / "forms" / "pretrain2" / "4.png"]
    words = [w for f in files for w in ("--input", str(f))]
    assert _run(folder, "--task", "auto", *words, "--json", str(folder / "a.json")) == 0
    rows, said = json.loads((folder / "a.json").read_text())["predictions"], capsys.readouterr().out
    for file, row in zip(files, rows, strict=True):
        assert f"{file}: task {row['task']}\n" in said
        assert _run(folder, "--task", row["task"], "--input", str(file), "--json", str(folder / "k.json")) == 0
        (known,) = json.loads((folder / "k.json").read_text())["predictions"]
        assert (row["class"], row["label"]) == (known["class"], known["label"])
        assert row["logits"] == known["logits"][: len(row["logits"])], "of the task's own classes"


def test_tasks_without_a_place_are_swapped_in_and_counted(learned: Path, tmp_path: Path) -> None:
    p, path = program(2), _copy(learned, tmp_path) / "d.sas"
    image = DeviceImage.open(path, p)
    store = TaskStore(image, p, threads=1)
    assert len(store.slots) == 1
    before = {n: store.weights(n) for n in store.tasks}
    wear, placed = image.wear.sum(), sum(t.placing.rows for t in store.tasks.values())
    device = recogniser(store)
    data = open_dataset(str(learned / "garden"), size=8)
    numbers, _ = of_tasks(data, [store.task(n) for n in device.tasks])
    rows, _ = evaluate_unsaid(device, data, numbers, "train")
    settle(store, device)
    assert [r.task for r in rows] == ["garden"]
    assert [t.slot for t in store.tasks.values()].count(0) == 1
    assert image.wear.sum() - wear == sum(t.placing.rows for t in store.tasks.values()) - placed > 0
    image.close()
    again = DeviceImage.open(path, p)
    for name, weights in before.items():
        for matrix, values in TaskStore(again, p, threads=1).weights(name).items():
            np.testing.assert_array_equal(values, weights[matrix])
    again.close()


def test_a_folder_of_several_tasks(learned: Path) -> None:
    image = DeviceImage.read(learned / "d.sas")
    tasks = [image.tasks[n] for n in ("garden", "forms")]
    mixed = dataclasses.replace(dataset(2), name="mixed", classes=("pretrain2", "flowers1"))
    assert of_tasks(mixed, tasks)[0].tolist() == [5, 1]
    assert of_tasks(dataclasses.replace(mixed, name="forms", classes=("pretrain3", "pretrain0")), tasks)[0].tolist() == [6, 3]


def test_drawn_images_of_a_later_task(learned: Path, tmp_path: Path) -> None:
    """Their class decides what is drawn: it stays theirs, whatever its number among all tasks."""
    image = DeviceImage.open(_copy(learned, tmp_path) / "d.sas", program(2))
    store, data = TaskStore(image, program(2), threads=1), dataset(3)
    device = recogniser(store)
    numbers = np.arange(3) + device.offsets[1]
    rows, confusion = evaluate_unsaid(device, data, numbers, "test")
    image.close()
    assert [(r.task, r.images) for r in rows] == [("forms", 3)]
    assert sorted(c for c, _, _ in confusion) == sorted(numbers.tolist())


def test_a_broken_off_training_has_its_means(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_program(program(2), tmp_path / "prog.s")
    keep = TaskStore.keep

    def interrupted(self: TaskStore, run: object) -> None:
        keep(self, run)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TaskStore, "keep", interrupted)
        assert _run(tmp_path, "--train", str(learned / "garden"), "--epochs", "1") != 0
    assert _run(tmp_path, "--resume") == 0
    whole, ours = DeviceImage.read(learned / "d.sas").means["garden"], DeviceImage.read(tmp_path / "d.sas").means["garden"]
    np.testing.assert_array_equal(whole, ours)
    np.testing.assert_array_equal(class_means(program(2), open_dataset(str(learned / "garden"), size=8))[0], ours)


@pytest.mark.parametrize(
    "words, message",
    [
        (("--task", "auto", "--train", "garden"), "--task auto finds out whose images"),
        (("--task", "auto"), "--task auto finds out whose images"),
        (("--task", "auto", "--eval", "garden", "--workers", "2"), "--task auto runs several tasks on one device"),
        (("--task", "auto", "--eval", "strange"), "no task of the device knows a class"),
    ],
)
def test_bad_calls(
    learned: Path, words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _copy(learned, tmp_path)
    for c in range(2):
        (folder / "strange" / f"thing{c}").mkdir(parents=True)
        Image.fromarray(draw("flowers", c, 0, 8)).save(folder / "strange" / f"thing{c}" / "0.png")
    places = {"garden": learned / "garden", "strange": folder / "strange"}
    assert _run(folder, *(str(places.get(w, w)) for w in words)) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_task_without_means(learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _copy(learned, tmp_path)
    image = DeviceImage.open(folder / "d.sas", program(2))
    image.means.pop("forms")
    image.save()
    image.close()
    assert _run(folder, "--task", "auto", "--eval", str(learned / "garden")) == 2
    assert "task 'forms' was learned without means" in " ".join(capsys.readouterr().err.split())
