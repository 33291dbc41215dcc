"""Images, or arrays, as the float batches of one that a network is calibrated and measured on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from sasimc.datasets.arrays import as_picture
from sasimc.datasets.examples import read_examples
from sasimc.datasets.images import Preprocess, eval_crop
from sasimc.isa.errors import SasError

__all__ = ["InputPlane", "Samples", "input_plane", "plane_of", "read_samples", "real_image"]

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class InputPlane:
    """The network's input: its name, its shape without the batch, and for images the channels, the size and whether channels come last."""

    name: str
    shape: tuple[int, ...]
    channels: int = 0
    size: int = 0
    channels_last: bool = False

    @property
    def image(self) -> bool:
        """Whether an image fits: 1 or 3 channels and a square plane."""
        return self.channels in (1, 3)


def input_plane(model: ModelProto) -> InputPlane:
    """The single float input of a network; the batch may be symbolic.

    Raises:
        SasError: none, several, not float, or a shape that is not fixed.
    """
    quantised = next(
        (n for n in model.graph.node if n.op_type.startswith(("QuantizeLinear", "DequantizeLinear", "QLinear", "QGemm"))), None
    )
    if quantised is not None:
        raise SasError(
            f"the network is quantised already ({quantised.op_type} {quantised.name!r})",
            hint="compile it as it is, or give the float network",
        )
    return plane_of(model)


def plane_of(model: ModelProto) -> InputPlane:
    """The same of a network that may be quantised."""
    constants = {t.name for t in model.graph.initializer}
    inputs = [v for v in model.graph.input if v.name not in constants]
    if len(inputs) != 1:
        raise SasError(f"the network has {len(inputs)} inputs", hint="networks of one input can be quantised")
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type != 1:
        raise SasError(
            f"input {inputs[0].name!r} is not float32", hint="give the float network, not one that is quantised already"
        )
    dims = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.shape.dim]
    shape = tuple(dims[1:])
    if not dims or dims[0] not in (0, 1) or any(d < 1 for d in shape) or not shape:
        raise SasError(
            f"input {inputs[0].name!r} has shape {[d or '?' for d in dims]}",
            hint="export with a fixed input size and a batch of 1 or a symbolic one",
        )
    if len(shape) == 3 and shape[1] == shape[2] and shape[0] in (1, 3):
        return InputPlane(inputs[0].name, shape, shape[0], shape[1])
    if len(shape) == 3 and shape[0] == shape[1] and shape[2] in (1, 3):
        return InputPlane(inputs[0].name, shape, shape[2], shape[0], channels_last=True)
    return InputPlane(inputs[0].name, shape)


@dataclass(frozen=True)
class Samples:
    """``inputs``: float32 [1, ...] as the network takes them; ``labels``: class numbers, or empty; ``classes``: their names, or empty;
    ``pictures``: they were preprocessed."""

    inputs: tuple[F32, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    note: str
    pictures: bool = False

    def __iter__(self) -> Iterator[F32]:
        return iter(self.inputs)


def read_samples(
    source: str, data: Path | None, plane: InputPlane, preprocess: Preprocess | None, count: int, seed: int
) -> Samples:  # fmt: skip
    """Examples of a data set, a folder or an array file (:func:`read_examples`), as the network takes them. Bytes are pictures where the network takes
    some; they are preprocessed.

    Raises:
        SasError: no such place, nothing that can be read, another shape than the network's.
    """
    found = read_examples(source, data, count, size=plane.size, seed=seed)
    pictures = [as_picture(x) if preprocess is not None and x.dtype == np.uint8 else None for x in found.arrays]
    inputs = [
        real_image(p, plane, preprocess) if p is not None and preprocess is not None else _as_it_is(x, plane, source)
        for p, x in zip(pictures, found.arrays, strict=True)
    ]
    return Samples(tuple(inputs), found.labels, found.classes, found.note, pictures[0] is not None)


def _as_it_is(x: npt.NDArray[Any], plane: InputPlane, source: str) -> F32:
    """An array as the network takes it; dimensions of 1 may be left out."""
    shape = tuple(n for n in x.shape if n != 1)
    if x.dtype.kind not in "biuf" or shape != tuple(n for n in plane.shape if n != 1):
        raise SasError(
            f"{source}: x is {x.dtype} [N, {', '.join(map(str, x.shape))}]",
            hint=f"the network takes numbers [N, {', '.join(map(str, plane.shape))}]",
        )
    return np.ascontiguousarray(x.astype(np.float32).reshape(1, *plane.shape))


def real_image(image: npt.NDArray[np.uint8], plane: InputPlane, preprocess: Preprocess) -> F32:
    """An image as the network takes it, [1, C, H, W] or [1, H, W, C]."""
    cut = eval_crop(image, preprocess).astype(np.float32) / np.float32(255)
    if plane.channels == 1:
        cut = (cut @ np.asarray([0.299, 0.587, 0.114], np.float32))[..., None]
    mean, std = (np.asarray(v[: plane.channels], np.float32) for v in (preprocess.mean, preprocess.std))
    real = (cut - mean) / std
    return np.ascontiguousarray(real[None] if plane.channels_last else real.transpose(2, 0, 1)[None])
