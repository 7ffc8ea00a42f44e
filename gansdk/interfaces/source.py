"""Data sources: images for training, probes and scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

from gansdk.contracts import Batch, Pairing

PROBE_STEP = 10**9
"""Probe batches are training batches of steps no training reaches."""


class DataSource(ABC):
    """Images in the contract's channels and ranges.

    No image that `train_batch` draws from is in "search" (what subnets are compared on) or "eval" (what the student is
    scored on). These two may be the same images, where only one part is held out; a run that searches warns of it.
    """

    pairing: Pairing

    @abstractmethod
    def train_batch(self, size: int, *, seed: int, step: int) -> Batch:
        """The batch of one training step: a pure function of its arguments, so a resumed run sees the same."""

    def probe(self, index: int, *, seed: int) -> Batch:
        """One image for importance, recovery and calibration: the same before, while and after anything is trained."""
        return self.train_batch(1, seed=seed, step=PROBE_STEP + index)

    def examples(self, *, seed: int) -> Iterator[Batch]:
        """A batch of one image for every size that training inputs may have; the default takes the first step's."""
        yield self.train_batch(1, seed=seed, step=0)

    @abstractmethod
    def images(self, split: Literal["search", "eval"]) -> Iterator[Batch]:
        """One pass over whole images in fixed order, one image a batch."""

    def references(self, split: Literal["search", "eval"]) -> Iterator[Batch]:
        """Real images to compare sets of images with (FID), as targets; inputs where they are known.

        The default gives those of `images(split)` that have a target. Unpaired data gives the other domain's.
        """
        return (batch for batch in self.images(split) if batch.targets)

    def describe(self) -> dict[str, Any]:
        """JSON facts for the report: where the images are from, how many, which were skipped and why."""
        return {}
