"""One run of ``sasrun``: what it says, shows and reports."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from sasimc.datasets.dataset import Dataset
from sasimc.isa.errors import SasError
from sasimc.isa.files import load_program, save_program
from sasimc.isa.program import Program
from sasimc.runtime.device import Device
from sasimc.runtime.interface import Interface
from sasimc.runtime.warmup import warm_up
from sasimc.training.evaluation import Run, run_here
from sasimc.training.image.image import AUTO, Task
from sasimc.training.image.recogniser import Recogniser
from sasimc.training.program_notes import untrained, with_notes, with_preprocess
from sasimc.training.recognition import Recognised
from sasimc.training.session_data import SessionData
from sasimc.training.session_image import Begun, Keeper, SessionImage, interruptible, learned_classes, learner, plain_device
from sasimc.training.session_options import SessionOptions, check_made_with, check_options, make_recipe
from sasimc.training.session_progress import Shower
from sasimc.training.session_results import answer, answer_unsaid, epoch_line, measure, measure_unsaid, run_lines
from sasimc.training.trainer import Epoch, TrainState, batch_of, train
from sasimc.training.writes import writes

__all__ = ["Session", "SessionOptions"]


Doing = Callable[[str], AbstractContextManager[Callable[..., None]]]
"""Show what is being done until the block ends; what it gives is called with news of that, and how much of it is done (0 to 1)."""


@contextmanager
def _quiet(what: str) -> Iterator[Callable[..., None]]:
    yield lambda what, done=None: None


def _outputs_of(begun: Begun) -> dict[str, Path]:
    """The files that an interrupted training was to write. A timeline of its first part stays; the next has a number."""
    outputs = {name: Path(text) for name, text in begun.outputs.items()}
    if (trace := outputs.get("trace")) and trace.exists():
        stem, dot, suffixes = trace.name.partition(".")
        numbered = (trace.with_name(f"{stem}-{i}{dot}{suffixes}") for i in itertools.count(2))
        outputs["trace"] = next(path for path in numbered if not path.exists())
    return outputs


class Session:
    """Load, run the tasks in order (classify, train, evaluate), summarise. ``run``: how images of the evaluation are run.

    Raises:
        SasError: an option that makes no sense, a program or data set that cannot be opened or does not fit.
    """

    def __init__(self, options: SessionOptions, console: Console, progress: Doing = _quiet, run: Run = run_here) -> None:
        self.options, self.console, self.progress, self._run = options, console, progress, run
        check_options(options)
        self.show = Shower(console, lambda: self.data.watch() if self.data else None)
        self._line = self.show.line
        self.report: dict[str, Any] = {}
        with progress("loading the program"):
            program = options.program if isinstance(options.program, Program) else load_program(options.program)
            self.program = with_preprocess(program, options.preprocess, options.preprocess_changes)
            self.about = Interface.of(self.program)
        self.image = SessionImage(self.program, options, self._line) if options.image else None
        self.data: SessionData | None = None
        self._unsaid: Recogniser | None = None
        self._recognised: list[Recognised] = []
        try:
            self._prepare(options)
        except BaseException:
            self.close()
            raise

    def _prepare(self, o: SessionOptions) -> None:
        """Recipe, data sets and device."""
        begun = self.image.begun if self.image else None
        self.recipe = begun.recipe if begun else make_recipe(o.recipe, o.changes)
        self.outputs = {**(_outputs_of(begun) if begun else {}), **o.outputs}
        folder = o.data or (Path(begun.data) if begun and begun.data else None)
        self.data = data = SessionData(self._as_begun(o, begun), self.about, folder, self._line)
        data.open(
            o.train or o.add or (begun.train if begun else None),
            o.evaluate or (begun.evaluate if begun else None),
            self.recipe.data.hold_back,
        )
        if data.training and "train_step" not in self.program.entries:
            raise SasError(
                "the program has no train_step", where=self.program.source, hint="compile a model with trainable layers"
            )
        if o.recipe:
            check_made_with(self.recipe, o.recipe, self.program)
        if not data.training and (o.freeze or o.level != SessionOptions.level):
            raise SasError(f"{'--freeze' if o.freeze else '--level'} holds for a training", hint="--train DATASET")
        self._unsaid = self.image.use_any() if self.image and o.task == AUTO else None
        uses = self.image is not None and data.training is None
        if self._unsaid:
            assert self.image
            data.match_tasks([self.image.bank.task(name) for name in self._unsaid.tasks])
        else:
            data.match(
                self.about.labels,
                not untrained(self.program)[0],
                self.image.classes(data.evaluation) if self.image and (uses or data.adds) else None,
            )
        with self.progress("checking the files") as show:
            data.check(o.split, lambda done, total: show(f"checking the files: {done} of {total}", done / total))
        self._training, self._evaluation = data.training, data.evaluation
        self.device = self._make_device()
        self._say_what_runs()
        data.watch()
        self._load_kernels()
        self.device.cross_check(o.cross_check)

    @staticmethod
    def _as_begun(o: SessionOptions, begun: Begun | None) -> SessionOptions:
        """The options with those of a training that goes on."""
        return dataclasses.replace(o, match=begun.match, add=begun.train if begun.added else None) if begun else o

    def _make_device(self) -> Device:
        if self._training:
            batch_of(self.recipe, self.about.batch_size)
            if self.recipe.patience and not self._training.items("val"):
                raise SasError(f"{self._training.name} has no validation images to stop by", hint="leave out --patience")
        if self._unsaid:
            return self._unsaid
        if self.image is None:
            return plain_device(self.program, self.options, self._training)
        return self.image.begin(self._training, self.recipe) if self._training else self.image.use(self._evaluation)

    def close(self) -> None:
        """Give the device image back."""
        if self.data is not None:
            self.data.close()
        if self.image is not None:
            self.image.close()

    @property
    def _task(self) -> Task | None:
        return self.image.task if self.image else None

    def _say_what_runs(self) -> None:
        device, task = self.device, self._training or self._evaluation
        notes = list(dict.fromkeys(d.note for d in (self._training, self._evaluation) if d is not None and d.note))
        machine, source = device.program.machine, device.program.source
        _, lacks = untrained(device.program)
        matched = self.data.notes if self.data else []
        opened = [d for d in (self._training, self._evaluation) if d is not None]
        arrays = bool(opened) and all(d.arrays for d in opened)
        notes = [n for n in (lacks, device.input.words(arrays), *notes, *matched) if n]
        if device.program.meta.get("verified") == "no":
            notes.append("its translation was not verified (sasc compile --no-verify)")
        if self._task:
            goes_on = ", goes on" if self.options.resume else ""
            notes.insert(0, f"task {self._task.name} of {self.options.image}{goes_on}")
        first = f"{self.options.what or source} on {machine.name} ({machine.subarrays} sub-arrays), engine {device.engine}"
        self._line("; ".join([first, *notes]))
        self.report = {
            "program": self.options.what or source,
            "engine": device.engine,
            "machine": machine.name,
            "dataset": task.name if task else None,
            "synthetic": bool(task.synthetic) if task else False,
            "notes": notes,
            "input": device.input.summary(),
            "recognition": None,
            "unsaid": None,
            "recipe": {"name": self.options.recipe or "", **self.recipe.model_dump(mode="json")} if self._training else None,
        }

    def _load_kernels(self) -> None:
        """Compile the kernels, or load them from the cache, before anything is timed."""
        start = time.perf_counter()
        with self.progress("loading the kernels") as show:
            every = self._training or self._unsaid
            compiled = warm_up(self.device.interpreter.datapath.codes("" if every else "infer"), show)
        if compiled:
            self._line(f"compiled {compiled} kernels for this computer in {time.perf_counter() - start:.1f} s")

    def run(self) -> dict[str, Any]:
        """Do what the options ask for; returns the report (docs/reference/run-json.md). What was learned is saved before anything else can fail; when the
        run is broken off, ``report`` holds what there is, and why it ended as ``ended``."""
        try:
            if self.options.inputs:
                o = self.options
                self.report["predictions"] = (
                    answer_unsaid(self._unsaid, o.inputs, o.top, self.show)
                    if self._unsaid
                    else answer(self.device, o.inputs, o.top, self.show)
                )
            if self._training:
                self._train(self._training)
            evaluated = self._evaluation or (self._training if self._training and self._training.items("test") else None)
            if evaluated:
                self._evaluate(evaluated)
            if not self._training:
                self._save()
        except (KeyboardInterrupt, SasError) as exc:
            self.report["ended"] = exc.diagnostic.message if isinstance(exc, SasError) else "interrupted"
            raise
        finally:
            if self._unsaid and self.image and self.data:
                self.image.settle(self._unsaid, self.data, self.options.split, self._recognised)
            self._fill_report()
            if self.show.images:
                damaged = len(self.data.damaged) if self.data else 0
                for line in run_lines(self.device, self.report, damaged, "of the device" if self.image else "of this run"):
                    self._line(line)
        return self.report

    def _save(self) -> None:
        """Write the program with the device's current weights where that was asked for; when it was trained, with the names of the classes it
        learned, and predictions among them."""
        if "save" not in self.outputs:
            return
        path, program = self.outputs["save"], self.program
        if self._training:
            program = with_notes(
                learner(program, learned_classes(self.device, self._training)), self._task.notes if self._task else {}
            )
        save_program(program.with_trained(self.device.state()), path)
        self._line(f"wrote {path}")

    def _train(self, dataset: Dataset) -> None:
        recipe = self.recipe
        run = self.image.run if self.image else TrainState()
        if self.image:
            with self.show.bar() as watch:
                self.report["recognition"] = self.image.remember(dataset, recipe, watch) or None
        self.show.images, self.show.busy_s = run.through - run.seen, 0.0
        if run.step:
            self._line(f"goes on in epoch {run.epoch + 1} after {run.seen} images ({run.step} steps in all)")

        def done(e: Epoch) -> None:
            self._line(epoch_line(e, recipe.epochs))

        with interruptible() as noted:
            keep = Keeper(self.image, self.program, self.options, dataset, recipe, self.device, noted)
            try:
                with self.show.bar() as watch:
                    result = train(self.device, dataset, recipe, watch, done, state=run, keep=keep)
            except BaseException as exc:
                if run.step:
                    self._save()
                if isinstance(exc, KeyboardInterrupt):
                    self._say_how_to_go_on(run, keep.saved)
                raise
            finally:
                self.report.update(epochs=run.training.rows(), best_epoch=run.best_epoch, steps=run.step, learned=run.images)
            if self.image:
                self.image.learned({"val": result.kept.val})
            self._save()
        if recipe.patience and len(result.epochs) < recipe.epochs:
            self._line(f"stopped: {recipe.patience} epochs without a better validation result")
        if dataset.items("val") and recipe.keep != "last":
            which = {"best": "the best", "late": "the last within a standard error of the best"}[recipe.keep]
            self._line(f"kept the weights of epoch {result.best_epoch + 1}, {which} on the validation split")

    def _say_how_to_go_on(self, run: TrainState, saved: Path | None) -> None:
        where = f"epoch {run.epoch + 1} after {run.seen} images"
        if saved is None:
            self._line(f"broken off in {where}; nothing is saved")
            return
        o = self.options
        words = ["sasrun", *([str(o.program)] if isinstance(o.program, Path) else o.made_by), "--image", str(saved), "--resume"]
        words += [] if o.engine == SessionOptions.engine else ["--engine", o.engine]
        words += ["--data", str(o.data)] if o.data else []
        self._line(f"broken off in {where}; saved in {saved}. To go on: {shlex.join(words)}")

    def _evaluate(self, dataset: Dataset) -> None:
        if self._unsaid:
            assert self.data
            found, self._recognised = measure_unsaid(
                self._unsaid, dataset, self.data.numbers, self.options.split, self.recipe.limit, self.show
            )
            self.report.update(found)
            return
        found = measure(self.device, dataset, self.options.split, self.recipe.limit, self.show, self._run)
        self.report.update(found)
        if self.image:
            self.image.measured(dataset, found["split"], found["error" if self.device.values else "top1"], found["evaluated"])

    def _fill_report(self) -> None:
        it, simulated_s = self.device.interpreter, self.device.simulated_s
        self.report.setdefault("top1", None)
        self.report.update(
            data=self.data.summary() if self.data else None,
            images=self.show.images,
            images_per_s=self.show.images_per_s,
            cycles=it.cycles,
            cycles_saved_by_zero_skip=it.cycles_saved,
            simulated_s=simulated_s,
            events=dict(it.events),
            phase_cycles=dict(it.phase_cycles),
            cross_checked=self.device.replayed,
        )
        self.report["writes"] = writes(self.device)
        self.report["task"] = self._task.model_dump(mode="json") if self._task else None
