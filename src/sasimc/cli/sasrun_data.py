"""``sasrun data``: the data sets, where each is looked for, and fetching."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sasimc.cli.common import console
from sasimc.isa.errors import SasError

__all__ = ["app"]

_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def data(
    folder: Annotated[Path | None, typer.Option("--data", help="Folder of data sets; default: SASIMC_DATA")] = None,
    fetch: Annotated[str | None, typer.Option(help="Fetch this data set from its official address")] = None,
) -> None:
    """List the data sets, where each is looked for, and fetch those with an official address."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    from sasimc.datasets.dataset import data_folder, list_datasets
    from sasimc.datasets.fetch import fetch_dataset

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
