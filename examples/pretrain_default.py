"""Makes the model that ships inside the package: MobileNet-V2 0.35 at 96 px + Rep-Net, `frontend/default/`.

The backbone is trained from nothing on images drawn by formula (`sasimc.datasets.procedural`, kind "pretrain"), its batch norms
are folded, and the zoo exporter quantises it, adds untrained Rep-Net modules and a new classifier for the drawn flowers, and
calibrates. Run it again after changing the drawing or the exporter:

    python examples/pretrain_default.py -o zoo/default/mobilenetv2_repnet_035_96.onnx

Needs torch (any CPU build); takes about five minutes on one core. The result depends on the torch version in the last bits only.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from sasimc.datasets import procedural
from sasimc.zoo.arch import Architecture, mobilenet_v2
from sasimc.zoo.weights import fold_batch_norm
from sasimc.zoo.zoo import ZooOptions, build_mobilenetv2_repnet, write

WIDTH, SIZE = 0.35, 96


class Backbone(nn.Module):
    """MobileNet-V2 with batch norm, built from the zoo's own layer list (symmetric padding)."""

    def __init__(self, arch: Architecture, classes: int) -> None:
        super().__init__()
        self.arch = arch
        self.convs = nn.ModuleList(
            nn.Conv2d(s.cin, s.cout, s.kernel, s.stride, s.kernel // 2, groups=s.groups, bias=False) for s in arch.convs
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(s.cout, momentum=0.05) for s in arch.convs)
        self.classifier = nn.Linear(arch.features, classes)
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out")
        last = {block.convs[-1].name for block in arch.blocks if block.residual}
        for spec, norm in zip(arch.convs, self.norms, strict=True):
            if spec.name in last:
                nn.init.zeros_(norm.weight)  # residual blocks start as identities: trains much faster from nothing

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = iter(zip(self.convs, self.norms, strict=True))
        for block in self.arch.blocks:
            entry = x
            for spec in block.convs:
                conv, norm = next(layer)
                x = norm(conv(x))
                if spec.relu6:
                    x = functional.relu6(x)
            if block.residual:
                x = x + entry
        return self.classifier(x.mean(dim=(2, 3)))


def drawn(kind: str, seeds: range, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 images [n, 3, size, size] and labels, classes interleaved."""
    classes = len(procedural.class_names(kind))
    images = [procedural.draw(kind, c, seed, size) for seed in seeds for c in range(classes)]
    labels = torch.arange(classes).repeat(len(seeds))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), labels


def normalise(x: torch.Tensor) -> torch.Tensor:
    return (x.float() - 128) / 128


def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    model.eval()
    with torch.no_grad():
        hits = sum(int((model(normalise(a)).argmax(1) == b).sum()) for a, b in zip(x.split(64), y.split(64), strict=True))
    return hits / len(y)


def train(model: Backbone, per_class: int, epochs: int, rate: float, batch: int = 32) -> None:
    """AdamW, cosine, label smoothing; every epoch draws new images, so that no augmentation is needed."""
    vx, vy = drawn("pretrain", range(1_000_000, 1_000_020), SIZE)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    classes = len(procedural.class_names("pretrain"))
    steps = epochs * (per_class * classes // batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: min(1.0, (s + 1) / 50) * 0.5 * (1 + math.cos(math.pi * min(1.0, s / steps)))
    )
    for epoch in range(epochs):
        model.train()
        start, total = time.perf_counter(), 0.0
        x, y = drawn("pretrain", range(epoch * per_class, (epoch + 1) * per_class), SIZE)
        for pick in torch.randperm(len(x)).split(batch)[: len(x) // batch]:
            loss = functional.cross_entropy(model(normalise(x[pick])), y[pick], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        print(
            f"epoch {epoch + 1}/{epochs}: loss {total / (len(x) // batch):.3f}, validation {accuracy(model, vx, vy):.3f}, "
            f"{time.perf_counter() - start:.0f} s",
            flush=True,
        )


def folded(model: Backbone) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors the zoo reads: convolutions with their batch norm folded."""
    result: dict[str, npt.NDArray[np.float32]] = {}
    for spec, conv, norm in zip(model.arch.convs, model.convs, model.norms, strict=True):
        parts = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        arrays = [p.detach().numpy().astype(np.float64) for p in (conv.weight, *parts)]
        weight, bias = fold_batch_norm(arrays[0], arrays[1], arrays[2], arrays[3], arrays[4], norm.eps)
        result[f"{spec.name}.weight"], result[f"{spec.name}.bias"] = weight.astype(np.float32), bias.astype(np.float32)
    return result


def export(tensors: dict[str, npt.NDArray[np.float32]], target: Path, seed: int) -> None:
    """Quantise, add the untrained modules and the flowers' classifier, calibrate on drawn flowers, write."""
    labels = procedural.class_names("flowers")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "backbone.npz"
        np.savez(archive, padding=np.array("symmetric"), **tensors)
        options = ZooOptions(
            weights=str(archive), width=WIDTH, resolution=SIZE, resize=SIZE, classes=len(labels), labels=labels, seed=seed
        )
        images = [procedural.draw("flowers", i % len(labels), 2_000_000 + i, SIZE) for i in range(64)]
        write(build_mobilenetv2_repnet(options, images), target)
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--tensors", type=Path, help="keep the folded float tensors in this .npz, or reuse it when it exists")
    parser.add_argument("--per-class", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    if args.tensors is not None and args.tensors.exists():
        with np.load(args.tensors) as archive:
            tensors = dict(archive)
    else:
        model = Backbone(mobilenet_v2(WIDTH), len(procedural.class_names("pretrain")))
        train(model, args.per_class, args.epochs, args.rate)
        tensors = folded(model)
        if args.tensors is not None:
            np.savez(args.tensors, **tensors)
    export(tensors, args.output, args.seed)


if __name__ == "__main__":
    main()
