"""The checks of options that plugins use: what they take, and that they refuse everything else by the option's name."""

import math

import pytest

from gansdk.errors import InvalidOption
from gansdk.toolkit import options

NO_NUMBERS = ("x", None, True, [1], math.nan, math.inf, -math.inf, 10**400, 1 + 1j)
TAKEN = [
    (options.positive, (0.5, 3), (0, -1, *NO_NUMBERS)),
    (options.at_least_zero, (0, 0.5), (-1e-9, *NO_NUMBERS)),
    (options.share, (0, 0.5, 1), (-0.1, 1.1, *NO_NUMBERS)),
    (options.count, (1, 10**400), (0, -1, 1.0, "1", None, True)),
    (options.height_width, ((4, 6),), ([64], [64, 64, 3], "64x64", [64, "64"], [0, 4], 0, -1, 1.5, None, True)),
    (options.flag, (True, False), (0, 1, "False", None)),
    (options.shares, ((1, 0.5), (0.0,)), ([], 0.5, "half", ["half"], [math.nan], [True], [1.1], None)),
    (options.names, (("a", "b"),), ([], "a", ["a", "a"], [1], None)),
]


@pytest.mark.parametrize(("check", "good", "bad"), TAKEN, ids=[check.__name__ for check, *_ in TAKEN])
def test_an_option_is_given_back_or_refused_by_name(check, good, bad):
    for given in good:
        assert check(given, "an_option") == given
    for given in bad:
        with pytest.raises(InvalidOption, match=r"^an_option="):
            check(given, "an_option")


def test_one_side_is_a_square():
    assert options.height_width(64, "size") == (64, 64)
    assert options.height_width([64, 32], "size") == (64, 32)


def test_choices_and_least_counts_are_named():
    assert options.one_of(("a", "b"), "b", "x") == "b"
    with pytest.raises(InvalidOption, match="x='c' is not known; choose one of 'a', 'b'"):
        options.one_of(("a", "b"), "c", "x")
    with pytest.raises(InvalidOption, match=r"choose one of 'db3', 'haar', 4\. Did you mean 'haar'\?$"):
        options.one_of(("db3", "haar", 4), "harr", "x")
    assert options.count(0, "x", least=0) == 0
    with pytest.raises(InvalidOption, match="whole number from 2"):
        options.count(1, "x", least=2)
