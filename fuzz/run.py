"""Fuzz everything that reads a user's file, each kind in a process of its own (see `harness` for what a find is).

    python fuzz/run.py [--seconds 10] [--cases N] [--seed 0] [--only KIND ...]

Cases are led by coverage where `atheris` is installed. Finds are written to ``fuzz/finds``, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import re
import resource
import sys
import tempfile
import time
import traceback
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
FINDS = HERE / "finds"
_MODULES = ("kinds_data", "kinds_descriptions", "kinds_programs", "kinds_models", "kinds_tools")
_COMPILED = ("runtime", "isa/instructions")
"""Folders with functions that numba compiles: not to be rewritten."""


@cache
def _kinds() -> dict[str, Any]:
    """All kinds; their modules are imported here, under the eyes of atheris where it is."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    try:
        import atheris  # type: ignore[import-not-found]
    except ImportError:
        watched: Any = nullcontext()
    else:
        import numba  # noqa: F401  (not rewritten)
        import onnx  # noqa: F401

        root = Path(importlib.import_module("sasimc").__file__ or "").parent
        left = [str(p.relative_to(root).with_suffix("")) for folder in _COMPILED for p in (root / folder).rglob("*.py")]
        left = [f"sasimc.{name.removesuffix('/__init__').replace('/', '.')}" for name in left]
        watched = atheris.instrument_imports(include=["sasimc"], exclude=left)
    with watched:
        found = [importlib.import_module(name).KINDS for name in _MODULES]
    return {name: kind for kinds in found for name, kind in kinds.items()}


def child(name: str, seconds: float, cases: int, seed: int, folder: Path) -> None:
    """Run the cases of one kind."""
    tempfile.tempdir = str(folder)
    harness = importlib.import_module("harness")
    run = harness.Cases(name, _kinds()[name], folder / "tally", FINDS)
    resource.setrlimit(resource.RLIMIT_AS, (harness.MEMORY, harness.MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if "atheris" in sys.modules:
        FINDS.mkdir(exist_ok=True)
        options = (f"-timeout={10 * harness.SECONDS_A_CASE}", f"-rss_limit_mb={harness.RESIDENT}", f"-seed={seed + 1}", f"-max_len={1 << 20}",
                   f"-artifact_prefix={FINDS}/{name.replace(' ', '_')}-", "-len_control=0", "-verbosity=0")  # fmt: skip
        run.led(folder / "corpus", options, seconds, cases)
    end, rng = time.monotonic() + seconds, random.Random(seed)
    for number in range(cases):
        if time.monotonic() > end:
            break
        run.one(run.mutate(rng.choice(run.samples), seed * 2**32 + number))


def _forked(name: str, seconds: float, cases: int, seed: int, folder: Path) -> int:
    """`child` in a process of its own, what it says in a file; returns its exit status (negative: the signal)."""
    sys.stdout.flush()
    process = os.fork()
    if not process:
        status = 70
        try:
            said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT)
            os.dup2(said, 1)
            os.dup2(said, 2)
            child(name, seconds, cases, seed, folder)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def parent(name: str, seconds: float, cases: int, seed: int) -> tuple[list[int], str]:
    """Counts (`harness.TALLY`) of one kind, and what its processes said of finds; begun again where a case ends the process."""
    total, told, end = np.zeros(4, np.int64), "", time.monotonic() + seconds
    for attempt in range(5):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "corpus").mkdir()
            np.zeros(4, np.int64).tofile(folder / "tally")
            left = end - time.monotonic() if attempt else seconds
            status = _forked(name, left, cases - int(total[0]), seed + attempt, folder)
            total += np.fromfile(folder / "tally", np.int64)
            said = (folder / "said").read_text(encoding="utf-8", errors="replace")
        told += "".join(text[:3000] for text in re.findall(r"^FIND .*?(?=^FIND |\Z)", said, re.MULTILINE | re.DOTALL))
        if not status:
            break
        total[3] += 1
        told += f"FIND {name}: the process ends with {status}\n" + "\n".join(said.splitlines()[-25:])[-2500:] + "\n"
        if time.monotonic() > end or not total[0] or total[0] >= cases:
            break
    return total.tolist(), told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each kind")
    parser.add_argument("--cases", type=int, default=1 << 30, help="at most so many of a kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="one kind; may be given more than once")
    o = parser.parse_args()
    finds = cases = 0
    kinds = _kinds()  # imported once: the processes of the cases are forks
    for name in o.only or kinds:
        start = time.monotonic()
        (done, read, refused, found), told = parent(name, o.seconds, o.cases, o.seed)
        print(
            f"{name}: {done} cases, {read} read, {refused} refused, {found} finds, {time.monotonic() - start:.0f} s", flush=True
        )
        print(told, end="", flush=True)
        finds, cases = finds + found, cases + done
    print(f"{cases} cases, {finds} finds")
    return 1 if finds or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
