"""What a study found: a table, the Pareto front, and which parameters matter."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sasimc.study.description import Description

__all__ = ["Row", "csv_text", "front", "importance", "rows_of", "table"]


@dataclass(frozen=True)
class Row:
    """A point: means of its metrics over seeds, their standard errors (more than one seed), or why it is infeasible."""

    point: Mapping[str, Any]
    metrics: Mapping[str, float | None]
    errors: Mapping[str, float]
    seeds: int
    infeasible: str = ""


def rows_of(d: Description, results: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[Row]:
    """One row a point, in the order of the results. ``results``: (point, outcome), seed by seed."""
    groups: dict[tuple[tuple[str, Any], ...], list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for point, outcome in results:
        groups.setdefault(tuple(sorted(point.items())), []).append((point, outcome))
    rows = []
    for group in groups.values():
        point = group[0][0]
        reasons = [o["infeasible"] for _, o in group if "infeasible" in o]
        if reasons:
            rows.append(Row(point, {}, {}, len(group), reasons[0]))
            continue
        means: dict[str, float | None] = {}
        errors: dict[str, float] = {}
        for name in d.metrics:
            values = [o["metrics"].get(name) for _, o in group]
            numbers = [v for v in values if v is not None]
            means[name] = statistics.fmean(numbers) if numbers and len(numbers) == len(values) else None
            if len(numbers) > 1:
                errors[name] = statistics.stdev(numbers) / len(numbers) ** 0.5
        broken = d.broken(means)
        rows.append(Row(point, means, errors, len(group), "; ".join(broken)))
    return rows


def front(d: Description, rows: Sequence[Row]) -> list[int]:
    """Indices of feasible rows that no other beats in every goal, in the order of the first goal."""
    goals = d.goals
    feasible = [i for i, r in enumerate(rows) if not r.infeasible and all(r.metrics.get(g) is not None for g in goals)]
    if not goals or not feasible:
        return []
    signs = np.array([1.0 if goal == "minimise" else -1.0 for goal in goals.values()])
    values = np.array([[float(rows[i].metrics[g] or 0.0) for g in goals] for i in feasible]) * signs
    kept = [i for i, v in zip(feasible, values, strict=True) if not ((values <= v).all(axis=1) & (values < v).any(axis=1)).any()]
    first = next(iter(goals))
    return sorted(kept, key=lambda i: signs[0] * float(rows[i].metrics[first] or 0.0))


def importance(rows: Sequence[Row], metric: str, names: Sequence[str]) -> dict[str, float]:
    """Share of a metric's variance that a parameter alone explains: variance of the means at its values, over the whole (main effects, between 0 and 1)."""
    found = [(r.point, float(v)) for r in rows if not r.infeasible and (v := r.metrics.get(metric)) is not None]
    values = np.array([v for _, v in found])
    whole = float(values.var()) if len(values) else 0.0
    out = {}
    for name in names:
        groups: dict[Any, list[float]] = {}
        for point, v in found:
            groups.setdefault(point.get(name), []).append(v)
        mean = float(values.mean()) if len(values) else 0.0
        between = sum(len(g) * (statistics.fmean(g) - mean) ** 2 for g in groups.values()) / max(1, len(values))
        out[name] = between / whole if whole > 0 else 0.0
    return dict(sorted(out.items(), key=lambda item: -item[1]))


def table(d: Description, rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Columns of equal length: parameters, metrics, their standard errors, seeds, why a point is infeasible, whether it is on the front. None: not there."""
    best = set(front(d, rows))
    errors = [m for m in d.metrics if any(m in r.errors for r in rows)]
    return {
        **{n: [r.point.get(n) for r in rows] for n in d.vary},
        **{m: [r.metrics.get(m) for r in rows] for m in d.metrics},
        **{f"{m} standard error": [r.errors.get(m) for r in rows] for m in errors},
        "seeds": [r.seeds for r in rows],
        "infeasible": [r.infeasible for r in rows],
        "front": [i in best for i in range(len(rows))],
    }


def csv_text(columns: Mapping[str, Sequence[Any]]) -> str:
    """A table as CSV; floats as they are, to the last bit."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow(
            ["" if v is None else repr(v) if isinstance(v, float) else int(v) if isinstance(v, bool) else v for v in row]
        )
    return out.getvalue()
