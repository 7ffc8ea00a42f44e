"""The data that crosses every boundary: what a generator reads and writes, batches, observations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Literal

import torch
from torch import Tensor

from gansdk.errors import ContractError
from gansdk.text import quoted
from gansdk.validation.signatures import fitting

Route = str
"""One direction of a generator: "main" for most; "A2B" and "B2A" for a CycleGAN pair."""

MAIN: Route = "main"

Way = Literal["forward", "backward"]
"""Where a route goes: from a source's inputs to its targets, or from its targets to its inputs."""

MOST_CHANNELS = 2**12
MOST_VALUES = 2**28
"""Of one image that goes in or comes out: a gigabyte."""

Metrics = Mapping[str, Tensor]
"""Stable names to detached 0-d tensors: {"loss": ..., "gka/body3": ...}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The channels of a label map: one per class, in this order, each 0 or 1 (SPADE, Park et al., CVPR 2019)."""

    classes: int
    """Label ids 0 to classes - 1 have a channel each."""
    unknown: bool = False
    """One more channel for pixels without a class (COCO-Stuff's 255), which otherwise are refused."""
    edges: bool = False
    """A last channel: 1 where a pixel's instance differs from its left, right, upper or lower neighbour."""

    def __post_init__(self) -> None:
        _fit(self)
        if not 1 <= self.classes <= MOST_CHANNELS:
            raise ContractError(
                f"{quoted(self)}: classes must be an integer from 1 to {MOST_CHANNELS}. Do not count the channels for "
                "unknown pixels and edges as classes; pass unknown=False or edges=False if the label map has no such "
                "channel."
            )

    @property
    def channels(self) -> int:
        """Channels of the whole map."""
        return self.classes + self.unknown + self.edges


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What one generator reads and writes: float32 images, (N, C, H, W).

    One channel means BT.601 luma; three mean RGB. MACs are quoted for one image of `size`.
    """

    channels_in: int
    channels_out: int
    size: tuple[int, int]
    """(H, W) of the input in pixels at which costs are quoted, batch 1."""
    input_range: tuple[float, float] = (-1.0, 1.0)
    output_range: tuple[float, float] = (-1.0, 1.0)
    inner_range: tuple[float, float] | None = None
    """Of images inside the network, where it rescales them first: feature maps are of its scale. None: the output's."""
    scale: int = 1
    """Output side / input side."""
    pre_upsampled: int = 1
    """The input is a target shrunk and bicubically enlarged again by this factor (VDSR)."""
    multiple_of: int = 1
    """H and W of the input must be multiples of this."""
    inference: Literal["eval", "batch-statistics"] = "eval"
    """How norms run when images are made; pix2pix is meant to run with batch statistics."""
    labels: Labels | None = None
    """The input is a label map with these channels; None for images."""

    def __post_init__(self) -> None:
        _fit(self)
        counts = (self.channels_in, self.channels_out, self.scale, self.pre_upsampled, self.multiple_of)
        if not 1 <= min(counts) <= max(counts) <= MOST_CHANNELS:
            raise ContractError(
                f"{quoted(self)}: channels, scale, pre_upsampled and multiple_of must be from 1 to {MOST_CHANNELS}."
            )
        if min(self.size) < 1 or any(side % self.multiple_of for side in self.size):
            raise ContractError(
                f"size={quoted(self.size)} must be (height, width), each a positive multiple of {self.multiple_of}."
            )
        height, width = self.size
        if height * width * max(self.channels_in, self.channels_out * self.scale**2) > MOST_VALUES:
            raise ContractError(
                f"{quoted(self)}: an image of that size has more than {MOST_VALUES} values. Lower size."
            )
        for name in ("input_range", "output_range", "inner_range"):
            given = getattr(self, name)
            if given is not None and not -math.inf < given[0] < given[1] < math.inf:
                raise ContractError(f"{name}={quoted(given)} must be (low, high) with low < high.")
        if self.labels is not None and not isinstance(self.labels, Labels):
            raise ContractError(f"labels={quoted(self.labels)} must be a gansdk.Labels(classes=...), or omitted.")
        if self.labels is not None and self.labels.channels != self.channels_in:
            raise ContractError(
                f"{self.labels} has {self.labels.channels} channels, but the generator takes {self.channels_in}."
            )

    @property
    def example_shape(self) -> tuple[int, int, int, int]:
        """(1, channels_in, H, W)."""
        return (1, self.channels_in, *self.size)

    def noise(self, rng: torch.Generator | int = 0, shape: Sequence[int] | None = None) -> Tensor:
        """Uniform noise within the input range: (1, channels_in, H, W) at the contract's size, or of `shape`.

        `rng`: a generator of the CPU, or a seed.
        """
        if isinstance(rng, int):
            rng = torch.Generator().manual_seed(rng)
        low, high = self.input_range
        return low + (high - low) * torch.rand(tuple(shape or self.example_shape), generator=rng)

    def check_input(self, x: Tensor) -> None:
        """Raise ContractError unless `x` is (N, channels_in, H, W) with sides of the right multiple."""
        if x.ndim != 4 or x.shape[1] != self.channels_in:
            raise ContractError(f"The generator takes (N, {self.channels_in}, H, W) images, but got {tuple(x.shape)}.")
        if any(side % self.multiple_of for side in x.shape[2:]):
            raise ContractError(
                f"The generator takes sides that are multiples of {self.multiple_of}, "
                f"but got {x.shape[2]}x{x.shape[3]}."
            )


class Pairing(Enum):
    """How inputs and targets of a source belong together."""

    PAIRED = "paired"
    UNPAIRED = "unpaired"
    INPUTS_ONLY = "inputs-only"


@dataclass(frozen=True, slots=True)
class Batch:
    """Images for one step. `inputs[route]`: (N, channels_in, H, W); `targets[route]`: (N, channels_out, sH, sW)."""

    inputs: Mapping[Route, Tensor]
    targets: Mapping[Route, Tensor] = field(default_factory=dict)
    """Empty where there are none."""
    names: tuple[str, ...] = ()
    """File names, one per image, where they are known."""
    paired: bool = True
    """Whether a target shows what its input should become; unpaired targets are samples of the other domain."""

    def __post_init__(self) -> None:
        """Raise TypeError for anything but images of floating-point values, by their routes."""
        for side in ("inputs", "targets"):
            images = getattr(self, side)
            if not isinstance(images, Mapping):
                raise TypeError(f"The {side} of a Batch are {quoted(images)}, not a mapping of routes to images.")
            for route, x in images.items():
                if not (isinstance(x, Tensor) and x.ndim == 4 and x.is_floating_point()):
                    given = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else quoted(x)
                    raise TypeError(
                        f"The {side} of a Batch hold {given} for the route {quoted(route)}; images are floating-point "
                        "tensors (N, C, H, W)."
                    )

    def of(self, size: int) -> Batch:
        """The first image `size` times, without names: a batch of that shape for checks."""
        inputs, targets = (
            {route: images[:1].expand(size, -1, -1, -1) for route, images in side.items()}
            for side in (self.inputs, self.targets)
        )
        return Batch(inputs, targets, (), self.paired)


@dataclass(frozen=True, slots=True)
class Observation:
    """What one forward pass of a generator showed."""

    image: Tensor | None
    """(N, channels_out, sH, sW) in output_range; None if it was not asked for."""
    features: Mapping[str, Tensor]
    """tap -> (N, C_tap, H_tap, W_tap), only the taps asked for."""

    def detached(self) -> Observation:
        """The same without gradient."""
        image = None if self.image is None else self.image.detach()
        return Observation(image, {tap: feature.detach() for tap, feature in self.features.items()})


def _fit(data: Labels | Contract) -> None:
    """Check the types of all fields; numbers of other libraries become Python's, which JSON can hold.

    Raises:
        ContractError: a field has a value of another type.
    """
    given = {one.name: getattr(data, one.name) for one in fields(data)}
    for name, value in fitting(type(data), given, whose=type(data).__name__, error=ContractError).items():
        object.__setattr__(data, name, value)


HISTORY_KEYS = frozenset({"step", "stage"})
"""What every row of the history has besides metrics."""
