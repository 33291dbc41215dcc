"""``sasc device``: the device model's figures beside the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sasimc.cli.common import console, require_writable, write_json
from sasimc.isa.errors import SasError
from sasimc.isa.files import write_atomically

__all__ = ["device", "register"]

MOST_WRITES = 10_000_000

_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}


def device(
    technology: Annotated[
        str, typer.Option(help="Technology with free layers: a shipped name (sas, sot, stt) or a TOML file")
    ] = "sas",
    stack: Annotated[
        str | None, typer.Option(help="Free layer of the technology: z, x, prototype, ...; default: the file's")
    ] = None,
    writes: Annotated[int, typer.Option(help="Simulated writes of each method")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of data, thermal field and variation")] = 0,
    threads: Annotated[int, typer.Option(help="Worker threads")] = 2,
    sweep: Annotated[
        int, typer.Option(help="Also simulate this many writes at each of six values of every current and time (0: none)")
    ] = 0,
    json: Annotated[Path | None, typer.Option("--json", help="Write everything as JSON (docs/device.md)")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw trajectories, loop, margins (and the sweep) to .png, .svg or .pdf")
    ] = None,
) -> None:
    """Simulate a junction on its heavy-metal line (Landau-Lifshitz-Gilbert, thermal field): write, retain, read.

    Writes random bits as SAS (SOT pulse, then STT currents), with STT alone and with SOT alone, and prints energy, latency, error
    rates, retention, the resistance loop and the read margin beside what the paper prints.
    """
    for name, value in (("--writes", writes), ("--threads", threads)):
        if value < 1:
            raise SasError(f"{name} {value}: at least 1 is needed")
    if writes > MOST_WRITES or sweep > MOST_WRITES:
        raise SasError(f"at most {MOST_WRITES} writes are simulated at once", hint="other seeds (--seed) give other writes")
    if seed < 0:
        raise SasError(f"--seed {seed}: at least 0 is needed")
    if sweep < 0:
        raise SasError(f"--sweep {sweep}: a number of writes, or 0 for none")
    if plot is not None and plot.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise SasError(f"cannot tell the picture's format from {plot.name!r}", hint="end the name in .png, .svg or .pdf")
    require_writable(json, plot)
    from sasimc.evaluation.device.figures import device_report, write_sweeps
    from sasimc.evaluation.quantity import format_si
    from sasimc.evaluation.technologies.load import load_technology

    found = load_technology(technology)
    with console.status("loading the simulator") as status:

        def watch(what: str, done: int, total: int) -> None:
            status.update(f"{what} ({done + 1} of {total})")
            if not console.is_terminal:
                console.print(f"simulating {what} ({done + 1} of {total})", **_PLAIN)

        report = device_report(found, stack, writes=writes, seed=seed, threads=threads, watch=watch)
        sweeps = write_sweeps(found, stack, writes=sweep, seed=seed, threads=threads, watch=watch) if sweep else []
        picture = None
        if plot is not None:
            from sasimc.evaluation.device.plots import plot_device

            status.update("drawing")
            picture = plot_device(report, sweeps, plot.suffix)
    console.print(f"technology {report.technology}, stack {report.stack_name}: {report.stack.description}", **_PLAIN)
    rows = [("", "ours", "paper", "ratio", "how")]
    for f in report.figures:
        ratio = "" if f.ratio is None else f"{f.ratio:.3g}"
        rows.append((f.name, str(f), "" if f.paper is None else str(f.paper), ratio, f.how))
    _print_table(rows)
    if sweeps:
        console.print("\nwrite error rate against the value over the pulse's own", **_PLAIN)
        for s in sweeps:
            cells = (f"{format_si(v, s.unit)}: {o.error_rate:.2g}" for v, o in zip(s.values, s.outcomes, strict=True))
            console.print(f"  {s.method} {s.field}: {', '.join(cells)}", **_PLAIN)
    console.print(f"\nfor runs: sasrun --bit-error-rate {report.bit_error_rate}", **_PLAIN)
    console.print("\nrests on these assumptions (change them in the technology file):", **_PLAIN)
    _print_table([(name, str(q), q.source) for name, q in report.assumptions.items()])
    if json:
        write_json(json, _as_json(report, sweeps, seed, writes))
        console.print(f"wrote {json}", **_PLAIN)
    if plot is not None and picture is not None:
        write_atomically(plot, picture)
        console.print(f"wrote {plot}", **_PLAIN)


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        console.print("  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip(), **_PLAIN)


def _as_json(report: Any, sweeps: list[Any], seed: int, writes: int) -> dict[str, Any]:
    def kept(q: Any) -> dict[str, Any]:
        return {"value": q.value, "unit": q.unit, "kind": q.kind, "source": q.source}

    def outcome(o: Any) -> dict[str, Any]:
        return {
            "bits": o.bits, "errors": o.errors, "error_rate": o.error_rate, "energy_J_per_bit": o.energy, "line_energy_J_per_bit": o.sot_energy,
            "junction_energy_J_per_bit": o.stt_energy, "latency_s": o.write.latency,
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
            method: {"times": o.result.times.tolist(), "m": o.result.path[:4].tolist()} for method, o in report.outcomes.items()
        },
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


def register(parent: typer.Typer) -> None:
    """Add ``device`` to ``sasc``."""
    parent.command("device")(device)
