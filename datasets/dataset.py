"""Data sets by name or path: where they are, what is in them, how their images are read.

``open_dataset("flowers")`` looks for a folder whose name starts with ``flowers-102`` under the data folder; a path
opens any folder or archive with ``labels.csv``, one sub-folder a class, or an official layout, a table of labels itself, or an ``.npz``. Where ``flowers`` is
not found, flowers drawn by formula take its place, and ``Dataset.note`` says so for the first line of a run and for
its report.

Splits: what the data set says. Without a validation split, a tenth of the training images of each class (at least
one) is held back for it; without any split, 80/10/10 a class. Both draws are seeded. The test split is never a source
of validation images.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.datasets import procedural
from sasimc.datasets.array_sets import read_array_set
from sasimc.datasets.arrays import ArrayFile, npy_bytes, parse_npy
from sasimc.datasets.catalog import CATALOGUE, KnownSet
from sasimc.datasets.images import decode, probe
from sasimc.datasets.labels_csv import Entry, Table, read_labels
from sasimc.datasets.layouts import read_layout
from sasimc.datasets.store import FolderTree, Tree, is_archive, open_tree
from sasimc.isa.choices import SPLITS
from sasimc.isa.errors import SasError, near

__all__ = [
    "Damaged",
    "Dataset",
    "DatasetRow",
    "Item",
    "data_folder",
    "hold_back",
    "list_datasets",
    "open_dataset",
]

DRAWN = {"drawn-flowers": "flowers", "drawn-shapes": "pretrain"}
"""Names under which drawn images are opened on purpose, and the kind that ``procedural.draw`` knows."""

_DRAWN_FIRST_SEED = {"train": 0, "val": 1 << 32, "test": 1 << 33}  # apart, whatever the counts: no image stands in two splits


@dataclass(frozen=True)
class Item:
    """One image: its key (file name in the data set, or number of a drawn image) and class."""

    key: str
    class_id: int


class Damaged:
    """Files that could not be read, with the reason, in the order in which they were found. Safe to use from several threads."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._lock = threading.Lock()

    def note(self, key: str, error: SasError, strict: bool = False) -> None:
        """One more. Raises the error instead when ``strict``."""
        if strict:
            raise error
        with self._lock:
            self._files.setdefault(key, error.diagnostic.message)

    @property
    def files(self) -> dict[str, str]:
        with self._lock:
            return dict(self._files)


@dataclass(frozen=True)
class Dataset:
    """An opened data set. ``load`` is safe to call from several threads.

    ``named``: the classes have names of their own (else ``class 0``, ...); ``source``: where the images come from; ``synthetic``: drawn by formula;
    ``note``: one plain sentence on what this is, for the first line of a run and its report; ``left_out``: files and folders that are no images;
    ``damaged``: files that turned out so.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Item, ...]]
    source: str
    synthetic: bool
    note: str
    named: bool = True
    left_out: tuple[str, ...] = ()
    damaged: Damaged = field(default_factory=Damaged, compare=False, repr=False)
    _source: Tree | ArrayFile | None = field(default=None, repr=False)
    _targets: Mapping[str, str] = field(default_factory=dict, repr=False)
    _drawn: tuple[str, int] = ("", 0)

    def items(self, split: str) -> tuple[Item, ...]:
        """The images of a split. Raises SasError for an unknown split."""
        if split not in self.splits:
            raise SasError(f"no split {split!r}", hint=near(split, SPLITS) or f"one of {', '.join(SPLITS)}")
        return self.splits[split]

    def load(self, item: Item) -> npt.NDArray[Any]:
        """The image, uint8 [H, W, 3] RGB; or the array as it is stored. Raises SasError naming the file when it cannot be read."""
        if self._source is None:
            kind, size = self._drawn
            return procedural.draw(kind, item.class_id, int(item.key), size)
        if isinstance(self._source, ArrayFile):
            name, _, number = item.key.rpartition("/")
            return self._source[name][int(number)]
        data, where = self._source.read(item.key), f"{self._source.where}/{item.key}"
        return parse_npy(data, where) if item.key.lower().endswith(".npy") else decode(data, where)

    def stored(self, item: Item) -> bytes:
        """The file of an image, or its array as ``.npy`` file, of a data set that is not drawn. Raises SasError as ``load`` does."""
        if self._source is None or isinstance(self._source, ArrayFile):
            return npy_bytes(self.load(item))
        return self._source.read(item.key)

    @property
    def where(self) -> str:
        """The folder, archive or file with the images, for messages; empty: drawn by formula."""
        return "" if self._source is None else self._source.where

    @property
    def rows(self) -> bool:
        """Whether the images are rows of arrays, no files."""
        return isinstance(self._source, ArrayFile)

    @property
    def drawn(self) -> tuple[str, int]:
        """Kind and size of what is drawn by formula (``procedural.draw``); an empty kind: nothing is."""
        return self._drawn

    @property
    def arrays(self) -> bool:
        """Whether the examples are arrays of real values, no pictures."""
        if not isinstance(self._source, ArrayFile):
            return False
        first = next((item.key.rpartition("/")[0] for s in SPLITS for item in self.splits[s]), None)
        return first is not None and self._source[first].dtype.kind == "f"

    def targets(self, items: Iterable[Item]) -> npt.NDArray[Any] | None:
        """Real targets [n, ...] of some examples; None where the data have none."""
        if not self._targets or not isinstance(self._source, ArrayFile):
            return None
        places = [item.key.rpartition("/") for item in items]
        return np.stack([self._source[self._targets[name]][int(number)] for name, _, number in places])

    def probe(self, item: Item) -> None:
        """Read what tells whether ``item`` can be loaded: an image's header, an array. Raises SasError as ``load`` does."""
        if self._source is None or isinstance(self._source, ArrayFile) or item.key.lower().endswith(".npy"):
            self.load(item)
            return
        with self._source.open(item.key) as f:
            probe(f, f"{self._source.where}/{item.key}")

    def counts(self) -> dict[str, int]:
        """Images a split."""
        return {s: len(self.splits[s]) for s in SPLITS}


def data_folder(data_dir: str | Path | None) -> Path | None:
    """``data_dir``, else the environment's SASIMC_DATA, else None. Raises SasError when the one named is no folder."""
    chosen = data_dir if data_dir is not None else os.environ.get("SASIMC_DATA") or None
    if chosen is None:
        return None
    path = Path(chosen)
    if not path.is_dir():
        origin = "--data" if data_dir is not None else "SASIMC_DATA"
        raise SasError(f"{path}: no such folder", hint=f"{origin} names the folder that holds the data sets")
    return path


def _find(known: KnownSet, base: Path | None) -> Path | None:
    """The folder or archive of a known set: ``base`` itself or what is in it, the plainest name first."""
    if base is None:
        return None
    try:
        candidates = [p for p in base.iterdir() if p.is_dir() or is_archive(p.name)]
    except OSError as e:
        raise SasError(f"{base}: cannot be listed ({e.strerror or e})") from e
    matching = [p for p in [*candidates, base.resolve()] if p.name.lower().startswith(known.prefixes)]
    return min(matching, key=lambda p: (not p.is_dir(), len(p.name), p.name), default=None)


def _held_back(entries: list[Entry], fraction: float, seed: int) -> tuple[list[Entry], list[Entry]]:
    """(kept, held back): of each class with at least two images, ``fraction`` but at least one, drawn by seed and class."""
    groups: dict[int, list[Entry]] = {}
    for e in entries:
        groups.setdefault(e.class_id, []).append(e)
    taken: set[tuple[str, int]] = set()
    for class_id, group in groups.items():
        count = max(1, round(fraction * len(group))) if len(group) > 1 else 0
        taken.update((group[i].key, class_id) for i in procedural.shuffled(len(group), seed, class_id)[:count])
    return [e for e in entries if (e.key, e.class_id) not in taken], [e for e in entries if (e.key, e.class_id) in taken]


def _split(table: Table, seed: int) -> tuple[dict[str, list[Entry]], str]:
    """Entries by split, and what had to be drawn for it, in words."""
    parts: dict[str, list[Entry]] = {s: [] for s in SPLITS}
    given = {e.split for e in table.entries if e.split}
    for e in table.entries:
        parts[e.split or "train"].append(e)
    if not given and len({e.class_id for e in table.entries}) == len(table.entries):
        parts["train"], parts["test"] = [], parts["train"]
        return parts, "one image a class: for calibration and evaluation only, all are test images"
    drawn = []
    if not parts["test"] and parts["train"]:
        parts["train"], parts["test"] = _held_back(parts["train"], 0.1, seed)
        drawn.append("test")
    if not parts["val"] and parts["train"]:
        # A tenth of the whole where the test images were drawn as well: 80/10/10.
        parts["train"], parts["val"] = _held_back(parts["train"], 1 / 9 if "test" in drawn else 0.1, seed + 1)
        drawn.append("val")
    words = f"{' and '.join(drawn)} images drawn from the training images, a tenth a class, seed {seed}" if drawn else ""
    return parts, words


def _from_path(name: str, path: Path, seed: int, values: int | None = None) -> Dataset:
    suffix, targets = path.suffix.lower(), dict[str, str]()
    if path.is_file() and suffix in (".npz", ".npy"):
        source: Tree | ArrayFile = ArrayFile(path)
        found = read_array_set(source, values)
        targets, note = dict(found.targets), f"not used: {found.left}" if found.left else ""
        table = Table(found.classes, found.entries, FolderTree(path.parent), "arrays", note, found.named)
    else:
        is_table = path.is_file() and suffix in (".csv", ".tsv")
        table = read_labels(FolderTree(path.parent), [(path.name, "")]) if is_table else read_layout(open_tree(path))
        source = table.tree
    parts, drawn = _split(table, seed)
    splits = {s: tuple(Item(e.key, e.class_id) for e in parts[s]) for s in SPLITS}
    counts = " / ".join(str(len(splits[s])) for s in SPLITS)
    what = "arrays" if isinstance(source, ArrayFile) else "images"
    kinds = f"{len(table.classes)} classes" if values is None or len(table.classes) > 1 else "targets" if targets else "no labels"
    note = f"{name}: {kinds}, {counts} {what} (train / val / test) from {path} ({table.layout})"
    left_out = (*table.left, *sorted(table.tree.system))
    note = "; ".join(
        part
        for part in (
            note,
            table.note,
            drawn,
            _shown(_alike(table.classes), "classes differ in case only: {}"),
            _shown(table.left, "left out: {}"),
            _system(table.tree.system),
        )
        if part
    )
    return Dataset(name, table.classes, splits, str(path), False, note, table.named, left_out, _source=source, _targets=targets)


def _shown(names: Sequence[str], words: str) -> str:
    """Count and first names."""
    if not names:
        return ""
    more = f", ... ({len(names)} in all)" if len(names) > 3 else ""
    return words.format(", ".join(names[:3]) + more)


def _alike(names: Sequence[str]) -> list[str]:
    """Names that another one equals but for the case of letters."""
    count = Counter(n.casefold() for n in names)
    return [n for n in names if count[n.casefold()] > 1]


def _system(names: set[str]) -> str:
    return _shown(sorted(names), "system files ignored: {}")


def _drawn(name: str, kind: str, size: int, per_class: tuple[int, int, int], note: str) -> Dataset:
    classes = procedural.class_names(kind)
    splits = {
        s: tuple(Item(str(_DRAWN_FIRST_SEED[s] + i), c) for i in range(n) for c in range(len(classes)))
        for s, n in zip(SPLITS, per_class, strict=True)
    }
    return Dataset(name, classes, splits, "drawn by formula", True, note, _drawn=(kind, size))


def open_dataset(
    name_or_path: str | Path,
    data_dir: str | Path | None = None,
    *,
    size: int = 96,
    per_class: tuple[int, int, int] = (64, 16, 40),
    seed: int = 0,
    values: int | None = None,
) -> Dataset:
    """The data set of that name (see ``CATALOGUE``, ``DRAWN``) or at that path.

    A name is looked for under ``data_dir``, else under SASIMC_DATA. ``size`` (pixels) and ``per_class`` (train, val,
    test) hold for drawn images only; ``seed`` for splits that must be drawn. ``values``: the
    network predicts so many values an example, so arrays need no classes (:func:`read_array_set`). Raises SasError when it is not found
    (except ``flowers``), or damaged.
    """
    name = str(name_or_path)
    if name in DRAWN:
        kind = DRAWN[name]
        what = "procedurally drawn flowers" if kind == "flowers" else "procedurally drawn shapes and textures"
        return _drawn(name, kind, size, per_class, f"{name}: {what}")
    known = CATALOGUE.get(name)
    if known is None:
        path = Path(name_or_path)
        if path.exists():
            return _from_path(path.name or name, path, seed, values)
        names = [*CATALOGUE, *DRAWN]
        hint = near(name, names) or f"a path, or one of: {', '.join(names)}"
        raise SasError(f"no data set {name!r}: neither a known name nor a folder or archive", hint=hint)
    base = data_folder(data_dir)
    found = _find(known, base)
    if found is not None:
        return _from_path(name, found, seed)
    looked = str(base) if base is not None else "any folder (neither --data nor SASIMC_DATA is set)"
    if name == "flowers":
        note = f"procedurally drawn flowers: the real {known.title} were not found in {looked}"
        return _drawn(name, "flowers", size, per_class, note)
    fetch = f"`sasc data fetch {name}` fetches it" if known.files else "it has no official address to fetch it from"
    raise SasError(
        f"data set {name!r} ({known.title}) was not found in {looked}",
        hint=f"looked for a folder whose name starts with {' or '.join(known.prefixes)}; {fetch}",
    )


def hold_back(dataset: Dataset, share: float, seed: int = 0) -> Dataset:
    """Train and val images together, of each class ``share`` of them (at least one) as val; 0: the data set as it is.

    For official splits whose val images are meant to train as well, and for tuning. The test images stay what they are.
    """
    if not share:
        return dataset
    pool = [Entry(i.key, i.class_id, "") for s in ("train", "val") for i in dataset.items(s)]
    parts = dict(zip(("train", "val"), _held_back(pool, share, seed), strict=True))
    splits = {**dataset.splits, **{s: tuple(Item(e.key, e.class_id) for e in part) for s, part in parts.items()}}
    note = f"train and val images together, {len(splits['val'])} of {len(pool)} held back as val (seed {seed})"
    return replace(dataset, splits=splits, note=f"{dataset.note}; {note}")


@dataclass(frozen=True)
class DatasetRow:
    """A line of ``sasc data list``. ``found`` is the path or an empty string; ``address`` the official ones or an empty tuple."""

    name: str
    title: str
    classes: int
    looked_in: str
    looked_for: str
    found: str
    address: tuple[str, ...]
    licence: str
    note: str


def list_datasets(data_dir: str | Path | None = None) -> list[DatasetRow]:
    """All known data sets, found or not; nothing is opened."""
    base = data_folder(data_dir)
    looked_in = str(base) if base is not None else "(neither --data nor SASIMC_DATA is set)"
    rows = []
    for known in CATALOGUE.values():
        found = _find(known, base)
        note = ""
        if found is None:
            note = "can be fetched" if known.files else "no official address: put it there by hand"
            if known.name == "flowers":
                note += "; until then flowers drawn by formula take its place"
        looked_for = ", ".join(f"{p}*" for p in known.prefixes)
        addresses = tuple(f.url for f in known.files)
        rows.append(
            DatasetRow(
                known.name, known.title, known.classes, looked_in, looked_for, str(found or ""), addresses, known.licence, note
            )
        )
    for name, kind in DRAWN.items():
        classes = len(procedural.class_names(kind))
        rows.append(
            DatasetRow(name, f"drawn {kind}", classes, "", "", "built in", (), "part of this program", "drawn by formula")
        )
    return rows
