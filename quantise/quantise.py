"""A float ONNX network to the int8 (QDQ) form that the compiler takes: onnxruntime's static quantisation with the settings that fit the arrays.

Weights are int8, symmetric, by output channel; activations are uint8 with a zero point. What is compared before and after runs in onnxruntime
with its graph optimisations off, because its fused integer kernels saturate on processors without VNNI.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from sasimc.frontend.norms import with_layer_norms
from sasimc.isa.errors import SasError
from sasimc.isa.files import write_atomically
from sasimc.quantise.samples import InputPlane, Samples

__all__ = ["METHODS", "Method", "Quality", "compare", "quantise"]

Method = Literal["minmax", "entropy", "percentile"]
METHODS: dict[Method, CalibrationMethod] = {
    "minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy, "percentile": CalibrationMethod.Percentile,
}  # fmt: skip
"""How ranges of activations follow from what was seen."""


@dataclass(frozen=True)
class Quality:
    """What quantising changed, on ``images`` examples: ``difference`` of the outputs (root mean square, as a share of theirs); share of equal classes, and
    top-1 before and after (NaN without labels); ``classes``: the outputs are no copy of the input, so the largest may mean a class."""

    images: int
    difference: float
    classes: bool
    same_class: float
    top1_float: float
    top1_int8: float


class _Reader(CalibrationDataReader):
    def __init__(self, name: str, samples: Samples, progress: Callable[[int], None]) -> None:
        self._left: Iterator[npt.NDArray[np.float32]] = iter(samples)
        self._name, self._progress, self._done = name, progress, 0

    def get_next(self) -> dict[str, Any] | None:  # pyright: ignore[reportIncompatibleMethodOverride]  (its documentation ends with None)
        found = next(self._left, None)
        if found is None:
            return None
        self._done += 1
        self._progress(self._done)
        return {self._name: found}


def quantise(
    source: Path, plane: InputPlane, samples: Samples, out: Path, metadata: dict[str, str], *, method: Method = "minmax",
    per_channel: bool = True, progress: Callable[[int], None] = lambda _: None,
) -> None:  # fmt: skip
    """Write the int8 form of the float network ``source`` to ``out``; ``metadata`` is added to the file's own.

    Raises:
        SasError: onnxruntime cannot load, prepare or quantise the network; the file cannot be written.
    """
    noisy = logging.getLogger()
    level, prepared_name = noisy.level, "prepared.onnx"
    with tempfile.TemporaryDirectory() as folder:
        prepared, made = Path(folder) / prepared_name, Path(folder) / "int8.onnx"
        try:
            noisy.setLevel(logging.ERROR)  # it advises the very preparation that is done here
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            onnx.save(with_layer_norms(onnx.load(prepared)), prepared)
            quantize_static(
                prepared, made, _Reader(plane.name, samples, progress), quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8, per_channel=per_channel, calibrate_method=METHODS[method],
            )  # fmt: skip
            model = onnx.load(made)
        except Exception as exc:  # onnxruntime raises its own classes, ValueError, and what protobuf raises
            raise SasError(f"{source}: onnxruntime cannot quantise it: {' '.join(str(exc).split())[:300]}") from None
        finally:
            noisy.setLevel(level)
    for key, value in metadata.items():
        kept = next((p for p in model.metadata_props if p.key == key), None) or model.metadata_props.add()
        kept.key, kept.value = key, value
    write_atomically(out, model.SerializeToString())


def _outputs(path: Path, plane: InputPlane, samples: Samples, progress: Callable[[int], None]) -> npt.NDArray[np.float64]:
    """[n, outputs] of every sample."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    found = []
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for number, x in enumerate(samples, 1):
            found.append(np.asarray(session.run(None, {plane.name: x})[0], np.float64).ravel())
            progress(number)
    except Exception as exc:  # onnxruntime has an exception of its own for every kind of failure
        raise SasError(f"{path}: onnxruntime cannot run it: {' '.join(str(exc).split())[:300]}") from None
    return np.stack(found)


def compare(
    before: Path, after: Path, plane: InputPlane, samples: Samples, names: Sequence[str] = (), progress: Callable[[int], None] = lambda _: None
) -> Quality:  # fmt: skip
    """Classes of both networks on the same samples. ``names``: the network's classes; without them and with as many outputs as classes the samples'
    class numbers are the network's.

    Raises:
        SasError: onnxruntime cannot run a network.
    """
    values, rounded = (_outputs(path, plane, samples, progress) for path in (before, after))
    a, b, outputs = values.argmax(axis=1), rounded.argmax(axis=1), values.shape[1]
    difference = float(np.sqrt(np.square(rounded - values).mean() / max(np.square(values).mean(), 1e-30)))
    labels = np.asarray(samples.labels, np.int64)
    if names and samples.classes:
        known = {name: i for i, name in enumerate(names)}
        labels = np.asarray([known.get(samples.classes[label], -1) for label in labels], np.int64)
        labels = labels if (labels >= 0).all() else labels[:0]
    elif samples.classes and len(samples.classes) != outputs:
        labels = labels[:0]
    right = [float((found == labels).mean()) if labels.size else float("nan") for found in (a, b)]
    return Quality(len(a), difference, outputs != math.prod(plane.shape), float((a == b).mean()), *right)
