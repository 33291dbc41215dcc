"""The options of one ``sasrun``: what they are, what is refused, and the recipe they make."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sasimc.isa.choices import ENGINES, LEVELS, MATCHES
from sasimc.isa.described import findings
from sasimc.isa.errors import SasError, near
from sasimc.isa.options import options_of, texts_of
from sasimc.isa.program import Program
from sasimc.passes.options import BackwardOptions
from sasimc.training.image.image import AUTO
from sasimc.training.program_notes import ZOO
from sasimc.training.recipe import Recipe, load_recipe

__all__ = ["SessionOptions", "check_made_with", "check_network", "check_options", "make_recipe"]


@dataclass(frozen=True)
class SessionOptions:
    """The options of ``sasrun``; ``program`` is a path or a compiled program, ``what`` names it in the first line.

    ``add``: data set with further classes for a learned ``task``, whose own are trained too if ``retrain``. ``recipe``: name or file; ``changes``: fields of it that were given one by one. ``image``: the device image, in which ``task`` is learned
    or used (``auto``: the one that an image belongs to), and an unfinished training goes on (``resume``). ``level``: what wear is levelled of in training, ``none`` or ``scratch`` rows.
    ``freeze``: patterns of trainable layers that stay as they are. ``preprocess`` (a
    preset or JSON) and ``preprocess_changes`` (fields): what is done to images. ``match``: how classes of data and program belong together, by
    ``name`` or ``position``. ``made_by``: words of the command line that make a compiled ``program`` again. ``strict``: a damaged file ends the run before it begins. ``outputs``: files to write (``save``, ``json``, ``trace``).
    """

    program: Path | Program
    what: str = ""
    made_by: tuple[str, ...] = ()
    inputs: tuple[Path, ...] = ()
    train: str | None = None
    add: str | None = None
    retrain: bool = False
    evaluate: str | None = None
    data: Path | None = None
    engine: str = "bitserial"
    threads: int | None = None
    recipe: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    freeze: str = ""
    image: Path | None = None
    task: str | None = None
    resume: bool = False
    level: str = "none"
    split: str = "test"
    cross_check: int = 0
    top: int = 5
    preprocess: str | None = None
    preprocess_changes: Mapping[str, Any] = field(default_factory=dict)
    match: str = "name"
    strict: bool = False
    outputs: Mapping[str, Path] = field(default_factory=dict)


def check_options(o: SessionOptions) -> None:
    """Refuse options that make no sense before anything is loaded."""
    if o.engine not in ENGINES:
        raise SasError(f"no engine {o.engine!r}", hint=near(o.engine, ENGINES) or f"one of {', '.join(ENGINES)}")
    for name, value in (("--threads", o.threads), ("--top", o.top)):
        if value is not None and value < 1:
            raise SasError(f"{name} {value}: at least 1 is needed")
    if o.cross_check < 0:
        raise SasError(f"--cross-check {o.cross_check}: a number from 1, or 0 for none")
    if o.split not in ("train", "val", "test"):
        raise SasError(f"no split {o.split!r}", hint=near(o.split, ("train", "val", "test")) or "train, val or test")
    if o.level not in LEVELS:
        raise SasError(f"--level {o.level}", hint=near(o.level, LEVELS) or " or ".join(LEVELS))
    if o.match not in MATCHES:
        raise SasError(f"--match {o.match}", hint=near(o.match, MATCHES) or " or ".join(MATCHES))
    if o.add and (o.task is None or o.train or o.freeze or o.match != "name"):
        raise SasError(
            "--add FOLDER goes with --image and --task NAME, whose classes it extends",
            hint="leave out --train, --freeze and --match",
        )
    if o.retrain and not o.add:
        raise SasError("--retrain goes with --add", hint="to learn a task again, `sasc image forget IMAGE TASK`, then --train")
    if o.image is None and (o.resume or o.task):
        option = "--resume" if o.resume else "--task"
        raise SasError(f"{option} needs a device image", hint="--image d.sas")
    if o.task == AUTO and (o.train or o.add or o.freeze or o.resume or not (o.evaluate or o.inputs)):
        raise SasError(
            "--task auto finds out whose images those of --eval or --input are", hint="name the task that is to be learned"
        )
    if o.resume and o.inputs:
        raise SasError("--resume goes on with a training; --input has no place in it", hint="classify when it is done")
    for file in o.inputs:
        if not file.exists():
            raise SasError(f"there is no image {file}", hint="--input names an image file")
    make_recipe(o.recipe, o.changes)


def make_recipe(name: str | None, changes: Mapping[str, Any], begun: Recipe | None = None) -> Recipe:
    """The recipe of that name or file (None: the one that a training was ``begun`` with, else the default) with the fields that were given.

    Raises:
        SasError: no such recipe, a value out of range.
    """
    recipe = load_recipe(name) if name else begun or Recipe()
    data = {**recipe.model_dump(exclude_unset=True), **changes}
    try:
        return Recipe.model_validate(data)
    except ValidationError as exc:
        first = findings(exc, Recipe, data)[0]
        raise SasError(f"--{first.path[0].replace('_', '-')}: {first.message}", hint=first.hint) from None


def check_network(recipe: Recipe, name: str, meta: Mapping[str, str]) -> None:
    """Refuse a recipe of that name that asks in its section ``zoo`` for what the network was not made with; ``meta``: of its program. A key that says nothing
    about a network (one of modules, where there are none) does not matter; nothing at all is known of one that neither sasc zoo nor sasc attach made."""
    made_with = json.loads(meta.get(ZOO, "{}"))
    for key, value in recipe.zoo.model_dump(exclude_unset=True).items():
        if (not made_with or key in made_with) and made_with.get(key) != value:
            was = f"was made with {made_with[key]}" if made_with else "was made neither by sasc zoo nor by sasc attach"
            raise SasError(
                f"the recipe {name} is for a network with zoo.{key} = {value}; this one {was}",
                hint=f"sasc zoo --recipe {name} builds one, sasc attach --{key.replace('_', '-')} {value} adds one to a network of yours; or take a recipe without zoo.{key}",
            )


def check_made_with(recipe: Recipe, name: str, program: Program) -> None:
    """Refuse a recipe of that name whose sections ``compile`` and ``zoo`` are not what the program was made with."""
    check_network(recipe, name, program.meta)
    wanted = texts_of(recipe.compile, BackwardOptions)
    for made in options_of(BackwardOptions) if "compile" in recipe.model_fields_set else ():
        asked, was = wanted.get(made.name, ""), program.meta.get(made.name, "")
        if was != asked:
            raise SasError(
                f"the recipe is for a program compiled with {made.flag} {asked or 'left out'}; this one was compiled with {was!r}",
                hint=f"sasc compile --recipe {name}, or take a recipe without [compile]",
            )
