"""The text that NVSim prints of a design, and its figures beside ours.

A figure is named by where it stands: ``Read Dynamic Energy/Senseamp Dynamic Energy``, ``Area/Subarray Area``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sasimc.evaluation.area import IN_SUBARRAYS
from sasimc.evaluation.baseline.item import Item
from sasimc.evaluation.cost import CostModel
from sasimc.evaluation.quantity import format_si
from sasimc.isa.errors import SasError

__all__ = ["NVSimResult", "nvsim_items", "read_result"]

MAX_BYTES = 1 << 20
_PREFIX = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_VALUE = re.compile(r"^([-+0-9.eE]+)\s*([fpnumKMGT]?)(s|J|W|m\^2|m|B/s)\b")
_LINE = re.compile(r"^[\s|-]*(?P<name>[A-Za-z][\w &-]*?)\s*=\s*(?P<value>.+)$")
_SIZE = re.compile(r"Subarray Size\s*:\s*(\d+) Rows x (\d+) Columns")
_PAIR = re.compile(r"^(Bank Organization|Mat Organization|\s*- (?:Row|Column) Activation)\s*:\s*(\d+) [x/] (\d+)")
_MUX = re.compile(r"(Senseamp Mux|Output Level-[12] Mux)\s*:\s*(\d+)")
_WIDTH = re.compile(r"Data Width\s*:\s*(\d+)Bits")


@dataclass
class NVSimResult:
    """``figures`` in base units by name; sizes of the design."""

    path: Path
    figures: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    columns: int = 0
    subarrays: int = 1
    muxes: dict[str, int] = field(default_factory=dict)
    width: int = 0


def read_result(path: str | Path) -> NVSimResult:
    """Read what NVSim printed for a memory.

    Raises:
        SasError: unreadable, or no result of NVSim (no such lines, a cache, numbers missing).
    """
    path = Path(path)
    try:
        data = path.read_bytes()[: MAX_BYTES + 1]
    except OSError as exc:
        raise SasError(f"cannot read {path}: {exc.strerror or exc}") from None
    text = data.decode("utf-8", errors="replace")
    out, section, group = NVSimResult(path), "", ""
    if len(data) > MAX_BYTES or "RESULT" not in text:
        raise SasError(f"{path} is no result of NVSim", hint="the text that `nvsim FILE.cfg` prints: nvsim FILE.cfg > result.txt")
    if text.count("Subarray Size") > 1 or "CACHE" in text.upper().split("RESULT", 1)[0]:
        raise SasError(f"{path} is the result of a cache", hint="-DesignTarget: RAM")
    for line in text.splitlines():
        if (found := _SIZE.search(line)) is not None:
            out.rows, out.columns = int(found[1]), int(found[2])
        elif (found := _PAIR.match(line)) is not None and "Organization" in found[1]:
            out.subarrays *= int(found[2]) * int(found[3])
        elif (found := _MUX.search(line)) is not None:
            out.muxes[found[1]] = int(found[2])
        elif (found := _WIDTH.search(line)) is not None:
            out.width = int(found[1])
        elif line.rstrip() in ("Area:", "Timing:", "Power:"):
            section = line.strip().rstrip(":")
        elif section and (found := _LINE.match(line)) is not None:
            top = line.startswith(" - ")
            if top and section != "Area":
                group = found["name"].strip()
                name = group
            else:
                name = f"{'Area' if section == 'Area' else group}/{found['name'].strip()}"
            if (value := _number(found["value"])) is not None:
                out.figures[name] = value
    if not (out.rows and out.columns and out.width and "Read Dynamic Energy" in out.figures):
        raise SasError(f"{path} is no complete result of NVSim", hint="no solution was found, or the text was cut off")
    return out


def _number(text: str) -> float | None:
    """The last of ``a x b = c``, without what stands behind the unit."""
    match = _VALUE.match(text.rsplit("=", 1)[-1].strip())
    if match is None:
        return None
    prefix = _PREFIX[match[2]]
    try:
        return float(match[1]) * (prefix**2 if match[3] == "m^2" else prefix)
    except ValueError:
        return None


def nvsim_items(model: CostModel, result: NVSimResult) -> Iterator[Item]:
    """NVSim's figures beside ours; per bit and row, so that designs of other sizes can be compared."""
    f, prices = result.figures, {(c.component, c.event): c.joules for c in model.charges}
    bits = model.circuit.reference.input_bits
    amplifiers = result.columns / result.muxes.get("Senseamp Mux", 1)
    selected = result.columns / math.prod(result.muxes.values())
    name = result.path.name

    def item(component: str, what: str, ours: float, theirs: float | None, unit: str, how: str, path: str = "") -> Iterator[Item]:
        if theirs:
            yield Item(component, what, ours, theirs, unit, f"{name}: {how}", (path, f"{theirs!r} {unit}") if path else ("", ""))

    def per(key: str, count: float) -> float | None:
        return f[key] / count if key in f else None

    read = "Read Dynamic Energy/"
    yield from item("sense_amplifier", "energy of a bit", prices["sense_amplifier", "sense_ones"], per(f"{read}Senseamp Dynamic Energy", amplifiers), "J/bit",
                    f"Senseamp Dynamic Energy / {amplifiers:g} amplifiers", "circuit.sense_amplifier.energy")  # fmt: skip
    yield from item("memory_array", "reading a bit", prices["memory_array", "sense_ones"], per(f"{read}Bitline & Cell Read Energy", selected), "J/bit",
                    f"Bitline & Cell Read Energy / {selected:g} selected bits", "technology.read_energy")  # fmt: skip
    for key in (
        "Write Dynamic Energy/Bitline & Cell Write Energy",
        "SET Dynamic Energy/Cell SET Dynamic Energy",
        "RESET Dynamic Energy/Cell RESET Dynamic Energy",
    ):
        written = prices["cell_write", "bits_written_compute"] + prices["write_driver", "bits_written_compute"]
        yield from item("cell_write", f"writing a bit ({key.split(' ')[0]})", written, per(key, selected), "J/bit", f"{key.split('/')[1]} / {selected:g} selected bits; ours with "
                        "write driver")  # fmt: skip
    rows = [f.get(read + part) for part in ("Row Decoder Dynamic Energy", "Predecoder Dynamic Energy")]
    if rows[0] is not None:
        yield from item("row_decoder", "a row", prices["row_decoder", "row_activations"] / bits, rows[0] + (rows[1] or 0.0) / 2, "J",
                        "Row Decoder + half the Predecoder of a MAT")  # fmt: skip
    columns = [f.get(read + part) for part in ("Mux Decoder Dynamic Energy", "Mux Dynamic Energy", "Precharge Dynamic Energy")]
    if columns[0] is not None:
        yield from item("column_decoder", "a row", prices["column_decoder", "row_activations"] / bits, sum(c or 0.0 for c in columns), "J",
                        "Mux Decoder + Mux + Precharge")  # fmt: skip
    tree = f.get(f"{read}H-Tree Dynamic Energy", f.get(f"{read}Non-H-Tree Dynamic Energy"))
    if tree:
        side = model.area.side
        wires = model.circuit.unprinted.interconnect
        wire = tree / result.width / (side * 1e3) / wires.buffer_distance.si
        how = f"H-Tree Dynamic Energy / {result.width} bits, over our side of {format_si(side, 'm')}"
        yield from item(
            "interconnect", "a bit over a distance", wires.energy.si / 1e3, wire, "J/bit/mm", how, "circuit.interconnect.energy"
        )
    ours = {x.name: x.value for x in model.leakage}
    cells = result.rows * result.columns * result.subarrays
    yield from item("leakage", "of a bit's share of the arrays", (ours["cells"] + ours["sub-arrays"]) / model.machine.capacity_bits, per("Leakage Power", cells),
                    "W/bit", f"Leakage Power / {cells} bits; ours: cells and circuits of the sub-arrays")  # fmt: skip
    parts = model.area.parts
    own = sum(parts[p].value for p in ("memory_array", *IN_SUBARRAYS) if p != "shift_adder") / model.machine.capacity_bits
    yield from item("area", "of a bit's share of a sub-array", own, per("Area/Subarray Area", result.rows * result.columns), "m^2/bit",
                    f"Subarray Area / {result.rows} x {result.columns}; ours without shift adders")  # fmt: skip
    period = 1 / model.machine.clock_hz
    yield from item(
        "time",
        "of a read",
        model.machine.write.read_cycles_per_row * period,
        f.get("Read Latency"),
        "s",
        "Read Latency; ours: the machine's cycles",
    )
    yield from item("time", "of a write", model.machine.write.cycles_per_row * period, f.get("Write Latency", f.get("SET Latency")), "s", "Write Latency; ours: the "
                    "machine's cycles")  # fmt: skip
