"""A few examples, spread evenly over a data set, a folder of images or an array file: what networks are calibrated and compared on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.datasets.array_sets import ANY_VALUES
from sasimc.datasets.class_folders import images_below
from sasimc.datasets.dataset import Dataset, Item, open_dataset
from sasimc.datasets.store import open_tree
from sasimc.isa.errors import SasError

__all__ = ["Examples", "read_examples", "training_examples"]


@dataclass(frozen=True)
class Examples:
    """``arrays``: images, uint8 [H, W, 3] RGB, or arrays as they are stored; ``labels``: class numbers, or empty; ``classes``: their names, or empty."""

    arrays: tuple[npt.NDArray[Any], ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    note: str


def training_examples(data: Dataset, count: int) -> list[npt.NDArray[np.uint8]]:
    """At most ``count`` training images, evenly spread over the list."""
    items = data.items("train")
    return [data.load(items[i]) for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))]


def read_examples(source: str | Path, data_dir: Path | None, count: int, *, size: int = 96, seed: int = 0) -> Examples:
    """``count`` examples of a data set (a name, a folder, an archive, an ``.npz`` or ``.npy``), or images of a folder without classes.

    They are training examples where there are as many, else of all splits. What cannot be read is left out and counted.

    Raises:
        SasError: no such place, nothing that can be read.
    """
    dataset = _open(source, data_dir, size, seed)
    items = dataset.items("train")
    if len(items) < count:
        items = (*items, *dataset.items("val"), *dataset.items("test"))
    wanted = min(count, len(items))
    chosen: list[tuple[Item, npt.NDArray[Any]]] = []
    damaged = 0
    for i in range(wanted):
        item = items[i * len(items) // wanted]
        try:
            chosen.append((item, dataset.load(item)))
        except SasError:
            damaged += 1
    if not chosen:
        raise SasError(
            f"{source}: no image can be read", hint="a folder of images, a folder of classes, or the name of a data set"
        )
    known = len(dataset.classes) > 1
    note = f"{dataset.note}; {damaged} cannot be read, left out" if damaged else dataset.note
    labels = tuple(item.class_id for item, _ in chosen) if known else ()
    return Examples(tuple(array for _, array in chosen), labels, dataset.classes if known else (), note)


def _open(source: str | Path, data_dir: Path | None, size: int, seed: int) -> Dataset:
    """The data set; a folder or archive that has no classes becomes one without."""
    try:
        return open_dataset(source, data_dir, size=size, seed=seed, values=ANY_VALUES)
    except SasError:
        path = Path(source)
        if not path.exists() or path.suffix.lower() in (".npz", ".npy", ".csv", ".tsv"):
            raise
        tree = open_tree(path)
        found, left = images_below(tree)
        if not found:
            raise
        note = f"{len(found)} images of {path}" + (f", {len(left)} files that are no images left out" if left else "")
        splits = {"train": tuple(Item(name, 0) for name in found), "val": (), "test": ()}
        return Dataset(path.name, ("images",), splits, str(path), False, note, False, tuple(left), _source=tree)
