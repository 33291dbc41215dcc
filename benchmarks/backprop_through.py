"""Where errors pass, what it is worth and what it costs: accuracy beside transposable sub-arrays and cycles, as a table and a plot.

    python benchmarks/backprop_through.py --data FOLDER [--datasets flowers17,pets] [--seeds 0,1] [--plot docs/backprop_through.png]
    python benchmarks/backprop_through.py --costs          (sub-arrays and cycles alone: nothing is trained)

Points between ``truncated`` and ``exact``: errors pass the frozen blocks behind a module and none before it, one block after another
from the classifier down (``--backprop-through``); layers that no trainable layer can do without are passed in any case. ``pooled``: the modules are
features of the classifier (``sasc zoo --wiring pooled``), so that errors pass nothing frozen. Runs are those of
benchmarks/ablation.py (same split, same recipe, same cache); costs are those of the default machine at ``--resolution`` and batch 8.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablation import Cache, Row, numbers, run, run_key
from common import add_common, environment, finish, table

from sasimc.api import CompileOptions, compile_model
from sasimc.zoo.zoo import ZooOptions, build, write

POINTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("truncated", ()),
    *((f"blocks {first} to 17", tuple(f"features.{i}.*" for i in range(first, 18))) for first in (17, 15, 12, 8, 5)),
    ("exact", ("features.*",)),
    ("pooled", ()),
)
"""Name and patterns of frozen layers. A module feeds the block it corrects, so errors for a module must pass the blocks behind it."""


def row_of(name: str, patterns: tuple[str, ...], extra: Sequence[str] = ()) -> Row:
    """The ablation row that trains with these errors."""
    if name == "exact":
        return Row(name, tuple(extra))
    if name == "pooled":
        return Row(name, (*extra, "zoo.wiring=pooled"))
    through = f"compile.backprop_through={'+'.join(patterns)}"
    return Row(name, (*extra, "compile.backprop=truncated" if name == "truncated" else through))


def costs(resolution: int, classes: int) -> dict[str, dict[str, int]]:
    """Transposable sub-arrays; of a training step of 8 images the cycles, those of its error phase and the bits between host and device; by point."""
    out: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        models = {
            wiring: write(
                build("mobilenetv2-repnet", ZooOptions(resolution=resolution, classes=classes, wiring=wiring)),
                Path(temporary) / f"{wiring}.onnx",
            )
            for wiring in ("add", "pooled")
        }
        for name, patterns in POINTS:
            through = patterns if name.startswith("blocks") else ()
            backprop = "exact" if name == "exact" else "truncated"
            compiled = compile_model(
                models["pooled" if name == "pooled" else "add"], CompileOptions(backprop=backprop, backprop_through=through)
            )
            assert compiled.train_step is not None
            out[name] = {
                "transposable": compiled.placement.transposable_subarrays,
                "cycles": compiled.train_step.cycles,
                "error_cycles": compiled.train_step.phases["error"],
                "host_bits": sum(compiled.train_step.events.get(f"host_bits_{way}", 0) for way in ("in", "out")),
            }
    return out


def plot(path: Path, rows: Sequence[dict[str, Any]], datasets: Sequence[str]) -> None:
    """Accuracy over transposable sub-arrays, a line a data set; the second axis has the cycles of a step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axis, key, label in (
        (axes[0], "transposable", "transposable sub-arrays"),
        (axes[1], "cycles", "cycles of a step of 8 images, millions"),
    ):
        for name in datasets:
            points = [
                (r[key] / (1e6 if key == "cycles" else 1), r[name], r[f"{name} sd"], r["errors pass"])
                for r in rows
                if r.get(name) is not None
            ]
            axis.errorbar(
                [p[0] for p in points], [p[1] for p in points], [p[2] for p in points], marker="o", capsize=3, label=name
            )
            for x, y, _, text in points:
                axis.annotate(text, (x, y), textcoords="offset points", xytext=(4, -10), fontsize=6)
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("validation top-1, %")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Price every point, train what the cache lacks, print and draw."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--datasets", type=lambda t: t.split(","), default=["flowers17", "pets"])
    parser.add_argument("--seeds", type=numbers, default=[0, 1])
    parser.add_argument("--epochs", type=numbers, default=[5, 12], help="of each data set")
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--held-back", type=float, default=1 / 3)
    parser.add_argument("--set", action="append", default=[], help="key=value: changes the recipe of every point")
    parser.add_argument("--base", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, default=Path("ablation.json"))
    parser.add_argument("--costs", action="store_true", help="train nothing")
    parser.add_argument("--show", action="store_true", help="take runs from the cache only")
    parser.add_argument("--plot", type=Path, help="PNG to write")
    o = parser.parse_args()
    print(environment(1))
    cache, priced = Cache(o.cache), costs(o.resolution, 17)
    rows: list[dict[str, Any]] = []
    for name, patterns in POINTS:
        found: dict[str, Any] = {"errors pass": name, **priced[name]}
        for dataset in () if o.costs else o.datasets:
            row, values = row_of(name, patterns, o.set), []
            for seed in o.seeds:
                key = run_key(row, dataset, seed, o)
                if key not in cache.all() and not o.show:
                    cache.put(key, run(row, dataset, seed, o))
                if key in cache.all():
                    values.append(cache.all()[key]["top1"])
            if values:
                found[dataset] = statistics.mean(values)
                found[f"{dataset} sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
        print(found, flush=True)
        rows.append(found)
    keys = list(dict.fromkeys(k for r in rows for k in r))
    print("\n" + table(keys, [[r.get(k, "") for k in keys] for r in rows]))
    if o.plot:
        plot(o.plot, rows, [d for d in o.datasets if any(r.get(d) is not None for r in rows)])
        print(f"wrote {o.plot}")
    finish(o, {"rows": rows})


if __name__ == "__main__":
    main()
