"""Where a data set's files are: a folder, a zip or a tar, all read by relative name and never unpacked to disk.

A *tree* maps clean relative names (``a/b.jpg``) to bytes. Names that leave the tree (absolute, drive letter, ``..``)
are refused, in archives when they are opened, elsewhere when they are asked for; a compressed tar is expanded once
into an anonymous temporary file.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Protocol

from sasimc.isa.errors import SasError

__all__ = ["ARCHIVE_SUFFIXES", "MAX_MEMBER_BYTES", "FolderTree", "SubTree", "Tree", "clean_name", "is_archive", "open_tree"]

MAX_MEMBER_BYTES = 256 << 20
"""Largest file read into memory."""
MAX_MEMBERS = 4_000_000
MAX_EXPANDED_BYTES = 64 << 30

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz")


def clean_name(name: str, where: str) -> str:
    """``name`` with forward slashes and without ``.`` parts. Raises SasError when it is empty or would leave its tree."""
    parts = name.replace("\\", "/").split("/")
    outside = name.startswith(("/", "\\")) or ".." in parts or "\0" in name or (len(parts[0]) == 2 and parts[0][1] == ":")
    kept = [p for p in parts if p not in ("", ".")]
    if outside or not kept:
        raise SasError(
            f"{where}: {name!r} leads out of the data set", hint="names must be relative and stay inside the folder or archive"
        )
    return "/".join(kept)


class Tree(Protocol):
    """Files by relative name. ``where`` is for messages."""

    @property
    def where(self) -> str: ...

    def names(self, folder: str = "") -> list[str]:
        """Full names of the files directly in ``folder`` (root: empty string), sorted; empty if there is no such folder."""
        ...

    def folders(self, folder: str = "") -> list[str]:
        """Full names of the folders directly in ``folder``, sorted."""
        ...

    def has(self, name: str) -> bool: ...

    def read(self, name: str) -> bytes:
        """The file's bytes. Raises SasError when it is missing, unreadable or larger than ``MAX_MEMBER_BYTES``."""
        ...


def _too_large(where: str, name: str, size: int) -> SasError:
    return SasError(f"{where}/{name}: {size:,} bytes", hint=f"files in data sets may have at most {MAX_MEMBER_BYTES:,} bytes")


class FolderTree:
    """A folder on disk. Symbolic links are followed: they are the owner's arrangement, not names out of an archive."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listed: dict[str, tuple[list[str], list[str]]] = {}

    @property
    def path(self) -> Path:
        return self._root

    @property
    def where(self) -> str:
        return str(self._root)

    def _list(self, folder: str) -> tuple[list[str], list[str]]:
        if folder not in self._listed:
            files, folders = [], []
            prefix = f"{folder}/" if folder else ""
            try:
                with os.scandir(self._root / folder) as entries:
                    for entry in entries:
                        if not entry.name.startswith("."):
                            (folders if entry.is_dir() else files).append(prefix + entry.name)
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError as e:
                raise SasError(f"{self._root / folder}: cannot be listed ({e.strerror or e})") from e
            self._listed[folder] = (sorted(files), sorted(folders))
        return self._listed[folder]

    def names(self, folder: str = "") -> list[str]:
        return self._list(folder)[0]

    def folders(self, folder: str = "") -> list[str]:
        return self._list(folder)[1]

    def has(self, name: str) -> bool:
        return (self._root / clean_name(name, self.where)).is_file()

    def read(self, name: str) -> bytes:
        path = self._root / clean_name(name, self.where)
        try:
            size = path.stat().st_size
            if size > MAX_MEMBER_BYTES:
                raise _too_large(self.where, name, size)
            return path.read_bytes()
        except OSError as e:
            raise SasError(f"{path}: cannot be read ({e.strerror or e})") from e


class _ArchiveTree:
    """The name index that zip and tar share."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, list[str]] = {}
        self._folders: dict[str, set[str]] = {}
        self._known: set[str] = set()
        self._lock = threading.Lock()

    @property
    def where(self) -> str:
        return str(self._path)

    def _index(self, names: Iterable[str]) -> None:
        for name in names:
            if len(self._known) >= MAX_MEMBERS:
                raise SasError(f"{self._path}: more than {MAX_MEMBERS:,} files")
            self._known.add(name)
            folder = name.rpartition("/")[0]
            self._files.setdefault(folder, []).append(name)
            while folder:
                parent = folder.rpartition("/")[0]
                known = self._folders.setdefault(parent, set())
                if folder in known:
                    break
                known.add(folder)
                folder = parent

    def names(self, folder: str = "") -> list[str]:
        return sorted(self._files.get(folder, ()))

    def folders(self, folder: str = "") -> list[str]:
        return sorted(self._folders.get(folder, ()))

    def has(self, name: str) -> bool:
        return clean_name(name, self.where) in self._known

    def _absent(self, name: str) -> SasError:
        return SasError(f"{self._path}: has no file {name!r}")


class _ZipTree(_ArchiveTree):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as e:
            raise SasError(f"{path}: damaged zip archive ({e})") from e
        weakref.finalize(self, self._zip.close)
        self._members = {clean_name(i.filename, self.where): i for i in self._zip.infolist() if not i.is_dir()}
        self._index(self._members)

    def read(self, name: str) -> bytes:
        info = self._members.get(clean_name(name, self.where))
        if info is None:
            raise self._absent(name)
        if info.file_size > MAX_MEMBER_BYTES:
            raise _too_large(self.where, name, info.file_size)
        try:
            with self._lock, self._zip.open(info) as f:
                return f.read(MAX_MEMBER_BYTES)
        except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as e:
            raise SasError(f"{self._path}/{name}: damaged in the archive ({e})") from e


class _TarTree(_ArchiveTree):
    """A tar. Compressed ones cannot be read at random, so their files go once to a temporary file that no name leads to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._places: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(path, "r:*") as tar:
                if path.suffix == ".tar":
                    for member in self._regular(tar):
                        self._places[clean_name(member.name, self.where)] = (member.offset_data, member.size)
                    self._data: BinaryIO = open(path, "rb")  # noqa: SIM115  kept for the life of the tree
                    weakref.finalize(self, self._data.close)
                else:
                    self._data = self._expand(tar)
        except (OSError, EOFError, zlib.error, tarfile.TarError) as e:
            raise SasError(f"{path}: damaged tar archive, or no room to expand it ({e})") from e
        self._index(self._places)

    def _regular(self, tar: tarfile.TarFile) -> Iterable[tarfile.TarInfo]:
        total = 0
        for member in tar:
            if member.name.strip("./"):
                clean_name(member.name, self.where)
            if not member.isfile() or member.issparse():
                continue  # links and devices are not images
            total += member.size
            if total > MAX_EXPANDED_BYTES:
                raise SasError(f"{self._path}: expands to more than {MAX_EXPANDED_BYTES:,} bytes")
            yield member

    def _expand(self, tar: tarfile.TarFile) -> BinaryIO:
        spool = tempfile.TemporaryFile()  # noqa: SIM115  kept for the life of the tree
        weakref.finalize(self, spool.close)
        for member in self._regular(tar):
            if member.size > MAX_MEMBER_BYTES:
                raise _too_large(self.where, member.name, member.size)
            source = tar.extractfile(member)
            if source is not None:
                data = source.read()
                self._places[clean_name(member.name, self.where)] = (spool.tell(), len(data))
                spool.write(data)
        spool.flush()
        return spool

    def read(self, name: str) -> bytes:
        place = self._places.get(clean_name(name, self.where))
        if place is None:
            raise self._absent(name)
        if place[1] > MAX_MEMBER_BYTES:
            raise _too_large(self.where, name, place[1])
        with self._lock:
            self._data.seek(place[0])
            data = self._data.read(place[1])
        if len(data) != place[1]:
            raise SasError(f"{self._path}/{name}: the archive ends early")
        return data


class SubTree:
    """A folder of another tree as a tree of its own."""

    def __init__(self, tree: Tree, folder: str) -> None:
        self._tree = tree
        self._prefix = folder + "/"

    @property
    def where(self) -> str:
        return f"{self._tree.where}/{self._prefix[:-1]}"

    def _full(self, folder: str) -> str:
        return (self._prefix + folder).rstrip("/")

    def names(self, folder: str = "") -> list[str]:
        return [n.removeprefix(self._prefix) for n in self._tree.names(self._full(folder))]

    def folders(self, folder: str = "") -> list[str]:
        return [n.removeprefix(self._prefix) for n in self._tree.folders(self._full(folder))]

    def has(self, name: str) -> bool:
        return self._tree.has(self._prefix + clean_name(name, self.where))

    def read(self, name: str) -> bytes:
        return self._tree.read(self._prefix + clean_name(name, self.where))


def is_archive(name: str) -> bool:
    """Whether the name ends like an archive that ``open_tree`` reads."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def open_tree(path: Path) -> Tree:
    """The tree at ``path``: a folder, .zip, .tar, .tgz or .tar.gz. Raises SasError when it is none of these or damaged."""
    if path.is_dir():
        return FolderTree(path)
    if not path.is_file():
        raise SasError(f"{path}: no such folder or archive")
    if path.name.lower().endswith(".zip"):
        return _ZipTree(path)
    if is_archive(path.name):
        return _TarTree(path)
    raise SasError(f"{path}: not a data set", hint=f"a folder, or an archive ending in {', '.join(ARCHIVE_SUFFIXES)}")
