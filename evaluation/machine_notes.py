"""Where the fields of a machine description come from: the comment behind each line of the file.

The files say it themselves (``rows = 64  # P table IV``): P = printed in the paper, D = derived by arithmetic, A = assumption.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from sasimc.isa.machine import Machine, load_machine

__all__ = ["Note", "flat_fields", "machine_notes", "notes_of", "value_text"]

KINDS: Final = {"P": "paper", "D": "derived", "A": "assumption"}

_LINE = re.compile(r"""\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?:"[^"]*"|'[^']*'|\[[^\]]*\]|[^#"'\[]*)\s*(?:\#\s*(.*))?""")
_SECTION = re.compile(r"\s*\[\s*([A-Za-z0-9_]+)\s*\]")


@dataclass(frozen=True)
class Note:
    """``kind``: paper, derived, assumption, or given when the comment does not begin with P, D or A; ``source``: the comment."""

    kind: str
    source: str


def machine_notes(text: str) -> dict[str, Note]:
    """Field path (``array.rows``) -> what the comment behind it says."""
    out: dict[str, Note] = {}
    section = ""
    for line in text.splitlines():
        if head := _SECTION.match(line):
            section = head[1]
        elif (found := _LINE.match(line)) and found[2]:
            comment = found[2].strip()
            first = re.match(r"([PDA])\b:?\s*", comment)
            note = Note(KINDS[first[1]], comment[first.end() :]) if first else Note("given", comment)
            out[f"{section}.{found[1]}".lstrip(".")] = note
    return out


def flat_fields(machine: Machine) -> dict[str, Any]:
    """Field path -> value, in the order of the description."""
    out: dict[str, Any] = {}
    for name, value in machine.model_dump().items():
        if isinstance(value, dict):
            out |= {f"{name}.{leaf}": inner for leaf, inner in value.items()}
        else:
            out[name] = value
    return out


def value_text(value: Any) -> str:
    """A field's value for readers: 16 x 16, true, 64."""
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


@lru_cache(maxsize=1)
def _shipped() -> tuple[dict[str, Any], dict[str, Note]]:
    text = resources.files("sasimc.isa").joinpath("sas28.toml").read_text(encoding="utf-8")
    return flat_fields(load_machine()), machine_notes(text)


def notes_of(machine: Machine) -> dict[str, Note]:
    """Sources of a machine whose file is not at hand: those of the paper's machine where the values agree, else an assumption."""
    values, notes = _shipped()
    return {
        path: notes.get(path, Note("", "")) if values.get(path) == value else Note("assumption", "set in the machine description")
        for path, value in flat_fields(machine).items()
        if path != "name"
    }
