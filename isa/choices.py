"""Words that users choose from, apart from what they choose, so that `--help` finds them at once."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

__all__ = [
    "CROPS",
    "ENGINES",
    "INTERPOLATIONS",
    "LANE_KINDS",
    "LEVELS",
    "MATCHES",
    "PRESETS",
    "SPLITS",
    "SUPPLIES",
    "TECHNOLOGIES",
    "shipped_recipes",
]

ENGINES = ("step", "bitserial", "fused")
SPLITS = ("train", "val", "test")
LEVELS = ("none", "scratch")
MATCHES = ("name", "position")
"""How classes of data and program belong together."""
LANE_KINDS = ("auto", "subarray", "bank", "group")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box")
CROPS = ("middle", "none")
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "unit": {"mean": 0.0, "std": 1.0},
    "symmetric": {"mean": 0.5, "std": 0.5},
    "imagenet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "bytes": {"mean": 0.0, "std": 1 / 255},
    "centred": {"mean": 128 / 255, "std": 1 / 255},
    "mnist": {"mean": 0.1307, "std": 0.3081},
}
"""Preprocessing: x/255, x/127.5 - 1, that of torchvision's ImageNet weights, x, x - 128, and that of PyTorch's MNIST examples."""
TECHNOLOGIES = ("sas", "sot", "stt", "sram")
"""Technologies that come with the package."""
SUPPLIES = ("constant", "duty", "solar", "rf", "vibration")
"""Power supplies that come with the package, and the forms of their traces."""


def shipped_recipes() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    folder = resources.files("sasimc.training").joinpath("recipes")
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))
