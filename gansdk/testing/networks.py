"""A zoo of tiny generators, one for every structure that channel groups have to understand.

Widths are 1 to 8 channels at 16x16 pixels, so a whole property runs on all of them in seconds. A bug fix in
`gansdk.channels` brings the network that showed it to `NETWORKS`; every property then covers it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm

from gansdk.testing.sequences import LearnedBasis, MultiHead, PositionAttention, Scanlines, Spelling
from gansdk.testing.spellings import ConvNeXtBlock, LinearGate, PairOfBranches, StoredMean

Norm = Literal["none", "batch", "instance", "instance-affine", "instance-tracked", "group"]
Padding = Literal["zeros", "reflect", "replicate"]
Form = Literal["separate", "chunk", "slice"]
Join = Literal["add", "multiply", "x-first", "x-last"]


# Building blocks. All keep to (N, C, H, W).


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


# Whole generators.


class ResNet(nn.Module):
    """The encoder, residual trunk, decoder generator of CycleGAN: x -> tanh image of the same size."""

    def __init__(
        self,
        width: int = 2,
        depth: int = 1,
        *,
        norm: Norm = "instance",
        padding: Padding = "reflect",
        block: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        make = block or (lambda channels: ResidualBlock(channels, norm=norm, padding=padding))
        self.stem = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), norm_layer(norm, width), nn.ReLU(inplace=True)
        )
        self.down = nn.Sequential(
            ConvBlock(width, 2 * width, norm=norm, stride=2), ConvBlock(2 * width, 4 * width, norm=norm, stride=2)
        )
        self.trunk = nn.Sequential(*(make(4 * width) for _ in range(depth)))
        self.up = nn.Sequential(
            nn.ConvTranspose2d(4 * width, 2 * width, 3, 2, 1, output_padding=1),
            norm_layer(norm, 2 * width),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(2 * width, width, 3, 2, 1, output_padding=1),
            norm_layer(norm, width),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.head(self.up(self.trunk(self.down(self.stem(x))))))


class _UNetLevel(nn.Module):
    def __init__(self, outer: int, inner: int, below: nn.Module | None, *, inputs: int | None, norm: Norm) -> None:
        super().__init__()
        self.outermost = inputs is not None
        down: list[nn.Module] = [nn.Conv2d(inputs or outer, inner, 4, 2, 1)]
        if not self.outermost:
            # In place on purpose: pix2pix's skip connection carries the activated features.
            down = [nn.LeakyReLU(0.2, inplace=True), *down, *([norm_layer(norm, inner)] if below else [])]
        up: list[nn.Module] = [nn.ReLU(inplace=True), nn.ConvTranspose2d(inner * (2 if below else 1), outer, 4, 2, 1)]
        up.append(nn.Tanh() if self.outermost else norm_layer(norm, outer))
        self.model = nn.Sequential(*down, *([below] if below else []), *up)

    def forward(self, x: Tensor) -> Tensor:
        y = cast("Tensor", self.model(x))
        return y if self.outermost else torch.cat([x, y], 1)


class UNet(nn.Module):
    """pix2pix's nested U-Net: `depth` halvings, concatenated skips, dropout in the innermost level."""

    def __init__(self, width: int = 2, depth: int = 3, *, norm: Norm = "batch", dropout: float = 0.0) -> None:
        super().__init__()
        level: nn.Module | None = None
        for index in range(depth - 1, 0, -1):
            level = _UNetLevel(
                width * min(2 ** (index - 1), 4), width * min(2**index, 4), level, inputs=None, norm=norm
            )
            level = nn.Sequential(level, nn.Dropout(dropout)) if dropout else level
        self.model = _UNetLevel(3, width, level, inputs=3, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.model(x))


class Spade(nn.Module):
    """GauGAN in small: a convolution of the shrunk label map, modulated residual blocks, upsampling between."""

    def __init__(
        self,
        width: int = 4,
        *,
        norm: Norm = "instance",
        form: Form = "separate",
    ) -> None:
        super().__init__()
        self.first = conv(5, width)
        self.before, self.inside = (
            Modulation(width, 5, norm=norm, form=form),
            Modulation(width // 2, 5, norm=norm, form=form),
        )
        self.conv_0, self.conv_1 = conv(width, width // 2), conv(width // 2, width)
        self.after = Modulation(width, 5, norm=norm, form=form)
        self.last = conv(width, 3)

    def forward(self, labels: Tensor) -> Tensor:
        x = self.first(F.interpolate(labels, scale_factor=0.25))
        h = self.conv_0(F.leaky_relu(self.before(x, labels), 0.2))
        x = x + self.conv_1(F.leaky_relu(self.inside(h, labels), 0.2))
        x = F.interpolate(x, scale_factor=4)
        return torch.tanh(self.last(F.leaky_relu(self.after(x, labels), 0.2)))


class SRResNet(nn.Module):
    """SRGAN's x2 generator: PReLU with one slope or one for each channel, head skip, PixelShuffle."""

    def __init__(self, width: int = 4, depth: int = 2, *, slopes: Literal["one", "each"] = "one") -> None:
        super().__init__()
        count = width if slopes == "each" else 1
        self.head = nn.Sequential(conv(3, width, 9), nn.PReLU(count))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                conv(width, width), nn.BatchNorm2d(width), nn.PReLU(count), conv(width, width), nn.BatchNorm2d(width)
            )
            for _ in range(depth)
        )
        self.trunk = nn.Sequential(conv(width, width), nn.BatchNorm2d(width))
        self.up = ShuffleUp(width, width, slopes=count)
        self.tail = conv(width, 3, 9)

    def forward(self, x: Tensor) -> Tensor:
        head = self.head(x)
        h = head
        for block in self.blocks:
            h = h + block(h)
        return (torch.tanh(self.tail(self.up(head + self.trunk(h)))) + 1) / 2


class EDSR(nn.Module):
    """x4 super-resolution with two shuffles, scaled residuals and a fixed mean shift kept as a buffer."""

    mean: Tensor

    def __init__(self, width: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.3]).view(1, 3, 1, 1))
        self.head = conv(3, width)
        self.body = nn.ModuleList(
            nn.Sequential(conv(width, width), nn.ReLU(inplace=True), conv(width, width)) for _ in range(depth)
        )
        self.body_tail = conv(width, width)
        self.tail = nn.Sequential(ShuffleUp(width, width), ShuffleUp(width, width), conv(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        head = self.head(x - self.mean)
        h = head
        for block in self.body:
            h = block(h).mul(0.1).add_(h)
        return cast("Tensor", self.tail(head + self.body_tail(h))) + self.mean


class ESPCN(nn.Module):
    """A shuffle that makes the output image itself: its convolution cannot shrink."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.body = ConvBlock(3, width)
        self.up = ShuffleUp(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.up(self.body(x)))


class VDSR(nn.Module):
    """A plain chain of convolutions without bias on luma, plus the input itself."""

    def __init__(self, width: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.input = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.ReLU(inplace=True))
                for _ in range(depth)
            )
        )
        self.output = nn.Conv2d(width, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.output(self.layers(F.relu(self.input(x))))) + x


class Trunk(nn.Module):
    """Convolution, the given parts in order, convolution: the frame around one structure under test.

    A part that is a `Modulation` also gets the image.
    """

    def __init__(self, *parts: nn.Module, width: int, outputs: int | None = None, channels: int = 3) -> None:
        super().__init__()
        self.stem = conv(channels, width)
        self.parts = nn.ModuleList(parts)
        self.head = conv(width if outputs is None else outputs, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for part in self.parts:
            h = part(h, x) if isinstance(part, Modulation) else part(h)
        return cast("Tensor", self.head(h))


class Latent(nn.Module):
    """A vector of noise through a linear layer, seen as 4x4 maps, to an image of 8x8: (N, Z) -> (N, 3, 8, 8)."""

    def __init__(self, width: int = 3, *, latent: int = 5) -> None:
        super().__init__()
        self.linear = nn.Linear(latent, width * 16)
        self.norm = nn.BatchNorm2d(width)
        self.up = nn.ConvTranspose2d(width, width, 4, 2, 1)
        self.head = conv(width, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.norm(self.linear(z).view(z.shape[0], -1, 4, 4)))
        return torch.tanh(self.head(F.relu(self.up(x))))


class Bottleneck(nn.Module):
    """An encoder flattened into a vector and unfolded again: linear layers at both ends of the code."""

    def __init__(self, width: int = 3, *, code: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, width, 4, 4)
        self.squeeze, self.unfold = nn.Linear(width * 16, code), nn.Linear(code, width * 16)
        self.head = conv(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        code = F.relu(self.squeeze(F.relu(self.encoder(x)).flatten(1)))
        return torch.tanh(self.head(F.interpolate(self.unfold(code).view(x.shape[0], -1, 4, 4), scale_factor=4)))


class FixedCut(nn.Module):
    """Channels cut at numbers written in the code, which only fit one width."""

    def __init__(self, spelling: Literal["slice", "split"] = "slice") -> None:
        super().__init__()
        self.spelling = spelling
        self.stem, self.head = conv(3, 4), conv(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        a, b = (h[:, :2], h[:, 2:]) if self.spelling == "slice" else torch.split(h, [2, 2], dim=1)
        return cast("Tensor", self.head(a * torch.sigmoid(b)))


class TwoOutputs(nn.Module):
    """An image and its mask in a dictionary, as attention-guided generators return."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.body = ConvBlock(3, width, norm="batch")
        self.image, self.mask = conv(width, 3), conv(width, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.body(x)
        return {"image": torch.tanh(self.image(h)), "mask": torch.sigmoid(self.mask(h))}


class ShapeControl(nn.Module):
    """Python control flow on the size of the input: pads odd sides and crops the result."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, width, 2, 2), nn.ConvTranspose2d(width, 3, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        if h % 2 or w % 2:
            x = F.pad(x, (0, w % 2, 0, h % 2), mode="replicate")
        features = self.down(x)
        if features.shape[1] > 1:
            features = F.relu(features)
        return cast("Tensor", self.up(features))[..., :h, :w]


class TiedDepthwise(nn.Module):
    """Two depthwise convolutions that own one weight between them."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem, self.head = conv(3, width), conv(width, 3)
        self.first = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.second = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.head(self.second(F.relu(self.first(self.stem(x))))))


class ClampedByBranch(nn.Module):
    """A branch bounded by another one: clamp reads both, channel by channel."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.value, self.bound, self.head = conv(3, width), conv(3, width), conv(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.head(torch.clamp(self.value(x), min=self.bound(x))))


class NormalisedWeights(nn.Module):
    """Spectral or weight norm on a hidden and on the last convolution, in the hook or the parametrised form."""

    def __init__(self, kind: Literal["spectral-hook", "spectral", "weight-hook", "weight"], width: int = 4) -> None:
        super().__init__()
        with _no_future_warning():
            wrappers: dict[str, Any] = {
                "spectral-hook": spectral_norm,
                "spectral": parametrizations.spectral_norm,
                "weight-hook": weight_norm,
                "weight": parametrizations.weight_norm,
            }
            wrap = wrappers[kind]
            self.stem = conv(3, width)
            self.body: nn.Module = wrap(conv(width, width))
            self.head: nn.Module = wrap(conv(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.head(F.relu(self.body(F.relu(self.stem(x))))))


class OverwrittenChannel(nn.Module):
    """A channel set to zero by its number: an assignment returns nothing, so it is easily overlooked."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.body, self.head = ConvBlock(3, width), conv(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).clone()
        h[:, 0] = 0.0
        return cast("Tensor", self.head(h))


class CrossedConcat(nn.Module):
    """x beside `extra` channels plus `extra` others beside x: channels are bound to others at an offset."""

    def __init__(self, width: int = 4, *, extra: int = 2) -> None:
        super().__init__()
        self.behind, self.before = conv(width, extra), conv(width, extra)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.behind(x)], 1) + torch.cat([self.before(x), x], 1)


class FlowWarp(nn.Module):
    """Features moved along a predicted flow, whose two channels are coordinates."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.body, self.flow, self.head = conv(3, width), conv(3, 2), conv(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        grid = torch.tanh(self.flow(x)).permute(0, 2, 3, 1)
        return cast("Tensor", self.head(F.grid_sample(self.body(x), grid, align_corners=False)))


class ShapedLikeInput(nn.Module):
    """A convolution over flattened pixels, its result given the shape of another tensor of equal width."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem, self.head = conv(3, width), conv(width, 3)
        self.line = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return cast("Tensor", self.head(F.relu(self.line(h.flatten(2)).view(h.shape))))


class ComputedWeight(nn.Module):
    """Weight standardisation inside the forward pass, as in modulated and standardised convolutions."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem, self.body, self.head = conv(3, width), conv(width, width), conv(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.body.weight - self.body.weight.mean((1, 2, 3), keepdim=True)
        return cast("Tensor", self.head(F.relu(F.conv2d(self.stem(x), weight, self.body.bias, padding=1))))


@contextmanager
def _no_future_warning() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the hook form is deprecated, but in every old checkpoint
        yield


# Making them.


def build(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module in eval mode with random weights and statistics that follow from the seed alone."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)  # the layers initialise themselves from the global generator
        module = make()
    return randomise(module, seed).eval()


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Give `module`, in place, the weights of a trained network: nothing is 0 or 1 that could be otherwise.

    A fresh norm multiplies by one and adds zero, a fresh PReLU has one slope for all channels: with them a
    channel taken from the wrong place often changes nothing, and a test of carving cannot fail.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            for name, tensor in (*part._parameters.items(), *part._buffers.items()):
                if tensor is not None and tensor.is_floating_point():
                    tensor.copy_(_values(part, name, tensor, rng))
        for part in module.modules():
            _settle(part)
    return module


def _values(part: nn.Module, name: str, tensor: Tensor, rng: torch.Generator) -> Tensor:
    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(tensor.shape, generator=rng)

    is_norm = isinstance(part, (_NormBase, nn.GroupNorm, nn.LayerNorm))
    if name == "running_var" or (is_norm and name == "weight"):
        return uniform(0.5, 1.5)
    if is_norm or name == "bias":
        return uniform(-0.5, 0.5)
    if isinstance(part, nn.PReLU):
        return uniform(-0.5, 0.8)
    if tensor.ndim > 1 and tensor.numel() > max(tensor.shape):
        return torch.randn(tensor.shape, generator=rng) / math.sqrt(tensor.numel() / tensor.shape[0])
    if name in ("weight_u", "weight_v", "_u", "_v"):
        return F.normalize(torch.randn(tensor.shape, generator=rng), dim=0)
    return uniform(0.5, 1.5)


def _settle(part: nn.Module) -> None:
    """Let the power iteration of spectral norm find the new weight, so that outputs do not saturate."""
    training = part.training
    part.train()
    for hook in part._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm):
            for _ in range(10):
                hook(part, None)
    if parametrize.is_parametrized(part):
        for _ in range(10):
            for name in part.parametrizations:  # type: ignore[union-attr]
                getattr(part, str(name))
    part.train(training)


# The zoo.


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One generator of the zoo and what must be found out about it."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (1, 3, 16, 16)
    """Of the example input, batch first."""
    multiple_of: int | None = 2
    """Legal sides of the input are multiples of this, from 8 up; None if only one size is legal."""
    prunable: tuple[str, ...] = ()
    """Paths of layers of whose output channels some must be removable."""
    frozen: tuple[str, ...] = ()
    """Paths of layers of whose output channels none may be removed, besides those that make the output."""

    def build(self, seed: int = 0) -> nn.Module:
        """The module in eval mode, with random weights from the seed."""
        return build(self.make, seed)

    def example(self, seed: int = 0, *, batch: int = 1, size: tuple[int, int] | None = None) -> Tensor:
        """A standard normal input of `batch` images, of `size` (H, W) if that is given."""
        rest = self.shape[1:] if size is None else (self.shape[1], *size)
        return torch.randn(batch, *rest, generator=torch.Generator().manual_seed(seed + 1))


def _network(name: str, make: Callable[[], nn.Module], **facts: Any) -> Network:
    return Network(name=name, make=make, **facts)


def _pair(spelling: Any) -> Network:
    return _network(
        f"pair-{spelling}",
        lambda: Trunk(PairOfBranches(4, 3, spelling), width=4, outputs=3),
        prunable=("stem", "parts.0.left", "parts.0.right"),
    )


def _attention(spelling: Spelling) -> Network:
    return _network(
        f"attention-{spelling}",
        lambda: Trunk(PositionAttention(4, spelling), ConvBlock(4, 4), width=4),
        prunable=("parts.1.0",),
        frozen=("parts.0.project",),
    )


_RESNET = ("stem.1", "down.0.0", "down.1.0", "trunk.0.body.0", "up.0", "up.3")

NETWORKS: tuple[Network, ...] = (
    _network("stored-mean", lambda: Trunk(StoredMean(), ConvBlock(4, 4), width=4), prunable=("stem", "parts.1.0")),
    _network("resnet-in", lambda: ResNet(), multiple_of=4, prunable=_RESNET, frozen=("head.1",)),
    _network("resnet-in-affine", lambda: ResNet(norm="instance-affine"), multiple_of=4, prunable=_RESNET),
    _network("resnet-in-tracked", lambda: ResNet(norm="instance-tracked"), multiple_of=4, prunable=_RESNET),
    _network("resnet-bn-zero", lambda: ResNet(norm="batch", padding="zeros"), multiple_of=4, prunable=_RESNET),
    _network("resnet-bn-replicate", lambda: ResNet(norm="batch", padding="replicate"), multiple_of=4, prunable=_RESNET),
    _network("resnet-one-channel", lambda: ResNet(1, 1, norm="instance-affine"), multiple_of=4),
    _network("unet-bn", lambda: UNet(), multiple_of=8, prunable=("model.model.0", "model.model.1.model.1")),
    _network("unet-in-dropout", lambda: UNet(norm="instance", dropout=0.5), multiple_of=16),
    _network(
        "mobile-resnet",
        lambda: ResNet(block=Separable),
        multiple_of=4,
        prunable=("stem.1", "trunk.0.first.0", "trunk.0.first.2", "trunk.0.second.2"),
    ),
    _network(
        "grouped",
        lambda: Trunk(GroupedBlock(4), GroupedBlock(4), width=4),
        prunable=("stem", "parts.0.grouped", "parts.1.mix"),
        frozen=("head",),
    ),
    _network(
        "grouped-widening",
        lambda: Trunk(nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.ReLU(), width=4, outputs=8),
        prunable=("stem", "parts.0"),
    ),
    _network(
        "grouped-transposed",
        lambda: Trunk(
            nn.ConvTranspose2d(4, 8, 4, 2, 1, groups=2), nn.ConvTranspose2d(8, 8, 2, 2, groups=8), width=4, outputs=8
        ),
        prunable=("stem",),
    ),
    _network(
        "depthwise-multiplier",
        lambda: Trunk(SeparableConv(3, 4, multiplier=2, norm="instance-affine"), width=3, outputs=4),
        prunable=("stem", "parts.0.0", "parts.0.2"),
    ),
    _network(
        "inception",
        lambda: ResNet(block=InceptionBlock, norm="instance-affine"),
        multiple_of=4,
        prunable=("stem.1", "trunk.0.dense.1.0", "trunk.0.depthwise.2.0", "trunk.0.depthwise.2.3"),
    ),
    _network(
        "spade-in",
        lambda: Spade(),
        shape=(1, 5, 16, 16),
        multiple_of=4,
        prunable=("first", "before.shared.0", "before.gamma", "before.beta", "conv_0", "conv_1"),
        frozen=("last",),
    ),
    _network(
        "spade-bn-chunk",
        lambda: Spade(norm="batch", form="chunk"),
        shape=(1, 5, 16, 16),
        multiple_of=4,
        prunable=("first", "before.both", "conv_0", "conv_1"),
    ),
    _network(
        "spade-slice",
        lambda: Spade(form="slice"),
        shape=(1, 5, 16, 16),
        multiple_of=4,
    ),
    _network("srresnet-one-slope", lambda: SRResNet(), prunable=("head.0", "blocks.0.0", "trunk.0", "up.conv")),
    _network(
        "srresnet-slopes",
        lambda: SRResNet(slopes="each"),
        prunable=("head.0", "blocks.0.0", "trunk.0", "up.conv"),
        frozen=("tail",),
    ),
    _network(
        "unshuffle",
        lambda: Trunk(UnshuffleDown(3, 4), ShuffleUp(4, 2), width=3, outputs=2),
        prunable=("stem", "parts.0.conv", "parts.1.conv"),
    ),
    _network(
        "unshuffled-input",
        lambda: nn.Sequential(UnshuffleDown(3, 4), nn.ReLU(), ShuffleUp(4, 2), conv(2, 3)),
        prunable=("0.conv", "2.conv"),
    ),
    _network("edsr", lambda: EDSR(), prunable=("head", "body.0.0", "tail.0.conv", "tail.1.conv"), frozen=("tail.2",)),
    _network("espcn", lambda: ESPCN(), prunable=("body.0",), frozen=("up.conv",)),
    _network("vdsr", lambda: VDSR(), shape=(1, 1, 16, 16), multiple_of=1, prunable=("input", "layers.0.0")),
    _network(
        "rrdb",
        lambda: Trunk(DenseBlock(4), DenseBlock(4, layers=3), width=4),
        multiple_of=1,
        prunable=("stem", "parts.0.layers.0", "parts.1.layers.2", "parts.1.fuse"),
    ),
    _network(
        "group-norm",
        lambda: Trunk(nn.GroupNorm(2, 6), nn.SiLU(), ConvBlock(6, 8, norm="group"), width=6, outputs=8),
        multiple_of=1,
        prunable=("stem", "parts.2.0"),
    ),
    _network("layer-norm", lambda: Trunk(nn.GroupNorm(1, 4), ConvBlock(4, 3), width=4, outputs=3), frozen=("stem",)),
    _network("latent", lambda: Latent(), shape=(1, 5), multiple_of=None, prunable=("linear", "up"), frozen=("head",)),
    _network("bottleneck", lambda: Bottleneck(), multiple_of=None, prunable=("encoder", "squeeze", "unfold")),
    _network("shared-conv", lambda: Trunk(SharedConv(4), width=4), multiple_of=1, prunable=("stem", "parts.0.conv")),
    _network("spectral-norm-hook", lambda: NormalisedWeights("spectral-hook"), prunable=("stem", "body")),
    _network("spectral-norm", lambda: NormalisedWeights("spectral"), prunable=("stem", "body"), frozen=("head",)),
    _network("weight-norm-hook", lambda: NormalisedWeights("weight-hook"), prunable=("stem", "body")),
    _network("weight-norm", lambda: NormalisedWeights("weight"), prunable=("stem", "body"), frozen=("head",)),
    _network(
        "attention",
        lambda: Trunk(SelfAttention(4), ConvBlock(4, 4), width=4),
        prunable=("parts.1.0",),
        frozen=("parts.0.query", "parts.0.key", "parts.0.value"),
    ),
    *(_attention(spelling) for spelling in get_args(Spelling)),
    _network("attention-multi-head", lambda: Trunk(MultiHead(4), ConvBlock(4, 4), width=4), prunable=("parts.1.0",)),
    _network("recurrent-lstm", lambda: Trunk(Scanlines(4), ConvBlock(4, 4), width=4), prunable=("parts.1.0",)),
    _network("recurrent-gru", lambda: Trunk(Scanlines(4, nn.GRU), ConvBlock(4, 4), width=4), prunable=("parts.1.0",)),
    _network("learned-basis", lambda: Trunk(LearnedBasis(4), ConvBlock(4, 4), width=4), prunable=("parts.1.0",)),
    _network("squeeze-excite", lambda: Trunk(SqueezeExcite(4), ConvBlock(4, 3), width=4, outputs=3)),
    _network("squeeze-excite-conv", lambda: Trunk(SqueezeExcite(4, spelling="conv"), width=4), prunable=("stem",)),
    _network("fixed-slice", lambda: FixedCut("slice"), frozen=("stem",)),
    _network("fixed-split", lambda: FixedCut("split"), frozen=("stem",)),
    _network("cumulative-sum", lambda: Trunk(RunningSum(), width=4), frozen=("stem",)),
    _network("custom-function", lambda: Trunk(CustomFunction(), width=4), frozen=("stem",)),
    _network("pixel-norm", lambda: Trunk(PixelNorm(), ConvBlock(4, 4), width=4), frozen=("stem",)),
    _network("channel-shuffle", lambda: Trunk(ChannelShuffle(), width=4), frozen=("stem",)),
    _network("neighbour-pool", lambda: Trunk(NeighbourPool(), width=6), frozen=("stem",)),
    _network("resize", lambda: Trunk(Resize(), Resize("nearest"), width=3), prunable=("stem",)),
    _network("product", lambda: Trunk(ProductOfBranches(4, 3), width=4, outputs=3), prunable=("stem", "parts.0.left")),
    _network("gated", lambda: Trunk(GatedUnit(4, 3), width=4, outputs=3), prunable=("stem", "parts.0.conv")),
    _network("channel-scale", lambda: Trunk(ChannelScale(4), width=4), multiple_of=1, prunable=("stem",)),
    _network("channels-last", lambda: Trunk(ChannelsLast(4, hidden=5), width=4), prunable=("stem", "parts.0.rise")),
    _network("two-outputs", lambda: TwoOutputs(), prunable=("body.0",), frozen=("image", "mask")),
    _network("dropout", lambda: Trunk(nn.Dropout(0.5), nn.Dropout2d(0.5), width=4), prunable=("stem",)),
    _network("shape-control", lambda: ShapeControl(), multiple_of=1, prunable=("down",), frozen=("up",)),
    _network("tied-depthwise", lambda: TiedDepthwise(), multiple_of=1, prunable=("stem", "first")),
    *(_pair(spelling) for spelling in ("max", "min", "stack", "stack-last", "view-as")),
    _network("glu", lambda: Trunk(LinearGate(4, 3), width=4, outputs=3), prunable=("stem", "parts.0.conv")),
    _network(
        "glu-of-pixels", lambda: Trunk(LinearGate(4, 3, along=-1), width=4, outputs=3), prunable=("parts.0.conv",)
    ),
    _network("convnext", lambda: Trunk(ConvNeXtBlock(4), width=4), prunable=("parts.0.rise",), frozen=("stem",)),
    _network("clamped", lambda: ClampedByBranch(), multiple_of=1),
    _network("overwritten-channel", lambda: OverwrittenChannel(), multiple_of=1, frozen=("body.0",)),
    _network("flow-warp", lambda: FlowWarp(), multiple_of=1, prunable=("body",), frozen=("flow",)),
    _network("shaped-like-input", lambda: ShapedLikeInput(), multiple_of=1),
    _network("computed-weight", lambda: ComputedWeight(), multiple_of=1, frozen=("stem",)),
    _network("crossed-concat", lambda: Trunk(CrossedConcat(4, extra=4), width=4, outputs=8), prunable=("stem",)),
    _network("offset-concat", lambda: Trunk(CrossedConcat(5), width=5, outputs=7), prunable=("stem",)),
    _network("skip-first", lambda: Trunk(SkipConcat(3, 4), width=3, outputs=6), prunable=("stem", "parts.0.down")),
    _network("skip-last", lambda: Trunk(SkipConcat(3, 4, first=False), width=3, outputs=6), prunable=("stem",)),
)


def network(name: str) -> Network:
    """The zoo's entry of that name."""
    return next(entry for entry in NETWORKS if entry.name == name)
