"""A session and its device image: which task runs, what is kept after every step, how a run is broken off and goes on."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sasimc.datasets.dataset import Dataset, Item
from sasimc.isa.described import damage
from sasimc.isa.errors import SasError
from sasimc.isa.program import Program
from sasimc.runtime.device import Device
from sasimc.runtime.interface import Interface
from sasimc.training.evaluation import Watch
from sasimc.training.image.image import DeviceImage, Task
from sasimc.training.image.rebind import frozen_layers, with_classes, without_writes
from sasimc.training.image.recognise import features_of
from sasimc.training.image.recogniser import Recogniser, recogniser, settle
from sasimc.training.image.tasks import TaskStore
from sasimc.training.program_notes import with_labels, with_notes
from sasimc.training.recipe import Recipe
from sasimc.training.recognition import Recognised, class_means
from sasimc.training.session_data import SessionData
from sasimc.training.session_options import SessionOptions, make_recipe
from sasimc.training.trainer import TrainState, batch_of

__all__ = [
    "Begun",
    "Interrupts",
    "Keeper",
    "SessionImage",
    "fingerprint",
    "interruptible",
    "learned_classes",
    "learner",
    "plain_device",
]


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 of the classes and of which image stands where: the same for the same images in the same splits."""
    digest = hashlib.sha256("\0".join(dataset.classes).encode())
    for split, items in dataset.splits.items():
        digest.update(f"\n{split}\n".encode())
        digest.update("\0".join(f"{i.class_id} {i.key}" for i in items).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Begun:
    """What an unfinished training was begun with; ``outputs``: files that are to be written at the end (``save``, ``json``, ``trace``);
    ``added``: it adds classes to a task, of which the first ``fixed`` keep their logits; ``level``: what wear is levelled of."""

    task: str
    train: str
    data: str | None
    evaluate: str | None
    dataset: str
    recipe: Recipe
    freeze: str
    match: str = "name"
    outputs: Mapping[str, str] = field(default_factory=dict)
    added: bool = False
    fixed: int = 0
    level: str = "none"

    @staticmethod
    def of(image: DeviceImage) -> Begun:
        """Read it from the image. Raises SasError when there is none, or it makes no sense."""
        where = str(image.medium.path)
        if image.pending is None:
            raise SasError("the device has no unfinished training", where=where, hint="leave out --resume")
        setup = dict(image.pending.setup)
        try:
            return Begun(image.pending.task, **{**setup, "recipe": Recipe.model_validate(setup["recipe"])})
        except (TypeError, ValueError, KeyError) as exc:
            raise SasError(
                f"the unfinished training is damaged: {damage(exc)}", where=where, hint="sasc image forget IMAGE TASK"
            ) from None

    def json(self) -> dict[str, Any]:
        """As it is kept in the image."""
        recipe = self.recipe.model_dump(mode="json", exclude_unset=True)
        return {**{k: v for k, v in self.__dict__.items() if k != "task"}, "recipe": recipe}

    def require(self, o: SessionOptions) -> None:
        """Options that are given once more must be what they were.

        Raises:
            SasError: one of them is not.
        """
        given: dict[str, tuple[Any, Any]] = {"--task": (o.task, self.task), "--freeze": (o.freeze or None, self.freeze)}
        if o.level != SessionOptions.level:
            given["--level"] = (o.level, self.level)
        if o.match != SessionOptions.match:
            given["--match"] = (o.match, self.match)
        if o.train and not Path(o.train).exists():  # a folder may have moved; whether its images are the same is seen later
            given["--train"] = (o.train, self.train)
        recipe = make_recipe(o.recipe, o.changes, self.recipe)
        for key in recipe.model_fields_set:
            given[f"--{key.replace('_', '-')}"] = (getattr(recipe, key), getattr(self.recipe, key))
        for option, (now, then) in given.items():
            if now is not None and now != then:
                raise SasError(
                    f"{option}: the training that goes on was begun with {then!r}, not {now!r}",
                    hint=f"leave out {option} with --resume",
                )


class Interrupts:
    """Whether Ctrl-C was pressed (the second one ends the run at once)."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Within, Ctrl-C is only noted: a step in progress ends first."""
    noted = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = signal.signal(signal.SIGINT, noted)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def learned_classes(about: Interface | Device, dataset: Dataset) -> tuple[str, ...]:
    """What is learned from a data set: its classes; none where values are predicted."""
    return () if about.values else dataset.classes


def learner(program: Program, classes: Sequence[str]) -> Program:
    """The program with these classes' names, and predictions among them only."""
    return with_labels(with_classes(program, len(classes)), classes)


def plain_device(program: Program, o: SessionOptions, training: Dataset | None) -> Device:
    """A device without an image. In training, predictions are among the data set's classes."""
    if training is not None:
        program = learner(program, learned_classes(Interface.of(program), training))
    frozen = frozen_layers(program, o.freeze)
    device = Device(without_writes(program, frozen), o.engine, o.threads)
    device.level(o.level)
    return device


class SessionImage:
    """The image of a session, opened and locked; ``begun``: the training that goes on (with ``--resume``)."""

    def __init__(self, program: Program, o: SessionOptions, say: Callable[[str], None]) -> None:
        assert o.image is not None
        self.options, self._say = o, say
        self.path = o.image
        self.image = DeviceImage.open(o.image, program)
        try:
            self.begun = self._begun()
            self.bank = TaskStore(self.image, program, o.engine, o.threads, self.begun.level if self.begun else o.level)
        except BaseException:
            self.image.close()
            raise
        self.run = TrainState()

    def _begun(self) -> Begun | None:
        o, pending = self.options, self.image.pending
        if o.resume:
            begun = Begun.of(self.image)
            begun.require(o)
            return begun
        if pending is not None and (o.train or not (o.evaluate or o.inputs)):
            raise SasError(
                f"the training of task {pending.task!r} on this device is not finished",
                where=str(self.path),
                hint="--resume goes on with it; `sasc image forget IMAGE TASK` gives it up",
            )
        return None

    def _which(self, dataset: Dataset | None) -> str:
        """The task that --eval or --input is for."""
        names = [t.name for t in self.bank.tasks.values() if t.learned]
        if self.options.task or self.begun:
            return self.bank.task(self.options.task or (self.begun.task if self.begun else "")).name
        if dataset is not None and dataset.name in names:
            return dataset.name
        if len(names) == 1:
            return names[0]
        raise SasError(
            f"which task? The device has {', '.join(names) or 'none that is learned'}", where=str(self.path), hint="--task NAME"
        )

    def begin(self, dataset: Dataset, recipe: Recipe) -> Device:
        """The device for a training: of a new task, or the one that goes on."""
        o = self.options
        if self.begun is not None:
            if self.begun.dataset != fingerprint(dataset):
                raise SasError(
                    f"{dataset.name} holds other images than when the training was begun", where=str(self.path),
                    hint="--data names the folder of data sets; use the same images",
                )  # fmt: skip
            device, self.run = self.bank.resume(frozen_layers(self.bank.program, self.begun.freeze), self.begun.fixed)
            if self.image.rolled_back:
                self._say("a step was cut off; it was rolled back to the end of the step before")
            return device
        if o.add:
            assert o.task is not None
            name, known = o.task, len(self.bank.task(o.task).classes)
            device, fixed = self.bank.extend(name, dataset.classes, o.retrain), 0 if o.retrain else known
            kept = (
                f"its {known} classes are trained with them"
                if o.retrain
                else f"the logits of its {known} classes stay as they are"
            )
            self._say(f"task {name} learns {', '.join(dataset.classes[known:])}; {kept}")
        else:
            frozen, fixed = frozen_layers(self.bank.program, o.freeze), 0
            name = self.bank.create(
                o.task or _task_name(dataset), learned_classes(Interface.of(self.bank.program), dataset), dataset.name
            ).name
            device = self.bank.select(name, frozen)
        self.begun = replace(_begun(name, o, dataset, recipe, device.batch_size), added=bool(o.add), fixed=fixed)
        self.bank.begin(self.begun.json())
        return device

    def remember(self, dataset: Dataset, recipe: Recipe, watch: Watch) -> dict[str, Any]:
        """Means of the frozen features of the classes that a training is about, which have none yet: by them the task's images are known later (``--task
        auto``). Returns what that took, for a report; empty where nothing was to do."""
        task, image = self.task, self.image
        assert task is not None
        known = image.means.get(task.name)
        if (
            not task.classes
            or len(task.classes) == len(known if known is not None else ())
            or features_of(self.bank.program) is None
        ):
            return {}
        program = with_notes(self.bank.program, task.notes)
        means, images, cycles = class_means(program, dataset, self.bank.engine, self.bank.threads, recipe.limit, watch)
        image.means[task.name] = means if known is None else np.concatenate([known, means[len(known) :]])
        image.save()
        return {"means": len(image.means[task.name]), "features": means.shape[1], "images": images, "cycles": cycles}

    def use_any(self) -> Recogniser:
        """A device for all tasks that are learned, which finds out to which of them an image belongs."""
        return recogniser(self.bank)

    def settle(self, device: Recogniser, data: SessionData, split: str, found: Sequence[Recognised]) -> None:
        """What such a device did, and what was measured on it, into the image."""
        for row in found:
            assert data.evaluation is not None
            classes = {c for c, task in enumerate(device.task_of(data.numbers)) if device.tasks[task] == row.task}
            digest = _digest(data.evaluation.name, (i for i in data.evaluation.items(split) if i.class_id in classes))
            self.bank.note(row.task, split, digest, row.images, top1=row.known, recognised=row.recognised, unsaid=row.top1)
        settle(self.bank, device)

    def use(self, dataset: Dataset | None) -> Device:
        """The device for a task that is learned."""
        name = self._which(dataset)
        before = self.bank.task(name)
        device = self.bank.select(name)
        task = self.bank.task(name)
        written = task.placing.bits_written - before.placing.bits_written
        if before.slot is None:
            rows, flipped = task.placing.rows - before.placing.rows, task.placing.bits_flipped - before.placing.bits_flipped
            self._say(f"task {name} swapped in: {rows} rows, {written} bits written, {flipped} bits flipped")
        return device

    @property
    def task(self) -> Task | None:
        """The selected task."""
        return self.bank.selected

    def classes(self, dataset: Dataset | None) -> Sequence[str]:
        """The classes of the task that --eval or --input is for."""
        return self.bank.task(self._which(dataset)).classes

    def learned(self, accuracy: dict[str, float]) -> None:
        """The training is finished; what was learned is on the disk from now on."""
        self.bank.learned(self.run, accuracy)

    def measured(self, dataset: Dataset, split: str, found: float, images: int) -> None:
        """The task is evaluated on a split: percent right, or the mean squared error."""
        self.bank.measured(split, found, _digest(dataset.name, dataset.items(split)), images, now=self.begun is not None)

    def close(self) -> None:
        self.image.close()


class Keeper:
    """Called by the trainer after every step: makes it durable, and heeds Ctrl-C.

    Without an image nothing is kept, until Ctrl-C makes one beside the program's name in the current folder. ``saved``: the image in which
    the run can go on, or None.
    """

    def __init__(
        self, image: SessionImage | None, program: Program, o: SessionOptions, dataset: Dataset, recipe: Recipe, device: Device, noted: Interrupts
    ) -> None:  # fmt: skip
        self._image, self._noted = image, noted
        self._program, self._options, self._dataset, self._recipe, self._device = program, o, dataset, recipe, device
        self.saved = image.path if image else None

    def __call__(self, run: TrainState) -> None:
        if self._image is not None:
            self._image.bank.keep(run)
        if not self._noted.asked or run.finished:
            return
        if self._image is None:
            self.saved = self._save(run)
        raise KeyboardInterrupt

    def _save(self, run: TrainState) -> Path:
        o = self._options
        stem = o.program.stem if isinstance(o.program, Path) else "sasrun"
        names = (Path(f"{stem}{f'-{i}' if i else ''}.sas") for i in range(1 << 16))
        path = next(name for name in names if not name.exists())
        image = DeviceImage.open(path, self._program)
        try:
            bank = TaskStore(image, self._program, o.engine, o.threads)
            classes = learned_classes(self._device, self._dataset)
            task = bank.adopt(self._device, o.task or _task_name(self._dataset), classes, self._dataset.name)
            bank.begin(_begun(task.name, o, self._dataset, self._recipe, self._device.batch_size).json())
            bank.keep(run)
        finally:
            image.close()
        return path


def _begun(task: str, o: SessionOptions, dataset: Dataset, recipe: Recipe, compiled: int) -> Begun:
    """What a training is begun with; paths absolute, the batch written out."""
    recipe = Recipe.model_validate({**recipe.model_dump(exclude_unset=True), "batch": batch_of(recipe, compiled)})
    given = o.train or o.add
    train = str(Path(given).absolute()) if given and Path(given).exists() else given or dataset.name
    data = str(o.data.absolute()) if o.data else None
    outputs = {name: str(path.absolute()) for name, path in o.outputs.items()}
    return Begun(task, train, data, o.evaluate, fingerprint(dataset), recipe, o.freeze, o.match, outputs, level=o.level)


def _digest(name: str, items: Iterable[Item]) -> str:
    """What names the images of an evaluation."""
    return hashlib.sha256("\0".join([name, *(i.key for i in items)]).encode()).hexdigest()[:16]


def _task_name(dataset: Dataset) -> str:
    """A task's name from a data set's."""
    name = "".join(c if (c.isalnum() and c.isascii()) or c in "_.+-" else "_" for c in dataset.name)[:64].lstrip(".+-")
    return name or "task"
