"""Backbones in PyTorch for the benchmark of `sasc attach`, written after their papers, and a short pre-training in floating point."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["BACKBONES", "pretrain"]


def _conv(
    cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(cout)
    ]  # fmt: skip
    return nn.Sequential(*layers, *([act()] if act else []))


class _Head(nn.Module):
    """Mean over the plane, then a classifier."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class _Basic(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al., 2016)."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.a, self.b = _conv(cin, cout, 3, stride), _conv(cout, cout, 3, act=None)
        self.shortcut = _conv(cin, cout, 1, stride, act=None) if stride > 1 or cin != cout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.b(self.a(x)) + self.shortcut(x))


class _Squeeze(nn.Module):
    """Squeeze-and-excite as in MobileNetV3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(8, (channels // 4 + 4) // 8 * 8)
        self.down, self.up = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.up(functional.relu(self.down(functional.adaptive_avg_pool2d(x, 1))))
        return x * functional.hardsigmoid(gate)


class _Inverted(nn.Module):
    """Expansion, depthwise convolution, projection; a shortcut where the shape stays (Sandler et al., 2018)."""

    def __init__(
        self, cin: int, wide: int, cout: int, kernel: int, stride: int, act: type[nn.Module], squeeze: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(cin, wide, 1, act=act)] if wide != cin else []
        layers += [_conv(wide, wide, kernel, stride, wide, act), *([_Squeeze(wide)] if squeeze else [])]
        self.layers = nn.Sequential(*layers, _conv(wide, cout, 1, act=None))
        self.same = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + x if self.same else self.layers(x)


def _resnet8(classes: int) -> nn.Module:
    """MLPerf Tiny's image classifier."""
    return nn.Sequential(_conv(3, 16, 3), _Basic(16, 16, 1), _Basic(16, 32, 2), _Basic(32, 64, 2), _Head(64, classes))


def _resnet18(classes: int) -> nn.Module:
    blocks, cin = list[nn.Module](), 64
    for cout, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [_Basic(cin, cout, stride), _Basic(cout, cout, 1)]
        cin = cout
    return nn.Sequential(_conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1), *blocks, _Head(512, classes))


def _mobilenetv1(classes: int) -> nn.Module:
    """Width 0.5 (Howard et al., 2017)."""
    layers, cin = [_conv(3, 16, 3, 2)], 16
    for cout, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), *((256, 1),) * 5, (512, 2), (512, 1)):
        layers += [_conv(cin, cin, 3, stride, cin), _conv(cin, cout, 1)]
        cin = cout
    return nn.Sequential(*layers, _Head(512, classes))


def _efficientnet_lite0(classes: int) -> nn.Module:
    """EfficientNet-B0 without squeeze-and-excite, with ReLU6."""
    blocks, cin = list[nn.Module](), 32
    stages = (
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    )
    for expand, kernel, stride, cout, count in stages:
        for i in range(count):
            blocks.append(_Inverted(cin, expand * cin, cout, kernel, stride if i == 0 else 1, nn.ReLU6))
            cin = cout
    return nn.Sequential(_conv(3, 32, 3, 2, act=nn.ReLU6), *blocks, _conv(320, 1280, 1, act=nn.ReLU6), _Head(1280, classes))


def _mobilenetv3_small(classes: int) -> nn.Module:
    """Howard et al., 2019, without the wide layer between pool and classifier."""
    relu, swish = nn.ReLU, nn.Hardswish
    rows = (
        (3, 16, 16, True, relu, 2), (3, 72, 24, False, relu, 2), (3, 88, 24, False, relu, 1), (5, 96, 40, True, swish, 2),
        (5, 240, 40, True, swish, 1), (5, 240, 40, True, swish, 1), (5, 120, 48, True, swish, 1), (5, 144, 48, True, swish, 1),
        (5, 288, 96, True, swish, 2), (5, 576, 96, True, swish, 1), (5, 576, 96, True, swish, 1),
    )  # fmt: skip
    blocks, cin = list[nn.Module](), 16
    for kernel, wide, cout, squeeze, act, stride in rows:
        blocks.append(_Inverted(cin, wide, cout, kernel, stride, act, squeeze))
        cin = cout
    return nn.Sequential(_conv(3, 16, 3, 2, act=swish), *blocks, _conv(96, 576, 1, act=swish), _Head(576, classes))


BACKBONES: dict[str, Callable[[int], nn.Module]] = {
    "resnet8": _resnet8,
    "resnet18": _resnet18,
    "mobilenetv1": _mobilenetv1,
    "efficientnet-lite0": _efficientnet_lite0,
    "mobilenetv3-small": _mobilenetv3_small,
}


def pretrain(model: nn.Module, x: Tensor, y: Tensor, epochs: int, rate: float = 3e-3, batch: int = 64) -> float:
    """Train on float images [n, 3, S, S] with mirrored and shifted copies: AdamW, one cosine. Returns the share of right answers on every tenth image,
    which is not trained on."""
    torch.manual_seed(0)
    model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    held = torch.arange(len(y)) % 10 == 0
    left = torch.nonzero(~held).flatten()
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    steps = epochs * (len(left) // batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: min(1.0, (s + 1) / 60) * 0.5 * (1 + math.cos(math.pi * min(1.0, s / steps)))
    )
    rng = np.random.default_rng(0)
    for epoch in range(epochs):
        model.train()
        start, total = time.perf_counter(), 0.0
        for pick in left[torch.randperm(len(left))].split(batch)[: len(left) // batch]:
            images = x[pick]
            images = torch.where((torch.rand(len(pick)) < 0.5)[:, None, None, None], images.flip(3), images)
            dy, dx = rng.integers(-6, 7, 2)
            loss = functional.cross_entropy(model(images.roll((int(dy), int(dx)), (2, 3))), y[pick], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        print(
            f"  epoch {epoch + 1}/{epochs}: loss {total / (len(left) // batch):.3f}, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
    model.eval()
    with torch.no_grad():
        right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x[held].split(64), y[held].split(64), strict=True))
    return right / int(held.sum())
