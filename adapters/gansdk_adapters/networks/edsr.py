"""EDSR (Lim et al., CVPR workshops 2017) in two published key layouts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gansdk_adapters.networks.sizes import Sizes, upsampling_factors
from gansdk_adapters.networks.srresnet import PlainResidualBlock

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean colour of DIV2K in [0, 1], as both code bases write it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EDSRSizes(Sizes):
    """Sizes of both EDSR layouts."""

    res_scale: float = 1.0
    """Factor of every residual branch."""
    peak: float = 255.0
    """The weights work on images in [0, peak]."""


def published_res_scale(width: int) -> float:
    """Return the residual factor the authors use at that width, since weights do not tell: 0.1 from 256 on, else 1."""
    return 0.1 if width >= 256 else 1.0


class EDSR(nn.Module):
    """EDSR of sanghyun-son/EDSR-PyTorch: (N, channels, H, W) in [0, peak] -> `scale` times as large, in [0, peak].

    Keys: sub_mean, head.0, body.N.body.0 and .2, body.{n} behind the blocks, tail.0 (upsampling), tail.1, add_mean.
    """

    def __init__(self, sizes: EDSRSizes) -> None:
        super().__init__()
        self.sizes = sizes
        width = sizes.width
        self.sub_mean = _MeanShift(-sizes.peak * _mean(sizes.channels))
        self.head = nn.Sequential(nn.Conv2d(sizes.channels, width, 3, padding=1))
        blocks = [_NestedResidualBlock(width, sizes.res_scale) for _ in range(sizes.blocks)]
        self.body = nn.Sequential(*blocks, nn.Conv2d(width, width, 3, padding=1))
        self.tail = nn.Sequential(
            nn.Sequential(*_upsampling(width, sizes.scale)), nn.Conv2d(width, sizes.channels, 3, padding=1)
        )
        self.add_mean = _MeanShift(sizes.peak * _mean(sizes.channels))

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge `x`."""
        stem = self.head(self.sub_mean(x))
        enlarged: Tensor = self.add_mean(self.tail(stem + self.body(stem)))
        return enlarged


class EDSRBasicSR(nn.Module):
    """EDSR of BasicSR: (N, channels, H, W) in [0, 1] -> `scale` times as large, in [0, 1].

    The same layers as `EDSR`, with the scaling to [0, peak] inside. Keys: conv_first, body.N.conv1 and .conv2,
    conv_after_body, upsample.N, conv_last.
    """

    mean: Tensor

    def __init__(self, sizes: EDSRSizes) -> None:
        super().__init__()
        self.sizes = sizes
        width = sizes.width
        self.register_buffer("mean", _mean(sizes.channels).view(1, -1, 1, 1), persistent=False)
        self.conv_first = nn.Conv2d(sizes.channels, width, 3, padding=1)
        self.body = nn.Sequential(*(PlainResidualBlock(width, sizes.res_scale) for _ in range(sizes.blocks)))
        self.conv_after_body = nn.Conv2d(width, width, 3, padding=1)
        self.upsample = nn.Sequential(*_upsampling(width, sizes.scale))
        self.conv_last = nn.Conv2d(width, sizes.channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge `x`."""
        stem = self.conv_first((x - self.mean) * self.sizes.peak)
        enlarged: Tensor = self.conv_last(self.upsample(stem + self.conv_after_body(self.body(stem))))
        return enlarged / self.sizes.peak + self.mean


class _NestedResidualBlock(nn.Module):
    def __init__(self, width: int, res_scale: float) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.res_scale * self.body(x)
        return y


class _MeanShift(nn.Module):
    """Adds or removes the mean colour. A constant, so buffers: no parameters, no multiplications."""

    weight: Tensor
    bias: Tensor

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        # Published as a frozen 1x1 convolution with a diagonal weight, 1 / std and so always the identity. Applied
        # elementwise here, because a convolution would let a pruner drop a colour.
        self.register_buffer("weight", torch.eye(len(shift)).view(len(shift), -1, 1, 1))
        self.register_buffer("bias", shift)

    def forward(self, x: Tensor) -> Tensor:
        shifted: Tensor = x * self.weight.sum((1, 2, 3)).view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return shifted


def _mean(channels: int) -> Tensor:
    return torch.tensor(DIV2K_MEAN) if channels == 3 else torch.zeros(channels)


def _upsampling(width: int, scale: int) -> Iterator[nn.Module]:
    for factor in upsampling_factors(scale):
        yield nn.Conv2d(width, width * factor**2, 3, padding=1)
        yield nn.PixelShuffle(factor)
