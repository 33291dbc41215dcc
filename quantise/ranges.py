"""Ranges of float tensors that a quantised network leaves without a scale, measured on images.

Exporters that put QuantizeLinear in front of weighted layers only leave trunks of residual sums, logits and pools in float. The compiler stores
them as 8-bit integers; where no quantisation beside a tensor gives it a scale, its range does, noted in the model's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import ModelProto, helper

from sasimc.datasets import procedural
from sasimc.frontend.onnx_import import RANGES, unscaled
from sasimc.frontend.qdq_form import qdq_form
from sasimc.isa.errors import SasError
from sasimc.quantise.preprocessing import find_preprocess
from sasimc.quantise.samples import Samples, plane_of, read_samples, real_image

__all__ = ["Ranged", "with_ranges"]

Array = npt.NDArray[Any]
DRAWN = 16
IMAGES = 100
MARGIN = 1.5
"""Ranges that drawn images gave are this much wider: they are not what the network will see."""


@dataclass(frozen=True, eq=False)
class Ranged:
    """``model``: with the ranges in its metadata; ``tensors``: how many it was given; ``source``: what they were measured on."""

    model: ModelProto
    tensors: int = 0
    source: str = ""

    def __str__(self) -> str:
        return f"{self.tensors} float tensors have no scale: their ranges are those of {self.source}" if self.tensors else ""


def with_ranges(model: ModelProto, source: str | None = None) -> Ranged:
    """The model with ranges for its float tensors without scale.

    Args:
        source: a data set, a folder of images, or an array of inputs (.npy, .npz). None: ranges that the metadata have stay, those that follow
            from the quantisation around are left to the compiler, and the rest is guessed on drawn images.

    Raises:
        SasError: no such images, or onnxruntime does not run the model.
    """
    noted: dict[str, list[float]] = json.loads(next((p.value for p in model.metadata_props if p.key == RANGES), "{}"))
    wanted = [v for v, follows in unscaled(model).items() if source or not (follows or v in noted)]
    if not wanted:
        return Ranged(model)
    samples, text = _samples(model, source)
    low, high = _measure(model, wanted, samples)
    wide = 1.0 if source else MARGIN
    noted.update({v: [wide * float(a), wide * float(b)] for v, a, b in zip(wanted, low, high, strict=True)})
    made = ModelProto()
    made.CopyFrom(model)
    helper.set_model_props(made, {**{p.key: p.value for p in model.metadata_props}, RANGES: json.dumps(noted)})
    return Ranged(made, len(wanted), text)


def _samples(model: ModelProto, source: str | None) -> tuple[list[dict[str, Array]], str]:
    """Feeds of one batch each, and what they are."""
    if source is not None:
        plane = plane_of(model)
        how = find_preprocess(model, Path(), plane.size, {}).preprocess if plane.image else None
        found = read_samples(source, None, plane, how, IMAGES, 0)
        return [{plane.name: x} for x in found], f"{len(found.inputs)} of {found.note}"
    drawn = _drawn(model)
    if drawn is not None:
        return [{plane_of(model).name: x} for x in drawn], f"{DRAWN} drawn images, a guess; --calibrate FOLDER measures them"
    return _noise(model), f"{DRAWN} random inputs, a guess; --calibrate FILE.npz measures them"


def _drawn(model: ModelProto) -> Samples | None:
    try:
        plane = plane_of(model)
    except SasError:
        return None
    if not plane.image or not 8 <= plane.size <= 1024:
        return None
    classes = len(procedural.class_names("pretrain"))
    images = [procedural.draw("pretrain", i % classes, i, plane.size) for i in range(DRAWN)]
    preprocess = find_preprocess(model, Path(), plane.size, {}).preprocess
    return Samples(tuple(real_image(image, plane, preprocess) for image in images), (), (), "")


def _noise(model: ModelProto) -> list[dict[str, Array]]:
    """Normal deviates, smooth along the last axis in every other sample; integers where the input is one."""
    rng, constants = np.random.default_rng(0), {t.name for t in model.graph.initializer}
    feeds: list[dict[str, Array]] = [{} for _ in range(DRAWN)]
    for info in model.graph.input:
        if info.name in constants:
            continue
        tensor = info.type.tensor_type
        dims = [d.dim_value or 1 for d in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        for i, feed in enumerate(feeds):
            x = rng.normal(size=dims)
            if i % 2 and dims[-1] > 2:
                x = np.cumsum(x, -1) / np.sqrt(dims[-1])
            if dtype.kind in "iu":
                at = np.iinfo(dtype)
                x = np.clip(np.rint((at.min + at.max + 1) / 2 + 50 * x), at.min, at.max)
            feed[info.name] = x.astype(dtype)
    return feeds


def _measure(model: ModelProto, wanted: Sequence[str], feeds: Sequence[dict[str, Array]]) -> tuple[Array, Array]:
    """Least and largest value of each tensor."""
    made = {o for node in model.graph.node for o in node.output}
    asked = [v for v in wanted if v in made]
    cut = ModelProto()
    cut.CopyFrom(qdq_form(model))
    del cut.graph.output[:]
    cut.graph.output.extend(onnx.helper.make_empty_tensor_value_info(v) for v in asked)
    if not asked:  # inputs alone; a graph must have an output
        cut.graph.output.extend(model.graph.output)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    low, high = np.zeros(len(wanted)), np.zeros(len(wanted))
    try:
        session = onnxruntime.InferenceSession(cut.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for feed in feeds:
            found = {**feed, **dict(zip(asked, session.run(asked or None, feed), strict=False))}
            for i, v in enumerate(wanted):
                values = np.asarray(found[v], np.float64)
                low[i], high[i] = min(low[i], values.min()), max(high[i], values.max())
    except Exception as e:  # onnxruntime has an exception of its own for every kind of failure
        raise SasError(f"onnxruntime does not run the model: {' '.join(str(e).split())[:200]}") from None
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        bad = wanted[int(np.argmin(np.isfinite(low) & np.isfinite(high)))]
        raise SasError(f"{bad!r} is NaN or infinite on these inputs", hint="repair the network, or give other inputs")
    return low, high
