"""Whole data sets for the trainings of workers: their own where they have it, else what is sent, once to each worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from sasimc.cluster.task import Lacking, kept
from sasimc.datasets.dataset import Dataset, Item, open_dataset
from sasimc.datasets.sent import digest, heading, received, stored
from sasimc.isa.errors import SasError

__all__ = ["content_of", "data_here", "listing"]

SENT_BYTES: Final = 1 << 30
"""A data set is sent to workers when it is not larger, by the first images of each split."""
_LOOKED_AT: Final = 16


def listing(dataset: Dataset) -> str:
    """What tells a data set from others without its images being read."""
    return digest([(repr((dataset.classes, heading(dataset)["items"])), b"")])


def content_of(data: Dataset) -> Callable[[], Any] | None:
    """What gives a data set to a worker that has not got it; None: it is drawn, or too large."""
    some = [item for split, n in data.counts().items() for item in data.items(split)[: min(n, _LOOKED_AT)]]
    if data.drawn[0] or not some:
        return None
    each = sum(_bytes(data, item) for item in some) / len(some)
    if each * sum(data.counts().values()) > SENT_BYTES:
        return None
    head = heading(data)
    return lambda: (head, stored(data, head))


def _bytes(data: Dataset, item: Item) -> int:
    try:
        return len(data.stored(item))
    except SasError:
        return 0


def data_here(spec: Mapping[str, Any], name: str, size: int, source: str = "", expected: str = "") -> Dataset:
    """On a worker: the data set that was sent with ``spec``, or was before; else the one at ``source`` (where a file system is shared) or of that name.
    ``expected``: its :func:`listing`.

    Raises:
        Lacking: there is none.
    """
    key = f"data:{name} {source} {expected} {size}"
    if "content" in spec:
        return kept(key, lambda: received(*spec["content"]))
    return kept(key, lambda: _own(name, size, source, expected))


def _own(name: str, size: int, source: str, expected: str) -> Dataset:
    try:
        found = open_dataset(source if source and Path(source).exists() else name, size=size)
    except SasError as exc:
        raise Lacking(f"data set {name}", f"has no data set {name} ({exc.diagnostic.message})") from None
    if expected and listing(found) != expected:
        raise Lacking(f"data set {name}", f"has another data set {name}")
    return found
