"""A network for a data set in one go: modules and a classifier for its classes on a backbone's weights, calibrated on its training images, compiled."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto

from sasimc.datasets.dataset import Dataset, hold_back, open_dataset
from sasimc.datasets.examples import training_examples
from sasimc.isa.program import Program
from sasimc.training.recipe import Recipe

__all__ = ["model_for", "program_for"]

_MODEL = "mobilenetv2-repnet"


def model_for(dataset: str, data: Path | None, weights: str | None, size: int, recipe: Recipe, name: str = _MODEL) -> ModelProto:
    """The network for the data set ``dataset`` (a name below ``data``, or a path), as the recipe's section zoo asks for.

    ``name``: of the zoo's model; ``weights``: of the backbone, as of ``sasc zoo`` (None: random); ``size``: side of the input, pixels.

    Raises:
        SasError: no such data set or weights, options that do not fit.
    """
    return _model(name, _opened(dataset, data, size, recipe), weights, size, recipe)


def program_for(dataset: str, data: Path | None, weights: str | None, size: int, recipe: Recipe) -> Program:
    """:func:`model_for`, compiled as the recipe's section compile asks for; layers within a budget are chosen on the same training images."""
    from sasimc.api import CompileOptions, compile_model

    opened = _opened(dataset, data, size, recipe)
    model = _model(_MODEL, opened, weights, size, recipe)
    return compile_model(model, CompileOptions(**recipe.compile_options()), data=opened).program


def _opened(dataset: str, data: Path | None, size: int, recipe: Recipe) -> Dataset:
    return hold_back(open_dataset(dataset, data, size=size), recipe.data.hold_back)


def _model(name: str, opened: Dataset, weights: str | None, size: int, recipe: Recipe) -> ModelProto:
    from sasimc.zoo.zoo import ZooOptions, build

    made = ZooOptions(
        weights=weights, resolution=size, classes=len(opened.classes), labels=opened.classes if opened.named else (), seed=recipe.seed,
        **recipe.zoo.model_dump(),
    )  # fmt: skip
    return build(name, made, training_examples(opened, made.calibration_images))
