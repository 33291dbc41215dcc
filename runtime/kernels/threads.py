"""Sharing one kernel call among threads: as many as `numba.set_num_threads` allows, the caller's own among them.

A small pool of ours instead of numba's parallel loops: the kernels release the interpreter lock, may be called from several
Python threads at once, need no second compilation (numba compiles a parallel loop once more, for seconds), and the exact
integer results do not depend on the shares.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba

__all__ = ["run_shares", "thread_count"]

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process (a forked child needs its own) and size


def thread_count() -> int:
    """Threads a kernel may use now (numba.get_num_threads)."""
    return numba.get_num_threads()


def run_shares(work: Callable[[int, int], Any], start: int, stop: int, step: int = 1) -> int:
    """Call work(a, b) on disjoint ranges that cover start..stop, in parallel; returns the OR of the results.

    The ranges begin at multiples of `step` from start.
    """
    threads = thread_count()
    share = -(-(stop - start) // (threads * step)) * step
    ranges = [(a, min(stop, a + share)) for a in range(start, stop, share)] if stop > start else []
    if len(ranges) < 2:
        return int(work(start, stop))
    key = (os.getpid(), threads - 1)
    pool = _pools.get(key)
    if pool is None:
        pool = _pools.setdefault(key, ThreadPoolExecutor(threads - 1, "kernel"))
    futures = [pool.submit(work, a, b) for a, b in ranges[1:]]
    result = int(work(*ranges[0]))
    for future, own in zip(reversed(futures), reversed(ranges), strict=False):
        # a share that no thread has begun (waking one takes up to 60 us, more on a busy machine) is done here
        result |= int(work(*own)) if future.cancel() else int(future.result())
    return result
