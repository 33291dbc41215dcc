"""``sasc energy`` and ``sasc diff``: what a run cost, and two runs side by side."""

from __future__ import annotations

from pathlib import Path

from sasimc.cli import options
from sasimc.cli.common import command, require_writable, write_json
from sasimc.cli.options import File, argument, option
from sasimc.cli.tables import print_tables, say
from sasimc.isa.errors import SasError

__all__ = ["diff", "energy"]


@command("energy")
@argument("run", "Report of a run (sasrun --json FILE).", type=File())
@options.technology(None)
@options.interpretation
@options.circuit
@options.rows("ONNX nodes listed")
@options.json_file()
@options.isa
def energy(
    run: Path, technology: str | None, interpretation: str | None, circuit: Path | None, rows: int, json_file: Path | None
) -> None:
    """Show the energy, latency and area of a run.

    By phase, component, ONNX node and instruction, with the source of each figure."""
    from sasimc.costs import cost_of_report
    from sasimc.evaluation.text import cost_tables

    require_writable(json_file)
    cost = cost_of_report(run, technology, interpretation, circuit)
    print_tables(*cost_tables(cost, rows or None))
    say()
    for text in cost.model.warnings():
        say(f"warning: {text}")
    for text in cost.model.notes():
        say(f"note: {text}")
    if json_file:
        write_json(json_file, cost.as_dict())


@command("diff")
@argument("a", "Report of a run (sasrun --json FILE).", type=File())
@argument("b", "Report of another run, or the same one with another technology or interpretation.", type=File())
@options.technology(None)
@options.technology(None, name="--technology-b", what="Memory technology of the second run.")
@options.interpretation
@option(
    "--interpretation-b", section="Prices", metavar="NAME", show_default="as the first", help="Interpretation for the second run."
)
@options.circuit
@option("--circuit-b", section="Prices", type=File(), show_default="as the first", help="Circuit figures of the second run.")
@options.rows("Rows of a table")
@options.json_file("the comparison")
@option("--html", section="Output", type=File(), help="Write the comparison as one HTML page, which needs no network.")
@options.isa
def diff(
    a: Path, b: Path, technology: str | None, technology_b: str | None, interpretation: str | None, interpretation_b: str | None,
    circuit: Path | None, circuit_b: Path | None, rows: int, json_file: Path | None, html: Path | None,
) -> None:  # fmt: skip
    """Compare the energy, time and area of two runs.

    Shows what differs in program, machine and technology, and what that changes."""
    from sasimc.costs import cost_of_report
    from sasimc.evaluation.diff import compare

    require_writable(json_file, html)
    if html is not None and html.resolve() in (a.resolve(), b.resolve()):
        raise SasError(f"{html} would overwrite a run's report", hint="give another name with --html")
    first = cost_of_report(a, technology, interpretation, circuit)
    second = cost_of_report(b, technology_b or technology, interpretation_b or interpretation, circuit_b or circuit)
    found = compare(first, second, (str(a), str(b)))
    say(f"a: {a} ({first.model.technology.name})")
    say(f"b: {b} ({second.model.technology.name})")
    say()
    print_tables(*found.tables(rows or None))
    if json_file:
        write_json(json_file, found.as_dict())
    if html:
        from sasimc.evaluation.report.compare import compare_page
        from sasimc.isa.files import write_atomically

        write_atomically(html, compare_page(found, (first, second)).encode())
        say(f"wrote {html}")
