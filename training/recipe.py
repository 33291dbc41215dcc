"""The recipe of a training run: one TOML file holds everything that is tuned, the same file for every data set that uses it.

``load_recipe("pooled")`` reads a recipe shipped in ``training/recipes``, ``load_recipe("mine.toml")`` a file. A key that is
left out has the value of ``default.toml`` or, where that has none, the default of its section. Unknown keys and values out of range are
errors that name file and key.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sasimc.datasets.images import Augment
from sasimc.isa.choices import shipped_recipes
from sasimc.isa.described import Source, parse_toml, read_source, validate
from sasimc.isa.errors import SasError, near
from sasimc.isa.files import write_atomically
from sasimc.passes.options import BackwardOptions
from sasimc.training.keeping import KeepRule
from sasimc.training.level import STILL, Level, ModulesSection

__all__ = [
    "DataSection",
    "Recipe",
    "ReferenceSection",
    "Schedule",
    "ZooSection",
    "load_recipe",
    "recipe_text",
    "save_recipe",
]

Mu = Annotated[float, Field(ge=-30, le=30)]
Rate = Annotated[float, Field(gt=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Schedule(_Section):
    """A number that goes from ``first`` to ``last`` over the steps of a run, along a line or half a cosine."""

    first: Mu
    last: Mu
    shape: Literal["linear", "cosine"] = "linear"

    def at(self, step: int, steps: int) -> int:
        """The value of a step (0-based) of ``steps``, rounded to a whole number (halves upwards)."""
        part = step / max(1, steps - 1)
        if self.shape == "cosine":
            part = (1 - math.cos(math.pi * part)) / 2
        return math.floor(self.first + (self.last - self.first) * part + 0.5)

    @staticmethod
    def parse(text: str, option: str) -> Schedule:
        """From ``FIRST``, ``FIRST:LAST`` or ``FIRST:LAST:SHAPE``. Raises SasError naming ``option``."""
        parts = text.split(":")
        values: dict[str, Any] = {"first": parts[0], "last": parts[min(1, len(parts) - 1)]}
        if len(parts) > 2:
            values["shape"] = ":".join(parts[2:])
        try:
            return Schedule.model_validate(values)
        except ValidationError:
            raise SasError(
                f"{option} {text!r} is not FIRST, FIRST:LAST or FIRST:LAST:SHAPE, numbers from -30 to 30 and linear or cosine",
                hint=f"{option} 4:-1",
            ) from None


class DataSection(_Section):
    """Which images train. ``hold_back`` 0: the splits of the data set; else its train and val images together, of each class this
    share (at least one image) held back as val."""

    hold_back: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class ZooSection(_Section):
    """How the zoo builds the model (``sasc zoo``): initialisation and calibration; meaning and limits as there."""

    headroom: Annotated[float, Field(ge=0.1, le=64)] = 3.0
    percentile: Annotated[float, Field(ge=50, le=100)] = 99.99
    wiring: Literal["add", "pooled"] = "add"
    rep_gain: Annotated[float, Field(ge=0, le=16)] | None = None
    module_weights: str = "auto"
    rep_weight_max: Annotated[int, Field(ge=1, le=127)] = 48
    module_scales: Literal["tensor", "channel"] = "tensor"
    logit_exponent: Annotated[int, Field(ge=-12, le=8)] | None = None
    head_init: Literal["random", "zero"] = "random"
    calibration_images: Annotated[int, Field(ge=1, le=100_000)] = 32


class ReferenceSection(_Section):
    """Learning rates (Adam, cosine to zero) of the floating-point configurations: classifier alone, classifier and modules
    together; ``warm_up``: the modules' rate rises over this share of the steps once they have joined; ``batch_norm``: behind both convolutions of a module, ``gain``: first factor of the second one."""

    lr_classifier: Rate = 1e-3
    lr_head: Rate = 1e-3
    lr_rep: Rate = 3e-3
    warm_up: Annotated[float, Field(ge=0, le=1)] = 0.1
    batch_norm: bool = False
    gain: Annotated[float, Field(ge=0, le=16)] = 1.0


def _shipped(name: str) -> str:
    return resources.files("sasimc.training").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8")


_DEFAULT = tomllib.loads(_shipped("default"))


class Recipe(_Section):
    """What the host decides about a training run, by default that of ``recipes/default.toml``.

    ``head_exponent`` and ``module_exponent``: the largest gradient of the classifier and of a module's layer moves its weight by about 2^mu
    steps; negative values make updates sparse. ``modules``: when modules join. ``patience``: stop after this many epochs without a better validation accuracy
    (0: never). ``compile``: options of ``sasc compile`` that the run depends on. ``keep``: whose epoch's weights stay (:data:`~sasimc.training.keeping.KeepRule`). ``limit``: at most this
    many images of a split.
    """

    epochs: Annotated[int, Field(ge=1, le=10_000)] = _DEFAULT["epochs"]
    batch: Annotated[int, Field(ge=1, le=1024)] = _DEFAULT["batch"]
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = _DEFAULT["seed"]
    patience: Annotated[int, Field(ge=0, le=10_000)] = _DEFAULT["patience"]
    keep: KeepRule = _DEFAULT["keep"]
    limit: Annotated[int, Field(ge=1)] | None = None
    head_exponent: Schedule = Schedule(**_DEFAULT["head_exponent"])
    module_exponent: Schedule = Schedule(**_DEFAULT["module_exponent"])
    modules: ModulesSection = ModulesSection()
    augment: Augment = Augment()
    data: DataSection = DataSection()
    compile: BackwardOptions = BackwardOptions()
    zoo: ZooSection = ZooSection()
    reference: ReferenceSection = ReferenceSection()

    def exponents(self, step: int, steps: int, level: Level) -> tuple[int, int]:
        """Step exponents of the classifier and of the modules in a step (0-based) of ``steps``; ``level``: of the loss, after the step before."""
        module = self.module_exponent.at(step, steps) if level.learns(step, steps, self.modules) else STILL
        return self.head_exponent.at(step, steps), module

    def compile_options(self) -> dict[str, Any]:
        """What a compile takes from the recipe, by the names of ``CompileOptions``."""
        return {"batch": self.batch, **asdict(self.compile)}


def load_recipe(name_or_path: str | Path = "default") -> Recipe:
    """The shipped recipe of that name, or the one in that file.

    Raises:
        SasError: neither, unreadable, not TOML, or keys that are unknown or out of range (all of them are listed).
    """
    name, path = str(name_or_path), Path(name_or_path)
    shipped = shipped_recipes()
    if name in shipped:
        source = Source(f"{name}.toml", _shipped(name))
    elif path.is_file():
        source = read_source(path, "recipe")
    else:
        raise SasError(f"no recipe {name!r}", hint=near(name, shipped) or f"a TOML file, or one of: {', '.join(shipped)}")
    return validate(Recipe, parse_toml(source), [source], "recipe")


def recipe_text(recipe: Recipe) -> str:
    """The recipe as TOML, every key written out; ``load_recipe`` of it gives an equal recipe."""
    values = recipe.model_dump(exclude_none=True)
    lines = [f"{k} = {_toml(v)}" for k, v in values.items() if not isinstance(v, dict)]
    for name, section in values.items():
        if isinstance(section, dict):
            lines += ["", f"[{name}]", *(f"{k} = {_toml(v)}" for k, v in section.items())]
    return "\n".join(lines) + "\n"


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write ``recipe_text``, atomically. Raises SasError when the file cannot be written."""
    write_atomically(path, recipe_text(recipe).encode())


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
