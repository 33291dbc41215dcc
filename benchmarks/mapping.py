"""How close compiled programs come to the machine: cycles of an inference beside their lower limit, ten networks on three machines.

    python benchmarks/mapping.py [--weights FOLDER] [--json FILE]

``bound_cycles`` is the limit that no mapping beats: dense layers MAC x input bits / (active sub-arrays x weights a row), depth-wise layers
input elements x input bits / active sub-arrays, nothing for everything else (`docs/explanation/mapping.md`). ``word lines`` is what remains when a word
line of 64 weights serves one pixel only, so that layers with N mod 64 columns leave some idle. Programs are for inference (every
layer may be copied). Networks above the target name the layers that lose most, and the unit that binds there.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import add_common, environment, finish, table
from onnx import helper, numpy_helper

from sasimc.api import CompileOptions, compile_model
from sasimc.backend.bound import bound_cycles, word_line_bounds
from sasimc.backend.explain import explain
from sasimc.isa.errors import SasError
from sasimc.isa.machine import Machine, load_machine
from sasimc.zoo.zoo import ZooOptions, build, default_model_path, write

TARGETS = {"row": 1.35, "free": 1.2}


class Net:
    """A small QDQ graph layer by layer: uint8 activations of one scale, int8 weights drawn from a seed."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.rng = name, np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.values: list[onnx.TensorProto] = []
        self.shape = shape
        self._const("s", np.float32(1 / 16))
        self._const("z", np.uint8(0))
        self._const("zw", np.int8(0))
        self.top = self._dequantised("image")

    def _const(self, name: str, value: Any) -> str:
        self.values.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def _dequantised(self, value: str) -> str:
        quantised = self._node("QuantizeLinear", [value, "s", "z"])
        return self._node("DequantizeLinear", [quantised, "s", "z"])

    def _weights(self, shape: tuple[int, ...]) -> str:
        stored = np.clip(np.rint(self.rng.normal(0, 30, shape)), -127, 127).astype(np.int8)
        name = self._const(f"w{len(self.values)}", stored)
        scale = self._const(f"{name}.s", np.float32(1 / (30 * np.sqrt(np.prod(shape[1:])))))
        return self._node("DequantizeLinear", [name, scale, "zw"])

    def conv(self, cin: int, cout: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> str:
        """Convolution, ReLU, quantisation."""
        pad = kernel // 2
        made = self._node(
            "Conv",
            [self.top, self._weights((cout, cin, kernel, kernel))],
            pads=[pad] * 4,
            strides=[stride] * 2,
            kernel_shape=[kernel] * 2,
        )
        self.top = self._dequantised(self._node("Relu", [made]) if relu else made)
        return self.top

    def add(self, other: str) -> None:
        """Residual sum with an earlier value."""
        self.top = self._dequantised(self._node("Relu", [self._node("Add", [self.top, other])]))

    def pool(self) -> None:
        """2 x 2 maximum."""
        self.top = self._node("MaxPool", [self.top], kernel_shape=[2, 2], strides=[2, 2])

    def flat(self) -> None:
        """Mean over the plane, then a vector."""
        self.top = self._node("Flatten", [self._dequantised(self._node("GlobalAveragePool", [self.top]))])

    def dense(self, cin: int, cout: int, relu: bool = True) -> None:
        """Fully connected layer."""
        made = self._node("Gemm", [self.top, self._weights((cout, cin))], transB=1)
        self.top = self._dequantised(self._node("Relu", [made]) if relu else made)

    def model(self, classes: int) -> onnx.ModelProto:
        """The ONNX model."""
        self.nodes.append(helper.make_node("Identity", [self.top], ["logits"], name="logits"))
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, *self.shape])],
            [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, classes])],
            self.values,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def residual_net() -> onnx.ModelProto:
    """Three stages of two residual blocks, 16 to 64 channels, 32 x 32 images (the CIFAR family of ResNet)."""
    net = Net("residual", (3, 32, 32))
    net.conv(3, 16)
    cin = 16
    for cout in (16, 32, 64):
        for block in range(2):
            stride = 2 if cout != cin and block == 0 else 1
            enters = net.top
            net.conv(cin, cout, stride=stride)
            body = net.conv(cout, cout, relu=False)
            if stride == 2:
                net.top = enters
                enters = net.conv(cin, cout, kernel=1, stride=2, relu=False)
                net.top = body
            net.add(enters)
            cin = cout
    net.flat()
    net.dense(64, 10, relu=False)
    return net.model(10)


def plain_cnn() -> onnx.ModelProto:
    """Six 3 x 3 convolutions with pools, 64 x 64 images."""
    net = Net("plain", (3, 64, 64))
    for cin, cout in ((3, 32), (32, 64), (64, 128)):
        net.conv(cin, cout)
        net.conv(cout, cout)
        net.pool()
    net.flat()
    net.dense(128, 10, relu=False)
    return net.model(10)


def mlp() -> onnx.ModelProto:
    """784-512-256-10."""
    net = Net("mlp", (784,))
    net.dense(784, 512)
    net.dense(512, 256)
    net.dense(256, 10, relu=False)
    return net.model(10)


def networks(weights: str | None) -> dict[str, Callable[[], onnx.ModelProto | Path]]:
    """Name -> what makes the model."""

    def zoo(name: str, **options: Any) -> Callable[[], onnx.ModelProto]:
        return lambda: build(name, ZooOptions(calibration_images=2, **options))

    return {
        "MobileNet-V2 1.0/224, 1000 classes": zoo("mobilenetv2", weights=weights),
        "MobileNet-V2 1.0/224 + Rep-Net, 102 classes": zoo("mobilenetv2-repnet", weights=weights, classes=102),
        "MobileNet-V2 1.0/160 + Rep-Net, 102 classes": zoo("mobilenetv2-repnet", weights=weights, classes=102, resolution=160),
        "MobileNet-V2 0.5/224 + Rep-Net, 102 classes": zoo("mobilenetv2-repnet", classes=102, width=0.5),
        "MobileNet-V2 0.35/96, 1000 classes": zoo("mobilenetv2", width=0.35, resolution=96),
        "MobileNet-V2 1.4/224 + Rep-Net, 102 classes": zoo("mobilenetv2-repnet", classes=102, width=1.4),
        "embedded default": default_model_path,
        "residual net 32 x 32": residual_net,
        "plain CNN 64 x 64": plain_cnn,
        "MLP 784-512-256-10": mlp,
    }


def machines() -> dict[str, Machine]:
    """The paper's machine under both rules, and one with four times as many sub-arrays, of which four times as many are active."""

    def changed(array: dict[str, Any], activation: dict[str, Any]) -> Machine:
        data = load_machine().model_dump()
        data["array"] |= array
        data["activation"] |= activation
        return Machine.model_validate(data)

    return {
        "row": load_machine(),
        "free": changed({}, {"rule": "free"}),
        "row, 32 x 32 banks, 64 x 2 active": changed({"banks": (32, 32)}, {"banks": (2, 32)}),
    }


def one(path: Path, machine: Machine) -> dict[str, Any]:
    """Figures of one network on one machine."""
    start = time.perf_counter()
    try:
        compiled = compile_model(path, CompileOptions(machine=machine, inference_only=True))
    except SasError as e:
        return {"error": e.diagnostic.message, "wall_s": time.perf_counter() - start}
    wall = time.perf_counter() - start
    bound, cycles = bound_cycles(compiled.graph, machine), compiled.infer.cycles
    units = compiled.infer.phase_units["forward"]
    rows = sorted(explain(compiled), key=lambda r: r.bound - r.cycles)
    worst = [
        {"layer": r.layer, "lost": round(r.cycles - r.bound), "ratio": r.ratio if r.bound else None, "binds": r.binds}
        for r in rows[:5]
    ]
    lines = int(np.ceil(sum(word_line_bounds(compiled.graph, machine).values())))
    return {
        "cycles": cycles,
        "bound": bound,
        "ratio": cycles / bound,
        "word_lines": lines,
        "ratio_word_lines": cycles / lines,
        "binds": max(units, key=lambda u: units[u]),
        "subarrays": compiled.placement.used,
        "subarrays_total": machine.subarrays,
        "most_lost": worst,
        "wall_s": wall,
    }


def main() -> None:
    """Compile every network for every machine."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument(
        "--weights", help="folder or .npz of MobileNet-V2 1.0 weights (default: random; size and structure decide, not values)"
    )
    o = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, make in networks(o.weights).items():
            made = make()
            path = made if isinstance(made, Path) else write(made, Path(temporary) / "model.onnx")
            for rule, machine in machines().items():
                rows.append({"network": name, "machine": rule, **one(path, machine)})
                print(".", end="", flush=True)
    header = ["network", "machine", "cycles", "bound", "ratio", "of word lines", "binds", "sub-arrays", "s"]
    print("\n\n" + table(header, map(_row, rows)) + "\n")
    for r in rows:
        target = TARGETS[r["machine"].split(",")[0]]
        if r.get("ratio", 0) > target:
            lost = ", ".join(f"{w['layer']} +{w['lost']} ({w['binds'] or 'periphery'})" for w in r["most_lost"])
            print(f"above {target}: {r['network']}, {r['machine']}: {lost}")
    finish(o, {"environment": environment(o.threads), "rows": rows})


def _row(r: dict[str, Any]) -> list[Any]:
    if "error" in r:
        return [r["network"], r["machine"], r["error"], *[""] * 5, r["wall_s"]]
    used = f"{r['subarrays']} of {r['subarrays_total']}"
    ratios = [f"{r['ratio']:.3f}", f"{r['ratio_word_lines']:.3f}"]
    return [r["network"], r["machine"], r["cycles"], r["bound"], *ratios, r["binds"], used, f"{r['wall_s']:.2f}"]


if __name__ == "__main__":
    main()
