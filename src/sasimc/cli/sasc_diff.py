"""``sasc energy`` and ``sasc diff``: what a run cost, and two runs side by side."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sasimc.cli.common import console, require_writable, write_json

if TYPE_CHECKING:
    from sasimc.evaluation.text import Table

__all__ = ["print_tables", "register"]

_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}

_TECHNOLOGY = "Memory technology: sas, sot, stt, sram, or a .toml file; default: the run's"
_INTERPRETATION = "Interpretation of the circuit figures (`sasc energy` lists them); default: the run's"
_CIRCUIT = "Circuit figures (TOML); default: table IV of the paper"


def print_tables(tables: Iterable[Table]) -> None:
    """Print tables, an empty line between them."""
    for i, table in enumerate(tables):
        for line in ([""] if i else []) + table.lines():
            console.print(line, **_PLAIN)


def energy(
    report: Annotated[Path, typer.Argument(help="Report of a run (sasrun --report)")],
    technology: Annotated[str | None, typer.Option(help=_TECHNOLOGY)] = None,
    interpretation: Annotated[str | None, typer.Option(help=_INTERPRETATION)] = None,
    circuit: Annotated[Path | None, typer.Option(help=_CIRCUIT)] = None,
    nodes: Annotated[int, typer.Option(help="ONNX nodes listed; 0: all")] = 20,
    json: Annotated[Path | None, typer.Option("--json", help="Write everything as JSON (docs/reports.md)")] = None,
) -> None:
    """Energy, latency and area of a run, by phase, component, ONNX node and instruction, and what each figure rests on."""
    from sasimc.costs import cost_of_report
    from sasimc.evaluation.text import cost_tables

    require_writable(json)
    cost = cost_of_report(report, technology, interpretation, circuit)
    print_tables(cost_tables(cost, nodes or None))
    console.print()
    for text in cost.model.warnings():
        console.print(f"warning: {text}", **_PLAIN)
    for text in cost.model.notes():
        console.print(f"note: {text}", **_PLAIN)
    if json:
        write_json(json, cost.as_dict())


def diff(
    a: Annotated[Path, typer.Argument(help="Report of a run (sasrun --report)")],
    b: Annotated[Path, typer.Argument(help="Report of another run, or the same one with another technology or interpretation")],
    technology: Annotated[str | None, typer.Option(help=f"{_TECHNOLOGY}; for both")] = None,
    technology_b: Annotated[str | None, typer.Option(help="Memory technology of the second; default: as the first")] = None,
    interpretation: Annotated[str | None, typer.Option(help=f"{_INTERPRETATION}; for both")] = None,
    interpretation_b: Annotated[str | None, typer.Option(help="Interpretation for the second; default: as the first")] = None,
    circuit: Annotated[Path | None, typer.Option(help=_CIRCUIT)] = None,
    circuit_b: Annotated[Path | None, typer.Option(help="Circuit figures of the second; default: as the first")] = None,
    rows: Annotated[int, typer.Option(help="Rows a table; 0: all")] = 20,
    json: Annotated[Path | None, typer.Option("--json", help="Write the comparison as JSON (docs/reports.md)")] = None,
) -> None:
    """Two runs side by side: what differs in program, machine and technology, and what that does to energy, time and area."""
    from sasimc.costs import cost_of_report
    from sasimc.evaluation.diff import compare

    require_writable(json)
    first = cost_of_report(a, technology, interpretation, circuit)
    second = cost_of_report(b, technology_b or technology, interpretation_b or interpretation, circuit_b or circuit)
    found = compare(first, second, (str(a), str(b)))
    console.print(f"a: {a} ({first.model.technology.name})", **_PLAIN)
    console.print(f"b: {b} ({second.model.technology.name})", **_PLAIN)
    console.print()
    print_tables(found.tables(rows or None))
    if json:
        write_json(json, found.as_dict())


def register(app: typer.Typer) -> None:
    """Add both commands."""
    app.command("energy")(energy)
    app.command("diff")(diff)
