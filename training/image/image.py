"""The device image ``d.sas``: what the non-volatile arrays keep between commands, the tasks in them, and a training that was broken off.

A snapshot holds all of it. While a task is being learned, every step appends what it changed: word lines, their wear, counters, and where
the training stands. Opening an image plays the complete steps back; one that was cut off, wherever, was never done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sasimc.isa.described import damage
from sasimc.isa.errors import SasError
from sasimc.isa.machine import Machine
from sasimc.isa.program import Program
from sasimc.runtime.state import RowWrites
from sasimc.training.image.container import MAX_BYTES, SNAPSHOT, STEP, Frame, frame, header, read_frames
from sasimc.training.image.journal import Medium, read_image
from sasimc.training.image.rebind import Identity, identity, written_rows

__all__ = ["AUTO", "MAX_TASKS", "NAME", "DeviceImage", "Measured", "Pending", "Shape", "Task"]

MAX_TASKS: Final = 4096
NAME: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}$"
AUTO: Final = "auto"
"""In the place of a task's name: the device finds out."""
JOURNAL_BYTES: Final = 64 << 20
"""Steps are appended until they are so long together; then a snapshot takes their place."""

Array = npt.NDArray[Any]
Count = Annotated[int, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Measured(_Model):
    """Top-1 (percent) of a task on ``images`` images of a split, which ``digest`` names; ``after``: the task learned last by then. Where their task was not
    said: ``recognised`` as the task's, and ``unsaid``, right by the task that was recognised (percent)."""

    after: str
    split: str
    digest: str
    images: Count
    top1: float
    recognised: float | None = None
    unsaid: float | None = None


class Task(_Model):
    """A task. ``subarrays``: where its weights stand in the arrays (empty: kept on the host, ``slot`` is None); ``accuracy``: percent by split when it
    was learned (mean squared error where it has no classes); ``notes``: of its program, where an option set them; ``learning``, ``scratch``, ``placing``: writes of its weights and of scratch rows in training, and by the host (initial weights, best epoch, swapping
    in). ``measured``: its accuracies as other tasks were learned."""

    name: Annotated[str, Field(pattern=NAME)]
    classes: tuple[str, ...]
    dataset: str = ""
    notes: dict[str, str] = {}
    slot: Count | None = None
    subarrays: tuple[Count, ...] = ()
    learned: bool = False
    epochs: Count = 0
    steps: Count = 0
    accuracy: dict[str, float] = {}
    measured: tuple[Measured, ...] = ()
    learning: RowWrites = RowWrites()
    scratch: RowWrites = RowWrites()
    placing: RowWrites = RowWrites()
    swaps: Count = 0
    used: Count = 0


class Pending(_Model):
    """A training that is not finished: its task, everything that decides its result (``setup``), and where it stands (``state``, the trainer's)."""

    task: str
    setup: dict[str, Any] = {}
    state: dict[str, Any] = {}


class Shape(_Model):
    """The arrays: sub-arrays, word lines each, weights (bytes) a word line."""

    machine: str
    subarrays: Annotated[int, Field(gt=0)]
    rows: Annotated[int, Field(gt=0)]
    width: Annotated[int, Field(gt=0)]

    @staticmethod
    def of(machine: Machine) -> Shape:
        return Shape(machine=machine.name, subarrays=machine.subarrays, rows=machine.array.rows, width=machine.weights_per_row)


class _Head(_Model):
    identity: Identity
    shape: Shape
    tasks: tuple[Task, ...] = ()
    pending: Pending | None = None
    moment: Count = 0
    turns: Count = 0


@dataclass
class DeviceImage:
    """An image in memory and the file it lies in.

    ``cells`` uint8 [word lines, width] and ``wear`` int64 [word lines] (row writes) over all sub-arrays; ``kept`` marks the word lines the image
    speaks for, all others are as the program has them. ``stored``: weights of tasks on the host, by task and matrix; of those in the arrays learned
    biases, by view. ``means``: of the frozen features of every class of a task [classes, K]. ``pending`` with its
    arrays ``left`` (counters, best weights, host memory): an unfinished training. ``moment`` counts uses, ``turns`` those of
    scratch rows (``--level scratch``). ``rolled_back``: an incomplete
    step was found at the end and left out.
    """

    medium: Medium
    identity: Identity
    shape: Shape
    cells: npt.NDArray[np.uint8]
    wear: npt.NDArray[np.int64]
    kept: npt.NDArray[np.bool_]
    tasks: dict[str, Task] = field(default_factory=dict)
    stored: dict[str, dict[str, Array]] = field(default_factory=dict)
    means: dict[str, Array] = field(default_factory=dict)
    pending: Pending | None = None
    left: dict[str, Array] = field(default_factory=dict)
    moment: int = 0
    turns: int = 0
    rolled_back: bool = False
    _end: int = 0
    _snapshot: int = 0
    _frames: int = 0

    # ----------------------------------------------------------------------------------------------------------- open

    @staticmethod
    def open(path: Path, program: Program, medium: Medium | None = None) -> DeviceImage:
        """The image at ``path`` for this program, locked until :meth:`close`; a new one, not yet on the disk, where there is none.

        Raises:
            SasError: no image, damaged, of another program or machine, in use.
        """
        file = medium or Medium(path)
        data = file.open()
        try:
            mine = identity(program)
            if data is not None:
                image = DeviceImage._decode(data, file)
                image._require(mine, program)
                return image
            shape = Shape.of(program.machine)
            lines = shape.subarrays * shape.rows
            cells = np.zeros((lines, shape.width), np.uint8)
            image = DeviceImage(file, mine, shape, cells, np.zeros(lines, np.int64), np.zeros(lines, np.bool_))
            image.keep_rows(written_rows(program))
            return image
        except BaseException:
            file.close()
            raise

    @staticmethod
    def read(path: Path) -> DeviceImage:
        """The image at ``path`` to look at, without a lock; it cannot be changed.

        Raises:
            SasError: no such file, no image, damaged.
        """
        return DeviceImage._decode(read_image(path), Medium(path))

    @staticmethod
    def change(path: Path) -> DeviceImage:
        """The image at ``path``, locked, without the program it belongs to. Raises SasError as :meth:`open` does."""
        file = Medium(path)
        data = file.open()
        try:
            return DeviceImage._decode(read_image(path) if data is None else data, file)
        except BaseException:
            file.close()
            raise

    def _require(self, mine: Identity, program: Program) -> None:
        where = str(self.medium.path)
        if self.identity.machine != mine.machine:
            raise SasError(
                f"the device image is of machine {self.shape.machine!r}, the program was compiled for another ({program.machine.name!r})",
                where=where, hint="use the machine description the image was begun with",
            )  # fmt: skip
        if self.identity.backbone != mine.backbone:
            raise SasError(
                "the device image belongs to a program with another backbone", where=where,
                hint="its tasks would see other features; use the program it was begun with, or another --image",
            )  # fmt: skip
        if self.identity.program != mine.program:
            raise SasError(
                "the device image belongs to another compilation of this network", where=where,
                hint="use the program it was begun with (compile with the same options), or another --image",
            )  # fmt: skip

    @staticmethod
    def _decode(data: bytes, medium: Medium) -> DeviceImage:
        where = str(medium.path)
        frames = read_frames(data, where)
        try:
            image = DeviceImage._from_snapshot(frames[0], medium)
            for step in frames[1:]:
                image._play(step)
        except (ValidationError, ValueError, KeyError, IndexError, TypeError) as exc:
            raise SasError(f"the device image is damaged: {damage(exc)}", where=where, hint="take a copy of it") from None
        image._end, image._snapshot, image._frames = frames[-1].end, frames[0].end, len(frames)
        image.rolled_back = frames[-1].end < len(data)
        return image

    @staticmethod
    def _from_snapshot(first: Frame, medium: Medium) -> DeviceImage:
        head, arrays = _Head.model_validate(first.head), first.arrays
        shape = head.shape
        lines = shape.subarrays * shape.rows
        if lines * max(shape.width, 8) > MAX_BYTES or len(head.tasks) > MAX_TASKS:
            raise ValueError("it is too large")
        cells, wear, kept = np.zeros((lines, shape.width), np.uint8), np.zeros(lines, np.int64), np.zeros(lines, np.bool_)
        at, content = arrays["rows"], arrays["cells"]
        kept[at] = True
        cells[at] = content
        wear[arrays["wear_at"]] = arrays["wear"]
        image = DeviceImage(medium, head.identity, shape, cells, wear, kept, {t.name: t for t in head.tasks})
        image.pending, image.moment, image.turns = head.pending, head.moment, head.turns
        for name, array in arrays.items():
            group, _, rest = name.partition("/")
            if group == "left":
                image.left[rest] = array
            elif group == "task":
                task, _, matrix = rest.partition("/")
                image.stored.setdefault(task, {})[matrix] = array
            elif group == "means":
                image.means[rest] = array
        return image

    # ----------------------------------------------------------------------------------------------------------- keep

    def keep_rows(self, rows: npt.NDArray[np.int64]) -> None:
        """The image speaks for these word lines from now on."""
        self.kept[rows] = True

    def save(self) -> None:
        """Write a snapshot in the file's place. Raises SasError when it cannot be written."""
        head = _Head(
            identity=self.identity,
            shape=self.shape,
            tasks=tuple(self.tasks.values()),
            pending=self.pending,
            moment=self.moment,
            turns=self.turns,
        )
        rows, worn = np.flatnonzero(self.kept).astype(np.int32), np.flatnonzero(self.wear).astype(np.int32)
        arrays: dict[str, Array] = {"rows": rows, "cells": self.cells[rows], "wear_at": worn, "wear": self.wear[worn]}
        if self.pending:
            arrays |= {f"left/{name}": array for name, array in self.left.items()}
        arrays |= {f"task/{name}/{matrix}": array for name, held in self.stored.items() for matrix, array in held.items()}
        arrays |= {f"means/{name}": array for name, array in self.means.items()}
        data = header() + frame(SNAPSHOT, 0, head.model_dump(mode="json"), arrays)
        if len(data) > MAX_BYTES:
            raise SasError("the device image would be too large", where=str(self.medium.path), hint="remove tasks from it")
        self.medium.replace(data)
        self._end = self._snapshot = len(data)
        self._frames = 1

    def step(self, cells: npt.NDArray[np.uint8], wear: npt.NDArray[np.int64], state: dict[str, Any], left: Mapping[str, Array],
             counted: tuple[Array, Array]) -> None:  # fmt: skip
        """Keep what a step changed, durably: all cells [word lines, width] and wear [word lines] as they are now, where the training stands,
        arrays of ``left`` that are new, and the counters' new rows and growth.

        Raises:
            SasError: it cannot be written; the image is as before the step.
        """
        assert self.pending is not None
        kept = np.flatnonzero(self.kept)
        changed = kept[(cells[kept] != self.cells[kept]).any(axis=1)].astype(np.int32)
        worn = kept[wear[kept] != self.wear[kept]].astype(np.int32)
        arrays: dict[str, Array] = {
            "rows": changed, "cells": cells[changed], "wear_at": worn, "wear": wear[worn] - self.wear[worn],
            "counter_rows": counted[0], "counters": counted[1],
        }  # fmt: skip
        arrays |= {f"left/{name}": array for name, array in left.items()}
        data = frame(STEP, self._frames, state, arrays)
        self.medium.append(data, self._end)
        self._end, self._frames = self._end + len(data), self._frames + 1
        self._play(Frame(STEP, self._frames, state, arrays))
        if self._end - self._snapshot > JOURNAL_BYTES:
            self.save()

    def _play(self, step: Frame) -> None:
        """Take over what a step changed."""
        if self.pending is None:
            raise ValueError("a step of no training")
        a = step.arrays
        self.cells[a["rows"]] = a["cells"]
        self.wear[a["wear_at"]] += a["wear"]
        learned = {name.removeprefix("left/learned."): array for name, array in a.items() if name.startswith("left/learned.")}
        if learned:
            self.stored[self.pending.task] = learned
        self.left |= {
            name.removeprefix("left/"): array
            for name, array in a.items()
            if name.startswith("left/") and name.removeprefix("left/learned.") not in learned
        }
        known = self.left.get("counters", np.zeros(0, np.int64))
        rows = self.left.get("counter_rows", np.zeros((0, 6), np.int64))
        grown = a["counters"].copy()
        grown[: len(known)] += known
        self.left["counters"], self.left["counter_rows"] = grown, np.concatenate([rows, a["counter_rows"]])
        # rows of finished epochs come one at a time, everything else anew
        before = self.pending.state
        self.turns = step.head.pop("turns", self.turns)
        state = {**step.head, "epochs": [*before.get("epochs", []), *step.head.get("epochs", [])]}
        self.pending = self.pending.model_copy(update={"state": {**before, **state}})

    def begin(self, pending: Pending) -> None:
        """A training begins: from now on :meth:`step`."""
        self.pending, self.left = pending, {}
        self.save()

    def end(self) -> None:
        """The training is over (finished, or given up)."""
        self.pending, self.left = None, {}

    def remove(self, name: str) -> None:
        """Forget a task, and its training if it is being learned. Nothing is written to the arrays."""
        self.tasks.pop(name, None)
        self.stored.pop(name, None)
        self.means.pop(name, None)
        for task in self.tasks.values():  # the name may come back as another task
            kept = tuple(m for m in task.measured if m.after != name)
            self.tasks[task.name] = task.model_copy(update={"measured": kept})
        if self.pending is not None and self.pending.task == name:
            self.end()

    def touch(self, task: Task) -> Task:
        """Put a task (back) into the registry as the one used last."""
        self.moment += 1
        self.tasks[task.name] = task = task.model_copy(update={"used": self.moment})
        return task

    def close(self) -> None:
        """Give the file back."""
        self.medium.close()

    def wear_summary(self) -> dict[str, Any]:
        """Row writes in all, the most written word line ([sub-array, word line]), and the mean over the ``rows`` the image speaks for."""
        kept = np.flatnonzero(self.kept)
        worst = int(np.argmax(self.wear))
        mean = float(self.wear[kept].mean()) if len(kept) else 0.0
        at = list(divmod(worst, self.shape.rows))
        return {"rows": len(kept), "writes": int(self.wear.sum()), "worst": int(self.wear[worst]), "worst_row": at, "mean": mean}
