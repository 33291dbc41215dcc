"""The report page, the explorer and the timeline of a training run of MobileNet-V2 1.0/224 + Rep-Net: sizes, time to make, time to open in a browser.

    python benchmarks/report.py [--json FILE]                      (trains two short epochs on drawn images, random weights)
    python benchmarks/report.py --run run.json [--trace t.json.gz] (a run that is there already)
    python benchmarks/report.py --run run.json --model model.onnx [--backprop truncated]   (and its explorer)

Asked for: the report is below 3 MB, the explorer below 5 MB, each opens in under 2 s. Opening needs Chromium; wall and processor time, because other work on the computer
stretches the first.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import TESTS, add_common, finish, table

from sasimc.cli import sasc
from sasimc.cli.common import invoke
from sasimc.costs import cost_of_report
from sasimc.evaluation.report.content import tables
from sasimc.evaluation.report.page import page


def trained(folder: Path, classes: int, images: int, epochs: int, threads: int) -> tuple[Path, Path, Path]:
    """Build, compile and train; the paths of report, timeline and model."""
    run, trace, model, program = (folder / name for name in ("run.json", "run.trace.json.gz", "model.onnx", "prog.s"))
    for words in (
        ["sasimc.cli.sasc", "zoo", "mobilenetv2-repnet", "-o", str(model), "--classes", str(classes)],
        ["sasimc.cli.sasc", "compile", str(model), "-o", str(program)],
        ["sasimc.cli.sasrun", str(program), "--train", "drawn-flowers", "--limit", str(images), "--epochs", str(epochs), "--engine", "fused",
         "--threads", str(threads), "--json", str(run), "--trace", str(trace)],
    ):  # fmt: skip
        print("python -m", *words, file=sys.stderr)
        subprocess.run([sys.executable, "-m", *words], check=True, stdout=sys.stderr)
    return run, trace, model


def opened(path: Path, what: str) -> list[dict[str, Any]]:
    """Wall and processor seconds until the page is loaded, at three sizes; empty without a browser."""
    sys.path.insert(0, str(TESTS))
    from browser import Browser, chromium

    command = chromium()
    if command is None:
        return []
    browser, out = Browser(command), list[dict[str, Any]]()
    try:
        for name, width, dark in (("desktop", 1280, False), ("desktop, dark", 1280, True), ("phone", 375, False)):
            wall = browser.open(path, width=width, dark=dark)
            out.append(
                {
                    "what": f"{what} opens, {name}",
                    "wall_s": wall,
                    "cpu_s": browser.busy(),
                    "complaints": len(browser.complaints()),
                }
            )
    finally:
        browser.close()
    return out


def explorer(model: Path, run: Path, backprop: str, target: Path) -> dict[str, Any]:
    """Make the explorer, compilation included."""
    start, cpu = time.perf_counter(), time.process_time()
    words = ["explore", str(model), "--backprop", backprop, "--run", str(run), "-o", str(target)]
    if invoke(sasc.app, words):
        raise SystemExit(1)
    return {
        "what": "explorer made",
        "wall_s": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu,
        "bytes": target.stat().st_size,
    }


def main() -> None:
    """Measure, print, write."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--run", type=Path, help="report of a run instead of a new one")
    parser.add_argument("--trace", type=Path, help="timeline of that run")
    parser.add_argument("--model", type=Path, help="ONNX file of that run")
    parser.add_argument("--backprop", default="exact", help="how that run's program was compiled")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--images", type=int, default=8, help="images of a split that are used")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, trace, model = options.run, options.trace, options.model
        if run is None:
            run, trace, model = trained(folder, options.classes, options.images, options.epochs, options.threads)
        start, cpu = time.perf_counter(), time.process_time()
        cost = cost_of_report(run)
        made = tables(cost)
        text = page(cost, made)
        rows: list[dict[str, Any]] = [
            {
                "what": "report made",
                "wall_s": time.perf_counter() - start,
                "cpu_s": time.process_time() - cpu,
                "bytes": len(text.encode()),
            }
        ]
        (folder / "run.html").write_text(text, encoding="utf-8")
        rows += opened(folder / "run.html", "report")
        if model is not None:
            rows.append(explorer(model, run, options.backprop, folder / "explore.html"))
            rows += opened(folder / "explore.html", "explorer")
        rows.append({"what": "run report", "bytes": run.stat().st_size})
        rows.append({"what": f"{len(made)} tables", "bytes": sum(len(t.csv().encode()) for t in made.values())})
        if trace is not None:
            events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
            rows.append({"what": f"timeline, {len(events)} events", "bytes": trace.stat().st_size})
    shown = [
        [
            r["what"],
            *(f"{r[k]:.2f}" if k in r else "" for k in ("wall_s", "cpu_s")),
            f"{r['bytes'] / 1e6:.2f}" if "bytes" in r else "",
        ]
        for r in rows
    ]
    print(table(["", "wall s", "processor s", "MB"], shown))
    finish(options, {"run": cost.run.name, "layers": len(made["layers"].rows), "rows": rows})


if __name__ == "__main__":
    main()
