"""A ``.cfg`` file becomes a machine: organisation, activation rule, sub-array size, write time; the rest comes from a base machine.

NVSim calls bank and MAT what is bank and MAT here as well: ``ForceBank (Total AxB, Active CxD)`` are A x B parts of the memory of which C x D
are read at once, ``ForceMat`` the sub-arrays in each. The bits of a word come from all active sub-arrays together:

    bit columns = WordWidth / active sub-arrays x ForceMuxSenseAmp x ForceMuxOutputLev1 x ForceMuxOutputLev2
    rows        = Capacity / sub-arrays / bit columns
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from sasimc.evaluation.nvsim.reader import Document, Setting
from sasimc.isa.described import findings
from sasimc.isa.errors import Diagnostic, SasError
from sasimc.isa.machine import Machine

__all__ = ["Organisation", "organise", "validated"]

MAX_ROWS, MAX_BIT_COLUMNS = 4096, 8192
"""The largest sub-array of a machine description; a longer one is described as several that stand in a MAT."""


@dataclass
class Organisation:
    """Field path -> (value, where it is from); ``used``: the settings that went into it; ``findings``: what could not be used and why."""

    fields: dict[str, tuple[Any, str]] = field(default_factory=dict)
    used: dict[str, Setting] = field(default_factory=dict)
    findings: list[Diagnostic] = field(default_factory=list)

    def put(self, path: str, value: Any, source: str, *settings: Setting | None) -> None:
        """Set a field from settings."""
        self.fields[path] = (value, source)
        for s in settings:
            if s is not None:
                self.used[s.key.name] = s


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: list(value) if isinstance(value, tuple) else value}
    out: dict[str, Any] = {}
    for name, inner in value.items():
        out |= _flat(f"{prefix}.{name}" if prefix else name, inner)
    return out


def organise(cfg: Document | None, cell: Document | None, pim: Document | None, base: Machine, name: str) -> Organisation:
    """Every field of a machine with its source.

    Raises:
        SasError: sizes that contradict one another or that no machine description can hold.
    """
    out = Organisation()
    for path, value in _flat("", base.model_dump()).items():
        out.fields[path] = (value, f"A: as {base.name}, the files do not say")
    out.put("name", re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[:64] or "imported", "")
    if cfg is not None:
        _array(out, cfg, base)
    _times(out, cell, pim, float(out.fields["clock_hz"][0]))
    subarrays = math.prod((*out.fields["array.banks"][0], *out.fields["array.mats"][0]))
    if subarrays < out.fields["gradient.scratch_subarrays"][0]:
        out.put("gradient.scratch_subarrays", subarrays, f"A: as {base.name}, not more than there are")
    return out


def _pairs(s: Setting) -> tuple[list[int], list[int]]:
    a, b, c, d = (int(n) for n in s.numbers)
    for total, active in ((a, c), (b, d)):
        if total % active:
            raise SasError(
                f"{s.key.name}: {active} active do not divide {total}", span=s.span, hint="blocks of equal size work in turn"
            )
    return [a, b], [c, d]


def _array(out: Organisation, cfg: Document, base: Machine) -> None:
    for name in ("FlashPageSize", "FlashBlockSize"):
        if (flash := cfg.get(name)) is not None:
            raise SasError(
                f"{name} is of flash memory, which does not compute by rows",
                span=flash.span,
                hint="leave the line out if the cells are no flash",
            )
    bank, mat = cfg.get("ForceBank"), cfg.get("ForceMat")
    word, capacity = cfg.get("WordWidth"), cfg.get("Capacity")
    muxes = [s for n in ("ForceMuxSenseAmp", "ForceMuxOutputLev1", "ForceMuxOutputLev2") if (s := cfg.get(n)) is not None]
    for what, s in (("banks", bank), ("mats", mat)):
        if s is not None:
            total, active = _pairs(s)
            out.put(f"array.{what}", total, f"{s.place}, Total", s)
            out.put(f"activation.{what}", active, f"{s.place}, Active: a block of them works at once", s)
    if bank is not None or mat is not None:
        out.put("activation.rule", "row", "NVSim activates one block of banks and of MATs")
    if bank is None and mat is None:
        _assumed_organisation(out, base, word, capacity)
        return
    banks, mats = out.fields["array.banks"][0], out.fields["array.mats"][0]
    subarrays = math.prod((*banks, *mats))
    active = math.prod((*out.fields["activation.banks"][0], *out.fields["activation.mats"][0]))
    columns = _columns(out, cfg, word, muxes, active)
    if columns and capacity is not None:
        bits = int(capacity.number)
        if bits % (subarrays * columns):
            raise SasError(
                f"Capacity of {bits} bits is no multiple of {subarrays} sub-arrays x {columns} bit columns", span=capacity.span,
                hint="ForceBank, ForceMat, WordWidth and the muxes decide sub-arrays and bit columns",
            )  # fmt: skip
        rows = bits // (subarrays * columns)
        out.put("array.rows", rows, f"D: {capacity.place} / {subarrays} sub-arrays / {columns} bit columns", capacity)
        _fit_limits(out, rows, columns, capacity)


def _columns(out: Organisation, cfg: Document, word: Setting | None, muxes: list[Setting], active: int) -> int:
    """Bit columns of a sub-array; 0 when the files do not say."""
    if word is None or not muxes:
        return 0
    source, bits = word, word.number * math.prod(m.number for m in muxes)
    if bits % active or bits != int(bits):
        raise SasError(
            f"{source.key.name} gives {bits:g} bit columns for {active} active sub-arrays: not a whole number each",
            span=source.span,
        )
    columns = int(bits) // active
    factors = "".join(f" x {m.number:g}" for m in muxes)
    text = f"D: {source.place}{factors} / {active} active sub-arrays"
    out.put("array.bit_columns", columns, text, source, *muxes)
    return columns


def _fit_limits(out: Organisation, rows: int, columns: int, capacity: Setting) -> None:
    """A sub-array beyond the limits of a machine description is cut: its parts stand in the MAT, the columns of a row work together."""
    down, across = -(-rows // MAX_ROWS), -(-columns // MAX_BIT_COLUMNS)
    if down == across == 1:
        return
    if rows % down or columns % across:
        raise SasError(f"a sub-array of {rows} x {columns} is beyond {MAX_ROWS} x {MAX_BIT_COLUMNS}", span=capacity.span)
    for path, factors in (("array.mats", (down, across)), ("activation.mats", (1, across))):
        value, source = out.fields[path]
        part = f"; A: a sub-array of {rows} x {columns} stands as {down} x {across} (at most {MAX_ROWS} x {MAX_BIT_COLUMNS})"
        out.put(path, [v * f for v, f in zip(value, factors, strict=True)], source + part)
    for path, value, factor in (("array.rows", rows, down), ("array.bit_columns", columns, across)):
        out.put(path, value // factor, out.fields[path][1] + f" / {factor}")


def _assumed_organisation(out: Organisation, base: Machine, word: Setting | None, capacity: Setting | None) -> None:
    """No ForceBank and no ForceMat (NVSim would search): sub-arrays and MATs as in the base machine, banks until the capacity is reached."""
    if capacity is None:
        return
    bank_bits = base.array.rows * base.array.bit_columns * math.prod(base.array.mats)
    banks = -(-int(capacity.number) // bank_bits)
    rows_of_banks, across = base.activation.banks
    across = min(across, banks)
    down = -(-banks // across)
    down = -(-down // rows_of_banks) * rows_of_banks
    out.put("array.banks", [down, across], f"A: {capacity.place} in sub-arrays and MATs as {base.name}; no ForceBank", capacity)
    out.put("activation.banks", [min(rows_of_banks, down), across], f"A: as {base.name}; no ForceBank")
    if word is not None:
        out.findings.append(
            Diagnostic(
                "WordWidth is not used: without ForceBank and ForceMat it says nothing about the sub-arrays",
                word.span,
                severity="warning",
            )
        )


def _times(out: Organisation, cell: Document | None, pim: Document | None, clock_hz: float) -> None:
    """Cycles of a row write from the longest pulse, of a row read from the sense amplifier, at the base machine's clock."""
    pulses = [s for n in ("SetPulse", "ResetPulse") if cell is not None and (s := cell.get(n)) is not None]
    if pulses:
        longest = max(pulses, key=lambda s: s.number)
        cycles = max(1, math.ceil(longest.number * clock_hz - 1e-9))
        out.put("write.cycles_per_row", cycles, f"D: {longest.place}, {longest.text} {longest.key.written} at the clock", *pulses)
    sense = pim.get("Sense Amplifier Latency") if pim is not None else None
    if sense is not None:
        cycles = max(1, math.ceil(sense.number * clock_hz - 1e-9))
        out.put("write.read_cycles_per_row", cycles, f"D: {sense.place}, {sense.text} {sense.key.written} at the clock", sense)


def validated(out: Organisation, where: str) -> Machine:
    """The machine of the fields.

    Raises:
        SasError: what the files say is outside what a machine description can hold.
    """
    nested: dict[str, Any] = {}
    for path, (value, _) in out.fields.items():
        section, _, leaf = path.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[leaf] = value
    try:
        return Machine.model_validate(nested)
    except ValidationError as exc:
        found = [(f, out.fields.get(".".join(f.path))) for f in findings(exc, Machine, nested)]
        lines = "; ".join(f"{f} ({field[1]})" if field else str(f) for f, field in found)
        raise SasError(f"the memory does not fit a machine description: {lines}", where=where) from None
