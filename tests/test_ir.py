"""The graph, its verifier, its text form and its interpreter."""

from __future__ import annotations

from dataclasses import replace

import models
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sasimc.frontend import import_model
from sasimc.frontend.onnx_import import import_float
from sasimc.ir.graph import Graph, IrError, Op, TensorType
from sasimc.ir.interp import rne, run
from sasimc.ir.kinds import KINDS
from sasimc.ir.text import INLINE, parse_graph, print_graph, print_train
from sasimc.ir.verify import is_integer, verify, verify_train
from sasimc.isa.errors import SasError
from sasimc.passes.backward import Backward

CLAMP = {"lo": -128, "hi": 127, "mask_lo": False, "mask_hi": False}


def tiny() -> Graph:
    """x -> conv -> y, and x + x."""
    x = TensorType("u8", (4, 4, 2), 0.5, 3)
    consts = {
        "w": np.arange(-9, 9, dtype=np.int8).reshape(3, 3, 1, 2),
        "b": np.array([5, -7], np.int32),
        "m": np.array([2**30, 2**30 + 1], np.int32),
        "s": np.array([33, 34], np.int32),
        "ws": np.array([0.25, 0.125]),
    }
    attrs = {
        "kernel": (3, 3), "stride": (1, 1), "pads": (1, 1, 1, 1), "dilation": (1, 1), "groups": 2, "depthwise": True,
        "trainable": True, "head": True, "param": 'odd "name"\n', **CLAMP,
    }  # fmt: skip
    roles = {"weight": "w", "bias": "b", "mult": "m", "shift": "s", "wscale": "ws"}
    ops = (
        Op("conv 1", "conv", ("x",), "y", attrs, roles, "node/1,node/2", "test"),
        Op("a", "add", ("x", "x"), "z", {"ma": 2**30, "mb": 3, "shift": 31, **CLAMP}),
    )
    y = TensorType("i8", (4, 4, 2), 1.0, -1)
    return Graph("tiny", {"x": x, "y": y, "z": replace(y, scale=1e-30)}, ops, consts, ("x",), ("y", "z"), {"k": "v\nw"})


def graphs() -> list[Graph]:
    nets = [models.mlp(), models.residual_net(), models.mobilenet_like(), *(models.random_graph(s) for s in range(12))]
    floats = [import_float(m).graph for m in nets[:4]]
    return [tiny(), *(import_model(m) for m in nets), *(g for g in floats if g is not None)]


def test_text_round_trip() -> None:
    for graph in graphs():
        text = print_graph(graph)
        again = parse_graph(text, arrays=graph.constants)
        assert again.same(graph)
        assert print_graph(again) == text
        verify(again)


def test_small_constants_stand_inline_and_larger_ones_are_external() -> None:
    graph = tiny()
    assert parse_graph(print_graph(graph)).same(graph)
    big = {**graph.constants, "w": np.zeros((3, 3, 1, 2 * INLINE), np.int8)}
    text = print_graph(graph.with_changes(constants=big))
    assert f"const w int8[3,3,1,{2 * INLINE}] external" in text
    with pytest.raises(SasError, match="is external and was not given"):
        parse_graph(text)
    with pytest.raises(SasError, match="was given as float64"):
        parse_graph(text, arrays={"w": np.zeros(3)})


NAMES = st.text(min_size=1, max_size=12).filter(lambda s: not any("\ud800" <= c <= "\udfff" for c in s))
ATTRS = st.one_of(
    st.integers(-(2**40), 2**40),
    st.booleans(),
    st.floats(allow_nan=False),
    NAMES,
    st.tuples(st.integers(0, 9), st.integers(-9, 9)),
)


@settings(max_examples=150, deadline=None)
@given(NAMES, NAMES, st.dictionaries(NAMES, ATTRS, max_size=4), st.floats(1e-38, 1e38), st.integers(-128, 255))
def test_text_round_trip_of_any_names_and_attributes(name: str, value: str, attrs: dict, scale: float, zero: int) -> None:
    t = TensorType("u8", (1, 2, 3), scale, zero)
    op = Op(name, "conv", (value,), value, attrs, {name: value}, name, value)
    graph = Graph(name, {value: t}, (op,), {value: np.array([scale, -scale, np.inf])}, (value,), (value,), {name: value})
    assert parse_graph(print_graph(graph)).same(graph)


@pytest.mark.parametrize(
    ("line", "message", "column"),
    [
        ("grph main", "unknown statement 'grph'", 1),
        ("value x u8[1,1,1]", "expected ':'", 9),
        ("value x : u9[1,1,1]", "unknown element type 'u9'", 11),
        ("value x : u8[1,1]", "is not height, width, channels", 7),
        ("value x : u8[1,1,1.5]", "an integer", 18),
        ("value x : u8[1,1,1] scale=?", "unexpected '?'", 27),
        ("op y = conv(x", "expected ')'", 14),
        ("op y = conv(x) {lo 3}", "expected '='", 20),
        ("op y = conv(x) {lo = }", "expected a value", 22),
        ('op y = conv(x) name "open', "unexpected '\"'", 21),
        ('op y = conv(x) name "\\q"', "bad escape", 21),
        ("const c int8[2] = [1, 2, 3]", "is not int8[2]", 7),
        ("const c int8[1] = [300]", "is not int8[1]", 7),
        ("const c nonsense[1] = [3]", "is not nonsense[1]", 7),
        ("input", "expected a value, found the end of the line", 6),
        ("input x y", "unexpected 'y' at the end", 9),
    ],
)
def test_bad_text_is_pointed_at(line: str, message: str, column: int) -> None:
    with pytest.raises(SasError) as e:
        parse_graph(f"graph g\n\n{line}\n", file="a.ir")
    assert message in str(e.value)
    span = e.value.diagnostic.span
    assert span is not None
    assert (span.file, span.line, span.column) == ("a.ir", 3, column)
    assert f"    {line}" in str(e.value)


def test_text_without_a_graph_or_with_a_value_twice() -> None:
    with pytest.raises(SasError, match="names no graph"):
        parse_graph("// nothing\n")
    with pytest.raises(SasError, match="declared twice"):
        parse_graph("graph g\nvalue x : u8[1,1,1]\nvalue x : u8[1,1,1]\n")


def with_op(graph: Graph, index: int, **changes: object) -> Graph:
    ops = list(graph.ops)
    ops[index] = replace(ops[index], **changes)
    return graph.map_ops(ops)


def with_attr(index: int, **attrs: object):
    return lambda g: g.map_ops([op.with_attrs(**attrs) if i == index else op for i, op in enumerate(g.ops)])


BROKEN = {
    "unknown kind": (lambda g: with_op(g, 0, kind="conw"), r"unknown kind[\s\S]*did you mean 'conv'"),
    "reads before": (lambda g: with_op(g, 0, inputs=("z",)), "reads 'z' before it is computed"),
    "reads nothing": (lambda g: with_op(g, 0, inputs=("q",)), "reads 'q' before"),
    "arity": (lambda g: with_op(g, 0, inputs=("x", "x")), "has 2 inputs, expected 1"),
    "no output": (lambda g: with_op(g, 0, output=""), "needs an output"),
    "twice": (lambda g: with_op(g, 1, output="y"), "computes 'y' a second time"),
    "same name": (lambda g: with_op(g, 1, name="conv 1"), "used twice"),
    "untyped": (lambda g: g.with_changes(values={"x": g.type("x"), "z": g.type("z")}), "output 'y' has no type"),
    "extra value": (lambda g: g.with_changes(values={**g.values, "q": g.type("x")}), "'q' is typed but not computed"),
    "output missing": (lambda g: g.with_changes(outputs=("q",)), "output 'q' is not computed"),
    "missing attr": (lambda g: with_op(g, 1, attrs={}), "attribute 'ma' is missing"),
    "unknown attr": (with_attr(1, mx=3), r"unknown attribute 'mx'"),
    "attr type": (with_attr(1, ma=True), "attribute 'ma' is True, expected int"),
    "tuple length": (with_attr(0, pads=(1, 1)), "expected 4 integers"),
    "missing const": (lambda g: with_op(g, 0, consts={}), "constant 'weight' is missing"),
    "const unknown": (
        lambda g: g.map_ops([g.ops[0].with_consts(weight="nope"), g.ops[1]]),
        "constant 'nope' is not in the graph",
    ),
    "role unknown": (lambda g: g.map_ops([g.ops[0], g.ops[1].with_consts(weight="w")]), "unknown constant 'weight'"),
    "weight dtype": (lambda g: g.with_changes(constants={**g.constants, "w": g.constants["w"] * 1.0}), "weight must be int8"),
    "bias length": (lambda g: g.with_changes(constants={**g.constants, "b": np.zeros(3, np.int32)}), r"bias must be int32 \[2\]"),
    "shift range": (lambda g: g.with_changes(constants={**g.constants, "s": np.array([0, 1], np.int32)}), "1 <= S <= 62"),
    "depthwise": (with_attr(0, depthwise=False), "depthwise must say"),
    "groups": (with_attr(0, groups=3), "does not fit input"),
    "clamp": (with_attr(1, lo=-129), "is not a range inside i8"),
    "window": (with_attr(0, stride=(2, 2)), "the window gives"),
    "shape": (lambda g: g.with_changes(values={**g.values, "z": g.type("z").with_shape((1, 1, 2))}), "differs from"),
    "scale": (lambda g: g.with_changes(values={**g.values, "x": replace(g.type("x"), scale=float("nan"))}), "has scale nan"),
    "negative": (lambda g: g.with_changes(values={**g.values, "x": replace(g.type("x"), scale=-1.0)}), "has scale -1.0"),
    "dims": (lambda g: g.with_changes(values={**g.values, "x": replace(g.type("x"), shape=(0, 1, 1))}), "three positive sizes"),
    "dtype": (lambda g: g.with_changes(values={**g.values, "x": replace(g.type("x"), dtype="f64")}), "unknown dtype 'f64'"),
    "float kind": (lambda g: with_op(g, 1, kind="add_f", attrs={}), "a float-level operation is not allowed"),
}


def test_tiny_is_valid() -> None:
    verify(tiny(), integer=True)
    assert is_integer(tiny())


@pytest.mark.parametrize("case", BROKEN)
def test_verifier_names_the_breach(case: str) -> None:
    change, message = BROKEN[case]
    with pytest.raises(IrError, match=message):
        verify(change(tiny()), integer=True)


def test_every_kind_is_documented_and_levels_are_known() -> None:
    assert {k.level for k in KINDS.values()} == {"int", "both", "float", "train"}
    for name, kind in KINDS.items():
        assert name == kind.name
        assert kind.doc.endswith(".")


def test_training_graphs_verify_print_and_break() -> None:
    train = Backward().derive(import_model(models.mobilenet_like()))
    verify_train(train)
    text = print_train(train)
    assert text.count("\nop ") == len(train.ops)
    masks = {op.str_attr("mask_of") for op in train.ops} - {""} - {v for op in train.ops for v in op.inputs}
    assert masks
    with pytest.raises(IrError, match="is not saved"):
        verify_train(replace(train, saved=train.saved - masks))
    with pytest.raises(IrError, match="reads 'gap_q_out' before it is computed"):
        verify_train(replace(train, saved=frozenset()))
    with pytest.raises(IrError, match="before it is computed"):
        verify_train(replace(train, ops=train.ops[1:]))


@given(st.integers(-(2**61), 2**61), st.integers(-3, 61))
def test_rne_is_exact(v: int, s: int) -> None:
    from fractions import Fraction

    want = v if s <= 0 else round(Fraction(v, 2**s))  # Python rounds ties to even
    assert int(rne(np.array([v], np.int64), s)[0]) == want


def test_interpreter_by_hand() -> None:
    graph = tiny()
    x = np.full((1, 4, 4, 2), 3)  # the zero point everywhere: products see only 3 sum(w) + bias
    y = run(graph, {"x": x})["y"]
    w = graph.constants["w"].astype(int)
    for n in range(2):
        acc = 3 * w[:, :, 0, n].sum() + graph.constants["b"][n]
        want = round(acc * int(graph.constants["m"][n]) / 2 ** int(graph.constants["s"][n])) - 1
        assert (y[..., n] == np.clip(want, -128, 127)).all()


def test_graph_helpers() -> None:
    graph = tiny()
    assert graph.producer("y") is graph.ops[0]
    assert graph.producer("x") is None
    assert graph.consumers("x") == graph.ops
    assert graph.constant(graph.ops[0], "bias").tolist() == [5, -7]
    assert str(graph.type("x")) == "u8[4x4x2] scale=0.5 zero=3"
    for bad in (lambda: graph.op("nope"), lambda: graph.type("nope"), lambda: graph.constant(graph.ops[1], "weight")):
        with pytest.raises(IrError, match="has no"):
            bad()
    assert not graph.same(graph.with_changes(constants={**graph.constants, "b": np.array([5, 7], np.int32)}))
