"""Checks of the options that users give to plugins: what was given, what was expected, by the option's name."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from gansdk.errors import InvalidOption, suggestion
from gansdk.text import quoted
from gansdk.validation.signatures import plain_number

T = TypeVar("T")

_MOST_BITS = 10_000
"""Python prints no number that is much longer."""
LARGEST_SIDE = 2**16
"""Pixels of a side of an image that can be asked for."""


def one_of(choices: Sequence[T], given: object, option: str) -> T:
    """`given`, if it is one of the choices.

    Raises:
        InvalidOption: it is not; the message names them.
    """
    plain = plain_number(given)
    for choice in choices:
        if isinstance(plain, type(choice)) and choice == plain:
            return choice
    named = [choice for choice in choices if isinstance(choice, str)]
    hint = suggestion(given, named) if isinstance(given, str) else ""
    raise InvalidOption(f"{option}={quoted(given)} is not known; choose one of {', '.join(map(repr, choices))}.{hint}")


def positive(given: object, option: str, *, without: str | None = "") -> float:
    """`given` as a float, if it is a finite number above zero.

    `without` is what to give to do without what the option is about: "" for leaving the option out, None if there is no
    doing without.

    Raises:
        InvalidOption: it is not.
    """
    if (number := _number(given)) > 0:
        return number
    advice = "" if without is None else f"; to do without, {f'give {without}' if without else 'leave it out'}"
    raise InvalidOption(f"{option}={quoted(given)} must be a finite number above zero{advice}.")


def at_least_zero(given: object, option: str) -> float:
    """`given` as a float, if it is a finite number from zero.

    Raises:
        InvalidOption: it is not.
    """
    if (number := _number(given)) >= 0:
        return number
    raise InvalidOption(f"{option}={quoted(given)} must be a finite number from zero.")


def share(given: object, option: str) -> float:
    """`given` as a float, if it is a number from 0 to 1.

    Raises:
        InvalidOption: it is not.
    """
    if 0 <= (number := _number(given)) <= 1:
        return number
    raise InvalidOption(f"{option}={quoted(given)} must be a number from 0 to 1.")


def shares(given: object, option: str) -> tuple[float, ...]:
    """`given` as a tuple, if it is a list of at least one number from 0 to 1.

    Raises:
        InvalidOption: it is not.
    """
    listed = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if listed and all(0 <= _number(item) <= 1 for item in listed):
        return tuple(float(item) for item in listed)
    raise InvalidOption(f"{option}={quoted(given)} must be a list of numbers from 0 to 1, as [1, 0.5, 0.25].")


def count(given: Any, option: str, *, least: int = 1) -> int:
    """`given`, if it is an integer >= `least`.

    Raises:
        InvalidOption: it is not.
    """
    if _is_whole(given, least):
        return int(given)
    raise InvalidOption(f"{option}={quoted(given)} must be an integer >= {least}.")


def height_width(given: Any, option: str) -> tuple[int, int]:
    """`given` as (height, width), if it is a side of a square in pixels, or two sides.

    Raises:
        InvalidOption: it is not.
    """
    sides = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given, given)
    if len(sides) == 2 and all(_is_whole(side, 1) and side <= LARGEST_SIDE for side in sides):
        return int(sides[0]), int(sides[1])
    raise InvalidOption(
        f"{option}={quoted(given)} is neither a side in pixels nor (height, width), with sides of 1 to {LARGEST_SIDE}."
    )


def flag(given: object, option: str) -> bool:
    """`given`, if it is True or False: of a command line's words, "False" and "no" are strings, and true.

    Raises:
        InvalidOption: it is not.
    """
    if isinstance(given, bool):
        return given
    raise InvalidOption(f"{option}={quoted(given)} must be true or false.")


def names(given: object, option: str) -> tuple[str, ...]:
    """`given` as a tuple, if it is a list of at least one name and none twice.

    Raises:
        InvalidOption: it is not.
    """
    listed = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if listed and all(isinstance(name, str) for name in listed) and len(set(listed)) == len(listed):
        return listed
    raise InvalidOption(f"{option}={quoted(given)} must be a list of different names, or left out.")


def _number(given: object) -> float:
    """`given` as a float; NaN, which no comparison holds for, where it is no finite number."""
    plain = plain_number(given)
    if isinstance(plain, int | float) and not isinstance(plain, bool) and abs(plain) <= sys.float_info.max:
        return float(plain)
    return math.nan


def _is_whole(given: object, least: int) -> bool:
    plain = plain_number(given)
    if not isinstance(plain, int) or isinstance(plain, bool):
        return False
    return plain >= least and plain.bit_length() <= _MOST_BITS
