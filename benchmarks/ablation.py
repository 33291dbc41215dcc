"""The integer recipe, one change at a time: what each idea of docs/explanation/training.md is worth, on validation images.

    python benchmarks/ablation.py --data FOLDER [--datasets flowers17,pets] [--seeds 0,1,2] [--rows PATTERN]
    python benchmarks/ablation.py --data FOLDER --set module_exponent=3:-2 --set compile.update=accumulate      (a row of one's own)
    python benchmarks/ablation.py --show                                                    (the table from the cache)

Every row trains MobileNet-V2 1.0 + Rep-Net on the device program (engine ``fused``, one thread) at a small input and differs from the
plain scheme by what its name says: keys of a recipe file, and ``trainable``. The test split is never opened: train and validation images
are pooled and divided anew (``--held-back``). Figures are those after the last epoch, so no epoch is picked either: top-1 and the
cross-entropy (nats; logits divided by the temperature that suits them best, so that only their order and margins count). A
finished run is written to the cache (``--cache``) at once: a broken-off series goes on where it stopped.
"""

from __future__ import annotations

import argparse
import fcntl
import fnmatch
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import add_common, data_folder, environment, finish, table

from sasimc.api import CompileOptions, compile_model
from sasimc.datasets.dataset import Dataset, hold_back, open_dataset
from sasimc.datasets.loader import Loader
from sasimc.isa.files import write_atomically
from sasimc.isa.machine import Machine, load_machine
from sasimc.runtime.device import Device
from sasimc.training.level import Level
from sasimc.training.recipe import Recipe, Schedule, load_recipe
from sasimc.zoo.zoo import ZooOptions, build, write


@dataclass(frozen=True)
class Row:
    """One line of the table: what is changed, as ``key=value`` texts."""

    name: str
    changes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return " ".join(sorted(self.changes)) or "default"


def _row(name: str, *changes: str) -> Row:
    return Row(name, changes)


ROWS: tuple[Row, ...] = (
    _row("plain"),
    _row("classifier only", "trainable=classifier"),
    _row("errors `truncated`", "compile.backprop=truncated"),
    _row("mu modules 3:-2", "module_exponent=3:-2"),
    _row("mu modules 1:-3", "module_exponent=1:-3"),
    _row("mu modules 0:-4", "module_exponent=0:-4"),
    _row("mu classifier 4:1", "head_exponent=4:1"),
    _row("mu classifier 3:-1", "head_exponent=3:-1"),
    _row("mu cosine", "head_exponent=4:0:cosine", "module_exponent=2:-2:cosine"),
    _row("mu constant", "head_exponent=2", "module_exponent=0"),
    _row("16-bit accumulator", "compile.update=accumulate"),
    _row("16-bit accumulator and momentum", "compile.update=momentum"),
    _row("errors rounded stochastically", "compile.round_errors=stochastic"),
    _row("momentum, errors rounded stochastically", "compile.update=momentum", "compile.round_errors=stochastic"),
    _row("momentum, errors rounded without bias", "compile.update=momentum", "compile.round_errors=unbiased"),
    _row("momentum, updates rounded without bias", "compile.update=momentum", "compile.unbiased_updates=true"),
    _row("momentum, biases learn too", "compile.update=momentum", "compile.train_biases=true"),
    _row("mu from the largest gradient so far", "compile.gradient_range=peak"),
    _row("mu from the largest so far, accumulator", "compile.gradient_range=peak", "compile.update=accumulate"),
    _row("... label smoothing 0", "compile.gradient_range=peak", "compile.update=accumulate", "compile.eps=0"),
    _row("weight scales per channel", "zoo.module_scales=channel"),
    _row("... gradients over scales", "zoo.module_scales=channel", "compile.gradient_power=1"),
    _row("... gradients over squared scales", "zoo.module_scales=channel", "compile.gradient_power=2"),
    _row("batch 1", "batch=1"),
    _row("batch 4", "batch=4"),
    _row("batch 16", "batch=16"),
    _row("batch 32", "batch=32"),
    _row("label smoothing 0", "compile.eps=0"),
    _row("label smoothing 0.2", "compile.eps=0.2"),
    _row("gain of the modules 1/16", "zoo.rep_gain=0.0625"),
    _row("gain of the modules 1/4", "zoo.rep_gain=0.25"),
    _row("conv2 starts at zero", "zoo.rep_gain=0"),
    _row("head-room 1.5", "zoo.headroom=1.5"),
    _row("head-room 6", "zoo.headroom=6"),
    _row("initial weights up to 24", "zoo.rep_weight_max=24"),
    _row("initial weights up to 96", "zoo.rep_weight_max=96"),
    _row("classifier starts at zero", "zoo.head_init=zero"),
    _row("logits in steps of 1/8", "zoo.logit_exponent=-3"),
    _row("logits in steps of 1/32", "zoo.logit_exponent=-5"),
    _row("scales from generated images", "calibrate=generated"),
)


PLAIN = (
    *(
        "head_exponent=4:0",
        "module_exponent=2:-2",
        "modules.wait=1",
        "batch=8",
        "compile.backprop=exact",
        "compile.update=direct",
        "compile.round_errors=nearest",
    ),
    *("compile.gradient_power=0", "compile.gradient_range=batch", "compile.eps=0.1", "zoo.module_scales=tensor"),
)
"""The first row: NITI's update with fixed exponents of activations. The shipped defaults are what the table says."""


@dataclass(frozen=True)
class Change:
    """A recipe, and what a recipe file does not hold."""

    recipe: Recipe
    trainable: str | None = None
    calibrate: str = "task"


def changed(changes: Iterable[str], recipe: Recipe) -> Change:
    """``recipe`` with ``key=value`` texts applied; keys as in a recipe file (``section.key``), values as in one."""
    values: dict[str, Any] = recipe.model_dump()
    rest: dict[str, str] = {}
    for change in changes:
        key, _, text = change.partition("=")
        *path, last = key.split(".")
        if key in ("trainable", "calibrate"):
            rest[key] = text
            continue
        section = values
        for name in path:
            section = section[name]
        if last not in section:
            raise SystemExit(f"--set {change}: a recipe has no key {key}")
        if last in ("head_exponent", "module_exponent"):
            section[last] = Schedule.parse(text, key).model_dump()
        else:
            section[last] = text.split("+") if last == "backprop_through" else _number(text)
    return Change(Recipe.model_validate(values), **rest)


def _number(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def roomy(machine: Machine) -> Machine:
    """The machine with a larger buffer and more accumulators: fewer stripes, the same numbers, less time to simulate."""
    return machine.model_copy(
        update={
            "buffer": machine.buffer.model_copy(update={"bytes": 1 << 24}),
            "accumulator": machine.accumulator.model_copy(update={"entries": 1 << 20}),
        }
    )


def validate(device: Device, dataset: Dataset, scale: float) -> tuple[float, float]:
    """(top-1 in percent, cross-entropy in nats at the best temperature) on the held-back images."""
    logits, labels = [], []
    for images, wanted, _ in Loader(dataset, "val", device.preprocess, device.batch_size).epoch(0):
        logits.append(device.infer(images).logits)
        labels.append(wanted)
    z, y = np.concatenate(logits) * scale, np.concatenate(labels)
    losses = []
    for temperature in np.geomspace(0.1, 10, 81):
        t = z / temperature
        t = t - t.max(axis=1, keepdims=True)
        losses.append(float((np.log(np.exp(t).sum(axis=1)) - t[np.arange(len(y)), y]).mean()))
    return 100 * float((z.argmax(axis=1) == y).mean()), min(losses)


def numbers(text: str) -> list[int]:
    """``5,12`` as a list."""
    return [int(part) for part in text.split(",")]


def epochs_of(name: str, o: argparse.Namespace) -> int:
    """Epochs of a data set: the number at its place in ``--epochs``, or the last."""
    at = o.datasets.index(name)
    return o.epochs[min(at, len(o.epochs) - 1)]


def base_recipe(name: str, o: argparse.Namespace) -> Recipe:
    """The plain scheme with the options' epochs and held-back share."""
    fixed = (f"epochs={epochs_of(name, o)}", f"data.hold_back={o.held_back}")
    return changed([*fixed, *PLAIN, *o.base], load_recipe("default")).recipe


def run(row: Row, name: str, seed: int, o: argparse.Namespace) -> dict[str, Any]:
    """Train once and validate."""
    folder, change = data_folder(o), changed(row.changes, base_recipe(name, o))
    recipe = change.recipe
    dataset = hold_back(open_dataset(name, folder), recipe.data.hold_back)
    zoo = ZooOptions(
        weights=str(folder / "weights"),
        classes=len(dataset.classes),
        resolution=o.resolution,
        seed=seed,
        **recipe.zoo.model_dump(),
    )
    options = CompileOptions(machine=roomy(load_machine(None)), trainable=change.trainable, **recipe.compile_options())
    pictures = None
    if change.calibrate == "task":
        train = dataset.items("train")
        pictures = [dataset.load(train[i]) for i in np.linspace(0, len(train) - 1, zoo.calibration_images).astype(int)]
    with tempfile.TemporaryDirectory() as temporary:
        path = write(build("mobilenetv2-repnet", zoo, pictures), Path(temporary) / "model.onnx")
        compiled = compile_model(path, options)
    device = Device(compiled.program, "fused", 1)
    device.seed(seed)
    loader = Loader(dataset, "train", device.preprocess, device.batch_size, seed, recipe.augment)
    total, step, losses = len(loader) * recipe.epochs, 0, []
    level = Level.of(len(dataset.classes), recipe.modules)
    start = time.perf_counter()
    for epoch in range(recipe.epochs):
        losses = []
        for images, labels, _ in loader.epoch(epoch):
            head, module = recipe.exponents(step, total, level)
            got = device.train_step(images, labels, head_exponent=head, module_exponent=module)
            losses.append(got.loss)
            step, level = step + 1, level.after(got.words, recipe.modules)
    events, errors, wall = dict(device.interpreter.events), device.interpreter.phase_events["error"], time.perf_counter() - start
    top1, loss = validate(device, dataset, float(compiled.program.meta["logit_scale"]))
    return {
        "top1": top1,
        "loss": loss,
        "train_loss": float(np.mean(losses)),
        "steps": step,
        "rows_written": int(events["rows_written_transposable"]),
        "bits_written": int(events["bits_written_transposable"]),
        "bits_flipped": int(events["bits_flipped_transposable"]),
        "saturated": int(events["saturated"]),
        "ranged": int(errors["range_ops"]),
        "most_written_row": int(device.interpreter.state.wear.max()),
        "cycles": compiled.train_step.cycles if compiled.train_step else 0,
        "transposable": compiled.placement.transposable_subarrays,
        "wall_s": wall,
    }


class Cache:
    """Finished runs by key, in one JSON file that is replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> dict[str, dict[str, Any]]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Add a run; several processes may share the file."""
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            write_atomically(self.path, (json.dumps(self.all() | {key: value}, indent=1) + "\n").encode())


def run_key(row: Row, dataset: str, seed: int, o: argparse.Namespace) -> str:
    """Everything a figure depends on."""
    base = " ".join(sorted(o.base))
    return f"{dataset} {o.resolution}px {epochs_of(dataset, o)}ep held {o.held_back:g} seed {seed}{' | ' + base if base else ''} | {row.key}"


def summary(rows: Iterable[Row], runs: dict[str, dict[str, Any]], o: argparse.Namespace) -> Iterator[list[Any]]:
    """A line a row: top-1 and loss with standard deviation, difference from the plain scheme on the seeds both have."""
    for row in rows:
        cells: list[Any] = [row.name]
        for name in o.datasets:
            own = {s: runs.get(run_key(row, name, s, o)) for s in o.seeds}
            base = {s: runs.get(run_key(ROWS[0], name, s, o)) for s in o.seeds}
            done = [r for r in own.values() if r]
            if not done:
                cells += ["", "", "", ""]
                continue
            both = [s for s in o.seeds if own[s] and base[s]]
            for field in ("top1", "loss"):
                values = [r[field] for r in done]
                digits = 1 if field == "top1" else 3
                spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
                gains = [own[s][field] - base[s][field] for s in both]  # type: ignore[index]
                shown = ""
                if gains and row.changes:
                    error = f" ± {statistics.stdev(gains) / math.sqrt(len(gains)):.{digits}f}" if len(gains) > 1 else ""
                    shown = f"{statistics.mean(gains):+.{digits}f}{error}"
                few = f" ({len(values)} of {len(o.seeds)} seeds)" if len(values) < len(o.seeds) else ""
                cells += [f"{statistics.mean(values):.{digits}f}{spread}{few}", shown]
        flips = [
            r["bits_flipped"] / r["steps"] / 1e3
            for name in o.datasets
            for s in o.seeds
            if (r := runs.get(run_key(row, name, s, o)))
        ]
        cells.append(f"{statistics.mean(flips):.1f}" if flips else "")
        if flips:
            cells.append(" ".join(f"--set {c}" for c in row.changes))
            yield cells


def main() -> None:
    """Run what is not in the cache, print the table."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--datasets", type=lambda t: t.split(","), default=["flowers17", "pets"])
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("--epochs", type=numbers, default=[5, 12], help="of each data set")
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--held-back", type=float, default=1 / 3, help="part of train + val used for validation")
    parser.add_argument("--rows", default="*", help="names of rows, comma-separated globs")
    parser.add_argument("--set", action="append", default=[], help="key=value: a row of one's own (may be repeated)")
    parser.add_argument("--base", action="append", default=[], help="key=value: changes the default of every row")
    parser.add_argument("--cache", type=Path, default=Path("ablation.json"))
    parser.add_argument("--show", action="store_true", help="print the table from the cache, run nothing")
    o = parser.parse_args()
    cache = Cache(o.cache)
    rows = [r for r in ROWS if any(fnmatch.fnmatchcase(r.name, p) for p in o.rows.split(","))]
    if o.set:
        rows = [Row(", ".join(o.set), tuple(o.set))]
    if not o.show:
        print(environment(1))
        jobs = [(row, name, seed) for row in rows for seed in o.seeds for name in o.datasets]
        for i, (row, name, seed) in enumerate(jobs, 1):
            key = run_key(row, name, seed, o)
            if key not in cache.all():
                found = run(row, name, seed, o)
                cache.put(key, found)
                print(
                    f"{i}/{len(jobs)} {key}: top-1 {found['top1']:.1f} % loss {found['loss']:.3f}, {found['wall_s']:.0f} s",
                    flush=True,
                )
    runs = cache.all()
    header = (
        ["row"]
        + [f"{n} {w}" for n in o.datasets for w in ("top-1", "gain", "loss", "change")]
        + ["kbit flipped a step", "command"]
    )
    shown = list(summary(rows if o.set else [ROWS[0], *(r for r in rows if r.changes)], runs, o))
    print("\n" + table(header, shown))
    finish(o, {"rows": [dict(zip(header, line, strict=True)) for line in shown], "runs": runs})


if __name__ == "__main__":
    main()
