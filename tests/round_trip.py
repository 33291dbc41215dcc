"""The way home: what a trained device holds beside what onnxruntime and a second compile make of the exported file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from models import input_name, ort_run

from sasimc.api import CompileOptions, compile_model
from sasimc.backend.compile import Compiled
from sasimc.runtime.device import Device

__all__ = ["in_onnxruntime", "infer", "same_after_compiling", "stored"]


def stored(compiled: Compiled, n: int) -> npt.NDArray[np.integer]:
    """Random stored inputs."""
    t = compiled.graph.type(compiled.graph.inputs[0])
    info = np.iinfo({"u8": np.uint8, "i8": np.int8}[t.dtype])
    return np.random.default_rng(3).integers(info.min, info.max + 1, (n, *t.shape)).astype(info.dtype)


def infer(device: Device, x: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Logits and classes of stored inputs, past the preprocessing of pictures."""
    for b, sample in enumerate(x):
        device.interpreter.write_view(device.io["input"], sample, b)
    device.interpreter.regs[device.program.params["batch"]] = len(x)
    device.interpreter.run("infer")
    views = [device.interpreter.read_view(device.io["logits"], b).reshape(-1).astype(np.int64) for b in range(len(x))]
    words = [int(device.interpreter.read_view(device.io["prediction"], b).reshape(-1)[0]) for b in range(len(x))]
    return np.stack(views), np.asarray(words)


def in_onnxruntime(model: onnx.ModelProto, device: Device, x: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Real logits [B, C] of stored inputs."""
    real = (device.input.scale * (x.astype(np.float64) - device.input.zero)).astype(np.float32)
    (info,) = [i for i in model.graph.input if i.name == input_name(model)]
    real = real.transpose(0, 3, 1, 2) if len(info.type.tensor_type.shape.dim) == 4 else real.reshape(len(x), -1)
    (logits,) = ort_run(model, real).values()
    return logits.reshape(len(x), -1).astype(np.float64)


def same_after_compiling(device: Device, made: onnx.ModelProto, options: CompileOptions, x: npt.NDArray[np.integer]) -> Device:
    """Compile the exported model: weights, logits and classes are those of the device."""
    again = Device(compile_model(made, options).program, "fused", 1)
    assert again.state().keys() == device.state().keys()
    for name, values in device.state().items():
        assert np.array_equal(again.state()[name], values), name
    for ours, theirs in zip(infer(device, x), infer(again, x), strict=True):
        assert np.array_equal(ours, theirs)
    return again
