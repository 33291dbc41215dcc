"""From an image file to the integers the network reads.

Decoding is Pillow's; the geometry is the usual ImageNet one. Evaluation: resize the short side to ``resize``, cut the middle
``size`` x ``size``. Training: a random rectangle (22 % to 100 % of the area, ratio 3/4 to 4/3) resized to ``size`` x ``size``,
mirrored half of the time (``Augment`` changes both); the draw depends on (seed, epoch, index) alone, so a run repeats exactly whatever the threads do.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sasimc.datasets.procedural import Stream
from sasimc.isa.errors import SasError, near

__all__ = ["MAX_PIXELS", "Augment", "Preprocess", "decode", "eval_crop", "quantise", "quantise_table", "read_image", "train_crop"]

U8 = npt.NDArray[np.uint8]

MAX_PIXELS = 64_000_000
"""Largest image decoded (192 MB as RGB). More is taken for a decompression bomb."""
MAX_FILE_BYTES = 256 << 20

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


def _triple(value: Any, key: str) -> tuple[float, float, float]:
    numbers = [value] * 3 if isinstance(value, int | float) else value
    if not isinstance(numbers, list | tuple) or len(numbers) != 3:
        raise SasError(f"preprocessing: {key!r} is {value!r}", hint="give one number, or three: red, green, blue")
    if any(isinstance(n, bool) or not isinstance(n, int | float) or not math.isfinite(n) for n in numbers):
        raise SasError(f"preprocessing: {key!r} is {value!r}", hint="finite numbers are needed")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


@dataclass(frozen=True)
class Preprocess:
    """How images become network input: x_real = (x / 255 - mean) / std a channel (RGB), geometry as in the module's text.

    ``mean`` and ``std`` in units of 0..1; ``size`` and ``resize`` in pixels, ``resize >= size``; ``interpolation`` is one of
    nearest, bilinear, bicubic, lanczos, box. The defaults are those of the TensorFlow MobileNet-V2 weights: x / 127.5 - 1.
    Raises SasError for values outside these.
    """

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    size: int = 224
    resize: int = 256
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for key in ("mean", "std"):
            object.__setattr__(self, key, _triple(getattr(self, key), key))
        if not all(-1 <= v <= 2 for v in self.mean) or max(self.std) > 8:
            raise SasError(
                f"preprocessing: mean {self.mean} or std {self.std} is not in units of 0..1",
                hint="divide values meant for bytes by 255",
            )
        if min(self.std) <= 0:
            raise SasError(f"preprocessing: 'std' is {self.std}", hint="every standard deviation must be above 0")
        for key in ("size", "resize"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 8192:
                raise SasError(f"preprocessing: {key!r} is {value!r}", hint="a whole number of pixels, 1..8192")
        if self.resize < self.size:
            raise SasError(
                f"preprocessing: short side {self.resize} is smaller than the crop {self.size}",
                hint="'resize' must be at least 'size'",
            )
        if self.interpolation not in _FILTERS:
            raise SasError(
                f"preprocessing: no interpolation {self.interpolation!r}",
                hint=near(str(self.interpolation), list(_FILTERS)) or f"known: {', '.join(_FILTERS)}",
            )

    @staticmethod
    def from_json(source: str | Mapping[str, Any]) -> Preprocess:
        """From JSON text or a parsed object. Missing keys take the defaults (``resize`` 8/7 of ``size``); unknown: refused."""
        if isinstance(source, str):
            try:
                source = json.loads(source)
            except ValueError as e:
                raise SasError(f"preprocessing: not JSON ({e})") from e
        if not isinstance(source, Mapping):
            raise SasError(
                "preprocessing: a JSON object is needed", hint='for example {"mean": 0.5, "std": 0.5, "size": 224, "resize": 256}'
            )
        known = list(Preprocess.__dataclass_fields__)
        for key in source:
            if key not in known:
                raise SasError(f"preprocessing: unknown key {key!r}", hint=near(key, known) or f"known: {', '.join(known)}")
        values = dict(source)
        size = values.get("size")
        if "resize" not in values and isinstance(size, int) and not isinstance(size, bool):
            values["resize"] = size * 8 // 7
        return Preprocess(**values)

    def to_json(self) -> str:
        """JSON text, ``from_json(p.to_json()) == p``."""
        fields: dict[str, Any] = {
            "mean": list(self.mean),
            "std": list(self.std),
            "size": self.size,
            "resize": self.resize,
            "interpolation": self.interpolation,
        }
        return json.dumps(fields)


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


def decode(data: bytes, name: str) -> U8:
    """Image bytes to uint8 [H, W, 3] RGB, turned upright as its EXIF orientation says; the first frame, alpha dropped.

    ``name`` stands in the messages. Raises SasError for anything that is not a whole image of at most ``MAX_PIXELS`` pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise SasError(f"{name}: image of {width} x {height} pixels", hint=f"at most {MAX_PIXELS:,} pixels are decoded")
            image.load()
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip at 255
                wide = np.clip(np.asarray(upright).astype(np.int64), 0, 65535)
                grey = ((wide + 128) // 257).astype(np.uint8)
                return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))
            return np.array(upright.convert("RGB"), np.uint8)
    except SasError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise SasError(f"{name}: the image is too large ({e})", hint=f"at most {MAX_PIXELS:,} pixels are decoded") from e
    except Image.UnidentifiedImageError as e:
        what = "the file is empty" if not data else "not an image that can be read"
        raise SasError(f"{name}: {what}", hint=f"formats: {', '.join(_FORMATS)}") from e
    except Exception as e:  # Pillow's decoders raise what they meet: OSError, SyntaxError, struct.error, ...
        raise SasError(f"{name}: damaged or truncated image ({e})") from e


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
    """[H, W, 3] to [size, size, 3]: short side to ``resize``, middle cut out (long side truncated, offset rounded)."""
    height, width = image.shape[:2]
    short, size = min(height, width), preprocess.size
    if short == 0:
        raise SasError("an image without pixels")
    new_w, new_h = preprocess.resize * width // short, preprocess.resize * height // short
    if max(new_w, new_h) * preprocess.resize > MAX_PIXELS:
        raise SasError(
            f"an image of {width} x {height} pixels is too narrow to be resized to a short side of {preprocess.resize}"
        )
    out = _resized(image, new_w, new_h, preprocess.interpolation)
    top, left = round((new_h - size) / 2), round((new_w - size) / 2)
    return np.ascontiguousarray(out[top : top + size, left : left + size])


def train_crop(image: U8, preprocess: Preprocess, seed: int, epoch: int, index: int, augment: Augment | None = None) -> U8:
    """[H, W, 3] to [size, size, 3] as ``augment`` says (None: its defaults). Random: share ``area`` of the image and log-uniform
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
    return _resized(image, preprocess.size, preprocess.size, preprocess.interpolation, box)


@lru_cache(maxsize=16)
def quantise_table(
    preprocess: Preprocess, scale: float, zero: int, dtype: Literal["int8", "uint8"]
) -> npt.NDArray[np.int8 | np.uint8]:
    """The 256 quantised values a channel, [3, 256]: q = clamp(rne(((x / 255 - mean) / std) / s) + z), each step in float32
    as an ONNX QuantizeLinear on normalised input computes it."""
    if dtype not in ("int8", "uint8"):
        raise SasError(f"images cannot be quantised to {dtype!r}", hint="int8 or uint8")
    info = np.iinfo(dtype)
    if not (math.isfinite(scale) and scale > 0 and np.float32(scale) > 0) or not info.min <= zero <= info.max:
        raise SasError(
            f"input quantisation: scale {scale!r}, zero point {zero!r}", hint=f"a scale above 0 and a zero point of {dtype}"
        )
    mean, std = np.asarray(preprocess.mean, np.float32)[:, None], np.asarray(preprocess.std, np.float32)[:, None]
    x = np.arange(256, dtype=np.float32)[None, :] / np.float32(255)
    real = (x - mean) / std
    # Clip before adding z, wide enough not to matter: a tiny scale would overflow float32's exact integers.
    steps = np.clip(np.rint(real / np.float32(scale)), -1024, 1024).astype(np.int32)
    table = np.clip(steps + zero, info.min, info.max).astype(dtype)
    table.setflags(write=False)
    return table


def quantise(
    image: U8, preprocess: Preprocess, scale: float, zero: int, dtype: str | np.dtype[Any] | type[Any] = "int8"
) -> npt.NDArray[np.int8 | np.uint8]:
    """uint8 [..., H, W, 3] to the network's input integers of the same shape, by ``quantise_table``."""
    name = np.dtype(dtype).name
    if name not in ("int8", "uint8"):
        raise SasError(f"images cannot be quantised to {name!r}", hint="int8 or uint8")
    if image.dtype != np.uint8 or image.ndim < 3 or image.shape[-1] != 3:
        raise SasError(f"an RGB image of bytes is needed, not {image.dtype} {list(image.shape)}")
    table = quantise_table(preprocess, float(scale), int(zero), "int8" if name == "int8" else "uint8")
    out = np.empty(image.shape, table.dtype)
    for channel in range(3):
        np.take(table[channel], image[..., channel], out=out[..., channel])
    return out
