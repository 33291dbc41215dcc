"""``sasc operate``: operating points of a write."""

from __future__ import annotations

import os
from pathlib import Path

from sasimc.cli import options
from sasimc.cli.common import command, require_writable, write_json
from sasimc.cli.options import AtLeast, Choice, option
from sasimc.cli.progress import progress
from sasimc.cli.tables import print_tables, say

__all__ = ["operate"]


@command("operate")
@options.technology("sas", section="Junction", what="Technology with free layers.")
@option("--stack", section="Junction", metavar="NAME", show_default="the technology's", help="Free layer: z, x, prototype, ...")
@option(
    "--method", section="Junction", type=Choice("sasimc.evaluation.device.write:METHODS"), default="sas", help="Way of writing."
)
@option("--row-bits", section="Junction", type=AtLeast(1), default=512, help="Bits that are written together.")
@option("--all", "every", section="Output", is_flag=True, help="Also points that another beats.")
@options.seed("Seed of the simulated writes.", "Simulation")
@options.threads
@options.json_file()
def operate(
    technology: str,
    stack: str | None,
    method: str,
    row_bits: int,
    every: bool,
    seed: int,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Show how cheap a write may be, and what is done about its errors.

    Energy, error and latency of pulses, with write-verify, error-correcting codes and approximate low-order bits."""
    from sasimc.evaluation.device.equal import equal_error_curve
    from sasimc.evaluation.device.read import read_margin
    from sasimc.evaluation.questions.operating import Access, as_dict, front, operating_points, operating_table
    from sasimc.evaluation.technologies.load import load_technology

    require_writable(json_file)
    found = load_technology(technology)
    name, layer = found.stack(stack)
    resistances, workers = found.resistances, threads or os.cpu_count() or 1
    with progress("loading the simulator") as show:

        def watch(done: int, total: int) -> None:
            show(f"simulating pulse {done + 1} of {total}", done / total)

        curve = equal_error_curve(layer, method, resistances, seed=seed, threads=workers, watch=watch)  # type: ignore[arg-type]
        margin = read_margin(layer, resistances, seed=seed)
    pulses = [Access(p.error_rate, p.energy, p.write.latency) for p in curve.points]
    points = list(operating_points(pulses, Access(margin.error_rate, found.read_energy.si, found.read_latency.si), row_bits))
    shown = points if every else front(points)
    say(f"technology {found.name}, stack {name}: {layer.description}")
    print_tables(operating_table(method, shown))
    say()
    say("for runs: sasrun --bit-error-rate write=ERROR, with the error of a bit; codes do not protect products")
    if json_file:
        write_json(json_file, {"technology": found.name, "stack": name, "method": method, "points": [as_dict(p) for p in points],
                               "front": [as_dict(p) for p in front(points)]})  # fmt: skip
