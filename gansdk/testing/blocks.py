"""Building blocks of the zoo that the published generators are made of. All keep to (N, C, H, W)."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["none", "batch", "instance", "instance-affine", "instance-tracked", "group"]
Padding = Literal["zeros", "reflect", "replicate"]
Form = Literal["separate", "chunk", "slice"]


def norm_layer(kind: Norm, channels: int) -> nn.Module:
    """A normalisation of `channels` channels; "group" puts two channels in a group where they divide evenly."""
    match kind:
        case "none":
            return nn.Identity()
        case "batch":
            return nn.BatchNorm2d(channels)
        case "instance":
            return nn.InstanceNorm2d(channels)
        case "instance-affine":
            return nn.InstanceNorm2d(channels, affine=True)
        case "instance-tracked":
            return nn.InstanceNorm2d(channels, affine=True, track_running_stats=True)
        case "group":
            return nn.GroupNorm(channels // 2 if channels % 2 == 0 else channels, channels)


def conv(inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, padding: Padding = "zeros") -> nn.Conv2d:
    """A convolution that keeps the size at stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, padding_mode=padding)


class ConvBlock(nn.Sequential):
    """Convolution, norm, in-place ReLU: (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""

    def __init__(
        self, inputs: int, outputs: int, *, norm: Norm = "none", stride: int = 1, padding: Padding = "zeros"
    ) -> None:
        super().__init__(
            conv(inputs, outputs, stride=stride, padding=padding), norm_layer(norm, outputs), nn.ReLU(inplace=True)
        )


class ResidualBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), as in CycleGAN."""

    def __init__(self, channels: int, *, norm: Norm = "instance", padding: Padding = "zeros") -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(channels, channels, padding=padding),
            norm_layer(norm, channels),
            nn.ReLU(inplace=True),
            conv(channels, channels, padding=padding),
            norm_layer(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + cast("Tensor", self.body(x))


class SeparableConv(nn.Sequential):
    """Depthwise convolution with `multiplier` outputs for every input, norm, 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, *, multiplier: int = 1, norm: Norm = "instance") -> None:
        middle = inputs * multiplier
        super().__init__(
            nn.Conv2d(inputs, middle, 3, padding=1, groups=inputs), norm_layer(norm, middle), conv(middle, outputs, 1)
        )


class Separable(nn.Module):
    """A residual block of two depthwise-separable convolutions, as in GAN Compression's MobileResNet."""

    def __init__(self, channels: int, *, norm: Norm = "instance") -> None:
        super().__init__()
        self.first = SeparableConv(channels, channels, norm=norm)
        self.norm = norm_layer(norm, channels)
        self.second = SeparableConv(channels, channels, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast("Tensor", self.second(F.relu(self.norm(self.first(x)))))


class GroupedBlock(nn.Module):
    """A grouped convolution (1 < groups < channels) in a residual branch."""

    def __init__(self, channels: int, *, groups: int = 2) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
        self.mix = conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast("Tensor", self.mix(F.relu(self.grouped(x))))


class InceptionBlock(nn.Module):
    """Six branches of private width, three dense and three depthwise, summed onto the input, as in CAT.

    Branches may be None; without any, the block gives its input back.
    """

    def __init__(self, channels: int, *, middle: int = 2, norm: Norm = "instance-affine") -> None:
        super().__init__()
        self.dense = nn.ModuleList(
            nn.Sequential(
                conv(channels, middle, k), norm_layer(norm, middle), nn.ReLU(inplace=True), conv(middle, channels, 1)
            )
            for k in (1, 3, 5)
        )
        self.depthwise = nn.ModuleList(
            nn.Sequential(
                conv(channels, middle, 1),
                norm_layer(norm, middle),
                nn.ReLU(inplace=True),
                nn.Conv2d(middle, middle, k, padding=k // 2, groups=middle),
                norm_layer(norm, middle),
                nn.ReLU(inplace=True),
                conv(middle, channels, 1),
            )
            for k in (1, 3, 5)
        )
        self.norm = norm_layer(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        branches = [branch(x) for branch in (*self.dense, *self.depthwise) if branch is not None]
        return x + cast("Tensor", self.norm(sum(branches))) if branches else x

    @staticmethod
    def emptiable(path: str) -> dict[str, tuple[str, ...]]:
        """The branches of the block at `path`, and its norm once all are gone, as `Adapter.branches` names them."""
        layers = {f"{path}.{kind}.{i}": f"{path}.{kind}.{i}.0" for kind in ("dense", "depthwise") for i in range(3)}
        return {**{branch: (layer,) for branch, layer in layers.items()}, f"{path}.norm": tuple(layers.values())}


class Modulation(nn.Module):
    """SPADE: norm(x) * (1 + gamma) + beta, both computed from an image resized to x.

    `form="separate"` has one convolution for each; `"chunk"` and `"slice"` cut one of twice the width.
    """

    def __init__(
        self,
        channels: int,
        image_channels: int,
        *,
        hidden: int = 3,
        norm: Norm = "instance",
        form: Form = "separate",
    ) -> None:
        super().__init__()
        self.norm = norm_layer(norm, channels)
        self.shared = ConvBlock(image_channels, hidden)
        self.form = form
        if form == "separate":
            self.gamma, self.beta = conv(hidden, channels), conv(hidden, channels)
        else:
            self.both = conv(hidden, 2 * channels)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        hidden = self.shared(F.interpolate(image, size=x.shape[2:], mode="nearest"))
        if self.form == "separate":
            gamma, beta = self.gamma(hidden), self.beta(hidden)
        elif self.form == "chunk":
            gamma, beta = self.both(hidden).chunk(2, dim=1)
        else:
            both = self.both(hidden)
            half = both.shape[1] // 2
            gamma, beta = both[:, :half], both[:, half:]
        return cast("Tensor", self.norm(x) * (1 + gamma) + beta)


class ShuffleUp(nn.Module):
    """Convolution to `factor`^2 times the channels, PixelShuffle(factor)."""

    def __init__(self, inputs: int, outputs: int, *, factor: int = 2, slopes: int = 0) -> None:
        super().__init__()
        self.conv = conv(inputs, outputs * factor**2)
        self.shuffle = nn.PixelShuffle(factor)
        self.act: nn.Module = nn.PReLU(slopes) if slopes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.act(self.shuffle(self.conv(x))))


class UnshuffleDown(nn.Module):
    """PixelUnshuffle(2), convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.unshuffle = nn.PixelUnshuffle(2)
        self.conv = conv(inputs * 4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.conv(self.unshuffle(x)))


class DenseBlock(nn.Module):
    """Every convolution reads all that came before, concatenated; the last fuses into the residual, as in RRDB."""

    def __init__(self, channels: int, *, growth: int = 2, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv(channels + i * growth, growth) for i in range(layers))
        self.fuse = conv(channels + layers * growth, channels)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(F.leaky_relu(layer(torch.cat(features, 1)), 0.2))
        return x + 0.5 * cast("Tensor", self.fuse(torch.cat(features, 1)))


class SkipConcat(nn.Module):
    """Concatenation of x with what `inner` makes of it at half the size; `first` says which half x is."""

    def __init__(self, channels: int, inner: int, *, norm: Norm = "batch", first: bool = True) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, inner, 4, 2, 1)
        self.norm = norm_layer(norm, inner)
        self.up = nn.ConvTranspose2d(inner, channels, 4, 2, 1)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        inner = self.up(F.leaky_relu(self.norm(self.down(x)), 0.2))
        return torch.cat([x, inner] if self.first else [inner, x], 1)
