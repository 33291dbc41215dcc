"""The macrospin against closed forms: precession, damping, equilibrium, critical currents, order of convergence; writing and reading."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from sasimc.cli import sasc
from sasimc.cli.common import invoke
from sasimc.evaluation.device.constants import BOLTZMANN, GAMMA, MU0
from sasimc.evaluation.device.demag import demagnetising_factors
from sasimc.evaluation.device.figures import PAPER, device_report
from sasimc.evaluation.device.junction import resistance
from sasimc.evaluation.device.llg import simulate
from sasimc.evaluation.device.macro import thermal_start
from sasimc.evaluation.device.motion import Ensemble, Model, Segment
from sasimc.evaluation.device.read import read_margin, resistance_loop
from sasimc.evaluation.device.stack import Stack
from sasimc.evaluation.device.theory import (
    critical_sot_torque,
    critical_stt_torque,
    equilibrium_spread,
    precession_frequency,
    relaxation_time,
    sweep_coercivity,
)
from sasimc.evaluation.device.write import error_bound, run_write, write_of
from sasimc.evaluation.technologies.load import load_technology
from sasimc.isa.errors import SasError
from sasimc.runtime.faults import parse_bit_errors

SAS = load_technology("sas")
RESISTANCES = (4408.0, 8759.0)
STACKS = ("x", "z")


def stack(name: str) -> Stack:
    return SAS.stack(name)[1]


def cold(of: Stack, **changes: object) -> Model:
    return replace(of.model(), noise=0.0, **changes)  # type: ignore[arg-type]


def grounded(of: Stack, ends: str, kohm: float) -> Stack:
    """The stack with other grounds of its line."""
    driver = replace(of.write.driver_resistance, value=kohm, unit="kohm")
    return of.model_copy(update={"write": of.write.model_copy(update={"line_ground": ends, "driver_resistance": driver})})


def tilted(of: Stack, angle: float, side: float = 1.0) -> np.ndarray:
    """One unit vector, ``angle`` off the easy axis towards y."""
    m = np.zeros((1, 3))
    m[0, of.easy], m[0, 1] = side * math.cos(angle), math.sin(angle)
    return m


# ------------------------------------------------------------------------------------------------------------------ statics


def test_demagnetising_factor_of_a_cylinder_is_that_of_a_solenoid() -> None:
    # a uniformly magnetised cylinder and a solenoid have the same field: N_z = 1 - Nagaoka's coefficient (0.688423 at length = diameter)
    n = demagnetising_factors(1.0, 1.0, 1.0)
    assert n[2] == pytest.approx(1 - 0.688423, abs=1e-5)
    assert n[0] == pytest.approx(n[1], rel=1e-12)
    assert sum(n) == pytest.approx(1)


def test_demagnetising_factors_in_the_limits() -> None:
    assert demagnetising_factors(1.0, 1.0, 1e-6)[2] == pytest.approx(1, abs=1e-4)
    wide, tall = demagnetising_factors(3.0, 1.0, 0.05), demagnetising_factors(1.0, 1.0, 1000.0)
    assert wide[0] < wide[1] < wide[2]
    assert tall[2] < 1e-3
    # an infinitely long elliptic cylinder: N_x = b / (a + b)
    assert demagnetising_factors(3.0, 1.0, 1e4)[0] == pytest.approx(0.25, abs=1e-3)


def test_anisotropy_fields_by_hand() -> None:
    z = stack("z")
    n = demagnetising_factors(50e-9, 50e-9, 1e-9)
    interfacial = z.interfacial_anisotropy
    assert interfacial is not None
    by_hand = 2 * interfacial.si / (1.3e6 * 1e-9) - MU0 * 1.3e6 * (n[2] - n[0])
    assert z.easy_field == pytest.approx(by_hand)
    assert z.hard_field == pytest.approx(0, abs=1e-12)
    assert z.thermal_stability == pytest.approx(1.3e6 * by_hand * math.pi / 4 * 2500e-18 * 1e-9 / 2 / (BOLTZMANN * 300))
    x = stack("x")
    assert x.easy_field == pytest.approx(MU0 * 1.3e6 * (demagnetising_factors(150e-9, 50e-9, 1.2e-9)[1] - demagnetising_factors(150e-9, 50e-9, 1.2e-9)[0]))  # fmt: skip


def test_currents_and_torques() -> None:
    # hbar eta J / (2 e Ms t), by hand: 1e11 A/m^2 through a junction; the efficiency of 98.7 % TMR is 0.432 parallel, 0.859 antiparallel
    z = stack("z")
    assert (z.efficiency(1.0), z.efficiency(-1.0)) == pytest.approx((0.432, 0.859), abs=1e-3)
    density = 1e11
    torque = 1.054571817e-34 * z.efficiency() * density / (2 * 1.602176634e-19 * 1.3e6 * 1e-9)
    assert z.stt_torque(density * math.pi / 4 * 2500e-18) == pytest.approx(torque)
    assert z.stt_current(torque) == pytest.approx(density * math.pi / 4 * 2500e-18)
    assert z.sot_torque(density * 60e-9 * 4e-9) == pytest.approx(torque / z.efficiency() * 0.6)


# ----------------------------------------------------------------------------------------------------------------- dynamics


@pytest.mark.parametrize("name", STACKS)
def test_precession_frequency_and_damping(name: str) -> None:
    of = stack(name)
    tau, frequency = relaxation_time(of), precession_frequency(of)
    got = simulate(cold(of), [Segment(tau)], Ensemble(tilted(of, 0.01), 1.0), dt=2e-13, threads=1, record=1, samples=10**6)
    y, times = got.path[0, :, 1], got.times
    crossings = np.flatnonzero((y[:-1] < 0) & (y[1:] >= 0))
    at = times[crossings] - y[crossings] * (times[crossings + 1] - times[crossings]) / (y[crossings + 1] - y[crossings])
    assert (len(at) - 1) / (at[-1] - at[0]) == pytest.approx(frequency, rel=1e-3)
    peaks = np.flatnonzero((y[1:-1] > y[:-2]) & (y[1:-1] >= y[2:])) + 1
    rate = -np.polyfit(times[peaks], np.log(y[peaks]), 1)[0]
    assert 1 / rate == pytest.approx(tau, rel=0.01)


def test_field_shifts_the_precession() -> None:
    of = stack("z")
    got = simulate(
        cold(of, external=(0, 0, 0.1)),
        [Segment(2e-9)],
        Ensemble(tilted(of, 0.01), 1.0),
        dt=2e-13,
        threads=1,
        record=1,
        samples=10**6,
    )
    phase = np.unwrap(np.arctan2(got.path[0, :, 1], got.path[0, :, 0]))
    turns = (phase[-1] - phase[0]) / (2 * math.pi) / (got.times[-1] - got.times[0])
    assert turns == pytest.approx(precession_frequency(of, 0.1), rel=1e-3)  # counter-clockwise about the field


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("factor, leaves", [(0.9, False), (1.1, True)])
def test_critical_stt_current(name: str, factor: float, leaves: bool) -> None:
    """A little below the critical torque a deviation dies out, a little above it grows."""
    of = stack(name)
    torque = factor * critical_stt_torque(of)
    got = simulate(
        cold(of),
        [Segment(4 * relaxation_time(of), stt=(torque, torque))],
        Ensemble(tilted(of, 0.02, -1.0), 1.0),
        dt=1e-12,
        threads=1,
    )
    angle = math.acos(-got.final[0, of.easy])
    assert (angle > 0.02) == leaves
    # the rate is gamma' (b - b_c): exp(+-0.1 x 4) after four relaxation times
    assert math.log(angle / 0.02) == pytest.approx(4 * (factor - 1), abs=0.12)


@pytest.mark.parametrize("name", STACKS)
def test_critical_sot_current(name: str) -> None:
    """A slowly growing spin-orbit torque takes m across the easy axis at the closed form, found to 3 per cent."""
    of = stack(name)
    expected = critical_sot_torque(of)
    ramp = 200e-9
    top = 1.3 * expected
    start = Ensemble(tilted(of, 0.01), 1.0)
    got = simulate(cold(of, damping=0.02), [Segment(ramp, sot=(0.0, top))], start, dt=1e-12, threads=1, record=1, samples=3000)
    across = np.abs(got.path[0, :, 1]) > 0.9
    assert across.any()
    assert got.times[int(np.argmax(across))] / ramp * top == pytest.approx(expected, rel=0.03)


def test_equilibrium_follows_boltzmann() -> None:
    """A small barrier, so that both wells and the way between are visited: p(m_z) ~ exp(Delta m_z^2), uniform without anisotropy."""
    for delta in (0.0, 2.0, 4.0):
        field, damping = 0.1, 0.3
        model = Model(damping, (0.0, 0.0, field if delta else 0.0), 2, noise=2 * damping * field / (2 * max(delta, 2.0)) / GAMMA)
        rng = np.random.default_rng(4)
        n = 2000
        start = rng.normal(size=(n, 3))
        start /= np.linalg.norm(start, axis=1, keepdims=True)
        got = simulate(model, [Segment(2.5e-9)], Ensemble(start, 1.0, seed=5), dt=1e-12, threads=1).final[:, 2]
        u = np.linspace(0, 1, 2001)
        weight = np.exp(delta * (u**2 - 1))
        cumulative = np.concatenate([[0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
        cumulative /= cumulative[-1]
        found = np.sort(np.abs(got))
        distance = np.abs(np.interp(found, u, cumulative) - (np.arange(n) + 0.5) / n).max()
        assert distance < 1.95 / math.sqrt(n)  # Kolmogorov, 0.1 %


@pytest.mark.parametrize("name", STACKS)
def test_equipartition_in_a_deep_well(name: str) -> None:
    of = stack(name)
    model = replace(of.model(), damping=0.1, noise=of.noise * 0.1 / of.damping.si)
    rng = np.random.default_rng(1)
    start = np.zeros((3000, 3))
    start[:, of.easy] = 1.0
    got = simulate(model, [Segment(3e-9)], Ensemble(start, 1.0, seed=2), threads=1).final
    low, high = equilibrium_spread(of)
    hard = 0 if name == "z" else 2
    assert (got[:, 1] ** 2).mean() == pytest.approx(low, rel=0.1)
    assert (got[:, hard] ** 2).mean() == pytest.approx(high, rel=0.1)
    drawn = thermal_start(of, np.ones(20_000), rng)
    assert (drawn[:, 1] ** 2).mean() == pytest.approx(low, rel=0.05)
    assert (drawn[:, hard] ** 2).mean() == pytest.approx(high, rel=0.05)


def test_thermal_reversals_follow_brown() -> None:
    """Escape from one well of a perpendicular layer: Brown's rate, with the first correction, alpha gamma B_k sqrt(Delta / pi)
    (1 - 1 / Delta) exp(-Delta)."""
    field, damping, delta = 0.2, 0.1, 5.0
    model = Model(damping, (0.0, 0.0, field), 2, noise=2 * damping * field / (2 * delta) / GAMMA)
    n = 2000
    start = np.tile([0.0, 0.0, 1.0], (n, 1))
    rate = damping * GAMMA / (1 + damping**2) * field * math.sqrt(delta / math.pi) * (1 - 1 / delta) * math.exp(-delta)
    settle = 2e-9
    wait = 0.4 / rate
    first = simulate(model, [Segment(settle)], Ensemble(start, 1.0, seed=1), dt=2e-12, threads=1).final
    second = simulate(model, [Segment(wait)], Ensemble(first, 1.0, seed=2), dt=2e-12, threads=1).final
    before, after = first[:, 2].mean(), second[:, 2].mean()
    found = -math.log(after / before) / (2 * wait)  # both directions: the mean falls at twice the rate
    assert found == pytest.approx(rate, rel=0.2)  # next correction and 7 % of chance


def test_length_and_order_of_heun() -> None:
    """The error falls as dt^2 without noise; m stays a unit vector."""
    of = stack("x")
    torque = 0.05
    ends = []
    for dt in (4e-13, 2e-13, 1e-13, 1.25e-14):
        drive = [Segment(0.2e-9, sot=(0.0, torque), stt=(torque / 20, torque / 20))]
        ends.append(simulate(cold(of), drive, Ensemble(tilted(of, 0.5), 1.0), dt=dt, threads=1).final[0])
        assert np.linalg.norm(ends[-1]) == pytest.approx(1, abs=1e-14)
    errors = [float(np.linalg.norm(e - ends[-1])) for e in ends[:-1]]
    for coarse, fine in pairwise(errors):
        assert 1.8 < math.log2(coarse / fine) < 2.3


def test_energy_is_conserved_without_damping_and_falls_with_it() -> None:
    of = stack("x")
    c = np.array(of.stiffness)
    for damping in (0.0, 0.008):
        got = simulate(cold(of, damping=damping), [Segment(1e-9)], Ensemble(tilted(of, 0.6), 1.0), dt=1e-13, threads=1, record=1)
        energy = -(c * got.path[0] ** 2).sum(axis=1) / 2
        if damping:
            assert (np.diff(energy) < 1e-12).all()
            assert energy[-1] < energy[0] - 1e-3
        else:
            assert energy == pytest.approx(energy[0], abs=1e-6)


def test_results_do_not_depend_on_threads_or_ensemble_size() -> None:
    of = stack("z")
    start = np.tile([0.0, 0.0, 1.0], (9, 1))
    runs = [
        simulate(of.model(), [Segment(1e-10)], Ensemble(start[:n], 1.0, seed=3), threads=t).final
        for n, t in ((9, 1), (9, 2), (4, 1))
    ]
    assert np.array_equal(runs[0], runs[1])
    assert np.array_equal(runs[0][:4], runs[2])
    other = simulate(of.model(), [Segment(1e-10)], Ensemble(start, 1.0, seed=4), threads=1).final
    assert not np.array_equal(runs[0], other)
    assert len(np.unique(runs[0], axis=0)) == 9


# -------------------------------------------------------------------------------------------------------------------- write


def test_sas_suspends_then_decides() -> None:
    """After the SOT pulse the bits hang between the states; the STT current then decides each, whatever stood there."""
    of = stack("z")
    got = run_write(of, write_of(of, "sas"), RESISTANCES, 400, threads=1, record=100)
    path, times = got.motion.path, got.motion.times
    end = int(np.searchsorted(times, got.write.sot_time)) - 1
    assert np.abs(path[:, end, :, 2]).max() < 0.3
    assert got.errors == 0
    assert got.write.junctions == 4
    assert 0.3 < (got.old != got.side).mean() < 0.7
    assert got.by_phase["release"] > 0.02  # some hang on the wrong side still
    assert got.by_phase["rest"] == 0
    assert len(got.by_pattern) == 16


def test_without_the_stt_current_chance_decides() -> None:
    of = stack("z")
    got = run_write(of, replace(write_of(of, "sas"), stt_voltage=0.0), RESISTANCES, 600, threads=1)
    assert 0.4 < got.error_rate < 0.6
    assert got.parts["junction"] == 0


def test_error_rate_falls_with_voltage_and_time() -> None:
    of = stack("z")
    base = write_of(of, "stt")
    rates = [
        run_write(of, replace(base, stt_voltage=v, stt_time=1e-8), RESISTANCES, 150, threads=1).error_rate
        for v in (0.18, 0.3, 0.5)
    ]
    assert rates[0] > rates[1] > rates[2]
    short, long = (run_write(of, replace(base, stt_time=t), RESISTANCES, 150, threads=1).error_rate for t in (3e-9, 10e-9))
    assert short > long


def test_energy_of_a_write_by_hand() -> None:
    of = grounded(stack("z"), "one", 1.0)
    write = replace(write_of(of, "sas"), stt_voltage=0.0, fall_time=0.0)
    got = run_write(of, write, RESISTANCES, 40, threads=1)
    line = 2e-6 * 4 * 100e-9 / (60e-9 * 4e-9)
    drawn = write.sot_current**2 * (write.sot_time + write.release_time / 3) / 4
    assert got.parts["line"] == pytest.approx(drawn * line, rel=1e-3)
    assert got.parts["driver"] == pytest.approx(drawn * 1000, rel=1e-3)
    assert got.energy == pytest.approx(sum(got.parts.values()))
    both = run_write(of, write_of(of, "sas"), RESISTANCES, 40, threads=1)
    low, high = (0.125**2 / (r + 2000) * (6e-9 + 3e-9 / 3) for r in reversed(RESISTANCES))
    assert low * 0.8 < both.parts["junction"] + both.parts["access"] < high * 1.05
    by_charge = replace(both, stack=of.model_copy(update={"write": of.write.model_copy(update={"energy_account": "supply"})}))
    assert by_charge.energy == pytest.approx(0.9 * (both.line_charge + both.junction_charge))
    assert by_charge.energy > both.energy


@pytest.mark.parametrize("name, method", [("z", "sot"), ("x", "sot")])
def test_other_ways_write_what_is_asked(name: str, method: str) -> None:
    """A wrong sign of a torque or of the assisting field would turn every bit round."""
    of = stack(name)
    got = run_write(of, write_of(of, method), RESISTANCES, 200, threads=1)
    assert got.error_rate < 0.05


def test_error_bound() -> None:
    assert error_bound(0, 10_000) == pytest.approx(1 - 0.05 ** (1 / 10_000), rel=1e-6)  # the rule of three
    assert error_bound(5, 5) == 1
    assert 0.01 < error_bound(10, 1000) < 0.02


# --------------------------------------------------------------------------------------------------------------------- read


def test_resistance_of_the_two_states() -> None:
    assert resistance(np.array([1.0, -1.0]), RESISTANCES) == pytest.approx(RESISTANCES)
    assert resistance(np.array([0.0]), RESISTANCES)[0] == pytest.approx(2 / (1 / 4408 + 1 / 8759))


@pytest.mark.parametrize("name", STACKS)
def test_loop_has_the_width_of_stoner_and_wohlfarth(name: str) -> None:
    of = stack(name)
    angle = math.radians(1.0)
    loop = resistance_loop(of, RESISTANCES, points=161)
    expected = of.easy_field / (math.cos(angle) ** (2 / 3) + math.sin(angle) ** (2 / 3)) ** 1.5
    step = loop.field[1] - loop.field[0]
    if name == "z":  # the formula is for a uniaxial layer
        assert abs(loop.coercivity - expected) <= step
    assert loop.up.min() == pytest.approx(4408, rel=1e-3)
    assert loop.up.max() == pytest.approx(8759, rel=1e-3)
    assert 0 < sweep_coercivity(of, 1.0) < sweep_coercivity(of, 1e-6) < of.easy_field


def test_read_errors_integrated_and_sampled() -> None:
    of = stack("z")
    wide = of.scaled({"variation.resistance_area": 4.0})
    got = read_margin(wide, RESISTANCES, samples=400_000, seed=1)
    assert got.errors > 500
    assert got.errors / got.samples == pytest.approx(got.error_rate, rel=5 / math.sqrt(got.errors))
    assert read_margin(of, RESISTANCES, samples=1000).error_rate < got.error_rate / 1000


# ------------------------------------------------------------------------------------------------------------------ reports


def test_report_stands_beside_the_paper() -> None:
    report = device_report(SAS, "z", writes=60, threads=1)
    by_name = {f.name: f for f in report.figures}
    energy = by_name["SAS: write energy"]
    assert energy.paper is PAPER["write_energy"]
    assert energy.ratio == pytest.approx(report.outcomes["sas"].energy / 0.048e-12)
    ratio = report.curves["stt"].energy(1e-6) / report.curves["sas"].energy(1e-6)
    assert by_name["STT alone / SAS: write energy"].value == pytest.approx(ratio, nan_ok=True)
    assert "sas.stt_voltage" in report.assumptions
    assert "damping" not in report.assumptions


def test_command(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    made, cell = tmp_path / "device.json", tmp_path / "out.cell"
    assert (
        invoke(
            sasc.app,
            [
                "mtj",
                "--technology",
                "stt",
                "--stack",
                "z",
                "--writes",
                "40",
                "--threads",
                "1",
                "--json",
                str(made),
                "--cell",
                str(cell),
            ],
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "48.0 fJ/bit" in out
    assert "assumptions" in out
    assert load_technology(cell).write_latency.to("ns") == pytest.approx(9.6)
    data = json.loads(made.read_text())
    assert data["writes_by_method"]["sas"]["bits"] == 40
    assert np.shape(data["trajectories"]["sas"]["m"])[2] == 3
    assert len(data["writes_by_method"]["sas"]["by_position"]) == 4
    option = data["bit_error_rate"]
    assert f"--bit-error-rate {option}" in out
    assert 0 < parse_bit_errors([option]).of("compute").write < 0.5
    assert {row["name"] for row in data["figures"]} >= {"thermal stability Delta", "read error rate"}


@pytest.mark.parametrize(
    "args, message",
    [
        (["--technology", "sram"], "describes no free layer"),
        (["--stack", "zz"], "no stack"),
        (["--writes", "0"], "at least 1"),
        (["--plot", "a.gif"], "format"),
        (["--cell", "a.txt"], "format"),
        (["--seed", "-1"], "at least 0"),
        (["--writes", "20000000"], "at most"),
        (["--technology", "nothing.toml"], "cannot read"),
    ],
)
def test_command_refuses(args: list[str], message: str, capsys) -> None:  # type: ignore[no-untyped-def]
    assert invoke(sasc.app, ["mtj", *args]) == 2
    assert message in capsys.readouterr().err


def test_endless_pulses_are_refused() -> None:
    of = stack("z")
    with pytest.raises(SasError, match="too many"):
        run_write(of, replace(write_of(of, "stt"), stt_time=1.0), RESISTANCES, 1, threads=1)


def test_unstable_layer_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from importlib import resources

    text = resources.files("sasimc.evaluation.technologies").joinpath("sas.toml").read_text()
    path = tmp_path / "thin.toml"
    path.write_text(text.replace("interfacial_anisotropy = {value = 1.1,", "interfacial_anisotropy = {value = 0.5,"))
    with pytest.raises(SasError, match="not stable"):
        load_technology(path).stack("z")
