"""Batches for training and evaluation, decoded ahead of the machine that consumes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.datasets.arrays import as_picture
from sasimc.datasets.dataset import Dataset
from sasimc.datasets.images import Augment, eval_crop, train_crop
from sasimc.datasets.preprocess import Preprocess
from sasimc.datasets.procedural import shuffled
from sasimc.isa.errors import SasError

__all__ = ["Batch", "Loader"]

Batch = tuple[npt.NDArray[Any], npt.NDArray[np.int32], npt.NDArray[np.int64]]
"""Images [B, S, S, 3] of bytes (or arrays as they are stored, [B, ...]), labels [B], positions in the split's list [B]."""

KEPT_BYTES = 1 << 30
"""Cached draws of an ``Augment`` are kept in memory up to this size, else cut anew each time (with the same result)."""


class Loader:
    """Iterates over one split of a data set, an epoch an iteration; the epochs count up from 0.

    ``augment`` says how images are cut and mirrored (``train_crop``); None: the middle is cut. ``shuffle`` (default: only
    ``train``) draws the order anew each epoch. Order and cuts depend on (seed, epoch, position) alone, not on
    ``threads``, which decode up to ``ahead`` batches in advance while the caller computes. The last batch may be
    smaller; ``drop_last`` leaves it out. ``limit`` takes that many images of the (fixed, seeded) order of the split.
    Arrays that are no bytes of pictures are passed on as they are, as everything is without ``preprocess``. A damaged
    image is left out of its batch (a batch with none left is skipped) and noted in the data set's ``damaged``; ``due``
    is the number of the batch that comes next. Raises SasError for an unknown or empty split, arrays of several shapes.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        preprocess: Preprocess | None,
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
        self.due = 0
        self._kept: dict[tuple[int, int], npt.NDArray[np.uint8]] = {}
        draws = augment.cached if augment is not None and preprocess is not None else 0
        pixels = preprocess.height * preprocess.width if preprocess is not None else 0
        self._keep = 0 < draws * len(self._chosen) * 3 * pixels <= KEPT_BYTES

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

    def _image(self, position: int, epoch: int) -> npt.NDArray[Any]:
        if self.augment is None or self.preprocess is None:
            return self._read(position)
        key = position, self.augment.draw(epoch)
        cut = self._kept.get(key)
        if cut is None:
            cut = self._read(position, epoch)
            if self._keep:
                self._kept[key] = cut
        return cut

    def _read(self, position: int, epoch: int = 0) -> npt.NDArray[Any]:
        image = self.dataset.load(self.dataset.items(self.split)[position])
        picture = as_picture(image) if self.preprocess is not None else None
        if picture is None or self.preprocess is None:
            return image
        if self.augment is None:
            return eval_crop(picture, self.preprocess)
        return train_crop(picture, self.preprocess, self.seed, epoch, position, self.augment)

    def _whole(self, image: Future[npt.NDArray[Any]], position: int) -> npt.NDArray[Any] | None:
        """The image, or None where it is damaged."""
        try:
            return image.result()
        except SasError as e:
            self.dataset.damaged.note(self.dataset.items(self.split)[position].key, e)
            return None

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from number ``first`` on; the same numbers give the same batches. Leaving the loop early stops the threads."""
        order = self.order(epoch)
        items = self.dataset.items(self.split)
        labels = np.asarray([items[i].class_id for i in order], np.int32)
        starts = range(first * self.batch, len(order), self.batch)
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
        queue: deque[list[Future[npt.NDArray[Any]]]] = deque()
        try:
            submitted = 0
            for start in starts:
                while submitted < len(starts) and len(queue) <= self.ahead:
                    part = order[starts[submitted] : starts[submitted] + self.batch]
                    queue.append([pool.submit(self._image, int(i), epoch) for i in part])
                    submitted += 1
                self.due = start // self.batch + 1
                positions = order[start : start + self.batch]
                read = [self._whole(f, int(p)) for f, p in zip(queue.popleft(), positions, strict=True)]
                kept = [i for i, image in enumerate(read) if image is not None]
                pictures = [image for image in read if image is not None]
                if len({p.shape for p in pictures}) > 1:
                    raise SasError(
                        f"{self.dataset.name}: arrays of several shapes, {', '.join(sorted({str(p.shape) for p in pictures}))}"
                    )
                if pictures:
                    yield np.stack(pictures), labels[start : start + self.batch][kept], positions[kept]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
