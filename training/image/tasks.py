"""Tasks on one device: one set of trainable weights each, the backbone shared and frozen.

The compiler gives the trainable part one place in the arrays. Free sub-arrays give more of them (*slots*): a task that has a slot is
*resident* and runs there, without a write. More tasks than slots are kept on the host; to use one, its weights are written over those of the
resident task that has not been used for longest, and the writes are counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.isa.errors import SasError, near
from sasimc.isa.program import Program, Tensor
from sasimc.runtime.device import Device
from sasimc.runtime.state import RowWrites
from sasimc.training.image.counters import CounterTable
from sasimc.training.image.image import AUTO, MAX_TASKS, NAME, DeviceImage, Measured, Pending, Task
from sasimc.training.image.rebind import (
    at_slot,
    place_slots,
    remembered_views,
    trainable_matrices,
    with_classes,
    without_classes,
    without_writes,
    written_rows,
)
from sasimc.training.level import Level
from sasimc.training.program_notes import chosen_preprocess, with_labels, with_notes
from sasimc.training.trainer import Epoch, TrainState
from sasimc.training.writes import program_writes

__all__ = ["TaskStore"]

Weights = dict[str, Tensor]


def _first_matrices(program: Program) -> dict[str, str]:
    """Tensor -> the first matrix that holds it."""
    out: dict[str, str] = {}
    for name, m in trainable_matrices(program).items():
        out.setdefault(m.tensor, name)
    return out


class TaskStore:
    """The tasks of an image, on the program it belongs to. ``engine`` and ``threads`` as for :class:`Device`, ``level`` as for :meth:`Device.level`."""

    def __init__(
        self, image: DeviceImage, program: Program, engine: str = "fused", threads: int | None = None, level: str = "none"
    ) -> None:
        self.level = level
        self.image, self.program, self.engine, self.threads = image, program, engine, threads
        self.slots = place_slots(program)
        self._task: Task | None = None
        self._device: Device | None = None
        self._counted = CounterTable()
        self._kept = TrainState()
        self._learning = RowWrites()

    # -------------------------------------------------------------------------------------------------------------- tasks

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The tasks by name, in the order in which they came."""
        return self.image.tasks

    def task(self, name: str) -> Task:
        """A task. Raises SasError when there is none of that name."""
        if name not in self.tasks:
            known = tuple(self.tasks)
            raise SasError(f"the device has no task {name!r}", hint=near(name, known) or f"it has: {', '.join(known) or 'none'}")
        return self.tasks[name]

    def create(self, name: str, classes: Sequence[str], dataset: str = "") -> Task:
        """A new task with the program's initial weights, resident.

        Raises:
            SasError: a name that is taken or is none, more classes than outputs, too many tasks.
        """
        if not re.match(NAME, name) or name == AUTO:
            raise SasError(f"{name!r} is no name for a task", hint="letters, digits, '_', '.', '+' and '-', up to 64")
        if name in self.tasks:
            raise SasError(
                f"the device has a task {name!r} already", hint="choose another --task, or `sasc image forget IMAGE TASK`"
            )
        if len(self.tasks) >= MAX_TASKS:
            raise SasError(f"the device has {MAX_TASKS} tasks, more are not kept", hint="remove some")
        with_classes(self.program, len(classes))
        if not trainable_matrices(self.program):
            raise SasError("the program has nothing to train", hint="compile a model with trainable layers")
        task = Task(name=name, classes=tuple(classes), dataset=dataset, notes=chosen_preprocess(self.program))
        values = {m: self.program.matrix_values(self.program.matrices[m]) for m in _first_matrices(self.program).values()}
        return self._place(task, values | {b.view: self.program.tensors[b.view] for b in self.program.learned_biases.values()})

    # ------------------------------------------------------------------------------------------------------------- places

    def _free_slot(self, keep: str) -> int:
        """A slot no task is in; the longest unused resident task (never ``keep``) makes room if it must."""
        taken = {t.slot: t for t in self.tasks.values() if t.slot is not None}
        for number in range(len(self.slots)):
            if number not in taken:
                return number
        oldest = min((t for t in taken.values() if t.name != keep), key=lambda t: t.used)
        self.image.stored[oldest.name] = dict(self.weights(oldest.name))
        self.image.tasks[oldest.name] = oldest.model_copy(update={"slot": None, "subarrays": (), "swaps": oldest.swaps + 1})
        assert oldest.slot is not None
        return oldest.slot

    def _place(self, task: Task, values: Weights) -> Task:
        """Write weights into a free slot; the image holds them there from now on."""
        number = self._free_slot(task.name)
        slot = self.slots[number]
        self.image.keep_rows(written_rows(self.program, slot))
        placed = at_slot(self.program, slot)
        self._device = Device(placed, self.engine, self.threads)
        self.load(self._device)
        written = self._device.program_state(values)
        self.collect(self._device)
        homes = sorted({t.subarray for m in trainable_matrices(placed).values() for t in m.tiles})
        changes = {"slot": number, "subarrays": tuple(homes), "placing": task.placing + written}
        self._keep_biases(task.name, self._device)
        return self.image.touch(task.model_copy(update=changes))

    def _keep_biases(self, name: str, device: Device) -> None:
        """Of a task whose weights are in the arrays, the host keeps the learned biases."""
        self.image.stored[name] = dict(device.biases())
        if not self.image.stored[name]:
            del self.image.stored[name]

    def weights(self, name: str) -> Weights:
        """Trainable weights of a task by matrix, int8 [K, N], and its learned biases by view, wherever they are."""
        task, out = self.task(name), dict(self.image.stored.get(name, {}))
        if task.slot is None:
            return out
        placed, rows = at_slot(self.program, self.slots[task.slot]), self.image.shape.rows
        for matrix in _first_matrices(self.program).values():
            m = placed.matrices[matrix]
            out[matrix] = values = np.zeros((m.k, m.n), np.int8)
            for t in (t for t in m.tiles if t.copy == 0):
                first = t.subarray * rows + t.row
                block = self.image.cells[first : first + t.rows, t.col : t.col + t.cols]
                values[t.k : t.k + t.rows, t.n : t.n + t.cols] = block.view(np.int8)
        return out

    def load(self, device: Device) -> None:
        """The image's content into a device."""
        state, kept = device.interpreter.state, self.image.kept
        state.cells.reshape(-1, self.image.shape.width)[kept] = self.image.cells[kept]
        state.written.reshape(-1, self.image.shape.width)[kept] = True
        state.wear[...] = self.image.wear.reshape(state.wear.shape)
        device.interpreter.cells_changed()

    def collect(self, device: Device) -> None:
        """A device's content into the image."""
        state, kept = device.interpreter.state, self.image.kept
        self.image.cells[kept] = state.cells.reshape(-1, self.image.shape.width)[kept]
        self.image.wear[...] = state.wear.reshape(-1)

    def extend(self, name: str, classes: Sequence[str], retrain: bool = False) -> Device:
        """A device on which a learned task learns further classes: ``classes`` begins with those it has, whose logits do not change unless they are to be
        trained too (``retrain``).

        Raises:
            SasError: a task that is not learned, no new class, more classes than outputs.
        """
        task = self.task(name)
        if not task.learned or not task.classes:
            raise SasError(f"task {name!r} has learned no classes that others could join", hint="--train DATASET")
        if tuple(classes[: len(task.classes)]) != task.classes or len(classes) == len(task.classes):
            raise SasError(f"no class of the data is new to task {name!r}", hint=f"it knows {', '.join(task.classes[:8])}")
        with_classes(self.program, len(classes))
        self.image.touch(task.model_copy(update={"classes": tuple(classes), "measured": ()}))
        return self._open(name, frozenset(), 0 if retrain else len(task.classes))

    def select(self, name: str, freeze: frozenset[str] = frozenset()) -> Device:
        """A device that runs a task: predictions among its classes, weights from the image; swapped in first if it is not resident.

        ``freeze``: trainable matrices that stay as they are. What the device writes is the image's after :meth:`learned` or :meth:`keep`.
        """
        task = self.task(name)
        if task.slot is not None:
            self.image.touch(task)
        return self._open(name, freeze)

    def _open(self, name: str, freeze: frozenset[str], fixed: int = 0) -> Device:
        """``fixed``: so many classes keep their logits."""
        task = self.task(name)
        if task.slot is None:
            task = self._place(task, self.weights(name))
            self.image.save()
        assert task.slot is not None
        noted = with_notes(with_labels(self.program, task.classes), {**task.notes, **chosen_preprocess(self.program)})
        program = without_writes(with_classes(at_slot(noted, self.slots[task.slot]), len(task.classes)), freeze)
        program = without_classes(program, fixed) if fixed else program
        self._task, self._device = task, Device(program, self.engine, self.threads)
        self.load(self._device)
        self._device.load_state(self.image.stored.get(name, {}))
        self._device.level(self.level, self.image.turns)
        return self._device

    def adopt(self, device: Device, name: str, classes: Sequence[str], dataset: str) -> Task:
        """Make what runs on a device without an image a task of this (empty) image, selected; the writes so far are its own."""
        rows = {t.subarray for m in trainable_matrices(self.program).values() for t in m.tiles}
        notes = chosen_preprocess(self.program)
        task = Task(name=name, classes=tuple(classes), dataset=dataset, notes=notes, slot=0, subarrays=tuple(sorted(rows)))
        self._task, self._device = self.image.touch(task), device
        return self._task

    @property
    def selected(self) -> Task | None:
        """The selected task."""
        return None if self._task is None else self.tasks.get(self._task.name)

    @property
    def device(self) -> Device:
        """The device of the selected task. Raises SasError when none is selected."""
        if self._device is None:
            raise SasError("no task is selected", hint="TaskStore.select(name)")
        return self._device

    def begin(self, setup: dict[str, Any]) -> None:
        """The training of the selected task begins; ``setup``: everything that decides its result (JSON). The image is on the disk from now on."""
        assert self._task is not None
        self._counted, self._kept = CounterTable(), TrainState()
        self.image.begin(Pending(task=self._task.name, setup=setup))

    def keep(self, run: TrainState) -> None:
        """Make the last step durable (for :func:`sasimc.training.trainer.train`)."""
        device, known = self.device, self._kept
        it = device.interpreter
        left: dict[str, npt.NDArray[Any]] = {f"memory.{n}": it.read_view(n) for n in remembered_views(self.program)}
        left |= {f"learned.{n}": values for n, values in device.biases().items()}
        if run.best is not None and run.best is not known.best:
            left |= {f"best.{name}": values for name, values in run.best.items()}
        state = {k: v for k, v in run.__dict__.items() if k not in ("epochs", "best", "lap")}
        state |= {
            "epochs": [asdict(e) for e in run.epochs[len(known.epochs) :]],
            "seen_units": device.seen,
            "replayed": device.replayed,
        }
        state |= {"programmed": asdict(device.programmed), "level": asdict(run.level)}
        if device.levelling:
            state["turns"] = device.levelling.turns
        if run.lap != known.lap:
            state["lap"] = run.lap
        cells = it.state.cells.reshape(-1, self.image.shape.width)
        self.image.step(cells, it.state.wear.reshape(-1), state, left, self._counted.update(it.counters))
        self._kept = TrainState(lap=run.lap, epochs=list(run.epochs), best=run.best)

    def resume(self, freeze: frozenset[str] = frozenset(), fixed: int = 0) -> tuple[Device, TrainState]:
        """The device as the last complete step of the unfinished training left it, and where the training stands.

        Raises:
            SasError: there is no unfinished training.
        """
        pending, left = self.image.pending, self.image.left
        if pending is None:
            raise SasError("the device has no unfinished training", where=str(self.image.medium.path), hint="leave out --resume")
        device = self._open(pending.task, freeze, fixed)
        it, state = device.interpreter, dict(pending.state)
        run, self._counted = TrainState(), CounterTable()
        if state:
            self._counted = CounterTable.restore(it.counters, left["counter_rows"], left["counters"])
            device.seen, device.replayed = state.pop("seen_units"), state.pop("replayed")
            device.programmed = RowWrites(**state.pop("programmed"))
            epochs, level = [Epoch(**row) for row in state.pop("epochs")], Level(**state.pop("level"))
            best = {name.removeprefix("best."): array for name, array in left.items() if name.startswith("best.")}
            run = TrainState(**state, level=level, epochs=epochs, best=best or None)
            for name in remembered_views(self.program):
                it.write_view(name, left[f"memory.{name}"])
        self._kept = TrainState(lap=run.lap, epochs=list(run.epochs), best=run.best)
        return device, run

    def learned(self, run: TrainState, accuracy: Mapping[str, float]) -> Task:
        """The selected task is learned: into the registry, with its accuracies (percent by split; for values mean squared errors); the image is saved."""
        assert self._task is not None
        device = self.device
        task, by_program = self.task(self._task.name), program_writes(device)
        changes = {
            "learned": True, "epochs": task.epochs + len(run.epochs), "steps": task.steps + run.step,
            "accuracy": {split: top1 for split, top1 in accuracy.items() if top1 == top1},
            "learning": task.learning + by_program["weights"],
            "scratch": task.scratch + by_program["scratch"], "placing": task.placing + device.programmed,
        }  # fmt: skip
        self.collect(device)
        self._keep_biases(task.name, device)
        self._task = self.image.touch(task.model_copy(update=changes))
        self.image.end()
        self.image.save()
        return self._task

    def measured(self, split: str, found: float, digest: str, images: int, now: bool) -> None:
        """The selected task is evaluated on ``images`` images that ``digest`` names: percent right (for values the mean squared error). ``now``: it
        has just been learned. A task that is not learned keeps nothing; the image is saved."""
        assert self._task is not None
        task = self.task(self._task.name)
        if not task.learned:
            return
        if now:
            task = task.model_copy(update={"accuracy": {**task.accuracy, split: found}})
        self._task = self.image.touch(task)
        if task.classes:
            self._task = self.note(task.name, split, digest, images, top1=found)
        self.image.save()

    def note(self, name: str, split: str, digest: str, images: int, **found: float) -> Task:
        """Put an evaluation of a task into the registry (``found``: fields of :class:`Measured`), with what is known of the same images at the same time."""
        task = self.task(name)
        about = {
            "after": [t.name for t in self.tasks.values() if t.learned][-1],
            "split": split,
            "digest": digest,
            "images": images,
        }
        same = [m for m in task.measured if about.items() <= dict(m).items()]
        new = Measured.model_validate({**(dict(same[0]) if same else about), **found})
        kept = (m for m in task.measured if m not in same)
        self.image.tasks[name] = task = task.model_copy(update={"measured": (*kept, new)})
        return task
