"""First weights of the Rep-Net modules, distilled from the backbone itself: what it makes of large images, modules learn to make of small ones.

The teacher is MobileNet-V2 at 224 px (INT8, onnxruntime), the student the same frozen backbone at a smaller size with modules that begin at zero. Both see the same
crops, some of the student's blurred. Only the modules learn: the Kullback-Leibler divergence of the outputs, the student's times a factor that is learned too.
So modules learn which features an image has, and not how large all of them are. AdamW, cosine to zero.

    python examples/distil_modules.py --weights FOLDER --images FOLDER --size 96 -o modules.npz
    sasrun --train FOLDER --weights FOLDER --recipe r.toml        with  [zoo] module_weights = "modules.npz"

Images need no labels: a data set or a folder, a thousand are a beginning. Needs torch. Takes about 20 ms an image and epoch on one core (1,000 images, 15 epochs: 5 minutes).
"""

from __future__ import annotations

import argparse
import io
import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from torch.nn import functional

from sasimc.datasets.dataset import Dataset, open_dataset
from sasimc.datasets.examples import training_examples
from sasimc.datasets.images import Augment
from sasimc.datasets.loader import Loader
from sasimc.isa.files import write_atomically
from sasimc.reference.float_reference import FloatReference
from sasimc.zoo.arch import mobilenet_v2
from sasimc.zoo.weights import load_folder
from sasimc.zoo.zoo import ZooOptions, build, write

BLURRED = 0.3
"""Share of the images of which the student sees a blurred copy."""


class Teacher:
    """Outputs of the backbone at its own size."""

    def __init__(self, model: onnx.ModelProto) -> None:
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        options.add_session_config_entry("session.x64quantprecision", "1")  # the same outputs with and without VNNI
        self.session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """[B, classes] of normalised images [B, 3, H, W]."""
        name = self.session.get_inputs()[0].name
        return torch.cat([torch.from_numpy(self.session.run(None, {name: x[None].contiguous().numpy()})[0]) for x in images])


class Pair:
    """Student and teacher on the same crops."""

    def __init__(self, o: argparse.Namespace, data: Dataset) -> None:
        self.size, self.rng = o.size, torch.Generator().manual_seed(o.seed)
        pictures = training_examples(data, 32)
        models = [
            build(name, ZooOptions(weights=o.weights, resolution=size, seed=o.seed, module_weights="random"), pictures)
            for name, size in (("mobilenetv2-repnet", o.size), ("mobilenetv2", o.teacher_size))
        ]
        with tempfile.TemporaryDirectory() as folder:
            self.student, plain = (FloatReference(write(model, Path(folder) / f"{i}.onnx")) for i, model in enumerate(models))
        self.teacher = Teacher(models[1])
        self.layers: list[str] = json.loads({p.key: p.value for p in models[0].metadata_props}["sasimc.trainable"])
        with torch.no_grad():
            for name in self.layers:
                if name.endswith("conv2"):
                    self.weight(name).zero_()
        self.scale = torch.nn.Parameter(torch.tensor(0.5))
        self.loaders = {
            split: [Loader(data, split, net.preprocess, o.batch, o.seed, Augment(area=(0.15, 1.0)) if split == "train" else None)
                    for net in (self.student, plain)]
            for split in ("train", "val") if data.items(split)
        }  # fmt: skip

    def weight(self, layer: str) -> torch.nn.Parameter:
        return self.student.weights[f"{layer.replace('.', '_')}/weight"]

    def weights(self) -> dict[str, npt.NDArray[np.float16]]:
        """Weights of the modules by layer, [N, C / groups, kh, kw]."""
        return {name: self.weight(name).detach().numpy().astype(np.float16) for name in self.layers}

    def crops(self, split: str, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(student's, teacher's) normalised images of each batch, for training some of the student's blurred."""
        for (small_bytes, _, _), (large_bytes, _, _) in zip(
            *(loader.epoch(epoch) for loader in self.loaders[split]), strict=True
        ):
            small, large = self.student.normalised(small_bytes), self.student.normalised(large_bytes)
            yield self.blurred(small) if split == "train" else small, large

    def blurred(self, images: torch.Tensor) -> torch.Tensor:
        """Some of them made smaller, to 50 to 95 % of their side, and large again."""
        side = int(self.size * (0.5 + 0.45 * float(torch.rand(1, generator=self.rng))))
        small = functional.interpolate(images, size=side, mode="bilinear", antialias=True)
        again = functional.interpolate(small, size=images.shape[2:], mode="bilinear")
        chosen = torch.rand(len(images), 1, 1, 1, generator=self.rng) < BLURRED
        return torch.where(chosen, again, images).contiguous(memory_format=torch.channels_last)

    def divergence(self, small: torch.Tensor, large: torch.Tensor) -> torch.Tensor:
        """Of the student's outputs from the teacher's, in nats."""
        ours = (self.student(small) * self.scale).log_softmax(1)
        return functional.kl_div(ours, self.teacher(large).softmax(1), reduction="batchmean")


def all_images(data: Dataset, share: float) -> Dataset:
    """The images for training, ``share`` of them held back as val. A set with one image a class has test images only; labels are not used, so it takes these."""
    items = [item for split in ("train", "val") for item in data.items(split)] or list(data.items("test"))
    order = np.random.default_rng(0).permutation(len(items))
    held = round(share * len(items))
    splits = {"train": order[held:], "val": order[:held], "test": []}
    return replace(data, splits={split: tuple(items[i] for i in part) for split, part in splits.items()})


def train(pair: Pair, epochs: int, rate: float) -> None:
    parameters = [*pair.student.weights.values(), pair.scale]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-2)
    steps, step = epochs * len(pair.loaders["train"][0]), 0
    for epoch in range(epochs):
        for small, large in pair.crops("train", epoch):
            step += 1
            for group in optimiser.param_groups:
                group["lr"] = rate * min(1.0, step / 50) * (1 + math.cos(math.pi * step / steps)) / 2
            optimiser.zero_grad()
            pair.divergence(small, large).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 5.0)
            optimiser.step()
        line = f"epoch {epoch + 1}/{epochs}"
        if "val" in pair.loaders:
            with torch.no_grad():
                held = np.mean([float(pair.divergence(*images)) for images in pair.crops("val", 0)])
            line += f": divergence {held:.3f} nats on the images held back"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="INT8 weights of the backbone, as sasc zoo takes them")
    parser.add_argument("--images", required=True, help="a data set or a folder")
    parser.add_argument("--size", type=int, default=96, help="of the student's images")
    parser.add_argument("--teacher-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--held-back", type=float, default=0.0, help="share of the images that are not trained on but measured")
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True, help="an .npz file")
    o = parser.parse_args()
    torch.manual_seed(o.seed)
    torch.set_flush_denormal(True)
    pair = Pair(o, all_images(open_dataset(o.images), o.held_back))
    train(pair, o.epochs, o.rate)
    backbone = load_folder(Path(o.weights), mobilenet_v2(1.0))
    arrays: dict[str, Any] = {"backbone": backbone.fingerprint, "resolution": o.size, **pair.weights()}
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    write_atomically(o.output, out.getvalue())
    print(f"wrote {o.output}")


if __name__ == "__main__":
    main()
