"""The integer recipe, one change at a time: what each idea of docs/training.md is worth, on validation images.

    python benchmarks/ablation.py --data FOLDER [--datasets flowers17,pets] [--seeds 0,1,2] [--rows PATTERN]
    python benchmarks/ablation.py --data FOLDER --set mu_rep=3:-2 --set batch=4      (a row of one's own)
    python benchmarks/ablation.py --show                                             (the table from the cache)

Every row trains MobileNet-V2 1.0 + Rep-Net on the device program (engine ``fused``, one thread) at a small input and differs from
the default by what its name says. The test split is never opened: train and validation images are pooled and divided anew, a
third of each class held back (``--held-back``). Figures are those after the last epoch, so no epoch is picked either: top-1 and the
cross-entropy (nats; logits divided by the temperature that suits them best, so that only the order and the margins count).
A finished run is written to the cache (``--cache``) at once: a broken-off series goes on where it stopped.

A setting is a field of ``Settings``, of ``ZooOptions`` (how the model is built) or of ``CompileOptions``.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import add_common, data_folder, environment, finish, table

from sasimc.api import CompileOptions, compile_model
from sasimc.frontend.zoo import ZooOptions, build, write
from sasimc.isa.machine import Machine, load_machine
from sasimc.runtime.data.datasets import Dataset, Item, open_dataset
from sasimc.runtime.data.loader import Loader, shuffled
from sasimc.runtime.device import Device

Pair = tuple[float, float]


@dataclass(frozen=True)
class Settings:
    """How the host drives a run. ``schedule``: ``linear``, ``cosine`` or ``constant`` way of mu from first to last value."""

    epochs: int = 6
    batch: int = 8
    mu_head: Pair = (4.0, 0.0)
    mu_rep: Pair = (2.0, -2.0)
    schedule: str = "linear"
    trainable: str = ""
    calibrate_on_task: bool = True


@dataclass(frozen=True)
class Row:
    """One line of the table: what is changed, as ``field=value`` texts."""

    name: str
    changes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return " ".join(sorted(self.changes)) or "default"


def _row(name: str, *changes: str) -> Row:
    return Row(name, changes)


ROWS: tuple[Row, ...] = (
    _row("default"),
    _row("classifier only", "trainable=classifier"),
    _row("errors `truncated`", "backprop=truncated"),
    _row("mu modules 3:-2", "mu_rep=3:-2"),
    _row("mu modules 1:-3", "mu_rep=1:-3"),
    _row("mu modules 2:0", "mu_rep=2:0"),
    _row("mu modules 2:-4", "mu_rep=2:-4"),
    _row("mu modules 0:-4", "mu_rep=0:-4"),
    _row("mu classifier 5:1", "mu_head=5:1"),
    _row("mu classifier 3:-1", "mu_head=3:-1"),
    _row("mu classifier 4:-2", "mu_head=4:-2"),
    _row("mu cosine", "schedule=cosine"),
    _row("mu constant (first value)", "schedule=constant"),
    _row("batch 1", "batch=1"),
    _row("batch 4", "batch=4"),
    _row("batch 16", "batch=16"),
    _row("batch 32", "batch=32"),
    _row("label smoothing 0", "eps=0"),
    _row("label smoothing 0.2", "eps=0.2"),
    _row("gain of the modules 1/16", "rep_gain=0.0625"),
    _row("gain of the modules 1/4", "rep_gain=0.25"),
    _row("conv2 starts at zero", "rep_gain=0"),
    _row("head-room 1.5", "headroom=1.5"),
    _row("head-room 6", "headroom=6"),
    _row("initial weights up to 24", "rep_weight_max=24"),
    _row("initial weights up to 96", "rep_weight_max=96"),
    _row("classifier starts at zero", "head_init=zero"),
    _row("logits in steps of 1/8", "logit_exponent=-3"),
    _row("logits in steps of 1/32", "logit_exponent=-5"),
    _row("scales from generated images", "calibrate_on_task=false"),
)

WHERE: tuple[type, ...] = (Settings, ZooOptions, CompileOptions)


def _parse(change: str) -> tuple[type, str, Any]:
    """(class, field, value) of a ``field=value`` text; the value takes the type of the field's default."""
    name, _, text = change.partition("=")
    for owner in WHERE:
        for f in fields(owner):
            if f.name == name:
                default: Any = f.default
                if isinstance(default, tuple) and default and isinstance(default[0], float):
                    first, _, last = text.partition(":")
                    return owner, name, (float(first), float(last or first))
                if isinstance(default, bool):
                    return owner, name, text.lower() in ("1", "true", "yes")
                return owner, name, type(default)(text) if default is not None else text
    raise SystemExit(f"--set {change}: no such setting; known: {', '.join(f.name for o in WHERE for f in fields(o))}")


def _apply(changes: Iterable[str], settings: Settings, zoo: ZooOptions, options: CompileOptions) -> tuple[Any, Any, Any]:
    found: dict[type, dict[str, Any]] = {o: {} for o in WHERE}
    for change in changes:
        owner, name, value = _parse(change)
        if name == "backprop_through":
            value = tuple(value.split("+"))
        found[owner][name] = value
    return replace(settings, **found[Settings]), replace(zoo, **found[ZooOptions]), replace(options, **found[CompileOptions])


class _Held(Dataset):
    """A data set whose validation images are a third of train and val, and which decodes every image once."""

    def load(self, item: Item) -> Any:
        known = _DECODED.setdefault(self.name, {})
        if item.key not in known:
            known[item.key] = super().load(item)
        return known[item.key]


_DECODED: dict[str, dict[str, Any]] = {}


def held_back(dataset: Dataset, fraction: float) -> Dataset:
    """``dataset`` without its test images; ``fraction`` of each class of the rest for validation."""
    groups: dict[int, list[Item]] = {}
    for split in ("train", "val"):
        for item in dataset.items(split):
            groups.setdefault(item.class_id, []).append(item)
    parts: dict[str, list[Item]] = {"train": [], "val": []}
    for label, items in sorted(groups.items()):
        items.sort(key=lambda i: i.key)
        order = shuffled(len(items), 77, label)
        count = max(1, round(fraction * len(items)))
        for i, at in enumerate(order):
            parts["val" if i < count else "train"].append(items[at])
    splits = {"train": tuple(parts["train"]), "val": tuple(parts["val"]), "test": ()}
    return _Held(dataset.name, dataset.classes, splits, dataset.source, dataset.synthetic, dataset.note, dataset._tree)


def roomy(machine: Machine) -> Machine:
    """The machine with a larger buffer and more accumulators: fewer stripes, the same numbers, less time to simulate."""
    return machine.model_copy(
        update={
            "buffer": machine.buffer.model_copy(update={"bytes": 1 << 24}),
            "accumulator": machine.accumulator.model_copy(update={"entries": 1 << 20}),
        }
    )


def mu_at(pair: Pair, schedule: str, part: float) -> int:
    """mu after ``part`` (0..1) of the run."""
    if schedule == "constant":
        part = 0.0
    elif schedule == "cosine":
        part = (1 - math.cos(math.pi * part)) / 2
    return math.floor(pair[0] + (pair[1] - pair[0]) * part + 0.5)


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


def run(row: Row, name: str, seed: int, o: argparse.Namespace) -> dict[str, Any]:
    """Train once and validate."""
    folder = data_folder(o)
    dataset = held_back(open_dataset(name, folder), o.held_back)
    settings, zoo, options = _apply(
        [*o.base, *row.changes],
        Settings(epochs=o.epochs),
        ZooOptions(weights=str(folder / "weights"), classes=len(dataset.classes), resolution=o.resolution, seed=seed),
        CompileOptions(machine=roomy(load_machine(None))),
    )
    options = replace(options, batch=settings.batch, trainable=settings.trainable or None)
    pictures = None
    if settings.calibrate_on_task:
        train = dataset.items("train")
        pictures = [dataset.load(train[i]) for i in np.linspace(0, len(train) - 1, zoo.calibration_images).astype(int)]
    with tempfile.TemporaryDirectory() as temporary:
        path = write(build("mobilenetv2-repnet", zoo, pictures), Path(temporary) / "model.onnx")
        compiled = compile_model(path, options)
    device = Device(compiled.program, "fused", 1)
    loader = Loader(dataset, "train", device.preprocess, device.batch_size, seed, augment=True)
    total, step, losses = len(loader) * settings.epochs, 0, []
    start = time.perf_counter()
    for epoch in range(settings.epochs):
        losses = []
        for images, labels, _ in loader.epoch(epoch):
            part = step / max(1, total - 1)
            mu = (mu_at(settings.mu_head, settings.schedule, part), mu_at(settings.mu_rep, settings.schedule, part))
            losses.append(device.train_step(images, labels, mu_head=mu[0], mu_rep=mu[1]).loss)
            step += 1
    events, wall = dict(device.interpreter.events), time.perf_counter() - start
    top1, loss = validate(device, dataset, float(compiled.program.meta["logit_scale"]))
    return {
        "top1": top1,
        "loss": loss,
        "train_loss": float(np.mean(losses)),
        "steps": step,
        "bits_written": int(events["bits_written_transposable"]),
        "bits_flipped": int(events["bits_flipped_transposable"]),
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
        runs = self.all() | {key: value}
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, self.path)


def run_key(row: Row, dataset: str, seed: int, o: argparse.Namespace) -> str:
    """Everything a figure depends on."""
    base = " ".join(sorted(o.base))
    return f"{dataset} {o.resolution}px {o.epochs}ep held {o.held_back:g} seed {seed}{' | ' + base if base else ''} | {row.key}"


def summary(rows: Iterable[Row], runs: dict[str, dict[str, Any]], o: argparse.Namespace) -> Iterator[list[Any]]:
    """A line a row: top-1 and loss with standard deviation, difference from the default on the seeds both have."""
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
                cells += [f"{statistics.mean(values):.{digits}f}{spread}", shown]
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
    parser.add_argument("--seeds", type=lambda t: [int(s) for s in t.split(",")], default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=Settings.epochs)
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--held-back", type=float, default=1 / 3, help="part of train + val used for validation")
    parser.add_argument("--rows", default="*", help="names of rows, comma-separated globs")
    parser.add_argument("--set", action="append", default=[], help="field=value: a row of one's own (may be repeated)")
    parser.add_argument("--base", action="append", default=[], help="field=value: changes the default of every row")
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
