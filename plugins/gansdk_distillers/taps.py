"""Which feature maps the distillers of features compare."""

from __future__ import annotations

from collections.abc import Sequence

from gansdk.errors import IncompatibleParts

USUAL = 4
"""As in GAN Compression's and CAT's ResNet generators: behind the stem and after each third of the blocks."""


def chosen(name: str, requested: Sequence[str] | None, available: Sequence[str]) -> tuple[str, ...]:
    """The taps that the distiller `name` was given, or up to four of the available ones from the first to the last.

    Raises:
        IncompatibleParts: none is available, or a given one is not.
    """
    if absent := [tap for tap in requested or () if tap not in available]:
        raise IncompatibleParts(
            f"{name} has taps={list(requested or ())}, but {absent[0]!r} is not offered by both student and teacher; "
            f"choose from {', '.join(available) or 'none'}.",
            missing=("taps",),
        )
    if not available:
        raise IncompatibleParts(
            f"{name} compares feature maps, but student and teacher offer no common tap. Name some with "
            "gansdk.wrap(net, taps={...}), or distil images with 'pixel'.",
            missing=("taps",),
        )
    return tuple(requested or spread(available, USUAL))


def spread(available: Sequence[str], number: int) -> tuple[str, ...]:
    """Up to `number` of the names at even distances, the first and the last among them."""
    if len(available) <= number:
        return tuple(available)
    return tuple(available[round(i * (len(available) - 1) / (number - 1))] for i in range(number))
