"""Cells of table I shared out: a worker trains and measures one, the folder of the table is written here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sasimc.cluster.task import storage
from sasimc.isa.files import write_atomically
from sasimc.reference.cells import Cell, Runner, Settings, use_threads
from sasimc.runtime.device import Device
from sasimc.sent_data import content_of, data_here, listing
from sasimc.training.recipe import Recipe

__all__ = ["CellTask", "compiler", "run_cell", "weights_of"]


def compiler(engine: str, threads: int | None) -> Any:
    """What turns an ONNX file and a recipe into a device."""
    from sasimc.api import CompileOptions, compile_model

    def compiled(model: Path, recipe: Recipe) -> Device:
        return Device(compile_model(model, CompileOptions(**recipe.compile_options())).program, engine, threads)

    return compiled


def weights_of(weights: str | None) -> dict[str, bytes]:
    """The files of the backbone's weights, to be sent; empty: there are none."""
    place = Path(weights) if weights not in (None, "torchvision") else None
    if place is None or not place.exists():
        return {}
    return {p.name: p.read_bytes() for p in (sorted(place.iterdir()) if place.is_dir() else [place]) if p.is_file()}


@dataclass(frozen=True)
class CellTask:
    """A cell for a worker; ``threads`` of PyTorch and of the simulator, which are the same everywhere because sums of FP32 depend on them."""

    runner: Runner
    cell: Cell
    engine: str
    threads: int

    @property
    def key(self) -> str:
        return self.runner.path(self.cell).stem

    @property
    def name(self) -> str:
        """For messages."""
        return self.cell.name

    @property
    def spec(self) -> Mapping[str, Any]:
        s, data = self.runner.settings, self.runner.whole(self.cell.dataset)
        settings = {name: value for name, value in vars(s).items() if name not in ("out", "data", "recipe", "weights_at")}
        recipe = self.runner.recipe(self.cell.dataset).model_dump(mode="json")
        return {
            "cell": asdict(self.cell), "settings": settings, "recipe": recipe, "engine": self.engine, "threads": self.threads,
            "name": data.name, "source": data.source, "listing": listing(data),
        }  # fmt: skip

    @property
    def content(self) -> Callable[[], Any] | None:
        """What gives the whole data set to a worker that has not got it; None: it is too large."""
        return content_of(self.runner.whole(self.cell.dataset))

    def take(self, outcome: Mapping[str, Any]) -> dict[str, Any]:
        """Keep what a worker has made."""
        path = self.runner.settings.out / "models" / outcome["model"][0]
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, outcome["model"][1])
        self.runner.keep(self.cell, outcome["made"])
        return outcome["made"]


def run_cell(spec: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """On a worker: train and measure a cell; what stands in its file, and the model.

    Raises:
        Lacking: the worker has not got the data set, and it was not sent.
    """
    cell = Cell(**spec["cell"])
    found = data_here(spec, spec["name"], spec["settings"]["size"], spec["source"], spec["listing"])
    data = replace(found, name=spec["name"])  # a path opens under its own
    with tempfile.TemporaryDirectory(dir=storage()) as scratch:
        folder = Path(storage() or scratch)
        settings = Settings(
            **spec["settings"],
            out=folder,
            recipe=Recipe.model_validate(spec["recipe"]),
            weights_at=_weights_at(spec, files, folder),
        )
        use_threads(spec["threads"])
        runner = Runner(settings, compiler(spec["engine"], spec["threads"]), {cell.dataset: data})
        made, model = runner.run(cell), runner.model(cell)
        return {"made": made, "model": (model.name, model.read_bytes())}


def _weights_at(spec: Mapping[str, Any], files: Mapping[str, bytes], folder: Path) -> Path | None:
    """Where the weights that were sent lie; None: they are where the settings say."""
    weights = Path(spec["settings"]["weights"] or "")
    if not files or weights.exists():
        return None
    at = folder / "weights" / weights.name
    for name, content in files.items():
        path = at if list(files) == [weights.name] else at / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    return at
