"""The cost model: what a run cost, by component, ONNX node, instruction and phase; and the peak figures of a machine.

Energy is linear in the counted events (:mod:`~sasimc.evaluation.charges`), leakage in time. So every table is a sum over the same terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sasimc.evaluation.area import Area, area
from sasimc.evaluation.charges import PRINTED, Charge, charges, leakage, scale_warnings
from sasimc.evaluation.circuit.circuit import Circuit, Interpretation, load_circuit
from sasimc.evaluation.figure import Figure, shown
from sasimc.evaluation.quantity import format_si, parse_unit
from sasimc.evaluation.run import Row, Run
from sasimc.evaluation.technologies.load import load_technology
from sasimc.evaluation.technologies.technology import Technology
from sasimc.isa.machine import Machine
from sasimc.isa.spec import PHASES

__all__ = ["PHASE_NAMES", "Cost", "CostModel", "Peak", "Term", "one_bit_operations"]

PHASE_NAMES = ("forward", "error", "gradient", "update", "write", "host traffic", "leakage")
"""What a sum by phase is split into: the instruction's phase, or writing of cells, host traffic, leakage in any phase."""


@dataclass(frozen=True)
class Term:
    """Energy (J) of one component in one row of the profile; ``category`` is where a sum by phase puts it."""

    row: Row
    component: str
    category: str
    joules: float


def one_bit_operations(row: Row, weight_bits: int) -> int:
    """Bit products (input bit AND stored bit) of a row: a shift-add takes a weight's bits, in a transposed product a single one."""
    return row.events.get("shift_adds", 0) * (1 if "column_activations" in row.events else weight_bits)


@dataclass(frozen=True)
class Peak:
    """Power with every active sub-array, the adder tree and their traffic busy in every cycle, by component (W); ``operations`` one-bit
    operations a second."""

    power: dict[str, float]
    operations: float
    how: str

    @property
    def printed_power(self) -> float:
        """Power of the components of table IV alone, W."""
        return math.fsum(self.power[c] for c in PRINTED)

    def tops_per_watt(self, components: Iterable[str] | None = None) -> float:
        """One-bit TOPS/W of some components (default: those of table IV)."""
        watts = self.printed_power if components is None else math.fsum(self.power[c] for c in components)
        return self.operations / watts * 1e-12


@dataclass(frozen=True)
class CostModel:
    """Prices runs of one machine. ``interpretation_name`` names the interpretation of the circuit figures that is used."""

    machine: Machine
    technology: Technology
    circuit: Circuit
    interpretation_name: str
    transposable: int = 0

    @staticmethod
    def make(
        machine: Machine, technology: str | Path | Technology = "sas", interpretation: str | None = None, circuit: str | Path | Circuit | None = None,
        transposable: int = 0,
    ) -> CostModel:  # fmt: skip
        """From names or files of technology and circuit figures and the name of an interpretation (None: the file's default).

        Raises:
            SasError: a file that cannot be read or is invalid; no such interpretation.
        """
        figures = circuit if isinstance(circuit, Circuit) else load_circuit(circuit)
        memory = technology if isinstance(technology, Technology) else load_technology(technology)
        name = figures.default_interpretation if interpretation is None else interpretation
        figures.interpretation(name)
        return CostModel(machine, memory, figures, name, transposable)

    def with_interpretation(self, name: str) -> CostModel:
        """The same with another interpretation of the circuit figures.

        Raises:
            SasError: no such interpretation.
        """
        self.circuit.interpretation(name)
        return replace(self, interpretation_name=name)

    @property
    def interpretation(self) -> Interpretation:
        """The interpretation in use."""
        return self.circuit.interpretation(self.interpretation_name)

    @cached_property
    def charges(self) -> list[Charge]:
        """What each event costs."""
        return charges(self.machine, self.circuit, self.interpretation, self.technology)

    @cached_property
    def area(self) -> Area:
        """Area by component."""
        return area(self.machine, self.circuit, self.technology, self.transposable)

    @cached_property
    def leakage(self) -> list[Figure]:
        """Leakage power by part, W."""
        return leakage(self.machine, self.circuit, self.technology, self.area.logic)

    @cached_property
    def _by_event(self) -> dict[str, list[Charge]]:
        out: dict[str, list[Charge]] = {}
        for charge in self.charges:
            out.setdefault(charge.event, []).append(charge)
        return out

    def energy(self, events: Mapping[str, int], cycles: float) -> float:
        """Joules of these events and of the leakage in this time."""
        each, idle = self._prices
        return sum(count * each.get(event, 0.0) for event, count in events.items()) + cycles * idle

    @cached_property
    def _prices(self) -> tuple[dict[str, float], float]:
        """Joules of each event over all components; of a cycle's leakage."""
        each = {event: math.fsum(c.joules for c in found) for event, found in self._by_event.items()}
        return each, math.fsum(f.value for f in self.leakage) / self.machine.clock_hz

    def terms(self, rows: Iterable[Row]) -> list[Term]:
        """Every energy of these rows: one term a row, component and category."""
        period, power = 1 / self.machine.clock_hz, math.fsum(f.value for f in self.leakage)
        out: list[Term] = []
        for row in rows:
            sums: dict[tuple[str, str], float] = {("leakage", "leakage"): row.cycles * period * power}
            for event, count in row.events.items():
                for charge in self._by_event.get(event, ()):
                    key = (charge.component, charge.category or row.phase)
                    sums[key] = sums.get(key, 0.0) + count * charge.joules
            out += [Term(row, component, category, joules) for (component, category), joules in sums.items() if joules]
        return out

    def cost(self, run: Run) -> Cost:
        """What a run cost."""
        return Cost(self, run, self.terms(run.rows))

    def warnings(self) -> list[str]:
        """Where scaling rules or latencies do not fit."""
        return scale_warnings(self.machine, self.circuit, self.technology)

    def notes(self) -> list[str]:
        """What the figures rest on: the interpretation, and every assumption used."""
        peak, printed = self.peak().tops_per_watt(), self.circuit.reference.printed_tops_per_watt
        every = {
            name: CostModel(self.machine, self.technology, self.circuit, name).peak().tops_per_watt()
            for name in self.circuit.interpretations
        }
        low, high = min(every.values()), max(every.values())
        out = [
            f"energies of table IV are read as {self.interpretation_name!r} ({self.interpretation.title}); its peak is {peak:.3g} TOPS/W beside the "
            f"{printed:g} of table III; nothing is scaled to fit; other interpretations give {low:.3g} to {high:.3g} TOPS/W"
        ]
        assumed = [f for f in (*self.charges, *self.leakage) if f.kind == "assumption"]
        texts = {f"{getattr(f, 'component', 'leakage')}: {f.source}": None for f in assumed}
        return out + [f"assumed: {text}" for text in texts]

    def peak(self) -> Peak:
        """Power when everything that table IV lists works in every cycle: all active sub-arrays drive a full row, every adder of the tree adds,
        inputs come from the buffer, and a finished sum leaves through ReLU once all rows of a sub-array are through."""
        machine, bits = self.machine, self.circuit.reference.input_bits
        active, columns = machine.group_size, machine.weights_per_row
        finished = active * columns / (machine.array.rows * bits)
        events: Mapping[str, float] = {
            "row_activations": active / bits, "shift_adds": active * columns, "adder_tree_ops": machine.adder_tree.units,
            "buffer_bits_read": active, "buffer_bits_written": 8 * finished, "relu_ops": finished,
            "sense_ones": active * machine.array.bit_columns / 2, "accumulator_reads": finished, "accumulator_writes": finished,
            "requantise_ops": finished,
        }  # fmt: skip
        power: dict[str, float] = {}
        for charge in self.charges:
            joules = events.get(charge.event, 0.0) * charge.joules
            power[charge.component] = power.get(charge.component, 0.0) + joules * machine.clock_hz
        power["leakage"] = math.fsum(f.value for f in self.leakage)
        operations = active * machine.array.bit_columns * machine.clock_hz
        how = f"{active} sub-arrays x {machine.array.bit_columns} bit columns x {format_si(machine.clock_hz, 'Hz')}"
        return Peak(power, operations, how)


def _sums(terms: Iterable[Term], key: Callable[[Term], str]) -> dict[str, float]:
    parts: dict[str, list[float]] = {}
    for term in terms:
        parts.setdefault(key(term), []).append(term.joules)
    return {name: math.fsum(values) for name, values in parts.items()}


@dataclass(frozen=True)
class Cost:
    """What a run cost. All energies in joules."""

    model: CostModel
    run: Run
    terms: list[Term]

    def __repr__(self) -> str:
        return f"<Cost of {self.run.name}: {format_si(self.energy, 'J')} in {format_si(self.run.seconds, 's')}, {self.run.images} images>"

    @cached_property
    def energy(self) -> float:
        """All energy of the run, J."""
        return math.fsum(t.joules for t in self.terms)

    @property
    def entries(self) -> list[str]:
        """Entry points that ran, in the order of the rows."""
        return list(dict.fromkeys(row.entry for row in self.run.rows))

    def of_entry(self, entry: str) -> Cost:
        """The part of one entry point. Images learned from are those of the entries that do more than a forward pass, the others were classified."""
        rows = tuple(row for row in self.run.rows if row.entry == entry)
        trains = any(row.phase != PHASES[0] for row in rows)
        learned = min(int(self.run.report.get("learned", 0)), self.run.images)
        images = learned if trains else self.run.images - learned
        run = replace(self.run, rows=rows, cycles=round(math.fsum(row.cycles for row in rows)), images=images)
        return replace(self, run=run, terms=[t for t in self.terms if t.row.entry == entry])

    def on_chip(self) -> Cost:
        """Without the energy of the host interface."""
        return replace(self, terms=[t for t in self.terms if t.component != "host"])

    def by_component(self) -> dict[str, float]:
        """Energy by component."""
        return _sums(self.terms, lambda t: t.component)

    def by_node(self) -> dict[str, float]:
        """Energy by ONNX node (an empty name: code of no node)."""
        return _sums(self.terms, lambda t: t.row.node)

    def by_instruction(self) -> dict[str, float]:
        """Energy by mnemonic."""
        return _sums(self.terms, lambda t: t.row.mnemonic)

    def by_phase(self) -> dict[str, float]:
        """Energy by phase (``PHASE_NAMES``, all of them)."""
        found = _sums(self.terms, lambda t: t.category)
        return {name: found.get(name, 0.0) for name in PHASE_NAMES}

    def node_components(self) -> dict[str, dict[str, float]]:
        """Energy by ONNX node and component."""
        out: dict[str, dict[str, list[float]]] = {}
        for t in self.terms:
            out.setdefault(t.row.node, {}).setdefault(t.component, []).append(t.joules)
        return {node: {c: math.fsum(v) for c, v in parts.items()} for node, parts in out.items()}

    def _cycles(self, key: Callable[[Row], str]) -> dict[str, float]:
        out: dict[str, list[float]] = {}
        for row in self.run.rows:
            out.setdefault(key(row), []).append(row.cycles)
        return {name: math.fsum(v) for name, v in out.items()}

    def node_cycles(self) -> dict[str, float]:
        """Cycles by ONNX node."""
        return self._cycles(lambda row: row.node)

    def phase_cycles(self) -> dict[str, float]:
        """Cycles by the instructions' phase."""
        return self._cycles(lambda row: row.phase)

    def unit_cycles(self) -> dict[str, int]:
        """Cycles that the instructions of each unit take, one after the other; units work at once where regions overlap."""
        out: dict[str, int] = {}
        for row in self.run.rows:
            out[row.unit] = out.get(row.unit, 0) + row.busy_cycles
        return out

    def by_epoch(self) -> list[dict[str, float]]:
        """Energy by phase of every epoch."""
        out: list[dict[str, float]] = []
        for rows in self.run.epochs():
            found = _sums(self.model.terms(rows), lambda t: t.category)
            out.append({name: found.get(name, 0.0) for name in PHASE_NAMES})
        return out

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The figures of the whole run, each with its formula."""
        run, machine = self.run, self.model.machine
        seconds, energy, images = run.seconds, self.energy, run.images
        bits = sum(one_bit_operations(r, machine.array.weight_bits) for r in run.rows)
        per_mac = machine.array.weight_bits * self.model.circuit.reference.input_bits
        peak_bits = machine.group_size * machine.array.bit_columns
        joules, kind = format_si(energy, "J"), "assumption"
        host = self.by_component().get("host", 0.0)
        made = [
            Figure("energy", energy, "J", "sum over events of count x charge, plus leakage power x time", kind=kind),
            Figure("energy_on_chip", energy - host, "J", f"{joules} without {format_si(host, 'J')} of host traffic", kind=kind),
            Figure("latency", seconds, "s", f"{run.cycles} cycles / {format_si(machine.clock_hz, 'Hz')}"),
        ]
        if seconds and energy:
            time = format_si(seconds, "s")
            made += [
                Figure("power", energy / seconds, "W", f"{joules} / {time}", kind=kind),
                Figure("energy_delay", energy * seconds, "J*s", f"{joules} x {time}", kind=kind),
                Figure("gops_1b", bits / seconds * 1e-9, "GOPS", f"{bits} one-bit products / {time}"),
                Figure(
                    "gops_8b",
                    2 * bits / per_mac / seconds * 1e-9,
                    "GOPS",
                    f"2 operations x {bits} / {per_mac} bit products a MAC / {time}",
                ),
                Figure("tops_per_watt_1b", bits / energy * 1e-12, "TOPS/W", f"{bits} one-bit products / {joules}", kind=kind),
                Figure(
                    "tops_per_watt_8b",
                    2 * bits / per_mac / energy * 1e-12,
                    "TOPS/W",
                    f"2 x {bits} / {per_mac} / {joules}",
                    kind=kind,
                ),
                Figure(
                    "utilisation",
                    bits / (peak_bits * run.cycles),
                    "1",
                    f"{bits} of {peak_bits} one-bit products x {run.cycles} cycles",
                ),
            ]
        if images:
            made += [
                Figure("energy_per_image", energy / images, "J/image", f"{joules} / {images} images", kind=kind),
                Figure("latency_per_image", seconds / images, "s/image", f"{format_si(seconds, 's')} / {images} images"),
            ]
        made += self._host_writes() + self._wear()
        made.append(Figure("area", self.model.area.total, "m^2", "sum over the components of table IV and their instances"))
        return {f.name: f for f in made}

    def _host_writes(self) -> list[Figure]:
        """Energy of the weights that the host put into the cells during the run; no instruction did, so it is in no other sum."""
        bits, energy = (
            self.run.report.get("writes", {}).get("host", {}).get("bits_written", 0),
            self.model.technology.write_energy,
        )
        if not bits:
            return []
        how = f"{bits} bits x {shown(energy)}; not part of the energy above, which is the program's"
        return [Figure("host_writes", bits * energy.si, "J", how, energy.source, energy.kind)]

    def _wear(self) -> list[Figure]:
        """Writes by row, and how long the worst row lasts when the machine does nothing but what this run did."""
        wear, endurance = self.run.report.get("wear"), self.model.technology.endurance
        if not wear or not wear["total"]:
            return []
        rows = sum(r.events.get("rows_written_compute", 0) + r.events.get("rows_written_transposable", 0) for r in self.run.rows)
        share = min(1.0, rows / wear["total"])
        out = [
            Figure("wear_worst", wear["worst"], "write/row", f"row {wear['worst_row'][1]} of sub-array {wear['worst_row'][0]}"),
            Figure("wear_mean", wear["mean"], "write/row", f"{wear['total']} row writes / {wear['rows']} rows written"),
        ]
        if rows and self.run.seconds:
            rate = wear["worst"] * share / self.run.seconds
            how = f"{shown(endurance)} / ({wear['worst']} writes x {share:.4g} of this run / {format_si(self.run.seconds, 's')})"
            years = endurance.si / rate / parse_unit("year")[0]
            out.append(Figure("years_to_endurance", years, "year", how, endurance.source, endurance.kind))
        return out

    def summary(self) -> dict[str, Any]:
        """Figures, energy by phase and by component, and what they rest on, for a run report (page "Run and compile JSON")."""
        return {
            "figures": {name: f.as_dict() for name, f in self.figures.items()},
            "by_phase_j": self.by_phase(),
            "by_component_j": self.by_component(),
            "warnings": self.model.warnings(),
            "notes": self.model.notes(),
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON, at full precision (page "Run and compile JSON")."""
        model = self.model
        peak = model.peak()
        return {
            "technology": model.technology.name,
            "circuit": model.circuit.name,
            "interpretation": model.interpretation_name,
            "figures": {name: f.as_dict() for name, f in self.figures.items()},
            "energy_j": {
                "by_component": self.by_component(),
                "by_phase": self.by_phase(),
                "by_node": self.by_node(),
                "by_instruction": self.by_instruction(),
                "by_node_and_component": self.node_components(),
                "by_epoch": self.by_epoch(),
            },
            "node_cycles": self.node_cycles(),
            "phase_cycles": self.phase_cycles(),
            "unit_cycles": self.unit_cycles(),
            "area_m2": {name: f.as_dict() for name, f in model.area.parts.items()},
            "peak": {
                "power_w": peak.power,
                "gops_1b": peak.operations * 1e-9,
                "tops_per_watt": peak.tops_per_watt(),
                "how": peak.how,
            },
            "charges": [c.as_dict() for c in model.charges],
            "leakage": [f.as_dict() for f in model.leakage],
            "warnings": model.warnings(),
            "notes": model.notes(),
        }
