"""First weights of the Rep-Net modules, distilled from the backbone itself: what it makes of large images, modules learn to make of small ones.

The teacher is MobileNet-V2 at 224 px, the student the same frozen backbone at a smaller size with modules. Both see the same crops. Only the modules learn: the
squared distance of the 1280 features (each in standard deviations), half the Kullback-Leibler divergence of the softened outputs (temperature 2), and 0.02 times the
mean square of the modules' outputs, which keeps these small. AdamW, 1e-3, cosine to zero. A fifth of the images is held back; the weights of the epoch that is best on these are kept.

    python examples/distil_modules.py --weights FOLDER --images FOLDER --size 64 -o modules.npz
    sasrun --train FOLDER --weights FOLDER --recipe r.toml        with  [zoo] module_weights = "modules.npz"

Images need no labels: a data set or a folder, a thousand are a beginning. Needs torch. Takes about four seconds an image on one core (1,000 images, 10 epochs: an hour).
"""

from __future__ import annotations

import argparse
import io
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from torch.nn import functional

from sasimc.datasets.dataset import Dataset, hold_back, open_dataset
from sasimc.datasets.examples import training_examples
from sasimc.datasets.images import Augment
from sasimc.datasets.loader import Loader
from sasimc.isa.files import write_atomically
from sasimc.reference.float_reference import FloatReference
from sasimc.zoo.zoo import ZooOptions, build, write

Tensors = dict[str, torch.Tensor]
TEMPERATURE = 2.0


class Pair:
    """Student and teacher on the same crops."""

    def __init__(self, o: argparse.Namespace, data: Dataset) -> None:
        self.data, self.batch, self.seed = data, o.batch, o.seed
        pictures = training_examples(data, 32)
        with tempfile.TemporaryDirectory() as folder:
            made = [
                write(
                    build(name, ZooOptions(weights=o.weights, resolution=size, seed=o.seed), pictures),
                    Path(folder) / f"{name}.onnx",
                )
                for name, size in (("mobilenetv2-repnet", o.size), ("mobilenetv2", o.teacher_size))
            ]
            self.student, self.teacher = (FloatReference(path) for path in made)
            notes = {p.key: p.value for p in onnx.load(made[0]).metadata_props}
        self.layers: list[str] = json.loads(notes["sasimc.trainable"])
        self.spread = torch.ones(1)

    def weights(self) -> dict[str, np.ndarray]:
        """Weights of the modules by layer, [N, C / groups, kh, kw]."""
        return {name: self.student.weights[f"{name.replace('.', '_')}/weight"].detach().numpy().copy() for name in self.layers}

    def crops(self, split: str, epoch: int):
        """(student's, teacher's) normalised images of each batch."""
        augment = Augment(area=(0.3, 1.0)) if split == "train" else None
        loaders = [
            Loader(self.data, split, net.preprocess, self.batch, self.seed, augment) for net in (self.student, self.teacher)
        ]
        for batches in zip(*(loader.epoch(epoch) for loader in loaders), strict=True):
            yield [net.normalised(images) for net, (images, _, _) in zip((self.student, self.teacher), batches, strict=True)]

    def told(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and outputs of the teacher."""
        with torch.no_grad():
            made = self.teacher.tensors(images)
        return made["avgpool:0"].flatten(1), made[self.teacher.output]

    def losses(self, small: torch.Tensor, large: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Distance of features, divergence of outputs, size of the modules' outputs."""
        features, outputs = self.told(large)
        made = self.student.tensors(small)
        distance = ((made["avgpool:0"].flatten(1) - features) / self.spread).square().mean()
        ours, theirs = (x / TEMPERATURE for x in (made[self.student.output], outputs))
        divergence = functional.kl_div(ours.log_softmax(1), theirs.softmax(1), reduction="batchmean") * TEMPERATURE**2
        size = sum(made[f"{name}:0"].square().mean() for name in self.layers if name.endswith("conv2"))
        return distance, divergence, torch.as_tensor(size)


def train(pair: Pair, epochs: int) -> dict[str, np.ndarray]:
    """The weights of the epoch with the smallest loss on the images held back."""
    pair.spread = torch.cat([pair.told(large)[0] for _, large in pair.crops("train", 0)]).std(0).clamp_min(0.05)
    parameters = list(pair.student.weights.values())
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-2)
    steps, step, best, kept = epochs * -(-len(pair.data.items("train")) // pair.batch), 0, math.inf, pair.weights()
    for epoch in range(epochs):
        for small, large in pair.crops("train", epoch + 1):
            step += 1
            for group in optimiser.param_groups:
                group["lr"] = 1e-3 * min(1.0, step / 30) * (1 + math.cos(math.pi * step / steps)) / 2
            distance, divergence, size = pair.losses(small, large)
            optimiser.zero_grad()
            (distance + 0.5 * divergence + 0.02 * size).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 5.0)
            optimiser.step()
        with torch.no_grad():
            held = np.mean([[float(x) for x in pair.losses(small, large)] for small, large in pair.crops("val", 0)], axis=0)
        print(f"epoch {epoch + 1}/{epochs}: held back: features {held[0]:.3f}, outputs {held[1]:.3f}", flush=True)
        if held[0] + 0.5 * held[1] < best:
            best, kept = held[0] + 0.5 * held[1], pair.weights()
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="weights of the backbone, as sasc zoo takes them")
    parser.add_argument("--images", required=True, help="a data set or a folder")
    parser.add_argument("--size", type=int, default=64, help="of the student's images")
    parser.add_argument("--teacher-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True, help="an .npz file")
    o = parser.parse_args()
    torch.manual_seed(o.seed)
    out = io.BytesIO()
    np.savez(out, **train(Pair(o, hold_back(open_dataset(o.images), 0.2)), o.epochs))
    write_atomically(o.output, out.getvalue())
    print(f"wrote {o.output}")


if __name__ == "__main__":
    main()
