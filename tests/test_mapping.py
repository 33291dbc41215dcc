"""Placement: nothing overlaps, every weight stands once a copy, and no mapping is faster than the bound."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import Builder, Value, mobilenet_like, random_graph, residual_net
from whole_path import check, machine_with

from sasimc.api import CompileOptions, compile_model, compile_report
from sasimc.backend.addresses import Addresses, first_fit
from sasimc.backend.bound import bound_cycles, layer_bounds, word_line_bounds
from sasimc.backend.builder import CapacityError
from sasimc.backend.mapping import LayerMatrix, Placement, place
from sasimc.backend.packing import Shelves, best_cuts
from sasimc.isa.analysis.lint import lint
from sasimc.isa.instructions.array import INPUT_BITS
from sasimc.isa.machine import Machine, activation_steps
from sasimc.isa.objects import Matrix
from sasimc.isa.spec import PHASES
from sasimc.runtime.device import Device
from sasimc.zoo.zoo import ZooOptions, build, write

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    banks = (draw(st.sampled_from([2, 4, 8])), draw(st.sampled_from([2, 4, 8])))
    mats = draw(st.sampled_from([(1, 2), (2, 2), (2, 1)]))
    active = (draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, banks[1]])))
    return machine_with(
        array__banks=banks,
        array__mats=mats,
        array__rows=draw(st.sampled_from([8, 16, 64])),
        array__bit_columns=draw(st.sampled_from([64, 128, 512])),
        activation__banks=active,
        activation__mats=(1, draw(st.sampled_from([1, mats[1]]))),
        activation__rule=draw(st.sampled_from(["row", "free"])),
        transposed__bit_columns_per_cycle=draw(st.sampled_from([1, 8])),
        adder_tree__reach=draw(st.sampled_from(["machine", "group", "bank"])),
    )


@st.composite
def layers(draw: st.DrawFn) -> tuple[dict[str, list[LayerMatrix]], set[str]]:
    """One matrix a layer, and the layers that errors pass."""
    out: dict[str, list[LayerMatrix]] = {}
    backward: set[str] = set()
    for i in range(draw(st.integers(1, 7))):
        name = f"l{i}"
        kind = draw(st.sampled_from(["dense", "dense", "dense", "depthwise"]))
        k, n = draw(st.integers(1, 150)), draw(st.integers(1, 8 if kind == "depthwise" else 100))
        trainable = draw(st.booleans())
        if draw(st.booleans()):
            backward.add(name)
        array = "transposable" if trainable or (name in backward and kind == "dense") else "compute"
        values = np.zeros((k, n), np.int8)
        out[name] = [LayerMatrix(name, name, kind, array, trainable, 0, k, 0, n, values, draw(st.integers(1, 400)))]
    return out, backward


def standing(made: Placement) -> list[tuple[LayerMatrix, Matrix, bool]]:
    """(part, matrix, whether it is a twin) of everything that holds weights."""
    pairs = [(part, matrix, False) for parts in made.layers.values() for part, matrix in parts]
    by_name = {part.name: part for part, _, _ in pairs}
    return pairs + [(by_name[name], matrix, True) for name, matrix in made.twins.items()]


def prove(made: Placement, machine: Machine) -> None:
    shape = (machine.subarrays, machine.array.rows, machine.weights_per_row)
    owner = np.zeros(shape, np.int8)  # 1 frozen, 2 trainable
    kinds: dict[int, str] = {}
    for part, matrix, _ in standing(made):
        held = np.zeros((matrix.copies, matrix.k, matrix.n), np.int64)
        for t in matrix.tiles:
            assert min(t.row, t.col, t.subarray) >= 0
            assert t.row + t.rows <= shape[1]
            assert t.col + t.cols <= shape[2]
            block = owner[t.subarray, t.row : t.row + t.rows, t.col : t.col + t.cols]
            assert not block.any(), f"{matrix.name}: two tiles share cells of sub-array {t.subarray}"
            block[:] = 2 if part.trainable else 1
            held[t.copy, t.k : t.k + t.rows, t.n : t.n + t.cols] += 1
            assert kinds.setdefault(t.subarray, matrix.array) == matrix.array, "two kinds in one sub-array"
        assert (held == 1).all(), f"{matrix.name}: a weight does not stand exactly once a copy"
        assert matrix.array == "transposable" or not part.trainable
    lines = [(owner == which).any(axis=2) for which in (1, 2)]
    assert not (lines[0] & lines[1]).any(), "trainable and frozen weights share a word line"


def prove_reach(made: Placement, machine: Machine, backward: set[str]) -> None:
    """Partial sums stay within the adder tree's reach: along k for forward products, along n for transposed ones."""
    uses = [(m.tiles, "n") for parts in made.layers.values() for p, m in parts if p.kind == "dense"]
    uses += [(m.tiles, "k") for name in backward for p, m in made.backward(name) if p.kind == "dense"]
    for tiles, axis in uses:
        units: dict[tuple[int, int], set[int]] = {}
        for t in tiles:
            first, count = (t.n, t.cols) if axis == "n" else (t.k, t.rows)
            for i in range(first, first + count):
                units.setdefault((t.copy, i), set()).add(machine.reach_of(t.subarray))
        assert all(len(u) == 1 for u in units.values())
    if made.scratch is not None:
        assert len({machine.reach_of(t.subarray) for t in made.scratch.tiles}) == 1


def transposed_ones(made: Placement, backward: set[str]) -> Mapping[str, str]:
    return {part.name: m.array for name in backward for part, m in made.backward(name) if part.kind == "dense"}


def forward_cycles(matrix: Matrix, pixels: int, machine: Machine) -> int:
    return -(-pixels // matrix.copies) * activation_steps(machine, matrix.loads) * INPUT_BITS


@QUICK
@given(machines(), layers(), st.booleans())
def test_random_layers_on_random_machines(
    machine: Machine, given_layers: tuple[dict[str, list[LayerMatrix]], set[str]], scratch: bool
) -> None:
    parts, backward = given_layers
    try:
        made = place(parts, machine, scratch, backward)
    except CapacityError as e:
        if not any(text in e.diagnostic.message for text in ("the machine has", "adder_tree.reach")):
            pytest.fail(f"no numbers in: {e.diagnostic.message}")
        return
    prove(made, machine)
    prove_reach(made, machine, backward)
    assert set(transposed_ones(made, backward).values()) <= {"transposable"}
    assert made.weights == sum(p.values.size for members in parts.values() for p in members)
    if scratch:
        assert made.scratch is not None
        taken = {(t.subarray, r) for _, m, _ in standing(made) for t in m.tiles for r in range(t.row, t.row + t.rows)}
        assert not taken & {(t.subarray, r) for t in made.scratch.tiles for r in range(t.row, t.row + t.rows)}
    for part, matrix, twin in standing(made):
        if not twin:
            weights = 1 if part.kind == "depthwise" else machine.weights_per_row
            work = part.pixels * part.values.shape[0] * (1 if part.kind == "depthwise" else part.values.shape[1])
            bound = work * INPUT_BITS / (machine.group_size * weights)
            assert forward_cycles(matrix, part.pixels, machine) >= bound


@QUICK
@given(
    machines(), st.integers(1, 300), st.integers(1, 200), st.integers(1, 500), st.sampled_from(["forward", "backward", "both"])
)
def test_cuts(machine: Machine, k: int, n: int, pixels: int, use: str) -> None:
    """More thrift never takes more cells nor fewer cycles; pieces fit a sub-array and cover the matrix."""
    found = best_cuts(k, n, pixels, machine, use=use, copies=use == "forward", narrow=False, thrift=(0.0, 1.0, 100.0, 1e12))
    for cut in found:
        if np.isinf(cut.cycles):
            continue
        assert cut.rows <= machine.array.rows
        assert cut.cols <= machine.weights_per_row
        assert sum(r * c for _, _, _, r, c in cut.pieces) == k * n * cut.copies
        assert cut.levels >= -(-len(cut.pieces) // machine.group_size)
        places = [cut.place(i, machine.group_size) for i in range(len(cut.pieces))]
        assert len(set(places)) == len(places)
        assert {level for level, _ in places} == set(range(cut.levels))
    cells = [c.levels * c.rows * c.cols for c in found]
    assert cells == sorted(cells, reverse=True)
    cycles = [c.cycles for c in found]
    assert cycles == sorted(cycles)


def test_reach_of_the_adder_tree() -> None:
    """700 rows of sums: on sub-arrays of one bank they stand below each other, else side by side; a bank that is too small is named."""
    values, cycles = np.zeros((700, 8), np.int8), {}
    for reach in ("machine", "group", "bank"):
        machine = machine_with(adder_tree__reach=reach)
        made = place({"a": [LayerMatrix("a", "a", "dense", "compute", False, 0, 700, 0, 8, values, 1000)]}, machine, False)
        prove(made, machine)
        prove_reach(made, machine, set())
        cycles[reach] = forward_cycles(made.layers["a"][0][1], 1000, machine)
    assert cycles["machine"] <= cycles["group"] < cycles["bank"]
    small = machine_with(array__rows=8, array__bit_columns=64, adder_tree__reach="bank")
    with pytest.raises(
        CapacityError, match=r"layer a \(700 x 8 weights, compute\) cannot be placed: adder_tree.reach = 'bank' .* 2 sub-arrays"
    ):
        place({"a": [LayerMatrix("a", "a", "dense", "compute", False, 0, 700, 0, 8, values, 1000)]}, small, False)


def test_the_linter_knows_the_reach() -> None:
    """A program for one reach, read with a shorter one."""
    program = compile_model(mobilenet_like(), CompileOptions(batch=2)).program
    assert lint(program) == []
    short = replace(program, machine=machine_with(adder_tree__reach="bank"))
    found = [d for d in lint(short) if "beyond the adder tree's reach" in d.message]
    assert {d.severity for d in found} == {"error"}
    assert {d.message.split()[0] for d in found} >= {"vmm", "gradp"}


def _layer(trainable: bool, pixels: int) -> dict[str, list[LayerMatrix]]:
    values = np.zeros((64, 48), np.int8)
    return {"a": [LayerMatrix("a", "a", "dense", "transposable", trainable, 0, 64, 0, 48, values, pixels)]}


def test_twins_need_room() -> None:
    """A layer that errors pass stands twice where that is faster and fits, else once."""
    wide, narrow = (
        machine_with(),
        machine_with(array__banks=(1, 1), array__mats=(1, 1), activation__banks=(1, 1), activation__mats=(1, 1)),
    )
    roomy, full = place(_layer(False, 1000), wide, False, {"a"}), place(_layer(False, 1000), narrow, False, {"a"})
    assert list(roomy.twins) == ["a"]
    assert roomy.layers["a"][0][1].array == "compute"
    assert roomy.twins["a"].array == "transposable"
    assert not full.twins
    assert full.layers["a"][0][1].array == "transposable"


def test_twins_of_trainable_layers_must_be_worth_the_writes() -> None:
    """Both stand in transposable sub-arrays, without copies; few pixels: one matrix."""
    many, few = place(_layer(True, 5000), machine_with(), False, {"a"}), place(_layer(True, 1), machine_with(), False, {"a"})
    both = [many.layers["a"][0][1], many.twins["a"]]
    assert [(m.array, m.copies, m.trainable, m.tensor) for m in both] == [("transposable", 1, True, "a.weight")] * 2
    assert forward_cycles(both[0], 100, machine_with()) < forward_cycles(both[1], 100, machine_with())
    assert not few.twins


def test_trained_twins_stay_equal() -> None:
    """Against the golden model over several steps; then: loading weights sets both, and the state has them once."""
    case = check(residual_net(train="all", size=32, blocks=1), batch=2, steps=3, engines=("fused", "step"))
    trained = {n: m.name for n, m in case.compiled.placement.twins.items() if m.trainable}
    assert trained
    device = Device(case.compiled.program, "fused")
    before = device.state()
    assert not set(trained.values()) & set(before)
    rng = np.random.default_rng(0)
    device.train_step(rng.integers(0, 256, (2, *device.input_shape)).astype(np.uint8), np.array([0, 1]))
    after = {n: (device.interpreter.read_matrix(n), device.interpreter.read_matrix(t)) for n, t in trained.items()}
    assert all(np.array_equal(a, b) for a, b in after.values())
    assert any(not np.array_equal(before[n], a) for n, (a, _) in after.items())
    device.load_state(before)
    assert all(np.array_equal(device.interpreter.read_matrix(t), before[n]) for n, t in trained.items())


def _zoo(tmp_path: Path, name: str, **options: object) -> Path:
    return write(build(name, ZooOptions(calibration_images=1, **options)), tmp_path / "model.onnx")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "classes", "rule", "limit"),
    [
        ("mobilenetv2", None, "row", 1.35),
        ("mobilenetv2", None, "free", 1.21),
        ("mobilenetv2-repnet", 102, "row", 1.35),
        ("mobilenetv2-repnet", 102, "free", 1.21),
    ],
)
def test_mobilenet_comes_close_to_the_bound(name: str, classes: int | None, rule: str, limit: float, tmp_path: Path) -> None:
    machine = machine_with(activation__rule=rule)
    got = compile_model(_zoo(tmp_path, name, classes=classes), CompileOptions(machine=machine, inference_only=True))
    bound, lines = bound_cycles(got.graph, machine), sum(word_line_bounds(got.graph, machine).values())
    assert bound < lines < got.infer.cycles <= limit * bound
    assert got.infer.cycles < 1.02 * lines
    prove(got.placement, machine)


def test_training_program_of_a_mobilenet(tmp_path: Path) -> None:
    """Twins make the forward pass of a training program far cheaper than one matrix for both directions (3.6 x the bound)."""
    got = compile_model(_zoo(tmp_path, "mobilenetv2-repnet", classes=17), CompileOptions())
    assert got.placement.twins
    assert got.infer.cycles < 2 * bound_cycles(got.graph, got.program.machine)
    prove(got.placement, got.program.machine)


def test_report_of_a_training_step() -> None:
    """Phases add up to the step; the binding unit and its fields are named; the named field does change the phase."""
    got = compile_model(mobilenet_like(), CompileOptions(batch=2))
    made = compile_report(got, 0.0)
    assert [row["phase"] for row in made["training"]] == list(PHASES)
    assert sum(row["cycles"] for row in made["training"]) == made["cycles"]["train_step"]
    for row in made["training"]:
        assert row["units"][row["binds"]] == max(row["units"].values()) > 0
        assert row["fields"]
        for name in row["fields"]:
            section, field = name.split(".")
            assert getattr(getattr(got.program.machine, section), field) is not None
    assert "training" not in compile_report(compile_model(mobilenet_like(), CompileOptions(inference_only=True)), 0.0)


@pytest.mark.parametrize("engine", ["fused", "bitserial", "step"])
def test_values_do_not_depend_on_the_mapping(engine: str) -> None:
    """A machine with room for twins and copies, and one without: the same logits and the same weights after a step."""
    results: list[Sequence[object]] = []
    for machine in (machine_with(), machine_with(array__banks=(2, 2), activation__banks=(1, 1))):
        got = compile_model(mobilenet_like(), CompileOptions(machine=machine, batch=2))
        device = Device(got.program, engine)
        images = np.random.default_rng(2).integers(0, 256, (2, *device.input_shape)).astype(np.uint8)
        for _ in range(2):
            device.train_step(images, np.array([1, 0]))
        results.append(
            (bool(got.placement.twins), device.infer(images).logits.tolist(), {n: w.tolist() for n, w in device.state().items()})
        )
    assert results[0][0]
    assert [r[1:] for r in results[:1]] == [r[1:] for r in results[1:]]


@st.composite
def padded_networks(draw: st.DrawFn) -> tuple[Builder, Value]:
    """Wide layers on small images: most of a kernel stands on padding, as at the end of a residual network."""
    b = Builder(draw(st.integers(0, 99)))
    x = b.input((draw(st.sampled_from([3, 32, 64])), draw(st.integers(1, 6)), draw(st.integers(1, 6))), low=0.0)
    for _ in range(draw(st.integers(1, 3))):
        kernel = draw(st.sampled_from([1, 3, 5]))
        pads = [kernel // 2] * 4
        x = b.conv(x, draw(st.sampled_from([8, 64, 128])), kernel, pads=pads, stride=draw(st.sampled_from([1, 2])), act="relu")
    return b, x


@given(padded_networks())
@settings(QUICK, max_examples=25)
def test_no_padded_network_is_faster_than_its_bound(case: tuple[Builder, Value]) -> None:
    b, x = case
    compiled = compile_model(b.model(b.gemm(b.global_pool(x), 4, name="head")), CompileOptions(inference_only=True))
    machine = compiled.program.machine
    assert compiled.infer.cycles >= bound_cycles(compiled.graph, machine)
    plain, lines = layer_bounds(compiled.graph, machine), word_line_bounds(compiled.graph, machine)
    assert all(lines[name] >= plain[name] - 1e-9 for name in plain)


@pytest.mark.parametrize("seed", range(20))
def test_no_random_network_is_faster_than_its_bound(seed: int) -> None:
    compiled = compile_model(random_graph(seed, train=False), CompileOptions(inference_only=True))
    assert compiled.infer.cycles >= bound_cycles(compiled.graph, compiled.program.machine)


class PlainShelves:
    """The rule of packing in so many words: every free rectangle is looked at."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        whole = (0, 0, machine.array.rows, machine.weights_per_row, "")
        self.kinds, self.free = [""] * machine.groups, [[whole] for _ in range(machine.groups)]

    def take(self, rows: int, cols: int, kind: str, owner: str) -> tuple[int, int, int] | None:
        allowed = self.machine.transposed.subarrays
        begun = (1 + self.kinds.count("transposable")) * self.machine.group_size
        may_begin = kind == "compute" or allowed == "auto" or begun <= int(allowed)
        fits = [
            ((not self.kinds[g], fr - rows, fc - cols, g if kind == "compute" else -g), i)
            for g, free in enumerate(self.free)
            if self.kinds[g] == kind or (not self.kinds[g] and may_begin)
            for i, (_, _, fr, fc, who) in enumerate(free)
            if fr >= rows and fc >= cols and who in ("", owner)
        ]
        if not fits:
            return None
        (_, _, _, order), i = min(fits)
        g = abs(order)
        r, c, fr, fc, who = self.free[g].pop(i)
        self.kinds[g] = kind
        self.free[g] += [p for p in ((r, c + cols, rows, fc - cols, owner), (r + rows, c, fr - rows, fc, who)) if p[2] and p[3]]
        return g, r, c


@given(
    st.lists(
        st.tuples(
            st.integers(1, 64),
            st.integers(1, 64),
            st.sampled_from(["compute", "transposable"]),
            st.sampled_from(["frozen", "trainable"]),
        ),
        max_size=60,
    ),
    st.sampled_from(["auto", 32, 64]),
)
@QUICK
def test_levels_stand_where_the_tightest_place_is(wanted: list[tuple[int, int, str, str]], transposable: str | int) -> None:
    """Against a search through every free rectangle."""
    machine = machine_with(array__banks=(8, 16), transposed__subarrays=transposable)
    plain, shelves = PlainShelves(machine), Shelves(machine)
    for rows, cols, kind, owner in wanted:
        got = shelves.take(rows, cols, kind, owner)
        assert (got and (got.group, got.row, got.col)) == plain.take(rows, cols, kind, owner)


@pytest.mark.parametrize("seed", range(20))
def test_addresses_after_joins_are_those_of_the_joined_regions(seed: int) -> None:
    """What moves is settled alone; the result is that of placing everything anew. Nothing overlaps that lives at the same time."""
    rng = np.random.default_rng(seed)
    regions = 12
    begin = rng.integers(0, regions, 40)
    live = {f"v{i}": (int(a), int(min(regions - 1, a + rng.integers(0, 4)))) for i, a in enumerate(begin)}
    sizes = {v: int(rng.integers(1, 60)) for v in live}
    now = Addresses(live, sizes, 4000)
    assert now.fits
    for _ in range(8):
        region = int(rng.integers(1, regions))
        joined = now.joined(region)
        live = {v: (a - (a >= region), b - (b >= region)) for v, (a, b) in live.items()}
        regions -= 1
        fresh = Addresses(live, sizes, 4000)
        assert joined is not None
        before, (now, moved) = now.by_name(), joined
        assert now.by_name() == fresh.by_name()
        changed = [v for v, at in now.by_name().items() if at != before[v]]
        assert moved == {k for v in changed for k in range(live[v][0], live[v][1] + 1)}
        for k in range(regions):
            spans = sorted(now.held(k))
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert not Addresses({"a": (0, 1), "b": (1, 1)}, {"a": 6, "b": 6}, 12).fits  # aligned to four bytes
    assert first_fit([(0, 6)], 4, 12) == 8
