"""Addresses of tensors in the buffer: the largest first, each at the lowest place that is free while it lives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["Addresses", "first_fit"]

ALIGN = 4

Span = tuple[int, int]


def first_fit(taken: Iterable[Span], size: int, limit: int) -> int | None:
    """Lowest aligned address with ``size`` free bytes."""
    spot = 0
    for a, b in sorted(taken):
        if spot + size <= a:
            break
        spot = max(spot, -(-b // ALIGN) * ALIGN)
    return spot if spot + size <= limit else None


class Addresses:
    """Where values lie that live from a first to a last region each.

    Args:
        live: first and last region of every value.
        sizes: bytes of every value.
        limit: bytes of the buffer.
    """

    def __init__(self, live: Mapping[str, Span], sizes: Mapping[str, int], limit: int) -> None:
        self.limit = limit
        self.values = sorted(live, key=lambda v: (-sizes[v], v))
        self.sizes = np.array([sizes[v] for v in self.values], np.int64)
        self.first, self.last = np.array([live[v] for v in self.values], np.int64).reshape(-1, 2).T
        self.at = np.full(len(self.values), -1, np.int64)
        self.fits = self._settle(np.ones(len(self.values), bool)) is not None
        """Whether everything fits; if not, some values have no address."""

    def _settle(self, doubtful: npt.NDArray[np.bool_]) -> set[int] | None:
        """Place values again, and those that follow from it: the regions where something moved; None where a value does not fit."""
        moved: set[int] = set()
        i = -1
        while (rest := doubtful[i + 1 :]).any():
            i += 1 + int(rest.argmax())
            beside = (self.first <= self.last[i]) & (self.first[i] <= self.last)
            rivals = np.flatnonzero(beside[:i])
            starts = self.at[rivals]
            spot = first_fit(
                zip(starts.tolist(), (starts + self.sizes[rivals]).tolist(), strict=True), int(self.sizes[i]), self.limit
            )
            if spot is None:
                return None
            if spot != self.at[i]:
                self.at[i] = spot
                moved.update(range(int(self.first[i]), int(self.last[i]) + 1))
                doubtful[i + 1 :] |= beside[i + 1 :]
        return moved

    def joined(self, region: int) -> tuple[Addresses, set[int]] | None:
        """The addresses when a region becomes part of the one before, and the regions where a value moved; None where they do not fit."""
        out = object.__new__(Addresses)
        out.limit, out.values, out.sizes, out.fits = self.limit, self.values, self.sizes, True
        out.first, out.last = self.first - (self.first >= region), self.last - (self.last >= region)
        out.at = self.at.copy()
        begin, end = self.first == region, self.last == region - 1  # these meet now
        doubtful = begin & (np.cumsum(end) > 0) | end & (np.cumsum(begin) > 0)
        moved = out._settle(doubtful)
        return None if moved is None else (out, moved)

    def held(self, region: int) -> list[Span]:
        """Bytes that values hold in a region."""
        here = (self.first <= region) & (region <= self.last)
        return list(zip(self.at[here].tolist(), (self.at + self.sizes)[here].tolist(), strict=True))

    @property
    def peak(self) -> int:
        """The end of the last value."""
        return int((self.at + self.sizes).max(initial=0))

    def by_name(self) -> dict[str, int]:
        return dict(zip(self.values, self.at.tolist(), strict=True))
