"""`sasc quantize` and `from_torch`: preprocessing found, samples read, onnxruntime's quantisation, what the compiler takes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from sasimc.cli.common import invoke
from sasimc.cli.sasc import app
from sasimc.datasets.images import Preprocess
from sasimc.frontend.check import check_model
from sasimc.frontend.load import load_model
from sasimc.isa.errors import SasError
from sasimc.quantise.preprocessing import find_preprocess, parse_numbers
from sasimc.quantise.quantise import compare, quantise
from sasimc.quantise.samples import Samples, input_plane, read_samples


def float_net(path: Path, *, channels_last: bool = False, producer: str = "pytorch", channels: int = 3, size: int = 16) -> Path:
    """Conv, BatchNormalization, Relu, pool, Gemm in float; ``channels_last``: an NHWC input behind a Transpose, as tf2onnx writes it."""
    rng = np.random.default_rng(0)

    def const(name: str, value: np.ndarray) -> onnx.TensorProto:
        return numpy_helper.from_array(value.astype(np.float32), name)

    shape = ["n", size, size, channels] if channels_last else ["n", channels, size, size]
    nodes = [helper.make_node("Transpose", ["x"], ["nchw"], "to_nchw", perm=[0, 3, 1, 2])] if channels_last else []
    nodes += [
        helper.make_node("Conv", ["nchw" if channels_last else "x", "w"], ["c"], "/conv/Conv", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n1"], "/bn/BatchNormalization"),
        helper.make_node("Relu", ["n1"], ["r"], "/relu/Relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "/pool"),
        helper.make_node("Flatten", ["p"], ["f"], "/flatten"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["y"], "/fc/Gemm", transB=1),
    ]
    weights = [
        const("w", rng.normal(size=(8, channels, 3, 3)) / 4), const("g", rng.uniform(0.5, 1.5, 8)), const("b", rng.normal(size=8)),
        const("m", rng.normal(size=8)), const("v", rng.uniform(0.5, 1, 8)), const("w2", rng.normal(size=(4, 8))), const("b2", rng.normal(size=4)),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name=producer)
    onnx.save(model, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four classes by brightness, six images each, and a file that is no image."""
    rng = np.random.default_rng(1)
    for c in range(4):
        where = tmp_path / "data" / f"class{c}"
        where.mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(c * 50, c * 50 + 60, (20, 24, 3), dtype=np.uint8)).save(where / f"{i}.png")
    (tmp_path / "data" / "class0" / "notes.txt").write_text("no image")
    return tmp_path / "data"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_float_networks_become_what_the_compiler_takes(
    folder: Path, tmp_path: Path, channels_last: bool, per_channel: bool
) -> None:
    source, out = float_net(tmp_path / "f.onnx", channels_last=channels_last), tmp_path / "q.onnx"
    model = load_model(source)
    plane = input_plane(model)
    assert (plane.channels, plane.size, plane.channels_last) == (3, 16, channels_last)
    found = find_preprocess(model, source, plane.size, {})
    samples = read_samples(str(folder), None, plane, found.preprocess, 12, 0)
    assert len(samples.inputs) == 12
    assert set(samples.labels) == {0, 1, 2, 3}
    assert samples.inputs[0].shape == (1, *plane.shape)
    seen: list[int] = []
    quantise(
        source,
        plane,
        samples,
        out,
        {"sasimc.preprocess": found.preprocess.to_json()},
        per_channel=per_channel,
        progress=seen.append,
    )
    assert seen == list(range(1, 13))
    report = check_model(load_model(out))
    assert report.ok, str(report)
    quality = compare(source, out, plane, samples)
    assert quality.images == 12
    assert quality.same_class >= 0.9
    assert abs(quality.top1_float - quality.top1_int8) <= 0.1
    kept = {p.key: p.value for p in onnx.load(out).metadata_props}
    assert Preprocess.from_json(kept["sasimc.preprocess"]) == found.preprocess


def test_a_plain_folder_calibrates_without_labels(folder: Path, tmp_path: Path) -> None:
    plane = input_plane(load_model(float_net(tmp_path / "f.onnx")))
    plain = folder / "class1"
    samples = read_samples(str(plain), None, plane, Preprocess(size=16, resize=18), 4, 0)
    assert len(samples.inputs) == 4
    assert samples.labels == ()


def test_images_are_normalised_as_the_formula_says(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    Image.new("RGB", (16, 16), (255, 0, 51)).save(tmp_path / "d" / "a.png")
    how = Preprocess(mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 0.25), size=16, resize=16)
    plane = input_plane(load_model(float_net(tmp_path / "f.onnx")))
    x = read_samples(str(tmp_path / "d"), None, plane, how, 1, 0).inputs[0]
    assert np.allclose(x[0, :, 3, 5], [1.0, -0.5, 0.8], atol=1e-6)
    last = input_plane(load_model(float_net(tmp_path / "g.onnx", channels_last=True)))
    y = read_samples(str(tmp_path / "d"), None, last, how, 1, 0).inputs[0]
    assert np.array_equal(y, x.transpose(0, 2, 3, 1))


def test_preprocessing_is_found_where_exporters_leave_it(tmp_path: Path) -> None:
    path = float_net(tmp_path / "f.onnx")
    model = load_model(path)
    guess = find_preprocess(model, path, 16, {})
    assert guess.guess
    assert guess.preprocess.mean == (0.485, 0.456, 0.406)
    keras = load_model(float_net(tmp_path / "k.onnx", producer="tf2onnx"))
    assert find_preprocess(keras, tmp_path / "k.onnx", 16, {}).preprocess.mean == (0.5, 0.5, 0.5)
    (tmp_path / "config.json").write_text(
        json.dumps({"pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3, "crop_pct": 0.8, "interpolation": "bicubic"}})
    )
    timm = find_preprocess(model, path, 16, {})
    assert (timm.preprocess.mean, timm.preprocess.resize, timm.preprocess.interpolation, timm.guess) == (
        (0.1,) * 3,
        20,
        "bicubic",
        False,
    )
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.3] * 3, "image_std": [0.4] * 3, "size": {"shortest_edge": 18}, "resample": 2})
    )
    face = find_preprocess(model, path, 16, {})
    assert (face.preprocess.mean, face.preprocess.resize) == ((0.3,) * 3, 18)
    entry = model.metadata_props.add()
    entry.key, entry.value = "sasimc.preprocess", Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3, size=16, resize=16).to_json()
    assert find_preprocess(model, path, 16, {}).preprocess.mean == (0.0,) * 3
    given = find_preprocess(model, path, 16, {"mean": [0.9] * 3})
    assert given.preprocess.mean == (0.9,) * 3
    assert given.preprocess.std == (1.0,) * 3
    (tmp_path / "preprocessor_config.json").write_text("{damaged")
    model.ClearField("metadata_props")
    assert find_preprocess(model, path, 16, {}).why.startswith("config.json")


def test_arrays_calibrate_networks_that_take_no_images(tmp_path: Path) -> None:
    plane = input_plane(load_model(float_net(tmp_path / "f.onnx", channels=5)))
    assert not plane.image
    x = np.random.default_rng(0).normal(size=(7, 5, 16, 16)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "xy.npz", x=x, y=np.arange(7) % 4)
    three = read_samples(str(tmp_path / "x.npy"), None, plane, None, 3, 0)
    assert [sum(np.array_equal(a, x[i : i + 1]) for i in range(7)) for a in three.inputs] == [1, 1, 1]
    assert three.labels == ()
    assert sorted(read_samples(str(tmp_path / "xy.npz"), None, plane, None, 7, 0).labels) == [0, 0, 1, 1, 2, 2, 3]
    targets = read_samples(str(targets_of(tmp_path, x)), None, plane, None, 7, 0)
    assert (len(targets.inputs), targets.labels) == (7, ())


def targets_of(folder: Path, x: np.ndarray) -> Path:
    """Arrays with real targets, which calibration does not need."""
    np.savez(folder / "t.npz", x=x, y=np.full((len(x), 9), 0.5))
    return folder / "t.npz"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": np.zeros((2, 3, 16, 16))}, "no x with its y"),
        ({"x": np.zeros((2, 3, 16))}, r"x is float64 \[N, 3, 16\]"),
        ({"x": np.zeros((2, 3, 16, 16)), "y": np.zeros(3, np.int64)}, "3 labels in y"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    plane = input_plane(load_model(float_net(tmp_path / "f.onnx")))
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(SasError, match=message):
        read_samples(str(tmp_path / "a.npz"), None, plane, None, 4, 0)


def test_bad_places_and_numbers(tmp_path: Path) -> None:
    plane = input_plane(load_model(float_net(tmp_path / "f.onnx")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SasError, match="the folder is empty"):
        read_samples(str(tmp_path / "empty"), None, plane, Preprocess(size=16, resize=16), 4, 0)
    with pytest.raises(SasError, match="neither a known name"):
        read_samples("nowhere_at_all", None, plane, Preprocess(size=16, resize=16), 4, 0)
    (tmp_path / "junk.npy").write_bytes(b"junk")
    with pytest.raises(SasError, match="damaged"):
        read_samples(str(tmp_path / "junk.npy"), None, plane, None, 4, 0)
    assert parse_numbers("0.5", "--mean") == [0.5] * 3
    with pytest.raises(SasError, match="--mean '1,2'"):
        parse_numbers("1,2", "--mean")


def test_an_int8_network_is_told_so(tmp_path: Path) -> None:
    model = onnx.load(float_net(tmp_path / "f.onnx"))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    with pytest.raises(SasError, match="not float32"):
        input_plane(model)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    model.graph.input[0].type.tensor_type.shape.dim[2].ClearField("dim_value")
    with pytest.raises(SasError, match="fixed input size"):
        input_plane(model)


@pytest.mark.filterwarnings("ignore")
def test_from_torch_gives_the_modules_classes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from sasimc.quantise.from_torch import from_torch

    torch.manual_seed(0)
    nn = torch.nn
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )  # fmt: skip
    module.train()
    images = torch.randn(16, 3, 16, 16)
    path = from_torch(
        module, images, tmp_path / "t.onnx", preprocess={"mean": 0.5, "std": 0.25, "size": 16}, labels=["a", "b", "c", "d"]
    )
    assert module.training
    report = check_model(load_model(path))
    assert report.ok, str(report)
    module.eval()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # without it, sums saturate where there is no VNNI
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    ours = np.stack([session.run(None, {name: x.numpy()[None]})[0][0] for x in images])
    with torch.no_grad():
        theirs = module(images).numpy()
    assert (ours.argmax(1) == theirs.argmax(1)).mean() >= 0.8
    assert json.loads({p.key: p.value for p in onnx.load(path).metadata_props}["sasimc.labels"]) == ["a", "b", "c", "d"]
    with pytest.raises(SasError, match="images are int64"):
        from_torch(module, np.zeros((2, 3, 16, 16), np.int64), tmp_path / "t.onnx")
    with pytest.raises(SasError, match="cannot be exported"):
        from_torch(module, np.zeros((2, 5, 16, 16), np.float32), tmp_path / "t.onnx")


@pytest.mark.filterwarnings("ignore")
def test_the_commands_from_float_network_to_trainable_network(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = float_net(tmp_path / "f.onnx")
    q, a = tmp_path / "q.onnx", tmp_path / "a.onnx"
    assert (
        invoke(app, ["quantize", str(source), "--calibrate", str(folder), "-o", str(q), "--json", str(tmp_path / "q.json")]) == 0
    )
    said = capsys.readouterr().out
    assert "a guess from the exporter 'pytorch'" in said
    assert "all " in said
    answer = json.loads((tmp_path / "q.json").read_text())
    assert answer["supported"]
    assert answer["images"] == 24
    assert answer["top1_float"] is not None  # four outputs, four folders
    assert invoke(app, ["quantize", str(q), "--calibrate", str(folder), "-o", str(tmp_path / "r.onnx")]) == 2
    assert "quantised already" in capsys.readouterr().err
    assert not (tmp_path / "r.onnx").exists()
    assert invoke(app, ["attach", str(q), "--classes", "4", "--calibrate", str(folder), "--labels", "a,b,c,d", "-o", str(a)]) == 0
    assert "rep.1: reads the image, corrects /conv/Conv" in capsys.readouterr().out
    assert check_model(load_model(a)).ok
    assert invoke(app, ["attach", str(source), "--classes", "4", "--calibrate", str(folder), "-o", str(tmp_path / "n.onnx")]) == 2
    assert "no quantised activation" in capsys.readouterr().err
    assert invoke(app, ["attach", str(q), "--classes", "4", "--labels", "a,b", "-o", str(a)]) == 2
    assert "2 labels for 4 classes" in capsys.readouterr().err


def test_top1_follows_names_where_the_network_has_them(tmp_path: Path) -> None:
    source = float_net(tmp_path / "f.onnx")
    plane = input_plane(load_model(source))
    x = tuple(np.random.default_rng(i).normal(size=(1, 3, 16, 16)).astype(np.float32) for i in range(6))
    free = compare(source, source, plane, Samples(x, (0,) * 6, ("b", "a", "c", "d"), ""))
    named = compare(source, source, plane, Samples(x, (0,) * 6, ("b", "a", "c", "d"), ""), ("a", "b", "c", "d"))
    right = compare(source, source, plane, Samples(x, (1,) * 6, ("a", "b", "c", "d"), ""))
    assert named.top1_float == right.top1_float
    assert np.isnan(compare(source, source, plane, Samples(x, (0,) * 6, ("a", "b"), "")).top1_float)
    assert free.same_class == 1.0
