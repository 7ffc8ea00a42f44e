"""The distiller "ssim": the student's image shall have the structure of the teacher's."""

from __future__ import annotations

from functools import lru_cache
from math import exp

import torch
from torch import Tensor
from torch.nn import functional as F

from gansdk.contracts import Observation
from gansdk.interfaces import Distiller, Stage, Term
from gansdk.toolkit.options import Positive, checked
from gansdk_distillers.distances import full_precision, images, output_range, promoted, rescaled

WINDOW, DEVIATION = 11, 1.5
C1, C2 = 0.01**2, 0.03**2  # those of a data range of 1, although images run from -1 to 1
Moments = tuple[Tensor, Tensor]
"""Local means of an image and of its square."""


def local_mean(x: Tensor) -> Tensor:
    """Gaussian mean over 11x11 pixels, each channel alone; beyond its border an image counts as zero."""
    kernel = _gaussian(x.dtype, x.device)
    planes = x.flatten(0, 1)[:, None]
    planes = F.conv2d(planes, kernel[None, None, None, :], padding=(0, WINDOW // 2))
    planes = F.conv2d(planes, kernel[None, None, :, None], padding=(WINDOW // 2, 0))
    return planes.view_as(x)


def moments(image: Tensor) -> Moments:
    """What one (N, C, H, W) image in [-1, 1] contributes alone."""
    with full_precision(image):
        image = promoted(image)
        mean, square = local_mean(torch.cat([image, image.square()])).chunk(2)
        return mean, square


def similarity(student: Tensor, teacher: Tensor, of_student: Moments, of_teacher: Moments) -> Tensor:
    """Mean SSIM over images, channels and pixels, a 0-d tensor, 1 for equal images; gradient to the student only."""
    with full_precision(student):
        x, y = promoted(student), promoted(teacher.detach())
        mean_x, square_x = of_student
        mean_y, square_y = (part.detach() for part in of_teacher)
        product, both, energy = mean_x * mean_y, mean_x.square() + mean_y.square(), square_x + square_y
        covariance = local_mean(x * y) - product
        ssim = (2 * product + C1) * (2 * covariance + C2) / ((both + C1) * (energy - both + C2))
        return ssim.mean()


@lru_cache(maxsize=8)  # making it anew would stop every step to copy it to the device
@torch.inference_mode(False)  # the first call may be an inference, later ones a training
def _gaussian(dtype: torch.dtype, device: torch.device) -> Tensor:
    """(11,) weights that sum to 1: single precision numbers, as released, which variances of smooth images show."""
    exponents = [-((i - WINDOW // 2) ** 2) / (2 * DEVIATION**2) for i in range(WINDOW)]
    weights = torch.tensor([exp(exponent) for exponent in exponents], dtype=torch.float32)
    return (weights / weights.sum()).to(device, dtype)


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


@checked
def ssim(weight: Positive = 10.0) -> Distiller:
    """Distil by 1 - SSIM of the images, as OMGD's released code does (Ren et al., ICCV 2021).

    Gaussian windows of 11x11, padded with zeros, on images in [-1, 1] with the constants of a data range of 1: other
    values than those of the metrics in reports.

    Raises:
        InvalidOption: the weight is no finite number above zero.
    """
    return Distiller((Similarity(weight=weight),))
