"""How files become the input, and where there is one the target, of a generator."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gansdk.contracts import Contract, Pairing
from gansdk.errors import ContractError, DataError, GansdkWarning
from gansdk.text import quoted
from gansdk.toolkit.images import Pixels, image_size, read_image, resize_bicubic, to_tensor, to_uint8

Degrade = Callable[[Tensor], Tensor]
"""(N, channels_out, sH, sW) in output_range -> (N, channels_in, H, W) in input_range."""

Size = tuple[int, int]
"""(H, W) in pixels."""

_NAMED_AT_MOST = 10


@dataclass(frozen=True, slots=True)
class Entry:
    """One image, or one pair of input and target, not yet read."""

    name: str
    """Unique within its source."""
    path: Path
    """The input of a pair, or the only image."""
    target: Path | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """What one entry holds: an input (H, W, channels_in) and perhaps a target (sH, sW, channels_out)."""

    input: Pixels
    target: Pixels | None

    @property
    def bytes(self) -> int:
        """Memory in bytes."""
        return self.input.nbytes + (0 if self.target is None else self.target.nbytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads entries as the contract wants them: sides are cropped (right and bottom) to its multiples.

    A lone image is the target of a generator that enlarges (`scale`, `pre_upsampled`) or that has a `degrade`; its
    input is made from it by `degrade` or else by Pillow's antialiased bicubic filter, and rounded to 8 bits as image
    files are. For any other generator a lone image is an input without a target.

    Raises:
        DataError: the contract has channels that photographs do not have.
    """

    contract: Contract
    degrade: Degrade | None = None

    def __post_init__(self) -> None:
        for channels in (self.contract.channels_in, self.contract.channels_out):
            if channels not in (1, 3):
                raise DataError(
                    f"The generator has images of {channels} channels, but image files give 1 (luma) or 3 (RGB). "
                    "Pass your own gansdk.DataSource."
                )

    @property
    def makes_pairs(self) -> bool:
        """Whether the input of a lone image is made from it."""
        return self.contract.scale > 1 or self.contract.pre_upsampled > 1 or self.degrade is not None

    def pairing(self, entries: Iterable[Entry]) -> Pairing:
        """How inputs and targets of these entries belong together."""
        paired = self.makes_pairs or any(entry.target is not None for entry in entries)
        return Pairing.PAIRED if paired else Pairing.INPUTS_ONLY

    def check(self, entry: Entry) -> None:
        """Look at the headers only.

        Raises:
            DataError: a file is no image, is too small, or the sides of a pair do not belong together.
        """
        size = image_size(entry.path)
        if entry.target is not None:
            self._input_size_of_pair(entry, size, image_size(entry.target))
        elif self.makes_pairs:
            self._target_size(entry, size)
        else:
            self._cropped(entry, size, self.contract.multiple_of)

    def read(self, entry: Entry) -> Picture:
        """Decode an entry.

        Raises:
            DataError: as `check`, or a file is damaged behind its header.
            ContractError: `degrade` gives an image of the wrong shape.
        """
        if entry.target is not None:
            return self._read_pair(entry, entry.target)
        if self.makes_pairs:
            return self._make_pair(entry)
        image = read_image(entry.path, _channels(self.contract.channels_in))
        return Picture(_crop(image, self._cropped(entry, _size(image), self.contract.multiple_of)), None)

    def _read_pair(self, entry: Entry, path: Path) -> Picture:
        image = read_image(entry.path, _channels(self.contract.channels_in))
        target = read_image(path, _channels(self.contract.channels_out))
        height, width = self._input_size_of_pair(entry, _size(image), _size(target))
        enlarge, scale = self._enlarge(_size(image), _size(target)), self.contract.scale
        if enlarge > 1:
            image = resize_bicubic(image, image.shape[0] * enlarge, image.shape[1] * enlarge)
        return Picture(_crop(image, (height, width)), _crop(target, (height * scale, width * scale)))

    def _make_pair(self, entry: Entry) -> Picture:
        image = read_image(entry.path, _channels(self.contract.channels_out))
        target = _crop(image, self._target_size(entry, _size(image)))
        if self.degrade is not None:
            return Picture(self._degraded(target, self.degrade), target)
        if self.contract.channels_in != self.contract.channels_out:
            image = read_image(entry.path, _channels(self.contract.channels_in))
        return Picture(self._shrunk(_crop(image, _size(target))), target)

    def _shrunk(self, image: Pixels) -> Pixels:
        """To 1 / (scale * pre_upsampled), and enlarged again by pre_upsampled."""
        (height, width), scale, again = _size(image), self.contract.scale, self.contract.pre_upsampled
        small = resize_bicubic(image, height // (scale * again), width // (scale * again))
        return small if again == 1 else resize_bicubic(small, height // scale, width // scale)

    def _degraded(self, target: Pixels, degrade: Degrade) -> Pixels:
        with torch.no_grad():
            image = _called(degrade, to_tensor(target, self.contract.output_range)[None])
        height, width = (side // self.contract.scale for side in _size(target))
        if image.shape != (1, self.contract.channels_in, height, width):
            raise ContractError(
                f"degrade() returned shape {tuple(image.shape)} for a {_text(_size(target))} image, but the generator "
                f"takes (1, {self.contract.channels_in}, {height}, {width}). Correct degrade= or omit it."
            )
        return to_uint8(image[0], self.contract.input_range)

    def _target_size(self, entry: Entry, size: Size) -> Size:
        step = self.contract.scale * lcm(self.contract.pre_upsampled, self.contract.multiple_of)
        return self._cropped(entry, size, step)

    def _input_size_of_pair(self, entry: Entry, size: Size, target: Size) -> Size:
        """Size of the cropped input. The target may be larger by the remainder of a division, never smaller."""
        enlarge = self._enlarge(size, target)
        full = (size[0] * enlarge, size[1] * enlarge)
        factor = self.contract.scale * enlarge
        if not all(0 <= big - small * factor < factor for big, small in zip(target, size, strict=True)):
            expected = (size[0] * self.contract.scale, size[1] * self.contract.scale)
            raise DataError(
                f"The pair {entry.name!r} has an input of {_text(size)} and a target of {_text(target)}, but the "
                f"generator turns that input into {_text(expected)}. Use pairs of scale {self.contract.scale}."
            )
        return self._cropped(entry, full, self.contract.multiple_of)

    def _enlarge(self, size: Size, target: Size) -> int:
        """Factor to enlarge a given input by: small ones are accepted where the generator takes enlarged ones."""
        again = self.contract.pre_upsampled
        return again if target[0] >= size[0] * self.contract.scale * again else 1

    def _cropped(self, entry: Entry, size: Size, step: int) -> Size:
        if min(size) < step:
            raise DataError(
                f"The image {entry.name!r} is {_text(size)} pixels, but this generator needs sides of at least {step}. "
                "Remove it from the folder."
            )
        return size[0] // step * step, size[1] // step * step


def usable(entries: Iterable[Entry], reader: Reader, *, skipped: dict[str, str]) -> tuple[Entry, ...]:
    """Return the entries whose headers are in order; the others join `skipped` (name -> reason) with one warning.

    Raises:
        DataError: none is left.
    """
    good = []
    for entry in entries:
        try:
            reader.check(entry)
        except DataError as error:
            skipped[entry.name] = str(error)
        else:
            good.append(entry)
    if not good:
        raise DataError(f"No usable image is left. {_reasons(skipped)} Provide at least one usable image.")
    if skipped:
        warnings.warn(_reasons(skipped), GansdkWarning, stacklevel=3)
    return tuple(good)


def _reasons(skipped: dict[str, str]) -> str:
    named = " ".join([reason for _, reason in sorted(skipped.items())][:_NAMED_AT_MOST])
    more = f" And {len(skipped) - _NAMED_AT_MOST} more." if len(skipped) > _NAMED_AT_MOST else ""
    return f"{len(skipped)} skipped: {named}{more}"


def _called(degrade: Degrade, target: Tensor) -> Tensor:
    try:
        image: object = degrade(target)
    except Exception as error:  # anybody's function
        raise ContractError(f"degrade() failed on an image ({type(error).__name__}: {quoted(str(error))}).") from error
    if not isinstance(image, Tensor):
        raise ContractError(
            f"degrade() returned {quoted(image)}, not a tensor. Pass a function from tensor to tensor, or omit it."
        )
    return image


def _channels(number: int) -> Literal[1, 3]:
    return 1 if number == 1 else 3


def _size(image: Pixels) -> Size:
    return image.shape[0], image.shape[1]


def _crop(image: Pixels, size: Size) -> Pixels:
    return image[: size[0], : size[1]]


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
