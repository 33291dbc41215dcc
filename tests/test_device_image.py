"""Device images: the format, what is refused, tasks and their places, swapping, nothing forgotten, options of a training."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models import mobilenet_like
from tiny_task import dataset, learn, logits, machine, program

from sasimc.api import CompileOptions, compile_model
from sasimc.cli import sasc, sasrun
from sasimc.cli.common import invoke
from sasimc.isa.analysis.check import check_program
from sasimc.isa.errors import SasError
from sasimc.isa.files import load_program, save_program
from sasimc.isa.program import Program
from sasimc.runtime.device import Device
from sasimc.training.image import container
from sasimc.training.image.image import DeviceImage
from sasimc.training.image.rebind import at_slot, frozen_layers, identity, place_slots, trainable_matrices, with_classes
from sasimc.training.image.tasks import TaskStore
from sasimc.training.recipe import Recipe

RECIPE = Recipe(epochs=1, seed=1)


# ---------------------------------------------------------------------------------------------------------------------- the format


def test_frames_hold_what_was_put_in() -> None:
    arrays = {
        "a": np.arange(6, dtype=np.int32).reshape(2, 3),
        "b": np.zeros((0, 4), np.uint8),
        "c": np.array([1 << 40], np.int64),
    }
    data = container.header() + container.frame(container.SNAPSHOT, 0, {"x": [1, "é"]}, arrays)
    whole = data + container.frame(container.STEP, 1, {}, {"d": np.array([-1.5])})
    frames = container.read_frames(whole, "test")
    assert [f.kind for f in frames] == [container.SNAPSHOT, container.STEP]
    assert frames[0].head == {"x": [1, "é"]}
    for name, array in arrays.items():
        assert frames[0].arrays[name].dtype == array.dtype
        assert np.array_equal(frames[0].arrays[name], array)
    assert frames[0].end == len(data)
    assert frames[1].arrays["d"].tolist() == [-1.5]


def test_every_damaged_byte_is_noticed() -> None:
    """One byte changed anywhere: an error, or (in the last step only) the steps before it."""
    first = container.header() + container.frame(container.SNAPSHOT, 0, {"n": 7}, {"a": np.arange(9, dtype=np.int8)})
    whole = first + container.frame(container.STEP, 1, {"n": 8}, {}) + container.frame(container.STEP, 2, {"n": 9}, {})
    last = len(first) + len(container.frame(container.STEP, 1, {"n": 8}, {}))
    for at in range(len(whole)):
        spoilt = bytearray(whole)
        spoilt[at] ^= 0x41
        if at < last:
            with pytest.raises(SasError):
                container.read_frames(bytes(spoilt), "test")
        else:
            assert [f.head["n"] for f in container.read_frames(bytes(spoilt), "test")] == [7, 8]


def test_sizes_are_bounded() -> None:
    """A frame that unpacks to more than it says, or to more than is allowed, is none."""
    good = container.frame(container.SNAPSHOT, 0, {}, {"zeros": np.zeros(1 << 20, np.uint8)})
    assert len(good) < 5000
    shape = struct.pack("<Q", 1 << 20)
    assert good.count(shape) == 1
    for size in (1 << 19, 1 << 45):
        payload = good[44:].replace(shape, struct.pack("<Q", size))
        first = good[:24] + hashlib.blake2b(payload, digest_size=8).digest() + good[32:36]
        bomb = container.header() + first + struct.pack("<I", zlib.crc32(first)) + payload
        with pytest.raises(SasError, match="cut off or damaged"):
            container.read_frames(bomb, "test")


# ------------------------------------------------------------------------------------------------------------------- what is refused


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("image") / "d.sas"
    learn(path, program(), "a", dataset(), RECIPE)
    return path.read_bytes()


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda d: b"", "cut off"),
        (lambda d: d[:5], "cut off"),
        (lambda d: d[:100], "cut off or damaged"),
        (lambda d: d[:-1], "cut off or damaged"),
        (lambda d: b"\x7fELF" + d, "no device image"),
        (lambda d: b".sas 1\n", "no device image"),
        (lambda d: d.replace(b"\r\n", b"\n", 1), "no device image"),
        (lambda d: d[:8] + b"\x02" + d[9:], "damaged"),
        (lambda d: d[:60] + bytes([d[60] ^ 1]) + d[61:], "damaged"),
    ],
)
def test_spoilt_images_are_refused(tmp_path: Path, learned: bytes, spoil: Callable[[bytes], bytes], message: str) -> None:
    path = tmp_path / "d.sas"
    path.write_bytes(spoil(learned))
    for attempt in (lambda: DeviceImage.open(path, program()), lambda: DeviceImage.read(path)):
        with pytest.raises(SasError, match=message):
            attempt()
    assert path.read_bytes() == spoil(learned)


def test_another_version_is_named(tmp_path: Path, learned: bytes) -> None:
    head = learned[:8] + struct.pack("<HH", 2, 0)
    path = tmp_path / "d.sas"
    path.write_bytes(head + struct.pack("<I", zlib.crc32(head)) + learned[16:])
    with pytest.raises(SasError, match="version 2; this program reads 1"):
        DeviceImage.read(path)


def test_an_image_belongs_to_its_program(tmp_path: Path, learned: bytes) -> None:
    path = tmp_path / "d.sas"
    path.write_bytes(learned)
    with pytest.raises(SasError, match="another backbone"):
        DeviceImage.open(path, program(seed=1))
    with pytest.raises(SasError, match="another compilation"):
        DeviceImage.open(path, program(eps=0.2))
    with pytest.raises(SasError, match="machine"):
        DeviceImage.open(path, program(groups=6))
    DeviceImage.open(path, program()).close()


def test_the_identity_is_that_of_the_program_not_of_its_file(tmp_path: Path) -> None:
    p = program()
    for name in ("x.s", "y.bin"):
        save_program(p, tmp_path / name)
        assert identity(load_program(tmp_path / name)) == identity(p)
    device = Device(p, "fused", threads=1)
    device.train_step(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1]))
    trained = {p.matrices[n].tensor: v.reshape(p.tensors[p.matrices[n].tensor].shape) for n, v in device.state().items()}
    assert identity(replace(p, tensors={**p.tensors, **trained})) == identity(p)


def test_one_process_at_a_time(tmp_path: Path, learned: bytes) -> None:
    path = tmp_path / "d.sas"
    path.write_bytes(learned)
    image = DeviceImage.open(path, program())
    with pytest.raises(SasError, match="in use"):
        DeviceImage.open(path, program())
    code = f"from sasimc.training.image.journal import Medium\nfrom pathlib import Path\nMedium(Path({str(path)!r})).open()"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120, check=False)
    assert "in use by another process" in done.stderr
    image.save()  # the lock moves to the new file
    with pytest.raises(SasError, match="in use"):
        DeviceImage.open(path, program())
    assert DeviceImage.read(path).tasks.keys() == {"a"}
    image.close()
    DeviceImage.open(path, program()).close()


# ---------------------------------------------------------------------------------------------------------------- tasks and places


def test_places_are_free_and_programs_in_them_are_sound() -> None:
    p = program()
    slots = place_slots(p)
    assert len(slots) > 2
    assert slots[0] == {}
    taken: set[int] = {t.subarray for m in p.matrices.values() for t in m.tiles}
    for slot in slots[1:]:
        assert not taken & set(slot.values())
        taken |= set(slot.values())
        assert not check_program(at_slot(p, slot))


def _images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def test_a_place_changes_no_number() -> None:
    """Logits and updates are the same wherever the trainable part stands."""
    p, x, y = program(), _images(2), np.array([3, 1])
    devices = [Device(at_slot(p, slot), "fused", threads=1) for slot in place_slots(p)[:3]]
    for _ in range(3):
        steps = [d.train_step(x, y) for d in devices]
        assert len({s.loss for s in steps}) == 1
    states = [d.state() for d in devices]
    for name, weights in states[0].items():
        assert all(np.array_equal(weights, s[name]) for s in states[1:])
    assert all(np.array_equal(d.infer(x).logits, devices[0].infer(x).logits) for d in devices)


@pytest.mark.parametrize("update", ["direct", "accumulate"])
def test_nothing_is_forgotten(tmp_path: Path, update: str) -> None:
    """Four tasks one after another, of different class counts, on a machine with room for fewer: the logits of every one stay as they were
    right after it was learned, and those that do not fit are swapped in and out with their writes counted."""
    path, p = tmp_path / "d.sas", program(groups=3, update=update)
    places = len(place_slots(p))
    assert places < 4
    sets = {f"task{i}": dataset(classes=3 + i % 2, draw=i) for i in range(4)}
    after: dict[str, np.ndarray] = {}
    for name, data in sets.items():
        learn(path, p, name, data, RECIPE)
        after[name] = logits(path, p, name, data)
        for earlier, was in after.items():
            assert np.array_equal(logits(path, p, earlier, sets[earlier]), was), f"{earlier} after {name}"
    assert len({a.tobytes() for a in after.values()}) == len(after), "tasks that are all alike prove nothing"
    image = DeviceImage.read(path)
    resident = [t for t in image.tasks.values() if t.slot is not None]
    assert len(resident) == places
    assert image.stored.keys() == {t.name for t in image.tasks.values() if t.slot is None}
    assert sum(t.swaps for t in image.tasks.values()) > 0
    written = sum(t.learning.rows + t.scratch.rows + t.placing.rows for t in image.tasks.values())
    assert written == image.wear.sum()


def test_swapping_counts_the_rows_that_change(tmp_path: Path) -> None:
    path, p = tmp_path / "d.sas", program(groups=3)
    names = [f"task{i}" for i in range(len(place_slots(p)) + 1)]
    for i, name in enumerate(names):
        learn(path, p, name, dataset(draw=i), RECIPE)
    image = DeviceImage.open(path, p)
    bank = TaskStore(image, p, threads=1)
    out = next(t for t in bank.tasks.values() if t.slot is None)
    wear, weights = image.wear.copy(), bank.weights(out.name)
    device = bank.select(out.name)
    now = bank.task(out.name)
    assert now.slot is not None
    rows = now.placing.rows - out.placing.rows
    assert rows == (image.wear - wear).sum() > 0
    assert now.placing.bits_written > now.placing.bits_flipped > out.placing.bits_flipped
    assert all(np.array_equal(device.state()[n], w) for n, w in weights.items())
    image.close()
    again = DeviceImage.read(path)  # a swap is on the disk at once
    assert again.tasks[out.name].slot == now.slot
    assert again.wear.sum() == image.wear.sum()


def test_outputs_without_a_class_are_never_predicted() -> None:
    p = program()
    whole, part = Device(p, "fused", threads=1), Device(with_classes(p, 2), "fused", threads=1)
    x = np.concatenate([_images(1, seed) for seed in range(60)])
    seen: list[int] = []
    for image in x:
        a, b = whole.infer(image[None]), part.infer(image[None])
        assert np.array_equal(a.logits, b.logits)
        assert b.classes[0] == int(np.argmax(a.logits[0, :2]))
        seen.append(int(a.classes[0]))
    assert max(seen) > 1, "no image for which it matters"
    assert not check_program(with_classes(p, 2))
    with pytest.raises(SasError, match="6 classes, the classifier has 5 outputs"):
        with_classes(p, 6)


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65, "-x", "ä"])
def test_names_of_tasks(tmp_path: Path, name: str) -> None:
    image = DeviceImage.open(tmp_path / "d.sas", program())
    with pytest.raises(SasError, match="no name for a task"):
        TaskStore(image, program(), threads=1).create(name, ["a", "b"])
    assert not (tmp_path / "d.sas").exists()


# ---------------------------------------------------------------------------------------------------------------- options of a training


def _weights(path: Path, p: Program, name: str) -> dict[str, np.ndarray]:
    image = DeviceImage.open(path, p)
    try:
        return TaskStore(image, p, threads=1).weights(name)
    finally:
        image.close()


def test_frozen_layers_stay_as_they_are(tmp_path: Path) -> None:
    path, p = tmp_path / "d.sas", program()
    frozen = frozen_layers(p, "rep0_*")
    assert frozen == {"rep0_conv1", "rep0_conv2"}
    learn(path, p, "a", dataset(), RECIPE, freeze=frozen)
    weights = _weights(path, p, "a")
    for name, values in weights.items():
        initial = p.matrix_values(p.matrices[name])
        assert np.array_equal(values, initial) == (name in frozen), name
    assert frozen_layers(p, "head,.*conv2") == {"head", "rep0_conv2"}
    with pytest.raises(SasError, match="no trainable layer matches 'stem'"):
        frozen_layers(p, "stem")
    with pytest.raises(SasError, match="leaves no layer"):
        frozen_layers(p, "*")


def test_wear_is_counted_by_row_and_alike_on_all_engines(tmp_path: Path) -> None:
    wears = []
    for engine in ("fused", "bitserial", "step"):
        path = tmp_path / f"{engine}.sas"
        learn(path, program(update="accumulate"), "a", dataset(), RECIPE, engine=engine)
        wears.append(DeviceImage.read(path).wear)
    assert wears[0].max() > 1
    assert all(np.array_equal(wears[0], w) for w in wears[1:])


# ------------------------------------------------------------------------------------------------------------------------- commands


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of 10 outputs, and an image on which drawn flowers were learned."""
    folder = tmp_path_factory.mktemp("commands")
    model = mobilenet_like(size=8, width=4, modules=1, classes=10)
    save_program(compile_model(model, CompileOptions(batch=4, machine=machine())).program, folder / "prog.s")
    words = ["--train", "drawn-flowers", "--limit", "12", "--epochs", "2", "--batch", "3", "--json", str(folder / "r.json")]
    assert _run(folder, *words) == 0
    return folder


def _run(folder: Path, *words: str, image: str = "d.sas") -> int:
    common = ("--image", str(folder / image), "--engine", "fused", "--threads", "1")
    return invoke(sasrun.app, [str(folder / "prog.s"), *common, *words])


def _show(*words: str) -> int:
    return invoke(sasc.app, ["image", "show", *words])


def test_the_report_says_task_writes_and_wear(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads((scene / "r.json").read_text())
    assert report["steps"] == 2 * 4, "12 images in batches of 3, twice"
    task, writes, events = report["task"], report["writes"], report["events"]
    assert task["name"] == "drawn-flowers"
    assert task["learned"]
    assert task["accuracy"].keys() == {"val", "test"}
    for what in ("rows", "bits_written", "bits_flipped"):
        counted = sum(events[f"{what.replace('rows', 'rows_written')}_{kind}"] for kind in ("compute", "transposable"))
        assert writes["weights"][what] + writes["scratch"][what] == counted > 0
    assert writes["weights"]["worst"] >= 8
    assert report["wear"]["total"] == DeviceImage.read(scene / "d.sas").wear.sum()
    capsys.readouterr()
    assert _show(str(scene / "d.sas"), "--json", str(scene / "t.json")) == 0
    said = capsys.readouterr().out
    assert "drawn-flowers: 10 classes" in said
    assert "most written row" in said
    listed = json.loads((scene / "t.json").read_text())
    assert listed["unfinished"] is None
    (row,) = listed["tasks"]
    assert row["resident"]
    assert row["subarrays"]
    assert row["writes"]["weights"]["bits_flipped"] == writes["weights"]["bits_flipped"]


def test_tasks_are_used_and_removed(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prog.s").write_bytes((scene / "prog.s").read_bytes())
    (tmp_path / "prog.weights.safetensors").write_bytes((scene / "prog.weights.safetensors").read_bytes())
    (tmp_path / "d.sas").write_bytes((scene / "d.sas").read_bytes())
    words = ("--train", "drawn-flowers", "--limit", "12", "--epochs", "1")
    assert _run(tmp_path, *words, "--task", "second", "--freeze", "rep0_conv1") == 0
    assert _run(tmp_path, "--eval", "drawn-flowers", "--limit", "4", "--task", "second") == 0
    assert _run(tmp_path, "--eval", "drawn-flowers", "--limit", "4") == 0, "the task of the data set's name"
    assert _run(tmp_path, "--eval", "drawn-flowers", "--limit", "4", "--save", str(tmp_path / "out.s"), "--task", "second") == 0
    saved, p = load_program(tmp_path / "out.s"), load_program(tmp_path / "prog.s")
    for name, values in _weights(tmp_path / "d.sas", p, "second").items():
        assert np.array_equal(saved.matrix_values(saved.matrices[name]), values)
    assert {m.tiles for m in trainable_matrices(saved).values()} == {m.tiles for m in trainable_matrices(p).values()}
    capsys.readouterr()
    assert invoke(sasc.app, ["image", "forget", str(tmp_path / "d.sas"), "second"]) == 0
    assert "second:" not in capsys.readouterr().out
    assert DeviceImage.read(tmp_path / "d.sas").tasks.keys() == {"drawn-flowers"}


TRAIN = ("--train", "drawn-flowers")


@pytest.mark.parametrize(
    "words, message",
    [
        (TRAIN, "has a task 'drawn-flowers' already"),
        (("--eval", "drawn-flowers", "--task", "drawn-flower"), "no task 'drawn-flower'.*drawn-flowers"),
        (("--resume",), "no unfinished training"),
        ((*TRAIN, "--task", "a/b"), "no name for a task"),
        ((*TRAIN, "--task", "b", "--batch", "5"), "batch of 5 images, the program was compiled for 4"),
        ((*TRAIN, "--task", "b", "--freeze", "stem"), "no trainable layer matches 'stem'"),
        ((*TRAIN, "--task", "b", "--freeze", "*"), "leaves no layer"),
        ((*TRAIN, "--task", "b", "--recipe", "nothing.toml"), "no recipe 'nothing.toml'"),
        ((*TRAIN, "--task", "b", "--epochs", "0"), "0: at least 1"),
        ((*TRAIN, "--task", "b", "--patience", "-1"), "-1: at least 0"),
        (("--eval", "drawn-flowers", "--freeze", "head"), "--freeze holds for a training"),
        (("--resume", "--input", "x.png"), "--resume goes on with a training"),
    ],
)
def test_bad_options_change_nothing(
    scene: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    before = {p.name: p.read_bytes() for p in scene.iterdir()}
    capsys.readouterr()
    assert _run(scene, *words) == 2
    said = capsys.readouterr().err
    assert re.search(message, said, re.DOTALL), said
    assert {p.name: p.read_bytes() for p in scene.iterdir()} == before


@pytest.mark.parametrize(
    "words, message",
    [
        (("--task", "x", *TRAIN), "--task needs a device image"),
        (("--resume",), "--resume needs a device image"),
        (("--image", "no/such/d.sas", *TRAIN), "cannot write no/such/d.sas"),
        (("--image", ".", *TRAIN), "directory"),
        (("--image", "prog.s", *TRAIN), "no device image"),
        (("--image", "new.sas", "--eval", "drawn-flowers"), "which task"),
    ],
)
def test_bad_images_in_commands(
    scene: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(scene)
    before = {p.name: p.read_bytes() for p in scene.iterdir()}
    capsys.readouterr()
    assert invoke(sasrun.app, ["prog.s", *words, "--engine", "fused"]) == 2
    assert message.lower() in capsys.readouterr().err.lower()
    assert {p.name: p.read_bytes() for p in scene.iterdir()} == before


def test_bad_calls_of_tasks(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (("no.sas",), "no.sas"),
        ((str(scene / "prog.s"),), "no device image"),
        ((str(scene / "d.sas"), "--json", "no/such/x.json"), "cannot write"),
        ((), "missing argument"),
    ):
        capsys.readouterr()
        assert _show(*words) == 2
        assert message in capsys.readouterr().err
    for words, message in (
        (("no.sas", "x"), "no.sas"),
        ((str(scene / "d.sas"), "x"), "no task 'x'"),
        ((str(scene / "d.sas"),), "missing argument 'TASK'"),
    ):
        assert invoke(sasc.app, ["image", "forget", *words]) == 2
        assert message in capsys.readouterr().err


def test_an_unfinished_training_must_go_on_as_it_began(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("prog.s", "prog.weights.safetensors"):
        (tmp_path / name).write_bytes((scene / name).read_bytes())
    p = load_program(tmp_path / "prog.s")
    image = DeviceImage.open(tmp_path / "d.sas", p)
    bank = TaskStore(image, p, threads=1)
    bank.create("a", [str(i) for i in range(10)])
    bank.select("a")
    recipe = {"epochs": 2, "batch": 4, "seed": 3, "limit": 8}
    setup = {"train": "drawn-flowers", "data": None, "evaluate": None, "dataset": "0" * 64, "recipe": recipe, "freeze": ""}
    bank.begin(setup)
    image.close()
    for words, message in (
        (TRAIN, "is not finished"),
        (("--resume", "--epochs", "3"), "--epochs: the training that goes on was begun with 2, not 3"),
        (("--resume", "--task", "b"), "--task: the training"),
        (("--resume", "--train", "pets"), "--train: the training"),
        (("--resume", "--freeze", "head"), "--freeze: the training"),
        (("--resume",), "holds other images"),
    ):
        before = (tmp_path / "d.sas").read_bytes()
        capsys.readouterr()
        assert _run(tmp_path, *words) == 2
        assert message in capsys.readouterr().err
        assert (tmp_path / "d.sas").read_bytes() == before
    assert _show(str(tmp_path / "d.sas")) == 0
    assert "task a is being learned" in capsys.readouterr().out
    assert invoke(sasc.app, ["image", "forget", str(tmp_path / "d.sas"), "a"]) == 0
    assert DeviceImage.read(tmp_path / "d.sas").pending is None


def test_early_stopping(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With nothing to gain (all layers but a useless one frozen, updates of zero) the second epoch is no better and the third does not come."""
    words = (
        "--limit",
        "8",
        "--epochs",
        "6",
        "--patience",
        "2",
        "--head-exponent",
        "-30",
        "--module-exponent",
        "-30",
        "--no-augment",
    )
    report = scene / "patience.json"
    assert _run(scene, *TRAIN, "--task", "idle", *words, "--json", str(report), image="idle.sas") == 0
    assert "stopped: 2 epochs without a better" in capsys.readouterr().out
    made = json.loads(report.read_text())
    assert len(made["epochs"]) == 3
    assert made["best_epoch"] == 2  # of equal ones the last
