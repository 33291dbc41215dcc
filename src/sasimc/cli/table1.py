"""``sasc paper table1``: the four configurations of the paper's table I on any data sets."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sasimc.cli import options
from sasimc.cli.common import EXIT_FAILED, command, require_writable, write_json
from sasimc.cli.options import AtLeast, Choice, Folder, option
from sasimc.cli.tables import say
from sasimc.cli.workers import check_workers, pool_of, say_who
from sasimc.isa.errors import SasError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sasimc.reference.cells import Cell, Runner
    from sasimc.table1_cells import CellTask
    from sasimc.table1_cost import Cost
    from sasimc.table1_tuning import Trial

__all__ = ["table1"]

_PLAIN_EVERY_S = 20.0


class _Configurations(click.ParamType):
    """``1,2,4``: rows of table I."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = dict.fromkeys(part.strip() for part in value.split(","))
        if not all(part in ("1", "2", "3", "4") for part in parts):
            self.fail(f"{value!r}: numbers from 1 to 4, separated by commas", param, ctx)
        return tuple(map(int, parts))


class _Shown:
    """Progress of a cell on standard error: one changing line on a terminal, a plain line now and then elsewhere."""

    def __init__(self, head: str) -> None:
        self.head, self._said = head, time.perf_counter()

    def __call__(self, p: Any) -> None:
        now, live = time.perf_counter(), sys.stderr.isatty()
        if not live and now - self._said < _PLAIN_EVERY_S:
            return
        loss = f", loss {p.loss:.3f}" if p.loss is not None else ""
        top1 = f", top-1 {p.top1:.1f} %" if p.top1 is not None else ""
        text = f"{self.head}: {p.what}, {p.done}/{p.total} images{loss}{top1}"
        print(f"\r{text}\x1b[K" if live else text, end="" if live else "\n", file=sys.stderr, flush=True)
        self._said = now

    def end(self) -> None:
        """Leave an empty line for what is said next."""
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@command("table1")
@option(
    "--datasets",
    section="Data",
    metavar="NAMES",
    required=True,
    help="Data sets, comma-separated: names (`sasc data list`) or paths.",
)
@options.data_folder
@option("--limit", section="Data", type=AtLeast(1), help="Use at most this many images of a split.")
@option(
    "--hold-back", section="Data", type=click.FloatRange(0, 0.5), show_default="the recipe's",
    help="Share of train and val together that is held back for validation.",
)  # fmt: skip
@option(
    "--split", section="Data", type=Choice(("test", "val")), default="test",
    help="Images that accuracy is measured on. val is for tuning: the test images are never read.",
)  # fmt: skip
@option(
    "-o",
    "--output",
    section="Output",
    type=Folder(),
    required=True,
    help="Folder for models, results and the table. Run again to continue.",
)
@options.json_file("the figures")
@option("--size", section="Network", type=click.IntRange(32, 2048), default=224, help="Side of the input in pixels.")
@option("--width", section="Network", type=float, default=1.0, help="Width multiplier of the backbone.")
@option(
    "--weights", section="Network", metavar="[torchvision|random|FOLDER|FILE.npz]", show_default="`weights` in the data folder, else torchvision",
    help="Weights of the backbone.",
)  # fmt: skip
@option(
    "--configs", section="Training", type=_Configurations(), default="1,2,3,4",
    help="1 classifier only FP32, 2 backbone and Rep-Net FP32, 3 backbone INT8, 4 both INT8 on the device.",
)  # fmt: skip
@option(
    "--seeds",
    section="Training",
    type=click.IntRange(1, 1000),
    default=3,
    help="Number of seeds: initialisation, order, augmentation.",
)
@option(
    "--recipe", section="Training", type=Choice("sasimc.isa.choices:shipped_recipes", "FILE"), default="default",
    help="Recipe of all data sets.",
)  # fmt: skip
@option("--epochs", section="Training", type=AtLeast(1), show_default="the recipe's", help="Epochs of training.")
@option(
    "--tune", section="Training", type=click.IntRange(1, 16), show_default="none",
    help="Before a configuration's cells, try so many settings of it on validation images, the same number for each; the best is taken.",
)  # fmt: skip
@option(
    "--dry-run",
    section="Execution",
    is_flag=True,
    help="Say what it will cost, from a short probe of each configuration, and end.",
)
@options.engine("fused", "Engine of configuration 4.")
@options.cluster
@options.workers("0")
@option("--threads", section="Execution", type=AtLeast(1), default=2, help="Threads of PyTorch and of the simulator.")
@option(
    "--cross-check",
    section="Execution",
    type=AtLeast(0),
    default=500,
    help="Replay every Nth image or step on another engine; 0: none.",
)
def table1(
    datasets: str, output: Path, json_file: Path | None, weights: str | None, data: Path | None, configs: tuple[int, ...], seeds: int, engine: str,
    threads: int, cluster: str | None, workers: int | None, tune: int | None, dry_run: bool, **settings: Any,
) -> int:  # fmt: skip
    """Train the four configurations of the paper's table I.

    With the same images, order, augmentation, split, steps and epochs.

    1 to 3 run in PyTorch (pip install 'sas-imc[reference]'), 4 is the compiled program on the simulated device. Finished cells are kept in the
    folder of -o and never run twice. The test images are read once, after the last epoch. --tune writes a log of all trials, tuning.csv.
    """
    from sasimc.reference import require

    require()
    require_writable(json_file)
    check_workers(cluster, workers)
    from sasimc.isa.files import write_atomically
    from sasimc.reference.cells import Cell, Runner, Settings, use_threads
    from sasimc.reference.curves import write_csv, write_plots
    from sasimc.reference.table1 import summary, text
    from sasimc.table1_cells import compiler
    from sasimc.table1_tuning import chosen, log, trials, write_log
    from sasimc.zoo.weights import backbone_weights

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise SasError(f"cannot make the folder {output}: {exc.strerror or exc}") from None
    use_threads(threads)
    runner = Runner(
        Settings(out=output, weights=backbone_weights(weights, data), data=data, **settings), compiler(engine, threads)
    )
    names = list(dict.fromkeys(datasets.split(",")))
    cells = [Cell(d, c, s) for s in range(seeds) for d in names for c in configs]
    for name in names:
        say(runner.dataset(name).note)
    tried = trials(runner, names, configs, tune) if tune else []
    if dry_run or tried:
        _predict(runner, cells, tried, workers)
    if dry_run:
        return 0

    def run(asked: Iterable[tuple[Runner, Cell]]) -> list[dict[str, Any]] | None:
        return _run(list(asked), engine, threads, cluster, workers)

    by_cell = dict.fromkeys(cells, runner)
    if tried:
        if run((t.runner, t.cell) for t in tried) is None:
            return EXIT_FAILED
        write_log(tried, output / "tuning.csv")
        best = chosen(tried)
        by_cell = {cell: runner.varied(recipe=best[cell.dataset, cell.config].runner.recipe(cell.dataset)) for cell in cells}
        for trial in best.values():
            say(
                f"{trial.dataset}, {trial.config}: trial {trial.number} of {tune}, {', '.join(f'{k} = {v}' for k, v in trial.settings.items())}"
            )
    results = run((r, cell) for cell, r in by_cell.items())
    if results is None:
        return EXIT_FAILED
    write_csv(results, output / "curves.csv")
    plots = write_plots(results, output)
    made = text(results)
    write_atomically(output / "table1.md", made.encode())
    sys.stdout.write("\n" + made)
    say(f"wrote {', '.join(str(p) for p in (output / 'table1.md', output / 'curves.csv', *plots))}")
    if json_file:
        write_json(json_file, {**summary(results), "tuning": list(log(tried)), "cells": results})
    return 0


def _predict(runner: Runner, cells: list[Cell], tried: list[Trial], workers: int | None) -> None:
    """Say what is going to be spent on what is not finished."""
    from sasimc.table1_cost import Cost, costs

    asked = [(t.runner, t.cell) for t in tried] + [(runner, cell) for cell in cells]
    left = [(r, cell) for r, cell in asked if tried or r.finished(cell) is None]
    if not left:
        say("everything is finished")
        return
    total, rows = Cost(), dict[int, list[Cost]]()
    found = costs(left, lambda text: say(text, file=sys.stderr))
    for (_, cell), cost in zip(left, found, strict=True):
        rows.setdefault(cell.config, []).append(cost)
    say(f"{len(left)} trainings, {len(tried)} of them to tune; predicted:")
    table: list[tuple[str, ...]] = [("configuration", "trainings", "hours here", "device, s", "device, J", "bits written")]
    for config, each in sorted(rows.items()):
        spent = sum(each, Cost())
        total += spent
        table.append((str(config), str(len(each)), *_numbers(spent)))
    table.append(("all", str(len(left)), *_numbers(total)))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        say("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)))
    count = workers or os.cpu_count() or 1
    say(f"on {count} workers like this process, one thread each, about {total.wall_s / 3600 / count:.2g} hours")


def _numbers(cost: Cost) -> tuple[str, ...]:
    return (f"{cost.wall_s / 3600:.3g}", *(f"{n:.3g}" if n else "-" for n in (cost.device_s, cost.joules, cost.bits)))


def _run(
    asked: list[tuple[Runner, Cell]], engine: str, threads: int, cluster: str | None, workers: int | None
) -> list[dict[str, Any]] | None:
    """The results of cells, those from before included; None: some failed on workers."""
    from sasimc.reference.cells import CONFIGURATIONS
    from sasimc.table1_cells import CellTask

    done = [runner.finished(cell) for runner, cell in asked]
    if check_workers(cluster, workers):
        left = {r.path(c): CellTask(r, c, engine, threads) for (r, c), found in zip(asked, done, strict=True) if found is None}
        if not _shared_out(list(left.values()), cluster, workers):
            return None
        done = [runner.finished(cell) for runner, cell in asked]
    results = []
    for number, ((runner, cell), kept) in enumerate(zip(asked, done, strict=True), 1):
        head = f"[{number}/{len(asked)}] {cell.dataset}, seed {cell.seed}, {cell.config}: {CONFIGURATIONS[cell.config]}"
        found, what = kept or runner.finished(cell), "kept from before"  # trials at the same settings are one cell
        if found is None:
            shown = _Shown(head)
            found = runner.run(cell, shown)
            shown.end()
            what = f"{found['wall_s']:.0f} s"
        say(f"{head}: {found['top1']:.2f} % ({what})")
        results.append(found)
    return results


def _shared_out(tasks: list[CellTask], cluster: str | None, workers: int | None) -> bool:
    """Have workers run cells; False: some failed, which is said, and they are tried again next time."""
    from sasimc.cluster.task import Failure
    from sasimc.table1_cells import run_cell, weights_of

    if not tasks:
        return True
    failed = 0
    with pool_of(run_cell, cluster, workers) as pool:
        say_who(pool)
        for number, (task, outcome) in enumerate(pool.run(tasks, weights_of(tasks[0].runner.settings.weights), None), 1):
            if isinstance(outcome, Failure):
                failed += 1
                say(f"failed: {task.name}: {outcome.reason}", file=sys.stderr)
            else:
                say(f"[{number}/{len(tasks)}] {task.name}: {task.take(outcome)['wall_s']:.0f} s", file=sys.stderr)
    if failed:
        say(f"{failed} of {len(tasks)} cells failed; run it again to try them again", file=sys.stderr)
    return not failed
