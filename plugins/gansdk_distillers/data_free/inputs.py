"""What a generator's inputs look like, whether they can be made, and of which size."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gansdk.contracts import Contract
from gansdk.errors import GansdkWarning, IncompatibleParts, InvalidOption, Unsupported
from gansdk.generators.joint import the_only
from gansdk.generators.patches import fitting_patch
from gansdk.interfaces import Generator, Teacher
from gansdk.modules.weights import fingerprint
from gansdk.pipeline.opening import open_generator
from gansdk.toolkit.resampling import bicubic
from gansdk_distillers.data_free.network import GRID

ENLARGED_PATCH = 48
"""Side of inputs that are enlarged already."""
SCALES = (2, 3, 4)
"""Factors of enlargement that one pre-upsampled network serves."""
NO_WAY_BACK = (
    "Data-free distillation keeps generated inputs realistic by requiring that the teacher's image, downscaled, gives "
    "the input back. Translation at one resolution has no such inverse. Choose another distiller and pass data, or "
    "opt in to one of two ways that no paper has tested: cycle='folder or checkpoint of the reverse generator', or "
    "reconstruction_weight=0."
)


def check_possible(generator: Generator, *, reconstruction_weight: float, cycle: str | None) -> None:
    """Refuse a generator whose inputs cannot be made, and warn where nothing keeps them like real ones.

    Raises:
        IncompatibleParts: the reason is in the message.
    """
    if generator.contract.labels is not None:
        raise IncompatibleParts(
            "Data-free distillation generates inputs with a network of continuous outputs, but this generator takes "
            "label maps, whose values are 0 or 1. Pass label maps as data, and choose another distiller."
        )
    enlarged = generator.contract.pre_upsampled > 1
    if reconstruction_weight and cycle is None and not enlarged and not _has_way_back(generator):
        raise IncompatibleParts(NO_WAY_BACK, missing=("degrade",))
    if not reconstruction_weight:
        warnings.warn(
            "reconstruction_weight=0: nothing keeps the generated inputs similar to the generator's real ones, and "
            "all of them may become alike (mode collapse). Judge the student only by its scores on real images.",
            GansdkWarning,
            stacklevel=2,
        )


def _has_way_back(generator: Generator) -> bool:
    """Whether a black image can be degraded; adapters say that they cannot by raising."""
    contract = generator.contract
    shape = (1, contract.channels_out, *(contract.scale * side for side in contract.size))
    try:
        generator.adapter.degrade(torch.full(shape, contract.output_range[0]))
    except Unsupported:
        return False
    return True


def input_sizes(generator: Generator, *, patch: int | None, scales: Sequence[int] | None) -> dict[int, tuple[int, int]]:
    """Scale -> (H, W) of the images to make; the scale is 1 unless inputs are enlarged before the network.

    `patch` is the side of the network's inputs: 48 if left out for enlarged ones, what fits networks that enlarge, and
    else the contract's size.

    Raises:
        InvalidOption: the generator does not take images of that size, or no scales.
    """
    contract = generator.contract
    if contract.pre_upsampled > 1:
        side = patch or ENLARGED_PATCH
        return {scale: (side // scale, side // scale) for scale in scales or SCALES}
    if scales is not None:
        raise InvalidOption(
            f"scales={list(scales)} is only for networks whose inputs are upscaled beforehand, such as VDSR. Omit it: "
            "this network has a single scale."
        )
    usual = (fitting_patch(generator),) * 2 if contract.scale > 1 else contract.size
    size = usual if patch is None else (patch, patch)
    if wrong := [side for side in size if side // GRID * GRID % contract.multiple_of]:
        raise InvalidOption(
            f"Inputs of {size[0]}x{size[1]} pixels do not fit: {wrong[0] // GRID * GRID} is not a multiple of "
            f"{contract.multiple_of}. Pass another patch."
        )
    return {1: size}


def open_reverse(path: str, generator: Generator) -> tuple[Generator, str]:
    """The generator that leads from the teacher's images back to its inputs, and the fingerprint of its weights.

    Raises:
        IncompatibleParts: it takes or gives other images, or is the generator itself.
        GansdkError: it cannot be opened, or is several.
    """
    reverse = the_only(open_generator(path, generator.adapter))
    weights = fingerprint(reverse.module)
    if weights == fingerprint(generator.module):
        raise IncompatibleParts(f"cycle={path!r} is the generator that is compressed. Pass the reverse generator.")
    forth, back = generator.contract, reverse.contract
    if (
        (back.channels_in, back.channels_out, back.scale * forth.scale) != (forth.channels_out, forth.channels_in, 1)
        or back.input_range != forth.output_range
        or back.output_range != forth.input_range
    ):
        raise IncompatibleParts(
            f"cycle={path!r} is not the reverse generator: it maps {back.channels_in} channels in {back.input_range} "
            f"to {back.channels_out} in {back.output_range}, but the generator maps {forth.channels_in} in "
            f"{forth.input_range} to {forth.channels_out} in {forth.output_range}."
        )
    return reverse, weights


def image_of(teacher: Teacher) -> Callable[[Tensor], Tensor]:
    """What it makes of an image, and nothing else."""

    def image(x: Tensor) -> Tensor:
        output = teacher.observe(x).image
        assert output is not None
        return output

    return image


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """What lies between an image in [0, 1] and the teacher, on both sides of it.

    Inputs of pre-upsampled networks (VDSR) are images enlarged by `scale`, which 1 stands for everywhere else.
    """

    contract: Contract
    degrade: Callable[[Tensor], Tensor] | None = None
    """The input that a teacher's image came from, both in the contract's ranges; pre-upsampled networks need none."""

    def enter(self, made: Tensor, scale: int = 1) -> Tensor:
        """(N, C, h, w) in [0, 1] -> what the teacher takes."""
        if self.contract.pre_upsampled > 1:
            made = bicubic(made, scale * made.shape[2], scale * made.shape[3]).clamp(0, 1)
        low, high = self.contract.input_range
        return low + (high - low) * made

    def back(self, image: Tensor, scale: int = 1) -> Tensor:
        """The teacher's image -> (N, C, h, w) in [0, 1], to be compared with what was made."""
        if self.contract.pre_upsampled > 1:
            low, high = self.contract.output_range
            image = (image - low) / (high - low)
            return bicubic(image, image.shape[2] // scale, image.shape[3] // scale).clamp(0, 1)
        assert self.degrade is not None
        low, high = self.contract.input_range
        return (self.degrade(image) - low) / (high - low)
