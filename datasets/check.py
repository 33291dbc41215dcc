"""Are all files of a data set images? Headers before anything begins, whole files in the background or, strictly, before as well.

What the headers show leaves the data set; what turns out later is skipped when it is due (``Loader``) and noted in ``Dataset.damaged``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from sasimc.datasets.dataset import Dataset, Item
from sasimc.isa.choices import SPLITS
from sasimc.isa.errors import SasError

__all__ = ["BackgroundCheck", "check_files", "check_headers"]

_THREADS = 4
Watch = Callable[[int, int], None]


def _failures(look: Callable[[Item], object], items: Iterable[Item], watch: Watch | None) -> Iterator[tuple[Item, SasError]]:
    todo = tuple(items)

    def one(item: Item) -> SasError | None:
        try:
            look(item)
        except SasError as e:
            return e
        return None

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="check") as pool:
        for number, (item, error) in enumerate(zip(todo, pool.map(one, todo), strict=True), 1):
            if watch:
                watch(number, len(todo))
            if error is not None:
                yield item, error


def check_headers(dataset: Dataset, strict: bool = False, watch: Watch | None = None) -> Dataset:
    """The data set without files whose header is no image's; they stand in ``damaged``.

    Raises:
        SasError: a class that has none left, or none to train with; with ``strict`` the first damaged file.
    """
    if dataset.synthetic:
        return dataset
    before = {item for split in SPLITS for item in dataset.items(split)}
    bad = dict(_failures(dataset.probe, sorted(before, key=lambda i: i.key), watch))
    for item, error in bad.items():
        dataset.damaged.note(item.key, error, strict)
    if not bad:
        return dataset
    left = {s: tuple(i for i in dataset.items(s) if i not in bad) for s in SPLITS}
    parts = {"training": ("train",), "": SPLITS}
    for what, splits in parts.items():
        lost = {i.class_id for s in splits for i in dataset.items(s)} - {i.class_id for s in splits for i in left[s]}
        if lost:
            name = dataset.classes[min(lost)]
            first = next(e.diagnostic.message for i, e in bad.items() if i.class_id == min(lost))
            raise SasError(
                f"{dataset.name}: no {what} image of class {name!r} can be read ({first})".replace("  ", " "),
                hint="repair or replace its files",
            )
    return replace(dataset, splits=left)


def check_files(dataset: Dataset, splits: Iterable[str], watch: Watch | None = None) -> None:
    """Read every file of the splits to its end. Raises SasError for the first damaged one, and says how many there are."""
    items = [i for s in splits for i in dataset.items(s)]
    bad = list(_failures(dataset.load, items, watch))
    if bad:
        more = f" ({len(bad)} of {len(items)} files are damaged)" if len(bad) > 1 else ""
        raise SasError(
            f"{bad[0][1].diagnostic.message}{more}",
            hint="repair or remove the files, or leave out --strict: they are skipped then",
        )


class BackgroundCheck:
    """Reads the files of splits to their end in a thread of its own, and notes damaged ones; ``stop`` ends it early."""

    def __init__(self, dataset: Dataset, splits: Iterable[str]) -> None:
        self._dataset = dataset
        self._items = [i for s in splits for i in dataset.items(s)]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="check files", daemon=True)
        if not dataset.synthetic:
            self._thread.start()

    def _run(self) -> None:
        for item in self._items:
            if self._stopped.is_set():
                return
            try:
                self._dataset.load(item)
            except SasError as e:
                self._dataset.damaged.note(item.key, e)

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
