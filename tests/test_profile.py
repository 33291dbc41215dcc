"""The profile of a run: equal on all engines, complete, and laid out as the program says."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from models import mobilenet_like
from test_engines import Maker, run_all, small_machine
from whole_path import machine_with

from sasimc.api import CompileOptions, compile_model, compile_report
from sasimc.isa.machine import Machine, load_machine
from sasimc.isa.objects import Geometry
from sasimc.isa.spec import RowRange
from sasimc.profiling.buffer_use import live_bytes
from sasimc.profiling.profile import Meter, place, profile, profile_rows, program_digest
from sasimc.runtime.device import Device


def trained(engine: str, steps: int = 1, **machine: Any) -> Device:
    compiled = compile_model(mobilenet_like(), CompileOptions(machine=machine_with(**machine), batch=2))
    device = Device(compiled.program, engine, 1)
    images = np.random.default_rng(1).integers(0, 256, (2, *device.input_shape)).astype(np.uint8)
    device.infer(images)
    for _ in range(steps):
        device.train_step(images, np.array([0, 1]))
    return device


@pytest.mark.parametrize(("skip", "overlap"), list(itertools.product(("energy", "cycles"), (True, False))))
def test_rows_are_the_same_on_every_engine_and_add_up(skip: str, overlap: bool) -> None:
    changes = {"bit_serial__zero_skip": skip, "controller__overlap": overlap}
    devices = [trained(engine, **changes) for engine in ("step", "bitserial", "fused")]
    found = [profile_rows(d.interpreter) for d in devices]
    assert found[0] == found[1] == found[2]
    it, rows = devices[0].interpreter, found[0]
    assert {r.phase for r in rows} == {"forward", "error", "gradient", "update"}
    for phase, cycles in it.phase_cycles.items():
        mine = [r for r in rows if r.phase == phase]
        assert math.fsum(r.cycles for r in mine) == pytest.approx(cycles, rel=1e-12)
        events: dict[str, int] = {}
        for r in mine:
            assert r.cycles >= 0
            for event, n in r.events.items():
                assert n > 0
                events[event] = events.get(event, 0) + n
        assert events == {e: n for e, n in it.phase_events[phase].items() if n}
    saved = sum(r.busy_cycles for r in rows) - it.cycles
    assert (saved > 0) == (overlap or skip == "cycles")


def test_data_dependent_events_belong_to_their_instruction() -> None:
    """Two products of known inputs, one of them all zero: sensed ones are booked where they arise."""
    m = Maker(4, small_machine())
    m.geometries["g"] = Geometry("g")
    for name in ("a", "b"):
        m.view(name, "buf", "u8", (2, 3, 4), slack=False)
        m.view(f"acc_{name}", "acc", "i32", (2, 3, 5))
        m.matrix(f"w_{name}", "dense", 4, 5)
        m.emit("vmm", f"acc_{name}", name, f"w_{name}", "g", RowRange(0, 0, 2))
    done = run_all(m.program(), {"a": np.full((2, 3, 4), 0b1011, np.uint8), "b": np.zeros((2, 3, 4), np.uint8)})
    for it in done.values():
        by_matrix = {r.matrix: r.events.get("sense_ones", 0) for r in profile_rows(it) if r.matrix}
        assert by_matrix == {"w_a": 2 * 3 * 4 * 3 * 8 * 5, "w_b": 0}


def test_profile_survives_json() -> None:
    device = trained("fused")
    made = profile(device.interpreter)
    assert json.loads(json.dumps(made)) == made
    assert Machine.model_validate(made["machine_description"]) == device.program.machine
    assert (
        made["program_digest"]
        == program_digest(device.program)
        != program_digest(trained("fused", write__cycles_per_row=3).program)
    )


def test_layout() -> None:
    device = trained("fused")
    made = profile(device.interpreter)["layout"]
    program = device.program
    assert [m["name"] for m in made["matrices"]] == list(program.matrices)
    weights = sum(t.rows * t.cols for m in program.matrices.values() for t in m.tiles)
    assert sum(s["weights"] for s in made["subarrays"]) == weights
    machine = program.machine
    for s in made["subarrays"]:
        assert 0 < s["rows"] <= machine.array.rows
        assert 0 < s["columns"] <= machine.weights_per_row
    events = device.interpreter.events
    driven = sum(events[e] for e in events if "activations" in e)
    assert sum(s["activations"] for s in made["subarrays"]) == pytest.approx(driven)
    written = events["rows_written_compute"] + events["rows_written_transposable"]
    assert sum(s["row_writes"] for s in made["subarrays"]) == pytest.approx(written)


@pytest.mark.parametrize(
    "shape", [((16, 16), (2, 2), (1, 16), (1, 2)), ((4, 6), (4, 2), (2, 3), (2, 1)), ((2, 2), (1, 1), (2, 2), (1, 1))]
)
def test_places_cover_the_chip(shape: tuple[tuple[int, int], ...]) -> None:
    """Every sub-array has a place of its own, and those of a group form one block of banks and one of MATs."""
    banks, mats, active_banks, active_mats = shape
    data = load_machine().model_dump()
    data["array"] |= {"banks": banks, "mats": mats}
    data["activation"] |= {"banks": active_banks, "mats": active_mats}
    machine = Machine.model_validate(data)
    places = [place(machine, s) for s in range(machine.subarrays)]
    assert len(set(places)) == machine.subarrays
    assert {p[0] for p in places} == set(itertools.product(range(banks[0]), range(banks[1])))
    assert {p[1] for p in places} == set(itertools.product(range(mats[0]), range(mats[1])))
    for first in range(0, machine.subarrays, machine.group_size):
        group = places[first : first + machine.group_size]
        for level, active in ((0, active_banks), (1, active_mats)):
            rows, cols = {p[level][0] for p in group}, {p[level][1] for p in group}
            assert (max(rows) - min(rows) + 1, max(cols) - min(cols) + 1) == tuple(active)


def test_wear() -> None:
    device = trained("fused", steps=3)
    made = profile(device.interpreter)["wear"]
    events = device.interpreter.events
    assert made["total"] == events["rows_written_compute"] + events["rows_written_transposable"] > 0
    assert made["mean"] == pytest.approx(made["total"] / made["rows"])
    assert made["mean"] <= made["worst"]
    sub, line = made["worst_row"]
    assert device.interpreter.state.wear[sub, line] == made["worst"] == max(w for _, w, _ in made["by_subarray"])


def test_meter_counts_between_laps() -> None:
    device = trained("fused")
    meter = Meter(device.interpreter)
    assert meter.lap() == {"phase_cycles": dict.fromkeys(("forward", "error", "gradient", "update"), 0),
                           "phase_events": {p: {} for p in ("forward", "error", "gradient", "update")}}  # fmt: skip
    before = device.interpreter.cycles
    device.infer(np.zeros((1, *device.input_shape), np.uint8))
    lap = meter.lap()
    assert sum(lap["phase_cycles"].values()) == device.interpreter.cycles - before > 0
    assert lap["phase_events"]["forward"]["instructions"] > 0
    assert not lap["phase_events"]["update"]
    kept = {phase: {k: n for k, n in counts.items() if k != "instructions"} for phase, counts in meter.last.items()}
    begun = Meter(device.interpreter, kept)  # by a version that did not count instructions
    assert begun.lap()["phase_events"]["forward"] == {"instructions": device.interpreter.phase_events["forward"]["instructions"]}


def test_buffer_in_use_by_hand() -> None:
    """x is read by the first instruction only, s by the second, y by the fourth; t reuses x's place and u that of s."""
    m = Maker(5, small_machine())
    shape = (2, 4, 8)  # 64 bytes
    for name in ("x", "s", "y"):
        m.view(name, "buf", "u8", shape, slack=False)
    m.views |= {"t": replace(m.views["x"], name="t"), "u": replace(m.views["s"], name="u")}
    m.emit("clip", "s", "x", 0, 255, RowRange(0, 0, 2))
    m.emit("clip", "y", "s", 0, 255, RowRange(0, 0, 2))
    m.emit("fill", "t", 3, RowRange(0, 0, 2))
    m.emit("clip", "t", "y", 0, 255, RowRange(0, 0, 2))
    m.emit("clip", "u", "t", 0, 255, RowRange(0, 0, 2))
    program = m.program()
    assert live_bytes(program, 0, len(program.code) - 1)[:5].tolist() == [128, 128, 128, 128, 128]


def test_buffer_in_a_loop() -> None:
    """What a loop reads before it writes is in use over the whole loop."""
    m = Maker(6, small_machine())
    for name in ("x", "y", "z"):
        m.view(name, "buf", "u8", (2, 4, 8), slack=False)
    m.emit("fill", "x", 1, RowRange(0, 0, 2))
    m.emit("loopi", 3)
    m.emit("clip", "y", "x", 0, 255, RowRange(0, 0, 2))
    m.emit("clip", "z", "y", 0, 255, RowRange(0, 0, 2))
    m.emit("endl")
    program = m.program()
    assert live_bytes(program, 0, len(program.code) - 1)[:5].tolist() == [64, 64, 128, 192, 64]


def test_buffer_use_stays_within_the_buffer_and_near_the_compilers_peak() -> None:
    compiled = compile_model(mobilenet_like(), CompileOptions(machine=machine_with(), batch=2))
    device = Device(compiled.program, "fused", 1)
    device.infer(np.zeros((1, *device.input_shape), np.uint8))
    device.train_step(np.zeros((2, *device.input_shape), np.uint8), np.array([0, 1]))
    use = profile(device.interpreter)["buffer_use"]
    assert set(use) == {"infer", "train_step"}
    assert use["infer"]["runs"] == 1
    peak = compile_report(compiled, 0.0)["buffer_peak_bytes"]
    assert 0.5 * peak <= max(u["peak"] for u in use.values()) <= peak
    for u in use.values():
        cycles = [p["cycle"] for p in u["points"]]
        assert cycles == sorted(cycles)
        assert max(p["bytes"] for p in u["points"]) == u["peak"] <= u["capacity"]
