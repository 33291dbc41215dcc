"""Where the backbone's weights come from: a folder of INT8 weights, an npz of floats, torchvision, or a seed.

Every source ends as :class:`Backbone`: int8 weights per output channel with their float scales, real-valued biases (so that they
can be re-expressed when an input scale changes), and the activation scales the source fixes, if any. Sites without a scale
are calibrated later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.datasets.dataset import data_folder
from sasimc.isa.errors import SasError, near
from sasimc.zoo.arch import Architecture, ConvSpec

__all__ = [
    "Backbone",
    "Preprocess",
    "QuantWeights",
    "Scale",
    "backbone_weights",
    "fold_batch_norm",
    "fold_state",
    "from_floats",
    "load_floats",
    "load_folder",
    "load_torchvision",
    "quantise_weights",
    "random_backbone",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Scale:
    """Quantisation of one activation: real = scale (q - zero). ``dtype`` is ``int8`` or ``uint8``."""

    scale: float
    zero: int = 0
    dtype: str = "int8"

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest real value."""
        lo, hi = (-128, 127) if self.dtype == "int8" else (0, 255)
        return (lo - self.zero) * self.scale, (hi - self.zero) * self.scale


@dataclass(frozen=True)
class QuantWeights:
    """int8 weights (out first), their scales (one per output channel, or one), and real-valued biases (None: no bias)."""

    weight: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float64] | None = None

    @property
    def real(self) -> npt.NDArray[np.float32]:
        """The weights the integers stand for."""
        return self.weight.astype(np.float32) * self.scale.reshape((-1,) + (1,) * (self.weight.ndim - 1))


@dataclass(frozen=True)
class Preprocess:
    """Pixels (0..255, RGB) to network input: resize the short side, centre crop, (pixel - mean) / std."""

    mean: tuple[float, float, float] = (128.0, 128.0, 128.0)
    std: tuple[float, float, float] = (128.0, 128.0, 128.0)


@dataclass(frozen=True)
class Backbone:
    """A quantised backbone. ``padding`` as in :func:`sasimc.zoo.arch.same_pads`; ``classifier`` None: none known."""

    convs: Mapping[str, QuantWeights]
    classifier: QuantWeights | None = None
    scales: Mapping[str, Scale] = field(default_factory=dict)
    padding: str = "tf"
    preprocess: Preprocess = field(default_factory=Preprocess)
    labels: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the convolutions' integers: which network this is, wherever its file lies."""
        digest = hashlib.sha256()
        for name, conv in sorted(self.convs.items()):
            digest.update(f"{name} {conv.weight.shape}".encode())
            digest.update(np.ascontiguousarray(conv.weight).tobytes())
        return digest.hexdigest()


def quantise_weights(weight: Array, bias: Array | None, in_scale: float = 1 / 128) -> QuantWeights:
    """Symmetric int8 per output channel; the largest magnitude becomes 127.

    The scale of a (nearly) dead channel is kept large enough that its bias, in units of ``in_scale`` times the scale, stays below
    2^24: the accumulator must have room for the products as well.
    """
    flat = np.abs(weight.reshape(weight.shape[0], -1)).max(axis=1).astype(np.float64)
    scale = np.maximum(flat / 127, 1e-9)
    if bias is not None:
        scale = np.maximum(scale, np.abs(bias.astype(np.float64)) / (in_scale * 2**24))
    scale32 = scale.astype(np.float32)
    shape = (-1,) + (1,) * (weight.ndim - 1)
    q = np.clip(np.rint(weight / scale32.reshape(shape)), -127, 127).astype(np.int8)
    return QuantWeights(q, scale32, None if bias is None else bias.astype(np.float64))


def fold_batch_norm(weight: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float = 1e-5) -> tuple[Array, Array]:
    """Weights and bias of the convolution that includes the batch norm behind it (inference form)."""
    factor = gamma.astype(np.float64) / np.sqrt(var.astype(np.float64) + eps)
    return weight * factor.reshape((-1,) + (1,) * (weight.ndim - 1)), beta - mean * factor


def _check_shape(name: str, got: tuple[int, ...], want: tuple[int, ...], source: str) -> None:
    if got != want:
        raise SasError(
            f"{source}: weights of '{name}' have shape {list(got)}, the network needs {list(want)}",
            hint="the width or the number of channels of these weights differs from the options; set --width to match",
        )


def from_floats(
    arch: Architecture,
    tensors: Mapping[str, Array],
    *,
    padding: str,
    preprocess: Preprocess,
    source: str,
    labels: tuple[str, ...] = (),
) -> Backbone:
    """A backbone from folded float tensors ``<conv>.weight``, ``<conv>.bias`` and, optionally, ``classifier.weight/bias``.

    Raises :class:`SasError` for a missing tensor, a wrong shape, or values that are not finite.
    """
    convs = {}
    for spec in arch.convs:
        weight, bias = _tensor(tensors, f"{spec.name}.weight", source), _tensor(tensors, f"{spec.name}.bias", source)
        _check_shape(spec.name, weight.shape, spec.weight_shape, source)
        _check_shape(spec.name, bias.shape, (spec.cout,), source)
        convs[spec.name] = quantise_weights(weight, bias)
    head = None
    if "classifier.weight" in tensors:
        weight, bias = _tensor(tensors, "classifier.weight", source), _tensor(tensors, "classifier.bias", source)
        _check_shape("classifier", weight.shape[1:], (arch.features,), source)
        head = quantise_weights(weight, bias)
    return Backbone(convs, head, padding=padding, preprocess=preprocess, labels=labels)


def _tensor(tensors: Mapping[str, Array], name: str, source: str) -> Array:
    if name not in tensors:
        raise SasError(f"{source}: tensor '{name}' is missing", hint=near(name, list(tensors)))
    value = np.asarray(tensors[name])
    if not np.issubdtype(value.dtype, np.floating):
        value = value.astype(np.float32)
    if not np.all(np.isfinite(value)):
        raise SasError(f"{source}: tensor '{name}' has values that are not finite")
    return value


def random_backbone(arch: Architecture, seed: int, classes: int | None, *, padding: str = "symmetric") -> Backbone:
    """He-initialised weights (variance-preserving, small biases): exercises every shape, knows nothing."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, Array] = {}
    for spec in arch.convs:
        fan_in = int(np.prod(spec.weight_shape[1:]))
        gain = 2.0 if spec.relu6 else 1.0
        tensors[f"{spec.name}.weight"] = rng.normal(0, np.sqrt(gain / fan_in), spec.weight_shape).astype(np.float32)
        tensors[f"{spec.name}.bias"] = rng.normal(0, 0.05, spec.cout).astype(np.float32)
    if classes is not None:
        tensors["classifier.weight"] = rng.normal(0, 1 / np.sqrt(arch.features), (classes, arch.features)).astype(np.float32)
        tensors["classifier.bias"] = np.zeros(classes, np.float32)
    return from_floats(arch, tensors, padding=padding, preprocess=Preprocess(), source="random weights")


def load_floats(path: Path, arch: Architecture) -> Backbone:
    """An ``.npz`` of folded float tensors (:func:`from_floats`); optional arrays ``padding``, ``labels``, ``mean``, ``std``."""
    tensors = load_npz(path)
    padding = str(tensors.get("padding", "symmetric"))
    if padding not in ("tf", "symmetric"):
        raise SasError(f"{path}: padding '{padding}' is neither 'tf' nor 'symmetric'")
    mean = tuple(float(v) for v in np.ravel(tensors.get("mean", np.full(3, 128.0))))
    std = tuple(float(v) for v in np.ravel(tensors.get("std", np.full(3, 128.0))))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise SasError(f"{path}: 'mean' and 'std' need three values each, std positive")
    labels = tuple(str(v) for v in np.ravel(tensors.get("labels", np.array([], dtype=str))))
    pre = Preprocess((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))
    return from_floats(arch, tensors, padding=padding, preprocess=pre, source=path.name, labels=labels)


def load_npz(path: Path) -> dict[str, Array]:
    """Arrays by name. Raises SasError for no such file, or one that cannot be read."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise SasError(f"weights file {path} does not exist") from None
    except Exception as error:  # zipfile, zlib, pickle refusal, header damage: all mean an unreadable file
        raise SasError(f"{path} is not a readable .npz file: {error}", hint="is the download complete?") from error


def load_folder(folder: Path, arch: Architecture) -> Backbone:
    """INT8 weights with their scales: one ``X.layers.json`` and ``X.npz`` in ``folder``.

    Per convolution ``<name>.weight_int8``, ``.weight_scale``, ``.bias_int32``, ``.in_scale_zp``, ``.out_scale_zp``; per residual
    block ``features.k.add_scale_zp`` (rows a, b, out); ``avgpool.out_scale_zp``; ``classifier.1.*``. Integers and scales are kept
    as they are. Stride-2 layers use TensorFlow SAME padding. A background class (the description's ``note`` or the first label
    says so) is dropped, so that output k is ImageNet class k.
    """
    found = sorted(folder.glob("*.layers.json"))
    if not folder.is_dir():
        raise SasError(f"weights folder {folder} does not exist")
    if len(found) != 1:
        raise SasError(
            f"{folder} holds {len(found)} files named *.layers.json, one is needed",
            hint="a weights folder has X.layers.json and X.npz; a float archive is named as a file, --weights X.npz",
        )
    stem = found[0].name.removesuffix(".layers.json")
    npz = folder / f"{stem}.npz"
    try:
        described = json.loads(found[0].read_text(encoding="utf-8"))
        layers = {entry["name"]: entry for entry in described["layers"]}
    except (ValueError, KeyError, TypeError) as error:
        raise SasError(f"{found[0]} is not a layer description: {error!r}") from error
    return _Folder(npz, layers, described, load_npz(npz), arch).backbone(folder)


@dataclass(frozen=True)
class _Folder:
    path: Path
    layers: Mapping[str, Any]
    described: Mapping[str, Any]
    tensors: Mapping[str, Array]
    arch: Architecture

    def get(self, name: str) -> Array:
        if name not in self.tensors:
            raise SasError(f"{self.path.name}: array '{name}' is missing", hint=near(name, list(self.tensors)))
        return self.tensors[name]

    def scale(self, name: str, row: int | None = None) -> Scale:
        pair = np.asarray(self.get(name), np.float64)
        pair = pair if row is None else pair[row]
        if pair.shape != (2,) or not np.isfinite(pair).all() or pair[0] <= 0 or not -128 <= pair[1] <= 127:
            raise SasError(f"{self.path.name}: '{name}' is not a (scale, zero point) pair: {pair.tolist()}")
        return Scale(float(np.float32(pair[0])), int(pair[1]))

    def weights(self, name: str, shape: tuple[int, ...]) -> QuantWeights:
        weight, scale, bias = (self.get(f"{name}.{part}") for part in ("weight_int8", "weight_scale", "bias_int32"))
        _check_shape(name, weight.reshape(shape).shape if weight.size == np.prod(shape) else weight.shape, shape, self.path.name)
        _check_shape(f"{name} (scales)", scale.shape, (shape[0],), self.path.name)
        _check_shape(f"{name} (bias)", bias.shape, (shape[0],), self.path.name)
        if weight.dtype != np.int8:
            raise SasError(f"{self.path.name}: '{name}.weight_int8' is {weight.dtype}, not int8")
        if not np.isfinite(scale).all() or float(scale.min()) <= 0:
            raise SasError(f"{self.path.name}: '{name}.weight_scale' has values that are not positive and finite")
        in_scale = self.scale(f"{name}.in_scale_zp").scale
        real_bias = bias.astype(np.float64) * (in_scale * scale.astype(np.float64))
        return QuantWeights(weight.reshape(shape), scale.astype(np.float32), real_bias)

    def backbone(self, folder: Path) -> Backbone:
        convs: dict[str, QuantWeights] = {}
        scales: dict[str, Scale] = {"input": self.scale(f"{self.arch.convs[0].name}.in_scale_zp")}
        for spec in self.arch.convs:
            self._check_layer(spec)
            convs[spec.name] = self.weights(spec.name, spec.weight_shape)
            scales[spec.name] = self.scale(f"{spec.name}.out_scale_zp")
        for block in self.arch.blocks:
            if block.residual:
                scales[f"{block.name}.add"] = self.scale(f"{block.name}.add_scale_zp", 2)
        scales["avgpool"] = self.scale("avgpool.out_scale_zp")
        name = "classifier.1"
        classes = int(self.get(f"{name}.bias_int32").shape[0])
        head = self.weights(name, (classes, self.arch.features))
        scales["classifier"] = self.scale(f"{name}.out_scale_zp")
        labels = _labels(folder)
        if "background" in str(self.described.get("note", "")).lower() or (labels and labels[0].lower() == "background"):
            bias = None if head.bias is None else head.bias[1:]
            head = QuantWeights(head.weight[1:], head.scale[1:], bias)
            labels = labels[1:]
        if len(labels) != head.weight.shape[0]:
            labels = ()
        step = scales["input"]
        # the integers the original network is fed are pixel - 128: real = (pixel - 128 - zero) * scale, without rounding ties
        mean, std = float(128 + step.zero), 1 / step.scale
        return Backbone(convs, head, scales, "tf", Preprocess((mean, mean, mean), (std, std, std)), labels)

    def _check_layer(self, spec: ConvSpec) -> None:
        entry = self.layers.get(spec.name)
        if entry is None:
            hint = near(spec.name, list(self.layers))
            raise SasError(f"layer '{spec.name}' is not described in {self.path.stem}.layers.json", hint=hint)
        act = "relu6" if spec.relu6 else "none"
        want = {"shape": list(spec.weight_shape), "stride": spec.stride, "groups": spec.groups, "act": act}
        for key, value in want.items():
            if entry.get(key, value) != value:
                raise SasError(
                    f"layer '{spec.name}' has {key} {entry[key]}, the network needs {value}",
                    hint="the width of these weights differs from the options" if key == "shape" else "",
                )


def _labels(folder: Path) -> tuple[str, ...]:
    """Lines of the only ``*labels*.txt`` of the folder, if there is one."""
    files = sorted(folder.glob("*labels*.txt"))
    if len(files) != 1:
        return ()
    return tuple(line.strip() for line in files[0].read_text(encoding="utf-8").splitlines() if line.strip())


def backbone_weights(chosen: str | None = None, data: Path | None = None) -> str | None:
    """What was chosen (None for ``random``), else ``weights`` in the data folder, else torchvision's."""
    if chosen is not None:
        return None if chosen == "random" else chosen
    base = data_folder(data)
    return str(base / "weights") if base is not None and (base / "weights").is_dir() else "torchvision"


def load_torchvision(arch: Architecture) -> Backbone:
    """torchvision's MobileNet-V2 (ImageNet weights, width 1.0); needs torchvision and its weight file or a connection."""
    try:
        from torchvision.models import MobileNet_V2_Weights, mobilenet_v2  # type: ignore[import-not-found]
    except ImportError:
        raise SasError(
            "torchvision is not installed", hint="pip install torchvision, or give --weights a folder or an .npz file"
        ) from None
    chosen = MobileNet_V2_Weights.IMAGENET1K_V2
    try:
        state = {name: value.numpy() for name, value in mobilenet_v2(weights=chosen).state_dict().items()}
    except Exception as error:  # a download can fail in many ways
        raise SasError(f"torchvision could not load its MobileNet-V2 weights: {error}") from error
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pre = Preprocess((255 * mean[0], 255 * mean[1], 255 * mean[2]), (255 * std[0], 255 * std[1], 255 * std[2]))
    labels = tuple(str(v) for v in chosen.meta.get("categories", ()))
    return from_floats(arch, fold_state(arch, state), padding="symmetric", preprocess=pre, source="torchvision", labels=labels)


def fold_state(arch: Architecture, state: Mapping[str, Array]) -> dict[str, Array]:
    """Folded tensors for :func:`from_floats` from a state dict with batch norms (conv ``a.b.N`` has the norm ``a.b.N+1``)."""
    tensors: dict[str, Array] = {}
    for spec in arch.convs:
        head, _, last = spec.name.rpartition(".")
        norm = f"{head}.{int(last) + 1}"
        parts = [_tensor(state, f"{norm}.{p}", "state dict") for p in ("weight", "bias", "running_mean", "running_var")]
        weight = _tensor(state, f"{spec.name}.weight", "state dict")
        tensors[f"{spec.name}.weight"], tensors[f"{spec.name}.bias"] = fold_batch_norm(
            weight, parts[0], parts[1], parts[2], parts[3]
        )
    if "classifier.1.weight" in state:
        tensors["classifier.weight"] = _tensor(state, "classifier.1.weight", "state dict")
        tensors["classifier.bias"] = _tensor(state, "classifier.1.bias", "state dict")
    return tensors
