"""Generators of the zoo in the forms that papers publish, at a few channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gansdk.testing.blocks import ConvBlock, Form, Modulation, Norm, Padding, ResidualBlock, ShuffleUp, conv, norm_layer


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
