"""What teacher and student make of a few images, seen in crops of two sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from gansdk.contracts import MAIN, Batch, Contract
from gansdk.errors import DataError
from gansdk.interfaces import DataSource, Student, Teacher
from gansdk.registry.isolation import returned
from gansdk.toolkit.images import Pixels, pad_to_multiple, picture, resize_bicubic, to_uint8
from gansdk.toolkit.synthetic import synthetic_input

MOST_IMAGES, SIZES = 5, 2
LARGEST = 256
"""Pixels of a side of a crop, unless a single multiple of the contract is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One crop of an image, and what the teacher made of it."""

    image: str
    x: Tensor
    """(1, channels_in, H, W)."""
    is_usual: bool
    """Whether it has the size that the network is looked at first."""
    teacher: Sight
    target: Pixels | None = None
    baseline: Pixels | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What one network made of one crop."""

    pixels: Pixels
    """Clamped to the output range, (sH, sW, channels_out); what is not finite is at its lower end."""
    finite: bool
    largest: float
    """Absolute value; infinite where the image is not finite."""
    outside: float
    """By how much it leaves the output range, as a share of it."""
    spread: float
    """Largest minus smallest value, as a share of the output range."""
    activations: Mapping[str, float]
    """tap -> largest absolute value."""


class Views(Sequence[View]):
    """Crops of the first held-out images that the teacher takes, or of synthetic ones where there are none."""

    def __init__(
        self, teacher: Teacher, source: DataSource | None, contract: Contract, device: torch.device, seed: int
    ) -> None:
        self._teacher = teacher
        self._contract = contract
        self._views = [] if source is None else self._seen(_images(source), device, source)
        self.are_synthetic = not self._views
        """Whether there was no image that the generator takes."""
        if self.are_synthetic:
            inputs = enumerate(_synthetic(contract, seed), 1)
            self._views = self._seen([Batch({MAIN: x}, {}, (f"synthetic image {n}",)) for n, x in inputs], device)

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, index: Any) -> Any:
        return self._views[index]

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """One crop of each image, by the image's name: (1, channels_in, H, W) on the CPU; none of synthetic ones."""
        crops: dict[str, Tensor] = {}
        for view in () if self.are_synthetic else self._views:
            crops.setdefault(view.image, view.x.cpu())
        return crops

    def of(self, student: Student) -> list[Sight | None]:
        """What the student makes of every crop; None where it does not take its size."""
        student.train(False)
        return [self._sight_of(student, view) for view in self._views]

    def _seen(self, batches: Sequence[Batch], device: torch.device, source: DataSource | None = None) -> list[View]:
        """Crops of all images that the teacher takes, in two sizes where it takes two."""
        views = []
        for number, batch in enumerate(batches, 1):
            name = batch.names[0] if batch.names else f"image {number}"
            target = batch.targets[MAIN] if batch.paired and MAIN in batch.targets else None
            sizes = 0
            for crop, y in _crops(batch.inputs[MAIN], target, self._contract):
                x = crop.to(device)
                sight = self._teachers(x)
                if sight is None:
                    continue  # a network of one size, say
                pixels = None if y is None else to_uint8(y[0].nan_to_num(), self._contract.output_range)
                views.append(
                    View(
                        image=name,
                        x=x,
                        is_usual=not sizes,
                        teacher=sight,
                        target=pixels if pixels is not None and pixels.shape == sight.pixels.shape else None,
                        baseline=None if source is None else self._baseline_of(x, sight.pixels),
                    )
                )
                sizes += 1
                if sizes == SIZES:
                    break
        return views

    def _teachers(self, x: Tensor) -> Sight | None:
        """What the teacher makes of a crop; None if it does not take that size."""
        try:
            return self._look(self._teacher, x)
        except Exception:  # the network's own code, which runs on the contract's size
            return None

    def _sight_of(self, student: Student, view: View) -> Sight | None:
        """What the student makes of a crop; None if it does not take what is not the contract's size."""
        try:
            return self._look(student, view.x)
        except Exception:  # as for the teacher, from which a transform may differ in what it takes
            if view.is_usual:
                raise
            return None

    def _look(self, network: Teacher | Student, x: Tensor) -> Sight | None:
        """None if the image is not of the size that the contract says."""
        taps = [tap for tap in network.taps if tap in self._teacher.taps]
        with torch.no_grad():
            seen = network.observe(x, taps)
        assert seen.image is not None
        image = seen.image[0].float()
        if image.shape != (self._contract.channels_out, *(side * self._contract.scale for side in x.shape[2:])):
            return None
        low, high = self._contract.output_range
        span = high - low
        finite = bool(image.isfinite().all())
        return Sight(
            pixels=to_uint8(image.nan_to_num(low, high, low), self._contract.output_range),
            finite=finite,
            largest=float(image.abs().max()) if finite else math.inf,
            outside=max(float(image.max()) - high, low - float(image.min()), 0.0) / span if finite else math.inf,
            spread=(float(image.max()) - float(image.min())) / span if finite else math.inf,
            activations={tap: _peak(seen.features[tap]) for tap in taps},
        )

    def _baseline_of(self, x: Tensor, like: Pixels) -> Pixels | None:
        """The input enlarged to the output's size, or as it is; None if the two are not of one kind."""
        contract = self._contract
        if contract.labels is not None or contract.channels_in != contract.channels_out or len(x[0]) not in (1, 3):
            return None
        return resize_bicubic(picture(x[0].nan_to_num(), contract.input_range), *like.shape[:2])


def _peak(feature: Tensor) -> float:
    largest = float(feature.detach().abs().max()) if feature.numel() else 0.0
    return math.inf if math.isnan(largest) else largest


def _images(source: DataSource) -> list[Batch]:
    """The first few held-out images; none where the source has none that can be read."""
    try:
        batches = list(islice(source.images("eval"), MOST_IMAGES))
    except DataError:
        return []
    return [returned(batch, Batch, source, "images") for batch in batches]


def _synthetic(contract: Contract, seed: int) -> Iterator[Tensor]:
    """Two inputs that the contract allows, (1, channels_in, H, W)."""
    for number in range(2):
        yield synthetic_input(contract, max(contract.size), seed=seed + number)


def _crops(x: Tensor, target: Tensor | None, contract: Contract) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Crops of the middle of an image and its target, the preferred sizes first.

    Of the contract's size or what there is of it, of three quarters of that, and for networks of a single size that
    is larger than `LARGEST` of this size.
    """
    step = contract.multiple_of
    if min(x.shape[2:]) < step:
        yield pad_to_multiple(x[:1], step), None
        return
    most = max(LARGEST // step, 1)
    have = tuple(side // step for side in x.shape[2:])
    whole = tuple(min(count, side // step) for count, side in zip(have, contract.size, strict=True))
    first = tuple(min(count, most) for count in whole)
    other = tuple(max(count * 3 // 4, 1) for count in first)
    if other == first:
        other = tuple(min(count + 1, limit) for count, limit in zip(first, have, strict=True))
    for counts in dict.fromkeys((first, other, whole)):
        height, width = (count * step for count in counts)
        top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
        place = (top, left, height, width)
        yield _cut(x, *place), None if target is None else _cut(target, *(contract.scale * side for side in place))


def _cut(x: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    return x[:1, :, top : top + height, left : left + width]
