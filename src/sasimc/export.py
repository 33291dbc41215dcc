"""A trained program back to ONNX: the model that was compiled, with the weights that the device learned."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from sasimc.backend.mapping import rejoin
from sasimc.frontend.load import load_model
from sasimc.frontend.scales_out import with_scales
from sasimc.frontend.weights_out import as_compiled, model_digest, trainable_shapes, with_biases, with_metadata, with_weights
from sasimc.isa.errors import SasError
from sasimc.isa.files import write_atomically
from sasimc.isa.program import Program
from sasimc.runtime.device import Device
from sasimc.zoo.zoo import default_model_path

__all__ = ["export_onnx"]

NOTES = ("sasimc.labels", "sasimc.preprocess")
"""What the program says of classes and images, and the model repeats."""


@dataclass(frozen=True)
class _Origin:
    """What a program says of the model it was compiled from: its digest, the pattern of its trainable layers, and for the tensors of these the
    layer, the kind of matrix and the first output channel."""

    sha256: str
    trainable: str | None
    layers: Mapping[str, tuple[str, str, int]]

    @staticmethod
    def of(program: Program) -> _Origin:
        """Raises SasError when it says nothing, or has nothing to train."""
        try:
            if "layers" not in program.meta:
                raise SasError("the program has nothing that learns: there is nothing to export", where=program.source)
            model = json.loads(program.meta["model"])
            layers = {
                str(t): (str(layer), str(kind), int(n0)) for t, (layer, kind, n0) in json.loads(program.meta["layers"]).items()
            }
            return _Origin(str(model["sha256"]), model["trainable"], layers)
        except (KeyError, ValueError, TypeError, AttributeError):
            hint = "compile the model again with this version, and train it"
            raise SasError("the program does not say which model it was compiled from", where=program.source, hint=hint) from None

    def weights(self, program: Program, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, npt.NDArray[np.int8]]:
        """Weights [kh, kw, input channels of a group, output channels] by layer."""
        parts: dict[str, list[tuple[str, int, npt.NDArray[np.int8]]]] = {name: [] for name in shapes}
        for tensor, (layer, kind, n0) in self.layers.items():
            parts.setdefault(layer, []).append((kind, n0, np.asarray(program.tensors[tensor], np.int8)))
        return {name: rejoin(shape, parts[name]) for name, shape in shapes.items()}


def export_onnx(
    trained: Program | Device, model: str | Path | ModelProto | None = None, path: str | Path | None = None
) -> ModelProto:
    """The ONNX model with the weights of a trained program or device; the integers are those that the device computes with.

    Args:
        model: the model that was compiled; None: the file beside the program (or in the current folder) that is it.
        path: where to write it; None: nowhere.

    Raises:
        SasError: no model, or another one than was compiled; weights that do not stand in it as 8-bit constants; a file that cannot be written.
    """
    program = trained.program.with_trained(trained.state()) if isinstance(trained, Device) else trained
    origin = _Origin.of(program)
    proto = as_compiled(_model(program, origin, model), program.meta)
    weights = origin.weights(program, trainable_shapes(proto, origin.trainable))
    biases = {layer: _sums(program.tensors[bias.view], bias.bits) for layer, bias in program.learned_biases.items()}
    made = with_scales(with_biases(with_weights(proto, origin.trainable, weights), origin.trainable, biases))
    with_metadata(made, {note: program.meta[f"note.{note}"] for note in NOTES if program.meta.get(f"note.{note}")})
    if path is not None:
        write_atomically(Path(path), made.SerializeToString())
    return made


def _sums(words: npt.NDArray[Any], bits: int) -> npt.NDArray[np.int64]:
    """A learned bias in steps of the sums it is added to, as the device rounds it: to nearest, ties to even."""
    return np.rint(np.ldexp(words.reshape(-1).astype(np.float64), -bits)).astype(np.int64)


def _model(program: Program, origin: _Origin, model: str | Path | ModelProto | None) -> ModelProto:
    """The model that was compiled."""
    if model is not None:
        proto = model if isinstance(model, ModelProto) else load_model(model)
        if model_digest(proto) == origin.sha256:
            return proto
        name = "this model" if isinstance(model, ModelProto) else str(model)
        hint = "give the file that `sasc compile` read"
        raise SasError(f"the program was not compiled from {name}: its nodes or constants are others", hint=hint)
    for path in _near(program):
        try:
            proto = load_model(path)
        except SasError:
            continue
        if model_digest(proto) == origin.sha256:
            return proto
    hint = "--model FILE.onnx, the file that `sasc compile` read"
    raise SasError(
        "the model that the program was compiled from is not beside it, nor in this folder", where=program.source, hint=hint
    )


def _near(program: Program) -> Iterator[Path]:
    """ONNX files beside the program, in the current folder, and the one that comes with the package."""
    folders = {Path(program.source).resolve().parent: None, Path.cwd(): None}
    for folder in folders:
        if folder.is_dir():
            yield from sorted(folder.glob("*.onnx"))
    yield default_model_path()
