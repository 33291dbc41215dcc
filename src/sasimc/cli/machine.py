"""``sasc machine``: write a commented description, import NVSim / PIMA-SIM files, show machines and technologies with the source of every number."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sasimc.cli import options
from sasimc.cli.common import Group, command, require_writable, write_json
from sasimc.cli.options import File, argument, option
from sasimc.cli.tables import print_tables, say
from sasimc.isa.errors import SasError, near

if TYPE_CHECKING:
    from sasimc.isa.machine import Machine

__all__ = ["import_command", "init", "machine", "show"]

machine = Group(
    "machine",
    {
        "Commands": {
            "init": "sasimc.cli.machine:init",
            "show": "sasimc.cli.machine:show",
            "import": "sasimc.cli.machine:import_command",
        }
    },
    help="Write, show and import machines; show technologies.",
)


_base = option(
    "--base",
    section="Machine",
    type=options.MACHINE,
    default=None,
    show_default="the paper's",
    help="Machine that gives the values.",
)


@command("init")
@option("-o", "--output", section="Output", type=File(), show_default="standard output", help="File to write (TOML).")
@option("--force", section="Output", is_flag=True, help="Overwrite the file.")
@_base
def init(output: Path | None, force: bool, base: str | None) -> None:
    """Write a commented machine description to change.

    Every field has its meaning, unit, range, and the paper's value with its source.
    """
    from sasimc.evaluation.machine_notes import machine_file
    from sasimc.isa.files import write_together
    from sasimc.isa.machine import load_machine

    machine = load_machine(base)
    if output is None:
        sys.stdout.write(machine_file(machine, machine.name))
        return
    require_writable(output)
    if output.exists() and not force:
        raise SasError(f"{output} exists", hint="--force overwrites it")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", output.stem)[:64] or machine.name
    write_together({output: machine_file(machine, name).encode()})
    say(f"wrote {output}: {_in_short(machine)}; change it, then: sasc compile MODEL --machine {output}")


@command("import")
@argument("files", "A .cfg, if wanted with a .cell and a .pim file, in any order.", type=File(), nargs=-1, required=True)
@option("-o", "--output", section="Output", type=File(), help="Machine description to write (TOML).")
@option("--technology-out", section="Output", type=File(), help="Technology to write (TOML), from the .cell file.")
@option(
    "--circuit-out",
    section="Output",
    type=File(),
    help="Circuit figures to write (TOML): table IV and the circuits that the .pim file adds.",
)
@option(
    "--base",
    section="Machine",
    type=options.MACHINE,
    show_default="the paper's",
    help="Machine that gives what the files do not say.",
)
@option("--quiet", section="Output", is_flag=True, help="Do not list which settings were used and which were not.")
@options.json_file("settings and findings")
def import_command(
    files: tuple[Path, ...],
    output: Path | None,
    technology_out: Path | None,
    circuit_out: Path | None,
    base: Path | None,
    quiet: bool,
    json_file: Path | None,
) -> None:
    """Read a machine or a technology from NVSim / PIMA-SIM files.

    The cell file that the .cfg names is looked for beside it.

    Every setting is listed with what became of it. Lines that cannot be read are reported with file and line, and nothing is written when a
    value that is needed is among them.
    """
    from sasimc.evaluation.nvsim.addons import circuit_toml
    from sasimc.evaluation.nvsim.importer import import_files, machine_toml, technology_toml
    from sasimc.evaluation.table import Table
    from sasimc.isa.files import write_together
    from sasimc.isa.machine import load_machine

    require_writable(output, technology_out, circuit_out, json_file)
    made = import_files(files, load_machine(base))
    targets: dict[Path, bytes] = {}
    if output is not None:
        targets[output] = machine_toml(made).encode()
    if technology_out is not None:
        targets[technology_out] = technology_toml(made).encode()
    if circuit_out is not None:
        if not made.add_ons:
            raise SasError(
                "no circuit is added", hint="--circuit-out needs a .pim file with Subaddon, Mataddon or Bankaddon components"
            )
        targets[circuit_out] = circuit_toml(
            dict(made.add_ons), re.sub(r"[^A-Za-z0-9_.+-]+", "_", circuit_out.stem)[:64] or "imported"
        ).encode()
    elif made.add_ons:
        say(f"note: {len(made.add_ons)} added circuits of the .pim file go into circuit figures only: --circuit-out FILE.toml")
    if not targets:
        raise SasError("nothing to write", hint="-o machine.toml, --technology-out technology.toml, --circuit-out circuit.toml")
    for finding in made.findings:
        say(str(finding))
    used = [(s.place, s.text, what) for s, what in made.used]
    unused = [(s.place, s.text, why) for s, why in made.unused]
    if not quiet:
        tables = (
            Table("used", ("place", "setting", "for"), used, (0, 1, 2)),
            Table("not used", ("place", "setting", "why"), unused, (0, 1, 2)),
        )
        print_tables(*(table for table in tables if table.rows))
    write_together(targets)
    if output is not None and made.machine is not None:
        say(f"wrote {output}: {_in_short(made.machine)}")
    if circuit_out is not None:
        say(
            f"wrote {circuit_out}: table IV and {len(made.add_ons)} added circuits; price with it: sasc energy RUN --circuit {circuit_out}"
        )
    if technology_out is not None and made.technology is not None:
        say(f"wrote {technology_out}: {made.technology.kind}, write {made.technology.write_energy}")
    if json_file:
        keys = ("place", "setting", "what")
        answer = {
            "findings": [str(finding) for finding in made.findings],
            "used": [dict(zip(keys, row, strict=True)) for row in used],
            "unused": [dict(zip(keys, row, strict=True)) for row in unused],
        }
        write_json(json_file, answer)


def _in_short(m: Machine) -> str:
    return f"{m.subarrays} sub-arrays of {m.array.rows} x {m.array.bit_columns}, {m.group_size} at once"


@command("show")
@argument(
    "what", "A machine or technology: a shipped name (sas28, sas, sot, stt, sram), a .toml file, a program, or a .cfg / .cell; default: sas28.",
    default="sas28",
)  # fmt: skip
@options.json_file("the fields")
def show(what: str, json_file: Path | None) -> None:
    """Show a machine or a technology, every field with its source."""
    require_writable(json_file)
    made = _shown(what)
    if json_file:
        write_json(json_file, made)


def _shown(what: str) -> dict[str, Any]:
    """Show it and return it."""
    from sasimc.evaluation.technologies.load import load_technology
    from sasimc.isa.choices import TECHNOLOGIES
    from sasimc.isa.described import parse_toml, read_source
    from sasimc.isa.machine import load_machine, shipped_machines

    path, machines = Path(what), shipped_machines()
    if path.suffix in (".cfg", ".cell", ".pim"):
        from sasimc.evaluation.nvsim.importer import import_files

        made, answer = import_files([path]), dict[str, Any]()
        if made.machine is not None and made.organisation is not None:
            answer.update(_show_machine(made.machine, {path: source for path, (_, source) in made.organisation.fields.items()}))
        if made.technology is not None:
            answer.update(_show_technology(made.technology))
        return answer
    if path.suffix in (".s", ".bin"):
        from sasimc.isa.files import load_program

        return _show_machine(load_program(path).machine)
    if what in TECHNOLOGIES:
        return _show_technology(load_technology(what))
    if what in machines:
        return _show_machine(load_machine(what))
    if not path.exists() and not path.suffix:
        known = [*machines, *TECHNOLOGIES]
        raise SasError(f"no machine or technology is called {what!r}", hint=near(what, known) or f"shipped: {', '.join(known)}")
    if "write_energy" in parse_toml(read_source(what, "machine or technology")):
        return _show_technology(load_technology(what))
    return _show_machine(load_machine(what))


def _show_machine(m: Machine, given: Mapping[str, str] | None = None) -> dict[str, Any]:
    """``given``: sources of fields that an import knows."""
    from sasimc.evaluation.machine_notes import flat_fields, notes_of, value_text
    from sasimc.evaluation.quantity import format_si
    from sasimc.evaluation.table import Table

    a, act = m.array, m.activation
    cells = m.group_size * a.bit_columns
    say(f"machine {m.name}")
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
        say(f"  {name.ljust(14)}{value}")
    notes = notes_of(m, given)
    rows: list[tuple[str, ...]] = []
    fields: dict[str, Any] = {}
    for path, value in flat_fields(m).items():
        note = notes.get(path)
        shown = format_si(m.clock_hz, "Hz") if path == "clock_hz" else value_text(value)
        rows.append((path, shown, note.kind if note else "", note.source if note else ""))
        fields[path] = {"value": value, "kind": note.kind if note else None, "source": note.source if note else None}
    say()
    print_tables(Table("fields", ("field", "value", "kind", "source"), rows, (0, 1, 2, 3)))
    return {"machine": m.name, "fields": fields}


def _show_technology(technology: Any) -> dict[str, Any]:
    from sasimc.evaluation.table import Table

    t = technology
    say(f"technology {t.name}")
    say(f"  {t.kind}, {'non-volatile' if t.non_volatile else 'volatile'}" + (f": {t.description}" if t.description else ""))
    figures = t.quantities()
    say()
    print_tables(
        Table(
            "figures",
            ("field", "value", "kind", "source"),
            [(n, str(q), q.kind, q.source) for n, q in figures.items()],
            (0, 1, 2, 3),
        )
    )
    return {
        "technology": t.name,
        "figures": {n: {"value": q.value, "unit": q.unit, "kind": q.kind, "source": q.source} for n, q in figures.items()},
    }
