"""The distiller "gka": the student's feature maps shall relate pixels as the teacher's do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from gansdk.contracts import Observation
from gansdk.errors import IncompatibleParts
from gansdk.interfaces import Distiller, Term
from gansdk.toolkit.options import names, one_of, positive
from gansdk_distillers.taps import chosen
from gansdk_distillers.terms.kernel_alignment import Variant, batch_kernel_alignment, global_kernel_alignment

Reduction = Literal["sum", "mean"]

_ALIGNMENTS = {"paper": global_kernel_alignment, "released": batch_kernel_alignment}


class KernelAlignment(Term):
    """Minus the alignment of feature maps, summed or averaged over taps; least at -taps, or -1.

    Compares the taps it was given, or, if none were, every tap of the observations it is shown.
    """

    name = "gka"

    def __init__(self, *, weight: float, variant: Variant, taps: tuple[str, ...] | None, reduction: Reduction) -> None:
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
                "gka with variant='released' compares images with each other, so it needs batches of at least 2, but "
                "steps are of 1. Raise batch_size, or leave variant out."
            )

    def __call__(self, student: Observation, teacher: Observation) -> Tensor:
        align = _ALIGNMENTS[self.variant]
        taps = self._taps or tuple(student.features)
        alignments = torch.stack([align(student.features[tap], teacher.features[tap]) for tap in taps])
        return -alignments.sum() if self.reduction == "sum" else -alignments.mean()


def gka(
    weight: float = 1.0, variant: str = "paper", taps: Sequence[str] | None = None, reduction: str = "sum"
) -> Distiller:
    """Distil by global kernel alignment of feature maps, after CAT (Jin et al., CVPR 2021).

    `variant`: "paper" (every pixel is a sample) or "released" (every image is one; saturated, and constant
    for one image, so it needs batches of 2). `taps`: names offered by the generator; up to four by default.
    `reduction`: "sum" over taps, as published, or "mean". CAT's weights on one device run from 0.4 to 5.2.

    Raises:
        InvalidOption: an option has a value that is not known.
    """
    return Distiller(
        (
            KernelAlignment(
                weight=positive(weight, "weight"),
                variant=one_of(get_args(Variant), variant, "variant"),
                taps=None if taps is None else names(taps, "taps"),
                reduction=one_of(get_args(Reduction), reduction, "reduction"),
            ),
        )
    )
