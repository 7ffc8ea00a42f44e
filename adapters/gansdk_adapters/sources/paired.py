"""Batches of patches and of whole images over entries that are read when they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from gansdk.contracts import MAIN, Batch
from gansdk.toolkit.images import Pixels, to_tensor
from gansdk_adapters.sources.reading import Entry, Picture, Reader
from gansdk_adapters.sources.store import Store


class PairedImages:
    """Aligned inputs and targets in the contract's ranges, as patches to train on or whole.

    An entry that turns out damaged is replaced by the next one in order, warned about once and kept in `skipped`
    (name -> reason). Decoded images are kept as uint8, 256 MiB at most.
    """

    def __init__(self, entries: Sequence[Entry], reader: Reader, *, patch: int = 32) -> None:
        self._store = Store(entries, reader.read)
        self._reader = reader
        self._patch = patch

    @property
    def names(self) -> tuple[str, ...]:
        """Of all entries, in order."""
        return self._store.names

    @property
    def skipped(self) -> dict[str, str]:
        """Name -> reason, of entries that turned out damaged."""
        return self._store.skipped

    def patches(self, size: int, *, seed: int, step: int) -> Batch:
        """Cut a patch out of each of `size` images, turned and flipped at random: a pure function of the arguments.

        Inputs are squares of `patch` pixels, rounded down to the contract's multiple, or as large as the smallest
        image of the batch allows.

        Raises:
            DataError: no entry can be read.
        """
        entries = self._store.draw(size, seed=seed, step=step)
        side = self._side([picture for _, picture, _ in entries])
        pairs = [_patch(picture, side, self._reader.contract.scale, draw) for _, picture, draw in entries]
        return self._batch(pairs, tuple(entry.name for entry, _, _ in entries))

    def whole(self) -> Iterator[Batch]:
        """Give every image once, in order, one a batch. Damaged ones are left out.

        Raises:
            DataError: there are entries, but none can be read.
        """
        for entry, picture in self._store.each():
            yield self._batch([picture], (entry.name,))

    def _side(self, pictures: Sequence[Picture]) -> int:
        multiple = self._reader.contract.multiple_of
        smallest = int(min(min(picture.input.shape[:2]) for picture in pictures))
        return max(min(self._patch, smallest) // multiple, 1) * multiple

    def _batch(self, pictures: Sequence[Picture], names: tuple[str, ...]) -> Batch:
        contract = self._reader.contract
        inputs = _stacked([picture.input for picture in pictures], contract.input_range)
        targets = [picture.target for picture in pictures if picture.target is not None]
        return Batch({MAIN: inputs}, {MAIN: _stacked(targets, contract.output_range)} if targets else {}, names)


def _patch(picture: Picture, side: int, scale: int, draw: np.random.Generator) -> Picture:
    """Cut the same square out of input and target, in one of the eight positions of a square."""
    height, width = picture.input.shape[:2]
    top, left = int(draw.integers(height - side + 1)), int(draw.integers(width - side + 1))
    turns, flipped = int(draw.integers(4)), bool(draw.integers(2))

    def cut(image: Pixels, factor: int) -> Pixels:
        rows, columns = (slice(start * factor, (start + side) * factor) for start in (top, left))
        turned = np.rot90(image[rows, columns], turns)
        return turned[:, ::-1] if flipped else turned

    return Picture(cut(picture.input, 1), None if picture.target is None else cut(picture.target, scale))


def _stacked(images: Sequence[Pixels], value_range: tuple[float, float]) -> Tensor:
    return torch.stack([to_tensor(image, value_range) for image in images])
