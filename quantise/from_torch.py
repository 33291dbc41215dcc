"""From a PyTorch module and some inputs to an int8 ONNX file: export, calibrate, quantise."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sasimc.datasets.images import Preprocess
from sasimc.frontend.load import load_model
from sasimc.isa.errors import SasError
from sasimc.quantise.quantise import Method, quantise
from sasimc.quantise.samples import Samples, input_plane

__all__ = ["from_torch"]

_OPSET = 17


def from_torch(
    module: Any, images: Any, path: str | Path, *, preprocess: Preprocess | Mapping[str, Any] | None = None, labels: Sequence[str] = (),
    method: Method = "minmax", per_channel: bool = True,
) -> Path:  # fmt: skip
    """Write the int8 (QDQ) ONNX form of a float module.

    Args:
        module: a ``torch.nn.Module`` of one input; it is exported as it is in ``eval`` mode.
        images: float32 [N, ...] as the module takes them (a tensor or an array): examples that activations are calibrated on.
        path: the file to write.
        preprocess: how ``images`` were made from RGB bytes (:class:`Preprocess` or its keys), kept in the file for `sasrun`; None: not said.
        labels: names of the classes, kept in the file.
        method: as of :func:`sasimc.quantise.quantise.quantise`.
        per_channel: likewise.

    Raises:
        SasError: inputs of another kind; a module that cannot be exported or quantised.
    """
    import torch  # pyright: ignore[reportMissingImports]

    x = torch.as_tensor(np.asarray(images)) if not isinstance(images, torch.Tensor) else images.detach().cpu()
    if x.ndim < 2 or not len(x) or not x.is_floating_point():
        raise SasError(
            f"from_torch: images are {str(x.dtype).removeprefix('torch.')} {list(x.shape)}",
            hint="float inputs [N, ...] as the module takes them",
        )
    x = x.float()
    kept = preprocess if isinstance(preprocess, Preprocess) or preprocess is None else Preprocess.from_json(preprocess)
    training = module.training
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "float.onnx"
        try:
            module.eval()
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # the tracing exporter warns of its own age
                torch.onnx.export(
                    module, (x[:1],), str(source), dynamo=False, opset_version=_OPSET, input_names=["input"], output_names=["logits"],
                    dynamic_axes={"input": {0: "batch"}},
                )  # fmt: skip
        except Exception as exc:  # whatever the module or the exporter raise
            raise SasError(f"from_torch: the module cannot be exported: {' '.join(str(exc).split())[:300]}") from exc
        finally:
            module.train(training)
        plane = input_plane(load_model(source))
        samples = Samples(tuple(np.ascontiguousarray(x[i : i + 1].numpy()) for i in range(len(x))), (), (), "given images")
        metadata = {"sasimc.preprocess": kept.to_json()} if kept else {}
        if labels:
            metadata["sasimc.labels"] = json.dumps(list(labels))
        quantise(source, plane, samples, Path(path), metadata, method=method, per_channel=per_channel)
    return Path(path)
