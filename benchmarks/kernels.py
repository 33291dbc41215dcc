"""Time of the kernels on the layer shapes of MobileNet-V2 1.0/224 and whether their hot loops are vector code.

    python benchmarks/kernels.py [--threads 2] [--repeat 5] [--asm]

Prints milliseconds and G multiply-adds a second for both engines beside float32 BLAS with its conversions, then the sum
over the network's layers (an image, without the interpreter).
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # BLAS threads that spin would disturb what is measured beside them

import numba
import numpy as np

from sasimc.runtime.kernels import dense, depthwise

BLOCKS = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
"""Inverted residuals of MobileNet-V2: expansion, channels, repeats, stride of the first (its paper, table 2)."""

Layer = tuple[str, int, int, int, int]


def layers(side: int = 224) -> dict[Layer, int]:
    """(kind, output side, K or stride, N, input side) -> how often."""
    count: dict[Layer, int] = {}

    def add(*layer: object) -> None:
        count[layer] = count.get(layer, 0) + 1  # type: ignore[index]

    side //= 2
    add("dense", side, 27, 32, side)
    chans = 32
    for expand, out, repeats, first_stride in BLOCKS:
        for i in range(repeats):
            stride, hidden = (first_stride if i == 0 else 1), chans * expand
            if expand > 1:
                add("dense", side, chans, hidden, side)
            add("depth-wise", side // stride, stride, hidden, side)
            side //= stride
            add("dense", side, hidden, out, side)
            chans = out
    add("dense", side, chans, 1280, side)
    add("dense", 1, 1280, 1000, 1)
    return count


def best_of(repeat: int, run: Callable[[], object]) -> float:
    run()
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def measure(layer: Layer, repeat: int) -> dict[str, float]:
    kind, side, k, n, side_in = layer
    rng = np.random.default_rng(1)
    view = dense.make_view(0, side, n, side)
    acc = np.zeros(side * side * n, np.int32)
    times: dict[str, float] = {}
    if kind == "dense":
        x = rng.integers(0, 256, (side * side, k), dtype=np.uint8)
        w = rng.integers(-128, 128, (k, n)).astype(np.int8)
        planes, pairs, floats = dense.pack_weights(w), dense.prepare_fused(w), w.astype(np.float32)
        times["bitserial"] = best_of(repeat, lambda: dense.dense_bitserial_acc(x, planes, False, acc, view, 0, 0, n))
        times["fused"] = best_of(repeat, lambda: dense.dense_fused_acc(x, pairs, False, acc, view, 0, 0, n))
        times["blas"] = best_of(repeat, lambda: (x.astype(np.float32) @ floats).astype(np.int32))
    else:
        geom = depthwise.make_geom(3, 3, k, k, 1, 1, 1, 1, side_in, side_in, side, side)
        inputs, xv = rng.integers(0, 256, side_in * side_in * n, dtype=np.uint8), dense.make_view(0, side_in, n, side_in)
        w = rng.integers(-128, 128, (3, 3, n)).astype(np.int8)
        for engine in ("bitserial", "fused"):
            times[engine] = best_of(
                repeat,
                lambda engine=engine: depthwise.dw_scatter(engine, inputs, xv, False, w, geom, 0, 0, side_in, acc, view),
            )
        times["blas"] = float("nan")
    return times


def vector_report() -> None:
    """How many 512- and 256-bit instructions of interest each hot kernel holds."""
    for kind in ("dense", "depth-wise"):
        measure((kind, 7, 1, 16, 7), 1)
    for name, kernel in (
        ("dense bit-serial", dense.bitserial_range),
        ("dense fused", dense.fused_range),
        ("depth-wise", depthwise.dw_band),
    ):
        text = "\n".join(kernel.alone.inspect_asm().values())
        found = {
            word: len(re.findall(rf"\t{word}\w*\s.*[zy]mm", text))
            for word in (
                "vpopcnt",
                "vpdpbusd",
                "vpdpwssd",
                "vptestm",
                "vpmullw",
                "vpmullq",
                "vpmuldq",
                "vpsravq",
                "vpand",
                "vpadd",
            )
        }
        print(f"{name:18}", {word: number for word, number in found.items() if number})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=numba.config.NUMBA_NUM_THREADS)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--asm", action="store_true", help="count vector instructions of the hot kernels")
    args = parser.parse_args()
    numba.set_num_threads(args.threads)
    if args.asm:
        vector_report()
    total: dict[str, float] = {}
    for layer, times in layers().items():
        kind, side, k, n, _ = layer
        work = side * side * n * (k if kind == "dense" else 9)
        seconds = measure(layer, args.repeat)
        cells = " ".join(
            f"{name} {value * 1e3:7.3f} ms {work / value / 1e9:6.1f} G/s" for name, value in list(seconds.items())[:3]
        )
        shape = f"{side}x{side} {k}->{n}" if kind == "dense" else f"{side}x{side} s{k} {n}"
        print(f"{kind:10} {shape:18} x{times} {work / 1e6:6.2f} M  {cells}  requantise {seconds['requantise'] * 1e3:.3f}")
        for name, value in seconds.items():
            if value == value:
                key = f"{kind} {name}" if name in ("bitserial", "fused", "blas") else name
                total[key] = total.get(key, 0.0) + times * value
    print("an image, ms:", {name: round(value * 1e3, 2) for name, value in total.items()})


if __name__ == "__main__":
    main()
