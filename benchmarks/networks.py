"""Networks of others: float ONNX files, quantised by onnxruntime in both forms, compiled with all checks, compared as a whole, and trained for a step.

    python benchmarks/networks.py --machine MACHINE.toml [--json FILE] FLOAT.onnx ...

A file has one input N x C x H x W. Ranges come from patches of noise, as random weights (with fitted normalisation) suffice: what is measured is the translation, not the
network. "off" is how far the outputs of the device are from onnxruntime's for the whole quantised network, in steps of the output: roundings of all layers
together, while the check at compilation holds every single layer to one step. The training step is that of a classifier and Rep-Net modules that
`sasc attach` adds, on all three engines.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from common import TESTS, add_common, finish, table
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from sasimc.api import CompileOptions, compile_model
from sasimc.attach.attach import AttachOptions, attach
from sasimc.backend.compile import Compiled
from sasimc.frontend.check import check_model
from sasimc.frontend.load import load_model
from sasimc.frontend.qdq_form import qdq_form
from sasimc.isa.errors import SasError
from sasimc.isa.machine import Machine, load_machine
from sasimc.runtime.device import Device

sys.path.insert(0, str(TESTS))
from whole_path import events_of, logits_of, quantised

Floats = npt.NDArray[np.float32]
SAMPLES = 8


class _Noise(CalibrationDataReader):
    def __init__(self, name: str, samples: Floats) -> None:
        self._left: Iterator[Floats] = iter(samples)
        self._name = name

    def get_next(self) -> dict[str, Any] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        x = next(self._left, None)
        return None if x is None else {self._name: x[None]}


def quantise(source: Path, form: QuantFormat, out: Path) -> Floats:
    """Write the int8 network; returns the samples that its ranges were measured on."""
    (info,) = onnx.load(source, load_external_data=False).graph.input
    shape = [d.dim_value or 1 for d in info.type.tensor_type.shape.dim][1:]
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(SAMPLES, shape[0], 8, 8)).repeat(-(-shape[1] // 8), 2).repeat(-(-shape[2] // 8), 3)
    samples = (patches[:, :, : shape[1], : shape[2]] + rng.normal(0, 0.5, (SAMPLES, *shape))).astype(np.float32)
    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_static(prepared, out, _Noise(info.name, samples), quant_format=form, activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8, per_channel=True)  # fmt: skip
    return samples


def _run(device: Device, entry: str, **params: int) -> None:
    for name, value in params.items():
        device.interpreter.regs[device.program.params[name]] = value
    device.interpreter.run(entry)


def off(model: onnx.ModelProto, compiled: Compiled, samples: Floats) -> tuple[float, float, float, int]:
    """How the output varies from sample to sample, its mean and largest distance from onnxruntime, in steps; how many samples have the same class."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(qdq_form(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    real = np.concatenate([np.asarray(session.run(None, {session.get_inputs()[0].name: x[None]})[0]) for x in samples]).reshape(
        len(samples), -1
    )
    device, meta = Device(compiled.program, "fused"), compiled.program.meta
    t = compiled.graph.type(compiled.graph.inputs[0])
    low, high = (0, 255) if t.dtype == "u8" else (-128, 127)
    stored = np.clip(np.rint(samples / np.float32(t.scale)) + t.zero, low, high).astype(np.int64).transpose(0, 2, 3, 1)
    ours = []
    for x in stored:
        quantised(device, x[None])
        _run(device, "infer", batch=1)
        ours.append(logits_of(device, 1)[0])
    steps = np.abs(real / float(meta["logit_scale"]) + int(meta["logit_zero"]) - np.stack(ours))
    spread = float(real.std(axis=0).mean() / float(meta["logit_scale"]))
    return spread, float(steps.mean()), float(steps.max()), int((real.argmax(1) == np.stack(ours).argmax(1)).sum())


def trained(model: onnx.ModelProto, samples: Floats, machine: Machine) -> dict[str, Any]:
    """One step of what is attached, on all engines: cycles, and whether values, cycles and events agree."""
    made = attach(model, AttachOptions(classes=5), [x[None] for x in samples[:4]])
    compiled = compile_model(made.model, CompileOptions(machine=machine, batch=1, verify=True))
    x = np.random.default_rng(1).integers(0, 100, (1, *compiled.graph.type(compiled.graph.inputs[0]).shape))
    seen = []
    for engine in ("fused", "bitserial", "step"):
        device = Device(compiled.program, engine)
        quantised(device, x)
        device.interpreter.write_view(device.io["labels"], np.array([[[1]]]), 0)
        _run(device, "train_step", batch=1, head_exponent=3, module_exponent=2)
        seen.append((events_of(device), device.state()))
    same = all(e == seen[0][0] and all(np.array_equal(s[k], seen[0][1][k]) for k in s) for e, s in seen)
    return {"step_cycles": seen[0][0]["cycles"], "engines_agree": same, "modules": len(made.modules)}


def one(source: Path, form: QuantFormat, machine: Machine, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"network": source.stem.removesuffix(".float"), "form": form.name}
    path = folder / f"{row['network']}.{form.name}.onnx"
    samples, start = quantise(source, form, path), time.perf_counter()
    model = load_model(path)
    try:
        found = check_model(model)
        if not found.ok:
            reasons = Counter(f"{f.op}: {f.reason}" for f in found.findings).most_common(1)[0][0]
            return row | {"error": f"{len(found.findings)} nodes, most: {reasons}"}
        kinds = Counter(op.kind for op in found.graph.ops) if found.graph else Counter[str]()
        compiled = compile_model(path, CompileOptions(machine=machine, batch=1, verify=True, inference_only=True))
        row |= {
            "tables": kinds["lut"],
            "products": kinds["mul"],
            "cycles": compiled.infer.cycles,
            "sub_arrays": compiled.placement.used,
        }
        row |= {"wall_s": time.perf_counter() - start, "verified": compiled.program.meta["verified"]}
        row |= dict(zip(("spread", "off_mean", "off_most", "same_class"), off(model, compiled, samples), strict=True))
        return row | (trained(model, samples, machine) if form is QuantFormat.QDQ else {})
    except SasError as e:
        return row | {"error": e.diagnostic.message}


def main() -> None:
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("files", type=Path, nargs="+", metavar="FLOAT.onnx")
    parser.add_argument("--machine", type=Path, help="machine description")
    options = parser.parse_args()
    machine, rows = load_machine(options.machine), []
    with tempfile.TemporaryDirectory() as folder:
        for source in options.files:
            for form in (QuantFormat.QDQ, QuantFormat.QOperator):
                rows.append(one(source, form, machine, Path(folder)))
                print(rows[-1], file=sys.stderr, flush=True)
    keys = (
        "network",
        "form",
        "tables",
        "products",
        "cycles",
        "spread",
        "off_mean",
        "off_most",
        "same_class",
        "step_cycles",
        "engines_agree",
        "error",
    )
    print(table(keys, [[row.get(k, "") for k in keys] for row in rows]))
    finish(options, {"networks": rows})


if __name__ == "__main__":
    main()
