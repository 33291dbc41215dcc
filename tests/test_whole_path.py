"""ONNX file to trained weights on the simulated machine, bit for bit as the golden model computes it, on every engine."""

from __future__ import annotations

import models
import numpy as np
import onnx
import pytest
from models import Builder
from onnx import helper
from qdq_net import Net
from whole_path import check, compile_onnx, images_for

from sasimc.frontend.onnx_import import import_model
from sasimc.runtime.device import Device
from sasimc.zoo.zoo import RepSpec, ZooOptions, build_mobilenetv2_repnet


def pooled_modules() -> onnx.ModelProto:
    """The zoo's smallest network with two modules whose pooled outputs join the features."""
    modules = (RepSpec(2, 4, 3, 1), RepSpec(4, None, 3))
    return build_mobilenetv2_repnet(
        ZooOptions(width=0.05, resolution=32, last_channels=16, classes=3, modules=modules, wiring="pooled", calibration_images=2)
    )


FAST = ("fused", "bitserial")
ALL = ("fused", "bitserial", "step")


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs(seed: int) -> None:
    check(
        models.random_graph(seed), engines=FAST, backprop=("exact", "truncated")[seed % 2], batch=(1, 3, 8)[seed % 3], seed=seed
    )


@pytest.mark.parametrize("seed", [300, 303, 314, 327, 332, 335, 345, 363, 373])
def test_random_graphs_with_slices_and_joins(seed: int) -> None:
    """From 314 on, errors pass a slice, a split or a join along rows or columns."""
    model = models.random_graph(seed, size=7, ops=6, also=("take", "split", "join", "take", "split", "join"))
    check(
        model,
        engines=ALL if seed in (314, 327) else FAST,
        backprop=("exact", "truncated")[seed % 3 == 0],
        batch=(1, 3)[seed % 2],
        seed=seed,
    )


@pytest.mark.parametrize("seed", range(24))
def test_random_graphs_with_tables_and_products(seed: int) -> None:
    also = ("unary", "unary", "silu", "product", "product", "excite", "excite", "map")
    model = models.random_graph(seed + 700, size=7, ops=5, also=also)
    check(model, engines=ALL if seed < 4 else FAST, backprop=("exact", "truncated")[seed % 2], batch=(1, 3)[seed % 2], seed=seed)


@pytest.mark.parametrize("seed", [101, 136, 213, 233, 289, 475])
def test_random_graphs_that_once_differed(seed: int) -> None:
    """Identity requantisations, overlapping pools before a channel scale, pads that a convolution swallows."""
    for policy in ("exact", "truncated"):
        check(models.random_graph(seed), backprop=policy, batch=(1, 3, 8)[seed % 3], seed=seed)


@pytest.mark.parametrize("seed", range(6))
def test_random_tiny_graphs_on_the_reference_engine(seed: int) -> None:
    check(models.random_graph(seed + 20, size=6, ops=4), engines=ALL, batch=2, seed=seed)


@pytest.mark.parametrize(
    "model",
    [
        models.mlp(),
        models.mlp((12, 7), matmul=True, train="head"),
        models.plain_cnn(size=6, channels=(3, 4)),
        models.residual_net(size=6, width=3, blocks=1, train="all"),
        models.mobilenet_like(size=8, width=4),
        pooled_modules(),
    ],
    ids=["mlp", "matmul", "cnn", "residual", "mobilenet", "pooled"],
)
def test_three_engines(model: onnx.ModelProto) -> None:
    check(model, engines=ALL, batch=2)


@pytest.mark.parametrize("policy", ["exact", "truncated"])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", ["mlp", "cnn", "residual", "residual_head", "mobilenet", "mobilenet_linear"])
def test_networks(name: str, batch: int, policy: str) -> None:
    model = {
        "mlp": lambda: models.mlp((40, 33, 17, 6), seed=4),
        "cnn": lambda: models.plain_cnn(seed=2, size=13),
        "residual": lambda: models.residual_net(train="all", seed=1),
        "residual_head": lambda: models.residual_net(train="head", seed=2),
        "mobilenet": lambda: models.mobilenet_like(seed=3),
        "mobilenet_linear": lambda: models.mobilenet_like(size=32, linear=True, seed=4),
    }[name]()
    check(model, engines=FAST, batch=batch, backprop=policy, steps=3)


@pytest.mark.parametrize("policy", ["exact", "truncated"])
@pytest.mark.parametrize(
    "layers", [["block0_project"], ["block1_dw"], ["block1_dw", "block3_dw", "head"], ["head"]], ids=lambda v: "+".join(v)
)
def test_any_trainable_layers(layers: list[str], policy: str) -> None:
    """One frozen middle layer, depth-wise layers, the classifier alone."""
    check(models.mobilenet_like(train="head", seed=5), engines=FAST, backprop=policy, trainable=layers)


def test_label_smoothing() -> None:
    for eps in (0.0, 0.5):
        check(models.mlp(), eps=eps)


def test_inference_only() -> None:
    case = check(models.mobilenet_like(train="none"), engines=FAST, train=False)
    assert "train_step" not in case.compiled.program.entries
    assert case.compiled.placement.transposable_subarrays == 0


def _head(b: Builder, x: models.Value, classes: int = 3) -> onnx.ModelProto:
    return b.model(b.gemm(b.global_pool(x, pow2=True), classes, trainable=True, name="head", dtype="int8"))


def test_dilation_and_asymmetric_pads() -> None:
    b = Builder(3, pow2=True)
    x = b.conv(b.input((4, 9, 9), low=0.0), 6, 3, act="relu", name="first", trainable=True)
    x = b.conv(x, 6, 3, stride=2, pads=(2, 1, 0, 3), groups=6, act="relu6", name="dw", trainable=True)
    model = _head(b, b.conv(x, 8, 3, groups=2, trainable=True, name="grouped", act="relu"))
    for node in model.graph.node:
        if node.name in ("first", "dw"):
            node.attribute.append(helper.make_attribute("dilations", [2, 2]))
    del model.graph.value_info[:]
    check(model, engines=ALL, batch=2)


@pytest.mark.parametrize("shape", [(4, 1, 30), (4, 30, 1), (3, 1, 1), (1, 8, 8), (5, 7, 11)], ids=str)
def test_flat_and_odd_planes(shape: tuple[int, int, int]) -> None:
    """Zero points other than 0, stride 2, borders that are streamed through depth-wise layers."""
    b = Builder(7)
    c = shape[0]
    x = b.conv(b.input(shape), c, 3, groups=c, act="relu", dtype="int8")
    x = (
        b.conv(x, 6, 3, stride=2, pads=(1, 0, 1, 2), act="relu6", dtype="uint8")
        if min(shape[1:]) > 1
        else b.conv(x, 6, 3, act="relu6")
    )
    check(_head(b, b.conv(x, 6, 3, groups=6, stride=2, act=(-0.5, 0.7))), engines=ALL, batch=2)


@pytest.mark.parametrize("trained", [False, True])
def test_channel_multiplier_and_long_kernels(trained: bool) -> None:
    """Trained, or with 7 x 7 x 2 > 64 weights a channel, such layers become grouped; else they stay depth-wise."""
    b = Builder(2, pow2=trained)
    x = b.conv(b.input((3, 9, 9), low=0.0), 6, 3, groups=3, act="relu", pads=(1, 2, 1, 0), trainable=trained, name="twice")
    x = b.conv(x, 12, 7, groups=6, act="relu6", stride=2, name="long")
    case = check(_head(b, x), engines=FAST)
    kinds = {name: {part.kind for part, _ in parts} for name, parts in case.compiled.placement.layers.items()}
    assert kinds == {"twice": {"dense" if trained else "depthwise"}, "long": {"dense"}, "head": {"dense"}}


def test_a_gray_image() -> None:
    """One input channel: a dense layer, not a depth-wise one."""
    b = Builder(1, pow2=True)
    x = b.maxpool(b.conv(b.input((1, 8, 8), low=0.0), 4, 3, act="relu", trainable=True))
    case = check(b.model(b.gemm(b.flatten(x), 4, trainable=True, name="head", dtype="int8")), engines=ALL, batch=2)
    assert all(part.kind == "dense" for parts in case.compiled.placement.layers.values() for part, _ in parts)


def test_pools_resizes_concat_and_pad() -> None:
    b = Builder(11, pow2=True)
    x = b.conv(b.input((4, 10, 10), low=0.0), 5, 3, act="relu", trainable=True, name="first")
    a = b.maxpool(x, 3, 2, pads=(1, 1, 1, 1))
    c = b.avgpool(x, 2)
    y = b.concat([a, c, b.mul(c, np.array([1, -0.5, 2, 0.25, 1]))])
    y = b.conv(
        b.pad(b.resize(y, (10, 10), mode="linear"), (1, 0, 2, 1)), 6, 3, stride=2, act="relu6", name="second", trainable=True
    )
    y = b.add(y, b.resize(b.avgpool(y, 3), y.shape[1:]), act="relu")
    check(_head(b, b.pad(y, (0, 2, 1, 0))), engines=ALL, batch=2)


def test_layers_with_a_zero_point_train_on_both_engines_alike() -> None:
    """Their inputs are requantised to zero point 0 (no golden value: the file does not say so); engines must agree."""
    compiled = compile_onnx(
        models.mobilenet_like(train="head", seed=5), trainable="stem,block2_expand,tail", batch=2, update="direct"
    )
    assert "requantised_inputs" in {k.removeprefix("note.") for k in compiled.program.meta}
    states = []
    for engine in ALL[:2]:
        device = Device(compiled.program, engine, threads=1)
        before = device.state()
        rng = np.random.default_rng(0)
        x = rng.integers(0, 256, (2, *device.input_shape)).astype(np.uint8)
        device.train_step(x, np.array([0, 1]))
        assert all((device.state()[k] != before[k]).any() for k in before)
        states.append((device.state(), device.interpreter.cycles, device.interpreter.events))
    for name, w in states[0][0].items():
        np.testing.assert_array_equal(w, states[1][0][name])
    assert states[0][1:] == states[1][1:]


def test_a_relu_that_the_quantiser_left_out_masks_errors() -> None:
    """onnxruntime drops a Relu in front of a Q that begins at zero; the training step is that of the network with the Relu."""
    model = models.residual_net(train="all")
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    dropped = {n.output[0]: n.input[0] for n in bare.graph.node if n.op_type == "Relu"}
    assert len(dropped) > 2
    nodes = [n for n in bare.graph.node if n.op_type != "Relu"]
    for node in nodes:
        node.input[:] = [dropped.get(i, i) for i in node.input]
    del bare.graph.node[:]
    bare.graph.node.extend(nodes)
    check(bare, engines=FAST)
    ours, theirs = ([(i.spec, i.operands) for i in compile_onnx(m).program.code] for m in (bare, model))
    assert ours == theirs


def test_a_relu6_that_the_quantiser_left_out_masks_errors_at_both_ends() -> None:
    """A Q that ends at 6 does its work; one that ends elsewhere is a range that was calibrated."""

    def network(clipped: bool, top: float = 6.0) -> onnx.ModelProto:
        net = Net(("n", 3, 6, 6))
        x = net.conv(net.q("x", 0.125), 3, 8, name="first")
        bounded = net.node("Clip", x, net.const(0.0), net.const(6.0))
        if clipped:
            x = bounded
        else:
            net.nodes.pop()
        y = net.node("Flatten", net.q(net.node("GlobalAveragePool", net.q(x, top / 255, -128)), 0.03))
        return net.model(net.q(net.node("Gemm", y, net.weight((8, 4), 1), name="last"), 0.03))

    check(network(False), trainable=["first", "last"])
    ours, theirs, other = (import_model(m).op("first").attrs for m in (network(False), network(True), network(False, 5.9)))
    assert ours == theirs == other | {"mask_hi": True, "hi": 255}
    assert not other["mask_hi"]


def test_the_comparison_can_fail() -> None:
    """A single changed weight is noticed."""
    model = models.mlp()
    compiled = compile_onnx(model, batch=1)
    device = Device(compiled.program, "fused")
    from golden import Golden

    golden = Golden(model)
    x = images_for(golden, device.input_shape, 1)
    name = next(n for n in device.state() if n.startswith("fc3"))
    w = device.interpreter.read_matrix(name).copy()
    w[:, 0] = np.clip(w[:, 0] + 40, -127, 127)
    device.interpreter.write_matrix(name, w)
    device.interpreter.write_view(device.io["input"], x[0], 0)
    device.interpreter.regs[compiled.program.params["batch"]] = 1
    device.interpreter.run("infer")
    logits = device.interpreter.read_view(device.io["logits"], 0).reshape(-1)
    assert (logits != golden.forward(x.reshape(1, -1))[0]).any()
