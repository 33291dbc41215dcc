"""Learning and using what tells a device's tasks apart: means of frozen features, and the evaluation of images whose task is not said."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.datasets.classes import align
from sasimc.datasets.dataset import Dataset, Item
from sasimc.datasets.loader import Loader
from sasimc.isa.errors import SasError
from sasimc.isa.program import Program
from sasimc.runtime.device import Device
from sasimc.training.evaluation import Progress, Watch
from sasimc.training.image.image import Task
from sasimc.training.image.recognise import FEATURES, Mean, Sums, feature_program, features_of
from sasimc.training.image.recogniser import Recogniser

__all__ = ["Recognised", "class_means", "evaluate_unsaid", "of_tasks", "read_features"]

Ints = npt.NDArray[np.int64]


def read_features(
    program: Program, dataset: Dataset, split: str, engine: str = "fused", threads: int | None = None, limit: int | None = None,
    watch: Watch | None = None,
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.int32], Device]]:  # fmt: skip
    """Frozen features [B, K] of a split, batch by batch in its own order, with their classes [B] and the device that computes them."""
    device = Device(feature_program(program), engine, threads)
    loader = Loader(dataset, split, device.preprocess, device.batch_size, shuffle=False, limit=limit)
    seen = 0
    for images, labels, _ in loader.epoch(0):
        device.infer(images)
        seen += len(labels)
        yield np.stack([device.interpreter.read_view(FEATURES, b).reshape(-1) for b in range(len(labels))]), labels, device
        if watch:
            watch(Progress("means of frozen features", seen, loader.images, simulated_s=device.simulated_s))


def class_means(
    program: Program, dataset: Dataset, engine: str = "fused", threads: int | None = None, limit: int | None = None, watch: Watch | None = None
) -> tuple[Mean, int, int]:  # fmt: skip
    """Means [classes, K] of the frozen features of the training images, how many images they are of, and the device's cycles."""
    view = features_of(program)
    assert view is not None
    sums, images, cycles = Sums(len(dataset.classes), view), 0, 0
    for features, labels, device in read_features(program, dataset, "train", engine, threads, limit, watch):
        sums.add(features, labels)
        images, cycles = images + len(labels), device.interpreter.cycles
    return sums.means, images, cycles


def of_tasks(dataset: Dataset, tasks: Sequence[Task]) -> tuple[Ints, str]:
    """Number of each class of a data set [classes] among those of all tasks (:class:`Recogniser`), and how they were matched, in words. A data set that
    bears a task's name, or that a task was learned from, is of that task; of any other, every class is of the task that alone knows a class of its name.

    Raises:
        SasError: a class that no task knows, or several.
    """
    offsets = np.cumsum([0, *(len(t.classes) for t in tasks)]).tolist()
    own = [i for i, t in enumerate(tasks) if t.name == dataset.name] or [
        i for i, t in enumerate(tasks) if t.dataset == dataset.name
    ]
    if len(own) == 1:
        task, one_each = tasks[own[0]], tuple(Item("", c) for c in range(len(dataset.classes)))
        aligned, words = align(dataclasses.replace(dataset, splits={"test": one_each}), task.classes, learns=False)
        found = [offsets[own[0]] + i.class_id for i in aligned.items("test")]
        return np.array(found), ", ".join(w for w in (f"images of task {task.name}", words) if w)
    numbers: list[int] = []
    for name in dataset.classes:
        known = [(t.name, at + t.classes.index(name)) for t, at in zip(tasks, offsets, strict=False) if name in t.classes]
        if len(known) != 1:
            which = f"tasks {', '.join(n for n, _ in known)} know" if known else "no task of the device knows"
            raise SasError(
                f"{dataset.name}: {which} a class {name!r}: to which task do its images belong?",
                hint="name the folder as the task, or its sub-folders as classes that one task alone knows",
            )
        numbers.append(known[0][1])
    return np.array(numbers), "classes matched by name over all tasks"


@dataclass(frozen=True)
class Recognised:
    """Images of one task: how many, and of these in percent: ``recognised`` as the task's, ``top1`` right by the task that was recognised,
    ``known`` right by the task itself."""

    task: str
    images: int
    recognised: float
    top1: float
    known: float


def evaluate_unsaid(
    device: Recogniser, dataset: Dataset, numbers: Ints, split: str, watch: Watch | None = None, limit: int | None = None
) -> tuple[list[Recognised], list[tuple[int, int, int]]]:  # fmt: skip
    """Evaluate images whose task is not said: a row for each task that has images, and (class, predicted class, images). ``numbers``: of the data set's
    classes among those of all tasks (:func:`of_tasks`), as which classes are counted.

    All images are recognised first; then every task that is needed runs its own once, so that each is swapped in once at most. Raises SasError when no
    image can be read.
    """
    loader = Loader(dataset, split, device.preprocess, device.batch_size, shuffle=False, limit=limit)
    chosen, truth, at = list[int](), list[int](), list[int]()
    for images, labels, positions in loader.epoch(0):
        chosen += device.recognise(images).tolist()
        truth, at = truth + numbers[labels].tolist(), at + positions.tolist()
        if watch:
            watch(Progress("which task", len(at), loader.images, simulated_s=device.simulated_s))
    if not at:
        raise SasError(f"{dataset.name}: no image of the {split!r} split can be read")
    found, classes, where = np.array(chosen), np.array(truth), np.array(at)
    own = device.task_of(classes)
    predicted, known, items = np.full(len(where), -1), np.full(len(where), -1), dataset.items(split)
    for task in device.handiest(set(found.tolist()) | set(own.tolist())):
        rows = np.flatnonzero((found == task) | (own == task))
        part = dataclasses.replace(dataset, splits={**dataset.splits, split: tuple(items[where[r]] for r in rows)})
        seen = 0
        for images, _, positions in Loader(part, split, device.preprocess, device.batch_size, shuffle=False).epoch(0):
            got, these = device.classify(task, images).classes + device.offsets[task], rows[positions]
            predicted[these] = np.where(found[these] == task, got, predicted[these])
            known[these] = np.where(own[these] == task, got, known[these])
            seen += len(got)
            if watch:
                watch(Progress(f"task {device.tasks[task]}", seen, len(rows), simulated_s=device.simulated_s))
    pairs, counts = np.unique(np.stack([classes, predicted]), axis=1, return_counts=True)
    rows = []
    for task in np.unique(own).tolist():
        of = own == task
        shares = [100 * float(x[of].mean()) for x in (found == task, predicted == classes, known == classes)]
        rows.append(Recognised(device.tasks[task], int(of.sum()), *shares))
    return rows, [(int(a), int(b), int(n)) for (a, b), n in zip(pairs.T, counts, strict=True)]
