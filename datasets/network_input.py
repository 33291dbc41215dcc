"""What a network takes, and how pictures and arrays become it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.datasets.arrays import as_input, is_picture_shape
from sasimc.datasets.images import eval_crop, grey
from sasimc.datasets.preprocess import Preprocess, guess, quantise
from sasimc.isa.errors import SasError

__all__ = ["PREPROCESS", "SOURCE", "NetworkInput"]

PREPROCESS = "note.sasimc.preprocess"
SOURCE = "note.sasimc.preprocess.source"
"""Names in a program's meta data: the preprocessing, and where it is from when that is not the model's own entry ``sasimc.preprocess``."""


@dataclass(frozen=True)
class NetworkInput:
    """``shape`` [H, W, C], integers of ``dtype`` with ``scale`` and ``zero``; ``preprocess``: what the host does to pictures (None: the network
    takes none); ``source``: where that is from (``metadata``, an exporter's or option's name, or ``guess``), ``why``: reasons of a guess."""

    shape: tuple[int, int, int]
    dtype: str
    scale: float
    zero: int
    preprocess: Preprocess | None
    source: str
    why: str = ""

    @staticmethod
    def of(shape: tuple[int, int, int], dtype: str, scale: float, zero: int, meta: Mapping[str, str]) -> NetworkInput:
        """From a program's input and its meta data.

        Raises:
            SasError: a preprocessing that is none, or is for another size.
        """
        height, width, channels = shape
        if not (math.isfinite(scale) and scale > 0):
            raise SasError(f"input quantisation: scale {scale!r}", hint="a scale above 0")
        if not is_picture_shape(shape):
            return NetworkInput(shape, dtype, scale, zero, None, "")
        if note := meta.get(PREPROCESS, ""):
            given = Preprocess.from_json(note)
            if (given.height, given.width) != (height, width):
                raise SasError(
                    f"the preprocessing is for {given.height} x {given.width} pixels, the network takes {height} x {width}",
                    hint=f"'size' must be {height if height == width else [height, width]}",
                )
            return NetworkInput(shape, dtype, scale, zero, given, meta.get(SOURCE, "metadata"))
        chosen, why = guess(height, width, channels, scale, zero, dtype)
        return NetworkInput(shape, dtype, scale, zero, chosen, "guess", why)

    def words(self, arrays: bool) -> str:
        """For the first line of a run; ``arrays``: the data are no pictures."""
        if self.preprocess is None or arrays:
            sides = " x ".join(str(n) for n in self.shape if n != 1) or "1"
            return f"input: arrays of {sides}, real values quantised by the host"
        if self.source == "guess":
            return f"preprocessing guessed: {self.preprocess} ({self.why}; --preprocess sets it)"
        return f"preprocessing from {self.source}: {self.preprocess}"

    def __str__(self) -> str:
        return self.words(False)

    def summary(self) -> dict[str, Any]:
        """For a report."""
        p = self.preprocess
        fields = p and {"mean": list(p.mean), "std": list(p.std), "size": [p.height, p.width], "resize": p.resize, "crop": p.crop}
        made = {**fields, "interpolation": p.interpolation} if p and fields else None
        return {
            "preprocess": made,
            "source": self.source,
            "why": self.why,
            "shape": list(self.shape),
            "scale": self.scale,
            "zero": self.zero,
        }

    def integers(self, x: npt.NDArray[Any]) -> npt.NDArray[np.int8 | np.uint8]:
        """Pictures (bytes [H, W, 3] or [n, H, W, 3] of any size; grey ones [..., 1]) or arrays (``as_input``) as [n, H, W, C].

        Raises:
            SasError: what is neither.
        """
        if (
            x.dtype == np.uint8 != self.dtype
            and self.preprocess
            and x.ndim in (3, 4)
            and x.shape[-1] not in (1, 3)
            and x.shape[-3] in (1, 3)
        ):
            order = "0, 2, 3, 1" if x.ndim == 4 else "1, 2, 0"
            raise SasError(
                f"pictures {list(x.shape)} have their channels first", hint=f"channels last: images.transpose({order})"
            )
        if self.preprocess is None or x.dtype != np.uint8 or x.ndim not in (3, 4) or x.shape[-1] not in (1, 3):
            return as_input(x, self.shape, self.dtype, self.scale, self.zero)
        images = x[None] if x.ndim == 3 else x
        if images.shape[-1] == 1:
            images = np.repeat(images, 3, axis=3)
        if images.shape[1:3] != self.shape[:2]:
            images = np.stack([eval_crop(image, self.preprocess) for image in images])
        return quantise(grey(images) if self.shape[2] == 1 else images, self.preprocess, self.scale, self.zero, self.dtype)
