"""Loops run as plans, on one thread and on several, against the same loops interpreted: every memory, register and counter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from test_runtime import ALL, program, view

from sasimc.api import CompileOptions, compile_model
from sasimc.isa.errors import Trap
from sasimc.isa.machine import load_machine
from sasimc.isa.objects import Geometry, Matrix, Table, Tile
from sasimc.isa.program import Program
from sasimc.isa.spec import RowRange
from sasimc.runtime.device import Device
from sasimc.runtime.engines.datapath import Datapath, in_order
from sasimc.runtime.engines.plans import LoopPlan
from sasimc.runtime.interpreter import Interpreter
from sasimc.runtime.kernels import run as native
from sasimc.zoo.zoo import ZooOptions, build, write

ENGINES = ("bitserial", "fused")
STEP = 1000


def interpreted(it: Interpreter) -> Interpreter:
    """The same interpreter without plans."""
    it.plan = lambda start, passes, regs=None: None  # type: ignore[method-assign]
    it.stretch = lambda: False  # type: ignore[method-assign]
    return it


def plans(it: Interpreter) -> list[LoopPlan]:
    """Every plan it made."""
    return [plan for made in it._plans.values() for _, _, plan in made]


def assert_same(a: Interpreter, b: Interpreter) -> None:
    """Memories, registers and counters are equal."""
    for name in ("cells", "written", "wear", "buf", "acc"):
        assert np.array_equal(getattr(a.state, name), getattr(b.state, name)), name
    size = min(a.state.host.size, b.state.host.size)
    assert np.array_equal(a.state.host[:size], b.state.host[:size])
    assert a.regs == b.regs
    for name, phase in a.counters.phases.items():
        other = b.counters.phases[name]
        assert phase.measured == other.measured, name
        assert phase.executed == other.executed, name
        regions = [
            sorted(
                (start, r.times, r.gained, sorted(r.skips.items()), sorted(r.executed.items()))
                for start, known in p.regions.items()
                for r in known
            )
            for p in (phase, other)
        ]
        assert regions[0] == regions[1], name
    assert a.phase_cycles == b.phase_cycles
    assert a.phase_events == b.phase_events


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Program:
    path = tmp_path_factory.mktemp("plans") / "net.onnx"
    options = ZooOptions(width=0.35, resolution=32, classes=4, calibration_images=1)
    return compile_model(write(build("mobilenetv2-repnet", options), path), CompileOptions(batch=3)).program


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("threads", "apart"), [(1, False), (2, True), (3, False), (3, True)])
def test_a_network_infers_and_learns_as_interpreted(
    network: Program, engine: str, threads: int, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``apart``: images side by side, on two threads with one left over; else threads share every step."""
    monkeypatch.setattr("sasimc.runtime.interpreter._MAX_THREADS", threads)
    monkeypatch.setattr(Datapath, "wake_ns", 0)
    monkeypatch.setattr(Datapath, "share_ns", 0)
    if not apart:
        monkeypatch.setattr("sasimc.runtime.engines.plans.side_by_side", lambda plan, passes, regs: None)
    device, other = Device(network, engine, threads), Device(network, engine, 1)
    interpreted(other.interpreter)
    side = network.views[device.io["input"]].height
    images = np.random.default_rng(3).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    for part in (images, images[:1]):
        assert np.array_equal(device.infer(part).logits, other.infer(part).logits)
    for mu in (3, 1):
        losses = [d.train_step(images, np.arange(3), head_exponent=mu).loss for d in (device, other)]
        assert losses[0] == losses[1]
    assert_same(device.interpreter, other.interpreter)
    built = plans(device.interpreter)
    assert len(built) > 50
    assert not device.interpreter.slow_loops  # every loop of a compiled program is a plan
    assert any(len(set(np.diff(p.steps[:, native.BEFORE]))) > 1 for p in built) == (threads > 1)  # some steps are shared out
    over = [plan for plan in built if not plan.whole and plan.body.samples]
    assert [any(plan._sides.values()) for plan in over] == [apart] * len(over)  # every loop over the images


# ------------------------------------------------------------------------------------------------ loops written by hand

_X, _ACC = view("x", "buf", "u8", (1, 1, 2)), view("a", "acc", "i32", (1, 1, 2))
_W = Matrix("w", "dense", "compute", 2, 2, "w", False, (Tile(3, 0, 0, 0, 0, 2, 2),))
_G = (Geometry("g"),)


def both(p: Program, engine: str, fill: dict[str, Any]) -> Iterator[tuple[Interpreter, Trap | None]]:
    """The program with plans on two threads, then interpreted; and how each ended."""
    for it in (Interpreter(p, engine, 2), interpreted(Interpreter(p, engine, 1))):
        trap = None
        for name, values in fill.items():
            it.write_view(name, values)
        try:
            it.run("main")
        except Trap as exc:
            trap = exc
        yield it, trap


def assert_alike(p: Program, engine: str, fill: dict[str, Any], kind: str = "", *, plan: bool = True) -> Interpreter:
    """Both ways end alike, with a trap of this kind or without; whether the loop became a plan."""
    (a, first), (b, second) = both(p, engine, fill)
    assert (first is None) == (not kind)
    if first is not None and second is not None:
        assert (first.kind, first.index, str(first)) == (second.kind, second.index, str(second))
        assert first.kind == kind
    assert_same(a, b)
    assert bool(a.slow_loops) != plan
    assert plans(a) or not plan
    return a


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sum_that_overflows_in_a_later_pass_traps_there(engine: str) -> None:
    code = (("loopi", 4), ("addi", 3, 3, 1), ("ovl",), ("vmm", "a", "x", "w", "g", ALL), ("sync",), ("li", 5, 1), ("endl",))
    p = program(*code, views=(_X, _ACC), matrices=(_W,), geoms=_G, tensors={"w": np.full((2, 2), 100, np.int8)})
    top = 2**31 - 1
    it = assert_alike(p, engine, {"x": [1, 1], "a": [top - 500, 0]}, "accumulator overflow")
    assert it.regs[3] == 3  # 200 a pass: the third does not fit
    assert it.regs[5] == 1
    assert it.instruction_cycles[3][0] == 3
    assert_alike(p, engine, {"x": [1, 1], "a": [top - 800, 0]})


def test_a_label_without_class_traps_at_its_sample() -> None:
    q, d = view("q", "buf", "i8", (1, 1, 3)), view("d", "buf", "i32", (1, 1, 3), addr=16)
    words, out = view("l", "host", "i32", (1, 1, 1), batch=4), view("o", "host", "i32", (1, 1, 1), addr=400, batch=4)
    table = Table("t", "loss", {"mult": 900, "t_other": 1000, "t_label": 30768})
    body = (("ldw", 6, "l", 4), ("xent", "d", "q", "t", 6, 7), ("argmax", 8, "q"), ("stw", "o", 7, 4), ("addi", 4, 4, 1))
    p = program(("li", 1, 3), ("loop", 1), *body, ("endl",), views=(q, d, words, out), tables=(table,))
    for labels, kind in (((0, 2, 1), ""), ((0, 3, 1), "label out of range"), ((-1, 0, 0), "label out of range")):
        done = []
        for it in (Interpreter(p, "fused", 2), interpreted(Interpreter(p, "fused", 1))):
            it.write_view("q", [-5, 100, 99])
            for i, label in enumerate(labels):
                it.write_view("l", [label], i)
            trap = ""
            try:
                it.run("main")
            except Trap as exc:
                trap = exc.kind
            assert trap == kind
            done.append(it)
        assert_same(*done)
        assert plans(done[0])


def test_samples_outside_of_host_memory_trap_as_interpreted() -> None:
    h, b = view("h", "host", "u8", (1, 1, 8), batch=8), view("b", "buf", "u8", (1, 1, 8))
    last = load_machine().host.memory_bytes // 8 - 1
    code = (("loopi", 3), ("hst", "h", "b", 4, ALL), ("addi", 4, 4, STEP), ("endl",))
    for first, step, kind in ((0, 1, ""), (2, -1, ""), (1, -1, "out of range")):
        looped = [tuple(step if word == STEP else word for word in line) for line in code]
        assert_alike(program(("li", 4, first), *looped, views=(h, b)), "fused", {"b": range(8)}, kind)
    it = Interpreter(program(*code, views=(h, b)), "fused")
    plan = it.plan(0, 3)
    assert plan is not None
    it.regs[4] = last - STEP  # its third sample would lie behind the end: refused before any memory is taken
    assert plan.host_end(3, it.regs) < 0


def test_what_only_data_decide_is_interpreted() -> None:
    v, words = view("v", "buf", "u8", (4, 1, 2)), view("l", "host", "i32", (1, 1, 1), batch=4)
    rows = (("loopi", 3), ("ldw", 6, "l", 4), ("fill", "v", 7, RowRange(6, 0, 1)), ("addi", 4, 4, 1), ("endl",))
    it = assert_alike(program(*rows, views=(v, words)), "fused", {}, plan=False)
    assert it.slow_loops[0].endswith("which rows it works on depends on r6, which instruction 1 (ldw) sets from data")
    inner = (("loopi", 3), ("ldw", 6, "l", 0), ("loop", 6), ("addi", 5, 5, 1), ("endl",), ("endl",))
    it = assert_alike(program(*inner, views=(words,)), "fused", {"l": [2]}, plan=False)
    assert it.regs[5] == 6
    assert set(it.slow_loops) == {0}  # the outer one; the inner one is a plan for the number that it finds
    assert "the number of passes depends on r6" in it.slow_loops[0]
    assert plans(it)
    moving = (("loopi", 3), ("drain", "d", "a", RowRange(4, 0, 1)), ("addi", 4, 4, 1), ("endl",))  # rows move from pass to pass
    tall, sums = view("d", "buf", "i32", (3, 1, 2)), view("a", "acc", "i32", (3, 1, 2))
    it = assert_alike(program(*moving, views=(tall, sums)), "fused", {"a": range(6)})
    assert it.read_view("d").reshape(-1).tolist() == list(range(6))


def test_registers_loops_and_regions() -> None:
    body = (
        ("loopi", 5), ("ovl",), ("li", 2, 3), ("loopi", 2), ("addi", 2, 2, 2), ("addi", 3, 3, -1), ("endl",), ("sync",), ("sub", 5, 2, 3),
        ("max", 6, 6, 5), ("min", 7, 7, 3), ("add", 8, 8, 6), ("li", 0, 9), ("addi", 9, 9, 2**31 - 1), ("loopi", 0), ("li", 2, 1), ("endl",),
        ("endl",),
    )  # fmt: skip
    it = assert_alike(program(*body), "fused", {})
    assert it.regs[:4] == [0, 0, 7, -10]
    assert it.regs[5:9] == [17, 17, -10, 9 + 11 + 13 + 15 + 17]
    depth = load_machine().controller.loop_depth
    nested = [("loopi", 2)] * (depth + 1) + [("endl",)] * (depth + 1)
    assert_alike(program(*nested), "fused", {}, "loop depth")


def test_a_budget_of_instructions_holds_for_plans() -> None:
    p = program(("loopi", 10), ("addi", 1, 1, 1), ("endl",))
    for limit in (1, 5, 21, 22):
        ends = []
        for it in (Interpreter(p, "fused"), interpreted(Interpreter(p, "fused"))):
            try:
                it.run("main", max_instructions=limit)
                ends.append("done")
            except Trap as exc:
                ends.append(f"{exc.kind} {exc.index} {it.regs[1]}")
        assert ends[0] == ends[1]
        assert (ends[0] == "done") == (limit >= 22)


def test_helpers_that_come_late_do_nothing() -> None:
    p = program(("loopi", 3), ("vmm", "a", "x", "w", "g", ALL), ("endl",), views=(_X, _ACC), matrices=(_W,), geoms=_G,
                tensors={"w": np.ones((2, 2), np.int8)})  # fmt: skip
    it = Interpreter(p, "fused", 1)
    it.write_view("x", [1, 2])
    it.run("main")
    (plan,), d = plans(it), it.datapath
    legs = np.array([(*in_order(plan.steps, 3), native.HEAD)], np.int64)
    control = np.zeros(native.HEAD + native.LEG_CONTROL, np.int64)
    for _ in range(2):  # the second call finds all shares taken
        native.run_plan(legs, control, d.crew.table, d.crew.undo, d.counts.reshape(-1), False)
        assert it.read_view("a").reshape(-1).tolist() == [18, 18]


def test_timed_plans_add_up_time() -> None:
    p = program(("loopi", 200), ("vmm", "a", "x", "w", "g", ALL), ("endl",), views=(_X, _ACC), matrices=(_W,), geoms=_G,
                tensors={"w": np.ones((2, 2), np.int8)})  # fmt: skip
    it = Interpreter(p, "fused", 1)
    it.datapath.timed = True
    it.run("main")
    assert set(it.datapath.spent) == {1}
    assert 0 < it.datapath.spent[1] < 10**9
