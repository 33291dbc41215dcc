"""Puts this folder on the import path: the tests share ``golden`` (the oracle) and ``models`` (small ONNX networks). Compiles the kernels before a
whole run; gives a browser."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from browser import Browser, chromium

WHOLE = 1000
"""So many tests use nearly every kernel: all are compiled first, by as many processes as there are cores. Few compile what they need."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    if session.testsfailed or session.config.option.collectonly or len(session.items) < WHOLE:
        return
    from sasimc.isa.choices import ENGINES
    from sasimc.runtime.engines import datapath  # noqa: F401  (fills the table of kernels)
    from sasimc.runtime.kernel import every
    from sasimc.runtime.warmup import warm_up

    warm_up(list(dict.fromkeys(code for engine in ENGINES for code in every(engine))))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser without a window; skips where there is none."""
    command = chromium()
    if command is None:
        pytest.skip("Chromium is not installed")
    made = Browser(command)
    yield made
    made.close()
