"""Values are held against what a signature states for them, where that is plain."""

import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from gansdk.errors import DataError, InvalidOption
from gansdk.testing import hostile
from gansdk.text import quoted
from gansdk.validation.signatures import fitting

if TYPE_CHECKING:
    from elsewhere import Unknown


class Way(enum.Enum):
    UP = "up"


def factory(
    count: int = 1,
    rate: "float" = 0.5,
    flag: bool = False,
    text: str = "",
    place: "str | Path | None" = None,
    way: Literal["up", "down", 3] = "up",
    counts: "Sequence[int]" = (),
    pair: tuple[int, int] = (1, 1),
    named: "Mapping[str, int] | None" = None,
    call: "Callable[[int], int] | None" = None,
    implicit: int = None,  # noqa: RUF013 - as many write it
    unknown: "Unknown | None" = None,
    coerced: Way = Way.UP,
    anything: Any = None,
    bare=None,
    **others: int,
) -> None: ...


FITS = {
    "count": [(3, 3), (np.int64(3), 3)],
    "rate": [(1, 1), (0.5, 0.5), (np.float32(0.5), 0.5)],
    "flag": [(True, True)],
    "text": [("a", "a")],
    "place": [("a", "a"), (Path("a"), Path("a")), (None, None)],
    "way": [("down", "down"), (3, 3)],
    "counts": [([1, np.int32(2)], [1, 2]), ((1,), (1,))],
    "pair": [([1, 2], (1, 2))],
    "named": [({"a": np.int64(1)}, {"a": 1}), (None, None)],
    "call": [(len, len), (None, None)],
    "implicit": [(None, None), (2, 2)],
    "unknown": [(object, object)],
    "coerced": [("up", "up")],
    "anything": [({1: 2}, {1: 2})],
    "bare": [({1}, {1})],
}
MISFITS = {
    "count": (1.5, True, "1", None, np.bool_(True), [1]),
    "rate": ("0.5", True, None, 1j),
    "flag": (0, 1, "yes", None),
    "text": (3, b"a", Path("a"), None),
    "place": (3, [], b"a"),
    "way": ("left", True, None, []),
    "counts": ("12", 1, [1.5], {1}, b"12", [None]),
    "pair": ([1], [1, 2, 3], "12", [1, "2"]),
    "named": ([], {1: 1}, {"a": "b"}),
    "call": ("len", 3),
}


@pytest.mark.parametrize("name", FITS)
def test_a_value_that_fits_comes_back_in_pythons_own_types(name):
    for given, expected in FITS[name]:
        fitted = fitting(factory, {name: given})[name]
        assert fitted == expected
        assert type(fitted) is type(expected)


@pytest.mark.parametrize("name", MISFITS)
def test_a_value_of_another_type_is_refused_by_name(name):
    for given in MISFITS[name]:
        with pytest.raises(
            InvalidOption, match=rf"^The part 'x': {name}=.* (must be .*\.|is not known; choose one of .*)$"
        ):
            fitting(factory, {name: given}, whose="The part 'x'")


@pytest.mark.parametrize("value", hostile.VALUES)
def test_no_value_does_more_than_fit_or_be_refused(value):
    for name in FITS:
        words = hostile.told(lambda name=name: fitting(factory, {name: hostile.VALUES[value]()}))
        assert not words or words.startswith(f"{name}=")


@dataclass(frozen=True, slots=True)
class Sizes:
    width: int
    deep: bool = False


class Callable_:
    def __call__(self, width: int) -> None: ...


@pytest.mark.parametrize("made", [Sizes, functools.partial(Sizes, deep=True), Callable_()])
def test_classes_partial_functions_and_callable_objects_state_types_too(made):
    assert fitting(made, {"width": np.int64(3)}) == {"width": 3}
    with pytest.raises(DataError, match="width='3' must be an integer"):
        fitting(made, {"width": "3"}, error=DataError)


def test_what_has_no_signature_takes_anything():
    assert fitting(dict, {"a": 1}) == {"a": 1}
    assert fitting(len, {"obj": 1}) == {"obj": 1}


def test_a_quoted_value_is_short_and_in_one_line():
    assert quoted("a\nb") == r"'a\nb'"
    assert quoted([1, "x"]) == "[1, 'x']"
    for make in hostile.VALUES.values():
        assert len(quoted(make())) < 500
        assert "\n" not in quoted(make())
