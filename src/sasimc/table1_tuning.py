"""Table I with tuning that is equal by construction: for each configuration the same number of trials, at the same places of a space of the same size, with the
same seed, on validation images alone. A setting takes the recipe's place only if it is ahead of it by more than one standard error: a few images decide nothing."""

from __future__ import annotations

import csv
import io
import itertools
import random
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sasimc.isa.errors import SasError
from sasimc.isa.files import write_atomically
from sasimc.reference.cells import Cell, Runner
from sasimc.reference.table1 import by_image, error_of_mean
from sasimc.training.recipe import Recipe

__all__ = ["MOVES", "SEED", "SPACE", "Trial", "chosen", "log", "moved", "moves", "trials", "write_log"]

Move = tuple[int, ...]
"""By how many steps a trial goes along each of a configuration's two axes."""

MOVES = (-2, -1, 0, 1)
"""Steps along an axis; the recipe itself is (0, 0)."""
SEED = 0
"""Of all trials, and of the drawing of their places."""
_RATE, _SMOOTHING = 10**0.5, 2.0

SPACE: Mapping[int, tuple[str, str]] = {
    1: ("reference.lr_classifier", "compile.eps"),
    2: ("reference.lr_head", "reference.lr_rep"),
    3: ("reference.lr_head", "reference.lr_rep"),
    4: ("head_exponent", "module_exponent"),
}
"""Axes: a step is a factor of a learning rate (half a decade) or of label smoothing (2), or is added to both ends of a schedule of step exponents."""


@dataclass(frozen=True)
class Trial:
    """One trial; ``number`` 0 is the recipe as it is. ``runner`` measures on validation images."""

    dataset: str
    config: int
    number: int
    move: Move
    runner: Runner

    @property
    def cell(self) -> Cell:
        """What the runner runs."""
        return Cell(self.dataset, self.config, SEED)

    @property
    def settings(self) -> dict[str, Any]:
        """Axis -> value."""
        recipe = self.runner.recipe(self.dataset)
        return {axis: _value(recipe, axis) for axis in SPACE[self.config]}


def moves(count: int) -> list[Move]:
    """The places of so many trials: the recipe, then others drawn without repetition."""
    others = [move for move in itertools.product(MOVES, repeat=2) if any(move)]
    return [(0, 0), *random.Random(SEED).sample(others, min(count, len(others) + 1) - 1)]


def moved(recipe: Recipe, config: int, move: Move) -> Recipe:
    """The recipe so many steps along the axes of a configuration.

    Raises:
        SasError: a value that a recipe cannot have.
    """
    data = recipe.model_dump()
    for axis, steps in zip(SPACE[config], move, strict=True):
        *sections, last = axis.split(".")
        place = data
        for section in sections:
            place = place[section]
        if isinstance(place[last], dict):
            place[last] |= {end: place[last][end] + steps for end in ("first", "last")}
        else:
            place[last] = float(f"{place[last] * (_RATE if 'lr_' in last else _SMOOTHING) ** steps:.3g}")
    try:
        return Recipe.model_validate(data)
    except ValidationError as exc:
        raise SasError(
            f"tuning would leave what a recipe may say: {exc.errors()[0]['msg']}", hint="a recipe nearer to the default"
        ) from None


def trials(runner: Runner, datasets: Iterable[str], configs: Iterable[int], count: int) -> list[Trial]:
    """All trials of a table.

    Raises:
        SasError: a data set without validation images.
    """
    made = []
    for dataset in datasets:
        if not runner.dataset(dataset).items("val"):
            raise SasError(f"{dataset} has no validation images to tune on", hint="--hold-back 0.1")
        for config in configs:
            for number, move in enumerate(moves(count)):
                recipe = moved(runner.recipe(dataset), config, move)
                made.append(Trial(dataset, config, number, move, runner.varied(split="val", recipe=recipe)))
    return made


def chosen(made: Iterable[Trial]) -> dict[tuple[str, int], Trial]:
    """For each data set and configuration the trial that was best on validation images, of equal ones the first; the recipe, if that is within one standard error (paired over images)."""
    groups: dict[tuple[str, int], list[Trial]] = {}
    for trial in made:
        groups.setdefault((trial.dataset, trial.config), []).append(trial)
    found: dict[tuple[str, int], Trial] = {}
    for key, (recipe, *others) in groups.items():
        best = max(others, key=_top1, default=recipe)
        points = by_image([(_result(best), _result(recipe))])
        found[key] = best if statistics.fmean(points) > (error_of_mean(points) or 0.0) else recipe
    return found


def log(made: list[Trial]) -> Iterator[dict[str, Any]]:
    """A row a trial, JSON-ready."""
    best = set(map(id, chosen(made).values()))
    for trial in made:
        yield {
            "dataset": trial.dataset, "config": trial.config, "trial": trial.number, "seed": SEED, **dict(zip(("first_axis", "second_axis"), trial.settings.items(), strict=True)),
            "val_top1": _top1(trial), "chosen": id(trial) in best,
        }  # fmt: skip


def write_log(made: list[Trial], path: Path) -> None:
    """Write all trials as CSV, an axis as NAME=VALUE."""
    text = io.StringIO()
    rows = [{k: "=".join(map(str, v)) if isinstance(v, tuple) else v for k, v in row.items()} for row in log(made)]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def _result(trial: Trial) -> dict[str, Any]:
    found = trial.runner.finished(trial.cell)
    assert found is not None
    return found


def _top1(trial: Trial) -> float:
    return float(_result(trial)["top1"])


def _value(recipe: Recipe, axis: str) -> Any:
    value: Any = recipe
    for name in axis.split("."):
        value = getattr(value, name)
    return value if isinstance(value, float) else f"{value.first:g}:{value.last:g}"
