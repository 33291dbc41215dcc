"""``bit_serial.zero_skip = "cycles"``: word lines are active for the one bits of their input only; all engines save the same cycles."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from models import mobilenet_like
from test_engines import Maker, random_bytes, run_all, small_machine
from whole_path import machine_with

from sasimc.api import CompileOptions, compile_model
from sasimc.isa.machine import Machine, activation_cycles, activation_steps
from sasimc.isa.objects import Geometry, Matrix
from sasimc.isa.spec import RowRange
from sasimc.runtime.device import Device


def skipping(rule: str) -> Machine:
    data = small_machine(rule).model_dump()
    data["bit_serial"]["zero_skip"] = "cycles"
    return Machine.model_validate(data)


def expected_cycles(machine: Machine, mat: Matrix, streamed: np.ndarray) -> int:
    """Wave by wave, literally: ones of every word line, summed by sub-array, the slowest of every group."""
    total = 0
    for first in range(0, len(streamed), mat.copies):
        loads: dict[int, int] = {}
        for t in mat.tiles:
            if first + t.copy < len(streamed):
                ones = sum(int(v).bit_count() for v in streamed[first + t.copy, t.k : t.k + t.rows])
                loads[t.subarray] = loads.get(t.subarray, 0) + ones
        total += activation_cycles(machine, loads)
    return total


@pytest.mark.parametrize(("seed", "rule", "dtype"), list(itertools.product(range(3), ("row", "free"), ("u8", "i8"))))
def test_products_on_every_engine(seed: int, rule: str, dtype: str) -> None:
    machine = skipping(rule)
    m = Maker(seed, machine)
    h, w, c, n = (int(v) for v in m.rng.integers(2, 7, 4))
    pad = int(m.rng.choice([0, 5]))
    m.geometries["g"] = Geometry("g", kernel=(3, 3), pad=(1, 1))
    m.view("x", "buf", dtype, (h, w, c), pad=pad)
    m.view("dense", "acc", "i32", (h, w, n))
    m.view("single", "acc", "i32", (h, w, c))
    wd = m.matrix("wd", "dense", 9 * c, n, copies=int(m.rng.integers(1, 4)))
    ws = m.matrix("ws", "depthwise", c, 9, copies=int(m.rng.integers(1, 4)))
    m.emit("vmm", "dense", "x", "wd", "g", RowRange(0, 0, h))
    m.emit("dwm", "single", "x", "ws", "g", RowRange(0, 0, h))
    x = random_bytes(m.rng, dtype, (h, w, c))
    x[m.rng.random(x.shape) < 0.4] = 0
    done = run_all(m.program(), {"x": x})
    it = done["fused"]
    assert {d.cycles_saved for d in done.values()} == {it.cycles_saved}
    border = np.pad(x.view(np.uint8), ((1, 1), (1, 1), (0, 0)), constant_values=pad)
    windows = np.lib.stride_tricks.sliding_window_view(border, (3, 3), (0, 1)).transpose(0, 1, 3, 4, 2).reshape(h * w, -1)
    streamed = (border if pad else x.view(np.uint8)).reshape(-1, c)
    products = expected_cycles(machine, wd, windows) + expected_cycles(machine, ws, streamed)
    assert it.cycles == products + 3 * machine.controller.issue_cycles
    full = sum(-(-p // mat.copies) * mat_steps(machine, mat) for p, mat in ((len(windows), wd), (len(streamed), ws)))
    assert it.cycles_saved == 8 * full - products > 0


def mat_steps(machine: Machine, mat: Matrix) -> int:
    return activation_steps(machine, mat.loads)


@pytest.mark.parametrize("value", [0, 255])
def test_all_zero_and_all_one_inputs(value: int) -> None:
    """No one bit: only the issue remains. No zero bit: nothing is saved."""
    machine = skipping("row")
    m = Maker(3, machine)
    m.geometries["g"] = Geometry("g")
    m.view("x", "buf", "u8", (3, 4, 5))
    m.view("acc", "acc", "i32", (3, 4, 6))
    mat = m.matrix("w", "dense", 5, 6)
    m.emit("vmm", "acc", "x", "w", "g", RowRange(0, 0, 3))
    it = run_all(m.program(), {"x": np.full((3, 4, 5), value, np.uint8)})["bitserial"]
    issue = 2 * machine.controller.issue_cycles
    assert it.cycles - issue == (12 * 8 * mat_steps(machine, mat) if value else 0)


@pytest.mark.parametrize(("rule", "overlap"), list(itertools.product(("row", "free"), (True, False))))
def test_training_saves_the_same_on_every_engine(rule: str, overlap: bool) -> None:
    machine = machine_with(bit_serial__zero_skip="cycles", activation__rule=rule, controller__overlap=overlap)
    compiled = compile_model(mobilenet_like(), CompileOptions(machine=machine, batch=2))
    assert compiled.train_step is not None
    counted = []
    for engine in ("step", "bitserial", "fused"):
        device = Device(compiled.program, engine)
        images = np.random.default_rng(1).integers(0, 256, (2, *device.input_shape)).astype(np.uint8) // 3
        device.train_step(images, np.array([0, 1]))
        it = device.interpreter
        assert it.cycles + it.cycles_saved == compiled.train_step.cycles
        counted.append((it.cycles, it.phase_cycles, it.cycles_saved, it.events))
    assert counted[0] == counted[1] == counted[2]
    assert counted[0][2] > 0


def test_energy_saves_no_cycles() -> None:
    compiled = compile_model(mobilenet_like(), CompileOptions(inference_only=True))
    device = Device(compiled.program, "fused")
    device.infer(np.zeros((1, *device.input_shape), np.uint8))
    assert device.interpreter.cycles_saved == 0
    assert device.interpreter.cycles == compiled.infer.cycles
