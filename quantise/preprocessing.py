"""What a float network expects of an image, found in what its exporter left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from sasimc.datasets.images import Preprocess
from sasimc.isa.errors import SasError

__all__ = ["FoundPreprocess", "find_preprocess"]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_PIL_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}


@dataclass(frozen=True)
class FoundPreprocess:
    """``why``: where it comes from, for the user; ``guess``: nothing said so."""

    preprocess: Preprocess
    why: str
    guess: bool = False


def find_preprocess(model: ModelProto, path: Path, size: int, given: Mapping[str, Any]) -> FoundPreprocess:
    """How images become the input of a network of ``size`` pixels.

    ``given`` (keys of :class:`Preprocess`) wins over everything else. Then, in this order: the model's metadata (``sasimc.preprocess``), files that
    Hugging Face (``preprocessor_config.json``) and timm (``config.json``) put beside the model, the habit of the exporter.

    Raises:
        SasError: values that are no preprocessing.
    """
    found = _from_metadata(model) or _from_neighbours(path, size) or _from_exporter(model, size)
    if not given:
        return found
    values = {**json.loads(found.preprocess.to_json()), **given}
    if "size" in given and "resize" not in given:
        values.pop("resize")
    rest = {"mean", "std"} - given.keys()
    why = f"options ({', '.join(sorted(given))})" + (f"; the rest: {found.why}" if rest else "")
    return FoundPreprocess(Preprocess.from_json(values), why, found.guess and bool(rest))


def _from_metadata(model: ModelProto) -> FoundPreprocess | None:
    text = next((p.value for p in model.metadata_props if p.key == "sasimc.preprocess"), "")
    return FoundPreprocess(Preprocess.from_json(text), "the model's metadata, sasimc.preprocess") if text else None


def _from_neighbours(path: Path, size: int) -> FoundPreprocess | None:
    for name, read in (("preprocessor_config.json", _hugging_face), ("config.json", _timm)):
        file = path.parent / name
        if not file.is_file():
            continue
        try:
            values = read(json.loads(file.read_text(encoding="utf-8")), size)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError):
            continue  # some other program's file of that name
        if values is not None:
            return FoundPreprocess(Preprocess.from_json(values), f"{name} beside the model")
    return None


def _hugging_face(config: Mapping[str, Any], size: int) -> dict[str, Any] | None:
    if "image_mean" not in config or not config.get("do_normalize", True):
        return None
    wanted = config.get("size", size)
    short = wanted if isinstance(wanted, int) else wanted.get("shortest_edge", wanted.get("height", size))
    values: dict[str, Any] = {
        "mean": config["image_mean"],
        "std": config["image_std"],
        "size": size,
        "resize": max(size, int(short)),
    }
    if config.get("resample") in _PIL_FILTERS:
        values["interpolation"] = _PIL_FILTERS[config["resample"]]
    return values


def _timm(config: Mapping[str, Any], size: int) -> dict[str, Any] | None:
    made = config.get("pretrained_cfg")
    if not isinstance(made, Mapping) or "mean" not in made:
        return None
    values: dict[str, Any] = {"mean": list(made["mean"]), "std": list(made["std"]), "size": size}
    values["resize"] = max(size, int(size / float(made.get("crop_pct") or 0.875)))
    if made.get("interpolation") in _PIL_FILTERS.values():
        values["interpolation"] = made["interpolation"]
    return values


def _from_exporter(model: ModelProto, size: int) -> FoundPreprocess:
    producer = model.producer_name.lower()
    keras = any(word in producer for word in ("tf2onnx", "keras", "tensorflow"))
    (mean, std), habit = (
        (_HALF, "x / 127.5 - 1, usual for Keras")
        if keras
        else (_IMAGENET, "the mean and deviation of ImageNet, usual for PyTorch")
    )
    values = {"mean": mean, "std": std, "size": size, "resize": size * 8 // 7}
    return FoundPreprocess(
        Preprocess.from_json(values), f"a guess from the exporter {model.producer_name!r}: {habit}", guess=True
    )


def parse_numbers(text: str, option: str) -> list[float]:
    """One number or three, separated by commas.

    Raises:
        SasError: anything else.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3):
        raise SasError(f"{option} {text!r}", hint="one number, or three separated by commas: red, green, blue")
    return numbers * 3 if len(numbers) == 1 else numbers
