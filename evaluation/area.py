"""Area by component."""

from __future__ import annotations

from dataclasses import dataclass

from sasimc.evaluation.charges import scaled
from sasimc.evaluation.circuit.circuit import SUBARRAY_COMPONENTS, Circuit
from sasimc.evaluation.figure import Figure, shown
from sasimc.evaluation.technologies.technology import Technology
from sasimc.isa.machine import Machine

__all__ = ["FIGURE_10", "Area", "area"]

FIGURE_10 = {
    "SAS-MRAM array": ("memory_array", *SUBARRAY_COMPONENTS),
    "buffer": ("buffer",),
    "adder tree": ("adder_tree",),
    "ReLU": ("relu",),
}
"""The paper's figure 10: the array "contains all circuits shown in Fig. 2(b)", memory, decoders and shift adder."""


@dataclass(frozen=True)
class Area:
    """Area of each component, m^2, over all its instances; what table IV does not print is not in it."""

    parts: dict[str, Figure]

    @property
    def total(self) -> float:
        """All components, m^2."""
        return sum(f.value for f in self.parts.values())

    @property
    def logic(self) -> float:
        """Without cells and buffer, m^2."""
        return self.total - self.parts["memory_array"].value - self.parts["buffer"].value

    def shares(self) -> dict[str, float]:
        """Share of each group of figure 10 (0 to 1)."""
        return {group: sum(self.parts[p].value for p in names) / self.total for group, names in FIGURE_10.items()}


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
    return Area(parts)
