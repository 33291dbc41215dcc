"""``sasc image``: the tasks that a device image holds, and forgetting one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sasimc.cli import options
from sasimc.cli.common import Group, command, require_writable, write_json
from sasimc.cli.options import File, argument
from sasimc.cli.tables import say
from sasimc.isa.errors import SasError, near

if TYPE_CHECKING:
    from sasimc.training.image.image import Task

__all__ = ["forget", "image", "show"]

image = Group(
    "image",
    {"Commands": {"show": "sasimc.cli.image:show", "forget": "sasimc.cli.image:forget"}},
    help="Show what a device image holds, and forget a task.",
)

_image = argument("image", "Device image (.sas), made by `sasrun PROGRAM --image IMAGE`.", type=File())


@command("show")
@_image
@options.json_file("the list")
def show(image: Path, json_file: Path | None) -> None:
    """List the tasks of a device image, what learning one did to the others, and the wear of the device.

    Backward transfer and forgetting come from accuracies that the image keeps of `sasrun --train` and `sasrun --eval`; where one is missing, it is
    named."""
    require_writable(json_file)
    made = _listed(image)
    for row in made["tasks"]:
        for line in _lines(row):
            say(line)
    if not made["tasks"]:
        say("no tasks")
    if u := made["unfinished"]:
        say(f"task {u['task']} is being learned: epoch {u['epoch'] + 1}, {u['steps']} steps done; --resume continues")
    for line in _transfer_lines(made["transfer"], image):
        say(line)
    if found := made["unsaid"]:
        say(
            f"{found['tasks']} of {len(made['tasks'])} tasks measured without their name (--task auto), means over them: {found['recognised']:.2f} % of the images "
            f"recognised, accuracy {found['top1']:.2f} %, {found['known']:.2f} % with the task said"
        )
    w = made["wear"]
    say(
        f"device {made['machine']}: {w['writes']} row writes in all; most written row {w['worst']} times (sub-array {w['worst_row'][0]}, "
        f"word line {w['worst_row'][1]}), mean {w['mean']:.3g} over {w['rows']} rows"
    )
    if json_file:
        write_json(json_file, made)


@command("forget")
@_image
@argument("task", "Task to forget, learned or still being learned.")
def forget(image: Path, task: str) -> None:
    """Remove a task from a device image."""
    from sasimc.training.image.image import DeviceImage

    with closing(DeviceImage.change(image)) as opened:
        if task not in opened.tasks:
            known = tuple(opened.tasks)
            raise SasError(f"the device has no task {task!r}", hint=near(task, known) or f"it has: {', '.join(known) or 'none'}")
        opened.remove(task)
        opened.save()
    say(f"removed {task}")


def _listed(path: Path) -> dict[str, Any]:
    """The report: tasks, transfer between them, the unfinished training or None, wear of the device."""
    from sasimc.training.image.image import DeviceImage
    from sasimc.training.image.sequence import sequence
    from sasimc.training.transfer import transfer

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
                "unsaid": _unsaid(task, image.tasks.values()),
            }
        )
    kept, each = sequence(image.tasks.values()), [row["unsaid"] for row in rows if row["unsaid"]]
    pending = image.pending
    unfinished = pending and {"task": pending.task, "epoch": pending.state.get("epoch", 0), "steps": pending.state.get("step", 0)}
    return {
        "image": str(path),
        "machine": image.shape.machine,
        "program": image.identity.program,
        "backbone": image.identity.backbone,
        "tasks": rows,
        "transfer": {**asdict(transfer(kept.matrix)), **asdict(kept)},
        "unsaid": {"tasks": len(each), **{k: sum(e[k] for e in each) / len(each) for k in each[0]}} if each else None,
        "unfinished": unfinished,
        "wear": image.wear_summary(),
    }


def _unsaid(task: Task, tasks: Iterable[Task]) -> dict[str, float] | None:
    """What was measured of a task without its name among all that are learned now, on most test images: percent of them ``recognised``, right (``top1``), and
    right with the task said (``known``)."""
    last = [t.name for t in tasks if t.learned][-1:]
    found = [m for m in task.measured if m.unsaid is not None and [m.after] == last and m.split == "test"]
    best = max(found, key=lambda m: m.images, default=None)
    return None if best is None else {"recognised": best.recognised or 0.0, "top1": best.unsaid or 0.0, "known": best.top1}


def _lines(row: dict[str, Any]) -> list[str]:
    form = "{} {:.2f} %" if row["classes"] else "{} mean squared error {:.4g}"
    accuracy = ", ".join(form.format(split, found) for split, found in row["accuracy"].items()) or "not learned yet"
    names = ", ".join(row["classes"][:4]) + (", ..." if len(row["classes"]) > 4 else "")
    kinds = f"{len(row['classes'])} classes ({names})" if names else "values"
    where = f"{len(row['subarrays'])} sub-arrays, {_ranges(row['subarrays'])}" if row["resident"] else "kept on the host"
    unsaid = row["unsaid"]
    found = (
        [
            f"    recognised: {unsaid['recognised']:.2f} % of its images; top-1 {unsaid['top1']:.2f} %, {unsaid['known']:.2f} % with the task said"
        ]
        if unsaid
        else []
    )
    w = row["writes"]
    total = {key: sum(part[key] for part in w.values()) for key in ("rows", "bits_written", "bits_flipped")}
    return [
        f"{row['name']}: {kinds}; {accuracy}; {row['epochs']} epochs, {row['steps']} steps",
        f"    {where}; writes: {total['rows']} rows, {total['bits_written']} bits, {total['bits_flipped']} flipped "
        f"(weights {w['weights']['bits_flipped']}, scratch {w['scratch']['bits_flipped']}, by the host {w['host']['bits_flipped']})",
        *found,
    ]


def _transfer_lines(found: dict[str, Any], image: Path) -> Iterator[str]:
    """The figures that are known, and which evaluations the others need."""
    names, matrix = found["names"], found["matrix"]
    if len(names) < 2:
        return
    forms = {"accuracy": "mean accuracy {:.2f} %", "backward": "backward transfer {:+.2f} points", "forgetting": "forgetting {:+.2f} points",
             "remembering": "remembering {:.2f} %"}  # fmt: skip
    known = [form.format(found[key]) for key, form in forms.items() if found[key] is not None]
    yield f"{len(names)} tasks on test images: {', '.join(known) or 'nothing is known of transfer between them'}"
    lower = [(i, j) for i in range(len(names)) for j in range(i + 1) if matrix[i][j] is None]
    now = [names[j] for i, j in lower if i == len(names) - 1]
    before = [f"{names[j]} after {names[i]}" for i, j in lower if i < len(names) - 1]
    if now:
        yield f"    not evaluated now, which all of these figures need: {', '.join(now)} (sasrun PROGRAM --image {image} --task {now[0]} --eval DATASET)"
    if before:
        yield f"    was not evaluated at its time, which forgetting and remembering need: {', '.join(before)}"
    yield "    forward transfer needs accuracies on tasks before they are learned; sasrun measures none, benchmarks/forgetting.py does"


def _ranges(numbers: list[int]) -> str:
    """``3-5, 9`` for [3, 4, 5, 9]."""
    parts: list[list[int]] = []
    for n in numbers:
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in parts)
