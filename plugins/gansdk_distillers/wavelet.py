"""The distiller "wavelet": the student's image shall have the teacher's details."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from torch import Tensor

from gansdk.contracts import Observation
from gansdk.errors import IncompatibleParts
from gansdk.interfaces import Distiller, Stage, Term
from gansdk.toolkit.options import count, names, one_of, positive
from gansdk_distillers.terms.images import Norm, gain, images
from gansdk_distillers.terms.wavelet import Bands, wavelet_distance


class Wavelet(Term):
    """Distance in bands of a wavelet transform, measured as if values ran from -1 to 1.

    That of the details alone is blind to colours and brightness.
    """

    name = "wavelet"
    needs_image = True

    def __init__(
        self, *, weight: float, basis: str, levels: int, norm: Norm, bands: Bands, routes: tuple[str, ...] | None
    ) -> None:
        self.weight = weight
        self.basis = basis
        self.levels = levels
        self.norm = norm
        self.bands = bands
        self.routes = routes
        self.anchors_low_frequencies = bands != "high"
        self._gain = 1.0

    def check(self, images: Sequence[int]) -> None:
        """Levels beyond those that fit compare borders, and no longer leave colours and brightness alone."""
        import pywt

        height, width = images[-2:]
        if self.levels > (most := pywt.dwt_max_level(min(height, width), self.basis)):
            raise IncompatibleParts(
                f"Images of {height}x{width} pixels have {most} levels of the wavelet {self.basis!r}, but levels="
                f"{self.levels}. Lower levels, choose a shorter basis, or train on larger images."
            )

    def bind(self, stage: Stage) -> None:
        self._gain = gain(stage, self.norm)

    def __call__(self, student: Observation, teacher: Observation) -> Tensor:
        return self._gain * wavelet_distance(
            *images(student, teacher), basis=self.basis, levels=self.levels, norm=self.norm, bands=self.bands
        )


def wavelet(
    weight: float = 0.4,
    basis: str = "haar",
    levels: int = 3,
    norm: str = "l1",
    bands: str = "high",
    routes: Sequence[str] | None = None,
) -> Distiller:
    """Distil by the distance between the wavelet details of both images, after WKD (Zhang et al., CVPR 2022).

    `weight` is the paper's alpha, 0.4 for CycleGAN. `levels`: three are the paper's, four the released code's. `basis`
    is any discrete wavelet of PyWavelets, with its boundary mode "zero"; the released code's options name db3 beside
    haar. `norm`: "l1", the paper's, or "l2", of images scaled to a peak-to-peak of 2; the released CycleGAN squares.
    `bands`: "high" is the method; "low" and "all" are the paper's ablation, which loses by them. `routes`: of several
    generators that are trained together only these; every one of them by default, as published for CycleGAN.

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
                bands=one_of(get_args(Bands), bands, "bands"),
                routes=None if routes is None else names(routes, "routes"),
            ),
        )
    )
