"""The worker's side: one task at a time, with all threads that the worker has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Final, Protocol

from sasimc.isa.errors import SasError

__all__ = ["STARTED", "Failure", "Lacking", "Task", "Work", "kept", "run", "storage", "threads"]

STARTED: Final = "sasimc-started"
"""Topic under which a worker says that it begins."""

Work = Callable[[Mapping[str, Any], Mapping[str, bytes]], Any]
"""What is done with the spec of a task and the files of a run, by content of a module that workers have."""

_ONE: Final = Lock()
_kept: dict[str, Any] = {}


class Task(Protocol):
    """A piece of work: ``key`` tells it from others, ``spec`` is plain data. ``content`` gives what a worker may lack (None: nothing); the work finds it as
    ``spec["content"]``."""

    @property
    def key(self) -> str: ...
    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def spec(self) -> Mapping[str, Any]: ...
    @property
    def content(self) -> Callable[[], Any] | None: ...


@dataclass(frozen=True)
class Failure:
    """Why a task has no outcome: no property of the task, so it is worth trying again another day."""

    reason: str


class Lacking(SasError):
    """A worker cannot do a task for the want of ``what``; another may, or this one when it is sent."""

    def __init__(self, what: str, message: str) -> None:
        super().__init__(message)
        self.what = what


@dataclass(frozen=True)
class Files:
    """Files of a run by name; ``name`` tells them by content."""

    files: Mapping[str, bytes]

    @cached_property
    def name(self) -> str:
        digest = hashlib.sha256()
        for key, content in sorted(self.files.items()):
            digest.update(key.encode() + b"\0" + hashlib.sha256(content).digest())
        return f"sasimc-files-{digest.hexdigest()[:16]}"


def threads() -> int | None:
    """Threads of the worker that runs this; None: no worker does."""
    from distributed import get_worker

    try:
        return int(get_worker().state.nthreads)
    except ValueError:
        return None


def storage() -> Path | None:
    """A folder of the worker that runs this, gone when the worker is; None: no worker does."""
    from distributed import get_worker

    try:
        return Path(get_worker().local_directory)
    except ValueError:
        return None


def kept(key: str, make: Callable[[], Any]) -> Any:
    """What this worker made under this name, made the first time; the last of each kind (the part before the colon) is kept. No worker keeps anything."""
    if storage() is None:
        return make()
    if key not in _kept:
        kind = key.partition(":")[0]
        for old in [k for k in _kept if k.partition(":")[0] == kind]:
            del _kept[old]
        _kept[key] = make()
    return _kept[key]


def run(work: bytes, key: str, spec: dict[str, Any], content: Any, files: str) -> tuple[str, Any]:
    """Do a task, see :func:`sasimc.cluster.entry.entry`."""
    import cloudpickle
    from distributed import get_worker

    worker = get_worker()
    with _ONE:
        worker.log_event(STARTED, {"key": key, "worker": worker.address})
        try:
            given = spec if content is None else {**spec, "content": content}
            return "done", cloudpickle.loads(work)(given, vars(worker.plugins[files])["files"])
        except Lacking as exc:
            return "lacking", (worker.address, exc.what, exc.diagnostic.message)
        except MemoryError:
            return "lacking", (worker.address, "memory", "is out of memory")
        except SasError as exc:
            return "failed", (worker.address, exc.diagnostic.message)
        except Exception as exc:
            return "failed", (worker.address, f"{type(exc).__name__}: {exc}")
