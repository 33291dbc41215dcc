"""Overlapped regions: priced and counted alike, never longer than one instruction after the other, switched off by the machine."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from models import mobilenet_like

from sasimc.api import CompileOptions, compile_model
from sasimc.backend.bound import bound_cycles
from sasimc.frontend.onnx_import import import_model
from sasimc.isa.analysis.estimate import estimate
from sasimc.isa.analysis.timing import UNITS
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
