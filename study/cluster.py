"""Trials on many processes or machines, by Dask: files travel once, workers and schedulers may come and go, nothing is lost or counted twice."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from sasimc.isa.errors import SasError
from sasimc.study.store import Trial

__all__ = ["Failure", "Pool", "Serial"]

Measure = Callable[[Mapping[str, Any], Mapping[str, bytes]], dict[str, Any]]

ATTEMPTS: Final = 10
"""Times that a trial is tried when its worker is lost."""
LOST_S: Final = 300.0
"""Seconds to wait for a scheduler that went away."""
STALLED_S: Final = 10.0
"""Seconds without a result after which idle workers mean that something was lost."""
_POLL_S: Final = 0.2
_STARTED: Final = "sasimc-trial-started"


@dataclass(frozen=True)
class Failure:
    """Why a trial has no outcome: no property of the point, so it is not kept, and tried again next time."""

    reason: str


def _task(measure: Measure, key: str, spec: Mapping[str, Any], files: str, version: str) -> tuple[str, Any]:
    """On a worker: (``outcome`` | ``failure``, what)."""
    from distributed import get_worker

    from sasimc.study.tools import tools_digest

    worker = get_worker()
    if (here := tools_digest()) != version:
        return "failure", f"{worker.address} has another version of sas-imc ({here[:8]}, not {version[:8]})"
    worker.log_event(_STARTED, {"key": key, "worker": worker.address})
    try:
        return "outcome", measure(spec, vars(worker.plugins[files])["files"])
    except SasError as exc:
        return "failure", f"{worker.address}: {exc.diagnostic.message}"
    except MemoryError:
        return "failure", f"{worker.address} is out of memory"
    except Exception as exc:
        return "failure", f"{worker.address}: {type(exc).__name__}: {exc}"


class Serial(AbstractContextManager["Serial"]):
    """Trials one after the other, in this process."""

    workers = 1
    address = ""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure

    def run(
        self, trials: Sequence[Trial], files: Mapping[str, bytes], limit_s: float
    ) -> Iterator[tuple[Trial, dict[str, Any] | Failure]]:
        """Outcomes, as they come."""
        for trial in trials:
            try:
                yield trial, self._measure(trial.spec, files)
            except SasError as exc:
                yield trial, Failure(exc.diagnostic.message)

    def __exit__(self, *_: object) -> None:
        return None


@dataclass
class _Running:
    trial: Trial
    future: Any
    attempt: int


@dataclass
class Pool(AbstractContextManager["Pool"]):
    """Workers: processes of this machine (``count`` of them), or those of the scheduler at ``address``."""

    measure: Measure
    count: int | None = None
    given: str | None = None
    _cluster: Any = field(default=None, init=False)
    _client: Any = field(default=None, init=False)
    _sent: set[str] = field(default_factory=set, init=False)
    _started: dict[str, tuple[float, str]] = field(default_factory=dict, init=False)

    def __enter__(self) -> Pool:
        try:
            import distributed
            from dask import config
        except ModuleNotFoundError:
            raise SasError(
                "studies on several processes need dask", hint="pip install 'sas-imc[study]', or --workers 0"
            ) from None
        config.set({"distributed.scheduler.allowed-failures": ATTEMPTS, "distributed.admin.log-format": "%(message)s"})
        for name in (
            "distributed.nanny",
            "distributed.scheduler",
            "distributed.worker",
            "distributed.core",
            "distributed.client",
            "tornado.application",
        ):
            logging.getLogger(name).setLevel("CRITICAL")
        if self.given is None:
            self._cluster = distributed.LocalCluster(
                n_workers=self.count or os.cpu_count() or 1, threads_per_worker=1, processes=True, host="127.0.0.1",
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
        self._sent.clear()
        self._client.subscribe_topic(_STARTED, self._note)

    def _note(self, event: Any) -> None:
        _, message = event
        self._started[message["key"]] = (time.monotonic(), message["worker"])

    @property
    def workers(self) -> int:
        """How many there are now."""
        return len(self._client.scheduler_info(n_workers=-1)["workers"])

    @property
    def address(self) -> str:
        """Of the dashboard."""
        return str(self._client.dashboard_link)

    def run(
        self, trials: Sequence[Trial], files: Mapping[str, bytes], limit_s: float
    ) -> Iterator[tuple[Trial, dict[str, Any] | Failure]]:
        """Outcomes, as they come."""
        from distributed import CancelledError, wait

        from sasimc.study.tools import tools_digest

        version = tools_digest()
        waiting: list[tuple[Trial, int]] = [(t, 1) for t in reversed(trials)]
        running: dict[str, _Running] = {}
        name = self._send(files)
        moved = time.monotonic()
        while waiting or running:
            try:
                if running and self._stalled(moved):
                    self._client.cancel([r.future for r in running.values()], force=True)
                    waiting += [(r.trial, r.attempt) for r in running.values()]
                    running.clear()
                    moved = time.monotonic()
                room = 2 * max(1, self.workers) + 2
                while waiting and len(running) < room:
                    trial, attempt = waiting.pop()
                    key = f"{trial.key}-{attempt}-{time.monotonic_ns()}"
                    future = self._client.submit(_task, self.measure, key, dict(trial.spec), name, version, key=key, pure=False)
                    running[key] = _Running(trial, future, attempt)
                with suppress(TimeoutError), self._client.as_current():
                    wait([r.future for r in running.values()], timeout=_POLL_S, return_when="FIRST_COMPLETED")
                for key in [k for k, r in running.items() if r.future.done()]:
                    r, moved = running.pop(key), time.monotonic()
                    try:
                        kind, what = r.future.result(timeout=30)
                    except (CancelledError, OSError, TimeoutError):
                        running[key] = r
                        raise
                    except Exception as exc:  # KilledWorker
                        if r.attempt >= ATTEMPTS:
                            yield r.trial, Failure(f"its worker was lost {r.attempt} times ({type(exc).__name__})")
                        else:
                            waiting.append((r.trial, r.attempt + 1))
                        continue
                    yield r.trial, what if kind == "outcome" else Failure(what)
                yield from self._late(running, limit_s)
            except (CancelledError, OSError, TimeoutError):
                waiting += [(r.trial, r.attempt + 1) for r in running.values()]
                running.clear()
                self._again()
                name = self._send(files)

    def _send(self, files: Mapping[str, bytes]) -> str:
        """Give files to every worker, those that come later included, once; the name under which a trial finds them."""
        from distributed import WorkerPlugin

        digest = hashlib.sha256()
        for key, content in sorted(files.items()):
            digest.update(key.encode() + b"\0" + hashlib.sha256(content).digest())
        name, plugin = f"sasimc-files-{digest.hexdigest()[:16]}", WorkerPlugin()
        vars(plugin).update(name=name, files=dict(files))
        if name not in self._sent:
            self._client.register_plugin(plugin)
            self._sent.add(name)
        return name

    def _stalled(self, since: float) -> bool:
        """Whether nothing was finished for a while, and no worker is at work."""
        return time.monotonic() - since > STALLED_S and not any(self._client.processing().values())

    def _late(self, running: dict[str, _Running], limit_s: float) -> Iterator[tuple[Trial, Failure]]:
        """Trials beyond their time: their worker is started anew."""
        for key in list(running):
            since, worker = self._started.get(key, (None, ""))
            if since is not None and time.monotonic() - since > limit_s:
                r = running.pop(key)
                self._client.cancel([r.future], force=True)
                with suppress(Exception):  # a worker without a nanny: it goes on, nobody waits for it
                    self._client.restart_workers([worker], timeout=30, raise_for_error=False)
                yield r.trial, Failure(f"took more than {limit_s:g} s on {worker}")

    def _again(self) -> None:
        """Find a scheduler that went away."""
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
