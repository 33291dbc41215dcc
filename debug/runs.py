"""What a session executes: an entry point once or several times, images to classify, the steps of a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from sasimc.datasets.dataset import Dataset
from sasimc.datasets.loader import Batch, Loader
from sasimc.debug.history import Run
from sasimc.isa.errors import SasError
from sasimc.runtime.device import Device
from sasimc.runtime.interpreter import Interpreter
from sasimc.training.evaluation import check_classes, wanted
from sasimc.training.level import Level
from sasimc.training.recipe import Recipe
from sasimc.training.trainer import batch_of

__all__ = ["Runs", "entries", "images", "training"]

Runs = Callable[[int], Run | None]


def entries(*names: str, prepare: Callable[[Interpreter], None] = lambda it: None) -> Runs:
    """Entry points one after the other; ``prepare``: what the host does before the first."""
    made = [Run(name, name, prepare if number == 0 else lambda it: None) for number, name in enumerate(names)]
    return lambda number: made[number] if number < len(made) else None


def images(device: Device, examples: Sequence[tuple[str, npt.NDArray[Any]]]) -> Runs:
    """Classify (name, example) one after the other."""

    def run(number: int) -> Run | None:
        if number >= len(examples):
            return None
        name, example = examples[number]
        return Run("infer", f"infer {name}", lambda it: _on(device, it, lambda d: d.feed(example)))

    return run


def training(device: Device, dataset: Dataset, recipe: Recipe) -> Runs:
    """The steps of a training, as `sasrun --train` does them. Validation and what follows the last epoch are left out: they change no weights.

    Raises:
        SasError: too many classes, too large a batch, a program that does not train.
    """
    if not device.trainable:
        raise SasError("the program has no train_step", where=device.program.source, hint="compile a model with trainable layers")
    check_classes(device, dataset)
    loader = Loader(
        dataset, "train", device.preprocess, batch_of(recipe, device.batch_size), recipe.seed, recipe.augment, limit=recipe.limit
    )
    each, first = len(loader), device.step_entry
    kept: dict[int, Batch] = {}
    levels = {
        0: Level.of(0 if device.values else len(dataset.classes), recipe.modules)
    }  # of the loss, before each step that was reached

    def batch(number: int) -> Batch:
        if number not in kept:
            found = next(iter(loader.epoch(number // each, number % each)), None)
            if found is None:
                raise SasError(f"training step {number + 1} has no image that can be read")
            if len(kept) > 8:
                kept.pop(min(kept, key=lambda n: -abs(n - number)))
            kept[number] = found
        return kept[number]

    def prepare(it: Interpreter, number: int) -> None:
        if number not in levels:
            images = len(batch(number - 1)[1])
            words = sum(int(it.read_view(device.io["loss"], b).reshape(-1)[0]) for b in range(images)) // images
            levels[number] = levels[number - 1].after(words, recipe.modules)
        pictures, labels, positions = batch(number)
        learned = wanted(device, dataset, "train", labels, positions)
        head, module = recipe.exponents(number, each * recipe.epochs, levels[number])
        _on(device, it, lambda d: d.feed_step(pictures, learned, head_exponent=head, module_exponent=module))

    def run(number: int) -> Run | None:
        if number >= each * recipe.epochs:
            return None
        title = f"training step {number + 1} (epoch {number // each + 1}, batch {number % each + 1})"
        return Run(first if number == 0 else "train_step", title, lambda it: prepare(it, number), number + 1)

    return run


def _on(device: Device, it: Interpreter, do: Callable[[Device], Any]) -> None:
    """Let a device do something on another interpreter of the same program."""
    own = device.interpreter
    device.interpreter = it
    try:
        do(device)
    finally:
        device.interpreter = own
