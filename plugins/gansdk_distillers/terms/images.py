"""Distances between the images of student and teacher."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from gansdk.contracts import Observation
from gansdk.errors import ContractError
from gansdk.interfaces import Stage
from gansdk_distillers.terms.precision import full_precision, promoted

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
        raise ContractError("A loss on images was given observations without them; observe with image=True.")
    return student.image, teacher.image


def gain(stage: Stage, norm: Norm) -> float:
    """What a distance is multiplied by, to be that of images in [-1, 1] whatever range the student's have.

    The losses are homogeneous, so scaling the result equals scaling the images. Routes share one range.
    """
    low, high = next(iter(stage.student.contracts.values())).output_range
    scale = _PAPERS_RANGE / (high - low)
    return scale if norm == "l1" else scale**2
