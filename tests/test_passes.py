"""Each pass: what it changes, and that it changes nothing else (integers before and after, by the interpreter)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import golden_numbers
import models
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sasimc.frontend import import_model
from sasimc.frontend.onnx_import import import_float
from sasimc.ir import interp
from sasimc.ir.graph import Graph, Op, TensorType
from sasimc.ir.verify import verify
from sasimc.isa.errors import SasError
from sasimc.passes.canonicalise import Canonicalise
from sasimc.passes.eliminate_dead import EliminateDead
from sasimc.passes.factors import FactorError, add_factors, clamp_bounds, factor
from sasimc.passes.fold_constants import FoldConstants
from sasimc.passes.manager import run_passes
from sasimc.passes.mark_trainable import MarkTrainable
from sasimc.passes.simplify import Simplify
from sasimc.passes.to_unsigned import ToUnsigned
from sasimc.passes.zero_inputs import NOTE, ZeroInputs


def floats(model: onnx.ModelProto) -> Graph:
    graph = import_float(model).graph
    assert graph is not None
    return graph


def canonical(model: onnx.ModelProto) -> Graph:
    return run_passes(floats(model), [EliminateDead(), FoldConstants(), Canonicalise()])


def outputs(graph: Graph, image: np.ndarray) -> list[np.ndarray]:
    """Real outputs of the graph for a real image."""
    env = interp.run(graph, {v: interp.quantize_input(graph, image, v) for v in graph.inputs})
    return [(env[v] - graph.type(v).zero) * graph.type(v).scale for v in graph.outputs]


def image_for(graph: Graph, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (3, *graph.type(graph.inputs[0]).shape))


# -- manager --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Break:
    """Leaves a value nobody computes."""

    name: ClassVar[str] = "break"

    def run(self, graph: Graph) -> Graph:
        return graph.with_changes(outputs=("nowhere",))


def test_a_failure_names_the_pass() -> None:
    graph = floats(models.mlp())
    with pytest.raises(SasError, match="pass 'break' left a graph that is not valid: graph output 'nowhere'"):
        run_passes(graph, [EliminateDead(), Break()])
    with pytest.raises(SasError, match="the imported graph is not valid"):
        run_passes(Break().run(graph), [EliminateDead()])


def test_printing_after_a_pass() -> None:
    seen: list[str] = []
    graph = floats(models.mlp())
    run_passes(graph, [EliminateDead(), FoldConstants()], print_ir_after="fold_constants", sink=seen.append)
    assert [s.splitlines()[0] for s in seen] == ["// after fold_constants"]
    run_passes(graph, [EliminateDead(), FoldConstants()], print_ir_after="all", sink=seen.append)
    assert [s.splitlines()[0] for s in seen[1:]] == ["// after import", "// after eliminate_dead", "// after fold_constants"]
    with pytest.raises(SasError, match=r"no pass is called 'fold'[\s\S]*did you mean 'fold_constants'|passes:"):
        run_passes(graph, [FoldConstants()], print_ir_after="fold")


# -- numbers --------------------------------------------------------------------------------------------------------------


@given(st.floats(1e-12, 2**29))
def test_factor_equals_the_golden_one(f: float) -> None:
    assert factor(f) == golden_numbers.multiplier(f)
    m, s = factor(f)
    assert s == 62 or abs(m / 2**s - f) <= f * 2**-31
    assert factor(-f) == (-m, s)


def test_factor_edges() -> None:
    assert factor(0.0) == (0, 62)
    assert factor(1.0) == (2**30, 30)
    assert factor(math.nextafter(1.0, 0)) == (2**30, 30)  # rounds up to 2^31: M = 2^30, S one less
    assert factor(2.0**-33) == (0, 62)
    for bad in (2.0**30, math.inf, math.nan):
        with pytest.raises(FactorError):
            factor(bad)


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_add_factors_equal_the_golden_ones(a: float, b: float) -> None:
    ma, mb, s = golden_numbers.residual_factors(a, b)
    if max(ma, mb) < 2**31:
        assert add_factors(a, b) == (ma, mb, s)


def test_clamp_bounds() -> None:
    free = {"lo": -128, "hi": 127, "mask_lo": False, "mask_hi": False}
    assert clamp_bounds("i8", 0.1, 0, -math.inf, math.inf) == free
    assert clamp_bounds("u8", 6 / 255, 0, 0.0, 6.0) == {"lo": 0, "hi": 255, "mask_lo": True, "mask_hi": True}
    assert clamp_bounds("u8", 0.01, 0, 0.0, 6.0) == {"lo": 0, "hi": 255, "mask_lo": True, "mask_hi": False}
    assert clamp_bounds("i8", 0.1, -3, 0.0, math.inf) == {"lo": -3, "hi": 127, "mask_lo": True, "mask_hi": False}
    assert clamp_bounds("i8", 0.1, 0, -0.25, 0.25) == {"lo": -2, "hi": 2, "mask_lo": True, "mask_hi": True}


# -- passes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_integer_passes_change_no_result(seed: int) -> None:
    graph = canonical(models.random_graph(seed, ops=8))
    x = image_for(graph, seed)
    want = outputs(graph, x)
    for p in (ToUnsigned(), Simplify(), EliminateDead()):
        graph = p.run(graph)
        verify(graph, integer=True)
        for a, b in zip(outputs(graph, x), want, strict=True):
            assert np.array_equal(a, b), p.name


def test_to_unsigned_moves_types_clamps_and_biases() -> None:
    t = TensorType("i8", (2, 2, 1), 0.5, -128)
    y = replace(t, zero=-128, scale=0.25)
    pool = {"kernel": (2, 2), "stride": (2, 2), "pads": (0, 0, 0, 0), "global": True, "mult": 2**30, "shift": 31, "bias": 512}
    ops = (
        Op("m", "maxpool", ("x",), "a", {"kernel": (1, 1), "stride": (1, 1), "pads": (0, 0, 0, 0)}),
        Op("p", "avgpool", ("a",), "y", {**pool, "lo": -128, "hi": 100, "mask_lo": True, "mask_hi": True}),
    )
    before = Graph("g", {"x": t, "a": t, "y": y.with_shape((1, 1, 1))}, ops, {}, ("x",), ("y",))
    verify(before, integer=True)
    after = ToUnsigned().run(before)
    verify(after, integer=True)
    assert {t.quant[0::2] for t in after.values.values()} == {("u8", 0)}
    assert (after.op("p").attrs["lo"], after.op("p").attrs["hi"], after.op("p").attrs["bias"]) == (0, 228, 0)
    x = np.random.default_rng(0).integers(-128, 128, (5, 2, 2, 1))
    assert np.array_equal(interp.run(before, {"x": x})["y"] + 128, interp.run(after, {"x": x + 128})["y"])


def test_eliminate_dead() -> None:
    graph = canonical(models.mlp())
    first = graph.ops[0]
    extra = replace(first, name="dead", output="dead", consts={**first.consts, "bias": "dead.bias"})
    wide = graph.with_changes(
        ops=(*graph.ops, extra),
        values={**graph.values, "dead": graph.type(first.output)},
        constants={**graph.constants, "dead.bias": graph.constant(first, "bias")},
    )
    verify(wide)
    slim = EliminateDead().run(wide)
    assert not slim.has_op("dead")
    assert "dead" not in slim.values
    assert "dead.bias" not in slim.constants
    assert EliminateDead().run(slim).same(slim)


def test_fold_constants_into_the_convolution() -> None:
    x = TensorType("u8", (1, 1, 2), 0.5, 0)
    f = TensorType("f32", (1, 1, 2))
    geometry = {"kernel": (1, 1), "stride": (1, 1), "pads": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}
    consts = {
        "w": np.array([[[[1, 2], [3, 4]]]], np.int8), "s": np.array([0.5, 0.25]), "c": np.array([10.0, -20.0]),
        "k": np.array([2.0, 3.0]), "n": np.array([-1.0, 1.0]),
    }  # fmt: skip
    ops = (
        Op("d", "dequantize", ("x",), "xf"),
        Op("c", "conv_f", ("xf",), "a", geometry, {"weight": "w", "wscale": "s"}, "c"),
        Op("k", "mul_f", ("a",), "b", {}, {"c": "k"}, "k"),
        Op("p", "addc_f", ("b",), "e", {}, {"c": "c"}, "p"),
        Op("n", "mul_f", ("e",), "f", {}, {"c": "n"}, "n"),
        Op("q", "quantize", ("f",), "y"),
    )
    values = {"x": x, "xf": f, "a": f, "b": f, "e": f, "f": f, "y": replace(x, dtype="i8")}
    graph = run_passes(Graph("g", values, ops, consts, ("x",), ("y",)), [FoldConstants()])
    assert [op.kind for op in graph.ops] == ["dequantize", "conv_f", "quantize"]
    conv = graph.ops[1]
    assert graph.constant(conv, "wscale").tolist() == [1.0, 0.75]
    assert graph.constant(conv, "bias").tolist() == [-10.0, -20.0]  # the sign of a factor goes to the weights
    assert graph.constant(conv, "weight").reshape(2, 2).tolist() == [[-1, 2], [-3, 4]]
    assert conv.origin == "c,k,p,n"
    lowest = {**consts, "w": np.array([[[[-128, 2], [3, 4]]]], np.int8)}  # 128 is no int8: that channel stays as it is
    assert [op.kind for op in FoldConstants().run(Graph("g", values, ops, lowest, ("x",), ("y",))).ops].count("mul_f") == 1
    shared = Graph("g", values, (*ops, Op("q2", "quantize", ("a",), "z")), consts, ("x",), ("y", "z"))
    shared = shared.with_changes(values={**values, "z": values["y"]})
    assert [op.kind for op in FoldConstants().run(shared).ops].count("mul_f") == 2  # 'a' has another reader


def test_simplify() -> None:
    t = TensorType("u8", (4, 4, 2), 0.5, 3)
    big, flat = t.with_shape((6, 6, 2)), t.with_shape((1, 1, 72))
    ops = (
        Op("pad", "pad", ("x",), "p", {"pads": (1, 0, 1, 2)}),
        Op("r1", "reshape", ("p",), "a"),
        Op("r2", "reshape", ("a",), "b"),
        Op("r3", "reshape", ("b",), "y"),
    )
    values = {"x": t, "p": big, "a": t.with_shape((1, 6, 12)), "b": flat, "y": flat}
    graph = Graph("g", values, ops, {}, ("x",), ("y",))
    slim = EliminateDead().run(Simplify().run(graph))
    verify(slim)
    assert [(op.kind, op.inputs) for op in slim.ops] == [("pad", ("x",)), ("reshape", ("p",))]


def test_pad_merges_into_the_convolution() -> None:
    b = models.Builder(1)
    x = b.pad(b.input((2, 5, 5)), (1, 0, 2, 1))
    model = b.model(b.gemm(b.global_pool(b.conv(x, 3, 3, pads=(0, 1, 1, 0), name="c")), 3, name="head"))
    graph = canonical(model)
    assert [op.kind for op in graph.ops][:2] == ["pad", "conv"]
    merged = EliminateDead().run(Simplify().run(graph))
    assert "pad" not in [op.kind for op in merged.ops]
    assert merged.op("c").ints("pads") == tuple(a + b for a, b in zip((0, 1, 1, 0), (1, 0, 2, 1), strict=True))
    x = image_for(graph)
    assert np.array_equal(outputs(graph, x)[0], outputs(merged, x)[0])
    assert Simplify(pads=False).run(graph).has_op(graph.ops[0].name)


# -- trainable ------------------------------------------------------------------------------------------------------------


def trained(model: onnx.ModelProto, pattern: str | None) -> set[str]:
    return {op.name for op in import_model(model, trainable=pattern).ops if op.flag("trainable")}


def test_mark_trainable_by_list_and_by_pattern() -> None:
    model = models.mlp()
    assert trained(model, None) == {"fc1", "fc2", "fc3"}
    assert trained(model, "") == set()
    assert trained(model, "fc3") == {"fc3"}
    assert trained(model, "fc[12]") == {"fc1", "fc2"}
    assert trained(model, "fc(1|3)") == {"fc1", "fc3"}
    assert trained(model, " fc1 , *3 ") == {"fc1", "fc3"}
    weight = next(op for op in import_model(model).ops).str_attr("param")
    assert weight in {i.name for i in model.graph.initializer}
    assert trained(model, weight) == {"fc1"}
    heads = {op.name for op in import_model(model).ops if op.flag("head")}
    assert heads == {"fc3"}


def test_several_heads() -> None:
    b = models.Builder(0, pow2=True)
    x = b.input((2, 4, 4), low=0.0)
    left, right = b.conv(x, 3, trainable=True, name="left"), b.conv(x, 3, trainable=True, name="right")
    model = b.model(b.gemm(b.global_pool(b.add(left, right)), 3, name="fixed"))
    graph = import_model(model)
    assert {op.name for op in graph.ops if op.flag("head")} == {"left", "right"}


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("not json", "is not JSON"),
        ('{"a": 1}', "is not a list of names"),
        ("[3]", "is not a list of names"),
        ('["fc9"]', r"names 'fc9', which is no layer with weights[\s\S]*did you mean"),
    ],
)
def test_bad_trainable_metadata(listed: str, message: str) -> None:
    model = models.mlp()
    for entry in model.metadata_props:
        if entry.key == "sasimc.trainable":
            entry.value = listed
    with pytest.raises(SasError, match=message):
        import_model(model)
    assert trained(model, "fc1") == {"fc1"}  # the user's pattern overrides the file


def test_bad_patterns() -> None:
    with pytest.raises(SasError, match=r"no layer with weights matches 'conv\*'[\s\S]*fc1, fc2, fc3"):
        trained(models.mlp(), "conv*")
    with pytest.raises(SasError, match=r"matches '\(\['"):
        trained(models.mlp(), "([")


def test_shared_weights_cannot_train() -> None:
    graph = canonical(models.mlp(train="none"))
    ops = [op.with_attrs(param="w") if op.name in ("fc1", "fc2") else op for op in graph.ops]
    with pytest.raises(SasError, match="share one weight tensor"):
        MarkTrainable("fc1").run(graph.map_ops(ops))


def test_zero_inputs_keep_the_network_close() -> None:
    model = models.residual_net(train="none")
    plain = import_model(model)
    zeros = [op.name for op in plain.ops if op.kind == "conv" and plain.type(op.inputs[0]).zero != 0]
    assert zeros
    graph = import_model(model, trainable=",".join(zeros))
    assert set(graph.notes[NOTE].split(",")) == set(zeros)
    assert all(graph.type(graph.op(n).inputs[0]).quant[0::2] == ("i8", 0) for n in zeros)
    x = image_for(plain)
    a, b = outputs(plain, x)[0], outputs(graph, x)[0]
    assert np.abs(a - b).max() < 0.15 * np.abs(a).max()
    again = ZeroInputs().run(graph)
    assert again is graph


def test_notes_survive() -> None:
    model = models.mlp()
    model.metadata_props.add(key="sasimc.labels", value=json.dumps(["a", "b"]))
    model.metadata_props.add(key="other", value="x")
    assert import_model(model).notes["sasimc.labels"] == '["a", "b"]'
    assert "other" not in import_model(model).notes
