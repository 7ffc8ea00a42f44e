"""How images get their size: resized, cropped and flipped, with the defaults of the translation papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from gansdk.contracts import Contract
from gansdk.errors import DataError, InvalidOption
from gansdk.text import quoted
from gansdk.toolkit.options import HeightWidth, checked
from gansdk_adapters.sources.reading import Size

Preprocess = Literal["resize-and-crop", "resize", "scale-width", "scale-width-and-crop", "crop", "none"]
"""What is done to an image before training: to both sides, to its width with the height following, or nothing."""

MOST_PIXELS = 2**27
"""Of an enlarged image: about what Pillow reads."""
LOAD, CROP = 286, 256
"""pix2pix, CycleGAN and GauGAN on COCO load images at 286x286 and train on random crops of 256x256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """The size images are resized to, and of the random crop that follows."""

    kind: Literal["fixed", "width", "keep"]
    load: Size
    """What "fixed" resizes to; "width" takes the width of it, and the image's own proportions."""
    crop: Size | None
    """At most; None crops only what exceeds the multiple, or the smallest image of a batch."""
    flip: bool
    multiple: int

    def loaded(self, size: Size) -> Size:
        """The size an image of `size` is resized to.

        Raises:
            DataError: the image is smaller than the network's multiple, before or after; or it would be too large.
        """
        self._check(size, "")
        if self.kind == "keep":
            return size
        height, width = self.load
        if self.kind == "width":
            height = round(size[0] * width / size[1] / self.multiple) * self.multiple
            self._check((height, width), f", scaled to {height}x{width},")
        if height * width > MOST_PIXELS:
            raise DataError(
                f"It is {size[0]}x{size[1]} pixels, and {height}x{width} would be more than {MOST_PIXELS:,}. Lower "
                "load_size or crop_size."
            )
        return height, width

    def cropped(self, sizes: Sequence[Size]) -> Size:
        """The size of the crops of a batch of resized images: multiples, and inside every one of them."""
        wanted = [*sizes, self.crop] if self.crop else sizes
        height, width = (min(sides) // self.multiple * self.multiple for sides in zip(*wanted, strict=True))
        return height, width

    def describe(self) -> dict[str, Any]:
        """JSON facts."""
        load = {"fixed": list(self.load), "width": self.load[1], "keep": None}[self.kind]
        return {"load": load, "crop": None if self.crop is None else list(self.crop), "flip": self.flip}

    def _check(self, size: Size, scaled: str) -> None:
        if min(size) < self.multiple:
            raise DataError(
                f"It is {size[0]}x{size[1]} pixels{scaled} but this generator needs sides of at least {self.multiple}, "
                "the multiple of its sides. Remove it from the folder, or resize it."
            )


@checked
def for_training(
    contract: Contract,
    *,
    preprocess: str | None = None,
    load_size: HeightWidth | None = None,
    crop_size: HeightWidth | None = None,
    flip: bool = True,
) -> Preparation:
    """Return how training images are prepared; what is left out follows the contract's size.

    `preprocess` is "resize-and-crop", or "scale-width" for label maps that are not square (GauGAN on Cityscapes:
    width 512 and flips only); "resize_and_crop" and the like mean the same. Crops have the contract's size.
    "resize-and-crop" and "scale-width-and-crop" load 286/256 of the sides of the crop or of the contract's size,
    whichever is larger, and "scale-width" and "resize" those of the crop.

    Raises:
        InvalidOption: a value that does not exist, or a crop that is no multiple, or larger than what is loaded.
    """
    usual_kind = "scale-width" if contract.labels and len(set(contract.size)) > 1 else "resize-and-crop"
    kind = usual_kind if preprocess is None else preprocess.replace("_", "-")
    if kind not in get_args(Preprocess):
        raise InvalidOption(f"preprocess={quoted(preprocess)} is none of {', '.join(get_args(Preprocess))}.")
    crop = crop_size or contract.size
    if any(side % contract.multiple_of for side in crop):
        raise InvalidOption(
            f"The crop of {crop[0]}x{crop[1]} pixels does not fit this generator: both sides must be multiples of "
            f"{contract.multiple_of}. Change crop_size (or patch)."
        )
    enlarged = kind in ("resize-and-crop", "scale-width-and-crop")
    larger = max(crop, contract.size, key=min)
    usual = (round(larger[0] * LOAD / CROP), round(larger[1] * LOAD / CROP)) if enlarged else crop
    load = load_size or usual
    if enlarged and any(whole < part for whole, part in zip(load, crop, strict=True)):
        raise InvalidOption(
            f"The crop of {crop[0]}x{crop[1]} pixels is larger than the loaded {load[0]}x{load[1]}. Raise load_size, "
            "or lower crop_size (or patch)."
        )
    return Preparation(
        kind="keep" if kind in ("crop", "none") else "width" if kind.startswith("scale-width") else "fixed",
        load=load,
        crop=crop if kind.endswith("crop") else None,
        flip=flip,
        multiple=contract.multiple_of,
    )


def for_evaluation(contract: Contract, training: Preparation) -> Preparation:
    """Return how whole images are prepared: resized to the contract's size, or as little as in training."""
    return Preparation(kind=training.kind, load=contract.size, crop=None, flip=False, multiple=contract.multiple_of)
