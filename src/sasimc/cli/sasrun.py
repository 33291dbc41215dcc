"""``sasrun``: classify images, train and evaluate a compiled program on the simulated device."""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from sasimc.cli.common import console, require_writable, run_app, write_json
from sasimc.isa.errors import SasError

__all__ = ["app", "main"]

_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
data_app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _pair(text: str, option: str) -> tuple[float, float]:
    """``4`` or ``4:-1`` as (first, last)."""
    try:
        parts = [float(p) for p in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) not in (1, 2) or not all(-30 <= p <= 30 for p in parts):
        raise SasError(f"{option} {text!r} is not FIRST or FIRST:LAST with numbers from -30 to 30", hint=f"{option} 4:-1")
    return parts[0], parts[-1]


@app.command()
def run(
    program: Annotated[
        Path | None, typer.Argument(help="Program (.s or .bin); default: the embedded small network, compiled now")
    ] = None,
    input: Annotated[list[Path] | None, typer.Option("--input", help="Image to classify (may be given more than once)")] = None,
    train: Annotated[str | None, typer.Option(help="Data set to train on: a name (see `sasrun data`) or a path")] = None,
    evaluate: Annotated[str | None, typer.Option("--eval", help="Data set to evaluate on (its test split)")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of data sets; default: SASIMC_DATA")] = None,
    engine: Annotated[str, typer.Option(help="bitserial, fused or step")] = "bitserial",
    threads: Annotated[int | None, typer.Option(help="Worker threads; default: all cores")] = None,
    epochs: Annotated[int, typer.Option(help="Epochs of training")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of image order and augmentation")] = 0,
    mu_head: Annotated[str, typer.Option(help="Update magnitude of the classifier, FIRST:LAST")] = "4:0",
    mu_rep: Annotated[str, typer.Option(help="Update magnitude of the modules, FIRST:LAST")] = "2:-2",
    augment: Annotated[bool, typer.Option("--augment/--no-augment", help="Random crops and flips in training")] = True,
    split: Annotated[str, typer.Option(help="Split that --eval uses")] = "test",
    limit: Annotated[int | None, typer.Option(help="Use at most this many images of a split")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the program with its trained weights (.s or .bin)")] = None,
    cross_check: Annotated[
        int, typer.Option(help="Replay every Nth image or step on another engine and stop at the first difference")
    ] = 0,
    report: Annotated[Path | None, typer.Option(help="Write the summary as JSON (docs/reports.md)")] = None,
    top: Annotated[int, typer.Option(help="Classes shown for --input")] = 5,
) -> None:
    """Run a compiled program: classify (--input), train (--train), evaluate (--eval). Without a task it trains on `flowers`.

    `sasrun data` lists the data sets, says where each is looked for, and fetches them.
    """
    from sasimc.runtime.session import Session, SessionOptions

    start = time.perf_counter()
    what = ""
    runnable: Any = program
    if program is None:
        runnable, what = _embedded(), "the embedded MobileNet-V2 + Rep-Net"
    options = SessionOptions(
        program=runnable, what=what, inputs=tuple(input or ()), train=train, evaluate=evaluate, data=data, engine=engine,
        threads=threads, epochs=epochs, seed=seed, mu_head=_pair(mu_head, "--mu-head"), mu_rep=_pair(mu_rep, "--mu-rep"),
        augment=augment, split=split, limit=limit, cross_check=cross_check, top=top,
    )  # fmt: skip
    if save is not None and save.suffix not in (".s", ".bin"):
        raise SasError(f"cannot tell the program's format from {save.name!r}", hint="end the name in .s or .bin")
    require_writable(save, report)
    session = Session(options, console)
    made: dict[str, Any] = session.run()
    if save:
        session.save(save)
        console.print(f"wrote {save}", **_PLAIN)
    made["wall_s"] = time.perf_counter() - start
    made["host"] = platform.machine()
    if report:
        write_json(report, made)


def _embedded() -> Any:
    """The embedded model, compiled for the default machine."""
    from sasimc.api import CompileOptions, compile_model
    from sasimc.frontend.zoo import default_model_path

    with console.status("compiling the embedded model"):
        return compile_model(default_model_path(), CompileOptions()).program


@data_app.command()
def data(
    folder: Annotated[Path | None, typer.Option("--data", help="Folder of data sets; default: SASIMC_DATA")] = None,
    fetch: Annotated[str | None, typer.Option(help="Fetch this data set from its official address")] = None,
) -> None:
    """List the data sets, where each is looked for, and fetch those with an official address."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    from sasimc.runtime.data.datasets import data_folder, list_datasets
    from sasimc.runtime.data.fetch import fetch_dataset

    if fetch:
        target = data_folder(folder)
        if target is None:
            raise SasError("nowhere to fetch to", hint="--data FOLDER, or set SASIMC_DATA")
        with Progress("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=console) as bar:
            tasks: dict[str, Any] = {}

            def show(name: str, done: int, total: int | None) -> None:
                if name not in tasks:
                    tasks[name] = bar.add_task(name, total=total)
                bar.update(tasks[name], completed=done, total=total)

            path = fetch_dataset(fetch, target, show)
        console.print(f"{fetch}: {path}")
        return
    base = data_folder(folder)
    console.print(f"data folder: {base or 'none (--data FOLDER, or set SASIMC_DATA)'}", **_PLAIN)
    for row in list_datasets(folder):
        console.print(f"{row.name}: {row.title}, {row.classes} classes; licence: {row.licence}", **_PLAIN)
        if row.found:
            console.print(f"    found: {row.found}", **_PLAIN)
        else:
            console.print(f"    not found, looked for {row.looked_for}; {row.note}", **_PLAIN)
        for address in row.address:
            console.print(f"    {address}", **_PLAIN)


def main() -> None:
    """Entry point of the ``sasrun`` command: ``sasrun data ...`` or ``sasrun [PROGRAM] ...``."""
    if sys.argv[1:2] == ["data"]:
        run_app(data_app, sys.argv[2:], "sasrun data")
    else:
        run_app(app)


if __name__ == "__main__":
    main()
