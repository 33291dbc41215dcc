"""A ``.cell`` file becomes a technology; what it does not say comes from a shipped technology, marked as an assumption."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from sasimc.evaluation.nvsim.reader import Document, Setting, read
from sasimc.evaluation.quantity import Quantity, format_si
from sasimc.evaluation.technologies.technology import Technology, read_technology
from sasimc.isa.described import findings
from sasimc.isa.errors import DiagnosticsError, SasError, near

__all__ = ["CellImport", "import_cell", "load_cell"]

KINDS: Final = {
    "MRAM": ("STT", "stt", True), "SRAM": ("SRAM", "sram", False), "PCRAM": ("PCRAM", "stt", True), "memristor": ("RRAM", "stt", True),
    "RRAM": ("RRAM", "stt", True), "FBRAM": ("DRAM", "sram", False), "DRAM": ("DRAM", "sram", False), "eDRAM": ("DRAM", "sram", False),
    "SOT": ("SOT", "sot", True), "SAS": ("SAS", "sas", True),
}  # fmt: skip
"""``MemCellType`` -> kind of technology, shipped technology that fills the gaps, whether it keeps its state without power."""

REFUSED: Final = ("SLCNAND", "MLCNAND")
"""Flash is programmed by pages and erased by blocks, its bits stand in strings: no cell of this machine's arrays."""

SENSING_NS: Final = (0.5, 1.0, 1.5)
"""Low, nominal, high: what NVSim's current-mode sense amplifier takes (0.8 ns at 45 nm HP, 1.5 ns at 28 nm LOP), for cells that give a read power and no time."""

SUPPLY_V: Final = {200: 1.8, 120: 1.2, 90: 1.2, 65: 1.1, 45: 1.0, 32: 0.9, 28: 0.9, 22: 0.8, 14: 0.8, 7: 0.7}
"""Usual supply of a process node (nm) for high performance: for cells that give a write current and no voltage."""


@dataclass
class CellImport:
    """``used``: the settings that went into the technology, by key."""

    technology: Technology
    used: dict[str, Setting] = field(default_factory=dict)


class _Cell:
    """Settings of a cell file, remembered when they are read."""

    def __init__(self, *documents: Document | None) -> None:
        self.documents = [d for d in documents if d is not None]
        self.used: dict[str, Setting] = {}

    def get(self, *names: str) -> Setting | None:
        for name in names:
            for document in self.documents:
                if (s := document.get(name)) is not None:
                    self.used[s.key.name] = s
                    return s
        return None


def import_cell(cell: Document, cfg: Document | None = None, pim: Document | None = None) -> CellImport:
    """The technology of a cell file; ``cfg`` gives the process node, ``pim`` the sense amplifier.

    Raises:
        SasError: no ``MemCellType`` or an unknown one; values that contradict each other.
    """
    c = _Cell(cell, cfg, pim)
    kind_of = c.get("MemCellType")
    if kind_of is None:
        raise SasError("MemCellType is missing", where=str(cell.path), hint=f"one of {', '.join(KINDS)}")
    if kind_of.text.upper() in REFUSED:
        raise SasError(
            f"{kind_of.text} is no memory that computes by rows",
            span=kind_of.span,
            hint="flash is written by pages and erased by blocks; nothing here describes that",
        )
    known = {k.lower(): v for k, v in KINDS.items()}
    if kind_of.text.lower() not in known:
        raise SasError(f"no memory cell is called {kind_of.text!r}", span=kind_of.span, hint=near(kind_of.text, list(KINDS)))
    kind, base_name, non_volatile = known[kind_of.text.lower()]
    base = read_technology(base_name)
    fields: dict[str, Any] = {
        "name": re.sub(r"[^A-Za-z0-9_.+-]+", "_", cell.path.stem)[:64],
        "kind": kind,
        "description": f"{kind_of.text} of {cell.path.name}",
        "non_volatile": non_volatile,
    }
    for name, q in base.quantities().items():
        fields[name] = Quantity(q.value, q.unit, f"as {base.name}.toml, the cell file does not say: {q.source}", "assumption")
    if kind not in ("SRAM", "DRAM"):
        _resistances(c, fields)
    else:
        fields |= {"resistance_low": None, "resistance_high": None}
    if not non_volatile:
        fields["retention"] = None
    elif "retention" not in fields:
        fields["retention"] = Quantity(10, "year", "usual requirement of non-volatile memory", "assumption")
    if non_volatile and base_name == "sram":
        fields["leakage"] = Quantity(0, "W/bit", "a non-volatile cell is not powered", "assumption")
    node = _area(c, fields)
    _read(c, fields)
    _write(c, fields, node)
    try:
        return CellImport(Technology.model_validate(fields), c.used)
    except ValidationError as exc:
        found = "; ".join(map(str, findings(exc, Technology, fields)))
        raise SasError(f"the cell does not make a technology: {found}", where=str(cell.path)) from None


def load_cell(path: Path) -> Technology:
    """The technology of a cell file alone.

    Raises:
        SasError: unreadable; every value that could not be read, with file and line.
    """
    document = read(path)
    if errors := [f for f in document.findings if f.severity == "error"]:
        raise DiagnosticsError(errors)
    return import_cell(document).technology


def _quantity(value: float, unit: str, source: str, assumed: bool = False) -> Quantity:
    """A number of the files; what unit conversions add behind the twelfth digit is dropped."""
    return Quantity(float(f"{value:.12g}"), unit, source, "assumption" if assumed else "derived")


def _resistances(c: _Cell, fields: dict[str, Any]) -> None:
    on = c.get("ResistanceOnAtReadVoltage", "ResistanceOn")
    off = c.get("ResistanceOffAtReadVoltage", "ResistanceOff")
    if on is not None and off is not None:
        fields["resistance_low"] = _quantity(on.number, "ohm", on.place)
        fields["resistance_high"] = _quantity(off.number, "ohm", off.place)


def _area(c: _Cell, fields: dict[str, Any]) -> float:
    """Cell area = CellArea F^2; returns the node in nm."""
    area, node = c.get("CellArea"), c.get("ProcessNode")
    nm = node.number if node is not None else 28.0
    if area is not None:
        um2 = area.number * (nm * 1e-3) ** 2
        given = f"{area.place}, {area.text} F^2 at {nm:g} nm"
        why = f" ({node.place})" if node is not None else ": no ProcessNode is given, the paper's is assumed"
        fields["cell_area"] = _quantity(um2, "um^2/bit", given + why, assumed=node is None)
    return nm


def _read(c: _Cell, fields: dict[str, Any]) -> None:
    sense = c.get("Sense Amplifier Latency")
    if sense is not None:
        fields["read_latency"] = _quantity(sense.number * 1e9, "ns", sense.place)
    energy, sensed = c.get("ReadEnergy"), c.get("Sense Amplifier Read Dynamic Energy")
    if energy is not None:
        fields["read_energy"] = _quantity(energy.number * 1e15, "fJ/bit", energy.place)
        return
    if sensed is not None:
        fields["read_energy"] = _quantity(sensed.number * 1e15, "fJ/bit", sensed.place)
        return
    on: Quantity | None = fields.get("resistance_low")
    if (power := c.get("ReadPower")) is not None:
        watts, source = power.number, power.place
    elif (volt := c.get("ReadVoltage")) is None:
        return
    elif (current := c.get("ReadCurrent")) is not None:
        watts, source = volt.number * current.number, f"{volt.place} x {current.place}"
    elif on is not None:
        watts, source = volt.number**2 / on.si, f"{volt.place} squared / low resistance"
    else:
        return
    if sense is not None:
        fields["read_energy"] = _quantity(
            2e15 * watts * sense.number, "fJ/bit", f"2 (cell and reference) x {source} x {sense.place}"
        )
        return
    low, nominal, high = (float(f"{2e6 * watts * ns:.12g}") for ns in SENSING_NS)
    text = f"2 (cell and reference) x {source} x {SENSING_NS[1]:g} ns, as long as NVSim's sense amplifier takes ({SENSING_NS[0]:g} to {SENSING_NS[2]:g} ns); the files do not say"
    fields["read_energy"] = Quantity(nominal, "fJ/bit", text, "assumption", low, high)


def _write(c: _Cell, fields: dict[str, Any], node: float) -> None:
    """Latency: the longer pulse. Energy: the mean of set and reset, each as given or pulse x current x voltage."""
    pulses = {way: c.get(f"{way}Pulse") for way in ("Set", "Reset")}
    given = [p for p in pulses.values() if p is not None]
    if given:
        longest = max(given, key=lambda s: s.number)
        fields["write_latency"] = _quantity(longest.number * 1e9, "ns", longest.place)
    parts: list[tuple[float, str, bool]] = []
    for way, pulse in pulses.items():
        energy = c.get(f"{way}Energy")
        if energy is not None:
            parts.append((energy.number, energy.place, False))
        elif pulse is not None and (found := _pulse_energy(c, way, pulse, fields, node)) is not None:
            parts.append(found)
    if parts:
        mean = sum(p[0] for p in parts) / len(parts)
        source = "mean of " + " and ".join(p[1] for p in parts) if len(parts) > 1 else parts[0][1]
        fields["write_energy"] = _quantity(mean * 1e12, "pJ/bit", source, assumed=any(p[2] for p in parts))


def _pulse_energy(c: _Cell, way: str, pulse: Setting, fields: dict[str, Any], node: float) -> tuple[float, str, bool] | None:
    """(J, source, whether it rests on an assumption) of a write that is given by voltage or current."""
    volt, current = c.get(f"{way}Voltage"), c.get(f"{way}Current")
    if volt is not None and current is not None:
        return volt.number * current.number * pulse.number, f"{volt.place} x {current.place} x {pulse.place}", False
    if current is not None:
        nearest = min(SUPPLY_V, key=lambda n: abs(n - node))
        supply = SUPPLY_V[nearest]
        text = f"{current.place} x {pulse.place} x {format_si(supply, 'V')}, the usual supply of {nearest} nm"
        return current.number * supply * pulse.number, text, True
    on: Quantity | None = fields.get("resistance_low")
    at = c.get(f"ResistanceOnAt{way}Voltage")
    ohms = at.number if at is not None else on.si if on is not None else 0.0
    if volt is not None and ohms:
        source = at.place if at is not None else "low resistance"
        return volt.number**2 / ohms * pulse.number, f"{volt.place} squared / {source} x {pulse.place}", False
    return None
