"""One folder a class: found below split folders, wrappers and splits inside classes; nothing is guessed where two readings are possible."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from sasimc.datasets.images import is_image
from sasimc.datasets.labels_csv import SPLIT_NAMES, Entry, Table
from sasimc.datasets.store import SubTree, Tree
from sasimc.isa.errors import SasError, near

__all__ = ["IMAGE_SUFFIXES", "images_below", "read_class_folders", "split_of"]

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".jp2", ".avif", ".tga", ".npy",
)  # fmt: skip
"""Files that are said to be images (or arrays); whether they are shows when they are checked."""
_OTHER_SUFFIXES = (
    ".txt",
    ".csv",
    ".tsv",
    ".json",
    ".xml",
    ".md",
    ".html",
    ".yaml",
    ".yml",
    ".py",
    ".ipynb",
    ".pdf",
    ".mat",
    ".zip",
    ".url",
    ".log",
)
_FILLERS = frozenset({"seg", "set", "sets", "data", "dataset", "image", "images", "img", "imgs", "split", "folder"})
_DEPTH = 4


def split_of(name: str) -> str:
    """The split that a folder's or file's name means (``train``, ``Validation``, ``seg_test``, ``train2017``), or an empty string."""
    words = re.findall(r"[a-z]+", name.lower())
    found = {SPLIT_NAMES[w] for w in words if w in SPLIT_NAMES}
    return found.pop() if len(found) == 1 and all(w in SPLIT_NAMES or w in _FILLERS for w in words) else ""


def _base(path: str) -> str:
    return unicodedata.normalize("NFC", path.rpartition("/")[2])


@dataclass
class _Reader:
    """``left``: files and folders that were left out."""

    tree: Tree
    left: list[str] = field(default_factory=list)
    _seen: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def own(self, folder: str) -> tuple[str, ...]:
        """Images directly in a folder."""
        if folder not in self._seen:
            found, others = [], []
            for name in self.tree.names(folder):
                (found if self._is_image(name) else others).append(name)
            self._seen[folder] = tuple(found)
            if folder:
                self.left += others
        return self._seen[folder]

    def _is_image(self, name: str) -> bool:
        lower = name.lower()
        if lower.endswith(IMAGE_SUFFIXES) or lower.endswith(_OTHER_SUFFIXES):
            return lower.endswith(IMAGE_SUFFIXES)
        try:
            with self.tree.open(name) as f:
                return is_image(f)
        except SasError:
            return False

    def below(self, folder: str, depth: int = _DEPTH) -> list[str]:
        """Images in a folder and its folders, at most ``depth`` deep."""
        found, level = [], [folder]
        for _ in range(depth):
            found += [n for f in level for n in self.own(f)]
            level = [sub for f in level for sub in self.tree.folders(f)]
        return found

    def root_of_split(self, folder: str, split: str) -> str:
        """The folder with the class folders of a split: ``seg_train/seg_train`` for ``seg_train``."""
        inner = self.tree.folders(folder)
        if (
            len(inner) == 1
            and not self.own(folder)
            and (split_of(_base(inner[0])) == split or _base(inner[0]).lower() in _FILLERS)
        ):
            return inner[0]
        return folder

    def classes_in(self, folder: str) -> dict[str, list[str]]:
        """Class name -> images, of the folders in a folder that have any."""
        found: dict[str, list[str]] = {}
        for sub in self.tree.folders(folder):
            if images := self.below(sub):
                found.setdefault(_base(sub), []).extend(images)
        return found


def read_class_folders(tree: Tree, wrappers: int = 3) -> Table | None:
    """The table of a tree with one folder a class, in split folders or not, in up to so many folders around it; None when there are none.

    Raises:
        SasError: a class without images, a class of another split without training images, folders that can be read in two ways.
    """
    reader, folders = _Reader(tree), tree.folders()
    named = {f: split for f in folders if (split := split_of(_base(f)))}
    roots = {f: (split, reader.root_of_split(f, split)) for f, split in named.items()}
    groups: list[tuple[str, str, Sequence[str]]] = []
    with_classes = {f: found for f, (_, root) in roots.items() if (found := reader.classes_in(root))}
    if with_classes:
        groups = [(name, named[f], images) for f, found in with_classes.items() for name, images in found.items()]
        reader.left += [f"{f}/" for f in folders if f not in with_classes]
        _require_training(tree, groups)
        for f in with_classes:
            _require_images(tree, reader, roots[f][1], {g[0] for g in groups})
    else:
        if named and len(named) == len(folders) and any(reader.own(f) for f in folders):
            raise SasError(
                f"{tree.where}: {', '.join(map(_base, folders))} hold images, but no class folders",
                hint="one folder a class in each, or labels.csv",
            )
        groups = _split_classes(reader, folders)
        _require_one_reading(tree, reader, folders)
        if len(names := {g[0] for g in groups}) > 1:
            _require_images(tree, reader, "", names)
    names = sorted({name for name, _, _ in groups})
    if len(names) < 2:
        found = [read_class_folders(SubTree(tree, f), wrappers - 1) for f in folders] if wrappers else []
        table = next((table for table in found if table is not None), None)
        if table is None and names:
            _require_images(tree, reader, "", set(names))
        return table
    reader.left += reader.own("")
    ids = {n: i for i, n in enumerate(names)}
    entries = tuple(Entry(image, ids[name], split) for name, split, images in groups for image in images)
    return Table(tuple(names), entries, tree, "class folders", left=tuple(dict.fromkeys(reader.left)))


def _split_classes(reader: _Reader, folders: Sequence[str]) -> list[tuple[str, str, Sequence[str]]]:
    """Groups of images where the folders are classes, which may have split folders inside."""
    groups: list[tuple[str, str, Sequence[str]]] = []
    for f in folders:
        inner = reader.tree.folders(f)
        if inner and not reader.own(f) and all(split_of(_base(sub)) for sub in inner):
            groups += [(_base(f), split_of(_base(sub)), images) for sub in inner if (images := reader.below(sub))]
        elif images := reader.below(f):
            groups.append((_base(f), "", images))
    return groups


def _require_one_reading(tree: Tree, reader: _Reader, folders: Sequence[str]) -> None:
    """Two folders with the same class folders are splits under unknown names, or two versions of the data, but no classes."""
    inside = {
        f: names
        for f in folders
        if not reader.own(f)
        and len(names := {_base(s) for s in reader.tree.folders(f) if not split_of(_base(s)) and reader.below(s)}) > 1
    }
    for f, names in inside.items():
        for g, others in inside.items():
            if f < g and len(names & others) > 1:
                both = ", ".join(sorted(names & others)[:4])
                raise SasError(
                    f"{tree.where}: {_base(f)} and {_base(g)} hold the same folders ({both}): are they splits, or two versions of the data?",
                    hint="name splits train, val and test, or give one of the folders",
                )


def _require_images(tree: Tree, reader: _Reader, root: str, known: set[str]) -> None:
    """A folder without any file, beside class folders, is a class whose images are lost; one with other files only is left out."""
    for folder in tree.folders(root):
        if not reader.below(folder) and _base(folder) not in known:
            if not _files(tree, folder):
                raise SasError(
                    f"{tree.where}: class {_base(folder)!r} has no images ({folder}/ is empty)",
                    hint="give it images, or remove the folder",
                )
            reader.left.append(f"{folder}/")


def _files(tree: Tree, folder: str) -> bool:
    return bool(tree.names(folder)) or any(_files(tree, sub) for sub in tree.folders(folder))


def _require_training(tree: Tree, groups: Sequence[tuple[str, str, Sequence[str]]]) -> None:
    """Every class of the other splits has training images, where there are any."""
    trained = sorted({name for name, split, _ in groups if split == "train"})
    for name, split, images in groups:
        if trained and name not in trained:
            raise SasError(
                f"{tree.where}: class {name!r} has {len(images)} {split} images and no training images",
                hint=near(name, trained) or f"the training images are of {', '.join(trained[:8])}",
            )


def images_below(tree: Tree) -> tuple[list[str], list[str]]:
    """(images, other files) anywhere in a tree, in order."""
    reader = _Reader(tree)
    found = reader.below("", 64)
    return sorted(found), reader.left
