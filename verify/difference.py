"""What a check of a translation raises: the first operation that differs, with the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.isa.errors import SasError

__all__ = ["FAULT", "Difference", "first_difference"]

Ints = npt.NDArray[np.int64]
Hit = tuple[int, int, tuple[int, ...], int, int]
"""Elements that differ, all elements, the place of the largest difference (sample, row, column, channel), ours, theirs."""

FAULT = "this is a fault of the compiler; please report it with the model. --no-verify writes the program all the same"


class Difference(SasError):
    """The compiler computes something else than it should: a fault of the compiler, not of the model."""

    def __init__(self, ours: str, theirs: str, node: str, kind: str, count: int, total: int, at: tuple[int, ...], a: int, b: int,
                 allowed: str = "exactly") -> None:  # fmt: skip
        self.node, self.kind = node, kind
        place = ", ".join(map(str, at))
        super().__init__(
            f"{ours} differs from {theirs} at {kind} {node!r}: {count} of {total} elements, the most at [{place}]: {a}, not {b} "
            f"(they must agree {allowed})",
            where=node,
            hint=FAULT,
        )


def first_difference(ours: Ints, theirs: Ints, allowed: npt.NDArray[Any] | float = 0) -> Hit | None:
    """None if the arrays agree up to ``allowed`` (broadcast along the channels)."""
    if ours.shape != theirs.shape:
        raise SasError(f"results of shapes {ours.shape} and {theirs.shape} are compared")
    off = np.abs(ours - theirs)
    wrong = off > allowed
    if not wrong.any():
        return None
    at = np.unravel_index(int(np.argmax(np.where(wrong, off, 0))), off.shape)
    return int(wrong.sum()), off.size, tuple(int(i) for i in at), int(ours[at]), int(theirs[at])
