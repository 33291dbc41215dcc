"""Networks of attention: patches, class token, positions, heads, softmax, layer norm, Gelu - against onnxruntime, the golden model, and each other's engines."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from golden import Golden
from qdq_net import Net, run_ort

from sasimc.backend.compile import compile_graph
from sasimc.cli import sasc, sasrun
from sasimc.cli.common import invoke
from sasimc.debug import runs
from sasimc.debug.microscope import Tree, bits
from sasimc.debug.session import Session
from sasimc.frontend.check import check_model
from sasimc.frontend.norms import with_layer_norms
from sasimc.frontend.onnx_import import import_float, import_graph, import_model
from sasimc.ir import interp
from sasimc.isa.analysis.lint import lint
from sasimc.isa.errors import SasError
from sasimc.isa.files import load_program
from sasimc.isa.machine import load_machine
from sasimc.passes.backward import Backward
from sasimc.passes.manager import run_passes
from sasimc.passes.pipeline import import_passes
from sasimc.runtime.device import Device
from sasimc.verify.onnx_side import against_onnx

D, HEADS, T = 16, 2, 8  # width, heads, tokens with the class token


def _linear(net: Net, x: str, n: int, scale: float, zero: int = 0, dtype: type = np.int8) -> str:
    product = net.node("MatMul", x, net.weight((D, n), 1, scale=0.004))
    return net.q(net.node("Add", product, net.const(net.rng.normal(0, 0.2, n))), scale, zero, dtype)


def _norm(net: Net, x: str) -> str:
    gamma, beta = net.const(net.rng.normal(1, 0.3, D)), net.const(net.rng.normal(0, 0.3, D))
    return net.q(net.node("LayerNormalization", x, gamma, beta, axis=-1, epsilon=1e-6), 0.03, -7)


def _heads(net: Net, x: str, first: int, perm: list[int]) -> str:
    ints = [net.const([v], np.int64) for v in (first, first + D, 2)]
    part = net.node("Slice", x, *ints)
    return net.node("Transpose", net.node("Reshape", part, net.const([0, T, HEADS, D // HEADS], np.int64)), perm=perm)


def block(net: Net, y: str, kept: type = np.int8) -> str:
    """A transformer's block with its norms in front; ``kept``: type of what is written into scratch rows."""
    zero = 12 if kept is np.int8 else 131
    qkv = _linear(net, _norm(net, y), 3 * D, 0.03, zero, kept)
    q = net.q(net.node("Mul", _heads(net, qkv, 0, [0, 2, 1, 3]), net.const(0.35)), 0.02, 3)
    scores = net.q(net.node("MatMul", q, _heads(net, qkv, D, [0, 2, 3, 1])), 0.05, -20)
    shares = net.q(net.node("Softmax", scores, axis=-1), 1 / 256, 0, np.uint8)
    heads = net.q(net.node("MatMul", shares, _heads(net, qkv, 2 * D, [0, 2, 1, 3])), 0.02, 100, np.uint8)
    joined = net.node("Reshape", net.node("Transpose", heads, perm=[0, 2, 1, 3]), net.const([0, T, D], np.int64))
    y = net.q(net.node("Add", y, _linear(net, joined, D, 0.03)), 0.04, 5)
    hidden = net.q(net.node("Gelu", _linear(net, _norm(net, y), D, 0.03)), 0.02, 90, np.uint8)
    return net.q(net.node("Add", y, _linear(net, hidden, D, 0.03)), 0.04, 5)


@cache
def vision(kept: type = np.int8) -> onnx.ModelProto:
    """An image of 4 x 28 pixels: seven patches, a class token, positions, a block, and a classifier."""
    net = Net(("n", 3, 4, 28), opset=20, seed=5)
    x = net.q(net.node("Conv", net.q("x", 1 / 32), net.weight((D, 3, 4, 4), scale=0.002), strides=[4, 4]), 0.03, 2)
    tokens = net.node("Transpose", net.node("Reshape", x, net.const([0, D, T - 1], np.int64)), perm=[0, 2, 1])
    first, places = (
        net.node(
            "DequantizeLinear", net.const(net.rng.integers(-127, 128, shape), np.int8), net.const(0.01), net.const(0, np.int8)
        )
        for shape in ((1, 1, D), (1, T, D))
    )
    y = net.q(net.node("Concat", first, tokens, axis=1), 0.03, 2)
    y = block(net, net.q(net.node("Add", y, places), 0.04, 5), kept)
    head = net.node("Gather", _norm(net, y), net.const(0, np.int64), axis=1)
    gemm = net.node("Gemm", head, net.weight((4, D), scale=0.004), net.const(net.rng.normal(0, 0.2, 4)), transB=1, name="head")
    return net.model(net.q(gemm, 0.05))


def images(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(0, 1.5, (n, 3, 4, 28)).astype(np.float32)


@pytest.mark.parametrize("kept", [np.int8, np.uint8])
def test_every_tensor(kept: type) -> None:
    """onnxruntime within one step, operation by operation; the golden model bit for bit."""
    model = vision(kept)
    found, raw = import_float(model), run_passes(import_graph(model), import_passes())
    feeds = {"x": interp.quantize_input(raw, images(3).transpose(0, 2, 3, 1))}
    env = interp.run(raw, feeds)
    assert against_onnx(model, found, raw, env, env) == 19
    final = import_model(model, "")
    ours = interp.run(final, {"x": interp.quantize_input(final, images(3).transpose(0, 2, 3, 1))})
    golden = Golden(model, trainable=[])
    golden.forward(golden.quantize(images(3).transpose(0, 2, 3, 1)))
    kinds, theirs = {op.kind for op in final.ops}, golden.activations()
    assert {"softmax", "layernorm", "matmul", "constant", "mosaic"} <= kinds
    compared = [op for op in final.ops if op.output in theirs and op.kind != "constant"]
    assert len(compared) >= 17
    for op in compared:
        a, b = ours[op.output], theirs[op.output]
        spread = b if op.output not in final.outputs else b.reshape(3, -1)
        assert np.array_equal(np.sort(a.reshape(3, -1)), np.sort(spread.reshape(3, -1))), (
            op.name
        )  # golden tensors have other axis orders
    logits = final.outputs[0]
    assert np.array_equal(ours[logits].reshape(3, -1), theirs[logits].reshape(3, -1))
    assert len(np.unique(ours[logits])) > 4


def test_engines_and_lint() -> None:
    """The program gives the graph's values on every engine, with equal cycles and events; scratch rows are written for every head."""
    graph = import_model(vision(), "")
    compiled = compile_graph(graph, load_machine())
    assert not [d for d in lint(compiled.program) if d.severity == "error"]
    x = interp.quantize_input(graph, images(2).transpose(0, 2, 3, 1))
    wanted = interp.run(graph, {"x": x})[graph.outputs[0]].reshape(2, -1)
    counts = []
    for engine in ("step", "bitserial", "fused"):
        device = Device(compiled.program, engine, 1)
        it = device.interpreter
        for sample in range(2):
            it.write_view(device.io["input"], x[sample], sample)
        it.regs[compiled.program.params["batch"]] = 2
        it.run("infer")
        for sample in range(2):
            assert np.array_equal(np.ravel(it.read_view(device.io["logits"], sample)), wanted[sample])
        counts.append((it.cycles, it.events))
    assert counts[0] == counts[1] == counts[2]
    known = compiled.infer.events
    assert known["reciprocal_ops"] == HEADS * T + 3 * T
    wide = D // HEADS * (T + 1) + T * (D // HEADS + 1)  # keys and values of a head, each with the column of its zero point
    assert known["bits_written_compute"] == HEADS * wide * 8


def test_head_is_trained_and_what_is_in_front_refused() -> None:
    graph = import_model(vision(), "head")
    train = Backward().run(graph)
    assert [op.str_attr("forward") for op in train.ops if op.kind == "update"] == ["head"]  # type: ignore[union-attr]
    net_front = next(op.str_attr("param") for op in graph.ops if op.kind == "conv")
    with pytest.raises(SasError, match=r"errors cannot pass (layernorm|softmax|matmul)") as caught:
        Backward().run(import_model(vision(), f"head,{net_front}"))
    assert "as the classifier" in caught.value.diagnostic.hint


def _squared(net: Net, x: str) -> str:
    return net.q(net.node("MatMul", x, net.node("Transpose", x, perm=[0, 1, 3, 2])), 0.1)


Case = Callable[[Net], str]
SMALL: dict[str, Case] = {
    "positions subtracted": lambda n: n.q(n.node("Sub", n.q("x"), n.const(n.rng.normal(0, 1, (5, 6)))), 0.03),
    "mask multiplied": lambda n: n.q(n.node("Mul", n.q("x"), n.const(n.rng.normal(0, 1, (5, 1)))), 0.03),
    "divided by a plane": lambda n: n.q(n.node("Div", n.q("x"), n.const(n.rng.uniform(0.5, 2, (1, 1, 5, 6)))), 0.04),
    "constant columns": lambda n: n.q(n.node("Concat", n.q("x"), n.const(n.rng.normal(0, 1, (1, 3, 5, 2))), axis=3), 0.03),
    "constant channels": lambda n: n.q(n.node("Concat", n.const(n.rng.normal(0, 1, (1, 2, 5, 6))), n.q("x"), axis=1), 0.03),
    "product of planes": lambda n: _squared(n, n.q("x", 0.03, 9)),
    "norm of columns": lambda n: n.q(
        n.node("LayerNormalization", n.node("Transpose", n.q("x"), perm=[0, 2, 3, 1]), n.const([0.5, -1, 2]), axis=-1), 0.02, 3
    ),
    "batch joined with tokens": lambda n: n.q(
        n.node("Gemm", n.node("Reshape", n.node("Transpose", n.q("x"), perm=[0, 2, 3, 1]), n.const([-1, 3], np.int64)), n.weight((3, 4), 1)), 0.05
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_small_graphs(name: str) -> None:
    """What surrounds attention, alone: within one step of onnxruntime, through all passes."""
    net = Net((1, 3, 5, 6), opset=17, seed=3)
    made = SMALL[name](net)
    if name == "batch joined with tokens":
        made = net.q(net.node("Reshape", made, net.const([1, 30, 4], np.int64)), 0.05)
    model = net.model(made)
    x = np.random.default_rng(1).normal(0, 1, (1, 3, 5, 6)).astype(np.float32)
    graph = import_model(model, "")
    t, layout = graph.type(graph.outputs[0]), import_float(model)
    got = interp.run(graph, {"x": interp.quantize_input(graph, x.transpose(0, 2, 3, 1))})[graph.outputs[0]]
    assert layout.graph is not None
    axes = layout.graph.type(layout.graph.outputs[0]).layout
    assert axes is not None
    want = np.rint(run_ort(model, x)[0] / t.scale) + t.zero
    assert np.abs(got.reshape(-1)[axes.index()].reshape(want.shape) - want).max() <= 1
    assert len(np.unique(want)) > 8


def written_out(net: Net, x: str, gamma: str, beta: str, square: str = "Pow") -> str:
    """A layer norm as PyTorch exports it to opsets before 17."""
    d = net.node("Sub", x, net.node("ReduceMean", x, axes=[-1]))
    two = net.node("Pow", d, net.const(2.0)) if square == "Pow" else net.node("Mul", d, d)
    root = net.node("Sqrt", net.node("Add", net.node("ReduceMean", two, axes=[-1]), net.const(1e-5)))
    return net.node("Add", net.node("Mul", net.node("Div", d, root), gamma), beta)


@pytest.mark.parametrize("square", ["Pow", "Mul"])
def test_a_layer_norm_that_is_written_out(square: str) -> None:
    """It is one again, in the importer and for the quantiser, with the same numbers; not where something else reads its inside."""
    net = Net(("n", 5, 12), opset=13, seed=2)
    gamma, beta = net.const(net.rng.normal(1, 0.3, 12)), net.const(net.rng.normal(0, 0.3, 12))
    x = np.random.default_rng(1).normal(0, 1, (3, 5, 12)).astype(np.float32)
    plain = net.model(written_out(net, "x", gamma, beta, square))
    whole = with_layer_norms(plain)
    assert [n.op_type for n in whole.graph.node] == ["LayerNormalization"]
    assert whole.opset_import[0].version == 17
    assert np.allclose(run_ort(whole, x)[0], run_ort(plain, x)[0], atol=1e-5)
    made = net.q(net.nodes[-1].output[0])
    net.nodes.insert(0, onnx.helper.make_node("QuantizeLinear", ["x", *net.nodes[-1].input[1:]], ["xq"]))
    net.nodes.insert(1, onnx.helper.make_node("DequantizeLinear", ["xq", *net.nodes[-1].input[1:]], ["xf"]))
    for node in net.nodes[2:]:
        node.input[:] = ["xf" if name == "x" else name for name in node.input]
    model = net.model(made)
    graph = import_model(model, "")
    assert [op.kind for op in graph.ops] == ["layernorm"]
    stored = interp.quantize_input(graph, x.reshape(3, *graph.type("x").shape))
    got = interp.run(graph, {"x": stored})[graph.outputs[0]].reshape(3, 5, 12)
    assert np.abs(got - np.rint(run_ort(model, x)[0] / 0.02)).max() <= 1
    sub = next(n for n in plain.graph.node if n.op_type == "Sub")
    plain.graph.output.append(onnx.helper.make_empty_tensor_value_info(sub.output[0]))
    assert with_layer_norms(plain) is plain


def test_damaged_layer_norms_are_not_one() -> None:
    """An operand or the result missing, one too many, an element type that nobody knows, an operator of that name in another domain: left as it is."""
    net = Net(("n", 5, 12), opset=13, seed=2)
    plain = net.model(written_out(net, "x", net.const(np.ones(12)), net.const(np.zeros(12))))

    def damage(node: onnx.NodeProto, how: str) -> None:
        match how:
            case "no operand":
                del node.input[-1]
            case "one more":
                node.input.append("x")
            case "no result":
                del node.output[:]
            case "two results":
                node.output.append("other")
            case "domain":
                node.domain = "com.example"

    for how in ("no operand", "one more", "no result", "two results", "domain"):
        for i in range(len(plain.graph.node) - 1):  # the last adds a bias, which need not be
            model = onnx.ModelProto()
            model.CopyFrom(plain)
            damage(model.graph.node[i], how)
            if (plain.graph.node[i].op_type, how) == ("ReduceMean", "one more"):
                continue  # axes, as later opsets have them
            assert not [n for n in with_layer_norms(model).graph.node if n.op_type == "LayerNormalization"], (how, i)
    for tensor in plain.graph.initializer:
        if not tensor.dims:
            tensor.data_type = 100_000_000
    assert with_layer_norms(plain) is plain


def test_softmax_over_pixels_is_refused_in_the_middle() -> None:
    net = Net(("n", 3, 5, 6))
    report = check_model(net.model(net.q(net.conv(net.q(net.node("Softmax", net.q("x"), axis=2)), 3, 4, 1))))
    assert any("a Softmax over 5 elements" in f.reason for f in report.findings)


def test_all_faces_show_it(tmp_path: Path) -> None:
    """A trace, a report, an explorer page, and the debugger down to the word lines of a product of activations."""
    onnx.save(vision(), tmp_path / "v.onnx")
    np.save(tmp_path / "x.npy", images(1)[0])
    prog, x, run = str(tmp_path / "v.s"), str(tmp_path / "x.npy"), str(tmp_path / "r.json")
    assert invoke(sasc.app, ["compile", str(tmp_path / "v.onnx"), "-o", prog, "--no-verify"]) == 0
    assert invoke(sasrun.app, [prog, "--input", x, "--trace", str(tmp_path / "t.json"), "--json", run]) == 0
    assert invoke(sasc.app, ["report", run, "-o", str(tmp_path / "r.html")]) == 0
    assert invoke(sasc.app, ["explore", prog, "-o", str(tmp_path / "e.html")]) == 0
    shown = {e["name"] for e in json.loads((tmp_path / "t.json").read_text())["traceEvents"]}
    assert {"vmma", "smax", "lnorm"} <= shown
    device = Device(load_program(tmp_path / "v.s"), "fused", 1)
    session = Session(device, runs.images(device, [("x", images(1)[0])]))
    while session.pc is not None and session.program.code[session.pc].spec.mnemonic != "vmma":
        session.step()
    sums = [m for m in bits(session) if isinstance(m, Tree)][-1].sums
    instr = session.program.resolve(session.program.code[session.pc or 0])
    session.step()
    found = session.it.read_rows(instr.acc.name, 0, 1)[0]
    assert np.array_equal(sums[:, : found.shape[1]] - sums[:, found.shape[1] :] * (sums.shape[1] > found.shape[1]), found)
