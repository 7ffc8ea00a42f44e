"""The distiller "wavelet": the student's image shall have the teacher's details."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gansdk.contracts import Observation
from gansdk.errors import IncompatibleParts
from gansdk.interfaces import Distiller, Stage, Term
from gansdk.toolkit.options import Count, Names, Positive, checked, one_of
from gansdk_distillers.distances import Norm, difference, full_precision, gain, images, magnitude

Details = tuple[Tensor, Tensor, Tensor]
"""(cH, cV, cD) of one level, each (N, C, H, W): details across rows, across columns, across both."""
Bands = Literal["high", "low", "all"]
"""The details of every level, the low band behind the last one, or both."""


def wavelet_distance(
    student: Tensor,
    teacher: Tensor,
    *,
    basis: str = "haar",
    levels: int = 3,
    norm: Norm = "l1",
    bands: Bands = "high",
) -> Tensor:
    """Sum over levels of the mean over images, channels, the three detail bands and space; a 0-d tensor.

    The transform is linear, so one transform of the difference serves. The low band is left out, as in the paper: a
    constant added to the student's image changes nothing (exactly for haar on sides divisible by 2**levels, up to the
    border otherwise), and something else has to hold colours and brightness. Levels weigh the same, so the coarse ones,
    whose coefficients are larger, dominate. The other `bands` are those of the paper's ablation: the mean over the low
    band of the last level, alone or added to the details'.
    """
    with full_precision(student):
        rest = difference(student, teacher)
        total = rest.new_zeros(())
        for _ in range(levels):
            rest, details = transform(rest, basis)
            if bands != "low":
                for band in details:
                    total = total + magnitude(band, norm).mean() / len(details)
        return total if bands == "high" else total + magnitude(rest, norm).mean()


def transform(x: Tensor, basis: str) -> tuple[Tensor, Details]:
    """One level of (N, C, H, W): the low band and the details, equal to PyWavelets' `dwt2(mode="zero")`.

    Sides become (side + filter length - 1) // 2; beyond its border an image counts as zero.
    """
    return _haar(x) if basis in ("haar", "db1") else _filtered(x, basis)


def _haar(x: Tensor) -> tuple[Tensor, Details]:
    height, width = x.shape[-2:]
    if height % 2 or width % 2:
        x = F.pad(x, (0, width % 2, 0, height % 2))
    # Splitting a dimension is a view whose gradient is one pass; strided slices cost a zero-filled image each.
    upper, lower = torch.unflatten(x, -2, (-1, 2)).unbind(-2)
    low, high = upper + lower, upper - lower
    low_left, low_right = torch.unflatten(low, -1, (-1, 2)).unbind(-1)
    high_left, high_right = torch.unflatten(high, -1, (-1, 2)).unbind(-1)
    details = (high_left + high_right) / 2, (low_left - low_right) / 2, (high_left - high_right) / 2
    return (low_left + low_right) / 2, details


def _filtered(x: Tensor, basis: str) -> tuple[Tensor, Details]:
    """Along rows, then along columns, each time by the low and the high filter at every second place."""
    filters = _filters(basis, x.dtype, x.device)
    length = filters.shape[1]
    height, width = x.shape[-2:]
    planes = F.pad(x.flatten(0, 1)[:, None], (*_padding(width, length), *_padding(height, length)))
    along_rows = F.conv2d(planes, filters[:, None, None, :], stride=(1, 2))
    bands = F.conv2d(along_rows, filters.repeat(2, 1)[:, None, :, None], stride=(2, 1), groups=2)
    low, across_rows, across_columns, both = torch.unflatten(bands, 0, x.shape[:2]).unbind(2)
    return low, (across_rows, across_columns, both)


@lru_cache(maxsize=32)  # making them anew would stop every step to copy them to the device
@torch.inference_mode(False)  # the first call may be an inference, later ones a training
def _filters(basis: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(2, length): low and high decomposition filter, reversed: torch correlates where a transform convolves."""
    import pywt

    wavelet = pywt.Wavelet(basis)
    return torch.tensor([wavelet.dec_lo[::-1], wavelet.dec_hi[::-1]], dtype=dtype, device=device)


def _padding(side: int, length: int) -> tuple[int, int]:
    """Zeros before and behind, so that every second place gives (side + length - 1) // 2 outputs."""
    outputs = (side + length - 1) // 2
    return length - 2, 2 * outputs - side


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


@checked
def wavelet(
    weight: Positive = 0.4,
    basis: str = "haar",
    levels: Count = 3,
    norm: Norm = "l1",
    bands: Bands = "high",
    routes: Names | None = None,
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

    one_of(pywt.wavelist(kind="discrete"), basis, "basis")
    only = None if routes is None else tuple(routes)
    return Distiller((Wavelet(weight=weight, basis=basis, levels=levels, norm=norm, bands=bands, routes=only),))
