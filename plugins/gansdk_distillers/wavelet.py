"""The distiller "wavelet": the student's image shall have the teacher's details."""

from __future__ import annotations

from typing import get_args

from torch import Tensor

from gansdk.contracts import Observation
from gansdk.interfaces import Distiller, Stage, Term
from gansdk_distillers.options import count, one_of, positive
from gansdk_distillers.terms.images import Norm, gain, images
from gansdk_distillers.terms.wavelet import wavelet_distance


class Wavelet(Term):
    """Distance in the detail bands, measured as if values ran from -1 to 1; blind to colours and brightness."""

    name = "wavelet"
    needs_image = True

    def __init__(self, *, weight: float, basis: str, levels: int, norm: Norm) -> None:
        self.weight = weight
        self.basis = basis
        self.levels = levels
        self.norm = norm
        self._gain = 1.0

    def bind(self, stage: Stage) -> None:
        self._gain = gain(stage, self.norm)

    def __call__(self, student: Observation, teacher: Observation) -> Tensor:
        return self._gain * wavelet_distance(
            *images(student, teacher), basis=self.basis, levels=self.levels, norm=self.norm
        )


def wavelet(weight: float = 0.4, basis: str = "haar", levels: int = 3, norm: str = "l1") -> Distiller:
    """Distil by the distance between the wavelet details of both images, after WKD (Zhang et al., CVPR 2022).

    Three levels are the paper's, four the released code's; 0.4 is its weight for CycleGAN. `basis` is any
    discrete wavelet of PyWavelets; `norm` "l1" or "l2", of images scaled to a peak-to-peak of 2.

    Raises:
        InvalidOption: an option has a value that is not known.
    """
    import pywt

    return Distiller(
        (
            Wavelet(
                weight=positive(weight, "weight"),
                basis=one_of(pywt.wavelist(kind="discrete"), basis, "basis"),
                levels=count(levels, "levels"),
                norm=one_of(get_args(Norm), norm, "norm"),
            ),
        )
    )
