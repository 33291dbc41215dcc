"""What the evaluation knows of a run: the part of ``sasrun --json`` that docs/reference/run-json.md calls the profile."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from sasimc.isa.described import damage
from sasimc.isa.errors import SasError
from sasimc.isa.machine import Machine
from sasimc.isa.spec import EVENTS, PHASES

__all__ = ["Row", "Run", "load_run", "read_run"]

SCHEMA: Final = 1
_HINT = "write one with `sasrun PROGRAM --json FILE`"


@dataclass(frozen=True)
class Row:
    """A row of the profile: where, executions, share of the cycles, counts of events (docs/reference/run-json.md)."""

    phase: str
    node: str = ""
    unit: str = ""
    mnemonic: str = ""
    matrix: str = ""
    entry: str = ""
    executions: int = 0
    busy_cycles: int = 0
    cycles: float = 0.0
    events: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run: its machine, its rows, cycles and images; ``report`` is everything else it said."""

    machine: Machine
    rows: tuple[Row, ...]
    cycles: int
    images: int
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Time on the device."""
        return self.cycles / self.machine.clock_hz

    @property
    def name(self) -> str:
        """What ran on what, for headings."""
        return f"{self.report.get('program', 'a program')} on {self.machine.name}"

    @property
    def transposable(self) -> int:
        """Transposable sub-arrays: those in use, in whole activation groups, or what the machine says."""
        said, size = self.machine.transposed.subarrays, self.machine.group_size
        if said != "auto":
            return min(self.machine.subarrays, -(-said // size) * size)
        used = [s["index"] for s in self.report.get("layout", {}).get("subarrays", ()) if s["array"] == "transposable"]
        return len({self.machine.group_of(s) for s in used}) * size

    def epochs(self) -> list[list[Row]]:
        """One row a phase for every epoch."""
        return [
            [Row(p, cycles=float(e["phase_cycles"].get(p, 0)), events=e["phase_events"].get(p, {})) for p in PHASES]
            for e in self.report.get("epochs", ())
            if "phase_events" in e
        ]


def read_run(report: Mapping[str, Any], where: str = "run report") -> Run:
    """A run from its report.

    Raises:
        SasError: not a report of `sasrun`, of another version, or damaged.
    """
    if "profile" not in report or "machine_description" not in report:
        raise SasError("this is no report of a run", where=where, hint=_HINT)
    if report.get("schema") != SCHEMA:
        raise SasError(f"the report is of version {report.get('schema')!r}, this program reads {SCHEMA}", where=where, hint=_HINT)
    try:
        machine = Machine.model_validate(report["machine_description"])
        rows = tuple(Row(**row) for row in report["profile"])
        run = Run(machine, rows, int(report["cycles"]), int(report["images"]), report)
        _check(run.rows)
        int(run.report.get("writes", {}).get("host", {}).get("bits_written", 0))
        wear = run.report.get("wear") or {"worst": 0, "mean": 0.0, "rows": 0, "total": 0, "worst_row": [0, 0]}
        _ = run.epochs(), run.transposable, [float(wear[k]) for k in ("worst", "mean", "rows", "total")], wear["worst_row"][1]
    except (ValidationError, LookupError, TypeError, ValueError, AttributeError) as exc:
        raise SasError(f"the report is damaged: {damage(exc):.200}", where=where, hint=_HINT) from None
    return run


def _check(rows: Iterable[Row]) -> None:
    for row in rows:
        if row.phase not in PHASES or not all(isinstance(n, int) and n >= 0 for n in row.events.values()) or row.cycles < 0:
            raise ValueError(f"row {row}")
        if unknown := set(row.events) - set(EVENTS):
            raise ValueError(f"unknown events {sorted(unknown)}")


def load_run(path: str | Path) -> Run:
    """A run from a report file.

    Raises:
        SasError: unreadable, no JSON, or no run report.
    """
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise SasError(f"cannot read the report: {getattr(exc, 'strerror', None) or exc}", where=str(path)) from None
    except (json.JSONDecodeError, RecursionError) as exc:
        raise SasError(f"not valid JSON: {exc}", where=str(path)) from None
    if not isinstance(report, dict):
        raise SasError("this is no report of a run", where=str(path), hint=_HINT)
    return read_run(report, str(path))
