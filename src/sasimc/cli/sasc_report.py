"""``sasc report``: the report of a run as one HTML file and as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sasimc.cli.common import console, require_writable
from sasimc.isa.errors import SasError
from sasimc.isa.files import write_atomically, write_together

__all__ = ["register"]


def report(
    run: Annotated[Path, typer.Argument(help="Report of a run (`sasrun --report FILE.json`)", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="HTML file to write; default: the run's name, ending in .html", show_default=False),
    ] = None,
    technology: Annotated[
        str | None, typer.Option(help="sas, sot, stt, sram, a .toml or an NVSim .cell file; default: the run's")
    ] = None,
    interpretation: Annotated[
        str | None, typer.Option(help="Interpretation of the circuit figures (docs/energy.md); default: the run's")
    ] = None,
    circuit: Annotated[Path | None, typer.Option(help="Circuit figures (TOML); default: table IV")] = None,
    csv: Annotated[Path | None, typer.Option(help="Folder to write every table to, as CSV")] = None,
) -> None:
    """Energy, time, area, floor plan, buffer and training of a run on one page that needs no network (docs/report.md)."""
    from sasimc.costs import cost_of_report
    from sasimc.evaluation.report.content import tables
    from sasimc.evaluation.report.page import page

    target = output or run.with_suffix(".html")
    if target.resolve() == run.resolve():
        raise SasError(f"{target} would overwrite the run's report", hint="give another name with -o")
    require_writable(target, csv / "x" if csv is not None and csv.exists() else csv)
    with console.status("making the report"):
        cost = cost_of_report(run, technology, interpretation, circuit)
        made = tables(cost)
        data = page(cost, made).encode()
    write_atomically(target, data)
    console.print(f"wrote {target} ({len(data) / 1e3:.3g} kB)", highlight=False, markup=False, soft_wrap=True)
    if csv is not None:
        csv.mkdir(exist_ok=True)
        write_together({csv / f"{key}.csv": table.csv().encode() for key, table in made.items()})
        console.print(f"wrote {len(made)} tables to {csv}", highlight=False, markup=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command to ``sasc``."""
    app.command("report")(report)
