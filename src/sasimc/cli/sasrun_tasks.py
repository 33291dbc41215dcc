"""``sasrun tasks``: what a device image holds."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sasimc.cli.common import console, require_writable, write_json
from sasimc.isa.errors import SasError, near

__all__ = ["app"]

_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def tasks(
    image: Annotated[Path, typer.Argument(help="Device image (.sas), made by `sasrun PROGRAM --device IMAGE`")],
    remove: Annotated[str | None, typer.Option(help="Forget this task (also one that is being learned)")] = None,
    report: Annotated[Path | None, typer.Option("--report", "--json", help="Write the list as JSON (docs/tasks.md)")] = None,
) -> None:
    """List the tasks of a device image: classes, accuracy when learned, sub-arrays, writes; and the wear of the device."""
    require_writable(report)
    if remove is not None:
        _remove(image, remove)
    made = _listed(image)
    for row in made["tasks"]:
        for line in _lines(row):
            console.print(line, **_PLAIN)
    if not made["tasks"]:
        console.print("no tasks", **_PLAIN)
    if made["unfinished"]:
        u = made["unfinished"]
        console.print(
            f"task {u['task']} is being learned: epoch {u['epoch'] + 1}, {u['steps']} steps done; --resume goes on", **_PLAIN
        )
    w = made["wear"]
    console.print(
        f"device {made['machine']}: {w['writes']} row writes in all; most written row {w['worst']} times (sub-array {w['worst_row'][0]}, "
        f"word line {w['worst_row'][1]}), mean {w['mean']:.3g} over {w['rows']} rows",
        **_PLAIN,
    )
    if report:
        write_json(report, made)


def _remove(path: Path, name: str) -> None:
    from sasimc.training.image.image import DeviceImage

    with closing(DeviceImage.change(path)) as image:
        if name not in image.tasks:
            known = tuple(image.tasks)
            raise SasError(f"the device has no task {name!r}", hint=near(name, known) or f"it has: {', '.join(known) or 'none'}")
        image.remove(name)
        image.save()
    console.print(f"removed {name}", **_PLAIN)


def _listed(path: Path) -> dict[str, Any]:
    """The report: tasks, the unfinished training or None, wear of the device."""
    from sasimc.training.image.image import DeviceImage

    image = DeviceImage.read(path)
    rows = []
    for task in image.tasks.values():
        writes = {"weights": asdict(task.learning), "scratch": asdict(task.scratch), "host": asdict(task.placing)}
        rows.append(
            {
                "name": task.name,
                "dataset": task.dataset,
                "classes": list(task.classes),
                "learned": task.learned,
                "accuracy": dict(task.accuracy),
                "epochs": task.epochs,
                "steps": task.steps,
                "resident": task.slot is not None,
                "subarrays": list(task.subarrays),
                "writes": writes,
                "swapped_out": task.swaps,
            }
        )
    pending = image.pending
    unfinished = pending and {"task": pending.task, "epoch": pending.state.get("epoch", 0), "steps": pending.state.get("step", 0)}
    return {
        "image": str(path),
        "machine": image.shape.machine,
        "program": image.identity.program,
        "backbone": image.identity.backbone,
        "tasks": rows,
        "unfinished": unfinished,
        "wear": image.wear_summary(),
    }


def _lines(row: dict[str, Any]) -> list[str]:
    accuracy = ", ".join(f"{split} {top1:.2f} %" for split, top1 in row["accuracy"].items()) or "not learned yet"
    names = ", ".join(row["classes"][:4]) + (", ..." if len(row["classes"]) > 4 else "")
    where = f"{len(row['subarrays'])} sub-arrays, {_ranges(row['subarrays'])}" if row["resident"] else "kept on the host"
    w = row["writes"]
    total = {key: sum(part[key] for part in w.values()) for key in ("rows", "bits_written", "bits_flipped")}
    return [
        f"{row['name']}: {len(row['classes'])} classes ({names}); {accuracy}; {row['epochs']} epochs, {row['steps']} steps",
        f"    {where}; writes: {total['rows']} rows, {total['bits_written']} bits, {total['bits_flipped']} flipped "
        f"(weights {w['weights']['bits_flipped']}, scratch {w['scratch']['bits_flipped']}, by the host {w['host']['bits_flipped']})",
    ]


def _ranges(numbers: list[int]) -> str:
    """``3-5, 9`` for [3, 4, 5, 9]."""
    parts: list[list[int]] = []
    for n in numbers:
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in parts)
