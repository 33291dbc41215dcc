"""Fetching data sets from their official addresses: resumable, checked, and never half there.

Bytes go to ``NAME.part``; an interrupted download continues there (HTTP Range). Only when the checksum is right does
the file get its name, by one rename. Archives are unpacked beside their place and moved in when complete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import lzma
import os
import shutil
import ssl
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from sasimc.datasets.catalog import CATALOGUE, KnownSet, RemoteFile
from sasimc.datasets.store import MAX_EXPANDED_BYTES, MAX_MEMBERS, clean_name
from sasimc.isa.errors import SasError, near

__all__ = ["Progress", "checksum_of", "download", "fetch_dataset", "unpack_tar"]

Progress = Callable[[str, int, "int | None"], None]
"""Called with the file's name, the bytes there so far and the total (None when the server does not say)."""

_CHUNK = 1 << 18
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP answers worth another try


class _Interrupted(Exception):
    """The transfer broke off in a way that another try may mend."""


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise SasError(f"{req.full_url}: redirects to {newurl!r}", hint="only http and https are followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def checksum_of(path: Path, algorithm: str) -> str:
    """``md5`` or ``sha256`` of a file as hexadecimal digits. Raises SasError for another algorithm or an unreadable file."""
    if algorithm not in ("md5", "sha256"):
        raise SasError(f"unknown checksum {algorithm!r}", hint="md5:... or sha256:...")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    try:
        with open(path, "rb") as f:
            while chunk := f.read(1 << 20):
                digest.update(chunk)
    except OSError as e:
        raise SasError(f"{path}: cannot be read ({e.strerror or e})") from e
    return digest.hexdigest()


def _matches(path: Path, checksum: str) -> bool:
    algorithm, _, expected = checksum.partition(":")
    return checksum_of(path, algorithm) == expected.lower()


def _storage_error(path: Path, e: OSError) -> SasError:
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return SasError(f"{path}: the disk is full", hint="make room and start again: what is there is continued")
    return SasError(f"{path}: cannot be written ({e.strerror or e})")


def _total(response: Any, start: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isascii() and length.isdigit() else None


def _starts_at(response: Any, start: int) -> bool:
    """Whether a 206 answer continues at byte ``start``: Content-Range: bytes START-END/TOTAL."""
    unit, _, rest = (response.headers.get("Content-Range") or "").partition(" ")
    return unit.lower() == "bytes" and rest.partition("-")[0] == str(start)


def _write(out: BinaryIO, data: bytes, part: Path) -> None:
    try:
        out.write(data)
    except OSError as e:
        raise _storage_error(part, e) from e


def _transfer(url: str, part: Path, max_bytes: int, progress: Progress | None, name: str, timeout: float) -> None:
    """One connection: continue ``part`` until the server's last byte. Raises _Interrupted when it breaks off."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "sas-imc", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    opener = urllib.request.build_opener(_WebRedirects)
    try:
        with opener.open(request, timeout=timeout) as response:
            continued = response.status == 206 and _starts_at(response, start)
            if response.status == 206 and not continued:
                part.unlink(missing_ok=True)
                raise _Interrupted("the server answered with another range than asked")
            done = start if continued else 0
            total = _total(response, done)
            if max(total or 0, done) > max_bytes:
                raise SasError(f"{url}: {total or done:,} bytes", hint=f"at most {max_bytes:,} bytes are accepted for this file")
            if total is not None and total - done > shutil.disk_usage(part.parent).free:
                raise SasError(
                    f"{part}: the disk is full ({total - done:,} bytes are still to come)",
                    hint="make room and start again: what is there is continued",
                )
            with open(part, "ab" if continued else "wb") as out:
                while chunk := response.read(_CHUNK):
                    done += len(chunk)
                    if done > max_bytes:
                        raise SasError(f"{url}: more than {max_bytes:,} bytes", hint="the download was stopped")
                    _write(out, chunk, part)
                    if progress is not None:
                        progress(name, done, total)
            if total is not None and done < total:
                raise _Interrupted(f"the connection ended after {done:,} of {total:,} bytes")
    except urllib.error.HTTPError as e:
        with contextlib.closing(e):
            if e.code == 416 and start:
                return  # nothing behind our last byte: complete, or a part of something else; the checksum tells
            if e.code in _PASSING:
                raise _Interrupted(f"HTTP {e.code} {e.reason}") from e
            raise SasError(
                f"{url}: HTTP {e.code} {e.reason}", hint="if the address has moved, put the files there by hand"
            ) from e
    except (http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as e:
        raise _Interrupted(str(e) or type(e).__name__) from e
    except urllib.error.URLError as e:
        raise _Interrupted(str(e.reason)) from e
    except OSError as e:
        raise _storage_error(part, e) from e


def download(
    remote: RemoteFile,
    target: Path,
    progress: Progress | None = None,
    *,
    retries: int = 4,
    timeout: float = 30.0,
    pause: Callable[[float], None] = time.sleep,
) -> Path:
    """``remote`` as the file ``target``; returns it. A file that is there already with the right checksum is left alone.

    A broken connection is tried again ``retries`` times, each time where it broke off, with growing pauses
    (``pause(seconds)``). A wrong checksum after a continued download is tried once more from the start. Raises
    SasError when it cannot be had, is too large, has the wrong checksum, or cannot be written; ``target`` is then as
    it was before.
    """
    if urllib.parse.urlsplit(remote.url).scheme not in ("http", "https"):
        raise SasError(f"{remote.url!r}: only http and https addresses are fetched")
    if remote.checksum.partition(":")[0] not in ("md5", "sha256"):
        raise SasError(f"{remote.url}: no checksum to hold it against", hint="md5:... or sha256:...")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise _storage_error(target.parent, e) from e
    if target.is_file() and _matches(target, remote.checksum):
        return target
    part = target.with_name(target.name + ".part")
    attempt = 0
    continued = part.exists()
    while True:
        try:
            _transfer(remote.url, part, remote.max_bytes, progress, target.name, timeout)
        except _Interrupted as e:
            attempt += 1
            continued = True
            if attempt > retries:
                later = "start again later: the download continues where it broke off"
                hint = later if part.exists() else "is there a connection?"
                raise SasError(f"{remote.url}: {e} (tried {attempt} times)", hint=hint) from e
            pause(min(2.0 ** (attempt - 1), 30.0))
            continue
        if _matches(part, remote.checksum):
            break
        part.unlink()
        if not continued:
            raise SasError(
                f"{remote.url}: wrong checksum, expected {remote.checksum}",
                hint="the file was changed at its source or on the way; it was not kept",
            )
        continued = False
    try:
        os.replace(part, target)
    except OSError as e:
        raise _storage_error(target, e) from e
    return target


def unpack_tar(archive: Path, folder: Path, max_bytes: int = MAX_EXPANDED_BYTES) -> int:
    """The files and folders of a tar (any compression) into ``folder``; returns the number of files.

    Unpacked into a temporary folder inside ``folder`` first, so that nothing half there remains. Links and devices
    are left out. Raises SasError for a damaged archive, names that lead out, too many or too large files, a name in
    the way, a full disk.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpack-", dir=folder) as staging:
            count = _unpack(archive, Path(staging), max_bytes)
            for entry in sorted(Path(staging).iterdir()):
                _move_into(entry, folder / entry.name)
            return count
    except (EOFError, zlib.error, lzma.LZMAError, tarfile.TarError) as e:
        raise SasError(f"{archive}: damaged archive ({e})") from e
    except OSError as e:
        raise _storage_error(folder, e) from e


def _unpack(archive: Path, staging: Path, max_bytes: int) -> int:
    count = total = 0
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            if not member.name.strip("./") and member.isdir():
                continue
            target = staging / clean_name(member.name, str(archive))
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            elif member.isfile() and (source := tar.extractfile(member)) is not None:
                count, total = count + 1, total + member.size
                if total > max_bytes or count > MAX_MEMBERS:
                    raise SasError(f"{archive}: expands to more than {max_bytes:,} bytes or {MAX_MEMBERS:,} files")
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "xb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
    return count


def _move_into(source: Path, target: Path) -> None:
    """Rename; where a folder of that name is there already, its entries one by one."""
    if source.is_dir() and target.is_dir():
        for entry in sorted(source.iterdir()):
            _move_into(entry, target / entry.name)
    else:
        os.replace(source, target)


def fetch_dataset(name: str | KnownSet, data_dir: Path, progress: Progress | None = None, **options: Any) -> Path:
    """Fetch and unpack a known data set into its folder under ``data_dir``; returns the folder. ``options`` go to ``download``.

    What an earlier call completed is not fetched again. Raises SasError for an unknown set or one without an official address.
    """
    known = CATALOGUE.get(name) if isinstance(name, str) else name
    if known is None:
        raise SasError(f"no data set {name!r}", hint=near(str(name), list(CATALOGUE)) or f"known: {', '.join(CATALOGUE)}")
    if not known.files:
        raise SasError(
            f"{known.title} has no official address to fetch it from",
            hint=f"put it by hand into a folder of the data folder whose name starts with {known.prefixes[0]}",
        )
    folder = data_dir / known.folder
    for remote in known.files:
        done = folder / f".{remote.name}.done"
        if remote.unpack and done.is_file() and done.read_text("utf-8").strip() == remote.checksum:
            continue
        target = download(remote, folder / remote.name, progress, **options)
        if remote.unpack:
            unpack_tar(target, folder)
            try:
                done.write_text(remote.checksum + "\n", "utf-8")
                target.unlink()
            except OSError as e:
                raise _storage_error(folder, e) from e
    return folder
