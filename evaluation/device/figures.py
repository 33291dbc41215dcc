"""The figures of one stack: three ways of writing, retention, loop, read margin, each beside the paper's number where it prints one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sasimc.evaluation.device.equal import Curve, equal_error_curve
from sasimc.evaluation.device.limits import Demand, demands
from sasimc.evaluation.device.rare import Tail, stt_tail, write_tail
from sasimc.evaluation.device.read import Loop, ReadMargin, read_margin, resistance_loop
from sasimc.evaluation.device.stack import Stack
from sasimc.evaluation.device.switching import disturb, escape_rate
from sasimc.evaluation.device.theory import (
    critical_sot_torque,
    critical_stt_torque,
    precession_frequency,
    relaxation_time,
    sweep_coercivity,
)
from sasimc.evaluation.device.write import METHODS, Method, Outcome, Write, error_bound, run_write, write_of
from sasimc.evaluation.quantity import YEAR, Measured, Quantity, format_si
from sasimc.evaluation.technologies.technology import Technology

__all__ = ["PAPER", "DeviceReport", "Figure", "Sweep", "Watch", "device_report", "write_sweeps"]

Watch = Callable[[str, int, int], None]
"""Called with what is done now, how many parts are done, and of how many."""

PAPER = {
    "write_energy": Quantity(0.048, "pJ/bit", "table II", "paper"),
    "stt_ratio": Quantity(3.36, "1", "section VI-B, figure 11a", "paper"),
    "tmr": Quantity(98.7, "%", "section VI-B", "paper"),
    "resistance_low": Quantity(4408, "ohm", "table II, figure 8b", "paper"),
    "resistance_high": Quantity(8759, "ohm", "table II, figure 8b", "paper"),
}
"""What the paper prints about the device."""


@dataclass(frozen=True)
class Figure:
    """One row: ``value`` in ``unit``, the paper's number if it prints one, and how ours came about."""

    name: str
    value: float
    unit: str
    how: str
    paper: Quantity | None = None

    @property
    def ratio(self) -> float | None:
        """Ours / paper's."""
        return None if self.paper is None else self.value / self.paper.to(self.unit)

    def row(self) -> dict[str, Any]:
        """For machine-readable files: full precision."""
        paper = None if self.paper is None else self.paper.to(self.unit)
        source = "" if self.paper is None else self.paper.source
        ours = self.value if math.isfinite(self.value) else None  # JSON has no other word for it
        return {"name": self.name, "ours": ours, "unit": self.unit, "paper": paper, "paper_source": source, "ratio": self.ratio, "how": self.how}  # fmt: skip

    def __str__(self) -> str:
        return format_si(self.value, self.unit)


@dataclass(frozen=True)
class DeviceReport:
    """Everything about one stack. ``tails``: error rates extrapolated, of the mean bit and of the worst with its pattern and position; ``curves``: energy
    against error rate; ``demands``: what the writes ask of the circuit, beside its limits. ``assumptions``: dotted name -> quantity of every number the paper does not fix."""

    technology: str
    stack_name: str
    stack: Stack
    figures: list[Figure]
    outcomes: dict[Method, Outcome]
    tails: dict[Method, tuple[Tail, Tail, tuple[int, int]]]
    curves: dict[Method, Curve]
    demands: list[Demand]
    loop: Loop
    margin: ReadMargin
    assumptions: dict[str, Quantity]

    @property
    def bit_error_rate(self) -> str:
        """The errors of this device as an option of ``sasrun``: the extrapolated rate of writing, the integrated one of reading."""
        mean, _, _ = self.tails.get("sas") or next(iter(self.tails.values()))
        return f"write={mean.rate:.2g},read={self.margin.error_rate:.2g}"

    @property
    def infeasible(self) -> list[Demand]:
        """What the circuit cannot give."""
        return [d for d in self.demands if not d.met]

    def rows(self) -> list[dict[str, Any]]:
        """The figures for machine-readable files."""
        return [f.row() for f in self.figures]


@dataclass(frozen=True)
class Sweep:
    """Error rate of one method against one field of its write."""

    method: Method
    field: str
    unit: str
    values: list[float]
    outcomes: list[Outcome]


def _assumed(prefix: str, section: Measured) -> Iterator[tuple[str, Quantity]]:
    yield from ((f"{prefix}{name}", q) for name, q in section.assumptions().items())
    for name in type(section).model_fields:
        if isinstance(inner := getattr(section, name), Measured):
            yield from _assumed(f"{prefix}{name}.", inner)


_NAMES = {"sas": "SAS", "stt": "STT alone", "sot": "SOT alone"}


def _write_figures(o: Outcome, tail: tuple[Tail, Tail, tuple[int, int]]) -> Iterator[Figure]:
    name, method = _NAMES[o.write.method], o.write.method
    paper = PAPER["write_energy"] if method == "sas" else None
    shares = ", ".join(f"{part} {format_si(joule, 'J')}" for part, joule in o.parts.items() if joule)
    account = "heat" if o.stack.write.energy_account == "joule" else "charge x supply; heat"
    yield Figure(f"{name}: write energy", o.energy, "J/bit", f"mean of {o.bits} simulated writes, {account}: {shares}", paper)
    yield Figure(f"{name}: pulse", o.write.latency, "s", "first current on to last current off")
    if len(o.decided):
        how = "median of the bits that change: from then on more than half on the right side"
        yield Figure(f"{name}: decided", float(np.median(o.decided)), "s", how)
    mean, worst, (pattern, position) = tail
    if not mean.heats:
        yield Figure(f"{name}: write error rate", mean.rate, "1", "Fokker-Planck equation")
        yield Figure(f"{name}: worst bit", worst.rate, "1", "to parallel" if pattern else "to antiparallel")
        yield _counted(name, o)
        return
    heats = ", ".join(f"{e} of {mean.bits} at {h:g} T" for h, e in zip(mean.heats, mean.errors, strict=True))
    yield Figure(
        f"{name}: write error rate", mean.rate, "1", f"extrapolated from {heats}; {mean.bounds[0]:.1g} to {mean.bounds[1]:.1g}"
    )
    where = (
        f"pattern {pattern:0{o.write.junctions}b}, position {position + 1}"
        if method == "sas"
        else "to " + ("parallel" if pattern else "antiparallel")
    )
    yield Figure(f"{name}: worst bit", worst.rate, "1", f"{where}; {worst.bounds[0]:.1g} to {worst.bounds[1]:.1g}")
    yield _counted(name, o)


def _counted(name: str, o: Outcome) -> Figure:
    bound = error_bound(o.errors, o.bits)
    return Figure(f"{name}: errors counted", o.error_rate, "1", f"{o.errors} of {o.bits}; below {bound:.2g} with 95 % confidence")


def _static_figures(stack: Stack) -> Iterator[Figure]:
    yield Figure("precession frequency", precession_frequency(stack), "Hz", "closed form, small angle")
    yield Figure("relaxation time", relaxation_time(stack), "s", "closed form, small angle")
    yield Figure("anisotropy field B_k", stack.easy_field, "T", "table II and the shape of the free layer")
    yield Figure("critical STT current", stack.stt_current(critical_stt_torque(stack)), "A", "alpha (B_k + B_h / 2)")
    yield Figure(
        "critical SOT current", stack.sot_current(critical_sot_torque(stack)), "A", "B_k / 2 (z-type), sqrt(B_k B_h) (x-type)"
    )
    yield Figure("thermal stability Delta", stack.thermal_stability, "1", "Ms B_k V / (2 k T)")


def device_report(
    technology: Technology, stack_name: str | None = None, *, writes: int = 10_000, seed: int = 0, threads: int = 2,
    methods: tuple[Method, ...] = METHODS, watch: Watch | None = None, record: int = 8,
) -> DeviceReport:  # fmt: skip
    """Simulate ``writes`` bits by each method, the loop and the read margin of one stack.

    Raises:
        SasError: the technology has no such stack.
    """
    name, stack = technology.stack(stack_name)
    resistances = technology.resistances
    outcomes: dict[Method, Outcome] = {}
    tails: dict[Method, tuple[Tail, Tail, tuple[int, int]]] = {}
    curves: dict[Method, Curve] = {}
    asked: list[Demand] = []
    jobs = len(methods) * 3 + 1
    for i, method in enumerate(methods):
        write = write_of(stack, method)
        asked += demands(stack, write, resistances)
        for k, text in enumerate(
            (
                f"{_NAMES[method]}: {writes} writes",
                f"{_NAMES[method]}: rare errors",
                f"{_NAMES[method]}: energy against error rate",
            )
        ):
            if watch:
                watch(text, 3 * i + k, jobs)
            if k == 0:
                outcomes[method] = run_write(stack, write, resistances, writes, seed=seed, threads=threads, record=record)
            elif k == 1:
                tails[method] = (
                    stt_tail(stack, write, resistances)
                    if method == "stt" and stack.axial
                    else write_tail(stack, write, resistances, macros=max(64, writes // 4), seed=seed, threads=threads)
                )
            elif len(methods) > 1:
                curves[method] = equal_error_curve(
                    stack, method, resistances, macros=max(64, writes // 4), seed=seed, threads=threads
                )
    if watch:
        watch("loop and read margin", jobs - 1, jobs)
    loop = resistance_loop(stack, resistances)
    margin = read_margin(stack, resistances, samples=max(100_000, writes), seed=seed)
    figures = [f for method, o in outcomes.items() for f in _write_figures(o, tails[method])]
    if "sas" in curves:
        for other in ("stt", "sot"):
            if other in curves:
                paper = PAPER["stt_ratio"] if other == "stt" else None
                value = curves[other].energy(EQUAL) / curves["sas"].energy(EQUAL)
                figures.append(
                    Figure(
                        f"{_NAMES[other]} / SAS: write energy",
                        value,
                        "1",
                        f"both at an error rate of {EQUAL:g} of the worst bit",
                        paper,
                    )
                )
    figures += _static_figures(stack)
    low, high = float(loop.up.min()), float(loop.up.max())
    figures += [
        Figure("loop: low resistance", low, "ohm", "simulated loop; its ends are parameters", PAPER["resistance_low"]),
        Figure("loop: high resistance", high, "ohm", "simulated loop; its ends are parameters", PAPER["resistance_high"]),
        Figure("loop: TMR", 100 * (high - low) / low, "%", "(high - low) / low", PAPER["tmr"]),
        Figure(
            "loop: coercive field at rest", loop.coercivity, "T", "simulated loop without temperature, field 1 degree off axis"
        ),
        Figure("loop: coercive field in 1 s", sweep_coercivity(stack, 1.0), "T", "Sharrock's law at the stack's temperature"),
        Figure("read margin", margin.margin, "A", "half the distance of the two nominal currents"),
        Figure("read error rate", margin.error_rate, "1", f"integrated; Monte Carlo {margin.errors} of {margin.samples}"),
    ]
    figures += _disturb_figures(stack, resistances)
    assumptions = dict(_assumed("", stack))
    return DeviceReport(technology.name, name, stack, figures, outcomes, tails, curves, asked, loop, margin, assumptions)


def _disturb_figures(stack: Stack, resistances: tuple[float, float]) -> Iterator[Figure]:
    read = stack.read
    access, volts = read.access_resistance.si, read.voltage.si * (1 if read.towards == "parallel" else -1)
    side = -1 if read.towards == "parallel" else 1
    steady = escape_rate(stack, resistances, side, volts, access)
    yield Figure(
        "read disturb, steady",
        steady,
        "Hz",
        f"Fokker-Planck: reversals of a bit that is read all the time, away from {read.towards}",
    )
    once = disturb(stack, resistances)
    yield Figure(
        "read disturb, one read",
        max(once),
        "1",
        f"Fokker-Planck: parallel {once[0]:.2g}, antiparallel {once[1]:.2g} in a read of {read.time}",
    )
    for celsius in (27, 85, 125):
        hot = stack.at(celsius + 273.15)
        years = 1 / escape_rate(hot, resistances, 1) / YEAR
        yield Figure(
            f"retention of one bit at {celsius} C",
            years,
            "year",
            f"Fokker-Planck, Delta {hot.thermal_stability:.1f}: mean time to a reversal",
        )


EQUAL = 1e-6
"""Error rate at which the ways of writing are compared in one number."""


def _around(value: float) -> list[float]:
    return [value * f for f in (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)]


def write_sweeps(
    technology: Technology,
    stack_name: str | None = None,
    *,
    writes: int = 2000,
    seed: int = 0,
    threads: int = 2,
    watch: Watch | None = None,
) -> list[Sweep]:
    """Error rates against each current and time of each method's own write, from a quarter of it to one and a half."""
    _, stack = technology.stack(stack_name)
    resistances = technology.resistances
    wanted: list[tuple[Write, str, str]] = []
    for method in METHODS:
        write = write_of(stack, method)
        fields = (
            ("sot_current", "A"),
            ("sot_time", "s"),
            ("stt_voltage", "V"),
            ("stt_current", "A"),
            ("stt_time", "s"),
            ("fall_time", "s"),
        )
        wanted += [(write, field, unit) for field, unit in fields if getattr(write, field) > 0]
    out: list[Sweep] = []
    for i, (write, field, unit) in enumerate(wanted):
        if watch:
            watch(f"{_NAMES[write.method]}: {field.replace('_', ' ')}", i, len(wanted))
        values = _around(getattr(write, field))
        outcomes = [
            run_write(stack, replace(write, **{field: v}), resistances, writes, seed=seed, threads=threads) for v in values
        ]
        out.append(Sweep(write.method, field, unit, values, outcomes))
    return out
