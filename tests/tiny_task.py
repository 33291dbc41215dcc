"""What the tests of device images share: a small program, small data sets, one training on an image from begin to end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from models import mobilenet_like, plain_cnn

from sasimc.api import CompileOptions, compile_model
from sasimc.datasets.dataset import Dataset, open_dataset
from sasimc.isa.machine import Machine, load_machine
from sasimc.isa.program import Program
from sasimc.runtime.device import Device
from sasimc.training.image.image import DeviceImage
from sasimc.training.image.journal import Medium
from sasimc.training.image.tasks import TaskStore
from sasimc.training.recipe import Recipe
from sasimc.training.trainer import TrainState, train

__all__ = ["Outcome", "dataset", "learn", "logits", "machine", "program", "short_program"]


@lru_cache
def machine(groups: int = 4) -> Machine:
    """The default machine with that many activation groups."""
    data = load_machine().model_dump()
    data["array"] |= {"banks": (groups, 16), "mats": (1, 2)}
    data["gradient"]["scratch_subarrays"] = 2
    return Machine.model_validate(data)


@lru_cache
def program(groups: int = 4, seed: int = 0, **options: Any) -> Program:
    """A frozen backbone, one trainable module and a classifier of 5 outputs, batches of 2."""
    model = mobilenet_like(size=8, width=4, modules=1, seed=seed)
    return compile_model(model, CompileOptions(batch=2, machine=machine(groups), **options)).program


@lru_cache
def short_program(**options: Any) -> Program:
    """One convolution and a classifier, both trained: few instructions, for runs that begin very often."""
    model = plain_cnn(size=6, channels=(3,), classes=5)
    return compile_model(model, CompileOptions(batch=2, machine=machine(2), **options)).program


@lru_cache
def dataset(classes: int = 4, draw: int = 0, images: int = 2) -> Dataset:
    """Drawn flowers of the first classes, 8 x 8; every ``draw`` has its own images."""
    whole = open_dataset("drawn-flowers", size=8, per_class=(images, 1, 1))
    splits = {
        s: tuple(dataclasses.replace(i, key=str(int(i.key) + 1000 * draw)) for i in items if i.class_id < classes)
        for s, items in whole.splits.items()
    }
    return dataclasses.replace(whole, name=f"flowers{draw}", classes=whole.classes[:classes], splits=splits)


@dataclass(frozen=True)
class Outcome:
    """What a training leaves: the image's bytes, wear, epochs (without wall time), cycles and events."""

    image: bytes
    epochs: list[Any]
    best_epoch: int
    counts: dict[str, int]


def learn(
    path: Path, p: Program, name: str, data: Dataset, recipe: Recipe, *, medium: Medium | None = None, resume: bool = False,
    engine: str = "fused", started: Callable[[Device], None] = lambda device: None, freeze: frozenset[str] = frozenset(),
) -> Outcome:  # fmt: skip
    """Learn a task on the image at ``path``, or go on with the one that was broken off."""
    image = DeviceImage.open(path, p, medium)
    try:
        bank = TaskStore(image, p, engine, threads=1)
        if resume and image.pending is not None:
            device, run = bank.resume(freeze)
        else:
            bank.create(name, data.classes)
            device, run = bank.select(name, freeze), TrainState()
            bank.begin({})
        started(device)
        result = train(device, data, recipe, state=run, keep=bank.keep)
        bank.learned(run, {"val": result.kept.val})
    finally:
        image.close()
    epochs = [dataclasses.replace(e, wall_s=0.0) for e in result.epochs]
    it = device.interpreter
    counts = {"cycles": it.cycles, "seen": device.seen, **it.events, **{f"cycles {p}": n for p, n in it.phase_cycles.items()}}
    return Outcome(path.read_bytes(), epochs, result.best_epoch, counts)


def logits(path: Path, p: Program, name: str, data: Dataset) -> npt.NDArray[np.int64]:
    """Logits of a task for the test images."""
    image = DeviceImage.open(path, p)
    try:
        device = TaskStore(image, p, threads=1).select(name)
        pictures = [data.load(i) for i in data.items("test")]
        return np.concatenate([device.infer(x[None]).logits for x in pictures])
    finally:
        image.close()
