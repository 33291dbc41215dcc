"""Anomaly detection with the autoencoder of MLPerf Tiny (640 features): the float network and data by formula, for docs/how-to/regression.md.

    python examples/autoencoder.py FOLDER [--epochs 8]

Writes ``autoencoder.onnx``, pre-trained in PyTorch on the sounds of several pumps, and ``pump.npz``: sounds of one more pump, the one that the
device listens to. A sound is 5 frames of 128 bands on a logarithmic scale, as in MLPerf Tiny. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

BANDS, FRAMES = 128, 5
F32 = npt.NDArray[np.float32]


def sounds(pump: int, count: int, seed: int, broken: bool = False) -> F32:
    """[count, 640]: harmonics of the pump's pitch over falling noise; a broken pump also rattles between them."""
    own, rng = np.random.default_rng(pump), np.random.default_rng([pump, seed, broken])
    pitch, strength = own.uniform(7, 13), own.uniform(0.3, 1.0, 16)
    band = np.arange(BANDS)
    x = np.empty((count, FRAMES, BANDS))
    for i in range(count):
        speed, load = rng.normal(1, 0.015), rng.normal(1, 0.1)
        for frame in range(FRAMES):
            power = 0.3 * np.exp(-band / 50)
            for harmonic, size in enumerate(strength, 1):
                power += load * size / harmonic * np.exp(-(((band - harmonic * pitch * speed) / 1.5) ** 2))
            if broken:
                power += 0.12 * rng.random() * np.exp(-(((band - rng.uniform(0, BANDS)) / 4) ** 2))
            x[i, frame] = 10 * np.log10(power * rng.gamma(20, 1 / 20, BANDS) + 1e-3)
    return ((x + 15) / 10).reshape(count, -1).astype(np.float32)


def network() -> nn.Sequential:
    """640-128-128-128-128-8-128-128-128-128-640 with batch norm and ReLU."""
    widths = (FRAMES * BANDS, 128, 128, 128, 128, 8, 128, 128, 128, 128)
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, FRAMES * BANDS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    o = parser.parse_args()
    o.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    x = torch.from_numpy(np.concatenate([sounds(pump, 250, 0) for pump in range(1, 9)]))
    model = network()
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(o.epochs):
        losses = []
        for pick in torch.randperm(len(x)).split(64):
            loss = nn.functional.mse_loss(model(x[pick]), x[pick])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        print(f"epoch {epoch + 1}/{o.epochs}: mean squared error {np.mean(losses):.4f}", flush=True)
    torch.onnx.export(
        model.eval(), (x[:1],), str(o.folder / "autoencoder.onnx"), dynamo=False, opset_version=17,
        input_names=["sound"], output_names=["again"], dynamic_axes={"sound": {0: "batch"}},
    )  # fmt: skip
    test = [sounds(0, 150, 1), sounds(0, 150, 2, broken=True)]
    np.savez(
        o.folder / "pump.npz", x_train=sounds(0, 800, 3), x_test=np.concatenate(test), y_test=np.repeat([0, 1], 150),
        class_names=np.array(["whole", "broken"]),
    )  # fmt: skip
    print(f"wrote autoencoder.onnx and pump.npz to {o.folder}")


if __name__ == "__main__":
    main()
