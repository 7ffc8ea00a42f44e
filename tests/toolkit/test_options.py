"""The checks of options that plugins use: what they take, and that they refuse everything else by the option's name."""

import math

import numpy as np
import pytest
import torch

from gansdk.errors import InvalidOption
from gansdk.recipe import Recipe, check_bounds
from gansdk.testing import hostile
from gansdk.toolkit import options
from gansdk.validation.json_fields import read_json

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
    with pytest.raises(InvalidOption, match="integer >= 2"):
        options.count(1, "x", least=2)


def test_numbers_of_numpy_are_numbers_and_come_back_as_pythons():
    assert type(options.count(np.int64(3), "x")) is int
    assert options.positive(np.float32(0.5), "x") == 0.5
    assert options.height_width([np.int64(4), 6], "x") == (4, 6)
    assert options.one_of((2, 4), np.int32(4), "x") == 4
    with pytest.raises(InvalidOption, match=r"x=.*True.* must be an integer"):
        options.count(np.bool_(True), "x")


CHECKS = (
    options.positive,
    options.share,
    options.count,
    options.height_width,
    options.flag,
    options.names,
    options.shares,
    lambda given, option: options.one_of(("a", "b"), given, option),
)


@pytest.mark.parametrize("value", hostile.VALUES)
@pytest.mark.parametrize("check", CHECKS)
def test_no_value_gives_anything_but_itself_or_a_short_refusal(check, value):
    words = hostile.told(lambda: check(hostile.VALUES[value](), "an_option"))
    assert not words or words.startswith("an_option=")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' twice"),
        ('"' + "n" * 2**20 + '"', "characters"),
    ],
)
def test_json_that_is_too_deep_too_long_or_says_two_things_is_refused(text, says):
    with pytest.raises(InvalidOption, match=says) as refused:
        read_json(text)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("text", ["{", "NaN", "[Infinity]", "1" * 5000])
def test_what_is_no_json_is_none(text):
    with pytest.raises(ValueError, match=r"JSON|Expecting|digits"):
        read_json(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 2**64), ("seed", -1), ("steps", 2**70), ("batch_size", 2**70), ("patch", 10**400)]
    + [("learning_rate", value) for value in (0, math.nan, math.inf, 10**400)],
)
def test_numbers_that_nothing_can_be_done_with_are_refused_with_their_range(name, value):
    with pytest.raises(InvalidOption, match=rf"^{name}=.* must be (an integer from \d+ to \d+|a number > 0)"):
        check_bounds(Recipe, {name: value})


def test_every_seed_of_64_bits_is_one():
    check_bounds(Recipe, {"seed": 2**64 - 1})
    torch.Generator().manual_seed(2**64 - 1)
