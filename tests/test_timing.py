"""Overlapped regions: priced and counted alike, never longer than one instruction after the other, switched off by the machine."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from models import mobilenet_like

from sasimc.api import CompileOptions, compile_model
from sasimc.backend.bound import bound_cycles
from sasimc.frontend.onnx_import import import_model
from sasimc.isa.analysis.estimate import cost_of_key, estimate, executed
from sasimc.isa.analysis.pipeline import handover, handover_of
from sasimc.isa.analysis.timing import UNITS, busy
from sasimc.isa.machine import Machine, load_machine
from sasimc.runtime.device import Device


def _machine(overlap: bool) -> Machine:
    described = load_machine().model_dump()
    described["controller"]["overlap"] = overlap
    return Machine.model_validate(described)


@pytest.fixture(scope="module")
def compiled():
    return compile_model(mobilenet_like(), CompileOptions(batch=2))


def test_overlap_shortens_and_never_lengthens(compiled) -> None:
    with_overlap = estimate(compiled.program, "train_step", {"batch": 2})
    serial = estimate(dataclasses.replace(compiled.program, machine=_machine(False)), "train_step", {"batch": 2})
    assert with_overlap.cycles < serial.cycles
    assert with_overlap.events == serial.events
    assert all(with_overlap.phases[p] <= serial.phases[p] for p in serial.phases)


def test_counted_cycles_are_the_priced_ones(compiled) -> None:
    for machine in (_machine(True), _machine(False)):
        program = dataclasses.replace(compiled.program, machine=machine)
        device = Device(program, "fused")
        shape = (2, *device.input_shape)
        device.infer(np.zeros(shape, np.uint8))
        assert device.interpreter.cycles == estimate(program, "infer", {"batch": 2}).cycles


def test_node_cycles_add_up(compiled) -> None:
    got = estimate(compiled.program, "infer", {"batch": 1})
    assert sum(got.node_cycles.values()) == pytest.approx(got.cycles)
    assert sum(units["array"] for units in got.node_units.values()) <= got.cycles
    assert all(set(units) == set(UNITS) for units in got.node_units.values())


def test_no_mapping_beats_the_bound(compiled) -> None:
    graph = import_model(mobilenet_like())
    got = compile_model(mobilenet_like(), CompileOptions(inference_only=True))
    assert got.infer.cycles >= bound_cycles(graph, got.program.machine) > 0


def test_filling_bounds_a_simulated_pipeline(compiled) -> None:
    """Every region once more as a flow shop: rows are the jobs, units the machines, an instruction is an operation of a row, in the order of the code. It is
    never longer than what is counted and the filling."""
    program = compiled.program
    machine, longer = program.machine, 0
    resolved, parts = executed(program, "infer", {"batch": 1})
    for phase, overlapped, counts in parts:
        if not overlapped:
            continue
        costs = {key: cost_of_key(program, resolved, key) for key in counts}
        rows = max(1, *(n * max(1, r1 - r0) for (_, r0, r1), n in counts.items()))
        stages: dict[int, float] = {}
        for key, n in counts.items():
            if program.code[key[0]].spec.group != "control":
                own = UNITS.index(program.code[key[0]].spec.unit)
                stages[key[0]] = stages.get(key[0], 0.0) + busy(machine, program.code[key[0]].spec, costs[key])[own] * n / rows
        free, end = [0.0] * len(UNITS), 0.0
        for _ in range(rows):
            at = 0.0
            for pc in sorted(stages):
                own = UNITS.index(program.code[pc].spec.unit)
                at = free[own] = max(at, free[own]) + stages[pc]
            end = max(end, at)
        region = handover_of(program, resolved, [(phase, True, counts)])
        assert end <= region.cycles + region.filling + 1e-9
        longer += region.filling
    whole = handover(program, "infer", {"batch": 1})
    assert whole.filling == longer > 0
    assert whole.cycles == estimate(program, "infer", {"batch": 1}).cycles
    assert whole.filling < 0.05 * whole.cycles


def test_rows_are_handed_on_in_the_room_there_is(compiled) -> None:
    """The compiler's stripes hold what their readers and writers touch; in a machine with a smaller buffer than they were planned for it shows."""
    program = compiled.program
    assert handover(program, "infer", {"batch": 1}, compiled.buffer_peak_bytes).short == 0
    described = program.machine.model_dump()
    described["buffer"]["bytes"] = compiled.buffer_peak_bytes - 1
    small = dataclasses.replace(program, machine=Machine.model_validate(described))
    found = handover(small, "infer", {"batch": 1}, compiled.buffer_peak_bytes)
    assert found.short == found.regions > 0
    assert found.stalls > 0
    serial = dataclasses.replace(program, machine=_machine(False))
    assert handover(serial, "infer", {"batch": 1}).regions == 0
