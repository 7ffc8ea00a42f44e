"""VDSR (Kim et al., CVPR 2016), the network of data-free super-resolution distillation."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from gansdk_adapters.networks.sizes import Sizes


class VDSR(nn.Module):
    """VDSR of twtygqyy/pytorch-vdsr: an already enlarged (N, 1, H, W) luma image in [0, 1] -> a sharper one.

    No biases, weights He-normal over the fan-out. Keys: input, residual_layer.N.conv, output. The scale is in the
    input, not in the network, so `sizes.scale` is 1.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        width = sizes.width
        self.input = _Conv(sizes.channels, width)
        self.residual_layer = nn.Sequential(*(_ConvReLU(width) for _ in range(sizes.blocks)))
        self.output = _Conv(width, sizes.channels)

    def forward(self, x: Tensor) -> Tensor:
        """Add the predicted detail to `x`."""
        detail: Tensor = self.output(self.residual_layer(F.relu(self.input(x))))
        return x + detail


class _ConvReLU(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _Conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class _Conv(nn.Conv2d):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1, bias=False)

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
