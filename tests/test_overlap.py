"""What works side by side: segments of one region, scratch rows of gradients; and the proof that a mapping is near the best."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import mobilenet_like, residual_net
from whole_path import check, compile_onnx, machine_with

from sasimc.backend.builder import CapacityError
from sasimc.backend.compile import Compiled
from sasimc.backend.mapping import LayerMatrix, place, spread
from sasimc.backend.stripes import Addresses, ForwardPlan, _Planner
from sasimc.isa.analysis.lint import lint
from sasimc.isa.instructions.array import _scratch_cost
from sasimc.isa.objects import Matrix, Tile


def disjoint(spans: list[tuple[int, int]]) -> bool:
    ordered = sorted(spans)
    return all(a[1] <= b[0] for a, b in pairwise(ordered))


def used_at_once(compiled: Compiled, region: int) -> list[tuple[int, int]]:
    """Bytes of every buffered tensor and stripe that the segments of a region use."""
    plan, graph = compiled.plan, compiled.graph
    planner = _Planner(graph, compiled.program.machine, frozenset())
    members = [k for k, r in enumerate(plan.regions) if r == region]
    values = {plan.roots.get(v, v) for k in members for op in plan.chains[k].ops for v in (*op.inputs, op.output)}
    spans = [(plan.address[v], plan.address[v] + graph.type(v).size) for v in values if v in plan.address]
    for k in members:
        sizes = planner.temporaries(plan.chains[k], plan.rows[k], plan.home)
        spans += [(at, at + sizes[key]) for key, at in plan.temps[k].items()]
    return spans


@pytest.mark.parametrize("size", [401_408, 3000, 1500])
def test_segments_of_a_region_share_nothing(size: int) -> None:
    """They work at once, so no byte and no accumulator has two uses; and none but the first drives the arrays."""
    for model in (mobilenet_like(size=32, width=6, seed=6), residual_net(size=24, width=6, seed=1)):
        compiled = compile_onnx(model, machine=machine_with(buffer__bytes=size), inference_only=True)
        plan = compiled.plan
        assert plan.regions == sorted(plan.regions)
        joined = [k for k in range(1, len(plan.chains)) if plan.regions[k] == plan.regions[k - 1]]
        assert joined or size < 401_408
        assert not [k for k in joined if any(op.kind == "conv" for op in plan.chains[k].ops)]
        for region in set(plan.regions):
            assert disjoint(used_at_once(compiled, region))
        assert compiled.buffer_peak_bytes <= size
        assert lint(compiled.program) == []


def test_regions_save_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers in fewer cycles than with a region for every segment."""
    joined = check(mobilenet_like(), train=False, engines=("fused", "step"))

    def alone(_: _Planner, plan: ForwardPlan, placed: Addresses) -> ForwardPlan:
        return plan

    monkeypatch.setattr(_Planner, "join", alone)
    apart = check(mobilenet_like(), train=False)
    np.testing.assert_array_equal(joined.logits, apart.logits)
    assert joined.events["cycles"] < apart.events["cycles"]
    assert joined.events["row_activations"] == apart.events["row_activations"]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 600), st.integers(1, 90), st.integers(1, 99), st.integers(1, 24), st.integers(8, 64), st.integers(1, 32))
def test_scratch_rows_are_spread(height: int, width: int, vectors: int, rows: int, cols: int, count: int) -> None:
    """The chosen number of rows is nearly as fast as any, by the price of the instruction itself."""
    machine = machine_with()

    def scratch(r: int) -> Matrix:
        return Matrix(
            "s", "scratch", "compute", r * count, cols, "", False, tuple(Tile(i, 3, 0, i * r, 0, r, cols) for i in range(count))
        )

    held = spread(scratch(rows), height, width, vectors, machine)
    assert {(t.rows, t.cols, t.row) for t in held.tiles} == {(held.k // count, cols, 3)}
    assert held.k <= rows * count
    got = _scratch_cost(machine, held, height, width, vectors, 8)[0]
    best = min(_scratch_cost(machine, scratch(r), height, width, vectors, 8)[0] for r in range(1, rows + 1))
    assert got <= 1.06 * best + (2 + 8 * vectors) * rows, "within the last, partly filled pass"


def test_gradients_use_all_scratch_sub_arrays() -> None:
    """Few rows of many sub-arrays: the gradient phase of a network against the golden model, and scratch matrices of several heights."""
    case = check(residual_net(size=16, blocks=1, train="all"), engines=("fused", "bitserial", "step"), batch=2)
    scratch = [m for m in case.compiled.program.matrices.values() if m.kind == "scratch"]
    assert len({m.tiles[0].rows for m in scratch}) > 1
    assert {len(m.tiles) for m in scratch} == {32}
    assert lint(case.compiled.program) == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 12), st.integers(1, 60)), min_size=1, max_size=3), st.integers(1, 3))
def test_the_limit_is_proven(shapes: list[tuple[int, int, int]], groups: int) -> None:
    """No choice of piece heights and copies whose cells fit takes fewer cycles than the printed limit; the mapping found is no better either."""
    machine = machine_with(
        array__banks=(groups, 2), array__mats=(1, 1), activation__banks=(1, 2), activation__mats=(1, 1), array__rows=16,
        array__bit_columns=64, adder_tree__units=10**6,
    )  # fmt: skip
    layers = {
        f"l{i}": [LayerMatrix(f"l{i}", f"l{i}", "dense", "compute", False, 0, k, 0, n, np.zeros((k, n), np.int8), pixels)]
        for i, (k, n, pixels) in enumerate(shapes)
    }
    try:
        made = place(layers, machine, False)
    except CapacityError:
        return
    options: list[list[tuple[float, int]]] = []
    for k, n, pixels in shapes:
        w = min(n, 8)
        here = {}
        for h, c in product(range(1, 17), range(1, 9)):
            levels = -(-(-(-k // h) * -(-n // w) * c) // 2)
            cells = levels * h * w
            here[cells] = min(here.get(cells, 1e9), float(-(-pixels // c) * levels * h * 8))
        options.append([(cost, cells) for cells, cost in here.items()])
    room = groups * 16 * 8
    best = min((sum(c for c, _ in pick) for pick in product(*options) if sum(a for _, a in pick) <= room), default=float("inf"))
    assert made.limit <= best + 1e-6
    assert made.limit <= made.cost + 1e-6
