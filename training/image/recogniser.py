"""A device on which every learned task can run, and which says itself what task an image belongs to."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.isa.errors import SasError
from sasimc.isa.program import Program, Tensor
from sasimc.runtime.device import Device, Inference
from sasimc.runtime.state import RowWrites
from sasimc.training.image.rebind import Slot, at_slot, trainable_matrices, with_classes, written_rows
from sasimc.training.image.recognise import Mean, classify_code, recognise_code
from sasimc.training.image.tasks import TaskStore
from sasimc.training.program_notes import chosen_preprocess, with_labels, with_notes

__all__ = ["Candidate", "Recogniser", "recogniser", "settle"]


@dataclass(frozen=True)
class Candidate:
    """A task: its classes, the means of its classes' features, its weights by matrix and learned biases by view, the place it runs in, and whether it
    stands there."""

    name: str
    classes: tuple[str, ...]
    means: Mean
    weights: Mapping[str, Tensor]
    biases: Mapping[str, Tensor]
    slot: Slot
    resident: bool


def _joined(program: Program, means: Mean, tasks: Sequence[Candidate]) -> Program:
    """One program: entry ``infer`` recognises, entry ``task0`` ... classifies as the first task does, and so on."""
    first = recognise_code(program, means)
    parts = {"infer": first}
    for i, t in enumerate(tasks):
        parts[f"task{i}"] = classify_code(with_classes(at_slot(program, t.slot), len(t.classes)), f"@{i}", t.weights)
    code, entries = (), {}
    joined = {"views": {}, "matrices": {}, "tables": {}, "tensors": {}}
    for name, part in parts.items():
        entries[name] = len(code)
        code += part.code
        for kind, all_of_it in joined.items():
            all_of_it |= getattr(part, kind)
    labels = [f"{t.name}: {c}" for t in tasks for c in t.classes]
    joined["matrices"] = {n: m for n, m in joined["matrices"].items() if n not in trainable_matrices(program)}
    made = replace(first, code=code, entries=entries, meta={**program.meta, "classes": str(len(labels))}, **joined)
    return with_labels(made, labels)


class Recogniser(Device):
    """``candidates``: the tasks; ``tasks``: their names; ``offsets`` [tasks + 1]: class c of task t is number ``offsets[t] + c`` among all; ``recognition_cycles``: the device's
    for finding tasks; ``standing``: the tasks in the arrays; ``swapped``: writes of tasks that were swapped in, by name."""

    def __init__(self, program: Program, tasks: Sequence[Candidate], engine: str, threads: int | None) -> None:
        self.candidates = tuple(tasks)
        means = np.concatenate([t.means for t in tasks])
        self._owner = np.repeat(np.arange(len(tasks)), [len(t.means) for t in tasks])
        super().__init__(_joined(program, means, tasks), engine, threads)
        self.tasks = tuple(t.name for t in tasks)
        self.offsets = np.cumsum([0, *(len(t.classes) for t in tasks)])
        self.recognition_cycles = self.recognised_images = 0
        self.standing = {i for i, t in enumerate(tasks) if t.resident}
        self.swapped: dict[str, RowWrites] = {}
        self.interpreter.write_view("frozen.means", means[:, None, :])

    def task_of(self, classes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Task [n] that classes [n], numbered over all tasks, belong to."""
        return np.searchsorted(self.offsets, classes, side="right") - 1

    def handiest(self, tasks: Collection[int]) -> list[int]:
        """These tasks, those first that stand in the arrays."""
        return sorted(tasks, key=lambda t: (t not in self.standing, t))

    def recognise(self, images: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The task [B] of each of 1 to ``batch_size`` images: that of the nearest mean."""
        before = self.interpreter.cycles
        found = super().infer(images).classes
        self.recognition_cycles += self.interpreter.cycles - before
        self.recognised_images += len(found)
        return self._owner[found]

    def classify(self, task: int, images: npt.ArrayLike) -> Inference:
        """As this task does; its weights are swapped in first if they are not in the arrays."""
        self._swap_in(task)
        for view, values in self.candidates[task].biases.items():
            self.interpreter.write_view(view, values)
        n = self.feed(images)
        self._run(f"task{task}", n)
        return self._collect(n)

    def _swap_in(self, task: int) -> None:
        if task in self.standing:
            return
        mine = self.candidates[task]
        self.standing -= {i for i in self.standing if self.candidates[i].slot is mine.slot}
        self.standing.add(task)
        written = self.program_state({f"{name}@{task}": w for name, w in mine.weights.items()})
        self.swapped[mine.name] = self.swapped.get(mine.name, RowWrites()) + written


def recogniser(store: TaskStore) -> Recogniser:
    """The learned tasks of a device, ready to run; :func:`settle` takes what it did back into the image.

    Raises:
        SasError: none is learned, one has no means, no place is free of a task that is being learned.
    """
    image, where = store.image, str(store.image.medium.path)
    learned = [t for t in store.tasks.values() if t.learned and t.classes]
    if not learned:
        raise SasError("the device has no task that is learned", where=where, hint="--train DATASET --task NAME")
    for t in learned:
        if len(image.means.get(t.name, ())) != len(t.classes):
            raise SasError(
                f"task {t.name!r} was learned without means of its features, by which its images would be known", where=where,
                hint="name the task with --task, or forget it and learn it again",
            )  # fmt: skip
    if len({json.dumps(dict(t.notes), sort_keys=True) for t in learned}) > 1:
        raise SasError(
            "the tasks of the device were learned with several kinds of preprocessing",
            where=where,
            hint="name the task with --task",
        )
    names = {t.name for t in learned}
    taken = {t.slot for t in store.tasks.values() if t.name not in names}
    oldest = [t.slot for t in sorted(learned, key=lambda t: t.used) if t.slot is not None]
    places = [n for n in range(len(store.slots)) if n not in taken and n not in oldest] + oldest
    if not places:
        raise SasError("the only place in the arrays is that of a task being learned", where=where, hint="--resume finishes it")
    waiting = itertools.cycle(places)
    candidates = []
    for t in learned:
        slot = store.slots[next(waiting) if t.slot is None else t.slot]
        image.keep_rows(written_rows(store.program, slot))
        state = store.weights(t.name)
        weights = {name: w for name, w in state.items() if name in store.program.matrices}
        biases = {view: b for view, b in state.items() if view not in weights}
        candidates.append(Candidate(t.name, t.classes, image.means[t.name], weights, biases, slot, t.slot is not None))
    program = with_notes(store.program, {**learned[0].notes, **chosen_preprocess(store.program)})
    device = Recogniser(program, candidates, store.engine, store.threads)
    store.load(device)
    return device


def settle(store: TaskStore, device: Recogniser) -> None:
    """Arrays, wear and places of tasks into the image, which is saved."""
    for i, mine in enumerate(device.candidates):
        task = store.task(mine.name)
        changes: dict[str, Any] = {"placing": task.placing + device.swapped.get(mine.name, RowWrites())}
        if i in device.standing:
            homes = {t.subarray for m in trainable_matrices(at_slot(store.program, mine.slot)).values() for t in m.tiles}
            changes |= {"slot": next(n for n, s in enumerate(store.slots) if s is mine.slot), "subarrays": tuple(sorted(homes))}
            weights = {}
        else:
            changes |= {
                "slot": None,
                "subarrays": (),
                "swaps": task.swaps + (task.slot is not None or mine.name in device.swapped),
            }
            weights = mine.weights
        store.image.stored.pop(mine.name, None)
        if held := {**weights, **mine.biases}:
            store.image.stored[mine.name] = held
        store.image.tasks[mine.name] = task.model_copy(update=changes)
    device.swapped.clear()
    store.collect(device)
    store.image.save()
