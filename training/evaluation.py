"""Evaluation over data sets: how many classes are right, or how far values are off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.datasets.dataset import Dataset
from sasimc.datasets.loader import Loader
from sasimc.datasets.values import auc
from sasimc.isa.errors import SasError
from sasimc.runtime.device import Device
from sasimc.runtime.interface import Interface
from sasimc.training.program_notes import more_classes

__all__ = [
    "Answers", "Errors", "Progress", "Run", "Watch", "check_classes", "evaluate", "evaluate_values", "run_here", "wanted",
]  # fmt: skip


@dataclass(frozen=True)
class Progress:
    """What is shown while running."""

    what: str
    done: int
    total: int
    loss: float | None = None
    top1: float | None = None
    simulated_s: float = 0.0


Watch = Callable[[Progress], None]


def check_classes(device: Device | Interface, dataset: Dataset) -> None:
    """The classifier must have at least as many outputs as the data set has classes."""
    if not device.values and len(dataset.classes) > device.classes:
        raise SasError(
            f"{dataset.name} has {len(dataset.classes)} classes and the program {device.classes}",
            hint=more_classes(len(dataset.classes)),
        )


def wanted(
    device: Device, dataset: Dataset, split: str, labels: npt.NDArray[np.int32], positions: npt.NDArray[np.int64]
) -> npt.NDArray[Any] | None:
    """What a batch of a loader is to be learned as: class numbers; where values are predicted the real targets, or None: the inputs themselves."""
    items = dataset.items(split)
    return dataset.targets(items[p] for p in positions) if device.values else labels


@dataclass(frozen=True)
class Answers:
    """Of some images in the order of a loader: their classes and the device's [n], squared errors [n] where it predicts values, positions in the split [n]."""

    classes: npt.NDArray[np.int32]
    found: npt.NDArray[np.int64]
    errors: npt.NDArray[np.float64]
    positions: npt.NDArray[np.int64]


Run = Callable[[Device, Loader], Iterator[Answers]]
"""Runs what a loader gives through a device, whose counters have it afterwards."""


def run_here(device: Device, loader: Loader) -> Iterator[Answers]:
    """Batch by batch, on this device. Which images are replayed (:meth:`Device.cross_check`) does not depend on damaged ones before them."""
    began = device.seen
    for images, labels, positions in loader.epoch(0):
        device.seen = began + (loader.due - 1) * loader.batch
        goal = None
        if device.values:
            goal = device.targets(images, wanted(device, loader.dataset, loader.split, labels, positions)).reshape(
                len(images), -1
            )
        found = device.infer(images)
        errors = np.zeros(0) if goal is None else np.square(found.logits - goal).mean(axis=1) * device.output.scale**2
        yield Answers(labels, found.classes, errors, positions)


def evaluate(
    device: Device, dataset: Dataset, split: str, watch: Watch | None = None, limit: int | None = None, threads: int = 1,
    answers: Counter[tuple[int, int]] | None = None, run: Run = run_here, marks: dict[int, bool] | None = None,
) -> tuple[float, int]:  # fmt: skip
    """Top-1 accuracy in percent on the images of a split that can be read, and their number. ``answers`` counts (class, class that was predicted),
    ``marks`` gets position in the split -> whether it is right.

    Raises:
        SasError: no image can be read, or the program predicts values.
    """
    if device.values:
        raise SasError(
            "the program predicts values, no classes", where=device.program.source, hint="evaluate_values gives their errors"
        )
    check_classes(device, dataset)
    loader = Loader(dataset, split, device.preprocess, device.batch_size, threads=threads, limit=limit)
    right = seen = 0
    for some in run(device, loader):
        right += int((some.found == some.classes).sum())
        if marks is not None:
            marks.update(zip(some.positions.tolist(), (some.found == some.classes).tolist(), strict=True))
        if answers is not None:
            answers.update(zip(some.classes.tolist(), some.found.tolist(), strict=True))
        seen += len(some.classes)
        if watch and seen:
            watch(Progress(split, seen, loader.images, top1=100 * right / seen, simulated_s=device.simulated_s))
    if not seen:
        raise SasError(f"{dataset.name}: no image of the {split!r} split can be read")
    return 100.0 * right / seen, seen


@dataclass(frozen=True)
class Errors:
    """Squared errors of a split: ``each`` [n], the mean over an example's values; ``keys`` and ``classes`` [n] of the examples; ``auc``: how well ``each``
    tells the classes that were not trained on from the others (NaN: there are none)."""

    each: npt.NDArray[np.float64]
    keys: tuple[str, ...]
    classes: npt.NDArray[np.int32]
    auc: float

    @property
    def mean(self) -> float:
        return float(self.each.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean."""
        return float(self.each.std() / np.sqrt(len(self.each)))


def evaluate_values(
    device: Device, dataset: Dataset, split: str, watch: Watch | None = None, limit: int | None = None, threads: int = 1,
    run: Run = run_here,
) -> Errors:  # fmt: skip
    """Squared errors of the outputs, in their own units, against the targets of a split (where there are none, the inputs). Raises SasError when nothing can
    be read."""
    loader = Loader(dataset, split, device.preprocess, device.batch_size, threads=threads, limit=limit)
    items = dataset.items(split)
    each, chosen = list[float](), list[int]()
    for some in run(device, loader):
        each += some.errors.tolist()
        chosen += some.positions.tolist()
        if watch and each:
            watch(Progress(split, len(each), loader.images, loss=float(np.mean(each)), simulated_s=device.simulated_s))
    if not each:
        raise SasError(f"{dataset.name}: nothing of the {split!r} split can be read")
    classes = np.asarray([items[i].class_id for i in chosen], np.int32)
    return Errors(np.asarray(each), tuple(items[i].key for i in chosen), classes, auc(each, ~np.isin(classes, _normal(dataset))))


def _normal(dataset: Dataset) -> list[int]:
    """The classes that are trained on; where all are, the first."""
    trained = {i.class_id for i in dataset.items("train")}
    return sorted(trained) if 0 < len(trained) < len(dataset.classes) else [0]
