"""Keyword spotting with the DS-CNN of MLPerf Tiny (input 49 x 10): the float network and data by formula, for docs/how-to/regression.md.

    python examples/keywords.py FOLDER [--epochs 4]

Writes ``keywords.onnx``, pre-trained in PyTorch on the voices of many speakers, and ``speaker.npz``: one more speaker, whom the device is to understand. A
word is 49 frames of 10 cepstral coefficients, as in MLPerf Tiny. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "silence", "unknown")
FRAMES, COEFFICIENTS = 49, 10
F32 = npt.NDArray[np.float32]


def _contour(rng: np.random.Generator, points: int) -> npt.NDArray[np.float64]:
    """[points, 10]: a smooth course of the coefficients, the first ones largest."""
    return rng.normal(0, 1, (points, COEFFICIENTS)) * np.linspace(1.6, 0.5, COEFFICIENTS)


def _word(word: int, speaker: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """[49, 10]: the word's course, as this speaker says it, somewhere in the second."""
    if WORDS[word] == "silence":
        return rng.normal(0, 0.6, (FRAMES, COEFFICIENTS))
    of_word = rng if WORDS[word] == "unknown" else np.random.default_rng([1, word])
    course, voice = _contour(of_word, 6), np.random.default_rng([2, speaker])
    accent, colour = voice.normal(0, 1.1, course.shape), voice.normal(1, 0.25, COEFFICIENTS)
    length = int(rng.integers(24, 40))
    start = int(rng.integers(0, FRAMES - length + 1))
    at = np.linspace(0, 5, length) + rng.normal(0, 0.15)
    said = np.stack([np.interp(at, np.arange(6), c) for c in ((course + accent) * colour).T], axis=1)
    out = rng.normal(0, 0.6, (FRAMES, COEFFICIENTS))
    out[start : start + length] += said * rng.normal(1, 0.1)
    return out


def words(speakers: range, each: int, seed: int) -> tuple[F32, npt.NDArray[np.int64]]:
    """([n, 1, 49, 10], class numbers): every word ``each`` times by every speaker."""
    rng = np.random.default_rng([3, seed])
    found = [(_word(w, s, rng), w) for s in speakers for _ in range(each) for w in range(len(WORDS))]
    return np.stack([x for x, _ in found])[:, None].astype(np.float32), np.asarray([w for _, w in found])


def _conv(cin: int, cout: int, kernel: tuple[int, int], stride: int = 1, groups: int = 1) -> nn.Sequential:
    pads = (kernel[0] // 2, kernel[1] // 2)
    return nn.Sequential(nn.Conv2d(cin, cout, kernel, stride, pads, groups=groups, bias=False), nn.BatchNorm2d(cout), nn.ReLU())


class Keywords(nn.Module):
    """One convolution of 10 x 4, four depthwise-separable ones, the mean, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(1, 64, (10, 4), 2)
        self.blocks = nn.Sequential(*(nn.Sequential(_conv(64, 64, (3, 3), groups=64), _conv(64, 64, (1, 1))) for _ in range(4)))
        self.classifier = nn.Linear(64, len(WORDS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.blocks(self.stem(x)).mean(dim=(2, 3)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    o = parser.parse_args()
    o.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    data, labels = words(range(1, 31), 4, 0)
    x, y = torch.from_numpy(data), torch.from_numpy(labels)
    model = Keywords()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(o.epochs):
        losses = []
        for pick in torch.randperm(len(y)).split(48):
            loss = nn.functional.cross_entropy(model(x[pick]), y[pick])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        print(f"epoch {epoch + 1}/{o.epochs}: loss {np.mean(losses):.3f}", flush=True)
    torch.onnx.export(
        model.eval(), (x[:1],), str(o.folder / "keywords.onnx"), dynamo=False, opset_version=17,
        input_names=["cepstrum"], output_names=["word"], dynamic_axes={"cepstrum": {0: "batch"}},
    )  # fmt: skip
    parts = {"train": words(range(1), 24, 1), "val": words(range(1), 8, 2), "test": words(range(1), 25, 3)}
    arrays = {f"{role}_{split}": part[i] for split, part in parts.items() for i, role in enumerate("xy")}
    np.savez(o.folder / "speaker.npz", **arrays, class_names=np.array(WORDS))
    print(f"wrote keywords.onnx and speaker.npz to {o.folder}")


if __name__ == "__main__":
    main()
