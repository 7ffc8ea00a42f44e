"""A term on feature maps that connectors make comparable: what the distillers "feature" and "channel" share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gansdk.contracts import Observation
from gansdk.errors import GansdkWarning
from gansdk.interfaces import Stage, State, Student, Term
from gansdk.toolkit.terms import common_taps
from gansdk_distillers.taps import chosen

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
        taps: tuple[str, ...] | None,
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
        wanted = self.taps(common_taps(student, teacher))
        if self._taps is None and (absent := [tap for tap in student.taps if tap not in teacher.taps]):
            warnings.warn(
                f"{self.name} leaves out the taps that the teacher lacks ({', '.join(absent)}) and compares "
                f"{', '.join(wanted)}.",
                GansdkWarning,
                stacklevel=2,
            )
        # Maps of a network whose values run to 255 are as much larger, and would drown every other loss.
        contract = next(iter(student.contracts.values()))
        low, high = contract.inner_range or contract.output_range
        self._unit = max(1.0, (high - low) / 2)
        widths = teacher.widths(wanted, stage.device)
        self._student = student
        self._connectors = {
            tap: self._connector(student.width(tap), widths[tap], rng=stage.rng, device=stage.device) for tap in wanted
        }

    def __call__(self, student: Observation, teacher: Observation) -> Tensor:
        if self._student is None:
            raise RuntimeError(f"The connectors of {self.name!r} are made by bind(stage), which was not called.")
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
