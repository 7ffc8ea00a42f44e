"""Sizes of networks to train, as users ask for them: known by name, and checked before anything is built of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from inspect import signature
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field

from gansdk.errors import InvalidOption
from gansdk.text import quoted
from gansdk.toolkit.options import AtLeastZero, Expected, Share, check
from gansdk_adapters.networks.norms import Norm
from gansdk_adapters.networks.spade import Upsampling

T = TypeVar("T")

LARGEST = 2**12
"""Of anything that a network has."""


def _odd(sides: Sequence[int]) -> tuple[int, ...]:
    if not sides or not all(side % 2 for side in sides):
        raise ValueError
    return tuple(sides)


Size = Annotated[int, Field(ge=1, le=LARGEST)]
Rate = Annotated[Share, Field(lt=1), Expected("a rate from 0 to below 1: with 1 nothing would be left")]
Kernels = Annotated[Sequence[Size], AfterValidator(_odd), Expected("a list of odd numbers, as [1, 3, 5]")]

SIZES: Mapping[str, Any] = {
    **dict.fromkeys(("width", "blocks", "downs", "labels", "channels_in", "channels_out"), Size),
    "norm": Norm,
    "upsampling": Upsampling,
    "dropout": Rate | None,
    "kernels": Kernels,
    **dict.fromkeys(("share", "hidden"), Size),
    "slope": AtLeastZero,
    **dict.fromkeys(("separable", "spectral", "deep"), bool),
}
"""What users may say of an architecture, where it has that size; all other widths follow from these."""


def sizes_from(kind: type[T], of: Callable[..., T], given: Mapping[str, Any], architecture: str) -> T:
    """What `of` makes of the given sizes; they are parameters of its own or fields of the dataclass `kind`.

    Raises:
        InvalidOption: the architecture has no such size, or it cannot have such a value; the message names those it
            has.
    """
    known = {*signature(of).parameters, *(field.name for field in fields(kind))}  # type: ignore[arg-type]
    names = [name for name in SIZES if name in known]
    for name in given:
        if name not in names:
            raise InvalidOption(
                f"The architecture {quoted(architecture)} has no size {quoted(name)}. Its sizes: {', '.join(names)}."
            )
    return of(**{name: check(SIZES[name], value, name) for name, value in given.items()})
