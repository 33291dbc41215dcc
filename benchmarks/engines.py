"""Speed of the engines beside three limits measured in the same run with the same threads.

    python benchmarks/engines.py --data FOLDER [--threads 2] [--repeat 7] [--cpu NAME] [--profile ENGINE] [--json FILE]

The network is MobileNet-V2 1.0/224 with Rep-Net (``--random``: random weights, needs no data; the work is the same). The limits:

(a) the innermost kernels on operands that stay in the cache, all threads: 1-bit operations and multiply-adds a second;
(b) onnxruntime on the same QDQ graph, default optimisations;
(c) PyTorch, float32, forward and backward of the same trainable part, where torch is installed.

Every figure is the best of ``--repeat`` runs in a process of its own; ratios carry over to other machines better than seconds.
``--cpu`` lets the simulator run the code of an older processor, and PyTorch, too. onnxruntime cannot be limited so: it keeps all instructions
of this processor, and the ratios to it are worse than they would be on the other one.
``--profile`` prints instead where one engine spends its time, by mnemonic. "Outside of compiled code" is the interpreter's share.
``--clock processor --threads 1`` measures processor seconds: what to use where other work shares the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from common import add_common, data_folder, environment, finish, peak_rss_mb, table

from sasimc.runtime.kernels.forms import FORM, PROCESSORS, acting, form

BATCH = 8
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
clock = time.perf_counter
CHILDREN = ("limit", "onnxruntime", "torch", "fused", "bitserial", "step", "data set")
IMAGES = 96
"""Images of a data set that are decoded and classified."""


def main() -> None:
    """Compile once, then measure each engine and limit in its own process."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--random", action="store_true", help="random weights: needs no data")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--classes", type=int, default=17)
    parser.add_argument("--only", default=",".join(CHILDREN), help="what to measure, comma separated")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument(
        "--cpu", choices=("native", *PROCESSORS), default="native", help="processor whose code the simulator runs"
    )
    parser.add_argument("--profile", metavar="ENGINE", help="print time by mnemonic of one engine")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    o = parser.parse_args()
    global clock
    clock = CLOCKS[o.clock]
    if o.one:
        print(json.dumps(measure(o.one[0], Path(o.one[1]), o)))
        return
    if o.cpu != "native" and "NUMBA_CPU_NAME" not in os.environ:
        act(o.cpu)
    about = {**environment(o.threads), "form": form(), "emulated": o.cpu != "native"}
    print(about)
    if about["emulated"]:
        print("onnxruntime uses all instructions of this processor: the ratios to it are worse than on a real", o.cpu)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build_all(folder, o)
        if o.profile:
            profile(o.profile, folder, o)
            return
        found = {name: child(name, folder, o) for name in o.only.split(",")}
    rows = summary({name: r for name, r in found.items() if r})
    print("\n" + report(rows))
    finish(o, {"about": about, "rows": rows})


def act(cpu: str) -> None:
    """Start again with the environment of another processor's code; ends the program if this one cannot run it."""
    found = acting(cpu)
    if found is None:
        sys.exit(f"this processor lacks instructions of {cpu}")
    if cpu == "haswell":
        found |= {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **found})


def build_all(folder: Path, o: argparse.Namespace) -> None:
    """model.onnx and prog.s of the network, small.s of a small one for the engine ``step``."""
    from sasimc.api import CompileOptions, compile_model
    from sasimc.isa.files import save_program
    from sasimc.zoo.zoo import ZooOptions, build, write

    weights = None if o.random else str(data_folder(o) / "weights")
    path = write(build("mobilenetv2-repnet", ZooOptions(weights=weights, classes=o.classes)), folder / "model.onnx")
    save_program(compile_model(path, CompileOptions()).program, folder / "prog.s")
    small = ZooOptions(width=0.35, resolution=32, classes=4)
    path = write(build("mobilenetv2", small), folder / "small.onnx")
    save_program(compile_model(path, CompileOptions()).program, folder / "small.s")


def child(name: str, folder: Path, o: argparse.Namespace) -> dict[str, Any]:
    """Measure one thing in a process of its own, with its threads limited; empty where a package is missing."""
    env = {**os.environ, "OMP_NUM_THREADS": str(o.threads), "OPENBLAS_NUM_THREADS": str(o.threads)}
    words = [sys.executable, __file__, "--one", name, str(folder), "--threads", str(o.threads), "--repeat", str(o.repeat)]
    words += ["--clock", o.clock, *(["--data", str(o.data)] if o.data else [])]
    done = subprocess.run(words, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def best(work: Callable[[], object], repeat: int) -> float:
    """Shortest of ``repeat`` runs after one that is not counted, seconds."""
    work()
    times = []
    for _ in range(repeat):
        start = clock()
        work()
        times.append(clock() - start)
    return min(times)


def pictures(side: int = 224) -> Any:
    return np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), dtype=np.uint8)


def measure(name: str, folder: Path, o: argparse.Namespace) -> dict[str, Any]:
    """The figures of one engine or limit."""
    if name in ("fused", "bitserial"):
        return measure_engine(name, folder, o)
    others = {
        "limit": measure_limit,
        "onnxruntime": measure_onnxruntime,
        "torch": measure_torch,
        "step": measure_step,
        "data set": measure_dataset,
    }
    return others[name](folder, o)


# ----------------------------------------------------------------------------------------------------------------- limits


def measure_limit(folder: Path, o: argparse.Namespace) -> dict[str, Any]:
    """1-bit operations and multiply-adds a second of all threads: the innermost kernels on operands that stay in the cache."""
    import numba

    from sasimc.runtime.kernels.dense import pack_weights, prepare_fused
    from sasimc.runtime.kernels.products import bit_block_unsigned, dot_tile, tables_unsigned

    k, times, columns = 512, 20_000, 16 * FORM.blocks
    rng = np.random.default_rng(0)
    w = rng.integers(-128, 128, (k, columns)).astype(np.int8)
    x = rng.integers(0, 256, (FORM.pixels, 2 * k), dtype=np.uint8)  # a form that multiplies pairs reads two bytes an element
    tables, planes, prepared = np.zeros(8 * k, np.uint8), pack_weights(w), prepare_fused(w)
    vectors, pixels = k // (2 * FORM.lanes), FORM.pixels

    @numba.njit(nogil=True)
    def count(tables, planes, times):  # type: ignore[no-untyped-def]
        sums, wrapped = np.zeros(16, np.int32), 0
        for _ in range(times):
            wrapped |= bit_block_unsigned(tables.ctypes.data, planes.ctypes.data, vectors, sums.ctypes.data)
        return wrapped

    @numba.njit(nogil=True)
    def multiply(x, w, times):  # type: ignore[no-untyped-def]
        sums, where, wrapped, zero = np.zeros((pixels, columns), np.int32), np.zeros(pixels, np.int64), 0, np.int64(0)
        for pixel in range(pixels):
            where[pixel] = sums.ctypes.data + 4 * columns * pixel
        for _ in range(times):
            wrapped |= dot_tile(x.ctypes.data, x.shape[1], k // 4, w.ctypes.data, zero, where.ctypes.data, zero, np.int64(pixels))
        return wrapped

    @numba.njit
    def tabulate(x, tables):  # type: ignore[no-untyped-def]
        tables_unsigned(x.ctypes.data, vectors, tables.ctypes.data)

    tabulate(x, tables)
    with ThreadPoolExecutor(o.threads) as pool:

        def everywhere(kernel: Any, *operands: Any) -> float:
            return best(lambda: list(pool.map(lambda _: kernel(*operands, times), range(o.threads))), max(o.repeat, 15))

        bits = o.threads * times * k * 64 * 16 / everywhere(count, tables, planes)
        products = o.threads * times * k * pixels * columns / everywhere(multiply, x, prepared)
    return {"bit_operations_per_s": bits, "products_per_s": products}


def measure_onnxruntime(folder: Path, o: argparse.Namespace) -> dict[str, Any]:
    """The same graph, one image and a batch."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = o.threads
    s = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    x = np.ascontiguousarray((pictures().astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2))
    name = s.get_inputs()[0].name
    return {
        "infer_1_s": best(lambda: s.run(None, {name: x[:1]}), 4 * o.repeat),
        "infer_8_s": best(lambda: s.run(None, {name: x}), o.repeat) / BATCH,
        "rss_mb": peak_rss_mb(),
    }


def measure_torch(folder: Path, o: argparse.Namespace) -> dict[str, Any]:
    """Forward and backward, float32, batch 8, the faster of two memory layouts; empty without torch."""
    try:
        import torch

        from sasimc.reference.float_reference import FloatReference
    except ImportError:
        return {}
    torch.set_num_threads(o.threads)
    x = torch.from_numpy(pictures().astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2).contiguous()
    y = torch.arange(BATCH)
    times = {}
    for layout in (torch.channels_last, torch.contiguous_format):
        twin = FloatReference(folder / "model.onnx", layout=layout)
        weights = list(twin.parameters())

        def step(twin: Any = twin, weights: Any = weights) -> None:
            torch.autograd.grad(torch.nn.functional.cross_entropy(twin(x), y), weights)

        times[str(layout)] = best(step, o.repeat)
    return {"train_step_s": min(times.values()), "layouts": times, "rss_mb": peak_rss_mb()}


# ---------------------------------------------------------------------------------------------------------------- engines


class InPlans:
    """While entered, adds up the time that is spent in plans, that is in compiled code: ``seconds``."""

    def __enter__(self) -> InPlans:
        from sasimc.runtime.kernels import run

        self.seconds, inner = 0.0, run.run_plan
        self._undo = lambda: setattr(run, "run_plan", inner)

        def timed(*args: Any) -> None:
            start = clock()
            inner(*args)
            if threading.current_thread() is threading.main_thread():
                self.seconds += clock() - start

        run.run_plan = timed
        return self

    def __exit__(self, *_: object) -> None:
        self._undo()


def outside(work: Callable[[], object], repeat: int) -> float:
    """Share of the time of ``work`` outside of compiled code, in the fastest of ``repeat`` runs."""
    found = []
    for _ in range(repeat):
        with InPlans() as inside:
            start = clock()
            work()
            total = clock() - start
        found.append((total, 1 - inside.seconds / total))
    return min(found)[1]


def by_operation(it: Any, work: Callable[[], object], repeat: int) -> dict[int, tuple[int, float, int]]:
    """Of each instruction of the loops ``work`` runs: how often, processor seconds of all threads, multiply-adds of dense kernels."""
    it.datapath.timed = True
    it.reset_counters()
    before = it.datapath.spent
    for _ in range(repeat):
        work()
    it.datapath.timed = False
    out: dict[int, tuple[int, float, int]] = {}
    executed: dict[int, list[tuple[int, int, int]]] = {}
    for phase in it.counters.phases.values():
        for (pc, r0, r1), n in phase.total().items():
            executed.setdefault(pc, []).append((r0, r1, n))
    for pc, spent in it.datapath.spent.items():
        spec, o = it.code[pc]
        keys = executed.get(pc, [])
        dense = spec.kernel == "forward_product"
        rows = sum((r1 - r0) * n for r0, r1, n in keys)
        products = rows * o.acc.width * o.mat.k * o.mat.n // repeat if dense else 0
        out[pc] = (sum(n for _, _, n in keys) // repeat, (spent - before.get(pc, 0)) * 1e-9 / repeat, products)
    return out


def measure_engine(name: str, folder: Path, o: argparse.Namespace) -> dict[str, Any]:
    """Seconds an image and a training step, rates, overhead, peak memory."""
    from sasimc.runtime.device import Device
    from sasimc.runtime.warmup import warm_up

    images, labels = pictures(), np.arange(BATCH)
    start = clock()
    device = Device(folder / "prog.s", name, o.threads)
    out: dict[str, Any] = {"load_s": clock() - start}
    it = device.interpreter
    warm_up(it.datapath.codes())
    out["infer_1_s"] = best(lambda: device.infer(images[:1]), 4 * o.repeat)
    out["infer_8_s"] = best(lambda: device.infer(images), o.repeat) / BATCH
    out["infer_rss_mb"] = peak_rss_mb()
    out["overhead"] = outside(lambda: device.infer(images[:1]), 4 * o.repeat)
    dense = [v for v in by_operation(it, lambda: device.infer(images[:1]), 2 * o.repeat).values() if v[2]]
    # 8 input bits meet 8 stored bits; thread seconds, hence times the threads that work at once
    out["dense_bit_operations_per_s"] = 64 * sum(n for _, _, n in dense) / sum(s for _, s, _ in dense) * o.threads
    it.reset_counters()
    device.infer(images[:1])
    out["cycles"], out["instructions"] = it.cycles, it.events["instructions"]
    # one operation = one cell's product with one input bit, shifted and added
    out["bit_operations_per_s"] = it.events["shift_adds"] * 8 / out["infer_1_s"]
    out["instructions_per_s"] = out["instructions"] / out["infer_1_s"]
    out["train_step_s"] = best(lambda: device.train_step(images, labels), o.repeat)
    out["train_overhead"] = outside(lambda: device.train_step(images, labels), o.repeat)
    it.reset_counters()
    device.train_step(images, labels)
    out["train_cycles"], out["train_instructions"] = it.cycles, it.events["instructions"]
    out["rss_mb"] = peak_rss_mb()
    return out


def measure_step(folder: Path, o: argparse.Namespace) -> dict[str, Any]:
    """Row activations a second of the engine ``step`` on a small network."""
    from sasimc.runtime.device import Device
    from sasimc.runtime.warmup import warm_up

    device = Device(folder / "small.s", "step", o.threads)
    warm_up(device.interpreter.datapath.codes())
    image = pictures(32)[:1]
    seconds = best(lambda: device.infer(image), 1)
    device.interpreter.reset_counters()
    device.infer(image)
    events = device.interpreter.events
    rows = events["row_activations"] + events["row_activations_depthwise"]
    return {"infer_small_s": seconds, "row_activations": rows, "row_activations_per_s": rows / seconds, "rss_mb": peak_rss_mb()}


def measure_dataset(folder: Path, o: argparse.Namespace) -> dict[str, Any]:
    """Decoding alone, classifying alone and both as `evaluate` does them (`fused`); empty without real data."""
    from sasimc.datasets.dataset import open_dataset
    from sasimc.datasets.loader import Loader
    from sasimc.runtime.device import Device
    from sasimc.runtime.warmup import warm_up
    from sasimc.training.evaluation import evaluate

    if o.data is None or not (Path(o.data) / "flowers-17").is_dir():
        return {}
    device, dataset = Device(folder / "prog.s", "fused", o.threads), open_dataset(Path(o.data) / "flowers-17")
    warm_up(device.interpreter.datapath.codes())
    loader = Loader(dataset, "val", device.preprocess, device.batch_size, limit=IMAGES)
    batches = [images for images, _, _ in loader.epoch(0)]
    return {
        "decode_s": best(lambda: list(loader.epoch(0)), 2),
        "classify_s": best(lambda: [device.infer(images) for images in batches], 2),
        "evaluate_s": best(lambda: evaluate(device, dataset, "val", limit=IMAGES), 2),
    }


def profile(name: str, folder: Path, o: argparse.Namespace) -> None:
    """Processor time by mnemonic of one image and of one training step of 8; the rest is the interpreter's and what it runs itself."""
    from sasimc.runtime.device import Device
    from sasimc.runtime.warmup import warm_up

    device, images = Device(folder / "prog.s", name, o.threads), pictures()
    it = device.interpreter
    warm_up(it.datapath.codes())
    for title, work in (
        ("one image", lambda: device.infer(images[:1])),
        ("training step of 8", lambda: device.train_step(images, np.arange(BATCH))),
    ):
        work()
        start = time.process_time()
        found = by_operation(it, work, o.repeat)
        total = (time.process_time() - start) / o.repeat
        spent: dict[str, list[float]] = {}
        for pc, (times, seconds, _) in found.items():
            slot = spent.setdefault(it.program.code[pc].spec.mnemonic, [0.0, 0.0])
            slot[0], slot[1] = slot[0] + seconds, slot[1] + times
        spent["the rest"] = [total - sum(s for s, _ in spent.values()), 0]
        rows = sorted(((m, n, s) for m, (s, n) in spent.items()), key=lambda r: -r[2])
        body = [(m, round(n) or "", s * 1e3, s / n * 1e6 if n else "", f"{100 * s / total:.1f}") for m, n, s in rows]
        print(f"\n{name}, {title}: {total * 1e3:.1f} ms\n" + table(["mnemonic", "times", "ms", "us each", "% of time"], body))


# ----------------------------------------------------------------------------------------------------------------- report


def summary(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The figures with their ratios to the limits."""
    limit = found.get("limit", {}).get("bit_operations_per_s")
    ort, torch = found.get("onnxruntime", {}), found.get("torch", {})
    for name in ("fused", "bitserial"):
        r = found.get(name)
        if r is None:
            continue
        for what in ("infer_1_s", "infer_8_s"):
            if what in ort:
                r[f"{what}_x_onnxruntime"] = r[what] / ort[what]
        if torch:
            r["train_step_x_torch"] = r["train_step_s"] / torch["train_step_s"]
        if limit and name == "bitserial":
            r["dense_share_of_limit"] = r["dense_bit_operations_per_s"] / limit
    return found


def report(rows: dict[str, dict[str, Any]]) -> str:
    """The table: a column for each engine and limit."""
    lines = (
        ("ms/image, batch 1", "infer_1_s", 1e3),
        ("x onnxruntime, batch 1", "infer_1_s_x_onnxruntime", 1),
        ("ms/image, batch 8", "infer_8_s", 1e3),
        ("x onnxruntime, batch 8", "infer_8_s_x_onnxruntime", 1),
        ("images/s, batch 8", "infer_8_s", -1),
        ("ms/training step of 8", "train_step_s", 1e3),
        ("x PyTorch float32", "train_step_x_torch", 1),
        ("training images/s", "train_step_s", -BATCH),
        ("G 1-bit operations/s", "bit_operations_per_s", 1e-9),
        ("the same, dense kernels alone", "dense_bit_operations_per_s", 1e-9),
        ("dense kernels, % of the limit", "dense_share_of_limit", 100),
        ("G multiply-adds/s", "products_per_s", 1e-9),
        ("k instructions/s", "instructions_per_s", 1e-3),
        ("outside of compiled code, % of an image", "overhead", 100),
        ("outside of compiled code, % of a step", "train_overhead", 100),
        ("M row activations/s", "row_activations_per_s", 1e-6),
        ("ms/image, decoding alone", "decode_s", 1e3 / IMAGES),
        ("ms/image, classifying alone", "classify_s", 1e3 / IMAGES),
        ("ms/image, evaluating the data set", "evaluate_s", 1e3 / IMAGES),
        ("peak MB", "rss_mb", 1),
    )
    body = []
    for title, key, scale in lines:
        values = [r.get(key) for r in rows.values()]
        body.append([title, *("" if v is None else -scale / v if scale < 0 else v * scale for v in values)])
    return table(["", *rows], body)


if __name__ == "__main__":
    main()
