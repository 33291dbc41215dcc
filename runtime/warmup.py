"""Compile every kernel that a program needs before the first image, so that the wait can be announced: once, by as many processes as there are cores.

Kernels that numba's cache does not hold are shared out: this process takes them from one end of the list and the others from the other end, so
that kernels made of the same functions tend to meet in one process. What another process compiled is loaded from the cache. Whatever a process does
not bring about, because it could not start or ended early, is compiled here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from types import CodeType, ModuleType
from typing import Any, Final

from numba.core.registry import cpu_target

from sasimc.isa.extend import declared, load_instructions
from sasimc.runtime.kernel import Code
from sasimc.runtime.kernels.compiling import kept, parts
from sasimc.runtime.kernels.run import warm

__all__ = ["serve", "warm_up"]

_WORTH: Final = 4
"""A process of its own takes a second to start: it is for so many functions."""
_UNIT_S: Final = 0.00035
"""Processor seconds for a byte of a kernel's Python code (EPYC with AVX-512): where the estimate begins, before this computer's own pace is known."""
_AGAIN: Final = 0.2
"""And how much of that every kernel costs again that the code is part of."""

Progress = Callable[..., object]
"""Called with what is being done, and how much of it is done, 0 to 1."""


def warm_up(codes: Sequence[Code], progress: Progress = lambda *_: None) -> int:
    """Compile or load code, such as what a program needs (`Datapath.codes`). Returns how many functions were compiled now.

    The compiled code lies where numba puts it (NUMBA_CACHE_DIR); where nothing can be written, every process compiles for itself.
    """
    _begin()
    jobs: dict[Callable[..., Any], list[Code]] = {}  # numba keeps all forms of a function in one index: one process has them all
    for code in codes:
        if not kept(code.callback):
            jobs.setdefault(code.function, []).append(code)
    if jobs:
        _Jobs(jobs, progress).run()
    progress("loading the kernels")
    warm()
    for code in codes:
        _ = code.address
    return len(jobs)


@cache
def _begin() -> None:
    """Let numba register its functions without scipy.linalg, which it imports (a tenth of a start) only to see whether it could; a function that
    needs it imports it then."""
    name = "scipy.linalg.cython_blas"
    placed = name not in sys.modules and find_spec("scipy") is not None
    if placed:
        sys.modules[name] = ModuleType(name)
    try:
        target: Any = cpu_target
        target.typing_context.refresh()
        target.target_context.refresh()
    finally:
        if placed:
            del sys.modules[name]


class _Jobs:
    """Kernels to compile, by function. The work on one is the Python code that is compiled with it; what several share is shared out among them."""

    def __init__(self, jobs: dict[Callable[..., Any], list[Code]], progress: Progress) -> None:
        made_of = {function: frozenset(parts(function)) for function in jobs}
        users = Counter(part for some in made_of.values() for part in some)
        self.work = {
            function: len(jobs[function]) * sum(len(part.co_code) * (1 / users[part] + _AGAIN) for part in made_of[function])
            for function in jobs
        }
        self.left, self.progress = deque(jobs[function] for function in _neighbours(made_of)), progress
        self.count, self.done = len(jobs), 0
        self.total, self.finished = sum(self.work.values()), 0.0
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.processes = max(1, min(cores, self.count // _WORTH))
        self.start = time.monotonic()
        self.lock = threading.Lock()

    def run(self) -> None:
        """Compile all."""
        helpers = [h for h in (_Helper(self) for _ in range(self.processes - 1)) if h.start()]
        try:
            self._say()
            warm()
            self._work_off()
            for helper in helpers:
                helper.thread.join()
            self._work_off()  # what a helper gave back
        finally:
            for helper in helpers:
                helper.stop()

    def _work_off(self) -> None:
        while (job := self.take(here=True)) is not None:
            for code in job:
                _ = code.address
            self.finish(job)

    def take(self, here: bool) -> list[Code] | None:
        """The next function, from the end that is this process's or the helpers'."""
        with self.lock:
            return (self.left.popleft() if here else self.left.pop()) if self.left else None

    def give_back(self, job: list[Code]) -> None:
        """A function that was taken and not compiled."""
        with self.lock:
            self.left.append(job)

    def finish(self, job: list[Code]) -> None:
        """A function that was compiled."""
        with self.lock:
            self.done += 1
            self.finished += self.work[job[0].function]
            self._say()

    def _say(self) -> None:
        text = f"kernels for this computer, compiled once: {self.done} of {self.count}"
        if (left := self.seconds_left()) >= 1:
            text += f", about {left:.0f} s left"
        self.progress(text, self.finished / self.total)

    def seconds_left(self) -> float:
        """From the pace so far, which counts more the more is done."""
        some = 0.1 * self.total
        pace = (some + self.finished) / (some * _UNIT_S / self.processes + time.monotonic() - self.start)
        return (self.total - self.finished) / pace


def _neighbours(made_of: Mapping[Callable[..., Any], frozenset[CodeType]]) -> Iterator[Callable[..., Any]]:
    """Functions in such an order that each shares as much code as it can with those before it. The first is the largest."""
    left, known = dict(made_of), frozenset[CodeType]()

    def size(some: frozenset[CodeType]) -> int:
        return sum(len(part.co_code) for part in some)

    while left:
        best = max(left, key=lambda f: (size(left[f] & known), size(left[f])))
        known |= left.pop(best)
        yield best


class _Helper:
    """A process that compiles functions named to it, into the same cache."""

    def __init__(self, jobs: _Jobs) -> None:
        self.jobs = jobs
        self.process: subprocess.Popen[str] | None = None
        self.thread = threading.Thread(target=self._feed, name="compile", daemon=True)

    def start(self) -> bool:
        """False if the system does not let it."""
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        words = [sys.executable or "python", "-P", "-c", "from sasimc.runtime.warmup import serve; serve()"]
        pipe = subprocess.PIPE
        try:
            self.process = subprocess.Popen(words, env=env, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            return False
        self.thread.start()
        return True

    def stop(self) -> None:
        """End it."""
        assert self.process is not None
        self.process.kill()
        self.process.communicate()

    def _feed(self) -> None:
        assert self.process is not None
        given, said = self.process.stdin, self.process.stdout
        assert given is not None
        assert said is not None
        job: Sequence[Code] | None = None
        try:
            given.write(json.dumps([str(file) for file in declared()]) + "\n")
            while (job := self.jobs.take(here=False)) is not None:
                given.write(json.dumps([(c.mnemonic, c.engine, c.place) for c in job]) + "\n")
                given.flush()
                if not said.readline():
                    break
                self.jobs.finish(job)
        except OSError:
            pass
        if job is not None:
            self.jobs.give_back(list(job))


def serve() -> None:
    """Be such a process: files of instructions in the first line, then functions; a line for each that is compiled."""
    import sasimc.runtime.engines.datapath  # noqa: F401  (fills the table of kernels)

    for file in json.loads(sys.stdin.readline()):
        load_instructions(file)
    for line in sys.stdin:
        for words in json.loads(line):
            _ = Code(*words).address
        print("done", flush=True)
