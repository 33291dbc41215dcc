"""The zoo: what it writes is a standard QDQ model with the promised numbers, and bad input is refused with a reason."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from sasimc.isa.errors import SasError
from sasimc.zoo.arch import mobilenet_v2, resolve_modules, same_pads
from sasimc.zoo.calibrate import Stats, affine_scale, generated_images, observe, power_of_two
from sasimc.zoo.options import LearnerOptions
from sasimc.zoo.shipped import shipped_weights
from sasimc.zoo.weights import fold_batch_norm, fold_state, load_npz, quantise_weights, random_backbone
from sasimc.zoo.zoo import (
    DEFAULT_MODULES,
    RepSpec,
    ZooOptions,
    build,
    build_mobilenetv2_repnet,
    default_model_path,
    parse_modules,
    write,
)

SMALL = ZooOptions(width=0.35, resolution=96, classes=10, calibration_images=4)
DATA = os.environ.get("SASIMC_DATA")


@pytest.fixture(scope="module")
def small() -> onnx.ModelProto:
    return build_mobilenetv2_repnet(SMALL)


def props(model: onnx.ModelProto) -> dict[str, Any]:
    return {p.key: json.loads(p.value) for p in model.metadata_props}


def constants(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def run(model: onnx.ModelProto, x: npt.NDArray[np.float32], outputs: Sequence[str] | None = None) -> list[npt.NDArray[Any]]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    if outputs:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        known = {o.name for o in copy.graph.output}
        for name in outputs:
            if name not in known:
                copy.graph.output.append(onnx.ValueInfoProto(name=name))
        model = copy
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(v) for v in session.run(list(outputs) if outputs else None, {"input": x})]


def noise(size: int, batch: int = 2) -> npt.NDArray[np.float32]:
    images = np.stack(list(generated_images(batch, size, 5)))
    return ((images.astype(np.float32) - np.float32(128)) / np.float32(128)).transpose(0, 3, 1, 2).copy()


# --- the graph ------------------------------------------------------------------------------------------------------


def test_runs_and_carries_metadata(small: onnx.ModelProto) -> None:
    onnx.checker.check_model(small, full_check=True)
    (logits,) = run(small, noise(96, 3))
    assert logits.shape == (3, 10)
    assert logits.std() > 0
    meta = props(small)
    names = [f"rep.{b}.{c}" for b in (2, 4, 7, 11, 14, 17) for c in ("conv1", "conv2")] + ["classifier"]
    assert meta["sasimc.trainable"] == names
    multiply = {n.name for n in small.graph.node if n.op_type in ("Conv", "Gemm")}
    assert set(names) < multiply
    assert meta["sasimc.preprocess"] == {
        "mean": [128 / 255] * 3, "std": [128 / 255] * 3, "size": 96, "resize": 110, "interpolation": "bilinear",
    }  # fmt: skip
    assert "sasimc.labels" not in meta


def test_every_multiply_layer_is_quantised(small: onnx.ModelProto) -> None:
    producer = {o: n for n in small.graph.node for o in n.output}
    values = constants(small)
    for node in small.graph.node:
        if node.op_type not in ("Conv", "Gemm", "Add", "AveragePool", "GlobalAveragePool", "Resize"):
            continue
        x = producer[node.input[0]]
        if x.op_type == "Flatten":
            x = producer[x.input[0]]
        assert x.op_type == "DequantizeLinear", node.name
        if node.op_type in ("Conv", "Gemm"):
            weight = producer[node.input[1]]
            assert values[weight.input[0]].dtype == np.int8
            frozen_conv = node.name.startswith("features")
            assert values[weight.input[1]].ndim == (1 if frozen_conv else 0)
            if len(node.input) > 2:
                bias = producer[node.input[2]]
                assert values[bias.input[0]].dtype == np.int32
                want = values[x.input[1]] * values[weight.input[1]]
                np.testing.assert_allclose(values[bias.input[1]], want, rtol=1e-6)


def test_trainable_numbers_are_powers_of_two(small: onnx.ModelProto) -> None:
    values = constants(small)
    for name in props(small)["sasimc.trainable"]:
        assert math.frexp(float(values[f"{name}.weight_scale"]))[0] == 0.5, name
        assert float(values[f"{name}.scale"]) == 2.0 ** round(math.log2(float(values[f"{name}.scale"])))
        assert int(values[f"{name}.zero"]) == 0
        weight = values[f"{name}.weight_q"]
        assert weight.dtype == np.int8
        assert 8 <= np.abs(weight.astype(int)).max() <= 64  # head-room to train
    for site in [f"rep.{b}.pool" for b in (2, 4, 7, 11, 14, 17)] + ["avgpool", "rep.2.image_pool"]:
        assert math.frexp(float(values[f"{site}.scale"]))[0] == 0.5, site
        assert int(values[f"{site}.zero"]) == 0
    assert values["avgpool.zero"].dtype == np.uint8
    assert values["rep.4.conv1.zero"].dtype == np.uint8
    assert not values["classifier.bias_q"].any()


def test_relu6_is_visible(small: onnx.ModelProto) -> None:
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in small.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    clips = 0
    for spec in mobilenet_v2(0.35).convs:
        node = next(n for n in small.graph.node if n.name == spec.name)
        (after,) = consumers[node.output[0]]
        assert after.op_type == ("Clip" if spec.relu6 else "QuantizeLinear")
        clips += spec.relu6
    assert clips == 35
    assert [float(constants(small)[f"relu6.{b}"]) for b in ("min", "max")] == [0, 6]


def test_module_sizes_follow_the_table(small: onnx.ModelProto) -> None:
    arch = mobilenet_v2(1.0)
    table = [(2, 3, 8, 24, 56, 28, 56), (4, 24, 24, 32, 56, 28, 28), (7, 32, 32, 64, 28, 14, 14), (11, 64, 64, 96, 14, 7, 14),
             (14, 96, 96, 160, 14, 7, 7), (17, 160, 160, 320, 7, 3, 7)]  # fmt: skip
    modules = resolve_modules(arch, DEFAULT_MODULES, 224)
    assert [(m.attach, m.cin, m.hidden, m.cout, m.size_in, m.pooled, m.size_out) for m in modules] == table
    # the note's 380,072 counts two norm parameters per channel, which this module has not
    assert sum(m.parameters + 2 * (m.hidden + m.cout) for m in modules) == 380_072
    modes = {n.name: onnx.helper.get_node_attr_value(n, "mode") for n in small.graph.node if n.op_type == "Resize"}
    assert modes == {"rep.2.up": b"linear", "rep.11.up": b"linear", "rep.17.up": b"nearest"}  # 96 px: 24, 6 and 1 -> 3


@pytest.mark.parametrize("resolution", [224, 160, 200])
def test_nearest_resize_to_odd_sizes(resolution: int) -> None:
    """3 -> 7 and the like: output index floor(out * in / size)."""
    model = build_mobilenetv2_repnet(
        ZooOptions(
            width=0.1, resolution=resolution, classes=4, calibration_images=1, modules=(RepSpec(2, 8, 3, 1), RepSpec(17, None, 3))
        )
    )
    node = next(n for n in model.graph.node if n.name == "rep.17.up")
    small_, large, total = run(model, noise(resolution, 1), [node.input[0], node.output[0], "logits"])
    n_in, n_out = small_.shape[2], large.shape[2]
    assert (n_in, n_out) == (-(-resolution // 32) // 2, -(-resolution // 32))
    index = np.arange(n_out) * n_in // n_out
    np.testing.assert_array_equal(large, small_[:, :, index][:, :, :, index])
    assert total.shape == (1, 4)


def test_gain_of_modules() -> None:
    """The module's contribution is about rep_gain of the block's output; gain 0 leaves the backbone untouched."""
    model = build_mobilenetv2_repnet(SMALL)
    x = noise(110)[:, :, 7:103, 7:103].copy()
    up, block = run(model, x, ["rep.11.up.dq:0", "features.11.conv.2.dq:0"])
    assert 0.04 < np.sqrt(np.mean(up**2)) / np.sqrt(np.mean(block**2)) < 0.35
    off = build_mobilenetv2_repnet(ZooOptions(width=0.35, resolution=64, classes=10, calibration_images=2, rep_gain=0))
    assert not constants(off)["rep.4.conv2.weight_q"].any()
    assert constants(off)["rep.4.conv1.weight_q"].any()


def test_pooled_modules_are_features_and_leave_the_backbone_alone() -> None:
    """Every value of the backbone is that of the network without modules; a module's features are as large as the backbone's."""
    options = replace(SMALL, wiring="pooled")
    pooled, plain = build_mobilenetv2_repnet(options), build("mobilenetv2", SMALL)
    x = noise(110)[:, :, 7:103, 7:103].copy()
    for tensor in ("features.11.conv.2.dq:0", "features.18.0.dq:0"):
        np.testing.assert_array_equal(run(pooled, x, [tensor])[0], run(plain, x, [tensor])[0])
    joined, own, module = run(pooled, x, ["joined.dq:0", "avgpool.dq:0", "rep.11.avgpool.dq:0"])
    widths = [m.cout for m in resolve_modules(mobilenet_v2(0.35), DEFAULT_MODULES, 96)]
    assert joined.shape == (2, 1280 + sum(widths))
    np.testing.assert_array_equal(joined[:, :1280], own[:, :, 0, 0])
    np.testing.assert_array_equal(joined[:, 1280 + sum(widths[:3]) : 1280 + sum(widths[:4])], module[:, :, 0, 0])
    assert 1 / 3 < np.sqrt(np.mean(module**2)) / np.sqrt(np.mean(own**2)) < 3
    by_channel = build_mobilenetv2_repnet(replace(options, module_scales="channel"))
    assert constants(by_channel)["rep.11.conv2.weight_scale"].shape == (widths[3],)
    assert not constants(build_mobilenetv2_repnet(replace(options, rep_gain=0)))["rep.4.conv2.weight_q"].any()


def test_steps_of_logits_hold_the_margin_of_the_loss() -> None:
    """Label smoothing 0.1 is best served by the right logit ln 9C above the others; a class more never makes the step finer."""
    steps = [LearnerOptions().logit_step(classes) for classes in (2, 17, 37, 102, 196, 1000)]
    assert steps == [1 / 16, 1 / 16, 1 / 16, 1 / 8, 1 / 8, 1 / 8]
    assert LearnerOptions(logit_exponent=-6).logit_step(196) == 1 / 64


def test_scales_of_modules_by_channel() -> None:
    """conv1's channels become equally large; every channel of a correction is as large beside the block's as its neighbours."""
    sizes = {}
    x = noise(110)[:, :, 7:103, 7:103].copy()
    for kind in ("tensor", "channel"):
        model = build_mobilenetv2_repnet(replace(SMALL, module_scales=kind))
        scales = constants(model)["rep.11.conv2.weight_scale"]
        assert scales.ndim == (1 if kind == "channel" else 0)
        assert (np.frexp(scales)[0] == 0.5).all()
        up, block, hidden = run(model, x, ["rep.11.up.dq:0", "features.11.conv.2.dq:0", "rep.11.conv1.relu:0"])
        rms = [np.sqrt(np.mean(v**2, axis=(0, 2, 3))) for v in (up, block, hidden)]
        sizes[kind] = np.std(np.log2(rms[0] / rms[1])), np.std(np.log2(rms[2][rms[2] > 0]))
    assert sizes["channel"][0] < 0.75 * sizes["tensor"][0]
    assert sizes["channel"][1] < 0.75 * sizes["tensor"][1]


def test_without_modules_and_with_own_head() -> None:
    plain = build("mobilenetv2", ZooOptions(width=0.35, resolution=64, calibration_images=2))
    assert props(plain)["sasimc.trainable"] == []
    assert run(plain, noise(64))[0].shape == (2, 1000)
    assert not [n for n in plain.graph.node if n.name.startswith("rep.")]
    headed = build("mobilenetv2", ZooOptions(width=0.35, resolution=64, classes=3, labels=("a", "b", "c"), calibration_images=2))
    assert props(headed)["sasimc.trainable"] == ["classifier"]
    assert props(headed)["sasimc.labels"] == ["a", "b", "c"]


def test_modules_on_residual_blocks_and_options() -> None:
    options = ZooOptions(
        width=0.5, resolution=64, classes=5, last_channels=256, calibration_images=2, padding="tf", head_init="zero", seed=3,
        modules=parse_modules("3:4:3:1,5:8:5:4,6"), logit_exponent=-3, head_weight_exponent=-7,
    )  # fmt: skip
    model = build_mobilenetv2_repnet(options)
    values = constants(model)
    assert values["classifier.weight_q"].shape == (5, 256)
    assert not values["classifier.weight_q"].any()
    assert float(values["classifier.scale"]) == 2**-3
    assert float(values["classifier.weight_scale"]) == 2**-7
    total = next(n for n in model.graph.node if n.name == "rep.5.sum")
    assert total.input[0] == "features.5.add.dq:0"
    pads = [list(onnx.helper.get_node_attr_value(n, "pads")) for n in model.graph.node if n.name == "features.0.0"]
    assert pads == [[0, 0, 1, 1]]
    assert run(model, noise(64))[0].shape == (2, 5)


def test_same_seed_same_file(small: onnx.ModelProto) -> None:
    again = build_mobilenetv2_repnet(SMALL)
    assert constants(again)["rep.4.conv1.weight_q"].tolist() == constants(small)["rep.4.conv1.weight_q"].tolist()
    other = build_mobilenetv2_repnet(ZooOptions(width=0.35, resolution=96, classes=10, calibration_images=4, seed=1))
    assert constants(other)["rep.4.conv1.weight_q"].tolist() != constants(small)["rep.4.conv1.weight_q"].tolist()


def test_write(tmp_path: Path, small: onnx.ModelProto) -> None:
    path = write(small, tmp_path / "m.onnx")
    assert onnx.load(path) == small
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    with pytest.raises(SasError, match="cannot write"):
        write(small, tmp_path / "absent" / "m.onnx")


def test_default_model() -> None:
    path = default_model_path()
    assert path.stat().st_size < 1_500_000
    model = onnx.load(path)
    meta = props(model)
    assert len(meta["sasimc.trainable"]) == 13
    assert meta["sasimc.preprocess"]["size"] == 96
    assert run(model, noise(96))[0].shape == (2, len(meta["sasimc.labels"]))


# --- pieces ---------------------------------------------------------------------------------------------------------


def test_pads() -> None:
    assert same_pads("tf", 224, 3, 2) == (0, 1)
    assert same_pads("tf", 7, 3, 2) == (1, 1)
    assert same_pads("tf", 7, 3, 1) == (1, 1)
    assert same_pads("symmetric", 224, 3, 2) == (1, 1)


def test_scales() -> None:
    assert power_of_two(1.0, unsigned=False).scale == 2**-6
    assert power_of_two(127 / 128, unsigned=False).scale == 2**-7
    assert power_of_two(3.9, unsigned=True).scale == 2**-6
    s = affine_scale(-1.0, 3.0)
    assert s.bounds[0] == pytest.approx(-1.0, abs=s.scale)
    assert s.bounds[1] == pytest.approx(3.0, abs=s.scale)
    assert affine_scale(0.0, 6.0).zero == -128
    stats = Stats()
    stats.add(np.arange(-1000, 1000, dtype=np.float32))
    assert (stats.lo, stats.hi) == (-1000, 999)
    assert stats.magnitude(100) == 1000
    assert stats.magnitude(99) == pytest.approx(990, abs=2)


def test_quantised_weights_are_close_and_dead_channels_safe() -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(0, 1, (4, 3, 3, 3)).astype(np.float32)
    w[1] = 0
    q = quantise_weights(w, np.array([0.0, 5.0, 0.1, 0.0]))
    assert np.abs(q.real - w).max() <= q.scale.max() / 2 + 1e-7
    assert np.abs(q.weight.astype(int)).max(axis=(1, 2, 3)).tolist() == [127, 0, 127, 127]
    assert q.bias is not None
    assert np.abs(q.bias / q.scale * 128).max() <= 2**24 * 1.001


def test_fold_batch_norm_and_state_names() -> None:
    rng = np.random.default_rng(1)
    w, x = rng.normal(size=(2, 3, 1, 1)), rng.normal(size=3)
    gamma, beta, mean, var = rng.normal(size=2), rng.normal(size=2), rng.normal(size=2), rng.random(2) + 0.5
    fw, fb = fold_batch_norm(w, gamma, beta, mean, var)
    y = w[:, :, 0, 0] @ x
    np.testing.assert_allclose(fw[:, :, 0, 0] @ x + fb, gamma * (y - mean) / np.sqrt(var + 1e-5) + beta)
    arch = mobilenet_v2(0.1)
    state: dict[str, npt.NDArray[Any]] = {}
    for spec in arch.convs:  # torchvision's naming: the norm is the next entry of the Sequential
        state[f"{spec.name}.weight"] = rng.normal(size=spec.weight_shape)
        head, _, last = spec.name.rpartition(".")
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{head}.{int(last) + 1}.{part}"] = rng.random(spec.cout) + 0.5
    assert set(fold_state(arch, state)) == {f"{s.name}.{p}" for s in arch.convs for p in ("weight", "bias")}
    del state["features.2.conv.3.bias"]
    with pytest.raises(SasError, match=r"features\.2\.conv\.3\.bias"):
        fold_state(arch, state)


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        (ZooOptions(resolution=8), "resolution is 8"),
        (ZooOptions(width=9.0), "width 9.0"),
        (ZooOptions(classes=1), "classes is 1"),
        (ZooOptions(padding="sane"), "padding 'sane'"),
        (ZooOptions(head_init="ones"), "--head-init 'ones'"),
        (ZooOptions(module_scales="row"), "--module-scales 'row'"),
        (ZooOptions(classes=3, labels=("a",)), "1 labels for 3 classes"),
        (ZooOptions(resize=100), "resize 100"),
        (ZooOptions(weights="torchvison"), "(?s)do not exist.*did you mean 'torchvision'"),
        (ZooOptions(weights="torchvision", width=0.35), "width 1.0 only"),
        (ZooOptions(modules=(RepSpec(40),)), "block 40"),
        (ZooOptions(modules=(RepSpec(4), RepSpec(4))), "two Rep-Net modules"),
        (ZooOptions(modules=(RepSpec(2), RepSpec(4, 25))), "2 groups do not divide"),
        (ZooOptions(modules=(RepSpec(2, None, 4),)), "kernel 4"),
        (ZooOptions(width=0.1, resolution=32, calibrate=Path("no-such-folder")), "no-such-folder"),
    ],
)
def test_bad_options(options: ZooOptions, message: str) -> None:
    with pytest.raises(SasError, match=message):
        build_mobilenetv2_repnet(options)


def test_unknown_model_and_module_text() -> None:
    with pytest.raises(SasError, match=r"(?s)unknown zoo model.*did you mean 'mobilenetv2-repnet'"):
        build("mobilenet2-repnet", ZooOptions())
    assert parse_modules("none") == ()
    assert parse_modules("default") == DEFAULT_MODULES
    assert parse_modules("2:8:5:1,17:0:3") == (RepSpec(2, 8, 5, 1), RepSpec(17, None, 3))
    for bad in ("", "a", "1:2:3:4:5", "nnone"):
        with pytest.raises(SasError, match="not a Rep-Net module"):
            parse_modules(bad)


def test_bad_weight_files(tmp_path: Path) -> None:
    def attempt(path: Path) -> None:
        build_mobilenetv2_repnet(ZooOptions(weights=str(path), width=0.1, resolution=32, classes=2, calibration_images=1))

    with pytest.raises(SasError, match=r"layers\.json"):
        attempt(tmp_path)
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(SasError, match="not a readable"):
        attempt(tmp_path / "x.npz")
    arch = mobilenet_v2(0.1)
    rng = np.random.default_rng(0)
    tensors: dict[str, npt.NDArray[Any]] = {f"{s.name}.bias": np.zeros(s.cout, np.float32) for s in arch.convs}
    tensors |= {f"{s.name}.weight": rng.normal(0, 0.2, s.weight_shape).astype(np.float32) for s in arch.convs}
    np.savez(tmp_path / "good.npz", **tensors)  # type: ignore[arg-type]
    attempt(tmp_path / "good.npz")
    for name, value, message in (
        ("features.3.conv.2.bias", np.zeros(3), r"have shape \[3\]"),
        ("features.3.conv.2.weight", np.full(arch.blocks[3].convs[-1].weight_shape, np.nan), "not finite"),
        ("std", np.zeros(3), "std positive"),
        ("padding", np.array("valid"), "padding 'valid'"),
    ):
        np.savez(tmp_path / "bad.npz", **{**tensors, name: value})  # type: ignore[arg-type]
        with pytest.raises(SasError, match=message):
            attempt(tmp_path / "bad.npz")
    del tensors["features.0.0.weight"]
    np.savez(tmp_path / "bad.npz", **tensors)  # type: ignore[arg-type]
    with pytest.raises(SasError, match=r"features\.0\.0\.weight' is missing"):
        attempt(tmp_path / "bad.npz")


def test_modules_that_start_from_weights(tmp_path: Path) -> None:
    """The model holds what the file says, to half a step, at its own size; files that do not fit are refused by name."""
    made = ZooOptions(width=0.1, resolution=32, classes=2, calibration_images=1, module_weights=str(tmp_path / "w.npz"))
    modules = resolve_modules(mobilenet_v2(0.1), DEFAULT_MODULES, 32)
    rng = np.random.default_rng(0)
    given: dict[str, npt.NDArray[Any]] = {
        conv.name: rng.normal(0, 0.03 * (1 + i), conv.weight_shape).astype(np.float32)
        for i, module in enumerate(modules)
        for conv in (module.conv1, module.conv2)
    }
    np.savez(tmp_path / "w.npz", **given)  # type: ignore[arg-type]
    found = constants(build_mobilenetv2_repnet(made))
    for name, real in given.items():
        step = found[f"{name}.weight_scale"]
        inside = np.abs(real) <= 127 * step
        assert np.all(np.abs(found[f"{name}.weight_q"] * step - real)[inside] <= step / 2)
        assert 8 <= real.std() / step <= 32
        assert inside.all()
    for name, value, message in (
        ("rep.4.conv1", np.zeros((1, 1, 3, 3), np.float32), r"float32 \[1, 1, 3, 3\], not float"),
        ("rep.4.conv1", np.zeros(given["rep.4.conv1"].shape, np.int8), "int8"),
        ("rep.4.conv1", np.full(given["rep.4.conv1"].shape, np.nan, np.float32), "not numbers"),
        ("rep.4.conv1", np.zeros(given["rep.4.conv1"].shape, np.float32), "all the same"),
    ):
        np.savez(tmp_path / "w.npz", **{**given, name: value})  # type: ignore[arg-type]
        with pytest.raises(SasError, match=message):
            build_mobilenetv2_repnet(made)
    np.savez(tmp_path / "w.npz", **{k: v for k, v in given.items() if k != "rep.17.conv2"})  # type: ignore[arg-type]
    with pytest.raises(SasError, match=r"no weights of rep\.17\.conv2"):
        build_mobilenetv2_repnet(made)
    with pytest.raises(SasError, match="rep_gain"):
        build_mobilenetv2_repnet(replace(made, rep_gain=0.5))
    with pytest.raises(SasError, match="balances the channels"):
        build_mobilenetv2_repnet(replace(made, module_scales="channel"))


def test_shipped_weights_are_for_one_backbone_resolution_and_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``auto`` takes the nearest file of those for this backbone and these modules, up to a factor of two in resolution, where no option says otherwise; elsewhere modules are random."""
    arch = mobilenet_v2(0.1)
    backbone = random_backbone(arch, 5, None)
    rng = np.random.default_rng(0)
    given: dict[str, Any] = {
        conv.name: rng.normal(0, 0.05, conv.weight_shape).astype(np.float16)
        for module in resolve_modules(arch, DEFAULT_MODULES, 32)
        for conv in (module.conv1, module.conv2)
    }
    np.savez(tmp_path / "w.npz", backbone=backbone.fingerprint, resolution=32, **given)
    twice = {name: 2 * array for name, array in given.items()}
    np.savez(tmp_path / "v.npz", backbone=backbone.fingerprint, resolution=64, **twice)
    monkeypatch.setattr("sasimc.zoo.shipped.shipped_weights", lambda: [tmp_path / "v.npz", tmp_path / "w.npz"])
    options = ZooOptions(width=0.1, resolution=32, classes=2, calibration_images=1, seed=5)

    def weights(**changes: Any) -> list[bytes]:
        found = constants(build_mobilenetv2_repnet(replace(options, **changes)))
        return [found[name].tobytes() for name in sorted(found) if name.startswith("rep.") and name.endswith(".weight_q")]

    file = str(tmp_path / "w.npz")
    assert weights() == weights(module_weights=file) != weights(module_weights="random")
    for side, name in ((40, "w.npz"), (48, "v.npz"), (128, "v.npz"), (136, "random")):
        chosen = name if name == "random" else str(tmp_path / name)
        assert weights(resolution=side) == weights(resolution=side, module_weights=chosen), side
    for elsewhere in ({"seed": 6}, {"resolution": 136}, {"rep_gain": 0.25}, {"wiring": "pooled"}, {"module_scales": "channel"}):
        assert weights(**elsewhere) == weights(module_weights="random", **elsewhere)
    three = DEFAULT_MODULES[:3]
    assert weights(modules=three) == weights(modules=three, module_weights=file)
    other = (replace(DEFAULT_MODULES[1], kernel=3),)
    assert weights(modules=other) == weights(modules=other, module_weights="random")
    model = build_mobilenetv2_repnet(options)
    assert props(model)["sasimc.zoo"]["module_weights"] == "auto"  # not a path of this machine
    assert props(model)["sasimc.module_weights"] == "w.npz"
    assert "sasimc.module_weights" not in props(build_mobilenetv2_repnet(replace(options, module_weights=file)))


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_calibration_sums_do_not_saturate(kind: type) -> None:
    """Sums of large products: onnxruntime's integer kernels cut pairs of them to 16 bits on processors without VNNI, unless asked not to."""
    low = int(np.iinfo(kind).min)
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["input", "s", "z"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"]),
        onnx.helper.make_node("DequantizeLinear", ["w_q", "w_s"], ["w"]),
        onnx.helper.make_node("Conv", ["x", "w"], ["y"]),
        onnx.helper.make_node("QuantizeLinear", ["y", "y_s", "z"], ["y_q"]),
        onnx.helper.make_node("DequantizeLinear", ["y_q", "y_s", "z"], ["seen"]),
    ]
    channels = 64
    values = {
        "s": np.float32(1), "z": kind(low), "w_q": np.full((8, channels, 1, 1), 127, np.int8), "w_s": np.float32(1), "y_s": np.float32(2.0**13),
    }  # fmt: skip
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes, "saturating",
        [onnx.helper.make_tensor_value_info("input", floats, ["n", channels, 4, 4])],
        [onnx.helper.make_tensor_value_info("seen", floats, ["n", 8, 4, 4])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    found = observe(model, {"site": "seen"}, [np.full((1, channels, 4, 4), 255, np.float32)])
    assert found["site"].hi == 2.0**13 * round(255 * 127 * channels / 2.0**13)


# --- real weights ---------------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="needs SASIMC_DATA")
def test_folder_weights_are_kept_to_the_bit() -> None:
    folder = Path(str(DATA)) / "weights"
    archive = np.load(next(folder.glob("*.npz")))
    plain = constants(build("mobilenetv2", ZooOptions(weights=str(folder))))
    trained = constants(build_mobilenetv2_repnet(ZooOptions(weights=str(folder), classes=17, calibration_images=2)))
    for spec in mobilenet_v2(1.0).convs:
        for values in (plain, trained):
            integers = archive[f"{spec.name}.weight_int8"].reshape(spec.weight_shape)
            np.testing.assert_array_equal(values[f"{spec.name}.weight_q"], integers)
            np.testing.assert_array_equal(values[f"{spec.name}.weight_scale"], archive[f"{spec.name}.weight_scale"])
            scale, zero = archive[f"{spec.name}.out_scale_zp"]
            assert values[f"{spec.name}.scale"] == np.float32(scale)
            assert values[f"{spec.name}.zero"] == zero
        np.testing.assert_array_equal(plain[f"{spec.name}.bias_q"], archive[f"{spec.name}.bias_int32"])
    assert plain["classifier.weight_q"].shape == (1000, 1280)  # the background class is dropped
    np.testing.assert_array_equal(plain["classifier.bias_q"], archive["classifier.1.bias_int32"][1:])
    assert trained["classifier.weight_q"].shape == (17, 1280)
    with pytest.raises(SasError, match="width"):
        build_mobilenetv2_repnet(ZooOptions(weights=str(folder), width=0.5))


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="needs SASIMC_DATA")
def test_shipped_weights_of_modules_are_for_the_weights_folder() -> None:
    folder = str(Path(str(DATA)) / "weights")
    assert shipped_weights()
    for path in shipped_weights():
        held = load_npz(path)
        made = ZooOptions(weights=folder, resolution=int(held["resolution"]), classes=17, calibration_images=1)
        values = constants(build_mobilenetv2_repnet(made))
        random = constants(build_mobilenetv2_repnet(replace(made, module_weights="random")))
        for name in held.keys() - {"backbone", "resolution"}:
            step = values[f"{name}.weight_scale"]
            np.testing.assert_allclose(values[f"{name}.weight_q"] * step, held[name], atol=float(step) / 2)
            assert not np.array_equal(values[f"{name}.weight_q"], random[f"{name}.weight_q"])


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="needs SASIMC_DATA")
def test_real_weights_recognise_images() -> None:
    """60 images: far above what a wrong padding, scale or class order leaves (README: 86 % on all 1,000)."""
    import csv

    from PIL import Image

    from sasimc.zoo.calibrate import batches

    root = Path(str(DATA))
    model = build("mobilenetv2", ZooOptions(weights=str(root / "weights")))
    pre = props(model)["sasimc.preprocess"]
    assert pre["size"] == 224
    assert pre["mean"] == [127 / 255] * 3
    assert props(model)["sasimc.labels"][0].startswith("tench")
    with (root / "imagenet-sample-1000" / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))[::17]
    images = [np.asarray(Image.open(root / "imagenet-sample-1000" / "images" / r["file"]).convert("RGB")) for r in rows]
    from sasimc.zoo.weights import Preprocess

    feed = batches(
        images, Preprocess(tuple(255 * v for v in pre["mean"]), tuple(255 * v for v in pre["std"])), 224, pre["resize"]
    )
    predicted = np.concatenate([run(model, x)[0].argmax(axis=1) for x in feed])
    right = np.mean(predicted == [int(r["class_index"]) for r in rows])
    assert right > 0.75, right
