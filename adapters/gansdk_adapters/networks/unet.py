"""The U-Net generator of pix2pix (Isola et al., CVPR 2017): keys are the nested ones of the official release."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from gansdk.errors import ContractError
from gansdk_adapters.networks.expansion import Expansion
from gansdk_adapters.networks.norms import Norm, has_bias, make_norm

FEWEST_DOWNS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetSizes:
    """Sizes of `UNetGenerator`: 8 halvings are "unet_256", 7 are "unet_128"."""

    channels_in: int = 3
    channels_out: int = 3
    width: int = 64
    """Channels of the outermost level; doubled until they are eightfold."""
    downs: int = 8
    """Halvings; sides must be multiples of 2 to that power."""
    norm: Norm = "batch"
    dropout: float | None = 0.5
    """Rate behind the inner levels of eightfold width, except the innermost; None without those layers."""
    deep: bool = False
    """OMGD's deeper teacher: two expansion blocks behind every halving and doubling but the innermost."""

    def __post_init__(self) -> None:
        if self.downs < FEWEST_DOWNS or min(self.channels_in, self.channels_out, self.width) < 1:
            raise ContractError(f"{self}: expected at least {FEWEST_DOWNS} downsamplings, and all other sizes >= 1.")

    def level_path(self, level: int) -> str:
        """Return the path of the Sequential of level `level`, counted from 1."""
        more = 2 if self.deep else 0
        return "model.model" if level == 1 else f"model.model.{1 + more}.model" + f".{3 + more}.model" * (level - 2)

    def up_index(self, level: int) -> int:
        """Return the place, in that Sequential, of the activation in front of the doubling."""
        if level == self.downs:
            return 2
        more = 2 if self.deep else 0
        return 2 + 2 * more if level == 1 else 4 + more

    def level_width(self, level: int) -> int:
        """Return the channels that level `level`, counted from 1, makes on the way down."""
        return self.width * int(min(8, 2 ** (level - 1)))


class Level(nn.Module):
    """One halving, everything deeper, and the doubling back; all but the outermost join their input to that.

    The joined input is the activated one, LeakyReLU(x), because the official activation works in place.
    """

    def __init__(self, sizes: UNetSizes, level: int) -> None:
        super().__init__()
        self.outermost = level == 1
        innermost = level == sizes.downs
        outer = sizes.channels_in if self.outermost else sizes.level_width(level - 1)
        inner, bias = sizes.level_width(level), has_bias(sizes.norm)
        down = nn.Conv2d(outer, inner, 4, stride=2, padding=1, bias=bias)
        back = inner if innermost else 2 * inner
        deeper = [] if innermost else [Level(sizes, level + 1)]

        def expansions(width: int) -> list[nn.Module]:
            return [Expansion(width, sizes.norm) for _ in range(2 if sizes.deep and not innermost else 0)]

        if self.outermost:
            up = nn.ConvTranspose2d(back, sizes.channels_out, 4, stride=2, padding=1)
            self.model = nn.Sequential(
                down, *expansions(inner), *deeper, *expansions(back), nn.ReLU(inplace=True), up, nn.Tanh()
            )
            return
        up = nn.ConvTranspose2d(back, outer, 4, stride=2, padding=1, bias=bias)
        drops = sizes.dropout is not None and FEWEST_DOWNS <= level < sizes.downs
        self.model = nn.Sequential(
            nn.LeakyReLU(0.2, inplace=True),
            down,
            *([] if innermost else [make_norm(sizes.norm, inner)]),  # 1x1 has no statistics
            *expansions(inner),
            *deeper,
            nn.ReLU(inplace=True),
            up,
            make_norm(sizes.norm, outer),
            *expansions(outer),
            *([nn.Dropout(sizes.dropout or 0.0)] if drops else []),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, outer, H, W) -> (N, 2 * outer, H, W), or the image of the outermost level."""
        if self.outermost:
            return cast("Tensor", self.model(x))
        first, *others = self.model
        activated = y = first(x)
        for part in others:
            y = part(y)
        return torch.cat([activated, y], dim=1)


class UNetGenerator(nn.Module):
    """Levels within levels."""

    def __init__(self, sizes: UNetSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.model = Level(sizes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> (N, channels_out, H, W)."""
        return cast("Tensor", self.model(x))
