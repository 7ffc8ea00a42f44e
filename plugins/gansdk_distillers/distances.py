"""Distances between the images of student and teacher."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gansdk.contracts import Observation
from gansdk.errors import ContractError
from gansdk.interfaces import Stage

Norm = Literal["l1", "l2"]
"""Mean of absolute values, or mean of squares."""

_PAPERS_RANGE = 2.0  # peak to peak of images in [-1, 1]


def difference(student: Tensor, teacher: Tensor) -> Tensor:
    """`student` - `teacher` in at least float32, with gradient to the student only.

    Raises:
        ContractError: the images differ in shape.
    """
    if student.shape != teacher.shape:
        raise ContractError(
            f"Student and teacher are compared pixel by pixel, but their images are {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}. Give both the same contract."
        )
    return promoted(student) - promoted(teacher.detach())


def magnitude(x: Tensor, norm: Norm) -> Tensor:
    """The norm's measure of every entry of `x`."""
    return x.abs() if norm == "l1" else x.square()


def pixel_distance(student: Tensor, teacher: Tensor, *, norm: Norm = "l1") -> Tensor:
    """Mean over all pixels of two (N, C, H, W) images, a 0-d tensor."""
    with full_precision(student):
        return magnitude(difference(student, teacher), norm).mean()


def images(student: Observation, teacher: Observation) -> tuple[Tensor, Tensor]:
    """Both images.

    Raises:
        ContractError: one was not observed.
    """
    if student.image is None or teacher.image is None:
        raise ContractError("A loss on images received observations without images; observe with image=True.")
    return student.image, teacher.image


def total_variation(image: Tensor, *, mean: bool = False) -> Tensor:
    """Sum of the absolute differences between neighbours in rows and columns, over the batch; or their mean."""
    with full_precision(image):
        image = promoted(image)
        across, down = (image.diff(dim=dim).abs() for dim in (-1, -2))
        total = across.sum() + down.sum()
        return total / (across.numel() + down.numel()) if mean else total


def output_range(stage: Stage) -> tuple[float, float]:
    """Lowest and highest value of the student's images. Routes share one range."""
    return next(iter(stage.student.contracts.values())).output_range


def rescaled(image: Tensor, source: tuple[float, float], target: tuple[float, float]) -> Tensor:
    """`image` in the range `target` instead of `source`."""
    if source == target:
        return image
    (low, high), (lowest, highest) = source, target
    factor = (highest - lowest) / (high - low)
    return promoted(image) * factor + (lowest - low * factor)


def gain(stage: Stage, norm: Norm) -> float:
    """What a distance is multiplied by, to be that of images in [-1, 1] whatever range the student's have.

    The losses are homogeneous, so scaling the result equals scaling the images.
    """
    low, high = output_range(stage)
    scale = _PAPERS_RANGE / (high - low)
    return scale if norm == "l1" else scale**2


def promoted(x: Tensor) -> Tensor:
    """`x` in float32, or as it is if it is more precise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(x: Tensor) -> torch.autocast:
    """A context on the device of `x` in which no operator falls back to half precision."""
    return torch.autocast(x.device.type, enabled=False)
