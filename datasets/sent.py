"""Some images of a data set as they stand in its files, to be sent elsewhere. Whoever has the data set finds the same bytes in it, so that nothing needs
to be sent; a digest tells."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.datasets.arrays import npy_bytes, parse_npy
from sasimc.datasets.dataset import Dataset, Item
from sasimc.datasets.images import decode
from sasimc.isa.choices import SPLITS
from sasimc.isa.errors import SasError

__all__ = ["Stored", "digest", "heading", "keys", "received", "stored"]

Stored = tuple[bytes | str, bytes]
"""An image as its file stands (a text: why it cannot be read), and its targets (empty: none)."""


def heading(dataset: Dataset, chosen: Mapping[str, Iterable[int]] | None = None) -> dict[str, Any]:
    """Which images they are, as plain data: places of each split (None: all of the data set)."""
    chosen = {s: range(n) for s, n in dataset.counts().items()} if chosen is None else chosen
    items = {s: [[dataset.items(s)[p].key, dataset.items(s)[p].class_id] for p in places] for s, places in chosen.items()}
    return {
        "name": dataset.name, "classes": list(dataset.classes), "named": dataset.named, "items": items,
        "where": dataset.where, "rows": dataset.rows, "drawn": list(dataset.drawn),
    }  # fmt: skip


def keys(head: Mapping[str, Any]) -> list[str]:
    """Keys of a heading's images, in the order in which they are stored."""
    return [key for items in head["items"].values() for key, _ in items]


def stored(dataset: Dataset, head: Mapping[str, Any]) -> list[Stored]:
    """The images of a heading out of a data set that has them."""
    if head["drawn"][0]:
        return []
    return [_stored(dataset, Item(*item), head["where"]) for items in head["items"].values() for item in items]


def _stored(dataset: Dataset, item: Item, where: str) -> Stored:
    targets = dataset.targets([item])
    try:
        data: bytes | str = dataset.stored(item)
    except (SasError, KeyError, IndexError) as exc:
        data = str(exc.diagnostic.message if isinstance(exc, SasError) else exc).replace(dataset.where, where)
    return data, b"" if targets is None else npy_bytes(targets[0])


def digest(contents: Sequence[Stored]) -> str:
    """SHA-256 of some images."""
    found = hashlib.sha256()
    for data, targets in contents:
        kind = b"m" if isinstance(data, str) else b"f"
        data = data.encode() if isinstance(data, str) else data
        found.update(b"%s%d,%d;" % (kind, len(data), len(targets)) + data + targets)
    return found.hexdigest()


@dataclass(frozen=True)
class _Sent(Dataset):
    """A data set of the images that were sent, under the numbers of their places."""

    contents: Sequence[tuple[str, Stored]] = field(default=(), repr=False)
    numbers: bool = False

    def load(self, item: Item) -> npt.NDArray[Any]:
        if self.drawn[0]:
            return super().load(item)
        key, (data, _) = self.contents[int(item.key)]
        if isinstance(data, str):
            raise SasError(data)
        where = f"{self.source}/{key}"
        return parse_npy(data, where) if self.numbers or key.lower().endswith(".npy") else decode(data, where)

    def targets(self, items: Iterable[Item]) -> npt.NDArray[Any] | None:
        rows = [self.contents[int(item.key)][1][1] for item in items] if self.contents else [b""]
        return np.stack([parse_npy(row, self.source) for row in rows]) if rows[0] else None


def received(head: Mapping[str, Any], contents: Sequence[Stored]) -> Dataset:
    """The data set with exactly these images, in their order, under their numbers (drawn ones: as they were)."""
    drawn, number = bool(head["drawn"][0]), itertools.count()
    splits = {
        split: tuple(Item(key if drawn else str(next(number)), class_id) for key, class_id in head["items"].get(split, ()))
        for split in sorted(SPLITS, key=lambda s: list(head["items"]).index(s) if s in head["items"] else len(SPLITS))
    }
    return _Sent(
        head["name"], tuple(head["classes"]), splits, head["where"], drawn, "", head["named"], _drawn=tuple(head["drawn"]),
        contents=list(zip(keys(head), contents, strict=False)), numbers=head["rows"],
    )  # fmt: skip
