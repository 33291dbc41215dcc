"""Bit errors: drawn as planned, the same on every engine, put back after a read, kept after a write; nothing without them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from models import mobilenet_like
from whole_path import compile_onnx

from sasimc.cli import sasrun
from sasimc.cli.common import invoke
from sasimc.isa.errors import SasError
from sasimc.isa.program import Program
from sasimc.runtime.device import Device
from sasimc.runtime.faults import FaultPlan, Rates, draw_mask, parse_bit_errors


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_onnx(mobilenet_like(), batch=2).program


def plan(seed: int = 0, kind: str = "", **rates: float) -> FaultPlan:
    kinds = (kind,) if kind else ("compute", "transposable")
    return FaultPlan({k: Rates(**rates) for k in kinds}, seed)


def images(device: Device, seed: int = 0) -> np.ndarray:
    low, high = (0, 256) if device.program.views[device.io["input"]].dtype == "u8" else (-128, 128)
    shape = (2, *device.input_shape)
    dtype = np.uint8 if low == 0 else np.int8
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def feed(device: Device, x: np.ndarray) -> None:
    for b, sample in enumerate(x):
        device.interpreter.write_view(device.io["input"], sample, b)


def history(program: Program, engine: str, errors: FaultPlan) -> list[np.ndarray]:
    """Logits, cells and events of an inference, two training steps, and another inference."""
    device = Device(program, engine, 1)
    device.inject(errors)
    out: list[np.ndarray] = []
    it = device.interpreter
    for i, entry in enumerate(("infer", "train_step", "train_step", "infer")):
        feed(device, images(device, i))
        it.regs[program.params["batch"]] = 2
        for b in range(2):
            it.write_view(device.io["labels"], np.array([[[b]]]), b)
        for name in ("head_exponent", "module_exponent"):
            it.regs[program.params[name]] = 3
        device._run(entry, 1)
        out += [it.read_view(device.io["logits"], b) for b in range(2)]
        out += [it.state.cells.copy(), np.array([it.cycles, *it.events.values()])]
    assert device.faults
    return [*out, np.array(list(device.faults.counts.values()))]


def weights(device: Device) -> dict[str, np.ndarray]:
    return {name: device.interpreter.read_matrix(name) for name, m in device.program.matrices.items() if m.kind != "scratch"}


def flipped(a: dict[str, np.ndarray], b: dict[str, np.ndarray], array: str, program: Program) -> tuple[int, int]:
    """(bits that differ, bits) in the matrices of one kind of sub-array."""
    names = [n for n in a if (program.matrices[n].array == "transposable") == (array == "transposable")]
    different = sum(int(np.bitwise_count((a[n] ^ b[n]).view(np.uint8)).sum()) for n in names)
    return different, sum(8 * a[n].size for n in names)


# ------------------------------------------------------------------------------------------------------------------- drawing


@pytest.mark.parametrize("rate", [1e-4, 1e-2, 0.1, 0.7])
def test_drawn_bits_are_independent_of_each_other_and_as_many_as_asked(rate: float) -> None:
    mask = draw_mask(np.random.default_rng(1), (500, 1000), rate)
    bits = np.unpackbits(mask.ravel())
    n, found = bits.size, int(bits.sum())
    assert abs(found - n * rate) < 5 * (n * rate * (1 - rate)) ** 0.5
    pairs = int((bits[:-1] & bits[1:]).sum())
    assert abs(pairs - n * rate**2) < 5 * max(1.0, n * rate**2) ** 0.5
    for place in range(8):  # no place in a byte is preferred
        count = int(((mask >> place) & 1).sum())
        assert abs(count - n / 8 * rate) < 5 * (n / 8 * rate) ** 0.5


def test_extreme_rates() -> None:
    rng = np.random.default_rng(0)
    assert not draw_mask(rng, (3, 5), 0.0).any()
    assert (draw_mask(rng, (3, 5), 1.0) == 255).all()
    assert not draw_mask(rng, (100, 100), 1e-18).any()
    assert draw_mask(rng, (0, 5), 0.5).size == 0


# --------------------------------------------------------------------------------------------------------------- on the device


def test_engines_agree(program: Program) -> None:
    """Values, cells, cycles, events and the number of errors, with every kind of error at once."""
    errors = plan(3, write=2e-3, read=1e-3, stuck=1e-3)
    done = [history(program, engine, errors) for engine in ("fused", "bitserial", "step")]
    for other in done[1:]:
        for a, b in zip(done[0], other, strict=True):
            assert np.array_equal(a, b)
    write, read, stuck, disturb, runs = done[0][-1]
    assert min(write, read, stuck, runs) > 0
    assert disturb == 0  # of cells that differ alone


def test_seed_decides(program: Program) -> None:
    first, again, other = (history(program, "fused", plan(s, write=1e-3, read=1e-3)) for s in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_nothing_is_done_without_rates(program: Program) -> None:
    device = Device(program, "fused", 1)
    device.inject(plan(write=0.0))
    assert device.faults is None


def test_loaded_weights_get_write_errors(program: Program) -> None:
    clean, device = Device(program, "fused", 1), Device(program, "fused", 1)
    device.inject(plan(kind="transposable", write=0.01))
    wrong, bits = flipped(weights(clean), weights(device), "transposable", program)
    assert abs(wrong - 0.01 * bits) < 5 * (0.01 * bits) ** 0.5
    assert device.faults
    assert device.faults.counts["write"] == wrong
    assert flipped(weights(clean), weights(device), "compute", program)[0] == 0


def test_cells_of_an_earlier_session_are_not_written_again(program: Program) -> None:
    clean, device = Device(program, "fused", 1), Device(program, "fused", 1)
    device.inject(plan(write=0.01, stuck=1e-3), fresh=False)
    assert device.faults
    assert device.faults.counts["write"] == 0
    different = sum(flipped(weights(clean), weights(device), kind, program)[0] for kind in ("compute", "transposable"))
    assert 0 < different < device.faults.counts["stuck"]  # about half of the stuck cells held the other value


def test_copies_get_the_same_errors(program: Program) -> None:
    device = Device(program, "fused", 1)
    device.inject(plan(write=0.05))
    copied = [m for m in program.matrices.values() if m.copies > 1 and m.kind != "scratch"]
    assert copied
    cells = device.interpreter.state.cells
    for m in copied:
        blocks: dict[tuple[int, int], list[np.ndarray]] = {}
        for t in m.tiles:
            blocks.setdefault((t.k, t.n), []).append(cells[t.subarray, t.row : t.row + t.rows, t.col : t.col + t.cols])
        assert all(np.array_equal(b[0], other) for b in blocks.values() for other in b[1:])


def test_reads_err_only_while_a_run_lasts(program: Program) -> None:
    device = Device(program, "fused", 1)
    before = device.interpreter.state.cells.copy()
    x = images(device)
    feed(device, x)
    device.interpreter.regs[program.params["batch"]] = 2
    seen: list[np.ndarray] = []
    device.inject(plan(read=0.02))
    device._execute = lambda entry: (seen.append(device.interpreter.state.cells.copy()), device.interpreter.run(entry))[1]
    for _ in range(2):
        device._run("infer", 2)
        assert np.array_equal(device.interpreter.state.cells, before)
    assert not np.array_equal(seen[0], before)
    assert not np.array_equal(seen[0], seen[1])
    assert device.faults
    assert device.faults.counts["write"] == 0
    assert device.faults.counts["read"] > 0


def test_cells_are_put_back_after_a_failure(program: Program) -> None:
    device = Device(program, "fused", 1)
    device.inject(plan(read=0.02))
    before = device.interpreter.state.cells.copy()
    with pytest.raises(SasError, match="no entry point"):
        device._run("nothing", 1)
    assert np.array_equal(device.interpreter.state.cells, before)


def test_stuck_cells_keep_their_value(program: Program) -> None:
    """Half of them hold 0, half 1; neither training nor the host changes them."""
    device = Device(program, "fused", 1)
    device.inject(plan(5, stuck=0.01))
    faults = device.faults
    assert faults
    stuck = faults._stuck
    total = sum(int(np.bitwise_count(mask).sum()) for mask, _ in stuck.values())
    ones = sum(int(np.bitwise_count(value).sum()) for _, value in stuck.values())
    bits = sum(8 * w.size for w in weights(device).values())
    assert abs(total - 0.01 * bits) < 5 * (0.01 * bits) ** 0.5
    assert abs(ones - total / 2) < 5 * (total / 4) ** 0.5
    assert faults.counts["stuck"] == total

    def held() -> bool:
        now = weights(device)
        return all(np.array_equal(now[n].view(np.uint8) & mask, value) for n, (mask, value) in stuck.items())

    assert held()
    x = images(device)
    feed(device, x)
    it = device.interpreter
    it.regs[program.params["batch"]] = 2
    for name in ("head_exponent", "module_exponent"):
        it.regs[program.params[name]] = 5
    for b in range(2):
        it.write_view(device.io["labels"], np.array([[[b]]]), b)
    device._run("train_step", 1)
    assert it.events["bits_flipped_transposable"] > 0
    assert held()
    device.program_state({n: ~w for n, w in device.state().items()})
    device._run("infer", 2)
    assert held()


def test_written_word_lines_err_and_others_do_not(program: Program) -> None:
    """A training step without errors and one with: weights differ in rows that were written, and about as often as planned."""
    clean, device = Device(program, "fused", 1), Device(program, "fused", 1)
    device.inject(plan(kind="transposable", write=1e-12))  # none in all that is loaded
    assert device.faults
    assert device.faults.counts["write"] == 0
    device.faults.plan = plan(kind="transposable", write=0.02)
    for d in (clean, device):
        feed(d, images(d))
        it = d.interpreter
        it.regs[program.params["batch"]] = 2
        for name in ("head_exponent", "module_exponent"):
            it.regs[program.params[name]] = 3
        for b in range(2):
            it.write_view(d.io["labels"], np.array([[[b]]]), b)
        d._run("train_step", 1)
    written = clean.interpreter.state.wear > 0
    a, b = clean.interpreter.state.cells, device.interpreter.state.cells
    assert (a[written] != b[written]).any()
    assert np.array_equal(a[~written], b[~written])
    wrong = device.faults.counts["write"]
    assert wrong == flipped(weights(clean), weights(device), "transposable", program)[0]


def test_cross_check_with_errors(program: Program) -> None:
    device = Device(program, "fused", 1)
    device.inject(plan(7, write=1e-3, read=1e-3))
    device.cross_check(1)
    feed(device, images(device))
    it = device.interpreter
    it.regs[program.params["batch"]] = 2
    for b in range(2):
        it.write_view(device.io["labels"], np.array([[[b]]]), b)
    for name in ("head_exponent", "module_exponent"):
        it.regs[program.params[name]] = 3
    device._run("train_step", 1)
    device._run("infer", 2)
    assert device.replayed == 2


# -------------------------------------------------------------------------------------------------------------------- options


def test_options() -> None:
    both = parse_bit_errors(["1e-4"], 5)
    assert both == FaultPlan({k: Rates(write=1e-4, read=1e-4) for k in ("compute", "transposable")}, 5)
    mixed = parse_bit_errors(["1e-4", "write=1e-3, stuck=1e-5,kind=transposable"])
    assert mixed.of("compute") == Rates(1e-4, 1e-4)
    assert mixed.of("transposable") == Rates(1e-3, 1e-4, 1e-5)
    assert not parse_bit_errors([]).active
    assert not parse_bit_errors(["0"]).active
    assert "stuck 1e-05" in str(mixed)


@pytest.mark.parametrize(
    "text, message",
    [
        ("2", "between 0 and 1"),
        ("nan", "between 0 and 1"),
        ("-1e-3", "between 0 and 1"),
        ("often", "not a number"),
        ("write=", "not a number"),
        ("wrte=1e-3", "did you mean 'write'"),
        ("write=1e-3,kind=transpose", "did you mean 'transposable'"),
        ("kind=compute", "no rate"),
        ("", "not a number"),
    ],
)
def test_bad_options(text: str, message: str) -> None:
    with pytest.raises(SasError, match=message):
        parse_bit_errors([text])


def test_command_line(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    report = tmp_path / "run.json"
    args = ["--eval", "drawn-flowers", "--limit", "8", "--threads", "1", "--engine", "fused", "--json", str(report)]
    assert invoke(sasrun.app, [*args, "--bit-error-rate", "write=1e-2", "--fault-seed", "4"]) == 0
    assert "written wrong" in capsys.readouterr().out
    made = json.loads(report.read_text())["bit_errors"]
    assert made["seed"] == 4
    assert made["rates"]["compute"]["write"] == 1e-2
    assert made["bits"]["write"] > 1000
    assert invoke(sasrun.app, [*args, "--bit-error-rate", "3"]) == 2
    assert "between 0 and 1" in capsys.readouterr().err
