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
from sasimc.evaluation.charges import HOST_STANDBY, PRINTED, Charge, charges, leakage, scale_warnings
from sasimc.evaluation.circuit.circuit import Circuit, Interpretation, load_circuit
from sasimc.evaluation.fields import at_end
from sasimc.evaluation.figure import Figure
from sasimc.evaluation.quantity import format_si
from sasimc.evaluation.remarks import remarks
from sasimc.evaluation.run import Row, Run
from sasimc.evaluation.run_figures import figures
from sasimc.evaluation.technologies.load import load_technology
from sasimc.evaluation.technologies.technology import Technology
from sasimc.isa.machine import Machine
from sasimc.isa.spec import PHASES

__all__ = ["OFF_CHIP", "PHASE_NAMES", "Cost", "CostModel", "Peak", "Term"]

PHASE_NAMES = ("forward", "error", "gradient", "update", "write", "host", "leakage")
"""What a sum by phase is split into: the instruction's phase, or writing of cells, host interface and memory, leakage of the chip in any phase."""

OFF_CHIP = ("host", HOST_STANDBY)
"""Components that are no part of the chip."""


@dataclass(frozen=True)
class Term:
    """Energy (J) of one component in one row of the profile; ``category`` is where a sum by phase puts it."""

    row: Row
    component: str
    category: str
    joules: float


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

    @cached_property
    def ends(self) -> tuple[CostModel, CostModel]:
        """The same with every number at its low end, and at its high end. Nothing a number does lowers a cost when it grows, so these bound every
        energy and area."""
        low, high = (
            replace(self, technology=at_end(self.technology, end), circuit=at_end(self.circuit, end)) for end in ("low", "high")
        )
        return low, high

    @property
    def interpretation(self) -> Interpretation:
        """The interpretation in use."""
        return self.circuit.interpretation(self.interpretation_name)

    @cached_property
    def charges(self) -> list[Charge]:
        """What each event costs."""
        return charges(self.machine, self.circuit, self.interpretation, self.technology, self.area.side)

    @cached_property
    def area(self) -> Area:
        """Area by component."""
        return area(self.machine, self.circuit, self.technology, self.transposable)

    @cached_property
    def leakage(self) -> list[Figure]:
        """Leakage power by part, W."""
        return leakage(self.machine, self.circuit, self.technology, self.area)

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

    def energy_off_chip(self, events: Mapping[str, int], cycles: float) -> float:
        """The part of :meth:`energy` that is the host interface's and memory's."""
        moved = math.fsum(events.get(c.event, 0) * c.joules for c in self.charges if c.component in OFF_CHIP)
        return moved + cycles * self._standing[HOST_STANDBY] / self.machine.clock_hz

    @cached_property
    def _prices(self) -> tuple[dict[str, float], float]:
        """Joules of each event over all components; of a cycle's leakage."""
        each = {event: math.fsum(c.joules for c in found) for event, found in self._by_event.items()}
        return each, math.fsum(self._standing.values()) / self.machine.clock_hz

    @cached_property
    def _standing(self) -> dict[str, float]:
        """Power (W) whatever happens, of the chip (``leakage``) and of the host memory."""
        chip = math.fsum(f.value for f in self.leakage if f.name != HOST_STANDBY)
        return {"leakage": chip, HOST_STANDBY: math.fsum(f.value for f in self.leakage if f.name == HOST_STANDBY)}

    def terms(self, rows: Iterable[Row]) -> list[Term]:
        """Every energy of these rows: one term a row, component and category."""
        period, standing = 1 / self.machine.clock_hz, self._standing
        out: list[Term] = []
        for row in rows:
            seconds = row.cycles * period
            sums = {
                ("leakage", "leakage"): seconds * standing["leakage"],
                (HOST_STANDBY, "host"): seconds * standing[HOST_STANDBY],
            }
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
        peak, printed = self.peak(), self.circuit.reference.printed_tops_per_watt
        every = [self.with_interpretation(name).peak().tops_per_watt() for name in self.circuit.interpretations]
        whole = [m.peak().tops_per_watt(peak.power) for m in (self.ends[1], self, self.ends[0])]
        ops = 2 / (self.machine.array.weight_bits * self.circuit.reference.input_bits)
        out = [
            f"energies of table IV are read as {self.interpretation_name!r} ({self.interpretation.title}); nothing is scaled to fit",
            f"peak, 8-bit (a multiply-accumulate is two operations): {ops * whole[1]:.3g} TOPS/W of the whole chip ({ops * whole[0]:.3g} to "
            f"{ops * whole[2]:.3g}), {ops * peak.tops_per_watt():.3g} of the components of table IV, {ops * printed:.3g} from the printed {printed:g}; one-bit: "
            f"{whole[1]:.3g} ({whole[0]:.3g} to {whole[2]:.3g}), {peak.tops_per_watt():.3g}, {printed:g}; other interpretations of table IV: {min(every):.3g} to "
            f"{max(every):.3g}, several within a few per cent of {printed:g}, so that a match proves nothing",
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
        power["leakage"] = self._standing["leakage"]
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
        """Without the energy of the host interface and the host's memory."""
        return replace(self, terms=[t for t in self.terms if t.component not in OFF_CHIP])

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
    def totals(self) -> dict[str, int]:
        """Events of the whole run."""
        out: dict[str, int] = {}
        for row in self.run.rows:
            for event, count in row.events.items():
                out[event] = out.get(event, 0) + count
        return out

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The figures of the whole run, each with its formula, and its range where what it rests on has one."""
        return {f.name: f for f in figures(self.model, self.run, self.totals)}

    def notes(self) -> list[str]:
        """What the run says about the paper's comparisons, and what its figures rest on."""
        return [*remarks(self), *self.model.notes()]

    def summary(self) -> dict[str, Any]:
        """Figures, energy by phase and by component, and what they rest on, for a run report (page "Run and compile JSON")."""
        return {
            "figures": {name: f.as_dict() for name, f in self.figures.items()},
            "by_phase_j": self.by_phase(),
            "by_component_j": self.by_component(),
            "warnings": self.model.warnings(),
            "notes": self.notes(),
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
            "notes": self.notes(),
        }
