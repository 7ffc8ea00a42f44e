"""From made images to the teacher's inputs, and from its outputs back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from gansdk.contracts import Contract
from gansdk.toolkit.resampling import bicubic


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
