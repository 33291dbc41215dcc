"""Tables of labels: a line an image, as ``labels.csv`` or under the names and in the dialects that spreadsheets and other tools write.

Comma, semicolon, tab or bar; UTF-8 with or without a mark, UTF-16 with one; with a header (columns below) or without (file, class, perhaps split). Ids
count from 0 (a column named ``class_id_1based`` counts from 1). ``class_names.txt`` beside it may name the classes: a name a line, or ``number,name``.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sasimc.datasets.store import Tree, clean_name
from sasimc.isa.errors import SasError, Span

__all__ = ["SPLIT_NAMES", "Entry", "Table", "is_labels_csv", "read_labels", "text_lines"]

FILE_COLUMNS = ("file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "image_name", "img", "path")
ID_COLUMNS = ("class_id", "class_id_0based", "class_id_1based", "class_index")
NAME_COLUMNS = ("class_name", "label_name", "name", "breed", "synset")
EITHER_COLUMNS = ("label", "class", "category", "target")
"""Ids where all are whole numbers, else names."""
SPLIT_COLUMNS = ("split", "subset", "set", "usage")
SPLIT_NAMES = {
    **dict.fromkeys(("train", "trn", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "tst", "testing", "eval", "evaluation"), "test"),
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
    """What a layout reader found: class names in class order (not ``named``: made up, by number), the images, where to read them, a remark for the
    report, and what was ``left`` out."""

    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    tree: Tree
    layout: str
    note: str = ""
    named: bool = True
    left: tuple[str, ...] = ()


def text_lines(tree: Tree, name: str) -> list[str]:
    """Lines of a text file, UTF-8, or UTF-16 with its mark. Raises SasError when it is missing or not text."""
    data = tree.read(name)
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return re.split(r"\r\n|\r|\n", data.decode(encoding).rstrip("\r\n"))
    except UnicodeDecodeError as e:
        raise SasError(
            f"{tree.where}/{name}: not {encoding.removesuffix('-sig').upper()} text ({e.reason} at byte {e.start})",
            hint="save it as UTF-8",
        ) from e


def _declared_names(tree: Tree) -> list[str] | None:
    if not tree.has("class_names.txt"):
        return None
    names = []
    for line in text_lines(tree, "class_names.txt"):
        number, comma, name = line.partition(",")
        if line.strip():
            names.append(_nfc(name.strip() if comma and number.strip().isdigit() else line.strip()))
    return names


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


@dataclass(frozen=True)
class _Listing:
    """Names in the tree by the last part of theirs. ``folded``: those that no other one equals in lower case."""

    exact: Mapping[str, str]
    folded: Mapping[str, str]

    @staticmethod
    def of(names: Sequence[str]) -> _Listing:
        exact = {_nfc(n.rpartition("/")[2]): n for n in names}
        times = Counter(map(str.casefold, exact))
        return _Listing(exact, {k.casefold(): n for k, n in exact.items() if times[k.casefold()] == 1})

    def find(self, part: str) -> str | None:
        return self.exact.get(part) or self.folded.get(part.casefold())


class _Images:
    """Finds the files that the lines name: as written, or in ``images/`` or ``jpg/``, in whatever form of Unicode; in other case where that means one file
    only (other systems do not tell case apart). Listings are read once a folder."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._folders: dict[str, _Listing] = {}

    def _in(self, parent: str, names: Sequence[str]) -> str | None:
        """The name in the tree of a path below ``parent``, folder by folder."""
        for i, part in enumerate(names):
            last = i == len(names) - 1
            if (key := f"{last}{parent}") not in self._folders:
                listed = self._tree.names(parent) if last else self._tree.folders(parent)
                self._folders[key] = _Listing.of(listed)
            found = self._folders[key].find(part)
            if found is None:
                return None
            parent = found
        return parent

    def find(self, name: str) -> str | None:
        parts = _nfc(name).split("/")
        return next((full for folder in ("", "images", "jpg") if (full := self._in(folder, parts)) is not None), None)


@dataclass(frozen=True)
class _Row:
    line: int
    file: str
    id: str
    name: str
    split: str


class _File:
    """A table read: its rows, with the places of their values for messages."""

    def __init__(self, tree: Tree, name: str, images: _Images) -> None:
        self.where = f"{tree.where}/{name}"
        self.lines = text_lines(tree, name)
        first = next((line for line in self.lines if line.strip()), "")
        bare = re.sub(r'"[^"]*"', "", first)
        delimiter = max(",;\t|", key=bare.count)
        reader = csv.reader(io.StringIO("\n".join(self.lines)), delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
        except csv.Error as e:
            raise self.bad(f"not a valid CSV line ({e})", max(reader.line_num, 1)) from e
        header = [h.lower() for h in rows[0][1]] if rows else []
        if rows and not set(header) & set(FILE_COLUMNS) and (guessed := _headerless(rows[0][1], images)):
            header = guessed
        else:
            rows = rows[1:]
        for number, row in rows:
            if len(row) != len(header):
                raise self.bad(f"{len(header)} fields are needed", number)
        file, split, ids, names, either = (
            next((header.index(c) for c in known if c in header), -1)
            for known in (FILE_COLUMNS, SPLIT_COLUMNS, ID_COLUMNS, NAME_COLUMNS, EITHER_COLUMNS)
        )
        self.base = 1 if ids >= 0 and header[ids] == "class_id_1based" else 0
        if either >= 0:
            numbers = all(re.fullmatch(r"[+-]?\d+", row[either], re.ASCII) for _, row in rows)
            ids, names = (either if numbers and ids < 0 else ids), (either if not numbers and names < 0 else names)
        if file < 0 or (ids < 0 and names < 0):
            missing = "'file'" if file < 0 else "'class_id' or 'class_name'"
            raise self.bad(f"column {missing} is missing", 1, hint="the first line is: file,class_id,class_name,split")
        self.with_ids = ids >= 0

        def cell(row: list[str], column: int) -> str:
            return row[column] if column >= 0 else ""

        self.rows = [_Row(n, row[file], cell(row, ids), _nfc(cell(row, names)), cell(row, split)) for n, row in rows]

    def bad(self, message: str, number: int, value: str = "", hint: str = "") -> SasError:
        text = self.lines[number - 1] if 0 < number <= len(self.lines) else ""
        column = max(text.find(value), 0) + 1 if value else 1
        return SasError(message, span=Span(self.where, number, column, text, max(len(value), 1)), hint=hint)


def _headerless(row: list[str], images: _Images) -> list[str]:
    """Columns of a table that begins with its first image; empty: it does not."""
    names = []
    for cell in row:
        try:
            names.append(images.find(clean_name(cell, "")) is not None)
        except SasError:
            names.append(False)
    if sum(names) != 1 or not 2 <= len(row) <= 3:
        return []
    rest = [i for i in range(len(row)) if not names[i]]
    splits = [i for i in rest if row[i].lower() in SPLIT_NAMES]
    if len(rest) - len(splits[:1]) != 1:
        return []
    return ["file" if names[i] else "split" if i in splits[:1] else "label" for i in range(len(row))]


def is_labels_csv(tree: Tree, name: str) -> bool:
    """Whether a table names images and their classes."""
    try:
        return bool(_File(tree, name, _Images(tree)).rows)
    except SasError:
        return False


def read_labels(tree: Tree, files: Sequence[tuple[str, str]]) -> Table:
    """The table of one or several files (name, split that all its images are in or an empty string).

    Raises SasError, with file, line and column where there is one, for: no lines, missing columns, a label that is not a whole
    number or out of range, a class with two names, an unknown split, a file named twice, files that leave the folder or do not
    exist.
    """
    images, read = _Images(tree), list[tuple[_File, str]]()
    for name, split in files:
        read.append((_File(tree, name, images), split))
        if not read[-1][0].rows:
            raise SasError(f"{read[-1][0].where}: names no images")
    with_ids = all(f.with_ids for f, _ in read)
    declared = _declared_names(tree)
    if not with_ids and declared is None:
        declared = sorted({row.name for f, _ in read for row in f.rows})
    classes, entries, seen = _Classes(declared), list[Entry](), dict[str, tuple[_File, int]]()
    absent: list[tuple[_File, int, str]] = []
    for f, given in read:
        for row in f.rows:
            if not (row.name or with_ids):
                raise f.bad("the class is missing", row.line)
            class_id = classes.by_id(f, row) if with_ids else classes.by_name(f, row)
            split = row.split.lower()
            if split and split not in SPLIT_NAMES:
                raise f.bad(f"unknown split {split!r}", row.line, row.split, "train, val or test")
            try:
                key = clean_name(row.file, f.where)
            except SasError as e:
                raise f.bad(f"file {row.file!r} leads out of the data set", row.line, row.file, e.diagnostic.hint) from e
            if key in seen:
                other, line = seen[key]
                place = f"line {line}" if other is f else f"{other.where}, line {line}"
                raise f.bad(f"file {row.file!r} is named twice", row.line, row.file, f"first in {place}")
            seen[key] = f, row.line
            found = images.find(key)
            if found is None:
                absent.append((f, row.line, row.file))
            else:
                entries.append(Entry(found, class_id, SPLIT_NAMES.get(split, given)))
    if absent:
        f, line, file = absent[0]
        count = f" ({len(absent)} files of {len(seen)} are missing)" if len(absent) > 1 else ""
        raise f.bad(f"file {file!r} does not exist{count}", line, file, "looked also in images/ and jpg/")
    names, named = classes.names(entries)
    return Table(names, tuple(entries), tree, " and ".join(name for name, _ in files), named=named)


class _Classes:
    """Class ids of rows, and the names that go with them."""

    def __init__(self, declared: list[str] | None) -> None:
        self._declared = declared
        self._numbers = {n: i for i, n in enumerate(declared or [])}
        self._named: dict[int, str] = {}

    def by_name(self, f: _File, row: _Row) -> int:
        if row.name not in self._numbers:
            raise f.bad(f"class {row.name!r} is not in class_names.txt", row.line, row.name)
        return self._numbers[row.name]

    def by_id(self, f: _File, row: _Row) -> int:
        limit = len(self._declared) if self._declared else MAX_CLASSES
        text = row.id
        class_id = int(text) - f.base if re.fullmatch(r"-?\d{1,10}", text, re.ASCII) else -1
        if not 0 <= class_id < limit:
            raise f.bad(f"label {text!r} is out of range", row.line, text, f"whole numbers {f.base}..{limit - 1 + f.base}")
        if row.name and self._named.setdefault(class_id, row.name) != row.name:
            raise f.bad(f"class {text} is called {self._named[class_id]!r} elsewhere", row.line, row.name)
        return class_id

    def names(self, entries: Sequence[Entry]) -> tuple[tuple[str, ...], bool]:
        """Names in class order, and whether they are the data's own."""
        if self._declared:
            return tuple(self._declared), True
        total = max(e.class_id for e in entries) + 1
        return tuple(self._named.get(i, f"class {i}") for i in range(total)), len(self._named) == total
