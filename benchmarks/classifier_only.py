"""Does the default recipe, unchanged, ever end below a classifier alone? Folders of 2 to 100 classes and 6 to some hundred images a class, INT8 on the device.

    python benchmarks/classifier_only.py --data FOLDER [--folders two,pets] [--seeds 0] [--size 96] [--epochs 10] [--recipe default]

Each folder is written anew (given sets, halves and mixtures of them, drawn ones), then learned twice with the same images, order, seed and recipe: the classifier
alone (of the backbone without modules), and with the modules. Top-1 is of the folder's test images, which are read once, after the last
epoch; the recipe says whose epoch's weights these have. A difference carries its standard error, paired over images.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import add_common, data_folder, environment, finish, table
from PIL import Image

from sasimc.api import CompileOptions, compile_model
from sasimc.building import model_for
from sasimc.datasets.dataset import Dataset, open_dataset
from sasimc.datasets.loader import Loader
from sasimc.runtime.device import Device
from sasimc.training.recipe import Recipe, load_recipe
from sasimc.training.trainer import train


@dataclass(frozen=True)
class Part:
    """Classes ``first`` to ``last`` (not included) of a data set, at most so many images of each in a split."""

    dataset: str
    first: int = 0
    last: int = 10_000
    images: int = 10_000


FOLDERS: Mapping[str, tuple[Part, ...]] = {
    "two": (Part("flowers17", 0, 2),),
    "few images": (Part("flowers17", images=6),),
    "half the classes": (Part("flowers17", 8, 17),),
    "pets": (Part("pets"),),
    "quarter of cars": (Part("cars", 0, 49),),
    "pets and flowers": (Part("pets", 0, 18), Part("flowers17", 0, 8, 12)),
    "cars and pets": (Part("cars", 100, 140), Part("pets", 18, 37)),
    "hundred": (Part("flowers", 0, 100, 6),),
    "drawn shapes": (Part("drawn-shapes", images=30),),
    "drawn flowers": (Part("drawn-flowers", images=30),),
}
"""Name -> what is in it."""


def write_folder(parts: tuple[Part, ...], target: Path, data: Path, size: int) -> int:
    """One folder a split and class, images as PNG with a short side of 8/7 ``size``; returns the number of classes."""
    side, classes = round(size * 8 / 7), 0
    for number, part in enumerate(parts):
        source: Dataset = open_dataset(part.dataset, data, size=side)
        for split in ("train", "val", "test"):
            seen: dict[int, int] = {}
            for item in source.items(split):
                n = seen[item.class_id] = seen.get(item.class_id, 0) + 1
                if part.first <= item.class_id < part.last and n <= part.images:
                    image = Image.fromarray(source.load(item))
                    image.thumbnail((2 * side, 2 * side))
                    folder = target / split / f"{number}-{item.class_id:03}"
                    folder.mkdir(parents=True, exist_ok=True)
                    image.save(folder / f"{n:04}.png")
        classes += min(part.last, len(source.classes)) - part.first
    return classes


def learn(folder: Path, recipe: Recipe, weights: str, size: int, name: str) -> np.ndarray:
    """Whether each test image is right after training the zoo's model ``name``."""
    model = model_for(str(folder), None, weights, size, recipe, name)
    options = CompileOptions(verify=False, **recipe.compile_options())
    device, data = Device(compile_model(model, options).program, "fused", 1), open_dataset(str(folder))
    train(device, data, recipe)
    right = [
        device.infer(images).logits.argmax(axis=1) == labels
        for images, labels, _ in Loader(data, "test", device.preprocess, device.batch_size).epoch(0)
    ]
    return np.concatenate(right)


def main() -> None:
    """Train what is asked for, print a line a folder."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--folders", type=lambda t: t.split(","), default=list(FOLDERS))
    parser.add_argument("--seeds", type=lambda t: [int(s) for s in t.split(",")], default=[0])
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--recipe", default="default", help="name or file")
    o = parser.parse_args()
    data, rows = data_folder(o), []
    print(environment(1), flush=True)
    for name in o.folders:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "folder"
            classes = write_folder(FOLDERS[name], folder, data, o.size)
            results: dict[str, list[np.ndarray]] = {"classifier": [], "modules": []}
            for seed in o.seeds:
                recipe = load_recipe(o.recipe).model_copy(update={"seed": seed, "epochs": o.epochs})
                for what, model in (("classifier", "mobilenetv2"), ("modules", "mobilenetv2-repnet")):
                    results[what].append(learn(folder, recipe, str(data / "weights"), o.size, model))
        alone, both = (np.mean(results[what], axis=0) for what in ("classifier", "modules"))
        gain = 100 * (both - alone)
        row: dict[str, Any] = {
            "folder": name, "classes": classes, "test images": len(alone), "classifier, %": 100 * float(alone.mean()),
            "with modules, %": 100 * float(both.mean()), "gain, points": float(gain.mean()),
            "standard error": float(gain.std(ddof=1) / math.sqrt(len(gain))),
        }  # fmt: skip
        rows.append(row)
        print(row, flush=True)
    print("\n" + table(list(rows[0]), [list(r.values()) for r in rows]))
    finish(o, {"rows": rows})


if __name__ == "__main__":
    main()
