"""Accuracy against bit error rate, on the embedded network.

    python benchmarks/bit_errors.py [--program prog.s] [--dataset drawn-flowers] [--plot FILE.png] [--json FILE]

Without ``--program`` the embedded network is trained first (without errors). Then its test accuracy is measured with each kind of
error alone at every rate, each with ``--seeds`` seeds, in all sub-arrays and in the transposable ones only (which hold the trained weights);
``--train-rates`` trains it anew while writes fail.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from common import add_common, environment, finish, table

KINDS = ("write", "read", "stuck")


def main() -> None:
    """Train or load, then sweep."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--program", type=Path, help="a compiled, trained program")
    parser.add_argument("--dataset", default="drawn-flowers")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of every training")
    parser.add_argument("--rates", default="1e-5,1e-4,1e-3,3e-3,1e-2,3e-2")
    parser.add_argument("--train-rates", default="1e-4,1e-3,1e-2", help="write error rates during training ('' for none)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="at most this many test images")
    parser.add_argument("--engine", default="fused")
    parser.add_argument("--plot", type=Path, help="draw the curves to this file")
    o = parser.parse_args()
    print(environment(o.threads))
    bench = Bench(o)
    clean = bench.accuracy(None)
    print(f"without errors: {clean:.2f} % of {bench.images} test images")
    rows = [bench.sweep(kind, array, rate) for array in ("", "transposable") for kind in KINDS for rate in numbers(o.rates)]
    header = ["error", "sub-arrays", "rate", "top-1 %", "least", "most", "wrong bits"]
    print("\n" + table(header, [[r[k] for k in ("error", "arrays", "rate", "top1", "least", "most", "bits")] for r in rows]))
    trained = [bench.training(rate) for rate in numbers(o.train_rates)]
    if trained:
        print(
            "\nTrained while writes fail:\n\n"
            + table(["write error rate", "top-1 %", "wrong bits"], [[t["rate"], t["top1"], t["bits"]] for t in trained])
        )
    if o.plot:
        draw(o.plot, clean, rows, trained)
    finish(o, {"dataset": o.dataset, "clean_top1": clean, "images": bench.images, "sweep": rows, "training": trained})


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split(",") if word]


class Bench:
    """The trained network and its test images."""

    def __init__(self, o: argparse.Namespace) -> None:
        from sasimc.api import CompileOptions, compile_model
        from sasimc.datasets.dataset import open_dataset
        from sasimc.isa.files import load_program
        from sasimc.runtime.device import Device
        from sasimc.zoo.zoo import default_model_path

        self.o = o
        self.untrained = load_program(o.program) if o.program else compile_model(default_model_path(), CompileOptions()).program
        size = Device(self.untrained, o.engine, o.threads).input_shape[0]
        self.data = open_dataset(o.dataset, Path(o.data) if o.data else None, size=size)
        self.images = min(len(self.data.items("test")), o.limit or sys.maxsize)
        self.state = None if o.program else self._train(None)[0].state()

    def _train(self, errors: Any) -> tuple[Any, float]:
        from sasimc.runtime.device import Device
        from sasimc.training.evaluation import evaluate
        from sasimc.training.recipe import Recipe
        from sasimc.training.trainer import train

        device = Device(self.untrained, self.o.engine, self.o.threads)
        if errors is not None:
            device.inject(errors)
        start = time.perf_counter()
        train(
            device, self.data, Recipe(epochs=self.o.epochs), None,
            lambda e: print(f"epoch {e.epoch + 1}/{self.o.epochs}: val {e.val_top1:.1f} %, {time.perf_counter() - start:.0f} s", flush=True),
        )  # fmt: skip
        return device, evaluate(device, self.data, "test", None, self.o.limit)[0]

    def accuracy(self, errors: Any) -> float:
        """Test accuracy, percent, of the trained network with bit errors (None: without)."""
        return self._measure(errors)[0]

    def _measure(self, errors: Any) -> tuple[float, int]:
        from sasimc.runtime.device import Device
        from sasimc.training.evaluation import evaluate

        device = Device(self.untrained, self.o.engine, self.o.threads)
        if self.state is not None:
            device.load_state(self.state)
        if errors is not None:
            device.inject(errors)
        top1, _ = evaluate(device, self.data, "test", None, self.o.limit)
        counts = device.faults.counts if device.faults else {"write": 0, "read": 0, "stuck": 0, "runs": 1}
        return top1, counts["write"] + counts["stuck"] + counts["read"] // max(1, counts["runs"])

    def sweep(self, kind: str, array: str, rate: float) -> dict[str, Any]:
        """Mean and range over the seeds."""
        from sasimc.runtime.faults import parse_bit_errors

        text = f"{kind}={rate}" + (f",kind={array}" if array else "")
        got = [self._measure(parse_bit_errors([text], seed)) for seed in range(self.o.seeds)]
        top1 = [g[0] for g in got]
        print(f"{kind} {array or 'all'} {rate:g}: {statistics.mean(top1):.1f} %", flush=True)
        return {
            "error": kind, "arrays": array or "all", "rate": rate, "top1": statistics.mean(top1), "least": min(top1), "most": max(top1),
            "bits": round(statistics.mean(g[1] for g in got)),
        }  # fmt: skip

    def training(self, rate: float) -> dict[str, Any]:
        """Train anew while writes fail, then test (with the same rate)."""
        from sasimc.runtime.faults import parse_bit_errors

        device, top1 = self._train(parse_bit_errors([f"write={rate}"], 0))
        return {"rate": rate, "top1": top1, "bits": device.faults.counts["write"]}


def draw(path: Path, clean: float, rows: list[dict[str, Any]], trained: list[dict[str, Any]]) -> None:
    """The curves as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    ax.axhline(clean, color="k", lw=1, ls=":", label="without errors")
    for kind, colour in zip(KINDS, ("tab:blue", "tab:orange", "tab:green"), strict=True):
        for arrays, style in (("all", "-"), ("transposable", "--")):
            own = [r for r in rows if r["error"] == kind and r["arrays"] == arrays]
            rates = [r["rate"] for r in own]
            ax.plot(rates, [r["top1"] for r in own], style, color=colour, marker="o", ms=3, label=f"{kind}, {arrays} sub-arrays")
            ax.fill_between(rates, [r["least"] for r in own], [r["most"] for r in own], color=colour, alpha=0.1)
    if trained:
        ax.plot([t["rate"] for t in trained], [t["top1"] for t in trained], "k^", label="trained while writes fail")
    ax.set(xscale="log", xlabel="bit error rate", ylabel="top-1, %", ylim=(0, None))
    ax.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
