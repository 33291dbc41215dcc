"""Readers of the layouts in which data sets come: one function a layout, each from a tree to a ``Table``.

``read_layout`` finds out which one is there. The official layouts are those of the archives as their authors publish them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from sasimc.datasets.class_folders import images_below, read_class_folders, split_of
from sasimc.datasets.labels_csv import Entry, Table, is_labels_csv, read_labels, text_lines
from sasimc.datasets.names import FLOWERS17_NAMES, FLOWERS102_NAMES
from sasimc.datasets.store import FolderTree, SubTree, Tree, is_archive, open_tree
from sasimc.isa.errors import SasError

__all__ = ["read_layout"]


def _mat(tree: Tree, name: str, keys: Iterable[str]) -> dict[str, Any]:
    """Variables ``keys`` of a MATLAB file; SasError when the file is missing or damaged, or lacks one."""
    from scipy.io import loadmat  # slow to import, and needed by few sets

    if not tree.has(name):
        raise SasError(f"{tree.where}: {name} is missing", hint="the official label and split files belong beside the images")
    try:
        variables: dict[str, Any] = loadmat(io.BytesIO(tree.read(name)), squeeze_me=True)
    except SasError:
        raise
    except Exception as e:  # loadmat raises whatever the damage leads it to
        raise SasError(f"{tree.where}/{name}: damaged MATLAB file ({e})") from e
    for key in keys:
        if key not in variables:
            raise SasError(f"{tree.where}/{name}: has no variable {key!r}")
    return variables


def _integers(value: Any, where: str) -> list[int]:
    array = np.atleast_1d(np.asarray(value)).ravel()
    if array.dtype.kind not in "iuf" or not array.size or not np.all(np.isfinite(array)):
        raise SasError(f"{where}: numbers are needed")
    return [int(v) for v in array]


def _image_folder(tree: Tree, probe: str) -> tuple[Tree, str]:
    """The tree and folder (with a slash, or empty) that hold ``probe``: jpg/, images/, the root, or an archive in the root."""
    candidates: list[Tree] = [tree]
    if isinstance(tree, FolderTree) and not any(tree.has(f + probe) for f in ("jpg/", "images/", "")):
        candidates += [open_tree(tree.path / n) for n in tree.names() if is_archive(n)]
    for candidate in candidates:
        for folder in ("jpg/", "images/", "", *(f"{f}/" for f in candidate.folders())):
            if candidate.has(folder + probe):
                return candidate, folder
    raise SasError(
        f"{tree.where}: the images are missing ({probe} was not found)",
        hint="expected in jpg/, or in a .tgz or .zip in that folder",
    )


def _checked(entries: list[Entry], tree: Tree, where: str, classes: int) -> tuple[Entry, ...]:
    """The entries, after checking that labels are in range and files there."""
    if not entries:
        raise SasError(f"{where}: names no images")
    listed: dict[str, frozenset[str]] = {}
    absent = []
    for e in entries:
        if not 0 <= e.class_id < classes:
            raise SasError(f"{where}: label of {e.key} is out of range", hint=f"{classes} classes are known")
        folder = e.key.rpartition("/")[0]
        if folder not in listed:
            listed[folder] = frozenset(tree.names(folder))
        if e.key not in listed[folder]:
            absent.append(e.key)
    if absent:
        raise SasError(f"{tree.where}: {len(absent)} of {len(entries)} images are missing, the first is {absent[0]}")
    return tuple(entries)


def _flowers102(tree: Tree) -> Table:
    labels = _integers(_mat(tree, "imagelabels.mat", ["labels"])["labels"], f"{tree.where}/imagelabels.mat")
    sets = _mat(tree, "setid.mat", ["trnid", "valid", "tstid"])
    images, folder = _image_folder(tree, "image_00001.jpg")
    entries = []
    where = f"{tree.where}/setid.mat"
    for key, split in (("trnid", "train"), ("valid", "val"), ("tstid", "test")):
        for i in _integers(sets[key], where):
            if not 1 <= i <= len(labels):
                raise SasError(f"{where}: image {i} of {key!r} is out of range", hint=f"imagelabels.mat has {len(labels)} labels")
            entries.append(Entry(f"{folder}image_{i:05d}.jpg", labels[i - 1] - 1, split))
    if len({e.key for e in entries}) != len(entries):
        raise SasError(f"{where}: the splits overlap")
    names = FLOWERS102_NAMES if max(labels) <= len(FLOWERS102_NAMES) else tuple(f"class {c + 1}" for c in range(max(labels)))
    return Table(names, _checked(entries, images, where, len(names)), images, "flowers-102")


def _flowers17(tree: Tree) -> Table:
    images, folder = _image_folder(tree, "image_0001.jpg")
    entries = []
    per_class = 80
    if tree.has("datasplits.mat"):
        sets = _mat(tree, "datasplits.mat", ["trn1", "val1", "tst1"])
        for key, split in (("trn1", "train"), ("val1", "val"), ("tst1", "test")):
            for i in _integers(sets[key], f"{tree.where}/datasplits.mat"):
                entries.append(Entry(f"{folder}image_{i:04d}.jpg", (i - 1) // per_class, split))
    else:
        for i in range(1, per_class * len(FLOWERS17_NAMES) + 1):
            entries.append(Entry(f"{folder}image_{i:04d}.jpg", (i - 1) // per_class))
    return Table(FLOWERS17_NAMES, _checked(entries, images, tree.where, len(FLOWERS17_NAMES)), images, "flowers-17")


def _numbered(tree: Tree, name: str) -> dict[str, str]:
    """Lines ``key value``."""
    out = {}
    for number, line in enumerate(text_lines(tree, name), 1):
        if line.strip():
            key, _, value = line.strip().partition(" ")
            if not value:
                raise SasError(f"{tree.where}/{name}:{number}: two fields are needed, found {line.strip()!r}")
            out[key] = value.strip()
    return out


def _whole(value: str | None, where: str) -> int:
    if value is None or not value.isascii() or not value.isdigit():
        raise SasError(f"{where}: a whole number is needed, found {value!r}")
    return int(value)


def _cub(tree: Tree) -> Table:
    files, labels = _numbered(tree, "images.txt"), _numbered(tree, "image_class_labels.txt")
    is_train = _numbered(tree, "train_test_split.txt")
    names = [v.partition(".")[2] or v for v in _numbered(tree, "classes.txt").values()]
    where = f"{tree.where}/images.txt"
    entries = [
        Entry(f"images/{file}", _whole(labels.get(i), where) - 1, "train" if is_train.get(i) == "1" else "test")
        for i, file in files.items()
    ]
    return Table(tuple(names), _checked(entries, tree, where, len(names)), tree, "cub-200-2011")


def _food(tree: Tree) -> Table:
    listed = {s: [n.strip() for n in text_lines(tree, f"meta/{s}.txt") if n.strip()] for s in ("train", "test")}
    names = sorted({n.partition("/")[0] for part in listed.values() for n in part})
    ids = {n: i for i, n in enumerate(names)}
    entries = [Entry(f"images/{n}.jpg", ids[n.partition("/")[0]], s) for s, part in listed.items() for n in part]
    return Table(tuple(names), _checked(entries, tree, f"{tree.where}/meta", len(names)), tree, "food-101")


def _aircraft(tree: Tree) -> Table:
    parts = {s: _numbered(tree, f"images_variant_{s}.txt") for s in ("train", "val", "test")}
    names = sorted({v for part in parts.values() for v in part.values()})
    ids = {n: i for i, n in enumerate(names)}
    entries = [Entry(f"images/{key}.jpg", ids[v], s) for s, part in parts.items() for key, v in part.items()]
    return Table(tuple(names), _checked(entries, tree, f"{tree.where}/images_variant", len(names)), tree, "fgvc-aircraft")


def _pets(tree: Tree) -> Table:
    entries, names = [], dict[int, str]()
    for file, split in (("trainval", "train"), ("test", "test")):
        where = f"{tree.where}/annotations/{file}.txt"
        for line in text_lines(tree, f"annotations/{file}.txt"):
            fields = line.split()
            if fields and not line.startswith("#"):
                class_id = _whole(fields[1] if len(fields) > 1 else None, where) - 1
                names.setdefault(class_id, fields[0].rpartition("_")[0])
                entries.append(Entry(f"images/{fields[0]}.jpg", class_id, split))
    classes = tuple(names.get(i, f"class {i}") for i in range(max(names, default=-1) + 1))
    return Table(classes, _checked(entries, tree, f"{tree.where}/annotations", len(classes)), tree, "oxford-iiit-pet")


def _cars(tree: Tree) -> Table:
    meta = _mat(tree, "devkit/cars_meta.mat", ["class_names"])["class_names"]
    names = tuple(str(n) for n in np.atleast_1d(meta))
    entries = []
    test = next((n for n in ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat") if tree.has(n)), None)
    for file, folder, split in (("devkit/cars_train_annos.mat", "cars_train", "train"), (test, "cars_test", "test")):
        if file is not None:
            notes = np.atleast_1d(_mat(tree, file, ["annotations"])["annotations"])
            if not {"class", "fname"} <= set(notes.dtype.names or ()):
                raise SasError(f"{tree.where}/{file}: has no fields 'class' and 'fname'")
            entries += [Entry(f"{folder}/{n['fname']}", int(n["class"]) - 1, split) for n in notes]
    remark = "" if test else "the official test images have no labels here: test images are held back from training"
    return Table(names, _checked(entries, tree, f"{tree.where}/devkit", len(names)), tree, "stanford-cars", remark)


def _is_flowers17(tree: Tree) -> bool:
    return tree.has("datasplits.mat") or any(tree.has(f"{f}image_1360.jpg") for f in ("jpg/", "images/", ""))


def labels_files(tree: Tree) -> list[tuple[str, str]]:
    """(name, split) of the files that describe the images: ``labels.csv``; else ``train.csv``, ``val.csv``, ...; else the only one that does."""
    if tree.has("labels.csv"):
        return [("labels.csv", "")]
    described = [n for n in tree.names() if n.lower().endswith((".csv", ".tsv")) and is_labels_csv(tree, n)]
    splits = [(n, split) for n in described if (split := split_of(n.rpartition(".")[0]))]
    return splits or ([(described[0], "")] if len(described) == 1 else [])


_LAYOUTS: tuple[tuple[Callable[[Tree], bool], Callable[[Tree], Table]], ...] = (
    (lambda t: bool(labels_files(t)), lambda t: read_labels(t, labels_files(t))),
    (lambda t: t.has("imagelabels.mat") or t.has("setid.mat"), _flowers102),
    (_is_flowers17, _flowers17),
    (lambda t: t.has("images.txt") and t.has("image_class_labels.txt"), _cub),
    (lambda t: t.has("meta/train.txt"), _food),
    (lambda t: t.has("images_variant_train.txt"), _aircraft),
    (lambda t: t.has("annotations/trainval.txt"), _pets),
    (lambda t: t.has("devkit/cars_train_annos.mat"), _cars),
)


def read_layout(tree: Tree) -> Table:
    """The table of the data set in ``tree``: a known layout in its root or in one of its folders (two deep), else
    class folders.

    Raises SasError when there is none, or the one there is damaged.
    """
    level: list[Tree] = [tree]
    for _ in range(3):
        for candidate in level:
            for present, read in _LAYOUTS:
                if present(candidate):
                    return read(candidate)
        # Folders of classes are many, wrappers of an archive few: only the latter are worth a look inside.
        level = [SubTree(t, f) for t in level for f in t.folders()] if all(len(t.folders()) <= 12 for t in level) else []
    table = read_class_folders(tree)
    if table is not None:
        return table
    if any(re.fullmatch(r"(jpg/|images/)?image_00001\.jpg", n) for f in ("", "jpg", "images") for n in tree.names(f)):
        raise SasError(f"{tree.where}: imagelabels.mat and setid.mat are missing", hint="without them the images have no labels")
    raise SasError(
        f"{tree.where}: {_nothing(tree)}",
        hint="needed: labels.csv (file, class_id, class_name, split), or one sub-folder a class, or an official layout",
    )


def _nothing(tree: Tree) -> str:
    """Why there is no data set."""
    folders = tree.folders()
    if not folders:
        return "no data set is recognised here" if tree.names() else "the folder is empty"
    full = [f for f in folders if images_below(SubTree(tree, f))[0]]
    if not full:
        return f"no images in {', '.join(folders[:6])}{', ...' if len(folders) > 6 else ''}"
    return (
        f"one folder with images only, {full[0]!r}: one class is nothing to tell apart"
        if len(full) == 1
        else "no data set is recognised here"
    )
