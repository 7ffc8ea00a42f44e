"""The distiller "gka": the student's feature maps shall relate pixels as the teacher's do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from gansdk.contracts import Observation
from gansdk.errors import ContractError, IncompatibleParts
from gansdk.interfaces import Distiller, Term
from gansdk.toolkit.options import Names, Positive, checked
from gansdk_distillers.distances import full_precision, promoted
from gansdk_distillers.taps import chosen

Variant = Literal["paper", "released"]
_SMALLEST_ENERGY = 1e-24  # features whose squares sum to less count as zero, which aligns with nothing
_SMALLEST_NORM = 1e-12  # of a Gram matrix of trace 1; a true one of c rows has at least 1 / sqrt(c)


def global_kernel_alignment(student: Tensor, teacher: Tensor) -> Tensor:
    """GKA in [0, 1], a 0-d tensor: every pixel of every image is a sample, channels are features.

    `student` (N, C1, H, W) and `teacher` (N, C2, H, W) become X (NHW, C1) and Y (NHW, C2); the NHW x NHW
    Grams are never built, because <XX', YY'> = |Y'X|^2 and |XX'| = |X'X|. Defined from one image on. Feature
    maps of zeros give 0. Gradient to the student only. CAT (Jin et al., CVPR 2021).

    Raises:
        ContractError: the maps differ in N, H or W.
    """
    if student.shape[:1] + student.shape[2:] != teacher.shape[:1] + teacher.shape[2:]:
        raise ContractError(
            f"Kernel alignment compares feature maps pixel by pixel, but the student's is {tuple(student.shape)} and "
            f"the teacher's {tuple(teacher.shape)}. Tap layers of equal N, H and W."
        )
    with full_precision(student):
        x, y = _pixels(student), _pixels(teacher.detach())
        x_gram, x_energy = _gram(x.mT)
        y_gram, y_energy = _gram(y.mT)
        cross = (y.mT @ x) / (x_energy.sqrt() * y_energy.sqrt())
        return cross.square().sum() / _norms(x_gram, y_gram)


def batch_kernel_alignment(student: Tensor, teacher: Tensor) -> Tensor:
    """The released code's alignment in [0, 1], a 0-d tensor: every image is a sample, everything else a feature.

    `student` (N, ...) and `teacher` (N, ...) may differ in all but N. Of one image it is 1 whatever the
    features are, and of non-negative features close to 1; hence the paper's form is the default.

    Raises:
        ContractError: the batches differ in size.
    """
    if len(student) != len(teacher):
        raise ContractError(
            f"Kernel alignment compares the same images, but the student's batch is {len(student)} and the teacher's "
            f"{len(teacher)}."
        )
    with full_precision(student):
        x_gram, _ = _gram(promoted(student).flatten(1))
        y_gram, _ = _gram(promoted(teacher.detach()).flatten(1))
        return (x_gram * y_gram).sum() / _norms(x_gram, y_gram)


def _pixels(features: Tensor) -> Tensor:
    """(N, C, ...) -> (N..., C). Moving the channels first matters: a plain view would mix pixels with channels."""
    return promoted(features).movedim(1, -1).flatten(0, -2)


def _gram(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The Gram matrix of the rows, divided by its trace, and that trace.

    Scaled so, sums of squares stay far from overflow for any features. The alignment does not depend on the
    scale, so nothing is lost by keeping gradients out of the trace.
    """
    gram = rows @ rows.mT
    energy = gram.detach().trace().clamp_min(_SMALLEST_ENERGY)
    return gram / energy, energy


def _norms(x_gram: Tensor, y_gram: Tensor) -> Tensor:
    product: Tensor = torch.linalg.vector_norm(x_gram) * torch.linalg.vector_norm(y_gram)
    return product.clamp_min(_SMALLEST_NORM)


Reduction = Literal["sum", "mean"]

_ALIGNMENTS = {"paper": global_kernel_alignment, "released": batch_kernel_alignment}


class KernelAlignment(Term):
    """Minus the alignment of feature maps, summed or averaged over taps; least at -taps, or -1.

    Compares the taps it was given, or, if none were, every tap of the observations it is shown.
    """

    name = "gka"

    def __init__(self, *, weight: float, variant: Variant, taps: Sequence[str] | None, reduction: Reduction) -> None:
        self.weight = weight
        self.variant = variant
        self.reduction = reduction
        self._taps = taps

    def taps(self, available: Sequence[str]) -> tuple[str, ...]:
        """Those it was given, or up to four from the first to the last.

        Raises:
            IncompatibleParts: there are none, or a given one is not available.
        """
        return chosen(self.name, self._taps, available)

    def check(self, images: Sequence[int]) -> None:
        if self.variant == "released" and images[0] < 2:
            raise IncompatibleParts(
                "gka with variant='released' compares images with each other, so it needs batches of at least 2 "
                "images, but gets 1. Increase batch_size, or omit variant."
            )

    def __call__(self, student: Observation, teacher: Observation) -> Tensor:
        align = _ALIGNMENTS[self.variant]
        taps = self._taps or tuple(student.features)
        alignments = torch.stack([align(student.features[tap], teacher.features[tap]) for tap in taps])
        return -alignments.sum() if self.reduction == "sum" else -alignments.mean()


@checked
def gka(
    weight: Positive = 1.0, variant: Variant = "paper", taps: Names | None = None, reduction: Reduction = "sum"
) -> Distiller:
    """Distil by global kernel alignment of feature maps, after CAT (Jin et al., CVPR 2021).

    `variant`: "paper" (every pixel is a sample) or "released" (every image is one; saturated, and constant
    for one image, so it needs batches of 2). `taps`: names offered by the generator; up to four by default.
    `reduction`: "sum" over taps, as published, or "mean". CAT's weights on one device run from 0.4 to 5.2.

    Raises:
        InvalidOption: an option has a value that is not known.
    """
    return Distiller((KernelAlignment(weight=weight, variant=variant, taps=taps, reduction=reduction),))
