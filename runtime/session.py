"""One run of ``sasrun``: what it says, shows and reports."""

from __future__ import annotations

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
from sasimc.runtime.crosscheck import CrossCheck
from sasimc.runtime.datasets import Dataset, open_dataset
from sasimc.runtime.device import Device
from sasimc.runtime.images import read_image
from sasimc.runtime.trainer import Epoch, Recipe, Training, check_classes, evaluate, train
from sasimc.runtime.trainer import Progress as Shown
from sasimc.runtime.warmup import ensure_compiled

__all__ = ["Session", "SessionOptions"]

ENGINES = ("bitserial", "fused", "step")


@dataclass(frozen=True)
class SessionOptions:
    """The options of ``sasrun``; ``program`` is a path or a compiled program."""

    program: Path | Program | None
    inputs: tuple[Path, ...] = ()
    train: str | None = None
    evaluate: str | None = None
    data: Path | None = None
    engine: str = "bitserial"
    threads: int | None = None
    epochs: int = 10
    seed: int = 0
    mu_head: tuple[float, float] = (4.0, -1.0)
    mu_rep: tuple[float, float] = (2.0, -2.0)
    augment: bool = True
    split: str = "test"
    limit: int | None = None
    cross_check: int = 0
    top: int = 5


class Session:
    """Load, run the tasks in order (classify, train, evaluate), summarise."""

    def __init__(self, options: SessionOptions, console: Console) -> None:
        self.options, self.console = options, console
        if options.engine not in ENGINES:
            raise SasError(f"no engine {options.engine!r}", hint=near(options.engine, ENGINES) or f"one of {', '.join(ENGINES)}")
        if options.limit is not None and options.limit < 1:
            raise SasError(f"--limit {options.limit} leaves no image")
        if options.program is None:
            raise SasError("no program given")
        with console.status("loading kernels") as status:
            ensure_compiled(lambda text: status.update(text))
            status.update("loading the program")
            self.device = Device(options.program, options.engine, options.threads)
        self.images = 0
        self.busy_s = 0.0
        self.report: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Do what the options ask for; returns the report (docs/reports.md)."""
        o, device = self.options, self.device
        source = device.program.source
        trained, evaluated = self._open(o.train), self._open(o.evaluate)
        task = trained or evaluated
        notes = [d.note for d in (trained, evaluated) if d is not None and d.note]
        meta = device.program.meta
        self.console.print(
            f"{meta.get('name', source)} on {device.program.machine.name}, engine {o.engine}"
            + (f", {task.name}: {task.source}" if task else "") + (f" ({notes[0]})" if notes else ""),
            highlight=False,
        )  # fmt: skip
        self.report = {
            "program": source, "engine": o.engine, "machine": device.program.machine.name,
            "dataset": task.name if task else None, "synthetic": bool(task.synthetic) if task else False, "notes": notes,
        }  # fmt: skip
        if not (o.inputs or trained or evaluated):
            trained = evaluated = self._default_task()
        if o.inputs:
            self._classify()
        if trained:
            self._train(trained)
        if evaluated:
            self._evaluate(evaluated)
        elif trained and trained.items("test"):
            self._evaluate(trained)
        return self._summary()

    def save(self, path: Path) -> None:
        """Write the program with the device's current weights."""
        import dataclasses

        program = self.device.program
        tensors = dict(program.tensors)
        for name, values in self.device.state().items():
            tensors[program.matrices[name].tensor] = values
        save_program(dataclasses.replace(program, tensors=tensors, digest="", weights_file=""), path)

    def _default_task(self) -> Dataset:
        size = self.device.input_shape[0]
        found = open_dataset("flowers", self.options.data, size=size)
        if len(found.classes) > self.device.classes:
            found = open_dataset("drawn-flowers", size=size)
        self.console.print(f"no task given: training on flowers ({found.note or found.source})", highlight=False)
        self.report.update(dataset=found.name, synthetic=found.synthetic, notes=[found.note] if found.note else [])
        return found

    def _open(self, name: str | None) -> Dataset | None:
        if name is None:
            return None
        found = open_dataset(name, self.options.data, size=self.device.input_shape[0])
        check_classes(self.device, found)
        return found

    def _label(self, index: int) -> str:
        labels = self.device.labels
        return labels[index] if index < len(labels) else f"class {index}"

    def _classify(self) -> None:
        scale = float(self.device.program.meta["logit_scale"])
        for path in self.options.inputs:
            image = read_image(path)
            start = time.perf_counter()
            got = self.device.infer(image[None])
            self.busy_s += time.perf_counter() - start
            self.images += 1
            self._check_infer(image[None])
            z = got.logits[0] * scale
            p = np.exp(z - z.max())
            p /= p.sum()
            best = np.argsort(-z, kind="stable")[: max(1, self.options.top)]
            self.console.print(f"{path}:", highlight=False, markup=False)
            for i in best:
                self.console.print(f"  {100 * p[i]:5.1f} %  {self._label(int(i))}", highlight=False, markup=False)
            row = {
                "file": str(path),
                "class": int(got.classes[0]),
                "label": self._label(int(got.classes[0])),
                "logits": got.logits[0].tolist(),
            }
            self.report.setdefault("predictions", []).append(row)

    def _check_infer(self, images: Any) -> None:
        if self.options.cross_check and (self.images - 1) % self.options.cross_check == 0:
            self.checker.infer(images)

    @property
    def checker(self) -> CrossCheck:
        """The second engine that replays (made on first use)."""
        if not hasattr(self, "_checker"):
            other = "fused" if self.options.engine != "fused" else "bitserial"
            self._checker = CrossCheck(self.device, other)
        return self._checker

    @contextmanager
    def _bar(self) -> Iterator[Any]:
        """A progress bar fed by the trainer."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}"),
            TimeRemainingColumn(),
        )
        start, first = time.perf_counter(), self.images
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task("", total=1, info="")
            state = {"what": "", "base": 0}

            def watch(p: Shown) -> None:
                if p.what != state["what"]:
                    state.update(what=p.what, base=self.images)
                self.images = int(state["base"]) + p.done
                rate = (self.images - first) / max(1e-9, time.perf_counter() - start)
                parts = [f"{rate:.1f} images/s"]
                if p.loss is not None:
                    parts.append(f"loss {p.loss:.3f}")
                if p.top1 is not None:
                    parts.append(f"top-1 {p.top1:.1f} %")
                parts.append(f"device {p.simulated_s:.3g} s")
                bar.update(task, description=p.what, completed=p.done, total=p.total, info=", ".join(parts))

            yield watch
        self.busy_s += time.perf_counter() - start

    def _train(self, dataset: Dataset) -> None:
        o = self.options
        recipe = Recipe(o.epochs, o.seed, o.mu_head, o.mu_rep, o.augment, o.limit)

        def done(e: Epoch) -> None:
            self.console.print(
                f"epoch {e.epoch + 1}/{o.epochs}: loss {e.loss:.3f}, train {e.train_top1:.1f} %, val {e.val_top1:.1f} %, "
                f"{e.writes_bits} bits written, {e.wall_s:.1f} s",
                highlight=False,
            )

        def check(step: int, images: Any, labels: Any, mu_head: int, mu_rep: int) -> None:
            if o.cross_check and step % o.cross_check == 0:
                self.checker.train_step(images, labels, mu_head, mu_rep)

        with self._bar() as watch:
            result: Training = train(self.device, dataset, recipe, watch, done, check)
        self.report["epochs"] = result.rows()
        self.report["best_epoch"] = result.best_epoch
        self.console.print(
            f"kept the weights of epoch {result.best_epoch + 1}, the best on the validation split", highlight=False
        )

    def _evaluate(self, dataset: Dataset) -> None:
        with self._bar() as watch:
            top1 = evaluate(self.device, dataset, self.options.split, watch, self.options.limit)
        count = min(len(dataset.items(self.options.split)), self.options.limit or 1 << 60)
        error = math.sqrt(max(top1 * (100 - top1), 0) / max(1, count))
        self.report["top1"] = top1
        self.report["split"] = self.options.split
        self.console.print(
            f"{dataset.name} {self.options.split}: top-1 {top1:.2f} % of {count} images (standard error {error:.2f})",
            highlight=False,
        )

    def _summary(self) -> dict[str, Any]:
        it = self.device.interpreter
        self.report.setdefault("top1", None)
        self.report.update(
            images=self.images, images_per_s=self.images / self.busy_s if self.busy_s else 0.0, cycles=it.cycles,
            simulated_s=self.device.simulated_s, events=dict(it.events), phase_cycles=dict(it.phase_cycles),
        )  # fmt: skip
        flipped = it.events.get("bits_flipped_transposable", 0) + it.events.get("bits_flipped_compute", 0)
        self.console.print(
            f"{self.images} images, {self.report['images_per_s']:.1f} images/s, {it.cycles} cycles = {self.device.simulated_s:.3g} s device time, "
            f"{flipped} bits flipped",
            highlight=False,
        )
        return self.report
