"""The residual block that makes OMGD's deeper teachers deeper (Ren et al., ICCV 2021)."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from gansdk_adapters.networks.norms import Norm, has_bias, make_norm


class Expansion(nn.Module):
    """`x + f(x)`: 1x1 to four times the width, a dense 3x3 there, 1x1 back, and a last 3x3.

    The first reflection padding stands in front of the 1x1, as released, so the wide norm sees the padded map.
    """

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        bias, wide = has_bias(norm), 4 * width
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, wide, 1, bias=bias),
            make_norm(norm, wide),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, wide, 3, bias=bias),
            make_norm(norm, wide),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, width, 1, bias=bias),
            make_norm(norm, width),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=bias),
            make_norm(norm, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> the same shape; sides of at least 2."""
        return x + cast("Tensor", self.conv_block(x))


def deepening(width: int, norm: Norm) -> list[nn.Module]:
    """Return an expansion block and a 3x3 convolution with norm and ReLU: four layers behind a halving or doubling."""
    return [
        Expansion(width, norm),
        nn.Conv2d(width, width, 3, padding=1, bias=has_bias(norm)),
        make_norm(norm, width),
        nn.ReLU(inplace=True),
    ]
