"""Data sets in one ``.npz``: ``x`` and ``y``, or ``x_train``, ``y_train``, ``x_test``, ...; and the names of Keras and MedMNIST for the same.

For a network that predicts values, ``y`` are real targets, and may be missing: then the inputs are the targets, and class numbers, where there are any, only
label the examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.datasets.arrays import ArrayFile, refuse_nan, role_of
from sasimc.datasets.labels_csv import MAX_CLASSES, SPLIT_NAMES, Entry
from sasimc.isa.errors import SasError

__all__ = ["ANY_VALUES", "ArraySet", "read_array_set"]

ANY_VALUES = -1
"""In place of a number of values: every ``y`` that is no class number or name is a target."""
_HINT = "needed: x and y; or x_train, y_train and perhaps x_val, y_val, x_test, y_test; class_names where they are known"


@dataclass(frozen=True)
class ArraySet:
    """Class names, whether they are the file's own, entries (keys are ``array/number``), names of arrays left out; ``targets``: the array with the targets
    of an array's examples."""

    classes: tuple[str, ...]
    named: bool
    entries: tuple[Entry, ...]
    left: str
    targets: Mapping[str, str] = field(default_factory=dict)


def read_array_set(file: ArrayFile, values: int | None = None) -> ArraySet:
    """The examples of a file; ``values``: the network predicts so many values an example (None: classes).

    Raises:
        SasError: no x (with its y, where there are classes), of other lengths, labels that are neither numbers from 0 nor names.
    """
    where = str(file.path)
    pairs: dict[str, dict[str, str]] = {}
    names, left = None, list[str]()
    if values is not None and file.names == ("",):
        pairs[""] = {"x": ""}
    for array in file.names if not pairs else ():
        role = role_of(array, SPLIT_NAMES)
        if role is None:
            left.append(array)
        elif role[0] == "names":
            names = tuple(map(str, file[array].ravel()))
        elif pairs.setdefault(role[1], {}).setdefault(role[0], array) != array:
            raise SasError(f"{where}: {array} and {pairs[role[1]][role[0]]} mean the same", hint=_HINT)
    if not pairs or any("x" not in p or ("y" not in p and values is None) for p in pairs.values()):
        raise SasError(f"{where}: no x with its y among {', '.join(file.names) or 'no arrays'}", hint=_HINT)
    for p in pairs.values():
        refuse_nan(file[p["x"]], f"{where}/{p['x']}" if p["x"] else where)
    targets = {p["x"]: p["y"] for p in pairs.values() if "y" in p and values is not None and _are_targets(file[p["y"]], values)}
    if targets and len(targets) < len(pairs):
        raise SasError(f"{where}: {', '.join(targets.values())} holds targets, other examples have none", hint=_HINT)
    labels = {split: _labels_of(file, p, targets) for split, p in pairs.items()}
    text = [v for v in labels.values() if v.dtype.kind == "U"]
    if text and len(text) != len(labels):
        raise SasError(f"{where}: labels are names in one array and numbers in another", hint=_HINT)
    if text:
        names = names or tuple(sorted({str(n) for v in text for n in v}))
    entries = [e for split, p in pairs.items() for e in _entries(file, split, p, labels[split], names if text else None)]
    if not entries:
        raise SasError(f"{where}: the arrays are empty")
    count = max(e.class_id for e in entries) + 1
    if names is not None and len(names) < count:
        raise SasError(f"{where}: label {count - 1} is out of range", hint=f"{len(names)} class names are given")
    return ArraySet(
        names or tuple(f"class {i}" for i in range(count)), names is not None, tuple(entries), ", ".join(left), targets
    )


def _are_targets(y: npt.NDArray[Any], values: int) -> bool:
    if values != ANY_VALUES:
        return y.dtype.kind in "biuf" and y.ndim > 0 and y.size == len(y) * values
    try:
        _labels(y, "")
    except SasError:
        return True
    return False


def _labels_of(file: ArrayFile, pair: Mapping[str, str], targets: Mapping[str, str]) -> npt.NDArray[Any]:
    """[n]: class numbers or names of a split's examples; zeros where they have none."""
    if "y" not in pair:
        return np.zeros(len(file[pair["x"]]), np.int64)
    y = file[pair["y"]]
    return np.zeros(len(y), np.int64) if pair["x"] in targets else _labels(y, f"{file.path}/{pair['y']}.npy")


def _entries(
    file: ArrayFile, split: str, pair: Mapping[str, str], labels: npt.NDArray[Any], names: tuple[str, ...] | None
) -> list[Entry]:
    x = file[pair["x"]]
    where = f"{file.path}/{pair['x']}.npy"
    if x.ndim < 2 or len(x) != len(labels):
        raise SasError(
            f"{where}: {list(x.shape)}, {len(labels)} labels in {pair.get('y', 'the file')}",
            hint="the first dimension counts the examples",
        )
    if names is not None:
        numbers = {n: i for i, n in enumerate(names)}
        unknown = next((str(n) for n in labels if str(n) not in numbers), None)
        if unknown is not None:
            raise SasError(f"{where}: label {unknown!r} is not among the class names")
        return [Entry(f"{pair['x']}/{i}", numbers[str(n)], split) for i, n in enumerate(labels)]
    return [Entry(f"{pair['x']}/{i}", int(n), split) for i, n in enumerate(labels)]


def _labels(y: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    """[n]: whole numbers from 0, or names; one-hot rows become numbers."""
    if y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind in "biuf" and ((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all():
        return y.argmax(axis=1)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise SasError(f"{where}: labels {list(y.shape)}", hint="one number or name an example, or one-hot rows")
    if y.dtype.kind == "U":
        return y
    if y.dtype.kind not in "biuf" or (len(y) and not ((y >= 0) & (y < MAX_CLASSES) & (y == np.floor(y))).all()):
        raise SasError(f"{where}: labels are no class numbers", hint=f"whole numbers 0..{MAX_CLASSES - 1}, or names")
    return y.astype(np.int64)
