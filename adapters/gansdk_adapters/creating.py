"""Sizes of networks to train, as users ask for them: known by name, and checked before anything is built of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from inspect import signature
from typing import Any, TypeVar, get_args

from gansdk.errors import InvalidOption
from gansdk.text import quoted
from gansdk.toolkit.options import at_least_zero, count, flag, one_of, share
from gansdk.validation.signatures import plain_number
from gansdk_adapters.networks.norms import Norm
from gansdk_adapters.networks.spade import Upsampling

T = TypeVar("T")

LARGEST = 2**12


def rate(number: object, option: str) -> float:
    """`number` as a float, if it is a rate of dropout: a number from 0 to below 1.

    Raises:
        InvalidOption: it is not.
    """
    if (value := share(number, option)) < 1:
        return value
    raise InvalidOption(f"{option}={quoted(number)} must be a number in [0, 1).")


def kernels(given: object, option: str) -> tuple[int, ...]:
    """`given` as a tuple, if it is a list of odd sides of kernels.

    Raises:
        InvalidOption: it is not.
    """
    if isinstance(given, (list, tuple)) and given and all(map(_is_odd, given)):
        return tuple(int(side) for side in given)
    raise InvalidOption(f"{option}={quoted(given)} must be a list of odd numbers, as [1, 3, 5].")


def _is_odd(side: object) -> bool:
    plain = plain_number(side)
    return isinstance(plain, int) and not isinstance(plain, bool) and 0 < plain <= LARGEST and plain % 2 == 1


def size_of(given: object, option: str) -> int:
    """`given`, if it is an integer that a network can have of anything.

    Raises:
        InvalidOption: it is not.
    """
    if (size := count(given, option)) <= LARGEST:
        return size
    raise InvalidOption(f"{option}={quoted(given)} must be at most {LARGEST}.")


CHECKS: Mapping[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(("width", "blocks", "downs", "labels", "channels_in", "channels_out"), size_of),
    "norm": lambda given, option: one_of(get_args(Norm), given, option),
    "upsampling": lambda given, option: one_of(get_args(Upsampling), given, option),
    "dropout": lambda given, option: None if given is None else rate(given, option),
    "kernels": kernels,
    **dict.fromkeys(("share", "hidden"), size_of),
    "slope": at_least_zero,
    **dict.fromkeys(("separable", "spectral", "deep"), flag),
}
"""What users may say of an architecture, where it has that size; all other widths follow from these."""


def sizes_from(kind: type[T], of: Callable[..., T], given: Mapping[str, Any], architecture: str) -> T:
    """What `of` makes of the given sizes; they are parameters of its own or fields of the dataclass `kind`.

    Raises:
        InvalidOption: the architecture has no such size, or it cannot have such a value; the message names those it
            has.
    """
    parameters = {*signature(of).parameters, *(field.name for field in fields(kind))}  # type: ignore[arg-type]
    names = [name for name in CHECKS if name in parameters]
    for name in given:
        if name not in names:
            raise InvalidOption(
                f"The architecture {quoted(architecture)} has no size {quoted(name)}. Its sizes: {', '.join(names)}."
            )
    return of(**{name: CHECKS[name](value, name) for name, value in given.items()})
