"""Compile time and memory of MobileNet-V2 1.0/224 + Rep-Net, loading of its program, first and later starts of ``sasrun``.

    python benchmarks/startup.py --data FOLDER [--json FILE]       (--random: without real weights)

Every row is a process of its own. The cold start has an empty folder for compiled kernels (NUMBA_CACHE_DIR).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import add_common, data_folder, environment, finish, table

_LOAD = """
import sys, time
from sasimc.isa.files import load_program
t, c = time.perf_counter(), time.process_time()
load_program(sys.argv[1])
print("LOAD", time.perf_counter() - t, time.process_time() - c)
"""


def run(words: list[str], env: dict[str, str]) -> tuple[float, float, float, str]:
    """(wall seconds, processor seconds, peak MB, output) of a process. Both times, because other work on the computer stretches the first."""
    start = time.perf_counter()
    process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        sys.exit(f"{' '.join(words)} failed:\n{output}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, output


def main() -> None:
    """Measure, print, write."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--random", action="store_true", help="random weights: needs no data")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.build:
        _build(o.build, None if o.random else str(data_folder(o) / "weights"))
        return
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # This process stays small: what it forks begins with its memory.
        subprocess.run([sys.executable, __file__, "--build", str(folder), *sys.argv[1:]], check=True)
        model, program, image = folder / "model.onnx", folder / "prog.s", folder / "image.png"
        env = dict(os.environ)
        sasc, sasrun = [sys.executable, "-m", "sasimc.cli.sasc"], [sys.executable, "-m", "sasimc.cli.sasrun"]
        rows["sasc compile"] = run([*sasc, "compile", str(model), "-o", str(program)], env)
        loaded = run([sys.executable, "-c", _LOAD, str(program)], env)
        wall, busy = map(float, loaded[3].split("LOAD ")[1].split()[:2])
        rows["loading prog.s (in the process)"] = (wall, busy, loaded[2], loaded[3])
        cold = {**env, "NUMBA_CACHE_DIR": str(folder / "kernels")}
        classify = [*sasrun, str(program), "--input", str(image), "--threads", str(o.threads)]
        rows["sasrun --input, kernels not compiled"] = run(classify, cold)
        rows["sasrun --input, later"] = min(run(classify, cold) for _ in range(3))
        rows["sasc --help"] = run([*sasc, "--help"], env)
        sizes = {"program lines": len(program.read_text().splitlines()), "program bytes": program.stat().st_size}
        rows["sasc asm (encode)"] = run([*sasc, "asm", str(program), "-o", str(folder / "prog.bin")], env)
        sizes["encoded bytes"] = (folder / "prog.bin").stat().st_size
    print(environment(o.threads))
    print("\n" + table(["what", "s", "processor s", "peak MB"], [[k, *v[:3]] for k, v in rows.items()]))
    print("\n" + table(["size", ""], [list(v) for v in sizes.items()]))
    finish(o, {"rows": {k: {"wall_s": v[0], "processor_s": v[1], "rss_mb": v[2]} for k, v in rows.items()}, "sizes": sizes})


def _build(folder: Path, weights: str | None) -> None:
    """model.onnx and image.png."""
    from PIL import Image

    from sasimc.datasets.procedural import draw
    from sasimc.zoo.zoo import ZooOptions, build, write

    write(build("mobilenetv2-repnet", ZooOptions(weights=weights, classes=17)), folder / "model.onnx")
    Image.fromarray(draw("flowers", 0, 0, 224)).save(folder / "image.png")


if __name__ == "__main__":
    main()
