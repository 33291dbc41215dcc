"""``sasc report``: a run as one HTML page and as CSV."""

from __future__ import annotations

from pathlib import Path

from sasimc.cli import options
from sasimc.cli.common import command, require_writable
from sasimc.cli.options import File, Folder, argument, option
from sasimc.cli.progress import progress
from sasimc.cli.tables import say
from sasimc.isa.errors import SasError

__all__ = ["report"]


@command("report")
@argument("run", "Report of a run (sasrun --json FILE).", type=File())
@option(
    "-o", "--output", section="Output", type=File(), show_default="the run's name, ending in .html", help="HTML file to write."
)
@option("--csv", section="Output", type=Folder(), help="Folder to write every table to, as CSV.")
@options.technology(None)
@options.interpretation
@options.circuit
@options.isa
def report(
    run: Path, output: Path | None, csv: Path | None, technology: str | None, interpretation: str | None, circuit: Path | None
) -> None:
    """Write a run as one HTML page: energy, time, area, floor plan, buffer, training.

    The page needs no network."""
    from sasimc.costs import cost_of_report
    from sasimc.evaluation.report.content import tables
    from sasimc.evaluation.report.page import page
    from sasimc.isa.files import write_atomically, write_together

    target = output or run.with_suffix(".html")
    if target.resolve() == run.resolve():
        raise SasError(f"{target} would overwrite the run's report", hint="give another name with -o")
    require_writable(target, csv / "x" if csv is not None and csv.exists() else csv)
    with progress("making the report"):
        cost = cost_of_report(run, technology, interpretation, circuit)
        made = tables(cost)
        data = page(cost, made).encode()
    write_atomically(target, data)
    say(f"wrote {target} ({len(data) / 1e3:.3g} kB)")
    if csv is not None:
        csv.mkdir(exist_ok=True)
        write_together({csv / f"{key}.csv": table.csv().encode() for key, table in made.items()})
        say(f"wrote {len(made)} tables to {csv}")
