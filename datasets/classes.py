"""Classes of a program and of a data set are the same where their names are, whatever the order of either."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from sasimc.datasets.dataset import Dataset, Item
from sasimc.isa.errors import SasError

__all__ = ["align", "extend"]

_SHOWN = 16


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").replace("-", " ").split())


def _numbers(labels: Sequence[str]) -> dict[str, int]:
    """Label -> its number; also without regard to case and separators, and by the first of several synonyms, where that is unambiguous."""
    out: dict[str, int] = {}
    for form in (lambda n: unicodedata.normalize("NFC", n), _plain, lambda n: _plain(n.partition(",")[0])):
        keys = [form(n) for n in labels]
        out |= {key: i for i, key in enumerate(keys) if keys.count(key) == 1 and key not in out} if len(set(keys)) > 1 else {}
    return out


def align(dataset: Dataset, labels: Sequence[str], *, learns: bool, by_position: bool = False) -> tuple[Dataset, str]:
    """The data set with the program's class numbers and names, and what was done, in words (empty: nothing).

    ``learns``: the classes may be new to the program; where no name at all is known to it they are, and keep the data set's order.

    Raises:
        SasError: names that match in part, or not at all; the message shows both lists.
    """
    if not labels:
        return dataset, ""
    if by_position or not dataset.named:
        if len(dataset.classes) > len(labels):
            return dataset, ""
        return replace(dataset, classes=tuple(labels)), "classes matched by position, names from the program"
    known = _numbers(labels)
    found = [known.get(unicodedata.normalize("NFC", n), known.get(_plain(n))) for n in dataset.classes]
    missing = [n for n, i in zip(dataset.classes, found, strict=True) if i is None]
    numbers = [i for i in found if i is not None]
    if missing or len(set(numbers)) != len(numbers):
        if learns and not numbers:
            return dataset, f"new classes: the program's names ({', '.join(labels[:3])}, ...) are replaced"
        raise SasError(
            f"{dataset.name}: {len(missing)} of {len(found)} classes have no counterpart among the program's {len(labels)}\n"
            f"{_table(labels, dataset.classes, found)}",
            hint="rename the folders or labels; or --match position: the nth class of the data is the program's nth",
        )
    splits = {s: tuple(Item(i.key, numbers[i.class_id]) for i in items) for s, items in dataset.splits.items()}
    words = "classes matched by name"
    if numbers != sorted(numbers):
        words += ", in the program's order"
    if len(numbers) < len(labels):
        words += f", {len(numbers)} of the program's {len(labels)}"
    return replace(dataset, classes=tuple(labels), splits=splits), words


def extend(dataset: Dataset, labels: Sequence[str]) -> tuple[Dataset, str]:
    """The data set with the classes of a task first, under their numbers, then its own new ones in its order; and what was done, in words."""
    known = _numbers(labels)
    found = [known.get(unicodedata.normalize("NFC", n), known.get(_plain(n))) for n in dataset.classes]
    new = [n for n, i in zip(dataset.classes, found, strict=True) if i is None]
    later = itertools.count(len(labels))
    numbers = [next(later) if i is None else i for i in found]
    splits = {s: tuple(Item(i.key, numbers[i.class_id]) for i in items) for s, items in dataset.splits.items()}
    words = f"{len(new)} new classes beside the {len(labels)} that are known, {len(found) - len(new)} of which have images"
    return replace(dataset, classes=(*labels, *new), splits=splits), words


def _table(labels: Sequence[str], classes: Sequence[str], found: Sequence[int | None]) -> str:
    """Program and data side by side, what has no counterpart first."""
    counterpart = {i: name for name, i in zip(classes, found, strict=True) if i is not None}
    rows = [("-", name) for name, i in zip(classes, found, strict=True) if i is None]
    rows += [(label, counterpart.get(i, "-")) for i, label in sorted(enumerate(labels), key=lambda p: p[0] in counterpart)]
    width = max(len("program"), *(len(p) for p, _ in rows[:_SHOWN]))
    lines = [f"    {p:<{width}}  {d}" for p, d in [("program", "data"), *rows[:_SHOWN]]]
    return "\n".join([*lines, *([f"    ... {len(rows) - _SHOWN} more"] if len(rows) > _SHOWN else [])])
