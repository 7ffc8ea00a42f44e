"""The distiller "pixel": the student's image shall be the teacher's."""

from __future__ import annotations

from torch import Tensor

from gansdk.contracts import Observation
from gansdk.interfaces import Distiller, Stage, Term
from gansdk.toolkit.options import Positive, checked
from gansdk_distillers.distances import Norm, gain, images, pixel_distance


class Pixel(Term):
    """L1 or L2 distance of the images, measured as if values ran from -1 to 1."""

    name = "pixel"
    needs_image = True
    anchors_low_frequencies = True

    def __init__(self, *, weight: float, norm: Norm) -> None:
        self.weight = weight
        self.norm = norm
        self._gain = 1.0

    def bind(self, stage: Stage) -> None:
        self._gain = gain(stage, self.norm)

    def __call__(self, student: Observation, teacher: Observation) -> Tensor:
        return self._gain * pixel_distance(*images(student, teacher), norm=self.norm)


@checked
def pixel(weight: Positive = 1.0, norm: Norm = "l1") -> Distiller:
    """Distil by the distance between the images of student and teacher.

    `norm`: "l1" (mean of absolute differences) or "l2" (mean of squares), of images scaled to a peak-to-peak
    of 2, so that a weight means the same for every generator.

    Raises:
        InvalidOption: an option has a value that is not known.
    """
    return Distiller((Pixel(weight=weight, norm=norm),))
