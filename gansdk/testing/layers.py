"""Layers of the zoo that scale, mix or rearrange channels. All keep to (N, C, H, W)."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gansdk.testing.blocks import conv

Join = Literal["add", "multiply", "x-first", "x-last"]


class SqueezeExcite(nn.Module):
    """Channels scaled by a gate computed from their means, with linear layers or 1x1 convolutions."""

    def __init__(self, channels: int, *, hidden: int = 5, spelling: Literal["linear", "conv"] = "linear") -> None:
        super().__init__()
        self.spelling = spelling
        if spelling == "linear":
            self.squeeze: nn.Module = nn.Linear(channels, hidden)
            self.excite: nn.Module = nn.Linear(hidden, channels)
        else:
            self.squeeze, self.excite = conv(channels, hidden, 1), conv(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.spelling == "conv":
            return x * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        n, c = x.shape[:2]
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * gate.view(n, c, 1, 1)


class SelfAttention(nn.Module):
    """SAGAN's attention over positions; the matrix products freeze queries, keys and values."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key = conv(channels, 2, 1), conv(channels, 2, 1)
        self.value = conv(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        weights = torch.softmax(self.query(x).flatten(2).transpose(1, 2) @ self.key(x).flatten(2), dim=-1)
        values = self.value(x).flatten(2) @ weights.transpose(1, 2)
        return x + cast("Tensor", self.gamma * values.view(n, -1, h, w))


class ChannelScale(nn.Module):
    """x times a learned scale plus a learned shift, one for each channel; shapes (1, C, 1, 1) and (C,)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift.view(1, -1, 1, 1)


class GatedUnit(nn.Module):
    """GLU: half of a convolution's channels gate the other half."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.conv(x).chunk(2, dim=1)
        return cast("Tensor", value * torch.sigmoid(gate))


class ProductOfBranches(nn.Module):
    """Two convolutions of x, multiplied."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.left, self.right = conv(inputs, outputs), conv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.left(x) * torch.tanh(self.right(x)))


class ChannelsLast(nn.Module):
    """Two linear layers over channels, as in ConvNeXt: permuted to (N, H, W, C) and back."""

    def __init__(self, channels: int, *, hidden: int) -> None:
        super().__init__()
        self.rise, self.fall = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.fall(F.gelu(self.rise(x.permute(0, 2, 3, 1))))
        return x + cast("Tensor", mixed).permute(0, 3, 1, 2)


class SharedConv(nn.Module):
    """One convolution applied `times` times, as in DRRN."""

    def __init__(self, channels: int, *, times: int = 3) -> None:
        super().__init__()
        self.conv, self.times = conv(channels, channels), times

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for _ in range(self.times):
            h = x + F.relu(self.conv(h))
        return h


class Branch(nn.Module):
    """`body` around which x is carried: added, multiplied, or concatenated in front of or behind it."""

    def __init__(self, body: nn.Module, join: Join = "add") -> None:
        super().__init__()
        self.body, self.join = body, join

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        match self.join:
            case "add":
                return x + y
            case "multiply":
                return x * torch.tanh(y)
            case "x-first":
                return torch.cat([x, y], 1)
            case "x-last":
                return torch.cat([y, x], 1)


class Resize(nn.Module):
    """Pool to half the size, pad and crop by one pixel, resize to the size x came with."""

    def __init__(self, mode: Literal["nearest", "bilinear", "bicubic"] = "bilinear") -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        small = F.max_pool2d(F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1), 2)
        return F.interpolate(F.pad(small, (0, 1, 1, 0))[:, :, 1:, :-1], size=x.shape[2:], mode=self.mode)


class RunningSum(nn.Module):
    """Cumulative sum over channels: every channel reads those before it, so none may be removed."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, 1) / x.shape[1]


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.flip(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.flip(1)


class CustomFunction(nn.Module):
    """An autograd function that reverses the channels: what it does is out of sight."""

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", _Reverse.apply(x))


class PixelNorm(nn.Module):
    """Division by the root mean square over channels, as in progressive GANs: all channels matter to each."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class ChannelShuffle(nn.Module):
    """ShuffleNet's interleaving of two halves."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class NeighbourPool(nn.Module):
    """Average over three neighbouring channels: a pooling whose window runs over channels, not pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool3d(x.unsqueeze(1), (3, 1, 1), stride=1, padding=(1, 0, 0)).squeeze(1)
