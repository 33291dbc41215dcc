"""Published digital in-memory computing macros, predicted with the figures of this model: predicted beside printed, errors named.

Only what the shipped circuit and technology files hold goes in: SRAM cells, sense amplifiers, write drivers, decoders (table IV as it is interpreted),
additions and multiplications. Nothing is fitted to the printed values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from sasimc.evaluation.cost import CostModel
from sasimc.evaluation.fields import at_end
from sasimc.evaluation.figure import shown
from sasimc.evaluation.paper.line import Line, read_toml
from sasimc.evaluation.quantity import Quantity
from sasimc.evaluation.technologies.load import load_technology

__all__ = ["validation_lines", "validation_titles"]

BITS = 8
ADD_CYCLES = BITS + 1
MULTIPLY_CYCLES = BITS * (BITS + 2)
"""Bit-serial: an addition takes a cycle a bit and one for the carry; a multiplication for every bit of the multiplier one to load it and an addition."""


@lru_cache(maxsize=1)
def _macros() -> dict[str, dict[str, Any]]:
    return {
        name: {key: Quantity(**entry) if isinstance(entry, dict) else entry for key, entry in entries.items()}
        for name, entries in read_toml("validation.toml").items()
    }


def validation_titles() -> dict[str, str]:
    """Macros by key, with what they do not print."""
    return {name: f"{macro['title']}; not printed: {macro['not_printed']}" for name, macro in _macros().items()}


class _Prices:
    """Energies (J) and areas (m^2) of a model's parts with SRAM cells."""

    def __init__(self, model: CostModel) -> None:
        by = {(c.component, c.event): c.joules for c in model.charges}
        bits, columns = model.circuit.reference.input_bits, model.circuit.reference.bit_columns
        scale = model.circuit.digital.node_scale.si
        self.read = by["memory_array", "sense_ones"]
        self.sense = by["sense_amplifier", "sense_ones"]
        self.write = by["cell_write", "bits_written_compute"]
        self.row = (by["row_decoder", "row_activations"] + by["column_decoder", "row_activations"]) / bits / columns
        self.shift_add = by["shift_adder", "shift_adds"]
        self.add8, self.add32 = (q.si * scale for q in (model.circuit.digital.add8, model.circuit.digital.add32))
        self.mult8 = model.circuit.digital.mult8.si * scale
        found = model.circuit
        in_column = found.unprinted.sense_amplifier.area.si + found.unprinted.write_driver.area.si
        self.cell_area = model.technology.cell_area.si
        self.around = columns * in_column + sum(
            found.components.area(n).si for n in ("column_decoder", "row_decoder", "shift_adder")
        )


def _scaled(macro: dict[str, Any]) -> float:
    """Capacitance in proportion to the node, voltage squared; the figures are for 28 nm and 0.8 V."""
    return macro["node"].value / 28 * (macro["supply"].value / 0.8) ** 2


def validation_lines(model: CostModel) -> Iterator[Line]:
    """Predicted beside printed, for every macro."""
    sram = load_technology("sram")
    cells = at_end(sram, "low"), sram, at_end(sram, "high")
    models = tuple(
        CostModel.make(m.machine, t, m.interpretation_name, m.circuit)
        for m, t in zip((model.ends[0], model, model.ends[1]), cells, strict=True)
    )
    prices = tuple(_Prices(m) for m in models)
    macros = _macros()

    def line(name: str, key: str, item: str, ours: Callable[[_Prices], float], how: str, reason: str) -> Line:
        printed: Quantity = macros[name][key]
        values = [ours(p) for p in prices]
        error = values[1] / printed.value - 1
        text = f"error {error:+.0%}: {reason}"
        return Line(
            "validation",
            f"{name}: {item}",
            printed.value,
            values[1],
            printed.unit,
            how,
            printed.source,
            (),
            text,
            (min(values), max(values)),
        )

    def tops(operations: float, joules: float) -> float:
        return operations / joules * 1e-12

    one = macros["isscc22"]
    k = _scaled(one)
    yield line("isscc22", "efficiency_8b", "8-bit products in parallel", lambda p: tops(2, k * (p.mult8 + p.add32 + BITS * p.read)),
               f"2 operations / ({shown(model.circuit.digital.mult8)} + {shown(model.circuit.digital.add32)}, x node_scale, + 8 SRAM bits read)",
               "separate multiplier and 32-bit addition with random data; the macro compresses the products of many rows in one tree of just the needed width")  # fmt: skip
    yield line("isscc22", "efficiency_8b", "as this machine would do it", lambda p: tops(2, k * BITS * (p.shift_add + BITS * (p.read + p.sense + p.row))),
               "2 operations / (8 shift-adds of table IV, 64 bits sensed, decoders)",
               "row after row with a shift-and-add register in every column: this is what table IV pays for simplicity, not an error of a price")  # fmt: skip
    bits = one["capacity"].value
    yield line("isscc22", "density", "density, with the circuits of one of our sub-arrays", lambda p: bits / ((bits * p.cell_area + p.around) * 1e12),
               "32 Kbit / (6T cells + decoders, shift adders, sense amplifiers, write drivers of 64 x 512)",
               "the macro has adders for many rows at once, ours for one")  # fmt: skip
    two = macros["jssc19"]
    v = _scaled(two)

    def cycle(p: _Prices) -> float:
        return v * (2 * (p.read + p.sense) + p.write + p.add8 / BITS + 3 * p.row)

    how = "cycle of a column: two bits sensed, one written, an eighth of an 8-bit addition, three word lines; x (0.6 V / 0.8 V)^2"
    for key, cycles, item in (("add_8b", ADD_CYCLES, "8-bit addition"), ("multiply_8b", MULTIPLY_CYCLES, "8-bit multiplication")):
        yield line("jssc19", key, item, lambda p, n=cycles: tops(1, n * cycle(p)), f"{cycles} cycles; {how}",
                   "the printed figure is of the chip, ours of the memories; clock and controller are not in it")  # fmt: skip
    three = macros["esscirc22"]
    s = _scaled(three)
    yield line("esscirc22", "efficiency_1b", "a Boolean function of two bits", lambda p: tops(1, s * (2 * (p.read + p.sense) + 2 * p.row)),
               "two bits sensed on two word lines; x (65 nm / 28 nm) (1.2 V / 0.8 V)^2",
               "two clocked amplifiers in every column; the chip reads single-ended through skewed inverters")  # fmt: skip
