"""Arrays as data: ``.npy`` files, ``.npz`` files with x and y, and how an array becomes the network's input.

Bytes are taken for pixels where the network takes pictures; real values are the network's real input, quantised by the host; integers of the input's
own type are taken as they are. Channels may stand first, as in ONNX files, or last; dimensions of 1 may be left out.
"""

from __future__ import annotations

import io
import lzma
import re
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.datasets.preprocess import quantise_values
from sasimc.datasets.store import MAX_MEMBERS
from sasimc.isa.errors import SasError

__all__ = ["MAX_ARRAY_BYTES", "ArrayFile", "as_input", "as_picture", "is_picture_shape", "npy_bytes", "parse_npy"]

Array = npt.NDArray[Any]

MAX_ARRAY_BYTES = 8 << 30
"""All arrays of an ``.npz`` together."""

_DAMAGE = (
    OSError, EOFError, ValueError, TypeError, KeyError, OverflowError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    SyntaxError, tokenize.TokenError,  # numpy reads headers as Python text
)  # fmt: skip


def parse_npy(data: bytes | memoryview, where: str) -> Array:
    """The array of an ``.npy`` file, read-only. Raises SasError when it is damaged, or holds anything but numbers or text."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read: Any = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"version {version}")
        shape, fortran, dtype = read(file)
        if dtype.kind not in "biufU" or any(not isinstance(n, int) or n < 0 for n in shape):
            raise ValueError(f"{dtype} {shape}: numbers are needed")
        count = 1
        for n in shape:
            count *= n
        rest = memoryview(data)[file.tell() :]
        if count * dtype.itemsize != len(rest):
            raise ValueError(f"{dtype} {list(shape)} takes {count * dtype.itemsize:,} bytes, {len(rest):,} are there")
        flat = np.frombuffer(rest, dtype, count) if count else np.zeros(0, dtype)
        if dtype.kind == "U" and len(rest):
            codes = np.frombuffer(rest, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
            if (codes > 0x10FFFF).any() or ((codes >= 0xD800) & (codes < 0xE000)).any():
                raise ValueError("text that is not Unicode")
        return flat.reshape(shape, order="F" if fortran else "C")
    except _DAMAGE as e:
        raise SasError(f"{where}: not an .npy file of numbers, or damaged ({e})") from e


def npy_bytes(x: Array) -> bytes:
    """An array of numbers as ``.npy`` file."""
    with io.BytesIO() as file:
        np.save(file, x, allow_pickle=False)
        return file.getvalue()


class ArrayFile:
    """The arrays of an ``.npz`` (or the one of an ``.npy``) file, told apart by content, by name; each is read when it is first asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrays: dict[str, Array] = {}
        try:
            with path.open("rb") as f:
                plain = f.read(6) == b"\x93NUMPY"
            if plain:
                if path.stat().st_size > MAX_ARRAY_BYTES:
                    raise self._too_large()
                self._arrays[""] = parse_npy(path.read_bytes(), str(path))
                self.names: tuple[str, ...] = ("",)
                return
            with zipfile.ZipFile(path) as z:
                infos = z.infolist()
                if sum(i.file_size for i in infos) > MAX_ARRAY_BYTES or len(infos) > MAX_MEMBERS:
                    raise self._too_large()
                self.names = tuple(i.filename.removesuffix(".npy") for i in infos if i.filename.endswith(".npy"))
        except _DAMAGE as e:
            raise SasError(f"{path}: not an .npz file, or damaged ({e})") from e

    @property
    def where(self) -> str:
        """For messages."""
        return str(self.path)

    def _too_large(self) -> SasError:
        return SasError(f"{self.path}: more than {MAX_ARRAY_BYTES:,} bytes of arrays", hint="split it into several files")

    def __getitem__(self, name: str) -> Array:
        if name not in self._arrays:
            where = f"{self.path}/{name}.npy"
            try:
                with zipfile.ZipFile(self.path) as z:
                    info = z.getinfo(f"{name}.npy")
                    with z.open(info) as f:
                        data = f.read(info.file_size)
            except _DAMAGE as e:
                raise SasError(f"{where}: damaged ({e})") from e
            self._arrays[name] = parse_npy(data, where)
        return self._arrays[name]


_INPUTS = frozenset({"x", "image", "images", "data", "features", "input", "inputs", "samples"})
_LABELS = frozenset({"y", "label", "labels", "target", "targets"})
_NAMES = frozenset({"classes", "names", "categories"})
ROLES: Mapping[str, str] = {**dict.fromkeys(_INPUTS, "x"), **dict.fromkeys(_LABELS, "y"), **dict.fromkeys(_NAMES, "names")}


def role_of(name: str, splits: Mapping[str, str]) -> tuple[str, str] | None:
    """(``x``, ``y`` or ``names``, split) of an array's name: ``x``, ``y_train``, ``test_images``, ``class_names``; None: neither."""
    words = re.findall(r"[a-z]+", name.lower())
    if set(words) in ({"class", "names"}, {"label", "names"}):
        return "names", ""
    roles = {ROLES[w] for w in words if w in ROLES}
    found = {splits[w] for w in words if w in splits}
    if len(roles) != 1 or len(found) > 1 or any(w not in ROLES and w not in splits for w in words):
        return None
    return roles.pop(), found.pop() if found else ""


def is_picture_shape(shape: tuple[int, int, int]) -> bool:
    """Whether a network's input [H, W, C] is a picture: grey or RGB, and more than a line."""
    height, width, channels = shape
    return channels in (1, 3) and min(height, width) > 1


def as_picture(x: Array) -> npt.NDArray[np.uint8] | None:
    """Bytes [H, W], [H, W, 1 or 3] or [1 or 3, H, W] as RGB [H, W, 3]; None: no picture."""
    if x.dtype != np.uint8 or x.ndim not in (2, 3) or not x.size:
        return None
    if x.ndim == 2:
        x = x[:, :, None]
    elif x.shape[2] not in (1, 3) and x.shape[0] in (1, 3):
        x = np.moveaxis(x, 0, 2)
    if x.shape[2] not in (1, 3):
        return None
    return np.ascontiguousarray(np.broadcast_to(x, (*x.shape[:2], 3)))


def as_input(
    x: Array, shape: tuple[int, int, int], dtype: str, scale: float, zero: int, where: str = "array", takes: str = "network takes"
) -> npt.NDArray[np.int8 | np.uint8]:
    """One or several arrays as the network's input, integers [n, H, W, C].

    Raises:
        SasError: another number of elements or another shape, or a type that is neither real nor the input's own.
    """
    if x.dtype.kind not in "f" and x.dtype != np.dtype(dtype):
        raise SasError(f"{where}: {x.dtype}", hint=f"real values (float32), or the input's own integers ({dtype})")
    height, width, channels = shape
    size = height * width * channels
    for lead in (0, 1)[: x.ndim + 1]:
        count, rest = (x.shape[0] if lead else 1), _without_ones(x.shape[lead:])
        for first, sizes in (
            (True, (channels, height, width)),
            (False, (height, width, channels)),
        ):  # in doubt as in ONNX: channels first
            if count and count * size == x.size and rest in (_without_ones(sizes), _without_ones((size,))):
                y = np.moveaxis(x.reshape(count, *sizes), 1, 3) if first else x.reshape(count, *sizes)
                return np.ascontiguousarray(y if x.dtype.kind != "f" else quantise_values(y, scale, zero, dtype))
    pictures = "; pictures of any size are given as bytes (uint8)" if x.dtype.kind == "f" and is_picture_shape(shape) else ""
    raise SasError(
        f"{where}: array {list(x.shape)}",
        hint=f"the {takes} [{channels}, {height}, {width}] or [{height}, {width}, {channels}]{pictures}",
    )


def refuse_nan(x: Array, where: str) -> None:
    """SasError where real values are no numbers."""
    for first in range(0, len(x) if x.ndim and x.dtype.kind == "f" else 0, 1024):
        if count := int(np.isnan(part := x[first : first + 1024]).sum()):
            raise SasError(
                f"{where}: {count} of {part.size} values from example {first} on are no numbers (NaN)",
                hint="repair what wrote the array",
            )


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)
