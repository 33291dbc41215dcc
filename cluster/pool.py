"""Tasks on many processes or machines, by Dask: files travel once, workers and schedulers may come and go, nothing is lost or counted twice."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from sasimc.cluster.task import STARTED, Failure, Files, Lacking, Task, Work
from sasimc.cluster.tools import tools_digest
from sasimc.isa.errors import SasError

__all__ = ["Pool", "Serial"]

ATTEMPTS: Final = 10
"""Times that a task is tried when its worker is lost."""
STARVED: Final = 3
"""Times that a task is tried when its worker is ended for want of memory."""
LOST_S: Final = 300.0
"""Seconds to wait for a scheduler that went away."""
STALLED_S: Final = 10.0
"""Seconds without a result after which idle workers mean that something was lost, and workers that all lack something that no other comes."""
_POLL_S: Final = 0.2
_LOOK_S: Final = 1.0
"""Workers are counted this often."""
_NO_MEMORY: Final = "worker-restart-memory"
"""Dask's own topic."""
_SILENT: Final = ("nanny", "scheduler", "worker", "core", "client", "batched", "comm")

Say = Callable[[str], None]
T = TypeVar("T", bound=Task)


class Serial(AbstractContextManager["Serial"]):
    """Tasks one after the other, in this process."""

    workers = 1
    address = ""

    def __init__(self, work: Work) -> None:
        self._work = work

    def run(self, tasks: Sequence[T], files: Mapping[str, bytes], limit_s: float | None) -> Iterator[tuple[T, Any]]:
        """Outcomes (or :class:`Failure`), as they come."""
        for task in tasks:
            try:
                outcome = self._work(task.spec, files)
            except Lacking as exc:
                content = task.content() if task.content else None
                outcome = (
                    Failure(exc.diagnostic.message) if content is None else self._work({**task.spec, "content": content}, files)
                )
            except SasError as exc:
                outcome = Failure(exc.diagnostic.message)
            yield task, outcome

    def __exit__(self, *_: object) -> None:
        return None


@dataclass
class _Running:
    """A task that was sent; ``whole``: with its content."""

    task: Task
    future: Any
    attempt: int
    whole: bool


@dataclass
class _Lacks:
    """What workers lack (what -> worker -> in words), and what tasks are known to need."""

    lacks: dict[str, dict[str, str]] = field(default_factory=dict)
    needs: dict[str, set[str]] = field(default_factory=dict)

    def note(self, task: Task, worker: str, what: str, words: str) -> bool:
        """Whether this is new."""
        self.needs.setdefault(task.key, {"version"}).add(what)
        known = self.lacks.setdefault(what, {})
        new = worker not in known
        known[worker] = words
        return new

    def of(self, task: Task) -> dict[str, str]:
        """Workers that cannot do a task, with the reason."""
        return {w: words for what in self.needs.get(task.key, ("version",)) for w, words in self.lacks.get(what, {}).items()}


def _next(done: SimpleQueue[str]) -> Iterator[str]:
    """What is in a queue, once there is something or a moment has passed."""
    with suppress(Empty):
        yield done.get(timeout=_POLL_S)
        while True:
            yield done.get_nowait()


@dataclass
class Pool(AbstractContextManager["Pool"]):
    """Workers: processes of this machine (``count`` of them), or those of the scheduler at ``given``. ``say`` is told of workers that lack something."""

    work: Work
    count: int | None = None
    given: str | None = None
    say: Say = lambda _: None
    _cluster: Any = field(default=None, init=False)
    _client: Any = field(default=None, init=False)
    _sent: set[str] = field(default_factory=set, init=False)
    _started: dict[str, tuple[float, str]] = field(default_factory=dict, init=False)
    _tried: dict[str, list[str]] = field(default_factory=dict, init=False)
    _names: dict[str, str] = field(default_factory=dict, init=False)
    _starved: list[str] = field(default_factory=list, init=False)
    _look_at: float = field(default=0.0, init=False)
    _there: list[str] = field(default_factory=list, init=False)

    def __enter__(self) -> Pool:
        try:
            import cloudpickle
            import distributed
            from dask import config
        except ModuleNotFoundError:
            raise SasError(
                "work on several processes needs dask", hint="pip install 'sas-imc[study]', or leave out --workers and --cluster"
            ) from None
        from sasimc.cluster import entry

        cloudpickle.register_pickle_by_value(entry)
        self._entry, self._work = entry.entry, cloudpickle.dumps(self.work)
        config.set({"distributed.scheduler.allowed-failures": ATTEMPTS, "distributed.admin.log-format": "%(message)s"})
        for name in (*(f"distributed.{part}" for part in _SILENT), "tornado.application", "asyncio"):
            logging.getLogger(name).setLevel("CRITICAL")
        if self.given is None:
            self._wanted = self.count or os.cpu_count() or 1
            self._cluster = distributed.LocalCluster(
                n_workers=self._wanted, threads_per_worker=1, processes=True, host="127.0.0.1",
                dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
            )  # fmt: skip
        self._connect()
        return self

    def _connect(self) -> None:
        from distributed import Client

        place = self._cluster or self.given
        try:
            self._client = Client(place, timeout=20, set_as_default=False)
        except (OSError, TimeoutError) as exc:
            raise SasError(
                f"there is no Dask scheduler at {self.given}: {exc}", hint="dask scheduler --host HOST starts one"
            ) from None
        except (ValueError, TypeError, RuntimeError) as exc:  # an address that is none, TLS without certificates
            raise SasError(f"{self.given} is no address of a Dask scheduler: {exc}", hint="tcp://HOST:8786") from None
        self._sent.clear()
        self._client.subscribe_topic(STARTED, self._note)
        self._client.subscribe_topic(_NO_MEMORY, lambda event: self._starved.append(event[1]["worker"]))

    def _note(self, event: Any) -> None:
        _, message = event
        self._started[message["key"]] = (time.monotonic(), message["worker"])
        self._tried.setdefault(message["key"], []).append(message["worker"])

    def _addresses(self) -> list[str]:
        """Of the workers that there are, as of a moment ago."""
        if (start := time.monotonic()) > self._look_at:
            self._there = list(self._client.scheduler_info(n_workers=-1)["workers"])
            took = time.monotonic() - start  # grows with the workers
            self._look_at = start + max(_LOOK_S, 50 * took)
            if self._cluster is not None:  # Dask gives a process up that died while it began, or did not come back for a while
                self._cluster.scale(self._wanted)
        return self._there

    @property
    def workers(self) -> int:
        """How many there are now."""
        return len(self._addresses())

    @property
    def address(self) -> str:
        """Of the dashboard."""
        return str(self._client.dashboard_link)

    def run(self, tasks: Sequence[T], files: Mapping[str, bytes], limit_s: float | None) -> Iterator[tuple[T, Any]]:
        """Outcomes (or :class:`Failure`), as they come. A task that takes more than ``limit_s`` is ended with its worker."""
        from distributed import CancelledError
        from distributed.scheduler import KilledWorker, NoValidWorkerError

        waiting: list[tuple[T, int]] = [(t, 1) for t in reversed(tasks)]
        running: dict[str, Any] = {}
        known, strikes, done = _Lacks(), dict[str, int](), SimpleQueue[str]()
        name = self._send(files)
        moved = time.monotonic()

        def submit(task: T, attempt: int, workers: list[str] | None, whole: bool = False) -> None:
            key = f"{task.key}-{attempt}-{time.monotonic_ns()}"
            content = task.content() if whole and task.content else None
            future = self._client.submit(
                self._entry, self._work, key, dict(task.spec), content, name, tools_digest(),
                key=key, pure=False, workers=workers, allow_other_workers=whole,
            )  # fmt: skip
            running[key], self._names[key] = _Running(task, future, attempt, whole), task.name
            future.add_done_callback(lambda _: done.put(key))

        while waiting or running:
            try:
                if running and self._stalled(moved):
                    self._client.cancel([r.future for r in running.values()], force=True)
                    waiting += [(r.task, r.attempt) for r in running.values()]
                    running.clear()
                    moved = time.monotonic()
                there = self._addresses()
                room, held = 2 * max(1, len(there)) + 2, list[tuple[T, int]]()
                while waiting and len(running) < room and len(held) < room:
                    task, attempt = waiting.pop()
                    unfit = known.of(task)
                    fit = [a for a in there if a not in unfit] if unfit else None
                    if fit == []:
                        held.append((task, attempt))
                    else:
                        submit(task, attempt, fit)
                waiting += reversed(held)
                if held and not running and there and time.monotonic() - moved > STALLED_S:
                    for task, _ in held:
                        waiting = [(t, n) for t, n in waiting if t is not task]
                        reasons = [f"{w} {words}" for w, words in list(known.of(task).items())[-3:]]
                        yield task, Failure(f"no worker can do it: {'; '.join(reasons)}")
                    continue
                for key in _next(done):
                    if key not in running:
                        continue
                    r, moved = running.pop(key), time.monotonic()
                    try:
                        kind, what = r.future.result(timeout=30)
                    except (CancelledError, OSError, TimeoutError):
                        running[key] = r
                        raise
                    except (KilledWorker, NoValidWorkerError) as exc:
                        if r.attempt >= ATTEMPTS:
                            yield r.task, Failure(f"its worker was lost {r.attempt} times: {exc.args[1]}")
                        else:
                            waiting.append((r.task, r.attempt + 1))
                        continue
                    except Exception as exc:
                        yield r.task, Failure(f"{type(exc).__name__}: {exc}")
                        continue
                    self._started.pop(key, None)
                    if kind == "done":
                        yield r.task, what
                    elif kind == "failed":
                        yield r.task, Failure(": ".join(what))
                    else:
                        worker, what, words = what
                        sends = r.task.content is not None and not r.whole and what not in ("version", "memory")
                        if what == "memory":
                            what = f"memory for {r.task.key}"
                        if not sends and known.note(r.task, worker, what, words):
                            self.say(f"{worker} {words}: {r.task.name} goes to another")
                        if sends:
                            submit(r.task, r.attempt, [worker], whole=True)
                        else:
                            waiting.append((r.task, r.attempt))
                yield from self._starving(running, strikes)
                if limit_s is not None:
                    yield from self._late(running, limit_s)
            except (CancelledError, OSError, TimeoutError):
                waiting += [(r.task, r.attempt + 1) for r in running.values()]
                running.clear()
                self._again()
                name = self._send(files)

    def _send(self, files: Mapping[str, bytes]) -> str:
        """Give files to every worker, those that come later included, once; the name under which a task finds them."""
        from distributed import WorkerPlugin

        found, plugin = Files(files), WorkerPlugin()
        vars(plugin).update(name=found.name, files=dict(files))
        if found.name not in self._sent:
            self._client.register_plugin(plugin)
            self._sent.add(found.name)
        return found.name

    def _stalled(self, since: float) -> bool:
        """Whether nothing was finished for a while, and no worker is at work."""
        return time.monotonic() - since > STALLED_S and not any(self._client.processing().values())

    def _starving(self, running: dict[str, Any], strikes: dict[str, int]) -> Iterator[tuple[Any, Failure]]:
        """Tasks whose worker was ended for want of memory; the scheduler gives them to another."""
        while self._starved:
            worker = self._starved.pop()
            for key in [
                k for k, workers in self._tried.items() if worker in workers
            ]:  # it may be at work elsewhere by now, or done
                self._tried[key].remove(worker)
                self.say(f"{worker} is out of memory: {self._names[key]} goes to another")
                if key not in running:
                    continue
                task = running[key].task
                strikes[task.key] = strikes.get(task.key, 0) + 1
                if strikes[task.key] >= STARVED:
                    self._client.cancel([running.pop(key).future], force=True)
                    yield task, Failure(f"{worker} is out of memory, as were {STARVED - 1} others before")

    def _late(self, running: dict[str, Any], limit_s: float) -> Iterator[tuple[Any, Failure]]:
        """Tasks beyond their time: their worker is started anew."""
        for key in list(running):
            since, worker = self._started.get(key, (None, ""))
            if since is not None and time.monotonic() - since > limit_s and not running[key].future.done():
                r = running.pop(key)
                self._client.cancel([r.future], force=True)
                with suppress(Exception):  # a worker without a nanny: it goes on, nobody waits for it
                    self._client.restart_workers([worker], timeout=30, raise_for_error=False)
                yield r.task, Failure(f"took more than {limit_s:g} s on {worker}")

    def _again(self) -> None:
        """Find a scheduler that went away."""
        self.say(f"the scheduler is gone: waiting for it for {LOST_S:.0f} s")
        end = time.monotonic() + LOST_S
        while True:
            with suppress(Exception):
                self._client.close(timeout=2)
            try:
                self._connect()
                return
            except SasError:
                if time.monotonic() > end:
                    raise
                time.sleep(1)

    def __exit__(self, *_: object) -> None:
        for it in (self._client, self._cluster):
            if it is not None:
                with suppress(Exception):
                    it.close(timeout=5)
