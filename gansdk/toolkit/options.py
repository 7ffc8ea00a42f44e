"""Types for the options of plugins, which are checked when a part is made: `weight: Positive = 1.0`.

Beside these, plain types (`bool`, `str`, `Literal["l1", "l2"]`), lists, mappings and unions of them, and whatever
pydantic knows are checked: `Annotated[int, Field(ge=2)]`. `Expected` says how messages call a type that pydantic's
validators describe. The functions below the types check a single value, for plugins that do so by hand.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from gansdk.errors import InvalidOption
from gansdk.text import quoted
from gansdk.validation.signatures import Expected, fit, fitting

__all__ = [
    "AtLeastZero",
    "Count",
    "CountOrZero",
    "Expected",
    "HeightWidth",
    "Names",
    "Positive",
    "Share",
    "Shares",
    "at_least_zero",
    "check",
    "checked",
    "count",
    "flag",
    "height_width",
    "names",
    "one_of",
    "positive",
    "share",
    "shares",
]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

LARGEST_SIDE = 2**16
"""Pixels of a side of an image that can be asked for."""


def _finite(number: float) -> float:
    if not math.isfinite(number) if isinstance(number, float) else abs(number) > sys.float_info.max:
        raise ValueError
    return float(number)


def _two_sides(value: Any) -> Any:
    return value if isinstance(value, Sequence) else (value, value)


def _all_different(names: Sequence[str]) -> tuple[str, ...]:
    if not names or len(set(names)) < len(names):
        raise ValueError
    return tuple(names)


def _at_least_one(numbers: Sequence[float]) -> tuple[float, ...]:
    if not numbers:
        raise ValueError
    return tuple(numbers)


Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[
    float,
    AfterValidator(_finite),
    Field(gt=0),
    Expected("a finite number above zero", otherwise="to do without, leave it out"),
]
"""A float: finite and above zero."""
AtLeastZero = Annotated[float, AfterValidator(_finite), Field(ge=0), Expected("a finite number from zero")]
"""A float: finite and not below zero."""
Share = Annotated[float, AfterValidator(_finite), Field(ge=0, le=1), Expected("a number from 0 to 1")]
Shares = Annotated[
    Sequence[Share],
    AfterValidator(_at_least_one),
    Expected("a list of numbers from 0 to 1, as [1, 0.5, 0.25]"),
]
"""At least one number from 0 to 1, as a tuple."""
Names = Annotated[Sequence[str], AfterValidator(_all_different), Expected("a list of different names")]
"""At least one name, as a tuple."""
_Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
HeightWidth = Annotated[
    tuple[_Side, _Side],
    BeforeValidator(_two_sides),
    Expected(f"a side in pixels or (height, width), with sides of 1 to {LARGEST_SIDE}"),
]
"""(height, width) in pixels; users may also give the side of a square."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A function, or an `__init__`, that holds its arguments against their annotations, and is called with what fits.

    Parts that are opened by name are checked in any case; this checks those that are made in Python.

    Raises:
        InvalidOption: from the function, for an argument of another type or out of bounds.
    """
    call: Callable[..., R] = function
    positional = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        named = dict(zip(positional, args, strict=False))
        fitted = fitting(function, {**named, **kwargs})
        rest = args[len(named) :]
        return call(*(fitted[name] for name in named), *rest, **{name: fitted[name] for name in kwargs})

    return called


def check(type_: Any, value: object, option: str) -> Any:
    """`value` as an annotated type wants it: `check(Share, 0.5, "floor")`. For values that are no parameters.

    Raises:
        InvalidOption: it is of another type, or out of bounds.
    """
    return fit(type_, value, option)


def one_of(choices: Sequence[T], given: object, option: str) -> T:
    """`given`, if it is one of the choices; for choices that are known only when the program runs.

    Raises:
        InvalidOption: it is not; the message names them.
    """
    if not choices:
        raise InvalidOption(f"{option}={quoted(given)} cannot be chosen: there is nothing to choose from.")
    found: T = check(Literal[tuple(choices)], given, option)
    return found


def positive(given: object, option: str, *, without: str | None = "") -> float:
    """`given` as a float, if it is `Positive`.

    `without` is what to give to do without what the option is about: "" for leaving the option out, None if there is no
    doing without.

    Raises:
        InvalidOption: it is not.
    """
    otherwise = "" if without is None else f"to do without, {f'give {without}' if without else 'leave it out'}"
    return float(check(Annotated[Positive, Expected("a finite number above zero", otherwise)], given, option))


def at_least_zero(given: object, option: str) -> float:
    """`given` as a float, if it is `AtLeastZero`.

    Raises:
        InvalidOption: it is not.
    """
    return float(check(AtLeastZero, given, option))


def share(given: object, option: str) -> float:
    """`given` as a float, if it is a `Share`.

    Raises:
        InvalidOption: it is not.
    """
    return float(check(Share, given, option))


def shares(given: object, option: str) -> tuple[float, ...]:
    """`given` as a tuple, if it is `Shares`.

    Raises:
        InvalidOption: it is not.
    """
    return tuple(check(Shares, given, option))


def names(given: object, option: str) -> tuple[str, ...]:
    """`given` as a tuple, if it is `Names`.

    Raises:
        InvalidOption: it is not.
    """
    return tuple(check(Names, given, option))


def count(given: object, option: str, *, least: int = 1) -> int:
    """`given`, if it is an integer >= `least`.

    Raises:
        InvalidOption: it is not.
    """
    return int(check(Annotated[int, Field(ge=least)], given, option))


def height_width(given: object, option: str) -> tuple[int, int]:
    """`given` as (height, width), if it is `HeightWidth`.

    Raises:
        InvalidOption: it is not.
    """
    height, width = check(HeightWidth, given, option)
    return height, width


def flag(given: object, option: str) -> bool:
    """`given`, if it is True or False: of a command line's words, "False" and "no" are strings, and true.

    Raises:
        InvalidOption: it is not.
    """
    return bool(check(bool, given, option))
