"""The figures of one stack: three ways of writing, retention, loop, read margin, each beside the paper's number where it prints one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sasimc.evaluation.device.read import Loop, ReadMargin, read_disturb, read_margin, resistance_loop
from sasimc.evaluation.device.stack import Stack
from sasimc.evaluation.device.theory import (
    critical_sot_torque,
    critical_stt_torque,
    precession_frequency,
    relaxation_time,
    sweep_coercivity,
)
from sasimc.evaluation.device.write import METHODS, Method, Outcome, Write, error_bound, error_rates, run_write, write_of
from sasimc.evaluation.quantity import Measured, Quantity, format_si
from sasimc.evaluation.technologies.technology import Technology
from sasimc.isa.errors import SasError

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
        return {"name": self.name, "ours": self.value, "unit": self.unit, "paper": paper, "paper_source": source, "ratio": self.ratio, "how": self.how}  # fmt: skip

    def __str__(self) -> str:
        return format_si(self.value, self.unit)


@dataclass(frozen=True)
class DeviceReport:
    """Everything about one stack. ``assumptions``: dotted name -> quantity of every number the paper does not fix."""

    technology: str
    stack_name: str
    stack: Stack
    figures: list[Figure]
    outcomes: dict[Method, Outcome]
    loop: Loop
    margin: ReadMargin
    assumptions: dict[str, Quantity]

    @property
    def bit_error_rate(self) -> str:
        """The errors of this device as an option of ``sasrun``; where no write failed, the rate that this does not exclude (95 %)."""
        write = self.outcomes.get("sas") or next(iter(self.outcomes.values()))
        rate = write.error_rate if write.errors else error_bound(0, write.bits)
        return f"write={rate:.2g},read={self.margin.error_rate:.2g}"

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


def _resistances(technology: Technology) -> tuple[float, float]:
    low, high = technology.resistance_low, technology.resistance_high
    if low is None or high is None:
        raise SasError(f"technology {technology.name} has no resistances", hint="resistance_low and resistance_high")
    return low.si, high.si


_NAMES = {"sas": "SAS", "stt": "STT alone", "sot": "SOT alone"}


def _write_figures(o: Outcome) -> Iterator[Figure]:
    name, method = _NAMES[o.write.method], o.write.method
    paper = PAPER["write_energy"] if method == "sas" else None
    how = f"mean of {o.bits} simulated writes: line {format_si(o.sot_energy, 'J')}, junction {format_si(o.stt_energy, 'J')}"
    yield Figure(f"{name}: write energy", o.energy, "J/bit", how, paper)
    yield Figure(f"{name}: pulse", o.write.latency, "s", "first current on to last current off")
    if len(o.decided):
        how = "median of the bits that change: from then on more than half on the right side"
        yield Figure(f"{name}: decided", float(np.median(o.decided)), "s", how)
    bound = error_bound(o.errors, o.bits)
    yield Figure(
        f"{name}: write error rate", o.error_rate, "1", f"{o.errors} of {o.bits}; below {bound:.2g} with 95 % confidence"
    )


def _static_figures(stack: Stack) -> Iterator[Figure]:
    yield Figure("precession frequency", precession_frequency(stack), "Hz", "closed form, small angle")
    yield Figure("relaxation time", relaxation_time(stack), "s", "closed form, small angle")
    yield Figure("anisotropy field B_k", stack.easy_field, "T", "table II and the shape of the free layer")
    yield Figure("critical STT current", stack.stt_current(critical_stt_torque(stack)), "A", "alpha (B_k + B_h / 2)")
    yield Figure(
        "critical SOT current", stack.sot_current(critical_sot_torque(stack)), "A", "B_k / 2 (z-type), sqrt(B_k B_h) (x-type)"
    )
    yield Figure("thermal stability Delta", stack.thermal_stability, "1", "Ms B_k V / (2 k T)")
    yield Figure("retention of one bit", stack.retention / (365.25 * 86400), "year", "attempt time x exp(Delta)")


def device_report(
    technology: Technology, stack_name: str | None = None, *, writes: int = 10_000, seed: int = 0, threads: int = 2,
    methods: tuple[Method, ...] = METHODS, watch: Watch | None = None, record: int = 8,
) -> DeviceReport:  # fmt: skip
    """Simulate ``writes`` bits by each method, the loop and the read margin of one stack.

    Raises:
        SasError: the technology has no such stack.
    """
    name, stack = technology.stack(stack_name)
    resistances = _resistances(technology)
    outcomes: dict[Method, Outcome] = {}
    for i, method in enumerate(methods):
        if watch:
            watch(f"{_NAMES[method]}: {writes} writes", i, len(methods) + 1)
        outcomes[method] = run_write(
            stack, write_of(stack, method), resistances, writes, seed=seed, threads=threads, record=record
        )
    if watch:
        watch("loop and read margin", len(methods), len(methods) + 1)
    loop = resistance_loop(stack, resistances)
    margin = read_margin(stack.read, resistances, samples=max(100_000, writes), seed=seed)
    figures = [f for o in outcomes.values() for f in _write_figures(o)]
    if "sas" in outcomes:
        for other in ("stt", "sot"):
            if other in outcomes:
                paper = PAPER["stt_ratio"] if other == "stt" else None
                value = outcomes[other].energy / outcomes["sas"].energy
                figures.append(Figure(f"{_NAMES[other]} / SAS: write energy", value, "1", "the two simulated energies", paper))
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
        Figure("read disturb rate", read_disturb(stack, resistances), "1", "thermal reversal under the read current"),
    ]
    assumptions = dict(_assumed("", stack))
    return DeviceReport(technology.name, name, stack, figures, outcomes, loop, margin, assumptions)


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
    resistances = _resistances(technology)
    wanted: list[tuple[Write, str, str]] = []
    for method in METHODS:
        write = write_of(stack, method)
        fields = (("sot_current", "A"), ("sot_time", "s"), ("stt_current", "A"), ("stt_time", "s"))
        wanted += [(write, field, unit) for field, unit in fields if getattr(write, field) > 0]
    out: list[Sweep] = []
    for i, (write, field, unit) in enumerate(wanted):
        if watch:
            watch(f"{_NAMES[write.method]}: {field.replace('_', ' ')}", i, len(wanted))
        values = _around(getattr(write, field))
        outcomes = error_rates(stack, write, resistances, field, values, writes, seed=seed, threads=threads)
        out.append(Sweep(write.method, field, unit, values, outcomes))
    return out
