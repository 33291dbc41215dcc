"""Where the values of a machine are from, and machine descriptions as commented files.

A value that equals the paper's machine's has that one's source; any other is the user's, whatever a comment beside it says.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from sasimc.isa.described import schema_at, wanted
from sasimc.isa.machine import PAPER, Machine, load_machine
from sasimc.isa.machine_sections import About

__all__ = [
    "FieldNote",
    "Note",
    "flat_fields",
    "machine_file",
    "machine_notes",
    "machine_table",
    "notes_of",
    "toml_value",
    "value_text",
]


@dataclass(frozen=True)
class Note:
    """``kind``: paper, derived, assumption, or changed (another value than the paper's machine); ``source``: table, section, reason, or for a
    changed one the value it replaces."""

    kind: str
    source: str


@dataclass(frozen=True)
class FieldNote:
    """What the model says about a field, the values it may have, and its value in the paper's machine."""

    about: About
    wanted: str
    paper: Any


def flat_fields(machine: Machine) -> dict[str, Any]:
    """Field path (``array.rows``) -> value, in the order of the description."""
    out: dict[str, Any] = {}
    for name, value in machine.model_dump().items():
        if isinstance(value, dict):
            out |= {f"{name}.{leaf}": inner for leaf, inner in value.items()}
        else:
            out[name] = value
    return out


@lru_cache(maxsize=1)
def machine_notes() -> Mapping[str, FieldNote]:
    """Field path -> what there is to say about it."""
    schema = Machine.model_json_schema()
    out: dict[str, FieldNote] = {}
    for path, value in flat_fields(load_machine()).items():
        *sections, leaf = path.split(".")
        model: type[BaseModel] = Machine
        for name in sections:
            inner = model.model_fields[name].annotation
            assert isinstance(inner, type)
            model = inner
        about = next(m for m in model.model_fields[leaf].metadata if isinstance(m, About))
        out[path] = FieldNote(about, wanted(schema_at(schema, path.split("."))[1]), value)
    return out


def value_text(value: Any) -> str:
    """A field's value for readers: 16 x 16, true, 64."""
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    return (
        str(value).lower()
        if isinstance(value, bool)
        else str(int(value))
        if isinstance(value, float) and value.is_integer()
        else str(value)
    )


def toml_value(value: Any) -> str:
    """A field's value as a TOML file writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return f"{value:_}" if value >= 10_000 else str(value)
    return json.dumps(value)


def notes_of(machine: Machine, given: Mapping[str, str] | None = None) -> dict[str, Note]:
    """Where every value of a machine is from; ``given``: sources of changed ones, by field, that are known from elsewhere."""
    out: dict[str, Note] = {}
    for path, value in flat_fields(machine).items():
        note = machine_notes()[path]
        if path == "name":
            continue
        if value == note.paper:
            out[path] = Note(note.about.kind, note.about.source)
        else:
            source = f"{given[path]}; " if given and given.get(path) else ""
            out[path] = Note("changed", f"{source}{PAPER}: {value_text(note.paper)} ({_origin(note.about)})")
    return out


def _origin(about: About) -> str:
    """``paper, table IV``; ``assumption: literal reading of figure 5``."""
    if about.kind == "paper":
        return f"paper, {about.source}"
    return f"{about.kind}: {about.source}" if about.source else about.kind


def machine_file(machine: Machine, name: str) -> str:
    """A commented description: for every field its meaning, unit, range, and the paper's machine's value with its source."""
    lines = [
        "# A machine for `sasc compile --machine`. A field that you delete has the value of the machine that `extends` names.",
        f"# Comments: what a field means [its unit], what it may hold; its value in {PAPER}, the paper's machine, and where that is from.",
        f'extends = "{PAPER}"',
    ]
    section = ""
    for path, value in flat_fields(machine).items():
        head, _, leaf = path.rpartition(".")
        if head != section:
            section = head
            lines += ["", *_comment(type(getattr(machine, head)).__doc__ or ""), f"[{head}]"]
        note = machine_notes()[path]
        meaning, unit = note.about.meaning, f" [{note.about.unit}]" if note.about.unit else ""
        lines += ["", *_comment(f"{meaning[:1].upper()}{meaning[1:]}{unit}. {note.wanted[:1].upper()}{note.wanted[1:]}.")]
        if path == "name":
            value = name
        else:
            lines += _comment(f"{PAPER}: {toml_value(note.paper)} ({_origin(note.about)})")
        lines.append(f"{leaf} = {toml_value(value)}")
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    how: dict[str, Any] = {"initial_indent": "# ", "subsequent_indent": "# ", "break_on_hyphens": False}
    return textwrap.wrap(" ".join(text.split()), 120, **how)


def machine_table() -> str:
    """The fields as a Markdown table, for the documentation."""
    lines = ["| field | paper's machine | source | meaning |", "|---|---|---|---|"]
    for path, note in machine_notes().items():
        unit = f" [{note.about.unit}]" if note.about.unit else ""
        source = "" if path == "name" else _origin(note.about)
        lines.append(f"| `{path}` | {value_text(note.paper)} | {source} | {note.about.meaning}{unit}; {note.wanted} |")
    return "\n".join(lines) + "\n"
