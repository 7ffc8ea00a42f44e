"""The SPADE generator of GauGAN (Park et al., CVPR 2019) and its mobile form (GAN Compression, CVPR 2020).

Keys are those of the official releases. The input is a label map (N, labels, H, W) of zeros and ones at any size whose
sides are multiples of 2 ** `doublings`; the image (N, channels_out, H, W) is in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from gansdk.errors import ContractError
from gansdk_adapters.networks.expansion import Expansion
from gansdk_adapters.networks.resnet import SeparableConv

Upsampling = Literal["normal", "more", "most"]
"""Five, six or seven doublings; the weights of the first two do not differ, "most" has a block more."""
DOUBLINGS: dict[str, int] = {"normal": 5, "more": 6, "most": 7}
COARSE = ("head_0", "G_middle_0", "G_middle_1")
"""The blocks of the trunk's width."""
SLOPE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class SPADELayout:
    """What the SPADE generators share: label channels, the widths behind every block, and the doublings."""

    labels: int = 36
    """Channels of the label map, edges and unknown included."""
    channels_out: int = 3
    trunk: int = 1024
    """Channels behind the first convolution and the three blocks at the coarsest grids."""
    ups: tuple[int, ...] = (512, 256, 128, 64)
    """Channels behind each of the following blocks; a fifth one for "most"."""
    upsampling: Upsampling = "more"
    deep: bool = False
    """One of OMGD's expansion blocks behind every block and its doubling: a deeper teacher."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ups", tuple(self.ups))  # JSON gives lists
        if self.upsampling not in get_args(Upsampling):
            raise ContractError(f"upsampling={self.upsampling!r} must be one of: {', '.join(get_args(Upsampling))}.")
        if len(self.names) != len(COARSE) + len(self.ups) or min(self.labels, self.trunk, *self.ups) < 1:
            raise ContractError(f"{self}: expected four widths (five for 'most'), and all sizes >= 1.")

    @property
    def doublings(self) -> int:
        """Times the grid doubles; sides are multiples of 2 ** doublings."""
        return DOUBLINGS[self.upsampling]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the blocks, in order."""
        return block_names(self.upsampling)

    @property
    def doubled(self) -> frozenset[str]:
        """The blocks that the grid doubles behind."""
        return frozenset(
            {"head_0", "G_middle_1", *(f"up_{index}" for index in range(len(self.ups) - 1))}
            | ({"G_middle_0"} if self.upsampling != "normal" else set())
        )

    @property
    def given(self) -> tuple[int, ...]:
        """Channels in front of each block."""
        return (*(self.trunk,) * (len(COARSE) + 1), *self.ups[:-1])

    @property
    def made(self) -> tuple[int, ...]:
        """Channels behind each block."""
        return (*(self.trunk,) * len(COARSE), *self.ups)


def block_names(upsampling: str) -> tuple[str, ...]:
    """Return the blocks in order: those of the trunk, and four later ones, five for "most"."""
    return (*COARSE, *(f"up_{index}" for index in range(5 if upsampling == "most" else 4)))


def ups_of(width: int, upsampling: str) -> tuple[int, ...]:
    """Return the widths behind the later blocks as published: 8, 4, 2 and 1 times ngf, and half of it for "most"."""
    widths = (8 * width, 4 * width, 2 * width, width)
    return (*widths, width // 2) if upsampling == "most" else widths


@dataclass(frozen=True, slots=True, kw_only=True)
class SPADESizes(SPADELayout):
    """Sizes of `SPADEGenerator`; `of` and `from_config` make the published ones."""

    inner: tuple[int, ...] = (1024, 1024, 1024, 512, 256, 128, 64)
    """Channels between the two convolutions of each block."""
    hidden: tuple[int, ...] = (128,) * 7
    """Channels in front of gamma and beta, per block."""
    separable: bool = False
    """Depthwise-separable convolutions for gamma and beta."""
    spectral: bool = False
    """Spectral norm on the blocks' own convolutions."""

    def __post_init__(self) -> None:
        # Not super(): dataclasses with slots are made anew, and super() would look for the old one.
        SPADELayout.__post_init__(self)
        object.__setattr__(self, "inner", tuple(self.inner))
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if len(self.inner) != len(self.names) or len(self.hidden) != len(self.names):
            raise ContractError(
                f"{self}: expected one inner and one hidden width for each of the {len(self.names)} blocks."
            )

    @classmethod
    def of(cls, width: int = 64, *, upsampling: Upsampling = "more", hidden: int = 128, **options: Any) -> SPADESizes:
        """Return the network as published: ngf `width`; `options` are the other fields."""
        ups = ups_of(width, upsampling)
        inner = (*(16 * width,) * len(COARSE), *ups)
        return cls(
            trunk=16 * width, ups=ups, inner=inner, hidden=(hidden,) * len(inner), upsampling=upsampling, **options
        )

    @classmethod
    def from_config(cls, config: str | Sequence[int], **options: Any) -> SPADESizes:
        """Return the mobile network of a GAN Compression config: "32_40_40_32_40_24_32_24", or its numbers.

        Trunk (x16), inner widths of the first three blocks (x16), widths of the later ones (x8, x4, x2, x1); gamma
        and beta of a block see twice its number of channels.

        Raises:
            ContractError: there are not eight numbers.
        """
        numbers = [int(part) for part in config.split("_")] if isinstance(config, str) else list(config)
        if len(numbers) != 8:
            raise ContractError(f"The config {config!r} has {len(numbers)} numbers, but eight are expected.")
        ups = tuple(number * factor for number, factor in zip(numbers[4:], (8, 4, 2, 1), strict=True))
        return cls(
            trunk=16 * numbers[0],
            ups=ups,
            inner=(*(16 * number for number in numbers[1:4]), *ups),
            hidden=tuple(2 * number for number in numbers[1:]),
            **{"separable": True, **options},
        )


class SPADEFrame(nn.Module):
    """First convolution, blocks on ever finer grids, last convolution, Tanh. Subclasses bring the blocks.

    Keys of a deeper network: deeper.NAME of every block's expansion, which runs where the grid is at least 2x2.
    """

    def __init__(self, sizes: SPADELayout, block: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.sizes = sizes
        self.fc = nn.Conv2d(sizes.labels, sizes.trunk, 3, padding=1)
        for index, name in enumerate(sizes.names):
            self.add_module(name, block(index))
        widths = zip(sizes.names, sizes.made, strict=True) if sizes.deep else ()
        self.deeper = nn.ModuleDict({name: Expansion(width, "batch") for name, width in widths})
        self.conv_img = nn.Conv2d(sizes.ups[-1], sizes.channels_out, 3, padding=1)

    def forward(self, labels: Tensor) -> Tensor:
        """(N, labels, H, W) -> (N, channels_out, H, W).

        Raises:
            ContractError: norms are to take statistics of one pixel.
        """
        height, width = (side // 2**self.sizes.doublings for side in labels.shape[2:])
        if self.training and len(labels) * height * width == 1 and self._takes_statistics():
            raise ContractError(
                f"A single label map of {labels.shape[2]}x{labels.shape[3]} pixels is reduced to one pixel at the "
                "coarsest resolution, where norms cannot compute statistics in training. Increase the batch size, or "
                f"train on larger images (patch={2 * labels.shape[2]})."
            )
        x = self.first(F.interpolate(labels, size=(height, width), mode="nearest"))
        for name in self.sizes.names:
            x = getattr(self, name)(x, labels)
            if name in self.sizes.doubled:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            if name in self.deeper:
                x = self.deeper[name](x)
        return cast("Tensor", self.conv_img(F.leaky_relu(x, SLOPE)).tanh())

    def _takes_statistics(self) -> bool:
        return any(isinstance(part, nn.BatchNorm2d) and part.training for part in self.modules())

    def first(self, labels: Tensor) -> Tensor:
        """(N, labels, h, w) on the coarsest grid -> (N, trunk, h, w)."""
        return cast("Tensor", self.fc(labels))


class SPADEGenerator(SPADEFrame):
    """Two SPADE convolutions per block, and a third around it where the width changes."""

    sizes: SPADESizes

    def __init__(self, sizes: SPADESizes) -> None:
        super().__init__(sizes, lambda index: SPADEResBlock(sizes, index))


class SPADEResBlock(nn.Module):
    """`shortcut(x) + conv_1(act(norm_1(conv_0(act(norm_0(x))))))`, every norm guided by the label map."""

    def __init__(self, sizes: SPADESizes, index: int) -> None:
        super().__init__()
        given, inner, made = sizes.given[index], sizes.inner[index], sizes.made[index]
        wrapped = nn.utils.spectral_norm if sizes.spectral else _plain
        self.conv_0 = wrapped(nn.Conv2d(given, inner, 3, padding=1))
        self.conv_1 = wrapped(nn.Conv2d(inner, made, 3, padding=1))
        self.norm_0 = SPADE(sizes, given, sizes.hidden[index])
        self.norm_1 = SPADE(sizes, inner, sizes.hidden[index])
        self.conv_s = wrapped(nn.Conv2d(given, made, 1, bias=False)) if given != made else None
        self.norm_s = SPADE(sizes, given, sizes.hidden[index]) if given != made else None

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(N, given, h, w), (N, labels, H, W) -> (N, made, h, w)."""
        around = x if self.conv_s is None or self.norm_s is None else self.conv_s(self.norm_s(x, labels))
        y = self.conv_0(F.leaky_relu(self.norm_0(x, labels), SLOPE))
        y = self.conv_1(F.leaky_relu(self.norm_1(y, labels), SLOPE))
        return cast("Tensor", around + y)


class SPADE(nn.Module):
    """A batch norm without parameters, times 1 + gamma, plus beta; both from the label map at the input's size."""

    def __init__(self, sizes: SPADESizes, channels: int, hidden: int) -> None:
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(sizes.labels, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = _modulation(sizes, hidden, channels)
        self.mlp_beta = _modulation(sizes, hidden, channels)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(N, channels, h, w), (N, labels, H, W) -> (N, channels, h, w)."""
        guide = self.mlp_shared(F.interpolate(labels, size=x.shape[2:], mode="nearest"))
        return cast("Tensor", self.param_free_norm(x) * (1 + self.mlp_gamma(guide)) + self.mlp_beta(guide))


def _modulation(sizes: SPADESizes, channels_in: int, channels_out: int) -> nn.Module:
    return (
        SeparableConv(channels_in, channels_out, padding=1)
        if sizes.separable
        else nn.Conv2d(channels_in, channels_out, 3, padding=1)
    )


def _plain(conv: nn.Conv2d) -> nn.Conv2d:
    return conv
