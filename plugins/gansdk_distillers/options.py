"""Checks of the options that users give to distillers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from gansdk.errors import InvalidOption

T = TypeVar("T")


def one_of(choices: Sequence[T], given: object, option: str) -> T:
    """`given`, if it is one of the choices.

    Raises:
        InvalidOption: it is not; the message names them.
    """
    for choice in choices:
        if choice == given:
            return choice
    raise InvalidOption(f"{option}={given!r} is not known; choose one of {', '.join(map(repr, choices))}.")


def positive(given: object, option: str) -> float:
    """`given` as a float, if it is a finite number above zero.

    Raises:
        InvalidOption: it is not.
    """
    if isinstance(given, int | float) and not isinstance(given, bool) and 0 < given < math.inf:
        return float(given)
    raise InvalidOption(f"{option}={given!r} must be a finite number above zero; to do without, leave the part out.")


def at_least_zero(given: object, option: str) -> float:
    """`given` as a float, if it is a finite number from zero.

    Raises:
        InvalidOption: it is not.
    """
    if isinstance(given, int | float) and not isinstance(given, bool) and 0 <= given < math.inf:
        return float(given)
    raise InvalidOption(f"{option}={given!r} must be a finite number from zero.")


def count(given: object, option: str, *, least: int = 1) -> int:
    """`given`, if it is a whole number from `least`.

    Raises:
        InvalidOption: it is not.
    """
    if isinstance(given, int) and not isinstance(given, bool) and given >= least:
        return given
    raise InvalidOption(f"{option}={given!r} must be a whole number from {least}.")


def flag(given: object, option: str) -> bool:
    """`given`, if it is True or False: of a command line's words, "False" and "no" are strings, and true.

    Raises:
        InvalidOption: it is not.
    """
    if isinstance(given, bool):
        return given
    raise InvalidOption(f"{option}={given!r} must be true or false.")


def names(given: object, option: str) -> tuple[str, ...]:
    """`given` as a tuple, if it is a list of at least one name and none twice.

    Raises:
        InvalidOption: it is not.
    """
    listed = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if listed and all(isinstance(name, str) for name in listed) and len(set(listed)) == len(listed):
        return listed
    raise InvalidOption(f"{option}={given!r} must be a list of different names, or left out.")
