"""Batches for training and evaluation, decoded ahead of the machine that consumes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from sasimc.datasets.dataset import Dataset
from sasimc.datasets.images import Augment, Preprocess, eval_crop, train_crop
from sasimc.datasets.procedural import shuffled
from sasimc.isa.errors import SasError

__all__ = ["Batch", "Loader"]

Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.int64]]
"""Images [B, S, S, 3], labels [B], positions in the split's list [B]."""

KEPT_BYTES = 1 << 30
"""Cached draws of an ``Augment`` are kept in memory up to this size, else cut anew each time (with the same result)."""


class Loader:
    """Iterates over one split of a data set, an epoch an iteration; the epochs count up from 0.

    ``augment`` says how images are cut and mirrored (``train_crop``); None: the middle is cut. ``shuffle`` (default: only
    ``train``) draws the order anew each epoch. Order and cuts depend on (seed, epoch, position) alone, not on
    ``threads``, which decode up to ``ahead`` batches in advance while the caller computes. The last batch may be
    smaller; ``drop_last`` leaves it out. ``limit`` takes that many images of the (fixed, seeded) order of the split.
    Raises SasError for an unknown or empty split; a damaged image raises SasError, naming the file, when its batch is
    due.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        preprocess: Preprocess,
        batch: int,
        seed: int = 0,
        augment: Augment | None = None,
        threads: int = 1,
        *,
        shuffle: bool | None = None,
        drop_last: bool = False,
        ahead: int = 2,
        limit: int | None = None,
    ) -> None:
        if batch < 1 or threads < 1 or ahead < 1 or (limit is not None and limit < 1):
            raise SasError("batch, threads, read-ahead and image limit must be at least 1")
        if not dataset.items(split):
            raise SasError(f"data set {dataset.name}: the {split!r} split has no images", hint=dataset.note)
        self.dataset = dataset
        self.split = split
        self.preprocess = preprocess
        self.batch = batch
        self.seed = seed
        self.augment = augment
        self.threads = threads
        self.shuffle = split == "train" if shuffle is None else shuffle
        self.drop_last = drop_last
        self.ahead = ahead
        total = len(dataset.items(split))
        self._chosen = np.arange(total)
        if limit is not None and limit < total:
            self._chosen = np.sort(shuffled(total, seed, 0x11)[:limit])
        self._epoch = 0
        self._kept: dict[tuple[int, int], npt.NDArray[np.uint8]] = {}
        draws = augment.cached if augment is not None else 0
        self._keep = 0 < draws * len(self._chosen) * 3 * preprocess.size**2 <= KEPT_BYTES

    @property
    def images(self) -> int:
        """Images an epoch."""
        n = len(self._chosen)
        return n - n % self.batch if self.drop_last else n

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-self.images // self.batch)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self._epoch
        self._epoch += 1
        return self.epoch(epoch)

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Positions in the split's list, in the order in which epoch number ``epoch`` takes them."""
        order = self._chosen
        if self.shuffle:
            order = order[shuffled(len(order), self.seed, epoch, 0x12)]
        return order[: self.images]

    def _image(self, position: int, epoch: int) -> npt.NDArray[np.uint8]:
        if self.augment is None:
            return eval_crop(self._read(position), self.preprocess)
        key = position, self.augment.draw(epoch)
        cut = self._kept.get(key)
        if cut is None:
            cut = train_crop(self._read(position), self.preprocess, self.seed, epoch, position, self.augment)
            if self._keep:
                self._kept[key] = cut
        return cut

    def _read(self, position: int) -> npt.NDArray[np.uint8]:
        return self.dataset.load(self.dataset.items(self.split)[position])

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from number ``first`` on; the same numbers give the same batches. Leaving the loop early stops the threads."""
        order = self.order(epoch)
        items = self.dataset.items(self.split)
        labels = np.asarray([items[i].class_id for i in order], np.int32)
        starts = range(first * self.batch, len(order), self.batch)
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
        queue: deque[list[Future[npt.NDArray[np.uint8]]]] = deque()
        try:
            submitted = 0
            for start in starts:
                while submitted < len(starts) and len(queue) <= self.ahead:
                    part = order[starts[submitted] : starts[submitted] + self.batch]
                    queue.append([pool.submit(self._image, int(i), epoch) for i in part])
                    submitted += 1
                pictures = np.stack([f.result() for f in queue.popleft()])
                yield pictures, labels[start : start + self.batch], order[start : start + self.batch]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
