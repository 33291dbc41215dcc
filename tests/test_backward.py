"""The derived backward graph: against the golden model bit for bit, and its structure on graphs made for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import golden
import golden_numbers
import models
import numpy as np
import onnx
import pytest

from sasimc.frontend import import_model
from sasimc.ir import interp
from sasimc.ir.graph import Graph, TrainGraph
from sasimc.ir.interp_train import TrainResult, train_step
from sasimc.isa.errors import SasError
from sasimc.passes.backward import Backward, channel_factors, error_path, pool_factor
from sasimc.zoo.zoo import DEFAULT_MODULES, ZooOptions, build_mobilenetv2_repnet

NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "mlp": models.mlp,
    "mlp matmul": lambda: models.mlp(train="head", matmul=True, opset=13),
    "plain cnn": models.plain_cnn,
    "residual, head": models.residual_net,
    "residual, all": lambda: models.residual_net(train="all", blocks=4),
    "mobilenet": models.mobilenet_like,
    "mobilenet, linear": lambda: models.mobilenet_like(linear=True, modules=1),
    **{f"random {seed}": (lambda seed=seed: models.random_graph(seed, ops=8)) for seed in range(24)},
}
PRODUCTS = {"xent", "conv_t", "avgpool_t", "maxpool_t", "resize_t", "merge"}


def plain(**options: Any) -> Backward:
    """The rules of docs/reference/numerics.md without their variants."""
    return Backward(update="direct", round_errors="nearest", **options)


def step(model: onnx.ModelProto, policy: str) -> tuple[Graph, TrainGraph, TrainResult, golden.StepResult]:
    """One training step of the derived graph and of the golden model on the same batch."""
    graph = import_model(model)
    train = plain(backprop=policy).derive(graph)
    t = graph.type(graph.inputs[0])
    rng = np.random.default_rng(3)
    x = interp.quantize_input(graph, rng.uniform(-1, 1, (5, *t.shape)).astype(np.float32))
    env = interp.run(graph, {graph.inputs[0]: x})
    classes = graph.type(graph.outputs[0]).shape[2]
    labels = rng.integers(0, classes, 5).tolist()
    oracle = golden.Golden(model, backprop=policy)
    stored = x.astype(np.uint8 if t.dtype == "u8" else np.int8)
    flat = len(model.graph.input[0].type.tensor_type.shape.dim) == 2
    want = oracle.train_step(stored.reshape(5, -1) if flat else stored, labels, 5, 2)
    assert np.array_equal(env[graph.outputs[0]].reshape(5, -1), want.logits)
    return graph, train, train_step(train, env, labels, 5, 2), want


def flattened(graph: Graph, name: str) -> bool:
    """Whether the layer's weights are permuted: it reads a flattened plane, which the golden model keeps in ONNX order."""
    producer = graph.producer(graph.op(name).inputs[0])
    return producer is not None and producer.kind == "reshape"


@pytest.mark.parametrize("policy", ["exact", "truncated"])
@pytest.mark.parametrize("net", NETS)
def test_gradients_and_weights_equal_the_golden_model(net: str, policy: str) -> None:
    graph, _, mine, want = step(NETS[net](), policy)
    assert mine.gradients.keys() == want.gradients.keys()
    for name, g in want.gradients.items():
        got, w_got, w_want = mine.gradients[name], mine.weights[name], want.weights[name]
        if flattened(graph, name):  # same columns, rows in another order
            got, g, w_got, w_want = (np.sort(a.reshape(-1, a.shape[-1]), axis=0) for a in (got, g, w_got, w_want))
        assert np.array_equal(got, g), name
        assert np.array_equal(w_got, w_want), name


@pytest.mark.parametrize("net", [n for n in NETS if "random" not in n])
def test_every_product_is_staged_exactly_once_and_everything_is_used(net: str) -> None:
    for policy in ("exact", "truncated"):
        train = Backward(backprop=policy).derive(import_model(NETS[net]()))
        for op in train.ops:
            readers = train.consumers(op.output) if op.output else ()
            if op.kind in PRODUCTS:
                assert train.type(op.output).dtype == "i32"
                assert [r.kind for r in readers] == ["stage"], op.name
            elif op.output:
                assert train.type(op.output).dtype == "i8"
                assert readers, f"{op.name} is computed for nobody"
        wanted = {v for op in train.ops for v in (*op.inputs, op.str_attr("mask_of")) if v and v not in train.values}
        logits = {train.ops[0].inputs[0]}
        assert train.saved | logits == wanted


def test_updates_come_after_the_transposed_product_of_their_layer() -> None:
    train = Backward().derive(import_model(models.mlp()))
    order = [op.name for op in train.ops if op.kind in ("conv_t", "update")]
    assert order == ["conv_t:fc3", "update:fc3", "conv_t:fc2", "update:fc2", "update:fc1"]
    assert {op.name: op.attrs["mu"] for op in train.ops if op.kind == "update"} == {
        "update:fc3": "head", "update:fc2": "rep", "update:fc1": "rep",
    }  # fmt: skip


def test_policies_differ_as_documented() -> None:
    graph = import_model(models.mobilenet_like())
    exact, truncated = Backward(backprop="exact").derive(graph), Backward(backprop="truncated").derive(graph)
    frozen = {op.name for op in graph.ops if op.kind == "conv" and not op.flag("trainable")}
    passed = set(truncated.transposed()) & frozen
    assert "tail" in passed  # no module can do without it
    assert passed < set(exact.transposed()) & frozen
    assert not passed & {n for n in frozen if n.endswith(("expand", "dw"))}
    assert {op.name for op in exact.ops if op.kind == "update"} == {op.name for op in truncated.ops if op.kind == "update"}
    assert Counter(op.kind for op in truncated.ops)["merge"] <= Counter(op.kind for op in exact.ops)["merge"]
    assert error_path(graph, "truncated") < error_path(graph, "exact")


def test_errors_of_pooled_modules_pass_no_frozen_layer() -> None:
    """Modules beside the features have ways to the loss of their own, whatever the policy."""
    model = build_mobilenetv2_repnet(
        ZooOptions(width=0.05, resolution=32, last_channels=16, classes=3, wiring="pooled", calibration_images=1)
    )
    for policy in ("exact", "truncated"):
        _, train, _, _ = step(model, policy)
        crossed = {str(op.attrs["forward"]) for op in train.ops if op.kind == "conv_t"}
        assert crossed == {"classifier", *(f"rep.{m.attach}.conv2" for m in DEFAULT_MODULES)}


def test_head_only_needs_no_transposed_product() -> None:
    train = Backward().derive(import_model(models.residual_net(train="head")))
    assert [op.kind for op in train.ops] == ["xent", "stage", "update"]
    assert train.saved == {train.ops[-1].inputs[0]}


def test_any_subset_by_pattern() -> None:
    model = models.residual_net(train="all", blocks=3)
    for pattern in ("block0_conv1", "block*_conv2,head", "stem"):
        train = Backward().derive(import_model(model, trainable=pattern))
        updated = {op.str_attr("forward") for op in train.ops if op.kind == "update"}
        assert updated == {op.name for op in train.forward.ops if op.flag("trainable")}
    assert updated == {"stem"}
    assert "stem" not in train.transposed()


def test_cross_entropy_constants() -> None:
    graph = import_model(models.mlp())
    xent = Backward(eps=0.1).derive(graph).ops[0]
    scale = graph.type(graph.outputs[0]).scale
    assert xent.attrs == {
        "logit_mult": max(1, round(scale * np.log2(np.e) * 4096)), "eps_q15": 3277, "t_other": 655, "t_label": 32768 - 4 * 655,
    }  # fmt: skip
    assert Backward(eps=0.0).derive(graph).ops[0].attrs["t_other"] == 0


def test_factors_equal_the_golden_ones() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 4, 6, 9, 16, 49, 63, 64):
        assert pool_factor(n) == golden_numbers.pool_factor(n)
    for scales in ([0.5, 0.5], [1.0], [0.3, 0.2, 1e-9], rng.uniform(1e-6, 3, 20), [2.0**-20] * 3, [0.0, 0.0]):
        k, g = channel_factors(np.asarray(scales))
        want, want_g = golden_numbers.channel_factors(scales)
        assert g == want_g
        assert np.array_equal(np.full(len(want), 32768) if k is None else k, want)
    k, g = channel_factors(np.array([-1.0, 0.5]))
    assert k is not None
    assert (k.tolist(), g) == ([-32768, 16384], 0)


def test_negative_constants_turn_the_error_around() -> None:
    b = models.Builder(5, pow2=True)
    x = b.conv(b.input((2, 6, 6), low=0.0), 3, act="relu", trainable=True, name="first")
    x = b.mul(x, np.array([-1.0, 0.5, -0.25]))
    model = b.model(b.gemm(b.global_pool(x, pow2=True), 3, trainable=True, name="head", dtype="int8"))
    graph, train, mine, want = step(model, "exact")
    for name in ("first", "head"):
        assert np.array_equal(mine.gradients[name], want.gradients[name])
    scales = [train.constant(op, "kscale").tolist() for op in train.ops if "kscale" in op.consts]
    assert any(min(k) < 0 for k in scales)
    assert graph.op("first").flag("trainable")


def test_errors_that_users_can_make() -> None:
    graph = import_model(models.mlp(train="none"))
    with pytest.raises(SasError, match=r"no layer is trainable[\s\S]*--trainable PATTERN"):
        Backward().derive(graph)
    trained = import_model(models.mlp())
    with pytest.raises(SasError, match=r"--backprop 'exakt' is unknown[\s\S]*exact"):
        Backward(backprop="exakt").derive(trained)
    with pytest.raises(SasError, match=r"--eps 1\.5 is not in \[0, 1\)"):
        Backward(eps=1.5).derive(trained)
    with pytest.raises(SasError, match="training needs one output"):
        Backward().derive(trained.with_changes(outputs=(trained.ops[0].output, *trained.outputs)))
    cut = trained.with_changes(outputs=(trained.ops[0].output,))
    with pytest.raises(SasError, match=r"do not reach the loss: fc2, fc3"):
        Backward().derive(cut)
    image = import_model(models.residual_net(train="all"), trainable="stem")
    plane = image.with_changes(outputs=(image.op("stem").output,))
    with pytest.raises(SasError, match="vector of at least two logits"):
        Backward().derive(plane)
