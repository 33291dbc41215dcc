"""Import of NVSim and PIMA-SIM files: machine and technology descriptions as TOML text, with the source of every field.

Nothing is dropped silently: settings that went nowhere, and lines that could not be read, are listed with file and line, on the terminal
and at the end of the written file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sasimc.evaluation.circuit.unprinted import AddOn
from sasimc.evaluation.machine_notes import toml_value
from sasimc.evaluation.nvsim.addons import add_ons
from sasimc.evaluation.nvsim.cells import CellImport, import_cell
from sasimc.evaluation.nvsim.organisation import Organisation, organise, validated
from sasimc.evaluation.nvsim.reader import SUFFIXES, Document, Setting, read
from sasimc.evaluation.quantity import Quantity
from sasimc.evaluation.technologies.technology import Technology
from sasimc.isa.errors import Diagnostic, DiagnosticsError, SasError
from sasimc.isa.machine import Machine, load_machine

__all__ = ["Imported", "import_files", "machine_toml", "technology_toml"]

FIGURES_NM: Final = 28
"""Node of table IV."""


@dataclass(frozen=True)
class Imported:
    """What the files became. ``machine`` is None without a ``.cfg``, ``technology`` without a ``.cell``.

    ``used`` and ``unused`` are all settings of all files in their order, with what each became or why it is not used; ``findings`` are
    warnings about lines.
    """

    documents: tuple[Document, ...]
    machine: Machine | None
    organisation: Organisation | None
    technology: Technology | None
    add_ons: Mapping[str, AddOn]
    used: tuple[tuple[Setting, str], ...]
    unused: tuple[tuple[Setting, str], ...]
    findings: tuple[Diagnostic, ...]


def import_files(paths: Sequence[Path], base: Machine | None = None) -> Imported:
    """Read one file of each kind, and the cell file that the ``.cfg`` names if none is given.

    Args:
        paths: ``.cfg``, ``.cell`` and ``.pim`` files in any order, at most one of each kind.
        base: the machine that gives what the files do not say; default: the paper's.

    Raises:
        SasError: unreadable files; every value that could not be read, or that contradicts another, with file and line.
    """
    documents: dict[str, Document] = {}
    for path in paths:
        document = read(path)
        if document.kind in documents:
            raise SasError(
                f"two {document.kind} files: {documents[document.kind].path} and {document.path}", hint="one at a time"
            )
        documents[document.kind] = document
    if not documents:
        raise SasError("nothing to import", hint=f"give files that end in {', '.join(SUFFIXES)}")
    cfg, cell, pim = (documents.get(suffix) for suffix in SUFFIXES)
    findings: list[Diagnostic] = []
    if cfg is not None and cell is None:
        cell = _named_cell(cfg, findings)
        if cell is not None:
            documents[".cell"] = cell
    ordered = tuple(d for s in SUFFIXES if (d := documents.get(s)) is not None)
    findings = [f for d in ordered for f in d.findings] + findings
    if errors := [f for f in findings if f.severity == "error"]:
        raise DiagnosticsError(errors)
    organisation = machine = None
    used: dict[str, Setting] = {}
    if cfg is not None:
        organisation = organise(cfg, cell, pim, base or load_machine(), cfg.path.stem)
        machine = validated(organisation, str(cfg.path))
        findings += organisation.findings
        used |= organisation.used
        _kind_of_memory(cfg, used, findings)
    made: CellImport | None = None
    if cell is not None:
        made = import_cell(cell, cfg, pim)
        used |= made.used
        if (named := cfg.get("MemoryCellInputFile") if cfg else None) is not None:
            used[named.key.name] = named
    added: dict[str, AddOn] = {}
    if pim is not None:
        added, from_pim = add_ons(pim)
        used |= from_pim
    findings += _nodes(cfg, cell)
    settings = [s for d in ordered for s in sorted(d.settings.values(), key=lambda s: s.span.line)]
    taken = [(s, s.key.use) for s in settings if used.get(s.key.name) is s]
    left = [(s, s.key.reason or _why_not(s)) for s in settings if used.get(s.key.name) is not s]
    technology = made.technology if made is not None else None
    return Imported(ordered, machine, organisation, technology, added, tuple(taken), tuple(left), tuple(findings))


def _nodes(cfg: Document | None, cell: Document | None) -> list[Diagnostic]:
    """Nodes that differ from one another or from that of the circuit figures, whose prices the machine gets."""
    out: list[Diagnostic] = []
    found = [s for d in (cfg, cell) if d is not None and (s := d.get("ProcessNode")) is not None]
    if len(found) == 2 and found[0].number != found[1].number:
        out.append(
            Diagnostic(
                f"the cell is of {found[1].text} nm and the memory of {found[0].text} nm", found[1].span, severity="warning"
            )
        )
    if found and found[0].number != FIGURES_NM:
        hint = f"the shipped circuit figures are of {FIGURES_NM} nm and are not scaled; `sasc energy --circuit` takes yours, --baseline compares with NVSim's own"
        out.append(
            Diagnostic(
                f"what is of {found[0].text} nm is priced beside circuits of {FIGURES_NM} nm",
                found[0].span,
                hint=hint,
                severity="warning",
            )
        )
    return out


def _kind_of_memory(cfg: Document, used: dict[str, Setting], findings: list[Diagnostic]) -> None:
    target = cfg.get("DesignTarget")
    if target is None:
        return
    used[target.key.name] = target
    if target.text.lower() != "ram":
        findings.append(
            Diagnostic(f"a {target.text} is read as a memory; tags and ways are left out", target.span, severity="warning")
        )


def _why_not(s: Setting) -> str:
    if s.key.name == "MemoryCellInputFile":
        return "the cell file was not found"
    return f"not needed: another setting already gives the {s.key.use}, or one that belongs to it is missing"


def _named_cell(cfg: Document, findings: list[Diagnostic]) -> Document | None:
    named = cfg.get("MemoryCellInputFile")
    if named is None:
        return None
    path = cfg.path.parent / named.text.replace("\\", "/")
    if path.suffix.lower() != ".cell" or not path.is_file():
        hint = "put it beside the .cfg, or give it as another file"
        findings.append(Diagnostic(f"the cell file {named.text} is not there", named.span, hint=hint, severity="warning"))
        return None
    return read(path)


def _heading(made: Imported, what: str) -> list[str]:
    names = ", ".join(d.path.name for d in made.documents)
    return [
        f"# {what} imported from {names} by `sasc machine import`.",
        "# D = derived, A = assumption; otherwise file:line and key.",
    ]


def _tail(made: Imported, *kinds: str) -> list[str]:
    """What files of these kinds say that went nowhere."""
    files = {str(d.path) for d in made.documents if d.kind in kinds}
    out: list[str] = []
    if unused := [(s, why) for s, why in made.unused if s.span.file in files]:
        out += ["", "# Not used:"]
        out += [f"#   {s.place} = {s.text}: {why}" for s, why in unused]
    if findings := [(f.message, f.span) for f in made.findings if f.span is not None and f.span.file in files]:
        out += ["", "# Read with these findings:"]
        out += [f"#   {Path(span.file).name}:{span.line}: {message}" for message, span in findings]
    return [line.translate(dict.fromkeys(range(32), " ") | {127: " "}) for line in out]


def machine_toml(made: Imported) -> str:
    """The machine description as a TOML file, every field with its source."""
    if made.organisation is None:
        raise SasError("a machine needs a .cfg file", hint="a .cell file makes a technology: --technology-out FILE.toml")
    lines = _heading(made, "A machine")
    section = ""
    for path, (value, source) in made.organisation.fields.items():
        head, _, leaf = path.rpartition(".")
        if head != section:
            lines += ["", f"[{head}]"]
            section = head
        text = f"{leaf} = {toml_value(value)}"
        lines.append(f"{text.ljust(38)} # {source}" if source else text)
    return "\n".join(lines + _tail(made, ".cfg", ".pim")) + "\n"


def technology_toml(made: Imported) -> str:
    """The technology as a TOML file, every quantity with its source."""
    tech = made.technology
    if tech is None:
        raise SasError(
            "a technology needs a .cell file", hint="name it in the .cfg (MemoryCellInputFile) or give it as another file"
        )
    lines = _heading(made, "A technology")
    for name in type(tech).model_fields:
        value = getattr(tech, name)
        if isinstance(value, Quantity):
            ends = "".join(f"{end} = {at!r}, " for end in ("low", "high") if (at := getattr(value, end)) is not None)
            lines.append(
                f"{name} = {{value = {value.value!r}, {ends}unit = {json.dumps(value.unit)}, kind = {json.dumps(value.kind)}, "
                f"source = {json.dumps(value.source, ensure_ascii=False)}}}"
            )
        elif value is not None:
            lines.append(f"{name} = {toml_value(value)}")
    return "\n".join(lines + _tail(made, ".cell")) + "\n"
