"""The distiller "feature": the teacher's feature maps shall be linear in the student's, pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from gansdk.contracts import Observation
from gansdk.interfaces import Distiller, Stage, State, Student, Term
from gansdk.toolkit.terms import common_taps
from gansdk_distillers.options import names, positive
from gansdk_distillers.taps import chosen
from gansdk_distillers.terms.features import Connector, feature_distance


class Features(Term):
    """Mean squared distance between connected and teacher's feature maps, summed over taps.

    Connectors are made anew for every stage, as wide as the full student, and ask the student at every call which
    of its channels are active: carved students and subnets of a supernet use the columns that are theirs.
    """

    name = "feature"

    def __init__(self, *, weight: float, taps: tuple[str, ...] | None) -> None:
        self.weight = weight
        self._taps = taps
        self._connectors: dict[str, Connector] = {}
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
        widths = teacher.widths(wanted, stage.device)
        self._student = student
        self._connectors = {
            tap: Connector(student.width(tap), widths[tap], rng=stage.rng, device=stage.device) for tap in wanted
        }

    def __call__(self, student: Observation, teacher: Observation) -> Tensor:
        if self._student is None:
            raise RuntimeError("The connectors of 'feature' are made by bind(stage), which was not called.")
        distances = [
            feature_distance(
                connector(student.features[tap], self._student.channels(tap)),
                teacher.features[tap],
            )
            for tap, connector in self._connectors.items()
        ]
        return torch.stack(distances).sum()

    def parameters(self) -> Iterator[nn.Parameter]:
        for connector in self._connectors.values():
            yield from connector.parameters()

    def state_dict(self) -> State:
        return {tap: connector.state_dict() for tap, connector in self._connectors.items()}

    def load_state_dict(self, state: State) -> None:
        for tap, connector in self._connectors.items():
            connector.load_state_dict(state[tap])


def feature(weight: float = 1.0, taps: Sequence[str] | None = None) -> Distiller:
    """Distil intermediate features through learned 1x1 connectors, after GAN Compression (Li et al., CVPR 2020).

    `weight`: 1 by default, as published for edges->shoes and Cityscapes label->photo beside a reconstruction weight
    of 100; the papers' scripts take 0.01 for horse->zebra and map->aerial (reconstruction 10) and 10 for GauGAN.
    `taps`: names offered by the generator; up to four by default.

    Raises:
        InvalidOption: an option has a value that is not known.
    """
    return Distiller((Features(weight=positive(weight, "weight"), taps=None if taps is None else names(taps, "taps")),))
