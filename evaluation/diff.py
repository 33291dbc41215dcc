"""Two runs side by side: other programs, machines, technologies, circuit figures or interpretations of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sasimc.evaluation.cost import Cost
from sasimc.evaluation.quantity import format_si
from sasimc.evaluation.table import Table
from sasimc.evaluation.text import OTHER

__all__ = ["Difference", "Pair", "compare"]


@dataclass(frozen=True)
class Pair:
    """One number of both runs; None where a run does not have it."""

    name: str
    a: float | None
    b: float | None
    unit: str

    @property
    def ratio(self) -> float | None:
        """b / a."""
        return None if self.a is None or self.b is None or not self.a else self.b / self.a


@dataclass(frozen=True)
class Difference:
    """``settings``: what differs in what was run (value in a, value in b). ``parts``: pairs by heading."""

    names: tuple[str, str]
    settings: dict[str, tuple[Any, Any]]
    parts: dict[str, list[Pair]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON, at full precision (docs/reference/run-json.md)."""
        return {
            "a": self.names[0],
            "b": self.names[1],
            "settings": {k: {"a": a, "b": b} for k, (a, b) in self.settings.items()},
            **{part: [{**p.__dict__, "ratio": p.ratio} for p in pairs] for part, pairs in self.parts.items()},
        }

    def tables(self, limit: int | None = 20) -> list[Table]:
        """As text; at most ``limit`` rows a table, those with the largest change first where there are more (totals are all shown)."""
        out: list[Table] = []
        if self.settings:
            rows = [(name, _shown(a), _shown(b)) for name, (a, b) in self.settings.items()]
            out.append(Table("what differs", ("setting", "a", "b"), rows, (0, 1, 2)))
        for part, pairs in self.parts.items():
            chosen = pairs
            if limit is not None and len(pairs) > limit and part != "totals":
                chosen = sorted(pairs, key=lambda p: -abs((p.b or 0.0) - (p.a or 0.0)))[:limit]
            cells = [
                (
                    p.name or OTHER,
                    *("" if v is None else format_si(v, p.unit) for v in (p.a, p.b)),
                    "" if p.ratio is None else f"{p.ratio:.3g}",
                )
                for p in chosen
            ]
            title = part.replace("_", " ") + (
                f" (the {len(chosen)} largest changes of {len(pairs)})" if len(chosen) < len(pairs) else ""
            )
            out.append(Table(title, ("", "a", "b", "b / a"), cells))
        return out


def _shown(value: Any) -> str:
    return "" if value is None else f"{value}"


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in data.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out


def _settings(cost: Cost) -> dict[str, Any]:
    report, model = cost.run.report, cost.model
    said = {k: report.get(k) for k in ("program", "program_digest", "engine", "dataset")}
    machine = _flat(model.machine.model_dump(mode="json"), "machine.")
    technology = {f"technology.{name}": str(q) for name, q in model.technology.quantities().items()}
    figures = {"technology": model.technology.name, "circuit": model.circuit.name, "interpretation": model.interpretation_name}
    return {**said, **machine, **figures, **technology, "images": cost.run.images}


def _pairs(a: Mapping[str, float], b: Mapping[str, float], unit: str) -> list[Pair]:
    return [Pair(name, a.get(name), b.get(name), unit) for name in dict.fromkeys((*a, *b))]


def _said(a: Cost, b: Cost, units: Mapping[str, str]) -> list[Pair]:
    """Numbers that the runs say themselves."""
    values = {key: (a.run.report.get(key), b.run.report.get(key)) for key in units}
    return [Pair(key, *pair, units[key]) for key, pair in values.items() if any(isinstance(v, int | float) for v in pair)]


def compare(a: Cost, b: Cost, names: tuple[str, str] = ("a", "b")) -> Difference:
    """Both costs side by side: settings that differ; totals; energy by phase, component, node and instruction; time by node; area; what the simulator's
    host did (``host``), which is no figure of the device."""
    left, right = _settings(a), _settings(b)
    settings = {k: (left.get(k), right.get(k)) for k in dict.fromkeys((*left, *right)) if left.get(k) != right.get(k)}
    totals = [
        Pair(name, a.figures[name].value if name in a.figures else None, b.figures[name].value if name in b.figures else None,
             (a.figures.get(name) or b.figures[name]).unit)
        for name in dict.fromkeys((*a.figures, *b.figures))
    ]  # fmt: skip
    totals += _said(a, b, {"top1": "%"})
    seconds = [{n: c / cost.model.machine.clock_hz for n, c in cost.node_cycles().items()} for cost in (a, b)]
    areas = [{n: f.value for n, f in cost.model.area.parts.items()} for cost in (a, b)]
    return Difference(
        names,
        settings,
        {
            "totals": totals,
            "energy_by_phase": _pairs(a.by_phase(), b.by_phase(), "J"),
            "energy_by_component": _pairs(a.by_component(), b.by_component(), "J"),
            "energy_by_node": _pairs(a.by_node(), b.by_node(), "J"),
            "energy_by_instruction": _pairs(a.by_instruction(), b.by_instruction(), "J"),
            "time_by_node": _pairs(seconds[0], seconds[1], "s"),
            "area_by_component": _pairs(areas[0], areas[1], "m^2"),
            "host": _said(a, b, {"images_per_s": "image/s", "wall_s": "s"}),
        },
    )
