"""Images, or arrays, as the float batches of one that a network is calibrated and measured on."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from sasimc.datasets.dataset import Dataset, open_dataset
from sasimc.datasets.images import Preprocess, eval_crop, read_image
from sasimc.isa.errors import SasError

__all__ = ["InputPlane", "Samples", "array_samples", "image_samples", "input_plane", "plane_of", "real_image"]

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
    """``inputs``: float32 [1, ...] as the network takes them; ``labels``: class numbers, or empty; ``classes``: their names, or empty."""

    inputs: tuple[F32, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    note: str

    def __iter__(self) -> Iterator[F32]:
        return iter(self.inputs)


def image_samples(source: str, data: Path | None, plane: InputPlane, preprocess: Preprocess, count: int, seed: int) -> Samples:
    """``count`` images of a data set (a name, a folder of classes, an archive) or of a plain folder, spread evenly over it.

    Raises:
        SasError: no such place, no images.
    """
    try:
        dataset: Dataset | None = open_dataset(source, data, size=plane.size, seed=seed)
    except SasError:
        if not Path(source).is_dir():
            raise
        dataset = None
    if dataset is None:
        images, labels, classes, note = _flat(Path(source), count)
    else:
        items = [item for split in ("train", "val", "test") for item in dataset.items(split)]
        chosen = [items[i] for i in _spread(len(items), count)]
        images, labels = [dataset.load(item) for item in chosen], tuple(item.class_id for item in chosen)
        classes, note = dataset.classes, dataset.note
    if not images:
        raise SasError(f"{source}: no images", hint="a folder of images, a folder of classes, or the name of a data set")
    return Samples(tuple(real_image(image, plane, preprocess) for image in images), labels, classes, note)


def array_samples(path: Path, plane: InputPlane, count: int) -> Samples:
    """Arrays that are already what the network takes: ``.npy`` [N, ...], or ``.npz`` with ``x`` and, if known, class numbers ``y``.

    Raises:
        SasError: an unreadable file, or another shape than the network's.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays: dict[str, Any] = (
            {"x": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
        )
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise SasError(f"{path}: cannot read the arrays ({exc})") from None
    if "x" not in arrays:
        raise SasError(f"{path}: no array is called x", hint=f"it holds {', '.join(arrays) or 'nothing'}")
    x = np.asarray(arrays["x"])
    if x.shape[1:] != plane.shape or x.dtype.kind not in "fiu" or not len(x):
        raise SasError(
            f"{path}: x is {x.dtype} {list(x.shape)}", hint=f"the network takes numbers [N, {', '.join(map(str, plane.shape))}]"
        )
    chosen = _spread(len(x), count)
    labels = np.asarray(arrays.get("y", ())).ravel()
    if labels.size and (labels.size != len(x) or labels.dtype.kind not in "iu"):
        raise SasError(f"{path}: y is {labels.dtype} [{labels.size}]", hint=f"{len(x)} class numbers are needed")
    return Samples(
        tuple(x[i : i + 1].astype(np.float32) for i in chosen),
        tuple(int(labels[i]) for i in chosen) if labels.size else (),
        (),
        str(path),
    )


def _spread(available: int, wanted: int) -> list[int]:
    """Positions, evenly over all."""
    n = min(available, wanted)
    return [i * available // n for i in range(n)]


def _flat(folder: Path, count: int) -> tuple[list[npt.NDArray[np.uint8]], tuple[int, ...], tuple[str, ...], str]:
    """Images anywhere below a folder without classes; what is no image is left out and counted."""
    images: list[npt.NDArray[np.uint8]] = []
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    left_out = 0
    for file in files:
        if len(images) == count:
            break
        try:
            images.append(read_image(file))
        except SasError:
            left_out += 1
    return (
        images,
        (),
        (),
        f"{len(images)} images of {folder}" + (f", {left_out} files that are no images left out" if left_out else ""),
    )


def real_image(image: npt.NDArray[np.uint8], plane: InputPlane, preprocess: Preprocess) -> F32:
    """An image as the network takes it, [1, C, H, W] or [1, H, W, C]."""
    cut = eval_crop(image, preprocess).astype(np.float32) / np.float32(255)
    if plane.channels == 1:
        cut = (cut @ np.asarray([0.299, 0.587, 0.114], np.float32))[..., None]
    mean, std = (np.asarray(v[: plane.channels], np.float32) for v in (preprocess.mean, preprocess.std))
    real = (cut - mean) / std
    return np.ascontiguousarray(real[None] if plane.channels_last else real.transpose(2, 0, 1)[None])
