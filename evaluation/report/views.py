"""Where energy and time go, for all of a run or one entry point, with or without host traffic. Every view is in the page; switches choose, without
a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sasimc.evaluation.cost import Cost
from sasimc.evaluation.report.charts import bar, legend
from sasimc.evaluation.report.content import NO_NODE, energy_tables, layer_order, short_name
from sasimc.evaluation.report.house import COMPONENTS, component_colour, component_name, phase_colour
from sasimc.evaluation.report.parts import bars, breakable
from sasimc.evaluation.report.tables import shown, si

__all__ = ["View", "energy_section", "layers_section", "switches", "view_style", "views"]

FIRST_LAYERS = 15
"""Layers shown before the rest is asked for."""


@dataclass(frozen=True)
class View:
    """``part``: number of the part of the run (0: all of it), ``chip``: without host traffic."""

    part: int
    chip: bool
    label: str
    cost: Cost

    @property
    def key(self) -> str:
        """For ids and classes."""
        return f"{self.part}{'c' if self.chip else ''}"


def views(cost: Cost) -> list[View]:
    """All of the run first; its entry points apart where there are several."""
    entries = cost.entries
    parts = [("All", cost), *((entry_name(name), cost.of_entry(name)) for name in entries if len(entries) > 1)]
    return [
        View(i, chip, label, part.on_chip() if chip else part) for i, (label, part) in enumerate(parts) for chip in (False, True)
    ]


def entry_name(entry: str) -> str:
    """An entry point in words."""
    words = {
        "infer": "Inference",
        "train_step": "Training steps",
        "train_first": "First training step",
        "": "Code before any entry",
    }
    return words.get(entry, entry)


def switches(made: Sequence[View]) -> str:
    """The switches that choose a view."""

    def switch(name: str, label: str, choices: Sequence[tuple[str, str]]) -> str:
        inner = "".join(
            f'<label><input type="radio" name="{name}" id="{name}-{value}"{" checked" if not i else ""}><span>{escape(text)}</span></label>'
            for i, (value, text) in enumerate(choices)
        )
        return f'<div class="switch" role="radiogroup" aria-label="{label}">{inner}</div>'

    parts = [(str(v.part), v.label) for v in made if not v.chip]
    first = switch("part", "Part of the run", parts) if len(parts) > 1 else '<input type="radio" id="part-0" checked hidden>'
    return f'<div class="controls views">{first}{switch("energy", "Energy that counts", [("all", "With the host interface"), ("chip", "On the chip only")])}</div>'


def view_style(made: Sequence[View]) -> str:
    """The rules that show the chosen view alone."""
    rules = (f"main:has(#part-{v.part}:checked):has(#energy-{'chip' if v.chip else 'all'}:checked) .view-{v.key}" for v in made)
    return f".view{{display:none}}{','.join(rules)}{{display:block}}"


def _each(made: Sequence[View], content: Sequence[str]) -> str:
    return "".join(f'<div class="view view-{v.key}">{text}</div>' for v, text in zip(made, content, strict=True))


def layers_section(made: Sequence[View]) -> str:
    """A table of layers for every view."""
    used = {c for v in made for c in v.cost.by_component()}
    colours = [(component_name(c), component_colour(c)) for c in (*COMPONENTS, *sorted(used - COMPONENTS.keys())) if c in used]
    return legend(colours) + _each(made, [_layers(v) for v in made])


def _layers(view: View) -> str:
    """A row a layer: a stacked bar of energy by component, a bar of time."""
    cost = view.cost
    table, parts = energy_tables(cost)["layers"], cost.node_components()
    nodes = layer_order(cost)
    energies = {n: sum(parts.get(n, {}).values()) for n in nodes}
    shares = [float(v or 0) for v in table.column("share of time")]
    most, slowest = max(energies.values(), default=0.0), max(shares, default=0.0)
    order = sorted(range(len(nodes)), key=lambda i: -energies[nodes[i]])
    rows: list[str] = []
    for rank, index in enumerate(order):
        node, row = nodes[index], table.rows[index]
        own = parts.get(node, {})
        stack = [(own[c], component_colour(c), f"{component_name(c)}: {si(own[c], 'J')}")
                 for c in (*COMPONENTS, *sorted(own.keys() - COMPONENTS.keys())) if own.get(c)]  # fmt: skip
        name, time = short_name(node), float(row[5] or 0)
        extra = node.count(",")
        more = f' <small title="{escape(node)}">+{extra}</small>' if extra else ""
        rows.append(
            f'<tr{" class=more" if rank >= FIRST_LAYERS else ""} data-layer="{escape(name)}"><td class="n dim" data-v="{row[0]}">{row[0]}</td>'
            f'<th scope="row" title="{escape(node or NO_NODE)}">{breakable(name)}{more}</th>'
            f'<td class="n" data-v="{energies[node]!r}">{si(energies[node], "J")}</td>'
            f'<td class="bars">{bar(stack, most, f"{name}: energy")}</td><td class="n dim">{shown(row[3], "share")}</td>'
            f'<td class="n" data-v="{time!r}">{si(time, "s")}</td>'
            f'<td class="bars">{bar([(shares[index], "var(--accent)", "")], slowest, f"{name}: time")}</td>'
            f'<td class="n dim">{shown(row[6], "share")}</td></tr>'
        )
    key = "layers-table" if view.key == "0" else f"layers-table-{view.key}"
    button = (
        f'<button class="all" hidden data-more="{key}">Show all {len(nodes)} layers</button>' if len(nodes) > FIRST_LAYERS else ""
    )
    head = (
        '<th scope="col" class="n">no.</th><th scope="col">layer</th><th scope="col" class="n">energy</th><th class="bars" scope="col">by component</th>'
        '<th scope="col" class="n">share</th><th scope="col" class="n">time</th><th class="bars" scope="col"><span class="vh">bar</span></th><th scope="col" class="n">share</th>'
    )
    return f'<div class="scroll"><table class="sortable layers" id="{key}"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>{button}'


def energy_section(made: Sequence[View]) -> str:
    """Components, phases, units and instructions, for every view; above them the parts of the run beside each other."""
    return (_parts(made) if len(made) > 2 else "") + _each(made, [_energy(v.cost) for v in made])


def _parts(made: Sequence[View]) -> str:
    """Every part of the run in a row."""
    rows: list[str] = []
    for v in made:
        if v.chip or v.part == 0:
            continue
        cost, images = v.cost, v.cost.run.images
        chip = cost.on_chip().energy
        each = [si(n / images, u) if images else "–" for n, u in ((cost.energy, "J"), (chip, "J"), (cost.run.seconds, "s"))]
        stack = [(cost.by_component().get(c, 0.0), component_colour(c), component_name(c)) for c in COMPONENTS]
        rows.append(
            f'<tr><th scope="row">{escape(v.label)}</th><td class="n">{shown(images, "count")}</td><td class="n">{si(cost.energy, "J")}</td>'
            f'<td class="bars">{bar(stack, cost.energy, v.label)}</td><td class="n">{si(cost.run.seconds, "s")}</td>{"".join(f"<td class=n>{e}</td>" for e in each)}</tr>'
        )
    head = "".join(
        f'<th scope="col" class="{c}">{t}</th>'
        for t, c in (("part of the run", ""), ("images", "n"), ("energy", "n"), ("by component", "bars"), ("time", "n"), ("energy an image", "n"),
                     ("of it on the chip", "n"), ("time an image", "n"))
    )  # fmt: skip
    return f'<div class="scroll parts"><table><caption>Inference and training apart</caption><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _energy(cost: Cost) -> str:
    made = energy_tables(cost)
    components, phases = made["components"], made["phases"]
    names = {component_name(c): component_colour(c) for c in cost.by_component()}
    left = bars(components, "component", "energy", "J", [names[str(n)] for n in components.column("component")])
    colours = [phase_colour(str(p)) for p in phases.column("phase")]
    right = bars(phases, "phase", "energy", "J", colours, share="share of energy", then=("time", "share of time"))
    more = bars(made["instructions"], "instruction", "energy", "J", ["var(--accent)"], then=("time", "executions"))
    right += '<div class="below">' + bars(made["units"], "component", "time", "s", ["var(--accent)"]) + "</div>"
    return f'<div class="two"><div>{left}</div><div>{right}</div></div><details><summary>Energy by instruction</summary>{more}</details>'
