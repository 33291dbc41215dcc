"""Training and evaluation over data sets. The host decodes and augments images; everything else is the device's program."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sasimc.isa.errors import SasError
from sasimc.runtime.data.datasets import Dataset
from sasimc.runtime.data.loader import Loader
from sasimc.runtime.device import Device
from sasimc.runtime.recipe import Recipe

__all__ = ["Epoch", "Training", "check_classes", "evaluate", "train"]


@dataclass(frozen=True)
class Epoch:
    """One epoch: mean loss (nats), accuracies in percent, bits written to the arrays, wall time."""

    epoch: int
    loss: float
    train_top1: float
    val_top1: float
    writes_bits: int
    wall_s: float


@dataclass
class Training:
    """Result: epochs, the best one on the validation split, and whether its weights were put back."""

    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: int = -1
    images: int = 0

    def rows(self) -> list[dict[str, Any]]:
        """Epochs as dictionaries for a report; an accuracy that was not measured is None."""
        return [{k: None if v != v else v for k, v in asdict(e).items()} for e in self.epochs]


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


def check_classes(device: Device, dataset: Dataset) -> None:
    """The classifier must have at least as many outputs as the data set has classes."""
    if len(dataset.classes) > device.classes:
        raise SasError(
            f"{dataset.name} has {len(dataset.classes)} classes and the program {device.classes}",
            hint=f"build the model with --classes {len(dataset.classes)}",
        )


def evaluate(
    device: Device, dataset: Dataset, split: str, watch: Watch | None = None, limit: int | None = None, threads: int = 1
) -> float:
    """Top-1 accuracy in percent on a split."""
    check_classes(device, dataset)
    loader = Loader(dataset, split, device.preprocess, device.batch_size, threads=threads, limit=limit)
    right = seen = 0
    for images, labels, _ in loader.epoch(0):
        right += int((device.infer(images).classes == labels).sum())
        seen += len(labels)
        if watch:
            watch(Progress(split, seen, loader.images, top1=100 * right / seen, simulated_s=device.simulated_s))
    return 100.0 * right / max(1, seen)


def _writes(device: Device) -> int:
    events = device.interpreter.events
    return int(events.get("bits_written_transposable", 0) + events.get("bits_written_compute", 0))


def train(
    device: Device,
    dataset: Dataset,
    recipe: Recipe,
    watch: Watch | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Training:
    """Train; the weights of the epoch best on the validation split (never the test split) or of the last, as the recipe says, stay."""
    check_classes(device, dataset)
    loader = Loader(dataset, "train", device.preprocess, device.batch_size, recipe.seed, recipe.augment, limit=recipe.limit)
    total, result = len(loader) * recipe.epochs, Training()
    best: tuple[float, dict[str, Any]] | None = None
    step = 0
    for number in range(recipe.epochs):
        start, before = time.perf_counter(), _writes(device)
        losses: list[float] = []
        right = seen = 0
        for images, labels, _ in loader.epoch(number):
            mu_head = recipe.mu_head.at(step, total)
            mu_rep = recipe.mu_rep.at(step, total)
            got = device.train_step(images, labels, mu_head=mu_head, mu_rep=mu_rep)
            losses += [got.loss] * len(labels)
            right, seen, step = right + got.correct, seen + len(labels), step + 1
            if watch:
                what = f"epoch {number + 1}/{recipe.epochs}"
                watch(Progress(what, seen, loader.images, float(np.mean(losses)), 100 * right / seen, device.simulated_s))
        result.images += seen
        written = _writes(device) - before
        val = evaluate(device, dataset, "val", watch, recipe.limit) if dataset.items("val") else float("nan")
        epoch = Epoch(number, float(np.mean(losses)), 100 * right / max(1, seen), val, written, time.perf_counter() - start)
        result.epochs.append(epoch)
        if on_epoch:
            on_epoch(epoch)
        if best is None or recipe.keep == "last" or val > best[0] or np.isnan(val):
            best = (val, device.state())
            result.best_epoch = number
    if best is not None:
        device.load_state(best[1])
    return result
