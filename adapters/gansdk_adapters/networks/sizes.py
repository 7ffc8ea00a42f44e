"""The numbers a super-resolution network is built from."""

from __future__ import annotations

from dataclasses import dataclass

from gansdk.errors import ContractError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What all super-resolution networks here have in common."""

    width: int
    """Channels between the blocks."""
    blocks: int
    channels: int = 3
    """Of the image, in and out."""
    scale: int = 1
    """Output side / input side."""


def upsampling_factors(scale: int) -> tuple[int, ...]:
    """Return the factors of the pixel shuffles that together enlarge by `scale`: (3,) for 3, (2, 2) for 4.

    Raises:
        ContractError: `scale` is neither 3 nor a power of two.
    """
    if scale == 3:
        return (3,)
    if scale < 1 or scale.bit_count() != 1:
        raise ContractError(f"The scale is {scale}, but pixel shuffles support only 3 and powers of two.")
    return (2,) * (scale.bit_length() - 1)
