"""``sasc energy`` and ``sasc diff``: what a run cost, and two runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sasimc.cli import options
from sasimc.cli.common import command, require_package, require_writable, write_json
from sasimc.cli.options import File, argument, option
from sasimc.cli.tables import print_tables, say
from sasimc.isa.errors import SasError, near

if TYPE_CHECKING:
    from sasimc.evaluation.baseline.item import Item
    from sasimc.evaluation.cost import CostModel

__all__ = ["diff", "energy"]


@command("energy")
@argument("run", "Report of a run (sasrun --json FILE).", type=File())
@options.technology(None)
@options.interpretation
@options.circuit
@option(
    "--set",
    "settings",
    section="Prices",
    metavar="NAME=VALUE",
    multiple=True,
    help="What if a number of the technology or circuit file were another (circuit.adder_tree.energy=800pJ)? A range (400pJ..1.2nJ), once, gives a curve.",
)
@option(
    "--baseline",
    section="Prices",
    nargs=2,
    metavar="TOOL WHERE",
    help="Compare component by component with another tool: `nvsim-result FILE` (what NVSim printed), `hwcomponents NM` (if installed, at that node).",
)
@option("--fill", section="Prices", is_flag=True, help="Take the baseline's figures in place of ours, where they fill one.")
@options.rows("ONNX nodes listed")
@options.json_file()
@option(
    "--plot",
    section="Output",
    type=File(),
    help="Draw what the energy owes to each assumption, or the curve of a range (.svg or .png).",
)
@options.isa
def energy(
    run: Path, technology: str | None, interpretation: str | None, circuit: Path | None, settings: tuple[str, ...],
    baseline: tuple[str, str] | None, fill: bool, rows: int, json_file: Path | None, plot: Path | None,
) -> None:  # fmt: skip
    """Show the energy, latency and area of a run.

    By phase, component, ONNX node and instruction, with the source of each figure and the range that the assumptions leave."""
    from sasimc.costs import cost_of_report
    from sasimc.evaluation.baseline.item import baseline_table, filled
    from sasimc.evaluation.ranges import assigned, curve, parse_setting
    from sasimc.evaluation.run_figures import figures
    from sasimc.evaluation.text import cost_tables, curve_table

    require_writable(json_file, plot)
    if plot is not None:
        require_package("matplotlib", "--plot", "plots")
    cost = cost_of_report(run, technology, interpretation, circuit)
    model, span = cost.model, None
    for name, ends in map(parse_setting, settings):
        if len(ends) == 1:
            model = assigned(model, name, ends[0])
        elif span is None:
            span = name, ends
        else:
            raise SasError("one --set with a range at a time", hint=f"{span[0]} has one already")
    items: list[Item] = []
    if baseline is not None:
        items = _items(model, *baseline)
        model = filled(model, items) if fill else model
    elif fill:
        raise SasError("--fill needs --baseline", hint="--baseline nvsim-result FILE --fill")
    cost = model.cost(cost.run)
    found = None if span is None else curve(model, *span, lambda m: {f.name: f for f in figures(m, cost.run, cost.totals)})
    tables = [*cost_tables(cost, rows or None), *([curve_table(found)] if found else [])]
    if baseline is not None:
        what = f"{baseline[0]} beside ours{', taken in place of ours' if fill else ''}"
        tables.append(baseline_table(model, items, what, lambda m: m.energy(cost.totals, cost.run.cycles)))
    print_tables(*tables)
    if plot is not None:
        from sasimc.evaluation.pictures import draw_curve, draw_tornado
        from sasimc.isa.files import write_atomically

        picture = draw_curve(found, plot.suffix) if found else draw_tornado(cost, plot.suffix)
        write_atomically(plot, picture)
    say()
    for text in cost.model.warnings():
        say(f"warning: {text}")
    for text in cost.notes():
        say(f"note: {text}")
    if json_file:
        write_json(
            json_file,
            cost.as_dict()
            | ({"curve": found.as_dict()} if found else {})
            | ({"baseline": [i.as_dict() for i in items]} if items else {}),
        )


def _items(model: CostModel, tool: str, where: str) -> list[Item]:
    """The figures of another tool; ``where``: its file, or a node in nm."""
    if tool == "nvsim-result":
        from sasimc.evaluation.baseline.nvsim_result import nvsim_items, read_result

        return list(nvsim_items(model, read_result(where)))
    if tool == "hwcomponents":
        from sasimc.evaluation.baseline.hwcomponents import hwcomponents_items

        if not where.replace(".", "", 1).isdecimal() or not float(where):
            raise SasError(f"{where!r} is no node", hint="--baseline hwcomponents 28: nanometres")
        return list(hwcomponents_items(model, float(where)))
    raise SasError(
        f"no baseline is called {tool!r}",
        hint=near(tool, ("nvsim-result", "hwcomponents")) or "nvsim-result FILE or hwcomponents NM",
    )


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
