"""The distiller "ssim": the student's image shall have the structure of the teacher's."""

from __future__ import annotations

from torch import Tensor

from gansdk.contracts import Observation
from gansdk.interfaces import Distiller, Stage, Term
from gansdk.toolkit.options import positive
from gansdk_distillers.terms.images import images, output_range, rescaled
from gansdk_distillers.terms.similarity import moments, similarity


class Similarity(Term):
    """1 - SSIM of the images in [-1, 1]; it compares local means too, and so fixes colours and brightness."""

    name = "ssim"
    needs_image = True
    anchors_low_frequencies = True

    def __init__(self, *, weight: float) -> None:
        self.weight = weight
        self._range = (-1.0, 1.0)

    def bind(self, stage: Stage) -> None:
        self._range = output_range(stage)

    def encode(self, seen: Observation) -> Observation:
        image, _ = images(seen, seen)
        image = rescaled(image, self._range, (-1.0, 1.0))
        mean, square = moments(image)
        return Observation(image, {"mean": mean, "square": square})

    def __call__(self, student: Observation, teacher: Observation) -> Tensor:
        x, y = images(student, teacher)
        of_x, of_y = ((side.features["mean"], side.features["square"]) for side in (student, teacher))
        return 1 - similarity(x, y, of_x, of_y)


def ssim(weight: float = 10.0) -> Distiller:
    """Distil by 1 - SSIM of the images, as OMGD's released code does (Ren et al., ICCV 2021).

    Gaussian windows of 11x11, padded with zeros, on images in [-1, 1] with the constants of a data range of 1: other
    values than those of the metrics in reports.

    Raises:
        InvalidOption: the weight is no finite number above zero.
    """
    return Distiller((Similarity(weight=positive(weight, "weight")),))
