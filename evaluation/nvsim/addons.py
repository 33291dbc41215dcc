"""Circuits that a ``.pim`` file adds to sub-arrays, MATs and banks become components of the circuit figures.

The file gives latency, energy of an operation, leakage and area of each as lists; the first numbers of all four lists are the first circuit. What
NVSim calls a MAT is a bank of the machine description, and its sub-arrays the MATs there.
"""

from __future__ import annotations

import json
import math
from importlib import resources
from typing import Final

from sasimc.evaluation.circuit.unprinted import AddOn
from sasimc.evaluation.nvsim.reader import Document, Setting
from sasimc.evaluation.quantity import Quantity
from sasimc.isa.errors import SasError

__all__ = ["add_ons", "circuit_toml"]

LEVELS: Final = {"Sub": "subarray", "Mat": "bank", "Bank": "chip"}
FIGURES: Final = {
    "Latency": ("latency", 1e9, "ns"),
    "Dynamic Energy": ("energy", 1e12, "pJ"),
    "Leakage Power": ("leakage", 1e6, "uW"),
    "Area": ("area", 1, "um^2"),
}


def add_ons(pim: Document) -> tuple[dict[str, AddOn], dict[str, Setting]]:
    """The circuits by name (those that are all zero are none), and the settings that they come from.

    Raises:
        SasError: the four lists of a level have different lengths.
    """
    out: dict[str, AddOn] = {}
    used: dict[str, Setting] = {}
    for level, per in LEVELS.items():
        found = {what: s for what in FIGURES if (s := pim.get(f"{level}addon component {what}")) is not None}
        counts = {len(s.numbers) for s in found.values()}
        if len(counts) > 1:
            s = next(iter(found.values()))
            raise SasError(f"the lists of {level}addon components have different lengths: {sorted(counts)}", span=s.span)
        for s in found.values():
            if not all(0 <= n < math.inf for n in s.numbers):
                raise SasError(f"{s.key.name}: figures of a circuit are not negative", span=s.span)
        used |= {s.key.name: s for s in found.values()}
        for i in range(max(counts, default=0)):
            if not any(s.numbers[i] for s in found.values()):
                continue
            fields = {}
            for what, (name, scale, unit) in FIGURES.items():
                s = found.get(what)
                value = float(f"{s.numbers[i] * scale:.12g}") if s else 0.0
                source = f"{s.place}, number {i + 1}" if s else "the file does not say: taken as nothing"
                fields[name] = Quantity(value, unit, source, "derived" if s else "assumption")
            out[f"{level.lower()}_{i + 1}"] = AddOn(per=per, **fields)  # type: ignore[arg-type]
    return out, used


def circuit_toml(found: dict[str, AddOn], name: str) -> str:
    """The shipped circuit figures with these circuits added."""
    text = resources.files("sasimc.evaluation.circuit").joinpath("table4.toml").read_text(encoding="utf-8")
    lines = [text.replace('name = "table4"', f"name = {json.dumps(name)}", 1).rstrip()]
    for key, part in found.items():
        lines += ["", f"[add_ons.{key}]", f"per = {json.dumps(part.per)}"]
        for field, q in part.quantities().items():
            source = json.dumps(q.source, ensure_ascii=False)
            lines.append(f'{field} = {{value = {q.value!r}, unit = "{q.unit}", kind = "{q.kind}", source = {source}}}')
    return "\n".join(lines) + "\n"
