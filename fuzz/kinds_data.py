"""What reads data: images, archives, tables of labels, class names, arrays, weights files, device images."""

from __future__ import annotations

import io
import json
import random
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
from harness import Kind, written
from mutate import mutated, mutated_object, mutated_text
from PIL import Image

from sasimc.datasets.arrays import ArrayFile, parse_npy
from sasimc.datasets.check import check_headers
from sasimc.datasets.dataset import open_dataset
from sasimc.datasets.fetch import unpack_tar
from sasimc.datasets.images import decode
from sasimc.isa.errors import SasError
from sasimc.isa.files import weights_loader
from sasimc.training.image.container import frame, header, read_frames
from sasimc.training.image.image import DeviceImage

__all__ = ["KINDS"]

_NAMES = ("../secret", "/tmp/secret", "train/cat/../../../secret", "train\\cat\\0.png", "C:/secret", "train/cat/0.png/x", "train/cat", "", "a" * 300,
          "train/cat/\ud8000.png", "train/\u202ecat/0.png", "test/dog/.png", "train/CAT/0.png", "x/train/cat/9.png", "con/0.png")  # fmt: skip


def _image(kind: str) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


_PPM = _image("PPM")


def _images() -> list[bytes]:
    kinds = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "TGA", "PCX", "JPEG2000", "DDS", "SGI", "ICNS", "QOI")
    return [_image(kind) for kind in kinds]


def _files() -> dict[str, bytes]:
    return {f"{split}/{c}/{i}.png": _image("PNG") for split in ("train", "test") for c in ("cat", "dog") for i in range(2)}


def _zip(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, mode: int = 0) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        for name, data in files.items():
            info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode())
            info.external_attr, info.compress_type = mode << 16, method
            z.writestr(info, data)
    return out.getvalue()


def _tar(files: dict[str, bytes], mode: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as t:  # type: ignore[call-overload]
        for number, (name, data) in enumerate(files.items()):
            info = tarfile.TarInfo(name.encode("utf-8", "replace").decode())
            if number == 0 and kind != tarfile.REGTYPE:
                info.type, info.linkname = kind, link
            else:
                info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _bomb(rng: random.Random) -> bytes:
    """Zeros, seldom many of them: they shrink to a thousandth."""
    return bytes(1 << rng.choice((12, 12, 12, 20, 26 if rng.randrange(20) == 0 else 16)))


def _renamed(files: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
    """The files with one under an evil name, mutated, or blown up, and perhaps in another order."""
    names = list(files)
    name, how = rng.choice(names), rng.randrange(4)
    if how == 0:
        files = {rng.choice(_NAMES): files[name], **files}
    elif how == 1:
        files = {**files, name: mutated(files[name], list(files.values()), rng)}
    elif how == 2:
        files = {**files, rng.choice((name, "train/cat/bomb.png")): _bomb(rng)}
    else:
        del files[name]
    names = list(files)
    rng.shuffle(names)
    return {name: files[name] for name in names}


def _change_zip(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as z:
            files = {i.filename: z.read(i) for i in z.infolist() if i.file_size < 1 << 20}
        return _zip(
            _renamed(files, rng), rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)), rng.choice((0, stat.S_IFLNK | 0o777))
        )
    except Exception:
        return mutated(data, others, rng)


def _change_tar(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    kinds = (
        tarfile.REGTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.DIRTYPE,
        tarfile.GNUTYPE_SPARSE,
    )
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as t:
            files = {m.name: f.read() for m in t if m.size < 1 << 20 and (f := t.extractfile(m))}
        made = _tar(_renamed(files, rng), rng.choice(("w", "w:gz", "w:xz")), rng.choice(kinds), rng.choice(_NAMES))
        return mutated(made, others, rng) if rng.randrange(3) == 0 else made
    except Exception:
        return mutated(data, others, rng)


def _arrays_of(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data)) as found:
        return {name: found[name] for name in found.files}


def _npz(arrays: dict[str, np.ndarray], compressed: bool = True) -> bytes:
    out = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


_SET = {"x": np.zeros((4, 3, 5), np.float32), "y": np.array([0, 1, 0, 1]), "class_names": np.array(["a", "b"])}


def _change_npz(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Another type, shape, content or name of an array; or the mutated bytes of an array under a right checksum."""
    try:
        if rng.randrange(3) == 0:
            with zipfile.ZipFile(io.BytesIO(data)) as z:
                return _zip(_renamed({i.filename: z.read(i) for i in z.infolist()}, rng))
        arrays = _arrays_of(data)
        name = rng.choice(list(arrays))
        a, how = arrays.pop(name), rng.randrange(4)
        if how == 0:
            a = a.astype(rng.choice(("f2", "f8", "i1", "u8", "c8", "U3", "?", "M8[s]", ">i4")))
        elif how == 1:
            a = np.resize(a, rng.choice(((), (0,), (4,), (4, 1), (2, 3, 4, 5), (1, 1, 1, 1, 1), (4, 3, 5, 0))))
        elif how == 2 and a.size and a.dtype.kind in "if":
            a = a.copy()
            a.flat[rng.randrange(a.size)] = rng.choice(
                (-1, 100, np.inf if a.dtype.kind == "f" else 2**31 - 1, np.nan if a.dtype.kind == "f" else -(2**31))
            )
        else:
            name = rng.choice(("x", "y", "x_train", "y_test", "x_val", "images", "labels", "class_names", "a/b"))
        return _npz({**arrays, name: a}, bool(rng.randrange(2)))
    except Exception:
        return mutated(data, others, rng)


def _opened(suffix: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        path = folder / f"case{suffix}"
        path.write_bytes(data)
        found = open_dataset(path)
        return [found.load(i) for s in ("train", "val", "test") for i in check_headers(found).items(s)[:3]]

    return read


_TABLE = "file;label;split\n0.png;cat;train\n1.png;dog;train\n2.png;cat;test\n3.png;dog;test\n"


def _four_images(folder: Path) -> None:
    for i in range(4):
        (folder / f"{i}.png").write_bytes(_PPM)


def _class_names(data: bytes, folder: Path) -> object:
    (folder / "class_names.txt").write_bytes(data)
    return _opened(".csv")(_TABLE.encode(), folder)


def _tables() -> list[bytes]:
    return [_TABLE.encode(), _TABLE.replace(";", ",").encode("utf-8-sig"), _TABLE.encode("utf-16")]


def _arrays(path: Path) -> object:
    file = ArrayFile(path)
    return [file[name] for name in file.names]


def _device_image() -> list[bytes]:
    import models

    from sasimc.api import CompileOptions, compile_model

    with tempfile.TemporaryDirectory() as name:
        image = DeviceImage.open(Path(name) / "d.sas", compile_model(models.mlp(), CompileOptions()).program)
        image.kept[256:] = False  # small: mutations shall meet the header as well
        image.save()
        image.close()
        return [(Path(name) / "d.sas").read_bytes()]


def _change_device_image(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Another head or other arrays under right checksums."""
    try:
        frames = [(f.kind, f.number, f.head, dict(f.arrays)) for f in read_frames(data, "sample")]
    except SasError:
        return mutated(data, others, rng)
    kind, number, head, arrays = frames.pop(rng.randrange(len(frames)))
    try:
        if rng.randrange(2):
            head = json.loads(json.dumps(mutated_object(head, rng)))
        else:
            name = rng.choice(list(arrays))
            a = arrays[name]
            a = np.resize(a, rng.choice(((0,), (3,), (2, 2), a.shape))).astype(rng.choice(("u1", "i1", "i4", "i8", "f8")))
            if a.size:
                a.flat[rng.randrange(a.size)] = rng.choice((0, 1, 127, 100 if a.dtype.itemsize == 1 else 2**31 - 1))
            arrays[rng.choice((name, name, "left/x", "task/a/b"))] = a
        return header() + b"".join(frame(*f) for f in (*frames, (kind, number, head, arrays)))
    except (ValueError, OverflowError):
        return mutated(data, others, rng)


_WEIGHTS = {"a": np.zeros((3, 4), np.int8), "b": np.zeros(5, np.int32)}

KINDS = {
    "image": Kind(_images, lambda d, _: decode(d, "case")),
    "zip": Kind(lambda: [_zip(_files(), m) for m in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)], _opened(".zip"), _change_zip),
    "tar": Kind(lambda: [_tar(_files(), m) for m in ("w", "w:gz", "w:bz2", "w:xz")], _opened(".tar"), _change_tar),
    "unpack": Kind(
        lambda: [_tar(_files(), m) for m in ("w", "w:gz")],
        written("a.tar", lambda p: unpack_tar(p, p.parent / "out", 1 << 20)),
        _change_tar,
    ),
    "table": Kind(_tables, _opened(".csv"), mutated_text, beside=_four_images),
    "class names": Kind(lambda: [b"cat\ndog\n", b"0,cat\n1,dog\n"], _class_names, mutated_text, beside=_four_images),
    "npz": Kind(lambda: [_npz(_SET), _npz(_SET, False)], _opened(".npz"), _change_npz),
    "npy": Kind(lambda: [_npy(_SET["x"]), _npy(_SET["y"])], lambda d, _: parse_npy(d, "case")),
    "arrays": Kind(lambda: [_npz(_SET), _npy(_SET["x"])], written("a.npz", _arrays), _change_npz),
    "weights": Kind(
        lambda: [safetensors.numpy.save(_WEIGHTS)],
        written("w.safetensors", lambda p: weights_loader(p.parent, "case")(p.name, "")),
    ),
    "device image": Kind(_device_image, written("d.sas", DeviceImage.read), _change_device_image),
}
