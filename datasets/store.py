"""Where a data set's files are: a folder, a zip or a tar, all read by relative name and never unpacked to disk.

A *tree* maps clean relative names (``a/b.jpg``) to bytes; what systems leave (``is_system``) is not in it, only counted.
Archives are not trusted: names that leave the tree (absolute, drive letter, ``..``), symbolic links and devices, encrypted
files, and what expands beyond the limits below are refused when they are opened. A compressed tar is expanded once into an
anonymous temporary file.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import tempfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, Protocol

from sasimc.datasets.system_files import is_system
from sasimc.isa.errors import SasError

__all__ = [
    "ARCHIVE_SUFFIXES", "MAX_MEMBER_BYTES", "FolderTree", "SubTree", "Tree", "clean_name", "expanded_limit", "is_archive", "open_tree",
]  # fmt: skip

MAX_MEMBER_BYTES = 256 << 20
"""Largest file read into memory."""
MAX_MEMBERS = 4_000_000
MAX_EXPANDED_BYTES = 64 << 30
EXPANSION = 100
"""An archive may expand to 1 GiB and this many times its own size, at most to MAX_EXPANDED_BYTES."""

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")

_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)


def expanded_limit(archive_bytes: int) -> int:
    """Bytes that an archive of this size may expand to."""
    return min(MAX_EXPANDED_BYTES, (1 << 30) + EXPANSION * archive_bytes)


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

    @property
    def system(self) -> set[str]:
        """Files and folders seen so far that a system left there."""
        ...

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

    def open(self, name: str) -> BinaryIO:
        """The file to read from; of a folder only what is read comes from the disk. Raises SasError as ``read`` does."""
        ...


def _too_large(where: str, name: str, size: int) -> SasError:
    return SasError(f"{where}/{name}: {size:,} bytes", hint=f"files in data sets may have at most {MAX_MEMBER_BYTES:,} bytes")


class FolderTree:
    """A folder on disk. Symbolic links are followed: they are the owner's arrangement, not names out of an archive."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listed: dict[str, tuple[list[str], list[str]]] = {}
        self.system: set[str] = set()

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
                        if is_system(entry.name):
                            self.system.add(prefix + entry.name)
                        else:
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
        with self.open(name) as f:
            try:
                return f.read()
            except OSError as e:
                raise SasError(f"{self._root / name}: cannot be read ({e.strerror or e})") from e

    def open(self, name: str) -> BinaryIO:
        path = self._root / clean_name(name, self.where)
        try:
            about = path.stat()
            if not stat.S_ISREG(about.st_mode):
                raise SasError(f"{path}: not a file")
            if about.st_size > MAX_MEMBER_BYTES:
                raise _too_large(self.where, name, about.st_size)
            return path.open("rb")
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
        self.system: set[str] = set()

    @property
    def where(self) -> str:
        return str(self._path)

    def _index(self, names: Iterable[str]) -> None:
        for name in names:
            if len(self._known) >= MAX_MEMBERS:
                raise SasError(f"{self._path}: more than {MAX_MEMBERS:,} files")
            parts = name.split("/")
            if (left := next((i for i, part in enumerate(parts) if is_system(part)), None)) is not None:
                self.system.add("/".join(parts[: left + 1]))
                continue
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

    def read(self, name: str) -> bytes:
        raise NotImplementedError

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.read(name))

    def _refuse(self, name: str, what: str) -> SasError:
        return SasError(
            f"{self._path}: {name!r} is {what}",
            hint="pack the files themselves (tar -h, zip without -y), without links or passwords",
        )

    def _bounded(self, sizes: Iterable[int]) -> None:
        limit = expanded_limit(self._path.stat().st_size)
        if sum(sizes) > limit:
            raise SasError(f"{self._path}: expands to more than {limit:,} bytes", hint="unpack it, and give the folder")


class _ZipTree(_ArchiveTree):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except _DAMAGE as e:
            raise SasError(f"{path}: damaged zip archive ({e})") from e
        weakref.finalize(self, self._zip.close)
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            if info.filename.endswith("/"):
                continue
            kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
            if kind not in (0, stat.S_IFREG):
                raise self._refuse(info.filename, "a symbolic link" if kind == stat.S_IFLNK else "no plain file")
            if info.flag_bits & 1:
                raise self._refuse(info.filename, "encrypted")
            self._members[clean_name(info.filename, self.where)] = info
        self._bounded(i.file_size for i in self._members.values())
        self._index(self._members)

    def read(self, name: str) -> bytes:
        info = self._members.get(clean_name(name, self.where))
        if info is None:
            raise self._absent(name)
        if info.file_size > MAX_MEMBER_BYTES:
            raise _too_large(self.where, name, info.file_size)
        try:
            with self._lock, self._zip.open(info) as f:
                data = f.read(info.file_size)
        except _DAMAGE as e:
            raise SasError(f"{self._path}/{name}: damaged in the archive ({e})") from e
        if len(data) != info.file_size:
            raise SasError(f"{self._path}/{name}: damaged in the archive ({len(data):,} of {info.file_size:,} bytes)")
        return data


_COMPRESSED: Final = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open))


def _decompressed(path: Path) -> Any:
    """The content of a compressed tar, opened; of any other file the file itself."""
    with path.open("rb") as f:
        head = f.read(6)
    return next((opened(path, "rb") for magic, opened in _COMPRESSED if head.startswith(magic)), None) or path.open("rb")


def _wary(file: Any) -> Any:
    """The file, of which no more than a member's limit is read at a time: headers may lie about their length."""

    class Wary:
        seek, tell = file.seek, file.tell

        def read(self, size: int) -> bytes:
            if size > MAX_MEMBER_BYTES:
                raise tarfile.ReadError(f"a part of {size:,} bytes")
            return file.read(size)

    return Wary()


class _TarTree(_ArchiveTree):
    """A tar. Compressed ones cannot be read at random, so their files go once to a temporary file that no name leads to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._places: dict[str, tuple[int, int]] = {}
        try:
            with _decompressed(path) as data, tarfile.open(fileobj=_wary(data), mode="r:") as tar:
                plain = isinstance(data, io.BufferedReader)
                self._data: IO[bytes] = path.open("rb") if plain else tempfile.TemporaryFile()  # noqa: SIM115  kept for the tree's life
                weakref.finalize(self, self._data.close)
                for member, name in self._regular(tar):
                    self._places[name] = (member.offset_data, member.size) if plain else self._spooled(tar, member)
                self._data.flush()
        except _DAMAGE as e:
            raise SasError(f"{path}: damaged tar archive, or no room to expand it ({e})") from e
        self._index(self._places)

    def _regular(self, tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str]]:
        """Plain files with their clean names. A hard link is another name of a file before it."""
        total, limit = 0, expanded_limit(self._path.stat().st_size)
        for count, member in enumerate(tar):
            if member.isdir():
                if member.name.strip("./"):
                    clean_name(member.name, self.where)
                continue
            name = clean_name(member.name, self.where)
            if any(is_system(part) for part in name.split("/")):
                self._places[name] = (0, 0)
                continue
            if member.islnk() and (first := self._places.get(clean_name(member.linkname, self.where))):
                self._places[name] = first
                continue
            if not member.isfile() or member.issparse():
                raise self._refuse(member.name, "a symbolic link" if member.issym() else "no plain file")
            total += member.size
            if total > limit or count >= MAX_MEMBERS:
                raise SasError(
                    f"{self._path}: expands to more than {limit:,} bytes or {MAX_MEMBERS:,} files",
                    hint="unpack it, and give the folder",
                )
            yield member, name

    def _spooled(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[int, int]:
        if member.size > MAX_MEMBER_BYTES:
            raise _too_large(self.where, member.name, member.size)
        source = tar.extractfile(member)
        assert source is not None
        data = source.read()
        place = self._data.tell(), len(data)
        self._data.write(data)
        return place

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

    @property
    def system(self) -> set[str]:
        return self._tree.system

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

    def open(self, name: str) -> BinaryIO:
        return self._tree.open(self._prefix + clean_name(name, self.where))


def is_archive(name: str) -> bool:
    """Whether the name ends like an archive that ``open_tree`` reads."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def _kind(path: Path) -> str:
    """``zip`` or ``tar`` by content where that is plain, else by suffix; empty: neither."""
    try:
        with path.open("rb") as f:
            head = f.read(512)
    except OSError as e:
        raise SasError(f"{path}: cannot be read ({e.strerror or e})") from e
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return "zip"
    if head[257:262] == b"ustar":
        return "tar"
    lower = path.name.lower()
    return "zip" if lower.endswith(".zip") else "tar" if is_archive(lower) else ""


def open_tree(path: Path) -> Tree:
    """The tree at ``path``: a folder, a zip or a tar. Raises SasError when it is none of these, damaged, or not to be trusted."""
    if path.is_dir():
        return FolderTree(path)
    if not path.is_file():
        raise SasError(f"{path}: no such folder or archive")
    kind = _kind(path)
    if not kind:
        raise SasError(f"{path}: not a data set", hint=f"a folder, or an archive ending in {', '.join(ARCHIVE_SUFFIXES)}")
    return _ZipTree(path) if kind == "zip" else _TarTree(path)
