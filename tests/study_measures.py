"""What trials of the tests measure on workers: numbers by formula, and faults on demand."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sasimc.isa.errors import SasError
from sasimc.study.description import Description


def by_formula(spec: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    p = {**spec["base"], **spec["point"]}
    a, b = float(p["a"]), float(p.get("b", 0))
    if a == 13:
        return {"infeasible": "13 has no room"}
    extra = sum(files.get("model.onnx", b""))
    return {"metrics": {"cost": a * a + b + spec["seed"] / 8 + extra, "gain": a * b}}


def slow(spec: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    time.sleep(0.05)
    return by_formula(spec, files)


def bad(spec: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """Value of ``a``: 1 hangs, 2 kills its worker, 3 lacks a data set, 4 is a fault of ours; others work. A worker is only killed once if there is ``once``."""
    a = spec["point"]["a"]
    if a == 1:
        time.sleep(3600)
    if a == 2 and (once := spec["base"].get("once")) and not Path(str(once)).exists():
        Path(str(once)).touch()
        os._exit(1)
    if a == 3:
        raise SasError("there is no data set flowers")
    if a == 4:
        raise ZeroDivisionError("by zero")
    return by_formula(spec, files)


def odd(spec: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """Where ``a`` is 11 it takes all memory, once."""
    once = Path(str(spec["base"]["once"]))
    if spec["point"]["a"] == 11 and not once.exists():
        once.touch()
        taken = []
        for _ in range(600):
            taken.append(bytearray(os.urandom(1 << 20) * 20))
            time.sleep(0.1)
    return slow(spec, files)


def empty(n: int) -> Description:
    """So many points."""
    return Description.model_validate({"vary": {"a": {"from": 20, "to": 19 + n, "step": 1}}, "metrics": ["cost", "gain"]})


def files_of(folder: Path) -> dict[str, str]:
    """The kept trials of a study."""
    return {p.name: p.read_text() for p in sorted((folder / "trials").iterdir())}


@contextmanager
def killing(pool: Any, most: int, every_s: tuple[float, float]) -> Iterator[list[int]]:
    """Within, a worker of a pool of this machine is killed now and then, at most so often; the list holds the killed processes."""
    killed: list[int] = []
    stop, rng = threading.Event(), random.Random(1)

    def kill() -> None:
        while len(killed) < most and not stop.wait(rng.uniform(*every_s)):
            nannies = list(pool._cluster.workers.values())  # those that were given up are replaced
            pid = getattr(rng.choice(nannies), "pid", None) if nannies else None
            if pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield killed
    finally:
        stop.set()
        killer.join()
