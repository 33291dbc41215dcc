"""What learning one task does to others: backward transfer, forgetting and forward transfer, as the field defines them.

R[i, j] is the accuracy on task j after task i was learned, tasks in the order of learning; b[j] the accuracy on task j of the weights that nothing
has trained. Sources: Lopez-Paz and Ranzato 2017 (Gradient Episodic Memory, GEM): accuracy, backward and forward transfer at the end of the sequence.
Chaudhry et al. 2018 (Riemannian Walk): forgetting. Diaz-Rodriguez et al. 2018 (Don't forget, there is more than forgetting): means over all
moments of the sequence, and remembering.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.isa.errors import SasError

__all__ = ["Transfer", "transfer"]


@dataclass(frozen=True)
class Transfer:
    """Figures in percent or points; None: an accuracy that it needs was not measured, or it needs two tasks.

    ``accuracy``: mean of the last row. ``backward``: mean of R[T, j] - R[j, j] over earlier tasks. ``forgetting``: mean of the best since a task was
    learned, minus R[T, j] (the best is taken before the last task). ``forward``: mean of R[j - 1, j] - b[j] over all tasks but the first.
    ``all_accuracy``, ``all_backward``, ``all_forward``: means over the sequence, of R[i, j] at i >= j, of R[i, j] - R[j, j] at i > j, and of R[i, j] at
    i < j. ``remembering``: 100 less what ``all_backward`` falls below 0.
    """

    accuracy: float | None
    backward: float | None
    forgetting: float | None
    forward: float | None
    all_accuracy: float | None
    all_backward: float | None
    all_forward: float | None
    remembering: float | None


def transfer(matrix: Sequence[Sequence[float | None]], initial: Sequence[float | None] = ()) -> Transfer:
    """The figures of ``matrix`` R [tasks, tasks] and ``initial`` b [tasks], percent; None where nothing was measured. ``initial`` may be left out.

    Raises:
        SasError: R is not square, or b is of another length.
    """
    tasks = len(matrix)
    if any(len(row) != tasks for row in matrix) or len(initial) not in (0, tasks):
        raise SasError("accuracies of a sequence are a square matrix, with an initial one for each task")
    r = np.array(matrix, np.float64).reshape(tasks, tasks)  # None becomes NaN
    b = np.array(initial or [None] * tasks, np.float64)
    own, last = r.diagonal(), r[-1] if tasks else b
    later, earlier = np.tril_indices(tasks, -1), np.triu_indices(tasks, 1)
    best = np.array([r[j:-1, j].max() for j in range(tasks - 1)])
    back = _mean(r[later] - own[later[1]])
    return Transfer(
        accuracy=_mean(last),
        backward=_mean((last - own)[:-1]),
        forgetting=_mean(best - last[:-1]),
        forward=_mean(r.diagonal(1) - b[1:] if tasks else b),
        all_accuracy=_mean(r[np.tril_indices(tasks)]),
        all_backward=back,
        all_forward=_mean(r[earlier]),
        remembering=None if back is None else 100 + min(back, 0.0),
    )


def _mean(values: npt.NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) and not np.isnan(values).any() else None
