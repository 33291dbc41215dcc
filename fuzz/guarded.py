"""Memory that ends, or begins, at a page nobody may touch: a kernel that leaves it ends the process instead of going unseen."""

from __future__ import annotations

import ctypes
import itertools
import mmap
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sasimc.runtime import state

__all__ = ["guard_state"]

_PAGE: Final = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_turn = itertools.count()


def zeros(shape: Any, dtype: Any = np.float64) -> npt.NDArray[Any]:
    """As ``numpy.zeros``, between two forbidden pages; in turn the last and the first 64 bytes touch one."""
    count = int(np.prod(shape, dtype=object))
    size = count * np.dtype(dtype).itemsize
    if size < 0 or size > 1 << 32:
        raise MemoryError
    inner = max(1, -(-size // _PAGE)) * _PAGE
    memory = mmap.mmap(-1, inner + 2 * _PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (address, address + _PAGE + inner):
        if _libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(_PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = _PAGE if next(_turn) % 2 else _PAGE + inner - -(-size // 64) * 64
    return np.frombuffer(memory, dtype, count, offset).reshape(shape)


class _Numpy:
    """numpy with other zeros."""

    zeros = staticmethod(zeros)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def guard_state() -> None:
    """Let every machine's memories be guarded from now on."""
    state.np = _Numpy()  # type: ignore[assignment]
