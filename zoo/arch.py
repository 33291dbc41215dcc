"""Shapes of MobileNet-V2 and of the Rep-Net modules beside it; no weights, no ONNX.

Sources: MobileNet-V2, Sandler et al. 2018, table 2 (channel rule and inverted residuals); the Rep-Net table of
the shared design note "training". Names follow the widely used ``features.i.conv.j`` convention, so that weights of either
origin find their layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from sasimc.isa.errors import SasError

__all__ = [
    "Architecture",
    "BlockSpec",
    "ConvSpec",
    "RepModule",
    "RepSpec",
    "mobilenet_v2",
    "resolve_modules",
    "same_pads",
]

#: (expansion, output channels, repeats, first stride): MobileNet-V2 paper, table 2
_STAGES: tuple[tuple[int, int, int, int], ...] = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM = 32
_LAST = 1280


@dataclass(frozen=True)
class ConvSpec:
    """One convolution with its folded batch norm: square kernel, ``relu6`` when an activation follows."""

    name: str
    cin: int
    cout: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    relu6: bool = True

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weights, (out, in per group, k, k)."""
        return (self.cout, self.cin // self.groups, self.kernel, self.kernel)


@dataclass(frozen=True)
class BlockSpec:
    """``features[index]``: its convolutions in order, and whether the input is added to the output."""

    index: int
    convs: tuple[ConvSpec, ...]
    residual: bool = False

    @property
    def name(self) -> str:
        return f"features.{self.index}"

    @property
    def cin(self) -> int:
        return self.convs[0].cin

    @property
    def cout(self) -> int:
        return self.convs[-1].cout

    @property
    def stride(self) -> int:
        stride = 1
        for conv in self.convs:
            stride *= conv.stride
        return stride


@dataclass(frozen=True)
class Architecture:
    """The backbone up to the global average pool; the last block is the 1x1 convolution to the features."""

    blocks: tuple[BlockSpec, ...]

    @property
    def convs(self) -> tuple[ConvSpec, ...]:
        return tuple(conv for block in self.blocks for conv in block.convs)

    @property
    def features(self) -> int:
        """Channels after the global average pool."""
        return self.blocks[-1].cout

    def input_sizes(self, resolution: int) -> tuple[int, ...]:
        """Side of the plane that enters each block; every stride-2 layer halves and rounds up (both paddings do)."""
        sizes = []
        size = resolution
        for block in self.blocks:
            sizes.append(size)
            for conv in block.convs:
                size = -(-size // conv.stride)
        return tuple(sizes)


def _divisible(channels: float, divisor: int = 8) -> int:
    """Nearest multiple of ``divisor``, never more than 10 % below ``channels`` (the rule of the reference implementation)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def mobilenet_v2(width: float = 1.0, last_channels: int | None = None) -> Architecture:
    """The layers of MobileNet-V2. ``last_channels`` None: 1280, times the width when that is over 1 (paper, section 5)."""
    if not 0.05 <= width <= 4:
        raise SasError(f"width {width} is out of range", hint="MobileNet-V2 widths lie between 0.05 and 4; usual are 0.35 to 1.4")
    if last_channels is not None and last_channels < 1:
        raise SasError(f"last_channels {last_channels} is not positive")
    channels = _divisible(_STEM * width)
    blocks = [BlockSpec(0, (ConvSpec("features.0.0", 3, channels, 3, 2),))]
    for expand, base, repeats, first_stride in _STAGES:
        cout = _divisible(base * width)
        for repeat in range(repeats):
            index = len(blocks)
            stride = first_stride if repeat == 0 else 1
            hidden = round(channels * expand)
            prefix = f"features.{index}.conv"
            convs = [ConvSpec(f"{prefix}.0.0", channels, hidden)] if expand != 1 else []
            level = len(convs)
            convs.append(ConvSpec(f"{prefix}.{level}.0", hidden, hidden, 3, stride, hidden))
            convs.append(ConvSpec(f"{prefix}.{level + 1}", hidden, cout, relu6=False))
            blocks.append(BlockSpec(index, tuple(convs), residual=stride == 1 and channels == cout))
            channels = cout
    last = last_channels if last_channels is not None else _divisible(_LAST * max(1.0, width))
    blocks.append(BlockSpec(len(blocks), (ConvSpec(f"features.{len(blocks)}.0", channels, last),)))
    return Architecture(tuple(blocks))


def same_pads(padding: str, size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(before, after) padding of one axis. ``tf``: TensorFlow SAME, odd pixel after; ``symmetric``: kernel // 2 twice."""
    if padding == "symmetric":
        return kernel // 2, kernel // 2
    out = -(-size // stride)
    total = max(0, (out - 1) * stride + kernel - size)
    return total // 2, total - total // 2


@dataclass(frozen=True)
class RepSpec:
    """One Rep-Net module as the user asks for it.

    ``attach``: index of the backbone block whose output is corrected. ``hidden``: channels between the two convolutions; None =
    the channels that enter the block (8 for a module that reads the image), the rule behind the table of the released network.
    """

    attach: int
    hidden: int | None = None
    kernel: int = 5
    groups: int = 2


@dataclass(frozen=True)
class RepModule:
    """A Rep-Net module with every size known. ``image``: reads the image (through ``image_pool``), else the block's input."""

    attach: int
    image: bool
    image_pool: int
    cin: int
    hidden: int
    cout: int
    kernel: int
    groups: int
    size_in: int
    pooled: int
    size_out: int

    @property
    def name(self) -> str:
        return f"rep.{self.attach}"

    @property
    def conv1(self) -> ConvSpec:
        return ConvSpec(f"{self.name}.conv1", self.cin, self.hidden, self.kernel, 1, self.groups)

    @property
    def conv2(self) -> ConvSpec:
        return ConvSpec(f"{self.name}.conv2", self.hidden, self.cout, relu6=False)

    @property
    def parameters(self) -> int:
        total = 0
        for conv in (self.conv1, self.conv2):
            o, i, kh, kw = conv.weight_shape
            total += o * i * kh * kw
        return total


def resolve_modules(arch: Architecture, specs: tuple[RepSpec, ...], resolution: int) -> tuple[RepModule, ...]:
    """Sizes and channels of every module; the first one reads the image, the later ones what enters their block.

    The image is first averaged down to the side of its block's output (4x4 for block 2, as in the table) when that divides it;
    otherwise by the next smaller whole factor, and the nearest-neighbour resize makes up for the rest.
    """
    sizes = arch.input_sizes(resolution)
    modules = []
    seen: set[int] = set()
    for order, spec in enumerate(sorted(specs, key=lambda s: s.attach)):
        if not 1 <= spec.attach < len(arch.blocks) - 1:
            raise SasError(
                f"a Rep-Net module cannot attach to block {spec.attach}",
                hint=f"blocks 1 to {len(arch.blocks) - 2} have an output that a module can correct",
            )
        if spec.attach in seen:
            raise SasError(f"two Rep-Net modules attach to block {spec.attach}", hint="give each module its own block")
        seen.add(spec.attach)
        block = arch.blocks[spec.attach]
        image = order == 0
        size_out = sizes[spec.attach + 1]
        image_pool = max(1, resolution // size_out) if image else 1
        size_in = resolution // image_pool if image else sizes[spec.attach]
        cin = 3 if image else block.cin
        hidden = spec.hidden if spec.hidden is not None else (8 if image else block.cin)
        groups = 1 if image and cin % spec.groups else spec.groups
        if groups < 1 or hidden < 1 or cin % groups or hidden % groups:
            raise SasError(
                f"Rep-Net module at block {spec.attach}: {groups} groups do not divide {cin} input and {hidden} hidden channels",
                hint="choose groups and hidden channels that divide each other",
            )
        if spec.kernel < 1 or spec.kernel % 2 == 0:
            raise SasError(f"Rep-Net module at block {spec.attach}: kernel {spec.kernel} is not odd and positive")
        modules.append(
            RepModule(
                attach=spec.attach,
                image=image,
                image_pool=image_pool,
                cin=cin,
                hidden=hidden,
                cout=block.cout,
                kernel=spec.kernel,
                groups=groups,
                size_in=size_in,
                pooled=size_in // 2 if size_in >= 2 else size_in,
                size_out=size_out,
            )
        )
    return tuple(modules)
