"""The chip seen from above: every bank with its MATs, coloured by layer, activity, writes or how full a sub-array is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from sasimc.evaluation.cost import Cost
from sasimc.evaluation.report.content import layer_order, short_name
from sasimc.evaluation.report.tables import count, percent

__all__ = ["floor_plan", "where_layers_stand"]

VIEWS = (
    ("layer", "Layer", "the layer that holds most of the sub-array, from the first to the last"),
    ("activity", "Activity", "word and bit lines driven, logarithmic"),
    ("writes", "Writes", "row writes, logarithmic"),
    ("filled", "Filled", "share of the weights that fit"),
)
"""Name, label and explanation of each colouring."""

MAX_DRAWN = 16_384
"""A machine with more sub-arrays is shown by its tables alone."""


def _levels(values: Sequence[float]) -> list[int]:
    """0 (nothing) or 8..100, logarithmic between the smallest and the largest value above zero."""
    positive = [v for v in values if v > 0]
    if not positive:
        return [0] * len(values)
    low, high = math.log(min(positive)), math.log(max(positive))
    span = (high - low) or 1.0
    return [round(8 + 92 * (math.log(v) - low) / span) if v > 0 and high > low else 100 if v > 0 else 0 for v in values]


def _weights_by_layer(layout: Mapping[str, Any]) -> dict[int, dict[str, int]]:
    """Sub-array -> weights it holds by layer."""
    out: dict[int, dict[str, int]] = {}
    for matrix in layout["matrices"]:
        name = matrix["nodes"][0] if matrix["nodes"] else matrix["name"]
        if matrix["kind"] == "scratch":
            name = "scratch rows"
        for subarray, _, _, _, _, rows, cols, _ in matrix["tiles"]:
            held = out.setdefault(subarray, {})
            held[name] = held.get(name, 0) + rows * cols
    return out


def _every(count: int) -> int:
    """Banks from one number at the edge to the next."""
    return 8 if count > 24 else 4 if count > 12 else 2


def _ranges(numbers: Sequence[int]) -> str:
    """``3 to 5, 9`` for 3, 4, 5, 9."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and runs[-1][-1] == n - 1:
            runs[-1] = [runs[-1][0], n]
        else:
            runs.append([n])
    return ", ".join(" to ".join(map(str, run)) for run in runs)


def where_layers_stand(cost: Cost) -> str:
    """A row for every layer: its sub-arrays by number and how many copies it has; layers are links to the table of layers."""
    layout: Mapping[str, Any] = cost.run.report.get("layout") or {}
    rows: list[str] = []
    for node in layer_order(cost):
        held = [
            m for m in layout.get("matrices", ()) if node and m["kind"] != "scratch" and ",".join(m["nodes"]).startswith(node)
        ]
        if held:
            numbers = sorted({t[0] for m in held for t in m["tiles"]})
            kinds = " and ".join(dict.fromkeys(m["array"] for m in held))
            rows.append(
                f'<tr><th scope="row"><a href="#layers" data-layer-link="{escape(short_name(node))}">{escape(short_name(node))}</a></th><td>{kinds}</td>'
                f'<td class="n">{max(m["copies"] for m in held)}</td><td class="n">{len(numbers)}</td><td class="long">{_ranges(numbers)}</td></tr>'
            )
    if not rows:
        return ""
    head = '<th scope="col">layer</th><th scope="col">sub-arrays are</th><th scope="col" class="n">copies</th><th scope="col" class="n">sub-arrays</th><th scope="col">numbers</th>'
    return f'<details><summary>Where each layer stands</summary><div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></details>'


def floor_plan(cost: Cost) -> str:
    """The drawing with its switches and the panel of details, or an empty string when the run has no layout."""
    layout: Mapping[str, Any] = cost.run.report.get("layout") or {}
    machine = cost.run.machine
    subarrays: list[dict[str, Any]] = layout.get("subarrays", [])
    if not subarrays or machine.subarrays > MAX_DRAWN:
        return ""
    order = {node: i for i, node in enumerate(layer_order(cost))}
    held = _weights_by_layer(layout)
    names = sorted({n for parts in held.values() for n in parts}, key=lambda n: (order.get(n, len(order)), n))
    number = {n: i for i, n in enumerate(names)}
    main = {s: max(parts, key=lambda n: parts[n]) for s, parts in held.items()}
    shade = {n: i for i, n in enumerate(sorted(set(main.values()), key=lambda n: number[n]))}
    room = machine.array.rows * machine.weights_per_row
    activity, writes = _levels([s["activations"] for s in subarrays]), _levels([s["row_writes"] for s in subarrays])
    (bank_rows, bank_cols), (mat_rows, mat_cols) = machine.array.banks, machine.array.mats
    cell, gap, edge = 10.0, 4.0, 14.0
    bank_w, bank_h = mat_cols * cell + gap, mat_rows * cell + gap
    shapes = [
        *(
            f'<text x="-4" y="{r * bank_h + mat_rows * cell / 2:g}" text-anchor="end">{r}</text>'
            for r in range(0, bank_rows, _every(bank_rows))
        ),
        *(
            f'<text x="{c * bank_w + mat_cols * cell / 2:g}" y="-6" text-anchor="middle">{c}</text>'
            for c in range(0, bank_cols, _every(bank_cols))
        ),
    ]
    shapes += [
        f'<rect class="bank" x="{c * bank_w:g}" y="{r * bank_h:g}" width="{mat_cols * cell:g}" height="{mat_rows * cell:g}"/>'
        for r in range(bank_rows)
        for c in range(bank_cols)
    ]
    details: list[list[Any]] = []
    for i, s in enumerate(subarrays):
        parts = sorted(held.get(s["index"], {}).items(), key=lambda p: -p[1])
        depth = shade[main[s["index"]]] / max(1, len(shade) - 1) if parts else 0.0
        x, y = s["bank"][1] * bank_w + s["mat"][1] * cell, s["bank"][0] * bank_h + s["mat"][0] * cell
        filled = s["weights"] / room
        round_ = ' rx="4.6"' if s["array"] == "transposable" else ' rx="0.8"'
        shapes.append(
            f'<rect class="s" data-i="{i}" x="{x + 0.4:g}" y="{y + 0.4:g}" width="9.2" height="9.2"{round_} '
            f'style="--d:{depth:.3f};--activity:{activity[i]};--writes:{writes[i]};--filled:{max(8, round(100 * filled))}"/>'
        )
        details.append(
            [s["index"], *s["bank"], *s["mat"], s["array"], round(100 * filled, 1), round(s["activations"]), round(s["row_writes"]),
             [[number[n], w] for n, w in parts]]
        )  # fmt: skip
    width, height = bank_cols * bank_w - gap, bank_rows * bank_h - gap
    data = json.dumps({"layers": [short_name(n) for n in names], "subarrays": details}, separators=(",", ":")).replace(
        "<", "\\u003c"
    )
    switches = "".join(
        f'<label><input type="radio" name="fp-view" value="{key}"{" checked" if key == "layer" else ""}><span>{label}</span></label>'
        for key, label, _ in VIEWS
    )
    options = "".join(f'<option value="{i}">{escape(short_name(n))}</option>' for i, n in enumerate(names))
    legends = "".join(
        f'<p class="fp-legend" data-for="{key}"><i class="ramp {"ramp-layer" if key == "layer" else ""}"></i><span>{escape(text)}</span></p>'
        for key, _, text in VIEWS
    )
    kinds: dict[str, int] = {}
    for s in subarrays:
        kinds[s["array"]] = kinds.get(s["array"], 0) + 1
    weights = sum(s["weights"] for s in subarrays)
    facts = [("in use", f"{len(subarrays)} of {machine.subarrays}"), *((k, str(n)) for k, n in kinds.items()),
             ("weights, copies too", count(weights)), ("filled", percent(weights / (len(subarrays) * room)))]  # fmt: skip
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts)
    return f"""<div class="fp" data-view="layer">
<div class="controls"><div class="switch" role="radiogroup" aria-label="Colours show">{switches}</div>
<label class="pick">Highlight <select id="fp-layer"><option value="">all layers</option>{options}</select></label></div>
<div class="fp-body"><div><svg class="chip" viewBox="{-edge:g} {-edge:g} {width + edge + 3:g} {height + edge + 3:g}" tabindex="0" role="img" aria-describedby="fp-detail"
aria-label="Shelves plan: {bank_rows} by {bank_cols} banks of {mat_rows} by {mat_cols} sub-arrays; {len(subarrays)} of {machine.subarrays} sub-arrays hold weights. Arrow keys move the selection.">
{"".join(shapes)}<rect class="pointer" width="10" height="10" hidden/></svg>{legends}
<p class="fp-legend always"><i class="ramp free"></i><span>free</span><i class="ramp square"></i><span>compute sub-array</span>{'<i class="ramp round"></i><span>transposable</span>' if "transposable" in kinds else ""}</p><p class="fp-legend always"><span>numbers at the edges: bank row and bank column</span></p></div>
<div class="panel" id="fp-detail" aria-live="polite"><h3>Sub-arrays</h3><dl>{listed}</dl><p class="hint">Point at a sub-array, tap it, or use the arrow keys.</p></div></div>
<script type="application/json" id="fp-data">{data}</script></div>"""
