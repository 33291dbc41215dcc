"""Networks that are quantised in front of weighted layers only: float tensors between them get a scale, checked node by node in onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from qdq_net import Net, run_ort
from round_trip import same_after_compiling, stored

from sasimc.api import CompileOptions, compile_model
from sasimc.cli.common import invoke
from sasimc.cli.sasc import app
from sasimc.export import export_onnx
from sasimc.frontend.onnx_import import import_model, unscaled
from sasimc.isa.errors import SasError
from sasimc.quantise.ranges import with_ranges
from sasimc.runtime.device import Device

CHECKED = CompileOptions(verify=True)


class Calibrated(Net):
    """Quantises to what its samples reach, as exporters do: ``x`` in front of a layer, nothing behind it."""

    def __init__(self, size: int = 12) -> None:
        super().__init__(("n", 3, size, size))
        smooth = self.rng.normal(size=(6, 3, size // 4, size // 4)).repeat(4, 2).repeat(4, 3)
        self.samples = (smooth + 0.3 * self.rng.normal(size=smooth.shape)).astype(np.float32)
        self.ends: dict[str, tuple[float, float]] = {"x": (float(self.samples.min()), float(self.samples.max()))}

    def range(self, x: str) -> tuple[float, float]:
        if x not in self.ends:
            values = run_ort(self.model(x), self.samples)[0]
            self.ends[x] = (min(float(values.min()), 0.0), max(float(values.max()), 0.0))
        return self.ends[x]

    def fitted(self, x: str) -> str:
        low, high = self.range(x)
        scale = (high - low) / 255
        return self.q(x, scale, round(-low / scale), np.uint8)

    def layer(self, x: str, cin: int, n: int, k: int = 3, relu: bool = True, **attrs: Any) -> str:
        w = self.weight((n, cin, k, k), scale=0.02 / np.sqrt(cin * k * k))
        y = self.node("Conv", self.fitted(x), w, self.const(self.rng.normal(size=n) * 0.1), pads=[k // 2] * 4, **attrs)
        return self.node("Relu", y) if relu else y

    def classifier(self, x: str, cin: int) -> str:
        x = self.node("Flatten", self.node("GlobalAveragePool", x))
        return self.node(
            "Gemm", self.fitted(x), self.weight((7, cin), scale=0.01), self.const(self.rng.normal(size=7) * 0.1), transB=1
        )


def residual(net: Calibrated) -> str:
    """A float trunk through three sums, one of them with a layer on either side; the mean and the logits are float."""
    x = net.layer("x", 3, 8)
    for cin, n, s in ((8, 8, 1), (8, 12, 2), (12, 12, 1)):
        y = net.layer(net.layer(x, cin, n, strides=[s, s]), n, n, relu=False)
        x = net.node("Relu", net.node("Add", y, x if s == 1 else net.layer(x, cin, n, 1, relu=False, strides=[s, s])))
    return net.classifier(x, 12)


def preactivated(net: Calibrated) -> str:
    """A trunk with no ReLU: only what stands behind a ReLU is quantised."""
    x = net.layer("x", 3, 8, relu=False)
    for _ in range(2):
        x = net.node("Add", net.layer(net.node("Relu", x), 8, 8, relu=False), x)
    return net.classifier(net.node("Relu", x), 8)


def dense(net: Calibrated) -> str:
    """Joins of float layers behind float normalisation, ReLU and pool."""
    x, cin = net.layer("x", 3, 8), 8
    for _ in range(3):
        numbers = (
            net.rng.uniform(0.5, 1.5, cin),
            net.rng.normal(size=cin) * 0.3,
            net.rng.normal(size=cin) * 0.1,
            net.rng.uniform(0.5, 1, cin),
        )
        y = net.node("Relu", net.node("BatchNormalization", x, *map(net.const, numbers)))
        x, cin = net.node("Concat", x, net.layer(y, cin, 4, relu=False), axis=1), cin + 4
    x = net.node("AveragePool", net.node("Relu", x), kernel_shape=[2, 2], strides=[2, 2])
    return net.classifier(net.layer(x, cin, 8), 8)


def fire(net: Calibrated) -> str:
    """Joins that two layers quantise; a float layer in front of the mean ends the network."""
    x = net.node("MaxPool", net.layer("x", 3, 8), kernel_shape=[3, 3], strides=[2, 2])
    for _ in range(2):
        y = net.layer(x, 8, 4, 1)
        x = net.node("Concat", net.layer(y, 4, 4, 1), net.layer(y, 4, 4), axis=1)
    return net.node("Flatten", net.node("GlobalAveragePool", net.layer(x, 8, 7, 1)))


def in_two_ways(net: Calibrated) -> str:
    """A layer and the input, each read through two quantisations and in float."""
    y = net.node("Conv", net.q("x", 0.03, 2), net.weight((8, 3, 1, 1), scale=0.01))
    z = net.node("Add", net.layer(net.q(y, 0.04), 8, 8, 1, relu=False), net.node("Add", net.q(y, 0.05, 3), y))
    return net.classifier(net.node("Add", net.layer("x", 3, 8, 1), z), 8)


NETWORKS = [residual, preactivated, dense, fire, in_two_ways]


@pytest.mark.parametrize("make", NETWORKS)
def test_every_layer_is_the_float_layer_rounded(make: Callable[[Calibrated], str], tmp_path: Path) -> None:
    """Node by node within a step (the compile checks it), and the whole network near the float one where it was measured."""
    net = Calibrated()
    model = net.model(make(net))
    np.savez(tmp_path / "seen.npz", x=net.samples)
    ranged = with_ranges(model, str(tmp_path / "seen.npz"))
    compiled = compile_model(ranged.model, CHECKED)
    assert "float tensors move the output" in compiled.program.meta["verified"]
    device, t = Device(compiled.program, "fused"), compiled.graph.type(compiled.graph.outputs[0])
    real = run_ort(model, net.samples)[0]
    got = (device.infer(net.samples).logits - t.zero) * t.scale
    assert np.abs(got - real).mean() < 0.015 * np.ptp(real)
    assert np.ptp(real) > 40 * t.scale


def test_ranges_are_measured_or_guessed(tmp_path: Path) -> None:
    """Without images drawn ones are a guess that says so; what is noted in the file is not measured again; nothing known is an error."""
    net = Calibrated()
    model = net.model(residual(net))
    with pytest.raises(SasError, match="no range of it is known"):
        import_model(model)
    guessed = with_ranges(model)
    assert "a guess" in str(guessed)
    assert with_ranges(guessed.model).tensors == 0
    import_model(guessed.model)
    np.savez(tmp_path / "seen.npz", x=net.samples)
    measured = with_ranges(guessed.model, str(tmp_path / "seen.npz"))
    assert measured.tensors == len(unscaled(model)) > guessed.tensors
    assert "a guess" not in str(measured)
    noted = json.loads({p.key: p.value for p in measured.model.metadata_props}["sasimc.ranges"])
    (logits,) = (o.name for o in model.graph.output)
    assert noted[logits] == pytest.approx(net.range(logits), rel=1e-5)


def test_the_command_says_what_was_given_a_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = Calibrated()
    onnx.save(net.model(residual(net)), tmp_path / "net.onnx")
    np.savez(tmp_path / "seen.npz", x=net.samples)
    out = str(tmp_path / "net.s")
    assert invoke(app, ["compile", str(tmp_path / "net.onnx"), "-o", out, "--calibrate", str(tmp_path / "seen.npz")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "float tensors have no scale: their ranges are those of 6 of" in said
    assert "move the output by" in said
    assert invoke(app, ["compile", str(tmp_path / "net.onnx"), "-o", out, "--calibrate", str(tmp_path / "none.npz")]) == 2


def test_training_behind_a_float_trunk_and_the_way_home() -> None:
    """Errors cross the sums; the exported model holds the scales, so that onnxruntime computes what the device does, and compiles to the same bits."""
    net = Calibrated()
    model = net.model(residual(net))
    convs = [n.name for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
    options = CompileOptions(verify=True, trainable=",".join([convs[-3], convs[-1]]), batch=6)
    compiled = compile_model(model, options)
    assert "one training step" in compiled.program.meta["verified"]
    device = Device(compiled.program, "fused")
    before = device.state()
    device.train_step(net.samples, np.arange(6) % 7)
    assert any((device.state()[name] != w).any() for name, w in before.items())
    made, ours = export_onnx(device, model), device.infer(net.samples).logits
    again = Device(compile_model(made, options).program, "fused")
    assert np.array_equal(again.infer(net.samples).logits, ours)
    assert {n.name for n in model.graph.node} < {n.name for n in made.graph.node}
    assert not unscaled(made)
    scale, zero = (float(compiled.program.meta[f"logit_{what}"]) for what in ("scale", "zero"))
    (logits,) = run_ort(made, net.samples)
    assert np.abs(logits / scale + zero - ours).max() <= 1.001


@pytest.mark.parametrize(
    ("dtype", "zero", "top"), [(np.int8, 0, None), (np.uint8, 0, 6.0), (np.int8, -128, np.inf), (np.int8, 0, 1.0)]
)
def test_activations_quantised_per_channel(dtype: Any, zero: int, top: float | None) -> None:
    """As NNCF writes them in front of a depth-wise layer: its weights take the scales, the layer before its requantisation. A bound that lies inside the
    range of some channel only is computed on its own."""
    net = Net(("n", 3, 8, 8))
    x = net.conv(net.q("x", 0.02), 3, 8, 1, name="expand")
    if top is not None:
        x = net.node("Clip", x, net.const(0.0), net.const(top))
    scale, point = net.quant(net.rng.uniform(0.005, 6 / 256, 8), np.full(8, zero), dtype)
    x = net.node("DequantizeLinear", net.node("QuantizeLinear", x, scale, point, axis=1), scale, point, axis=1)
    bias = net.const(net.rng.normal(size=8) * 0.3)
    x = net.node("Conv", x, net.weight((8, 1, 3, 3)), bias, group=8, pads=[1] * 4, name="depthwise")
    y = net.q(net.node("Flatten", net.node("GlobalAveragePool", net.q(x, 0.05))), 0.01)
    model = net.model(net.q(net.node("Gemm", y, net.weight((8, 4), 1), name="last"), 0.005))
    options = CompileOptions(verify=True, batch=4, trainable="expand,depthwise,last")
    compiled = compile_model(model, options)  # every operation within a step of onnxruntime's
    assert [op.kind for op in compiled.graph.ops][:3] == (
        ["conv", "rescale", "conv"] if top == 1 else ["conv", "conv", "avgpool"]
    )
    device = Device(compiled.program, "fused", 1)
    before = device.state()
    for _ in range(4):
        device.train_step(np.random.default_rng(1).uniform(-2, 2, (4, 3, 8, 8)).astype(np.float32), [0, 1, 2, 3])
    assert all((device.state()[name] != w).any() for name, w in before.items())
    same_after_compiling(device, export_onnx(device, model), options, stored(compiled, 4))


def test_channels_with_different_zero_points_are_refused() -> None:
    net = Net(("n", 3, 8, 8))
    scale, zero = net.quant([0.02, 0.01, 0.03], [0, 3, 0], np.int8)
    x = net.node("DequantizeLinear", net.node("QuantizeLinear", "x", scale, zero, axis=1), scale, zero, axis=1)
    with pytest.raises(SasError, match="different zero points"):
        import_model(net.model(net.q(net.conv(x, 3, 4), 0.05)))
