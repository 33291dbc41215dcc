"""``sasc mtj``: figures of the magnetic tunnel junction beside the paper's."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from sasimc.cli import options
from sasimc.cli.common import command, require_package, require_suffix, require_writable, write_json
from sasimc.cli.options import AtLeast, Choice, File, option
from sasimc.cli.progress import counted, progress
from sasimc.cli.tables import print_tables, say
from sasimc.isa.errors import SasError

__all__ = ["mtj"]

MOST_WRITES = 10_000_000


@command("mtj")
@options.technology("sas", section="Junction", what="Technology with free layers.")
@option("--stack", section="Junction", metavar="NAME", show_default="the technology's", help="Free layer: z, x, prototype, ...")
@option("--writes", section="Simulation", type=AtLeast(1), default=10_000, help="Simulated writes of each method.")
@option(
    "--sweep", section="Simulation", type=AtLeast(0), default=0,
    help="Also simulate this many writes at each of six values of every current and time; 0: none.",
)  # fmt: skip
@options.seed("Seed of data, thermal field and variation.", "Simulation")
@options.threads
@options.json_file()
@option(
    "--calibrate", section="Simulation", type=File(), help="Fit declared free fields of the stack to the measured figures of this file (.toml), and report with them.",
)  # fmt: skip
@option("--cell", section="Output", type=File(), help="Write the cell in NVSim's format.")
@option("--method", section="Output", type=Choice(("sas", "sot", "stt")), default="sas", help="Way of writing of --cell.")
@option("--plot", section="Output", type=File(), help="Draw trajectories, loop, margins and the sweep to .png, .svg or .pdf.")
def mtj(
    technology: str,
    stack: str | None,
    writes: int,
    sweep: int,
    seed: int,
    threads: int,
    json_file: Path | None,
    calibrate: Path | None,
    cell: Path | None,
    method: Any,
    plot: Path | None,
) -> None:
    """Simulate writing, retaining and reading of a junction.

    A magnetic tunnel junction on its heavy-metal line.

    Integrates the Landau-Lifshitz-Gilbert equation with a thermal field. Writes random bits as SAS (SOT pulse, then STT currents), with STT
    alone and with SOT alone, and prints energy, latency, error rates, retention, the resistance loop and the read margin beside the paper's.
    """
    if max(writes, sweep) > MOST_WRITES:
        raise SasError(f"at most {MOST_WRITES} writes are simulated at once", hint="other seeds (--seed) give other writes")
    if plot is not None:
        require_suffix(plot, ".png", ".svg", ".pdf")
        require_package("matplotlib", "--plot", "plots")
    if cell is not None:
        require_suffix(cell, ".cell")
    require_writable(json_file, plot, cell)
    from sasimc.evaluation.device.figures import device_report, write_sweeps
    from sasimc.evaluation.quantity import format_si
    from sasimc.evaluation.table import Table
    from sasimc.evaluation.technologies.load import load_technology
    from sasimc.isa.files import write_atomically

    found, workers = load_technology(technology), threads or os.cpu_count() or 1
    fit = None
    if calibrate is not None:
        from sasimc.evaluation.device.calibrate import calibrate as calibrated
        from sasimc.evaluation.device.calibrate import load_calibration

        wanted, (stack, layer) = load_calibration(calibrate), found.stack(stack)
        with progress("fitting"):
            fit = calibrated(layer, found.resistances, wanted, seed=seed, threads=workers)
        found = found.model_copy(update={"stacks_of": "", "stacks": {stack: fit.stack}, "default_stack": stack})
    with progress("loading the simulator") as show:
        watch = counted(lambda text, done=None: show(f"simulating {text}", done))
        report = device_report(found, stack, writes=writes, seed=seed, threads=workers, watch=watch)
        sweeps = write_sweeps(found, stack, writes=sweep, seed=seed, threads=workers, watch=watch) if sweep else []
        picture = None
        if plot is not None:
            from sasimc.evaluation.device.plots import plot_device

            show("drawing")
            picture = plot_device(report, sweeps, plot.suffix)
    say(f"technology {report.technology}, stack {report.stack_name}: {report.stack.description}")
    rows = [
        (f.name, str(f), "" if f.paper is None else str(f.paper), "" if f.ratio is None else f"{f.ratio:.3g}", f.how)
        for f in report.figures
    ]
    print_tables(Table("", ("figure", "ours", "paper", "ratio", "how"), rows, (0, 1, 2, 3, 4)))
    if fit is not None:
        _print_fit(fit)
    _print_curves(report)
    for d in report.infeasible:
        say(f"warning: {d.what}: {format_si(d.value, d.unit)}, limit {format_si(d.limit, d.unit)}; change {d.change}")
    if sweeps:
        say("\nwrite error rate against the value over the pulse's own")
        for s in sweeps:
            cells = (f"{format_si(v, s.unit)}: {o.error_rate:.2g}" for v, o in zip(s.values, s.outcomes, strict=True))
            say(f"  {s.method} {s.field}: {', '.join(cells)}")
    say(f"\nfor runs: sasrun --bit-error-rate {report.bit_error_rate}\n")
    assumed = [(name, str(q), q.source) for name, q in report.assumptions.items()]
    print_tables(Table("assumptions (change them in the technology file)", ("", "value", "source"), assumed, (0, 1, 2)))
    if json_file:
        write_json(json_file, _as_json(report, sweeps, seed, writes))
        say(f"wrote {json_file}")
    if cell is not None:
        from sasimc.evaluation.device.cellfile import cell_text

        write_atomically(cell, cell_text(found, report.stack, method, seed=seed).encode())
        say(f"wrote {cell}")
    if plot is not None and picture is not None:
        write_atomically(plot, picture)
        say(f"wrote {plot}")


def _print_fit(fit: Any) -> None:
    """What was fitted, to what, and how figures depend on it; figures that were not measured are checks."""
    from sasimc.evaluation.table import Table

    rows = [
        (n, f"{fit.before[n]:.4g}", f"{fit.after[n]:.4g}", f"{fit.measured[n]:.4g}" if n in fit.measured else "not fitted",
         ", ".join(f"{field} {v:+.2f}" for field, v in fit.sensitivities[n].items()))
        for n in fit.after
    ]  # fmt: skip
    print_tables(
        Table(
            "fit: " + ", ".join(f"{n} x {f:.4g}" for n, f in fit.factors.items()),
            ("figure", "before", "after", "measured", "sensitivity"),
            rows,
            (0, 1, 2, 3, 4),
        )
    )


def _print_curves(report: Any) -> None:
    """Energy of every way of writing at equal error rates of its worst bit."""
    from sasimc.evaluation.device.equal import TARGETS
    from sasimc.evaluation.quantity import format_si
    from sasimc.evaluation.table import Table

    if report.curves:
        rows = [
            (f"{t:g}", *("-" if math.isnan(e := c.energy(t)) else format_si(e, "J/bit") for c in report.curves.values()))
            for t in TARGETS
        ]
        print_tables(
            Table("write energy at equal error rate of the worst bit", ("error rate", *report.curves), rows, (0, 1, 2, 3))
        )


def _as_json(report: Any, sweeps: list[Any], seed: int, writes: int) -> dict[str, Any]:
    def kept(q: Any) -> dict[str, Any]:
        return {"value": q.value, "unit": q.unit, "kind": q.kind, "source": q.source}

    def outcome(o: Any) -> dict[str, Any]:
        return {
            "bits": o.bits, "errors": o.errors, "error_rate": o.error_rate, "energy_J_per_bit": o.energy, "parts_J_per_bit": o.parts,
            "latency_s": o.write.latency, "by_position": o.by_position.tolist(), "by_phase": o.by_phase,
        }  # fmt: skip

    return {
        "technology": report.technology,
        "stack": report.stack_name,
        "seed": seed,
        "writes": writes,
        "figures": report.rows(),
        "bit_error_rate": report.bit_error_rate,
        "writes_by_method": {method: outcome(o) for method, o in report.outcomes.items()},
        "trajectories": {
            method: {"times": o.motion.times.tolist(), "m": o.motion.path[:4, :, 0].tolist()}
            for method, o in report.outcomes.items()
        },
        "curves": {
            method: [{"error_rate": p.error_rate, "energy_J_per_bit": p.energy, "latency_s": p.write.latency} for p in c.points]
            for method, c in report.curves.items()
        },
        "limits": [{"what": d.what, "value": d.value, "limit": d.limit, "unit": d.unit, "met": d.met} for d in report.demands],
        "loop": {k: getattr(report.loop, k).tolist() for k in ("field", "up", "down")},
        "sweeps": [
            {
                "method": s.method,
                "field": s.field,
                "unit": s.unit,
                "values": s.values,
                "outcomes": [outcome(o) for o in s.outcomes],
            }
            for s in sweeps
        ],
        "assumptions": {name: kept(q) for name, q in report.assumptions.items()},
    }
