"""The report as one HTML file: no network, no fonts or scripts from elsewhere; readable without scripts, on a phone, in the dark and on paper."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from sasimc.evaluation.cost import PHASE_NAMES, Cost
from sasimc.evaluation.report.charts import Series, bar, columns, curves, legend
from sasimc.evaluation.report.content import NO_NODE, component_name, layer_order, short_name
from sasimc.evaluation.report.floorplan import floor_plan
from sasimc.evaluation.report.tables import Cell, Table, count, percent, shown, si

__all__ = ["page"]

FIRST_LAYERS = 15
"""Layers shown before the rest is asked for."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What the browser may load: nothing."""


def _asset(name: str) -> str:
    return resources.files("sasimc.evaluation.report").joinpath(name).read_text(encoding="utf-8")


def _phase_colour(name: str) -> str:
    return f"var(--p-{name.split()[0]})"


def page(cost: Cost, made: Mapping[str, Table]) -> str:
    """The whole page; ``made``: the tables of the run (:func:`~sasimc.evaluation.report.content.tables`)."""
    colours = {name: f"var(--c{i % 13})" for i, (name, _) in enumerate(sorted(cost.by_component().items(), key=lambda p: -p[1]))}
    sections = [
        ("layers", "Layers", _layers(cost, made, colours)),
        ("energy", "Energy and time", _energy(cost, made, colours)),
        ("floor-plan", "Floor plan", floor_plan(cost)),
        ("buffer", "Buffer", _buffer(cost)),
        ("training", "Training", _training(cost, made)),
        ("area", "Area and wear", _area(made)),
        ("assumptions", "Assumptions", _assumptions(cost, made)),
    ]
    sections = [s for s in sections if s[2]]
    intro = {
        "layers": "Where energy and time go, by ONNX node. Press a heading to sort.",
        "energy": "By component of the circuit, by phase of the computation, by instruction.",
        "floor-plan": "Which layer stands where, and what its sub-arrays did in this run.",
        "buffer": "Bytes of the global buffer in use, during one mean run of each entry point.",
        "training": "Accuracy, loss and energy by epoch.",
        "area": "What the chip is made of, and how its cells wear.",
        "assumptions": "Every number has a source. What the paper does not say is assumed, in files that you can change.",
    }
    nav = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title, _ in sections)
    body = "".join(
        f'<section id="{key}"><header><h2>{escape(title)}</h2><p>{escape(intro[key])}</p></header>{text}</section>'
        for key, title, text in sections
    )
    title = str(cost.run.report.get("program", "a program")).replace("\\", "/").rsplit("/", 1)[-1]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<title>{escape(title)} – sas-imc report</title><link rel="icon" href="data:,"><style>{_asset("style.css")}</style></head>
<body><main><header class="top"><p class="brand">sas-imc run report</p><h1>{escape(title)}</h1>{_facts(cost)}</header>
{_warnings(cost)}<div class="cards">{_cards(cost)}</div>{_in_short(cost, made)}
<nav aria-label="Sections">{nav}</nav>
{body}
<footer><p>Program {escape(str(cost.run.report.get("program_digest", "unknown"))[:16])}, report format {escape(str(cost.run.report.get("schema", "?")))}.
Figures have three significant digits; <code>sasc report --csv</code> writes every table in full precision.</p></footer></main>
<script>{_asset("page.js")}</script></body></html>
"""


def _facts(cost: Cost) -> str:
    report, machine = cost.run.report, cost.run.machine
    facts = [
        ("machine", f"{machine.name}, {machine.subarrays} sub-arrays, {si(machine.clock_hz, 'Hz')}"),
        ("technology", cost.model.technology.name),
        ("circuit figures", f"{cost.model.circuit.name}, read {cost.model.interpretation_name}"),
        (
            "data",
            str(report["dataset"]) + (" (drawn by formula)" if report.get("synthetic") else "") if report.get("dataset") else "",
        ),
        ("engine", str(report.get("engine", ""))),
        ("images", shown(cost.run.images, "count")),
    ]
    return '<dl class="facts">' + "".join(f"<div><dt>{k}</dt><dd>{escape(v)}</dd></div>" for k, v in facts if v) + "</dl>"


def _warnings(cost: Cost) -> str:
    found = cost.model.warnings()
    return '<div class="warning" role="note">' + "".join(f"<p>{escape(w)}</p>" for w in found) + "</div>" if found else ""


def _cards(cost: Cost) -> str:
    figures, report = cost.figures, cost.run.report
    wanted = [
        ("energy_per_image", "Energy an image"), ("on_chip", "of it on the chip"), ("latency_per_image", "Latency an image"),
        ("tops_per_watt_1b", "Efficiency, one-bit"), ("gops_1b", "Throughput, one-bit"), ("power", "Power"), ("utilisation", "Utilisation"),
        ("area", "Area"), ("years_to_endurance", "Worst row lasts"),
    ]  # fmt: skip
    cards: list[tuple[str, str, str]] = []
    if report.get("top1") is not None:
        cards.append((f"Top-1, {report.get('split', 'test')}", percent(report["top1"] / 100), ""))
    for name, label in wanted:
        if name == "on_chip" and cost.run.images:
            on_chip = figures["energy_on_chip"]
            cards.append((label, si(on_chip.value / cost.run.images, "J"), f"{on_chip.how}, / {cost.run.images} images"))
        elif name in figures:
            figure = figures[name]
            value = (
                shown(figure.value, "share")
                if name == "utilisation"
                else _years(figure.value)
                if figure.unit == "year"
                else si(figure.value, figure.unit)
            )
            cards.append((label, value.removesuffix("/image"), figure.how))
    out: list[str] = []
    for label, value, how in cards:
        number, _, unit = value.partition(" ")
        out.append(
            f'<div class="card" title="{escape(how)}"><p>{escape(label)}</p><strong>{escape(number)} <small>{escape(unit)}</small></strong></div>'
        )
    return "".join(out)


def _in_short(cost: Cost, made: Mapping[str, Table]) -> str:
    """One sentence on what costs most."""
    if not cost.energy or not cost.run.cycles:
        return ""
    component, _, share = made["components"].rows[0]
    layer = max(made["layers"].rows, key=lambda r: float(r[2] or 0))
    slowest = max(made["layers"].rows, key=lambda r: float(r[5] or 0))
    phase = max(made["phases"].rows, key=lambda r: float(r[4] or 0))
    return (
        f'<p class="short">Most energy goes to the <b>{escape(str(component))}</b> ({shown(share, "share")}) and, of the layers, to '
        f"<b>{escape(short_name(str(layer[1])))}</b> ({shown(layer[3], 'share')}). The longest phase is <b>{escape(str(phase[0]))}</b> "
        f"({shown(phase[4], 'share')} of the time), the slowest layer <b>{escape(short_name(str(slowest[1])))}</b> ({shown(slowest[6], 'share')}).</p>"
    )


def _years(years: float) -> str:
    return f"{count(float(f'{years:.3g}'))} years" if years >= 1 else f"{years * 365.25:.3g} days"


def _breakable(name: str) -> str:
    """A name that may be broken after its dots, slashes and underscores."""
    return re.sub(r"([./_:])", r"\1<wbr>", escape(name))


def _cell(value: Cell, unit: str, text: str | None = None) -> str:
    if isinstance(value, str):
        return f"<td{' class=long' if len(value) > 30 else ''}>{escape(shown(value, unit))}</td>"
    order = "" if value is None else f' data-v="{value!r}"'
    return f'<td class="n"{order}>{escape(shown(value, unit) if text is None else text)}</td>'


def _plain(table: Table, skip: Sequence[str] = (), caption: bool = True) -> str:
    """A table as it is, without the columns named in ``skip``; kinds become badges."""
    keep = [i for i, c in enumerate(table.columns) if c.name not in skip]
    head = "".join(
        f'<th scope="col"{"" if _textual(table, i) else " class=n"}>{escape(table.columns[i].name)}</th>' for i in keep
    )
    rows = "".join("<tr>" + "".join(_kind(row[i]) if table.columns[i].name == "kind" else _cell(row[i], table.columns[i].unit) for i in keep) + "</tr>"
                   for row in table.rows)  # fmt: skip
    title = f"<caption>{escape(table.title)}</caption>" if caption else ""
    return f'<div class="scroll"><table class="sortable">{title}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _textual(table: Table, index: int) -> bool:
    return any(isinstance(row[index], str) for row in table.rows[:20])


def _kind(value: Cell) -> str:
    return f'<td><span class="kind {escape(str(value))}">{escape(str(value))}</span></td>'


def _layers(cost: Cost, made: Mapping[str, Table], colours: Mapping[str, str]) -> str:
    """A row a layer: a stacked bar of energy by component, a bar of time."""
    table, parts = made["layers"], cost.node_components()
    nodes = layer_order(cost)
    energies = {n: sum(parts.get(n, {}).values()) for n in nodes}
    shares = [float(v or 0) for v in table.column("share of time")]
    most, slowest = max(energies.values(), default=0.0), max(shares, default=0.0)
    ranked = sorted(nodes, key=lambda n: -energies[n])
    rank = {n: i for i, n in enumerate(ranked)}
    rows: list[str] = []
    for index in sorted(range(len(nodes)), key=lambda i: rank[nodes[i]]):
        node, row = nodes[index], table.rows[index]
        stack = [(parts.get(node, {}).get(c, 0.0), colour, f"{component_name(c)}: {si(parts[node][c], 'J')}")
                 for c, colour in colours.items() if parts.get(node, {}).get(c)]  # fmt: skip
        name, time = short_name(node), float(row[5] or 0)
        extra = node.count(",")
        more = f' <small title="{escape(node)}">+{extra}</small>' if extra else ""
        rows.append(
            f'<tr{" class=more" if rank[node] >= FIRST_LAYERS else ""}><td class="n dim" data-v="{row[0]}">{row[0]}</td>'
            f'<th scope="row" title="{escape(node or NO_NODE)}">{_breakable(name)}{more}</th>'
            f'<td class="n" data-v="{energies[node]!r}">{si(energies[node], "J")}</td>'
            f'<td class="bars">{bar(stack, most, f"{name}: energy")}</td><td class="n dim">{shown(row[3], "share")}</td>'
            f'<td class="n" data-v="{time!r}">{si(time, "s")}</td>'
            f'<td class="bars">{bar([(shares[index], "var(--accent)", "")], slowest, f"{name}: time")}</td>'
            f'<td class="n dim">{shown(row[6], "share")}</td></tr>'
        )
    button = (
        f'<button class="all" hidden data-more="layers-table">Show all {len(nodes)} layers</button>'
        if len(nodes) > FIRST_LAYERS
        else ""
    )
    head = (
        '<th scope="col" class="n">no.</th><th scope="col">layer</th><th scope="col" class="n">energy</th><th class="bars" scope="col">by component</th>'
        '<th scope="col" class="n">share</th><th scope="col" class="n">time</th><th class="bars" scope="col"><span class="vh">bar</span></th><th scope="col" class="n">share</th>'
    )
    return (
        legend([(component_name(c), colour) for c, colour in colours.items()])
        + f'<div class="scroll"><table class="sortable layers" id="layers-table"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>{button}'
    )


def _bars(
    table: Table, name: str, value: str, unit: str, colours: Sequence[str], *, share: str = "share", then: Sequence[str] = ()
) -> str:
    """Name, value, bar, share; further columns after them."""
    names, values, shares = table.column(name), table.column(value), table.column(share)
    most = max((float(v) for v in values if isinstance(v, (int, float))), default=0.0)
    rows: list[str] = []
    for i, label in enumerate(names):
        v = float(values[i] or 0)
        rest = "".join(_cell(table.column(c)[i], next(k.unit for k in table.columns if k.name == c)) for c in then)
        rows.append(
            f'<tr><th scope="row">{escape(str(label))}</th><td class="n" data-v="{v!r}">{escape(shown(values[i], unit))}</td>'
            f'<td class="bars">{bar([(v, colours[i % len(colours)], "")], most, f"{label}: {shown(values[i], unit)}")}</td>'
            f'<td class="n dim">{shown(shares[i], "share")}</td>{rest}</tr>'
        )
    heads = "".join(f'<th scope="col" class="n">{escape(c)}</th>' for c in then)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll"><table class="sortable"><caption>{escape(table.title)}</caption><thead><tr><th scope="col">{escape(name)}</th>'
        f'<th scope="col" class="n">{escape(value)}</th><th class="bars" scope="col"><span class="vh">bar</span></th><th scope="col" class="n">share</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _energy(cost: Cost, made: Mapping[str, Table], colours: Mapping[str, str]) -> str:
    by_name = {component_name(c): colour for c, colour in colours.items()}
    components = made["components"]
    phases = made["phases"]
    phase_colours = [_phase_colour(str(p)) for p in phases.column("phase")]
    left = _bars(components, "component", "energy", "J", [by_name[str(n)] for n in components.column("component")])
    right = _bars(phases, "phase", "energy", "J", phase_colours, share="share of energy", then=("time", "share of time"))
    more = _bars(made["instructions"], "instruction", "energy", "J", ["var(--accent)"], then=("time", "executions"))
    right += '<div class="below">' + _bars(made["units"], "component", "time", "s", ["var(--accent)"]) + "</div>"
    return f'<div class="two"><div>{left}</div><div>{right}</div></div><details><summary>Energy by instruction</summary>{more}</details>'


def _buffer(cost: Cost) -> str:
    """A curve for every entry point, over the time of its mean run, with the phases behind it."""
    clock, out = cost.run.machine.clock_hz, list[str]()
    for entry, use in cost.run.report.get("buffer_use", {}).items():
        points: list[dict[str, Any]] = use["points"]
        if not points:
            continue
        end = max(use["cycles"], points[-1]["cycle"], 1) / clock
        xy = [(p["cycle"] / clock, float(p["bytes"])) for p in points]
        spans: list[tuple[float, float, str]] = []
        for p, after in zip(points, [*xy[1:], (end, 0.0)], strict=True):
            if spans and spans[-1][2] == p["phase"]:
                spans[-1] = (spans[-1][0], after[0], p["phase"])
            else:
                spans.append((p["cycle"] / clock, after[0], p["phase"]))
        phases = list(dict.fromkeys(p for *_, p in spans))
        bands = [(a, b, _phase_colour(p), p) for a, b, p in spans] if len(phases) > 1 else []
        curve = Series("in use", "var(--accent)", [*xy, (end, xy[-1][1])], area=True, step=True)
        limit = (float(use["capacity"]), f"capacity {si(use['capacity'], 'B')}")
        title = f"Buffer use during {entry}: at most {si(use['peak'], 'B')} of {si(use['capacity'], 'B')}"
        drawn = curves([curve], (0.0, end, "s"), "B", title=title, line=limit, bands=bands, chart=f"buffer-{entry}")
        drawn += _hover(
            f"buffer-{entry}",
            [(p["cycle"] / clock / end, f"{si(p['bytes'], 'B')}, {short_name(p['node'])}, {p['phase']}") for p in points],
        )
        peak = max(points, key=lambda p: p["bytes"])
        share = shown(use["peak"] / use["capacity"], "share")
        out.append(
            f"<figure><figcaption><h3>{escape(entry)}</h3><p>at most {si(use['peak'], 'B')}, {share} of the buffer, in "
            f"{escape(short_name(peak['node']))} ({escape(peak['phase'])}); mean of {shown(use['runs'], 'count')} runs</p></figcaption>{drawn}"
            f"{legend([(p, _phase_colour(p)) for p in phases]) if len(phases) > 1 else ''}{_largest(points, clock)}</figure>"
        )
    return f'<div class="stack">{"".join(out)}</div>' if out else ""


def _hover(chart: str, points: Sequence[tuple[float, str]]) -> str:
    """What the script shows of a chart: where a value begins (0 to 1), and its text."""
    data = json.dumps([[round(x, 5), text] for x, text in points], separators=(",", ":"), ensure_ascii=False).replace(
        "<", "\\u003c"
    )
    return f'<script type="application/json" data-for-chart="{escape(chart)}">{data}</script>'


def _largest(points: Sequence[Mapping[str, Any]], clock: float) -> str:
    """The layers with the most bytes in use, as the table beside the curve."""
    most: dict[tuple[str, str], Mapping[str, Any]] = {}
    for p in points:
        key = (p["node"], p["phase"])
        if key not in most or p["bytes"] > most[key]["bytes"]:
            most[key] = p
    rows = "".join(
        f'<tr><th scope="row">{_breakable(short_name(p["node"]))}</th><td>{escape(p["phase"])}</td><td class="n" data-v="{p["bytes"]}">{si(p["bytes"], "B")}</td>'
        f'<td class="n" data-v="{p["cycle"]}">{si(p["cycle"] / clock, "s") if p["cycle"] else "0"}</td></tr>'
        for p in sorted(most.values(), key=lambda p: -p["bytes"])[:10]
    )
    head = '<th scope="col">layer</th><th scope="col">phase</th><th scope="col" class="n">in use</th><th scope="col" class="n">from</th>'
    return f'<details><summary>The ten layers that need the most</summary><div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>'


def _training(cost: Cost, made: Mapping[str, Table]) -> str:
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
        Series("training", "var(--c1)", per_cent("accuracy, training"), dash="6 4", marks=len(numbers) <= 40),
        Series("validation", "var(--c0)", per_cent("accuracy, validation"), marks=len(numbers) <= 40),
    ]
    accuracy = [s for s in accuracy if any(y is not None for _, y in s.points)]
    top = curves(accuracy, (first, last, "1"), "%", title="Accuracy by epoch", x_labels=labels, top=100.0)
    loss = curves(
        [Series("loss", "var(--c2)", points("loss"), marks=len(numbers) <= 40)],
        (first, last, "1"),
        "1",
        title="Loss by epoch",
        x_labels=labels,
    )
    phases = [p for p in PHASE_NAMES if any(table.column(f"energy, {p}"))]
    stacks = [[(float(table.column(f"energy, {p}")[i] or 0), _phase_colour(p), p) for p in phases] for i in range(len(numbers))]
    energy = columns([str(n) for n in numbers], stacks, "J", title="Energy by epoch and phase") if phases else ""
    kept = cost.run.report.get("best_epoch")
    note = f"<p>Kept: the weights of epoch {kept + 1}.</p>" if isinstance(kept, int) and kept >= 0 else ""
    drawn = (
        f"<figure><figcaption><h3>Energy by epoch</h3></figcaption>{energy}{legend([(p, _phase_colour(p)) for p in phases])}</figure>"
        if energy
        else ""
    )
    skip = [c.name for c in table.columns if c.name.startswith("energy, ")]
    return (
        f'<div class="two"><figure><figcaption><h3>Accuracy</h3></figcaption>{top}{legend([(s.name, s.colour) for s in accuracy])}</figure>'
        f"<figure><figcaption><h3>Loss (nats)</h3></figcaption>{loss}</figure></div>{drawn}{note}{_plain(table, skip, caption=False)}<p class=note>{escape(table.note)}</p>"
    )


def _area(made: Mapping[str, Table]) -> str:
    table = made["area"]
    out = _bars(table, "component", "area", "m^2", ["var(--c3)"])
    wear = made.get("wear")
    if wear:
        rows = sorted(wear.rows, key=lambda r: -float(r[1] or 0))
        shortened = Table(wear.key, "Sub-arrays with the most writes of one row", wear.columns, rows[:10])
        out = f'<div class="two"><div>{out}</div><div>{_plain(shortened)}</div></div>'
    return out


def _assumptions(cost: Cost, made: Mapping[str, Table]) -> str:
    summary = _plain(made["summary"], ("value", "unit"))
    notes = "".join(f"<li>{escape(str(text))}</li>" for kind, text in made["notes"].rows if kind == "note")
    blocks = [
        (
            "interpretations",
            _plain(made["interpretations"]) + f'<p class="note">{escape(made["interpretations"].note)}</p>',
            True,
        ),
        ("summary", summary, False),
        ("area", _plain(made["area"]), False),
        *(
            (key, _plain(made[key], ("value", "unit") if key == "technology" else ()), False)
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
    return f"{kinds}<details><summary>What these figures rest on ({len(made['notes'].rows)} notes)</summary><ul class='notes'>{notes}</ul></details>{parts}"
