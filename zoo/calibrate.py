"""Ranges of activations on images, and the scales chosen from them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from sasimc.isa.errors import SasError
from sasimc.zoo.weights import Preprocess, Scale

__all__ = [
    "Stats",
    "affine_scale",
    "as_list",
    "batches",
    "generated_images",
    "observe",
    "power_of_two",
    "prepare",
]

Image = npt.NDArray[np.uint8]
Batch = npt.NDArray[np.float32]

_SAMPLES = 4096


@dataclass
class Stats:
    """Running statistics of one tensor: extremes, mean square, a sample of magnitudes for percentiles; of an image tensor (NCHW) also
    ``channel_squares`` and ``channel_peak``, [C] each."""

    lo: float = math.inf
    hi: float = -math.inf
    count: int = 0
    squares: float = 0.0
    channel_squares: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    channel_peak: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    _tails: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def add(self, value: npt.NDArray[Any]) -> None:
        """Take in a batch; per call the largest magnitudes are kept exactly, so that high percentiles do not depend on luck."""
        flat = np.abs(value.ravel()).astype(np.float32)
        self.lo, self.hi = min(self.lo, float(value.min())), max(self.hi, float(value.max()))
        self.count += flat.size
        self.squares += float(np.square(flat, dtype=np.float64).sum())
        if value.ndim == 4:
            channels = flat.reshape(value.shape).swapaxes(0, 1).reshape(value.shape[1], -1).astype(np.float64)
            first = not self.channel_squares.size
            self.channel_squares = np.square(channels).sum(axis=1) + (0 if first else self.channel_squares)
            self.channel_peak = channels.max(axis=1) if first else np.maximum(self.channel_peak, channels.max(axis=1))
        keep = min(_SAMPLES, flat.size)
        self._tails.append(np.partition(flat, flat.size - keep)[flat.size - keep :])

    def merge(self, other: Stats) -> None:
        """Take in what another one saw (of the same tensor on other values; channels are not looked at)."""
        self.lo, self.hi = min(self.lo, other.lo), max(self.hi, other.hi)
        self.count, self.squares = self.count + other.count, self.squares + other.squares
        self._tails.extend(other._tails)

    @property
    def rms(self) -> float:
        return math.sqrt(self.squares / max(1, self.count))

    @property
    def channel_rms(self) -> npt.NDArray[np.float64]:
        return np.sqrt(self.channel_squares * max(1, self.channel_squares.size) / max(1, self.count))

    def magnitude(self, percent: float) -> float:
        """The value that ``percent`` % of the magnitudes do not exceed (exact within the kept tail, else its minimum)."""
        tail = np.sort(np.concatenate(self._tails))
        above = round(self.count * (1 - percent / 100))
        return float(tail[max(0, tail.size - 1 - above)])


def power_of_two(stats_magnitude: float, *, unsigned: bool, headroom: float = 1.0) -> Scale:
    """Smallest power-of-two scale, zero point 0, whose range holds ``headroom`` times the magnitude."""
    limit = 255 if unsigned else 127
    wanted = max(stats_magnitude * headroom, 1e-6) / limit
    return Scale(2.0 ** math.ceil(math.log2(wanted)), 0, "uint8" if unsigned else "int8")


def affine_scale(lo: float, hi: float) -> Scale:
    """int8 scale and zero point for [lo, hi], widened to contain 0."""
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    if hi - lo < 1e-6:
        hi = lo + 1e-6
    scale = float(np.float32((hi - lo) / 255))
    return Scale(scale, int(np.clip(np.rint(-128 - lo / scale), -128, 127)))


def observe(
    model: onnx.ModelProto, candidates: Mapping[str, str], images: Iterable[Batch], source: str = "input"
) -> dict[str, Stats]:
    """Run ``model`` on float NCHW batches of its input ``source``; statistics of each candidate (site -> tensor name, an output of the model).

    Raises :class:`SasError` when there is no image at all or a tensor becomes NaN or infinite.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = min(4, os.cpu_count() or 1)
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")  # else sums of the INT8 backbone saturate without VNNI
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    stats = {site: Stats() for site in candidates}
    wanted = [t for t in dict.fromkeys(candidates.values()) if t != source]
    seen = False
    for batch in images:
        seen = True
        values = dict(zip(wanted, session.run(wanted, {source: batch}), strict=True)) if wanted else {}
        values[source] = batch
        for site, tensor in candidates.items():
            value = np.asarray(values[tensor])
            if not np.isfinite(value).all():
                raise SasError(f"calibration: '{site}' is not finite", hint="are the weights of this network sound?")
            stats[site].add(value)
    if not seen:
        raise SasError("calibration needs at least one image")
    return stats


def prepare(image: Image, preprocess: Preprocess, resolution: int, resize: int) -> Batch:
    """uint8 HWC RGB image to float CHW: short side to ``resize`` (bilinear), centre crop ``resolution``, normalise."""
    from PIL import Image as Pil

    picture = Pil.fromarray(image)
    w, h = picture.size
    factor = resize / min(w, h)
    if factor != 1:
        picture = picture.resize((max(resize, round(w * factor)), max(resize, round(h * factor))), Pil.Resampling.BILINEAR)
    w, h = picture.size
    left, top = (w - resolution) // 2, (h - resolution) // 2
    pixels = np.asarray(picture.crop((left, top, left + resolution, top + resolution)), np.float32)
    mean, std = np.array(preprocess.mean, np.float32), np.array(preprocess.std, np.float32)
    return ((pixels - mean) / std).transpose(2, 0, 1)


def batches(images: Iterable[Image], preprocess: Preprocess, resolution: int, resize: int, size: int = 4) -> Iterator[Batch]:
    """Prepared images in float NCHW batches of at most ``size``."""
    pending: list[Batch] = []
    for image in images:
        pending.append(prepare(image, preprocess, resolution, resize))
        if len(pending) == size:
            yield np.stack(pending)
            pending = []
    if pending:
        yield np.stack(pending)


def generated_images(count: int, size: int, seed: int = 0) -> Iterator[Image]:
    """Images by formula: coloured noise with the 1/f amplitude spectrum of photographs, and a few flat ellipses with edges."""
    rng = np.random.default_rng(seed)
    fy, fx = np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij")
    falloff = 1 / np.maximum(np.hypot(fy, fx), 1 / size)
    yy, xx = np.mgrid[0:size, 0:size] / size
    for _ in range(count):
        spectrum = falloff[..., None] * np.exp(2j * np.pi * rng.random((*falloff.shape, 3)))
        field_ = np.fft.irfft2(spectrum, s=(size, size), axes=(0, 1))
        grey = field_.mean(axis=2, keepdims=True)
        field_ = grey + 0.6 * (field_ - grey)
        image = 128 + rng.uniform(30, 70) * field_ / field_.std() + rng.uniform(-40, 40, 3)
        for _ in range(int(rng.integers(1, 6))):
            cx, cy, rx, ry = rng.random(4) * (1, 1, 0.3, 0.3) + (0, 0, 0.03, 0.03)
            inside = ((xx - cx) / rx) ** 2 + ((yy - cy) / ry) ** 2 < 1
            image[inside] = 0.3 * image[inside] + 0.7 * rng.uniform(0, 255, 3)
        yield np.clip(image, 0, 255).astype(np.uint8)


def as_list(images: Sequence[Image] | Iterable[Image]) -> list[Image]:
    """The images as uint8 HWC arrays; raises :class:`SasError` for another shape."""
    result = []
    for image in images:
        array = np.asarray(image)
        if array.ndim != 3 or array.shape[2] != 3:
            raise SasError(f"calibration image has shape {list(array.shape)}, height x width x 3 is needed")
        result.append(array.astype(np.uint8, copy=False))
    return result
