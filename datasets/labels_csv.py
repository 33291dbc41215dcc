"""``labels.csv``: the plain description of a data set.

One line an image: ``file``, ``class_id`` and/or ``class_name``, and optionally ``split``. Ids count from 0 (a column named
``class_id_1based`` counts from 1). ``class_names.txt`` beside it may name the classes: a name a line, or ``number,name``.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

from sasimc.datasets.store import Tree, clean_name
from sasimc.isa.errors import SasError, Span

__all__ = ["SPLIT_NAMES", "Entry", "Table", "read_labels_csv", "text_lines"]

FILE_COLUMNS = ("file", "filename", "image", "path")
ID_COLUMNS = ("class_id", "class_id_0based", "class_id_1based", "class_index", "label")
NAME_COLUMNS = ("class_name", "name", "class", "breed", "synset")
SPLIT_NAMES = {
    **dict.fromkeys(("train", "trn", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "tst", "testing"), "test"),
}
MAX_CLASSES = 65536


@dataclass(frozen=True)
class Entry:
    """One image: its name in the tree, class, and split ('' = not said)."""

    key: str
    class_id: int
    split: str = ""


@dataclass(frozen=True)
class Table:
    """What a layout reader found: class names in class order, the images, where to read them, and a remark for the report."""

    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    tree: Tree
    layout: str
    note: str = ""


def text_lines(tree: Tree, name: str) -> list[str]:
    """Lines of a UTF-8 text file. Raises SasError when it is missing or not text."""
    try:
        return tree.read(name).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as e:
        raise SasError(f"{tree.where}/{name}: not UTF-8 text ({e.reason} at byte {e.start})") from e


def _declared_names(tree: Tree) -> list[str] | None:
    if not tree.has("class_names.txt"):
        return None
    names = []
    for line in text_lines(tree, "class_names.txt"):
        number, comma, name = line.partition(",")
        if line.strip():
            names.append(name.strip() if comma and number.strip().isdigit() else line.strip())
    return names


def _column(header: list[str], known: tuple[str, ...]) -> str | None:
    return next((c for c in known if c in header), None)


class _Images:
    """Finds the files that the lines name: as written, or in ``images/`` or ``jpg/``. Listings are read once a folder."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._folders: dict[str, frozenset[str]] = {}

    def find(self, name: str) -> str | None:
        for prefix in ("", "images/", "jpg/"):
            full = prefix + name
            folder = full.rpartition("/")[0]
            if folder not in self._folders:
                self._folders[folder] = frozenset(self._tree.names(folder))
            if full in self._folders[folder]:
                return full
        return None


def read_labels_csv(tree: Tree, name: str = "labels.csv") -> Table:
    """The table of ``name`` in ``tree``.

    Raises SasError, with file, line and column where there is one, for: no lines, missing columns, a label that is not a whole
    number or out of range, a class with two names, an unknown split, a file named twice, files that leave the folder or do not
    exist.
    """
    where = f"{tree.where}/{name}"
    lines = text_lines(tree, name)

    def bad(message: str, number: int, value: str = "", hint: str = "") -> SasError:
        text = lines[number - 1] if 0 < number <= len(lines) else ""
        column = max(text.find(value), 0) + 1 if value else 1
        return SasError(message, span=Span(where, number, column, text, max(len(value), 1)), hint=hint)

    reader = csv.DictReader(io.StringIO("\n".join(lines)), skipinitialspace=True, strict=True)
    try:
        header = [(h or "").strip().lower() for h in reader.fieldnames or []]
        reader.fieldnames = header
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as e:
        raise bad(f"not a valid CSV line ({e})", max(reader.line_num, 1)) from e
    file_column, id_column, name_column = (_column(header, c) for c in (FILE_COLUMNS, ID_COLUMNS, NAME_COLUMNS))
    if file_column is None or (id_column is None and name_column is None):
        missing = "'file'" if file_column is None else "'class_id' or 'class_name'"
        raise bad(f"column {missing} is missing", 1, hint="the first line is: file,class_id,class_name,split")
    if not rows:
        raise SasError(f"{where}: names no images")
    declared = _declared_names(tree)
    if id_column is None and declared is None:
        declared = sorted({(r[name_column or ""] or "").strip() for _, r in rows}, key=lambda n: (n.lower(), n))
    numbers = {n: i for i, n in enumerate(declared or [])}
    limit = len(declared) if declared else MAX_CLASSES
    base = 1 if id_column == "class_id_1based" else 0
    images, named, entries, seen = _Images(tree), dict[int, str](), list[Entry](), dict[str, int]()
    absent: list[tuple[int, str]] = []
    for number, row in rows:
        if None in row or None in row.values():
            raise bad(f"{len(header)} fields are needed", number)
        file = row[file_column].strip()
        label_name = row[name_column].strip() if name_column else ""
        if id_column is None:
            if label_name not in numbers:
                raise bad(f"class {label_name!r} is not in class_names.txt", number, label_name)
            class_id = numbers[label_name]
        else:
            text = row[id_column].strip()
            class_id = int(text) - base if text.isascii() and text.lstrip("-").isdigit() and len(text) < 12 else -1
            if not 0 <= class_id < limit:
                raise bad(f"label {text!r} is out of range", number, text, f"whole numbers {base}..{limit - 1 + base}")
            if label_name and named.setdefault(class_id, label_name) != label_name:
                raise bad(f"class {text} is called {named[class_id]!r} elsewhere", number, label_name)
        split = row.get("split", "").strip().lower()
        if split and split not in SPLIT_NAMES:
            raise bad(f"unknown split {split!r}", number, row["split"].strip(), "train, val or test")
        try:
            key = clean_name(file, where)
        except SasError as e:
            raise bad(f"file {file!r} leads out of the data set", number, file, e.diagnostic.hint) from e
        if key in seen:
            raise bad(f"file {file!r} is named twice", number, file, f"first in line {seen[key]}")
        seen[key] = number
        found = images.find(key)
        if found is None:
            absent.append((number, file))
        else:
            entries.append(Entry(found, class_id, SPLIT_NAMES.get(split, "")))
    if absent:
        count = f" ({len(absent)} files of {len(rows)} are missing)" if len(absent) > 1 else ""
        raise bad(f"file {absent[0][1]!r} does not exist{count}", absent[0][0], absent[0][1], "looked also in images/ and jpg/")
    total = max(e.class_id for e in entries) + 1
    classes = declared or [named.get(i, f"class {i}") for i in range(total)]
    return Table(tuple(classes), tuple(entries), tree, "labels.csv")
