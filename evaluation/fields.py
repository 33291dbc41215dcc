"""The numbers of a technology or of circuit figures by name: ``components.adder_tree.energy``, ``interpretations.scan.relu_elements``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from sasimc.evaluation.quantity import End, Quantity

__all__ = ["Number", "at_end", "numbers", "with_number"]

M = TypeVar("M", bound=BaseModel)
Number = Quantity | int | float


def numbers(model: BaseModel) -> Iterator[tuple[str, Number]]:
    """Every quantity and plain number with its path in the file."""
    for name in type(model).model_fields:
        yield from _numbers(name, getattr(model, name))


def _numbers(path: str, value: Any) -> Iterator[tuple[str, Number]]:
    if isinstance(value, BaseModel):
        yield from ((f"{path}.{inner}", number) for inner, number in numbers(value))
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(f"{path}.{name}", inner)
    elif isinstance(value, Quantity) or (isinstance(value, int | float) and not isinstance(value, bool)):
        yield path, value


def with_number(model: M, path: str, number: Number) -> M:
    """A copy with another number at a path that :func:`numbers` gives."""
    head, _, rest = path.partition(".")
    return model.model_copy(update={head: _put(getattr(model, head), rest, number)})


def _put(value: Any, path: str, number: Number) -> Any:
    if not path:
        return number
    if isinstance(value, BaseModel):
        return with_number(value, path, number)
    head, _, rest = path.partition(".")
    return {**value, head: _put(value[head], rest, number)}


def at_end(model: M, end: End) -> M:
    """A copy with every quantity at one end of its range."""
    return model.model_copy(update={name: _at_end(getattr(model, name), end) for name in type(model).model_fields})


def _at_end(value: Any, end: End) -> Any:
    if isinstance(value, BaseModel):
        return at_end(value, end)
    if isinstance(value, Quantity):
        return value.at(end)
    return {name: _at_end(inner, end) for name, inner in value.items()} if isinstance(value, Mapping) else value
