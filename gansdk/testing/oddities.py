"""Generators of the zoo with one thing each that a trace may get wrong."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from gansdk.testing.blocks import ConvBlock, conv


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the hook form is deprecated, but in every old checkpoint
        yield
