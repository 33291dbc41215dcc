"""Fuzz what reads users' data: images, archives, tables of labels, arrays, recipes, preprocessing, device images, weights files.

    python fuzz/data_files.py [--seconds 10] [--cases N] [--seed 0] [--only KIND]

Every case is a mutated sample. Allowed: a result, or SasError. Everything else is a find: another exception, more than 20 s, more than 2 GiB of
memory, a file outside the target folder. Finds are written to ``fuzz/finds`` and the exit code is 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import os
import random
import resource
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.numpy
from mutate import mutated
from PIL import Image

from sasimc.datasets.arrays import ArrayFile, parse_npy
from sasimc.datasets.check import check_headers
from sasimc.datasets.dataset import open_dataset
from sasimc.datasets.fetch import unpack_tar
from sasimc.datasets.images import decode
from sasimc.datasets.preprocess import parse_preprocess
from sasimc.isa.errors import SasError
from sasimc.isa.files import weights_loader
from sasimc.training.image.image import DeviceImage
from sasimc.training.recipe import load_recipe, shipped_recipes

SECONDS_A_CASE = 20
MEMORY = 2 << 30
Case = tuple[list[bytes], Callable[[bytes, Path], object]]


def _image(kind: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(out, kind)
    return out.getvalue()


_PNG = _image("PNG")


def _files() -> dict[str, bytes]:
    return {f"{split}/{c}/{i}.png": _image("PNG") for split in ("train", "test") for c in ("cat", "dog") for i in range(2)}


def _zip(method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        for name, data in {**_files(), "__MACOSX/._x": b"\0\5"}.items():
            z.writestr(name, data)
    return out.getvalue()


def _tar(mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as t:
        for name, data in _files().items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _npz(compressed: bool) -> bytes:
    out = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(out, x=np.zeros((4, 3, 5), np.float32), y=np.array([0, 1, 0, 1]), class_names=np.array(["a", "b"]))
    return out.getvalue()


def _npy() -> bytes:
    out = io.BytesIO()
    np.save(out, np.zeros((3, 5), np.float32))
    return out.getvalue()


def _opened(suffix: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        path = folder / f"case{suffix}"
        path.write_bytes(data)
        found = open_dataset(path)
        return [found.load(i) for s in ("train", "val", "test") for i in check_headers(found).items(s)[:3]]

    return read


def _table(data: bytes, folder: Path) -> object:
    for i in range(4):
        (folder / f"{i}.png").write_bytes(_PNG)
    return _opened(".csv")(data, folder)


def _written(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    def run(data: bytes, folder: Path) -> object:
        path = folder / name
        path.write_bytes(data)
        return read(path)

    return run


def _arrays(path: Path) -> object:
    file = ArrayFile(path)
    return [file[name] for name in file.names]


def _device_image() -> bytes:
    from sasimc.api import CompileOptions, compile_model
    from sasimc.zoo.zoo import ZooOptions, build_mobilenetv2_repnet, write

    with tempfile.TemporaryDirectory() as name:
        model = write(
            build_mobilenetv2_repnet(
                ZooOptions(width=0.35, resolution=32, resize=32, classes=2, modules=(), calibration_images=2)
            ),
            Path(name) / "m.onnx",
        )
        image = DeviceImage.open(Path(name) / "d.sas", compile_model(model, CompileOptions()).program)
        image.kept[256:] = False  # small: mutations shall meet the header as well
        image.save()
        image.close()
        return (Path(name) / "d.sas").read_bytes()


def cases() -> dict[str, Callable[[], Case]]:
    """Kind -> samples, and what reads a mutated one in a folder of its own."""
    text = "file;label;split\n0.png;cat;train\n1.png;dog;train\n2.png;cat;test\n3.png;dog;test\n"
    weights = safetensors.numpy.save({"a": np.zeros((3, 4), np.int8), "b": np.zeros(5, np.int32)})
    kinds = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "TGA", "PCX", "JPEG2000", "DDS", "SGI", "ICNS", "QOI")
    recipes = [load_text(name) for name in shipped_recipes()]
    preprocess = [
        json.dumps({"mean": [0.5, 0.4, 0.3], "std": 0.2, "size": [32, 24], "resize": 40, "crop": "none"}).encode(),
        b"imagenet",
    ]
    return {
        "image": lambda: ([_image(k) for k in kinds], lambda d, _: decode(d, "case")),
        "zip": lambda: ([_zip(zipfile.ZIP_STORED), _zip(zipfile.ZIP_DEFLATED)], _opened(".zip")),
        "tar": lambda: ([_tar("w"), _tar("w:gz"), _tar("w:bz2"), _tar("w:xz")], _opened(".tar")),
        "unpack": lambda: ([_tar("w"), _tar("w:gz")], _written("a.tar", lambda p: unpack_tar(p, p.parent / "out", 1 << 20))),
        "table": lambda: ([text.encode(), text.replace(";", ",").encode("utf-8-sig"), text.encode("utf-16")], _table),
        "npz": lambda: ([_npz(False), _npz(True)], _opened(".npz")),
        "npy": lambda: ([_npy()], lambda d, _: parse_npy(d, "case")),
        "arrays": lambda: ([_npz(False), _npy()], _written("a.npz", _arrays)),
        "preprocess": lambda: (preprocess, lambda d, _: parse_preprocess(d.decode("utf-8", "replace"))),
        "recipe": lambda: (recipes, _written("r.toml", lambda p: load_recipe(str(p)))),
        "weights": lambda: ([weights], _written("w.safetensors", lambda p: weights_loader(p.parent, "case")(p.name, ""))),
        "device image": lambda: ([_device_image()], _written("d.sas", DeviceImage.read)),
    }


def load_text(recipe: str) -> bytes:
    """The file of a shipped recipe."""
    from sasimc.training import recipe as module

    return (Path(module.__file__).parent / "recipes" / f"{recipe}.toml").read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="for all kinds together")
    parser.add_argument("--cases", type=int, default=1 << 62, help="at most so many of a kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one kind")
    o = parser.parse_args()
    chosen = {k: v for k, v in cases().items() if o.only in (None, k)}
    finds = 0
    for kind, made in chosen.items():
        samples, read = made()
        rng, seen, end = random.Random(o.seed), Counter[str](), time.monotonic() + o.seconds / len(chosen)
        while seen.total() < o.cases and time.monotonic() < end:
            data = mutated(rng.choice(samples), samples, rng)
            finds += _one(kind, data, read, seen)
        print(f"{kind}: {seen.total()} cases, {seen['read']} read, {seen['refused']} refused, {seen['find']} finds", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"peak memory {peak} MiB")
    return 1 if finds or peak << 20 > MEMORY else 0


def _one(kind: str, data: bytes, read: Callable[[bytes, Path], object], seen: Counter[str]) -> int:
    """Run a case; 1 when it is a find."""
    problem = ""
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer) / "target"
        folder.mkdir()
        faulthandler.dump_traceback_later(SECONDS_A_CASE, exit=True)
        try:
            read(data, folder)
            seen["read"] += 1
        except SasError:
            seen["refused"] += 1
        except Exception:
            problem = traceback.format_exc()
        faulthandler.cancel_dump_traceback_later()
        if os.listdir(outer) != ["target"]:
            problem += f"files outside the target folder: {os.listdir(outer)}"
    if not problem:
        return 0
    seen["find"] += 1
    finds = Path(__file__).parent / "finds"
    finds.mkdir(exist_ok=True)
    (finds / f"{kind.replace(' ', '_')}-{seen['find']}").write_bytes(data)
    print(f"FIND {kind}: {problem}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
