"""Each component of table IV under the chosen interpretation beside published figures of 28 nm."""

from __future__ import annotations

from dataclasses import dataclass

from sasimc.evaluation.cost import CostModel
from sasimc.evaluation.quantity import Quantity, format_si

__all__ = ["Beside", "beside"]


@dataclass(frozen=True)
class Beside:
    """``value``: of one operation or unit, in the unit of ``published``."""

    component: str
    what: str
    value: float
    published: Quantity

    @property
    def verdict(self) -> str:
        """Within the published range, or how far outside."""
        low, high = self.published.ends
        if low <= self.value <= high:
            return "within"
        return f"{low / self.value:.3g} x below" if self.value < low else f"{self.value / high:.3g} x above"

    def cells(self) -> tuple[str, ...]:
        """As text: component, what, ours, published range, verdict, source."""
        low, high = (format_si(end, self.published.unit) for end in self.published.ends)
        return (
            self.component.replace("_", " "),
            self.what,
            format_si(self.value, self.published.unit),
            f"{low} to {high}",
            self.verdict,
            self.published.source,
        )


def beside(model: CostModel) -> list[Beside]:
    """Every figure that there is a published one for."""
    machine, reference = model.machine, model.circuit.reference
    energies = {(c.component, c.event): c.joules for c in model.charges}
    areas = {name: f.value for name, f in model.area.parts.items()}
    columns = reference.bit_columns // reference.weight_bits
    one = {
        ("shift_adder", "energy"): energies["shift_adder", "shift_adds"],
        ("adder_tree", "energy"): energies["adder_tree", "adder_tree_ops"],
        ("row_decoder", "energy"): energies["row_decoder", "row_activations"] / reference.input_bits,
        ("column_decoder", "energy"): energies["column_decoder", "row_activations"] / reference.input_bits,
        ("buffer", "energy"): energies["buffer", "buffer_bits_read"],
        ("relu", "energy"): energies["relu", "relu_ops"],
        ("memory_array", "area"): areas["memory_array"] / machine.capacity_bits,
        ("buffer", "area"): areas["buffer"] / (8 * machine.buffer.bytes),
        ("shift_adder", "area"): areas["shift_adder"] / (machine.subarrays * columns),
        ("adder_tree", "area"): areas["adder_tree"] / machine.adder_tree.units,
    }
    return [
        Beside(p.component, f"{p.what} of a {p.unit_of}", one[p.component, p.what] / p.figure.si * p.figure.value, p.figure)
        for p in model.circuit.plausible.values()
        if (p.component, p.what) in one and p.figure.value
    ]
