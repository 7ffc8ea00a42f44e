"""SRResNet, the generator of SRGAN (Ledig et al., CVPR 2017), in three published key layouts.

All take and give (N, channels, H, W) images in [0, 1]; the output is `scale` times as large.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gansdk_adapters.networks.sizes import Sizes, upsampling_factors


@dataclass(frozen=True, slots=True, kw_only=True)
class SRResNetSizes(Sizes):
    """Sizes of `SRResNet`."""

    per_channel_slopes: bool = False
    """Whether each PReLU has one slope per channel instead of a single one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SRGANSizes(Sizes):
    """Sizes of `SRGANGenerator`."""

    per_channel_slopes: bool = False
    """Whether each PReLU has one slope per channel instead of a single one."""
    trunk_norm: bool = False
    """Whether a BatchNorm (later releases) or a PReLU (earlier ones) follows the convolution behind the blocks."""


class SRResNet(nn.Module):
    """The network of the paper; keys as in Lornatang/SRGAN-PyTorch (conv1, trunk.N.rcb, conv2, upsampling, conv3)."""

    def __init__(self, sizes: SRResNetSizes) -> None:
        super().__init__()
        self.sizes = sizes
        width = sizes.width
        slopes = width if sizes.per_channel_slopes else 1
        self.conv1 = nn.Sequential(nn.Conv2d(sizes.channels, width, 9, padding=4), nn.PReLU(slopes))
        self.trunk = nn.Sequential(*(_ResidualConvBlock(width, slopes) for _ in range(sizes.blocks)))
        self.conv2 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.upsampling = nn.Sequential(
            *(_UpsampleBlock(width, factor, slopes) for factor in upsampling_factors(sizes.scale))
        )
        self.conv3 = nn.Conv2d(width, sizes.channels, 9, padding=4)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge `x`. The output is not clamped, so that gradients pass everywhere."""
        stem = self.conv1(x)
        enlarged: Tensor = self.conv3(self.upsampling(stem + self.conv2(self.trunk(stem))))
        return enlarged


class _ResidualConvBlock(nn.Module):
    def __init__(self, width: int, slopes: int) -> None:
        super().__init__()
        self.rcb = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(slopes),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.rcb(x)
        return y


class _UpsampleBlock(nn.Module):
    def __init__(self, width: int, factor: int, slopes: int) -> None:
        super().__init__()
        self.upsample_block = nn.Sequential(
            nn.Conv2d(width, width * factor**2, 3, padding=1), nn.PixelShuffle(factor), nn.PReLU(slopes)
        )

    def forward(self, x: Tensor) -> Tensor:
        enlarged: Tensor = self.upsample_block(x)
        return enlarged


class SRGANGenerator(nn.Module):
    """The generator of leftthomas/SRGAN, which ends in (tanh + 1) / 2.

    Keys: block1 head, block2 to block{n+1} residual, block{n+2} behind them, block{n+3} upsampling and tail.
    """

    def __init__(self, sizes: SRGANSizes) -> None:
        super().__init__()
        self.sizes = sizes
        width = sizes.width
        slopes = width if sizes.per_channel_slopes else 1
        self.block1 = nn.Sequential(nn.Conv2d(sizes.channels, width, 9, padding=4), nn.PReLU(slopes))
        for index in range(sizes.blocks):
            self.add_module(f"block{index + 2}", _NamedResidualBlock(width, slopes))
        behind = nn.BatchNorm2d(width) if sizes.trunk_norm else nn.PReLU(slopes)
        self.add_module(self.trunk_path, nn.Sequential(nn.Conv2d(width, width, 3, padding=1), behind))
        stages = [_NamedUpsampleBlock(width, factor, slopes) for factor in upsampling_factors(sizes.scale)]
        self.add_module(self.tail_path, nn.Sequential(*stages, nn.Conv2d(width, sizes.channels, 9, padding=4)))

    @property
    def trunk_path(self) -> str:
        """Name of the part behind the residual blocks."""
        return f"block{self.sizes.blocks + 2}"

    @property
    def tail_path(self) -> str:
        """Name of the part that enlarges and makes the image."""
        return f"block{self.sizes.blocks + 3}"

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge `x`; the output is strictly inside [0, 1]."""
        stem = self.block1(x)
        features = stem
        for index in range(self.sizes.blocks):
            features = self.get_submodule(f"block{index + 2}")(features)
        features = stem + self.get_submodule(self.trunk_path)(features)
        return (torch.tanh(self.get_submodule(self.tail_path)(features)) + 1) / 2


class _NamedResidualBlock(nn.Module):
    def __init__(self, width: int, slopes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(slopes)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))
        return y


class _NamedUpsampleBlock(nn.Module):
    def __init__(self, width: int, factor: int, slopes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width * factor**2, 3, padding=1)
        self.pixel_shuffle = nn.PixelShuffle(factor)
        self.prelu = nn.PReLU(slopes)

    def forward(self, x: Tensor) -> Tensor:
        enlarged: Tensor = self.prelu(self.pixel_shuffle(self.conv(x)))
        return enlarged


class MSRResNet(nn.Module):
    """SRResNet without norms, on top of a bilinear enlargement; keys as in BasicSR (conv_first, body, upconv1, ...)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        width = sizes.width
        self.conv_first = nn.Conv2d(sizes.channels, width, 3, padding=1)
        self.body = nn.Sequential(*(PlainResidualBlock(width) for _ in range(sizes.blocks)))
        for index, factor in enumerate(upsampling_factors(sizes.scale), start=1):
            self.add_module(f"upconv{index}", nn.Conv2d(width, width * factor**2, 3, padding=1))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, sizes.channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge `x`."""
        features = self.body(_leaky(self.conv_first(x)))
        for index, factor in enumerate(upsampling_factors(self.sizes.scale), start=1):
            features = _leaky(F.pixel_shuffle(self.get_submodule(f"upconv{index}")(features), factor))
        detail: Tensor = self.conv_last(_leaky(self.conv_hr(features)))
        return detail + F.interpolate(x, scale_factor=self.sizes.scale, mode="bilinear", align_corners=False)


class PlainResidualBlock(nn.Module):
    """x + res_scale * conv2(relu(conv1(x))): the block of BasicSR's networks without norms."""

    def __init__(self, width: int, res_scale: float = 1.0) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> the same shape."""
        y: Tensor = x + self.res_scale * self.conv2(F.relu(self.conv1(x)))
        return y


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)
