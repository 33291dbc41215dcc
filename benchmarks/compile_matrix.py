"""What compiles: MobileNet-V2 + Rep-Net over widths, resolutions, classes, machines and error policies.

    python benchmarks/compile_matrix.py [--widths 0.35,0.5,0.75,1.0,1.4] [--resolutions 96,160,224] [--json FILE]

Random weights: size and structure decide, not values. A network that does not fit is a row with the compiler's message.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

from common import add_common, environment, finish, peak_rss_mb, table

from sasimc.api import CompileOptions, compile_model, compile_report
from sasimc.isa.errors import SasError
from sasimc.zoo.zoo import ZooOptions, build, write


def one(path: Path, machine: Path | None, backprop: str) -> dict[str, Any]:
    """The compile report, or the error."""
    start = time.perf_counter()
    try:
        compiled = compile_model(path, CompileOptions(machine=machine, backprop=backprop))
    except SasError as e:
        return {"error": e.diagnostic.message, "wall_s": time.perf_counter() - start}
    return compile_report(compiled, time.perf_counter() - start)


def main() -> None:
    """Build and compile every combination."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--widths", default="0.35,0.5,0.75,1.0,1.4")
    parser.add_argument("--resolutions", default="96,224")
    parser.add_argument("--classes", type=int, default=102)
    parser.add_argument("--machines", type=Path, nargs="*", default=[], help="machine files beside the paper's")
    parser.add_argument("--backprop", default="exact,truncated")
    o = parser.parse_args()
    print(environment(o.threads))
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for width, size in itertools.product(map(float, o.widths.split(",")), map(int, o.resolutions.split(","))):
            options = ZooOptions(width=width, resolution=size, classes=o.classes, calibration_images=2)
            path = write(build("mobilenetv2-repnet", options), Path(temporary) / "model.onnx")
            for machine, policy in itertools.product([None, *o.machines], o.backprop.split(",")):
                found = one(path, machine, policy)
                rows.append({"width": width, "resolution": size, "machine": str(machine or "sas28"), "backprop": policy, **found})
                print(".", end="", flush=True)
    print(
        "\n\n"
        + table(
            [
                "network",
                "machine",
                "errors",
                "sub-arrays (transposable)",
                "instructions",
                "encoded kB",
                "buffer peak",
                "infer ms",
                "step ms",
                "s",
            ],
            map(_row, rows),
        )
    )
    print(f"\npeak memory of all of it: {peak_rss_mb():.0f} MB; ms at the machine's clock")
    finish(o, {"rows": rows})


def _row(r: dict[str, Any]) -> list[Any]:
    first = [f"{r['width']:g}/{r['resolution']}", r["machine"], r["backprop"]]
    if "error" in r:
        return [*first, r["error"], *[""] * 5, r["wall_s"]]
    cycles = r["cycles"]
    used = f"{r['subarrays_used']} ({r['subarrays_transposable']}) of {r['subarrays_total']}"
    ms = [1e3 * cycles[k] / r["clock_hz"] for k in ("infer", "train_step")]
    return [*first, used, r["instructions"], r["encoded_bytes"] / 1e3, r["buffer_peak_bytes"], *ms, r["wall_s"]]


if __name__ == "__main__":
    main()
