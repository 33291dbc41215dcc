"""Schedulers and workers in processes of their own, for tests and benchmarks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["free_port", "processes", "wait_for"]


@contextmanager
def processes() -> Iterator[Any]:
    """Starts parts of a cluster, ends them all."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: object, **env: str) -> subprocess.Popen[bytes]:
        quiet = subprocess.DEVNULL
        command = [sys.executable, "-m", "dask", *map(str, words)]
        started.append(subprocess.Popen(command, env={**os.environ, **env}, stdout=quiet, stderr=quiet))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port: int) -> None:
    for _ in range(600):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"no scheduler at port {port}")
