"""What each counted event costs: from circuit figures, an interpretation of them, a memory technology and a machine to joules an event.

The cost model is linear: energy = sum over events of count x charge, plus leakage power x time. A charge says which component is paid, how
it was computed and from what.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sasimc.evaluation.area import Area
from sasimc.evaluation.circuit.circuit import SUBARRAY_COMPONENTS, Circuit, Interpretation
from sasimc.evaluation.figure import Figure, shown, weakest
from sasimc.evaluation.quantity import Kind, Quantity, format_si
from sasimc.evaluation.scaling import ratio, scaled
from sasimc.evaluation.technologies.technology import Technology
from sasimc.isa.machine import Machine

__all__ = ["ACTIVATIONS", "HOST_STANDBY", "PRINTED", "Charge", "charges", "leakage", "scale_warnings"]

ACTIVATIONS = ("row_activations", "row_activations_depthwise", "row_activations_gradient", "column_activations")
PRINTED = (*SUBARRAY_COMPONENTS, "adder_tree", "buffer", "relu")
"""Components whose energy table IV prints."""

HOST_STANDBY = "host_standby"
"""The leakage that is the host memory's, not the chip's; also a component."""

Category = Literal["", "write", "host"]


@dataclass(frozen=True)
class Charge:
    """``joules`` that one ``event`` costs in ``component``. ``category``: where a sum by phase puts it when not into the instruction's phase."""

    component: str
    event: str
    joules: float
    how: str
    source: str
    kind: Kind
    category: Category = ""

    def as_dict(self) -> dict[str, Any]:
        """For a report, at full precision."""
        return dict(self.__dict__)


def scale_warnings(machine: Machine, circuit: Circuit, technology: Technology) -> list[str]:
    """What of this machine lies outside the range of the scaling rules, and what of the technology does not fit its clock."""
    out: list[str] = []
    for name, what in (("rows", "rows"), ("bit_columns", "columns"), ("adder_units", "units"), ("buffer_bits", "bits")):
        low, high = getattr(circuit.range, name)
        found = ratio(machine, circuit.reference, what)
        if not low <= found <= high:
            out.append(
                f"{name}: {found:.3g} times the {getattr(circuit.reference, name)} of the circuit figures, outside the range {low:g} to {high:g} of the "
                "scaling rules"
            )
    period = 1 / machine.clock_hz
    for name, cycles, latency in (
        ("write.cycles_per_row", machine.write.cycles_per_row, technology.write_latency),
        ("write.read_cycles_per_row", machine.write.read_cycles_per_row, technology.read_latency),
    ):
        if latency.si > cycles * period * (1 + 1e-9):
            out.append(
                f"{name} = {cycles} is {format_si(cycles * period, 's')}, {technology.name} needs {latency}: the cycles of this run are too few"
            )
    out += [
        f"{name}: its latency of {part.latency} is longer than a cycle of {format_si(period, 's')}; no cycle is added for it"
        for name, part in circuit.add_ons.items()
        if part.latency.si > period
    ]
    return out


def _array(machine: Machine, circuit: Circuit, interpretation: Interpretation, name: str) -> tuple[float, str, Quantity]:
    """Energy of a sub-array component in one cycle, the formula, and what it is from."""
    printed, rule = circuit.components.energy(name), circuit.components.items()[name].energy_scale
    energy, how = scaled(printed, machine, circuit.reference, rule)
    accounting = interpretation.subarray
    instances = circuit.reference.active_subarrays if accounting.instances == "all" else 1
    how += f" / ({accounting.cycles(circuit.reference)} cycles x {instances} instances)"
    return energy / accounting.covers(circuit.reference), how, printed


def _array_charges(machine: Machine, circuit: Circuit, interpretation: Interpretation) -> Iterator[Charge]:
    bits, array = circuit.reference.input_bits, machine.array
    for name in ("column_decoder", "row_decoder"):
        energy, how, q = _array(machine, circuit, interpretation, name)
        for event in ACTIVATIONS:
            yield Charge(name, event, energy * bits, f"{how} x {bits} input bits", q.source, "derived")
        cycles = machine.write.cycles_per_row
        for event in ("rows_written_compute", "rows_written_transposable"):
            yield Charge(name, event, energy * cycles, f"{how} x {cycles} cycles a row", q.source, "derived", "write")
        cycles = machine.write.read_cycles_per_row
        row = f"{how} x {cycles} cycles / {array.bit_columns} bits a row"
        yield Charge(name, "array_bits_read", energy * cycles / array.bit_columns, row, q.source, "derived")
    # charged by the operation, so that columns not in use cost nothing: the reference has one unit a weight column
    energy, how, q = _array(machine, circuit, interpretation, "shift_adder")
    columns = circuit.reference.bit_columns // circuit.reference.weight_bits
    yield Charge("shift_adder", "shift_adds", energy / columns, f"{how} / {columns} weight columns", q.source, "derived")


def _cell_charges(technology: Technology, circuit: Circuit) -> Iterator[Charge]:
    read, write = technology.read_energy, technology.write_energy
    amplifier, driver = circuit.unprinted.sense_amplifier.energy, circuit.unprinted.write_driver.energy
    for event in ("sense_ones", "array_bits_read"):
        yield Charge("memory_array", event, read.si, f"{shown(read)} sensed", f"{technology.name}: {read.source}", read.kind)
        yield Charge("sense_amplifier", event, amplifier.si, f"{shown(amplifier)} sensed", amplifier.source, amplifier.kind)
    for event in ("bits_written_compute", "bits_written_transposable"):
        source = f"{technology.name}: {write.source}"
        yield Charge("cell_write", event, write.si, f"{shown(write)} written", source, write.kind, "write")
        yield Charge("write_driver", event, driver.si, f"{shown(driver)} written", driver.source, driver.kind, "write")


def _wire_charges(machine: Machine, circuit: Circuit, side: float) -> Iterator[Charge]:
    """Bits on their way: between buffer and sub-arrays, and partial sums to where the adder tree joins them. ``side``: of the chip, m."""
    wires = circuit.unprinted.interconnect
    bits = machine.array.weight_bits + circuit.reference.input_bits + math.ceil(math.log2(machine.array.rows))
    for events, distance, count in (
        (("buffer_bits_read", "buffer_bits_written", "array_bits_read"), wires.buffer_distance, 1),
        (("adder_tree_ops",), wires.tree_distance, bits),
    ):
        how = f"{f'{count} bits x ' if count > 1 else ''}{shown(wires.energy)} x {shown(distance)} x {format_si(side, 'm')} of the chip's side"
        for event in events:
            joules = count * wires.energy.si * distance.si * side
            kind = weakest((wires.energy.kind, distance.kind))
            yield Charge("interconnect", event, joules, how, f"{wires.energy.source}; {distance.source}", kind)


def _chip_charges(machine: Machine, circuit: Circuit, interpretation: Interpretation) -> Iterator[Charge]:
    parts, reference = circuit.components, circuit.reference
    tree, buffer, relu = (parts.energy(name) for name in ("adder_tree", "buffer", "relu"))
    cycles = interpretation.adder_tree.cycles(reference)
    how = f"{shown(tree)} / ({cycles} cycles x {reference.adder_units} units)"
    yield Charge("adder_tree", "adder_tree_ops", tree.si / (cycles * reference.adder_units), how, tree.source, "derived")
    energy, how = scaled(buffer, machine, reference, parts.buffer.energy_scale)
    for event in ("buffer_bits_read", "buffer_bits_written"):
        yield Charge("buffer", event, energy, how, buffer.source, "paper" if energy == buffer.si else "derived")
    elements = interpretation.relu_elements
    yield Charge("relu", "relu_ops", relu.si / elements, f"{shown(relu)} / {elements} elements", relu.source, "derived")


def _added_charges(machine: Machine, circuit: Circuit) -> Iterator[Charge]:
    """The user's own circuits: every word line with every input bit is an operation, which sub-arrays that work together share in a bank or on the chip."""
    bits = circuit.reference.input_bits
    for name, part in circuit.add_ons.items():
        share = machine.group_size / part.instances(machine, active=True)
        for event in ACTIVATIONS:
            how = f"{shown(part.energy)} x {bits} input bits" + (f" / {share:g} sub-arrays" if share != 1 else "")
            yield Charge(name, event, part.energy.si * bits / share, how, part.energy.source, part.energy.kind)


def _assumed_charges(circuit: Circuit) -> Iterator[Charge]:
    digital, found = circuit.digital, circuit.unprinted
    scale = digital.node_scale
    for event, parts in circuit.periphery.items().items():
        used = {name: getattr(digital, name) for name in parts}
        joules = sum(n * used[name].si for name, n in parts.items()) * scale.si
        how = "(" + " + ".join(f"{n:g} x {shown(used[name])}" for name, n in parts.items()) + f") x {shown(scale)}"
        source = "; ".join(dict.fromkeys([*(q.source for q in used.values()), scale.source]))
        yield Charge("periphery", event, joules, how, source, weakest([scale.kind, *(q.kind for q in used.values())]))
    word, instruction, host = found.accumulators.energy, found.controller.energy, found.host.energy
    for event in ("accumulator_reads", "accumulator_writes"):
        yield Charge("accumulators", event, 32 * word.si, f"32 bit x {shown(word)}", word.source, word.kind)
    yield Charge("controller", "instructions", instruction.si, shown(instruction), instruction.source, instruction.kind)
    for event in ("host_bits_in", "host_bits_out"):
        yield Charge("host", event, host.si, shown(host), host.source, host.kind, "host")


def charges(
    machine: Machine, circuit: Circuit, interpretation: Interpretation, technology: Technology, side: float
) -> list[Charge]:
    """Every charge; ``side``: of the chip, m. Events that no charge names cost nothing of their own (flips: every bit that is written is paid,
    changed or not)."""
    return [
        *_cell_charges(technology, circuit),
        *_array_charges(machine, circuit, interpretation),
        *_chip_charges(machine, circuit, interpretation),
        *_wire_charges(machine, circuit, side),
        *_added_charges(machine, circuit),
        *_assumed_charges(circuit),
    ]


def leakage(machine: Machine, circuit: Circuit, technology: Technology, area: Area) -> list[Figure]:
    """Power (W) that is spent whatever happens: cells, memories, circuits of the sub-arrays (gated while their group is idle), other logic, host memory."""
    cell, found = technology.leakage, circuit.unprinted.leakage
    buffer, logic, idle, standby = found.buffer, found.logic, found.idle, circuit.unprinted.host.standby
    bits = 8 * machine.buffer.bytes + machine.accumulator.entries * machine.accumulator.bits
    working = machine.group_size / machine.subarrays
    powered = working + (1 - working) * idle.si
    around = (
        f"{shown(logic)} x {format_si(area.periphery, 'm^2')} x ({working:.3g} working + {1 - working:.3g} idle x {shown(idle)})"
    )
    return [
        Figure("cells", cell.si * machine.capacity_bits, "W", f"{shown(cell)} x {machine.capacity_bits} bits",
               f"{technology.name}: {cell.source}", cell.kind),
        Figure("buffer, accumulators", buffer.si * bits, "W", f"{shown(buffer)} x {bits} bits", buffer.source, buffer.kind),
        Figure("sub-arrays", logic.si * area.periphery * powered, "W", around, f"{logic.source}; {idle.source}", weakest((logic.kind, idle.kind))),
        Figure("logic", logic.si * area.logic, "W", f"{shown(logic)} x {format_si(area.logic, 'm^2')}", logic.source, logic.kind),
        *(
            Figure(name, part.leakage.si * part.instances(machine), "W", f"{shown(part.leakage)} x {part.instances(machine)}", part.leakage.source,
                   part.leakage.kind)
            for name, part in circuit.add_ons.items()
        ),
        Figure(HOST_STANDBY, standby.si, "W", shown(standby), standby.source, standby.kind),
    ]  # fmt: skip
