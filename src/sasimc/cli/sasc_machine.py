"""``sasc machine``: write a commented description, import NVSim / PIMA-SIM files, show machines and technologies with the source of every number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sasimc.cli.common import console, require_writable
from sasimc.isa.described import parse_toml, read_source
from sasimc.isa.errors import SasError, near
from sasimc.isa.files import write_together
from sasimc.isa.machine import PAPER, Machine, load_machine, shipped_machines

__all__ = ["app", "register"]

_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command("init")
def init_command(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write (TOML); default: print it", show_default=False)
    ] = None,
    base: Annotated[str, typer.Option(help="Machine whose values it begins with: a shipped name or a file")] = PAPER,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file")] = False,
) -> None:
    """Write a commented machine description to change: every field with its meaning, unit, range, and the paper's value with its source."""
    from sasimc.evaluation.machine_notes import machine_file

    machine = load_machine(base)
    if output is None:
        console.print(machine_file(machine, machine.name), end="", **_PLAIN)
        return
    require_writable(output)
    if output.exists() and not force:
        raise SasError(f"{output} exists", hint="--force overwrites it")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", output.stem)[:64] or machine.name
    write_together({output: machine_file(machine, name).encode()})
    console.print(f"wrote {output}: {_in_short(machine)}; change it, then: sasc compile MODEL --machine {output}", **_PLAIN)


@app.command("import")
def import_command(
    files: Annotated[
        list[Path], typer.Argument(help="A .cfg with, if wanted, a .cell and a .pim file; any order", show_default=False)
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Machine description to write (TOML)", show_default=False)
    ] = None,
    technology_out: Annotated[Path | None, typer.Option(help="Technology to write (TOML), from the .cell file")] = None,
    base: Annotated[str, typer.Option(help="Machine that gives what the files do not say: a shipped name or a file")] = PAPER,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not list which settings were used and which were not")] = False,
) -> None:
    """Read NVSim / PIMA-SIM files. The cell file that the .cfg names is looked for beside it.

    Every setting is listed with what became of it; lines that cannot be read are reported with file and line, and nothing is written when a
    value that is needed is among them.
    """
    from sasimc.evaluation.nvsim.importer import import_files, machine_toml, technology_toml

    require_writable(output, technology_out)
    if output is not None and technology_out is not None and output.resolve() == technology_out.resolve():
        raise SasError(f"{output} cannot be machine and technology at once", hint="give another name to --technology-out")
    made = import_files(files, load_machine(base))
    targets: dict[Path, bytes] = {}
    if output is not None:
        targets[output] = machine_toml(made).encode()
    if technology_out is not None:
        targets[technology_out] = technology_toml(made).encode()
    if not targets:
        raise SasError("nothing to write", hint="-o machine.toml, --technology-out technology.toml, or both")
    for finding in made.findings:
        console.print(str(finding), **_PLAIN)
    if not quiet:
        _listed("used:", [(s.place, s.text, what) for s, what in made.used])
        _listed("not used:", [(s.place, s.text, why) for s, why in made.unused])
    write_together(targets)
    if output is not None and made.machine is not None:
        console.print(f"wrote {output}: {_in_short(made.machine)}", **_PLAIN)
    if technology_out is not None and made.technology is not None:
        console.print(f"wrote {technology_out}: {made.technology.kind}, write {made.technology.write_energy}", **_PLAIN)


def _listed(title: str, rows: list[tuple[str, str, str]]) -> None:
    if not rows:
        return
    console.print(title, **_PLAIN)
    wide = [max(len(r[i]) for r in rows) for i in (0, 1)]
    for place, text, what in rows:
        console.print(f"  {place.ljust(wide[0])}  {text.ljust(wide[1])}  {what}", **_PLAIN)


def _in_short(m: Machine) -> str:
    return f"{m.subarrays} sub-arrays of {m.array.rows} x {m.array.bit_columns}, {m.group_size} at once"


@app.command("show")
def show_command(
    what: Annotated[
        str,
        typer.Argument(
            help="A machine or technology: a shipped name (sas28, sas, sot, stt, sram), a .toml file, a program, or a .cfg / .cell"
        ),
    ] = "sas28",
) -> None:
    """Print a machine (hierarchy, capacity, peak rate) or a technology, every field with its source."""
    path = Path(what)
    if path.suffix in (".cfg", ".cell", ".pim"):
        from sasimc.evaluation.nvsim.importer import import_files

        made = import_files([path])
        if made.machine is not None and made.organisation is not None:
            _show_machine(made.machine, {path: source for path, (_, source) in made.organisation.fields.items()})
        if made.technology is not None:
            _show_technology(made.technology)
        return
    if path.suffix in (".s", ".bin"):
        from sasimc.isa.files import load_program

        _show_machine(load_program(path).machine)
        return
    _show_toml(what)


def _show_toml(what: str) -> None:
    from sasimc.evaluation.technologies.load import load_technology
    from sasimc.evaluation.technologies.technology import SHIPPED

    machines = shipped_machines()
    if what in SHIPPED:
        _show_technology(load_technology(what))
    elif what in machines:
        _show_machine(load_machine(what))
    elif not Path(what).exists() and not Path(what).suffix:
        known = [*machines, *SHIPPED]
        raise SasError(f"no machine or technology is called {what!r}", hint=near(what, known) or f"shipped: {', '.join(known)}")
    elif "write_energy" in parse_toml(read_source(what, "machine or technology")):
        _show_technology(load_technology(what))
    else:
        _show_machine(load_machine(what))


def _heading(text: str) -> None:
    console.print(f"\n{text}", style="bold", **_PLAIN)


def _show_machine(m: Machine, given: Mapping[str, str] | None = None) -> None:
    """``given``: sources of fields that an import knows."""
    from sasimc.evaluation.machine_notes import flat_fields, notes_of, value_text
    from sasimc.evaluation.quantity import format_si

    a, act = m.array, m.activation
    cells = m.group_size * a.bit_columns
    console.print(f"machine {m.name}", style="bold", **_PLAIN)
    for name, value in (
        ("chip", f"{a.banks[0]} x {a.banks[1]} banks of {a.mats[0]} x {a.mats[1]} MATs: {m.subarrays} sub-arrays"),
        (
            "sub-array",
            f"{a.rows} word lines x {a.bit_columns} bit columns: {a.rows * m.weights_per_row} weights of {a.weight_bits} bit",
        ),
        (
            "capacity",
            f"{format_si(m.capacity_bits / 8, 'B')} = {m.capacity_bits / 8 / 2**20:.3g} MiB = {m.capacity_bits // a.weight_bits} weights",
        ),
        (
            "at once",
            f"{act.banks[0]} x {act.banks[1]} banks, {act.mats[0]} x {act.mats[1]} MATs in each: {m.group_size} sub-arrays, one word line in each",
        ),
        (
            "rule",
            f"{act.rule}: "
            + (f"{m.groups} activation groups take turns" if act.rule == "row" else "any banks, any MATs in them"),
        ),
        ("clock", format_si(m.clock_hz, "Hz")),
        (
            "peak",
            f"{format_si(cells * m.clock_hz, 'OPS')} of one bit, {format_si(cells * m.clock_hz / a.weight_bits**2, 'MAC')}/s of 8 bit x 8 bit",
        ),
        ("buffer", f"{format_si(m.buffer.bytes, 'B')}, {m.buffer.bytes_per_cycle} bytes a cycle"),
        ("accumulators", f"{m.accumulator.entries} of {m.accumulator.bits} bit"),
        ("row write", f"{m.write.cycles_per_row} cycles = {format_si(m.write.cycles_per_row / m.clock_hz, 's')}"),
        ("host", f"{format_si(m.host.bytes_per_cycle * m.clock_hz, 'B')}/s, memory {format_si(m.host.memory_bytes, 'B')}"),
    ):
        console.print(f"  {name.ljust(14)}{value}", **_PLAIN)
    notes = notes_of(m, given)
    _heading("fields")
    rows = [("field", "value", "kind", "source")]
    for path, value in flat_fields(m).items():
        note = notes.get(path)
        shown = format_si(m.clock_hz, "Hz") if path == "clock_hz" else value_text(value)
        rows.append((path, shown, note.kind if note else "", note.source if note else ""))
    _table(rows)


def _show_technology(technology: Any) -> None:
    t = technology
    console.print(f"technology {t.name}", style="bold", **_PLAIN)
    console.print(
        f"  {t.kind}, {'non-volatile' if t.non_volatile else 'volatile'}" + (f": {t.description}" if t.description else ""),
        **_PLAIN,
    )
    _heading("figures")
    _table([("field", "value", "kind", "source"), *((n, str(q), q.kind, q.source) for n, q in t.quantities().items())])


def _table(rows: list[tuple[str, str, str, str]]) -> None:
    wide = [max(len(r[i]) for r in rows) for i in range(3)]
    for row in rows:
        console.print("  " + "  ".join(c.ljust(w) for c, w in zip(row[:3], wide, strict=True)) + f"  {row[3]}", **_PLAIN)


def register(parent: typer.Typer) -> None:
    """Add ``machine`` to ``sasc``."""
    parent.add_typer(app, name="machine", help="Write, import and show machines and technologies.")
