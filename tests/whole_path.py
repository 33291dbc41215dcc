"""Helper of the whole-path tests: an ONNX model compiled, run on a device, and compared with the golden model bit for bit."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from golden import Golden

from sasimc.api import CompileOptions, compile_model
from sasimc.backend.compile import Compiled
from sasimc.isa.analysis.estimate import estimate
from sasimc.isa.machine import Machine, load_machine
from sasimc.runtime.device import Device
from sasimc.zoo.zoo import default_model_path

__all__ = ["Case", "check", "compile_onnx", "embedded", "events_of", "images_for", "machine_with", "quantised"]

MUS = ((3, 2), (1, 0), (-1, -2))


def machine_with(**changes: Any) -> Machine:
    """The default machine with fields changed; ``section__field=value``."""
    data = load_machine().model_dump()
    for name, value in changes.items():
        section, _, field = name.partition("__")
        if field:
            data[section][field] = value
        else:
            data[section] = value
    return Machine.model_validate(data)


@cache
def embedded() -> Compiled:
    """The embedded network with default options, compiled once for all tests; nobody changes it."""
    return compile_model(default_model_path())


def compile_onnx(model: onnx.ModelProto, **options: Any) -> Compiled:
    """Compile a model from memory; options are the fields of ``CompileOptions``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        return compile_model(path, CompileOptions(**options))


def images_for(golden: Golden, shape: Sequence[int], batch: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Stored inputs [B, H, W, C] of a smooth random walk, in the type of the compiled program (re-expressed)."""
    rng = np.random.default_rng(seed)
    quant = golden.graph.quants[golden.graph.input]
    walk = np.cumsum(rng.normal(0, 24, (batch, *shape)), axis=2) + rng.integers(
        quant.lo // 2, quant.hi // 2 + 1, (batch, 1, 1, 1)
    )
    return np.clip(np.rint(walk), quant.lo, quant.hi).astype(np.int64)


def quantised(device: Device, x: npt.NDArray[np.int64]) -> None:
    """Put stored inputs in the device's host memory, past the preprocessing of images."""
    for b, sample in enumerate(x):
        device.interpreter.write_view(device.io["input"], sample, b)


def _run(device: Device, entry: str, **params: int) -> None:
    for name, value in params.items():
        device.interpreter.regs[device.program.params[name]] = value
    device.interpreter.run(entry)


def events_of(device: Device) -> dict[str, int]:
    """Cycles and events so far."""
    return {"cycles": device.interpreter.cycles, **device.interpreter.events}


def _words(device: Device, role: str, batch: int) -> list[int]:
    return [int(device.interpreter.read_view(device.io[role], b).reshape(-1)[0]) for b in range(batch)]


def logits_of(device: Device, batch: int) -> npt.NDArray[np.int64]:
    """[B, C] as stored."""
    return np.stack([device.interpreter.read_view(device.io["logits"], b).reshape(-1).astype(np.int64) for b in range(batch)])


def _flattened(golden: Golden, layer: str) -> npt.NDArray[np.intp] | None:
    """Rows of a Gemm behind a Flatten: ONNX counts them (C, H, W), the device (H, W, C)."""
    producers = {op.output: op for op in golden.graph.ops}
    value = next(op for op in golden.graph.ops if op.name == layer).inputs[0]
    while value in producers and producers[value].kind == "shape":
        value = producers[value].inputs[0]
    shape = golden.activations()[value].shape[1:]
    if len(shape) != 3 or shape[0] * shape[1] == 1 or golden.weights[layer].shape[2] != np.prod(shape):
        return None
    h, w, c = shape
    return np.arange(h * w * c).reshape(c, h, w).transpose(1, 2, 0).reshape(-1)


def _weights_of(golden: Golden, layer: str, kind: str, cin: int, n0: int, n: int) -> npt.NDArray[np.int8]:
    """The golden model's weights as the matrix [K, N] of a part."""
    w = golden.weights[layer]
    if (order := _flattened(golden, layer)) is not None:
        w = w[:, :, order]
    if kind == "depthwise":
        kh, kw, _, out = w.shape
        return w.reshape(kh * kw, cin, out // cin).transpose(1, 2, 0).reshape(cin, -1)
    return w[..., n0 : n0 + n].reshape(-1, n)


@dataclass(frozen=True)
class Case:
    """What ran: for comparisons between machines."""

    compiled: Compiled
    logits: npt.NDArray[np.int64]
    events: Mapping[str, int]


def check(
    model: onnx.ModelProto,
    *,
    machine: Machine | None = None,
    batch: int = 3,
    backprop: str = "exact",
    trainable: Sequence[str] | None = None,
    engines: Sequence[str] = ("fused",),
    steps: int = 2,
    seed: int = 0,
    train: bool = True,
    partial: bool = True,
    eps: float = 0.1,
    through: Sequence[str] = (),
    update: str = "direct",
    rounding: str = "nearest",
    gradient_power: int = 0,
    gradient_range: str = "batch",
    error_range: str = "batch",
    spill: str = "cheaper",
    train_biases: bool = False,
    unbiased_updates: bool = False,
    loss: str = "cross-entropy",
) -> Case:
    """Compile, run inference and ``steps`` training steps on each engine and compare everything with the golden model.

    Logits, predictions, loss words and all weights are compared with the golden model; cycles and events between the engines.
    The last step uses a smaller batch when ``partial``.
    """
    compiled = compile_onnx(
        model, machine=machine, batch=batch, backprop=backprop, eps=eps, inference_only=not train,
        trainable=None if trainable is None else ",".join(trainable),
        backprop_through=tuple(through), update=update, round_errors=rounding, gradient_power=gradient_power,
        gradient_range=gradient_range, error_range=error_range, spill=spill, loss=loss, train_biases=train_biases, unbiased_updates=unbiased_updates,
    )  # fmt: skip
    seen: list[tuple[str, dict[str, int]]] = []
    logits = np.empty(0, np.int64)
    for engine in engines:
        golden = Golden(
            model, backprop=backprop, trainable=trainable, eps=eps, through=through, update=update, rounding=rounding,
            gradient_power=gradient_power, gradient_range=gradient_range, error_range=error_range, loss=loss, train_biases=train_biases, unbiased_updates=unbiased_updates,
        )  # fmt: skip
        device = Device(compiled.program, engine, threads=1)
        x = images_for(golden, device.input_shape, batch, seed)
        logits = golden.forward(x)
        quantised(device, x)
        _run(device, "infer", batch=batch)
        np.testing.assert_array_equal(logits_of(device, batch), logits, f"logits, {engine}")
        if device.interpreter.program.views[device.io["logits"]].shape[:2] == (1, 1):
            assert _words(device, "prediction", batch) == np.argmax(logits, 1).tolist(), f"prediction, {engine}"
        priced = estimate(compiled.program, "infer", {"batch": batch})
        assert device.interpreter.cycles == priced.cycles, f"priced and counted cycles of an inference, {engine}"
        if train and golden.trainable:
            _train(compiled, device, golden, x, steps, seed, partial)
        seen.append((engine, events_of(device)))
    for engine, events in seen[1:]:
        assert events == seen[0][1], f"cycles and events of {engine} and {seen[0][0]}"
    return Case(compiled, logits, seen[0][1])


def _train(
    compiled: Compiled, device: Device, golden: Golden, x: npt.NDArray[np.int64], steps: int, seed: int, partial: bool
) -> None:  # fmt: skip
    batch, rng = len(x), np.random.default_rng(seed + 1)
    start = device.interpreter.cycles
    for step in range(steps):
        n = max(1, batch - 1) if partial and step == steps - 1 else batch
        quant = golden.graph.quants[golden.graph.output]
        squared = golden.loss == "squared-error"
        y = (
            rng.integers(quant.lo, quant.hi + 1, (n, golden.forward(x[:1]).shape[1]))
            if squared
            else rng.integers(0, device.classes, n)
        )
        head_exponent, module_exponent = MUS[step % len(MUS)]
        expected = golden.train_step(x[:n], y, head_exponent, module_exponent)
        for b in range(n):
            role = "targets" if squared else "labels"
            device.interpreter.write_view(device.io[role], y[b].reshape(device.program.views[device.io[role]].shape), b)
        entry = device.step_entry
        _run(device, entry, batch=n, head_exponent=head_exponent, module_exponent=module_exponent)
        what = f"step {step}, {device.engine}"
        np.testing.assert_array_equal(logits_of(device, n), expected.logits, f"logits of {what}")
        assert _words(device, "loss", n) == [int(v) for v in expected.loss_words], f"loss of {what}"
        for layer, parts in compiled.placement.layers.items():
            if layer not in golden.trainable:
                continue
            for part, matrix in parts:
                reference = _weights_of(golden, layer, part.kind, part.cin, part.n0, part.n)
                np.testing.assert_array_equal(device.interpreter.read_matrix(matrix.name), reference, f"{matrix.name}, {what}")
        learned = json.loads(compiled.program.meta.get("learned_biases", "{}"))
        assert learned.keys() == golden.biases.keys()
        for layer, (view, _) in learned.items():
            found = device.interpreter.read_view(view).reshape(-1)
            np.testing.assert_array_equal(found, golden.biases[layer].words, f"bias of {layer}, {what}")
        beyond = golden.error_ranges.beyond if golden.error_ranges else 0
        assert device.interpreter.events["saturated"] == beyond, f"saturated errors, {what}"
        if n == batch:
            priced = estimate(compiled.program, entry, {"batch": n}).cycles
            assert device.interpreter.cycles - start == priced, f"priced and counted cycles, {what}"
        start = device.interpreter.cycles
