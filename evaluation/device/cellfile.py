"""A stack as a ``.cell`` file of NVSim, whose readers sasimc's own importer is one of."""

from __future__ import annotations

import math

from sasimc.evaluation.device.junction import junction_current
from sasimc.evaluation.device.stack import Stack
from sasimc.evaluation.device.write import Method, run_write, write_of
from sasimc.evaluation.technologies.technology import Technology

__all__ = ["cell_text"]


def cell_text(
    technology: Technology, stack: Stack, method: Method, *, node_nm: float = 28.0, writes: int = 400, seed: int = 0
) -> str:
    """The text of a cell written by one method: simulated energy and pulse, resistances at the read voltage, area from the technology.

    NVSim knows no SAS or SOT cells: ``MemCellType: MRAM`` with the energy and pulse of the method is what its models can use; the comment says which. Set and
    reset are the two directions of a write, and one where all bits of a line are written at once.
    """
    write, resistances = write_of(stack, method), technology.resistances
    got = run_write(stack, write, resistances, writes, seed=seed, dt=2e-12)
    read, access = stack.read, stack.read.access_resistance.si
    ohms: list[float] = []
    powers: list[float] = []
    for along in (1.0, -1.0):
        current, across = junction_current(stack, resistances, access, read.voltage.si, along)
        ohms.append(float(across / current))
        powers.append(read.voltage.si * float(current))
    area = technology.cell_area.si / (node_nm * 1e-9) ** 2
    current = (got.line_charge + got.junction_charge) / write.latency
    lines = [
        f"// {technology.name}, written by {method.upper()}: simulated by sasc mtj, {write.junctions} junction(s) on a line",
        "-MemCellType: MRAM",
        f"-CellArea (F^2): {area:.6g}",
        "-CellAspectRatio: 1",
        f"-ResistanceOnAtReadVoltage (ohm): {ohms[0]:.6g}",
        f"-ResistanceOffAtReadVoltage (ohm): {ohms[1]:.6g}",
        f"-ResistanceOn (ohm): {resistances[0]:.6g}",
        f"-ResistanceOff (ohm): {resistances[1]:.6g}",
        "-ReadMode: current",
        f"-ReadVoltage (V): {read.voltage.si:.6g}",
        f"-ReadPower (uW): {sum(powers) / 2 * 1e6:.6g}",
        f"-MinSenseVoltage (mV): {max(1.0, math.floor(1e3 * read.voltage.si / 4)):.6g}",
    ]
    for way in ("Reset", "Set"):
        lines += [
            f"-{way}Mode: current",
            f"-{way}Current (uA): {current * 1e6:.6g}",
            f"-{way}Pulse (ns): {write.latency * 1e9:.6g}",
            f"-{way}Energy (pJ): {got.energy * 1e12:.6g}",
        ]
    lines += ["-AccessType: CMOS", f"-AccessCMOSWidth (F): {4 * technology.transistors_per_bit.value:.6g}", ""]
    return "\n".join(lines)
