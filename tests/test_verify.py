"""Validation of compilations: right ones pass, planted faults of every stage are found, named, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
from qdq_net import Net, run_ort

import sasimc.backend.compile
import sasimc.backend.forward
import sasimc.frontend.state
import sasimc.passes.integer_ops
import sasimc.passes.to_unsigned
import sasimc.passes.zero_inputs
import sasimc.verify.program
from sasimc.api import CompileOptions, compile_model
from sasimc.cli.common import invoke
from sasimc.cli.sasc import app
from sasimc.frontend.onnx_import import import_graph
from sasimc.frontend.qdq_form import qdq_form
from sasimc.ir import interp, interp_train
from sasimc.ir.graph import Graph, Op
from sasimc.isa.errors import SasError
from sasimc.isa.files import load_program
from sasimc.passes.manager import run_passes
from sasimc.passes.pipeline import forward_passes, import_passes
from sasimc.runtime import interpreter
from sasimc.verify.check import samples
from sasimc.verify.difference import Difference
from sasimc.verify.graphs import against_import

Monkey = pytest.MonkeyPatch


def flattened() -> onnx.ModelProto:
    """A convolution, a Flatten, a normalisation per element, a classifier: order matters everywhere."""
    net = Net(("n", 3, 6, 6))
    x = net.q(net.node("Relu", net.conv(net.q("x", 0.011, 5), 3, 4, name="conv")), 0.03, -128)
    x = net.node("Flatten", net.q(net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 0.03, -128))
    numbers = (net.rng.uniform(0.5, 1.5, 16), net.rng.normal(size=16), net.rng.normal(size=16), net.rng.uniform(0.5, 1, 16))
    x = net.q(net.node("BatchNormalization", x, *map(net.const, numbers), name="bn"), 0.05, 5)
    return net.model(net.q(net.node("Gemm", x, net.weight((16, 5), 1), name="fc"), 0.06))


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def compiled(model: onnx.ModelProto, folder: Path, **options: Any) -> str:
    made = compile_model(saved(model, folder), CompileOptions(verify=True, **options))
    return made.program.meta["verified"]


@pytest.mark.parametrize("make", [flattened, models.mobilenet_like, models.residual_net, models.mlp])
def test_right_compilations_pass(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    said = compiled(make(), tmp_path)
    assert "tensors" in said
    assert ("training step" in said) == (make is not flattened)


def test_a_requantised_layer_is_compared_by_its_own_result() -> None:
    """The imported graph goes on with what the coarser input gave, but onnxruntime is asked about what the layer itself makes."""
    before = run_passes(import_graph(flattened()), import_passes())
    after = run_passes(import_graph(flattened()), forward_passes("fc"))
    runs = against_import(before, after, {"x": samples(before, 4)})
    out = before.outputs[0]
    fc = before.ops[-1]
    assert np.array_equal(runs.imported[out], interp.run_op(before, fc, [runs.fed[v] for v in fc.inputs]))
    assert np.array_equal(runs.fed[out], runs.final[after.outputs[0]])
    assert not np.array_equal(runs.fed[out], runs.imported[out])


@pytest.mark.parametrize(("part", "wrong"), [("", 0), ("bias", 1 << 18), ("weight", 1), ("mult", 1 << 20)])
def test_layers_of_which_only_zero_points_moved_are_computed_once(part: str, wrong: int, monkeypatch: Monkey) -> None:
    net = Net(("n", 3, 6, 6))
    x = net.q(net.node("Relu", net.conv(net.q("x", 0.011, 5), 3, 4)), 0.03, -128)
    model = net.model(net.q(net.node("Relu", net.conv(x, 4, 5, name="second")), 0.03, -128))
    before, after = (run_passes(import_graph(model), passes) for passes in (import_passes(), forward_passes("")))
    (conv,) = (op for op in after.ops if op.origin.startswith("second"))
    assert before.type(conv.inputs[0]).zero == -128 != after.type(conv.inputs[0]).zero
    if part:
        name = conv.consts[part]
        constants = {**after.constants, name: after.constants[name] + np.eye(1, after.constants[name].size, dtype=int)
                     .reshape(after.constants[name].shape) * wrong}  # fmt: skip
        after = after.with_changes(constants=constants)
    run, right = [], interp.run_op
    monkeypatch.setattr(interp, "run_op", lambda g, op, *x, **k: run.append((g, op.output)) or right(g, op, *x, **k))
    if part:
        with pytest.raises(Difference, match="second"):
            against_import(before, after, {"x": samples(before, 4)})
    else:
        against_import(before, after, {"x": samples(before, 4)})
    assert sum(output == conv.output for _, output in run) == (2 if part else 1)


# -- planted faults ------------------------------------------------------------------------------------------------------


def forgets_the_order(m: Monkey) -> None:
    m.setattr(sasimc.frontend.state.Importer, "order", lambda *_: None)


def forgets_the_order_of_constants(m: Monkey) -> None:
    m.setattr(
        sasimc.frontend.state.Importer,
        "channels",
        lambda self, act, c: np.broadcast_to(c.ravel(), self.type(act).shape[2]).copy(),
    )


def rounds_a_factor(m: Monkey) -> None:
    right = sasimc.passes.integer_ops.factors
    m.setattr(sasimc.passes.integer_ops, "factors", lambda f: right(f * 1.03))


def forgets_the_zero_point(m: Monkey) -> None:
    m.setattr(sasimc.passes.integer_ops, "_shifted", lambda bias, zero, weight: bias.astype(np.int32))


def moves_no_bias(m: Monkey) -> None:
    right = sasimc.passes.to_unsigned._rewrite

    def wrong(op: Op, graph: Graph, moved: set[str], constants: dict[str, Any]) -> Op:
        made = right(op, graph, moved, constants)
        return made.with_consts(bias=op.consts["bias"]) if op.kind == "conv" else made

    m.setattr(sasimc.passes.to_unsigned, "_rewrite", wrong)


def wrong_requantisation(m: Monkey) -> None:
    right = sasimc.backend.forward.requant_table
    m.setattr(
        sasimc.backend.forward, "requant_table",
        lambda b, graph, op, first, count: right(b, graph, op.with_attrs(lo=op.int_attr("lo") + 9), first, count),
    )  # fmt: skip


def wrong_cell(m: Monkey) -> None:
    """A machine that stores one weight wrongly."""
    right = sasimc.verify.program.Device

    def broken(program: Any, engine: str, threads: int) -> Any:
        device = right(program, engine, threads)
        name = next(n for n, matrix in program.matrices.items() if matrix.tensor)
        values = device.interpreter.read_matrix(name)
        values[0, 0] ^= 64
        device.interpreter.write_matrix(name, values)
        return device

    m.setattr(sasimc.verify.program, "Device", broken)


def wrong_window(m: Monkey) -> None:
    right = sasimc.backend.forward.geometry_of

    def wrong(b: Any, op: Op, shape: Any) -> str:
        return right(b, op.with_attrs(stride=(1, 2)) if op.kind == "maxpool" else op, shape)

    m.setattr(sasimc.backend.forward, "geometry_of", wrong)


FAULTS: dict[str, tuple[Callable[[Monkey], None], str, str]] = {
    "import: order of a flattened plane": (forgets_the_order, "imported graph", "fc"),
    "import: order of constants": (forgets_the_order_of_constants, "imported graph", "bn"),
    "import: factor": (rounds_a_factor, "imported graph", "conv"),
    "import: zero point": (forgets_the_zero_point, "imported graph", "conv"),
    "pass: bias": (moves_no_bias, "after the passes", "bn"),
    "program: requantisation": (wrong_requantisation, "the program", "conv"),
    "program: window": (wrong_window, "the program", "MaxPool"),
    "machine: a cell": (wrong_cell, "the program", "conv"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_its_node_named(fault: str, tmp_path: Path, monkeypatch: Monkey) -> None:
    plant, who, node = FAULTS[fault]
    plant(monkeypatch)
    with pytest.raises(Difference) as e:
        compiled(flattened(), tmp_path)
    assert who in str(e.value)
    assert node in e.value.node
    assert " not " in str(e.value)


def test_a_wrong_training_step_is_found(tmp_path: Path, monkeypatch: Monkey) -> None:
    """Modules learn with the head's exponent: inferences are right, weights after a step are not."""
    monkeypatch.setattr(sasimc.backend.compile, "MODULE_EXPONENT", sasimc.backend.compile.HEAD_EXPONENT)
    with pytest.raises(Difference, match="after a training step"):
        compiled(models.mobilenet_like(), tmp_path)


def test_a_wrong_loss_is_found(tmp_path: Path, monkeypatch: Monkey) -> None:
    right = interp_train._xent
    monkeypatch.setattr(interp_train, "_xent", lambda *a: (right(*a)[0], right(*a)[1] + np.array([0, 1])))
    with pytest.raises(Difference, match=r"the loss of a training step of the program .* 1 of 2"):
        compiled(models.residual_net(), tmp_path)


def test_a_wrong_requantised_input_is_found(tmp_path: Path, monkeypatch: Monkey) -> None:
    """A pass that may change results a little may not change them much."""
    right = sasimc.passes.zero_inputs._symmetric
    monkeypatch.setattr(sasimc.passes.zero_inputs, "_symmetric", lambda t: replace(right(t), scale=right(t).scale / 40))
    with pytest.raises(Difference, match="after the passes"):
        compiled(flattened(), tmp_path, trainable="fc")
    monkeypatch.undo()
    assert "training step" in compiled(flattened(), tmp_path, trainable="fc")


def test_nothing_is_written_when_something_differs(
    tmp_path: Path, monkeypatch: Monkey, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = saved(flattened(), tmp_path), tmp_path / "p.s"
    forgets_the_zero_point(monkeypatch)
    assert invoke(app, ["compile", str(path), "-o", str(out)]) == 2
    assert "differs from onnxruntime" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
    assert invoke(app, ["compile", str(path), "-o", str(out), "--no-verify"]) == 0
    assert load_program(out).meta["verified"] == "no"


def test_the_qdq_form_computes_the_same(tmp_path: Path) -> None:
    """onnxruntime on both forms; the integer kernels are exact here only where sums stay small, so weights are small."""
    net = Net()
    a = net.quant(0.011, 100, np.uint8)
    x = net.node("QuantizeLinear", "x", *a)
    w = [
        net.const(net.rng.integers(-20, 21, (4, 3, 3, 3)), np.int8),
        net.const(np.full(4, 0.01)),
        net.const(np.zeros(4), np.int8),
    ]
    b = net.quant(0.01, 90, np.uint8)
    y = net.node("QLinearConv", x, *a, *w, *b, net.const([100, -20, 30, 0], np.int32), pads=[1] * 4)
    y = net.node("QLinearAdd", y, *b, y, *b, *b, domain="com.microsoft")
    y = net.node("QLinearSigmoid", y, *b, *net.quant(1 / 256, 0, np.uint8), domain="com.microsoft")
    model = net.model(net.node("DequantizeLinear", y, *net.quant(1 / 256, 0, np.uint8)))
    form = qdq_form(model)
    assert not any(n.op_type.startswith("QL") for n in form.graph.node)
    image = np.random.default_rng(0).uniform(-1, 1, (2, 3, 6, 6)).astype(np.float32)
    options = __import__("onnxruntime").SessionOptions()
    options.log_severity_level = 3
    direct = __import__("onnxruntime").InferenceSession(model.SerializeToString(), options).run(None, {"x": image})[0]
    assert np.abs(direct - run_ort(model, image)[0]).max() <= 1 / 256 + 1e-6


@pytest.mark.parametrize("update", ["direct", "accumulate", "momentum"])
def test_the_training_step_of_the_check_changes_every_layer(update: Any) -> None:
    """With small steps 16-bit weights and velocities take all of a first step, and faults on the way to the layers went unseen."""
    made = compile_model(models.mobilenet_like(), CompileOptions(update=update))
    assert made.train is not None
    graph = made.graph
    x = samples(graph, 2)
    env = interp.run(graph, {graph.inputs[0]: x})
    step = interp_train.train_step(
        made.train, env, [0, 4], sasimc.verify.program.HEAD_EXPONENT, sasimc.verify.program.MODULE_EXPONENT
    )
    for layer, weights in step.weights.items():
        was = graph.constant(graph.op(layer), "weight")
        assert np.mean(weights != was) > 0.2, layer
        assert np.mean(np.abs(weights) == 127) < 0.5, layer


def test_an_engine_that_counts_otherwise_than_the_estimate_is_found(tmp_path: Path, monkeypatch: Monkey) -> None:
    """Cycles and events of a run are those of the program, whatever the engine does."""
    real = interpreter.Interpreter.events.fget
    assert real is not None
    monkeypatch.setattr(
        interpreter.Interpreter, "events", property(lambda it: real(it) | {"shift_adds": real(it)["shift_adds"] - 1})
    )
    with pytest.raises(SasError, match=r"the inference counts .* shift adds, its program has"):
        compiled(models.mlp(), tmp_path)
    monkeypatch.setattr(interpreter.Interpreter, "events", property(real))
    cycles = interpreter.Interpreter.cycles.fget
    assert cycles is not None
    monkeypatch.setattr(interpreter.Interpreter, "cycles", property(lambda it: cycles(it) + 1))
    with pytest.raises(SasError, match=r"the inference counts .* cycles"):
        compiled(models.mlp(), tmp_path)
