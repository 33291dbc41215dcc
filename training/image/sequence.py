"""The accuracies that an image keeps of its tasks, as the matrix of a sequence (:mod:`sasimc.training.transfer`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sasimc.training.image.image import Measured, Task

__all__ = ["Sequence", "sequence"]


@dataclass(frozen=True)
class Sequence:
    """``matrix`` [i][j]: top-1 (percent) of task j after task i was learned, None where that was not measured; ``names`` in the order of learning."""

    names: tuple[str, ...]
    matrix: tuple[tuple[float | None, ...], ...]


def sequence(tasks: Iterable[Task], split: str = "test") -> Sequence:
    """The learned tasks that have classes. Only accuracies on the images on which a task was evaluated when it was learned stand in its column."""
    known = [t for t in tasks if t.learned and t.classes]
    columns = [_column(t, split) for t in known]
    return Sequence(tuple(t.name for t in known), tuple(tuple(c.get(t.name) for c in columns) for t in known))


def _column(task: Task, split: str) -> dict[str, float]:
    """Top-1 by the task learned last."""
    of_split = [m for m in task.measured if m.split == split]
    own = max((m for m in of_split if m.after == task.name), key=lambda m: m.images, default=None)
    return {m.after: m.top1 for m in of_split if own is None or _images(m) == _images(own)}


def _images(m: Measured) -> tuple[str, int]:
    return m.digest, m.images
