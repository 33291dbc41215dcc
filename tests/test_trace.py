"""The timeline: valid by the rules of the trace-event format, as long as the run, bounded, and without influence on it."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_path import machine_with

from sasimc.api import CompileOptions, compile_model
from sasimc.isa.analysis.timing import UNITS
from sasimc.isa.errors import SasError, Trap
from sasimc.isa.machine import Machine
from sasimc.profiling.lanes import LANE_PID
from sasimc.profiling.trace import MIN_LIMIT, PROGRAM, UNIT_PID, Tracer
from sasimc.runtime.device import Device
from sasimc.zoo.zoo import default_model_path

REQUIRED = {
    "X": {"ph", "ts", "dur", "pid", "tid", "name", "cat"},
    "C": {"ph", "ts", "pid", "name", "args"},
    "M": {"ph", "pid", "name", "args"},
    "i": {"ph", "ts", "pid", "tid", "name", "s"},
}
"""Kind of event -> keys it must have (Trace Event Format, sections on complete, counter, metadata and instant events)."""

METADATA = {
    "process_name": ("name", str),
    "thread_name": ("name", str),
    "process_sort_index": ("sort_index", int),
    "thread_sort_index": ("sort_index", int),
}


def problems(trace: dict[str, Any]) -> list[str]:
    """What breaks the rules of the format (JSON object form), or the viewers' expectations of it."""
    out: list[str] = []
    if trace.get("displayTimeUnit") not in ("ms", "ns"):
        out.append("displayTimeUnit is neither ms nor ns")
    events = trace["traceEvents"]
    named: set[tuple[str, int, int]] = set()
    lanes: dict[tuple[int, int], list[tuple[float, float, str]]] = defaultdict(list)
    counters: dict[tuple[int, str], list[tuple[float, frozenset[str]]]] = defaultdict(list)
    for n, e in enumerate(events):
        kind = e.get("ph")
        if kind not in REQUIRED:
            out.append(f"{n}: kind {kind!r}")
            continue
        if missing := REQUIRED[kind] - e.keys():
            out.append(f"{n}: without {sorted(missing)}")
            continue
        if not isinstance(e["pid"], int) or not isinstance(e.get("tid", 0), int):
            out.append(f"{n}: process and thread are no numbers")
        if "ts" in e and (isinstance(e["ts"], str) or not e["ts"] >= 0):
            out.append(f"{n}: time {e['ts']!r}")
        if kind == "M":
            key, kind_of = METADATA.get(e["name"], ("", object))
            if not isinstance(e["args"].get(key), kind_of):
                out.append(f"{n}: metadata {e['name']} of {e['args']}")
            mark = (e["name"], e["pid"], e.get("tid", 0))
            if mark in named:
                out.append(f"{n}: {mark} twice")
            named.add(mark)
        elif kind == "C":
            if not e["args"] or not all(isinstance(v, (int, float)) for v in e["args"].values()):
                out.append(f"{n}: counter {e['name']} is no number")
            counters[e["pid"], e["name"]].append((e["ts"], frozenset(e["args"])))
        elif kind == "X":
            if not e["dur"] > 0:
                out.append(f"{n}: {e['name']} lasts {e['dur']}")
            lanes[e["pid"], e["tid"]].append((e["ts"], e["ts"] + e["dur"], e["name"]))
        elif e["s"] not in ("g", "p", "t"):
            out.append(f"{n}: scope {e['s']!r}")
    for (pid, tid), slices in lanes.items():
        if ("process_name", pid, 0) not in named or ("thread_name", pid, tid) not in named:
            out.append(f"lane {pid}/{tid} has no name")
        if slices != sorted(slices, key=lambda s: (s[0], -s[1])):
            out.append(f"lane {pid}/{tid} is not in order of time")
        open_until: list[tuple[float, str]] = []
        for begin, end, name in slices:
            while open_until and open_until[-1][0] <= begin + 1e-9:
                open_until.pop()
            if open_until and end > open_until[-1][0] + 1e-9:
                out.append(f"lane {pid}/{tid}: {name} ({begin}..{end}) ends after {open_until[-1][1]} around it")
            open_until.append((end, name))
    for (_, name), samples in counters.items():
        times = [t for t, _ in samples]
        if times != sorted(times):
            out.append(f"counter {name} is not in order of time")
        if len({series for _, series in samples}) != 1:
            out.append(f"counter {name} changes its series")
    return out


def load(path: Path) -> dict[str, Any]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return json.loads(data)


def slices(trace: dict[str, Any], pid: int | None = None, cat: str | None = None) -> list[dict[str, Any]]:
    return [e for e in trace["traceEvents"] if e["ph"] == "X" and pid in (None, e["pid"]) and cat in (None, e["cat"])]


def cycles_of(trace: dict[str, Any], events: list[dict[str, Any]]) -> float:
    return sum(e["dur"] for e in events) * 1e-6 * trace["otherData"]["clock_hz"]


@pytest.fixture(scope="module")
def program() -> Any:
    return compile_model(default_model_path(), CompileOptions(batch=2)).program


def images(device: Device, count: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, (count, *device.input_shape)).astype(np.uint8)


def traced_step(program: Any, path: Path, engine: str = "fused", **options: Any) -> tuple[Device, dict[str, Any]]:
    """One inference and one training step, traced."""
    device = Device(program, engine, 1)
    tracer = Tracer(device.interpreter, **options)
    device.run_with(tracer.run)
    device.infer(images(device, 1))
    device.train_step(images(device, 2), np.array([0, 1]))
    tracer.write(path)
    return device, load(path)


def test_a_training_step_is_valid_and_as_long_as_the_run(program: Any, tmp_path: Path) -> None:
    device, trace = traced_step(program, tmp_path / "t.json.gz")
    assert problems(trace) == []
    it = device.interpreter
    by_phase: dict[str, float] = defaultdict(float)
    for e in slices(trace, PROGRAM, "phase"):
        by_phase[e["name"]] += cycles_of(trace, [e])
    assert {p: n for p, n in it.phase_cycles.items() if n} == pytest.approx(by_phase)
    assert cycles_of(trace, slices(trace, PROGRAM, "run")) == pytest.approx(it.cycles)
    assert [e["name"] for e in slices(trace, PROGRAM, "run")] == ["infer #1", "train_step #2"]
    nodes = {e["name"] for e in slices(trace, PROGRAM, "node")}
    assert {i.origin.node for i in program.code if i.origin.node and i.spec.unit != "control"} <= nodes
    assert trace["otherData"]["truncated"] is False
    assert {"buffer in use", "host traffic, bits per cycle"} <= {e["name"] for e in trace["traceEvents"] if e["ph"] == "C"}


def test_tracing_changes_nothing(program: Any, tmp_path: Path) -> None:
    traced, _ = traced_step(program, tmp_path / "t.json")
    plain = Device(program, "fused", 1)
    plain.infer(images(plain, 1))
    plain.train_step(images(plain, 2), np.array([0, 1]))
    a, b = traced.interpreter, plain.interpreter
    assert (a.cycles, a.events, a.phase_events) == (b.cycles, b.events, b.phase_events)
    assert np.array_equal(a.state.cells, b.state.cells)
    assert np.array_equal(a.state.buffer, b.state.buffer)


def test_counters_integrate_to_the_events(program: Any, tmp_path: Path) -> None:
    device, trace = traced_step(
        program, tmp_path / "t.json", price=lambda events, cycles: 1e-12 * events.get("sense_ones", 0) + 1e-9 * cycles
    )
    samples = [e for e in trace["traceEvents"] if e["ph"] == "C"]

    def integral(track: str) -> float:
        points = [(e["ts"], next(iter(e["args"].values()))) for e in samples if e["name"] == track]
        return sum((t1 - t0) * v for (t0, v), (t1, _) in pairwise(points)) * 1e-6

    clock, events = trace["otherData"]["clock_hz"], device.interpreter.events
    assert integral("bit cells sensed per cycle") * clock == pytest.approx(events["sense_ones"], rel=1e-4)
    written = events["bits_written_compute"] + events["bits_written_transposable"]
    assert written > 0
    assert integral("bits written to arrays per cycle") * clock == pytest.approx(written, rel=1e-4)
    joules = 1e-12 * events["sense_ones"] + 1e-9 * device.interpreter.cycles
    assert integral("power") == pytest.approx(joules, rel=1e-4)
    assert [e["args"]["J"] for e in samples if e["name"] == "energy so far"][-1] == pytest.approx(joules, rel=1e-4)


def test_groups_take_turns_and_units_are_as_busy_as_their_instructions(tmp_path: Path) -> None:
    machine = machine_with(controller__overlap=False)
    program = compile_model(default_model_path(), CompileOptions(machine=machine, inference_only=True)).program
    device = Device(program, "fused", 1)
    tracer = Tracer(device.interpreter)
    device.run_with(tracer.run)
    device.infer(images(device, 1))
    tracer.write(tmp_path / "t.json")
    trace = load(tmp_path / "t.json")
    assert problems(trace) == []
    arrays = sorted((e["ts"], e["ts"] + e["dur"], e["tid"]) for e in slices(trace) if e["pid"] >= LANE_PID)
    assert len({tid for *_, tid in arrays}) > 1
    for (_, end, a), (begin, _, b) in pairwise(arrays):
        assert a == b or begin >= end - 2e-3  # nothing of two groups at once, but for the resolution of a nanosecond
    busy = dict.fromkeys(UNITS, 0.0)
    for e in slices(trace, UNIT_PID):
        busy[UNITS[e["tid"] - 1]] += cycles_of(trace, [e])
    spent = defaultdict(float)
    for index, (times, cycles) in device.interpreter.instruction_cycles.items():
        spent[program.code[index].spec.unit] += cycles - times * machine.controller.issue_cycles
    for unit in ("periphery", "host"):
        assert busy[unit] == pytest.approx(spent[unit], rel=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation__rule": "free"},
        {"bit_serial__zero_skip": "cycles"},
        {"controller__issue_cycles": 0},
        {"clock_hz": 1.7e9},
        {"array__banks": (4, 8), "activation__banks": (1, 4), "array__rows": 512},
    ],
    ids=str,
)
def test_other_machines(changes: dict[str, Any], tmp_path: Path) -> None:
    machine: Machine = machine_with(**changes)
    program = compile_model(default_model_path(), CompileOptions(machine=machine, batch=2)).program
    device, trace = traced_step(program, tmp_path / "t.json")
    assert problems(trace) == []
    whole = cycles_of(trace, slices(trace, PROGRAM, "run"))
    assert whole == pytest.approx(device.interpreter.cycles, rel=1e-6)
    kinds = {e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name" and e["pid"] >= LANE_PID}
    few = len({t.subarray for m in program.matrices.values() for t in m.tiles}) <= 128
    assert any(k.startswith("bank (") for k in kinds) == few


@pytest.mark.parametrize("rule", ["row", "free"])
def test_kinds_of_lanes(rule: str, tmp_path: Path) -> None:
    machine = machine_with(activation__rule=rule)
    program = compile_model(default_model_path(), CompileOptions(machine=machine, inference_only=True)).program
    used = {t.subarray for m in program.matrices.values() for t in m.tiles}
    device = Device(program, "fused", 1)
    for kind, expected in (
        ("subarray", used),
        ("bank", {machine.bank_of(s) for s in used}),
        ("group", {machine.group_of(s) for s in used}),
    ):
        tracer = Tracer(device.interpreter, lanes=kind)
        device.run_with(tracer.run)
        device.infer(images(device, 1))
        tracer.write(tmp_path / "t.json")
        trace = load(tmp_path / "t.json")
        assert problems(trace) == []
        assert len({(e["pid"], e["tid"]) for e in slices(trace) if e["pid"] >= LANE_PID}) == len(expected)


def test_unknown_lanes_are_refused(program: Any) -> None:
    with pytest.raises(SasError, match="did you mean 'subarray'"):
        Tracer(Device(program, "fused", 1).interpreter, lanes="subarrays")


def test_the_limit_holds_and_is_said(program: Any, tmp_path: Path) -> None:
    for limit in (MIN_LIMIT, 1500):
        device, trace = traced_step(program, tmp_path / "t.json", limit=limit)
        recorded = [e for e in trace["traceEvents"] if e["ph"] in "XC"]
        assert limit // 2 < len(recorded) <= limit
        assert problems(trace) == []
        assert trace["otherData"]["truncated"] is True
        assert [e["name"] for e in trace["traceEvents"] if e["ph"] == "i"] == [
            f"the limit of {limit} events is reached; the run went on"
        ]
        assert device.interpreter.events["bits_written_transposable"] > 0
    with pytest.raises(SasError, match="at least"):
        Tracer(Device(program, "fused", 1).interpreter, limit=1)


def test_a_run_that_traps_leaves_a_valid_trace(program: Any, tmp_path: Path) -> None:
    device = Device(program, "fused", 1)
    tracer = Tracer(device.interpreter)
    device.run_with(tracer.run)
    index = next(i for i, c in enumerate(program.code) if c.spec.unit == "array" and i > 20)

    datapath = device.interpreter.datapath
    execute = datapath.execute

    def fail(number: int, r0: int, r1: int) -> None:
        if number == index:
            datapath.trap("out of range", "made by the test")
        execute(number, r0, r1)

    datapath.execute = fail  # type: ignore[method-assign]
    with pytest.raises(Trap):
        device.infer(images(device, 1))
    tracer.write(tmp_path / "t.json")
    trace = load(tmp_path / "t.json")
    assert problems(trace) == []
    assert slices(trace, PROGRAM, "instruction")


def test_the_file_is_the_same_every_time(program: Any, tmp_path: Path) -> None:
    traced_step(program, tmp_path / "a.json.gz")
    traced_step(program, tmp_path / "b.json.gz")
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"ph": "X", "ts": 1, "pid": 1, "tid": 1, "name": "a", "cat": ""}, "without ['dur']"),
        ({"ph": "X", "ts": 1, "dur": -1, "pid": 1, "tid": 1, "name": "a", "cat": ""}, "lasts -1"),
        ({"ph": "Q"}, "kind 'Q'"),
        ({"ph": "X", "ts": 5, "dur": 10, "pid": 1, "tid": 1, "name": "b", "cat": ""}, "ends after a"),
        ({"ph": "X", "ts": 0, "dur": 1, "pid": 7, "tid": 1, "name": "b", "cat": ""}, "has no name"),
        ({"ph": "C", "ts": 0, "pid": 1, "name": "c", "args": {"v": "many"}}, "is no number"),
    ],
)
def test_the_checker_sees_what_it_looks_for(broken: dict[str, Any], said: str) -> None:
    names = [
        {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": "p"}},
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": 1, "args": {"name": "t"}},
        {"ph": "X", "ts": 0, "dur": 10, "pid": 1, "tid": 1, "name": "a", "cat": ""},
    ]
    assert problems({"displayTimeUnit": "ns", "traceEvents": names}) == []
    assert any(said in p for p in problems({"displayTimeUnit": "ns", "traceEvents": [*names, broken]}))
