"""Agreement with onnxruntime on the same ONNX file: MobileNet-V2 1.0/224, real weights, 1000 classes.

    python benchmarks/parity.py --data FOLDER [--images 1000] [--layer-images 4] [--threads 2] [--json FILE]

1. End to end: top-1 of the compiled program on the device (engine ``fused``) and of onnxruntime, with its default
   optimisations and with all of them off, and the share of images that get the same class.
2. Layer by layer: every operation of the integer graph is fed onnxruntime's own int8 inputs (optimisations off, so that the
   file's QuantizeLinear outputs exist) and its int8 output compared. The operations are the compiler's reference semantics
   (``sasimc.ir.interp``); the same run checks on an image that the device gives what they give.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from common import add_common, data_folder, environment, finish, table

from sasimc.api import CompileOptions, compile_model
from sasimc.datasets.dataset import open_dataset
from sasimc.datasets.loader import Loader
from sasimc.frontend.onnx_import import import_model
from sasimc.ir.graph import Graph
from sasimc.ir.interp import run, run_op
from sasimc.runtime.device import Device
from sasimc.zoo.zoo import ZooOptions, build, write

Real = npt.NDArray[np.float32]


def session(model: onnx.ModelProto | Path, threads: int, optimised: bool) -> ort.InferenceSession:
    """onnxruntime on the CPU, with its default graph optimisations or with none; exact integer sums also without VNNI."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads = threads
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def real_input(device: Device, images: npt.NDArray[np.uint8]) -> Real:
    """Float NCHW input as the model's preprocessing defines it."""
    p = device.preprocess
    assert p is not None
    real = (images.astype(np.float32) / 255 - np.asarray(p.mean, np.float32)) / np.asarray(p.std, np.float32)
    return np.ascontiguousarray(real.astype(np.float32).transpose(0, 3, 1, 2))


def end_to_end(device: Device, sessions: dict[str, ort.InferenceSession], loader: Loader) -> dict[str, Any]:
    """Top-1 and agreement over a split."""
    right = dict.fromkeys(["device", *sessions], 0)
    same = dict.fromkeys(sessions, 0)
    alike = 0  # onnxruntime with and without its optimisations
    total, spent = 0, dict.fromkeys(["device", *sessions], 0.0)
    for images, labels, _ in loader.epoch(0):
        found = []
        start = time.perf_counter()
        ours = device.infer(images).classes
        spent["device"] += time.perf_counter() - start
        right["device"] += int((ours == labels).sum())
        for name, s in sessions.items():
            start = time.perf_counter()
            theirs = s.run(None, {s.get_inputs()[0].name: real_input(device, images)})[0]
            spent[name] += time.perf_counter() - start
            classes = np.asarray(theirs).reshape(len(labels), -1).argmax(1)
            right[name] += int((classes == labels).sum())
            same[name] += int((classes == ours).sum())
            found.append(classes)
        alike += int((found[0] == found[-1]).sum())
        total += len(labels)
    return {
        "images": total,
        "top1": {k: 100 * v / total for k, v in right.items()},
        "same_class": {k: 100 * v / total for k, v in same.items()},
        "onnxruntime_alike": 100 * alike / total,
        "images_per_s": {k: total / v for k, v in spent.items()},
    }


def with_outputs(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The model with every QuantizeLinear output as a graph output, and their zero points."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    zeros: dict[str, int] = {}
    del made.graph.output[:]
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            zero = constants[node.input[2]]
            zeros[node.output[0]] = int(zero)
            kind = onnx.TensorProto.INT8 if zero.dtype == np.int8 else onnx.TensorProto.UINT8
            made.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], kind, None))
    return made, zeros


def layer_by_layer(model: onnx.ModelProto, graph: Graph, real: Real, threads: int) -> list[dict[str, Any]]:
    """A row an operation: outputs compared, equal, largest difference."""
    exposed, zeros = with_outputs(model)
    s = session(exposed, threads, optimised=False)
    names = list(zeros)
    feed = {s.get_inputs()[0].name: real}
    quantised_input = next(n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] in feed)
    tensors = dict(zip(names, s.run(names, feed), strict=True))

    def stored(value: str) -> npt.NDArray[np.int64]:
        """onnxruntime's tensor in the graph's representation: channels last, zero point moved when int8 became uint8."""
        name = quantised_input if value in graph.inputs else value
        q = np.asarray(tensors[name], np.int64) + graph.type(value).zero - zeros[name]
        height, width, channels = graph.type(value).shape
        return q.transpose(0, 2, 3, 1) if q.ndim == 4 else q.reshape(len(q), height, width, channels)

    rows = []
    for op in graph.ops:
        if op.output not in tensors or not all(v in tensors or v in graph.inputs for v in op.inputs):
            continue
        ours, theirs = run_op(graph, op, [stored(v) for v in op.inputs]), stored(op.output)
        difference = np.abs(ours - theirs)
        rows.append(
            {
                "layer": op.name,
                "kind": op.kind,
                "outputs": int(difference.size),
                "different": int((difference > 0).sum()),
                "max_difference": int(difference.max()),
            }
        )
    return rows


def main() -> None:
    """Build, compile, compare, print."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--images", type=int, help="images of imagenet-sample-1000 (default: all)")
    parser.add_argument("--layer-images", type=int, default=4, help="images for the comparison layer by layer")
    parser.add_argument("--engine", default="fused")
    o = parser.parse_args()
    folder = data_folder(o)
    print(environment(o.threads))
    model = build("mobilenetv2", ZooOptions(weights=str(folder / "weights")))
    with tempfile.TemporaryDirectory() as temporary:
        path = write(model, Path(temporary) / "model.onnx")
        program = compile_model(path, CompileOptions()).program
        graph = import_model(path)
        sessions = {"onnxruntime": session(path, o.threads, True), "onnxruntime, not optimised": session(path, o.threads, False)}
    device = Device(program, o.engine, o.threads)
    dataset = open_dataset(str(folder / "imagenet-sample-1000"))
    whole = end_to_end(device, sessions, Loader(dataset, "test", device.preprocess, device.batch_size, limit=o.images))
    rows = [[k, whole["top1"][k], whole["same_class"].get(k, ""), whole["images_per_s"][k]] for k in whole["top1"]]
    print(f"\n{whole['images']} images\n")
    print(table(["runtime", "top-1 %", "same class as the device %", "images/s"], rows))

    print(f"\nonnxruntime with and without optimisations agree on {whole['onnxruntime_alike']:.1f} %")

    few = next(Loader(dataset, "test", device.preprocess, o.layer_images).epoch(0))[0]
    layers = layer_by_layer(model, graph, real_input(device, few), o.threads)
    outputs, different = sum(r["outputs"] for r in layers), sum(r["different"] for r in layers)
    worst = max(r["max_difference"] for r in layers)
    print(f"\nlayer by layer, {o.layer_images} images, fed onnxruntime's inputs; operations that differ anywhere:\n")
    odd = [r for r in layers if r["different"]]
    print(table(["layer", "kind", "outputs", "different", "max difference"], [list(r.values()) for r in odd]))
    equal = 100 * (1 - different / outputs)
    print(
        f"\n{len(layers)} operations, {outputs} outputs, {different} different: {equal:.5f} % equal, largest difference {worst}"
    )

    q = device.input.integers(few[:1])
    reference = run(graph, {graph.inputs[0]: q})[graph.outputs[0]].reshape(-1)
    identical = bool((device.infer(few[:1]).logits[0] == reference).all())
    print(f"device and reference operations give the same logits: {identical}")
    finish(
        o,
        {
            "end_to_end": whole,
            "layers": layers,
            "outputs": outputs,
            "equal_percent": equal,
            "max_difference": worst,
            "device_equals_reference": identical,
        },
    )


if __name__ == "__main__":
    main()
