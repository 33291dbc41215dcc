"""Two runs side by side as one HTML page: what differs in what ran, and what that changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from sasimc.evaluation.cost import Cost
from sasimc.evaluation.diff import Difference, Pair
from sasimc.evaluation.report.charts import bar, legend
from sasimc.evaluation.report.content import short_name
from sasimc.evaluation.report.house import COMPONENTS, component_colour, component_name, frame, phase_colour
from sasimc.evaluation.report.parts import breakable, cell
from sasimc.evaluation.report.tables import percent, si

__all__ = ["compare_page"]

FIRST = 15
"""Rows of a long table shown before the rest is asked for: those with the largest change."""


def compare_page(found: Difference, runs: tuple[Cost, Cost]) -> str:
    """The page of ``sasc diff --html``."""
    sections = [
        ("settings", "What differs", "In program, machine, technology and figures; what is equal is left out.", _settings(found)),
        ("totals", "Totals", "Figures of the whole run.", _pairs(found.parts["totals"], lambda _: "var(--accent)")),
        ("components", "Energy by component", "The same colours as in a run's report.", _components(found)),
        ("phases", "Energy by phase", "", _pairs(found.parts["energy_by_phase"], phase_colour)),
        ("layers", "Energy by layer", "The largest changes first.", _pairs(found.parts["energy_by_node"], lambda _: "var(--accent)", "layers-energy")),
        ("times", "Time by layer", "The largest changes first.", _pairs(found.parts["time_by_node"], lambda _: "var(--accent)", "layers-time")),
        ("area", "Area by component", "", _components(found, "area_by_component")),
        ("host", "Speed of the simulator", "Of the computer that ran the simulation; no figure of the device.", _pairs(found.parts["host"], lambda _: "var(--dim)")),
    ]  # fmt: skip
    shown = [s for s in sections if s[3]]
    nav = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title, *_ in shown)
    body = "".join(
        f'<section id="{key}"><header><h2>{escape(title)}</h2><p>{escape(intro)}</p></header>{text}</section>'
        for key, title, intro, text in shown
    )
    heads = "".join(_run(letter, name, cost) for letter, name, cost in zip("ab", found.names, runs, strict=True))
    head = f'<header class="top"><p class="brand">sas-imc comparison</p><h1>Two runs side by side</h1></header><div class="two runs">{heads}</div>'
    return frame("sas-imc comparison", f'{head}<nav aria-label="Sections">{nav}</nav>{body}')


def _run(letter: str, name: str, cost: Cost) -> str:
    """A run's name, what it ran, and its first figures."""
    report, images = cost.run.report, cost.run.images
    facts = [
        ("program", str(report.get("program", ""))), ("machine", cost.run.machine.name), ("technology", cost.model.technology.name),
        ("images", str(images)), ("energy an image", si(cost.energy / images, "J") if images else ""),
        ("on the chip", si(cost.on_chip().energy / images, "J") if images else ""), ("latency an image", si(cost.run.seconds / images, "s") if images else ""),
        ("top-1", f"{report['top1']:.1f} % ± {report.get('top1_error', 0):.1f} %" if report.get("top1") is not None else ""),
    ]  # fmt: skip
    listed = "".join(f"<div><dt>{k}</dt><dd>{escape(v)}</dd></div>" for k, v in facts if v)
    order = [*COMPONENTS, *(c for c in cost.by_component() if c not in COMPONENTS)]
    parts = [(cost.by_component().get(c, 0.0), component_colour(c), component_name(c)) for c in order]
    return f'<article class="run"><h2><span class="mark">{letter}</span> {breakable(name)}</h2><dl class="facts">{listed}</dl>{bar(parts, cost.energy, "energy by component")}</article>'


def _settings(found: Difference) -> str:
    rows = "".join(
        f'<tr><th scope="row">{breakable(name)}</th>{"".join(cell("" if v is None else str(v), "") for v in pair)}</tr>'
        for name, pair in found.settings.items()
    )
    head = '<th scope="col">setting</th><th scope="col">a</th><th scope="col">b</th>'
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        if rows
        else "<p>Nothing: both runs are of the same program, machine, technology and figures.</p>"
    )


def _components(found: Difference, part: str = "energy_by_component") -> str:
    order = list(COMPONENTS)
    pairs = sorted(found.parts[part], key=lambda p: order.index(p.name) if p.name in COMPONENTS else len(order))
    legend_ = legend([(component_name(p.name), component_colour(p.name)) for p in pairs])
    return legend_ + _pairs(
        [Pair(component_name(p.name), p.a, p.b, p.unit) for p in pairs],
        {component_name(p.name): component_colour(p.name) for p in pairs}.__getitem__,
    )


def _pairs(pairs: Sequence[Pair], colour: Callable[[str], str], key: str = "") -> str:
    """A row for every pair: both values, bars over each other where the unit is one for all, the change. ``key``: of a table that is cut
    after the largest changes."""
    kept = [p for p in pairs if p.a or p.b]
    if not kept:
        return ""
    one = len({p.unit for p in kept}) == 1
    most = max(abs(v) for p in kept for v in (p.a or 0.0, p.b or 0.0))
    if key:
        kept.sort(key=lambda p: -abs((p.b or 0.0) - (p.a or 0.0)))
    rows: list[str] = []
    for rank, p in enumerate(kept):
        values = "".join(
            f'<td class="n" data-v="{"" if v is None else repr(v)}">{"–" if v is None else si(v, p.unit)}</td>'
            for v in (p.a, p.b)
        )
        whole = most if one else max(abs(p.a or 0.0), abs(p.b or 0.0))
        both = bar([(abs(p.a or 0.0), colour(p.name), "a")], whole, "a") + bar(
            [(abs(p.b or 0.0), f"color-mix(in srgb, {colour(p.name)} 55%, var(--bg))", "b")], whole, "b"
        )
        name = short_name(p.name) if key else p.name.replace("_", " ")
        change = _change(p.ratio)
        rows.append(
            f'<tr{" class=more" if key and rank >= FIRST else ""}><th scope="row">{breakable(name)}</th>{values}<td class="bars pair">{both}</td>'
            f'<td class="n" data-v="{0 if p.ratio is None else p.ratio!r}">{change}</td></tr>'
        )
    head = '<th scope="col"></th><th scope="col" class="n">a</th><th scope="col" class="n">b</th><th scope="col" class="bars">a above b</th><th scope="col" class="n">change</th>'
    more = f'<button class="all" hidden data-more="{key}">Show all {len(kept)}</button>' if key and len(kept) > FIRST else ""
    ident = f' id="{key}"' if key else ""
    return f'<div class="scroll"><table class="sortable{" layers cut" if key else ""}"{ident}><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>{more}'


def _change(ratio: float | None) -> str:
    """How much more (b / a - 1), in words."""
    if ratio is None or ratio == 1:
        return "–" if ratio is None else "equal"
    text = percent(abs(ratio - 1))
    return text if text.startswith("<") else f"{'+' if ratio > 1 else '−'}{text}"
