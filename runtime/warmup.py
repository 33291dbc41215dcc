"""Compile every kernel once, or load it from numba's cache, before the first image, so that the wait can be announced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sasimc.runtime import kernel
from sasimc.runtime.engines import step_kernels
from sasimc.runtime.kernels import (
    arithmetic,
    cells,
    dense,
    depthwise,
    movement,
    patches,
    periphery,
    products,
    rows,
    run,
    training,
)

__all__ = ["cold", "warm_up"]

_MODULES = (
    kernel,
    arithmetic,
    cells,
    dense,
    depthwise,
    movement,
    patches,
    periphery,
    products,
    rows,
    run,
    training,
    step_kernels,
)


def _dispatchers() -> Iterator[Any]:
    for module in _MODULES:
        for value in vars(module).values():
            if hasattr(value, "py_func") and value.py_func.__module__ == module.__name__:
                yield value


def cold(engine: str = "fused") -> bool:
    """True if numba's cache holds no compiled kernels, so that `warm_up` will take long (an estimate, for a message)."""
    try:
        product: Any = dense.bitserial_range if engine == "bitserial" else dense.fused_range
        return not product._cache._cache_file._load_index()  # no public way to ask
    except Exception:
        return True


def _calls(engine: str) -> list[tuple[str, Callable[[], object]]]:
    """What compiles or loads the kernels of an engine, and the functions that the interpreter calls itself."""
    block, tile, flags = (
        np.zeros((1, 2, 2), np.uint8),
        np.array([[0, 0, 0, 0, 0, 1, 1, 0]], np.int64),
        np.zeros((1, 2, 2), np.bool_),
    )
    legs, crew = np.zeros((0, run.LEG + 1), np.int64), np.zeros((2, run.CREW), np.int64)
    control, none = np.zeros(run.HEAD, np.int64), np.zeros(1, np.int64)
    return [
        ("plan", lambda: run.run_plan(legs, control, crew, none, none, False)),
        ("read cells", lambda: cells.gather_block(block, tile, 0, 0, 1, block[0])),
        ("write cells", lambda: cells.scatter_block(block, flags, tile, 0, 0, block[0, :1, :1].copy())),
        ("written cells", lambda: cells.uninitialised(flags, tile, 0, 1)),
        *kernel.compiled(engine),
    ]


def warm_up(progress: Callable[[str, int, int], None] | None = None, engine: str = "fused") -> tuple[int, int]:
    """Compile or load every kernel of an engine. progress(name, number, count) is called before each.

    Returns (kernels compiled now, kernels loaded from the cache). The cache lies where numba puts it (NUMBA_CACHE_DIR).
    """
    calls = _calls(engine)
    for number, (name, call) in enumerate(calls):
        if progress is not None:
            progress(name, number, len(calls))
        call()
    misses = hits = 0
    for dispatcher in _dispatchers():
        misses += sum(dispatcher.stats.cache_misses.values())
        hits += sum(dispatcher.stats.cache_hits.values())
    return misses, hits
