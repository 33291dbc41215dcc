"""Trainings on a device image that are killed again and again: do they end as if they never had been?

    python benchmarks/kills.py [--kills 200] [--real 10] [--images 24] [--epochs 2]

The embedded default learns drawn flowers. ``--kills`` counts power cuts at random operations: in the middle of writing the image (with
parts of what was not yet safe missing), before and after it is safe, between the row writes of an update. ``--real`` counts SIGKILLs of
``sasrun`` at random moments. Each chain of kills ends with a finished run, whose image must equal that of a run never killed, byte for
byte; any difference ends the benchmark with an error.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import TESTS, add_common, environment, finish, table

from sasimc.api import CompileOptions, compile_model
from sasimc.datasets.dataset import Dataset, open_dataset
from sasimc.isa.files import save_program
from sasimc.isa.program import Program
from sasimc.training.image.image import DeviceImage
from sasimc.training.image.tasks import TaskStore
from sasimc.training.recipe import Recipe
from sasimc.training.trainer import TrainState, train
from sasimc.zoo.zoo import default_model_path

sys.path.insert(0, str(TESTS))
from power_faults import FaultyMedium, Fuse, PowerCut, cut_between_rows


def life(path: Path, p: Program, dataset: Dataset, recipe: Recipe, fuse: Fuse, threads: int) -> bool:
    """From the image as it stands until the task is learned (True) or the fuse blows (False)."""
    image = DeviceImage.open(path, p, FaultyMedium(path, fuse))
    try:
        bank = TaskStore(image, p, "fused", threads)
        if image.tasks and image.pending is None:
            return True
        if image.pending:
            device, run = bank.resume()
        else:
            bank.create("task", dataset.classes)
            device, run = bank.select("task"), TrainState()
            bank.begin({})
        cut_between_rows(device, fuse)
        train(device, dataset, recipe, state=run, keep=bank.keep)
        bank.learned(run, {"val": run.training.kept.val})
        return True
    except PowerCut:
        return False
    finally:
        image.close()


def power_cuts(folder: Path, p: Program, o: argparse.Namespace) -> dict[str, float]:
    """Chains of power cuts until there were enough."""
    dataset, recipe = open_dataset("drawn-flowers", size=96), Recipe(epochs=o.epochs, limit=o.images)
    whole, fuse, rng = folder / "whole.sas", Fuse(), random.Random(o.seed)
    start = time.perf_counter()
    life(whole, p, dataset, recipe, fuse, o.threads)
    expected, once = whole.read_bytes(), time.perf_counter() - start
    steps = o.epochs * -(-o.images // 8)
    longest = 3 * fuse.burnt // (steps + 1)  # lives of up to about three steps, so that a chain has many
    cuts = chains = 0
    while cuts < o.kills:
        path, before = folder / f"{chains}.sas", cuts
        while not life(path, p, dataset, recipe, Fuse(rng.randrange(1, longest), rng.randrange(1 << 30)), o.threads):
            cuts += 1
        if path.read_bytes() != expected:
            sys.exit(f"DIFFERENT: chain {chains} of {cuts - before} power cuts (seed {o.seed})")
        chains += 1
        print(
            f"chain {chains}: {cuts - before} power cuts, the image is that of the run never killed ({cuts} in all)", flush=True
        )
    return {"kills": cuts, "chains": chains, "operations": fuse.burnt, "run_s": once, "wall_s": time.perf_counter() - start}


def sasrun(folder: Path, image: str, words: list[str]) -> subprocess.Popen[bytes]:
    """The command on an image, as a process of its own."""
    command = [
        sys.executable,
        "-m",
        "sasimc.cli.sasrun",
        "prog.s",
        "--image",
        image,
        *words,
        "--engine",
        "fused",
        "--threads",
        "1",
    ]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))


def sigkills(folder: Path, p: Program, o: argparse.Namespace) -> dict[str, float]:
    """One training, killed by the system at random moments after its first step."""
    save_program(p, folder / "prog.s")
    begin = ["--train", "drawn-flowers", "--epochs", str(o.epochs), "--limit", str(o.images)]
    start = time.perf_counter()
    if sasrun(folder, "whole.sas.2", begin).wait():
        sys.exit("sasrun fails")
    once = time.perf_counter() - start
    path, rng, kills = folder / "killed.sas", random.Random(o.seed), 0
    while True:
        process = sasrun(folder, path.name, ["--resume"] if path.exists() else begin)
        try:
            code = process.wait(rng.uniform(0.3, 1.2) * once if kills < o.real else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            continue
        if code and not (path.exists() and DeviceImage.read(path).pending is None):
            sys.exit(f"sasrun ends with {code}")
        if path.read_bytes() != (folder / "whole.sas.2").read_bytes():
            sys.exit(f"DIFFERENT: after {kills} SIGKILLs")
        break
    print(f"{kills} SIGKILLs, the image is that of the run never killed", flush=True)
    return {"kills": kills, "run_s": once, "wall_s": time.perf_counter() - start}


def main() -> None:
    """Kill, compare, print, write."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--kills", type=int, default=200, help="power cuts")
    parser.add_argument("--real", type=int, default=10, help="SIGKILLs at most (a run that ends before is not begun again)")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    print(environment(o.threads))
    p = compile_model(default_model_path(), CompileOptions(batch=8)).program
    with tempfile.TemporaryDirectory() as temporary:
        cuts = power_cuts(Path(temporary), p, o)
        real = sigkills(Path(temporary), p, o) if o.real else {}
    rows = [[what, r["kills"], r["run_s"], r["wall_s"]] for what, r in (("power cuts", cuts), ("SIGKILL", real)) if r]
    print("\n" + table(["what", "kills", "one run undisturbed s", "all s"], rows))
    finish(o, {"power_cuts": cuts, "sigkills": real})


if __name__ == "__main__":
    main()
