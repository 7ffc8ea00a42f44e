"""Metrics: measures of sets of images, and of one image after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gansdk.contracts import Batch, Contract
from gansdk.errors import InvalidOption
from gansdk.text import quoted
from gansdk.validation.signatures import plain_number


@dataclass(frozen=True, slots=True)
class Quality:
    """One metric of teacher and student on the same images, and how it was measured."""

    metric: str
    """"psnr-y", "kid(efficientnet-lite0)": the name says the protocol and the network behind it."""
    reference: str
    """"ground-truth" or "teacher"."""
    teacher: float | None
    student: float
    images: int
    protocol: str
    extra: Mapping[str, float] = field(default_factory=dict)
    """The same metric for baselines, e.g. {"bicubic": 28.43}."""
    worst: float | None = None
    """The student's value on its worst image, where images are measured one by one."""
    worst_image: str = ""
    """The name of that image."""


REAL = "real"
"""Who made the images that others are compared with."""
STUDENT, TEACHER = "student", "teacher"
GROUND_TRUTH = "ground-truth"
MIN_IMAGES = 2
"""Fewer have no distribution."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a metric found."""

    values: Mapping[str, float]
    """who -> value; whoever has none is left out."""
    protocol: str
    """One sentence without a full stop: what was computed, on what, and which way is better."""

    def __post_init__(self) -> None:
        """Raise TypeError unless there is a number for the student, and numbers only."""
        values = self.values if isinstance(self.values, Mapping) else {}
        numbers = {who: plain_number(value) for who, value in values.items()}
        if STUDENT not in numbers or not all(isinstance(value, (int, float)) for value in numbers.values()):
            raise TypeError(
                f"A metric returned {quoted(self.values)}; a mapping of numbers was expected, with one for {STUDENT!r}."
            )
        if not isinstance(self.protocol, str):
            raise TypeError(f"A metric has the protocol {quoted(self.protocol)}; one sentence was expected.")


class Metric(ABC):
    """A measure of sets of images; the same images in any order and batches give the same value.

    One evaluation calls `start`, then `update` for every batch of everybody's images, then `result`.
    """

    name: str
    """With all that numbers depend on: "kid(efficientnet-lite0)", never "kid"."""
    lower_is_better: bool = True

    def check(self, contract: Contract) -> None:
        """Say before any work whether images of this contract can be measured.

        Raises:
            InvalidOption: they cannot.
        """
        if contract.channels_out not in (1, 3):
            raise InvalidOption(
                f"{self.name} measures images of 1 or 3 channels, but the generator makes {contract.channels_out}. "
                "Omit this metric."
            )

    @abstractmethod
    def start(self, contract: Contract, device: torch.device | str) -> None:
        """Forget all images, and compute on `device` from now on."""

    @abstractmethod
    def update(self, who: str, images: Tensor, batch: Batch) -> None:
        """Take in images: uint8 (N, 1 or 3, H, W) on the CPU.

        `who` made them: "real" (then in no certain pairing with the others), "teacher", "student", or a baseline.
        `batch` is what they were made from, or where the real ones are from: its inputs, if any, and its names.
        """

    @abstractmethod
    def result(self) -> Measured:
        """The values of all who showed images since `start`.

        Raises:
            DataError: there are too few images.
        """
