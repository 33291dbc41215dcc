"""What a report says: the tables of a priced run. The page draws some of them; all of them are written as CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from sasimc.evaluation.cost import PHASE_NAMES, Cost
from sasimc.evaluation.machine_notes import flat_fields, notes_of, value_text
from sasimc.evaluation.plausibility import beside
from sasimc.evaluation.ranges import tornado
from sasimc.evaluation.report.house import component_name
from sasimc.evaluation.report.tables import Cell, Column, Table

__all__ = ["NO_NODE", "answers", "energy_tables", "interval", "layer_order", "short_name", "tables"]

NO_NODE = "(no node)"

UNITS = {"array": "arrays", "control": "controller", "host": "host interface", "buffer": "global buffer"}
"""Units of the machine as readers know them."""


def short_name(node: str) -> str:
    """The first of the names of fused nodes."""
    return node.split(",")[0] if node else NO_NODE


def layer_order(cost: Cost) -> list[str]:
    """ONNX nodes in the order of the code; what belongs to none last."""
    nodes = list(dict.fromkeys(row.node for row in cost.run.rows))
    return [n for n in nodes if n] + [n for n in nodes if not n]


def tables(cost: Cost) -> dict[str, Table]:
    """All tables by key, in the order of the page."""
    made = [
        _summary(cost), _entries(cost), _layers(cost), _layer_components(cost), *_energies(cost), _floor_plan(cost), _matrices(cost), *_buffer(cost),
        _epochs(cost), _classes(cost), _confusions(cost), _provenance(cost), _area(cost), _wear(cost), *_tornados(cost), _interpretations(cost), _plausibility(cost), _machine(cost), _technology(cost),
        _charges(cost), _leakage(cost), _notes(cost),
    ]  # fmt: skip
    return {t.key: t for t in made if t.rows}


def energy_tables(cost: Cost) -> dict[str, Table]:
    """The tables of energy and time alone, for a part of a run."""
    return {t.key: t for t in (_layers(cost), *_energies(cost))}


def _energies(cost: Cost) -> tuple[Table, ...]:
    return _components(cost), _units(cost), _phases(cost), _instructions(cost)


def _entries(cost: Cost) -> Table:
    rows: list[list[Cell]] = []
    for entry in cost.entries:
        part = cost.of_entry(entry)
        rows.append([entry, part.run.images, part.energy, part.on_chip().energy, part.run.seconds])
    columns = (
        Column("entry point"),
        Column("images", "count"),
        Column("energy", "J"),
        Column("energy on the chip", "J"),
        Column("time", "s"),
    )
    return Table("entries", "Inference and training apart", columns, rows)


def interval(right: int, count: int) -> tuple[float, float]:
    """Where a share that was found as ``right`` of ``count`` lies with 95 % probability (Wilson's score interval)."""
    z, part = 1.959964, right / count
    middle, half = part + z * z / (2 * count), z * math.sqrt(part * (1 - part) / count + z * z / (4 * count * count))
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def answers(cost: Cost) -> tuple[list[str], dict[tuple[int, int], int]]:
    """Names of classes, and images by (class, class that was predicted)."""
    report = cost.run.report
    found = {(int(a), int(b)): int(n) for a, b, n in report.get("confusion", ())}
    names = [str(c) for c in report.get("classes", ())]
    size = max((max(pair) + 1 for pair in found), default=0)
    return [*names, *(f"class {i}" for i in range(len(names), size))], found


def _classes(cost: Cost) -> Table:
    names, found = answers(cost)
    rows: list[list[Cell]] = []
    for i, name in enumerate(names):
        count, right = sum(n for (a, _), n in found.items() if a == i), found.get((i, i), 0)
        said = sum(n for (_, b), n in found.items() if b == i)
        wrong = max(((n, b) for (a, b), n in found.items() if a == i != b), default=(0, -1))
        if count or said:
            rows.append(
                [name, count, right / count if count else None, *(interval(right, count) if count else (None, None)), right / said if said else None,
                 names[wrong[1]] if wrong[0] else "", wrong[0]]
            )  # fmt: skip
    columns = (
        Column("class"), Column("images", "count"), Column("right", "share"), Column("from", "share"), Column("to", "share"), Column("right of those called so", "share"),
        Column("most often taken for"), Column("times", "count"),
    )  # fmt: skip
    return Table(
        "classes",
        "Accuracy by class",
        columns,
        rows,
        "From, to: 95 % interval of the accuracy of a class, as so many images tell it.",
    )


def _confusions(cost: Cost) -> Table:
    names, found = answers(cost)
    rows = [(names[a], names[b], n) for (a, b), n in sorted(found.items(), key=lambda item: -item[1]) if a != b]
    return Table("confusions", "Confusions", (Column("class"), Column("taken for"), Column("images", "count")), rows)


def _provenance(cost: Cost) -> Table:
    report = cost.run.report
    said: Mapping[str, Any] = report.get("provenance") or {}
    recipe: Mapping[str, Any] = report.get("recipe") or {}
    data: Mapping[str, Any] = report.get("data") or {}
    rows = [
        ("sas-imc", said.get("version")), ("command", said.get("command")), ("date", said.get("date")),
        ("Python", " on ".join(filter(None, (said.get("python"), said.get("platform"))))), ("recipe", recipe and (recipe.get("name") or "default")),
        ("seed", recipe.get("seed")), ("data set", report.get("dataset")), ("folder of data", data.get("folder")),
        ("program, SHA-256", report.get("program_digest")), *((f"{k}, SHA-256", v) for k, v in (said.get("sha256") or {}).items()),
        ("format of the run's JSON", report.get("schema")),
    ]  # fmt: skip
    return Table(
        "provenance",
        "Where this comes from",
        (Column("what"), Column("value")),
        [(k, str(v)) for k, v in rows if v not in (None, "", {})],
    )


def _summary(cost: Cost) -> Table:
    rows = [
        (f.name.replace("_", " "), f.value, f.unit, str(f), f.low, f.high, f.range_text, f.how, f.kind)
        for f in cost.figures.values()
    ]
    columns = (
        Column("figure"), Column("value", "1"), Column("unit"), Column("shown"), Column("low", "1"), Column("high", "1"), Column("range"), Column("how"),
        Column("kind"),
    )  # fmt: skip
    return Table("summary", "Figures of the run", columns, rows)


def _node_phases(cost: Cost) -> dict[str, dict[str, list[float]]]:
    out: dict[str, dict[str, list[float]]] = {}
    for term in cost.terms:
        out.setdefault(term.row.node, {}).setdefault(term.category, []).append(term.joules)
    return out


def _layers(cost: Cost) -> Table:
    energy, cycles, phases = cost.by_node(), cost.node_cycles(), _node_phases(cost)
    clock, total, images = cost.run.machine.clock_hz, cost.energy, max(1, cost.run.images)
    used = [p for p in PHASE_NAMES if cost.by_phase()[p]]
    rows: list[list[Cell]] = []
    for number, node in enumerate(layer_order(cost), 1):
        joules, time = energy.get(node, 0.0), cycles.get(node, 0.0) / clock
        parts = [math.fsum(phases.get(node, {}).get(p, [])) for p in used]
        rows.append(
            [number, node or NO_NODE, joules, joules / total if total else 0.0, joules / images, time,
             time / cost.run.seconds if cost.run.cycles else 0.0, cycles.get(node, 0.0), *parts]
        )  # fmt: skip
    columns = (
        Column("number", "count"), Column("layer"), Column("energy", "J"), Column("share of energy", "share"), Column("energy an image", "J"),
        Column("time", "s"), Column("share of time", "share"), Column("cycles", "count"), *(Column(f"energy, {p}", "J") for p in used),
    )  # fmt: skip
    return Table("layers", "Layers", columns, rows, "A row for every ONNX node, or nodes that were fused.")


def _layer_components(cost: Cost) -> Table:
    parts, components = cost.node_components(), list(cost.by_component())
    rows = [[node or NO_NODE, *(parts.get(node, {}).get(c, 0.0) for c in components)] for node in layer_order(cost)]
    columns = (Column("layer"), *(Column(component_name(c), "J") for c in components))
    return Table("layer_components", "Energy of layers by component", columns, rows)


def _components(cost: Cost) -> Table:
    total = cost.energy
    found = sorted(cost.by_component().items(), key=lambda item: -item[1])
    rows = [(component_name(name), joules, joules / total) for name, joules in found if joules]
    return Table(
        "components", "Energy by component", (Column("component"), Column("energy", "J"), Column("share", "share")), rows
    )


def _phases(cost: Cost) -> Table:
    total, clock = cost.energy, cost.run.machine.clock_hz
    spent: Mapping[str, float] = cost.run.report.get("phase_cycles", {})
    rows: list[list[Cell]] = []
    for name, joules in cost.by_phase().items():
        cycles = spent.get(name)
        if joules or cycles:
            time = None if cycles is None else cycles / clock
            share = None if time is None or not cost.run.seconds else time / cost.run.seconds
            rows.append([name, joules, joules / total if total else 0.0, time, share])
    columns = (
        Column("phase"),
        Column("energy", "J"),
        Column("share of energy", "share"),
        Column("time", "s"),
        Column("share of time", "share"),
    )
    note = "Writing of cells, host interface and memory, and leakage are taken out of the phases they happen in; their time stays there."
    return Table("phases", "Energy and time by phase", columns, rows, note)


def _units(cost: Cost) -> Table:
    """Time by the unit that an instruction keeps busy."""
    cycles: dict[str, float] = {}
    for row in cost.run.rows:
        cycles[row.unit] = cycles.get(row.unit, 0.0) + row.cycles
    clock, whole = cost.run.machine.clock_hz, cost.run.cycles
    rows = [
        (UNITS.get(u, u.replace("_", " ")), n / clock, n / whole if whole else 0.0)
        for u, n in sorted(cycles.items(), key=lambda p: -p[1])
    ]
    note = "An instruction's time counts for the unit it works on; what overlaps is shared in proportion to cycles."
    return Table("units", "Time by component", (Column("component"), Column("time", "s"), Column("share", "share")), rows, note)


def _instructions(cost: Cost) -> Table:
    total, runs, cycles = cost.energy, dict[str, int](), dict[str, float]()
    for row in cost.run.rows:
        runs[row.mnemonic] = runs.get(row.mnemonic, 0) + row.executions
        cycles[row.mnemonic] = cycles.get(row.mnemonic, 0.0) + row.cycles
    found, clock = sorted(cost.by_instruction().items(), key=lambda item: -item[1]), cost.run.machine.clock_hz
    rows = [(name, runs.get(name, 0), joules, joules / total, cycles.get(name, 0.0) / clock) for name, joules in found]
    columns = (
        Column("instruction"), Column("executions", "count"), Column("energy", "J"), Column("share", "share"), Column("time", "s"),
    )  # fmt: skip
    return Table("instructions", "Energy by instruction", columns, rows)


def _floor_plan(cost: Cost) -> Table:
    rows: list[list[Cell]] = []
    machine = cost.run.machine
    room = machine.array.rows * machine.weights_per_row
    for s in cost.run.report.get("layout", {}).get("subarrays", ()):
        rows.append(
            [s["index"], s["array"], s["bank"][0], s["bank"][1], s["mat"][0], s["mat"][1], machine.group_of(s["index"]), s["weights"],
             s["weights"] / room, s["activations"], s["row_writes"], " ".join(s["matrices"])]
        )  # fmt: skip
    columns = (
        Column("sub-array", "count"), Column("kind"), Column("bank row", "count"), Column("bank column", "count"), Column("MAT row", "count"),
        Column("MAT column", "count"), Column("activation group", "count"), Column("weights", "count"), Column("filled", "share"),
        Column("lines driven", "count"), Column("row writes", "count"), Column("matrices"),
    )  # fmt: skip
    return Table("floor_plan", "Sub-arrays in use", columns, rows)


def _matrices(cost: Cost) -> Table:
    rows: list[list[Cell]] = []
    for m in cost.run.report.get("layout", {}).get("matrices", ()):
        subarrays = {t[0] for t in m["tiles"]}
        rows.append(
            [m["name"], m["kind"], m["array"], m["k"], m["n"], m["copies"], "yes" if m["trainable"] else "no", len(subarrays)]
        )
    columns = (
        Column("matrix"), Column("kind"), Column("sub-arrays are"), Column("rows", "count"), Column("columns", "count"), Column("copies", "count"),
        Column("trainable"), Column("sub-arrays", "count"),
    )  # fmt: skip
    return Table("matrices", "Weight matrices", columns, rows)


def _buffer(cost: Cost) -> list[Table]:
    clock, out = cost.run.machine.clock_hz, list[Table]()
    for entry, use in cost.run.report.get("buffer_use", {}).items():
        rows = [(p["cycle"], p["cycle"] / clock, p["bytes"], p["phase"], p["node"] or NO_NODE) for p in use["points"]]
        columns = (Column("cycle", "count"), Column("time", "s"), Column("in use", "B"), Column("phase"), Column("layer"))
        out.append(Table(f"buffer_{entry}", f"Buffer use, {entry}", columns, rows))
    return out


def _epochs(cost: Cost) -> Table:
    epochs: list[dict[str, Any]] = list(cost.run.report.get("epochs", ()))
    energies = cost.by_epoch()
    energies = energies if len(energies) == len(epochs) else [{}] * len(epochs)
    rows: list[list[Cell]] = []
    for e, spent in zip(epochs, energies, strict=True):
        seconds = sum(e.get("phase_cycles", {}).values()) / cost.run.machine.clock_hz
        tops = [None if e.get(k) is None else e[k] / 100 for k in ("train_top1", "val_top1")]
        energy = math.fsum(spent.values()) if spent else None
        rows.append(
            [
                e["epoch"] + 1,
                e["loss"],
                e.get("val_loss"),
                *tops,
                energy,
                seconds,
                e.get("writes_bits"),
                *(spent.get(p) for p in PHASE_NAMES),
            ]
        )
    columns = (
        Column("epoch", "count"), Column("loss", "1"), Column("loss, validation", "1"), Column("accuracy, training", "share"), Column("accuracy, validation", "share"),
        Column("energy", "J"), Column("time", "s"), Column("bits written", "count"), *(Column(f"energy, {p}", "J") for p in PHASE_NAMES),
    )  # fmt: skip
    return Table("epochs", "Epochs", columns, rows, "Validation is part of an epoch's energy and time.")


def _area(cost: Cost) -> Table:
    area = cost.model.area
    rows = [
        (component_name(n).removesuffix(", sensing"), f.value, f.value / area.total, f.how, f.source)
        for n, f in area.parts.items()
    ]
    rows.sort(key=lambda r: -r[1])
    columns = (Column("component"), Column("area", "m^2"), Column("share", "share"), Column("how"), Column("source"))
    return Table(
        "area",
        "Area by component",
        columns,
        rows,
        "Sense amplifiers and what follows from them on are not in table IV: assumed, with a range.",
    )


def _tornados(cost: Cost) -> Iterator[Table]:
    totals, cycles = cost.totals, cost.run.cycles
    for key, title, unit, total in (
        ("tornado_energy", "What the energy owes to each assumption", "J", lambda m: m.energy(totals, cycles)),
        ("tornado_area", "What the area owes to each assumption", "m^2", lambda m: m.area.total),
    ):
        rows = [(s.name, *s.at, s.low, s.nominal, s.high, s.source) for s in tornado(cost.model, total)]
        columns = (
            Column("number"), Column("from"), Column("to"), Column("low", unit), Column("nominal", unit), Column("high", unit), Column("source"),
        )  # fmt: skip
        yield Table(key, title, columns, rows, "One at a time from its low to its high end, the others as they are.")


def _plausibility(cost: Cost) -> Table:
    rows = [b.cells() for b in beside(cost.model)]
    columns = tuple(map(Column, ("component", "what", "here", "published", "verdict", "source of the published figure")))
    title = f"Plausibility of table IV as {cost.model.interpretation_name} reads it"
    return Table("plausibility", title, columns, rows, "Published figures of 28 nm, or scaled to it.")


def _wear(cost: Cost) -> Table:
    rows = [tuple(row) for row in cost.run.report.get("wear", {}).get("by_subarray", ())]
    columns = (Column("sub-array", "count"), Column("writes of its worst row", "count"), Column("row writes", "count"))
    return Table("wear", "Wear by sub-array", columns, rows)


def _interpretations(cost: Cost) -> Table:
    model, rows = cost.model, list[list[Cell]]()
    printed = model.circuit.reference.printed_tops_per_watt
    for name, interpretation in model.circuit.interpretations.items():
        other = model.with_interpretation(name)
        tops = other.peak().tops_per_watt()
        rows.append(
            [
                name,
                "in use" if name == model.interpretation_name else "",
                tops,
                printed,
                tops / printed,
                other.energy(cost.totals, cost.run.cycles),
                interpretation.title,
            ]
        )
    columns = (
        Column("interpretation"), Column("use"), Column("peak, TOPS/W", "1"), Column("printed, TOPS/W", "1"), Column("ratio", "1"),
        Column("energy of this run", "J"), Column("what a printed energy is for"),
    )  # fmt: skip
    return Table(
        "interpretations",
        "Interpretations of table IV",
        columns,
        rows,
        "The paper prints energies without the interval they cover.",
    )


def _machine(cost: Cost) -> Table:
    notes = notes_of(cost.run.machine)
    rows: list[list[Cell]] = []
    for path, value in flat_fields(cost.run.machine).items():
        note = notes.get(path)
        rows.append([path, value_text(value), note.kind if note else "", note.source if note else ""])
    return Table("machine", "Machine description", (Column("field"), Column("value"), Column("kind"), Column("source")), rows)


def _technology(cost: Cost) -> Table:
    found = cost.model.technology.quantities().items()
    rows = [(name.replace("_", " "), q.value, q.unit, str(q), q.kind, q.source) for name, q in found]
    columns = (Column("figure"), Column("value", "1"), Column("unit"), Column("shown"), Column("kind"), Column("source"))
    return Table("technology", f"Technology {cost.model.technology.name}", columns, rows)


def _charges(cost: Cost) -> Table:
    rows = [
        (component_name(c.component), c.event.replace("_", " "), c.joules, c.how, c.kind, c.source) for c in cost.model.charges
    ]
    columns = (Column("component"), Column("event"), Column("energy", "J"), Column("how"), Column("kind"), Column("source"))
    return Table("charges", "What an event costs", columns, rows)


def _leakage(cost: Cost) -> Table:
    rows = [(f.name, f.value, f.how, f.kind, f.source) for f in cost.model.leakage]
    return Table(
        "leakage", "Leakage", (Column("part"), Column("power", "W"), Column("how"), Column("kind"), Column("source")), rows
    )


def _notes(cost: Cost) -> Table:
    rows = [("warning", text) for text in cost.model.warnings()] + [("note", text) for text in cost.notes()]
    return Table("notes", "Notes", (Column("kind"), Column("text")), rows)
