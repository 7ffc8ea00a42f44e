"""Style and feature distances on the maps of another network (Johnson et al., ECCV 2016), as OMGD weighs them."""

from __future__ import annotations

from torch import Tensor

from gansdk_distillers.terms.precision import full_precision, promoted


def gram(features: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, C): products of channels, summed over pixels, over C * H * W."""
    with full_precision(features):
        rows = promoted(features).flatten(2)
        return rows @ (rows.mT / rows[0].numel())  # divided before the sum, which would be large


def mean_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of absolute differences, with gradient to the student only."""
    with full_precision(student):
        return (promoted(student) - promoted(teacher.detach())).abs().mean()
