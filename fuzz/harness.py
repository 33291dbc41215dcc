"""What every kind of input has in common: a kind, the bounds that hold for its cases, the loop over them.

A case is a mutated sample. Allowed: a result, or SasError. A find is everything else: another exception (a MemoryError at `MEMORY` bytes of
addresses, too), more than `SECONDS_A_CASE`, more than `RESIDENT` MiB of memory, the end of the process, a file opened outside the target folder, read
or written, that the package does not bring along.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from mutate import mutated

from sasimc.isa.errors import SasError

__all__ = ["MEMORY", "RESIDENT", "SECONDS_A_CASE", "TALLY", "Cases", "Kind", "written"]

SECONDS_A_CASE: Final = 20
"""Processor time; ten times as much on the clock."""
RESIDENT: Final = 2048
"""MiB of memory in use."""
MEMORY: Final = 6 << 30
"""Bytes of addresses: numpy, numba and onnxruntime take 3 GiB of them before the first case."""
TALLY: Final = ("cases", "read", "refused", "finds")
_SAMPLES: Final = 400
_LARGEST: Final = 1 << 20


@dataclass(frozen=True)
class Kind:
    """``samples``: good files; ``read``: what a command does with a file, given its bytes and an empty folder; ``change``: mutations that know the
    format, as `mutate.mutated`; ``ready``: called once before the first case, in the process of the cases; ``beside``: lays what else is in the folder."""

    samples: Callable[[], Sequence[bytes]]
    read: Callable[[bytes, Path], object]
    change: Callable[[bytes, Sequence[bytes], random.Random], bytes] = mutated
    ready: Callable[[], object] = lambda: None
    beside: Callable[[Path], object] = lambda folder: None


def written(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """A reader of bytes that stand in a file of this name."""

    def run(data: bytes, folder: Path) -> object:
        path = folder / name
        path.write_bytes(data)
        return read(path)

    return run


class TooSlowError(BaseException):
    """A case took too long. No Exception: nothing on the way shall catch it."""


def _too_slow(number: int, frame: object) -> None:
    raise TooSlowError


class Cases:
    """The cases of one kind. ``tally``: a file with the counts of `TALLY`, which survives the process; finds go to ``finds``."""

    def __init__(self, name: str, kind: Kind, tally: Path, finds: Path) -> None:
        self.name, self.kind, self.finds = name, kind, finds
        self.samples = list(kind.samples())
        self.tally = np.memmap(tally, np.int64, "r+", shape=(len(TALLY),))
        self._outer = Path(tempfile.mkdtemp(prefix="fuzz-")).resolve()
        self._folder = self._outer / "target"
        self._outside: list[str] = []
        self._watching = False
        self._seen: set[str] = set()
        kind.ready()
        sys.addaudithook(self._watch)
        signal.signal(signal.SIGPROF, _too_slow)

    def _watch(self, event: str, args: tuple[Any, ...]) -> None:
        """Python's audit events: which files are opened, made, moved or linked, and whether anything is run or called."""
        if not self._watching:
            return
        if event in ("subprocess.Popen", "os.system", "os.exec", "socket.connect", "os.symlink", "os.link"):
            self._outside.append(f"{event} {args!r}"[:200])
        elif event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.chmod"):
            flags = int(args[2] or 0) if event == "open" else 0
            writes = event != "open" or flags & (os.O_WRONLY | os.O_RDWR) or any(c in str(args[1] or "") for c in "wax+")
            beside = args[-1] if event != "open" and isinstance(args[-1], int) else -1
            for given in args[: 2 if event == "os.rename" else 1]:
                if not isinstance(given, str | bytes) or "\0" in os.fsdecode(given):
                    continue
                place = os.readlink(f"/proc/self/fd/{beside}") if beside >= 0 else ""
                path = os.path.realpath(os.path.join(place, os.fsdecode(given)))
                ours = path.startswith(f"{self._folder}/") or path == str(self._folder)
                cache = ".nbi" in path or ".nbc" in path or "/__pycache__" in path or path == os.devnull
                kept = os.path.isdir(path) and event in ("open", "os.mkdir")  # a file without a name; nothing made
                if not (ours or cache or kept) and (writes or path.startswith(str(self._outer))):
                    self._outside.append(f"{event} {path}")

    def one(self, data: bytes) -> None:
        """Run a case; libFuzzer's entry."""
        if os.path.isdir(self._folder) and (left := os.listdir(self._folder)):
            if len(left) == 1 and not os.path.isdir(self._folder / left[0]):  # quicker
                os.unlink(self._folder / left[0])
            else:
                shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(exist_ok=True)
        self.kind.beside(self._folder)
        self.tally[0] += 1
        self._outside, problem = [], ""
        self._watching = True
        signal.setitimer(signal.ITIMER_PROF, SECONDS_A_CASE)
        try:
            self.kind.read(data, self._folder)
            self.tally[1] += 1
        except SasError:
            self.tally[2] += 1
        except BaseException:
            problem = traceback.format_exc()
        signal.setitimer(signal.ITIMER_PROF, 0)
        self._watching = False
        if os.listdir(self._outer) != ["target"]:
            self._outside.append(f"left behind: {os.listdir(self._outer)}")
        if self._outside:
            problem += f"outside the target folder: {self._outside[:5]}"
        if problem:
            self._find(data, problem)

    def _find(self, data: bytes, problem: str) -> None:
        self.tally[3] += 1
        place = "\n".join(line for line in problem.splitlines() if line.startswith("  File"))[-200:] or problem
        if place in self._seen:
            return
        self._seen.add(place)
        self.finds.mkdir(exist_ok=True)
        path = self.finds / f"{self.name.replace(' ', '_')}-{len(self._seen)}"
        path.write_bytes(data)
        print(f"FIND {self.name}: {path}\n{problem}", file=sys.stderr, flush=True)

    def mutate(self, data: bytes, seed: int) -> bytes:
        """A mutation of a case: of its format, or of its bytes."""
        rng = random.Random(seed)
        change = self.kind.change if rng.randrange(8) else mutated
        return change(data, self.samples, rng)[:_LARGEST]

    def led(self, corpus: Path, options: Sequence[str], seconds: float, cases: int) -> None:
        """Let libFuzzer choose the cases by the coverage of the package's code. Ends the process."""
        import atheris  # type: ignore[import-not-found]

        def custom(data: bytes, largest: int, seed: int) -> bytes:
            rng = random.Random(seed)
            return bytes(atheris.Mutate(data, largest)) if rng.randrange(8) == 0 else self.mutate(data, seed)[:largest]

        end = time.monotonic() + seconds

        def one(data: bytes) -> None:
            self.one(data)
            if self.tally[0] >= cases or time.monotonic() > end:
                os._exit(0)  # a fork: what its parent's libraries would do at the end is not its business

        for number, sample in enumerate(self.samples):
            (corpus / str(number)).write_bytes(sample)
        atheris.Setup([sys.argv[0], str(corpus), *options], one, custom_mutator=custom)
        atheris.Fuzz()
