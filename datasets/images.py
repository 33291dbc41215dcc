"""From an image file to the integers the network reads.

Decoding is Pillow's; the geometry is the usual ImageNet one. Evaluation: resize the short side to ``resize``, cut the middle
``size`` x ``size``. Training: a random rectangle (22 % to 100 % of the area, ratio 3/4 to 4/3) resized to ``size`` x ``size``,
mirrored half of the time (``Augment`` changes both); the draw depends on (seed, epoch, index) alone, so a run repeats exactly whatever the threads do.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sasimc.datasets.preprocess import Preprocess
from sasimc.datasets.procedural import Stream
from sasimc.isa.choices import INTERPOLATIONS
from sasimc.isa.errors import SasError

__all__ = ["MAX_PIXELS", "Augment", "decode", "eval_crop", "grey", "is_image", "probe", "read_image", "train_crop"]  # fmt: skip

U8 = npt.NDArray[np.uint8]

MAX_PIXELS = 64_000_000
"""Largest image decoded (192 MB as RGB). More is taken for a decompression bomb."""
MAX_FILE_BYTES = 256 << 20

_FILTERS = {name: Image.Resampling[name.upper()] for name in INTERPOLATIONS}
_NOT_READ = frozenset({"EPS", "BUFR", "GRIB", "HDF5", "WMF", "MPEG", "FPX", "MIC"})
"""What Pillow lists but does not read by itself: it would start another program, or needs one that is not there."""
warnings.filterwarnings(
    "ignore", category=UserWarning, module=r"PIL\."
)  # damaged EXIF data and the like: the pixels are what counts


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Names of the formats that Pillow reads, the usual ones first."""
    Image.init()
    usual = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
    return (*usual, *(name for name in Image.OPEN if name not in usual and name not in _NOT_READ))


class Augment(BaseModel):
    """How training images vary: a random rectangle of ``area`` (shares of the image, smallest and largest) or the middle,
    mirrored half of the time (``flip``). ``cached`` 0: new draws every epoch; n: n draws an image, taken in turn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: Literal["random", "middle"] = "random"
    area: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.22, 1.0)
    flip: bool = True
    cached: Annotated[int, Field(ge=0, le=10_000)] = 0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.area[0] > self.area[1]:
            raise ValueError("area: the smallest share is above the largest")
        return self

    def draw(self, epoch: int) -> int:
        """Number of the draw that an epoch uses."""
        return epoch % self.cached if self.cached else epoch


def probe(file: BinaryIO, name: str) -> None:
    """Read an image's header. Raises SasError, with ``name``, where ``decode`` would by the header alone."""
    with _opened(file, name):
        pass


def is_image(file: BinaryIO) -> bool:
    """Whether this is an image of a format that ``decode`` reads (by its first bytes; damaged or not)."""
    try:
        with Image.open(file, formats=_formats()):
            return True
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True
    except Exception:  # as in decode
        return False


@contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[Image.Image]:
    """An image of at most ``MAX_PIXELS`` pixels; whatever Pillow raises within becomes a SasError that names the file."""
    try:
        with Image.open(file, formats=_formats()) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise SasError(f"{name}: image of {width} x {height} pixels", hint=f"at most {MAX_PIXELS:,} pixels are decoded")
            yield image
    except SasError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise SasError(f"{name}: the image is too large ({e})", hint=f"at most {MAX_PIXELS:,} pixels are decoded") from e
    except Image.UnidentifiedImageError as e:
        file.seek(0)
        what = "not an image that can be read" if file.read(1) else "the file is empty"
        raise SasError(f"{name}: {what}", hint=f"formats: {', '.join(_formats())}") from e
    except Exception as e:  # Pillow's decoders raise what they meet: OSError, SyntaxError, struct.error, ...
        raise SasError(f"{name}: damaged or truncated image ({e})") from e


def decode(data: bytes, name: str) -> U8:
    """Image bytes to uint8 [H, W, 3] RGB, turned upright as its EXIF orientation says; the first frame, alpha dropped.

    ``name`` stands in the messages. Raises SasError for anything that is not a whole image of at most ``MAX_PIXELS`` pixels.
    """
    with _opened(io.BytesIO(data), name) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip at 255
            wide = np.clip(np.asarray(upright).astype(np.int64), 0, 65535)
            return _grey((wide + 128) // 257)
        if upright.mode == "F":
            real = np.nan_to_num(np.asarray(upright, np.float64))
            return _grey(np.clip(np.rint(real * 255 if real.max() <= 1 else real), 0, 255))
        return np.array(upright.convert("RGB"), np.uint8)


def _grey(values: npt.NDArray[Any]) -> U8:
    return np.ascontiguousarray(np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2))


def read_image(path: str | Path) -> U8:
    """``decode`` of a file on disk."""
    try:
        size = Path(path).stat().st_size
        if size > MAX_FILE_BYTES:
            raise SasError(f"{path}: {size:,} bytes", hint=f"image files may have at most {MAX_FILE_BYTES:,} bytes")
        data = Path(path).read_bytes()
    except OSError as e:
        raise SasError(f"{path}: cannot read the image ({e.strerror or e})") from e
    return decode(data, str(path))


def _resized(image: U8, width: int, height: int, interpolation: str, box: tuple[int, int, int, int] | None = None) -> U8:
    picture = Image.fromarray(image)
    if box is None and picture.size == (width, height):
        return image
    return np.array(picture.resize((width, height), _FILTERS[interpolation], box=box), np.uint8)


def eval_crop(image: U8, preprocess: Preprocess) -> U8:
    """[H, W, 3] to [height, width, 3] of ``size``: short side to ``resize``, middle cut out (long side truncated, offset rounded). Where
    ``size`` is no square, the image is scaled to just cover ``size`` times ``resize`` over its short side."""
    height, width = image.shape[:2]
    if min(height, width) == 0:
        raise SasError("an image without pixels")
    wanted_h, wanted_w = preprocess.height, preprocess.width
    if preprocess.crop == "none":
        return _resized(image, wanted_w, wanted_h, preprocess.interpolation)
    short = min(wanted_h, wanted_w)
    new_h, new_w = preprocess.resize * wanted_h // short, preprocess.resize * wanted_w // short
    if new_h * width >= new_w * height:
        new_w = new_h * width // height
    else:
        new_h = new_w * height // width
    if new_w * new_h > MAX_PIXELS:
        raise SasError(
            f"an image of {width} x {height} pixels is too narrow to be resized to a short side of {preprocess.resize}"
        )
    out = _resized(image, new_w, new_h, preprocess.interpolation)
    top, left = round((new_h - wanted_h) / 2), round((new_w - wanted_w) / 2)
    return np.ascontiguousarray(out[top : top + wanted_h, left : left + wanted_w])


def train_crop(image: U8, preprocess: Preprocess, seed: int, epoch: int, index: int, augment: Augment | None = None) -> U8:
    """[H, W, 3] to [height, width, 3] as ``augment`` says (None: its defaults). Random: share ``area`` of the image and log-uniform
    ratio 3/4..4/3, ten tries, else the middle. A pure function of its arguments."""
    how = augment or Augment()
    draw = how.draw(epoch)
    if how.crop == "random":
        out = _random_crop(image, preprocess, how.area, Stream(0xA9, seed, draw, index))
    else:
        out = eval_crop(image, preprocess)
    mirrored = how.flip and Stream(0xF1, seed, draw, index).below(2)
    return np.ascontiguousarray(out[:, ::-1]) if mirrored else out


def _random_crop(image: U8, preprocess: Preprocess, area: tuple[float, float], rng: Stream) -> U8:
    height, width = image.shape[:2]
    low, high = math.log(3 / 4), math.log(4 / 3)
    box: tuple[int, int, int, int] | None = None
    for _ in range(10):
        pixels = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.below(width - w + 1), rng.below(height - h + 1)
            box = (left, top, left + w, top + h)
            break
    if box is None:
        w, h = min(width, height * 4 // 3), min(height, width * 4 // 3)
        left, top = (width - w) // 2, (height - h) // 2
        box = (left, top, left + max(w, 1), top + max(h, 1))
    return _resized(image, preprocess.width, preprocess.height, preprocess.interpolation, box)


def grey(image: U8) -> U8:
    """RGB [..., H, W, 3] to grey [..., H, W, 1] by ITU-R BT.601 (0.299 R + 0.587 G + 0.114 B, rounded), as Pillow's mode L; grey stays what it is."""
    weights = np.array([19595, 38470, 7471], np.int32)  # of 65536
    return ((image.astype(np.int32) @ weights + 32768) >> 16).astype(np.uint8)[..., None]
