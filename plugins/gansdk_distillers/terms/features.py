"""Distances between feature maps of different widths."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gansdk.errors import ContractError, IncompatibleParts
from gansdk_distillers.terms.precision import full_precision, promoted

DEVIATION = 0.02
"""Of the initial weights (GAN Compression's ResNet tasks)."""


class Connector(nn.Module):
    """A learned 1x1 convolution from any of a student's channels to all of a teacher's.

    A column of the weight belongs to one channel of the full student, so every subnet trains the columns of the
    channels it has. Drawn on the generator's device, so that any device starts from the same numbers.
    """

    def __init__(
        self, student: int, teacher: int, *, rng: torch.Generator, device: torch.device, bias: bool = True
    ) -> None:
        super().__init__()
        drawn = DEVIATION * torch.randn(teacher, student, generator=rng, device=rng.device)
        self.weight = nn.Parameter(drawn.to(device))
        self.bias = nn.Parameter(torch.zeros(teacher, device=device)) if bias else None

    def forward(self, x: Tensor, channels: Tensor) -> Tensor:
        """(N, C, H, W) and the int64 (C,) ids of these channels in the full student -> (N, teacher, H, W).

        Computes in float32, or in the precision of `x` if that is higher.
        """
        ids = channels.to(self.weight.device, non_blocking=True)  # a copy that waits would stop the step
        x = promoted(x)
        weight = self.weight.index_select(1, ids)[:, :, None, None]
        with full_precision(x):
            return F.conv2d(x, weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class NormedConnector(nn.Module):
    """A connector without bias and a batch norm behind it, which always uses the batch's statistics (OMGD)."""

    def __init__(self, student: int, teacher: int, *, rng: torch.Generator, device: torch.device) -> None:
        super().__init__()
        self.connector = Connector(student, teacher, rng=rng, device=device, bias=False)
        self.norm = nn.BatchNorm2d(teacher, track_running_stats=False)
        with torch.no_grad():
            self.norm.weight.copy_(1 + DEVIATION * torch.randn(teacher, generator=rng, device=rng.device))
        self.norm.to(device)

    def forward(self, x: Tensor, channels: Tensor) -> Tensor:
        """As `Connector`.

        Raises:
            IncompatibleParts: there is one value per channel, whose variance is nothing to divide by.
        """
        if x.numel() == x.shape[1]:
            raise IncompatibleParts(
                f"The batch norm of a connector needs more than one value per channel, but the feature map is "
                f"{tuple(x.shape)}. Raise the batch size, or leave that tap out."
            )
        connected: Tensor = self.norm(self.connector(x, channels))
        return connected


def channel_distance(connected: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the channels' means over space: of ReLU(`connected`) and of `teacher`.

    (N, C, h, w) and (N, C, H, W), of any sides; gradient to the first only. The ReLU stands before the mean: the mean
    of a normalised map alone would say nothing.
    """
    with full_precision(connected):
        means = F.relu(promoted(connected)).mean((2, 3)), promoted(teacher.detach()).mean((2, 3))
        return (means[0] - means[1]).square().mean()


def feature_distance(connected: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all elements of the squared difference of two (N, C, H, W) maps, with gradient to the first.

    Raises:
        ContractError: the maps differ in shape.
    """
    if connected.shape != teacher.shape:
        raise ContractError(
            f"The student's feature map, behind its connector, is {tuple(connected.shape)} and the teacher's "
            f"{tuple(teacher.shape)}. A connector changes channels only: name taps of equal height and width."
        )
    with full_precision(connected):
        return (connected - promoted(teacher.detach())).square().mean()
