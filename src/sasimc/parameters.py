"""What a study may vary: names, which values make sense, and what a point makes of them: machine, recipe, options of the model, bit errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sasimc.isa.described import validate
from sasimc.isa.errors import SasError, near
from sasimc.isa.machine import PAPER, Machine, load_machine
from sasimc.isa.options import options_of
from sasimc.isa.text.printer import flat_fields

__all__ = ["CONFIGURATION", "check_point", "errors_of", "is_paper", "machine_of", "nested", "part", "recipe_of", "zoo_of"]

CONFIGURATION = "configuration"
"""The parameter whose values are the rows of table I."""

_HINT = "machine.SECTION.FIELD, compile.OPTION, zoo.OPTION, recipe.FIELD, bit_errors.KIND.ERROR, technology, interpretation, configuration"


@cache
def _parameters() -> Mapping[str, Callable[[Any], object]]:
    """Name -> what raises SasError for a value that is right in no point."""
    from sasimc.options import CompileOptions
    from sasimc.training.recipe import load_recipe
    from sasimc.zoo.zoo import ZooOptions

    out: dict[str, Callable[[Any], object]] = {"machine": load_machine}
    for name, value in _entries(load_machine()):
        out[f"machine.{name}"] = _like(f"machine.{name}", value)
    for o in options_of(CompileOptions):
        out[f"compile.{o.name}"] = o.check
    for name, _ in _entries(load_recipe()):
        if name == "seed":  # of a trial, not of a point
            continue
        out[f"recipe.{name}"] = lambda value, name=name: recipe_of({f"recipe.{name}": value}, 0, None)
    for field in fields(ZooOptions):
        out[f"zoo.{field.name}"] = lambda value, name=f"zoo.{field.name}": zoo_of({name: value})
    return {**out, **_evaluation()}


def _evaluation() -> dict[str, Callable[[Any], object]]:
    from sasimc.costs import price_list
    from sasimc.reference.cells import CONFIGURATIONS
    from sasimc.runtime.faults import KINDS, Rates

    def configuration(value: Any) -> None:
        if value not in CONFIGURATIONS:
            raise SasError(f"{CONFIGURATION} {value!r}", hint="; ".join(f"{n}: {what}" for n, what in CONFIGURATIONS.items()))

    errors = [f"bit_errors.{kind}.{error}" for kind in KINDS for error in vars(Rates())]
    return {
        "technology": price_list, "interpretation": lambda value: price_list("sas", value), CONFIGURATION: configuration,
        **{name: lambda value, name=name: errors_of({name: value}, 0) for name in errors},
    }  # fmt: skip


def _entries(described: Any) -> list[tuple[str, Any]]:
    """(dotted name, value) of every field, entries of a list by index, as in ``array.banks[0]``."""
    out: list[tuple[str, Any]] = []
    for name, value in flat_fields(described.model_dump(mode="json")):
        out += [(f"{name}[{i}]", entry) for i, entry in enumerate(value)] if isinstance(value, list) else [(name, value)]
    return out


def _like(name: str, usual: Any) -> Callable[[Any], None]:
    """Values of the same kind as the usual one: whether they fit a machine is for the point to say."""

    def check(value: Any) -> None:
        numbers = [isinstance(v, int | float) and not isinstance(v, bool) for v in (usual, value)]
        if usual != "auto" and (numbers[0] != numbers[1] or (not numbers[0] and type(usual) is not type(value))):
            raise SasError(f"{name} = {value!r}: no value for a field that is {usual!r} in the paper's machine")

    return check


def check_point(point: Mapping[str, Any]) -> None:
    """Raise SasError for a parameter that does not exist, or a value that can never be right."""
    known = _parameters()
    for name, value in point.items():
        if name not in known:
            raise SasError(f"there is no parameter {name!r}", hint=near(name, tuple(known)) or _HINT)
        known[name](value)


def part(point: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The parameters of a section, without its name."""
    return {name.removeprefix(f"{prefix}."): value for name, value in point.items() if name.startswith(f"{prefix}.")}


def nested(flat: Mapping[str, Any], into: dict[str, Any]) -> dict[str, Any]:
    """Put values by dotted name, as of ``array.banks[0]``, into nested tables."""
    for path, value in flat.items():
        *sections, last = path.split(".")
        place = into
        for section in sections:
            place = place.setdefault(section, {})
        if found := re.fullmatch(r"(.+)\[(\d+)\]", last):
            place[found[1]][int(found[2])] = value
        else:
            place[last] = value
    return into


def machine_of(point: Mapping[str, Any]) -> Machine:
    """The machine of a point.

    Raises:
        SasError: its fields do not go together.
    """
    changes = part(point, "machine")
    machine = load_machine(point.get("machine"))
    if not changes:
        return machine
    data = nested(changes, machine.model_dump(mode="json"))
    return validate(Machine, {**data, "name": f"{machine.name}-varied"}, [], "machine description")


def is_paper(point: Mapping[str, Any]) -> bool:
    """Whether the machine of a point is the paper's."""
    try:
        return machine_of(point).model_copy(update={"name": PAPER}) == load_machine()
    except SasError:
        return False


def recipe_of(point: Mapping[str, Any], seed: int, training: Mapping[str, Any] | None) -> Any:
    """The recipe of a point.

    Raises:
        SasError: no such recipe, or a value out of range.
    """
    from sasimc.training.recipe import Recipe, load_recipe

    base = load_recipe((training or {}).get("recipe", "default"))
    data = base.model_dump(mode="json") | {"seed": seed}
    if training:
        data |= {"epochs": max(1, training["epochs"]), "limit": training.get("limit")}
    return validate(Recipe, nested(part(point, "recipe"), data), [], "recipe")


@cache
def _zoo() -> TypeAdapter[Any]:
    from sasimc.zoo.zoo import ZooOptions

    return TypeAdapter(ZooOptions)


def zoo_of(point: Mapping[str, Any], training: Mapping[str, Any] | None = None) -> Any:
    """The options of a model of the zoo: those of the point, then those of the section zoo of the training's recipe.

    Raises:
        SasError: a value of the wrong kind or out of range.
    """
    from sasimc.zoo.zoo import parse_modules

    given = (recipe_of(point, 0, training).zoo.model_dump() if training else part(point, "recipe.zoo")) | part(point, "zoo")
    if isinstance(given.get("modules"), str):
        given["modules"] = parse_modules(given["modules"])
    try:
        options = _zoo().validate_python(given)
    except ValidationError as exc:
        first = exc.errors()[0]
        raise SasError(f"zoo.{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None
    options.check()
    return options


def errors_of(point: Mapping[str, Any], seed: int) -> Any:
    """The bit errors of a point, by kind of sub-array.

    Raises:
        SasError: a rate outside 0..1.
    """
    from sasimc.runtime.faults import parse_bit_errors

    texts = []
    for name, rate in part(point, "bit_errors").items():
        kind, error = name.split(".")
        texts.append(f"{error}={rate},kind={kind}")
    return parse_bit_errors(texts, seed)
