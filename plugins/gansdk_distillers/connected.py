"""A term on feature maps that connectors make comparable: what the distillers "feature" and "channel" share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gansdk.contracts import Observation
from gansdk.errors import ContractError, GansdkWarning, IncompatibleParts
from gansdk.interfaces import Stage, State, Student, Term
from gansdk.toolkit.terms import common_taps
from gansdk_distillers.distances import full_precision, promoted
from gansdk_distillers.taps import chosen

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
                "The batch norm of a connector needs more than one value per channel, but the feature map is "
                f"{tuple(x.shape)}. Increase the batch size, or omit that tap."
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


Reduction = Literal["sum", "mean"]


class Connected(Term):
    """A distance between connected and teacher's feature maps, summed or averaged over taps.

    Connectors are made anew for every stage, as wide as the full student, and ask the student at every call which
    of its channels are active: carved students and subnets of a supernet use the columns that are theirs.
    `connector` makes one from its widths; `distance` compares what it gives with the teacher's map. Where images have a
    larger range than [-1, 1] inside the network, maps are divided by as much.
    """

    def __init__(
        self,
        name: str,
        *,
        weight: float,
        taps: Sequence[str] | None,
        connector: Callable[..., nn.Module],
        distance: Callable[[Tensor, Tensor], Tensor],
        reduction: Reduction = "sum",
    ) -> None:
        self.name = name
        self.weight = weight
        self.reduction = reduction
        self._taps = taps
        self._connector = connector
        self._distance = distance
        self._connectors: dict[str, nn.Module] = {}
        self._unit = 1.0
        self._student: Student | None = None

    def taps(self, available: Sequence[str]) -> tuple[str, ...]:
        """Those it was given, or up to four from the first to the last.

        Raises:
            IncompatibleParts: there are none, or a given one is not available.
        """
        return chosen(self.name, self._taps, available)

    def bind(self, stage: Stage) -> None:
        student, teacher = stage.student, stage.teachers[0]
        taps = self.taps(common_taps(student, teacher))
        if self._taps is None and (absent := [tap for tap in student.taps if tap not in teacher.taps]):
            warnings.warn(
                f"{self.name} skips the taps that the teacher lacks ({', '.join(absent)}) and compares "
                f"{', '.join(taps)}.",
                GansdkWarning,
                stacklevel=2,
            )
        # Maps of a network whose values run to 255 are as much larger, and would drown every other loss.
        contract = next(iter(student.contracts.values()))
        low, high = contract.inner_range or contract.output_range
        self._unit = max(1.0, (high - low) / 2)
        widths = teacher.widths(taps, stage.device)
        self._student = student
        self._connectors = {
            tap: self._connector(student.width(tap), widths[tap], rng=stage.rng, device=stage.device) for tap in taps
        }

    def __call__(self, student: Observation, teacher: Observation) -> Tensor:
        if self._student is None:
            raise RuntimeError(f"The connectors of {self.name!r} are created by bind(stage), which was not called.")
        distances = torch.stack(
            [
                self._distance(
                    connector(self._in_units(student.features[tap]), self._student.channels(tap)),
                    self._in_units(teacher.features[tap]),
                )
                for tap, connector in self._connectors.items()
            ]
        )
        return distances.sum() if self.reduction == "sum" else distances.mean()

    def _in_units(self, features: Tensor) -> Tensor:
        return features if self._unit == 1 else features / self._unit

    def parameters(self) -> Iterator[nn.Parameter]:
        for connector in self._connectors.values():
            yield from connector.parameters()

    def state_dict(self) -> State:
        return {tap: connector.state_dict() for tap, connector in self._connectors.items()}

    def load_state_dict(self, state: State) -> None:
        for tap, connector in self._connectors.items():
            connector.load_state_dict(state[tap])
