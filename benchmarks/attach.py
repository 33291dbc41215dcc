"""`sasc attach` on backbones that are not ours: what the modules add to a new classifier alone, both trained on the device, on flowers-17.

    python benchmarks/attach.py --data FOLDER --work FOLDER [--networks resnet8,...] [--epochs 8] [--seeds 0,1] [--json FILE]

The backbones are pre-trained in PyTorch, for a few minutes, on the images of flowers-102 (64 px) whose kinds flowers-17 does not have; quantised
(`from_torch`), and attached to twice: with modules, and with a classifier alone. Every run keeps the weights of its last epoch, so that nothing is
chosen on images that are measured: flowers-17's validation and test images, together. ``--work`` keeps networks and finished runs; what is there is
not done again. So a network with better weights, quantised elsewhere, takes part as ``NAME-SIZE.onnx`` in that folder.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from backbones import BACKBONES, pretrain
from common import add_common, data_folder, environment, finish, table

from sasimc import from_torch
from sasimc.api import CompileOptions, compile_model
from sasimc.attach.attach import AttachOptions, attach
from sasimc.datasets.dataset import Dataset, open_dataset
from sasimc.datasets.images import eval_crop
from sasimc.datasets.loader import Loader
from sasimc.datasets.preprocess import Preprocess
from sasimc.frontend.load import load_model
from sasimc.isa.machine import Machine, load_machine
from sasimc.runtime.device import Device
from sasimc.training.recipe import Schedule, load_recipe
from sasimc.training.trainer import train

SAME_KINDS = frozenset(
    """tiger lily|colt's foot|yellow iris|fritillary|barbeton daisy|daffodil|buttercup|oxeye daisy|common dandelion|wild pansy|primula|sunflower
    |spring crocus|bearded iris|windflower|japanese anemone|grape hyacinth""".replace("\n    ", "").split("|")
)
"""Kinds of flowers-102 that are kinds of flowers-17, or next to them."""
VARIANTS = ("classifier", "modules")
LARGER = {"resnet18": 2, "efficientnet-lite0": 2}
"""Networks that need more than the paper's 1024 sub-arrays: banks of so many times as many rows and columns."""


def preprocess_for(size: int) -> Preprocess:
    """What all backbones are given."""
    return Preprocess.from_json(
        {"mean": [0.5] * 3, "std": [0.25] * 3, "size": size, "resize": size * 9 // 8, "interpolation": "bilinear"}
    )


def pictures(dataset: Dataset, chosen: list[Any], p: Preprocess) -> torch.Tensor:
    """Float images [n, 3, S, S] as a network takes them."""
    cut = np.stack([eval_crop(dataset.load(item), p) for item in chosen])
    return torch.from_numpy(((cut / 255 - p.mean) / p.std).transpose(0, 3, 1, 2).astype(np.float32))


def backbone(name: str, o: argparse.Namespace) -> tuple[Path, float]:
    """The quantised backbone (made when it is not there), and its accuracy in pre-training."""
    path, note = o.work / f"{name}-{o.size}.onnx", o.work / f"{name}-{o.size}.json"
    if not path.exists():
        source = open_dataset("flowers", o.data)
        kinds = [i for i, kind in enumerate(source.classes) if kind not in SAME_KINDS]
        number = {c: i for i, c in enumerate(kinds)}
        chosen = [i for s in ("train", "val", "test") for i in source.items(s) if i.class_id in number]
        x, y = pictures(source, chosen, preprocess_for(o.size)), torch.tensor([number[i.class_id] for i in chosen])
        torch.manual_seed(0)
        model = BACKBONES[name](len(kinds))
        start = time.perf_counter()
        right = pretrain(model, x, y, o.pretrain_epochs)
        print(
            f"{name}: {len(kinds)} kinds, {len(chosen)} images, {right:.1%} right of those held back, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        from_torch(model, x[:: len(x) // 128], path, preprocess=preprocess_for(o.size))
        note.write_text(json.dumps({"pretrained": right, "kinds": len(kinds), "images": len(chosen)}))
    return path, json.loads(note.read_text())["pretrained"] if note.exists() else math.nan


def machine_for(name: str) -> Machine:
    """The default machine, or one with more sub-arrays."""
    data, times = load_machine().model_dump(), LARGER.get(name, 1)
    data["array"]["banks"] = [n * times for n in data["array"]["banks"]]
    data["activation"]["banks"] = [1, data["activation"]["banks"][1] * times]
    return Machine.model_validate(data | {"name": f"{data['name']}-{times * times}x" if times > 1 else data["name"]})


def one(name: str, variant: str, seed: int, path: Path, dataset: Dataset, o: argparse.Namespace) -> dict[str, Any]:
    """Attach, compile, train, and classify the images that are measured."""
    recipe = load_recipe(Path(__file__).parents[1] / "examples" / "recipes" / "flowers17.toml")
    head, module = (
        Schedule.parse(text, option)
        for text, option in ((o.head_exponent, "--head-exponent"), (o.module_exponent, "--module-exponent"))
    )
    recipe = recipe.model_copy(
        update={"epochs": o.epochs, "seed": seed, "batch": o.batch, "head_exponent": head, "module_exponent": module}
    )
    items = dataset.items("train")
    model = load_model(path)
    own = Preprocess.from_json(json.loads(next(p.value for p in model.metadata_props if p.key == "sasimc.preprocess")))
    images = pictures(dataset, [items[i * len(items) // 32] for i in range(32)], own).numpy()
    made = attach(
        model,
        AttachOptions(classes=len(dataset.classes), modules=variant == "modules", seed=seed, rep_gain=o.rep_gain),
        list(images[:, None]),
    )
    compiled = compile_model(
        made.model,
        CompileOptions(machine=machine_for(name), batch=o.batch, gradient_range=o.gradient_range),
    )
    device = Device(compiled.program, "fused", o.threads)
    start = time.perf_counter()
    result = train(
        device,
        dataset,
        recipe,
        None,
        lambda e: print(
            f"  {name} {variant} seed {seed}, epoch {e.epoch + 1}: train {e.train_top1:.1f} %, {e.wall_s:.0f} s", flush=True
        ),
    )
    loader = Loader(dataset, "test", device.preprocess, device.batch_size)
    right = [int(v) for x, y, _ in loader.epoch(0) for v in device.infer(x).classes == y]
    assert compiled.train_step is not None
    return {
        "network": name, "variant": variant, "seed": seed, "right": right, "train_top1": result.epochs[-1].train_top1, "wall_s": time.perf_counter() - start,
        "modules": len(made.modules), "weights": made.parameters, "features": made.features, "subarrays": compiled.placement.used,
        "train_step_cycles": compiled.train_step.cycles, "infer_cycles": compiled.infer.cycles,
    }  # fmt: skip


def summary(name: str, pretrained: float, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Both variants and what the modules add, in points, with standard errors over images (an image counts with its mean over the seeds)."""
    by = {v: np.mean([r["right"] for r in runs if r["variant"] == v], axis=0) * 100 for v in VARIANTS}
    gain = by["modules"] - by["classifier"]

    def error(values: Any) -> float:
        return float(np.std(values, ddof=1) / math.sqrt(len(values)))

    last = next(r for r in runs if r["variant"] == "modules")
    return {
        "network": name, "pre-training, %": f"{100 * pretrained:.1f}",
        **{f"{v}, %": f"{by[v].mean():.1f} ± {error(by[v]):.1f}" for v in VARIANTS}, "gain, points": f"{gain.mean():+.1f} ± {error(gain):.1f}",
        "seeds": len(runs) // 2, "modules": last["modules"], "their weights": last["weights"], "sub-arrays": last["subarrays"],
        "cycles of a step, 10^6": f"{last['train_step_cycles'] / 1e6:.1f}",
    }  # fmt: skip


def main() -> None:
    """Do what is not done yet, print, write."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps networks and finished runs")
    parser.add_argument("--networks", type=lambda t: t.split(","), default=list(BACKBONES))
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--pretrain-epochs", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=lambda t: [int(s) for s in t.split(",")], default=[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--gradient-range", default="batch")
    parser.add_argument("--rep-gain", type=float, default=0.125)
    parser.add_argument("--head-exponent", default="4:-1")
    parser.add_argument("--module-exponent", default="2:-2")
    o = parser.parse_args()
    o.data = data_folder(o)
    o.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(o.threads)
    print(environment(o.threads))
    flowers = open_dataset("flowers17", o.data)
    measured = (*flowers.items("val"), *flowers.items("test"))
    dataset = replace(flowers, splits={"train": flowers.items("train"), "val": (), "test": measured})
    rows, runs = [], []
    for name in o.networks:
        path, pretrained = backbone(name, o)
        mine = []
        for seed in o.seeds:
            for variant in VARIANTS:
                kept = (
                    o.work
                    / f"{name}-{o.size}-{variant}-{seed}-{o.epochs}-{o.head_exponent}-{o.module_exponent}-{o.batch}-{o.gradient_range}-{o.rep_gain}.json"
                )
                if not kept.exists():
                    kept.write_text(json.dumps(one(name, variant, seed, path, dataset, o)))
                mine.append(json.loads(kept.read_text()))
        rows.append(summary(name, pretrained, mine))
        print(rows[-1], flush=True)
        runs += mine
    print("\n" + table(list(rows[0]), [list(r.values()) for r in rows]))
    print(f"\n{len(dataset.items('train'))} training images, {len(measured)} measured, {o.epochs} epochs, {o.size} px")
    finish(o, {"rows": rows, "runs": runs})


if __name__ == "__main__":
    main()
