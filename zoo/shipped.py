"""First weights of modules that come with the package: one file for each backbone and resolution that they were distilled for.

A file is what ``examples/distil_modules.py`` writes: an array of floats for each convolution, and beside them ``backbone``, the
:attr:`~sasimc.zoo.weights.Backbone.fingerprint` of the network that it is for, and ``resolution`` in pixels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TypeVar

import numpy as np

from sasimc.isa.errors import SasError
from sasimc.zoo.arch import RepModule
from sasimc.zoo.options import LearnerOptions
from sasimc.zoo.weights import Backbone

__all__ = ["contents", "shipped_weights", "with_shipped"]

REACH = 2.0
"""Weights are taken at resolutions up to this factor from their own (docs/measurements/training.md, Modules that start from weights)."""

Options = TypeVar("Options", bound=LearnerOptions)


def shipped_weights() -> list[Path]:
    """The files."""
    return sorted(Path(str(resources.files("sasimc.zoo") / "default")).glob("*.npz"))


def with_shipped(options: Options, modules: Sequence[RepModule], backbone: Backbone, resolution: int) -> Options:
    """The options with ``module_weights`` = ``auto`` decided where there is a shipped file for this backbone, all these modules and a resolution within :data:`REACH`: the nearest one."""
    if not (options.takes_shipped and modules):
        return options
    shapes = {conv.name: tuple(conv.weight_shape) for m in modules for conv in (m.conv1, m.conv2)}
    fitting = dict[Path, float]()
    for path in shipped_weights():
        with np.load(path) as held:  # an array is read when it is asked for
            away = abs(math.log(int(held["resolution"]) / resolution))
            if (
                away <= math.log(REACH)
                and str(held["backbone"]) == backbone.fingerprint
                and all(name in held and held[name].shape == shape for name, shape in shapes.items())
            ):
                fitting[path] = away
    return replace(options, module_weights=str(min(fitting, key=fitting.__getitem__))) if fitting else options


def contents(module_weights: str) -> dict[str, str]:
    """What ``module_weights`` may bring in, by content: SHA-256 of each file. Raises SasError for one that cannot be read."""
    if module_weights == "random":
        return {}
    if module_weights == "auto":
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shipped_weights()}
    try:
        return {"": hashlib.sha256(Path(module_weights).read_bytes()).hexdigest()}
    except OSError as error:
        raise SasError(f"weights file {module_weights}: {error.strerror}") from None
