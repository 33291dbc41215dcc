"""What the host does to images and arrays on their way into the network: preprocessing, and quantisation to the input's integers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sasimc.isa.choices import CROPS, INTERPOLATIONS, PRESETS
from sasimc.isa.errors import SasError, near

__all__ = [
    "Preprocess",
    "guess",
    "parse_preprocess",
    "quantise",
    "quantise_table",
    "quantise_values",
]

U8 = npt.NDArray[np.uint8]


def _triple(value: Any, key: str) -> tuple[float, float, float]:
    numbers = [value] * 3 if isinstance(value, int | float) else value
    if isinstance(numbers, list | tuple) and len(numbers) == 1:
        numbers = [*numbers] * 3
    if not isinstance(numbers, list | tuple) or len(numbers) != 3:
        raise SasError(f"preprocessing: {key!r} is {value!r}", hint="give one number, or three: red, green, blue")
    if any(isinstance(n, bool) or not isinstance(n, int | float) or not math.isfinite(n) for n in numbers):
        raise SasError(f"preprocessing: {key!r} is {value!r}", hint="finite numbers are needed")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


@dataclass(frozen=True)
class Preprocess:
    """How images become network input: x_real = (x / 255 - mean) / std a channel (RGB, or grey), geometry as in the module's text.

    ``mean`` and ``std`` in units of 0..1; ``size`` in pixels, one number or (height, width); ``resize`` the short side before the cut, at least
    that of ``size``; ``crop`` "none": the whole image is scaled to ``size``, whatever its ratio; ``interpolation`` is one of
    nearest, bilinear, bicubic, lanczos, box. The defaults are those of the TensorFlow MobileNet-V2 weights: x / 127.5 - 1.
    Raises SasError for values outside these.
    """

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    size: int | tuple[int, int] = 224
    resize: int = 256
    interpolation: str = "bilinear"
    crop: str = "middle"

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
        if isinstance(self.size, list | tuple):
            square = len(self.size) > 0 and all(side == self.size[0] for side in self.size)
            object.__setattr__(self, "size", self.size[0] if square else tuple(self.size))
        sides = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        for key, value in (*(("size", side) for side in sides or (None,)), ("resize", self.resize)):
            if len(sides) != 2 or isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 8192:
                raise SasError(f"preprocessing: {key!r} is {getattr(self, key)!r}", hint="a whole number of pixels, 1..8192")
        if self.resize < min(sides):
            raise SasError(
                f"preprocessing: short side {self.resize} is smaller than the crop {min(sides)}",
                hint="'resize' must be at least 'size'",
            )
        if self.crop not in CROPS:
            raise SasError(f"preprocessing: 'crop' is {self.crop!r}", hint="middle, or none: the whole image is scaled")
        if self.interpolation not in INTERPOLATIONS:
            raise SasError(
                f"preprocessing: no interpolation {self.interpolation!r}",
                hint=near(str(self.interpolation), INTERPOLATIONS) or f"known: {', '.join(INTERPOLATIONS)}",
            )

    @property
    def height(self) -> int:
        return self.size[0] if isinstance(self.size, tuple) else self.size

    @property
    def width(self) -> int:
        return self.size[1] if isinstance(self.size, tuple) else self.size

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
        if isinstance(size, list) and size and all(isinstance(side, int) for side in size):
            size = min(size)
        if "resize" not in values and isinstance(size, int) and not isinstance(size, bool):
            values["resize"] = size * 8 // 7
        return Preprocess(**values)

    def __str__(self) -> str:
        """In a few words, as the first line of a run says it."""
        means, stds = ({round(v, 4) for v in values} for values in (self.mean, self.std))
        plain: dict[tuple[float, ...], str] = {
            (0.5, 0.5): "x/127.5 - 1",
            (0.0, 1.0): "x/255",
            (0.0, 0.0039): "x",
            (0.502, 0.0039): "x - 128",
        }
        one = len(means) == len(stds) == 1
        arithmetic = plain.get((*means, *stds), "") if one else ""
        if not arithmetic:
            mean, std = ("/".join(f"{v:.4g}" for v in (values[:1] if one else values)) for values in (self.mean, self.std))
            arithmetic = f"(x/255 - {mean}) / {std}"
        size = f"{self.height} x {self.width}"
        geometry = f"scaled to {size}" if self.crop == "none" else f"short side {self.resize}, middle {size}"
        return f"{arithmetic}, {geometry}, {self.interpolation}"

    def to_json(self) -> str:
        """JSON text, ``from_json(p.to_json()) == p``."""
        fields: dict[str, Any] = {
            "mean": list(self.mean),
            "std": list(self.std),
            "size": self.size,
            "resize": self.resize,
            "interpolation": self.interpolation,
            "crop": self.crop,
        }
        return json.dumps(fields)


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
    """uint8 [..., H, W, 1 or 3] to the network's input integers of the same shape, by ``quantise_table``."""
    name = np.dtype(dtype).name
    if name not in ("int8", "uint8"):
        raise SasError(f"images cannot be quantised to {name!r}", hint="int8 or uint8")
    if image.dtype != np.uint8 or image.ndim < 3 or image.shape[-1] not in (1, 3):
        raise SasError(f"a grey or RGB image of bytes is needed, not {image.dtype} {list(image.shape)}")
    if image.shape[-1] == 1 and len(set(preprocess.mean)) + len(set(preprocess.std)) > 2:
        raise SasError(
            f"preprocessing: mean {preprocess.mean} and std {preprocess.std} for a network that takes grey images",
            hint="one mean, one std",
        )
    table = quantise_table(preprocess, float(scale), int(zero), "int8" if name == "int8" else "uint8")
    if (table == table[0]).all():  # one look-up for all channels, several times as fast
        return np.frombuffer(bytearray(image.tobytes().translate(table[0].tobytes())), table.dtype).reshape(image.shape)
    out = np.empty(image.shape, table.dtype)
    for channel in range(image.shape[-1]):
        np.take(table[channel], image[..., channel], out=out[..., channel])
    return out


def quantise_values(x: npt.NDArray[Any], scale: float, zero: int, dtype: str) -> npt.NDArray[np.int8 | np.uint8]:
    """Real values to the input's integers: q = clamp(rne(x / s) + z) in float32, as an ONNX QuantizeLinear; not a number becomes the zero point."""
    info = np.iinfo(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.rint(x.astype(np.float32) / np.float32(scale))
    steps = np.clip(np.nan_to_num(steps, nan=0.0, posinf=1024, neginf=-1024), -1024, 1024).astype(np.int32)
    return np.clip(steps + zero, info.min, info.max).astype(dtype)


def parse_preprocess(text: str) -> Mapping[str, Any]:
    """Fields of a :class:`Preprocess`: a preset by name, or a JSON object. Raises SasError for anything else."""
    if text in PRESETS:
        return PRESETS[text]
    if not text.lstrip().startswith("{"):
        raise SasError(f"no preprocessing {text!r}", hint=near(text, list(PRESETS)) or f"{', '.join(PRESETS)}, or a JSON object")
    return {k: v for k, v in json.loads(Preprocess.from_json(text).to_json()).items() if k in json.loads(text)}


def preprocess_fields(
    *, mean: str | None, std: str | None, size: str | None, resize: int | None, crop: str | None, interpolation: str | None
) -> dict[str, Any]:
    """Fields of a :class:`Preprocess` from options as they are typed: ``0.5``, ``0.485,0.456,0.406``, ``224``, ``96x160``; None: not given.

    Raises:
        SasError: text that is no such number.
    """
    fields: dict[str, Any] = {"resize": resize, "crop": crop, "interpolation": interpolation}
    for name, text, separator, kind in (("mean", mean, ",", float), ("std", std, ",", float), ("size", size, "x", int)):
        if text is not None:
            try:
                numbers = tuple(kind(part) for part in text.split(separator))
            except ValueError:
                raise SasError(f"--{name} {text}: numbers are needed", hint="0.5 or 0.485,0.456,0.406; 224 or 96x160") from None
            fields[name] = numbers[0] if len(numbers) == 1 else numbers
    return {name: value for name, value in fields.items() if value is not None}


def guess(height: int, width: int, channels: int, scale: float, zero: int, dtype: str) -> tuple[Preprocess, str]:
    """The preprocessing that the input's quantisation suggests, and why, in words.

    The integers of the input reach from real value ``low`` to ``high``; the preset whose images reach as far is taken (within 4 %). Symmetric
    quantisation tells the larger of both only. Small networks (short side below 96) are taken to see whole images, larger ones the middle 7/8.
    """
    short = min(height, width)
    geometry: dict[str, Any] = {"size": (height, width), "resize": short if short < 96 else round(short * 256 / 224)}
    info = np.iinfo(dtype)
    low, high = (info.min - zero) * scale, (info.max - zero) * scale
    symmetric = abs(low + high) <= 1.5 * scale
    found = []
    for name in ("symmetric", "unit", "imagenet", "centred", "bytes", *(("mnist",) if channels == 1 else ())):
        p = Preprocess(**PRESETS[name], **geometry)
        if channels == 1 and len(set(p.mean)) > 1:
            continue
        first, last = (pick((x - m) / s for m, s in zip(p.mean, p.std, strict=True)) for pick, x in ((min, 0.0), (max, 1.0)))
        if symmetric:
            first = -max(-first, last)
            last = -first
        if max(abs(low - first), abs(high - last)) <= 0.04 * (last - first):
            found.append((name, p))
    reach = f"the input's quantisation reaches from {low:.4g} to {high:.4g}"
    if not found:
        return Preprocess(**geometry), f"{reach}, which fits no usual preprocessing"
    others = "".join(f"; {name} fits as well" for name, _ in found[1:])
    return found[0][1], f"{reach}{others}"
