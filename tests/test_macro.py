"""The macro as one and the rare events: the ladder against Kirchhoff's matrix, trajectories against an integrator written from the textbook, the
Fokker-Planck chain against Brown, Kramers and a solver in Legendre polynomials, extrapolation and splitting against counts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import expm

from sasimc.evaluation.device.constants import BOLTZMANN, CHARGE, GAMMA, HBAR
from sasimc.evaluation.device.kernel import FIELDS
from sasimc.evaluation.device.limits import demands
from sasimc.evaluation.device.macro import Macro
from sasimc.evaluation.device.motion import Phase
from sasimc.evaluation.device.rare import extrapolate, split, stt_tail, write_tail
from sasimc.evaluation.device.stack import Stack
from sasimc.evaluation.device.switching import Landscape, disturb, escape_rate, stt_error
from sasimc.evaluation.device.write import Write, patterns, run_write, write_of
from sasimc.evaluation.technologies.load import load_technology

SAS = load_technology("sas")
Z = SAS.stack("z")[1]
R = (4408.0, 8759.0)


def grounded(of: Stack, ends: str, kohm: float) -> Stack:
    driver = replace(of.write.driver_resistance, value=kohm, unit="kohm")
    return of.model_copy(update={"write": of.write.model_copy(update={"line_ground": ends, "driver_resistance": driver})})


def soft(delta: float) -> Stack:
    """The stack z, so hot that its barrier is ``delta`` kT; nothing else of it depends on the temperature."""
    return Z.scaled({"temperature": Z.thermal_stability / delta})


# --------------------------------------------------------------------------------------------------------------------- ladder


@pytest.mark.parametrize("ends, kohm", [("one", 1.0), ("both", 1.0), ("both", 0.0)])
@pytest.mark.parametrize("side", [(1, 1, 1, 1), (-1, 1, 1, -1), (1, -1, -1, -1)])
def test_the_ladder_obeys_kirchhoff(ends: str, kohm: float, side: tuple[int, ...]) -> None:
    """Layers held at angles; the heat of a step is that of the node equations solved with numpy, and so is the charge."""
    of = grounded(Z, ends, kohm)
    along = np.array([0.9, -0.6, 0.1, -1.0])
    m = np.stack([np.sqrt(1 - along**2), 0 * along, along], axis=1)[None]
    write = Write("sas", 4, sot_current=190e-6, stt_voltage=0.2, stt_time=1e-9)
    macro = Macro(of, write, R, dt=1e-18)  # too short for a layer to move
    ground = 1 / max(kohm * 1000, 1e-3) if ends == "both" else 0.0
    phase = Phase(3e-18, (50e-6, 50e-6), (0.2, 0.2), ground, True)
    rows = macro.layers(1)
    rows[..., FIELDS.index("v2")] = 0  # no loss of TMR with voltage
    got = macro.run(m, np.array([side], float), seed=0, threads=1, phases=[phase], layers=rows)
    # nodes 0 (driven end) .. 4; ground behind the last segment
    seg = 1 / np.array([2e-6 * 100e-9 / (60e-9 * 4e-9) * f for f in (0.5, 1, 1, 1, 0.5)])
    g_p, g_ap = 1 / R[0], 1 / R[1]
    junction = 1 / ((g_p + g_ap) / 2 + (g_p - g_ap) / 2 * along)
    branch = 1 / (junction + 2000)
    a, b = np.zeros((5, 5)), np.zeros(5)
    a[0, 0] += ground
    b[0] += 50e-6
    for k, g in enumerate(seg):
        a[k, k] += g
        if k < 4:
            a[k + 1, k + 1] += g
            a[k, k + 1] -= g
            a[k + 1, k] -= g
    for k in range(4):
        a[k + 1, k + 1] += branch[k]
        b[k + 1] -= branch[k] * 0.2 * side[k]
    v = np.linalg.solve(a, b)
    through = branch * (-0.2 * np.array(side) - v[1:])
    line = seg * (v - np.append(v[1:], 0))
    t = 3e-18
    assert got.spent["line"][0] == pytest.approx((line**2 / seg).sum() * t, rel=1e-9)
    assert got.spent["junction"][0] == pytest.approx((through**2 * junction).sum() * t, rel=1e-9)
    assert got.spent["access"][0] == pytest.approx((through**2).sum() * 2000 * t, rel=1e-9)
    assert got.spent["junction_charge"][0] == pytest.approx(np.abs(through).sum() * t, rel=1e-9)


def _textbook(
    stack: Stack, start: np.ndarray, line: float, junction: float, steps: int, dt: float, rng: np.random.Generator
) -> np.ndarray:
    """Landau-Lifshitz-Gilbert in spherical symmetry of notation: explicit Gilbert form solved for dm/dt, Heun, numpy, normal noise."""
    ms, t, alpha = stack.saturation_magnetisation.si, stack.thickness.si, stack.damping.si
    c = np.array(stack.stiffness)
    sot = HBAR * stack.spin_hall_angle.si * line / stack.heavy_metal.section / (2 * CHARGE * ms * t)
    p = stack.polarisation.si
    sigma = math.sqrt(2 * alpha * BOLTZMANN * stack.temperature.si / (GAMMA * ms * stack.volume * dt))
    y, e = np.array([0.0, 1.0, 0.0]), np.eye(3)[stack.easy]

    def rate(m: np.ndarray, noise: np.ndarray) -> np.ndarray:
        eta = p / (1 + p * p * (m @ e))
        stt = HBAR * eta * junction / stack.area / (2 * CHARGE * ms * t)
        torque = -GAMMA * np.cross(m, c * m + noise)
        torque -= GAMMA * np.cross(m, np.cross(m, sot * y + stt[:, None] * e))
        # (1 - alpha m x) dm/dt = torque
        return (torque + alpha * np.cross(m, torque)) / (1 + alpha**2)

    m = start.copy()
    for _ in range(steps):
        noise = rng.normal(0, sigma, m.shape)
        a = rate(m, noise)
        b = rate(m + dt * a, noise)
        m += dt / 2 * (a + b)
        m /= np.linalg.norm(m, axis=1, keepdims=True)
    return m


def test_trajectories_agree_with_a_textbook_integrator() -> None:
    """The same pulse by an independent integrator with normal noise: equal means and spreads of every component."""
    n, steps, dt = 1200, 300, 2e-12
    write = Write("sas", 1, sot_current=120e-6, stt_current=25e-6, stt_time=steps * dt)
    start = np.tile([0.02, 0.0, -1.0], (n, 1))
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    of = grounded(Z, "one", 0.0).scaled({"temperature": 3.0})
    macro = Macro(of, write, R, dt=dt)
    common = list(macro.common())
    common[-1] = 0.0  # the source's current alone on the line, as in the textbook's problem
    object.__setattr__(macro, "common", lambda: tuple(common))
    phase = [Phase(steps * dt, (120e-6, 120e-6), (25e-6, 25e-6))]
    ours = macro.run(start[:, None], np.ones((n, 1)), seed=3, threads=1, phases=phase).final[:, 0]
    theirs = _textbook(of, start, 120e-6, 25e-6, steps, dt, np.random.default_rng(8))
    for k in range(3):
        spread = theirs[:, k].std()
        assert ours[:, k].mean() == pytest.approx(theirs[:, k].mean(), abs=4 * spread * math.sqrt(2 / n))
        assert ours[:, k].std() == pytest.approx(spread, rel=4 / math.sqrt(n))


def test_return_currents_disturb_a_macro() -> None:
    """Current drive, 20 uA a junction: with one grounded end per cents of the bits are wrong, the most behind the last junctions and in uniform patterns;
    with both ends grounded without resistance there is none; a single junction writes well."""
    write = replace(
        write_of(Z, "sas"),
        sot_current=200e-6,
        sot_time=5e-10,
        release_time=2e-10,
        stt_voltage=0,
        stt_current=20e-6,
        stt_time=4e-9,
        fall_time=0,
    )
    one = run_write(grounded(Z, "one", 1.0), write, R, 4000, dt=2e-12)
    both = run_write(grounded(Z, "both", 0.0), write, R, 4000, dt=2e-12)
    assert 0.02 < one.error_rate < 0.07
    assert one.by_position[3] > one.by_position[1]
    assert one.by_pattern[[0, 15]].mean() > 5 * np.nanmean(one.by_pattern[[3, 5, 6, 9, 10, 12]])
    assert both.error_rate < 0.003


# --------------------------------------------------------------------------------------------------------------- Fokker-Planck


def test_escape_is_browns_and_kramers() -> None:
    a, k, d = Z.damping.si, Z.easy_field, Z.thermal_stability
    rate = GAMMA / (1 + a * a) * a * k * math.sqrt(d / math.pi)
    assert escape_rate(Z, R, 1) == pytest.approx(rate * math.exp(-d) * (1 - 1 / d), rel=0.03)
    for i in (0.2, 0.5):
        b = i * a * k
        kramers = rate * (1 - i * i) * (1 - i) * math.exp(-d * (1 - i) ** 2)
        assert Landscape(Z).rate(-1, lambda u, b=b: b + 0 * u) == pytest.approx(kramers, rel=0.08)
        assert Landscape(Z).rate(1, lambda u, b=b: b + 0 * u) < 1e-4 * kramers


def _legendre(delta: float, i: float, x: float, count: int = 80) -> float:
    """Probability of u > 0 after the time x in units of 1 / (gamma' alpha B_k), Brown's equation projected on Legendre polynomials:
    d<P_n>/dt = <(1 - u^2) P_n' (u + i)> - n (n + 1) <P_n> / (2 Delta); start: the well u < 0."""
    u, w = np.polynomial.legendre.leggauss(600)
    n = np.arange(count)
    p = np.polynomial.legendre.legvander(u, count - 1).T
    climb = n[:, None] * (np.roll(p, 1, axis=0) - u * p)  # (1 - u^2) P_n'
    norm = (2 * n + 1) / 2
    a = (climb * (u + i) * w) @ p.T * norm[None, :] - np.diag(n * (n + 1) / (2 * delta))
    density = np.where(u < 0, np.exp(delta * (u * u - 1)), 0.0)
    density /= (density * w).sum()
    moments = expm(a * x) @ (p @ (density * w))
    return float((moments * norm * (p * w)[:, u > 0].sum(axis=1)).sum())


@pytest.mark.parametrize("i, x", [(0.5, 0.6), (0.8, 1.5), (2.0, 1.0)])
def test_pulses_agree_with_legendre_polynomials(i: float, x: float) -> None:
    of = soft(12.0)
    unit = GAMMA / (1 + of.damping.si**2) * of.damping.si * of.easy_field
    land = Landscape(of, 800)
    b = i * of.damping.si * of.easy_field
    p = land.evolve(land.well(-1), x / unit, lambda u: b + 0 * u)
    assert p[land.centres > 0].sum() == pytest.approx(_legendre(12.0, i, x), rel=0.03)
    assert p.sum() == pytest.approx(1, abs=1e-9)


def test_pulses_agree_with_trajectories() -> None:
    """STT alone at two voltages, counted."""
    for volts, seconds in ((0.24, 15e-9), (0.3, 12e-9)):
        got = run_write(Z, Write("stt", 1, stt_voltage=volts, stt_time=seconds), R, 3000, dt=2e-12)
        wrong = stt_error(Z, R, volts, [seconds])[0]
        changed = got.old != got.side
        for column, side in enumerate((1, -1)):
            of = got.wrong[changed & (got.side == side)]
            spread = math.sqrt(wrong[column] * (1 - wrong[column]) / len(of))
            assert of.mean() == pytest.approx(wrong[column], abs=4 * spread + 0.03 * wrong[column])


def test_in_plane_escape_agrees_with_trajectories() -> None:
    """Half of an ensemble of a soft in-plane layer leaves its well as the orbit-averaged equation says."""
    x = SAS.stack("x")[1]
    of = x.scaled({"temperature": x.thermal_stability / 5.0})
    rate = Landscape(of, 200).rate(1)
    seconds = min(0.35 / rate, 60e-9)
    macro = Macro(of, Write("stt", 1, stt_voltage=0.0), R, dt=1e-12)
    start = np.tile([1.0, 0.0, 0.0], (600, 1, 1)).reshape(600, 1, 3)
    rest = macro.run(start, np.ones((600, 1)), seed=1, phases=[Phase(2e-9)]).final
    later = macro.run(rest, np.ones((600, 1)), seed=2, phases=[Phase(seconds)]).final
    found = -math.log(later[..., 0].mean() / rest[..., 0].mean()) / (2 * seconds)
    assert found == pytest.approx(rate, rel=0.35)


def test_a_short_read_disturbs_less_than_its_steady_rate() -> None:
    steady = escape_rate(Z, R, 1, -0.1, 2000.0)
    once = disturb(Z, R)[0]
    assert 100 < steady < 1000
    assert once < 1e-9 * steady * 1e-9
    assert disturb(Z, R, reads=4, gap=4e-9)[0] > once  # not at rest again
    long = Z.scaled({"read.time": 40.0})
    assert disturb(long, R)[0] == pytest.approx(steady * 40e-9, rel=0.8)


def test_retention_falls_with_temperature() -> None:
    hot = Z.at(398.15)
    assert hot.thermal_stability < 0.7 * Z.thermal_stability
    assert hot.polarisation.si < Z.polarisation.si
    assert Z.at(300.0).thermal_stability == pytest.approx(Z.thermal_stability)
    assert escape_rate(hot, R, 1) > 1e6 * escape_rate(Z, R, 1)


# ------------------------------------------------------------------------------------------------------------------ rare events


def test_a_gaussian_tail_is_extrapolated_exactly() -> None:
    from scipy.special import ndtr

    heats, bits = (2.0, 4.0, 8.0), 10**9
    counts = [round(bits * float(ndtr(-(6.0 / math.sqrt(h) - 0.5)))) for h in heats]
    tail = extrapolate(heats, counts, bits)
    assert tail.probit == pytest.approx(5.5, abs=0.01)
    assert tail.bounds[0] < tail.rate < tail.bounds[1]


def test_extrapolation_and_splitting_agree_with_the_equation() -> None:
    """STT alone, where the Fokker-Planck equation gives the rare rate itself."""
    write = Write("stt", 1, stt_voltage=0.35, stt_time=14e-9)
    _, worst, _ = stt_tail(Z, write, R)
    assert 1e-2 < worst.rate < 5e-2
    exact = stt_error(Z, R, 0.35, [14e-9])[0]
    found, error = split(Z, write, R, np.array([1.0]), 0, macros=2000, tilt=0.3, stops=6)
    assert found == pytest.approx(exact[0] / 2, rel=max(0.3, 4 * error))  # half of the bits stand right before


def test_splitting_agrees_with_counts_of_a_macro() -> None:
    write = replace(write_of(Z, "sas"), stt_voltage=0.08, stt_time=2e-9, fall_time=1e-9)
    side = patterns(4, 16)[15]
    counted = run_write(Z, write, R, 1, side=np.tile(side, (2000, 1)), dt=2e-12).by_position[1]
    found, error = split(Z, write, R, side, 1, macros=2000, tilt=0.3)
    assert counted > 0.005
    assert found == pytest.approx(counted, rel=4 * error + 4 / math.sqrt(2000 * counted))


def test_the_shipped_pulse_writes_every_pattern() -> None:
    mean, worst, (pattern, position) = write_tail(Z, write_of(Z, "sas"), R, macros=512)
    assert 0 <= pattern < 16
    assert 0 <= position < 4
    assert mean.bounds[0] < 1e-6
    assert worst.bounds[0] < 1e-6
    assert max(mean.errors) > 10


# ----------------------------------------------------------------------------------------------------------------------- limits


def test_what_cannot_be_driven_is_named() -> None:
    assert not [d for d in demands(Z, write_of(Z, "sas"), R) if not d.met]
    far = [d for d in demands(Z, write_of(Z, "sas"), R, rows=32) if not d.met]
    assert [d.what for d in far] == ["current of 32 rows"]
    assert far[0].value == pytest.approx(32 * 128 * 190e-6)
    x = SAS.stack("x")[1]
    flagged = {d.what: d.change for d in demands(x, write_of(x, "sas"), R) if not d.met}
    assert "sas.sot_current" in flagged["current density of the line"]
    assert "sas.stt_voltage" in flagged["swing of the bit lines"]
