"""``sasc idle``: from which idle time on it pays to be off."""

from __future__ import annotations

from pathlib import Path

from sasimc.cli import options
from sasimc.cli.common import command, require_writable, write_json
from sasimc.cli.options import Choice, File, argument, option
from sasimc.cli.tables import print_tables, say

__all__ = ["idle"]


@command("idle")
@argument("run", "Report of a run (sasrun --json FILE).", type=File())
@options.technology(None)
@option(
    "--against", section="Prices", metavar="TECHNOLOGY", multiple=True, default=("sram",), show_default="sram",
    help="Memory technology to compare with (may be repeated).",
)  # fmt: skip
@options.interpretation
@options.circuit
@option(
    "--power", section="Prices", type=Choice("sasimc.isa.choices:SUPPLIES", "FILE.toml"), default="constant",
    help="Power supply whose wake_energy is spent.",
)  # fmt: skip
@options.json_file()
@options.isa
def idle(
    run: Path, technology: str | None, against: tuple[str, ...], interpretation: str | None, circuit: Path | None, power: str,
    json_file: Path | None,
) -> None:  # fmt: skip
    """Show from which idle time on a memory that needs no power costs less.

    Compares being off with a memory that leaks while it waits, and with one that is loaded again, for an image and for a training step."""
    from sasimc.costs import cost_of_report
    from sasimc.evaluation.questions.idle import Idling, idle_table, ways
    from sasimc.evaluation.supply.supply import load_supply

    require_writable(json_file)
    supply = load_supply(power)
    costs = [cost_of_report(run, name, interpretation, circuit) for name in (technology, *against)]
    found = []
    for entry in costs[0].entries:
        parts = [cost.of_entry(entry) for cost in costs]
        learns, images = any(row.phase != "forward" for row in parts[0].run.rows), parts[0].run.images
        count = int(costs[0].run.report.get("steps") or 0) if learns else images
        if count:
            found.append(
                Idling(
                    "a training step" if learns else "an image", count, tuple(w for c in parts for w in ways(c, supply, count))
                )
            )
    print_tables(*map(idle_table, found))
    say()
    say(f"waking costs {supply.wake_energy} ({supply.wake_energy.kind}); leakage while working is part of a burst")
    if json_file:
        write_json(json_file, {"bursts": [i.as_dict() for i in found]})
