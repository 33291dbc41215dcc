"""Training the float reference on the images, order, cuts and steps that the device gets (``runtime.trainer`` for the device).

Adam, cross-entropy with label smoothing, one cosine from the recipe's rates to zero, a step a batch. Modules join when those of the device would, by
the level of this training's own loss, and their rate then rises from zero over the recipe's ``reference.warm_up``. What the frozen layers in
front of the first trainable ones compute is kept where the recipe repeats its cuts (``augment.cached``).
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

from sasimc.datasets.dataset import Dataset
from sasimc.datasets.loader import Loader
from sasimc.reference.float_reference import FloatReference
from sasimc.training.evaluation import Progress
from sasimc.training.keeping import Best, standard_error
from sasimc.training.level import UNIT, Level
from sasimc.training.recipe import Recipe
from sasimc.training.trainer import Epoch, Training

__all__ = ["accuracy", "train_float"]

KEPT_BYTES = 1 << 30
"""Memory for what the frozen first layers computed."""
EVAL_BATCH = 32
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # glibc: malloc.h

Watch = Callable[[Progress], None]


def _reuse_memory() -> None:
    """Let glibc keep the memory of large tensors instead of returning it to the system after every operation (twice as fast)."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        for option, size in ((_M_TRIM_THRESHOLD, 1 << 30), (_M_TOP_PAD, 64 << 20), (_M_MMAP_THRESHOLD, 1 << 30)):
            libc.mallopt(option, size)
    except (OSError, AttributeError):
        pass  # another C library: only slower


class _Prefix:
    """The frontier of images by key, computed once as long as memory lasts."""

    def __init__(self, network: FloatReference, keep: bool) -> None:
        self._twin, self._keep, self._left = network, keep, KEPT_BYTES
        self._kept: dict[tuple[int, int], tuple[Tensor, ...]] = {}

    def __call__(self, images: npt.NDArray[np.uint8], positions: npt.NDArray[np.int64], draw: int) -> tuple[Tensor, ...]:
        """Frontier of uint8 RGB images [B, S, S, 3]; ``positions`` in the split and ``draw`` tell them apart."""
        keys = [(int(p), draw) for p in positions]
        missing = [n for n, key in enumerate(keys) if key not in self._kept]
        fresh: dict[int, tuple[Tensor, ...]] = {}
        if missing:
            parts = self._twin.prefix(self._twin.normalised(images[missing]))
            fresh = {n: tuple(p[row : row + 1].clone() for p in parts) for row, n in enumerate(missing)}
        for n, values in fresh.items():
            size = sum(v.numel() * v.element_size() for v in values)
            if self._keep and size <= self._left:
                self._kept[keys[n]], self._left = values, self._left - size
        rows = [fresh[n] if n in fresh else self._kept[key] for n, key in enumerate(keys)]
        return tuple(torch.cat(column) for column in zip(*rows, strict=True))


def accuracy(
    network: FloatReference, dataset: Dataset, split: str, watch: Watch | None = None, limit: int | None = None,
    marks: dict[int, bool] | None = None,
) -> float:  # fmt: skip
    """Top-1 accuracy in percent on a split; ``marks`` gets position in the split -> whether it is right."""
    loader = Loader(dataset, split, network.preprocess, EVAL_BATCH, limit=limit)
    return _accuracy(network, loader, _Prefix(network, False), watch, marks)


def _accuracy(
    network: FloatReference, loader: Loader, prefix: _Prefix, watch: Watch | None, marks: dict[int, bool] | None = None
) -> float:
    network.eval()
    right = seen = 0
    with torch.no_grad():
        for images, labels, positions in loader.epoch(0):
            hits = network.rest(prefix(images, positions, 0)).argmax(1).numpy() == labels
            if marks is not None:
                marks.update(zip(positions.tolist(), hits.tolist(), strict=True))
            right, seen = right + int(hits.sum()), seen + len(labels)
            if watch:
                watch(Progress(loader.split, seen, loader.images, top1=100 * right / seen))
    return 100.0 * right / max(1, seen)


def train_float(
    network: FloatReference,
    dataset: Dataset,
    recipe: Recipe,
    watch: Watch | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Training:
    """Train every parameter of the network; it ends with the weights that the recipe keeps (``keep``)."""
    _reuse_memory()
    loader = Loader(dataset, "train", network.preprocess, recipe.batch, recipe.seed, recipe.augment, limit=recipe.limit)
    prefix = _Prefix(network, recipe.augment.cached > 0)
    checks = Loader(dataset, "val", network.preprocess, EVAL_BATCH, limit=recipe.limit) if dataset.items("val") else None
    checked = _Prefix(network, True)
    head, rep = network.groups()
    rates = recipe.reference
    groups = [{"params": head, "lr": rates.lr_head if rep else rates.lr_classifier}]
    if rep:
        groups.append({"params": rep, "lr": rates.lr_rep})
    optimiser = torch.optim.Adam(groups)
    initial, total, result = [g["lr"] for g in optimiser.param_groups], len(loader) * recipe.epochs, Training()
    level, step, learned = Level.of(len(dataset.classes), recipe.modules), 0, 0  # learned: steps since the modules joined
    warm = max(1.0, rates.warm_up * total)
    best, waited, kept = Best(), 0, dict[str, Tensor]()
    for number in range(recipe.epochs):
        start, losses, right, seen = time.perf_counter(), 0.0, 0, 0
        network.train()
        for images, labels, positions in loader.epoch(number):
            learns = level.learns(step, total, recipe.modules)
            learned += learns
            for p in rep:
                p.requires_grad_(learns)
            cosine = (1 + math.cos(math.pi * step / total)) / 2
            for group, rate, warmed in zip(optimiser.param_groups, initial, (1.0, min(1.0, learned / warm)), strict=False):
                group["lr"] = rate * cosine * warmed
            logits = network.rest(prefix(images, positions, recipe.augment.draw(number)))
            y = torch.from_numpy(labels).long()
            loss = F.cross_entropy(logits, y, label_smoothing=recipe.compile.eps)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            plain = float(F.cross_entropy(logits.detach(), y))  # as the device's: without smoothing
            step, level = step + 1, level.after(round(plain * UNIT / math.log(2)), recipe.modules)
            losses += float(loss.detach()) * len(labels)
            right, seen = right + int((logits.argmax(1) == y).sum()), seen + len(labels)
            if watch:
                what = f"epoch {number + 1}/{recipe.epochs}"
                watch(Progress(what, seen, loader.images, losses / seen, 100 * right / seen))
        result.images += seen
        val = _accuracy(network, checks, checked, watch) if checks is not None else float("nan")
        epoch = Epoch(number, losses / max(1, seen), 100 * right / max(1, seen), val, 0, time.perf_counter() - start)
        result.epochs.append(epoch)
        if on_epoch:
            on_epoch(epoch)
        waited = waited + 1 if best.result >= val else 0
        if best.takes(recipe.keep, val, standard_error(val, checks.images if checks else 0)):
            kept, result.best_epoch = {k: v.clone() for k, v in network.state_dict().items()}, number
        if recipe.patience and waited >= recipe.patience:
            break
    network.load_state_dict(kept)
    return result
