"""What a run learned and how well it answers: epochs, accuracy by class, confusions."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from sasimc.evaluation.cost import PHASE_NAMES, Cost
from sasimc.evaluation.report.charts import Series, columns, curves, legend
from sasimc.evaluation.report.content import answers, interval
from sasimc.evaluation.report.house import phase_colour
from sasimc.evaluation.report.parts import plain
from sasimc.evaluation.report.tables import Table, percent

__all__ = ["accuracy_section", "training_section"]


def training_section(cost: Cost, made: Mapping[str, Table]) -> str:
    """Curves and the table of epochs; empty when the run did not train."""
    table = made.get("epochs")
    if table is None:
        return ""
    numbers = [int(v) for v in table.column("epoch") if isinstance(v, (int, float))]

    def points(name: str) -> list[tuple[float, float | None]]:
        return [
            (float(n), None if v is None or isinstance(v, str) else float(v))
            for n, v in zip(numbers, table.column(name), strict=True)
        ]

    def per_cent(name: str) -> list[tuple[float, float | None]]:
        return [(n, None if v is None else 100 * v) for n, v in points(name)]

    first, last = numbers[0] - 0.5, numbers[-1] + 0.5  # as wide as the columns below
    every = max(1, -(-len(numbers) // 10))
    labels = [((n - first) / (last - first), str(n)) for n in numbers if (n - numbers[0]) % every == 0]
    accuracy = [
        Series("training", "var(--dim)", per_cent("accuracy, training"), dash="6 4", marks=len(numbers) <= 40),
        Series("validation", "var(--accent)", per_cent("accuracy, validation"), marks=len(numbers) <= 40),
    ]
    accuracy = [s for s in accuracy if any(y is not None for _, y in s.points)]
    name = "Loss (nats)" if accuracy else "Mean squared error"  # a network that learns values has no accuracy
    losses = [
        Series("training", "var(--dim)", points("loss"), dash="6 4", marks=len(numbers) <= 40),
        Series("validation", "var(--accent)", points("loss, validation"), marks=len(numbers) <= 40),
    ]
    losses = [s for s in losses if any(y is not None for _, y in s.points)]
    top = curves(accuracy, (first, last, "1"), "%", title="Accuracy by epoch", x_labels=labels, top=100.0)
    loss = curves(
        losses,
        (first, last, "1"),
        "1",
        title=f"{name} by epoch",
        x_labels=labels,
    )
    phases = [p for p in PHASE_NAMES if any(table.column(f"energy, {p}"))]
    stacks = [[(float(table.column(f"energy, {p}")[i] or 0), phase_colour(p), p) for p in phases] for i in range(len(numbers))]
    energy = columns([str(n) for n in numbers], stacks, "J", title="Energy by epoch and phase") if phases else ""
    kept = cost.run.report.get("best_epoch")
    note = f"<p>Kept: the weights of epoch {kept + 1}.</p>" if isinstance(kept, int) and kept >= 0 else ""
    drawn = (
        f"<figure><figcaption><h3>Energy by epoch</h3></figcaption>{energy}{legend([(p, phase_colour(p)) for p in phases])}</figure>"
        if energy
        else ""
    )
    skip = [c.name for c in table.columns if c.name.startswith("energy, ") or all(v is None for v in table.column(c.name))]
    figures = [("Accuracy", top, accuracy)] if accuracy else []
    shown = "".join(
        f"<figure><figcaption><h3>{title}</h3></figcaption>{text}{legend([(s.name, s.colour) for s in series])}</figure>"
        for title, text, series in (*figures, (name, loss, losses))
    )
    return (
        f'<div class="two">{shown}</div>{drawn}{note}{plain(table, skip, caption=False)}<p class="note">{escape(table.note)}</p>'
    )


MOST_CLASSES = 40
"""Classes of the largest confusion matrix that is drawn; more are listed."""


def accuracy_section(cost: Cost, made: Mapping[str, Table]) -> str:
    """Accuracy with its error, by class, and confusions; empty when the run evaluated nothing, or an older version wrote it."""
    report, classes = cost.run.report, made.get("classes")
    if report.get("top1") is None or classes is None:
        return ""
    count, top1 = int(report.get("evaluated", 0)), float(report["top1"])
    low, high = interval(round(count * top1 / 100), count)
    error = float(report.get("top1_error", 0.0))
    said = (
        f'<p class="short">Top-1 <b>{percent(top1 / 100)} ± {error:.1f} %</b> of {count} images of the split <b>{escape(str(report.get("split", "test")))}</b>'
        f" (± is the standard error; 95 % interval {percent(low)} to {percent(high)}).</p>"
    )
    most = made.get("confusions")
    listed = plain(Table("", "Most frequent confusions", most.columns, most.rows[:15])) if most else ""
    drawn = _matrix(cost) if len(classes.rows) <= MOST_CLASSES else ""
    table = f"<details open><summary>By class</summary>{plain(classes, caption=False)}<p class='note'>{escape(classes.note)}</p></details>"
    return said + f'<div class="two"><div>{drawn or listed}</div><div>{listed if drawn else ""}</div></div>' + table


def _matrix(cost: Cost) -> str:
    """The confusion matrix: rows are classes, columns what they were taken for, darkness the share of the row."""
    names, found = answers(cost)
    size = len(names)
    whole = {i: sum(n for (a, _), n in found.items() if a == i) for i in range(size)}
    cells = "".join(
        f'<rect x="{b}" y="{a}" width="1" height="1" fill="color-mix(in oklab, var({"--p-forward" if a == b else "--p-write"}) {100 * n / whole[a]:.0f}%, transparent)">'
        f"<title>{escape(names[a])} taken for {escape(names[b])}: {n} of {whole[a]}</title></rect>"
        for (a, b), n in sorted(found.items())
    )
    return (
        f'<figure class="confusion"><figcaption><h3>Confusion</h3><p>rows: the class, from the first to the last; columns: what it was taken for</p></figcaption>'
        f'<svg viewBox="0 0 {size} {size}" role="img" aria-label="Confusion matrix of {size} classes">{cells}<rect class="edge" width="{size}" height="{size}"/></svg>'
        f"{legend([('right', 'var(--p-forward)'), ('wrong', 'var(--p-write)')])}</figure>"
    )
