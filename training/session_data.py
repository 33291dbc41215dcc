"""The data sets of a session: opened, their classes matched with the program's, their files checked before anything is learned."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sasimc.datasets.catalog import CATALOGUE
from sasimc.datasets.check import BackgroundCheck, check_files, check_headers
from sasimc.datasets.classes import align, extend
from sasimc.datasets.dataset import Dataset, data_folder, hold_back, open_dataset
from sasimc.isa.choices import SPLITS
from sasimc.isa.errors import SasError
from sasimc.runtime.interface import Interface
from sasimc.training.evaluation import check_classes
from sasimc.training.image.image import AUTO, Task
from sasimc.training.recognition import of_tasks
from sasimc.training.session_options import SessionOptions

__all__ = ["SessionData"]

_SHOWN = 5
"""So many damaged files are named one by one; the report names all."""


class SessionData:
    """``training`` and ``evaluation``: the data sets that a session works on, or None; ``notes``: what was done with them, in words; ``numbers``: of the
    classes of ``evaluation`` among those of all tasks, where theirs is not said."""

    def __init__(self, o: SessionOptions, about: Interface, data: Path | None, say: Callable[[str], None]) -> None:
        self._options, self._about, self._data, self._say = o, about, data, say
        self.training: Dataset | None = None
        self.evaluation: Dataset | None = None
        self.notes: list[str] = []
        self.numbers = np.zeros(0, np.int64)
        self._said = 0
        self._background: BackgroundCheck | None = None

    @property
    def adds(self) -> bool:
        """Whether the training adds classes to a task."""
        return self._options.add is not None

    def open(self, train: str | None, evaluate: str | None, share: float) -> None:
        """Open what is asked for; without a task, what a run trains on by itself. ``share`` of the training images is held back for validation.

        Raises:
            SasError: one that cannot be opened, has more classes than the program, or no training images where some are needed.
        """
        self.training, self.evaluation = self._open(train), self._open(evaluate)
        if not (self._options.inputs or train or evaluate):
            self.training = self.evaluation = self._default()
        if self.training is not None:
            self.training = hold_back(_with_training(self.training), share)

    def match(self, labels: Sequence[str], has_learned: bool, learned: Sequence[str] | None) -> None:
        """Give the data the class numbers of the program (``labels``; ``has_learned``: they mean something), or of the task that is used
        (``learned``). What is trained may have new classes."""
        if self._about.values:
            return
        by_position = self._options.match == "position"
        if self.training is not None and self.adds:
            assert learned is not None
            self.training, words = extend(self.training, learned)
            self.notes.append(words)
            learned = self.training.classes
        elif self.training is not None:
            trained = self.training
            if not (by_position and trained.named):  # else its own names in its own order
                try:
                    self.training, words = align(trained, labels, learns=True, by_position=by_position)
                    self.notes.append(words)
                except SasError:
                    if has_learned:
                        raise
            learned = self.training.classes
        if self.evaluation is not None and self.evaluation is not self.training:
            wanted = labels if learned is None else learned
            self.evaluation, words = align(self.evaluation, wanted, learns=False, by_position=by_position)
            self.notes.append(words)

    def match_tasks(self, tasks: Sequence[Task]) -> None:
        """Find the classes of the data to evaluate among those of all tasks (``numbers``)."""
        if self.evaluation is not None:
            self.numbers, words = of_tasks(self.evaluation, tasks)
            self.notes.append(words)

    def check(self, split: str, watch: Callable[[int, int], None]) -> None:
        """Read all headers; with --strict all files, else those that are used late in the background.

        Raises:
            SasError: a class without a readable image; with --strict any damaged file.
        """
        strict = self._options.strict
        same = self.evaluation is self.training
        if self.training is not None:
            self.training = check_headers(self.training, strict, watch)
            if strict:
                check_files(self.training, SPLITS, watch)
            else:
                self._background = BackgroundCheck(self.training, ("test", "val"))
        if same:
            self.evaluation = self.training
        elif self.evaluation is not None:
            self.evaluation = check_headers(self.evaluation, strict, watch)
            if strict:
                check_files(self.evaluation, (split,), watch)

    def watch(self) -> None:
        """Say which files turned out damaged since the last time. Raises SasError when a class has lost all its training images."""
        files = self.damaged
        if len(files) == self._said:
            return
        new = list(files.items())[self._said : max(self._said, _SHOWN)]
        for _, reason in new:
            self._say(f"warning: {reason}; skipped")
        if len(files) > _SHOWN >= self._said:
            self._say(f"warning: more than {_SHOWN} damaged files; they are skipped, counted at the end, and named in the report")
        self._said = len(files)
        if self.training is not None:
            whole = Counter(i.class_id for i in self.training.items("train"))
            lost = Counter(i.class_id for i in self.training.items("train") if i.key in files)
            for class_id, count in lost.items():
                if count == whole[class_id]:
                    raise SasError(
                        f"{self.training.name}: no training image of class {self.training.classes[class_id]!r} can be read",
                        hint="repair or replace its files",
                    )

    @property
    def damaged(self) -> dict[str, str]:
        """Damaged files with the reason."""
        sets = {id(d.damaged): d.damaged for d in (self.training, self.evaluation) if d is not None}
        return {key: reason for damaged in sets.values() for key, reason in damaged.files.items()}

    def summary(self) -> dict[str, Any]:
        """For a report: damaged files, and what was left out."""
        sets = list(dict.fromkeys(d.left_out for d in (self.training, self.evaluation) if d is not None))
        return {
            "folder": str(data_folder(self._data) or ""),
            "damaged": self.damaged,
            "left_out": [name for left in sets for name in left],
        }

    def close(self) -> None:
        if self._background is not None:
            self._background.stop()

    def _values(self) -> int | None:
        """Values that the program predicts an example; None: classes."""
        return self._about.output.size if self._about.values else None

    def _default(self) -> Dataset:
        """What a run without a task trains on: ``flowers``, drawn when the network has too few outputs for the real ones."""
        if self._about.values:
            raise SasError("the program predicts values: what is it to learn?", hint="--train DATA.npz, --eval or --input")
        size = self._about.input.shape[0]
        found = open_dataset("flowers", self._data, size=size)
        if len(found.classes) > self._about.classes:
            drawn = open_dataset("drawn-flowers", size=size)
            why = f"{drawn.note} (the network has {self._about.classes} outputs, {found.name} {len(found.classes)} classes)"
            found = dataclasses.replace(drawn, note=why)
        check_classes(self._about, found)
        return found

    def _open(self, name: str | None) -> Dataset | None:
        if name is None:
            return None
        size = self._about.input.shape[0]
        found = open_dataset(name, self._data, size=size, values=self._values())
        if self._options.task == AUTO:  # of any number of tasks
            return found
        if (
            not self._about.values
            and len(found.classes) > self._about.classes
            and (relative := self._relative(name, size)) is not None
        ):
            self._say(
                f"{found.name} has {len(found.classes)} classes, the program {self._about.classes}: taking {relative.name} "
                f"({len(relative.classes)} classes) instead"
            )
            found = relative
        check_classes(self._about, found)
        return found

    def _relative(self, name: str, size: int) -> Dataset | None:
        """A data set whose name begins with ``name`` (``flowers`` -> ``flowers17``) and whose classes fill the classifier exactly."""
        for other, known in CATALOGUE.items():
            if other != name and other.startswith(name) and known.classes == self._about.classes:
                try:
                    return open_dataset(other, self._data, size=size)
                except SasError:
                    continue
        return None


def _with_training(dataset: Dataset) -> Dataset:
    if dataset.items("train"):
        return dataset
    if len(dataset.items("test")) == sum(dataset.counts().values()) == len(dataset.classes):
        raise SasError(
            f"{dataset.name} has one image a class: nothing is left to learn from beside it", hint="give each class more images"
        )
    there = " and ".join(f"{s} ({n} images)" for s, n in dataset.counts().items() if n)
    raise SasError(
        f"{dataset.name} has no training images, only {there}: which are to be learned from?",
        hint="name their folder train (or training), beside the others; to measure only, --eval with --split val or test",
    )
