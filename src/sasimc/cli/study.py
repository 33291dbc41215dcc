"""``sasc study``: many designs, mappings, recipes and seeds, measured on all cores or on a cluster."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

from sasimc.cli import options
from sasimc.cli.common import EXIT_FAILED, Group, command, console, require_writable, write_json
from sasimc.cli.options import Choice, File, Folder, argument, option
from sasimc.cli.progress import progress
from sasimc.cli.tables import print_tables, say
from sasimc.cli.workers import check_workers, pool_of, say_who
from sasimc.isa.errors import SasError, near

__all__ = ["run", "show", "study"]

_PLAIN_EVERY_S = 10.0
_SHOWN = 20
_TRIED = 4
"""Trials of a dry run."""

study = Group(
    "study", {"Commands": {"run": "sasimc.cli.study:run", "show": "sasimc.cli.study:show"}},
    help="Measure many designs, mappings, recipes and seeds: on all cores, or on a Dask cluster.",
)  # fmt: skip


@command("run")
@argument("description", "Study (.toml).", type=File())
@option(
    "-o",
    "--output",
    section="Output",
    type=Folder(),
    show_default="the file's name without .toml",
    help="Folder for results; run again to continue.",
)
@options.json_file("the table")
@options.cluster
@options.workers("one a core")
@option(
    "--dry-run",
    section="Execution",
    is_flag=True,
    help="Measure a few trials; say how many there are, how long all take, and how much data moves.",
)
@options.isa
def run(
    description: Path, output: Path | None, json_file: Path | None, cluster: str | None, workers: int | None, dry_run: bool
) -> int:
    """Measure every trial of a study that is not known yet. Ctrl-C ends it; what is finished is kept."""
    from sasimc.cluster.pool import Serial
    from sasimc.measures import measure
    from sasimc.studies import open_trials, report_of, share_data

    check_workers(cluster, workers)
    require_writable(json_file)
    found = open_trials(description, output)
    if cluster is not None:
        share_data(found)
    total, known = found.plan()
    say(f"{found.description.name}: {total} trials, {known} known; results in {found.folder}")
    if dry_run:
        return _dry(found, total - known, workers)
    with Serial(measure) if workers == 0 else pool_of(measure, cluster, workers) as pool:
        if isinstance(pool, Serial):
            say("in this process")
        else:
            say_who(pool)
        try:
            done = _watched(found, pool)
        except KeyboardInterrupt:
            print(file=sys.stderr)
            say("interrupted; what is finished is kept: run it again to go on", file=sys.stderr)
            return 130
    say(f"{done.known} known, {done.done} measured, {done.infeasible} of them infeasible, {done.failed} failed")
    _table(found)
    for point, reason in found.failures[:_SHOWN]:
        say(f"failed: {_text(point)}: {reason}")
    if json_file:
        write_json(json_file, report_of(found))
    return EXIT_FAILED if found.failures else 0


def _dry(found: Any, left: int, workers: int | None) -> int:
    import os
    from itertools import islice

    from sasimc.measures import measure
    from sasimc.study.search import batches

    points, _ = next(batches(found.description))
    took: list[float] = []
    moved = 0
    for trial in islice((t for p in points for t in found.trials(p) if found.store.load(t) is None), _TRIED):
        start = time.perf_counter()
        found.store.save(trial, measure(trial.spec, found.files))
        took.append(time.perf_counter() - start)
        moved += found.store.path(trial).stat().st_size
    if not took:
        say("everything is known")
        return 0
    cores, rest = workers or os.cpu_count() or 1, left - len(took)
    each = statistics.fmean(took[1:] or took)
    once = max(0.0, took[0] - each)  # a worker's first trial builds the model and loads the compiler
    say(
        f"{len(took)} trials here: the first took {took[0]:.2f} s, the others {each:.2f} s each; the {rest} left take about {(once + each * rest / cores) / 60:.1f} min on {cores} workers"
    )
    sent = sum(map(len, found.files.values()))
    say(
        f"to each worker {sent / 1e6:.2f} MB once, to and from all of them about {moved / len(took) * rest / 1e6:.2f} MB for the trials"
    )
    return 0


def _watched(found: Any, pool: Any) -> Any:
    """Run with a bar on a terminal, plain lines elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    if sys.stderr.isatty():
        with Progress("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console()) as bar:
            task = bar.add_task("measuring", total=None)

            def live(p: Any) -> None:
                bar.update(
                    task,
                    total=p.known + p.done + p.ahead,
                    completed=p.known + p.done,
                    description=f"{p.rate:.2f}/s, front {p.front}",
                )

            return found.run(pool, live)
    said = time.monotonic()

    def plain(p: Any) -> None:
        nonlocal said
        if time.monotonic() - said >= _PLAIN_EVERY_S:
            said = time.monotonic()
            left = p.ahead / max(p.rate, 1e-9)
            print(
                f"{p.known + p.done} of {p.known + p.done + p.ahead} trials, {p.rate:.2f}/s, {left / 60:.1f} min left",
                file=sys.stderr,
                flush=True,
            )

    return found.run(pool, plain)


def _text(point: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in point.items()) or "the base"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _table(found: Any) -> None:
    from sasimc.evaluation.table import Table
    from sasimc.study.results import front, importance

    d, rows = found.description, found.rows()
    best = front(d, rows)
    shown = [rows[i] for i in best] or [r for r in rows if not r.infeasible]
    title = f"Pareto front, {len(best)} of {len(rows)} points" if best else f"{len(shown)} points"
    body = [[*(str(r.point.get(n, "")) for n in d.vary), *(_number(r.metrics.get(m)) for m in d.metrics)] for r in shown[:_SHOWN]]
    if body:
        print_tables(Table(title, (*d.vary, *d.metrics), [tuple(row) for row in body]))
    if len(shown) > _SHOWN:
        say(f"and {len(shown) - _SHOWN} more: --csv or --html shows all")
    for goal in d.goals:
        found_ = [f"{n} {100 * share:.0f} %" for n, share in importance(rows, goal, list(d.vary)).items() if share >= 0.005]
        say(f"variance of {goal} that each parameter alone explains: {', '.join(found_) or 'none'}")
    reasons: dict[str, int] = {}
    for r in rows:
        if r.infeasible:
            reasons[r.infeasible] = reasons.get(r.infeasible, 0) + 1
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:5]:
        say(f"{count} infeasible: {reason}")


@command("show")
@argument("folder", "Folder of a study.", type=Folder())
@option("--minimise", section="Goals", metavar="METRICS", show_default="the study's", help="Goals of the front, comma-separated.")
@option("--maximise", section="Goals", metavar="METRICS", show_default="the study's", help="Likewise, where more is better.")
@option("--csv", section="Output", type=File(), help="Table of all points (CSV).")
@option("--html", section="Output", type=File(), help="Page with front, parallel coordinates and importance; one file.")
@option(
    "--explore", section="Output", type=Choice(("front", "all")),
    help="With --html: the page of `sasc explore` of each of these points too, in a folder beside it, and links to them.",
)  # fmt: skip
@options.json_file("the table")
def show(
    folder: Path, minimise: str | None, maximise: str | None, csv: Path | None, html: Path | None, explore: str | None, json_file: Path | None
) -> None:  # fmt: skip
    """Show what a study found: the Pareto front, and which parameters matter."""
    from sasimc.isa.files import write_atomically
    from sasimc.studies import report_of
    from sasimc.study.page import page
    from sasimc.study.results import csv_text, table
    from sasimc.study.run import load_study

    if explore and not html:
        raise SasError("--explore writes pages that --html links to", hint="--html study.html")
    for path in (csv, html, json_file):
        require_writable(path)
    found = load_study(folder)
    if minimise is not None or maximise is not None:
        found.description = _with_goals(found.description, minimise, maximise)
    _table(found)
    if csv:
        write_atomically(csv, csv_text(table(found.description, found.rows())).encode())
        say(f"wrote {csv}")
    if html:
        links = _explored(found, html, explore == "all") if explore else {}
        write_atomically(html, page(report_of(found, links)).encode())
        say(f"wrote {html}" + (f" and {len(links)} pages in {_beside(html)}" if links else ""))
    if json_file:
        write_json(json_file, report_of(found))


def _with_goals(d: Any, minimise: str | None, maximise: str | None) -> Any:
    least, most = ([n for n in (text or "").split(",") if n] for text in (minimise, maximise))
    for name in (*least, *most):
        if name not in d.metrics:
            raise SasError(f"{name!r} is not measured by this study", hint=near(name, d.metrics) or ", ".join(d.metrics))
    return d.model_copy(update={"minimise": least, "maximise": most})


def _beside(html: Path) -> Path:
    return html.with_name(f"{html.stem}-points")


def _explored(found: Any, html: Path, everything: bool) -> dict[int, str]:
    """Write the page of each point of the front (or of all), and of the paper's machine; file names by row."""
    from sasimc.cli.explore import model_subject
    from sasimc.costs import price_list
    from sasimc.explore.page import explore_page
    from sasimc.isa.files import write_atomically
    from sasimc.measures import model_of, options_at
    from sasimc.studies import report_of

    name = found.description.model
    if name.endswith(".onnx"):
        try:
            found.files[name] = (found.folder.parent / name).read_bytes()
        except OSError as exc:
            raise SasError(f"cannot read the model {name} beside {found.folder}: {exc.strerror}") from None
    points = report_of(found)["points"]
    chosen = [i for i, p in enumerate(points) if not p["infeasible"] and (everything or p["front"] or p["paper"])]
    links: dict[int, str] = {}
    with progress("pages of the points") as said:
        for count, i in enumerate(chosen, 1):
            said(f"{count} of {len(chosen)}")
            trial = found.trials(points[i]["point"])[0]
            whole = {**trial.spec["base"], **trial.spec["point"]}
            prices = price_list(whole.get("technology", "sas"), whole.get("interpretation"))
            made = model_subject(model_of(trial.spec, found.files), _text(points[i]["point"]), options_at(trial.spec), prices)
            path = _beside(html) / f"{trial.key}.html"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, explore_page(made).encode())
            links[i] = f"{path.parent.name}/{path.name}"
    return links
