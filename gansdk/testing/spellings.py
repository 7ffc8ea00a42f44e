"""Blocks for the zoo that say a common thing in a less common way. All keep (N, C, H, W)."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PairOfBranches(nn.Module):
    """Two branches joined position by position: the larger, the smaller, stacked and averaged, or given a shape."""

    def __init__(
        self, channels: int, outputs: int, spelling: Literal["max", "min", "stack", "stack-last", "view-as"]
    ) -> None:
        super().__init__()
        self.spelling = spelling
        self.left = nn.Conv2d(channels, outputs, 3, padding=1)
        self.right = nn.Conv2d(channels, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        left: Tensor = self.left(x)
        right: Tensor = self.right(x)
        match self.spelling:
            case "max":
                return torch.max(left, right)
            case "min":
                return left.min(other=right)
            case "stack":
                return torch.stack([left, right], dim=1).mean(1)
            case "stack-last":
                return torch.stack([left, right], dim=-1)[..., 0] * right
            case "view-as":
                return left + right.flatten(2).exp().view_as(left)


class LinearGate(nn.Module):
    """Twice the channels, one half gating the other through PyTorch's GLU; along the width, nothing is joined."""

    def __init__(self, channels: int, outputs: int, *, along: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * outputs if along == 1 else outputs, 3, padding=1)
        self.gate = nn.GLU(along)
        self.along = along

    def forward(self, x: Tensor) -> Tensor:
        gated = cast("Tensor", self.gate(self.conv(x)))
        return gated if self.along == 1 else F.interpolate(gated, size=x.shape[2:])


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, layer norm over permuted channels, an inverted bottleneck and a scale for each channel.

    The norm mixes all channels, so the residual's are frozen; the bottleneck's are not.
    """

    def __init__(self, channels: int, *, hidden: int = 6) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.rise, self.fall = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * cast("Tensor", self.fall(F.gelu(self.rise(y))))).permute(0, 3, 1, 2)


class StoredMean(nn.Module):
    """Keeps a constant outside its state dict and, when run, moves it to where its input is, as BasicSR does."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.full((1, 1, 1, 1), 0.4)

    def forward(self, x: Tensor) -> Tensor:
        self.mean = self.mean.type_as(x)
        return x - self.mean
