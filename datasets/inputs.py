"""Single files to classify: images, and arrays of one or several examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from sasimc.datasets.arrays import ArrayFile, refuse_nan
from sasimc.datasets.images import read_image
from sasimc.datasets.network_input import NetworkInput
from sasimc.isa.errors import SasError

__all__ = ["read_input"]


def read_input(path: Path, network: NetworkInput) -> list[tuple[str, npt.NDArray[Any]]]:
    """(name, example) of every example in an image, ``.npy`` or ``.npz`` file (told apart by content), fit for the network.

    Raises:
        SasError: a file that cannot be read, holds something else, or does not fit.
    """
    try:
        with path.open("rb") as f:
            head = f.read(6)
    except OSError as e:
        hint = "--eval takes folders; --input one file, or a pattern of them" if path.is_dir() else ""
        raise SasError(f"{path}: cannot be read ({e.strerror or e})", hint=hint) from e
    if not head.startswith((b"\x93NUMPY", b"PK\x03\x04")):
        if network.preprocess is None:
            raise SasError(f"{path}: the network takes no pictures", hint=f"{network}; give them as .npy or .npz")
        return [(str(path), read_image(path))]
    file = ArrayFile(path)
    out: list[tuple[str, npt.NDArray[Any]]] = []
    for array in file.names:
        x, name = file[array], f"{path}/{array}" if array else str(path)
        refuse_nan(x, name)
        try:
            count = len(network.integers(x))
        except SasError as e:
            raise SasError(f"{name}: {e.diagnostic.message}", hint=e.diagnostic.hint) from e
        out += [(name, x)] if count == 1 else [(f"{name}[{i}]", x[i]) for i in range(count)]
    if not out:
        raise SasError(f"{path}: holds no arrays")
    return out
