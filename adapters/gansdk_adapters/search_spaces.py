"""GAN Compression's search spaces (Li et al., CVPR 2020): which layers each number of a configuration sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from gansdk.channels.groups import Knob
from gansdk.channels.knobs import widths_at
from gansdk_adapters.networks.resnet import FIRST_BLOCK, ResNetSizes
from gansdk_adapters.networks.spade import COARSE, SPADESizes

Choices = Mapping[int, Sequence[tuple[int, ...]]]
"""Width (ngf) of a published supernet -> the values of each position, ascending."""

FULL_WIDTH = 64
"""Of the networks that the papers compress; narrower supernets are what these were distilled to before the search."""
_SHARED: dict[int, Sequence[tuple[int, ...]]] = {
    32: ((16, 24, 32),) * 8,
    48: ((32, 48),) * 2 + ((32, 40, 48),) * 4 + ((16, 24, 32, 48),) * 2,
}
CYCLEGAN_CHOICES: Choices = {**_SHARED, 64: ((16, 24, 32, 48, 64),) * 8}
"""Of the published settings "channels-32", "channels-48" and "channels-64-cycleGAN"."""
PIX2PIX_CHOICES: Choices = {**_SHARED, 64: ((16, 24, 32, 40, 48, 56, 64),) * 8}
"""Those with "channels-64-pix2pix"."""
SPADE_CHOICES: Choices = {
    48: ((32, 40, 48),) * 5 + ((24, 32, 40, 48),) * 3,
    64: ((32, 40, 48, 64),) * 5 + ((24, 32, 40, 48, 64),) * 3,
}
"""Of the published settings "channels-48" and "channels-64"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """One number of a configuration."""

    layer: str
    """Path of the convolution that makes `factor` times the number of channels."""
    factor: int
    followers: tuple[str, ...] = ()
    """Layers that keep their proportion to it."""


def knobs_of(module: nn.Module, positions: Sequence[Position], published: Choices) -> tuple[Knob, ...]:
    """Return "c0", "c1", ...: the positions' knobs with the published choices, if all positions have that width.

    Published lists for supernets that are narrower than the papers' teachers stop at half of these or above, so such
    networks get shares of their width besides, down to an eighth; networks of other widths get the shares alone.
    Widths are read from the layers, so pruned networks have knobs of what is left; a layer that has no whole multiple
    of the number's channels is free, and so is a position whose own layer has none.
    """
    values = [divmod(_made_by(module, position.layer), position.factor) for position in positions]
    full = {value for value, _ in values}
    lists = published.get(min(full), ()) if len(full) == 1 else ()
    listed = lists if len(lists) == len(positions) else ((),) * len(positions)
    return tuple(
        Knob(
            name=f"c{index}",
            choices=_choices(value, listed[index]),
            widths=((position.layer, position.factor), *_proportions(module, position.followers, value)),
        )
        for index, (position, (value, rest)) in enumerate(zip(positions, values, strict=True))
        if value and not rest
    )


def _choices(value: int, published: tuple[int, ...]) -> tuple[int, ...]:
    """Return those of a position: as published at the papers' width, and reaching down to an eighth at others."""
    if published and value == FULL_WIDTH:
        return published
    return tuple(sorted({*published, *widths_at(value)}))


def resnet_positions(sizes: ResNetSizes) -> tuple[Position, ...]:
    """Return those of `ResNetSizes.from_config`: eight, or fewer for less than three blocks."""
    first = "1.conv.2" if sizes.separable else "1"
    inner = [f"model.{FIRST_BLOCK + index}.conv_block.{first}" for index in range(sizes.blocks)]
    thirds = [[name for index, name in enumerate(inner) if 3 * index // sizes.blocks == third] for third in range(3)]
    up = FIRST_BLOCK + sizes.blocks
    return (
        Position(layer="model.1", factor=1),
        Position(layer="model.4", factor=2),
        Position(layer="model.7", factor=4),
        *(Position(layer=third[0], factor=4, followers=tuple(third[1:])) for third in thirds if third),
        Position(layer=f"model.{up}", factor=2),
        Position(layer=f"model.{up + 3}", factor=1),
    )


def spade_positions(sizes: SPADESizes) -> tuple[Position, ...]:
    """Return those of `SPADESizes.from_config`: the trunk, and each block's own width.

    A later block's inner width and, in all blocks, what gamma and beta see follow. Networks for "most" have a
    ninth, and the last block counts its channels singly.
    """
    trunk = Position(layer="fc", factor=16)
    coarse = [
        Position(layer=f"{name}.conv_0", factor=16, followers=_guides(name, ("norm_0", "norm_1"))) for name in COARSE
    ]
    return (trunk, *coarse, *(_fine(sizes, index) for index in range(len(sizes.ups))))


def _fine(sizes: SPADESizes, index: int) -> Position:
    """Return the position of a later block; of its inner width alone if the block adds its input as it is."""
    name, factor = f"up_{index}", max(1, 8 >> index)
    if sizes.given[len(COARSE) + index] == sizes.ups[index]:
        guides = _guides(name, ("norm_0", "norm_1"))
        return Position(layer=f"{name}.conv_0", factor=factor, followers=guides)
    guides = _guides(name, ("norm_0", "norm_1", "norm_s"))
    return Position(layer=f"{name}.conv_1", factor=factor, followers=(f"{name}.conv_0", *guides))


def _guides(block: str, norms: Sequence[str]) -> tuple[str, ...]:
    """Return the layers in front of gamma and beta."""
    return tuple(f"{block}.{norm}.mlp_shared.0" for norm in norms)


def _proportions(module: nn.Module, layers: Sequence[str], value: int) -> list[tuple[str, int]]:
    widths = [(layer, *divmod(_made_by(module, layer), value)) for layer in layers]
    return [(layer, factor) for layer, factor, rest in widths if factor and not rest]


def _made_by(module: nn.Module, layer: str) -> int:
    """Return the channels a convolution makes."""
    part = module.get_submodule(layer)
    return cast("Tensor", part.weight).shape[1 if isinstance(part, nn.ConvTranspose2d) else 0]
