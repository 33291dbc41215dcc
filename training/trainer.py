"""Training over data sets. The host decodes and augments images; everything else is the device's program.

A run can be broken off at any step: :class:`TrainState` is all that is needed, besides what the arrays hold, to go on bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sasimc.datasets.dataset import Dataset
from sasimc.datasets.loader import Loader
from sasimc.isa.errors import SasError
from sasimc.isa.program import Tensor
from sasimc.profiling.profile import Meter
from sasimc.runtime.device import Device
from sasimc.training.evaluation import Progress, Watch, check_classes, evaluate, evaluate_values, wanted
from sasimc.training.keeping import Best, standard_error
from sasimc.training.level import Level
from sasimc.training.recipe import Recipe

__all__ = ["Epoch", "TrainState", "Training", "batch_of", "train"]

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Epoch:
    """One epoch: mean loss (nats; for values the mean squared error), accuracies in percent (NaN for values), bits written to the arrays, wall time; cycles
    and events by phase, validation included (what was spent since the end of the epoch before); ``val_loss``: the mean squared error of the validation split, where values are predicted."""

    epoch: int
    loss: float
    train_top1: float
    val_top1: float
    writes_bits: int
    wall_s: float
    phase_cycles: dict[str, int] = field(default_factory=dict)
    phase_events: dict[str, dict[str, int]] = field(default_factory=dict)
    val_loss: float | None = None

    @property
    def val(self) -> float:
        """The result on the validation split: percent right, or the mean squared error of values; NaN: not measured."""
        return self.val_top1 if self.val_loss is None else self.val_loss


@dataclass
class Training:
    """Result: epochs, the one whose weights were kept (``best_epoch``), images trained on."""

    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: int = -1
    images: int = 0

    @property
    def kept(self) -> Epoch:
        """The epoch whose weights were kept."""
        return self.epochs[self.best_epoch]

    def rows(self) -> list[dict[str, Any]]:
        """Epochs as dictionaries for a report; an accuracy that was not measured is None."""
        return [{k: None if v != v else v for k, v in asdict(e).items()} for e in self.epochs]


@dataclass
class TrainState:
    """Where a training stands after a step.

    ``epoch`` and ``batch``: the batch that comes next; ``step``: steps done; ``level``: of the loss; ``loss_sum``, ``right``, ``seen``, ``wall_s``: of the epoch so
    far; ``waited``: epochs since the best one; ``through``: images through the device, validation included; ``lap``: counts at the
    beginning of the epoch (:class:`Meter`); ``best_top1`` or ``best_loss``: the best result on the validation split, with its standard error ``best_error``; ``best_epoch`` and ``best``: the
    epoch whose weights are kept, and these; ``finished``: the weights that stay are in the arrays.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    level: Level = field(default_factory=Level)
    loss_sum: float = 0.0
    right: int = 0
    seen: int = 0
    wall_s: float = 0.0
    images: int = 0
    through: int = 0
    best_epoch: int = -1
    best_top1: float = float("nan")
    best_loss: float = float("nan")
    best_error: float = 0.0
    waited: int = 0
    finished: bool = False
    lap: dict[str, dict[str, int]] = field(default_factory=dict)
    epochs: list[Epoch] = field(default_factory=list)
    best: Weights | None = None

    @property
    def training(self) -> Training:
        """The result so far."""
        return Training(self.epochs, self.best_epoch, self.images)


Keep = Callable[[TrainState], None]


def batch_of(recipe: Recipe, compiled: int) -> int:
    """Images a step: the recipe's, where it says so, else as many as the program was compiled for.

    Raises:
        SasError: more than the program was compiled for.
    """
    if "batch" not in recipe.model_fields_set:
        return compiled
    if recipe.batch > compiled:
        raise SasError(
            f"a batch of {recipe.batch} images, the program was compiled for {compiled}",
            hint=f"sasc compile --batch {recipe.batch}, or a --batch up to {compiled}",
        )
    return recipe.batch


def _bits_written(phase_events: Mapping[str, Mapping[str, int]]) -> int:
    kinds = ("bits_written_transposable", "bits_written_compute")
    return sum(events.get(kind, 0) for events in phase_events.values() for kind in kinds)


def train(
    device: Device,
    dataset: Dataset,
    recipe: Recipe,
    watch: Watch | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    *,
    state: TrainState | None = None,
    keep: Keep | None = None,
) -> Training:
    """Train; the weights of the epoch stay that the recipe chooses by the validation split (never the test split).

    Args:
        state: where a run that was broken off stood; the arrays and counters of ``device`` must stand there as well.
        keep: called after every step, after every epoch and at the end; what it raises ends the run.

    Raises:
        SasError: too many classes, too large a batch, patience without validation images.
    """
    check_classes(device, dataset)
    batch = batch_of(recipe, device.batch_size)
    if recipe.patience and not dataset.items("val"):
        raise SasError(f"{dataset.name} has no validation images to stop by", hint="leave out --patience")
    loader = Loader(dataset, "train", device.preprocess, batch, recipe.seed, recipe.augment, limit=recipe.limit)
    run = state if state is not None else TrainState()
    if not run.step:
        run.level = Level.of(0 if device.values else len(dataset.classes), recipe.modules)
        device.seed(recipe.seed)
    meter = Meter(device.interpreter, run.lap or None)
    run.lap = meter.last
    while not run.finished and run.epoch < recipe.epochs and not (recipe.patience and run.waited >= recipe.patience):
        _steps(device, loader, recipe, run, watch, keep)
        done = _end_epoch(device, dataset, recipe, run, meter, watch)
        if keep:
            keep(run)
        if on_epoch:
            on_epoch(done)
    if not run.finished:
        if run.best is not None:
            device.program_state(run.best)
        run.finished = True
        if keep:
            keep(run)
    return run.training


def _steps(device: Device, loader: Loader, recipe: Recipe, run: TrainState, watch: Watch | None, keep: Keep | None) -> None:
    """The steps of an epoch that are left."""
    total, start, before = len(loader) * recipe.epochs, time.perf_counter(), run.wall_s
    for images, labels, positions in loader.epoch(run.epoch, run.batch):
        head_exponent, module_exponent = recipe.exponents(run.step, total, run.level)
        learned = wanted(device, loader.dataset, "train", labels, positions)
        got = device.train_step(images, learned, head_exponent=head_exponent, module_exponent=module_exponent)
        run.level, n = run.level.after(got.words, recipe.modules), len(labels)
        run.loss_sum += got.loss * n
        run.right, run.seen, run.images, run.through = run.right + got.correct, run.seen + n, run.images + n, run.through + n
        run.step, run.batch = run.step + 1, loader.due
        run.wall_s = before + time.perf_counter() - start
        if keep:
            keep(run)
        if watch:
            what, top1 = f"epoch {run.epoch + 1}/{recipe.epochs}", None if device.values else 100 * run.right / run.seen
            watch(Progress(what, run.seen, loader.images, run.loss_sum / run.seen, top1, device.simulated_s))


def _end_epoch(device: Device, dataset: Dataset, recipe: Recipe, run: TrainState, meter: Meter, watch: Watch | None) -> Epoch:
    """Validate, note the epoch and, if they are to be kept, its weights, and begin the next."""
    start, val, val_loss, error = time.perf_counter(), float("nan"), float("nan"), 0.0
    if dataset.items("val") and device.values:
        errors = evaluate_values(device, dataset, "val", watch, recipe.limit)
        val_loss, error = errors.mean, errors.standard_error
        run.through += len(errors.each)
    elif dataset.items("val"):
        val, seen = evaluate(device, dataset, "val", watch, recipe.limit)
        run.through, error = run.through + seen, standard_error(val, seen)
    spent = meter.lap()
    wall_s = run.wall_s + time.perf_counter() - start
    if not run.seen:
        raise SasError(f"{dataset.name}: no training image can be read")
    loss, written = run.loss_sum / run.seen, _bits_written(spent["phase_events"])
    top1 = float("nan") if device.values else 100 * run.right / run.seen
    done = Epoch(
        run.epoch,
        loss,
        top1,
        val,
        written,
        wall_s,
        spent["phase_cycles"],
        spent["phase_events"],
        None if val_loss != val_loss else val_loss,
    )
    run.epochs.append(done)
    result, now = (-run.best_loss, -val_loss) if device.values else (run.best_top1, val)  # NaN: not measured
    best = Best(result, run.best_error)
    run.waited = run.waited + 1 if result >= now else 0
    if best.takes(recipe.keep, now, error):
        run.best_epoch = run.epoch
        run.best = None if recipe.keep == "last" else device.state()
    run.best_error = best.error
    if device.values:
        run.best_loss = -best.result
    else:
        run.best_top1 = best.result
    run.lap = meter.last
    run.epoch, run.batch, run.loss_sum, run.right, run.seen, run.wall_s = run.epoch + 1, 0, 0.0, 0, 0, 0.0
    return done
