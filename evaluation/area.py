"""Area by component."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sasimc.evaluation.circuit.circuit import SUBARRAY_COMPONENTS, Circuit
from sasimc.evaluation.figure import Figure, shown
from sasimc.evaluation.scaling import scaled
from sasimc.evaluation.technologies.technology import Technology
from sasimc.isa.machine import Machine

__all__ = ["FIGURE_10", "IN_SUBARRAYS", "Area", "area"]

FIGURE_10 = {
    "SAS-MRAM array": ("memory_array", *SUBARRAY_COMPONENTS),
    "buffer": ("buffer",),
    "adder tree": ("adder_tree",),
    "ReLU": ("relu",),
}
"""The paper's figure 10: the array "contains all circuits shown in Fig. 2(b)", memory, decoders and shift adder."""


IN_SUBARRAYS = (*SUBARRAY_COMPONENTS, "sense_amplifier", "write_driver")
MEMORIES = ("memory_array", "buffer", "accumulators")


@dataclass(frozen=True)
class Area:
    """Area of each component, m^2, over all its instances: those of table IV, and those that it leaves out."""

    parts: dict[str, Figure]

    @property
    def total(self) -> float:
        """All components, m^2."""
        return sum(f.value for f in self.parts.values())

    @property
    def printed(self) -> float:
        """The components of table IV, m^2."""
        return sum(self.parts[p].value for names in FIGURE_10.values() for p in names)

    @property
    def side(self) -> float:
        """Side of a square of the whole area, m."""
        return math.sqrt(self.total)

    @property
    def periphery(self) -> float:
        """Circuits of the sub-arrays around the cells, m^2."""
        return sum(self.parts[p].value for p in IN_SUBARRAYS)

    @property
    def logic(self) -> float:
        """Circuits outside the sub-arrays that are no memory, m^2."""
        return sum(f.value for p, f in self.parts.items() if p not in (*IN_SUBARRAYS, *MEMORIES))

    def shares(self) -> dict[str, float]:
        """Share of each group of figure 10 (0 to 1) in the area of table IV."""
        return {group: sum(self.parts[p].value for p in names) / self.printed for group, names in FIGURE_10.items()}


def area(machine: Machine, circuit: Circuit, technology: Technology, transposable: int = 0) -> Area:
    """Area of a machine of which ``transposable`` sub-arrays are transposable.

    Cells take the technology's area; a transposable cell grows in proportion to its transistors (a cell with less than one is taken to have one),
    and its sub-array has further decoders.
    """
    reference, extra = circuit.reference, circuit.transposable
    count, cells = machine.subarrays, machine.array.rows * machine.array.bit_columns
    cell, transistors = technology.cell_area, technology.transistors_per_bit
    growth = 1 + extra.extra_transistors_per_bit.si / max(1.0, transistors.si)
    how = f"{cells} cells x {shown(cell)} x ({count - transposable} + {transposable} x {growth:.3g})"
    source = f"{technology.name}: {cell.source}"
    size = cells * cell.si * (count - transposable + transposable * growth)
    parts = {"memory_array": Figure("memory_array", size, "m^2", how, source, cell.kind)}
    for name in SUBARRAY_COMPONENTS:
        component = circuit.components.items()[name]
        each, how = scaled(circuit.components.area(name), machine, reference, component.area_scale)
        times = 1.0 if name == "shift_adder" else extra.decoders.si
        many = f"({count - transposable} + {transposable} x {times:g})"
        parts[name] = Figure(
            name,
            each * (count - transposable + transposable * times),
            "m^2",
            f"{how} x {many}",
            circuit.components.area(name).source,
        )
    for name in ("adder_tree", "buffer", "relu"):
        component = circuit.components.items()[name]
        size, how = scaled(circuit.components.area(name), machine, reference, component.area_scale)
        parts[name] = Figure(name, size, "m^2", how, circuit.components.area(name).source)
    return Area(parts | {f.name: f for f in _unprinted(machine, circuit, transposable)})


def _unprinted(machine: Machine, circuit: Circuit, transposable: int) -> Iterator[Figure]:
    """What table IV leaves out. A transposable sub-array senses its rows as well."""
    found, columns, rows = circuit.unprinted, machine.array.bit_columns, machine.array.rows
    for name, quantity, count, what in (
        ("sense_amplifier", found.sense_amplifier.area, machine.subarrays * columns + transposable * rows, "bit columns and transposed rows"),
        ("write_driver", found.write_driver.area, machine.subarrays * columns, "bit columns"),
        ("accumulators", found.accumulators.area, machine.accumulator.entries * machine.accumulator.bits, "bits"),
        ("requantise_lanes", found.requantise_lanes.area, machine.periphery.lanes, "lanes"),
        ("controller", found.controller.area, 1, "controller"),
    ):  # fmt: skip
        how = f"{shown(quantity)} x {count} {what}"
        yield Figure(name, count * quantity.si, "m^2", how, quantity.source, quantity.kind)
    for name, part in circuit.add_ons.items():
        count = part.instances(machine)
        yield Figure(name, count * part.area.si, "m^2", f"{shown(part.area)} x {count}", part.area.source, part.area.kind)
