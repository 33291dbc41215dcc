"""The cells of table I: one configuration on one data set with one seed. A finished cell is kept on disk and never run twice."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sasimc.datasets.dataset import Dataset, hold_back, open_dataset
from sasimc.datasets.examples import training_examples
from sasimc.isa.errors import SasError
from sasimc.isa.files import write_atomically
from sasimc.runtime.device import Device
from sasimc.training.evaluation import Progress, evaluate
from sasimc.training.recipe import Recipe, load_recipe
from sasimc.training.trainer import Epoch, Training, train
from sasimc.zoo.shipped import contents
from sasimc.zoo.zoo import DEFAULT_MODULES, ZooOptions, build, write

__all__ = ["CONFIGURATIONS", "Cell", "Runner", "Settings", "use_threads"]

CONFIGURATIONS: Mapping[int, str] = {
    1: "classifier only, FP32",
    2: "backbone FP32 + Rep-Net FP32",
    3: "backbone INT8 + Rep-Net FP32",
    4: "backbone INT8 + Rep-Net INT8, on the device",
}
"""The rows of the paper's table I."""

_FORM = 2
"""Of a finished cell's file: one with the same name has the same keys."""

Compile = Callable[[Path, Recipe], Device]
Watch = Callable[[Progress], None]


@dataclass(frozen=True)
class Cell:
    """One entry: data set (name or path), configuration (1 to 4), seed."""

    dataset: str
    config: int
    seed: int

    @property
    def name(self) -> str:
        """For messages and file names."""
        return f"{Path(self.dataset).name}-c{self.config}-s{self.seed}"


@dataclass(frozen=True)
class Settings:
    """What all cells share.

    ``size``: input side, pixels. ``weights``: of the backbone (as ``sasc zoo --weights``), None: random. ``recipe``: of all data sets. ``epochs``, ``limit``, ``hold_back`` None: as the recipe says. ``split``: what accuracy is measured on; ``val``
    for tuning, and then the test images are never read. ``cross_check``: every Nth image or step of configuration 4 on another engine.
    ``weights_at``: where ``weights`` lie on this machine, when that is elsewhere.
    """

    out: Path
    size: int = 224
    width: float = 1.0
    weights: str | None = None
    data: Path | None = None
    recipe: str | Recipe = "default"
    epochs: int | None = None
    limit: int | None = None
    hold_back: float | None = None
    split: str = "test"
    cross_check: int = 0
    weights_at: Path | None = None


class Runner:
    """Runs cells. ``compile``: ONNX file and recipe to a device (the compiler is none of this folder's business). ``opened``: data sets that need not be
    looked for."""

    def __init__(self, settings: Settings, compile: Compile, opened: Mapping[str, Dataset] | None = None) -> None:
        if settings.split not in ("val", "test"):
            raise SasError(f"accuracy on {settings.split!r}", hint="test, or val for tuning")
        self.settings, self.compile, self._opened = settings, compile, dict(opened or {})
        self.recipe, self.dataset = lru_cache(self._recipe), lru_cache(self._dataset)

    def varied(self, **changes: Any) -> Runner:
        """A runner with other settings and the same data sets."""
        return Runner(replace(self.settings, **changes), self.compile, self._opened)

    def whole(self, name: str) -> Dataset:
        """A data set before images are held back."""
        if name not in self._opened:
            self._opened[name] = open_dataset(name, self.settings.data, size=self.settings.size)
        return self._opened[name]

    def _recipe(self, name: str) -> Recipe:
        s = self.settings
        recipe = s.recipe if isinstance(s.recipe, Recipe) else load_recipe(s.recipe)
        changes: dict[str, Any] = {k: v for k, v in (("epochs", s.epochs), ("limit", s.limit)) if v is not None}
        if s.hold_back is not None:
            changes["data"] = recipe.data.model_copy(update={"hold_back": s.hold_back})
        return Recipe.model_validate(
            {**recipe.model_dump(), **{k: getattr(v, "model_dump", lambda v=v: v)() for k, v in changes.items()}}
        )

    def _dataset(self, name: str) -> Dataset:
        return hold_back(self.whole(name), self.recipe(name).data.hold_back)

    def path(self, cell: Cell) -> Path:
        """File of the finished cell; its name changes with everything its numbers depend on."""
        s, data = self.settings, self.dataset(cell.dataset)
        recipe = self.recipe(cell.dataset).model_dump(exclude={"seed"})
        first = recipe["zoo"].pop("module_weights")
        if cell.config > 1:
            recipe["zoo"]["module_weights"] = contents(first)
        if cell.config == 4:
            del recipe["reference"]
        else:
            del recipe["head_exponent"], recipe["module_exponent"]
            recipe["compile"] = recipe["compile"]["eps"]
            classifier = recipe["reference"].pop("lr_classifier")
            if cell.config == 1:
                recipe["reference"] = classifier
                del recipe["modules"]
        what = [_FORM, cell.config, cell.seed, data.name, data.counts(), s.size, s.width, s.weights, s.split, recipe]
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
        return s.out / "cells" / f"{cell.name}-{digest}.json"

    def finished(self, cell: Cell) -> dict[str, Any] | None:
        """The result of a cell that was run before, else None."""
        path = self.path(cell)
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise SasError("not a finished cell", where=str(path), hint="delete the file to run this cell again") from None

    def run(self, cell: Cell, watch: Watch | None = None, on_epoch: Callable[[Epoch], None] | None = None) -> dict[str, Any]:
        """Train, measure, write the cell's file; returns its content."""
        data = self.dataset(cell.dataset)
        recipe = self.recipe(cell.dataset).model_copy(update={"seed": cell.seed})
        model = self.model(cell)
        run = self._on_device if cell.config == 4 else self._in_torch
        start = time.perf_counter()
        result, figures = run(cell, model, data, recipe, watch, on_epoch)
        made = {
            **asdict(cell),
            "counts": data.counts(),
            "classes": len(data.classes),
            "side_px": _side(data),
            "size": self.settings.size,
            "split": self.settings.split,
            "epochs": result.rows(),
            "best_epoch": result.best_epoch,
            "wall_s": time.perf_counter() - start,
            **figures,
        }
        self.keep(cell, made)
        return made

    def keep(self, cell: Cell, made: Mapping[str, Any]) -> None:
        """Write the file of a finished cell."""
        path = self.path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(made, indent=1) + "\n").encode())

    def model(self, cell: Cell) -> Path:
        """The ONNX file of a cell: as the recipe's section zoo says, calibrated on training images, initialised by the seed; without modules for
        configuration 1."""
        s, data, zoo = self.settings, self.dataset(cell.dataset), self.recipe(cell.dataset).zoo
        options = ZooOptions(
            weights=s.weights, width=s.width, classes=len(data.classes), resolution=s.size, seed=cell.seed,
            modules=() if cell.config == 1 else DEFAULT_MODULES, **zoo.model_dump(),
        )  # fmt: skip
        first = contents(zoo.module_weights)
        key = hashlib.sha256(repr((options, first, data.name, data.counts())).encode()).hexdigest()[:12]
        path = s.out / "models" / f"{key}.onnx"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            options = replace(options, weights=str(s.weights_at)) if s.weights_at else options
            write(build("mobilenetv2-repnet", options, training_examples(data, zoo.calibration_images)), path)
        return path

    def _in_torch(
        self,
        cell: Cell,
        model: Path,
        data: Dataset,
        recipe: Recipe,
        watch: Watch | None,
        on_epoch: Callable[[Epoch], None] | None,
    ) -> tuple[Training, dict[str, Any]]:
        from sasimc.reference.float_reference import FloatReference
        from sasimc.reference.training import accuracy, train_float

        rates = recipe.reference
        network = FloatReference(model, int8=cell.config == 3, batch_norm=rates.batch_norm and cell.config > 1, gain=rates.gain)
        result = train_float(network, data, recipe, watch, on_epoch)
        marks: dict[int, bool] = {}
        top1 = accuracy(network, data, self.settings.split, watch, recipe.limit, marks)
        return result, {
            "top1": top1,
            "right": _digits(marks),
            "simulated_s": None,
            "bits_written": None,
            "bits_flipped": None,
            "cross_checked": None,
        }

    def _on_device(
        self,
        cell: Cell,
        model: Path,
        data: Dataset,
        recipe: Recipe,
        watch: Watch | None,
        on_epoch: Callable[[Epoch], None] | None,
    ) -> tuple[Training, dict[str, Any]]:
        device = self.compile(model, recipe)
        device.cross_check(self.settings.cross_check)
        result = train(device, data, recipe, watch, on_epoch)
        events = device.interpreter.events
        figures = {
            "simulated_s": device.simulated_s,
            "bits_written": _bits(events, "written"),
            "bits_flipped": _bits(events, "flipped"),
        }
        marks: dict[int, bool] = {}
        top1, _ = evaluate(device, data, self.settings.split, watch, recipe.limit, marks=marks)
        return result, {"top1": top1, "right": _digits(marks), **figures, "cross_checked": device.replayed}


def use_threads(threads: int) -> None:
    """Threads that PyTorch computes with."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(threads)


def _side(data: Dataset) -> int:
    """Median short side of a few training images, pixels."""
    return int(np.median([min(image.shape[:2]) for image in training_examples(data, 9)]))


def _digits(marks: Mapping[int, bool]) -> str:
    """1 for an image that is right, 0 for one that is not, in the order of the split (- for one that cannot be read)."""
    return "".join("01"[marks[n]] if n in marks else "-" for n in range(max(marks, default=-1) + 1))


def _bits(events: Mapping[str, int], what: str) -> int:
    return sum(int(events[f"bits_{what}_{kind}"]) for kind in ("transposable", "compute"))
