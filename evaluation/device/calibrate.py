"""Declared free fields of a stack, fitted to measured figures of a write; what is not fitted stays a check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from sasimc.evaluation.device.rare import write_tail
from sasimc.evaluation.device.stack import Stack
from sasimc.evaluation.device.write import Method, run_write, write_of
from sasimc.evaluation.quantity import Measured, Quantity
from sasimc.isa.described import parse_toml, read_source, validate

__all__ = ["Calibration", "Fit", "calibrate", "load_calibration"]

Floats = npt.NDArray[np.float64]


class Calibration(Measured):
    """A measured write: ``method``, its figures, and the ``free`` fields of the stack (``heavy_metal.resistivity``, ``sas.stt_voltage``, ...), each with the range,
    as factors of the file's value, in which it may be moved."""

    UNITS: ClassVar[dict[str, str]] = {"write_energy": "J/bit", "pulse": "s", "error_rate": "1"}

    method: Method
    write_energy: Quantity | None = None
    pulse: Quantity | None = None
    error_rate: Quantity | None = None
    free: Annotated[dict[str, tuple[float, float]], Field(min_length=1, max_length=8)]

    @model_validator(mode="after")
    def _possible(self) -> Calibration:
        if not self.quantities():
            raise ValueError("nothing is measured: write_energy, pulse or error_rate")
        for name, (low, high) in self.free.items():
            if not 0 < low <= 1 <= high:
                raise ValueError(f"free.{name}: the range [{low:g}, {high:g}] must hold 1 and be positive")
        for name in self.free:
            section, _, inner = name.partition(".")
            known = Stack.model_fields.get(section)
            if known is None or (inner and inner not in getattr(known.annotation, "model_fields", {})):
                raise ValueError(f"free.{name}: a stack has no such field")
        return self


@dataclass(frozen=True)
class Fit:
    """``stack`` with fitted fields (kind ``fit``); ``factors`` by which they moved; ``before``, ``after``: the figures, by name; ``sensitivities``: d ln figure / d ln
    field at the fit (of an error rate: d probit / d ln field), by figure and field."""

    stack: Stack
    factors: dict[str, float]
    measured: dict[str, float]
    before: dict[str, float]
    after: dict[str, float]
    sensitivities: dict[str, dict[str, float]]


def load_calibration(path: Path) -> Calibration:
    """Read a calibration file.

    Raises:
        SasError: unreadable, or fields that are unknown, missing or impossible.
    """
    text = read_source(path, "calibration file")
    return validate(Calibration, parse_toml(text), [text], "calibration", "method, a measured figure, and [free]")


def calibrate(
    stack: Stack, resistances: tuple[float, float], wanted: Calibration, *, macros: int = 256, seed: int = 0, threads: int = 2,
    watch: Callable[[int, int], None] | None = None, rounds: int = 4,
) -> Fit:  # fmt: skip
    """Gauss-Newton on the logarithms of the free fields, with the same random numbers at every step. With more fields than figures the least
    movement is taken."""
    measured = {name: q.si for name, q in wanted.quantities().items()}
    names = list(wanted.free)
    low, high = (np.log([wanted.free[n][k] for n in names]) for k in (0, 1))

    def moved(x: Floats) -> Stack:
        return stack.scaled(dict(zip(names, np.exp(x).tolist(), strict=True)))

    def figures(x: Floats) -> dict[str, float]:
        of = moved(x)
        write = write_of(of, wanted.method)
        out = {
            "write_energy": run_write(of, write, resistances, 4 * macros, seed=seed, threads=threads, dt=2e-12).energy,
            "pulse": write.latency,
        }
        if "error_rate" in measured:
            out["error_rate"] = write_tail(of, write, resistances, macros=macros, seed=seed, threads=threads)[0].rate
        return out

    def scale(name: str, value: float) -> float:
        from scipy.special import ndtri

        return -float(ndtri(min(0.5, max(value, 1e-30)))) if name == "error_rate" else float(np.log(value))

    def slopes(x: Floats, at: dict[str, float]) -> Floats:
        step, columns = 0.03, list[list[float]]()
        for k in range(len(names)):
            there = figures(x + step * np.eye(len(names))[k])
            columns.append([(scale(n, there[n]) - scale(n, at[n])) / step for n in at])
        return np.array(columns).T

    x = np.zeros(len(names))
    before = now = figures(x)
    gradient = slopes(x, now)
    for i in range(rounds):
        if watch:
            watch(i, rounds)
        rows = [list(now).index(n) for n in measured]
        gap = np.array([scale(n, v) - scale(n, now[n]) for n, v in measured.items()])
        if np.abs(gap).max() < 1e-3:
            break
        x = np.clip(x + np.linalg.lstsq(gradient[rows], gap, rcond=1e-6)[0], low, high)
        now = figures(x)
        gradient = slopes(x, now)
    fitted = _marked(moved(x), names, wanted)
    sensitive = {n: dict(zip(names, gradient[k].tolist(), strict=True)) for k, n in enumerate(now)}
    return Fit(fitted, dict(zip(names, np.exp(x).tolist(), strict=True)), measured, before, now, sensitive)


def _marked(stack: Stack, names: list[str], wanted: Calibration) -> Stack:
    """Fitted fields say that they are."""
    to = ", ".join(f"{n} {q}" for n, q in wanted.quantities().items())
    changed: dict[str, object] = {}
    for name in names:
        section, dot, inner = name.partition(".")
        whole = changed.get(section, getattr(stack, section))
        q = getattr(whole, inner) if dot else whole
        if isinstance(q, Quantity):
            marked = Quantity(float(f"{q.value:.6g}"), q.unit, f"fitted to {to}; before: {q.source}", "fit")
            changed[section] = whole.model_copy(update={inner: marked}) if dot else marked  # type: ignore[union-attr]
    return stack.model_copy(update=changed)
