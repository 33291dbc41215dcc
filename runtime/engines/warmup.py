"""One small call per compiled helper of the engines, with the types of the interpreter's calls (for `sasimc.runtime.warmup`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Final

import numpy as np

from sasimc.runtime.engines import cells as cell_blocks
from sasimc.runtime.engines import helpers, step_kernels, tape_kernels

__all__ = ["ENGINE_MODULES", "engine_calls"]

ENGINE_MODULES: Final[tuple[ModuleType, ...]] = (cell_blocks, helpers, step_kernels, tape_kernels)


def engine_calls() -> list[tuple[str, Callable[[], object]]]:
    """(name, call) of every helper and specialisation."""
    cells, written, wear = np.zeros((1, 2, 2), np.uint8), np.zeros((1, 2, 2), np.bool_), np.zeros((1, 2), np.int64)
    tile = np.array([[0, 0, 0, 0, 0, 1, 1, 0]], np.int64)
    block, words = np.zeros((1, 1), np.uint8), np.zeros(1, np.int32)
    view, geom = (0, 1, 1, 1, 1, 1), (1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1)
    entry, bounds = np.array([[0, 0, 0, 1, 0, 0, 0, 0]], np.int64), np.array([0, 1], np.int64)
    one, sums, counts = np.ones((1, 1), np.int64), np.zeros((1, 1), np.int32), np.zeros(5, np.int64)
    cube = np.zeros((1, 1, 1), np.int32)
    depthwise = (np.zeros((1, 1, 1), np.int16), np.zeros((1, 1), np.int8), sums)

    def empty_tape() -> object:
        steps, control, none = np.zeros((1, 4), np.int64), np.zeros(tape_kernels.CONTROL, np.int64), np.zeros(1, np.int64)
        return tape_kernels.run_tape(np.zeros((1, tape_kernels.WIDTH), np.int64), steps, 1, control, none, none, False)

    def rows() -> object:
        return step_kernels.drive_rows(cells, entry, bounds, 1, one, 1, 8, False, False, False, 1, sums, block, counts)

    return [
        ("read cells", lambda: cell_blocks.gather_block(cells, tile, 0, 0, 1, block)),
        ("write cells", lambda: cell_blocks.scatter_block(cells, written, tile, 0, 0, block)),
        ("row writes", lambda: cell_blocks.count_writes(wear, tile, 0, 1, 0, 1)),
        ("update cells", lambda: cell_blocks.update_block(cells, wear, tile, 0, 0, block.view(np.int8))),
        ("written cells", lambda: cell_blocks.uninitialised(written, tile, 0, 1)),
        ("pool", lambda: helpers.pool_rows(block.reshape(-1), view, False, words, view, geom, 0, 0, 1)),
        (
            "skipped cycles",
            lambda: helpers.driven_cycles(block, tile, bounds[:1], bounds[:1], 1, 1, 0, 1),
        ),
        ("depth-wise gradient", lambda: helpers.gradient_depthwise_sums(*depthwise)),
        ("depth-wise gradient, bit-serial", lambda: helpers.gradient_depthwise_bits(*depthwise)),
        ("row steps", rows),
        (
            "column steps",
            lambda: step_kernels.drive_columns(cells, entry, bounds, 1, one, 1, sums, block, counts),
        ),
        ("tap steps", lambda: step_kernels.scatter_taps(cube, geom, 0, 0, 1, 1, cube)),
        ("tap steps transposed", lambda: step_kernels.scatter_taps_transposed(cube, geom, 0, cube)),
        *((f"tape: {name}", partial(tape_kernels.handler, kind)) for kind, name in enumerate(tape_kernels.NAMES)),
        ("tape", empty_tape),
    ]
