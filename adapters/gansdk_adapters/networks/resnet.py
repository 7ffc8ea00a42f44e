"""The ResNet generator of CycleGAN (Zhu et al., ICCV 2017) and its mobile form (GAN Compression, CVPR 2020).

Keys are those of the official releases: one Sequential called `model`. Images are (N, C, H, W) in [-1, 1], H and W
multiples of 4. GAN Compression clamps the input to that range first, which changes nothing inside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

from torch import Tensor, nn

from gansdk.errors import ContractError
from gansdk_adapters.networks.expansion import Expansion, deepening
from gansdk_adapters.networks.norms import Norm, has_bias, make_norm

FIRST_BLOCK = 10
"""Index of the first residual block in `model`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNetSizes:
    """Sizes of `ResNetGenerator`; `of` and `from_config` make the published ones."""

    channels_in: int = 3
    channels_out: int = 3
    widths: tuple[int, ...] = (64, 128, 256, 128, 64)
    """Channels behind the stem, the first and second halving (the trunk), and the first and second doubling."""
    inner: tuple[int, ...] = (256,) * 9
    """Channels between the two convolutions of each residual block."""
    norm: Norm = "instance"
    dropout: float | None = None
    """Rate of the dropout layer inside the blocks, which shifts later keys by one; None without that layer."""
    separable: bool = False
    """Depthwise-separable convolutions in the blocks."""
    deep: bool = False
    """OMGD's deeper teacher: expansion blocks behind every halving and doubling, and two amid the residual blocks."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))  # JSON gives lists
        object.__setattr__(self, "inner", tuple(self.inner))
        if (
            len(self.widths) != 5
            or min((self.channels_in, self.channels_out, *self.widths, *self.inner), default=0) < 1
        ):
            raise ContractError(f"{self}: expected five widths, and all sizes >= 1.")

    @property
    def blocks(self) -> int:
        """Residual blocks."""
        return len(self.inner)

    def block_index(self, number: int) -> int:
        """Return the place in `model` of residual block `number`, counted from 1; 0 is the layer in front of them."""
        before = 8 if self.deep else 0
        amid = 2 if self.deep and number > self.blocks // 2 else 0
        return FIRST_BLOCK - 1 + number + before + amid

    @classmethod
    def of(cls, width: int = 64, blocks: int = 9, **options: Any) -> ResNetSizes:
        """Return the network as published: ngf `width`, doubled at every halving; `options` are the other fields."""
        widths = (width, 2 * width, 4 * width, 2 * width, width)
        return cls(widths=widths, inner=(4 * width,) * blocks, **options)

    @classmethod
    def from_config(cls, config: str | Sequence[int], blocks: int = 9, **options: Any) -> ResNetSizes:
        """Return the network of a GAN Compression config: "32_32_48_32_48_48_16_16", or its numbers.

        Eight numbers: stem, first halving (x2), trunk (x4), inner widths of each third of the blocks (x4), first
        doubling (x2), second doubling. Six numbers have one inner width.

        Raises:
            ContractError: there are neither eight nor six numbers.
        """
        numbers = [int(part) for part in config.split("_")] if isinstance(config, str) else list(config)
        if len(numbers) == 6:
            numbers[3:4] = [numbers[3]] * 3
        if len(numbers) != 8:
            raise ContractError(f"The config {config!r} has {len(numbers)} numbers, but eight (or six) are expected.")
        stem, down, trunk, *thirds, up, last = numbers
        inner = tuple(4 * thirds[3 * index // blocks] for index in range(blocks))
        return cls(widths=(stem, 2 * down, 4 * trunk, 2 * up, last), inner=inner, **options)


class SeparableConv(nn.Module):
    """Depthwise 3x3, instance norm without scales, pointwise 1x1; biases and norm whatever the network's norm is."""

    def __init__(self, channels_in: int, channels_out: int, *, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels_in, channels_in, 3, padding=padding, groups=channels_in),
            nn.InstanceNorm2d(channels_in),
            nn.Conv2d(channels_in, channels_out, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, given, H, W) -> (N, made, H - 2, W - 2), or as large as before with padding 1."""
        return cast("Tensor", self.conv(x))


class ResidualBlock(nn.Module):
    """`x + f(x)` without an activation behind the sum."""

    def __init__(self, sizes: ResNetSizes, inner: int) -> None:
        super().__init__()
        trunk = sizes.widths[2]
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            _block_conv(sizes, trunk, inner),
            make_norm(sizes.norm, inner),
            nn.ReLU(inplace=True),
            *([] if sizes.dropout is None else [nn.Dropout(sizes.dropout)]),
            nn.ReflectionPad2d(1),
            _block_conv(sizes, inner, trunk),
            make_norm(sizes.norm, trunk),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, trunk, H, W) -> the same shape."""
        return x + cast("Tensor", self.conv_block(x))


def _block_conv(sizes: ResNetSizes, channels_in: int, channels_out: int) -> nn.Module:
    return (
        SeparableConv(channels_in, channels_out)
        if sizes.separable
        else nn.Conv2d(channels_in, channels_out, 3, bias=has_bias(sizes.norm))
    )


class ResNetGenerator(nn.Module):
    """Stem, two halvings, residual blocks, two doublings, Tanh."""

    def __init__(self, sizes: ResNetSizes) -> None:
        super().__init__()
        self.sizes = sizes
        blocks: list[nn.Module] = [ResidualBlock(sizes, inner) for inner in sizes.inner]
        if sizes.deep:
            middle = sizes.blocks // 2
            blocks[middle:middle] = [Expansion(sizes.widths[2], sizes.norm) for _ in range(2)]
        self.model = nn.Sequential(
            *halving(sizes.channels_in, sizes.widths, sizes.norm, deep=sizes.deep),
            *blocks,
            *doubling(sizes.channels_out, sizes.widths, sizes.norm, deep=sizes.deep),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> (N, channels_out, H, W)."""
        return cast("Tensor", self.model(x))


def halving(channels_in: int, widths: Sequence[int], norm: Norm, *, deep: bool = False) -> list[nn.Module]:
    """Return the layers in front of the blocks, ten if not `deep`: a 7x7 stem and two strided convolutions."""
    bias = has_bias(norm)
    layers: list[nn.Module] = [
        nn.ReflectionPad2d(3),
        nn.Conv2d(channels_in, widths[0], 7, bias=bias),
        make_norm(norm, widths[0]),
        nn.ReLU(inplace=True),
    ]
    for width_in, width_out in pairwise(widths[:3]):
        layers += [
            nn.Conv2d(width_in, width_out, 3, stride=2, padding=1, bias=bias),
            make_norm(norm, width_out),
            nn.ReLU(inplace=True),
            *(deepening(width_out, norm) if deep else []),
        ]
    return layers


def doubling(channels_out: int, widths: Sequence[int], norm: Norm, *, deep: bool = False) -> list[nn.Module]:
    """Return the layers behind the blocks: two transposed convolutions, a 7x7 convolution with bias and Tanh."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths[2:]):
        layers += [
            nn.ConvTranspose2d(width_in, width_out, 3, stride=2, padding=1, output_padding=1, bias=has_bias(norm)),
            make_norm(norm, width_out),
            nn.ReLU(inplace=True),
            *(deepening(width_out, norm) if deep else []),
        ]
    return [*layers, nn.ReflectionPad2d(3), nn.Conv2d(widths[-1], channels_out, 7), nn.Tanh()]
