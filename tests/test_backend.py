"""The backend on machines nobody tuned for: equal results on all of them, errors with numbers where a graph does not fit."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
from models import Builder
from onnx import numpy_helper
from whole_path import Case, check, compile_onnx, machine_with

import sasimc.backend.builder as emission
from sasimc.api import CompileOptions, compile_model
from sasimc.backend.builder import CapacityError
from sasimc.backend.compile import Compiled
from sasimc.backend.mapping import Placement
from sasimc.ir import interp
from sasimc.ir.graph import type_range
from sasimc.isa.analysis.lint import lint
from sasimc.isa.binary.container import encode_program
from sasimc.isa.errors import SasError
from sasimc.isa.machine import Machine, load_machine
from sasimc.isa.spec import RowRange
from sasimc.zoo.zoo import ZooOptions, build, write

FAST = ("fused", "bitserial")

MACHINES: dict[str, dict[str, Any]] = {
    "4x4 banks": {"array__banks": (4, 4), "activation__banks": (1, 4)},
    "32x256 sub-arrays": {"array__rows": 32, "array__bit_columns": 256},
    "tiny sub-arrays": {"array__rows": 8, "array__bit_columns": 128},
    "one sub-array active": {"activation__banks": (1, 1), "activation__mats": (1, 1)},
    "free rule": {"activation__rule": "free", "activation__banks": (2, 4)},
    "4-KB buffer": {"buffer__bytes": 4096},
    "2-KB buffer": {"buffer__bytes": 2048},
    "few accumulators": {"accumulator__entries": 1000},
    "narrow periphery": {"periphery__lanes": 8, "host__bytes_per_cycle": 1, "buffer__bytes_per_cycle": 4},
    "adder tree of a group": {"array__rows": 16, "array__bit_columns": 128, "adder_tree__reach": "group"},
    "adder tree of a bank": {"array__rows": 16, "adder_tree__reach": "bank"},
    "eight bit columns a cycle": {"transposed__bit_columns_per_cycle": 8},
}


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return models.mobilenet_like(size=32, width=6, seed=6)


@pytest.fixture(scope="module")
def reference(network: onnx.ModelProto) -> Case:
    return check(network)


@pytest.mark.parametrize("name", MACHINES)
def test_other_machines_give_the_same_numbers(name: str, network: onnx.ModelProto, reference: Case) -> None:
    case = check(network, machine=machine_with(**MACHINES[name]), engines=FAST)
    np.testing.assert_array_equal(case.logits, reference.logits)
    assert case.events != reference.events, "a different machine works differently"
    assert lint(case.compiled.program) == []
    assert case.compiled.buffer_peak_bytes <= case.compiled.program.machine.buffer.bytes


@pytest.mark.parametrize("size", [1700, 900, 500])
def test_a_small_buffer_streams_and_spills(size: int) -> None:
    model = models.residual_net(size=24, width=6, seed=1)
    reference, case = check(model), check(model, machine=machine_with(buffer__bytes=size), engines=FAST)
    np.testing.assert_array_equal(case.logits, reference.logits)
    assert [v for v, home in reference.compiled.plan.home.items() if home == "host"] == ["input"]
    assert sum(home == "host" for home in case.compiled.plan.home.values()) > 2
    assert case.compiled.buffer_peak_bytes <= size
    assert any(len(chain.ops) > 1 for chain in case.compiled.plan.chains), "values that never exist as a whole"
    assert case.events["host_bits_in"] > reference.events["host_bits_in"], "spilling is counted"
    assert case.events["host_bits_out"] > reference.events["host_bits_out"]
    assert case.events["instructions"] > reference.events["instructions"], "stripes and transfers are issued one by one"


@pytest.mark.parametrize(
    "changes",
    [{"buffer__bytes": size} for size in (5000, 2600, 1100)] + [{"accumulator__entries": n} for n in (900, 400)],
    ids=str,
)
def test_products_and_tables_in_stripes(changes: dict[str, Any]) -> None:
    """A broadcast factor is whole whatever the stripes are; what does not fit is loaded again."""
    reference, case = check(models.gated()), check(models.gated(), machine=machine_with(**changes), engines=FAST)
    np.testing.assert_array_equal(case.logits, reference.logits)
    assert lint(case.compiled.program) == []
    assert case.events["instructions"] > reference.events["instructions"]
    if changes.get("buffer__bytes", 5000) < 4000:
        assert sum(home == "host" for home in case.compiled.plan.home.values()) > 2
        assert case.events["product_ops"] > reference.events["product_ops"], "the plane of a squeeze is added up in stripes"


def test_few_accumulators_cut_columns() -> None:
    model = models.residual_net(size=12, width=40, blocks=1, train="head")
    case = check(model, machine=machine_with(accumulator__entries=400), engines=FAST)
    assert max(len(parts) for parts in case.compiled.placement.layers.values()) > 1


@pytest.mark.parametrize("seed", range(40))
def test_random_machines(seed: int) -> None:
    """A random network on a random machine is right, or refused for want of room."""
    r = random.Random(seed)
    changes: dict[str, Any] = {
        "array__rows": r.choice([4, 16, 32, 64]), "array__bit_columns": r.choice([64, 128, 256, 512]),
        "buffer__bytes": r.choice([600, 1024, 2048, 4096, 16384, 401408]), "accumulator__entries": r.choice([200, 800, 1600, 4096, 65536]),
        "activation__rule": r.choice(["row", "free"]), "gradient__scratch_subarrays": r.choice([1, 2, 32]),
        "periphery__lanes": r.choice([1, 16, 256]), "transposed__bit_columns_per_cycle": r.choice([1, 8]),
        **r.choice([{}, MACHINES["4x4 banks"], MACHINES["one sub-array active"],
                    {"array__mats": (1, 1), "activation__mats": (1, 1), "activation__banks": (4, 4)}]),
    }  # fmt: skip
    kinds: list[Callable[[], onnx.ModelProto]] = [
        lambda: models.mobilenet_like(
            size=r.choice([16, 24, 32]), width=r.choice([4, 6, 8]), seed=seed, modules=r.choice([0, 1, 2])
        ),
        lambda: models.residual_net(
            size=r.choice([12, 16, 20]), seed=seed, train=r.choice(["all", "head"]), blocks=r.choice([1, 2])
        ),
        lambda: models.plain_cnn(seed=seed, train=r.choice(["all", "head"])),
        lambda: models.random_graph(seed, ops=7),
    ]
    error = ""
    try:
        check(
            kinds[seed % 4](),
            machine=machine_with(**changes),
            backprop=r.choice(["exact", "truncated"]),
            batch=r.choice([1, 2, 3]),
        )
    except CapacityError as caught:
        error = str(caught)
    assert not error or re.search(r"\d", error), "an error about room has numbers"


# --- what does not fit -----------------------------------------------------------------------------------------------------


SINGLE = {"array__banks": (1, 1), "activation__banks": (1, 1), "array__mats": (1, 1), "activation__mats": (1, 1)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"array__banks": (1, 1), "activation__banks": (1, 1)},
            r"no room for layer .* \d+ weights .* need at least \d+ sub-arrays .* has 4",
        ),
        (SINGLE, r"no room for .*the machine has 1"),
        ({"transposed__subarrays": 1}, r"of which 1 may be transposable"),
        ({"buffer__bytes": 64}, r"needs \d+ bytes of the 64-byte buffer"),
        ({"accumulator__entries": 16}, r"needs? \d+ accumulator words, 16 are available"),
        ({"host__memory_bytes": 4096}, r"host memory: \d+ bytes needed .* 4096 available"),
        ({"controller__registers": 8}, r"0 registers are free|0 of the machine's 8 registers"),
        ({"controller__registers": 20}, r"0 of the machine's 20 registers are free"),
    ],
    ids=["banks", "one sub-array", "transposable", "buffer", "accumulators", "host", "row counters", "exponents"],
)
def test_too_small_machines(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CapacityError, match=re.compile(message, re.DOTALL)) as caught:
        compile_onnx(models.mobilenet_like(size=24, width=8), machine=machine_with(**changes))
    assert "hint" in str(caught.value)


def test_what_fits_only_truncated() -> None:
    """A limit on transposable sub-arrays: errors through every frozen layer do not fit, the cheapest path does."""
    machine = machine_with(transposed__subarrays=6, array__rows=16, array__bit_columns=128, activation__banks=(1, 1))
    model = models.mobilenet_like(size=16, width=6)
    with pytest.raises(CapacityError, match="truncated"):
        compile_onnx(model, machine=machine)
    case = check(model, machine=machine, backprop="truncated")
    assert case.compiled.placement.transposable_subarrays <= 6


def test_sums_that_may_overflow() -> None:
    b = Builder(0)
    x = b.flatten(b.input((70_000, 1, 1), low=0.0, pow2=True))
    with pytest.raises(CapacityError, match=r"output channel 0: a 32-bit sum of products may reach \d{10,}"):
        compile_onnx(b.model(b.gemm(x, 2, trainable=True, name="head", dtype="int8")))


def test_biases_and_logits_beyond_32_bits() -> None:
    def edited(part: str, change: Callable[[np.ndarray], np.ndarray], zero: int | None = None) -> onnx.ModelProto:
        model = models.mlp((12, 7, 3), train="head")
        changes = {part: change} if zero is None else {part: change, "input_zero": lambda a: np.full_like(a, zero)}
        for name, new in changes.items():
            tensor = next(t for t in model.graph.initializer if name in t.name)
            tensor.CopyFrom(numpy_helper.from_array(new(numpy_helper.to_array(tensor)), tensor.name))
        return model

    with pytest.raises(SasError, match=r"fc1.*output channel \d+: a bias of -?\d{10} steps[\s\S]*larger weight scale"):
        compile_onnx(edited("bias", lambda a: np.where(np.arange(len(a)) % 2, 1 - 2**31, 2**31 - 1).astype(a.dtype), zero=5))
    with pytest.raises(SasError, match=r"logits have scale 1e\+30"):
        compile_onnx(edited("fc2_scale", lambda a: np.full_like(a, 1e30)))


@pytest.mark.parametrize("kind", ["dense", "depthwise"])
@pytest.mark.parametrize("train", ["none", "head"])
def test_dead_channels_with_biases_near_32_bits(kind: str, train: str) -> None:
    """Per-channel quantisation gives a channel of tiny weights a bias near 2^31: sums and biases are added in 64 bits, and nothing is refused."""
    b = Builder(3, pow2=train != "none")
    x = b.conv(b.input((3, 5, 5)), 32, 3, act="relu")
    x = b.conv(x, 32, 3, groups=32 if kind == "depthwise" else 1, act="relu", name="dead")
    model = b.model(b.gemm(b.global_pool(x, pow2=train != "none"), 4, trainable=train != "none", name="head", dtype="int8"))
    arrays = {t.name: t for t in model.graph.initializer}
    node = next(n for n in model.graph.node if n.name == "dead")
    made = {n.output[0]: n for n in model.graph.node}
    (_, scale, _), (bias, bias_scale) = (made[v].input[:3] for v in node.input[1:])
    values = {name: numpy_helper.to_array(arrays[name]).copy() for name in (scale, bias, bias_scale)}
    step = values[bias_scale][0] / values[scale][0]
    for channel, sign in ((0, 1), (5, -1), (17, 1), (31, -1)):
        values[bias][channel] = sign * (2**31 - 2)
        values[bias_scale][channel] = 0.3 / 2**31
        values[scale][channel] = values[bias_scale][channel] / step
    for name, value in values.items():
        arrays[name].CopyFrom(numpy_helper.from_array(value, name))
    case = check(model, engines=("fused", "bitserial"), train=train != "none")
    graph = case.compiled.graph
    conv = next(op for op in graph.ops if op.name == "dead")
    weight = np.abs(graph.constant(conv, "weight").astype(np.int64)).sum(axis=(0, 1, 2))
    worst = weight * 255 + np.abs(graph.constant(conv, "bias").astype(np.int64))
    assert (worst >= 2**31).any(), "what 32 bits would not hold"
    images = np.random.default_rng(0).random((4, 3, 5, 5)).astype(np.float32)
    want = next(iter(models.ort_run(model, images).values()))
    got = _floats(case.compiled, images)
    assert np.abs(got - want).max() <= graph.type(graph.outputs[0]).scale * 1.01


def _floats(compiled: Compiled, images: np.ndarray) -> np.ndarray:
    """Real outputs of the compiled graph, by its reference semantics."""
    graph = compiled.graph
    t, out = graph.type(graph.inputs[0]), graph.type(graph.outputs[0])
    stored = np.clip(np.rint(images.transpose(0, 2, 3, 1) / t.scale) + t.zero, *type_range(t.dtype))
    values = interp.run(graph, {graph.inputs[0]: stored})[graph.outputs[0]]
    return (values.reshape(len(images), -1) - out.zero) * out.scale


def test_more_matrices_than_instructions_can_name() -> None:
    b = Builder(1)
    x = b.conv(b.conv(b.input((4400, 1, 1)), 4400, 1, groups=2200), 4400, 1, groups=2200)
    with pytest.raises(CapacityError, match=r"\d+ descriptors of kind matrix, an instruction can name 4096"):
        compile_onnx(b.model(b.gemm(b.flatten(x), 2, trainable=True, name="head", dtype="int8")))


@pytest.mark.parametrize("batch", [0, -1, 4097])
def test_batches_out_of_range(batch: int) -> None:
    with pytest.raises(SasError, match=r"batch -?\d+ is not in \[1, 4096\]"):
        compile_onnx(models.mlp(), batch=batch)


# --- placement and size ----------------------------------------------------------------------------------------------------


def test_ways_that_are_not_taken_leave_nothing() -> None:
    """Neither code, registers, descriptors nor names: a program without them declares and names the same."""
    b, alone = emission.Builder(load_machine()), emission.Builder(load_machine())

    def way(to: emission.Builder, base: str, rows: int, room: bool = True) -> Callable[[], None]:
        def emit() -> None:
            view = to.view(base, "buf", "i8", (rows, 1, 1), 0)
            to.emit("fill", view, 0, RowRange(0, 0, rows))
            to.register()
            if not room:
                raise CapacityError("no room")

        return emit

    b.cheapest(2, 1, way(b, "x", 9000, room=False), way(b, "x", 9000), way(b, "x", 1), way(b, "y", 8000))
    alone.cheapest(2, 1, way(alone, "x", 1))
    for builder in (b, alone):
        assert builder.view("y", "buf", "i8", (3, 1, 1), 0) == "y"
    assert (b.code, b.views, b.register()) == (alone.code, alone.views, alone.register())


def _prove_placement(place: Placement, machine: Machine) -> None:
    """No two tiles share a cell, every copy is whole, the kinds of sub-arrays do not mix, scratch rows are nobody else's; what
    stands twice stands once in transposable sub-arrays for the errors."""
    cells = np.zeros((machine.subarrays, machine.array.rows, machine.weights_per_row), bool)
    kinds: dict[int, str] = {}
    parts = {part.name: part for members in place.layers.values() for part, _ in members}
    standing = [(part, m) for members in place.layers.values() for part, m in members]
    twins = [(parts[name], m) for name, m in place.twins.items()]
    for part, m in [*standing, *twins]:
        assert len({t.copy for t in m.tiles}) == m.copies
        assert sum(t.rows * t.cols for t in m.tiles) == m.copies * part.values.size
        for t in m.tiles:
            block = cells[t.subarray, t.row : t.row + t.rows, t.col : t.col + t.cols]
            assert block.shape == (t.rows, t.cols)
            assert not block.any(), f"{m.name} overlaps another tile"
            block[:] = True
            assert kinds.setdefault(t.subarray, m.array) == m.array
    assert all(m.array == "transposable" and m.copies == 1 for part, m in standing if part.trainable)
    assert all(m.array == "transposable" and m.copies == 1 for _, m in twins)
    if place.scratch:
        assert len(place.scratch.tiles) <= machine.gradient.scratch_subarrays
        for t in place.scratch.tiles:
            assert not cells[t.subarray, t.row : t.row + t.rows].any(), (
                "a scratch row is written without regard to its neighbours"
            )
            assert kinds.setdefault(t.subarray, "compute") == "compute"
    assert place.used == len(kinds)
    assert place.used <= machine.subarrays


@pytest.mark.parametrize("name", ["4x4 banks", "32x256 sub-arrays", "tiny sub-arrays", "one sub-array active", "free rule"])
def test_placement(name: str, network: onnx.ModelProto) -> None:
    machine = machine_with(**MACHINES[name])
    for policy in ("exact", "truncated"):
        _prove_placement(compile_onnx(network, machine=machine, backprop=policy).placement, machine)


@pytest.mark.parametrize(
    ("width", "resolution", "policy", "banks"),
    [
        (0.35, 96, "exact", (16, 16)),
        (0.35, 256, "truncated", (16, 16)),
        (0.5, 128, "truncated", (16, 16)),
        (0.75, 160, "exact", (16, 16)),
        (1.0, 192, "truncated", (16, 16)),
        (1.3, 224, "exact", (32, 16)),
        (1.4, 96, "exact", (32, 16)),
    ],
)
def test_mobilenets(width: float, resolution: int, policy: str, banks: tuple[int, int], tmp_path: Path) -> None:
    """Every size compiles to a program in which the linter finds nothing; widths above 1 need more than the paper's 4.2 million weights."""
    options = ZooOptions(width=width, resolution=resolution, classes=10, calibration_images=1)
    path = write(build("mobilenetv2-repnet", options), tmp_path / "model.onnx")
    machine = machine_with(array__banks=banks)
    compiled = compile_model(path, CompileOptions(machine=machine, backprop=policy))
    assert lint(compiled.program) == []
    assert len(compiled.program.code) < 20_000
    assert len(encode_program(compiled.program)) < 256 * 1024
    assert compiled.buffer_peak_bytes <= 401_408
    _prove_placement(compiled.placement, machine)
    if banks != (16, 16):
        with pytest.raises(CapacityError, match=r"need at least \d+ sub-arrays of 64 x 64; the machine has 1024"):
            compile_model(path, CompileOptions(backprop=policy))


@pytest.mark.parametrize("seed", range(12))
def test_programs_have_nothing_to_lint(seed: int) -> None:
    compiled = compile_onnx(models.random_graph(seed + 100), backprop=("exact", "truncated")[seed % 2])
    assert lint(compiled.program) == []


def test_training_keeps_what_it_reads_at_their_batch() -> None:
    """Saved tensors grow with the batch, the buffer does not."""
    small, large = (compile_onnx(models.mobilenet_like(), batch=n) for n in (1, 8))
    assert small.buffer_peak_bytes == large.buffer_peak_bytes
    assert small.infer.cycles == large.infer.cycles
    assert large.train_step is not None
    assert small.train_step is not None
    assert 4 * small.train_step.cycles < large.train_step.cycles < 8 * small.train_step.cycles
