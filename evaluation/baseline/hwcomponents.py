"""Figures of hwcomponents (Accelergy's component models), where the user has installed it, beside ours. Nothing of it is part of this package."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sasimc.evaluation.baseline.item import Item
from sasimc.evaluation.cost import CostModel
from sasimc.isa.errors import SasError

__all__ = ["hwcomponents_items"]

Ask = Callable[[str, Mapping[str, Any], str], float]
Area = Callable[[str, Mapping[str, Any]], float]


def _installed() -> tuple[Ask, Area]:
    try:
        tool: Any = importlib.import_module("hwcomponents")
    except ImportError:
        raise SasError(
            "hwcomponents is not installed", hint="pip install hwcomponents hwcomponents-library hwcomponents-cacti (Python 3.12)"
        ) from None

    def energy(name: str, attributes: Mapping[str, Any], action: str) -> float:
        cost = tool.get_action_cost(name, dict(attributes), action, {})
        return float(cost.energy)

    return energy, lambda name, attributes: float(tool.get_area(name, dict(attributes)))


def hwcomponents_items(model: CostModel, node_nm: float, ask: tuple[Ask, Area] | None = None) -> Iterator[Item]:
    """Additions, multiplications and memories at a node (nm) beside ours. ``ask``: functions for energy (J) and area (m^2); default: the package.

    Raises:
        SasError: hwcomponents is not installed, or has a model for none of the components.
    """
    energy, area = ask or _installed()
    node = node_nm * 1e-9
    scale, digital = model.circuit.digital.node_scale.si, model.circuit.digital
    prices = {(c.component, c.event): c.joules for c in model.charges}
    parts, machine = model.area.parts, model.machine
    memory = {"tech_node": node, "width": 64, "size": 8 * machine.buffer.bytes}
    bank = {"tech_node": node, "width": 64, "size": 8 * 8192}
    wanted: tuple[tuple[str, str, float, Callable[[], float], str, str], ...] = (
        ("adder_tree", "an addition", prices["adder_tree", "adder_tree_ops"], lambda: energy("AladdinAdder", {"tech_node": node, "width": 32}, "add"), "J",
         "AladdinAdder, 32 bit, add"),
        ("adder_tree", "area of a unit", parts["adder_tree"].value / machine.adder_tree.units, lambda: area("AladdinAdder", {"tech_node": node, "width": 32}),
         "m^2", "AladdinAdder, 32 bit"),
        ("periphery", "a 32-bit addition", digital.add32.si * scale, lambda: energy("AladdinAdder", {"tech_node": node, "width": 32}, "add"), "J",
         "AladdinAdder, 32 bit, add"),
        ("periphery", "a 32-bit multiplication", digital.mult32.si * scale, lambda: energy("AladdinMultiplier", {"tech_node": node, "width": 32}, "multiply"),
         "J", "AladdinMultiplier, 32 bit, multiply"),
        ("shift_adder", "a shift-add", prices["shift_adder", "shift_adds"], lambda: energy("AladdinAdder", {"tech_node": node, "width": 22}, "add"), "J",
         "AladdinAdder, 22 bit, add; without register"),
        ("buffer", "a bit read", prices["buffer", "buffer_bits_read"], lambda: energy("SRAM", memory, "read") / 64, "J/bit", "SRAM of the buffer's size, 64 bit wide, read"),
        ("buffer", "area", parts["buffer"].value, lambda: area("SRAM", memory), "m^2", "SRAM of the buffer's size"),
        ("accumulators", "a bit read", prices["accumulators", "accumulator_reads"] / 32, lambda: energy("SRAM", bank, "read") / 64, "J/bit",
         "SRAM of 8 KB, 64 bit wide, read"),
    )  # fmt: skip
    paths = {
        "SRAM of the buffer's size, 64 bit wide, read": "circuit.buffer.energy",
        "SRAM of 8 KB, 64 bit wide, read": "circuit.accumulators.energy",
    }
    found, reasons = 0, list[str]()
    for component, what, ours, value, unit, how in wanted:
        try:
            theirs = value()
        except Exception as exc:  # another package's errors of any kind: no model, or one that fails
            reasons.append(str(exc).strip().split("\n")[0])
            continue
        found += 1
        path = paths.get(how, "")
        yield Item(
            component,
            what,
            ours,
            theirs,
            unit,
            f"hwcomponents at {node_nm:g} nm: {how}",
            (path, f"{theirs!r} {unit}") if path else ("", ""),
        )
    if not found:
        raise SasError(
            "hwcomponents has no model for any component",
            hint=f"pip install hwcomponents-library hwcomponents-cacti; it says: {reasons[0]:.200}",
        )
