"""Puts this folder on the import path: the tests share ``golden`` (the oracle) and ``models`` (small ONNX networks); and gives a browser."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from browser import Browser, chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser without a window; skips where there is none."""
    command = chromium()
    if command is None:
        pytest.skip("Chromium is not installed")
    made = Browser(command)
    yield made
    made.close()
