"""``sasc data``: the data sets, where each is looked for, and fetching."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from sasimc.cli import options
from sasimc.cli.common import Group, command, console, require_writable, write_json
from sasimc.cli.options import Choice, argument
from sasimc.cli.tables import say
from sasimc.isa.errors import SasError

__all__ = ["data", "fetch", "list_command"]

data = Group(
    "data",
    {"Commands": {"list": "sasimc.cli.data:list_command", "fetch": "sasimc.cli.data:fetch"}},
    help="List the data sets and fetch those that have an official address.",
)


@command("list")
@options.data_folder
@options.json_file("the list")
def list_command(data: Path | None, json_file: Path | None) -> None:
    """List the data sets, and where each was found or is looked for."""
    from sasimc.datasets.dataset import data_folder, list_datasets

    require_writable(json_file)
    base, found = data_folder(data), list_datasets(data)
    say(f"data folder: {base or 'none (--data FOLDER, or set SASIMC_DATA)'}")
    for row in found:
        say(f"{row.name}: {row.title}, {row.classes} classes; licence: {row.licence}")
        say(f"    found: {row.found}" if row.found else f"    not found, looked for {row.looked_for}; {row.note}")
        for address in row.address:
            say(f"    {address}")
    if json_file:
        write_json(json_file, {"folder": str(base) if base else None, "data_sets": [asdict(row) for row in found]})


@command("fetch")
@argument("name", "Data set to fetch.", metavar="NAME", type=Choice("sasimc.datasets.catalog:CATALOGUE"))
@options.data_folder
def fetch(name: str, data: Path | None) -> None:
    """Fetch a data set from its official address. What an interrupted download has is kept and completed."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    from sasimc.datasets.dataset import data_folder
    from sasimc.datasets.fetch import fetch_dataset

    target = data_folder(data)
    if target is None:
        raise SasError("nowhere to fetch to", hint="--data FOLDER, or set SASIMC_DATA")
    with Progress("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=console()) as bar:
        tasks: dict[str, Any] = {}

        def show(file: str, done: int, total: int | None) -> None:
            if file not in tasks:
                tasks[file] = bar.add_task(file, total=total)
            bar.update(tasks[file], completed=done, total=total)

        path = fetch_dataset(name, target, show)
    say(f"{name}: {path}")
