"""The file a device image lies in: locked, appended to durably, replaced atomically.

One process holds an image. The lock is on the open file, not on its name, and ends with the process whatever ends it; after a
replacement it is on the new file, and whoever opened the old one in between notices.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
from pathlib import Path

from sasimc.isa.errors import SasError
from sasimc.training.image.container import MAX_BYTES

__all__ = ["Medium", "read_image"]


def _failed(path: Path, doing: str, exc: OSError) -> SasError:
    hint = "free some space and run again" if exc.errno == errno.ENOSPC else "is it a file, and may you use it?"
    return SasError(f"cannot {doing} the device image {path}: {exc.strerror or exc}", hint=hint)


def read_image(path: Path) -> bytes:
    """The bytes of an image, without a lock (what is being appended may be incomplete).

    Raises:
        SasError: no such file, not readable, larger than any image.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SasError(f"{path} is too large for a device image")
        return path.read_bytes()
    except OSError as exc:
        raise _failed(path, "read", exc) from None


class Medium:
    """The image file ``path``, held by this process from :meth:`open` to :meth:`close`.

    Every change goes through :meth:`_write`, :meth:`_sync` and :meth:`_rename`, in that order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    # What reaches the disk, one operation each: a test puts a power cut in any of them.

    def _write(self, fd: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def _sync(self, fd: int) -> None:
        os.fsync(fd)

    def _rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SasError(f"the device image {self.path} is in use by another process", hint="wait for it, or end it") from None

    def open(self) -> bytes | None:
        """Lock and read the file; None when there is none (nothing is made before :meth:`replace`).

        Raises:
            SasError: in use by another process, no file, not readable or writable.
        """
        try:
            while True:
                try:
                    fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
                except FileNotFoundError:
                    return None
                try:
                    self._lock(fd)
                    if self._is_current(fd):
                        break
                except BaseException:
                    os.close(fd)
                    raise
                os.close(fd)
            self._fd = fd
            for left in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.tmp"):  # of a process that was killed
                left.unlink(missing_ok=True)
            return read_image(self.path)
        except OSError as exc:
            raise _failed(self.path, "open", exc) from None

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.path))
        except FileNotFoundError:
            return False

    def replace(self, data: bytes) -> None:
        """Put a new content in the file's place: at any time the old or the new one is there, never a part.

        Raises:
            SasError: it cannot be written; the old content stays.
        """
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        fd = -1
        try:
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            self._lock(fd)
            self._write(fd, data)
            self._sync(fd)
            if self._fd < 0 and self.path.exists():
                raise SasError(f"the device image {self.path} was made by another process meanwhile", hint="run again")
            self._rename(temporary, self.path)
            self._sync_folder()
        except OSError as exc:
            self._discard(fd, temporary)
            raise _failed(self.path, "write", exc) from None
        except (SasError, KeyboardInterrupt):
            self._discard(fd, temporary)
            raise
        except BaseException:  # the end of the process; the next to open the image clears up
            if fd >= 0:
                os.close(fd)
            raise
        self.close()
        self._fd = fd

    @staticmethod
    def _discard(fd: int, temporary: Path) -> None:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if fd >= 0:
            os.close(fd)

    def _sync_folder(self) -> None:
        with contextlib.suppress(OSError):  # some file systems cannot; the rename is atomic all the same
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._sync(folder)
            finally:
                os.close(folder)

    def append(self, data: bytes, at: int) -> None:
        """Write behind the first ``at`` bytes (what is behind them goes), durably.

        Raises:
            SasError: it cannot be written; at most an incomplete end is left, which the next reader ignores.
        """
        try:
            os.ftruncate(self._fd, at)
            os.lseek(self._fd, at, os.SEEK_SET)
            self._write(self._fd, data)
            self._sync(self._fd)
        except OSError as exc:
            raise _failed(self.path, "write", exc) from None

    def close(self) -> None:
        """Give the file back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
