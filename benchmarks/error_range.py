"""Exponents of errors from the step before (``sasc compile --error-range previous``): what a training step costs, and what it does to accuracy.

    python benchmarks/error_range.py --costs [--resolution 224]
    python benchmarks/error_range.py --data FOLDER [--datasets flowers17,pets] [--epochs 5,12] [--seeds 0,1,2]

Runs are those of benchmarks/ablation.py (same split, same cache), with the default update and rounding; costs are those of the default machine, of a
step of 8 images of MobileNet-V2 1.0 + Rep-Net. Energy counts a quarter of the cells behind input bits as sensed.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any, get_args

from ablation import Cache, Row, numbers, run, run_key
from common import add_common, environment, finish, table

from sasimc.api import CompileOptions, compile_model
from sasimc.costs import price_list
from sasimc.ir.kinds import ERROR_RANGES
from sasimc.ir.words import Spill
from sasimc.zoo.zoo import ZooOptions, build, write

SENSED = 0.25
SETTINGS = (*(CompileOptions(spill=spill) for spill in get_args(Spill)), CompileOptions(error_range="previous"))
DEFAULTS = ["compile.update=momentum", "compile.round_errors=carried"]


def costs(resolution: int, classes: int) -> list[dict[str, Any]]:
    """Cycles, bits between host and device and energy of a step of 8 images, by setting."""
    out: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        network = build("mobilenetv2-repnet", ZooOptions(resolution=resolution, classes=classes))
        path = write(network, Path(temporary) / "model.onnx")
        for options in SETTINGS:
            compiled = compile_model(path, options)
            step, machine = compiled.train_step, compiled.program.machine
            assert step is not None
            model = price_list("sas").model(machine, compiled.placement.transposable_subarrays)
            events = {**step.events, "sense_ones": round(SENSED * step.bit_products)}
            inside = {name: n for name, n in events.items() if not name.startswith("host_bits")}
            total = model.energy(events, step.cycles)
            out.append({
                "--error-range": options.error_range,
                "--spill": options.spill if options.error_range == "batch" else "",
                "cycles, 10^6": step.cycles / 1e6,
                "of which errors": step.phases["error"] / 1e6,
                "host bits, 10^6": (events["host_bits_in"] + events["host_bits_out"]) / 1e6,
                "energy, mJ": 1e3 * total,
                "of which host": 1e3 * (total - model.energy(inside, step.cycles)),
                "instructions of the program": len(compiled.program.code),
            })  # fmt: skip
    return out


def main() -> None:
    """Price both settings, train what the cache lacks, print."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--datasets", type=lambda t: t.split(","), default=["flowers17", "pets"])
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("--epochs", type=numbers, default=[5, 12], help="of each data set")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--held-back", type=float, default=1 / 3)
    parser.add_argument("--cache", type=Path, default=Path("ablation.json"))
    parser.add_argument("--costs", action="store_true", help="train nothing")
    o = parser.parse_args()
    o.base = DEFAULTS
    print(environment(1))
    if o.costs:
        rows = costs(o.resolution, 17)
        print(table(list(rows[0]), [list(r.values()) for r in rows]))
        finish(o, {"costs": rows})
        return
    cache = Cache(o.cache)
    lines: list[list[Any]] = []
    settings = [Row(name, (f"compile.error_range={name}",)) for name in ERROR_RANGES]
    for dataset in o.datasets:
        found: dict[str, list[dict[str, Any]]] = {}
        for seed in o.seeds:
            for row in settings:
                key = run_key(row, dataset, seed, o)
                if key not in cache.all():
                    cache.put(key, run(row, dataset, seed, o))
                found.setdefault(row.name, []).append(cache.all()[key])
                print(f"{key}: {found[row.name][-1]}", flush=True)
        base, other = ([r["top1"] for r in found[name]] for name in ERROR_RANGES)
        gains = [b - a for a, b in zip(base, other, strict=True)]
        error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
        saturated = sum(r["saturated"] for r in found["previous"]) / sum(r["ranged"] for r in found["previous"])
        lines.append([
            dataset, f"{statistics.mean(base):.2f}", f"{statistics.mean(other):.2f}", f"{statistics.mean(gains):+.2f} ± {error:.2f}",
            f"{1e6 * saturated:.1f}",
        ])  # fmt: skip
    header = ["data set", "batch, top-1", "previous, top-1", "difference ± standard error", "saturated, per million errors"]
    print("\n" + table(header, lines))
    finish(o, {"rows": [dict(zip(header, line, strict=True)) for line in lines]})


if __name__ == "__main__":
    main()
