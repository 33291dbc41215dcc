"""The report as one HTML file: no network, no fonts or scripts from elsewhere; readable without scripts, on a phone, in the dark and on paper."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from sasimc.evaluation.cost import Cost
from sasimc.evaluation.quantity import YEAR, format_duration
from sasimc.evaluation.remarks import remarks
from sasimc.evaluation.report.assumptions import assumptions_section
from sasimc.evaluation.report.charts import Series, curves, legend
from sasimc.evaluation.report.content import short_name
from sasimc.evaluation.report.floorplan import floor_plan, where_layers_stand
from sasimc.evaluation.report.house import COMPONENTS, component_colour, frame, phase_colour
from sasimc.evaluation.report.parts import bars, breakable, plain
from sasimc.evaluation.report.tables import Table, percent, shown, si, typeset
from sasimc.evaluation.report.training import accuracy_section, training_section
from sasimc.evaluation.report.views import energy_section, entry_name, layers_section, switches, view_style, views

__all__ = ["page"]


def page(cost: Cost, made: Mapping[str, Table]) -> str:
    """The whole page; ``made``: the tables of the run (:func:`~sasimc.evaluation.report.content.tables`)."""
    seen = views(cost)
    sections = [
        ("layers", "Layers", layers_section(seen), "Where energy and time go, by ONNX node. Press a heading to sort."),
        (
            "energy",
            "Energy and time",
            energy_section(seen),
            "By component of the circuit, by phase of the computation, by instruction.",
        ),
        (
            "floor-plan",
            "Floor plan",
            floor_plan(cost) + where_layers_stand(cost),
            "Which layer stands where, and what its sub-arrays did in this run.",
        ),
        ("buffer", "Buffer", _buffer(cost), "Bytes of the global buffer in use, during one mean run of each entry point."),
        (
            "accuracy",
            "Accuracy",
            accuracy_section(cost, made),
            "How often the answers are right, by class, and what is taken for what.",
        ),
        ("training", "Training", training_section(cost, made), "Accuracy, loss and energy by epoch."),
        ("area", "Area and wear", _area(made), "What the chip is made of, and how its cells wear."),
        (
            "assumptions",
            "Assumptions",
            assumptions_section(made),
            "Every number has a source. What the paper does not say is assumed, in files that you can change.",
        ),
        ("provenance", "Provenance", _provenance(made), "What made this page, from what."),
    ]
    sections = [s for s in sections if s[2]]
    nav = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title, *_ in sections)
    body = "".join(
        f'<section id="{key}"><header><h2>{escape(title)}</h2><p>{escape(intro)}</p></header>{text}</section>'
        for key, title, text, intro in sections
    )
    title = str(cost.run.report.get("program", "a program")).replace("\\", "/").rsplit("/", 1)[-1]
    head = f"""<header class="top"><p class="brand">sas-imc run report</p><h1>{escape(title)}</h1>{_facts(cost)}</header>
{_warnings(cost)}<div class="cards">{_cards(cost)}</div>{_in_short(cost, made)}
<nav aria-label="Sections">{nav}</nav>
{switches(seen)}"""
    foot = "<footer><p>Figures have three significant digits; <code>sasc report --csv</code> writes every table in full precision.</p></footer>"
    return frame(f"{title} – sas-imc report", head + body + foot, view_style(seen))


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
    """Figures of the run; each opens to say how it was computed. What an image costs is said for every entry point apart."""
    report, cards = cost.run.report, list[tuple[str, str, str]]()
    if report.get("top1") is not None:
        error = report.get("top1_error")
        how = f"{shown(report.get('evaluated'), 'count')} images of the split {report.get('split', 'test')}; ± is the standard error"
        cards.append(
            (
                f"Top-1, {report.get('split', 'test')}",
                percent(report["top1"] / 100) + (f" ± {error:.1f} %" if error is not None else ""),
                how,
            )
        )
    if report.get("error") is not None:
        auc = f"; AUC of the error as a score {report['auc']:.4f}" if report.get("auc") is not None else ""
        how = f"mean over {shown(report.get('evaluated'), 'count')} examples of the split {report.get('split', 'test')}{auc}"
        cards.append((f"Squared error, {report.get('split', 'test')}", f"{report['error']:.4g}", how))
    parts = [(f", {entry_name(e).lower()}", cost.of_entry(e)) for e in cost.entries] if len(cost.entries) > 1 else [("", cost)]
    for which, part in parts:
        images = part.run.images
        if images and part.energy:
            chip = part.on_chip().energy
            cards += [
                (f"Energy an image{which}", si(part.energy / images, "J"),
                 f"{si(part.energy, 'J')} / {images} images; {si(chip / images, 'J')} of it on the chip, the rest in the host interface"),
                (f"Latency an image{which}", si(part.run.seconds / images, "s"), f"{si(part.run.seconds, 's')} / {images} images"),
            ]  # fmt: skip
    wanted = [
        ("energy", "Energy"), ("tops_per_watt_8b", "Efficiency, 8-bit"), ("gops_8b", "Throughput, 8-bit"), ("tops_per_watt_1b", "Efficiency, one-bit"), ("power", "Power"), ("utilisation", "Utilisation"),
        ("area", "Area"), ("years_to_endurance", "Worst row lasts"),
    ]  # fmt: skip
    for name, label in wanted:
        if figure := cost.figures.get(name):
            value = shown(figure.value, "share") if name == "utilisation" else si(figure.value, figure.unit)
            spread = (
                f"; between {typeset(figure.range_text).replace(' to ', ' and ')} (all assumptions at an end of their ranges)"
                if figure.range_text
                else ""
            )
            cards.append((label, format_duration(figure.value * YEAR) if figure.unit == "year" else value, figure.how + spread))
    out: list[str] = []
    for label, value, how in cards:
        number, _, unit = value.partition(" ")
        out.append(
            f'<details class="card"><summary><span>{escape(label)}</span><strong>{escape(number)} <small>{escape(unit)}</small></strong></summary><p>{escape(how)}</p></details>'
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
        f"({shown(phase[4], 'share')} of the time), the slowest layer <b>{escape(short_name(str(slowest[1])))}</b> ({shown(slowest[6], 'share')})."
        f"{''.join(f' {escape(text[:1].upper() + text[1:])}.' for text in remarks(cost))}</p>"
    )


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
        bands = [(a, b, phase_colour(p), p) for a, b, p in spans] if len(phases) > 1 else []
        curve = Series("in use", "var(--k-buffer)", [*xy, (end, xy[-1][1])], area=True, step=True)
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
            f"{legend([(p, phase_colour(p)) for p in phases]) if len(phases) > 1 else ''}{_largest(points, clock)}</figure>"
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
        f'<tr><th scope="row">{breakable(short_name(p["node"]))}</th><td>{escape(p["phase"])}</td><td class="n" data-v="{p["bytes"]}">{si(p["bytes"], "B")}</td>'
        f'<td class="n" data-v="{p["cycle"]}">{si(p["cycle"] / clock, "s") if p["cycle"] else "0"}</td></tr>'
        for p in sorted(most.values(), key=lambda p: -p["bytes"])[:10]
    )
    head = '<th scope="col">layer</th><th scope="col">phase</th><th scope="col" class="n">in use</th><th scope="col" class="n">from</th>'
    return f'<details><summary>The ten layers that need the most</summary><div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>'


def _area(made: Mapping[str, Table]) -> str:
    table = made["area"]
    colours = {name.removesuffix(", sensing"): component_colour(key) for key, name in COMPONENTS.items()}
    out = bars(table, "component", "area", "m^2", [colours.get(str(n), component_colour("")) for n in table.column("component")])
    wear = made.get("wear")
    if wear:
        rows = sorted(wear.rows, key=lambda r: -float(r[1] or 0))
        shortened = Table(wear.key, "Sub-arrays with the most writes of one row", wear.columns, rows[:10])
        out = f'<div class="two"><div>{out}</div><div>{plain(shortened)}</div></div>'
    return out


def _provenance(made: Mapping[str, Table]) -> str:
    table = made.get("provenance")
    return (
        ""
        if table is None
        else '<dl class="facts stacked">'
        + "".join(f"<div><dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd></div>" for k, v in table.rows)
        + "</dl>"
    )
