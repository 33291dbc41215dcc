"""One run of ``sasrun``: what it says, shows and reports."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sasimc.datasets.arrays import ArrayFile
from sasimc.datasets.dataset import Dataset
from sasimc.datasets.inputs import read_input
from sasimc.isa.errors import SasError
from sasimc.isa.files import load_program, save_program
from sasimc.isa.options import options_of, texts_of
from sasimc.isa.program import Program
from sasimc.passes.options import BackwardOptions
from sasimc.runtime.device import Device, Interface
from sasimc.runtime.ports import inputs_of, outputs_of
from sasimc.runtime.warmup import cold, warm_up
from sasimc.training.image.image import Task
from sasimc.training.program_notes import ZOO, untrained, with_notes, with_preprocess
from sasimc.training.recipe import MANY_CLASSES
from sasimc.training.session_data import SessionData
from sasimc.training.session_image import Begun, Keeper, SessionImage, interruptible, learner, plain_device
from sasimc.training.session_options import SessionOptions, check_options, make_recipe
from sasimc.training.trainer import Epoch, TrainState, batch_of, evaluate, train
from sasimc.training.trainer import Progress as Shown
from sasimc.training.writes import writes

__all__ = ["Session", "SessionOptions"]

_PLAIN_EVERY_S = 10.0
_FEW = 8
"""Where the output is no terminal (a log), progress is a plain line this often."""


def _outputs_of(begun: Begun) -> dict[str, Path]:
    """The files that an interrupted training was to write. A timeline of its first part stays; the next has a number."""
    outputs = {name: Path(text) for name, text in begun.outputs.items()}
    if (trace := outputs.get("trace")) and trace.exists():
        stem, dot, suffixes = trace.name.partition(".")
        numbered = (trace.with_name(f"{stem}-{i}{dot}{suffixes}") for i in itertools.count(2))
        outputs["trace"] = next(path for path in numbered if not path.exists())
    return outputs


class Session:
    """Load, run the tasks in order (classify, train, evaluate), summarise.

    Raises:
        SasError: an option that makes no sense, a program or data set that cannot be opened or does not fit.
    """

    def __init__(self, options: SessionOptions, console: Console) -> None:
        self.options, self.console = options, console
        check_options(options)
        self.images = 0
        self.busy_s = 0.0
        self.report: dict[str, Any] = {}
        self._accuracy: dict[str, float] = {}
        with console.status("loading the program"):
            program = options.program if isinstance(options.program, Program) else load_program(options.program)
            self.program = with_preprocess(program, options.preprocess, options.preprocess_changes)
            self.about = Interface.of(self.program)
        self.image = SessionImage(self.program, options, self._line) if options.image else None
        self.data: SessionData | None = None
        try:
            self._prepare(options)
        except BaseException:
            self.close()
            raise

    def _prepare(self, o: SessionOptions) -> None:
        """Recipe, data sets and device."""
        begun = self.image.begun if self.image else None
        self.recipe = begun.recipe if begun else make_recipe(o)
        self.outputs = {**(_outputs_of(begun) if begun else {}), **o.outputs}
        folder = o.data or (Path(begun.data) if begun and begun.data else None)
        self.data = data = SessionData(dataclasses.replace(o, match=begun.match) if begun else o, self.about, folder, self._line)
        data.open(
            o.train or (begun.train if begun else None),
            o.evaluate or (begun.evaluate if begun else None),
            self.recipe.data.hold_back,
        )
        if data.training and "train_step" not in self.program.entries:
            raise SasError(
                "the program has no train_step", where=self.program.source, hint="compile a model with trainable layers"
            )
        if data.training:
            self._check_recipe()
            classes = len(data.training.classes)
            if not o.recipe and not begun and classes >= MANY_CLASSES:
                self._line(
                    f"{classes} classes: --recipe many-classes is made for so many, and `sasc zoo --recipe many-classes` for their network"
                )
        elif o.freeze:
            raise SasError("--freeze holds for a training", hint="--train DATASET")
        uses = self.image is not None and data.training is None
        data.match(
            self.about.labels,
            not untrained(self.program)[0],
            self.image.classes(data.evaluation) if self.image and uses else None,
        )
        with self.console.status("checking the files") as status:
            data.check(o.split, lambda done, total: status.update(f"checking the files: {done} of {total}"))
        self._training, self._evaluation = data.training, data.evaluation
        self.device = self._make_device()
        self._say_what_runs()
        data.watch()
        self._load_kernels()
        self.device.cross_check(o.cross_check)

    def _make_device(self) -> Device:
        if self._training:
            batch_of(self.recipe, self.about.batch_size)
            if self.recipe.patience and not self._training.items("val"):
                raise SasError(f"{self._training.name} has no validation images to stop by", hint="leave out --patience")
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
        notes = [n for n in (lacks, str(device.input), *notes, *matched) if n]
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
            "recipe": {"name": self.options.recipe or "", **self.recipe.model_dump(mode="json")} if self._training else None,
        }

    def _check_recipe(self) -> None:
        """Refuse a recipe whose sections ``compile`` and ``zoo`` are not what the program was made with."""
        sections = self.recipe.model_fields_set if self.options.recipe else frozenset[str]()
        made_with = json.loads(self.program.meta.get(ZOO, "{}"))
        for key, value in self.recipe.zoo.model_dump().items() if "zoo" in sections else ():
            if made_with.get(key) != value:
                raise SasError(
                    f"the recipe is for a network with {key} = {value}; this one was made with {made_with.get(key, 'something unknown')}",
                    hint=f"sasc zoo --recipe {self.options.recipe} builds one, or take a recipe without [zoo]",
                )
        wanted = texts_of(self.recipe.compile, BackwardOptions)
        for o in options_of(BackwardOptions) if "compile" in sections else ():
            if (made := self.program.meta.get(o.name, "")) != wanted[o.name]:
                raise SasError(
                    f"the recipe is for a program compiled with {o.flag} {wanted[o.name] or 'left out'}; this one was compiled with {made!r}",
                    hint=f"sasc compile --recipe {self.options.recipe}, or take a recipe without [compile]",
                )

    def _load_kernels(self) -> None:
        """Compile the kernels, or load them from the cache, before anything is timed."""
        if cold(self.options.engine):
            self._line("compiling the simulator's kernels for this computer (once, up to a minute)")
        start = time.perf_counter()
        with self.console.status("loading the kernels") as status:
            say: Any = lambda name, i, n: status.update(f"loading the kernels: {i + 1} of {n}, {name}")  # noqa: E731
            compiled, _ = warm_up(say, self.options.engine)
        if compiled:
            self._line(f"compiled {compiled} kernels in {time.perf_counter() - start:.1f} s")

    def _line(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def run(self) -> dict[str, Any]:
        """Do what the options ask for; returns the report (docs/reference/run-json.md). What was learned is saved before anything else can fail; when the
        run is broken off, ``report`` holds what there is, and why it ended as ``ended``."""
        try:
            if self.options.inputs:
                self._classify()
            if self._training:
                self._train(self._training)
            evaluated = self._evaluation or (self._training if self._training and self._training.items("test") else None)
            if evaluated:
                self._evaluate(evaluated)
            if self.image and self._training:
                self.image.measured(self._accuracy)
            if not self._training:
                self._save()
        except (KeyboardInterrupt, SasError) as exc:
            self.report["ended"] = exc.diagnostic.message if isinstance(exc, SasError) else "interrupted"
            raise
        finally:
            self._fill_report()
            if self.images:
                self._say_summary()
        return self.report

    def _save(self) -> None:
        """Write the program with the device's current weights where that was asked for; when it was trained, with the names of the classes it
        learned, and predictions among them."""
        if "save" not in self.outputs:
            return
        path, program = self.outputs["save"], self.program
        if self._training:
            program = with_notes(learner(program, self._training.classes), self._task.notes if self._task else {})
        save_program(program.with_trained(self.device.state()), path)
        self._line(f"wrote {path}")

    def _label(self, index: int) -> str:
        labels = self.device.labels
        return labels[index] if index < len(labels) else f"class {index}"

    def _run_named(self) -> None:
        """A network of several inputs: arrays by the inputs' names; all outputs are shown."""
        for path in self.options.inputs:
            file, ports = ArrayFile(path), inputs_of(self.device.program)
            if missing := [p.name for p in ports if p.name not in file.names]:
                raise SasError(
                    f"{path}: no array is called {missing[0]!r}", hint=f"the program takes {', '.join(p.name for p in ports)}"
                )
            stored = {p.name: file[p.name].reshape(-1, *p.dims) if file[p.name].shape == p.dims else file[p.name] for p in ports}
            for i in range(min(map(len, stored.values()))):
                outputs = self.device.run({name: x[i : i + 1] for name, x in stored.items()})
                row = {"file": f"{path}[{i}]", "class": None, "label": None}
                self._line(f"{path}[{i}]:")
                self._say_outputs(row, outputs)
                self.report.setdefault("predictions", []).append(row)

    def _say_outputs(self, row: dict[str, Any], outputs: dict[str, npt.NDArray[Any]]) -> None:
        """Outputs of one sample, into the report and on the screen: short ones in numbers, of long ones the range."""
        row["outputs"] = {name: x[0].tolist() for name, x in outputs.items()}
        for name, x in outputs.items():
            few = x.size <= _FEW
            shown = (
                ", ".join(f"{v:.4g}" for v in x.ravel()) if few else f"{list(x.shape[1:])} from {x.min():.4g} to {x.max():.4g}"
            )
            self._line(f"  {name}: {shown}")

    def _classify(self) -> None:
        device = self.device
        if "inputs" in device.program.meta and len(inputs_of(device.program)) > 1:
            self._run_named()
            return
        ports = outputs_of(device.program) if "outputs" in device.program.meta else ()
        several = len(ports) > 1 or any(len(p.dims) > 1 for p in ports)
        scale, no_answers = float(device.program.meta["logit_scale"]), untrained(device.program)[0]
        examples = [
            e for path in self.options.inputs for e in read_input(path, device.input)
        ]  # a bad file ends the run before it begins
        with self._bar() as watch:
            for number, (name, example) in enumerate(examples, 1):
                got = device.infer(example)
                watch(Shown("images", number, len(examples), simulated_s=device.simulated_s))
                row: dict[str, Any] = {"file": name, "class": None, "label": None, "logits": got.logits[0].tolist()}
                if no_answers:
                    self._line(f"{name}: no answer, the program is untrained (its outputs stand in the report)")
                else:
                    row |= {"class": int(got.classes[0]), "label": self._label(int(got.classes[0]))}
                    self._line(f"{name}:")
                    if several:
                        self._say_outputs(row, device.outputs(1))
                    else:
                        self._show(got.logits[0] * scale)
                self.report.setdefault("predictions", []).append(row)

    def _show(self, logits: npt.NDArray[np.float64]) -> None:
        """The likeliest classes."""
        p = np.exp(logits - logits.max())
        p /= p.sum()
        for i in np.argsort(-logits, kind="stable")[: max(1, self.options.top)]:
            self._line(f"  {100 * p[i]:5.1f} %  {self._label(int(i))}")

    @contextmanager
    def _bar(self) -> Iterator[Any]:
        """A progress bar fed by the trainer; plain lines where the output is no terminal."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}"),
            TimeRemainingColumn(),
        )
        start, first = time.perf_counter(), self.images
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task("", total=None, info="")
            state: dict[str, Any] = {"what": "", "base": first, "said": start}

            def watch(p: Shown) -> None:
                if self.data:
                    self.data.watch()
                if p.what != state["what"]:
                    state.update(what=p.what, base=self.images)
                self.images = int(state["base"]) + p.done
                now = time.perf_counter()
                parts = [f"{(self.images - first) / max(1e-9, now - start):.1f} images/s"]
                if p.loss is not None:
                    parts.append(f"loss {p.loss:.3f}")
                if p.top1 is not None:
                    parts.append(f"top-1 {p.top1:.1f} %")
                parts.append(f"device {p.simulated_s:.3g} s")
                bar.update(task, description=p.what, completed=p.done, total=p.total, info=", ".join(parts))
                if not self.console.is_terminal and now - state["said"] > _PLAIN_EVERY_S:
                    state["said"] = now
                    self._line(f"{p.what}: {p.done}/{p.total}, {', '.join(parts)}")

            yield watch
        self.busy_s += time.perf_counter() - start

    def _train(self, dataset: Dataset) -> None:
        recipe = self.recipe
        run = self.image.run if self.image else TrainState()
        self.images = run.through - run.seen
        if run.step:
            self._line(f"goes on in epoch {run.epoch + 1} after {run.seen} images ({run.step} steps in all)")

        def done(e: Epoch) -> None:
            val = "" if math.isnan(e.val_top1) else f", val {e.val_top1:.1f} %"
            self._line(
                f"epoch {e.epoch + 1}/{recipe.epochs}: loss {e.loss:.3f}, train {e.train_top1:.1f} %{val}, "
                f"{e.writes_bits} bits written, {e.wall_s:.1f} s"
            )

        with interruptible() as noted:
            keep = Keeper(self.image, self.program, self.options, dataset, recipe, self.device, noted)
            try:
                with self._bar() as watch:
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
                self.image.learned({"val": run.best_top1})
            self._save()
        if recipe.patience and len(result.epochs) < recipe.epochs:
            self._line(f"stopped: {recipe.patience} epochs without a better validation accuracy")
        if dataset.items("val") and recipe.keep == "best":
            self._line(f"kept the weights of epoch {result.best_epoch + 1}, the best on the validation split")

    def _say_how_to_go_on(self, run: TrainState, saved: Path | None) -> None:
        where = f"epoch {run.epoch + 1} after {run.seen} images"
        if saved is None:
            self._line(f"broken off in {where}; nothing is saved")
            return
        o = self.options
        words = ["sasrun", *([str(o.program)] if isinstance(o.program, Path) else []), "--image", str(saved), "--resume"]
        words += [] if o.engine == SessionOptions.engine else ["--engine", o.engine]
        words += ["--data", str(o.data)] if o.data else []
        self._line(f"broken off in {where}; saved in {saved}. To go on: {shlex.join(words)}")

    def _evaluate(self, dataset: Dataset) -> None:
        with self._bar() as watch:
            answers = Counter[tuple[int, int]]()
            top1, count = evaluate(self.device, dataset, self.options.split, watch, self.recipe.limit, answers=answers)
        whole = min(len(dataset.items(self.options.split)), self.recipe.limit or 1 << 60)
        error = math.sqrt(max(top1 * (100 - top1), 0) / max(1, count))
        confusion = [[*pair, n] for pair, n in sorted(answers.items())]
        self.report.update(
            top1=top1,
            top1_error=error,
            split=self.options.split,
            evaluated=count,
            classes=list(dataset.classes),
            confusion=confusion,
        )
        self._accuracy[self.options.split] = top1
        skipped = f"; {whole - count} damaged, skipped" if count < whole else ""
        self._line(
            f"{dataset.name} {self.options.split}: top-1 {top1:.2f} % of {count} images (standard error {error:.2f}){skipped}"
        )

    def _fill_report(self) -> None:
        it, simulated_s = self.device.interpreter, self.device.simulated_s
        self.report.setdefault("top1", None)
        self.report.update(
            data=self.data.summary() if self.data else None,
            images=self.images,
            images_per_s=self.images / self.busy_s if self.busy_s else 0.0,
            cycles=it.cycles,
            cycles_saved_by_zero_skip=it.cycles_saved,
            simulated_s=simulated_s,
            events=dict(it.events),
            phase_cycles=dict(it.phase_cycles),
            cross_checked=self.device.replayed,
        )
        self.report["writes"] = writes(self.device)
        self.report["task"] = self._task.model_dump(mode="json") if self._task else None

    def _say_summary(self) -> None:
        it, simulated_s = self.device.interpreter, self.device.simulated_s
        self._line(
            f"{self.images} images, {self.report['images_per_s']:.1f} images/s; device: {it.cycles} cycles = {simulated_s:.3g} s"
        )
        if self.data and self.data.damaged:
            self._line(f"damaged files, skipped: {len(self.data.damaged)}")
        self._say_writes()
        if self.device.program.machine.bit_serial.zero_skip == "cycles":
            whole = it.cycles + it.cycles_saved
            self._line(
                f"zero input bits saved {it.cycles_saved} of {whole} cycles ({100 * it.cycles_saved / max(1, whole):.1f} %)"
            )
        if self.options.cross_check:
            self._line(f"{self.device.replayed} runs replayed on another engine: identical in values, cycles and events")

    def _say_writes(self) -> None:
        """Writes of this run and wear of the device, by what stands in the word lines."""
        written = self.report["writes"]
        if not written["weights"]["rows"] + written["scratch"]["rows"] + written["host"]["rows"]:
            return
        worn, steps = "of the device" if self.image else "of this run", self.report.get("steps", 0)

        def a_step(bits: int) -> str:
            return f" ({bits / steps:.3g} a step)" if steps else ""

        for kind, words in (("weights", "weights"), ("scratch", "scratch rows of gradients")):
            w = written[kind]
            self._line(
                f"{words}: {w['rows']} row writes, {w['bits_written']} bits written, {w['bits_flipped']} flipped{a_step(w['bits_flipped'])}; "
                f"most written row {worn}: {w['worst']} times (sub-array {w['worst_row'][0]}, word line {w['worst_row'][1]}), mean {w['mean']:.3g}"
            )
        if written["host"]["rows"]:
            h = written["host"]
            self._line(f"by the host: {h['rows']} row writes, {h['bits_written']} bits written, {h['bits_flipped']} flipped")
