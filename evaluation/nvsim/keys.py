"""The keys of NVSim and PIMA-SIM: their units, and what becomes of each.

``use`` says what a key turns into; a key without one is listed as not used, with ``reason``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["KEYS", "Key", "normalised"]


def normalised(name: str) -> str:
    """A key without blanks and case: ``Subaddon component  Area`` and ``Subaddon component Area`` are one."""
    return re.sub(r"[\s_]+", "", name).lower()


@dataclass(frozen=True)
class Key:
    """``unit``: the SI unit without prefix (``word``: text, empty: a plain number, ``capacity``: bytes); ``written``: the unit as NVSim
    writes it; ``shape``: ``one`` number, a ``list``, or ``pairs`` (AxB, CxD); ``bare``: NVSim itself writes it without a unit."""

    name: str
    unit: str = "word"
    written: str = ""
    use: str = ""
    reason: str = ""
    shape: str = "one"
    bare: bool = False
    positive: bool = True
    one_word: bool = True

    @property
    def prefixed(self) -> bool:
        """Whether a prefix (n, u, ...) may stand before the unit."""
        return self.unit in ("ohm", "V", "A", "s", "J", "W", "farad")

    @property
    def example(self) -> str:
        """A valid line."""
        unit = f" ({self.written})" if self.written and not self.bare else ""
        if self.shape == "pairs":
            return f"-{self.name} (Total AxB, Active CxD): 4x4, 1x4"
        return f"-{self.name}{unit}: {'...' if self.unit == 'word' else '8'}"


_SEARCH: Final = "steers NVSim's search over designs; here the design is given"
_CIRCUIT: Final = "a choice of NVSim's circuit models; circuit figures come from the technology file"
_FLASH: Final = "of flash memory, which is refused"
_CACHE: Final = "of caches only; the machine is a memory without tags"


def _word(name: str, use: str = "", reason: str = "") -> Key:
    return Key(name, use=use, reason=reason)


def _cell(name: str, unit: str, written: str, use: str = "", reason: str = "", positive: bool = True) -> Key:
    return Key(name, unit, written, use, reason, positive=positive)


_CFG: Final = (
    _word("DesignTarget", "the kind of memory"),
    _word("MemoryCellInputFile", "the cell file beside this one"),
    Key("ProcessNode", "nm", "nm", "feature size F of the technology", bare=True),
    Key("Capacity", "capacity", "MB", "rows of a sub-array, with the organisation"),
    Key("WordWidth", "bit", "bit", "bit columns of a sub-array, with the organisation"),
    Key("ForceBank", "", "", "array.banks, activation.banks", shape="pairs"),
    Key("ForceMat", "", "", "array.mats, activation.mats", shape="pairs"),
    Key("ForceMuxSenseAmp", "", "", "bit columns that share a sense amplifier"),
    Key("ForceMuxOutputLev1", "", "", "bit columns that share an output"),
    Key("ForceMuxOutputLev2", "", "", "bit columns that share an output"),
    Key("FlashPageSize", "capacity", "Byte", "", _FLASH),
    Key("Temperature", "K", "K", "", "no figure of the cell file is given for a temperature"),
    Key("Associativity", "", "", "", _CACHE),
    _word("CacheAccessMode", reason=_CACHE),
    _word("OptimizationTarget", reason=_SEARCH),
    _word("Optimization", reason=_SEARCH),
    _word("OutputFilePrefix", reason="a name for NVSim's own output"),
    _word("EnablePruning", reason=_SEARCH),
    _word("UseCactiAssumption", reason=_SEARCH),
    _word("BufferDesignOptimization", reason=_SEARCH),
    _word("DeviceRoadmap", reason=_CIRCUIT),
    _word("LocalWireType", reason=_CIRCUIT),
    _word("LocalWireRepeaterType", reason=_CIRCUIT),
    _word("LocalWireUseLowSwing", reason=_CIRCUIT),
    _word("GlobalWireType", reason=_CIRCUIT),
    _word("GlobalWireRepeaterType", reason=_CIRCUIT),
    _word("GlobalWireUseLowSwing", reason=_CIRCUIT),
    _word("Routing", reason=_CIRCUIT),
    _word("InternalSensing", reason=_CIRCUIT),
    _word("PrintLevel", reason="steers NVSim's own output"),
    Key("MaxNmosSize", "F", "F", "", _CIRCUIT),
    Key("FlashBlockSize", "capacity", "KB", "", _FLASH),
    *(
        Key(f"Apply{what}Constraint", "", "", "", _SEARCH)
        for what in (
            "ReadLatency",
            "WriteLatency",
            "ReadDynamicEnergy",
            "WriteDynamicEnergy",
            "Leakage",
            "Area",
            "ReadEdp",
            "WriteEdp",
        )
    ),
)

_OPERATING: Final = "a resistance at another operating point than reading"
_ACCESS: Final = "the selector of the cell: part of NVSim's circuit models"

_CELL: Final = (
    _word("MemCellType", "name and principle of the technology"),
    Key("CellArea", "F^2", "F^2", "area of a cell, with ProcessNode"),
    Key("CellAspectRatio", "", "", "", "the floor plan of a sub-array is not drawn to scale"),
    _cell("ResistanceOn", "ohm", "ohm", "low resistance"),
    _cell("ResistanceOff", "ohm", "ohm", "high resistance"),
    _cell("ResistanceOnAtReadVoltage", "ohm", "ohm", "low resistance"),
    _cell("ResistanceOffAtReadVoltage", "ohm", "ohm", "high resistance"),
    *(
        _cell(f"Resistance{state}At{at}Voltage", "ohm", "ohm", reason=_OPERATING)
        for state in ("On", "Off")
        for at in ("Set", "Reset", "HalfReset", "HalfRead")
    ),
    *(_cell(f"Capacitance{state}", "farad", "F", reason="the bit lines' capacitance is not modelled") for state in ("On", "Off")),
    _word("ReadMode", reason="the read energy is given or follows from the read voltage"),
    _cell("ReadVoltage", "V", "V", "read energy"),
    _cell("ReadCurrent", "A", "uA", "read energy"),
    _cell("ReadPower", "W", "uW", "read energy"),
    _cell("ReadEnergy", "J", "pJ", "read energy"),
    _cell("MinSenseVoltage", "V", "mV", reason="the read margin is a result of the device model, not a requirement"),
    *(
        _word(f"{way}Mode", reason="write energy and pulse are given or follow from current and voltage")
        for way in ("Set", "Reset")
    ),
    *(_cell(f"{way}Voltage", "V", "V", "write energy") for way in ("Set", "Reset")),
    *(_cell(f"{way}Current", "A", "uA", "write energy") for way in ("Set", "Reset")),
    *(_cell(f"{way}Pulse", "s", "ns", "write latency, write.cycles_per_row") for way in ("Set", "Reset")),
    *(_cell(f"{way}Energy", "J", "pJ", "write energy") for way in ("Set", "Reset")),
    _word("AccessType", reason=_ACCESS),
    _cell("AccessCMOSWidth", "F", "F", reason=_ACCESS),
    _cell("VoltageDropAccessDevice", "V", "V", reason=_ACCESS),
    _cell("LeakageCurrentAccessDevice", "A", "uA", reason=_ACCESS),
    _word("ReadFloating", reason=_ACCESS),
    Key("SRAMCellNMOSWidth", "F", "F", "", "leakage of an SRAM cell comes from the technology, not from its transistors"),
    Key("SRAMCellPMOSWidth", "F", "F", "", "leakage of an SRAM cell comes from the technology, not from its transistors"),
    _cell("DRAMCellCapacitance", "farad", "F", reason="refresh is not modelled"),
    Key("GateCouplingRatio", "", "", "", "floating gates are not modelled"),
    _cell("FlashEraseTime", "s", "ms", reason=_FLASH),
    _cell("FlashProgramTime", "s", "us", reason=_FLASH),
    *(_cell(f"Flash{what}Voltage", "V", "V", reason="floating gates are not modelled") for what in ("Erase", "Program", "Pass")),
    Key("RetentionTime", "s", "us", "", "refresh is not modelled"),
    Key("Stitching", "", "", "", "a layout detail of NVSim"),
)

_ADD_ON: Final = "an added circuit of the circuit figures (--circuit-out)"


def _add_on(level: str) -> tuple[Key, ...]:
    figures = (("Latency", "s", "ns"), ("Dynamic Energy", "J", "nJ"), ("Leakage Power", "W", "uW"), ("Area", "um^2", "um^2"))
    return tuple(
        Key(f"{level}addon component {what}", unit, written, _ADD_ON, shape="list", positive=False)
        for what, unit, written in figures
    )


_PIM: Final = (
    Key("Max Row Activation", "", "", "", "one word line of a sub-array works in a cycle (page 'Machine')"),
    Key("Sense Amplifier Latency", "s", "ns", "write.read_cycles_per_row"),
    Key("Sense Amplifier Read Dynamic Energy", "J", "fJ", "read energy"),
    Key("Sense Amplifier Power", "W", "uW", "", "the energy of a read is used instead"),
    Key("Sense Amplifier Height", "m", "um", "", _CIRCUIT),
    Key("Sense Amplifier Width", "m", "um", "", _CIRCUIT),
    *_add_on("Sub"),
    *_add_on("Mat"),
    *_add_on("Bank"),
)

KEYS: Final = {normalised(k.name): k for k in (*_CFG, *_CELL, *_PIM)}
"""All keys by normalised name."""
