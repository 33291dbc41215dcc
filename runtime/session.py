"""One run of ``sasrun``: what it says, shows and reports."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sasimc.isa.errors import SasError, near
from sasimc.isa.files import save_program
from sasimc.isa.program import Program
from sasimc.runtime.data.catalog import CATALOGUE
from sasimc.runtime.data.datasets import Dataset, open_dataset
from sasimc.runtime.data.images import Augment, read_image
from sasimc.runtime.device import Device
from sasimc.runtime.interpreter import ENGINES
from sasimc.runtime.profile import Meter
from sasimc.runtime.recipe import Recipe, Schedule
from sasimc.runtime.trainer import Epoch, Training, check_classes, evaluate, train
from sasimc.runtime.trainer import Progress as Shown
from sasimc.runtime.warmup import cold, warm_up

__all__ = ["Session", "SessionOptions"]

_PLAIN_EVERY_S = 10.0
"""Where the output is no terminal (a log), progress is a plain line this often."""


@dataclass(frozen=True)
class SessionOptions:
    """The options of ``sasrun``; ``program`` is a path or a compiled program, ``what`` names it in the first line."""

    program: Path | Program
    what: str = ""
    inputs: tuple[Path, ...] = ()
    train: str | None = None
    evaluate: str | None = None
    data: Path | None = None
    engine: str = "bitserial"
    threads: int | None = None
    epochs: int = 10
    seed: int = 0
    mu_head: Schedule = Recipe().mu_head
    mu_rep: Schedule = Recipe().mu_rep
    augment: bool = True
    split: str = "test"
    limit: int | None = None
    cross_check: int = 0
    top: int = 5


class Session:
    """Load, run the tasks in order (classify, train, evaluate), summarise.

    Raises:
        SasError: an option that makes no sense, a program or data set that cannot be opened or does not fit.
    """

    def __init__(self, options: SessionOptions, console: Console) -> None:
        self.options, self.console = options, console
        _check(options)
        self.images = 0
        self.busy_s = 0.0
        self.report: dict[str, Any] = {}
        with console.status("loading the program"):
            self.device = Device(options.program, options.engine, options.threads)
        self._training, self._evaluation = self._open(options.train), self._open(options.evaluate)
        if not (options.inputs or self._training or self._evaluation):
            self._training = self._evaluation = self._default_data()
        self._say_what_runs()
        self._load_kernels()
        self.device.cross_check(options.cross_check)

    def _say_what_runs(self) -> None:
        device, task = self.device, self._training or self._evaluation
        notes = list(dict.fromkeys(d.note for d in (self._training, self._evaluation) if d is not None and d.note))
        machine, source = device.program.machine, device.program.source
        first = f"{self.options.what or source} on {machine.name} ({machine.subarrays} sub-arrays), engine {device.engine}"
        self._line("; ".join([first, *notes]))
        self.report = {
            "program": self.options.what or source,
            "engine": device.engine,
            "machine": machine.name,
            "dataset": task.name if task else None,
            "synthetic": bool(task.synthetic) if task else False,
            "notes": notes,
        }

    def _load_kernels(self) -> None:
        """Compile the kernels, or load them from the cache, before anything is timed."""
        if cold():
            self._line("compiling the simulator's kernels for this computer (once, up to a minute)")
        start = time.perf_counter()
        with self.console.status("loading the kernels") as status:
            compiled, _ = warm_up(lambda name, i, n: status.update(f"loading the kernels: {i + 1} of {n}, {name}"))
        if compiled:
            self._line(f"compiled {compiled} kernels in {time.perf_counter() - start:.1f} s")

    def _line(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def run(self) -> dict[str, Any]:
        """Do what the options ask for; returns the report (docs/reports.md)."""
        if self.options.inputs:
            self._classify()
        if self._training:
            self._train(self._training)
        if self._evaluation:
            self._evaluate(self._evaluation)
        elif self._training and self._training.items("test"):
            self._evaluate(self._training)
        return self._summary()

    def save(self, path: Path) -> None:
        """Write the program with the device's current weights."""
        program = self.device.program
        tensors = dict(program.tensors)
        for name, values in self.device.state().items():
            tensor = program.matrices[name].tensor
            tensors[tensor] = values.reshape(tensors[tensor].shape)
        save_program(dataclasses.replace(program, tensors=tensors, digest="", weights_file=""), path)

    def _default_data(self) -> Dataset:
        """What a run without a task trains on: ``flowers``, drawn when the network has too few outputs for the real ones."""
        size = self.device.input_shape[0]
        found = open_dataset("flowers", self.options.data, size=size)
        if len(found.classes) > self.device.classes:
            drawn = open_dataset("drawn-flowers", size=size)
            why = f"{drawn.note} (the network has {self.device.classes} outputs, {found.name} {len(found.classes)} classes)"
            found = dataclasses.replace(drawn, note=why)
        check_classes(self.device, found)
        return found

    def _open(self, name: str | None) -> Dataset | None:
        if name is None:
            return None
        size = self.device.input_shape[0]
        found = open_dataset(name, self.options.data, size=size)
        if len(found.classes) > self.device.classes and (relative := self._relative(name, size)) is not None:
            self.console.print(
                f"{found.name} has {len(found.classes)} classes, the program {self.device.classes}: taking {relative.name} "
                f"({len(relative.classes)} classes) instead",
                highlight=False,
            )
            found = relative
        check_classes(self.device, found)
        return found

    def _relative(self, name: str, size: int) -> Dataset | None:
        """A data set whose name begins with ``name`` (``flowers`` -> ``flowers17``) and whose classes fill the classifier exactly."""
        for other, known in CATALOGUE.items():
            if other != name and other.startswith(name) and known.classes == self.device.classes:
                try:
                    return open_dataset(other, self.options.data, size=size)
                except SasError:
                    continue
        return None

    def _label(self, index: int) -> str:
        labels = self.device.labels
        return labels[index] if index < len(labels) else f"class {index}"

    def _classify(self) -> None:
        scale = float(self.device.program.meta["logit_scale"])
        images = [(path, read_image(path)) for path in self.options.inputs]  # a bad file ends the run before it begins
        with self._bar() as watch:
            for number, (path, image) in enumerate(images, 1):
                got = self.device.infer(image[None])
                watch(Shown("images", number, len(images), simulated_s=self.device.simulated_s))
                z = got.logits[0] * scale
                p = np.exp(z - z.max())
                p /= p.sum()
                self._line(f"{path}:")
                for i in np.argsort(-z, kind="stable")[: max(1, self.options.top)]:
                    self._line(f"  {100 * p[i]:5.1f} %  {self._label(int(i))}")
                chosen = int(got.classes[0])
                row = {"file": str(path), "class": chosen, "label": self._label(chosen), "logits": got.logits[0].tolist()}
                self.report.setdefault("predictions", []).append(row)

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
        o = self.options
        recipe = Recipe(
            epochs=o.epochs,
            seed=o.seed,
            mu_head=o.mu_head,
            mu_rep=o.mu_rep,
            augment=Augment(crop="random" if o.augment else "middle", flip=o.augment),
            limit=o.limit,
        )

        meter, laps = Meter(self.device.interpreter), list[dict[str, Any]]()

        def done(e: Epoch) -> None:
            laps.append(meter.lap())
            val = "" if math.isnan(e.val_top1) else f", val {e.val_top1:.1f} %"
            self._line(
                f"epoch {e.epoch + 1}/{o.epochs}: loss {e.loss:.3f}, train {e.train_top1:.1f} %{val}, "
                f"{e.writes_bits} bits written, {e.wall_s:.1f} s"
            )

        with self._bar() as watch:
            result: Training = train(self.device, dataset, recipe, watch, done)
        self.report["epochs"] = [{**row, **lap} for row, lap in zip(result.rows(), laps, strict=True)]
        self.report["best_epoch"] = result.best_epoch
        if dataset.items("val"):
            self._line(f"kept the weights of epoch {result.best_epoch + 1}, the best on the validation split")

    def _evaluate(self, dataset: Dataset) -> None:
        with self._bar() as watch:
            top1 = evaluate(self.device, dataset, self.options.split, watch, self.options.limit)
        count = min(len(dataset.items(self.options.split)), self.options.limit or 1 << 60)
        error = math.sqrt(max(top1 * (100 - top1), 0) / max(1, count))
        self.report.update(top1=top1, split=self.options.split)
        self._line(f"{dataset.name} {self.options.split}: top-1 {top1:.2f} % of {count} images (standard error {error:.2f})")

    def _summary(self) -> dict[str, Any]:
        it, simulated_s = self.device.interpreter, self.device.simulated_s
        self.report.setdefault("top1", None)
        self.report.update(
            images=self.images,
            images_per_s=self.images / self.busy_s if self.busy_s else 0.0,
            cycles=it.cycles,
            cycles_saved_by_zero_skip=it.cycles_saved,
            simulated_s=simulated_s,
            events=dict(it.events),
            phase_cycles=dict(it.phase_cycles),
            cross_checked=self.device.replayed,
        )
        flipped = it.events["bits_flipped_transposable"] + it.events["bits_flipped_compute"]
        self._line(
            f"{self.images} images, {self.report['images_per_s']:.1f} images/s; device: {it.cycles} cycles = {simulated_s:.3g} s, "
            f"{flipped} bits flipped"
        )
        if self.device.program.machine.bit_serial.zero_skip == "cycles":
            whole = it.cycles + it.cycles_saved
            self._line(
                f"zero input bits saved {it.cycles_saved} of {whole} cycles ({100 * it.cycles_saved / max(1, whole):.1f} %)"
            )
        if self.options.cross_check:
            self._line(f"{self.device.replayed} runs replayed on another engine: identical in values, cycles and events")
        return self.report


def _check(o: SessionOptions) -> None:
    """Refuse options that make no sense before anything is loaded."""
    if o.engine not in ENGINES:
        raise SasError(f"no engine {o.engine!r}", hint=near(o.engine, tuple(ENGINES)) or f"one of {', '.join(ENGINES)}")
    for name, value in (("--limit", o.limit), ("--threads", o.threads), ("--epochs", o.epochs), ("--top", o.top)):
        if value is not None and value < 1:
            raise SasError(f"{name} {value}: at least 1 is needed")
    if o.cross_check < 0:
        raise SasError(f"--cross-check {o.cross_check}: a number from 1, or 0 for none")
    if o.split not in ("train", "val", "test"):
        raise SasError(f"no split {o.split!r}", hint=near(o.split, ("train", "val", "test")) or "train, val or test")
