"""Cells that differ: maps fixed by the device's number, gradients against direct simulation, every engine alike, reversals that stay until written."""

from __future__ import annotations

import numpy as np
import pytest
from models import mobilenet_like
from scipy.special import ndtr
from test_faults import feed, history, images, weights
from whole_path import compile_onnx

from sasimc.evaluation.device.variation import CELL, DeviceMap, _probit_slopes
from sasimc.evaluation.technologies.load import load_technology
from sasimc.isa.program import Program
from sasimc.runtime.device import Device
from sasimc.runtime.faults import FaultPlan

SAS = load_technology("sas")
Z = SAS.stack("z")[1]


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_onnx(mobilenet_like(), batch=2).program


class Drawn:
    """A device of made-up cells: a few are bad at writing, at reading ones, at being read."""

    def __init__(self, program: Program, read: float = 0.7, disturb: float = 0.0) -> None:
        self.shape = program.machine.array.rows, program.machine.array.bit_columns
        self.levels = read, disturb

    def subarray(self, number: int) -> Drawn:
        rng = np.random.default_rng(number)
        bad = (rng.random(self.shape) < 0.01).astype(np.float32)
        self.write = 0.5 * bad
        self.read = np.stack([0 * bad, self.levels[0] * bad])
        self.disturb = np.stack([0 * bad, self.levels[1] * bad])
        return self


def test_a_probit_model_is_found_again() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60_000, 3))
    true = np.array([0.3, 0.0, -0.2])
    wrong = rng.random(len(x)) < ndtr(-(1.8 + x @ true))
    assert _probit_slopes(x, wrong) == pytest.approx(true, abs=0.04)


def test_a_device_is_fixed_by_its_number() -> None:
    one, again, other = (DeviceMap(Z, SAS.resistances, 8, 64, seed=s, macros=64) for s in (3, 3, 4))
    a, b, c = (d.subarray(2) for d in (one, again, other))
    assert np.array_equal(a.read, b.read)
    assert np.array_equal(a.write, b.write)
    assert not np.array_equal(a.read, c.read)
    assert not np.array_equal(a.read, one.subarray(3).read)
    assert a.read.shape == (2, 8, 64)
    assert ((a.read >= 0) & (a.read <= 1)).all()
    # a softer layer is disturbed more easily
    base, slopes = one._disturb
    assert slopes[1, CELL.index("anisotropy")] < 0
    assert base[1] > base[0]  # the read current favours the antiparallel state


def test_wide_spreads_are_read_wrong_as_often_as_drawn_cells_are() -> None:
    """The mean of the map against resistances drawn and compared one by one."""
    wide = Z.scaled({"variation.resistance_area": 4.0, "variation.sense_offset": 0.001, "variation.reference": 0.001, "variation.diameter": 0.001,
                     "variation.threshold": 0.001, "variation.tmr": 0.001, "read.sense_noise": 0.01})  # fmt: skip
    cells = DeviceMap(wide, SAS.resistances, 64, 512, macros=64).subarray(0)
    rng = np.random.default_rng(5)
    low = 4408 * (1 + 0.12 * rng.normal(size=200_000))
    at = 0.1 / (low + 2000)
    nominal = 0.1 / 6408, 0.1 / 10759
    got = (at < sum(nominal) / 2).mean()
    assert cells.read[1].mean() == pytest.approx(got, rel=0.35)


def ran(program: Program, plan: FaultPlan, engine: str = "fused") -> Device:
    """A device after one inference of two images."""
    device = Device(program, engine, 1)
    device.inject(plan, fresh=plan.cells is not None and plan.seed > 0)
    feed(device, images(device, 1))
    device.interpreter.regs[program.params["batch"]] = 2
    device._run("infer", 1)
    assert device.faults
    return device


def test_engines_agree_on_a_device_of_differing_cells(program: Program) -> None:
    plan = FaultPlan({}, 5, Drawn(program, disturb=1e-4))
    first = history(program, "bitserial", plan)
    for a, b in zip(first, history(program, "fused", plan), strict=True):
        assert np.array_equal(a, b)
    assert first[-1][:2].min() > 0
    assert first[-1][3] > 0
    by = {engine: ran(program, plan, engine) for engine in ("fused", "step")}
    assert np.array_equal(by["fused"].interpreter.state.cells, by["step"].interpreter.state.cells)
    assert by["fused"].interpreter.events == by["step"].interpreter.events


def test_bad_reads_depend_on_the_bit_and_vanish_reversals_stay(program: Program) -> None:
    clean = weights(Device(program, "fused", 1))
    read = ran(program, FaultPlan({}, 0, Drawn(program, read=1.0)))
    assert read.faults
    assert read.faults.counts["read"] > 0
    assert all(np.array_equal(clean[n], w) for n, w in weights(read).items())
    plan = FaultPlan({}, 0, Drawn(program, read=0.0, disturb=0.5))
    flips = {n: (clean[n] ^ w).view(np.uint8) for n, w in weights(ran(program, plan)).items()}
    bits = sum(int(np.bitwise_count(f).sum()) for f in flips.values())
    assert bits > 0
    assert all(not (f & ~clean[n].view(np.uint8)).any() for n, f in flips.items())  # ones alone are turned round


def test_scrubbing_puts_back_what_reads_turned_round(program: Program) -> None:
    kept = dict[int, int]()
    clean = weights(Device(program, "fused", 1))
    for scrub in (0, 1):
        device = ran(program, FaultPlan({}, 0, Drawn(program, read=0.0, disturb=0.02), scrub))
        for _ in range(4):
            device._run("infer", 1)
        kept[scrub] = sum(int(np.bitwise_count((clean[n] ^ w).view(np.uint8)).sum()) for n, w in weights(device).items())
    assert 0 < kept[1] < 0.7 * kept[0]
