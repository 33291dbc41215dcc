"""What the figures of a report rest on: the assumptions that move them, interpretations, plausibility, sources."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from sasimc.evaluation.report.charts import bar
from sasimc.evaluation.report.parts import breakable, cell, plain
from sasimc.evaluation.report.tables import Table, si, typeset

__all__ = ["assumptions_section"]


def _tornado(table: Table, limit: int = 12) -> str:
    """Bars from low to high on one scale, for the assumptions that move most."""
    rows = table.rows[:limit]
    unit = table.columns[3].unit
    most = max(float(v or 0) for row in rows for v in row[3:6])
    lines = []
    for name, first, last, low, nominal, high, _ in rows:
        a, b = sorted((float(low or 0), float(high or 0)))
        label = f"{name}: {si(a, unit)} to {si(b, unit)}"
        parts = [
            (a, "none", ""),
            (float(nominal or 0) - a, "var(--p-forward)", label),
            (b - float(nominal or 0), "var(--p-error)", label),
        ]
        lines.append(
            f'<tr><th scope="row">{breakable(str(name))}</th><td>{escape(typeset(f"{first} to {last}"))}</td>{cell(low, unit)}{cell(high, unit)}'
            f'<td class="bars">{bar(parts, most, label)}</td></tr>'
        )
    head = '<th scope="col">number</th><th scope="col">range</th><th scope="col" class="n">low</th><th scope="col" class="n">high</th>'
    head += '<th class="bars" scope="col" aria-label="bar"></th>'
    return (
        f'<div class="scroll"><table><caption>{escape(table.title)}</caption><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
        f'<p class="note">{escape(table.note)}</p>'
    )


def assumptions_section(made: Mapping[str, Table]) -> str:
    """The section; ``made``: the tables of the run."""
    summary = plain(made["summary"], ("value", "unit", "low", "high"))
    swings = "".join(_tornado(made[key]) for key in ("tornado_energy", "tornado_area") if key in made)
    notes = "".join(f"<li>{escape(str(text))}</li>" for kind, text in made["notes"].rows if kind == "note")
    blocks = [
        (
            "interpretations",
            plain(made["interpretations"]) + f'<p class="note">{escape(made["interpretations"].note)}</p>',
            True,
        ),
        ("plausibility", plain(made["plausibility"]), True),
        ("summary", summary, False),
        ("area", plain(made["area"]), False),
        *(
            (key, plain(made[key], ("value", "unit") if key == "technology" else ()), False)
            for key in ("machine", "technology", "charges", "leakage")
        ),
    ]
    parts = "".join(
        f"<details{' open' if opened else ''}><summary>{escape(made[key].title)}</summary>{text}</details>"
        for key, text, opened in blocks
        if key in made
    )
    kinds = '<p class="kinds"><span class="kind paper">paper</span> printed in the paper <span class="kind derived">derived</span> by arithmetic '
    kinds += '<span class="kind fit">fit</span> fitted to data <span class="kind assumption">assumption</span> ours, where the paper is silent</p>'
    return f"{kinds}<details><summary>What these figures rest on ({len(made['notes'].rows)} notes)</summary><ul class='notes'>{notes}</ul></details>{swings}{parts}"
