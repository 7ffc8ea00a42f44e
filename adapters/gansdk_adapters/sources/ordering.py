"""In which order images are trained on: all of them once in every epoch, each time with random numbers of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Turn:
    """One image of a batch."""

    index: int
    """Of the image, from 0."""
    draw: np.random.Generator
    """For its crop and flip: the same for the same seed, epoch, image and domain, whatever the batch."""


def turns(images: int, size: int, *, seed: int, step: int, domain: int = 0) -> list[Turn]:
    """Whose turn it is in batch number `step` of `size` images each, in a list of `images`.

    Batches follow one another through the epochs, so that steps of the same size share no image of an epoch. A batch
    larger than the list goes on in the next epochs. `domain` tells lists apart that are drawn from in the same step,
    each in an order of its own.
    """
    places = (divmod(position, images) for position in range(step * size, (step + 1) * size))
    indices = []
    for epoch, place in places:
        index = int(_order(images, seed, epoch, domain)[place])
        indices.append(Turn(index, _random(seed, epoch, domain, index)))
    return indices


@lru_cache(maxsize=8)
def _order(images: int, seed: int, epoch: int, domain: int) -> NDArray[np.int64]:
    """The images in the order of one epoch; kept, since the next steps are nearly always of the same one."""
    order = _random(seed, epoch, domain, -1).permutation(images)
    order.flags.writeable = False
    return order


def _random(seed: int, epoch: int, domain: int, index: int) -> np.random.Generator:
    """Random numbers of one image, or for -1 of the order of all."""
    # SeedSequence fills up with zeros, so that a shorter key would be the one of image 0.
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, domain, index + 1])))
