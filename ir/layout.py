"""Where the elements of an ONNX tensor stand in a stored sample: a strided view, each axis made of factors (size, stride).

A stored sample is (H, W, C), channels last. An ONNX tensor N x C x H x W of it has the axes ``C``, ``H``, ``W``; after a Flatten it has
one axis ``C*H*W``, after a Transpose to channels last ``H``, ``W``, ``C``. Reshape, Transpose, Flatten, Squeeze and Unsqueeze change
nothing but the layout, whatever their ranks; the batch is no part of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Axis", "Factor", "Layout"]

Factor = tuple[int, int]
"""(size, stride): stride in elements of the stored sample."""
Axis = tuple[Factor, ...]
"""Factors of an ONNX axis, the slowest first; none where the axis has size 1."""
Shape = tuple[int, int, int]


def _merged(factors: Iterable[Factor]) -> Axis:
    """Without factors of size 1, and with neighbours joined where they are one stride."""
    out: list[Factor] = []
    for size, stride in factors:
        if size == 1:
            continue
        if out and out[-1][1] == size * stride:
            out[-1] = (out[-1][0] * size, stride)
        else:
            out.append((size, stride))
    return tuple(out)


@dataclass(frozen=True)
class Layout:
    """The axes of an ONNX tensor without its batch. ``Layout.of`` brings them into their one form."""

    axes: tuple[Axis, ...]

    @staticmethod
    def of(axes: Iterable[Iterable[Factor]]) -> Layout:
        return Layout(tuple(_merged(a) for a in axes))

    @staticmethod
    def planes(shape: Shape, rank: int = 3) -> Layout:
        """C x H x W of a stored (H, W, C); ``rank`` 2: C x W, the height is 1; 1: a vector C."""
        h, w, c = shape
        return Layout.of([[(c, 1)], [(h, w * c)], [(w, c)]] if rank == 3 else [[(c, 1)], [(w, c)]][:rank])

    @staticmethod
    def rows(dims: Sequence[int]) -> Layout:
        """Axes in row-major order: the last varies fastest."""
        return Layout.of([[(d, math.prod(dims[i + 1 :]))] for i, d in enumerate(dims)])

    @property
    def dims(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(math.prod(size for size, _ in axis) for axis in self.axes)

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    def covers(self, size: int) -> bool:
        """Whether every one of ``size`` stored elements is an element of the tensor exactly once."""
        at = 1
        for count, stride in sorted((f for axis in self.axes for f in axis), key=lambda f: f[1]):
            if stride != at:
                return False
            at *= count
        return at == size

    def index(self) -> npt.NDArray[np.int64]:
        """The stored position of each element, in the ONNX tensor's row-major order."""
        at = np.zeros(1, np.int64)
        for axis in self.axes:
            for size, stride in axis:
                at = (at[:, None] + np.arange(size, dtype=np.int64) * stride).ravel()
        return at

    def stored(self, tensor: npt.NDArray[Any], shape: Shape) -> npt.NDArray[Any]:
        """An ONNX tensor [batch, ...] as stored samples [batch, H, W, C]."""
        flat = tensor.reshape(len(tensor), -1)
        out = np.empty_like(flat)
        out[:, self.index()] = flat
        return out.reshape(len(tensor), *shape)

    def transposed(self, order: Sequence[int]) -> Layout:
        return Layout(tuple(self.axes[i] for i in order))

    def reshaped(self, dims: Sequence[int]) -> Layout | None:
        """The same elements in the same order under other axes; None where a new axis would cut a factor."""
        left = [f for axis in self.axes for f in axis][::-1]
        axes: list[list[Factor]] = []
        for want in dims:
            axis: list[Factor] = []
            while want > 1:
                if not left:
                    return None
                size, stride = left.pop()
                if want % size == 0:
                    axis.append((size, stride))
                    want //= size
                elif size % want == 0:
                    axis.append((want, stride * (size // want)))
                    left.append((size // want, stride))
                    want = 1
                else:
                    return None
            axes.append(axis)
        return None if left else Layout.of(axes)

    def parts(self, shape: Shape) -> tuple[tuple[tuple[str, int, int], ...], ...] | None:
        """For each axis its parts (``H``, ``W`` or ``C``, size, step within it); None where a factor does not respect the shape."""
        h, w, c = shape
        bases = (("H", w * c, h), ("W", c, w), ("C", 1, c))
        axes = []
        for axis in self.axes:
            found: list[tuple[str, int, int]] = []
            for size, stride in axis:
                for name, base, full in bases:
                    low, high = max(stride, base), min(size * stride, base * full)
                    if low >= high:
                        continue
                    if high % low or low % base:
                        return None
                    found.append((name, high // low, low // base))
            axes.append(tuple(found))
        return tuple(axes)

    def with_channels(self, axis: int, old: int, new: int) -> Layout:
        """The layout after the stored channels changed from ``old`` to ``new``; they are ``axis``, the other axes hold pixels."""
        scaled = [[(size, stride // old * new) for size, stride in a] for a in self.axes]
        scaled[axis] = [(new, 1)]
        return Layout.of(scaled)

    def text(self, shape: Shape) -> str:
        """Axes separated by spaces: ``C H W``, flattened ``C*H*W``, of size 1 ``1``; a part of an axis as ``C:size:step``."""
        parts, sizes = self.parts(shape), dict(zip("HWC", shape, strict=True))
        if parts is None:
            return " ".join("*".join(f"{size}@{stride}" for size, stride in a) or "1" for a in self.axes)
        words = [
            [name if size == sizes[name] else f"{name}:{size}:{step}" for name, size, step in axis] or ["1"] for axis in parts
        ]
        return " ".join("*".join(w) for w in words)

    @staticmethod
    def parse(text: str, shape: Shape) -> Layout:
        """What :meth:`text` wrote. ValueError for anything else."""
        h, w, c = shape
        bases, sizes = {"H": w * c, "W": c, "C": 1}, {"H": h, "W": w, "C": c}
        axes: list[list[Factor]] = []
        for word in text.split():
            axis: list[Factor] = []
            for factor in [] if word == "1" else word.split("*"):
                if "@" in factor:
                    size, stride = (int(n) for n in factor.split("@"))
                else:
                    name, *numbers = factor.split(":")
                    if name not in bases or len(numbers) not in (0, 2):
                        raise ValueError(f"bad axis {factor!r}")
                    size, step = (int(n) for n in numbers) if numbers else (sizes[name], 1)
                    stride = step * bases[name]
                axis.append((size, stride))
            axes.append(axis)
        return Layout.of(axes)
