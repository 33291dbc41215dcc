"""The debugger against plain stepping: every instant that is sought has the state, cycles and events that stepping found there; events are those that
comparing bytes after every instruction finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from debug_rings import RINGS
from tiny_task import dataset, short_program

from sasimc.debug.look import cost_of_last, frames, stripes, subarray
from sasimc.debug.microscope import Bit, Tree, bits, rows
from sasimc.debug.runs import entries, training
from sasimc.debug.session import Session
from sasimc.isa.errors import SasError
from sasimc.isa.program import Program
from sasimc.isa.text.assembler import assemble
from sasimc.runtime.device import Device
from sasimc.runtime.interpreter import ENGINES, Interpreter
from sasimc.training.recipe import Recipe


@pytest.fixture(scope="module")
def program() -> Program:
    return assemble(RINGS)


def _host(it: Interpreter) -> None:
    it.write_view("in", np.arange(64) * 37 % 41 - 20)
    it.regs[1] = 3


@dataclass(frozen=True)
class Instant:
    """What plain stepping found at an instant."""

    pc: int
    bytes: bytes
    regs: tuple[int, ...]
    cycles: int
    events: dict[str, int]


def _state(it: Interpreter, pc: int) -> Instant:
    s = it.state
    whole = s.buffer.tobytes() + s.accumulators.tobytes() + s.host[:256].tobytes() + s.cells.tobytes() + s.wear.tobytes()
    return Instant(pc, whole, tuple(it.regs), it.cycles, dict(it.events))


@pytest.fixture(scope="module")
def truth(program: Program) -> list[Instant]:
    """Every instant of the run."""
    it = Interpreter(program, "fused", 1)
    _host(it)
    walk, out = it.steps("main"), [_state(it, program.entries["main"])]
    for _ in walk:
        out.append(_state(it, it.at.pc if it.at.running else -1))
    return out


def _session(program: Program, engine: str = "fused", history: int = 256 << 20) -> Session:
    return Session(program, entries("main", prepare=_host), engine=engine, threads=1, history=history)


def _now(s: Session) -> Instant:
    return _state(s.it, -1 if s.pc is None else s.pc)


# ------------------------------------------------------------------------------------------------------------------------ time


@pytest.mark.parametrize("engine", ENGINES)
def test_every_instant_is_the_same_from_wherever_one_comes(program: Program, truth: list[Instant], engine: str) -> None:
    s, end = _session(program, engine), len(truth) - 1
    rng = np.random.default_rng(1)
    for instant in [0, end, *rng.integers(0, end + 1, 40).tolist(), end, 0]:
        s.goto(instant)
        assert s.history.time == instant
        assert _now(s) == truth[instant]


def test_checkpoints_keep_to_their_memory(program: Program, truth: list[Instant]) -> None:
    """Going back and forth takes no more than is allowed, and changes nothing."""
    small = _session(program)
    first = small.history.checkpoints.bytes
    limit = first + 3 * (1 << 15)
    s = _session(program, history=limit)
    for instant in (*range(len(truth)), *range(len(truth) - 1, 0, -3)):
        s.goto(instant)
        s.history._take()
        assert s.history.checkpoints.bytes <= limit or len(s.history.checkpoints) <= 2
        assert _now(s) == truth[instant]
    assert s.history.checkpoints.times[0] == 0


def test_a_step_and_a_step_back(program: Program, truth: list[Instant]) -> None:
    s = _session(program)
    assert s.step(5).position.time == 5
    assert s.step(backwards=True).position.time == 4
    assert _now(s) == truth[4]
    assert s.step(99, backwards=True).reason == "beginning"
    assert s.step(10_000).reason == "end"
    assert _now(s) == truth[-1]
    assert s.step().reason == "end"


def test_over_and_out_of_loops(program: Program, truth: list[Instant]) -> None:
    """`over` at a loop stands behind it, and back before it; `out` leaves the innermost loop."""
    s = _session(program)
    code = [i.spec.mnemonic for i in program.code]
    outer, inner = code.index("loop"), code.index("loopi")
    s.add_breakpoint(f"*{inner}", temporary=True)
    begun = s.resume().position.time
    behind = s.over()
    assert s.pc == s.it.at.ends[inner] + 1
    assert behind.position.time == begun + 1 + 4 * 5
    assert s.over(backwards=True).position.time == begun
    s.step(7)
    assert s.out().position.time == behind.position.time
    s.goto(begun + 8)
    assert s.out(backwards=True).position.time == begun
    assert s.out().position.pc == s.it.at.ends[outer] + 1
    assert s.out().reason == "end"
    assert _now(s) == truth[-1]


# ----------------------------------------------------------------------------------------------------------------- breakpoints


def test_breakpoints_are_left_and_met_again_in_both_directions(program: Program, truth: list[Instant]) -> None:
    at = [i for i, t in enumerate(truth) if t.pc == 6]
    s = _session(program)
    b = s.add_breakpoint("conv")
    assert [s.resume().position.time for _ in at] == at
    assert s.resume().reason == "end"
    back = [s.resume(backwards=True).position.time for _ in at]
    assert back == at[::-1]
    assert s.resume(backwards=True).reason == "beginning"
    assert s.history.time == 0
    b.condition = None
    s.delete(b.number)
    s.add_breakpoint("conv", "r2 == 1 and max(a) >= 0 and r3 > 2")
    wanted = [i for i in at if truth[i].regs[2] == 1 and truth[i].regs[3] > 2]
    assert [s.resume().position.time for _ in wanted] == wanted
    assert s.resume().reason == "end"


def test_a_breakpoint_at_the_very_beginning(program: Program) -> None:
    """It stops the first time, is left, is met going back to the beginning, and again after `restart`."""
    s = _session(program)
    s.add_breakpoint("main")
    assert s.resume().reason == "breakpoint"
    assert s.history.time == 0
    assert s.resume().reason == "end"
    assert s.resume(backwards=True).reason == "breakpoint"
    assert s.history.time == 0
    assert s.resume(backwards=True).reason == "beginning"
    s.restart()
    assert (s.resume().reason, s.history.time) == ("breakpoint", 0)


def test_phases_lines_ignoring_and_passing_once(program: Program, truth: list[Instant]) -> None:
    s = _session(program)
    s.add_breakpoint("phase update")
    line = program.code[9].line
    b = s.add_breakpoint(f"<text>:{line}")
    assert b.pcs == {9}
    b.ignore = 11
    twelfth = [i for i, t in enumerate(truth) if t.pc == 9][11]
    assert s.resume().position.time == twelfth
    assert s.resume().position.pc == 13
    b.enabled = False
    assert s.resume(backwards=True).reason == "beginning"


@pytest.mark.parametrize(
    "what, message",
    [
        ("nowhere", "no entry or node 'nowhere'"), ("*99", "no instruction 99"), ("other.s:3", "no file"), ("9999", "no instruction on line"),
        ("phase night", "no phase 'night'"), ("phase error", "never sets phase error"), ("step 3", "no training step"), ("", "where is"),
    ],
)  # fmt: skip
def test_breakpoints_that_mean_nothing(program: Program, what: str, message: str) -> None:
    with pytest.raises(SasError, match=message.replace("*", r"\*")):
        _session(program).add_breakpoint(what)


# ----------------------------------------------------------------------------------------------------------------- watchpoints


def _changes(truth: list[Instant], first: int, length: int) -> list[int]:
    """Instants before the instructions that change these bytes, by comparing."""
    part = [t.bytes[first : first + length] for t in truth]
    return [i for i in range(len(part) - 1) if part[i] != part[i + 1]]


@pytest.mark.parametrize("engine", ["fused", "step"])
@pytest.mark.parametrize("place, first, length", [("y[5, 2, 1]", 64 + 12 + 7, 1), ("z", 128, 96), ("a[1, 0, 0]", 401408 + 48, 4)])
def test_a_watchpoint_stops_at_every_change_in_both_directions(
    program: Program, truth: list[Instant], engine: str, place: str, first: int, length: int
) -> None:
    wanted = _changes(truth, first, length)
    assert wanted
    s = _session(program, engine)
    s.add_watchpoint(place)
    for instant in wanted:
        stop = s.resume()
        assert (stop.reason, stop.position.time) == ("watchpoint", instant + 1)
        hit = stop.hits[0]
        assert (hit.time, hit.pc) == (instant, truth[instant].pc)
        assert np.array_equal(hit.after, s.place(place).read(s.it))
    assert s.resume().reason == "end"
    for instant in wanted[::-1]:
        stop = s.resume(backwards=True)
        assert (stop.reason, stop.position.time, stop.position.pc) == ("watchpoint", instant, truth[instant].pc)
        assert np.array_equal(stop.hits[0].before, s.place(place).read(s.it))
        assert not np.array_equal(stop.hits[0].before, stop.hits[0].after)
    assert s.resume(backwards=True).reason == "beginning"


def test_reads_writes_and_registers(program: Program, truth: list[Instant]) -> None:
    s = _session(program)
    w = s.add_watchpoint("y[4, 0, 0]", "read")
    rows = [i for i, t in enumerate(truth) if t.pc == 8]  # the ring: rows 0, 2, 4, 6 are read from the same bytes
    assert [s.resume().hits[0].time for _ in rows] == rows
    s.delete(w.number)
    s.restart()
    s.add_watchpoint("r3", "write")
    sets = [i for i, t in enumerate(truth) if t.pc in (4, 9)]
    assert [s.resume().hits[0].time for _ in sets] == sets


def test_who_wrote_a_byte_last(program: Program, truth: list[Instant]) -> None:
    s = _session(program)
    s.goto(len(truth) - 1)
    hit = s.last_write("z[3, 1, 2]")
    assert hit is not None
    assert hit.time == max(i for i, t in enumerate(truth) if t.pc == 8 and t.regs[3] == 2)
    assert s.history.time == len(truth) - 1
    assert s.last_write("buf[5000]") is None
    outside = s.last_write("out[0, 0, 0]")
    assert outside is not None
    assert program.code[outside.pc].spec.mnemonic == "hst"
    s.goto(0)
    assert s.last_write("z[3, 1, 2]") is None


def test_a_change_by_the_user_belongs_to_history(program: Program, truth: list[Instant]) -> None:
    s = _session(program)
    s.goto(7)
    s.set("x[0, 0, 0]", 99)
    s.goto(len(truth) - 1)
    changed = _now(s)
    assert changed.bytes != truth[-1].bytes
    s.goto(3)
    assert _now(s) == truth[3]
    s.goto(len(truth) - 1)
    assert _now(s) == changed
    with pytest.raises(SasError, match=r"holds -128\.\.127"):
        s.set("x[0, 0, 0]", 200)
    s.goto(0)
    s.set("r1", 1)
    s.resume()
    assert s.history.time < len(truth) - 1


# ---------------------------------------------------------------------------------------------------------------------- traps


def test_a_trap_stands_before_its_instruction() -> None:
    """In the middle of a loop that otherwise runs as a whole; going on traps again, going back works."""
    text = RINGS.replace("in host i8 8x4x2", "in host i8 8x4x2 batch=64")
    text = text.replace(
        "      addi r2, r2, 1\n", "      addi r2, r2, 1\n      hld x, in, r5, all\n      addi r5, r5, 1000000000\n"
    )
    p = assemble(text)
    it = Interpreter(p, "fused", 1)
    _host(it)
    walk: list[int] = []
    with pytest.raises(SasError, match="out of range"):
        walk.extend(it.steps("main"))
    walked = len(walk) - 1
    s = _session(p)
    stop = s.resume()
    assert stop.reason == "trap"
    assert stop.trap is not None
    assert stop.position.time == walked + 1
    assert p.code[stop.position.pc or 0].spec.mnemonic == "hld"
    before = _now(s)
    assert s.step().reason == "trap"
    assert _now(s) == before
    assert s.step(backwards=True).position.time == walked


# --------------------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def steps() -> tuple[Session, Any]:
    device = Device(short_program(), "fused", 1)
    modules = {"latest": 0.1}  # they wait in the first step alone
    data, recipe = dataset(), Recipe.model_validate({"epochs": 2, "batch": 2, "seed": 3, "modules": modules})
    return Session(device, training(device, data, recipe)), (data, recipe)


def test_the_steps_are_those_of_a_training(steps: tuple[Session, Any]) -> None:
    """Weights before step 4 are those that `train` has after three steps; whoever goes back finds the first ones."""
    from sasimc.training.trainer import TrainState, train

    s, (data, recipe) = steps
    device = Device(short_program(), "fused", 1)
    seen: list[dict[str, Any]] = [device.state()]

    def keep(run: TrainState) -> None:
        if run.step == len(seen):
            seen.append(device.state())

    train(device, data, recipe, keep=keep)
    s.add_breakpoint("step 4", temporary=True)
    stop = s.resume()
    assert stop.position.step == 4
    assert stop.position.title.startswith("training step 4 (epoch ")
    for name, weights in seen[3].items():
        assert np.array_equal(s.it.read_matrix(name), weights)
    s.add_breakpoint("step 2", temporary=True)
    assert s.resume(backwards=True).position.step == 2
    for name, weights in seen[1].items():
        assert np.array_equal(s.it.read_matrix(name), weights)


def test_cells_are_watched_and_their_writer_is_found(steps: tuple[Session, Any]) -> None:
    s, _ = steps
    s.points.clear()
    s.goto(s.history.starts[2])
    name = next(n for n, m in s.program.matrices.items() if m.trainable and m.kind != "scratch")
    now = s.it.read_matrix(name)
    s.goto(s.history.starts[0])
    k, n = np.argwhere(s.it.read_matrix(name) != now)[0].tolist()
    s.goto(s.history.starts[2])
    hit = s.last_write(f'"{name}"[{k}, {n}]')
    assert hit is not None
    assert s.program.code[hit.pc].spec.changes("cells")
    assert int(hit.after) == now[k, n]
    s.add_watchpoint(f'"{name}"[{k}, {n}]', "change")
    stop = s.resume(backwards=True)
    assert stop.reason == "watchpoint"
    assert stop.hits[0].before != stop.hits[0].after
    s.points.clear()


# --------------------------------------------------------------------------------------------------------------------- looking


def test_where_reads_like_a_stack(program: Program) -> None:
    s = _session(program)
    s.add_breakpoint("store", "r2 == 1 and r3 == 4")
    s.resume()
    assert [(f.kind, f.text) for f in frames(s)] == [
        ("instruction", "clip z, y, -100, 100, r3:2"), ("node", "store (made by hand)"), ("loop", "loopi 4, pass 3 of 4"),
        ("loop", "loop r1, pass 2 of 3"), ("phase", "forward"), ("entry", "main"), ("run", "main"),
    ]  # fmt: skip


def test_stripes_gather_what_the_ring_forgets(program: Program, truth: list[Instant]) -> None:
    s = _session(program)
    s.goto(len(truth) - 1)
    x, w = (np.arange(64) * 37 % 41 - 20).reshape(8, 4, 2), np.array([[1, 2, 3], [-4, -5, -6]])
    sums = (x @ w).astype(np.int64)
    whole = np.clip(np.sign(sums) * ((np.abs(sums) * 0x40000000 + (1 << 30)) >> 31), -128, 127)
    found = stripes(s, "y")
    assert found.held == {6, 7}
    assert found.tensor.present.all()
    assert np.abs(found.tensor.values - whole).max() <= 1
    assert np.array_equal(np.clip(found.tensor.values, -100, 100), s.it.read_view("z"))
    assert [row for row, _, _ in found.rows] == list(range(8)) * 3
    sub = subarray(s, 3)
    assert sub.owner(3, 1) == ("w", 1, 1)
    assert sub.weights[2:4, :3].tolist() == w.tolist()
    assert [int(sub.bits[3, 8 + b]) for b in range(8)] == [(-5 >> b) & 1 for b in range(8)]


def test_costs_add_up(program: Program, truth: list[Instant]) -> None:
    s = _session(program)
    for instant in (7, 8, 20):
        s.goto(instant)
        pc, cycles, events, _ = cost_of_last(s)
        assert pc == truth[instant - 1].pc
        assert cycles == truth[instant].cycles - truth[instant - 1].cycles
        assert events["instructions"] == 1


@pytest.mark.parametrize("engine", ["fused", "step"])
def test_under_the_microscope_bits_make_the_sums(program: Program, engine: str) -> None:
    """Sense amplifiers, shift-and-add and adder tree of a product, cycle by cycle, end in what it adds to the accumulators."""
    s = _session(program, engine)
    s.add_breakpoint("conv", "r3 == 2")
    s.resume()
    x, before = s.it.read_view("x").reshape(-1, 2), s.it.read_rows("a", 2, 4)
    moments = list(bits(s))
    s.step()
    last = moments[-1]
    assert isinstance(last, Tree)
    assert np.array_equal(last.sums.reshape(2, 4, 3), s.it.read_rows("a", 2, 4) - before)
    cycles = [m for m in moments if isinstance(m, Bit)]
    assert len(cycles) == 8 * 2 * 8  # pixels, word lines, input bits
    first = cycles[0].lines[0]
    assert (first.subarray, first.row, first.value) == (3, 2, int(x[8, 0]) & 255)
    for m in cycles[8:16]:
        [line] = m.lines
        assert line.bit == int(x[8, 1]) >> m.bit & 1
        assert [int("".join(map(str, w[::-1])), 2) for w in line.sensed] == [line.bit * (w & 255) for w in (-4, -5, -6)]
    assert cycles[15].lines[0].partial.tolist() == (x[8].astype(int) @ [[1, 2, 3], [-4, -5, -6]]).tolist()
    s.step()
    with pytest.raises(SasError, match="drives no word lines"):
        list(bits(s))


def test_row_by_row(program: Program) -> None:
    s = _session(program)
    s.add_breakpoint("conv", "r3 == 2")
    s.resume()
    found = list(rows(s))
    assert [r.row for r in found] == [2, 3]
    s.step()
    assert np.array_equal(np.concatenate([r.parts[0][2] for r in found]), s.it.read_rows("a", 2, 4))
    s.goto(0)
    with pytest.raises(SasError, match="not done row by row"):
        list(rows(s))
