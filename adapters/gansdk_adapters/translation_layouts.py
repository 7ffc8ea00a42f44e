"""The published key layouts of image translation: sizes read from weights, and paths of feature maps."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from gansdk.errors import Unsupported
from gansdk_adapters.keys import Branches, State, keys_below, read_branches, side
from gansdk_adapters.networks.inception import FIRST_LAYER, SPATIAL_LAYER, InceptionGenerator, InceptionSizes
from gansdk_adapters.networks.norms import norm_in
from gansdk_adapters.networks.resnet import FIRST_BLOCK, ResNetGenerator, ResNetSizes
from gansdk_adapters.networks.unet import FEWEST_DOWNS, UNetGenerator, UNetSizes

Network = ResNetGenerator | UNetGenerator | InceptionGenerator
Sizes = ResNetSizes | UNetSizes | InceptionSizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One published generator: how its sizes show in a state dict, and what it is called."""

    name: str
    """In descriptions."""
    network: Callable[[Any], Network]
    sizes: Callable[..., Sizes]
    read: Callable[[State], Sizes | None]
    """Sizes of the weights; None if the first layer is missing. What cannot be read is guessed."""
    title: Callable[[Any], str]


def _numbers(state: State, pattern: str) -> list[int]:
    """The distinct numbers that the pattern's group matches at the start of keys, ascending."""
    return sorted({int(found.group(1)) for key in state if (found := re.match(pattern, key))})


def _widths(state: State, down: str, up: str, first_up: int) -> tuple[int, ...]:
    stem = side(state, f"{down}.1.weight", 0, 64)
    return (
        stem,
        side(state, f"{down}.4.weight", 0, 2 * stem),
        side(state, f"{down}.7.weight", 0, 4 * stem),
        side(state, f"{up}.{first_up}.weight", 1, 2 * stem),
        side(state, f"{up}.{first_up + 3}.weight", 1, stem),
    )


def _is_convolution(state: State, key: str) -> bool:
    return key in state and state[key].ndim == 4 and 0 not in state[key].shape


def _read_resnet(state: State) -> ResNetSizes | None:
    if not _is_convolution(state, "model.1.weight"):
        return None
    numbers = _numbers(state, r"model\.(\d+)\.conv_block\.")
    blocks = len(numbers) or 9
    block = f"model.{FIRST_BLOCK}.conv_block"
    separable = f"{block}.1.conv.0.weight" in state
    second = "6.conv.2.weight" if separable else "6.weight"
    widths = _widths(state, "model", "model", FIRST_BLOCK + blocks)
    first = "1.conv.2.weight" if separable else "1.weight"
    return ResNetSizes(
        channels_in=state["model.1.weight"].shape[1],
        channels_out=side(state, f"model.{FIRST_BLOCK + blocks + 7}.weight", 0, 3),
        widths=widths,
        inner=tuple(side(state, f"model.{FIRST_BLOCK + i}.conv_block.{first}", 0, widths[2]) for i in range(blocks)),
        norm=norm_in(state, "model.1", "model.2"),
        dropout=0.0 if _is_convolution(state, f"{block}.{second}") else None,
        separable=separable,
    )


def _read_unet(state: State) -> UNetSizes | None:
    if not _is_convolution(state, "model.model.0.weight"):
        return None
    path = UNetSizes().level_path
    downs = 2
    while any(key.startswith(f"{path(downs + 1)}.") for key in state):
        downs += 1
    second = path(2)
    return UNetSizes(
        channels_in=state["model.model.0.weight"].shape[1],
        channels_out=side(state, "model.model.3.weight", 1, 3),
        width=state["model.model.0.weight"].shape[0],
        downs=max(FEWEST_DOWNS, downs),
        norm=norm_in(state, f"{second}.1", f"{second}.2"),
    )


def _read_inception(state: State) -> InceptionSizes | None:
    if not _is_convolution(state, "down_sampling.1.weight"):
        return None
    blocks = _numbers(state, r"features\.(\d+)\.")
    branches = inception_branches(state)
    return InceptionSizes(
        channels_in=state["down_sampling.1.weight"].shape[1],
        channels_out=side(state, "up_sampling.7.weight", 0, 3),
        widths=_widths(state, "down_sampling", "up_sampling", 0),
        kernels=branches.kernels,
        middle=tuple(branches.row(f"features.{block}") for block in range(len(blocks) or 9)),
        norm=norm_in(state, "down_sampling.1", "down_sampling.2"),
    )


def inception_branches(state: State) -> Branches:
    """Return the branches of an inception generator's weights."""
    return read_branches(state, FIRST_LAYER, SPATIAL_LAYER)


def unused_norms(state: State, sizes: Sizes) -> frozenset[str]:
    """Return the keys of the norms of blocks without a branch, which the official code keeps and does not run."""
    if not isinstance(sizes, InceptionSizes):
        return frozenset()
    return keys_below(state, (f"features.{block}.pw_bn" for block, row in enumerate(sizes.middle) if not any(row)))


def without_spectral_norm(state: State) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights as they would be named without it, and the paths of the layers that have it."""
    paths = [key.removesuffix(".weight_orig") for key in state if key.endswith(".weight_orig")]
    gone = {f"{path}.{name}" for path in paths for name in ("weight_u", "weight_v")}
    plain = {re.sub(r"\.weight_orig$", ".weight", key): value for key, value in state.items() if key not in gone}
    return plain, paths


def taps_of(sizes: Sizes) -> dict[str, str]:
    """Map names to paths of the feature maps that the papers compare, in execution order."""
    if isinstance(sizes, UNetSizes):
        return {
            "down3": f"{sizes.level_path(3)}.0",
            "down5": f"{sizes.level_path(5)}.0",
            "up4": f"{sizes.level_path(4)}.{sizes.up_index(4)}",
            "up2": f"{sizes.level_path(2)}.{sizes.up_index(2)}",
        }
    chosen = sorted({math.ceil(sizes.blocks * third / 3) for third in (1, 2, 3)} - {0})
    if isinstance(sizes, InceptionSizes):
        return {"stem": "down_sampling.9", **{f"body{n}": f"features.{n - 1}" for n in chosen}}
    return {name: f"model.{sizes.block_index(n)}" for n in (0, *chosen) for name in [f"body{n}" if n else "stem"]}


def resized(sizes: Sizes, width: float, deeper: bool) -> Sizes:
    """Return the sizes of a network `width` times as wide, and deeper where that is asked for.

    ResNets and U-Nets become deeper by OMGD's expansion blocks, inception generators by a block for every four.

    Raises:
        Unsupported: a network with expansion blocks is to be deeper still.
    """

    def wide(channels: int) -> int:
        return max(1, round(channels * width))

    if isinstance(sizes, InceptionSizes):
        rows = [tuple(wide(channels) if channels else 0 for channels in row) for row in sizes.middle]
        more = max(1, sizes.blocks // 4) if deeper else 0
        return replace(sizes, widths=tuple(map(wide, sizes.widths)), middle=(*rows, *(rows[-1:] * more)))
    if deeper and sizes.deep:
        raise Unsupported("This generator is already a deeper teacher. Pass the original generator.")
    if isinstance(sizes, UNetSizes):
        return replace(sizes, width=wide(sizes.width), deep=sizes.deep or deeper)
    return replace(
        sizes,
        widths=tuple(map(wide, sizes.widths)),
        inner=tuple(map(wide, sizes.inner)),
        deep=sizes.deep or deeper,
    )


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="resnet",
        network=ResNetGenerator,
        sizes=ResNetSizes,
        read=_read_resnet,
        title=lambda sizes: f"ResNet-{sizes.blocks}{', separable' * sizes.separable}, ngf {sizes.widths[0]}",
    ),
    Layout(
        name="unet",
        network=UNetGenerator,
        sizes=UNetSizes,
        read=_read_unet,
        title=lambda sizes: f"U-Net-{2**sizes.downs}, ngf {sizes.width}",
    ),
    Layout(
        name="inception",
        network=InceptionGenerator,
        sizes=InceptionSizes,
        read=_read_inception,
        title=lambda sizes: f"inception generator, {sizes.blocks} blocks, ngf {sizes.widths[0]}",
    ),
)


def _mobile_resnet(width: int = 64, blocks: int = 9, *, separable: bool = True, **options: Any) -> ResNetSizes:
    return ResNetSizes.of(width, blocks, separable=separable, **options)


ARCHITECTURES: dict[str, tuple[type[Sizes], Callable[..., Sizes]]] = {
    "resnet": (ResNetSizes, ResNetSizes.of),
    "mobile-resnet": (ResNetSizes, _mobile_resnet),
    "unet": (UNetSizes, UNetSizes),
    "inception": (InceptionSizes, InceptionSizes.of),
}
"""What can be created: name -> the class of its sizes, and what makes them of ngf (`width`) and other options."""


def layout_of(sizes: Sizes) -> Layout:
    """Return the layout whose networks have such sizes."""
    return next(layout for layout in LAYOUTS if isinstance(sizes, layout.sizes))  # type: ignore[arg-type]
