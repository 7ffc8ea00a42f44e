"""FID and KID through torchmetrics, on the features of an extractor that is part of their names."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from gansdk.contracts import Batch, Contract
from gansdk.errors import DataError
from gansdk.interfaces import MIN_IMAGES, REAL, Measured, Metric
from gansdk.modules.randomness import seeded
from gansdk.toolkit.options import Count, checked
from gansdk_metrics.extractors import LITE0, open_extractor


class FeatureDistance(Metric):
    """How far the features of somebody's images lie from those of the real ones, as distributions: no pairs needed.

    Every image runs through the extractor once, whomever it is compared with. Options as `open_extractor`.
    """

    kind = ""

    @checked
    def __init__(
        self, extractor: str | nn.Module = LITE0, weights: str | Path | None = None, label: str | None = None
    ) -> None:
        self._extractor = open_extractor(extractor, weights, label)
        self.name = f"{self.kind}({self._extractor.label})"
        self._features: dict[str, list[Tensor]] = {}
        self._device: torch.device | str = "cpu"

    def check(self, contract: Contract) -> None:
        super().check(contract)
        height, width = (side * contract.scale for side in contract.size)
        # A network of the user's own that gives no features is refused now, and not when the training is over.
        self._extractor.features(torch.zeros(2, contract.channels_out, height, width, dtype=torch.uint8), "cpu")

    def start(self, contract: Contract, device: torch.device | str) -> None:
        self._features, self._device = {}, device

    def update(self, who: str, images: Tensor, batch: Batch) -> None:
        self._features.setdefault(who, []).append(self._extractor.features(images, self._device))

    def result(self) -> Measured:
        features = {who: torch.cat(parts) for who, parts in self._features.items()}
        counts = {who: len(features[who]) if who in features else 0 for who in (REAL, *features)}
        if min(counts.values()) < MIN_IMAGES or len(features) < MIN_IMAGES:
            few = ", ".join(f"{count} of {who}" for who, count in counts.items())
            raise DataError(f"It needs at least {MIN_IMAGES} real and {MIN_IMAGES} generated images, but got {few}.")
        real = features.pop(REAL)
        values = {who: self._distance(real, others) for who, others in features.items()}
        return Measured(values, f"{self._described(real, features)}; {self._extractor.described}; lower is better")

    @abstractmethod
    def _distance(self, real: Tensor, others: Tensor) -> float:
        """(N, D), (M, D) -> distance."""

    @abstractmethod
    def _described(self, real: Tensor, others: Mapping[str, Tensor]) -> str:
        """What was computed on how many images."""


class FrechetDistance(FeatureDistance):
    """FID (Heusel et al., NeurIPS 2017): the Frechet distance of two Gaussians fitted to the features.

    Biased upwards for few images: compare only values of equal numbers of images, and prefer KID below some
    thousands.
    """

    kind = "fid"

    def _distance(self, real: Tensor, others: Tensor) -> float:
        from torchmetrics.image.fid import FrechetInceptionDistance

        metric = FrechetInceptionDistance(feature=_given(real.shape[1])).set_dtype(torch.float64)
        metric.update(real, real=True)
        metric.update(others, real=False)
        return float(metric.compute())

    def _described(self, real: Tensor, others: Mapping[str, Tensor]) -> str:
        count, width = max(map(len, others.values())), real.shape[1]
        few = " (fewer images than features: for comparisons within this table only)" if count <= width else ""
        return f"Frechet distance of {count} images to {len(real)} real ones in {width} features{few}"


class KernelDistance(FeatureDistance):
    """KID (Binkowski et al., ICLR 2018): the squared MMD of the features, unbiased, so it may fall below zero.

    The mean over `subsets` random draws of `subset_size` images of each side; of fewer images all that both sides
    have, and one draw where that leaves nothing to chance. The same draws of real images for everybody.

    Unbiased means for independent sets: where every generated image has its real partner in the other set, as in paired
    evaluation, the partners' similarity pulls it below zero, by an amount that falls as 1/n.

    Raises:
        InvalidOption: `subsets` below 1, or `subset_size` below 2.
    """

    kind = "kid"

    @checked
    def __init__(
        self,
        extractor: str | nn.Module = LITE0,
        weights: str | Path | None = None,
        label: str | None = None,
        *,
        subsets: Count = 100,
        subset_size: Annotated[int, Field(ge=MIN_IMAGES)] = 1000,
        seed: int = 0,
    ) -> None:
        self._subsets, self._subset_size, self._seed = subsets, subset_size, seed
        super().__init__(extractor, weights, label)

    def _draws(self, real: int, others: int) -> tuple[int, int]:
        """(subsets, images in each)."""
        size = min(self._subset_size, real, others)
        return (1 if size == real == others else self._subsets), size

    def _distance(self, real: Tensor, others: Tensor) -> float:
        from torchmetrics.image.kid import KernelInceptionDistance

        subsets, size = self._draws(len(real), len(others))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that features are kept, which is meant
            metric = KernelInceptionDistance(feature=_given(real.shape[1]), subsets=subsets, subset_size=size)
        metric.update(real, real=True)
        metric.update(others, real=False)
        with seeded(self._seed):
            return float(metric.compute()[0])

    def _described(self, real: Tensor, others: Mapping[str, Tensor]) -> str:
        count = max(map(len, others.values()))
        subsets, size = self._draws(len(real), count)
        drawn = f"all {size}" if subsets == 1 else f"{subsets} draws (seed {self._seed}) of {size}"
        return (
            f"unbiased squared MMD with the kernel (x.y/{real.shape[1]} + 1)^3, {drawn} of {count} images and of "
            f"{len(real)} real ones"
        )


def _given(features: int) -> nn.Module:
    """A network for torchmetrics that passes features on: they are extracted once, and used for everybody."""
    network = nn.Identity()
    network.num_features = features  # type: ignore[assignment]
    return network
