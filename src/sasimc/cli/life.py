"""``sasc life``: how long a device lives."""

from __future__ import annotations

from pathlib import Path

import click

from sasimc.cli import options
from sasimc.cli.common import command, require_writable, write_json
from sasimc.cli.options import Choice, File, argument, option
from sasimc.cli.progress import progress
from sasimc.cli.tables import print_tables, say

__all__ = ["life"]


@command("life")
@argument("run", "Report of a run (sasrun --json FILE).", type=File())
@option(
    "--technology", "technologies", section="Prices", type=Choice("sasimc.isa.choices:TECHNOLOGIES", "FILE"), multiple=True, default=("sas", "sot", "stt"),
    show_default="sas, sot, stt", help="Memory technology (may be repeated): a shipped one, a TOML file or an NVSim .cell file.",
)  # fmt: skip
@option(
    "--runs-per-day", section="Use", type=click.FloatRange(0), show_default="one after the other",
    help="How often the device does what this run did.",
)  # fmt: skip
@option(
    "--code", "codes", section="Use", type=Choice("sasimc.evaluation.questions.life:CODES"), multiple=True, show_default="all three", help="Error-correcting code of 64-bit words (may be repeated).",
)  # fmt: skip
@option(
    "--scrub-hours",
    "scrub",
    section="Use",
    metavar="HOURS",
    type=click.FloatRange(0),
    default=24.0,
    help="Time between scrubbings of words with a code; 0: none.",
)
@option("--nominal", section="Use", is_flag=True, help="All cells alike, without the variation of the stack.")
@option(
    "--level", section="Use", type=Choice("sasimc.isa.choices:LEVELS"), default="none",
    help="Share the writes of these rows out among them.",
)  # fmt: skip
@options.interpretation
@options.circuit
@options.json_file()
@options.isa
def life(
    run: Path, technologies: tuple[str, ...], runs_per_day: float | None, codes: tuple[str, ...], scrub: float, nominal: bool, level: str,
    interpretation: str | None, circuit: Path | None, json_file: Path | None,
) -> None:  # fmt: skip
    """Show how long a device lives that does what a run did, again and again.

    The time until half of all devices have lost a word that their code cannot correct, by endurance, retention and read disturb."""
    from sasimc.costs import cost_of_report
    from sasimc.evaluation.quantity import format_si
    from sasimc.evaluation.questions.life import CODES, Duty, as_dict, life_table
    from sasimc.evaluation.questions.life import life as life_of
    from sasimc.evaluation.questions.use import flips, rows_of

    require_writable(json_file)
    found, notes = [], []
    for name in technologies:
        cost = cost_of_report(run, name, interpretation, circuit)
        memory, rows = cost.model.technology, rows_of(cost, level == "scratch")
        with progress(f"cells of {memory.name}"):
            cells = flips(memory, variation=not nominal)
        each = runs_per_day / 86400 if runs_per_day is not None else 1 / max(cost.run.seconds, 1e-12)
        for code in codes or CODES:
            duty = Duty(each, CODES[code], 3600 * scrub if code != "none" else 0.0)
            found.append((memory.name, code, life_of(rows, cells, memory.endurance.si, duty)))
        bits = sum(r.count * r.bits for r in rows)
        notes.append(f"{memory.name}: endurance {memory.endurance} ({memory.endurance.kind}); in the mean a cell at rest turns round {cells.mean[0]:.3g} times a "
                     f"second, by a read with {cells.mean[1]:.3g} ({cells.source}); scrubbing reads {format_si(bits * memory.read_energy.si, 'J')} a time")  # fmt: skip
    print_tables(life_table(found))
    say()
    for note in notes:
        say(note)
    if json_file:
        write_json(
            json_file, {"lives": [as_dict(*x) for x in found], "runs_per_day": runs_per_day, "scrub_hours": scrub, "level": level}
        )
