"""Whether a circuit can give the currents and voltages of a write: each against its limit, with the field to change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sasimc.evaluation.device.junction import junction_current
from sasimc.evaluation.device.macro import Macro
from sasimc.evaluation.device.stack import Stack
from sasimc.evaluation.device.write import Write

__all__ = ["Demand", "demands"]


@dataclass(frozen=True)
class Demand:
    """``value`` of what a write needs beside its ``limit``, in ``unit``; ``change``: the fields that lower it."""

    what: str
    value: float
    limit: float
    unit: str
    change: str

    @property
    def met(self) -> bool:
        """Whether the limit allows it."""
        return self.value <= self.limit * (1 + 1e-9)


def demands(stack: Stack, write: Write, resistances: tuple[float, float], *, row_bits: int = 512, rows: int = 1) -> list[Demand]:
    """What a write asks of its circuit. ``row_bits`` are written at once, in each of ``rows`` rows.

    The bit lines swing both ways about the line's potential, so that an STT voltage needs twice itself of the supply. Junctions are taken where they
    carry most: parallel for currents, antiparallel for the voltage across the barrier.
    """
    limit, circuit, method = stack.limits, stack.write, write.method
    access, out = circuit.access_resistance.si, list[Demand]()
    line = circuit.driver_resistance.si + sum(Macro(stack, write, resistances).ladder())
    if write.sot_current:
        out.append(Demand("voltage of the line's driver", write.sot_current * line, circuit.supply.si, "V",
                          f"{method}.sot_current, heavy_metal.resistivity, write.driver_resistance"))  # fmt: skip
        density = write.sot_current / stack.heavy_metal.section
        out.append(
            Demand(
                "current density of the line", density, limit.line_density.si, "A/m^2", f"{method}.sot_current, heavy_metal.width"
            )
        )
    current = 0.0
    if write.stt_voltage or write.stt_current:
        volts = write.stt_voltage or write.stt_current * (resistances[1] + access)
        field = f"{method}.stt_voltage" if write.stt_voltage else f"{method}.stt_current"
        most, _ = junction_current(stack, resistances, access, volts, 1.0)
        _, across = junction_current(stack, resistances, access, volts, -1.0)
        current = write.stt_current or float(most)
        across = write.stt_current * resistances[1] if write.stt_current else float(across)
        swing = 2 * volts if method == "sas" else volts
        out.append(Demand("swing of the bit lines", swing, circuit.supply.si, "V", f"{field}, write.access_resistance"))
        out.append(Demand("voltage across the barrier", float(np.max(across)), limit.breakdown.si, "V", field))
    macros = row_bits / write.junctions
    row = macros * max(write.sot_current, current * write.junctions)
    out.append(Demand("current of a row", row, limit.row_current.si, "A", f"{method}.sot_current, bits written at once"))
    if rows > 1:
        out.append(
            Demand(
                f"current of {rows} rows", rows * row, limit.chip_current.si, "A", f"{method}.sot_current, rows written at once"
            )
        )
    return out
