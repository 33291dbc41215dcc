"""How long networks off the beaten path take to compile: DenseNet-121, RegNet-X, ResNet-18, VGG-11 beside MobileNet-V2, all at 224 px.

    python benchmarks/compile_time.py [--only NAME] [--json FILE]

The layer lists are those of the papers (Huang et al. 2017, table 1; Radosavovic et al. 2020, appendix; He et al. 2016, table 1; Simonyan and Zisserman 2015,
table 1), quantised to int8 by the builder of the tests, with random weights: structure decides, not values. What needs more room than the paper's machine
has gets 32 x 32 banks and a buffer four times as large. Processor seconds of one process, imports not counted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from common import add_common, environment, finish, table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from models import Builder, Value

from sasimc.api import CompileOptions, compile_model
from sasimc.backend.bound import bound_cycles
from sasimc.isa.machine import Machine, load_machine
from sasimc.zoo.zoo import ZooOptions, build

SIZE = 224


def _finish(b: Builder, x: Value) -> onnx.ModelProto:
    return b.model(b.gemm(b.global_pool(x), 1000, name="head", dtype="int8"))


def densenet(blocks: Sequence[int] = (6, 12, 24, 16), growth: int = 32) -> onnx.ModelProto:
    """Batch normalisation and ReLU in front of every convolution, as in the paper."""
    b, rng = Builder(0), np.random.default_rng(0)

    def norm(x: Value) -> Value:
        return b.activation(b.mul(x, rng.uniform(0.5, 1.5, x.shape[0])), "relu")

    x = b.maxpool(b.conv(b.input((3, SIZE, SIZE)), 64, 7, stride=2, act="relu"), 3, 2, pads=(1, 1, 1, 1))
    for i, layers in enumerate(blocks):
        for _ in range(layers):
            y = b.conv(norm(x), 4 * growth, 1, act="relu")
            x = b.concat([x, b.conv(y, growth, 3)])
        if i < len(blocks) - 1:
            x = b.avgpool(b.conv(norm(x), x.shape[0] // 2, 1), 2)
    return _finish(b, norm(x))


def regnet_x(depths: Sequence[int], widths: Sequence[int], group: int) -> onnx.ModelProto:
    """Bottlenecks of ratio 1 with grouped convolutions."""
    b = Builder(0)
    x = b.conv(b.input((3, SIZE, SIZE)), 32, 3, stride=2, act="relu")
    for depth, width in zip(depths, widths, strict=True):
        for k in range(depth):
            stride = 1 if k else 2
            y = b.conv(b.conv(x, width, 1, act="relu"), width, 3, stride=stride, groups=width // group, act="relu")
            x = b.conv(x, width, 1, stride=stride) if stride > 1 else x
            x = b.add(b.conv(y, width, 1), x, act="relu")
    return _finish(b, x)


def resnet18() -> onnx.ModelProto:
    """Basic blocks."""
    b = Builder(0)
    x = b.maxpool(b.conv(b.input((3, SIZE, SIZE)), 64, 7, stride=2, act="relu"), 3, 2, pads=(1, 1, 1, 1))
    for i, width in enumerate((64, 64, 128, 128, 256, 256, 512, 512)):
        stride = 2 if i and i % 2 == 0 else 1
        y = b.conv(b.conv(x, width, 3, stride=stride, act="relu"), width, 3)
        x = b.add(y, b.conv(x, width, 1, stride=stride) if stride > 1 else x, act="relu")
    return _finish(b, x)


def vgg11() -> onnx.ModelProto:
    """The convolutions of configuration A."""
    b = Builder(0)
    x = b.input((3, SIZE, SIZE))
    for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        x = b.conv(x, width, 3, act="relu") if width else b.maxpool(x)
    return _finish(b, x)


NETWORKS: Mapping[str, tuple[bool, Callable[[], onnx.ModelProto]]] = {
    "MobileNet-V2 1.0 + Rep-Net, 102 classes": (
        False,
        lambda: build("mobilenetv2-repnet", ZooOptions(classes=102, calibration_images=1)),
    ),
    "RegNetX-200MF": (False, lambda: regnet_x((1, 1, 4, 7), (24, 56, 152, 368), 8)),
    "RegNetX-400MF": (True, lambda: regnet_x((1, 2, 7, 12), (32, 64, 160, 400), 16)),
    "DenseNet-121": (True, densenet),
    "ResNet-18": (True, resnet18),
    "VGG-11": (True, vgg11),
}
"""Name -> whether it needs the large machine, and what builds it."""


def large() -> Machine:
    """Four times the sub-arrays and buffer of the paper's machine."""
    data = load_machine().model_dump()
    data["array"] |= {"banks": (32, 32)}
    data["buffer"] |= {"bytes": 4 * data["buffer"]["bytes"]}
    return Machine.model_validate(data)


def main() -> None:
    """Build and compile every network."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--only", default="", help="part of a name")
    o = parser.parse_args()
    print(environment(o.threads))
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, (roomy, make) in NETWORKS.items():
            if o.only not in name:
                continue
            path = Path(temporary) / "model.onnx"
            onnx.save(make(), path)
            machine = large() if roomy else load_machine()
            start = time.process_time()
            got = compile_model(path, CompileOptions(machine=machine))
            took = time.process_time() - start
            bound, gap = bound_cycles(got.graph, machine), got.placement.cost / got.placement.limit - 1
            rows.append(
                {
                    "network": name, "machine": "large" if roomy else machine.name, "matrices": len(got.placement.matrices), "s": took,
                    "cycles": got.infer.cycles, "ratio": got.infer.cycles / bound, "gap": gap,
                }
            )  # fmt: skip
            print(".", end="", flush=True)
    columns = ["network", "machine", "matrices", "processor s", "cycles of infer", "of the bound", "gap of the mapping"]
    cells = [[r["network"], r["machine"], r["matrices"], r["s"], r["cycles"], r["ratio"], f"{r['gap']:.2%}"] for r in rows]
    print("\n\n" + table(columns, cells))
    finish(o, {"rows": rows})


if __name__ == "__main__":
    main()
