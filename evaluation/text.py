"""Tables of the evaluation as plain rows of text: for the terminal, and with the same contents for anything else that prints them."""

from __future__ import annotations

from collections.abc import Mapping

from sasimc.evaluation.cost import Cost
from sasimc.evaluation.quantity import format_si
from sasimc.evaluation.table import Table

__all__ = ["cost_lines", "cost_tables", "interpretation_table", "percent"]

OTHER = "(no node)"


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
        tops, energy = other.peak().tops_per_watt(), other.cost(cost.run).energy
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
    figures = [(f.name.replace("_", " "), str(f), f.how) for f in cost.figures.values()]
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
        Table(f"{cost.run.name}, technology {model.technology.name}", ("figure", "value", "how"), figures, (0, 2)),
        _energies("energy by phase", "phase", cost.by_phase(), total),
        _energies("energy by component", "component", cost.by_component(), total),
        _times("time by phase", "phase", cost.phase_cycles(), cost),
        _times("time by unit (one instruction after the other; units overlap)", "unit", cost.unit_cycles(), cost),
        Table("energy and time by ONNX node", ("node", "energy", "share", "time", "share"), layers),
        _energies("energy by instruction", "instruction", cost.by_instruction(), total),
        Table("area by component", ("component", "area", "share", "how"), sizes, (0, 3)),
        interpretation_table(cost),
    ]


def cost_lines(cost: Cost) -> list[str]:
    """The cost of a run in two lines, and in a third what they rest on."""
    f, model = cost.figures, cost.model
    if "power" not in f:
        return []
    first = f"energy {f['energy']} ({f['energy_on_chip']} on the chip), {f['power']}, {f['tops_per_watt_1b']} and {f['gops_1b']} (one-bit)"
    if "energy_per_image" in f:
        first += f"; {f['energy_per_image']}, {f['latency_per_image']}"
    second = "energy by phase: " + ", ".join(
        f"{name} {format_si(joules, 'J')}" for name, joules in cost.by_phase().items() if joules
    )
    assumed = len({c.source for c in (*model.charges, *model.leakage) if c.kind == "assumption"})
    third = (
        f"energies rest on technology {model.technology.name}, interpretation {model.interpretation_name!r} of table IV (peak "
        f"{model.peak().tops_per_watt():.3g} TOPS/W beside the printed {model.circuit.reference.printed_tops_per_watt:g}) and {assumed} assumed "
        "figures: `sasc energy` lists them"
    )
    return [first, second, *(f"warning: {text}" for text in model.warnings()), third]
