"""Compile every kernel once, or load it from numba's cache, before the first image, so that the wait can be announced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sasimc.runtime.engines.warmup import ENGINE_MODULES, engine_calls
from sasimc.runtime.kernels import dense, depthwise, patches, periphery, train

__all__ = ["cold", "warm_up"]

_MODULES = (dense, depthwise, patches, periphery, train, *ENGINE_MODULES)


def _dispatchers() -> Iterator[Any]:
    for module in _MODULES:
        for name, value in vars(module).items():
            if hasattr(value, "py_func") and value.py_func.__module__ == module.__name__:
                yield name, value


def cold() -> bool:
    """True if numba's cache holds no compiled kernels, so that `warm_up` will take long (an estimate, for a message)."""
    try:
        kernel: Any = dense.bitserial_range
        return not kernel._cache._cache_file._load_index()  # no public way to ask
    except Exception:
        return True


def _calls() -> list[tuple[str, Callable[[], object]]]:
    """One small call per kernel and specialisation, with the types of the interpreter's calls."""
    k, n = 33, 17
    w = np.ones((k, n), np.int8)
    x = np.ones((2, k), np.uint8)
    buf = np.zeros(4096, np.uint8)
    words, bytes_ = np.zeros(4096, np.int32), buf.view(np.int8)
    vector = np.ones(1, np.int64)
    planes, pairs = dense.pack_weights(w), dense.prepare_fused(w)
    row = dense.make_view(0, 2, n, 1)
    view = dense.make_view(0, 2, 1, 2)
    one = depthwise.make_geom(1, 1, 1, 1, 1, 1, 0, 0, 2, 2, 2, 2)
    taps = np.ones((1, 1, 1), np.int8)
    mask = (0, 1, 1, 2, 2, 1)
    shift = np.full(1, 8, np.int64)
    half = shift * 0
    calls: list[tuple[str, Callable[[], object]]] = [
        ("dense bit-serial", lambda: dense.bitserial_range(x, planes, False, words, row, 0, 0, n, 0)),
        ("dense fused", lambda: dense.fused_range(x, pairs, False, words, row, 0, 0, n, 0)),
        ("accumulate", lambda: dense.accumulate(words, row, np.zeros((2, n), np.int32), 0, 0)),
        ("row activation", lambda: dense.tile_step(3, 8, False, buf[:n], words[:n])),
        ("column activation", lambda: dense.column_step(3, 8, True, np.zeros((8, n), np.uint8), words[:n])),
        ("depth-wise row activation", lambda: depthwise.dw_row_step(3, 8, 0, buf[:n], words[:n])),
        ("depth-wise", lambda: depthwise.dw_band(0, buf, view, 0, taps, one, 0, 0, 2, words, view, 0, 2)),
        ("depth-wise transposed", lambda: depthwise.dw_t_band(0, buf, view, taps, one, 0, 2, words, view, 0, 2)),
        ("gather", lambda: patches.gather_pixels(buf, view, one, 0, 0, 0, 4, np.empty(19, np.uint8))),
        ("scatter", lambda: patches.scatter_patches(words, view, np.zeros((4, 1), np.int32), one, 0, 2)),
        ("one bits", lambda: patches.popcount_sum(buf, view, np.ones(2, np.int64), np.ones(2, np.int64), 0, 2)),
        (
            "requantise",
            lambda: periphery.requant_pixels(words, view, buf, view, half, vector, shift, half, 0, 0, 9, 0, 0, 4, True),
        ),
        ("residual add", lambda: periphery.add_q(buf, view, False, view, False, view, 0, 1, 0, 1, 1, 0, 0, 9, 0, 2)),
        ("average pool", lambda: periphery.avgpool_sum(buf, view, False, words, view, one, 0, 0, 2)),
        ("average pool transposed", lambda: periphery.avgpool_t(buf, view, words, view, one, 0, 2)),
        ("max pool", lambda: periphery.maxpool(buf, view, False, view, one, 0, 2)),
        ("max pool transposed", lambda: periphery.maxpool_t(buf, view, False, view, words, view, one, 0, 2)),
        ("resize linear", lambda: periphery.upsample_linear(buf, view, False, words, dense.make_view(0, 4, 1, 4), 2, 2, 0, 4)),
        (
            "resize linear transposed",
            lambda: periphery.upsample_linear_t(buf, dense.make_view(0, 4, 1, 4), words, view, 2, 2, 0, 4),
        ),
        ("resize nearest", lambda: periphery.upsample_nearest(buf, view, False, words, view, 2, 2, 2, 2, 0, 2)),
        ("resize nearest transposed", lambda: periphery.upsample_nearest_t(buf, view, words, view, 2, 2, 2, 2, 0, 2)),
        ("range", lambda: train.range_bits(words, view, 0, 2)),
        ("shift to 8 bits", lambda: train.shift8(words, view, buf, view, 3, 0, 2)),
        ("shift to 8 bits, carried", lambda: train.shift8_carried(words, view, buf, view, 3, 0, 2)),
        ("mask", lambda: train.make_mask(buf, view, False, 0, 9, True, True, mask, 0, 2)),
        ("error mask", lambda: train.escale(words, view, words, view, buf, mask, train.NO_SCALE, 0, 2)),
        ("error mask of bytes", lambda: train.escale(bytes_, view, words, view, buf, mask, train.NO_SCALE, 0, 2)),
        ("error scale", lambda: train.escale(words, view, words, view, buf, train.NO_MASK, vector, 0, 2)),
        ("error scale of bytes", lambda: train.escale(bytes_, view, words, view, buf, train.NO_MASK, vector, 0, 2)),
        ("aligned add", lambda: train.aligned_add(bytes_, view, 0, bytes_, view, 1, words, view, 0, 2)),
        ("rounding", lambda: train.psr(words[:8], 3)),
        ("rounding to 16 bits", lambda: train.psr(words[:8], 3, train.STEP_LIMIT)),
        ("velocity", lambda: train.velocity(words[:8], words[:8], 3)),
        ("carry", lambda: train.carry(bytes_[:8], words[:8])),
        ("update", lambda: train.update(buf[:8].view(np.int8), buf[:8].view(np.int8))),
    ]
    return calls + engine_calls()


def warm_up(progress: Callable[[str, int, int], None] | None = None) -> tuple[int, int]:
    """Run every kernel once. progress(name, number, count) is called before each.

    Returns (kernels compiled now, kernels loaded from the cache). The cache lies where numba puts it (NUMBA_CACHE_DIR).
    """
    calls = _calls()
    for number, (name, call) in enumerate(calls):
        if progress is not None:
            progress(name, number, len(calls))
        call()
    misses = hits = 0
    for _, dispatcher in _dispatchers():
        misses += sum(dispatcher.stats.cache_misses.values())
        hits += sum(dispatcher.stats.cache_hits.values())
    return misses, hits
