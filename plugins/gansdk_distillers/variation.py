"""The distiller "tv": neighbouring pixels of the student's image shall differ little. It reads no teacher."""

from __future__ import annotations

from torch import Tensor

from gansdk.contracts import Observation
from gansdk.interfaces import Distiller, Stage, Term
from gansdk.toolkit.options import Positive, checked
from gansdk_distillers.connected import Reduction
from gansdk_distillers.distances import gain, images, total_variation


class Variation(Term):
    """Total variation of the student's image, measured as if values ran from -1 to 1."""

    name = "tv"

    def __init__(self, *, weight: float, reduction: Reduction) -> None:
        self.weight = weight
        self.reduction = reduction
        self._gain = 1.0

    def bind(self, stage: Stage) -> None:
        self._gain = gain(stage, "l1")

    def __call__(self, student: Observation, teacher: Observation) -> Tensor:
        image, _ = images(student, student)
        return self._gain * total_variation(image, mean=self.reduction == "mean")


@checked
def tv(weight: Positive = 1e-5, reduction: Reduction = "sum") -> Distiller:
    """Smooth the student's image by its total variation, as a term of OMGD (Ren et al., ICCV 2021).

    `reduction`: "sum" over pixels and batch, as published, so that the weight's meaning changes with both; or "mean".
    At 256x256, 1e-5 of the sum is 3.92 of the mean for one image, 15.7 for a batch of four. Beside several teachers
    it counts once for each, as released.

    Raises:
        InvalidOption: an option has a value that is not known.
    """
    return Distiller((Variation(weight=weight, reduction=reduction),))
