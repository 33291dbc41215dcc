"""Tables of the evaluation as plain rows of text: for the terminal, and with the same contents for anything else that prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sasimc.evaluation.cost import Cost, CostModel
from sasimc.evaluation.plausibility import beside
from sasimc.evaluation.quantity import format_si
from sasimc.evaluation.ranges import Curve, Swing, tornado
from sasimc.evaluation.table import Table

__all__ = ["cost_lines", "cost_tables", "curve_table", "interpretation_table", "percent", "plausibility_table", "tornado_table"]

OTHER = "(no node)"
_BAR = 40
"""Characters of a bar."""


def percent(part: float, whole: float) -> str:
    """``part`` of ``whole`` in per cent, three digits."""
    return f"{100 * part / whole:.3g} %" if whole else ""


def _energies(title: str, first: str, parts: Mapping[str, float], total: float, limit: int | None = None) -> Table:
    ordered = sorted(parts.items(), key=lambda item: -item[1])
    rows = [(name or OTHER, format_si(joules, "J"), percent(joules, total)) for name, joules in ordered[:limit] if joules]
    if limit is not None and len(ordered) > limit:
        rest = sum(joules for _, joules in ordered[limit:])
        rows.append((f"({len(ordered) - limit} more)", format_si(rest, "J"), percent(rest, total)))
    return Table(title, (first, "energy", "share"), rows)


def interpretation_table(cost: Cost) -> Table:
    """What every interpretation of the circuit figures gives, at the machine's peak and for this run."""
    model, rows = cost.model, list[tuple[str, ...]]()
    for name, interpretation in model.circuit.interpretations.items():
        other = model.with_interpretation(name)
        used = "*" if name == model.interpretation_name else ""
        tops, energy = other.peak().tops_per_watt(), other.energy(cost.totals, cost.run.cycles)
        rows.append(
            (
                f"{name}{used}",
                f"{tops:.3g}",
                f"{model.circuit.reference.printed_tops_per_watt:g}",
                format_si(energy, "J"),
                interpretation.title,
            )
        )
    return Table(
        "interpretations of table IV (* in use): peak beside the printed one, and energy of this run",
        ("interpretation", "TOPS/W", "printed", "energy", "what a printed energy is for"), rows, (0, 4),
    )  # fmt: skip


def tornado_table(swings: Sequence[Swing], title: str, unit: str, limit: int | None = 12) -> Table:
    """The assumptions that move a total most, with a bar from low to high around the nominal value."""
    shown = list(swings[:limit])
    least, most = min((min(s.low, s.high) for s in shown), default=0.0), max((max(s.low, s.high) for s in shown), default=0.0)

    def at(value: float) -> int:
        return round((value - least) / (most - least) * (_BAR - 1)) if most > least else 0

    rows: list[tuple[str, ...]] = []
    for s in shown:
        a, b = sorted((at(s.low), at(s.high)))
        bar = "".join("|" if i == at(s.nominal) else "=" if a <= i <= b else "." for i in range(_BAR))
        rows.append((s.name, " to ".join(s.at), format_si(s.low, unit), format_si(s.high, unit), bar))
    return Table(title, ("number", "range", "low", "high", "| nominal"), rows, (0, 1, 4))


def plausibility_table(model: CostModel) -> Table:
    """What the interpretation makes of table IV, beside published figures."""
    columns = ("component", "what", "here", "published", "verdict", "source of the published figure")
    title = f"plausibility of table IV as {model.interpretation_name!r} reads it, beside figures of 28 nm"
    return Table(title, columns, [b.cells() for b in beside(model)], (0, 1, 4, 5))


def curve_table(found: Curve) -> Table:
    """Energy, efficiency and area over a range of one number."""
    names = [n for n in ("energy", "energy_on_chip", "tops_per_watt_8b", "energy_per_image", "area") if n in found.figures]
    rows = [(found.shown(i), *(str(found.figures[n][i]) for n in names)) for i in range(len(found.x))]
    return Table(f"over {found.name}", (found.name, *(n.replace("_", " ") for n in names)), rows)


def _times(title: str, first: str, parts: Mapping[str, float], cost: Cost) -> Table:
    clock = cost.model.machine.clock_hz
    rows = [
        (name or OTHER, format_si(n / clock, "s"), percent(n, cost.run.cycles))
        for name, n in sorted(parts.items(), key=lambda p: -p[1])
        if n
    ]
    return Table(title, (first, "time", "of the run"), rows)


def cost_tables(cost: Cost, nodes: int | None = 20) -> list[Table]:
    """The cost of a run as tables; at most ``nodes`` ONNX nodes (None: all)."""
    total, model = cost.energy, cost.model
    figures = [(f.name.replace("_", " "), str(f), f.range_text, f.how) for f in cost.figures.values()]
    swings = tornado(model, lambda m: m.energy(cost.totals, cost.run.cycles))
    sizes_of = tornado(model, lambda m: m.area.total)
    cycles, by_node = cost.node_cycles(), cost.by_node()
    ordered = sorted(by_node, key=lambda n: -by_node[n])[:nodes]
    layers = [
        (node or OTHER, format_si(by_node[node], "J"), percent(by_node[node], total),
         format_si(cycles.get(node, 0.0) / model.machine.clock_hz, "s"), percent(cycles.get(node, 0.0), cost.run.cycles))
        for node in ordered
    ]  # fmt: skip
    if len(ordered) < len(by_node):
        rest = [n for n in by_node if n not in ordered]
        joules, time = sum(by_node[n] for n in rest), sum(cycles.get(n, 0.0) for n in rest)
        layers.append(
            (f"({len(rest)} more)", format_si(joules, "J"), percent(joules, total), format_si(time / model.machine.clock_hz, "s"),
             percent(time, cost.run.cycles))
        )  # fmt: skip
    area = model.area
    sizes = [(name, str(f), percent(f.value, area.total), f.how) for name, f in area.parts.items()]
    return [
        Table(f"{cost.run.name}, technology {model.technology.name}", ("figure", "value", "range", "how"), figures, (0, 3)),
        tornado_table(
            swings, "what the energy owes to each assumption, from its low to its high end, the others as they are", "J"
        ),
        _energies("energy by phase", "phase", cost.by_phase(), total),
        _energies("energy by component", "component", cost.by_component(), total),
        _times("time by phase", "phase", cost.phase_cycles(), cost),
        _times("time by unit (one instruction after the other; units overlap)", "unit", cost.unit_cycles(), cost),
        Table("energy and time by ONNX node", ("node", "energy", "share", "time", "share"), layers),
        _energies("energy by instruction", "instruction", cost.by_instruction(), total),
        Table("area by component", ("component", "area", "share", "how"), sizes, (0, 3)),
        tornado_table(sizes_of, "what the area owes to each assumption", "m^2", 6),
        plausibility_table(model),
        interpretation_table(cost),
    ]


def cost_lines(cost: Cost) -> list[str]:
    """The cost of a run in two lines, and in a third what they rest on."""
    f, model = cost.figures, cost.model
    if "power" not in f:
        return []
    first = f"energy {f['energy']} ({f['energy'].range_text}; {f['energy_on_chip']} on the chip), {f['power']}"
    first += (
        f", {f['tops_per_watt_8b']} and {f['gops_8b']} (8-bit, a multiply-accumulate is two), {f['tops_per_watt_1b']} (one-bit)"
    )
    if "energy_per_image" in f:
        first += f"; {f['energy_per_image']}, {f['latency_per_image']}"
    second = "energy by phase: " + ", ".join(
        f"{name} {format_si(joules, 'J')}" for name, joules in cost.by_phase().items() if joules
    )
    assumed = len({c.source for c in (*model.charges, *model.leakage) if c.kind == "assumption"})
    third = (
        f"energies rest on technology {model.technology.name}, interpretation {model.interpretation_name!r} of table IV and {assumed} assumed "
        "figures: `sasc energy` lists them and what each moves"
    )
    return [first, second, *(f"warning: {text}" for text in model.warnings()), third]
